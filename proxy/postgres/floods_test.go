package postgres_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/proxy/postgres"
)

// heapInUse is how much memory is in use, in bytes.
func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// flood sends messages, of which next has the i-th, without reading, until so many bytes were taken or none have been for a while.
func flood(c *pgtest.Client, bytes int, next func(i int) []byte) (sent int) {
	for i := 0; sent < bytes; i++ {
		_ = c.Conn().SetWriteDeadline(time.Now().Add(time.Second))
		n, err := c.Conn().Write(next(i))
		if sent += n; errors.Is(err, os.ErrDeadlineExceeded) || err != nil {
			return sent
		}
	}
	return sent
}

// What a client makes weir keep is bounded, whatever it sends without reading, and others are served meanwhile.
func TestWhatAClientMakesWeirKeepIsBounded(t *testing.T) {
	pgtest.Shared(t)
	const (
		kB    = 1 << 10
		bound = 24 << 20
		much  = 96 << 20
	)
	long := strings.Repeat("x", 300*kB)
	set := func(parameters, value int) []byte { // each to 12 kB
		sql := "SELECT 1"
		for i := range parameters {
			sql += fmt.Sprintf(", length(set_config('flood.x%d', repeat('x', 12000) || %d, false))", i, value)
		}
		return pgtest.Encode(query(sql))
	}
	syncs := []byte(strings.Repeat(string(pgtest.Encode(synchronize)), 1000))
	queries := []byte(strings.Repeat(string(pgtest.Encode(query("x"))), 1000))
	portals := []frontend{parse("d", "DEALLOCATE x")}
	for i := range 300 { // more than are followed
		portals = append(portals, bind(fmt.Sprint("p", i), "d"))
	}
	type kind struct {
		rate   limiter.Rate
		bucket limiter.Bucket
		first  []frontend
		bytes  int
		reads  bool // the answers
		next   func(i int) []byte
	}
	for name, k := range map[string]kind{
		"long names": {bytes: much, reads: true, next: func(i int) []byte {
			return pgtest.Encode(parse(fmt.Sprint(i, long[:15*kB]), "SELECT 1"), synchronize)
		}},
		"long unnamed statements in one batch": {bytes: much, next: func(i int) []byte {
			return pgtest.Encode(parse("", fmt.Sprintf("SELECT %d /*%s*/", i, long)))
		}},
		"long statements that are closed again, in one batch": {bytes: much, next: func(i int) []byte {
			return pgtest.Encode(parse("s", fmt.Sprintf("SELECT %d /*%s*/", i, long)), closing('S', "s"))
		}},
		"long statements that fail": {bytes: much, next: func(i int) []byte {
			return pgtest.Encode(parse(fmt.Sprint(i), fmt.Sprintf("SELEC %d /*%s*/", i, long)), synchronize)
		}},
		"Syncs while nobody knows what the server will answer": {bytes: 64 << 20, first: portals, next: func(int) []byte {
			return syncs
		}},
		"ends of COPY data": {bytes: 16 << 20, first: []frontend{parse("", "SELECT 1")}, next: func(int) []byte {
			return []byte(strings.Repeat("c\x00\x00\x00\x04", 1000))
		}},
		"Queries that are refused to who keeps a server connection": {rate: limiter.Rate{PerSecond: 4, Burst: 1}, bucket: make(tokens, 1), bytes: 16 << 20, first: []frontend{query("LISTEN flood")}, next: func(int) []byte {
			return queries
		}},
		"settings":                           {bytes: 600 * kB, reads: true, next: func(i int) []byte { return set(60, i) }},
		"settings that are others each time": {bytes: 200 * kB, reads: true, next: func(i int) []byte { return set(3, i) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, settings{servers: 2, clientText: 8 << 20, userText: 32 << 20, rate: k.rate, bucket: k.bucket})
			c := w.client()
			if b, ok := k.bucket.(tokens); ok {
				b <- struct{}{} // enough for what comes first
			}
			if k.first != nil {
				c.Send(k.first...)
			}
			before := heapInUse()
			began := time.Now()
			sent := 0
			if k.reads {
				for i := 0; sent < k.bytes; i++ {
					wire := k.next(i)
					c.SendBytes(wire)
					c.UntilReady(1)
					sent += len(wire)
				}
			} else {
				sent = flood(c, k.bytes, k.next)
			}
			grown := heapInUse() - before
			t.Logf("sent %d kB in %v, grown by %d kB", sent>>10, time.Since(began), grown>>10)
			if grown > bound {
				t.Errorf("the heap has grown by %d kB", grown>>10)
			}
			if k.rate.PerSecond == 0 {
				if got := lastError(w.client().Query("SELECT 1")); got != "" {
					t.Errorf("another one is told %s", got)
				}
			}
		})
	}
}

// A batch that prepares and closes more and more leaves no more of that on the server than a few thousand statements.
func TestABatchThatPreparesWithoutEnd(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1})
	c := w.client()
	const many = 6000
	go func() {
		for i := range many {
			sql := fmt.Sprintf("SELECT %d", i)
			if i%200 == 199 {
				sql = fmt.Sprintf("SELECT count(*) - %d + %d FROM pg_prepared_statements", i, i)
			}
			c.Send(parse("s", sql), bind("", "s"), execute("", 0), closing('S', "s"))
		}
		c.Send(synchronize)
	}()
	answer := c.UntilReady(1)
	rows := pgtest.Rows(answer)
	if len(rows) != many || len(answer) != 5*many+1 {
		t.Fatalf("%d rows, %d messages", len(rows), len(answer))
	}
	most := 0
	for i := 199; i < many; i += 200 {
		n, err := strconv.Atoi(strings.Trim(rows[i], `[]"`))
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, n)
	}
	if most > 2100 {
		t.Errorf("%d statements are prepared on the server", most)
	}
}

// Ends of COPY data outside of a COPY are not answered; they keep nothing from going on.
func TestManyEndsOfCopyData(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Session} {
		w := start(t, settings{servers: 1, mode: mode})
		c := w.client()
		c.Send(parse("", "SELECT 1"))
		c.SendBytes([]byte(strings.Repeat("c\x00\x00\x00\x04", 20_000)))
		c.Send(bind("", ""), execute("", 0), synchronize)
		if got := pgtest.Types(c.UntilReady(1)); got != "12DCZ" {
			t.Errorf("%s: %s", mode, got)
		}
		// two that were sent ahead end one COPY each
		c.Query("CREATE TEMP TABLE copied (a int)")
		c.Send(query("COPY copied FROM STDIN; COPY copied FROM STDIN"))
		c.SendBytes([]byte(strings.Repeat("c\x00\x00\x00\x04", 2)))
		c.Send(query("SELECT 1"))
		if got := pgtest.Types(c.UntilReady(2)); got != "GCGCZTDCZ" {
			t.Errorf("%s: two COPYs: %s", mode, got)
		}
		c.Close()
	}
}
