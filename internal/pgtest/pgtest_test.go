package pgtest_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/certs"
	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
)

func TestSharedIsOneServer(t *testing.T) {
	if a, b := pgtest.Shared(t), pgtest.Shared(t); a != b {
		t.Errorf("servers at %s and %s", a.Addr(), b.Addr())
	}
}

func TestClientLogsInByEveryMethod(t *testing.T) {
	pg := pgtest.Shared(t)
	for _, user := range []pgtest.User{pgserver.App, pgserver.Legacy, pgserver.Plain, pgserver.Open, pgserver.Superuser} {
		for _, mode := range []string{"disable", "require"} {
			t.Run(user.Name+"/"+mode, func(t *testing.T) {
				c := pgtest.Connect(t, strings.Replace(pg.DSNFor(user), "disable", mode, 1))
				if c.PID == 0 || len(c.Secret) != 4 || c.Parameters["server_encoding"] != "UTF8" {
					t.Errorf("process id %d, secret %x, parameters %v", c.PID, c.Secret, c.Parameters)
				}
				if got := pgtest.Rows(c.Query("SELECT current_user")); len(got) != 1 || got[0] != user.Name {
					t.Errorf("current_user is %q", got)
				}
			})
		}
	}
}

func TestWrongPasswordIsALoginError(t *testing.T) {
	user := pgserver.App
	user.Password = "guess"
	_, err := pgtest.TryConnect(t, pgtest.Shared(t).DSNFor(user), pgtest.Protocol30)
	var refused *pgtest.LoginError
	if !errors.As(err, &refused) || refused.Response.Field('C') != "28P01" {
		t.Errorf("got %v, want 28P01", err)
	}
}

func TestProtocol32HasLongCancelKeys(t *testing.T) {
	c := pgtest.ConnectVersion(t, pgtest.Shared18(t).DSN(), pgtest.Protocol32)
	if len(c.Secret) != 32 {
		t.Fatalf("the secret has %d bytes, want 32", len(c.Secret))
	}
	c.Send(&pgproto3.Query{String: "DO $$ BEGIN RAISE NOTICE 'running'; PERFORM pg_sleep(60); END $$"})
	c.Expect('N')
	c.Cancel()
	if got := c.Expect('E').Field('C'); got != "57014" {
		t.Errorf("the query ends with %s, want 57014", got)
	}
}

func TestCompareSeesWhatDiffers(t *testing.T) {
	pg := pgtest.Shared(t)
	a, b := pgtest.Connect(t, pg.DSN()), pgtest.Connect(t, pg.DSN())
	tests := map[string]struct {
		direct, proxied []pgtest.Message
		same            bool
	}{
		"two logins":          {a.Greeting, b.Greeting, true},
		"the same query":      {a.Query("SELECT 1"), b.Query("SELECT 1"), true},
		"the same error":      {a.Query("SELECT"), b.Query("SELECT"), true},
		"another value":       {a.Query("SELECT 1"), b.Query("SELECT 2"), false},
		"a message too few":   {a.Query("SELECT 1"), b.Query("SELECT 1")[1:], false},
		"a message too many":  {nil, b.Query(""), false},
		"nothing after a row": {a.Query("SELECT 1"), b.Query("SELECT 1")[:2], false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var seen recorder
			pgtest.Compare(&seen, test.direct, test.proxied)
			if same := len(seen.errors) == 0; same != test.same {
				t.Errorf("same is %v, want %v: %v", same, test.same, seen.errors)
			}
		})
	}
}

// recorder stands in for a test that is expected to fail.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Helper()             {}
func (r *recorder) Logf(string, ...any) {}
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func TestScriptsPlayWhatTheySay(t *testing.T) {
	row := &pgproto3.DataRow{Values: [][]byte{[]byte("half of this row")}}
	ask := pgtest.ExpectQuery("SELECT 1")
	tests := map[string]struct {
		script    pgtest.Script
		wantTypes string // of what the client gets in answer to its query
		wantErr   string // what it gets then
	}{
		"answers":           {pgtest.Script{pgtest.AnswerQueries(pgtest.Reply(3))}, "TDDDCZ", "timeout"},
		"hangs up":          {pgtest.Script{ask, pgtest.HangUp()}, "", "EOF"},
		"aborts":            {pgtest.Script{ask, pgtest.Abort()}, "", "reset"},
		"hangs up in a row": {pgtest.Script{ask, pgtest.Send(row), pgtest.SendPart(row, 9)}, "D", "unexpected EOF"},
		"lies":              {pgtest.Script{ask, pgtest.SendLie(row, 3)}, "", "length: 3"},
		"sends garbage":     {pgtest.Script{ask, pgtest.SendBytes([]byte("HTTP/1.1 200"))}, "", "length: 1414811695"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			fake := append(pgtest.Script{pgtest.AcceptStartup()}, test.script...).Serve(t)
			c := pgtest.Connect(t, fake.DSN())
			c.Timeout = 100 * time.Millisecond
			c.Send(&pgproto3.Query{String: "SELECT 1"})

			var got []pgtest.Message
			m, err := c.Try()
			for ; err == nil; m, err = c.Try() {
				got = append(got, m)
			}
			if pgtest.Types(got) != test.wantTypes || !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("got %v, then %v; want %s, then %s", got, err, test.wantTypes, test.wantErr)
			}
			if name != "answers" { // that one would go on
				fake.AwaitFinished(1)
			}
		})
	}
}

func TestFakeCountsConnectionsAndCancels(t *testing.T) {
	pgtest.NoLeaks(t)
	fake := pgtest.ServeEach(t, func(n int) pgtest.Script {
		if n == 0 {
			return pgtest.Script{pgtest.Refuse("57P03", "starting up")}
		}
		return pgtest.Script{pgtest.AcceptStartup(), pgtest.Stall()}
	})
	if _, err := pgtest.TryConnect(t, fake.DSN(), pgtest.Protocol30); err == nil {
		t.Error("the first connection is let in")
	}
	c := pgtest.Connect(t, fake.DSN())
	fake.AwaitOpen(1)
	c.Cancel()
	if got := fake.AwaitCancel(1); got.PID != c.PID || string(got.Secret) != string(c.Secret) {
		t.Errorf("cancel for %v, want process id %d and secret %x", got, c.PID, c.Secret)
	}
	if fake.Accepted() != 2 {
		t.Errorf("%d connections, want 2", fake.Accepted())
	}
	c.Close()
	fake.AwaitOpen(0)

	silent := pgtest.Dial(t, fake.Addr()) // says nothing: Close must end it all the same
	fake.Close()
	silent.UntilClosed()
}

func TestFakeSpeaksTLS(t *testing.T) {
	authority, err := certs.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := authority.Certificate(certs.Request{CommonName: "localhost", Hosts: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	fake := pgtest.Script{
		pgtest.StartTLS(&tls.Config{Certificates: []tls.Certificate{cert}}),
		pgtest.AcceptStartup(), pgtest.ExpectClose(),
	}.Serve(t)

	c := pgtest.Dial(t, fake.Addr())
	c.StartTLS(&tls.Config{RootCAs: authority.Pool(), ServerName: "127.0.0.1"})
	c.SendStartup(pgtest.Protocol30, map[string]string{"user": "somebody"})
	c.Authenticate("somebody", "")
	if got := c.Parameters["session_authorization"]; got != "somebody" {
		t.Errorf("session_authorization is %q", got)
	}
	c.Abort()
	fake.AwaitFinished(1)
}
