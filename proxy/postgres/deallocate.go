package postgres

import (
	"bytes"

	"github.com/weirproxy/weir/pgwire"
)

// deallocated reads a whole statement: DEALLOCATE of one prepared statement, whose name it returns.
func deallocated(sql []byte) (name string, ok bool) {
	if len(sql) > longestCommand {
		return "", false
	}
	first, rest := nextWord(sql)
	if !equalWord(first, "deallocate") {
		return "", false
	}
	word, behind, ok := statementName(skipComments(rest))
	if ok && equalWord([]byte(word), "prepare") {
		if next, further, is := statementName(skipComments(behind)); is {
			word, behind = next, further
		}
	}
	behind = bytes.TrimPrefix(skipComments(behind), []byte(";"))
	return word, ok && len(skipComments(behind)) == 0
}

// statementName reads an identifier: as it stands in double quotes, or folded to lower case.
func statementName(b []byte) (name string, rest []byte, ok bool) {
	if len(b) > 0 && b[0] == '"' {
		end := bytes.IndexByte(b[1:], '"')
		if end < 0 || bytes.HasPrefix(b[end+2:], []byte(`"`)) { // a quote in a name is not worth the trouble
			return "", nil, false
		}
		return string(b[1 : 1+end]), b[end+2:], end > 0
	}
	word := wordAt(b)
	return string(bytes.ToLower(word)), b[len(word):], len(word) > 0 && (word[0] < '0' || word[0] > '9')
}

// deallocate deals with a Query at i that says DEALLOCATE of a statement that the client has prepared by the protocol. The
// server keeps that for others; it is given another one to deallocate, and what it answers is true of both.
func (k *link) deallocate(r *rewriting, i, body int) (used int, v verdict, is bool) {
	t := k.session.statements
	m := r.chunk[i:]
	if m[0] != pgwire.Query || t == nil || len(t.named) == 0 || len(m) < pgwire.HeaderSize+body || k.doubtful || k.session.resource.mode == Session {
		return 0, passOn, false
	}
	name, ok := deallocated(bytes.TrimSuffix(m[pgwire.HeaderSize:pgwire.HeaderSize+body], []byte{0}))
	if !ok || t.named[name] == nil {
		return 0, passOn, false
	}
	if !k.answers.empty() { // whether a transaction has failed is to be known
		return 0, waitForAnswer, true
	}
	if k.status == pgwire.InFailed {
		return 0, passOn, false
	}
	number := k.w.srv.nextStatement()
	r.cut(i, i+pgwire.HeaderSize+body)
	r.out = k.appendStandIn(r.out, number)
	k.answers.push(answer{kind: parsed, ours: true})
	const sql = "DEALLOCATE "
	r.out = append(appendHeader(r.out, pgwire.Query, len(sql)+k.w.srv.nameLength(number)+1), sql...)
	r.out = append(k.w.srv.appendName(r.out, number), 0)
	k.query(pgwire.Query, 0)
	k.forgetUnnamed()
	k.deallocating = name
	return pgwire.HeaderSize + body, passOn, true
}

// appendStandIn appends the Parse of a statement that is there to be deallocated.
func (k *link) appendStandIn(dst []byte, number uint64) []byte {
	return k.w.appendParse(dst, &standIn, number)
}

var standIn = content{text: "SELECT\x00\x00\x00"}

// standInFor is the content to prepare where the client parses DEALLOCATE of a statement of its own: see deallocate.
func (k *link) standInFor(c *content) *content {
	t := k.session.statements
	if !c.deallocates {
		return c
	}
	name, _ := deallocated(c.sql())
	if t.named[name] == nil || k.status == pgwire.InFailed {
		return c
	}
	number := k.w.srv.nextStatement()
	text := append(k.w.srv.appendName([]byte("DEALLOCATE "), number), 0, 0, 0)
	private := k.session.private(string(text))
	private.standIn, private.standsFor = number, name
	return private
}

// executeDeallocate has what is to be deallocated there, ahead of the Bind of a DEALLOCATE.
func (k *link) executeDeallocate(r *rewriting, i int, c *content) {
	if c.standIn == 0 || k.session.statements.named[c.standsFor] == nil { // or it is gone by now: the server says so
		return
	}
	r.cut(i, i)
	r.out = k.appendStandIn(r.out, c.standIn)
	k.answers.push(answer{kind: parsed, ours: true})
	k.deallocating = c.standsFor
}
