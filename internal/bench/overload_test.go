package main

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/golden"
	"github.com/weirproxy/weir/storm"
)

// blocks is a series of steps of 100 ms from pairs of a length and the count in each of its steps.
func blocks(pairs ...int) counts {
	c := counts{step: 100 * time.Millisecond}
	for i := 0; i < len(pairs); i += 2 {
		for range pairs[i] {
			c.each = append(c.each, uint32(pairs[i+1]))
		}
	}
	return c
}

func TestTimeUntilARateHasSettled(t *testing.T) {
	s := settling{window: 500 * time.Millisecond, hold: time.Second}
	tests := map[string]struct {
		counts
		from, want float64 // seconds
	}{
		"it never leaves": {blocks(40, 10), 1, 0},
		"it comes at once: what was before is no matter": {blocks(10, 0, 30, 10), 1, 0},
		"it comes after a while":                         {blocks(17, 0, 23, 10), 1, 0.7},
		"it comes, and leaves again for a moment":        {blocks(10, 10, 5, 10, 5, 0, 20, 10), 1, 1},
		"it comes too late to tell whether it stays":     {blocks(33, 0, 7, 10), 1, math.NaN()},
		"it never comes":                                 {blocks(40, 9), 1, math.NaN()},
		"nothing is there":                               {blocks(), 1, math.NaN()},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := s.reaches(test.counts, at(test.from), at(4), 95)
			if !same(got, test.want) {
				t.Errorf("settled after %v s, want %v s", got, test.want)
			}
		})
	}
}

func TestLowestRateIsOfAWholeWindow(t *testing.T) {
	s := settling{window: 500 * time.Millisecond}
	if got := s.lowest(blocks(10, 10, 1, 0, 20, 10), at(0), at(3)); !same(got, 80) {
		t.Errorf("lowest %v/s, want 80/s: one empty step is a fifth of a window", got)
	}
	if got := s.lowest(blocks(10, 10), at(0), at(0.4)); !math.IsNaN(got) {
		t.Errorf("lowest of less than a window is %v, want none", got)
	}
}

func TestTimeUntilSilence(t *testing.T) {
	tests := map[string]struct {
		counts
		want float64
	}{
		"at once":                       {blocks(10, 5, 20, 0), 0},
		"after the last":                {blocks(13, 5, 20, 0), 0.3},
		"a pause that is too short":     {blocks(13, 5, 5, 0, 1, 1, 20, 0), 0.9},
		"never":                         {blocks(30, 1), math.NaN()},
		"after the end of what is told": {blocks(12, 5), 0.2},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := silent(test.counts, at(1), at(3), time.Second); !same(got, test.want) {
				t.Errorf("silent after %v s, want %v s", got, test.want)
			}
		})
	}
}

func TestTimeUntilALimitHasFollowed(t *testing.T) {
	var g gauge
	for i, limit := range []float64{20, 20, 20, 14, 14, 12, 10, 10, 10, 10} {
		g.at, g.value = append(g.at, at(float64(i))), append(g.value, limit)
	}
	tests := map[string]struct {
		old, new float64
		want     float64
	}{
		"most of the way is enough":          {20, 10, 3},
		"up is a way as well, but not gone":  {10, 20, 0},
		"it does not get there":              {20, 2, math.NaN()},
		"there is no way to go":              {20, 20, math.NaN()},
		"where it stays is not known at all": {20, math.NaN(), math.NaN()},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := g.follows(at(2), at(10), test.old, test.new); !same(got, test.want) {
				t.Errorf("followed after %v s, want %v s", got, test.want)
			}
		})
	}
	if got := g.middle(at(0), at(3)); got != 20 {
		t.Errorf("median at first %v, want 20", got)
	}
	if got := g.lowest(at(0), at(6)); got != 12 {
		t.Errorf("lowest %v, want 12", got)
	}
}

func TestGaugeKeepsItsValueBetweenTwoLooks(t *testing.T) {
	g := gauge{at: []time.Duration{at(0.2), at(0.9)}, value: []float64{5, 7}}
	got := g.steps(500*time.Millisecond, 2*time.Second)
	for i, want := range []float64{5, 7, 7, 7} {
		if got[i] != want {
			t.Errorf("steps %v: the one numbered %d is not %v", got, i, want)
		}
	}
}

