package storm_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/storm"
)

// database is a server at the other end of pipes, for storms in which no real time passes.
type database struct {
	login  time.Duration                                   // how long one takes
	answer func(n int, sql string) (time.Duration, []byte) // how long the nth query takes, from 1, and what is said; nil: all is well

	took    time.Duration // of the storm
	serving sync.WaitGroup

	mu       sync.Mutex // guards what follows
	opened   int
	startups []string
	asked    []question
	goodbyes int // connections that ended with Terminate
	hangups  int // without
}

type question struct {
	at  time.Time
	sql string
}

var wellDone = pgwire.AppendReadyForQuery(pgwire.AppendMessage(nil, pgwire.CommandComplete, []byte("SELECT 1\x00")), 'I')

func refusal(hint string) []byte {
	return pgwire.AppendReadyForQuery(pgwire.AppendError(nil, &pgwire.Error{
		Severity: "ERROR", Code: "53300", Message: "shed", Detail: "not executed; id=1 rule=orders.queue", Hint: hint,
	}), 'I')
}

func (d *database) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	d.mu.Lock()
	d.opened++
	d.mu.Unlock()
	d.serving.Go(func() { d.serve(server) })
	return client, nil
}

func (d *database) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	length := make([]byte, 4)
	if _, err := io.ReadFull(in, length); err != nil {
		return
	}
	startup := make([]byte, binary.BigEndian.Uint32(length)-4)
	if _, err := io.ReadFull(in, startup); err != nil {
		return
	}
	time.Sleep(d.login)
	d.mu.Lock()
	d.startups = append(d.startups, string(startup))
	d.mu.Unlock()
	welcome := pgwire.AppendMessage(nil, pgwire.Authentication, []byte{0, 0, 0, 0})
	welcome = pgwire.AppendReadyForQuery(pgwire.AppendParameterStatus(welcome, "server_version", "17"), 'I')
	if _, err := c.Write(welcome); err != nil {
		return
	}
	for {
		head := make([]byte, pgwire.HeaderSize)
		if _, err := io.ReadFull(in, head); err != nil {
			d.count(&d.hangups)
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(in, body); err != nil {
			d.count(&d.hangups)
			return
		}
		if head[0] == pgwire.Terminate {
			d.count(&d.goodbyes)
			return
		}
		sql := strings.TrimSuffix(string(body), "\x00")
		d.mu.Lock()
		d.asked = append(d.asked, question{time.Now(), sql})
		n := len(d.asked)
		d.mu.Unlock()
		took, reply := time.Duration(0), []byte(nil)
		if d.answer != nil {
			took, reply = d.answer(n, sql)
		}
		time.Sleep(took)
		if reply == nil {
			reply = wellDone
		}
		if _, err := c.Write(reply); err != nil {
			d.count(&d.hangups)
			return
		}
	}
}

func (d *database) count(n *int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	*n++
}

// storm runs a plan at the database, and waits until the database has noticed that it is over.
func (d *database) storm(t *testing.T, plan storm.Plan) *storm.Result {
	t.Helper()
	plan.DSN, plan.Dial = someDSN, d.dial
	began := time.Now()
	result, err := storm.Run(t.Context(), plan, nil)
	if err != nil {
		t.Fatal(err)
	}
	d.took = time.Since(began)
	d.serving.Wait()
	if sum := result.Good + result.Refused + result.TimedOut + result.Failed + result.Unfinished; sum != result.Offered {
		t.Errorf("%d functions ended one way or another, of %d", sum, result.Offered)
	}
	return result
}

// inBubbles runs each test with a clock of its own, which costs nothing.
func inBubbles(t *testing.T, tests map[string]func(t *testing.T)) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

func takes(d time.Duration) func(int, string) (time.Duration, []byte) {
	return func(int, string) (time.Duration, []byte) { return d, nil }
}

