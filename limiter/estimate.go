package limiter

import (
	"math"
	"time"
)

// fewSamples is how many it takes to believe a mean.
const fewSamples = 3

// average is an exponentially weighted mean that starts as a plain one.
type average struct {
	mean float64
	n    int
}

const averageOver = 64 // samples

func (a *average) note(x float64) {
	a.n = min(a.n+1, averageOver)
	a.mean += (x - a.mean) / float64(a.n)
}

// rate is how many events there were per second, lately.
type rate struct {
	perSecond float64
	at        int64
}

const rateOver = float64(500 * time.Millisecond)

func (r *rate) note(now int64) { r.perSecond = r.by(now) + float64(time.Second)/rateOver }

func (r *rate) by(now int64) float64 {
	r.perSecond *= math.Exp(-float64(now-r.at) / rateOver)
	r.at = now
	return r.perSecond
}

// peak is the highest value lately. It falls by half in peakHalf.
type peak struct {
	value float64
	at    int64
}

const peakHalf = float64(5 * time.Second)

func (p *peak) note(x float64, now int64) {
	p.value = max(x, p.value*math.Exp2(-float64(now-p.at)/peakHalf))
	p.at = now
}

// turnsAwayLocked reports whether r, which cannot have a slot at once, is to be turned away instead of joining its line, and why.
func (s *Slots) turnsAwayLocked(r *Request, line *line, now int64, woken *chain) (Denial, bool) {
	expected := s.expectedLocked(r, line, now)
	if d, late := s.lateLocked(r, now, expected); late {
		return d, true
	}
	d := Denial{Expected: expected, Limit: s.queue.Wait, Ahead: s.waiting}
	if s.waiting >= s.length && !s.pushOutLocked(r, woken) {
		d.Err, d.RetryAfter = ErrQueueFull, s.retryAfter(line, expected)
		return d, true
	}
	if line.standing && !s.switches.noStanding {
		d.Limit = min(d.Limit, standingWait)
		if expected > d.Limit && s.levels[r.Level][r.lane].waiting >= fewWaiting {
			d.Err, d.RetryAfter = ErrShed, s.retryAfter(line, expected)
			return d, true
		}
	}
	if expected > s.queue.Wait {
		d.Err, d.RetryAfter = ErrQueueFull, s.retryAfter(line, expected)
		return d, true
	}
	return d, false
}

// shortenLocked denies those at the end of a line that stands since now who would have to wait for longer than standingWait.
func (s *Slots) shortenLocked(q *line, now int64, woken *chain) {
	if s.switches.noStanding || s.switches.newestFirst {
		return
	}
	for q.len > fewWaiting {
		expected := s.expectedLocked(q.tail, q, now)
		if expected <= standingWait {
			return
		}
		s.denyLocked(q.tail, Denial{
			Err: ErrShed, Expected: expected, Limit: standingWait, Ahead: s.waiting, RetryAfter: s.retryAfter(q, expected),
		}, woken)
	}
}

// fewWaiting is how many may wait in a standing line whatever the time, so that slots that are held for long do not stay empty.
const fewWaiting = 4

// lateLocked reports whether r, after a wait of that long, could not finish by its deadline.
func (s *Slots) lateLocked(r *Request, now int64, wait time.Duration) (Denial, bool) {
	if r.Deadline == 0 || s.switches.noDeadlines {
		return Denial{}, false
	}
	left := time.Duration(r.Deadline - now)
	needs := wait
	if r.class != nil && r.class.hold.n >= fewSamples {
		needs += time.Duration(r.class.hold.mean)
	}
	if left > 0 && needs <= left {
		return Denial{}, false
	}
	return Denial{Err: ErrDeadline, Expected: needs, Limit: left, Ahead: s.waiting, RetryAfter: max(needs-left, soonest)}, true
}

// expectedLocked is how long r is going to wait, as far as can be told from those who are ahead of it and from how fast slots
// come free.
func (s *Slots) expectedLocked(r *Request, line *line, now int64) time.Duration {
	hold := s.hold[r.lane]
	if hold.n == 0 { // nothing has ended yet
		return 0
	}
	slots := max(1, s.limit-s.running[long])
	if r.lane == long {
		slots = s.longSlotsLocked()
	}
	perSecond := float64(slots) / hold.mean * float64(time.Second)
	left, ahead := perSecond, 0.0
	for l := range r.Level {
		v := &s.levels[l][r.lane]
		left -= v.served.by(now)
		ahead += float64(v.waiting)
	}
	left = max(left, perSecond/trickle)
	v := &s.levels[r.Level][r.lane]
	weight := v.weight
	if line.len == 0 {
		weight += r.Flow.weight
	}
	ahead += min(float64(v.waiting), float64(line.len)*weight/r.Flow.weight)
	return time.Duration((ahead + 1) / left * float64(time.Second))
}

// retryAfter is when to come back to a line in which as many more arrive as it can take: all who are turned away together
// would find the same line again if they came as soon as it has moved on.
func (s *Slots) retryAfter(q *line, expected time.Duration) time.Duration {
	again := float64(max(expected, leastRetry)) * max(1, q.arrivedBy)
	return min(time.Duration(again), mostRetry)
}

const (
	leastRetry = 50 * time.Millisecond
	mostRetry  = 5 * time.Second
)

// pushOutLocked makes room in a full queue for r by denying the last who came with the lowest priority, if that is lower.
func (s *Slots) pushOutLocked(r *Request, woken *chain) bool {
	for l := levelCount - 1; l > int(r.Level); l-- {
		for n := range lanes {
			v := &s.levels[l][n]
			if v.waiting == 0 {
				continue
			}
			f := v.heap[len(v.heap)-1]
			line := &f.lines[l][n]
			s.denyLocked(line.tail, Denial{Err: ErrQueueFull, Limit: s.queue.Wait, Ahead: s.waiting, RetryAfter: s.retryAfter(line, s.queue.Wait)}, woken)
			return true
		}
	}
	return false
}
