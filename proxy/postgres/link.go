package postgres

import (
	"errors"
	"time"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/pool"
	"github.com/weirproxy/weir/proxy"
)

// link is a client that has, or waits for, a server connection: one transaction, or longer where the pool mode or the state
// of the session asks for it. Links are reused; a session holds one only as long as it needs it.
type link struct {
	session *session // nil once ended
	server  *pool.Server
	w       *worker
	handler eventloop.Handler // the link itself, where the server finds it
	waiter  pool.Waiter
	ticket  proxy.Ticket
	waits   wait
	asked   int64       // when it asked to be admitted, by the loop's clock
	began   int64       // when it got the server
	use     limiter.Use // of the slot, so far
	timed   bool        // what was asked first was answered
	spoiled bool        // that failed, or the server had to wait for the client: its time says nothing
	idles   bool        // the server waits for the client, in a transaction
	since   int64       // it has been as it is: running a statement, idle in a transaction, or kept; see session.state

	// Towards the server.
	upSkip   int    // bytes of the current message that are still to be passed on
	scanning bool   // they are SQL
	partly   bool   // of which some has passed
	whole    []byte // all of it, if it came at once; valid while it passes
	plainly  plainly
	words    scanner  // looks for statements that leave something behind
	keeping  *content // they are the text of this statement
	text     []byte   // as much of it as has come
	outer    touch    // what was found before them
	names    []string // of parameters that were set and have to be asked for by name
	seam     []byte   // the end of the piece of a text that has passed last
	forget   bool     // whether, before it, prepared statements were going to be gone
	upOut    pending  // for the server, not yet written
	unsynced bool     // messages of the extended protocol were sent since the last Sync
	skipping bool     // since an error the server skips everything up to the next Sync
	probing  bool     // it has been asked whether it does
	block    block    // that it has been told of

	ended       bool     // the batch has bound what ends a failed transaction block
	fresh       bool     // nothing was executed in the transaction so far
	recording   bool     // the batch may have to be said again: see repeats
	repeated    bool     // no more
	record      []byte   // what was sent of it
	repeatFrom  int      // where in the record it begins, plus one, once it is going to be said again
	portals     []portal // of the transaction, to which DEALLOCATE is bound
	boundName   []byte   // the statement of the last Bind, where the client has not been told what it returns
	boundNumber uint64   // and its number; 0: it has been told, or there is none

	executes   bool // there was an Execute since the last Sync
	forgetting bool // the transaction has bound, or executed, what may be DEALLOCATE or DISCARD
	altering   bool // likewise, what may change the schema
	tampering  bool // likewise, what may change what is prepared without saying so
	doubted    bool // it is not certain any more what is prepared: see reconsider
	hurried    bool // the server has been asked to answer what it was sent

	ending     verdict // a message that ends the session, once what was asked before it is answered; passOn: none
	endingType byte    // of that message
	dismissed  bool    // the server has been told to go

	// Towards the client.
	answers     answers
	carry       []byte            // the start of a message of the server
	downSkip    int               // bytes of the current message that are still to be passed on
	downDrop    bool              // or dropped
	status      byte              // transaction status
	copyIn      bool              // the server waits for COPY data
	copyParsed  bool              // that COPY belongs to the extended protocol
	withheld    []byte            // a message from before an error, which may not be passed on
	fatal       bool              // the server said that it ends the connection
	unheard     bool              // to us, in answer to what the client has not asked
	failure     string            // what the server failed with, for the breaker
	changes     uint32            // the change that the unnamed statement is at
	everChanged uint32            // how many changes there were
	used        []use             // prepared statements that were used since the connection was quiet
	usedNames   []byte            // what they point into
	failed      []failedStatement // what was sent behind them may still name them
	sought      int               // how often all statements of the client were looked through for errors in the chunk
	doubtful    bool              // what the server will answer is not certain: it stays with this client, and goes with it

	stalling    stall           // what of the client is waited for
	stallTimer  eventloop.Timer // for how long it may be; before there is a server connection, see reclaiming
	progress    int             // bytes that the client has sent or read, and stallProgress for each of its messages
	stallFrom   int             // what that was when the time began
	resetting   bool            // the client's next statement waits until what RESET may end is put back
	full        bool            // too much was asked at once: the rest waits for answers
	flushed     bool            // the server was asked by a Flush to answer all that it was sent
	heardBefore int             // ReadyForQuery messages, when the server was told to cancel what runs
	silent      bool            // it does not answer

	held           bool           // the client's messages wait for an answer of the server: see mayGoOn
	paused         bool           // and for the session's next turn: see isLong
	settingsFailed *pgwire.Error  // the session's settings were refused
	restore        bool           // the server has yet to be given back what holds for the session
	told           []pool.Setting // what the client was told last of parameters, in this transaction
	inquiry        inquiry        // what the session is asked about between transactions

	foreign     bool  // the server connection was another session's, and remembers what that has drawn from sequences
	vague       bool  // parameters were set whose names are not known: only DISCARD ALL ends that
	pinned      touch // session state that keeps the server connection
	pinnedSince int64 // when it began to
	changed     bool  // a run-time parameter was reported to have changed
	admitNext   bool  // the next message begins a transaction that has not been admitted
}

