package postgres_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy"
)

// What the operator has to mend is told to functions and to the operator by its kind, and not as an outage.
func TestALoginThatTheServerRefusesIsToldAsOne(t *testing.T) {
	pg := pgtest.Shared(t)
	changed := func(change func(u *url.URL)) string {
		u, err := url.Parse(pg.DSN())
		if err != nil {
			t.Fatal(err)
		}
		change(u)
		return u.String()
	}
	plain := strings.Replace(pg.DSNFor(pgserver.Plain), "sslmode=disable", "", 1)
	tests := map[string]struct {
		upstream       string
		kind, operator string // what functions and operators read
	}{
		"a wrong password": {
			changed(func(u *url.URL) { u.User = url.UserPassword("app", "hush-hush") }),
			"login refused by the server (SQLSTATE 28P01)", "password authentication failed",
		},
		"an unknown user": {
			changed(func(u *url.URL) { u.User = url.UserPassword("nobody", "hush-hush") }),
			"login refused by the server (SQLSTATE 28000)", "nobody",
		},
		"an unknown database": {
			changed(func(u *url.URL) { u.Path = "/nothing" }),
			"login refused by the server (SQLSTATE 3D000)", `database "nothing" does not exist`,
		},
		"an unknown parameter": {
			changed(func(u *url.URL) { u.RawQuery += "&serch_path=x" }),
			"login refused by the server (SQLSTATE 42704)", `unrecognized configuration parameter "serch_path"`,
		},
		"a value that is none": {
			changed(func(u *url.URL) { u.RawQuery += "&statement_timeout=soon" }),
			"login refused by the server (SQLSTATE 22023)", "statement_timeout",
		},
		"a password asked for in clear": {
			plain, "login broken off by weir", "expected scram-sha-256 in the server's pg_hba.conf",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := start(t, settings{upstream: test.upstream, breaker: breaker.New(database, breaker.Config{Failures: 1}, nil)})
			for _, options := range []string{"", "options='-c search_path=x'"} {
				_, err := pgconn.Connect(t.Context(), w.dsn(options))
				var refused *pgconn.PgError
				if !errors.As(err, &refused) || refused.Code != proxy.LoginRefused.SQLSTATE || refused.Message != proxy.LoginRefused.Message {
					t.Fatalf("the function reads %v", err)
				}
				if !strings.Contains(refused.Detail, " rule=resources.orders.upstream observed="+test.kind) || strings.Contains(refused.Detail, "hush") {
					t.Errorf("DETAIL is %q", refused.Detail)
				}
			}
			err := w.Ready()
			if err == nil || !strings.Contains(err.Error(), test.kind) || !strings.Contains(err.Error(), test.operator) || strings.Contains(err.Error(), "hush") {
				t.Errorf("readyz says %v", err)
			}
			if s := w.state(); s != 0 {
				t.Errorf("the breaker is in state %d", s)
			}
		})
	}
}

// A role may have as many connections as its operator says: that is no outage. It is waited for, but not for long where there is nothing
// else to wait for.
func TestARoleWithoutConnectionsIsToldAsOne(t *testing.T) {
	pg := pgtest.Start(t, pgtest.Config{})
	super := pgtest.Connect(t, pg.SuperDSN())
	w := start(t, settings{upstream: pg.DSN(), breaker: breaker.New(database, breaker.Config{Failures: 1}, nil)})
	super.Query("ALTER ROLE app CONNECTION LIMIT 0")
	began := time.Now()
	_, err := pgconn.Connect(t.Context(), w.dsn())
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || refused.Code != proxy.LoginRefused.SQLSTATE || !strings.Contains(refused.Detail, "login refused by the server (SQLSTATE 53300)") {
		t.Errorf("the function reads %v", err)
	}
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("after %v", took)
	}
	if err := w.Ready(); err == nil || !strings.Contains(err.Error(), "too many connections for role") {
		t.Errorf("readyz says %v", err)
	}
	if s := w.state(); s != 0 {
		t.Errorf("the breaker is in state %d", s)
	}
	super.Query("ALTER ROLE app CONNECTION LIMIT -1")
	if got := pgtest.Types(w.client().Query("SELECT 1")); got != "TDCZ" {
		t.Errorf("the next one reads %s", got)
	}
	if err := w.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
}

// Who is logged in already is served: the password that has changed says nothing against the server.
func TestARefusedLoginLeavesTheOthersAlone(t *testing.T) {
	refuse := pgtest.Script{pgtest.Refuse("28P01", "password authentication failed")}
	fake := pgtest.ServeEach(t, func(n int) pgtest.Script {
		if n == 0 {
			return pgtest.Script{pgtest.AcceptStartup(), pgtest.AnswerQueries(pgtest.Reply(1))}
		}
		return refuse
	})
	w := start(t, settings{upstream: fake.DSN(), servers: 2, breaker: breaker.New(database, breaker.Config{Failures: 1}, nil)})
	one, two := w.client(), w.client()
	begin := pgtest.Types(one.Query("SELECT 1"))
	if begin != "TDCZ" {
		t.Fatalf("the first reads %s", begin)
	}
	for range 20 {
		one.Send(&pgproto3.Query{String: "SELECT 1"})
		two.Send(&pgproto3.Query{String: "SELECT 1"}) // for which another connection is dialled, in vain, or which waits
		for who, c := range map[string]*pgtest.Client{"one": one, "two": two} {
			if got := pgtest.Types(c.UntilReady(1)); got != "TDCZ" {
				t.Fatalf("client %s reads %s", who, got)
			}
		}
	}
	if err := w.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	if s := w.state(); s != 0 {
		t.Errorf("the breaker is in state %d", s)
	}
}

// Once the operator has mended it, the next function is served.
func TestARefusedLoginThatWasMended(t *testing.T) {
	fake := pgtest.ServeEach(t, func(n int) pgtest.Script {
		if n == 0 {
			return pgtest.Script{pgtest.Refuse("28P01", "password authentication failed")}
		}
		return pgtest.Script{pgtest.AcceptStartup(), pgtest.AnswerQueries(pgtest.Reply(1))}
	})
	w := start(t, settings{upstream: fake.DSN(), breaker: breaker.New(database, breaker.Config{Failures: 1, Cooldown: time.Hour, MaxCooldown: time.Hour}, nil)})
	if _, err := pgconn.Connect(t.Context(), w.dsn()); err == nil {
		t.Fatal("logged in")
	}
	if w.Ready() == nil {
		t.Error("ready, though it cannot log in")
	}
	if got := pgtest.Types(w.client().Query("SELECT 1")); got != "TDCZ" {
		t.Errorf("the next one reads %s", got)
	}
	if err := w.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
}

// A server that is starting, stopping or full refuses logins as well, and that is its own state.
func TestAServerThatIsNotThereIsAnOutage(t *testing.T) {
	for _, sqlstate := range []string{"57P01", "57P03", "58030", "XX000"} {
		fake := pgtest.Script{pgtest.Refuse(sqlstate, "not now")}.Serve(t)
		w := start(t, settings{upstream: fake.DSN(), breaker: breaker.New(database, breaker.Config{Failures: 1}, nil)})
		_, err := pgconn.Connect(t.Context(), w.dsn())
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Message != proxy.Breaker.Message {
			t.Errorf("%s: the function reads %v", sqlstate, err)
		}
		if s := w.state(); s != 2 {
			t.Errorf("%s: the breaker is in state %d", sqlstate, s)
		}
	}
}
