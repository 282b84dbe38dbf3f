package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/pool"
	"github.com/weirproxy/weir/proxy"
)

// replication takes the startup parameter of that name as the server does: a boolean, or "database", which a boolean behind it
// does not take back altogether.
func (st *startup) replication(value string) error {
	if value == "database" {
		st.walsender, st.logical = true, true
		return nil
	}
	on, ok := parseBool(value)
	if !ok {
		return &pgwire.Error{
			Code: "22023", Message: fmt.Sprintf("invalid value for parameter \"replication\": \"%s\"", value),
			Hint: `Valid values are: "false", 0, "true", 1, "database".`,
		}
	}
	st.walsender = on
	return nil
}

// booleans are the server's words for true and false, and how much of one is enough to tell it from the others (parse_bool).
var booleans = []struct {
	word  string
	least int
	value bool
}{
	{"true", 1, true},
	{"false", 1, false},
	{"yes", 1, true},
	{"no", 1, false},
	{"on", 2, true},
	{"off", 2, false},
	{"1", 1, true},
	{"0", 1, false},
}

func parseBool(s string) (value, ok bool) {
	s = strings.ToLower(s)
	for _, b := range booleans {
		if len(s) >= b.least && strings.HasPrefix(b.word, s) {
			return b.value, true
		}
	}
	return false, false
}

// databaseHint helps those who cannot choose the name of the database: standbys, pg_receivewal and older pg_basebackups always
// ask for the same.
func (st *startup) databaseHint() string {
	if st.walsender && !st.logical && st.database == "replication" {
		return "Name the resource for physical replication \"replication\"."
	}
	return ""
}

// replicationSettings are what the server is to be told at startup.
func (st *startup) replicationSettings() []pool.Setting {
	value := "true"
	if st.logical {
		value = "database"
	}
	return append(st.settings, pool.Setting{Name: "replication", Value: value})
}

// replicate makes the login a session with a walsender, one of its own.
func (l *login) replicate(st *startup, r *resource, out []byte) error {
	if r.mode != Session {
		return &pgwire.Error{
			Code: proxy.NotSupported.SQLSTATE, Message: "replication connections are not supported in pool mode " + string(r.mode),
			Hint: "use pool_mode: session",
		}
	}
	s := &session{w: l.worker(), resource: r}
	began := time.Now()
	server, err := l.ownServer(s, st)
	if err != nil {
		return s.notOwned(err, time.Since(began))
	}
	s.startup = &pool.Profile{Greeting: server.Greeting()}
	s.profile = s.startup
	s.walsender = newWalsender(s, server)
	if err := l.handOver(st, s, out); err != nil {
		s.w.loop.Post(eventloop.TaskFunc(s.dropWalsender))
		return err
	}
	return nil
}

// ownServer opens a server connection for s alone, unless the client leaves while it waits for that.
func (l *login) ownServer(s *session, st *startup) (server *pool.Server, err error) {
	r := s.resource
	ctx, cancel := context.WithDeadline(l.srv.ctx, l.deadline())
	defer cancel()
	ctx, leave := context.WithCancelCause(ctx)
	l.socket.OnGone(func() { leave(errQuiet) })
	l.fiber.Await(func() {
		server, err = r.pool.Own(ctx, s.w.loop, st.replicationSettings(), r.queueLength, r.queue.Wait)
	})
	l.socket.OnGone(nil)
	if err != nil && errors.Is(context.Cause(ctx), errQuiet) {
		err = errQuiet
	}
	leave(nil)
	return server, err
}

// notOwned says why the client gets no server connection. Unlike others it is told what the server said of it: it depends on
// what the server allows for replication.
func (s *session) notOwned(err error, waited time.Duration) error {
	r := s.resource
	pgErr := (*pgconn.PgError)(nil)
	answered := errors.As(err, &pgErr)
	if answered {
		s.w.srv.log.Warn("connect to the server for replication", "resource", r.name, "error", err)
	}
	switch {
	case errors.Is(err, errQuiet):
		return err
	case answered && pgErr.Code == tooManyConnections: // of all, or of max_wal_senders
		return &pgwire.Error{Code: pgErr.Code, Message: pgErr.Message, Detail: pgErr.Detail, Hint: pgErr.Hint}
	case answered && strings.HasPrefix(pgErr.Code, "28"): // its words would tell where the server is, and who weir is there
		return &pgwire.Error{
			Code: pgErr.Code, Message: "the server does not accept a replication connection of this resource's user",
			Hint: "See pg_hba.conf of the server, and the log.",
		}
	case errors.Is(err, pool.ErrQueueFull):
		return s.asRefusal(err, waited)
	case errors.Is(err, pool.ErrQueueTimeout):
		return r.gate.QueueRefusal(s.caller, proxy.QueueTimeout, "queue.wait", waited, r.queue.Wait,
			fmt.Sprintf("%d waiting", r.pool.Budget().Waiting()), r.queue.Wait.String())
	}
	return r.greetError(err, waited)
}

