// Package fleet is what several weirs know together, through a Redis that they share: who they are, the buckets they lease
// tokens from, and events such as a breaker that has opened.
//
// Nobody ever waits for Redis. Two goroutines talk to it: one beats, which keeps this weir a member and brings what it may
// have missed, and one listens. Whatever else is asked for is answered from what the last beat said, or is done by
// goroutines that have nobody waiting for them. A Redis that is out of reach is no error: the fleet says so, goes on trying,
// and each weir goes on alone.
//
// A nil *Fleet is a process that is the whole fleet. All methods work on it.
package fleet

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// ErrDown is the error of what needs Redis while that is out of reach.
var ErrDown = errors.New("the fleet's Redis is out of reach")

const (
	beatEvery = 250 * time.Millisecond // give or take a fifth
	fresh     = time.Second            // what the last beat said holds for so long, from when it was sent
	memberTTL = 3 * time.Second        // a silent weir is a member for so long, by Redis' clock
	lookGap   = 20 * time.Millisecond  // between two beats at least, however often we are asked to look
	epochTTL  = time.Hour              // without any weir, until Redis is taken for new
)

//go:embed lease.lua
var leaseLua string

//go:embed beat.lua
var beatLua string

//go:embed announce.lua
var announceLua string

// Fleet is this weir's membership of a fleet. It is safe for concurrent use.
type Fleet struct {
	id     string
	log    *slog.Logger
	client redis.UniversalClient
	prefix string // of all keys; its hash tag keeps them in one slot of a cluster

	leaseScript, beatScript, announceScript *redis.Script

	view   atomic.Pointer[view] // nil while not a member
	up     atomic.Bool          // the last beat was answered
	seen   atomic.Bool          // some beat was
	began  chan struct{}        // closed after the first beat, answered or not
	urgent chan struct{}        // there is something to announce
	look   chan struct{}        // somebody says that the next beat has something new

	mourned bool // only the keeper's: it has been said that Redis is out of reach

	stop    context.CancelFunc
	running sync.WaitGroup

	mu          sync.Mutex // guards what follows; never held across I/O or a callback
	subscribers []func(Event)
	outgoing    map[string]announcement // by resource
	heard       map[string]verdict      // the latest of each resource
	leased      map[string]int64        // tokens granted by bucket
	beats       histogram
}

// view is what a beat said. It is never changed, only replaced.
type view struct {
	members int
	sent    time.Time // when the beat was
	joined  time.Time // since when beats were answered without a break
}

// Stats is what a Fleet counts.
type Stats struct {
	Up           bool             // the last beat was answered
	Members      int              // live weirs as of the last beat that was answered, this one included
	BeatSeconds  Histogram        // how long beats took to be answered
	TokensLeased map[string]int64 // by bucket
}

