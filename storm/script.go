package storm

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/weirproxy/weir/pgwire"
)

// defaultSQL works on every database and costs it next to nothing.
const defaultSQL = "SELECT 1"

// script is one transaction, statement by statement: each takes a round trip, as it does from a driver.
type script []statement

// statement is SQL in which some numbers are chosen anew each time: texts[0], a number, texts[1], a number, and so on.
type statement struct {
	texts   []string
	numbers []bounds
}

type bounds struct{ low, high int64 }

// randomCall is what stands for a number in SQL, bounds included.
var randomCall = regexp.MustCompile(`(?i)\brandom\(\s*(-?\d+)\s*,\s*(-?\d+)\s*\)`)

// newScript splits SQL at its semicolons. Several statements become a block, unless they bring their own BEGIN.
func newScript(sql string) (script, error) {
	texts := splitStatements(sql)
	if len(texts) == 0 {
		return nil, fmt.Errorf("holds no statement; expected SQL, e.g. %s", defaultSQL)
	}
	if len(texts) > MaxStatements {
		return nil, fmt.Errorf("holds %d statements; expected at most %d", len(texts), MaxStatements)
	}
	if len(texts) > 1 && !beginsBlock(texts[0]) {
		texts = append(append([]string{"BEGIN"}, texts...), "COMMIT")
	}
	var s script
	for _, text := range texts {
		st, err := newStatement(text)
		if err != nil {
			return nil, err
		}
		s = append(s, st)
	}
	return s, nil
}

func beginsBlock(sql string) bool {
	word, _, _ := strings.Cut(strings.TrimSpace(sql), " ")
	return strings.EqualFold(word, "BEGIN") || strings.EqualFold(word, "START")
}

func newStatement(text string) (statement, error) {
	var s statement
	end := 0
	for _, at := range randomCall.FindAllStringSubmatchIndex(text, -1) {
		low, errLow := strconv.ParseInt(text[at[2]:at[3]], 10, 64)
		high, errHigh := strconv.ParseInt(text[at[4]:at[5]], 10, 64)
		if errLow != nil || errHigh != nil || low > high || high-low < 0 {
			return statement{}, fmt.Errorf("has %s; expected two whole numbers, the smaller one first", text[at[0]:at[1]])
		}
		s.texts = append(s.texts, text[end:at[0]])
		s.numbers = append(s.numbers, bounds{low, high})
		end = at[1]
	}
	s.texts = append(s.texts, text[end:])
	return s, nil
}

// append adds the statement as a simple Query, with a comment ahead of it.
func (s statement) append(dst []byte, comment []byte, random *rand.Rand) []byte {
	at := len(dst)
	dst = append(dst, pgwire.Query, 0, 0, 0, 0)
	dst = append(dst, comment...)
	for i, text := range s.texts {
		dst = append(dst, text...)
		if i < len(s.numbers) {
			n := s.numbers[i]
			dst = strconv.AppendInt(dst, n.low+int64(random.Uint64N(uint64(n.high-n.low)+1)), 10)
		}
	}
	dst = append(dst, 0)
	binary.BigEndian.PutUint32(dst[at+1:], uint32(len(dst)-at-1))
	return dst
}

// appendDeadline adds the comment that tells weir how much time the function has left.
func appendDeadline(dst []byte, left time.Duration) []byte {
	dst = append(dst, "/* weir: deadline="...)
	dst = strconv.AppendInt(dst, max(1, left.Milliseconds()), 10)
	return append(dst, "ms */ "...)
}

// workSQL keeps one of the server's processors busy for a time that is in proportion to rows; nothing is kept in memory.
func workSQL(rows int) string {
	return fmt.Sprintf("SELECT count(i) FROM (SELECT generate_series(1, %d) AS i) AS work", rows)
}

// splitStatements cuts SQL at the semicolons that end statements, and leaves out what is blank.
func splitStatements(sql string) []string {
	var statements []string
	add := func(text string) {
		if text = strings.TrimSpace(text); text != "" && skipComments(text) < len(text) {
			statements = append(statements, text)
		}
	}
	start := 0
	for i := 0; i < len(sql); {
		if sql[i] == ';' {
			add(sql[start:i])
			i++
			start = i
			continue
		}
		i += tokenLength(sql[i:], i > 0 && isWord(sql[i-1]))
	}
	add(sql[start:])
	return statements
}

// skipComments is where the first thing begins that is neither blank nor a comment.
func skipComments(sql string) int {
	for i := 0; i < len(sql); {
		switch {
		case strings.ContainsRune(" \t\r\n", rune(sql[i])):
			i++
		case strings.HasPrefix(sql[i:], "--"), strings.HasPrefix(sql[i:], "/*"):
			i += tokenLength(sql[i:], false)
		default:
			return i
		}
	}
	return len(sql)
}

// tokenLength is how much to pass over at once, so that no semicolon within a string, a quoted name or a comment is seen.
func tokenLength(sql string, inWord bool) int {
	switch {
	case strings.HasPrefix(sql, "--"):
		return endOf(sql, strings.IndexByte(sql, '\n'), 1)
	case strings.HasPrefix(sql, "/*"):
		return commentLength(sql)
	case sql[0] == '"':
		return endOf(sql, strings.IndexByte(sql[1:], '"'), 2)
	case sql[0] == '\'':
		return endOf(sql, strings.IndexByte(sql[1:], '\''), 2) // '' within is two strings side by side
	case !inWord && (sql[0] == 'e' || sql[0] == 'E') && strings.HasPrefix(sql[1:], "'"):
		return escapedLength(sql)
	case !inWord && sql[0] == '$':
		if tag := dollarTag.FindString(sql); tag != "" {
			return endOf(sql, strings.Index(sql[len(tag):], tag), 2*len(tag))
		}
	}
	return 1
}

var dollarTag = regexp.MustCompile(`^\$([A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$`)

func isWord(c byte) bool {
	return c == '_' || c == '$' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= 0x80
}

// endOf is found plus the length of what surrounds it, or everything when the end was not found.
func endOf(sql string, found, around int) int {
	if found < 0 {
		return len(sql)
	}
	return found + around
}

// commentLength knows that PostgreSQL's comments nest.
func commentLength(sql string) int {
	depth := 0
	for i := 0; i < len(sql)-1; i++ {
		switch sql[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			if depth--; depth == 0 {
				return i + 2
			}
			i++
		}
	}
	return len(sql)
}

func escapedLength(sql string) int {
	for i := 2; i < len(sql); i++ {
		switch sql[i] {
		case '\\':
			i++
		case '\'':
			return i + 1
		}
	}
	return len(sql)
}
