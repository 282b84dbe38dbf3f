package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	gosync "sync" // sync is a message here: see compare_test.go
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/proxy"
	"github.com/weirproxy/weir/proxy/postgres"
)

// shutdown begins to shut w down; the result comes when it is over.
func (w *weir) shutdown(tb testing.TB, limit time.Duration) <-chan error {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	tb.Cleanup(cancel)
	over := make(chan error, 1)
	go func() { over <- w.Shutdown(ctx) }()
	w.eventually("it drains", func() bool { return w.Ready() != nil })
	return over
}

// farewell checks that all a client reads is the news that the weir shuts down, and the end.
func farewell(tb testing.TB, messages []pgtest.Message) {
	tb.Helper()
	if len(messages) != 1 || messages[0].Type != 'E' || messages[0].Field('S') != "FATAL" || messages[0].Field('C') != "57P01" {
		tb.Errorf("the last words are %v, want FATAL 57P01", messages)
	}
}

func TestShutdownSendsIdleClientsAway(t *testing.T) {
	pgtest.Shared(t)
	for name, test := range map[string]struct {
		mode   postgres.PoolMode
		before string
		params string
	}{
		"idle":               {postgres.Transaction, "", "sslmode=disable"},
		"idle, TLS":          {postgres.Transaction, "", "sslmode=require"},
		"idle after a query": {postgres.Transaction, "SELECT 1", "sslmode=disable"},
		"pinned":             {postgres.Transaction, "SET my.setting = 'x'", "sslmode=disable"},
		"a session's":        {postgres.Session, "SELECT 1", "sslmode=require"},
	} {
		t.Run(name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			w := start(t, settings{mode: test.mode, tls: certificate(t, "prefer")})
			c := w.client(test.params)
			if test.before != "" {
				c.Query(test.before)
			}
			over := w.shutdown(t, 10*time.Second)
			farewell(t, c.UntilClosed())
			c.Close()
			if err := <-over; err != nil {
				t.Error(err)
			}
			if _, err := net.Dial("tcp", w.addr); err == nil {
				t.Error("it still accepts")
			}
		})
	}
}

func TestShutdownLetsFinishWhatHasBegun(t *testing.T) {
	pg := pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 3})
	running, inside, batch := w.client(), w.client(), w.client()
	inside.Query("BEGIN; SELECT 1")
	batch.Send(&pgproto3.Parse{Query: "SELECT 1"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Flush{})
	batch.UntilType('C')
	running.Send(&pgproto3.Query{String: "SELECT pg_sleep(0.3)"})
	awaitSleep(t, pg)
	over := w.shutdown(t, 10*time.Second)

	if got := pgtest.Rows(running.UntilReady(1)); len(got) != 1 {
		t.Errorf("what ran was answered %q", got)
	}
	farewell(t, running.UntilClosed())
	running.Close()

	for range 2 {
		if got := pgtest.Rows(inside.Query("SELECT 42")); len(got) != 1 || got[0] != "42" {
			t.Errorf("within a transaction: %q", got)
		}
	}
	if answer := inside.Query("COMMIT"); pgtest.Types(answer) != "CZ" {
		t.Errorf("COMMIT is answered %v", answer)
	}
	farewell(t, inside.UntilClosed())
	inside.Close()

	select {
	case err := <-over:
		t.Fatalf("over with a batch unfinished: %v", err)
	default:
	}
	batch.Send(&pgproto3.Sync{})
	batch.UntilReady(1)
	farewell(t, batch.UntilClosed())
	batch.Close()
	if err := <-over; err != nil {
		t.Error(err)
	}
}

func TestShutdownRefusesThoseWhoWait(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1})
	holder, waiter := w.client(), w.client()
	holder.Query("BEGIN; SELECT 1")
	waiter.Send(&pgproto3.Query{String: "SELECT 1"})
	w.eventually("it waits", func() bool { return w.Stats().Clients["waiting"] == 1 })
	over := w.shutdown(t, 10*time.Second)
	answer := waiter.UntilClosed()
	if types := pgtest.Types(answer); types != "EZE" || answer[0].Field('S') != "ERROR" || answer[0].Field('C') != "57P01" || answer[0].Field('D') == "" {
		t.Fatalf("answered %v", answer)
	}
	farewell(t, answer[2:])
	waiter.Close()
	holder.Query("COMMIT")
	holder.Close()
	if err := <-over; err != nil {
		t.Error(err)
	}
	if got := w.refusals(proxy.Draining); got != 1 {
		t.Errorf("counted %d refusals, want 1", got)
	}
}

