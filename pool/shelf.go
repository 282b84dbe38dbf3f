package pool

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/eventloop"
)

// searchDepth is how many of the last used connections are tried for one that the borrower's loop watches already.
const searchDepth = 8

// Pool lends the connections of one server user.
type Pool struct {
	budget   *Budget
	dial     DialFunc
	dialed   func(error) // told the outcome of each dial; no lock is held
	require  func(map[string]string) bool
	standard atomic.Pointer[Profile] // of a server connection that nobody has changed anything on; nil before the first
	asked    intern                  // by what clients ask for at startup
	adopted  intern                  // all others
	refused  refusals                // of what clients ask for at startup
	asking   asking
	standards
	looked atomic.Int64 // when a server was last looked at again, in nanoseconds since 1970

	// guarded by budget.mu
	idle     []*Server // last used is last, so the front is what has rested longest
	waiting  waitlist  // in order of arrival
	dialing  int
	backoff  time.Duration // before the next dial; 0 after a success
	retrying bool          // a timer is going to try again

	held      map[*retiring]time.Time // since when the server seems to hold what was closed
	heldAsked time.Time               // when it was asked about that last

	suspected map[string]time.Time // addresses whose connections were tested, and when
}

// NewPool adds a pool to the budget. dialed, which may be nil, is told the outcome of every dial.
func (b *Budget) NewPool(dial DialFunc, dialed func(error)) *Pool {
	p := &Pool{budget: b, dial: dial, dialed: dialed, asking: newAsking()}
	b.mu.Lock()
	b.pools = append(b.pools, p)
	b.mu.Unlock()
	return p
}

// Budget is what p is part of.
func (p *Pool) Budget() *Budget { return p.budget }

// Acquire lends an idle connection at once, or puts w in the queue, which most may wait in, and returns neither a server
// nor an error. Errors: [ErrQueueFull], [ErrClosed].
func (p *Pool) Acquire(w *Waiter, most int) (*Server, error) {
	s, victim, err := p.acquire(w, most)
	if victim != nil {
		victim.RetireSoon()
	}
	return s, err
}

func (p *Pool) acquire(w *Waiter, most int) (s, victim *Server, err error) {
	b := p.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, nil, ErrClosed
	}
	if p.waiting.len == 0 && len(p.idle) > 0 {
		s = p.takeLocked(p.nearestLocked(w.Loop))
		b.counts.Used++
		return s, nil, nil
	}
	if p.waiting.len >= most {
		return nil, nil, ErrQueueFull
	}
	p.waiting.push(w)
	victim = b.victimLocked(p)
	p.dialLocked()
	return nil, victim, nil
}

// nearestLocked picks the last used connection, or a slightly colder one that needs no moving to l.
func (p *Pool) nearestLocked(l *eventloop.Loop) int {
	last := len(p.idle) - 1
	for i := last; i >= max(0, last-searchDepth+1); i-- {
		if p.idle[i].Conn.Loop() == l {
			return i
		}
	}
	return last
}

// takeLocked takes a server off the shelf; the caller counts it as something else.
func (p *Pool) takeLocked(i int) *Server {
	s := p.idle[i]
	p.idle = slices.Delete(p.idle, i, i+1)
	s.shelved = false
	p.budget.counts.Idle--
	return s
}

// claim takes s off the shelf for itself, when it is there.
func (p *Pool) claim(s *Server) bool {
	p.budget.mu.Lock()
	defer p.budget.mu.Unlock()
	if !s.shelved {
		return false
	}
	for i := range p.idle {
		if p.idle[i] == s {
			p.takeLocked(i)
			p.budget.counts.Used++
			return true
		}
	}
	return false
}

// Abandon takes w out of the queue and reports whether it was there. If it was not, its task is on the way.
func (p *Pool) Abandon(w *Waiter) bool {
	p.budget.mu.Lock()
	defer p.budget.mu.Unlock()
	return p.waiting.remove(w)
}

// Release takes s back: to the borrower who waits longest, or to the shelf. The caller has s on its own loop, idle, outside
// any transaction, with nothing left to read.
func (p *Pool) Release(s *Server) {
	s.AnsweredAll()
	s.lent.Store(nil)
	if s.missed.Load() && s.missed.Swap(false) {
		s.Conn.Note(eventloop.Readable)
		s.listenIdle(s.Conn.Loop())
		return
	}
	now := time.Now()
	next, victim, stays := p.release(s, now)
	switch {
	case !stays:
		s.RetireSoon()
	case next != nil:
		next.answer(s, nil)
	case victim != nil:
		victim.RetireSoon()
	}
}

// release decides what becomes of s: lent to the next, or shelved (and perhaps a victim in exchange), or not to stay.
func (p *Pool) release(s *Server, now time.Time) (next *Waiter, victim *Server, stays bool) {
	b := p.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || s.unsafe || s.outdated() || s.expired(now) || b.counts.Open() > b.cfg.Connections {
		return nil, nil, false
	}
	if w := p.waiting.pop(); w != nil {
		return w, nil, true
	}
	s.rested = now
	s.shelved = true
	p.idle = append(p.idle, s)
	b.counts.Used--
	b.counts.Idle++
	return nil, b.makeRoomForOthersLocked(p), true
}

// Refuse answers everyone who waits with err.
func (p *Pool) Refuse(err error) {
	p.budget.mu.Lock()
	waiting := p.waiting.popAll()
	p.budget.mu.Unlock()
	for _, w := range waiting {
		w.answer(nil, err)
	}
}

// makeRoomForOthersLocked returns an idle connection to be retired because another pool waits for its place.
func (b *Budget) makeRoomForOthersLocked(p *Pool) *Server {
	for _, other := range b.pools {
		if other != p && other.waiting.len > other.dialing {
			return b.victimLocked(other)
		}
	}
	return nil
}

// victimLocked takes the longest idle connection of another pool off its shelf, when p needs its place.
func (b *Budget) victimLocked(p *Pool) *Server {
	coming := p.dialing + b.counts.Closing
	if b.counts.Open() < b.cfg.Connections || p.waiting.len <= coming {
		return nil
	}
	var longest *Pool
	for _, other := range b.pools {
		if other != p && len(other.idle) > 0 && (longest == nil || other.idle[0].rested.Before(longest.idle[0].rested)) {
			longest = other
		}
	}
	if longest == nil {
		return nil
	}
	b.counts.Used++ // in our hands
	return longest.takeLocked(0)
}
