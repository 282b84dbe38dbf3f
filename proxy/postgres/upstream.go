package postgres

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/proxy"
)

// rewriting puts together what goes to the server when a chunk cannot go as it came: text is taken from the chunk up to
// a point, something is put in or left out, and so on. As long as nothing is, nothing is copied.
type rewriting struct {
	chunk []byte
	from  int // bytes of the chunk before it have been dealt with
	out   []byte

	record int // from where on it is recorded, if it is
}

// insert puts b in at the point at.
func (r *rewriting) insert(at int, b ...byte) {
	r.cut(at, at)
	r.out = append(r.out, b...)
}

// cut leaves out the bytes from at to to.
func (r *rewriting) cut(at, to int) {
	r.out = append(r.out, r.chunk[r.from:at]...)
	r.from = to
}

// end is all that is to be sent when the chunk is used up to at.
func (r *rewriting) end(at int) []byte {
	if len(r.out) == 0 {
		return r.chunk[r.from:at]
	}
	r.cut(at, at)
	return r.out
}

// up passes a chunk of what the client sent on to the server, and returns what must not go there.
func (k *link) up(chunk []byte) (rest []byte) {
	s := k.session
	r := rewriting{chunk: chunk, out: k.w.out[:0]}
	i, messages := 0, 0
	for i < len(chunk) {
		if k.upSkip > 0 {
			n := min(k.upSkip, len(chunk)-i)
			k.pass(chunk[i : i+n])
			i += n
			continue
		}
		if len(chunk)-i < pgwire.HeaderSize {
			s.hold(chunk[i:])
			break
		}
		if k.admitNext && !k.readmit(chunk[i:]) {
			rest = chunk[i:]
			break
		}
		if messages++; messages%fewMessages == 0 && k.isLong(&r) {
			k.pause(&r, i)
			return nil
		}
		used, v := k.message(&r, i)
		if v != passOn {
			if v == waitForMore || v == waitForAnswer {
				s.hold(chunk[i:])
			}
			k.held = v == waitForAnswer
			k.sendUp(&r, i)
			k.stop(v, chunk[i])
			return nil
		}
		i += used
	}
	k.sendUp(&r, i)
	if s.link == k {
		k.settle()
	}
	return rest
}

// isLong reports whether the messages of a chunk that were dealt with so far have taken long, or have become much.
func (k *link) isLong(r *rewriting) bool { return len(r.out) > muchRewritten || k.w.loop.Late() }

// pause leaves the messages of a chunk from i on to the session's next turn.
func (k *link) pause(r *rewriting, i int) {
	k.session.hold(r.chunk[i:])
	k.paused, k.held = true, true
	k.w.much = true
	k.sendUp(r, i)
	k.session.postpone()
}

// sendUp sends what has been put together of a chunk used up to i.
func (k *link) sendUp(r *rewriting, i int) {
	k.recordTo(r, i)
	if out := r.end(i); len(out) > 0 || len(k.upOut) > 0 {
		k.write(out)
	}
	k.w.out = r.out[:0]
}

// stop deals with a message, of type t, that is not passed on.
func (k *link) stop(v verdict, t byte) {
	if s := k.session; s == nil || s.dead || v == waitForMore || v == waitForAnswer {
		return
	}
	k.ending, k.endingType = v, t
	k.finish()
}

// finish ends a session whose client has said its last, once what it asked before is answered.
func (k *link) finish() {
	s := k.session
	switch {
	case k.doubtful && k.ending == leaveNow: // the server knows best when it has answered all
		if !k.dismissed {
			k.dismissed = true
			k.write(pgwire.AppendMessage(nil, pgwire.Terminate))
		}
		return
	case k.answering() && !k.doubtful:
		return
	}
	switch k.ending {
	case leaveNow:
		if s.flush() {
			s.leave()
		} else {
			s.lastWords(nil)
		}
	case violation:
		s.violated("type", fmt.Sprintf("invalid frontend message type %d", k.endingType))
	case badLength:
		s.violated("length", "invalid message length")
	case tooMuch:
		err := s.resource.gate.QueueRefusal(s.caller, proxy.ClientLimit, "outstanding", 0, 0, fmt.Sprint(k.answers.len()), fmt.Sprint(mostDoubtful))
		e := said(err)
		e.Message = "too much was asked without waiting for the answers"
		s.fatal(e)
	}
}