func TestFunctionsAndTheirConnections(t *testing.T) {
	inBubbles(t, map[string]func(t *testing.T){
		"a fresh function connects, runs its transactions, says goodbye": func(t *testing.T) {
			d := &database{login: 30 * time.Millisecond, answer: takes(20 * time.Millisecond)}
			r := d.storm(t, storm.Plan{Load: storm.Together(10), Function: storm.Function{Transactions: 3, Pause: 10 * time.Millisecond}})
			if r.Good != 10 || r.Latency.Max != 110 || r.Login == nil || r.Login.Max != 30 || r.Transaction.Max != 20 || r.Transaction.Count != 30 {
				t.Errorf("good %d, latency %+v, login %+v, transaction %+v", r.Good, r.Latency, r.Login, r.Transaction)
			}
			if d.opened != 11 || d.goodbyes != 11 { // one to see who can log in
				t.Errorf("%d connections, %d goodbyes, want 11", d.opened, d.goodbyes)
			}
		},
		"kept connections are opened ahead, and a function that finds none free waits": func(t *testing.T) {
			d := &database{login: 30 * time.Millisecond, answer: takes(20 * time.Millisecond)}
			r := d.storm(t, storm.Plan{Load: storm.Together(10), Connections: storm.Kept, Kept: 2})
			if r.Good != 10 || r.Latency.Max != 100 || r.Latency.Mean != 60 || r.Login != nil {
				t.Errorf("good %d, latency %+v, login %+v; want five rounds of 20 ms", r.Good, r.Latency, r.Login)
			}
			if d.opened != 2 || d.goodbyes != 2 {
				t.Errorf("%d connections, %d goodbyes, want 2", d.opened, d.goodbyes)
			}
		},
		"of those who wait, the newest goes first": func(t *testing.T) {
			d := &database{answer: takes(100 * time.Millisecond)}
			load, _ := storm.ParseLoad("1 at once every 10ms up to 4")
			r := d.storm(t, storm.Plan{Load: load, Connections: storm.Kept, Kept: 1})
			if r.Good != 4 || r.Latency.Max != 390 || r.Latency.Mean != (100+170+280+390)/4 {
				t.Errorf("latency %+v: they start at 0, 10, 20 and 30 ms and end at 100, 400, 300 and 200 ms", r.Latency)
			}
		},
		"latency counts from the moment a function was to start, also behind a server that hangs": func(t *testing.T) {
			d := &database{answer: func(n int, _ string) (time.Duration, []byte) {
				if n == 1 {
					return time.Second, nil
				}
				return 0, nil
			}}
			r := d.storm(t, storm.Plan{Load: storm.Steady(100, time.Second), Connections: storm.Kept, Kept: 1, Function: storm.Function{Deadline: 5 * time.Second}})
			if r.Good != r.Offered || r.Latency.P50 < 400 || r.Latency.P50 > 600 {
				t.Errorf("p50 of %d is %v ms; half of them waited half a second and more", r.Good, r.Latency.P50)
			}
		},
		"more fresh functions than connections wait for a place": func(t *testing.T) {
			d := &database{answer: takes(20 * time.Millisecond)}
			r := d.storm(t, storm.Plan{Load: storm.Together(9), MaxConnections: 3})
			if r.Good != 9 || r.Latency.Max != 60 {
				t.Errorf("good %d, latency %+v", r.Good, r.Latency)
			}
			if len(r.Warnings) != 1 || !strings.HasPrefix(r.Warnings[0], "6 times a function had to wait until there were fewer than 3 connections") {
				t.Errorf("warnings %q", r.Warnings)
			}
		},
		"several statements are a block, each in a round trip": func(t *testing.T) {
			d := &database{answer: takes(10 * time.Millisecond)}
			r := d.storm(t, storm.Plan{Load: storm.Together(1), Function: storm.Function{SQL: "SELECT 1; SELECT 2"}})
			var asked []string
			for _, q := range d.asked {
				asked = append(asked, q.sql)
			}
			if want := []string{"BEGIN", "SELECT 1", "SELECT 2", "COMMIT"}; !slices.Equal(asked, want) || r.Latency.Max != 40 {
				t.Errorf("asked %q, latency %v", asked, r.Latency.Max)
			}
		},
	})
}

