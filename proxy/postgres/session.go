package postgres

import (
	"errors"
	"time"
	"unique"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/pool"
	"github.com/weirproxy/weir/proxy"
)

const (
	// idleRead is how much is read of a client that has no server connection. What does not fit into the first read stays
	// in the kernel until it has one, so that a waiting client costs little.
	idleRead = maxHeld
	// maxHeld is how long a message may be that is held back until it is complete, because we want to read it.
	maxHeld = 16 << 10
	// rounds is how often a session may read before the other sessions of its loop have their turn, unless what it has read took long.
	rounds = 8
	// fewMessages is how many messages are passed on before it is asked how long that took, and muchRewritten how many bytes they may
	// become.
	fewMessages   = 8
	muchRewritten = 256 << 10
	// muchRead is how many bytes may be so many messages, or so much SQL, that they take long.
	muchRead = 8 << 10
	// lingerTime is how long a client has to read the last words before the connection is closed.
	lingerTime = time.Second
	// slowTime is how long a client has to take all that it has yet to read before them.
	slowTime = 10 * time.Second
)

// worker is what the sessions of one event loop share. Everything in it belongs to the loop's goroutine.
type worker struct {
	srv  *Server
	loop *eventloop.Loop
	free []*link // ended, for reuse
	out  []byte  // where a rewritten batch is put together
	much bool    // the session whose turn it is has read much

	recent     recent // texts of statements
	recentText int    // how much that is, in bytes
	key        []byte // where the key of one is put together
}

// session is a client that is logged in. All of it belongs to its loop's goroutine.
//
// It is idle (link is nil), waiting for a server connection (link without a server), or linked. Only the idle ones are
// many, so what only a running transaction needs is in link.
type session struct {
	conn       eventloop.Conn
	timer      eventloop.Timer // client_idle, queue.wait, query, its grace, or idle_in_transaction: whatever holds now
	w          *worker
	resource   *resource
	number     uint64 // of all sessions of this weir; never 0
	user       unique.Handle[string]
	gaveUp     int64         // when it last did not wait for an answer, by the loop's clock; 0: never
	since      int64         // it has been idle, by the loop's clock; see state
	startup    *pool.Profile // what it asked for at startup, beyond what every server connection has, and was told then
	profile    *pool.Profile // what holds now
	link       *link
	walsender  *walsender  // of a replication connection, which has no link; nil once given back
	statements *statements // nil until something was prepared
	carry      []byte      // received, not yet used: the start of a message, or all there is while waiting
	out        []byte      // for the client, not yet written
	key        cancelKey
	caller     *limiter.Caller // who it is to the gate
	heard      *pool.Profile   // the one it was last asked by what it says of itself
	says       *says           // that; nil: nothing

	skip      int // bytes of a refused message that are still to be dropped
	untilSync bool
	parting   parting // why its transaction was rolled back, which it has yet to be told
	midway    bool    // in the middle of a message of its own
	posted    bool    // its turn comes again: see goOn
	block     block
	dead      bool // closed, or about to be
	farewell  bool // nothing more is sent
	forgotten bool // no longer counted
}

// adopt puts the session under its loop. early is what the client sent behind its login.
func (s *session) adopt(fd int, secure *eventloop.Secure, early []byte) {
	if err := s.conn.Attach(s.w.loop, fd, secure, s); err != nil {
		s.w.srv.log.Error("watch a client connection", "error", err)
		s.close()
		return
	}
	s.enter(early)
}

// enter begins the session on its loop.
func (s *session) enter(early []byte) {
	if s.w.srv.draining.Load() {
		s.drain()
		return
	}
	if s.walsender != nil {
		s.walsender.start()
	}
	s.rest()
	if len(early) > 0 {
		s.take(append(s.w.loop.Scratch[:0], early...))
	}
	s.advance()
}

// Ready is called when something may be read from, or written to, the client.
func (s *session) Ready(_ *eventloop.Loop, e eventloop.Events) {
	s.conn.Note(e)
	s.advance()
}

// advance passes on, both ways, what can be passed on now.
func (s *session) advance() {
	for range rounds {
		up, down := s.pumpUp(), s.pumpDown()
		if !up && !down {
			s.watch()
			return
		}
		if s.w.much && s.w.loop.Late() {
			break
		}
		s.w.much = false
	}
	s.postpone()
}

// postpone has the session's turn come again when the others have had theirs.
func (s *session) postpone() {
	if !s.posted {
		s.posted = true
		s.w.loop.Post((*goOn)(s))
	}
}

