package fleet

import (
	"slices"
	"time"
)

// Histogram is a cumulative histogram in Prometheus' sense.
type Histogram struct {
	Bounds []float64 // upper bounds in seconds, ascending, without +Inf
	Counts []uint64  // observations at most Bounds[i]; cumulative
	Count  uint64
	Sum    time.Duration
}

var beatBounds = [...]float64{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1}

type histogram struct {
	counts [len(beatBounds)]uint64 // cumulative
	count  uint64
	sum    time.Duration
}

func (h *histogram) observe(d time.Duration) {
	h.count++
	h.sum += d
	for i, bound := range beatBounds {
		if d.Seconds() <= bound {
			h.counts[i]++
		}
	}
}

func (h *histogram) snapshot() Histogram {
	return Histogram{
		Bounds: slices.Clone(beatBounds[:]),
		Counts: slices.Clone(h.counts[:]),
		Count:  h.count,
		Sum:    h.sum,
	}
}
