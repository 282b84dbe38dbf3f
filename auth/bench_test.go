package auth_test

import (
	"testing"

	"github.com/weirproxy/weir/auth"
)

// scramLogin is the server's part of one SCRAM login with a verifier, from the startup packet to AuthenticationOk.
func scramLogin(tb testing.TB, secret, user string) (login func()) {
	tb.Helper()
	const first = "n=,r=" + clientNonce
	binding := auth.NewBinding(certificate)
	users := usersOf(tb, auth.SCRAM, auth.NewKey(), map[string]string{"app": secret})
	initial := initialResponse("SCRAM-SHA-256", "n,,"+first)
	final := []byte(clientFinal(tb, "correct horse", "biws", first, "r="+clientNonce+serverNonce+",s="+salt16+",i=4096"))
	out := make([]byte, 0, 512)
	return func() {
		x := users.Begin(user, binding)
		out, _, err := x.Start(out[:0])
		if err != nil {
			tb.Fatal(err)
		}
		x.SetServerNonce(serverNonce)
		if out, _, err = x.Step(out[:0], initial); err != nil {
			tb.Fatal(err)
		}
		if _, done, err := x.Step(out[:0], final); done != (user == "app") {
			tb.Fatal(err)
		}
	}
}

func BenchmarkSCRAMLogin(b *testing.B) {
	for name, user := range map[string]string{"known": "app", "unknown": "nobody"} {
		b.Run(name, func(b *testing.B) {
			login := scramLogin(b, postgresVerifier, user)
			b.ReportAllocs()
			for b.Loop() {
				login()
			}
		})
	}
}

// A storm of functions is a storm of logins. Most of these are the library's HMAC; all of them together are microseconds.
func TestASCRAMLoginAllocatesLittle(t *testing.T) {
	const most = 50
	if got := testing.AllocsPerRun(100, scramLogin(t, postgresVerifier, "app")); got > most {
		t.Errorf("a login allocates %v times, want at most %d", got, most)
	}
}

// What plain text costs: once per user at load with SCRAM, and per login where a password meets a verifier.
func BenchmarkUsersOfPlainText(b *testing.B) {
	secret, err := auth.ParseSecret("correct horse")
	if err != nil {
		b.Fatal(err)
	}
	key := auth.NewKey()
	for b.Loop() {
		if _, err := auth.NewUsers(auth.SCRAM, key, map[string]auth.Secret{"app": secret}); err != nil {
			b.Fatal(err)
		}
	}
}
