package main

import (
	"context"
	"fmt"

	"github.com/weirproxy/weir/storm"
)

const modest = 9 // callers beside the one that floods

// floodUsers are the flooding one first.
func floodUsers() (users []string) {
	for i := range 1 + modest {
		users = append(users, fmt.Sprintf("fn%d", i))
	}
	return users
}

// flood is one caller that asks for ten times what there is, and nine that ask for little. There is no rule for any of them.
func (st *stage) flood(ctx context.Context) error {
	const each = 0.05
	length := st.span(8, 4)
	users := floodUsers()
	all, stop, err := st.contenders(ctx, variant{users: users}, direct, pgbouncer, weir)
	if err != nil {
		return err
	}
	defer stop()
	t := section{
		title: "One caller floods",
		note: fmt.Sprintf("One user asks for 10×, nine for %.2f× each; nothing is said about any of them in the configuration. "+
			"The flood has %d kept connections, each of the nine has 10.", each, keptConnections-10*modest),
		header: []string{"side", "the flood: good", "the nine: worst keeps", "best keeps", "together", "p99 of the nine, worst", "Jain among the nine"},
	}
	for _, c := range all {
		st.progress("flood: %s", c.name)
		plan := st.plan(storm.Load{})
		plan.Warmup = length / 8
		for i, user := range users {
			caller := storm.Caller{Name: user, User: user, Password: benchPassword, Load: storm.Steady(st.times(each), length), Connections: 10}
			if i == 0 {
				caller.Load, caller.Connections = storm.Steady(st.times(10), length), keptConnections-10*modest
			}
			plan.Callers = append(plan.Callers, caller)
		}
		o, err := st.unleash(ctx, c, plan, nil)
		if err != nil {
			return err
		}
		f := readFlood(o.Callers)
		t.rows = append(t.rows, []string{
			c.name, number("%.0f %%", f.flood), number("%.1f %%", f.worst), number("%.1f %%", f.best), number("%.1f %%", f.together),
			latency(f.p99), number("%.3f", f.jain),
		})
		if c.name == weir {
			st.results.goal("one caller floods at 10×: the worst of nine others keeps", atLeast, 99, f.worst, "%.1f %%", fmt.Sprintf("the nine together %.1f %%", f.together))
			st.results.goal("Jain's index among the nine", atLeast, 0.98, f.jain, "%.3f", "")
		}
	}
	st.results.section(t)
	return nil
}

// floodFigures are in percent of what was asked for, but for the last two.
type floodFigures struct{ flood, worst, best, together, p99, jain float64 }

// readFlood compares what callers got of what they asked for, the flooding one being the first.
func readFlood(callers []storm.CallerResult) floodFigures {
	f := floodFigures{flood: 100 * callers[0].GoodShare, worst: 100}
	var shares []float64
	var good, offered uint64
	for _, c := range callers[1:] {
		share := 100 * c.GoodShare
		f.worst, f.best = min(f.worst, share), max(f.best, share)
		f.p99 = max(f.p99, c.Latency.P99)
		shares = append(shares, share)
		good, offered = good+c.Good, offered+c.Offered
	}
	if offered > 0 {
		f.together = 100 * float64(good) / float64(offered)
	}
	f.jain = storm.Jain(shares)
	return f
}

// priorities is three times the capacity, of four priorities.
func (st *stage) priorities(ctx context.Context) error {
	const total, critical = 3.0, 0.65
	length := st.span(12, 4)
	names := []string{"critical", "normal", "batch", "sheddable"}
	rules := "    callers:\n"
	for _, name := range names {
		rules += fmt.Sprintf("      - { name: %s, match: { application_name: %s }, priority: %s }\n", name, name, name)
	}
	all, stop, err := st.contenders(ctx, variant{resource: rules}, pgbouncer, weir)
	if err != nil {
		return err
	}
	defer stop()
	t := section{
		title: "Four priorities",
		note: fmt.Sprintf("%g× in all: critical functions ask for %.2f×, the others for %.2f× each. weir tells them apart by application_name; "+
			"PgBouncer has no priorities.", total, critical, (total-critical)/3),
		header: []string{"side", "critical keeps", "p99", "normal keeps", "batch keeps", "sheddable keeps"},
	}
	for _, c := range all {
		st.progress("priorities: %s", c.name)
		plan := st.plan(storm.Load{})
		plan.Warmup = length / 8
		for i, name := range names {
			factor := critical
			if i > 0 {
				factor = (total - critical) / 3
			}
			plan.Callers = append(plan.Callers, storm.Caller{Name: name, ApplicationName: name, Load: storm.Steady(st.times(factor), length), Connections: 75})
		}
		o, err := st.unleash(ctx, c, plan, nil)
		if err != nil {
			return err
		}
		row := []string{c.name}
		for i, caller := range o.Callers {
			row = append(row, number("%.1f %%", 100*caller.GoodShare))
			if i == 0 {
				row = append(row, latency(caller.Latency.P99))
			}
		}
		t.rows = append(t.rows, row)
		if c.name == weir {
			first := o.Callers[0]
			st.results.goal("four priorities at 3×: critical keeps", atLeast, 99.9, 100*first.GoodShare, "%.2f %%", fmt.Sprintf("%d of %d; %d refused, %d too late", first.Good, first.Offered, first.Refused, first.TimedOut))
		}
	}
	st.results.section(t)
	return nil
}
