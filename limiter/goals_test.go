//go:build !race

package limiter_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weirproxy/weir/limiter"
)

// bothLimits are the two ways to say how many may run.
var bothLimits = map[string]limiter.Adaptive{
	"adaptive":   {Enabled: true},
	"the budget": {},
}

const (
	seeds  = 10
	warmUp = 3 * time.Second // in which is learnt for how long functions wait
)

// flood has functions arrive for some seconds after the first, which is left out.
func flood(seed uint64, a limiter.Adaptive, free int, times float64, seconds int) tally {
	w := newWorld(seed, 1, newSlots(a))
	w.free = free
	k := oltp(steady(times * capacity))
	w.kinds = []*kind{k}
	end := warmUp + time.Duration(seconds)*time.Second
	w.run(end)
	return k.ended(warmUp, end)
}

func TestAStormLeavesTheGoodputWhereItWas(t *testing.T) {
	const seconds = 5
	for name, a := range bothLimits {
		for _, free := range []int{300, unbounded} {
			t.Run(fmt.Sprint(name, ", connections ", free), func(t *testing.T) {
				t.Parallel()
				for seed := range uint64(seeds) {
					best := float64(flood(seed, a, free, 1, seconds).good)
					for _, goal := range []struct{ times, least float64 }{{2, .95}, {5, .93}, {10, .90}} {
						got := flood(seed, a, free, goal.times, seconds)
						share := float64(got.good) / best
						served, refused := percentile(got.latency, .99), percentile(got.refusal, .99)
						t.Logf("seed %d, %v times: goodput %.1f %%, p99 of the served %v, of the refused %v, late %d", seed, goal.times, 100*share, served, refused, got.late)
						if share < goal.least || served > 600*time.Millisecond || goal.times == 10 && refused > 50*time.Millisecond {
							t.Errorf("seed %d, %v times: goodput %.3f, want %.2f; p99 of the served %v, want 600ms; of the refused %v, want 50ms",
								seed, goal.times, share, goal.least, served, refused)
						}
					}
				}
			})
		}
	}
}

// TestAStormThatComesAndGoes has two storms. In the first one it has to be learnt for how long functions wait.
func TestAStormThatComesAndGoes(t *testing.T) {
	const lasts, over = 6 * time.Second, 24 * time.Second
	storms := []struct{ begins, settled time.Duration }{{3 * time.Second, 2 * time.Second}, {14 * time.Second, 500 * time.Millisecond}}
	for name, a := range bothLimits {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(seeds) {
				w := newWorld(seed, 1, newSlots(a))
				w.free = 300
				k := oltp(func(now int64) float64 {
					for _, s := range storms {
						if now >= int64(s.begins) && now < int64(s.begins+lasts) {
							return 10 * capacity
						}
					}
					return .7 * capacity
				})
				w.kinds = []*kind{k}
				w.run(over)
				for i, s := range storms {
					ends := s.begins + lasts
					steady := float64(k.ended(s.begins+3*time.Second, ends).good) / (lasts - 3*time.Second).Seconds()
					first := float64(k.ended(s.begins+s.settled, s.begins+s.settled+time.Second).good)
					after := k.arrived(ends+500*time.Millisecond, ends+3*time.Second)
					t.Logf("seed %d, storm %d: %.0f/s, %v after the step %.0f/s; refused after it %d, late %d, p99 %v",
						seed, i+1, steady, s.settled, first, after.denied, after.late, percentile(after.latency, .99))
					if first < .95*steady || after.denied+after.late > 0 {
						t.Errorf("seed %d, storm %d: goodput %.0f/s %v after the step, %.0f/s later; refused after the storm: %d, late %d",
							seed, i+1, first, s.settled, steady, after.denied, after.late)
					}
				}
			}
		})
	}
}

// jain is Jain's index: 1 when all have the same, 1/n when one has everything.
func jain(x []float64) float64 {
	sum, squares := 0.0, 0.0
	for _, v := range x {
		sum += v
		squares += v * v
	}
	return sum * sum / (float64(len(x)) * squares)
}

