package proxy_test

import (
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/proxy"
)

var quiet = slog.New(slog.DiscardHandler)

// Trap 33: the table is a promise to those who handle the errors of their database.
func TestReasons(t *testing.T) {
	want := map[string]string{
		"rate": "53400", "queue_full": "53300", "queue_timeout": "53300", "deadline": "53300", "shed": "53300", "breaker": "57P03", "login_refused": "57P03", "draining": "57P01",
		"clients": "53300", "client_limit": "53400", "login_storm": "53300", "descriptors": "53300", "protocol": "08P01", "not_supported": "0A000",
	}
	for _, r := range proxy.Reasons {
		if want[r.Label] != r.SQLSTATE {
			t.Errorf("%s has SQLSTATE %s, want %q", r.Label, r.SQLSTATE, want[r.Label])
		}
		if r.HTTP < 400 || r.HTTP > 599 || r.Message == "" {
			t.Errorf("%s has HTTP status %d and message %q", r.Label, r.HTTP, r.Message)
		}
		delete(want, r.Label)
	}
	for label := range want {
		t.Errorf("%s is missing", label)
	}
}

func TestARefusalExplainsItself(t *testing.T) {
	r := proxy.Refuse(proxy.Clients, "limits.clients", "100", "100", 2*time.Second)
	r.Waited = 1500 * time.Microsecond
	if !regexp.MustCompile(`^not executed; id=[0-9a-z]+ rule=limits\.clients observed=100 limit=100 waited_ms=1$`).MatchString(r.Detail()) {
		t.Errorf("detail %q", r.Detail())
	}
	hints := map[string]bool{}
	for range 100 {
		var ms int
		hint := r.Hint()
		hints[hint] = true
		m := regexp.MustCompile(`^retry after (\d+) ms$`).FindStringSubmatch(hint)
		if m == nil {
			t.Fatalf("hint %q", hint)
		}
		for _, digit := range m[1] {
			ms = 10*ms + int(digit-'0')
		}
		if ms < 1500 || ms > 2500 {
			t.Errorf("hint %q, want two seconds give or take a quarter", hint)
		}
	}
	if len(hints) < 10 {
		t.Errorf("a hundred refusals have only %d different hints", len(hints))
	}
	if r.RetryAfter = 0; r.Hint() != "" {
		t.Errorf("hint %q without a time to come back", r.Hint())
	}
}

// newGate makes a gate with a budget of ten connections.
func newGate(o proxy.GateOptions) *proxy.Gate {
	o.Name, o.Connections, o.Log = "orders", 10, quiet
	return proxy.NewGate(o)
}

// admit asks for a client without a rule.
func admit(g *proxy.Gate) (*proxy.Ticket, error) {
	t := new(proxy.Ticket)
	admitted, err := g.Admit(t, proxy.Request{Caller: g.Callers().Find(limiter.Identity{User: "app"}), Level: limiter.LevelNormal}, nil)
	if err == nil && !admitted {
		return nil, errors.New("it has to wait")
	}
	return t, err
}

// bucket hands out so many tokens.
type bucket int

func (b *bucket) Return(time.Duration) { *b++ }

func (b *bucket) Take() (time.Duration, bool) {
	if *b == 0 {
		return 100 * time.Millisecond, false
	}
	*b--
	return 0, true
}

func refusedAs(t *testing.T, err error, reason *proxy.Reason) *proxy.Refusal {
	t.Helper()
	r, ok := proxy.AsRefusal(err)
	if !ok || r.Reason != reason {
		t.Fatalf("got %v, want a refusal for %s", err, reason.Label)
	}
	return r
}

