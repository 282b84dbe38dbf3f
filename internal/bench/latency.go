package main

import (
	"context"
	"fmt"
	"time"
)

// storm is what a storm of logins over TLS does to the queries of those who are logged in already.
func (b *bench) storm(ctx context.Context) error {
	v := variant{scram: true, cert: b.lab.p256}
	sides, stop, err := b.lab.start(ctx, v, pgbouncer, weir)
	if err != nil {
		return err
	}
	defer stop()
	const queryRate, queryClients = 1000, 20
	storms := []struct {
		title string
		j     job
	}{
		{"400 logins/s", job{Do: "login", Clients: 32, Rate: 400}},
		{"as many as go through, 32 at once", job{Do: "login", Clients: 32}},
	}

	quiet := series{}
	during := make([]series, len(storms))
	through := make([]series, len(storms))
	for i := range storms {
		during[i], through[i] = series{}, series{}
	}
	for round := range b.rounds(5) {
		for _, s := range turns(sides, round) {
			b.progress("storm, round %d: %s", round+1, s.name)
			probe := job{Do: "query", Target: s.target(), Clients: queryClients, Rate: queryRate, Time: time.Duration(b.length(6)) * time.Second}
			o, err := b.lab.generateFor(ctx, "query", probe)
			if err != nil {
				return err
			}
			quiet.add(s.name, o.P99)
			for i, storm := range storms {
				storm.j.Target = s.target()
				queries, logins, err := b.stormOnce(ctx, probe, storm.j)
				if err != nil {
					return err
				}
				during[i].add(s.name, queries.P99)
				through[i].add(s.name, float64(logins.Done)/logins.Seconds)
			}
		}
	}

	table := section{
		title: "Queries during a storm of logins, " + v.String(),
		note: fmt.Sprintf("%d clients with %d queries/s between them; the storm comes from a process of lower priority, for it stands for other machines. Medians of %d rounds.",
			queryClients, queryRate, b.rounds(5)),
		header: []string{"side", "storm", "logins/s", "p99", "to quiet"},
	}
	for _, s := range sides {
		table.rows = append(table.rows, []string{s.name, "none", "0", number("%.2f ms", quiet.median(s.name)), ""})
		for i, storm := range storms {
			toQuiet := series{s.name: during[i][s.name], "quiet": quiet[s.name]}.ratio(s.name, "quiet")
			table.rows = append(table.rows, []string{
				s.name, storm.title, number("%.0f", through[i].median(s.name)),
				number("%.2f ms", during[i].median(s.name)), ratioText(toQuiet),
			})
			if s.name == weir {
				b.results.atMost("p99 of queries during a storm of logins ("+storm.title+"), to quiet", 2, toQuiet, "%.2f×",
					"PgBouncer "+ratioText(series{pgbouncer: during[i][pgbouncer], "quiet": quiet[pgbouncer]}.ratio(pgbouncer, "quiet")))
			}
		}
	}
	b.results.section(table)
	return nil
}

func (b *bench) stormOnce(ctx context.Context, probe, storm job) (queries, logins outcome, err error) {
	const before, after = 500 * time.Millisecond, 500 * time.Millisecond
	storm.Time = before + probe.Time + after
	g, err := b.lab.generate("storm", storm, true)
	if err != nil {
		return queries, logins, err
	}
	defer g.finish()
	if err := sleep(ctx, before); err != nil {
		return queries, logins, err
	}
	if queries, err = b.lab.generateFor(ctx, "query", probe); err != nil {
		return queries, logins, err
	}
	logins, err = g.outcome(ctx)
	if err == nil && logins.Errors > 0 {
		b.progress("%d of %d logins of the storm failed: %s", logins.Errors, logins.Errors+logins.Done, logins.Error)
	}
	return queries, logins, err
}

// mixed is what thousands of idle clients do to the queries of a hundred busy ones.
func (b *bench) mixed(ctx context.Context) error {
	const wanted, busyClients, rate = 15_000, 100, 2000
	connected := min(wanted, b.mostClients())
	sides, stop, err := b.lab.start(ctx, variant{}, pgbouncer, weir)
	if err != nil {
		return err
	}
	defer stop()
	alone, among, opening := series{}, series{}, series{}
	for round := range b.rounds(4) {
		for _, s := range turns(sides, round) {
			b.progress("mixed, round %d: %s", round+1, s.name)
			probe := job{Do: "query", Target: s.target(), Clients: busyClients, Rate: rate, Time: time.Duration(b.length(6)) * time.Second}
			o, err := b.lab.generateFor(ctx, "query", probe)
			if err != nil {
				return err
			}
			alone.add(s.name, o.P99)
			if o, err = b.mixedOnce(ctx, s, connected-busyClients, probe, opening); err != nil {
				return err
			}
			among.add(s.name, o.P99)
		}
	}

	table := section{
		title: fmt.Sprintf("%d busy clients among %d connected", busyClients, connected),
		note: fmt.Sprintf("trust, no TLS; %d queries/s between the busy ones, %d server connections. Medians of %d rounds.",
			rate, serverConnections, b.rounds(4)),
		header: []string{"side", "p99 with no idle clients", "p99 with them", "ratio", "opened per second"},
	}
	for _, s := range sides {
		ratio := series{s.name: among[s.name], "alone": alone[s.name]}.ratio(s.name, "alone")
		table.rows = append(table.rows, []string{
			s.name, number("%.2f ms", alone.median(s.name)), number("%.2f ms", among.median(s.name)),
			ratioText(ratio), number("%.0f", opening.median(s.name)),
		})
		if s.name == weir {
			b.results.atMost(fmt.Sprintf("p99 of %d busy clients among %d, to the same with no idle ones", busyClients, connected), 1.2, ratio, "%.2f×",
				"PgBouncer "+ratioText(series{pgbouncer: among[pgbouncer], "alone": alone[pgbouncer]}.ratio(pgbouncer, "alone")))
		}
	}
	b.results.section(table)
	return nil
}

func (b *bench) mixedOnce(ctx context.Context, s *side, idle int, probe job, opening series) (outcome, error) {
	const settling = 3 * time.Second
	holders, took, err := b.hold(ctx, s, idle)
	defer release(holders)
	if err != nil {
		return outcome{}, err
	}
	opening.add(s.name, float64(idle)/took.Seconds())
	if err := sleep(ctx, settling); err != nil {
		return outcome{}, err
	}
	return b.lab.generateFor(ctx, "query", probe)
}
