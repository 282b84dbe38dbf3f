package postgres

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/pool"
	"github.com/weirproxy/weir/proxy"
)

// begin looks at the first message of a transaction, admits it, and borrows a server connection or waits for one. It
// returns what is left of chunk to be used.
func (s *session) begin(chunk []byte) []byte {
	body, err := pgwire.Length(chunk)
	if err != nil {
		s.violated("length", err.Error())
		return nil
	}
	if s.parting != notParted && chunk[0] != pgwire.Terminate {
		s.fatal(s.parting.error())
		return nil
	}
	switch chunk[0] {
	case pgwire.Terminate:
		s.leave()
		return nil
	case pgwire.Sync, pgwire.Flush: // nothing is going on: no server is needed to say so, unless to say that they are malformed
		if body > 0 {
			break
		}
		if chunk[0] == pgwire.Sync {
			s.write(pgwire.AppendReadyForQuery(nil, s.block.status()))
		}
		s.skip = pgwire.HeaderSize
		return chunk
	case pgwire.CopyData, pgwire.CopyDone, pgwire.CopyFail: // ignored outside COPY, as the server does
		s.skip = pgwire.HeaderSize + body
		return chunk
	case pgwire.Query, pgwire.FunctionCall, pgwire.Parse, pgwire.Bind, pgwire.Describe, pgwire.Execute, pgwire.Close:
	default:
		s.violated("type", fmt.Sprintf("invalid frontend message type %d", chunk[0]))
		return nil
	}
	if len(chunk) < min(pgwire.HeaderSize+body, maxHeld) { // whose client is slow holds nothing yet
		s.hold(chunk)
		return nil
	}
	if s.runBlock(chunk, body) {
		return chunk
	}
	if s.block.state == failed {
		if !s.endsBlock(chunk, body) {
			return s.refuse(chunk, errAborted)
		}
		s.block = block{}
	}
	k := s.w.newLink(s)
	admitted, err := s.resource.gate.Admit(&k.ticket, s.request(chunk), k)
	if !admitted && err == nil {
		k.waits = forSlot
	} else if err == nil {
		err = k.borrow()
	}
	if err != nil {
		k.end(breaker.Ignored)
		return s.refuse(chunk, err)
	}
	s.link = k
	if k.waits != forNothing {
		s.await(chunk)
		return nil
	}
	return chunk
}

// borrow gets the link, which was admitted, a server connection, now or later. Its session has yet to be linked to it.
func (k *link) borrow() error {
	server, err := k.session.resource.pool.Acquire(&k.waiter, anyNumber)
	switch {
	case err != nil:
		return k.session.asRefusal(err, k.waited())
	case server == nil:
		k.waits = forConnection
		return nil
	}
	return k.startOn(server)
}

// startOn is start, unless the server connection is one to be replaced: then there will be another.
func (k *link) startOn(server *pool.Server) error {
	if k.lacksBuffers(server) {
		server.RetireSoon()
		return k.borrow()
	}
	k.start(server)
	return nil
}

// anyNumber may wait in the pool: those who were admitted are few.
const anyNumber = math.MaxInt

// await has the session wait with what it has received.
func (s *session) await(chunk []byte) {
	s.hold(chunk)
	if s.resource.softPins {
		s.w.loop.Arm(&s.link.stallTimer, reclaimAfter, (*reclaiming)(s.link))
	}
	if patience := s.link.ticket.Patience(); patience > 0 {
		s.w.loop.Arm(&s.timer, patience, (*waitedOut)(s))
	} else {
		s.w.loop.Disarm(&s.timer)
	}
	if s.conn.Gone() {
		s.leave()
	}
}

// Wake is called by the gate, wherever, when the wait for a slot is over.
func (k *link) Wake() { k.w.loop.Post(k) }

// Run is called when a wait is over: with a slot or a server connection, or with a reason why there is none.
func (k *link) Run() {
	s, waits := k.session, k.waits
	k.waits = forNothing
	k.w.loop.Disarm(&k.stallTimer)
	if s == nil { // left in the meantime
		if waits == forConnection {
			if server, _ := k.waiter.Answer(); server != nil {
				k.w.giveBack(server)
			}
		}
		k.ticket.Leave(k.w.loop.Now(), limiter.Use{})
		k.w.recycle(k)
		return
	}
	var err error
	if waits == forSlot {
		if err = k.ticket.Answer(k.w.loop.Now()); err == nil {
			err = k.borrow()
		}
	} else {
		var server *pool.Server
		if server, err = k.waiter.Answer(); err == nil {
			err = k.startOn(server)
		} else {
			err = s.asRefusal(err, k.waited())
		}
	}
	switch {
	case err != nil:
		s.refuseWaiting(err)
	case k.waits == forNothing:
		s.w.loop.Disarm(&s.timer)
		s.resume()
		s.advance()
	}
}

