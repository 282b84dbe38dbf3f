package postgres_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy"
	"github.com/weirproxy/weir/proxy/postgres"
)

// sessions lists what fits, by application_name.
func (w *weir) sessions(filter proxy.SessionFilter) map[string]proxy.Session {
	w.tb.Helper()
	filter.Limit = 10000
	list, more, err := w.Sessions(context.Background(), filter)
	if err != nil || more {
		w.tb.Fatalf("%v, more: %v", err, more)
	}
	byName := make(map[string]proxy.Session)
	for _, s := range list {
		byName[s.ApplicationName] = s
	}
	if len(byName) != len(list) {
		w.tb.Errorf("%d sessions, %d names", len(list), len(byName))
	}
	return byName
}

// Each client is shown as what it is, and why it keeps its server connection.
func TestSessionsAreListedOneByOne(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 4})
	client := func(name string) *pgtest.Client { return w.client("application_name=" + name) }
	pids := map[string]string{}
	idle, listening, began, inTransaction, running, waiting := client("idle"), client("listening"), client("began"), client("in"), client("running"), client("waiting")
	idle.Query("SELECT 1")
	listening.Query("LISTEN here")
	began.Query("BEGIN")
	inTransaction.Query("BEGIN; CREATE TEMP TABLE mine ()")
	pids["listening"], pids["in"] = backend(t, listening), backend(t, inTransaction)
	running.Send(query("SELECT pg_sleep(60)"))
	locking := client("locking")
	locking.Query("SELECT pg_advisory_lock(1); PREPARE mine AS SELECT 1; SET application_name = 'unlocking'")
	pids["unlocking"] = backend(t, locking)
	w.eventually("pinned", func() bool { return w.pinned()["advisory_lock"] == 1 && w.pinned()["listen"] == 1 })
	waiting.Send(query("SELECT 1"))
	w.eventually("it waits", func() bool { return w.Stats().Clients["waiting"] == 1 })

	got := w.sessions(proxy.SessionFilter{})
	for name, want := range map[string]struct {
		c     *pgtest.Client
		state string
		by    string
	}{
		"idle":      {idle, "idle", ""},
		"listening": {listening, "pinned", "listen"},
		"began":     {began, "idle in transaction", ""},
		"in":        {inTransaction, "idle in transaction", ""},
		"running":   {running, "active", ""},
		"waiting":   {waiting, "waiting", ""},
		"unlocking": {locking, "pinned", "prepare advisory_lock"},
	} {
		s := got[name]
		if s.State != want.state || strings.Join(s.PinnedBy, " ") != want.by {
			t.Errorf("%s: is %s, pinned by %q, want %s, %q", name, s.State, s.PinnedBy, want.state, want.by)
		}
		if s.ID != want.c.PID || s.Client != want.c.Conn().LocalAddr().String() || s.User != "app" || s.Resource != database || s.Database != "app" {
			t.Errorf("%s: %+v", name, s)
		}
		if pid := pids[name]; pid != "" && fmt.Sprint(s.ServerPID) != pid || (s.ServerPID != 0) != (pid != "" || name == "running") {
			t.Errorf("%s: its server process is %d, want %s", name, s.ServerPID, pid)
		}
		if s.StateMillis < 0 || s.StateMillis > time.Minute.Milliseconds() {
			t.Errorf("%s: for %d ms", name, s.StateMillis)
		}
	}
	if len(got) != 7 {
		t.Errorf("%d sessions", len(got))
	}

	if only := w.sessions(proxy.SessionFilter{State: "pinned"}); len(only) != 2 || only["listening"].ID == 0 || only["unlocking"].ID == 0 {
		t.Errorf("pinned are %v", only)
	}
	if none := w.sessions(proxy.SessionFilter{Resource: "another"}); len(none) != 0 {
		t.Errorf("of another resource are %v", none)
	}
	running.Cancel()
	running.UntilReady(1)
	waiting.UntilReady(1)
	if s := w.sessions(proxy.SessionFilter{State: "idle"})["waiting"]; s.ID != waiting.PID || s.ServerPID != 0 {
		t.Errorf("the one that waited is %+v", s)
	}
}

// How long a session has been in its state counts from the change.
func TestTheTimeInAStateCountsFromTheChange(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1, loops: 1})
	c := w.client("application_name=c")
	const pause = 30 * time.Millisecond
	inState := func(state string) time.Duration {
		t.Helper()
		s := w.sessions(proxy.SessionFilter{})["c"]
		if s.State != state {
			t.Errorf("it is %s, want %s", s.State, state)
		}
		return time.Duration(s.StateMillis) * time.Millisecond
	}
	for _, step := range []struct{ sql, state string }{
		{"SELECT 1", "idle"},
		{"BEGIN", "idle in transaction"},
		{"SELECT 1", "idle in transaction"},
		{"SELECT 2", "idle in transaction"},
		{"COMMIT", "idle"},
		{"LISTEN here", "pinned"},
		{"SELECT 1", "pinned"},
		{"UNLISTEN here", "idle"},
	} {
		began := time.Now()
		c.Query(step.sql)
		w.eventually("it has settled", func() bool { return w.sessions(proxy.SessionFilter{})["c"].State == step.state })
		time.Sleep(pause) // the state lasts at least so long, and not longer than since the query
		if got := inState(step.state); got < pause-time.Millisecond || got > time.Since(began)+time.Millisecond {
			t.Errorf("after %s: %s for %v, after %v", step.sql, step.state, got, time.Since(began))
		}
	}
}

// In session mode, and for replication, the server connection is kept for that reason alone.
func TestSessionsThatKeepTheirServerAnyway(t *testing.T) {
	pg := replicated(t)
	w := start(t, settings{mode: postgres.Session, upstream: pg.DSN()})
	c := w.client("application_name=c")
	c.Query("SELECT 1")
	r := w.client("application_name=r", "replication=database")
	got := w.sessions(proxy.SessionFilter{})
	for name, by := range map[string]string{"c": "pool_mode", "r": "replication"} {
		if s := got[name]; s.State != "pinned" || !slices.Equal(s.PinnedBy, []string{by}) || fmt.Sprint(s.ServerPID) != backend(t, map[string]*pgtest.Client{"c": c, "r": r}[name]) {
			t.Errorf("%s: %+v", name, s)
		}
	}
	r.Send(query("SELECT pg_sleep(60)"))
	awaitSleep(t, pg)
	if s := w.sessions(proxy.SessionFilter{})["r"]; s.State != "active" {
		t.Errorf("%+v", s)
	}
	r.Cancel()
	r.UntilReady(1)
}

// A list is bounded, says so, and does not wait longer than its caller.
func TestAListOfSessionsIsBounded(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{})
	const clients = 600 // more than are looked at at once
	for range clients {
		w.client()
	}
	for limit, more := range map[int]bool{1: true, clients - 1: true, clients: false, clients + 1: false} {
		list, truncated, err := w.Sessions(t.Context(), proxy.SessionFilter{Limit: limit})
		if err != nil || len(list) != min(limit, clients) || truncated != more {
			t.Errorf("limit %d: %d sessions, truncated %v, %v", limit, len(list), truncated, err)
		}
		ids := map[uint32]bool{}
		for _, s := range list {
			ids[s.ID] = true
		}
		if len(ids) != len(list) {
			t.Errorf("limit %d: %d sessions are %d", limit, len(list), len(ids))
		}
	}
	over, stop := context.WithCancel(t.Context())
	stop()
	w.Close()
	if _, _, err := w.Sessions(over, proxy.SessionFilter{Limit: 1}); err != nil {
		t.Errorf("of a server that is closed: %v", err)
	}
}
