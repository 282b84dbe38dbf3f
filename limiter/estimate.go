package limiter

import (
	"math"
	"time"
)

const (
	fewSamples  = 3  // it takes to believe a mean
	averageOver = 64 // samples
)

// average is an exponentially weighted mean that starts as a plain one.
type average struct {
	mean float64
	n    int
}

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

// usual is what something mostly is, lately. It falls by half in usualHalf while nothing is noted.
type usual struct {
	mean fading
	off  float64 // mean deviation from that
}

const (
	usualHalf = float64(2 * time.Second)
	usualOver = 32  // notes
	farFrom   = 2.2 // deviations
)

func (u *usual) note(x float64, now int64) {
	mean := u.mean.by(now, usualHalf/math.Ln2)
	u.off += (math.Abs(x-mean) - u.off) / usualOver
	u.mean.value += (x - mean) / usualOver
}

// most is what it hardly ever exceeds by much.
func (u *usual) most(now int64) float64 {
	mean := u.mean.by(now, usualHalf/math.Ln2)
	return mean + farFrom*min(u.off, mean)
}

// turnsAwayLocked reports whether r, which cannot have a slot at once, is to be turned away instead of joining its line, and why:
// because it could not be served while it is wanted, or because others could not if it were.
func (s *Slots) turnsAwayLocked(r *Request, line *line, now int64, woken *chain) (Denial, bool) {
	expected, known := s.expectedLocked(r, line)
	if d, late := s.lateLocked(r, now, expected); late {
		return d, true
	}
	if known && s.waiting >= fewWaiting {
		if b := s.boundLocked(r, now); expected > b.wait {
			return s.shedLocked(r, expected, b), true
		}
	}
	if s.waiting >= s.length && !s.makesRoomLocked(r, line, woken) {
		return Denial{Err: ErrQueueFull, Expected: expected, Limit: s.queue.Wait, Ahead: s.waiting, RetryAfter: s.retryAfter(r, expected)}, true
	}
	return Denial{}, false
}

// fewWaiting may wait whatever the time, so that no slot stays empty for want of somebody to use it.
const fewWaiting = 5

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

// expectedLocked is how long r is going to wait at the end of its line: as the line has moved until now; or, while that is not known, as far as
// can be told from who is served before it and from how fast slots come free. known is false when nothing is known of that either.
func (s *Slots) expectedLocked(r *Request, line *line) (wait time.Duration, known bool) {
	if f := r.Flow; f.most > 0 {
		wait = time.Duration(float64(line.len+1) * s.usualLocked(f, r.lane) / float64(f.most))
	}
	p := &s.pace[r.lane]
	switch {
	case line.len > 0 && line.pace.moves():
		return max(wait, time.Duration(min(float64(line.len+1)*line.pace.interval, mostExpected))), true
	case !p.known():
		return wait, false
	}
	left, higher := 1.0, 0 // part of the grants
	for l := range r.Level {
		v := &s.levels[l][r.lane]
		left -= v.served.by(s.now) * p.interval / float64(time.Second)
		higher += v.waiting
	}
	v := &s.levels[r.Level][r.lane]
	weight := v.weight
	if line.len == 0 {
		weight += r.Flow.weight
	}
	ahead := min(float64(v.waiting), float64(line.len)*s.dearLocked(r)*weight/r.Flow.weight) + 1
	turns := (float64(higher) + ahead) / max(left, leastLeft)
	if higher > 0 { // the trickle does not wait for them
		turns = min(turns, ahead*trickle*(levelCount-1))
	}
	return max(wait, time.Duration(min(turns*p.interval, mostExpected))), true
}

// slotsOfLocked is how many slots a lane may have.
func (s *Slots) slotsOfLocked(n lane) int {
	if n == long {
		return s.longSlotsLocked()
	}
	return max(1, s.limit-s.running[long])
}

// dearLocked is how many times as long as others in its lane r is going to hold its slot.
func (s *Slots) dearLocked(r *Request) float64 {
	own, all := r.Flow.hold[r.lane], s.hold[r.lane]
	if own.n < fewSamples || all.n < fewSamples || all.mean == 0 {
		return 1
	}
	return min(max(own.mean/all.mean, 1.0/dearest), dearest)
}

// dearest bounds what is computed from times that differ by chance.
const dearest = 64

// leastLeft is the part of the slots that higher priorities are taken to leave at least.
const leastLeft = 0.01

// mostExpected bounds what is computed from times that mean nothing.
const mostExpected = float64(24 * time.Hour)

// retryAfter is when to come back to a line in which one would wait for so long. In a flood all who are turned away together would find
// the same line again if they came as soon as it has moved on: so it is as many times as long as more arrive than leave.
func (s *Slots) retryAfter(r *Request, expected time.Duration) time.Duration {
	again := float64(expected)
	if f := &s.levels[r.Level][r.lane].flood; f.stands {
		again *= max(1, f.arrived)
	}
	return min(max(time.Duration(again), leastRetry), mostRetry)
}

const (
	leastRetry = 25 * time.Millisecond
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
		Err: ErrQueueFull, Limit: s.queue.Wait, Ahead: s.waiting, RetryAfter: s.retryAfter(q.tail, s.queue.Wait/2),
	}, woken)
}
