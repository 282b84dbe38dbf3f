package limiter

import (
	"math"
	"time"
)

// fifo is a queue of requests in order of arrival; leaving from the middle is O(1).
type fifo struct {
	head, tail *Request
	len        int
}

func (q *fifo) push(r *Request) {
	r.prev, r.next = q.tail, nil
	if q.tail != nil {
		q.tail.next = r
	} else {
		q.head = r
	}
	q.tail = r
	q.len++
}

func (q *fifo) remove(r *Request) {
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		q.head = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		q.tail = r.prev
	}
	r.next, r.prev = nil, nil
	q.len--
}

// line are the requests of one flow, priority and lane that wait.
type line struct {
	fifo
	pace pace
}

// flood tells a storm from a crowd: it finds out whether, of one priority, more come than leave, again and again. Five hundred
// who come together once are no flood, nor are as many of whom each asks anew when it has its answer: hardly anyone arrives
// behind them.
type flood struct {
	since   int64   // the window began
	now     traffic // in it
	before  [floodLong]traffic
	next    int // the place in before of the window that ends next
	stands  bool
	began   int64   // since when
	lasts   int64   // for how long it may, before it is taken to be over, to see whether it is
	spread  float64 // see pace
	arrived float64 // for each that was served, lately, while it stands
}

// traffic is what came and went in a window.
type traffic struct {
	arrivals, grants int
	refused, left    int  // of the arrivals, or of those before
	empty            bool // nobody waited at some moment
	still            bool // the database did nothing for anybody: that says nothing about who comes
}

const (
	floodWindow = int64(50 * time.Millisecond)
	// floodShort and floodLong are how many windows in a row are looked at: a great flood shows in a few, a small one in many.
	floodShort  = 4
	floodMiddle = 16
	floodLong   = 64
	floodBreak  = 4   // of so many windows one may have had no more arrivals than grants
	floodCrowd  = 100 // more must have arrived than were served: fewer may be a crowd that gets together, and then grows no more
	floodPart   = 4   // of so many one is not served
	floodLeft   = 12  // have left
	floodDoubt  = 5   // standard deviations more must have arrived than were served, to be sure that it is not by chance
)

const (
	floodLooks = int64(30 * time.Second) // the first time
	floodLasts = int64(5 * time.Minute)  // at most
)

// roll judges the windows that are over, and reports whether one was. empty says that nobody waits now, p how the lane moves.
func (f *flood) roll(now int64, empty bool, p *pace) bool {
	passed := (now - f.since) / floodWindow
	if passed < 1 {
		return false
	}
	f.spread = p.spread
	f.now.still = p.stillSince(f.since + floodWindow/2)
	f.push(f.now)
	f.since += passed * floodWindow
	f.now = traffic{empty: empty, still: f.now.still}
	for range min(passed-1, floodLong) {
		f.push(f.now)
	}
	sure, by := false, 0.0
	for _, windows := range []int{floodShort, floodMiddle, floodLong} {
		var is bool
		by, is = f.exceeds(windows)
		sure = sure || is
	}
	in, out, left := f.unserved(floodLong / 2)
	last := f.back(0)
	switch {
	case f.stands && now-f.began > f.lasts:
		f.before, f.stands, f.lasts = [floodLong]traffic{}, false, min(2*f.lasts, floodLasts)
	case sure, left >= floodLeft && in >= floodCrowd && out*floodPart > in:
		if !f.stands && now-f.began > 2*f.lasts {
			f.lasts = floodLooks
		}
		if !f.stands {
			f.began = now
		}
		f.stands = true
	case last.empty && last.arrivals <= last.grants, by <= 0 && 2*out*floodPart < in:
		f.stands = false
	}
	return true
}

// unserved is, of so many windows, how many came, and how many of them were not served, some of whom left.
func (f *flood) unserved(windows int) (in, out, left int) {
	for n := range windows {
		w := f.back(n)
		if w.still { // who leaves behind a stall says nothing of what comes
			return 0, 0, 0
		}
		in += w.arrivals
		out += w.refused + w.left
		left += w.left
	}
	return in, out, left
}

func (f *flood) push(w traffic) {
	f.before[f.next] = w
	f.next = (f.next + 1) % floodLong
}

// back is the window so many before the last one that is over.
func (f *flood) back(n int) *traffic { return &f.before[(f.next+2*floodLong-1-n)%floodLong] }

// exceeds is by how many standard deviations more have arrived in so many windows than were served, and whether that is sure.
func (f *flood) exceeds(windows int) (by float64, sure bool) {
	arrivals, grants, breaks, most := 0, 0, 0, 0
	for n := range windows {
		w := f.back(n)
		if w.still {
			breaks++
			continue
		}
		arrivals += w.arrivals
		grants += w.grants
		most = max(most, w.arrivals)
		if w.empty || w.arrivals <= w.grants {
			breaks++
		}
	}
	arrivals = (arrivals - most) * windows / (windows - 1) // who came in one burst is not followed by others
	by = float64(arrivals-grants) / math.Sqrt(float64(arrivals)+float64(grants)*max(1, f.spread)+1)
	f.arrived = float64(arrivals) / float64(max(grants, 1))
	return by, by > floodDoubt && arrivals-grants > floodCrowd && breaks*floodBreak <= windows
}
