package postgres

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"hash/fnv"
	"sync"
	"time"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/pgwire"
)

// cancelKey is what a client gets as BackendKeyData, and gives back to cancel what it is doing. It is the session's own and
// says nothing about the server connection that happens to serve it.
type cancelKey struct {
	pid    uint32
	length uint8
	secret [32]byte
}

// Lengths of the secret: protocol 3.0 has room for four bytes, 3.2 for up to 256; PostgreSQL 18 sends 32.
const (
	shortSecret = 4
	longSecret  = 32
)

// The number of a cancel key, which clients take for a signed one, names the weir that the session lives on, so that any weir of a
// fleet that gets a cancel request knows whose it is; the rest is random.
const (
	weirBits    = 10
	sessionBits = 31 - weirBits
)

// NumberOf is the number by which cancel keys name the weir of that id, from 0 to 1023. Weirs may share one: a cancel request is then
// for either of them, and its secret decides.
func NumberOf(id string) uint16 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	sum := h.Sum32()
	return uint16((sum ^ sum>>weirBits ^ sum>>(2*weirBits)) & (1<<weirBits - 1))
}

func (c *cancelKey) bytes() []byte { return c.secret[:c.length] }

const registryShards = 64

// registry finds sessions by the number in their key. It also is the list of all sessions.
type registry struct {
	weir   uint16 // see NumberOf
	shards [registryShards]struct {
		sync.Mutex
		sessions map[uint32]*session
	}
}

// add gives s a key of its own, and makes it known.
func (r *registry) add(s *session, length int) {
	var seed [4]byte
	s.key.length = uint8(length)
	_, _ = rand.Read(s.key.bytes()) // never fails
	for {
		_, _ = rand.Read(seed[:])
		pid := uint32(r.weir)<<sessionBits | binary.NativeEndian.Uint32(seed[:])&(1<<sessionBits-1)
		if pid != 0 && r.put(pid, s) {
			s.key.pid = pid
			return
		}
	}
}

func (r *registry) put(pid uint32, s *session) bool {
	shard := &r.shards[pid%registryShards]
	shard.Lock()
	defer shard.Unlock()
	if shard.sessions[pid] != nil {
		return false
	}
	if shard.sessions == nil {
		shard.sessions = make(map[uint32]*session)
	}
	shard.sessions[pid] = s
	return true
}

func (r *registry) remove(s *session) {
	shard := &r.shards[s.key.pid%registryShards]
	shard.Lock()
	defer shard.Unlock()
	if shard.sessions[s.key.pid] == s {
		delete(shard.sessions, s.key.pid)
	}
}

// find returns the session that the key was given to. The secret is compared in constant time.
func (r *registry) find(pid uint32, secret []byte) *session {
	shard := &r.shards[pid%registryShards]
	shard.Lock()
	defer shard.Unlock()
	if s := shard.sessions[pid]; s != nil && subtle.ConstantTimeCompare(s.key.bytes(), secret) == 1 {
		return s
	}
	return nil
}

// each calls f for every session there is now.
func (r *registry) each(f func(*session)) {
	for i := range r.shards {
		for _, s := range r.shard(i) {
			f(s)
		}
	}
}

// shard lists the sessions of one shard.
func (r *registry) shard(i int) []*session {
	shard := &r.shards[i]
	shard.Lock()
	defer shard.Unlock()
	all := make([]*session, 0, len(shard.sessions))
	for _, s := range shard.sessions {
		all = append(all, s)
	}
	return all
}

// preludeTime is how long a cancel request waits for the server to be done with what weir itself has put ahead of the
// client's statement.
const preludeTime = time.Second

// cancel deals with a cancel request for s. It returns when the request has had its effect: the client may take the end of its
// request for a sign that nothing of it comes late.
func (s *session) cancel() {
	for began := time.Now(); !s.tryToCancel() && time.Since(began) < preludeTime; {
		time.Sleep(time.Millisecond)
	}
}

// tryToCancel does it, unless the server is busy with something of weir's own, which would fail in the place of the client's
// statement.
func (s *session) tryToCancel() (done bool) {
	over := make(chan struct{})
	done = true
	s.w.loop.Post(eventloop.TaskFunc(func() {
		k := s.link
		switch {
		case s.walsender != nil && !s.walsender.idle():
			s.walsender.server.CancelSoon(s.w.loop, func() { close(over) })
			return
		case s.dead || k == nil: // just finished: nothing to cancel, and nobody else's query either
		case k.server == nil:
			k.unwanted()
			s.cancelWaiting()
		case k.answers.inquired(): // nothing of the client's is running
		case k.answers.prelude():
			done = false
		case !k.quiet():
			k.unwanted()
			k.server.CancelSoon(s.w.loop, func() { close(over) })
			return
		}
		close(over)
	}))
	<-over
	return done
}

// cancelWaiting takes the session out of the queue as if the server had been running its statement.
func (s *session) cancelWaiting() {
	s.refuseWaiting(&pgwire.Error{
		Severity: "ERROR", Code: "57014", Message: "canceling statement due to user request",
		Detail: "not executed; it was waiting for a server connection",
	})
}
