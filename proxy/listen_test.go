package proxy_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/proxy"
)

// listener fails as often as it is told to, and then hands out connections, and ends.
type listener struct {
	failures int
	conns    int
	accepts  atomic.Int64
	closed   chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	n := int(l.accepts.Add(1))
	switch {
	case n <= l.failures:
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	case n <= l.failures+l.conns:
		near, far := net.Pipe()
		_ = far.Close()
		return near, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *listener) Close() error   { close(l.closed); return nil }
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

// Trap 51: a process without a free descriptor waits, longer each time, and serves again when there is one.
func TestAcceptGoesOnAfterRunningOutOfDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &listener{failures: 12, conns: 3, closed: make(chan struct{})}
		var handled []time.Duration
		began := time.Now()
		done := make(chan error)
		go func() {
			done <- proxy.Accept(t.Context(), l, slog.New(slog.DiscardHandler), func(c net.Conn) {
				_ = c.Close()
				handled = append(handled, time.Since(began))
			})
		}()
		synctest.Wait()
		if n := l.accepts.Load(); n != 1 {
			t.Errorf("%d calls of Accept without a pause", n)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(handled) != 3 {
			t.Fatalf("%d connections after ten seconds, want 3", len(handled))
		}
		// 5 + 10 + 20 + … + 640 ms, then a second each
		if want := 1275*time.Millisecond + 4*time.Second; handled[0] != want {
			t.Errorf("the first connection came after %v of pauses, want %v", handled[0], want)
		}
		_ = l.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept returned %v", err)
		}
	})
}

func TestAPauseOfAcceptEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- proxy.Accept(ctx, &listener{failures: 1 << 30}, slog.New(slog.DiscardHandler), nil)
		}()
		time.Sleep(time.Minute)
		cancel()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept returned %v", err)
		}
	})
}

func TestListenHandsKeepAliveDown(t *testing.T) {
	l, err := proxy.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var on int
	if err := raw.Control(func(fd uintptr) {
		on, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil || on == 0 {
		t.Errorf("SO_KEEPALIVE of an accepted connection is %d, %v", on, err)
	}
}
