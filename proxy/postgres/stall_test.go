package postgres_test

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// cut is an exchange of which only the front is sent.
func cut(short int, messages ...frontend) exchange {
	wire := pgtest.Encode(messages...)
	return exchange{wire: wire[:len(wire)-short]}
}

// A client that stops in the middle of something keeps its server connection for client_stall and no longer, in whatever state it stops.
// What it began is rolled back, and it is told when it goes on.
func TestAClientThatStallsLosesItsServerConnection(t *testing.T) {
	direct := left(t)
	direct.Query("CREATE OR REPLACE VIEW endless AS SELECT repeat('x', 1000) FROM generate_series(1, 2000000)")
	const insert = "INSERT INTO left_behind VALUES ('stalled')"
	long := "SELECT '" + strings.Repeat("x", 20000) + "'"
	written := []frontend{parse("", insert), bind("", ""), execute("", 0)}
	tests := map[string]struct {
		reason  string
		replace bool // the server connection cannot be cleaned
		flushes bool
		do      []exchange
	}{
		"in a long Query":                    {"message", true, false, []exchange{cut(100, query(long))}},
		"in a long Parse":                    {"message", true, false, []exchange{cut(100, parse("", long))}},
		"in a header, in a block":            {"message", false, false, []exchange{ready(1, query("BEGIN; "+insert)), cut(10, query("SELECT 1"))}},
		"in a message, in a block":           {"message", true, false, []exchange{ready(1, query("BEGIN; "+insert)), cut(1, query("SELECT 1"))}},
		"in a message of a batch":            {"message", false, false, []exchange{sent(written...), cut(3, parse("", "SELECT 1"))}},
		"in a message, with what it keeps":   {"message", true, false, []exchange{ready(1, query("LISTEN x")), cut(1, query("SELECT 1"))}},
		"behind Parse":                       {"batch", false, false, []exchange{sent(parse("", insert))}},
		"behind Execute":                     {"batch", false, false, []exchange{sent(written...)}},
		"behind Execute and Flush":           {"batch", false, true, []exchange{flushed(1, 'C', append(written[:3:3], flush)...)}},
		"behind an error":                    {"batch", false, false, []exchange{flushed(1, 'E', append(written[:3:3], bind("", "unknown"))...)}},
		"between portions of rows":           {"batch", false, true, []exchange{flushed(1, 's', parse("", "SELECT * FROM endless"), bind("", ""), execute("", 10), flush)}},
		"in a batch, in a block":             {"batch", false, false, []exchange{ready(1, query("BEGIN; "+insert)), sent(parse("", "SELECT 1"))}},
		"before COPY data":                   {"copy", false, false, []exchange{flushed(1, 'G', query("COPY left_behind FROM STDIN"))}},
		"behind COPY data":                   {"copy", false, false, []exchange{flushed(1, 'G', query("COPY left_behind FROM STDIN")), sent(data("stalled\n"))}},
		"in COPY data":                       {"copy", true, false, []exchange{flushed(1, 'G', query("COPY left_behind FROM STDIN")), cut(1, data("stalled\n"))}},
		"before COPY data, extended":         {"copy", false, false, []exchange{flushed(1, 'G', parse("", "COPY left_behind FROM STDIN"), bind("", ""), execute("", 0), synchronize)}},
		"before COPY data, extended, no end": {"copy", false, false, []exchange{flushed(1, 'G', parse("", "COPY left_behind FROM STDIN"), bind("", ""), execute("", 0), flush)}},
		"not reading rows":                   {"reading", false, false, []exchange{sent(query("SELECT * FROM endless"))}},
		"not reading COPY data":              {"reading", false, false, []exchange{sent(query("COPY (SELECT * FROM endless) TO STDOUT"))}},
		"not reading a row":                  {"reading", false, false, []exchange{sent(query("SELECT repeat('x', 100000000)"))}},
		"not reading notices":                {"reading", false, false, []exchange{sent(query("DO $$ BEGIN FOR i IN 1..100000 LOOP RAISE NOTICE '%', repeat('x', 1000); END LOOP; END $$"))}},
		"not reading, and asking for more":   {"reading", false, false, []exchange{sent(query("SELECT * FROM endless"), query("SELECT 1"), query("SELECT * FROM endless"))}},
	}
	pgtest.NoLeaks(t)
	for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Session} {
		for name, test := range tests {
			if mode == postgres.Session && test.flushes { // whether the server has answered is not known, and the connection is the client's anyway
				continue
			}
			t.Run(fmt.Sprint(mode, "/", name), func(t *testing.T) {
				direct.Query("TRUNCATE left_behind")
				w := start(t, settings{servers: 1, mode: mode, timeouts: postgres.Timeouts{ClientStall: 150 * time.Millisecond}})
				before := w.Stats().Resources[0].Stalls[test.reason]
				c := w.client()
				pid := backend(t, c)
				scenario{script: test.do}.run(c, func([]pgtest.Message) {})
				w.eventually("it has stalled", func() bool { return w.Stats().Resources[0].Stalls[test.reason] > before })
				next := w.client()
				got := backend(t, next)
				if got != pid && !test.replace && (mode == postgres.Transaction || test.reason != "message") {
					t.Errorf("server process %s is replaced by %s", pid, got)
				}
				if n := w.Stats().Resources[0].Stalls[test.reason]; n != before+1 {
					t.Errorf("%d stalls of %s more, of all %v", n-before, test.reason, w.Stats().Resources[0].Stalls)
				}
				next.Close()
				if test.reason == "reading" {
					c.Close()
				} else {
					c.Send(query("SELECT 1"))
					if got := lastError(c.UntilClosed()); got != "25P03" {
						t.Errorf("the client that goes on is told %q", got)
					}
				}
				if got := one(t, direct.Query("SELECT count(*) FROM left_behind")); got != "0" {
					t.Errorf("%s rows were committed", got)
				}
				w.eventually("the server connection is free", func() bool { return w.servers("used") == 0 })
			})
		}
	}
}

