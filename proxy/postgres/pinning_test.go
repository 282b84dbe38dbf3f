package postgres_test

import (
	"strings"
	"testing"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// Trap 41: where sessions may not keep their server connection, what would make them is not executed, whichever way it comes.
func TestWhatWouldPinIsRefused(t *testing.T) {
	pgtest.Each(t, whatWouldPinIsRefused)
}

func whatWouldPinIsRefused(t *testing.T, pg *pgtest.Postgres) {
	w := start(t, settings{servers: 1, pinning: postgres.RefusePins, upstream: pg.DSN()})
	c := w.client()
	pid := backend(t, c)
	batch := func(sql string, parameters ...string) []frontend {
		return []frontend{parse("", sql), bindTo("", parameters...), describe('P', ""), execute("", 0), synchronize}
	}
	tests := map[string]struct {
		do     []frontend
		reason string
	}{
		"LISTEN":                    {[]frontend{query("LISTEN here")}, "listen"},
		"a temporary table":         {[]frontend{query("SELECT 1; CREATE TEMP TABLE mine ()")}, "temp_table"},
		"a lock":                    {batch("SELECT pg_advisory_lock($1)", "1"), "advisory_lock"},
		"several":                   {[]frontend{query("PREPARE mine AS SELECT 1; LISTEN here")}, "prepare, listen"},
		"LISTEN in a batch":         {batch("LISTEN here"), "listen"},
		"a cursor beyond the block": {[]frontend{query("DECLARE mine CURSOR WITH HOLD FOR SELECT 1")}, "cursor_with_hold"},
	}
	for name, test := range tests {
		for range 2 {
			c.Send(test.do...)
			got := c.UntilReady(1)
			refused := false
			for _, m := range got {
				refused = refused || m.Type == 'E' && m.Field('C') == "0A000" && strings.Contains(m.Field('M'), "("+test.reason+")") && strings.Contains(m.Field('H'), "session")
			}
			if !refused || got[len(got)-1].Body[0] != 'I' {
				t.Errorf("%s is answered %v", name, got)
			}
		}
	}
	c.Query("BEGIN; SELECT 1")
	if got := c.Query("LISTEN here"); got[len(got)-1].Body[0] != 'E' {
		t.Errorf("LISTEN in a transaction is answered %v", got)
	}
	c.Query("ROLLBACK")
	c.Query("SET work_mem = '5MB'")
	if got := one(t, c.Query("SELECT current_setting('work_mem') || pg_backend_pid()")); got != "5MB"+pid {
		t.Errorf("then %s, want %s", got, "5MB"+pid)
	}
	if got := one(t, c.Query("SELECT count(*) FROM pg_listening_channels()")); got != "0" {
		t.Errorf("it listens to %s channels", got)
	}
	if got := one(t, c.Query("SELECT 'too long to be looked at first"+strings.Repeat(" ", 100<<10)+"'")); !strings.HasPrefix(got, "too long") {
		t.Errorf("a long query gives %.50s", got)
	}

	c.Send(query("LISTEN here /*" + strings.Repeat(" ", 100<<10) + "*/"))
	got := c.UntilClosed()
	if last := got[len(got)-1]; last.Field('S') != "FATAL" || last.Field('C') != "0A000" {
		t.Errorf("a long LISTEN is answered %v", got)
	}
	if got := one(t, w.client().Query("SELECT count(*) FROM pg_listening_channels()")); got != "0" {
		t.Errorf("somebody listens to %s channels", got)
	}
}

// However many sessions would keep a server connection, some are left for the others.
func TestPinnedSessionsAreBounded(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 3, pinned: 2, pinning: postgres.WarnPins})
	a, b, c := w.client(), w.client(), w.client()
	a.Query("LISTEN here")
	b.Query("LISTEN here")
	w.eventually("two are pinned", func() bool { return w.pinned()["listen"] == 2 })
	a.Query("CREATE TEMP TABLE mine ()") // is pinned already
	w.eventually("one of them for two reasons", func() bool { return w.pinned()["temp_table"] == 1 })
	c.Send(query("LISTEN here"))
	got := c.UntilClosed()
	if last := got[len(got)-1]; last.Field('S') != "FATAL" || last.Field('C') != "0A000" || last.Field('D') == "" {
		t.Errorf("the third is answered %v", got)
	} else if m := last.Field('M'); !strings.Contains(m, "pinned: 2") || strings.Contains(m, "pinning") {
		t.Errorf("it is not told what decided that: %s", m)
	}
	b.Query("UNLISTEN here")
	w.eventually("one is pinned", func() bool { return w.pinned()["listen"] == 1 })
	d := w.client()
	d.Query("LISTEN here")
	w.eventually("two are pinned again", func() bool { return w.pinned()["listen"] == 2 })
}
