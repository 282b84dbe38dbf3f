package pool_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/pool"
)

const patience = 20 * time.Second

// bench is a budget in front of a fake server, with borrowers on event loops.
type bench struct {
	*pool.Budget
	t     *testing.T
	loops *eventloop.Group
}

func newBench(t *testing.T, cfg pool.Config) *bench {
	t.Helper()
	pgtest.NoLeaks(t)
	loops, err := eventloop.NewGroup(2)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{pool.NewBudget(cfg.WithDefaults(), loops, slog.New(slog.NewTextHandler(t.Output(), nil))), t, loops}
	t.Cleanup(func() {
		b.Close()
		b.Wait()
		loops.Close()
	})
	return b
}

func (b *bench) pool(dsn string) *pool.Pool {
	b.t.Helper()
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.NewPool(pool.Dial(cfg), nil)
}

// borrower is one place in the queue, on a loop.
type borrower struct {
	pool.Waiter
	pool   *pool.Pool
	answer chan *pool.Server
	err    error
}

// Run is called when the wait is over.
func (b *borrower) Run() { b.take(b.Answer()) }

func (b *borrower) take(s *pool.Server, err error) {
	if s != nil {
		err = s.Conn.MoveTo(b.Loop)
	}
	b.err = err
	b.answer <- s
}

// ask has a new borrower ask for a server; the answer comes to its channel.
func (b *bench) ask(p *pool.Pool) *borrower {
	w := &borrower{pool: p, answer: make(chan *pool.Server, 1)}
	w.Loop, w.Task = b.loops.Next(), w
	w.Loop.Post(eventloop.TaskFunc(func() {
		if s, err := p.Acquire(&w.Waiter, 1000); s != nil || err != nil {
			w.take(s, err)
		}
	}))
	return w
}

// wait is the server that the borrower is given.
func (b *bench) wait(w *borrower) *pool.Server {
	b.t.Helper()
	select {
	case s := <-w.answer:
		if w.err != nil {
			b.t.Fatal(w.err)
		}
		return s
	case <-time.After(patience):
		b.t.Fatalf("no server in %v: %+v", patience, b.Counts())
		return nil
	}
}

func (b *bench) borrow(p *pool.Pool) *pool.Server {
	b.t.Helper()
	return b.wait(b.ask(p))
}

// on runs f on the loop of s and waits for it.
func on(s *pool.Server, f func(*eventloop.Loop)) {
	done := make(chan struct{})
	l := s.Conn.Loop()
	l.Post(eventloop.TaskFunc(func() {
		f(l)
		close(done)
	}))
	<-done
}

func release(s *pool.Server) { on(s, func(*eventloop.Loop) { s.Pool().Release(s) }) }

// eventually waits until the counts are as wanted.
func (b *bench) eventually(want pool.Counts) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); b.Counts() != want; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("the counts are %+v, want %+v", b.Counts(), want)
		}
	}
}

// settled waits until all there is rests on the shelf.
func (b *bench) settled() {
	b.t.Helper()
	for deadline := time.Now().Add(patience); b.Counts().Open() != b.Counts().Idle; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("the counts are %+v", b.Counts())
		}
	}
}

// census counts connections as the server does: until it has closed them itself, which takes it a while.
type census struct {
	open, most atomic.Int64
	lingers    time.Duration
}

func (c *census) script(int) pgtest.Script {
	return pgtest.Script{
		func(*pgtest.ServerConn) error {
			n := c.open.Add(1)
			for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
			}
			return nil
		},
		pgtest.AcceptStartup(),
		func(s *pgtest.ServerConn) error {
			for {
				m, err := s.Receive()
				if err != nil || m.Type == 'X' {
					time.Sleep(c.lingers)
					c.open.Add(-1)
					return nil
				}
			}
		},
	}
}

func TestALentServerGoesToTheShelfAndIsLentAgain(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 2})
	fake := pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}.Serve(t)
	p := b.pool(fake.DSN())
	first := b.borrow(p)
	b.eventually(pool.Counts{Used: 1})
	release(first)
	b.eventually(pool.Counts{Idle: 1})
	if again := b.borrow(p); again != first {
		t.Error("another one was dialled")
	} else {
		release(again)
	}
	if n := fake.Accepted(); n != 1 {
		t.Errorf("%d connections were made, want 1", n)
	}
}

