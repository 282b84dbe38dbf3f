package proxy

import (
	"time"

	"golang.org/x/sys/unix"
)

// keepAlive has the other side asked, when it has been silent for two fifths of gone, three times until gone has passed; the same bounds
// for how long what it was sent may stay unconfirmed.
func keepAlive(fd int, gone time.Duration) error {
	if gone <= 0 {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	}
	part := max(1, int(gone/time.Second)/5)
	for _, option := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 2 * part},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, part},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(gone.Milliseconds())},
	} {
		if err := unix.SetsockoptInt(fd, option.level, option.name, option.value); err != nil {
			return err
		}
	}
	return nil
}
