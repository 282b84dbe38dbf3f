package pgtest

import (
	"errors"
	"syscall"
	"testing"
)

// Control calls f with the file descriptor of a listener or connection of package net, which stays its owner.
func Control(tb testing.TB, socket any, f func(fd int) error) {
	tb.Helper()
	owner, ok := socket.(syscall.Conn)
	if !ok {
		tb.Fatalf("%T has no file descriptor", socket)
	}
	raw, err := owner.SyscallConn()
	if err != nil {
		tb.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = f(int(fd)) })
	if err := errors.Join(err, failed); err != nil {
		tb.Fatal(err)
	}
}
