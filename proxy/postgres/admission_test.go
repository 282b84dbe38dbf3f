package postgres_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/proxy"
	"github.com/weirproxy/weir/proxy/postgres"
)

// callers are those of the resource with these rules.
func callers(rules ...limiter.CallerRule) *limiter.Callers {
	for i := range rules {
		rules[i] = rules[i].WithDefaults()
	}
	return limiter.NewCallers("resources."+database+".callers", rules, func(_ string, r limiter.Rate) limiter.Bucket {
		return limiter.NewLocal(r, nil)
	})
}

// asking is a client whose transaction waits in the queue.
func (w *weir) asking(sql string, params ...string) *pgtest.Client {
	w.tb.Helper()
	before := w.Stats().Resources[0].Waiting
	c := w.client(params...)
	c.Send(&pgproto3.Query{String: sql})
	w.eventually("it waits", func() bool { return w.Stats().Resources[0].Waiting == before+1 })
	return c
}

// A function may say how long it has in any of three ways. When that time is over its transaction is refused, and the
// session goes on.
func TestADeadlineEndsTheWait(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1, queue: limiter.Queue{Wait: time.Minute}})
	for name, ask := range map[string]struct {
		param, set, sql string
	}{
		"at startup":  {param: "options='-c weir.deadline=150ms'", sql: "SELECT 1"},
		"by SET":      {set: "SET weir.deadline = '150ms'", sql: "SELECT 1"},
		"by comment":  {sql: "/* weir: deadline=150ms */ SELECT 1"},
		"the nearest": {param: "options='-c weir.deadline=1h'", sql: "/* weir: deadline=150ms */ SELECT 1"},
	} {
		t.Run(name, func(t *testing.T) {
			var params []string
			if ask.param != "" {
				params = append(params, ask.param)
			}
			c := w.client(params...)
			if ask.set != "" {
				c.Query(ask.set)
			}
			holder := w.client()
			holder.Query("BEGIN; SELECT 1")
			began := time.Now()
			answer := c.Query(ask.sql)
			explained(t, answer[0], "ERROR", proxy.Deadline, "resources.orders.deadline")
			if took := time.Since(began); took < 150*time.Millisecond || took > 10*time.Second {
				t.Errorf("refused after %v", took)
			}
			holder.Query("COMMIT")
			if got := pgtest.Rows(c.Query("SELECT 2")); len(got) != 1 || got[0] != "2" {
				t.Errorf("afterwards: %q", got)
			}
		})
	}
}

// What a session said by SET is over when it takes it back.
func TestADeadlineThatWasResetIsGone(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1, queue: limiter.Queue{Wait: time.Minute}})
	c := w.client()
	c.Query("SET weir.deadline = '1ms'")
	c.Query("SET weir.deadline = '0'")
	holder := w.client()
	holder.Query("BEGIN; SELECT 1")
	c.Send(&pgproto3.Query{String: "SELECT 1"})
	w.eventually("it waits", func() bool { return w.Stats().Resources[0].Waiting == 1 })
	holder.Query("COMMIT")
	if got := pgtest.Rows(c.UntilReady(1)); len(got) != 1 || got[0] != "1" {
		t.Errorf("got %q", got)
	}
}

// What makes no sense is ignored, and the client is told; it is never taken for something else, and nothing fails.
func TestNonsenseAboutItselfIsIgnoredWithAWarning(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{})
	for value, want := range map[string]string{
		"800":    `weir.deadline: "800" has no unit`,
		"-5ms":   "is in the past",
		"8760h":  "is too long",
		"1e99ms": "is not a duration",
	} {
		c := pgtest.Dial(t, w.addr)
		c.SendStartup(3<<16, map[string]string{"user": "app", "database": database, "options": "-c weir.deadline=" + value})
		if got := warnings(c.UntilReady(1)); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("at startup, %s: warned of %q", value, got)
		}
		c.Query("SET weir.deadline = '" + value + "'")
		if got := warnings(c.Query("SELECT 1")); len(got) > 1 {
			t.Errorf("by SET, %s: warned of %q", value, got)
		}
		answer := c.Query("/* weir: deadline=" + value + " */ SELECT 1")
		if got := warnings(answer); len(got) != 1 || !strings.Contains(got[0], want) || pgtest.Types(answer) != "NTDCZ" {
			t.Errorf("by comment, %s: warned of %q in %s", value, got, pgtest.Types(answer))
		}
	}
	c := w.client()
	if got := warnings(c.Query("/* weir: priority=urgent, patience=1 */ SELECT 1")); len(got) != 1 || !strings.Contains(got[0], "is not a priority") {
		t.Errorf("warned of %q", got)
	}
	c.Query("SET weir.deadline = '800'")
	if got := warnings(c.Query("SELECT 1")); len(got) != 1 || !strings.Contains(got[0], "has no unit") {
		t.Errorf("after SET: warned of %q", got)
	}
	if got := warnings(c.Query("SELECT 1")); len(got) != 0 {
		t.Errorf("warned of %q again", got)
	}
}

func warnings(messages []pgtest.Message) (out []string) {
	for _, m := range messages {
		if m.Type == 'N' {
			out = append(out, m.Field('M'))
		}
	}
	return out
}

