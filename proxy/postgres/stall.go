package postgres

import (
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/proxy"
)

// A server connection is kept from others while the server works. While it waits for its client in the middle of something, that
// client may be frozen, or gone, or hostile: it has client_stall to go on, or idle_in_transaction where that is shorter, as it is
// silent inside a transaction. Then what it began is cancelled and rolled back, and others have the connection.

// stall is what of a client is waited for.
type stall byte

const (
	noStall      stall = iota
	stallMessage       // the rest of a message
	stallBatch         // a Sync, or more of what it ends
	stallCopy          // data of COPY, or their end
	stallReading       // that it reads what it has asked for

	stalls = iota - 1
)

// stallProgress is how much of a client counts as going on, in bytes: of what it sends or reads within the time that it has. A
// whole message does, too.
const stallProgress = 16 << 10

// stallCounts counts the clients that have lost their server connection so, by what was waited for.
type stallCounts [stalls]atomic.Int64

// counts are the counts by the words of proxy.StallReasons.
func (c *stallCounts) counts() map[string]int64 {
	out := make(map[string]int64, stalls)
	for i := range c {
		out[proxy.StallReasons[i].Name] = c[i].Load()
	}
	return out
}

// stallLimit is how long a client may keep a server connection waiting; 0: as long as it likes.
func (t *Timeouts) stallLimit() time.Duration {
	if t.IdleInTransaction > 0 && (t.ClientStall == 0 || t.IdleInTransaction < t.ClientStall) {
		return t.IdleInTransaction
	}
	return t.ClientStall
}

// waitsFor is what of the client is waited for now, in the middle of something.
func (k *link) waitsFor() stall {
	s := k.session
	switch {
	case len(s.out) > 0 || s.conn.Unsent():
		return stallReading
	case len(k.upOut) > 0, k.held, k.ending != passOn, k.repeatFrom > 0: // the server's turn
		return noStall
	case k.copyIn:
		return stallCopy
	case k.owesWhole():
		return noStall
	case k.upSkip > 0 || len(s.carry) > 0:
		return stallMessage
	case k.unsynced && !k.awaitsFlushed():
		return stallBatch
	}
	return noStall
}

// owesWhole reports whether the server has something to answer that ends with ReadyForQuery. It cannot answer a Query of which it has
// not had all.
func (k *link) owesWhole() bool {
	owed := k.answers.owed()
	if k.upSkip > 0 && k.answers.endsWith(queried) {
		owed--
	}
	return owed > 0
}

// awaitsFlushed reports whether the server still has something to answer, without a Sync, as it was asked by a Flush. In pool mode
// session that is not known.
func (k *link) awaitsFlushed() bool {
	return k.flushed && (k.session.resource.mode == Session || !k.answers.empty())
}

// watchStall begins the time that the client has, or ends it.
func (k *link) watchStall() {
	if k.stalling = k.waitsFor(); k.stalling == noStall {
		k.w.loop.Disarm(&k.stallTimer)
		return
	}
	if !k.stallTimer.Armed() {
		k.timeStall()
	}
}

func (k *link) timeStall() {
	if limit := k.session.resource.timeouts.stallLimit(); limit > 0 {
		k.stallFrom = k.progress
		k.w.loop.Arm(&k.stallTimer, limit, (*stalled)(k))
	}
}

// stalled is a link whose client has kept the server connection waiting.
type stalled link

func (t *stalled) Run() {
	k := (*link)(t)
	if k.progress-k.stallFrom >= stallProgress {
		k.timeStall()
		return
	}
	k.stalls(stalledOut)
}

// stalls takes the server connection from a client that keeps it waiting. The client is told why when it goes on, or cut off if it
// does not read.
func (k *link) stalls(why parting) {
	s, on := k.session, k.stalling
	name := proxy.StallReasons[on-1].Name
	s.resource.stalls[on-1].Add(1)
	k.w.srv.log.Warn("a client kept a server connection waiting; what it began is rolled back", "resource", s.resource.name,
		"user", s.user.Value(), "client", s.conn.RemoteAddr(), "reason", name, "timeout", partings[why].setting)
	if on == stallReading {
		k.spoiled = true
		s.leave()
		return
	}
	midway := k.upSkip > 0 || len(s.carry) > 0
	k.abandon()
	s.part(why)
	s.midway = midway
	s.forget()
}

