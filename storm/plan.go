package storm

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/upstream"
)

// Bounds of what a storm may be: it is a tool that can hurt.
const (
	MaxDuration    = time.Hour // of a load
	MaxRate        = 50_000    // functions per second, of all callers
	MaxBurst       = 100_000   // functions at once
	MaxConnections = 20_000    // at the same time
	MaxPhases      = 10_000
	MaxCallers     = 100
	MaxRetries     = 100
	MaxStatements  = 100
	MaxSQL         = 1 << 20          // bytes
	MaxDeadline    = 15 * time.Minute // Lambda's own
	MaxPoints      = 100_000          // of the series
)

// Connections is how functions come by a connection.
type Connections string

// The two ways.
const (
	Fresh Connections = "fresh" // each connects, and disconnects when it is done
	Kept  Connections = "kept"  // each borrows one that an earlier function left open, or waits for one
)

// Function is what one function does. In a Caller, a zero field is taken from the Plan.
type Function struct {
	SQL          string        // one transaction; several statements run in a block, each in a round trip (SELECT 1)
	Work         time.Duration // instead: a query that takes this much of a processor's time in the server
	Transactions int           // one after another, on one connection (1)
	Pause        time.Duration // between two of them (none)
	Deadline     time.Duration // counted from its start, after which it is gone (3s, Lambda's own)
}

// Caller is one kind of function. Each has connections of its own.
type Caller struct {
	Name string
	Function

	Share  float64 // of the plan's load; without one, callers divide what is left
	Load   Load    // instead of a share
	Weight float64 // what its goodput ought to be in proportion to, for the index of fairness (its part of all functions)

	// Connections is how many it keeps, or has at the same time when they are fresh (its part of the plan's).
	Connections int

	User            string // instead of the DSN's, as is what follows
	Password        string
	Database        string
	ApplicationName string
	Options         string // command-line options for the server, say "-c work_mem=1MB"
	Priority        string // told to weir: critical, normal, batch or sheddable
}

