package postgres_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/internal/pgtest"
)

// Logins that each ask for something new, such as the id of a request, take no server connection for it, and none from others.
func TestLoginsWithNewSettingsTakeNoServerConnections(t *testing.T) {
	pgtest.NoLeaks(t)
	fake := pgtest.Script{pgtest.AcceptStartup(), answerAnything}.Serve(t)
	w := start(t, settings{upstream: fake.DSN(), servers: 3})
	w.client()
	for i := range 200 {
		w.client(fmt.Sprintf("options='-c my.request=%d -c search_path=s%d' application_name=a%d", i, i, i)).Close()
	}
	if n := fake.Accepted(); n > 6 {
		t.Errorf("200 logins made %d server connections", n)
	}
}

// What was taken as it is holds from the first transaction on; what the server does not accept is told then, and at the next login.
func TestNewSettingsAreCheckedByTheFirstTransaction(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 2})
	for i := range 10 { // of which the server is asked about the first few
		c := w.client(fmt.Sprintf("options='-c search_path=s%d -c work_mem=%dkB'", i, 100+i))
		got := one(t, c.Query("SELECT concat(current_setting('search_path'), ' ', current_setting('work_mem'))"))
		if want := fmt.Sprintf("s%d %dkB", i, 100+i); got != want {
			t.Errorf("asked for %q, it runs with %q", want, got)
		}
	}
	for _, test := range []struct{ options, sqlstate string }{{"-c work_mem=1kB", "22023"}, {"-c statement_timeout=999999999h", "22023"}} {
		c := w.client("options='" + test.options + "'")
		c.Send(query("SELECT 1"))
		if got := lastError(c.UntilClosed()); got != test.sqlstate {
			t.Errorf("%s: the first transaction is told %q", test.options, got)
		}
		_, err := pgconn.Connect(context.Background(), w.dsn("options='"+test.options+"'"))
		if got := sqlstate(err); got != test.sqlstate {
			t.Errorf("%s: the next login is told %q", test.options, got)
		}
	}
}
