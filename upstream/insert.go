package upstream

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	schemeOf    = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)
	pairOf      = regexp.MustCompile(`(?:^|\s)[A-Za-z_]+\s*=\s*(?:'(?:[^'\\]|\\.)*|(?:[^'\s\\]|\\.)(?:[^\s\\]|\\.)*|)$`)
	placeholder = regexp.MustCompile(`\$\{[^}]*\}`)
	encoded     = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
)

// Insert makes a value fit for its place in a connection string, or in any other URL, so that what is read there is the value as
// it is, whatever characters it has. before and after are the text around it, without the values of placeholders behind it.
//
// A value that names more than one part of the string is left as it is: the string as a whole or its beginning, hosts and their
// ports, the parameters behind the ?. One that stands for user and password is taken apart at its first colon.
//
// doubtful says that the value has been encoded, but looks as if it had been before.
func Insert(before, value, after string) (inserted string, doubtful bool) {
	scheme := schemeOf.FindString(before)
	if scheme == "" {
		if strings.Contains(before, "://") || !pairOf.MatchString(before) {
			return value, false
		}
		return insertPair(before, value), false
	}
	inserted = insertURL(before[len(scheme):], value, placeholder.ReplaceAllString(after, ""))
	return inserted, inserted != value && encoded.MatchString(value) && !strings.ContainsAny(value, ":/?#[]@ ")
}

// insertURL is Insert behind a URL's scheme.
func insertURL(before, value, after string) string {
	credentials, _, _ := strings.Cut(after, "/")
	switch {
	case !strings.ContainsAny(before, "@/") && strings.Contains(credentials, "@"):
		user, password, both := strings.Cut(value, ":")
		if strings.Contains(before, ":") || !both || !strings.HasPrefix(after, "@") {
			return percentEncode(value)
		}
		return percentEncode(user) + ":" + percentEncode(password)
	}
	_, path, _ := cutAuthority(before)
	path, query, inQuery := strings.Cut(path, "?")
	switch {
	case inQuery:
		if strings.Contains(query[strings.LastIndexByte(query, '&')+1:], "=") {
			return percentEncode(value)
		}
		return value
	case strings.HasPrefix(path, "/"):
		return strings.ReplaceAll(percentEncode(value), "%2F", "/")
	}
	return value // hosts
}

// cutAuthority cuts what follows a URL's scheme where its path or its query begins.
func cutAuthority(text string) (authority, rest string, found bool) {
	start := 0
	if i := strings.IndexAny(text, "@/"); i >= 0 && text[i] == '@' {
		start = i + 1
	}
	i := strings.IndexAny(text[start:], "/?")
	if i < 0 {
		return text, "", false
	}
	return text[:start+i], text[start+i:], true
}

var escapePair = strings.NewReplacer(`\`, `\\`, `'`, `\'`, " ", `\ `, "\t", "\\\t", "\n", "\\\n", "\r", "\\\r", "\v", "\\\v", "\f", "\\\f")

// insertPair is Insert for the value of a pair key=value, in quotes or not.
func insertPair(before, value string) string {
	if value == "" && strings.HasSuffix(strings.TrimRight(before, blanks), "=") {
		return "''" // for nothing at all, the next pair would be taken as the value
	}
	return escapePair.Replace(value)
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
