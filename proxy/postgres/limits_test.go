package postgres_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/proxy"
	"github.com/weirproxy/weir/proxy/postgres"
)

// explained checks that an error says what contract and table promise of a refusal, all fields that every error has included
// (trap 32).
func explained(tb testing.TB, m pgtest.Message, severity string, reason *proxy.Reason, rule string) {
	tb.Helper()
	if m.Type != 'E' || m.Field('C') != reason.SQLSTATE || m.Field('S') != severity || m.Field('V') != severity || m.Field('M') != reason.Message {
		tb.Errorf("got %v, want %s %s %q", m, severity, reason.SQLSTATE, reason.Message)
	}
	detail := regexp.MustCompile(`^not executed; id=[0-9a-z]+ rule=` + regexp.QuoteMeta(rule) + ` observed=[^=]+ limit=[^=]+ waited_ms=\d+$`)
	if !detail.MatchString(m.Field('D')) {
		tb.Errorf("detail %q, want the rule %s", m.Field('D'), rule)
	}
	if !regexp.MustCompile(`^retry after \d+ ms$`).MatchString(m.Field('H')) {
		tb.Errorf("hint %q", m.Field('H'))
	}
}

// refusals counts those of the resource for a reason.
func (w *weir) refusals(reason *proxy.Reason) (n int64) {
	for _, r := range w.Stats().Resources[0].Refused {
		if r.Reason == reason.Label {
			n += r.Count
		}
	}
	return n
}

// Trap 14: a client that finds no room reads why, whichever way it came.
func TestTooManyClients(t *testing.T) {
	pgtest.Shared(t)
	for _, mode := range []string{"disable", "prefer", "require"} {
		t.Run(mode, func(t *testing.T) {
			pgtest.NoLeaks(t)
			w := start(t, settings{limits: postgres.Limits{Clients: 2}, tls: certificate(t, mode)})
			in := "sslmode=disable"
			if mode == "require" {
				in = "sslmode=require"
			}
			first, second := w.client(in), w.client(in)
			_ = first
			refused := []string{"sslmode=disable", "sslmode=prefer"}
			if mode != "require" {
				refused = append(refused, "gssencmode=disable sslmode=prefer")
			}
			for _, params := range refused {
				_, err := pgconn.Connect(t.Context(), w.dsn(params))
				var pgErr *pgconn.PgError
				if !errors.As(err, &pgErr) || pgErr.Code != "53300" || pgErr.Severity != "FATAL" || pgErr.Detail == "" || pgErr.Hint == "" {
					t.Errorf("%s: %v", params, err)
				}
			}
			if mode == "require" { // the error stands in the place of the answer
				conn := w.dial(t)
				_, _ = conn.Write(askSSL)
				if got := outcome(t, readAll(t, conn)); got != "53300" {
					t.Errorf("SSLRequest ended with %q", got)
				}
			}
			c := pgtest.Dial(t, w.addr)
			c.SendBytes(good)
			explained(t, c.Receive(), "FATAL", proxy.Clients, "limits.clients")
			if rest := c.UntilClosed(); len(rest) > 0 {
				t.Errorf("more came: %v", rest)
			}
			if got := w.Stats().Refused["clients"]; got < 3 {
				t.Errorf("counted %d refusals", got)
			}
			second.Close()
			w.eventually("there is room again", func() bool { return w.Stats().Clients["idle"] == 1 })
			w.client(in)
		})
	}
}

// More clients at once than there is room for: each of them either gets in or is told why not.
func TestTooManyClientsAtOnce(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	const room, storm = 5, 40
	w := start(t, settings{limits: postgres.Limits{Clients: room}, method: "scram-sha-256", users: map[string]string{"app": "secret"}})
	type login struct {
		conn *pgconn.PgConn
		err  error
	}
	logins := make(chan login)
	for range storm {
		go func() {
			conn, err := pgconn.Connect(t.Context(), w.dsn("password=secret"))
			logins <- login{conn, err}
		}()
	}
	in := 0
	for range storm {
		switch l := <-logins; {
		case l.err == nil:
			in++
			defer l.conn.Close(context.Background())
		case sqlstate(l.err) != "53300":
			t.Error(l.err)
		}
	}
	if in != room {
		t.Errorf("%d got in, want %d", in, room)
	}
}

