package postgres

import (
	"bytes"
	"slices"
	"strings"

	"github.com/weirproxy/weir/proxy/postgres/sqltext"
)

// mostNames is how many parameters of applications a text may name before it counts as one that does not.
const mostNames = 64

// parameters is what a text says about run-time parameters where it says SET, RESET or set_config. The server lists those
// that it, or an extension, has defined. Those with a dot in their name that an application has made up it does not list:
// they have to be asked for by name.
type parameters struct {
	config bool     // a set_config may outlast the transaction
	names  []string // with a dot
	vague  bool     // there may be more, whose names are not plain to see
}

// readParameters reads a whole text. Comments, strings and bodies of functions are read like everything else: what looks
// as if it was set, while it is not, does no harm. What is not plain to see counts as lasting, and as vague.
func readParameters(sql []byte) (p parameters) {
	unclear, inString := false, false // by what came before: escapes and comments, and single quotes
	for i := 0; i < len(sql); {
		if b := sql[i]; wordByte[b] == 0 {
			i++
			inString = inString != (b == '\'')
			unclear = unclear || b == '\\' || i < len(sql) && (b == '-' && sql[i] == '-' || b == '/' && sql[i] == '*')
			continue
		}
		word := wordAt(sql[i:])
		i += len(word)
		switch {
		case equalWord(word, "set"), equalWord(word, "reset"):
			end := min(len(sql), i+longestSetName)
			p.readName(sql[i:end], end < len(sql))
		case equalWord(word, "set_config"):
			p.readConfig(unclear || inString, sql[i:])
		}
	}
	p.vague = p.vague || len(p.names) > mostNames
	return p
}

func wordAt(b []byte) []byte {
	n := 0
	for n < len(b) && wordByte[b[n]] != 0 {
		n++
	}
	return b[:n]
}

// equalWord compares without regard to case; lower is in lower case.
func equalWord(word []byte, lower string) bool {
	if len(word) != len(lower) {
		return false
	}
	for i, b := range word {
		if wordByte[b] != lower[i] {
			return false
		}
	}
	return true
}

// skipComments skips blanks and whole comments.
func skipComments(b []byte) []byte {
	rest, _ := sqltext.Skip(b)
	return rest
}

func (p *parameters) add(name string) {
	name = strings.ToLower(name)
	if len(p.names) <= mostNames && !slices.Contains(p.names, name) {
		p.names = append(p.names, name)
	}
}

// longestSetName is how much behind SET or RESET is looked at for a name, in bytes: what does not end there is not plain to see.
const longestSetName = 256

// readName reads the name behind SET or RESET; cut is that the text goes on behind b.
func (p *parameters) readName(b []byte, cut bool) {
	b = skipComments(b)
	for _, word := range []string{"session", "local"} {
		if w := wordAt(b); equalWord(w, word) {
			b = skipComments(b[len(w):])
		}
	}
	if len(b) == 0 {
		p.vague = p.vague || cut
		return
	}
	if bytes.IndexByte([]byte("(*,;)"), b[0]) >= 0 { // columns of an UPDATE, or not this statement at all
		return
	}
	var name []byte
	for {
		part, rest, ok := identifier(b)
		if !ok {
			p.vague = true
			return
		}
		name = append(name, part...)
		if b = sqltext.SkipBlanks(rest); len(b) == 0 || b[0] != '.' {
			ended := len(rest) == 0 || wordByte[rest[0]] == 0 && bytes.IndexByte([]byte(" \t\r\n\f\v=;"), rest[0]) >= 0
			p.vague = p.vague || !ended || len(b) == 0 && cut
			break
		}
		name = append(name, '.')
		b = sqltext.SkipBlanks(b[1:])
	}
	if bytes.IndexByte(name, '.') >= 0 {
		p.add(string(name))
	}
}

