package postgres

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
	"unique"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/auth"
	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/pool"
	"github.com/weirproxy/weir/proxy"
)

// login is a client that is not known yet. It has a fiber of its own, on a loop for sessions or of the porch.
type login struct {
	srv     *Server
	fiber   *eventloop.Fiber
	socket  *eventloop.Stream // as accepted
	conn    net.Conn          // what is spoken over: socket, or TLS
	tls     *tls.Conn         // nil without TLS
	secure  *eventloop.Secure // the same, as the event loop takes it
	binding auth.Binding
	in      []byte // received, not yet used
	began   time.Time
	method  string
	user    string // once it has said so
	from    netip.Addr
	guest   guest // among those who have not logged in
}

// serve takes a connection from its first byte to the event loop, or to its end.
func (l *login) serve() {
	defer l.srv.loggedIn(l)
	served := false
	defer func() {
		if !served { // a panic
			_ = l.socket.Close()
		}
	}()
	l.logIn()
	served = true
}

// logIn does it.
func (l *login) logIn() {
	_ = l.socket.SetDeadline(l.firstDeadline())
	if l.srv.draining.Load() {
		l.interrupt()
	}
	st, err := l.greet()
	if err == nil && st == nil { // a cancel request
		_ = l.conn.Close()
		_ = l.socket.Close()
		return
	}
	if err == nil {
		_ = l.socket.SetDeadline(l.deadline())
		l.user = st.user
		err = l.admit(st)
	}
	if err != nil {
		l.reject(err)
	}
}

// deadline is when the login must be over.
func (l *login) deadline() time.Time { return l.began.Add(l.srv.limits.LoginTimeout) }

// How long a client may take for what it is to do at once.
const (
	silentTime    = 2 * time.Second // to say anything, while there are more than half as many logins as may be
	handshakeTime = 3 * time.Second // for a TLS handshake
)

// firstDeadline is when a client that has said nothing is looked at again.
func (l *login) firstDeadline() time.Time {
	if first := l.began.Add(silentTime); first.Before(l.deadline()) {
		return first
	}
	return l.deadline()
}

// mayGoOn reports whether a client that has not said all by its first deadline has the time of a whole login. One that has said nothing
// has it only where there is room.
func (l *login) mayGoOn() bool {
	if l.guest.evicted.Load() || l.srv.draining.Load() || !time.Now().Before(l.deadline()) {
		return false
	}
	limit := int64(l.srv.limits.Unauthenticated)
	if l.guest.said.Load() == saidNothing && limit > 0 && l.srv.door.count.Load() > limit/2 {
		return false
	}
	return l.socket.SetDeadline(l.deadline()) == nil
}

// interrupt ends the wait for the client, from any goroutine.
func (l *login) interrupt() { l.socket.Interrupt() }

// admit finds out who the client is, tells it what it needs to know, and hands it over to an event loop.
func (l *login) admit(st *startup) error {
	out, err := l.authenticate(st)
	if err != nil {
		return err
	}
	r := l.srv.resources[st.database]
	if r == nil {
		return &pgwire.Error{Code: "3D000", Message: "database \"" + st.database + "\" does not exist", Hint: st.databaseHint()}
	}
	if err := r.gate.Reachable(); err != nil {
		return err
	}
	if st.walsender {
		return l.replicate(st, r, out)
	}
	profile, err := l.askServer(r, st)
	if err != nil {
		return r.greetError(err, time.Since(l.began))
	}
	s := &session{w: l.worker(), resource: r, startup: profile, profile: profile}
	for _, ignored := range s.introduce(l.identity(st), st) {
		out = pgwire.AppendNotice(out, notice(ignored))
	}
	return l.handOver(st, s, out)
}

// identity is what the client is known by.
func (l *login) identity(st *startup) limiter.Identity {
	return limiter.Identity{User: st.user, Says: st.terms.Caller, Address: l.from}
}

