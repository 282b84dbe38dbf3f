package postgres_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	gosync "sync" // sync is a message here: see compare_test.go
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgtest"
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
// server connection next.
func TestACancelRequestNeverHitsAnotherClient(t *testing.T) {
	pgtest.Shared(t)
	for _, servers := range []int{1, 2} {
		t.Run(fmt.Sprint(servers, " servers"), func(t *testing.T) {
			pgtest.NoLeaks(t)
			cancelStorm(t, start(t, settings{servers: servers}), 2*time.Second)
		})
	}
}

// Traps 7 and 38 with keys of 32 bytes on both sides.
func TestACancelRequestNeverHitsAnotherClientOfPostgreSQL18(t *testing.T) {
	pg := pgtest.Shared18(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1, upstream: pg.DSN() + "&max_protocol_version=3.2"})
	c := pgtest.ConnectVersion(t, w.dsn(), v32)
	c.Send(&pgproto3.Query{String: "SELECT pg_sleep(60)"})
	awaitSleep(t, pg)
	c.Cancel()
	if got := lastError(c.UntilReady(1)); got != "57014" {
		t.Fatalf("ended with %q", got)
	}
	c.Close()
	cancelStorm(t, w, 1500*time.Millisecond)
}

// cancelStorm lets some clients be cancelled around the end of their queries while others, innocent, share their servers.
func cancelStorm(t *testing.T, w *weir, length time.Duration) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), length)
	defer stop()
	var clients gosync.WaitGroup
	var innocent, hit, missed atomic.Int64
	for range 3 {
		clients.Go(func() { innocent.Add(beInnocent(t, w, ctx)) })
	}
	for range 4 {
		clients.Go(func() {
			h, m := beCancelled(t, w, ctx)
			hit.Add(h)
			missed.Add(m)
		})
	}
	clients.Wait()
	t.Logf("%d innocent queries; %d cancelled, %d requests came too late", innocent.Load(), hit.Load(), missed.Load())
	if innocent.Load() < 30 || hit.Load() < 5 || missed.Load() < 5 {
		t.Error("that was no storm")
	}
	w.eventually("all servers are back", func() bool { return w.servers("used") == 0 && w.servers("closing") == 0 })
}

// beInnocent asks questions that nobody cancels and returns how many were answered.
func beInnocent(t *testing.T, w *weir, ctx context.Context) (n int64) {
	conn, err := pgconn.Connect(context.Background(), w.dsn())
	if err != nil {
		t.Error(err)
		return 0
	}
	defer conn.Close(context.Background())
	for ; ctx.Err() == nil; n++ {
		sql := "SELECT pg_sleep(0)"
		if n%2 == 1 {
			sql = "SELECT count(*) FROM generate_series(1, 2000)"
		}
		if _, err := conn.Exec(context.Background(), sql).ReadAll(); err != nil {
			t.Errorf("an innocent client's query %d: %v", n, err)
			return n
		}
	}
	return n
}

// beCancelled cancels its own short queries about when they end. Its next query, right behind, must not be hit either.
func beCancelled(t *testing.T, w *weir, ctx context.Context) (hit, missed int64) {
	conn, err := pgconn.Connect(context.Background(), w.dsn())
	if err != nil {
		t.Error(err)
		return 0, 0
	}
	defer conn.Close(context.Background())
	for ctx.Err() == nil {
		var cancelling gosync.WaitGroup
		pause := time.Duration(rand.IntN(2500)) * time.Microsecond
		cancelling.Go(func() {
			time.Sleep(pause) // a storm has no plan
			if err := conn.CancelRequest(context.Background()); err != nil {
				t.Error(err)
			}
		})
		_, err := conn.Exec(context.Background(), "SELECT pg_sleep(0.001)").ReadAll()
		cancelling.Wait()
		switch sqlstate(err) {
		case "57014":
			hit++
		case "":
			missed++
			if err != nil {
				t.Error(err)
				return hit, missed
			}
		default:
			t.Error(err)
			return hit, missed
		}
		// The request is over, so nothing of it may come any more.
		if _, err := conn.Exec(context.Background(), "SELECT 1").ReadAll(); err != nil {
			t.Errorf("the query after a cancel request: %v", err)
			return hit, missed
		}
	}
	return hit, missed
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