// The front of a message takes no server connection: whoever sends no more keeps nobody waiting, for any time.
func TestTheFrontOfAMessageTakesNoServerConnection(t *testing.T) {
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1})
	for _, short := range []int{100, 19000, 19990} { // of 20 kB
		c := w.client()
		e := cut(short, parse("", "SELECT '"+strings.Repeat("x", 20000-16)+"'"))
		if short == 100 {
			e = cut(100, parse("", "SELECT '"+strings.Repeat("x", 16000-16)+"'"))
		}
		e.send(c, e.wire)
		if got := one(t, w.client().Query("SELECT 1")); got != "1" {
			t.Errorf("behind a message that lacks %d bytes, the next one is told %q", short, got)
		}
	}
}

// A client that goes on, slowly, is no stalled one; nor is one whose server is slow.
func TestAClientThatGoesOnKeepsItsServerConnection(t *testing.T) {
	direct := left(t)
	pgtest.NoLeaks(t)
	const limit = 300 * time.Millisecond
	for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Session} {
		w := start(t, settings{servers: 1, mode: mode, timeouts: postgres.Timeouts{ClientStall: limit}})
		c := w.client()
		c.Send(query("COPY left_behind FROM STDIN"))
		c.UntilType('G')
		for range 8 {
			time.Sleep(limit / 4) // of a client that is slow
			c.Send(data("slow\n"))
		}
		c.Send(copyDone)
		if got := lastError(c.UntilReady(1)); got != "" {
			t.Errorf("%s: slow COPY is told %s", mode, got)
		}
		for _, slow := range []exchange{
			ready(1, query("SELECT pg_sleep(0.7)")),
			ready(1, parse("", "SELECT pg_sleep(0.7)"), bind("", ""), execute("", 0), synchronize),
			flushed(1, 'C', parse("", "SELECT pg_sleep(0.7)"), bind("", ""), execute("", 0), flush),
			ready(1, synchronize),
		} {
			if got := lastError(slow.say(c, nil)); got != "" {
				t.Errorf("%s: a slow server: %s", mode, got)
			}
		}
		c.Close()
	}
	if got := one(t, direct.Query("SELECT count(*) FROM left_behind")); got != "16" {
		t.Errorf("%s rows", got)
	}
}

