package limiter_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weirproxy/weir/limiter"
)

func newSlots(a limiter.Adaptive) *limiter.Slots {
	return limiter.NewSlots(20, limiter.Queue{}.WithDefaults(), a.WithDefaults())
}

// told is a request that counts how often it is told.
type told struct {
	limiter.Request
	times int
}

func (r *told) Wake() { r.times++ }

func TestManyWhoGiveUpAtOnceHarmNobody(t *testing.T) {
	const many = 20_000
	queue := limiter.Queue{Length: 2 * many, Wait: time.Hour}.WithDefaults()
	s := limiter.NewSlots(20, queue, limiter.Adaptive{}.WithDefaults())
	all := make([]told, many)
	flows := make([]*limiter.Flow, 100)
	for i := range flows {
		flows[i] = limiter.NewFlow(1, 0)
	}
	for i := range all {
		all[i].Request = limiter.Request{Flow: flows[i%len(flows)], Level: limiter.LevelNormal, Waker: &all[i]}
		s.Enter(&all[i].Request, 1)
	}
	began := time.Now()
	left := 0
	for i := range all {
		if i%7 != 0 && s.Abandon(&all[i].Request, 2) {
			left++
		}
	}
	took := time.Since(began)
	t.Logf("%d gave up in %v", left, took)
	if took > time.Second { // a list that is searched would take ten times that
		t.Errorf("%d gave up in %v", left, took)
	}
	served := 0
	for now := int64(3); served < many-left; now++ {
		before := served
		for i := range all {
			if s.Running(&all[i].Request) {
				s.Leave(&all[i].Request, now, limiter.Use{Took: time.Millisecond})
				served++
			}
		}
		if served == before {
			t.Fatalf("%d of the %d who stayed were served", served, many-left)
		}
	}
}

func TestASlowDriftIsNotTheNewNormal(t *testing.T) {
	for name, calm := range map[string]func(i int) bool{
		"never calm":   func(int) bool { return false },
		"always calm":  func(int) bool { return true },
		"now and then": func(i int) bool { return i%7 == 0 },
	} {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 1))
			var b limiter.Base
			took := float64(4 * time.Millisecond)
			const perSec, minutes = 20, 20
			var settled float64
			for i := range 60 * perSec * (minutes + 1) {
				now := int64(i) * int64(time.Second) / perSec
				if now >= int64(time.Minute) && i%(10*perSec) == 0 {
					took *= 1.01
				}
				b.Note(took*(.8+.4*rng.Float64()), now < int64(time.Minute) || calm(i), now)
				if now < int64(time.Minute) {
					settled = b.Nanoseconds()
				}
			}
			grown, base := took/float64(4*time.Millisecond), b.Nanoseconds()/settled
			t.Logf("statements take %.2f times as long, the base is %.2f times as high", grown, base)
			if most := math.Pow(1.05, minutes) * 1.02; base > most || !calm(1) && !calm(0) && base > 1.02 {
				t.Errorf("the base has risen %.2f times in %d minutes, want at most %.2f times", base, minutes, most)
			}
		})
	}
}

