package postgres_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/proxy/postgres"
)

// ways in which a client may be gone.
var ways = map[string]func(*pgtest.Client){
	"FIN":       (*pgtest.Client).Close,
	"RST":       (*pgtest.Client).Abort,
	"Terminate": func(c *pgtest.Client) { c.Send(terminate); c.Close() },
}

// one returns the first column of the only row.
func one(t *testing.T, answer []pgtest.Message) string {
	t.Helper()
	rows := pgtest.Rows(answer)
	if len(rows) != 1 {
		t.Fatalf("not one row: %v", answer)
	}
	return rows[0]
}

func backend(t *testing.T, c *pgtest.Client) string {
	t.Helper()
	return one(t, c.Query("SELECT pg_backend_pid()"))
}

// left makes an empty table that a client who leaves may have written into, and a connection straight to the server.
func left(t *testing.T) *pgtest.Client {
	t.Helper()
	direct := pgtest.Connect(t, pgtest.Shared(t).DSN())
	direct.Query("DROP TABLE IF EXISTS left_behind; CREATE TABLE left_behind (v text)")
	return direct
}

// awaitState waits until the server process is in one of these states of pg_stat_activity, and returns it.
func awaitState(t *testing.T, direct *pgtest.Client, pid string, states ...string) string {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		got := pgtest.Rows(direct.Query("SELECT state || ' ' || coalesce(wait_event, '') FROM pg_stat_activity WHERE pid = " + pid))
		for _, state := range states {
			if len(got) == 1 && strings.HasPrefix(got[0], state) {
				return state
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("server process %s is %q, not %q", pid, got, states)
		}
	}
}

// Trap 36: whoever leaves while waiting is out of the queue at once, and what it asked is never executed.
func TestAClientThatLeavesWhileWaitingLeavesTheQueue(t *testing.T) {
	direct := left(t)
	pgtest.NoLeaks(t)
	for name, leave := range ways {
		t.Run(name, func(t *testing.T) {
			w := start(t, settings{servers: 1, queue: limiter.Queue{Wait: time.Minute}})
			holder := w.client()
			holder.Query("BEGIN; SELECT 1")
			var waiting []*pgtest.Client
			for range 3 {
				c := w.client()
				c.Send(query("INSERT INTO left_behind VALUES ('waited')"))
				waiting = append(waiting, c)
			}
			w.eventually("three wait", func() bool { return w.Stats().Resources[0].Waiting == 3 })
			leave(waiting[1])
			w.eventually("two wait", func() bool { return w.Stats().Resources[0].Waiting == 2 })
			leave(waiting[0])
			leave(waiting[2])
			w.eventually("nobody waits", func() bool { return w.Stats().Resources[0].Waiting == 0 })
			holder.Query("COMMIT")
			if got := one(t, direct.Query("SELECT count(*) FROM left_behind")); got != "0" {
				t.Errorf("%s rows were written by clients that had left", got)
			}
			w.eventually("the server connection is free", func() bool { return w.servers("idle") == 1 })
		})
	}
}

