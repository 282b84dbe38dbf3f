package pgtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Message is one frame as it was on the wire, without its length.
type Message struct {
	Type byte
	Body []byte
}

// String shows the message as a person debugging a protocol wants it.
func (m Message) String() string {
	body := m.Body
	var more string
	if len(body) > 200 {
		body, more = body[:200], fmt.Sprintf("… (%d bytes)", len(m.Body))
	}
	return fmt.Sprintf("%c %q%s", m.Type, body, more)
}

// Field returns one field of an ErrorResponse or NoticeResponse: 'S' severity, 'C' SQLSTATE, 'M' message, 'D' detail,
// 'H' hint; "" when it is not there.
func (m Message) Field(code byte) string {
	for body := m.Body; len(body) > 1; {
		end := bytes.IndexByte(body, 0)
		if end < 1 {
			break
		}
		if body[0] == code {
			return string(body[1:end])
		}
		body = body[end+1:]
	}
	return ""
}

// Types is the order of the messages as one letter each, say "TDCZ".
func Types(messages []Message) string {
	var types strings.Builder
	for _, m := range messages {
		types.WriteByte(m.Type)
	}
	return types.String()
}

// Rows returns the first column of each DataRow as text.
func Rows(messages []Message) []string {
	var rows []string
	for _, m := range messages {
		var row pgproto3.DataRow
		if m.Type == 'D' && row.Decode(m.Body) == nil && len(row.Values) > 0 {
			rows = append(rows, string(row.Values[0]))
		}
	}
	return rows
}

// Compare fails the test where the proxy's answers are not the server's, byte for byte and in order. Only the process id
// and secret of BackendKeyData may differ.
func Compare(tb testing.TB, direct, proxied []Message) {
	tb.Helper()
	for i := range max(len(direct), len(proxied)) {
		switch {
		case i >= len(direct):
			tb.Errorf("message %d: the proxy adds %v", i, proxied[i])
		case i >= len(proxied):
			tb.Errorf("message %d: the proxy leaves out %v", i, direct[i])
		case !same(direct[i], proxied[i]):
			tb.Errorf("message %d: the proxy sends %v\nthe server sends %v", i, proxied[i], direct[i])
			tb.Logf("order of messages: server %s, proxy %s", Types(direct), Types(proxied))
			return // what follows a difference is noise
		}
	}
}

func same(a, b Message) bool {
	return a.Type == b.Type && (a.Type == 'K' || bytes.Equal(a.Body, b.Body))
}

// Encode is the bytes of messages as they go over the wire. It panics on a message that cannot be encoded.
func Encode[M pgproto3.Message](messages ...M) []byte {
	var wire []byte
	for _, m := range messages {
		var err error
		if wire, err = m.Encode(wire); err != nil {
			panic(fmt.Sprintf("pgtest: encode %T: %v", m, err))
		}
	}
	return wire
}

// Reply is a server's whole answer to a query that returns n rows of one column.
func Reply(n int) []byte {
	wire := Encode(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{
		{Name: []byte("n"), DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1},
	}})
	for i := range n {
		wire = append(wire, Encode(&pgproto3.DataRow{Values: [][]byte{fmt.Append(nil, i)}})...)
	}
	wire = append(wire, Encode(&pgproto3.CommandComplete{CommandTag: fmt.Appendf(nil, "SELECT %d", n)})...)
	return append(wire, Encode(&pgproto3.ReadyForQuery{TxStatus: 'I'})...)
}

// maxMessage keeps a wrong length in a test from taking all memory.
const maxMessage = 1 << 30

var errLength = errors.New("impossible message length")

// readMessage reads one frame with a type byte.
func readMessage(r io.Reader) (Message, error) {
	var header [5]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return Message{}, err
	}
	body, err := readBody(r, header[1:], maxMessage)
	return Message{Type: header[0], Body: body}, err
}

func readBody(r io.Reader, length []byte, most uint32) ([]byte, error) {
	n := binary.BigEndian.Uint32(length)
	if n < 4 || n > most {
		return nil, fmt.Errorf("%w: %d", errLength, n)
	}
	body := make([]byte, n-4)
	_, err := io.ReadFull(r, body)
	return body, err
}
