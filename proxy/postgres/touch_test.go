package postgres_test

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// pinned lists why sessions keep their server connection now.
func (w *weir) pinned() map[string]int64 {
	out := maps.Clone(w.Stats().Resources[0].Pinned)
	maps.DeleteFunc(out, func(_ string, n int64) bool { return n == 0 })
	return out
}

// Trap 41: what a statement leaves in the session keeps the server connection, and the next client sees nothing of it.
func TestSessionStateKeepsTheServerAndNobodyElseSeesIt(t *testing.T) {
	pgtest.Each(t, sessionStateKeepsTheServerAndNobodyElseSeesIt)
}

func sessionStateKeepsTheServerAndNobodyElseSeesIt(t *testing.T, pg *pgtest.Postgres) {
	direct := pgtest.Connect(t, pg.DSN())
	direct.Query(`CREATE OR REPLACE FUNCTION rename_me() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SE' || 'T application_name = ''renamed'''; END $$`)
	const (
		temp      = "SELECT count(*) FROM pg_class WHERE relname = 'mine' AND relpersistence = 't'"
		listening = "SELECT count(*) FROM pg_listening_channels()"
		locks     = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
		prepared  = "SELECT count(*) FROM pg_prepared_statements WHERE name = 'mine'"
		cursors   = "SELECT count(*) FROM pg_cursors"
	)
	tests := map[string]struct {
		do          []exchange
		reason      string
		check       string
		mine, yours string
	}{
		"CREATE TEMP TABLE":            {queries("CREATE TEMP TABLE mine ()"), "temp_table", temp, "1", "0"},
		"CREATE LOCAL TEMPORARY TABLE": {queries("CREATE LOCAL TEMPORARY TABLE IF NOT EXISTS mine ()"), "temp_table", temp, "1", "0"},
		"SELECT INTO TEMP":             {queries("SELECT 1 AS one INTO TEMP mine"), "temp_table", temp, "1", "0"},
		"a temporary view":             {queries("CREATE OR REPLACE TEMP VIEW mine AS SELECT 1 AS one"), "temp_table", temp, "1", "0"},
		"pg_temp":                      {queries("CREATE TABLE pg_temp.mine ()"), "temp_table", temp, "1", "0"},
		"LISTEN":                       {queries("LISTEN here"), "listen", listening, "1", "0"},
		"an advisory lock":             {queries("SELECT pg_advisory_lock(1)"), "advisory_lock", locks, "1", "0"},
		"a shared advisory lock":       {queries("SELECT pg_try_advisory_lock_shared(1, 2)"), "advisory_lock", locks, "1", "0"},
		"PREPARE":                      {queries("PREPARE mine AS SELECT 1"), "prepare", prepared, "1", "0"},
		"PREPARE with types":           {queries("PREPARE mine(int) AS SELECT $1"), "prepare", prepared, "1", "0"},
		"a cursor WITH HOLD":           {queries("BEGIN; DECLARE mine CURSOR WITH HOLD FOR SELECT 1; COMMIT"), "cursor_with_hold", cursors, "1", "0"},
	}
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1, upstream: pg.DSN()})
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := w.client()
			pid := backend(t, c)
			scenario{script: test.do}.run(c, func([]pgtest.Message) {})
			w.eventually("pinned by "+test.reason, func() bool { return w.pinned()[test.reason] == 1 })
			if got := one(t, c.Query(test.check)); got != test.mine {
				t.Errorf("%s gives its own client %s, want %s", test.check, got, test.mine)
			}
			other := w.client()
			other.Send(query(test.check)) // waits
			c.Send(terminate)
			c.UntilClosed()
			if got := one(t, other.UntilReady(1)); got != test.yours && test.yours != "" {
				t.Errorf("%s gives the next client %s, want %s", test.check, got, test.yours)
			}
			if got := backend(t, other); got != pid {
				t.Errorf("server process %s is replaced by %s", pid, got)
			}
			if got := w.pinned(); len(got) != 0 {
				t.Errorf("still pinned: %v", got)
			}
			other.Send(terminate)
			other.UntilClosed()
		})
	}
}

// Trap 41: a parameter that a client has set is its own on whatever server connection, and keeps none. Traps 42, 43.
func TestWhatIsSetFollowsTheSession(t *testing.T) {
	pgtest.Each(t, whatIsSetFollowsTheSession)
}