// worker is where the session will be: here, unless this is the porch.
func (l *login) worker() *worker {
	if w := l.srv.workerOn(l.fiber.Loop()); w != nil {
		return w
	}
	return l.srv.nextWorker()
}

// askServer finds out what the client is to be told. That is known, except for the first who ask for the same.
func (l *login) askServer(r *resource, st *startup) (profile *pool.Profile, err error) {
	if profile = r.pool.Known(st.settings); profile != nil {
		return profile, nil
	}
	ctx, cancel := context.WithDeadline(l.srv.ctx, l.deadline())
	defer cancel()
	l.guest.says(busy)
	l.fiber.Await(func() { profile, err = r.pool.Greet(ctx, st.settings) })
	return profile, err
}

// authenticate returns what is to be said next, AuthenticationOk at its end.
func (l *login) authenticate(st *startup) (out []byte, err error) {
	if err := l.checkTLS(st); err != nil {
		return nil, err
	}
	if st.asked > version32 || len(st.unknown) > 0 {
		out = pgwire.AppendNegotiateProtocolVersion(out, st.version, st.unknown)
	}
	x := l.srv.users.Load().Begin(st.user, l.binding)
	defer func() { l.method = x.Method() }()
	out, done, err := x.Start(out)
	for err == nil && !done {
		if _, err := l.conn.Write(out); err != nil {
			return nil, err
		}
		var body []byte
		if body, err = l.message(x.Limit()); err != nil {
			return nil, err
		}
		out, done, err = x.Step(out[:0], body)
	}
	return out, err
}

// checkTLS refuses clients without the TLS, or the certificate, that the configuration asks for.
func (l *login) checkTLS(st *startup) error {
	t := l.srv.tls.Load()
	if t == nil {
		return nil
	}
	if l.tls == nil {
		if t.required() {
			return &pgwire.Error{Code: "28000", Message: "connection requires TLS", Hint: "use sslmode=require or better"}
		}
		return nil
	}
	if t.mode != "verify-full" {
		return nil
	}
	if certs := l.tls.ConnectionState().PeerCertificates; len(certs) == 0 || certs[0].Subject.CommonName != st.user {
		return &pgwire.Error{Code: "28000", Message: "the client certificate's common name is not the user name"}
	}
	return nil
}

// message reads one message of type 'p'.
func (l *login) message(limit int) ([]byte, error) {
	if err := l.need(pgwire.HeaderSize); err != nil {
		return nil, err
	}
	if l.in[0] == pgwire.Terminate {
		return nil, errQuiet
	}
	body, err := pgwire.Length(l.in)
	if err != nil || body > limit {
		return nil, l.malformed("length", "invalid length of authentication message")
	}
	if l.in[0] != pgwire.Password {
		return nil, l.malformed("type", "expected an authentication message")
	}
	if err := l.need(pgwire.HeaderSize + body); err != nil {
		return nil, err
	}
	return l.next(pgwire.HeaderSize + body)[pgwire.HeaderSize:], nil
}

// handOver makes the login the session s.
func (l *login) handOver(st *startup, s *session, out []byte) error {
	length := shortSecret
	if st.version >= version32 {
		length = longSecret
	}
	if n := l.srv.clients.Add(1); n > int64(l.srv.limits.Clients) && l.srv.limits.Clients > 0 { // more came at once than there was room for
		l.srv.clients.Add(-1)
		l.srv.refused.Add(proxy.Clients.Label, 1)
		return l.srv.tooManyClients()
	}
	s.user = unique.Make(st.user)
	s.number = l.srv.sessionNumber.Add(1)
	l.srv.sessions.add(s, length)
	s.resource.gate.Join()
	for name, value := range s.startup.Greeting.Parameters {
		out = pgwire.AppendParameterStatus(out, name, value)
	}
	out = pgwire.AppendBackendKeyData(out, s.key.pid, s.key.bytes())
	out = pgwire.AppendReadyForQuery(out, pgwire.Idle)
	l.srv.loginTime.Observe(time.Since(l.began))
	l.srv.logins.Add(loginKey{l.method, "ok"}, 1)
	if _, err := l.conn.Write(out); err != nil {
		l.srv.forget(s)
		return err
	}
	secure := l.secure
	if secure != nil {
		secure.Detach(l.tls, nil)
	}
	if s.w.loop == l.fiber.Loop() {
		l.socket.GiveTo(&s.conn, secure, s)
		s.enter(l.in)
		return nil
	}
	early := append([]byte(nil), l.in...)
	fd := l.socket.Release()
	s.w.loop.Post(eventloop.TaskFunc(func() { s.adopt(fd, secure, early) }))
	return nil
}

