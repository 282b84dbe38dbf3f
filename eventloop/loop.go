package eventloop

import (
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// ScratchSize is the length of the buffer that a loop lends to its handlers, in bytes.
const ScratchSize = 64 << 10

// The Go runtime's monitor thread takes the processor of a goroutine that has not been scheduled anew for 10 ms, and as long
// as it finds one it looks every 20 µs, which costs more than a proxy does. So a loop has itself scheduled anew
// (runtime.Gosched) more often than that, and for restless after its last work it does not block for longer either. A
// loop whose waits have lately been shorter than often sets no timer for that: work will come in time.
const (
	yieldEvery = 8 * time.Millisecond
	restless   = 100 * time.Millisecond
	often      = time.Millisecond
	longTurn   = 2 * time.Millisecond // see Late
	longGap    = 8 * time.Millisecond // longer waits count as this, so that a rest is soon forgotten
)

// Task is work to be done on a loop's goroutine. Pointers to the owners of state implement it, so that posting one
// allocates nothing.
type Task interface{ Run() }

// TaskFunc makes a Task of a function.
type TaskFunc func()

// Run calls f.
func (f TaskFunc) Run() { f() }

// Group is a set of loops and the table of the sockets they watch.
type Group struct {
	loops   []*Loop
	table   table
	next    atomic.Uint32
	running sync.WaitGroup

	panicked atomic.Pointer[func(any, []byte)]
}

// NewGroup makes n loops and starts them; Close stops them.
func NewGroup(n int) (*Group, error) {
	g := &Group{}
	for range max(n, 1) {
		l := &Loop{group: g, Scratch: make([]byte, ScratchSize)}
		if err := l.poller.open(); err != nil {
			g.Close()
			return nil, err
		}
		l.now = monotonic()
		l.timers.start(l.now)
		g.loops = append(g.loops, l)
	}
	for _, l := range g.loops {
		g.running.Go(l.run)
	}
	return g, nil
}

// OnPanic has f called, on the loop, when a handler or a task has panicked, ahead of its owner, see [Owner]. Without it the panic is
// forgotten.
func (g *Group) OnPanic(f func(value any, stack []byte)) { g.panicked.Store(&f) }

// Owner is a handler or a task that can be given up when it has panicked: what it belongs to is in no state to go on, and others are not
// to suffer for it. Fault is called once, on the loop.
type Owner interface{ Fault() }

// Next returns the loops in turn.
func (g *Group) Next() *Loop {
	return g.loops[int(g.next.Add(1))%len(g.loops)]
}

// Loops returns all loops.
func (g *Group) Loops() []*Loop { return g.loops }

// Close stops the loops and waits for them. Sockets that are still watched stay open: they are their owners'.
func (g *Group) Close() {
	for _, l := range g.loops {
		l.Post(TaskFunc(func() { l.stopped = true }))
	}
	g.running.Wait()
	for _, l := range g.loops {
		l.poller.close()
	}
}

// Loop is one goroutine that serves the sockets added to it.
type Loop struct {
	// Scratch is lent to handlers for the duration of one call. Nothing in it survives the call.
	Scratch []byte

	group   *Group
	poller  poller
	timers  wheel
	now     int64 // monotonic nanoseconds, taken once per wake-up
	stopped bool

	gap     int64    // nanoseconds between wake-ups lately, work included
	worked  int64    // when a socket was last ready, by now
	yielded int64    // when the loop was last scheduled anew, by now
	fibers  []*Fiber // without a job
	busy    any      // the Handler or Task that is being called; nil: none

	sleeping atomic.Bool // true while the loop is, or is about to be, blocked
	mu       sync.Mutex  // guards posted
	posted   []Task
	tasks    []Task // the slice last taken from posted, kept for its capacity
	task     int    // the one of them that is next
}

// Now is the loop's idea of the present: monotonic nanoseconds, taken when the loop last woke up.
func (l *Loop) Now() int64 { return l.now }

// Late reports whether it is long since the loop woke up, so that others should have their turn. It asks the clock.
func (l *Loop) Late() bool { return monotonic()-l.now > int64(longTurn) }

// Post has t run on the loop's goroutine, soon. Safe for any goroutine, the loop's own included.
func (l *Loop) Post(t Task) {
	l.mu.Lock()
	l.posted = append(l.posted, t)
	l.mu.Unlock()
	if l.sleeping.Swap(false) {
		l.poller.wake()
	}
}

// Arm has t fire after d, once; a timer that was armed is moved. On the loop's goroutine only.
func (l *Loop) Arm(t *Timer, d time.Duration, task Task) {
	t.task = task
	l.timers.arm(t, l.now+int64(d))
}

// Disarm makes sure that t does not fire. On the loop's goroutine only.
func (l *Loop) Disarm(t *Timer) { l.timers.disarm(t) }

func (l *Loop) run() {
	for !l.stopped {
		l.work()
	}
	for _, f := range l.fibers {
		f.stop()
	}
}

// work serves until the loop is stopped, or a handler or task has panicked. What the others were to be told then is still to be told.
func (l *Loop) work() {
	defer l.survive()
	for !l.stopped {
		if !l.poller.found() && l.task == len(l.tasks) {
			l.wait()
			l.woke()
			l.timers.skip(l.now)
			if l.poller.n > 0 {
				l.worked = l.now
			}
		}
		l.poller.dispatch(l)
		l.runPosted()
		l.timers.advance(l.now)
		if l.now-l.yielded >= int64(yieldEvery) {
			runtime.Gosched()
			l.yielded = l.now
		}
	}
}

// survive ends a panic with whom it has come from.
func (l *Loop) survive() {
	value := recover()
	if value == nil {
		return
	}
	culprit := l.busy
	if t := l.timers.firing; t != nil {
		culprit = t
	}
	l.busy, l.timers.firing = nil, nil
	if f := l.group.panicked.Load(); f != nil {
		(*f)(value, debug.Stack())
	}
	if o, ok := culprit.(Owner); ok {
		defer func() {
			if again := recover(); again != nil {
				if f := l.group.panicked.Load(); f != nil {
					(*f)(again, debug.Stack())
				}
			}
		}()
		o.Fault()
	}
}

// wait blocks until a socket is ready, a task is posted or a timer is due, or a little shorter.
func (l *Loop) wait() {
	l.sleeping.Store(true)
	defer l.sleeping.Store(false)
	timeout := l.timers.untilNext(l.now)
	if l.hasPosted() { // posted before sleeping was set: nobody would wake us
		timeout = 0
	}
	limit := time.Duration(forever)
	if l.now-l.worked < int64(restless) && l.gap > int64(often) {
		limit = max(time.Millisecond, yieldEvery-time.Duration(l.now-l.yielded))
	}
	l.poller.wait(shorter(timeout, limit))
}

// shorter is the shorter of two timeouts; negative ones are forever.
func shorter(a, b time.Duration) time.Duration {
	if a < 0 || b >= 0 && b < a {
		return b
	}
	return a
}

// woke takes the time after a wait and notes how long it was: gap is the average of the last waits, each weighing an eighth.
func (l *Loop) woke() {
	before := l.now
	l.now = monotonic()
	l.gap += (min(l.now-before, int64(longGap)) - l.gap) / 8
}

func (l *Loop) hasPosted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.posted) > 0
}

// runPosted runs what was posted before it was called; what these tasks post runs on the next round, after the sockets
// that became ready meanwhile.
func (l *Loop) runPosted() {
	if l.task == len(l.tasks) {
		l.mu.Lock()
		l.tasks, l.posted = l.posted, l.tasks[:0]
		l.mu.Unlock()
		l.task = 0
	}
	for l.task < len(l.tasks) {
		t := l.tasks[l.task]
		l.tasks[l.task] = nil
		l.task++
		l.busy = t
		t.Run()
	}
	l.busy = nil
}

var epoch = time.Now()

// monotonic returns nanoseconds that never go back.
func monotonic() int64 { return int64(time.Since(epoch)) }
