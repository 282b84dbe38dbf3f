package postgres_test

import (
	"strings"
	"testing"

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