// readmit asks for a new ticket when a session that kept its server connection begins its next transaction.
func (k *link) readmit(chunk []byte) bool {
	switch chunk[0] {
	case pgwire.Terminate, pgwire.Sync, pgwire.Flush, pgwire.CopyData, pgwire.CopyDone, pgwire.CopyFail:
		return true
	}
	s := k.session
	k.asked, k.began = k.w.loop.Now(), k.w.loop.Now()
	if err := s.resource.gate.Readmit(&k.ticket, s.request(chunk)); err != nil {
		s.refuse(chunk, err)
		return false
	}
	k.unkeep()
	k.admitNext, k.use, k.timed, k.spoiled = false, limiter.Use{}, false, false
	if k.restore {
		k.applySettings()
	}
	return true
}

// pass takes note of bytes of a message body that go to the server as they are.
func (k *link) pass(b []byte) {
	if k.scanning {
		if k.mentions(b) {
			k.consider(false)
		}
		k.words.feed(b)
		if len(b) == k.upSkip && !k.partly {
			k.whole = b
		}
		k.partly = true
	}
	k.upSkip -= len(b)
	if k.keeping != nil {
		k.keep(b)
	}
	if k.upSkip == 0 {
		k.bodyEnds()
	}
}

// bodyEnds is called when all of a message has been passed on whose body was of interest.
func (k *link) bodyEnds() {
	if !k.scanning {
		return
	}
	k.scanning = false
	k.words.end()
	if k.keeping != nil {
		k.statementKept()
	} else {
		k.queryRead()
	}
	k.outer, k.whole, k.partly = 0, nil, false
}

// queryRead is called when all of a Query has passed.
func (k *link) queryRead() {
	sql := bytes.TrimSuffix(k.whole, []byte{0})
	found, _, names := k.words.found.settled(sql)
	if k.session.resource.mode == Session {
		k.noteBuffers(found)
		k.words.found = k.outer | found&touchForever // the rest is dropped in the end
		return
	}
	k.name(names)
	k.readSet(found, sql)
	k.altering = k.altering || sql != nil && changesSchema(sql, k.words.found)
	if mayTamper(sql, k.words.found, k.words.forget) {
		k.consider(definesFunction(sql))
	}
	k.words.found = k.outer | found
}

// glance looks at the text of a Parse in pool mode session, where nobody keeps it.
func (k *link) glance(m []byte, body int) {
	if len(m) >= pgwire.HeaderSize+body {
		if _, rest, ok := pgwire.CString(m[pgwire.HeaderSize:][:body]); ok {
			if sql, _, ok := pgwire.CString(rest); ok {
				words := readWords(sql)
				k.words.reset = k.words.reset || words.reset
				k.words.buffers = k.words.buffers || words.buffers
				if words.found != 0 {
					found, _, _ := words.found.settled(sql)
					k.noteBuffers(found)
					k.words.found |= found & touchForever
				}
				return
			}
		}
	}
	k.scan(body)
}

// name adds to the parameters that have to be asked for by name.
func (k *link) name(names []string) {
	for _, n := range names {
		switch {
		case slices.Contains(k.names, n):
		case len(k.names) < mostNames:
			k.names = append(k.names, n)
		default: // too many to be asked for one by one
			k.words.found |= touchSet | touchUnnamed
			return
		}
	}
}

// verdict is what becomes of a message.
type verdict int

const (
	passOn        verdict = iota
	waitForMore           // it cannot be told before more of it has come
	waitForAnswer         // it cannot go before an answer of the server has come
	leaveNow              // it is Terminate
	violation
	badLength
	tooMuch // was asked at once
)

