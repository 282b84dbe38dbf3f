package eventloop

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrAgain says that a read or write would have to wait; the handler is called when it is worth another try.
var ErrAgain = errors.New("would block")

// Events is what a loop noticed about a Conn.
type Events uint8

// The events. A Conn whose peer is gone is readable, too: reading tells how it went.
const (
	Readable Events = 1 << iota
	Writable
	Hangup // the peer closed its sending side, or the connection broke
)

// Handler is told what happened to its Conn, on the goroutine of l. It calls [Conn.Note] first, once it is sure to own the
// Conn: when its owner may move the Conn to another loop, the handler may find that it has just been moved.
type Handler interface {
	Ready(l *Loop, e Events)
}

// Conn is a non-blocking stream socket watched by a loop. Its zero value is ready for [Conn.Attach]. It is meant to be
// part of its owner's struct, and it must not be copied.
type Conn struct {
	fd         int32
	generation atomic.Uint32 // changes with each registration; a loop that c has left may still ask
	loop       atomic.Pointer[Loop]
	handler    Handler
	secure     *Secure // nil without TLS

	readable bool // there may be something to read
	writes   bool // watched for room to write as well
	hangup   bool // the end of the stream is known to be near: keep reading until it comes
}

var generations atomic.Uint32

// nextGeneration is never 0, which stands for the loop's own descriptor.
func nextGeneration() uint32 {
	for {
		if g := generations.Add(1); g != 0 {
			return g
		}
	}
}

// Attach makes fd, a connected non-blocking stream socket that nothing else uses, this Conn's own and has l watch it.
// secure is nil, or the TLS layer that was set up over the same socket. On l's goroutine, or while l does not know c.
func (c *Conn) Attach(l *Loop, fd int, secure *Secure, h Handler) error {
	c.own(int32(fd), secure, h)
	c.generation.Store(nextGeneration())
	c.readable, c.writes, c.hangup = secure != nil, false, false // what the socket holds makes an event
	return c.watch(l)
}

// own takes over a socket, the TLS layer over it, which may hold something to read already, and who is told of both.
func (c *Conn) own(fd int32, secure *Secure, h Handler) {
	c.fd, c.handler, c.secure = fd, h, secure
	if secure != nil {
		secure.conn = c
	}
}

// succeed makes c the one that is told of what happens to the socket of from, by the same loop and without its having to
// hear of it. from has no socket afterwards.
func (c *Conn) succeed(from *Conn, secure *Secure, h Handler) {
	l := from.loop.Load()
	c.own(from.fd, secure, h)
	c.generation.Store(from.generation.Load())
	c.readable, c.writes, c.hangup = from.readable || secure != nil, from.writes, from.hangup
	c.loop.Store(l)
	l.group.table.set(int(c.fd), c)
	from.loop.Store(nil)
}

func (c *Conn) watch(l *Loop) error {
	c.loop.Store(l)
	l.group.table.set(int(c.fd), c)
	if err := l.poller.add(int(c.fd), c.generation.Load()); err != nil {
		l.group.table.set(int(c.fd), nil)
		return err
	}
	return nil
}

// MoveTo has l watch c instead of the loop that does. The caller owns c exclusively and runs on l's goroutine.
func (c *Conn) MoveTo(l *Loop) error {
	from := c.loop.Load()
	if from == l {
		return nil
	}
	from.poller.remove(int(c.fd))
	c.generation.Store(nextGeneration()) // what the old loop has yet to tell is void
	c.readable, c.writes = true, false
	return c.watch(l)
}

// Loop is the loop that watches c.
func (c *Conn) Loop() *Loop { return c.loop.Load() }

// Open reports whether c has a socket.
func (c *Conn) Open() bool { return c.loop.Load() != nil }

// RemoteAddr asks the kernel for the peer's address; nil when it does not tell.
func (c *Conn) RemoteAddr() net.Addr {
	if !c.Open() {
		return nil
	}
	sa, err := unix.Getpeername(int(c.fd))
	if err != nil {
		return nil
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: a.Addr[:], Port: a.Port}
	case *unix.SockaddrInet6:
		return &net.TCPAddr{IP: a.Addr[:], Port: a.Port}
	}
	return nil
}

