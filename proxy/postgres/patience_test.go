package postgres_test

import (
	"fmt"
	gosync "sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/limiter"
)

// Clients that each ask anew when they have their answer wait for each other, and nobody is refused.
func TestACrowdIsServed(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	const clients, times = 80, 12
	for name, statement := range map[string]string{
		"quick":             "SELECT 1",
		"a few ms":          "SELECT pg_sleep(0.003)",
		"one row, a lock":   "SELECT pg_advisory_xact_lock(4711), pg_sleep(0.001)",
		"idle in a block":   "BEGIN; SELECT 1",
		"of another kind":   "SELECT %d, count(*) FROM generate_series(1, 100) AS kind_%d",
		"rarely a long one": "SELECT pg_sleep(CASE WHEN random() < 0.01 THEN 0.3 ELSE 0.001 END)",
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, settings{servers: 4, adaptive: limiter.Adaptive{Enabled: true}})
			var all gosync.WaitGroup
			for i := range clients {
				c := w.client()
				all.Go(func() {
					sql := statement
					if name == "of another kind" {
						sql = fmt.Sprintf(statement, i, i%7)
					}
					for n := range times {
						if got := c.Query(sql); lastError(got) != "" {
							t.Errorf("client %d, round %d: %v", i, n, got)
							return
						}
						if name == "idle in a block" {
							time.Sleep(2 * time.Millisecond)
							c.Query("COMMIT")
						}
					}
				})
			}
			all.Wait()
		})
	}
}

// How long clients wait is learnt from those that hang up, or cancel.
func TestHowLongClientsWaitIsLearnt(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	for name, end := range map[string]func(*pgtest.Client){
		"they hang up": func(c *pgtest.Client) { c.Abort() },
		"they cancel":  func(c *pgtest.Client) { c.Cancel(); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, settings{servers: 1, queue: limiter.Queue{Wait: 10 * time.Second}})
			if got := w.Stats().Resources[0].Patience; got != 10*time.Second {
				t.Errorf("before anybody has left the patience is %v", got)
			}
			w.eventually("it is learnt", func() bool {
				holder := w.client()
				holder.Query("BEGIN; SELECT 1")
				var waiting []*pgtest.Client
				for range 4 {
					waiting = append(waiting, w.asking("SELECT 1"))
				}
				time.Sleep(120 * time.Millisecond)
				for _, c := range waiting {
					end(c)
				}
				holder.Query("COMMIT")
				holder.Close()
				got := w.Stats().Resources[0].Patience
				return got >= 100*time.Millisecond && got < 2*time.Second
			})
		})
	}
}

// One client that cancels over and over says nothing about others.
func TestOneClientWithoutPatienceHasNoSayForOthers(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1})
	c, holder, before := w.client(), w.client(), w.Stats().Resources[0].Patience
	for began := time.Now(); time.Since(began) < 700*time.Millisecond; {
		holder.Query("BEGIN; SELECT 1")
		c.Send(&pgproto3.Query{String: "SELECT 1"})
		w.eventually("it waits", func() bool { return w.Stats().Resources[0].Waiting == 1 })
		c.Cancel()
		c.UntilReady(1)
		holder.Query("COMMIT")
	}
	if got := w.Stats().Resources[0].Patience; got != before {
		t.Errorf("the patience of all is %v, was %v", got, before)
	}
}

// What is set counts, and ends the wait.
func TestAPatienceThatIsSetEndsTheWait(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1, queue: limiter.Queue{Patience: limiter.Patience(80 * time.Millisecond)}})
	holder := w.client()
	holder.Query("BEGIN; SELECT 1")
	began := time.Now()
	got := w.client().Query("SELECT 1")
	if took := time.Since(began); lastError(got) != "53300" || took < 80*time.Millisecond || took > 1500*time.Millisecond {
		t.Errorf("after %v: %v", took, got)
	}
}
