package storm

import (
	"math"
	"math/rand/v2"
	"time"
)

// arrivals yields the moments at which the functions of one caller start, counted from the beginning of the storm. They
// depend on the load, the caller's part of it and the seed alone, so that every target gets the same.
type arrivals struct {
	phases []Phase
	part   float64 // of each rate and burst
	random *rand.Rand

	phase  int           // under way
	began  time.Duration // when it did
	within float64       // seconds of it that are over
	left   int           // of its burst
	owed   float64       // the fraction of a function that rounding kept from bursts so far
	effort float64       // what the next start still takes: the integral of the rate up to it
}

func newArrivals(load Load, part float64, seed uint64, caller int) *arrivals {
	a := &arrivals{phases: load.Phases, part: part, random: rand.New(rand.NewPCG(seed, uint64(caller)))}
	a.effort = a.random.ExpFloat64()
	a.enter(0)
	return a
}

// enter begins a phase.
func (a *arrivals) enter(phase int) {
	a.phase, a.within = phase, 0
	if phase < len(a.phases) {
		whole := float64(a.phases[phase].Burst)*a.part + a.owed
		a.left = int(whole + 1e-9)
		a.owed = whole - float64(a.left)
	}
}

// next returns when the next function starts; ok is false when there is none.
func (a *arrivals) next() (at time.Duration, ok bool) {
	for ; a.phase < len(a.phases); a.enter(a.phase + 1) {
		p := a.phases[a.phase]
		if a.left > 0 {
			a.left--
			return a.began, true
		}
		length := p.For.Seconds()
		rate, slope := 0.0, 0.0 // now, and by how much it grows each second
		if length > 0 {
			slope = (p.To - p.From) * a.part / length
			rate = p.From*a.part + slope*a.within
		}
		rest := length - a.within
		if capacity := rate*rest + slope*rest*rest/2; a.effort < capacity {
			// Solves rate·t + slope·t²/2 = effort in the form that loses no digits.
			a.within += 2 * a.effort / (rate + math.Sqrt(max(0, rate*rate+2*slope*a.effort)))
			a.effort = a.random.ExpFloat64()
			return a.began + time.Duration(min(a.within, length)*float64(time.Second)), true
		} else {
			a.effort -= max(0, capacity)
		}
		a.began += p.For
	}
	return 0, false
}

// schedule merges the arrivals of all callers.
type schedule struct {
	callers []*arrivals
	heads   []time.Duration // when the next function of each caller starts; negative: there is none
}

func newSchedule(p *prepared) *schedule {
	s := &schedule{}
	for i, c := range p.crews {
		a := newArrivals(c.Load, c.part, p.Seed, i)
		s.callers = append(s.callers, a)
		s.heads = append(s.heads, head(a))
	}
	return s
}

func head(a *arrivals) time.Duration {
	if at, ok := a.next(); ok {
		return at
	}
	return -1
}

// next returns when the next function starts, and whose it is.
func (s *schedule) next() (at time.Duration, caller int, ok bool) {
	at = -1
	for i, h := range s.heads {
		if h >= 0 && (at < 0 || h < at) {
			at, caller = h, i
		}
	}
	if at < 0 {
		return 0, 0, false
	}
	s.heads[caller] = head(s.callers[caller])
	return at, caller, true
}