func TestDeadlinesThatAreTold(t *testing.T) {
	const msec = int64(time.Millisecond)
	known := func(s *limiter.Slots, now int64) int64 { // statements of class 1 take 100 ms
		for range 5 {
			r := told{Request: limiter.Request{Flow: limiter.NewFlow(1, 0), Class: 1}}
			s.Enter(&r.Request, now)
			now += 100 * msec
			s.Leave(&r.Request, now, limiter.Use{Took: 100 * time.Millisecond})
		}
		return now
	}
	tests := map[string]struct {
		deadline int64 // from when it enters
		class    limiter.Fingerprint
		want     error
	}{
		"none said":                         {0, 1, nil},
		"in the past":                       {-1, 0, limiter.ErrDeadline},
		"as far in the past as can be said": {math.MinInt64 / 2, 1, limiter.ErrDeadline},
		"now":                               {-1, 1, limiter.ErrDeadline},
		"sooner than such statements take":  {50 * msec, 1, limiter.ErrDeadline},
		"later than such statements take":   {200 * msec, 1, nil},
		"soon, of a statement nobody knows": {msec, 2, nil},
		"in a year":                         {int64(365 * 24 * time.Hour), 1, nil},
		"at the end of time":                {math.MaxInt64 / 2, 1, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSlots(limiter.Adaptive{})
			now := known(s, 1000*msec)
			r := told{Request: limiter.Request{Flow: limiter.NewFlow(1, 0), Class: tt.class}}
			if tt.deadline != 0 {
				r.Deadline = now + tt.deadline
			}
			got := s.Enter(&r.Request, now)
			if granted := got == limiter.Granted; granted != (tt.want == nil) || !errors.Is(r.Denial().Err, tt.want) {
				t.Errorf("verdict %v, %v; want %v", got, r.Denial().Err, tt.want)
			}
		})
	}

	t.Run("passes while it waits", func(t *testing.T) {
		s := limiter.NewSlots(1, limiter.Queue{}.WithDefaults(), limiter.Adaptive{}.WithDefaults())
		flow := limiter.NewFlow(1, 0)
		runs := told{Request: limiter.Request{Flow: flow}}
		late := told{Request: limiter.Request{Flow: flow, Deadline: 50 * msec}}
		late.Waker = &late
		next := told{Request: limiter.Request{Flow: flow}}
		next.Waker = &next
		s.Enter(&runs.Request, msec)
		if v := s.Enter(&late.Request, msec); v != limiter.Waiting {
			t.Fatalf("verdict %v, want to wait", v)
		}
		s.Enter(&next.Request, msec)
		s.Leave(&runs.Request, 51*msec, limiter.Use{Took: 50 * time.Millisecond})
		if !errors.Is(late.Denial().Err, limiter.ErrDeadline) || late.times != 1 {
			t.Errorf("told %d times: %v, want once that its deadline is over", late.times, late.Denial().Err)
		}
		if !s.Running(&next.Request) || next.times != 1 {
			t.Error("the slot did not go to the next one")
		}
	})

	t.Run("is not refused for ever by what was once", func(t *testing.T) {
		s := newSlots(limiter.Adaptive{})
		flow := limiter.NewFlow(1, 0)
		now := int64(time.Hour)
		for range 100 { // each takes two seconds
			r := told{Request: limiter.Request{Flow: flow, Class: 1}}
			s.Enter(&r.Request, now)
			now += int64(2 * time.Second)
			s.Leave(&r.Request, now, limiter.Use{Took: 2 * time.Second})
		}
		refused := 0
		for range 1000 { // now each takes a millisecond, and says that it has one second
			r := told{Request: limiter.Request{Flow: flow, Class: 1, Deadline: now + int64(time.Second)}}
			if s.Enter(&r.Request, now) == limiter.Granted {
				s.Leave(&r.Request, now+msec, limiter.Use{Took: time.Millisecond})
			} else {
				refused++
			}
			now += 10 * msec
		}
		if refused > 400 {
			t.Errorf("%d of 1000 were refused in ten seconds, want to see within four that the database is quick again", refused)
		}
	})
}

