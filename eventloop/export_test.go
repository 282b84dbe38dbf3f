package eventloop

import "time"

// Wheel is a timer wheel without a loop, so that a test can say what time it is.
type Wheel struct{ w wheel }

// NewWheel starts a wheel at now.
func NewWheel(now int64) *Wheel {
	w := &Wheel{}
	w.w.start(now)
	return w
}

func (w *Wheel) Arm(t *Timer, at int64, task Task) {
	t.task = task
	w.w.arm(t, at)
}

func (w *Wheel) Skip(now int64)                    { w.w.skip(now) }
func (w *Wheel) Disarm(t *Timer)                   { w.w.disarm(t) }
func (w *Wheel) Advance(now int64)                 { w.w.advance(now) }
func (w *Wheel) UntilNext(now int64) time.Duration { return w.w.untilNext(now) }

// Tick is how exact timers are, in nanoseconds.
const Tick = tick
