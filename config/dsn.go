package config

import (
	"errors"
	"io/fs"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// A dsnError says what is wrong with a DSN without quoting any of it.
type dsnError struct{ what, expected string }

func (e *dsnError) Error() string { return e.what + "; expected " + e.expected }

const dsnShape = "a postgres:// URL or key=value pairs, as libpq knows them"

var otherScheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)

// parseDSN is pgconn.ParseConfig with errors that are safe to show. pgconn masks passwords as best it can, but cannot
// know what in a malformed string was meant as one; so nothing of its text is passed on, only what it complained about.
func parseDSN(text string) (*pgconn.Config, error) {
	if !isPostgresURL(text) && otherScheme.MatchString(text) {
		return nil, &dsnError{"is not a PostgreSQL URL", dsnShape}
	}
	parsed, err := pgconn.ParseConfig(text)
	if err == nil && strings.Contains(parsed.Database, "@") && isPostgresURL(text) {
		// postgres://app:12/34@db/orders is valid: database "34@db/orders" on the host "app". Nobody means that.
		return nil, &dsnError{"has an @ behind its first /; special characters in its password must be percent-encoded, %2F for /", dsnShape}
	}
	if err == nil {
		return parsed, nil
	}
	// All that precedes the message is the string that was parsed, and this is how pgconn writes it.
	complaint := strings.TrimPrefix(err.Error(), pgconn.NewParseConfigError(text, "", nil).Error())
	for _, known := range dsnComplaints {
		if strings.HasPrefix(complaint, known.prefix) {
			return nil, &dsnError{known.what + reason(err), known.expected}
		}
	}
	return nil, &dsnError{"is not a usable connection string", dsnShape}
}

var dsnComplaints = []struct{ prefix, what, expected string }{
	{"failed to parse as URL", "is not a valid URL; special characters in its password must be percent-encoded, %40 for @", dsnShape},
	{"failed to parse as keyword/value", "is neither a postgres:// URL nor key=value pairs", dsnShape},
	{"invalid port", "has a port that is not a number from 1 to 65535; special characters in its password must be percent-encoded, %40 for @", dsnShape},
	{"could not match", "lists more or fewer ports than hosts", "one port for all hosts, or one for each"},
	{"failed to read service", "names a service that cannot be read", "a service of the service file"},
	{"invalid connect_timeout", "has a connect_timeout that is not a number", "seconds"},
	{"invalid sslcertmode", "has an unknown sslcertmode", "one of disable, allow, require"},
	{"failed to configure TLS", "has TLS settings that cannot be used", "sslmode one of disable, allow, prefer, require, verify-ca, verify-full, and readable sslrootcert, sslcert and sslkey"},
	{"unknown target_session_attrs", "has an unknown target_session_attrs", "one of any, read-write, read-only, primary, standby, prefer-standby"},
	{"invalid min_protocol_version", "has an unknown min_protocol_version", "one of 3.0, 3.2, latest"},
	{"invalid max_protocol_version", "has an unknown max_protocol_version", "one of 3.0, 3.2, latest"},
	{"min_protocol_version cannot", "has a min_protocol_version above its max_protocol_version", "the lower one first"},
	{"unknown channel_binding", "has an unknown channel_binding", "one of disable, prefer, require"},
	{"invalid require_auth", "has an unknown require_auth", "a list of password, md5, scram-sha-256, none"},
}

// reason adds the operating system's part of an error, which holds no text of the DSN.
func reason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return ": " + path.Err.Error()
	}
	return ""
}

func isPostgresURL(text string) bool {
	return strings.HasPrefix(text, "postgres://") || strings.HasPrefix(text, "postgresql://")
}