// Traps 5 and 14: those who have not logged in keep nobody out. Who comes when there is no more room takes the place of one that keeps weir
// waiting, which is told why.
func TestTooManyUnauthenticated(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{limits: postgres.Limits{Unauthenticated: 3}})
	inside := w.client()
	w.eventually("it is in", func() bool { return w.Stats().Clients["login"] == 0 })
	var silent []*pgtest.Client
	for i := range 3 {
		silent = append(silent, pgtest.Dial(t, w.addr))
		w.eventually("it is at the door", func() bool { return w.Stats().Clients["login"] == int64(i+1) })
	}
	w.eventually("somebody gets in", func() bool { return w.tryPgconn(t, "") == nil }) // once they have been silent for a while
	explained(t, silent[0].Receive(), "FATAL", proxy.LoginStorm, "limits.unauthenticated")
	silent[0].UntilClosed()
	inside.Query("SELECT 1")
	if got := w.Stats().Clients["login"]; got > 2 {
		t.Errorf("%d are at the door", got)
	}
	if got := w.Stats().Refused["login_storm"]; got == 0 {
		t.Error("no refusal was counted")
	}
}

// Those who answer at once keep their places: in a storm of them it is the latest who are refused.
func TestTooManyWhoAnswerAtOnce(t *testing.T) {
	pgtest.NoLeaks(t)
	quiet := pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectQuery("SELECT 1"), pgtest.ExpectClose()}.Serve(t) // nobody is served, so that all of them are on their way in
	w := start(t, settings{upstream: quiet.DSN(), servers: 1, limits: postgres.Limits{Unauthenticated: 3}})
	holder := w.client()
	holder.Send(query("SELECT 1"))
	w.eventually("the server connection is lent", func() bool { return w.servers("used") == 1 })
	for range 3 {
		c := pgtest.Dial(t, w.addr)
		c.SendBytes(packet(v30, "DateStyle\x00German\x00"+hello)) // has to be asked of the server
	}
	w.eventually("three are on their way in", func() bool { return w.Stats().Clients["login"] == 3 })
	time.Sleep(300 * time.Millisecond) // longer than a silent one would keep its place
	c := pgtest.Dial(t, w.addr)
	c.SendBytes(good)
	explained(t, c.Receive(), "FATAL", proxy.LoginStorm, "limits.unauthenticated")
	c.UntilClosed()
}

// Ten thousand who stall in the middle of a login, from two addresses, do not keep a third one out, with or without TLS; nor do those who
// are being turned away when there are too many clients keep a cancel request out.
func TestTenThousandStalledLogins(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	const stallers = 10_000
	w := start(t, settings{tls: certificate(t, "prefer"), limits: postgres.Limits{Unauthenticated: 500, Clients: 10}})
	inside := w.client()
	inside.Send(query("SELECT pg_sleep(60)"))
	fronts := [][]byte{nil, good[:5], askSSL, append(askSSL[:8:8], "\x16\x03\x01\x02\x00"...)}
	stall := func(i int) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 3, byte(1+i%2))}}
		conn, err := d.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, _ = conn.Write(fronts[i%len(fronts)])
	}
	for i := range stallers {
		stall(i)
		if i%1000 != 999 {
			continue
		}
		for _, mode := range []string{"sslmode=disable", "sslmode=require"} {
			began := time.Now()
			if err := w.tryPgconn(t, mode); err != nil {
				t.Errorf("beside %d who stall: %v", i+1, err)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("beside %d who stall, a login took %v", i+1, took)
			}
		}
	}
	var others []*pgtest.Client
	for range 9 { // as many clients as there may be
		others = append(others, w.client())
	}
	for i := range 2000 {
		stall(i)
	}
	inside.Cancel()
	if got := lastError(inside.UntilReady(1)); got != "57014" {
		t.Errorf("what was cancelled ends with %q", got)
	}
	others[0].Query("SELECT 1")
}