func TestDeadline(t *testing.T) {
	inBubbles(t, map[string]func(t *testing.T){
		"a function that is gone hangs up without a word, and the next one connects anew": func(t *testing.T) {
			d := &database{login: 5 * time.Millisecond, answer: func(n int, _ string) (time.Duration, []byte) {
				if n == 1 {
					return time.Minute, nil
				}
				return time.Millisecond, nil
			}}
			load, _ := storm.ParseLoad("1 at once every 1s up to 2")
			r := d.storm(t, storm.Plan{Load: load, Connections: storm.Kept, Kept: 1, Function: storm.Function{Deadline: 300 * time.Millisecond}})
			if r.Good != 1 || r.TimedOut != 1 || r.While.Answer != 1 || r.Latency.Max != 6 || r.Login.Count != 1 {
				t.Errorf("good %d, timed out %+v, latency %v, login %+v", r.Good, r.While, r.Latency.Max, r.Login)
			}
			if d.goodbyes != 1 || d.hangups != 1 {
				t.Errorf("%d goodbyes, %d hangups, want one each", d.goodbyes, d.hangups)
			}
		},
		"who waits for a connection too long is gone at its deadline": func(t *testing.T) {
			d := &database{answer: takes(90 * time.Millisecond)}
			r := d.storm(t, storm.Plan{Load: storm.Together(3), Connections: storm.Kept, Kept: 1, Function: storm.Function{Deadline: 80 * time.Millisecond}, Resolution: 10 * time.Millisecond})
			if r.TimedOut != 3 || r.While.Waiting != 2 || r.While.Answer != 1 || r.Series.TimedOut[8] != 3 {
				t.Errorf("timed out %+v, over time %v", r.While, r.Series.TimedOut)
			}
		},
		"a login may take too long": func(t *testing.T) {
			slow := false
			d := &database{}
			plan := storm.Plan{Load: storm.Together(2), Function: storm.Function{Deadline: 50 * time.Millisecond}}
			plan.DSN = someDSN
			plan.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				if slow { // the first is the one that looks whether anybody is there
					<-ctx.Done()
					return nil, ctx.Err()
				}
				slow = true
				return d.dial(ctx, network, address)
			}
			r, err := storm.Run(t.Context(), plan, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.TimedOut != 2 || r.While.Login != 2 {
				t.Errorf("timed out %+v", r.While)
			}
		},
		"a pause does not last beyond it": func(t *testing.T) {
			d := &database{}
			r := d.storm(t, storm.Plan{Load: storm.Together(1), Function: storm.Function{Transactions: 2, Pause: time.Minute, Deadline: time.Second}})
			if r.While.Resting != 1 || d.took != time.Second {
				t.Errorf("timed out %+v after %v", r.While, d.took)
			}
		},
		"weir is told at login when connections are fresh": func(t *testing.T) {
			d := &database{}
			d.storm(t, storm.Plan{
				Load: storm.Together(1), SayDeadline: true, Function: storm.Function{Deadline: 800 * time.Millisecond},
				Callers: []storm.Caller{{Name: "a", Options: "-c work_mem=1MB", Priority: "critical"}},
			})
			if got, want := d.startups[1], "options\x00-c work_mem=1MB -c weir.priority=critical -c weir.deadline=800ms\x00"; !strings.Contains(got, want) {
				t.Errorf("the startup message is %q, want %q in it", got, want)
			}
		},
		"and in a comment ahead of the statement when they are kept, how much of it is left": func(t *testing.T) {
			d := &database{answer: takes(250 * time.Millisecond)}
			d.storm(t, storm.Plan{
				Load: storm.Together(2), Connections: storm.Kept, Kept: 1, SayDeadline: true,
				Function: storm.Function{SQL: "SELECT 7", Deadline: 800 * time.Millisecond},
			})
			for i, want := range []string{"/* weir: deadline=800ms */ SELECT 7", "/* weir: deadline=550ms */ SELECT 7"} {
				if d.asked[i].sql != want {
					t.Errorf("statement %d is %s, want %s", i, d.asked[i].sql, want)
				}
			}
		},
	})
}

