package pool

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirproxy/weir/pgwire"
)

// This is what we ourselves say to a server in SQL, wherever names are looked up in it. It runs in the sessions of clients, with whatever
// search path and role they have set, and whoever may create something in a schema of that path could have it run something of theirs
// (CVE-2018-1058). So each function, operator, type and relation is named with its schema, each literal has its type, and nothing is
// compared otherwise than by OPERATOR(pg_catalog.…). What else we say, as BEGIN or DEALLOCATE, has no such names in it.

// AppendDiscard appends the Query that leaves nothing of what sessions have set, prepared, locked or opened on s.
func (s *Server) AppendDiscard(dst []byte) []byte {
	s.Discarded()
	return pgwire.AppendQuery(dst, discardAll)
}

// AppendDiscardSequences appends the Query that has a server forget what was drawn from sequences (manual, "DISCARD").
func AppendDiscardSequences(dst []byte) []byte { return pgwire.AppendQuery(dst, "DISCARD SEQUENCES") }

// AppendDeallocateAll appends the Query that has a server forget what is prepared (manual, "DEALLOCATE").
func AppendDeallocateAll(dst []byte) []byte { return pgwire.AppendQuery(dst, "DEALLOCATE ALL") }

// discardAll is all that PostgreSQL knows of a session (manual, "DISCARD").
const discardAll = "DISCARD ALL"

// change is a Query that changes settings, while it is put together.
type change struct {
	sql  strings.Builder
	sure bool  // of its success
	ends []int // of its statements, where they are to be sent one by one
	each bool  // they are
}

func (c *change) reset(name string) { c.add("RESET " + quoteName(name) + ";") }

func (c *change) set(name, value string) {
	c.add("SELECT pg_catalog.set_config(" + QuoteString(name) + "," + QuoteString(value) + ",false);")
	c.sure = c.sure && name == "application_name"
}

func (c *change) add(statement string) {
	c.sql.WriteString(statement)
	if c.each {
		c.ends = append(c.ends, c.sql.Len())
	}
}

// append appends the Query, if there is anything to change.
func (c *change) append(dst []byte) []byte {
	switch {
	case c.sql.Len() == 0:
		return dst
	case c.sure:
		return pgwire.AppendQuery(dst, c.sql.String())
	default:
		return pgwire.AppendQuery(dst, "BEGIN;"+c.sql.String()+"COMMIT")
	}
}

// appendEach is append for statements that are sent one by one, see AppendNamed.
func (c *change) appendEach(dst []byte) []byte {
	var all []string
	from, sql := 0, c.sql.String()
	for _, end := range c.ends {
		all = append(all, sql[from:end])
		from = end
	}
	switch {
	case len(all) == 0:
		return dst
	case !c.sure:
		all = slices.Concat([]string{"BEGIN"}, all, []string{"COMMIT"})
	}
	return AppendNamed(dst, all...)
}

// Raise is the statement that fails with the SQLSTATE, the message and the hint.
func Raise(code, message, hint string) string {
	return "DO $weir$BEGIN RAISE EXCEPTION USING ERRCODE = " + QuoteString(code) + ", MESSAGE = " + QuoteString(message) +
		", HINT = " + QuoteString(hint) + "; END$weir$"
}

// Query is a SELECT of three columns of text, which questions about a session are made of: a label, and of a parameter its name and value.
type Query string

// text is a literal.
func text(s string) string { return QuoteString(s) + "::pg_catalog.text" }

// SettingsSet asks for the parameters that the session has set, as far as the server lists them.
func SettingsSet(label string) Query {
	return Query("SELECT " + text(label) + ", name, setting FROM pg_catalog.pg_settings" +
		" WHERE source OPERATOR(pg_catalog.=) " + text("session") +
		" AND pg_catalog.left(name, 12) OPERATOR(pg_catalog.<>) " + text("transaction_") +
		" UNION ALL SELECT " + text(label) + ", name, pg_catalog.current_setting(name) FROM " + values([]string{"role", "session_authorization"}))
}

// SettingsNamed asks for parameters that the server does not list: an application has made them up.
func SettingsNamed(label string, names []string) Query {
	return Query("SELECT " + text(label) + ", name, pg_catalog.current_setting(name, true) FROM " + values(names) +
		" WHERE pg_catalog.current_setting(name, true) IS NOT NULL")
}

func values(names []string) string {
	rows := make([]string, len(names))
	for i, n := range names {
		rows[i] = "(" + text(n) + ")"
	}
	return "(VALUES " + strings.Join(rows, ",") + ") AS v(name)"
}

// anyOf asks whether there are such rows: it has one, with the label, if so.
func anyOf(label, rows string) Query {
	return Query("SELECT " + text(label) + ", " + text("") + ", " + text("") + " WHERE EXISTS (SELECT FROM " + rows + ")")
}

// AnyPrepared asks for statements of SQL's PREPARE.
func AnyPrepared(label string) Query {
	return anyOf(label, "pg_catalog.pg_prepared_statements WHERE from_sql")
}

// AnyListening asks for channels that are listened to.
func AnyListening(label string) Query { return anyOf(label, "pg_catalog.pg_listening_channels()") }

// AnyTemporary asks for objects in the temporary schema.
func AnyTemporary(label string) Query {
	return anyOf(label, "pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass::pg_catalog.oid"+
		" AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()")
}

// AnyHoldable asks for cursors WITH HOLD.
func AnyHoldable(label string) Query { return anyOf(label, "pg_catalog.pg_cursors WHERE is_holdable") }

// AnyLock asks for advisory locks of the session.
func AnyLock(label string) Query {
	return anyOf(label, "pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) "+text("advisory")+
		" AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()")
}

// EndProcesses asks which of these processes the server has. It has those end that are this user's, were there before age and wait for what their
// client says.
func EndProcesses(pids []uint32, age time.Duration) string {
	all := make([]string, len(pids))
	for i, pid := range pids {
		all[i] = number(pid)
	}
	return "SELECT pid, CASE WHEN usename OPERATOR(pg_catalog.=) CURRENT_USER AND wait_event OPERATOR(pg_catalog.=) " + text("ClientRead") +
		" AND backend_start OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.-) '" + strconv.FormatInt(age.Milliseconds(), 10) + " ms'::pg_catalog.interval)" +
		" THEN pg_catalog.pg_terminate_backend(pid) END" +
		" FROM pg_catalog.pg_stat_activity WHERE pid OPERATOR(pg_catalog.=) ANY ('{" + strings.Join(all, ",") + "}'::pg_catalog.int4[])"
}

func number(pid uint32) string { return strconv.FormatUint(uint64(pid), 10) }

// Ask is one query of several.
func Ask(questions []Query) string {
	all := make([]string, len(questions))
	for i, q := range questions {
		all[i] = string(q)
	}
	return strings.Join(all, " UNION ALL ")
}

// quoteName quotes each part of a parameter's name, so that whatever a client calls it, it stays a name.
func quoteName(name string) string {
	parts := strings.Split(name, ".")
	for i, p := range parts {
		parts[i] = `"` + strings.ReplaceAll(p, `"`, `""`) + `"`
	}
	return strings.Join(parts, ".")
}

// QuoteString is a value as a literal in SQL. The E form reads the same whatever standard_conforming_strings is. set_config takes a value
// as the startup packet does, lists included, which SET would not.
func QuoteString(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}
