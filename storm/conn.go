package storm

import (
	"cmp"
	"context"
	"crypto/md5"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/internal/scram"
	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/upstream"
)

// conn is a connection that knows just enough of the protocol to log in and to run simple queries. It is meant to be cheap:
// what the generator burns is missing elsewhere on a machine that it shares with what it measures. A statement takes one
// write, and a read for each packet of the answer; nothing is decoded but errors.
type conn struct {
	net.Conn
	socket net.Conn // beneath TLS, if any
	buf    []byte   // what was read and not yet looked at is buf[r:w]
	r, w   int
}

const (
	readBuffer    = 2048
	maxLoginReply = 8192 // bytes; no message of a login is longer
)

// parseDSN reads a connection string with all that libpq's environment adds to it.
func parseDSN(text string) (*pgconn.Config, *upstream.Upstream, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil, errors.New("is missing; expected " + upstream.Shape)
	}
	server, err := upstream.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	cfg := server.Config()
	if cfg.ValidateConnect != nil {
		return nil, nil, errors.New("has target_session_attrs, which a storm does not ask about; name the one host that is meant")
	}
	if cfg.ChannelBinding == "require" {
		return nil, nil, errors.New("has channel_binding=require, which a storm does not speak; leave it out")
	}
	return cfg, server, nil
}

// route is one way to a server: an address, in clear or with TLS.
type route struct {
	network, address string
	tls              *tls.Config // nil: in clear
}

// routes are those of a DSN, in the order in which libpq tries them.
func routes(dsn *pgconn.Config) []route {
	var all []route
	add := func(host string, port uint16, t *tls.Config) {
		network, address := pgconn.NetworkAddress(host, port)
		all = append(all, route{network, address, t})
	}
	add(dsn.Host, dsn.Port, dsn.TLSConfig)
	for _, f := range dsn.Fallbacks {
		add(f.Host, f.Port, f.TLSConfig)
	}
	return all
}

// dialer opens connections over one route.
type dialer struct {
	route
	open   func(ctx context.Context, network, address string) (net.Conn, error)
	keys   *scram.Keys
	server *upstream.Upstream // says what may be shown to whoever answers
}

// connect dials and logs in, until the deadline or the end of ctx. announce learns of the socket before anything is said.
func (d *dialer) connect(ctx context.Context, deadline time.Time, who login, announce func(net.Conn)) (*conn, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	socket, err := d.open(ctx, d.network, d.address)
	if err != nil {
		return nil, err
	}
	if announce != nil {
		announce(socket)
	}
	c, err := d.logIn(socket, deadline, who)
	if err != nil {
		_ = socket.Close()
		return nil, err
	}
	return c, nil
}

func (d *dialer) logIn(socket net.Conn, deadline time.Time, who login) (*conn, error) {
	if err := socket.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stream := socket
	if d.tls != nil {
		secure, err := startTLS(socket, d.tls)
		if err != nil {
			return nil, err
		}
		stream = secure
	}
	c := &conn{Conn: stream, buf: make([]byte, readBuffer)}
	if _, err := c.Write(who.startup()); err != nil {
		return nil, err
	}
	if err := c.authenticate(who, d.keys, d.server.Policy(d.tls != nil, d.network == "unix")); err != nil {
		return nil, err
	}
	_, refusal, err := c.await()
	if err != nil {
		return nil, err
	}
	if refusal != nil {
		return nil, refusal
	}
	return c, nil
}

var sslRequest = []byte{0, 0, 0, 8, 4, 210, 22, 47}

var errNoTLS = errors.New("the server does not speak TLS")

func startTLS(socket net.Conn, cfg *tls.Config) (*tls.Conn, error) {
	if _, err := socket.Write(sslRequest); err != nil {
		return nil, err
	}
	var answer [1]byte
	if _, err := io.ReadFull(socket, answer[:]); err != nil {
		return nil, err
	}
	if answer[0] != 'S' {
		return nil, errNoTLS
	}
	secure := tls.Client(socket, cfg)
	return secure, secure.Handshake()
}

// login is who a function says it is.
type login struct {
	user, password, database string
	parameters               map[string]string // application_name, options and whatever else the DSN has
}