// reject ends a login with the error, as far as the client may know it.
func (l *login) reject(err error) {
	outcome := "error"
	var failure *auth.Failure
	var last *pgwire.Error
	switch {
	case errors.As(err, &failure):
		outcome = "denied"
		last = &pgwire.Error{Code: failure.Code, Message: failure.Message, Detail: failure.Detail}
	case errors.As(err, &last):
	case l.guest.evicted.Load():
		l.srv.refused.Add(proxy.LoginStorm.Label, 1)
		last = said(l.srv.tooManyLogins())
	case errors.Is(err, os.ErrDeadlineExceeded) && l.srv.draining.Load():
		last = &pgwire.Error{Code: proxy.Draining.SQLSTATE, Message: proxy.Draining.Message}
	case errors.Is(err, os.ErrDeadlineExceeded):
		outcome = "timeout"
		l.srv.protocol.Add("timeout", 1)
		last = &pgwire.Error{Code: "57014", Message: "canceling authentication due to timeout"}
	default:
		if _, ok := proxy.AsRefusal(err); ok {
			last = said(err)
		}
	}
	l.srv.log.Debug("login", "outcome", outcome, "client", l.socket.RemoteAddr(), "error", err)
	l.srv.logins.Add(loginKey{l.method, outcome}, 1)
	if last == nil || l.srv.ended.Load() {
		_ = l.socket.Close()
		return
	}
	last.Severity = "FATAL"
	if l.guest.evicted.Load() { // it gave its place to others: no more of it
		_, _ = l.conn.Write(pgwire.AppendError(nil, last))
		_ = l.socket.Close()
		return
	}
	l.guest.says(busy)
	l.srv.slowDown(l.socket, l.user, func() { l.srv.door.leave(&l.guest) })
	if l.srv.ended.Load() {
		_ = l.socket.Close()
		return
	}
	_ = l.socket.SetDeadline(time.Now().Add(lingerTime))
	_, _ = l.conn.Write(pgwire.AppendError(nil, last))
	linger(l.conn, l.socket)
}

// linger closes socket so that the last words said over conn arrive: closing it while something is unread would reset it.
// The caller has set a deadline.
func linger(conn net.Conn, socket *eventloop.Stream) {
	if t, ok := conn.(*tls.Conn); ok {
		_ = t.CloseWrite() // its goodbye, behind which it leaves a deadline of its own
		_ = socket.SetDeadline(time.Now().Add(lingerTime))
	}
	_ = socket.CloseWrite()
	_, _ = io.CopyN(io.Discard, socket, maxStartup)
	_ = socket.Close()
}