// wait is what a link waits for, or whose answer is on the way.
type wait byte

const (
	forNothing    wait = iota
	forSlot            // of the gate
	forConnection      // of the pool
)

func (w *worker) newLink(s *session) *link {
	var k *link
	if n := len(w.free); n > 0 {
		k, w.free = w.free[n-1], w.free[:n-1]
	} else {
		k = &link{w: w}
		k.handler = k
	}
	k.session, k.asked = s, w.loop.Now()
	k.waiter.Loop, k.waiter.Task = w.loop, k
	k.status = pgwire.Idle
	return k
}

// recycle makes an ended link ready for the next session. Its buffers stay with it.
func (w *worker) recycle(k *link) {
	k.answers.reset()
	k.names = k.names[:0]
	k.forgetUses()
	k.text, k.upOut, k.carry = modest(k.text), modest(k.upOut), modest(k.carry)
	*k = link{w: w, handler: k.handler, waiter: k.waiter, answers: k.answers, carry: k.carry[:0], upOut: k.upOut[:0], text: k.text[:0], names: k.names, portals: k.portals[:0], seam: k.seam[:0], used: k.used, usedNames: k.usedNames, record: k.record[:0], boundName: k.boundName, plainly: plainly{set: k.plainly.set[:0]}}
	w.free = append(w.free, k)
}

// modest is a buffer to be kept for later, unless it has grown beyond what is common.
func modest(b []byte) []byte {
	if cap(b) > eventloop.ScratchSize {
		return nil
	}
	return b[:0]
}

// waited is how long ago the transaction was admitted.
func (k *link) waited() time.Duration { return time.Duration(k.w.loop.Now() - k.asked) }

// start begins the use of a server connection.
func (k *link) start(server *pool.Server) {
	k.server = server
	k.began = k.w.loop.Now()
	k.session.resource.gate.QueueWait.Observe(k.waited())
	if err := server.LendTo(k.w.loop, &k.handler); err != nil {
		k.w.srv.log.Error("watch a server connection", "error", err)
	}
	k.fresh = true
	k.putBack()
	k.applySettings()
	if k.session.profile.Temporary() {
		k.words.found |= touchTemp
	}
	k.beginBlock("")
}

// putBack drops all that another session may have left on the server connection, noticed or not, where the configuration wants that; or
// what is prepared, where a function may have changed that; or what was drawn from sequences, where somebody asks for it.
func (k *link) putBack() {
	s, r, last := k.session, k.session.resource, k.server.Borrower
	k.server.Borrower = s.number
	if r.mode == Session || last == 0 || last == s.number { // in that mode it was done when it came back
		return
	}
	if k.server.Settings.Calms() && (r.reset == ResetAlways || !k.server.Settings.Equal(s.profile.Settings)) {
		k.calm()
	}
	if r.reset == ResetAlways {
		k.upOut = pool.AppendUnhurried(k.upOut)
		k.await(mayFail)
		k.upOut = k.server.AppendDiscard(k.upOut)
		k.awaitPrelude()
		return
	}
	if r.wary.Load() {
		k.server.Prepared.Clear()
		k.upOut = pool.AppendDeallocateAll(k.upOut)
		k.awaitPrelude()
	}
	if k.foreign = !r.sequences.Load(); !k.foreign {
		k.upOut = pool.AppendDiscardSequences(k.upOut)
		k.awaitPrelude()
	}
}

