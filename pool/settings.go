package pool

import (
	"slices"
	"sort"
	"strings"

	"github.com/weirproxy/weir/pgwire"
)

// Settings are run-time parameters that a session has beyond those of every server connection. nil stands for none. Equal
// ones are mostly the same pointer, so that comparing them costs nothing. They never change.
type Settings struct {
	names, values []string // sorted by name, in lower case: to the server it makes no difference
	key           string
	plan          string // see Plan
	temporary     bool   // see Temporary
}

// Setting is one parameter.
type Setting struct{ Name, Value string }

func newSettings(asked []Setting) *Settings {
	list := canonical(asked)
	s := &Settings{key: keyOf(list)}
	for _, l := range list {
		s.names, s.values = append(s.names, l.Name), append(s.values, l.Value)
	}
	path, _ := s.get("search_path")
	s.temporary = strings.Contains(path, "pg_temp")
	s.plan = keyOf(slices.DeleteFunc(list, func(l Setting) bool { return slices.Contains(unplanned, l.Name) }))
	return s
}

// canonical is asked, as a list of its own, in lower case, sorted by name, each name once: the last one given holds.
func canonical(asked []Setting) []Setting {
	list := make([]Setting, 0, len(asked))
	for _, a := range asked {
		list = append(list, Setting{strings.ToLower(a.Name), a.Value})
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	once := list[:0]
	for i, l := range list {
		if i+1 == len(list) || list[i+1].Name != l.Name {
			once = append(once, l)
		}
	}
	return once
}

// keyOf is equal for equal lists of canonical settings.
func keyOf(list []Setting) string {
	var key strings.Builder
	for _, l := range list {
		key.WriteString(l.Name)
		key.WriteByte(0)
		key.WriteString(l.Value)
		key.WriteByte(0)
	}
	return key.String()
}

// unplanned are parameters that make no difference to what a statement means, or to how it is planned.
var unplanned = []string{
	"application_name", "client_min_messages", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout",
	"idle_session_timeout",
}

// Plan is equal for settings under which a statement means the same and is planned alike.
func (s *Settings) Plan() string {
	if s == nil {
		return ""
	}
	return s.plan
}

// Temporary reports whether tables may be temporary without anybody saying so: the search path names their schema.
func (s *Settings) Temporary() bool { return s != nil && s.temporary }

func (s *Settings) get(name string) (string, bool) {
	if s == nil {
		return "", false
	}
	i := sort.SearchStrings(s.names, name)
	if i < len(s.names) && s.names[i] == name {
		return s.values[i], true
	}
	return "", false
}

// identity are the parameters that decide what the others may be set to: they are left first, and entered last.
var identity = []string{"role", "session_authorization"}

// AppendChange appends the Query that turns a connection with the settings from into one with the settings to. Either may
// be nil, for none. It appends nothing when they are the same.
//
// The Query changes all or nothing, and where it fails the session is left in a failed transaction, so that nothing takes
// effect that was sent behind it: nobody has to wait for its answer.
func AppendChange(dst []byte, from, to *Settings) []byte {
	if from.equal(to) {
		return dst
	}
	var sql strings.Builder
	sure := true // of its success
	reset := func(name string) { sql.WriteString("RESET " + quoteName(name) + ";") }
	set := func(name, value string) {
		sql.WriteString("SELECT pg_catalog.set_config(" + QuoteString(name) + "," + QuoteString(value) + ",false);")
		sure = sure && name == "application_name"
	}
	for _, name := range identity { // left whatever it is that changes, which may be more than that identity is allowed
		if _, had := from.get(name); had {
			reset(name)
		}
	}
	for i := range from.len() {
		name := from.names[i]
		if _, kept := to.get(name); !kept && !slices.Contains(identity, name) {
			reset(name)
		}
	}
	for i := range to.len() {
		name := to.names[i]
		if old, ok := from.get(name); !slices.Contains(identity, name) && (!ok || old != to.values[i]) {
			set(name, to.values[i])
		}
	}
	for _, name := range slices.Backward(identity) {
		if value, ok := to.get(name); ok {
			set(name, value)
		}
	}
	if sure {
		return pgwire.AppendQuery(dst, sql.String())
	}
	return pgwire.AppendQuery(dst, "BEGIN;"+sql.String()+"COMMIT")
}

func (s *Settings) equal(other *Settings) bool { return s.identifies() == other.identifies() }

// identifies is the key, "" for none.
func (s *Settings) identifies() string {
	if s == nil {
		return ""
	}
	return s.key
}

// AppendKey appends what is equal for equal settings.
func (s *Settings) AppendKey(dst []byte) []byte { return append(dst, s.identifies()...) }

func (s *Settings) list() (all []Setting) {
	for i := range s.len() {
		all = append(all, Setting{s.names[i], s.values[i]})
	}
	return all
}

// Unlisted are the names of those that the server does not list: an application has made them up.
func (s *Settings) Unlisted() (names []string) {
	for i := range s.len() {
		if strings.Contains(s.names[i], ".") {
			names = append(names, s.names[i])
		}
	}
	return names
}

// Has reports whether there is a setting of that name.
func (s *Settings) Has(name string) bool {
	_, ok := s.get(strings.ToLower(name))
	return ok
}

func (s *Settings) len() int {
	if s == nil {
		return 0
	}
	return len(s.names)
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