func TestAFloodingCallerHarmsOnlyItself(t *testing.T) {
	for name, a := range bothLimits {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(seeds) {
				w := newWorld(seed, 1, newSlots(a))
				w.free = 300
				w.kinds = []*kind{oltp(steady(10 * capacity))}
				for range 9 {
					w.kinds = append(w.kinds, oltp(steady(.05*capacity)))
				}
				w.run(11 * time.Second)
				kept := 0.0
				for i, k := range w.kinds[1:] {
					got := k.arrived(warmUp, 11*time.Second)
					kept += got.kept() / 9
					t.Logf("seed %d, caller %d: %.4f of %d, p99 %v", seed, i+1, got.kept(), got.offered, percentile(got.latency, .99))
					if got.kept() < .95 {
						t.Errorf("seed %d: caller %d, who asks for little, keeps %.4f of its requests, want .95", seed, i+1, got.kept())
					}
				}
				if kept < .99 {
					t.Errorf("seed %d: those who ask for little keep %.4f of their requests, want .99", seed, kept)
				}
			}
		})
	}
}

func TestEqualsGetTheSame(t *testing.T) {
	for name, a := range bothLimits {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(seeds) {
				w := newWorld(seed, 1, newSlots(a))
				for range 10 {
					w.kinds = append(w.kinds, oltp(steady(.5*capacity)))
				}
				w.run(11 * time.Second)
				var got []float64
				for _, k := range w.kinds {
					got = append(got, float64(k.ended(warmUp, 11*time.Second).good))
				}
				if j := jain(got); j < .98 {
					t.Errorf("seed %d: Jain's index of ten equals is %.4f, want .98: %v", seed, j, got)
				}
			}
		})
	}
}

func TestTheGreedyGetByTheirWeights(t *testing.T) {
	weights := []int{1, 2, 4}
	for name, a := range bothLimits {
		for costs, known := range map[string]struct {
			each  []float64
			class []limiter.Fingerprint
		}{
			"the same statements":               {[]float64{1, 1, 1}, []limiter.Fingerprint{1, 1, 1}},
			"dear statements of the heavy":      {[]float64{1, 5, 20}, []limiter.Fingerprint{1, 2, 3}},
			"dear statements of the light":      {[]float64{20, 5, 1}, []limiter.Fingerprint{1, 2, 3}},
			"dear statements nobody looked at":  {[]float64{1, 5, 20}, []limiter.Fingerprint{0, 0, 0}},
			"dear ones of the light, not known": {[]float64{20, 5, 1}, []limiter.Fingerprint{0, 0, 0}},
		} {
			t.Run(name+", "+costs, func(t *testing.T) {
				t.Parallel()
				for seed := range uint64(seeds) {
					w := newWorld(seed, 4, newSlots(a))
					for i, weight := range weights {
						cost := known.each[i]
						k := oltp(steady(1.2 * 4 * 1000 / cost))
						k.flow, k.class = limiter.NewFlow(weight, 0), known.class[i]
						k.work = func(rng *rand.Rand) time.Duration {
							return time.Duration(cost * (.5 + rng.Float64()) * float64(time.Millisecond))
						}
						w.kinds = append(w.kinds, k)
					}
					const from, to = 1500 * time.Millisecond, 5500 * time.Millisecond
					w.run(to)
					total, shares := time.Duration(0), make([]float64, len(weights))
					for _, k := range w.kinds {
						total += k.ended(from, to).worked
					}
					for i, k := range w.kinds {
						shares[i] = float64(k.ended(from, to).worked) / float64(total)
					}
					t.Logf("seed %d: %.3f, %.0f %% busy", seed, shares, 100*total.Seconds()/4/(to-from).Seconds())
					for i, got := range shares {
						if want := float64(weights[i]) / 7; got < .9*want || got > 1.1*want {
							t.Errorf("seed %d: the shares of the time are %.3f, want 1:2:4", seed, shares)
							break
						}
					}
				}
			})
		}
	}
}

