package pool

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/pgwire"
)

// resetTime is how long a server may take to come back to a clean state before it is closed instead. A cancel request that
// came before the statement has begun is without effect, so it is repeated.
const (
	resetTime   = 5 * time.Second
	cancelAgain = 500 * time.Millisecond
)

// Leftover is the state that a borrower leaves a server in.
type Leftover struct {
	Owed     int  // ReadyForQuery messages that have not come yet
	Status   byte // transaction status by the last ReadyForQuery
	Unsynced bool // extended-protocol messages were sent with no Sync behind them
	CopyIn   bool // the server waits for COPY data
	CopyEnds bool // the end of COPY data was sent before the server has asked for any
	Extended bool // the COPY, if there is one, was started by Execute, and ends with a Sync
	Dirty    bool // session state was changed: DISCARD ALL
	Cancel   bool // what runs is not wanted any more
	Broken   bool // a message was left unfinished: nothing can be said any more
	Look     bool // nothing is to be cleaned: the server is to report what has changed, or that it answers

	Within time.Duration // how long all of it may take; 0: resetTime

	Skip  int    // bytes of the server's current message that are still to come
	Carry []byte // what has come behind that; copied

	Then func() // is called on the loop when the server is released, or retired; nil: nobody wants to know
}

// then tells whoever wants to know.
func (l *Leftover) then() {
	if l.Then != nil {
		l.Then()
	}
}

// resetting brings a server back to a state in which it can be lent, without any client.
type resetting struct {
	s        *Server
	l        *eventloop.Loop
	left     Leftover
	handler  eventloop.Handler
	out      []byte // not yet written
	aborted  bool   // a message was sent that ends whatever has begun, COPY included, with an error
	cancelAt bool   // a cancel was sent: one more round trip proves that it has arrived; or that is all that is wanted
	waited   time.Duration
	ours     bool // what runs is our own cleaning: an error is the end
	lost     bool // how many ReadyForQuery come ahead of the answer to our ROLLBACK is not certain
	skip     int  // bytes of a long message that are still to come
	answered bool // something, since it was left
	farewell bool // the server has said that it ends the connection, so that its machine is there
	over     bool
}

// Reset cleans up behind a borrower that left: cancels what runs, takes and drops what the server still has to say, ends the
// transaction, drops session state, and releases the server. What does not succeed in time ends with Retire. The caller
// owns s and runs on its loop.
func (s *Server) Reset(l *eventloop.Loop, left Leftover) {
	running := left.Cancel && (left.Owed > 0 || left.Unsynced)
	if left.Broken || !s.Conn.Open() {
		s.toiling = running && left.Owed > 1 && s.Conn.Open()
		if running && s.Conn.Open() && !s.Conn.Gone() { // it would not notice that we close
			s.CancelSoon(l, nil)
		}
		s.Retire(l)
		left.then()
		return
	}
	r := &resetting{s: s, l: l, left: left, skip: left.Skip}
	r.handler = r
	s.lent.Store(&r.handler)
	l.Arm(&s.timer, cancelAgain, r)
	s.cleaning = r
	if running {
		s.CancelSoon(l, nil)
	}
	r.cancelAt = s.Cancels > 0 || left.Look
	s.carry = s.carry[:0]
	if !r.hear(append(l.Scratch[:0], left.Carry...)) {
		r.fail()
		return
	}
	switch {
	case left.CopyIn:
		r.failCopy()
	case left.Unsynced:
		r.abort()
	}
	r.read()
}

// cancelTime is how long a cancel request may take.
const cancelTime = 3 * time.Second

// cancelsAtOnce bounds the cancel requests under way for one server: each is a connection beyond the budget. A second one may
// be meant for the next statement of a transaction, a third would only repeat it.
const cancelsAtOnce = 2

