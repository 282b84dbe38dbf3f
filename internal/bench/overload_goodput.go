package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/weirproxy/weir/storm"
)

// goodputGoals are what weir is to keep of the best at 1×, in percent.
var goodputGoals = []struct {
	factor int
	least  float64
}{{2, 95}, {5, 93}, {10, 90}}

var factors = []int{1, 2, 5, 10}

// kept is goodput by load, with connections that functions share.
func (st *stage) kept(ctx context.Context) error {
	g := newGrid(fmt.Sprintf("%d kept connections", keptConnections), "overload-kept.svg",
		direct, pgbouncer, impatient, weir, told)
	if err := st.fill(ctx, g, storm.Kept, variant{}, st.span(7, 2.5)); err != nil {
		return err
	}
	st.results.section(g.section(st.capacity))
	if st.lab.weir == "" {
		return nil
	}
	g.judge(&st.results)
	st.results.goal("CPU spent on refusing at 10×, share of the two processors", atMost, 15, g.refusing(weir, 10), "%.1f %%", "")
	return nil
}

// fresh is the same with functions of which each connects anew.
func (st *stage) fresh(ctx context.Context) error {
	g := newGrid("fresh connections", "overload-fresh.svg", direct, pgbouncer, weir, told)
	g.note = fmt.Sprintf(" Each function connects; at most %d are connected, or connecting, at the same time.", freshConnections)
	if err := st.fill(ctx, g, storm.Fresh, variant{}, st.span(6, 2.5)); err != nil {
		return err
	}
	st.results.section(g.section(st.capacity))
	if st.lab.weir != "" {
		g.judge(&st.results)
	}
	return nil
}

// ablations is weir with parts switched off, as far as the configuration can do that.
func (st *stage) ablations(ctx context.Context) error {
	if st.lab.weir == "" {
		return nil
	}
	variants := []struct{ name, lines string }{
		{weir, ""},
		{"without adaptive limit", "    adaptive: { mode: off }\n"},
		{"without bounds of the queue", "    queue: { mode: off }\n"},
		{"without both", "    adaptive: { mode: off }\n    queue: { mode: off }\n"},
	}
	g := newGrid("parts of weir switched off", "")
	g.note = " `adaptive: { mode: off }` and `queue: { mode: off }`; what else there is to switch off is shown in simulations."
	for _, v := range variants {
		g.names = append(g.names, v.name)
		for _, factor := range []int{1, 2, 10} {
			if v.name != weir && factor == 1 {
				continue // the best at 1× is of weir as it is
			}
			all, stop, err := st.contenders(ctx, variant{resource: v.lines}, weir)
			if err != nil {
				return err
			}
			all[0].name = v.name
			err = st.cell(ctx, g, all[0], factor, storm.Kept, st.span(6, 2.5))
			stop()
			if err != nil {
				return err
			}
		}
	}
	st.results.section(g.section(st.capacity))
	return nil
}

// fill measures every side at every load, in turns.
func (st *stage) fill(ctx context.Context, g *grid, connections storm.Connections, v variant, length time.Duration) error {
	all, stop, err := st.contenders(ctx, v, g.names...)
	if err != nil {
		return err
	}
	defer stop()
	for i, factor := range factors {
		for _, c := range turns(all, i) {
			if err := st.cell(ctx, g, c, factor, connections, length); err != nil {
				return err
			}
		}
	}
	return nil
}

func (st *stage) cell(ctx context.Context, g *grid, c contender, factor int, connections storm.Connections, length time.Duration) error {
	st.progress("%s, %d×: %s", g.title, factor, c.name)
	plan := st.plan(storm.Steady(st.times(float64(factor)), length))
	plan.Connections, plan.Warmup = connections, length/4
	o, err := st.unleash(ctx, c, plan, nil)
	if err != nil {
		return err
	}
	g.put(c.name, factor, o)
	return nil
}

// grid is goodput by side and load.
type grid struct {
	title, note string
	file        string // of the chart; empty: none
	names       []string
	cells       map[string]map[int]observed
}

func newGrid(title, file string, names ...string) *grid {
	return &grid{title: title, file: file, names: names, cells: map[string]map[int]observed{}}
}

func (g *grid) put(name string, factor int, o observed) {
	if g.cells[name] == nil {
		g.cells[name] = map[int]observed{}
	}
	g.cells[name][factor] = o
}

// best is the goodput of the best side at 1×.
func (g *grid) best() float64 {
	best := math.NaN()
	for _, cells := range g.cells {
		if o, ok := cells[1]; ok && !(o.GoodPerSecond <= best) {
			best = o.GoodPerSecond
		}
	}
	return best
}

// share is a side's goodput in percent of the best at 1×, NaN where it was not measured.
func (g *grid) share(name string, factor int) float64 {
	o, ok := g.cells[name][factor]
	if !ok {
		return math.NaN()
	}
	return 100 * o.GoodPerSecond / g.best()
}

