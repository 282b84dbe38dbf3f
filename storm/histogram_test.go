package storm_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/weirproxy/weir/storm"
)

func TestHistogramIsOffByLessThanOnePercent(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	// Medians from microseconds to minutes, each with a spread of some powers of ten.
	for _, median := range []time.Duration{200 * time.Microsecond, 3 * time.Millisecond, 250 * time.Millisecond, 40 * time.Second} {
		var h storm.Histogram
		var all []time.Duration
		for range 20_000 {
			d := time.Duration(float64(median) * math.Exp(random.NormFloat64())).Truncate(time.Microsecond)
			h.Add(d)
			all = append(all, d)
		}
		slices.Sort(all)
		for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999, 1} {
			want := all[int(math.Ceil(q*float64(len(all))))-1]
			got := h.Quantile(q)
			if off := math.Abs(float64(got-want)) / float64(want); off > 0.01 && (got-want).Abs() > time.Microsecond {
				t.Errorf("median %v: quantile %v is %v, want %v: off by %.2f %%", median, q, got, want, 100*off)
			}
		}
	}
}

func TestHistogramTakesWhateverThereIs(t *testing.T) {
	tests := map[string]struct {
		durations []time.Duration
		q         float64
		want      time.Duration
	}{
		"nothing":                           {nil, 0.5, 0},
		"one value is every quantile":       {[]time.Duration{5 * time.Millisecond}, 0.01, 5 * time.Millisecond},
		"the last one is exact":             {[]time.Duration{time.Millisecond, 123_456_789}, 0.99, 123_456_789},
		"less than nothing is nothing":      {[]time.Duration{-time.Second}, 1, 0},
		"longer than there are buckets for": {[]time.Duration{time.Second, 9 * time.Hour}, 1, 9 * time.Hour},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var h storm.Histogram
			for _, d := range test.durations {
				h.Add(d)
			}
			if got := h.Quantile(test.q); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestMergedHistogramsAreTheHistogramOfAll(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 2))
	var parts [3]storm.Histogram
	var whole, merged storm.Histogram
	for i := range 9000 {
		d := time.Duration(random.ExpFloat64() * float64(20*time.Millisecond))
		parts[i%3].Add(d)
		whole.Add(d)
	}
	for i := range parts {
		merged.Merge(&parts[i])
	}
	if merged != whole {
		t.Error("merged histograms differ from the one of all values")
	}
}

func TestBarsHoldEveryValueOnce(t *testing.T) {
	var h storm.Histogram
	random := rand.New(rand.NewPCG(3, 3))
	const n = 5000
	for range n {
		h.Add(time.Duration(random.ExpFloat64() * float64(3*time.Millisecond)))
	}
	total := uint64(0)
	bars := h.Bars()
	for i, bar := range bars {
		total += bar.Count
		if bar.FromMs >= bar.ToMs || i > 0 && bars[i-1].ToMs != bar.FromMs {
			t.Errorf("bar %d is from %v to %v, after one up to %v", i, bar.FromMs, bar.ToMs, bars[max(0, i-1)].ToMs)
		}
	}
	if total != n {
		t.Errorf("bars hold %d values, want %d", total, n)
	}
}

func TestJain(t *testing.T) {
	tests := map[string]struct {
		values []float64
		want   float64
	}{
		"all the same":       {[]float64{7, 7, 7, 7}, 1},
		"one has all":        {[]float64{9, 0, 0}, 1.0 / 3},
		"half have all":      {[]float64{4, 4, 0, 0}, 0.5},
		"one alone":          {[]float64{3}, 1},
		"nobody has a bit":   {[]float64{0, 0}, 1},
		"the textbook's":     {[]float64{1, 2, 3}, 36.0 / 42},
		"there is nobody":    {nil, 1},
		"scale is no matter": {[]float64{1e9, 2e9, 3e9}, 36.0 / 42},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := storm.Jain(test.values); math.Abs(got-test.want) > 1e-12 {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
