package postgres

import (
	"bytes"

	"github.com/weirproxy/weir/pgwire"
)

const (
	// maxStatement is how long the text of a prepared statement may be for us to keep it, in bytes. A session with a longer
	// one keeps its server connection instead.
	maxStatement = 1 << 20
	// maxStatements is how many named statements, and maxStatementBytes how much text, one session may have prepared.
	// A session with more keeps its server connection.
	maxStatements     = 2000
	maxStatementBytes = 8 << 20
	// preparedPerServer is how many statements stay prepared on a server connection from one batch to the next.
	preparedPerServer = 500
)

// statement is what a client has prepared. On the servers it goes by a name made of its number, which no client knows, so
// that clients do not meet each other's.
type statement struct {
	id    uint64
	name  string // the client's; "" for the unnamed one
	text  []byte // the body of its Parse behind the name; nil when too long to keep
	found touch  // what executing it leaves in the session

	prior *statement // has the name, and the number, unless its Parse fails; nil once this one's is done
	dead  bool       // its Parse has failed
}

// sql is the statement's text, nil when it was not kept.
func (st *statement) sql() []byte {
	if len(st.text) == 0 {
		return nil
	}
	sql, _, _ := pgwire.CString(st.text)
	return sql
}

// noStatement goes by a name that no server ever knows.
var noStatement = statement{name: "none"}

// statements are all of a session's.
type statements struct {
	named   map[string]*statement
	unnamed statement // id 0: there is none
	bytes   int       // of the named ones' text
}

func (t *statements) find(name []byte) *statement {
	if t == nil {
		return nil
	}
	if len(name) == 0 {
		if t.unnamed.id == 0 {
			return nil
		}
		return &t.unnamed
	}
	return t.named[string(name)]
}

func (t *statements) add(st *statement) {
	if t.named == nil {
		t.named = make(map[string]*statement)
	}
	t.named[st.name] = st
	t.bytes += len(st.text)
}

func (t *statements) remove(st *statement) {
	if t != nil && t.named[st.name] == st {
		delete(t.named, st.name)
		t.bytes -= len(st.text)
	}
}

// withID finds a named statement by its number, one included that the client has closed behind what is being answered.
func (k *link) withID(id uint64) *statement {
	for _, a := range k.answers.pending() {
		if st := a.statement; st != nil && st.id == id && st.name != "" {
			return st
		}
	}
	if t := k.session.statements; t != nil {
		for _, st := range t.named {
			if st.id == id {
				return st
			}
		}
	}
	for _, st := range k.failed {
		if st.id == id {
			return st
		}
	}
	return nil
}

// allDeallocated notes that the server has forgotten all named statements, but for those that it has yet to hear of.
func (k *link) allDeallocated() {
	k.server.Prepared.Clear()
	t := k.session.statements
	if t == nil {
		return
	}
	t.named, t.bytes = nil, 0
	for _, a := range k.answers.pending() {
		if st := a.statement; a.kind == parsed && !a.ours && st != nil && st.name != "" {
			if st.prior != nil && !k.parsing(st.prior) {
				st.prior = nil
			}
			if before := t.named[st.name]; before != nil {
				t.remove(before)
			}
			t.add(st)
			k.server.Prepared.Add(st.id)
		}
	}
}

// forgetUnnamed notes that a Query ends the life of the unnamed statement, for the client and on the server.
func (k *link) forgetUnnamed() {
	k.server.Prepared.Unnamed = 0
	if t := k.session.statements; t != nil {
		t.unnamed.id = 0
	}
}

// statementMessage deals with Parse, Bind, Describe or Close at i, where a server connection is not the client's alone:
// statements are known to it by other names, and those it does not know are prepared first.
func (k *link) statementMessage(r *rewriting, i, body int) (used int, v verdict) {
	m := r.chunk[i:]
	have := m[pgwire.HeaderSize:min(len(m), pgwire.HeaderSize+body)]
	before, name, ok := nameIn(m[0], have)
	if !ok {
		switch {
		case len(have) < body && len(have) < maxHeld:
			return 0, waitForMore
		case len(have) < body:
			return 0, badLength // a name of many kilobytes
		}
		k.unsynced = true
		k.expect(m[0], nil, false) // malformed: the server says so
		k.upSkip = body
		return pgwire.HeaderSize, passOn
	}
	aboutStatement := m[0] == pgwire.Parse || m[0] == pgwire.Bind || have[0] == 'S'
	if aboutStatement && k.uncertain(m[0], name) {
		return 0, waitForAnswer
	}
	if !k.unsynced {
		k.evict(r, i)
	}
	k.unsynced = true
	used = pgwire.HeaderSize + before + len(name) + 1
	k.upSkip = body - (used - pgwire.HeaderSize)
	if !aboutStatement { // portals are the transaction's own
		k.expect(m[0], nil, false)
		return used, passOn
	}
	had := m[0] == pgwire.Close && k.has(name)
	st := k.statementFor(m[0], r, i, name)
	k.expect(m[0], st, had)
	if st == nil && len(name) > 0 && bytes.HasPrefix(name, []byte(k.w.srv.namePrefix)) {
		st = &noStatement // it has seen our names on the server; whose they are is not its business
	}
	if st != nil && st.name != "" {
		k.rename(r, i, used, before, body+k.w.srv.nameLength(st.id)-len(name), st)
	}
	if m[0] == pgwire.Parse && k.upSkip == 0 {
		k.bodyEnds()
	}
	return used, passOn
}

