package postgres_test

import (
	"fmt"
	"testing"

	"github.com/weirproxy/weir/internal/pgtest"
)

const (
	alteredText  = "SELECT * FROM altered_since"
	alteredNew   = "DROP TABLE IF EXISTS altered_since; CREATE TABLE altered_since AS SELECT 1 AS a, 'x'::text AS b"
	alteredWhere = alteredText + " WHERE a = $1"
	altering     = "ALTER TABLE altered_since ALTER a TYPE bigint"
)

// prepareEverywhere has each server connection of w prepare the statement, for a client of its own.
func prepareEverywhere(t *testing.T, w *weir, servers int) {
	t.Helper()
	var holders []*pgtest.Client
	for range servers {
		h := w.client()
		h.Query("BEGIN; SELECT 1")
		for range 2 {
			if got := ask(h, parse("", alteredText), bind("", ""), execute("", 0), parse("", alteredWhere), bindTo("", "1"), execute("", 0)); got != "1 1" {
				t.Fatalf("before: %q", got)
			}
		}
		holders = append(holders, h)
	}
	for _, h := range holders {
		h.Query("COMMIT")
		h.Close()
	}
}

// Trap 25: who prepares a statement after a table was altered is never refused because somebody else has prepared it before.
func TestAStatementPreparedAfterTheChangeIsNeverOutdated(t *testing.T) {
	pg := pgtest.Shared(t)
	setup := pgtest.Connect(t, pg.DSN())
	bound := []frontend{bind("", "s"), execute("", 0), synchronize}
	tests := map[string][]exchange{
		"unnamed":                       {ready(1, parse("", alteredText), bind("", ""), describe('P', ""), execute("", 0), synchronize)},
		"without describe":              {ready(1, parse("", alteredText), bind("", ""), execute("", 0), synchronize)},
		"described first":               {ready(1, parse("s", alteredText), describe('S', "s"), synchronize), ready(1, bound...)},
		"described first, unnamed":      {ready(1, parse("", alteredText), describe('S', ""), synchronize), ready(1, bind("", ""), execute("", 0), synchronize)},
		"not described":                 {ready(1, parse("s", alteredText), synchronize), ready(1, bound...), ready(1, bound...)},
		"described among others":        {ready(1, parse("o", "SELECT $1::text"), describe('S', "o"), parse("s", alteredText), describe('S', "s"), parse("p", "SELECT 2"), describe('S', "p"), synchronize), ready(1, bound...), ready(1, bindTo("o", "x"), execute("", 0), bind("", "p"), execute("", 0), synchronize)},
		"by flush":                      {flushed(1, 'C', parse("s", alteredText), bind("", "s"), describe('P', ""), execute("", 0), flush), ready(1, synchronize), ready(1, bound...)},
		"by flush, step by step":        {flushed(1, 'T', parse("s", alteredText), describe('S', "s"), flush), flushed(1, 'C', bind("", "s"), execute("", 0), flush), ready(1, synchronize)},
		"byte by byte":                  {dripping(ready(1, parse("s", alteredText), describe('S', "s"), bind("", "s"), execute("", 0), synchronize))},
		"the first of a block":          {ready(1, query("BEGIN ISOLATION LEVEL REPEATABLE READ")), ready(1, parse("s", alteredText), bind("", "s"), execute("", 0), synchronize), ready(1, query("SHOW transaction_isolation")), ready(1, query("COMMIT"))},
		"the first of a block, in two":  {ready(1, query("BEGIN")), ready(1, parse("s", alteredText), describe('S', "s"), synchronize), ready(1, bound...), ready(1, query("ROLLBACK"))},
		"the first of several":          {ready(1, parse("s", alteredText), bind("", "s"), execute("", 0), parse("", "SELECT 1/0"), bind("", ""), execute("", 0), synchronize), ready(1, bound...)},
		"closed and parsed again":       {ready(1, parse("s", alteredText), closing('S', "s"), parse("s", alteredText), bind("", "s"), execute("", 0), closing('S', "s"), synchronize), ready(1, bound...)},
		"with a parameter of that type": {ready(1, parse("s", alteredWhere), describe('S', "s"), synchronize), ready(1, bindTo("s", "1"), execute("", 0), synchronize)},
		"with settings of its own":      {ready(1, query("SET work_mem = '5MB'")), ready(1, parse("s", alteredText), bind("", "s"), execute("", 0), synchronize), ready(1, query("SHOW work_mem"))},
		"with something behind it":      {ready(2, parse("s", alteredText), synchronize, query("SELECT 1")), ready(1, bound...)},
	}
	for name, script := range tests {
		for _, servers := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s, %d", name, servers), func(t *testing.T) {
				setup.Query(alteredNew)
				w := start(t, settings{servers: servers})
				prepareEverywhere(t, w, servers)
				setup.Query(altering)
				s := scenario{script: script}
				want := s.run(pgtest.Connect(t, pg.DSN()), func([]pgtest.Message) {})
				for range 2 {
					got := s.run(w.client(), func([]pgtest.Message) {})
					for i := range want {
						pgtest.Compare(t, want[i], got[i])
					}
				}
				w.eventually("the server connections are free", func() bool { return w.servers("used") == 0 })
			})
		}
	}
}

