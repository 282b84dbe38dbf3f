package postgres_test

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/auth"
	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// What is tested here has once been wrong in a pooler, or in PostgreSQL: docs/explanation/security.md has the table.

// withParameter is a startup packet of the user open with one parameter more.
func withParameter(database, name, value string) []byte {
	return packet(v30, "user\x00open\x00database\x00"+database+"\x00"+name+"\x00"+value+"\x00\x00")
}

// loginsCompared has the same parameter given to the server and to a weir in front of it. Both let the client in, or refuse it for the
// same reason; and a session that was let in works.
func loginsCompared(t *testing.T, name, value string) {
	t.Helper()
	pg := pgtest.Shared(t)
	straight := &weir{tb: t, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(pg.Port))}
	w := start(t, settings{upstream: pg.DSNFor(pgserver.Open), servers: 2})
	want := outcome(t, straight.send(t, withParameter("app", name, value)))
	if got := outcome(t, w.send(t, withParameter(database, name, value))); got != want {
		t.Fatalf("the login ends with %q, that to the server with %q", got, want)
	}
	if want != welcome {
		return
	}
	c := pgtest.Dial(t, w.addr)
	c.SendBytes(withParameter(database, name, value))
	c.UntilReady(1)
	if got := one(t, c.Query("SELECT current_user || ' in ' || current_database()")); got != "open in app" {
		t.Errorf("then the session is %s", got)
	}
}

// CVE-2026-107349: whatever the form of the command-line options, they are taken, or refused, as the server does, and at once.
func TestOptionsOfOddFormsAreTakenAsByTheServer(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	for _, options := range []string{
		"-c=", "-c =", "-c =x", "-c=x", "--=", "--=x", "-c", "-", "--", "-c -c", "-c --geqo=off", "--geqo", "-c geqo", "-c geqo =off", "-c geqo=off -c",
		"-c geqo=", "geqo=off", "-cgeqo=off", "--geqo=off --", "-c\tgeqo=off\v--work-mem=5MB\f", "-c\\ geqo=off", "\\", "\\\\", "-c\\", "-c geqo=off=on",
		"-c user=postgres", "-c database=postgres", "-c replication=true", "--replication=database", "-c options=-cgeqo=off", "-c is-superuser=on",
		"-c a.=c", "-c .b=c", "-c a..b=c", "-c a.b.c=d", "-c 1.b=c", "-c a$.b=c", "-c a\\ b.c=d", "-c DATESTYLE=german", "-c _pq_.a=b",
		"-c session_authorization=app", "-c role=nosuch", "-c in_hot_standby=on", strings.Repeat("-c geqo=off ", 700), strings.Repeat("-c a.b= ", 1200),
	} {
		t.Run(options[:min(len(options), 30)], func(t *testing.T) { loginsCompared(t, "options", options) })
	}
}