func loginOf(dsn *pgconn.Config, c Caller) login {
	l := login{
		user:       cmp.Or(c.User, dsn.User),
		password:   cmp.Or(c.Password, dsn.Password),
		database:   cmp.Or(c.Database, dsn.Database),
		parameters: maps.Clone(dsn.RuntimeParams),
	}
	if l.parameters == nil {
		l.parameters = map[string]string{}
	}
	if c.ApplicationName != "" {
		l.parameters["application_name"] = c.ApplicationName
	}
	if c.Options != "" {
		l.parameters["options"] = c.Options
	}
	if c.Priority != "" {
		l = l.withOption("-c weir.priority=" + c.Priority)
	}
	return l
}

// withOption is the same login with one more command-line option for the server.
func (l login) withOption(option string) login {
	l.parameters = maps.Clone(l.parameters)
	l.parameters["options"] = strings.TrimSpace(l.parameters["options"] + " " + option)
	return l
}

// startup is the message of protocol 3.0.
func (l login) startup() []byte {
	b := []byte{0, 0, 0, 0, 0, 3, 0, 0}
	add := func(name, value string) { b = append(append(append(append(b, name...), 0), value...), 0) }
	add("user", l.user)
	if l.database != "" {
		add("database", l.database)
	}
	for _, name := range slices.Sorted(maps.Keys(l.parameters)) {
		add(name, l.parameters[name])
	}
	b = append(b, 0)
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return b
}

// Kinds of authentication requests.
const (
	authOK        = 0
	authCleartext = 3
	authMD5       = 5
	authSASL      = 10
	authContinue  = 11
	authFinal     = 12
)

// authenticate answers what the server asks for until it is content.
func (c *conn) authenticate(who login, keys *scram.Keys, may upstream.Policy) error {
	exchange := scram.Exchange{Keys: keys, Password: who.password}
	for {
		kind, body, err := c.receive()
		if err != nil {
			return err
		}
		if kind == pgwire.NegotiateProtocolVersion {
			continue
		}
		if kind != pgwire.Authentication || len(body) < 4 {
			return fmt.Errorf("the server sent a message of type %q in the middle of a login", kind)
		}
		asked, body := binary.BigEndian.Uint32(body), body[4:]
		var answer []byte
		switch asked {
		case authOK:
			return nil
		case authCleartext:
			if !may.Password {
				return upstream.Refuse("password")
			}
			answer = append([]byte(who.password), 0)
		case authMD5:
			if !may.MD5 {
				return upstream.Refuse("md5")
			}
			answer = append([]byte(md5Answer(who, body)), 0)
		case authSASL:
			answer, err = exchange.First(string(body))
		case authContinue:
			if !may.FewRounds && upstream.FewRounds(body) {
				return upstream.Refuse("scram-sha-256")
			}
			answer, err = exchange.Final(string(body))
		case authFinal:
			err = exchange.Verify(string(body))
		default:
			err = fmt.Errorf("the server asks for authentication method %d, which a storm does not speak", asked)
		}
		if err == nil && answer != nil {
			_, err = c.Write(pgwire.AppendMessage(nil, pgwire.Password, answer))
		}
		if err != nil {
			return err
		}
	}
}

func md5Answer(who login, salt []byte) string {
	inner := md5.Sum([]byte(who.password + who.user))
	outer := md5.Sum(append([]byte(hex.EncodeToString(inner[:])), salt...))
	return "md5" + hex.EncodeToString(outer[:])
}

// receive reads one message of a login. The body is valid until the next call. An ErrorResponse is the error.
func (c *conn) receive() (kind byte, body []byte, err error) {
	head, err := c.peek(pgwire.HeaderSize)
	if err != nil {
		return 0, nil, err
	}
	n, err := pgwire.Length(head)
	if err != nil {
		return 0, nil, err
	}
	kind = head[0]
	if n > maxLoginReply {
		return 0, nil, fmt.Errorf("the server sent a message of type %q with %d bytes in the middle of a login", kind, n)
	}
	c.r += pgwire.HeaderSize
	if body, err = c.peek(n); err != nil {
		return 0, nil, err
	}
	c.r += n
	if kind == pgwire.ErrorResponse {
		refusal := pgwire.ParseError(body)
		return 0, nil, &refusal
	}
	return kind, body, nil
}

