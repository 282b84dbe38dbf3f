package pool

import (
	"slices"
	"time"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/pgwire"
)

// When a connection breaks, or its server is silent, others to the same address may be dead as well: the machine is gone, or something
// between has forgotten them. Whoever is lent one finds out by waiting. So those on the shelf have to answer a Sync before they are
// lent again. That is cheap enough to do when it was only a backend that somebody has ended.

const (
	testTime     = time.Second // for the answer
	suspectEvery = time.Second // at most, for each address
)

// Suspect has the connections to an address that rest on the shelf be tested, and closed if they do not answer.
func (p *Pool) Suspect(address string) {
	for _, s := range p.takeSuspects(address, time.Now()) {
		l := s.Conn.Loop()
		l.Post(eventloop.TaskFunc(func() { s.test(l) }))
	}
}

// test has s, which was taken off the shelf, answer, or be closed.
func (s *Server) test(l *eventloop.Loop) {
	if s.missed.Swap(false) {
		s.Conn.Note(eventloop.Readable)
	}
	s.Reset(l, Leftover{Status: pgwire.Idle, Look: true, Within: testTime})
}

// takeSuspects takes them off the shelf.
func (p *Pool) takeSuspects(address string, now time.Time) (suspects []*Server) {
	b := p.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || now.Sub(p.suspected[address]) < suspectEvery {
		return nil
	}
	for i := 0; i < len(p.idle); {
		if p.idle[i].address != address {
			i++
			continue
		}
		suspects = append(suspects, p.takeLocked(i))
		b.counts.Used++ // in our hands
	}
	if len(suspects) > 0 {
		if p.suspected == nil || len(p.suspected) >= mostAddresses {
			p.suspected = make(map[string]time.Time)
		}
		p.suspected[address] = now
	}
	slices.Reverse(suspects) // the last used first
	return suspects
}

// mostAddresses bounds how many addresses are remembered.
const mostAddresses = 1024