// CVE-2025-12819: a parameter's name and its value stay a name and a value, whatever they look like in SQL.
func TestStartupParametersAreNeverSQL(t *testing.T) {
	pg := pgtest.Shared(t)
	direct := pgtest.Connect(t, pg.SuperDSN())
	direct.Query("CREATE TABLE IF NOT EXISTS canary (v int); GRANT ALL ON canary TO PUBLIC")
	pgtest.NoLeaks(t)
	for _, p := range [][2]string{
		{"search_path", "public'; DROP TABLE canary; --"},
		{"search_path", `"public'; DROP TABLE canary; --"`},
		{"search_path", `"$user", "x'y"`},
		{"search_path", `pg_temp, \`},
		{"search_path", ""},
		{"search_path", `"`},
		{"search_path", "public; DROP TABLE canary"},
		{"a.b", "'; DROP TABLE canary; --"},
		{"a.b", `\'; DROP TABLE canary; --`},
		{"a.b", `\`},
		{"a.b", "\n;\r;\t"},
		{"a.b", "$$;DROP TABLE canary;$$"},
		{"a.b", "',false); DROP TABLE canary; --"},
		{"application_name", "'; DROP TABLE canary; --"},
		{"application_name", "\n\xff\\"},
		{"x'; DROP TABLE canary; --", "y"},
		{`a."b`, "x"},
		{`a"."b`, "x"},
		{"a.b; DROP TABLE canary", "x"},
		{"A.B", "x"},
		{" geqo", "off"},
		{"geqo ", "off"},
		{"role", `open"; DROP TABLE canary; --`},
		{"session_authorization", "open'; --"},
		{"timezone", "'"},
		{"datestyle", "iso; DROP TABLE canary"},
		{"client_encoding", "utf8'"},
		{"client_encoding", "SJIS"},
		{"USER", "postgres"},
		{"Database", "postgres"},
		{"Replication", "on"},
		{"Options", "-c geqo=off"},
		{"password", "x"},
		{"_pq_.x", "'"},
		{"_pq_", "'"},
		{"_PQ_.x", "'"},
		{"geqo", ""},
		{"statement-timeout", "5"},
		{"select", "1"},
		{"-c geqo", "off"},
	} {
		t.Run(p[0]+"="+p[1], func(t *testing.T) { loginsCompared(t, p[0], p[1]) })
	}
	if got := one(t, direct.Query("SELECT to_regclass('canary')")); got != "canary" {
		t.Error("a parameter was executed")
	}
}

// traps is SQL for a schema that has everything that weir might mean when it does not say which schema it means: operators, functions,
// relations and types. Whoever uses one is written down.
func traps() string {
	var sql strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&sql, format+";\n", args...) }
	say("DROP SCHEMA IF EXISTS trap CASCADE")
	say("CREATE SCHEMA trap")
	say("CREATE TABLE trap.sprung (what text, by text)")
	say("CREATE FUNCTION trap.spring(what text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $f$" +
		"BEGIN INSERT INTO trap.sprung VALUES (what, pg_catalog.current_query()); RETURN true; END$f$")
	types := []string{"text", "name", "varchar", `"char"`, "oid", "regclass", "int4", "int8", "bool"}
	for i, left := range types {
		for j, right := range types {
			say("CREATE FUNCTION trap.f%d%d(%s, %s) RETURNS boolean LANGUAGE sql AS $f$SELECT trap.spring('%[3]s and %[4]s')$f$", i, j, left, right)
			for _, operator := range []string{"=", "<>", "~", "~~", "||", "@>"} {
				say("CREATE OPERATOR trap.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = trap.f%d%d)", operator, left, right, i, j)
			}
		}
	}
	for _, f := range []string{
		"set_config(text, text, boolean)", "current_setting(text)", "current_setting(text, boolean)", "left(text, int)", "lower(text)", "quote_ident(text)",
		"pg_my_temp_schema()", "pg_backend_pid()", "pg_listening_channels()",
	} {
		say("CREATE FUNCTION trap.%s RETURNS text LANGUAGE sql AS $f$SELECT trap.spring('%[1]s')::text$f$", f)
	}
	for _, view := range []string{"pg_settings", "pg_locks", "pg_depend", "pg_cursors", "pg_prepared_statements", "pg_namespace", "pg_class"} {
		say("CREATE VIEW trap.%s AS SELECT trap.spring('%[1]s') AS v, ''::text AS name, ''::text AS setting, ''::text AS source, true AS from_sql, "+
			"true AS is_holdable, ''::text AS locktype, 0 AS pid, 0::oid AS refclassid, 0::oid AS refobjid", view)
	}
	for _, domain := range []string{"text", "oid", "bool", "regclass", "name"} {
		say("CREATE DOMAIN trap.%s AS pg_catalog.%[1]s CHECK (trap.spring('type %[1]s'))", domain)
	}
	say("GRANT ALL ON SCHEMA trap TO PUBLIC")
	say("GRANT SELECT ON ALL TABLES IN SCHEMA trap TO PUBLIC")
	return sql.String()
}

