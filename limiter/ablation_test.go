//go:build !race

package limiter_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weirproxy/weir/limiter"
)

// TestEachPartIsWorthItsCode turns one part off at a time in the scenario it is for. A part that loses nothing when it is gone
// has to go.
func TestEachPartIsWorthItsCode(t *testing.T) {
	const over = 13 * time.Second
	after := func(k *kind) tally { return k.arrived(3*time.Second, over-time.Second) }
	adaptive := limiter.Adaptive{Enabled: true}
	tests := map[string]struct {
		without []int
		limit   limiter.Adaptive // that both have
		setup   func(w *world)
		spoil   func(w *world)         // nil: without says what is missing
		measure func(w *world) float64 // in per cent, the more the better
		loses   float64                // at least so many of them
	}{
		"fair order: a caller sends 300 at once every two seconds, nine ask for 5 % each; of the nine, served in 200 ms": {
			without: []int{limiter.Fairness}, limit: adaptive,
			setup:   func(w *world) { burstsBesideNine(w) },
			measure: func(w *world) float64 { return soon(w.kinds[1:], after) },
			loses:   20,
		},
		"flows: the same, and all share one": {
			limit: adaptive,
			setup: func(w *world) { burstsBesideNine(w) },
			spoil: func(w *world) {
				for _, k := range w.kinds[1:] {
					k.flow = w.kinds[0].flow
				}
			},
			measure: func(w *world) float64 { return soon(w.kinds[1:], after) },
			loses:   20,
		},
		"flows: a caller floods at 10 times, nine ask for 5 % each; the worst of the nine": {
			limit: adaptive,
			setup: func(w *world) {
				w.kinds = []*kind{oltp(steady(10 * capacity))}
				for range 9 {
					w.kinds = append(w.kinds, oltp(steady(.05*capacity)))
				}
			},
			spoil: func(w *world) {
				for _, k := range w.kinds[1:] {
					k.flow = w.kinds[0].flow
				}
			},
			measure: func(w *world) float64 {
				worst := 1.0
				for _, k := range w.kinds[1:] {
					worst = min(worst, after(k).kept())
				}
				return 100 * worst
			},
			loses: 50,
		},
		"patience: 5 times the load, functions that wait for 100 ms; goodput": {
			without: []int{limiter.Patient}, limit: adaptive,
			setup: func(w *world) {
				k := oltp(steady(5 * capacity))
				k.deadline = 100 * time.Millisecond
				w.kinds = []*kind{k}
			},
			measure: func(w *world) float64 { return 100 * float64(after(w.kinds[0]).good) / (capacity * 9) },
			loses:   20,
		},
		"deadlines that are told: some have 60 ms, the others 3 s, which is set; twice the load; those of 60 ms that are served or told so at once": {
			without: []int{limiter.Deadlines},
			setup: func(w *world) {
				hasty, calm := oltp(steady(.3*capacity)), oltp(steady(1.7*capacity))
				hasty.tells, hasty.deadline, hasty.flow = true, 60*time.Millisecond, calm.flow
				calm.tells, calm.deadline = true, 3*time.Second
				w.kinds = []*kind{hasty, calm}
				w.slots = limiter.NewSlots(20, limiter.Queue{Patience: limiter.Patience(3 * time.Second)}.WithDefaults(), limiter.Adaptive{}.WithDefaults())
			},
			measure: func(w *world) float64 {
				k := after(w.kinds[0])
				return 100 * float64(k.good+k.denied) / float64(k.offered)
			},
			loses: 20,
		},
		"lanes: 30 % of the load becomes reports of 2 s; the short ones that are served": {
			without: []int{limiter.Lanes}, limit: adaptive,
			setup: func(w *world) {
				quick := oltp(steady(.35 * capacity))
				slow := asleep(report(func(now int64) float64 {
					if now > int64(2*time.Second) {
						return .15 * capacity
					}
					return 0
				}))
				slow.flow = quick.flow
				w.kinds = []*kind{quick, slow}
			},
			measure: func(w *world) float64 { return 100 * after(w.kinds[0]).kept() },
			loses:   30,
		},
		"priorities: critical asks for 70 %, all for 3 times what can be done; the critical that are served": {
			limit: adaptive,
			setup: func(w *world) {
				w.kinds = []*kind{oltp(steady(.7 * capacity)), oltp(steady(2.3 * capacity))}
				w.kinds[0].level = limiter.LevelCritical
			},
			spoil:   func(w *world) { w.kinds[0].level = limiter.LevelNormal },
			measure: func(w *world) float64 { return 100 * after(w.kinds[0]).kept() },
			loses:   20,
		},
		"the adaptive limit: 3 times the load of 2 processors, each query too many costs 5 %; goodput": {
			without: []int{limiter.Limiting}, limit: adaptive,
			setup: func(w *world) {
				w.cores, w.rubs = 2, .05
				w.kinds = []*kind{oltp(func(now int64) float64 {
					if now < int64(time.Second) {
						return capacity
					}
					return 3 * 2 * capacity
				})}
			},
			measure: func(w *world) float64 { return 100 * float64(after(w.kinds[0]).good) / (2 * capacity * 9) },
			loses:   25,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(10) {
				measure := func(spoilt bool) float64 {
					w := newWorld(seed, 1, newSlots(tt.limit))
					tt.setup(w)
					if spoilt {
						w.slots.Without(tt.without...)
						if tt.spoil != nil {
							tt.spoil(w)
						}
					}
					w.run(over)
					return tt.measure(w)
				}
				with, without := measure(false), measure(true)
				t.Logf("%5.1f %% with it, %5.1f %% without", with, without)
				if with-without < tt.loses {
					t.Errorf("seed %d: %.1f %% with it, %.1f %% without; want that %v are lost", seed, with, without, tt.loses)
				}
			}
		})
	}
}

