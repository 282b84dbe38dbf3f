//go:build !linux

package proxy

import (
	"time"

	"golang.org/x/sys/unix"
)

func keepAlive(fd int, _ time.Duration) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
}
