package limiter

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Priority says who is refused first when not all can be served.
type Priority string

// The priorities, most important first. The empty Priority is Normal.
const (
	Critical  Priority = "critical" // refused last
	Normal    Priority = "normal"
	Batch     Priority = "batch"
	Sheddable Priority = "sheddable" // refused first
)

// Priorities are all of them, by Level.
var Priorities = [levelCount]Priority{LevelCritical: Critical, LevelNormal: Normal, LevelBatch: Batch, LevelSheddable: Sheddable}

// onePriority is what is expected where a priority is.
const onePriority = "one of critical, normal, batch, sheddable"

// Level is the priority as a number; ok is false when it is none.
func (p Priority) Level() (l Level, ok bool) {
	i := slices.Index(Priorities[:], cmp.Or(p, Normal))
	return Level(max(i, 0)), i >= 0
}

// String is the name of the priority.
func (l Level) String() string { return string(Priorities[l]) }

// CallerRule is a rule for some of a resource's clients. The first rule that matches a client counts; clients that match
// none are told apart by their user, so that none of them can starve the others, and share the name "default".
type CallerRule struct {
	Name        string   `yaml:"name" weir:"required" eg:"reports"`                             // what metrics and logs call these clients
	Match       Match    `yaml:"match" weir:"required" eg:"{ application_name: \"report-*\" }"` // which clients the rule is for; all given keys must match
	Priority    Priority `yaml:"priority" eg:"batch"`                                           // critical | normal | batch | sheddable: who is served first and refused last (normal)
	MaxPriority Priority `yaml:"max_priority" eg:"critical"`                                    // the highest priority that these clients may claim for themselves (their priority)
	Weight      int      `yaml:"weight" eg:"4"`                                                 // share of the server's time among callers of one priority, relative to the others' (1)
	Rate        *Rate    `yaml:"rate" eg:"{ per_second: 500 }"`                                 // transactions of these clients together, whole fleet (unlimited)
	Patience    Patience `yaml:"patience" eg:"800ms"`                                           // how long transactions of these clients are wanted, or auto: as the resource's queue.patience (auto)
	Connections int      `yaml:"connections" eg:"5"`                                            // transactions of these clients that may run at once; at most the resource's connections (no limit of their own)
	Mode        Mode     `yaml:"mode" eg:"shadow"`                                              // enforce | shadow | off (enforce)
}

