package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/limiter"
)

// Gate decides, for one resource, whether a transaction may start. It asks each rule in turn, cheapest first, and none of
// them waits: breaker, then rate. (The queue for a server connection comes behind it, in the pool.)
type Gate struct {
	name    string
	rate    limiter.Rate
	bucket  limiter.Bucket   // nil: unlimited
	breaker *breaker.Breaker // nil: none
	log     *slog.Logger

	admitted    atomic.Int64
	refused     Tally[RefusalStats] // by caller, reason and mode
	QueueWait   Durations
	Transaction Durations
}

// defaultCaller is the name of all callers until they are told apart.
const defaultCaller = "default"

// NewGate makes the gate of the resource name. bucket and b may be nil.
func NewGate(name string, rate limiter.Rate, bucket limiter.Bucket, b *breaker.Breaker, log *slog.Logger) *Gate {
	return &Gate{name: name, rate: rate, bucket: bucket, breaker: b, log: log}
}

// Ticket is the permission for one transaction. Its Done is called exactly once, with the true outcome.
type Ticket struct {
	permit breaker.Permit
	held   bool
}

// Admit gives a Ticket, or the reason why not, a *Refusal.
func (g *Gate) Admit() (Ticket, error) {
	var t Ticket
	if g.breaker != nil {
		permit, err := g.breaker.Allow()
		if err != nil {
			return Ticket{}, g.BreakerRefusal(err, 0)
		}
		if shadowed := permit.Shadowed(); shadowed != nil {
			_ = g.breakerRefusal(shadowed, 0, limiter.Shadow)
		}
		t = Ticket{permit, true}
	}
	if g.bucket != nil && g.rate.Mode != limiter.Off {
		if wait, ok := g.bucket.Take(); !ok {
			if err := g.refuseRate(wait); err != nil {
				t.Done(breaker.Ignored)
				return Ticket{}, err
			}
		}
	}
	g.admitted.Add(1)
	return t, nil
}

// Done gives the ticket back.
func (t *Ticket) Done(o breaker.Outcome) {
	if t.held {
		t.held = false
		t.permit.Done(o)
	}
}

// Fail gives the ticket back with a failure of the server.
func (t *Ticket) Fail(cause string) {
	if t.held {
		t.held = false
		t.permit.Fail(cause)
	}
}

// Answering is nil, or the breaker's error while the resource is taken not to answer. Asking refuses nobody.
func (g *Gate) Answering() error {
	if g.breaker == nil {
		return nil
	}
	return g.breaker.Refuses()
}

// Reachable is nil, or the Refusal of a client that wants to log in while the breaker is open.
func (g *Gate) Reachable() error {
	if err := g.Answering(); err != nil {
		return g.BreakerRefusal(err, 0)
	}
	return nil
}

// Dialed tells the breaker the outcome of a connect. When the connect failed and the resource is taken not to answer, it
// returns the breaker's error, which [Gate.BreakerRefusal] makes a Refusal of for each of those who wait for a connection.
func (g *Gate) Dialed(err error) error {
	if g.breaker == nil {
		return nil
	}
	permit, refused := g.breaker.Allow()
	switch {
	case refused == nil && err == nil:
		permit.Done(breaker.Success)
	case refused == nil:
		permit.Fail(err.Error())
	}
	if err == nil {
		return nil
	}
	return g.breaker.Refuses()
}

// ServerFailed tells the breaker of a failure of the server that no ticket reports.
func (g *Gate) ServerFailed(cause string) {
	if g.breaker == nil {
		return
	}
	if permit, err := g.breaker.Allow(); err == nil {
		permit.Fail(cause)
	}
}

// BreakerRefusal makes the Refusal of an error of the breaker, for a client that has waited for so long.
func (g *Gate) BreakerRefusal(err error, waited time.Duration) error {
	return g.breakerRefusal(err, waited, limiter.Enforce)
}

func (g *Gate) breakerRefusal(err error, waited time.Duration, mode limiter.Mode) error {
	r := &Refusal{Reason: Breaker, Rule: g.rule("breaker"), Observed: "open", Limit: "closed", Waited: waited, Cause: err}
	if open := (*breaker.OpenError)(nil); errors.As(err, &open) {
		r.RetryAfter = open.RetryAfter
		r.Observed = fmt.Sprintf("open for %d ms", open.Since.Milliseconds())
	}
	return g.refuse(r, mode)
}

func (g *Gate) refuseRate(wait time.Duration) error {
	r := &Refusal{
		Reason: Rate, Rule: g.rule("rate"), RetryAfter: wait,
		Observed: "bucket empty", Limit: fmt.Sprintf("%g/s", g.rate.PerSecond),
	}
	return g.refuse(r, g.rate.Mode)
}

// QueueRefusal is the Refusal of a client that waited, or would have to wait, for a server connection.
func (g *Gate) QueueRefusal(reason *Reason, rule string, waited, retryAfter time.Duration, observed, limit string) error {
	return g.refuse(&Refusal{
		Reason: reason, Rule: g.rule(rule), Waited: waited, RetryAfter: retryAfter, Observed: observed, Limit: limit,
	}, limiter.Enforce)
}

// refuse counts and logs r. In shadow mode that is all, and nil is returned.
func (g *Gate) refuse(r *Refusal, mode limiter.Mode) error {
	r.ID = newID()
	if mode == "" {
		mode = limiter.Enforce
	}
	g.refused.Add(RefusalStats{Caller: defaultCaller, Reason: r.Label, Mode: string(mode)}, 1)
	g.log.Debug("refused", "resource", g.name, "reason", r.Label, "mode", mode, "id", r.ID, "rule", r.Rule,
		"observed", r.Observed, "limit", r.Limit, "waited", r.Waited, "cause", r.Cause)
	if mode == limiter.Shadow {
		return nil
	}
	return r
}

func (g *Gate) rule(setting string) string { return "resources." + g.name + "." + setting }

// AddTo fills in what the gate counts.
func (g *Gate) AddTo(s *ResourceStats) {
	s.Admitted = map[string]int64{defaultCaller: g.admitted.Load()}
	for r, n := range g.refused.Counts() {
		r.Count = n
		s.Refused = append(s.Refused, r)
	}
	s.QueueWait = g.QueueWait.Histogram()
	s.Transaction = g.Transaction.Histogram()
	if g.breaker != nil {
		b := g.breaker.Stats()
		s.Breaker = BreakerStats{State: int(b.State), Transitions: b.Transitions}
	}
}
