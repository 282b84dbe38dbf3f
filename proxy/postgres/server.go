package postgres

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/auth"
	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/pool"
	"github.com/weirproxy/weir/proxy"
	"github.com/weirproxy/weir/upstream"
)

// PoolMode says for how long a client keeps a server connection.
type PoolMode string

// Reset says when a server connection is put back to what it was before anybody had it.
type Reset string

// The kinds of reset.
const (
	ResetDetected Reset = "detected" // when a session was seen to leave something
	ResetAlways   Reset = "always"   // whenever it comes to another client
)

// The pool modes.
const (
	Transaction PoolMode = "transaction" // until the transaction is over
	Session     PoolMode = "session"     // until the client leaves
	Statement   PoolMode = "statement"   // like Transaction, but transaction blocks are refused
)

// Options are what a Server needs. They are not changed after New.
type Options struct {
	Resources  []ResourceOptions
	Users      *auth.Users
	TLS        TLSOptions
	Limits     Limits
	Processors int    // how many the event loops may make use of; 0: GOMAXPROCS
	Number     uint16 // of this weir in its fleet, see NumberOf; cancel keys have it
	Log        *slog.Logger
}

// ResourceOptions describe one database that clients may ask for.
type ResourceOptions struct {
	Name     string
	Upstream string // connection string of the server, as pgconn takes it
	Pool     pool.Config
	Mode     PoolMode
	Pinning  Pinning       // Pin when empty
	Reset    Reset         // ResetDetected when empty
	MaxAge   time.Duration // for how long those who prepare a statement get the same one; 0: as long as the schema is the same
	Client   int           // bytes of text of prepared statements that a client may have; 0: any
	User     int           // and those of one user; 0: any
	Pinned   int           // sessions that may keep a server connection at once; 0: any number
	SoftPins bool          // more may as long as nobody waits for one
	Queue    limiter.Queue
	Timeouts Timeouts
	Gate     *proxy.Gate
}

// Timeouts of a resource; 0 switches one off.
type Timeouts struct {
	Query             time.Duration // until a query is cancelled
	IdleInTransaction time.Duration // until a transaction in which the client says nothing is rolled back
	TCPUserTimeout    time.Duration // until a server that confirms nothing is taken to be gone
	ClientStall       time.Duration // until a client that stops in the middle of a request loses its server connection
	ClientIdle        time.Duration // until a client that says nothing is sent away
}

// TLSOptions are the certificate of the listener and what is expected of clients.
type TLSOptions struct {
	Mode         string // disable | prefer | require | verify-ca | verify-full
	CertFile     string
	KeyFile      string
	ClientCAFile string
}

// Limits of the listener.
type Limits struct {
	Clients         int           // connected clients
	Unauthenticated int           // connections that have not logged in yet
	LoginTimeout    time.Duration // from accept to the end of the login
	TCPUserTimeout  time.Duration // of the listener, which has it already
}

// Server serves clients that speak PostgreSQL's protocol.
type Server struct {
	limits    Limits
	log       *slog.Logger
	resources map[string]*resource
	users     atomic.Pointer[auth.Users]
	tls       atomic.Pointer[tlsState] // nil: no TLS
	porch     *eventloop.Group         // for those who have not logged in yet, where that takes much arithmetic
	loops     *eventloop.Group         // for sessions and server connections
	workers   []*worker
	next      atomic.Uint32
	ctx       context.Context
	stop      context.CancelFunc
	logging   sync.WaitGroup // logins under way

	sessions  registry
	statement atomic.Uint64

	sessionNumber atomic.Uint64 // the last one

	clients      atomic.Int64 // sessions
	files        files
	door         crowd        // those who have not logged in
	turnedAway   crowd        // those who are being turned away
	onSpareFiles crowd        // those of them whose file descriptors are some that are kept
	slowed       atomic.Int64 // refused logins whose answer waits
	repeats      repeats
	draining     atomic.Bool
	ended        atomic.Bool // nobody is waited for any more
	closing      sync.Once
	mu           sync.Mutex // guards what follows
	listeners    []*eventloop.Listener
	pending      map[*login]struct{}
	closed       bool // no login may begin any more

	panics    atomic.Int64
	protocol  proxy.Tally[string]
	refused   proxy.Tally[string]
	logins    proxy.Tally[loginKey]
	loginTime proxy.Durations
}

