package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weirproxy/weir/storm"
)

const (
	fine   = 10 * time.Millisecond  // steps of series in which times are measured
	coarse = 200 * time.Millisecond // and of their charts: less is mostly chance

	timesOver = 3 // that weir is measured where a time is what counts: one is soon off by chance
)

// turnsOf is how many times a side is measured where times count.
func (st *stage) turnsOf(side string) int {
	if side != weir || st.quick {
		return 1
	}
	return timesOver
}

// inTheMiddle is the turn with the median of a time, NaN being the longest.
func inTheMiddle[T any](turns []T, took func(T) float64) T {
	sorted := slices.SortedFunc(slices.Values(turns), func(a, b T) int { return cmp.Compare(neverLast(took(a)), neverLast(took(b))) })
	return sorted[len(sorted)/2]
}

func neverLast(s float64) float64 {
	if math.IsNaN(s) {
		return math.Inf(1)
	}
	return s
}

// eachTime are the times of all turns, in words.
func eachTime[T any](turns []T, took func(T) float64) string {
	var all []string
	for _, t := range turns {
		all = append(all, seconds(took(t)))
	}
	return "each time: " + strings.Join(all, ", ")
}

// step is a storm that comes at once and goes at once.
func (st *stage) step(ctx context.Context) error {
	calm, high, after := st.span(4, 2), st.span(8, 4), st.span(6, 3.5)
	load := storm.Load{Phases: []storm.Phase{steady(st.times(0.7), calm), steady(st.times(10), high), steady(st.times(0.7), after)}}
	all, stop, err := st.contenders(ctx, variant{}, direct, pgbouncer, weir)
	if err != nil {
		return err
	}
	defer stop()
	whole := calm + high + after
	t := section{
		title: "A storm that comes and goes at once",
		note: fmt.Sprintf("0.7× for %v, 10× for %v, 0.7× for %v; %d kept connections. Steady is the goodput of the storm's second half; "+
			"rates are taken over the %v after each moment, and stay when they do so for %v. Calm is when for a second nobody is refused or too late. "+
			"weir: the one in the middle of %d.",
			calm, high, after, keptConnections, usual.window, usual.hold, st.turnsOf(weir)),
		header: []string{"side", "steady goodput", "within 5 % of it after", "deepest dip", "calm again after"},
	}
	p := storm.Picture{
		Title: "Goodput in a storm that comes and goes at once",
		Note:  fmt.Sprintf("functions/s; ten times the capacity from %v to %v", calm, calm+high), Step: coarse,
	}
	for _, c := range all {
		var turns []stepTurn
		for range st.turnsOf(c.name) {
			st.progress("step: %s", c.name)
			plan := st.plan(load)
			plan.Resolution = fine
			o, err := st.unleash(ctx, c, plan, nil)
			if err != nil {
				return err
			}
			turns = append(turns, stepTurn{readStep(o.Result, calm, calm+high, whole), sumCounts(fine, o.Series.Good).rates(coarse, whole)})
		}
		s := inTheMiddle(turns, stepTurn.settles)
		t.rows = append(t.rows, []string{
			c.name, number("%.0f/s", s.steady), seconds(s.within), number("%.0f %%", s.dip), seconds(s.calm),
		})
		p.Curves = append(p.Curves, storm.Curve{Name: c.name, Colour: colours[c.name], Values: s.good})
		if c.name == weir {
			st.results.goal("step from 0.7× to 10×: goodput stays within 5 % of steady after", atMost, 0.5, s.within, "%.2f s",
				fmt.Sprintf("deepest dip %.0f %%; %s", s.dip, eachTime(turns, stepTurn.settles)))
			st.results.goal("and back: nobody is refused or too late any more after", atMost, 0.5, s.calm, "%.2f s",
				eachTime(turns, func(s stepTurn) float64 { return s.calm }))
		}
	}
	t.charts = []chart{{"overload-step.svg", p}}
	st.results.section(t)
	return nil
}

// steady is one phase of a load.
func steady(perSecond float64, length time.Duration) storm.Phase {
	return storm.Phase{From: perSecond, To: perSecond, For: length}
}