func TestWaitersAreServedInOrder(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 1})
	p := b.pool(pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}.Serve(t).DSN())
	s := b.borrow(p)
	var waiters []*borrower
	for i := range 20 {
		waiters = append(waiters, b.ask(p))
		for b.Waiting() <= i {
			time.Sleep(10 * time.Microsecond)
		}
	}
	for i, w := range waiters {
		release(s)
		if s = b.wait(w); b.Waiting() != len(waiters)-1-i {
			t.Fatalf("%d wait after the %dth was served", b.Waiting(), i)
		}
	}
	release(s)
}

// Trap 48: a slow server is not asked for one connection after the other.
func TestDialsRunInParallel(t *testing.T) {
	const n = 10
	b := newBench(t, pool.Config{Connections: n})
	all := make(chan struct{})
	var started atomic.Int64
	fake := pgtest.Script{pgtest.ExpectStartup(), func(*pgtest.ServerConn) error {
		if started.Add(1) == n {
			close(all)
		}
		return nil
	}, pgtest.WaitFor(all), pgtest.Welcome(), pgtest.ExpectClose()}.Serve(t)
	p := b.pool(fake.DSN())
	var waiters []*borrower
	for range n {
		waiters = append(waiters, b.ask(p))
	}
	for _, w := range waiters {
		defer release(b.wait(w))
	}
	if got := fake.Accepted(); got != n {
		t.Errorf("%d connections were made, want %d", got, n)
	}
}

func TestDialsAreCapped(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 100})
	goOn := make(chan struct{})
	fake := pgtest.Script{pgtest.ExpectStartup(), pgtest.WaitFor(goOn), pgtest.Welcome(), pgtest.ExpectClose()}.Serve(t)
	p := b.pool(fake.DSN())
	var waiters []*borrower
	for range 40 {
		waiters = append(waiters, b.ask(p))
	}
	b.eventually(pool.Counts{Dialing: pool.DialsAtOnce})
	for b.Waiting() < 40 {
		time.Sleep(time.Millisecond)
	}
	if got := b.Counts().Dialing; got != pool.DialsAtOnce {
		t.Errorf("%d dials at once, want %d", got, pool.DialsAtOnce)
	}
	close(goOn)
	for _, w := range waiters {
		defer release(b.wait(w))
	}
}

// Traps 46 and 48: a server that is full or starting up is asked again, less and less often; whoever waits goes on waiting.
func TestWaitersOutlastARefusal(t *testing.T) {
	for _, sqlstate := range []string{"53300", "57P03"} {
		t.Run(sqlstate, func(t *testing.T) {
			b := newBench(t, pool.Config{Connections: 10})
			const refusals = 8
			var mu sync.Mutex
			var times []time.Time
			fake := pgtest.ServeEach(t, func(n int) pgtest.Script {
				mu.Lock()
				defer mu.Unlock()
				times = append(times, time.Now())
				if n < refusals {
					return pgtest.Script{pgtest.Refuse(sqlstate, "not now")}
				}
				return pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}
			})
			p := b.pool(fake.DSN())
			var waiters []*borrower
			for range 5 {
				waiters = append(waiters, b.ask(p))
			}
			for _, w := range waiters {
				defer release(b.wait(w))
			}
			mu.Lock()
			defer mu.Unlock()
			// Five at once, then one at a time with a growing pause, then full speed.
			before := 0 // the pause begins with the first failure
			for i := 5; i <= refusals; i++ {
				if gap, want := times[i].Sub(times[before]), pool.FirstBackoff<<(i-5); gap < want {
					t.Errorf("attempt %d came %v after attempt %d, want %v at least", i, gap, before, want)
				}
				before = i
			}
		})
	}
}