// Trap 36, 44, 29: whoever leaves in the middle leaves a clean server connection, and nothing that was not committed.
func TestAClientThatLeavesInTheMiddleLeavesACleanServer(t *testing.T) {
	direct := left(t)
	direct.Query("CREATE OR REPLACE VIEW endless AS SELECT repeat('x', 1000) FROM generate_series(1, 2000000)")
	const insert = "INSERT INTO left_behind VALUES ('uncommitted')"
	insertBatch := []frontend{parse("", insert), bind("", ""), execute("", 0)}
	tests := map[string]struct {
		state string // of the server process, to be awaited before leaving
		do    []exchange
	}{
		"idle":                                {"idle", []exchange{ready(1, query("SELECT 1"))}},
		"while a query runs":                  {"active PgSleep", []exchange{sent(query("SELECT pg_sleep(60)"))}},
		"while a query runs in a transaction": {"active PgSleep", []exchange{ready(1, query("BEGIN; "+insert)), sent(query("SELECT pg_sleep(60)"))}},
		"while a batch runs":                  {"active PgSleep", []exchange{sent(parse("", "SELECT pg_sleep(60)"), bind("", ""), execute("", 0), synchronize)}},
		"while a batch without sync runs":     {"active PgSleep", []exchange{sent(append(insertBatch[:3:3], parse("", "SELECT pg_sleep(60)"), bind("", ""), execute("", 0), flush)...)}},
		"while one of many queries runs":      {"active PgSleep", []exchange{sent(query("SELECT 1"), query("SELECT pg_sleep(60)"), query("SELECT 2"), query("SELECT 3"))}},
		"in a transaction":                    {"idle in transaction", []exchange{ready(1, query("BEGIN")), ready(1, query(insert))}},
		"in a failed transaction":             {"idle in transaction (aborted)", []exchange{ready(1, query("BEGIN; "+insert)), ready(1, query("SELECT 1/0"))}},
		"in a transaction in batches":         {"idle in transaction", []exchange{ready(1, parse("", "BEGIN"), bind("", ""), execute("", 0), synchronize), ready(1, append(insertBatch[:3:3], synchronize)...)}},
		"between execute and sync":            {"active ClientRead", []exchange{flushed(1, 'C', append(insertBatch[:3:3], flush)...)}},
		"between parse and sync":              {"active ClientRead", []exchange{flushed(1, '1', parse("s", insert), flush)}},
		"between an error and sync":           {"active ClientRead", []exchange{flushed(1, 'E', append(insertBatch[:3:3], bind("", "unknown"))...)}},
		"in the middle of rows in portions":   {"active ClientRead", []exchange{flushed(1, 's', parse("", "SELECT * FROM endless"), bind("", ""), execute("", 10), flush)}},
		"in COPY IN":                          {"active ClientRead", []exchange{flushed(1, 'G', query("COPY left_behind FROM STDIN")), sent(data("uncommitted\n"))}},
		"in COPY IN, in a transaction":        {"active ClientRead", []exchange{ready(1, query("BEGIN")), flushed(1, 'G', query("COPY left_behind FROM STDIN")), sent(data("uncommitted\n"))}},
		"in COPY IN, extended":                {"active ClientRead", []exchange{flushed(1, 'G', parse("", "COPY left_behind FROM STDIN"), bind("", ""), execute("", 0), synchronize), sent(data("uncommitted\n"))}},
		"in COPY IN, extended, flushed":       {"active ClientRead", []exchange{flushed(1, 'G', parse("", "COPY left_behind FROM STDIN"), bind("", ""), execute("", 0), flush), sent(data("uncommitted\n"))}},
		"in COPY OUT":                         {"active", []exchange{flushed(1, 'd', query("COPY (SELECT * FROM endless) TO STDOUT"))}},
		"in the middle of rows":               {"active", []exchange{flushed(1, 'D', query("SELECT * FROM endless"))}},
		"in the middle of a row":              {"active", []exchange{flushed(1, 'T', query("SELECT repeat('x', 100000000)"))}},
		"with session state":                  {"idle", []exchange{ready(1, query("SET work_mem = '5MB'"))}},
	}
	pgtest.NoLeaks(t)
	for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Session} {
		w := start(t, settings{servers: 1, mode: mode})
		for name, test := range tests {
			for way, leave := range ways {
				if way == "Terminate" && strings.Contains(test.state, "PgSleep") {
					continue // what was asked before goodbye is done
				}
				if mode == postgres.Session && way != "FIN" {
					continue // nothing new
				}
				t.Run(fmt.Sprint(mode, "/", name, "/", way), func(t *testing.T) {
					c := w.client()
					pid := backend(t, c)
					scenario{script: test.do}.run(c, func([]pgtest.Message) {})
					awaitState(t, direct, pid, test.state)
					leave(c)
					next := w.client()
					began := time.Now()
					if got := backend(t, next); got != pid {
						t.Errorf("server process %s is replaced by %s", pid, got)
					}
					if took := time.Since(began); took > 4*time.Second {
						t.Errorf("the next client waited %v", took)
					}
					if got := one(t, next.Query("SELECT count(*) FROM left_behind")); got != "0" {
						t.Errorf("%s uncommitted rows", got)
						direct.Query("TRUNCATE left_behind")
					}
					if got := one(t, next.Query("SHOW work_mem")); got != "4MB" {
						t.Errorf("work_mem = %s is left", got)
					}
					next.Send(terminate)
					next.UntilClosed()
				})
			}
		}
	}
}

// Trap 29: the client may be gone before the server asks for the data.
func TestAClientThatLeavesBeforeCopyBeginsLeavesACleanServer(t *testing.T) {
	direct := left(t)
	w := start(t, settings{servers: 1, loops: 1}) // so that who comes next is heard next
	for name, messages := range map[string][]frontend{
		"simple":            {query("SELECT pg_sleep(0.03); COPY left_behind FROM STDIN")},
		"extended":          {parse("", "SELECT pg_sleep(0.03)"), bind("", ""), execute("", 0), parse("", "COPY left_behind FROM STDIN"), bind("", ""), execute("", 0), synchronize},
		"extended, no sync": {parse("", "SELECT pg_sleep(0.03)"), bind("", ""), execute("", 0), parse("", "COPY left_behind FROM STDIN"), bind("", ""), execute("", 0)},
	} {
		t.Run(name, func(t *testing.T) {
			c := w.client()
			pid := backend(t, c)
			c.Send(messages...)
			c.Send(terminate) // so that nothing is cancelled
			c.Close()
			next := w.client()
			if got := backend(t, next); got != pid {
				t.Errorf("server process %s is replaced by %s", pid, got)
			}
			next.Close()
		})
	}
	if got := one(t, direct.Query("SELECT count(*) FROM left_behind")); got != "0" {
		t.Errorf("%s uncommitted rows", got)
	}
}

