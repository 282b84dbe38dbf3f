package eventloop

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Accepting goes on after an error: a process that is out of file descriptors keeps serving those who are connected, and
// tries again after a pause that grows.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// Listener is a listening socket that all loops of a group accept from: of those that wait, one is woken for each
// connection.
type Listener struct {
	fd     int
	handle func(*Loop, int)
	failed func(error)
	done   chan struct{}
	once   sync.Once
	ears   []*ear
}

// ear is a loop's part in a Listener.
type ear struct {
	conn  Conn // only to be found by the loop; never read
	l     *Listener
	loop  *Loop
	timer Timer
	pause time.Duration
}

// Listen takes over the socket of l, which is closed. handle is called on one of the group's loops with each connection
// accepted, a non-blocking descriptor that it owns; failed with the errors of accepting.
func (g *Group) Listen(l net.Listener, handle func(*Loop, int), failed func(error)) (*Listener, error) {
	conn, ok := l.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("listen on a %T: %w", l, errors.ErrUnsupported)
	}
	fd, err := Take(listenerConn{conn})
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil { // inherited by what is accepted
		unix.Close(fd)
		return nil, fmt.Errorf("set TCP_NODELAY: %w", err)
	}
	li := &Listener{fd: fd, handle: handle, failed: failed, done: make(chan struct{})}
	for _, loop := range g.loops {
		e := &ear{l: li, loop: loop}
		li.ears = append(li.ears, e)
		loop.Post(TaskFunc(e.listen))
	}
	return li, nil
}

// listenerConn lets Take have the descriptor of a listener.
type listenerConn struct{ *net.TCPListener }

func (listenerConn) Read([]byte) (int, error)         { return 0, errors.ErrUnsupported }
func (listenerConn) Write([]byte) (int, error)        { return 0, errors.ErrUnsupported }
func (listenerConn) LocalAddr() net.Addr              { return nil }
func (listenerConn) RemoteAddr() net.Addr             { return nil }
func (listenerConn) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (listenerConn) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// Done is closed when nothing is accepted any more.
func (l *Listener) Done() <-chan struct{} { return l.done }

// Close stops accepting; when it returns the port is free. Closing again does nothing.
func (l *Listener) Close() {
	l.once.Do(func() {
		var stopped sync.WaitGroup
		for _, e := range l.ears {
			stopped.Add(1)
			e.loop.Post(TaskFunc(func() {
				e.stop()
				stopped.Done()
			}))
		}
		stopped.Wait()
		unix.Close(l.fd)
		close(l.done)
	})
}

// open gets a descriptor for the socket. Each loop has its own, since a table has one place for each.
func (e *ear) open() error {
	fd, err := unix.FcntlInt(uintptr(e.l.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("duplicate the listener: %w", err)
	}
	e.conn.fd, e.conn.handler = int32(fd), e
	e.conn.generation.Store(nextGeneration())
	e.conn.loop.Store(e.loop)
	e.loop.group.table.set(fd, &e.conn)
	return nil
}

// listen begins to watch the socket, or goes on after a pause.
func (e *ear) listen() {
	var err error
	if !e.conn.Open() {
		err = e.open()
	}
	if err == nil {
		err = e.loop.poller.addListener(int(e.conn.fd), e.conn.generation.Load())
	}
	if err != nil {
		e.rest(err)
	}
}

func (e *ear) stop() {
	e.loop.Disarm(&e.timer)
	if e.conn.Open() {
		e.loop.poller.remove(int(e.conn.fd)) // the socket has other descriptors: closing this one is not enough
		e.conn.Close()
	}
}

// Ready is called when someone has connected, and again as long as someone is waiting.
func (e *ear) Ready(*Loop, Events) {
	fd, err := acceptNonblock(int(e.conn.fd))
	switch {
	case err == nil:
		e.pause = 0
		e.l.handle(e.loop, fd)
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
	default:
		e.loop.poller.remove(int(e.conn.fd))
		e.rest(fmt.Errorf("accept: %w", err))
	}
}

// rest accepts nothing for a while, since it would fail again.
func (e *ear) rest(err error) {
	e.pause = min(max(2*e.pause, firstPause), lastPause)
	e.l.failed(err)
	e.loop.Arm(&e.timer, e.pause, e)
}

// Run is called after a pause.
func (e *ear) Run() { e.listen() }
