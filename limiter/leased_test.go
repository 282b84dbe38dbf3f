package limiter_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/limiter"
)

// settled is after how long the weirs of a simulated fleet know how many they are.
const settled = 2 * time.Second

// TestFleetStaysWithinItsBound lets a fleet of weirs be used at random while weirs crash, others come, links break, the
// store goes away and replies get lost, and looks at every period there was.
func TestFleetStaysWithinItsBound(t *testing.T) {
	rates := []limiter.Rate{
		{PerSecond: 2000, Burst: 500},
		{PerSecond: 2000, Burst: 10},
		{PerSecond: 300},
		{PerSecond: 20, Burst: 40},
		{PerSecond: 3, Burst: 1},
		{PerSecond: 0.5, Burst: 5},
	}
	seeds := uint64(12)
	if testing.Short() {
		seeds = 6
	}
	for seed := range seeds {
		rate := rates[seed%uint64(len(rates))]
		t.Run(fmt.Sprintf("seed %d, %v/s, burst %d", seed, rate.PerSecond, rate.Burst), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { storm(t, seed, rate) })
			synctest.Test(t, func(t *testing.T) { drill(t, seed, rate) })
		})
	}
}

const weirs = 5

// drill is what would hurt most: all weirs ask for a lot, then all rest while the bucket fills, some of them being replaced
// by new ones, and then all clients come at once, to all weirs.
func drill(t *testing.T, seed uint64, rate limiter.Rate) {
	rng := rand.New(rand.NewPCG(seed, 3))
	s := newStore(seed)
	s.latency = func(rng *rand.Rand) time.Duration { return time.Duration(rng.Int64N(int64(time.Millisecond))) }
	together := &ledger{start: time.Now()}
	fleet := make([]*weir, weirs)
	for i := range fleet {
		fleet[i] = startWeir(s, i, rate)
	}
	next := weirs
	all := func(span time.Duration, n int) {
		for end := time.Now().Add(span); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
			for _, w := range fleet {
				burst(w, together, n)
			}
		}
	}
	for range 8 {
		all(200*time.Millisecond, 1)
		for i := range rng.IntN(2 * weirs) {
			if i >= weirs {
				break
			}
			fleet[i].crash()
			fleet[i] = startWeir(s, next, rate)
			next++
		}
		rest := time.Duration(rng.Int64N(int64(2 * time.Second)))
		if seed%2 == 0 { // let the reserves grow
			all(time.Millisecond, 1)
		}
		time.Sleep(rest)
		all(20*time.Millisecond, 10)
	}
	for _, w := range fleet {
		w.crash()
	}
	check(t, together, rate)
}

// check holds every period that the ledger knows against the bound that Leased promises.
func check(t *testing.T, together *ledger, rate limiter.Rate) {
	t.Helper()
	bound := float64(rate.Burst) + weirs + rate.PerSecond*limiter.Lease.Seconds()
	if rate.Burst == 0 {
		bound += rate.PerSecond // one second's worth
	}
	excess := together.excess(bound, rate.PerSecond)
	if excess > 0 {
		t.Errorf("a period exceeded the bound by %.1f tokens (of %d taken)", excess, len(together.taken))
	}
	t.Logf("%d tokens taken, worst period %.1f from the bound of %.0f", len(together.taken), excess, bound)
}

func storm(t *testing.T, seed uint64, rate limiter.Rate) {
	rng := rand.New(rand.NewPCG(seed, 2))
	s := newStore(seed)
	s.lossy = 0.01
	s.latency = func(rng *rand.Rand) time.Duration {
		if rng.Float64() < 0.02 {
			return time.Duration(rng.Int64N(int64(120 * time.Millisecond)))
		}
		return time.Duration(rng.Int64N(int64(time.Millisecond)))
	}
	together := &ledger{start: time.Now()} // tokens of the shared bucket
	fleet := make([]*weir, weirs)
	for i := range fleet {
		fleet[i] = startWeir(s, i, rate)
	}

	end := time.Now().Add(6 * time.Second)
	next := weirs
	mood := make([]float64, weirs) // how much of the rate each weir is asked for
	for now := time.Now(); now.Before(end); now = time.Now() {
		time.Sleep(500 * time.Microsecond)
		for i, w := range fleet {
			switch rng.IntN(10_000) {
			case 0, 1:
				mood[i] = 0
			case 2, 3:
				mood[i] = rng.Float64()
			case 4, 5:
				mood[i] = 3 * rng.Float64()
			case 6:
				burst(w, together, 1+rate.Burst)
			case 7:
				w.crash()
				fleet[i] = startWeir(s, next, rate)
				next++
			case 8:
				w.setCut(rng.IntN(2) == 0)
			case 9:
				if i == 0 {
					s.setDown(rng.IntN(2) == 0)
				}
			}
			for asked := mood[i] * rate.PerSecond * 500e-6; asked > rng.Float64(); asked-- {
				burst(fleet[i], together, 1)
			}
		}
	}
	for _, w := range fleet {
		w.crash()
	}

	check(t, together, rate)
}