// Whoever waits is served by priority: that of its rule, or one that it claims and may have.
func TestMoreImportantTransactionsAreServedFirst(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1, queue: limiter.Queue{Wait: time.Minute}, callers: callers(
		limiter.CallerRule{Name: "checkout", Match: limiter.Match{ApplicationName: "checkout"}, Priority: limiter.Critical},
		limiter.CallerRule{Name: "reports", Match: limiter.Match{ApplicationName: "report-*"}, Priority: limiter.Batch, MaxPriority: limiter.Critical},
		limiter.CallerRule{Name: "by itself", Match: limiter.Match{Caller: "itself"}, Priority: limiter.Sheddable},
	)})
	holder := w.client()
	holder.Query("BEGIN; SELECT 1")
	const note = "CREATE TABLE IF NOT EXISTS served (at serial, who text); INSERT INTO served (who) VALUES ('%s')"
	clients := map[string]*pgtest.Client{}
	for _, c := range []struct{ who, comment, params string }{
		{"sheddable, by what it says", "", "options='-c weir.caller=itself'"},
		{"batch", "", "application_name=report-7"},
		{"normal", "", ""},
		{"batch, claims more than it may", "/* weir: priority=critical */ ", ""},
		{"batch, claims what it may", "/* weir: priority=critical */ ", "application_name=report-8"},
		{"critical", "", "application_name=checkout"},
	} {
		var params []string
		if c.params != "" {
			params = append(params, c.params)
		}
		clients[c.who] = w.asking(c.comment+fmt.Sprintf(note, c.who), params...)
	}
	holder.Query("COMMIT")
	for who, c := range clients {
		if answer := c.UntilReady(1); strings.ContainsRune(pgtest.Types(answer), 'E') {
			t.Errorf("%s: %v", who, answer)
		}
	}
	want := "batch, claims what it may;critical;normal;batch, claims more than it may;batch;sheddable, by what it says"
	if got := strings.Join(pgtest.Rows(holder.Query("SELECT who FROM served ORDER BY at")), ";"); got != want {
		t.Errorf("served %s\nwant   %s", got, want)
	}
	holder.Query("DROP TABLE served")
	by := w.Stats().Resources[0].Admitted
	for caller, n := range map[proxy.AdmittedBy]int64{
		{Caller: "checkout", Priority: "critical"}: 1, {Caller: "reports", Priority: "critical"}: 1, {Caller: "reports", Priority: "batch"}: 1,
		{Caller: "by itself", Priority: "sheddable"}: 1,
	} {
		if by[caller] != n {
			t.Errorf("%d admitted as %v, want %d", by[caller], caller, n)
		}
	}
}

// A client that changes its application_name is another caller from then on.
func TestACallerIsWhoItSaysItIsNow(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{callers: callers(
		limiter.CallerRule{Name: "reports", Match: limiter.Match{ApplicationName: "report-*"}, Rate: &limiter.Rate{PerSecond: 0.001, Burst: 1}},
	)})
	c := w.client()
	for range 3 {
		c.Query("SELECT 1")
	}
	c.Query("SET application_name = 'report-1'")
	c.Query("SELECT 1") // the one token
	explained(t, c.Query("SELECT 1")[0], "ERROR", proxy.Rate, "resources.orders.callers[0].rate")
}

// A caller's own connections bound how many of its transactions run, and leave the others to others.
func TestACallerHasNoMoreConnectionsThanItsOwn(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 3, queue: limiter.Queue{Wait: time.Minute}, callers: callers(
		limiter.CallerRule{Name: "reports", Match: limiter.Match{ApplicationName: "report-*"}, Connections: 1},
	)})
	first := w.client("application_name=report-1")
	first.Query("BEGIN; SELECT 1")
	second := w.asking("SELECT 2", "application_name=report-2")
	for range 2 { // others do not notice
		w.client().Query("BEGIN; SELECT 1")
	}
	first.Query("COMMIT")
	if got := pgtest.Rows(second.UntilReady(1)); len(got) != 1 || got[0] != "2" {
		t.Errorf("got %q", got)
	}
}

// A rule in shadow mode counts what its connections would make wait, and lets it pass.
func TestACallersConnectionsInShadowModeHoldNobodyUp(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 3, callers: callers(
		limiter.CallerRule{Name: "reports", Match: limiter.Match{ApplicationName: "report-*"}, Connections: 1, Mode: limiter.Shadow},
	)})
	for range 3 {
		w.client("application_name=report-1").Query("BEGIN; SELECT 1")
	}
	refused := w.Stats().Resources[0].Refused
	if len(refused) != 1 || refused[0] != (proxy.RefusalStats{Caller: "reports", Reason: "queue_full", Mode: "shadow", Count: 2}) {
		t.Errorf("counted %+v", refused)
	}
}

