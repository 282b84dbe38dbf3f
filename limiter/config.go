package limiter

import (
	"cmp"
	"errors"
	"math"
	"strconv"
	"time"
)

// Mode says what a rule does with what it would refuse. The empty Mode is Enforce.
type Mode string

// The modes of a rule.
const (
	Enforce Mode = "enforce" // refuse
	Shadow  Mode = "shadow"  // decide, count and log, but let pass
	Off     Mode = "off"     // do not even decide
)

func (m Mode) validate(report func(key, what, expected string)) {
	switch m {
	case "", Enforce, Shadow, Off:
	default:
		report("mode", "is not a mode of a rule", "one of enforce, shadow, off")
	}
}

// Rate limits how many transactions may start per second, over the whole fleet. Its absence means unlimited.
type Rate struct {
	PerSecond float64 `yaml:"per_second" weir:"required" eg:"2000"` // transactions per second
	Burst     int     `yaml:"burst" eg:"500"`                       // transactions that may start at once after a rest (one second's worth)
	Mode      Mode    `yaml:"mode" eg:"shadow"`                     // enforce | shadow | off (enforce)
}

// WithDefaults returns r with its zero fields filled.
func (r Rate) WithDefaults() Rate {
	if r.Burst == 0 && r.PerSecond > 0 {
		r.Burst = int(min(max(math.Ceil(r.PerSecond), 1), math.MaxInt32))
	}
	r.Mode = cmp.Or(r.Mode, Enforce)
	return r
}

// Validate reports every field that cannot work, by its key in the file. It is meant for a Rate with its defaults.
func (r Rate) Validate(report func(key, what, expected string)) {
	if !(r.PerSecond > 0) || math.IsInf(r.PerSecond, 1) { // the negation also catches NaN
		report("per_second", "is not a rate", "a number above 0; leave the section out for no limit")
	}
	if r.Burst < 0 {
		report("burst", "is below 1", "a whole number of transactions, 1 or more")
	}
	r.Mode.validate(report)
}

// Queue bounds the wait for a server connection. A zero field takes the default written beside it.
type Queue struct {
	Wait     time.Duration `yaml:"wait" eg:"2s"`        // longest wait before the transaction is refused (2s)
	Length   Length        `yaml:"length" eg:"auto"`    // clients that may wait, or auto (auto)
	Patience Patience      `yaml:"patience" eg:"800ms"` // how long a transaction is wanted, from when it is asked for, or auto: as is seen of who hangs up (auto)
	Mode     Mode          `yaml:"mode" eg:"shadow"`    // enforce | shadow | off (enforce)
}

// WithDefaults returns q with its zero fields filled.
func (q Queue) WithDefaults() Queue {
	q.Wait = cmp.Or(q.Wait, 2*time.Second)
	q.Mode = cmp.Or(q.Mode, Enforce)
	return q
}

// Room is how many clients may wait for a resource with that many connections.
func (q Queue) Room(connections int) int {
	if q.Length > 0 {
		return int(q.Length)
	}
	return max(leastQueue, queuePerConnection*connections)
}

// Length auto. The wait bounds the queue long before that; this bounds its memory.
const (
	queuePerConnection = 50
	leastQueue         = 10000
)

// Validate reports every field that cannot work, by its key in the file. It is meant for a Queue with its defaults.
func (q Queue) Validate(report func(key, what, expected string)) {
	if q.Wait <= 0 {
		report("wait", "is not a time to wait", "a duration above 0")
	}
	if q.Length < 0 {
		report("length", "is below 1", "auto, or a whole number of clients, 1 or more")
	}
	q.Mode.validate(report)
}

// Length is a number of waiting clients; 0 stands for "auto".
type Length int

// UnmarshalText reads "auto" or a number from 1 on.
func (l *Length) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*l = 0
		return nil
	}
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > math.MaxInt32 {
		return errors.New("auto, or a whole number of clients, 1 or more")
	}
	*l = Length(n)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (l Length) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// String is the number, or "auto".
func (l Length) String() string {
	if l == 0 {
		return "auto"
	}
	return strconv.Itoa(int(l))
}

// Adaptive lets the limit on running transactions move below the connection budget, following how the database answers.
type Adaptive struct {
	Enabled bool `yaml:"enabled" eg:"false"` // false keeps the section without its effect (true)
	Min     int  `yaml:"min" eg:"4"`         // the limit never falls below this many transactions; at most `connections` (4)
	Frozen  int  `yaml:"frozen" eg:"12"`     // keeps the limit at this many transactions instead of looking for it; at most `connections` (not frozen)
	Mode    Mode `yaml:"mode" eg:"shadow"`   // enforce | shadow | off (enforce)
}

// leastRunning is Adaptive.Min where the file says nothing.
const leastRunning = 4

// WithDefaults returns a with its zero fields filled, except Enabled: whoever reads a file sets it true beforehand.
func (a Adaptive) WithDefaults() Adaptive {
	a.Min = cmp.Or(a.Min, leastRunning)
	a.Mode = cmp.Or(a.Mode, Enforce)
	return a
}

// Validate reports every field that cannot work within a budget of connections.
func (a Adaptive) Validate(connections int, report func(key, what, expected string)) {
	for _, f := range []struct {
		key   string
		value int
		least int
	}{{"min", a.Min, 1}, {"frozen", a.Frozen, 0}} {
		switch {
		case f.value < f.least:
			report(f.key, "is below 1", "a whole number of transactions, 1 or more")
		case f.value > connections:
			report(f.key, "is above the budget of "+strconv.Itoa(connections)+" connections", "at most the resource's connections")
		}
	}
	if a.Frozen > 0 && a.Min > a.Frozen {
		report("frozen", "is below min", "min or more")
	}
	a.Mode.validate(report)
}
