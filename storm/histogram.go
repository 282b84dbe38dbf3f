package storm

import (
	"math"
	"math/bits"
	"time"
)

// A histogram counts durations in buckets whose width grows with the value: 1 µs up to 128 µs, and from there on a 64th of
// the power of two below. What it returns is the middle of a bucket, so that it is off by less than 1 %, whatever the range,
// in 14 kB.
type histogram struct {
	counts [histogramBuckets]uint64
	n      uint64
	sum    time.Duration
	max    time.Duration
}

const (
	histogramFine    = 64 // buckets for each power of two
	histogramLongest = math.MaxUint32
	histogramBuckets = 25*histogramFine + 2*histogramFine // see bucketOf of histogramLongest
)

// bucketOf is the bucket of a number of microseconds.
func bucketOf(us uint64) int {
	us = min(us, histogramLongest)
	if us < 2*histogramFine {
		return int(us)
	}
	shift := bits.Len64(us) - 7 // leaves a number from 64 to 127
	return histogramFine*shift + int(us>>shift)
}

// bucketBounds is the first value of a bucket and the first one behind it, in microseconds.
func bucketBounds(bucket int) (low, high uint64) {
	if bucket < 2*histogramFine {
		return uint64(bucket), uint64(bucket) + 1
	}
	shift := bucket/histogramFine - 1
	low = uint64(bucket-histogramFine*shift) << shift
	return low, low + 1<<shift
}

func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucketOf(uint64(d/time.Microsecond))]++
	h.n++
	h.sum += d
	h.max = max(h.max, d)
}

// merge adds all that o counted.
func (h *histogram) merge(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.n += o.n
	h.sum += o.sum
	h.max = max(h.max, o.max)
}

// quantile is the smallest duration that at least the share q of all durations do not exceed; 0 when there are none.
func (h *histogram) quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := max(1, uint64(math.Ceil(q*float64(h.n))))
	if rank >= h.n {
		return h.max
	}
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return min(bucketMiddle(i), h.max)
		}
	}
	return h.max
}

func bucketMiddle(bucket int) time.Duration {
	low, high := bucketBounds(bucket)
	return time.Duration(low+high) * time.Microsecond / 2
}

// coarse sums the buckets up to four for each power of two, for a picture; empty ones at both ends are left out.
func (h *histogram) coarse() []Bar {
	var bars []Bar
	for i := 0; i < histogramBuckets; i++ {
		low, high := bucketBounds(i)
		edge := coarseEdge(low)
		if len(bars) == 0 || bars[len(bars)-1].FromMs != edge {
			bars = append(bars, Bar{FromMs: edge})
		}
		last := &bars[len(bars)-1]
		last.ToMs = float64(high) / 1000
		last.Count += h.counts[i]
	}
	for len(bars) > 0 && bars[0].Count == 0 {
		bars = bars[1:]
	}
	for len(bars) > 0 && bars[len(bars)-1].Count == 0 {
		bars = bars[:len(bars)-1]
	}
	return bars
}

// coarseEdge is where the quarter of a power of two begins that holds us, in milliseconds.
func coarseEdge(us uint64) float64 {
	if us < 4 {
		return float64(us) / 1000
	}
	shift := bits.Len64(us) - 3
	return float64(us>>shift<<shift) / 1000
}

// reset forgets everything.
func (h *histogram) reset() { *h = histogram{} }
