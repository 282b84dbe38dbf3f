package pool

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/pgwire"
)

// DialFunc opens one connection to the server that is logged in and idle, with the startup parameters of cfg and, above
// them, extra.
type DialFunc func(ctx context.Context, extra []Setting) (*Dialed, error)

// Dialed is a connection that left pgconn's hands: its socket, still with the Go runtime, and what the login told.
type Dialed struct {
	hijacked *pgconn.HijackedConn
	socket   net.Conn          // the TCP or Unix connection itself
	secure   *eventloop.Secure // nil without TLS
	addr     string            // as it was dialled
}

// Address is where the server is, as it was dialled.
func (d *Dialed) Address() string { return d.addr }

// Close says goodbye and waits, for a while, until the server has closed its end, too.
func (d *Dialed) Close() {
	conn := d.hijacked.Conn
	if d.secure != nil {
		conn = d.socket // the TLS layer has been detached for a loop; the server takes the end of the stream as well
	} else {
		_, _ = conn.Write(pgwire.AppendMessage(nil, pgwire.Terminate))
	}
	if half, ok := d.socket.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_ = conn.SetReadDeadline(time.Now().Add(closingTime))
	_, _ = io.Copy(io.Discard, conn)
	_ = conn.Close()
}

// Dial makes a DialFunc of a pgconn configuration: every option of its connection string holds. pgconn logs in; then the
// connection is taken over, TLS layer included.
func Dial(cfg *pgconn.Config) DialFunc {
	return func(ctx context.Context, extra []Setting) (*Dialed, error) {
		c := cfg.Copy()
		for _, s := range extra {
			c.RuntimeParams[s.Name] = s.Value
		}
		if c.RuntimeParams["replication"] == "true" && c.ValidateConnect != nil {
			return dialPhysical(ctx, c)
		}
		return dial(ctx, c, "")
	}
}

// dialPhysical finds out over an ordinary connection which server is the one that is wanted (target_session_attrs), and dials
// that one: pgconn asks in SQL, which a walsender of physical replication does not take.
func dialPhysical(ctx context.Context, c *pgconn.Config) (*Dialed, error) {
	ordinary := c.Copy()
	delete(ordinary.RuntimeParams, "replication")
	wanted, err := dial(ctx, ordinary, "")
	if err != nil {
		return nil, err
	}
	wanted.Close()
	c.ValidateConnect = nil
	return dial(ctx, c, wanted.addr)
}

// ofLogin marks the context of a login.
type ofLogin struct{}

var errNoCancel = errors.New("a login that broke off is not cancelled")

// dial opens a connection; unless only is "", to no other address.
func dial(ctx context.Context, c *pgconn.Config, only string) (*Dialed, error) {
	var socket *eventloop.Secure // of the address tried last, which is the one that worked
	var last string
	dial := c.DialFunc
	c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if ctx.Value(ofLogin{}) == nil { // in the background, to cancel what runs on a connection that broke: at login nothing does
			return nil, errNoCancel
		}
		if only != "" && addr != only {
			return nil, fmt.Errorf("%s is not the server that is wanted", addr)
		}
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		socket, last = eventloop.NewSecure(conn), addr
		return socket, nil
	}
	guardLogin(c)
	conn, err := pgconn.ConnectConfig(context.WithValue(ctx, ofLogin{}, true), c)
	if err != nil {
		return nil, err
	}
	if q, is := ctx.Value(ofQuestion{}).(*question); is {
		if err := q.ask(ctx, conn); err != nil {
			_ = conn.Close(ctx)
			return nil, err
		}
	}
	hijacked, err := conn.Hijack()
	if err != nil {
		return nil, err
	}
	if n := hijacked.Frontend.ReadBufferLen(); n > 0 {
		_ = hijacked.Conn.Close()
		return nil, fmt.Errorf("the server sent %d bytes after the login that nobody asked for", n)
	}
	hijacked.Frontend = nil // its buffers are not needed any more
	hijacked.Config.DialFunc = dial
	d := takeOver(hijacked, socket)
	d.addr = last
	return d, nil
}

func newServer(p *Pool, d *Dialed) *Server {
	reported := d.hijacked.ParameterStatuses
	return &Server{pool: p, address: d.addr, hijacked: d.hijacked, params: maps.Clone(reported), base: maps.Clone(reported)}
}

