package storm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/internal/scram"
	"github.com/weirproxy/weir/pgwire"
)

// Bounds of what happens before the storm.
const (
	loginPatience = 10 * time.Second // of one login
	openers       = 8                // logins at the same time
	farewell      = time.Second      // to say goodbye, which nobody should have to wait for
)

// Progress is how a storm goes, for whoever watches. Rates are of the time since the last report.
type Progress struct {
	Elapsed, Duration      time.Duration // of the load
	Offered, Good, Refused float64       // per second
	TimedOut, Failed       float64       // per second
	P99                    time.Duration // of the good
	InFlight, Waiting      int           // functions under way, and those of them that wait for a connection
}

const progressEvery = 500 * time.Millisecond

// Run lets the storm loose and returns what became of it. The end of ctx interrupts it, which is no error: the result says
// so. It is an error when the plan is wrong (a Mistake) or when a caller cannot log in at all. observe may be nil; it is
// called by one goroutine.
func Run(ctx context.Context, plan Plan, observe func(Progress)) (*Result, error) {
	ready, err := plan.prepare()
	if err != nil {
		return nil, err
	}
	r := newRun(ctx, ready)
	defer r.stop()
	if err := r.open(); err != nil {
		r.finish()
		return nil, err
	}
	r.storm(observe)
	r.finish()
	return r.result(), nil
}

// run is one storm under way.
type run struct {
	plan  *prepared
	ctx   context.Context
	stop  context.CancelFunc
	crews []*crew
	tally *tally

	dialer  dialer
	sockets sockets
	seats   sync.WaitGroup
	cold    int   // kept connections that could not be opened ahead
	coldErr error // the first of their errors

	began    time.Time // of the load
	took     time.Duration
	under    atomic.Int64  // functions under way, and one while there are more to come
	over     chan struct{} // closed when there are none
	cpu      time.Duration // of this process, at the beginning; in the end what the storm took
	perMilli float64       // rows per millisecond of work
}

func newRun(ctx context.Context, plan *prepared) *run {
	ctx, stop := context.WithCancel(ctx)
	r := &run{
		plan: plan, ctx: ctx, stop: stop,
		tally:    newTally(plan),
		sockets:  sockets{open: map[net.Conn]bool{}},
		over:     make(chan struct{}),
		perMilli: plan.RowsPerMillisecond,
	}
	r.dialer = dialer{open: plan.Dial, keys: scram.NewKeys(), server: plan.server}
	if r.dialer.open == nil {
		r.dialer.open = (&net.Dialer{}).DialContext
	}
	for i, c := range plan.crews {
		cr := &crew{run: r, index: i, preparedCaller: c, login: loginOf(plan.dsn, c.Caller)}
		cr.line.open = func() *seat { return cr.newSeat(nil) }
		r.crews = append(r.crews, cr)
	}
	context.AfterFunc(ctx, r.sockets.closeAll)
	return r
}

// now is the time since the load began.
func (r *run) now() time.Duration { return time.Since(r.began) }

// connect opens a connection that an interrupt closes.
func (r *run) connect(who login, deadline time.Time) (*conn, error) {
	var socket net.Conn
	c, err := r.dialer.connect(r.ctx, deadline, who, func(s net.Conn) {
		socket = s
		r.sockets.add(s)
	})
	if socket == nil {
		return nil, err
	}
	if err != nil {
		r.sockets.remove(socket)
		return nil, err
	}
	c.socket = socket
	return c, nil
}

// drop closes a connection as a function does that is no more: nobody says a word.
func (r *run) drop(c *conn) {
	r.sockets.remove(c.socket)
	_ = c.socket.Close()
}

// leave closes a connection as the protocol wants it. The deadline of whoever used it last may be over.
func (r *run) leave(c *conn) {
	_ = c.SetDeadline(time.Now().Add(farewell))
	_, _ = c.Write(terminate) // a server that is gone needs none
	r.drop(c)
}

// open logs each caller in once, measures the work, and opens the connections that are kept.
func (r *run) open() error {
	if err := r.checkFiles(); err != nil {
		return err
	}
	var first []*conn
	defer func() {
		for _, c := range first {
			r.leave(c)
		}
	}()
	for i, cr := range r.crews {
		c, err := r.firstLogin(cr, i == 0)
		if err != nil {
			return fmt.Errorf("caller %s cannot log in at %s: %w", cr.Name, describe(r.plan.dsn), err)
		}
		first = append(first, c)
		if err := r.prepareWork(cr, c); err != nil {
			return err
		}
	}
	if r.plan.Connections == Fresh {
		for _, cr := range r.crews {
			cr.line.room = cr.Connections
		}
		return r.ctx.Err()
	}
	for i, cr := range r.crews {
		r.openKept(cr, first[i])
	}
	first = nil // they have seats now
	return r.ctx.Err()
}

// checkFiles says before the storm what would otherwise come to light in the middle of it.
func (r *run) checkFiles() error {
	var limit unix.Rlimit
	if r.plan.Connections != Kept || unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return nil
	}
	const others = 32 // files of this process
	if count := r.connections(); uint64(count+others) > limit.Cur {
		return fmt.Errorf("%d connections are more than the %d open files that this process may have; raise that with ulimit -n", count, limit.Cur)
	}
	return nil
}