// watch looks whether its client keeps a server connection waiting.
func (s *session) watch() {
	if k := s.link; k != nil && k.server != nil && !s.dead {
		k.watchStall()
	}
}

// goOn is a session whose turn comes again.
type goOn session

func (g *goOn) Run() {
	g.posted = false
	(*session)(g).advance()
}

// pumpUp reads from the client once, when it may be read from, and reports whether it did.
func (s *session) pumpUp() bool {
	size := len(s.w.loop.Scratch)
	switch {
	case s.dead:
		return s.drop()
	case s.walsender != nil:
		return s.walsender.pumpUp()
	case s.link == nil:
		if !s.flush() { // who does not read its answers may not ask more
			return false
		}
		size = len(s.carry) + idleRead
	case s.link.server == nil: // waiting: not read from, but watched
		if s.conn.Gone() {
			s.leave()
		}
		return false
	case s.link.paused && s.link.repeatFrom == 0 && s.link.ending == passOn && s.link.flush():
		s.link.paused, s.link.held = false, false
		s.w.much = true
		s.resume()
		return true
	case s.link.held: // not read from, but watched
		s.link.flush()
		if s.conn.Gone() {
			s.leave()
		}
		return false
	case s.link.ending != passOn: // it has said all it will
		if s.link.ending != leaveNow && s.conn.Gone() {
			s.leave()
		}
		return false
	case s.link.admitNext && !s.flush(): // as one without a link: what it asks next may be refused, by us
		return false
	case !s.link.flush():
		return false
	}
	if !s.conn.Readable() {
		return false
	}
	scratch := s.w.loop.Scratch[:size]
	held := copy(scratch, s.carry)
	n, err := s.conn.Read(scratch[held:])
	if err != nil {
		if !errors.Is(err, eventloop.ErrAgain) {
			s.leave()
		}
		return false
	}
	s.progress(n)
	s.w.much = s.w.much || n > muchRead
	s.forget()
	s.take(scratch[:held+n])
	return true
}

// pumpDown reads from the server once, when the client has taken all that came before, and reports whether it did.
func (s *session) pumpDown() bool {
	if s.walsender != nil {
		return s.walsender.pumpDown()
	}
	k := s.link
	if s.dead || k == nil || k.server == nil || !s.flush() || !k.server.Conn.Readable() {
		return false
	}
	held := copy(s.w.loop.Scratch, k.carry)
	n, err := k.server.Conn.Read(s.w.loop.Scratch[held:])
	if errors.Is(err, eventloop.ErrAgain) {
		return false
	}
	if err != nil {
		k.serverGone(err)
		return true
	}
	k.carry = k.carry[:0]
	s.w.much = s.w.much || n > muchRead
	k.down(s.w.loop.Scratch[:held+n])
	return true
}

// take uses what was received. chunk is in the loop's scratch buffer; what cannot be used yet is kept.
func (s *session) take(chunk []byte) {
	for len(chunk) > 0 && !s.dead {
		switch {
		case s.walsender != nil:
			s.walsender.passUp(chunk)
			return
		case s.parting != notParted && s.midway:
			s.fatal(s.parting.error())
			return
		case s.skip > 0 || s.untilSync:
			chunk = s.discard(chunk)
		case s.link != nil && (s.link.server == nil || s.link.held):
			s.hold(chunk)
			return
		case s.link != nil:
			chunk = s.link.up(chunk)
		case len(chunk) < pgwire.HeaderSize:
			s.hold(chunk)
			return
		default:
			chunk = s.begin(chunk)
		}
	}
}

// resume uses what was held back.
func (s *session) resume() {
	n := copy(s.w.loop.Scratch, s.carry)
	s.forget()
	s.take(s.w.loop.Scratch[:n])
}

// hold keeps the rest of a chunk for the next one.
func (s *session) hold(b []byte) { s.carry = append(s.carry[:0], b...) }

// forget gives the buffer of hold back once it was used: most sessions rest between whole messages.
func (s *session) forget() { s.carry = nil }

// write sends b to the client, now or as soon as it takes it.
func (s *session) write(b []byte) {
	if len(s.out) > 0 || s.dead {
		s.out = append(s.out, b...)
		return
	}
	n, err := s.conn.Write(b)
	switch {
	case err == nil:
	case errors.Is(err, eventloop.ErrAgain):
		s.out = append(s.out, b[n:]...)
	default:
		s.leave()
	}
}