// CancelSoon sends a cancel request in the background. The server must not be released before it has had its effect:
// [Server.Cancels] counts, on loop l, and [Server.Reset] waits for it. then, which may be nil, is called on no particular
// goroutine when it has.
func (s *Server) CancelSoon(l *eventloop.Loop, then func()) {
	if s.Cancels >= cancelsAtOnce {
		if then != nil {
			then()
		}
		return
	}
	s.Cancels++
	s.pool.budget.cancels.Go(func() {
		// The pool's end does not stop it: what runs must be stopped then above all.
		ctx, stop := context.WithTimeout(context.Background(), cancelTime)
		defer stop()
		err := s.Cancel(ctx)
		if err == nil {
			err = ctx.Err() // not acknowledged
		}
		if err != nil {
			s.pool.budget.log.Warn("cancel a query", "error", err)
		}
		l.Post(eventloop.TaskFunc(func() { s.cancelled(err) }))
		if then != nil {
			then()
		}
	})
}

// cancelled is called when a cancel request is over. One that was not acknowledged may still arrive, at any time: the
// server must not serve anyone else.
func (s *Server) cancelled(err error) {
	s.Cancels--
	s.unsafe = s.unsafe || err != nil
	switch {
	case s.cleaning != nil:
		s.cleaning.step()
	case s.closing != nil && err != nil && !s.closing.held(): // there is no server any more
		s.closing.finish()
	}
}

// Ready is called when the server has said something.
func (r *resetting) Ready(_ *eventloop.Loop, e eventloop.Events) {
	r.s.Conn.Note(e)
	if !r.over && e&eventloop.Writable != 0 {
		r.flush()
	}
	r.read()
}

// Fault gives the server up.
func (r *resetting) Fault() { r.fail() }

// Run is called when some time has passed.
func (r *resetting) Run() {
	if r.waited += cancelAgain; r.waited >= cmp.Or(r.left.Within, resetTime) {
		r.s.toiling = r.answered && r.left.Owed > 0 // a long line of statements, of which each has to be cancelled
		r.fail()
		return
	}
	if r.left.Cancel && r.left.Owed > 0 && !r.ours {
		r.cancelAt = true
		r.s.CancelSoon(r.l, nil)
	}
	r.l.Arm(&r.s.timer, cancelAgain, r)
}

var tagRollback = []byte("ROLLBACK\x00")

// failCopy ends COPY data. In the extended protocol, a Sync that was sent behind the command, ahead of the data, is ignored with them,
// unless a cancel request comes between the two: so it is what is answered to a ROLLBACK of ours that tells that the server has come so
// far.
func (r *resetting) failCopy() {
	r.left.CopyIn = false
	r.out = pgwire.AppendMessage(r.out, pgwire.CopyFail, []byte("the client has left\x00"))
	if r.left.Extended {
		r.lost = true
		r.left.Owed = 0
		r.sync()
		r.out = pgwire.AppendQuery(r.out, "ROLLBACK")
	}
	r.flush()
}

// abort ends a batch that the client has not ended: with an error, so that none of it is committed. Should COPY have begun by then, it
// must end as COPY does: any other message within its data would cost the connection. Outside COPY that is ignored.
func (r *resetting) abort() {
	r.aborted = true
	r.out = pgwire.AppendMessage(r.out, pgwire.CopyFail, []byte("the client has left\x00"))
	r.out = pgwire.AppendMessage(r.out, pgwire.Describe, []byte("Sthe client has left before Sync\x00"))
	r.sync()
}

func (r *resetting) sync() {
	r.left.Unsynced = false
	r.left.Owed++
	r.out = pgwire.AppendMessage(r.out, pgwire.Sync)
	r.flush()
}

func (r *resetting) query(sql string) {
	r.ours = true
	r.left.Owed++
	r.out = pgwire.AppendQuery(r.out, sql)
	r.flush()
}