// connections is how many there may be at the same time.
func (r *run) connections() int {
	n := 0
	for _, cr := range r.crews {
		n += cr.Connections
	}
	return n
}

// firstLogin finds the way to the server, when it is the first of all, and tries who the caller says it is.
func (r *run) firstLogin(cr *crew, find bool) (*conn, error) {
	if !find {
		return r.connect(cr.login, time.Now().Add(loginPatience))
	}
	var failures []string
	for _, way := range routes(r.plan.dsn) {
		r.dialer.route = way
		c, err := r.connect(cr.login, time.Now().Add(loginPatience))
		if err == nil {
			if r.plan.Dial == nil { // names are looked up once
				remote := c.socket.RemoteAddr()
				r.dialer.network, r.dialer.address = remote.Network(), remote.String()
			}
			return c, nil
		}
		if !slices.Contains(failures, err.Error()) { // in clear it is often the same as with TLS
			failures = append(failures, err.Error())
		}
		if hasLastWord(err, way) {
			break
		}
	}
	return nil, errors.New(strings.Join(failures, "; "))
}

// hasLastWord says that no other way to the server will do, as libpq and pgx see it. A server may refuse who comes in clear.
func hasLastWord(err error, way route) bool {
	said, ok := errors.AsType[*pgwire.Error](err)
	return ok && (hasPrefix(said.Code, "28P01", "3D000", "42501") || said.Code == "28000" && way.tls != nil)
}

func (r *run) prepareWork(cr *crew, c *conn) (err error) {
	if cr.script != nil {
		return nil
	}
	if r.perMilli == 0 {
		if err := c.SetDeadline(time.Now().Add(calibrationPatience)); err != nil {
			return err
		}
		if r.perMilli, err = calibrate(c); err != nil {
			return fmt.Errorf("measure how much work a millisecond is: %w", err)
		}
	}
	cr.script, err = newScript(workSQL(workRows(cr.Work, r.perMilli)))
	return err
}

// openKept fills the line with free seats. Those whose connection cannot be opened stay cold: a function will try.
func (r *run) openKept(cr *crew, first *conn) {
	conns := make([]*conn, cr.Connections)
	conns[0] = first
	var next atomic.Int64
	var mu sync.Mutex // guards r.cold and r.coldErr
	var opening sync.WaitGroup
	for range openers {
		opening.Go(func() {
			for i := int(next.Add(1)); i < len(conns); i = int(next.Add(1)) {
				c, err := r.connect(cr.login, time.Now().Add(loginPatience))
				if err != nil {
					mu.Lock()
					r.cold++
					if r.coldErr == nil {
						r.coldErr = err
					}
					mu.Unlock()
				}
				conns[i] = c
			}
		})
	}
	opening.Wait()
	cr.line.mu.Lock()
	defer cr.line.mu.Unlock()
	for _, c := range conns {
		cr.line.freeLocked(cr.newSeat(c))
	}
}

// storm runs the schedule and waits for the last function, or for an interrupt.
func (r *run) storm(observe func(Progress)) {
	r.cpu = cpuTime()
	r.began = time.Now()
	r.under.Store(1)
	var watching sync.WaitGroup
	watched := make(chan struct{})
	if observe != nil {
		watching.Go(func() { r.watch(observe, watched) })
	}
	r.schedule()
	r.ended()
	select {
	case <-r.over:
	case <-r.ctx.Done():
	}
	r.took = r.now()
	r.cpu = cpuTime() - r.cpu
	close(watched)
	watching.Wait()
}

// schedule starts each function at its moment.
func (r *run) schedule() {
	next := newSchedule(r.plan)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for at, caller, ok := next.next(); ok; at, caller, ok = next.next() {
		for ahead := at - r.now(); ahead > 0; ahead = at - r.now() {
			timer.Reset(ahead)
			select {
			case <-timer.C:
			case <-r.ctx.Done():
				return
			}
		}
		if r.ctx.Err() != nil {
			return
		}
		r.start(visit{crew: r.crews[caller], at: at, counted: at >= r.plan.Warmup})
	}
	// The load goes on to the end of its last phase.
	for rest := r.plan.lasting - r.now(); rest > 0; rest = r.plan.lasting - r.now() {
		timer.Reset(rest)
		select {
		case <-timer.C:
		case <-r.ctx.Done():
			return
		}
	}
}

func (r *run) start(v visit) {
	r.under.Add(1)
	r.tally.started(&v)
	for gone, ok := v.crew.line.sweep(r.now()); ok; gone, ok = v.crew.line.sweep(r.now()) {
		r.tally.expired(&gone, waiting)
		r.ended()
	}
	late := r.now() - v.at
	if v.crew.line.give(v) {
		r.tally.lagged(late) // its seat cannot tell how much of its wait is the generator's fault
	}
}

// ended takes note that a function has come to its end, whichever.
func (r *run) ended() {
	if r.under.Add(-1) == 0 {
		close(r.over)
	}
}

