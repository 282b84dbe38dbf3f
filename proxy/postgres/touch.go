package postgres

import "sync/atomic"

// touch is what a statement may leave in the session of its server connection. As long as something may be there, the
// client keeps that connection.
type touch uint8

const (
	touchSet     touch = 1 << iota // SET, RESET, set_config
	touchPrepare                   // PREPARE in SQL
	touchListen                    // LISTEN
	touchTemp                      // temporary tables and views
	touchCursor                    // cursors WITH HOLD
	touchLock                      // session advisory locks
	touchLoad                      // LOAD
	touchLarge                     // prepared statements too large to be moved
)

// touchLabels are the reasons in metrics, in the order of the bits.
var touchLabels = [8]string{"set", "prepare", "listen", "temp_table", "cursor_with_hold", "advisory_lock", "load", "large_statement"}

// pins counts the sessions that keep their server connection, by reason.
type pins [8]atomic.Int64

func (p *pins) add(t touch, n int64) {
	for i := range p {
		if t&(1<<i) != 0 {
			p[i].Add(n)
		}
	}
}

// notePins is called between messages: what was found in the statements so far keeps the server connection.
func (k *link) notePins() {
	if k.changed && k.status == 'I' {
		k.changed = false
		if !k.discarded() && !k.server.Reports(k.session.greeting) { // SET LOCAL is undone by now, SET in a function is not
			k.words.found |= touchSet
		}
	}
	if fresh := k.words.found &^ k.pinned; fresh != 0 && k.session.resource.mode != Session {
		k.pinned |= fresh
		k.session.resource.pins.add(fresh, 1)
	}
}

func (k *link) unpin() {
	if k.pinned != 0 {
		k.session.resource.pins.add(k.pinned, -1)
		k.pinned = 0
	}
}

// maxWord is longer than any word that is looked for.
const maxWord = 28

// scanner looks for words in SQL that comes in pieces. It does not parse: comments and literals are read like everything
// else, so it errs on the side of finding too much. begin starts a text, feed goes on with it, end ends it.
type scanner struct {
	found  touch
	forget bool // DISCARD or DEALLOCATE: prepared statements may be gone

	word    [maxWord]byte
	n       int  // length of the current word; more than maxWord when it is longer
	before  kind // of the word before
	last    byte // the last character that was neither blank nor part of a word; ';' at the start
	pending kind // SET or PREPARE, until the next word tells which
	newline bool // only blanks since the last line break
	dashes  bool // "--" was seen in this line or the one before
}

// kind is what a word means to the words around it.
type kind uint8

const (
	otherWord kind = iota
	beforeTemp
	withWord
	blockWord // begins a statement in PL/pgSQL
	setWord
	prepareWord
	localWord // SET LOCAL, SET TRANSACTION, SET CONSTRAINTS; PREPARE TRANSACTION
)

func (c *scanner) begin() {
	c.n, c.before, c.last, c.pending, c.newline, c.dashes = 0, otherWord, ';', otherWord, false, false
}

// wordByte maps the bytes of words to lower case, all others to 0.
var wordByte = func() (t [256]byte) {
	for b := range t {
		switch {
		case b >= 'a' && b <= 'z', b >= '0' && b <= '9', b == '_', b >= 0x80:
			t[b] = byte(b)
		case b >= 'A' && b <= 'Z':
			t[b] = byte(b) + 'a' - 'A'
		}
	}
	return t
}()

func (c *scanner) feed(sql []byte) {
	for _, b := range sql {
		if w := wordByte[b]; w != 0 {
			if c.n < maxWord {
				c.word[c.n] = w
			}
			c.n++
			continue
		}
		if c.n > 0 {
			c.endWord()
		}
		switch b {
		case ' ', '\t', '\r':
		case '\n':
			c.newline = true
		default:
			c.dashes = c.dashes && !c.newline || b == '-' && c.last == '-'
			c.last, c.before, c.newline = b, otherWord, false
		}
	}
}

func (c *scanner) end() {
	if c.n > 0 {
		c.endWord()
	}
	c.settle(otherWord)
}

// settle decides about SET and PREPARE by the word behind it.
func (c *scanner) settle(next kind) {
	if next != localWord {
		switch c.pending {
		case setWord:
			c.found |= touchSet
		case prepareWord:
			c.found |= touchPrepare
		}
	}
	c.pending = otherWord
}

// starts reports whether the word that just ended can begin a statement.
func (c *scanner) starts() bool {
	switch c.last {
	case ';', '\'', '$', '/', '(': // at the start; in a string or body; behind a comment
		return true
	}
	return c.before == blockWord || c.newline && c.dashes
}

func (c *scanner) endWord() {
	n := c.n
	c.n = 0
	was := kind(otherWord)
	if n <= maxWord {
		was = c.meaning(string(c.word[:n]))
	}
	if c.pending != otherWord {
		c.settle(was)
	}
	if was == setWord || was == prepareWord {
		c.pending = was
	}
	c.before, c.last, c.newline = was, 0, false
}

// meaning says what a word is, and notes what it leaves behind.
func (c *scanner) meaning(word string) kind {
	switch word {
	case "set":
		if c.starts() {
			return setWord
		}
	case "reset":
		if c.starts() {
			c.found |= touchSet
		}
	case "load":
		if c.starts() {
			c.found |= touchLoad
		}
	case "discard", "deallocate":
		c.forget = true
	case "set_config":
		c.found |= touchSet
	case "prepare":
		return prepareWord
	case "listen":
		c.found |= touchListen
	case "temp", "temporary":
		if c.before == beforeTemp {
			c.found |= touchTemp
		}
	case "pg_temp":
		c.found |= touchTemp
	case "hold":
		if c.before == withWord {
			c.found |= touchCursor
		}
	case "pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared":
		c.found |= touchLock
	case "create", "global", "into", "replace":
		return beforeTemp
	case "local":
		if c.pending == setWord {
			return localWord
		}
		return beforeTemp
	case "transaction", "constraints":
		return localWord
	case "with":
		return withWord
	case "begin", "then", "else", "loop", "as", "execute":
		return blockWord
	}
	return otherWord
}