func TestPriorities(t *testing.T) {
	for name, a := range bothLimits {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(seeds) {
				w := newWorld(seed, 1, newSlots(a))
				w.free = 300
				for level, times := range []float64{.7, .8, .8, .7} {
					k := oltp(steady(times * capacity))
					k.level = limiter.Level(level)
					w.kinds = append(w.kinds, k)
				}
				w.run(21 * time.Second)
				for level, k := range w.kinds {
					got := k.arrived(warmUp, 21*time.Second)
					t.Logf("seed %d, level %d: %.4f of %d, p99 %v", seed, level, got.kept(), got.offered, percentile(got.latency, .99))
					if level == 0 && got.kept() < .999 {
						t.Errorf("seed %d: critical keeps %.4f of its requests, want .999", seed, got.kept())
					}
				}
			}
		})
	}
}

// report is a function with a query of two seconds.
func report(perSec func(int64) float64) *kind {
	k := oltp(perSec)
	k.name, k.class, k.deadline = "report", 2, 30*time.Second
	k.work = between(1900*time.Millisecond, 2100*time.Millisecond)
	return k
}

// asleep makes it 2 s of waiting inside the database instead.
func asleep(k *kind) *kind {
	k.sleep, k.work = 2*time.Second, func(*rand.Rand) time.Duration { return 0 }
	return k
}

func TestReportsLeaveTheShortOnesAlone(t *testing.T) {
	const comes, warm, over = 10 * time.Second, 12 * time.Second, 30 * time.Second
	for name, a := range bothLimits {
		for kindOf, one := range map[string]struct {
			cores  float64
			report func(func(int64) float64) *kind
			more   time.Duration // that those on the processor take away
		}{
			"on the processor": {8, report, 5 * time.Millisecond},
			"asleep":           {1, func(p func(int64) float64) *kind { return asleep(report(p)) }, 0},
		} {
			t.Run(name+", "+kindOf, func(t *testing.T) {
				t.Parallel()
				for seed := range uint64(seeds) {
					w := newWorld(seed, one.cores, newSlots(a))
					load := .5 * one.cores * capacity
					quick := oltp(func(now int64) float64 {
						if now > int64(comes) {
							return .7 * load
						}
						return load
					})
					slow := one.report(func(now int64) float64 {
						if now > int64(comes) {
							return .3 * load
						}
						return 0
					})
					slow.flow = quick.flow
					w.kinds = []*kind{quick, slow}
					w.run(over)
					before, after := quick.arrived(warmUp, comes), quick.arrived(warm, over)
					least := 20
					for _, l := range w.limits[int(warm/(100*time.Millisecond)):] {
						least = min(least, l)
					}
					p99, was := percentile(after.latency, .99), percentile(before.latency, .99)
					t.Logf("seed %d: p99 %v, was %v; kept %.4f; reports done %d; limit at least %d", seed, p99, was, after.kept(), slow.ended(warm, over).good, least)
					if p99 > was*13/10+one.more || after.kept() < .999 {
						t.Errorf("seed %d: the short ones' p99 is %v, was %v without reports; %.4f are served", seed, p99, was, after.kept())
					}
					if least < 10 {
						t.Errorf("seed %d: the limit fell to %d", seed, least)
					}
				}
			})
		}
	}
}

func TestReportsAloneHaveAllSlotsButOne(t *testing.T) {
	for name, a := range bothLimits {
		t.Run(name, func(t *testing.T) {
			w := newWorld(1, 1, newSlots(a))
			quick := oltp(func(now int64) float64 {
				if now < int64(10*time.Second) {
					return .5 * capacity
				}
				return 0
			})
			slow := asleep(report(func(now int64) float64 {
				if now > int64(10*time.Second) {
					return 20
				}
				return 0
			}))
			w.kinds = []*kind{quick, slow}
			w.run(200 * time.Second)
			const from, to = 30 * time.Second, 200 * time.Second
			got := float64(slow.ended(from, to).good) * 2 / (to - from).Seconds()
			t.Logf("%.2f slots used", got)
			if got < 18.5 {
				t.Errorf("reports use %.2f slots of 20, want 19", got)
			}
		})
	}
}

