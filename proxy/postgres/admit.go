package postgres

import (
	"errors"
	"fmt"
	"time"

	"github.com/weirproxy/weir/breaker"
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
	if s.overslept && chunk[0] != pgwire.Terminate {
		s.fatal(oversleptError())
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
	if chunk[0] == pgwire.Query && len(chunk) < pgwire.HeaderSize+body && body <= longestCommand { // it may begin or end a block
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
	ticket, err := s.resource.gate.Admit()
	if err != nil {
		return s.refuse(chunk, err)
	}
	return s.borrow(chunk, ticket)
}

// borrow links the session to a server connection, now or later.
func (s *session) borrow(chunk []byte, ticket proxy.Ticket) []byte {
	k := s.w.newLink(s, ticket)
	r := s.resource
	server, err := r.pool.Acquire(&k.waiter, r.queueLength)
	if err != nil {
		k.queued = false
		k.end(breaker.Ignored)
		return s.refuse(chunk, s.asRefusal(err, k.waited()))
	}
	s.link = k
	if server == nil {
		s.hold(chunk)
		s.w.loop.Arm(&s.timer, r.queue.Wait, (*waitedOut)(s))
		if s.conn.Gone() {
			s.leave()
		}
		return nil
	}
	k.start(server)
	return chunk
}

// Run is called when the wait is over: with a server connection, or with a reason why there is none.
func (k *link) Run() {
	server, err := k.waiter.Answer()
	s := k.session
	if s == nil || s.link != k { // left in the meantime
		if server != nil {
			k.w.giveBack(server)
		}
		k.w.recycle(k)
		return
	}
	k.queued = false
	s.w.loop.Disarm(&s.timer)
	if err != nil {
		s.refuseWaiting(s.asRefusal(err, k.waited()))
		return
	}
	k.start(server)
	s.resume()
	s.advance()
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
	r := s.resource
	s.refuseWaiting(r.gate.QueueRefusal(proxy.QueueTimeout, "queue.wait", s.link.waited(), r.queue.Wait,
		fmt.Sprintf("%d waiting", r.pool.Budget().Waiting()), r.queue.Wait.String()))
}

// refuseWaiting takes the session out of the queue with a refusal.
func (s *session) refuseWaiting(why error) {
	k := s.link
	s.link = nil
	s.w.loop.Disarm(&s.timer)
	if k.queued && s.resource.pool.Abandon(&k.waiter) {
		k.queued = false
	}
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
		return r.gate.QueueRefusal(proxy.QueueFull, "queue.length", waited, r.queue.Wait,
			fmt.Sprintf("%d waiting", r.pool.Budget().Waiting()), fmt.Sprint(r.queueLength))
	case errors.Is(err, pool.ErrClosed):
		return r.gate.QueueRefusal(proxy.Draining, "drain", waited, 0, "shutting down", "none")
	}
	if _, ok := proxy.AsRefusal(err); ok {
		return err
	}
	return r.gate.BreakerRefusal(err, waited)
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