func (r *resetting) flush() {
	n, err := r.s.Conn.Write(r.out)
	r.out = r.out[n:]
	if err != nil && !errors.Is(err, eventloop.ErrAgain) {
		r.fail()
	}
}

func (r *resetting) fail() {
	if r.over {
		return
	}
	r.finish()
	if r.left.Within == 0 && !r.farewell { // else it is one of those that are tested
		r.s.pool.Suspect(r.s.address)
	}
	r.s.Retire(r.l)
	r.left.then()
}

// read takes what the server says until it has to be waited for.
func (r *resetting) read() {
	for !r.over && r.s.Conn.Readable() {
		n := copy(r.l.Scratch, r.s.carry)
		m, err := r.s.Conn.Read(r.l.Scratch[n:])
		if errors.Is(err, eventloop.ErrAgain) {
			break
		}
		if err != nil || !r.hear(r.l.Scratch[:n+m]) {
			r.fail()
			return
		}
	}
	r.step()
}

// hear reports whether what the server said leaves hope.
func (r *resetting) hear(b []byte) bool {
	for {
		drop := min(r.skip, len(b))
		b, r.skip = b[drop:], r.skip-drop
		if len(b) < pgwire.HeaderSize {
			break
		}
		body, err := pgwire.Length(b)
		if err != nil {
			return false
		}
		switch b[0] {
		case pgwire.ReadyForQuery, pgwire.ParameterStatus, pgwire.ErrorResponse:
			if len(b) < pgwire.HeaderSize+body && len(b) < eventloop.ScratchSize/2 {
				r.s.carry = append(r.s.carry[:0], b...)
				return true
			}
			part := b[pgwire.HeaderSize:min(len(b), pgwire.HeaderSize+body)]
			if !r.heard(b[0], part) {
				return false
			}
		case pgwire.CopyInResponse:
			if r.left.CopyEnds || r.aborted {
				break
			}
			r.failCopy()
		case pgwire.CommandComplete:
			if r.lost && len(b) < pgwire.HeaderSize+body {
				r.s.carry = append(r.s.carry[:0], b...)
				return true
			}
			if r.lost && bytes.Equal(b[pgwire.HeaderSize:][:body], tagRollback) {
				r.lost = false
			}
		}
		r.skip = pgwire.HeaderSize + body
	}
	r.s.carry = append(r.s.carry[:0], b...)
	return true
}

func (r *resetting) heard(t byte, body []byte) bool {
	switch t {
	case pgwire.ReadyForQuery:
		if len(body) != 1 || r.left.Owed == 0 {
			return false
		}
		if r.lost {
			break
		}
		r.left.Owed--
		r.left.Status = body[0]
		r.answered = true
	case pgwire.ParameterStatus:
		r.s.noteParameter(body, r.left.Look)
	case pgwire.ErrorResponse:
		e := pgwire.ParseError(body)
		r.farewell = r.farewell || e.Fatal()
		return !e.Fatal() && (!r.ours || r.left.Owed > 1) // what is said ahead of the last may fail
	}
	return true
}

// step does what comes next once the server has answered all that was asked.
func (r *resetting) step() {
	if r.over || r.left.Owed > 0 || r.s.Cancels > 0 || r.skip > 0 || len(r.s.carry) > 0 {
		return
	}
	switch {
	case r.cancelAt:
		r.cancelAt = false
		r.sync()
	case r.left.Status != pgwire.Idle && r.ours:
		r.fail()
	case r.left.Status != pgwire.Idle:
		r.query("ROLLBACK")
	case r.left.Dirty:
		r.left.Dirty = false
		r.s.Discarded()
		r.query(unhurried)
		r.query(discardAll)
	case !r.s.Settings.MayRest():
		r.query(r.s.toRest())
	default:
		r.finish()
		r.s.pool.Release(r.s)
		r.left.then()
	}
}

func (r *resetting) finish() {
	r.over = true
	r.s.cleaning = nil
	r.l.Disarm(&r.s.timer)
}
