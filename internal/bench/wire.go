package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/internal/scram"
)

// target is where and as whom a client logs in.
type target struct {
	Addr     string `json:"addr"`
	Source   string `json:"source,omitempty"` // local address; empty lets the kernel choose
	TLS      bool   `json:"tls,omitempty"`
	User     string `json:"user"`
	Password string `json:"password"`
	Database string `json:"database"`
}

// patience bounds every wait of a client: a side that hangs must fail the run, not stop it.
const patience = 20 * time.Second

// conn is a client connection that knows just enough of the protocol to log in and to run a simple query. It is meant
// to be cheap: what the generator burns is missing elsewhere.
type conn struct {
	net.Conn
	r *bufio.Reader
}

// dial connects and logs in.
func dial(ctx context.Context, t target) (*conn, error) {
	d := net.Dialer{Timeout: patience}
	if t.Source != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(t.Source)}
		d.Control = choosePortLate
	}
	nc, err := d.DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return nil, err
	}
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	c, err := login(nc, t)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, c.SetDeadline(time.Time{})
}

const bindAddressNoPort = 24 // IP_BIND_ADDRESS_NO_PORT of ip(7); this program needs Linux to run, but not to compile

// choosePortLate has the port of a socket with a given address chosen when it connects. Chosen
// before, it could be no port that any connection uses, those included that were closed a minute ago.
func choosePortLate(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, bindAddressNoPort, 1)
	}); e != nil {
		return e
	}
	return err
}

func login(nc net.Conn, t target) (*conn, error) {
	if t.TLS {
		secure, err := startTLS(nc)
		if err != nil {
			return nil, err
		}
		nc = secure
	}
	c := &conn{Conn: nc, r: bufio.NewReaderSize(nc, 512)}
	if _, err := c.Write(startup(t.User, t.Database)); err != nil {
		return nil, err
	}
	if err := c.authenticate(t.Password); err != nil {
		return nil, err
	}
	return c, c.untilReady()
}

// tlsConfig asks for what libpq with OpenSSL 3.0 asks for. Go alone would offer a post-quantum key exchange first, which
// PgBouncer's OpenSSL does not know and so would not have to pay for.
var tlsConfig = &tls.Config{
	InsecureSkipVerify: true, // the certificate is our own; its signature is still checked by the handshake
	MinVersion:         tls.VersionTLS13,
	CurvePreferences:   []tls.CurveID{tls.X25519, tls.CurveP256},
}

func startTLS(nc net.Conn) (*tls.Conn, error) {
	if _, err := nc.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}); err != nil {
		return nil, err
	}
	var answer [1]byte
	if _, err := nc.Read(answer[:]); err != nil {
		return nil, fmt.Errorf("answer to SSLRequest: %w", err)
	}
	if answer[0] != 'S' {
		return nil, fmt.Errorf("answer to SSLRequest: %q, want 'S'", answer[0])
	}
	secure := tls.Client(nc, tlsConfig)
	if err := secure.Handshake(); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return secure, nil
}

func startup(user, database string) []byte {
	b := []byte{0, 0, 0, 0, 0, 3, 0, 0}
	for _, s := range []string{"user", user, "database", database} {
		b = append(append(b, s...), 0)
	}
	b = append(b, 0)
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return b
}

func message(typ byte, body []byte) []byte {
	b := append(make([]byte, 5, 5+len(body)), body...)
	b[0] = typ
	binary.BigEndian.PutUint32(b[1:], uint32(4+len(body)))
	return b
}

// The authentication requests that a side under test may send.
const (
	authOK        = 0
	authSASL      = 10
	authContinue  = 11
	authFinal     = 12
	maxLoginReply = 8192 // bytes; no message of a login is longer
)

// keys of all logins: without them the generator, not the proxy, would be what is measured.
var keys = scram.NewKeys()

// authenticate answers trust and SCRAM-SHA-256 without channel binding.
func (c *conn) authenticate(password string) error {
	exchange := scram.Exchange{Keys: keys, Password: password}
	for {
		typ, body, err := c.receive()
		if err != nil {
			return err
		}
		if typ != 'R' || len(body) < 4 {
			return fmt.Errorf("message %q while authenticating", typ)
		}
		var answer []byte
		switch kind := binary.BigEndian.Uint32(body); kind {
		case authOK:
			return nil
		case authSASL:
			answer, err = exchange.First(string(body[4:]))
		case authContinue:
			answer, err = exchange.Final(string(body[4:]))
		case authFinal:
			err = exchange.Verify(string(body[4:]))
		default:
			err = fmt.Errorf("authentication request %d, want trust or SCRAM-SHA-256", kind)
		}
		if err == nil && answer != nil {
			_, err = c.Write(message('p', answer))
		}
		if err != nil {
			return err
		}
	}
}

// receive reads one message of a login.
func (c *conn) receive() (typ byte, body []byte, err error) {
	head := make([]byte, 5)
	if err := c.fill(head); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n < 4 || n > maxLoginReply {
		return 0, nil, fmt.Errorf("message %q of %d bytes", head[0], n)
	}
	body = make([]byte, n-4)
	if err := c.fill(body); err != nil {
		return 0, nil, err
	}
	if head[0] == 'E' {
		return 0, nil, serverError(body)
	}
	return head[0], body, nil
}

func (c *conn) fill(b []byte) error {
	for n := 0; n < len(b); {
		m, err := c.r.Read(b[n:])
		if err != nil {
			return err
		}
		n += m
	}
	return nil
}

// query sends a simple query and waits until the server is ready again.
func (c *conn) query(q []byte) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write(q); err != nil {
		return err
	}
	return c.untilReady()
}

// untilReady skips messages up to ReadyForQuery; an ErrorResponse on the way is the result.
func (c *conn) untilReady() error {
	var failed error
	for {
		head, err := c.r.Peek(5)
		if err != nil {
			if failed != nil {
				return failed // the connection was closed after the message that says why
			}
			return err
		}
		typ, n := head[0], int(binary.BigEndian.Uint32(head[1:]))
		if typ == 'E' {
			_, _, err := c.receive()
			failed = errors.Join(failed, err)
			continue
		}
		if _, err := c.r.Discard(1 + n); err != nil {
			return err
		}
		if typ == 'Z' {
			return failed
		}
	}
}

// serverError turns the body of an ErrorResponse into "SQLSTATE message".
func serverError(body []byte) error {
	var state, text string
	for field := range strings.SplitSeq(string(body), "\x00") {
		if rest, ok := strings.CutPrefix(field, "C"); ok {
			state = rest
		} else if rest, ok := strings.CutPrefix(field, "M"); ok {
			text = rest
		}
	}
	return fmt.Errorf("server says %s %s", state, text)
}
