package postgres_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgtest"
)

// schemaChange is something that changes what statements mean.
type schemaChange struct {
	before string   // what is there first
	change []string // what a client says then
	text   string   // the statement that was prepared before, and is prepared anew
	param  []string // a parameter for it
}

var schemaChanges = map[string]schemaChange{
	"a type made anew":        {"DROP TYPE IF EXISTS mood CASCADE; CREATE TYPE mood AS ENUM ('ok')", []string{"DROP TYPE mood; CREATE TYPE mood AS ENUM ('ok', 'bad')"}, "SELECT 'ok'::mood", nil},
	"a type of a parameter":   {"DROP TYPE IF EXISTS mood CASCADE; CREATE TYPE mood AS ENUM ('ok')", []string{"DROP TYPE mood", "CREATE TYPE mood AS ENUM ('ok', 'bad')"}, "SELECT $1::mood", []string{"ok"}},
	"a column of a parameter": {"DROP TABLE IF EXISTS sch; CREATE TABLE sch (f int)", []string{"ALTER TABLE sch ALTER f TYPE bool USING f::bool"}, "INSERT INTO sch VALUES ($1)", []string{"1"}},
	"a column, in a block":    {"DROP TABLE IF EXISTS sch; CREATE TABLE sch (f int)", []string{"BEGIN", "SELECT 1", "ALTER TABLE sch ALTER f TYPE float4", "SELECT 2", "COMMIT"}, "INSERT INTO sch VALUES ($1)", []string{"1"}},
	"a column, in one query":  {"DROP TABLE IF EXISTS sch; CREATE TABLE sch (f int)", []string{"BEGIN; ALTER TABLE sch ALTER f TYPE float4; COMMIT"}, "INSERT INTO sch VALUES ($1)", []string{"1"}},
	"a column, by DO":         {"DROP TABLE IF EXISTS sch; CREATE TABLE sch (f int)", []string{"DO $$BEGIN ALTER TABLE sch ALTER f TYPE float4; END$$"}, "INSERT INTO sch VALUES ($1)", []string{"1"}},
	"a column of the result":  {"DROP TABLE IF EXISTS sch; CREATE TABLE sch AS SELECT 1 AS f", []string{"ALTER TABLE sch ALTER f TYPE text"}, "SELECT * FROM sch", nil},
	"a column more":           {"DROP TABLE IF EXISTS sch; CREATE TABLE sch AS SELECT 1 AS f", []string{"ALTER TABLE sch ADD g int"}, "SELECT * FROM sch", nil},
	"a table made anew":       {"DROP TABLE IF EXISTS sch; CREATE TABLE sch (f int)", []string{"DROP TABLE sch", "CREATE TABLE sch (f timestamptz)"}, "SELECT f FROM sch WHERE f = $1", []string{"2000-01-01"}},
	"a table that is gone":    {"DROP TABLE IF EXISTS sch; CREATE TABLE sch (f int)", []string{"DROP TABLE sch"}, "SELECT f FROM sch", nil},
	"a function made anew":    {"DROP FUNCTION IF EXISTS sch_f; CREATE FUNCTION sch_f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'", []string{"DROP FUNCTION sch_f", "CREATE FUNCTION sch_f(text) RETURNS text LANGUAGE sql AS 'SELECT ''2''::text'"}, "SELECT sch_f($1)", []string{"1"}},
	"a view made anew":        {"DROP VIEW IF EXISTS sch_v; CREATE VIEW sch_v AS SELECT 1 AS f", []string{"DROP VIEW sch_v; CREATE VIEW sch_v AS SELECT 'x'::text AS f"}, "SELECT f FROM sch_v WHERE f = $1", []string{"1"}},
}

// Who prepares a statement anew gets what PostgreSQL would make of it now, on every server connection, whatever others have prepared
// before (trap 63).
func TestAFreshParseMeansWhatItMeansNow(t *testing.T) {
	pgtest.Each(t, func(t *testing.T, pg *pgtest.Postgres) {
		setup := pgtest.Connect(t, pg.DSN())
		setup.Query("GRANT ALL ON SCHEMA public TO PUBLIC")
		for name, s := range schemaChanges {
			t.Run(name, func(t *testing.T) { s.compare(t, pg, setup) })
		}
	})
}