// A refused connection that says nothing itself is not waited for for long.
func TestARefusedConnectionIsNotKept(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{limits: postgres.Limits{Clients: 1}})
	w.client()
	conn := w.dial(t)
	began := time.Now()
	_, _ = io.Copy(io.Discard, conn)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("kept for %v", took)
	}
}

// Trap 53: handshakes that stall must neither stop others nor outlive the login timeout.
func TestStalledHandshakes(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{tls: certificate(t, "require"), limits: postgres.Limits{LoginTimeout: time.Second}})
	for range 20 {
		conn := w.dial(t)
		_, _ = conn.Write(askSSL)
		readByte(t, conn)
		_, _ = conn.Write([]byte("\x16\x03\x01\x02\x00"))
	}
	began := time.Now()
	if err := w.tryPgconn(t, "sslmode=require"); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 900*time.Millisecond {
		t.Errorf("a login took %v beside stalled handshakes", took)
	}
	w.eventually("they are gone", func() bool { return w.Stats().Clients["login"] == 0 })
}

// manyFiles is set for the process that TestRunningOutOfDescriptors starts.
const manyFiles = "WEIR_TEST_FEW_FILES"

// Trap 51: without a free descriptor nobody new gets in; those who are in notice nothing; afterwards all is as before.
func TestRunningOutOfDescriptors(t *testing.T) {
	if os.Getenv(manyFiles) == "" {
		test, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		child := exec.CommandContext(t.Context(), test, "-test.run=^TestRunningOutOfDescriptors$", "-test.v")
		child.Env = append(os.Environ(), manyFiles+"=1")
		if out, err := child.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS")) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	fake := pgtest.Script{pgtest.AcceptStartup(), pgtest.AnswerQueries(pgtest.Reply(1))}.Serve(t)
	w := start(t, settings{
		upstream: fake.DSN(), servers: 2, queue: limiter.Queue{Wait: 300 * time.Millisecond}, breaker: breaker.New(database, breaker.Config{Failures: 1}, nil),
	})
	inside, another := w.client(), w.client()
	inside.Query("SELECT 1")

	var clients []int // their sockets exist already: connecting them takes no descriptor
	for range 8 {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, fd)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = uint64(clients[len(clients)-1] + 20)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		files = append(files, f)
	}
	_, port, _ := strings.Cut(w.addr, ":")
	number, _ := strconv.Atoi(port)
	for i, fd := range clients {
		if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: number, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		if _, err := syscall.Write(fd, good); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		inside.Query("SELECT 1")
	}
	long := pgtest.Encode(query("SELECT '" + strings.Repeat("x", 20000) + "'"))
	w.eventually("it is free", func() bool { return w.servers("used") == 0 })
	inside.SendBytes(long[:19000]) // keeps the only server connection
	w.eventually("it is lent", func() bool { return w.servers("used") == 1 })
	if got := lastError(another.Query("SELECT 1")); got != "53300" { // none can be dialled, which is not the database's fault
		t.Errorf("who needs another connection is told %q", got)
	}
	if err := w.Ready(); w.state() != 0 || err == nil || !strings.Contains(err.Error(), "file descriptors") {
		t.Errorf("the breaker is in state %d, and readiness says %v", w.state(), err)
	}
	inside.SendBytes(long[19000:])
	inside.UntilReady(1)
	if now := w.Stats().Clients; now["idle"]+now["active"]+now["waiting"] != 2 {
		t.Errorf("clients got in without a descriptor: %v", now)
	}
	for _, f := range files {
		_ = f.Close()
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for i, fd := range clients {
		file := os.NewFile(uintptr(fd), "client")
		conn, err := net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		_ = conn.SetDeadline(time.Now().Add(pgtest.DefaultTimeout))
		if got := outcome(t, readAll(t, conn)); got != welcome {
			t.Errorf("client %d ended with %q", i, got)
		}
		_ = conn.Close()
	}
	inside.Query("SELECT 1")
}

func TestQueueFull(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1, queue: limiter.Queue{Length: 2}})
	holder := w.client()
	holder.Query("BEGIN; SELECT 1")
	var waiters []*pgtest.Client
	for i := range 2 {
		c := w.client()
		c.Send(&pgproto3.Query{String: fmt.Sprint("SELECT ", i)})
		w.eventually("it waits", func() bool { return w.Stats().Clients["waiting"] == int64(i+1) })
		waiters = append(waiters, c)
	}
	c := w.client()
	for range 2 { // it may ask again, and is refused again
		answer := c.Query("SELECT 9")
		explained(t, answer[0], "ERROR", proxy.QueueFull, "resources.orders.queue.length")
		if types := pgtest.Types(answer); types != "EZ" {
			t.Errorf("answered %s", types)
		}
	}
	c.Send(&pgproto3.Parse{Query: "SELECT 1"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}, &pgproto3.Sync{})
	if types := pgtest.Types(c.UntilReady(2)); types != "EZZ" {
		t.Errorf("a batch is answered %s, want EZZ", types)
	}
	holder.Query("COMMIT")
	for i, waiter := range waiters { // in order of arrival
		if got := pgtest.Rows(waiter.UntilReady(1)); len(got) != 1 || got[0] != fmt.Sprint(i) {
			t.Errorf("waiter %d got %q", i, got)
		}
	}
	if got := pgtest.Rows(c.Query("SELECT 9")); len(got) != 1 || got[0] != "9" {
		t.Errorf("afterwards: %q", got)
	}
	if got := w.refusals(proxy.QueueFull); got != 3 {
		t.Errorf("counted %d refusals, want 3", got)
	}
}

