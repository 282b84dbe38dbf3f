package postgres_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	gosync "sync" // sync is a message here: see compare_test.go
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/proxy/postgres"
)

// cancelPacket is a CancelRequest for any key.
func cancelPacket(pid uint32, secret []byte) []byte {
	return packet(80877102, string(binary.BigEndian.AppendUint32(nil, pid))+string(secret))
}

// lastError is the SQLSTATE of the last error in an answer, "" when there is none.
func lastError(messages []pgtest.Message) (sqlstate string) {
	for _, m := range messages {
		if m.Type == 'E' {
			sqlstate = m.Field('C')
		}
	}
	return sqlstate
}

func TestCancelOfARunningQuery(t *testing.T) {
	pg := pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1})
	for name, version := range map[string]uint32{"protocol 3.0": v30, "protocol 3.2": v32} { // Trap 7
		t.Run(name, func(t *testing.T) {
			c := pgtest.ConnectVersion(t, w.dsn(), version)
			defer c.Close()
			for i, sent := range [][]pgproto3.FrontendMessage{
				{&pgproto3.Query{String: "SELECT pg_sleep(60)"}},
				{&pgproto3.Query{String: "SELECT 1; SELECT pg_sleep(60); SELECT 2"}},
				{&pgproto3.Parse{Query: "SELECT pg_sleep(60)"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}},
			} {
				c.Send(sent...)
				awaitSleep(t, pg)
				c.Cancel()
				if got := lastError(c.UntilReady(1)); got != "57014" {
					t.Errorf("query %d ended with %q", i, got)
				}
			}
			// Flushed, but no Sync: nothing is owed, and yet something runs.
			c.Send(&pgproto3.Parse{Query: "SELECT pg_sleep(60)"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Flush{})
			awaitSleep(t, pg)
			c.Cancel()
			c.UntilType('E')
			c.Send(&pgproto3.Sync{})
			c.UntilReady(1)

			c.Query("BEGIN; SELECT 1")
			c.Send(&pgproto3.Query{String: "SELECT pg_sleep(60)"})
			awaitSleep(t, pg)
			c.Cancel()
			messages := c.UntilReady(1)
			if got := lastError(messages); got != "57014" || messages[len(messages)-1].Body[0] != 'E' {
				t.Errorf("in a transaction: %v", messages)
			}
			c.Query("ROLLBACK")
			if got := pgtest.Rows(c.Query("SELECT 3")); len(got) != 1 || got[0] != "3" {
				t.Errorf("afterwards: %v", got)
			}
		})
	}
}

// awaitSleep waits until exactly one pg_sleep runs on the server.
func awaitSleep(tb testing.TB, pg *pgtest.Postgres) {
	tb.Helper()
	for deadline := time.Now().Add(pgtest.DefaultTimeout); ; time.Sleep(time.Millisecond) {
		rows, err := pg.Query(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
		if err != nil {
			tb.Fatal(err)
		}
		if rows[0][0] == "1" {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s queries sleep on the server, want 1", rows[0][0])
		}
	}
}

// Trap 39: a client that waits leaves the queue, and may ask again.
func TestCancelOfAWaitingQuery(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1})
	holder := w.client()
	holder.Query("BEGIN; SELECT 1")
	for name, sent := range map[string][]pgproto3.FrontendMessage{
		"simple":   {&pgproto3.Query{String: "SELECT 1"}},
		"extended": {&pgproto3.Parse{Query: "SELECT 1"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}},
		"more":     {&pgproto3.Query{String: "SELECT 1"}, &pgproto3.Sync{}},
	} {
		t.Run(name, func(t *testing.T) {
			c := w.client()
			defer c.Close()
			c.Send(sent...)
			w.eventually("it waits", func() bool { return w.Stats().Clients["waiting"] == 1 })
			c.Cancel()
			answer := c.UntilReady(1)
			if e := answer[0]; e.Type != 'E' || e.Field('C') != "57014" || e.Field('S') != "ERROR" {
				t.Errorf("answered %v", answer)
			}
			if n := w.Stats().Clients["waiting"]; n != 0 {
				t.Errorf("%d clients wait", n)
			}
			if name == "more" {
				c.UntilReady(1)
			}
			holder.Query("COMMIT")
			if got := pgtest.Rows(c.Query("SELECT 2")); len(got) != 1 || got[0] != "2" {
				t.Errorf("afterwards: %q", got)
			}
			holder.Query("BEGIN; SELECT 1")
		})
	}
}

