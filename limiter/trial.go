package limiter

import "math"

// trial is another limit under test.
type trial struct {
	from    float64 // the limit before; 0: there is no trial
	before  seen    // with that
	slow    float64 // statements were, with that
	began   int64
	settled bool // what ends from now on has begun in the trial
	seen    seen
}

// verdict is what a trial has shown.
type verdict uint8

const (
	undecided verdict = iota
	won
	lost
)

// verdict compares the work done with another limit with that before.
func (t *trial) verdict(to float64) verdict {
	ratio := t.seen.rate() / t.before.rate()
	deviation := math.Sqrt(t.seen.noise(to) + t.before.noise(t.from))
	doubt := confidence * deviation
	needs, least := sameWork, (1+to/t.from)/2 // that half of what the limit has lost is lost as well can be ruled out
	if to > t.from {
		needs, least = moreWork, 1
	}
	switch n := t.seen.samples; {
	case n < trialSamples/4:
		return undecided
	case n < trialSamples && (to > t.from || ratio > least):
		return undecided
	case ratio*(1+doubt) < needs:
		return lost
	case n < trialSamples, n < trialSamplesMost && (ratio < needs || ratio*(1-doubt) < least):
		return undecided
	case ratio < needs && (to > t.from || ratio < least || ratio*(1+deviation) < needs):
		return lost
	}
	return won
}

const (
	sameWork         = 0.93 // of the work before
	moreWork         = 1.06 // of the work before
	trialSamples     = 80
	trialSamplesMost = 240  // then the more likely is taken
	certainty        = 3.0  // standard deviations: one in a thousand is further off
	confidence       = 1.65 // standard deviations: one in twenty is further off to one side
)