func TestAHandfulMayWaitWhateverIsExpected(t *testing.T) {
	const handful = 5
	s := limiter.NewSlots(1, limiter.Queue{Wait: 20 * time.Millisecond}.WithDefaults(), limiter.Adaptive{}.WithDefaults())
	flow, now := limiter.NewFlow(1, 0), int64(1)
	enter := func() (*told, limiter.Verdict) {
		r := &told{Request: limiter.Request{Flow: flow}}
		r.Waker = r
		return r, s.Enter(&r.Request, now)
	}
	running, _ := enter()
	line := []*told{}
	for i := range 40 { // a second each, fifty times as long as anyone may wait
		r, v := enter()
		switch {
		case v == limiter.Waiting:
			line = append(line, r)
		case len(line) < handful:
			t.Fatalf("one that comes while %d wait gets verdict %v, %v; want to wait", len(line), v, r.Denial().Err)
		case i > 20 && !errors.Is(r.Denial().Err, limiter.ErrShed):
			t.Fatalf("refused with %v", r.Denial().Err)
		}
		if i > 20 && len(line) > handful {
			t.Fatalf("%d wait, each for seconds", len(line))
		}
		if len(line) >= handful {
			now += int64(time.Second)
			s.Leave(&running.Request, now, limiter.Use{Took: time.Second})
			running, line = line[0], line[1:]
			if !s.Running(&running.Request) {
				t.Fatal("the first one has no slot")
			}
		}
	}
}

func TestFewConnectionsHaveNoLanes(t *testing.T) {
	for connections, want := range map[int]limiter.Verdict{1: limiter.Waiting, 2: limiter.Granted, 3: limiter.Granted, 4: limiter.Granted} {
		s := limiter.NewSlots(connections, limiter.Queue{}.WithDefaults(), limiter.Adaptive{}.WithDefaults())
		flow, now := limiter.NewFlow(1, 0), int64(1)
		enter := func() (*told, limiter.Verdict) {
			r := &told{Request: limiter.Request{Flow: flow, Class: 1}}
			r.Waker = r
			return r, s.Enter(&r.Request, now)
		}
		for range 5 {
			r, _ := enter()
			now += int64(time.Second)
			s.Leave(&r.Request, now, limiter.Use{Took: time.Second})
		}
		enter()
		if _, got := enter(); got != want {
			t.Errorf("of %d connections the second long statement gets verdict %v, want %v", connections, got, want)
		}
	}
}

func TestWhatKeptItsConnectionAsksAnew(t *testing.T) {
	s := limiter.NewSlots(1, limiter.Queue{}.WithDefaults(), limiter.Adaptive{}.WithDefaults())
	now := int64(1)
	for range 6 { // clients that leave after 100 ms, of sessions that are hours old
		r := &told{Request: limiter.Request{Flow: limiter.NewFlow(1, 0)}}
		r.Waker = r
		s.Enter(&r.Request, now)
		s.Keep(&r.Request, now, limiter.Use{Took: time.Millisecond})
		now += int64(time.Hour)
		s.Resume(&r.Request, now)
		now += int64(100 * time.Millisecond)
		s.GiveUp(&r.Request, now)
		s.Leave(&r.Request, now, limiter.Use{})
		now += int64(200 * time.Millisecond)
	}
	if got := s.Stats().Patience; got < 90*time.Millisecond || got > 110*time.Millisecond {
		t.Errorf("clients that left after 100 ms are taken to wait for %v", got)
	}
}

func TestAClassThatWasSlowOnceIsShortAgain(t *testing.T) {
	const slots = 8
	s := limiter.NewSlots(slots, limiter.Queue{}.WithDefaults(), limiter.Adaptive{}.WithDefaults())
	flow, now := limiter.NewFlow(1, 0), int64(1)
	run := func(class limiter.Fingerprint, took time.Duration) {
		r := &told{Request: limiter.Request{Flow: flow, Class: class}}
		r.Waker = r
		s.Enter(&r.Request, now)
		now += int64(took)
		s.Leave(&r.Request, now, limiter.Use{Took: took})
	}
	for range 100 {
		run(1, time.Millisecond)
	}
	run(2, time.Second) // a lock
	for range 20 {
		run(1, time.Millisecond)
		run(2, time.Millisecond)
	}
	for i := range slots - 1 {
		r := &told{Request: limiter.Request{Flow: flow, Class: 2}}
		r.Waker = r
		if v := s.Enter(&r.Request, now); v != limiter.Granted {
			t.Fatalf("number %d of its statements at once gets verdict %v, though slots are free", i+1, v)
		}
	}
}
