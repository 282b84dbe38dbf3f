package breaker_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/breaker"
)

const (
	closed   = breaker.Closed
	halfOpen = breaker.HalfOpen
	open     = breaker.Open
)

// do is what a step does to the breaker.
type do func(*scene) error

// scene is a breaker under test and the permits that are still out.
type scene struct {
	*breaker.Breaker
	held []breaker.Permit
}

func request(outcome breaker.Outcome, times int) do {
	return func(s *scene) error {
		for range times {
			permit, err := s.Allow()
			if err != nil {
				return err
			}
			permit.Done(outcome)
		}
		return nil
	}
}

func ok(n int) do      { return request(breaker.Success, n) }
func fail(n int) do    { return request(breaker.Failure, n) }
func ignored(n int) do { return request(breaker.Ignored, n) }

// hold makes a request that is still on its way.
func hold(s *scene) error {
	permit, err := s.Allow()
	if err == nil {
		s.held = append(s.held, permit)
	}
	return err
}

// end reports the outcome of the request held longest.
func end(outcome breaker.Outcome) do {
	return func(s *scene) error {
		s.held[0].Done(outcome)
		s.held = s.held[1:]
		return nil
	}
}

func fleet(d time.Duration) do {
	return func(s *scene) error {
		s.TripFromFleet("another weir says so", d)
		return nil
	}
}

func nothing(*scene) error { return nil }