// await passes over messages up to ReadyForQuery and returns the transaction status in it. refusal is the first
// ErrorResponse on the way; with a fatal one the status is 0, for the server says no more.
func (c *conn) await() (status byte, refusal *pgwire.Error, err error) {
	for {
		head, err := c.peek(pgwire.HeaderSize)
		if err != nil {
			return 0, refusal, err
		}
		n, err := pgwire.Length(head)
		if err != nil {
			return 0, refusal, err
		}
		kind := head[0]
		c.r += pgwire.HeaderSize
		switch kind {
		case pgwire.ErrorResponse:
			body, err := c.peek(min(n, readBuffer))
			if err != nil {
				return 0, refusal, err
			}
			if refusal == nil {
				parsed := pgwire.ParseError(body)
				refusal = &parsed
				if parsed.Fatal() {
					return 0, refusal, nil
				}
			}
		case pgwire.ReadyForQuery:
			if n != 1 {
				return 0, refusal, pgwire.ErrLength
			}
			body, err := c.peek(n)
			if err != nil {
				return 0, refusal, err
			}
			status = body[0]
		case pgwire.CopyInResponse, pgwire.CopyBothResponse:
			return 0, nil, errCopy
		}
		if err := c.skip(n); err != nil {
			return 0, refusal, err
		}
		if kind == pgwire.ReadyForQuery {
			return status, refusal, nil
		}
	}
}

var errCopy = errors.New("COPY FROM STDIN is not for a storm")

// peek returns the next n bytes, which stay where they are.
func (c *conn) peek(n int) ([]byte, error) {
	if n > len(c.buf) {
		c.buf = append(make([]byte, 0, n), c.buf[c.r:c.w]...)[:n]
		c.r, c.w = 0, c.w-c.r
	}
	if c.w-c.r < n && c.r+n > len(c.buf) {
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
	for c.w-c.r < n {
		if c.r == c.w {
			c.r, c.w = 0, 0
		}
		m, err := c.Read(c.buf[c.w:])
		c.w += m
		if err != nil && c.w-c.r < n {
			return nil, err
		}
	}
	return c.buf[c.r : c.r+n], nil
}

// skip passes over n bytes.
func (c *conn) skip(n int) error {
	for n > c.w-c.r {
		n -= c.w - c.r
		c.r, c.w = 0, 0
		m, err := c.Read(c.buf)
		c.w = m
		if err != nil && m < n {
			return err
		}
	}
	c.r += n
	return nil
}

// roundTrip sends a message and waits until the server is ready for the next.
func (c *conn) roundTrip(message []byte) (status byte, refusal *pgwire.Error, err error) {
	if _, err := c.Write(message); err != nil {
		return 0, nil, err
	}
	return c.await()
}

// run sends SQL, for the storm's own needs.
func (c *conn) run(sql string) error {
	_, refusal, err := c.roundTrip(pgwire.AppendQuery(nil, sql))
	if err == nil && refusal != nil {
		return refusal
	}
	return err
}

var terminate = pgwire.AppendMessage(nil, pgwire.Terminate)

// sockets are all that are open, so that an interrupt can close them.
type sockets struct {
	mu     sync.Mutex // guards what follows
	open   map[net.Conn]bool
	closed bool
}

func (s *sockets) add(c net.Conn) {
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.open[c] = true
	}
	s.mu.Unlock()
	if closed {
		_ = c.Close()
	}
}

func (s *sockets) remove(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// closeAll closes what is open and whatever comes later.
func (s *sockets) closeAll() {
	s.mu.Lock()
	s.closed = true
	open := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}

// describe is where a DSN leads, without its password.
func describe(dsn *pgconn.Config) string {
	if strings.HasPrefix(dsn.Host, "/") {
		return dsn.User + "@" + dsn.Host + "/" + dsn.Database
	}
	return dsn.User + "@" + net.JoinHostPort(dsn.Host, strconv.Itoa(int(dsn.Port))) + "/" + dsn.Database
}