func whatIsSetFollowsTheSession(t *testing.T, pg *pgtest.Postgres) {
	direct := pgtest.Connect(t, pg.DSN())
	direct.Query(`CREATE OR REPLACE FUNCTION rename_me() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SE' || 'T application_name = ''renamed'''; END $$`)
	extended := func(sql string) exchange {
		return ready(1, parse("s", sql), bind("", "s"), execute("", 0), synchronize)
	}
	tests := map[string]struct {
		do          []exchange
		check       string
		mine, yours string
	}{
		"SET":                                       {queries("SET work_mem = '5MB'"), "SHOW work_mem", "5MB", "4MB"},
		"SET, extended":                             {[]exchange{extended("SET work_mem = '5MB'")}, "SHOW work_mem", "5MB", "4MB"},
		"SET, parsed long before":                   {[]exchange{ready(1, parse("s", "SET work_mem = '5MB'"), synchronize), ready(1, query("SELECT 1")), ready(1, bind("", "s"), execute("", 0), synchronize)}, "SHOW work_mem", "5MB", "4MB"},
		"SET, in a committed block":                 {queries("BEGIN", "SET work_mem = '5MB'", "COMMIT"), "SHOW work_mem", "5MB", "4MB"},
		"SET, behind a comment":                     {queries("/* set */SET work_mem = '5MB'"), "SHOW work_mem", "5MB", "4MB"},
		"SET, behind two comments":                  {queries("-- first\n-- second\n/* third */ set\n/* fourth */\nwork_mem = '5MB'"), "SHOW work_mem", "5MB", "4MB"},
		"SET, behind more":                          {queries("SELECT 1;SELECT 2;seT SESSION work_mem TO '5MB'"), "SHOW work_mem", "5MB", "4MB"},
		"SET in a DO block":                         {queries("DO $$BEGIN SET work_mem = '5MB'; END$$"), "SHOW work_mem", "5MB", "4MB"},
		"SET in dynamic SQL":                        {queries("DO $$BEGIN EXECUTE 'SET work_mem = ''5MB'''; END$$"), "SHOW work_mem", "5MB", "4MB"},
		"SET SESSION CHARACTERISTICS":               {queries("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"), "SHOW transaction_read_only", "on", "off"},
		"SET TIME ZONE":                             {queries("SET TIME ZONE 'Asia/Tokyo'"), "SHOW TimeZone", "Asia/Tokyo", ""},
		"set_config":                                {queries("SELECT set_config('work_mem', '5MB', false)"), "SHOW work_mem", "5MB", "4MB"},
		"set_config, qualified":                     {queries(`SELECT pg_catalog."set_config"('work_mem', '5MB', false)`), "SHOW work_mem", "5MB", "4MB"},
		"a reported parameter, out of sight":        {queries("SELECT rename_me()"), "SHOW application_name", "renamed", ""},
		"RESET":                                     {queries("RESET work_mem"), "SHOW work_mem", "4MB", "4MB"},
		"SET, then rolled back":                     {queries("BEGIN", "SET work_mem = '5MB'", "ROLLBACK"), "SHOW work_mem", "4MB", "4MB"},
		"SET, then reset":                           {queries("SET work_mem = '5MB'", "RESET ALL"), "SHOW work_mem", "4MB", "4MB"},
		"SET, to the default":                       {queries("SET work_mem = '5MB'", "SET work_mem TO DEFAULT"), "SHOW work_mem", "4MB", "4MB"},
		"SET, rolled back to":                       {queries("BEGIN", "SET work_mem = '5MB'", "SAVEPOINT a", "SET work_mem = '6MB'", "ROLLBACK TO a", "COMMIT"), "SHOW work_mem", "5MB", "4MB"},
		"a value with its unit":                     {queries("SET statement_timeout = '90min'"), "SHOW statement_timeout", "90min", "0"},
		"a list":                                    {queries(`SET search_path = "$user", 'it''s', pg_catalog`), "SHOW search_path", `"$user", "it's", pg_catalog`, `"$user", public`},
		"a parameter of its own":                    {queries(`SET my.own = 'it''s \'`), "SHOW my.own", `it's \`, ""},
		"an empty value":                            {queries("SET application_name = ''"), "SHOW application_name", "", ""},
		"an interval as zone":                       {queries("SET TIME ZONE INTERVAL '+03:30' HOUR TO MINUTE"), "SHOW TimeZone", "<+03:30>-03:30", ""},
		"SET ROLE":                                  {queries("SET ROLE pg_monitor"), "SELECT current_user", "pg_monitor", "app"},
		"SET ROLE, and a setting":                   {queries("SET work_mem = '5MB'; SET ROLE pg_monitor", "SET work_mem = '6MB'"), "SELECT current_user || current_setting('work_mem')", "pg_monitor6MB", "app4MB"},
		"SET SESSION CHARACTERISTICS, serializable": {queries("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE"), "SHOW transaction_isolation", "serializable", "read committed"},
	}
	super := pgtest.Connect(t, pg.DSNFor(pgserver.Superuser))
	super.Query("GRANT pg_monitor TO app")
	defer super.Query("REVOKE pg_monitor FROM app")
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1, upstream: pg.DSN()})
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c, other := w.client(), w.client()
			defer other.Close()
			defer c.Close()
			pid := backend(t, c)
			scenario{script: test.do}.run(c, func([]pgtest.Message) {})
			for range 3 {
				if got := one(t, c.Query(test.check)); got != test.mine {
					t.Errorf("%s gives its own client %s, want %s", test.check, got, test.mine)
				}
				got := other.Query(test.check)
				if test.yours == "" && pgtest.Types(got) == "EZ" { // unknown to it
					continue
				}
				if got := one(t, got); got != test.yours && test.yours != "" || got == test.mine && test.mine != test.yours {
					t.Errorf("%s gives the other client %s, want %s", test.check, got, test.yours)
				}
			}
			if got := backend(t, other); got != pid {
				t.Errorf("server process %s is replaced by %s", pid, got)
			}
			if got := w.pinned(); len(got) != 0 {
				t.Errorf("pinned: %v", got)
			}
		})
	}
}

// RESET gives a client what it asked for at startup, as a connection of its own would.
func TestResetBringsBackTheStartup(t *testing.T) {
	pgtest.Each(t, resetBringsBackTheStartup)
}

func resetBringsBackTheStartup(t *testing.T, pg *pgtest.Postgres) {
	w := start(t, settings{servers: 1, upstream: pg.DSN()})
	for _, reset := range []string{"RESET ALL", "RESET work_mem; RESET application_name", "SET work_mem TO DEFAULT; SET application_name TO DEFAULT", "DISCARD ALL"} {
		c, other := w.client("application_name=mine", "options='-c work_mem=6MB'"), w.client()
		c.Query("SET work_mem = '5MB'; SET application_name = 'changed'")
		if got := one(t, c.Query("SHOW work_mem")); got != "5MB" {
			t.Errorf("work_mem = %s", got)
		}
		for _, m := range c.Query(reset) {
			if m.Type == 'S' && string(m.Body) != "application_name\x00mine\x00" {
				t.Errorf("%s: the client is told %q", reset, m.Body)
			}
		}
		for range 2 {
			for name, want := range map[string]string{"work_mem": "6MB", "application_name": "mine"} {
				if got := one(t, c.Query("SHOW "+name)); got != want {
					t.Errorf("%s: %s = %s, want %s", reset, name, got, want)
				}
			}
			if got := one(t, other.Query("SHOW work_mem")); got != "4MB" {
				t.Errorf("%s: the other client has work_mem = %s", reset, got)
			}
		}
		c.Close()
		other.Close()
	}
}

// Trap 41: when the cause is gone, so is the pin.
func TestPinsEndWithTheirCause(t *testing.T) {
	pgtest.Each(t, pinsEndWithTheirCause)
}

func pinsEndWithTheirCause(t *testing.T, pg *pgtest.Postgres) {
	tests := map[string]struct {
		do     []string
		reason string
		undo   []string
	}{
		"UNLISTEN":             {[]string{"LISTEN here"}, "listen", []string{"UNLISTEN here"}},
		"UNLISTEN *":           {[]string{"LISTEN here; LISTEN there"}, "listen", []string{"UNLISTEN *"}},
		"a lock given back":    {[]string{"SELECT pg_advisory_lock(1), pg_advisory_lock(1)"}, "advisory_lock", []string{"SELECT pg_advisory_unlock(1)", "SELECT pg_advisory_unlock(1)"}},
		"all locks given back": {[]string{"SELECT pg_advisory_lock_shared(1)"}, "advisory_lock", []string{"SELECT pg_advisory_unlock_all()"}},
		"DROP TABLE":           {[]string{"CREATE TEMP TABLE mine ()"}, "temp_table", []string{"DROP TABLE mine"}},
		"DISCARD TEMP":         {[]string{"CREATE TEMP TABLE mine ()", "CREATE TEMP SEQUENCE mine_too"}, "temp_table", []string{"DISCARD TEMP"}},
		"CLOSE":                {[]string{"BEGIN; DECLARE mine CURSOR WITH HOLD FOR SELECT 1; COMMIT"}, "cursor_with_hold", []string{"CLOSE mine"}},
		"DEALLOCATE":           {[]string{"PREPARE mine AS SELECT 1"}, "prepare", []string{"DEALLOCATE mine"}},
		"DEALLOCATE ALL":       {[]string{"PREPARE mine AS SELECT 1"}, "prepare", []string{"DEALLOCATE ALL"}},
		"with a parameter set by a prepared statement": {[]string{"PREPARE mine AS SELECT set_config('work_mem', $1, false)", "EXECUTE mine('5MB')"}, "prepare", []string{"DEALLOCATE mine"}},
	}
	w := start(t, settings{servers: 1, upstream: pg.DSN()})
	pid := backend(t, w.client())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c, other := w.client(), w.client()
			for _, sql := range test.do {
				c.Query(sql)
			}
			w.eventually("pinned by "+test.reason, func() bool { return w.pinned()[test.reason] == 1 && len(w.pinned()) == 1 })
			for _, sql := range test.undo {
				if w.pinned()[test.reason] != 1 {
					t.Errorf("not pinned before %s", sql)
				}
				c.Query(sql)
			}
			other.Send(query("SELECT pg_backend_pid() || current_setting('work_mem')"))
			if got := one(t, other.UntilReady(1)); got != pid+"4MB" {
				t.Errorf("the next client gets %s, want %s", got, pid+"4MB")
			}
			if got := w.pinned(); len(got) != 0 {
				t.Errorf("still pinned: %v", got)
			}
			c.Close()
			other.Close()
		})
	}
}

// Trap 42: what ends with the transaction does not keep the server connection, nor does what only looks like SET.
func TestWhatEndsWithTheTransactionKeepsNothing(t *testing.T) {
	pgtest.Each(t, whatEndsWithTheTransactionKeepsNothing)
}

func whatEndsWithTheTransactionKeepsNothing(t *testing.T, pg *pgtest.Postgres) {
	direct := pgtest.Connect(t, pg.DSN())
	direct.Query("DROP TABLE IF EXISTS set_me; CREATE TABLE set_me (id int PRIMARY KEY, set text, transaction text); INSERT INTO set_me VALUES (1, 'a', 'b')")
	w := start(t, settings{servers: 1, upstream: pg.DSN()})
	for _, sql := range []string{
		"SELECT 1",
		"BEGIN; SET LOCAL work_mem = '5MB'; SET LOCAL application_name = 'local'; COMMIT",
		"BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; COMMIT",
		"BEGIN; SET CONSTRAINTS ALL DEFERRED; COMMIT",
		"BEGIN; PREPARE TRANSACTION 'x'; ROLLBACK",
		"UPDATE set_me SET set = 'c'",
		"UPDATE set_me\nSET set = 'c'\nWHERE id = 1",
		`UPDATE "set_me" SET "set" = 'c'`,
		"UPDATE set_me AS s SET set = 'c'",
		"INSERT INTO set_me VALUES (1) ON CONFLICT (id) DO UPDATE SET set = 'd'",
		"WITH u AS (UPDATE set_me SET set = 'e' RETURNING *) SELECT * FROM u",
		"SELECT pg_advisory_xact_lock(1)",
		"BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; COMMIT",
		"BEGIN; DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1; COMMIT",
		"SELECT set, transaction FROM set_me",
		"CREATE TABLE IF NOT EXISTS set_you (temp int)",
		"NOTIFY here",
		"UNLISTEN *",
		"DISCARD ALL",
		"SHOW ALL",
		"SELECT current_setting('work_mem')",
		"BEGIN; SELECT set_config('work_mem', '5MB', true); COMMIT",
		"SELECT pg_try_advisory_lock(1), pg_advisory_unlock(1)",
		"BEGIN; LISTEN here; ROLLBACK",
		"BEGIN; CREATE TEMP TABLE mine () ON COMMIT DROP; COMMIT",
		"SELECT 'pg_advisory_lock(1)'",
	} {
		c := w.client()
		c.Query(sql)
		w.eventually(sql+" keeps nothing", func() bool { return w.servers("idle") == 1 })
		c.Send(parse("s", strings.Split(sql, ";")[0]), bind("", "s"), execute("", 0), synchronize)
		got := c.UntilReady(1)
		if got[len(got)-1].Body[0] != 'I' {
			c.Query("ROLLBACK")
		}
		w.eventually(sql+", prepared, keeps nothing", func() bool { return w.servers("idle") == 1 })
		if got := w.pinned(); len(got) != 0 {
			t.Errorf("%s: pinned %v", sql, got)
		}
		c.Close()
	}
}

// Trap 41: a library that was loaded cannot be unloaded; the server connection goes with its client.
func TestAServerWithALoadedLibraryIsNotReused(t *testing.T) {
	w := start(t, settings{servers: 1, upstream: pgtest.Shared(t).DSNFor(pgserver.Superuser)})
	c := w.client()
	pid := backend(t, c)
	c.Query("LOAD 'auto_explain'")
	w.eventually("pinned", func() bool { return w.pinned()["load"] == 1 })
	other := w.client()
	other.Send(query("SELECT pg_backend_pid()"))
	c.Close()
	if got := one(t, other.UntilReady(1)); got == pid {
		t.Error("the next client gets the server connection with the library")
	}
}

// Trap 26: DISCARD ALL leaves nothing behind, so there is nothing to keep the server connection for; what the client asked
// for at startup comes back.
func TestDiscardAllFreesTheServer(t *testing.T) {
	pgtest.Each(t, discardAllFreesTheServer)
}

func discardAllFreesTheServer(t *testing.T, pg *pgtest.Postgres) {
	for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Session} {
		w := start(t, settings{servers: 1, mode: mode, upstream: pg.DSN()})
		c := w.client("application_name=mine", "options='-c work_mem=6MB'")
		c.Query("SET work_mem = '5MB'; SET statement_timeout = '1h'; PREPARE mine AS SELECT 1")
		for _, m := range c.Query("DISCARD ALL") {
			if name, value, _ := strings.Cut(string(m.Body), "\x00"); m.Type == 'S' {
				c.Parameters[name] = strings.TrimSuffix(value, "\x00")
			}
		}
		if mode == postgres.Transaction {
			w.eventually("the server connection is free", func() bool { return w.servers("idle") == 1 })
		}
		for name, want := range map[string]string{"work_mem": "6MB", "statement_timeout": "0", "application_name": "mine"} {
			if got := one(t, c.Query("SHOW "+name)); got != want {
				t.Errorf("%s: %s = %s, want %s", mode, name, got, want)
			}
		}
		c.Send(terminate)
		c.UntilClosed()
		if got := c.Parameters["application_name"]; got != "mine" {
			t.Errorf("%s: told that application_name = %s", mode, got)
		}
		if got := one(t, w.client().Query("SHOW work_mem")); got != "4MB" {
			t.Errorf("%s: the next client has work_mem = %s", mode, got)
		}
	}
}

// Traps 21, 22: nobody ever meets a stranger's prepared statement.
func TestPreparedStatementsAreTheClientsOwn(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1})
	a, b := w.client(), w.client()
	steps := []struct {
		c    *pgtest.Client
		do   []frontend
		want string
	}{
		{a, []frontend{parse("s", "SELECT 'a named'")}, ""},
		{a, []frontend{parse("", "SELECT 'a unnamed'")}, ""},
		{b, []frontend{bind("", "s"), execute("", 0)}, "26000"},
		{b, []frontend{describe('S', "s")}, "26000"},
		{b, []frontend{bind("", ""), execute("", 0)}, "26000"},
		{b, []frontend{describe('S', "")}, "26000"},
		{a, []frontend{bind("", "s"), execute("", 0)}, "a named"},
		{a, []frontend{bind("", ""), execute("", 0)}, "a unnamed"},
		{b, []frontend{closing('S', "s"), closing('S', "")}, ""},
		{b, []frontend{parse("s", "SELECT 'b named'"), bind("", "s"), execute("", 0)}, "b named"},
		{b, []frontend{parse("", "SELECT 'b unnamed'")}, ""},
		{a, []frontend{bind("", ""), execute("", 0)}, "a unnamed"},
		{b, []frontend{bind("", ""), execute("", 0)}, "b unnamed"},
		{a, []frontend{bind("", "s"), execute("", 0), bind("", ""), execute("", 0)}, "a named a unnamed"},
		{a, []frontend{closing('S', "s"), bind("", "s")}, "26000"},
		{b, []frontend{bind("", "s"), execute("", 0)}, "b named"},
	}
	for i, s := range steps {
		if got := ask(s.c, s.do...); got != s.want {
			t.Errorf("step %d: %q, want %q", i, got, s.want)
		}
	}

	// Not even who has seen the names on the server.
	for _, name := range pgtest.Rows(a.Query("SELECT name FROM pg_prepared_statements")) {
		if got := ask(a, bind("", name), execute("", 0)); got != "26000" {
			t.Errorf("binding %s gives %q", name, got)
		}
		if got := ask(a, describe('S', name)); got != "26000" {
			t.Errorf("describing %s gives %q", name, got)
		}
		if got := ask(a, closing('S', name)); got != "" {
			t.Errorf("closing %s gives %q", name, got)
		}
	}
	if got := ask(b, bind("", "s"), execute("", 0)); got != "b named" {
		t.Errorf("then the statement is %q", got)
	}
}

// Trap 20: more statements than stay on a server are closed there, and prepared again when they are needed.
func TestManyStatementsWorkOnOneServer(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1})
	c := w.client()
	name := func(i int) string {
		return "s" + strings.Repeat("i", i%7) + string(rune('a'+i%26)) + time.Duration(i).String()
	}
	const many = 700
	for i := 0; i < many; i += 50 {
		var batch []frontend
		for j := i; j < i+50; j++ {
			batch = append(batch, parse(name(j), "SELECT '"+name(j)+"'"))
		}
		c.Send(append(batch, synchronize)...)
		c.UntilReady(1)
	}
	for _, step := range []int{1, 13, 101} {
		for i := range many {
			n := name(i * step % many)
			c.Send(bind("", n), execute("", 0), synchronize)
			if got := one(t, c.UntilReady(1)); got != n {
				t.Fatalf("statement %s gives %s", n, got)
			}
		}
	}
	if got := one(t, c.Query("SELECT count(*) <= 501 FROM pg_prepared_statements")); got != "t" {
		t.Error("the server keeps them all")
	}
}

// Traps 10, 43: each client sees its own startup parameters, whoever had the server connection before.
func TestStartupParametersAreTheClientsOwn(t *testing.T) {
	pgtest.Each(t, startupParametersAreTheClientsOwn)
}

func startupParametersAreTheClientsOwn(t *testing.T, pg *pgtest.Postgres) {
	w := start(t, settings{servers: 1, upstream: pg.DSN()})
	show := []string{"application_name", "search_path", "TimeZone", "DateStyle", "work_mem", "extra_float_digits", "IntervalStyle", "client_encoding", "statement_timeout"}
	asked := [][]string{
		nil,
		{"application_name=one"},
		{"application_name=two", "TimeZone=Asia/Tokyo", "DateStyle=German"},
		{`options='-c search_path=pg_catalog,public -c work_mem=5MB'`},
		{`options='-c search_path=pg_catalog,public -c work_mem=5MB --statement-timeout=5000'`, "extra_float_digits=2"},
		{"datestyle=iso", "timezone=utc", `options='-cIntervalStyle=sql_standard -c my.own=it\'s'`},
		{"client_encoding=LATIN1", "work_mem=7MB", `search_path="$user", "it''s"`},
	}
	for i := range asked {
		for j, a := range asked[i] { // as libpq quotes them
			if name, value, _ := strings.Cut(a, "="); !strings.HasPrefix(value, "'") {
				asked[i][j] = name + "='" + strings.ReplaceAll(value, "'", `\'`) + "'"
			}
		}
	}
	var direct, proxied []*pgtest.Client
	for _, params := range asked {
		d := pgtest.Connect(t, keyValue(pg)+" "+strings.Join(params, " "))
		p := w.client(params...)
		for name, want := range d.Parameters {
			if got := p.Parameters[name]; got != want && name != "session_authorization" {
				t.Errorf("%v: %s is reported as %q, want %q", params, name, got, want)
			}
		}
		if len(p.Parameters) != len(d.Parameters) {
			t.Errorf("%v: %d parameters are reported, want %d", params, len(p.Parameters), len(d.Parameters))
		}
		direct, proxied = append(direct, d), append(proxied, p)
	}
	for range 3 {
		for i := range asked {
			for _, name := range show {
				want := one(t, direct[i].Query("SHOW "+name))
				if got := one(t, proxied[i].Query("SHOW "+name)); got != want {
					t.Errorf("client %d %v: %s = %q, want %q", i, asked[i], name, got, want)
				}
			}
			pgtest.Compare(t, direct[i].Query("SELECT now()::date - now()::date, interval '1 day', 0.1::float8"), proxied[i].Query("SELECT now()::date - now()::date, interval '1 day', 0.1::float8"))
		}
	}
	w.eventually("nobody keeps the server connection", func() bool { return w.servers("idle") == 1 })
}

