package pgtest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Script is what a fake server does on one connection, step by step. After the last step it closes the connection.
type Script []Step

// Step is one thing that the fake server does. An error that is not the peer's going away fails the test.
type Step func(*ServerConn) error

// ServerConn is the fake server's side of one connection.
type ServerConn struct {
	net.Conn
	N       int               // 0 for the first connection, 1 for the second…
	Version uint32            // of the startup message
	Startup map[string]string // parameters of the startup message

	in   *bufio.Reader
	fake *Fake
}

// Cancel is a CancelRequest that a fake server received.
type Cancel struct {
	PID    uint32
	Secret []byte
}

// Fake is a server on the loopback interface that plays scripts. CancelRequests never count as connections.
type Fake struct {
	tb       testing.TB
	listener net.Listener
	script   func(n int) Script
	closing  chan struct{}
	running  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	changed  *sync.Cond
	conns    map[net.Conn]bool // whatever Close must close
	accepted int
	open     int
	finished int // scripts played to their end
	cancels  []Cancel
	expired  bool
}

// Serve plays the script on each connection, from its beginning, until the test ends.
func (s Script) Serve(tb testing.TB) *Fake {
	tb.Helper()
	return ServeEach(tb, func(int) Script { return s })
}

// ServeEach asks for a script for each connection: 0 is the first.
func ServeEach(tb testing.TB, script func(n int) Script) *Fake {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	f := &Fake{tb: tb, listener: l, script: script, closing: make(chan struct{}), conns: map[net.Conn]bool{}}
	f.changed = sync.NewCond(&f.mu)
	f.running.Go(f.accept)
	tb.Cleanup(f.Close)
	return f
}

// Addr is where the server listens, as host:port.
func (f *Fake) Addr() string { return f.listener.Addr().String() }

// DSN is a URL for the fake server; it takes any user.
func (f *Fake) DSN() string {
	return fmt.Sprintf("postgres://app:app-secret@%s/app?sslmode=disable", f.Addr())
}

// Accepted says how many connections came so far.
func (f *Fake) Accepted() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.accepted
}

// Open says how many connections are there now.
func (f *Fake) Open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

// AwaitAccepted waits until n connections came.
func (f *Fake) AwaitAccepted(n int) {
	f.tb.Helper()
	f.await(fmt.Sprintf("%d connections", n), func() bool { return f.accepted >= n })
}

// AwaitFinished waits until n scripts were played to their end.
func (f *Fake) AwaitFinished(n int) {
	f.tb.Helper()
	f.await(fmt.Sprintf("%d finished scripts", n), func() bool { return f.finished >= n })
}

// AwaitOpen waits until exactly n connections are there.
func (f *Fake) AwaitOpen(n int) {
	f.tb.Helper()
	f.await(fmt.Sprintf("%d open connections", n), func() bool { return f.open == n })
}

// AwaitCancel waits for the nth CancelRequest, counted from 1.
func (f *Fake) AwaitCancel(n int) Cancel {
	f.tb.Helper()
	f.await(fmt.Sprintf("%d cancel requests", n), func() bool { return len(f.cancels) >= n })
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cancels[n-1]
}

// Cancels counts the CancelRequests so far.
func (f *Fake) Cancels() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.cancels)
}

// await blocks until reached, which is called under the lock, says yes.
func (f *Fake) await(what string, reached func() bool) {
	f.tb.Helper()
	timer := time.AfterFunc(DefaultTimeout, f.expire)
	defer timer.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	for !reached() {
		if f.expired {
			f.tb.Fatalf("no %s in %v: %d accepted, %d open, %d finished, %d cancel requests",
				what, DefaultTimeout, f.accepted, f.open, f.finished, len(f.cancels))
		}
		f.changed.Wait()
	}
}

func (f *Fake) expire() { f.update(func() { f.expired = true }) }

func (f *Fake) update(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	f.changed.Broadcast()
}

// Close ends all connections and waits for their scripts. Closing twice does nothing.
func (f *Fake) Close() {
	f.mu.Lock()
	select {
	case <-f.closing:
	default:
		close(f.closing)
		_ = f.listener.Close() // nothing hangs on the result, here and below
		for conn := range f.conns {
			_ = conn.Close()
		}
	}
	f.mu.Unlock()
	f.running.Wait()
}

func (f *Fake) accept() {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.running.Go(func() { f.serve(conn) })
	}
}

func (f *Fake) serve(conn net.Conn) {
	defer conn.Close()
	f.update(func() { f.conns[conn] = true })
	defer f.update(func() { delete(f.conns, conn) })
	select {
	case <-f.closing: // Close may have missed this connection
		return
	default:
	}

	c := &ServerConn{Conn: conn, in: bufio.NewReader(conn), fake: f}
	if start, err := c.in.Peek(8); err == nil && binary.BigEndian.Uint32(start[4:]) == cancelCode {
		f.check("a cancel request", ExpectStartup()(c))
		return
	}
	f.update(func() {
		c.N = f.accepted
		f.accepted++
		f.open++
	})
	defer f.update(func() { f.open-- })
	f.play(c)
}

