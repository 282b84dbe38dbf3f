package postgres_test

import (
	"fmt"
	"testing"

	"github.com/weirproxy/weir/internal/pgtest"
)

// Logins that ask for what was never seen take no connection from others. What they ask for holds all the same, and what is wrong with
// it they are told no later than by their first transaction, in the server's words.
func TestLoginsAloneTakeNoServerConnections(t *testing.T) {
	pgtest.Each(t, loginsAloneTakeNoServerConnections)
}

func loginsAloneTakeNoServerConnections(t *testing.T, pg *pgtest.Postgres) {
	w := start(t, settings{servers: 1, upstream: pg.DSN()})
	victim := w.client()
	victim.Query("BEGIN")
	backend := one(t, victim.Query("SELECT pg_backend_pid()"))
	var clients []*pgtest.Client
	for i := range 50 {
		c := w.client(fmt.Sprintf("options='-c search_path=tenant_%d -c app.request=%d -c statement_timeout=%d'", i, i, 100_001+i))
		clients = append(clients, c)
	}
	wrong := w.client("options='-c statement_timeout=soon'")
	unknown := w.client("options='-c nonsense=1'")
	victim.Query("COMMIT")
	for i, c := range clients {
		want := fmt.Sprintf("tenant_%d %d %dms", i, i, 100_001+i)
		if got := one(t, c.Query("SELECT concat_ws(' ', current_setting('search_path'), current_setting('app.request'), current_setting('statement_timeout'))")); got != want {
			t.Errorf("client %d runs with %q, want %q", i, got, want)
		}
	}
	if got := one(t, victim.Query("SELECT pg_backend_pid()")); got != backend {
		t.Error("the connection was closed for a login")
	}
	for code, c := range map[string]*pgtest.Client{"22023": wrong, "42704": unknown} {
		c.Send(query("SELECT 1"))
		if got := c.UntilClosed(); len(got) != 1 || got[0].Field('S') != "FATAL" || got[0].Field('C') != code {
			t.Errorf("a wrong setting is answered with %v, want FATAL %s", got, code)
		}
	}
}
