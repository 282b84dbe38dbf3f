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
				value = escape(text[:len(text)-len(rest)+len(literal)], value, tail)
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

var (
	urlPassword = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+]*://[^@/?#:]*:[^@/?#]*$`)
	keyPassword = regexp.MustCompile(`(?:^|\s)password\s*=\s*(?:'[^']*|[^'\s]*)$`)
)

var keyEscapes = strings.NewReplacer(`\`, `\\`, `'`, `\'`, " ", `\ `, "\t", "\\\t", "\n", "\\\n", "\r", "\\\r", "\v", "\\\v", "\f", "\\\f")

// escapeDSN lets a password be inserted as it is: one that could not stand in the place of the password of a URL is
// percent-encoded, and between key=value pairs it is escaped. A value that is fit for a URL stays as it is, for it may
// have been encoded before.
func escapeDSN(before, value, after string) string {
	switch {
	case urlPassword.MatchString(before) && strings.Contains(after, "@"):
		if fitForURL(value) {
			return value
		}
		return percentEncode(value)
	case !strings.Contains(before, "://") && keyPassword.MatchString(before):
		if value == "" && strings.HasSuffix(strings.TrimRight(before, " \t"), "=") {
			return "''" // for nothing at all, the next pair would be taken as the password
		}
		return keyEscapes.Replace(value)
	}
	return value
}

func fitForURL(value string) bool {
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '%':
			if i+2 >= len(value) || !isHex(value[i+1]) || !isHex(value[i+2]) {
				return false
			}
		case c <= ' ' || c >= 0x7f || strings.IndexByte(`:/?#[]@"<>\^{|}`+"`", c) >= 0:
			return false
		}
	}
	return true
}

func percentEncode(value string) string {
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		c := value[i]
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'F' || c >= 'a' && c <= 'f'
}
