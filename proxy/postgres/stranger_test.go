package postgres_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// ownNames are the parameters that these tests make up.
var ownNames = []string{"my.own", "local.own", "other.deeper.one"}

// session is a query of everything that a server lets its sessions see of themselves, in which a stranger could have left something.
var session = func() string {
	all := []string{
		"(SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name NOT LIKE 'transaction%' AND name NOT LIKE '%.%')",
		"session_user", "current_user",
		"(SELECT count(*) FROM pg_prepared_statements WHERE from_sql)",
		"(SELECT string_agg(c, ' ') FROM pg_listening_channels() AS c)",
		"(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())",
		"(SELECT count(*) FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = pg_my_temp_schema())",
		"(SELECT count(*) FROM pg_cursors WHERE is_holdable)",
	}
	for _, name := range ownNames {
		all = append(all, fmt.Sprintf("nullif(current_setting('%s', true), '')", name))
	}
	return "SELECT concat_ws(' | ', " + strings.Join(all, ", ") + ")"
}()

// sees is what a client sees of its session.
func sees(t *testing.T, c *pgtest.Client) string { return one(t, c.Query(session)) }

// differing are the parts of two such views that differ, for errors that can be read.
func differing(a, b string) string {
	x, y := strings.Fields(a), strings.Fields(b)
	var out []string
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			out = append(out, x[i]+" / "+y[i])
		}
	}
	return fmt.Sprintf("%d and %d parts: %s", len(x), len(y), strings.Join(out, "; "))
}

// Trap 41: whatever a client says, in whatever spelling and whatever becomes of its transactions, the next one finds a session that
// nobody has had, and the client itself goes on with what it would have had on a connection of its own.
func TestNothingOfAStrangerIsSeen(t *testing.T) {
	seed := seed(t)
	pgtest.Each(t, func(t *testing.T, pg *pgtest.Postgres) { nothingOfAStranger(t, pg, seed) })
}

func nothingOfAStranger(t *testing.T, pg *pgtest.Postgres, seed uint64) {
	const scripts = 100
	w := start(t, settings{servers: 1, upstream: pg.DSN()})
	fresh := sees(t, w.client())
	for i := range scripts {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		s := scenario{script: leavingScript(random)}
		direct, c, other := pgtest.Connect(t, pg.DSN()), w.client(), w.client()
		straight(t, s, direct)
		want := sees(t, direct)
		direct.Close()
		straight(t, s, c)
		if got := sees(t, c); want != got {
			t.Fatalf("script %d of seed %d has its client see otherwise: %s\n%s", i, seed, differing(got, want), sentIn(s.script))
		}
		other.Send(query(session)) // which waits, where c keeps the server connection
		w.eventually("it waits or is answered", func() bool { return w.Stats().Clients["waiting"] == 1 || other.Arrives(time.Millisecond) })
		c.Send(terminate)
		c.UntilClosed()
		if got := one(t, other.UntilReady(1)); got != fresh {
			t.Fatalf("script %d of seed %d is seen by the next client: %s\n%s", i, seed, differing(got, fresh), sentIn(s.script))
		}
		other.Close()
	}
}

// leavingScript is a client's statements that leave things behind, in odd spellings, in transactions that end one way or the other.
func leavingScript(random *rand.Rand) (script []exchange) {
	say := func(sql string) exchange {
		switch random.IntN(4) {
		case 0:
			return ready(1, parse("", sql), bind("", ""), execute("", 0), synchronize)
		case 1:
			return ready(1, parse("", sql), bind("", ""), execute("", 0), parse("", "SELEC"), synchronize)
		}
		return ready(1, query(sql))
	}
	for range 1 + random.IntN(3) {
		n := 1 + random.IntN(3)
		var end string
		switch random.IntN(4) {
		case 0:
			script = append(script, ready(1, query("BEGIN")))
			end = "COMMIT"
		case 1:
			script = append(script, ready(1, query("BEGIN; SELECT 1")))
			end = "ROLLBACK"
		case 2: // all in one
			var all []string
			for range n {
				all = append(all, leaving(random))
			}
			script = append(script, ready(1, query(strings.Join(all, "; "))))
			continue
		}
		for range n {
			script = append(script, say(leaving(random)))
		}
		if end != "" {
			script = append(script, ready(1, query(end)))
		}
	}
	return append(script, ready(1, query("ROLLBACK")))
}