func TestRetries(t *testing.T) {
	refuse := func(times int, hint string) func(int, string) (time.Duration, []byte) {
		return func(n int, _ string) (time.Duration, []byte) {
			if n <= times {
				return time.Millisecond, refusal(hint)
			}
			return time.Millisecond, nil
		}
	}
	gaps := func(d *database) (all []time.Duration) {
		for i := 1; i < len(d.asked); i++ {
			all = append(all, d.asked[i].at.Sub(d.asked[i-1].at))
		}
		return all
	}
	for _, connections := range []storm.Connections{storm.Fresh, storm.Kept} {
		inBubbles(t, map[string]func(t *testing.T){
			string(connections) + ": the hint is heeded": func(t *testing.T) {
				d := &database{answer: refuse(2, "retry after 50 ms")}
				r := d.storm(t, storm.Plan{Load: storm.Together(1), Connections: connections, Retries: 3, HeedHint: true})
				if want := []time.Duration{51 * time.Millisecond, 51 * time.Millisecond}; !slices.Equal(gaps(d), want) {
					t.Errorf("asked again after %v, want %v", gaps(d), want)
				}
				if r.Good != 1 || r.Refused != 0 || r.Retried != 2 || r.Latency.Max != 103 {
					t.Errorf("good %d, refused %d, retried %d, latency %v", r.Good, r.Refused, r.Retried, r.Latency.Max)
				}
				if len(r.Refusals) != 1 || r.Refusals[0].Count != 2 || r.Refusals[0].Rule != "orders.queue" || r.Refusals[0].Latency.Max != 1 {
					t.Errorf("refusals %+v", r.Refusals)
				}
				if d.opened != 2 && connections == storm.Fresh {
					t.Errorf("%d connections: a function keeps its own while it waits", d.opened)
				}
			},
			string(connections) + ": without, the backoff doubles": func(t *testing.T) {
				d := &database{answer: refuse(4, "retry after 5000 ms")}
				r := d.storm(t, storm.Plan{Load: storm.Together(1), Connections: connections, Retries: 9, Backoff: 10 * time.Millisecond})
				most := 20 * time.Millisecond
				for i, gap := range gaps(d) {
					if gap > most+time.Millisecond {
						t.Errorf("retry %d after %v, want at most %v", i+1, gap, most)
					}
					most *= 2
				}
				if r.Good != 1 || r.Retried != 4 {
					t.Errorf("good %d, retried %d", r.Good, r.Retried)
				}
			},
			string(connections) + ": the last refusal counts": func(t *testing.T) {
				d := &database{answer: refuse(99, "retry after 1 ms")}
				r := d.storm(t, storm.Plan{Load: storm.Together(2), Connections: connections, Retries: 3, HeedHint: true})
				if r.Refused != 2 || r.Retried != 6 || r.Refusals[0].Count != 8 {
					t.Errorf("refused %d, retried %d, refusals %+v", r.Refused, r.Retried, r.Refusals)
				}
			},
			string(connections) + ": none that could only come too late": func(t *testing.T) {
				d := &database{answer: refuse(99, "retry after 400 ms")}
				r := d.storm(t, storm.Plan{Load: storm.Together(1), Connections: connections, Retries: 3, HeedHint: true, Function: storm.Function{Deadline: time.Second}})
				if r.Refused != 1 || r.Retried != 2 || d.took > time.Second {
					t.Errorf("refused %d, retried %d, after %v", r.Refused, r.Retried, d.took)
				}
			},
			string(connections) + ": what is hopeless is not tried again": func(t *testing.T) {
				syntax := pgwire.AppendReadyForQuery(pgwire.AppendError(nil, &pgwire.Error{Severity: "ERROR", Code: "42601", Message: "syntax error"}), 'I')
				d := &database{answer: func(int, string) (time.Duration, []byte) { return 0, syntax }}
				r := d.storm(t, storm.Plan{Load: storm.Together(2), Connections: connections, Retries: 3})
				if r.Failed != 2 || r.Retried != 0 || len(r.Errors) != 1 || r.Errors[0] != (storm.ErrorCount{SQLSTATE: "42601", Message: "syntax error", Count: 2}) {
					t.Errorf("failed %d, retried %d, errors %+v", r.Failed, r.Retried, r.Errors)
				}
			},
		})
	}
}

