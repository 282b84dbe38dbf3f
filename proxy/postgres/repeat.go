package postgres

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/weirproxy/weir/eventloop"
)

// Logins that are refused are told so at once, unless one address and user have so many of them that they can only be the same
// client, or clients, trying again in a loop: then the answer waits, and they with it.
const (
	refusedPerSecond = 10
	refusedAtOnce    = 20
	slowestAnswer    = time.Second
	mostSlowed       = 1000 // at once; further ones are answered at once
	mostRepeaters    = 4096 // addresses and users that are remembered
)

// repeats tells who repeats a refused login. Safe for all goroutines; its zero value is ready.
type repeats struct {
	mu    sync.Mutex
	known map[repeater]*rate.Limiter
}

type repeater struct {
	address netip.Addr
	user    string
}

// delay is how long the answer to one more refused login has to wait.
func (r *repeats) delay(who repeater, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	bucket := r.known[who]
	if bucket == nil {
		if r.known == nil || len(r.known) >= mostRepeaters { // whoever repeats is soon known again
			r.known = make(map[repeater]*rate.Limiter)
		}
		bucket = rate.NewLimiter(refusedPerSecond, refusedAtOnce)
		r.known[who] = bucket
	}
	asked := bucket.ReserveN(now, 1)
	wait := asked.DelayFrom(now)
	if wait > slowestAnswer {
		asked.CancelAt(now) // what it owes does not grow for ever
		return slowestAnswer
	}
	return wait
}

// slowDown lets a refused login wait for its answer, if its client only repeats it.
func (s *Server) slowDown(socket *eventloop.Stream, user string, uncount func()) {
	wait := s.repeats.delay(repeater{address(socket), user}, time.Now())
	if wait <= 0 || s.slowed.Add(1) > mostSlowed {
		if wait > 0 {
			s.slowed.Add(-1)
		}
		return
	}
	defer s.slowed.Add(-1)
	uncount() // nobody who is on the way in is kept out by those who only wait to hear that they are not
	_ = socket.SetDeadline(time.Now().Add(wait))
	_, _ = io.CopyN(io.Discard, socket, maxStartup) // returns early when the client leaves
}

// address is where a client connects from; the zero Addr when that is not known.
func address(socket *eventloop.Stream) netip.Addr {
	if a, ok := socket.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
