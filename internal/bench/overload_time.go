package main

import (
	"context"
	"fmt"
	"math"
	"sync"
	"syscall"
	"time"

	"github.com/weirproxy/weir/storm"
)

const (
	fine   = 10 * time.Millisecond  // steps of series in which times are measured
	coarse = 200 * time.Millisecond // and of their charts: less is mostly chance
)

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
			"rates are taken over the %v after each moment, and stay when they do so for %v. Calm is when for a second nobody is refused or too late.",
			calm, high, after, keptConnections, usual.window, usual.hold),
		header: []string{"side", "steady goodput", "within 5 % of it after", "deepest dip", "calm again after"},
	}
	p := storm.Picture{
		Title: "Goodput in a storm that comes and goes at once",
		Note:  fmt.Sprintf("functions/s; ten times the capacity from %v to %v", calm, calm+high), Step: coarse,
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
		p.Curves = append(p.Curves, storm.Curve{Name: c.name, Colour: colours[c.name], Values: sumCounts(fine, o.Series.Good).rates(coarse, whole)})
		if c.name == weir {
			st.results.goal("step from 0.7× to 10×: goodput stays within 5 % of steady after", atMost, 0.5, s.within, "%.2f s", fmt.Sprintf("deepest dip %.0f %%", s.dip))
			st.results.goal("and back: nobody is refused or too late any more after", atMost, 0.5, s.calm, "%.2f s", "")
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
	plan.Resolution = coarse / 2
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
			{"overload-half-limit.svg", limitPicture("The limit, while the database has half its processor",
				fmt.Sprintf("half the processor from %v to %v", before, before+halved), limit, whole)},
			{"overload-half-goodput.svg", storm.Picture{
				Title: "Goodput, while the database has half its processor",
				Note:  fmt.Sprintf("functions/s; half the processor from %v to %v", before, before+halved), Step: 2 * coarse,
				Curves: []storm.Curve{
					{Name: "good", Values: sumCounts(plan.Resolution, o.Series.Good).rates(2*coarse, whole)},
					{Name: "refused", Values: sumCounts(plan.Resolution, o.Series.Refused).rates(2*coarse, whole)},
					{Name: "too late", Values: sumCounts(plan.Resolution, o.Series.TimedOut).rates(2*coarse, whole)},
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