// uncertain reports whether it takes the answer to an earlier batch or query to know what a message of type t about the
// statement name means: whether the name is taken, whether it was closed or deallocated, and whether the server's unnamed
// statement is the client's or, after a Parse that was skipped, someone else's.
func (k *link) uncertain(t byte, name []byte) bool {
	switch {
	case k.doubtful: // no answer could be relied on
		if len(name) == 0 {
			k.server.Prepared.Unnamed = 0
		}
		return false
	case k.words.forget && k.answers.has(queried): // DISCARD or DEALLOCATE is on its way
		return true
	case len(name) == 0:
		return t != pgwire.Parse && k.answers.ahead(name)
	case k.answers.closes > 0:
		return k.answers.ahead(name)
	}
	return t == pgwire.Parse && k.session.statements.find(name) != nil && k.answers.ahead(name)
}

// nameIn finds the statement's name in the body of a message of type t, and how many bytes of the body come before it.
func nameIn(t byte, body []byte) (before int, name []byte, ok bool) {
	rest := body
	switch t {
	case pgwire.Bind: // the portal comes first
		if _, rest, ok = pgwire.CString(body); !ok {
			return 0, nil, false
		}
	case pgwire.Describe, pgwire.Close: // 'S' or 'P' comes first
		if len(body) == 0 {
			return 0, nil, false
		}
		rest = body[1:]
	}
	before = len(body) - len(rest)
	name, _, ok = pgwire.CString(rest)
	return before, name, ok
}

// expect queues what the server answers with a message of its own that we look at.
func (k *link) expect(t byte, st *statement, had bool) {
	switch t {
	case pgwire.Parse:
		k.answers.push(answer{kind: parsed, statement: st})
	case pgwire.Close:
		k.answers.push(answer{kind: closed, statement: st, had: had})
	}
}

// has reports whether the server has a named statement of the client's.
func (k *link) has(name []byte) bool {
	st := k.session.statements.find(name)
	return st != nil && k.server.Prepared.Has(st.id)
}

// rename writes the header and the name of a message anew.
func (k *link) rename(r *rewriting, i, used, before, body int, st *statement) {
	m := r.chunk[i:]
	r.cut(i, i+used)
	r.out = appendHeader(r.out, m[0], body)
	r.out = append(r.out, m[pgwire.HeaderSize:pgwire.HeaderSize+before]...)
	r.out = append(k.w.srv.appendName(r.out, st.id), 0)
}

// statementFor is the statement that a message of type t is about, nil for one that the client does not have. It sees to
// it that the server knows what it needs to know, as far as it is asked in this very batch.
func (k *link) statementFor(t byte, r *rewriting, i int, name []byte) *statement {
	s := k.session
	if s.statements == nil {
		s.statements = new(statements)
	}
	st := s.statements.find(name)
	switch t {
	case pgwire.Parse:
		return k.parse(r, i, st, name)
	case pgwire.Close:
		if len(name) == 0 {
			k.forgetUnnamed()
		} else if st != nil {
			s.statements.remove(st)
			k.server.Prepared.Remove(st.id)
		}
		return st
	}
	if st == nil {
		if len(name) == 0 { // the server may have someone else's
			k.closeUnnamed(r, i)
		}
		return nil
	}
	k.words.found |= st.found
	if st.found&touchNamed != 0 {
		_, names := st.found.settled(st.sql())
		k.name(names)
	}
	k.prepare(r, i, st)
	return st
}

// parse begins a statement. Its text is collected as it passes.
func (k *link) parse(r *rewriting, i int, old *statement, name []byte) *statement {
	k.scan(1)
	k.forget = k.words.forget
	k.text = k.text[:0]
	t := k.session.statements
	if len(name) == 0 {
		k.keeping = &t.unnamed
		return &t.unnamed
	}
	st := &statement{name: string(name), prior: old}
	if old != nil { // the server shall say that the name is taken, unless the old one's Parse, on its way, fails
		k.prepare(r, i, old)
		st.id = old.id
		t.remove(old)
	} else {
		st.id = k.w.srv.nextStatement()
	}
	t.add(st)
	k.server.Prepared.Add(st.id)
	k.keeping = st
	return st
}

// parsing reports whether the Parse of st has yet to be answered.
func (k *link) parsing(st *statement) bool {
	for _, a := range k.answers.pending() {
		if a.kind == parsed && a.statement == st {
			return true
		}
	}
	return false
}

