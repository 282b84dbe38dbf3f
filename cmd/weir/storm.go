package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/weirproxy/weir/storm"
)

type stormCmd struct {
	DSN     string `name:"dsn" placeholder:"DSN" help:"The database or pooler that is to suffer; there is no default."`
	Compare string `placeholder:"NAME=DSN,..." help:"Several of them in turn, with the same functions at the same moments: weir=postgres://...,direct=postgres://..."`
	Plan    string `placeholder:"FILE" help:"The whole storm in a file (YAML); flags override what is in it."`

	Load        string   `placeholder:"PHASES" help:"When functions start: phases with commas between, each one of '200/s for 10s', 'ramp to 500/s for 10s', 'ramp from 100/s to 500/s for 10s', 'add 200/s every 5s up to 2000/s', '500 at once', '1000 at once every 10s up to 5000'."`
	Connections string   `placeholder:"HOW" help:"fresh: each function connects, and disconnects when it is done; kept: it borrows a connection that an earlier one left open, or waits for one (fresh)."`
	Kept        string   `placeholder:"N" help:"How many connections are kept (100)."`
	MaxConns    string   `name:"max-connections" placeholder:"N" help:"How many fresh connections there are at most; further functions wait (1000)."`
	Deadline    string   `placeholder:"DURATION" help:"After this a function is gone, and its connection with it (3s)."`
	SayDeadline bool     `help:"Tell weir how much time a function has left: at login when connections are fresh, else in a comment ahead of each statement."`
	Retries     string   `placeholder:"N" help:"How often a function that was turned away tries again (0)."`
	HeedHint    bool     `help:"Wait before trying again as long as the HINT says (otherwise a backoff)."`
	Backoff     string   `placeholder:"DURATION" help:"Before the first retry, doubled for each further one, spread from none to twice (50ms)."`
	Caller      []string `sep:"none" placeholder:"KEY=VALUE,..." help:"One kind of function, repeatable: name=checkout,share=0.2,user=...,application_name=...,priority=critical,sql=file.sql. Keys as in a plan file."`

	SQL          string `name:"sql" placeholder:"FILE" help:"One transaction. Several statements run in a block, each in a round trip; random(1,1000) becomes a number (SELECT 1)."`
	Work         string `placeholder:"DURATION" help:"Instead of SQL: a query that takes this much of a processor's time in the server, measured before the storm."`
	Transactions string `placeholder:"N" help:"How many transactions a function runs (1)."`
	Pause        string `placeholder:"DURATION" help:"What it does between two of them (0s)."`

	Warmup     string `placeholder:"DURATION" help:"Functions that start earlier are in the series only (0s)."`
	Resolution string `placeholder:"DURATION" help:"Of the series (1s)."`
	Seed       string `placeholder:"N" help:"The same seed, the same moments (1)."`

	JSON string `name:"json" placeholder:"FILE" help:"Write everything as JSON, with the series; - is standard output, instead of the tables."`
	HTML string `name:"html" placeholder:"FILE" help:"Write a report with charts, in one file that needs no network."`
}

// Help is what weir storm --help and the reference say beyond the flags.
func (stormCmd) Help() string {
	return `The load is open: nobody slows down because the database does, and latency counts from the moment a function was to
start. Good is what finished within its deadline.

Ctrl-C ends the storm early; the tables are of what happened up to then, and the exit status is 0. It is 1 when a caller
could not log in at all, and 2 when the storm is not well described. docs/how-to/storm.md has examples.`
}

// Run lets the storm loose.
func (c stormCmd) Run(ctx context.Context, term terminal) error {
	plan, targets, err := c.read()
	if err != nil {
		return usageError{err}
	}
	if err := c.checkOutputs(); err != nil {
		return usageError{err}
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()

	processors, undo := tuneRuntime()
	_ = processors
	defer undo()
	line := &progressLine{out: term.err, live: isTerminal(term.err)}
	report, err := storm.Compare(ctx, plan, targets, line.show)
	line.clear()
	if err != nil {
		if mistake, ok := errors.AsType[*storm.Mistake](err); ok {
			return usageError{mistake}
		}
		return err
	}
	return c.write(report, term)
}

// read puts the plan together: the file first, then the flags.
func (c stormCmd) read() (storm.Plan, []storm.Target, error) {
	var plan storm.Plan
	for _, s := range []struct{ flag, key, value string }{
		{"dsn", "dsn", c.DSN},
		{"load", "load", c.Load},
		{"connections", "connections", c.Connections},
		{"kept", "kept", c.Kept},
		{"max-connections", "max_connections", c.MaxConns},
		{"deadline", "deadline", c.Deadline},
		{"say-deadline", "say_deadline", yes(c.SayDeadline)},
		{"retries", "retries", c.Retries},
		{"heed-hint", "heed_hint", yes(c.HeedHint)},
		{"backoff", "backoff", c.Backoff},
		{"sql", "sql_file", c.SQL},
		{"work", "work", c.Work},
		{"transactions", "transactions", c.Transactions},
		{"pause", "pause", c.Pause},
		{"warmup", "warmup", c.Warmup},
		{"resolution", "resolution", c.Resolution},
		{"seed", "seed", c.Seed},
	} {
		if s.value == "" {
			continue
		}
		if err := plan.Set(s.key, s.value); err != nil {
			mistake, _ := errors.AsType[*storm.Mistake](err)
			return plan, nil, fmt.Errorf("--%s: %s", s.flag, mistake.Message)
		}
	}
	for _, text := range c.Caller {
		caller, err := storm.ParseCaller(text)
		if err != nil {
			return plan, nil, fmt.Errorf("--%w", err)
		}
		plan.Callers = append(plan.Callers, caller)
	}
	targets := []storm.Target{{Name: "target", DSN: plan.DSN}}
	return plan, targets, nil
}

func yes(b bool) string {
	if b {
		return "true"
	}
	return ""
}

func (c stormCmd) checkOutputs() error { return nil }

// write tells what became of the storm, in all ways that were asked for.
func (c stormCmd) write(report *storm.Report, term terminal) error {
	if c.JSON != "-" {
		if err := report.WriteText(term.out); err != nil {
			return err
		}
	}
	if c.JSON == "-" {
		return report.WriteJSON(term.out)
	}
	if c.JSON != "" {
		return writeFile(c.JSON, report.WriteJSON)
	}
	return nil
}

func writeFile(path string, write func(io.Writer) error) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return write(file)
}

// progressLine is one line on a terminal that is written over and over.
type progressLine struct {
	out  io.Writer
	live bool
	wide int
}

func (l *progressLine) show(target string, p storm.Progress) {
	if !l.live {
		return
	}
	text := fmt.Sprintf("%s %s/%s   offered %.0f/s   good %.0f/s   refused %.0f/s   timed out %.0f/s   p99 %s   in flight %d, waiting %d",
		target, p.Elapsed.Round(time.Second), p.Duration, p.Offered, p.Good, p.Refused, p.TimedOut,
		p.P99.Round(100*time.Microsecond), p.InFlight, p.Waiting)
	_, _ = fmt.Fprintf(l.out, "\r%s%s", text, strings.Repeat(" ", max(0, l.wide-len(text))))
	l.wide = len(text)
}

func (l *progressLine) clear() {
	if l.wide > 0 {
		_, _ = fmt.Fprintf(l.out, "\r%s\r", strings.Repeat(" ", l.wide))
	}
}

// isTerminal says whether somebody watches.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