// In the middle of a frame nothing can be said to the server any more: it is closed, and the place is free.
func TestAClientThatLeavesWithinAMessageCostsTheServer(t *testing.T) {
	direct := left(t)
	pgtest.NoLeaks(t)
	long := pgtest.Encode(query("INSERT INTO left_behind VALUES ('" + strings.Repeat("x", 200<<10) + "')"))
	for way, leave := range ways {
		if way == "Terminate" {
			continue
		}
		for name, wire := range map[string][]byte{
			"a query":       long[:100<<10],
			"a long header": pgtest.Encode(&pgproto3.Parse{Name: "s", Query: "SELECT 1"})[:8],
			"copy data":     append(pgtest.Encode(query("COPY left_behind FROM STDIN")), pgtest.Encode(data("uncommitted\n"))[:10]...),
			"a bind":        append(pgtest.Encode(parse("", "SELECT $1")), pgtest.Encode(bindTo("", strings.Repeat("x", 30<<10)))[:25<<10]...),
		} {
			t.Run(name+"/"+way, func(t *testing.T) {
				w := start(t, settings{servers: 1})
				c := w.client()
				c.Query("BEGIN; SELECT 1")
				c.SendBytes(wire)
				leave(c)
				next := w.client()
				if got := one(t, next.Query("SELECT count(*) FROM left_behind")); got != "0" {
					t.Errorf("%s rows", got)
				}
				w.eventually("one server connection is there", func() bool { return w.servers("idle") == 1 && w.servers("closing") == 0 })
			})
		}
	}
	_ = direct
}

// What a client asked for before it said goodbye is done, even if it does not wait for the answer.
func TestWhatIsAskedBeforeTerminateIsDone(t *testing.T) {
	direct := left(t)
	w := start(t, settings{servers: 1, loops: 1}) // so that who comes next is heard next
	for name, messages := range map[string][]frontend{
		"query":    {query("SELECT pg_sleep(0.2)"), query("INSERT INTO left_behind VALUES ('asked')")},
		"batch":    {parse("", "INSERT INTO left_behind SELECT 'asked' FROM pg_sleep(0.2)"), bind("", ""), execute("", 0), synchronize},
		"copy":     {query("COPY left_behind FROM STDIN"), data("asked\n"), copyDone},
		"function": {query("SELECT pg_sleep(0.1)"), query("BEGIN; INSERT INTO left_behind VALUES ('asked'); COMMIT")},
	} {
		t.Run(name, func(t *testing.T) {
			direct.Query("TRUNCATE left_behind")
			c := w.client()
			pid := backend(t, c)
			c.Send(append(messages, terminate)...)
			c.Close()
			next := w.client()
			if got := backend(t, next); got != pid {
				t.Errorf("server process %s is replaced by %s", pid, got)
			}
			if got := one(t, next.Query("SELECT count(*) FROM left_behind")); got != "1" {
				t.Errorf("%s rows, want 1", got)
			}
			next.Close()
		})
	}
}

// heap is how much memory is in use, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

// Trap 35: who does not read its answers stops its own server, and nobody else.
func TestASlowReaderStopsOnlyItsServer(t *testing.T) {
	direct := left(t)
	direct.Query("CREATE OR REPLACE VIEW endless AS SELECT repeat('x', 1000) FROM generate_series(1, 2000000)")
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 2, loops: 1})
	slow, other := w.client(), w.client()
	other.Query("BEGIN; SELECT 1") // keeps a server connection of its own
	pid := backend(t, slow)
	before := heap()
	slow.Send(query("SELECT * FROM endless")) // two gigabytes
	awaitState(t, direct, pid, "active ClientWrite")
	for range 200 {
		other.Query("SELECT 1")
	}
	awaitState(t, direct, pid, "active ClientWrite")
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("a slow reader costs %d bytes", grown)
	}
	slow.Abort()
	other.Query("COMMIT")
	w.eventually("both server connections are free", func() bool { return w.servers("idle") == 2 })
	next, second := w.client(), w.client()
	next.Query("BEGIN; SELECT 1")
	pids := []string{backend(t, next), backend(t, second)}
	if pids[0] != pid && pids[1] != pid {
		t.Errorf("server process %s is replaced: %v", pid, pids)
	}
}

