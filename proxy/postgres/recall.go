package postgres

import (
	"bytes"
	"strings"
	"sync"

	"github.com/weirproxy/weir/pool"
	"github.com/weirproxy/weir/proxy/postgres/sqltext"
)

// Functions that connect say the same SETs each time. What such a statement leads to depends on nothing but itself and on what
// the session had set before, so that the server need not be asked again what it was asked once.
//
// That holds for a transaction that is one plain SET, which the server has said it has done. What a value reads like depends on other
// parameters in a few cases; the server reports those, and what it reports must be as it was.

const (
	// mostOutcomes is how many outcomes a resource remembers, and mostOutcomeBytes how much text. Beyond, it begins anew.
	mostOutcomes     = 1024
	mostOutcomeBytes = 1 << 20
	// longestSet is more than any such statement has that is worth remembering, in bytes.
	longestSet = 512
)

// outcomes are what SETs have led to. Safe for all goroutines.
type outcomes struct {
	mu       sync.Mutex
	known    map[string]*pool.Profile // by what was set before, and the statement
	bytes    int
	standard *pool.Profile // what a server connection had from the start at that time
}

// find returns what the statement of key leads to; nil: that is not known.
func (o *outcomes) find(key []byte, standard *pool.Profile) *pool.Profile {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.standard != standard {
		return nil
	}
	return o.known[string(key)]
}

func (o *outcomes) remember(key []byte, standard, p *pool.Profile) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil || o.standard != standard || len(o.known) >= mostOutcomes || o.bytes+len(key) > mostOutcomeBytes {
		o.known, o.bytes, o.standard = make(map[string]*pool.Profile), 0, standard
	}
	if o.known[string(key)] == nil {
		o.bytes += len(key)
	}
	o.known[string(key)] = p
}

// plainly is what a link notes of its transaction, to know if it was one plain SET.
type plainly struct {
	statements int    // how many were sent, with anything that there was
	set        []byte // the plain SET among them
	done       int    // how many SETs the server has said to have done
	failed     bool   // something has failed, so that none of them need hold
}

// readSet notes the text of the statement that was sent last, in which t was found.
func (k *link) readSet(t touch, sql []byte) {
	if t == touchSet && k.plainly.statements == 1 && isPlainSet(sql) {
		k.plainly.set = append(k.plainly.set[:0], sql...)
	}
}

// reset is for the next transaction.
func (p *plainly) reset() { *p = plainly{set: p.set[:0]} }

// outcomeKey is the key of the transaction's outcome, nil if that may be another one the next time.
func (k *link) outcomeKey(about touch) []byte {
	p, was := &k.plainly, k.session.profile
	if about != touchSet || p.failed || p.statements != 1 || p.done != 1 || len(p.set) == 0 || k.pinned != 0 ||
		k.server.Settings != was.Settings || was.Settings.Has("role") || was.Settings.Has("session_authorization") {
		return nil
	}
	key := append(k.w.key[:0], p.set...)
	k.w.key = was.Settings.AppendKey(append(key, 0))
	return k.w.key
}

// recall draws the conclusions from a transaction that the server was asked about before, and reports whether it was.
func (k *link) recall(about touch) bool {
	r := k.session.resource
	key := k.outcomeKey(about)
	if key == nil {
		return false
	}
	now := r.outcomes.find(key, r.pool.Standard())
	if now == nil || !k.server.Reports(now.Greeting) {
		return false
	}
	k.server.Adopted(now)
	k.session.profile = now
	k.answered()
	return true
}

// isPlainSet reports whether a text is SET of a parameter of the server, to a value that is plain to see, for the session.
func isPlainSet(sql []byte) bool {
	if len(sql) > longestSet || !isASCII(string(sql)) {
		return false
	}
	word, rest := nextWord(sql)
	if !equalWord(word, "set") {
		return false
	}
	if word, behind := nextWord(rest); equalWord(word, "session") {
		rest = behind
	}
	name, rest := nextWord(rest)
	if equalWord(name, "time") {
		if word, behind := nextWord(rest); equalWord(word, "zone") {
			return isPlainValue(behind)
		}
	}
	to, value := nextWord(rest)
	if !equalWord(to, "to") {
		is := false
		if value, is = bytes.CutPrefix(sqltext.SkipBlanks(rest), []byte("=")); !is {
			return false
		}
	}
	return len(name) > 0 && !isUnplain(strings.ToLower(string(name))) && isPlainValue(value)
}

// isUnplain reports whether what a parameter is set to depends on more than the value and other parameters: on the roles that there
// are, on the catalog, or on the transaction.
func isUnplain(name string) bool {
	switch name {
	case "role", "session_authorization", "seed", "default_text_search_config", "local", "session":
		return true
	}
	return strings.HasPrefix(name, "transaction_")
}

// isPlainValue reports whether a text is a list of words, numbers and simple strings.
func isPlainValue(b []byte) bool {
	b = bytes.TrimRight(b, " \t\r\n\f\v;")
	values := 0
	for i := 0; i < len(b); {
		switch c := b[i]; {
		case c == '\'' || c == '"':
			end := bytes.IndexByte(b[i+1:], c)
			if end < 0 || bytes.IndexByte(b[i+1:][:end], '\\') >= 0 {
				return false
			}
			i += end + 2
			values++
		case wordByte[c] != 0:
			word := wordAt(b[i:])
			i += len(word)
			if equalWord(word, "default") || equalWord(word, "local") || equalWord(word, "interval") || i < len(b) && b[i] == '\'' {
				return false
			}
			values++
		case c == ' ', c == ',', c == '.', c == '-', c == '+':
			i++
		default:
			return false
		}
	}
	return values > 0
}

var tagSet = []byte("SET\x00")

// hearSet notes that the server has done a SET.
func (k *link) hearSet(tag []byte) {
	if bytes.Equal(tag, tagSet) {
		k.plainly.done++
	}
}
