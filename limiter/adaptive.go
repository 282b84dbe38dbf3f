package limiter

import "time"

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

	calmFor  int  // windows in a row in which the queue did not stand
	calmOnce bool // there were calmWindows of them: bases are what they should be

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

const (
	slowest    = 2.0  // times the base; beyond that the limit is probably too high
	fast       = 1.3  // times the base; below that the database is not the bottleneck
	aimed      = 1.5  // times the base
	steepest   = 0.25 // of the limit, in one step down
	stepDown   = 0.75 // of the limit, when statements are not slow
	stepUp     = 1.25
	mostlyLost = 0.8 // of the work that is lost when it falls as much as the limit
	otherwise  = 1.4 // times as slow, or as fast, as when trials failed: they may succeed now

	firstPause  = int64(5 * time.Second)
	lastPause   = int64(time.Minute)
	pauseToLoss = 20 // the pause is as many times as long as what was lost: trials cost 5 % at most
	provenFor   = int64(30 * time.Second)
	calmWindows = 8 // before the limit drifts up
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

// decide takes in a window that is over and returns the limit that holds from now on.
func (a *adaptive) decide(v view, now int64, budget int) int {
	if v.standing {
		a.calmFor = 0
	} else {
		a.calmFor++
		a.calmOnce = a.calmOnce || a.calmFor >= calmWindows
	}
	if a.mode != Off && !a.frozen && v.tells() {
		a.move(v, now)
	}
	return a.enforced(budget)
}

func (a *adaptive) move(v view, now int64) {
	if !v.standing {
		if a.calmFor == 1 { // it may have been chance
			return
		}
		a.abandon()
	} else if !a.learns(v, now) {
		return
	}
	switch {
	case v.slow < fast && v.full && a.limit < a.most && now >= a.provenTill:
		a.set(a.limit + max(1, a.limit/4))
	case v.standing && v.slow < fast && a.calmOnce: // and no more slots to be had
	case v.standing && (now >= a.pauseUntil || a.changed(v.slow)):
		a.try(now, v.slow)
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
func (a *adaptive) learns(v view, now int64) bool {
	t := &a.trial
	if t.from == 0 {
		if a.usual.samples > 0 && a.usual.differs(&v.seen, a.limit) {
			a.usual = seen{}
		}
		if a.usual.samples > 4*trialSamples { // older ones count for less and less
			a.usual.fade()
		}
		a.usual.add(v.seen)
		return a.usual.samples >= trialSamples
	}
	if !t.settled {
		t.settled = true
		return false
	}
	t.seen.add(v.seen)
	shown := t.verdict(a.limit)
	if shown != undecided {
		a.judge(shown, now)
	}
	return shown == won && a.usual.samples >= trialSamples
}

// judge ends a trial.
func (a *adaptive) judge(shown verdict, now int64) {
	t, tried := a.trial, a.limit
	a.trial = trial{}
	if shown == won {
		a.usual, a.failed, a.pause, a.pauseUntil = t.seen, false, firstPause, 0
		if !a.up {
			a.provenTill = now + provenFor
		}
		return
	}
	a.limit = t.from
	a.usual = t.before
	missing := 1 - t.seen.rate()/t.before.rate()        // of the work
	if !a.up && missing > mostlyLost*(1-tried/t.from) { // nothing but the limit holds it back
		a.set(t.from * stepUp)
	}
	a.lost = max(a.lost, int64(missing*float64(now-t.began)))
	a.turn(now, t.slow)
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
			a.trial = trial{from: a.limit, before: a.usual, slow: slow, began: now}
			a.limit = to
			return
		}
		a.turn(now, slow)
		if now < a.pauseUntil {
			return
		}
	}
}