// script is what a client does that prepares the statement, in several ways.
func (s schemaChange) script() []exchange {
	use := func(name string) []frontend {
		return []frontend{bindTo(name, s.param...), describe('P', ""), execute("", 0), synchronize}
	}
	return []exchange{
		ready(1, parse("s", s.text), describe('S', "s"), synchronize), ready(1, use("s")...),
		ready(1, append([]frontend{parse("", s.text)}, use("")...)...),
		ready(1, query("BEGIN")), ready(1, append([]frontend{parse("t", s.text)}, use("t")...)...), ready(1, query("ROLLBACK")),
	}
}

func (s schemaChange) compare(t *testing.T, pg *pgtest.Postgres, setup *pgtest.Client) {
	if got := setup.Query(s.before); strings.Contains(pgtest.Types(got), "E") {
		t.Fatal(got)
	}
	const servers = 2
	w := start(t, settings{servers: servers, upstream: pg.DSN()})
	nothing := func([]pgtest.Message) {}
	var holders []*pgtest.Client
	for range servers { // on all connections
		h := w.client()
		h.Query("BEGIN; SELECT 1")
		(scenario{script: s.script()[:3]}).run(h, nothing)
		holders = append(holders, h)
	}
	for _, h := range holders {
		h.Query("ROLLBACK")
	}
	c := w.client()
	for _, sql := range s.change {
		if got := c.Query(sql); strings.Contains(pgtest.Types(got), "E") {
			t.Fatal(sql, got)
		}
	}
	want := scenario{script: s.script()}.run(pgtest.Connect(t, pg.DSN()), nothing)
	for range 3 {
		got := scenario{script: s.script()}.run(w.client(), nothing)
		for i := range want {
			pgtest.Compare(t, want[i], got[i])
			if t.Failed() {
				t.Fatalf("in exchange %d", i)
			}
		}
	}
	again := switching(t, w)
	got := scenario{script: s.script()}.run(w.client(), again)
	for i := range want {
		pgtest.Compare(t, want[i], got[i])
	}
}

// What was changed other than through weir is noticed where an error says so, and by a bound on the age of statements (trap 63).
func TestAChangeStraightAtTheServerIsNoticed(t *testing.T) {
	pgtest.Each(t, func(t *testing.T, pg *pgtest.Postgres) {
		setup := pgtest.Connect(t, pg.DSN())
		healed := map[string]bool{"a type made anew": true, "a type of a parameter": true, "a column of the result": true, "a column more": true, "a view made anew": true}
		for name, s := range schemaChanges {
			for _, maxAge := range []time.Duration{0, 1} {
				if maxAge == 0 && !healed[name] {
					continue
				}
				t.Run(name, func(t *testing.T) {
					setup.Query(s.before)
					w := start(t, settings{servers: 1, upstream: pg.DSN(), maxAge: maxAge})
					nothing := func([]pgtest.Message) {}
					c := w.client()
					for range 2 {
						scenario{script: s.script()[2:3]}.run(c, nothing)
					}
					for _, sql := range s.change {
						setup.Query(sql)
					}
					script := s.script()[:2]
					want := scenario{script: script}.run(pgtest.Connect(t, pg.DSN()), nothing)
					got := scenario{script: script}.run(w.client(), nothing)
					for i := range want {
						pgtest.Compare(t, want[i], got[i])
					}
				})
			}
		}
	})
}

// Who has prepared a statement before a change goes on with the parameters that it was told of, on every server connection (trap 63).
func TestAnOldStatementKeepsItsParameters(t *testing.T) {
	pg := pgtest.Shared(t)
	setup := pgtest.Connect(t, pg.DSN())
	setup.Query("DROP TABLE IF EXISTS kept; CREATE TABLE kept (f int); GRANT ALL ON kept TO PUBLIC")
	w := start(t, settings{servers: 2})
	c := w.client()
	const text = "INSERT INTO kept VALUES ($1)"
	c.Send(parse("s", text), describe('S', "s"), synchronize)
	c.UntilReady(1)
	insert := &pgproto3.Bind{PreparedStatement: "s", ParameterFormatCodes: []int16{1}, Parameters: [][]byte{{0, 0, 0, 5}}}
	if got := ask(c, insert, execute("", 0)); got != "" {
		t.Fatal(got)
	}
	setup.Query("ALTER TABLE kept ALTER f TYPE float4")
	between := switching(t, w)
	for range 3 {
		c.Send(insert, execute("", 0), synchronize)
		between(c.UntilReady(1))
	}
	if got := one(t, setup.Query("SELECT string_agg(f::text, ' ') FROM kept")); got != "5 5 5 5" {
		t.Errorf("the table has %q", got)
	}
}