// leaving is one statement that leaves something behind, or takes it away.
func leaving(random *rand.Rand) string {
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	blank := func() string { return pick(" ", " ", "\n", "\t", "/**/ ", " /* SET LOCAL */ ", " -- it's\n", "\r") }
	setConfig := func() string {
		return pick("set_config", "pg_catalog.set_config", `"set_config"`, `U&"set\005fconfig"`, `U&"set!005fconfig" UESCAPE '!'`, "SET_CONFIG") +
			"(" + pick("'work_mem', '5MB'", "'my.own', 'x'", "'My.Own'::text, 'y'", "'my' || '.own', 'z'", `E'my\x2eown', 'e'`, "$$my.own$$, 'd'", "'search_path', 'pg' || '_temp'", "'local.own', null") +
			"," + blank() + pick("false", "true", "'f'", "1 = 2", "not true", "false") + ")"
	}
	set := func() string {
		return pick("SET", "set", "Set") + blank() + pick("", "", "SESSION ", "LOCAL ") +
			pick("my.own", `"my".own`, `"my.own"`, "MY . OWN", `U&"my".own`, "local.own", "other.deeper.one", "work_mem", "search_path", "default_statistics_target", "application_name") +
			blank() + pick("=", "TO") + blank() + pick("'7'", "7", "DEFAULT", "'8'", `E'\x39'`, "U&'9'")
	}
	plain := func() string {
		switch random.IntN(8) {
		case 0, 1, 2:
			return set()
		case 3, 4:
			return "SELECT " + setConfig()
		case 5:
			return "RESET" + blank() + pick("my.own", "ALL", "work_mem", "search_path")
		case 6:
			return pick("LISTEN", "listen", "UNLISTEN") + blank() + pick("here", `"here"`, "pg_temp")
		}
		return "SELECT pg_" + pick("advisory_lock", "try_advisory_lock_shared", "advisory_unlock") + "(pg_backend_pid())"
	}
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	halves := func(s string) string {
		at := random.IntN(len(s) + 1)
		return quote(s[:at]) + " || " + quote(s[at:])
	}
	switch random.IntN(14) {
	case 0, 1, 2, 3, 4:
		return plain()
	case 5:
		return "DO $body$BEGIN EXECUTE " + quote(plain()) + "; END$body$"
	case 6:
		return "DO $body$BEGIN EXECUTE " + halves(plain()) + "; END$body$"
	case 7:
		return "DO $body$BEGIN PERFORM " + setConfig() + "; END$body$"
	case 8:
		return "PREPARE p AS SELECT " + setConfig()
	case 9:
		return pick("EXECUTE p", "EXPLAIN ANALYZE EXECUTE p", "DEALLOCATE p")
	case 10:
		return pick("UPDATE", "update") + blank() + pick("pg_settings", `pg_catalog."pg_settings"`, `U&"pg\005fsettings"`) + " SET setting = '6MB' WHERE name = 'work_mem'"
	case 11:
		return pick("CREATE TABLE IF NOT EXISTS pg_temp.mine ()", "CREATE TEMP TABLE IF NOT EXISTS mine ()", "SELECT 1 AS one INTO LOCAL TEMPORARY mine", `CREATE TABLE U&"pg\005ftemp".mine ()`, "DROP TABLE IF EXISTS pg_temp.mine") // and nothing that stays
	case 12:
		return pick(`SET LOCAL search_path = E'pg\x5ftemp'`, "SET search_path = 'pg'\n'_temp'", `SET SCHEMA U&'pg\005ftemp'`) + "; CREATE TABLE IF NOT EXISTS its (); RESET search_path"
	}
	return pick("SET ROLE pg_monitor", "RESET ROLE", "SET TIME ZONE 'Asia/Tokyo'", "DISCARD ALL", "DISCARD TEMP", "SAVEPOINT a", "ROLLBACK TO a", "SELECT 1/0")
}

