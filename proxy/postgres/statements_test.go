package postgres_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

const ourStatements = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'weir%'"

// ask sends a batch and returns the rows, or the SQLSTATE of the error.
func ask(c *pgtest.Client, messages ...frontend) string {
	c.Send(append(messages, synchronize)...)
	got := c.UntilReady(1)
	for _, m := range got {
		if m.Type == 'E' {
			return m.Field('C')
		}
	}
	return strings.Join(pgtest.Rows(got), " ")
}

// Clients that prepare the same share it on the server, whatever they call it, and lose nothing when others close theirs.
func TestStatementsAreSharedByContent(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1})
	const text = "SELECT $1::text || '!'"
	var clients []*pgtest.Client
	for i := range 5 {
		c := w.client()
		clients = append(clients, c)
		name := fmt.Sprint("mine", i)
		if i == 3 {
			name = ""
		}
		for range 3 {
			if got := ask(c, parse(name, text), bindTo(name, "x"), execute("", 0), closing('S', name)); got != "x!" {
				t.Errorf("client %d: %q", i, got)
			}
		}
		if got := ask(c, parse(name, text)); got != "" {
			t.Errorf("client %d: %q", i, got)
		}
	}
	if got := one(t, w.client().Query(ourStatements)); got != "1" {
		t.Errorf("the server has %s statements, want 1", got)
	}
	ask(clients[0], closing('S', "mine0"))
	clients[1].Close()
	for i, c := range clients {
		want, name := "y!", fmt.Sprint("mine", i)
		switch i {
		case 0:
			want = "26000"
		case 1:
			continue
		case 3:
			name = ""
		}
		if got := ask(c, bindTo(name, "y"), execute("", 0)); got != want {
			t.Errorf("client %d then: %q, want %q", i, got, want)
		}
	}
}

// Trap 23: the same text means something else under other settings.
func TestStatementsAreNotSharedAcrossSettings(t *testing.T) {
	pgtest.Each(t, statementsAreNotSharedAcrossSettings)
}

func statementsAreNotSharedAcrossSettings(t *testing.T, pg *pgtest.Postgres) {
	direct := pgtest.Connect(t, pg.DSN())
	for _, tenant := range []string{"one", "two"} {
		direct.Query(fmt.Sprintf("DROP SCHEMA IF EXISTS tenant_%[1]s CASCADE; CREATE SCHEMA tenant_%[1]s; CREATE TABLE tenant_%[1]s.who AS SELECT 'tenant_%[1]s' AS name", tenant))
	}
	direct.Query("ALTER TABLE tenant_two.who ADD COLUMN more int") // so that the result is of another type
	w := start(t, settings{servers: 1, upstream: pg.DSN()})
	const text = "SELECT * FROM who"
	a, b := w.client("options='-c search_path=tenant_one'"), w.client()
	b.Query("SET search_path TO tenant_two")
	local := func(c *pgtest.Client, schema string) string {
		c.Query("BEGIN; SET LOCAL search_path TO " + schema)
		defer c.Query("COMMIT")
		return ask(c, parse("", text), bind("", ""), execute("", 0))
	}
	c := w.client()
	for range 3 {
		for name, test := range map[string]struct{ got, want string }{
			"by startup":        {ask(a, parse("", text), bind("", ""), execute("", 0)), "tenant_one"},
			"by SET":            {ask(b, parse("", text), bind("", ""), execute("", 0)), "tenant_two"},
			"by SET LOCAL, one": {local(c, "tenant_one"), "tenant_one"},
			"by SET LOCAL, two": {local(c, "tenant_two"), "tenant_two"},
		} {
			if test.got != test.want {
				t.Errorf("%s: %q, want %q", name, test.got, test.want)
			}
		}
	}
	if got := ask(a, parse("kept", text)); got != "" {
		t.Error(got)
	}
	a.Query("SET search_path TO tenant_two")
	if got := ask(a, bind("", "kept"), execute("", 0)); strings.Contains(got, "tenant_one") {
		t.Errorf("after SET the statement reads %q", got)
	}
}

// Trap 25: a table that was altered costs nobody an error who prepares the statement anew, whichever connections have it prepared.
func TestAResultTypeThatChangedIsNoticed(t *testing.T) {
	pgtest.Each(t, aResultTypeThatChangedIsNoticed)
}

