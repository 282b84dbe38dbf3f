package main

import (
	"context"
	"fmt"
)

const relayClients = 20 // on as many server connections

// relay is what a query costs, and how many go through.
func (b *bench) relay(ctx context.Context) error {
	sides, stop, err := b.lab.start(ctx, variant{}, direct, pgbouncer, again, before, weir)
	if err != nil {
		return err
	}
	defer stop()
	for _, mode := range []string{"simple", "extended"} {
		if err := b.relayMode(ctx, sides, mode, mode); err != nil {
			return err
		}
	}
	if err := b.relayPrepared(ctx, sides); err != nil {
		return err
	}
	return b.relayTLS(ctx)
}

// relayPrepared leaves out who has no prepared statements in transaction mode, as PgBouncer before 1.21.
func (b *bench) relayPrepared(ctx context.Context, sides []*side) error {
	var able []*side
	for _, s := range sides {
		probe := load{mode: "prepared", clients: relayClients, seconds: 1} // on several connections, or it would seem to work
		_, err := b.lab.pgbenchRun(ctx, s, probe)
		switch {
		case err == nil:
			able = append(able, s)
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			b.progress("%s takes no prepared statements", s.name)
		}
	}
	if err := b.relayMode(ctx, able, "prepared", "prepared"); err != nil {
		return err
	}
	if last := able[len(able)-1]; last.name == weir {
		return b.preparedToExtended(ctx, last)
	}
	return nil
}

// preparedToExtended is what the text of a statement costs that is sent with each query, to one that is sent once.
func (b *bench) preparedToExtended(ctx context.Context, s *side) error {
	cpu := series{}
	modes := []string{"extended", "prepared"}
	for round := range b.rounds(7) {
		for _, mode := range turns(modes, round) {
			got, err := b.lab.pgbenchRun(ctx, s, load{mode: mode, clients: relayClients, seconds: 2, rate: 3000})
			if err != nil {
				return err
			}
			cpu.add(mode, got.cpu)
		}
	}
	b.results.atMost("CPU per query, prepared, to weir's own extended", 1.0, cpu.ratio("prepared", "extended"), "%.2f×", "")
	return nil
}

func (b *bench) relayTLS(ctx context.Context) error {
	sides, stop, err := b.lab.start(ctx, variant{cert: b.lab.p256}, pgbouncer, again, weir)
	if err != nil {
		return err
	}
	defer stop()
	return b.relayMode(ctx, sides, "simple", "simple over TLS")
}

func (b *bench) relayMode(ctx context.Context, sides []*side, mode, title string) error {
	b.progress("relay, %s", title)
	full := load{mode: mode, clients: relayClients, seconds: 2}
	rate, err := b.affordable(ctx, sides, full, 6000)
	if err != nil {
		return err
	}
	cpu, latency, tps, err := inTurns(ctx, sides, b.rounds(7), rate, b.pgbenchAt(full))
	if err != nil {
		return err
	}

	table := section{
		title: "Relay, " + title,
		note: fmt.Sprintf("`pgbench -S -M %s -c %d -j 1` on %d server connections. CPU and latency at %.0f transactions/s, throughput without a rate. Medians of %d rounds.",
			mode, relayClients, serverConnections, rate, b.rounds(7)),
		header: []string{"side", "CPU per transaction", "to PgBouncer", "latency", "transactions/s", "to PgBouncer", "to direct"},
	}
	for _, s := range sides {
		table.rows = append(table.rows, []string{
			s.name, number("%.1f µs", cpu.median(s.name)), ratioText(cpu.ratio(s.name, pgbouncer)),
			number("%.2f ms", latency.median(s.name)), number("%.0f", tps.median(s.name)), ratioText(tps.ratio(s.name, pgbouncer)),
			ratioText(tps.ratio(s.name, direct)),
		})
	}
	b.results.section(table)
	if mode == title { // over TLS there is no target
		b.results.atMost("CPU per query, "+title+", to PgBouncer", 1.15, cpu.ratio(weir, pgbouncer), "%.2f×", ratioText(cpu.ratio(again, pgbouncer)))
		b.results.atLeast("throughput, "+title+", to PgBouncer", 1.0, tps.ratio(weir, pgbouncer), "%.2f×", ratioText(tps.ratio(again, pgbouncer)))
	}
	return nil
}

// pgbenchAt puts a load on a side at a rate; 0 is as fast as it goes.
func (b *bench) pgbenchAt(w load) func(context.Context, *side, float64) (sample, error) {
	return func(ctx context.Context, s *side, rate float64) (sample, error) {
		w.rate = rate
		got, err := b.lab.pgbenchRun(ctx, s, w)
		if err == nil && got.perSecond < 0.9*rate {
			b.progress("%s kept up with %.0f of %.0f/s only", s.name, got.perSecond, rate)
		}
		return got, err
	}
}

// inTurns has each round measure all sides without a rate, for how much they do, and then at a rate, for what that costs.
func inTurns(ctx context.Context, sides []*side, rounds int, rate float64,
	run func(ctx context.Context, s *side, rate float64) (sample, error),
) (cpu, latency, speed series, err error) {
	cpu, latency, speed = series{}, series{}, series{}
	for round := range rounds {
		for _, s := range turns(sides, round) {
			got, err := run(ctx, s, 0)
			if err != nil {
				return nil, nil, nil, err
			}
			speed.add(s.name, got.perSecond)
		}
		for _, s := range turns(sides, round) {
			got, err := run(ctx, s, rate)
			if err != nil {
				return nil, nil, nil, err
			}
			latency.add(s.name, got.latency)
			if s.pid != 0 {
				cpu.add(s.name, got.cpu)
			}
		}
	}
	return cpu, latency, speed, nil
}

// affordable is the rate to offer: want, or 60 % of what the slowest side does at full speed.
func (b *bench) affordable(ctx context.Context, sides []*side, full load, want float64) (float64, error) {
	for _, s := range sides {
		got, err := b.lab.pgbenchRun(ctx, s, full)
		if err != nil {
			return 0, err
		}
		want = min(want, 0.6*got.perSecond)
	}
	return max(10, float64(int(want/10)*10)), nil
}
