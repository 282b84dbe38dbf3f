package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weirproxy/weir/storm"
)

// What functions of the storms are like, where a scenario says nothing else.
const (
	keptConnections  = 300
	freshConnections = 1000 // at the same time
	functionDeadline = time.Second
	leastWork        = 3 // milliseconds of processor time
	mostWork         = 5
)

// Sides that only storms tell apart.
const (
	impatient = "PgBouncer, query_wait_timeout=1"
	told      = "weir, told the deadline"
)

// colours are those of the sides in all pictures.
var colours = map[string]int{weir: 1, pgbouncer: 2, told: 3, impatient: 4, direct: 6}

// scenarios are what overload measures, in this order.
var scenarios = []struct {
	name string
	run  func(*stage, context.Context) error
}{
	{"closed", (*stage).closed},
	{"think", (*stage).think},
	{"stall", (*stage).stall},
	{"kept", (*stage).kept},
	{"fresh", (*stage).fresh},
	{"step", (*stage).step},
	{"flood", (*stage).flood},
	{"priorities", (*stage).priorities},
	{"reports", (*stage).reports},
	{"half", (*stage).half},
	{"cost", (*stage).cost},
	{"ablations", (*stage).ablations},
}

func scenarioNames() (names []string) {
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return names
}

// wantedScenarios reads the option -scenarios.
func wantedScenarios(text string) ([]string, error) {
	names := scenarioNames()
	if text == "all" {
		return names, nil
	}
	wanted := strings.Split(text, ",")
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("-scenarios %s: they are %s", name, strings.Join(names, ", "))
		}
	}
	return wanted, nil
}

// overloadCan says what keeps overload from being measured at all.
func overloadCan(scenarios string) error {
	if _, err := wantedScenarios(scenarios); err != nil {
		return err
	}
	_, _, err := twoProcessors()
	return err
}

// stage is where storms take place: PostgreSQL on one processor, everybody else on another.
type stage struct {
	*bench
	postgresOn int           // its processor
	rows       float64       // that the server counts in a millisecond
	sql        string        // what functions ask
	capacity   float64       // functions per second that the server does at best: 1×
	later      []float64     // the same after each scenario
	noticed    []observation // what was odd, each once
}

// observation is something odd, and how often it was seen.
type observation struct {
	text  string
	count int
}

// overload is how much useful work is done when more is asked for than PostgreSQL can do.
func (b *bench) overload(ctx context.Context) error {
	wanted, err := wantedScenarios(b.scenarios)
	if err != nil {
		return err
	}
	b.results.marks, b.results.beside = overloadMarks, "beside it"
	st, err := b.newStage(ctx)
	if err != nil {
		return err
	}
	for _, s := range scenarios {
		if !slices.Contains(wanted, s.name) {
			continue
		}
		if err := s.run(st, ctx); err != nil {
			if ctx.Err() != nil {
				return err
			}
			st.progress("%s failed: %v", s.name, err)
			st.results.failures = append(st.results.failures, s.name+": "+err.Error())
		}
		now, err := st.tryCapacity(ctx, time.Second)
		if err != nil {
			return err
		}
		st.later = append(st.later, now)
	}
	st.reportDrift()
	st.reportNoticed()
	return nil
}

// mostDrift is the part of its speed that the machine may lose or win meanwhile: with more, a multiple of the capacity is another one.
const mostDrift = 0.1

// reportDrift says whether the server was as fast after each scenario as it was in the beginning.
func (st *stage) reportDrift() {
	drifts := false
	var all []string
	for _, now := range st.later {
		all = append(all, fmt.Sprintf("%.0f", now))
		drifts = drifts || math.Abs(now/st.capacity-1) > mostDrift
	}
	st.about("capacity, later", strings.Join(all, ", ")+" functions/s, likewise, after each part")
	if drifts {
		st.beware("the machine was not equally fast all the time: loads are not the multiples they are called")
	}
}