// Trap 10: what the server does not take is refused in its own words.
func TestBadStartupParametersAreRefusedInTheServersWords(t *testing.T) {
	pgtest.Each(t, badStartupParametersAreRefusedInTheServersWords)
}

func badStartupParametersAreRefusedInTheServersWords(t *testing.T, pg *pgtest.Postgres) {
	w := start(t, settings{upstream: pg.DSN()})
	for _, params := range []string{
		"options='-c work_mem=plenty'", "TimeZone=Nowhere/AtAll", "options='-c no_such_parameter=1'", "DateStyle=never",
		"options='-c transaction_isolation=serializable'", "options='-c transaction_deferrable=on'", "session_authorization=nobody",
		"options='-c role=nobody'", "client_encoding=klingon", "options='-c shared_buffers=1'", "options='nonsense'", "work_mem=-1",
	} {
		_, direct := pgtest.TryConnect(t, keyValue(pg)+" "+params, pgtest.Protocol30)
		_, proxied := pgtest.TryConnect(t, w.dsn(params), pgtest.Protocol30)
		if direct == nil && proxied == nil { // some a newer server takes
			continue
		}
		want, ok1 := errors.AsType[*pgtest.LoginError](direct)
		got, ok2 := errors.AsType[*pgtest.LoginError](proxied)
		if !ok1 || !ok2 {
			t.Errorf("%s: the server says %v, weir %v", params, direct, proxied)
			continue
		}
		for _, field := range []byte("SVCM") {
			if g, w := got.Response.Field(field), want.Response.Field(field); g != w {
				t.Errorf("%s: %c is %q, want %q", params, field, g, w)
			}
		}
	}
}

