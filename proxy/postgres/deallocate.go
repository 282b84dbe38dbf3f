package postgres

import (
	"bytes"
	"slices"

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
	m := r.chunk[i:]
	if m[0] != pgwire.Query || body > longestCommand+1 || !k.hasNamed() {
		return 0, passOn, false
	}
	if len(m) < pgwire.HeaderSize+body {
		return 0, waitForMore, true
	}
	name, ok := deallocated(bytes.TrimSuffix(m[pgwire.HeaderSize:pgwire.HeaderSize+body], []byte{0}))
	named := k.session.statements.named
	switch {
	case !ok || named[name].content == nil && k.answers.closes == 0:
		return 0, passOn, false
	case !k.answers.empty(): // whether it is still there, and whether a transaction has failed, is to be known
		return 0, waitForAnswer, true
	case named[name].content == nil || k.status == pgwire.InFailed:
		return 0, passOn, false
	}
	k.reconsider()
	r.cut(i, i+pgwire.HeaderSize+body)
	k.standIn(r, i+pgwire.HeaderSize+body)
	r.out = append(appendHeader(r.out, pgwire.Query, len(deallocate)+k.nameLength(standInStatement)+3), deallocate...)
	r.out = append(k.appendIdentifier(r.out, standInStatement), 0)
	k.queryOf(answer{kind: queried, name: name, content: named[name].content}, pgwire.Query, 0)
	k.forgetUnnamed()
	k.words.forget = true
	return pgwire.HeaderSize + body, passOn, true
}

const deallocate = "DEALLOCATE "

// hasNamed reports whether the client has named statements that the server knows by other names, or may have.
func (k *link) hasNamed() bool {
	t := k.session.statements
	return t != nil && (len(t.named) > 0 || k.answers.closes > 0) && !k.doubtful && !k.skipping && k.session.resource.mode != Session
}

// standIn prepares a statement that is there to be deallocated in the place of the client's.
func (k *link) standIn(r *rewriting, i int) {
	r.cut(i, i)
	r.out = k.appendParse(k.appendClose(r.out, standInStatement), emptySelect, standInStatement)
	k.answers.push(answer{kind: closed, ours: true})
	k.answers.push(answer{kind: parsed, ours: true})
}

// hearDeallocated takes note that DEALLOCATE is done.
func (k *link) hearDeallocated() {
	for _, a := range k.answers.pending() {
		if a.kind == queried || a.kind == executed {
			if a.name != "" {
				k.session.unset(a.name)
			}
			return
		}
		if !a.step() {
			return
		}
	}
}

// portal is one that DEALLOCATE of a statement is bound to.
type portal struct {
	name, deallocates string
	asked             int // how many ReadyForQuery messages were before it was bound
}

// mostPortals is how many portals are followed in a transaction.
const mostPortals = 256

// bindPortal notes that a Bind, with have of its body, binds c.
func (k *link) bindPortal(have []byte, c *content) {
	k.forgetting, k.altering = k.forgetting || c.forgets, k.altering || c.alters
	if c.tampers {
		k.consider(c.defines)
	}
	if c.deallocates == "" && len(k.portals) == 0 {
		return
	}
	name, _, _ := pgwire.CString(have)
	k.dropPortal(name)
	if len(k.portals) == mostPortals { // nobody does that: what is executed is not followed any more
		k.doubtful = true
		return
	}
	if c.deallocates != "" {
		k.portals = append(k.portals, portal{string(name), c.deallocates, k.answers.asked})
	}
}

// forgetPortals is called when there are none any more.
func (k *link) forgetPortals() {
	k.portals = k.portals[:0]
	k.forgetting, k.tampering = false, false
}

// dropPortal notes that a portal is closed, bound to something else, or executed, which it can be once.
func (k *link) dropPortal(name []byte) {
	if len(k.portals) > 0 {
		k.portals = slices.DeleteFunc(k.portals, func(p portal) bool { return p.name == string(name) })
	}
}

// portalsEnd is called when a transaction has ended, and its portals with it. What is bound behind it is not of it.
func (k *link) portalsEnd() {
	if len(k.portals) > 0 {
		k.portals = slices.DeleteFunc(k.portals, func(p portal) bool { return p.asked < k.answers.heard })
	}
}

// deallocates is the statement that executing the portal deallocates.
func (k *link) deallocates(name []byte) string {
	for _, p := range k.portals {
		if p.name == string(name) {
			return p.deallocates
		}
	}
	return ""
}

// executePortal deals with an Execute at i. Where that is DEALLOCATE of a statement which the client has prepared by the protocol, another
// one is bound to the portal first: see deallocate.
func (k *link) executePortal(r *rewriting, i, body int) (used int, v verdict) {
	a := answer{kind: executed}
	k.doubtful = k.doubtful || k.copyIn
	if len(k.portals) > 0 && k.hasNamed() {
		m := r.chunk[i:]
		if len(m) < pgwire.HeaderSize+body {
			return 0, waitForMore
		}
		name, _, _ := pgwire.CString(m[pgwire.HeaderSize:][:body])
		if a.name = k.deallocates(name); a.name != "" {
			if k.awaits([]byte(a.name)) || k.answers.owed() > 0 || k.doubted && k.answers.parses+k.answers.closes > 0 { // and whether a transaction has failed
				k.hurry(r, i)
				return 0, waitForAnswer
			}
			if a.content = k.session.statements.named[a.name].content; a.content == nil || k.inFailed() {
				a.name, a.content = "", nil
			} else {
				k.reconsider()
				k.rebind(r, i, name)
			}
			k.dropPortal(name)
		}
	}
	k.hurried = false
	k.unsynced, k.executes = true, true
	k.doubted = k.doubted || k.tampering
	k.stepOf(a)
	k.upSkip = body
	return pgwire.HeaderSize, passOn
}

// prepareDeallocating has the server know the statement that deallocates what is there for that.
func (k *link) prepareDeallocating(r *rewriting) {
	if !k.server.Prepared.Use(deallocatingStatement) {
		k.server.Prepared.Add(deallocatingStatement)
		text := string(k.appendIdentifier([]byte(deallocate), standInStatement)) + "\x00\x00\x00"
		r.out = k.appendParse(r.out, text, deallocatingStatement)
		k.answers.push(answer{kind: parsed, ours: true, number: deallocatingStatement, content: k.session.private(text)})
	}
}

// rebind binds DEALLOCATE of what is there for that to a portal.
func (k *link) rebind(r *rewriting, i int, portal []byte) {
	k.standIn(r, i)
	k.prepareDeallocating(r)
	r.out = append(append(append(appendHeader(r.out, pgwire.Close, 1+len(portal)+1), 'P'), portal...), 0)
	k.answers.push(answer{kind: closed, ours: true})
	r.out = append(appendHeader(r.out, pgwire.Bind, len(portal)+1+k.nameLength(deallocatingStatement)+1+6), portal...)
	r.out = append(k.appendName(append(r.out, 0), deallocatingStatement), 0, 0, 0, 0, 0, 0, 0)
	k.stepOf(answer{kind: bound, ours: true})
}
