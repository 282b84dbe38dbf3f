package eventloop_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/internal/pgtest"
)

func TestFibersEchoBothWays(t *testing.T) {
	for name, config := range map[string]*tls.Config{"plain": nil, "TLS": config(t)} {
		t.Run(name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			_, addr, _ := listen(t, group(t, 2), func(_ *eventloop.Fiber, s *eventloop.Stream) {
				defer s.Close()
				var conn net.Conn = s
				if config != nil {
					conn = tls.Server(s, config)
				}
				_, _ = io.Copy(conn, conn)
			})
			var clients sync.WaitGroup
			for range 6 {
				clients.Go(func() {
					conn := dial(t, addr)
					if config != nil {
						conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
					}
					const size = 4 << 20
					sent, received := sha256.New(), sha256.New()
					var writing sync.WaitGroup
					writing.Go(func() { writeRandom(t, conn, size, sent) })
					if _, err := io.CopyN(received, conn, size); err != nil {
						t.Error(err)
					}
					writing.Wait()
					if !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
						t.Error("what came back is not what was sent")
					}
					_ = conn.Close()
				})
			}
			clients.Wait()
		})
	}
}

func TestAStreamStopsWaitingAtItsDeadline(t *testing.T) {
	pgtest.NoLeaks(t)
	results := make(chan error, 3)
	_, addr, _ := listen(t, group(t, 1), func(_ *eventloop.Fiber, s *eventloop.Stream) {
		defer s.Close()
		began := time.Now()
		_ = s.SetDeadline(began.Add(50 * time.Millisecond))
		buf := make([]byte, 1)
		_, err := s.Read(buf)
		if took := time.Since(began); took < 50*time.Millisecond {
			t.Errorf("it stopped after %v", took)
		}
		results <- err
		_, err = s.Read(buf) // and goes on failing
		results <- err
		_ = s.SetDeadline(time.Time{})
		_, err = s.Read(buf) // until there is a new one
		results <- err
	})
	conn := dial(t, addr)
	for range 2 {
		if err := <-results; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read returned %v", err)
		}
	}
	_, _ = conn.Write([]byte("x"))
	if err := <-results; err != nil {
		t.Errorf("Read returned %v without a deadline", err)
	}
}

func TestWritingStopsAtTheDeadline(t *testing.T) {
	pgtest.NoLeaks(t)
	result := make(chan error, 1)
	_, addr, _ := listen(t, group(t, 1), func(_ *eventloop.Fiber, s *eventloop.Stream) {
		defer s.Close()
		_ = s.SetDeadline(time.Now().Add(50 * time.Millisecond))
		var err error
		for err == nil {
			_, err = s.Write(make([]byte, 1<<20))
		}
		result <- err
	})
	dial(t, addr) // which reads nothing
	if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write returned %v", err)
	}
}

func TestAStreamIsInterruptedFromElsewhere(t *testing.T) {
	pgtest.NoLeaks(t)
	streams, result := make(chan *eventloop.Stream, 1), make(chan error, 1)
	_, addr, _ := listen(t, group(t, 1), func(_ *eventloop.Fiber, s *eventloop.Stream) {
		streams <- s
		_, err := s.Read(make([]byte, 1))
		_ = s.Close()
		result <- err
	})
	dial(t, addr)
	s := <-streams
	s.Interrupt()
	if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read returned %v", err)
	}
	s.Interrupt() // too late: nothing happens
}

// What blocks is awaited; meanwhile the loop serves others.
func TestAFiberAwaitsWhatBlocks(t *testing.T) {
	pgtest.NoLeaks(t)
	goOn := make(chan struct{})
	_, addr, _ := listen(t, group(t, 1), func(f *eventloop.Fiber, s *eventloop.Stream) {
		defer s.Close()
		buf := make([]byte, 1)
		if _, err := s.Read(buf); err != nil {
			t.Error(err)
			return
		}
		switch buf[0] {
		case 'w':
			f.Await(func() { <-goOn })
		case 'g':
			close(goOn)
		}
		_, _ = s.Write(buf)
	})
	waiting, other := dial(t, addr), dial(t, addr)
	_, _ = waiting.Write([]byte("w"))
	_, _ = other.Write([]byte("g"))
	for _, conn := range []net.Conn{other, waiting} {
		if got, err := io.ReadAll(conn); err != nil || len(got) != 1 {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

// A socket leaves a fiber for a loop of another group without losing what has come meanwhile.
func TestAStreamIsReleasedToAnotherLoop(t *testing.T) {
	pgtest.NoLeaks(t)
	inside := group(t, 2)
	leaveForEcho(t, func(t *testing.T, _ *eventloop.Loop, s *eventloop.Stream) {
		fd := s.Release()
		e := &echo{group: inside, closed: make(chan struct{})}
		loop := inside.Next()
		e.owner.Store(loop)
		loop.Post(eventloop.TaskFunc(func() {
			if err := e.conn.Attach(loop, fd, nil, e); err != nil {
				t.Error(err)
				return
			}
			e.advance(loop)
		}))
	})
}

// Or it leaves the fiber for another owner on the same loop.
func TestAStreamIsGivenAwayOnItsLoop(t *testing.T) {
	pgtest.NoLeaks(t)
	leaveForEcho(t, func(t *testing.T, loop *eventloop.Loop, s *eventloop.Stream) {
		e := &echo{closed: make(chan struct{})}
		e.owner.Store(loop)
		_ = s.SetDeadline(time.Now().Add(time.Millisecond)) // for the stream, not for whom it is given to
		s.GiveTo(&e.conn, nil, e)
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("reading what was given away: %v", err)
		}
		e.advance(loop)
	})
}

// leaveForEcho has clients say hello to a fiber, which lets leave hand its socket to an echo, and then more.
func leaveForEcho(t *testing.T, leave func(*testing.T, *eventloop.Loop, *eventloop.Stream)) {
	t.Helper()
	_, addr, _ := listen(t, group(t, 2), func(f *eventloop.Fiber, s *eventloop.Stream) {
		buf := make([]byte, 5)
		if _, err := io.ReadFull(s, buf); err != nil {
			t.Error(err)
			return
		}
		_, _ = s.Write([]byte("in"))
		leave(t, f.Loop(), s)
	})
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 50 {
				conn := dial(t, addr)
				_, _ = conn.Write([]byte("helloearly"))
				answer := make([]byte, len("inearly"))
				if _, err := io.ReadFull(conn, answer); err != nil {
					t.Error(err)
				}
				_, _ = conn.Write([]byte("late"))
				_ = conn.(*net.TCPConn).CloseWrite()
				if got, err := io.ReadAll(conn); err != nil || string(answer)+string(got) != "inearlylate" {
					t.Errorf("got %q, %v", got, err)
					return
				}
				_ = conn.Close()
			}
		})
	}
	clients.Wait()
}

// Fibers are reused: a thousand jobs, one after the other, need no more than one.
func TestFibersAreReused(t *testing.T) {
	pgtest.NoLeaks(t)
	l := group(t, 1).Loops()[0]
	done := make(chan map[*eventloop.Fiber]bool)
	seen := map[*eventloop.Fiber]bool{}
	l.Post(eventloop.TaskFunc(func() {
		for range 1000 {
			l.Go(func(f *eventloop.Fiber) { seen[f] = true })
		}
		done <- seen
	}))
	if got := <-done; len(got) != 1 {
		t.Errorf("%d fibers were made, want 1", len(got))
	}
}