func TestConnectionsAfterErrors(t *testing.T) {
	inBubbles(t, map[string]func(t *testing.T){
		"a block that failed is rolled back before the next function": func(t *testing.T) {
			failed := pgwire.AppendReadyForQuery(pgwire.AppendError(nil, &pgwire.Error{Severity: "ERROR", Code: "22012", Message: "division by zero"}), 'E')
			d := &database{answer: func(_ int, sql string) (time.Duration, []byte) {
				if sql == "SELECT 1/0" {
					return 0, failed
				}
				return 0, nil
			}}
			d.storm(t, storm.Plan{Load: storm.Together(2), Connections: storm.Kept, Kept: 1, Function: storm.Function{SQL: "SELECT 1/0; SELECT 2"}})
			var asked []string
			for _, q := range d.asked {
				asked = append(asked, q.sql)
			}
			if want := []string{"BEGIN", "SELECT 1/0", "ROLLBACK", "BEGIN", "SELECT 1/0", "ROLLBACK"}; !slices.Equal(asked, want) {
				t.Errorf("asked %q, want %q", asked, want)
			}
			if d.opened != 1 {
				t.Errorf("%d connections, want the one", d.opened)
			}
		},
		"one that the server ended is opened anew": func(t *testing.T) {
			fatal := pgwire.AppendError(nil, &pgwire.Error{Severity: "FATAL", Code: "57P01", Message: "terminating connection"})
			d := &database{answer: func(n int, _ string) (time.Duration, []byte) {
				if n == 1 {
					return 0, fatal
				}
				return 0, nil
			}}
			r := d.storm(t, storm.Plan{Load: storm.Together(3), Connections: storm.Kept, Kept: 1})
			if r.Good != 2 || r.Failed != 1 || d.opened != 2 {
				t.Errorf("good %d, failed %d, %d connections", r.Good, r.Failed, d.opened)
			}
		},
	})
}

func TestInterruptEndsTheStormAtOnce(t *testing.T) {
	for _, connections := range []storm.Connections{storm.Fresh, storm.Kept} {
		t.Run(string(connections), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &database{answer: takes(time.Minute)}
				ctx, interrupt := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer interrupt()
				began := time.Now()
				r, err := storm.Run(ctx, storm.Plan{
					DSN: someDSN, Dial: d.dial, Load: storm.Steady(100, 10*time.Second), Connections: connections, Kept: 5,
					Function: storm.Function{Deadline: time.Minute},
				}, nil)
				if err != nil {
					t.Fatal(err)
				}
				if !r.Interrupted || r.Unfinished != r.Offered || r.Offered < 20 || r.Offered > 90 || time.Since(began) > 600*time.Millisecond || r.Seconds != 0.5 {
					t.Errorf("interrupted %v, %d of %d unfinished, %v s, after %v", r.Interrupted, r.Unfinished, r.Offered, r.Seconds, time.Since(began))
				}
				if len(r.Errors) != 0 {
					t.Errorf("errors %+v: an interrupt is none", r.Errors)
				}
				d.serving.Wait()
			})
		})
	}
}

