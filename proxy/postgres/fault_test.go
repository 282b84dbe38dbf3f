package postgres_test

import (
	"testing"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// A panic ends the session that it happens in, and no other: what that held is given back.
func TestAPanicEndsOneSession(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	for name, before := range map[string]exchange{
		"at the beginning of a transaction": {},
		"in a transaction":                  ready(1, query("BEGIN; SELECT 1")),
		"in COPY":                           flushed(1, 'G', query("COPY left_behind FROM STDIN")),
	} {
		for _, mode := range []postgres.PoolMode{postgres.Transaction, postgres.Session} {
			t.Run(name+", "+string(mode), func(t *testing.T) {
				left(t)
				w := start(t, settings{servers: 2, loops: 1, mode: mode, users: map[string]string{"app": "x", "unlucky": "x"}})
				other := w.client()
				other.Query("BEGIN")
				other.Query("SELECT 1")
				for n := range int64(5) {
					c := w.client("user=unlucky")
					if before.wire != nil {
						before.say(c, nil)
					} else if mode == postgres.Session {
						c.Query("SELECT 1")
					}
					w.Spoil("unlucky")
					c.Send(query("SELECT 1"))
					if got := lastError(c.UntilClosed()); got != "XX000" {
						t.Errorf("it is told %q", got)
					}
					if got := lastError(other.Query("SELECT 1")); got != "" {
						t.Fatalf("another session is told %s", got)
					}
					w.eventually("what it held is given back", func() bool {
						s := w.Stats()
						return s.Panics == n+1 && w.servers("used") == 1 && w.servers("closing") == 0 && s.Clients["idle"]+s.Clients["active"] == 1
					})
				}
			})
		}
	}
}