func (f *Fake) play(c *ServerConn) {
	for i, step := range f.script(c.N) {
		err := step(c)
		if errors.Is(err, errHungUp) {
			break
		}
		if err != nil {
			f.check(fmt.Sprintf("connection %d, step %d", c.N, i), err)
			return
		}
	}
	f.update(func() { f.finished++ })
}

// check fails the test unless the peer just went away.
func (f *Fake) check(where string, err error) {
	if err != nil && !isGone(err) && !errors.Is(err, errHungUp) {
		f.tb.Errorf("fake server, %s: %v", where, err)
	}
}

func (f *Fake) recordCancel(body []byte) error {
	if len(body) < 4 {
		return fmt.Errorf("%w: cancel request without a key", errLength)
	}
	f.update(func() {
		f.cancels = append(f.cancels, Cancel{PID: binary.BigEndian.Uint32(body), Secret: body[4:]})
	})
	return errHungUp
}

// The codes that stand where a startup message has its version.
const (
	cancelCode = 80877102
	sslCode    = 80877103
	gssCode    = 80877104
)

// errHungUp ends a script before its last step, as written.
var errHungUp = errors.New("hung up")

// isGone tells the peer's going away, and the test's end, from a mistake in the script.
func isGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Receive reads the next message of a client that is past its startup message.
func (c *ServerConn) Receive() (Message, error) { return readMessage(c.in) }

// Send sends messages in one write.
func (c *ServerConn) Send(messages ...pgproto3.BackendMessage) error {
	_, err := c.Write(Encode(messages...))
	return err
}

// receiveStartup reads a packet without a type byte and returns its code or version, and what follows.
func (c *ServerConn) receiveStartup() (code uint32, rest []byte, err error) {
	var length [4]byte
	if _, err := io.ReadFull(c.in, length[:]); err != nil {
		return 0, nil, err
	}
	body, err := readBody(c.in, length[:], 10_000)
	if err != nil {
		return 0, nil, err
	}
	if len(body) < 4 {
		return 0, nil, fmt.Errorf("%w: startup packet of %d bytes", errLength, len(body))
	}
	return binary.BigEndian.Uint32(body), body[4:], nil
}

// ExpectStartup reads the startup message, declines encryption when asked for it, and answers nothing else. A
// CancelRequest in its place, over TLS say, is recorded and ends the script.
func ExpectStartup() Step {
	return func(c *ServerConn) error {
		for {
			code, rest, err := c.receiveStartup()
			if err != nil {
				return err
			}
			if code == sslCode || code == gssCode {
				if _, err := c.Write([]byte{'N'}); err != nil {
					return err
				}
				continue
			}
			if code == cancelCode {
				return c.fake.recordCancel(rest)
			}
			c.Version, c.Startup = code, map[string]string{}
			fields := bytes.Split(rest, []byte{0})
			for i := 0; i+1 < len(fields) && len(fields[i]) > 0; i += 2 {
				c.Startup[string(fields[i])] = string(fields[i+1])
			}
			return nil
		}
	}
}

// ExpectSSLRequest reads an SSLRequest and answers nothing.
func ExpectSSLRequest() Step {
	return func(c *ServerConn) error {
		code, _, err := c.receiveStartup()
		if err == nil && code != sslCode {
			err = fmt.Errorf("received code %d, want an SSLRequest", code)
		}
		return err
	}
}

// StartTLS expects an SSLRequest, accepts it and shakes hands.
func StartTLS(cfg *tls.Config) Step {
	expect := ExpectSSLRequest()
	return func(c *ServerConn) error {
		if err := expect(c); err != nil {
			return err
		}
		if _, err := c.Write([]byte{'S'}); err != nil {
			return err
		}
		return c.Secure(cfg)
	}
}

// Secure goes on over TLS, once it has shaken hands.
func (c *ServerConn) Secure(cfg *tls.Config) error {
	secured := tls.Server(c.Conn, cfg)
	c.Conn, c.in = secured, bufio.NewReader(secured)
	return secured.Handshake()
}

// Welcome tells the client that it is logged in, as PostgreSQL 15 would. The process id is 1000 and the number of the
// connection, the secret is "key" and one byte.
func Welcome() Step {
	return func(c *ServerConn) error {
		return c.Send(
			&pgproto3.AuthenticationOk{},
			&pgproto3.ParameterStatus{Name: "server_version", Value: "15.0"},
			&pgproto3.ParameterStatus{Name: "server_encoding", Value: "UTF8"},
			&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"},
			&pgproto3.ParameterStatus{Name: "application_name", Value: c.Startup["application_name"]},
			&pgproto3.ParameterStatus{Name: "is_superuser", Value: "off"},
			&pgproto3.ParameterStatus{Name: "session_authorization", Value: c.Startup["user"]},
			&pgproto3.ParameterStatus{Name: "DateStyle", Value: "ISO, MDY"},
			&pgproto3.ParameterStatus{Name: "IntervalStyle", Value: "postgres"},
			&pgproto3.ParameterStatus{Name: "TimeZone", Value: "UTC"},
			&pgproto3.ParameterStatus{Name: "integer_datetimes", Value: "on"},
			&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"},
			&pgproto3.BackendKeyData{ProcessID: uint32(1000 + c.N), SecretKey: []byte{'k', 'e', 'y', byte(c.N)}},
			&pgproto3.ReadyForQuery{TxStatus: 'I'},
		)
	}
}