func TestStepReadsTheStormOnly(t *testing.T) {
	r := &storm.Result{}
	fill := func(list *[]uint32, seconds float64, each uint32) {
		for range int(at(seconds) / fine) {
			*list = append(*list, each)
		}
	}
	fill(&r.Series.Good, 2, 1)     // 0.7×, say
	fill(&r.Series.Good, 0.3, 0)   // the storm comes
	fill(&r.Series.Good, 3.7, 2)   // and is mastered
	fill(&r.Series.Good, 2, 1)     // 0.7× again
	fill(&r.Series.Refused, 2, 0)  //
	fill(&r.Series.Refused, 4, 9)  //
	fill(&r.Series.Refused, .1, 1) // who came at the end of the storm
	got := readStep(r, at(2), at(6), at(8))
	want := stepFigures{steady: 200, within: 0.28, dip: 60, calm: 0.1} // 5 % of the half second may be missing
	if !same(got.steady, want.steady) || !same(got.within, want.within) || !same(got.dip, want.dip) || !same(got.calm, want.calm) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestProcessorsOfAProxyAreThoseOfTheTimeBetween(t *testing.T) {
	a := account{at: []time.Duration{at(2), at(2.5), at(6)}, used: []time.Duration{at(10), at(10.1), at(11)}}
	if got := a.processors(); !same(got, 0.25) {
		t.Errorf("%v processors, want 0.25", got)
	}
	if got := (&account{}).processors(); !math.IsNaN(got) {
		t.Errorf("%v processors although nothing was measured", got)
	}
}

func TestFloodComparesTheOthersOnly(t *testing.T) {
	caller := func(good, offered uint64, p99 float64) storm.CallerResult {
		return storm.CallerResult{Outcome: storm.Outcome{
			Good: good, Offered: offered, GoodShare: float64(good) / float64(offered), Latency: storm.Quantiles{P99: p99},
		}}
	}
	got := readFlood([]storm.CallerResult{caller(50, 1000, 900), caller(100, 100, 30), caller(20, 40, 50)})
	want := floodFigures{flood: 5, worst: 50, best: 100, together: 100 * 120. / 140, p99: 50, jain: 0.9}
	if !same(got.flood, want.flood) || !same(got.worst, want.worst) || !same(got.best, want.best) ||
		!same(got.together, want.together) || !same(got.p99, want.p99) || !same(got.jain, want.jain) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// example is a grid as a run could have filled it.
func example() *grid {
	g := newGrid("300 kept connections", "kept.svg", direct, pgbouncer, impatient, weir, told)
	cell := func(good, p99, cpu float64) observed {
		o := observed{&storm.Result{}, cpu}
		o.Offered, o.Refused, o.TimedOut, o.GoodPerSecond = 1000, 300, 200, good
		o.Latency = storm.Quantiles{Count: 500, P50: p99 / 2, P99: p99}
		o.Refusal = storm.Quantiles{P99: 2.5}
		o.Generator.Lag.P99 = 1.2
		return o
	}
	g.put(direct, 1, cell(240, 90, math.NaN()))
	g.put(direct, 10, cell(120, 990, math.NaN()))
	g.put(pgbouncer, 1, cell(250, 80, 0.02))
	g.put(pgbouncer, 10, cell(0, 0, 0.05))
	g.put(weir, 1, cell(245, 85, 0.04))
	g.put(weir, 2, cell(245, 110, 0.05))
	starved := cell(240, 120, 0.20)
	starved.Generator.Starved = true
	g.put(weir, 10, starved)
	return g
}

func TestGoodputIsInPercentOfTheBestAtOnce(t *testing.T) {
	g := example()
	for _, test := range []struct {
		name   string
		factor int
		want   float64
	}{{pgbouncer, 1, 100}, {weir, 1, 98}, {weir, 10, 96}, {pgbouncer, 10, 0}, {weir, 5, math.NaN()}, {impatient, 1, math.NaN()}} {
		if got := g.share(test.name, test.factor); !same(got, test.want) {
			t.Errorf("%s at %d×: %v %%, want %v %%", test.name, test.factor, got, test.want)
		}
	}
	if got, want := g.refusing(weir, 10), 100*(0.20-240*0.04/245)/2; !same(got, want) {
		t.Errorf("refusing costs %v %%, want %v %%", got, want)
	}
	if got := g.refusing(told, 10); !math.IsNaN(got) {
		t.Errorf("refusing of a side that was not measured costs %v %%", got)
	}
}

func TestOverloadReport(t *testing.T) {
	r := results{beside: "beside it", marks: overloadMarks}
	r.about = [][2]string{{"capacity, 1×", "250 functions/s"}}
	g := example()
	r.section(g.section(250))
	g.judge(&r)
	r.goal("step", atMost, 0.5, math.NaN(), "%.2f s", "")
	r.failures = []string{"half: it ended | early"}

	var text, markdown bytes.Buffer
	r.text(&text)
	r.markdown(&markdown)
	golden.Compare(t, "testdata/overload.txt", text.String())
	golden.Compare(t, "testdata/overload.md", markdown.String())

	folder := t.TempDir()
	document := filepath.Join(folder, "benchmarks.md")
	both := resultsMarks.begin + "\nkept\n" + resultsMarks.end + "\n" + overloadMarks.begin + "\nold\n" + overloadMarks.end + "\n"
	if err := os.WriteFile(document, []byte(both), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.write(document); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(written, []byte("\nkept\n")) || bytes.Contains(written, []byte("\nold\n")) {
		t.Errorf("not between its own marks:\n%s", written)
	}
	picture, err := os.ReadFile(filepath.Join(folder, chartsFolder, "kept.svg"))
	if err != nil || !bytes.Contains(picture, []byte("<svg")) {
		t.Errorf("chart: %v, %.80s", err, picture)
	}
}

func TestScenariosByName(t *testing.T) {
	if all, err := wantedScenarios("all"); err != nil || len(all) != len(scenarios) {
		t.Errorf("all: %v, %v", all, err)
	}
	if some, err := wantedScenarios("step,cost"); err != nil || len(some) != 2 {
		t.Errorf("step,cost: %v, %v", some, err)
	}
	if _, err := wantedScenarios("step,storms"); err == nil {
		t.Error("a scenario that there is not is no error")
	}
}

func at(seconds float64) time.Duration {
	return time.Duration(math.Round(seconds * float64(time.Second)))
}

func same(a, b float64) bool { return math.Abs(a-b) < 1e-9 || math.IsNaN(a) && math.IsNaN(b) }

func TestReportsOfWhatWasNeverGoodHaveNoLatency(t *testing.T) {
	callers := make([]storm.CallerResult, 3)
	callers[0].GoodShare, callers[2].GoodShare = 0.25, 0.1
	got := readReports(callers, gauge{}, time.Second)
	if got.goodFirst != 25 || got.goodLater != 0 || got.goodReports != 10 || !math.IsNaN(got.p99) || !math.IsNaN(got.limitLowest) {
		t.Errorf("got %+v", got)
	}
	if callers[1].Latency = (storm.Quantiles{Count: 9, P99: 40}); readReports(callers[:2], gauge{}, time.Second).p99 != 40 {
		t.Error("the latency of quick functions is lost")
	}
}
