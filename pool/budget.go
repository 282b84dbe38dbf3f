package pool

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/weirproxy/weir/eventloop"
)

// ErrClosed says that the pool no longer lends.
var ErrClosed = errors.New("the pool is closed")

// ErrQueueFull says that as many borrowers are waiting as may wait.
var ErrQueueFull = errors.New("too many clients are waiting for a server connection")

// waitPoll is how often Wait looks.
const waitPoll = time.Millisecond

// keepEvery is how often connections are looked at that have rested or lived too long.
const keepEvery = time.Second

// Dialling. Connects run in parallel, so that a storm fills an empty pool quickly, but not all at once, and after a failure
// they are spaced out.
const (
	dialsAtOnce  = 16
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = time.Second
)

// Budget bounds the connections to one resource over all of its pools.
type Budget struct {
	cfg     Config
	loops   *eventloop.Group
	log     *slog.Logger
	running sync.WaitGroup // the keeper and the dials
	cancels sync.WaitGroup // cancel requests; begun only for servers that still count
	ctx     context.Context
	stop    context.CancelCauseFunc

	heldTime time.Duration // heldTime, but for tests

	mu     sync.Mutex // guards what follows and every Pool of the budget; never held across I/O
	pools  []*Pool
	counts Counts
	closed bool
}

// Counts are the connections of a budget by state. Their sum is what the server may have to bear.
type Counts struct{ Idle, Used, Dialing, Closing int }

// Open is the number of connections that count against the budget.
func (c Counts) Open() int { return c.Idle + c.Used + c.Dialing + c.Closing }

// NewBudget makes a budget of cfg.Connections and starts its keeper; Close stops it. Servers are watched by loops.
func NewBudget(cfg Config, loops *eventloop.Group, log *slog.Logger) *Budget {
	ctx, stop := context.WithCancelCause(context.Background())
	b := &Budget{cfg: cfg, loops: loops, log: log, ctx: ctx, stop: stop, heldTime: heldTime}
	b.running.Go(b.keep)
	return b
}

// Max is the size of the budget.
func (b *Budget) Max() int { return b.cfg.Connections }

// Counts returns how many connections there are now.
func (b *Budget) Counts() Counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counts
}

// Waiting returns how many borrowers are queued.
func (b *Budget) Waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waitingLocked()
}

func (b *Budget) waitingLocked() (n int) {
	for _, p := range b.pools {
		n += p.waiting.len
	}
	return n
}

// Close refuses new work and everyone who waits, stops dialling, retires what is on the shelf, and waits for the keeper and
// the dials. Connections that are lent are retired when they come back.
func (b *Budget) Close() {
	b.stop(ErrClosed)
	b.mu.Lock()
	b.closed = true
	var idle []*Server
	var waiting []*Waiter
	for _, p := range b.pools {
		waiting = append(waiting, p.waiting.popAll()...)
		for len(p.idle) > 0 {
			idle = append(idle, p.takeLocked(len(p.idle)-1))
			b.counts.Used++
		}
	}
	b.mu.Unlock()
	for _, w := range waiting {
		w.answer(nil, ErrClosed)
	}
	retireAll(idle)
	b.running.Wait()
}

// Wait waits, after Close and when every lent connection has come back, until the servers have closed theirs, too; each has
// a deadline of its own for that. The loops must still be running.
func (b *Budget) Wait() {
	for b.Counts().Open() > 0 {
		time.Sleep(waitPoll)
	}
	b.cancels.Wait()
}

// keep retires what has rested or lived too long, and has servers be asked about what they seem to hold.
func (b *Budget) keep() {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case now := <-tick.C:
			retireAll(b.expired(now))
			b.askAboutHeld(now)
		}
	}
}

// expired takes off the shelf what is to be retired.
func (b *Budget) expired(now time.Time) (out []*Server) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.pools {
		for i := 0; i < len(p.idle); {
			s := p.idle[i]
			if s.outdated() || s.expired(now) || s.restsFor > 0 && now.Sub(s.rested) > s.restsFor {
				out = append(out, p.takeLocked(i))
				b.counts.Used++ // in our hands
				continue
			}
			i++
		}
	}
	return out
}

// outdated reports whether newer connections to the same address have other defaults.
func (s *Server) outdated() bool { return s.defaults != nil && s.defaults.replaced.Load() }

func (s *Server) expired(now time.Time) bool { return !s.expires.IsZero() && now.After(s.expires) }

// retireAll retires servers that the caller owns, each on its own loop.
func retireAll(servers []*Server) {
	for _, s := range servers {
		s.RetireSoon()
	}
}

// jittered takes up to a fifth off d, so that what was opened together does not end together.
func jittered(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d)/5+1))
}
