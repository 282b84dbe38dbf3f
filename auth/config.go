package auth

import (
	"fmt"
	"strings"
)

// Config says how clients prove who they are. A zero field takes the default written beside it.
type Config struct {
	Method Method `yaml:"method"` // trust | password | md5 | scram-sha-256 (scram-sha-256)
}

// Validate says what is wrong with the configuration, and what was expected.
func (c Config) Validate() error {
	_, err := c.Method.row()
	return err
}

// Method is the way a client proves who it is, in the words of pg_hba.conf. The empty Method is SCRAM.
type Method string

// The methods.
const (
	Trust    Method = "trust"         // the client is believed
	Password Method = "password"      // the password itself crosses the network: only over TLS
	MD5      Method = "md5"           // a hash with a salt of four bytes, or SCRAM for those who have a SCRAM verifier
	SCRAM    Method = "scram-sha-256" // RFC 7677; over TLS also bound to the server's certificate
)

// row finds the method in the table of methods.
func (m Method) row() (*method, error) {
	if m == "" {
		m = SCRAM
	}
	names := make([]string, len(methods))
	for i := range methods {
		if methods[i].name == m {
			return &methods[i], nil
		}
		names[i] = string(methods[i].name)
	}
	return nil, fmt.Errorf("auth method %q is unknown: expected %s", string(m), strings.Join(names, ", "))
}

// Usable returns nil when a user with this secret can log in with this method, or says why not and what would do.
func (m Method) Usable(s Secret) error {
	row, err := m.row()
	if err != nil {
		return err
	}
	if why := row.unusable(s.Kind()); why != "" {
		return fmt.Errorf("cannot log in: %s", why)
	}
	return nil
}
