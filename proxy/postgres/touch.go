package postgres

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/weirproxy/weir/pgwire"
)

// touch is what a statement may leave in the session of its server connection.
type touch uint32

const (
	touchSet        touch = 1 << iota // SET and RESET, of run-time parameters
	touchPrepare                      // PREPARE in SQL
	touchListen                       // LISTEN
	touchTemp                         // temporary tables and views
	touchCursor                       // cursors WITH HOLD
	touchLock                         // session advisory locks
	touchLoad                         // LOAD
	touchLarge                        // prepared statements too large to be moved
	touchSequence                     // what lastval and currval return
	touchConnection                   // connections of dblink, and what else DISCARD ALL does not end
	touchRelease                      // or take away again: UNLISTEN, DROP, CLOSE, DISCARD, unlocking
	touchConfig                       // set_config, which is SET or SET LOCAL: see readParameters
	touchNamed                        // a parameter of an application was set, which has to be asked for by name
	touchUnnamed                      // that may be so, and the name is not plain to see
	touchLocal                        // a parameter may have been set for the transaction
	touchHidden                       // there may be more to it than can be read: whatever the server knows of is asked about
	touchPath                         // the search path may name the schema of temporary tables, for the transaction or longer,
	touchCreate                       // and something was created, which is temporary then
	touchOpenly                       // that was found ahead of any string
	touchClose                        // there may be more than DISCARD ALL can end: the server connection is closed behind the session

	touchReasons = iota - 10 // for which a client keeps its server connection
)

// touchLabels are the reasons in metrics, in the order of the bits.
var touchLabels = [touchReasons]string{"set", "prepare", "listen", "temp_table", "cursor_with_hold", "advisory_lock", "load", "large_statement", "sequence", "connection"}

const (
	touchPins       = 1<<touchReasons - 1
	touchForever    = touchLoad | touchConnection | touchClose  // ends with the server connection only
	touchLasting    = touchForever | touchLarge | touchSequence // cannot be asked about
	touchVerifiable = touchPins &^ touchLasting                 // the server knows
)

// pins counts the sessions that keep their server connection, by reason.
type pins [touchReasons]atomic.Int64

func (p *pins) add(t touch, n int64) {
	for i := range p {
		if t&(1<<i) != 0 {
			p[i].Add(n)
		}
	}
}

// suspicion is what the statements so far may have left in the session, or taken from it, as far as the server has not been
// asked since. It is called between messages, and may end the session.
func (k *link) suspicion() touch {
	s := k.session
	k.noteBuffers(k.words.found)
	if s.resource.mode == Session { // all is dropped in the end; until then, RESET is to bring back what it was told
		k.words.found &= touchForever // but for that
		if k.words.reset && k.bringsBack() && !k.restore {
			return touchSet
		}
		return 0
	}
	if lasting := k.words.found & touchLasting &^ k.pinned; lasting != 0 {
		if k.keepFor(k.pinned | lasting); s.dead {
			return 0
		}
	}
	if k.words.found&(touchPath|touchCreate) == touchPath|touchCreate {
		k.words.found |= touchTemp
	}
	k.words.found &^= touchLocal | touchPath | touchCreate
	if k.words.found == 0 && !k.changed {
		return 0
	}
	if k.doubtful { // it stays with its client whatever the answer would be
		k.pin(k.pinned | k.words.found&touchPins)
		return 0
	}
	t := k.words.found & (touchVerifiable | touchUnnamed)
	if k.words.found&touchHidden != 0 {
		t |= touchVerifiable
	}
	if k.words.found&touchRelease != 0 && k.pinned != 0 { // while it had the connection for itself, nobody asked about the rest
		t |= touchVerifiable
	}
	if k.changed {
		k.changed = false
		if !k.restore && !k.server.Reports(k.session.profile.Greeting) { // SET LOCAL is undone by now, SET in a function is not
			t |= touchSet
		}
	}
	return t
}

// bringsBack reports whether RESET is to bring back something that the server connection does not have from the start.
func (k *link) bringsBack() bool { return k.session.startup.Settings != nil || k.server.IsExplicit() }

