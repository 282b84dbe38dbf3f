package storm_test

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/storm"
)

func TestParseLoad(t *testing.T) {
	type phases = []storm.Phase
	tests := map[string]phases{
		"200/s for 10s":                  {{From: 200, To: 200, For: 10 * time.Second}},
		"  0.5/s  for 1m30s ":            {{From: 0.5, To: 0.5, For: 90 * time.Second}},
		"200/s for 10s, 3000/s for 5s":   {{From: 200, To: 200, For: 10 * time.Second}, {From: 3000, To: 3000, For: 5 * time.Second}},
		"ramp to 500/s for 10s":          {{From: 0, To: 500, For: 10 * time.Second}},
		"9/s for 1s, ramp to 5/s for 2s": {{From: 9, To: 9, For: time.Second}, {From: 9, To: 5, For: 2 * time.Second}},
		"ramp from 7/s to 5/s for 2s":    {{From: 7, To: 5, For: 2 * time.Second}},
		"500 at once":                    {{Burst: 500}},
		"1000 at once every 10s up to 2500": {
			{Burst: 1000, For: 10 * time.Second}, {Burst: 1000, For: 10 * time.Second}, {Burst: 500, For: 10 * time.Second},
		},
		"100/s for 1s, add 200/s every 5s up to 450/s": {
			{From: 100, To: 100, For: time.Second},
			{From: 300, To: 300, For: 5 * time.Second},
			{From: 450, To: 450, For: 5 * time.Second},
		},
	}
	for text, want := range tests {
		t.Run(text, func(t *testing.T) {
			load, err := storm.ParseLoad(text)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(load.Phases, want) {
				t.Errorf("got %+v, want %+v", load.Phases, want)
			}
			again, err := storm.ParseLoad(load.String())
			if err != nil || !reflect.DeepEqual(again, load) {
				t.Errorf("%q reads as %+v, %v", load, again, err)
			}
		})
	}
}

