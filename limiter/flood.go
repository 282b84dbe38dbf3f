package limiter

import (
	"math"
	"time"
)

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
	fits    bool    // see crowd
	joined  int64   // see crowd, when the last window ended
	arrived float64 // for each that was served, lately, while it stands
}

// traffic is what came and went in a window.
type traffic struct {
	arrivals, grants int
	refused, left    int  // of the arrivals, or of those before
	joins            int  // clients that have connected
	empty            bool // nobody waited at some moment
	still            bool // the database did nothing for anybody: that says nothing about who comes
}

const (
	floodWindow = int64(50 * time.Millisecond)
	// So many windows in a row are looked at: a great flood shows in a few, a small one in many.
	floodShort  = 4
	floodMiddle = 16
	floodLong   = 64
	floodBreak  = 4 // in one of so many windows there may have been no more arrivals than grants

	// It is a flood where more have arrived than were served, by so many standard deviations, so that it is not by chance, and by so
	// many requests: fewer may be a crowd that gets together, and then grows no more.
	floodDoubt = 5
	floodCrowd = 100
	// It is one, too, where one in so many was not served, and so many have left.
	floodPart = 4
	floodLeft = 12

	// For so long a flood lasts, the first time and at most, before it is looked whether it is still one.
	floodLooks = int64(30 * time.Second)
	floodLasts = int64(5 * time.Minute)
)

// crowd is what is known of those who may come.
type crowd struct {
	joined int64 // clients that have ever connected
	fits   bool  // if all that are connected asked at once, each would be served while it is wanted
}

// due reports whether a window is over.
func (f *flood) due(now int64) bool { return now-f.since >= floodWindow }

// roll judges the windows that are over. empty says that nobody waits now, p how the lane moves.
func (f *flood) roll(now int64, empty bool, p *pace, c crowd) {
	passed := (now - f.since) / floodWindow
	f.spread, f.fits = p.spread, c.fits
	f.now.joins, f.joined = int(c.joined-f.joined), c.joined
	f.now.still = p.stillSince(f.since + floodWindow/2)
	f.push(f.now)
	f.since += passed * floodWindow
	f.now = traffic{empty: empty, still: f.now.still}
	for range min(passed-1, floodLong) {
		f.push(f.now)
	}
	f.judge(now)
}

// judge finds out whether it is a flood now, at the end of a window.
func (f *flood) judge(now int64) {
	sure, by := false, 0.0
	for _, windows := range [...]int{floodShort, floodMiddle, floodLong} {
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
		f.begin(now)
	case last.empty && last.arrivals <= last.grants, by <= 0 && 2*out*floodPart < in:
		f.stands = false
	}
}

func (f *flood) begin(now int64) {
	if f.stands {
		return
	}
	if now-f.began > 2*f.lasts { // not the one of which it was looked whether it is over
		f.lasts = floodLooks
	}
	f.stands, f.began = true, now
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
	arrivals, grants, joins, breaks, most := 0, 0, 0, 0, 0
	for n := range windows {
		w := f.back(n)
		if w.still {
			breaks++
			continue
		}
		arrivals += w.arrivals
		grants += w.grants
		joins += w.joins
		most = max(most, w.arrivals)
		if w.empty || w.arrivals <= w.grants {
			breaks++
		}
	}
	arrivals = (arrivals - most) * windows / (windows - 1) // who came in one burst is not followed by others
	by = float64(arrivals-grants) / math.Sqrt(float64(arrivals)+float64(grants)*max(1, f.spread)+1)
	f.arrived = float64(arrivals) / float64(max(grants, 1))
	gathers := f.fits && 2*joins < arrivals // they were there already, and cannot become more than they are
	return by, by > floodDoubt && arrivals-grants > floodCrowd && breaks*floodBreak <= windows && !gathers
}
