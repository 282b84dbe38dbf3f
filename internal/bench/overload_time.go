package main

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weirproxy/weir/storm"
)

const fine = 10 * time.Millisecond // steps of series in which times are measured

// step is a storm that comes at once and goes at once.
func (st *stage) step(ctx context.Context) error {
	calm, high, after := st.span(4, 2), st.span(8, 4), st.span(6, 3.5)
	load, err := storm.ParseLoad(fmt.Sprintf("%g/s for %s, %g/s for %s, %g/s for %s",
		st.times(0.7), calm, st.times(10), high, st.times(0.7), after))
	if err != nil {
		return err
	}
	all, stop, err := st.contenders(ctx, variant{}, direct, pgbouncer, weir)
	if err != nil {
		return err
	}
	defer stop()
	whole := calm + high + after
	t := section{
		title: "A storm that comes and goes at once",
		note: fmt.Sprintf("0.7× for %v, 10× for %v, 0.7× for %v; %d kept connections. Steady is the goodput of the storm's second half; "+
			"rates are taken over the %v after each moment, and stay when they do so for %v. Calm is when for a second nobody is refused or too late.",
			calm, high, after, keptConnections, usual.window, usual.hold),
		header: []string{"side", "steady goodput", "within 5 % of it after", "deepest dip", "calm again after"},
	}
	p := storm.Picture{
		Title: "Goodput in a storm that comes and goes at once",
		Note:  fmt.Sprintf("functions/s; ten times the capacity from %v to %v", calm, calm+high), Step: fine,
	}
	for _, c := range all {
		st.progress("step: %s", c.name)
		plan := st.plan(load)
		plan.Resolution = fine
		o, err := st.unleash(ctx, c, plan, nil)
		if err != nil {
			return err
		}
		s := readStep(o.Result, calm, calm+high, whole)
		t.rows = append(t.rows, []string{
			c.name, number("%.0f/s", s.steady), seconds(s.within), number("%.0f %%", s.dip), seconds(s.calm),
		})
		p.Curves = append(p.Curves, storm.Curve{Name: c.name, Values: sumCounts(fine, o.Series.Good).rates(whole)})
		if c.name == weir {
			st.results.goal("step from 0.7× to 10×: goodput stays within 5 % of steady after", atMost, 0.5, s.within, "%.2f s", fmt.Sprintf("deepest dip %.0f %%", s.dip))
			st.results.goal("and back: nobody is refused or too late any more after", atMost, 0.5, s.calm, "%.2f s", "")
		}
	}
	t.charts = []chart{{"overload-step.svg", p}}
	st.results.section(t)
	return nil
}

// stepFigures are what a step shows. Times are in seconds, NaN for never.
type stepFigures struct{ steady, within, dip, calm float64 }

func readStep(r *storm.Result, up, down, end time.Duration) stepFigures {
	good := sumCounts(fine, r.Series.Good)
	away := sumCounts(fine, r.Series.Refused, r.Series.TimedOut, r.Series.Failed)
	s := stepFigures{steady: good.perSecond(up+(down-up)/2, down), within: math.NaN(), dip: math.NaN()}
	if s.steady > 0 {
		s.within = usual.reaches(good, up, down, 0.95*s.steady)
		s.dip = max(0, 100*(1-usual.lowest(good, up, down)/s.steady))
	}
	s.calm = silent(away, down, end, time.Second)
	return s
}

// seconds is a time for a table.
func seconds(s float64) string {
	if math.IsNaN(s) {
		return "never"
	}
	return fmt.Sprintf("%.2f s", s)
}

