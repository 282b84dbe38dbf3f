package storm

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/weirproxy/weir/pgwire"
)

// verdict is what an error means to a function.
type verdict struct {
	refused bool          // it was turned away, and nothing was executed
	retry   bool          // trying again may help
	wait    time.Duration // as the HINT says; 0: it says nothing
	cause   cause
}

// cause is what the same errors have in common.
type cause struct {
	sqlstate string // empty when no server said it
	text     string
	rule     string // of weir's DETAIL
}

// judge reads an error of a login or of a statement.
func judge(err error) verdict {
	refusal, ok := errors.AsType[*pgwire.Error](err)
	if !ok {
		return verdict{retry: retryable(err), cause: cause{text: complaint(err)}}
	}
	v := verdict{
		refused: isRefusal(refusal),
		wait:    retryAfter(refusal.Hint),
		cause:   cause{sqlstate: refusal.Code, text: refusal.Message, rule: detailField(refusal.Detail, "rule=")},
	}
	v.retry = v.refused || v.wait > 0 || hasPrefix(refusal.Code, "08", "40001", "40P01", "57P")
	return v
}

// isRefusal says whether a server or a pooler turned somebody away: by weir's DETAIL, by SQLSTATEs that mean nothing else, or
// by PgBouncer's words, for its SQLSTATE is always the one of a protocol violation.
func isRefusal(e *pgwire.Error) bool {
	return strings.HasPrefix(e.Detail, "not executed") || hasPrefix(e.Code, "53", "57P03") ||
		e.Code == "08P01" && hasPrefix(e.Message, pgbouncerRefusals...)
}

var pgbouncerRefusals = []string{
	"query_wait_timeout", "no more connections allowed", "server login has been failing", "client_login_timeout",
	"pgbouncer cannot connect to server", "the database system is", "too many",
}

func hasPrefix(text string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(text, p) {
			return true
		}
	}
	return false
}

// retryAfter reads `retry after N ms`.
func retryAfter(hint string) time.Duration {
	_, rest, ok := strings.Cut(hint, "retry after ")
	if !ok {
		return 0
	}
	number, _, ok := strings.Cut(rest, " ms")
	ms, err := strconv.Atoi(number)
	if !ok || err != nil || ms < 0 {
		return 0
	}
	return min(time.Duration(ms)*time.Millisecond, MaxDeadline)
}

// detailField finds `name=value` in a DETAIL.
func detailField(detail, name string) string {
	for word := range strings.FieldsSeq(detail) {
		if value, ok := strings.CutPrefix(word, name); ok {
			return strings.TrimRight(value, ";,")
		}
	}
	return ""
}

// retryable errors of the network are those of a connection, not of an address.
func retryable(err error) bool {
	var name *net.DNSError
	return !errors.Is(err, errCopy) && !errors.Is(err, errNoTLS) && !errors.As(err, &name)
}

// complaint is an error without what differs from function to function.
func complaint(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the server closed the connection"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	}
	return err.Error()
}
