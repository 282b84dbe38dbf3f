package pgwire

import (
	"cmp"
	"encoding/binary"
)

// Error is what a proxy reads from, or says in, an ErrorResponse or NoticeResponse (manual, "Error and Notice Message
// Fields").
type Error struct {
	Severity string // ERROR, FATAL, PANIC, and for notices WARNING and less
	Code     string // SQLSTATE, five characters
	Message  string
	Detail   string // left out when empty
	Hint     string // left out when empty
	Routine  string // the function in the server's source; only read
	Context  string // what the server was about, such as a function that was called; only read
}

// Error returns the message as a client shows it.
func (e *Error) Error() string { return e.Severity + ": " + e.Message + " (SQLSTATE " + e.Code + ")" }

// Fatal reports whether the server ends the connection with this.
func (e *Error) Fatal() bool { return e.Severity == "FATAL" || e.Severity == "PANIC" }

// AppendError appends e as an ErrorResponse.
func AppendError(dst []byte, e *Error) []byte { return appendFields(dst, ErrorResponse, e) }

// AppendNotice appends e as a NoticeResponse.
func AppendNotice(dst []byte, e *Error) []byte { return appendFields(dst, NoticeResponse, e) }

func appendFields(dst []byte, t byte, e *Error) []byte {
	at := len(dst)
	dst = append(dst, t, 0, 0, 0, 0)
	field := func(code byte, s string) {
		if s != "" {
			dst = append(append(append(dst, code), s...), 0)
		}
	}
	// These are always there, even where we pass on what a server said without them: drivers count on it.
	field('S', cmp.Or(e.Severity, "ERROR"))
	field('V', cmp.Or(e.Severity, "ERROR"))
	code := e.Code
	if len(code) != 5 {
		code = "XX000"
	}
	field('C', code)
	field('M', cmp.Or(e.Message, "no reason was given"))
	field('D', e.Detail)
	field('H', e.Hint)
	dst = append(dst, 0)
	binary.BigEndian.PutUint32(dst[at+1:], uint32(len(dst)-at-1))
	return dst
}

// ParseError reads the fields of an ErrorResponse's or NoticeResponse's body, which may be cut short: the fields that
// matter most come first. The severity is the one that is never translated, where the server sends it.
func ParseError(body []byte) Error {
	var e Error
	for len(body) > 0 && body[0] != 0 {
		code := body[0]
		value, rest, ok := CString(body[1:])
		if !ok {
			break
		}
		switch code {
		case 'S':
			if e.Severity == "" {
				e.Severity = string(value)
			}
		case 'V':
			e.Severity = string(value)
		case 'C':
			e.Code = string(value)
		case 'M':
			e.Message = string(value)
		case 'D':
			e.Detail = string(value)
		case 'H':
			e.Hint = string(value)
		case 'R':
			e.Routine = string(value)
		case 'W':
			e.Context = string(value)
		}
		body = rest
	}
	return e
}