// half is PostgreSQL with half its processor for a while.
func (st *stage) half(ctx context.Context) error {
	if st.lab.weir == "" {
		return nil
	}
	before, halved, after := st.span(10, 4), st.span(30, 10), st.span(20, 8)
	whole := before + halved + after
	all, stop, err := st.contenders(ctx, variant{}, weir)
	if err != nil {
		return err
	}
	defer stop()
	st.progress("half: %s", weir)
	plan := st.plan(storm.Steady(st.times(0.7), whole))
	plan.Resolution = 100 * time.Millisecond
	var h halving
	o, limit, err := st.watched(ctx, all[0], plan, func(began time.Time) {
		h.running.Go(func() { h.err = st.halveFor(ctx, began.Add(before), halved) })
	})
	h.running.Wait()
	if err == nil {
		err = h.err
	}
	if err != nil {
		return err
	}

	f := readHalf(o.Result, limit, before, before+halved, whole)
	st.results.goal(fmt.Sprintf("half the processor for %v: the limit follows within", halved), atMost, 3, f.limitDown, "%.1f s",
		fmt.Sprintf("from %.0f to %.0f; goodput %.0f/s of %.0f/s, steady after %s",
			f.limitBefore, f.limitDuring, f.goodDuring, st.capacity/2, seconds(f.goodDown)))
	st.results.goal("and back within", atMost, 15, f.limitUp, "%.1f s", "goodput as before after "+seconds(f.goodUp))
	t := section{
		title: "The database loses half its processor",
		note: fmt.Sprintf("0.7× all the time; from %v to %v all of PostgreSQL's processes but the first are stopped for as long as they have just run, 5 ms each time. "+
			"The limit has followed when it has gone %.0f %% of the way to where it stays.", before, before+halved, 100*mostOfTheWay),
		charts: []chart{
			{"overload-half-limit.svg", storm.Picture{
				Title: "Limit on running transactions, while the database has half its processor",
				Note:  fmt.Sprintf("weir_limit; half the processor from %v to %v", before, before+halved), Step: watchEvery,
				Curves: []storm.Curve{{Name: "limit", Values: limit.steps(watchEvery, whole)}},
			}},
			{"overload-half-goodput.svg", storm.Picture{
				Title: "Goodput, while the database has half its processor",
				Note:  fmt.Sprintf("functions/s; half the processor from %v to %v", before, before+halved), Step: plan.Resolution,
				Curves: []storm.Curve{
					{Name: "good", Values: sumCounts(plan.Resolution, o.Series.Good).rates(whole)},
					{Name: "refused", Values: sumCounts(plan.Resolution, o.Series.Refused).rates(whole)},
					{Name: "too late", Values: sumCounts(plan.Resolution, o.Series.TimedOut).rates(whole)},
				},
			}},
		},
		header: []string{"", "before", "with half", "followed after", "back after"},
		rows: [][]string{
			{"limit", number("%.0f", f.limitBefore), number("%.0f", f.limitDuring), seconds(f.limitDown), seconds(f.limitUp)},
			{"goodput", number("%.0f/s", f.goodBefore), number("%.0f/s", f.goodDuring), seconds(f.goodDown), seconds(f.goodUp)},
		},
	}
	st.results.section(t)
	return nil
}

// halving is under way beside a storm.
type halving struct {
	running sync.WaitGroup
	err     error // valid after running
}

// halveFor takes half its processor from PostgreSQL, from a moment on, for a while.
func (st *stage) halveFor(ctx context.Context, from time.Time, length time.Duration) error {
	if err := sleep(ctx, time.Until(from)); err != nil {
		return err
	}
	postgres := st.lab.postgres.proc.pid
	g, err := st.lab.generate("halve", job{Do: "halve", Pid: postgres}, false)
	if err != nil {
		return err
	}
	defer unhalve(postgres)
	defer st.lab.children.stop(g.proc, syscall.SIGKILL, time.Second)
	if err := confine(g.proc.pid, st.postgresOn); err != nil { // where it gets its turn in time
		return err
	}
	if err := sleep(ctx, time.Until(from.Add(length))); err != nil {
		return err
	}
	if !g.proc.alive() {
		return g.proc.failure()
	}
	g.finish()
	return nil
}

// halfFigures are what the lost processor shows. Times are in seconds, NaN for never.
type halfFigures struct {
	limitBefore, limitDuring, limitDown, limitUp float64
	goodBefore, goodDuring, goodDown, goodUp     float64
}

func readHalf(r *storm.Result, limit gauge, from, to, end time.Duration) halfFigures {
	good := sumCounts(time.Duration(r.Series.StepMs*float64(time.Millisecond)), r.Series.Good)
	mid := from + (to-from)/2
	f := halfFigures{
		limitBefore: limit.middle(from/2, from), limitDuring: limit.middle(mid, to),
		goodBefore: good.perSecond(from/2, from), goodDuring: good.perSecond(mid, to),
	}
	f.limitDown = limit.follows(from, to, f.limitBefore, f.limitDuring)
	f.limitUp = limit.follows(to, end, f.limitDuring, f.limitBefore)
	long := settling{window: time.Second, hold: 2 * time.Second}
	f.goodDown = long.reaches(good, from, to, 0.9*f.goodDuring)
	f.goodUp = long.reaches(good, to, end, 0.9*f.goodBefore)
	return f
}

