package postgres

import (
	"bytes"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/pool"
)

// looked marks the types of server messages that are looked at. Most others pass unread.
var looked = [256]bool{
	pgwire.ReadyForQuery: true, pgwire.ErrorResponse: true, pgwire.ParameterStatus: true, pgwire.CommandComplete: true,
	pgwire.ParseComplete: true, pgwire.CloseComplete: true, pgwire.CopyInResponse: true, pgwire.NoticeResponse: true,
}

// steps are the types that tell, without a look at them, that a step of a batch is done.
var steps = [256]answerKind{
	pgwire.BindComplete: bound, pgwire.RowDescription: described, pgwire.NoData: described,
	pgwire.CommandComplete: executed, pgwire.EmptyQueryResponse: executed, pgwire.PortalSuspended: executed,
}

// enough is how much of a message that is too long to be held must have come before it is looked at: SQLSTATE and severity
// are at the front of an error.
const enough = 1 << 10

// down passes a chunk of what the server said on to the client.
func (k *link) down(chunk []byte) {
	s := k.session
	r := rewriting{chunk: chunk, out: k.w.out[:0]}
	i, lied := 0, error(nil)
	k.sought = 0
	for i < len(chunk) {
		if k.downSkip > 0 {
			n := min(k.downSkip, len(chunk)-i)
			if k.downDrop {
				r.cut(i, i+n)
			}
			k.downSkip -= n
			i += n
			continue
		}
		k.downDrop = false
		m := chunk[i:]
		if len(m) < pgwire.HeaderSize {
			k.carry = append(k.carry, m...)
			break
		}
		body, err := pgwire.Length(m)
		if err != nil {
			lied = err
			break
		}
		ours := k.answersOurs(m[0])
		if looked[m[0]] || ours && m[0] == pgwire.DataRow {
			held := m[pgwire.HeaderSize:]
			if len(held) < body && (body <= maxHeld || len(held) < enough) {
				k.carry = append(k.carry, m...)
				break
			}
			held = held[:min(body, len(held))]
			if m[0] == pgwire.ErrorResponse && !ours {
				ours = k.repeats(held)
				k.release(&r, i, !ours)
			}
			if !ours && len(held) == body {
				k.translate(m[0], &r, i, held)
			}
			if lied = k.hear(m[0], held); lied != nil {
				k.carry = append(k.carry, m[pgwire.HeaderSize+len(held):]...)
				break
			}
		}
		if m[0] == pgwire.ParameterDescription && !ours {
			more := false
			if more, ours = k.withhold(m, pgwire.HeaderSize+body); more {
				k.carry = append(k.carry, m...)
				break
			}
		}
		if m[0] == pgwire.ParameterDescription && !ours && len(m) >= pgwire.HeaderSize+body {
			k.learn(m[pgwire.HeaderSize:][:body])
		}
		if kind := steps[m[0]]; kind != 0 {
			k.answers.done(kind)
		}
		k.downSkip = pgwire.HeaderSize + body
		k.downDrop = ours
	}
	if out := r.end(min(i, len(chunk))); len(out) > 0 {
		s.write(out)
	}
	k.w.out = r.out[:0]
	switch {
	case s.link != k:
	case errors.Is(lied, errNotSet):
		e := k.settingsFailed
		if s.profile.Settings == s.startup.Settings { // or it was accepted once
			s.resource.pool.Refused(s.startup, &pgconn.PgError{Severity: e.Severity, Code: e.Code, Message: e.Message, Detail: e.Detail, Hint: e.Hint})
		}
		s.fatal(e)
	case lied != nil:
		s.w.srv.protocol.Add("server", 1)
		k.serverGone(lied)
	case k.inquiry.about != 0 && !k.answers.inquired():
		k.conclude()
	case k.repeatFrom > 0 && k.answers.empty():
		k.repeat()
	case k.held && k.resetting:
		if k.answers.empty() {
			k.held, k.resetting = false, false
			k.settle()
			s.resume()
		}
	case k.held && k.mayGoOn():
		k.held = false
		s.resume()
	default:
		k.settle()
	}
}

// answersOurs reports whether a message of type t answers something that we asked, so that the client must not see it. An
// error always ends what the client asked as well, unless it answers a Query of ours.
func (k *link) answersOurs(t byte) bool {
	switch t {
	case pgwire.ParseComplete:
		k.skipTo(parsed)
	case pgwire.CloseComplete:
		k.skipTo(closed)
	}
	if k.answers.empty() || !k.answers.first().ours || t == pgwire.NotificationResponse {
		return false
	}
	switch k.answers.first().kind {
	case asked:
		return t != pgwire.ParameterStatus
	case parsed:
		return t == pgwire.ParseComplete
	case closed:
		return t == pgwire.CloseComplete
	case bound:
		return t == pgwire.BindComplete
	default:
		return true
	}
}