// Where a transaction may be idle for less time than a client may stall, a client that is silent in the middle of something has no more.
func TestAStallWithinATransactionIsBoundedByItsIdleTime(t *testing.T) {
	w := start(t, settings{servers: 1, timeouts: postgres.Timeouts{ClientStall: time.Hour, IdleInTransaction: 100 * time.Millisecond}})
	c := w.client()
	c.Send(parse("", "SELECT 1"))
	w.eventually("it has stalled", func() bool { return w.Stats().Resources[0].Stalls["batch"] == 1 })
	if got := one(t, w.client().Query("SELECT 1")); got != "1" {
		t.Errorf("the next one is told %q", got)
	}
}

// timeouts.query covers what waits for the client, too.
func TestAQueryTimeoutEndsAStall(t *testing.T) {
	left(t)
	pgtest.NoLeaks(t)
	for name, do := range map[string]exchange{
		"COPY":    flushed(1, 'G', query("COPY left_behind FROM STDIN")),
		"batch":   sent(parse("", "SELECT 1")),
		"reading": sent(query("SELECT repeat('x', 1000) FROM generate_series(1, 200000)")),
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, settings{servers: 1, timeouts: postgres.Timeouts{Query: 500 * time.Millisecond, ClientStall: time.Hour}})
			c := w.client()
			scenario{script: []exchange{do}}.run(c, func([]pgtest.Message) {})
			w.eventually("it has stalled", func() bool {
				for _, n := range w.Stats().Resources[0].Stalls {
					if n > 0 {
						return true
					}
				}
				return false
			})
			if got := one(t, w.client().Query("SELECT 1")); got != "1" {
				t.Errorf("the next one is told %q", got)
			}
			if name == "reading" {
				return
			}
			c.Send(query("SELECT 1"))
			if got := lastError(c.UntilClosed()); got != "57014" {
				t.Errorf("the client is told %q", got)
			}
		})
	}
}

// freeze stops a server process until the returned function is called.
func freeze(t *testing.T, pid string) (thaw func()) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	thaw = func() { _ = syscall.Kill(n, syscall.SIGCONT) }
	t.Cleanup(thaw)
	return thaw
}

// A server that does not even answer a cancel request does not keep its client waiting. Its process still counts against the budget, as
// it does against the server's own, until it is gone.
func TestAServerThatIsFrozenIsGivenUp(t *testing.T) {
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1, timeouts: postgres.Timeouts{Query: 100 * time.Millisecond}})
	for name, ask := range map[string][]frontend{
		"Query": {query("SELECT 1")},
		"batch": {parse("", "SELECT 1"), bind("", ""), execute("", 0), synchronize},
		"Flush": {parse("", "SELECT 1"), bind("", ""), execute("", 0), flush},
	} {
		t.Run(name, func(t *testing.T) {
			c := w.client()
			thaw := freeze(t, backend(t, c))
			began := time.Now()
			c.Send(ask...)
			if got := lastError(c.UntilClosed()); got != "57014" {
				t.Errorf("the client is told %q", got)
			}
			if waited := time.Since(began); waited > 5*time.Second {
				t.Errorf("it is told after %v", waited)
			}
			w.eventually("the connection is being closed", func() bool { return w.servers("closing") == 1 })
			if n := w.servers("used") + w.servers("idle"); n != 0 {
				t.Errorf("%d connections beside it", n)
			}
			thaw()
			w.eventually("it is closed", func() bool { return w.servers("closing") == 0 })
		})
	}
}
