package eventloop_test

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/internal/pgtest"
)

// listen has g accept and hand each connection to a fiber.
func listen(t *testing.T, g *eventloop.Group, serve func(*eventloop.Fiber, *eventloop.Stream)) (l *eventloop.Listener, addr string, running *sync.WaitGroup) {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	running = new(sync.WaitGroup)
	l, err = g.Listen(tcp, func(loop *eventloop.Loop, fd int) {
		running.Add(1)
		loop.Go(func(f *eventloop.Fiber) {
			defer running.Done()
			s, err := eventloop.NewStream(f, fd)
			if err != nil {
				t.Error(err)
				return
			}
			serve(f, s)
		})
	}, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return l, tcp.Addr().String(), running
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func TestEveryConnectionIsAcceptedOnce(t *testing.T) {
	pgtest.NoLeaks(t)
	var accepted atomic.Int64
	_, addr, _ := listen(t, group(t, 3), func(_ *eventloop.Fiber, s *eventloop.Stream) {
		accepted.Add(1)
		_, _ = io.Copy(s, s)
		_ = s.Close()
	})
	var clients sync.WaitGroup
	for range 10 {
		clients.Go(func() {
			for i := range 50 {
				if err := oneConversation(addr, uint64(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	clients.Wait()
	if n := accepted.Load(); n < 400 || n > 500 { // one that was reset at once may never have been there
		t.Errorf("%d of 500 connections were accepted", n)
	}
}

func TestClosingAListenerFreesThePort(t *testing.T) {
	pgtest.NoLeaks(t)
	g := group(t, 2)
	l, addr, _ := listen(t, g, func(_ *eventloop.Fiber, s *eventloop.Stream) { _ = s.Close() })
	_ = dial(t, addr)
	l.Close()
	l.Close()
	<-l.Done()
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("it still accepts")
	}
	again, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
}

// Closing must not leave a connection behind that was accepted in the same moment.
func TestClosingAListenerAmongConnections(t *testing.T) {
	pgtest.NoLeaks(t)
	for range 20 {
		g := group(t, 3)
		l, addr, running := listen(t, g, func(_ *eventloop.Fiber, s *eventloop.Stream) {
			_, _ = io.Copy(s, s)
			_ = s.Close()
		})
		var clients sync.WaitGroup
		for range 5 {
			clients.Go(func() {
				for {
					conn, err := net.Dial("tcp", addr)
					if err != nil {
						return
					}
					_ = conn.Close()
				}
			})
		}
		time.Sleep(2 * time.Millisecond) // any moment will do
		l.Close()
		clients.Wait()
		running.Wait()
	}
}

func TestOnlyTCPIsListenedOn(t *testing.T) {
	pgtest.NoLeaks(t)
	g := group(t, 1)
	near, _ := net.Pipe()
	defer near.Close()
	if _, err := g.Listen(&oneListener{near}, nil, nil); err == nil {
		t.Error("a listener without a descriptor is taken")
	}
}

type oneListener struct{ net.Conn }

func (l *oneListener) Accept() (net.Conn, error) { return l.Conn, nil }
func (l *oneListener) Addr() net.Addr            { return l.LocalAddr() }
