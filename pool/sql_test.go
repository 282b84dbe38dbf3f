package pool_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/pool"
)

// ours is all that we say to a server in SQL, by the function that puts it together.
func ours() map[string]string {
	questions := map[string]pool.Query{
		"SettingsSet": pool.SettingsSet("set"), "SettingsNamed": pool.SettingsNamed("set", []string{"my.own", "my.other"}),
		"AnyPrepared": pool.AnyPrepared("prepare"), "AnyListening": pool.AnyListening("listen"), "AnyTemporary": pool.AnyTemporary("temp"),
		"AnyHoldable": pool.AnyHoldable("cursor"), "AnyLock": pool.AnyLock("lock"),
	}
	all := map[string]string{
		"Raise": pool.Raise("0A000", "it's refused", "use another"), "AppendDiscard": pool.DiscardAll,
		"AppendDiscardSequences": sqlOf(pool.AppendDiscardSequences(nil)), "AppendDeallocateAll": sqlOf(pool.AppendDeallocateAll(nil)),
		"change": pool.ChangeSQL("work_mem", "5MB", "my.own"), "QuoteString": "SELECT " + pool.QuoteString(`it's \`),
		"EndProcesses": pool.EndProcesses([]uint32{1, 4711}, time.Minute),
	}
	var each []pool.Query
	for name, q := range questions {
		all[name] = string(q)
		each = append(each, q)
	}
	all["Ask"] = pool.Ask(each)
	return all
}

// sqlOf is the text of a Query.
func sqlOf(message []byte) string { return strings.TrimSuffix(string(message[5:]), "\x00") }

// Each function that says something to a server is known to these tests.
func TestAllOfOurSQLIsTested(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "sql.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	known := ours()
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.IsExported() && known[f.Name.Name] == "" {
			t.Errorf("what %s says is not tested", f.Name.Name)
		}
	}
}

// Trap 66 (CVE-2018-1058): whatever a session has first in its search path, nothing of it runs in what we say.
func TestNothingOfTheUsersRunsInOurSQL(t *testing.T) {
	pgtest.Each(t, func(t *testing.T, pg *pgtest.Postgres) {
		c := pgtest.Connect(t, pg.DSNFor(pgserver.Superuser))
		c.Query("DROP SCHEMA IF EXISTS hostile CASCADE; CREATE SCHEMA hostile")
		defer c.Query("RESET search_path; DROP SCHEMA hostile CASCADE")
		for _, sql := range hostile() {
			if got := c.Query(sql); slices.ContainsFunc(got, func(m pgtest.Message) bool { return m.Type == 'E' }) {
				t.Fatalf("%s: %v", sql, got)
			}
		}
		c.Query("LISTEN here; CREATE TEMP TABLE mine (); PREPARE mine AS SELECT 1; SELECT pg_advisory_lock(1); SET my.own = 'x'")
		c.Query("SET search_path = hostile, pg_catalog, public")
		for _, sql := range []string{
			"SELECT 'a'::pg_catalog.text = 'b'::pg_catalog.text", "SELECT pg_my_temp_schema()", "SELECT left('a'::pg_catalog.text, 1)",
			"SELECT 1 WHERE 1::pg_catalog.oid = 'pg_catalog.pg_class'::pg_catalog.regclass", "SELECT '1'::text", "SELECT * FROM pg_settings",
		} {
			if got := c.Query(sql); !overheard(got) {
				t.Errorf("%s runs nothing of the user's, so that this test shows nothing: %v", sql, got)
			}
		}
		for name, sql := range ours() {
			if got := c.Query(sql); overheard(got) || name != "Raise" && !strings.HasPrefix(name, "Append") && strings.Contains(pgtest.Types(got), "E") {
				t.Errorf("%s: %s is answered %v", name, sql, got)
			}
			c.Query("SET search_path = hostile, pg_catalog, public") // after DISCARD ALL
		}
	})
}

// overheard reports whether something of the user's has run.
func overheard(answer []pgtest.Message) bool {
	return slices.ContainsFunc(answer, func(m pgtest.Message) bool { return strings.Contains(string(m.Body), "overheard") })
}

// hostile are an operator for each two types that ours could be taken for, and a function, type, view and cast for each that ours names: what
// runs of them fails.
func hostile() (sql []string) {
	types := []string{"oid", "regclass", "text", "name", "int4", "int8", "bool", "\"char\"", "varchar", "bpchar"}
	fails := func(name, arguments, returns string) string {
		return "CREATE FUNCTION hostile." + name + "(" + arguments + ") RETURNS " + returns + " LANGUAGE plpgsql AS $f$BEGIN RAISE EXCEPTION 'overheard'; END$f$"
	}
	for _, left := range types {
		for _, right := range types {
			sql = append(sql, fails("compare", left+", "+right, "bool"))
			for _, operator := range []string{"=", "<>", "~~", "<", ">"} {
				sql = append(sql, "CREATE OPERATOR hostile."+operator+" (leftarg = "+left+", rightarg = "+right+", function = hostile.compare)")
			}
		}
	}
	for _, f := range [][3]string{
		{"left", "text, int4", "text"},
		{"current_setting", "text", "text"},
		{"current_setting", "text, bool", "text"},
		{"set_config", "text, text, bool", "text"},
		{"pg_backend_pid", "", "int4"},
		{"pg_my_temp_schema", "", "oid"},
		{"pg_listening_channels", "", "text"},
		{"pg_lock_status", "", "text"},
		{"pg_show_all_settings", "", "text"},
		{"pg_stat_get_activity", "int4", "text"},
		{"pg_terminate_backend", "int4", "bool"},
		{"now", "", "timestamptz"},
	} {
		sql = append(sql, fails(f[0], f[1], f[2]))
	}
	sql = append(sql, fails("raises", "", "bool"))
	for _, view := range []string{"pg_settings", "pg_prepared_statements", "pg_depend", "pg_cursors", "pg_locks", "pg_namespace", "pg_stat_activity"} {
		sql = append(sql, "CREATE VIEW hostile."+view+" AS SELECT hostile.raises() AS name")
	}
	for _, name := range []string{"text", "oid", "regclass", "name", "bool", "int4"} {
		sql = append(sql, "CREATE DOMAIN hostile."+name+" AS pg_catalog."+name+" CHECK (hostile.raises())")
	}
	sql = append(sql, "CREATE TYPE hostile.thing AS (v pg_catalog.int4)")
	for _, from := range []string{"text", "name", "oid", "regclass", "int4", "bool"} {
		sql = append(sql,
			fails("cast_of", "pg_catalog."+from, "hostile.thing"), "CREATE CAST (pg_catalog."+from+" AS hostile.thing) WITH FUNCTION hostile.cast_of(pg_catalog."+from+") AS IMPLICIT")
	}
	return sql
}
