package pool

// Prepared is what a server connection has prepared for its borrowers, by number. Which text a number stands for is the
// borrowers' business; here is only whether the server knows it.
type Prepared struct {
	// Unnamed is the statement that the unnamed one was last parsed as; 0: unknown, or none.
	Unnamed uint64

	named map[uint64]struct{}
	order []uint64 // oldest first
}

// Has reports whether statement id is prepared.
func (p *Prepared) Has(id uint64) bool {
	_, ok := p.named[id]
	return ok
}

// Add records that statement id is prepared.
func (p *Prepared) Add(id uint64) {
	if p.Has(id) {
		return
	}
	if p.named == nil {
		p.named = make(map[uint64]struct{})
	}
	p.named[id] = struct{}{}
	p.order = append(p.order, id)
}

// Remove records that statement id is gone.
func (p *Prepared) Remove(id uint64) {
	if !p.Has(id) {
		return
	}
	delete(p.named, id)
	for i, other := range p.order {
		if other == id {
			p.order = append(p.order[:i], p.order[i+1:]...)
			break
		}
	}
}

// Clear records that no statement is prepared any more.
func (p *Prepared) Clear() { *p = Prepared{} }

// Oldest returns the statement that was prepared first, when there are more than most.
func (p *Prepared) Oldest(most int) (id uint64, tooMany bool) {
	if len(p.order) <= most {
		return 0, false
	}
	return p.order[0], true
}
