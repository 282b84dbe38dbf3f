package main

import (
	"math"
	"slices"
	"time"
)

// counts are of a series, one a step.
type counts struct {
	each []uint32
	step time.Duration
}

// perSecond is the rate from one moment to another, both multiples of the step.
func (c counts) perSecond(from, to time.Duration) float64 {
	first, last := max(0, int(from/c.step)), min(len(c.each), int(to/c.step))
	sum := 0.0
	for _, n := range c.each[min(first, last):last] {
		sum += float64(n)
	}
	return sum / (to - from).Seconds()
}

// settling is how to tell that a rate has settled. A rate is that of the window that begins at a moment, so that what was
// before does not count.
type settling struct {
	window time.Duration // over which a rate is taken
	hold   time.Duration // for which it is to stay
}

// usual: in half a second PostgreSQL does some hundred functions, of which 5 % are more than chance.
var usual = settling{window: 500 * time.Millisecond, hold: 2 * time.Second}

// reaches is how long after from the rate begins to be at least so much and stays so; NaN when it does not before to.
func (s settling) reaches(c counts, from, to time.Duration, least float64) float64 {
	since := from
	for at := from; at+s.window <= to; at += c.step {
		if c.perSecond(at, at+s.window) < least {
			since = at + c.step
		} else if at-since >= s.hold {
			return (since - from).Seconds()
		}
	}
	return math.NaN()
}

// lowest is the lowest rate of a window between two moments.
func (s settling) lowest(c counts, from, to time.Duration) float64 {
	low := math.NaN()
	for at := from; at+s.window <= to; at += c.step {
		if rate := c.perSecond(at, at+s.window); !(rate >= low) {
			low = rate
		}
	}
	return low
}

// silent is how long after from nothing is counted any more for a while; NaN when something is, to the end.
func silent(c counts, from, to, hold time.Duration) float64 {
	since := from
	for at := from; at < to; at += c.step {
		if i := int(at / c.step); i < len(c.each) && c.each[i] > 0 {
			since = at + c.step
		} else if at+c.step-since >= hold {
			return (since - from).Seconds()
		}
	}
	return math.NaN()
}

// sumCounts adds series of the same storm up.
func sumCounts(step time.Duration, lists ...[]uint32) counts {
	c := counts{step: step}
	for _, list := range lists {
		for len(c.each) < len(list) {
			c.each = append(c.each, 0)
		}
		for i, n := range list {
			c.each[i] += n
		}
	}
	return c
}

// gauge is a value that was looked at now and then.
type gauge struct {
	at    []time.Duration // since a storm began
	value []float64
}

// middle is the median of the values between two moments.
func (g gauge) middle(from, to time.Duration) float64 { return median(g.between(from, to)) }

func (g gauge) lowest(from, to time.Duration) float64 {
	values := g.between(from, to)
	if len(values) == 0 {
		return math.NaN()
	}
	return slices.Min(values)
}

func (g gauge) between(from, to time.Duration) (values []float64) {
	for i, at := range g.at {
		if at >= from && at < to {
			values = append(values, g.value[i])
		}
	}
	return values
}

// mostOfTheWay is what counts as having followed: a limit is a small whole number.
const mostOfTheWay = 0.8

// follows is how long after from the value has gone most of the way from one level to another; NaN when there is no way to
// go, or when it has not by to.
func (g gauge) follows(from, to time.Duration, old, new float64) float64 {
	way := new - old
	if math.Abs(way) < 1 || math.IsNaN(way) {
		return math.NaN()
	}
	for i, at := range g.at {
		if at >= from && at < to && (g.value[i]-old)/way >= mostOfTheWay {
			return (at - from).Seconds()
		}
	}
	return math.NaN()
}

// steps are the values at even distances, for a chart: each the last one known.
func (g gauge) steps(step, length time.Duration) []float64 {
	var out []float64
	i := 0
	last := math.NaN()
	for at := time.Duration(0); at < length; at += step {
		for ; i < len(g.at) && g.at[i] < at+step; i++ {
			last = g.value[i]
		}
		out = append(out, last)
	}
	return out
}

// rates are the values of a series per second at even distances, multiples of the step, for a chart.
func (c counts) rates(distance, length time.Duration) []float64 {
	var out []float64
	for at := time.Duration(0); at < length; at += distance {
		out = append(out, c.perSecond(at, at+distance))
	}
	return out
}
