//go:build darwin || freebsd || dragonfly

package eventloop

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// poller is one kqueue (kqueue(2)); a user event interrupts its wait.
type poller struct {
	kq      int
	events  [256]unix.Kevent_t
	n, next int // events filled by the last wait, and the one to be told next
}

const wakeIdent = 0 // of the user event; descriptors have filters of their own, so that the numbers do not meet

func (p *poller) open() (err error) {
	if p.kq, err = unix.Kqueue(); err != nil {
		return fmt.Errorf("kqueue: %w", err)
	}
	unix.CloseOnExec(p.kq)
	return p.change(kevent(wakeIdent, unix.EVFILT_USER, unix.EV_ADD|unix.EV_CLEAR))
}

func (p *poller) close() { _ = unix.Close(p.kq) }

func kevent(ident, filter, flags int) (ev unix.Kevent_t) {
	unix.SetKevent(&ev, ident, filter, flags)
	return ev
}

func (p *poller) change(changes ...unix.Kevent_t) error {
	if _, err := unix.Kevent(p.kq, changes, nil, nil); err != nil {
		return fmt.Errorf("kevent: %w", err)
	}
	return nil
}

// add watches fd. The kernel forgets the events of a descriptor that is closed, so that the generation is not needed.
func (p *poller) add(fd int, _ uint32) error {
	return p.change(kevent(fd, unix.EVFILT_READ, unix.EV_ADD|unix.EV_CLEAR))
}

// addWrites watches fd for room to write as well. If there is some already, that is an event.
func (p *poller) addWrites(fd int, _ uint32) {
	_ = p.change(kevent(fd, unix.EVFILT_WRITE, unix.EV_ADD|unix.EV_CLEAR))
}

func (p *poller) remove(fd int) {
	_ = p.change(kevent(fd, unix.EVFILT_READ, unix.EV_DELETE)) // what is gone is what we wanted
	_ = p.change(kevent(fd, unix.EVFILT_WRITE, unix.EV_DELETE))
}

// wait blocks for up to timeout, forever when negative.
func (p *poller) wait(timeout time.Duration) {
	var limit *unix.Timespec
	if timeout >= 0 {
		ts := unix.NsecToTimespec(int64(timeout))
		limit = &ts
	}
	n, err := unix.Kevent(p.kq, nil, p.events[:], limit)
	if err != nil { // EINTR: the caller's loop comes round again
		n = 0
	}
	p.n, p.next = n, 0
}

func (p *poller) wake() {
	ev := kevent(wakeIdent, unix.EVFILT_USER, 0)
	ev.Fflags = unix.NOTE_TRIGGER
	_ = p.change(ev)
}

// dispatch tells the handlers of what the last wait found.
func (p *poller) dispatch(l *Loop) {
	for p.next < p.n {
		ev := &p.events[p.next]
		p.next++
		if ev.Filter == unix.EVFILT_USER {
			continue
		}
		c := l.group.table.get(int(ev.Ident))
		if c == nil || c.loop.Load() != l {
			continue // closed or moved since the kernel noted this
		}
		e := Readable
		if ev.Filter == unix.EVFILT_WRITE {
			e = Writable
		}
		if ev.Flags&unix.EV_EOF != 0 {
			e |= Readable | Hangup
		}
		l.busy = c.handler
		c.handler.Ready(l, e)
	}
	l.busy = nil
	p.n, p.next = 0, 0
}

// found reports whether there is something that the handlers have not been told yet.
func (p *poller) found() bool { return p.next < p.n }

// addListener watches a listening socket that other loops watch as well. All of them are woken.
func (p *poller) addListener(fd int, _ uint32) error {
	return p.change(kevent(fd, unix.EVFILT_READ, unix.EV_ADD))
}

func acceptNonblock(fd int) (int, error) {
	n, _, err := unix.Accept(fd)
	if err != nil {
		return -1, err
	}
	unix.CloseOnExec(n)
	if err := unix.SetNonblock(n, true); err != nil {
		_ = unix.Close(n)
		return -1, err
	}
	return n, nil
}
