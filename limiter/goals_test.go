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
	seeds  = 3
	warmUp = time.Second
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
						if share < goal.least || served > 300*time.Millisecond || refused > 20*time.Millisecond {
							t.Errorf("seed %d, %v times: goodput %.3f, want %.2f; p99 of the served %v, want 300ms; of the refused %v, want 20ms",
								seed, goal.times, share, goal.least, served, refused)
						}
					}
				}
			})
		}
	}
}

func TestAStormThatComesAndGoes(t *testing.T) {
	const begins, ends, over = 3 * time.Second, 9 * time.Second, 12 * time.Second
	const settled = 500 * time.Millisecond
	for name, a := range bothLimits {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(seeds) {
				w := newWorld(seed, 1, newSlots(a))
				w.free = 300
				k := oltp(func(now int64) float64 {
					if now >= int64(begins) && now < int64(ends) {
						return 10 * capacity
					}
					return .7 * capacity
				})
				w.kinds = []*kind{k}
				w.run(over)
				steady := float64(k.ended(begins+2*time.Second, ends).good) / (ends - begins - 2*time.Second).Seconds()
				first := float64(k.ended(begins+settled, begins+settled+time.Second).good)
				after := k.arrived(ends+settled, over)
				t.Logf("seed %d: %.0f/s, half a second after the step %.0f/s; refused after it %d, late %d, p99 %v", seed, steady, first, after.denied, after.late, percentile(after.latency, .99))
				if first < .95*steady || after.denied+after.late > 0 {
					t.Errorf("seed %d: goodput %.0f/s half a second after the step, %.0f/s later; refused after the storm: %d, late %d", seed, first, steady, after.denied, after.late)
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
				for i, k := range w.kinds {
					got := k.arrived(warmUp, 11*time.Second)
					t.Logf("seed %d, caller %d: %.4f of %d, p99 %v", seed, i, got.kept(), got.offered, percentile(got.latency, .99))
					if i > 0 && got.kept() < .99 {
						t.Errorf("seed %d: caller %d, who asks for little, keeps %.4f of its requests, want .99", seed, i, got.kept())
					}
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
						k := oltp(steady(3 * 4 * 1000 / cost))
						k.flow, k.class = limiter.NewFlow(weight, 0), known.class[i]
						k.work = func(rng *rand.Rand) time.Duration {
							return time.Duration(cost * (.5 + rng.Float64()) * float64(time.Millisecond))
						}
						w.kinds = append(w.kinds, k)
					}
					const from, to = 2 * time.Second, 6 * time.Second
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
