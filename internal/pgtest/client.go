package pgtest

import (
	"bufio"
	"cmp"
	"crypto/md5"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Versions of the protocol, as they stand in a startup message.
const (
	Protocol30 = pgproto3.ProtocolVersion30
	Protocol32 = pgproto3.ProtocolVersion32
)

// DefaultTimeout is how long a Client waits for a message before it fails the test.
const DefaultTimeout = 20 * time.Second

// Client speaks PostgreSQL's protocol frame by frame. It never reads or sends anything by itself once it is logged in.
// Its methods fail the test on errors, so they belong to the test's goroutine; Try returns the error instead.
type Client struct {
	Timeout    time.Duration     // how long Receive and its kin wait (DefaultTimeout)
	PID        uint32            // from BackendKeyData
	Secret     []byte            // from BackendKeyData
	Parameters map[string]string // from ParameterStatus at login
	Greeting   []Message         // what followed AuthenticationOk, ReadyForQuery included

	tb   testing.TB
	addr string
	conn net.Conn
	in   *bufio.Reader
}

// Dial opens a TCP connection and sends nothing. The connection is closed when the test ends.
func Dial(tb testing.TB, addr string) *Client {
	tb.Helper()
	conn, err := net.DialTimeout("tcp", addr, DefaultTimeout)
	if err != nil {
		tb.Fatal(err)
	}
	c := &Client{tb: tb, addr: addr, conn: conn, in: bufio.NewReader(conn), Parameters: map[string]string{}}
	tb.Cleanup(c.Close)
	return c
}

// Connect logs in as the DSN says (its TLS mode included) with protocol 3.0.
func Connect(tb testing.TB, dsn string) *Client {
	tb.Helper()
	return ConnectVersion(tb, dsn, Protocol30)
}

// ConnectVersion is Connect with another version of the protocol.
func ConnectVersion(tb testing.TB, dsn string, version uint32) *Client {
	tb.Helper()
	c, err := TryConnect(tb, dsn, version)
	if err != nil {
		tb.Fatalf("log in to %s: %v", c.addr, err)
	}
	return c
}

// TryConnect is ConnectVersion for a login that may be refused: the error is then a *LoginError.
func TryConnect(tb testing.TB, dsn string, version uint32) (*Client, error) {
	tb.Helper()
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		tb.Fatal(err)
	}
	c := Dial(tb, net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port))))
	if cfg.TLSConfig != nil {
		c.StartTLS(cfg.TLSConfig)
	}
	params := maps.Clone(cfg.RuntimeParams)
	params["user"] = cfg.User
	params["database"] = cmp.Or(cfg.Database, cfg.User)
	c.SendStartup(version, params)
	return c, c.authenticate(cfg.User, cfg.Password)
}

// LoginError is the ErrorResponse that ended a login.
type LoginError struct{ Response Message }

func (e *LoginError) Error() string {
	return fmt.Sprintf("%s %s: %s", e.Response.Field('S'), e.Response.Field('C'), e.Response.Field('M'))
}

// StartTLS asks for TLS with an SSLRequest and shakes hands; it fails the test when the server declines.
func (c *Client) StartTLS(cfg *tls.Config) {
	c.tb.Helper()
	c.SendBytes(Encode(&pgproto3.SSLRequest{}))
	if answer := c.ReceiveByte(); answer != 'S' {
		c.tb.Fatalf("SSLRequest is answered with %q, want 'S'", answer)
	}
	c.UpgradeTLS(cfg)
}

// UpgradeTLS shakes hands without asking first, as direct TLS does.
func (c *Client) UpgradeTLS(cfg *tls.Config) {
	c.tb.Helper()
	secured := tls.Client(c.conn, cfg)
	c.setDeadline()
	if err := secured.Handshake(); err != nil {
		c.tb.Fatalf("TLS handshake: %v", err)
	}
	c.conn, c.in = secured, bufio.NewReader(secured)
}

