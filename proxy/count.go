package proxy

import (
	"sync"
	"sync/atomic"
	"time"
)

// seconds are the upper bounds of all histograms of durations.
var seconds = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// Durations counts durations in buckets. It is safe for concurrent use; its zero value is ready.
type Durations struct {
	buckets [18]atomic.Uint64 // one more than seconds: the rest
	sum     atomic.Int64
}

// Observe counts one duration.
func (d *Durations) Observe(t time.Duration) {
	s, i := t.Seconds(), 0
	for i < len(seconds) && s > seconds[i] {
		i++
	}
	d.buckets[i].Add(1)
	d.sum.Add(int64(t))
}

// Histogram is what has been counted so far.
func (d *Durations) Histogram() Histogram {
	h := Histogram{Bounds: seconds, Counts: make([]uint64, len(seconds)), Sum: time.Duration(d.sum.Load())}
	for i := range d.buckets {
		h.Count += d.buckets[i].Load()
		if i < len(seconds) {
			h.Counts[i] = h.Count
		}
	}
	return h
}

// Tally counts events by name, for what happens too rarely to be worth a counter of its own. It is safe for concurrent use;
// its zero value is ready.
type Tally[K comparable] struct {
	mu     sync.Mutex
	counts map[K]int64
}

// Add counts n more of name.
func (t *Tally[K]) Add(name K, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = make(map[K]int64)
	}
	t.counts[name] += n
}

// Counts is a copy of what has been counted so far.
func (t *Tally[K]) Counts() map[K]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[K]int64, len(t.counts))
	for k, n := range t.counts {
		out[k] = n
	}
	return out
}