// keyValue is the server's connection string in the form that takes more parameters.
func keyValue(pg *pgtest.Postgres) string {
	host, port, _ := strings.Cut(pg.Addr(), ":")
	return "host=" + host + " port=" + port + " user=app password=app-secret dbname=app sslmode=disable"
}

// Trap 10: settings that are refused when it is too late to say so at login keep the statement from running without them.
func TestNothingRunsWithoutItsSettings(t *testing.T) {
	direct := left(t)
	super := pgtest.Connect(t, pgtest.Shared(t).DSNFor(pgserver.Superuser))
	super.Query("DROP ROLE IF EXISTS tenant")
	super.Query("CREATE ROLE tenant; GRANT tenant TO app; GRANT ALL ON left_behind TO tenant")
	defer super.Query("REVOKE ALL ON left_behind FROM tenant; DROP ROLE tenant")
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1})
	asked := "options='-c role=tenant'"
	a, b := w.client(asked), w.client(asked)
	if got := one(t, a.Query("SELECT current_user")); got != "tenant" {
		t.Fatalf("current_user is %s", got)
	}
	if got := one(t, w.client().Query("SELECT current_user")); got != "app" {
		t.Fatalf("the next client is %s", got)
	}
	super.Query("REVOKE tenant FROM app")
	for name, send := range map[string]func(){
		"a query": func() { a.Send(query("INSERT INTO left_behind VALUES ('as somebody else')")) },
		"a batch": func() {
			b.Send(parse("", "INSERT INTO left_behind VALUES ('as somebody else')"), bind("", ""), execute("", 0), synchronize)
		},
	} {
		c := map[string]*pgtest.Client{"a query": a, "a batch": b}[name]
		send()
		if got := c.UntilClosed(); len(got) != 1 || got[0].Field('S') != "FATAL" || got[0].Field('C') != "42501" {
			t.Errorf("%s is answered %v, want FATAL 42501", name, got)
		}
	}
	if got := one(t, direct.Query("SELECT count(*) FROM left_behind")); got != "0" {
		t.Errorf("%s rows", got)
	}
	if got := one(t, w.client().Query("SELECT current_user")); got != "app" {
		t.Errorf("the next client is %s", got)
	}
}

