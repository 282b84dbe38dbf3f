package postgres_test

import (
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// Relaying allocates nothing for a message, whichever way it goes. Weir runs in this process, the server does not, and the
// client here only writes and reads.
func TestRelayingAllocatesNothing(t *testing.T) {
	pgtest.Shared(t)
	named := []frontend{bindTo("statement_1", "one"), describe('P', ""), execute("", 0), synchronize}
	unnamed := append([]frontend{parse("", "SELECT $1::text")}, bindTo("", "one"), describe('P', ""), execute("", 0), synchronize)
	tests := map[string][]frontend{
		"a simple query":           {query("SELECT 1")},
		"a batch":                  unnamed,
		"a batch, prepared before": named,
		"a pipeline":               repeat(10, named...),
		"a long row":               {query("SELECT repeat('x', 100000)")},
		"many rows":                {query("SELECT repeat('x', 100) FROM generate_series(1, 700)")},
		"a long query":             {query("SELECT 1 /* " + strings.Repeat("x", 100_000) + " */")},
		"a transaction":            {query("BEGIN"), query("SELECT 1"), query("COMMIT")},
	}
	for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Session} {
		w := start(t, settings{mode: mode, servers: 1, loops: 1})
		for name, messages := range tests {
			t.Run(string(mode)+"/"+name, func(t *testing.T) {
				c := w.client()
				c.Send(parse("statement_1", "SELECT $1::text"), synchronize)
				c.UntilReady(1)
				ask := pgtest.Encode(messages...)
				answer := measure(t, c, ask, messages)
				conn, in := c.Conn(), make([]byte, answer)
				round := func() {
					if _, err := conn.Write(ask); err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadFull(conn, in); err != nil {
						t.Fatal(err)
					}
				}
				const warmUp, rounds, most = 30, 200, 20 // what tests and runtime allocate by the way
				for range warmUp {
					round()
				}
				if got := allocations(func() {
					for range rounds {
						round()
					}
				}); got > most {
					t.Errorf("%d rounds allocate %d times", rounds, got)
				}
				c.Send(terminate)
				awaitEnd(conn)
			})
		}
	}
}

// measure asks once and returns how many bytes the answer has.
func measure(t *testing.T, c *pgtest.Client, ask []byte, messages []frontend) (n int) {
	t.Helper()
	c.SendBytes(ask)
	readies := 0
	for _, m := range messages {
		if m == synchronize || isQuery(m) {
			readies++
		}
	}
	for _, m := range c.UntilReady(readies) {
		n += len(m.Body) + 5
	}
	return n
}

func isQuery(m frontend) bool {
	wire := pgtest.Encode(m)
	return wire[0] == 'Q'
}

func awaitEnd(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// allocations counts those of the whole process while f runs.
func allocations(f func()) uint64 {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs
}