// flush writes what the client has not taken yet and reports whether it has now.
func (s *session) flush() bool {
	if err := s.conn.Flush(); err != nil {
		return s.stuck(err)
	}
	if len(s.out) == 0 {
		return true
	}
	n, err := s.conn.Write(s.out)
	s.progress(n)
	s.out = s.out[n:]
	if err != nil {
		return s.stuck(err)
	}
	s.out = nil
	return true
}

// progress takes note of bytes that the client has sent or taken.
func (s *session) progress(n int) {
	if s.link != nil {
		s.link.progress += n
	}
}

func (s *session) stuck(err error) bool {
	if !errors.Is(err, eventloop.ErrAgain) {
		s.leave()
	}
	return false
}

// rest begins the time that a client may be idle.
func (s *session) rest() {
	s.since = s.w.loop.Now()
	if idle := s.resource.timeouts.ClientIdle; idle > 0 {
		s.w.loop.Arm(&s.timer, idle, (*idledOut)(s))
	} else {
		s.w.loop.Disarm(&s.timer)
	}
}

type idledOut session

func (t *idledOut) Run() {
	(*session)(t).fatal(&pgwire.Error{Code: "57P05", Message: "terminating connection due to idle-session timeout", Detail: "client_idle has passed."})
}

// leave ends the session because the client has: without a word, or with Terminate.
func (s *session) leave() {
	if s.dead {
		return
	}
	s.dead = true
	if k := s.link; k != nil {
		k.unwanted()
		k.abandon()
	}
	s.close()
}

// fatal ends the session with an error. The client gets time to read it.
func (s *session) fatal(e *pgwire.Error) {
	e.Severity = "FATAL"
	if s.link != nil && s.link.midMessage() {
		s.lastWords(nil)
		return
	}
	s.lastWords(pgwire.AppendError(nil, e))
}

// lastWords ends the session, sending b first. The socket is closed when the client has closed its end, too: closing it
// while something is unread would reset the connection, and the words would be lost.
func (s *session) lastWords(b []byte) {
	if s.dead {
		return
	}
	if len(b) > 0 {
		s.write(b)
	}
	if s.dead {
		return
	}
	s.dead = true
	if k := s.link; k != nil {
		k.abandon()
	}
	s.dropWalsender()
	s.w.loop.Arm(&s.timer, slowTime, (*lingered)(s))
	s.drop()
}

type lingered session

func (t *lingered) Run() { (*session)(t).close() }

// drop reads what a client says that nobody listens to any more, once it has been sent what it has yet to read.
func (s *session) drop() bool {
	if !s.farewell && s.conn.Open() && s.flush() {
		s.farewell = true
		s.conn.CloseWrite()
		s.w.loop.Arm(&s.timer, lingerTime, (*lingered)(s))
	}
	for s.conn.Open() && s.conn.Readable() {
		if _, err := s.conn.Read(s.w.loop.Scratch); err != nil && !errors.Is(err, eventloop.ErrAgain) {
			s.close()
		}
	}
	return false
}

// close closes the socket and forgets the session.
func (s *session) close() {
	s.dead = true
	s.w.loop.Disarm(&s.timer)
	s.conn.Close()
	s.dropWalsender()
	s.unsetAll()
	s.carry, s.out, s.statements = nil, nil, nil
	s.w.srv.forget(s)
}

// cutOff ends the session whatever it is doing, telling the client where that does not fall into the middle of a message.
func (s *session) cutOff() {
	if !s.dead && s.conn.Open() && len(s.out) == 0 && (s.link == nil || s.link.downSkip == 0) && s.walsender.betweenMessages() {
		s.write(pgwire.AppendError(nil, &pgwire.Error{
			Severity: "FATAL", Code: proxy.Draining.SQLSTATE, Message: "terminating connection: " + proxy.Draining.Message,
		}))
	}
	s.leave()
	s.close()
}

// drain ends the session at the first moment that loses nothing: when it is idle.
func (s *session) drain() {
	switch {
	case s.dead, !s.conn.Open(): // or on its way here: see adopt
	case s.walsender != nil:
		s.walsender.drain()
	case s.link == nil:
		s.fatal(&pgwire.Error{Code: proxy.Draining.SQLSTATE, Message: "terminating connection: " + proxy.Draining.Message})
	case s.link.server == nil:
		s.refuseWaiting(s.resource.gate.QueueRefusal(s.caller, proxy.Draining, "drain", s.link.waited(), 0, "shutting down", "none"))
	default:
		s.link.settle() // one that only keeps its server connection is idle, too
	}
}