// A SET counts only as long as its transaction has not failed: what a SET led to the last time is not believed behind an error in the same
// batch, whoever is behind that.
func TestASetThatIsUndoneIsNotRecalled(t *testing.T) {
	pgtest.Each(t, aSetThatIsUndoneIsNotRecalled)
}

func aSetThatIsUndoneIsNotRecalled(t *testing.T, pg *pgtest.Postgres) {
	const set = "SET search_path = pg_catalog"
	saying := []frontend{parse("", set), bind("", ""), execute("", 0)}
	then := func(more ...frontend) []frontend { return append(append([]frontend{}, saying...), more...) }
	tests := map[string][]exchange{
		"a Parse fails":                {ready(1, then(parse("", "SELEC"), synchronize)...)},
		"a Bind fails":                 {ready(1, then(bind("", "unknown"), synchronize)...)},
		"a Describe fails":             {ready(1, then(describe('S', "unknown"), synchronize)...)},
		"an Execute fails":             {ready(1, then(parse("", "SELECT 1/0"), bind("", ""), execute("", 0), synchronize)...)},
		"it is executed twice":         {ready(1, then(execute("", 0), synchronize)...)},
		"a later batch fails":          {ready(2, then(synchronize, parse("", "SELEC"), synchronize)...)},
		"an earlier batch fails":       {ready(2, append([]frontend{parse("", "SELEC"), synchronize}, then(synchronize)...)...)},
		"it is flushed, then fails":    {flushed(1, 'C', then(flush)...), ready(1, parse("", "SELEC"), synchronize)},
		"a block is rolled back":       {ready(1, query("BEGIN")), ready(1, query(set)), ready(1, query("ROLLBACK"))},
		"a block fails":                {ready(1, query("BEGIN")), ready(1, then(synchronize)...), ready(1, query("SELEC")), ready(1, query("COMMIT"))},
		"a Query of several fails":     queries(set + "; SELECT 1/0"),
		"a Query of several cannot be": queries(set + "; SELEC"),
	}
	w := start(t, settings{servers: 1, upstream: pg.DSN()})
	good := w.client()
	good.Query(set)
	good.Query("SELECT 1")
	for name, script := range tests {
		s := scenario{script: script}
		direct, c := pgtest.Connect(t, pg.DSN()), w.client()
		straight(t, s, direct)
		straight(t, s, c)
		if want, got := sees(t, direct), sees(t, c); want != got {
			t.Errorf("%s: its client sees otherwise: %s", name, differing(got, want))
		}
		if got := one(t, good.Query("SHOW search_path")); got != "pg_catalog" {
			t.Errorf("%s: then somebody else has the search path %s", name, got)
		}
		direct.Close()
		c.Close()
	}
}

// What DISCARD ALL does not end, ends with the server connection, in all pool modes: a connection of dblink is its client's alone.
func TestConnectionsOfDblinkEndWithTheirClient(t *testing.T) {
	pgtest.Each(t, connectionsOfDblinkEndWithTheirClient)
}

