package pool

import (
	"errors"
	"time"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/pgwire"
)

// A backend lives on until it notices that its client is gone, and counts against max_connections as long. It does not
// notice while it runs a statement, so after closingTime that is cancelled. After closingMost the place is taken to be free,
// unless the server's kernel has confirmed the end of the stream and its process has not: then that still counts.
const (
	closingTime = 2 * time.Second
	closingMost = 5 * time.Second
)

// retiring waits for the server to close its end of the connection.
type retiring struct {
	s       *Server
	l       *eventloop.Loop
	handler eventloop.Handler
	then    func() // takes over the place in the budget; nil: the place is free
	waited  time.Duration
	told    bool // the log, that the server holds the connection
	cut     bool // the server was told that nobody is there any more
	over    bool
}

// Retire closes s, which the caller owns, on its loop. It counts as closing until the server has closed its end.
func (s *Server) Retire(l *eventloop.Loop) { s.retire(l, nil) }

// RetireSoon is Retire from any goroutine.
func (s *Server) RetireSoon() {
	l := s.Conn.Loop()
	if l == nil { // never attached
		s.counted(func(c *Counts) { c.Used-- })
		return
	}
	l.Post(eventloop.TaskFunc(func() { s.Retire(l) }))
}

func (s *Server) retire(l *eventloop.Loop, then func()) {
	r := &retiring{s: s, l: l, then: then}
	r.handler = r
	s.closing = r
	s.lent.Store(&r.handler)
	s.counted(func(c *Counts) { c.Used--; c.Closing++ })
	if !s.Conn.Open() {
		r.finish()
		return
	}
	if s.toiling && then == nil {
		r.cutOff()
		return
	}
	_, _ = s.Conn.Write(pgwire.AppendMessage(nil, pgwire.Terminate)) // when it does not fit, the end of the stream says it
	s.Conn.CloseWrite()
	l.Arm(&s.timer, closingTime, r)
	r.read()
}

// cutTime is how long after each of two cancel requests the process of a connection that was cut off is taken to be gone.
const cutTime = 500 * time.Millisecond

// cutOff closes a connection whose server has a line of statements to execute, which it would, one after the other, as long as it can write
// what comes of them. The one that runs is cancelled; behind it the process notices that nobody is there.
func (r *retiring) cutOff() {
	r.cut = true
	r.s.Conn.Abort()
	r.s.CancelSoon(r.l, nil)
	r.l.Arm(&r.s.timer, cutTime, r)
}

// Ready is called when the server has said something more, or closed.
func (r *retiring) Ready(_ *eventloop.Loop, e eventloop.Events) {
	r.s.Conn.Note(e)
	r.read()
}

// Fault closes the connection at once.
func (r *retiring) Fault() { r.finish() }

// Run is called when the server has taken too long.
func (r *retiring) Run() {
	if r.cut {
		if r.waited += cutTime; r.waited > cutTime {
			r.finish()
			return
		}
		r.s.CancelSoon(r.l, nil) // the first one may have come between two statements
		r.l.Arm(&r.s.timer, cutTime, r)
		return
	}
	if r.waited == 0 {
		r.s.CancelSoon(r.l, nil)
	}
	r.waited += closingTime
	if r.s.pool.budget.ctx.Err() != nil || r.waited >= closingMost && !r.held() {
		r.finish()
		return
	}
	r.l.Arm(&r.s.timer, max(min(closingTime, closingMost-r.waited), time.Second), r)
}

// held reports whether the server is known to hold the connection still, and says so once.
func (r *retiring) held() bool {
	held := r.s.Conn.PeerHolds()
	if held && !r.told {
		r.told = true
		r.s.pool.noteHeld(r)
		r.s.pool.budget.log.Warn("a server process holds a connection that weir has closed; it counts until the process ends", "server_pid", r.s.PID())
	}
	return held
}

func (r *retiring) read() {
	for !r.over {
		if _, err := r.s.Conn.Read(r.l.Scratch); errors.Is(err, eventloop.ErrAgain) {
			return
		} else if err != nil {
			r.finish()
		}
	}
}

// finishSoon is finish from any goroutine.
func (r *retiring) finishSoon() { r.l.Post(eventloop.TaskFunc(r.finish)) }

func (r *retiring) finish() {
	if r.over {
		return
	}
	r.over = true
	if r.told {
		r.s.pool.forgetHeld(r)
	}
	r.l.Disarm(&r.s.timer)
	r.s.Conn.Close()
	if r.then != nil {
		r.s.counted(func(c *Counts) { c.Closing--; c.Dialing++ })
		r.then()
		return
	}
	r.s.counted(func(c *Counts) { c.Closing-- })
	if r.s.lost {
		r.s.pool.replace()
	}
}

// counted changes the budget's counts, and has the freed place used where someone waits for it.
func (s *Server) counted(change func(*Counts)) {
	b := s.pool.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.counts)
	b.dialForAllLocked()
}

// dialForAllLocked dials for the pools that wait, as far as there is room.
func (b *Budget) dialForAllLocked() {
	for _, p := range b.pools {
		if p.waiting.len > 0 {
			p.dialLocked()
		}
	}
}
