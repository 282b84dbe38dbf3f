package pool

import (
	"cmp"
	"time"
)

// Config is the shelf life of server connections. A zero field takes the default written beside it.
type Config struct {
	Connections    int           // the budget: server connections to the resource, those being dialled or closed included (20)
	Connect        time.Duration // how long dialling and logging in to the server may take (5s)
	ServerLifetime time.Duration // a server connection older than this is retired when next idle, less up to 20 % jitter (1h)
	ServerIdle     time.Duration // a server connection idle for longer is retired, less up to 20 % jitter (10m)
}

// Never is a shelf life that no connection reaches: zero already stands for the default.
const Never = 100 * 365 * 24 * time.Hour

// MaxConnections is the most that PostgreSQL itself accepts as max_connections.
const MaxConnections = 262143

// WithDefaults returns c with its zero fields filled.
func (c Config) WithDefaults() Config {
	c.Connections = cmp.Or(c.Connections, 20)
	c.Connect = cmp.Or(c.Connect, 5*time.Second)
	c.ServerLifetime = cmp.Or(c.ServerLifetime, time.Hour)
	c.ServerIdle = cmp.Or(c.ServerIdle, 10*time.Minute)
	return c
}

// Validate reports every field that cannot work, by its key in the file. It is meant for a Config with its defaults.
func (c Config) Validate(report func(key, what, expected string)) {
	switch {
	case c.Connections < 1:
		report("connections", "is below 1", "a whole number of connections, 1 or more")
	case c.Connections > MaxConnections:
		report("connections", "is more than PostgreSQL can have", "at most 262143 connections")
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{
		{"timeouts.connect", c.Connect},
		{"timeouts.server_lifetime", c.ServerLifetime},
		{"timeouts.server_idle", c.ServerIdle},
	} {
		if d.value <= 0 {
			report(d.key, "is not above 0", "a duration above 0")
		}
	}
}