func connectionsOfDblinkEndWithTheirClient(t *testing.T, pg *pgtest.Postgres) {
	direct := pgtest.Connect(t, pg.DSNFor(pgserver.Superuser))
	direct.Query("CREATE EXTENSION IF NOT EXISTS dblink")
	to := strings.ReplaceAll(fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=postgres", pg.Port, pgserver.Superuser.Name, pgserver.Superuser.Password), "'", "''")
	connect := "dblink_connect('remote', '" + to + "')"
	tests := map[string][]exchange{
		"plainly":          queries("SELECT " + connect),
		"without a name":   queries("SELECT dblink_connect('" + to + "')"),
		"in quotes":        queries(`SELECT public."dblink_connect_u"('remote', '` + to + `')`),
		"in code points":   queries(`SELECT U&"dblink\005fconnect"('remote', '` + to + `')`),
		"prepared":         {ready(1, parse("s", "SELECT "+connect), bind("", "s"), execute("", 0), synchronize)},
		"prepared, hidden": {ready(1, parse("s", `SELECT U&"dblink\005fconnect"('remote', '`+to+`')`), bind("", "s"), execute("", 0), synchronize)},
		"prepared in a DO": {ready(1, parse("s", "DO $x$BEGIN EXECUTE 'SELECT dblink' || $$_"+strings.TrimPrefix(connect, "dblink_")+"$$; END$x$"), bind("", "s"), execute("", 0), synchronize)},
		"by SQL's EXECUTE": queries("PREPARE p AS SELECT "+connect, "EXECUTE p", "DEALLOCATE p"),
		"in a DO":          queries("DO $$BEGIN PERFORM " + connect + "; END$$"),
		"in dynamic SQL":   queries("DO $x$BEGIN EXECUTE 'SELECT dblink' || $$_" + strings.TrimPrefix(connect, "dblink_") + "$$; END$x$"),
		"before a DISCARD": queries("SELECT "+connect, "DISCARD ALL"),
	}
	for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Session} {
		w := start(t, settings{servers: 1, mode: mode, upstream: pg.DSNFor(pgserver.Superuser)})
		for name, script := range tests {
			s := scenario{script: script}
			c := w.client()
			pid := backend(t, c)
			straight(t, s, c)
			if got := one(t, c.Query("SELECT count(*) FROM pg_stat_activity WHERE application_name = '' AND backend_type = 'client backend' AND query = ''")); name == "plainly" && got == "" {
				t.Errorf("%s: no connection was made", name)
			}
			c.Send(terminate)
			c.UntilClosed()
			other := w.client()
			if got := backend(t, other); got == pid {
				t.Errorf("%s, in pool mode %s: the next client has the same server connection", name, mode)
			}
			other.Send(terminate)
			other.UntilClosed()
		}
	}
}

// lastval and currval tell of what the client itself has drawn, or there is PostgreSQL's own error: never of what somebody else has.
func TestNobodyReadsWhatAStrangerHasDrawn(t *testing.T) {
	pgtest.Each(t, nobodyReadsWhatAStrangerHasDrawn)
}

func nobodyReadsWhatAStrangerHasDrawn(t *testing.T, pg *pgtest.Postgres) {
	pgtest.Connect(t, pg.DSN()).Query("CREATE SEQUENCE IF NOT EXISTS drawn")
	reads := map[string][]frontend{
		"lastval":            {query("SELECT lastval()")},
		"currval":            {query("SELECT currval('drawn')")},
		"in capitals":        {query("SELECT LastVal()")},
		"in quotes":          {query(`SELECT pg_catalog."lastval"()`)},
		"in a batch":         {parse("", "SELECT lastval()"), bind("", ""), execute("", 0), synchronize},
		"behind another one": {parse("x", "SELECT 1"), parse("", "SELECT lastval()"), bind("", ""), execute("", 0), synchronize},
		"in odd capitals":    {parse("x", "SELECT 1"), parse("", "SELECT lAStvAL()"), bind("", ""), execute("", 0), synchronize},
	}
	for name, messages := range reads {
		w := start(t, settings{servers: 1, upstream: pg.DSN()})
		stranger, c := w.client(), w.client()
		for range 2 {
			stranger.Query("SELECT nextval('drawn')")
			c.Send(messages...)
			got := c.UntilReady(1)
			if !strings.Contains(pgtest.Types(got), "E") || strings.Contains(pgtest.Types(got), "D") {
				t.Errorf("%s, with nothing drawn, gives %v", name, got)
			}
			c.Query("DISCARD SEQUENCES")
			w.eventually("nobody is pinned", func() bool { return len(w.pinned()) == 0 })
		}
		c.Query("BEGIN")
		want := one(t, c.Query("SELECT nextval('drawn')"))
		if got := one(t, c.Query("SELECT lastval()")); got != want {
			t.Errorf("%s in the transaction that has drawn %s", got, want)
		}
		c.Query("COMMIT")
		w.eventually("pinned after "+name, func() bool { return w.pinned()["sequence"] == 1 })
		if got := one(t, c.Query("SELECT currval('drawn')")); got != want {
			t.Errorf("then %s, want %s", got, want)
		}
		c.Close()
		stranger.Close()
	}
	w := start(t, settings{servers: 1, pinning: postgres.RefusePins, upstream: pg.DSN()})
	if got := w.client().Query("SELECT lastval()"); got[0].Field('C') != "0A000" {
		t.Errorf("where nobody may be pinned, lastval is answered %v", got)
	}
}

