package limiter

import (
	"math"
	"time"
)

// adaptive finds how many transactions may run at once. It compares how long statements take with how long statements of the
// same class take when nothing is in their way, and the work done per second, in units of that.
//
// That statements take long does not prove that too many run: the database may have become slower for another reason. So while
// the queue stands, another limit is tried. A lower one stays if as much work is done with it: then what is missing was
// waiting inside the database. A higher one stays if more is done. After a failure in both directions nothing is tried for a
// while, unless statements begin to take much longer, or less long. Statements that take little more than their base while
// the limit is used up raise it without a trial.
type adaptive struct {
	mode   Mode
	most   float64
	least  float64
	limit  float64
	frozen bool

	since    int64   // the window began
	seen     seen    // in the window
	slowness float64 // sum of logarithms
	looks    int     // at how it stands
	crowded  int     // of them found somebody waiting
	wasFull  bool    // all slots were taken at some moment
	calmFor  int     // windows in a row in which the queue did not stand
	calmOnce bool    // there were calmWindows of them: bases are what they should be

	usual      seen // while the queue stood with the limit as it is
	era        int  // in which work is counted in the same units: bases move with the limit that is tried
	trial      trial
	up         bool    // the direction of the next trial
	failed     bool    // the last trial, in the other direction
	lost       int64   // work not done, as time, in the dearest trial that failed since
	slowBefore float64 // how slow statements were when trials failed in both directions
	pause      int64   // before the next trial, after such a failure
	pauseUntil int64
	provenTill int64 // until when a lower limit that has won is not raised without a trial
}

// seen is what statements of known classes have done for a while.
type seen struct {
	samples int
	work    float64 // sum of bases as they were when the era began, nanoseconds
	time    int64
	ratios  float64 // sum of how many times as long as their bases they took
	squares float64 // and of the squares of that
}

func (s *seen) add(more seen) {
	s.samples += more.samples
	s.work += more.work
	s.time += more.time
	s.ratios += more.ratios
	s.squares += more.squares
}

// fade lets what was seen count half.
func (s *seen) fade() {
	*s = seen{s.samples / 2, s.work / 2, s.time / 2, s.ratios / 2, s.squares / 2}
}

// rate is the work done per nanosecond.
func (s *seen) rate() float64 { return s.work / float64(max(s.time, 1)) }

// noise is the variance of the rate, in squares of the rate: statements of one class do not all need the same, so that some
// more or fewer of them end in a while by chance; and of the many that run when it begins, and when it ends, nobody knows how
// far they are.
func (s *seen) noise(running float64) float64 {
	n := float64(max(s.samples, 1))
	spread := max(0, s.squares*n/(s.ratios*s.ratios)-1)
	return spread/n + (1+spread)*running/6/(n*n) // 1/12 is the variance of what is evenly distributed
}

// differs reports whether more than chance must have happened between the two.
func (s *seen) differs(other *seen, running float64) bool {
	return math.Abs(math.Log(other.rate()/s.rate())) > certainty*math.Sqrt(s.noise(running)+other.noise(running))
}

// trial is another limit under test.
type trial struct {
	from    float64 // the limit before; 0: there is no trial
	before  seen    // with that
	began   int64
	settled bool // what ends from now on has begun in the trial
	seen    seen
}

// verdict is what a trial has shown.
type verdict uint8

const (
	undecided verdict = iota
	won
	lost
)

// verdict compares the work done with another limit with that before.
func (t *trial) verdict(to float64) verdict {
	ratio := t.seen.rate() / t.before.rate()
	deviation := math.Sqrt(t.seen.noise(to) + t.before.noise(t.from))
	doubt := confidence * deviation
	needs, least := sameWork, (1+to/t.from)/2 // that half of what the limit has lost is lost as well can be ruled out
	if to > t.from {
		needs, least = moreWork, 1
	}
	switch n := t.seen.samples; {
	case n < trialSamples/4:
		return undecided
	case n < trialSamples && (to > t.from || ratio > least):
		return undecided
	case ratio*(1+doubt) < needs:
		return lost
	case n < trialSamples, n < trialSamplesMost && (ratio < needs || ratio*(1-doubt) < least):
		return undecided
	case ratio < needs && (to > t.from || ratio < least || ratio*(1+deviation) < needs):
		return lost
	}
	return won
}

