package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/pool"
	"github.com/weirproxy/weir/proxy"
)

const (
	// maxStatement is how long the text of a prepared statement may be for us to keep it, in bytes. A session with a longer
	// one keeps its server connection instead.
	maxStatement = 1 << 20
	// longName is more than the name of a statement has that nobody wants to fill our memory with, in bytes.
	longName = 128
	// preparedPerServer is how many statements stay prepared on a server connection from one batch to the next.
	preparedPerServer = 500
	// mostPrepared is how many may be while a batch goes on.
	mostPrepared = 4 * preparedPerServer
)

// statements are what a session has prepared: contents by its own names for them.
type statements struct {
	named   map[string]statement
	unnamed statement
	bytes   int // that the named ones are taken to need, with their names
}

// statement is one of a session's; without a content, none.
type statement struct {
	content *content
	told    uint64 // the number of the content when the client was last told what it returns; 0: it never was
}

func (t *statements) find(name []byte) statement {
	switch {
	case t == nil:
		return statement{}
	case len(name) == 0:
		return t.unnamed
	}
	return t.named[string(name)]
}

// set gives a content a name, in the place of what had it.
func (s *session) set(name string, c *content) {
	t := s.statements
	s.unset(name)
	if t.named == nil {
		t.named = make(map[string]statement)
	}
	s.resource.texts.hold(c, s.user, ownSize(name, c))
	t.named[name] = statement{content: c}
	t.bytes += len(name) + c.size()
}

// ownSize is how many bytes it takes to call c by a name that nobody else shares.
func ownSize(name string, c *content) int {
	if c.key == "" {
		return len(name) + c.size()
	}
	return len(name)
}

func (s *session) unset(name string) {
	if t := s.statements; t != nil && t.named[name].content != nil {
		c := t.named[name].content
		delete(t.named, name)
		t.bytes -= len(name) + c.size()
		s.resource.texts.unhold(c, s.user, ownSize(name, c))
	}
}

// unsetAll forgets all named statements.
func (s *session) unsetAll() {
	t := s.statements
	if t == nil || len(t.named) == 0 {
		return
	}
	texts := &s.resource.texts
	texts.mu.Lock()
	defer texts.mu.Unlock()
	for name, st := range t.named {
		texts.unholdLocked(st.content, s.user, ownSize(name, st.content))
	}
	t.named, t.bytes = nil, 0
}

// mostSought is how often all that a client has prepared is looked through, in a chunk of the server's, for a name.
const mostSought = 8

// nameOf finds the client's name for what a server calls by that number, also where the client has closed it behind what is
// being answered, or its Parse has failed. All that it has prepared, which may be very much, is looked through where anywhere is true, and a
// few times in a chunk: servers name what was used lately.
func (k *link) nameOf(number uint64, anywhere bool) string {
	pending := k.answers.pending()
	if len(pending) > 0 {
		if use := pending[0].use; use > 0 && use <= len(k.used) && k.used[use-1].number == number {
			return string(k.used[use-1].name)
		}
	}
	for _, a := range pending {
		if a.kind == parsed && !a.ours && (a.taken && number == takenStatement || a.content != nil && a.content.number.Load() == number) {
			return a.name
		}
	}
	for _, u := range slices.Backward(k.used) {
		if u.number == number {
			return string(u.name)
		}
	}
	if t := k.session.statements; t != nil && anywhere && k.sought < mostSought {
		k.sought++
		for name, st := range t.named {
			if st.content.number.Load() == number {
				return name
			}
		}
	}
	for _, f := range k.failed {
		if f.number == number {
			return f.name
		}
	}
	return ""
}

// allDeallocated notes that the server has forgotten all named statements.
func (k *link) allDeallocated() {
	k.server.Prepared.Clear()
	k.session.unsetAll()
}

