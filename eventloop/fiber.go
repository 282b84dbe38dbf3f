package eventloop

import (
	"errors"
	"iter"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Fiber runs straight-line code on a loop: where the code would have to wait, it gives the loop back to the others and goes
// on later. It is for what happens once in a connection's life, such as a login. Fibers are coroutines (iter.Pull) that are
// reused, so that their stacks, grown once, are there for the next.
//
// Code on a fiber must not block in any other way: no channels, no sleeping, no locks that are held for long. What must
// block goes through [Fiber.Await].
type Fiber struct {
	loop   *Loop
	job    func(*Fiber)
	resume func() (struct{}, bool)
	stop   func()
	yield  func(struct{}) bool
}

// Go runs job on a fiber of l, at once, until it first has to wait. On l's goroutine only.
func (l *Loop) Go(job func(*Fiber)) {
	var f *Fiber
	if n := len(l.fibers); n > 0 {
		f, l.fibers = l.fibers[n-1], l.fibers[:n-1]
	} else {
		f = &Fiber{loop: l}
		f.resume, f.stop = iter.Pull(f.run)
	}
	f.job = job
	f.resume()
}

// run is the coroutine: one job after the other.
func (f *Fiber) run(yield func(struct{}) bool) {
	f.yield = yield
	for {
		f.job(f)
		f.job = nil
		f.loop.fibers = append(f.loop.fibers, f)
		if !yield(struct{}{}) {
			return
		}
	}
}

// Loop is where f runs.
func (f *Fiber) Loop() *Loop { return f.loop }

// Await runs block, which may block, on a goroutine of its own and returns when it has returned.
func (f *Fiber) Await(block func()) {
	go func() {
		block()
		f.loop.Post(TaskFunc(func() { f.resume() }))
	}()
	f.yield(struct{}{})
}

// Stream is a net.Conn for code on a fiber: reads and writes that would block let the loop go on. It belongs to one fiber,
// except for Interrupt.
type Stream struct {
	conn    Conn
	fiber   *Fiber
	timer   Timer
	gone    func() // see OnGone
	waiting bool
	expired bool // the deadline has passed
}

// NewStream makes fd, which must be non-blocking, the fiber's own.
func NewStream(f *Fiber, fd int) (*Stream, error) {
	s := &Stream{fiber: f}
	if err := s.conn.Attach(f.loop, fd, nil, s); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return s, nil
}

// Release gives the socket up, open, to whoever continues with it.
func (s *Stream) Release() (fd int) {
	s.fiber.loop.Disarm(&s.timer)
	return s.conn.release()
}

// GiveTo makes the socket c's, on the same loop. It is Release and [Conn.Attach] without a system call. On the fiber only.
func (s *Stream) GiveTo(c *Conn, secure *Secure, h Handler) {
	s.fiber.loop.Disarm(&s.timer)
	c.succeed(&s.conn, secure, h)
}

// Ready is called when a wait may be over.
func (s *Stream) Ready(_ *Loop, e Events) {
	s.conn.Note(e)
	s.tellGone()
	s.wake()
}

// OnGone has f called, on the loop, when the peer has closed its side, be it now; nil: no longer. While the fiber is in
// [Fiber.Await] it would not notice otherwise.
func (s *Stream) OnGone(f func()) {
	s.gone = f
	s.tellGone()
}

func (s *Stream) tellGone() {
	if s.gone != nil && s.conn.Gone() {
		s.gone()
	}
}

// Run is called when the deadline has passed.
func (s *Stream) Run() {
	s.expired = true
	s.wake()
}

// Fault closes the socket, when what is done on the fiber has panicked. The fiber is no more.
func (s *Stream) Fault() { _ = s.Close() }

func (s *Stream) wake() {
	if s.waiting {
		s.waiting = false
		s.fiber.resume()
	}
}

// Interrupt makes waits fail as if the deadline had passed. Safe for any goroutine; for one that has been closed or released
// it does nothing.
func (s *Stream) Interrupt() { s.fiber.loop.Post(s) }

// wait lets the loop go on until something has happened.
func (s *Stream) wait() error {
	if s.expired {
		return os.ErrDeadlineExceeded
	}
	s.waiting = true
	s.fiber.yield(struct{}{})
	return nil
}

// Read reads what is there, or waits. Errors: io.EOF, os.ErrDeadlineExceeded, net.ErrClosed, or the socket's own.
func (s *Stream) Read(p []byte) (int, error) {
	for {
		if !s.conn.Open() {
			return 0, net.ErrClosed
		}
		if s.conn.Readable() {
			n, err := s.conn.rawRead(p)
			if !errors.Is(err, ErrAgain) {
				return n, err
			}
		}
		if err := s.wait(); err != nil {
			return 0, err
		}
	}
}

// Write writes all of p. Errors as for Read.
func (s *Stream) Write(p []byte) (written int, err error) {
	for {
		if !s.conn.Open() {
			return written, net.ErrClosed
		}
		n, err := s.conn.rawWrite(p[written:])
		written += n
		if !errors.Is(err, ErrAgain) {
			return written, err
		}
		if err := s.wait(); err != nil {
			return written, err
		}
	}
}

// Close closes the socket.
func (s *Stream) Close() error {
	s.fiber.loop.Disarm(&s.timer)
	s.conn.Close()
	return nil
}

// CloseWrite tells the peer that nothing more will come.
func (s *Stream) CloseWrite() error {
	if s.conn.Open() {
		s.conn.CloseWrite()
	}
	return nil
}

// LocalAddr is not known.
func (s *Stream) LocalAddr() net.Addr { return nil }

// RemoteAddr asks the kernel for the peer's address; nil when it does not tell.
func (s *Stream) RemoteAddr() net.Addr {
	return s.conn.RemoteAddr()
}

// SetDeadline sets when reads and writes stop waiting; the zero time is never.
func (s *Stream) SetDeadline(t time.Time) error {
	s.expired = false
	if t.IsZero() {
		s.fiber.loop.Disarm(&s.timer)
	} else {
		s.fiber.loop.Arm(&s.timer, time.Until(t), s)
	}
	return nil
}

// SetReadDeadline is SetDeadline: there is one for both.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.SetDeadline(t) }

// SetWriteDeadline is SetDeadline: there is one for both.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.SetDeadline(t) }