func aResultTypeThatChangedIsNoticed(t *testing.T, pg *pgtest.Postgres) {
	direct := pgtest.Connect(t, pg.DSN())
	direct.Query("DROP TABLE IF EXISTS changing; CREATE TABLE changing AS SELECT 1 AS a")
	w := start(t, settings{servers: 3, upstream: pg.DSN()})
	const text = "SELECT * FROM changing"
	var holders []*pgtest.Client
	for range 3 { // on all connections
		h := w.client()
		h.Query("BEGIN; SELECT 1")
		for range 2 {
			ask(h, parse("", text), bind("", ""), execute("", 0))
		}
		holders = append(holders, h)
	}
	for _, h := range holders {
		h.Query("COMMIT")
	}
	direct.Query("ALTER TABLE changing ADD COLUMN b int")
	failed := 0
	for range 10 {
		c := w.client()
		switch got := ask(c, parse("", text), bind("", ""), execute("", 0)); got {
		case "1":
		case "0A000":
			failed++
		default:
			t.Errorf("the answer is %q", got)
		}
		for _, h := range holders {
			h.Query("BEGIN; SELECT 1")
			if got := ask(h, parse("", text), bind("", ""), execute("", 0)); got == "0A000" {
				failed++
			}
			h.Query("COMMIT")
		}
		c.Close()
	}
	if failed > 0 {
		t.Errorf("%d errors", failed)
	}
}

// Traps 17, 21: what one client's batch failed to prepare nobody takes for prepared, not even the next batch of the same write.
func TestAStatementThatWasSkippedIsPreparedAgain(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1})
	for i, name := range []string{"s", ""} {
		c, other := w.client(), w.client()
		text := fmt.Sprintf("SELECT 'skipped %d'", i)
		ask(other, parse("", text)) // seen before
		c.Send(
			bind("", "unknown"), parse(name, text), synchronize,
			parse(name, text), bind("", name), execute("", 0), synchronize,
			parse("t", text), bind("", "t"), execute("", 0), synchronize)
		got := c.UntilReady(3)
		if types := pgtest.Types(got); types != "EZ12DCZ12DCZ" {
			t.Errorf("%q: answered %s", name, types)
		}
		other.Send(parse("u", text), bind("", "u"), execute("", 0), synchronize)
		if types := pgtest.Types(other.UntilReady(1)); types != "12DCZ" {
			t.Errorf("%q: another client is answered %s", name, types)
		}
		c.Close()
		other.Close()
	}
}

// Trap 21: a client that leaves before its Parse was answered leaves nobody in the dark.
func TestAClientThatLeavesBehindAParse(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1})
	for i := range 20 {
		c := w.client()
		text := fmt.Sprintf("SELECT 'left behind %d'", i)
		c.Send(parse("", "SELECT pg_sleep(0.01)"), bind("", ""), execute("", 0), parse("s", text), bind("", "s"), execute("", 0))
		if i%2 == 0 {
			c.Send(synchronize)
		}
		c.Close()
		other := w.client()
		for range 2 {
			other.Send(parse("mine", text), bind("", "mine"), execute("", 0), closing('S', "mine"), synchronize)
			if types := pgtest.Types(other.UntilReady(1)); types != "12DC3Z" {
				t.Fatalf("another client is answered %s", types)
			}
		}
		other.Close()
	}
}

// A text that is too long to be kept, to be prepared on another server connection, has its session keep the one it has. However many others
// it has, it keeps none for them.
func TestASessionWithALargeStatementKeepsItsServer(t *testing.T) {
	pgtest.Shared(t)
	large := "SELECT 7 /* " + strings.Repeat("x", 1<<20) + " */"
	t.Run("where it may", func(t *testing.T) {
		w := start(t, settings{servers: 2})
		pinned := func() int64 { return w.Stats().Resources[0].Pinned["large_statement"] }
		c := w.client()
		for i := range 2100 {
			c.Send(parse(fmt.Sprint("s", i), fmt.Sprint("SELECT ", i)))
			if i%100 == 99 {
				c.Send(synchronize)
				c.UntilReady(1)
			}
		}
		w.eventually("its server connection is free", func() bool { return w.servers("used") == 0 })
		ask(c, parse("large", large))
		if got := one(t, c.Query("SELECT 1")); got != "1" || pinned() != 1 {
			t.Errorf("reads %q, and %d sessions are pinned", got, pinned())
		}
		for name, want := range map[string]string{"s0": "0", "s2099": "2099", "large": "7"} {
			if got := ask(c, bind("", name), execute("", 0)); got != want {
				t.Errorf("statement %s reads %q", name, got)
			}
		}
		c.Close()
		w.eventually("its server connection is free", func() bool { return pinned() == 0 && w.servers("used") == 0 })
		if got := one(t, w.client().Query(ourStatements)); got != "0" {
			t.Errorf("it has left %s statements", got)
		}
	})
	t.Run("where that is refused", func(t *testing.T) {
		w := start(t, settings{pinning: postgres.RefusePins})
		c := w.client()
		c.Send(parse("large", large), synchronize)
		got := c.UntilClosed()
		if e := got[len(got)-1]; e.Type != 'E' || e.Field('C') != "0A000" || e.Field('S') != "FATAL" {
			t.Errorf("it is told %v", got)
		}
	})
}

