package limiter

import (
	"cmp"
	"errors"
	"math"
	"strconv"
	"strings"
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
	Wait   time.Duration `yaml:"wait" eg:"2s"`     // longest wait before the transaction is refused (2s)
	Length Length        `yaml:"length" eg:"auto"` // clients that may wait, or auto (auto)
	Mode   Mode          `yaml:"mode" eg:"shadow"` // enforce | shadow | off (enforce)
}

// WithDefaults returns q with its zero fields filled.
func (q Queue) WithDefaults() Queue {
	q.Wait = cmp.Or(q.Wait, 2*time.Second)
	q.Mode = cmp.Or(q.Mode, Enforce)
	return q
}

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
	Enabled bool `yaml:"enabled" eg:"true"` // false keeps the section without its effect (true)
	Min     int  `yaml:"min" eg:"4"`        // the limit never falls below this many transactions; at most `connections` (1)
	Mode    Mode `yaml:"mode" eg:"shadow"`  // enforce | shadow | off (enforce)
}

// WithDefaults returns a with its zero fields filled, except Enabled: whoever reads a file sets it true beforehand.
func (a Adaptive) WithDefaults() Adaptive {
	a.Min = cmp.Or(a.Min, 1)
	a.Mode = cmp.Or(a.Mode, Enforce)
	return a
}

// Validate reports every field that cannot work within a budget of connections.
func (a Adaptive) Validate(connections int, report func(key, what, expected string)) {
	switch {
	case a.Min < 1:
		report("min", "is below 1", "a whole number of transactions, 1 or more")
	case a.Min > connections:
		report("min", "is above the budget of "+strconv.Itoa(connections)+" connections", "at most the resource's connections")
	}
	a.Mode.validate(report)
}

// Priority says who is refused first when not all can be served.
type Priority string

// The priorities, most important first. The empty Priority is Normal.
const (
	Critical Priority = "critical" // refused last
	Normal   Priority = "normal"
	Batch    Priority = "batch" // refused first
)

// Caller is a rule for some of a resource's clients. The first rule that matches a client counts; clients that match
// none share the caller "default".
type Caller struct {
	Name        string   `yaml:"name" weir:"required" eg:"reports"`                             // what metrics and logs call these clients
	Match       Match    `yaml:"match" weir:"required" eg:"{ application_name: \"report-*\" }"` // which clients the rule is for; all given keys must match
	Priority    Priority `yaml:"priority" eg:"batch"`                                           // critical | normal | batch: who is refused first (normal)
	Weight      int      `yaml:"weight" eg:"4"`                                                 // share of the resource among callers of one priority, relative to the others' (1)
	Rate        *Rate    `yaml:"rate" eg:"{ per_second: 500 }"`                                 // transactions of these clients together, whole fleet (unlimited)
	Connections int      `yaml:"connections" eg:"5"`                                            // server connections these clients may hold together; at most the resource's (no limit of their own)
	Mode        Mode     `yaml:"mode" eg:"shadow"`                                              // enforce | shadow | off (enforce)
}

// WithDefaults returns c with its zero fields filled.
func (c Caller) WithDefaults() Caller {
	c.Priority = cmp.Or(c.Priority, Normal)
	c.Weight = cmp.Or(c.Weight, 1)
	c.Mode = cmp.Or(c.Mode, Enforce)
	if c.Rate != nil {
		rate := c.Rate.WithDefaults()
		c.Rate = &rate
	}
	return c
}

// Validate reports every field that cannot work within a budget of connections; Rate is left to its own Validate.
func (c Caller) Validate(connections int, report func(key, what, expected string)) {
	switch c.Name {
	case "":
		report("name", "is missing", "a name for metrics and logs")
	case "default":
		report("name", "is what clients that match no rule are called", "another name")
	}
	if c.Match == (Match{}) {
		report("match", "matches nobody", "user or application_name")
	}
	switch c.Priority {
	case "", Critical, Normal, Batch:
	default:
		report("priority", "is not a priority", "one of critical, normal, batch")
	}
	if c.Weight < 0 {
		report("weight", "is below 1", "a whole number, 1 or more")
	}
	switch {
	case c.Connections < 0:
		report("connections", "is below 1", "a whole number of connections, 1 or more")
	case c.Connections > connections:
		report("connections", "is above the budget of "+strconv.Itoa(connections)+" connections", "at most the resource's connections")
	}
	c.Mode.validate(report)
}

// Match tells clients apart. `*` in a value stands for any run of characters; a key that is left out matches everybody.
type Match struct {
	User            string `yaml:"user" eg:"checkout_fn"`              // the user the client logs in as (everybody)
	ApplicationName string `yaml:"application_name" eg:"\"report-*\""` // the client's application_name (everybody)
}

// Matches reports whether a client of this user and application_name is meant.
func (m Match) Matches(user, applicationName string) bool {
	return (m.User == "" || glob(m.User, user)) &&
		(m.ApplicationName == "" || glob(m.ApplicationName, applicationName))
}

// glob reports whether text fits pattern, in which each `*` stands for any run of characters.
func glob(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	last := len(parts) - 1
	if last == 0 {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, parts[0])
	if !ok {
		return false
	}
	for _, part := range parts[1:last] { // the earliest place is as good as any: what follows can only gain room
		if _, text, ok = strings.Cut(text, part); !ok {
			return false
		}
	}
	return strings.HasSuffix(text, parts[last])
}
