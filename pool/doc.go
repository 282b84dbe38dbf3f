// Package pool keeps connections to a PostgreSQL server and lends them, one borrower at a time.
//
// A [Budget] bounds all connections to one resource: idle, lent, being dialled and being closed. Within it a [Pool] holds
// those of one server user. [Pool.Acquire] answers at once, with a connection or with a place in the queue; whoever
// waits is told through a task on its own event loop, so nothing here ever blocks one.
//
// The stations of a [Server]: dial.go opens it, shelf.go lends and takes it back, reset.go cleans up behind a borrower
// that left in the middle, retire.go closes it and counts it until the server has closed its end, too,
// for as long as held.go believes that. One of own.go is dialled
// for one borrower, and closed behind it. timeouts.go keeps what one borrower has set from ending what is said for the next.
package pool