// Trap 25: who was told of one type and would read rows of another is refused, as on a connection of its own: word for word, as often
// as it tries, and on whichever server connection, until it has prepared anew or is told of the new type ahead of the rows.
func TestAClientIsNotMisledAboutTypes(t *testing.T) {
	pg := pgtest.Shared(t)
	setup := pgtest.Connect(t, pg.DSN())
	told := []exchange{ready(1, parse("s", alteredText), describe('S', "s"), parse("t", alteredText), synchronize), ready(1, bind("", "t"), describe('P', ""), execute("", 0), synchronize)}
	use := func(name string) exchange { return ready(1, bind("", name), execute("", 0), synchronize) }
	after := []exchange{
		use("s"), use("s"), use("t"), use("s"), ready(2, bind("", "s"), execute("", 0), synchronize, query("SELECT 1")),
		ready(1, query("BEGIN")), use("s"), ready(1, query("ROLLBACK")),
		ready(1, closing('S', "s"), parse("s", alteredText), describe('S', "s"), synchronize), use("s"), use("s"), use("t"),
		ready(1, closing('S', "t"), parse("t", alteredText), bind("", "t"), describe('P', ""), execute("", 0), synchronize), use("t"),
	}
	say := func(c *pgtest.Client, script []exchange, between func([]pgtest.Message)) [][]pgtest.Message {
		return scenario{script: script}.run(c, between)
	}
	nothing := func([]pgtest.Message) {}
	for name, test := range map[string]struct {
		servers int
		found   bool // by another client before
	}{
		"one server": {servers: 1}, "one server, found by another": {1, true}, "switched, found by another": {2, true},
	} {
		t.Run(name, func(t *testing.T) {
			setup.Query(alteredNew)
			w := start(t, settings{servers: test.servers})
			c, other, direct := w.client(), w.client(), pgtest.Connect(t, pg.DSN())
			say(direct, told, nothing)
			say(c, told, nothing)
			setup.Query(altering)
			if test.found {
				if got := ask(other, parse("", alteredText), bind("", ""), execute("", 0)); got != "1" {
					t.Fatalf("the other client reads %q", got)
				}
			}
			between := nothing
			if test.servers == 2 {
				between = switching(t, w)
			}
			want, got := say(direct, after, nothing), say(c, after, between)
			for i := range want {
				pgtest.Compare(t, want[i], got[i])
				if t.Failed() {
					t.Fatalf("in exchange %d", i)
				}
			}
		})
	}
	t.Run("told of the new type ahead of the rows", func(t *testing.T) {
		setup.Query(alteredNew)
		w := start(t, settings{servers: 1})
		c := w.client()
		say(c, told, nothing)
		setup.Query(altering)
		var types string
		for _, answer := range say(c, []exchange{
			ready(1, bind("", "s"), describe('P', ""), execute("", 0), synchronize), use("s"),
			ready(1, describe('S', "t"), synchronize), use("t"),
		}, nothing) {
			types += pgtest.Types(answer)
		}
		if want := "2TDCZ2DCZtTZ2DCZ"; types != want {
			t.Errorf("answered %s, want %s", types, want)
		}
	})
}

