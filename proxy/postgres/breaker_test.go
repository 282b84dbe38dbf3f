package postgres_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	gosync "sync" // sync is a message here: see compare_test.go
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/pool"
	"github.com/weirproxy/weir/proxy"
	"github.com/weirproxy/weir/proxy/postgres"
)

// state is the breaker's: 0 closed, 1 half-open, 2 open.
func (w *weir) state() int { return w.Stats().Resources[0].Breaker.State }

// Trap 47: seen from the server, too, there are never more connections than the budget, whatever clients do.
func TestTheServerNeverSeesMoreThanTheBudget(t *testing.T) {
	pg := pgtest.Start(t, pgtest.Config{MaxConnections: 30})
	pgtest.NoLeaks(t)
	const budget = 4
	w := start(t, settings{upstream: pg.DSN(), servers: budget, pool: pool.Config{ServerLifetime: 30 * time.Millisecond}})
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
	defer stop()
	var clients gosync.WaitGroup
	var done atomic.Int64
	for range 16 {
		clients.Go(func() {
			for ctx.Err() == nil {
				done.Add(misbehave(t, w))
			}
		})
	}
	most := 0
	for ctx.Err() == nil {
		rows, err := pg.Query(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND backend_type = 'client backend'")
		if err != nil {
			t.Fatal(err)
		}
		n, _ := strconv.Atoi(rows[0][0])
		most = max(most, n)
		if n > budget {
			t.Fatalf("the server has %d connections, the budget is %d", n, budget)
		}
	}
	clients.Wait()
	t.Logf("%d statements, at most %d connections", done.Load(), most)
	if most == 0 || done.Load() < 100 {
		t.Error("that was nothing")
	}
	w.eventually("all servers are back", func() bool { return w.servers("used") == 0 && w.servers("closing") == 0 })
}

// misbehave connects, asks a few things, and leaves at any point, with or without a goodbye.
func misbehave(t *testing.T, w *weir) (done int64) {
	ctx, cancel := context.WithTimeout(context.Background(), pgtest.DefaultTimeout)
	defer cancel()
	conn, err := pgconn.Connect(ctx, w.dsn())
	if err != nil {
		t.Error(err)
		return 0
	}
	statements := []string{"SELECT 1", "BEGIN", "SELECT pg_sleep(0.005)", "COMMIT", "SELECT 1/0", "SET work_mem = '1MB'", "SELECT generate_series(1, 1000)", "ROLLBACK"}
	for range rand.IntN(8) {
		if _, err := conn.Exec(ctx, statements[rand.IntN(len(statements))]).ReadAll(); err != nil && sqlstate(err) == "" {
			t.Error(err)
			return done
		}
		done++
	}
	switch rand.IntN(3) {
	case 0:
		_ = conn.Close(ctx)
	case 1:
		_ = conn.Conn().Close()
	default: // in the middle
		_, _ = conn.Conn().Write(pgtest.Encode(&pgproto3.Query{String: "SELECT pg_sleep(30)"}))
		_ = conn.Conn().Close()
	}
	return done
}

// A server that is restarted costs those their transaction who had one; everyone else finds new connections.
func TestAPoolHealsAfterARestart(t *testing.T) {
	pg := pgtest.Start(t, pgtest.Config{})
	pgtest.NoLeaks(t)
	for name, mode := range map[string]func() error{
		"in good order": func() error { return pg.Restart(pgtest.Fast) },
		"by a crash":    func() error { return pg.Restart(pgtest.Immediate) },
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, settings{upstream: pg.DSN(), servers: 3})
			idle, inside, running, fresh := w.client(), w.client(), w.client(), w.client()
			idle.Query("SELECT 1")
			inside.Query("BEGIN; SELECT 1")
			inside.Query("SELECT 1")
			running.Send(&pgproto3.Query{String: "SELECT pg_sleep(60)"})
			awaitSleep(t, pg)
			fresh.Query("SELECT 1")
			if err := mode(); err != nil {
				t.Fatal(err)
			}
			// Trap 31: the server's own FATAL, or ours when it had no time for one; then the end, and nothing behind it.
			for client, c := range map[string]*pgtest.Client{"within a transaction": inside, "with a running query": running} {
				messages := c.UntilClosed()
				last := messages[len(messages)-1]
				if last.Type != 'E' || last.Field('S') != "FATAL" || last.Field('C') != "57P01" && last.Field('C') != "57P02" && last.Field('C') != "08006" {
					t.Errorf("a client %s reads %v", client, messages)
				}
			}
			// Traps 30 and 45: whoever was idle notices nothing.
			for _, c := range []*pgtest.Client{idle, fresh} {
				if got := pgtest.Rows(c.Query("SELECT 7")); len(got) != 1 || got[0] != "7" {
					t.Errorf("an idle client got %q", got)
				}
			}
			w.client().Query("SELECT 1")
		})
	}
}