func burstsBesideNine(w *world) {
	bursts := oltp(func(int64) float64 { return 0 })
	bursts.deadline = 3 * time.Second
	w.kinds = []*kind{bursts}
	for range 9 {
		w.kinds = append(w.kinds, oltp(steady(.05*capacity)))
	}
	for at := 4 * time.Second; at < 12*time.Second; at += 2 * time.Second {
		w.at(int64(at), func() {
			for range 300 {
				w.launch(bursts)
			}
		})
	}
}

// soon is how many per cent are served within 200 ms.
func soon(kinds []*kind, of func(*kind) tally) float64 {
	quick, all := 0, 0
	for _, k := range kinds {
		got := of(k)
		all += got.offered
		for _, l := range got.latency {
			if l <= 200*time.Millisecond {
				quick++
			}
		}
	}
	return 100 * float64(quick) / float64(all)
}

// TestServedIsStillWanted has what newest-first would be for: functions that do not say how long they
// wait, some of them not for long.
func TestServedIsStillWanted(t *testing.T) {
	for name, patience := range map[string]func(*rand.Rand) time.Duration{
		"150 ms":        between(150*time.Millisecond, 151*time.Millisecond),
		"0.2 s to 3 s":  between(200*time.Millisecond, 3*time.Second),
		"100 ms to 1 s": between(100*time.Millisecond, time.Second),
	} {
		for _, times := range []float64{1.3, 3, 10} {
			w := newWorld(1, 1, newSlots(limiter.Adaptive{Enabled: true}))
			w.free = 300
			k := oltp(func(now int64) float64 {
				if now < int64(2*time.Second) {
					return .5 * capacity
				}
				return times * capacity
			})
			k.patience = patience
			w.kinds = []*kind{k}
			w.run(8 * time.Second)
			got := float64(k.ended(4*time.Second, 8*time.Second).good) / (4 * capacity)
			if got < .93 {
				t.Errorf("patience of %s, %v times the load: goodput %.3f", name, times, got)
			}
		}
	}
}
