// Package sqltext takes SQL apart as PostgreSQL's lexer does (manual, "Lexical Structure"; scan.l), as far as that tells what is a
// word, what is a string, and what is a comment. It reads no grammar.
package sqltext

import (
	"bytes"
	"strconv"
)

// Kind is what a token is.
type Kind byte

// The kinds of tokens.
const (
	Word         Kind = iota // a keyword or an identifier without quotes
	Identifier               // "…"
	CodePoints               // U&"…", an identifier of which no more is known
	String                   // '…', N'…', B'…', X'…'
	Escapes                  // E'…' or U&'…', of which no more is known where a backslash is in it
	Dollar                   // $tag$…$tag$
	Parameter                // $1
	Number                   // that which begins with a digit
	Punctuation              // one character of everything else
	Unterminated             // the rest of a text that ends within a string, an identifier or a comment
)

// Token is a piece of SQL.
type Token struct {
	Kind Kind
	Text []byte // as it stands there
	From int    // where it begins in the text
}

// Body is what is between the quotes of a string or an identifier, as it stands there: quotes within it are doubled.
func (t Token) Body() []byte {
	switch t.Kind {
	case Identifier, String, CodePoints, Escapes:
		first := bytes.IndexAny(t.Text, `'"`)
		return t.Text[first+1 : len(t.Text)-1]
	case Dollar:
		tag := bytes.IndexByte(t.Text[1:], '$') + 2
		return t.Text[tag : len(t.Text)-tag]
	}
	return t.Text
}

// Value is what a simple string says: its body, in which quotes are not doubled.
func (t Token) Value() []byte {
	if t.Kind != String {
		return t.Body()
	}
	return bytes.ReplaceAll(t.Body(), []byte("''"), []byte("'"))
}

// Hides reports whether the token may stand for more than can be read in it.
func (t Token) Hides() bool {
	switch t.Kind {
	case CodePoints, Unterminated:
		return true
	case Escapes:
		return bytes.IndexByte(t.Text, '\\') >= 0 || t.Text[0] == 'u' || t.Text[0] == 'U'
	}
	return false
}

// Is reports whether the token is that word, in lower case, without quotes around it.
func (t Token) Is(word string) bool { return t.Kind == Word && Fold(t.Text, word) }