// skipTo drops what cannot come any more when the server answers something of that kind.
func (k *link) skipTo(kind answerKind) {
	if k.session.resource.mode == Session { // such answers are not queued
		return
	}
	k.past()
	if k.doubtful && k.answers.has(kind) {
		for k.answers.first().kind != kind {
			k.answers.pop()
		}
	}
}

// past takes from the front what will not be answered any more, as the server answers something behind it.
func (k *link) past() {
	for !k.answers.empty() {
		switch a := k.answers.first(); {
		case a.step() || a.kind == copyEnd:
			k.answers.pop()
		default:
			return
		}
	}
}

// errNotSet is that the server has refused the session's settings.
var errNotSet = errors.New("the session's settings were refused")

// readOnlyTransaction is the SQLSTATE of a write where none is allowed.
const readOnlyTransaction = "25006"

var errUnasked = errors.New("the server answered what it was not asked")

// hear takes note of a message of the server. An error means that it does not make sense.
func (k *link) hear(t byte, body []byte) error {
	switch t {
	case pgwire.ReadyForQuery:
		return k.hearReady(body)
	case pgwire.ErrorResponse:
		k.hearError(body)
	case pgwire.ParameterStatus:
		k.server.NoteParameter(body)
		k.changed = k.changed || !k.answersOurs(t)
	case pgwire.CommandComplete:
		k.hearCommand(body)
	case pgwire.ParseComplete, pgwire.CloseComplete:
		return k.hearStatement(t)
	case pgwire.CopyInResponse:
		k.hearCopyIn()
	case pgwire.DataRow:
		k.hearRow(body)
	}
	return nil
}

func (k *link) hearReady(body []byte) error {
	if len(body) != 1 {
		return errUnasked
	}
	k.copyIn, k.copyParsed = false, false
	k.past()
	if k.answers.empty() || !k.answers.first().ends() {
		if !k.doubtful {
			return errUnasked
		}
		k.status = body[0]
		return nil
	}
	prelude := k.answers.settings()
	if a := k.answers.pop(); !a.ours || a.kind == began || k.settingsFailed != nil {
		k.status = body[0]
	}
	if k.settingsFailed != nil {
		return errNotSet
	}
	if prelude {
		k.preludeAnswered()
	}
	if body[0] == pgwire.Idle {
		k.portalsEnd()
		k.schemaSettled()
	}
	k.answers.dropCopyEnds(false)
	k.words.forget = k.words.forget && k.answers.has(queried)
	if k.answers.empty() {
		k.server.AnsweredAll()
	}
	return nil
}

// hearError drops what the server will not answer any more: after an error in the extended protocol it skips everything up
// to the next Sync.
func (k *link) hearError(body []byte) {
	e := pgwire.ParseError(body)
	k.spoiled, k.plainly.failed = true, true
	switch {
	case k.answers.inquired():
		k.inquiry.failed = true
	case k.answersOurs(pgwire.ErrorResponse) && (!k.answers.first().mayFail || e.Fatal()):
		k.settingsFailed = &e
	}
	if k.repeatFrom == 0 {
		k.session.resource.countError(e.Code)
	}
	if e.Code == readOnlyTransaction {
		k.server.RefusedWrite()
	}
	if outcomeOf(e.Code) == breaker.Failure && !isStale(&e) {
		k.failure = e.Error()
	}
	if e.Fatal() {
		k.fatal, k.unheard = true, k.answersOurs(pgwire.ErrorResponse)
	}
	k.copyIn = false
	k.answers.dropCopyEnds(true)
	if k.answers.empty() {
		k.skipping = k.unsynced
		return
	}
	if k.answers.first().ends() {
		k.doubtful = k.doubtful || k.answers.first().open // or it was the batch ahead that failed, and the server skips this
		if k.repeatFrom > 0 {
			k.endFailed()
		}
		return
	}
	pending := k.answers.pending()
	n := 0
	for n < len(pending) && pending[n].kind != synced {
		n++
	}
	k.skipping = n == len(pending)
	for i := n - 1; i >= 0; i-- { // what was done last is undone first
		k.notAnswered(&pending[i], pending[n:], i > 0)
	}
	unasked := k.skipping && !k.doubtful && k.answers.has(queried)
	k.answers.cut(0, n)
	if unasked { // what a Query needed could not be prepared
		k.skipping, k.unsynced = false, false
		k.answers.push(answer{kind: synced})
		k.write(pgwire.AppendMessage(nil, pgwire.Sync))
	}
	if k.repeatFrom > 0 {
		k.endFailed()
	}
}

