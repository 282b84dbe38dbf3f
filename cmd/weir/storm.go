package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/weirproxy/weir/storm"
)

type stormCmd struct {
	DSN     string `name:"dsn" placeholder:"DSN" help:"The database or pooler that is to suffer; there is no default."`
	DSNFile string `name:"dsn-file" placeholder:"FILE" help:"The same, in a file: other users of the machine may read a command line."`
	Compare string `placeholder:"NAME=DSN,..." help:"Several of them in turn, with the same functions at the same moments: weir=postgres://...,direct=postgres://..."`
	Plan    string `placeholder:"FILE" help:"The whole storm in a file (YAML); flags override what is in it."`

	Load           string   `placeholder:"PHASES" help:"When functions start: phases with commas between, each one of '200/s for 10s', 'ramp to 500/s for 10s', 'ramp from 100/s to 500/s for 10s', 'add 200/s every 5s up to 2000/s', '500 at once', '1000 at once every 10s up to 5000'."`
	Connections    string   `placeholder:"HOW" help:"fresh: each function connects, and disconnects when it is done; kept: it borrows a connection that an earlier one left open, or waits for one (fresh)."`
	Kept           string   `placeholder:"N" help:"How many connections are kept (100)."`
	MaxConnections string   `placeholder:"N" help:"How many fresh connections there are at most; further functions wait (1000)."`
	Deadline       string   `placeholder:"DURATION" help:"After this a function is gone, and its connection with it (3s)."`
	SayDeadline    bool     `help:"Tell weir how much time a function has left: at login when connections are fresh, else in a comment ahead of each statement."`
	Retries        string   `placeholder:"N" help:"How often a function that was turned away tries again (0)."`
	HeedHint       bool     `help:"Wait before trying again as long as the HINT says (otherwise a backoff)."`
	Backoff        string   `placeholder:"DURATION" help:"Before the first retry, doubled for each further one, spread from none to twice (50ms)."`
	Caller         []string `sep:"none" placeholder:"KEY=VALUE,..." help:"One kind of function, repeatable: name=checkout,share=0.2,user=...,application_name=...,priority=critical,sql=file.sql. Keys as in a plan file."`

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
could not log in at all, and 2 when the storm is not well described.`
}

// Run lets the storm loose.
func (c stormCmd) Run(ctx context.Context, term terminal) error {
	plan, targets, err := c.read()
	if err != nil {
		return usageError{err}
	}
	outputs, err := c.outputs(term)
	if err != nil {
		return usageError{err}
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv("GOGC") == "" {
		defer paceCollector()() // logins leave as much garbage here as in a proxy
	}

	line := progressLine{out: term.err, watched: isTerminal(term.err)}
	report, err := storm.Compare(ctx, plan, targets, line.show)
	line.clear()
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted before the storm began")
		}
		return errors.Join(err, outputs.discard())
	}
	return outputs.write(report)
}

// read puts the plan together: the file first, then the flags.
func (c stormCmd) read() (storm.Plan, []storm.Target, error) {
	file := new(storm.File)
	if c.Plan != "" {
		data, err := os.ReadFile(c.Plan)
		if err != nil {
			return storm.Plan{}, nil, fmt.Errorf("--plan: %w", err)
		}
		if file, err = storm.ParseFile(c.Plan, data, os.LookupEnv); err != nil {
			return storm.Plan{}, nil, err
		}
	}
	if c.DSNFile != "" {
		dsn, err := readDSN(c.DSNFile)
		if err != nil {
			return storm.Plan{}, nil, fmt.Errorf("--dsn-file: %w", err)
		}
		c.DSN = dsn
	}
	plan := file.Plan
	if err := c.override(&plan); err != nil {
		return storm.Plan{}, nil, err
	}
	targets, err := c.targets(plan, file.Targets)
	if err != nil {
		return storm.Plan{}, nil, err
	}
	for _, target := range targets {
		plan.DSN = target.DSN
		if err := plan.Validate(); err != nil {
			return storm.Plan{}, nil, c.explain(file, target, err)
		}
	}
	return plan, targets, nil
}

// explain says where a mistake is to be mended.
func (c stormCmd) explain(file *storm.File, target storm.Target, err error) error {
	mistake, ok := errors.AsType[*storm.Mistake](err)
	switch {
	case !ok:
		return err
	case mistake.Key == "dsn" && c.Compare != "":
		return fmt.Errorf("--compare: the DSN of %s %s", target.Name, mistake.Message)
	case c.Plan != "":
		return file.Explain(err)
	case mistake.Key == "dsn" && target.DSN == "":
		return errors.New("--dsn: is missing; expected the database or pooler that is to suffer, e.g. --dsn postgres://app:secret@weir:6432/orders")
	}
	return fmt.Errorf("--%s: %s", strings.ReplaceAll(mistake.Key, "_", "-"), mistake.Message)
}

// override puts what the flags say in the place of what the file says.
func (c stormCmd) override(plan *storm.Plan) error {
	if c.SQL != "" || c.Work != "" { // one replaces the other
		plan.SQL, plan.Work = "", 0
	}
	for _, s := range []struct{ flag, key, value string }{
		{"dsn", "dsn", c.DSN},
		{"load", "load", c.Load},
		{"connections", "connections", c.Connections},
		{"kept", "kept", c.Kept},
		{"max-connections", "max_connections", c.MaxConnections},
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
			if mistake, ok := errors.AsType[*storm.Mistake](err); ok {
				return fmt.Errorf("--%s: %s", s.flag, mistake.Message)
			}
			return err
		}
	}
	if len(c.Caller) > 0 {
		plan.Callers = nil
	}
	for _, text := range c.Caller {
		caller, err := storm.ParseCaller(text)
		if err != nil {
			return fmt.Errorf("--%w", err)
		}
		plan.Callers = append(plan.Callers, caller)
	}
	return nil
}

func yes(given bool) string {
	if given {
		return "true"
	}
	return ""
}

// targets are whom the storm is to hit, in turn.
func (c stormCmd) targets(plan storm.Plan, fromFile []storm.Target) ([]storm.Target, error) {
	switch {
	case c.Compare != "":
		return parseTargets(c.Compare)
	case c.DSN == "" && len(fromFile) > 0:
		return fromFile, nil
	case plan.Name != "":
		return []storm.Target{{Name: plan.Name, DSN: plan.DSN}}, nil
	}
	return []storm.Target{{Name: "target", DSN: plan.DSN}}, nil
}

// targetStart is where a name and a DSN begin: a DSN may hold commas, and = after its own keys.
var targetStart = regexp.MustCompile(`(?:^|,)([A-Za-z0-9_.-]+=)?(postgres(?:ql)?://)`)

// parseTargets reads name=dsn pairs with commas between. Names may be left out.
func parseTargets(text string) ([]storm.Target, error) {
	const expected = "expected URLs with commas between, e.g. --compare weir=postgres://app@weir:6432/orders,direct=postgres://app@db/orders"
	starts := targetStart.FindAllStringSubmatchIndex(text, -1)
	if len(starts) == 0 || starts[0][0] != 0 {
		return nil, fmt.Errorf("--compare: %s", expected)
	}
	if len(starts) > storm.MaxTargets {
		return nil, fmt.Errorf("--compare: there are %d targets; expected at most %d", len(starts), storm.MaxTargets)
	}
	var targets []storm.Target
	for i, at := range starts {
		end := len(text)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		name := fmt.Sprintf("target %d", i+1)
		if at[2] >= 0 {
			name = text[at[2] : at[3]-1]
		}
		if slices.ContainsFunc(targets, func(t storm.Target) bool { return t.Name == name }) {
			return nil, fmt.Errorf("--compare: %s is the name of two targets; expected names that differ", name)
		}
		targets = append(targets, storm.Target{Name: name, DSN: text[at[4]:end]})
	}
	return targets, nil
}

// stormOutputs are where a report goes. Files are opened before the storm: who cannot write them learns it now.
type stormOutputs struct {
	tables     io.Writer // nil: not wanted
	json, html io.WriteCloser
}

func (c stormCmd) outputs(term terminal) (*stormOutputs, error) {
	o := &stormOutputs{tables: term.out}
	var err error
	if c.JSON == "-" {
		o.tables, o.json = nil, nopCloser{term.out}
	} else if c.JSON != "" {
		if o.json, err = os.Create(c.JSON); err != nil {
			return nil, fmt.Errorf("--json: %w", err)
		}
	}
	if c.HTML != "" {
		if o.html, err = os.Create(c.HTML); err != nil {
			return nil, errors.Join(fmt.Errorf("--html: %w", err), o.discard())
		}
	}
	return o, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func (o *stormOutputs) write(report *storm.Report) (err error) {
	if o.tables != nil {
		err = report.WriteText(o.tables)
	}
	if o.json != nil {
		err = errors.Join(err, report.WriteJSON(o.json))
	}
	if o.html != nil {
		err = errors.Join(err, report.WriteHTML(o.html))
	}
	return errors.Join(err, o.discard())
}

// discard closes the files.
func (o *stormOutputs) discard() error {
	var err error
	for _, file := range []io.WriteCloser{o.json, o.html} {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
	}
	return err
}

// progressLine is one line on a terminal that is written over and over.
type progressLine struct {
	out     io.Writer
	watched bool // by somebody
	wide    int  // what is on the line now
}

func (l *progressLine) show(target string, p storm.Progress) {
	if !l.watched {
		return
	}
	text := fmt.Sprintf("%s %.0fs/%.0fs  offered %.0f/s good %.0f refused %.0f late %.0f  p99 %s  in flight %d",
		target, p.Elapsed.Seconds(), p.Duration.Seconds(), p.Offered, p.Good, p.Refused, p.TimedOut, milliseconds(p.P99.Seconds()*1000), p.InFlight)
	const narrow = 79 // columns; a line that wraps cannot be written over
	text = text[:min(len(text), narrow)]
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