// greetError says why the resource cannot be used, in the server's own words where it said something about the client's
// parameters.
func (r *resource) greetError(err error, waited time.Duration) error {
	if refused := (*proxy.LoginError)(nil); errors.As(err, &refused) { // of the upstream's own login, not of this client's parameters
		return r.gate.BreakerRefusal(nil, err, waited)
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && aboutParameters(pgErr.Code) {
		return &pgwire.Error{Code: pgErr.Code, Message: pgErr.Message, Detail: pgErr.Detail, Hint: pgErr.Hint}
	}
	if _, ok := proxy.AsRefusal(err); ok {
		return err
	}
	if errors.Is(err, pool.ErrClosed) || errors.Is(err, context.Canceled) {
		return &pgwire.Error{Code: proxy.Draining.SQLSTATE, Message: proxy.Draining.Message}
	}
	if refused := r.notLetIn(); refused != nil {
		return r.gate.BreakerRefusal(nil, refused, waited)
	}
	if c := r.pool.Budget().Counts(); errors.Is(err, context.DeadlineExceeded) && c.Used > 0 && r.gate.Answering() == nil {
		return r.gate.QueueRefusal(nil, proxy.QueueTimeout, "connections", waited, r.queue.Wait,
			fmt.Sprintf("%d in use", c.Used), fmt.Sprint(r.pool.Budget().Max()))
	}
	if refused := loginError(err); refused != nil {
		err = refused
	}
	return r.gate.BreakerRefusal(nil, err, waited)
}

// aboutParameters reports whether a server says with this SQLSTATE that it does not like the parameters of a login: wrong
// values, unknown names, no permission, not to be changed now. That may be many, but not that it has no room, is in trouble, or does
// not let weir in.
func aboutParameters(sqlstate string) bool {
	if sqlstate == "58P01" { // a library that there is not
		return true
	}
	for _, class := range []string{"08", "28", "3D", "53", "57", "58", "F0", "XX"} {
		if strings.HasPrefix(sqlstate, class) {
			return false
		}
	}
	return len(sqlstate) == 5
}

// need reads until n bytes are there to be used. n is bounded by the caller.
func (l *login) need(n int) error {
	for len(l.in) < n {
		if cap(l.in) < n {
			l.in = append(make([]byte, 0, n+512), l.in...)
		}
		m, err := l.conn.Read(l.in[len(l.in):cap(l.in)])
		l.in = l.in[:len(l.in)+m]
		if m > 0 {
			l.guest.says(saidHello)
		} else if errors.Is(err, os.ErrDeadlineExceeded) && l.mayGoOn() {
			continue
		}
		if err != nil && len(l.in) < n {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				return errQuiet
			}
			return err
		}
	}
	return nil
}

// next uses up n bytes.
func (l *login) next(n int) []byte {
	b := l.in[:n]
	l.in = l.in[n:]
	return b
}

// turnAway refuses a connection for which there is no room, for as little work as possible: no TLS, no questions. A client
// that may go on without TLS gets 'N' first and reads the error like any other. A cancel request is none that needs room.
func (s *Server) turnAway(f *eventloop.Fiber, conn *eventloop.Stream, g *guest, why *proxy.Refusal) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(lingerTime))
	var head [8]byte
	for range 3 {
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			s.refused.Add(why.Label, 1)
			return
		}
		g.says(saidHello)
		code := binary.BigEndian.Uint32(head[4:])
		if code == cancelRequest {
			s.cancelFrom(f, conn, g, int(binary.BigEndian.Uint32(head[:]))-len(head))
			return
		}
		if code != sslRequest && code != gssRequest {
			break
		}
		if code == sslRequest && s.tls.Load().required() {
			break // the error in the place of the answer: it would not go on without TLS
		}
		if _, err := conn.Write([]byte{'N'}); err != nil {
			return
		}
	}
	s.refused.Add(why.Label, 1)
	last := said(why)
	last.Severity = "FATAL"
	if why.Reason != proxy.Descriptors { // which none is to be kept for
		s.slowDown(conn, "", func() {})
	}
	_ = conn.SetDeadline(time.Now().Add(lingerTime))
	_, _ = conn.Write(pgwire.AppendError(nil, last))
	linger(conn, conn)
}

// cancelFrom reads the rest of a cancel request, n bytes, and deals with it.
func (s *Server) cancelFrom(f *eventloop.Fiber, conn *eventloop.Stream, g *guest, n int) {
	if n < 0 || n > 4+maxCancelKey {
		s.protocol.Add("cancel", 1)
		return
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(conn, body); err == nil {
		s.cancelSession(f, g, body)
	}
}