func TestQueueTimeout(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	const wait = 150 * time.Millisecond
	w := start(t, settings{servers: 1, queue: limiter.Queue{Wait: wait}})
	holder := w.client()
	holder.Query("BEGIN; SELECT 1")
	c := w.client()
	for name, ask := range map[string]func() []pgtest.Message{
		"simple": func() []pgtest.Message { return c.Query("SELECT 1") },
		"extended": func() []pgtest.Message {
			c.Send(&pgproto3.Parse{Query: "SELECT 1"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
			return c.UntilReady(1)
		},
		"extended, flushed": func() []pgtest.Message {
			c.Send(&pgproto3.Parse{Query: "SELECT 1"}, &pgproto3.Flush{})
			answer := c.UntilType('E')
			c.Send(&pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}) // skipped
			return append(answer, c.UntilReady(1)...)
		},
		"more behind it": func() []pgtest.Message {
			c.Send(&pgproto3.Query{String: "SELECT 1"}, &pgproto3.Sync{})
			answer := c.UntilReady(2)
			return append(answer[:1:1], answer[2])
		},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			answer := ask()
			if types := pgtest.Types(answer); types != "EZ" || answer[1].Body[0] != 'I' {
				t.Fatalf("answered %v", answer)
			}
			explained(t, answer[0], "ERROR", proxy.QueueTimeout, "resources.orders.queue.wait")
			if took := time.Since(began); took < wait {
				t.Errorf("refused after %v", took)
			}
		})
	}
	t.Run("a transaction that runs is not refused", func(t *testing.T) {
		if got := pgtest.Rows(holder.Query("SELECT 1")); len(got) != 1 {
			t.Errorf("got %q", got)
		}
	})
	holder.Query("COMMIT")
	if got := pgtest.Rows(c.Query("SELECT 2")); len(got) != 1 || got[0] != "2" {
		t.Errorf("afterwards: %q", got)
	}
	if got := w.refusals(proxy.QueueTimeout); got != 4 {
		t.Errorf("counted %d refusals, want 4", got)
	}
}

