package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/limiter"
)

// Gate decides, for one resource, whether a transaction may start. It asks each rule in turn, cheapest first, and none of
// them blocks: breaker, rate of the resource, rate of the caller, then the slots, where a transaction may have to wait.
type Gate struct {
	o     GateOptions
	slots *limiter.Slots

	refused     Tally[RefusalStats] // by caller, reason and mode
	QueueWait   Durations           // before the transactions that started
	Transaction Durations           // how long they held their server connection
}

// GateOptions are the rules of a Gate, for a budget of that many connections. Without Callers, Refusals or Log it makes its own.
type GateOptions struct {
	Name        string // of the resource
	Connections int
	Rate        limiter.Rate     // of Bucket
	Bucket      limiter.Bucket   // nil: unlimited
	Breaker     *breaker.Breaker // nil: none
	Queue       limiter.Queue
	Adaptive    limiter.Adaptive
	Callers     *limiter.Callers
	Refusals    *Refusals // where they are remembered; nil: by the gate itself
	Log         *slog.Logger
}

// NewGate makes a gate.
func NewGate(o GateOptions) *Gate {
	if o.Callers == nil {
		o.Callers = limiter.NewCallers("", nil, nil)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Refusals == nil {
		o.Refusals = NewRefusals()
	}
	return &Gate{o: o, slots: limiter.NewSlots(o.Connections, o.Queue.WithDefaults(), o.Adaptive.WithDefaults())}
}

// Request is one transaction that wants to start.
type Request struct {
	Caller   *limiter.Caller
	Level    limiter.Level
	Class    limiter.Fingerprint // of its first statement; 0: not known
	Deadline time.Duration       // from now; 0: none said
	Now      int64               // monotonic nanoseconds
}

// Ticket is the permission for one transaction, or its place in the queue. It is part of the asker's struct, which must not
// move while it is in use. Its zero value is in no use.
type Ticket struct {
	gate    *Gate
	caller  *limiter.Caller
	permit  breaker.Permit
	held    bool                   // the permit
	taken   [owners]limiter.Bucket // where tokens were taken for a transaction that has not started; nil: none
	asked   int64
	request limiter.Request
}

// Admit admits r, with the ticket t, at once or later: then waker is told, and [Ticket.Answer] says how it ended. The error, a
// *Refusal, says why not.
func (g *Gate) Admit(t *Ticket, r Request, waker limiter.Waker) (admitted bool, err error) {
	if err := g.pass(t, r); err != nil {
		return false, err
	}
	t.request = limiter.Request{Flow: r.Caller.Flow, Level: r.Level, Class: r.Class, Waker: waker}
	if r.Deadline > 0 {
		t.request.Deadline = r.Now + int64(r.Deadline)
	}
	verdict := g.slots.Enter(&t.request, r.Now)
	if d := t.request.AtOnce(); d.Err != nil {
		mode := limiter.Enforce
		if d.Shadow {
			mode = limiter.Shadow
		}
		if err := g.deny(t, d, 0, mode); err != nil {
			t.void(r.Now)
			return false, err
		}
	}
	if verdict == limiter.Granted {
		g.admit(t)
	}
	return verdict == limiter.Granted, nil
}

// Readmit admits the next transaction of a ticket whose server connection was kept, see [Ticket.Keep]. It never has to wait.
func (g *Gate) Readmit(t *Ticket, r Request) error {
	if err := g.pass(t, r); err != nil {
		return err
	}
	t.request.Flow, t.request.Level, t.request.Class = r.Caller.Flow, r.Level, r.Class
	g.slots.Resume(&t.request, r.Now)
	g.admit(t)
	return nil
}

// pass asks the rules that need no queue. On an error t holds nothing new.
func (g *Gate) pass(t *Ticket, r Request) error {
	t.gate, t.caller, t.asked = g, r.Caller, r.Now
	if g.o.Breaker != nil {
		permit, err := g.o.Breaker.Allow()
		if err != nil {
			return g.breakerRefusal(r.Caller, err, 0, limiter.Enforce)
		}
		if shadowed := permit.Shadowed(); shadowed != nil {
			_ = g.breakerRefusal(r.Caller, shadowed, 0, limiter.Shadow)
		}
		t.permit, t.held = permit, true
	}
	if err := t.take(ofResource, g.o.Bucket, g.o.Rate); err != nil {
		return err
	}
	rate := r.Caller.Rate
	if r.Caller.Mode == limiter.Shadow && rate.Mode != limiter.Off {
		rate.Mode = limiter.Shadow
	}
	return t.take(ofCaller, r.Caller.Bucket, rate)
}

// Whose the buckets are that a ticket takes tokens from.
const (
	ofResource = iota
	ofCaller
	owners
)

// take takes a token from a bucket, which may be nil. On an error nothing is held any more.
func (t *Ticket) take(of int, b limiter.Bucket, rate limiter.Rate) error {
	if b == nil || rate.Mode == limiter.Off {
		return nil
	}
	wait, ok := b.Take()
	if ok {
		t.taken[of] = b
		return nil
	}
	rule := t.gate.rule("rate")
	if of == ofCaller {
		rule = t.caller.Rule + ".rate"
	}
	err := t.gate.refuse(t.caller, &Refusal{
		Reason: Rate, Rule: rule, RetryAfter: wait, Observed: "bucket empty", Limit: fmt.Sprintf("%g/s", rate.PerSecond),
	}, rate.Mode)
	if err != nil {
		t.void(t.asked)
	}
	return err
}

// admit counts a transaction that starts.
func (g *Gate) admit(t *Ticket) {
	t.taken = [owners]limiter.Bucket{}
	t.caller.Admitted[t.request.Level].Add(1)
}

// void gives back what was taken for a transaction that does not start.
func (t *Ticket) void(now int64) {
	for i, b := range t.taken {
		if b != nil {
			b.Return(time.Duration(now - t.asked))
			t.taken[i] = nil
		}
	}
	t.Done(breaker.Ignored)
}

// Answer is how a wait ended whose waker was told: nil, or a *Refusal.
func (t *Ticket) Answer(now int64) error {
	d := t.request.Denial()
	if d.Err == nil || d.Shadow {
		t.gate.admit(t)
		return nil
	}
	err := t.gate.deny(t, d, time.Duration(now-t.asked), limiter.Enforce)
	t.void(now)
	return err
}

// Abandon ends a wait and reports whether there was one. If not, the waker is or was told, and what it got has to be given back
// with [Ticket.Leave].
func (t *Ticket) Abandon(now int64) bool {
	if !t.gate.slots.Abandon(&t.request, now) {
		return false
	}
	t.void(now)
	return true
}

// GiveUp notes that the client has hung up or cancelled before it had the answer to its first statement.
func (t *Ticket) GiveUp(now int64) { t.gate.slots.GiveUp(&t.request, now) }

// Leave gives the slot back after the server connection.
func (t *Ticket) Leave(now int64, u limiter.Use) {
	if t.gate != nil {
		t.gate.slots.Leave(&t.request, now, u)
	}
}

// Keep gives the slot back between two transactions of a session that keeps its server connection.
func (t *Ticket) Keep(now int64, u limiter.Use) { t.gate.slots.Keep(&t.request, now, u) }

// Done tells the breaker the outcome of the transaction.
func (t *Ticket) Done(o breaker.Outcome) {
	if t.held {
		t.held = false
		t.permit.Done(o)
	}
}

// Lost tells the breaker that the server connection broke. That is the server's failure where several callers lost theirs; one by itself
// may have brought it about, and says nothing, unless it was to find out whether the server answers.
func (t *Ticket) Lost(cause string, several bool) {
	switch {
	case !t.held:
	case several || t.permit.Probes():
		t.held = false
		t.permit.Fail(cause)
	default:
		t.Done(breaker.Ignored)
	}
}

// Patience is the longest that t, which has just been asked for, may wait for its slot and its server connection; 0: as long as
// it takes.
func (t *Ticket) Patience() time.Duration {
	patience := t.gate.slots.Wait(t.request.Flow)
	if left := time.Duration(t.request.Deadline - t.asked); t.request.Deadline > 0 && (patience == 0 || left < patience) && t.gate.o.Queue.Mode != limiter.Shadow {
		return max(left, 1)
	}
	return patience
}

// Join notes that there is one client more that may ask, Part that there is one less.
func (g *Gate) Join() { g.slots.Join() }

// Part is the end of Join.
func (g *Gate) Part() { g.slots.Part() }

// Callers tells the resource's clients apart.
func (g *Gate) Callers() *limiter.Callers { return g.o.Callers }

// Answering is nil, or the breaker's error while the resource is taken not to answer. Asking refuses nobody.
func (g *Gate) Answering() error {
	if g.o.Breaker == nil {
		return nil
	}
	return g.o.Breaker.Refuses()
}

// Reachable is nil, or the Refusal of a client that wants to log in while the breaker is open.
func (g *Gate) Reachable() error {
	if err := g.Answering(); err != nil {
		return g.BreakerRefusal(nil, err, 0)
	}
	return nil
}

// Dialed tells the breaker the outcome of a connect. When the connect failed and the resource is taken not to answer, those who
// wait for a slot are refused, and it returns the breaker's error, which [Gate.BreakerRefusal] makes a Refusal of for each of
// those who wait for a connection.
func (g *Gate) Dialed(err error) error {
	if g.o.Breaker == nil {
		return nil
	}
	permit, refused := g.o.Breaker.Allow()
	switch {
	case refused == nil && err == nil:
		permit.Done(breaker.Success)
	case refused == nil:
		permit.Fail(err.Error())
	}
	if err == nil {
		return nil
	}
	open := g.o.Breaker.Refuses()
	if open != nil {
		g.slots.Refuse(open, 0)
	}
	return open
}

// BreakerRefusal makes the Refusal of an error of the breaker, or of a *LoginError, for a client that has waited for so long. c may be nil.
func (g *Gate) BreakerRefusal(c *limiter.Caller, err error, waited time.Duration) error {
	return g.breakerRefusal(c, err, waited, limiter.Enforce)
}

func (g *Gate) breakerRefusal(c *limiter.Caller, err error, waited time.Duration, mode limiter.Mode) error {
	r := &Refusal{Reason: Breaker, Rule: g.rule("breaker"), Observed: "open", Limit: "closed", Waited: waited, Cause: err}
	if login := (*LoginError)(nil); errors.As(err, &login) {
		r.Reason, r.Rule, r.Observed, r.Limit = LoginRefused, g.rule("upstream"), login.Kind(), "a login"
	}
	if open := (*breaker.OpenError)(nil); errors.As(err, &open) {
		r.RetryAfter = open.RetryAfter
		r.Observed = fmt.Sprintf("open for %d ms", open.Since.Milliseconds())
	}
	return g.refuse(c, r, mode)
}

// TimedOut is the Refusal of a ticket that has waited in vain as long as it may; it is to be abandoned.
func (g *Gate) TimedOut(t *Ticket, now int64) error {
	waited := time.Duration(now - t.asked)
	return g.deny(t, g.slots.TimedOut(&t.request, now), waited, limiter.Enforce)
}

// denials say in the terms of the refusals why there is no slot.
var denials = []struct {
	err    error
	reason *Reason
	rule   string
}{
	{limiter.ErrQueueFull, QueueFull, "queue.length"},
	{limiter.ErrQueueTimeout, QueueTimeout, "queue.wait"},
	{limiter.ErrDeadline, Deadline, "deadline"},
	{limiter.ErrShed, Shed, "queue"},
}

// deny makes the Refusal of a Denial.
func (g *Gate) deny(t *Ticket, d limiter.Denial, waited time.Duration, mode limiter.Mode) error {
	if errors.Is(d.Err, limiter.ErrConnections) {
		r := &Refusal{Reason: QueueFull, Rule: t.caller.Rule + ".connections", Observed: fmt.Sprintf("%d running", d.Ahead), Limit: fmt.Sprint(d.Ahead)}
		return g.refuse(t.caller, r, mode)
	}
	for _, row := range denials {
		if errors.Is(d.Err, row.err) {
			r := &Refusal{
				Reason: row.reason, Rule: g.rule(row.rule), Waited: waited, RetryAfter: d.RetryAfter,
				Observed: fmt.Sprintf("%d ms to be expected behind %d waiting", d.Expected.Milliseconds(), d.Ahead),
				Limit:    fmt.Sprintf("%d ms", d.Limit.Milliseconds()),
			}
			if d.Patience > 0 {
				r.Limit += fmt.Sprintf(", as it is wanted for %d ms (%s)", d.Patience.Milliseconds(), d.Source)
			}
			if row.reason == QueueTimeout {
				r.Observed = fmt.Sprintf("%d waiting", d.Ahead)
			}
			return g.refuse(t.caller, r, mode)
		}
	}
	return g.breakerRefusal(t.caller, d.Err, waited, mode)
}

// QueueRefusal is the Refusal of a client that waited, or would have to wait, for a server connection. c may be nil.
func (g *Gate) QueueRefusal(c *limiter.Caller, reason *Reason, rule string, waited, retryAfter time.Duration, observed, limit string) error {
	return g.refuse(c, &Refusal{
		Reason: reason, Rule: g.rule(rule), Waited: waited, RetryAfter: retryAfter, Observed: observed, Limit: limit,
	}, limiter.Enforce)
}

// refuse counts, remembers and logs r, of a caller that may not be known yet (nil). In shadow mode that is all, and nil is returned.
func (g *Gate) refuse(c *limiter.Caller, r *Refusal, mode limiter.Mode) error {
	r.ID = newID()
	if mode == "" {
		mode = limiter.Enforce
	}
	name := limiter.DefaultCaller
	if c != nil {
		name = c.Name
	}
	g.refused.Add(RefusalStats{Caller: name, Reason: r.Label, Mode: string(mode)}, 1)
	g.o.Refusals.remember(g.o.Name, name, string(mode), r)
	g.o.Log.Debug("refused", "resource", g.o.Name, "caller", name, "reason", r.Label, "mode", mode, "id", r.ID, "rule", r.Rule,
		"observed", r.Observed, "limit", r.Limit, "waited", r.Waited, "cause", r.Cause)
	if mode == limiter.Shadow {
		return nil
	}
	return r
}

func (g *Gate) rule(setting string) string { return "resources." + g.o.Name + "." + setting }

// AddTo fills in what the gate counts.
func (g *Gate) AddTo(s *ResourceStats) {
	s.Admitted = make(map[AdmittedBy]int64)
	g.o.Callers.Each(func(c *limiter.Caller) {
		for l := range c.Admitted {
			if n := c.Admitted[l].Load(); n > 0 || limiter.Level(l) == c.Level {
				s.Admitted[AdmittedBy{c.Name, limiter.Level(l).String()}] += n
			}
		}
	})
	for r, n := range g.refused.Counts() {
		r.Count = n
		s.Refused = append(s.Refused, r)
	}
	slots := g.slots.Stats()
	s.Limit, s.Patience = slots.Limit, slots.Patience
	s.Queue = make(map[string]int64)
	for l, n := range slots.Waiting {
		s.Queue[limiter.Level(l).String()] = int64(n)
		s.Waiting += int64(n)
	}
	s.QueueWait = g.QueueWait.Histogram()
	s.Transaction = g.Transaction.Histogram()
	if g.o.Breaker != nil {
		b := g.o.Breaker.Stats()
		s.Breaker = BreakerStats{State: int(b.State), Transitions: b.Transitions}
	}
}
