package limiter

import (
	"math"
	"time"
)

// window is what is seen of statements and slots for a quarter of a second.
type window struct {
	since    int64
	seen     seen
	slowness float64 // sum of logarithms
	looks    int     // at how the queue stands
	crowded  int     // of them found somebody waiting
	full     bool    // all slots were taken at some moment
}

// view is what a window has shown.
type view struct {
	seen
	slow     float64 // times as long as alone that statements took; 1: nothing is known
	standing bool    // the queue, all the time but for moments
	full     bool    // all slots were taken at some moment
}

const (
	windowLength  = int64(250 * time.Millisecond)
	windowAtMost  = int64(2 * time.Second)
	windowSamples = 40
	stands        = 4 // the queue stands when it is empty at one look in so many at most: a higher limit empties it for a moment
	slownessMost  = 5 // logarithm; one statement that waits for a lock for a minute says no more than one that waits for a second
)

// tells reports whether enough statements ended to say how slow they are.
func (v *view) tells() bool { return v.samples >= windowSamples/4 }

// note takes in how long one statement took, as far as there is something to compare with. Work is counted in units of an era.
func (w *window) note(c *class, took float64, era int) {
	if c == nil || !c.base.known() {
		return
	}
	ratio := took / c.base.nanoseconds
	w.seen.add(seen{samples: 1, work: c.base.unit(era), ratios: ratio, squares: ratio * ratio})
	w.slowness += min(max(0, math.Log(ratio)), slownessMost)
}

// look takes note of a moment: whether somebody waits, and whether all slots are taken.
func (w *window) look(crowded, full bool) {
	w.looks++
	if crowded {
		w.crowded++
	}
	w.full = w.full || full
}

// due reports whether the window is over.
func (w *window) due(now int64) bool {
	passed := now - w.since
	return passed >= windowLength && (w.seen.samples >= windowSamples || passed >= windowAtMost)
}

// end begins the next window, and returns what this one has shown.
func (w *window) end(now int64) view {
	v := view{seen: w.seen, slow: 1, standing: w.crowded*stands >= w.looks*(stands-1), full: w.full}
	v.time = now - w.since
	if v.samples > 0 {
		v.slow = math.Exp(w.slowness / float64(v.samples))
	}
	*w = window{since: now}
	return v
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