// AcceptStartup is ExpectStartup and Welcome: it lets anybody in.
func AcceptStartup() Step {
	expect, welcome := ExpectStartup(), Welcome()
	return func(c *ServerConn) error {
		if err := expect(c); err != nil {
			return err
		}
		return welcome(c)
	}
}

// Refuse reads the startup message and answers it with a FATAL error, say "53300", "too many clients".
func Refuse(sqlstate, message string) Step {
	expect := ExpectStartup()
	return func(c *ServerConn) error {
		if err := expect(c); err != nil {
			return err
		}
		return errors.Join(c.Send(&pgproto3.ErrorResponse{
			Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: sqlstate, Message: message,
		}), errHungUp)
	}
}

// Expect reads messages of exactly these types, say "PBES".
func Expect(types string) Step {
	return func(c *ServerConn) error {
		for _, want := range []byte(types) {
			m, err := c.Receive()
			if err != nil {
				return err
			}
			if m.Type != want {
				return fmt.Errorf("received %v, want %c of %s", m, want, types)
			}
		}
		return nil
	}
}

// ExpectQuery reads a simple Query with this text.
func ExpectQuery(sql string) Step {
	return func(c *ServerConn) error {
		m, err := c.Receive()
		if err != nil {
			return err
		}
		if want := sql + "\x00"; m.Type != 'Q' || string(m.Body) != want {
			return fmt.Errorf("received %v, want Q %q", m, want)
		}
		return nil
	}
}

// ExpectClose reads until the client closes the connection; a Terminate message is fine, anything else is not.
func ExpectClose() Step {
	return func(c *ServerConn) error {
		for {
			m, err := c.Receive()
			if isGone(err) {
				return nil
			}
			if err != nil {
				return err
			}
			if m.Type != 'X' {
				return fmt.Errorf("received %v, want the connection's end", m)
			}
		}
	}
}

// Send sends messages in one write.
func Send(messages ...pgproto3.BackendMessage) Step {
	return func(c *ServerConn) error { return c.Send(messages...) }
}

// SendBytes sends bytes as they are.
func SendBytes(wire []byte) Step {
	return func(c *ServerConn) error {
		_, err := c.Write(wire)
		return err
	}
}

// SendLie sends a message whose length field says something else.
func SendLie(m pgproto3.BackendMessage, length int32) Step {
	wire := Encode(m)
	binary.BigEndian.PutUint32(wire[1:], uint32(length))
	return SendBytes(wire)
}

// SendPart sends the first n bytes of a message and hangs up.
func SendPart(m pgproto3.BackendMessage, n int) Step {
	wire := Encode(m)[:n]
	return func(c *ServerConn) error {
		_, err := c.Write(wire)
		return errors.Join(err, errHungUp)
	}
}

// HangUp closes the connection.
func HangUp() Step {
	return func(*ServerConn) error { return errHungUp }
}

// Abort closes the connection with a RST.
func Abort() Step {
	return func(c *ServerConn) error { return errors.Join(reset(c.Conn), errHungUp) }
}

// Stall says nothing more but goes on reading, until the client closes the connection or the test ends.
func Stall() Step {
	return func(c *ServerConn) error {
		_, err := io.Copy(io.Discard, c.in)
		return err
	}
}

// StopReading neither reads nor says anything until the test ends, so that the client's writes get stuck.
func StopReading() Step {
	return func(c *ServerConn) error {
		<-c.fake.closing
		return net.ErrClosed
	}
}

// WaitFor pauses the script until the channel is closed.
func WaitFor(signal <-chan struct{}) Step {
	return func(c *ServerConn) error {
		select {
		case <-signal:
			return nil
		case <-c.fake.closing:
			return net.ErrClosed
		}
	}
}

// Signal closes the channel: the script has come this far. It belongs in a script that is played once.
func Signal(reached chan<- struct{}) Step {
	return func(*ServerConn) error {
		close(reached)
		return nil
	}
}

// AnswerQueries answers each simple Query with wire, and each Sync with ReadyForQuery, until the client says goodbye.
func AnswerQueries(wire []byte) Step {
	return func(c *ServerConn) error {
		for {
			m, err := c.Receive()
			if err != nil {
				return err
			}
			switch m.Type {
			case 'Q':
				_, err = c.Write(wire)
			case 'S':
				err = c.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			case 'X':
				return nil
			default:
				err = fmt.Errorf("received %v, want a simple query", m)
			}
			if err != nil {
				return err
			}
		}
	}
}