type loginKey struct{ method, outcome string }

// resource is one database that clients may ask for.
type resource struct {
	name        string
	database    string // of the upstream
	mode        PoolMode
	pool        *pool.Pool
	gate        *proxy.Gate
	queue       limiter.Queue
	queueLength int
	timeouts    Timeouts
	errors      proxy.Tally[string] // by SQLSTATE class
	pinning     Pinning
	reset       Reset
	mostPinned  int
	softPins    bool // more may keep one as long as nobody waits
	kept        kept
	pinned      atomic.Int64 // sessions
	pins        pins         // by reason
	stalls      stallCounts
	texts       texts
	outcomes    outcomes
	schema      atomic.Uint64          // counts what is known to have changed the schema
	clientText  int                    // bytes that the prepared statements of a client may need; 0: any
	userText    int                    // and those of a user
	maxAge      time.Duration          // of the contents that clients are given
	sequences   atomic.Bool            // sessions ask what was drawn from sequences: see link.putBack
	wary        atomic.Bool            // a function was created that may change what is prepared
	tempBuffers atomic.Bool            // somebody sets temp_buffers
	outdated    atomic.Pointer[[]byte] // how a server says that a statement is outdated; nil: none ever was

	losses       losses
	refusedLogin atomic.Pointer[refusedLogin] // nil: the latest dial was not refused
}

// Defaults of what Options leave out.
const (
	turnAwayAtOnce     = 1000
	tooManyConnections = "53300"
	drainPollInterval  = 20 * time.Millisecond
	defaultLoginPeriod = 10 * time.Second
)

