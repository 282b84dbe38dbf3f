package main

import (
	"context"
	"slices"
	"time"
)

// cost is what admission adds to a query when there is no load.
func (st *stage) cost(ctx context.Context) error {
	const (
		without = "weir without admission"
		twice   = "weir again"
	)
	off := variant{resource: "    adaptive: { mode: off }\n    queue: { mode: off }\n"}
	var all []contender
	for _, start := range []struct {
		name string
		side string
		v    variant
	}{{weir, weir, variant{}}, {without, weir, off}, {twice, weir, variant{}}, {pgbouncer, pgbouncer, variant{}}} {
		some, stop, err := st.contenders(ctx, start.v, start.side)
		if err != nil {
			return err
		}
		defer stop()
		for _, c := range some {
			c.name = start.name
			all = append(all, c)
		}
	}
	p50, cpu, err := st.inTurns(ctx, all, st.span(16, 5))
	if err != nil {
		return err
	}
	t := section{
		title:  "Cost of admission",
		note:   "`SELECT 1` on one connection, one query after another, with nothing else going on; a few hundred queries each, in turns. Medians of the turns, differences by turn.",
		header: []string{"side", "p50", "to without admission", "CPU per query"},
	}
	for _, c := range all {
		t.rows = append(t.rows, []string{
			c.name, number("%.1f µs", p50.median(c.name)), number("%+.1f µs", p50.difference(c.name, without)), number("%.1f µs", cpu.median(c.name)),
		})
	}
	st.results.section(t)
	if st.lab.weir != "" {
		noise := number("%+.1f µs", p50.difference(twice, weir)) + " between two that are alike; CPU per query " +
			number("%+.1f µs", cpu.difference(weir, without))
		st.results.goal("cost of admission, p50 unloaded", atMost, 5, p50.difference(weir, without), "%.1f µs", noise)
	}
	return nil
}

// inTurns asks the sides in turns, a few hundred queries each, and returns the median latency and the processor time of a
// query by turn, in microseconds.
func (st *stage) inTurns(ctx context.Context, all []contender, length time.Duration) (p50, cpu series, err error) {
	const queries = 300
	p50, cpu = series{}, series{}
	conns := map[string]*conn{}
	for _, c := range all {
		conn, err := dial(ctx, c.target())
		if err != nil {
			return nil, nil, err
		}
		defer conn.Close()
		conns[c.name] = conn
	}
	st.progress("cost: %d sides in turns", len(all))
	took := make([]time.Duration, queries)
	for turn, end := 0, time.Now().Add(length); time.Now().Before(end); turn++ {
		for _, c := range turns(all, turn) {
			if err := ctx.Err(); err != nil {
				return nil, nil, err
			}
			spent, err := c.spends(func() error {
				for i := range took {
					start := time.Now()
					if err := conns[c.name].query(selectOne); err != nil {
						return err
					}
					took[i] = time.Since(start)
				}
				return nil
			})
			if err != nil {
				return nil, nil, err
			}
			slices.Sort(took)
			p50.add(c.name, micros(took[queries/2]))
			cpu.add(c.name, micros(spent)/queries)
		}
	}
	return p50, cpu, nil
}

// difference is the median of the rounds' differences of one side to another, NaN where either was not measured.
func (s series) difference(side, to string) float64 {
	var all []float64
	for i := range min(len(s[side]), len(s[to])) {
		all = append(all, s[side][i]-s[to][i])
	}
	return median(all)
}
