package postgres

import (
	"bytes"

	"github.com/weirproxy/weir/pgwire"
)

// block is a transaction block that has begun for the client only: a server connection is taken at the first statement that
// needs one, so that a client that begins and thinks holds nothing.
type block struct {
	state      blockState
	isolation  byte // indices of the modes that were asked for; 0: none
	access     byte
	deferrable byte
}

type blockState byte

const (
	noBlock blockState = iota
	begun              // and no server knows
	failed             // its first statement was refused
)

// The transaction modes of BEGIN (manual, "BEGIN").
var (
	isolations  = [...]string{"", "isolation level read uncommitted", "isolation level read committed", "isolation level repeatable read", "isolation level serializable"}
	accesses    = [...]string{"", "read only", "read write"}
	deferrables = [...]string{"", "deferrable", "not deferrable"}
)

// status is what ReadyForQuery says of a session without a server connection.
func (b block) status() byte {
	return [...]byte{noBlock: pgwire.Idle, begun: pgwire.InTransaction, failed: pgwire.InFailed}[b.state]
}

// appendSQL appends the statement that begins the block.
func (b block) appendSQL(dst []byte) []byte {
	dst = append(dst, "begin"...)
	for _, mode := range []string{isolations[b.isolation], accesses[b.access], deferrables[b.deferrable]} {
		if mode != "" {
			dst = append(append(dst, ' '), mode...)
		}
	}
	return dst
}

// command is what a statement does to the transaction block, as far as a session without a server connection can do it.
type command byte

const (
	otherCommand command = iota
	beginCommand
	startCommand // as beginCommand, with another tag
	commitCommand
	rollbackCommand
)

var tags = [...]string{beginCommand: "BEGIN", startCommand: "START TRANSACTION", commitCommand: "COMMIT", rollbackCommand: "ROLLBACK"}

// longestCommand is more than any statement has that is worth reading for this, in bytes.
const longestCommand = 256

// readCommand reads a whole statement. b is the block that it begins.
func readCommand(sql []byte) (c command, b block) {
	if len(sql) > longestCommand {
		return otherCommand, b
	}
	first, rest := nextWord(sql)
	switch {
	case equalWord(first, "begin"):
		rest = skipWork(rest)
		c = beginCommand
	case equalWord(first, "start"):
		var second []byte
		if second, rest = nextWord(rest); !equalWord(second, "transaction") {
			return otherCommand, b
		}
		c = startCommand
	case equalWord(first, "commit"), equalWord(first, "end"):
		rest = skipWork(rest)
		c = commitCommand
	case equalWord(first, "rollback"), equalWord(first, "abort"):
		rest = skipWork(rest)
		c = rollbackCommand
	default:
		return otherCommand, b
	}
	if c == beginCommand || c == startCommand {
		b.state = begun
		rest = b.readModes(rest)
	}
	if rest = bytes.TrimPrefix(skipComments(rest), []byte(";")); len(skipComments(rest)) > 0 {
		return otherCommand, block{}
	}
	return c, b
}

// nextWord splits the first word off a text, behind blanks and comments.
func nextWord(sql []byte) (word, rest []byte) {
	sql = skipComments(sql)
	word = wordAt(sql)
	return word, sql[len(word):]
}

func skipWork(sql []byte) []byte {
	if word, rest := nextWord(sql); equalWord(word, "work") || equalWord(word, "transaction") {
		return rest
	}
	return sql
}

// readModes reads transaction modes and returns what it does not understand.
func (b *block) readModes(sql []byte) (rest []byte) {
	rest = sql
	for {
		ok := false
		for _, m := range []struct {
			chosen *byte
			modes  []string
		}{{&b.isolation, isolations[:]}, {&b.access, accesses[:]}, {&b.deferrable, deferrables[:]}} {
			for i, mode := range m.modes {
				if behind, is := skipWords(sql, mode); is && mode != "" && *m.chosen == 0 {
					*m.chosen = byte(i)
					rest = skipComments(behind)
					sql, ok = bytes.TrimPrefix(rest, []byte(",")), true
				}
			}
		}
		if !ok {
			return rest
		}
	}
}

// skipWords skips the words of a phrase.
func skipWords(sql []byte, phrase string) (rest []byte, ok bool) {
	for phrase != "" {
		end := 0
		for end < len(phrase) && phrase[end] != ' ' {
			end++
		}
		var word []byte
		if word, sql = nextWord(sql); !equalWord(word, phrase[:end]) {
			return nil, false
		}
		phrase = phrase[min(len(phrase), end+1):]
	}
	return sql, true
}

// runBlock answers a Query that begins or ends a transaction block that no server needs to know of, and reports whether it was one.
func (s *session) runBlock(chunk []byte, body int) bool {
	if s.resource.mode != Transaction || len(chunk) < pgwire.HeaderSize+body {
		return false
	}
	c, b := readCommand(bytes.TrimSuffix(chunk[pgwire.HeaderSize:pgwire.HeaderSize+body], []byte{0}))
	switch {
	case c == otherCommand:
		return false
	case c == beginCommand || c == startCommand:
		if s.block.state != noBlock || len(chunk) > pgwire.HeaderSize+body { // what follows needs a server at once
			return false
		}
	case s.block.state == noBlock:
		return false
	case s.block.state == failed:
		c = rollbackCommand
	}
	s.block = b
	if s.statements != nil {
		s.statements.unnamed = nil // a Query ends it
	}
	out := s.w.out[:0]
	out = append(appendHeader(out, pgwire.CommandComplete, len(tags[c])+1), tags[c]...)
	out = pgwire.AppendReadyForQuery(append(out, 0), s.block.status())
	s.write(out)
	s.w.out = out[:0]
	s.skip = pgwire.HeaderSize + body
	s.rest()
	return true
}

// errAborted is what a server says in a failed transaction block.
var errAborted = &pgwire.Error{
	Severity: "ERROR", Code: "25P02", Message: "current transaction is aborted, commands ignored until end of transaction block",
}

// ends reports whether the message at the front of chunk ends a failed block by the extended protocol.
func (s *session) endsBlock(chunk []byte, body int) bool {
	have := chunk[pgwire.HeaderSize:min(len(chunk), pgwire.HeaderSize+body)]
	_, name, ok := nameIn(chunk[0], have)
	if !ok {
		return false
	}
	var sql []byte
	switch chunk[0] {
	case pgwire.Parse:
		sql, _, _ = pgwire.CString(have[len(name)+1:])
	case pgwire.Bind:
		if c := s.statements.find(name); c != nil {
			sql = c.sql()
		}
	}
	c, _ := readCommand(sql)
	return c == commitCommand || c == rollbackCommand
}

// beginBlock tells the server of the block, ahead of the first statement in it.
func (k *link) beginBlock() {
	s := k.session
	if s.block.state != begun {
		return
	}
	sql := s.block.appendSQL(k.w.key[:0])
	k.upOut = append(appendHeader(k.upOut, pgwire.Query, len(sql)+1), sql...)
	k.upOut = append(k.upOut, 0)
	k.w.key = sql[:0]
	s.block = block{}
	k.answers.push(answer{kind: began, ours: true})
	k.server.Prepared.Unnamed = 0
	k.timeQuery()
}