func takeOver(h *pgconn.HijackedConn, wrapped *eventloop.Secure) *Dialed {
	d := &Dialed{hijacked: h, socket: wrapped.Conn}
	if t, ok := h.Conn.(*tls.Conn); ok {
		wrapped.Detach(t, wrapped.Conn.RemoteAddr())
		d.secure = wrapped
	}
	return d
}

// dialLocked starts as many dials as there are waiters without one, within the budget.
func (p *Pool) dialLocked() {
	b := p.budget
	if p.retrying || b.closed {
		return
	}
	for p.dialing < min(p.waiting.len, dialsAtOnce) && b.counts.Open() < b.cfg.Connections {
		p.dialing++
		b.counts.Dialing++
		b.running.Go(p.dialOne)
		if p.backoff > 0 {
			return // one at a time while the server does not answer
		}
	}
}

// replace dials in the place of a connection that broke, although nobody may wait for it: whether that works tells whether the server is
// to blame.
func (p *Pool) replace() {
	b := p.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.retrying || b.closed || p.dialing > 0 || b.counts.Open() >= b.cfg.Connections {
		return
	}
	p.dialing++
	b.counts.Dialing++
	b.running.Go(p.dialOne)
}

// dialOne opens a connection for whoever waits longest.
func (p *Pool) dialOne() {
	ctx, cancel := context.WithTimeoutCause(p.budget.ctx, p.budget.cfg.Connect, context.DeadlineExceeded)
	defer cancel()
	d, err := p.dial(ctx, nil)
	if err == nil {
		err = p.adopt(d)
	}
	if err != nil {
		p.dialFailed(err)
	}
	if p.dialed != nil && p.budget.ctx.Err() == nil {
		p.dialed(err)
	}
}

// adopt puts a new connection under a loop and gives it to the longest waiter, or on the shelf.
func (p *Pool) adopt(d *Dialed) error {
	b := p.budget
	defaults := p.welcome(d)
	fd, err := eventloop.Take(d.socket)
	if err != nil {
		return err
	}
	now := time.Now()
	s := newServer(p, d)
	s.defaults = defaults
	if b.cfg.ServerLifetime > 0 {
		s.expires = now.Add(jittered(b.cfg.ServerLifetime))
	}
	if b.cfg.ServerIdle > 0 {
		s.restsFor = jittered(b.cfg.ServerIdle)
	}
	l := p.loopForNext()
	b.mu.Lock()
	b.counts.Dialing--
	b.counts.Used++
	p.backoff = 0
	b.mu.Unlock()
	l.Post(eventloop.TaskFunc(func() {
		if err := s.Conn.Attach(l, fd, d.secure, s); err != nil {
			b.log.Error("watch a server connection", "error", err)
			s.Retire(l)
		} else {
			p.Release(s)
		}
		p.arrived()
	}))
	return nil
}

// arrived counts a dial as over when its waiter has the connection: before, another would be dialled for it. The server
// answers again, so it goes on at full speed.
func (p *Pool) arrived() {
	p.budget.mu.Lock()
	defer p.budget.mu.Unlock()
	p.dialing--
	p.dialLocked()
}

// loopForNext is the loop of the longest waiter.
func (p *Pool) loopForNext() *eventloop.Loop {
	p.budget.mu.Lock()
	defer p.budget.mu.Unlock()
	if p.waiting.head != nil {
		return p.waiting.head.Loop
	}
	return p.budget.loops.Next()
}

// dialFailed has another try made after a while, if someone still waits then.
func (p *Pool) dialFailed(err error) {
	b := p.budget
	if b.ctx.Err() == nil {
		b.log.Warn("connect to the server", "error", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p.dialing--
	b.counts.Dialing--
	if !p.retrying { // of dials that failed together only the first makes the pause longer
		p.retrying = true
		p.backoff = min(max(2*p.backoff, firstBackoff), lastBackoff)
		time.AfterFunc(p.backoff, p.retry)
	}
	b.dialForAllLocked() // another pool may use the place
}

func (p *Pool) retry() {
	p.budget.mu.Lock()
	defer p.budget.mu.Unlock()
	p.retrying = false
	p.dialLocked()
}
