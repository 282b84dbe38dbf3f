package postgres

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// losses tell whether server connections that break are the server's fault. One client can end its own, by pg_terminate_backend or by a
// statement that crashes its process, as often as it likes. So what counts against the server is that several callers lose theirs at the
// same time, and that connecting anew fails: for that, another is dialled in the place of each one that is lost, and where that fails, what
// was lost counts, too.
//
// Safe for all goroutines; its zero value is ready.
type losses struct {
	mu      sync.Mutex
	last    time.Time
	who     loser
	several bool
	open    int // losses that said nothing by themselves, since the server answered last
}

// loser is a caller, as far as callers can be told apart by what they cannot choose: those of one user at one address are one.
type loser struct {
	user string
	from netip.Addr
}

const (
	lossesTogether = time.Second      // within this time losses are the same event
	lossesWait     = 10 * time.Second // for so long they wait for a connect to decide
)

// note takes note of a loss, and reports whether it is not the first caller's that lost one just now.
func (l *losses) note(who loser, now time.Time) (several bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.last) > lossesTogether {
		l.who, l.several, l.open = who, false, 0
	}
	l.last = now
	l.several = l.several || who != l.who
	if !l.several {
		l.open++
	}
	return l.several
}

// decide is called when a connect has failed, and tells how many losses were the server's failures after all.
func (l *losses) decide(now time.Time) (failures int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.last) <= lossesWait {
		failures = l.open
	}
	l.open = 0
	return failures
}

// answered is called when a connect has gone well: the server is not to blame for what was lost before.
func (l *losses) answered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last, l.open = time.Time{}, 0
}

// lost tells the breaker that the server connection broke, or does not answer, and for what cause.
func (k *link) lost(cause string) {
	s := k.session
	who := loser{user: s.user.Value()}
	if addr, ok := s.conn.RemoteAddr().(*net.TCPAddr); ok {
		who.from = neighbourhood(addr.AddrPort().Addr())
	}
	k.server.Lost()
	k.ticket.Lost(cause, s.resource.losses.note(who, time.Now()))
}
