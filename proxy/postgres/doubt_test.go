package postgres_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// victims' statement, and how to read its name on the server.
const (
	balance     = "SELECT 'balance 100'::text"
	balanceName = "SELECT name FROM pg_prepared_statements WHERE statement LIKE '%balance 100%' AND statement NOT LIKE '%pg_prepared%'"
)

// functions do in a string what no reading of the call tells. They are made straight at the server.
const functions = `DROP FUNCTION IF EXISTS run(text); CREATE FUNCTION run(what text) RETURNS int LANGUAGE plpgsql AS 'BEGIN EXECUTE what; RETURN 1; END';
	DROP FUNCTION IF EXISTS hidden(); CREATE FUNCTION hidden() RETURNS int LANGUAGE plpgsql AS 'BEGIN EXECUTE ''DEALLOCATE ALL''; RETURN 1; END';
	DROP FUNCTION IF EXISTS swap(text); CREATE FUNCTION swap(n text) RETURNS int LANGUAGE plpgsql AS
		'BEGIN EXECUTE ''DEALLOCATE '' || quote_ident(n); EXECUTE ''PREPARE '' || quote_ident(n) || '' AS SELECT ''''stolen''''::text''; RETURN 1; END'`

// Trap 62: whatever a client does in SQL to what is prepared on the server, by the names that it can read there, others go on with their
// own statements, and never with another.
func TestNobodyTakesStatementsAwayFromOthers(t *testing.T) {
	pgtest.Each(t, func(t *testing.T, pg *pgtest.Postgres) {
		setup := pgtest.Connect(t, pg.DSN())
		if got := setup.Query(functions); strings.Contains(pgtest.Types(got), "E") {
			t.Fatal(got)
		}
		extended := func(c *pgtest.Client, sql string, parameters ...string) {
			ask(c, parse("", sql), bindTo("", parameters...), execute("", 0))
		}
		tests := map[string]func(c *pgtest.Client, name string){
			"DEALLOCATE ALL":           func(c *pgtest.Client, _ string) { c.Query("DEALLOCATE ALL") },
			"DEALLOCATE ALL, extended": func(c *pgtest.Client, _ string) { extended(c, "DEALLOCATE ALL") },
			"DISCARD ALL":              func(c *pgtest.Client, _ string) { c.Query("DISCARD ALL") },
			"DO":                       func(c *pgtest.Client, _ string) { c.Query("DO $$BEGIN EXECUTE 'DEALLOCATE ALL'; END$$") },
			"DO, extended":             func(c *pgtest.Client, _ string) { extended(c, "DO $$BEGIN EXECUTE 'DEALLOCATE ALL'; END$$") },
			"DO, put together":         func(c *pgtest.Client, _ string) { c.Query("DO $$BEGIN EXECUTE 'DEAL' || 'LOCATE ALL'; END$$") },
			"DO in a block": func(c *pgtest.Client, _ string) {
				c.Query("BEGIN")
				c.Query("DO $$BEGIN DEALLOCATE ALL; END$$")
				c.Query("COMMIT")
			},
			"a string that is executed":    func(c *pgtest.Client, _ string) { c.Query("SELECT run('DEALLOCATE ALL')") },
			"a parameter that is executed": func(c *pgtest.Client, _ string) { extended(c, "SELECT run($1)", "DEALLOCATE ALL") },
			"a function that hides it":     func(c *pgtest.Client, _ string) { c.Query("SELECT hidden()") },
			"in a cursor": func(c *pgtest.Client, _ string) {
				c.Query("BEGIN; DECLARE c CURSOR FOR SELECT hidden(); FETCH c; COMMIT")
			},
			"by its name":                 func(c *pgtest.Client, name string) { c.Query(`DEALLOCATE "` + name + `"`) },
			"by its name, extended":       func(c *pgtest.Client, name string) { extended(c, `DEALLOCATE "`+name+`"`) },
			"by its name, bit by bit":     func(c *pgtest.Client, name string) { dripping(ready(1, query(`DEALLOCATE "`+name+`"`))).say(c, nil) },
			"by its name, in code points": func(c *pgtest.Client, name string) { c.Query(`DEALLOCATE U&"\0077` + name[1:] + `"`) },
			"closed by its name":          func(c *pgtest.Client, name string) { ask(c, closing('S', name)) },
			"parsed by its name":          func(c *pgtest.Client, name string) { ask(c, parse(name, "SELECT 'stolen'::text")) },
			"another of its name": func(c *pgtest.Client, name string) {
				c.Query(`DEALLOCATE "` + name + `"; PREPARE "` + name + `" AS SELECT 'stolen'::text`)
			},
			"another of its name in DO": func(c *pgtest.Client, name string) {
				c.Query(`DO $$BEGIN EXECUTE 'DEALLOCATE "` + name + `"'; EXECUTE 'PREPARE "` + name + `" AS SELECT ''stolen''::text'; END$$`)
			},
			"another, in a string":             func(c *pgtest.Client, name string) { c.Query("SELECT swap('" + name + "')") },
			"another, by a parameter":          func(c *pgtest.Client, name string) { extended(c, "SELECT swap($1)", name) },
			"another, by a parameter, later":   func(c *pgtest.Client, name string) { c.Query("SELECT 1"); extended(c, "SELECT swap($1)", name) },
			"the number that it has, prepared": func(c *pgtest.Client, name string) { c.Query(`PREPARE "` + name + `0" AS SELECT 'stolen'::text`) },
		}
		for name, attack := range tests {
			t.Run(name, func(t *testing.T) {
				w := start(t, settings{servers: 1, upstream: pg.DSN()})
				victim, stranger := w.client(), w.client()
				if got := ask(victim, parse("s", balance), bind("", "s"), execute("", 0)); got != "balance 100" {
					t.Fatalf("before: %q", got)
				}
				attack(stranger, one(t, stranger.Query(balanceName)))
				stranger.Query("SELECT 1")
				stranger.Close()
				w.eventually("the server connection is free", func() bool { return w.servers("used") == 0 })
				for range 3 {
					if got := ask(victim, bind("", "s"), execute("", 0)); got != "balance 100" {
						t.Errorf("the victim reads %q", got)
					}
				}
				other := w.client()
				if got := ask(other, parse("x", balance), bind("", "x"), execute("", 0), closing('S', "x")); got != "balance 100" {
					t.Errorf("another client reads %q", got)
				}
				if got := ask(victim, parse("t", "SELECT 2"), bind("", "t"), execute("", 0), bind("", "s"), execute("", 0)); got != "2 balance 100" {
					t.Errorf("the victim reads %q", got)
				}
			})
		}
	})
}

