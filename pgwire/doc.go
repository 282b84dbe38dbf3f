// Package pgwire knows the frames of PostgreSQL's protocol 3 without decoding what they carry (PostgreSQL manual,
// "Frontend/Backend Protocol"): one byte of type, four of length, a body. The Append functions build the few messages
// that a proxy says itself.
package pgwire
