// Package house keeps the rules of the house that a compiler does not know: which package may import which, and that no
// dependency comes in without its reason written down. It has tests only.
package house