// giveBack returns a server connection that was lent but not used.
func (w *worker) giveBack(server *pool.Server) {
	_ = server.Conn.MoveTo(w.loop) // it may be watched by the loop of the one who had it before
	server.Pool().Release(server)
}

// waitedOut is a session that has waited too long.
type waitedOut session

func (t *waitedOut) Run() {
	s := (*session)(t)
	if refused := s.resource.notLetIn(); refused != nil && s.link.waits == forConnection {
		s.refuseWaiting(s.asRefusal(refused, s.link.waited()))
		return
	}
	s.refuseWaiting(s.resource.gate.TimedOut(&s.link.ticket, s.w.loop.Now()))
}

// refuseWaiting takes the session out of the queue with a refusal.
func (s *session) refuseWaiting(why error) {
	k := s.link
	s.link = nil
	s.w.loop.Disarm(&s.timer)
	outcome := breaker.Ignored
	if refusal, ok := proxy.AsRefusal(why); ok && refusal.Reason == proxy.Breaker {
		outcome = breaker.Failure // it was this one's probe that failed
	}
	k.end(outcome)
	n := copy(s.w.loop.Scratch, s.carry)
	s.forget()
	if s.w.srv.draining.Load() {
		s.refuse(s.w.loop.Scratch[:n], why)
		s.drain()
		return
	}
	s.take(s.refuse(s.w.loop.Scratch[:n], why))
	s.rest()
	s.advance()
}

// asRefusal says in the terms of the table why the pool lends nothing.
func (s *session) asRefusal(err error, waited time.Duration) error {
	r := s.resource
	switch {
	case errors.Is(err, pool.ErrQueueFull):
		return r.gate.QueueRefusal(s.caller, proxy.QueueFull, "queue.length", waited, r.queue.Wait,
			fmt.Sprintf("%d waiting", r.pool.Budget().Waiting()), fmt.Sprint(r.queueLength))
	case errors.Is(err, pool.ErrClosed):
		return r.gate.QueueRefusal(s.caller, proxy.Draining, "drain", waited, 0, "shutting down", "none")
	}
	if _, ok := proxy.AsRefusal(err); ok {
		return err
	}
	return r.gate.BreakerRefusal(s.caller, err, waited)
}

// refuse tells the client why its transaction does not start; the connection stays. chunk begins with the refused
// message. Of a batch of the extended protocol everything is dropped up to its Sync, as the server does after an error.
func (s *session) refuse(chunk []byte, why error) []byte {
	reply := pgwire.AppendError(nil, said(why))
	body, _ := pgwire.Length(chunk)
	s.skip = pgwire.HeaderSize + body
	if s.block.state == begun {
		s.block.state = failed
	}
	if chunk[0] == pgwire.Query || chunk[0] == pgwire.FunctionCall || chunk[0] == pgwire.Sync {
		reply = pgwire.AppendReadyForQuery(reply, s.block.status())
	} else {
		s.untilSync = true
	}
	s.write(reply)
	return chunk
}

// said is what the client reads of a refusal.
func said(why error) *pgwire.Error {
	var e *pgwire.Error
	if refusal, ok := proxy.AsRefusal(why); ok {
		return &pgwire.Error{
			Severity: "ERROR", Code: refusal.SQLSTATE, Message: refusal.Message, Detail: refusal.Detail(), Hint: refusal.Hint(),
		}
	}
	if errors.As(why, &e) {
		return e
	}
	return &pgwire.Error{Severity: "ERROR", Code: "XX000", Message: why.Error()}
}

// discard drops what belongs to a refused message or batch, and returns what is left of chunk.
func (s *session) discard(chunk []byte) []byte {
	n := min(s.skip, len(chunk))
	s.skip -= n
	chunk = chunk[n:]
	if s.skip > 0 || !s.untilSync || len(chunk) == 0 {
		return chunk
	}
	if len(chunk) < pgwire.HeaderSize {
		s.hold(chunk)
		return nil
	}
	body, err := pgwire.Length(chunk)
	if err != nil {
		s.violated("length", err.Error())
		return nil
	}
	s.skip = pgwire.HeaderSize + body
	switch chunk[0] {
	case pgwire.Terminate:
		s.leave()
	case pgwire.Sync:
		s.untilSync = false
		s.write(pgwire.AppendReadyForQuery(nil, s.block.status()))
	}
	return chunk
}

// violated ends a session whose client does not speak the protocol. kind is for the metrics.
func (s *session) violated(kind, what string) {
	s.w.srv.protocol.Add(kind, 1)
	s.fatal(&pgwire.Error{Code: proxy.Protocol.SQLSTATE, Message: what})
}
