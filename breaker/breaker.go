// Package breaker decides whether a resource is answering. While it is not, callers are refused at once, which costs
// neither them nor the resource anything, and one at a time is let through to find out whether it is back.
//
// A Breaker is closed (all pass), open (all are refused for a cooldown) or half-open (one passes, as a probe). Counting
// failures in a rolling window is gobreaker's. The open and half-open states are ours, because gobreaker's rest is always
// the same and its probe, once lost, keeps everybody out for ever. Nothing here has a timer: states follow from the clock
// when somebody asks.
//
// Only the caller knows whose fault a failure was: it reports Failure for the resource's own, Success for every proper
// answer, an error message among them, and Ignored where the outcome says nothing, such as a client that went away.
package breaker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// State is what a Breaker does with callers.
type State int

// The states, with the numbers that the metrics show.
const (
	Closed   State = iota // all pass
	HalfOpen              // the cooldown is over: one caller at a time passes, as a probe
	Open                  // all are refused
)

// String is the state's name in metrics and logs.
func (s State) String() string { return [...]string{"closed", "half-open", "open"}[s] }

// Outcome is what came of a permitted request.
type Outcome int

// The outcomes.
const (
	Success Outcome = iota // the resource answered
	Failure                // it did not, and that is its fault
	Ignored                // neither: the request says nothing about the resource
)

// ErrOpen is what every OpenError wraps.
var ErrOpen = errors.New("the database is not answering")

// OpenError is a refusal.
type OpenError struct {
	Since      time.Duration // how long the resource has not been answering
	RetryAfter time.Duration // when to come back; different for each caller, so that they do not come back together
	Cause      string        // of the failure that opened the breaker
}

// Error says since when, and why.
func (e *OpenError) Error() string {
	return fmt.Sprintf("%v for %v: %s", ErrOpen, e.Since.Round(time.Millisecond), e.Cause)
}

// Unwrap is ErrOpen.
func (e *OpenError) Unwrap() error { return ErrOpen }

// Change is a transition from one state to another.
type Change struct {
	Name     string
	From, To State
	Cause    string        // of an opening
	For      time.Duration // how long an opening lasts before the first probe
	Fleet    bool          // opened by another weir's verdict; not to be announced again
}

// Stats is what a Breaker counts.
type Stats struct {
	State       State
	Transitions map[string]int64 // by the name of the state entered
}

// The modes of Config.
const (
	shadow = "shadow"
	off    = "off"
)

const (
	probeLease  = 3 * time.Second // a probe that is silent for longer is lost, and the next caller becomes one
	ratioFrom   = 20              // requests with an outcome, from which on their ratio counts
	buckets     = 10              // that the rolling window moves by
	restSpread  = 0.2             // a cooldown is so much shorter or longer by chance
	retrySpread = 0.25            // a RetryAfter is so much longer by chance
	unexplained = "the server failed"
)

// Breaker is the circuit breaker of one resource. It is safe for concurrent use.
type Breaker struct {
	name     string
	cfg      Config
	onChange func(Change)

	open   atomic.Pointer[opening] // nil while closed
	counts atomic.Pointer[counts]  // of the latest closed period

	mu          sync.Mutex // guards changes of open and counts, and what follows
	probes      uint64     // so far; the latest is the one that counts
	transitions [Open + 1]int64
	deafUntil   time.Time // own evidence says that the resource answers: hearsay is ignored until then
}

// opening is a period in which the breaker is not closed. It is never changed, only replaced.
type opening struct {
	since time.Time
	rest  time.Duration // the cooldown without its spread
	until time.Time     // when the cooldown is over
	cause string
	fleet bool // another weir's verdict, which our own probes have not confirmed

	half       bool   // a probe was let through since until
	probe      uint64 // its number, or 0 when there is none on its way
	probeUntil time.Time
}

// counts is gobreaker in its closed state, of which the first trip ends its life.
type counts struct {
	breaker *gobreaker.TwoStepCircuitBreaker[any]
	tripped atomic.Bool
}

// New makes a closed breaker. A non-nil onChange hears of every transition, without any lock held, perhaps from several
// goroutines at once.
func New(name string, cfg Config, onChange func(Change)) *Breaker {
	if onChange == nil {
		onChange = func(Change) {}
	}
	b := &Breaker{name: name, cfg: cfg.WithDefaults(), onChange: onChange}
	b.counts.Store(b.newCounts())
	return b
}

// Errors stand for outcomes towards gobreaker.
var (
	errFailure = errors.New("failure")
	errIgnored = errors.New("ignored")
)