// Open joins the fleet that cfg names. The id tells this weir from others in what people read; it is made unique. Open returns
// after the first beat or when ctx ends, whether Redis is there or not; the only error is a cfg that cannot work. Without a
// Redis in cfg it returns nil, the fleet of one.
func Open(ctx context.Context, cfg Config, id string, log *slog.Logger) (*Fleet, error) {
	cfg = cfg.WithDefaults()
	if cfg.Redis == "" {
		return nil, nil
	}
	var problems []error
	cfg.Validate(func(key, what, expected string) {
		problems = append(problems, fmt.Errorf("fleet.%s %s; expected %s", key, what, expected))
	})
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	client, err := newClient(cfg.Redis)
	if err != nil {
		return nil, fmt.Errorf("fleet.redis: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	f := &Fleet{
		id:     id + "/" + rand.Text()[:10],
		log:    log,
		client: client,
		prefix: "weir:{" + cfg.Name + "}:",

		leaseScript:    redis.NewScript(leaseLua),
		beatScript:     redis.NewScript(beatLua),
		announceScript: redis.NewScript(announceLua),

		began:    make(chan struct{}),
		urgent:   make(chan struct{}, 1),
		look:     make(chan struct{}, 1),
		stop:     stop,
		outgoing: map[string]announcement{},
		heard:    map[string]verdict{},
		leased:   map[string]int64{},
	}
	f.running.Go(func() { f.keep(running) })
	f.running.Go(func() { f.listen(running) })
	select {
	case <-f.began:
	case <-ctx.Done():
	}
	return f, nil
}

// Close leaves the fleet and waits for what Open started.
func (f *Fleet) Close() {
	if f == nil {
		return
	}
	f.stop()
	f.running.Wait()
	f.leave()
	_ = f.client.Close()
}

// leave spares the others the wait until this weir is forgotten, if Redis is there to hear it.
func (f *Fleet) leave() {
	f.view.Store(nil)
	if f.up.Swap(false) {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		_ = f.client.ZRem(ctx, f.prefix+"members", f.id).Err()
	}
}

// Members is the number of live weirs, this one included, or 0 while that is not known for sure. Every weir that gets an
// answer now is counted in every answer that any weir gets now: an answer is at most as old as fresh, and nobody gets one
// before it has been a member for longer than that. It is an atomic load.
func (f *Fleet) Members(now time.Time) int {
	if f == nil {
		return 1
	}
	v := f.view.Load()
	if v == nil || now.Sub(v.sent) >= fresh || now.Sub(v.joined) <= fresh {
		return 0
	}
	return v.members
}

// Stats says what happened so far.
func (f *Fleet) Stats() Stats {
	if f == nil {
		return Stats{Members: 1}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Stats{Up: f.up.Load(), BeatSeconds: f.beats.snapshot(), TokensLeased: maps.Clone(f.leased)}
	if v := f.view.Load(); v != nil {
		s.Members = v.members
	}
	return s
}

// Lease asks the shared bucket for up to want tokens, and is what limiter calls a LeaseFunc. It blocks as long as Redis may
// take, and fails at once while Redis is known to be out of reach.
func (f *Fleet) Lease(ctx context.Context, bucket string, perSecond float64, burst, want int) (granted int, retryAfter time.Duration, err error) {
	if f == nil {
		return 0, 0, ErrDown
	}
	select {
	case <-f.began:
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	if !f.up.Load() {
		return 0, 0, ErrDown
	}
	share := 1.0
	if v := f.view.Load(); v != nil {
		share = 1 / float64(max(1, v.members))
	}
	reply, err := f.leaseScript.Run(ctx, f.client, []string{f.prefix + "bucket:" + bucket, f.prefix + "epoch"},
		perSecond, burst, want, share, flag(f.seen.Load()), epochTTL.Milliseconds()).Int64Slice()
	if err == nil {
		err = checkLease(reply, perSecond, want)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("lease tokens of %s: %w", bucket, err)
	}
	f.mu.Lock()
	f.leased[bucket] += reply[0]
	f.mu.Unlock()
	return int(reply[0]), time.Duration(reply[1]) * time.Microsecond, nil
}

// checkLease says what is wrong with lease.lua's reply. Tokens that nobody asked for, or a wait that cannot be, would be believed
// by a limiter.
func checkLease(reply []int64, perSecond float64, want int) error {
	switch {
	case len(reply) != 2:
		return fmt.Errorf("a reply of %d numbers", len(reply))
	case reply[0] < 0 || reply[0] > int64(want):
		return fmt.Errorf("a reply of %d tokens where %d were asked for", reply[0], want)
	case reply[1] < 0 || float64(reply[1]) > 1e6*(1+2/perSecond) || reply[1] > maxWait.Microseconds():
		return fmt.Errorf("a reply of %d us to wait for a token at %g/s", reply[1], perSecond)
	}
	return nil
}

// maxWait is the longest wait for a token that can be said.
const maxWait = time.Duration(math.MaxInt64)

// keep beats until ctx ends, and announces what is urgent in between.
func (f *Fleet) keep(ctx context.Context) {
	for first := true; ctx.Err() == nil; first = false {
		f.beat(ctx)
		if first {
			close(f.began)
		}
		f.announce(ctx)
		f.rest(ctx)
	}
}

// rest returns when the next beat is due, when there is something to look at, or when ctx ends. Anybody may say that there is, so
// it has an effect only every now and then.
func (f *Fleet) rest(ctx context.Context) {
	gap, due := time.NewTimer(lookGap), time.NewTimer(time.Duration((0.8+0.4*mathrand.Float64())*float64(beatEvery)))
	defer gap.Stop()
	defer due.Stop()
	f.waitFor(ctx, gap.C, nil)
	f.waitFor(ctx, due.C, f.look)
}

// waitFor announces what is urgent until one of these comes.
func (f *Fleet) waitFor(ctx context.Context, due <-chan time.Time, look <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-due:
			return
		case <-look:
			return
		case <-f.urgent:
			f.announce(ctx)
		}
	}
}

// beat tells Redis that this weir is alive, and takes what it answers.
func (f *Fleet) beat(ctx context.Context) {
	sent := time.Now()
	reply, err := f.beatScript.Run(ctx, f.client, []string{f.prefix + "members", f.prefix + "epoch", f.prefix + "breakers"},
		f.id, memberTTL.Microseconds(), flag(f.seen.Load()), epochTTL.Milliseconds()).Slice()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		f.lost(err)
		return
	}
	members, verdicts, err := readBeat(reply)
	if err != nil {
		f.lost(err)
		return
	}
	f.reached(members, sent)
	for _, v := range verdicts {
		f.hear(v)
	}
}

// readBeat takes beat.lua's reply apart. A number of members that cannot be is an error, for shares are made of it; a verdict that
// cannot be is left out.
func readBeat(reply []any) (members int, verdicts []verdict, err error) {
	number := func(i int) int64 {
		if i >= len(reply) {
			return 0
		}
		n, _ := reply[i].(int64)
		return n
	}
	if n := number(0); n < 1 || n > maxMembers {
		return 0, nil, fmt.Errorf("a beat was answered with %d members", n)
	}
	now := time.Now()
	for i := 1; i+2 < len(reply); i += 3 {
		version, left := number(i), number(i+1)
		payload, ok := reply[i+2].(string)
		if !ok || version < 1 || version >= maxVersion || left < 1 {
			continue
		}
		left = min(left, maxHold.Microseconds())
		verdicts = append(verdicts, verdict{version: version, till: now.Add(time.Duration(left) * time.Microsecond), payload: payload})
	}
	return int(number(0)), verdicts, nil
}

// lost and reached take note of whether Redis is there, and say so when that has changed.
func (f *Fleet) lost(err error) {
	f.up.Store(false)
	if !f.mourned {
		f.log.Warn("the fleet's Redis is out of reach, going on alone", "error", err)
	}
	f.mourned = true
}

func (f *Fleet) reached(members int, sent time.Time) {
	now := time.Now()
	next := &view{members: max(1, members), sent: sent, joined: now}
	if last := f.view.Load(); last != nil && sent.Sub(last.sent) < fresh {
		next.joined = last.joined
	}
	f.view.Store(next)
	f.mu.Lock()
	f.beats.observe(now.Sub(sent))
	f.mu.Unlock()
	if first := !f.seen.Swap(true); first || f.mourned {
		f.log.Info("the fleet's Redis is in reach", "member", f.id, "members", members)
	}
	f.mourned = false
	f.up.Store(true)
}

// flag is a truth for a script.
func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