// CVE-2018-1058: what a session finds in its schemas, weir's own statements do not: neither when they apply its settings, nor when they
// ask what it has left behind.
func TestNothingOfASessionsSchemasRunsInWeirsOwnStatements(t *testing.T) {
	pg := pgtest.Shared(t)
	direct := pgtest.Connect(t, pg.SuperDSN())
	if got := direct.Query(traps()); lastError(got) != "" {
		t.Fatal(got[len(got)-2])
	}
	defer direct.Query("DROP SCHEMA trap CASCADE")
	sprung := func() []string {
		return pgtest.Rows(direct.Query("SELECT DISTINCT what || ' by ' || by FROM trap.sprung"))
	}
	for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Session} {
		for _, reset := range []postgres.Reset{postgres.ResetDetected, postgres.ResetAlways} {
			w := start(t, settings{servers: 1, mode: mode, reset: reset})
			for _, path := range []string{"trap, pg_catalog", "trap, pg_temp, pg_catalog", "public"} {
				c := w.client("search_path='" + path + "' options='-c my.own=1 -c statement_timeout=60s'")
				for _, sql := range []string{
					"SHOW search_path", "SET work_mem = '5MB'", "SET my.other = 'x'", "SET search_path = " + path, "LISTEN a", "UNLISTEN a",
					"CREATE TEMP TABLE left_here (v pg_catalog.int4)", "DROP TABLE pg_temp.left_here",
					"SELECT pg_catalog.pg_advisory_lock(1)", "SELECT pg_catalog.pg_advisory_unlock(1)",
					"BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT", "CLOSE c", "PREPARE q AS SELECT 1", "DEALLOCATE q", "DO $$BEGIN PERFORM 1; END$$",
					"SELECT pg_catalog.set_config('my.third', 'y', false)", "RESET my.third", "SET ROLE NONE", "RESET ALL", "DISCARD ALL",
				} {
					if got := c.Query(sql); lastError(got) != "" {
						t.Errorf("%s: %v", sql, got)
					}
				}
				c.Send(terminate)
				c.UntilClosed()
			}
		}
	}
	if got := sprung(); len(got) > 0 {
		t.Errorf("weir has run what the session had put there: %q", got)
	}
	c := start(t, settings{}).client("search_path='trap, pg_catalog'") // and the traps work
	c.Query("SELECT 'a'::pg_catalog.text = 'b'::pg_catalog.text, current_setting('work_mem'), 'x'::text FROM pg_settings")
	if got := sprung(); len(got) < 4 {
		t.Errorf("the traps do not spring: %q", got)
	}
}