// New makes a Server and its event loops. It opens no connection yet.
func New(o Options) (*Server, error) {
	processors := cmpOr(o.Processors, runtime.GOMAXPROCS(0))
	loops, err := eventloop.NewGroup(sessionLoops(processors))
	if err != nil {
		return nil, err
	}
	porch, err := eventloop.NewGroup(processors)
	if err != nil {
		loops.Close()
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{
		limits:    o.Limits,
		log:       o.Log,
		resources: make(map[string]*resource),
		loops:     loops,
		porch:     porch,
		ctx:       ctx,
		stop:      stop,
		pending:   make(map[*login]struct{}),
	}
	loops.OnPanic(s.panicked)
	porch.OnPanic(s.panicked)
	s.statement.Store(lastOfOurs)
	s.sessions.weir = o.Number
	if s.limits.LoginTimeout == 0 {
		s.limits.LoginTimeout = defaultLoginPeriod
	}
	for _, l := range loops.Loops() {
		s.workers = append(s.workers, &worker{srv: s, loop: l})
	}
	if err := s.Reload(o); err != nil {
		s.Close()
		return nil, err
	}
	connections := 0
	for _, ro := range o.Resources {
		if err := s.addResource(ro); err != nil {
			s.Close()
			return nil, fmt.Errorf("resource %s: %w", ro.Name, err)
		}
		connections += ro.Pool.Connections
	}
	s.files.set(connections)
	return s, nil
}

// sessionLoops is how many loops sessions have: half of the processors, so that one wait finds more of them ready, which is
// cheaper. The porch, for whose arithmetic all of them are wanted, has a loop for each.
func sessionLoops(processors int) int { return max(1, processors/2) }

// GoProcessors is what GOMAXPROCS should be for a Server that makes use of this many processors. A loop keeps one of Go's
// processors while it waits for work; with none to spare, the runtime would take it away each time, at great cost.
func GoProcessors(processors int) int { return processors + sessionLoops(processors) }

func cmpOr(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

func (s *Server) addResource(o ResourceOptions) error {
	server, err := upstream.Parse(o.Upstream)
	if err != nil {
		return err
	}
	server = server.WithUserTimeout(o.Timeouts.TCPUserTimeout)
	r := &resource{name: o.Name, database: server.Database(), mode: o.Mode, pinning: o.Pinning, reset: o.Reset, maxAge: o.MaxAge, clientText: o.Client, userText: o.User, mostPinned: o.Pinned, softPins: o.SoftPins, gate: o.Gate, queue: o.Queue, timeouts: o.Timeouts}
	if r.mode == "" {
		r.mode = Transaction
	}
	if r.pinning == "" {
		r.pinning = KeepPins
	}
	r.queueLength = o.Queue.Room(o.Pool.Connections)
	budget := pool.NewBudget(o.Pool, s.loops, s.log.With("resource", o.Name))
	r.pool = budget.NewPool(dialTo(server), func(err error) {
		if isShortage(err) { // which says nothing of the server
			s.ranShort(err)
			return
		}
		r.dialed(err)
	})
	r.pool.Require(pool.SessionAttrs(server.Config()))
	s.resources[o.Name] = r
	return nil
}

// dialTo opens connections to the server, every option of its connection string honoured.
func dialTo(server *upstream.Upstream) pool.DialFunc {
	return func(ctx context.Context, extra []pool.Setting) (*pool.Dialed, error) {
		d, err := pool.Dial(server.ConfigFor(ctx))(ctx, extra)
		if err == nil {
			server.Answered(d.Address())
		}
		return d, server.Explain(err)
	}
}

// refusedLoginHolds is how long a refused login keeps a weir from being ready. Then the next client finds out whether the operator
// has mended it: without one nobody dials.
const refusedLoginHolds = 10 * time.Second

// refusedLogin is the latest dial of a resource, if it was refused.
type refusedLogin struct {
	err   *proxy.LoginError
	at    time.Time
	since time.Time // when the server began to have no room for weir; zero: that is not why
}

// loginError finds out whether a server that was dialled answers but does not let weir in, or nil. What it says of its own state
// (shutting down, full, broken) is none of that.
func loginError(err error) *proxy.LoginError {
	if unsafe := (*upstream.Unsafe)(nil); errors.As(err, &unsafe) {
		return &proxy.LoginError{Err: err}
	}
	pgErr := (*pgconn.PgError)(nil)
	if !errors.As(err, &pgErr) || len(pgErr.Code) != 5 || cmp.Or(pgErr.SeverityUnlocalized, pgErr.Severity) != "FATAL" {
		return nil
	}
	switch pgErr.Code[:2] {
	case "08", "53", "57", "58", "XX":
		return nil
	}
	return &proxy.LoginError{SQLSTATE: pgErr.Code, Err: err}
}

// loginRefused deals with a dial whose login was refused. That says nothing against the server's health: the breaker stays out of
// it, and who waits goes on waiting for the connections that there are. Without any there is nothing to wait for.
func (r *resource) loginRefused(err *proxy.LoginError) {
	r.refusedLogin.Store(&refusedLogin{err: err, at: time.Now()})
	if err.SQLSTATE != "" {
		_ = r.gate.Dialed(nil) // it answers
	}
	if c := r.pool.Budget().Counts(); c.Idle+c.Used == 0 {
		r.pool.Refuse(err)
	}
}

// A server without room for weir is waited for, unless that lasts. Without a dial for noRoomForgotten it is a new time.
const (
	noRoomLasts     = 2 * time.Second
	noRoomForgotten = 3 * time.Second
)

// noRoom deals with a dial for which the server, or the role, had no connection to spare. Who waits goes on waiting for those that there
// are. Without any, that may last: then who waits is told.
func (r *resource) noRoom(err *proxy.LoginError) {
	now := time.Now()
	refused := &refusedLogin{err: err, at: now, since: now}
	if before := r.refusedLogin.Load(); before != nil && !before.since.IsZero() && now.Sub(before.at) < noRoomForgotten {
		refused.since = before.since
	}
	r.refusedLogin.Store(refused)
	if c := r.pool.Budget().Counts(); c.Idle+c.Used == 0 && now.Sub(refused.since) >= noRoomLasts {
		r.pool.Refuse(err)
	}
}

// answering is nil, or why nobody can be served.
func (r *resource) answering() error {
	if err := r.gate.Answering(); err != nil {
		return err
	}
	if refused := r.notLetIn(); refused != nil {
		return refused
	}
	return nil
}

// notLetIn is why there are no server connections, if that is because the server does not let weir in.
func (r *resource) notLetIn() *proxy.LoginError {
	refused := r.refusedLogin.Load()
	if refused == nil || time.Since(refused.at) > refusedLoginHolds {
		return nil
	}
	if c := r.pool.Budget().Counts(); c.Idle+c.Used > 0 {
		return nil
	}
	return refused.err
}

// dialed passes the outcome of a dial to the breaker. When that makes it open, nobody needs to wait any longer. A server that
// has no connection to spare is answering: that is none of the breaker's business.
func (r *resource) dialed(err error) {
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && pgErr.Code == tooManyConnections {
		r.noRoom(&proxy.LoginError{SQLSTATE: pgErr.Code, Err: err})
		return
	}
	if refused := loginError(err); refused != nil {
		r.loginRefused(refused)
		return
	}
	r.refusedLogin.Store(nil)
	if err == nil {
		r.losses.answered()
	} else {
		for range r.losses.decide(time.Now()) {
			_ = r.gate.Dialed(err)
		}
	}
	if open := r.gate.Dialed(err); open != nil {
		r.pool.Refuse(open)
	}
}

// Reload takes over the users and the TLS settings of o, the certificate read anew. On error nothing changes. Clients that
// are connected stay.
func (s *Server) Reload(o Options) error {
	t, err := newTLSState(o.TLS)
	if err != nil {
		return err
	}
	s.users.Store(o.Users)
	s.tls.Store(t)
	return nil
}

// tlsState is a loaded certificate.
type tlsState struct {
	mode    string
	config  *tls.Config
	binding auth.Binding
}

// required reports whether clients without TLS are refused. A nil state is no TLS at all.
func (t *tlsState) required() bool { return t != nil && t.mode != "prefer" }

func newTLSState(o TLSOptions) (*tlsState, error) {
	if o.Mode == "" || o.Mode == "disable" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	t := &tlsState{mode: o.Mode, binding: auth.NewBinding(cert.Leaf), config: &tls.Config{
		Certificates:           []tls.Certificate{cert},
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{alpn},
		SessionTicketsDisabled: true, // libpq never resumes a session
	}}
	if o.Mode == "verify-ca" || o.Mode == "verify-full" {
		pem, err := os.ReadFile(o.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		t.config.ClientCAs = x509.NewCertPool()
		if !t.config.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls: %s: no certificate in PEM form", o.ClientCAFile)
		}
		t.config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return t, nil
}

// Serve accepts clients from l until Shutdown or Close, and returns net.ErrClosed then.
func (s *Server) Serve(l net.Listener) error {
	listener, err := s.listen(l)
	if err != nil {
		_ = l.Close()
		return err
	}
	<-listener.Done()
	return net.ErrClosed
}

func (s *Server) listen(l net.Listener) (*eventloop.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Load() {
		return nil, net.ErrClosed
	}
	group := s.loops
	if s.laborious() {
		group = s.porch
	}
	listener, err := group.Listen(l, s.accept, s.acceptFailed)
	if err == nil {
		s.listeners = append(s.listeners, listener)
	}
	return listener, err
}

// laborious reports whether logins need so much arithmetic, for TLS or for passwords, that they would hold up the sessions
// of a loop: then they have loops of their own. Others cost less where the session will be than on their way there.
func (s *Server) laborious() bool { return s.tls.Load() != nil || s.users.Load().Costly() }

// accept begins a login, unless there are too many.
func (s *Server) accept(loop *eventloop.Loop, fd int) {
	switch {
	case fd >= s.files.clients && s.files.clients > 0:
		s.ranShort(nil)
		s.refuseForFiles(loop, fd)
	case s.clients.Load() >= int64(s.limits.Clients) && s.limits.Clients > 0:
		s.refuse(loop, fd, s.tooManyClients())
	default:
		s.beginLogin(loop, fd)
	}
}

// beginLogin begins a login on the loop where it ought to be: the kernel does not spread connections evenly over those that
// accept them, and a reload may have changed what a login takes.
func (s *Server) beginLogin(accepted *eventloop.Loop, fd int) {
	loop := accepted
	switch {
	case !s.laborious():
		loop = s.nextWorker().loop
	case s.workerOn(accepted) != nil:
		loop = s.porch.Next()
	}
	begin := func() {
		loop.Go(func(f *eventloop.Fiber) { s.login(f, fd) })
	}
	if loop == accepted {
		begin()
	} else {
		loop.Post(eventloop.TaskFunc(begin))
	}
}

func (s *Server) acceptFailed(err error) {
	if isShortage(err) {
		s.ranShort(err)
		return
	}
	s.log.Error("accept a connection", "error", err)
}

// login serves a new connection, on a fiber, to the end of its login.
func (s *Server) login(f *eventloop.Fiber, fd int) {
	socket, err := eventloop.NewStream(f, fd)
	if err != nil {
		s.acceptFailed(err)
		return
	}
	l := &login{srv: s, fiber: f, socket: socket, conn: socket, began: time.Now(), method: "none", from: address(socket)}
	l.guest.interrupt, l.guest.fd = l.interrupt, fd
	switch {
	case !s.door.enter(&l.guest, l.from, s.limits.Unauthenticated):
		s.turnAwayFrom(f, socket, fd, s.tooManyLogins())
	case s.begin(l):
		l.in = make([]byte, 0, 512)
		l.serve()
	default:
		s.door.leave(&l.guest)
		_ = socket.Close()
	}
}

// begin counts a login among those under way, unless the server is closed.
func (s *Server) begin(l *login) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.pending[l] = struct{}{}
	s.logging.Add(1)
	return true
}

// listenerRetry is when a client that found no room may come back: for an estimate nothing is known of it.
const listenerRetry = time.Second

func (s *Server) tooManyClients() *proxy.Refusal {
	return proxy.Refuse(proxy.Clients, "limits.clients",
		strconv.FormatInt(s.clients.Load(), 10), strconv.Itoa(s.limits.Clients), listenerRetry)
}

func (s *Server) tooManyLogins() *proxy.Refusal {
	return proxy.Refuse(proxy.LoginStorm, "limits.unauthenticated",
		strconv.FormatInt(s.door.count.Load(), 10), strconv.Itoa(s.limits.Unauthenticated), listenerRetry)
}

// loggedIn is called when a login is over, one way or the other.
func (s *Server) loggedIn(l *login) {
	s.door.leave(&l.guest)
	s.mu.Lock()
	delete(s.pending, l)
	s.mu.Unlock()
	s.logging.Done()
}

// refuse turns a connection away.
func (s *Server) refuse(loop *eventloop.Loop, fd int, why *proxy.Refusal) {
	loop.Go(func(f *eventloop.Fiber) {
		conn, err := eventloop.NewStream(f, fd)
		if err != nil {
			return
		}
		s.turnAwayFrom(f, conn, fd, why)
	})
}

// turnAwayFrom is turnAway for as many as there is room for among those who are.
func (s *Server) turnAwayFrom(f *eventloop.Fiber, conn *eventloop.Stream, fd int, why *proxy.Refusal) {
	g := &guest{interrupt: conn.Interrupt, fd: fd}
	among, room := &s.turnedAway, turnAwayAtOnce
	if why.Reason == proxy.Descriptors {
		among, room = &s.onSpareFiles, spareFiles
	}
	if !among.enter(g, address(conn), room) || !s.beginTurningAway() {
		among.leave(g)
		s.refused.Add(why.Label, 1)
		_ = conn.Close()
		return
	}
	defer s.logging.Done()
	defer among.leave(g)
	s.turnAway(f, conn, g, why)
}

// beginTurningAway reports whether it may begin: not once the server is closed.
func (s *Server) beginTurningAway() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.logging.Add(1)
	}
	return !s.closed
}

