//go:build !linux

package proxy

import "golang.org/x/sys/unix"

func keepAlive(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1) }