func (b *Breaker) newCounts() *counts {
	c := &counts{}
	c.breaker = gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		Name:          b.name,
		Interval:      b.cfg.Window,
		BucketPeriod:  max(1, b.cfg.Window/buckets),
		Timeout:       1 << 62, // never half-open: once it trips, b.open decides and these counts are dropped
		ReadyToTrip:   b.readyToTrip,
		IsSuccessful:  func(err error) bool { return err == nil },
		IsExcluded:    func(err error) bool { return errors.Is(err, errIgnored) },
		OnStateChange: func(string, gobreaker.State, gobreaker.State) { c.tripped.Store(true) },
	})
	return c
}

func (b *Breaker) readyToTrip(c gobreaker.Counts) bool {
	known := c.TotalSuccesses + c.TotalFailures // Requests also has those on their way and those ignored
	return c.ConsecutiveFailures >= uint32(b.cfg.Failures) ||
		known >= ratioFrom && float64(c.TotalFailures) >= b.cfg.Ratio*float64(known)
}

// Permit is the permission to make one request. Exactly one of Done and Fail is to be called on it, once; a permit that gets
// lost does no lasting harm.
type Permit struct {
	breaker *Breaker
	probe   uint64
	counts  *counts
	done    func(error) // nil for a request that is not counted
	refusal error
}

// Allow lets a request pass or refuses it with an OpenError. In mode shadow it lets pass what it would refuse.
func (b *Breaker) Allow() (Permit, error) {
	if b.cfg.Mode == off {
		return Permit{}, nil
	}
	permit, err := b.decide()
	if err != nil && b.cfg.Mode == shadow {
		return Permit{refusal: err}, nil
	}
	return permit, err
}

// Shadowed is the refusal that mode shadow held back, or nil.
func (p Permit) Shadowed() error { return p.refusal }

// Done reports what came of the request.
func (p Permit) Done(outcome Outcome) { p.report(outcome, unexplained) }

// Fail reports a Failure and says what failed.
func (p Permit) Fail(cause string) { p.report(Failure, cause) }

// Probes reports whether the request is to find out whether the resource answers again.
func (p Permit) Probes() bool { return p.probe != 0 }

// Refuses is the refusal that Allow would give now, or nil. It becomes nobody's probe, and while the breaker is closed it costs
// one atomic load.
func (b *Breaker) Refuses() error {
	if b.cfg.Mode == shadow {
		return nil
	}
	return b.WouldRefuse()
}

// WouldRefuse is Refuses without regard to mode shadow.
func (b *Breaker) WouldRefuse() error {
	o := b.open.Load()
	if o == nil {
		return nil
	}
	if now := time.Now(); o.refuses(now) {
		return o.refusal(now, b.cfg)
	}
	return nil
}

// State is the state now.
func (b *Breaker) State() State { return b.open.Load().state(time.Now()) }

// Stats says what happened so far.
func (b *Breaker) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Stats{State: b.State(), Transitions: map[string]int64{}}
	for state, n := range b.transitions {
		s.Transitions[State(state).String()] = n
	}
	return s
}

// TripFromFleet opens a closed breaker because another weir's has opened, for d but no longer than the first cooldown: then
// our own probe decides. It never prolongs an opening, and where our probe has contradicted the fleet, the fleet is not heard
// for MaxCooldown. So one weir with a broken network cannot keep the others from a healthy resource.
func (b *Breaker) TripFromFleet(cause string, d time.Duration) {
	if b.cfg.Mode == off || d <= 0 {
		return
	}
	now := time.Now()
	d = min(d, b.cfg.Cooldown)
	b.mu.Lock()
	if b.open.Load() != nil || now.Before(b.deafUntil) {
		b.mu.Unlock()
		return
	}
	change := b.openLocked(Closed, opening{
		since: now,
		rest:  b.cfg.Cooldown,
		until: now.Add(longer(d, restSpread)),
		cause: cause,
		fleet: true,
	})
	b.mu.Unlock()
	b.onChange(change)
}

func (b *Breaker) decide() (Permit, error) {
	if b.open.Load() != nil {
		return b.decideOpen()
	}
	c := b.counts.Load()
	done, err := c.breaker.Allow()
	if err != nil { // it has tripped just now, and whoever reported the failure is about to open b
		return Permit{}, &OpenError{RetryAfter: longer(b.cfg.Cooldown, retrySpread), Cause: unexplained}
	}
	return Permit{breaker: b, counts: c, done: done}, nil
}

