package postgres

import (
	"encoding/binary"

	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/pool"
)

// inquiry is what the server is asked between two transactions when the text of a statement raised suspicion that it has left
// something in the session. Only the server knows: a transaction may have been rolled back, a lock not been got, a value
// been computed. The client waits only when it wants to go on at once.
type inquiry struct {
	about    touch          // what is asked about; 0: nothing is
	found    touch          // of that, what there is
	settings []pool.Setting // parameters that were set
	bytes    int            // that they need
	failed   bool
}

// questions are asked for what a session may have, under the labels of metrics.
var questions = []struct {
	about touch
	ask   func(label string) pool.Query
}{
	{touchSet, pool.SettingsSet},
	{touchPrepare, pool.AnyPrepared},
	{touchListen, pool.AnyListening},
	{touchTemp, pool.AnyTemporary},
	{touchCursor, pool.AnyHoldable},
	{touchLock, pool.AnyLock},
}

// inquire asks the server what there is of about. The transaction is over, and its client may go on as soon as the answer has
// come.
func (k *link) inquire(about touch) {
	k.rest()
	var all []pool.Query
	for _, q := range questions {
		if about&q.about != 0 {
			all = append(all, q.ask(q.about.String()))
		}
	}
	if about&touchSet != 0 {
		if names := k.unlisted(); len(names) > 0 {
			all = append(all, pool.SettingsNamed(touchSet.String(), names))
		}
	}
	k.inquiry = inquiry{about: about}
	k.held = true
	k.answers.push(answer{kind: asked, ours: true})
	k.server.Prepared.Unnamed = 0
	if k.session.resource.mode == Session { // elsewhere what has no name is prepared again
		k.write(pool.AppendNamed(nil, pool.Ask(all)))
		return
	}
	k.write(pgwire.AppendQuery(nil, pool.Ask(all)))
}

// unlisted are the parameters that the server does not list: those that the session is known to have, all of them, and those that were
// named since.
func (k *link) unlisted() []string {
	known := k.server.Settings
	names := known.Unlisted()
	for _, n := range k.names {
		if !known.Has(n) {
			names = append(names, n)
		}
	}
	return names
}

// mostSettings is how many bytes of parameters follow a session from one server connection to another. With more it keeps the one it has.
const mostSettings = 64 << 10

// hearRow takes note of a row of the answer, whose body may be cut short.
func (k *link) hearRow(body []byte) {
	if !k.answers.inquired() {
		return
	}
	columns, ok := row(body)
	if !ok || len(columns) != 3 {
		k.inquiry.failed = true
		return
	}
	label, name, value := columns[0], columns[1], columns[2]
	for i, l := range touchLabels {
		if l == label && touch(1<<i) != touchSet {
			k.inquiry.found |= 1 << i
		}
	}
	switch {
	case label != touchLabels[0], name == "role" && value == "none", name == "session_authorization" && value == k.server.User():
	case !isASCII(name) || !isASCII(value): // it would read differently in another client_encoding
		k.inquiry.found |= touchSet
	case k.inquiry.bytes+len(name)+len(value) > mostSettings:
		k.inquiry.found |= touchSet
	default:
		k.inquiry.bytes += len(name) + len(value)
		k.inquiry.settings = append(k.inquiry.settings, pool.Setting{Name: name, Value: value})
	}
}

// row reads the body of a DataRow whose columns are text. ok is false when it is cut short.
func row(body []byte) (columns []string, ok bool) {
	if len(body) < 2 {
		return nil, false
	}
	n := int(binary.BigEndian.Uint16(body))
	body = body[2:]
	for range n {
		if len(body) < 4 {
			return nil, false
		}
		length := int(int32(binary.BigEndian.Uint32(body)))
		body = body[4:]
		length = max(length, 0) // NULL reads as empty
		if len(body) < length {
			return nil, false
		}
		columns = append(columns, string(body[:length]))
		body = body[length:]
	}
	return columns, true
}

// conclude draws the conclusions from the answer: what was set is the session's from now on, and will be on any server
// connection; what else there is keeps this one. Without an answer all that was suspected does.
func (k *link) conclude() {
	s, q := k.session, k.inquiry
	k.inquiry = inquiry{}
	k.held = false
	reset := k.words.reset
	k.answered()
	if q.failed {
		q.found = q.about
	}
	known := q.about&touchSet != 0 && q.found&touchSet == 0 // what it has set, as far as it can be asked
	k.vague = k.vague || q.about&touchUnnamed != 0
	if k.vague && q.about&touchSet != 0 {
		q.found |= touchSet
	}
	if k.keepFor((k.pinned&^q.about | q.found) & touchPins); s.dead {
		return
	}
	if k.pinned&touchSet == 0 { // else they are asked for again: nobody knows of them but the server
		k.names = k.names[:0]
	}
	if known {
		p, key := s.resource.pool, k.outcomeKey(q.about)
		s.profile = p.Adopt(k.server, q.settings, s.startup, s.profile, reset)
		if key != nil {
			s.resource.outcomes.remember(key, p.Standard(), s.profile)
		}
	}
	k.plainly.reset()
	k.restore = known || k.pinned&touchSet == 0 // what is not known, and only there, must not be put back
	k.correct()
	k.settle()
	if !s.dead {
		s.resume()
	}
}

// correct tells the client what it runs with from now on, where it was told otherwise in the course of the transaction.
func (k *link) correct() {
	s := k.session
	for _, t := range k.told {
		now, known := s.profile.Greeting.Parameters[t.Name]
		if known && now != t.Value && (s.resource.mode != Session || k.restore) {
			s.out = pgwire.AppendParameterStatus(s.out, t.Name, now)
		}
	}
	k.told = k.told[:0]
}

// answered is called when it is known what was suspected.
func (k *link) answered() {
	k.words.found &= touchLasting
	k.words.reset = false
}
