package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/internal/redistest"
)

// saltOf is the salt that a stranger is shown for a name, before having proved anything.
func saltOf(t *testing.T, addr, user string) string {
	t.Helper()
	c := pgtest.Dial(t, addr)
	defer c.Close()
	c.SendStartup(pgproto3.ProtocolVersion30, map[string]string{"user": user, "database": "orders"})
	c.Expect('R')
	c.Send(&pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-256", Data: []byte("n,,n=,r=abcdefghijkl")})
	m := c.Expect('R')
	match := regexp.MustCompile(`s=([^,]+),`).FindSubmatch(m.Body)
	if match == nil {
		t.Fatalf("no salt in %q", m.Body)
	}
	return string(match[1])
}

// mockKeyConfig is a weir with known secrets, of which none may be guessed from outside.
const mockKeyConfig = `listen: 127.0.0.1:0
admin: 127.0.0.1:0
%s
users: { app: { password: users-hush-hush } }
resources:
  orders: { upstream: "postgres://app:upstream-hush-hush@127.0.0.1:1/orders?sslmode=disable" }
`

func serveWith(t *testing.T, extra string) *served {
	t.Helper()
	file := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, mockKeyConfig, extra), 0o600); err != nil {
		t.Fatal(err)
	}
	return serve(t, "--config", file)
}

// Whoever knows the passwords must not be able to compute a salt: then nobody can find out a password by trying guesses.
func TestSaltsTellNothingOfPasswords(t *testing.T) {
	const name = "nobody-there"
	shown := saltOf(t, serveWith(t, "").listen, name)
	for _, guess := range []string{"", "upstream-hush-hush", `"upstream-hush-hush"`, "users-hush-hush", `"users-hush-hush"`, "app", "orders"} {
		key := hmac.New(sha256.New, []byte(guess))
		key.Write([]byte("weir mock authentication"))
		salt := hmac.New(sha256.New, key.Sum(nil))
		salt.Write([]byte("\x01salt\x00" + name))
		if base64.StdEncoding.EncodeToString(salt.Sum(nil)[:16]) == shown {
			t.Errorf("the salt %s is made of %q", shown, guess)
		}
	}
	if again := saltOf(t, serveWith(t, "").listen, name); again == shown {
		t.Errorf("two processes with the same passwords both show the salt %s", shown)
	}
}

func TestWhoShowsTheSameSalts(t *testing.T) {
	redis := redistest.Start(t)
	fleet := func(name string) string {
		return fmt.Sprintf("fleet: { redis: %q, name: %s }", redis.URL()+"?read_timeout=5s&write_timeout=5s&dial_timeout=5s", name)
	}
	const key, another = `auth: { mock_key: "VCT5N5zN8T1cIzZx3kWmGyQ1" }`, `auth: { mock_key: "another one, which is long too" }`
	tests := map[string]struct {
		one, other string
		same       bool
	}{
		"weirs with the same mock_key":                    {key, key, true},
		"weirs with different ones":                       {key, another, false},
		"weirs of one fleet":                              {fleet("prod"), fleet("prod"), true},
		"weirs of different fleets":                       {fleet("prod"), fleet("test"), false},
		"weirs of a fleet where one has another mock_key": {fleet("prod"), fleet("prod") + "\n" + key, false},
		"weirs that share nothing":                        {"", "", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			one, other := saltOf(t, serveWith(t, test.one).listen, "nobody"), saltOf(t, serveWith(t, test.other).listen, "nobody")
			if (one == other) != test.same {
				t.Errorf("salts %s and %s, want the same: %v", one, other, test.same)
			}
		})
	}
}

// A Redis that comes later, or comes back with another key, decides from then on.
func TestSaltsFollowTheFleet(t *testing.T) {
	redis := redistest.Reserve(t)
	fleet := fmt.Sprintf("fleet: { redis: %q }", redis.URL()+"?read_timeout=5s&write_timeout=5s&dial_timeout=5s")
	one, other := serveWith(t, fleet), serveWith(t, fleet)
	salts := func() []string { return []string{saltOf(t, one.listen, "nobody"), saltOf(t, other.listen, "nobody")} }
	if s := salts(); s[0] == s[1] {
		t.Fatalf("without Redis both show the salt %s", s[0])
	}
	redis.Restart()
	deadline := time.Now().Add(20 * time.Second)
	for s := salts(); s[0] != s[1]; s = salts() {
		if time.Now().After(deadline) {
			t.Fatalf("never the same: %v", slices.Clone(s))
		}
		time.Sleep(20 * time.Millisecond)
	}
}
