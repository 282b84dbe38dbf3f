//go:build !race

package limiter_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/weirproxy/weir/limiter"
)

// regretted reports whether the function, which was refused, would have been served while it was wanted if it had been let in: by somebody
// who knows how long everything takes and how long everyone waits, serves in order of arrival, and leaves out who would be late.
// It holds for a database that works for each as if it were alone.
func (f *function) regretted() bool {
	w := f.w
	free := make([]int64, 0, w.slotCount) // when each slot is
	locked := w.now
	for _, r := range w.inside {
		free = append(free, max(r.wakes, w.after(w.now, int64(math.Ceil(r.left)))))
		if r.kind.locks {
			locked = free[len(free)-1]
		}
	}
	for i, r := range w.locks {
		if i > 0 {
			locked = w.after(locked, int64(r.work))
			free = append(free, locked)
		}
	}
	for _, r := range w.idlers {
		free = append(free, r.wakes)
	}
	for len(free) < w.slotCount {
		free = append(free, w.now)
	}
	for _, r := range append(w.waiting[:len(w.waiting):len(w.waiting)], f) {
		first := 0
		for i := range free {
			if free[i] < free[first] {
				first = i
			}
		}
		begins := max(w.now, free[first])
		if r.kind.locks {
			begins = max(begins, locked)
		}
		ends := max(w.after(begins, int64(r.work)), begins+int64(r.kind.sleep))
		served := ends <= r.until && begins <= r.sent+int64(w.slots.Wait(r.kind.flow))
		if r == f {
			return served
		}
		if served {
			free[first] = ends
			if r.kind.locks {
				locked = ends
			}
		}
	}
	return false
}

// after is when the database has worked for so long, from then on.
func (w *world) after(then, work int64) int64 {
	ends := then + work
	for _, s := range w.stalls { // in order
		if s.to > then && s.from < ends {
			ends += s.to - max(s.from, then)
		}
	}
	return ends
}

// exponential is a time that is often short and now and then long.
func exponential(mean time.Duration) func(*rand.Rand) time.Duration {
	return func(rng *rand.Rand) time.Duration { return 1 + time.Duration(rng.ExpFloat64()*float64(mean)) }
}

// heavy is a time of which one in a hundred is twenty times as long as the median (log-normal).
func heavy(mean time.Duration) func(*rand.Rand) time.Duration {
	const sigma = 1.3
	return func(rng *rand.Rand) time.Duration {
		return 1 + time.Duration(float64(mean)*math.Exp(sigma*rng.NormFloat64()-sigma*sigma/2))
	}
}

// pick is one of some.
func pick[T any](rng *rand.Rand, some ...T) T { return some[rng.IntN(len(some))] }

// calmWorld is a resource with slots in front of it, that works for each as if it were alone.
func calmWorld(seed uint64, slots int, queue limiter.Queue) *world {
	w := newWorld(seed, 1e6, limiter.NewSlots(slots, queue.WithDefaults(), limiter.Adaptive{}.WithDefaults()))
	w.slotCount = slots
	return w
}

// mean is how long a statement takes on average: what can be done in a second is the same for many slots as for ten.
func (w *world) mean(rng *rand.Rand) time.Duration {
	return time.Duration(pick(rng, 5, 10, 40)) * time.Millisecond * time.Duration(max(10, w.slotCount)) / 10
}