// Plan is a whole storm. A zero field takes the default written beside it.
type Plan struct {
	DSN  string // a postgres:// URL or key=value pairs; must be given
	Name string // what results call the DSN (target)
	Load Load   // must be given, unless each caller has its own
	Function
	Callers []Caller // (one, with the whole load)

	Connections    Connections // (fresh)
	Kept           int         // connections that are kept, of all callers (100)
	MaxConnections int         // at the same time, when they are fresh; further functions wait (1000)
	SayDeadline    bool        // tell weir how much time a function has left: at login when fresh, else ahead of each statement

	Retries  int           // of a function that was turned away (none)
	HeedHint bool          // wait as long as the HINT says
	Backoff  time.Duration // before the first retry, doubled for each further one, spread from none to twice (50ms)

	Warmup     time.Duration // functions that start earlier are in the series only (none)
	Resolution time.Duration // of the series (1s)
	Seed       uint64        // the same seed, the same moments (1)

	// RowsPerMillisecond says how big a query of Work is; without it that is measured before the storm (Calibrate).
	RowsPerMillisecond float64

	// Dial opens sockets; nil dials as the net package does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Mistake is one thing that is wrong with a Plan.
type Mistake struct {
	Key     string // load, callers[0].share
	Message string // what is wrong; expected …
}

func (m *Mistake) Error() string { return m.Key + ": " + m.Message }

func mistake(key, format string, args ...any) error {
	return &Mistake{Key: key, Message: fmt.Sprintf(format, args...)}
}

// Validate says what is wrong with the plan, or nil.
func (p Plan) Validate() error {
	_, err := p.prepare()
	return err
}

func (p Plan) withDefaults() Plan {
	p.Name = cmp.Or(p.Name, "target")
	p.Function = p.or(Function{SQL: defaultSQL, Transactions: 1, Deadline: 3 * time.Second})
	p.Connections = cmp.Or(p.Connections, Fresh)
	p.Kept = cmp.Or(p.Kept, 100)
	p.MaxConnections = cmp.Or(p.MaxConnections, 1000)
	p.Backoff = cmp.Or(p.Backoff, 50*time.Millisecond)
	p.Resolution = cmp.Or(p.Resolution, time.Second)
	p.Seed = cmp.Or(p.Seed, 1)
	if len(p.Callers) == 0 {
		p.Callers = []Caller{{Name: "functions"}}
	}
	return p
}

// or fills what f leaves open.
func (f Function) or(o Function) Function {
	if f.SQL == "" && f.Work == 0 {
		f.SQL, f.Work = o.SQL, o.Work
	}
	if f.Work > 0 { // a caller's own Work replaces the plan's SQL, and the default
		f.SQL = ""
	}
	f.Transactions = cmp.Or(f.Transactions, o.Transactions)
	f.Pause = cmp.Or(f.Pause, o.Pause)
	f.Deadline = cmp.Or(f.Deadline, o.Deadline)
	return f
}

// prepared is a plan that can be run: all defaults are filled in, and every text has been read.
type prepared struct {
	Plan
	dsn     *pgconn.Config
	server  *upstream.Upstream // the same
	crews   []preparedCaller
	lasting time.Duration // from the first start that is possible to the last
}

type preparedCaller struct {
	Caller
	part   float64 // of its load
	script script  // nil until Work is calibrated
}

// prepare checks everything and reads what is text.
func (p Plan) prepare() (*prepared, error) {
	if err := p.checkTexts(); err != nil {
		return nil, err
	}
	p = p.withDefaults()
	if err := p.checkNumbers(); err != nil {
		return nil, err
	}
	dsn, server, err := parseDSN(p.DSN)
	if err != nil {
		return nil, &Mistake{"dsn", err.Error()}
	}
	ready := &prepared{Plan: p, dsn: dsn, server: server}
	ready.Callers = slices.Clone(p.Callers) // the caller's slice is not ours to change
	if err := ready.prepareCallers(); err != nil {
		return nil, err
	}
	return ready, ready.checkSums()
}

// checkTexts looks at what has no default that could hide a contradiction.
func (p Plan) checkTexts() error {
	if p.SQL != "" && p.Work != 0 {
		return mistake("work", "is given beside sql; expected one of the two")
	}
	for i, c := range p.Callers {
		if c.SQL != "" && c.Work != 0 {
			return mistake(fmt.Sprintf("callers[%d].work", i), "is given beside sql; expected one of the two")
		}
	}
	return nil
}

func (p Plan) checkNumbers() error {
	if err := p.check(""); err != nil {
		return err
	}
	for _, n := range []struct {
		key              string
		value, low, high int
	}{
		{key: "kept", value: p.Kept, low: 1, high: MaxConnections},
		{key: "max_connections", value: p.MaxConnections, low: 1, high: MaxConnections},
		{key: "retries", value: p.Retries, low: 0, high: MaxRetries},
		{key: "callers", value: len(p.Callers), low: 1, high: MaxCallers},
	} {
		if n.value < n.low || n.value > n.high {
			return mistake(n.key, "%d is out of bounds; expected %d to %d", n.value, n.low, n.high)
		}
	}
	if p.Connections != Fresh && p.Connections != Kept {
		return mistake("connections", "%q is not a way to come by one; expected fresh or kept", p.Connections)
	}
	if p.Backoff < 0 || p.Backoff > MaxDeadline {
		return mistake("backoff", "%s is out of bounds; expected at most %s", p.Backoff, plain(MaxDeadline))
	}
	if p.Resolution < 10*time.Millisecond || p.Resolution > time.Minute {
		return mistake("resolution", "%s is out of bounds; expected 10ms to 1m", p.Resolution)
	}
	if p.RowsPerMillisecond < 0 {
		return mistake("rows_per_millisecond", "%g is negative", p.RowsPerMillisecond)
	}
	return nil
}

func (f Function) check(path string) error {
	if f.Transactions < 1 || f.Transactions > 10_000 {
		return mistake(path+"transactions", "%d is out of bounds; expected 1 to 10000", f.Transactions)
	}
	for _, d := range []struct {
		key   string
		value time.Duration
		low   time.Duration
		high  time.Duration
	}{
		{"deadline", f.Deadline, time.Millisecond, MaxDeadline},
		{"pause", f.Pause, 0, MaxDeadline},
		{"work", f.Work, 0, time.Minute},
	} {
		if d.value < d.low || d.value > d.high {
			return mistake(path+d.key, "%s is out of bounds; expected %s to %s", d.value, plain(d.low), plain(d.high))
		}
	}
	if len(f.SQL) > MaxSQL {
		return mistake(path+"sql", "has %d bytes; expected at most %d", len(f.SQL), MaxSQL)
	}
	return nil
}

// prepareCallers gives each caller what it takes from the plan.
func (p *prepared) prepareCallers() error {
	names := map[string]bool{}
	for i := range p.Callers {
		c := &p.Callers[i]
		path := fmt.Sprintf("callers[%d].", i)
		if c.Name == "" {
			return mistake(path+"name", "is missing; expected what results are to call this caller, e.g. checkout")
		}
		if names[c.Name] {
			return mistake(path+"name", "%q is the name of another caller already", c.Name)
		}
		names[c.Name] = true
		if c.Connections < 0 || c.Connections > MaxConnections {
			return mistake(path+"connections", "%d is out of bounds; expected 1 to %d", c.Connections, MaxConnections)
		}
		if c.Weight < 0 || math.IsNaN(c.Weight) || math.IsInf(c.Weight, 0) {
			return mistake(path+"weight", "%g is not a weight; expected a number above 0", c.Weight)
		}
		if c.Priority != "" && !slices.Contains(priorities, c.Priority) {
			return mistake(path+"priority", "%q is not a priority; expected critical, normal, batch or sheddable", c.Priority)
		}
		c.Function = c.or(p.Function)
		if err := c.check(path); err != nil {
			return err
		}
		if len(c.Load.Phases) > 0 && c.Share != 0 {
			return mistake(path+"share", "is given beside load; expected one of the two")
		}
	}
	if err := p.divide(); err != nil {
		return err
	}
	for i, c := range p.Callers {
		ready := preparedCaller{Caller: c, part: c.Share}
		if c.Work == 0 {
			s, err := newScript(c.SQL)
			if err != nil {
				return mistake(fmt.Sprintf("callers[%d].sql", i), "%v", err)
			}
			ready.script = s
		}
		if len(c.Load.Phases) == 0 {
			ready.Load = p.Load
		} else {
			ready.part = 1
			if err := c.Load.validate(); err != nil {
				return mistake(fmt.Sprintf("callers[%d].load", i), "%v", err)
			}
		}
		p.crews = append(p.crews, ready)
		p.lasting = max(p.lasting, ready.Load.Duration())
	}
	p.weigh()
	return nil
}

// weigh gives callers without a weight the part that they have of all functions.
func (p *prepared) weigh() {
	all := 0.0
	for _, c := range p.crews {
		all += c.Load.expected() * c.part
	}
	for i := range p.crews {
		c := &p.crews[i]
		c.Weight = cmp.Or(c.Weight, c.Load.expected()*c.part/all)
	}
}

var priorities = []string{"critical", "normal", "batch", "sheddable"}

// divide gives callers without a share or a load of their own equal parts of what others leave of the plan's load.
func (p *prepared) divide() error {
	taken, silent, sharing := 0.0, 0, 0
	for i, c := range p.Callers {
		if !(c.Share >= 0 && c.Share <= 1) {
			return mistake(fmt.Sprintf("callers[%d].share", i), "%g is not a share; expected a number above 0, up to 1", c.Share)
		}
		if len(c.Load.Phases) > 0 {
			continue
		}
		sharing++
		taken += c.Share
		if c.Share == 0 {
			silent++
		}
	}
	if sharing > 0 {
		if err := p.Load.validate(); err != nil {
			return mistake("load", "%v", err)
		}
		left := 1 - taken
		if silent == 0 && math.Abs(left) > 1e-6 || silent > 0 && left < 1e-6 {
			return mistake("callers", "have shares of %g in all; expected 1, or a caller without a share that takes the rest", taken)
		}
		for i := range p.Callers {
			if c := &p.Callers[i]; len(c.Load.Phases) == 0 && c.Share == 0 {
				c.Share = left / float64(silent)
			}
		}
	}
	return p.divideConnections()
}

// divideConnections gives callers that do not say how many connections they have their part of the plan's.
func (p *prepared) divideConnections() error {
	left := p.MaxConnections
	if p.Connections == Kept {
		left = p.Kept
	}
	var parts float64
	for _, c := range p.Callers {
		if c.Connections > 0 {
			left -= c.Connections
		} else {
			parts += cmp.Or(c.Share, 1)
		}
	}
	total := 0
	for i := range p.Callers {
		c := &p.Callers[i]
		if c.Connections == 0 {
			c.Connections = max(1, int(math.Round(float64(left)*cmp.Or(c.Share, 1)/parts)))
		}
		total += c.Connections
	}
	if total > MaxConnections {
		return mistake("callers", "have %d connections in all; expected at most %d", total, MaxConnections)
	}
	return nil
}

// checkSums looks at all callers together.
func (p *prepared) checkSums() error {
	if p.Warmup < 0 || p.Warmup > 0 && p.Warmup >= p.lasting {
		return mistake("warmup", "%s leaves nothing of a storm of %s", p.Warmup, p.lasting)
	}
	if points := p.lasting / p.Resolution; points > MaxPoints {
		return mistake("resolution", "%s makes a series of %d points; expected at most %d", p.Resolution, points, MaxPoints)
	}
	peak, burst := 0.0, 0
	for _, c := range p.crews {
		top := 0.0
		for _, phase := range c.Load.Phases {
			top = max(top, max(phase.From, phase.To)*c.part)
			burst += int(float64(phase.Burst) * c.part)
		}
		peak += top
	}
	if peak > MaxRate*(1+1e-9) {
		return mistake("callers", "start up to %.0f functions a second in all; expected at most %d", peak, MaxRate)
	}
	if burst > 10*MaxBurst {
		return mistake("load", "starts %d functions in bursts; expected at most %d", burst, 10*MaxBurst)
	}
	return nil
}