// Trap 22: the unnamed statement is never a stranger's, not even when the Parse that would have replaced that is skipped after
// an error while the next batch is already on its way.
func TestTheUnnamedStatementIsNeverAStrangers(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1})
	stranger, c := w.client(), w.client()
	for name, messages := range map[string][]frontend{
		"parsed behind an error":   {parse("", "SELEC"), parse("", "SELECT 'mine'"), synchronize},
		"parsed behind a bad bind": {bind("", "unknown"), parse("", "SELECT 'mine'"), synchronize},
	} {
		stranger.Send(parse("", "SELECT 'a stranger''s'"), synchronize)
		stranger.UntilReady(1)
		c.Send(append(messages, bind("", ""), describe('S', ""), execute("", 0), synchronize)...)
		got := c.UntilReady(2)
		if types := pgtest.Types(got); types != "EZEZ" || got[2].Field('C') != "26000" {
			t.Errorf("%s: %v, want 26000", name, got)
		}
	}
	c.Send(parse("", "SELECT 'mine'"), synchronize, bind("", ""), execute("", 0), synchronize)
	if got := one(t, c.UntilReady(2)); got != "mine" {
		t.Errorf("a pipeline of both reads %s", got)
	}
}

// Trap 41: whatever a statement hides behind, comments, quotes, escapes, or strings that it is put together from, the next client
// finds a session without it.
func TestWhatHidesReachesNobody(t *testing.T) {
	pgtest.Each(t, whatHidesReachesNobody)
}