// TestNobodyIsRefusedWhoCouldBeServed has databases that can do what is asked for.
func TestNobodyIsRefusedWhoCouldBeServed(t *testing.T) {
	const over = 20 * time.Second
	open := func(w *world, rng *rand.Rand, load float64) *kind {
		mean := w.mean(rng)
		k := oltp(steady(load * float64(w.slotCount) / mean.Seconds()))
		k.work = pick(rng, between(mean/2, mean*3/2), exponential(mean), heavy(mean))
		k.deadline = max(pick(rng, 300*time.Millisecond, time.Second, 3*time.Second), 20*mean)
		return k
	}
	crowd := func(w *world, rng *rand.Rand, part float64) *kind { // of whom each waits for that part of its patience
		mean := w.mean(rng)
		k := oltp(nil)
		k.work = pick(rng, between(mean/2, mean*3/2), exponential(mean), heavy(mean))
		k.deadline = max(pick(rng, 400*time.Millisecond, time.Second, 2*time.Second), 20*mean)
		k.clients = int(part * min(k.deadline, 2*time.Second).Seconds() / mean.Seconds() * float64(w.slotCount))
		if rng.IntN(2) == 0 {
			k.think = between(5*time.Millisecond, 50*time.Millisecond)
		}
		return k
	}
	tests := map[string]func(w *world, rng *rand.Rand){
		"open, half the load": func(w *world, rng *rand.Rand) { w.kinds = []*kind{open(w, rng, .5)} },
		"open, 0.9":           func(w *world, rng *rand.Rand) { w.kinds = []*kind{open(w, rng, .9)} },
		"open, 1.0":           func(w *world, rng *rand.Rand) { w.kinds = []*kind{open(w, rng, 1)} },
		"closed, 0.3":         func(w *world, rng *rand.Rand) { w.kinds = []*kind{crowd(w, rng, .3)} },
		"closed, 0.8":         func(w *world, rng *rand.Rand) { w.kinds = []*kind{crowd(w, rng, .8)} },
		"closed, that gathers for half a second": func(w *world, rng *rand.Rand) {
			part := .7
			if w.slotCount > 50 { // so many begin together, and end together: the pace is known too late
				part = .3
			}
			k := crowd(w, rng, part)
			think := k.think
			k.think = func(rng *rand.Rand) time.Duration {
				if w.now%int64(5*time.Second) < int64(time.Second) { // they rest together, and come back one after the other
					return time.Duration(int64(time.Second)-w.now%int64(5*time.Second)) + time.Duration(rng.Int64N(int64(500*time.Millisecond)))
				}
				if think == nil {
					return 0
				}
				return think(rng)
			}
			w.kinds = []*kind{k}
		},
		"closed, 0.8, one lock": func(w *world, rng *rand.Rand) {
			k := crowd(w, rng, .8)
			k.clients = max(1, k.clients/w.slotCount)
			k.locks = true
			w.kinds = []*kind{k}
		},
		"two kinds": func(w *world, rng *rand.Rand) {
			k, slow := open(w, rng, .5), open(w, rng, .3)
			slow.class = 2
			slow.perSec = steady(.3 * float64(w.slotCount) / .4)
			slow.work = between(200*time.Millisecond, 600*time.Millisecond)
			slow.deadline = 10 * time.Second
			w.kinds = []*kind{k, slow}
		},
		"stalls, open": func(w *world, rng *rand.Rand) {
			w.kinds = []*kind{open(w, rng, .5)}
			stallNowAndThen(w, rng, over)
		},
		"stalls, closed": func(w *world, rng *rand.Rand) {
			w.kinds = []*kind{crowd(w, rng, .4)}
			stallNowAndThen(w, rng, over)
		},
		"idle in transactions": func(w *world, rng *rand.Rand) {
			k := open(w, rng, .4)
			idler := open(w, rng, 0)
			idler.class = 2
			idler.perSec = steady(.05 * float64(w.slotCount))
			idler.idle = between(time.Second, 3*time.Second)
			w.kinds = []*kind{k, idler}
		},
		"after a rest": func(w *world, rng *rand.Rand) {
			k := crowd(w, rng, .5)
			k.think = func(*rand.Rand) time.Duration {
				return time.Duration(int64(4*time.Second) - w.now%int64(4*time.Second))
			}
			first := open(w, rng, .9)
			rate := first.perSec(0)
			first.perSec = func(now int64) float64 {
				if now%int64(4*time.Second) > int64(2*time.Second) {
					return 0
				}
				return rate / 3
			}
			first.class = 2
			w.kinds = []*kind{k, first}
		},
		"a class changes": func(w *world, rng *rand.Rand) {
			k := crowd(w, rng, .08)
			work := k.work
			k.work = func(rng *rand.Rand) time.Duration {
				if w.now%int64(6*time.Second) > int64(3*time.Second) {
					return 10 * work(rng)
				}
				return work(rng)
			}
			w.kinds = []*kind{k}
		},
	}
	for name, setup := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, regrets := 0, 0
			for _, slots := range []int{1, 2, 4, 10, 50, 200} {
				for seed := range uint64(regretSeeds) {
					w := calmWorld(seed, slots, limiter.Queue{Length: 20000})
					w.judges = true
					setup(w, rand.New(rand.NewPCG(seed, 3)))
					w.run(over)
					for _, k := range w.kinds {
						got := k.arrived(0, over)
						all += got.offered
						regrets += k.regrets
						if k.regrets > 0 {
							t.Logf("%d slots, seed %d: of %d %d were refused, %d without need, %d late; clients %d, patience %v",
								slots, seed, got.offered, got.denied, k.regrets, got.late, k.clients, k.deadline)
						}
					}
				}
			}
			t.Logf("of %d %d were refused without need", all, regrets)
			if float64(regrets) > .001*float64(all) {
				t.Errorf("of %d %d were refused without need, want one in a thousand at most", all, regrets)
			}
		})
	}
}