// Note records events that the handler was told.
func (c *Conn) Note(e Events) {
	if e&Readable != 0 {
		c.readable = true
		if c.secure != nil {
			c.secure.drained = false
		}
	}
	if e&Hangup != 0 {
		c.hangup = true
	}
}

// Readable reports whether a read is worth trying. It stays true until a read came back short.
func (c *Conn) Readable() bool { return c.readable }

// Gone reports whether the peer has closed its side or the connection broke; there may still be data to read.
func (c *Conn) Gone() bool { return c.hangup }

// Read reads what is there, at most len(p) bytes. Errors: [ErrAgain], io.EOF, or the socket's own.
func (c *Conn) Read(p []byte) (int, error) {
	if c.secure != nil {
		return c.secure.read(p)
	}
	return c.rawRead(p)
}

// Write writes as much of p as fits. When that is not all of it the error is [ErrAgain].
func (c *Conn) Write(p []byte) (int, error) {
	if c.secure != nil {
		return c.secure.write(p)
	}
	return c.rawWrite(p)
}

// Flush pushes out what TLS has encrypted but the socket had no room for; without TLS there is nothing to push.
func (c *Conn) Flush() error {
	if c.secure != nil {
		return c.secure.flush()
	}
	return nil
}

// Unsent reports whether the socket had no room for all that was written: TLS keeps the rest. Without TLS the writer does.
func (c *Conn) Unsent() bool { return c.secure != nil && len(c.secure.out) > 0 }

// CloseWrite tells the peer that nothing more will come.
func (c *Conn) CloseWrite() {
	if c.secure != nil {
		_ = c.secure.tls.CloseWrite()
	}
	_ = unix.Shutdown(int(c.fd), unix.SHUT_WR)
}

// watchWrites has the loop tell when there is room to write. Most sockets never run out of it.
func (c *Conn) watchWrites() {
	if !c.writes {
		c.writes = true
		c.loop.Load().poller.addWrites(int(c.fd), c.generation.Load())
	}
}

// release has the loop forget the socket, which stays open and is the caller's.
func (c *Conn) release() (fd int) {
	l := c.loop.Load()
	l.poller.remove(int(c.fd))
	l.group.table.set(int(c.fd), nil)
	c.loop.Store(nil)
	return int(c.fd)
}

// Close closes the socket and forgets it. Closing a closed Conn does nothing.
func (c *Conn) Close() {
	l := c.loop.Load()
	if l == nil {
		return
	}
	l.group.table.set(int(c.fd), nil)
	c.loop.Store(nil)
	unix.Close(int(c.fd)) // leaves epoll with its last descriptor
	c.secure = nil
}

// Abort closes the socket so that the peer's next write fails: it is told that nobody is there any more (RST), and not only that nothing
// more will come.
func (c *Conn) Abort() {
	if c.Open() {
		_ = unix.SetsockoptLinger(int(c.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	c.Close()
}

// The sockets are non-blocking, so these system calls cannot wait and the scheduler need not hear of them.

func (c *Conn) rawRead(p []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(c.fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch errno {
		case 0:
			if n == 0 {
				return 0, io.EOF
			}
			if int(n) < len(p) && !c.hangup {
				c.readable = false // the next byte to come makes a new event (epoll(7), Q9)
			}
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			c.readable = false
			return 0, ErrAgain
		default:
			return 0, fmt.Errorf("read: %w", errno)
		}
	}
}

func (c *Conn) rawWrite(p []byte) (written int, err error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(c.fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			written += int(n)
			if int(n) == len(p) {
				return written, nil
			}
			p = p[n:] // once more: only EAGAIN promises an event when there is room
		case unix.EINTR:
		case unix.EAGAIN:
			c.watchWrites()
			return written, ErrAgain
		default:
			return written, fmt.Errorf("write: %w", errno)
		}
	}
}
