package main

import (
	"context"
	"fmt"
)

// reset is what it costs to put a server connection back whenever it comes to another client.
func (b *bench) reset(ctx context.Context) error {
	variants := []struct {
		name, side string
		v          variant
	}{
		{"PgBouncer, server_reset_query_always=1", pgbouncer, variant{ini: "server_reset_query_always = 1\n"}},
		{"PgBouncer, no reset", pgbouncer, variant{}},
		{"weir, reset: always", weir, variant{resource: "    reset: always\n"}},
		{"weir, reset: detected", weir, variant{}},
	}
	var sides []*side
	for _, v := range variants {
		started, stop, err := b.lab.start(ctx, v.v, v.side)
		if err != nil {
			return err
		}
		defer stop()
		for _, s := range started {
			s.name = v.name
			sides = append(sides, s)
		}
	}
	for _, mode := range []string{"simple", "extended"} {
		if err := b.resetMode(ctx, sides, mode); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) resetMode(ctx context.Context, sides []*side, mode string) error {
	b.progress("reset, %s", mode)
	full := load{mode: mode, clients: relayClients, seconds: 2}
	rate, err := b.affordable(ctx, sides, full, 3000)
	if err != nil {
		return err
	}
	cpu, latency, tps, err := inTurns(ctx, sides, b.rounds(5), rate, b.pgbenchAt(full))
	if err != nil {
		return err
	}
	last := sides[len(sides)-1].name
	table := section{
		title: "Putting a connection back for each client, " + mode,
		note: fmt.Sprintf("`pgbench -S -M %s -c %d -j 1` on %d server connections, which change hands all the time: the one used last is lent next. CPU of the proxy and latency at %.0f transactions/s, throughput without a rate. Medians of %d rounds.",
			mode, relayClients, serverConnections, rate, b.rounds(5)),
		header: []string{"side", "CPU per transaction", "latency", "transactions/s", "to " + last},
	}
	for _, s := range sides {
		table.rows = append(table.rows, []string{
			s.name, number("%.1f µs", cpu.median(s.name)), number("%.2f ms", latency.median(s.name)),
			number("%.0f", tps.median(s.name)), ratioText(tps.ratio(s.name, last)),
		})
	}
	b.results.section(table)
	return nil
}
