package main

import (
	"context"
	"fmt"
	"time"
)

// idle is what a client that does nothing costs.
func (b *bench) idle(ctx context.Context) error {
	for _, v := range []variant{{}, {scram: true, cert: b.lab.p256}} {
		if err := b.idleVariant(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) idleVariant(ctx context.Context, v variant) error {
	const wanted, watched = 8000, 10 * time.Second
	clients := min(wanted, b.mostClients())
	memory, busy, opening := series{}, series{}, series{}
	names := []string{pgbouncer, weir}
	for round := range b.rounds(2) {
		for _, name := range turns(names, round) {
			b.progress("idle, %s: %s", v, name)
			// A fresh process for each measurement: what the last clients left behind is not this one's growth.
			sides, stop, err := b.lab.start(ctx, v, name)
			if err != nil {
				return err
			}
			if len(sides) == 0 {
				continue
			}
			err = b.idleOnce(ctx, sides[0], clients, watched, memory, busy, opening)
			stop()
			if err != nil {
				return err
			}
		}
	}

	table := section{
		title:  "Idle clients, " + v.String(),
		note:   fmt.Sprintf("%d clients, each with one query behind it; growth of the resident memory, then processor time over %v.", clients, watched),
		header: []string{"side", "memory per client", "to PgBouncer", "share of a core", "opened per second"},
	}
	for _, name := range names {
		if len(memory[name]) > 0 {
			table.rows = append(table.rows, []string{
				name, number("%.0f bytes", memory.median(name)), ratioText(memory.ratio(name, pgbouncer)),
				number("%.3f %%", busy.median(name)), number("%.0f", opening.median(name)),
			})
		}
	}
	b.results.section(table)
	if v.tls() {
		b.results.atMost("memory per idle client with TLS, to PgBouncer", 0.5, memory.ratio(weir, pgbouncer), "%.2f×", "")
		return nil
	}
	b.results.atMost("memory per idle client", 1500, memory.median(weir), "%.0f bytes", "")
	b.results.atMost("processor of an idle weir, share of a core", 0.3, busy.median(weir), "%.3f %%", "")
	return nil
}

func (b *bench) idleOnce(ctx context.Context, s *side, clients int, watched time.Duration, memory, busy, opening series) error {
	const settling = 5 * time.Second
	before, err := resident(s.pid)
	if err != nil {
		return err
	}
	holders, opened, err := b.hold(ctx, s, clients)
	defer release(holders)
	if err != nil {
		return err
	}
	if err := sleep(ctx, settling); err != nil {
		return err
	}
	spent, err := s.spends(func() error { return sleep(ctx, watched) })
	if err != nil {
		return err
	}
	after, err := resident(s.pid)
	if err != nil {
		return err
	}
	memory.add(s.name, float64(after-before)/float64(clients))
	busy.add(s.name, 100*spent.Seconds()/watched.Seconds())
	opening.add(s.name, float64(clients)/opened.Seconds())
	return nil
}

// hold opens idle connections from processes of their own, each with a source address of its own, so that neither file
// descriptors nor ports run out. The holders are the caller's to release, also after an error.
func (b *bench) hold(ctx context.Context, s *side, clients int) (holders []*generator, took time.Duration, err error) {
	const each = 7500
	start := time.Now()
	for left, i := clients, 0; left > 0; i++ {
		j := job{Do: "hold", Target: s.target(), Clients: min(each, left)}
		j.Target.Source = fmt.Sprintf("127.0.0.%d", 10+i)
		g, err := b.lab.generate(fmt.Sprintf("hold-%d", i), j, false)
		if err != nil {
			return holders, 0, err
		}
		holders = append(holders, g)
		left -= j.Clients
	}
	for _, g := range holders {
		if _, err := g.outcome(ctx); err != nil {
			return holders, 0, err
		}
	}
	return holders, time.Since(start), nil
}

func release(holders []*generator) {
	for _, g := range holders {
		g.finish()
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
