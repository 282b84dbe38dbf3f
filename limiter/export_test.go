package limiter

import "fmt"

// The parts of Slots that tests turn off.
const (
	Fairness = iota
	Patient
	Deadlines
	Lanes
	Limiting
)

// Without turns parts off.
func (s *Slots) Without(parts ...int) {
	for _, p := range parts {
		switch p {
		case Fairness:
			s.switches.noFairness = true
			for l := range s.levels {
				for n := range s.levels[l] {
					s.levels[l][n].arrival = true
				}
			}
		case Patient:
			s.switches.noPatience = true
		case Deadlines:
			s.switches.noDeadlines = true
		case Limiting:
			s.adaptive.mode = Off
		case Lanes:
			s.switches.noLanes = true
		}
	}
}

// Running reports whether r has a slot.
func (s *Slots) Running(r *Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.state == running
}

// Inconsistent says what is not as it must be when so many run, keep a connection, and wait.
func (s *Slots) Inconsistent(run, keep, wait int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all := s.running[short] + s.running[long]; all != run || s.kept != keep || s.waiting != wait {
		return fmt.Errorf("counted are %d, %d and %d who run, keep and wait; there are %d, %d and %d", all, s.kept, s.waiting, run, keep, wait)
	}
	if s.running[short] != s.quick.len || s.running[long] < 0 {
		return fmt.Errorf("%d run in the short lane and %d in the long one; %d are listed", s.running[short], s.running[long], s.quick.len)
	}
	waiting := 0
	for l := range s.levels {
		for n := range s.levels[l] {
			v := &s.levels[l][n]
			here, weight := 0, 0.0
			for i, f := range v.heap {
				line := &f.lines[l][n]
				here += line.len
				weight += f.weight
				switch {
				case line.len == 0 || line.head == nil || line.tail == nil:
					return fmt.Errorf("a flow waits at level %d, and none of its requests does", l)
				case *v.place(f) != i+1:
					return fmt.Errorf("a flow is at %d of level %d, not at %d", i+1, l, *v.place(f))
				case i > 0 && v.less(f, v.heap[(i-1)/2]):
					return fmt.Errorf("level %d is not in order at %d", l, i)
				case s.mayRunLocked(lane(n), f):
					return fmt.Errorf("a slot is free for lane %d, and a request that might have it waits", n)
				}
			}
			if v.waiting != here || v.weight != weight {
				return fmt.Errorf("level %d has %d waiting with a weight of %v, not %d with %v", l, here, weight, v.waiting, v.weight)
			}
			waiting += here
		}
	}
	if waiting != s.waiting {
		return fmt.Errorf("%d wait in lines, %d are counted", waiting, s.waiting)
	}
	return nil
}

// Base is what is learned of a class.
type Base struct{ b base }

// Note learns from one statement.
func (b *Base) Note(took float64, calm bool, now int64) { b.b.note(took, calm, now) }

// Nanoseconds is what a statement takes when nothing is in its way.
func (b *Base) Nanoseconds() float64 { return b.b.nanoseconds }

// Lending is what long statements are lent.
type Lending struct{ l lending }

// Decide takes in a window in which so many short statements took so many times as long as alone, and so many slots were lent.
func (l *Lending) Decide(samples int, slow float64, lent int) int {
	l.l.decide(view{seen: seen{samples: samples}, slow: slow}, lent)
	return int(l.l.slots)
}

// TrialVerdict compares what was done with a limit, and with another one: so many statements of one second each, of a deviation in
// units of that, in so many seconds.
func TrialVerdict(from, to float64, before, after [2]int, deviation float64) string {
	did := func(d [2]int) seen {
		n := float64(d[0])
		return seen{samples: d[0], work: n * 1e9, time: int64(d[1]) * 1e9, ratios: n, squares: n * (1 + deviation*deviation)}
	}
	t := trial{from: from, before: did(before), seen: did(after)}
	return [...]string{undecided: "undecided", won: "won", lost: "lost"}[t.verdict(to)]
}
