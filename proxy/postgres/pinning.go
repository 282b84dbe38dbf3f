package postgres

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/pool"
	"github.com/weirproxy/weir/proxy"
)

// Pinning says what becomes of a session, outside pool mode session, that leaves something on its server connection which cannot
// follow it to another.
type Pinning string

// The kinds of pinning.
const (
	KeepPins   Pinning = "pin"    // it keeps the connection
	WarnPins   Pinning = "warn"   // it keeps it, and that is logged
	RefusePins Pinning = "refuse" // it is refused
)

// String lists the reasons of t, as in metrics.
func (t touch) String() string {
	var all []string
	for i, label := range touchLabels {
		if t&(1<<i) != 0 {
			all = append(all, label)
		}
	}
	return strings.Join(all, ", ")
}

// pinRefusal is what a client is told that may not keep its server connection.
func (r *resource) pinRefusal(t touch) *pgwire.Error {
	return r.cannotKeep(t, "with pinning: "+string(r.pinning), "pinning: pin and pinned")
}

// fullRefusal is what it is told when as many keep theirs as may.
func (r *resource) fullRefusal(t touch) *pgwire.Error {
	return r.cannotKeep(t, fmt.Sprintf("for more sessions than pinned: %d", r.mostPinned), "pinned")
}

func (r *resource) cannotKeep(t touch, because, setting string) *pgwire.Error {
	if t&touchPins == 0 { // it may be anything, for all that can be read
		t |= touchSet
	}
	return &pgwire.Error{
		Severity: "ERROR", Code: proxy.NotSupported.SQLSTATE,
		Message: "state of a session that lasts beyond the transaction (" + t.String() + ") is not supported in pool mode " + string(r.mode) + " " + because,
		Hint:    "use pool_mode: session, or allow more with " + setting,
	}
}

// refused are the reasons for which a statement in which t was found is not even executed. What SET does follows the session.
func (r *resource) refused(t touch) touch {
	if r.pinning != RefusePins {
		return 0
	}
	return t & touchPins &^ (touchSet | touchLarge)
}

// raise is a statement that has the server refuse, so that it comes at its place among the answers and fails the transaction.
func (r *resource) raise(t touch) string {
	e := r.pinRefusal(t)
	return pool.Raise(e.Code, e.Message, e.Hint)
}

// refuseQuery has the server refuse a Query at i that would leave what may not be left. One that has not come whole is refused once
// it is known what it left: see keepFor.
func (k *link) refuseQuery(r *rewriting, i, body int) (used int, is bool) {
	s := k.session
	m := r.chunk[i:]
	if s.resource.pinning != RefusePins || s.resource.mode == Session || m[0] != pgwire.Query || len(m) < pgwire.HeaderSize+body {
		return 0, false
	}
	words := readWords(m[pgwire.HeaderSize:][:body])
	_, plain, _ := words.found.settled(bytes.TrimSuffix(m[pgwire.HeaderSize:][:body], []byte{0}))
	t := s.resource.refused(plain)
	if t == 0 {
		return 0, false
	}
	r.cut(i, i+pgwire.HeaderSize+body)
	r.out = pgwire.AppendQuery(r.out, s.resource.raise(t))
	k.query(pgwire.Query, 0)
	k.forgetUnnamed()
	return pgwire.HeaderSize + body, true
}

// refuseBind has the server refuse a Bind at i of what would leave what may not be left: it binds, whatever the parameters, a
// statement that fails when it is executed.
func (k *link) refuseBind(r *rewriting, i, before, body int, c *content) (is bool) {
	s := k.session
	t := s.resource.refused(c.plain)
	if t == 0 || len(r.chunk)-i < pgwire.HeaderSize+body {
		return false
	}
	raising, err := s.contentOf([]byte(s.resource.raise(t) + "\x00\x00\x00"))
	if err != nil {
		raising = s.private(s.resource.raise(t) + "\x00\x00\x00")
	}
	number := raising.number.Load()
	if !k.server.Prepared.Use(number) {
		k.prepareNamed(r, i, raising)
	}
	portal := r.chunk[i+pgwire.HeaderSize:][:before]
	r.cut(i, i+pgwire.HeaderSize+body)
	r.out = append(appendHeader(r.out, pgwire.Bind, before+k.nameLength(number)+1+6), portal...)
	r.out = append(k.appendName(r.out, number), 0, 0, 0, 0, 0, 0, 0)
	k.expect(pgwire.Bind)
	return true
}