func TestTheLimitFollowsTheProcessors(t *testing.T) {
	const cuts, returns, over = 20 * time.Second, 50 * time.Second, 75 * time.Second
	w := newWorld(1, 4, newSlots(limiter.Adaptive{Enabled: true}))
	k := oltp(func(now int64) float64 {
		if now < int64(10*time.Second) {
			return .5 * 4 * capacity
		}
		return 1.5 * 4 * capacity
	})
	w.kinds = []*kind{k}
	w.at(int64(cuts), func() { w.cores = 2 })
	w.at(int64(returns), func() { w.cores = 4 })
	w.run(over)
	t.Logf("limits %v", every(w.limits, 10))
	for _, tt := range []struct {
		name     string
		from, to time.Duration
		want     float64
	}{
		{"with all processors", 15 * time.Second, cuts, 4 * capacity},
		{"three seconds after half of them are lost", cuts + 3*time.Second, cuts + 6*time.Second, 2 * capacity},
		{"with half of them", cuts + 6*time.Second, returns, 2 * capacity},
		{"fifteen seconds after they are back", returns + 15*time.Second, over, 4 * capacity},
	} {
		got := float64(k.ended(tt.from, tt.to).good) / (tt.to - tt.from).Seconds()
		t.Logf("%s: %.0f/s", tt.name, got)
		if got < .97*tt.want {
			t.Errorf("%s: %.0f/s of %.0f", tt.name, got, tt.want)
		}
	}
}

// differing has the statements of a kind need 4 ms on average, some hardly anything and some many times as much.
func differing(rng *rand.Rand) time.Duration {
	return time.Duration(rng.ExpFloat64() * float64(4*time.Millisecond))
}

func TestTheLimitFollowsWithinSeconds(t *testing.T) {
	const cuts, returns, over = 10 * time.Second, 40 * time.Second, 60 * time.Second
	for name, tt := range map[string]struct {
		work func(*rand.Rand) time.Duration
		down time.Duration // of nine seeds in ten
	}{
		"statements that are alike":  {between(3*time.Millisecond, 5*time.Millisecond), 3 * time.Second},
		"statements that are not so": {differing, 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var down, up []time.Duration
			for seed := range uint64(seeds) {
				w := newWorld(seed, 1, newSlots(limiter.Adaptive{Enabled: true}))
				w.free = 300
				k := oltp(steady(.7 * capacity))
				k.work = tt.work
				w.kinds = []*kind{k}
				w.at(int64(cuts), func() { w.cores = .5 })
				w.at(int64(returns), func() { w.cores = 1 })
				w.run(over)
				down = append(down, reaches(w.limits, cuts, returns, func(limit int) bool { return limit <= 8 }))
				up = append(up, reaches(w.limits, returns, over, func(limit int) bool { return limit >= 16 }))
			}
			t.Logf("down after %v, at most %v; up after %v, at most %v", percentile(down, .5), percentile(down, 1), percentile(up, .5), percentile(up, 1))
			if got := percentile(down, .9); got > tt.down {
				t.Errorf("half the processor is lost: nine limits of ten have followed after %v, want %v", got, tt.down)
			}
			if got := percentile(up, .9); got > 15*time.Second {
				t.Errorf("it is back: nine limits of ten have followed after %v, want 15 s", got)
			}
		})
	}
}

// reaches is how long after from a limit is first as wanted.
func reaches(limits []int, from, to time.Duration, wanted func(int) bool) time.Duration {
	const each = 100 * time.Millisecond
	for at := from; at < to; at += each {
		if wanted(limits[at/each]) {
			return at - from
		}
	}
	return to - from
}

func every[T any](all []T, n int) (some []T) {
	for i := 0; i < len(all); i += n {
		some = append(some, all[i])
	}
	return some
}