// Trap 47: a place is free when the server has closed its end, not before. (Trap 48: lifetimes end all the time here.)
func TestTheBudgetIsNeverExceeded(t *testing.T) {
	const budget = 4
	b := newBench(t, pool.Config{Connections: budget, ServerLifetime: 2 * time.Millisecond})
	c := &census{lingers: 3 * time.Millisecond}
	fake := pgtest.ServeEach(t, c.script)
	pools := []*pool.Pool{b.pool(fake.DSN()), b.pool(fake.DSN()), b.pool(fake.DSN())}
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	var borrowers sync.WaitGroup
	var lent atomic.Int64
	for i := range 12 {
		borrowers.Go(func() {
			for ctx.Err() == nil {
				s := b.borrow(pools[i%len(pools)])
				lent.Add(1)
				if open := b.Counts().Open(); open > budget {
					t.Errorf("%d connections by our own count", open)
				}
				switch rand.IntN(4) {
				case 0:
					on(s, s.Retire)
				case 1: // left in the middle
					on(s, func(l *eventloop.Loop) { s.Reset(l, pool.Leftover{Status: 'I', Broken: true}) })
				default:
					release(s)
				}
			}
		})
	}
	borrowers.Wait()
	if most := c.most.Load(); most > budget {
		t.Errorf("the server had %d connections at once, the budget is %d", most, budget)
	}
	if lent.Load() < 200 {
		t.Errorf("only %d were lent", lent.Load())
	}
	if n := b.Waiting(); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

func TestAnIdleConnectionOfAnotherPoolMakesRoom(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 2})
	fake := pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}.Serve(t)
	one, other := b.pool(fake.DSN()), b.pool(fake.DSN())
	held, idle := b.borrow(one), b.borrow(one)
	release(idle)
	b.eventually(pool.Counts{Used: 1, Idle: 1})
	s := b.borrow(other)
	b.eventually(pool.Counts{Used: 2})
	if fake.Accepted() != 3 {
		t.Errorf("%d connections were made, want 3", fake.Accepted())
	}
	fake.AwaitOpen(2)

	// The other way round: the place comes free while someone waits for it.
	w := b.ask(one)
	for b.Waiting() == 0 {
		time.Sleep(10 * time.Microsecond)
	}
	release(s)
	release(b.wait(w))
	release(held)
	b.eventually(pool.Counts{Idle: 2})
}

// Trap 50: a server that was handed to a borrower who has just left is not lost, and neither is a place in the budget.
func TestNothingIsLostBetweenHandingOverAndLeaving(t *testing.T) {
	const budget = 3
	b := newBench(t, pool.Config{Connections: budget})
	p := b.pool(pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}.Serve(t).DSN())
	var borrowers sync.WaitGroup
	var served, left, late atomic.Int64
	for range 16 {
		borrowers.Go(func() {
			for range 500 {
				w := b.ask(p)
				if rand.IntN(2) == 0 { // be served
					release(b.wait(w))
					served.Add(1)
					continue
				}
				abandoned := make(chan bool)
				w.Loop.Post(eventloop.TaskFunc(func() { abandoned <- p.Abandon(&w.Waiter) }))
				if <-abandoned {
					left.Add(1)
					continue
				}
				release(b.wait(w)) // it was on its way
				late.Add(1)
			}
		})
	}
	borrowers.Wait()
	t.Logf("%d served, %d left in time, %d too late", served.Load(), left.Load(), late.Load())
	if left.Load() == 0 || late.Load() == 0 {
		t.Error("nobody left at the wrong moment")
	}
	b.settled()
	if b.Waiting() != 0 || b.Counts().Idle > budget {
		t.Errorf("in the end %+v, %d waiting", b.Counts(), b.Waiting())
	}
}

func TestALongQueueIsRefused(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 1})
	p := b.pool(pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}.Serve(t).DSN())
	defer release(b.borrow(p))
	w := &pool.Waiter{Loop: b.loops.Next(), Task: eventloop.TaskFunc(func() {})}
	if s, err := p.Acquire(w, 0); s != nil || !errors.Is(err, pool.ErrQueueFull) {
		t.Errorf("got %v, %v", s, err)
	}
	if p.Abandon(w) {
		t.Error("it was in the queue nevertheless")
	}
}

// Trap 48: connections that were opened together do not end together. (Trap 49: Never is never.)
func TestShelfLives(t *testing.T) {
	const n = 12
	for name, test := range map[string]struct {
		cfg   pool.Config
		limit time.Duration
	}{
		"lifetime": {pool.Config{ServerLifetime: time.Hour, ServerIdle: pool.Never}, time.Hour},
		"idle":     {pool.Config{ServerLifetime: pool.Never, ServerIdle: 10 * time.Minute}, 10 * time.Minute},
		"never":    {pool.Config{ServerLifetime: pool.Never, ServerIdle: pool.Never}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			test.cfg.Connections = n
			b := newBench(t, test.cfg)
			p := b.pool(pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}.Serve(t).DSN())
			var servers []*pool.Server
			for range n {
				servers = append(servers, b.borrow(p))
			}
			for _, s := range servers {
				release(s)
			}
			now := time.Now()
			if test.limit == 0 {
				if got := b.Expire(now.Add(1000 * time.Hour)); got != 0 {
					t.Errorf("%d expired", got)
				}
				return
			}
			if got := b.Expire(now.Add(test.limit*8/10 - time.Minute)); got != 0 {
				t.Errorf("%d expired early", got)
			}
			half := b.Expire(now.Add(test.limit * 9 / 10))
			if half == 0 || half == n {
				t.Errorf("%d of %d expired at nine tenths of the time", half, n)
			}
			if rest := b.Expire(now.Add(test.limit + time.Minute)); half+rest != n {
				t.Errorf("%d and %d expired, want %d in all", half, rest, n)
			}
			b.eventually(pool.Counts{})
		})
	}
}

