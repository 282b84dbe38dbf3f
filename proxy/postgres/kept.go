package postgres

import (
	"sync"
	"time"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/pgwire"
)

// Sessions that keep their server connection between transactions keep it from others. Where the configuration does not say how many may,
// a quarter of the budget may in any case, and more may as long as nobody waits for a server connection: then the one that has rested
// longest, for a second at least unless it has kept its own for long, loses that, and what it has left there.

// kept are the sessions that rest with a server connection which others may take. Safe for all goroutines; its zero value is ready.
type kept struct {
	mu       sync.Mutex
	sessions map[*session]keptSince
}

// keptSince is since when a session has rested, and kept its server connection, by its loop's clock.
type keptSince struct{ rested, kept int64 }

func (k *kept) add(s *session, since keptSince) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sessions == nil {
		k.sessions = make(map[*session]keptSince)
	}
	k.sessions[s] = since
}

func (k *kept) remove(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.sessions, s)
}

// takeOldest takes out the session that has rested longest, of those that have rested, or kept their connection, for long enough; nil: there
// is none.
func (k *kept) takeOldest(now int64) (oldest *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	rested := now
	for s, since := range k.sessions {
		if since.rested <= rested && (now-since.rested > int64(leastRest) || now-since.kept > int64(longestKept)) {
			oldest, rested = s, since.rested
		}
	}
	delete(k.sessions, oldest)
	return oldest
}

// mayBeTaken reports whether the link rests with a server connection that others may take.
func (k *link) mayBeTaken() bool {
	r := k.session.resource
	return r.softPins && r.mode != Session && k.pinned != 0
}

// unkeep is called when the link rests no more.
func (k *link) unkeep() {
	if k.admitNext && k.mayBeTaken() {
		k.session.resource.kept.remove(k.session)
	}
}

// reclaimAfter is how long one waits for a server connection before somebody has to give up a kept one, and then again. leastRest is how
// long that one must have rested: who is busy will soon be gone. Who has kept its connection for longestKept is not.
const (
	reclaimAfter = 100 * time.Millisecond
	leastRest    = time.Second
	longestKept  = 3 * time.Second
)

// reclaiming is a link that waits for a server connection.
type reclaiming link

func (w *reclaiming) Run() {
	k := (*link)(w)
	k.session.resource.reclaim(k.w.loop.Now())
	k.w.loop.Arm(&k.stallTimer, reclaimAfter, w)
}

// reclaim has a session give up the server connection that it keeps, for somebody who waits for one.
func (r *resource) reclaim(now int64) {
	if !r.softPins || r.pinned.Load() <= int64(r.mostPinned) {
		return
	}
	if s := r.kept.takeOldest(now); s != nil {
		s.w.loop.Post(eventloop.TaskFunc(s.giveUpKept))
	}
}

// giveUpKept ends a session that rests with a server connection. It is told at once: what it listens to, for one, it would wait for in vain.
func (s *session) giveUpKept() {
	k := s.link
	if s.dead || k == nil || k.server == nil || !k.admitNext || !k.quiet() || !k.mayBeTaken() {
		return
	}
	s.w.srv.log.Warn("a session loses the server connection that it has kept, for others wait for one", "resource", s.resource.name,
		"user", s.user.Value(), "client", s.conn.RemoteAddr(), "reason", k.pinned.String())
	s.fatal(&pgwire.Error{
		Code: "53300", Message: "terminating connection: others wait for the server connection that this session keeps (" + k.pinned.String() + ")",
		Detail: "More sessions keep one than resources." + s.resource.name + ".pinned, a quarter of the connections.",
		Hint:   "set pinned, or use pool_mode: session",
	})
}