// Another client's change costs nobody a transaction: an unnamed statement is prepared after it (trap 25).
func TestAnUnnamedStatementOutlivesAnothersChange(t *testing.T) {
	pg := pgtest.Shared(t)
	pgtest.Connect(t, pg.DSN()).Query("DROP TABLE IF EXISTS autosaved; CREATE TABLE autosaved AS SELECT 1 AS f; ALTER TABLE autosaved OWNER TO app; GRANT ALL ON autosaved TO PUBLIC")
	w := start(t, settings{servers: 2})
	const text = "SELECT * FROM autosaved"
	c, other := w.client(), w.client()
	for i := range 20 {
		c.Query("BEGIN")
		c.Query("SAVEPOINT autosave")
		if got := ask(c, parse("", text), bind("", ""), describe('P', ""), execute("", 0)); !strings.HasPrefix(got, "1") {
			t.Errorf("round %d reads %q", i, got)
		}
		c.Query("COMMIT")
		if got := other.Query("ALTER TABLE autosaved ADD column_" + string(rune('a'+i)) + " int"); pgtest.Types(got) != "CZ" {
			t.Fatal(got)
		}
	}
}

// A temporary table hides another from its session alone, which has statements of its own meanwhile.
func TestATemporaryTableIsForItsSessionAlone(t *testing.T) {
	pg := pgtest.Shared(t)
	pgtest.Connect(t, pg.DSN()).Query("DROP TABLE IF EXISTS hidden_one; CREATE TABLE hidden_one AS SELECT 'permanent'::text AS f; GRANT ALL ON hidden_one TO PUBLIC")
	w := start(t, settings{servers: 1})
	c, other := w.client(), w.client()
	use := []frontend{parse("", "SELECT f FROM hidden_one"), bind("", ""), execute("", 0)}
	for range 3 {
		if got := ask(other, use...); got != "permanent" {
			t.Errorf("another reads %q", got)
		}
		c.Query("BEGIN")
		c.Query("CREATE TEMP TABLE hidden_one ON COMMIT DROP AS SELECT 'temporary'::text AS f")
		if got := ask(c, use...); got != "temporary" {
			t.Errorf("the session reads %q", got)
		}
		c.Query("COMMIT")
	}
}

// What comes behind a change in the same write is prepared after it, too (trap 63).
func TestAFreshParseBehindAChangeInFlight(t *testing.T) {
	const text = "SELECT f FROM in_flight WHERE f = $1"
	fresh := []frontend{parse("s", text), describe('S', "s"), synchronize}
	change := "ALTER TABLE in_flight ALTER f TYPE bigint"
	tests := map[string]exchange{
		"by a query":                ready(2, append([]frontend{query(change)}, fresh...)...),
		"by a query of several":     ready(2, append([]frontend{query("SELECT 1; " + change)}, fresh...)...),
		"in a block":                ready(3, append([]frontend{query("BEGIN"), query(change)}, fresh...)...),
		"by a batch":                ready(2, append([]frontend{parse("", change), bind("", ""), execute("", 0), synchronize}, fresh...)...),
		"in the same batch":         ready(1, append([]frontend{parse("", change), bind("", ""), execute("", 0)}, fresh...)...),
		"by a statement of its own": ready(2, append([]frontend{parse("a", change), synchronize, bind("", "a"), execute("", 0)}, fresh...)...),
	}
	pg := pgtest.Shared(t)
	setup := pgtest.Connect(t, pg.DSN())
	for name, e := range tests {
		t.Run(name, func(t *testing.T) {
			setup.Query("DROP TABLE IF EXISTS in_flight; CREATE TABLE in_flight (f int); ALTER TABLE in_flight OWNER TO app")
			w := start(t, settings{servers: 1})
			before := w.client()
			before.Send(fresh...)
			before.UntilReady(1)
			c := w.client()
			got := e.say(c, nil)
			c.Close()
			types := slices.IndexFunc(got, func(m pgtest.Message) bool { return m.Type == 't' })
			if types < 0 || string(got[types].Body) != "\x00\x01\x00\x00\x00\x14" {
				t.Errorf("answered %v, want a parameter of bigint", got)
			}
		})
	}
}
