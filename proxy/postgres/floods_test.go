package postgres_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
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
	set := func() string {
		var sql strings.Builder
		sql.WriteString("SELECT 1")
		for i := range 60 {
			fmt.Fprintf(&sql, ", length(set_config('flood.x%d', repeat('x', 12000) || %%[1]d, false))", i)
		}
		return sql.String()
	}()
	syncs := []byte(strings.Repeat(string(pgtest.Encode(synchronize)), 1000))
	queries := []byte(strings.Repeat(string(pgtest.Encode(query("x"))), 1000))
	type kind struct {
		rate        limiter.Rate
		bucket      limiter.Bucket
		first, then []frontend
		bytes       int
		reads       bool // the answers
		next        func(i int) []byte
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
		"Syncs while nobody knows what the server will answer": {bytes: 16 << 20, first: []frontend{query("CREATE TEMP TABLE flooded (a int)"), query("COPY flooded FROM STDIN")}, then: []frontend{parse("", "x")}, next: func(int) []byte {
			return syncs
		}},
		"ends of COPY data": {bytes: 16 << 20, first: []frontend{parse("", "SELECT 1")}, next: func(int) []byte {
			return []byte(strings.Repeat("c\x00\x00\x00\x04", 1000))
		}},
		"Queries that are refused to who keeps a server connection": {rate: limiter.Rate{PerSecond: 4, Burst: 1}, bucket: make(tokens, 1), bytes: 16 << 20, first: []frontend{query("LISTEN flood")}, next: func(int) []byte {
			return queries
		}},
		"settings": {bytes: 60 * 6 * kB, reads: true, next: func(i int) []byte {
			return pgtest.Encode(query(fmt.Sprintf(set, i)))
		}},
		"settings of many profiles": {bytes: 400 * 6 * kB, reads: true, next: func(i int) []byte {
			return pgtest.Encode(query(fmt.Sprintf(set[:len("SELECT 1, length(set_config('flood.x0', repeat('x', 12000) || %[1]d, false))")], i)))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, settings{servers: 2, clientText: 8 << 20, userText: 32 << 20, rate: k.rate, bucket: k.bucket})
			c := w.client()
			if b, ok := k.bucket.(tokens); ok {
				b <- struct{}{} // enough for what comes first
			}
			if k.first != nil {
				c.Send(k.first...)
				time.Sleep(100 * time.Millisecond)
				c.Send(k.then...)
				time.Sleep(100 * time.Millisecond)
			}
			if k.reads {
				go func() {
					for {
						m, err := c.Try()
						if m.Type == 'E' {
							t.Log(m)
						}
						if err != nil {
							return
						}
					}
				}()
			}
			before := heapInUse()
			began := time.Now()
			sent := flood(c, k.bytes, k.next)
			time.Sleep(100 * time.Millisecond)
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
