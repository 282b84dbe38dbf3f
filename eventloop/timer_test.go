package eventloop_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weirproxy/weir/eventloop"
)

// model is a timer wheel as slow and as plain as can be: it knows when each timer is due.
type model struct {
	t      *testing.T
	rand   *rand.Rand
	wheel  *eventloop.Wheel
	now    int64
	timers [12]eventloop.Timer
	due    map[int]int64 // the armed ones
	fired  int
}

// firing is a timer of the model.
type firing struct {
	m *model
	i int
}

// Run checks that the timer may fire now, and does what owners of timers do: arms it again, or touches others.
func (f firing) Run() {
	m := f.m
	at, armed := m.due[f.i]
	if !armed {
		m.t.Fatalf("timer %d fired while it was not armed", f.i)
	}
	if m.now <= at {
		m.t.Fatalf("timer %d fired at %v, %v early", f.i, time.Duration(m.now), time.Duration(at-m.now))
	}
	delete(m.due, f.i)
	m.fired++
	switch m.rand.IntN(6) {
	case 0:
		m.arm(f.i)
	case 1:
		m.arm(m.rand.IntN(len(m.timers)))
	case 2:
		m.disarm(m.rand.IntN(len(m.timers)))
	}
}

// arm arms a timer for milliseconds, seconds, minutes or more: beyond both rings of the wheel.
func (m *model) arm(i int) {
	scale := []int64{int64(time.Millisecond), int64(100 * time.Millisecond), int64(10 * time.Second), int64(5 * time.Minute), int64(time.Hour)}
	at := m.now + m.rand.Int64N(scale[m.rand.IntN(len(scale))])
	m.due[i] = at
	m.wheel.Arm(&m.timers[i], at, firing{m, i})
}

func (m *model) disarm(i int) {
	delete(m.due, i)
	m.wheel.Disarm(&m.timers[i])
}

// advance lets time pass: often a little, at times minutes.
func (m *model) advance() {
	scale := []int64{int64(time.Millisecond), int64(50 * time.Millisecond), int64(3 * time.Second), int64(10 * time.Minute)}
	weight := []int{0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3}
	m.now += m.rand.Int64N(scale[weight[m.rand.IntN(len(weight))]])
	m.wheel.Advance(m.now)
	for i, at := range m.due {
		if at/eventloop.Tick+1 <= m.now/eventloop.Tick {
			m.t.Fatalf("timer %d, due at %v, has not fired at %v", i, time.Duration(at), time.Duration(m.now))
		}
	}
}

// rest does what a loop does that has nothing else to do: it sleeps for as long as nothing will fire.
func (m *model) rest() {
	wait := m.wheel.UntilNext(m.now)
	switch {
	case wait < 0 && len(m.due) > 0:
		m.t.Fatalf("the wheel would sleep for ever with %d timers armed", len(m.due))
	case wait < 0:
		return
	case len(m.due) == 0:
		m.t.Fatalf("the wheel wants to wake in %v for nothing", wait)
	}
	before := m.fired
	if wait > 0 {
		m.now += int64(wait) - 1
		m.wheel.Advance(m.now)
		if m.fired > before {
			m.t.Fatalf("a timer fired within the %v that were promised to be quiet", wait)
		}
		m.now++
	}
	m.wheel.Advance(m.now)
}

func (m *model) check() {
	for i := range m.timers {
		if _, armed := m.due[i]; armed != m.timers[i].Armed() {
			m.t.Fatalf("timer %d: Armed is %v, want %v", i, !armed, armed)
		}
	}
}

func TestTimersFireWhenDueAndNeverEarly(t *testing.T) {
	seeds := 1500
	if testing.Short() {
		seeds = 200
	}
	for seed := range seeds {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 1))
			start := r.Int64N(int64(1000 * time.Hour))
			m := &model{t: t, rand: r, wheel: eventloop.NewWheel(start), now: start, due: map[int]int64{}}
			for range 60 {
				switch r.IntN(8) {
				case 0, 1, 2:
					m.arm(r.IntN(len(m.timers)))
				case 3:
					m.disarm(r.IntN(len(m.timers)))
				case 4:
					m.rest()
				default:
					m.advance()
				}
				m.check()
				if r.IntN(2) == 0 { // as a loop that has just woken up
					m.wheel.Skip(m.now)
				}
			}
		})
		if !ok {
			return
		}
	}
}

// A weir that had nothing to do over the weekend must not spend Monday morning on catching up with it.
func TestAnEmptyWheelNeedsNoCatchingUp(t *testing.T) {
	now := int64(0)
	w := eventloop.NewWheel(now)
	now += int64(100 * 365 * 24 * time.Hour)
	var timer eventloop.Timer
	fired := false
	began := time.Now()
	w.Skip(now)
	w.Arm(&timer, now+int64(time.Second), eventloop.TaskFunc(func() { fired = true }))
	w.Advance(now)
	w.Advance(now + int64(time.Second) + 2*eventloop.Tick)
	if !fired {
		t.Error("the timer has not fired")
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestArmingAndDisarmingAllocatesNothing(t *testing.T) {
	w := eventloop.NewWheel(0)
	timers := make([]eventloop.Timer, 100)
	task := eventloop.Task(eventloop.TaskFunc(func() {}))
	if got := testing.AllocsPerRun(100, func() {
		for i := range timers {
			w.Arm(&timers[i], int64(i)*int64(time.Second), task)
		}
		for i := range timers {
			w.Disarm(&timers[i])
		}
	}); got != 0 {
		t.Errorf("allocates %v times, want 0", got)
	}
}
