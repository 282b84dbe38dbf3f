package main

import (
	"context"
	"fmt"
	"time"
)

// login is what a new connection with one query costs, and how many go through.
func (b *bench) login(ctx context.Context) error {
	for _, v := range []variant{{}, {scram: true}} {
		if err := b.loginPgbench(ctx, v); err != nil {
			return err
		}
	}
	for _, v := range []variant{{scram: true}, {scram: true, cert: b.lab.p256}, {scram: true, cert: b.lab.rsa}} {
		if err := b.loginOwn(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// loginPgbench uses pgbench -C, which spends more on a SCRAM exchange than any proxy: its rate bounds the side's.
func (b *bench) loginPgbench(ctx context.Context, v variant) error {
	full := load{mode: "simple", clients: 8, logins: true}
	return b.logins(ctx, v, "pgbench -C", "`pgbench -S -C -c 8 -j 1`", func(ctx context.Context, s *side, rate float64, seconds int) (sample, error) {
		w := full
		w.rate, w.seconds = rate, seconds
		return b.lab.pgbenchRun(ctx, s, w)
	})
}

// loginOwn uses this program's own client, the same for all sides: libpq needs more processor for a login than the
// proxies do, and would be what is measured.
func (b *bench) loginOwn(ctx context.Context, v variant) error {
	about := "A cheap client of our own, 16 at once"
	if v.tls() {
		about += ", TLS 1.3 with X25519 and a full handshake each time"
	}
	return b.logins(ctx, v, "own client", about, func(ctx context.Context, s *side, rate float64, seconds int) (sample, error) {
		var o outcome
		cpu, err := s.spends(func() (err error) {
			o, err = b.lab.generateFor(ctx, "login", job{
				Do: "login", Target: s.target(), Clients: 16, Rate: rate,
				Time: time.Duration(seconds) * time.Second,
			})
			return err
		})
		if err != nil {
			return sample{}, err
		}
		if o.Errors > 0 {
			b.progress("%s: %d of %d logins failed: %s", s.name, o.Errors, o.Errors+o.Done, o.Error)
		}
		return sample{perSecond: float64(o.Done) / o.Seconds, latency: o.P50, cpu: micros(cpu) / float64(o.Done)}, nil
	})
}

// logins compares the sides by one way of logging in; rate 0 is as fast as it goes.
func (b *bench) logins(ctx context.Context, v variant, client, about string,
	run func(ctx context.Context, s *side, rate float64, seconds int) (sample, error),
) error {
	b.progress("logins, %s, %s", v, client)
	sides, stop, err := b.lab.start(ctx, v, pgbouncer, again, before, weir)
	if err != nil {
		return err
	}
	defer stop()
	rate := 1000.0
	for _, s := range sides {
		got, err := run(ctx, s, 0, 2)
		if err != nil {
			return err
		}
		rate = min(rate, 0.6*got.perSecond)
	}
	rate = max(10, float64(int(rate/10)*10))

	const seconds = 2
	cpu, latency, speed, err := inTurns(ctx, sides, b.rounds(5), rate, func(ctx context.Context, s *side, rate float64) (sample, error) {
		return run(ctx, s, rate, seconds)
	})
	if err != nil {
		return err
	}

	table := section{
		title: "Logins, " + v.String() + ", " + client,
		note: fmt.Sprintf("%s; a new connection and one query each. CPU and latency at %.0f logins/s, logins/s without a rate. Medians of %d rounds.",
			about, rate, b.rounds(5)),
		header: []string{"side", "CPU per login", "to PgBouncer", "latency", "logins/s", "to PgBouncer"},
	}
	for _, s := range sides {
		table.rows = append(table.rows, []string{
			s.name, number("%.0f µs", cpu.median(s.name)), ratioText(cpu.ratio(s.name, pgbouncer)),
			number("%.2f ms", latency.median(s.name)), number("%.0f", speed.median(s.name)), ratioText(speed.ratio(s.name, pgbouncer)),
		})
	}
	b.results.section(table)
	noise := ratioText(cpu.ratio(again, pgbouncer))
	switch {
	case v.scram && !v.tls() && client == "pgbench -C":
		b.results.atMost("CPU per login, SCRAM, to PgBouncer", 1.0, cpu.ratio(weir, pgbouncer), "%.2f×", noise)
	case v.cert == b.lab.p256:
		b.results.atMost("CPU per login, TLS 1.3 with P-256 and SCRAM, to PgBouncer", 0.75, cpu.ratio(weir, pgbouncer), "%.2f×", noise)
		b.results.atLeast("logins/s, TLS 1.3 with P-256 and SCRAM, to PgBouncer", 1.5, speed.ratio(weir, pgbouncer), "%.2f×",
			ratioText(speed.ratio(again, pgbouncer)))
	}
	return nil
}
