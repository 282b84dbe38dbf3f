package storm_test

import (
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/storm"
)

// atPostgres runs a plan at a real server.
func atPostgres(t *testing.T, plan storm.Plan) *storm.Result {
	t.Helper()
	result, err := storm.Run(t.Context(), plan, nil)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestStormAtPostgreSQL(t *testing.T) {
	pg := pgtest.Shared(t)
	for _, connections := range []storm.Connections{storm.Fresh, storm.Kept} {
		t.Run(string(connections), func(t *testing.T) {
			pgtest.NoLeaks(t)
			r := atPostgres(t, storm.Plan{
				DSN: pg.DSN(), Load: storm.Steady(100, time.Second), Connections: connections, Kept: 5,
				Function: storm.Function{SQL: "SELECT random(1, 9); SELECT repeat('x', 20000)", Deadline: 20 * time.Second},
			})
			if r.Good != r.Offered || r.Offered < 60 || (r.Login != nil) != (connections == storm.Fresh) {
				t.Errorf("%d of %d are good, login %+v, errors %+v", r.Good, r.Offered, r.Login, r.Errors)
			}
		})
	}
}

func TestWaysToLogIn(t *testing.T) {
	pg := pgtest.Shared(t)
	const failsUnless = "SELECT 1 / count(*) FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl = "
	for _, user := range []pgserver.User{pgserver.App, pgserver.Legacy, pgserver.Plain, pgserver.Open} {
		for sslmode, tls := range map[string]string{"disable": "false", "prefer": "true", "require": "true"} {
			t.Run(user.Method+" "+sslmode, func(t *testing.T) {
				dsn, changed := strings.CutSuffix(pg.DSNFor(user), "sslmode=disable")
				if !changed {
					t.Fatalf("DSN %s has no sslmode to change", pg.DSNFor(user))
				}
				plan := storm.Plan{
					DSN: dsn + "sslmode=" + sslmode, Load: storm.Together(3),
					Function: storm.Function{SQL: failsUnless + tls, Deadline: 20 * time.Second},
				}
				if user.Method == pgserver.Password && sslmode != "require" || user.Method == pgserver.MD5 && sslmode == "prefer" {
					if _, err := storm.Run(t.Context(), plan, nil); err == nil || !strings.Contains(err.Error(), "does not get it") {
						t.Errorf("whoever answers is told the password: %v", err)
					}
					plan.DSN += "&require_auth=" + user.Method
				}
				r := atPostgres(t, plan)
				if r.Good != 3 {
					t.Errorf("%d of 3 are good; errors %+v", r.Good, r.Errors)
				}
			})
		}
	}
}

func TestWrongPasswordEndsTheStormBeforeItBegins(t *testing.T) {
	pg := pgtest.Shared(t)
	wrong := pgserver.App
	wrong.Password = "guess"
	_, err := storm.Run(t.Context(), storm.Plan{DSN: pg.DSNFor(wrong), Load: storm.Together(3)}, nil)
	if err == nil || !strings.Contains(err.Error(), "caller functions cannot log in at app@127.0.0.1:") || !strings.Contains(err.Error(), "SQLSTATE 28P01") {
		t.Errorf("got %v", err)
	}
}

func TestDeadlineThatIsMissedAtPostgreSQL(t *testing.T) {
	pg := pgtest.Shared(t)
	r := atPostgres(t, storm.Plan{
		DSN: pg.DSN(), Load: storm.Together(3), Connections: storm.Kept, Kept: 3,
		Function: storm.Function{SQL: "SELECT pg_sleep(2)", Deadline: 100 * time.Millisecond},
	})
	if r.TimedOut != 3 || r.While.Answer != 3 || len(r.Errors) != 0 {
		t.Errorf("timed out %d (%+v), errors %+v", r.TimedOut, r.While, r.Errors)
	}
}

func TestRefusalsByPostgreSQL(t *testing.T) {
	pg := pgtest.Shared(t)
	r := atPostgres(t, storm.Plan{
		DSN: pg.DSN(), Load: storm.Together(4), Connections: storm.Kept, Kept: 2, Retries: 1, HeedHint: true,
		Function: storm.Function{Deadline: 20 * time.Second, SQL: `DO $$ BEGIN RAISE EXCEPTION 'too many clients are waiting'
			USING errcode = '53300', hint = 'retry after 50 ms', detail = 'not executed; id=1 rule=resources.orders.queue.length observed=9'; END $$`},
	})
	if r.Refused != 4 || r.Retried != 4 || len(r.Refusals) != 1 {
		t.Fatalf("refused %d, retried %d, refusals %+v, errors %+v", r.Refused, r.Retried, r.Refusals, r.Errors)
	}
	got := r.Refusals[0]
	if got.SQLSTATE != "53300" || got.Message != "too many clients are waiting" || got.Rule != "resources.orders.queue.length" || got.Count != 8 || got.Latency.P50 <= 0 {
		t.Errorf("got %+v", got)
	}
}

func TestWorkTakesAboutAsLongAsAsked(t *testing.T) {
	pg := pgtest.Shared(t)
	r := atPostgres(t, storm.Plan{
		DSN: pg.DSN(), Load: storm.Steady(20, time.Second), Connections: storm.Kept, Kept: 1,
		Function: storm.Function{Work: 20 * time.Millisecond, Deadline: 20 * time.Second},
	})
	// Wide, for the machine may be busy now, or may have been when the work was measured.
	if r.Good == 0 || r.Transaction.P50 < 5 || r.Transaction.P50 > 1000 || r.Setup.RowsPerMillisecond < 100 {
		t.Errorf("%d good, transaction %+v, %v rows a millisecond", r.Good, r.Transaction, r.Setup.RowsPerMillisecond)
	}
}