// Where sessions may not keep their server connection, what only looks as if it were to is executed.
func TestWhatOnlyLooksLikePinningIsNotRefused(t *testing.T) {
	pg := pgtest.Shared(t)
	w := start(t, settings{servers: 1, pinning: postgres.RefusePins, upstream: pg.DSN()})
	pgtest.Connect(t, pg.DSN()).Query("DROP TABLE IF EXISTS looks; CREATE TABLE looks (listen text, lastval int, load int, temp text, prepare text)")
	for _, sql := range []string{
		"INSERT INTO looks (listen) VALUES ('please listen')",
		"INSERT INTO looks (listen) VALUES (E'listen\\nhere; LOAD ''it''')",
		"SELECT listen, lastval, load FROM looks",
		"SELECT l.load, l.prepare FROM looks AS l -- LISTEN here",
		"SELECT $$ LISTEN here; CREATE TEMP TABLE x () $$",
		"/* PREPARE p AS SELECT 1 */ SELECT 1",
		"SELECT 'pg_advisory_lock(1)', 'lastval()', 'dblink_connect('",
		`SELECT 1 AS "pg_advisory_lock"`,
	} {
		for range 2 {
			if got := ask(w.client(), parse("", sql), bind("", ""), execute("", 0)); got == "0A000" {
				t.Errorf("%s is refused, prepared", sql)
			}
			if got := w.client().Query(sql); strings.Contains(pgtest.Types(got), "E") {
				t.Errorf("%s is answered %v", sql, got)
			}
		}
	}
}

// Where somebody has used a temporary table, PostgreSQL takes no other temp_buffers on that connection. Whoever sets it gets one where
// nobody has, from the first time on that anybody has said so.
func TestTempBuffersCanBeSetWhateverOthersHaveDone(t *testing.T) {
	pgtest.Each(t, func(t *testing.T, pg *pgtest.Postgres) {
		for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Session} {
			w := start(t, settings{servers: 1, mode: mode, upstream: pg.DSN()})
			uses := func() {
				c := w.client()
				c.Query("BEGIN; CREATE TEMP TABLE mine ON COMMIT DROP AS SELECT 1 AS one; SELECT * FROM mine; COMMIT")
				c.Send(terminate)
				c.UntilClosed()
			}
			sets := func(client *pgtest.Client) {
				t.Helper()
				if mode == postgres.Transaction || len(client.Parameters) > 0 {
					if got := client.Query("SET temp_buffers = '10MB'"); pgtest.Types(got) != "CZ" {
						t.Errorf("SET is answered %v, in pool mode %s", got, mode)
					}
				}
				if got := one(t, client.Query("SHOW temp_buffers")); got != "10MB" {
					t.Errorf("temp_buffers = %s, in pool mode %s", got, mode)
				}
				client.Send(terminate)
				client.UntilClosed()
			}
			sets(w.client())
			for range 2 {
				uses()
				sets(w.client())
				uses()
				sets(w.client("options='-c temp_buffers=10MB'"))
			}
			if mode == postgres.Transaction { // one that follows its session
				c := w.client()
				c.Query("SET temp_buffers = '10MB'")
				uses()
				if got := one(t, c.Query("SHOW temp_buffers")); got != "10MB" {
					t.Errorf("then temp_buffers = %s", got)
				}
			}
		}
	})
}
