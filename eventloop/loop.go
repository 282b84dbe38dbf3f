package eventloop

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// ScratchSize is the length of the buffer that a loop lends to its handlers, in bytes.
const ScratchSize = 64 << 10

// yieldEvery is how long a busy loop runs before it offers its processor to other goroutines. A loop that never blocks
// would be preempted by signal every 10 ms, which costs more.
const yieldEvery = 2 * time.Millisecond

// A loop that has just had work waits for more without telling the Go scheduler, for up to shortWait: that saves a hand-over
// of its processor to another thread and back, which costs about as much as relaying a message. Meanwhile the processor
// can do nothing else, and whatever stops the world waits for it; therefore the wait is short, and there is none while
// other goroutines have work of ours to do ([Group.Begin]).
const (
	shortWait = 500 * time.Microsecond
	patience  = 6 // short waits in a row that find nothing, before the scheduler is told
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
	others  atomic.Int64 // goroutines at work between Begin and End
	running sync.WaitGroup
}

// Begin says that a goroutine outside the loops begins to work, on a login say, and that the loops should leave it as much
// of the processors as they can.
func (g *Group) Begin() { g.others.Add(1) }

// End says that it has finished.
func (g *Group) End() { g.others.Add(-1) }

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

	fruitless int      // waits in a row that found nothing
	fibers    []*Fiber // without a job

	sleeping atomic.Bool // true while the loop is, or is about to be, blocked
	mu       sync.Mutex  // guards posted
	posted   []Task
	tasks    []Task // the slice last taken from posted, kept for its capacity
}

// Now is the loop's idea of the present: monotonic nanoseconds, taken when the loop last woke up.
func (l *Loop) Now() int64 { return l.now }

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
	yielded := l.now
	for !l.stopped {
		blocked := l.wait()
		l.now = monotonic()
		l.timers.skip(l.now)
		l.poller.dispatch(l)
		l.runPosted()
		l.timers.advance(l.now)
		switch {
		case blocked:
			yielded = l.now
		case l.now-yielded > int64(yieldEvery):
			runtime.Gosched()
			yielded = l.now
		}
	}
	for _, f := range l.fibers {
		f.stop()
	}
}

// wait blocks until a socket is ready, a task is posted or a timer is due, and reports whether the scheduler could use the
// time for other goroutines.
func (l *Loop) wait() (blocked bool) {
	l.sleeping.Store(true)
	defer l.sleeping.Store(false)
	timeout := l.timers.untilNext(l.now)
	if l.hasPosted() { // posted before sleeping was set: nobody would wake us
		timeout = 0
	}
	if timeout == 0 || l.fruitless < patience && l.group.others.Load() == 0 {
		short := shortWait
		if timeout >= 0 {
			short = min(short, timeout)
		}
		l.poller.waitShort(short)
		l.noteWait()
		return false
	}
	l.poller.wait(timeout)
	l.noteWait()
	return true
}

// noteWait counts the waits in a row that found nothing.
func (l *Loop) noteWait() {
	if l.poller.n > 0 {
		l.fruitless = 0
	} else {
		l.fruitless++
	}
}

func (l *Loop) hasPosted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.posted) > 0
}

// runPosted runs what was posted before it was called; what these tasks post runs on the next round, after the sockets
// that became ready meanwhile.
func (l *Loop) runPosted() {
	l.mu.Lock()
	l.tasks, l.posted = l.posted, l.tasks[:0]
	l.mu.Unlock()
	for i, t := range l.tasks {
		l.tasks[i] = nil
		t.Run()
	}
}

var epoch = time.Now()

// monotonic returns nanoseconds that never go back.
func monotonic() int64 { return int64(time.Since(epoch)) }