func TestParseLoadSaysWhatWasExpected(t *testing.T) {
	tests := map[string]string{
		"":                                       `"" is not a phase of a load; expected phases`,
		"200/s":                                  `"200/s" is not a phase of a load; expected phases`,
		"200/s for 10s, 300/m for 1s":            `"300/m for 1s" is not a phase`,
		"-1/s for 10s":                           `-1/s is not a rate from 0/s to 50000/s`,
		"NaN/s for 10s":                          `NaN/s is not a rate`,
		"60000/s for 1s":                         `60000/s is not a rate`,
		"200/s for 10":                           `10 is not a duration up to 1h`,
		"200/s for 2h":                           `2h is not a duration up to 1h`,
		"0 at once":                              `0 is not a number of functions from 1 to 100000`,
		"1 at once every 1ms up to 100000":       `makes more than 10000 phases`,
		"add 0.001/s every 1s up to 50000/s":     `makes more than 10000 phases`,
		"9/s for 1s, add 1/s every 1s up to 5/s": `leads nowhere from 9/s`,
		strings.Repeat("1/s for 1ms,", 10_000) + "1/s for 1ms": `makes more than 10000 phases`,
	}
	for text, want := range tests {
		t.Run(text[:min(40, len(text))], func(t *testing.T) {
			_, err := storm.ParseLoad(text)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
}

func TestSteadyLoadIsAPoissonProcess(t *testing.T) {
	const seeds, rate, seconds = 300, 100.0, 5
	var counts []float64
	var gaps []float64
	for seed := range uint64(seeds) {
		moments := storm.Moments(storm.Steady(rate, seconds*time.Second), 1, seed, 0)
		if !slices.IsSorted(moments) || moments[len(moments)-1] >= seconds*time.Second {
			t.Fatalf("seed %d: moments are out of order or out of the load", seed)
		}
		counts = append(counts, float64(len(moments)))
		for i := 1; i < len(moments); i++ {
			gaps = append(gaps, (moments[i] - moments[i-1]).Seconds())
		}
	}
	mean, variance := stats(counts)
	if want := rate * seconds; math.Abs(mean-want) > 4*math.Sqrt(want/seeds) {
		t.Errorf("%v functions on average, want %v", mean, want)
	}
	if ratio := variance / mean; ratio < 0.75 || ratio > 1.3 { // 1 for Poisson; 4 standard errors of 300 seeds
		t.Errorf("variance is %v times the mean, want about 1", ratio)
	}
	mean, variance = stats(gaps)
	if math.Abs(mean*rate-1) > 0.02 || math.Abs(math.Sqrt(variance)/mean-1) > 0.02 {
		t.Errorf("gaps of %v s on average with a deviation of %v s, want both %v s", mean, math.Sqrt(variance), 1/rate)
	}
}

func stats(values []float64) (mean, variance float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	for _, v := range values {
		variance += (v - mean) * (v - mean) / float64(len(values)-1)
	}
	return mean, variance
}

func TestLoadKeepsItsShape(t *testing.T) {
	tests := map[string][]float64{ // functions expected in each second
		"1000/s for 1s, 3000/s for 1s, 0/s for 1s, 500/s for 1s": {1000, 3000, 0, 500},
		"ramp to 4000/s for 4s":                                  {500, 1500, 2500, 3500},
		"ramp from 4000/s to 0/s for 4s":                         {3500, 2500, 1500, 500},
		"add 1000/s every 1s up to 3000/s":                       {1000, 2000, 3000},
		"700 at once, 300/s for 1s":                              {1000},
		"1000 at once every 1s up to 2500":                       {1000, 1000, 500},
	}
	for text, want := range tests {
		t.Run(text, func(t *testing.T) {
			load, err := storm.ParseLoad(text)
			if err != nil {
				t.Fatal(err)
			}
			const seeds = 20
			got := make([]float64, len(want))
			for seed := range uint64(seeds) {
				for _, at := range storm.Moments(load, 1, seed, 0) {
					got[at/time.Second] += 1.0 / seeds
				}
			}
			for i := range want {
				if math.Abs(got[i]-want[i]) > 5*math.Sqrt(want[i]/seeds) {
					t.Errorf("second %d: %.0f functions, want %.0f", i, got[i], want[i])
				}
			}
		})
	}
}

func TestBurstsAreExactHoweverTheyAreShared(t *testing.T) {
	load, err := storm.ParseLoad("10 at once every 1s up to 100")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []float64{1, 0.5, 0.25, 0.1, 0.33} {
		moments := storm.Moments(load, part, 1, 0)
		if want := int(100*part + 1e-9); len(moments) != want {
			t.Errorf("a part of %v has %d functions, want %d", part, len(moments), want)
		}
		for _, at := range moments {
			if at%time.Second != 0 {
				t.Fatalf("one starts at %v", at)
			}
		}
	}
}

func TestTheSameSeedIsTheSameStorm(t *testing.T) {
	plan := storm.Plan{
		DSN: "postgres://app@localhost/app", Load: storm.Steady(1000, 2*time.Second), Seed: 7,
		Callers: []storm.Caller{{Name: "a", Share: 0.25}, {Name: "b"}, {Name: "c", Load: storm.Steady(50, time.Second)}},
	}
	starts := func(plan storm.Plan) []storm.Start {
		all, err := storm.Starts(plan)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	first := starts(plan)
	if !slices.Equal(first, starts(plan)) {
		t.Error("the same plan has other moments the second time")
	}
	plan.Seed = 8
	if slices.Equal(first, starts(plan)) {
		t.Error("another seed has the same moments")
	}
	var each [3]float64
	for i, s := range first {
		each[s.Caller]++
		if i > 0 && s.At < first[i-1].At {
			t.Fatalf("function %d starts before the one ahead of it", i)
		}
	}
	for i, want := range []float64{500, 1500, 50} {
		if math.Abs(each[i]-want) > 5*math.Sqrt(want) {
			t.Errorf("caller %d has %v functions, want about %v", i, each[i], want)
		}
	}
}