// What a client has prepared costs little when others have prepared the same.
func TestPreparedStatementsCostLittlePerClient(t *testing.T) {
	const clients, statements, most = 500, 20, 2500 // bytes a client
	pgtest.Shared(t)
	w := start(t, settings{servers: 4})
	prepareAll := func(c *pgtest.Client) {
		var batch []frontend
		for i := range statements {
			batch = append(batch, parse(fmt.Sprint("statement_", i), fmt.Sprintf("SELECT %d, $1::text, '%s'", i, strings.Repeat("x", 200))))
		}
		if got := ask(c, batch...); got != "" {
			t.Fatal(got)
		}
	}
	all := make([]*pgtest.Client, clients)
	for i := range all {
		all[i] = w.client()
	}
	prepareAll(all[0])
	before := heap()
	for _, c := range all[1:] {
		prepareAll(c)
	}
	got := (heap() - before) / (clients - 1)
	t.Logf("%d bytes a client", got)
	if got > most {
		t.Errorf("%d prepared statements cost %d bytes a client, want at most %d", statements, got, most)
	}
	runtime.KeepAlive(all)
}

// Trap 18: what a client prepares that its server connection knows already is answered at its place, also behind rows that are
// too long to be looked at.
func TestKnownStatementsAreAnsweredAtTheirPlace(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1})
	const text = "SELECT repeat($1, 100000)"
	for range 2 { // twice, so that the unnamed one is known as well
		ask(w.client(), parse("", text), bindTo("", "x"), execute("", 0))
	}
	c := w.client()
	whole := func(name string) []frontend {
		return []frontend{parse(name, text), describe('S', name), bindTo(name, "x"), describe('P', ""), execute("", 0)}
	}
	var batch []frontend
	for _, name := range []string{"a", "", "b"} {
		batch = append(batch, whole(name)...)
	}
	c.Send(append(append(batch, closing('S', "a")), append(whole("a"), synchronize)...)...)
	got := c.UntilReady(1)
	const each = "1tT2TDC"
	if types := pgtest.Types(got); types != each+each+each+"3"+each+"Z" {
		t.Errorf("answered %s", types)
	}
	for _, row := range pgtest.Rows(got) {
		if len(row) != 100000 {
			t.Errorf("a row of %d bytes", len(row))
		}
	}
	if got := one(t, c.Query(ourStatements)); got != "1" {
		t.Errorf("the server has %s statements", got)
	}
}

// Traps 17, 21, 22: what was to be prepared behind an error is not, and a name that is taken is refused all the same: nobody's
// statement becomes another's.
func TestATakenNameIsRefusedWhereItsStatementWasSkipped(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 2})
	c, others := w.client(), occupy(t, w)
	const text = "SELECT 'mine'"
	ask(c, parse("s", text))
	others.takeOver()
	c.Send(
		describe('P', "unknown"), describe('S', "s"), synchronize,
		parse("s", "SELECT 'another'"), synchronize)
	got := c.UntilReady(2)
	if types := pgtest.Types(got); types != "EZEZ" || got[2].Field('C') != "42P05" {
		t.Errorf("answered %v, want EZEZ", got)
	}
	others.takeOver()
	ask(c, parse("t", "SELECT 'second'"))
	others.takeOver()
	c.Send(
		describe('P', "unknown"), parse("", "SELECT 'second'"), synchronize,
		parse("", "SELECT 'second'"), parse("t", "SELECT 'another'"), synchronize)
	if got = c.UntilReady(2); pgtest.Types(got) != "EZ1EZ" {
		t.Errorf("answered %v, want EZ1EZ", got)
	}
	for i := range 3 {
		other := w.client()
		if got := ask(other, parse("t", text), bind("", "t"), execute("", 0)); got != "mine" {
			t.Errorf("another client prepares %s and reads %q, %d", text, got, i)
		}
		if got := ask(c, bind("", "s"), execute("", 0)); got != "mine" {
			t.Errorf("it reads %q", got)
		}
	}
}

// Trap 22: the unnamed statement that outlives a Close that was skipped is the client's, also where the answer to the Parse of a
// statement that is known has taken its place on the server.
func TestTheUnnamedStatementOutlivesASkippedClose(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1})
	c, stranger := w.client(), w.client()
	const known = "SELECT 'known'"
	for _, way := range []func(...frontend){
		func(batch ...frontend) { c.Send(batch...) },
		func(batch ...frontend) { // so that what comes behind is seen before the error is
			for _, b := range batch {
				c.Send(b)
			}
		},
	} {
		ask(stranger, parse("s", known), closing('S', "s"))
		way(
			parse("", "SELECT 'mine'"), synchronize,
			bind("", "unknown"), closing('S', ""), synchronize,
			parse("a", known), bind("", ""), execute("", 0), closing('S', "a"), synchronize)
		if got := c.UntilReady(3); pgtest.Types(got) != "1ZEZ12DC3Z" || pgtest.Rows(got)[0] != "mine" {
			t.Errorf("answered %v", got)
		}
	}
}