const (
	window        = int64(250 * time.Millisecond)
	windowAtMost  = int64(2 * time.Second)
	windowSamples = 40
	stands        = 4 // the queue stands when it is empty at one look in so many at most: a higher limit empties it for a moment

	slowest          = 2.0  // times the base; beyond that the limit is probably too high
	fast             = 1.3  // times the base; below that the database is not the bottleneck
	aimed            = 1.5  // times the base
	steepest         = 0.5  // of the limit, in one step down
	stepDown         = 0.75 // of the limit, when statements are not slow
	stepUp           = 1.25
	sameWork         = 0.93 // of the work before
	moreWork         = 1.06 // of the work before
	mostlyLost       = 0.8  // of the work that is lost when it falls as much as the limit
	trialSamples     = 80
	trialSamplesMost = 240  // then the more likely is taken
	certainty        = 3.0  // standard deviations: one in a thousand is further off
	confidence       = 1.65 // standard deviations: one in twenty is further off to one side
	otherwise        = 1.4  // times as slow, or as fast, as when trials failed: they may succeed now

	firstPause   = int64(5 * time.Second)
	lastPause    = int64(time.Minute)
	pauseToLoss  = 20 // the pause is as many times as long as what was lost: trials cost 5 % at most
	provenFor    = int64(30 * time.Second)
	calmWindows  = 8 // before the limit drifts up
	slownessMost = 5 // logarithm; one statement that waits for a lock for a minute says no more than one that waits for a second
)

func newAdaptive(cfg Adaptive, budget int) adaptive {
	a := adaptive{
		mode: cfg.Mode, most: float64(budget), least: float64(min(cfg.Min, budget)), limit: float64(budget),
		pause: firstPause,
	}
	if !cfg.Enabled {
		a.mode = Off
	}
	if cfg.Frozen > 0 {
		a.frozen, a.limit = true, float64(min(cfg.Frozen, budget))
	}
	return a
}

// enforced is the limit that holds within a budget.
func (a *adaptive) enforced(budget int) int {
	if a.mode != Enforce {
		return budget
	}
	return min(budget, max(1, int(a.limit)))
}

// note takes in how long one statement took.
func (a *adaptive) note(c *class, took float64, calm bool, now int64) {
	if a.mode == Off || c == nil || took <= 0 {
		return
	}
	if c.base.known() {
		ratio := took / c.base.nanoseconds
		a.seen.add(seen{samples: 1, work: c.base.unit(a.era), ratios: ratio, squares: ratio * ratio})
		a.slowness += min(max(0, math.Log(ratio)), slownessMost)
	}
	c.base.note(took, calm, now)
}

// look takes note of a moment in the window: whether somebody waits, and whether all slots are taken.
func (a *adaptive) look(crowded, full bool) {
	a.looks++
	if crowded {
		a.crowded++
	}
	a.wasFull = a.wasFull || full
}

// due reports whether a window is over.
func (a *adaptive) due(now int64) bool {
	passed := now - a.since
	return a.mode != Off && passed >= window && (a.seen.samples >= windowSamples || passed >= windowAtMost)
}

// decide ends a window and returns the limit that holds from now on.
func (a *adaptive) decide(now int64, budget int) int {
	w, slow := a.seen, 1.0
	w.time = now - a.since
	if w.samples > 0 {
		slow = math.Exp(a.slowness / float64(w.samples))
	}
	standing, used := a.crowded*stands >= a.looks*(stands-1), a.wasFull
	a.since, a.seen, a.slowness, a.looks, a.crowded, a.wasFull = now, seen{}, 0, 0, 0, false
	if standing {
		a.calmFor = 0
	} else {
		a.calmFor++
		a.calmOnce = a.calmOnce || a.calmFor >= calmWindows
	}
	if !a.frozen && w.samples >= windowSamples/4 {
		a.move(now, w, slow, standing, used)
	}
	return a.enforced(budget)
}

