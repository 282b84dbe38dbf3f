package proxy

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listen listens on a TCP address. Sockets accepted from it have TCP_NODELAY set, and end when the other side has confirmed nothing for
// gone, neither data nor that it is there; 0: as the system has it. All is set on the listener, from which Linux and the BSDs
// hand it down, so that it costs accepted connections nothing. That is before it listens: a connection has what held when the
// kernel completed it, which may be before Serve.
func Listen(ctx context.Context, address string, gone time.Duration) (net.Listener, error) {
	lc := net.ListenConfig{
		KeepAlive: -1, // not per connection
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			if e := c.Control(func(fd uintptr) {
				err = errors.Join(keepAlive(int(fd), gone), unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
			}); e != nil {
				return e
			}
			return err
		},
	}
	return lc.Listen(ctx, "tcp", address)
}