// burst takes n tokens at once and notes those that came from the shared bucket.
func burst(w *weir, together *ledger, n int) {
	for range n {
		alone := w.Stats().Alone
		if _, ok := w.Take(); ok && !alone && !w.Stats().Alone {
			together.add()
		}
	}
}

// A storm without faults must get all that the rate allows, on one weir as on several.
func TestFleetGetsItsRate(t *testing.T) {
	for _, weirs := range []int{1, 2, 5} {
		for _, rate := range []limiter.Rate{{PerSecond: 2000, Burst: 500}, {PerSecond: 2000, Burst: 10}, {PerSecond: 50, Burst: 5}} {
			t.Run(fmt.Sprintf("%d weirs, %v/s, burst %d", weirs, rate.PerSecond, rate.Burst), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newStore(1)
					var fleet []*weir
					for i := range weirs {
						fleet = append(fleet, startWeir(s, i, rate))
					}
					time.Sleep(settled)
					const span = 5 * time.Second
					taken := make([]int, weirs)
					for end := time.Now().Add(span); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
						for i, w := range fleet {
							if _, ok := w.Take(); ok {
								taken[i]++
							}
						}
					}
					total := 0
					for i, w := range fleet {
						total += taken[i]
						if fair := rate.PerSecond * span.Seconds() / float64(weirs); float64(taken[i]) < 0.5*fair { // who asks first is up to the scheduler
							t.Errorf("weir %d got %d tokens, its fair part were %.0f", i, taken[i], fair)
						}
						w.crash()
					}
					want := rate.PerSecond * span.Seconds()
					if float64(total) < 0.95*want {
						t.Errorf("the fleet got %d tokens in %v, want at least 95%% of %.0f", total, span, want)
					}
					t.Logf("%d of %.0f tokens, %d calls of the store a second", total, want, s.called()/int(span.Seconds()))
				})
			})
		}
	}
}

// Whoever comes once in a while finds a token, whatever weir he comes to and however long it rested.
func TestSparseTrafficIsNotRefused(t *testing.T) {
	for _, rate := range []limiter.Rate{{PerSecond: 100, Burst: 30}, {PerSecond: 2, Burst: 2}, {PerSecond: 1, Burst: 1}} {
		t.Run(fmt.Sprintf("%v/s, burst %d", rate.PerSecond, rate.Burst), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(1)
				rng := rand.New(rand.NewPCG(1, 1))
				fleet := []*weir{startWeir(s, 0, rate), startWeir(s, 1, rate), startWeir(s, 2, rate)}
				time.Sleep(10 * time.Second) // until even a slow bucket has filled the reserves
				calls := s.called()
				for i := range 200 {
					rest := (1 + 2*rng.Float64()) / rate.PerSecond
					time.Sleep(max(limiter.Lease, time.Duration(rest*float64(time.Second))))
					if retry, ok := fleet[i%3].Take(); !ok {
						t.Fatalf("the %dth was refused, retry after %v", i, retry)
					}
				}
				if got := s.called() - calls; got > 3*200 {
					t.Errorf("%d calls of the store for 200 tokens", got)
				}
				for _, w := range fleet {
					w.crash()
				}
			})
		})
	}
}

// At rest nobody calls the store.
func TestBucketAtRestCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(1)
		w := startWeir(s, 0, limiter.Rate{PerSecond: 100})
		defer w.crash()
		time.Sleep(settled)
		w.Take()
		time.Sleep(time.Second)
		calls := s.called()
		time.Sleep(time.Hour)
		if got := s.called() - calls; got != 0 {
			t.Errorf("%d calls of the store in an hour of rest", got)
		}
	})
}

func TestBurstAfterRestIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(1)
		w := startWeir(s, 0, limiter.Rate{PerSecond: 100, Burst: 200})
		defer w.crash()
		time.Sleep(settled)
		for w.Take(); ; w.Take() { // the bucket was filled as for a newcomer: make the reserve grow to what it may be
			time.Sleep(time.Second)
			if w.Stats().Granted > 100 {
				break
			}
		}
		time.Sleep(10 * time.Second)
		var got int
		for range 100 {
			if _, ok := w.Take(); ok {
				got++
			}
		}
		if got != 100 {
			t.Errorf("%d of 100 at once were served from the reserve, want all", got)
		}
		time.Sleep(5 * time.Millisecond)
		for range 95 {
			if _, ok := w.Take(); ok {
				got++
			}
		}
		if got < 190 {
			t.Errorf("%d of a burst of 200 were served within 5ms", got)
		}
	})
}