// parting is why a client has lost its transaction, which it has yet to be told.
type parting byte

const (
	notParted parting = iota
	idledInBlock
	stalledOut
	queriedTooLong
)

var partings = [...]struct{ setting, code, message string }{
	idledInBlock:   {"idle_in_transaction", "25P03", "terminating connection due to idle-in-transaction timeout"},
	stalledOut:     {"client_stall", "25P03", "terminating connection because the client stopped in the middle of a request"},
	queriedTooLong: {"query", queryCanceled, "terminating connection due to statement timeout"},
}

const queryCanceled = "57014"

// part has the client told why it has lost its transaction when it goes on: it may be frozen, and what it is sent now it would find
// only behind the reset of its own next write.
func (s *session) part(why parting) {
	s.parting = why
	s.rest()
}

// error is what a client is told.
func (p parting) error() *pgwire.Error {
	return &pgwire.Error{Code: partings[p].code, Message: partings[p].message, Detail: "The transaction was rolled back."}
}

// timeQuery begins the time that the server has for an answer.
func (k *link) timeQuery() {
	k.countIdle()
	k.since = k.w.loop.Now()
	s := k.session
	if limit := s.resource.timeouts.Query; limit > 0 {
		k.w.loop.Arm(&s.timer, limit, (*queriedOut)(s))
		return
	}
	k.w.loop.Disarm(&s.timer)
}

// queriedOut is a session whose statement has taken too long.
type queriedOut session

// cancelGrace is how long a server has to answer when it was told to cancel a statement.
const cancelGrace = 2 * time.Second

func (t *queriedOut) Run() {
	s := (*session)(t)
	k := s.link
	switch {
	case k == nil || k.server == nil:
	case k.stalling != noStall:
		k.stalls(queriedTooLong)
	case !k.answers.empty():
		k.server.CancelSoon(k.w.loop, nil)
		k.heardBefore = k.answers.heard
		k.w.loop.Arm(&s.timer, cancelGrace, (*unanswered)(s))
	}
}

// unanswered is a session whose server was told to cancel a statement.
type unanswered session

// Run gives up a server connection on which nothing ends: the server may be stuck, or gone without having said so.
func (t *unanswered) Run() {
	s := (*session)(t)
	k := s.link
	switch {
	case k == nil || k.server == nil || k.answers.empty():
	case k.answers.heard != k.heardBefore: // that one has ended; this is the next
		k.w.loop.Arm(&s.timer, s.resource.timeouts.Query, (*queriedOut)(s))
	default:
		k.giveUp()
	}
}

// giveUp ends a session whose server does not end what it was told to cancel.
func (k *link) giveUp() {
	k.w.srv.log.Warn("a server does not answer a cancel request; its connection is given up", "resource", k.session.resource.name, "server_pid", k.server.PID())
	k.silent = true
	k.lost("no answer to a statement that ran into timeouts.query, nor to its cancellation")
	k.session.fatal(&pgwire.Error{
		Code: queryCanceled, Message: "canceling statement due to statement timeout",
		Detail: "The server did not answer. Whether the statement took effect is unknown.",
	})
}

func (k *link) timeIdleInTransaction() {
	k.since, k.idles = k.w.loop.Now(), true
	s := k.session
	if limit := s.resource.timeouts.IdleInTransaction; limit > 0 {
		k.w.loop.Arm(&s.timer, limit, (*idledInTransaction)(s))
		return
	}
	k.w.loop.Disarm(&s.timer)
}

type idledInTransaction session

// Run frees the server connection.
func (t *idledInTransaction) Run() {
	s := (*session)(t)
	if k := s.link; k != nil && k.quiet() {
		k.abandon()
		s.part(idledInBlock)
	}
}
