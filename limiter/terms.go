package limiter

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// Terms are what a function says of its transaction, by parameters of its session (weir.deadline, weir.priority,
// weir.caller) or by a comment ahead of the statement: /* weir: deadline=800ms, priority=batch */.
type Terms struct {
	Deadline time.Duration // it wants the answer within this, from when it asks; 0: not said
	Level    Level         // the priority it claims, when Claims
	Claims   bool
	Caller   string // what it says it is; empty: nothing
}

// longestDeadline is the longest deadline that says anything.
const longestDeadline = 24 * time.Hour

// longestCaller is as long as PostgreSQL's names.
const longestCaller = 63

// Set takes in one parameter, by its name without "weir.". An error says what is wrong with it, and nothing is taken in.
func (t *Terms) Set(name, value string) error {
	switch name {
	case "deadline":
		d, err := parseDeadline(value)
		if err != nil {
			return err
		}
		t.Deadline = d
	case "priority":
		l, ok := Priority(value).Level()
		if !ok || value == "" {
			return fmt.Errorf("weir.priority: %s is not a priority; expected %s", quoted(value), onePriority)
		}
		t.Level, t.Claims = l, true
	case "caller":
		if len(value) > longestCaller || strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return fmt.Errorf("weir.caller: %s is not a name; expected at most %d bytes without control characters", quoted(value), longestCaller)
		}
		t.Caller = value
	default:
		return fmt.Errorf("weir.%s: there is no such parameter; expected one of weir.deadline, weir.priority, weir.caller", quoted(name))
	}
	return nil
}

// parseDeadline reads a duration with its unit; 0 is none.
func parseDeadline(s string) (time.Duration, error) {
	const expected = "expected a duration with its unit, such as 800ms or 2s, of at most 24h"
	if s == "0" || s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil && strings.Trim(s, "0123456789.") == "":
		return 0, fmt.Errorf("weir.deadline: %s has no unit; %s", quoted(s), expected)
	case err != nil:
		return 0, fmt.Errorf("weir.deadline: %s is not a duration; %s", quoted(s), expected)
	case d < 0:
		return 0, fmt.Errorf("weir.deadline: %s is in the past; %s", quoted(s), expected)
	case d > longestDeadline:
		return 0, fmt.Errorf("weir.deadline: %s is too long; %s", quoted(s), expected)
	}
	return d, nil
}

// quoted is a value as it may stand in a message: cut short, control characters made visible.
func quoted(s string) string {
	const most = 40
	if len(s) > most {
		s = s[:most] + "..."
	}
	return fmt.Sprintf("%q", s)
}

var commentMark = []byte("weir:")

// longestComment is how long a comment for us may be, in bytes.
const longestComment = 256

// HasComment reports whether there is a comment at the front of a statement that may be for us.
func HasComment(sql []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(sql[:min(len(sql), longestComment)], " \t\r\n"), []byte("/*"))
}

// ReadComment takes in the comment at the front of a statement, if it is for us. What is wrong in it is left out, and said by
// an error; what is right holds.
func (t *Terms) ReadComment(sql []byte) error {
	sql = bytes.TrimLeft(sql, " \t\r\n")
	if !bytes.HasPrefix(sql, []byte("/*")) {
		return nil
	}
	sql = sql[2:]
	end := bytes.Index(sql[:min(len(sql), longestComment)], []byte("*/"))
	if end < 0 {
		return nil
	}
	said, ours := bytes.CutPrefix(bytes.TrimSpace(sql[:end]), commentMark)
	if !ours {
		return nil
	}
	var first error
	for part := range bytes.SplitSeq(said, []byte(",")) {
		if len(bytes.TrimSpace(part)) == 0 {
			continue
		}
		name, value, ok := bytes.Cut(part, []byte("="))
		var err error
		if ok {
			err = t.Set(strings.ToLower(string(bytes.TrimSpace(name))), string(bytes.TrimSpace(value)))
		} else {
			err = fmt.Errorf("the comment for weir: %s has no value; expected such as /* weir: deadline=800ms, priority=batch */", quoted(string(bytes.TrimSpace(part))))
		}
		if first == nil {
			first = err
		}
	}
	return first
}