func (a *adaptive) move(now int64, w seen, slow float64, standing, used bool) {
	if !standing {
		if a.calmFor == 1 { // it may have been chance
			return
		}
		a.abandon()
	} else if !a.learns(now, w, slow) {
		return
	}
	switch {
	case slow < fast && used && a.limit < a.most && now >= a.provenTill:
		a.set(a.limit + max(1, a.limit/4))
	case standing && slow < fast && a.calmOnce: // and no more slots to be had
	case standing && (now >= a.pauseUntil || a.changed(slow)):
		a.try(now, slow)
	case a.calmFor >= calmWindows:
		a.set(a.limit + max(1, a.limit/8))
	}
}

func (a *adaptive) set(limit float64) {
	limit = min(max(limit, a.least), a.most)
	if limit != a.limit {
		a.limit = limit
		a.forget()
	}
}

// forget what was seen, as it cannot be compared with what comes.
func (a *adaptive) forget() {
	a.usual = seen{}
	a.era++
}

// abandon ends a trial, and forgets what can no longer be compared: the storm is over.
func (a *adaptive) abandon() {
	if a.trial.from > 0 {
		a.set(a.trial.from)
	}
	a.trial, a.failed, a.up = trial{}, false, false
	a.forget()
}

// learns takes in a window in which the queue stood, and reports whether enough is known to change the limit.
func (a *adaptive) learns(now int64, w seen, slow float64) bool {
	t := &a.trial
	if t.from == 0 {
		if a.usual.samples > 0 && a.usual.differs(&w, a.limit) {
			a.usual = seen{}
		}
		if a.usual.samples > 4*trialSamples { // older ones count for less and less
			a.usual.fade()
		}
		a.usual.add(w)
		return a.usual.samples >= trialSamples
	}
	if !t.settled {
		t.settled = true
		return false
	}
	t.seen.add(w)
	v := t.verdict(a.limit)
	if v != undecided {
		a.judge(v, now, slow)
	}
	return v != undecided && a.usual.samples >= trialSamples
}

// judge ends a trial.
func (a *adaptive) judge(v verdict, now int64, slow float64) {
	t, tried := a.trial, a.limit
	a.trial = trial{}
	if v == won {
		a.usual, a.failed, a.pause, a.pauseUntil = t.seen, false, firstPause, 0
		if !a.up {
			a.provenTill = now + provenFor
		}
		return
	}
	a.limit = t.from
	a.usual = t.before
	if !a.up && 1-t.seen.rate()/t.before.rate() > mostlyLost*(1-tried/t.from) { // nothing but the limit holds it back
		a.set(t.from * stepUp)
	}
	a.lost = max(a.lost, int64((1-t.seen.rate()/t.before.rate())*float64(now-t.began)))
	a.turn(now, slow)
}

// turn changes the direction, and has trials pause after a failure in both.
func (a *adaptive) turn(now int64, slow float64) {
	a.up = !a.up
	if a.failed = !a.failed; a.failed {
		return
	}
	a.slowBefore = slow
	a.pauseUntil = now + max(a.pause, pauseToLoss*a.lost)
	a.lost = 0
	a.pause = min(2*a.pause, lastPause)
}

// changed reports whether trials may succeed that have failed.
func (a *adaptive) changed(slow float64) bool {
	return slow > otherwise*a.slowBefore || slow < a.slowBefore/otherwise
}

// try begins a trial, in the other direction if it cannot be in this one.
func (a *adaptive) try(now int64, slow float64) {
	if slow > slowest && !a.failed {
		a.up = false
	}
	if now < a.pauseUntil { // but things have changed
		a.pauseUntil, a.pause = 0, firstPause
	}
	for range 2 {
		to := a.limit * stepDown
		switch {
		case a.up:
			to = max(a.limit+1, a.limit*stepUp)
		case slow > slowest && a.changed(slow):
			to = a.limit * max(steepest, aimed/slow)
		}
		if to = min(max(to, a.least), a.most); to != a.limit {
			a.trial = trial{from: a.limit, before: a.usual, began: now}
			a.limit = to
			return
		}
		a.turn(now, slow)
		if now < a.pauseUntil {
			return
		}
	}
}
