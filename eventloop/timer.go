package eventloop

import "time"

// Timer fires a Task on a loop. It is part of the struct whose time it watches; its zero value is ready to be armed.
type Timer struct {
	next, prev *Timer
	at         int64 // monotonic nanoseconds
	task       Task
}

// Armed reports whether the timer is going to fire.
func (t *Timer) Armed() bool { return t.next != nil }

// The wheel has two rings (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987). The fine one has a slot per
// tick; what is further away rests in the coarse one, whose slot is one turn of the fine one, and comes down when its
// turn begins. Arming and disarming are O(1) whatever the number of timers.
const (
	tick      = int64(4 * time.Millisecond)
	slots     = 512
	turn      = tick * slots // about two seconds
	farthest  = turn * (slots - 2)
	immediate = 0
	forever   = -1
)

type wheel struct {
	fine, coarse   [slots]Timer // heads of rings
	nFine, nCoarse int
	done           int64 // ticks before this one have fired
	firing         Task  // the one that is being called; nil: none
}

func (w *wheel) start(now int64) {
	for i := range slots {
		w.fine[i].next, w.fine[i].prev = &w.fine[i], &w.fine[i]
		w.coarse[i].next, w.coarse[i].prev = &w.coarse[i], &w.coarse[i]
	}
	w.done = now / tick
}

func (w *wheel) arm(t *Timer, at int64) {
	w.disarm(t)
	t.at = at
	w.insert(t)
}

func (w *wheel) insert(t *Timer) {
	due := max(t.at/tick+1, w.done) // never early: the first tick that begins after t.at
	if due/slots == w.done/slots {
		link(&w.fine[due%slots], t)
		w.nFine++
		return
	}
	far := min(due/slots, w.done/slots+slots-1) // a timer further away than the ring comes round again
	link(&w.coarse[far%slots], t)
	w.nCoarse++
}

func link(head, t *Timer) {
	t.prev, t.next = head.prev, head
	head.prev.next = t
	head.prev = t
}

func (w *wheel) disarm(t *Timer) {
	if t.next == nil {
		return
	}
	if w.isFine(t) {
		w.nFine--
	} else {
		w.nCoarse--
	}
	unlink(t)
}

func unlink(t *Timer) {
	t.prev.next, t.next.prev = t.next, t.prev
	t.next, t.prev = nil, nil
}

// isFine tells the ring of an armed timer by the rule that insert followed: the turn it is due in has begun.
func (w *wheel) isFine(t *Timer) bool {
	return max(t.at/tick+1, 0)/slots <= w.done/slots
}

// skip passes over the time in which nothing was armed, so that what is armed next need not.
func (w *wheel) skip(now int64) {
	if w.nFine == 0 && w.nCoarse == 0 {
		w.done = max(w.done, now/tick)
	}
}

// advance fires what is due at now.
func (w *wheel) advance(now int64) {
	w.skip(now)
	end := now / tick
	if w.nFine == 0 && w.nCoarse == 0 {
		return
	}
	for w.done <= end {
		head := &w.fine[w.done%slots]
		for t := head.next; t != head; t = head.next {
			unlink(t)
			w.nFine--
			w.firing = t.task
			t.task.Run()
		}
		w.firing = nil
		w.done++
		if w.done%slots == 0 {
			w.bringDown()
		}
	}
}

// bringDown moves the timers of the turn that begins from the coarse ring to the fine one.
func (w *wheel) bringDown() {
	head := &w.coarse[w.done/slots%slots]
	for t, n := head.next, w.nCoarse; t != head && n > 0; t, n = head.next, n-1 {
		unlink(t)
		w.nCoarse--
		w.insert(t)
	}
}

// untilNext returns how long nothing will fire: forever when nothing is armed.
func (w *wheel) untilNext(now int64) time.Duration {
	if w.nFine > 0 {
		for i := w.done; i < (w.done/slots+1)*slots; i++ {
			if head := &w.fine[i%slots]; head.next != head {
				return time.Duration(max(i*tick-now, immediate))
			}
		}
	}
	if w.nCoarse > 0 {
		return time.Duration(max((w.done/slots+1)*turn-now, immediate))
	}
	return forever
}
