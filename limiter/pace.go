package limiter

import "time"

// pace is how a queue moves while all slots are taken. What was long ago does not count, and nothing is known until some were
// granted a slot.
type pace struct {
	interval float64 // nanoseconds between two grants
	spread   float64 // variance of that, in squares of it
	n        int     // intervals it is known by
	longest  float64 // of the first ones: it does not count, as the database may have paused
	last     int64   // the grant before; 0: nobody waits, or slots are free
	since    int64   // somebody waits, and none was granted
	noted    int64   // the last grant of all
	paused   bool    // it came after a long pause
}

const (
	paceOver = 32 // intervals, or half as many as wait, if they are more
	paceMost = 512
	paceFew  = 8                      // intervals before which nothing is known
	paceHold = int64(2 * time.Second) // after which it is forgotten, if nobody waits
	// pauseTimes is how many times as long as usual a pause is that is no measure of the pace: a lock, a checkpoint, a failover. It
	// may end at any moment. A second one is: the database has become slow.
	pauseTimes = 16
	leastPause = int64(100 * time.Millisecond)
	slowsOver  = 4 // such pauses
)

// rest notes that nobody waits any more, or that slots are free.
func (p *pace) rest() { p.last, p.since, p.paused = 0, 0, false }

// begin notes that somebody waits.
func (p *pace) begin(now int64) {
	if p.since == 0 {
		p.since = now
	}
}

// granted takes in a grant of the only slot that was free, to one of so many who wait.
func (p *pace) granted(waiting int, now int64) {
	p.since = now
	if p.last == 0 {
		if now-p.noted > paceHold {
			p.n = 0
		}
		p.last, p.noted = now, now
		return
	}
	took, over := float64(now-p.last), min(max(waiting/2, paceOver), paceMost)
	p.last, p.noted = now, now
	switch pause := p.known() && took > float64(leastPause) && took > pauseTimes*p.interval; {
	case pause && !p.paused:
		p.paused = true
		return
	case pause:
		over = slowsOver
	default:
		p.paused = false
	}
	p.learn(took, over)
}

// learn takes in an interval, of which so many count.
func (p *pace) learn(took float64, over int) {
	if p.n == 0 {
		*p = pace{longest: took, last: p.last, noted: p.noted, since: p.since, n: 1, spread: 1}
		return
	}
	if p.n <= paceFew && took > p.longest {
		took, p.longest = p.longest, took
	}
	p.n = min(p.n+1, paceMost)
	part := 1 / float64(min(over, p.n-1))
	off := took - p.interval
	p.interval += off * part
	if p.interval > 0 {
		p.spread += (off*off/(p.interval*p.interval) - p.spread) * part
	}
}

// stillSince reports whether nobody was granted a slot since then, though people wait and usually many would have been.
func (p *pace) stillSince(then int64) bool {
	return p.since != 0 && p.since < then && (!p.known() || p.interval*stillAfter < float64(floodWindow))
}

const stillAfter = 4 // grants that are missing

// moves reports whether there is a pace, and people have been waiting since then.
func (p *pace) moves() bool { return p.last != 0 && p.known() }

// known reports whether there is a pace.
func (p *pace) known() bool { return p.n > paceFew && p.interval > 0 }