// Trap 31: nothing is ever executed twice for it.
func TestABatchIsSaidAgainOnlyWhereNothingWasExecuted(t *testing.T) {
	pg := pgtest.Shared(t)
	setup := pgtest.Connect(t, pg.DSN())
	insert := []frontend{parse("", "INSERT INTO said VALUES (1)"), bind("", ""), execute("", 0)}
	stale := []frontend{parse("s", alteredText), bind("", "s"), execute("", 0)}
	tests := map[string]struct {
		script []frontend
		types  string
		rows   string
	}{
		"behind an insert of the same batch": {append(append(insert[:3:3], stale...), synchronize), "12C1EZ", "0"},
		"ahead of an insert":                 {append(append(stale[:3:3], insert...), synchronize), "12DC12CZ", "1"},
		"behind an insert of the block":      {[]frontend{query("BEGIN"), query("INSERT INTO said VALUES (1)"), stale[0], stale[1], stale[2], synchronize, query("COMMIT")}, "CZCZ1EZCZ", "0"},
		"behind another bind":                {append([]frontend{parse("i", "INSERT INTO said VALUES (1)"), bind("p", "i")}, append(stale[:3:3], execute("p", 0), synchronize)...), "121EZ", "0"},
		"ahead of a batch":                   {append(append(stale[:3:3], synchronize), append(insert[:3:3], synchronize)...), "1EZ12CZ", "1"},
		"ahead of a query":                   {append(stale[:3:3], synchronize, query("INSERT INTO said VALUES (1)")), "1EZCZ", "1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			setup.Query("DROP TABLE IF EXISTS said; CREATE TABLE said (v int); GRANT ALL ON said TO PUBLIC")
			setup.Query(alteredNew)
			w := start(t, settings{servers: 1})
			prepareEverywhere(t, w, 1)
			setup.Query(altering)
			c := w.client()
			c.Send(test.script...)
			readies := 0
			for _, typ := range test.types {
				if typ == 'Z' {
					readies++
				}
			}
			if types := pgtest.Types(c.UntilReady(readies)); types != test.types {
				t.Errorf("answered %s, want %s", types, test.types)
			}
			if got := one(t, setup.Query("SELECT count(*) FROM said")); got != test.rows {
				t.Errorf("%s rows were inserted, want %s", got, test.rows)
			}
		})
	}
}

// Trap 25: what EXECUTE in SQL has found outdated is prepared anew, and executed once more.
func TestAStatementThatIsExecutedInSQLIsNeverOutdated(t *testing.T) {
	pg := pgtest.Shared(t)
	setup := pgtest.Connect(t, pg.DSN())
	setup.Query(alteredNew)
	w := start(t, settings{servers: 1})
	prepareEverywhere(t, w, 1)
	setup.Query(altering)
	c := w.client()
	ask(c, parse("s", alteredText))
	for range 2 {
		if got := one(t, c.Query("EXECUTE s")); got != "1" {
			t.Errorf("it reads %q", got)
		}
	}
	setup.Query("DROP TABLE altered_since")
	other := w.client() // on a server that does not know it any more
	other.Query("DISCARD ALL")
	if got := c.Query("EXECUTE s"); pgtest.Types(got) != "EZ" || got[0].Field('C') != "42P01" {
		t.Errorf("without its table: %v", got)
	}
	if got := one(t, c.Query("SELECT 2")); got != "2" {
		t.Errorf("after that: %q", got)
	}
}