// regretSeeds is how many worlds there are of each sort: 3, or as many as WEIR_SIM_SEEDS says.
var regretSeeds = func() int {
	if n, err := strconv.Atoi(os.Getenv("WEIR_SIM_SEEDS")); err == nil && n > 0 {
		return n
	}
	return 3
}()

func stallNowAndThen(w *world, rng *rand.Rand, over time.Duration) {
	for at := 2 * time.Second; at < over-6*time.Second; at += 6*time.Second + time.Duration(rng.Int64N(int64(2*time.Second))) {
		w.hold(at, at+time.Duration(100+rng.IntN(4900))*time.Millisecond)
	}
}

// TestAsMuchIsDoneAsCouldBe has more asked for than can be done, by functions that do not say how long they wait, and compares what is
// done in time with what would be by somebody who knows everything beforehand, and does not prefer those who need little: all slots are
// busy all the time, with nothing in vain.
func TestAsMuchIsDoneAsCouldBe(t *testing.T) {
	const learnt, over = 3 * time.Second, 10 * time.Second
	patience := map[string]func(*rand.Rand) time.Duration{
		"100 ms":        between(100*time.Millisecond, 101*time.Millisecond),
		"300 ms":        between(300*time.Millisecond, 301*time.Millisecond),
		"1 s":           between(time.Second, time.Second+1),
		"3 s":           between(3*time.Second, 3*time.Second+1),
		"100 ms or 3 s": func(rng *rand.Rand) time.Duration { return pick(rng, 100*time.Millisecond, 3*time.Second) },
		"100 ms to 1 s": between(100*time.Millisecond, time.Second),
		"200 ms to 3 s": between(200*time.Millisecond, 3*time.Second),
	}
	for name, waits := range patience {
		for _, slots := range []int{2, 10} {
			t.Run(fmt.Sprint(name, ", ", slots, " slots"), func(t *testing.T) {
				t.Parallel()
				for _, times := range []float64{1.05, 1.3, 3, 10} {
					done, late, could := 0, 0, 0.0
					var served []time.Duration
					for seed := range uint64(2) {
						w := calmWorld(seed, slots, limiter.Queue{Length: 20000})
						rng := rand.New(rand.NewPCG(seed, 3))
						mean := 4 * time.Millisecond * time.Duration(max(10, slots)) / 10
						k := oltp(steady(times * float64(slots) / mean.Seconds()))
						k.work = pick(rng, between(mean/2, mean*3/2), exponential(mean))
						k.patience = waits
						w.kinds = []*kind{k}
						w.run(over)
						got := k.ended(learnt, over)
						done += got.good
						late += got.late
						could += (over - learnt).Seconds() * float64(slots) / mean.Seconds()
						served = append(served, got.latency...)
					}
					share := float64(done) / could
					t.Logf("%v times: %.3f of what could be done; late %.3f; p99 %v", times, share, float64(late)/could, percentile(served, .99))
					least := .95
					if times < 1.1 { // it takes until people leave to see that it is too much
						least = .93
					}
					if share < least {
						t.Errorf("%v times: %.3f of what could be done, want %v", times, share, least)
					}
				}
			})
		}
	}
}
