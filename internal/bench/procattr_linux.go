package main

import "syscall"

// attributes puts a child into a process group of its own, so that Ctrl-C reaches only this program, which then stops
// its children in order; sig is what the kernel sends the child should this program die without doing so.
func attributes(cred *syscall.Credential, sig syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Setpgid: true, Pdeathsig: sig}
}
