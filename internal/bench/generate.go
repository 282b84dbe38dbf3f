package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

var selectOne = message('Q', []byte("select 1\x00"))

// selectAccount is what pgbench -S asks.
func selectAccount(random *rand.Rand) []byte {
	text := "SELECT abalance FROM pgbench_accounts WHERE aid = " + strconv.Itoa(1+random.IntN(benchScale*100_000)) + "\x00"
	return message('Q', []byte(text))
}

// job is what a load generator is asked to do, given to it as one argument in JSON.
type job struct {
	Do      string        `json:"do"`             // hold | query | login | harm | halve
	Kind    string        `json:"kind,omitempty"` // of harm
	Target  target        `json:"target"`
	Clients int           `json:"clients"`        // connections held or used, or logins under way at once
	Rate    float64       `json:"rate,omitempty"` // starts per second over all clients; 0 is as fast as it goes
	Time    time.Duration `json:"time,omitempty"` // how long; 0 is until standard input closes
	Pid     int           `json:"pid,omitempty"`  // whose child processes are to have half their processor time
}

// outcome is what a load generator prints when it is done; one that holds connections prints it once they are open.
type outcome struct {
	Done    int     `json:"done"`
	Errors  int     `json:"errors,omitempty"`
	Error   string  `json:"error,omitempty"` // the first
	Seconds float64 `json:"seconds"`
	P50     float64 `json:"p50"` // milliseconds
	P99     float64 `json:"p99"`
	Max     float64 `json:"max"`
}

// clientMain is this program as a load generator: bench client JSON.
func clientMain(args []string) error {
	if len(args) != 1 {
		return errors.New("client wants one argument, a job in JSON")
	}
	var j job
	if err := json.Unmarshal([]byte(args[0]), &j); err != nil {
		return fmt.Errorf("job: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // at its end: finish
		if j.Time == 0 {
			cancel()
		}
	}()
	if j.Time > 0 {
		ctx, cancel = context.WithTimeout(ctx, j.Time)
	}
	defer cancel()

	switch j.Do {
	case "hold":
		return hold(ctx, j)
	case "query":
		return printOutcome(queries(ctx, j))
	case "login":
		return printOutcome(logins(ctx, j))
	case "harm":
		return harm(ctx, j)
	case "halve":
		halve(j.Pid, ctx.Done())
		return nil
	}
	return fmt.Errorf("job %q is not known", j.Do)
}

func printOutcome(o outcome, err error) error {
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(o)
}

// hold opens connections, runs a query on each, and keeps them until told to finish.
func hold(ctx context.Context, j job) error {
	const openers = 8
	conns := make([]*conn, j.Clients)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	start := time.Now()
	var opening sync.WaitGroup
	for range openers {
		opening.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(conns) && failed.Load() == nil; i = int(next.Add(1)) - 1 {
				c, err := dial(ctx, j.Target)
				if err == nil {
					err = c.query(selectOne)
				}
				if err != nil {
					err = fmt.Errorf("client %d: %w", i, err)
					failed.Store(&err)
					return
				}
				conns[i] = c
			}
		})
	}
	opening.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	if err := printOutcome(outcome{Done: len(conns), Seconds: time.Since(start).Seconds()}, nil); err != nil {
		return err
	}
	<-ctx.Done()
	for _, c := range conns {
		c.Close()
	}
	return nil
}

// tally collects what clients find; each client fills its own and they are added at the end.
type tally struct {
	took   []time.Duration
	errors int
	first  error
}

func (t *tally) add(took time.Duration, err error) {
	if err == nil {
		t.took = append(t.took, took)
		return
	}
	t.errors++
	if t.first == nil {
		t.first = err
	}
}

func sum(parts []tally, elapsed time.Duration) outcome {
	o := outcome{Seconds: elapsed.Seconds()}
	var all []time.Duration
	for _, p := range parts {
		all = append(all, p.took...)
		o.Errors += p.errors
		if o.Error == "" && p.first != nil {
			o.Error = p.first.Error()
		}
	}
	slices.Sort(all)
	o.Done = len(all)
	o.P50, o.P99, o.Max = quantile(all, 0.50), quantile(all, 0.99), quantile(all, 1)
	return o
}

// quantile of sorted durations, in milliseconds.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := min(int(q*float64(len(sorted))), len(sorted)-1)
	return float64(sorted[i].Microseconds()) / 1000
}

// pace yields the moments at which one client of several starts something: a Poisson process whose seed is the client's
// number, so that every side gets the same arrivals.
type pace struct {
	random *rand.Rand
	mean   time.Duration // between two starts; 0 is at once
	next   time.Time
}

func newPace(j job, client int) *pace {
	p := &pace{random: rand.New(rand.NewPCG(1, uint64(client))), next: time.Now()}
	if j.Rate > 0 {
		p.mean = time.Duration(float64(j.Clients) / j.Rate * float64(time.Second))
		p.advance()
	}
	return p
}