// Trap 47: a backend that runs a statement does not notice that its client is gone. It is cancelled, and counts until then.
func TestAServerThatDoesNotCloseIsCancelledAndCounts(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 1})
	finish := make(chan struct{})
	fake := pgtest.ServeEach(t, func(n int) pgtest.Script {
		if n == 0 {
			return pgtest.Script{pgtest.AcceptStartup(), pgtest.WaitFor(finish)}
		}
		return pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}
	})
	p := b.pool(fake.DSN())
	s := b.borrow(p)
	began := time.Now()
	on(s, s.Retire)
	w := b.ask(p)
	if got := fake.AwaitCancel(1); got.PID != 1000 || string(got.Secret) != "key\x00" {
		t.Errorf("cancelled %+v", got)
	}
	if took := time.Since(began); took < pool.ClosingTime {
		t.Errorf("cancelled after %v", took)
	}
	if c := b.Counts(); c.Closing != 1 || c.Open() != 1 || fake.Accepted() != 1 {
		t.Errorf("it does not count any more: %+v, %d connections made", c, fake.Accepted())
	}
	close(finish)
	release(b.wait(w))
}

// Trap 30: what a server says half while nobody listens must not meet the next borrower.
func TestAMessageThatComesInTwoPartsWhileIdle(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 1})
	status := pgtest.Encode(&pgproto3.ParameterStatus{Name: "TimeZone", Value: "Europe/Vienna"})
	idle, rest := make(chan struct{}), make(chan struct{})
	fake := pgtest.Script{
		pgtest.AcceptStartup(), pgtest.WaitFor(idle), pgtest.SendBytes(status[:9]),
		pgtest.WaitFor(rest), pgtest.SendBytes(status[9:]), pgtest.ExpectClose(),
	}.Serve(t)
	p := b.pool(fake.DSN())
	s := b.borrow(p)
	release(s)
	b.eventually(pool.Counts{Idle: 1})
	close(idle)
	b.eventually(pool.Counts{Used: 1}) // by its own cleaning
	w := b.ask(p)
	close(rest)
	if again := b.wait(w); again != s {
		t.Error("the connection was given up")
	}
	if !s.Reports(&pool.Greeting{Parameters: map[string]string{"TimeZone": "Europe/Vienna"}}) {
		t.Error("the parameter was not noted")
	}
	release(s)
}

// Trap 30: a server that says goodbye on the shelf is replaced, silently.
func TestAServerThatSaysGoodbyeOnTheShelf(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 1})
	idle := make(chan struct{})
	fake := pgtest.ServeEach(t, func(n int) pgtest.Script {
		if n == 0 {
			return pgtest.Script{pgtest.AcceptStartup(), pgtest.WaitFor(idle), pgtest.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P01", Message: "terminating connection"})}
		}
		return pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}
	})
	p := b.pool(fake.DSN())
	release(b.borrow(p))
	close(idle)
	b.eventually(pool.Counts{})
	release(b.borrow(p))
	if fake.Accepted() != 2 {
		t.Errorf("%d connections were made, want 2", fake.Accepted())
	}
}

// Trap 38: when nobody can say whether a cancel request has arrived, the server serves nobody else.
func TestAServerThatMayStillBeCancelledIsClosed(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 1})
	fake := pgtest.Script{pgtest.AcceptStartup(), pgtest.AnswerQueries(nil)}.Serve(t)
	cfg, err := pgconn.ParseConfig(fake.DSN())
	if err != nil {
		t.Fatal(err)
	}
	var dials atomic.Int64
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dials.Add(1) == 2 { // the one for the cancel request
			return nil, errors.New("no route to host")
		}
		return dial(ctx, network, addr)
	}
	p := b.NewPool(pool.Dial(cfg), nil)
	s := b.borrow(p)
	done := make(chan struct{})
	on(s, func(l *eventloop.Loop) {
		s.CancelSoon(l, func() { close(done) })
		s.Reset(l, pool.Leftover{Status: 'I'})
	})
	<-done
	if again := b.borrow(p); again == s {
		t.Error("it was lent again")
	} else {
		release(again)
	}
}