// Fold compares a text with one in lower case.
func Fold(text []byte, lower string) bool {
	if len(text) != len(lower) {
		return false
	}
	for i, c := range text {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// Reader reads a text token by token. Comments and blanks are passed over.
type Reader struct {
	// Backslashes is that they are escapes in simple strings, too (standard_conforming_strings is off): such strings are Escapes.
	Backslashes bool

	text []byte
	at   int
}

// NewReader returns a Reader of a whole text.
func NewReader(sql []byte) *Reader { return &Reader{text: sql} }

// Next returns the next token; ok is false at the end.
func (r *Reader) Next() (t Token, ok bool) {
	rest, whole := Skip(r.text[r.at:])
	from := len(r.text) - len(rest)
	if !whole {
		r.at = len(r.text)
		return Token{Unterminated, r.text[from:], from}, true
	}
	if from == len(r.text) {
		return Token{}, false
	}
	kind, n := r.token(r.text[from:])
	if n < 0 {
		kind, n = Unterminated, len(r.text)-from
	}
	r.at = from + n
	return Token{kind, r.text[from:r.at], from}, true
}

// blanks are the characters between tokens.
const blanks = " \t\r\n\f\v"

// isBlank marks the blanks.
var isBlank = func() (t [256]bool) {
	for i := range len(blanks) {
		t[blanks[i]] = true
	}
	return t
}()

// SkipBlanks is sql without the blanks at its front.
func SkipBlanks(sql []byte) []byte {
	for i, b := range sql {
		if !isBlank[b] {
			return sql[i:]
		}
	}
	return nil
}

// Skip is sql without the blanks and the comments at its front. whole is false where a comment has no end: then it is left there.
func Skip(sql []byte) (rest []byte, whole bool) {
	for {
		sql = SkipBlanks(sql)
		switch {
		case len(sql) < 2 || sql[0] != '-' && sql[0] != '/': // most texts, in few steps
			return sql, true
		case bytes.HasPrefix(sql, []byte("--")):
			end := bytes.IndexAny(sql, "\r\n")
			if end < 0 {
				return nil, true
			}
			sql = sql[end:]
		case bytes.HasPrefix(sql, []byte("/*")):
			end := commentEnd(sql)
			if end < 0 {
				return sql, false
			}
			sql = sql[end:]
		default:
			return sql, true
		}
	}
}

// commentEnd is where the comment at the front of b ends, which may have others in it; negative if it does not.
func commentEnd(b []byte) int {
	depth := 0
	for i := 0; i+1 < len(b); i++ {
		switch {
		case b[i] == '/' && b[i+1] == '*':
			depth++
			i++
		case b[i] == '*' && b[i+1] == '/':
			depth--
			i++
			if depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// token is the kind and the length of the token at the front of b, negative if it has no end.
func (r *Reader) token(b []byte) (Kind, int) {
	next := func(i int) byte {
		if i < len(b) {
			return b[i]
		}
		return 0
	}
	switch c := b[0] | 0x20; {
	case b[0] == '\'':
		return r.simple(b)
	case b[0] == '"':
		return Identifier, quoted(b, 0, '"', false)
	case c == 'e' && next(1) == '\'':
		return Escapes, quoted(b, 1, '\'', true)
	case c == 'u' && next(1) == '&' && next(2) == '\'':
		return Escapes, quoted(b, 2, '\'', false)
	case c == 'u' && next(1) == '&' && next(2) == '"':
		return CodePoints, quoted(b, 2, '"', false)
	case (c == 'b' || c == 'x' || c == 'n') && next(1) == '\'':
		return String, quoted(b, 1, '\'', false)
	case b[0] == '$':
		return dollar(b)
	case isWordStart(b[0]):
		n := 1
		for n < len(b) && isWordPart(b[n]) {
			n++
		}
		return Word, n
	case isDigit(b[0]):
		n := 1
		for n < len(b) && (isDigit(b[n]) || isWordStart(b[n]) || b[n] == '.') {
			n++
		}
		return Number, n
	}
	return Punctuation, 1
}

func (r *Reader) simple(b []byte) (Kind, int) {
	n := quoted(b, 0, '\'', r.Backslashes)
	if n > 0 && r.Backslashes && bytes.IndexByte(b[:n], '\\') >= 0 {
		return Escapes, n
	}
	return String, n
}

// quoted is the length of what begins with a quote at from, in which that is doubled, or stands behind a backslash.
func quoted(b []byte, from int, quote byte, backslashes bool) int {
	for i := from + 1; i < len(b); i++ {
		switch {
		case backslashes && b[i] == '\\':
			i++
		case b[i] == quote && i+1 < len(b) && b[i+1] == quote:
			i++
		case b[i] == quote:
			return i + 1
		}
	}
	return -1
}

// dollar reads $tag$…$tag$, or $1, or a lone dollar.
func dollar(b []byte) (Kind, int) {
	n := 1
	if n < len(b) && isDigit(b[n]) {
		for n < len(b) && isDigit(b[n]) {
			n++
		}
		return Parameter, n
	}
	for n < len(b) && (isWordStart(b[n]) || n > 1 && isDigit(b[n])) {
		n++
	}
	if n == len(b) || b[n] != '$' {
		return Punctuation, 1
	}
	tag := b[:n+1]
	end := bytes.Index(b[n+1:], tag)
	if end < 0 {
		return Dollar, -1
	}
	return Dollar, n + 1 + end + len(tag)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isWordStart(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}

func isWordPart(c byte) bool { return isWordStart(c) || isDigit(c) || c == '$' }

// Decode is the body of an identifier, or a string, of code points: what stands behind the escape character as four hexadecimal digits, or
// behind it and a plus sign as six, is a character. ok is false where it cannot be read.
func Decode(body []byte, escape byte) (text string, ok bool) {
	var out []rune
	for i := 0; i < len(body); {
		if body[i] != escape {
			out = append(out, rune(body[i])) // of characters beyond ASCII this is not right, and need not be
			i++
			continue
		}
		digits, from := 4, i+1
		switch {
		case from < len(body) && body[from] == escape:
			out = append(out, rune(escape))
			i += 2
			continue
		case from < len(body) && body[from] == '+':
			digits, from = 6, from+1
		}
		if from+digits > len(body) {
			return "", false
		}
		code, err := strconv.ParseUint(string(body[from:from+digits]), 16, 32)
		if err != nil {
			return "", false
		}
		out = append(out, rune(code))
		i = from + digits
	}
	return string(out), true
}
