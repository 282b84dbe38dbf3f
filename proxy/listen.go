package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Accepting goes on after an error: a process that is out of file descriptors keeps serving those who are connected.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// Listen listens on a TCP address. Sockets accepted from it have TCP_NODELAY set and keep-alive on (15 s, then 3 probes 5 s
// apart); both are set on the listener, from which Linux and the BSDs hand them down, so that it costs accepted connections
// nothing. That is before it listens: a connection has what held when the kernel completed it, which may be before Serve.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{
		KeepAlive: -1, // not per connection
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			if e := c.Control(func(fd uintptr) {
				err = errors.Join(keepAlive(int(fd)), unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
			}); e != nil {
				return e
			}
			return err
		},
	}
	return lc.Listen(ctx, "tcp", address)
}

// Accept hands each connection to handle until l is closed, which it returns as net.ErrClosed. handle must not block.
// Other errors, such as running out of file descriptors, are logged and retried with growing pauses.
func Accept(ctx context.Context, l net.Listener, log *slog.Logger, handle func(net.Conn)) error {
	pause := firstPause
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			pause = firstPause
			handle(conn)
			continue
		case errors.Is(err, net.ErrClosed), ctx.Err() != nil:
			return net.ErrClosed
		}
		log.Error("accept a connection", "error", err, "next_try_in", pause)
		select {
		case <-ctx.Done():
			return net.ErrClosed
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}
