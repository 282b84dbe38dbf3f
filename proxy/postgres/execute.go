package postgres

import (
	"bytes"

	"github.com/weirproxy/weir/pgwire"
)

// executedName reads the front of a statement: EXECUTE of a prepared statement, whose name it returns, and where its parameters begin.
func executedName(sql []byte) (name string, behind int, ok bool) {
	first, rest := nextWord(sql)
	if !equalWord(first, "execute") {
		return "", 0, false
	}
	name, rest, ok = statementName(skipComments(rest))
	return name, len(sql) - len(rest), ok && (len(rest) == 0 || rest[0] != '$')
}

// execute deals with a Query at i that says EXECUTE of a statement that the client has prepared by the protocol. The server is
// told its own name for that, behind a Parse if it does not know it. Should that fail, the Query is skipped: see hearError.
func (k *link) execute(r *rewriting, i, body int) (used int, v verdict, is bool) {
	m := r.chunk[i:]
	if m[0] != pgwire.Query || !k.hasNamed() {
		return 0, passOn, false
	}
	have := m[pgwire.HeaderSize:min(len(m), pgwire.HeaderSize+body)]
	if len(have) < body && body <= maxHeld && len(have) < longestCommand {
		return 0, waitForMore, true
	}
	name, behind, ok := executedName(bytes.TrimSuffix(have, []byte{0}))
	named := k.session.statements.named
	switch {
	case !ok:
		return 0, passOn, false
	case len(have) < body && body <= maxHeld:
		return 0, waitForMore, true
	case named[name].content == nil && k.answers.closes == 0:
		return 0, passOn, false
	case !k.answers.empty(): // whether it is still there, and whether a transaction has failed, is to be known
		return 0, waitForAnswer, true
	case named[name].content == nil || k.status == pgwire.InFailed:
		return 0, passOn, false
	}
	k.reconsider()
	at := 0
	if end := bytes.TrimRight(have[behind:], "; \t\r\n\x00"); len(have) == body && bytes.IndexByte(end, ';') < 0 {
		at = k.startRecording(r, i)
	}
	c, number := k.prepareExecuted(r, i, name)
	a := answer{kind: queried, content: c, at: at}
	if dropped := named[c.deallocates].content; dropped != nil {
		number, a.at, a.name, a.content = deallocatingStatement, 0, c.deallocates, dropped
		k.standIn(r, i)
		k.prepareDeallocating(r)
		k.noteUse(c, number, []byte(name))
	}
	a.number, a.use = number, len(k.used)
	used = pgwire.HeaderSize + behind
	r.cut(i, i+used)
	r.out = appendHeader(r.out, pgwire.Query, len(execute)+k.nameLength(number)+2+body-behind)
	r.out = k.appendIdentifier(append(r.out, execute...), number)
	k.words.forget = k.words.forget || c.forgets
	k.queryOf(a, pgwire.Query, body-behind)
	k.upSkip = body - behind
	return used, passOn, true
}

const execute = "EXECUTE "

// prepareExecuted has the server know the client's statement name before what follows, and returns what it is, and its number.
func (k *link) prepareExecuted(r *rewriting, i int, name string) (c *content, number uint64) {
	c = k.asNow([]byte(name), k.session.statements.named[name]).content
	k.suspect(c)
	k.forgetting, k.altering = k.forgetting || c.forgets, k.altering || c.alters
	if c.tampers {
		k.consider(c.defines)
	}
	if number = c.number.Load(); !k.server.Prepared.Use(number) {
		number = k.prepareNamed(r, i, c)
	}
	k.noteUse(c, number, []byte(name))
	return c, number
}

// asExecuted is what the server is to prepare for c, which is EXECUTE of a statement that the client has prepared by the protocol.
func (k *link) asExecuted(r *rewriting, i int, c *content) *content {
	if c.executes == "" || k.session.statements.named[c.executes].content == nil || k.inFailed() {
		return c
	}
	_, number := k.prepareExecuted(r, i, c.executes)
	text := k.appendIdentifier([]byte(execute), number)
	text = append(text, c.text[c.behind:]...)
	if is, err := k.session.contentOf(text); err == nil {
		return is
	}
	return k.session.private(string(text))
}