func TestASlowDiskIsNoReasonToDoLess(t *testing.T) {
	const slows, counts = 15 * time.Second, 40 * time.Second
	tests := map[string]struct {
		wait, later time.Duration // on the disk
		load        float64       // functions a second, later
		over        time.Duration
	}{
		"processor first, then three times as much on the disk": {0, 8 * time.Millisecond, 1200, 60 * time.Second},
		"disk, three times as slow":                             {16 * time.Millisecond, 56 * time.Millisecond, 500, 80 * time.Second},
		"disk, thirty times as slow":                            {16 * time.Millisecond, 600 * time.Millisecond, 60, 130 * time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := func(seed uint64, a limiter.Adaptive) (*world, float64) {
				w := newWorld(seed, 4, newSlots(a))
				k := oltp(func(now int64) float64 {
					switch {
					case now < int64(10*time.Second):
						return .3 * 4 * capacity
					case now < int64(slows):
						return 1.2 * 4 * capacity
					}
					return tt.load
				})
				k.sleep = tt.wait
				w.kinds = []*kind{k}
				w.at(int64(slows), func() { k.sleep = tt.later })
				w.run(tt.over)
				return w, float64(k.ended(counts, tt.over).good) / (tt.over - counts).Seconds()
			}
			for seed := range uint64(seeds) {
				_, best := run(seed, limiter.Adaptive{}) // on a disk, the more the better
				w, got := run(seed, limiter.Adaptive{Enabled: true})
				t.Logf("seed %d: %.1f/s, %.1f/s with all slots; limits %v", seed, got, best, every(w.limits, 10))
				if got < .95*best {
					t.Errorf("seed %d: %.1f/s, %.1f/s with all slots", seed, got, best)
				}
			}
		})
	}
}

func TestABurstIsNoStorm(t *testing.T) {
	for name, a := range bothLimits {
		for warm, load := range map[string]float64{"cold": 0, "warm": .5} {
			t.Run(name+", "+warm, func(t *testing.T) {
				for seed := range uint64(seeds) {
					w := newWorld(seed, 1, newSlots(a))
					k := oltp(func(now int64) float64 {
						if now < int64(5*time.Second) {
							return load * capacity
						}
						return 0
					})
					k.deadline = 3 * time.Second
					w.kinds = []*kind{k}
					w.at(int64(6*time.Second), func() {
						for range 450 {
							w.launch(k)
						}
					})
					w.run(10 * time.Second)
					got := k.arrived(6*time.Second, 10*time.Second)
					if got.offered != 450 || got.good != 450 {
						t.Errorf("seed %d: of %d functions at once %d were served, %d denied, %d late", seed, got.offered, got.good, got.denied, got.late)
					}
				}
			})
		}
	}
}

func TestAfterAStallAllIsAsBefore(t *testing.T) {
	const stalls, returns, over = 5 * time.Second, 8 * time.Second, 15 * time.Second
	const settled = 500 * time.Millisecond
	for name, a := range bothLimits {
		for patience, deadline := range map[string]time.Duration{"a second": time.Second, "a minute": time.Minute} {
			t.Run(name+", patience of "+patience, func(t *testing.T) {
				t.Parallel()
				for seed := range uint64(seeds) {
					w := newWorld(seed, 1, newSlots(a))
					w.free = 300
					k := oltp(steady(.7 * capacity))
					k.deadline = deadline
					w.kinds = []*kind{k}
					w.at(int64(stalls), func() { w.cores = 0 })
					w.at(int64(returns), func() { w.cores = 1 })
					w.run(over)
					after, before := k.arrived(returns+settled, over), k.arrived(warmUp, stalls)
					stale := time.Duration(0)
					for _, o := range k.outcomes {
						if o.end == good {
							stale = max(stale, time.Duration(o.started-o.sent))
						}
					}
					t.Logf("seed %d: after the stall denied %d, late %d, p99 %v, was %v; the longest wait %v", seed, after.denied, after.late, percentile(after.latency, .99), percentile(before.latency, .99), stale)
					if after.kept() < 1 {
						t.Errorf("seed %d: half a second after the stall %.3f are served", seed, after.kept())
					}
					if stale > w.slots.Wait(k.flow) {
						t.Errorf("seed %d: somebody is served after a wait of %v", seed, stale)
					}
				}
			})
		}
	}
}