func TestCancelThatFindsNothing(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1})
	c := pgtest.ConnectVersion(t, w.dsn(), v32)
	c.Query("SELECT 1")
	c.Cancel() // idle
	c.Query("BEGIN; SELECT 1")
	c.Cancel() // idle in a transaction
	if got := lastError(c.Query("SELECT 1")); got != "" {
		t.Errorf("the next statement of the transaction ended with %s", got)
	}
	wrong := slices.Clone(c.Secret)
	wrong[len(wrong)-1]++
	for name, b := range map[string][]byte{
		"a wrong secret":       cancelPacket(c.PID, wrong),
		"a short secret":       cancelPacket(c.PID, c.Secret[:31]),
		"the first four bytes": cancelPacket(c.PID, c.Secret[:4]),
		"a long secret":        cancelPacket(c.PID, append(slices.Clone(c.Secret), 0)),
		"no secret":            cancelPacket(c.PID, nil),
		"a wrong number":       cancelPacket(c.PID+1, c.Secret),
		"the longest secret":   cancelPacket(c.PID, make([]byte, 256)),
		"too long a secret":    cancelPacket(c.PID, make([]byte, 257)),
	} {
		c.Send(&pgproto3.Query{String: "SELECT pg_sleep(0.05)"})
		if got := w.send(t, b); len(got) > 0 {
			t.Errorf("%s is answered with %q", name, got)
		}
		if got := lastError(c.UntilReady(1)); got != "" {
			t.Errorf("%s cancels: %s", name, got)
		}
	}
	c.Query("COMMIT")
	c.Close()
	w.eventually("the session is over", func() bool { return w.Stats().Clients["idle"] == 0 })
	if got := w.send(t, cancelPacket(c.PID, c.Secret)); len(got) > 0 { // gone
		t.Errorf("answered with %q", got)
	}
}

// Trap 7: keys are drawn by chance, are the weir's own, and differ.
func TestCancelKeysDiffer(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{})
	seen := map[string]bool{}
	for range 50 {
		c := pgtest.ConnectVersion(t, w.dsn(), v32)
		key := fmt.Sprintf("%d %x", c.PID, c.Secret)
		if seen[key] || c.PID == 0 || c.PID > 1<<31-1 {
			t.Fatalf("key %s", key)
		}
		seen[key] = true
		c.Close()
	}
}

// Trap 38: a cancel request that comes when its query has just ended must hit nobody, above all not the client who has the
// server connection next. WEIR_TEST_SEED repeats the choices of a run, if not their timing.
func TestACancelRequestNeverHitsAnotherClient(t *testing.T) {
	seed := seed(t)
	pgtest.Each(t, func(t *testing.T, pg *pgtest.Postgres) {
		pgtest.NoLeaks(t)
		cancelStorm(t, start(t, settings{servers: 5, upstream: pg.DSN(), queue: limiter.Queue{Mode: limiter.Off}}), seed) // whoever waits is cancelled, not refused
	})
}

// Traps 7 and 38 with keys of 32 bytes on both sides.
func TestACancelRequestNeverHitsAnotherClientOfPostgreSQL18(t *testing.T) {
	pg := pgtest.Shared18(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 3, upstream: pg.DSN() + "&max_protocol_version=3.2"})
	c := pgtest.ConnectVersion(t, w.dsn(), v32)
	c.Send(&pgproto3.Query{String: "SELECT pg_sleep(60)"})
	awaitSleep(t, pg)
	c.Cancel()
	if got := lastError(c.UntilReady(1)); got != "57014" {
		t.Fatalf("ended with %q", got)
	}
	c.Close()
	cancelStorm(t, w, seed(t))
}

// stormRequests is how many cancel requests a storm has.
const stormRequests = 5000