// retry says whether a function tries again, and after how long.
func (r *run) retry(v *visit, why verdict, left time.Duration) (wait time.Duration, again bool) {
	if !why.retry || v.attempt >= r.plan.Retries {
		return 0, false
	}
	if r.plan.HeedHint && why.wait > 0 {
		wait = why.wait
	} else {
		most := 2 * r.plan.Backoff << min(v.attempt, 10)
		wait = time.Duration(rand.Int64N(int64(most) + 1))
	}
	return wait, wait < left
}

// watch reports progress until done is closed.
func (r *run) watch(observe func(Progress), done <-chan struct{}) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	var last progressCounts
	at := time.Duration(0)
	for {
		select {
		case <-tick.C:
		case <-done:
			return
		}
		now := r.now()
		counts, p99 := r.tally.progress()
		seconds := (now - at).Seconds()
		per := func(now, before uint64) float64 { return float64(now-before) / seconds }
		waiting := 0
		for _, cr := range r.crews {
			waiting += cr.line.length()
		}
		observe(Progress{
			Elapsed: now, Duration: r.plan.lasting,
			Offered: per(counts.offered, last.offered), Good: per(counts.good, last.good), Refused: per(counts.refused, last.refused),
			TimedOut: per(counts.timedOut, last.timedOut), Failed: per(counts.failed, last.failed),
			P99: p99, InFlight: int(counts.inFlight()), Waiting: waiting,
		})
		last, at = counts, now
	}
}

// finish sends everybody home.
func (r *run) finish() {
	interrupted := r.ctx.Err() != nil
	for _, cr := range r.crews {
		cr.line.end()
	}
	if interrupted {
		r.sockets.closeAll()
	}
	r.seats.Wait()
}

// starvedFrom is the lag from which on the generator itself is to blame.
func starvedFrom(deadline time.Duration) time.Duration { return max(10*time.Millisecond, deadline/50) }

func (r *run) result() *Result {
	p, t := r.plan, r.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	counted := p.lasting
	if p.lasting == 0 || r.ctx.Err() != nil {
		counted = r.took
	}
	seconds := max(0, counted-p.Warmup).Seconds()
	result := &Result{
		Name: p.Name, Target: describe(p.dsn), Began: r.began, Seconds: seconds, Interrupted: r.ctx.Err() != nil,
		Setup: Setup{
			Load: p.Load.String(), Connections: string(p.Connections), DeadlineMs: ms(p.Deadline), SayDeadline: p.SayDeadline,
			Retries: p.Retries, HeedHint: p.HeedHint, WorkMs: ms(p.Work), RowsPerMillisecond: r.perMilli, Transactions: p.Transactions,
			WarmupSeconds: p.Warmup.Seconds(), Seed: p.Seed, Count: r.connections(),
		},
		Callers: []CallerResult{},
	}
	whole := callerTally{refusals: map[cause]*histogram{}, errors: map[cause]uint64{}}
	var parts []float64
	deadline := p.Deadline
	for i := range t.callers {
		c := &t.callers[i]
		cr := CallerResult{Name: r.crews[i].Name, Weight: r.crews[i].Weight, Outcome: c.outcome(seconds)}
		cr.SeriesOffered, cr.SeriesGood = t.callerLists(i)
		result.Callers = append(result.Callers, cr)
		parts = append(parts, float64(c.good)/cr.Weight)
		whole.add(c)
		deadline = min(deadline, r.crews[i].Deadline)
	}
	result.Outcome = whole.outcome(seconds)
	result.Fairness = Jain(parts)
	result.Latencies = whole.latency.coarse()
	result.Series = t.lists()
	result.Generator = Generator{
		Lag: quantiles(&t.lag), Starved: t.lag.quantile(0.99) > starvedFrom(deadline),
		CPUSeconds: r.cpu.Seconds(), Processors: runtime.GOMAXPROCS(0),
	}
	if t.attempts > 0 {
		result.Generator.CPUPerAttempt = float64(r.cpu.Microseconds()) / float64(t.attempts)
	}
	result.Warnings = r.warnings(result)
	return result
}

func (r *run) warnings(result *Result) []string {
	var all []string
	if result.Generator.Starved {
		all = append(all, fmt.Sprintf("the generator fell behind its own schedule (99%% within %.1f ms, at most %.1f ms): it lacks processor time, so do not trust these figures",
			result.Generator.Lag.P99, result.Generator.Lag.Max))
	}
	waited := 0
	for _, cr := range r.crews {
		waited += cr.line.waitedSoFar()
	}
	if waited > 0 && r.plan.Connections == Fresh {
		all = append(all, fmt.Sprintf("%d times a function had to wait until there were fewer than %d connections, which is the plan's limit and not the target's",
			waited, result.Setup.Count))
	}
	if r.cold > 0 {
		all = append(all, fmt.Sprintf("%d of %d connections could not be opened before the storm: %s", r.cold, result.Setup.Count, complaint(r.coldErr)))
	}
	return all
}

// cpuTime is what this process has used so far.
func cpuTime() time.Duration {
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
