package limiter

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// LeaseFunc asks the bucket that all weirs share for up to want tokens. It grants as many as there are, none included, and
// says when there will be another one. It may block, and fails while the store is out of reach. It is written in plain
// numbers so that whoever keeps such buckets need not know this package.
type LeaseFunc func(ctx context.Context, bucket string, perSecond float64, burst, want int) (granted int, retryAfter time.Duration, err error)

const (
	// Lease is how long tokens beyond the reserve may be used, by the local monotonic clock from when they were asked for.
	Lease = 50 * time.Millisecond

	refillEvery = Lease / 2              // between two leases while there is enough
	scarceEvery = Lease / 10             // at most, between two leases while the shared bucket is empty
	scarceFloor = time.Millisecond / 4   // at least
	longestRest = time.Second            // even an empty bucket is asked this often
	firstRetry  = 100 * time.Millisecond // after a lease that failed; doubles up to lastRetry
	lastRetry   = 500 * time.Millisecond
	memory      = 100 * time.Millisecond // how far back demand is remembered

	// cautiousShare is what a weir may use that never learned how many it shares with: fleets of up to eight that start
	// without their store stay within the rate.
	cautiousShare = 1.0 / 8
)

// Leased is this weir's part of a bucket that all weirs of a fleet share.
//
// # What a weir holds
//
// Half of the burst stays in the shared bucket, the other half is split into reserves: each of N weirs keeps up to
// burst/2/N tokens, at least one, bought from the shared bucket beforehand. They do not expire, so the first transactions
// after any rest find a token although nobody ever waits for the store. A weir whose demand needs more than its reserve
// within one Lease leases tokens on top, which expire Lease after they were asked for. A goroutine of its own buys and
// leases, one call at a time and only while there is demand: a bucket at rest costs nothing.
//
// # What the fleet uses
//
// In any period W, the N weirs together start at most
//
//	A(W) ≤ burst + N + PerSecond·(W + Lease)
//
// transactions, however many weirs come, crash or are paused meanwhile, and PerSecond in the long run. For a token used in
// the period was either granted by the shared bucket in the period or at most Lease before it, and that grants no more than
// burst/2 + PerSecond·(W+Lease); or it was in a reserve when the period began, and all reserves together hold no more than
// burst/2 + N (the N only where the burst has less than two tokens for each weir, or for weirs that have just joined). What a
// crashed weir held is lost, never used twice. A token that comes back unused within a tenth of a Lease may be used for that much
// longer each time, at most until the lease after the one it was from is over.
//
// # Without the store
//
// When a lease fails, the weir goes on alone with its last share: a Local bucket of 1/N of rate and burst with N as it last
// was, filled with what was in its reserve, until a lease succeeds. One that never knew N takes an eighth, and one that has
// just started begins with one token. That adds to the bound what the weirs use alone: each at most its share of
// burst + PerSecond·W, so the rate stays PerSecond if all are cut off, and is below twice that while only some are.
type Leased struct {
	name    string
	rate    Rate // of the fleet
	lease   LeaseFunc
	members func(now time.Time) int
	log     *slog.Logger
	born    time.Time // lent counts its milliseconds from here

	alone   atomic.Pointer[Local] // what Take uses while the store is out of reach, else nil
	lent    atomic.Uint64         // tokens that expire: see pack
	reserve atomic.Int64          // tokens that do not; above what they may be, the excess is void
	refused atomic.Int64          // counts refusals; they are demand too
	retryAt atomic.Int64          // nanoseconds after born at which the next token is to be expected

	asleep     atomic.Bool   // the keeper wants to hear of the next token taken,
	lowReserve atomic.Int64  // or of a reserve
	lowLent    atomic.Int64  // or lease that has sunk to this
	wake       chan struct{} // tells it

	granted atomic.Int64 // by the store since the start

	stop    context.CancelFunc
	running sync.WaitGroup
	keeper  keeper
}

// keeper is what only the keeper goroutine knows.
type keeper struct {
	demand     float64 // tokens asked for per second, lately
	since      time.Time
	held, lent int64 // the reserve and the lease as they were then
	refused    int64
	roundTrip  time.Duration // of the last lease
	members    int           // when last known
	failures   int           // of leases, in a row
}