// identifier reads a word, in double quotes or not. ok is false for anything else, the stranger identifiers included.
func identifier(b []byte) (word, rest []byte, ok bool) {
	quoted := len(b) > 0 && b[0] == '"'
	if quoted {
		b = b[1:]
	}
	word = wordAt(b)
	rest = b[len(word):]
	if quoted {
		if len(rest) == 0 || rest[0] != '"' {
			return nil, nil, false
		}
		rest = rest[1:]
	}
	return word, rest, len(word) > 0 && isPlainName(word)
}

// longestName is how long a name may be before the server cuts it (NAMEDATALEN), in bytes.
const longestName = 63

// isPlainName reports whether a part of a name means what it says: the server does not cut it, and its case is not in doubt.
func isPlainName(word []byte) bool { return len(word) <= longestName && isASCII(string(word)) }

// readConfig reads the call of set_config whose name stands before b; unclear is that it may stand in a string.
func (p *parameters) readConfig(unclear bool, b []byte) {
	arguments, ok := plainArguments(b[:min(len(b), longestCall)])
	switch {
	case !ok || unclear || len(arguments) != 3:
		p.config, p.vague = true, true
		return
	case strings.EqualFold(arguments[2], "true"):
		return
	}
	p.config = true
	name, plain := literal(arguments[0])
	switch {
	case !plain, !isASCII(name):
		p.vague = true
	case strings.Contains(name, "."):
		p.add(name)
	}
}

// longestCall is how much of a call is looked at, in bytes.
const longestCall = 1 << 10

// plainArguments splits the arguments of a call. ok is false when that takes more than a glance: for comments, strings other
// than simple ones, and quotes in them.
func plainArguments(b []byte) (list []string, ok bool) {
	b = sqltext.SkipBlanks(bytes.TrimPrefix(b, []byte(`"`)))
	if len(b) == 0 || b[0] != '(' {
		return nil, false
	}
	const deepest = 16
	depth, inside, from := 1, false, 1
	for i := 1; i < len(b); i++ {
		c := b[i]
		next := byte(0)
		if i+1 < len(b) {
			next = b[i+1]
		}
		switch {
		case c == '\\':
			return nil, false
		case c == '\'':
			if next == '\'' { // an empty string, or a quote within one
				return nil, false
			}
			inside = !inside
		case inside:
		case c == '"', c == '-', c == '/', c == '$' && (next < '0' || next > '9'):
			return nil, false
		case c == '(':
			if depth++; depth > deepest {
				return nil, false
			}
		case c == ')' || c == ',' && depth == 1:
			if c == ')' {
				depth--
			}
			if c == ',' || depth == 0 {
				list = append(list, string(bytes.TrimSpace(b[from:i])))
				from = i + 1
			}
			if depth == 0 {
				return list, true
			}
		}
	}
	return nil, false
}

// literal is the text of a string in single quotes, with or without ::text behind it.
func literal(argument string) (text string, ok bool) {
	argument = strings.TrimSuffix(argument, "::text")
	if len(argument) < 2 || argument[0] != '\'' || argument[len(argument)-1] != '\'' {
		return "", false
	}
	text = argument[1 : len(argument)-1]
	return text, !strings.Contains(text, "'")
}

// settledByWords replaces what was found of run-time parameters in a text by what its words say about them; nil stands for a text that was
// not kept. names are those that have to be asked for.
func (t touch) settledByWords(text []byte) (found touch, names []string) {
	if t&(touchSet|touchConfig) == 0 {
		return t, nil
	}
	p := parameters{config: true, vague: true}
	if text != nil {
		p = readParameters(text)
	}
	found = t &^ touchConfig
	if t&touchConfig != 0 {
		found |= touchLocal
		if p.config {
			found |= touchSet
		}
	}
	if found&touchSet == 0 {
		return found, nil
	}
	if p.vague {
		found |= touchUnnamed
	}
	if len(p.names) > 0 {
		found |= touchNamed
	}
	return found, p.names
}