// What was leased beyond the reserve is void after Lease, used or not.
func TestLeasedTokensExpire(t *testing.T) {
	for rest, most := range map[time.Duration]int{0: 60, limiter.Lease + time.Millisecond: 5} {
		synctest.Test(t, func(t *testing.T) {
			var dry atomic.Bool
			lease := func(_ context.Context, _ string, _ float64, _, want int) (int, time.Duration, error) {
				if dry.Load() {
					return 0, time.Minute, nil
				}
				return want, 0, nil
			}
			l := limiter.NewLeased("orders", limiter.Rate{PerSecond: 1000, Burst: 10}, lease, nil, nil)
			defer l.Close()
			for range 1000 {
				l.Take()
				time.Sleep(time.Millisecond)
			}
			dry.Store(true)
			time.Sleep(rest)
			got := 0
			for _, ok := l.Take(); ok; _, ok = l.Take() {
				got++
			}
			if got > most || rest == 0 && got <= 5 {
				t.Errorf("%d tokens were left %v after a lease, want at most %d", got, rest, most)
			}
		})
	}
}

// logged counts the lines that contain a word.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) count(word string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), word)
}

func TestStoreLost(t *testing.T) {
	rate := limiter.Rate{PerSecond: 400, Burst: 80}
	synctest.Test(t, func(t *testing.T) {
		s := newStore(1)
		var fleet []*weir
		for i := range 4 {
			fleet = append(fleet, startWeir(s, i, rate))
		}
		time.Sleep(settled)
		ask := func(span time.Duration) (taken int) {
			for end := time.Now().Add(span); time.Now().Before(end); time.Sleep(time.Millisecond) {
				for _, w := range fleet {
					if _, ok := w.Take(); ok {
						taken++
					}
				}
			}
			return taken
		}
		alone := func() (n int) {
			for _, w := range fleet {
				if w.Stats().Alone {
					n++
				}
			}
			return n
		}
		ask(2 * time.Second)
		if got := alone(); got != 0 {
			t.Errorf("%d weirs are alone with the store up", got)
		}

		s.setDown(true)
		ask(time.Second)
		if got := alone(); got != 4 {
			t.Errorf("%d of 4 weirs are alone with the store down", got)
		}
		if got := ask(5 * time.Second); got < 1900 || got > 2000+80 {
			t.Errorf("%d tokens in 5s without the store, want the rate of 2000", got)
		}

		s.setDown(false)
		ask(2 * time.Second)
		if got := alone(); got != 0 {
			t.Errorf("%d weirs are still alone with the store back", got)
		}
		if got := ask(5 * time.Second); got < 1900 || got > 2000+80+4+20 {
			t.Errorf("%d tokens in 5s after the store came back, want the rate of 2000", got)
		}
		for _, w := range fleet {
			w.crash()
		}
	})
}

func TestNewcomerWithoutStoreIsCautious(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := &logged{}
		s := newStore(1)
		s.setDown(true)
		l := limiter.NewLeased("orders", limiter.Rate{PerSecond: 800, Burst: 80}, s.lease, func(time.Time) int { return 0 },
			slog.New(slog.NewTextHandler(lines, nil)))
		defer l.Close()
		if _, ok := l.Take(); !ok {
			t.Error("the very first transaction was refused")
		}
		taken := 0
		for range 5000 {
			if _, ok := l.Take(); ok {
				taken++
			}
			time.Sleep(time.Millisecond)
		}
		if taken < 498 || taken > 502 {
			t.Errorf("%d tokens in 5s, want an eighth of 800/s", taken)
		}
		s.setDown(false)
		time.Sleep(time.Second)
		if l.Stats().Alone {
			t.Error("still alone with the store up")
		}
		if out, in := lines.count("out of reach"), lines.count("in reach again"); out != 1 || in != 1 {
			t.Errorf("logged %d times out of reach, %d times in reach, want once each", out, in)
		}
	})
}

func TestTakeDoesNotAllocate(t *testing.T) {
	plenty, one := limiter.Rate{PerSecond: 1e6, Burst: 1e6}, limiter.Rate{PerSecond: 1e-6, Burst: 1}
	buckets := map[string]limiter.Bucket{
		"local":           limiter.NewLocal(plenty, nil),
		"local, refusing": limiter.NewLocal(one, nil),
		"leased":          granted(t, plenty),
		"leased, refused": granted(t, one),
	}
	for name, b := range buckets {
		if got := testing.AllocsPerRun(1000, func() { b.Take() }); got != 0 {
			t.Errorf("%s: Take allocates %v times", name, got)
		}
	}
}

// granted is a Leased that got what it asked for, once.
func granted(tb testing.TB, rate limiter.Rate) *limiter.Leased {
	tb.Helper()
	var first sync.Once
	lease := func(_ context.Context, _ string, _ float64, _, want int) (got int, _ time.Duration, _ error) {
		first.Do(func() { got = want })
		return got, time.Hour, nil
	}
	l := limiter.NewLeased("orders", rate, lease, nil, nil)
	tb.Cleanup(l.Close)
	for l.Stats().Alone {
		runtime.Gosched()
	}
	return l
}

func BenchmarkTake(b *testing.B) {
	rate := limiter.Rate{PerSecond: 1e9, Burst: 1e9}
	for name, bucket := range map[string]limiter.Bucket{"local": limiter.NewLocal(rate, nil), "leased": granted(b, rate)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, ok := bucket.Take(); !ok {
					b.Fatal("refused")
				}
			}
		})
	}
}