func whatHidesReachesNobody(t *testing.T, pg *pgtest.Postgres) {
	pgtest.Connect(t, pg.DSNFor(pgserver.Superuser)).Query("CREATE EXTENSION IF NOT EXISTS tablefunc; CREATE EXTENSION IF NOT EXISTS pg_trgm")
	const check = `SELECT concat_ws(' ', (SELECT count(*) FROM pg_listening_channels()),
		(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
		(SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
		(SELECT count(*) FROM pg_prepared_statements WHERE from_sql), (SELECT count(*) FROM pg_cursors WHERE is_holdable),
		current_setting('work_mem'), nullif(current_setting('local.own', true), ''), nullif(current_setting('my.own', true), ''),
		nullif(current_setting('my.' || repeat('x', 63), true), ''), nullif(current_setting(U&'my.\00c4', true), ''),
		nullif(current_setting('pg_trgm.similarity_threshold', true), '0.3'))`
	call := func(oid uint32, arguments ...string) exchange {
		f := &pgproto3.FunctionCall{Function: oid, ArgFormatCodes: []uint16{0}}
		for _, a := range arguments {
			f.Arguments = append(f.Arguments, []byte(a))
		}
		return ready(1, f)
	}
	tests := map[string][]exchange{
		"a comment that ends with CR":          queries("-- it\rSET work_mem = '5MB'"),
		"a form feed":                          queries("SELECT 1;\fSET work_mem = '5MB'"),
		"nested comments":                      queries("/* /* */ SET work_mem = '4MB' */SET/* LOCAL */work_mem/**/=/**/'5MB'"),
		"a name behind a comment with CR":      queries("SET -- it\rmy.own = 'x'"),
		"a parameter called local":             queries("SET local.own = 'x'"),
		"a parameter called local, in pieces":  queries("SET local/* it */./**/own = 'x'"),
		"a statement called transaction":       queries("PREPARE transaction AS SELECT 1"),
		"a statement called local":             queries("PREPARE local(int) AS SELECT $1"),
		"a comment in CREATE TEMP":             queries("CREATE /* it */ TEMP TABLE mine ()"),
		"a form feed in CREATE TEMP":           queries("CREATE\fTEMP TABLE mine ()"),
		"a comment in INTO TEMP":               queries("SELECT 1 AS one INTO -- it\nTEMP mine"),
		"a comment in WITH HOLD":               queries("BEGIN; DECLARE mine CURSOR WITH/**/HOLD FOR SELECT 1; COMMIT"),
		"a number of pg_temp":                  queries("CREATE TEMP TABLE its ()", "DO $$BEGIN EXECUTE 'CREATE TABLE ' || pg_my_temp_schema()::regnamespace || '.mine ()'; END$$", "DROP TABLE its"),
		"an identifier of code points":         queries(`SELECT U&"pg\005fadvisory_lock"(1)`),
		"an identifier of other code points":   queries(`SELECT u&"!0070g_advisory_lock" UESCAPE '!' (1)`),
		"set_config of code points":            queries(`SELECT U&"set\005fconfig"('work_mem', '5MB', false)`),
		"a parameter of code points":           queries(`SELECT set_config(U&'work\005fmem', '5MB', false)`),
		"a schema of code points":              queries(`CREATE TABLE U&"pg\005ftemp".mine ()`),
		"a string of escapes":                  queries(`DO $$BEGIN EXECUTE E'\x53ET work_mem = ''5MB'''; END$$`),
		"a string of escapes with a line feed": queries(`DO E'BEGIN\nSET work_mem = ''5MB''; END'`),
		"strings put together":                 queries("DO $x$BEGIN EXECUTE 'LIS' || 'TEN here'; EXECUTE 'CREATE TE' || 'MP TABLE mine ()'; END$x$"),
		"a DO behind comments":                 queries("-- it\r/* it */DO LANGUAGE plpgsql 'BEGIN EXECUTE replace(''SELECT pg_advisory-lock(1)'', ''-'', ''_''); END'"),
		"a DO in a batch":                      {ready(1, parse("s", "DO $$BEGIN EXECUTE 'LIS' || 'TEN here'; END$$"), bind("", "s"), execute("", 0), synchronize)},
		"a function call":                      {call(2880, "1")},
		"a function call of set_config":        {call(2078, "my.own", "x", "f")},
		"a function call in a transaction":     {ready(1, query("BEGIN")), call(2886, "1", "2"), ready(1, query("COMMIT"))},
		"a search path of pg_temp":             queries("SET search_path = pg_temp", "CREATE TABLE mine ()"),
		"a search path of escapes":             queries(`SET search_path = E'pg\x5ftemp'; CREATE TABLE mine (); RESET search_path`),
		"a search path for the transaction":    queries(`BEGIN; SET LOCAL search_path = E'pg\x5ftemp'`, "CREATE TABLE mine ()", "COMMIT"),
		"a search path by set_config":          queries("BEGIN; SELECT set_config('search_path', 'pg' || '_temp', true)", "SELECT 1 AS one INTO mine", "COMMIT"),
		"a schema of escapes":                  queries(`SET SCHEMA U&'pg\005ftemp'; CREATE TABLE mine (); RESET search_path`),
		"a search path as a parameter":         {ready(1, query("BEGIN")), ready(1, parse("", "SELECT set_config('search_path', $1, true)"), bindTo("", "pg_temp"), execute("", 0), synchronize), ready(1, query("CREATE TABLE mine ()")), ready(1, query("COMMIT"))},
		"an update of pg_settings":             queries("UPDATE pg_settings SET setting = '5MB' WHERE name = 'work_mem'"),
		"an update of it in quotes":            queries(`UPDATE pg_catalog."pg_settings" SET setting = '5MB' WHERE name = 'work_mem'`),
		"an update of it in code points":       queries(`UPDATE U&"pg\005fsettings" SET setting = '5MB' WHERE name = 'work_mem'`),
		"an update of it, prepared":            {ready(1, parse("s", "UPDATE pg_settings SET setting = $1 WHERE name = 'work_mem'"), bindTo("s", "5MB"), execute("", 0), synchronize)},
		"an update of it by SQL's EXECUTE":     queries("PREPARE p(text) AS UPDATE pg_settings SET setting = $1 WHERE name = 'work_mem'", "EXECUTE p('5MB')", "DEALLOCATE p"),
		"set_config by SQL's EXECUTE":          queries("PREPARE p AS SELECT set_config('my.own', 'x', false)", "EXECUTE p", "DEALLOCATE p"),
		"set_config by it, a parameter":        queries("PREPARE p AS SELECT set_config($1, 'x', false)", "EXECUTE p('my.own')", "DEALLOCATE p"),
		"set_config by it in code points":      queries(`PREPARE p AS SELECT U&"set\005fconfig"('my.own', 'x', false)`, "EXECUTE p", "DEALLOCATE ALL"),
		"set_config of a dotted name":          queries(`SELECT U&"set\005fconfig"('my.own', 'x', false)`),
		"set_config of a name of escapes":      queries(`SELECT set_config(E'my\x2eown', 'x', false)`),
		"set_config of a name put together":    queries("SELECT set_config('my' || '.own', 'x', false)", "SELECT 1"),
		"set_config of strings side by side":   queries("SELECT set_config('my'\n'.own', 'x', false)"),
		"set_config in a subquery":             queries("WITH x AS (SELECT set_config('my.own', 'x', false)) SELECT * FROM x"),
		"set_config in COPY":                   queries("COPY (SELECT set_config('my.own', 'x', false)) TO STDOUT"),
		"set_config in a cursor":               queries("BEGIN; DECLARE c CURSOR FOR SELECT set_config('my.own', 'x', false); FETCH c; COMMIT"),
		"set_config in a VALUES":               queries("VALUES (set_config('my.own', 'x', false))"),
		"set_config in EXPLAIN":                queries("EXPLAIN ANALYZE SELECT set_config('my.own', 'x', false)"),
		"set_config without standard strings":  queries("SET standard_conforming_strings = off", `SELECT set_config('my\x2eown', 'x', false)`, "RESET standard_conforming_strings"),
		"SET of a name in code points":         queries(`SET U&"my".U&"ow\006e" = 'x'`),
		"dynamic SQL of a dotted name":         queries("DO $$BEGIN EXECUTE 'SE' || 'T my.own = 1'; END$$"),
		"dynamic SQL by format":                queries("DO $$BEGIN EXECUTE format('S%s my.own = 1', 'ET'); END$$"),
		"dynamic SQL of escapes":               queries(`DO $$BEGIN EXECUTE E'S\x45T my.own = 1'; END$$`),
		"a computed name in a DO":              queries("DO $$DECLARE n text := 'my.'; BEGIN PERFORM set_config(n || 'own', 'x', false); END$$"),
		"SQL in query_to_xml":                  queries(`SELECT query_to_xml(E'SELECT set\x5fconfig(''my.own'', ''x'', false)', true, false, '')`),
		"a search path on two lines":           queries("BEGIN; SET LOCAL search_path = 'pg'\n'_temp', public; CREATE TABLE mine (); COMMIT"),
		"a search path on two lines, kept":     queries("SET search_path = 'pg'\n'_temp', public; CREATE TABLE mine (); RESET search_path"),
		"a search path by a function call":     {ready(1, query("BEGIN")), call(2078, "search_path", "pg_temp", "t"), ready(1, query("CREATE TABLE mine ()")), ready(1, query("COMMIT"))},
		"a name that the server cuts":          queries("SET my." + strings.Repeat("x", 70) + " = 'x'"),
		"a name that the server cuts, in a DO": queries("DO $$BEGIN SET my." + strings.Repeat("x", 70) + " = 'x'; END$$"),
		"a name beyond ASCII":                  queries(`SET "my"."Ä" = 'x'`),
		"a name beyond ASCII, by set_config":   queries(`SELECT set_config('my.Ä', 'x', false)`),
		"a name beyond ASCII, in a DO":         queries(`DO $$BEGIN SET "my"."Ä" = 'x'; END$$`),
		"code points with an escape in E":      queries(`SELECT U&"set!005fconfig" UESCAPE E'!' ('my.own', 'x', false)`),
		"code points with one in dollars":      queries(`SELECT U&"set!005fconfig" UESCAPE $$!$$ ('my.own', 'x', false)`),
		"code points with one behind comments": queries("SELECT U&\"set!005fconfig\" /* it */ UESCAPE -- is\n'!' ('my.own', 'x', false)"),
		"code points in dynamic SQL":           queries(`DO $$BEGIN EXECUTE 'SELECT U&"set!005fconfig" UESCAPE ''!'' (''my.own'', ''x'', false)'; END$$`),
		"code points in a DO":                  queries(`DO $$BEGIN PERFORM U&"set!005fconfig" UESCAPE '!' ('my.own', 'x', false); END$$`),
		"a DO in dynamic SQL":                  queries(`DO $$BEGIN EXECUTE 'DO $x$BEGIN EXECUTE ''SE'' || ''T my.own = 1''; END$x$'; END$$`),
		"a DO in a DO":                         queries(`DO $$BEGIN DO $x$BEGIN EXECUTE 'SE' || 'T my.own = 1'; END$x$; END$$`),
		"query_to_xml in a DO":                 queries(`DO $$BEGIN PERFORM query_to_xml('SELECT set' || '_config(''my.own'', ''x'', false)', true, false, ''); END$$`),
		"query_to_xml in dynamic SQL":          queries(`DO $$BEGIN EXECUTE 'SELECT query_to_xml(''SELECT set'' || ''_config(''''my.own'''', ''''x'''', false)'', true, false, '''')'; END$$`),
		"query_to_xml of a parameter":          {ready(1, parse("", "SELECT query_to_xml($1, true, false, '')"), bindTo("", "SELECT set_config('my.own', 'x', false)"), execute("", 0), synchronize)},
		"ts_stat":                              queries(`SELECT ts_stat('SELECT to_tsvector(set' || '_config(''my.own'', ''x'', false))')`),
		"a function made and called":           queries("BEGIN; SET LOCAL work_mem = '3MB'; CREATE FUNCTION its() RETURNS text LANGUAGE sql AS $$SELECT set_config('my.own', 'x', false)$$; SELECT its(); DROP FUNCTION its(); COMMIT"),
		"a procedure made and called":          queries("CREATE PROCEDURE its() LANGUAGE plpgsql AS $$BEGIN SET my.own = 'x'; END$$; CALL its(); DROP PROCEDURE its()"),
		"an aggregate of set_config":           queries("CREATE AGGREGATE its(text, bool) (sfunc = set_config, stype = text, initcond = 'my.own'); SELECT its('x', false); DROP AGGREGATE its(text, bool)"),
		"CREATE TABLE AS EXECUTE":              queries("PREPARE p AS SELECT set_config('my.own', 'x', false)", "CREATE TABLE its AS EXECUTE p", "DROP TABLE its", "DEALLOCATE p"),
		"EXPLAIN ANALYZE EXECUTE":              queries("PREPARE p(text) AS SELECT set_config($1, 'x', false)", "EXPLAIN (ANALYZE, COSTS OFF) EXECUTE p('my.own')", "DEALLOCATE p"),
		"a PREPARE in dynamic SQL":             queries(`DO $$BEGIN EXECUTE 'PREPARE p AS SELECT set_config(''my.own'', ''x'', false)'; END$$`, "EXECUTE p", "DEALLOCATE p"),
		"a name in dollars":                    queries("SELECT set_config($$my.own$$, 'x', false)"),
		"a national name":                      queries("SELECT set_config(N'my.own', 'x', false)"),
		"a name with its type":                 queries("SELECT set_config(text 'my.own', 'x', false)", "SELECT 1"),
		"a name in double quotes":              queries(`SET "my.own" = 'x'`),
		"a name in capitals":                   queries(`SET "MY".OWN = 'x'`),
		"RESET in between":                     queries("SET my.own = 'y'; RESET my.own; SET SESSION my . own TO 'x'"),
		"a materialized set_config":            queries("WITH x AS MATERIALIZED (SELECT set_config('my.own', 'x', false)) SELECT * FROM x"),
		"set_config in RETURNING":              queries("CREATE TABLE its (); INSERT INTO its DEFAULT VALUES RETURNING set_config('my.own', 'x', false); DROP TABLE its"),
		"a cursor that outlives the block":     queries("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT set_config('my.own', 'x', false); COMMIT; CLOSE c"),
		"a schema on two lines":                queries("BEGIN; SET SCHEMA 'pg'\n'_temp'; CREATE TABLE mine (); COMMIT; RESET search_path"),
		"behind a string that sets":            queries(`SELECT 'set x = 1', U&"set\005fconfig"('my.own', 'x', false)`),
		"behind a backslash":                   queries(`SELECT 'a\b', U&"set\005fconfig"('my.own', 'x', false)`),
		"a DO behind a backslash":              queries(`SELECT '\'; DO $$BEGIN EXECUTE 'SE' || 'T my.own = 1'; END$$`),
		"a DO behind a backslash that escapes": queries("SET standard_conforming_strings = off", `SELECT '\'; DO $$ '; DO $$BEGIN EXECUTE 'SE' || 'T my.own = 1'; END$$; SELECT '\' $$ '`, "RESET standard_conforming_strings"),
		"a DO behind a string that sets":       queries("SELECT 'set x = 1'; DO $$BEGIN EXECUTE 'S' || 'ET my.own = 1'; END$$"),
		"crosstab":                             queries(`SELECT * FROM crosstab('SELECT ''a''::text, ''b''::text, set' || '_config(''my.own'', ''x'', false)') AS t(a text, b text)`),
		"crosstab, plainly":                    queries(`SELECT * FROM crosstab('SELECT ''a''::text, ''b''::text, set_config(''my.own'', ''x'', false)') AS t(a text, b text)`),
		"crosstab, in code points":             queries(`SELECT * FROM crosstab('SELECT ''a''::text, ''b''::text, U&"set!005fconfig" UESCAPE ''!'' (''my.own'', ''x'', false)') AS t(a text, b text)`),
		"set_limit of pg_trgm":                 queries("SELECT set_limit(0.9)"),
		"a DO in pieces":                       queries("DO $$BEGIN /*" + strings.Repeat(" ", 300<<10) + "*/ EXECUTE 'SE' || 'T my.own = 1'; END$$"),
		"a DO in pieces, prepared":             {ready(1, parse("s", "DO $$BEGIN /*"+strings.Repeat(" ", 300<<10)+"*/ EXECUTE 'SE' || 'T my.own = 1'; END$$"), bind("", "s"), execute("", 0), synchronize)},
		"SET in pieces":                        queries("/*" + strings.Repeat(" ", 300<<10) + "*/ SET my.own = 1"),
		"set_config in pieces":                 queries("SELECT /*" + strings.Repeat(" ", 300<<10) + "*/ set_config('my' || '.own', 'x', false)"),
		"a search path in pieces":              queries("BEGIN; SET LOCAL /*" + strings.Repeat(" ", 300<<10) + "*/ search_path = 'pg'\n'_temp'; CREATE TABLE mine (); COMMIT"),
		"set_config in pieces, rolled back":    queries("BEGIN; SET work_mem = '3MB'; SAVEPOINT a; SET work_mem = '6MB'; ROLLBACK TO a; SELECT set_config('my.own', 'x', false); COMMIT"),
	}
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1, upstream: pg.DSN()})
	fresh := one(t, w.client().Query(check))
	for name, script := range tests {
		t.Run(name, func(t *testing.T) {
			s := scenario{script: script}
			direct := pgtest.Connect(t, pg.DSN())
			straight(t, s, direct)
			if got := one(t, direct.Query(check)); got == fresh {
				t.Fatal("it leaves nothing behind")
			}
			direct.Close()
			c, other := w.client(), w.client()
			straight(t, s, c)
			other.Send(query(check)) // which waits, where c keeps the server connection
			w.in(t).eventually("it waits or is answered", func() bool { return w.Stats().Clients["waiting"] == 1 || other.Arrives(time.Millisecond) })
			c.Send(terminate)
			c.UntilClosed()
			if got := one(t, other.UntilReady(1)); got != fresh {
				t.Errorf("the next client finds %s, want %s", got, fresh)
			}
			other.Send(terminate)
			other.UntilClosed()
		})
	}
}
