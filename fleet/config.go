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
	const expected = "a URL with the scheme redis, rediss, redis+sentinel or redis+cluster"
	u, err := url.Parse(c.Redis)
	switch {
	case c.Redis == "":
		report("redis", "is missing", expected)
	case err != nil:
		report("redis", "is not a URL; special characters in its password must be percent-encoded", expected)
	case !slices.Contains(schemes, u.Scheme):
		report("redis", "has a scheme that is not Redis'", expected)
	case u.Host == "":
		report("redis", "names no host", expected)
	case !isDatabase(strings.TrimPrefix(u.Path, "/"), strings.HasSuffix(u.Scheme, "+sentinel")):
		report("redis", "names a database that is not a number", expected+" and a path such as /0")
	}
	if !fleetName.MatchString(c.Name) {
		report("name", "is not usable in the names of Redis' keys", "up to 64 letters, digits, _, - or .")
	}
}

// isDatabase accepts Redis' numbered databases; a sentinel URL names its master set before the number.
func isDatabase(path string, sentinel bool) bool {
	if sentinel {
		if _, after, found := strings.Cut(path, "/"); found {
			path = after
		} else {
			return true
		}
	}
	if path == "" {
		return true
	}
	n, err := strconv.Atoi(path)
	return err == nil && n >= 0
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