// beware says what spoils the figures, at once and in the results.
func (b *bench) beware(text string) {
	b.about("beware", text)
	b.progress("beware: %s", text)
}

// newStage confines everybody to a processor and measures what PostgreSQL can do.
func (b *bench) newStage(ctx context.Context) (*stage, error) {
	theirs, ours, err := twoProcessors()
	if err != nil {
		return nil, err
	}
	st := &stage{bench: b, postgresOn: theirs}
	if err := confine(b.lab.postgres.proc.pid, theirs); err != nil {
		return nil, err
	}
	if err := confine(os.Getpid(), ours); err != nil { // and who is started from now on
		return nil, err
	}
	if err := confine(b.lab.postgres.proc.pid, theirs); err != nil { // it is a child process of this one
		return nil, err
	}
	runtime.GOMAXPROCS(1)
	if err := st.makeRoles(ctx); err != nil {
		return nil, err
	}
	if st.rows, err = st.measureWork(ctx); err != nil {
		return nil, err
	}
	st.sql = workSQL(fmt.Sprintf("random(%.0f, %.0f)", leastWork*st.rows, mostWork*st.rows))
	if st.capacity, err = st.measureCapacity(ctx); err != nil {
		return nil, err
	}
	b.progress("PostgreSQL on processor %d, all else on %d; capacity %.0f functions/s", theirs, ours, st.capacity)
	b.about("processors", fmt.Sprintf("PostgreSQL has one to itself; weir, PgBouncer and the generator share another (%d and %d)", theirs, ours))
	b.about("query", fmt.Sprintf("`%s`: %d to %d ms of processor time", st.sql, leastWork, mostWork))
	b.about("capacity, 1×", fmt.Sprintf("%.0f functions/s, closed loop straight at PostgreSQL: %.0f %% of what one processor does at 4 ms each", st.capacity, 100*busy(st.capacity)))
	if busy(st.capacity) < 0.9 {
		b.beware("something else wants PostgreSQL's processor: the capacity is wrong, and so are all loads")
	}
	return st, nil
}

// dsn is how a storm reaches the side.
func (s *side) dsn() string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(benchUser, benchPassword), Host: s.addr, Path: "/" + benchDatabase, RawQuery: "sslmode=disable"}
	return u.String()
}

// makeRoles makes the users of the flood.
func (st *stage) makeRoles(ctx context.Context) error {
	for _, user := range floodUsers() {
		if err := st.tell(ctx, "create role "+user+" login"); err != nil {
			return err
		}
	}
	return nil
}

// tell runs SQL straight at PostgreSQL.
func (st *stage) tell(ctx context.Context, sql string) error {
	c, err := dial(ctx, st.lab.postgres.target())
	if err != nil {
		return err
	}
	defer c.Close()
	return c.query(message('Q', []byte(sql+"\x00")))
}

// measureWork counts how many rows make a millisecond of PostgreSQL's processor time, by the scheduler's account, so that it
// does not matter who else is busy.
func (st *stage) measureWork(ctx context.Context) (rowsPerMillisecond float64, err error) {
	const rows, queries = 30_000, 100
	c, err := dial(ctx, st.lab.postgres.target())
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.query(workQuery(rows)); err != nil { // the first one takes longer
		return 0, err
	}
	before := st.postgresUsed()
	for range queries {
		if err := errors.Join(ctx.Err(), c.query(workQuery(rows))); err != nil {
			return 0, err
		}
	}
	used := st.postgresUsed() - before
	if used <= 0 {
		return 0, errors.New("PostgreSQL has used no processor time, says the scheduler")
	}
	return rows * queries / (float64(used) / float64(time.Millisecond)), nil
}

// postgresUsed is the processor time of PostgreSQL's processes that live.
func (st *stage) postgresUsed() (total time.Duration) {
	for _, pid := range childrenOf(st.lab.postgres.proc.pid) {
		if used, err := cpuTime(pid); err == nil { // it may have ended
			total += used
		}
	}
	return total
}