func TestBreaker(t *testing.T) {
	type step struct {
		after   time.Duration // let this much time pass,
		do      do            // do this,
		refused bool          // expect it to be refused, or not,
		want    breaker.State // and this state after it
	}
	const rest = 1300 * time.Millisecond // more than the first cooldown with its spread
	tests := map[string]struct {
		cfg   breaker.Config
		steps []step
	}{
		"three failures in a row open it": {
			steps: []step{{0, fail(2), false, closed}, {0, ok(1), false, closed}, {0, fail(2), false, closed}, {0, fail(1), false, open}, {0, ok(1), true, open}},
		},
		"failures older than the window are forgotten": {
			steps: []step{{0, fail(2), false, closed}, {11 * time.Second, fail(1), false, closed}, {0, fail(1), false, closed}, {0, fail(1), false, open}},
		},
		"half of twenty requests open it, even when they never fail in a row": {
			steps: []step{
				{0, alternating(18), false, closed}, {0, ok(1), false, closed}, {0, fail(1), false, open},
			},
		},
		"fewer than twenty requests do not show a ratio": {
			steps: []step{{0, alternating(18), false, closed}, {11 * time.Second, alternating(18), false, closed}},
		},
		"ignored requests count for nothing": {
			steps: []step{{0, fail(2), false, closed}, {0, ignored(50), false, closed}, {0, fail(1), false, open}},
		},
		"its own thresholds": {
			cfg:   breaker.Config{Failures: 100, Ratio: 0.9},
			steps: []step{{0, fail(18), false, closed}, {0, ok(2), false, closed}, {0, fail(1), false, open}},
		},
		"a probe that succeeds closes it, and old failures are gone": {
			steps: []step{{0, fail(3), false, open}, {rest, nothing, false, halfOpen}, {0, ok(1), false, closed}, {0, fail(2), false, closed}},
		},
		"a probe that fails opens it for twice as long, up to the longest": {
			cfg: breaker.Config{MaxCooldown: 3 * time.Second},
			steps: []step{
				{0, fail(3), false, open},
				{rest, fail(1), false, open}, // 2s
				{1500 * time.Millisecond, ok(1), true, open},
				{time.Second, fail(1), false, open}, // 3s, for 4s are too long
				{2300 * time.Millisecond, ok(1), true, open},
				{800 * time.Millisecond, fail(1), false, open},
				{3100 * time.Millisecond, ok(1), false, closed},
				{0, fail(3), false, open}, // the next one starts from the beginning
				{rest, ok(1), false, closed},
			},
		},
		"one probe at a time": {
			steps: []step{
				{0, fail(3), false, open},
				{rest, hold, false, halfOpen},
				{0, hold, true, halfOpen},
				{time.Second, hold, true, halfOpen},
				{0, end(breaker.Success), false, closed},
				{0, ok(5), false, closed},
			},
		},
		"a lost probe is replaced": {
			steps: []step{
				{0, fail(3), false, open},
				{rest, hold, false, halfOpen},
				{2 * time.Second, hold, true, halfOpen},
				{2 * time.Second, hold, false, halfOpen},
				{0, hold, true, halfOpen},
				{0, end(breaker.Failure), false, halfOpen}, // the lost one: nobody waits for it any more
				{0, end(breaker.Success), false, closed},
			},
		},
		"a probe late but not replaced still tells": {
			steps: []step{{0, fail(3), false, open}, {rest, hold, false, halfOpen}, {time.Minute, end(breaker.Success), false, closed}},
		},
		"an ignored probe makes way for the next": {
			steps: []step{
				{0, fail(3), false, open}, {rest, ignored(1), false, halfOpen}, {0, ignored(3), false, halfOpen}, {0, ok(1), false, closed},
			},
		},
		"results from before it opened change nothing": {
			steps: []step{
				{0, hold, false, closed},
				{0, hold, false, closed},
				{0, fail(3), false, open},
				{0, end(breaker.Success), false, open},
				{rest, ok(1), false, closed},
				{0, end(breaker.Failure), false, closed},
				{0, fail(2), false, closed},
			},
		},
		"another weir's verdict opens it, and its own probe closes it": {
			steps: []step{{0, fleet(time.Second), false, open}, {0, ok(1), true, open}, {rest, ok(1), false, closed}},
		},
		"another weir's verdict does not prolong an opening": {
			steps: []step{
				{0, fail(3), false, open}, {700 * time.Millisecond, fleet(30 * time.Second), false, open}, {600 * time.Millisecond, ok(1), false, closed},
			},
		},
		"another weir's verdict holds no longer than the first cooldown": {
			steps: []step{{0, fleet(time.Hour), false, open}, {rest, fail(1), false, open}, {2500 * time.Millisecond, ok(1), false, closed}},
		},
		"whoever saw the resource answer is deaf to the others for a while": {
			steps: []step{
				{0, fleet(time.Second), false, open},
				{rest, ok(1), false, closed},
				{0, fleet(time.Second), false, closed},
				{29 * time.Second, fleet(time.Second), false, closed},
				{2 * time.Second, fleet(time.Second), false, open},
			},
		},
		"deaf, it still sees for itself": {
			steps: []step{
				{0, fleet(time.Second), false, open},
				{rest, ok(1), false, closed},
				{0, fail(3), false, open},
				{rest, ok(1), false, closed},
				{0, fleet(time.Second), false, open},
			},
		},
		"a verdict that is over is none": {
			steps: []step{{0, fleet(0), false, closed}, {0, fleet(-time.Second), false, closed}},
		},
		"switched off, it never opens": {
			cfg:   breaker.Config{Mode: "off"},
			steps: []step{{0, fail(50), false, closed}, {0, fleet(time.Second), false, closed}},
		},
		"as a shadow it opens and lets pass": {
			cfg: breaker.Config{Mode: "shadow"},
			steps: []step{
				{0, fail(3), false, open},
				{0, fail(50), false, open},
				{0, ok(50), false, open},
				{rest, ok(1), false, closed},
				{0, fail(3), false, open},
				{rest, hold, false, halfOpen},
				{0, ok(3), false, halfOpen},
				{0, end(breaker.Failure), false, open},
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &scene{Breaker: breaker.New("orders", test.cfg, nil)}
				for i, step := range test.steps {
					time.Sleep(step.after)
					err := step.do(s)
					if refused := errors.Is(err, breaker.ErrOpen); refused != step.refused || err != nil && !refused {
						t.Fatalf("step %d: error %v, want refused: %v", i, err, step.refused)
					}
					if got := s.State(); got != step.want {
						t.Fatalf("step %d: state %v, want %v", i, got, step.want)
					}
				}
			})
		})
	}
}