// stepTurn is one storm that comes and goes.
type stepTurn struct {
	stepFigures
	good []float64 // goodput, for the chart
}

func (s stepTurn) settles() float64 { return s.within }

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
	before, halved, after := st.span(10, 4), st.span(30, 10), st.span(15, 8)
	whole := before + halved + after
	var turns []halfTurn
	for range st.turnsOf(weir) {
		turn, err := st.halfOnce(ctx, before, halved, whole)
		if err != nil {
			return err
		}
		turns = append(turns, turn)
	}
	h := inTheMiddle(turns, func(h halfTurn) float64 { return h.limitDown })
	st.results.goal(fmt.Sprintf("half the processor for %v: the limit follows within", halved), atMost, 3, h.limitDown, "%.1f s",
		fmt.Sprintf("from %.0f to %.0f; goodput %.0f/s of %.0f/s, steady after %s; %s", h.limitBefore, h.limitDuring, h.goodDuring, st.capacity/2,
			seconds(h.goodDown), eachTime(turns, func(h halfTurn) float64 { return h.limitDown })))
	st.results.goal("and back within", atMost, 15, h.limitUp, "%.1f s",
		fmt.Sprintf("goodput as before after %s; %s", seconds(h.goodUp), eachTime(turns, func(h halfTurn) float64 { return h.limitUp })))
	t := section{
		title: "The database loses half its processor",
		note: fmt.Sprintf("0.7× all the time; from %v to %v all of PostgreSQL's processes but the first are stopped for as long as they have just run, 5 ms each time. "+
			"The limit has followed when it has gone %.0f %% of the way to where it stays. The turn in the middle of %d.",
			before, before+halved, 100*mostOfTheWay, len(turns)),
		charts: []chart{
			{"overload-half-limit.svg", limitPicture("The limit, while the database has half its processor",
				fmt.Sprintf("half the processor from %v to %v", before, before+halved), h.limit, whole)},
			{"overload-half-goodput.svg", storm.Picture{
				Title: "Goodput, while the database has half its processor",
				Note:  fmt.Sprintf("functions/s; half the processor from %v to %v", before, before+halved), Step: 2 * coarse,
				Curves: []storm.Curve{
					{Name: "good", Values: sumCounts(halfStep, h.series.Good).rates(2*coarse, whole)},
					{Name: "refused", Values: sumCounts(halfStep, h.series.Refused).rates(2*coarse, whole)},
					{Name: "too late", Values: sumCounts(halfStep, h.series.TimedOut).rates(2*coarse, whole)},
				},
			}},
		},
		header: []string{"", "before", "with half", "followed after", "back after"},
		rows: [][]string{
			{"limit", number("%.0f", h.limitBefore), number("%.0f", h.limitDuring), seconds(h.limitDown), seconds(h.limitUp)},
			{"goodput", number("%.0f/s", h.goodBefore), number("%.0f/s", h.goodDuring), seconds(h.goodDown), seconds(h.goodUp)},
		},
	}
	st.results.section(t)
	return nil
}

// halfStep is that of the series; rates of half a processor are taken over seconds.
const halfStep = coarse / 2

// halfTurn is one time that the processor is halved.
type halfTurn struct {
	halfFigures
	limit  gauge
	series storm.Series
}

// halfOnce halves the processor for a while, beside a weir of its own.
func (st *stage) halfOnce(ctx context.Context, before, halved, whole time.Duration) (halfTurn, error) {
	all, stop, err := st.contenders(ctx, variant{}, weir)
	if err != nil {
		return halfTurn{}, err
	}
	defer stop()
	st.progress("half: %s", weir)
	plan := st.plan(storm.Steady(st.times(0.7), whole))
	plan.Resolution = halfStep
	var h halving
	o, limit, err := st.watched(ctx, all[0], plan, func(began time.Time) {
		h.running.Go(func() { h.err = st.halveFor(ctx, began.Add(before), halved) })
	})
	h.running.Wait()
	if err := errors.Join(err, h.err); err != nil {
		return halfTurn{}, err
	}
	return halfTurn{readHalf(o.Result, limit, before, before+halved, whole), limit, o.Series}, nil
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
