package auth

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Kind is the form in which a secret was written.
type Kind int

// The kinds of secrets.
const (
	None      Kind = iota // no password: nobody can log in, except with trust
	PlainText             // the password itself
	MD5Hash               // md5(password + user), as PostgreSQL kept passwords before SCRAM
	Verifier              // a SCRAM verifier: proves the password without holding it
)

// Bounds of a SCRAM verifier. pgx refuses more iterations than this; a server has no reason to ask for them.
const (
	maxIterations = 10_000_000
	maxSaltLength = 256 // bytes; PostgreSQL makes 16
)

const (
	verifierPrefix = "SCRAM-SHA-256$"
	md5Prefix      = "md5"
	md5Digits      = 32
	lowerHex       = "0123456789abcdef"
)

// Secret is what weir knows of one user's password. The zero Secret is None.
//
// It never shows itself: printed, logged or marshalled it is a row of stars.
type Secret struct {
	sealed *sealed
}

// sealed is a second pointer on the way to the secret: fmt calls no method of an unexported field, but follows one
// pointer when the verb does not fit. It stays comparable by reflect.DeepEqual, unlike a closure.
type sealed struct {
	parsed *parsedSecret
}

func seal(p parsedSecret) Secret { return Secret{&sealed{&p}} }

type parsedSecret struct {
	kind     Kind
	plain    string // PlainText
	md5      string // MD5Hash: the hexadecimal digits
	verifier verifier
}

type verifier struct {
	iterations           int
	salt                 []byte
	storedKey, serverKey [32]byte
}

// ParseSecret reads a password as PostgreSQL would: a SCRAM verifier, an md5 hash, or else plain text. Its errors say
// what was expected and never quote the secret.
func ParseSecret(s string) (Secret, error) {
	switch {
	case s == "":
		return Secret{}, errors.New("the password is empty: leave it out for a user who must not log in")
	case strings.HasPrefix(s, verifierPrefix):
		v, err := parseVerifier(s[len(verifierPrefix):])
		if err != nil {
			return Secret{}, fmt.Errorf("SCRAM verifier: expected %s<iterations>:<salt>$<StoredKey>:<ServerKey> as in pg_authid.rolpassword: %w", verifierPrefix, err)
		}
		return seal(parsedSecret{kind: Verifier, verifier: v}), nil
	case strings.HasPrefix(s, md5Prefix) && len(s) == len(md5Prefix)+md5Digits:
		digits := s[len(md5Prefix):]
		if strings.Trim(digits, lowerHex) != "" {
			return Secret{}, fmt.Errorf("md5 hash: expected %s and %d digits of %s", md5Prefix, md5Digits, lowerHex)
		}
		return seal(parsedSecret{kind: MD5Hash, md5: digits}), nil
	case strings.ContainsRune(s, 0):
		return Secret{}, errors.New("the password contains a NUL, which no client can send")
	}
	return seal(parsedSecret{kind: PlainText, plain: s}), nil
}

// parseVerifier reads <iterations>:<salt>$<StoredKey>:<ServerKey>.
func parseVerifier(s string) (v verifier, err error) {
	parameters, keys, ok := strings.Cut(s, "$")
	iterations, salt, ok1 := strings.Cut(parameters, ":")
	stored, server, ok2 := strings.Cut(keys, ":")
	if !ok || !ok1 || !ok2 {
		return v, errors.New("a part is missing")
	}
	if v.iterations, err = parseIterations(iterations); err != nil {
		return v, err
	}
	if len(salt) > base64.StdEncoding.EncodedLen(maxSaltLength) {
		return v, fmt.Errorf("the salt has more than %d bytes", maxSaltLength)
	}
	if v.salt, err = decodeBase64(salt); err != nil || len(v.salt) == 0 || len(v.salt) > maxSaltLength {
		return v, fmt.Errorf("the salt is not 1 to %d bytes in base64", maxSaltLength)
	}
	if err := decodeKey(&v.storedKey, stored); err != nil {
		return v, fmt.Errorf("the StoredKey %w", err)
	}
	if err := decodeKey(&v.serverKey, server); err != nil {
		return v, fmt.Errorf("the ServerKey %w", err)
	}
	return v, nil
}

func parseIterations(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxIterations || strconv.Itoa(n) != s {
		return 0, fmt.Errorf("the iterations are not a number from 1 to %d", maxIterations)
	}
	return n, nil
}

func decodeKey(key *[32]byte, s string) error {
	b, err := decodeBase64(s)
	if err != nil || len(b) != len(key) {
		return fmt.Errorf("is not %d bytes in base64", len(key))
	}
	copy(key[:], b)
	return nil
}

var errBase64 = errors.New("not base64")

// decodeBase64 takes only what the encoder would have written; the library's decoder skips line breaks.
func decodeBase64(s string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || base64.StdEncoding.EncodedLen(len(b)) != len(s) {
		return nil, errBase64
	}
	return b, nil
}

// Kind says how the secret was written.
func (s Secret) Kind() Kind {
	if s.sealed == nil {
		return None
	}
	return s.sealed.parsed.kind
}

const mask = "*****"

// String returns stars.
func (Secret) String() string { return mask }

// Format prints stars whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(mask)) }

// MarshalText returns stars, for JSON, YAML and structured logs.
func (Secret) MarshalText() ([]byte, error) { return []byte(mask), nil }

// UnmarshalText is ParseSecret, for decoders.
func (s *Secret) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSecret(string(text))
	return err
}
