package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPgbenchReport(t *testing.T) {
	const whole = `number of transactions actually processed: 3002
latency average = 1.332 ms
initial connection time = 12.345 ms
tps = 15020.123456 (without initial connection time)
`
	tests := map[string]struct {
		text string
		ok   bool
	}{
		"a whole report":       {whole, true},
		"no transactions":      {strings.Replace(whole, "3002", "0", 1), false},
		"a report cut short":   {whole[:60], false},
		"an error and no more": {"pgbench: error: connection refused", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tps, latency, n, err := pgbenchReport(test.text)
			if (err == nil) != test.ok {
				t.Fatalf("error %v, want one: %v", err, !test.ok)
			}
			if test.ok && (tps != 15020.123456 || latency != 1.332 || n != 3002) {
				t.Errorf("got %v tps, %v ms, %d transactions", tps, latency, n)
			}
		})
	}
}

func TestRatioIsTheMedianOfTheRoundsRatios(t *testing.T) {
	s := series{"a": {10, 400, 9}, "b": {10, 200, 10}} // a slow second round hits both
	if got := s.ratio("a", "b"); got != 1 {
		t.Errorf("ratio %v, want 1", got)
	}
	if got := s.ratio("a", "never measured"); !math.IsNaN(got) {
		t.Errorf("ratio to a side that was not measured %v, want NaN", got)
	}
}

func TestEachSideComesFirstInTurn(t *testing.T) {
	sides := []string{"a", "b", "c"}
	want := []string{"a b c", "b c a", "c a b", "a b c"}
	for round, want := range want {
		if got := strings.Join(turns(sides, round), " "); got != want {
			t.Errorf("round %d: %s, want %s", round, got, want)
		}
	}
}

func TestQuantile(t *testing.T) {
	var took []time.Duration
	for i := range 100 {
		took = append(took, time.Duration(i+1)*time.Millisecond)
	}
	for q, want := range map[float64]float64{0.5: 51, 0.99: 100, 1: 100} {
		if got := quantile(took, q); got != want {
			t.Errorf("quantile %v: %v ms, want %v", q, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("quantile of nothing: %v, want 0", got)
	}
}

func TestPaceOffersItsRateAlikeToEverySide(t *testing.T) {
	j := job{Clients: 10, Rate: 100} // a tenth of a second between two starts of one client
	a, b := newPace(j, 3), newPace(j, 3)
	b.next = a.next
	start := a.next
	const starts = 10_000
	for range starts {
		a.advance()
		b.advance()
	}
	if !a.next.Equal(b.next) {
		t.Error("the same client of two sides gets different arrivals")
	}
	mean := a.next.Sub(start) / starts
	if mean < 95*time.Millisecond || mean > 105*time.Millisecond {
		t.Errorf("%v between two starts, want about 100ms", mean)
	}
}

func TestWriteReplacesTheResultsOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "benchmarks.md")
	text := "# Speed\n\n" + resultsMarks.begin + "\nold\n" + resultsMarks.end + "\n\nlast words\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var r results
	r.atMost("memory", 1500, 1400, "%.0f bytes", "")
	r.atMost("processor", 0.3, 0.4, "%.1f %%", "")
	r.atLeast("not measured", 1, math.NaN(), "%.2f×", "")
	for range 2 { // the second time it finds its own
		if err := r.write(path); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := string(b)
	for _, want := range []string{"# Speed\n", "last words\n", "| memory | ≤ 1500 bytes | 1400 bytes |  | met |", "| processor | ≤ 0.3 % | 0.4 % |  | **not met** |"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("%q is there %d times, want once:\n%s", want, strings.Count(got, want), got)
		}
	}
	if strings.Contains(got, "old") || strings.Contains(got, "not measured") {
		t.Errorf("too much is left:\n%s", got)
	}

	if err := os.WriteFile(path, []byte("no marks"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.write(path); err == nil {
		t.Error("a document without marks was written to")
	}
}

func TestServerErrorNamesStateAndText(t *testing.T) {
	body := strings.Join([]string{"SFATAL", "VFATAL", "C53300", "Mtoo many clients", "", ""}, "\x00")
	if got, want := serverError([]byte(body)).Error(), "server says 53300 too many clients"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestStartupMessageCountsItself(t *testing.T) {
	want := "\x00\x00\x00\x1c\x00\x03\x00\x00user\x00u\x00database\x00db\x00\x00"
	if got := string(startup("u", "db")); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