// WithDefaults returns c with its zero fields filled.
func (c CallerRule) WithDefaults() CallerRule {
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
func (c CallerRule) Validate(connections int, report func(key, what, expected string)) {
	switch c.Name {
	case "":
		report("name", "is missing", "a name for metrics and logs")
	case DefaultCaller:
		report("name", "is what clients that match no rule are called", "another name")
	}
	c.Match.validate(report)
	usual, ok := c.Priority.Level()
	if !ok {
		report("priority", "is not a priority", onePriority)
	}
	switch highest, known := c.highest(); {
	case !known && c.MaxPriority != "":
		report("max_priority", "is not a priority", onePriority)
	case known && ok && highest > usual:
		report("max_priority", "is below priority", "the priority or a higher one")
	}
	if c.Weight < 1 || c.Weight > mostWeight {
		report("weight", "is not a weight", "a whole number from 1 to "+strconv.Itoa(mostWeight))
	}
	switch {
	case c.Connections < 0:
		report("connections", "is below 1", "a whole number of connections, 1 or more")
	case c.Connections > connections:
		report("connections", "is above the budget of "+strconv.Itoa(connections)+" connections", "at most the resource's connections")
	}
	c.Mode.validate(report)
}

func (c CallerRule) highest() (Level, bool) { return cmp.Or(c.MaxPriority, c.Priority).Level() }

// mostWeight is the largest weight: beyond it the others would get next to nothing.
const mostWeight = 1000

// Match tells clients apart. `*` in a name stands for any run of characters; a key that is left out matches everybody.
type Match struct {
	User            string `yaml:"user" eg:"checkout_fn"`              // the user the client logs in as (everybody)
	ApplicationName string `yaml:"application_name" eg:"\"report-*\""` // the client's application_name (everybody)
	Address         string `yaml:"address" eg:"10.1.0.0/16"`           // the client's IP address, or the network it is in (everybody)
	Caller          string `yaml:"caller" eg:"checkout"`               // what the client says it is, by weir.caller (everybody)
}

func (m Match) validate(report func(key, what, expected string)) {
	if m == (Match{}) {
		report("match", "matches nobody", "user, application_name, address or caller")
	}
	if _, err := parseNetwork(m.Address); err != nil && m.Address != "" {
		report("match.address", "is not an address", "an IP address or a network, e.g. 10.1.0.0/16")
	}
}

// parseNetwork reads an address or a network.
func parseNetwork(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}

// Identity is what callers are told apart by.
type Identity struct {
	User            string
	ApplicationName string
	Says            string     // weir.caller
	Address         netip.Addr // where the client connects from
}

// Matches reports whether a client is meant.
func (m Match) Matches(id Identity) bool {
	for _, key := range []struct{ pattern, value string }{
		{m.User, id.User}, {m.ApplicationName, id.ApplicationName}, {m.Caller, id.Says},
	} {
		if key.pattern != "" && !glob(key.pattern, key.value) {
			return false
		}
	}
	if m.Address == "" {
		return true
	}
	network, err := parseNetwork(m.Address)
	return err == nil && network.Contains(id.Address.Unmap())
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

// Caller are the clients of one rule, or those of one user that match none.
type Caller struct {
	Name     string // of the rule; "default" without one
	Level    Level  // unless a function claims another
	Highest  Level  // that it may claim
	Rule     string // the rule's key in the file; empty without one
	Mode     Mode
	Rate     Rate   // of their own; PerSecond is 0 without one
	Bucket   Bucket // of their own; nil without one
	Flow     *Flow
	Admitted [levelCount]atomic.Int64
}

// DefaultCaller is the name of clients that match no rule, and of those that are not known yet.
const DefaultCaller = "default"

// mostStrangers is how many users without a rule a resource tells apart. Those who come later share.
const mostStrangers = 1000

// Callers tells a resource's clients apart. It is safe for concurrent use.
type Callers struct {
	rules  []CallerRule
	ruled  []*Caller // by rule; nil where it is off
	others *Caller   // of users beyond mostStrangers

	mu        sync.Mutex
	strangers map[string]*Caller // by user
}

// NewCallers makes the callers of these rules, which are meant to have their defaults. bucket makes the bucket of a rule with a
// rate of its own. key is that of the rules in the file.
func NewCallers(key string, rules []CallerRule, bucket func(caller string, r Rate) Bucket) *Callers {
	c := &Callers{rules: rules, others: stranger(), strangers: make(map[string]*Caller)}
	for i, r := range rules {
		c.ruled = append(c.ruled, newCaller(key+"["+strconv.Itoa(i)+"]", r, bucket))
	}
	return c
}

func newCaller(key string, r CallerRule, bucket func(string, Rate) Bucket) *Caller {
	if r.Mode == Off {
		return nil
	}
	usual, _ := r.Priority.Level()
	highest, _ := r.highest()
	c := &Caller{Name: r.Name, Level: usual, Highest: highest, Rule: key, Mode: r.Mode}
	switch r.Mode {
	case Shadow: // what its priority and weight would bring cannot be tried without giving it them
		c.Level, c.Highest = LevelNormal, LevelNormal
		c.Flow = NewShadowFlow(r.Connections)
	default:
		c.Flow = NewFlow(r.Weight, r.Connections).Wanted(time.Duration(r.Patience))
	}
	if r.Rate != nil && r.Rate.Mode != Off {
		c.Rate = *r.Rate
		c.Bucket = bucket(r.Name, *r.Rate)
	}
	return c
}

func stranger() *Caller {
	return &Caller{Name: DefaultCaller, Level: LevelNormal, Highest: LevelNormal, Mode: Enforce, Flow: NewFlow(1, 0)}
}

// Ruled reports whether there are rules, so that callers are told apart by more than their user.
func (c *Callers) Ruled() bool { return len(c.rules) > 0 }

// Find returns the caller that a client is.
func (c *Callers) Find(id Identity) *Caller {
	for i, r := range c.rules {
		if c.ruled[i] != nil && r.Match.Matches(id) {
			return c.ruled[i]
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.strangers[id.User]; known != nil {
		return known
	}
	if len(c.strangers) >= mostStrangers {
		return c.others
	}
	found := stranger()
	c.strangers[strings.Clone(id.User)] = found
	return found
}

// Each calls f for every caller there is.
func (c *Callers) Each(f func(*Caller)) {
	for _, r := range c.ruled {
		if r != nil {
			f(r)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.strangers {
		f(s)
	}
	f(c.others)
}

// Claim is the level at which a function is served that claims one: never above what its rule allows. granted is false when it
// claimed more.
func (c *Caller) Claim(claimed Level) (l Level, granted bool) {
	return max(claimed, c.Highest), claimed >= c.Highest
}
