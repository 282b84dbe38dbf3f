package pgwire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// HeaderSize is the length of a message's type and length fields.
const HeaderSize = 5

// MaxLength is the largest value of a length field, PostgreSQL's own limit (PQ_LARGE_MESSAGE_LIMIT, 1 GB - 1).
const MaxLength = 0x3fffffff

// ErrLength is a length field that no message can have.
var ErrLength = errors.New("invalid message length")

// Types of messages that clients send.
const (
	Bind         = 'B'
	Close        = 'C'
	CopyData     = 'd' // both ways
	CopyDone     = 'c' // both ways
	CopyFail     = 'f'
	Describe     = 'D'
	Execute      = 'E'
	Flush        = 'H'
	FunctionCall = 'F'
	Parse        = 'P'
	Password     = 'p' // and SASL messages
	Query        = 'Q'
	Sync         = 'S'
	Terminate    = 'X'
)

// Types of messages that servers send.
const (
	Authentication           = 'R'
	BackendKeyData           = 'K'
	BindComplete             = '2'
	CloseComplete            = '3'
	CommandComplete          = 'C'
	CopyBothResponse         = 'W'
	CopyInResponse           = 'G'
	CopyOutResponse          = 'H'
	DataRow                  = 'D'
	EmptyQueryResponse       = 'I'
	ErrorResponse            = 'E'
	FunctionCallResponse     = 'V'
	NegotiateProtocolVersion = 'v'
	NoData                   = 'n'
	NoticeResponse           = 'N'
	NotificationResponse     = 'A'
	ParameterDescription     = 't'
	ParameterStatus          = 'S'
	ParseComplete            = '1'
	PortalSuspended          = 's'
	ReadyForQuery            = 'Z'
	RowDescription           = 'T'
)

// Transaction status indicators of ReadyForQuery.
const (
	Idle          = 'I'
	InTransaction = 'T'
	InFailed      = 'E'
)

// Length reads the length field of the message that begins with head, at least HeaderSize bytes, and returns the length
// of its body.
func Length(head []byte) (body int, err error) {
	n := binary.BigEndian.Uint32(head[1:])
	if n < 4 || n > MaxLength {
		return 0, fmt.Errorf("%w %d in a message of type %q", ErrLength, n, head[0])
	}
	return int(n) - 4, nil
}

// CString splits the NUL-terminated string off the front of b. ok is false when there is no NUL.
func CString(b []byte) (s, rest []byte, ok bool) {
	for i, c := range b {
		if c == 0 {
			return b[:i], b[i+1:], true
		}
	}
	return nil, b, false
}