// cancelStorm has clients run short queries over few server connections while cancel requests for some of them arrive whenever
// they like: for what waits, runs, has just ended, is in a transaction, or keeps its server connection. Whoever is told 57014 has
// been asked to, just then; the others, strangers, are told nothing but what they have asked for.
func cancelStorm(t *testing.T, w *weir, seed uint64) {
	t.Helper()
	short := []string{"SELECT pg_sleep(0.0005)", "SELECT 1", "SELECT count(*) FROM generate_series(1, 2000)"}
	parts := []struct {
		name     string
		stranger bool
		first    string
		each     []string
	}{
		{name: "one", each: short},
		{name: "another", each: short},
		{name: "a third", each: short[:1]},
		{name: "one in transactions", each: []string{"BEGIN", short[0], short[1], "COMMIT", short[1]}},
		{name: "a pinned one", first: "LISTEN here", each: short},
		{name: "a stranger", stranger: true, each: short},
		{name: "another stranger", stranger: true, each: short},
		{name: "a stranger in transactions", stranger: true, each: []string{"BEGIN; SELECT 1", short[0], "COMMIT"}},
	}
	var actors, targets []*actor
	for i, p := range parts {
		a := &actor{name: p.name, conn: w.pgconn(), first: p.first, each: p.each, random: rand.New(rand.NewPCG(seed, uint64(i)))}
		actors = append(actors, a)
		if !p.stranger {
			targets = append(targets, a)
		}
	}
	began := time.Now()
	var over atomic.Bool
	var clients, cancellers gosync.WaitGroup
	for _, a := range actors {
		clients.Go(func() { a.act(t, &over) })
	}
	var sent atomic.Int64
	for i := range 8 {
		random := rand.New(rand.NewPCG(seed, uint64(100+i)))
		cancellers.Go(func() {
			for sent.Add(1) <= stormRequests {
				time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond) // a storm has no plan
				targets[random.IntN(len(targets))].cancel(t)
			}
		})
	}
	cancellers.Wait()
	over.Store(true)
	clients.Wait()

	var waiting, running, late int64
	for _, a := range actors {
		tooLate := a.begun.Load() - a.waiting - a.running
		t.Logf("%s: %d queries, %d cancelled while waiting, %d while running, %d requests came too late", a.name, a.asked, a.waiting, a.running, tooLate)
		if a.asked < 50 {
			t.Errorf("%s had nothing to do", a.name)
		}
		waiting, running, late = waiting+a.waiting, running+a.running, late+tooLate
		_ = a.conn.Close(context.Background())
	}
	if min(waiting, running, late) < stormRequests/250 {
		t.Error("that was no storm")
	}
	t.Logf("%d requests in %v", stormRequests, time.Since(began).Round(time.Millisecond))
	w.eventually("all servers are back", func() bool { return w.servers("used") == 0 && w.servers("closing") == 0 })
}

// actor is a client in a storm.
type actor struct {
	name   string
	conn   *pgconn.PgConn
	first  string   // what it begins with
	each   []string // and what it runs again and again
	random *rand.Rand

	asked            int64        // queries
	waiting, running int64        // of them cancelled while they did
	begun, done      atomic.Int64 // cancel requests
}

// cancel asks for the cancellation of whatever the actor is doing, and waits until the request is over.
func (a *actor) cancel(t *testing.T) {
	a.begun.Add(1)
	defer a.done.Add(1)
	if err := a.conn.CancelRequest(context.Background()); err != nil {
		t.Errorf("%s: cancel request: %v", a.name, err)
	}
}

// act runs queries until the storm is over, or something is not as it should be.
func (a *actor) act(t *testing.T, over *atomic.Bool) {
	for a.first != "" { // until it was not cancelled
		ok, cancelled := a.ask(t, a.first)
		if !ok {
			return
		}
		if !cancelled {
			break
		}
	}
	for !over.Load() {
		for i := 0; i < len(a.each); i++ {
			ok, cancelled := a.ask(t, a.each[i])
			if !ok {
				return
			}
			for cancelled && a.conn.TxStatus() != 'I' {
				if ok, _ = a.ask(t, "ROLLBACK"); !ok {
					return
				}
				i = len(a.each)
			}
		}
	}
}