// SendStartup sends a startup message with any version and parameters; the user comes first, the others follow by name.
func (c *Client) SendStartup(version uint32, params map[string]string) {
	c.tb.Helper()
	c.SendBytes(EncodeStartup(version, params))
}

// EncodeStartup is the bytes that SendStartup sends.
func EncodeStartup(version uint32, params map[string]string) []byte {
	body := binary.BigEndian.AppendUint32(nil, version)
	add := func(name string) {
		body = append(append(append(append(body, name...), 0), params[name]...), 0)
	}
	if _, ok := params["user"]; ok {
		add("user")
	}
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if name != "user" {
			add(name)
		}
	}
	body = append(body, 0)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)
}

// Authenticate answers whatever the server asks for after the startup message, until it is ready for a query.
func (c *Client) Authenticate(user, password string) {
	c.tb.Helper()
	if err := c.authenticate(user, password); err != nil {
		c.tb.Fatalf("log in to %s as %s: %v", c.addr, user, err)
	}
}

func (c *Client) authenticate(user, password string) error {
	var scram *scramClient
	var welcomed bool
	for {
		m, err := c.Try()
		if err != nil {
			return err
		}
		if welcomed {
			c.Greeting = append(c.Greeting, m)
		}
		switch m.Type {
		case 'R':
			if len(m.Body) < 4 {
				return fmt.Errorf("authentication message %v is too short", m)
			}
			data := m.Body[4:]
			switch kind := binary.BigEndian.Uint32(m.Body); kind {
			case pgproto3.AuthTypeOk:
				welcomed = true
			case pgproto3.AuthTypeCleartextPassword:
				c.Send(&pgproto3.PasswordMessage{Password: password})
			case pgproto3.AuthTypeMD5Password:
				c.Send(&pgproto3.PasswordMessage{Password: md5Answer(user, password, data)})
			case pgproto3.AuthTypeSASL:
				scram = newSCRAMClient(password)
				c.Send(&pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-256", Data: scram.first()})
			case pgproto3.AuthTypeSASLContinue:
				answer, err := scram.answer(data)
				if err != nil {
					return err
				}
				c.Send(&pgproto3.SASLResponse{Data: answer})
			case pgproto3.AuthTypeSASLFinal:
				if err := scram.verify(data); err != nil {
					return err
				}
			default:
				return fmt.Errorf("authentication request %d", kind)
			}
		case 'S':
			var status pgproto3.ParameterStatus
			if err := status.Decode(m.Body); err != nil {
				return err
			}
			c.Parameters[status.Name] = status.Value
		case 'K':
			if len(m.Body) < 4 {
				return fmt.Errorf("key %v is too short", m)
			}
			c.PID, c.Secret = binary.BigEndian.Uint32(m.Body), m.Body[4:]
		case 'E':
			return &LoginError{m}
		case 'Z':
			return nil
		case 'N', 'v': // notices and version negotiation ask for no answer
		default:
			return fmt.Errorf("%v during login", m)
		}
	}
}

func md5Answer(user, password string, salt []byte) string {
	hash := func(text []byte) string {
		sum := md5.Sum(text)
		return hex.EncodeToString(sum[:])
	}
	return "md5" + hash(append([]byte(hash([]byte(password+user))), salt...))
}

// Send sends messages in one write.
func (c *Client) Send(messages ...pgproto3.FrontendMessage) {
	c.tb.Helper()
	c.SendBytes(Encode(messages...))
}

// Query sends a simple Query and returns the answer up to its ReadyForQuery.
func (c *Client) Query(sql string) []Message {
	c.tb.Helper()
	c.Send(&pgproto3.Query{String: sql})
	return c.UntilReady(1)
}

// SendBytes sends bytes as they are.
func (c *Client) SendBytes(wire []byte) {
	c.tb.Helper()
	c.setDeadline()
	if _, err := c.conn.Write(wire); err != nil {
		c.tb.Fatalf("send: %v", err)
	}
}

// ReceiveByte reads the one byte that answers an SSLRequest or GSSENCRequest.
func (c *Client) ReceiveByte() byte {
	c.tb.Helper()
	c.setDeadline()
	answer, err := c.in.ReadByte()
	if err != nil {
		c.tb.Fatalf("receive a byte: %v", err)
	}
	return answer
}

// Receive returns the next message.
func (c *Client) Receive() Message {
	c.tb.Helper()
	m, err := c.Try()
	if err != nil {
		c.tb.Fatalf("receive: %v", err)
	}
	return m
}

// Expect returns the next message and fails the test when it is of another type.
func (c *Client) Expect(kind byte) Message {
	c.tb.Helper()
	m := c.Receive()
	if m.Type != kind {
		c.tb.Fatalf("received %v, want %c", m, kind)
	}
	return m
}

// Try returns the next message, io.EOF at a clean end, or what else went wrong.
func (c *Client) Try() (Message, error) {
	c.setDeadline()
	return readMessage(c.in)
}

// Arrives reports whether anything comes in time: a message, or the end of the connection. It takes nothing.
func (c *Client) Arrives(within time.Duration) bool {
	_ = c.conn.SetReadDeadline(time.Now().Add(within)) // fails on a closed connection, as what follows will
	_, err := c.in.Peek(1)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// Until collects messages up to and including the first one that is the last.
func (c *Client) Until(last func(Message) bool) []Message {
	c.tb.Helper()
	var messages []Message
	for {
		m, err := c.Try()
		if err != nil {
			c.tb.Fatalf("receive: %v, after %v", err, messages)
		}
		messages = append(messages, m)
		if last(m) {
			return messages
		}
	}
}

// UntilReady collects messages up to and including the nth ReadyForQuery.
func (c *Client) UntilReady(n int) []Message {
	c.tb.Helper()
	return c.Until(func(m Message) bool {
		if m.Type == 'Z' {
			n--
		}
		return n == 0
	})
}

// UntilType collects messages up to and including the first of a type.
func (c *Client) UntilType(kind byte) []Message {
	c.tb.Helper()
	return c.Until(func(m Message) bool { return m.Type == kind })
}

// UntilClosed collects what comes until the other side closes the connection, by FIN or RST.
func (c *Client) UntilClosed() []Message {
	c.tb.Helper()
	var messages []Message
	for {
		m, err := c.Try()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			c.tb.Fatalf("the connection stays open, after %v", messages)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errLength) {
			c.tb.Fatalf("the connection ends within a message: %v, after %v", err, messages)
		}
		if err != nil {
			return messages
		}
		messages = append(messages, m)
	}
}

// Cancel sends a CancelRequest for this client's session over a connection of its own, and returns when the server has
// closed that.
func (c *Client) Cancel() {
	c.tb.Helper()
	d := Dial(c.tb, c.addr)
	defer d.Close()
	d.SendBytes(Encode(&pgproto3.CancelRequest{ProcessID: c.PID, SecretKey: c.Secret}))
	if got := d.UntilClosed(); len(got) != 0 {
		c.tb.Fatalf("CancelRequest is answered with %v", got)
	}
}

// Conn is the connection itself, for deadlines, half-closing and buffer sizes. Reading it loses messages.
func (c *Client) Conn() net.Conn { return c.conn }

// Close closes the connection without a Terminate message. Closing it again does nothing.
func (c *Client) Close() { _ = c.conn.Close() } // an error says that it was closed before

// Abort closes the connection with a RST, as a machine that vanished and came back would.
func (c *Client) Abort() {
	c.tb.Helper()
	if err := reset(c.conn); err != nil {
		c.tb.Fatal(err)
	}
}

func reset(conn net.Conn) error {
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		return err
	}
	return conn.Close()
}

func (c *Client) setDeadline() {
	_ = c.conn.SetDeadline(time.Now().Add(cmp.Or(c.Timeout, DefaultTimeout))) // fails on a closed connection, as what follows will
}
