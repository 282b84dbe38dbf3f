package limiter_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirproxy/weir/limiter"
)

var errRefused = errors.New("refused by the test")

// player does one random thing after the other that callers of Slots may do, and knows what must be so afterwards.
type player struct {
	t      testing.TB
	next   func(n int) int // below n
	slots  *limiter.Slots
	mode   limiter.Mode
	budget int
	now    int64
	flows  []*limiter.Flow
	most   []int
	all    []*move
	closed bool
}

// move is a request as its asker sees it.
type move struct {
	limiter.Request
	p     *player
	flow  int
	is    string // "", waiting, running, keeping
	told  int
	again bool // it runs because it went on, whatever the limit
}

func (m *move) Wake() {
	m.told++
	if m.is != "waiting" {
		m.p.t.Fatalf("a request that is %q is told", m.is)
	}
	d := m.Denial()
	switch {
	case d.Err == nil, d.Shadow:
		m.is = "running"
	default:
		m.is = ""
		m.p.knows(d)
	}
}

func newPlayer(t testing.TB, next func(int) int) *player {
	p := &player{t: t, next: next, budget: 1 + next(6), now: int64(next(2)) * int64(time.Hour)}
	p.mode = []limiter.Mode{limiter.Enforce, limiter.Enforce, limiter.Enforce, limiter.Shadow, limiter.Off}[next(5)]
	queue := limiter.Queue{Mode: p.mode}
	if next(2) == 0 {
		queue.Length = limiter.Length(1 + next(6))
	}
	a := limiter.Adaptive{Enabled: next(2) == 0, Min: 1}
	p.slots = limiter.NewSlots(p.budget, queue.WithDefaults(), a.WithDefaults())
	for range 1 + next(4) {
		p.most = append(p.most, max(0, next(6)-3))
		p.flows = append(p.flows, limiter.NewFlow(1+next(4), p.most[len(p.most)-1]))
	}
	return p
}

func (p *player) knows(d limiter.Denial) {
	for _, err := range []error{limiter.ErrQueueFull, limiter.ErrDeadline, limiter.ErrShed, errRefused} {
		if errors.Is(d.Err, err) {
			if d.RetryAfter < 0 || d.Expected < 0 || d.Limit < 0 {
				p.t.Fatalf("a denial of the past: %+v", d)
			}
			return
		}
	}
	p.t.Fatalf("denied with %v", d.Err)
}