// workerOn is the worker of a loop, or nil when the loop has no sessions.
func (s *Server) workerOn(loop *eventloop.Loop) *worker {
	for _, w := range s.workers {
		if w.loop == loop {
			return w
		}
	}
	return nil
}

func (s *Server) nextWorker() *worker {
	return s.workers[int(s.next.Add(1))%len(s.workers)]
}

// forget is called when a session has ended.
func (s *Server) forget(c *session) {
	if !c.forgotten {
		c.forgotten = true
		s.sessions.remove(c)
		c.resource.gate.Part()
		s.clients.Add(-1)
	}
}

// Ready is nil, or why no client should be sent here.
func (s *Server) Ready() error {
	if s.draining.Load() {
		return errors.New(proxy.Draining.Message)
	}
	all := s.files.shortage()
	for _, r := range s.resources {
		if err := r.answering(); err != nil {
			all = errors.Join(all, fmt.Errorf("resource %s: %w", r.name, err))
		}
	}
	return all
}

// Shutdown stops accepting, tells idle clients, lets running transactions finish, and closes everything. When ctx ends
// first, it returns ctx's error and what still runs is cut off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	s.stop()
	s.closeListeners()
	s.interruptLogins()
	s.sessions.each(func(c *session) {
		c.w.loop.Post(eventloop.TaskFunc(c.drain))
	})
	poll := time.NewTicker(drainPollInterval)
	defer poll.Stop()
	for s.clients.Load() > 0 || s.door.count.Load() > 0 {
		select {
		case <-ctx.Done():
			s.Close()
			return ctx.Err()
		case <-poll.C:
		}
	}
	s.Close()
	return nil
}

