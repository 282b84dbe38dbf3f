package limiter

import "time"

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

const (
	// standingWindow is how long a line is watched before it is judged, standingWindows how many in a row must be bad.
	standingWindow  = int64(50 * time.Millisecond)
	standingWindows = 2
	// standingWait is how long a request that joins a standing line may expect to wait, or standingPart of the time for which
	// it is going to hold its slot, if that is longer. Long enough that the line does not run dry between two arrivals, short
	// enough that whoever is served still wants it.
	standingWait = 25 * time.Millisecond
	standingPart = 0.5
	// criticalWaits is how many times as long the critical may wait, so that even what arrives unevenly is not refused when it
	// is less than can be done. The line is short: others are refused first.
	criticalWaits = 6
)

// line are the requests of one flow, priority and lane that wait. It stands when it was never empty, and more arrived than
// were served, for standingWindows in a row: a burst that is being worked off does not make it stand, because hardly anyone
// arrives behind it. It stands until it has been empty, and no more arrived than were served: one that is kept short is empty
// for a moment by chance.
type line struct {
	fifo
	since     int64 // the window began
	arrivals  int   // in the window
	grants    int   // in the window
	wasEmpty  bool  // in the window
	bad       int   // windows in a row
	standing  bool
	arrivedBy float64 // arrivals for each grant, lately, while it stands
}

// roll judges the windows that are over and reports whether the line stands since just now.
func (q *line) roll(now int64) (stands bool) {
	passed := (now - q.since) / standingWindow
	if passed < 1 {
		return false
	}
	before := q.standing
	switch quiet := passed > 1+standingWindows; {
	case quiet, q.wasEmpty && q.arrivals <= q.grants:
		q.standing, q.bad = false, 0
	case q.wasEmpty, q.arrivals <= q.grants:
		q.bad = 0
	default:
		q.bad++
		q.standing = q.standing || q.bad >= standingWindows
	}
	if q.standing {
		q.arrivedBy = float64(q.arrivals) / float64(max(q.grants, 1))
	}
	q.since += passed * standingWindow
	q.arrivals, q.grants = 0, 0
	q.wasEmpty = q.len == 0
	return q.standing && !before
}

// empty notes that nobody waits any more.
func (q *line) empty() { q.wasEmpty, q.bad = true, 0 }