// Trap 36: who leaves while waiting leaves the queue at once.
func TestAWaitingClientThatLeavesLeavesTheQueue(t *testing.T) {
	pgtest.Shared(t)
	for name, params := range map[string]string{"plain": "sslmode=disable", "TLS": "sslmode=require"} {
		t.Run(name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			w := start(t, settings{servers: 1, queue: limiter.Queue{Length: 1}, tls: certificate(t, "prefer")})
			holder := w.client()
			holder.Query("BEGIN; SELECT 1")
			for how, leave := range map[string]func(*pgtest.Client){"FIN": (*pgtest.Client).Close, "RST": (*pgtest.Client).Abort} {
				c := w.client(params)
				c.Send(&pgproto3.Query{String: "SELECT 1"})
				w.eventually("it waits", func() bool { return w.Stats().Clients["waiting"] == 1 })
				leave(c)
				w.eventually("nobody waits after "+how, func() bool { return w.Stats().Clients["waiting"] == 0 })
			}
			holder.Query("COMMIT")
		})
	}
}

// tokens is a bucket that hands out what it is given.
type tokens chan struct{}

func (b tokens) Take() (time.Duration, bool) {
	select {
	case <-b:
		return 0, true
	default:
		return 250 * time.Millisecond, false
	}
}

func (b tokens) Return(time.Duration) { b <- struct{}{} }

func TestRate(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	bucket := make(tokens, 10)
	w := start(t, settings{bucket: bucket, rate: limiter.Rate{PerSecond: 4, Burst: 1}})
	c := w.client() // to log in takes no token
	refused := func(answer []pgtest.Message, want string) {
		t.Helper()
		if types := pgtest.Types(answer); types != want {
			t.Fatalf("answered %s, want %s", types, want)
		}
		explained(t, answer[0], "ERROR", proxy.Rate, "resources.orders.rate")
	}
	refused(c.Query("SELECT 1"), "EZ")
	c.Send(&pgproto3.Parse{Query: "SELECT 1"}, &pgproto3.Describe{ObjectType: 'S'}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
	refused(c.UntilReady(1), "EZ")
	c.Send(&pgproto3.Query{String: "SELECT 1"}, &pgproto3.Parse{Query: "SELECT 1"}, &pgproto3.Sync{}, &pgproto3.Query{String: "SELECT 2"})
	refused(c.UntilReady(3), "EZEZEZ")
	c.Send(&pgproto3.Query{String: strings.Repeat(" ", 100_000) + "SELECT 1"}) // longer than any buffer
	refused(c.UntilReady(1), "EZ")
	c.Send(&pgproto3.Parse{Query: strings.Repeat(" ", 100_000)}, &pgproto3.Bind{Parameters: [][]byte{make([]byte, 100_000)}}, &pgproto3.Sync{})
	refused(c.UntilReady(1), "EZ")

	bucket <- struct{}{} // one token is one transaction, however long
	c.Query("BEGIN; SELECT 1")
	for range 3 {
		if got := pgtest.Rows(c.Query("SELECT 1")); len(got) != 1 {
			t.Errorf("refused in the middle of a transaction: %v", got)
		}
	}
	c.Query("COMMIT")
	refused(c.Query("SELECT 1"), "EZ")

	bucket <- struct{}{} // an empty batch takes no token
	c.Send(&pgproto3.Sync{})
	c.UntilReady(1)
	if got := pgtest.Rows(c.Query("SELECT 5")); len(got) != 1 || got[0] != "5" {
		t.Errorf("got %q", got)
	}
	if got := w.refusals(proxy.Rate); got != 8 {
		t.Errorf("counted %d refusals, want 8", got)
	}
	if got := w.Stats().Resources[0].Admitted[proxy.AdmittedBy{Caller: "default", Priority: "normal"}]; got != 2 {
		t.Errorf("counted %d admitted, want 2", got)
	}
}

// A session that keeps its server connection is refused its next transaction like everyone else, and keeps the connection.
func TestRateOfAPinnedSession(t *testing.T) {
	pgtest.Shared(t)
	for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Session} {
		t.Run(string(mode), func(t *testing.T) {
			pgtest.NoLeaks(t)
			bucket := make(tokens, 10)
			w := start(t, settings{mode: mode, servers: 1, bucket: bucket, rate: limiter.Rate{PerSecond: 4}})
			c := w.client()
			bucket <- struct{}{}
			c.Query("SET my.setting = 'kept'")
			answer := c.Query("SHOW my.setting")
			explained(t, answer[0], "ERROR", proxy.Rate, "resources.orders.rate")
			c.Send(&pgproto3.Parse{Query: "SELECT 1"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
			if types := pgtest.Types(c.UntilReady(1)); types != "EZ" {
				t.Errorf("a batch is answered %s", types)
			}
			bucket <- struct{}{}
			if got := pgtest.Rows(c.Query("SHOW my.setting")); len(got) != 1 || got[0] != "kept" {
				t.Errorf("the session lost its settings: %q", got)
			}
		})
	}
}

// A half-closed TLS connection ends a handshake that has begun.
func TestHangingUpWithinAHandshake(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{tls: certificate(t, "require")})
	hello := clientHello(t)
	for cut := range hello {
		conn := w.dial(t)
		_, _ = conn.Write(hello[:cut])
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
	w.eventually("nobody is left", func() bool { return w.Stats().Clients["login"] == 0 })
	secured := tls.Client(w.dial(t), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"postgresql"}})
	_, _ = secured.Write(good)
	if got := outcome(t, readAll(t, secured)); got != welcome {
		t.Errorf("afterwards: %q", got)
	}
}

