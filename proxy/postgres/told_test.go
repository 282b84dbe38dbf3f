package postgres_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/pool"
	"github.com/weirproxy/weir/proxy/postgres"
)

// informed is a client that remembers what it was told of parameters, at login and since.
type informed struct {
	*pgtest.Client
	told map[string]string
}

func inform(c *pgtest.Client) *informed { return &informed{c, maps.Clone(c.Parameters)} }

// rows are those of the answer to a query.
func (c *informed) rows(sql string) []string {
	messages := c.Query(sql)
	for _, m := range messages {
		if m.Type == 'S' {
			name, value, _ := bytes.Cut(bytes.TrimSuffix(m.Body, []byte{0}), []byte{0})
			c.told[string(name)] = string(value)
		}
	}
	return pgtest.Rows(messages)
}

// saysOtherwise is what the session has of all that is reported, where it is not what its client was told.
func (c *informed) saysOtherwise() (differs []string) {
	for _, name := range slices.Sorted(maps.Keys(c.told)) {
		if name == "session_authorization" || name == "is_superuser" {
			continue
		}
		if got := c.rows("SHOW " + name); len(got) != 1 || got[0] != c.told[name] {
			differs = append(differs, fmt.Sprintf("%s is %q, told %q", name, got, c.told[name]))
		}
	}
	return differs
}

// eachVersion runs a test with servers of its own, whose configuration it may change.
func eachVersion(t *testing.T, test func(t *testing.T, pg *pgtest.Postgres)) {
	for _, version := range []int{0, pgserver.CachedVersion} {
		t.Run(fmt.Sprintf("version %d", version), func(t *testing.T) { test(t, pgtest.Start(t, pgtest.Config{Version: version})) })
	}
}

// Trap 43: whatever the defaults of the role, the database or the server are by now, and whichever connection a session gets, it runs with what
// its client was told, or its client is told.
func TestASessionRunsWithWhatItWasTold(t *testing.T) { eachVersion(t, aSessionRunsWithWhatItWasTold) }

func aSessionRunsWithWhatItWasTold(t *testing.T, pg *pgtest.Postgres) {
	const servers = 2
	changes := map[string]struct{ change, undo string }{
		"role": {
			"ALTER ROLE app SET TimeZone = 'Asia/Tokyo'; ALTER ROLE app SET DateStyle = 'German'; ALTER ROLE app SET IntervalStyle = 'iso_8601'",
			"ALTER ROLE app RESET ALL",
		},
		"encoding": {
			"ALTER ROLE app SET client_encoding = 'LATIN1'; ALTER ROLE app SET standard_conforming_strings = off; ALTER ROLE app SET escape_string_warning = off",
			"ALTER ROLE app RESET ALL",
		},
		"database":  {"ALTER DATABASE app SET TimeZone = 'Asia/Tokyo'", "ALTER DATABASE app RESET ALL"},
		"read only": {"ALTER ROLE app SET default_transaction_read_only = on", "ALTER ROLE app RESET ALL"},
		"both":      {"ALTER ROLE app SET application_name = 'by default'; ALTER DATABASE app SET TimeZone = 'Asia/Tokyo'", "ALTER ROLE app RESET ALL; ALTER DATABASE app RESET ALL"},
	}
	super := pgtest.Connect(t, pg.SuperDSN())
	for name, test := range changes {
		t.Run(name, func(t *testing.T) {
			w := start(t, settings{servers: servers, upstream: pg.DSN()})
			before := inform(w.client())
			holder := w.client()
			before.rows("SELECT 1")
			script(super, test.change)
			defer script(super, test.undo)
			holder.Query("BEGIN")
			older := one(t, holder.Query("SELECT pg_backend_pid()")) // has the old connection, so that a new one is opened
			before.rows("SELECT 1")
			after := inform(w.client())
			for range 2 {
				for name, c := range map[string]*informed{"before": before, "after": after} {
					if differs := c.saysOtherwise(); differs != nil {
						t.Errorf("a client from %s the change: %s", name, strings.Join(differs, "; "))
					}
				}
				holder.Query("ROLLBACK")
			}
			direct := pgtest.Connect(t, pg.DSN())
			for name, want := range direct.Parameters {
				if got := after.Parameters[name]; got != want {
					t.Errorf("a new client is told %s = %q, the server tells %q", name, got, want)
				}
			}
			w.eventually("the older connection is gone", func() bool {
				return len(pgtest.Rows(super.Query("SELECT 1 FROM pg_stat_activity WHERE pid = "+older))) == 0
			})
		})
	}
}

