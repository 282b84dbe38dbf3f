package postgres_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// What one session has set for its own statements is nothing that another one runs into, which has much to be set before its own: the server
// needs milliseconds for that.
func TestAnothersTimeoutEndsNobody(t *testing.T) {
	pgtest.Each(t, anothersTimeoutEndsNobody)
}

func anothersTimeoutEndsNobody(t *testing.T, pg *pgtest.Postgres) {
	hasty := []string{"statement_timeout=1"}
	if one(t, pgtest.Connect(t, pg.DSN()).Query("SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout'")) == "1" { // from version 17 on
		hasty = append(hasty, "transaction_timeout=1")
	}
	const statements, each = 40, 50
	for _, reset := range []postgres.Reset{postgres.ResetDetected, postgres.ResetAlways} {
		for _, setting := range hasty {
			t.Run(string(reset)+" "+setting, func(t *testing.T) {
				w := start(t, settings{servers: 1, reset: reset, upstream: pg.DSN()})
				c := w.client()
				for i := range statements {
					var sets []string
					for j := range each {
						sets = append(sets, fmt.Sprintf("SET m.p%d_%d = 'x'", i, j))
					}
					c.Query(strings.Join(sets, ";"))
				}
				for range 10 {
					stranger := w.pgconn("options='-c " + setting + "'")
					_ = stranger.Exec(context.Background(), "SELECT 1").Close() // which may fail
					const look = "SELECT current_setting('%s') || current_setting('m.p0_0') || current_setting('m.p39_49')"
					name, _, _ := strings.Cut(setting, "=")
					if got := one(t, c.Query(fmt.Sprintf(look, name))); got != "0xx" {
						t.Errorf("it has %s", got)
					}
				}
			})
		}
	}
}

// With reset: always, that goes for a timeout that nobody could notice, too: what the other one has left takes milliseconds to be dropped.
func TestATimeoutThatIsNotNoticedEndsNobody(t *testing.T) {
	pgtest.Each(t, func(t *testing.T, pg *pgtest.Postgres) {
		direct := pgtest.Connect(t, pg.DSN())
		direct.Query("CREATE OR REPLACE FUNCTION leave_much() RETURNS void LANGUAGE plpgsql AS $$ BEGIN" +
			" FOR i IN 1..100 LOOP EXECUTE format('CREATE TEMP TABLE left_%s(v int)', i); END LOOP; PERFORM set_config('statement_timeout', '1', false); END $$")
		w := start(t, settings{servers: 1, reset: postgres.ResetAlways, upstream: pg.DSN()})
		c, stranger := w.client("options='-c my.own=1'"), w.client()
		for range 3 {
			stranger.Query("SELECT leave_much()")
			if got := one(t, c.Query("SELECT current_setting('my.own') || current_setting('statement_timeout')")); got != "10" {
				t.Errorf("it has %s", got)
			}
		}
	})
}

// The same timeout of two sessions that have different settings holds for both.
func TestASharedTimeoutHoldsForEach(t *testing.T) {
	w := start(t, settings{servers: 1})
	a, b := w.client("options='-c statement_timeout=777 -c my.own=a'"), w.client("options='-c statement_timeout=777 -c my.own=b'")
	for range 3 {
		for _, c := range []*pgtest.Client{a, b} {
			if got := one(t, c.Query("SHOW statement_timeout")); got != "777ms" {
				t.Errorf("statement_timeout = %s, want 777ms", got)
			}
		}
	}
}

// Who asks for transactions that wait for those of others waits alone.
func TestAnothersDeferrableTransactionsMakeNobodyWait(t *testing.T) {
	pg := pgtest.Shared(t)
	holder := pgtest.Connect(t, pg.DSNFor(pgserver.Open))
	holder.Query("CREATE TABLE IF NOT EXISTS deferred(v int)")
	holder.Query("BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO deferred VALUES (1)")
	defer holder.Query("ROLLBACK")
	for _, reset := range []postgres.Reset{postgres.ResetDetected, postgres.ResetAlways} {
		t.Run(string(reset), func(t *testing.T) {
			w := start(t, settings{servers: 1, reset: reset, upstream: pg.DSNFor(pgserver.Open)})
			stranger := w.client("options='-c default_transaction_isolation=serializable -c default_transaction_read_only=on -c default_transaction_deferrable=on'")
			c := w.client("options='-c my.own=mine'")
			for range 2 {
				stranger.Query("SHOW work_mem")
				if got := one(t, c.Query("SHOW my.own")); got != "mine" {
					t.Errorf("it has %s", got)
				}
			}
		})
	}
}

// A session's idle timeout is for its own silence: the server connection that it had rests for as long as it likes.
func TestAnIdleTimeoutIsNotInForceOnTheShelf(t *testing.T) {
	pgtest.Each(t, anIdleTimeoutIsNotInForceOnTheShelf)
}

func anIdleTimeoutIsNotInForceOnTheShelf(t *testing.T, pg *pgtest.Postgres) {
	const idle = "idle_session_timeout=400"
	tests := map[string]struct{ startup, set string }{
		"at startup":  {"options='-c " + idle + "'", "SELECT 1"},
		"by SET":      {"", "SET " + idle},
		"among other": {"options='-c my.own=1'", "SELECT set_config('idle_session_timeout', '400', false), set_config('my.other', '2', false)"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := start(t, settings{servers: 1, upstream: pg.DSN()})
			c, other := w.client(test.startup), w.client()
			pid := backend(t, other)
			for range 2 { // the second time, it is known what SET leads to
				c.Query(test.set)
				w.eventually("it rests", func() bool { return w.servers("idle") == 1 })
				witness := pgtest.Connect(t, pg.DSN())
				witness.Query("SET " + idle)
				witness.UntilClosed()
				if got := backend(t, other); got != pid {
					t.Errorf("server process %s is replaced by %s", pid, got)
				}
				if got := one(t, c.Query("SHOW idle_session_timeout")); got != "400ms" {
					t.Errorf("its own client has %s", got)
				}
				if got := one(t, other.Query("SHOW idle_session_timeout")); got != "0" {
					t.Errorf("another client has %s", got)
				}
			}
		})
	}
}

// A server that ends the connection in answer to what the client has not asked leaves nobody without a word.
func TestAServerThatGoesInsteadOfTakingSettingsIsToldOf(t *testing.T) {
	for name, step := range map[string]pgtest.Step{
		"with a word": func(c *pgtest.ServerConn) error {
			return c.Send(&pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "57P05", Message: "terminating connection due to idle-session timeout"})
		},
		"without one": func(*pgtest.ServerConn) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			fake := pgtest.ServeEach(t, func(n int) pgtest.Script {
				if n == 0 {
					return pgtest.Script{pgtest.AcceptStartup(), pgtest.Expect("Q"), step}
				}
				return pgtest.Script{pgtest.AcceptStartup(), pgtest.AnswerQueries(pgtest.Reply(1))}
			})
			w := start(t, settings{servers: 1, upstream: fake.DSN()})
			c := w.client("options='-c my.own=1'")
			c.Send(query("SELECT 1"))
			got := c.UntilClosed()
			if len(got) != 1 || got[0].Type != 'E' || got[0].Field('C') != "08006" || got[0].Field('S') != "FATAL" {
				t.Errorf("the client reads %v", got)
			}
		})
	}
}