// In shadow mode the queue decides, counts and remembers, and lets everyone wait as long as it takes.
func TestAQueueInShadowModeRefusesNobody(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1, queue: limiter.Queue{Wait: 20 * time.Millisecond, Length: 1, Mode: limiter.Shadow}})
	holder := w.client()
	holder.Query("BEGIN; SELECT 1")
	var waiting []*pgtest.Client
	for i := range 3 {
		waiting = append(waiting, w.asking(fmt.Sprint("SELECT ", i)))
	}
	time.Sleep(100 * time.Millisecond) // longer than queue.wait: whoever was refused for it would have been by now
	holder.Query("COMMIT")
	for i, c := range waiting {
		if got := pgtest.Rows(c.UntilReady(1)); len(got) != 1 || got[0] != fmt.Sprint(i) {
			t.Errorf("client %d got %q", i, got)
		}
	}
	for _, r := range w.Stats().Resources[0].Refused {
		if r.Mode != "shadow" || r.Reason != "queue_full" || r.Count != 2 {
			t.Errorf("counted %+v", r)
		}
	}
}

// The id that a function reads leads to everything that was known when it was refused.
func TestARefusalIsFoundByItsID(t *testing.T) {
	pgtest.Shared(t)
	refusals := proxy.NewRefusals()
	w := start(t, settings{servers: 1, queue: limiter.Queue{Wait: 30 * time.Millisecond}, refusals: refusals})
	holder := w.client()
	holder.Query("BEGIN; SELECT 1")
	detail := w.client().Query("SELECT 1")[0].Field('D')
	_, id, _ := strings.Cut(detail, "id=")
	id, _, _ = strings.Cut(id, " ")
	got := refusals.Last(10, func(r *proxy.RefusalRecord) bool { return r.ID == id })
	if len(got) != 1 || got[0].Resource != database || got[0].Reason != "queue_timeout" || got[0].Caller != "default" ||
		got[0].WaitedMillis < 30 || got[0].Mode != "enforce" || got[0].At.IsZero() {
		t.Errorf("%s leads to %+v", id, got)
	}
}

// Sessions that keep their server connection take no slot while they rest, but nobody else can have the connection.
func TestSessionsThatRestLeaveTheirSlotToOthers(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 2, queue: limiter.Queue{Wait: time.Minute}, adaptive: limiter.Adaptive{Enabled: true, Frozen: 1, Min: 1}})
	listener := w.client()
	listener.Query("LISTEN news") // keeps its connection
	other := w.client()
	other.Query("BEGIN; SELECT 1")
	waiting := w.asking("SELECT 2")
	if got := pgtest.Rows(listener.Query("SELECT 3")); len(got) != 1 || got[0] != "3" { // it has its connection, and does not wait
		t.Errorf("got %q", got)
	}
	other.Query("COMMIT")
	if got := pgtest.Rows(waiting.UntilReady(1)); len(got) != 1 || got[0] != "2" {
		t.Errorf("got %q", got)
	}
	if got := w.servers("used") + w.servers("idle"); got != 2 {
		t.Errorf("%d server connections, want 2", got)
	}
}

// What a client has left behind is still at work, for nobody, until the server has heard the cancel request: no less work for
// the database than what has a client.
func TestAnAbandonedStatementKeepsItsSlotUntilItHasEnded(t *testing.T) {
	pg := pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 2, queue: limiter.Queue{Wait: time.Minute}, adaptive: limiter.Adaptive{Enabled: true, Frozen: 1, Min: 1}})
	listener := w.client()
	listener.Query("LISTEN news") // keeps its connection for a moment, so that there are two
	w.client().Query("SELECT 1")
	listener.Query("UNLISTEN *")
	w.eventually("two connections are idle", func() bool { return w.servers("idle") == 2 })

	gone := w.client()
	gone.Send(&pgproto3.Query{String: "DO $$ BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(0.3); END $$"})
	awaitSleep(t, pg)
	gone.Abort()
	const resisting = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO %query_canceled%' AND pid <> pg_backend_pid()"
	if got := pgtest.Rows(w.client().Query(resisting)); len(got) != 1 || got[0] != "0" {
		t.Errorf("beside %v abandoned statements another one runs, want one at a time", got)
	}
	if got := pgtest.Rows(w.client().Query("SELECT 7")); len(got) != 1 || got[0] != "7" { // there is one slot, still
		t.Errorf("got %q", got)
	}
}

// Whoever waits in vain while its connection is at its end is forgotten, all of them at once, too.
func TestManyWaitersThatLeaveTogetherCostNobodyAnything(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1, queue: limiter.Queue{Wait: time.Minute}, mode: postgres.Transaction})
	holder := w.client()
	holder.Query("BEGIN; SELECT 1")
	var crowd []*pgtest.Client
	for range 200 {
		c := w.client()
		c.Send(&pgproto3.Query{String: "SELECT 1"})
		crowd = append(crowd, c)
	}
	w.eventually("all wait", func() bool { return w.Stats().Resources[0].Waiting == 200 })
	for _, c := range crowd {
		c.Abort()
	}
	w.eventually("nobody waits", func() bool { return w.Stats().Resources[0].Waiting == 0 })
	holder.Query("COMMIT")
	if got := pgtest.Rows(w.client().Query("SELECT 7")); len(got) != 1 || got[0] != "7" {
		t.Errorf("got %q", got)
	}
}
