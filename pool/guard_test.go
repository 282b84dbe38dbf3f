package pool_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/certs"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/pool"
)

// challenge is a server that asks for a proof by SCRAM, with a server-first-message made of the client's nonce, and then expects
// that the client goes away without having computed anything.
func challenge(message func(nonce string) string) pgtest.Script {
	return pgtest.Script{pgtest.ExpectStartup(), challengeOnce(message), pgtest.ExpectClose()}
}

func challengeOnce(message func(nonce string) string) pgtest.Step {
	return func(c *pgtest.ServerConn) error {
		if err := c.Send(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}}); err != nil {
			return err
		}
		m, err := c.Receive()
		if err != nil {
			return err
		}
		_, nonce, ok := bytes.Cut(m.Body, []byte("r="))
		if m.Type != 'p' || !ok {
			return fmt.Errorf("received %v, want a client-first-message", m)
		}
		return c.Send(&pgproto3.AuthenticationSASLContinue{Data: []byte(message(string(nonce)))})
	}
}

// asking is a challenge that is as it should be, but for its number of iterations.
func asking(iterations string) func(string) string {
	return func(nonce string) string { return "r=" + nonce + "server,s=c2FsdA==,i=" + iterations }
}

// first is the beginning of a message, with any length.
func first(kind byte, length uint32) []byte {
	return []byte{kind, byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length)}
}

// dialTo logs in to a server, which takes any time up to the test's patience.
func dialTo(t *testing.T, dsn string) error {
	t.Helper()
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d, err := pool.Dial(cfg)(ctx, nil)
	if err == nil {
		d.Close()
	}
	return err
}

