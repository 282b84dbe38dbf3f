package pool

import (
	"sort"
	"strings"

	"github.com/weirproxy/weir/pgwire"
)

// Settings are run-time parameters that a client asked for at startup. Equal ones are the same pointer (see [Pool.Intern]),
// so that comparing them costs nothing. They never change.
type Settings struct {
	names, values []string // sorted by name
	key           string
}

// Setting is one parameter.
type Setting struct{ Name, Value string }

func newSettings(list []Setting) *Settings {
	sort.SliceStable(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	s := &Settings{}
	for _, l := range list {
		if n := len(s.names); n > 0 && s.names[n-1] == l.Name {
			s.values[n-1] = l.Value // the last one given holds
			continue
		}
		s.names, s.values = append(s.names, l.Name), append(s.values, l.Value)
	}
	var key strings.Builder
	for i := range s.names {
		key.WriteString(s.names[i])
		key.WriteByte(0)
		key.WriteString(s.values[i])
		key.WriteByte(0)
	}
	s.key = key.String()
	return s
}

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

// AppendChange appends the Query that turns a connection with the settings from into one with the settings to. Either may
// be nil, for none. It appends nothing when they are the same.
func AppendChange(dst []byte, from, to *Settings) []byte {
	if from == to {
		return dst
	}
	var sql strings.Builder
	if from != nil {
		for _, name := range from.names {
			if _, kept := to.get(name); !kept {
				sql.WriteString("RESET " + quoteName(name) + ";")
			}
		}
	}
	if to != nil {
		for i, name := range to.names {
			if old, ok := from.get(name); !ok || old != to.values[i] {
				sql.WriteString("SELECT pg_catalog.set_config(" + quoteString(name) + "," + quoteString(to.values[i]) + ",false);")
			}
		}
	}
	if sql.Len() == 0 {
		return dst
	}
	return pgwire.AppendQuery(dst, sql.String())
}

// Matters reports whether turning from into to sets anything but application_name, so that a statement must not run before
// the server has accepted it.
func Matters(from, to *Settings) bool {
	if to == nil {
		return false
	}
	for i, name := range to.names {
		if old, ok := from.get(name); name != "application_name" && (!ok || old != to.values[i]) {
			return true
		}
	}
	return false
}

// quoteName quotes each part of a parameter's name, so that whatever a client calls it, it stays a name.
func quoteName(name string) string {
	parts := strings.Split(name, ".")
	for i, p := range parts {
		parts[i] = `"` + strings.ReplaceAll(p, `"`, `""`) + `"`
	}
	return strings.Join(parts, ".")
}

// quoteString quotes a value. The E form reads the same whatever standard_conforming_strings is. set_config takes a value
// as the startup packet does, lists included, which SET would not.
func quoteString(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}