// walsender is the server connection of a replication client: its own from the login to the end. So nothing of it has to be left
// in any state, and what passes is not looked at, but for where messages begin: the client speaks with its server. All of it
// belongs to the loop of the session.
type walsender struct {
	session *session
	server  *pool.Server
	handler eventloop.Handler // the walsender itself, where the server finds it
	up      frames
	down    frames
	upOut   pending // for the server, not yet written

	owed      int  // commands whose end has not come
	status    byte // transaction status
	streaming bool // between CopyBothResponse and the end of the command: it may go on for ever
	draining  bool // to end where that loses nothing; a stream, between two messages
}

func newWalsender(s *session, server *pool.Server) *walsender {
	w := &walsender{session: s, server: server, status: pgwire.Idle}
	w.handler = w
	return w
}

// start begins the use of the server connection.
func (w *walsender) start() {
	if err := w.server.LendTo(w.session.w.loop, &w.handler); err != nil {
		w.session.w.srv.log.Error("watch a server connection", "error", err)
	}
}

// dropWalsender closes the server connection of a replication client. It never serves anyone else.
func (s *session) dropWalsender() {
	w := s.walsender
	if w == nil {
		return
	}
	s.walsender = nil
	if !w.idle() && !w.streaming && w.server.Conn.Open() && !w.server.Conn.Gone() { // it would not notice that we close
		w.server.CancelSoon(s.w.loop, nil)
	}
	w.server.Retire(s.w.loop)
}

// Ready is called when the server has said something, or takes more.
func (w *walsender) Ready(_ *eventloop.Loop, e eventloop.Events) {
	w.server.Conn.Note(e)
	w.session.advance()
}

// idle reports whether the server waits for a command.
func (w *walsender) idle() bool { return w.owed == 0 }

// betweenMessages reports whether something may be said to the client.
func (w *walsender) betweenMessages() bool { return w == nil || w.down.between() }

// pumpUp reads from the client once, when the server has taken all that came before, and reports whether it did.
func (w *walsender) pumpUp() bool {
	s := w.session
	if !w.flush() {
		if s.conn.Gone() {
			s.leave()
		}
		return false
	}
	if !s.conn.Readable() {
		return false
	}
	n, err := s.conn.Read(s.w.loop.Scratch)
	if err != nil {
		if !errors.Is(err, eventloop.ErrAgain) {
			s.leave()
		}
		return false
	}
	w.passUp(s.w.loop.Scratch[:n])
	return true
}

// pumpDown reads from the server once, when the client has taken all that came before, and reports whether it did. The end of
// the server's words is the end of ours: whatever there is to say of it, the server has said.
func (w *walsender) pumpDown() bool {
	s := w.session
	if !s.flush() || !w.server.Conn.Readable() {
		return false
	}
	n, err := w.server.Conn.Read(s.w.loop.Scratch)
	if err != nil {
		if !errors.Is(err, eventloop.ErrAgain) {
			s.lastWords(nil)
		}
		return false
	}
	w.passDown(s.w.loop.Scratch[:n])
	return true
}

// passUp passes on what the client said.
func (w *walsender) passUp(chunk []byte) {
	for i := 0; i < len(chunk); {
		n, ended := w.up.next(chunk[i:])
		i += n
		if ended {
			w.hearClient(w.up.head[0])
		}
	}
	w.write(chunk)
}

// hearClient takes note of a message of the client. (A Sync among the data of COPY is not answered. Whoever sends one is taken
// for busy from then on, so that a drain waits for it as long as it may.)
func (w *walsender) hearClient(t byte) {
	switch t {
	case pgwire.Query, pgwire.FunctionCall, pgwire.Sync:
		w.owed++
		w.session.w.loop.Disarm(&w.session.timer)
	}
}

