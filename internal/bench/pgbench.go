package main

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"time"
)

// load is one run of pgbench -S.
type load struct {
	mode    string  // simple | extended | prepared
	clients int     // and as many connections
	rate    float64 // offered transactions per second; 0 is as fast as it goes
	logins  bool    // a new connection for each transaction
	seconds int
}

// sample is what one run of a load on one side came to.
type sample struct {
	perSecond float64
	latency   float64 // milliseconds, average
	cpu       float64 // microseconds of the proxy's processor time per transaction or login; 0 for a direct connection
}

var (
	tpsLine     = regexp.MustCompile(`tps = ([\d.]+)`)
	latencyLine = regexp.MustCompile(`latency average = ([\d.]+) ms`)
	countLine   = regexp.MustCompile(`actually processed: (\d+)`)
)

// pgbenchReport reads what pgbench prints at its end.
func pgbenchReport(text string) (tps, latency float64, transactions int, err error) {
	for _, field := range []struct {
		at   *regexp.Regexp
		into func(string) error
	}{
		{tpsLine, func(s string) (err error) { tps, err = strconv.ParseFloat(s, 64); return err }},
		{latencyLine, func(s string) (err error) { latency, err = strconv.ParseFloat(s, 64); return err }},
		{countLine, func(s string) (err error) { transactions, err = strconv.Atoi(s); return err }},
	} {
		m := field.at.FindStringSubmatch(text)
		if m == nil {
			return 0, 0, 0, fmt.Errorf("pgbench's output has no %q: %.300q", field.at, text)
		}
		if err := field.into(m[1]); err != nil {
			return 0, 0, 0, err
		}
	}
	if transactions == 0 {
		return 0, 0, 0, fmt.Errorf("pgbench finished no transaction: %.300q", text)
	}
	return tps, latency, transactions, nil
}

// pgEnv settles what libpq would otherwise take from the environment it finds.
func pgEnv(tls bool) []string {
	mode := "disable"
	if tls {
		mode = "require"
	}
	return []string{"PGPASSWORD=" + benchPassword, "PGSSLMODE=" + mode, "PGGSSENCMODE=disable", "PGOPTIONS="}
}

// pgbenchRun puts a load on one side.
func (l *lab) pgbenchRun(ctx context.Context, s *side, w load) (sample, error) {
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		return sample{}, err
	}
	argv := []string{
		l.pgbench, "-h", host, "-p", port, "-U", benchUser, "-n", "-S", "-M", w.mode,
		"-c", strconv.Itoa(w.clients), "-j", "1", "-T", strconv.Itoa(w.seconds),
	}
	if w.rate > 0 {
		argv = append(argv, "-R", strconv.FormatFloat(w.rate, 'f', 0, 64))
	}
	if w.logins {
		argv = append(argv, "-C")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(w.seconds)*time.Second+patience)
	defer cancel()
	var text string
	cpu, err := s.spends(func() (err error) {
		text, err = l.children.output(ctx, command{name: "pgbench", argv: append(argv, benchDatabase), env: pgEnv(s.tls)})
		return err
	})
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", s.name, err)
	}
	tps, latency, transactions, err := pgbenchReport(text)
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", s.name, err)
	}
	return sample{perSecond: tps, latency: latency, cpu: micros(cpu) / float64(transactions)}, nil
}

// spends is the processor time that the side's process uses while f runs.
func (s *side) spends(f func() error) (time.Duration, error) {
	if s.pid == 0 {
		return 0, f()
	}
	before, err := cpuTime(s.pid)
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		if !s.proc.alive() {
			return 0, s.proc.failure()
		}
		return 0, err
	}
	after, err := cpuTime(s.pid)
	return after - before, err
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
