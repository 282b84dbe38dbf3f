package eventloop

import (
	"time"

	"golang.org/x/sys/unix"
)

// SetUserTimeout bounds how long what was sent may stay unconfirmed, or untaken by a peer that is there: the system does not tell those
// apart. 0: as long as the system has it. It returns what held before.
func (c *Conn) SetUserTimeout(d time.Duration) (before time.Duration) {
	if !c.Open() {
		return 0
	}
	was, err := unix.GetsockoptInt(int(c.fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	if err == nil { // a Unix socket has none: its peer is on this machine
		_ = unix.SetsockoptInt(int(c.fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	}
	return time.Duration(was) * time.Millisecond
}
