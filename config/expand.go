package config

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// expand replaces ${NAME} and ${file:path}, and $$ by $. A $ before anything else stands for itself, so that a SCRAM
// verifier can be written as it is. What is inserted is not expanded again. The complaint quotes names and paths, but
// never a value.
//
// escape, if not nil, makes an inserted value fit its place, which is known from the text before and after it.
func (s Source) expand(text string, escape func(before, value, after string) string) (out string, expanded bool, complaint string) {
	var b strings.Builder
	for rest := text; ; {
		literal, after, found := strings.Cut(rest, "$")
		b.WriteString(literal)
		if !found {
			return b.String(), expanded, complaint
		}
		switch {
		case strings.HasPrefix(after, "$"):
			b.WriteByte('$')
			rest = after[1:]
		case strings.HasPrefix(after, "{"):
			name, tail, closed := strings.Cut(after[1:], "}")
			if !closed {
				return "", true, "has a ${ that is never closed; expected ${NAME} or ${file:/path}, or $${ for the text itself"
			}
			value, problem := s.value(name)
			if problem != "" && complaint == "" {
				complaint = problem
			}
			if escape != nil {
				value = escape(b.String(), value, tail)
			}
			b.WriteString(value)
			expanded, rest = true, tail
		default:
			b.WriteByte('$')
			rest = after
		}
	}
}

// value is what stands for the name inside ${…}.
func (s Source) value(name string) (value, problem string) {
	if path, ok := strings.CutPrefix(name, "file:"); ok {
		if path == "" {
			return "", "${file:} names no file; expected ${file:/run/secrets/name}"
		}
		data, err := s.ReadFile(s.located(path))
		switch {
		case err != nil:
			return "", fmt.Sprintf("${file:%s} cannot be read: %s; expected a readable file", short(path), why(err))
		case !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0:
			return "", fmt.Sprintf("${file:%s} is not text", short(path))
		}
		return strings.TrimRight(string(data), "\r\n"), ""
	}
	if !envName.MatchString(name) {
		return "", "has a ${…} with something else than a name in it; expected ${NAME} of letters, digits and _, or ${file:/path}, or $${ for the text itself"
	}
	value, ok := s.Env(name)
	switch {
	case !ok:
		return "", fmt.Sprintf("the environment variable %s is not set; expected it in weir's environment", short(name))
	case !utf8.ValidString(value):
		return "", fmt.Sprintf("the environment variable %s is not UTF-8", short(name))
	}
	return value, ""
}
