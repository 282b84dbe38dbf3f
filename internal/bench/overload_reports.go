package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/weirproxy/weir/storm"
)

const (
	reportsLoad     = 0.7             // of the capacity, in all
	reportsShare    = 0.3             // of the load
	reportsPause    = 8 * time.Second // between two that use the processor
	reportsPatience = 5 * time.Second // twice that for those that use the processor

	// learning is told apart from what comes later: a statement is known to take long only after one of them has.
	learning = 2 * time.Second
)

// reportStorm is a load of quick functions, the first seconds as a caller of their own, and of reports.
type reportStorm struct {
	reports string
	file    string // of the chart; empty: none
	only    string // this side; empty: all
	length  time.Duration
	callers []storm.Caller // quick at first, quick later, reports if any
}

func (st *stage) reportStorms() []reportStorm {
	alone, among, withWork := st.span(8, 4), st.span(14, 6), st.span(24, 10)
	quick := func(factor float64, length time.Duration, reports ...storm.Caller) []storm.Caller {
		rate, later := st.times(factor), length-learning
		return append([]storm.Caller{
			{Name: "quick at first", Load: storm.Load{Phases: []storm.Phase{steady(rate, learning), steady(0, later)}}, Connections: keptConnections},
			{Name: "quick", Load: storm.Load{Phases: []storm.Phase{steady(0, learning), steady(rate, later)}}, Connections: keptConnections},
		}, reports...)
	}
	sleeping := storm.Caller{
		Name: "reports", Load: storm.Steady(st.times(reportsLoad*reportsShare), among), Connections: keptConnections,
		Function: storm.Function{SQL: "SELECT pg_sleep(2)", Deadline: reportsPatience},
	}
	// As a share of the work, and not of the functions, 30 % are one such report every few seconds: evenly, for there are few.
	working := storm.Caller{
		Name: "reports", Connections: 20,
		Function: storm.Function{SQL: workSQL(fmt.Sprintf("%.0f", 2000*st.rows)) + " WHERE true", Deadline: 2 * reportsPatience}, // a class of its own
	}
	for range max(1, withWork/reportsPause) {
		working.Load.Phases = append(working.Load.Phases, storm.Phase{Burst: 1, For: reportsPause})
	}
	return []reportStorm{
		{"none", "", "", alone, quick(reportsLoad, alone)},
		{"30 % of the functions sleep for 2 s", "overload-reports-sleep.svg", "", among, quick(reportsLoad*(1-reportsShare), among, sleeping)},
		{
			fmt.Sprintf("2 s of processor time every %v", reportsPause), "overload-reports-work.svg", weir, withWork,
			quick(reportsLoad*(1-reportsShare), withWork, working),
		},
	}
}

// reports is what slow statements do to quick ones.
func (st *stage) reports(ctx context.Context) error {
	all, stop, err := st.contenders(ctx, variant{}, pgbouncer, weir)
	if err != nil {
		return err
	}
	defer stop()
	t := section{
		title: "Slow reports among quick functions",
		note: fmt.Sprintf("%g× in all, of which 30 %% become reports. Quick functions have %v, reports %v, those that use the processor %v. "+
			"At first is for %v, in which reports are not yet known to take long; latencies are of quick functions later.",
			reportsLoad, functionDeadline, reportsPatience, 2*reportsPatience, learning),
		header: []string{"side", "reports", "quick: good at first", "good later", "p50", "p99", "p99 to without", "reports: good", "limit, lowest", "limit, usual"},
	}
	for _, c := range all {
		calm := math.NaN()
		for _, s := range st.reportStorms() {
			if s.only != "" && s.only != c.name {
				continue
			}
			st.progress("reports: %s, %s", s.reports, c.name)
			plan := st.plan(storm.Load{})
			plan.Callers = s.callers
			o, limit, err := st.watched(ctx, c, plan, nil)
			if err != nil {
				return err
			}
			f := readReports(o.Callers, limit, s.length)
			if math.IsNaN(calm) {
				calm = f.p99
			}
			t.rows = append(t.rows, f.row(c.name, s.reports, calm))
			if c.name == weir && len(s.callers) > 2 {
				t.charts = append(t.charts, chart{s.file, limitPicture("The limit beside slow reports", s.reports, limit, s.length)})
				f.judge(&st.results, s.reports, calm)
			}
		}
	}
	st.results.section(t)
	return nil
}

// reportFigures are what a reportStorm shows: parts in percent, latencies in milliseconds.
type reportFigures struct {
	goodFirst, goodLater, p50, p99, goodReports float64
	limitLowest, limitUsual                     float64
}

func readReports(callers []storm.CallerResult, limit gauge, length time.Duration) reportFigures {
	f := reportFigures{
		goodFirst: 100 * callers[0].GoodShare, goodLater: 100 * callers[1].GoodShare, goodReports: math.NaN(),
		p50: callers[1].Latency.P50, p99: callers[1].Latency.P99,
		limitLowest: limit.lowest(0, length), limitUsual: limit.middle(0, length),
	}
	if callers[1].Latency.Count == 0 {
		f.p50, f.p99 = math.NaN(), math.NaN()
	}
	if len(callers) > 2 {
		f.goodReports = 100 * callers[2].GoodShare
	}
	return f
}

func (f reportFigures) row(side, reports string, calm float64) []string {
	return []string{
		side, reports, number("%.1f %%", f.goodFirst), number("%.1f %%", f.goodLater), latency(f.p50), latency(f.p99), ratioText(f.p99 / calm),
		number("%.0f %%", f.goodReports), number("%.0f", f.limitLowest), number("%.0f", f.limitUsual),
	}
}

func (f reportFigures) judge(r *results, reports string, calm float64) {
	r.goal("p99 of quick functions beside reports, to without ("+reports+")", atMost, 1.3, f.p99/calm, "%.2f×",
		fmt.Sprintf("good at first %.1f %%, later %.1f %%", f.goodFirst, f.goodLater))
	r.goal("limit beside reports, lowest ("+reports+")", atLeast, serverConnections/2, f.limitLowest, "%.0f", fmt.Sprintf("usually %.0f", f.limitUsual))
}

func limitPicture(title, note string, limit gauge, length time.Duration) storm.Picture {
	return storm.Picture{
		Title: title, Note: "weir_limit: transactions that may run at once; " + note, Step: watchEvery,
		Curves: []storm.Curve{{Name: "limit", Values: limit.steps(watchEvery, length)}},
	}
}