// passDown passes on what the server said, up to where the session ends when it is to.
func (w *walsender) passDown(chunk []byte) {
	i := 0
	for i < len(chunk) && !w.ends() {
		n, ended := w.down.next(chunk[i:])
		i += n
		if ended {
			w.hearServer(w.down.head[0], w.down.body())
		}
	}
	w.session.write(chunk[:i])
	if w.ends() {
		w.session.drainLinked()
	}
}

// hearServer takes note of a message of the server.
func (w *walsender) hearServer(t byte, body []byte) {
	switch t {
	case pgwire.CopyBothResponse:
		w.streaming = true
	case pgwire.ErrorResponse:
		w.session.resource.countError(pgwire.ParseError(body).Code)
	case pgwire.ReadyForQuery:
		w.owed, w.streaming = max(0, w.owed-1), false
		if len(body) == 1 {
			w.status = body[0]
		}
		if w.idle() {
			w.rest()
		}
	}
}

// rest begins the time that the client may be silent between two commands. No other runs for it: a command of replication is
// over when it is over.
func (w *walsender) rest() {
	s := w.session
	limit := s.resource.timeouts.IdleInTransaction
	switch {
	case w.status == pgwire.Idle:
		s.rest()
	case limit > 0:
		s.w.loop.Arm(&s.timer, limit, (*walsenderIdled)(s))
	}
}

type walsenderIdled session

func (t *walsenderIdled) Run() {
	(*session)(t).fatal(idledInBlock.error())
}

// drain ends the session at the first moment that loses nothing: a stream, whose client knows how far it has come, at once.
func (w *walsender) drain() {
	s := w.session
	w.draining = true
	switch {
	case w.ends():
		s.drainLinked()
	case w.streaming: // in the middle of a message, which the client may be slow to take
		s.w.loop.Arm(&s.timer, slowTime, (*lingered)(s))
	}
}

// ends reports whether this is where the session ends because weir does.
func (w *walsender) ends() bool {
	return w.draining && w.down.between() && (w.streaming || w.idle() && w.up.between())
}

// flush writes what the server has not taken yet and reports whether it has now.
func (w *walsender) flush() bool { return w.taken(w.upOut.flush(&w.server.Conn)) }

// write sends b to the server, now or as soon as it takes it.
func (w *walsender) write(b []byte) { w.taken(w.upOut.write(&w.server.Conn, b)) }

// taken reports whether a write went well. Unless the server is only busy, its last words may still be there to be read, so
// that the end is noticed by reading.
func (w *walsender) taken(err error) bool {
	if err != nil && !errors.Is(err, eventloop.ErrAgain) {
		w.upOut = w.upOut[:0]
		w.server.Conn.Note(eventloop.Readable | eventloop.Hangup)
	}
	return err == nil
}

// frames follows the messages of a stream that passes unread.
type frames struct {
	head [pgwire.HeaderSize]byte // of the current message, as far as it has come
	have int
	left int       // bytes of its body still to come
	kept [128]byte // the front of its body: severity and SQLSTATE of an error are there
	keep int       // how much that is
	lost bool      // what came is no message: there is no telling where the next one begins
}

// next uses b up to the end of the current message, or all of it, and reports whether the message has ended.
func (f *frames) next(b []byte) (used int, ended bool) {
	if f.lost {
		return len(b), false
	}
	if f.have < pgwire.HeaderSize {
		used = copy(f.head[f.have:], b)
		if f.have += used; f.have < pgwire.HeaderSize {
			return used, false
		}
		body, err := pgwire.Length(f.head[:])
		if err != nil {
			f.lost = true
			return len(b), false
		}
		f.left, f.keep = body, 0
	}
	part := b[used:min(len(b), used+f.left)]
	f.keep += copy(f.kept[f.keep:], part)
	f.left -= len(part)
	if f.left == 0 {
		f.have = 0
	}
	return used + len(part), f.left == 0
}

// body is the front of the body of the message that has ended; the whole of a short one.
func (f *frames) body() []byte { return f.kept[:f.keep] }

// between reports whether no message has begun that has not ended.
func (f *frames) between() bool { return f.have == 0 && !f.lost }
