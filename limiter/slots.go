package limiter

import (
	"cmp"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// What a transaction that gets no slot is told. Each is a rule of [Slots].
var (
	ErrQueueFull    = errors.New("too many clients are waiting")
	ErrQueueTimeout = errors.New("waited too long for a slot")
	ErrDeadline     = errors.New("could not finish before its deadline")
	ErrConnections  = errors.New("as many of the caller's transactions are running as may") // in shadow mode; else they wait
	ErrShed         = errors.New("the database is at capacity")
)

// Verdict is what becomes of a Request at once.
type Verdict uint8

// The verdicts.
const (
	Granted Verdict = iota // it has a slot, until [Slots.Leave]
	Waiting                // its Waker is going to be told
	Denied                 // why: [Request.Denial]
)

// Waker is told, once, that a Request no longer waits: it has a slot, or is denied one. No lock is held.
type Waker interface{ Wake() }

// Denial is why a Request got no slot, with the numbers that decided.
type Denial struct {
	Err        error         // one of the errors above, or what [Slots.Refuse] was given; nil: not denied
	Expected   time.Duration // the wait that was to be expected, the transaction's own time included for ErrDeadline
	Limit      time.Duration // the wait, or the time, there was
	Patience   time.Duration // how long it was taken to be wanted, where that decided
	Source     PatienceSource
	Ahead      int           // requests waiting
	RetryAfter time.Duration // when the queue is likely to have room
	Shadow     bool          // it was let pass all the same
}

// Request is one transaction that asks for a slot. It is part of the asker's struct, who fills in the exported fields before
// [Slots.Enter] and leaves it alone until the slot is given back, or the wait is over without one.
type Request struct {
	Flow     *Flow
	Level    Level
	Class    Fingerprint // of its first statement; 0: not known
	Deadline int64       // monotonic nanoseconds when nobody wants the answer any more; 0: not said
	Waker    Waker

	atOnce     Denial // as Enter left it
	denial     Denial
	state      state
	lane       lane
	came       lane // the one it came by; it may have been called long since
	class      *class
	entered    int64
	granted    int64
	gaveUp     bool
	charge     float64  // nanoseconds for which it is going to hold a slot, as its like does; charged to the flow when it starts
	next, prev *Request // in its line while it waits, in Slots.running while it runs in the short lane
	woken      *Request // the next one to be told
}

// Denial is why there is no slot. When there is one its Err is nil, or it says why there would be none if the mode of the
// queue were another: it is Shadow.
func (r *Request) Denial() Denial { return r.denial }

// AtOnce says why [Slots.Enter] has denied the request, or would have in mode shadow. It holds while the request waits, too.
func (r *Request) AtOnce() Denial { return r.atOnce }

type state uint8

const (
	outside state = iota
	waiting
	running
	keeping // has no slot, but the server connection that goes with one
	refused
)

// Slots are the rights to run a transaction on one resource, and the queue for them.
//
// There are never more than the budget of server connections, and no more than the adaptive limit. Who waits is served by
// priority first, with a trickle for the lowest; within a priority the flow that has used the least server time for its
// weight; within a flow in order of arrival. Statements known to take long have at most a part of the slots while others
// want them.
//
// A request is refused when it enters, not after a wait in vain, wherever that can be foreseen: when it could not be answered while it is
// wanted, as its deadline says, or its patience, which is set or seen of those who hang up; and, while more arrive than can be served, when
// it would have to wait for so long that others are not answered in time. As long as nobody leaves, and no more arrive than are served, it
// may wait for as long as Queue.Wait allows.
//
// All methods are safe for concurrent use. Time is given by the caller, in monotonic nanoseconds.
type Slots struct {
	clients atomic.Int64 // that are connected
	joined  atomic.Int64 // that were, ever

	queue  Queue
	budget int
	length int // waiting requests

	mu       sync.Mutex // guards what follows; never held while a Waker is told
	now      int64      // the latest that was heard of
	limit    int
	running  [lanes]int
	kept     int
	quick    fifo // those that run in the short lane, in the order of their start
	waiting  int
	levels   [levelCount][lanes]level
	turns    int            // grants since a lower priority had its turn
	lower    int            // the one that had it last
	hold     [lanes]average // how long slots are held
	pace     [lanes]pace
	leaving  leaving // of all flows
	demand   usual   // slots that short statements used or waited for lately
	asked    int64   // when one came last
	lending  lending
	classes  classes
	window   window
	adaptive adaptive
	closed   error

	switches switches
}

// switches turn parts off, to show in simulations what each is good for.
type switches struct {
	noFairness, noPatience, noDeadlines, noLanes bool
}

// NewSlots makes the slots of a resource with a budget of that many server connections. queue and adaptive are meant to have
// their defaults.
func NewSlots(budget int, queue Queue, a Adaptive) *Slots {
	s := &Slots{queue: queue, budget: budget, length: queue.Room(budget)}
	for l := range s.levels {
		for n := range s.levels[l] {
			s.levels[l][n].l, s.levels[l][n].n = Level(l), lane(n)
		}
	}
	s.switches.noLanes = budget < longShare
	s.adaptive = newAdaptive(a, budget)
	s.limit = s.adaptive.enforced(budget)
	s.classes.init()
	return s
}

// Enter asks for a slot. It never blocks, and allocates nothing unless the class is new.
func (s *Slots) Enter(r *Request, now int64) Verdict {
	s.mu.Lock()
	now = s.passLocked(now)
	r.class = s.classes.find(r.Class)
	r.lane = s.laneOf(r.class)
	r.entered = now
	if r.lane == short {
		s.noteDemandLocked(now)
	}
	var woken chain
	s.dispatchLocked(now, false, &woken) // there may be more slots than when somebody left
	v := s.enterLocked(r, now, &woken)
	r.atOnce = r.denial // while r waits, others may deny it
	s.mu.Unlock()
	wake(woken.head)
	return v
}

func (s *Slots) enterLocked(r *Request, now int64, woken *chain) Verdict {
	r.denial, r.gaveUp = Denial{}, false
	if s.closed != nil {
		r.denial.Err = s.closed
		return Denied
	}
	if f := r.Flow; f.would > 0 && f.running >= f.would {
		r.denial = Denial{Err: ErrConnections, Ahead: f.running, Shadow: true}
	}
	if s.mayRunLocked(r.lane, r.Flow) { // so nobody who might waits
		if d, late := s.lateLocked(r, now, 0); late && s.refusesLocked(r, d) {
			return Denied
		}
		s.startAnewLocked(r)
		s.grantLocked(r, now)
		return Granted
	}
	line := r.Flow.line(r)
	if s.queue.Mode == Off {
		s.joinLocked(r, line)
		return Waiting
	}
	v := &s.levels[r.Level][r.lane]
	if v.flood.due(now) {
		v.flood.roll(now, v.waiting == 0, &s.pace[r.lane], s.crowdLocked(r, now))
		if v.flood.stands && s.queue.Mode == Enforce {
			s.shortenLocked(v, now, woken)
		}
	}
	v.flood.now.arrivals++
	if d, no := s.turnsAwayLocked(r, line, now, woken); no && s.refusesLocked(r, d) {
		v.flood.now.refused++
		return Denied
	}
	s.joinLocked(r, line)
	return Waiting
}

// refusesLocked notes a denial and reports whether it holds: in shadow mode it does not.
func (s *Slots) refusesLocked(r *Request, d Denial) bool {
	if s.queue.Mode != Off {
		r.denial = d
		r.denial.Shadow = s.queue.Mode == Shadow
	}
	return s.queue.Mode == Enforce
}

// Use is what became of a slot.
type Use struct {
	Took time.Duration // how long the database took for the first statement; 0: that says nothing about it, as it failed or nobody waited for its end
	Idle time.Duration // how long the database waited for the client
}

// Leave gives the slot back that r has, or had kept, and lets others have it.
func (s *Slots) Leave(r *Request, now int64, u Use) {
	s.mu.Lock()
	now = s.passLocked(now)
	switch r.state {
	case running:
		s.stopLocked(r, now, u)
	case keeping:
		s.kept--
		r.state = outside
	}
	s.unlock(now, r.gaveUp)
}

// Abandon takes r out of the queue and reports whether it was there. If it was not, its Waker is or was told, and a slot that
// it got has to be given back.
func (s *Slots) Abandon(r *Request, now int64) bool {
	s.mu.Lock()
	now = s.passLocked(now)
	waited := r.state == waiting
	if waited {
		s.quitLocked(r)
		r.state = outside
	}
	s.unlock(now, false)
	return waited
}

// Join notes that there is one client more, which may ask.
func (s *Slots) Join() {
	s.clients.Add(1)
	s.joined.Add(1)
}

// Part notes that there is one less.
func (s *Slots) Part() { s.clients.Add(-1) }

// GiveUp notes that the client of r has hung up, or cancelled, while it waited for a slot or for the answer to its first statement. It
// is to be followed by Abandon or Leave.
func (s *Slots) GiveUp(r *Request, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now = s.passLocked(now)
	if !r.gaveUp && (r.state == waiting || r.state == running) {
		r.gaveUp = true
		still := s.pace[r.lane].stillSince(now - floodWindow)
		r.Flow.leaving.gaveUp(now-r.entered, now, still)
		s.leaving.gaveUp(now-r.entered, now, still)
		if !still {
			s.levels[r.Level][r.lane].flood.now.left++
		}
	}
}

// Keep has r give its slot back, but keep the server connection that goes with it.
func (s *Slots) Keep(r *Request, now int64, u Use) {
	s.mu.Lock()
	now = s.passLocked(now)
	if r.state == running {
		s.stopLocked(r, now, u)
		r.state = keeping
		s.kept++
	}
	s.unlock(now, false)
}

// Resume gives r, which has kept its server connection, a slot again. It does not wait: the connection is its own, and
// keeping others from it would help nobody.
func (s *Slots) Resume(r *Request, now int64) {
	s.mu.Lock()
	now = s.passLocked(now)
	if r.state == keeping {
		s.kept--
		r.entered, r.gaveUp = now, false
		r.class = s.classes.find(r.Class)
		r.lane = s.laneOf(r.class)
		s.startAnewLocked(r)
		s.grantLocked(r, now)
	}
	s.unlock(now, false)
}

// unlock has others take the slots there are, and tells them. left is as for dispatchLocked.
func (s *Slots) unlock(now int64, left bool) {
	var woken chain
	s.dispatchLocked(now, left, &woken)
	s.mu.Unlock()
	wake(woken.head)
}

// Refuse denies everyone who waits, with err.
func (s *Slots) Refuse(err error, now int64) {
	s.mu.Lock()
	s.passLocked(now)
	var woken chain
	for l := range s.levels {
		for n := range s.levels[l] {
			for v := &s.levels[l][n]; len(v.heap) > 0; {
				s.denyLocked(v.heap[0].lines[l][n].head, Denial{Err: err}, &woken)
			}
		}
	}
	s.mu.Unlock()
	wake(woken.head)
}

// Close denies everyone who waits, and whoever comes later, with err.
func (s *Slots) Close(err error, now int64) {
	s.mu.Lock()
	s.closed = err
	s.mu.Unlock()
	s.Refuse(err, now)
}

// TimedOut is the Denial of a request that gives up, still waiting, because its deadline has come, or because it has waited for as
// long as it may.
func (s *Slots) TimedOut(r *Request, now int64) Denial {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := Denial{Err: ErrQueueTimeout, Expected: time.Duration(now - r.entered), Limit: s.queue.Wait, Ahead: s.waiting, RetryAfter: s.queue.Wait}
	if set := s.setPatience(r.Flow); set > 0 && set < d.Limit {
		d.Limit, d.Patience, d.Source = set, set, PatienceSet
	}
	if r.Deadline != 0 && now >= r.Deadline {
		d.Err, d.Limit = ErrDeadline, time.Duration(r.Deadline-r.entered)
		d.Patience, d.Source = d.Limit, PatienceDeadline
	}
	if p := &s.pace[r.lane]; p.known() {
		d.RetryAfter = s.retryAfter(r, time.Duration(p.interval*float64(s.waiting+1)))
	}
	return d
}

// Wait is the longest a request of a flow may wait, 0 for no bound.
func (s *Slots) Wait(f *Flow) time.Duration {
	if s.queue.Mode != Enforce {
		return 0
	}
	if set := s.setPatience(f); set > 0 {
		return min(set, s.queue.Wait)
	}
	return s.queue.Wait
}

// setPatience is how long the requests of a flow are wanted as it is set; 0: it is not.
func (s *Slots) setPatience(f *Flow) time.Duration {
	return cmp.Or(f.wanted, time.Duration(s.queue.Patience))
}

// passLocked lets time pass. Those who call have clocks that are a moment apart.
func (s *Slots) passLocked(now int64) int64 {
	s.now = max(s.now, now)
	s.window.look(s.crowdedLocked(), s.running[short]+s.running[long] >= s.limit)
	if s.window.due(s.now) {
		v := s.window.end(s.now)
		s.limit = s.adaptive.decide(v, s.now, s.budget)
		s.lending.decide(v, s.running[long]-s.longPart())
	}
	s.callLongLocked(s.now)
	return s.now
}

// crowdedLocked reports whether anyone waits because all slots are taken, and not because long statements may not have more,
// or still hold those they were lent.
func (s *Slots) crowdedLocked() bool {
	if s.waiting == 0 {
		return false
	}
	n := s.tellingLocked()
	if n == short && s.running[long] > s.longPart() {
		return false
	}
	return s.waitsLocked(n)
}

// mayRunLocked reports whether one more may run now in a lane.
func (s *Slots) mayRunLocked(n lane, f *Flow) bool {
	all := s.running[short] + s.running[long]
	return all < s.limit && all+s.kept < s.budget && (f == nil || f.most == 0 || f.running < f.most) &&
		(n == short || s.running[long] < s.longSlotsLocked())
}

// lastSlotLocked reports whether there is one slot left for a lane, and no more.
func (s *Slots) lastSlotLocked(n lane) bool {
	all := s.running[short] + s.running[long] + 1
	return all >= s.limit || all+s.kept >= s.budget || n == long && s.running[long]+1 >= s.longSlotsLocked()
}

// waitsLocked reports whether anyone waits in a lane.
func (s *Slots) waitsLocked(n lane) bool {
	for l := range s.levels {
		if s.levels[l][n].waiting > 0 {
			return true
		}
	}
	return false
}

// grantLocked gives r a slot.
func (s *Slots) grantLocked(r *Request, now int64) {
	r.state = running
	r.granted = now
	s.running[r.lane]++
	r.came = r.lane
	r.Flow.running++
	r.class.enter(1)
	if r.lane == short {
		s.quick.push(r)
	}
	v := &s.levels[r.Level][r.lane]
	v.served.note(now)
	v.virtual = max(v.virtual, r.Flow.virtual[r.Level])
	r.charge = s.usualLocked(r.Flow, r.lane)
	r.Flow.use(r.Level, r.charge)
	s.reorderLocked(r.Flow)
}

// startAnewLocked lets a flow begin, or go on, that nobody waits for: it has not saved up the time it rested.
func (s *Slots) startAnewLocked(r *Request) {
	if r.Flow.line(r).len == 0 {
		own := &r.Flow.virtual[r.Level]
		*own = max(*own, s.levels[r.Level][r.lane].virtual)
	}
}

// stopLocked takes r's slot away and settles what the flow is charged.
func (s *Slots) stopLocked(r *Request, now int64, u Use) {
	held, busy, took := float64(now-r.granted), float64(now-r.granted-int64(u.Idle)), u.Took
	calm := s.waiting == 0 && float64(s.running[short]+s.running[long]) <= calmShare*float64(s.limit)
	r.state = outside
	if r.lane == short {
		s.quick.remove(r)
	}
	s.running[r.lane]--
	r.class.enter(-1)
	f := r.Flow
	f.running--
	f.use(r.Level, held-r.charge)
	s.reorderLocked(f)
	if !r.gaveUp {
		s.hold[r.came].note(busy)
		f.hold[r.came].note(busy)
	}
	if took > 0 {
		answered := r.granted - r.entered + int64(took)
		f.leaving.answered(answered, now)
		s.leaving.answered(answered, now)
		r.class.held(busy, now)
		if r.lane == s.tellingLocked() {
			s.window.note(r.class, float64(took), s.adaptive.era)
			r.class.ran(float64(took), calm, now)
		}
	}
}

// calmShare is the part of the slots in use up to which statements are taken not to be in each other's way.
const calmShare = 0.6

// usualLocked is how long a request of a flow usually holds a slot, in nanoseconds.
func (s *Slots) usualLocked(f *Flow, n lane) float64 {
	if f.hold[n].n >= fewSamples {
		return f.hold[n].mean
	}
	return s.meanLocked(n)
}

// meanLocked is how long slots are held on average in a lane; 0: nothing has ended yet.
func (s *Slots) meanLocked(n lane) float64 {
	if n == long && s.hold[long].n == 0 {
		return float64(longAfter)
	}
	return s.hold[n].mean
}

// dispatchLocked hands out the slots there are to those who wait, who are to be woken. left says that one is free because its client has
// left.
func (s *Slots) dispatchLocked(now int64, left bool, woken *chain) {
	for s.waiting > 0 && s.mayRunLocked(short, nil) {
		r := s.nextLocked()
		if r == nil {
			return
		}
		if left && s.pace[r.lane].stillSince(now-leastPause) {
			r = r.Flow.line(r).tail // nothing comes to its end: whoever has come last has the most time for it
		}
		if d, late := s.lateLocked(r, now, 0); late && s.refusesLocked(r, d) {
			s.denyLocked(r, d, woken)
			continue
		}
		if d, stale := s.staleLocked(r, now); stale && s.refusesLocked(r, d) {
			s.levels[r.Level][r.lane].flood.now.refused++
			s.denyLocked(r, d, woken)
			continue
		}
		if s.turns++; s.turns >= trickle {
			s.turns = 0
		}
		line := r.Flow.line(r)
		switch p := &s.pace[r.lane]; {
		case !s.lastSlotLocked(r.lane):
			p.rest()
			line.pace.rest()
		case !left: // else the database has done nothing
			p.granted(s.waiting, now)
			line.pace.granted(line.len, now)
		}
		s.levels[r.Level][r.lane].flood.now.grants++
		s.quitLocked(r)
		s.grantLocked(r, now)
		woken.add(r)
	}
}

// trickle is how many grants go to the highest priority that waits before one goes to a lower one, each of them in turn.
const trickle = 16

// nextLocked is the request to be served next, of those that may be; nil: there is none. It stays where it is.
func (s *Slots) nextLocked() *Request {
	if s.turns == trickle-1 {
		for range levelCount - 1 {
			if s.lower--; s.lower < 1 {
				s.lower = levelCount - 1
			}
			if r := s.frontLocked(s.lower); r != nil {
				return r
			}
		}
	}
	for l := range levelCount {
		if r := s.frontLocked(l); r != nil {
			return r
		}
	}
	return nil
}

// frontLocked is the first request of a priority: of the flow that has used least, in whichever lane may be served.
func (s *Slots) frontLocked(l int) *Request {
	var best *Flow
	in := short
	for n := range lanes {
		if !s.mayRunLocked(n, nil) {
			continue
		}
		f := s.levels[l][n].first()
		switch {
		case f == nil:
		case best == nil, f.virtual[l] < best.virtual[l], f == best && f.lines[l][n].head.entered < f.lines[l][in].head.entered:
			best, in = f, n
		}
	}
	if best == nil {
		return nil
	}
	return best.lines[l][in].head
}

// joinLocked puts r at the end of its line.
func (s *Slots) joinLocked(r *Request, line *line) {
	r.state = waiting
	s.startAnewLocked(r)
	line.push(r)
	s.waiting++
	s.pace[r.lane].begin(r.entered)
	v := &s.levels[r.Level][r.lane]
	v.waiting++
	if line.len == 1 {
		v.activate(r.Flow)
		s.reorderLocked(r.Flow)
	}
}

// quitLocked takes r out of its line.
func (s *Slots) quitLocked(r *Request) {
	line := r.Flow.line(r)
	line.remove(r)
	s.waiting--
	v := &s.levels[r.Level][r.lane]
	v.waiting--
	if v.waiting == 0 {
		v.flood.now.empty = true
		if !s.waitsLocked(r.lane) {
			s.pace[r.lane].rest()
		}
	}
	if line.len == 0 {
		line.pace.rest()
		v.deactivate(r.Flow)
	} else if v.arrival {
		v.reorder(r.Flow)
	}
}

// denyLocked ends r's wait without a slot.
func (s *Slots) denyLocked(r *Request, d Denial, woken *chain) {
	s.quitLocked(r)
	r.state = refused
	r.denial = d
	woken.add(r)
}

// reorderLocked puts a flow, whose virtual time has changed or which may now have more slots or no more, at its place.
func (s *Slots) reorderLocked(f *Flow) {
	for l := range s.levels {
		for n := range s.levels[l] {
			s.levels[l][n].reorder(f)
		}
	}
}

// chain are requests to be woken, in order.
type chain struct{ head, tail *Request }

func (c *chain) add(r *Request) {
	r.woken = nil
	if c.tail == nil {
		c.head = r
	} else {
		c.tail.woken = r
	}
	c.tail = r
}

// wake tells them. Each is its owner's again as soon as it is told.
func wake(r *Request) {
	for r != nil {
		next := r.woken
		r.woken = nil
		r.Waker.Wake()
		r = next
	}
}

// Limit is how many transactions may run at once now.
func (s *Slots) Limit() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.limit
}

// SlotsStats is what a Slots counts.
type SlotsStats struct {
	Limit   int // transactions that may run at once
	Running int
	Waiting [levelCount]int // by Level
	// Patience is how long transactions are taken to be wanted that say nothing of it and whose caller is not known better.
	Patience time.Duration
}

// Stats says how things are now.
func (s *Slots) Stats() SlotsStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := SlotsStats{Limit: s.limit, Running: s.running[short] + s.running[long], Patience: s.queue.Wait}
	if known := cmp.Or(time.Duration(s.queue.Patience), time.Duration(s.leaving.patience(s.now))); known > 0 {
		out.Patience = known
	}
	for l := range s.levels {
		for n := range s.levels[l] {
			out.Waiting[l] += s.levels[l][n].waiting
		}
	}
	return out
}
