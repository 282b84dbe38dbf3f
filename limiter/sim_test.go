package limiter_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/weirproxy/weir/limiter"
)

var errDown = errors.New("the store is down")

const (
	fresh    = time.Second     // a weir's view of the members holds this long
	memberOf = 3 * time.Second // a silent weir is forgotten after this
)

// store is a model of the shared bucket and of the list of members, with the arithmetic of the script that runs in Redis.
type store struct {
	mu      sync.Mutex
	rng     *rand.Rand
	latency func(*rand.Rand) time.Duration // of one way
	down    bool                           // refuses everything
	lossy   float64                        // chance of a reply that gets lost after the grant
	epoch   time.Time
	tat     time.Duration // after epoch: when the bucket will be full again, less its capacity in time
	seen    map[int]time.Time
	calls   int
}

func newStore(seed uint64) *store {
	return &store{
		rng:     rand.New(rand.NewPCG(seed, 1)),
		latency: func(*rand.Rand) time.Duration { return 200 * time.Microsecond },
		epoch:   time.Now(),
		seen:    map[int]time.Time{},
	}
}

func (s *store) setDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

func (s *store) called() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *store) travel() {
	s.mu.Lock()
	d := s.latency(s.rng)
	s.mu.Unlock()
	time.Sleep(d)
}

func (s *store) lease(_ context.Context, _ string, perSecond float64, burst, want int) (int, time.Duration, error) {
	s.travel()
	granted, retry, err := s.charge(perSecond, burst, want)
	s.travel()
	return granted, retry, err
}

func (s *store) charge(perSecond float64, burst, want int) (int, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return 0, 0, errDown
	}
	s.calls++
	each := float64(time.Second) / perSecond
	tau := time.Duration(math.Ceil(float64(burst) * each))
	now := time.Since(s.epoch)
	s.tat = max(s.tat, now)
	granted := int(float64(now+tau-s.tat) / each)
	if members := len(s.seen); granted > 0 && granted < burst/2 && members > 0 {
		granted = min(granted, max(1, int(math.Ceil(2*float64(granted)/float64(members)))))
	}
	granted = max(0, min(granted, want))
	s.tat += time.Duration(math.Ceil(float64(granted) * each))
	if s.rng.Float64() < s.lossy {
		return 0, 0, errDown
	}
	return granted, max(0, s.tat+time.Duration(math.Ceil(each))-tau-now), nil
}

// beat registers a weir and counts the weirs that were heard of lately.
func (s *store) beat(id int) (members int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return 0, errDown
	}
	s.seen[id] = time.Now()
	for id, at := range s.seen {
		if time.Since(at) > memberOf {
			delete(s.seen, id)
		}
	}
	return len(s.seen), nil
}

// weir is one member of the simulated fleet.
type weir struct {
	*limiter.Leased
	id    int
	store *store
	stop  context.CancelFunc
	done  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	cut     bool       // from the store
	members int
	sent    time.Time // of the last beat that was answered
	joined  time.Time // the first beat of an unbroken row was answered
}

func startWeir(s *store, id int, rate limiter.Rate) *weir {
	ctx, stop := context.WithCancel(context.Background())
	w := &weir{id: id, store: s, stop: stop}
	w.done.Go(func() { w.beats(ctx) })
	w.Leased = limiter.NewLeased("orders", rate, w.lease, w.known, nil)
	return w
}

// crash ends the weir without telling the store.
func (w *weir) crash() {
	w.stop()
	w.Close()
	w.done.Wait()
}

func (w *weir) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
}

func (w *weir) isCut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut
}

func (w *weir) lease(ctx context.Context, bucket string, perSecond float64, burst, want int) (int, time.Duration, error) {
	if w.isCut() {
		time.Sleep(20 * time.Millisecond)
		return 0, 0, errDown
	}
	return w.store.lease(ctx, bucket, perSecond, burst, want)
}

func (w *weir) beats(ctx context.Context) {
	for ctx.Err() == nil {
		sent := time.Now()
		if !w.isCut() {
			w.store.travel()
			members, err := w.store.beat(w.id)
			w.store.travel()
			if err == nil {
				w.heard(members, sent)
			}
		}
		w.store.mu.Lock()
		d := time.Duration((0.8 + 0.4*w.store.rng.Float64()) * float64(250*time.Millisecond))
		w.store.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
}

func (w *weir) heard(members int, sent time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sent.IsZero() || sent.Sub(w.sent) > fresh {
		w.joined = time.Now()
	}
	w.members, w.sent = members, sent
}

func (w *weir) known(now time.Time) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sent.IsZero() || now.Sub(w.sent) > fresh || now.Sub(w.joined) < fresh {
		return 0
	}
	return w.members
}

// ledger is when tokens were taken.
type ledger struct {
	mu    sync.Mutex
	start time.Time
	taken []time.Duration
}

func (l *ledger) add() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken = append(l.taken, time.Since(l.start))
}

// excess is by how many tokens the worst period exceeded burst + perSecond·W, or the negative of what it left unused.
func (l *ledger) excess(burst, perSecond float64) float64 {
	worst, lowest := math.Inf(-1), math.Inf(1)
	for i, at := range l.taken {
		level := float64(i) - perSecond*at.Seconds()
		lowest = min(lowest, level)
		worst = max(worst, level-lowest+1)
	}
	return worst - burst
}