func TestRate(t *testing.T) {
	for mode, want := range map[limiter.Mode]int{limiter.Enforce: 2, "": 2, limiter.Shadow: 5, limiter.Off: 5} {
		tokens := bucket(2)
		g := newGate(proxy.GateOptions{Rate: limiter.Rate{PerSecond: 2, Mode: mode}, Bucket: &tokens})
		admitted := 0
		for range 5 {
			ticket, err := admit(g)
			if err == nil {
				admitted++
				ticket.Done(breaker.Success)
				continue
			}
			r := refusedAs(t, err, proxy.Rate)
			if r.RetryAfter != 100*time.Millisecond || r.Rule != "resources.orders.rate" {
				t.Errorf("mode %q: %+v", mode, r)
			}
		}
		if admitted != want {
			t.Errorf("mode %q admits %d of 5, want %d", mode, admitted, want)
		}
		var stats proxy.ResourceStats
		g.AddTo(&stats)
		if stats.Admitted[proxy.AdmittedBy{Caller: "default", Priority: "normal"}] != int64(want) {
			t.Errorf("mode %q counts %v as admitted", mode, stats.Admitted)
		}
		counted := int64(0)
		for _, r := range stats.Refused {
			counted += r.Count
			if r.Reason != "rate" || r.Mode != string(mode) && mode != "" {
				t.Errorf("mode %q counts %+v", mode, r)
			}
		}
		if wantCounted := int64(3); mode == limiter.Off && counted != 0 || mode != limiter.Off && counted != wantCounted {
			t.Errorf("mode %q counts %d refusals", mode, counted)
		}
	}
}

// A refused transaction costs the buckets nothing, and gives back no more than it took: in shadow mode it may have found none.
func TestARefusedTransactionGivesBackTheTokensItTook(t *testing.T) {
	const inside = 11 // ten run, one waits
	for mode, there := range map[limiter.Mode]bucket{limiter.Enforce: inside + 5, limiter.Shadow: 5} {
		tokens := there
		g := newGate(proxy.GateOptions{Rate: limiter.Rate{PerSecond: 2, Mode: mode}, Bucket: &tokens, Queue: limiter.Queue{Length: 1}})
		r := proxy.Request{Caller: g.Callers().Find(limiter.Identity{User: "app"}), Level: limiter.LevelNormal}
		for range inside {
			if _, err := g.Admit(new(proxy.Ticket), r, nil); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			_, err := g.Admit(new(proxy.Ticket), r, nil)
			_ = refusedAs(t, err, proxy.QueueFull)
		}
		if want := max(0, there-inside); tokens != want {
			t.Errorf("mode %s: %d tokens are left, want %d", mode, tokens, want)
		}
	}
}

func TestABreakerOpensTheGateOnlyForProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New("orders", breaker.Config{Failures: 3, Cooldown: time.Second}, nil)
		g := newGate(proxy.GateOptions{Breaker: b})
		for i := range 3 {
			if got := g.Dialed(errors.New("connection refused")); (got != nil) != (i == 2) {
				t.Fatalf("failed connect %d: %v", i, got)
			}
		}
		_, err := admit(g)
		r := refusedAs(t, err, proxy.Breaker)
		if r.RetryAfter <= 0 || !strings.Contains(r.Detail(), "rule=resources.orders.breaker") || !strings.HasPrefix(r.Hint(), "retry after") {
			t.Errorf("refusal %+v, hint %q", r, r.Hint())
		}
		_ = refusedAs(t, g.Reachable(), proxy.Breaker)

		time.Sleep(2 * time.Second) // the cooldown is over
		probe, err := admit(g)
		if err != nil {
			t.Fatalf("the probe: %v", err)
		}
		if _, err := admit(g); err == nil {
			t.Error("two probes at once")
		}
		probe.Done(breaker.Success)
		if _, err := admit(g); err != nil {
			t.Errorf("after the probe: %v", err)
		}
	})
}

func TestABreakerInShadowCountsAndLetsPass(t *testing.T) {
	b := breaker.New("orders", breaker.Config{Failures: 1, Mode: "shadow"}, nil)
	g := newGate(proxy.GateOptions{Breaker: b})
	_ = g.Dialed(errors.New("connection refused"))
	if _, err := admit(g); err != nil {
		t.Errorf("refused: %v", err)
	}
	if err := g.Reachable(); err != nil {
		t.Errorf("refused at login: %v", err)
	}
	var stats proxy.ResourceStats
	g.AddTo(&stats)
	if len(stats.Refused) != 1 || stats.Refused[0].Mode != "shadow" || stats.Refused[0].Count != 1 {
		t.Errorf("counted %v", stats.Refused)
	}
}

// Whoever asks for the state, say a load balancer every second, is not a client that was refused.
func TestAskingWhetherTheResourceAnswersRefusesNobody(t *testing.T) {
	b := breaker.New("orders", breaker.Config{Failures: 1}, nil)
	g := newGate(proxy.GateOptions{Breaker: b})
	if g.Answering() != nil {
		t.Error("a closed breaker does not answer")
	}
	_ = g.Dialed(errors.New("connection refused"))
	if g.Answering() == nil {
		t.Error("an open breaker answers")
	}
	var stats proxy.ResourceStats
	g.AddTo(&stats)
	if len(stats.Refused) != 0 {
		t.Errorf("counted %v", stats.Refused)
	}
}