// ask runs one query, in either protocol, and reports whether all is as it should be, and whether the query was cancelled.
func (a *actor) ask(t *testing.T, sql string) (ok, cancelled bool) {
	done := a.done.Load()
	var err error
	if a.random.IntN(2) == 0 && !strings.Contains(sql, ";") {
		_, err = a.conn.ExecParams(context.Background(), sql, nil, nil, nil, nil).Close()
	} else {
		_, err = a.conn.Exec(context.Background(), sql).ReadAll()
	}
	a.asked++
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		return true, false
	case errors.As(err, &pgErr) && pgErr.Code == "57014" && a.begun.Load() > done: // there was a request that was not over when the query began
		if strings.HasPrefix(pgErr.Detail, "not executed") {
			a.waiting++
		} else {
			a.running++
		}
		return true, true
	}
	t.Errorf("%s: query %d, %s: %v", a.name, a.asked, sql, err)
	return false, false
}

// What weir itself puts ahead of a client's statement is not what the client wants cancelled: the request waits until the statement
// runs.
func TestACancelRequestNeverHitsWhatWeirPutAhead(t *testing.T) {
	answer, cancelled := make(chan struct{}), make(chan struct{})
	fake := pgtest.ServeEach(t, func(int) pgtest.Script {
		return pgtest.Script{
			pgtest.AcceptStartup(), pgtest.Expect("Q"), pgtest.WaitFor(answer), pgtest.Send(&pgproto3.CommandComplete{CommandTag: []byte("BEGIN")}, &pgproto3.ReadyForQuery{TxStatus: 'T'}),
			pgtest.Expect("Q"), pgtest.WaitFor(cancelled), pgtest.SendBytes(pgtest.Reply(1)), pgtest.AnswerQueries(pgtest.Reply(1)),
		}
	})
	w := start(t, settings{upstream: fake.DSN(), servers: 1})
	c := w.client()
	c.Query("BEGIN")
	c.Send(query("SELECT 1"))
	w.eventually("BEGIN runs", func() bool { return w.servers("used") == 1 })
	var asking gosync.WaitGroup
	asking.Go(func() { w.send(t, cancelPacket(c.PID, c.Secret)) })
	time.Sleep(20 * time.Millisecond) // it must not come, however long that takes
	if n := fake.Cancels(); n != 0 {
		t.Errorf("%d cancel requests have come while BEGIN runs", n)
	}
	close(answer)
	fake.AwaitCancel(1)
	close(cancelled)
	asking.Wait()
	c.UntilReady(1)
}

// Traps 13 and 40: a client that asks again and again does not make as many connections to the server.
func TestManyCancelRequestsAtOnce(t *testing.T) {
	stuck := make(chan struct{})
	fake := pgtest.ServeEach(t, func(int) pgtest.Script {
		return pgtest.Script{pgtest.AcceptStartup(), pgtest.Expect("Q"), pgtest.WaitFor(stuck), pgtest.SendBytes(pgtest.Reply(1)), pgtest.AnswerQueries(pgtest.Reply(1))}
	})
	w := start(t, settings{upstream: fake.DSN(), servers: 1})
	c := w.client()
	c.Send(&pgproto3.Query{String: "SELECT 1"})
	w.eventually("the query runs", func() bool { return w.servers("used") == 1 })
	var asking gosync.WaitGroup
	for range 50 {
		asking.Go(func() { w.send(t, cancelPacket(c.PID, c.Secret)) })
	}
	asking.Wait()
	fake.AwaitCancel(1)
	close(stuck)
	c.UntilReady(1)
	c.Query("SELECT 1")
}

// The key of a session names the weir that the session lives on: another weir that gets the request knows whose it is.
func TestCancelKeysNameTheWeir(t *testing.T) {
	pgtest.Shared(t)
	seen := map[uint32]bool{}
	for _, number := range []uint16{0, 5, 1023} {
		w := start(t, settings{number: number})
		for range 20 {
			pid := w.pgconn().PID()
			if got := uint16(pid >> 21); got != number || seen[pid] || pid == 0 {
				t.Fatalf("the key %d names weir %d, want %d", pid, got, number)
			}
			seen[pid] = true
		}
	}
	if a, b := postgres.NumberOf("weir-1"), postgres.NumberOf("weir-2"); a == b || a > 1023 || b > 1023 || a != postgres.NumberOf("weir-1") {
		t.Errorf("weir-1 is %d, weir-2 is %d", a, b)
	}
}
