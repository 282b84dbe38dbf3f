package config

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"

	"github.com/weirproxy/weir/upstream"
)

const mask = "***"

// Secret is text that must not be seen: it prints, logs and marshals as ***. The zero Secret is "not given".
type Secret struct {
	text *string // a pointer, for fmt shows the fields of a struct it was given inside another's unexported field
}

// NewSecret wraps text; the empty text gives the zero Secret.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal is the text itself. Do not log it, nor put it into an error.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero says that no secret was given.
func (s Secret) IsZero() bool { return s.text == nil }

// Equal compares in constant time.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// String is ***, or nothing when no secret was given.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return mask
}

// GoString is String in quotes.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// Format writes String whatever the verb.
func (s Secret) Format(f fmt.State, verb rune) { format(f, verb, s.String()) }

// LogValue is String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON is String.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// MarshalYAML is String.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// DSN says how to reach and log in to a database. It prints, logs and marshals without its password.
type DSN struct {
	text  Secret
	shown string // built from the parts that are known to be harmless, when the DSN was parsed
}

// NewDSN wraps a connection string as libpq knows them, postgres://… or key=value. The error quotes none of it.
func NewDSN(text string) (DSN, error) {
	parsed, err := upstream.Parse(text)
	if err != nil {
		return DSN{}, err
	}
	return DSN{NewSecret(text), showDSN(parsed)}, nil
}

// Reveal is the connection string as it was given. Do not log it, nor put it into an error.
func (d DSN) Reveal() string { return d.text.Reveal() }

// IsZero says that no DSN was given.
func (d DSN) IsZero() bool { return d.text.IsZero() }

// Equal compares in constant time.
func (d DSN) Equal(other DSN) bool { return d.text.Equal(other.text) }

// String is the DSN as a URL with its user, hosts and database; its password is ***, its options are left out.
func (d DSN) String() string { return d.shown }

// GoString is String in quotes.
func (d DSN) GoString() string { return strconv.Quote(d.shown) }

// Format writes String whatever the verb.
func (d DSN) Format(f fmt.State, verb rune) { format(f, verb, d.shown) }

// LogValue is String.
func (d DSN) LogValue() slog.Value { return slog.StringValue(d.shown) }

// MarshalText is String.
func (d DSN) MarshalText() ([]byte, error) { return []byte(d.shown), nil }

// MarshalJSON is String.
func (d DSN) MarshalJSON() ([]byte, error) { return json.Marshal(d.shown) }

// MarshalYAML is String.
func (d DSN) MarshalYAML() (any, error) { return d.shown, nil }

func format(f fmt.State, verb rune, shown string) {
	if verb == 'q' || verb == 'v' && f.Flag('#') {
		shown = strconv.Quote(shown)
	}
	_, _ = io.WriteString(f, shown)
}

func showDSN(u *upstream.Upstream) string {
	var hosts []string
	for _, h := range u.Hosts() {
		hosts = append(hosts, fmt.Sprintf("%s:%d", h.Name, h.Port))
	}
	user := u.User()
	if u.Password() != "" {
		user += ":" + mask
	}
	return "postgres://" + user + "@" + strings.Join(hosts, ",") + "/" + u.Database()
}