// longestBody is how long messages of the types in neverLong may be (PostgreSQL's PQ_SMALL_MESSAGE_LIMIT). A server closes the
// connection at a longer one, which would look like its own fault.
const longestBody = 10000 - 4

var neverLong = [256]bool{
	pgwire.Describe: true, pgwire.Execute: true, pgwire.Close: true, pgwire.Sync: true, pgwire.Flush: true, pgwire.CopyDone: true,
	pgwire.CopyFail: true, pgwire.Terminate: true,
}

// message deals with the message that begins at i. It returns how many bytes of the chunk it has used: at least the
// header, and what else it has looked at.
func (k *link) message(r *rewriting, i int) (used int, v verdict) {
	m := r.chunk[i:]
	body, err := pgwire.Length(m)
	if err != nil || body > longestBody && neverLong[m[0]] {
		return 0, badLength
	}
	if k.recording && len(m) < pgwire.HeaderSize+body && body <= maxHeld { // what may be said again ends with a whole message
		return 0, waitForMore
	}
	if k.answers.settings() && k.undoes(m, body) || k.isFull(r, i) || k.awaitsReset(m[0]) {
		return 0, waitForAnswer
	}
	if k.doubtful && k.answers.len() >= mostDoubtful {
		return 0, tooMuch
	}
	if k.answers.empty() && !k.unsynced {
		k.timeQuery()
	}
	k.guardChunk(r, i)
	k.progress += stallProgress
	k.flushed = false
	switch m[0] {
	case pgwire.Query, pgwire.FunctionCall:
		if !k.certain(r, i) {
			return 0, waitForAnswer
		}
		if used, v, is := k.deallocate(r, i, body); is {
			return used, v
		}
		if used, v, is := k.execute(r, i, body); is {
			return used, v
		}
		if used, is := k.refuseQuery(r, i, body); is {
			return used, passOn
		}
		if m[0] == pgwire.FunctionCall {
			t := calls(m)
			k.guardSequences(r, i, t)
			k.words.found |= t
		}
		k.query(m[0], body)
	case pgwire.Sync:
		k.sync()
	case pgwire.Parse, pgwire.Bind, pgwire.Describe, pgwire.Close:
		k.doubtful = k.doubtful || k.copyIn
		if k.session.resource.mode != Session && !k.skipping {
			return k.statementMessage(r, i, body)
		}
		k.unsynced = true
		if m[0] == pgwire.Parse && k.session.resource.mode == Session {
			k.glance(m, body)
		}
	case pgwire.Execute:
		return k.executePortal(r, i, body)
	case pgwire.CopyDone, pgwire.CopyFail:
		k.endCopy()
	case pgwire.Flush:
		k.flushed = true
		k.unsynced = k.unsynced || body > 0 // which the server refuses, and all up to the next Sync
	case pgwire.CopyData:
	case pgwire.Terminate:
		return 0, leaveNow
	default:
		return 0, violation
	}
	k.upSkip = body
	return pgwire.HeaderSize, passOn
}

// awaitsReset reports whether a message of type t has to wait for the answers to what may be RESET: what was set at startup is put back
// behind that, before the client's next statement.
func (k *link) awaitsReset(t byte) bool {
	switch t {
	case pgwire.Query, pgwire.FunctionCall, pgwire.Parse, pgwire.Bind, pgwire.Describe, pgwire.Execute:
		k.resetting = k.words.reset && !k.unsynced && !k.answers.empty() && k.bringsBack()
		return k.resetting
	}
	return false
}

// undoes reports whether a message could end the failed transaction that the session's settings leave behind where they are refused: what
// stands behind it would be executed without them.
func (k *link) undoes(m []byte, body int) bool {
	have := m[pgwire.HeaderSize:min(len(m), pgwire.HeaderSize+body)]
	switch {
	case k.session.resource.mode == Session: // statements are not known; and it is once in a session
		return true
	case m[0] == pgwire.Query:
		return endsFailed(have, len(have) < body)
	case m[0] == pgwire.Bind:
		_, name, ok := nameIn(pgwire.Bind, have)
		c := k.session.statements.find(name).content
		return !ok || c != nil && endsFailed(c.sql(), c.text == "")
	}
	return false
}