// LeasedStats is what a Leased counts.
type LeasedStats struct {
	Granted int64 // tokens the store granted since the start
	Alone   bool  // the store is out of reach, the weir goes on with its share
}

// NewLeased starts this weir's part of the bucket called name, and its goroutine, which Close stops. The members function
// says how many weirs share the bucket, or 0 while that is not known for sure: every weir that gets an answer must be counted
// in everybody's answer. It must be quick and safe for concurrent use; nil stands for a fleet of one.
func NewLeased(name string, rate Rate, lease LeaseFunc, members func(now time.Time) int, log *slog.Logger) *Leased {
	if members == nil {
		members = func(time.Time) int { return 1 }
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	rate = rate.WithDefaults()
	ctx, stop := context.WithCancel(context.Background())
	l := &Leased{
		name: name, rate: rate, lease: lease, members: members, log: log,
		born: time.Now(), wake: make(chan struct{}, 1), stop: stop,
	}
	l.keeper.since = l.born
	l.goAlone(cautiousShare, 1)
	l.running.Go(func() { l.keep(ctx) })
	return l
}

// Close stops the goroutine and waits for it. Take goes on with what is left.
func (l *Leased) Close() {
	l.stop()
	l.running.Wait()
}

// Stats says what happened so far.
func (l *Leased) Stats() LeasedStats {
	return LeasedStats{Granted: l.granted.Load(), Alone: l.alone.Load() != nil}
}

// Take implements Bucket. It costs a look at the clock and one atomic exchange.
func (l *Leased) Take() (retryAfter time.Duration, ok bool) {
	if alone := l.alone.Load(); alone != nil {
		return alone.Take()
	}
	now := time.Now()
	if left, ok := l.takeLent(now); ok {
		if left <= l.lowLent.Load() {
			l.poke()
		}
		return 0, true
	}
	if left, ok := l.takeReserve(now); ok {
		if left <= l.lowReserve.Load() || l.asleep.Load() {
			l.poke()
		}
		return 0, true
	}
	l.refused.Add(1)
	l.poke()
	return max(soonest, time.Duration(l.retryAt.Load())-now.Sub(l.born)), false
}

func (l *Leased) takeLent(now time.Time) (left int64, ok bool) {
	for {
		word := l.lent.Load()
		n := l.unpack(word, now)
		if n == 0 {
			return 0, false
		}
		if l.lent.CompareAndSwap(word, word-1) {
			return n - 1, true
		}
	}
}

func (l *Leased) takeReserve(now time.Time) (left int64, ok bool) {
	if l.reserve.Load() <= 0 {
		return 0, false
	}
	most := l.mostReserve(l.members(now))
	for {
		held := l.reserve.Load()
		n := min(held, most)
		if n <= 0 {
			return 0, false
		}
		if l.reserve.CompareAndSwap(held, n-1) {
			return n - 1, true
		}
	}
}

// atOnce is how soon a token must come back to go to the lease again. It may then be used for as much longer.
const atOnce = Lease / 10

// Return implements Bucket. What comes back at once goes to the lease; later, when that may be over, to the reserve as far as
// there is room, and what is left is void.
func (l *Leased) Return(ago time.Duration) {
	if alone := l.alone.Load(); alone != nil {
		alone.Return(ago)
		return
	}
	now := time.Now()
	if ago < atOnce && l.relend(now) {
		return
	}
	for most := l.mostReserve(l.members(now)); ; {
		held := l.reserve.Load()
		if held >= most || l.reserve.CompareAndSwap(held, held+1) {
			return
		}
	}
}

// relend puts a token back into the lease, unless that is over or was all used.
func (l *Leased) relend(now time.Time) bool {
	for {
		word := l.lent.Load()
		if n := l.unpack(word, now); uint64(now.Sub(l.born)/time.Millisecond) >= word>>tokenBits || n == maxLent {
			return false
		}
		if l.lent.CompareAndSwap(word, word+1) {
			return true
		}
	}
}

// mostReserve is how many tokens one of so many weirs may keep.
func (l *Leased) mostReserve(members int) int64 {
	if members == 0 {
		return 1
	}
	return max(1, int64(l.rate.Burst/2/members))
}

// sharedBurst is the size of the shared bucket: the burst without the half that is kept in reserves.
func (l *Leased) sharedBurst() int { return l.rate.Burst - l.rate.Burst/2 }

// poke wakes the keeper. While it is awake and busy this costs next to nothing.
func (l *Leased) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// A word of lent holds the number of tokens in its low bits and above them the millisecond after born at which they expire,
// so that one exchange sees both.
const (
	tokenBits = 24
	maxLent   = 1<<tokenBits - 1
)

func (l *Leased) pack(tokens int64, expires time.Time) uint64 {
	return uint64(expires.Sub(l.born)/time.Millisecond)<<tokenBits | uint64(tokens)
}

func (l *Leased) unpack(word uint64, now time.Time) (tokens int64) {
	if uint64(now.Sub(l.born)/time.Millisecond) >= word>>tokenBits {
		return 0
	}
	return int64(word & maxLent)
}

// keep renews what Take uses up, until ctx ends.
func (l *Leased) keep(ctx context.Context) {
	for ctx.Err() == nil {
		rest, firm := l.renew(ctx)
		l.rest(ctx, rest, firm)
		if l.rested() {
			l.sleep(ctx)
		}
	}
}

// sleep returns when somebody takes a token, or ctx ends.
func (l *Leased) sleep(ctx context.Context) {
	l.asleep.Store(true)
	defer l.asleep.Store(false)
	select {
	case <-ctx.Done():
	case <-l.wake:
	}
}

// rest returns after d, when ctx ends, or, unless it is firm, when somebody pokes.
func (l *Leased) rest(ctx context.Context, d time.Duration, firm bool) {
	wake := l.wake
	if firm {
		wake = nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-timer.C:
	}
}

// rested reports that nobody has asked for a token since the last renewal and that the reserve is full.
func (l *Leased) rested() bool {
	held := l.reserve.Load()
	return l.alone.Load() == nil && held == l.keeper.held && l.refused.Load() == l.keeper.refused &&
		held >= l.mostReserve(l.members(time.Now()))
}

// renew fills the reserve and, where demand asks for it, leases tokens on top, with one call of the store at most. It says
// how long to rest, and whether firmly, because no earlier call could bring more.
func (l *Leased) renew(ctx context.Context) (rest time.Duration, firm bool) {
	now := time.Now()
	members := l.members(now)
	if members > 0 {
		l.keeper.members = members
	}
	most := l.mostReserve(members)
	l.learn(now)

	toReserve := l.settle(now, most)
	toLend := l.shortfall(now, most)
	if toReserve+toLend == 0 {
		l.remember(now)
		return refillEvery, false
	}

	granted, retryAfter, err := l.lease(ctx, l.name, l.rate.PerSecond, l.sharedBurst(), int(toReserve+toLend))
	if ctx.Err() != nil {
		return 0, true
	}
	if err != nil {
		return l.failed(err), true
	}
	l.keeper.roundTrip = time.Since(now)
	l.granted.Add(int64(granted))
	l.store(int64(granted), toReserve, now.Add(Lease))
	l.remember(time.Now())
	l.succeeded()

	if int64(granted) == toReserve+toLend {
		l.retryAt.Store(0)
		return refillEvery, false
	}
	rest = max(l.scarceRest(), retryAfter)
	l.retryAt.Store(int64(time.Since(l.born) + rest))
	return min(rest, longestRest), true
}

// scarceRest is how long to leave an empty bucket to fill: so long that a call is worth it, so short that it cannot run
// over, and never in step with the other weirs, of which the first to ask would always be the same.
func (l *Leased) scarceRest() time.Duration {
	half := time.Duration(float64(l.sharedBurst()) / 2 / l.rate.PerSecond * float64(time.Second))
	return time.Duration(float64(min(max(half, scarceFloor), scarceEvery)) * (0.5 + rand.Float64()))
}

// learn brings the demand up to date with what was taken and refused since remember.
func (l *Leased) learn(now time.Time) {
	k := &l.keeper
	asked := l.refused.Load() - k.refused
	asked += max(0, k.held-l.reserve.Load())
	asked += max(0, k.lent-int64(l.lent.Load()&maxLent))
	elapsed := now.Sub(k.since).Seconds()
	k.demand = (k.demand*memory.Seconds() + float64(asked)) / (memory.Seconds() + elapsed)
}

func (l *Leased) remember(now time.Time) {
	k := &l.keeper
	k.since = now
	k.held = l.reserve.Load()
	k.lent = int64(l.lent.Load() & maxLent)
	k.refused = l.refused.Load()
}

// settle cuts the reserve to what it may be, fills it from a lease that is about to end, and says how many tokens are still
// missing in it.
func (l *Leased) settle(now time.Time, most int64) (missing int64) {
	for {
		held := l.reserve.Load()
		if held <= most || l.reserve.CompareAndSwap(held, most) {
			break
		}
	}
	for l.reserve.Load() < most && l.ending(now) {
		if _, ok := l.takeLent(now); !ok {
			break
		}
		l.reserve.Add(1)
	}
	return max(0, most-l.reserve.Load())
}

// ending reports that the lease is used up or over by the time another one could be here.
func (l *Leased) ending(now time.Time) bool {
	soon := now.Add(2*l.keeper.roundTrip + time.Millisecond)
	return l.unpack(l.lent.Load(), soon) <= l.lowLent.Load()
}

// shortfall is how many tokens demand needs within a Lease beyond the reserve, once the last lease is ending.
func (l *Leased) shortfall(now time.Time, most int64) int64 {
	k := &l.keeper
	need := int64(k.demand*Lease.Seconds()) - most
	if need <= 0 || k.roundTrip >= Lease || !l.ending(now) {
		return 0
	}
	return min(need, maxLent)
}

// store puts granted tokens into the reserve as far as they were meant for it, and lends the rest until expires.
func (l *Leased) store(granted, toReserve int64, expires time.Time) {
	kept := min(granted, toReserve)
	held := l.reserve.Add(kept)
	l.lowReserve.Store(held / 2)
	if lent := granted - kept; lent > 0 {
		ahead := 2*l.keeper.roundTrip + time.Millisecond
		l.lowLent.Store(min(lent/2, int64(l.keeper.demand*ahead.Seconds())))
		l.lent.Store(l.pack(lent, expires))
	}
}

// succeeded ends going on alone, and says so if it had been said.
func (l *Leased) succeeded() {
	l.alone.Store(nil)
	if l.keeper.failures > 0 {
		l.log.Info("the fleet's rate limit is in reach again", "resource", l.name)
	}
	l.keeper.failures = 0
}

// failed goes on alone, and says so the first time.
func (l *Leased) failed(err error) (retry time.Duration) {
	k := &l.keeper
	k.failures++
	if k.failures == 1 {
		share := cautiousShare
		if k.members > 0 {
			share = 1 / float64(k.members)
		}
		if l.alone.Load() == nil { // else it never was otherwise
			l.goAlone(share, l.giveUp())
		}
		l.log.Warn("the fleet's rate limit is out of reach, going on alone with a share of it",
			"resource", l.name, "share", share, "error", err)
	}
	retry = min(lastRetry, firstRetry<<min(k.failures-1, 10))
	return time.Duration(float64(retry) * (0.8 + 0.4*rand.Float64()))
}

// giveUp drops the lease, which must not outlive its date, empties the reserve, and says how much was in it.
func (l *Leased) giveUp() int {
	held := min(l.reserve.Swap(0), l.mostReserve(l.members(time.Now())))
	l.lent.Store(0)
	l.remember(time.Now())
	return int(held)
}

// goAlone makes Take use a bucket of its own: a share of the fleet's, with so many tokens to begin with.
func (l *Leased) goAlone(share float64, tokens int) {
	alone := NewLocal(Rate{
		PerSecond: share * l.rate.PerSecond,
		Burst:     max(1, int(share*float64(l.rate.Burst))),
	}, nil)
	alone.leave(tokens)
	l.alone.Store(alone)
}