// reports is what slow statements do to quick ones.
func (st *stage) reports(ctx context.Context) error {
	const (
		load    = 0.7
		slow    = 0.3 // of the load
		pause   = 8 * time.Second
		patient = 5 * time.Second // a report's deadline
	)
	alone, among, withWork := st.span(8, 3), st.span(14, 5), st.span(24, 10)
	quick := func(factor float64, length time.Duration) storm.Caller {
		return storm.Caller{Name: "quick", Load: storm.Steady(st.times(factor), length), Connections: keptConnections}
	}
	sleeping := storm.Caller{
		Name: "reports", Load: storm.Steady(st.times(load*slow), among), Connections: keptConnections,
		Function: storm.Function{SQL: "SELECT pg_sleep(2)", Deadline: patient},
	}
	// As a share of the work, and not of the functions, 30 % are one such report every few seconds: evenly, for there are few.
	often, err := storm.ParseLoad(fmt.Sprintf("1 at once every %s up to %d", pause, max(1, int(withWork/pause))))
	if err != nil {
		return err
	}
	working := storm.Caller{
		Name: "reports", Load: often, Connections: 20,
		Function: storm.Function{SQL: workSQL(fmt.Sprintf("%.0f", 2000*st.rows)) + " WHERE true", Deadline: 2 * patient}, // a class of its own
	}
	storms := []struct {
		what    string
		callers []storm.Caller
		only    string // this side; empty: all
	}{
		{"none", []storm.Caller{quick(load, alone)}, ""},
		{"30 % of the functions sleep for 2 s", []storm.Caller{quick(load*(1-slow), among), sleeping}, ""},
		{fmt.Sprintf("2 s of processor time every %v", pause), []storm.Caller{quick(load*(1-slow), withWork), working}, weir},
	}

	all, stop, err := st.contenders(ctx, variant{}, pgbouncer, weir)
	if err != nil {
		return err
	}
	defer stop()
	t := section{
		title: "Slow reports among quick functions",
		note: fmt.Sprintf("%g× in all, of which 30 %% become reports. Quick functions have %v, reports %v, those with work %v.",
			load, functionDeadline, patient, 2*patient),
		header: []string{"side", "reports", "quick: good", "p50", "p99", "p99 to without", "reports: good", "limit, lowest", "usual"},
	}
	for _, c := range all {
		calm := math.NaN()
		for i, s := range storms {
			if s.only != "" && s.only != c.name {
				continue
			}
			st.progress("reports: %s, %s", s.what, c.name)
			plan := st.plan(storm.Load{})
			plan.Callers = s.callers
			o, limit, err := st.watched(ctx, c, plan, nil)
			if err != nil {
				return err
			}
			quick, reports := o.Callers[0], "–"
			if i == 0 {
				calm = quick.Latency.P99
			} else {
				reports = number("%.0f %%", 100*o.Callers[1].GoodShare)
			}
			end := time.Duration(o.Seconds * float64(time.Second))
			low, middle := limit.lowest(0, end), limit.middle(0, end)
			t.rows = append(t.rows, []string{
				c.name, s.what, number("%.1f %%", 100*quick.GoodShare), latency(quick.Latency.P50), latency(quick.Latency.P99),
				ratioText(quick.Latency.P99 / calm), reports, number("%.0f", low), number("%.0f", middle),
			})
			if c.name == weir && i > 0 {
				st.results.goal("p99 of quick functions beside reports, to without ("+s.what+")", atMost, 1.3, quick.Latency.P99/calm, "%.2f×", "")
				st.results.goal("limit beside reports, lowest ("+s.what+")", atLeast, serverConnections/2, low, "%.0f", fmt.Sprintf("usually %.0f", middle))
			}
			if i > 0 && c.name == weir {
				t.charts = append(t.charts, chart{fmt.Sprintf("overload-reports-%d.svg", i), storm.Picture{
					Title: "Limit on running transactions beside reports", Note: s.what, Step: watchEvery,
					Curves: []storm.Curve{{Name: "limit", Values: limit.steps(watchEvery, end)}},
				}})
			}
		}
	}
	st.results.section(t)
	return nil
}

// watchEvery is how often weir is asked for its limit.
const watchEvery = 100 * time.Millisecond

// watched is a storm during which weir is asked for its limit.
func (st *stage) watched(ctx context.Context, c contender, plan storm.Plan, began func(time.Time)) (observed, gauge, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var watching sync.WaitGroup
	var w watcher
	if c.admin != "" {
		watching.Go(func() { w.watch(ctx, c.admin) })
	}
	o, err := st.unleash(ctx, c, plan, began)
	stop()
	watching.Wait()
	if err != nil {
		return o, gauge{}, err
	}
	g := gauge{value: w.values}
	for _, at := range w.at {
		g.at = append(g.at, at.Sub(o.Began))
	}
	return o, g, nil
}

// watcher reads weir_limit over and over.
type watcher struct {
	at     []time.Time
	values []float64
}

func (w *watcher) watch(ctx context.Context, admin string) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if limit, err := readMetric(ctx, admin, "weir_limit"); err == nil {
			w.at, w.values = append(w.at, time.Now()), append(w.values, limit)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// readMetric asks a weir for the first value of a metric.
func readMetric(ctx context.Context, admin, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	value, found := math.NaN(), false
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() { // to the end, so that the connection can be used again
		line := lines.Text()
		if rest, ok := strings.CutPrefix(line, name); ok && !found && strings.HasPrefix(rest, "{") {
			value, err = strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			found = err == nil
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	if !found {
		return 0, fmt.Errorf("http://%s/metrics has no %s", admin, name)
	}
	return value, nil
}
