//go:build !race

package limiter_test

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/weirproxy/weir/limiter"
)

// world is a simulated resource with weir's slots in front of it, in virtual time: an event after the other, nothing sleeps.
// The database shares its processors evenly among all that runs (processor sharing), as a server with CPU-bound queries does.
type world struct {
	rng   *rand.Rand
	now   int64
	slots *limiter.Slots

	cores   float64
	rubs    float64     // the part of its speed that the database loses by each query that has no processor to itself
	inside  []*function // what the database works on
	events  []event     // a heap by time
	counter int
	free    int // kept connections that are free; negative: as many as wanted
	pending []*function
	kinds   []*kind
	horizon int64
	limits  []int // the limit, every 100 ms

	judges    bool        // refusals; see regretted
	slotCount int         // where it is told
	waiting   []*function // for a slot, in order of arrival
	idlers    []*function // who hold one and do nothing
	stalls    []stall     // in which the database does nothing; see hold
	locks     []*function // of a kind that locks, in order: the first one has the lock
}

// stall is a time in which the database does nothing.
type stall struct{ from, to int64 }

type event struct {
	at   int64
	turn int
	do   func()
}

// kind is one sort of function.
type kind struct {
	name     string
	flow     *limiter.Flow
	level    limiter.Level
	class    limiter.Fingerprint
	perSec   func(now int64) float64
	work     func(*rand.Rand) time.Duration                 // of processor time
	sleep    time.Duration                                  // of time in the database without it
	deadline time.Duration                                  // after which it is gone
	patience func(*rand.Rand) time.Duration                 // the same, one by one; nil: deadline
	tells    bool                                           // what its deadline is
	retries  func(limiter.Denial, *rand.Rand) time.Duration // when it asks again after a denial; nil: never
	clients  int                                            // of them each asks anew when it has its answer, and then none arrives otherwise
	think    func(*rand.Rand) time.Duration                 // before it does; nil: at once
	locks    bool                                           // all of them the same row, while the database works for them
	idle     func(*rand.Rand) time.Duration                 // for which it holds its slot doing nothing, before it is done; nil: not at all

	outcomes []outcome
	regrets  int // refusals of functions that would have been served in time
}

// outcome is what became of a function.
type outcome struct {
	end               ending
	arrived, sent, at int64
	started           int64         // in the database
	worked            time.Duration // of the database for it
	entries           int           // times it asked
}

type ending uint8

const (
	good   ending = iota
	late          // it was gone before it had an answer
	denied        // and it did not ask again
)

// function is one of a kind on its way. It is its own Waker.
type function struct {
	limiter.Request
	w       *world
	kind    *kind
	arrived int64
	sent    int64 // to weir
	left    float64
	started int64
	wakes   int64 // when it has slept enough
	work    time.Duration
	until   int64 // its deadline
	entries int
	asked   bool // weir, and has had no answer yet, or runs
	gone    bool
	done    bool
}

func newWorld(seed uint64, cores float64, slots *limiter.Slots) *world {
	return &world{rng: rand.New(rand.NewPCG(seed, 7)), cores: cores, slots: slots, free: -1}
}

func (w *world) at(t int64, do func()) {
	w.counter++
	w.events = append(w.events, event{t, w.counter, do})
	for i := len(w.events) - 1; i > 0; {
		p := (i - 1) / 2
		if !w.before(i, p) {
			break
		}
		w.events[i], w.events[p] = w.events[p], w.events[i]
		i = p
	}
}

func (w *world) before(i, j int) bool {
	return cmp.Or(cmp.Compare(w.events[i].at, w.events[j].at), cmp.Compare(w.events[i].turn, w.events[j].turn)) < 0
}

func (w *world) pop() event {
	first, last := w.events[0], len(w.events)-1
	w.events[0] = w.events[last]
	w.events[last] = event{}
	w.events = w.events[:last]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < last; c++ {
			if w.before(c, least) {
				least = c
			}
		}
		if least == i {
			return first
		}
		w.events[i], w.events[least] = w.events[least], w.events[i]
		i = least
	}
}

// run lets functions arrive until the end, and drains.
func (w *world) run(end time.Duration) {
	w.horizon = int64(end)
	for range w.free {
		w.slots.Join()
	}
	for _, k := range w.kinds {
		for range k.clients {
			w.slots.Join()
		}
		for range k.clients {
			w.launch(k)
		}
		if k.clients == 0 {
			w.arrive(k)
		}
	}
	for t := int64(0); t < w.horizon; t += int64(100 * time.Millisecond) {
		w.at(t, func() { w.limits = append(w.limits, w.slots.Limit()) })
	}
	for {
		next, finishing := w.nextFinish()
		if len(w.events) > 0 && (finishing == nil || w.events[0].at <= next) {
			e := w.pop()
			w.pass(e.at)
			e.do()
			continue
		}
		if finishing == nil {
			return
		}
		w.pass(next)
		if w.now >= finishing.wakes {
			w.finish(finishing)
		}
	}
}