func alternating(n int) do {
	return func(s *scene) error {
		for i := range n {
			if err := request(breaker.Outcome(i%2), 1)(s); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestOpenErrorTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New("orders", breaker.Config{}, nil)
		if err := b.Refuses(); err != nil {
			t.Errorf("a closed breaker refuses: %v", err)
		}
		for range 3 {
			permit, err := b.Allow()
			if err != nil {
				t.Fatal(err)
			}
			permit.Fail("connection refused")
		}
		time.Sleep(500 * time.Millisecond)
		var waits []time.Duration
		for range 20 {
			var e *breaker.OpenError
			if err := b.Refuses(); !errors.As(err, &e) {
				t.Fatalf("Refuses = %v, want an OpenError", err)
			}
			if e.Since != 500*time.Millisecond || e.Cause != "connection refused" {
				t.Fatalf("refusal %+v, want since 500ms, cause connection refused", e)
			}
			if e.RetryAfter < 300*time.Millisecond || e.RetryAfter > 875*time.Millisecond {
				t.Fatalf("retry after %v, want the rest of 0.8s to 1.2s, spread by a quarter", e.RetryAfter)
			}
			waits = append(waits, e.RetryAfter)
		}
		if slices.Max(waits) == slices.Min(waits) {
			t.Error("all callers are told to come back at the same time")
		}
		time.Sleep(800 * time.Millisecond)
		if err := b.Refuses(); err != nil {
			t.Errorf("refuses although a probe is due: %v", err)
		}
		permit, err := b.Allow()
		if err != nil {
			t.Fatal(err)
		}
		var e *breaker.OpenError
		if err := b.Refuses(); !errors.As(err, &e) || e.RetryAfter <= 0 {
			t.Errorf("Refuses = %v while a probe is on its way, want a refusal with a time", err)
		}
		permit.Done(breaker.Success)
		if err := b.Refuses(); err != nil {
			t.Errorf("refuses after a good probe: %v", err)
		}
	})
}

func TestShadowTellsWhatItWouldRefuse(t *testing.T) {
	b := breaker.New("orders", breaker.Config{Mode: "shadow"}, nil)
	for range 3 {
		permit, _ := b.Allow()
		permit.Done(breaker.Failure)
	}
	permit, err := b.Allow()
	if err != nil || !errors.Is(permit.Shadowed(), breaker.ErrOpen) {
		t.Errorf("Allow = %v, shadowed %v; want passed and shadowed", err, permit.Shadowed())
	}
	if err := b.Refuses(); err != nil {
		t.Errorf("a shadow refuses: %v", err)
	}
	if err := b.WouldRefuse(); !errors.Is(err, breaker.ErrOpen) {
		t.Errorf("WouldRefuse = %v, want ErrOpen", err)
	}
}

func TestChangesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		s := &scene{}
		s.Breaker = breaker.New("orders", breaker.Config{}, func(c breaker.Change) {
			if c.To == open && (c.For < 800*time.Millisecond || c.For > 2400*time.Millisecond) {
				t.Errorf("open for %v", c.For)
			}
			_ = s.Stats() // no lock is held
			got = append(got, fmt.Sprintf("%v>%v fleet=%v %s", c.From, c.To, c.Fleet, c.Cause))
		})
		for _, do := range []do{fail(3), fail(1), ok(1), fleet(time.Second), ok(1)} {
			if err := do(s); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2500 * time.Millisecond)
		}
		want := []string{
			"closed>open fleet=false the server failed",
			"open>half-open fleet=false ", "half-open>open fleet=false the server failed",
			"open>half-open fleet=false ", "half-open>closed fleet=false ",
			"closed>open fleet=true another weir says so",
			"open>half-open fleet=false ", "half-open>closed fleet=false ",
		}
		if !slices.Equal(got, want) {
			t.Errorf("changes\n%q, want\n%q", got, want)
		}
		for to, n := range map[string]int64{"open": 3, "half-open": 3, "closed": 2} {
			if got := s.Stats().Transitions[to]; got != n {
				t.Errorf("%d transitions to %s, want %d", got, to, n)
			}
		}
	})
}

