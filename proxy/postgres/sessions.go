package postgres

import (
	"context"
	"time"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/proxy"
)

// lookedAtOnce is how many sessions of a loop are looked at before others of that loop have their turn.
const lookedAtOnce = 256

// Sessions lists the clients that fit, at most filter.Limit, in no order; more reports whether there are others. It looks at a few
// at a time, so that nobody has to wait for it: who comes or changes meanwhile may be missed.
func (s *Server) Sessions(ctx context.Context, filter proxy.SessionFilter) (found []proxy.Session, more bool, err error) {
	waiting := make(map[*worker][]*session)
	look := func(w *worker) error {
		rows, err := w.look(ctx, waiting[w], filter.State)
		found = append(found, rows...)
		waiting[w] = nil
		return err
	}
	for i := range registryShards {
		for _, c := range s.sessions.shard(i) {
			if filter.Resource != "" && c.resource.name != filter.Resource {
				continue
			}
			waiting[c.w] = append(waiting[c.w], c)
			if len(waiting[c.w]) < lookedAtOnce {
				continue
			}
			if err := look(c.w); err != nil {
				return nil, false, err
			}
			if len(found) > filter.Limit {
				return found[:filter.Limit], true, nil
			}
		}
	}
	for w := range waiting {
		if err := look(w); err != nil {
			return nil, false, err
		}
	}
	if len(found) > filter.Limit {
		return found[:filter.Limit], true, nil
	}
	return found, false, nil
}

// look has the loop look at some of its sessions. The loop may be gone: ctx ends the wait.
func (w *worker) look(ctx context.Context, sessions []*session, state string) ([]proxy.Session, error) {
	if len(sessions) == 0 {
		return nil, nil
	}
	answer := make(chan []proxy.Session, 1)
	w.loop.Post(eventloop.TaskFunc(func() {
		var rows []proxy.Session
		for _, s := range sessions {
			if row, ok := s.look(state); ok {
				rows = append(rows, row)
			}
		}
		answer <- rows
	}))
	select {
	case rows := <-answer:
		return rows, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// look describes a session that is there, and in the state, if one is given. On its loop's goroutine.
func (s *session) look(wanted string) (row proxy.Session, ok bool) {
	if s.dead || !s.conn.Open() { // or on its way to its loop
		return row, false
	}
	state, since := s.state()
	if wanted != "" && state != wanted {
		return row, false
	}
	row = proxy.Session{
		ID: s.key.pid, Resource: s.resource.name, User: s.user.Value(), Database: s.resource.database,
		ApplicationName: s.profile.Greeting.Parameters["application_name"],
		State:           state, StateMillis: max(0, time.Duration(s.w.loop.Now()-since).Milliseconds()), PinnedBy: s.pinnedBy(),
	}
	if addr := s.conn.RemoteAddr(); addr != nil {
		row.Client = addr.String()
	}
	switch {
	case s.walsender != nil:
		row.ServerPID = s.walsender.server.PID()
	case s.link != nil && s.link.server != nil:
		row.ServerPID = s.link.server.PID()
	}
	return row, true
}

// state is what the session is doing, and since when, by the loop's clock.
func (s *session) state() (name string, since int64) {
	k := s.link
	switch {
	case s.walsender != nil && s.walsender.idle():
		return proxy.Pinned, s.since
	case s.walsender != nil:
		return proxy.Active, s.since
	case k == nil && s.block.state != noBlock:
		return proxy.IdleInTransaction, s.since
	case k == nil:
		return proxy.Idle, s.since
	case k.server == nil:
		return proxy.Waiting, k.asked
	case !k.quiet():
		return proxy.Active, k.since
	case k.status != pgwire.Idle:
		return proxy.IdleInTransaction, k.since
	default:
		return proxy.Pinned, k.since
	}
}

// pinnedBy says why the session keeps its server connection, in the words of proxy.PinReasons.
func (s *session) pinnedBy() []string {
	reasons := []string{}
	k := s.link
	switch {
	case s.walsender != nil:
		return append(reasons, proxy.PinnedByReplication)
	case k == nil || k.server == nil:
		return reasons
	case s.resource.mode == Session:
		reasons = append(reasons, proxy.PinnedByMode)
	}
	for i, label := range touchLabels {
		if k.pinned&(1<<i) != 0 {
			reasons = append(reasons, label)
		}
	}
	if k.doubtful {
		reasons = append(reasons, proxy.PinnedByDoubt)
	}
	return reasons
}
