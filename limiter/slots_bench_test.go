package limiter_test

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/limiter"
)

// owners are requests that have a slot, in the order in which they got it.
type owners struct {
	requests []*queued
	first    int
	count    int
}

func (g *owners) add(r *queued) {
	g.requests[(g.first+g.count)%len(g.requests)] = r
	g.count++
}

func (g *owners) next() *queued {
	r := g.requests[g.first]
	g.first = (g.first + 1) % len(g.requests)
	g.count--
	return r
}

// queued is a request that joins them when it is told.
type queued struct {
	limiter.Request
	joins *owners
}

func (r *queued) Wake() { r.joins.add(r) }

// busy are slots that are all taken, with so many flows that wait, one request each.
func busy(flows int) (*limiter.Slots, *owners) {
	const budget = 20
	queue := limiter.Queue{Length: limiter.Length(2 * flows), Wait: time.Hour}.WithDefaults()
	s := limiter.NewSlots(budget, queue, limiter.Adaptive{}.WithDefaults())
	all := &owners{requests: make([]*queued, flows+budget)}
	for range flows + budget {
		r := &queued{joins: all}
		r.Request = limiter.Request{Flow: limiter.NewFlow(1, 0), Level: limiter.LevelNormal, Class: 1, Waker: r}
		if s.Enter(&r.Request, 1) == limiter.Granted {
			all.add(r)
		}
	}
	return s, all
}

func BenchmarkSlots(b *testing.B) {
	b.Run("nobody waits", func(b *testing.B) {
		s := newSlots(limiter.Adaptive{Enabled: true})
		r := &limiter.Request{Flow: limiter.NewFlow(1, 0), Level: limiter.LevelNormal, Class: 1}
		b.ReportAllocs()
		for now := int64(1); b.Loop(); now += 100_000 {
			s.Enter(r, now)
			s.Leave(r, now+50_000, limiter.Use{Took: 50 * time.Microsecond})
		}
	})
	b.Run("on all processors", func(b *testing.B) {
		s := newSlots(limiter.Adaptive{Enabled: true})
		began := time.Now()
		flow := limiter.NewFlow(1, 0)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			r := &limiter.Request{Flow: flow, Level: limiter.LevelNormal, Class: 1}
			for pb.Next() { // fewer than there are slots: each is granted at once
				now := int64(time.Since(began))
				s.Enter(r, now)
				s.Leave(r, now, limiter.Use{Took: time.Microsecond})
			}
		})
	})
	b.Run("a hand-off among 1000 flows", func(b *testing.B) {
		const flows = 1000
		s, all := busy(flows)
		b.ReportAllocs()
		for now := int64(1000); b.Loop(); now += 100_000 {
			r := all.next() // has a slot: it leaves, another has it, and it waits again
			s.Leave(&r.Request, now, limiter.Use{Took: 50 * time.Microsecond})
			s.Enter(&r.Request, now)
		}
	})
	b.Run("a refusal", func(b *testing.B) {
		s, _ := busy(1000)
		r := &limiter.Request{Flow: limiter.NewFlow(1, 0), Level: limiter.LevelNormal, Class: 1, Deadline: 3}
		b.ReportAllocs()
		for now := int64(3); b.Loop(); now++ {
			if s.Enter(r, now) != limiter.Denied {
				b.Fatal("is not refused")
			}
		}
	})
}

func TestSlotsDoNotAlloc(t *testing.T) {
	s := newSlots(limiter.Adaptive{Enabled: true})
	r := &limiter.Request{Flow: limiter.NewFlow(1, 0), Level: limiter.LevelNormal, Class: 1}
	now := int64(1)
	if got := testing.AllocsPerRun(1000, func() {
		now += 100_000
		s.Enter(r, now)
		s.Leave(r, now+50_000, limiter.Use{Took: 50 * time.Microsecond})
	}); got != 0 {
		t.Errorf("to enter and leave allocates %v times, want 0", got)
	}

	s, all := busy(100)
	if got := testing.AllocsPerRun(1000, func() {
		now += 100_000
		r := all.next()
		s.Leave(&r.Request, now, limiter.Use{Took: 50 * time.Microsecond})
		s.Enter(&r.Request, now)
	}); got != 0 {
		t.Errorf("a hand-off allocates %v times, want 0", got)
	}

	r.Deadline = 1
	if got := testing.AllocsPerRun(1000, func() {
		if s.Enter(r, now) != limiter.Denied {
			t.Fatal("is not refused")
		}
	}); got != 0 {
		t.Errorf("a refusal allocates %v times, want 0", got)
	}
}
