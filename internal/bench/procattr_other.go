//go:build unix && !linux

package main

import "syscall"

// attributes puts a child into a process group of its own, so that Ctrl-C reaches only this program, which then stops
// its children in order.
func attributes(cred *syscall.Credential, _ syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Setpgid: true}
}
