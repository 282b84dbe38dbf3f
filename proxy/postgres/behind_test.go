package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// What is sent in the same write as a RESET, behind it, runs with what was asked for at startup.
func TestWhatIsSentBehindAResetRunsWithWhatWasAskedFor(t *testing.T) {
	pg := pgtest.Shared(t)
	if err := pg.Exec(t.Context(), "DROP ROLE IF EXISTS weir_behind; CREATE ROLE weir_behind; GRANT weir_behind TO app"); err != nil {
		t.Fatal(err)
	}
	pgtest.NoLeaks(t)
	const shown = "SELECT concat_ws(' ', current_user, current_setting('search_path'), current_setting('my.x'))"
	for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Session} {
		w := start(t, settings{servers: 2, mode: mode})
		for _, reset := range []string{"RESET ALL", "DISCARD ALL", "RESET ROLE", "RESET search_path", "SET search_path TO DEFAULT", "BEGIN; RESET ALL; COMMIT"} {
			for _, batches := range []bool{false, true} {
				if batches && strings.Contains(reset, ";") { // no single statement
					continue
				}
				t.Run(fmt.Sprint(mode, "/", reset, "/", batches), func(t *testing.T) {
					c := w.client("options='-c role=weir_behind -c search_path=elsewhere -c my.x=5'")
					if batches {
						c.Send(append(batchOf(reset), batchOf(shown)...)...)
					} else {
						c.Send(query(reset), query(shown))
					}
					c.UntilReady(1)
					if got := one(t, c.UntilReady(1)); got != "weir_behind elsewhere 5" {
						t.Errorf("it runs with %q", got)
					}
					c.Close()
				})
			}
		}
	}
}

// In pool mode session, a batch that fails ahead of a Query, which the server skips then, leaves no connection behind that is waited for.
func TestAQueryThatIsSkippedBehindAFailedBatchLeavesNothing(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1, mode: postgres.Session})
	for name, batch := range map[string][]frontend{
		"Parse":       {parse("", "selec"), query("SELECT 1"), synchronize},
		"Bind":        {bind("", "unknown"), execute("", 0), query("SELECT 1"), synchronize},
		"two Queries": {parse("", "selec"), query("SELECT 1"), query("SELECT 2"), synchronize},
	} {
		c := w.client()
		c.Send(batch...)
		if got := pgtest.Types(c.UntilReady(1)); got != "EZ" {
			t.Errorf("%s: answered %s", name, got)
		}
		if got := one(t, c.Query("SELECT 3")); got != "3" {
			t.Errorf("%s: goes on with %q", name, got)
		}
		c.Send(terminate)
		c.Close()
		w.eventually("its connection is free", func() bool { return w.servers("used") == 0 && w.servers("closing") == 0 })
	}
}

// Tables that are made by a SELECT change what others' statements mean, as those by CREATE do.
func TestSelectIntoIsNoticed(t *testing.T) {
	pgtest.Shared(t)
	direct := left(t)
	pgtest.NoLeaks(t)
	for name, sql := range map[string]string{
		"SELECT INTO":     "SELECT 'here' AS v INTO shadow.named",
		"WITH":            "WITH q AS (SELECT 'here' AS v) SELECT v INTO shadow.named FROM q",
		"EXPLAIN ANALYZE": "EXPLAIN ANALYZE CREATE TABLE shadow.named AS SELECT 'here' AS v",
	} {
		t.Run(name, func(t *testing.T) {
			direct.Query("DROP SCHEMA IF EXISTS shadow CASCADE; CREATE SCHEMA shadow; DROP TABLE IF EXISTS public.named; CREATE TABLE public.named (v text); INSERT INTO named VALUES ('public')")
			w := start(t, settings{servers: 2})
			a, b := w.client("search_path=shadow,public"), w.client("search_path=shadow,public")
			const read = "SELECT v FROM named"
			if got := ask(a, parse("", read), bind("", ""), execute("", 0)); got != "public" {
				t.Fatalf("before, it reads %q", got)
			}
			if got := lastError(w.client().Query(sql)); got != "" {
				t.Fatal(got)
			}
			for _, c := range []*pgtest.Client{a, b} {
				if got := ask(c, parse("", read), bind("", ""), execute("", 0)); got != "here" {
					t.Errorf("it reads %q", got)
				}
			}
		})
	}
	direct.Query("DROP SCHEMA IF EXISTS shadow CASCADE; DROP TABLE IF EXISTS public.named")
}