func workSQL(rows string) string {
	return "SELECT count(i) FROM (SELECT generate_series(1, " + rows + ") AS i) AS work"
}

func workQuery(rows float64) []byte {
	return message('Q', []byte(workSQL(fmt.Sprintf("%.0f", rows))+"\x00"))
}

// measureCapacity is the best of a few turns: when something else wants PostgreSQL's processor, one turn is soon wrong, and
// all loads with it.
func (st *stage) measureCapacity(ctx context.Context) (best float64, err error) {
	const tries = 3
	for range tries {
		perSecond, err := st.tryCapacity(ctx, st.span(2, 1))
		if err := errors.Join(err, ctx.Err()); err != nil {
			return 0, fmt.Errorf("measure the capacity: %w", err)
		}
		best = max(best, perSecond)
	}
	return best, nil
}

// busy is the part of its processor that PostgreSQL uses at so many functions per second.
func busy(perSecond float64) float64 { return perSecond * (leastWork + mostWork) / 2 / 1000 }

// tryCapacity has a few clients ask one query after another. More of them would only make PostgreSQL switch between them.
func (st *stage) tryCapacity(ctx context.Context, length time.Duration) (perSecond float64, err error) {
	const clients = 4
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var done atomic.Int64
	var failed atomic.Pointer[error]
	var running sync.WaitGroup
	start := time.Now()
	for i := range clients {
		running.Go(func() {
			if err := st.closedLoop(ctx, uint64(i), &done); err != nil {
				failed.Store(&err)
			}
		})
	}
	running.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(done.Load()) / time.Since(start).Seconds(), nil
}

func (st *stage) closedLoop(ctx context.Context, seed uint64, done *atomic.Int64) error {
	c, err := dial(ctx, st.lab.postgres.target())
	if err != nil {
		return err
	}
	defer c.Close()
	random := rand.New(rand.NewPCG(seed, 0))
	for ; ctx.Err() == nil; done.Add(1) {
		work := leastWork + (mostWork-leastWork)*random.Float64()
		if err := c.query(workQuery(work * st.rows)); err != nil {
			return err
		}
	}
	return nil
}

// span is how long something takes in a full run, and in a quick one.
func (st *stage) span(full, quick float64) time.Duration {
	if st.quick {
		full = quick
	}
	return time.Duration(full * float64(time.Second))
}

// times is a multiple of the capacity in functions per second.
func (st *stage) times(factor float64) float64 { return math.Round(10*factor*st.capacity) / 10 }

// contender is a side with what its functions say.
type contender struct {
	*side
	name string
	say  bool // how much time they have left
}

// contenders brings up the sides named, all with the same variant. stop takes them down again.
func (st *stage) contenders(ctx context.Context, v variant, names ...string) (all []contender, stop func(), err error) {
	stop = func() {
		for _, c := range all {
			if c.side != st.lab.postgres && !c.say {
				st.lab.children.stop(c.proc, syscall.SIGTERM, 5*time.Second)
			}
		}
	}
	for _, name := range names {
		c, err := st.contender(v, name, all)
		if err != nil {
			stop()
			return nil, nil, err
		}
		if c.side == nil {
			continue // measured without weir
		}
		all = append(all, c)
		if err := answering(ctx, c.proc, c.target()); err != nil {
			stop()
			return nil, nil, err
		}
	}
	return all, stop, nil
}

func (st *stage) contender(v variant, name string, others []contender) (contender, error) {
	c := contender{name: name}
	var err error
	switch {
	case name == direct:
		c.side = st.lab.postgres
		return c, nil
	case name == told:
		for _, other := range others {
			if other.name == weir {
				c.side, c.say = other.side, true
			}
		}
		return c, nil
	case name == pgbouncer:
		c.side, err = st.lab.startPgBouncer(name, v)
	case name == impatient:
		v.ini += "query_wait_timeout = 1\n"
		c.side, err = st.lab.startPgBouncer(name, v)
	case st.lab.weir != "":
		c.side, err = st.lab.startWeir(weir, st.lab.weir, v)
	default:
		return c, nil
	}
	if err == nil {
		c.pid = c.proc.pid
	}
	return c, err
}