// calm has the timeouts of the session that had the server connection before not end what we say for this one.
func (k *link) calm() {
	queries := 0
	for k.upOut, queries = k.server.AppendCalming(k.upOut); queries > 0; queries-- {
		k.await(mayFail)
	}
}

// applySettings gives the server connection the settings of this session. Their Query goes ahead of the client's first
// message in the same write; should it fail, nothing that is behind it takes effect.
func (k *link) applySettings() {
	s := k.session
	keeping := k.restore && s.resource.mode == Session // elsewhere the unnamed statement is prepared again
	k.restore = false
	if k.server.Suits(s.profile) {
		return
	}
	if news := k.server.News(s.profile); len(news) > 0 {
		s.inform(news)
	}
	before := len(k.upOut)
	if keeping {
		k.upOut = k.server.SuitKeeping(k.upOut, s.profile)
	} else {
		k.upOut = k.server.Suit(k.upOut, s.profile)
	}
	if len(k.upOut) > before {
		k.awaitPrelude()
	}
}

// awaitPrelude expects the answer to a Query of ours that goes ahead of the client's message.
func (k *link) awaitPrelude() { k.await(answer{kind: queried, ours: true}) }

// mayFail is the answer to a Query of ours that is of no consequence.
var mayFail = answer{kind: queried, ours: true, mayFail: true}

func (k *link) await(a answer) {
	k.answers.push(a)
	k.server.Prepared.Unnamed = 0
	k.timeQuery()
}

// preludeAnswered tells the client what it does run with, should the server not have what was expected when a session's settings
// were put together: its configuration may have changed.
func (k *link) preludeAnswered() {
	if s := k.session; !k.answers.settings() && !k.server.Suits(s.profile) {
		if differs := k.server.Differs(s.profile); len(differs) > 0 {
			s.inform(differs)
		}
	}
}

// inform tells the client of parameters that are not as it was told before.
func (s *session) inform(news []pool.Setting) {
	for _, n := range news {
		s.out = pgwire.AppendParameterStatus(s.out, n.Name, n.Value) // it goes with the next answer
	}
	p := s.resource.pool
	s.startup, s.profile = p.Inform(s.startup, news), p.Inform(s.profile, news)
}

// mayGoOn reports whether the client's messages, held for an answer, are worth another look.
func (k *link) mayGoOn() bool {
	if k.paused {
		return false
	}
	if k.full && (k.answers.len() > mostOutstanding/2 || k.answers.bytes > mostOutstandingText/2) && !k.copyIn && !k.doubtful {
		return false
	}
	k.full = false
	return !k.answers.inquired() && !k.answers.settings() && k.repeatFrom == 0
}

// Ready is called when the server has said something, or takes more.
func (k *link) Ready(_ *eventloop.Loop, e eventloop.Events) {
	k.server.Conn.Note(e)
	k.session.advance()
}

// flush writes what the server has not taken yet and reports whether it has now.
func (k *link) flush() bool { return k.taken(k.upOut.flush(&k.server.Conn)) }

// write sends b to the server, now or as soon as it takes it.
func (k *link) write(b []byte) {
	k.server.Sent(len(b))
	k.taken(k.upOut.write(&k.server.Conn, b))
}

// taken reports whether a write went well. Unless the server is only busy, its last words may still be there to be read, so
// that the end is noticed by reading.
func (k *link) taken(err error) bool {
	switch {
	case errors.Is(err, eventloop.ErrAgain):
		k.server.MayNotRead()
	case err != nil:
		k.upOut = k.upOut[:0]
		k.failure = err.Error()
		k.server.Conn.Note(eventloop.Readable | eventloop.Hangup)
	}
	return err == nil
}

