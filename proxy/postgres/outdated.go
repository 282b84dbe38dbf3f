package postgres

import (
	"bytes"
	"slices"

	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/proxy"
)

// A prepared statement is outdated when a table was altered, so that its result would be of another type than when the server
// prepared it. The server then refuses each Bind and Describe of it: a client that was told of the one type could misread rows of
// the other. From the first such error on, the content goes by another number, and is prepared anew wherever it is used.
//
// On a connection of its own, a client meets the error only when it has prepared the statement itself before the table was altered.
// Here somebody else may have. So the batch is said again, once, where nothing of it has been executed, and the client hears
// nothing of the first time; unless it was told of the old type and goes on to use it: see misled.

// maxRecorded is how much of a batch is kept to be said again, in bytes.
const maxRecorded = 16 << 10

// isOutdated reports whether an error is that a statement is outdated.
func isOutdated(e *pgwire.Error) bool {
	return e.Code == proxy.NotSupported.SQLSTATE && e.Routine == "RevalidateCachedQuery"
}

// outdated has c prepared anew by all who use it next, unless that was seen to already: a server has found its statement of that
// number outdated, and on other server connections it will be likewise.
func (k *link) outdated(c *content, number uint64, e []byte) {
	next := k.w.srv.nextStatement()
	if k.session.resource.outdated.Load() == nil {
		words := bytes.Clone(e)
		k.session.resource.outdated.Store(&words)
	}
	if c.number.CompareAndSwap(number, next) {
		c.since.Store(next)
	}
}

// usedOutdated is outdated for whatever a batch has used, when it is not known what the server found: it was EXECUTE of it.
func (k *link) usedOutdated() {
	for _, u := range k.used {
		u.content.number.CompareAndSwap(u.number, k.w.srv.nextStatement())
	}
}

// misled reports whether a client was told what its statement returns before that has changed, and a Bind at i is going to be
// executed without another look.
func (k *link) misled(r *rewriting, i, body int, st statement) bool {
	return st.told != 0 && st.told < st.content.since.Load() && !k.inFailed() && !describesNext(r.chunk[i:], body)
}

// describesNext reports whether a Bind, at the front of b, is followed by a Describe of its portal.
func describesNext(b []byte, body int) bool {
	if len(b) < 2*pgwire.HeaderSize+body {
		return false
	}
	portal, _, _ := pgwire.CString(b[pgwire.HeaderSize:][:body])
	next := b[pgwire.HeaderSize+body:]
	n, err := pgwire.Length(next)
	if next[0] != pgwire.Describe || err != nil || n != len(portal)+2 || len(next) < pgwire.HeaderSize+n {
		return false
	}
	return next[pgwire.HeaderSize] == 'P' && bytes.Equal(next[pgwire.HeaderSize+1:][:len(portal)], portal)
}

// tell notes that the client is told what its statement returns, which has this number.
func (k *link) tell(name []byte, number uint64) {
	t := k.session.statements
	st := t.find(name)
	switch {
	case st.content == nil || st.told == number:
	case len(name) == 0:
		t.unnamed.told = number
	default:
		t.named[string(name)] = statement{st.content, number}
	}
}

// startRecording records the batch from i on, unless it is recorded already, and returns where in the record i is; 0: nowhere.
func (k *link) startRecording(r *rewriting, i int) int {
	if !k.fresh || k.repeated || k.doubtful {
		return 0
	}
	if !k.recording {
		k.recording, r.record = true, i
	}
	return len(k.record) + i - r.record + 1
}

// recordTo records what was sent of a chunk up to i.
func (k *link) recordTo(r *rewriting, i int) {
	if !k.recording {
		return
	}
	b := r.chunk[min(r.record, i):i]
	if len(k.record)+len(b) > maxRecorded {
		k.recording, k.repeated = false, true
		return
	}
	k.record = append(k.record, b...)
}

// stopRecording is called when the server has answered all.
func (k *link) stopRecording() {
	k.record, k.recording, k.repeated = k.record[:0], false, false
	k.fresh = k.fresh || k.status == pgwire.Idle
}

// repeats takes note of an error that says that a statement is outdated, or not there, and reports whether the batch is going to be said
// again.
func (k *link) repeats(body []byte) bool {
	e := pgwire.ParseError(body)
	answering := !k.doubtful && !k.answers.empty()
	switch {
	case k.isLost(&e, body):
		k.doubted = true
	case isStale(&e):
		if !answering || !k.answers.first().step() || k.answers.first().content == nil || !k.mayRepeat() || !k.renew(k.answers.first()) {
			return false
		}
	case !isOutdated(&e):
		return false
	case e.Context != "": // it was a statement of a function's
		return false
	case !answering || k.answers.first().content == nil || !k.answers.first().step() && k.answers.first().kind != queried:
		k.usedOutdated()
		return false
	default:
		a := k.answers.first()
		k.outdated(a.content, a.number, body)
		k.renew(a)
	}
	if !answering || !k.mayRepeat() {
		return false
	}
	k.repeatFrom = k.answers.first().at
	k.held = true
	return true
}

// mayRepeat reports whether what is being answered can be said again.
func (k *link) mayRepeat() bool {
	return k.answers.first().at > 0 && k.recording && k.upSkip == 0 && k.ending == passOn && k.alone()
}

// alone reports whether nothing has been sent behind the batch that is being answered.
func (k *link) alone() bool {
	pending := k.answers.pending()
	for i, a := range pending {
		switch {
		case a.step(), a.kind == parsed, a.kind == closed:
		case a.kind == queried && len(pending) == 1:
		case a.kind == synced && !a.ours && i == len(pending)-1:
		default:
			return false
		}
	}
	return true
}

// endFailed has the batch that failed end without the client, which is going to be said again.
func (k *link) endFailed() {
	if !k.answers.empty() {
		k.answers.first().ours = true
		return
	}
	k.unsynced, k.skipping = false, false
	k.answers.push(answer{kind: synced, ours: true})
	k.write(pgwire.AppendMessage(nil, pgwire.Sync))
}

// repeat says the batch again, from where it failed: what was prepared before that still is, and nothing was executed. Behind
// it comes what the client has said since.
func (k *link) repeat() {
	s := k.session
	again := slices.Concat(k.record[k.repeatFrom-1:], s.carry)
	k.repeatFrom, k.held, k.paused, k.recording, k.repeated = 0, false, false, false, true
	if k.status == pgwire.InTransaction { // of which it was to be the first
		s.block = k.block
		k.beginBlock("rollback;")
	}
	s.carry = again
	s.resume()
}

// withhold keeps the description of a statement's parameters back when an error comes instead of that of its result: it may be
// said again. more is that the next message has yet to come; drop, that the client must not see it now.
func (k *link) withhold(m []byte, length int) (more, drop bool) {
	if k.answers.empty() || k.answers.first().at == 0 {
		return false, false
	}
	switch {
	case length > maxHeld:
		k.answers.first().at = 0
		return false, false
	case len(m) <= length:
		return true, false
	case m[length] != pgwire.ErrorResponse:
		return false, false
	}
	k.withheld = append(k.withheld[:0], m[:length]...)
	return false, true
}

// release passes on, ahead of an error at i, what was withheld before it, or forgets it.
func (k *link) release(r *rewriting, i int, pass bool) {
	if pass && len(k.withheld) > 0 {
		r.insert(i, k.withheld...)
	}
	k.withheld = k.withheld[:0]
}
