package auth

import (
	"bytes"
	"crypto/md5"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"slices"
)

// method is one row of the table of methods.
type method struct {
	name   Method
	plain  Kind            // what plain text is turned into when the table of users is made
	proofs map[Kind]*proof // how a client proves a secret of each kind; missing: never
}

// methods is all there is to a method. As in PostgreSQL, md5 asks users with a verifier for SCRAM, for nothing else
// could be checked against it; an md5 hash is of no use to scram-sha-256.
var methods = []method{
	{Trust, None, map[Kind]*proof{None: &trust}},
	{Password, PlainText, map[Kind]*proof{PlainText: &cleartext, MD5Hash: &cleartext, Verifier: &cleartext}},
	{MD5, MD5Hash, map[Kind]*proof{MD5Hash: &md5Challenge, Verifier: &scramSHA256}},
	{SCRAM, Verifier, map[Kind]*proof{Verifier: &scramSHA256}},
}

// unusable says why a secret of this kind is of no use, or nothing.
func (m *method) unusable(k Kind) string {
	switch {
	case m.name == Trust:
		return ""
	case k == None:
		return "the user has no password"
	case k == PlainText || m.proofs[k] != nil:
		return ""
	}
	return fmt.Sprintf("the user has an md5 hash, which %s cannot use: expected a SCRAM verifier or plain text", m.name)
}

// maxPassword is PostgreSQL's bound on a password message.
const maxPassword = 65535

var (
	trust        = proof{label: "trust", start: startTrust} // without a step: the start is all
	cleartext    = proof{label: "password", limit: maxPassword, start: startCleartext, step: stepCleartext}
	md5Challenge = proof{label: "md5", limit: maxPassword, start: startMD5, step: stepMD5}
)

func startTrust(x *Exchange, dst []byte) ([]byte, bool, error) {
	if x.doomed != "" {
		return nil, false, &Failure{
			Code:    codeInvalidAuthorization,
			Message: `role "` + x.user + `" does not exist`,
			Reason:  x.doomed,
		}
	}
	return appendAuth(dst, authOk), true, nil
}

func startCleartext(_ *Exchange, dst []byte) ([]byte, bool, error) {
	return appendAuth(dst, authCleartext), false, nil
}

func stepCleartext(x *Exchange, dst, body []byte) ([]byte, bool, error) {
	password, err := passwordOf(body)
	if err != nil {
		return nil, false, err
	}
	return x.conclude(dst, x.matches(string(password)))
}

// matches checks the password itself against a secret of any kind, in constant time for its kind.
func (x *Exchange) matches(password string) bool {
	c := x.credential
	switch c.kind {
	case Verifier:
		salted, err := saltedPassword(password, c.salt, c.iterations)
		if err != nil {
			x.doomed = err.Error() // such as a salt that Go's FIPS mode finds too short
			return false
		}
		serverKey := hmacSHA256(salted, []byte("Server Key"))
		return subtle.ConstantTimeCompare(serverKey[:], c.serverKey[:]) == 1
	case MD5Hash:
		hash := md5Hash(password, x.user)
		return subtle.ConstantTimeCompare(hash[:], c.hash[:]) == 1
	default:
		digest := x.users.digest(saslprep(password))
		return subtle.ConstantTimeCompare(digest[:], c.hash[:]) == 1
	}
}

func startMD5(x *Exchange, dst []byte) ([]byte, bool, error) {
	_, _ = rand.Read(x.challenge[:]) // never fails: it ends the process instead
	return appendAuth(dst, authMD5, x.challenge[:]...), false, nil
}

func stepMD5(x *Exchange, dst, body []byte) ([]byte, bool, error) {
	answer, err := passwordOf(body)
	if err != nil {
		return nil, false, err
	}
	sum := md5.Sum(slices.Concat(x.credential.hash[:], x.challenge[:]))
	want := hex.AppendEncode([]byte(md5Prefix), sum[:])
	return x.conclude(dst, subtle.ConstantTimeCompare(answer, want) == 1)
}

// conclude ends an exchange that needs no last word of its own.
func (x *Exchange) conclude(dst []byte, right bool) ([]byte, bool, error) {
	if !right || x.doomed != "" {
		return nil, false, x.denied()
	}
	return appendAuth(dst, authOk), true, nil
}

// passwordOf takes the one string out of a PasswordMessage.
func passwordOf(body []byte) ([]byte, error) {
	end := bytes.IndexByte(body, 0)
	switch {
	case end < 0 || end != len(body)-1:
		return nil, violation("invalid password packet size", "A password and one NUL after it were expected.")
	case end == 0:
		return nil, &Failure{Code: codeInvalidPassword, Message: "empty password returned by client"}
	}
	return body[:end], nil
}