// Trap 62: once a function that changes what is prepared, by names that it reads itself, was created through weir, nobody relies on what
// is prepared on a connection that others had.
func TestAFunctionThatReplacesStatementsReplacesNobodyElses(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1})
	victim, stranger := w.client(), w.client()
	stranger.Query(`CREATE OR REPLACE FUNCTION replace_all() RETURNS int LANGUAGE plpgsql AS $f$ DECLARE n text; BEGIN
		FOR n IN SELECT name FROM pg_prepared_statements WHERE NOT from_sql LOOP
			EXECUTE 'DEALLOCATE ' || quote_ident(n); EXECUTE 'PREPARE ' || quote_ident(n) || ' AS SELECT ''stolen''::text';
		END LOOP; RETURN 1; END $f$`)
	for i := range 3 {
		if i == 0 {
			ask(victim, parse("s", balance))
		}
		if got := ask(victim, bind("", "s"), execute("", 0)); got != "balance 100" {
			t.Errorf("the victim reads %q", got)
		}
		if got := one(t, stranger.Query("SELECT replace_all()")); got != "1" {
			t.Fatalf("the function returns %q", got)
		}
	}
	if got := ask(victim, bind("", "s"), execute("", 0)); got != "balance 100" {
		t.Errorf("the victim reads %q", got)
	}
	if got := one(t, w.client().Query("SELECT count(*) FROM pg_prepared_statements WHERE from_sql")); got != "0" {
		t.Errorf("%s statements of the function's are left", got)
	}
}

// Trap 62: what is lost on the way is prepared again, once, where nothing has been executed; elsewhere its client reads that it is not
// there, by its own name for it, and the next time it is.
func TestAStatementThatWasLostIsPreparedAgain(t *testing.T) {
	pg := pgtest.Shared(t)
	pgtest.Connect(t, pg.DSN()).Query(functions)
	bound := []frontend{bind("", "s"), execute("", 0), synchronize}
	block := func(then exchange) []exchange {
		return []exchange{ready(1, query("BEGIN")), ready(1, query("SELECT 0")), then, ready(1, query("ROLLBACK"))}
	}
	tests := map[string]struct {
		script []exchange
		types  string
	}{
		"bound":                      {[]exchange{ready(1, bound...)}, "2DCZ"},
		"described":                  {[]exchange{ready(1, describe('S', "s"), synchronize), ready(1, bound...)}, "tTZ2DCZ"},
		"described by flush":         {[]exchange{flushed(1, 'T', describe('S', "s"), flush), ready(1, bound...)}, "tT2DCZ"},
		"parsed anew":                {[]exchange{ready(1, parse("x", balance), bind("", "x"), execute("", 0), synchronize), ready(1, bound...)}, "12DCZ2DCZ"},
		"several of them":            {[]exchange{ready(1, bind("", "t"), execute("", 0), bind("", "s"), execute("", 0), synchronize)}, "2DC2DCZ"},
		"executed in SQL":            {[]exchange{ready(1, query("EXECUTE s")), ready(1, query("EXECUTE t"))}, "TDCZTDCZ"},
		"the first of a block":       {[]exchange{ready(1, query("BEGIN")), ready(1, bound...), ready(1, query("COMMIT"))}, "CZ2DCZCZ"},
		"executed, first of a block": {[]exchange{ready(1, query("BEGIN READ ONLY")), ready(1, query("EXECUTE s")), ready(1, query("SHOW transaction_read_only")), ready(1, query("COMMIT"))}, "CZTDCZTDCZCZ"},
		"later in a block":           {append(block(ready(1, bound...)), ready(1, bound...)), "CZTDCZEZCZ2DCZ"},
		"executed later in a block":  {append(block(ready(1, query("EXECUTE s"))), ready(1, query("EXECUTE s"))), "CZTDCZEZCZTDCZ"},
		"behind another":             {[]exchange{ready(1, parse("", "SELECT 1"), bind("", ""), execute("", 0), bind("", "s"), execute("", 0), synchronize), ready(1, bound...)}, "12DCEZ2DCZ"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := start(t, settings{servers: 1})
			c, stranger := w.client(), w.client()
			ask(c, parse("s", balance), parse("t", "SELECT 't'::text"))
			if got := one(t, stranger.Query("SELECT hidden()")); got != "1" {
				t.Fatalf("the function returns %q", got)
			}
			var types string
			for _, answer := range (scenario{script: test.script}).run(c, func([]pgtest.Message) {}) {
				types += pgtest.Types(answer)
				for _, m := range answer {
					if want := `prepared statement "s" does not exist`; m.Type == 'E' && (m.Field('C') != "26000" || m.Field('M') != want) {
						t.Errorf("it reads %v", m)
					}
				}
			}
			if types != test.types {
				t.Errorf("answered %s, want %s", types, test.types)
			}
		})
	}
}