// calls says what a FunctionCall, of which some bytes may be missing, may leave behind. A function of an application or an extension may be
// any; hardly anybody calls those so.
func calls(m []byte) touch {
	if len(m) < pgwire.HeaderSize+4 {
		return touchHidden
	}
	switch oid := binary.BigEndian.Uint32(m[pgwire.HeaderSize:]); {
	case oid >= oidAdvisoryLock && oid <= oidAdvisoryUnlockAll:
		return touchHidden | touchRelease
	case oid == oidSetConfig:
		return touchSet | touchUnnamed
	case oid == oidCurrval, oid == oidLastval:
		return touchSequence
	case oid == oidReplicationOrigin:
		return touchConnection
	case oid == oidStat, oid == oidStatWeights, oid == oidRewrite:
		return touchHidden | touchSet | touchUnnamed
	case oid == oidQueryToXML, oid == oidQueryToXMLSchema, oid == oidQueryToXMLAndXMLSchema:
		return touchHidden | touchSet | touchUnnamed
	case oid >= firstNormalOID:
		return touchHidden | touchSet | touchUnnamed | touchClose
	}
	return 0
}

// Functions that leave something behind, in every version of PostgreSQL (pg_proc.dat).
const (
	oidSetConfig         = 2078
	oidAdvisoryLock      = 2880 // the first of those with and without shared, try, and int4s
	oidAdvisoryUnlockAll = 2892
	oidCurrval           = 1575
	oidLastval           = 2559
	oidReplicationOrigin = 6006
	oidStat              = 3689
	oidStatWeights       = 3690
	oidRewrite           = 3685 // of two arguments

	oidQueryToXML             = 2924
	oidQueryToXMLSchema       = 2927
	oidQueryToXMLAndXMLSchema = 2930

	firstNormalOID = 16384 // of functions that PostgreSQL does not come with (access/transam.h)
)

// keepFor has the session keep its server connection for these reasons, or ends it if it may not.
func (k *link) keepFor(t touch) {
	r := k.session.resource
	fresh := t &^ k.pinned
	switch {
	case fresh != 0 && r.pinning == RefusePins:
		k.refusePin(fresh, r.pinRefusal(fresh))
		return
	case fresh != 0 && k.pinned == 0 && r.mostPinned > 0 && !r.softPins && r.pinned.Load() >= int64(r.mostPinned):
		k.refusePin(fresh, r.fullRefusal(fresh))
		return
	case fresh != 0 && r.pinning == WarnPins:
		k.w.srv.log.Warn("a session keeps its server connection", "resource", r.name, "reason", fresh.String())
	}
	k.pin(t)
}

// refusePin ends the session, which has left t where it may not.
func (k *link) refusePin(t touch, e *pgwire.Error) {
	k.words.found |= t // so that it is dropped
	e.Detail = "The statement was executed; what it left in the session is dropped."
	k.session.fatal(e)
}

// pin has the session keep its server connection for these reasons and no others.
func (k *link) pin(t touch) {
	if t == k.pinned {
		return
	}
	r := k.session.resource
	if (t == 0) != (k.pinned == 0) {
		if t == 0 {
			r.pinned.Add(-1)
		} else {
			r.pinned.Add(1)
			k.pinnedSince = k.w.loop.Now()
		}
	}
	pins := &r.pins
	pins.add(t&^k.pinned, 1)
	pins.add(k.pinned&^t, -1)
	k.pinned = t
}

// maxWord is longer than any word that is looked for.
const maxWord = 36

