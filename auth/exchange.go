package auth

import (
	"encoding/binary"
	"fmt"
)

// Exchange is the conversation of one login. It does no I/O and is used by one goroutine at a time.
type Exchange struct {
	users      *Users
	user       string
	binding    Binding
	credential *credential // the user's, or mock
	mock       credential
	doomed     string // why the login fails whatever the client proves; for the log
	proof      *proof
	stage      stage

	challenge [4]byte    // the salt of md5
	scram     scramState // of SCRAM
}

// stage is how far an exchange is.
type stage int

const (
	fresh stage = iota
	begun
	over
)

// proof is how a client proves a secret of one kind: what is asked of it, and what it must answer.
type proof struct {
	label string
	limit int // longest body of an answer, in bytes
	start func(x *Exchange, dst []byte) (out []byte, done bool, err error)
	step  func(x *Exchange, dst, body []byte) (out []byte, done bool, err error)
}

// Start appends the first messages for the client to dst. The login is done when done says so, and otherwise goes on
// with Step. An error is a *Failure and ends the exchange; dst comes back as it was.
func (x *Exchange) Start(dst []byte) (out []byte, done bool, err error) {
	if x.stage != fresh {
		return x.settle(dst, nil, false, violation("invalid message", "The authentication has begun."))
	}
	x.stage = begun
	out, done, err = x.proof.start(x, dst)
	return x.settle(dst, out, done, err)
}

// Step takes the body of the client's next message (its type is 'p' for all of them) and appends the answer to dst,
// which must not overlap the body. The rest is as with Start. The body is not kept.
func (x *Exchange) Step(dst, body []byte) (out []byte, done bool, err error) {
	switch {
	case x.stage != begun:
		err = violation("invalid message", "No authentication is going on.")
	case len(body) > x.proof.limit:
		err = violation("invalid message length", "The message is longer than %d bytes.", x.proof.limit)
	default:
		out, done, err = x.proof.step(x, dst, body)
	}
	return x.settle(dst, out, done, err)
}

// settle keeps the promises that hold for every method.
func (x *Exchange) settle(dst, out []byte, done bool, err error) ([]byte, bool, error) {
	if done || err != nil {
		x.stage = over
	}
	if err != nil {
		return dst, false, err
	}
	return out, done, nil
}

// Limit is the longest body of a message, in bytes, that the client has reason to send next.
func (x *Exchange) Limit() int { return x.proof.limit }

// Method is the metric label of what the client was asked for or has chosen: trust, password, md5, scram-sha-256 or
// scram-sha-256-plus.
func (x *Exchange) Method() string {
	if x.scram.plus {
		return x.proof.label + "-plus"
	}
	return x.proof.label
}

// Failure is why a login was refused. Code, Message and Detail are what PostgreSQL would say and are for the client;
// Reason is for the log and must stay there: it says whether the user exists.
type Failure struct {
	Code    string // SQLSTATE
	Message string
	Detail  string // may be empty
	Reason  string // may be empty
}

// Error is for the log. It contains no secret.
func (f *Failure) Error() string {
	s := f.Message
	if f.Detail != "" {
		s += ": " + f.Detail
	}
	if f.Reason != "" {
		s += " (" + f.Reason + ")"
	}
	return s
}

// The SQLSTATEs of a Failure.
const (
	codeInvalidPassword      = "28P01"
	codeInvalidAuthorization = "28000"
	codeProtocolViolation    = "08P01"
	codeNotSupported         = "0A000"
)

// denied is the one answer to a wrong password, an unknown user and a user who can never log in.
func (x *Exchange) denied() *Failure {
	reason := "wrong password"
	if x.doomed != "" {
		reason = x.doomed
	}
	return &Failure{
		Code:    codeInvalidPassword,
		Message: `password authentication failed for user "` + x.user + `"`,
		Reason:  reason,
	}
}

// violation is a Failure of the client to speak the protocol.
func violation(message, detail string, args ...any) *Failure {
	return &Failure{Code: codeProtocolViolation, Message: message, Detail: fmt.Sprintf(detail, args...)}
}

// The codes of Authentication messages.
const (
	authOk           = 0
	authCleartext    = 3
	authMD5          = 5
	authSASL         = 10
	authSASLContinue = 11
	authSASLFinal    = 12
)

// authHeader is the length of an Authentication message ahead of its payload.
const authHeader = 1 + 4 + 4

// appendAuth appends one Authentication message.
func appendAuth(dst []byte, code uint32, payload ...byte) []byte {
	dst = append(dst, 'R')
	dst = binary.BigEndian.AppendUint32(dst, uint32(authHeader-1+len(payload)))
	dst = binary.BigEndian.AppendUint32(dst, code)
	return append(dst, payload...)
}
