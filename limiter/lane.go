package limiter

import (
	"math"
	"time"
)

// lane separates statements that take long from all others, so that they cannot have every slot.
type lane uint8

const (
	short lane = iota
	long
	lanes
)

// longShare is the part of the slots that long statements may always have: one in so many. Where there are fewer connections than
// that, there are no lanes: a part of them is none, or too much.
const longShare = 4

// laneOf is where requests of a class belong. Once short ones are known, a class that is not may not take all slots either.
func (s *Slots) laneOf(c *class) lane {
	switch {
	case c == nil, s.switches.noLanes:
		return short
	case c.long, c.typical.n < fewSamples && c.running >= s.longPart() && s.hold[short].n >= averageOver:
		return long
	}
	return short
}

// longPart is how many slots long statements may have at least.
func (s *Slots) longPart() int { return max(1, s.limit/longShare) }

// longSlotsLocked is how many slots long statements may have: their part, or what they are lent of what the others have not
// needed lately, except for one, if that is more.
func (s *Slots) longSlotsLocked() int {
	if s.switches.noLanes {
		return s.limit
	}
	part, demand := s.longPart(), s.demand.most(s.now)
	idle := min(s.limit-1, s.limit-int(demand+.5))
	if s.shortsLocked() {
		idle = min(idle, part+int(s.lending.slots))
	}
	return max(part, idle)
}

// shortsLocked reports whether there are short statements.
func (s *Slots) shortsLocked() bool { return s.asked > 0 && s.now-s.asked < shortsLast }

// shortsLast is for how long there are taken to be some after one came, in nanoseconds.
const shortsLast = int64(5 * time.Second)

// noteDemandLocked takes note of how many slots short statements use or wait for.
func (s *Slots) noteDemandLocked(now int64) {
	s.asked = now
	queued := 0
	for l := range s.levels {
		queued += s.levels[l][short].waiting
	}
	s.demand.note(float64(min(s.running[short]+queued+1, s.limit)), now)
}

// tellingLocked is the lane whose statements tell how the database is doing: the short ones, as long as there are any.
func (s *Slots) tellingLocked() lane {
	if s.shortsLocked() {
		return short
	}
	return long
}

// callLongLocked moves statements that have been running for long to the lane where they belong.
func (s *Slots) callLongLocked(now int64) {
	for r := s.quick.head; r != nil && now-r.granted > int64(longAfter) && !s.switches.noLanes; r = s.quick.head {
		s.quick.remove(r)
		s.running[short]--
		r.lane = long
		s.running[long]++
		r.class.runsLong(float64(now-r.granted), now)
	}
}

// lending is how many slots beyond their part long statements may have that short ones do not need. That slots are free does
// not mean that the database has anything left: they are lent one after the other, and fewer when short statements become
// slower than they are when nothing is lent.
type lending struct {
	slots float64
	usual float64 // logarithm of how slow short statements are while nothing is lent
	known bool
}

const (
	lendingUsual = 8   // windows over which that is averaged
	lendMore     = 1.3 // times as slow as usual: up to that more is lent
	lendLess     = 1.6 // and from then on less
)

// decide takes in a window; so many slots were lent when it ended.
func (l *lending) decide(v view, lent int) {
	slow := math.Log(v.slow)
	if lent <= 0 {
		l.slots = max(l.slots-1, 0)
		if v.tells() {
			if !l.known {
				l.usual, l.known = slow, true
			}
			l.usual += (slow - l.usual) / lendingUsual
		}
	}
	switch {
	case v.tells() && slow-l.usual > math.Log(lendLess):
		l.slots /= 2
	case lent >= int(l.slots) && (!v.tells() || slow-l.usual < math.Log(lendMore)):
		l.slots = max(l.slots+1, l.slots*1.5)
	}
}
