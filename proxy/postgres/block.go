package postgres

import (
	"bytes"
	"encoding/binary"

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

// endsFailed reports whether a text begins with a command that PostgreSQL takes in a failed transaction block, or may, as it has not come
// whole.
func endsFailed(sql []byte, partly bool) bool {
	first, rest := nextWord(sql)
	for len(first) == 0 && len(rest) > 0 && rest[0] == ';' {
		first, rest = nextWord(rest[1:])
	}
	if len(first) == 0 || len(rest) == 0 {
		return partly || len(rest) > 0 || isExit(first)
	}
	return isExit(first)
}

func isExit(word []byte) bool {
	for _, exit := range []string{"rollback", "abort", "commit", "end", "prepare"} {
		if equalWord(word, exit) {
			return true
		}
	}
	return false
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

// runBlock answers what begins or ends a transaction block that no server needs to know of, a Query or a whole batch, and
// reports whether the message at the front of chunk was that.
func (s *session) runBlock(chunk []byte, body int) bool {
	if s.resource.mode != Transaction || len(chunk) < pgwire.HeaderSize+body {
		return false
	}
	var sql, before []byte // before is what is answered before the completion of the command
	used := pgwire.HeaderSize + body
	switch chunk[0] {
	case pgwire.Query:
		sql = bytes.TrimSuffix(chunk[pgwire.HeaderSize:used], []byte{0})
	case pgwire.Parse:
		batch, ok := readBatch(chunk)
		if !ok {
			return false
		}
		sql, before, used = batch.sql, batch.answer, len(chunk)
	default:
		return false
	}
	c, b := readCommand(sql)
	switch {
	case c == otherCommand:
		return false
	case c == beginCommand || c == startCommand:
		if s.block.state != noBlock || len(chunk) > used { // what follows needs a server at once
			return false
		}
	case s.block.state == noBlock:
		return false
	case s.block.state == failed:
		c = rollbackCommand
	}
	s.block = b
	if s.statements == nil {
		s.statements = new(statements)
	}
	s.statements.unnamed = statement{} // a Query ends it
	if chunk[0] == pgwire.Parse {
		s.statements.unnamed.content, _ = s.contentOf(chunk[pgwire.HeaderSize+1 : pgwire.HeaderSize+body])
	}
	out := append(s.w.out[:0], before...)
	out = append(appendHeader(out, pgwire.CommandComplete, len(tags[c])+1), tags[c]...)
	out = pgwire.AppendReadyForQuery(append(out, 0), s.block.status())
	s.write(out)
	s.w.out = out[:0]
	s.skip = used
	s.rest()
	return true
}

// batch is one of the extended protocol that does no more than execute one statement without parameters.
type batch struct {
	sql    []byte
	answer []byte // what the server answers before the completion of the command
}

// Answers to such batches.
var (
	answerUndescribed = []byte{pgwire.ParseComplete, 0, 0, 0, 4, pgwire.BindComplete, 0, 0, 0, 4}
	answerDescribed   = append(answerUndescribed[:len(answerUndescribed):len(answerUndescribed)], pgwire.NoData, 0, 0, 0, 4)
)

// readBatch reads a chunk that is nothing but Parse, Bind, Describe or not, Execute and Sync, of the unnamed statement and portal.
func readBatch(chunk []byte) (b batch, ok bool) {
	b.answer = answerUndescribed
	for _, t := range []byte{pgwire.Parse, pgwire.Bind, pgwire.Describe, pgwire.Execute, pgwire.Sync} {
		if len(chunk) < pgwire.HeaderSize || chunk[0] != t {
			if t == pgwire.Describe {
				continue
			}
			return b, false
		}
		n, err := pgwire.Length(chunk)
		if err != nil || len(chunk) < pgwire.HeaderSize+n {
			return b, false
		}
		body := chunk[pgwire.HeaderSize : pgwire.HeaderSize+n]
		chunk = chunk[pgwire.HeaderSize+n:]
		switch t {
		case pgwire.Parse:
			if len(body) < 4 || body[0] != 0 {
				return b, false
			}
			var types []byte
			b.sql, types, ok = pgwire.CString(body[1:])
			ok = ok && bytes.Equal(types, []byte{0, 0})
		case pgwire.Bind:
			ok = bindsNothing(body)
		case pgwire.Describe:
			ok = bytes.Equal(body, []byte{'P', 0})
			b.answer = answerDescribed
		case pgwire.Execute:
			ok = len(body) == 5 && body[0] == 0
		}
		if !ok {
			return b, false
		}
	}
	return b, len(chunk) == 0
}

// bindsNothing reports whether the body of a Bind is of the unnamed portal and statement, and has no parameters.
func bindsNothing(body []byte) bool {
	if len(body) < 8 || body[0] != 0 || body[1] != 0 {
		return false
	}
	formats := int(binary.BigEndian.Uint16(body[2:]))
	if len(body) < 4+2*formats+4 {
		return false
	}
	rest := body[4+2*formats:]
	results := int(binary.BigEndian.Uint16(rest[2:]))
	return formats <= 1 && rest[0] == 0 && rest[1] == 0 && len(rest) == 4+2*results
}

// errAborted is what a server says in a failed transaction block.
var errAborted = &pgwire.Error{
	Severity: "ERROR", Code: "25P02", Message: "current transaction is aborted, commands ignored until end of transaction block",
}

// endsBlock reports whether the message at the front of chunk ends a failed block by the extended protocol.
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
		if c := s.statements.find(name).content; c != nil {
			sql = c.sql()
		}
	}
	c, _ := readCommand(sql)
	return c == commitCommand || c == rollbackCommand
}

// beginBlock tells the server of the block, ahead of the first statement in it, and of what is to be done before.
func (k *link) beginBlock(before string) {
	s := k.session
	if s.block.state != begun {
		return
	}
	k.block = s.block
	k.plainly.statements++
	sql := s.block.appendSQL(append(k.w.key[:0], before...))
	k.upOut = append(appendHeader(k.upOut, pgwire.Query, len(sql)+1), sql...)
	k.upOut = append(k.upOut, 0)
	k.w.key = sql[:0]
	s.block = block{}
	k.answers.push(answer{kind: began, ours: true})
	k.server.Prepared.Unnamed = 0
	k.timeQuery()
}
