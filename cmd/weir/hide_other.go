//go:build !unix

package main

// overwrite does nothing where the arguments are copies.
func overwrite(string, int, int) {}