func TestWhoRestedHasSavedNothingUp(t *testing.T) {
	for seed := range uint64(seeds) {
		w := newWorld(seed, 1, newSlots(limiter.Adaptive{}))
		const returns = 8 * time.Second
		busy := oltp(steady(3 * capacity))
		rested := oltp(func(now int64) float64 {
			if now < int64(time.Second) || now >= int64(returns) {
				return 3 * capacity
			}
			return 0
		})
		w.kinds = []*kind{busy, rested}
		w.run(12 * time.Second)
		for from := returns; from < 11*time.Second; from += time.Second {
			got, other := busy.ended(from, from+time.Second).good, rested.ended(from, from+time.Second).good
			if share := float64(got) / float64(got+other); share < .42 || share > .58 {
				t.Errorf("seed %d: of the second from %v on, who was busy before has %.2f, want half", seed, from, share)
			}
		}
	}
}

func TestWeightsHoldBelowAHigherPriority(t *testing.T) {
	for seed := range uint64(seeds) {
		w := newWorld(seed, 1, newSlots(limiter.Adaptive{}))
		critical := oltp(steady(.5 * capacity))
		critical.level = limiter.LevelCritical
		light, heavy := oltp(steady(2*capacity)), oltp(steady(2*capacity))
		heavy.flow = limiter.NewFlow(3, 0)
		w.kinds = []*kind{critical, light, heavy}
		w.run(9 * time.Second)
		got, more := light.ended(warmUp, 9*time.Second).good, heavy.ended(warmUp, 9*time.Second).good
		if ratio := float64(more) / float64(got); ratio < 2.7 || ratio > 3.3 {
			t.Errorf("seed %d: a weight of 3 gets %.2f times as much as one of 1", seed, ratio)
		}
	}
}

func TestALowPriorityHasItsTrickleAndNoMore(t *testing.T) {
	for seed := range uint64(seeds) {
		w := newWorld(seed, 1, newSlots(limiter.Adaptive{}))
		for level := range 4 {
			k := oltp(steady(2 * capacity))
			k.level = limiter.Level(level)
			w.kinds = append(w.kinds, k)
		}
		w.run(11 * time.Second)
		all := 0
		for _, k := range w.kinds {
			all += k.ended(warmUp, 11*time.Second).good
		}
		for level, k := range w.kinds[1:] {
			share := float64(k.ended(warmUp, 11*time.Second).good) / float64(all)
			if least, most := .75/16/3, 1.25/16/3; share < least || share > most {
				t.Errorf("seed %d: level %d has %.4f of the grants, want a third of a sixteenth", seed, level+1, share)
			}
		}
	}
}

func TestStartedInAStormTheLimitIsFoundAllTheSame(t *testing.T) {
	for seed := range uint64(seeds) {
		w := newWorld(seed, 2, newSlots(limiter.Adaptive{Enabled: true}))
		w.rubs = .05
		k := oltp(steady(3 * 2 * capacity))
		w.kinds = []*kind{k}
		w.run(20 * time.Second)
		got := float64(k.ended(10*time.Second, 20*time.Second).good) / 10
		t.Logf("seed %d: %.0f/s; limits %v", seed, got, every(w.limits, 5))
		if got < .85*2*capacity {
			t.Errorf("seed %d: %.0f/s of 500", seed, got)
		}
	}
}

func TestWhatAlwaysTimesOutRaisesNoLimit(t *testing.T) {
	for name, a := range bothLimits {
		w := newWorld(1, 1, newSlots(a))
		k := oltp(steady(.7 * capacity))
		w.kinds = []*kind{k}
		const breaks, returns, over = 5 * time.Second, 35 * time.Second, 45 * time.Second
		w.at(int64(breaks), func() { k.sleep = 5 * time.Second })
		w.at(int64(returns), func() { k.sleep = 0 })
		w.run(over)
		before := w.limits[breaks/(100*time.Millisecond)]
		for i, l := range w.limits[breaks/(100*time.Millisecond) : returns/(100*time.Millisecond)] {
			if l > before {
				t.Fatalf("%s: the limit rises from %d to %d after %d00 ms of timeouts only", name, before, l, i)
			}
		}
		if after := k.arrived(returns+2*time.Second, over); after.kept() < 1 {
			t.Errorf("%s: two seconds after the timeouts %.3f are served", name, after.kept())
		}
	}
}
