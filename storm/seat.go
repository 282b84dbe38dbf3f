package storm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// crew is a caller under way: its functions, its connections, and the line in which they find each other.
type crew struct {
	run   *run
	index int
	preparedCaller
	login  login
	line   line
	opened atomic.Uint32 // seats so far
}

// seat is a place for one connection, and a goroutine that serves the functions that use it, one after another.
type seat struct {
	crew   *crew
	hand   chan visit // holds the one function that is given to a free seat; closed when the storm is over
	conn   *conn      // nil: to be opened for whoever comes next
	random *rand.Rand // for numbers in SQL
	out    []byte     // the message being sent
	hint   []byte     // the comment ahead of it
}

// newSeat starts a seat that waits at its hand.
func (c *crew) newSeat(conn *conn) *seat {
	number := uint64(c.index)<<32 | uint64(c.opened.Add(1))
	s := &seat{crew: c, hand: make(chan visit, 1), conn: conn, random: rand.New(rand.NewPCG(c.run.plan.Seed, number))}
	c.run.seats.Go(s.work)
	return s
}

// work serves functions until the storm is over.
func (s *seat) work() {
	for v, ok := <-s.hand; ok; v, ok = s.crew.line.next(s) {
		s.serve(v)
	}
	s.leave()
}

// serve sees one function through to its end, or up to a retry for which it does not keep the connection.
func (s *seat) serve(v visit) {
	r := s.crew.run
	for {
		began := r.now()
		if began >= v.deadline() {
			r.tally.expired(&v, waiting)
			break
		}
		r.tally.tried(&v, began)
		doing, err := s.attempt(&v)
		ended := r.now()
		if r.ctx.Err() != nil { // interrupted: what it got says nothing about the target
			s.drop()
			break
		}
		if err == nil && ended < v.deadline() {
			r.tally.finished(&v, ended)
			break
		}
		if ended >= v.deadline() {
			s.drop()
			r.tally.expired(&v, doing)
			break
		}
		why := judge(err)
		r.tally.turnedAway(&v, why, ended-began)
		wait, again := r.retry(&v, why, v.deadline()-ended)
		if !again {
			r.tally.gaveUp(&v, why.refused, ended)
			break
		}
		v.attempt++
		v.direct = false
		if r.plan.Connections == Kept { // others may have the connection meanwhile
			time.AfterFunc(wait, func() { s.crew.line.give(v) })
			return
		}
		if !s.rest(wait) {
			break
		}
	}
	if r.plan.Connections == Fresh {
		s.leave()
	}
	r.ended()
}

// attempt does all that a function does, once, and returns what it was doing last.
func (s *seat) attempt(v *visit) (stage, error) {
	r := s.crew.run
	deadline := r.began.Add(v.deadline())
	if s.conn == nil {
		began := time.Now()
		conn, err := r.connect(s.crew.loginFor(v), deadline)
		if err != nil {
			return loggingIn, err
		}
		s.conn = conn
		r.tally.loggedIn(v, time.Since(began))
	}
	if err := s.conn.SetDeadline(deadline); err != nil {
		s.drop()
		return answering, err
	}
	for n := range s.crew.Transactions {
		if n > 0 && s.crew.Pause > 0 {
			if !s.rest(min(s.crew.Pause, time.Until(deadline))) || !time.Now().Before(deadline) {
				return resting, context.DeadlineExceeded
			}
		}
		began := time.Now()
		if err := s.transact(deadline); err != nil {
			return answering, err
		}
		r.tally.transacted(v, time.Since(began))
	}
	return answering, nil
}

// transact runs the script once. After an error, the connection is either gone or ready for the next function.
func (s *seat) transact(deadline time.Time) error {
	plan := s.crew.run.plan
	for _, statement := range s.crew.script {
		s.hint = s.hint[:0]
		if plan.SayDeadline && plan.Connections == Kept {
			s.hint = appendDeadline(s.hint, time.Until(deadline))
		}
		s.out = statement.append(s.out[:0], s.hint, s.random)
		status, refusal, err := s.conn.roundTrip(s.out)
		if err == nil && refusal == nil {
			continue
		}
		if err != nil || refusal.Fatal() {
			s.drop()
		} else if status != 'I' && s.conn.run("ROLLBACK") != nil {
			s.drop()
		}
		if refusal != nil {
			return refusal
		}
		return err
	}
	return nil
}

// rest pauses; ok is false when the storm was interrupted.
func (s *seat) rest(d time.Duration) (ok bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.crew.run.ctx.Done():
		return false
	}
}

// drop ends the connection without a word.
func (s *seat) drop() {
	if s.conn != nil {
		s.crew.run.drop(s.conn)
		s.conn = nil
	}
}

// leave ends the connection politely.
func (s *seat) leave() {
	if s.conn != nil {
		s.crew.run.leave(s.conn)
		s.conn = nil
	}
}

// loginFor is how a function logs in.
func (c *crew) loginFor(v *visit) login {
	if c.run.plan.SayDeadline && c.run.plan.Connections == Fresh {
		left := max(time.Millisecond, v.deadline()-c.run.now())
		return c.login.withOption(fmt.Sprintf("-c weir.deadline=%dms", left.Milliseconds()))
	}
	return c.login
}