// CVE-2026-107350: a second startup packet makes nobody of a client who it was not, wherever it comes.
func TestASecondStartupPacketIsRefused(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	users := map[string]string{"app": "secret", "boss": "another secret"}
	trusting := start(t, settings{})
	asking := start(t, settings{method: auth.SCRAM, users: users})
	boss := packet(v30, "user\x00boss\x00database\x00orders\x00\x00")
	elsewhere := packet(v30, "user\x00app\x00database\x00nosuch\x00\x00")
	initial := pgtest.Encode[pgproto3.FrontendMessage](&pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-256", Data: []byte("n,,n=,r=nonce")})
	for name, test := range map[string]struct {
		w     *weir
		said  [][]byte // what the client says, each once something has come back
		wants string   // SQLSTATE of its end
	}{
		"behind the login":                        {trusting, [][]byte{good, good}, "08P01"},
		"of another user behind the login":        {trusting, [][]byte{good, boss}, "08P01"},
		"a request for TLS behind the login":      {trusting, [][]byte{good, askSSL}, "08P01"},
		"a cancel request behind the login":       {trusting, [][]byte{good, cancelPacket(1, []byte("key!"))}, "08P01"},
		"right behind the first":                  {trusting, [][]byte{slices.Concat(good, boss)}, "08P01"},
		"instead of the password":                 {asking, [][]byte{good, boss}, "08P01"},
		"right behind the first, with a password": {asking, [][]byte{slices.Concat(good, boss)}, "08P01"},
		"in the middle of SCRAM":                  {asking, [][]byte{good, initial, boss}, "08P01"},
		"behind that of an unknown database":      {asking, [][]byte{elsewhere, initial, boss}, "08P01"},
		"at once behind that of an unknown one":   {asking, [][]byte{elsewhere, slices.Concat(initial, boss)}, "08P01"},
		"a request for TLS in the middle":         {asking, [][]byte{good, initial, askSSL}, "08P01"},
	} {
		t.Run(name, func(t *testing.T) {
			c := pgtest.Dial(t, test.w.addr)
			var heard []pgtest.Message
			for i, b := range test.said {
				if i > 0 {
					heard = append(heard, c.Until(func(m pgtest.Message) bool { return m.Type == 'Z' || m.Type == 'R' && m.Body[3] != 0 })...)
				}
				c.SendBytes(b)
			}
			heard = append(heard, c.UntilClosed()...)
			last := heard[len(heard)-1]
			if last.Field('C') != test.wants || last.Field('S') != "FATAL" {
				t.Errorf("it ends with %v, want %s", last, test.wants)
			}
			if n := strings.Count(pgtest.Types(heard), "Z"); test.w == asking && n > 0 || n > 1 {
				t.Errorf("it was let in: %v", heard)
			}
		})
	}
	if n := asking.logins("scram-sha-256", "ok"); n > 0 {
		t.Errorf("%d logins succeeded", n)
	}
}

// CVE-2026-6666: fields that an error ought to have, and has not.
var oddErrors = map[string]string{
	"nothing":                    "",
	"no fields":                  "\x00",
	"no SQLSTATE":                "SERROR\x00VERROR\x00Moops\x00\x00",
	"an empty SQLSTATE":          "SERROR\x00C\x00Moops\x00\x00",
	"a short SQLSTATE":           "SERROR\x00C2\x00Moops\x00\x00",
	"a long SQLSTATE":            "SERROR\x00C" + strings.Repeat("2", 500) + "\x00Moops\x00\x00",
	"a SQLSTATE alone":           "C22012\x00\x00",
	"no message":                 "SERROR\x00C22012\x00\x00",
	"no end of the last field":   "SERROR\x00C22012\x00Moops",
	"no end of the fields":       "SERROR\x00C22012\x00Moops\x00",
	"a code without a field":     "SERROR\x00C",
	"fields that nobody knows":   "?x\x00!y\x00\x00",
	"a position that is no such": "SERROR\x00C42601\x00Moops\x00Pminus one\x00L\x00\x00",
}

func TestErrorsWithoutTheirFieldsPass(t *testing.T) {
	end := pgtest.Encode(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	for name, body := range oddErrors {
		wire := append([]byte(framed('E', body)), end...)
		t.Run(name, func(t *testing.T) {
			t.Run("within a transaction", func(t *testing.T) {
				pgtest.NoLeaks(t)
				w, fake := faulty(t, settings{servers: 1}, pgtest.Expect("Q"), pgtest.SendBytes(wire), pgtest.Expect("PBES"), pgtest.SendBytes(wire),
					pgtest.AnswerQueries(pgtest.Reply(1)))
				c := w.client()
				if got := c.Query("SELECT 1"); pgtest.Types(got) != "EZ" || string(got[0].Body) != body {
					t.Errorf("the client reads %q", got)
				}
				c.Send(parse("", "SELECT 1"), bind("", ""), execute("", 0), synchronize)
				if got := c.UntilReady(1); pgtest.Types(got) != "EZ" || string(got[0].Body) != body {
					t.Errorf("in the extended protocol the client reads %q", got)
				}
				if got := pgtest.Types(c.Query("SELECT 1")); got != "TDCZ" || fake.Accepted() != 1 {
					t.Errorf("then it reads %s, from connection %d", got, fake.Accepted())
				}
			})
			t.Run("while idle", func(t *testing.T) {
				pgtest.NoLeaks(t)
				idle := make(chan struct{})
				w, fake := faulty(t, settings{servers: 1}, pgtest.Expect("Q"), pgtest.SendBytes(pgtest.Reply(1)), pgtest.WaitFor(idle), pgtest.SendBytes(wire), pgtest.ExpectClose())
				c := w.client()
				c.Query("SELECT 1")
				w.eventually("idle", func() bool { return w.servers("idle") == 1 })
				close(idle)
				w.eventually("left", func() bool { return w.servers("idle") == 0 })
				if got := pgtest.Types(c.Query("SELECT 1")); got != "TDCZ" || fake.Accepted() != 2 {
					t.Errorf("the client reads %s, from connection %d", got, fake.Accepted())
				}
			})
			t.Run("behind a client that left", func(t *testing.T) {
				pgtest.NoLeaks(t)
				left := make(chan struct{})
				w, fake := faulty(t, settings{servers: 1}, pgtest.Expect("Q"), pgtest.WaitFor(left), pgtest.SendBytes(wire), pgtest.AnswerQueries(pgtest.Reply(1)))
				c := w.client()
				c.Send(query("SELECT 1"))
				w.eventually("asked", func() bool { return w.servers("used") == 1 })
				c.Close()
				fake.AwaitCancel(1)
				close(left)
				if got := pgtest.Types(w.client().Query("SELECT 1")); got != "TDCZ" {
					t.Errorf("the next client reads %s", got)
				}
			})
			t.Run("at login", func(t *testing.T) {
				pgtest.NoLeaks(t)
				fake := pgtest.ServeEach(t, func(n int) pgtest.Script {
					if n == 0 {
						return pgtest.Script{pgtest.ExpectStartup(), pgtest.SendBytes(wire[:len(wire)-len(end)]), pgtest.HangUp()}
					}
					return pgtest.Script{pgtest.AcceptStartup(), pgtest.AnswerQueries(pgtest.Reply(1))}
				})
				w := start(t, settings{servers: 1, upstream: fake.DSN()})
				if got := pgtest.Types(w.client().Query("SELECT 1")); got != "TDCZ" {
					t.Errorf("the client reads %s", got)
				}
			})
		})
	}
}

// What weir says because of such an error has what every error has.
func TestErrorsThatWeirPassesOnHaveTheirFields(t *testing.T) {
	for name, body := range oddErrors {
		t.Run(name, func(t *testing.T) {
			for refused, script := range map[string]pgtest.Script{
				"settings":             {pgtest.AcceptStartup(), refuseSettings(framed('E', body))},
				"a login for settings": {refuseStartup(framed('E', body)), pgtest.AnswerQueries(pgtest.Reply(1))},
				"a login":              {pgtest.ExpectStartup(), pgtest.SendBytes([]byte(framed('E', body))), pgtest.HangUp()},
			} {
				t.Run(refused, func(t *testing.T) {
					pgtest.NoLeaks(t)
					fake := script.Serve(t)
					w := start(t, settings{servers: 2, upstream: fake.DSN(), limits: postgres.Limits{LoginTimeout: 300 * time.Millisecond}})
					c := pgtest.Dial(t, w.addr)
					c.SendBytes(slices.Concat(packet(v30, "geqo\x00off\x00"+hello), pgtest.Encode(query("SELECT 1"))))
					got := c.UntilClosed()
					last := got[len(got)-1]
					if last.Type != 'E' || last.Field('S') != "FATAL" || last.Field('V') != "FATAL" || len(last.Field('C')) != 5 || last.Field('M') == "" {
						t.Errorf("the client reads %v", got)
					}
				})
			}
		})
	}
}

// refuseSettings answers whatever sets a parameter with an error, and the rest as in a failed transaction.
func refuseSettings(wire string) pgtest.Step {
	failed := pgtest.Encode(&pgproto3.ReadyForQuery{TxStatus: 'E'})
	return func(c *pgtest.ServerConn) error {
		for {
			m, err := c.Receive()
			if err != nil {
				return err
			}
			switch {
			case m.Type == 'X':
				return nil
			case bytes.Contains(m.Body, []byte("set_config")):
				_, err = c.Write(append([]byte(wire), failed...))
			default:
				err = c.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "25P02", Message: "aborted"}, &pgproto3.ReadyForQuery{TxStatus: 'E'})
			}
			if err != nil {
				return err
			}
		}
	}
}

