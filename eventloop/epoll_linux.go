package eventloop

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watched is what every socket is registered for: data, and the peer's end.
const watched = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET

// poller is one epoll instance (epoll(7)) and an eventfd that interrupts its wait.
type poller struct {
	epfd, wakefd int
	events       [256]unix.EpollEvent
	n, next      int // events filled by the last wait, and the one to be told next
}

func (p *poller) open() (err error) {
	if p.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	if p.wakefd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		unix.Close(p.epfd)
		return fmt.Errorf("eventfd: %w", err)
	}
	return p.add(p.wakefd, 0)
}

func (p *poller) close() {
	unix.Close(p.wakefd)
	unix.Close(p.epfd)
}

// add watches fd. generation comes back with its events, to tell them from those of an earlier user of the number.
func (p *poller) add(fd int, generation uint32) error {
	ev := unix.EpollEvent{Events: watched, Fd: int32(fd), Pad: int32(generation)}
	if err := unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("epoll_ctl add: %w", err)
	}
	return nil
}

// addWrites watches fd for room to write as well. If there is some already, that is an event.
func (p *poller) addWrites(fd int, generation uint32) {
	ev := unix.EpollEvent{Events: watched | unix.EPOLLOUT, Fd: int32(fd), Pad: int32(generation)}
	_ = unix.EpollCtl(p.epfd, unix.EPOLL_CTL_MOD, fd, &ev) // it is watched, so this cannot fail
}

func (p *poller) remove(fd int) {
	_ = unix.EpollCtl(p.epfd, unix.EPOLL_CTL_DEL, fd, nil) // an fd that is gone is what we wanted
}

// wait blocks for up to timeout (forever when negative), rounded up to the next millisecond.
func (p *poller) wait(timeout time.Duration) {
	ms := -1
	if timeout >= 0 {
		ms = int(min((timeout+time.Millisecond-1)/time.Millisecond, math.MaxInt32))
	}
	if ms == 0 { // cannot block, so the scheduler need not know
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epfd), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), 0, 0, 0)
		if errno != 0 {
			n = 0
		}
		p.n, p.next = int(n), 0
		return
	}
	n, err := unix.EpollWait(p.epfd, p.events[:], ms)
	if err != nil { // EINTR: the caller's loop comes round again
		n = 0
	}
	p.n, p.next = n, 0
}

func (p *poller) wake() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(p.wakefd, one[:]) // full means that it is awake already
}

// dispatch tells the handlers of what the last wait found.
func (p *poller) dispatch(l *Loop) {
	for p.next < p.n {
		ev := &p.events[p.next]
		p.next++
		if ev.Pad == 0 {
			continue // the eventfd is edge-triggered: it need not be read
		}
		c := l.group.table.get(int(ev.Fd))
		if c == nil || c.generation.Load() != uint32(ev.Pad) || c.loop.Load() != l {
			continue // closed or moved since the kernel noted this
		}
		var e Events
		if ev.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			e |= Readable
		}
		if ev.Events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			e |= Writable
		}
		if ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			e |= Hangup
		}
		l.busy = c.handler
		c.handler.Ready(l, e)
	}
	l.busy = nil
	p.n, p.next = 0, 0
}

// found reports whether there is something that the handlers have not been told yet.
func (p *poller) found() bool { return p.next < p.n }

// addListener watches a listening socket that other loops watch as well: of those that wait, one is woken. It is told for
// as long as someone waits to be accepted.
func (p *poller) addListener(fd int, generation uint32) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLEXCLUSIVE, Fd: int32(fd), Pad: int32(generation)}
	if err := unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("epoll_ctl add: %w", err)
	}
	return nil
}

// acceptNonblock accepts a connection. What it should have of socket options it inherits from the listener.
func acceptNonblock(fd int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