// A rate refusal must give back the probe that the breaker let through.
func TestARefusedProbeLetsTheNextOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New("orders", breaker.Config{Failures: 1, Cooldown: time.Second}, nil)
		tokens := bucket(0)
		g := newGate(proxy.GateOptions{Rate: limiter.Rate{PerSecond: 1}, Bucket: &tokens, Breaker: b})
		_ = g.Dialed(errors.New("connection refused"))
		time.Sleep(2 * time.Second)
		_, err := admit(g)
		_ = refusedAs(t, err, proxy.Rate)
		tokens = 1
		if _, err := admit(g); err != nil {
			t.Errorf("the next probe: %v", err)
		}
	})
}

// A session may keep its server connection, and become somebody else's between two transactions.
func TestAKeptSessionIsChargedToWhoeverItIsNow(t *testing.T) {
	rule := limiter.CallerRule{Match: limiter.Match{ApplicationName: "report"}, Connections: 1, Priority: limiter.Batch}
	g := newGate(proxy.GateOptions{Callers: limiter.NewCallers("callers", []limiter.CallerRule{rule}, nil)})
	before := proxy.Request{Caller: g.Callers().Find(limiter.Identity{User: "app"}), Level: limiter.LevelNormal}
	report := proxy.Request{Caller: g.Callers().Find(limiter.Identity{User: "app", ApplicationName: "report"}), Level: limiter.LevelBatch}
	var kept, other proxy.Ticket
	if admitted, err := g.Admit(&kept, before, nil); !admitted || err != nil {
		t.Fatal(admitted, err)
	}
	kept.Keep(1, limiter.Use{})
	if err := g.Readmit(&kept, report); err != nil {
		t.Fatal(err)
	}
	if got := report.Caller.Admitted[limiter.LevelBatch].Load(); got != 1 {
		t.Errorf("%d transactions of the report are counted, want 1", got)
	}
	if admitted, err := g.Admit(&other, report, nil); admitted || err != nil {
		t.Errorf("a second report is admitted: %v, %v; want it to wait, as one is all they may have", admitted, err)
	}
	other.Abandon(2)
	kept.Leave(2, limiter.Use{})
	if admitted, err := g.Admit(&other, report, nil); !admitted || err != nil {
		t.Errorf("a report is admitted when the first one is through: %v, %v", admitted, err)
	}
}

func TestAdmittingAllocatesNothing(t *testing.T) {
	g := newGate(proxy.GateOptions{Rate: limiter.Rate{PerSecond: 1e9}, Bucket: limiter.NewLocal(limiter.Rate{PerSecond: 1e9, Burst: 1e9}, nil)})
	var ticket proxy.Ticket
	r := proxy.Request{Caller: g.Callers().Find(limiter.Identity{User: "app"}), Level: limiter.LevelNormal, Class: 1, Deadline: time.Second}
	if got := testing.AllocsPerRun(1000, func() {
		r.Now += int64(time.Millisecond)
		if admitted, err := g.Admit(&ticket, r, nil); !admitted || err != nil {
			t.Fatal(admitted, err)
		}
		ticket.Done(breaker.Success)
		ticket.Leave(r.Now, limiter.Use{Took: time.Microsecond})
		g.QueueWait.Observe(time.Millisecond)
		g.Transaction.Observe(time.Millisecond)
	}); got != 0 {
		t.Errorf("allocates %v times, want 0", got)
	}
}

func TestDurationsAreCumulative(t *testing.T) {
	var d proxy.Durations
	for _, t := range []time.Duration{50 * time.Microsecond, 3 * time.Millisecond, 3 * time.Millisecond, time.Minute} {
		d.Observe(t)
	}
	h := d.Histogram()
	if h.Count != 4 || h.Sum != time.Minute+6*time.Millisecond+50*time.Microsecond {
		t.Errorf("count %d, sum %v", h.Count, h.Sum)
	}
	for i, bound := range h.Bounds {
		want := uint64(1)
		if bound >= .005 {
			want = 3
		}
		if h.Counts[i] != want {
			t.Errorf("%d at most %v s, want %d", h.Counts[i], bound, want)
		}
	}
}
