package breaker

import (
	"cmp"
	"time"
)

// Config says when a Breaker opens and how it recovers. A zero field takes the default written beside it.
type Config struct {
	Failures    int           `yaml:"failures" eg:"3"`       // consecutive failures that open it (3)
	Ratio       float64       `yaml:"ratio" eg:"0.5"`        // share of failures within window that opens it, from 20 requests on; above 0, at most 1 (0.5)
	Window      time.Duration `yaml:"window" eg:"10s"`       // how far back requests count (10s)
	Cooldown    time.Duration `yaml:"cooldown" eg:"1s"`      // rest before the first probe (1s)
	MaxCooldown time.Duration `yaml:"max_cooldown" eg:"30s"` // the rest doubles with each failed probe up to this (30s)
	Mode        string        `yaml:"mode" eg:"shadow"`      // enforce | shadow | off (enforce)
}

// WithDefaults returns c with its zero fields filled.
func (c Config) WithDefaults() Config {
	c.Failures = cmp.Or(c.Failures, 3)
	c.Ratio = cmp.Or(c.Ratio, 0.5)
	c.Window = cmp.Or(c.Window, 10*time.Second)
	c.Cooldown = cmp.Or(c.Cooldown, time.Second)
	c.MaxCooldown = cmp.Or(c.MaxCooldown, 30*time.Second)
	c.Mode = cmp.Or(c.Mode, "enforce")
	return c
}

// Validate reports every field that cannot work, by its key in the file. It is meant for a Config with its defaults.
func (c Config) Validate(report func(key, what, expected string)) {
	if c.Failures < 1 {
		report("failures", "is below 1", "a whole number of failures, 1 or more")
	}
	switch {
	case c.Ratio > 1:
		report("ratio", "is above 1", "a share above 0, at most 1")
	case !(c.Ratio > 0): // the negation also catches NaN
		report("ratio", "is not a share", "a share above 0, at most 1")
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"window", c.Window}, {"cooldown", c.Cooldown}, {"max_cooldown", c.MaxCooldown}} {
		if d.value <= 0 {
			report(d.key, "is not above 0", "a duration above 0")
		}
	}
	if c.Cooldown > c.MaxCooldown && c.MaxCooldown > 0 {
		report("cooldown", "is longer than max_cooldown, "+c.MaxCooldown.String(), "at most max_cooldown")
	}
	switch c.Mode {
	case "", "enforce", "shadow", "off":
	default:
		report("mode", "is not a mode of a rule", "one of enforce, shadow, off")
	}
}