func TestCallersHaveTheirOwn(t *testing.T) {
	inBubbles(t, map[string]func(t *testing.T){
		"users, SQL, deadlines and connections": func(t *testing.T) {
			d := &database{answer: func(_ int, sql string) (time.Duration, []byte) {
				if strings.Contains(sql, "slow") {
					return 200 * time.Millisecond, nil
				}
				return 10 * time.Millisecond, nil
			}}
			r := d.storm(t, storm.Plan{
				Load: storm.Together(40), Connections: storm.Kept, Kept: 20,
				Callers: []storm.Caller{
					{Name: "quick", Share: 0.75, User: "q", ApplicationName: "shop", Function: storm.Function{SQL: "SELECT quick"}},
					{Name: "slow", Function: storm.Function{SQL: "SELECT slow", Deadline: 150 * time.Millisecond}},
				},
			})
			quick, slow := r.Callers[0], r.Callers[1]
			if quick.Good != 30 || quick.Latency.Max != 20 || slow.TimedOut != 10 {
				t.Errorf("quick: %d good, max %v; slow: %d timed out", quick.Good, quick.Latency.Max, slow.TimedOut)
			}
			if r.Setup.Count != 20 || r.Fairness != 0.5 || r.Good != 30 || r.TimedOut != 10 {
				t.Errorf("%d connections, fairness %v, %d good, %d timed out", r.Setup.Count, r.Fairness, r.Good, r.TimedOut)
			}
			shops := 0
			for _, startup := range d.startups {
				if strings.Contains(startup, "user\x00q\x00") && strings.Contains(startup, "application_name\x00shop\x00") {
					shops++
				}
			}
			if shops != 15 {
				t.Errorf("%d of 20 connections are those of quick, want its share", shops)
			}
		},
		"a load, and a weight that is its part of all functions unless it says another": func(t *testing.T) {
			d := &database{}
			r := d.storm(t, storm.Plan{Load: storm.Together(60), Callers: []storm.Caller{
				{Name: "half", Share: 0.5}, {Name: "rest", Weight: 7}, {Name: "own", Load: storm.Together(40)},
			}})
			for i, want := range []struct {
				offered uint64
				weight  float64
			}{{30, 0.3}, {30, 7}, {40, 0.4}} {
				if c := r.Callers[i]; c.Offered != want.offered || c.Weight != want.weight {
					t.Errorf("%s: %d offered, weight %v, want %+v", c.Name, c.Offered, c.Weight, want)
				}
			}
		},
		"the warm-up is in the series only": func(t *testing.T) {
			d := &database{}
			load, _ := storm.ParseLoad("5 at once every 1s up to 15")
			r := d.storm(t, storm.Plan{Load: load, Warmup: time.Second})
			if r.Offered != 10 || r.Good != 10 || r.Seconds != 2 || !slices.Equal(r.Series.Good, []uint32{5, 5, 5}) {
				t.Errorf("offered %d, good %d in %v s, over time %v", r.Offered, r.Good, r.Seconds, r.Series.Good)
			}
		},
	})
}

func TestSeriesTellsWhenWhatHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &database{answer: takes(150 * time.Millisecond)}
		load, _ := storm.ParseLoad("2 at once every 300ms up to 4")
		r := d.storm(t, storm.Plan{Load: load, Resolution: 100 * time.Millisecond})
		s := r.Series
		if !slices.Equal(s.Offered, []uint32{2, 0, 0, 2, 0}) || !slices.Equal(s.Good, []uint32{0, 2, 0, 0, 2}) ||
			!slices.Equal(s.InFlight, []int64{2, 0, 0, 2, 0}) || s.P99[1] != 150 || s.P99[0] != 0 || s.Max[4] != 150 {
			t.Errorf("got %+v", s)
		}
		if c := r.Callers[0]; !slices.Equal(c.SeriesOffered, s.Offered) || !slices.Equal(c.SeriesGood, s.Good) {
			t.Errorf("the only caller has %v and %v", c.SeriesOffered, c.SeriesGood)
		}
	})
}

func TestProgressIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &database{answer: takes(10 * time.Millisecond)}
		var seen []storm.Progress
		_, err := storm.Run(t.Context(), storm.Plan{DSN: someDSN, Dial: d.dial, Load: storm.Steady(100, 3*time.Second), Connections: storm.Kept, Kept: 10},
			func(p storm.Progress) { seen = append(seen, p) })
		if err != nil {
			t.Fatal(err)
		}
		d.serving.Wait()
		if len(seen) < 5 {
			t.Fatalf("%d reports in 3 s", len(seen))
		}
		for _, p := range seen {
			if p.Duration != 3*time.Second || p.Good < 50 || p.Good > 150 || p.P99 < 10*time.Millisecond || p.P99 > 11*time.Millisecond {
				t.Errorf("got %+v", p)
			}
		}
	})
}

func TestWhoCannotLogInAtAllIsToldWhy(t *testing.T) {
	refused := fmt.Errorf("nobody listens")
	_, err := storm.Run(t.Context(), storm.Plan{
		DSN: someDSN, Load: storm.Together(1), Dial: func(context.Context, string, string) (net.Conn, error) { return nil, refused },
	}, nil)
	if err == nil || err.Error() != "caller functions cannot log in at app@localhost:5432/app: nobody listens" {
		t.Errorf("got %v", err)
	}
}
