package postgres

import "github.com/weirproxy/weir/pgwire"

// unnamed is the state of the statement without a name, whose life is short: Parse replaces it, a Query or Close ends it. That is
// noted when they are sent. Behind an error they are skipped, and it is as it was before.
type unnamed struct {
	statement        // the client's
	number    uint64 // the server's: see pool.Prepared.Unnamed
	change    uint32 // which change of those on this link has brought it about
}

func (k *link) unnamed() unnamed {
	u := unnamed{number: k.server.Prepared.Unnamed, change: k.changes}
	if t := k.session.statements; t != nil {
		u.statement = t.unnamed
	}
	return u
}

func (k *link) setUnnamed(u unnamed) {
	k.server.Prepared.Unnamed, k.changes = u.number, u.change
	if t := k.session.statements; t != nil {
		t.unnamed = u.statement
	}
}

// changeUnnamed notes a change of the unnamed statement by the message that a will answer.
func (k *link) changeUnnamed(a *answer, st statement, number uint64) {
	a.before = k.unnamed()
	k.everChanged++
	a.change = k.everChanged
	k.setUnnamed(unnamed{st, number, a.change})
}

// forgetUnnamed notes that a Query ends the life of the unnamed statement, for the client and on the server.
func (k *link) forgetUnnamed() { k.changeUnnamed(new(answer), statement{}, 0) }

// unchangeUnnamed takes back what changeUnnamed noted of a, which the server has skipped, or refused. What was changed by messages
// behind it, which are among the rest of those to come, stays so.
func (k *link) unchangeUnnamed(a *answer, rest []answer, skipped bool) {
	change, was := a.change, a.before
	if change == 0 {
		return
	}
	a.change = 0
	if !skipped && a.number == 0 { // even a Parse that fails ends it
		was.number = 0
	}
	if !skipped && a.replaces() {
		was.statement = statement{}
	}
	at := change
	for i := range rest {
		p := &rest[i]
		if p.change == 0 || p.before.change != at {
			continue
		}
		if at == change {
			p.before = was
		}
		p.before.statement = was.statement
		if p.replaces() {
			return
		}
		at = p.change // it has changed the server's only
	}
	switch k.changes {
	case change:
		k.setUnnamed(was)
	case at:
		k.setUnnamed(unnamed{was.statement, k.server.Prepared.Unnamed, at})
	}
}

// replaces reports whether a message that has changed the unnamed statement was the client's own about it.
func (a *answer) replaces() bool { return !a.ours && a.name == "" }

// closeUnnamed makes sure that the server has no unnamed statement.
func (k *link) closeUnnamed(r *rewriting, i int) {
	r.insert(i, pgwire.Close, 0, 0, 0, 6, 'S', 0)
	a := answer{kind: closed, ours: true}
	k.changeUnnamed(&a, statement{}, 0)
	k.answers.push(a)
}