func TestClosingABudget(t *testing.T) {
	pgtest.NoLeaks(t)
	b := newBench(t, pool.Config{Connections: 3})
	fake := pgtest.ServeEach(t, func(n int) pgtest.Script {
		if n == 2 {
			return pgtest.Script{pgtest.ExpectStartup(), pgtest.Stall()} // a dial that hangs
		}
		return pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}
	})
	p := b.pool(fake.DSN())
	lent, idle := b.borrow(p), b.borrow(p)
	w := b.ask(p)
	fake.AwaitAccepted(3)
	other := b.ask(p)
	for b.Waiting() < 2 {
		time.Sleep(10 * time.Microsecond)
	}
	_ = idle
	began := time.Now()
	b.Close()
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
	for _, w := range []*borrower{w, other} {
		if s := <-w.answer; s != nil || !errors.Is(w.err, pool.ErrClosed) {
			t.Errorf("a waiter got %v, %v", s, w.err)
		}
	}
	if s, err := p.Acquire(&pool.Waiter{}, 1); s != nil || !errors.Is(err, pool.ErrClosed) {
		t.Errorf("Acquire gives %v, %v", s, err)
	}
	release(lent)
	release(idle)
	b.Wait()
	if c := b.Counts(); c != (pool.Counts{}) {
		t.Errorf("in the end %+v", c)
	}
}

// Greetings with settings are asked of the server within the budget, and remembered.
func TestGreetingsAreAskedWithinTheBudget(t *testing.T) {
	const budget = 2
	b := newBench(t, pool.Config{Connections: budget})
	c := &census{lingers: time.Millisecond}
	fake := pgtest.ServeEach(t, c.script)
	p := b.pool(fake.DSN())
	var logins sync.WaitGroup
	for i := range 40 {
		logins.Go(func() {
			asked := []pool.Setting{{Name: "geqo", Value: fmt.Sprint(i % 10)}}
			if _, err := p.Greet(t.Context(), asked); err != nil {
				t.Error(err)
			}
			if i%4 == 0 {
				release(b.borrow(p))
			}
		})
	}
	logins.Wait()
	if most := c.most.Load(); most > budget {
		t.Errorf("the server had %d connections at once, the budget is %d", most, budget)
	}
	made := fake.Accepted()
	if _, err := p.Greet(t.Context(), []pool.Setting{{Name: "geqo", Value: "3"}}); err != nil || fake.Accepted() != made {
		t.Errorf("what was asked before is asked again, %v", err)
	}
	b.settled()
}

func TestAGreetingThatIsNotWaitedForAnyMore(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 1})
	p := b.pool(pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}.Serve(t).DSN())
	s := b.borrow(p)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Greet(ctx, []pool.Setting{{Name: "DateStyle", Value: "German"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if n := b.Waiting(); n != 0 {
		t.Errorf("%d wait", n)
	}
	release(s)
	b.eventually(pool.Counts{Idle: 1})
}

// Trap 46: as with everyone else who waits for a connection.
func TestAGreetingOutlastsARefusal(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 3})
	fake := pgtest.ServeEach(t, func(n int) pgtest.Script {
		if n > 0 && n < 4 {
			return pgtest.Script{pgtest.Refuse("53300", "sorry, too many clients already")}
		}
		return pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}
	})
	p := b.pool(fake.DSN())
	release(b.borrow(p))
	if _, err := p.Greet(t.Context(), []pool.Setting{{Name: "geqo", Value: "off"}}); err != nil {
		t.Error(err)
	}
	b.settled()
}

// Trap 55: after a failover the server's name means another machine, and it may mean several of which one is dead.
func TestNamesAreResolvedForEachDial(t *testing.T) {
	pgtest.NoLeaks(t)
	fake := pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}.Serve(t)
	cfg, err := pgconn.ParseConfig(strings.Replace(fake.DSN(), "127.0.0.1", "db.example", 1))
	if err != nil {
		t.Fatal(err)
	}
	const dead = "127.255.255.254" // nobody listens there
	var addresses []string
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) {
		if host != "db.example" {
			t.Errorf("asked for %s", host)
		}
		return addresses, nil
	}
	dial := pool.Dial(cfg)
	for i, now := range [][]string{{"127.0.0.1"}, {dead}, {dead, "127.0.0.1"}} {
		addresses = now
		d, err := dial(t.Context(), nil)
		if works := addresses[len(addresses)-1] != dead; works != (err == nil) {
			t.Errorf("dial %d, to %v: %v", i, addresses, err)
		}
		if err == nil {
			d.Close()
		}
	}
}
