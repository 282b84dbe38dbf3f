package upstream

import (
	"maps"
	"net/url"
	"slices"
	"strings"
)

func isURL(text string) bool {
	return strings.HasPrefix(text, "postgres://") || strings.HasPrefix(text, "postgresql://")
}

// settings are the pairs that a connection string has, of which pgconn does not tell apart whether it or a default had them. The
// string is one that pgconn can read; of any other, some may be missing.
func settings(text string) map[string]string {
	if isURL(text) {
		return settingsOfURL(text)
	}
	return settingsOfPairs(text)
}

// splitURL cuts a URL at the ? of its query, as libpq does: what is ahead of an @ may hold anything.
func splitURL(text string) (before, query string, found bool) {
	start := strings.Index(text, "://") + len("://")
	if i := strings.IndexAny(text[start:], "@/"); i >= 0 && text[start+i] == '@' {
		start += i + 1
	}
	i := strings.IndexByte(text[start:], '?')
	if i < 0 {
		return text, "", false
	}
	return text[:start+i], text[start+i+1:], true
}

func settingsOfURL(text string) map[string]string {
	found := map[string]string{}
	before, query, _ := splitURL(text)
	authority, _, _ := strings.Cut(before[strings.Index(before, "://")+len("://"):], "/")
	if user, host, ok := strings.Cut(authority, "@"); ok {
		authority = host
		if _, password, _ := strings.Cut(user, ":"); password != "" {
			found["password"] = password
		}
	}
	if strings.Trim(authority, ",") != "" && !strings.HasPrefix(authority, ":") {
		found["host"] = authority
	}
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		key, err1 := url.PathUnescape(key)
		value, err2 := url.PathUnescape(value)
		if err1 == nil && err2 == nil && key != "" {
			found[key] = value
		}
	}
	return found
}

const blanks = " \t\n\r\v\f"

func settingsOfPairs(text string) map[string]string {
	found := map[string]string{}
	for text = strings.TrimLeft(text, blanks); text != ""; text = strings.TrimLeft(text, blanks) {
		key, rest, ok := strings.Cut(text, "=")
		if !ok {
			return found
		}
		var value string
		value, text = firstValue(strings.TrimLeft(rest, blanks))
		found[strings.Trim(key, blanks)] = value
	}
	return found
}

// firstValue takes one value, which may be in quotes, off text.
func firstValue(text string) (value, rest string) {
	var b strings.Builder
	quoted := strings.HasPrefix(text, "'")
	if quoted {
		text = text[1:]
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		case c == '\\':
		case quoted && c == '\'':
			return b.String(), text[i+1:]
		case !quoted && strings.IndexByte(blanks, c) >= 0:
			return b.String(), text[i:]
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}

var quoteValue = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

// with is a connection string with one more setting, or another value of one. Of pairs all are written anew: what is put behind the
// last one might become its value.
func with(text, key, value string) string {
	if !isURL(text) {
		pairs := settingsOfPairs(text)
		pairs[key] = value
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(pairs)) {
			b.WriteString(name + "='" + quoteValue.Replace(pairs[name]) + "' ")
		}
		return b.String()
	}
	separator := "?"
	if _, query, found := splitURL(text); found {
		separator = "&"
		if query == "" || strings.HasSuffix(query, "&") {
			separator = ""
		}
	}
	return text + separator + key + "=" + strings.ReplaceAll(url.QueryEscape(value), "+", "%20")
}