func (w *world) speed() float64 {
	running := 0
	for _, f := range w.inside {
		if f.left > 0 {
			running++
		}
	}
	each := min(1, w.cores/float64(max(running, 1)))
	return each / (1 + w.rubs*max(0, float64(running)-w.cores))
}

// pass lets the database work until then.
func (w *world) pass(then int64) {
	each := float64(then-w.now) * w.speed()
	for _, f := range w.inside {
		if f.left > 0 {
			f.left = max(f.left-each, 0)
		}
	}
	w.now = then
}

// nextFinish is who is through with its processor time first, and when.
func (w *world) nextFinish() (int64, *function) {
	var first *function
	for _, f := range w.inside {
		if (f.left > 0 || w.now >= f.wakes) && (first == nil || f.left < first.left) {
			first = f
		}
	}
	if first == nil || first.left > 0 && w.cores == 0 {
		return 0, nil
	}
	return w.now + int64(math.Ceil(first.left/w.speed())), first
}

func (w *world) arrive(k *kind) {
	perSec := k.perSec(w.now)
	if perSec <= 0 {
		if w.now < w.horizon {
			w.at(w.now+int64(10*time.Millisecond), func() { w.arrive(k) })
		}
		return
	}
	next := w.now + int64(w.rng.ExpFloat64()/perSec*float64(time.Second))
	if next >= w.horizon {
		return
	}
	w.at(next, func() {
		w.launch(k)
		w.arrive(k)
	})
}

func (w *world) launch(k *kind) {
	f := &function{w: w, kind: k, arrived: w.now, work: k.work(w.rng)}
	patience := k.deadline
	if k.patience != nil {
		patience = k.patience(w.rng)
	}
	f.until = w.now + int64(patience)
	w.at(f.until, f.giveUp)
	f.connect()
}

// connect takes a kept connection, or waits for one.
func (f *function) connect() {
	if f.w.free == 0 {
		f.w.pending = append(f.w.pending, f)
		return
	}
	f.send()
}

// send is the function's transaction on its way through weir.
func (f *function) send() {
	w, k := f.w, f.kind
	if w.free < 0 && k.clients == 0 { // a connection of its own
		w.slots.Join()
	}
	w.free--
	f.sent = w.now
	f.asked = true
	f.entries++
	f.Request = limiter.Request{Flow: k.flow, Level: k.level, Class: k.class, Waker: f}
	if k.tells {
		f.Deadline = f.until
	}
	switch w.slots.Enter(&f.Request, w.now) {
	case limiter.Granted:
		f.start()
	case limiter.Denied:
		f.denied(f.Denial())
	case limiter.Waiting:
		w.waiting = append(w.waiting, f)
		if wait := w.slots.Wait(f.kind.flow); wait > 0 {
			sent := f.sent
			w.at(w.now+int64(wait), func() { f.waitedOut(sent) })
		}
	}
}

func (f *function) Wake() {
	f.w.waiting = without(f.w.waiting, f)
	f.w.at(f.w.now, func() {
		switch {
		case f.gone && f.Denial().Err == nil:
			f.w.slots.Leave(&f.Request, f.w.now, limiter.Use{})
		case f.gone:
		case f.Denial().Err != nil:
			f.denied(f.Denial())
		default:
			f.start()
		}
	})
}

func (f *function) start() {
	w := f.w
	f.started = w.now
	if f.kind.locks {
		if w.locks = append(w.locks, f); len(w.locks) > 1 {
			return
		}
	}
	f.begin()
}

// begin is when the database works for the function.
func (f *function) begin() {
	w := f.w
	f.left = float64(f.work)
	f.wakes = w.now + int64(f.kind.sleep)
	w.inside = append(w.inside, f)
	w.at(f.wakes, func() {})
}

func (w *world) finish(f *function) {
	w.inside = without(w.inside, f)
	w.unlock(f)
	use := limiter.Use{Took: time.Duration(w.now - f.started)}
	leave := func() {
		w.slots.Leave(&f.Request, w.now, use)
		f.release()
	}
	f.end(good)
	if f.kind.idle == nil {
		leave()
		return
	}
	use.Idle = f.kind.idle(w.rng)
	f.wakes = w.now + int64(use.Idle)
	w.idlers = append(w.idlers, f)
	w.at(f.wakes, func() {
		w.idlers = without(w.idlers, f)
		leave()
	})
}

// unlock lets the next one have the lock that f has, or waits for.
func (w *world) unlock(f *function) {
	had := len(w.locks) > 0 && w.locks[0] == f
	w.locks = without(w.locks, f)
	if had && len(w.locks) > 0 {
		w.locks[0].begin()
	}
}

// hold has the database do nothing for a time.
func (w *world) hold(from, to time.Duration) {
	w.stalls = append(w.stalls, stall{int64(from), int64(to)})
	cores := w.cores
	w.at(int64(from), func() { w.cores = 0 })
	w.at(int64(to), func() { w.cores = cores })
}

