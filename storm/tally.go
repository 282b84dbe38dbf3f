package storm

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// tally counts what becomes of functions. One lock guards all of it: it is taken a few times for each function, for some
// hundred nanoseconds.
type tally struct {
	resolution time.Duration
	steps      int // more than a storm can have

	mu       sync.Mutex // guards what follows
	callers  []callerTally
	series   []step
	now      int       // the step whose latencies are in interval
	interval histogram // of the good
	recent   histogram // of the good since the last progress
	lag      histogram
	attempts uint64
	total    progressCounts
}

// progressCounts are of all functions, the warm-up included.
type progressCounts struct {
	offered, good, refused, timedOut, failed uint64
}

func (c progressCounts) inFlight() int64 {
	return int64(c.offered) - int64(c.good+c.refused+c.timedOut+c.failed)
}

// step is one step of the series.
type step struct {
	offered, good, refused, timedOut, failed uint32
	p50, p90, p99, max                       time.Duration
}

type callerTally struct {
	offered, good, refused, timedOut, failed, retried uint64

	latency, login, transaction histogram
	while                       [stages]uint64 // of those timed out
	refusals                    map[cause]*histogram
	errors                      map[cause]uint64
	series                      []callerStep
}

type callerStep struct{ offered, good uint32 }

// stage is what a function is doing.
type stage int

const (
	waiting stage = iota
	loggingIn
	answering
	resting
	stages
)

// maxCauses bounds how many reasons and texts are told apart; the rest is counted together.
const maxCauses = 50

var otherCauses = cause{text: "others"}

func newTally(p *prepared) *tally {
	t := &tally{resolution: p.Resolution, callers: make([]callerTally, len(p.crews))}
	longest := time.Duration(0)
	for i := range t.callers {
		t.callers[i] = callerTally{refusals: map[cause]*histogram{}, errors: map[cause]uint64{}}
		longest = max(longest, p.crews[i].Deadline)
	}
	t.steps = int((p.lasting+longest+time.Minute)/p.Resolution) + 1
	return t
}

// stepLocked is the step of the series at a moment of the storm.
func (t *tally) stepLocked(at time.Duration) (*step, int) {
	i := min(max(0, int(at/t.resolution)), t.steps-1)
	for i >= len(t.series) {
		t.series = append(t.series, step{})
	}
	return &t.series[i], i
}

func (t *tally) callerStepLocked(caller, i int) *callerStep {
	c := &t.callers[caller]
	for i >= len(c.series) {
		c.series = append(c.series, callerStep{})
	}
	return &c.series[i]
}

// started counts a function that starts at this moment.
func (t *tally) started(v *visit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, i := t.stepLocked(v.at)
	s.offered++
	t.callerStepLocked(v.crew.index, i).offered++
	t.total.offered++
	if v.counted {
		t.callers[v.crew.index].offered++
	}
}

// lagged counts by how much a function is given to its line too late.
func (t *tally) lagged(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lag.add(d)
}

// tried counts an attempt that begins. When a connection was free at once, it ought to begin when it was planned.
func (t *tally) tried(v *visit, at time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attempts++
	if v.direct {
		t.lag.add(at - v.at)
	}
	if v.attempt > 0 && v.counted {
		t.callers[v.crew.index].retried++
	}
}