// A client whose parameters are new must be asked for at the server, for which there may be no connection in time. The
// database is not down for that.
func TestALoginThatWaitsForAConnection(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1, limits: postgres.Limits{LoginTimeout: 300 * time.Millisecond}})
	holder := w.client()
	holder.Query("BEGIN; SELECT 1")
	c := pgtest.Dial(t, w.addr)
	c.SendBytes(packet(v30, "DateStyle\x00German\x00"+hello))
	explained(t, c.Receive(), "FATAL", proxy.QueueTimeout, "resources.orders.connections")
	c.UntilClosed()
	w.client() // what is known needs no connection
	in := make(chan error, 1)
	go func() { in <- w.tryPgconn(t, "datestyle=SQL") }()
	w.eventually("it waits", func() bool { return w.Stats().Resources[0].Waiting == 1 })
	holder.Query("COMMIT")
	if err := <-in; err != nil {
		t.Error(err)
	}
}

// Trap 37: a function that is frozen within a transaction loses it, and its locks; when it goes on it reads why.
func TestAFunctionThatIsFrozenWithinATransaction(t *testing.T) {
	pg := pgtest.Shared(t)
	if err := pg.Exec(t.Context(), "DROP TABLE IF EXISTS weir_frozen; CREATE TABLE weir_frozen (n int); GRANT ALL ON weir_frozen TO app"); err != nil {
		t.Fatal(err)
	}
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1, timeouts: postgres.Timeouts{IdleInTransaction: 100 * time.Millisecond}})
	frozen, other := w.client(), w.client()
	frozen.Query("BEGIN; SELECT 1")
	frozen.Query("LOCK TABLE weir_frozen")
	if got := lastError(other.Query("INSERT INTO weir_frozen VALUES (1)")); got != "" {
		t.Errorf("the next one got %s", got)
	}
	w.eventually("the server connection is free", func() bool { return w.servers("idle") == 1 })
	frozen.Send(&pgproto3.Query{String: "INSERT INTO weir_frozen VALUES (2)"})
	messages := frozen.UntilClosed()
	if len(messages) != 1 || messages[0].Field('S') != "FATAL" || messages[0].Field('C') != "25P03" {
		t.Errorf("thawed, it reads %v", messages)
	}
	if got := pgtest.Rows(other.Query("SELECT count(*) FROM weir_frozen")); len(got) != 1 || got[0] != "1" {
		t.Errorf("the table has %v rows", got)
	}
}
