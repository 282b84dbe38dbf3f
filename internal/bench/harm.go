package main

import (
	"context"
	"fmt"
	"time"
)

// Who is served well as long as nobody is in the way: nine clients that together ask for half of what nine can have.
const (
	goodClients = 9
	goodShare   = 0.5
)

// harm is what neighbours that stall, flood, or do not read do to those who ask and read: their p99 beside each kind of neighbour to
// what it is alone, and how many of them were refused.
func (b *bench) harm(ctx context.Context) error {
	sides, stop, err := b.lab.start(ctx, variant{}, pgbouncer, before, weir)
	if err != nil {
		return err
	}
	defer stop()
	rate, err := b.goodRate(ctx, sides)
	if err != nil {
		return err
	}
	table := section{
		title: "Beside neighbours that do harm",
		note: fmt.Sprintf("%d clients with %.0f queries/s between them, half of what they can have, on %d server connections; latency from when a query was due. Medians of %d rounds; errors of all rounds.",
			goodClients, rate, serverConnections, b.rounds(3)),
		header: []string{"neighbours", "side", "p99 alone", "p99 beside them", "ratio", "errors"},
	}
	for _, kind := range harms {
		alone, beside, failed := series{}, series{}, map[string]int{}
		for round := range b.rounds(3) {
			for _, s := range turns(sides, round) {
				b.progress("harm, %s, round %d: %s", kind.name, round+1, s.name)
				if err := b.harmOnce(ctx, s, kind, rate, alone, beside, failed); err != nil {
					return err
				}
			}
		}
		for _, s := range sides {
			ratio := series{s.name: beside[s.name], "alone": alone[s.name]}.ratio(s.name, "alone")
			table.rows = append(table.rows, []string{
				kind.name, s.name, number("%.2f ms", alone.median(s.name)), number("%.2f ms", beside.median(s.name)), ratioText(ratio), fmt.Sprint(failed[s.name]),
			})
			if s.name == weir {
				theirs := series{pgbouncer: beside[pgbouncer], "alone": alone[pgbouncer]}.ratio(pgbouncer, "alone")
				b.results.atMost("p99 beside "+kind.name+", to alone", 2, ratio, "%.2f×", "PgBouncer "+ratioText(theirs))
				b.results.atMost("errors beside "+kind.name, 0, float64(failed[s.name]), "%.0f", fmt.Sprintf("PgBouncer %d", failed[pgbouncer]))
			}
		}
	}
	b.results.section(table)
	return nil
}

// goodRate is how many queries per second the good clients ask for: half of what they can have on the slowest side.
func (b *bench) goodRate(ctx context.Context, sides []*side) (float64, error) {
	rate := 2000.0
	for _, s := range sides {
		o, err := b.lab.generateFor(ctx, "query", job{Do: "query", Target: s.target(), Clients: goodClients, Time: 2 * time.Second})
		if err != nil {
			return 0, err
		}
		rate = min(rate, goodShare*float64(o.Done)/o.Seconds)
	}
	return float64(int(rate/10) * 10), nil
}

func (b *bench) harmOnce(ctx context.Context, s *side, kind harmKind, rate float64, alone, beside series, failed map[string]int) error {
	probe := job{Do: "query", Target: s.target(), Clients: goodClients, Rate: rate, Time: time.Duration(b.length(6)) * time.Second}
	o, err := b.lab.generateFor(ctx, "query", probe)
	if err != nil {
		return err
	}
	alone.add(s.name, o.P99)
	neighbours := job{Do: "harm", Kind: kind.name, Target: s.target(), Clients: min(kind.clients, b.mostClients()-goodClients)}
	g, err := b.lab.generate("harm", neighbours, true)
	if err != nil {
		return err
	}
	defer g.finish()
	if _, err := g.outcome(ctx); err != nil { // they are where they do harm
		return err
	}
	switch o, err = b.lab.generateFor(ctx, "query", probe); {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil: // nobody was served
		b.progress("%s beside %s: %v", s.name, kind.name, err)
		failed[s.name] += goodClients
		beside.add(s.name, float64(patience.Milliseconds()))
		return nil
	case o.Errors > 0:
		b.progress("%s beside %s: %d errors: %s", s.name, kind.name, o.Errors, o.Error)
	}
	failed[s.name] += o.Errors
	beside.add(s.name, o.P99)
	return nil
}