// A text that is prepared while a function has changed a parameter that the server reports, for the transaction, is nobody else's.
func TestATextThatIsPreparedUnderAFunctionsSettingsIsNotShared(t *testing.T) {
	direct := left(t)
	direct.Query("CREATE OR REPLACE FUNCTION weir_locally() RETURNS text LANGUAGE sql AS $$ SELECT set_config('datestyle', 'dmy', true) $$")
	defer direct.Query("DROP FUNCTION weir_locally()")
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 1})
	a, b := w.client(), w.client()
	const read = "SELECT '01/02/2020'::date - '2020-01-01'::date"
	a.Query("BEGIN")
	a.Query("SELECT weir_locally()")
	if got := ask(a, parse("k", read), bind("", "k"), execute("", 0)); got != "31" {
		t.Errorf("under the function's setting it reads %q", got)
	}
	a.Query("COMMIT")
	for _, name := range []string{"k", ""} {
		if got := ask(b, parse(name, read), bind("", name), execute("", 0)); got != "1" {
			t.Errorf("another one reads %q", got)
		}
	}
}

// The unnamed statement outlives a RESET by the extended protocol, though what was asked for at startup is put back behind that.
func TestTheUnnamedStatementOutlivesReset(t *testing.T) {
	pgtest.Each(t, theUnnamedStatementOutlivesReset)
}

func theUnnamedStatementOutlivesReset(t *testing.T, pg *pgtest.Postgres) {
	prepared := func(name, sql string) exchange {
		return ready(1, parse(name, sql), bind("", name), execute("", 0), synchronize)
	}
	again := ready(1, bind("", ""), execute("", 0), synchronize)
	tests := map[string][]exchange{
		"which it is itself":   {prepared("", "RESET ALL"), again, again},
		"of another name":      {prepared("", "SELECT 1"), prepared("n", "RESET search_path"), again, again},
		"of the role":          {prepared("", "SELECT current_setting('my.x')"), prepared("n", "RESET ROLE"), again},
		"that is rolled back":  {prepared("", "RESET my.x"), ready(1, parse("n", "BEGIN"), bind("", "n"), execute("", 0), synchronize), again, prepared("m", "ROLLBACK"), again},
		"but not a Query":      {prepared("", "SELECT 1"), ready(1, query("RESET ALL")), again},
		"behind a failed one":  {prepared("", "SELECT 1"), prepared("n", "RESET ALL"), prepared("m", "SELECT 1/0"), again},
		"to the default":       {prepared("", "SET search_path TO DEFAULT"), again, prepared("n", "SHOW search_path"), prepared("", "SELECT 2"), again},
		"of what was not set":  {prepared("", "RESET work_mem"), again},
		"of all, by a Discard": {prepared("", "SELECT 1"), prepared("n", "DISCARD ALL"), again},
	}
	answered := func(m []pgtest.Message) string { return strings.ReplaceAll(pgtest.Types(m), "S", "") } // what weir tells of parameters aside
	for _, mode := range []postgres.PoolMode{postgres.Session, postgres.Transaction} {
		w := start(t, settings{servers: 2, mode: mode, upstream: pg.DSN()})
		for name, script := range tests {
			t.Run(fmt.Sprint(mode, "/", name), func(t *testing.T) {
				const asked = " search_path=elsewhere options='-c my.x=5'"
				direct, proxied := pgtest.Connect(t, keyword(pg)+asked), w.client(asked)
				defer proxied.Close()
				for i, e := range script {
					direct.SendBytes(e.wire)
					proxied.SendBytes(e.wire)
					want, got := direct.UntilReady(1), proxied.UntilReady(1)
					if answered(got) != answered(want) {
						t.Errorf("step %d: answered %v, PostgreSQL answers %v", i, got, want)
					}
				}
			})
		}
	}
}