// keep collects text of a statement.
func (k *link) keep(b []byte) {
	if len(k.text)+len(b) <= maxStatement && k.words.found&touchLarge == 0 {
		k.text = append(k.text, b...)
	} else {
		k.text = k.text[:0]
		k.words.found |= touchLarge
	}
}

// statementKept is called when all of a statement's text has passed.
func (k *link) statementKept() {
	st, t := k.keeping, k.session.statements
	k.keeping = nil
	same := bytes.Equal(st.text, k.text)
	if st.name != "" {
		st.text = append([]byte(nil), k.text...)
		t.bytes += len(st.text)
		if len(t.named) > maxStatements || t.bytes > maxStatementBytes {
			k.words.found |= touchLarge
		}
	} else {
		if !same || st.id == 0 {
			st.id = k.w.srv.nextStatement()
			st.text = append(st.text[:0], k.text...)
		}
		k.server.Prepared.Unnamed = st.id
	}
	st.found, _ = k.words.found.settled(st.sql())
	st.found &^= touchLarge
	if st.prior != nil {
		st.found |= st.prior.found
	}
	k.words.found = k.outer | k.words.found&touchLarge // parsing leaves nothing behind, executing does
	k.words.forget = k.forget
}

// prepare has the server know st before what follows.
func (k *link) prepare(r *rewriting, i int, st *statement) {
	if st.name == "" {
		if k.server.Prepared.Unnamed == st.id {
			return
		}
		k.server.Prepared.Unnamed = st.id
	} else {
		if k.server.Prepared.Has(st.id) {
			return
		}
		k.server.Prepared.Add(st.id)
	}
	n := len(st.text) + 1
	if st.name != "" {
		n += k.w.srv.nameLength(st.id)
	}
	r.cut(i, i)
	r.out = appendHeader(r.out, pgwire.Parse, n)
	if st.name != "" {
		r.out = k.w.srv.appendName(r.out, st.id)
	}
	r.out = append(append(r.out, 0), st.text...)
	k.answers.push(answer{kind: parsed, ours: true, statement: st})
}

// closeUnnamed makes sure that the server has no unnamed statement.
func (k *link) closeUnnamed(r *rewriting, i int) {
	r.insert(i, pgwire.Close, 0, 0, 0, 6, 'S', 0)
	k.server.Prepared.Unnamed = 0
	k.answers.push(answer{kind: closed, ours: true})
}

// evict closes statements that have been on the server for long, at the front of a batch, so that none is closed that an
// earlier message of the batch has been promised. What the batch needs is prepared again.
func (k *link) evict(r *rewriting, i int) {
	for {
		id, tooMany := k.server.Prepared.Oldest(preparedPerServer)
		if !tooMany {
			return
		}
		k.server.Prepared.Remove(id)
		r.cut(i, i)
		r.out = appendHeader(r.out, pgwire.Close, 1+k.w.srv.nameLength(id)+1)
		r.out = append(k.w.srv.appendName(append(r.out, 'S'), id), 0)
		k.answers.push(answer{kind: closed, ours: true})
	}
}

// hearStatement takes note that a Parse or Close has been done.
func (k *link) hearStatement(t byte) error {
	if k.session.resource.mode == Session {
		return nil
	}
	want := parsed
	if t == pgwire.CloseComplete {
		want = closed
	}
	if k.answers.empty() || k.answers.first().kind != want {
		if k.doubtful {
			return nil
		}
		return errUnasked
	}
	if st := k.answers.pop().statement; st != nil {
		st.prior = nil
	}
	return nil
}

// notAnswered takes back what was noted of a message that the server has skipped or refused.
func (k *link) notAnswered(a answer) {
	st, t := a.statement, k.session.statements
	switch {
	case st == nil:
	case st.name == "":
		k.server.Prepared.Unnamed = 0
		if !a.ours {
			st.id = 0
		}
	case a.kind == parsed && a.ours:
		k.server.Prepared.Remove(st.id)
	case a.kind == parsed && st.prior != nil && !st.prior.dead: // the name was taken
		if t.named[st.name] == st {
			t.remove(st)
			t.add(st.prior)
		}
	case a.kind == parsed:
		st.dead = true
		if next := t.named[st.name]; next == nil || next == st || next.id != st.id {
			k.server.Prepared.Remove(st.id)
			t.remove(st)
			k.failed = append(k.failed, st)
		}
	case a.kind == closed:
		if a.had {
			k.server.Prepared.Add(st.id)
		}
		if t.named[st.name] == nil {
			t.add(st)
		}
	}
}

// forgetUnanswered is for all that is still open when the client leaves and its server connection goes on. Whether those
// statements exist is not known any more, and nobody will ask for them: they are closed when they are the oldest.
func (k *link) forgetUnanswered() {
	for _, a := range k.answers.pending() {
		if st := a.statement; st != nil && st.name != "" {
			k.server.Prepared.Add(st.id)
		}
	}
	k.server.Prepared.Unnamed = 0
	k.answers.reset()
}
