package storm

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
)

//go:embed report.html
var reportPage string

var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"ms":      milliseconds,
	"percent": percent,
	"short":   shorten,
	"round1":  func(v float64) string { return fmt.Sprintf("%.1f", v) },
	"weight":  func(v float64) string { return fmt.Sprintf("%.3g", v) },
	"numbers": chartNumbers,
}).Parse(reportPage))

func chartNumbers() map[string]float64 {
	return map[string]float64{
		"Width": chartWidth, "Height": chartHeight, "Left": plotLeft, "Right": plotRight, "Top": plotTop, "Bottom": plotBottom,
	}
}

// WriteHTML writes the report as one page that needs nothing else: no script, no style and no picture from elsewhere.
func (r *Report) WriteHTML(w io.Writer) error {
	page := reportView{Report: r}
	for _, result := range r.Results {
		page.Views = append(page.Views, resultView{Result: result, Setup: result.Setup.sentence(), Charts: result.charts(), RefusedBars: result.refusalBars()})
	}
	if len(r.Results) > 1 {
		page.SideBySide = r.sideBySide()
		page.Together = r.charts()
	}
	return reportTemplate.Execute(w, page)
}

type reportView struct {
	*Report
	Views      []resultView
	SideBySide [][]string
	Together   []chart
}

type resultView struct {
	*Result
	Setup       string
	Charts      []chart
	RefusedBars []refusalBar
}

type refusalBar struct {
	Refusal
	Why   string
	Width float64 // percent
}

func (r *Result) refusalBars() []refusalBar {
	var bars []refusalBar
	most := uint64(1)
	for _, refusal := range r.Refusals {
		most = max(most, refusal.Count)
		bars = append(bars, refusalBar{Refusal: refusal, Why: refusal.why(), Width: round(100 * float64(refusal.Count) / float64(most))})
	}
	return bars
}

func (r *Result) charts() []chart {
	s := r.Series
	every, step := fold(len(s.Good)), s.StepMs/1000
	seconds := step * float64(every)
	rate := func(name, class string, counts []uint32, area bool) curve {
		return curve{name, class, rates(counts, every, step), area}
	}
	curves := []curve{rate("good", "good", s.Good, true), rate("offered", "offered", s.Offered, false)}
	for _, c := range []curve{
		rate("refused", "refused", s.Refused, false), rate("timed out", "late", s.TimedOut, false), rate("failed", "failed", s.Failed, false),
	} {
		if slices.ContainsFunc(c.values, func(v float64) bool { return v > 0 }) {
			curves = append(curves, c)
		}
	}
	return []chart{
		timeChart("Functions per second", "what was offered, and what became of it", seconds, false, curves),
		timeChart("Latency of the good, in ms", "by the time at which functions ended; logarithmic", seconds, true, []curve{
			{"p50", "p50", peaks(s.P50, every, true), false},
			{"p90", "p90", peaks(s.P90, every, true), false},
			{"p99", "p99", peaks(s.P99, every, true), false},
		}),
		distributionChart(r.Latencies, r.Latency),
		timeChart("Functions under way", "at the end of each step", seconds, false, []curve{{"in flight", "p90", peaks(s.InFlight, every, false), true}}),
	}
}

// charts put all results into one picture each.
func (r *Report) charts() []chart {
	longest, step := 0, 1.0
	for _, result := range r.Results {
		longest, step = max(longest, len(result.Series.Good)), result.Series.StepMs/1000
	}
	every := fold(longest)
	var good, latency []curve
	for i, result := range r.Results {
		class := fmt.Sprintf("t%d", i%6)
		good = append(good, curve{result.Name, class, rates(result.Series.Good, every, step), false})
		latency = append(latency, curve{result.Name, class, peaks(result.Series.P99, every, true), false})
	}
	if len(r.Results) > 0 {
		offered := rates(r.Results[0].Series.Offered, every, step)
		good = append(good, curve{"offered", "offered", offered, false})
	}
	return []chart{
		timeChart("Goodput: functions per second", "finished within their deadline", step*float64(every), false, good),
		timeChart("Latency of the good, p99 in ms", "logarithmic", step*float64(every), true, latency),
	}
}
