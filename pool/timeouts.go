package pool

import (
	"slices"
	"strconv"
	"strings"

	"github.com/weirproxy/weir/pgwire"
)

// The timeouts of a session are for its own statements. What we say ourselves on the server connection that it had, so that another one can
// have it, must not run into them: the other one would be told. Nor may they end the connection while nobody has it.

// enoughForUs is the timeout, in milliseconds, that nothing that we say ourselves runs into, and no machine that is busy makes it.
const enoughForUs = 1000

// isHasty reports whether what we say ourselves may fail, or have to wait, where a session has set this.
func isHasty(name, value string) bool {
	switch name {
	case "statement_timeout", "lock_timeout", "transaction_timeout":
		return isShort(value)
	case "default_transaction_deferrable": // may wait for the transactions of others
		return value != "off"
	}
	return false
}

// isShort reports whether a timeout is less than enough for us, for all that is plain to see.
func isShort(value string) bool {
	number := strings.TrimRight(value, "mshind")
	n, err := strconv.Atoi(number)
	if err != nil {
		return true
	}
	switch value[len(number):] {
	case "", "ms":
		return n > 0 && n < enoughForUs
	case "s", "min", "h", "d":
		return false
	}
	return true
}

// calming is the SQL that has the hasty ones of a list be as from the start, "" if there are none. The timeout of the statement itself is the first.
func calming(list []Setting) string {
	var names []string
	for _, l := range list {
		if isHasty(l.Name, l.Value) {
			names = append(names, l.Name)
		}
	}
	slices.Reverse(names) // transaction_timeout, statement_timeout, lock_timeout, …
	var c change
	for _, name := range names {
		c.reset(name)
	}
	return c.sql.String()
}

// calmings is how often that is said, each time as a Query of its own. Even so little may run into a timeout of a millisecond, when the process
// has to wait for a processor at just that moment; but not every time.
const calmings = 3

// AppendCalming appends Queries by which nothing that is said behind them ends by what the session that had s last has set, and returns how many.
// It is for settings of which [Settings.Calms] says that they need it. Each of the Queries may fail: the settings of s are to be changed as if they
// had not been said.
func (s *Server) AppendCalming(dst []byte) ([]byte, int) {
	for range calmings {
		dst = pgwire.AppendQuery(dst, s.Settings.calming)
	}
	return dst, calmings
}

// AppendUnhurried appends a Query by which DISCARD ALL behind it does not end by a statement_timeout that nobody has noticed. It may fail.
func AppendUnhurried(dst []byte) []byte { return pgwire.AppendQuery(dst, unhurried) }

const unhurried = "SET statement_timeout = 0"

// Calms reports whether there is something in s by which what others say may end.
func (s *Settings) Calms() bool { return s != nil && s.calming != "" }

// endsConnections reports whether the server ends a connection where a session has set this: while it rests, or at the first that is said on it
// for another, which cannot be said again.
func endsConnections(name, value string) bool {
	return name == "idle_session_timeout" && value != "0" || name == "transaction_timeout" && isShort(value)
}

// restingOf is what stays of s while the connection rests, and the SQL for that.
func restingOf(s *Settings) (resting *Settings, sql string) {
	var stay []Setting
	var c change
	for _, l := range s.list() {
		if endsConnections(l.Name, l.Value) {
			c.reset(l.Name)
		} else {
			stay = append(stay, l)
		}
	}
	if len(stay) == s.len() {
		return s, ""
	}
	return settingsOf(stay), c.sql.String()
}

// MayRest reports whether a server connection with these settings may rest as it is. Else [Server.Reset] has to put that right.
func (s *Settings) MayRest() bool { return s == nil || s.resting == s }

// toRest is the SQL that has s rest without such timeouts.
func (s *Server) toRest() string {
	sql := s.Settings.toRest
	s.Settings, s.suits = s.Settings.resting, nil
	return sql
}
