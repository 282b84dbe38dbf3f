package postgres_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	gosync "sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/pool"
	"github.com/weirproxy/weir/proxy/postgres"
)

// tortureTime is how long clients do their worst: an hour for make torture (WEIR_TORTURE=1h).
func tortureTime(t *testing.T) time.Duration {
	text := os.Getenv("WEIR_TORTURE")
	if text == "" {
		return 4 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("WEIR_TORTURE=%s: expected a duration such as 1h", text)
	}
	return d
}

// Clients that die, stall, flood, do not read, cancel and come back, at random, against a server whose processes are stopped and ended and
// that is restarted: afterwards the budget, the slots, goroutines, descriptors and memory are where they began, and everybody is served.
func TestTorture(t *testing.T) {
	const budget, clients = 4, 24
	length := tortureTime(t)
	pg := pgtest.Start(t, pgtest.Config{MaxConnections: 40})
	pgtest.NoLeaks(t)
	w := start(t, settings{
		upstream: pg.DSN(), servers: budget, softPins: true, pinned: 1, queue: limiter.Queue{Wait: 300 * time.Millisecond},
		clientText: 1 << 20, userText: 4 << 20, limits: postgres.Limits{Unauthenticated: 20, LoginTimeout: 2 * time.Second},
		pool: pool.Config{ServerLifetime: 2 * time.Second, Connect: time.Second},
		timeouts: postgres.Timeouts{
			Query: 500 * time.Millisecond, ClientStall: 200 * time.Millisecond, IdleInTransaction: 300 * time.Millisecond, ClientIdle: time.Second,
		},
		breaker: breaker.New(database, breaker.Config{Failures: 5, Cooldown: 100 * time.Millisecond, MaxCooldown: 300 * time.Millisecond}, nil),
	})
	memory := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := memory()
	ctx, stop := context.WithTimeout(t.Context(), length)
	defer stop()
	var all gosync.WaitGroup
	var done atomic.Int64
	for i := range clients {
		random := rand.New(rand.NewPCG(uint64(i), 1))
		all.Go(func() {
			for ctx.Err() == nil {
				tortureOnce(ctx, w, random)
				done.Add(1)
			}
		})
	}
	all.Go(func() { tortureServer(ctx, t, pg) })
	all.Wait()
	t.Logf("%d clients came and went; %+v", done.Load(), w.Stats().Resources[0].Stalls)

	w.eventually("everybody is gone", func() bool {
		s := w.Stats().Clients
		return s["login"]+s["idle"]+s["active"]+s["waiting"] == 0
	})
	w.eventually("the budget is where it began", func() bool {
		return w.servers("used")+w.servers("dialing")+w.servers("closing") == 0 && w.servers("idle") <= budget
	})
	w.eventually("everybody is served", func() bool { return w.tryPgconn(t, "") == nil })
	w.eventually("all slots are there", func() bool { // not at once: some stay with the short statements that came a moment ago
		return allAtOnce(w, w.Stats().Resources[0].Limit)
	})
	if n := w.Stats().Panics; n > 0 {
		t.Errorf("%d panics", n)
	}
	if after := memory(); after > before+64<<20 {
		t.Errorf("%d MB are used where it were %d MB", after>>20, before>>20)
	}
}

// allAtOnce reports whether so many clients can each be in a transaction at the same time.
func allAtOnce(w *weir, clients int) bool {
	for range clients {
		c := w.client()
		defer c.Close()
		if c.Query("BEGIN"); lastError(c.Query("SELECT 1")) != "" {
			return false
		}
	}
	return true
}

// tortureOnce is one client, from its connecting to its end.
func tortureOnce(ctx context.Context, w *weir, random *rand.Rand) {
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
	if random.IntN(10) == 0 { // a login that stalls
		_, _ = conn.Write(good[:random.IntN(len(good))])
		rest(ctx, random, 300)
		return
	}
	if _, err := conn.Write(good); err != nil {
		return
	}
	reads := random.IntN(4) > 0
	if reads {
		go func() {
			b := make([]byte, 32<<10)
			for {
				if _, err := conn.Read(b); err != nil {
					return
				}
			}
		}()
	}
	insert := batchOf("SELECT pg_sleep(0.002)")
	things := [][]byte{
		pgtest.Encode(query("SELECT 1")), pgtest.Encode(query("BEGIN")), pgtest.Encode(query("COMMIT")), pgtest.Encode(query("SELECT 1/0")),
		pgtest.Encode(insert...), pgtest.Encode(insert[:2]...), pgtest.Encode(synchronize), pgtest.Encode(flush), pgtest.Encode(query("LISTEN x")),
		pgtest.Encode(query("SELECT repeat('x', 1000) FROM generate_series(1, 5000)")), pgtest.Encode(query("SELECT pg_sleep(2)")),
		pgtest.Encode(query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 1000)) TO STDOUT")), pgtest.Encode(query("CREATE TEMP TABLE IF NOT EXISTS tt (v text)")),
		pgtest.Encode(query("COPY tt FROM STDIN")), pgtest.Encode(data("x\n")), pgtest.Encode(copyDone), pgtest.Encode(query("SET work_mem = '1MB'")),
		pgtest.Encode(query("SELECT pg_terminate_backend(pg_backend_pid())")), pgtest.Encode(parse(fmt.Sprint("s", random.IntN(100)), fmt.Sprintf("SELECT %d", random.IntN(1000)))),
		pgtest.Encode(query("SELECT pg_advisory_lock(7)")), pgtest.Encode(query("DISCARD ALL")), pgtest.Encode(terminate),
	}
	for range random.IntN(12) {
		if ctx.Err() != nil {
			return
		}
		thing := things[random.IntN(len(things))]
		if random.IntN(12) == 0 { // part of it
			thing = thing[:random.IntN(len(thing))]
		}
		times := 1
		if random.IntN(20) == 0 {
			times = 500
		}
		for range times {
			if _, err := conn.Write(thing); err != nil {
				return
			}
		}
		if random.IntN(3) == 0 {
			rest(ctx, random, 50)
		}
	}
	if random.IntN(5) == 0 {
		rest(ctx, random, 600) // stalls
	}
	if random.IntN(2) == 0 {
		_ = conn.(*net.TCPConn).SetLinger(0) // RST
	}
}

func rest(ctx context.Context, random *rand.Rand, most int) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(random.IntN(most)) * time.Millisecond):
	}
}

// tortureServer stops some of the server's processes for a while, ends others, and restarts it now and then.
func tortureServer(ctx context.Context, t *testing.T, pg *pgtest.Postgres) {
	random := rand.New(rand.NewPCG(0, 2))
	for n := 0; ctx.Err() == nil; n++ {
		rest(ctx, random, 400)
		if n%10 == 9 {
			if err := pg.Restart(pgtest.Fast + pgserver.Mode(random.IntN(2))); err != nil {
				t.Error(err)
				return
			}
			continue
		}
		rows, err := pg.Query(ctx, "SELECT pid FROM pg_stat_activity WHERE usename = 'app' AND backend_type = 'client backend' LIMIT 2")
		if err != nil {
			continue
		}
		for _, row := range rows {
			pid := 0
			if _, err := fmt.Sscan(row[0], &pid); err != nil || pid <= 1 {
				continue
			}
			switch random.IntN(4) {
			case 0:
				_ = syscall.Kill(pid, syscall.SIGSTOP)
				rest(ctx, random, 300)
				_ = syscall.Kill(pid, syscall.SIGCONT)
			case 1:
				_ = syscall.Kill(pid, syscall.SIGTERM)
			}
		}
	}
}