// refusing is what a proxy's refusals cost, in percent of both processors: what it uses beyond what its good functions cost
// it at 1×.
func (g *grid) refusing(name string, factor int) float64 {
	calm, ok := g.cells[name][1]
	busy, ok2 := g.cells[name][factor]
	if !ok || !ok2 || calm.GoodPerSecond == 0 {
		return math.NaN()
	}
	const processors = 2
	return 100 * (busy.cpu - busy.GoodPerSecond*calm.cpu/calm.GoodPerSecond) / processors
}

func (g *grid) section(capacity float64) section {
	s := section{
		title: "Goodput by load, " + g.title,
		note: fmt.Sprintf("Goodput is what finished within %v of the moment it was to start; 100 %% is the best side's at 1× (%.0f of %.0f functions/s). "+
			"Latencies count from that moment too.%s", functionDeadline, g.best(), capacity, g.note),
		header: []string{"load", "side", "goodput", "of the best at 1×", "p50", "p99", "refused", "p99 of refusals", "too late", "failed", "CPU of the proxy", "generator's lag, p99"},
	}
	for _, factor := range factors {
		for _, name := range g.names {
			if o, ok := g.cells[name][factor]; ok {
				s.rows = append(s.rows, g.row(name, factor, o))
			}
		}
	}
	if g.file != "" {
		s.charts = []chart{{g.file, g.picture()}}
	}
	return s
}

func (g *grid) row(name string, factor int, o observed) []string {
	share := func(n uint64) string { return number("%.0f %%", 100*float64(n)/float64(o.Offered)) }
	lag := number("%.1f ms", o.Generator.Lag.P99)
	if o.Generator.Starved {
		lag += " **starved**"
	}
	return []string{
		fmt.Sprintf("%d×", factor), name, number("%.0f/s", o.GoodPerSecond), number("%.0f %%", g.share(name, factor)),
		latency(o.Latency.P50), latency(o.Latency.P99), share(o.Refused), latency(o.Refusal.P99), share(o.TimedOut), share(o.Failed),
		number("%.0f %%", 100*o.cpu), lag,
	}
}

// latency is milliseconds for a table, a dash where there were none.
func latency(ms float64) string {
	switch {
	case ms == 0:
		return "–"
	case ms < 10:
		return number("%.1f ms", ms)
	}
	return number("%.0f ms", ms)
}

func (g *grid) picture() storm.Picture {
	p := storm.Picture{
		Title: "Goodput by load, " + g.title,
		Note:  "in % of the best at 1×; load in multiples of what PostgreSQL can do",
	}
	for _, factor := range factors {
		p.Labels = append(p.Labels, fmt.Sprintf("%d×", factor))
	}
	for _, name := range g.names {
		if g.cells[name] == nil {
			continue
		}
		c := storm.Curve{Name: name, Colour: colours[name]}
		for _, factor := range factors {
			c.Values = append(c.Values, g.share(name, factor))
		}
		p.Curves = append(p.Curves, c)
	}
	return p
}

// judge sets weir beside its goals.
func (g *grid) judge(r *results) {
	for _, name := range []string{weir, told} {
		prefix := ""
		if name == told {
			prefix = "told the deadline: "
		}
		for _, goal := range goodputGoals {
			r.goal(fmt.Sprintf("%sgoodput at %d×, %s, of the best at 1×", prefix, goal.factor, g.title), atLeast, goal.least,
				g.share(name, goal.factor), "%.1f %%", g.beside(func(name string) string { return number("%.0f %%", g.share(name, goal.factor)) }))
		}
		r.goal(fmt.Sprintf("%sp99 of what is served, %s, highest of all loads", prefix, g.title), atMost, 300,
			g.highest(name), "%.0f ms", g.beside(func(name string) string { return number("%.0f ms", g.highest(name)) }))
		o, ok := g.cells[name][10]
		p99, lag := math.NaN(), ""
		if ok {
			p99, lag = o.Refusal.P99, fmt.Sprintf("generator's lag %.1f ms", o.Generator.Lag.P99)
			if o.Generator.Starved {
				lag += ": starved, this says nothing"
			}
		}
		r.goal(fmt.Sprintf("%sp99 of refusals at 10×, %s", prefix, g.title), atMost, 20, p99, "%.1f ms", lag)
	}
}

// highest is a side's highest 99th percentile of what it served, over all loads.
func (g *grid) highest(name string) float64 {
	top := math.NaN()
	for _, o := range g.cells[name] {
		if o.Latency.Count > 0 && !(o.Latency.P99 <= top) {
			top = o.Latency.P99
		}
	}
	return top
}

// beside is how the sides other than weir fare.
func (g *grid) beside(figure func(name string) string) string {
	var words []string
	for _, name := range []string{direct, pgbouncer, impatient} {
		if g.cells[name] != nil {
			words = append(words, strings.TrimPrefix(name, "PgBouncer, ")+" "+figure(name))
		}
	}
	return strings.Join(words, ", ")
}
