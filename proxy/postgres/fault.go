package postgres

import (
	"fmt"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/pgwire"
)

// A panic in what is done for a session is a mistake of weir's. It ends that session, and closes the server connection that it has, whose
// state nobody knows any more; the others on the loop go on. It is logged with its stack, and counted.

// panicked is told of every panic on a loop.
func (s *Server) panicked(value any, stack []byte) {
	s.panics.Add(1)
	s.log.Error("panic: the session it happened in is ended", "value", fmt.Sprint(value), "stack", string(stack))
}

// Fault ends the session after a panic. Of its state as little as possible is relied on.
func (s *session) Fault() {
	k := s.link
	s.link = nil
	quiet := len(s.out) == 0 && s.conn.Open() && (k == nil || !k.midMessage())
	s.dead = true
	if k != nil {
		k.giveAllBack()
	}
	if quiet {
		_, _ = s.conn.Write(pgwire.AppendError(nil, &pgwire.Error{
			Severity: "FATAL", Code: "XX000", Message: "internal error of the proxy; the session is ended",
			Detail: "Whether the statement took effect is unknown.",
		}))
	}
	s.close()
}

// giveAllBack gives back what the link holds that others want. It is not used again.
func (k *link) giveAllBack() {
	if k.server != nil {
		k.server.Retire(k.w.loop)
	}
	if !k.detach(breaker.Ignored) {
		k.ticket.Leave(k.w.loop.Now(), limiter.Use{})
	}
}

// Fault ends the session of the link. One that has none any more gives back what it holds.
func (k *link) Fault() {
	if k.session != nil {
		k.session.Fault()
		return
	}
	k.ticket.Leave(k.w.loop.Now(), limiter.Use{})
}

// The tasks of sessions and links belong to them.

func (t *goOn) Fault()               { (*session)(t).Fault() }
func (t *idledOut) Fault()           { (*session)(t).Fault() }
func (t *lingered) Fault()           { (*session)(t).Fault() }
func (t *waitedOut) Fault()          { (*session)(t).Fault() }
func (t *queriedOut) Fault()         { (*session)(t).Fault() }
func (t *unanswered) Fault()         { (*session)(t).Fault() }
func (t *idledInTransaction) Fault() { (*session)(t).Fault() }
func (t *walsenderIdled) Fault()     { (*session)(t).Fault() }
func (t *stalled) Fault()            { (*link)(t).Fault() }
func (t *reclaiming) Fault()         { (*link)(t).Fault() }
