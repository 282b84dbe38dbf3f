package limiter

import (
	"cmp"
	"time"
)

// bound is how long a request may expect to wait, and the patience from which that follows.
type bound struct {
	wait, patience time.Duration
	source         PatienceSource
}

const (
	// unsure is how many times a patience one may expect to wait where hardly anybody leaves: what is expected may well be wrong by as much.
	unsure = 1.5
	// inFlood is the part of a patience for which one may wait in a flood: whatever is served is served as soon as it can be, and the
	// line does not run dry.
	inFlood = 0.45
	// firstPatience is what is taken for the patience before anybody has left, or has waited for longer.
	firstPatience = 500 * time.Millisecond
	// longWait is the part of the time for which a request is going to hold its slot that it may wait at least, as long as nobody
	// has left.
	longWait = 0.5
)

// boundLocked is how long r may expect to wait.
func (s *Slots) boundLocked(r *Request, now int64) bound {
	b := bound{s.queue.Wait, s.queue.Wait, PatienceUnknown}
	if s.switches.noPatience {
		return b
	}
	own := time.Duration(s.pace[r.lane].interval * float64(s.slotsOfLocked(r.lane))) // as long as each holds a slot while all are taken
	flooded := s.levels[r.Level][r.lane].flood.stands && r.Level != LevelCritical && r.lane == short
	seen := s.leavingLocked(r.Flow)
	if set := s.setPatience(r.Flow); set > 0 {
		b.patience, b.source = set, PatienceSet
	} else if known := seen.patience(now); known > 0 {
		b.patience, b.source = time.Duration(known), PatienceSeen
	}
	if r.Deadline != 0 && !s.switches.noDeadlines && (!flooded || time.Duration(r.Deadline-now) < b.patience) {
		b.patience, b.source = time.Duration(r.Deadline-now), PatienceDeadline
	}
	switch unknown := b.source == PatienceUnknown; {
	case unknown && flooded:
		b.patience = min(max(firstPatience, time.Duration(seen.reached)), b.patience)
		b.wait = max(scale(b.patience, inFlood), scale(own, longWait))
	case unknown:
		b.wait = scale(b.wait, unsure)
		return b
	case flooded:
		b.wait = min(scale(b.patience, inFlood), max(0, b.patience-own))
		b.wait = scale(b.wait, max(0, 1-2*float64(seen.leave))) // if many leave all the same, something takes longer than it seems
	case b.source == PatienceSeen && !seen.goesOn():
		b.wait = scale(min(b.patience, s.queue.Wait), unsure)
		return b
	default:
		b.wait = max(0, b.patience-own)
	}
	b.wait = min(b.wait, s.queue.Wait)
	return b
}

// crowdLocked is what is known of those who may come behind r.
func (s *Slots) crowdLocked(r *Request, now int64) crowd {
	patience, part := cmp.Or(s.setPatience(r.Flow), time.Duration(s.leavingLocked(r.Flow).patience(now))), crowdFits
	if patience == 0 || patience > s.queue.Wait {
		patience, part = s.queue.Wait, crowdMayFit
	}
	p, n := &s.pace[r.lane], s.clients.Load()
	return crowd{s.joined.Load(), n > 0 && (!p.known() || float64(n)*p.interval < part*float64(patience))}
}

// As long as all clients that are connected could be served in turn within that part of their patience, or of Queue.Wait while nobody has left
// so early, it is no flood, whatever they do. The latter is more than one, as the pace is known roughly.
const (
	crowdFits   = 0.8
	crowdMayFit = 1.15
)

func scale(d time.Duration, by float64) time.Duration { return time.Duration(by * float64(d)) }

// staleLocked reports whether r, whose turn it is, has waited for so long in a flood that it would probably be given up while it runs.
func (s *Slots) staleLocked(r *Request, now int64) (Denial, bool) {
	if !s.levels[r.Level][r.lane].flood.stands {
		return Denial{}, false
	}
	b, waited := s.boundLocked(r, now), time.Duration(now-r.entered)
	if b.source != PatienceSeen || waited <= max(scale(b.wait, unsure), leastStale) {
		return Denial{}, false
	}
	return s.shedLocked(r, waited, b), true
}

// shedLocked is the Denial of r, which waits, or would have to, for longer than it may.
func (s *Slots) shedLocked(r *Request, wait time.Duration, b bound) Denial {
	return Denial{
		Err: ErrShed, Expected: wait, Limit: b.wait, Patience: b.patience, Source: b.source, Ahead: s.waiting,
		RetryAfter: s.retryAfter(r, wait),
	}
}

// leastStale is a wait for which nobody is too late.
const leastStale = 5 * time.Millisecond

// leavingLocked is what is seen of a flow's patience, or of that of all while there is too little.
func (s *Slots) leavingLocked(f *Flow) *leaving {
	if f.leaving.tells() {
		return &f.leaving
	}
	return &s.leaving
}

// shortenLocked denies, in a flood, those at the ends of the lines of a priority who would have to wait for longer than they may.
func (s *Slots) shortenLocked(v *level, now int64, woken *chain) {
	for i := 0; i < len(v.heap); {
		f := v.heap[i]
		q := &f.lines[v.l][v.n]
		for q.len > 0 && s.waiting > fewWaiting {
			expected, known := s.expectedLocked(q.tail, q)
			b := s.boundLocked(q.tail, now)
			if !known || expected <= b.wait {
				break
			}
			s.denyLocked(q.tail, s.shedLocked(q.tail, expected, b), woken)
		}
		if i < len(v.heap) && v.heap[i] == f { // else another one has its place
			i++
		}
	}
}