// The same where the configuration is reloaded: connections follow it while they are pooled.
func TestASessionRunsWithWhatItWasToldAfterAReload(t *testing.T) {
	eachVersion(t, aSessionRunsWithWhatItWasToldAfterAReload)
}

func aSessionRunsWithWhatItWasToldAfterAReload(t *testing.T, pg *pgtest.Postgres) {
	super := pgtest.Connect(t, pg.SuperDSN())
	w := start(t, settings{servers: 1, upstream: pg.DSN()})
	asked, plain, other := inform(w.client("TimeZone=UTC")), inform(w.client()), inform(w.client())
	for _, c := range []*informed{asked, plain, other} {
		c.rows("SELECT 1")
	}
	super.Query("ALTER SYSTEM SET TimeZone = 'Asia/Tokyo'")
	super.Query("ALTER SYSTEM SET DateStyle = 'German'")
	super.Query("SELECT pg_reload_conf()")
	w.eventually("the configuration is reloaded", func() bool { return one(t, pgtest.Connect(t, pg.DSN()).Query("SHOW TimeZone")) == "Asia/Tokyo" })
	plain.rows("SELECT 1") // the connection reads its new configuration, and says so
	for name, c := range map[string]*informed{"asked": asked, "plain": plain, "other": other, "new": inform(w.client())} {
		if differs := c.saysOtherwise(); differs != nil {
			t.Errorf("%s: %s", name, strings.Join(differs, "; "))
		}
	}
	if got := asked.rows("SHOW TimeZone"); got[0] != "UTC" {
		t.Errorf("TimeZone = %s, where UTC was asked for", got)
	}
	if got := inform(w.client()).told["DateStyle"]; got != "German, DMY" {
		t.Errorf("a new client is told DateStyle = %s", got)
	}
}

// What a client asked for at startup holds, even if it was no more than the default of that moment.
func TestWhatWasAskedForHolds(t *testing.T) { eachVersion(t, whatWasAskedForHolds) }