// CVE-2026-6665, CVE-2026-6669: what a server says to a proxy that logs in is bounded before anything is done about it, the work as
// well as the room it takes.
func TestAServerThatLiesAtLoginIsLeftBeforeItCostsAnything(t *testing.T) {
	long := strings.Repeat("n", 3000)
	tests := map[string]struct {
		script pgtest.Script
		want   string // in the error
	}{
		"no iterations":                  {challenge(asking("0")), "invalid SCRAM iteration count"},
		"negative iterations":            {challenge(asking("-1")), "invalid SCRAM iteration count"},
		"iterations that are no number":  {challenge(asking("many")), "invalid SCRAM iteration count"},
		"iterations without a number":    {challenge(asking("")), "invalid SCRAM iteration count"},
		"two numbers of iterations":      {challenge(asking("9000000,i=1")), "invalid SCRAM iteration count"},
		"seconds of iterations":          {challenge(asking("9000000")), "asks for 9000000 iterations"},
		"a signed number of iterations":  {challenge(asking("+9000000")), "asks for 9000000 iterations"},
		"one iteration more than enough": {challenge(asking("1000001")), "asks for 1000001 iterations"},
		"minutes of iterations":          {challenge(asking("1000000000")), "asks for 1000000000 iterations"},
		"2^31 iterations":                {challenge(asking("2147483648")), "asks for 2147483648 iterations"},
		"2^64 iterations":                {challenge(asking("18446744073709551616")), "asks for"},
		"a long nonce":                   {challenge(func(n string) string { return "r=" + n + long + ",s=c2FsdA==,i=4096" }), "of type 'R' with"},
		"a long salt":                    {challenge(func(n string) string { return "r=" + n + "x,s=" + long + ",i=4096" }), "of type 'R' with"},
		"another's nonce":                {challenge(func(string) string { return "r=server,s=c2FsdA==,i=4096" }), "did not start with client nonce"},
		"no nonce of its own":            {challenge(func(n string) string { return "r=" + n + ",s=c2FsdA==,i=4096" }), "did not include server nonce"},
		"an empty challenge":             {challenge(func(string) string { return "" }), "did not include r="},
		"a second challenge": {pgtest.Script{
			pgtest.ExpectStartup(), challengeOnce(asking("1")), pgtest.Expect("p"),
			pgtest.Send(&pgproto3.AuthenticationSASLContinue{Data: []byte("r=x,s=c2FsdA==,i=1")}), pgtest.ExpectClose(),
		}, "second proof"},
		"a request for the password when all is well": {pgtest.Script{
			pgtest.ExpectStartup(), pgtest.Send(&pgproto3.AuthenticationOk{}, &pgproto3.AuthenticationCleartextPassword{}), pgtest.ExpectClose(),
		}, "when it has let us in"},
		"an md5 hash when all is well": {pgtest.Script{
			pgtest.ExpectStartup(), pgtest.Send(&pgproto3.AuthenticationOk{}), pgtest.Send(&pgproto3.AuthenticationMD5Password{}), pgtest.ExpectClose(),
		}, "when it has let us in"},
		"two welcomes":                {pgtest.Script{pgtest.ExpectStartup(), pgtest.Send(&pgproto3.AuthenticationOk{}, &pgproto3.AuthenticationOk{}), pgtest.ExpectClose()}, "when it has let us in"},
		"a request of a gigabyte":     {pgtest.Script{pgtest.ExpectStartup(), pgtest.SendBytes(first('R', 0x3fffffff)), pgtest.ExpectClose()}, "of type 'R' with"},
		"a parameter of a gigabyte":   {pgtest.Script{pgtest.ExpectStartup(), pgtest.SendBytes(first('S', 0x3fffffff)), pgtest.ExpectClose()}, "of type 'S' with"},
		"an error of a gigabyte":      {pgtest.Script{pgtest.ExpectStartup(), pgtest.SendBytes(first('E', 0x3fffffff)), pgtest.ExpectClose()}, "of type 'E' with"},
		"a key of a gigabyte":         {pgtest.Script{pgtest.ExpectStartup(), pgtest.Send(&pgproto3.AuthenticationOk{}), pgtest.SendBytes(first('K', 0x3fffffff)), pgtest.ExpectClose()}, "of type 'K' with"},
		"a negative length":           {pgtest.Script{pgtest.ExpectStartup(), pgtest.SendBytes(first('R', 0xffffffff)), pgtest.ExpectClose()}, "invalid message length"},
		"a length of nothing":         {pgtest.Script{pgtest.ExpectStartup(), pgtest.SendBytes(first('S', 0)), pgtest.ExpectClose()}, "invalid message length"},
		"parameters without end":      {pgtest.Script{pgtest.ExpectStartup(), pgtest.Send(&pgproto3.AuthenticationOk{}), forever(parameter)}, "too much for a login"},
		"notices without end":         {pgtest.Script{pgtest.ExpectStartup(), forever(notice)}, "too much for a login"},
		"ready before the login":      {pgtest.Script{pgtest.ExpectStartup(), pgtest.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'}), pgtest.ExpectClose()}, "before AuthenticationOk"},
		"an answer behind the login":  {pgtest.Script{pgtest.ExpectStartup(), sayAtOnce(pgtest.Reply(1)), pgtest.ExpectClose()}, "that nobody asked for"},
		"a message that nobody knows": {pgtest.Script{pgtest.ExpectStartup(), pgtest.SendBytes(first('?', 4)), pgtest.ExpectClose()}, "unknown message type"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			fake := test.script.Serve(t)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			err := dialTo(t, fake.DSN())
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the login ended with %v, want %q", err, test.want)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > 100<<20 {
				t.Errorf("it took %d MB", took>>20)
			}
			if took := time.Since(began); took > patience/2 {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// Who else reads along with a login, on each connection anew, does not read in the place of the guard.
func TestWhoReadsAlongWithALoginIsGuardedToo(t *testing.T) {
	var fakes []string
	for _, iterations := range []string{"1000001", "1000002"} {
		fakes = append(fakes, challenge(asking(iterations)).Serve(t).Addr())
	}
	cfg, err := pgconn.ParseConfig("postgres://app:app-secret@" + strings.Join(fakes, ",") + "/app?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	var read atomic.Int64
	cfg.AfterNetConnect = func(_ context.Context, c *pgconn.Config, conn net.Conn) (net.Conn, error) {
		c.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
			return pgproto3.NewFrontend(readerFunc(func(p []byte) (int, error) {
				n, err := r.Read(p)
				read.Add(int64(n))
				return n, err
			}), w)
		}
		return conn, nil
	}
	_, err = pool.Dial(cfg)(t.Context(), nil)
	for _, want := range []string{"1000001", "1000002"} {
		if err == nil || !strings.Contains(err.Error(), "asks for "+want) {
			t.Errorf("the login ended with %v, want %s refused", err, want)
		}
	}
	if read.Load() == 0 {
		t.Error("nobody has read along")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A login that breaks off is over: pgconn's request to cancel it would be a connection that nobody counts.
func TestALoginThatBreaksOffIsNotCancelled(t *testing.T) {
	fake := pgtest.Script{pgtest.ExpectStartup(), pgtest.SendBytes(first('S', 0)), pgtest.ExpectClose()}.Serve(t)
	goroutines := runtime.NumGoroutine()
	if err := dialTo(t, fake.DSN()); err == nil {
		t.Error("logged in")
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > goroutines; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("something is still going on")
		}
	}
	if n := fake.Cancels(); n > 0 || fake.Accepted() != 1 {
		t.Errorf("there were %d cancel requests and %d connections, want none and 1", n, fake.Accepted())
	}
}

// What a server may ask for is computed, to the last iteration.
func TestManyIterationsAreComputed(t *testing.T) {
	fake := pgtest.Script{pgtest.ExpectStartup(), challengeOnce(asking("1000000")), pgtest.Expect("p"), pgtest.HangUp()}.Serve(t)
	_ = dialTo(t, fake.DSN()) // the server knows no more than to ask
	fake.AwaitFinished(1)
}

// forever says the same again and again, until nobody listens.
func forever(say func(n int) pgproto3.BackendMessage) pgtest.Step {
	return func(c *pgtest.ServerConn) error {
		for n := 0; ; n++ {
			if err := c.Send(say(n)); err != nil {
				return err
			}
		}
	}
}

func parameter(n int) pgproto3.BackendMessage {
	return &pgproto3.ParameterStatus{Name: fmt.Sprint("a.", n), Value: strings.Repeat("x", 1000)}
}

func notice(int) pgproto3.BackendMessage {
	return &pgproto3.NoticeResponse{Severity: "NOTICE", Code: "00000", Message: strings.Repeat("x", 1000)}
}

// sayAtOnce lets the client in and says more in the same write.
func sayAtOnce(more []byte) pgtest.Step {
	return func(c *pgtest.ServerConn) error {
		_, err := c.Write(append(pgtest.Encode[pgproto3.BackendMessage](
			&pgproto3.AuthenticationOk{}, &pgproto3.BackendKeyData{SecretKey: []byte("1234")}, &pgproto3.ReadyForQuery{TxStatus: 'I'},
		), more...))
		return err
	}
}

// CVE-2021-23222, CVE-2021-43767: what stands behind the server's yes to an SSLRequest, in the clear, is never taken for something
// that was said over TLS.
func TestNothingMayStandBehindTheServersYesToTLS(t *testing.T) {
	welcome := pgtest.Encode[pgproto3.BackendMessage](
		&pgproto3.AuthenticationOk{}, &pgproto3.ParameterStatus{Name: "server_version", Value: "forged"},
		&pgproto3.BackendKeyData{SecretKey: []byte("1234")}, &pgproto3.ReadyForQuery{TxStatus: 'I'},
	)
	secure := serverTLS(t)
	for name, stuffing := range map[string][]byte{
		"a whole login":     welcome,
		"one byte":          {'R'},
		"an error":          pgtest.Encode(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "forged"}),
		"another yes":       {'S'},
		"a no":              {'N'},
		"an alert of TLS's": []byte("\x15\x03\x03\x00\x02\x02\x28"),
	} {
		t.Run(name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			fake := pgtest.Script{
				pgtest.ExpectSSLRequest(), pgtest.SendBytes(append([]byte{'S'}, stuffing...)), shakeHands(secure),
				pgtest.AcceptStartup(), pgtest.ExpectClose(),
			}.Serve(t)
			err := dialTo(t, strings.Replace(fake.DSN(), "sslmode=disable", "sslmode=require", 1))
			if err == nil || !strings.Contains(err.Error(), "tls") || strings.Contains(err.Error(), "forged") {
				t.Errorf("the login ended with %v, want an error of TLS's", err)
			}
		})
	}
	t.Run("nothing", func(t *testing.T) { // which shows that it is what stands there that counts
		fake := pgtest.Script{
			pgtest.ExpectSSLRequest(), pgtest.SendBytes([]byte{'S'}), shakeHands(secure), pgtest.AcceptStartup(), pgtest.ExpectClose(),
		}.Serve(t)
		if err := dialTo(t, strings.Replace(fake.DSN(), "sslmode=disable", "sslmode=require", 1)); err != nil {
			t.Error(err)
		}
	})
}

// shakeHands goes on over TLS, whatever has been said before. That the client does not like what it hears is no mistake.
func shakeHands(cfg *tls.Config) pgtest.Step {
	return func(c *pgtest.ServerConn) error {
		if err := c.Secure(cfg); err != nil {
			return io.EOF
		}
		return nil
	}
}

func serverTLS(t *testing.T) *tls.Config {
	t.Helper()
	authority, err := certs.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := authority.Certificate(certs.Request{CommonName: "server", Hosts: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}