func (t *tally) loggedIn(v *visit, took time.Duration) {
	if !v.counted {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.callers[v.crew.index].login.add(took)
}

func (t *tally) transacted(v *visit, took time.Duration) {
	if !v.counted {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.callers[v.crew.index].transaction.add(took)
}

// finished counts a function that did all it had to, at a moment of the storm.
func (t *tally) finished(v *visit, at time.Duration) {
	took := at - v.at
	t.mu.Lock()
	defer t.mu.Unlock()
	s, i := t.stepLocked(at)
	s.good++
	t.callerStepLocked(v.crew.index, i).good++
	t.total.good++
	if i > t.now {
		t.closeIntervalLocked(i)
	}
	t.interval.add(took)
	t.recent.add(took)
	if v.counted {
		c := &t.callers[v.crew.index]
		c.good++
		c.latency.add(took)
	}
}

// closeIntervalLocked writes the latencies of the present step down and goes to another.
func (t *tally) closeIntervalLocked(next int) {
	if t.interval.n > 0 {
		s := &t.series[t.now]
		s.p50, s.p90, s.p99 = t.interval.quantile(0.5), t.interval.quantile(0.9), t.interval.quantile(0.99)
		s.max = t.interval.max
		t.interval.reset()
	}
	t.now = next
}

// turnedAway counts one attempt that ended with an error.
func (t *tally) turnedAway(v *visit, why verdict, took time.Duration) {
	if !v.counted {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &t.callers[v.crew.index]
	if !why.refused {
		key := why.cause
		if _, known := c.errors[key]; !known && len(c.errors) >= maxCauses {
			key = otherCauses
		}
		c.errors[key]++
		return
	}
	key := why.cause
	if c.refusals[key] == nil && len(c.refusals) >= maxCauses {
		key = otherCauses
	}
	if c.refusals[key] == nil {
		c.refusals[key] = new(histogram)
	}
	c.refusals[key].add(took)
}

// gaveUp counts a function that ends with the last error it got.
func (t *tally) gaveUp(v *visit, refused bool, at time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, _ := t.stepLocked(at)
	c := &t.callers[v.crew.index]
	if refused {
		s.refused++
		t.total.refused++
		if v.counted {
			c.refused++
		}
		return
	}
	s.failed++
	t.total.failed++
	if v.counted {
		c.failed++
	}
}

// expired counts a function that is gone at its deadline.
func (t *tally) expired(v *visit, doing stage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, _ := t.stepLocked(v.deadline())
	s.timedOut++
	t.total.timedOut++
	if v.counted {
		c := &t.callers[v.crew.index]
		c.timedOut++
		c.while[doing]++
	}
}

// outcome sums one caller up.
func (c *callerTally) outcome(seconds float64) Outcome {
	o := Outcome{
		Offered: c.offered, Good: c.good, Refused: c.refused, TimedOut: c.timedOut, Failed: c.failed, Retried: c.retried,
		Latency:     quantiles(&c.latency),
		Transaction: quantiles(&c.transaction),
		While: Timeouts{
			Waiting: c.while[waiting], Login: c.while[loggingIn], Answer: c.while[answering], Resting: c.while[resting],
		},
		Refusals: []Refusal{},
		Errors:   []ErrorCount{},
	}
	o.Unfinished = o.Offered - o.Good - o.Refused - o.TimedOut - o.Failed
	if seconds > 0 {
		o.OfferedPerSecond, o.GoodPerSecond = float64(o.Offered)/seconds, float64(o.Good)/seconds
	}
	if o.Offered > 0 {
		o.GoodShare = float64(o.Good) / float64(o.Offered)
	}
	if c.login.n > 0 {
		q := quantiles(&c.login)
		o.Login = &q
	}
	var refusal histogram
	for key, h := range c.refusals {
		refusal.merge(h)
		o.Refusals = append(o.Refusals, Refusal{SQLSTATE: key.sqlstate, Message: key.text, Rule: key.rule, Count: h.n, Latency: quantiles(h)})
	}
	o.Refusal = quantiles(&refusal)
	slices.SortFunc(o.Refusals, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.SQLSTATE+a.Rule+a.Message, b.SQLSTATE+b.Rule+b.Message))
	})
	for key, n := range c.errors {
		o.Errors = append(o.Errors, ErrorCount{SQLSTATE: key.sqlstate, Message: key.text, Count: n})
	}
	slices.SortFunc(o.Errors, func(a, b ErrorCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.SQLSTATE+a.Message, b.SQLSTATE+b.Message))
	})
	return o
}

// add merges what another caller counted.
func (c *callerTally) add(o *callerTally) {
	c.offered += o.offered
	c.good += o.good
	c.refused += o.refused
	c.timedOut += o.timedOut
	c.failed += o.failed
	c.retried += o.retried
	c.latency.merge(&o.latency)
	c.login.merge(&o.login)
	c.transaction.merge(&o.transaction)
	for i, n := range o.while {
		c.while[i] += n
	}
	for _, key := range slices.Collect(maps.Keys(o.refusals)) {
		if c.refusals[key] == nil {
			c.refusals[key] = new(histogram)
		}
		c.refusals[key].merge(o.refusals[key])
	}
	for key, n := range o.errors {
		c.errors[key] += n
	}
}

// lists turns the series into lists; it is called when nothing is counted any more.
func (t *tally) lists() Series {
	t.closeIntervalLocked(t.now)
	s := Series{StepMs: ms(t.resolution)}
	inFlight := int64(0)
	for _, p := range t.series {
		inFlight += int64(p.offered) - int64(p.good) - int64(p.refused) - int64(p.timedOut) - int64(p.failed)
		s.Offered = append(s.Offered, p.offered)
		s.Good = append(s.Good, p.good)
		s.Refused = append(s.Refused, p.refused)
		s.TimedOut = append(s.TimedOut, p.timedOut)
		s.Failed = append(s.Failed, p.failed)
		s.InFlight = append(s.InFlight, inFlight)
		s.P50 = append(s.P50, ms(p.p50))
		s.P90 = append(s.P90, ms(p.p90))
		s.P99 = append(s.P99, ms(p.p99))
		s.Max = append(s.Max, ms(p.max))
	}
	return s
}

// callerLists are the lists of one caller, as long as those of the whole.
func (t *tally) callerLists(caller int) (offered, good []uint32) {
	offered, good = make([]uint32, len(t.series)), make([]uint32, len(t.series))
	for i, p := range t.callers[caller].series {
		offered[i], good[i] = p.offered, p.good
	}
	return offered, good
}

// progress is what was counted so far, and the 99th percentile of the good since the last time.
func (t *tally) progress() (progressCounts, time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p99 := t.recent.quantile(0.99)
	t.recent.reset()
	return t.total, p99
}