func TestShutdownDoesNotWaitForThoseWhoHaveNotLoggedIn(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{method: "scram-sha-256", users: map[string]string{"app": "secret"}, tls: certificate(t, "prefer")})
	silent, half, asked, handshake := w.dial(t), w.dial(t), w.dial(t), w.dial(t)
	_, _ = half.Write(good[:7])
	_, _ = asked.Write(good)
	readByte(t, asked) // the question for a password
	_, _ = handshake.Write(askSSL)
	readByte(t, handshake)
	w.eventually("four log in", func() bool { return w.Stats().Clients["login"] == 4 })
	began := time.Now()
	over := w.shutdown(t, 10*time.Second)
	for name, conn := range map[string]net.Conn{"silent": silent, "half": half} {
		if got := outcome(t, readAll(t, conn)); got != "57P01" {
			t.Errorf("%s: ended with %q", name, got)
		}
	}
	readAll(t, asked)
	if got := outcome(t, readAll(t, handshake)); got != quietEnd {
		t.Errorf("within TLS: ended with %q", got)
	}
	for _, conn := range []net.Conn{silent, half, asked, handshake} {
		_ = conn.Close()
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A login that is answered just when the shutdown begins ends like any idle client; none gets lost on the way between loops.
func TestShutdownAmongLogins(t *testing.T) {
	pgtest.Shared(t)
	for range 10 {
		pgtest.NoLeaks(t)
		w := start(t, settings{})
		w.client().Close()
		var clients gosync.WaitGroup
		for range 20 {
			clients.Go(func() {
				for {
					conn, err := net.Dial("tcp", w.addr)
					if err != nil {
						return
					}
					_ = conn.SetDeadline(time.Now().Add(pgtest.DefaultTimeout))
					_, _ = conn.Write(good)
					buf := make([]byte, 4096)
					for err == nil {
						_, err = conn.Read(buf)
						if isTimeout(err) {
							t.Error("a client is kept")
						}
						if rand.IntN(3) == 0 {
							break
						}
					}
					_ = conn.Close()
				}
			})
		}
		w.eventually("clients come", func() bool { return w.logins("trust", "ok") > 20 })
		if err := <-w.shutdown(t, 10*time.Second); err != nil {
			t.Error(err)
		}
		clients.Wait()
	}
}

func TestShutdownHasADeadline(t *testing.T) {
	pg := pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 2})
	running, inside, waiter := w.client(), w.client(), w.client()
	inside.Query("BEGIN; SELECT 1")
	running.Send(&pgproto3.Query{String: "SELECT pg_sleep(60)"})
	awaitSleep(t, pg)
	waiter.Send(&pgproto3.Query{String: "SELECT 1"})
	began := time.Now()
	err := <-w.shutdown(t, 300*time.Millisecond)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown returned %v", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	farewell(t, inside.UntilClosed())
	farewell(t, running.UntilClosed())
	rows, err := pg.Query(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
	if err != nil || rows[0][0] != "0" {
		t.Errorf("%v queries still run, %v", rows, err)
	}
}

func TestCloseAgainAndServeAfterwards(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{})
	w.client().Query("SELECT 1")
	var closing gosync.WaitGroup
	for range 3 {
		closing.Go(w.Close)
		closing.Go(func() { _ = w.Shutdown(context.Background()) })
	}
	closing.Wait()
	w.Close()
	if err := w.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	l, err := proxy.Listen(t.Context(), "127.0.0.1:0", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Serve(l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve returned %v", err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("the listener is still open")
	}
}

// Close may come while anything is going on.
func TestCloseAtAnyTime(t *testing.T) {
	pgtest.Shared(t)
	statements := []string{
		"SELECT 1", "SELECT pg_sleep(0.01)", "BEGIN; SELECT 1", "COMMIT", "SET my.setting = 'x'", "SELECT repeat('x', 1000000)",
		"SELECT 1/0", "LISTEN news", "SELECT pg_sleep(30)", "CREATE TEMP TABLE t (n int)",
	}
	for i := range 15 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			pgtest.NoLeaks(t)
			w := start(t, settings{servers: 3, tls: certificate(t, "prefer"), queue: limiter.Queue{Wait: 50 * time.Millisecond}, mode: []postgres.PoolMode{postgres.Transaction, postgres.Session}[i%2]})
			var clients gosync.WaitGroup
			for c := range 12 {
				clients.Go(func() {
					for {
						ctx, cancel := context.WithTimeout(context.Background(), pgtest.DefaultTimeout)
						conn, err := pgconn.Connect(ctx, w.dsn([]string{"sslmode=disable", "sslmode=require"}[c%2]))
						if err != nil {
							cancel()
							if w.Ready() == nil {
								t.Error(err)
							}
							return
						}
						for err == nil || sqlstate(err) != "" && !conn.IsClosed() {
							_, err = conn.Exec(ctx, statements[rand.IntN(len(statements))]).ReadAll()
							if rand.IntN(10) == 0 {
								break
							}
						}
						_ = conn.Close(ctx)
						cancel()
					}
				})
			}
			w.closeAtAnyTime(t, &clients)
		})
	}
}

// closeAtAnyTime closes the weir, whatever its clients are doing, and waits for them. No server connection must be left.
func (w *weir) closeAtAnyTime(t *testing.T, clients *gosync.WaitGroup) {
	t.Helper()
	time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond) // any time will do
	began := time.Now()
	w.Close()
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("Close took %v", took)
	}
	clients.Wait()
	if c := w.Stats().Resources[0].Servers; c["idle"]+c["used"]+c["dialing"]+c["closing"] != 0 {
		t.Errorf("servers are left: %v", c)
	}
}