// without is some of the functions, without f.
func without(some []*function, f *function) []*function {
	if i := slices.Index(some, f); i >= 0 {
		return slices.Delete(some, i, i+1)
	}
	return some
}

func (f *function) end(e ending) {
	f.done = true
	w, k := f.w, f.kind
	k.outcomes = append(k.outcomes, outcome{e, f.arrived, f.sent, w.now, f.started, f.work, f.entries})
	if k.clients > 0 && w.now < w.horizon {
		pause := time.Microsecond // it takes some time to ask anew
		if k.think != nil {
			pause += k.think(w.rng)
		}
		if e == denied {
			pause += f.Denial().RetryAfter
		}
		w.at(w.now+int64(pause), func() { w.launch(k) })
	}
}

func (f *function) denied(d limiter.Denial) {
	if f.done || f.gone {
		return
	}
	if f.kind.retries == nil {
		if f.w.judges && f.regretted() {
			f.kind.regrets++
		}
		f.end(denied)
	} else {
		f.w.at(f.w.now+int64(f.kind.retries(d, f.w.rng)), func() {
			if !f.gone {
				f.connect()
			}
		})
	}
	f.release()
}

// waitedOut is the end of a wait that began then.
func (f *function) waitedOut(sent int64) {
	if !f.done && !f.gone && f.sent == sent && f.w.slots.Abandon(&f.Request, f.w.now) {
		f.w.waiting = without(f.w.waiting, f)
		f.denied(f.w.slots.TimedOut(&f.Request, f.w.now))
	}
}

// giveUp is the function's end at its deadline. Its connection is gone, a new one takes its place; what the database has
// begun for it is cancelled.
func (f *function) giveUp() {
	w := f.w
	if f.done {
		return
	}
	f.gone = true
	f.end(late)
	w.waiting = without(w.waiting, f)
	if i := slices.Index(w.pending, f); i >= 0 {
		w.pending = slices.Delete(w.pending, i, i+1)
		return
	}
	if inside := slices.Contains(w.inside, f); inside || slices.Contains(w.locks, f) {
		w.inside = without(w.inside, f)
		w.unlock(f)
		w.slots.GiveUp(&f.Request, w.now)
		w.slots.Leave(&f.Request, w.now, limiter.Use{})
		f.release()
	} else if f.asked {
		w.slots.GiveUp(&f.Request, w.now)
		w.slots.Abandon(&f.Request, w.now)
		f.release()
	}
}

// release gives the connection to the next function that wants one.
func (f *function) release() {
	w := f.w
	f.asked = false
	w.free++
	if w.free < 0 && f.kind.clients == 0 {
		w.slots.Part()
	}
	if len(w.pending) > 0 {
		next := w.pending[0]
		w.pending = w.pending[1:]
		next.send()
	}
}

// tally is the sum of outcomes.
type tally struct {
	offered, good, late, denied int
	latency, refusal            []time.Duration
	worked                      time.Duration // for the good ones
	entries                     int
}

// arrived is what became of those who came between the two times.
func (k *kind) arrived(from, to time.Duration) tally {
	return k.tally(func(o outcome) bool { return o.arrived >= int64(from) && o.arrived < int64(to) })
}

// ended is what became of those whose end was between the two times.
func (k *kind) ended(from, to time.Duration) tally {
	return k.tally(func(o outcome) bool { return o.at >= int64(from) && o.at < int64(to) })
}

func (k *kind) tally(counts func(outcome) bool) (t tally) {
	for _, o := range k.outcomes {
		if !counts(o) {
			continue
		}
		t.offered++
		t.entries += o.entries
		switch o.end {
		case good:
			t.good++
			t.worked += o.worked
			t.latency = append(t.latency, time.Duration(o.at-o.arrived))
		case late:
			t.late++
		case denied:
			t.denied++
			t.refusal = append(t.refusal, time.Duration(o.at-o.sent))
		}
	}
	return t
}

// kept is the part of them that had an answer in time.
func (t tally) kept() float64 { return float64(t.good) / float64(max(t.offered, 1)) }

func percentile(d []time.Duration, p float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

func steady(perSec float64) func(int64) float64 { return func(int64) float64 { return perSec } }

func between(least, most time.Duration) func(*rand.Rand) time.Duration {
	return func(rng *rand.Rand) time.Duration { return least + time.Duration(rng.Int64N(int64(most-least))) }
}

// oltp is a function with a query of 3 to 5 ms of processor time and a deadline of a second, of which a core does 250 a second.
func oltp(perSec func(int64) float64) *kind {
	return &kind{
		name: "oltp", flow: limiter.NewFlow(1, 0), level: limiter.LevelNormal, class: 1, perSec: perSec,
		work: between(3*time.Millisecond, 5*time.Millisecond), deadline: time.Second,
	}
}

// unbounded connections are kept.
const unbounded = -1

const capacity = 250.0