// While the database is down nobody waits for it in vain: all are told at once, those who are logged in and those who
// want to; when it is back, one probe finds out.
func TestTheBreakerOpensAndClosesAgain(t *testing.T) {
	pg := pgtest.Start(t, pgtest.Config{})
	pgtest.NoLeaks(t)
	w := start(t, settings{
		upstream: pg.DSN(), servers: 3,
		breaker: breaker.New(database, breaker.Config{Failures: 3, Cooldown: 200 * time.Millisecond, MaxCooldown: 400 * time.Millisecond}, nil),
	})
	c, other := w.client(), w.client()
	c.Query("SELECT 1")
	if err := w.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	if err := pg.Stop(pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	w.eventually("the idle connections are gone", func() bool { return w.servers("idle") == 0 })

	answer := c.Query("SELECT 1") // waits for the connects that fail, until the breaker opens
	explained(t, answer[0], "ERROR", proxy.Breaker, "resources.orders.breaker")
	if types := pgtest.Types(answer); types != "EZ" {
		t.Errorf("answered %s", types)
	}
	began := time.Now()
	refused := 0
	for w.state() == 2 {
		for _, who := range []*pgtest.Client{c, other} {
			who.Send(&pgproto3.Parse{Query: "SELECT 1"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
			if answer := who.UntilReady(1); pgtest.Types(answer) == "EZ" && answer[0].Field('C') == "57P03" {
				refused++
			} else {
				t.Errorf("answered %v", answer)
			}
		}
		if time.Since(began) > 100*time.Millisecond {
			break
		}
	}
	if took := time.Since(began) / time.Duration(max(1, refused)); refused == 0 || took > 20*time.Millisecond {
		t.Errorf("%d refusals of %v each", refused, took)
	}
	for w.state() != 2 { // between its probes
		time.Sleep(time.Millisecond)
		c.Query("SELECT 1")
	}
	_, err := pgconn.Connect(t.Context(), w.dsn())
	if pgErr := pgError(t, err); pgErr.Code != "57P03" || pgErr.Severity != "FATAL" || pgErr.Hint == "" || pgErr.Detail == "" {
		t.Errorf("a login is refused with %+v", pgErr)
	}
	if n := w.refusals(proxy.Breaker); n < int64(refused) {
		t.Errorf("counted %d refusals, there were %d", n, refused)
	}

	if err := pg.Restart(pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	w.eventually("queries are answered again", func() bool { return lastError(c.Query("SELECT 1")) == "" })
	w.eventually("the breaker is closed", func() bool { return w.state() == 0 }) // it hears of the answer after the client
	if got := pgtest.Rows(other.Query("SELECT 8")); len(got) != 1 || got[0] != "8" {
		t.Errorf("the other client got %q", got)
	}
	w.client().Query("SELECT 1")
}

// The first client of all, who cannot be told anything about a server that nobody has ever reached.
func TestLoginWhileTheDatabaseIsDown(t *testing.T) {
	pgtest.NoLeaks(t)
	nobody, err := proxy.Listen(t.Context(), "127.0.0.1:0", 0)
	if err != nil {
		t.Fatal(err)
	}
	addr := nobody.Addr().String()
	_ = nobody.Close()
	dsn := "postgres://app@" + addr + "/app?sslmode=disable"
	t.Run("with a breaker", func(t *testing.T) {
		w := start(t, settings{upstream: dsn, breaker: breaker.New(database, breaker.Config{Failures: 3}, nil)})
		began := time.Now()
		for range 2 {
			_, err := pgconn.Connect(t.Context(), w.dsn())
			if pgErr := pgError(t, err); pgErr.Code != "57P03" || pgErr.Severity != "FATAL" || pgErr.Hint == "" {
				t.Errorf("refused with %+v", pgErr)
			}
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		if w.Ready() == nil {
			t.Error("it is ready")
		}
	})
	t.Run("without one", func(t *testing.T) {
		w := start(t, settings{upstream: dsn, limits: postgres.Limits{LoginTimeout: 300 * time.Millisecond}})
		_, err := pgconn.Connect(t.Context(), w.dsn())
		if pgErr := pgError(t, err); pgErr.Code != "57P03" || pgErr.Severity != "FATAL" {
			t.Errorf("refused with %+v", pgErr)
		}
		w.eventually("no login is under way", func() bool { return w.Stats().Clients["login"] == 0 })
	})
	t.Run("that comes up in time", func(t *testing.T) {
		var up atomic.Bool
		fake := pgtest.ServeEach(t, func(int) pgtest.Script {
			if !up.Load() {
				return pgtest.Script{pgtest.Refuse("57P03", "the database system is starting up")}
			}
			return pgtest.Script{pgtest.AcceptStartup(), pgtest.AnswerQueries(pgtest.Reply(1))}
		})
		w := start(t, settings{upstream: fake.DSN()})
		in := make(chan error, 1)
		go func() {
			conn, err := pgconn.Connect(context.Background(), w.dsn())
			if err == nil {
				err = conn.Close(context.Background())
			}
			in <- err
		}()
		fake.AwaitAccepted(2)
		up.Store(true)
		if err := <-in; err != nil {
			t.Error(err)
		}
	})
}

// Trap 46: a server that has no connection to spare is not down. Whoever waits gets one of those there are.
func TestAServerWithoutAConnectionToSpareIsNotDown(t *testing.T) {
	pgtest.NoLeaks(t)
	fake := pgtest.ServeEach(t, func(n int) pgtest.Script {
		if n > 0 {
			return pgtest.Script{pgtest.Refuse("53300", "sorry, too many clients already")}
		}
		return pgtest.Script{pgtest.AcceptStartup(), answerAnything}
	})
	w := start(t, settings{upstream: fake.DSN(), servers: 5, breaker: breaker.New(database, breaker.Config{Failures: 2}, nil)})
	holder, waiter := w.client(), w.client()
	holder.Send(&pgproto3.Parse{}, &pgproto3.Flush{}) // keeps the only connection
	w.eventually("it is lent", func() bool { return w.servers("used") == 1 })
	waiter.Send(&pgproto3.Query{String: "SELECT 1"})
	fake.AwaitAccepted(5) // refused four times
	if s := w.state(); s != 0 {
		t.Errorf("the breaker is in state %d", s)
	}
	holder.Send(&pgproto3.Sync{})
	holder.UntilReady(1)
	if got := lastError(waiter.UntilReady(1)); got != "" {
		t.Errorf("the waiter is refused with %s", got)
	}
}

// Only what is the server's fault opens the breaker.
func TestErrorsOfClientsDoNotOpenTheBreaker(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 2, breaker: breaker.New(database, breaker.Config{Failures: 2}, nil), queue: limiter.Queue{Wait: 300 * time.Millisecond}})
	c := w.client()
	for range 5 {
		for _, sql := range []string{"SELECT 1/0", "nonsense", "SELECT * FROM nosuch", "DO $$ BEGIN RAISE EXCEPTION 'no'; END $$"} {
			if lastError(c.Query(sql)) == "" {
				t.Errorf("%s succeeds", sql)
			}
		}
		gone := w.client()
		gone.Send(&pgproto3.Query{String: "SELECT pg_sleep(30)"})
		gone.Abort()
		_, err := pgconn.Connect(t.Context(), w.dsn("timezone=Nowhere/AtAll"))
		if err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a wrong parameter: %v", err)
		}
	}
	one, two := w.client(), w.client()
	w.eventually("both servers are free", func() bool { return w.servers("used") == 0 })
	one.Query("BEGIN; SELECT 1")
	two.Query("BEGIN; SELECT 1")
	for range 3 {
		if got := lastError(c.Query("SELECT 1")); got != "53300" {
			t.Errorf("got %q", got)
		}
	}
	if s := w.state(); s != 0 {
		t.Errorf("the breaker is in state %d", s)
	}
}

// A client may end its own server process as often as it likes: the others are served.
func TestAClientThatEndsItsOwnServerProcessOpensNoBreaker(t *testing.T) {
	pg := pgtest.Start(t, pgtest.Config{})
	pgtest.NoLeaks(t)
	w := start(t, settings{upstream: pg.DSN(), servers: 4, breaker: breaker.New(database, breaker.Config{Failures: 2}, nil)})
	other := w.client()
	for range 10 {
		var all []*pgtest.Client
		for range 3 {
			c := w.client()
			c.Query("BEGIN; SELECT 1")
			all = append(all, c)
		}
		for _, c := range all {
			c.Send(query("SELECT pg_terminate_backend(pg_backend_pid())"))
		}
		for _, c := range all {
			if got := lastError(c.UntilClosed()); got != "57P01" {
				t.Errorf("who ends itself is told %q", got)
			}
		}
		if got := lastError(other.Query("SELECT 1")); got != "" {
			t.Fatalf("another one is refused: %s", got)
		}
	}
	if s := w.state(); s != 0 {
		t.Errorf("the breaker is in state %d", s)
	}
	w.eventually("nothing is left over", func() bool { return w.servers("used") == 0 && w.servers("closing") == 0 && w.servers("dialing") == 0 })
}

// Several callers that lose their connections at once are evidence, whatever comes of a connect.
func TestSeveralCallersThatLoseTheirConnectionsOpenTheBreaker(t *testing.T) {
	pgtest.NoLeaks(t)
	const callers = 4
	long := "SELECT '" + strings.Repeat("x", 20000) + "'"
	fake := pgtest.ServeEach(t, func(n int) pgtest.Script {
		if n < callers {
			return pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectQuery(long), pgtest.HangUp()}
		}
		return pgtest.Script{pgtest.ExpectStartup()} // says nothing more
	})
	w := start(t, settings{
		upstream: fake.DSN(), servers: callers, users: map[string]string{"app": "x", "another": "x"}, pool: pool.Config{Connect: time.Second},
		breaker: breaker.New(database, breaker.Config{Failures: callers - 1}, nil),
	})
	wire := pgtest.Encode(query(long))
	var all []*pgtest.Client
	for i := range callers {
		c := w.client([]string{"user=app", "user=another"}[i%2])
		c.SendBytes(wire[:19000]) // takes a server connection
		w.eventually("it is lent", func() bool { return w.servers("used") == int64(i+1) })
		all = append(all, c)
	}
	for _, c := range all {
		c.SendBytes(wire[19000:])
		c.UntilClosed()
	}
	w.eventually("the breaker is open", func() bool { return w.state() == 2 })
}

// Where there is one caller, what it loses says nothing until a connect fails: then all of it counts.
func TestOneCallerThatLosesItsConnectionsOpensTheBreakerWhenConnectingFails(t *testing.T) {
	pgtest.NoLeaks(t)
	const sessions = 8
	long := "SELECT '" + strings.Repeat("x", 20000) + "'"
	fake := pgtest.ServeEach(t, func(n int) pgtest.Script {
		if n < sessions {
			return pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectQuery(long), pgtest.HangUp()}
		}
		return pgtest.Script{pgtest.ExpectStartup(), pgtest.HangUp()}
	})
	w := start(t, settings{
		upstream: fake.DSN(), servers: sessions, queue: limiter.Queue{Wait: 100 * time.Millisecond},
		breaker: breaker.New(database, breaker.Config{Failures: sessions + 1}, nil),
	})
	wire := pgtest.Encode(query(long))
	var all []*pgtest.Client
	for i := range sessions {
		c := w.client()
		c.SendBytes(wire[:19000]) // takes a server connection
		w.eventually("it is lent", func() bool { return w.servers("used") == int64(i+1) })
		all = append(all, c)
	}
	late := w.client()
	for _, c := range all {
		c.SendBytes(wire[19000:])
		c.UntilClosed()
	}
	late.Send(query("SELECT 1")) // needs a connection that nobody gets
	w.eventually("the breaker is open", func() bool { return w.state() == 2 })
}
