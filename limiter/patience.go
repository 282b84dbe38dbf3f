package limiter

import (
	"errors"
	"math"
	"math/bits"
	"time"
)

// Patience is for how long a request is wanted, from when it is asked for; 0 stands for "auto": what is seen of its like, who hang up or cancel.
type Patience time.Duration

// UnmarshalText reads "auto" or a duration above 0.
func (p *Patience) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*p = 0
		return nil
	}
	d, err := time.ParseDuration(string(text))
	if err != nil || d <= 0 {
		return errors.New("auto, or a duration above 0 with its unit, such as 800ms")
	}
	*p = Patience(d)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (p Patience) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// String is the duration, or "auto".
func (p Patience) String() string {
	if p == 0 {
		return "auto"
	}
	return time.Duration(p).String()
}

// PatienceSource is how a patience is known.
type PatienceSource uint8

// The sources, what is best known last.
const (
	PatienceUnknown  PatienceSource = iota // nobody was seen to leave: it is at least as long as it takes, up to Queue.Wait
	PatienceSeen                           // of those who left
	PatienceSet                            // in the configuration
	PatienceDeadline                       // the function said so
)

func (s PatienceSource) String() string {
	return [...]string{"nobody left so far", "seen of those who left", "set", "told"}[s]
}

// leaving is what is seen of the patience of some requests: at which age they got their answer, after which nobody knows for how long they
// would have waited, and at which age the client hung up or cancelled without one. From both follows what part outlasts an age (the product-limit
// estimate of Kaplan and Meier, 1958). What is old counts for little.
type leaving struct {
	stayed, left [ages]float32 // by age
	answers      float32       // the sum of stayed
	leftAfter    [ages]float32 // nanoseconds, the sum for those who left
	since        int64         // the window began
	lost         bool          // somebody has left in it
	leftNow      float32       // so many have left in it
	answeredNow  float32       // so many have not
	leave        float32       // the part of them that left, lately
	lately       float32       // windows in which somebody left
	known        int64         // nanoseconds that all but few outlast; 0: not known
	reached      int64         // nanoseconds that some were seen to wait for
	fading       int64         // what was known, when it is no longer: it grows from there; 0: it may be anything
}

const (
	youngest       = 10 // 2^10 µs, a millisecond: what is younger counts as that old
	agesPerOctave  = 4
	ages           = 16*agesPerOctave + 1 // up to a minute
	leavingWindow  = int64(250 * time.Millisecond)
	leavingHalf    = 40  // windows, in which something happened, after which what was seen counts half
	impatient      = 0.1 // of the requests are those whose patience counts: that of the others is longer
	fewLeft        = 3   // are not enough to tell
	fewWindows     = 1.5 // neither are those of one moment: clients that end together have not lost patience
	patienceGrows  = 1.02
	leastPatience  = int64(20 * time.Millisecond)
	leavingForgets = 0.01
)

// ageOf is the interval in which an age is, of which there are four between it and twice it.
func ageOf(nanoseconds int64) int {
	micros := uint64(max(nanoseconds, 0)) / 1000
	if micros < 1<<youngest {
		return 0
	}
	octave := bits.Len64(micros) - 1
	part := int(micros >> (octave - 2) & (agesPerOctave - 1))
	return min((octave-youngest)*agesPerOctave+part+1, ages-1)
}

// ageFrom is where the interval begins, in nanoseconds.
func ageFrom(i int) int64 {
	if i == 0 {
		return 0
	}
	octave, part := (i-1)/agesPerOctave+youngest, (i-1)%agesPerOctave
	return int64(agesPerOctave+part) << (octave - 2) * 1000
}

// answered notes that a request had its answer at that age.
func (l *leaving) answered(age, now int64) {
	l.roll(now)
	l.stayed[ageOf(age)]++
	l.answers++
	l.answeredNow++
}

// gaveUp notes that one was given up at that age; still says that the database did nothing for anybody.
func (l *leaving) gaveUp(age, now int64, still bool) {
	l.roll(now)
	i := ageOf(age)
	l.left[i]++
	l.leftAfter[i] += float32(age)
	if !still {
		l.leftNow++
	}
	l.lost = true
}

// roll ends the windows that are over.
func (l *leaving) roll(now int64) {
	passed := (now - l.since) / leavingWindow
	if passed < 1 {
		return
	}
	l.since += passed * leavingWindow
	if l.lost {
		l.lately++
	}
	l.lost = false
	part := l.leftNow / max(l.leftNow+l.answeredNow, 1)
	l.leave += (part - l.leave) * min(float32(passed)/leaveOver, 1)
	l.leftNow, l.answeredNow = 0, 0
	keep := float32(math.Exp2(-1.0 / leavingHalf)) // a rest changes nobody's patience
	for i := range l.stayed {
		l.stayed[i] *= keep
		l.left[i] *= keep
		l.leftAfter[i] *= keep
	}
	l.answers *= keep
	l.lately *= keep
	l.judge()
}

// judge finds the age that all but few outlast, when windows are over.
func (l *leaving) judge() {
	l.reached = l.longest()
	before := l.known
	if l.known = l.quantile(); l.known > 0 {
		l.fading = 0
		return
	}
	if before > 0 {
		l.fading = before
	}
	if l.fading > 0 {
		l.fading = int64(float64(l.fading) * patienceGrows)
		if l.fading > int64(time.Minute) {
			l.fading = 0
		}
	}
}

// longest is the age that some were seen to reach.
func (l *leaving) longest() int64 {
	n := float32(0)
	for i := len(l.stayed) - 1; i > 0; i-- {
		if n += l.stayed[i]; n >= fewLeft {
			return ageFrom(i)
		}
	}
	return 0
}

// quantile is the age that all but few outlast, 0 when that is not known.
func (l *leaving) quantile() int64 {
	if l.lately < fewWindows {
		return 0
	}
	reach, gone := float32(0), float32(0)
	for i := range l.stayed {
		reach += l.stayed[i] + l.left[i]
	}
	outlast := 1.0
	for i := range l.stayed {
		gone += l.left[i]
		if reach > leavingForgets {
			outlast *= 1 - float64(l.left[i]/reach)
		}
		if outlast <= 1-impatient && gone >= fewLeft {
			return max(int64(l.leftAfter[i]/l.left[i]), leastPatience)
		}
		reach -= l.stayed[i] + l.left[i]
	}
	return 0
}

// patience is how long requests are wanted, as far as is known; 0: it may be any time.
func (l *leaving) patience(now int64) int64 {
	l.roll(now)
	return max(l.known, l.fading)
}

// goesOn reports whether people leave now.
func (l *leaving) goesOn() bool { return l.leave > leaveMuch }

const (
	leaveOver = 8 // windows over which it is averaged
	leaveMuch = 0.06
)

// tells reports whether enough was seen for a verdict of its own.
func (l *leaving) tells() bool { return l.known > 0 || l.answers >= leavingTells }

const leavingTells = 20 // requests
