package limiter

import (
	"math"
	"time"
)

// adaptive finds how many transactions may run at once. It compares how long statements take with how long statements of the
// same class take when nothing is in their way, and the work done per second, in units of that.
//
// While the queue stands and statements take more than slowest times their base, it tries a lower limit. Only if as much work
// is done with it does it stay: then what is missing was waiting inside the database. If less is done, the database has
// become slower for another reason, so the old limit comes back, and for a while nothing is tried. Statements that take
// little more than their base while the limit is used up raise it again.
type adaptive struct {
	mode       Mode
	most       int
	least      float64
	limit      float64
	frozen     bool
	since      int64 // the window began
	samples    int
	slowness   float64 // sum of logarithms
	work       float64 // sum of bases, nanoseconds
	wasEmpty   bool    // nobody waited at some moment of the window
	wasFull    bool    // all slots were taken at some moment
	calmFor    int     // windows in a row in which nobody had to wait
	trial      trial
	pause      time.Duration // before the next trial, after one that failed
	pauseUntil int64
}

// trial is a lower limit under test.
type trial struct {
	windows int // since it began; 0: there is none
	from    float64
	work    float64 // per second before it
}

const (
	window        = int64(250 * time.Millisecond)
	windowAtMost  = int64(2 * time.Second)
	windowSamples = 40

	slowest      = 2.0  // times the base
	fast         = 1.3  // times the base
	aimed        = 1.5  // times the base
	steepest     = 0.5  // of the limit, in one step down
	sameWork     = 0.93 // of the work before
	firstPause   = 5 * time.Second
	lastPause    = time.Minute
	calmWindows  = 8 // before the limit drifts up
	slownessMost = 3 // logarithm; one statement that waits for a lock for a minute says no more than one that waits for a second
)

func newAdaptive(cfg Adaptive, budget int) adaptive {
	a := adaptive{
		mode: cfg.Mode, most: budget, least: float64(min(cfg.Min, budget)), limit: float64(budget), wasEmpty: true, pause: firstPause,
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
		a.samples++
		a.slowness += min(max(0, math.Log(took/c.base.nanoseconds)), slownessMost)
		a.work += c.base.nanoseconds
	}
	c.base.note(took, calm, now)
}

// look takes note of a moment in the window: whether nobody waits, and whether all slots are taken.
func (a *adaptive) look(empty, full bool) {
	a.wasEmpty = a.wasEmpty || empty
	a.wasFull = a.wasFull || full
}

// due reports whether a window is over.
func (a *adaptive) due(now int64) bool {
	passed := now - a.since
	return a.mode != Off && passed >= window && (a.samples >= windowSamples || passed >= windowAtMost)
}

// decide ends a window and returns the limit that holds from now on.
func (a *adaptive) decide(now int64, budget int) int {
	seconds := float64(now-a.since) / float64(time.Second)
	work := a.work / seconds
	slow := 1.0
	if a.samples > 0 {
		slow = math.Exp(a.slowness / float64(a.samples))
	}
	standing, used, enough := !a.wasEmpty, a.wasFull, a.samples >= windowSamples/4
	a.since, a.samples, a.slowness, a.work, a.wasEmpty, a.wasFull = now, 0, 0, 0, false, false
	if standing {
		a.calmFor = 0
	} else {
		a.calmFor++
	}
	if !a.frozen && enough {
		a.move(now, work, slow, standing, used)
	}
	return a.enforced(budget)
}

func (a *adaptive) move(now int64, work, slow float64, standing, used bool) {
	if a.trial.windows > 0 {
		a.trial.windows++
		switch {
		case !standing: // the storm is over: nothing can be compared
			a.trial = trial{}
		case a.trial.windows == 2: // what ended in this one began before the trial
			return
		case work < sameWork*a.trial.work:
			a.limit = a.trial.from
			a.trial = trial{}
			a.pauseUntil = now + int64(a.pause)
			a.pause = min(2*a.pause, lastPause)
			return
		default:
			a.trial = trial{}
			a.pause = firstPause
		}
	}
	switch {
	case slow > slowest && standing && now >= a.pauseUntil && a.limit > a.least:
		a.trial = trial{windows: 1, from: a.limit, work: work}
		a.limit = max(a.least, a.limit*max(steepest, aimed/slow))
	case slow < fast && used:
		a.limit = min(float64(a.most), a.limit+max(1, a.limit/4))
	case a.calmFor >= calmWindows:
		a.limit = min(float64(a.most), a.limit+max(1, a.limit/8))
	}
}
