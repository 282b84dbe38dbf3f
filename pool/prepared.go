package pool

import "strconv"

// Prepared is what a server connection has prepared for its borrowers, by number. Which text a number stands for is the
// borrowers' business; here is only whether the server knows it.
//
// What sessions say in SQL may drop statements, or put others in their place. So their names on a connection have a part that is
// drawn at random, anew whenever that may have happened: what was believed before is of no importance then.
type Prepared struct {
	// Unnamed is the statement that the unnamed one was last parsed as; 0: unknown, or none.
	Unnamed uint64
	// Prefix is what the names begin with. The borrower draws it; empty: it has yet to.
	Prefix string

	stale []string // names that are not used any more, and have yet to be closed
	named map[uint64]*preparedStatement
	// all of them in a ring, the one used last ahead of the one used longest ago; nil without any
	last *preparedStatement
}

type preparedStatement struct {
	id         uint64
	prev, next *preparedStatement
}

// Has reports whether statement id is prepared.
func (p *Prepared) Has(id uint64) bool {
	_, ok := p.named[id]
	return ok
}

// Use is Has for a statement that is about to be used.
func (p *Prepared) Use(id uint64) bool {
	s := p.named[id]
	if s == nil {
		return false
	}
	if s != p.last {
		p.unlink(s)
		p.link(s)
	}
	return true
}

// Add records that statement id is prepared.
func (p *Prepared) Add(id uint64) {
	if p.Use(id) {
		return
	}
	if p.named == nil {
		p.named = make(map[uint64]*preparedStatement)
	}
	s := &preparedStatement{id: id}
	p.named[id] = s
	p.link(s)
}

// Remove records that statement id is gone.
func (p *Prepared) Remove(id uint64) {
	if s := p.named[id]; s != nil {
		delete(p.named, id)
		p.unlink(s)
	}
}

// Clear records that no statement is prepared any more.
func (p *Prepared) Clear() { *p = Prepared{} }

// Doubt records that it is not known any more what is prepared. From now on the names are others.
func (p *Prepared) Doubt() {
	stale := p.stale
	for id := range p.named {
		stale = append(stale, p.Prefix+strconv.FormatUint(id, 10))
	}
	*p = Prepared{Unnamed: p.Unnamed, stale: stale}
}

// Len is how many statements the server connection has, those that have yet to be closed among them.
func (p *Prepared) Len() int { return len(p.named) + len(p.stale) }

// TakeStale returns names that are not used any more, for the caller to close them: some at a time, unless there are more than most.
func (p *Prepared) TakeStale(most int) []string {
	const some = 32
	n := len(p.stale)
	if n <= most {
		n = min(n, some)
	}
	taken := p.stale[:n]
	if p.stale = p.stale[n:]; len(p.stale) == 0 {
		p.stale = nil
	}
	return taken
}

// Oldest returns the statement that was used longest ago, when there are more than most.
func (p *Prepared) Oldest(most int) (id uint64, tooMany bool) {
	if len(p.named) <= most {
		return 0, false
	}
	return p.last.next.id, true
}

// link makes s the last.
func (p *Prepared) link(s *preparedStatement) {
	if p.last == nil {
		s.prev, s.next = s, s
	} else {
		s.prev, s.next = p.last, p.last.next
		s.prev.next, s.next.prev = s, s
	}
	p.last = s
}

func (p *Prepared) unlink(s *preparedStatement) {
	if s.next == s {
		p.last = nil
		return
	}
	s.prev.next, s.next.prev = s.next, s.prev
	if p.last == s {
		p.last = s.prev
	}
}