// statementMessage deals with Parse, Bind, Describe or Close at i, where a server connection is not the client's alone:
// statements are known to it by other names, and those it does not know are prepared first.
func (k *link) statementMessage(r *rewriting, i, body int) (used int, v verdict) {
	m := r.chunk[i:]
	t := m[0]
	have := m[pgwire.HeaderSize:min(len(m), pgwire.HeaderSize+body)]
	before, name, ok := nameIn(t, have)
	if !ok {
		switch {
		case len(have) < body && len(have) < maxHeld:
			return 0, waitForMore
		case len(have) < body:
			return 0, badLength // a name of many kilobytes
		}
		k.unsynced = true
		k.expect(t) // malformed: the server says so
		k.upSkip = body
		return pgwire.HeaderSize, passOn
	}
	if t == pgwire.Parse && len(have) < body && body <= maxHeld {
		return 0, waitForMore
	}
	used = pgwire.HeaderSize + before + len(name) + 1
	if (t == pgwire.Describe || t == pgwire.Close) && have[0] != 'S' { // portals are the transaction's own
		k.unsynced = true
		k.expect(t)
		if t == pgwire.Describe && k.boundNumber != 0 {
			k.tell(k.boundName, k.boundNumber)
		}
		if t == pgwire.Close {
			k.dropPortal(name)
		}
		k.upSkip = body - (used - pgwire.HeaderSize)
		return used, passOn
	}
	if k.session.statements == nil {
		k.session.statements = new(statements)
	}
	st := k.session.statements.find(name)
	c := st.content
	if t == pgwire.Parse {
		var over *proxy.Refusal
		if c, over = k.toParse(name, m[used:pgwire.HeaderSize+len(have)], body-(used-pgwire.HeaderSize)); over != nil {
			return k.refuseParse(r, i, body, over), passOn
		}
	}
	if c != nil {
		k.guardSequences(r, i, c.found)
	}
	if k.uncertain(t, name, c) {
		k.hurry(r, i)
		return 0, waitForAnswer
	}
	evicts := !k.unsynced
	if !evicts && k.server.Prepared.Len() > mostPrepared && !k.doubtful && !k.answers.has(copyEnd) {
		if evicts = k.answers.empty(); !evicts { // what was sent may need them
			k.hurry(r, i)
			return 0, waitForAnswer
		}
	}
	k.hurried = false
	k.reconsider()
	if evicts {
		k.evict(r, i)
	}
	k.unsynced = true
	switch t {
	case pgwire.Parse:
		return k.parse(r, i, used, body, string(name), c), passOn
	case pgwire.Close:
		k.closeStatement(r, i, body, string(name), st)
		if len(name) > 0 {
			return pgwire.HeaderSize + body, passOn
		}
	case pgwire.Bind:
		k.plainly.statements++
		if c != nil && k.refuseBind(r, i, before, body, c) {
			return pgwire.HeaderSize + body, passOn
		}
		fallthrough
	default:
		k.refer(r, i, used, before, body, name, st)
	}
	k.upSkip = body - (used - pgwire.HeaderSize)
	return used, passOn
}

// expect queues what the server answers, with a message of its own that we look at, where no statement is concerned.
func (k *link) expect(t byte) {
	switch t {
	case pgwire.Parse:
		k.answers.push(answer{kind: parsed})
	case pgwire.Close:
		k.answers.push(answer{kind: closed})
	case pgwire.Bind:
		k.step(bound)
	case pgwire.Describe:
		k.step(described)
	}
}

// step queues the answer to a step of a batch.
func (k *link) step(kind answerKind) {
	k.stepOf(answer{kind: kind})
}

// stepOf queues the answer a to a step of a batch.
func (k *link) stepOf(a answer) {
	k.fresh = k.fresh && a.kind == described
	if !k.doubtful && !k.skipping && k.session.resource.mode != Session {
		k.answers.push(a)
	}
}

// uncertain reports whether it takes the answer to something earlier to know what a message of type t about the statement name, which is
// or becomes c, means: whether the name is taken, whether it was closed or deallocated, and whether the server knows what, after a Parse
// that was skipped, it does not.
func (k *link) uncertain(t byte, name []byte, c *content) bool {
	switch {
	case k.doubtful: // no answer could be relied on
		if len(name) == 0 {
			k.server.Prepared.Unnamed = 0
		}
		return false
	case k.forgets():
		return true
	case k.answers.parses+k.answers.closes == 0:
		return false
	case k.doubted: // what was sent before goes by the old names
		return true
	case len(name) == 0 && t == pgwire.Parse: // whatever there was, it is replaced
		return false
	}
	if c != nil && c.executes != "" && t != pgwire.Parse {
		if k.answers.ahead([]byte(c.executes)) {
			return true
		}
		if is := k.session.statements.named[c.executes].content; is != nil && k.answers.parsing(is) {
			return true
		}
	}
	return k.answers.ahead(name) || c != nil && t != pgwire.Close && k.answers.parsing(c)
}