// scanner looks for words in SQL that comes in pieces. It does not parse: comments and literals are read like everything
// else, so it errs on the side of finding too much. Where a comment stands between two words that mean something together, what
// follows counts as found. begin starts a text, feed goes on with it, end ends it.
type scanner struct {
	found   touch
	forget  bool // DISCARD or DEALLOCATE: prepared statements may be gone
	views   bool // pg_settings, whose rule for UPDATE calls set_config,
	writes  bool // and UPDATE
	buffers bool // temp_buffers
	reset   bool // RESET or DEFAULT: parameters may be as at startup

	word    [maxWord]byte
	n       int  // length of the current word; more than maxWord when it is longer
	before  kind // of the word before
	last    byte // the last character that was neither blank nor part of a word; ';' at the start, 0 behind a word
	pending kind // SET or PREPARE, until the next word tells which, and LOCAL or TRANSACTION behind it, until what follows confirms that
	newline bool // only blanks since the last line break
	dashes  bool // "--" was seen in this line or the one before
	quotes  bool // a string, or what looks like one, has begun
	apart   bool // a comment followed CREATE or WITH: TEMP or HOLD may be anywhere
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
	localWord   // SET LOCAL, SET TRANSACTION, SET CONSTRAINTS; PREPARE TRANSACTION
	unicodeWord // U, of U&"…"
	insertWord  // INSERT, MERGE: the INTO behind it creates nothing
	notTheNext  // no word, but what makes the next one mean nothing

	settingLocal         // pending: SET LOCAL, unless a dot follows
	preparingTransaction // pending: PREPARE TRANSACTION, unless that is a name
)

// readWords looks for words in a whole text.
func readWords(sql []byte) (c scanner) {
	c.begin()
	c.feed(sql)
	c.end()
	return c
}

func (c *scanner) begin() {
	c.n, c.before, c.last, c.pending, c.newline, c.dashes, c.apart = 0, otherWord, ';', otherWord, false, false, false
	c.views, c.writes, c.quotes = false, false, false
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
		case ' ', '\t', '\f', '\v':
		case '\n', '\r':
			c.newline = true
		default:
			before := otherWord
			switch {
			case c.last == 0 && c.before|c.pending != otherWord:
				before = c.behindWord(b)
			case b == '"' && c.before == unicodeWord: // U&"…": an identifier that cannot be read
				c.hide()
			}
			c.quotes = c.quotes || b == '\'' || b == '$'
			c.dashes = c.dashes && !c.newline || b == '-' && c.last == '-'
			c.last, c.before, c.newline = b, before, false
		}
	}
}

// behindWord looks at the first character behind a word, and returns what is before what follows it.
func (c *scanner) behindWord(b byte) kind {
	switch b {
	case '/', '-': // a comment, for all that is known
		c.apart = c.apart || c.before == beforeTemp || c.before == withWord
		c.settle(notTheNext)
	case '.', '(': // SET local.parameter; PREPARE transaction(int)
		if c.pending == settingLocal || c.pending == preparingTransaction {
			c.settle(notTheNext)
		}
	case '&':
		if c.before == unicodeWord {
			return unicodeWord
		}
	}
	return otherWord
}

func (c *scanner) end() {
	if c.n > 0 {
		c.endWord()
	}
	c.settle(otherWord)
	if c.views && c.writes {
		c.found |= touchSet
	}
}

// settle decides about SET and PREPARE by what is behind it.
func (c *scanner) settle(next kind) {
	was := c.pending
	c.pending = otherWord
	switch {
	case was == setWord && next == localWord:
		c.found |= touchLocal
		c.pending = settingLocal
	case was == prepareWord && next == localWord:
		c.pending = preparingTransaction
	case was == setWord, was == settingLocal && next == notTheNext:
		c.found |= touchSet
	case was == prepareWord, was == preparingTransaction && (next == notTheNext || next == blockWord): // PREPARE transaction AS
		c.found |= touchPrepare
	}
}

// starts reports whether the word that just ended can begin a statement.
func (c *scanner) starts() bool {
	switch c.last {
	case ';', '\'', '$', '/', '(': // at the start; in a string or body; behind a comment
		return true
	}
	return c.before == blockWord || c.newline && c.dashes
}

// tempSchema is how the names of temporary schemas begin.
const tempSchema = "pg_temp_"

func (c *scanner) endWord() {
	n := c.n
	c.n = 0
	was := otherWord
	if n <= maxWord && wordLengths[c.word[0]]&(1<<n) != 0 {
		was = c.meaning(string(c.word[:n]))
	} else if n > len(tempSchema) && c.word[0] == tempSchema[0] && string(c.word[:len(tempSchema)]) == tempSchema {
		c.found |= touchTemp
	}
	if c.pending != otherWord {
		c.settle(was)
	}
	if was == setWord || was == prepareWord {
		c.pending = was
	}
	c.before, c.last, c.newline = was, 0, false
}

