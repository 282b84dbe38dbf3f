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
	if equalWord(wordAt(skipComments(rest)), "all") {
		return "", false
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
	if m[0] != pgwire.Query || t == nil || len(t.named) == 0 && k.answers.closes == 0 || len(m) < pgwire.HeaderSize+body || k.doubtful || k.session.resource.mode == Session {
		return 0, passOn, false
	}
	name, ok := deallocated(bytes.TrimSuffix(m[pgwire.HeaderSize:pgwire.HeaderSize+body], []byte{0}))
	if !ok || t.named[name].content == nil && k.answers.closes == 0 {
		return 0, passOn, false
	}
	if !k.answers.empty() { // whether it is still there, and whether a transaction has failed, is to be known
		return 0, waitForAnswer, true
	}
	if k.status == pgwire.InFailed {
		return 0, passOn, false
	}
	number := k.w.srv.nextStatement()
	r.cut(i, i+pgwire.HeaderSize+body)
	k.standIn(r, i+pgwire.HeaderSize+body, number)
	k.drop(name)
	const sql = "DEALLOCATE "
	r.out = append(appendHeader(r.out, pgwire.Query, len(sql)+k.w.srv.nameLength(number)+1), sql...)
	r.out = append(k.w.srv.appendName(r.out, number), 0)
	k.query(pgwire.Query, 0)
	k.forgetUnnamed()
	return pgwire.HeaderSize + body, passOn, true
}

// standIn prepares a statement that is there to be deallocated in the place of the client's.
func (k *link) standIn(r *rewriting, i int, number uint64) {
	r.cut(i, i)
	r.out = k.w.appendParse(r.out, emptySelect, number)
	k.answers.push(answer{kind: parsed, ours: true})
}

// drop notes that the client's statement is gone from now on, unless the server does not come to do it.
func (k *link) drop(name string) {
	st := k.session.statements.named[name]
	k.answers.push(answer{kind: dropped, name: name, content: st.content, number: st.told})
	k.session.unset(name)
}

// hearDeallocated takes note that DEALLOCATE is done.
func (k *link) hearDeallocated() {
	if !k.answers.empty() && k.answers.first().kind == dropped {
		k.answers.pop()
	}
}

// deallocates reports whether c is DEALLOCATE of a statement that the client has prepared by the protocol, and which.
func (k *link) deallocates(c *content) (name string, ok bool) {
	return c.deallocates, !k.inFailed() && k.session.statements.named[c.deallocates].content != nil
}

// instead prepares what a Bind at i is to bind instead of DEALLOCATE of a statement of the client's, and returns its number.
func (k *link) instead(r *rewriting, i int) uint64 {
	number := k.w.srv.nextStatement()
	k.standIn(r, i, number)
	c := k.session.private(string(k.w.srv.appendName([]byte("DEALLOCATE "), number)) + "\x00\x00\x00")
	return k.prepareNamed(r, i, c)
}