// forgets reports whether what was sent may yet end statements: DISCARD or DEALLOCATE is on its way.
func (k *link) forgets() bool {
	return k.words.forget && k.answers.has(queried) || k.forgetting && k.answers.has(executed)
}

// awaits reports whether it takes an answer to know if there is a statement of that name.
func (k *link) awaits(name []byte) bool { return k.forgets() || k.answers.ahead(name) }

// hurry has the server answer what comes before i, which otherwise it might keep to itself until the Sync.
func (k *link) hurry(r *rewriting, i int) {
	if k.unsynced && !k.hurried {
		k.hurried = true
		r.insert(i, pgwire.Flush, 0, 0, 0, 4)
	}
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

// rename writes the header and the name of a message anew.
func (k *link) rename(r *rewriting, i, used, before, body, oldName int, number uint64) {
	m := r.chunk[i:]
	r.cut(i, i+used)
	r.out = appendHeader(r.out, m[0], body+k.nameLength(number)-oldName)
	r.out = append(r.out, m[pgwire.HeaderSize:pgwire.HeaderSize+before]...)
	r.out = append(k.appendName(r.out, number), 0)
}

// refer deals with a Bind or Describe of the statement name, which the client has prepared as st, or has not.
func (k *link) refer(r *rewriting, i, used, before, body int, name []byte, st statement) {
	k.boundNumber = 0
	if st.content == nil {
		switch {
		case len(name) == 0: // the server may have someone else's
			k.closeUnnamed(r, i)
		case bytes.HasPrefix(name, []byte(k.prefix())): // it has seen our names on the server; whose they are is not its business
			k.rename(r, i, used, before, body, len(name), noStatement)
		}
		k.expect(r.chunk[i])
		return
	}
	st = k.asNow(name, st)
	c := k.asExecuted(r, i, st.content)
	k.suspect(c)
	k.ended = k.ended || c.ends && r.chunk[i] == pgwire.Bind
	if c.found == touchSet && r.chunk[i] == pgwire.Bind && k.plainly.statements == 1 { // or it is not worth the copy
		k.readSet(c.found, c.sql())
	}
	if r.chunk[i] == pgwire.Bind {
		k.bindPortal(r.chunk[i+pgwire.HeaderSize:][:before], c)
	}
	a := answer{kind: described, content: c, number: c.number.Load(), at: k.startRecording(r, i)}
	if r.chunk[i] == pgwire.Bind {
		if k.misled(r, i, body, st) {
			k.rename(r, i, used, before, body, len(name), outdatedStatement)
			k.expect(pgwire.Bind)
			return
		}
		a.kind = bound
		if st.told != a.number {
			k.boundName, k.boundNumber = append(k.boundName[:0], name...), a.number
		}
	} else {
		a.untold = st.told == 0
		k.tell(name, a.number)
	}
	if number := k.prepare(r, i, name, c); number != 0 {
		a.use = k.noteUse(c, number, name)
		k.rename(r, i, used, before, body, len(name), number)
	}
	k.stepOf(a)
}

// suspect notes what executing c may leave in the session.
func (k *link) suspect(c *content) {
	k.words.found |= c.found
	k.words.buffers = k.words.buffers || c.buffers
	k.words.reset = k.words.reset || c.resets
	k.name(c.names)
}

// use is a statement that a batch has named to the server, and the number that it had then.
type use struct {
	content *content
	number  uint64
	name    []byte // the client's
}

// mostUses is how many uses are remembered while the connection is not quiet. More than that are hardly under way at once.
const mostUses = 32

// noteUse remembers a use, each once, and returns which it is, plus one.
func (k *link) noteUse(c *content, number uint64, name []byte) int {
	for i, u := range slices.Backward(k.used) {
		if u.number == number && bytes.Equal(u.name, name) {
			return i + 1
		}
	}
	if len(k.used) == mostUses {
		k.forgetUses()
	}
	from := len(k.usedNames)
	k.usedNames = append(k.usedNames, name...)
	k.used = append(k.used, use{c, number, k.usedNames[from:]})
	return len(k.used)
}

func (k *link) forgetUses() {
	clear(k.used)
	k.used, k.usedNames = k.used[:0], k.usedNames[:0]
}

// asNow is what st, the client's statement name, is under the settings of now: they may have changed since it was parsed.
func (k *link) asNow(name []byte, st statement) statement {
	s := k.session
	if st.content.key == "" || st.content.plan == s.profile.Plan() {
		return st
	}
	now, err := s.contentOf([]byte(st.content.text))
	if err != nil {
		return st
	}
	if len(name) == 0 {
		s.statements.unnamed = statement{content: now}
	} else {
		s.set(string(name), now)
	}
	if st.told != 0 {
		k.tell(name, now.number.Load())
	}
	return s.statements.find(name)
}

// prepare has the server know c before what follows, and returns the number of the name it goes by; 0: it is the unnamed one.
func (k *link) prepare(r *rewriting, i int, name []byte, c *content) (number uint64) {
	number = c.number.Load()
	prepared := &k.server.Prepared
	switch {
	case len(name) == 0 && prepared.Unnamed == number:
		return 0
	case prepared.Use(number):
		return number
	case len(name) > 0 || c.worthKeeping():
		return k.prepareNamed(r, i, c)
	}
	r.cut(i, i)
	r.out = k.appendParse(r.out, c.prepared(), 0)
	a := answer{kind: parsed, ours: true, content: c}
	k.changeUnnamed(&a, k.unnamed().statement, number)
	k.answers.push(a)
	return 0
}

// prepareNamed prepares c, which the server does not know, under its number.
func (k *link) prepareNamed(r *rewriting, i int, c *content) (number uint64) {
	number = c.number.Load()
	k.server.Prepared.Add(number)
	r.cut(i, i)
	r.out = k.appendParse(r.out, c.prepared(), number)
	k.answers.push(answer{kind: parsed, ours: true, content: c, number: number})
	return number
}

// toParse is the content that a Parse of name is about. text is its body behind the name, n bytes, the whole of it or not. nil: it has to be
// collected as it passes; or it is refused, as the client, or those of its user, have too much prepared.
func (k *link) toParse(name, text []byte, n int) (*content, *proxy.Refusal) {
	s, r := k.session, k.session.resource
	private := k.doubtful || k.changed || k.words.found&(touchSet|touchLocal) != 0 || k.altering || k.temporary() // it means something else to others
	switch {
	case r.clientText > 0 && s.statements.bytes+n > r.clientText:
		return nil, k.overText("statements.per_client", r.clientText)
	case r.userText > 0 && (len(text) < n || private || len(name) > longName) && r.texts.heldBy(s.user)+n > r.userText: // others see it in take
		return nil, k.overText("statements.per_user", r.userText)
	case len(text) < n:
		return nil, nil
	case private:
		return s.private(string(text)), nil
	}
	c, err := s.contentOf(text)
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, errUserText):
		return nil, k.overText("statements.per_user", s.resource.userText)
	case errors.Is(err, errShare):
		return nil, k.overText("statements, a user's part of what all may have", mostShared)
	}
	k.words.found |= touchLarge
	return s.private(string(text)), nil
}