func (p *pace) advance() {
	p.next = p.next.Add(time.Duration(p.random.ExpFloat64() * float64(p.mean)))
}

// wait sleeps until the next start and returns the time from which its latency counts: when it was due, if the client
// was still busy then, and otherwise when it really starts, for a late timer is the generator's fault and not the
// side's.
func (p *pace) wait(ctx context.Context) (from time.Time, err error) {
	if p.mean == 0 {
		return time.Now(), ctx.Err()
	}
	due := p.next
	p.advance()
	ahead := time.Until(due)
	if ahead <= 0 {
		return due, ctx.Err()
	}
	select {
	case <-time.After(ahead):
		return time.Now(), nil
	case <-ctx.Done():
		return due, ctx.Err()
	}
}

// queries runs pgbench's select on connections opened beforehand.
func queries(ctx context.Context, j job) (outcome, error) {
	conns := make([]*conn, j.Clients)
	for i := range conns {
		c, err := dial(context.Background(), j.Target)
		if err != nil {
			return outcome{}, err
		}
		defer c.Close()
		if err := c.query(selectOne); err != nil {
			return outcome{}, err
		}
		conns[i] = c
	}
	parts := make([]tally, j.Clients)
	start := time.Now()
	var running sync.WaitGroup
	for i, c := range conns {
		running.Go(func() {
			p := newPace(j, i)
			for {
				from, err := p.wait(ctx)
				if err != nil {
					return
				}
				err = c.query(selectAccount(p.random))
				parts[i].add(time.Since(from), err)
				if err != nil {
					return
				}
			}
		})
	}
	running.Wait()
	return sum(parts, time.Since(start)), nil
}

// logins connects, runs one query and leaves, over and over.
func logins(ctx context.Context, j job) (outcome, error) {
	parts := make([]tally, j.Clients)
	start := time.Now()
	var running sync.WaitGroup
	for i := range parts {
		running.Go(func() {
			p := newPace(j, i)
			for {
				from, err := p.wait(ctx)
				if err != nil {
					return
				}
				err = oneLogin(j.Target)
				parts[i].add(time.Since(from), err)
				if err != nil {
					time.Sleep(10 * time.Millisecond) // a side that refuses everything must not set this spinning
				}
			}
		})
	}
	running.Wait()
	return sum(parts, time.Since(start)), nil
}

func oneLogin(t target) error {
	c, err := dial(context.Background(), t)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.query(selectOne); err != nil {
		return err
	}
	_, err = c.Write(message('X', nil))
	return err
}

// generator is a load generator that runs in the background.
type generator struct {
	lab  *lab
	proc *child
	said firstLine
}

// firstLine keeps the first line written to it. It never blocks its writer, for a process is only done when all it
// wrote has been taken.
type firstLine struct {
	text []byte      // up to here, by the one writer
	line chan []byte // holds one
}

func (f *firstLine) Write(p []byte) (int, error) {
	f.text = append(f.text, p...)
	if end := bytes.IndexByte(f.text, '\n'); end >= 0 {
		select {
		case f.line <- f.text[:end]:
		default: // that was another
		}
	}
	return len(p), nil
}

// generate starts a load generator. A meek one runs at a lower priority: it stands for machines elsewhere, and must not
// take the processor from what is measured.
func (l *lab) generate(name string, j job, meek bool) (*generator, error) {
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	argv := []string{l.self, "client", string(text)}
	if meek {
		argv = append([]string{"/usr/bin/env", "nice", "-n", "10"}, argv...)
	}
	g := &generator{lab: l, said: firstLine{line: make(chan []byte, 1)}}
	g.proc, err = l.children.start(command{name: name, argv: argv}, &g.said)
	return g, err
}

// outcome waits for what the generator reports. Some failed operations among many are reported, not an error; nothing
// but failures is one.
func (g *generator) outcome(ctx context.Context) (outcome, error) {
	var line []byte
	select {
	case <-ctx.Done():
		return outcome{}, ctx.Err()
	case line = <-g.said.line:
	case <-g.proc.done: // and all it wrote has been taken
		select {
		case line = <-g.said.line:
		default:
			return outcome{}, g.proc.failure()
		}
	}
	var o outcome
	if err := json.Unmarshal(line, &o); err != nil {
		return outcome{}, fmt.Errorf("%s: %w", g.proc.name, err)
	}
	if o.Done == 0 {
		return outcome{}, fmt.Errorf("%s: nothing succeeded: %s", g.proc.name, o.Error)
	}
	return o, nil
}

// finish closes the generator's input and waits until it is gone.
func (g *generator) finish() {
	g.proc.in.Close()
	select {
	case <-g.proc.done:
	case <-time.After(patience):
		g.proc.kill()
	}
	g.lab.children.forget(g.proc)
}

// generateFor runs a load generator to its end.
func (l *lab) generateFor(ctx context.Context, name string, j job) (outcome, error) {
	g, err := l.generate(name, j, false)
	if err != nil {
		return outcome{}, err
	}
	defer g.finish()
	return g.outcome(ctx)
}
