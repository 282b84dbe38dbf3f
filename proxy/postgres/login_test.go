package postgres_test

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/auth"
	"github.com/weirproxy/weir/internal/pgtest"
)

// logins counts the logins of a method that ended one way.
func (w *weir) logins(method, outcome string) int64 {
	for _, l := range w.Stats().Logins {
		if l.Method == method && l.Outcome == outcome {
			return l.Count
		}
	}
	return 0
}

// verifier is of the password "secret", made by PostgreSQL.
func verifier(t *testing.T) string {
	t.Helper()
	pg := pgtest.Shared(t)
	if err := pg.Exec(t.Context(), "SET password_encryption = 'scram-sha-256'; DROP ROLE IF EXISTS weir_verifier; CREATE ROLE weir_verifier PASSWORD 'secret'"); err != nil {
		t.Fatal(err)
	}
	rows, err := pg.Query(t.Context(), "SELECT rolpassword FROM pg_authid WHERE rolname = 'weir_verifier'")
	if err != nil {
		t.Fatal(err)
	}
	return rows[0][0]
}

// Trap 12: each method with a real driver; a wrong password and an unknown user look the same.
func TestLogins(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	hash := "md5" + fmt.Sprintf("%x", md5.Sum([]byte("secretapp")))
	tests := []struct {
		name   string
		method auth.Method
		secret string
		params string
		label  string
	}{
		{"trust", auth.Trust, "secret", "sslmode=disable", "trust"},
		{"password", auth.Password, "secret", "sslmode=disable", "password"},
		{"password over TLS", auth.Password, "secret", "sslmode=require", "password"},
		{"md5", auth.MD5, hash, "sslmode=disable", "md5"},
		{"md5 from plain text", auth.MD5, "secret", "sslmode=require", "md5"},
		{"SCRAM", auth.SCRAM, verifier(t), "sslmode=disable", "scram-sha-256"},
		{"SCRAM from plain text", auth.SCRAM, "secret", "sslmode=disable", "scram-sha-256"},
		{"SCRAM over TLS, bound to it", auth.SCRAM, verifier(t), "sslmode=require channel_binding=require", "scram-sha-256-plus"},
		{"SCRAM over TLS, not bound", auth.SCRAM, verifier(t), "sslmode=require channel_binding=disable", "scram-sha-256"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := start(t, settings{method: test.method, users: map[string]string{"app": test.secret}, tls: certificate(t, "prefer")})
			connect := func(user, password string) error {
				cfg, err := pgx.ParseConfig(w.dsn(test.params, "password="+password))
				if err != nil {
					t.Fatal(err)
				}
				cfg.User = user
				conn, err := pgx.ConnectConfig(t.Context(), cfg)
				if err != nil {
					return err
				}
				defer conn.Close(context.Background())
				var one int
				return conn.QueryRow(t.Context(), "SELECT 1").Scan(&one)
			}
			if err := connect("app", "secret"); err != nil {
				t.Fatal(err)
			}
			if got := w.logins(test.label, "ok"); got != 1 {
				t.Errorf("counted %d logins, want 1: %+v", got, w.Stats().Logins)
			}
			wrong := connect("app", "wrong")
			unknown := connect("nobody", "secret")
			if test.method == auth.Trust {
				if wrong != nil || sqlstate(unknown) != "28000" {
					t.Errorf("with trust, a wrong password: %v; an unknown user: %v", wrong, unknown)
				}
				return
			}
			a, b := pgError(t, wrong), pgError(t, unknown)
			if a.Code != "28P01" || a.Message != `password authentication failed for user "app"` {
				t.Errorf("a wrong password: %+v", a)
			}
			if a.Message = strings.Replace(a.Message, "app", "nobody", 1); *a != *b {
				t.Errorf("a wrong password and an unknown user are told apart: %+v, %+v", a, b)
			}
			if got := w.logins(test.label, "denied"); got != 2 {
				t.Errorf("counted %d denials, want 2: %+v", got, w.Stats().Logins)
			}
		})
	}
}

func pgError(t *testing.T, err error) *pgconn.PgError {
	t.Helper()
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		t.Fatalf("got %v, want an error of the server", err)
	}
	return pgErr
}

// Messages in the place of a password.
func TestWhatIsNoAnswerToTheQuestionForAPassword(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{method: auth.SCRAM, users: map[string]string{"app": "secret"}})
	for name, test := range map[string]struct{ send, want string }{
		"a query":                    {"Q\x00\x00\x00\x0dSELECT 1\x00", "08P01"},
		"goodbye":                    {"X\x00\x00\x00\x04", quietEnd},
		"the end of the stream":      {"", quietEnd},
		"a length below four":        {"p\x00\x00\x00\x03", "08P01"},
		"a length of a gigabyte":     {"p\x3f\xff\xff\xff", "08P01"},
		"a length of two":            {"p\x80\x00\x00\x00", "08P01"},
		"nothing":                    {"p\x00\x00\x00\x04", "08P01"},
		"an unknown mechanism":       {"p\x00\x00\x00\x0eSCRAM\x00\x00\x00\x00\x00", "08P01"},
		"SCRAM-SHA-256-PLUS, no TLS": {"p\x00\x00\x00\x1bSCRAM-SHA-256-PLUS\x00\x00\x00\x00\x00", "08P01"},
		"SCRAM without a nonce":      {"p\x00\x00\x00\x19SCRAM-SHA-256\x00\x00\x00\x00\x03n,,", "08P01"},
		"SCRAM that lies about it":   {"p\x00\x00\x00\x19SCRAM-SHA-256\x00\xff\xff\xff\xf0n,,", "08P01"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := w.dial(t)
			_, _ = conn.Write(good)
			question := make([]byte, 9)
			for i := range question {
				question[i] = readByte(t, conn)
			}
			rest := int(question[4]) - 8 // the mechanisms
			for range rest {
				readByte(t, conn)
			}
			_, _ = conn.Write([]byte(test.send))
			_ = conn.(interface{ CloseWrite() error }).CloseWrite()
			if got := outcome(t, readAll(t, conn)); got != test.want {
				t.Errorf("ended with %q, want %q", got, test.want)
			}
		})
	}
}

// Trap 9: what a client is told is what the server says, for this database, from the first login on.
func TestTheFirstClientIsToldWhatTheServerSays(t *testing.T) {
	pg := pgtest.Shared(t)
	w := start(t, settings{})
	direct := pgtest.Connect(t, keyword(pg))
	for range 2 {
		c := w.client()
		for name, want := range direct.Parameters {
			if name != "session_authorization" && c.Parameters[name] != want {
				t.Errorf("%s is %q, the server says %q", name, c.Parameters[name], want)
			}
		}
		if c.PID == 0 || c.PID == direct.PID || len(c.Secret) != 4 { // Trap 8
			t.Errorf("process id %d, secret of %d bytes", c.PID, len(c.Secret))
		}
	}
	if n := w.Stats().LoginTime.Count; n != 2 {
		t.Errorf("%d logins were timed", n)
	}
}
