package postgres

import (
	"bytes"
	"errors"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/pgwire"
)

// looked marks the types of server messages that are looked at. All others pass unread.
var looked = [256]bool{
	pgwire.ReadyForQuery: true, pgwire.ErrorResponse: true, pgwire.ParameterStatus: true, pgwire.CommandComplete: true,
	pgwire.ParseComplete: true, pgwire.CloseComplete: true, pgwire.CopyInResponse: true,
}

// enough is how much of a message that is too long to be held must have come before it is looked at: SQLSTATE and severity
// are at the front of an error.
const enough = 1 << 10

// down passes a chunk of what the server said on to the client.
func (k *link) down(chunk []byte) {
	s := k.session
	r := rewriting{chunk: chunk, out: k.w.out[:0]}
	i, lied := 0, error(nil)
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
		if looked[m[0]] {
			held := m[pgwire.HeaderSize:]
			if len(held) < body && (body <= maxHeld || len(held) < enough) {
				k.carry = append(k.carry, m...)
				break
			}
			if lied = k.hear(m[0], held[:min(body, len(held))]); lied != nil {
				break
			}
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
	case lied != nil:
		s.w.srv.protocol.Add("server", 1)
		k.serverGone(lied)
	default:
		k.settle()
	}
}

// answersOurs reports whether a message of type t answers something that we asked, so that the client must not see it. An
// error always ends what the client asked as well, unless it answers a Query of ours.
func (k *link) answersOurs(t byte) bool {
	if k.answers.empty() || !k.answers.first().ours {
		return false
	}
	switch k.answers.first().kind {
	case parsed:
		return t == pgwire.ParseComplete
	case closed:
		return t == pgwire.CloseComplete
	default:
		return true
	}
}

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
	}
	return nil
}

func (k *link) hearReady(body []byte) error {
	if len(body) != 1 || k.answers.empty() {
		return errUnasked
	}
	if !k.answers.first().ends() {
		return errUnasked
	}
	ours := k.answers.pop().ours
	k.copyIn, k.copyParsed = false, false
	if !ours {
		k.status = body[0]
	}
	if k.answers.empty() && k.settingsFailed != nil {
		k.changed = true
		k.session.fatal(k.settingsFailed)
	}
	return nil
}

// hearError drops what the server will not answer any more: after an error in the extended protocol it skips everything up
// to the next Sync.
func (k *link) hearError(body []byte) {
	e := pgwire.ParseError(body)
	if k.answersOurs(pgwire.ErrorResponse) {
		k.settingsFailed = &e
	}
	k.session.resource.countError(e.Code)
	if outcomeOf(e.Code) == breaker.Failure {
		k.failure = e.Error()
	}
	k.fatal = k.fatal || e.Fatal()
	k.copyIn = false
	if k.answers.empty() || k.answers.first().ends() {
		return
	}
	skipping := true
	k.answers.keep(func(a answer) bool {
		if skipping && a.kind == synced {
			skipping = false
		}
		if skipping {
			k.notAnswered(a)
		}
		return !skipping
	})
}

// hearCopyIn notes that the server takes COPY data. What was sent behind the command has been, or will be, read as part of
// that: Syncs before the end of the data are ignored by the server and not answered.
func (k *link) hearCopyIn() {
	k.copyStarts++
	k.copyParsed = k.answers.empty() || k.answers.first().kind != queried
	k.copyIn = k.copyEnds < k.copyStarts
	k.answers.keep(func(a answer) bool {
		return a.kind != synced || a.copyEnds >= k.copyStarts
	})
	if k.copyParsed && k.answers.owed() == 0 {
		k.unsynced = true // the Sync that ends it has yet to come
	}
}

// Tags of commands after which no prepared statement is left.
var (
	tagDiscardAll    = []byte("DISCARD ALL\x00")
	tagDeallocateAll = []byte("DEALLOCATE ALL\x00")
)

func (k *link) hearCommand(tag []byte) {
	if len(tag) > 0 && tag[0] == 'D' && (bytes.Equal(tag, tagDiscardAll) || bytes.Equal(tag, tagDeallocateAll)) {
		k.server.Prepared.Clear()
		k.session.statements.clear()
	}
}
