package postgres

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// crowd is those who are at the door: connections that have not logged in, or that are being turned away. There is room for so many.
// When it is full, whoever comes next takes the place of one that keeps weir waiting: of the address that has most of them the one that
// has said least, and of those the one that came first. So neither a thousand silent sockets of one address, nor clients that are frozen
// in the middle of a login, keep others out. Whoever answers at once keeps its place, however many share its address, also when weir is
// late to read the answer; in a storm of such it is those who come later that are refused.
//
// Safe for all goroutines; its zero value is ready.
type crowd struct {
	count atomic.Int64

	mu sync.Mutex
	of map[netip.Addr]*queue // never an empty one
}

// guest is one of a crowd. All but said and heard is guarded by the crowd's lock.
type guest struct {
	said      atomic.Int32 // what it has said so far; see saidNothing
	heard     atomic.Int64 // when it said that, in nanoseconds since 1970
	interrupt func()       // ends its waiting for the client, from any goroutine
	fd        int          // its socket
	evicted   atomic.Bool  // somebody else has its place

	answered   int64 // when it was found to have said something that weir had not read, in nanoseconds since 1970; 0: never
	from       netip.Addr
	in         *queue // nil: not in a crowd any more
	next, prev *guest
}

// What a guest has said. As long as it is busy with something else than waiting for its client it keeps its place.
const (
	saidNothing int32 = iota
	saidHello         // the front of a startup packet or of a handshake, or all of it
	busy
)

// looksAtOnce is how many sockets are looked at, one system call each, for one that comes. Who is found to have answered is not looked at
// again for a while, so that the next one gets further.
const looksAtOnce = 16

// slowestReply is how long a guest may keep weir waiting while others would like to have its place. One whose address has more than
// twice as many guests as theirs may not at all.
const slowestReply = 250 * time.Millisecond

// says takes note of what a guest has said.
func (g *guest) says(what int32) {
	g.said.Store(what)
	g.heard.Store(time.Now().UnixNano())
}

// unread reports whether the client has said something that weir has not come to read yet. Who has given up its socket meanwhile may be
// mistaken for another: it leaves anyhow.
func (g *guest) unread() bool {
	var b [1]byte
	n, _, err := unix.Recvfrom(g.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err == nil && n > 0
}

// attentive is a connection that takes note of what the guest at its other end says, in a handshake.
type attentive struct {
	net.Conn
	guest *guest
}

func (a *attentive) Read(p []byte) (int, error) {
	n, err := a.Conn.Read(p)
	if n > 0 {
		a.guest.says(saidHello)
	}
	return n, err
}

// queue is the guests of one address, in the order in which they came.
type queue struct {
	first, last *guest
	n           int
}

// enter takes g in. When there are as many as limit already, it takes another's place, whose waiting is interrupted; where there is none
// that is silent, it is not taken in. limit 0 is any number.
func (c *crowd) enter(g *guest, from netip.Addr, limit int) (entered bool) {
	g.says(saidNothing)
	from = neighbourhood(from)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := int(c.count.Load()); limit > 0 && n >= limit {
		out := c.leastLocked(from, g.heard.Load())
		if out == nil {
			return false
		}
		out.evicted.Store(true)
		c.removeLocked(out)
		out.interrupt()
	}
	c.addLocked(g, from)
	return true
}

// leave is called when a guest is in, or gone, or not to be counted any more. More than once is the same as once.
func (c *crowd) leave(g *guest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(g)
}

// neighbourhood is what is taken for one address: one of IPv4, or 64 bits of IPv6, which anybody has the rest of.
func neighbourhood(a netip.Addr) netip.Addr {
	if a.Is6() && !a.Is4In6() {
		p, _ := a.Prefix(64) // never fails for IPv6
		return p.Addr()
	}
	return a.Unmap()
}

func (c *crowd) addLocked(g *guest, from netip.Addr) {
	if c.of == nil {
		c.of = make(map[netip.Addr]*queue)
	}
	q := c.of[from]
	if q == nil {
		q = &queue{}
		c.of[from] = q
	}
	g.from, g.in = from, q
	if g.prev = q.last; q.last != nil {
		q.last.next = g
	} else {
		q.first = g
	}
	q.last = g
	q.n++
	c.count.Add(1)
}

func (c *crowd) removeLocked(g *guest) {
	q := g.in
	if q == nil {
		return
	}
	if g.prev != nil {
		g.prev.next = g.next
	} else {
		q.first = g.next
	}
	if g.next != nil {
		g.next.prev = g.prev
	} else {
		q.last = g.prev
	}
	g.in, g.next, g.prev = nil, nil, nil
	if q.n--; q.n == 0 {
		delete(c.of, g.from)
	}
	c.count.Add(-1)
}

// leastLocked is whose place one that comes from an address may take now; nil: nobody's.
func (c *crowd) leastLocked(from netip.Addr, now int64) (least *guest) {
	own := 0
	if q := c.of[from]; q != nil {
		own = q.n
	}
	most, looks := 0, looksAtOnce
	for _, q := range c.of {
		if q.n <= most {
			continue
		}
		if g := q.least(now, q.n > 2*(own+1), &looks); g != nil {
			most, least = q.n, g
		}
	}
	return least
}

// least is the guest that has said least, and of those the first, among those that have kept weir waiting for a while, or at all, where
// they are too many; nil: there is none, as far as so many looks tell.
func (q *queue) least(now int64, tooMany bool, looks *int) (least *guest) {
	for g := q.first; g != nil && *looks > 0; g = g.next {
		said := g.said.Load()
		prompt := now-g.heard.Load() < int64(slowestReply) && !tooMany || now-g.answered < int64(slowestReply)
		if said == busy || said == saidHello && least != nil || prompt {
			continue
		}
		*looks--
		switch {
		case g.unread():
			g.answered = now
		case said == saidNothing:
			return g
		default:
			least = g
		}
	}
	return least
}
