package postgres

import (
	"bytes"

	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/proxy/postgres/sqltext"
)

// What a server connection has prepared is known, because we have prepared it. SQL may take that away, or put something else in its
// place: where it says so plainly, the command's tag tells. Where it may be hidden (DO, a string that a function executes), or our names
// are mentioned, or where they can be read, nothing is believed of the connection any more. Its statements go by other names from then
// on, and those that go by the old ones are closed in time.

// mentionsNames reports whether SQL mentions our names of statements, or where they can be read (pg_prepared_statements).
func mentionsNames(sql []byte) bool {
	for i := 0; ; i++ {
		n := bytes.IndexByte(sql[i:], '_')
		if n < 0 {
			return false
		}
		i += n
		before, behind := sql[:i], sql[i+1:]
		switch {
		case i == 0 || before[i-1]|0x20 != 'd' && before[i-1] != 'r': // the end of either word: most are neither
		case bytes.HasSuffix(before, []byte(weir)) && bytes.HasPrefix(sql[i-len(weir):], []byte(namePrefix)):
			return true
		case equalWord(before[max(0, i-len("prepared")):], "prepared") && equalWord(behind[:min(len(behind), len("statement"))], "statement"):
			return true
		}
	}
}

// longestMention is how much of a text that comes in pieces has to be looked at at once for mentionsNames, in bytes.
const longestMention = 32

// mayTamper reports whether SQL, in which t was found, may change what is prepared without saying so. forgets is that it says
// DEALLOCATE or DISCARD.
func mayTamper(sql []byte, t touch, forgets bool) bool {
	if sql == nil {
		return forgets || t&(touchHidden|touchPrepare) != 0
	}
	switch {
	case mentionsNames(sql):
		return true
	case t&touchHidden == 0:
		return (forgets || t&touchPrepare != 0) && hidesCommand(sql)
	case equalWord(wordAt(skipComments(sql)), "do"): // of what may be hidden in PL/pgSQL, EXECUTE is in plain sight
		return hasWord(sql, "execute", "deallocate", "discard", "prepare", "language")
	}
	return true
}

// hidesCommand reports whether a text says DEALLOCATE, PREPARE or DISCARD where a statement within it may begin.
func hidesCommand(sql []byte) bool {
	before, last := []byte(nil), byte(0) // the word and the character ahead
	rest := skipComments(sql)
	for first := true; len(rest) > 0; first = false {
		word := wordAt(rest)
		if len(word) == 0 {
			if c := rest[0]; bytes.IndexByte([]byte(" \t\r\n\f\v"), c) < 0 {
				before, last = nil, c
			}
			rest = rest[1:]
			continue
		}
		rest = rest[len(word):]
		begins := last != 0 && bytes.IndexByte([]byte(";'$/("), last) >= 0 || isBlockWord(before)
		if begins && !first && hasArgument(word, rest) {
			return true
		}
		before, last = word, 0
	}
	return false
}

func isBlockWord(word []byte) bool {
	for _, w := range []string{"begin", "then", "else", "loop", "as", "execute"} {
		if equalWord(word, w) {
			return true
		}
	}
	return false
}

// hasArgument reports whether a word, with that behind it, can be the beginning of a command that changes what is prepared.
func hasArgument(word, behind []byte) bool {
	whole := len(behind) > 0 && behind[0] == '\'' // the word is a string
	behind = sqltext.SkipBlanks(behind)
	switch {
	case equalWord(word, "deallocate"):
		return true
	case equalWord(word, "discard"):
		next := wordAt(behind)
		return equalWord(next, "all") || equalWord(next, "plans")
	case equalWord(word, "prepare"):
		return !whole && len(behind) > 0 && (behind[0] == '"' || behind[0] == '\'' || wordByte[behind[0]] != 0)
	}
	return false
}

// hasWord reports whether one of the words is in a text.
func hasWord(sql []byte, words ...string) bool {
	for i := 0; i < len(sql); {
		word := wordAt(sql[i:])
		for _, w := range words {
			if equalWord(word, w) {
				return true
			}
		}
		i += max(1, len(word))
	}
	return false
}

// definesFunction reports whether a text creates a function or procedure.
func definesFunction(sql []byte) bool {
	return hasWord(sql, "create") && hasWord(sql, "function", "procedure")
}

// consider takes note of a text that is sent to be executed, if it may tamper with what is prepared. Once a function may do so, whose
// call tells nothing, each session begins with nothing prepared: defines is that it creates one.
func (k *link) consider(defines bool) {
	k.tampering, k.doubted = true, true
	if r := k.session.resource; defines && !r.wary.Swap(true) {
		k.w.srv.log.Warn("a function was created that may drop or replace prepared statements: from now on none stays prepared on a "+
			"server connection that comes to another session", "resource", r.name)
	}
}

// mentions reports whether the piece b of a text mentions our names, with the end of the piece before.
func (k *link) mentions(b []byte) bool {
	if len(b) == k.upSkip && !k.partly { // the whole: see queryRead
		return false
	}
	k.seam = append(k.seam, b[:min(len(b), longestMention)]...)
	found := mentionsNames(b) || mentionsNames(k.seam)
	if len(b) >= longestMention {
		k.seam = append(k.seam[:0], b[len(b)-longestMention:]...)
	} else {
		k.seam = append(k.seam[:0], k.seam[max(0, len(k.seam)-longestMention):]...)
	}
	return found
}

// reconsider has the server's statements go by other names, if it is not certain any more what is prepared.
func (k *link) reconsider() {
	if k.doubted {
		k.doubted = false
		k.server.Prepared.Doubt()
	}
}

// isLost reports whether an error is about a name of ours, which the server does not know although we have prepared it, or does know
// although we have not.
func (k *link) isLost(e *pgwire.Error, body []byte) bool {
	if e.Code != noSuchStatement && e.Code != duplicateStatement || e.Context != "" {
		return false
	}
	number, _, _, ok := k.ourName(body)
	return ok && number > lastOfOurs
}

// SQLSTATEs about prepared statements.
const (
	noSuchStatement    = "26000"
	duplicateStatement = "42P05"
)