// hide takes note that there may be more than can be read.
func (c *scanner) hide() {
	if c.found |= touchHidden; !c.quotes {
		c.found |= touchOpenly
	}
}

// keywords are the words that meaning knows.
var keywords = []string{
	"set", "reset", "default", "load", "discard", "deallocate", "unlisten", "drop", "close", "pg_advisory_unlock",
	"pg_advisory_unlock_shared", "pg_advisory_unlock_all", "set_config", "prepare", "listen", "temp", "temporary",
	"pg_temp", "hold", "pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock",
	"pg_try_advisory_lock_shared", "create", "global", "into", "insert", "merge", "replace", "local", "transaction", "constraints", "with",
	"begin", "then", "else", "loop", "as", "execute", "u", "do", "pg_settings", "update", "lastval", "currval", "dblink_connect",
	"dblink_connect_u", "query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "ts_stat", "ts_rewrite", "crosstab",
	"crosstab2", "crosstab3", "crosstab4", "connectby", "xpath_table", "set_limit", "temp_buffers", "pg_replication_origin_session_setup", "pg_backup_start",
	"pg_start_backup", "pg_create_logical_replication_slot", "pg_create_physical_replication_slot", "pg_copy_logical_replication_slot",
	"pg_copy_physical_replication_slot",
}

// wordLengths has, for the first letter of a word, a bit for each length that a keyword with it has. Most words end here.
var wordLengths = func() (t [256]uint64) {
	for _, w := range keywords {
		t[w[0]] |= 1 << len(w)
	}
	return t
}()

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
			c.reset = true
		}
	case "default":
		c.reset = true
	case "load":
		if c.starts() {
			c.found |= touchLoad
		}
	case "discard", "deallocate":
		c.forget = true
		c.found |= touchRelease
		c.reset = c.reset || word == "discard"
	case "unlisten", "drop", "close", "pg_advisory_unlock", "pg_advisory_unlock_shared", "pg_advisory_unlock_all":
		c.found |= touchRelease
	case "set_config":
		c.found |= touchConfig
	case "prepare":
		return prepareWord
	case "listen":
		c.found |= touchListen
	case "temp", "temporary":
		if c.before == beforeTemp || c.apart {
			c.found |= touchTemp
		}
	case "pg_temp":
		c.found |= touchTemp
	case "hold":
		if c.before == withWord || c.apart {
			c.found |= touchCursor
		}
	case "pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared":
		c.found |= touchLock
	case "create":
		c.found |= touchCreate
		return beforeTemp
	case "into":
		if c.before != insertWord {
			c.found |= touchCreate
		}
		return beforeTemp
	case "insert", "merge":
		return insertWord
	case "global", "replace":
		return beforeTemp
	case "local":
		switch {
		case c.last == '"': // a name
		case c.pending == setWord:
			return localWord
		default:
			return beforeTemp
		}
	case "transaction", "constraints":
		if c.last != '"' {
			return localWord
		}
	case "u":
		return unicodeWord
	case "do":
		if c.starts() {
			c.hide()
		}
	case "pg_settings":
		c.views = true
	case "update":
		c.writes = true
	case "lastval", "currval":
		c.found |= touchSequence
	case "dblink_connect", "dblink_connect_u", "pg_replication_origin_session_setup", "pg_backup_start", "pg_start_backup",
		"pg_create_logical_replication_slot", "pg_create_physical_replication_slot", "pg_copy_logical_replication_slot",
		"pg_copy_physical_replication_slot":
		c.found |= touchConnection
	case "query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "ts_stat", "ts_rewrite", "crosstab", "crosstab2", "crosstab3",
		"crosstab4", "connectby", "xpath_table":
		c.hide()
	case "temp_buffers":
		c.buffers = true
	case "set_limit": // of pg_trgm sets a parameter
		c.found |= touchSet
	case "with":
		return withWord
	case "begin", "then", "else", "loop", "as", "execute":
		return blockWord
	}
	return otherWord
}