func whatWasAskedForHolds(t *testing.T, pg *pgtest.Postgres) {
	super := pgtest.Connect(t, pg.SuperDSN())
	const asked = "options='-c standard_conforming_strings=on -c statement_timeout=0 -c work_mem=4MB' TimeZone=UTC DateStyle=ISO client_encoding=UTF8 search_path=public"
	const look = "SELECT concat_ws('|', current_setting('TimeZone'), current_setting('DateStyle'), current_setting('client_encoding'), current_setting('search_path')," +
		" current_setting('standard_conforming_strings'), current_setting('statement_timeout'), current_setting('work_mem'))"
	const want = "UTC|ISO, MDY|UTF8|public|on|0|4MB"
	script(super, "ALTER ROLE app SET TimeZone = 'UTC'; ALTER ROLE app SET search_path = 'public'")
	w := start(t, settings{servers: 2, upstream: pg.DSN(), pool: pool.Config{ServerLifetime: 100 * time.Millisecond}})
	old := w.client(asked)
	if got := one(t, old.Query(look)); got != want {
		t.Fatalf("before: %s, want %s", got, want)
	}
	script(super, "ALTER ROLE app SET TimeZone = 'Asia/Tokyo'; ALTER ROLE app SET search_path = 'tenant'; ALTER ROLE app SET standard_conforming_strings = off")
	script(super, "ALTER ROLE app SET client_encoding = 'LATIN1'; ALTER ROLE app SET statement_timeout = '5s'; ALTER ROLE app SET work_mem = '5MB'")
	pid := one(t, w.client().Query("SELECT pg_backend_pid()"))
	w.eventually("there is a new server connection", func() bool { return one(t, w.client().Query("SELECT pg_backend_pid()")) != pid })
	for name, c := range map[string]*pgtest.Client{"the old client": old, "a new one": w.client(asked), "another": w.client(asked)} {
		if got := one(t, c.Query(look)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// What was asked for at startup is what RESET brings back, as on a connection of one's own.
func TestTheStartupIsWhatResetBringsBack(t *testing.T) {
	eachVersion(t, theStartupIsWhatResetBringsBack)
}

func theStartupIsWhatResetBringsBack(t *testing.T, pg *pgtest.Postgres) {
	super := pgtest.Connect(t, pg.SuperDSN())
	script(super, "CREATE ROLE tenant; GRANT tenant TO app; CREATE SCHEMA mine AUTHORIZATION app")
	const asked = "search_path=mine options='-c statement_timeout=77s -c my.tenant=42 -c role=tenant -c DateStyle=German'"
	const look = "SELECT concat_ws('|', current_setting('search_path'), current_setting('statement_timeout'), current_setting('my.tenant', true)," +
		" current_user, current_setting('DateStyle'), nullif(current_setting('my.other', true), ''))"
	for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Session} {
		w := start(t, settings{servers: 2, upstream: pg.DSN(), mode: mode})
		for _, how := range []string{
			"RESET ALL", "RESET search_path", "RESET my.tenant", "RESET ROLE", "SET ROLE NONE", "SET ROLE app", "RESET statement_timeout",
			"SET statement_timeout TO DEFAULT", "SET statement_timeout = DEFAULT", "RESET DateStyle", "DISCARD ALL", "SET my.tenant = '43'", "SET my.tenant = ''",
			"SET SESSION AUTHORIZATION DEFAULT", "RESET SESSION AUTHORIZATION", "BEGIN; RESET ALL; ROLLBACK", "SET search_path = public; RESET ALL",
			"RESET ALL; SET search_path = public", "SET search_path = public; BEGIN; RESET search_path; ROLLBACK", "SET my.other = 'x'; RESET my.tenant",
			"SELECT set_config('my.tenant', '44', false)", "SELECT set_config('search_path', 'public', false)",
		} {
			direct, proxied := pgtest.Connect(t, keyword(pg)+" "+asked), w.client(asked)
			for _, extended := range []bool{false, true} {
				for _, c := range []*pgtest.Client{direct, proxied} {
					if extended && mode != postgres.Session && !strings.Contains(how, ";") {
						ask(c, parse("", how), bind("", ""), execute("", 0))
					} else {
						c.Query(how)
					}
				}
				for range 2 {
					if want, got := one(t, direct.Query(look)), one(t, proxied.Query(look)); got != want {
						t.Errorf("%s, behind %s: %s, PostgreSQL has %s", mode, how, got, want)
					}
				}
			}
			direct.Close()
			proxied.Close()
		}
	}
}

// Where a session's settings are refused nothing runs, not even what ends the failed transaction that they leave.
func TestNothingRunsBehindSettingsThatAreRefused(t *testing.T) {
	pg := pgtest.Start(t, pgtest.Config{})
	super := pgtest.Connect(t, pg.SuperDSN())
	direct := pgtest.Connect(t, pg.DSN())
	direct.Query("CREATE TABLE ran(who text)")
	const insert = "INSERT INTO ran VALUES (current_user)"
	tests := map[string]func(c *pgtest.Client){
		"rollback in a query":     func(c *pgtest.Client) { c.Send(query("ROLLBACK; " + insert)) },
		"behind a comment":        func(c *pgtest.Client) { c.Send(query("/* ; */ -- x\n ;; abort; " + insert)) },
		"commit":                  func(c *pgtest.Client) { c.Send(query("commit; " + insert)) },
		"end":                     func(c *pgtest.Client) { c.Send(query("END; " + insert)) },
		"chain":                   func(c *pgtest.Client) { c.Send(query("ROLLBACK AND CHAIN; " + insert + "; COMMIT")) },
		"a pipeline of queries":   func(c *pgtest.Client) { c.Send(query("SELECT 1"), query("ROLLBACK"), query(insert)) },
		"a pipeline of batches":   func(c *pgtest.Client) { c.Send(batch("SELECT 1", "ROLLBACK", insert)...) },
		"batches, rollback first": func(c *pgtest.Client) { c.Send(batch("ROLLBACK", insert)...) },
		"one batch": func(c *pgtest.Client) {
			c.Send(slices.Concat(unsynced("ROLLBACK"), unsynced(insert), []frontend{synchronize})...)
		},
		"long, and in pieces":        func(c *pgtest.Client) { c.Send(query(strings.Repeat(" ", 100<<10) + "ROLLBACK; " + insert)) },
		"in a comment of many bytes": func(c *pgtest.Client) { c.Send(query("/*" + strings.Repeat("x", 100<<10) + "*/ROLLBACK; " + insert)) },
	}
	for name, say := range tests {
		for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Session} {
			script(super, "CREATE ROLE gone; GRANT gone TO app; GRANT ALL ON ran TO gone")
			w := start(t, settings{servers: 1, upstream: pg.DSN(), mode: mode})
			c := w.client("options='-c role=gone'")
			if mode == postgres.Transaction {
				one(t, c.Query("SELECT current_user"))
				w.client().Query("SELECT 1")
			}
			script(super, "DROP OWNED BY gone; DROP ROLE gone")
			say(c)
			if got := c.UntilClosed(); len(got) != 1 || got[0].Field('S') != "FATAL" || got[0].Field('C') != "22023" {
				t.Errorf("%s, %s: answered %v, want FATAL 22023", name, mode, got)
			}
			w.eventually("the server connection is free", func() bool { return w.servers("used") == 0 })
			if got := one(t, direct.Query("SELECT count(*) FROM ran")); got != "0" {
				t.Errorf("%s, %s: it ran", name, mode)
				direct.Query("TRUNCATE ran")
			}
		}
	}
}

// unsynced is a batch of one statement without its Sync.
func unsynced(sql string) []frontend { return []frontend{parse("", sql), bind("", ""), execute("", 0)} }

// batch are batches of a statement each.
func batch(statements ...string) (messages []frontend) {
	for _, sql := range statements {
		messages = append(append(messages, unsynced(sql)...), synchronize)
	}
	return messages
}

// With reset: always nothing is left to the next client, not even what no reading of SQL can notice.
func TestAlwaysResetLeavesNothing(t *testing.T) {
	pgtest.Each(t, alwaysResetLeavesNothing)
}

func alwaysResetLeavesNothing(t *testing.T, pg *pgtest.Postgres) {
	direct := pgtest.Connect(t, pg.DSN())
	for _, sql := range []string{
		"CREATE OR REPLACE FUNCTION leave_dotted() RETURNS text LANGUAGE sql AS $$ SELECT set_config('hidden.tenant', 'a stranger', false) $$",
		"CREATE OR REPLACE FUNCTION leave_timeout() RETURNS text LANGUAGE sql AS $$ SELECT set_config('statement_timeout', '12345', false) $$",
		"CREATE OR REPLACE FUNCTION leave_zone() RETURNS text LANGUAGE sql AS $$ SELECT set_config('TimeZone', 'Asia/Tokyo', false) $$",
		"CREATE OR REPLACE FUNCTION leave_lock() RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_lock(4711) $$",
		"CREATE OR REPLACE FUNCTION leave_table() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE left_here(v int); END $$",
		"CREATE OR REPLACE FUNCTION leave_seed() RETURNS void LANGUAGE sql AS $$ SELECT setseed(0.5) $$",
		"CREATE OR REPLACE FUNCTION leave_statement() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'pre'||'pare left_here as select 1'; END $$",
		"CREATE OR REPLACE VIEW leave_by_view AS SELECT set_config('hidden.tenant', 'a stranger', false)",
	} {
		if got := direct.Query(sql); pgtest.Types(got) != "CZ" && pgtest.Types(got) != "NCZ" {
			t.Fatalf("%s: %v", sql, got)
		}
	}
	const look = "SELECT concat_ws('|', coalesce(nullif(current_setting('hidden.tenant', true), ''), 'nobody'), current_setting('statement_timeout'), current_setting('TimeZone')," +
		" (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), to_regclass('pg_temp.left_here'), (SELECT count(*) FROM pg_prepared_statements WHERE from_sql))"
	w := start(t, settings{servers: 1, upstream: pg.DSN(), reset: postgres.ResetAlways})
	clean := one(t, w.client().Query(look))
	mine := w.client("options='-c my.own=1'")
	mine.Query("SET lock_timeout = '3s'")
	for _, leave := range []string{"leave_dotted()", "leave_timeout()", "leave_zone()", "leave_lock()", "leave_table()", "leave_statement()"} {
		stranger := w.client()
		stranger.Query("SELECT " + leave)
		if got := one(t, mine.Query(look)); got != clean {
			t.Errorf("behind %s: %s, want %s", leave, got, clean)
		}
		stranger.Query("SELECT " + leave)
		if got := one(t, w.client().Query(look)); got != clean {
			t.Errorf("behind %s a new client has %s, want %s", leave, got, clean)
		}
		if got := one(t, mine.Query("SELECT concat_ws('|', current_setting('my.own'), current_setting('lock_timeout'))")); got != "1|3s" {
			t.Errorf("behind %s the client has %s of its own", leave, got)
		}
	}
	w.client().Query("SELECT * FROM leave_by_view")
	if got := one(t, mine.Query(look)); got != clean {
		t.Errorf("behind a view: %s, want %s", got, clean)
	}
	for range 3 { // statements that are shared go on working
		for _, c := range []*pgtest.Client{mine, w.client()} {
			if got := ask(c, parse("s", "SELECT 'shared'"), bind("", "s"), execute("", 0), closing('S', "s")); got != "shared" {
				t.Errorf("a prepared statement: %s", got)
			}
		}
	}
}

// A standby that is promoted says so on its connections; new clients are told at once, as they are when the server turns read-only.
func TestNewClientsAreToldWhatTheServerIsNow(t *testing.T) {
	primary := pgtest.Start(t, pgtest.Config{HBA: []string{"host replication postgres 127.0.0.1/32 scram-sha-256"}})
	standby := pgtest.Start(t, pgtest.Config{Primary: primary.SuperDSN()})
	w := start(t, settings{servers: 2, upstream: standby.DSN()})
	picky := start(t, settings{servers: 1, upstream: standby.DSN() + "&target_session_attrs=standby"})
	reader := picky.client()
	reader.Query("SELECT 1")
	old := inform(w.client())
	old.rows("SELECT 1")
	if got := old.told["in_hot_standby"]; got != "on" {
		t.Fatalf("a client of a standby is told in_hot_standby = %s", got)
	}
	asked := w.client("application_name=asked", "work_mem=5MB")
	if err := standby.Exec(t.Context(), "SELECT pg_promote(true)"); err != nil {
		t.Fatal(err)
	}
	// Nobody asks for anything: clients who want a primary leave as soon as they are told that this is none.
	w.eventually("new clients are told of a primary", func() bool { return w.client().Parameters["in_hot_standby"] == "off" })
	if got := w.client("application_name=asked", "work_mem=5MB").Parameters["in_hot_standby"]; got != "off" {
		t.Errorf("a client with settings is told in_hot_standby = %s", got)
	}
	if got := one(t, reader.Query("SELECT 1")); got != "1" {
		t.Errorf("what runs when the server says so is answered %s", got)
	}
	picky.eventually("no connection is kept to what is no standby any more", func() bool { return picky.servers("idle") == 0 })
	for name, c := range map[string]*informed{"old": old, "asked": inform(asked)} {
		c.rows("SELECT 1")
		if got := c.told["in_hot_standby"]; got != "off" {
			t.Errorf("the %s client was told in_hot_standby = %s", name, got)
		}
	}
}

// target_session_attrs holds for as long as a server connection lives.
func TestAConnectionThatTakesNoWritesAnyMoreIsReplaced(t *testing.T) {
	pg := pgtest.Start(t, pgtest.Config{})
	for _, attrs := range []string{"", "&target_session_attrs=read-write"} {
		w := start(t, settings{servers: 1, upstream: pg.DSN() + attrs, timeouts: postgres.Timeouts{}})
		c := w.client()
		pid := one(t, c.Query("SELECT pg_backend_pid()"))
		c.Query("BEGIN")
		c.Query("SET TRANSACTION READ ONLY")
		if got := c.Query("CREATE TABLE never(v int)"); got[0].Field('C') != "25006" {
			t.Fatalf("got %v", got)
		}
		if got := c.Query("ROLLBACK"); pgtest.Types(got) != "CZ" {
			t.Errorf("the transaction ends with %v", got)
		}
		if replaced := one(t, c.Query("SELECT pg_backend_pid()")) != pid; replaced != (attrs != "") {
			t.Errorf("%q: replaced: %t", attrs, replaced)
		}
	}
}

// script runs statements one by one.
func script(c *pgtest.Client, statements string) {
	for sql := range strings.SplitSeq(statements, "; ") {
		if got := c.Query(sql); pgtest.Types(got) != "CZ" {
			panic(fmt.Sprintf("%s: %v", sql, got))
		}
	}
}