// refuseStartup lets in who asks for no parameters.
func refuseStartup(wire string) pgtest.Step {
	expect, welcome := pgtest.ExpectStartup(), pgtest.Welcome()
	return func(c *pgtest.ServerConn) error {
		if err := expect(c); err != nil {
			return err
		}
		if c.Startup["geqo"] == "" {
			return welcome(c)
		}
		_, _ = c.Write([]byte(wire))
		return net.ErrClosed
	}
}

// CVE-2025-2291: weir logs in as one role, whose end PostgreSQL itself heeds: when it has expired, nobody is let in any more.
func TestAnExpiredRoleLetsNobodyIn(t *testing.T) {
	pg := pgtest.Start(t, pgtest.Config{HBA: []string{"host all mortal 127.0.0.1/32 scram-sha-256"}})
	super := pgtest.Connect(t, pg.SuperDSN())
	script(super, "CREATE ROLE mortal LOGIN PASSWORD 'still known' VALID UNTIL 'infinity'")
	dsn := fmt.Sprintf("host=127.0.0.1 port=%d dbname=app user=mortal password='still known' sslmode=disable", pg.Port)
	for until, want := range map[string]string{"infinity": welcome, "2000-01-01": "57P03"} {
		script(super, "ALTER ROLE mortal VALID UNTIL '"+until+"'")
		w := start(t, settings{upstream: dsn, limits: postgres.Limits{LoginTimeout: 500 * time.Millisecond}})
		if got := outcome(t, w.send(t, good)); got != want {
			t.Errorf("valid until %s: the login ends with %q, want %q", until, got, want)
		}
	}
}