// A fleet whose weirs announce what they see must come to rest: every announcement is one weir's own observation.
func TestNoEchoInAFleet(t *testing.T) {
	const weirs = 8
	synctest.Test(t, func(t *testing.T) {
		var fleet [weirs]*breaker.Breaker
		told := 0
		for i := range fleet {
			fleet[i] = breaker.New("orders", breaker.Config{}, func(c breaker.Change) {
				if c.To != open || c.Fleet {
					return
				}
				told++
				for j := range fleet {
					if j != i {
						fleet[j].TripFromFleet(c.Cause, c.For)
					}
				}
			})
		}
		try := func(i int, outcome breaker.Outcome) {
			if permit, err := fleet[i].Allow(); err == nil {
				permit.Done(outcome)
			}
		}
		for range 3 {
			try(0, breaker.Failure)
		}
		for i := range fleet {
			if got := fleet[i].State(); got != open {
				t.Errorf("weir %d is %v after the first one's trip, want open", i, got)
			}
		}
		if told != 1 {
			t.Errorf("%d announcements of one trip, want 1", told)
		}

		// Only the first weir cannot reach the server: the others must not be kept from it.
		refused := 0
		for range 60 * 100 {
			time.Sleep(10 * time.Millisecond)
			try(0, breaker.Failure)
			for i := 1; i < weirs; i++ {
				if fleet[i].Refuses() != nil {
					refused++
				}
				try(i, breaker.Success)
			}
		}
		if share := float64(refused) / (60 * 100 * (weirs - 1)); share > 0.1 {
			t.Errorf("one weir's broken network kept the others out for %.0f %% of a minute", 100*share)
		}
		if told > 10 {
			t.Errorf("%d announcements in a minute by one weir", told)
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	b := breaker.New("orders", breaker.Config{Cooldown: time.Millisecond, MaxCooldown: 2 * time.Millisecond}, nil)
	var permits, refusals atomic.Int64
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for j := range 3000 {
				if b.Refuses() != nil {
					refusals.Add(1)
				}
				if permit, err := b.Allow(); err == nil {
					permits.Add(1)
					permit.Done(breaker.Outcome((i + j/100) % 3))
				}
				if j%500 == 0 {
					b.TripFromFleet("test", time.Millisecond)
				}
			}
		})
	}
	clients.Wait()
	if permits.Load() == 0 || refusals.Load() == 0 {
		t.Errorf("%d permits, %d refusals; want some of both", permits.Load(), refusals.Load())
	}
}

func TestClosedPathAllocatesOnlyWhatGobreakerDoes(t *testing.T) {
	b := breaker.New("orders", breaker.Config{}, nil)
	if got := testing.AllocsPerRun(1000, func() { _ = b.Refuses() }); got != 0 {
		t.Errorf("Refuses allocates %v times", got)
	}
	if got := testing.AllocsPerRun(1000, func() {
		permit, _ := b.Allow()
		permit.Done(breaker.Success)
	}); got > 1 { // gobreaker's callback
		t.Errorf("Allow and Done allocate %v times, want at most 1", got)
	}
}

func BenchmarkClosed(b *testing.B) {
	br := breaker.New("orders", breaker.Config{}, nil)
	b.Run("refuses", func(b *testing.B) {
		for b.Loop() {
			_ = br.Refuses()
		}
	})
	b.Run("allow and done", func(b *testing.B) {
		for b.Loop() {
			permit, _ := br.Allow()
			permit.Done(breaker.Success)
		}
	})
}
