package eventloop

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Secure carries a TLS connection from an ordinary goroutine, where its handshake is done, to a loop.
//
// It is the net.Conn that crypto/tls reads and writes. Until the socket is attached to a loop it passes everything to the
// original net.Conn. From then on a read that would wait returns a temporary error, which leaves crypto/tls able to go on
// with the same record later (tls.Conn remembers only permanent ones), and a write always succeeds: what the socket has
// no room for is kept and flushed before anything more is encrypted, so that it is bounded by one write.
type Secure struct {
	net.Conn // nil once attached

	tls     *tls.Conn
	conn    *Conn
	remote  net.Addr
	drained bool   // the last read emptied the socket
	out     []byte // encrypted, not yet written
}

// NewSecure wraps c for tls.Server or tls.Client.
func NewSecure(c net.Conn) *Secure { return &Secure{Conn: c} }

// Detach gives up the net.Conn that the handshake ran over and keeps t for the loop. remote is what RemoteAddr says from
// then on. The socket of the net.Conn is the caller's to take.
func (s *Secure) Detach(t *tls.Conn, remote net.Addr) {
	s.tls, s.remote, s.Conn = t, remote, nil
}

// RemoteAddr is the peer's address, before and after Detach.
func (s *Secure) RemoteAddr() net.Addr {
	if s.Conn != nil {
		return s.Conn.RemoteAddr()
	}
	return s.remote
}

var errWouldBlock net.Error = wouldBlock{}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "would block" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

// Read is for crypto/tls.
func (s *Secure) Read(p []byte) (int, error) {
	if s.conn == nil {
		return s.Conn.Read(p)
	}
	if s.drained && !s.conn.hangup {
		return 0, errWouldBlock
	}
	n, err := s.conn.rawRead(p)
	if errors.Is(err, ErrAgain) {
		s.drained = true
		return 0, errWouldBlock
	}
	s.drained = err == nil && n < len(p)
	return n, err
}

// Write is for crypto/tls.
func (s *Secure) Write(p []byte) (int, error) {
	if s.conn == nil {
		return s.Conn.Write(p)
	}
	n := 0
	if len(s.out) == 0 {
		var err error
		if n, err = s.conn.rawWrite(p); err != nil && !errors.Is(err, ErrAgain) {
			return n, err
		}
	}
	s.out = append(s.out, p[n:]...)
	return len(p), nil
}

// Close is for crypto/tls; the socket is closed by its owner.
func (s *Secure) Close() error {
	if s.Conn != nil {
		return s.Conn.Close()
	}
	return nil
}

// SetDeadline does nothing once attached, like its two relatives: a loop has timers of its own.
func (s *Secure) SetDeadline(t time.Time) error { return s.deadline(t, net.Conn.SetDeadline) }

// SetReadDeadline is like SetDeadline.
func (s *Secure) SetReadDeadline(t time.Time) error { return s.deadline(t, net.Conn.SetReadDeadline) }

// SetWriteDeadline is like SetDeadline.
func (s *Secure) SetWriteDeadline(t time.Time) error { return s.deadline(t, net.Conn.SetWriteDeadline) }

func (s *Secure) deadline(t time.Time, set func(net.Conn, time.Time) error) error {
	if s.Conn != nil {
		return set(s.Conn, t)
	}
	return nil
}

func (s *Secure) read(p []byte) (int, error) {
	n, err := s.tls.Read(p)
	s.conn.readable = true // crypto/tls may hold more than was asked for
	if errors.Is(err, errWouldBlock) {
		s.conn.readable = false
		err = ErrAgain
	}
	if n > 0 {
		return n, nil
	}
	return n, err
}

func (s *Secure) write(p []byte) (int, error) {
	if err := s.flush(); err != nil {
		return 0, err
	}
	return s.tls.Write(p)
}

func (s *Secure) flush() error {
	if len(s.out) == 0 {
		return nil
	}
	n, err := s.conn.rawWrite(s.out)
	s.out = append(s.out[:0], s.out[n:]...)
	if len(s.out) == 0 {
		s.out = nil // an idle client holds no buffer
	}
	return err
}

// Take duplicates the descriptor of c, a TCP or Unix connection, and closes c, so that the runtime's own poller lets go
// of the socket while it stays open. The descriptor is non-blocking and belongs to the caller.
func Take(c net.Conn) (fd int, err error) {
	defer c.Close()
	owner, ok := c.(syscall.Conn)
	if !ok {
		return -1, fmt.Errorf("take the socket of a %T: %w", c, errors.ErrUnsupported)
	}
	raw, err := owner.SyscallConn()
	if err != nil {
		return -1, err
	}
	var dupErr error
	if err := raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return -1, err
	}
	if dupErr != nil {
		return -1, os.NewSyscallError("fcntl", dupErr)
	}
	return fd, nil
}