// certain reports whether it is known if the server answers a Query or FunctionCall at i: it does not in the middle of a batch
// that has failed. To find out, it is asked to close a statement that there is not: it does, or it has failed.
func (k *link) certain(r *rewriting, i int) bool {
	switch {
	case !k.unsynced, k.skipping, k.copyIn, k.doubtful, k.session.resource.mode == Session:
		return true
	case !k.probing:
		k.probing = true
		r.cut(i, i)
		r.out = pgwire.AppendMessage(k.appendClose(r.out, noStatement), pgwire.Flush)
		k.answers.push(answer{kind: closed, ours: true})
		return false
	}
	return !k.answers.has(closed)
}

// query notes a Query or FunctionCall. What it does it commits, or not, together with the batch that it is in the middle of, which ends
// with it: no Sync is owed any more.
func (k *link) query(t byte, body int) { k.queryOf(answer{kind: queried}, t, body) }

// queryOf is query for one that a answers.
func (k *link) queryOf(a answer, t byte, body int) {
	k.probing = false
	if k.skipping {
		return
	}
	k.fresh = false
	k.plainly.statements++
	k.doubtful = k.doubtful || k.copyIn || k.unsynced && k.spoilsNext()
	a.open = k.unsynced && k.session.resource.mode == Session
	k.unsynced, k.executes = k.unsynced && k.doubtful, false
	k.doubted = k.doubted || k.tampering
	k.answers.push(a)
	if t == pgwire.Query {
		k.scan(body)
		k.forgetUnnamed()
	}
}

// spoilsNext reports whether a Query in the middle of a batch leaves the server in a state in which the next statement fails, with XX000:
// PostgreSQL 18 does, behind an Execute outside a block. The connection is for nobody else then.
func (k *link) spoilsNext() bool {
	const since = 18
	return k.executes && k.status == pgwire.Idle && majorVersion(k.session.profile.Greeting.Parameters["server_version"]) >= since
}

// majorVersion reads the front of server_version; 0: it cannot be read.
func majorVersion(version string) (major int) {
	for i := 0; i < len(version) && version[i]-'0' < 10 && i < 4; i++ {
		major = 10*major + int(version[i]-'0')
	}
	return major
}

// sync notes a Sync. While the server takes COPY data it ignores it, unless the COPY has failed meanwhile.
func (k *link) sync() {
	if k.copyIn {
		k.doubtful = true
		return
	}
	k.answers.push(answer{kind: synced})
	k.unsynced, k.skipping, k.ended, k.executes = false, false, false, false
}

// endCopy notes the end of COPY data, which may be sent before the server has asked for any. Outside COPY it is ignored.
func (k *link) endCopy() {
	switch {
	case k.copyIn, !k.unsynced && k.answers.empty():
	case k.answers.endsWith(copyEnd) && k.answers.last().open == k.unsynced: // they are not answered: nothing would bound how many there are
		k.answers.last().use++
	default:
		k.answers.push(answer{kind: copyEnd, open: k.unsynced})
	}
	k.copyIn = false
}

// scan has the body of a message looked at as SQL.
func (k *link) scan(body int) {
	if k.scanning = body > 0; k.scanning {
		k.words.begin()
		k.outer, k.words.found = k.words.found, 0 // what is found now belongs to this text
	}
}

// appendHeader appends the header of a message with a body of n bytes.
func appendHeader(dst []byte, t byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, t), uint32(n+4))
}

// outcomeOf is what a SQLSTATE tells about the server's health: only what the server itself failed at counts.
func outcomeOf(sqlstate string) breaker.Outcome {
	if len(sqlstate) != 5 {
		return breaker.Success
	}
	switch {
	case sqlstate[:2] == "58", sqlstate == "57P01", sqlstate == "57P02", sqlstate == "57P03", sqlstate == "XX000":
		return breaker.Failure
	}
	return breaker.Success
}
