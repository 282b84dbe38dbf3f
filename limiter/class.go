package limiter

import (
	"container/list"
	"math"
	"time"
)

// Fingerprint tells statements apart by what they do, whatever their constants. 0 is that of a statement nobody has looked at.
type Fingerprint uint64

const (
	// longAfter is how long a statement's transaction takes on average, in a class that goes to the lane of its own.
	longAfter = 250 * time.Millisecond
	// mostClasses bounds how many classes are remembered; the one that was used longest ago makes room.
	mostClasses = 4096
)

// class is what is known of the statements with one fingerprint.
type class struct {
	of      Fingerprint
	place   *list.Element
	running int
	typical typical // how long transactions that begin with such a statement hold a slot
	long    bool
	base    base
}

// enter counts those that run, by one more or less.
func (c *class) enter(n int) {
	if c != nil {
		c.running += n
	}
}

// held notes how long the database has worked for one. A class is long when that is typical of it, and even those that nothing is in the
// way of take long, as far as is known: what waits for a lock now and then is not. It is short again only when it clearly is.
func (c *class) held(nanoseconds float64, now int64) {
	if c == nil {
		return
	}
	c.typical.note(nanoseconds, now)
	least := c.typical.nanoseconds
	if c.base.n >= fewSamples {
		least = min(least, c.base.nanoseconds)
	}
	switch {
	case least > float64(longAfter) && c.typical.n >= fewSamples:
		c.long = true
	case least < float64(longAfter)/2:
		c.long = false
	}
}

// runsLong notes that one is still running after so long. In a class that is known that says nothing: when the database
// stalls, all run long.
func (c *class) runsLong(nanoseconds float64, now int64) {
	if c != nil && c.typical.n < fewSamples {
		c.held(nanoseconds, now)
		c.long = true
	}
}

// ran notes how long a statement took.
func (c *class) ran(nanoseconds float64, calm bool, now int64) {
	if c != nil {
		c.base.note(nanoseconds, calm, now)
	}
}

// needs is how long a transaction of the class takes at least, as far as is known.
func (c *class) needs(now int64) time.Duration {
	if c == nil {
		return 0
	}
	return c.typical.least(now)
}

// typical is how long something takes that now and then takes much longer: a mean that one exception moves little, and that
// falls faster than it rises.
type typical struct {
	nanoseconds float64
	n           int
	noted       int64 // when the last one was
}

const (
	farOff     = 4 // times the mean; what is more counts as that much
	fallsBy    = 8 // samples
	doubtAfter = int64(250 * time.Millisecond)
)

func (t *typical) note(x float64, now int64) {
	t.noted = now
	t.n = min(t.n+1, averageOver)
	over := t.n
	if t.n > 1 {
		x = min(x, farOff*t.nanoseconds)
		if x < t.nanoseconds {
			over = min(t.n, fallsBy)
		}
	}
	t.nanoseconds += (x - t.nanoseconds) / float64(over)
}

// least is what can be relied on; 0 when little is known, and for one who asks when nobody was through for a while: if all
// were refused because it took too long once, it would never be known that it does no longer.
func (t *typical) least(now int64) time.Duration {
	if t.n < fewSamples {
		return 0
	}
	if now-t.noted > doubtAfter {
		t.noted = now
		return 0
	}
	return time.Duration(t.nanoseconds)
}

// classes are the classes of one resource, the last used in front.
type classes struct {
	known map[Fingerprint]*class
	used  list.List
}

func (t *classes) init() { t.known = make(map[Fingerprint]*class) }

// find returns the class of f, nil for 0.
func (t *classes) find(f Fingerprint) *class {
	if f == 0 {
		return nil
	}
	if c := t.known[f]; c != nil {
		if t.used.Front() != c.place {
			t.used.MoveToFront(c.place)
		}
		return c
	}
	if len(t.known) >= mostClasses {
		oldest := t.used.Back()
		delete(t.known, t.used.Remove(oldest).(*class).of)
	}
	c := &class{of: f}
	c.place = t.used.PushFront(c)
	t.known[f] = c
	return c
}

// base is how long a statement of a class takes when nothing is in its way: a low quantile of what it took, learned while the
// resource has little to do, and otherwise only downwards, so that neither a storm nor a slow drift becomes the new normal.
type base struct {
	nanoseconds float64
	counts      float64 // its value when era began
	era         int
	calm        float64 // the same as of the last time when there was little to do; the most it may rise to until then
	n           int
	raised      int64 // when calm last rose
}

const (
	baseQuantile = 0.2
	firstSamples = 100  // the first ones count whatever the load
	baseStep     = 0.05 // of the value, for each sample
	risePerMin   = 0.05 // of the value, at most
)

// note learns from one statement (stochastic approximation of the quantile: Robbins and Monro, 1951).
func (b *base) note(took float64, calm bool, now int64) {
	if b.n == 0 {
		b.nanoseconds, b.calm, b.raised = took, took, now
	}
	b.n++
	step := b.nanoseconds * baseStep
	if took < b.nanoseconds {
		b.nanoseconds = max(took, b.nanoseconds-step*(1-baseQuantile))
	} else {
		b.nanoseconds = min(took, b.nanoseconds+step*baseQuantile)
	}
	switch {
	case b.n <= firstSamples, b.nanoseconds < b.calm && calm:
		b.calm, b.raised = b.nanoseconds, now
	case calm:
		most := b.calm * math.Pow(1+risePerMin, float64(now-b.raised)/float64(time.Minute))
		b.nanoseconds = min(b.nanoseconds, most)
		b.calm, b.raised = b.nanoseconds, now
	default:
		b.nanoseconds = min(b.nanoseconds, b.calm)
	}
}

// unit is the value as it was when an era began, or when it was first asked for in it.
func (b *base) unit(era int) float64 {
	if b.era != era || b.counts == 0 {
		b.counts, b.era = b.nanoseconds, era
	}
	return b.counts
}

// known reports whether there is enough to compare with.
func (b *base) known() bool { return b.n >= baseSamples }

const baseSamples = 20