// hearCopyIn notes that the server takes COPY data. What was sent behind the command has been, or will be, read as part of
// that: Syncs before the end of the data are ignored by the server and not answered.
func (k *link) hearCopyIn() {
	k.server.MayNotRead()
	pending := k.answers.pending()
	k.copyParsed = len(pending) == 0 || pending[0].kind != queried
	k.copyIn, k.spoiled = true, true
	i := 0
	if len(pending) > 0 && (!k.copyParsed || pending[0].kind == executed) {
		i = 1 // the command itself
	}
	end := i
	for end < len(pending) && k.copyIn && (pending[end].kind == synced || pending[end].kind == copyEnd) {
		if k.copyIn = pending[end].kind == synced; !k.copyIn && pending[end].use > 0 {
			pending[end].use-- // one of them ends it
			break
		}
		end++
	}
	k.answers.cut(i, end-i)
	if k.copyIn && end < len(pending) { // nothing else makes sense here: the server will say so
		k.doubtful = true
		return
	}
	if k.copyParsed && k.answers.owed() == 0 {
		k.unsynced = true // the Sync that ends it has yet to come
	}
}

// Tags of commands after which no prepared statement is left.
var (
	tagReset      = []byte("RESET\x00")
	tagDeallocate = []byte("DEALLOCATE\x00")
	tagDiscardAll = []byte("DISCARD ALL\x00")

	tagDiscardSequences = []byte("DISCARD SEQUENCES\x00")
	tagDeallocateAll    = []byte("DEALLOCATE ALL\x00")
)

func (k *link) hearCommand(tag []byte) {
	if k.answersOurs(pgwire.CommandComplete) {
		return
	}
	k.hearSet(tag)
	if bytes.Equal(tag, tagReset) {
		k.words.reset = true
	}
	k.hearSchema(tag)
	if len(tag) == 0 || tag[0] != 'D' {
		return
	}
	switch {
	case bytes.Equal(tag, tagDeallocate):
		k.hearDeallocated()
	case bytes.Equal(tag, tagDeallocateAll):
		k.allDeallocated()
	case bytes.Equal(tag, tagDiscardSequences):
		if k.pin(k.pinned &^ touchSequence); k.isLast() {
			k.words.found &^= touchSequence
		}
	case bytes.Equal(tag, tagDiscardAll):
		k.allDeallocated()
		k.allDiscarded()
	}
}

// isLast reports whether the command that the server has just done is a Query with nothing behind it.
func (k *link) isLast() bool {
	pending := k.answers.pending()
	return len(pending) == 1 && pending[0].kind == queried && !k.unsynced
}

// allDiscarded is called when nothing is left of the session's state, the settings of its startup included. Those come back
// with the next transaction.
func (k *link) allDiscarded() {
	k.server.Discarded()
	k.session.profile = k.session.startup
	k.restore, k.words.reset, k.vague, k.foreign = true, true, false, false
	k.changed = false
	if k.isLast() {
		k.words.found, k.names = k.words.found&touchForever, k.names[:0]
		k.pin(k.pinned & touchForever)
	}
}

// translate has the client read of its own world: its names of statements in errors and notices, and of the values that DISCARD ALL or
// RESET brought back, those of its startup.
func (k *link) translate(t byte, r *rewriting, i int, body []byte) {
	switch t {
	case pgwire.ErrorResponse, pgwire.NoticeResponse:
		k.restoreNames(r, i, body)
	case pgwire.ParameterStatus:
		k.tellParameter(r, i, body)
	}
}

// tellParameter has the client be told the value that it was told at startup where RESET has brought back the server's own. That comes
// back with the next transaction.
func (k *link) tellParameter(r *rewriting, i int, body []byte) {
	b, rest, _ := pgwire.CString(body)
	v, _, _ := pgwire.CString(rest)
	name, value := string(b), string(v)
	was, known := k.session.startup.Greeting.Parameters[name]
	if known && was != value && k.words.reset && pool.Keeps(name) && k.server.IsDefault(name, value) {
		r.cut(i, i+pgwire.HeaderSize+len(body))
		r.out = pgwire.AppendParameterStatus(r.out, name, was)
		value = was
	}
	k.noteTold(name, value)
}

// noteTold remembers what the client was told last of a parameter.
func (k *link) noteTold(name, value string) {
	for i := range k.told {
		if k.told[i].Name == name {
			k.told[i].Value = value
			return
		}
	}
	k.told = append(k.told, pool.Setting{Name: name, Value: value})
}