// Our names for statements are nobody's business: neither an error nor a notice has them.
func TestOurNamesAreNotTold(t *testing.T) {
	pgtest.Shared(t)
	for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Statement} {
		w := start(t, settings{servers: 1, mode: mode})
		c := w.client()
		c.Query("SET client_min_messages TO debug5")
		for _, e := range []exchange{
			ready(1, parse("s", "SELECT $1::int"), synchronize),
			ready(1, parse("s", "SELECT $1::int"), synchronize), ready(1, parse("s", "SELEC"), synchronize), ready(1, parse("t", "SELECT $1::int"), synchronize),
			ready(1, bind("", "s"), synchronize), ready(1, bindTo("t", "1", "2"), synchronize), ready(1, bindTo("s", "x"), synchronize), ready(1, bindTo("s", "1"), execute("", 0), synchronize),
			ready(1, query("EXECUTE s(1, 2)")), ready(1, query("EXECUTE s('x')")), ready(1, query("EXECUTE t(1)")), ready(1, query("DEALLOCATE t")),
			ready(1, parse("", "DEALLOCATE s"), bind("", ""), execute("", 0), synchronize), ready(1, bind("", "s"), synchronize), ready(1, query("EXECUTE s(1)")),
		} {
			for _, m := range e.say(c, nil) {
				if strings.Contains(string(m.Body), "weir_") {
					t.Errorf("%v after %q", m, e.wire)
				}
			}
		}
	}
}

// A statement that is taken earns its error on the server, for the text is looked at first, and nobody loses his own by it.
func TestATakenNameIsTakenFromNobody(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1})
	c, other := w.client(), w.client()
	ask(c, parse("s", balance))
	for i := range 5 {
		if i == 3 {
			other.Query("DO $$BEGIN EXECUTE 'DEALLOCATE ALL'; END$$")
		}
		if got := ask(c, parse("s", "SELECT 'evil'")); got != "42P05" {
			t.Errorf("it is answered %q", got)
		}
		if got := ask(other, parse("x", balance), bind("", "x"), execute("", 0), closing('S', "x")); got != "balance 100" {
			t.Errorf("another reads %q", got)
		}
		if got := ask(c, bind("", "s"), execute("", 0)); got != "balance 100" {
			t.Errorf("it reads %q", got)
		}
	}
	if got := one(t, other.Query(ourStatements)); got != "2" && got != "3" {
		t.Errorf("there are %s statements", got)
	}
}

// What goes by a name that is not used any more does not pile up.
func TestDoubtedStatementsAreClosed(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1})
	c := w.client()
	var texts []frontend
	for i := range 40 {
		texts = append(texts, parse(fmt.Sprint("s", i), fmt.Sprintf("SELECT %d", i)))
	}
	if got := ask(c, texts...); got != "" {
		t.Fatal(got)
	}
	for range 20 {
		c.Query("DO $$BEGIN EXECUTE 'SELECT 1'; END$$")
		var all []frontend
		for i := range 40 {
			all = append(all, bind("", fmt.Sprint("s", i)), execute("", 0))
		}
		if got := ask(c, all...); !strings.HasPrefix(got, "0 1 2") {
			t.Fatal(got)
		}
	}
	if got, err := strconv.Atoi(one(t, c.Query(ourStatements))); err != nil || got > 600 {
		t.Errorf("the server has %d statements, %v", got, err)
	}
}
