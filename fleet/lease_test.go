package fleet_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirproxy/weir/fleet"
	"github.com/weirproxy/weir/internal/redistest"
	"github.com/weirproxy/weir/limiter"
)

func TestLease(t *testing.T) {
	s := redistest.Start(t)
	f := open(t, s.URL()+patient, "prod")
	slow := 0.001 // tokens a second: none comes while the test runs

	for _, step := range []struct {
		want, granted int
	}{{4, 4}, {0, 0}, {5, 5}, {5, 1}, {5, 0}, {1, 0}} {
		got, retry := lease(t, f, "steps", slow, 10, step.want)
		if got != step.granted {
			t.Errorf("%d of %d tokens, want %d", got, step.want, step.granted)
		}
		if got < step.want && (retry < 900*time.Second || retry > 1000*time.Second) {
			t.Errorf("retry after %v, want nearly the 1000s of a token", retry)
		}
	}

	for _, perSecond := range []float64{0.3, 3, 7, 333, 2000, 700_000} {
		if got, _ := lease(t, f, "full", perSecond, 7, 100); got != 7 {
			t.Errorf("%d tokens of a full bucket of 7 at %v/s", got, perSecond)
		}
		s.Command("DEL", "weir:{prod}:bucket:full")
	}

	lease(t, f, "refill", 100, 10, 10)
	start := time.Now()
	got := 0
	for time.Since(start) < 300*time.Millisecond {
		n, _ := lease(t, f, "refill", 100, 10, 10)
		got += n
	}
	if most := int(100*time.Since(start).Seconds()) + 1; got < 10 || got > most {
		t.Errorf("%d tokens in %v at 100/s, want no more than %d", got, time.Since(start), most)
	}
	if got := f.Stats().TokensLeased["steps"]; got != 10 {
		t.Errorf("counted %d tokens, want 10", got)
	}

	lease(t, f, "smaller", slow, 1000, 1000)
	lease(t, f, "smaller", 1000, 10, 10)
	until(t, "a bucket made smaller and faster has tokens", func() bool {
		n, _ := lease(t, f, "smaller", 1000, 10, 1)
		return n == 1
	})
}

func TestTailIsShared(t *testing.T) {
	s := redistest.Start(t)
	a, b := open(t, s.URL()+patient, "prod"), open(t, s.URL()+patient, "prod")
	for _, f := range []*fleet.Fleet{a, b, open(t, s.URL()+patient, "prod"), open(t, s.URL()+patient, "prod")} {
		until(t, "all know all four", func() bool { return f.Stats().Members == 4 })
	}
	if got, _ := lease(t, a, "orders", 0.001, 100, 60); got != 60 {
		t.Errorf("%d of 60 tokens of a full bucket", got)
	}
	if got, _ := lease(t, a, "orders", 0.001, 100, 60); got != 20 {
		t.Errorf("%d of the last 40 tokens, want twice a share of four", got)
	}
	if got, _ := lease(t, b, "orders", 0.001, 100, 60); got != 10 {
		t.Errorf("%d of the last 20 tokens, want twice a share of four", got)
	}
}

func TestRedisForgets(t *testing.T) {
	s := redistest.Start(t)
	f := open(t, s.URL()+patient, "prod")
	if got, _ := lease(t, f, "orders", 0.001, 10, 10); got != 10 {
		t.Errorf("%d of 10 tokens from a new fleet's bucket", got)
	}
	for what, forget := range map[string]func(){
		"its keys":    s.FlushAll,
		"its scripts": func() { s.Command("SCRIPT", "FLUSH") },
		"everything":  func() { s.Restart(); until(t, "it is back", isUp(f)) },
	} {
		forget()
		until(t, "the next lease", func() bool {
			got, _, err := f.Lease(context.Background(), "orders", 0.001, 10, 10)
			if got != 0 {
				t.Errorf("%d tokens after Redis forgot %s, want none: they were used", got, what)
			}
			return err == nil
		})
	}
}

func TestClockGoesBack(t *testing.T) {
	s := redistest.Start(t)
	f := open(t, s.URL()+patient, "prod")
	c, ctx := client(t, s), context.Background()
	ahead := func(d time.Duration) int64 { return time.Now().Add(d).UnixMicro() }

	c.HSet(ctx, "weir:{prod}:bucket:far", "tat", ahead(time.Hour), "hw", ahead(time.Hour))
	lease(t, f, "far", 1000, 10, 1)
	until(t, "a bucket an hour ahead fills again", func() bool {
		got, _ := lease(t, f, "far", 1000, 10, 1)
		return got == 1
	})
	c.HSet(ctx, "weir:{prod}:bucket:near", "tat", ahead(time.Second), "hw", ahead(time.Second))
	if got, _ := lease(t, f, "near", 0.1, 10, 20); got != 10 {
		t.Errorf("%d tokens, want those that were there when the clock went back a second, and no more", got)
	}
}

// TestLeasedOverRedis has three weirs use up one bucket through thick and thin.
func TestLeasedOverRedis(t *testing.T) {
	s := redistest.Start(t)
	rate := limiter.Rate{PerSecond: 1000, Burst: 200}
	var buckets []*limiter.Leased
	for range 3 {
		f := open(t, s.URL()+patient, "prod")
		l := limiter.NewLeased("orders", rate, f.Lease, f.Members, nil)
		t.Cleanup(l.Close)
		buckets = append(buckets, l)
		until(t, "all are members for sure", func() bool { return f.Members(time.Now()) > 0 })
	}
	// ask has one client a weir take as fast as tokens come.
	ask := func(span time.Duration) (perSecond float64, together, all float64) {
		var fromStore, taken atomic.Int64
		var clients sync.WaitGroup
		start := time.Now()
		for _, l := range buckets {
			clients.Go(func() {
				for time.Since(start) < span {
					alone := l.Stats().Alone
					if retry, ok := l.Take(); !ok {
						time.Sleep(min(retry, 2*time.Millisecond))
						continue
					}
					taken.Add(1)
					if !alone && !l.Stats().Alone {
						fromStore.Add(1)
					}
				}
			})
		}
		clients.Wait()
		took := time.Since(start).Seconds()
		bound := float64(rate.Burst) + 3 + rate.PerSecond*(took+limiter.Lease.Seconds())
		if got := float64(fromStore.Load()); got > bound {
			t.Errorf("%.0f tokens in %.2fs, the bound is %.0f", got, took, bound)
		}
		return float64(taken.Load()) / took, float64(fromStore.Load()), float64(taken.Load())
	}

	if got, together, all := ask(2 * time.Second); got < 500 || together < 0.5*all {
		t.Errorf("%.0f tokens a second, %.0f of %.0f from Redis; want about 1000 a second from Redis", got, together, all)
	}
	s.Stop()
	until(t, "all are alone", func() bool {
		ask(10 * time.Millisecond)
		return buckets[0].Stats().Alone && buckets[1].Stats().Alone && buckets[2].Stats().Alone
	})
	if got, _, _ := ask(time.Second); got < 500 || got > 1250 {
		t.Errorf("%.0f tokens a second without Redis, want 1000 and the rest of the bursts", got)
	}
	s.Restart()
	until(t, "all are together", func() bool {
		return !buckets[0].Stats().Alone && !buckets[1].Stats().Alone && !buckets[2].Stats().Alone
	})
	if got, _, _ := ask(time.Second); got < 500 || got > 1300 {
		t.Errorf("%.0f tokens a second with Redis back, want about 1000", got)
	}
}