// overText is the refusal of a Parse above a limit, in bytes.
func (k *link) overText(rule string, limit int) *proxy.Refusal {
	r := k.session.resource
	mb := fmt.Sprintf("%d MB", limit>>20)
	err := r.gate.QueueRefusal(k.session.caller, proxy.ClientLimit, rule, 0, 0, "more", mb)
	over, _ := proxy.AsRefusal(err)
	return over
}

// refuseParse has the server refuse the Parse at i, so that it comes at its place among the answers, and the transaction fails: by a
// statement ahead of it that fails, behind which it is skipped.
func (k *link) refuseParse(r *rewriting, i, body int, over *proxy.Refusal) (used int) {
	text := pool.Raise(over.SQLSTATE, over.Message+": the limit is "+over.Rule+", "+over.Limit, "close statements that are not needed, or have the driver keep fewer") + "\x00\x00\x00"
	c, err := k.session.contentOf([]byte(text))
	if err != nil {
		c = k.session.private(text)
	}
	number := c.number.Load()
	if !k.server.Prepared.Use(number) {
		k.prepareNamed(r, i, c)
	}
	r.cut(i, i)
	r.out = append(appendHeader(r.out, pgwire.Bind, 1+k.nameLength(number)+1+6), 0)
	r.out = append(k.appendName(r.out, number), 0, 0, 0, 0, 0, 0, 0)
	r.out = append(appendHeader(r.out, pgwire.Execute, 5), 0, 0, 0, 0, 0)
	k.stepOf(answer{kind: bound, ours: true})
	k.stepOf(answer{kind: executed})
	k.unsynced, k.executes = true, true
	k.expect(pgwire.Parse)
	k.upSkip = body
	return pgwire.HeaderSize
}