// Names of users and databases are shown, looked up and written to the log, and are nothing else.
func TestNamesOfOddForms(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{method: auth.SCRAM, users: map[string]string{"app": "secret"}})
	trusting := start(t, settings{})
	for _, name := range []string{
		"a'; DROP TABLE canary; --", `a"b`, `a\b`, "a\nlevel=INFO msg=forged", "a\r\n\r\n", "\x01\x7f", "\xff\xfe", "%s%n", "../../etc/passwd", "weir", "pgbouncer",
		strings.Repeat("a", 9000), " ", "app ", "APP",
	} {
		shown := name[:min(len(name), 30)]
		user := packet(v30, "user\x00"+name+"\x00database\x00orders\x00\x00")
		c := pgtest.Dial(t, w.addr)
		c.SendBytes(user)
		c.Expect('R')
		c.Send(&pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-256", Data: []byte("n,,n=,r=nonce")})
		nonce, _, _ := bytes.Cut(c.Expect('R').Body[6:], []byte(","))
		c.Send(&pgproto3.SASLResponse{Data: []byte("c=biws,r=" + string(nonce) + ",p=" + strings.Repeat("A", 43) + "=")})
		if got := c.UntilClosed(); len(got) != 1 || got[0].Field('C') != "28P01" || got[0].Field('M') != `password authentication failed for user "`+name+`"` {
			t.Errorf("user %q is told %v", shown, got)
		}
		unknown := packet(v30, "user\x00app\x00database\x00"+name+"\x00\x00")
		if got := outcome(t, trusting.send(t, unknown)); got != "3D000" {
			t.Errorf("database %q ends with %q", shown, got)
		}
		if got := outcome(t, trusting.send(t, user)); got != welcome { // trust without users believes any name
			t.Errorf("user %q, trusted, ends with %q", shown, got)
		}
	}
	for _, cut := range []string{"user\x00a\x00b\x00database\x00orders\x00\x00", "user\x00app\x00database\x00orders\x00x\x00\x00"} { // a NUL ends a name
		if got := outcome(t, trusting.send(t, packet(v30, cut))); got == welcome {
			t.Errorf("a packet with a NUL within a name is let in: %q", cut)
		}
	}
}

// CVE-2024-45624: the same text is answered by the server each time, for the role that asks. Nothing of an answer is kept.
func TestTheSameTextShowsEachRoleItsOwnRows(t *testing.T) {
	pg := pgtest.Shared(t)
	super := pgtest.Connect(t, pg.SuperDSN())
	const drop = "DROP TABLE IF EXISTS ledger; DROP ROLE IF EXISTS anna, berta, carl"
	if got := lastError(super.Query(drop + `; CREATE ROLE anna; CREATE ROLE berta; CREATE ROLE carl; GRANT anna, berta, carl TO open;
		CREATE TABLE ledger (owner text); INSERT INTO ledger VALUES ('anna'), ('berta'), ('carl'), ('open'); GRANT SELECT ON ledger TO anna, berta;
		ALTER TABLE ledger ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON ledger USING (owner = current_user)`)); got != "" {
		t.Fatal(got)
	}
	defer super.Query(drop)
	const text = "SELECT owner FROM ledger"
	for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Session} {
		w := start(t, settings{servers: 1, mode: mode, upstream: pg.DSNFor(pgserver.Open)})
		for round := range 3 {
			for role, want := range map[string]string{"anna": "anna", "berta": "berta", "carl": "42501", "open": "open"} {
				c := w.client("options='-c role=" + role + "'")
				for how, got := range map[string]string{
					"simple":  answered(c.Query(text)),
					"unnamed": ask(c, parse("", text), bind("", ""), execute("", 0)),
					"named":   ask(c, parse("s", text), bind("", "s"), execute("", 0)),
				} {
					if got != want {
						t.Errorf("%s, %s, round %d: %s reads %q, want %q", mode, how, round, role, got, want)
					}
				}
				c.Send(terminate)
				c.UntilClosed()
			}
		}
	}
}

// answered is the one row of an answer, or its error.
func answered(messages []pgtest.Message) string {
	return strings.Join(append(pgtest.Rows(messages), lastError(messages)), "")
}