// interruptLogins ends the wait for clients that have yet to say who they are.
func (s *Server) interruptLogins() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.pending {
		l.interrupt()
	}
}

func (s *Server) closeListeners() {
	s.mu.Lock()
	listeners := s.listeners
	s.listeners = nil
	s.mu.Unlock()
	for _, l := range listeners {
		l.Close()
	}
}

// Close ends everything at once and waits for it. Closing again only waits.
func (s *Server) Close() { s.closing.Do(s.close) }

func (s *Server) close() {
	s.draining.Store(true)
	s.stop()
	s.closeListeners()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.ended.Store(true)
	s.interruptLogins()
	s.logging.Wait()
	var gone sync.WaitGroup
	s.sessions.each(func(c *session) {
		gone.Add(1)
		c.w.loop.Post(eventloop.TaskFunc(func() {
			c.cutOff()
			gone.Done()
		}))
	})
	gone.Wait()
	for _, r := range s.resources {
		r.pool.Budget().Close()
	}
	for _, r := range s.resources {
		r.pool.Budget().Wait()
	}
	s.porch.Close()
	s.loops.Close()
}

func (s *Server) nextStatement() uint64 { return s.statement.Add(1) }

// countError counts an error of the server by the class of its SQLSTATE.
func (r *resource) countError(sqlstate string) {
	if len(sqlstate) == 5 {
		r.errors.Add(sqlstate[:2], 1)
	}
}