// plan is a storm as most scenarios have it.
func (st *stage) plan(load storm.Load) storm.Plan {
	return storm.Plan{
		Load: load, Function: storm.Function{SQL: st.sql, Deadline: functionDeadline},
		Connections: storm.Kept, Kept: keptConnections, MaxConnections: freshConnections,
	}
}

// observed is what became of a storm, and what it cost.
type observed struct {
	*storm.Result
	cpu float64 // processors that the proxy used; NaN for PostgreSQL itself
}

// unleash lets a storm loose on a side and waits until PostgreSQL has come to rest again. began, which may be nil, learns
// soon after when it began.
func (st *stage) unleash(ctx context.Context, c contender, plan storm.Plan, began func(time.Time)) (observed, error) {
	plan.Name, plan.DSN, plan.SayDeadline = c.name, c.dsn(), c.say
	var used account
	result, err := storm.Run(ctx, plan, func(p storm.Progress) {
		if began != nil {
			began(time.Now().Add(-p.Elapsed))
			began = nil
		}
		if p.Elapsed >= plan.Warmup && p.Elapsed <= p.Duration {
			used.note(p.Elapsed, c.pid)
		}
	})
	switch {
	case ctx.Err() != nil:
		return observed{}, ctx.Err()
	case !c.proc.alive():
		return observed{}, c.proc.failure()
	case err != nil:
		return observed{}, fmt.Errorf("%s: %w", c.name, err)
	}
	st.notice(result)
	return observed{result, used.processors()}, st.settle(ctx)
}

// account is the processor time of a process over time.
type account struct {
	at   []time.Duration
	used []time.Duration
}

func (a *account) note(at time.Duration, pid int) {
	if pid == 0 {
		return
	}
	if used, err := cpuTime(pid); err == nil {
		a.at, a.used = append(a.at, at), append(a.used, used)
	}
}

// processors is how many it kept busy, NaN when that was not measured.
func (a *account) processors() float64 {
	last := len(a.at) - 1
	if last < 1 {
		return math.NaN()
	}
	return float64(a.used[last]-a.used[0]) / float64(a.at[last]-a.at[0])
}

// settle waits until PostgreSQL does nothing any more: what functions asked for that are gone is done all the same.
func (st *stage) settle(ctx context.Context) error {
	const rest = 200 * time.Millisecond
	const idle = `do $$ begin
		while exists (select from pg_stat_activity where state <> 'idle' and backend_type = 'client backend' and pid <> pg_backend_pid()) loop
			perform pg_sleep(0.05), pg_stat_clear_snapshot();
		end loop;
	end $$`
	for deadline := time.Now().Add(patience); ; {
		err := st.tell(ctx, idle)
		if err == nil {
			return sleep(ctx, rest)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("PostgreSQL does not come to rest: %w", err)
		}
		if err := sleep(ctx, rest); err != nil { // it may have no connection left
			return err
		}
	}
}

// notice keeps what is odd about a storm.
func (st *stage) notice(r *storm.Result) {
	add := func(text string) {
		st.progress("%s", text)
		for i := range st.noticed {
			if st.noticed[i].text == text {
				st.noticed[i].count++
				return
			}
		}
		st.noticed = append(st.noticed, observation{text, 1})
	}
	for _, e := range r.Errors {
		add(fmt.Sprintf("%s: functions failed with %s", r.Name, strings.TrimSpace(e.SQLSTATE+" "+e.Message)))
	}
	if r.Generator.Starved {
		add(r.Name + ": the generator was starved")
	}
}

func (st *stage) reportNoticed() {
	if len(st.noticed) == 0 {
		return
	}
	t := section{title: "Noticed on the way", header: []string{"what", "storms"}}
	for _, o := range st.noticed {
		t.rows = append(t.rows, []string{o.text, fmt.Sprint(o.count)})
	}
	st.results.section(t)
}