// Trap 35: a client that sends without reading blocks both directions; when it reads, all goes on.
func TestBothDirectionsMayBlockWithoutADeadlock(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1})
	c := w.client()
	const size, batches = 50 << 10, 1000 // 50 MB each way
	c.Send(parse("echo", "SELECT $1"), synchronize)
	c.UntilReady(1)
	batch := pgtest.Encode(bindTo("echo", strings.Repeat("x", size)), execute("", 0), synchronize)
	before := heap()
	conn := c.Conn()

	// It sends until it is stuck, without reading.
	sentBatches, part := 0, 0
	for {
		_ = conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := conn.Write(batch[part:])
		if part += n; part == len(batch) {
			sentBatches, part = sentBatches+1, 0
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if sentBatches == batches {
			t.Fatal("50 MB went nowhere: nothing stops the client")
		}
	}
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("stuck after %d batches, weir holds %d bytes", sentBatches, grown)
	}

	// Then it reads, while it sends the rest.
	wrote := make(chan error, 1)
	go func() {
		_ = conn.SetWriteDeadline(time.Time{})
		_, err := conn.Write(batch[part:])
		for i := sentBatches + 1; i < batches && err == nil; i++ {
			_, err = conn.Write(batch)
		}
		wrote <- err
	}()
	seen := make([]byte, 64<<10)
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	var total int64
	want := int64(batches) * int64(len(pgtest.Encode(&pgproto3.BindComplete{}))+len(pgtest.Encode(&pgproto3.DataRow{Values: [][]byte{make([]byte, size)}}))+
		len(pgtest.Encode(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}))+len(pgtest.Encode(&pgproto3.ReadyForQuery{TxStatus: 'I'})))
	for total < want {
		n, err := conn.Read(seen)
		total += int64(n)
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", total, want, err)
		}
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	w.eventually("the server connection is free", func() bool { return w.servers("idle") == 1 })
	if got := one(t, c.Query("SELECT 'and on'")); got != "and on" {
		t.Errorf("then: %q", got)
	}
}

// A client that is told to go, and does not read, is not waited for.
func TestLastWordsToADeafClientAreNotWaitedFor(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1, timeouts: postgres.Timeouts{ClientIdle: 50 * time.Millisecond}})
	c := w.client()
	w.eventually("it is gone", func() bool { return w.Stats().Clients["idle"]+w.Stats().Clients["active"] == 0 })
	got := c.UntilClosed()
	if len(got) != 1 || got[0].Field('C') != "57P05" {
		t.Errorf("received %v, want 57P05", got)
	}
	if _, err := c.Conn().Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		t.Errorf("then %v", err)
	}
}

// Trap 35: the end of an answer reaches a client that reads it late, though the server has nothing more to say. Answers grow
// until they no longer fit between the server and the client, so that for some of them it is only their end that does not.
func TestTheEndOfAnAnswerReachesASlowReader(t *testing.T) {
	watcher := pgtest.Connect(t, pgtest.Shared(t).DSN())
	pgtest.NoLeaks(t)
	w := start(t, settings{mode: postgres.Session, servers: 1, sendBuffer: 64 << 10})
	c := w.client()
	if err := c.Conn().(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	pid := backend(t, c)
	const (
		step    = 24 << 10 // less than what is read of a server at once
		said    = "idle ClientRead"
		blocked = "active ClientWrite"
	)
	for size := 8 * step; ; size += step {
		c.Send(query(fmt.Sprintf("SELECT repeat('x', %d)", size)))
		state := awaitState(t, watcher, pid, said, blocked)
		if got := len(one(t, c.UntilReady(1))); got != size {
			t.Fatalf("%d bytes arrive of %d", got, size)
		}
		if state == blocked {
			return
		}
		if size > 64<<20 {
			t.Fatal("the server never had to wait for its client")
		}
	}
}

// A client that leaves behind a long line of statements leaves no process that executes them one after the other.
func TestALineOfStatementsIsNotExecutedForNobody(t *testing.T) {
	direct := left(t)
	pgtest.NoLeaks(t)
	for name, more := range map[string]string{"whole": "", "and part of a message": "Q\x00\x00\x01\x00SELECT"} {
		t.Run(name, func(t *testing.T) {
			w := start(t, settings{servers: 1, queue: limiter.Queue{Wait: 20 * time.Second}})
			c := w.client()
			pid := backend(t, c)
			c.SendBytes([]byte(strings.Repeat(string(pgtest.Encode(query("SELECT pg_sleep(2)"))), 300) + more))
			awaitState(t, direct, pid, "active PgSleep")
			c.Abort()
			began := time.Now()
			if got := one(t, w.client().Query("SELECT 1")); got != "1" {
				t.Errorf("the next one is told %q", got)
			}
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("the next one is served after %v", took)
			}
			w.eventually("the process is gone", func() bool {
				return len(pgtest.Rows(direct.Query("SELECT 1 FROM pg_stat_activity WHERE pid = "+pid))) == 0
			})
		})
	}
}