// quiet reports whether the server has answered everything and waits for the next message.
func (k *link) quiet() bool {
	return k.answers.empty() && !k.unsynced && !k.copyIn && !k.paused && k.upSkip == 0 && len(k.upOut) == 0 && k.downSkip == 0 && len(k.carry) == 0
}

// inFailed reports whether what the client says now belongs to a transaction block that has failed, as far as is known.
func (k *link) inFailed() bool { return k.status == pgwire.InFailed && !k.ended }

// answering reports whether the server is going to answer what was asked, without the client having to do more for it.
func (k *link) answering() bool { return k.answers.owed() > 0 && !k.copyIn }

// midMessage reports whether the client has got part of a message of the server's, so that nothing can be said to it.
func (k *link) midMessage() bool { return k.downSkip > 0 && !k.downDrop }

// settle is called after each step: when the transaction is over it gives the server connection back, as far as pool mode
// and session state allow.
func (k *link) settle() {
	s := k.session
	if s == nil || s.dead || k.server == nil {
		return
	}
	if k.ending != passOn {
		k.finish()
		return
	}
	if !k.quiet() {
		return
	}
	k.failed = nil
	k.forgetUses()
	k.time()
	if k.status == pgwire.Idle {
		k.forgetPortals()
	}
	k.stopRecording()
	var suspicion touch
	if k.status == pgwire.Idle {
		suspicion = k.suspicion()
		if s.dead {
			return
		}
		if suspicion != 0 && k.recall(suspicion) {
			suspicion = 0
		}
		if suspicion == 0 {
			k.words.reset = false
			k.plainly.reset()
			k.correct()
		}
	}
	switch {
	case k.status != pgwire.Idle && s.resource.mode == Statement:
		s.fatal(&pgwire.Error{
			Code: proxy.NotSupported.SQLSTATE, Message: "transaction blocks are not supported in pool mode statement",
			Hint: "use pool_mode: transaction",
		})
	case k.status != pgwire.Idle:
		k.timeIdleInTransaction()
	case s.w.srv.draining.Load():
		s.drainLinked()
	case suspicion != 0:
		k.inquire(suspicion)
	case s.resource.mode == Session || k.pinned != 0 || k.doubtful:
		k.rest()
	default:
		k.giveBack()
	}
}

// rest keeps the server connection although the transaction is over.
func (k *link) rest() {
	if !k.admitNext {
		k.since = k.w.loop.Now()
		k.observe()
		k.ticket.Done(breaker.Success)
		k.countIdle()
		k.ticket.Keep(k.w.loop.Now(), k.use)
		k.admitNext = true
		k.session.rest()
	}
	if k.mayBeTaken() {
		k.session.resource.kept.add(k.session, keptSince{k.since, k.pinnedSince})
	}
}

// giveBack ends the link after a transaction that ended well.
func (k *link) giveBack() {
	s, server := k.session, k.server
	s.link = nil
	if !k.admitNext {
		k.observe()
	}
	k.reconsider()
	if server.Cancels > 0 || !server.Settings.MayRest() {
		server.Reset(s.w.loop, pool.Leftover{Status: pgwire.Idle})
	} else {
		server.Pool().Release(server)
	}
	k.end(breaker.Success)
	s.rest()
}

func (k *link) observe() {
	k.session.resource.gate.Transaction.Observe(time.Duration(k.w.loop.Now() - k.began))
}

// time takes down how long the server took for what was asked first.
func (k *link) time() {
	if !k.timed && !k.spoiled {
		k.use.Took = time.Duration(k.w.loop.Now() - k.began)
	}
	k.timed = true
}

// countIdle takes down for how long the server has waited for the client.
func (k *link) countIdle() {
	if k.idles {
		k.use.Idle += time.Duration(k.w.loop.Now() - k.since)
		k.idles = false
	}
}

// oneSays is how long one client has no say in how patient others of its kind are, once it has had one, in nanoseconds: there are those
// that cancel over and over.
const oneSays = int64(10 * time.Second)