// parse deals with a Parse at i that gives a content a name, and returns how much of the chunk it has used.
func (k *link) parse(r *rewriting, i, used, body int, name string, c *content) int {
	s, prepared := k.session, &k.server.Prepared
	if c == nil {
		return k.parseLong(r, i, used, body, name)
	}
	if s.statements.find([]byte(name)).content != nil && name != "" {
		return k.parseTaken(r, i, used, body, name)
	}
	number := c.number.Load()
	known := prepared.Use(number)
	after := k.unnamed()
	switch {
	case name == "" && k.answers.parsing(c): // whether the server knows it is not certain
		after.number, number = number, 0
	case known && c.query: // it answers as if it did it again
		r.cut(i, i+pgwire.HeaderSize+body)
		r.out = k.appendParse(r.out, emptySelect, 0)
		used = pgwire.HeaderSize + body
		after.number, number = 0, 0
	case known: // it must say whether it may be parsed now
		k.unname(r, i, used, body, name)
		after.number, number = number, 0
	case name == "" && !c.worthKeeping():
		after.number, number = number, 0
	default:
		prepared.Add(number)
		k.rename(r, i, used, 0, body, len(name), number)
	}
	a := answer{kind: parsed, name: name, content: c, number: number, size: len(name) + len(c.text)}
	if name == "" {
		after.statement = statement{content: c}
	} else {
		s.set(name, c)
	}
	if name == "" || known { // or it takes the place of the unnamed one on the server
		k.changeUnnamed(&a, after.statement, after.number)
	}
	k.answers.push(a)
	k.upSkip = body - (used - pgwire.HeaderSize)
	return used
}

// unname has a Parse at i be of the unnamed statement.
func (k *link) unname(r *rewriting, i, used, body int, name string) {
	r.cut(i, i+used)
	r.out = append(appendHeader(r.out, pgwire.Parse, body-len(name)), 0)
}

// parseTaken deals with a Parse of a name that the client has given already: the server shall say so, if the text is one. What it is given
// the name of is there for nothing else, so that nobody loses a statement, should the server not refuse.
func (k *link) parseTaken(r *rewriting, i, used, body int, name string) int {
	r.cut(i, i)
	r.out = k.appendParse(k.appendClose(r.out, takenStatement), emptyText, takenStatement)
	k.answers.push(answer{kind: closed, ours: true})
	k.answers.push(answer{kind: parsed, ours: true})
	k.rename(r, i, used, 0, body, len(name), takenStatement)
	k.answers.push(answer{kind: parsed, name: name, taken: true, size: len(name)})
	k.upSkip = body - (used - pgwire.HeaderSize)
	return used
}

// parseLong begins a statement whose text comes in pieces. It is collected as it passes, and shared with nobody.
func (k *link) parseLong(r *rewriting, i, used, body int, name string) int {
	s := k.session
	c := &content{}
	c.number.Store(k.w.srv.nextStatement())
	if s.statements.find([]byte(name)).content != nil && name != "" {
		return k.parseTaken(r, i, used, body, name)
	}
	k.scan(1)
	k.forget = k.words.forget
	k.text = k.text[:0]
	k.keeping = c
	a := answer{kind: parsed, name: name, content: c, size: body}
	if name == "" {
		k.changeUnnamed(&a, statement{content: c}, c.number.Load())
	} else {
		a.number = c.number.Load()
		k.server.Prepared.Add(a.number)
		k.rename(r, i, used, 0, body, len(name), a.number)
		s.set(name, c)
	}
	k.answers.push(a)
	k.upSkip = body - (used - pgwire.HeaderSize)
	return used
}

// keep collects text of a long statement.
func (k *link) keep(b []byte) {
	if len(k.text)+len(b) <= maxStatement && k.words.found&touchLarge == 0 {
		k.text = append(k.text, b...)
	} else {
		k.text = k.text[:0]
		k.words.found |= touchLarge
	}
}

