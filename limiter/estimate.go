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

// fading is a value that falls exponentially while nothing is noted.
type fading struct {
	value float64
	at    int64
}

// by is the value at now, of one that falls to the e-th part in so many nanoseconds.
func (f *fading) by(now int64, over float64) float64 {
	if now != f.at { // which is often so: what happens in one moment asks more than once
		f.value *= math.Exp(-float64(now-f.at) / over)
		f.at = now
	}
	return f.value
}

// rate is how many events there were per second, lately.
type rate struct{ fading }

const rateOver = float64(500 * time.Millisecond)

func (r *rate) note(now int64) { r.value = r.by(now) + float64(time.Second)/rateOver }

func (r *rate) by(now int64) float64 { return r.fading.by(now, rateOver) }

// peak is the highest value lately. It falls by half in peakHalf.
type peak struct{ fading }

const peakHalf = float64(2 * time.Second)

func (p *peak) note(x float64, now int64) { p.value = max(x, p.by(now)) }

func (p *peak) by(now int64) float64 { return p.fading.by(now, peakHalf/math.Ln2) }

// turnsAwayLocked reports whether r, which cannot have a slot at once, is to be turned away instead of joining its line, and why.
func (s *Slots) turnsAwayLocked(r *Request, line *line, now int64, woken *chain) (Denial, bool) {
	expected := s.expectedLocked(r, line, now)
	if d, late := s.lateLocked(r, now, expected); late {
		return d, true
	}
	d := Denial{Expected: expected, Limit: s.queue.Wait, Ahead: s.waiting}
	if line.standing && !s.switches.noStanding {
		d.Limit = min(d.Limit, s.standingWaitLocked(r))
		if expected > d.Limit && s.levels[r.Level][r.lane].waiting >= s.fewLocked(r) {
			d.Err, d.RetryAfter = ErrShed, s.retryAfter(line, expected)
			return d, true
		}
	}
	// Where nobody waits yet one may try: a slot may come free much sooner than on average.
	if expected > s.queue.Wait && s.levels[r.Level][r.lane].waiting > 0 || s.waiting >= s.length && !s.makesRoomLocked(r, line, woken) {
		d.Err, d.RetryAfter = ErrQueueFull, s.retryAfter(line, expected)
		return d, true
	}
	return d, false
}

// standingWaitLocked is how long r, which joins a standing line, may expect to wait.
func (s *Slots) standingWaitLocked(r *Request) time.Duration {
	wait := max(standingWait, time.Duration(standingPart*s.usualLocked(r.Flow, r.lane)))
	if r.Level == LevelCritical {
		wait *= criticalWaits
	}
	return wait
}

// shortenLocked denies those at the end of a line that stands since now who would have to wait for longer than they may.
func (s *Slots) shortenLocked(q *line, now int64, woken *chain) {
	if s.switches.noStanding {
		return
	}
	for q.len > s.fewLocked(q.tail) {
		expected, limit := s.expectedLocked(q.tail, q, now), s.standingWaitLocked(q.tail)
		if expected <= limit {
			return
		}
		s.denyLocked(q.tail, Denial{
			Err: ErrShed, Expected: expected, Limit: limit, Ahead: s.waiting, RetryAfter: s.retryAfter(q, expected),
		}, woken)
	}
}

// fewWaiting is how many may wait in a standing line whatever the time, so that slots that are held for long do not stay empty.
const fewWaiting = 2

// fewLocked is the same for r: behind a higher priority, where only the trickle comes, one is enough.
func (s *Slots) fewLocked(r *Request) int {
	for l := range r.Level {
		if s.levels[l][r.lane].waiting > 0 {
			return 1
		}
	}
	return fewWaiting
}

// lateLocked reports whether r, after a wait of that long, could not finish by its deadline.
func (s *Slots) lateLocked(r *Request, now int64, wait time.Duration) (Denial, bool) {
	if r.Deadline == 0 || s.switches.noDeadlines {
		return Denial{}, false
	}
	left, needs := time.Duration(r.Deadline-now), wait
	if r.Deadline <= now {
		left = 0
	} else {
		needs += r.class.needs(now)
	}
	if left > 0 && needs <= left {
		return Denial{}, false
	}
	return Denial{Err: ErrDeadline, Expected: needs, Limit: left, Ahead: s.waiting, RetryAfter: max(needs-left, soonest)}, true
}

// expectedLocked is how long r is going to wait, as far as can be told from those who are ahead of it, how long they usually
// hold their slots, and how many slots there are for them.
func (s *Slots) expectedLocked(r *Request, line *line, now int64) time.Duration {
	own, each := s.usualLocked(r.Flow, r.lane), s.meanLocked(r.lane)
	all := float64(max(1, s.limit-s.running[long]))
	if r.lane == long {
		all = float64(s.longSlotsLocked())
	}
	slots, higher := all, 0.0 // nanoseconds of a slot's time
	for l := range r.Level {
		v := &s.levels[l][r.lane]
		slots -= v.served.by(now) * each / float64(time.Second)
		higher += v.backlog
	}
	v := &s.levels[r.Level][r.lane]
	weight := v.weight
	if line.len == 0 {
		weight += r.Flow.weight
	}
	ours := float64(line.len) * own
	ahead := own + min(v.backlog, ours*weight/r.Flow.weight)
	wait := (higher + ahead) / max(slots, all*leastLeft)
	if higher > 0 { // the trickle does not wait for them
		wait = min(wait, ahead*trickle*(levelCount-1)/all)
	}
	if f := r.Flow; f.most > 0 {
		wait = max(wait, (ours+own)/float64(f.most))
	}
	return time.Duration(min(wait, mostExpected))
}

// leastLeft is the part of the slots that higher priorities are taken to leave at least.
const leastLeft = 0.01

// mostExpected bounds what is computed from times that mean nothing.
const mostExpected = float64(24 * time.Hour)

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

// makesRoomLocked denies somebody else in a full queue so that r may join: the last in the longest line, by weight, of the
// lowest priority that waits. It reports whether there was anyone with less right to be there than r.
func (s *Slots) makesRoomLocked(r *Request, line *line, woken *chain) bool {
	for l := levelCount - 1; l > int(r.Level); l-- {
		if f, n := s.longestLocked(l); f != nil {
			s.pushOutLocked(&f.lines[l][n], woken)
			return true
		}
	}
	v, own := &s.levels[r.Level][r.lane], float64(line.len+1)/r.Flow.weight
	if own > float64(v.waiting)/v.weight { // more than the average: no need to look for the longest
		return false
	}
	f, n := s.longestLocked(int(r.Level))
	if f == nil || own >= float64(f.lines[r.Level][n].len)/f.weight {
		return false
	}
	s.pushOutLocked(&f.lines[r.Level][n], woken)
	return true
}

// longestLocked is the flow with the longest line, by weight, of a priority, and the lane it is in; nil: nobody waits.
func (s *Slots) longestLocked(l int) (longest *Flow, in lane) {
	most := 0.0
	for n := range lanes {
		for _, f := range s.levels[l][n].heap {
			if waits := float64(f.lines[l][n].len) / f.weight; waits > most {
				most, longest, in = waits, f, n
			}
		}
	}
	return longest, in
}

func (s *Slots) pushOutLocked(q *line, woken *chain) {
	s.denyLocked(q.tail, Denial{
		Err: ErrQueueFull, Limit: s.queue.Wait, Ahead: s.waiting, RetryAfter: s.retryAfter(q, s.queue.Wait),
	}, woken)
}