// unwanted notes that the client no longer wants what it asked for first, unless it has its answer, or did not care to read it.
func (k *link) unwanted() {
	s, now := k.session, k.w.loop.Now()
	if k.timed || k.spoiled || k.admitNext || k.server != nil && !k.answering() || s.gaveUp != 0 && now-s.gaveUp < oneSays {
		return
	}
	s.gaveUp = now
	k.ticket.GiveUp(now)
}

// end ends the link, which its session has let go of, and gives back what it has: its place in a queue, the ticket. It is
// reused at once, unless the gate or the pool is about to answer it.
func (k *link) end(o breaker.Outcome) {
	if !k.detach(o) {
		k.leave()
	}
}

// detach has the link without its session, and no longer in a queue. It reports whether the gate or the pool is about to
// answer it.
func (k *link) detach(o breaker.Outcome) (answering bool) {
	k.ticket.Done(o)
	k.unkeep()
	k.pin(0)
	k.w.loop.Disarm(&k.stallTimer)
	switch k.waits {
	case forSlot:
		answering = !k.ticket.Abandon(k.w.loop.Now())
	case forConnection:
		answering = !k.session.resource.pool.Abandon(&k.waiter)
	}
	k.session = nil
	return answering
}

// leave gives the slot back.
func (k *link) leave() {
	k.countIdle()
	k.ticket.Leave(k.w.loop.Now(), k.use)
	k.w.recycle(k)
}

// abandon ends the link because the client has left: its place in the queue is free at once, its slot and its server
// connection as soon as that is clean, for until then the server may still be at work for nobody.
func (k *link) abandon() {
	s := k.session
	s.link = nil
	if k.server == nil {
		k.end(breaker.Ignored)
		return
	}
	k.observe()
	server := k.server
	k.noteBuffers(k.words.found | k.outer | k.pinned)
	touched := (k.pinned | k.words.found | k.outer) &^ (touchLocal | touchCreate)
	left := pool.Leftover{
		Owed:     k.answers.owed(),
		Status:   k.status,
		Unsynced: k.unsynced,
		CopyIn:   k.copyIn,
		CopyEnds: k.answers.has(copyEnd),
		Extended: k.copyParsed || !k.answers.has(queried),
		Dirty:    touched != 0 || k.changed || k.answers.settings() || k.settingsFailed != nil || s.resource.mode == Session,
		Cancel:   !k.answers.inquired(),
		Broken:   k.fatal || k.silent || k.doubtful || k.upSkip > 0 || len(k.upOut) > 0 || touched&touchForever != 0,
		Carry:    k.carry,
		Skip:     k.downSkip,
	}
	k.schemaSettled()
	k.forgetUnanswered()
	k.reconsider()
	k.detach(breaker.Ignored)
	left.Then = k.leave
	server.Reset(s.w.loop, left)
}

// serverGone ends the session, because what its transaction did is unknown. If the server said why, the client has read it.
func (k *link) serverGone(err error) {
	s := k.session
	if k.dismissed {
		k.fatal = true
		s.lastWords(nil)
		return
	}
	k.w.srv.log.Warn("a server connection broke", "resource", s.resource.name, "error", err)
	if k.failure == "" && !k.fatal {
		k.failure = err.Error()
	}
	said := k.fatal && !k.unheard
	k.fatal = true
	if k.failure != "" {
		k.lost(k.failure)
	}
	if said || k.midMessage() {
		s.lastWords(nil)
		return
	}
	detail := "Whether the statement took effect is unknown."
	if k.settingsFailed != nil {
		detail = "The statement was not executed. The server has said: " + k.settingsFailed.Message
	}
	s.fatal(&pgwire.Error{Code: "08006", Message: "the server closed the connection unexpectedly", Detail: detail})
}

// drainLinked ends a session that has a server connection but nothing under way.
func (s *session) drainLinked() {
	s.fatal(&pgwire.Error{Code: proxy.Draining.SQLSTATE, Message: "terminating connection: " + proxy.Draining.Message})
}