func (p *player) some(is string) *move {
	var fit []*move
	for _, m := range p.all {
		if m.is == is {
			fit = append(fit, m)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	return fit[p.next(len(fit))]
}

func (p *player) count(is string) (n int) {
	for _, m := range p.all {
		if m.is == is {
			n++
		}
	}
	return n
}

// play does one thing.
func (p *player) play() {
	p.now += int64(p.next(4)) * int64(p.next(1+p.next(3)*50_000_000))
	took := time.Duration(p.next(3)) * time.Millisecond
	now := p.now - int64(p.next(2)*p.next(1000)) // clocks are a moment apart
	switch action := p.next(20); {
	case action < 9:
		p.enter(now)
	case action < 14:
		if m := p.some("running"); m != nil {
			m.is = ""
			p.slots.Leave(&m.Request, now, limiter.Use{Took: took})
		}
	case action < 16:
		if m := p.some("waiting"); m != nil {
			if !p.slots.Abandon(&m.Request, now) {
				p.t.Fatal("a request that waits cannot be abandoned")
			}
			m.is = ""
		}
	case action == 16:
		if m := p.some("running"); m != nil {
			m.is = "keeping"
			p.slots.Keep(&m.Request, now, limiter.Use{Took: took})
		}
	case action == 17:
		if m := p.some("keeping"); m != nil {
			m.is, m.again = "running", true
			p.slots.Resume(&m.Request, now)
		}
	case action == 18:
		if m := p.some("keeping"); m != nil {
			m.is = ""
			p.slots.Leave(&m.Request, now, limiter.Use{})
		}
	case p.next(20) == 0:
		p.slots.Refuse(errRefused, now)
		if m := p.some("waiting"); m != nil {
			p.t.Fatal("somebody waits although all were refused")
		}
	case p.next(40) == 0:
		p.closed = true
		p.slots.Close(errRefused, now)
	}
	p.check()
}

func (p *player) enter(now int64) {
	m := p.some("")
	if m == nil || len(p.all) < 12 {
		m = &move{p: p}
		p.all = append(p.all, m)
	}
	m.flow, m.again = p.next(len(p.flows)), false
	m.Request = limiter.Request{
		Flow: p.flows[m.flow], Level: limiter.Level(p.next(4)), Class: limiter.Fingerprint(p.next(4)), Waker: m,
	}
	if p.next(3) == 0 {
		m.Deadline = now + int64(p.next(5)-1)*int64(p.next(300_000_000))
	}
	m.is = "waiting" // it may be told before Enter returns
	switch told := m.told; p.slots.Enter(&m.Request, now) {
	case limiter.Granted:
		m.is = "running"
		if n, limit := p.count("running"), p.slots.Limit(); m.told != told || n > limit {
			p.t.Fatalf("granted and told %d times, %d run with a limit of %d", m.told-told, n, limit)
		}
	case limiter.Denied:
		m.is = ""
		p.knows(m.Denial())
	}
}

// check looks whether the laws hold.
func (p *player) check() {
	p.t.Helper()
	runs, keep, wait := p.count("running"), p.count("keeping"), p.count("waiting")
	running := make([]int, len(p.flows))
	resumed := make([]bool, len(p.flows))
	for _, m := range p.all {
		if m.is == "running" {
			running[m.flow]++
			resumed[m.flow] = resumed[m.flow] || m.again
		}
	}
	if runs+keep > p.budget {
		p.t.Fatalf("%d run and %d keep a connection, of a budget of %d", runs, keep, p.budget)
	}
	for i, n := range running {
		if p.most[i] > 0 && n > p.most[i] && !resumed[i] {
			p.t.Fatalf("a flow has %d slots of %d", n, p.most[i])
		}
	}
	if err := p.slots.Inconsistent(runs, keep, wait); err != nil {
		p.t.Fatal(err)
	}
}

// end has all who are there leave, and looks whether nothing is left.
func (p *player) end() {
	for m := p.some("running"); m != nil; m = p.some("running") {
		m.is = ""
		p.slots.Leave(&m.Request, p.now, limiter.Use{})
		p.check()
	}
	for m := p.some("keeping"); m != nil; m = p.some("keeping") {
		m.is = ""
		p.slots.Leave(&m.Request, p.now, limiter.Use{})
		for m := p.some("running"); m != nil; m = p.some("running") {
			m.is = ""
			p.slots.Leave(&m.Request, p.now, limiter.Use{})
		}
		p.check()
	}
	if m := p.some("waiting"); m != nil {
		p.t.Fatal("somebody waits, and nobody runs")
	}
}

func TestSlotsKeepTheirLaws(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 11))
		p := newPlayer(t, rng.IntN)
		for range 150 {
			p.play()
		}
		p.end()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzSlotsKeepTheirLaws(f *testing.F) {
	f.Add([]byte("a storm"))
	f.Add([]byte{5, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19})
	f.Fuzz(func(t *testing.T, in []byte) {
		p := newPlayer(t, func(n int) int {
			if len(in) == 0 {
				return 0
			}
			v := int(in[0])
			in = in[1:]
			if n > 256 {
				v *= n / 256
			}
			return v % n
		})
		for range min(len(in), 1000) {
			p.play()
		}
		p.end()
	})
}

// caller is a client of its own, with a goroutine.
type client struct {
	limiter.Request
	told chan struct{}
}

func (c *client) Wake() { c.told <- struct{}{} }

func TestSlotsAmongGoroutines(t *testing.T) {
	const budget, clients, rounds = 5, 40, 300
	s := limiter.NewSlots(budget, limiter.Queue{Wait: time.Hour}.WithDefaults(), limiter.Adaptive{Enabled: true}.WithDefaults())
	began := time.Now()
	clock := func() int64 { return int64(time.Since(began)) }
	flows := []*limiter.Flow{limiter.NewFlow(1, 0), limiter.NewFlow(3, 2), limiter.NewFlow(1, 1)}
	var running, most, served atomic.Int64
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 3))
			c := &client{told: make(chan struct{}, 1)}
			for range rounds {
				c.Request = limiter.Request{Flow: flows[i%len(flows)], Level: limiter.Level(i % 4), Class: limiter.Fingerprint(i % 3), Waker: c}
				switch s.Enter(&c.Request, clock()) {
				case limiter.Denied:
					continue
				case limiter.Waiting:
					if rng.IntN(4) == 0 && s.Abandon(&c.Request, clock()) {
						continue
					}
					<-c.told
					if c.Denial().Err != nil {
						continue
					}
				}
				n := running.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				served.Add(1)
				running.Add(-1)
				if rng.IntN(5) == 0 {
					s.Keep(&c.Request, clock(), limiter.Use{Took: time.Microsecond})
					if rng.IntN(2) == 0 {
						s.Resume(&c.Request, clock())
					}
				}
				s.Leave(&c.Request, clock(), limiter.Use{Took: time.Microsecond})
			}
		})
	}
	all.Wait()
	if most.Load() > budget || served.Load() == 0 {
		t.Errorf("%d ran at once, of a budget of %d; %d were served", most.Load(), budget, served.Load())
	}
	if err := s.Inconsistent(0, 0, 0); err != nil {
		t.Error(err)
	}
}
