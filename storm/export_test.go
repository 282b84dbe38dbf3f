package storm

import (
	"math/rand/v2"
	"time"
)

// Histogram lets tests look at a histogram.
type Histogram struct{ histogram }

// Add counts a duration.
func (h *Histogram) Add(d time.Duration) { h.add(d) }

// Merge adds what another one counted.
func (h *Histogram) Merge(o *Histogram) { h.merge(&o.histogram) }

// Quantile is the histogram's.
func (h *Histogram) Quantile(q float64) time.Duration { return h.quantile(q) }

// Bars are the histogram's.
func (h *Histogram) Bars() []Bar { return h.coarse() }

// Moments are when the functions of one caller start.
func Moments(load Load, part float64, seed uint64, caller int) []time.Duration {
	var all []time.Duration
	a := newArrivals(load, part, seed, caller)
	for at, ok := a.next(); ok; at, ok = a.next() {
		all = append(all, at)
	}
	return all
}

// Start is a moment at which a function of a caller starts.
type Start struct {
	At     time.Duration
	Caller int
}

// Starts are those of all callers of a plan.
func Starts(plan Plan) ([]Start, error) {
	p, err := plan.prepare()
	if err != nil {
		return nil, err
	}
	var all []Start
	s := newSchedule(p)
	for at, caller, ok := s.next(); ok; at, caller, ok = s.next() {
		all = append(all, Start{at, caller})
	}
	return all, nil
}

// Statements are what a transaction sends, with numbers chosen from a seed.
func Statements(sql, comment string, seed uint64) ([]string, error) {
	s, err := newScript(sql)
	if err != nil {
		return nil, err
	}
	random := rand.New(rand.NewPCG(seed, 0))
	var all []string
	for _, st := range s {
		message := st.append(nil, []byte(comment), random)
		all = append(all, string(message[5:len(message)-1]))
	}
	return all, nil
}

// AppendStatement encodes the first statement of a script, over and over into the same bytes.
func AppendStatement(sql string) (encode func(dst []byte) []byte, err error) {
	s, err := newScript(sql)
	if err != nil {
		return nil, err
	}
	random := rand.New(rand.NewPCG(1, 0))
	return func(dst []byte) []byte {
		return s[0].append(appendDeadline(dst, time.Second)[:0], nil, random)
	}, nil
}

// Verdict is what an error means to a function.
type Verdict struct {
	Refused, Retry       bool
	Wait                 time.Duration
	SQLSTATE, Text, Rule string
}

// Judge reads an error.
func Judge(err error) Verdict {
	v := judge(err)
	return Verdict{v.refused, v.retry, v.wait, v.cause.sqlstate, v.cause.text, v.cause.rule}
}

// SplitStatements cuts SQL at its semicolons.
var SplitStatements = splitStatements
