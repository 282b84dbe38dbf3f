package storm_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/internal/golden"
	"github.com/weirproxy/weir/storm"
)

// someReport has something of everything, and nothing that differs from run to run.
func someReport() *storm.Report {
	result := func(name string) *storm.Result {
		q := storm.Quantiles{Count: 3, Mean: 12.5, P50: 12, P90: 20, P99: 150, P999: 900, Max: 950}
		outcome := storm.Outcome{
			Offered: 30, Good: 3, Refused: 20, TimedOut: 5, Failed: 1, Unfinished: 1, Retried: 4,
			OfferedPerSecond: 15, GoodPerSecond: 1.5, GoodShare: 0.1, Latency: q, Transaction: q, Login: &q,
			While:    storm.Timeouts{Waiting: 3, Answer: 2},
			Refusals: []storm.Refusal{{SQLSTATE: "53300", Message: "too many clients are waiting", Rule: "resources.orders.queue.length", Count: 24, Latency: q}},
			Errors:   []storm.ErrorCount{{Message: "connection refused", Count: 1}, {SQLSTATE: "42601", Message: "syntax error at or near \"<b>\"", Count: 1}},
		}
		return &storm.Result{
			Name: name, Target: "app@weir:6432/orders", Began: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC), Seconds: 2, Interrupted: true,
			Setup: storm.Setup{
				Load: "10/s for 1s, 20/s for 1s", Connections: "kept", Count: 300, DeadlineMs: 1000, SayDeadline: true, Retries: 2, HeedHint: true,
				WorkMs: 4, RowsPerMillisecond: 15000, Transactions: 1, WarmupSeconds: 1, Seed: 1,
			},
			Outcome: outcome,
			Callers: []storm.CallerResult{
				{Name: "checkout", Weight: 0.2, Outcome: outcome, SeriesOffered: []uint32{5, 10}, SeriesGood: []uint32{1, 0}},
				{Name: "reports", Weight: 0.8, Outcome: outcome, SeriesOffered: []uint32{5, 10}, SeriesGood: []uint32{1, 1}},
			},
			Fairness:  0.75,
			Generator: storm.Generator{Lag: q, Starved: true, CPUSeconds: 0.5, CPUPerAttempt: 60, Processors: 2},
			Warnings:  []string{"the generator fell behind"},
			Latencies: []storm.Bar{{FromMs: 8, ToMs: 10, Count: 2}, {FromMs: 10, ToMs: 12, Count: 0}, {FromMs: 12, ToMs: 14, Count: 1}},
			Series: storm.Series{
				StepMs: 1000, Offered: []uint32{10, 20}, Good: []uint32{2, 1}, Refused: []uint32{5, 15}, TimedOut: []uint32{0, 5},
				Failed: []uint32{1, 0}, InFlight: []int64{2, 1}, P50: []float64{12, 0}, P90: []float64{20, 0}, P99: []float64{150, 0}, Max: []float64{950, 0},
			},
		}
	}
	return &storm.Report{Version: 1, Results: []*storm.Result{result("weir"), result("pgbouncer")}}
}

func TestReportsAreGolden(t *testing.T) {
	for name, write := range map[string]func(*storm.Report, io.Writer) error{
		"report.json": indented,
		"report.txt":  (*storm.Report).WriteText,
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := write(someReport(), &b); err != nil {
				t.Fatal(err)
			}
			golden.Compare(t, filepath.Join("testdata", name), b.String())
		})
	}
}

func indented(r *storm.Report, w io.Writer) error {
	var line, page bytes.Buffer
	if err := r.WriteJSON(&line); err != nil {
		return err
	}
	if err := json.Indent(&page, line.Bytes(), "", " "); err != nil {
		return err
	}
	_, err := page.WriteTo(w)
	return err
}

func TestJSONIsReadBackAsItWas(t *testing.T) {
	var b bytes.Buffer
	if err := someReport().WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	got := new(storm.Report)
	decoder := json.NewDecoder(&b)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(got); err != nil {
		t.Fatal(err)
	}
	if want := someReport(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got.Results[0], want.Results[0])
	}
}

func TestHTMLNeedsNothingElse(t *testing.T) {
	reports := map[string]*storm.Report{
		"two results":         someReport(),
		"one result":          {Version: 1, Results: someReport().Results[:1]},
		"nothing happened":    {Version: 1, Results: []*storm.Result{{Name: "nothing"}}},
		"no result":           {Version: 1},
		"a storm in a bubble": bubbleReport(t),
	}
	for name, report := range reports {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := report.WriteHTML(&b); err != nil {
				t.Fatal(err)
			}
			page := b.String()
			for _, unwanted := range []string{"http:", "https:", "<script", "src=", "url(", "NaN", "Inf", "<b>\"", "ZgotmplZ"} {
				if strings.Contains(page, unwanted) {
					t.Errorf("%q is in the page", unwanted)
				}
			}
			for _, svg := range regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(page, -1) {
				decoder := xml.NewDecoder(strings.NewReader(svg))
				for {
					if _, err := decoder.Token(); errors.Is(err, io.EOF) {
						break
					} else if err != nil {
						t.Fatalf("%v in %s", err, svg)
					}
				}
			}
			if len(report.Results) > 1 && strings.Count(page, "<svg") < 8 {
				t.Errorf("%d pictures", strings.Count(page, "<svg"))
			}
		})
	}
}

// bubbleReport is of a storm with many steps.
func bubbleReport(t *testing.T) (report *storm.Report) {
	synctest.Test(t, func(t *testing.T) {
		d := &database{answer: takes(3 * time.Millisecond)}
		load, _ := storm.ParseLoad("10/s for 5s, ramp to 100/s for 5s")
		r := d.storm(t, storm.Plan{Load: load, Connections: storm.Kept, Kept: 3, Resolution: 10 * time.Millisecond})
		report = &storm.Report{Version: 1, Results: []*storm.Result{r}}
	})
	return report
}

func TestCompareRunsTheSameStormAtEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &database{answer: takes(time.Millisecond)}
		seen := map[string]bool{}
		report, err := storm.Compare(t.Context(), storm.Plan{Dial: d.dial, Load: storm.Steady(50, 2*time.Second), Resolution: 100 * time.Millisecond},
			[]storm.Target{{"a", someDSN}, {"b", someDSN}}, func(target string, _ storm.Progress) { seen[target] = true })
		if err != nil {
			t.Fatal(err)
		}
		d.serving.Wait()
		a, b := report.Results[0], report.Results[1]
		if a.Name != "a" || b.Name != "b" || !seen["a"] || !seen["b"] || !reflect.DeepEqual(a.Series, b.Series) {
			t.Errorf("a: %+v\nb: %+v\nseen %v", a.Series, b.Series, seen)
		}
	})
	if _, err := storm.Compare(t.Context(), storm.Plan{Load: storm.Together(1)}, []storm.Target{{"a", someDSN}, {"b", ""}}, nil); err == nil ||
		!strings.HasPrefix(err.Error(), "target b: dsn: is missing") {
		t.Errorf("a target without a DSN: %v", err)
	}
}