// decideOpen lets one caller through as a probe when it is time for one.
func (b *Breaker) decideOpen() (Permit, error) {
	now := time.Now()
	b.mu.Lock()
	o := b.open.Load()
	if o == nil { // closed in the meantime
		b.mu.Unlock()
		return b.decide()
	}
	if o.refuses(now) {
		b.mu.Unlock()
		return Permit{}, o.refusal(now, b.cfg)
	}
	b.probes++
	next := *o
	next.half, next.probe, next.probeUntil = true, b.probes, now.Add(probeLease)
	b.open.Store(&next)
	if !o.half {
		b.transitions[HalfOpen]++
	}
	b.mu.Unlock()
	if !o.half {
		b.onChange(Change{Name: b.name, From: Open, To: HalfOpen})
	}
	return Permit{breaker: b, probe: next.probe}, nil
}

func (p Permit) report(outcome Outcome, cause string) {
	switch {
	case p.probe != 0:
		p.breaker.judge(p.probe, outcome, cause)
	case p.done != nil:
		p.done([...]error{Success: nil, Failure: errFailure, Ignored: errIgnored}[outcome])
		if outcome == Failure && p.counts.tripped.Load() {
			p.breaker.trip(p.counts, cause)
		}
	}
}

// trip opens the breaker, unless these counts are no longer those that matter.
func (b *Breaker) trip(c *counts, cause string) {
	now := time.Now()
	b.mu.Lock()
	if b.open.Load() != nil || b.counts.Load() != c {
		b.mu.Unlock()
		return
	}
	b.deafUntil = time.Time{}
	change := b.openLocked(Closed, opening{
		since: now,
		rest:  b.cfg.Cooldown,
		until: now.Add(b.spread(b.cfg.Cooldown)),
		cause: cause,
	})
	b.mu.Unlock()
	b.onChange(change)
}

// judge takes a probe's verdict, unless another probe has replaced it meanwhile.
func (b *Breaker) judge(probe uint64, outcome Outcome, cause string) {
	now := time.Now()
	b.mu.Lock()
	o := b.open.Load()
	if o == nil || o.probe != probe {
		b.mu.Unlock()
		return
	}
	var change Change
	switch outcome {
	case Success:
		change = b.closeLocked(o, now)
	case Failure:
		rest := min(2*o.rest, b.cfg.MaxCooldown)
		change = b.openLocked(HalfOpen, opening{since: o.since, rest: rest, until: now.Add(b.spread(rest)), cause: cause})
	default: // the next caller is the next probe
		next := *o
		next.probe = 0
		b.open.Store(&next)
		b.mu.Unlock()
		return
	}
	b.mu.Unlock()
	b.onChange(change)
}

func (b *Breaker) openLocked(from State, o opening) Change {
	b.open.Store(&o)
	b.transitions[Open]++
	return Change{Name: b.name, From: from, To: Open, Cause: o.cause, For: time.Until(o.until), Fleet: o.fleet}
}

func (b *Breaker) closeLocked(o *opening, now time.Time) Change {
	if o.fleet {
		b.deafUntil = now.Add(b.cfg.MaxCooldown)
	}
	b.counts.Store(b.newCounts())
	b.open.Store(nil)
	b.transitions[Closed]++
	return Change{Name: b.name, From: HalfOpen, To: Closed}
}

func (o *opening) state(now time.Time) State {
	switch {
	case o == nil:
		return Closed
	case now.Before(o.until):
		return Open
	default:
		return HalfOpen
	}
}

func (o *opening) refuses(now time.Time) bool {
	return now.Before(o.until) || o.probe != 0 && now.Before(o.probeUntil)
}

func (o *opening) refusal(now time.Time, cfg Config) *OpenError {
	wait := o.until.Sub(now)
	if wait <= 0 { // a probe is on its way, and will know sooner than its lease ends
		wait = min(cfg.Cooldown, o.probeUntil.Sub(now))
	}
	return &OpenError{Since: now.Sub(o.since), RetryAfter: longer(wait, retrySpread), Cause: o.cause}
}

// spread makes a cooldown a little shorter or longer, within MaxCooldown.
func (b *Breaker) spread(rest time.Duration) time.Duration {
	return min(longer(time.Duration(float64(rest)*(1-restSpread)), 2*restSpread/(1-restSpread)), b.cfg.MaxCooldown)
}

// longer is d, made longer by chance by up to the given share of it.
func longer(d time.Duration, share float64) time.Duration {
	return d + time.Duration(rand.Float64()*share*float64(d))
}
