package fleet

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config names the Redis that the weirs of one fleet share. Without it a process is the whole fleet.
//
// The URL may hold a password. A Config masks it however it is printed, logged or marshalled; the field itself does not.
type Config struct {
	Redis string `yaml:"redis" weir:"required,dsn" eg:"redis://redis:6379/0"` // redis://, rediss://, redis+sentinel:// or redis+cluster:// URL
	Name  string `yaml:"name" eg:"prod"`                                      // fleets that share one Redis differ by name (default)
}

// WithDefaults returns c with its zero fields filled.
func (c Config) WithDefaults() Config {
	c.Name = cmp.Or(c.Name, "default")
	return c
}

// schemes are the kinds of Redis a URL can name; each also with TLS.
var schemes = []string{"redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"}

// fleetName keeps a name usable as a part of Redis' keys: braces, for one, would move the keys to another cluster slot.
var fleetName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// Validate reports every field that cannot work, by its key in the file, never quoting the URL. It is meant for a
// Config with its defaults.
func (c Config) Validate(report func(key, what, expected string)) {
	if what := badURL(c.Redis); what != "" {
		report("redis", what, "redis://host:6379/0, redis+sentinel://host:26379/master-name or redis+cluster://host:6379, or rediss for TLS")
	}
	if !fleetName.MatchString(c.Name) {
		report("name", "is not usable in the names of Redis' keys", "up to 64 letters, digits, _, - or .")
	}
}

// parameters are what may follow the ? of a URL, and whether it is a duration.
var parameters = map[string]bool{
	"dial_timeout": true, "read_timeout": true, "write_timeout": true, "sentinel_username": false, "sentinel_password": false,
}

// badURL says why a URL names no Redis, or "". It quotes nothing: where a password was not encoded, any part of the URL
// may be a piece of it.
func badURL(text string) string {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return "is missing"
	case err != nil || strings.Contains(u.Path, "@"):
		return "is not a URL; special characters in its password must be percent-encoded"
	case !slices.Contains(schemes, u.Scheme):
		return "has a scheme that is not Redis'"
	case slices.ContainsFunc(strings.Split(u.Host, ","), func(host string) bool { return (&url.URL{Host: host}).Hostname() == "" }):
		return "names no host"
	}
	_, kind, _ := strings.Cut(u.Scheme, "+")
	database := strings.Trim(u.Path, "/")
	switch {
	case kind == "" && strings.Contains(u.Host, ","):
		return "names several hosts without redis+cluster or redis+sentinel"
	case kind == "cluster" && database != "" && database != "0":
		return "names a database, which a cluster does not have"
	case kind == "sentinel":
		master, rest, _ := strings.Cut(database, "/")
		if master == "" {
			return "names no master"
		}
		database = rest
	}
	if n, err := strconv.Atoi(database); database != "" && (err != nil || n < 0) {
		return "names a database that is not a number"
	}
	for name, values := range u.Query() {
		isDuration, known := parameters[name]
		if !known {
			return "has an unknown parameter behind its ?"
		}
		if _, err := time.ParseDuration(values[len(values)-1]); isDuration && err != nil {
			return "has a " + name + " that is not a duration such as 100ms"
		}
	}
	return ""
}

// String is the fleet's name and where its Redis is, without credentials.
func (c Config) String() string { return "{Redis:" + c.masked() + " Name:" + c.Name + "}" }

// Format writes String whatever the verb.
func (c Config) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// LogValue is the Config without credentials.
func (c Config) LogValue() slog.Value {
	return slog.GroupValue(slog.String("redis", c.masked()), slog.String("name", c.Name))
}

// MarshalText is String.
func (c Config) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// MarshalJSON writes the Config without credentials.
func (c Config) MarshalJSON() ([]byte, error) { return json.Marshal(c.shown()) }

// MarshalYAML gives the Config without credentials.
func (c Config) MarshalYAML() (any, error) { return c.shown(), nil }

func (c Config) shown() any {
	return struct {
		Redis string `yaml:"redis" json:"redis"`
		Name  string `yaml:"name" json:"name"`
	}{c.masked(), c.Name}
}

// masked is the URL built again from the parts that are known to be harmless, so that an unusual URL shows less rather
// than more.
func (c Config) masked() string {
	u, err := url.Parse(c.Redis)
	if err != nil || !slices.Contains(schemes, u.Scheme) {
		return "***"
	}
	credentials := ""
	if u.User != nil {
		credentials = "***@" // a password is sometimes written where the user belongs
		if _, has := u.User.Password(); has {
			credentials = u.User.Username() + ":***@"
		}
	}
	return u.Scheme + "://" + credentials + u.Host + u.EscapedPath()
}