// statementKept is called when all of a long statement's text has passed.
func (k *link) statementKept() {
	c, t := k.keeping, k.session.statements
	k.keeping = nil
	c.text = string(k.text)
	for _, named := range t.named {
		if named.content == c {
			t.bytes += len(c.text)
			k.session.resource.texts.charge(k.session.user, len(c.text))
		}
	}
	c.forgets = k.words.forget
	c.tampers = mayTamper(c.sql(), k.words.found, c.forgets)
	c.defines = c.tampers && definesFunction(c.sql())
	c.found, c.plain, c.names = k.words.found.settled(c.sql())
	c.found &^= touchLarge
	k.words.found = k.outer | k.words.found&touchLarge // parsing leaves nothing behind, executing does
	k.words.forget = k.forget
}

// closeStatement deals with the Close of a statement at i. The server keeps a named one, for others: it closes one that there
// is not, which succeeds as well.
func (k *link) closeStatement(r *rewriting, i, body int, name string, st statement) {
	a := answer{kind: closed, name: name, content: st.content, number: st.told, size: len(name)}
	if st.content != nil {
		a.size += len(st.content.text)
	}
	if name == "" {
		k.changeUnnamed(&a, statement{}, 0)
	} else {
		r.cut(i, i+pgwire.HeaderSize+body)
		r.out = k.appendClose(r.out, noStatement)
		k.session.unset(name)
	}
	k.answers.push(a)
}

// evict closes statements that were not used for long, at the front of a batch, so that none is closed that an earlier
// message of the batch has been promised. What the batch needs is prepared again. What goes by
// names that are not used any more is closed with them.
func (k *link) evict(r *rewriting, i int) {
	for _, name := range k.server.Prepared.TakeStale(preparedPerServer) {
		r.cut(i, i)
		r.out = append(append(append(appendHeader(r.out, pgwire.Close, 1+len(name)+1), 'S'), name...), 0)
		k.answers.push(answer{kind: closed, ours: true})
	}
	for {
		id, tooMany := k.server.Prepared.Oldest(preparedPerServer)
		if !tooMany {
			return
		}
		k.server.Prepared.Remove(id)
		r.cut(i, i)
		r.out = k.appendClose(r.out, id)
		k.answers.push(answer{kind: closed, ours: true})
	}
}

// failedStatement is one that could not be parsed: the client's name for it, and the number that it had.
type failedStatement struct {
	name   string
	number uint64
}

// mostFailed is how many statements that could not be parsed are remembered, for the sake of errors that name them.
const mostFailed = 512

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
	k.answers.pop()
	return nil
}

// notAnswered takes back what was noted of a message that the server has skipped, or refused.
//
// rest is what is to come behind those that were skipped: what stands between was noted before.
func (k *link) notAnswered(a *answer, rest []answer, skipped bool) {
	s := k.session
	t := s.statements
	k.unchangeUnnamed(a, rest, skipped)
	if a.content == nil || a.step() || a.ends() {
		return
	}
	switch {
	case a.kind == closed && a.name == "":
		return
	case a.closing():
		if t.named[a.name].content == nil {
			s.set(a.name, a.content)
			k.tell([]byte(a.name), a.number)
		}
		return
	case a.number != 0:
		k.server.Prepared.Remove(a.number)
	}
	switch {
	case a.ours, a.name == "":
	case t.named[a.name].content == a.content:
		s.unset(a.name)
		if len(k.failed) == mostFailed {
			k.failed = append(k.failed[:0], k.failed[mostFailed/2:]...)
		}
		k.failed = append(k.failed, failedStatement{a.name, a.content.number.Load()})
	}
}

// forgetUnanswered is for all that is still open when the client leaves and its server connection goes on. Whether those
// statements exist there is not known any more: from now on they go by another name, and are closed by this one in time.
func (k *link) forgetUnanswered() {
	for _, a := range k.answers.pending() {
		if a.kind == parsed && a.number != 0 {
			k.server.Prepared.Add(a.number)
			a.content.number.CompareAndSwap(a.number, k.w.srv.nextStatement())
		}
	}
	k.server.Prepared.Unnamed = 0
	k.answers.reset()
}
