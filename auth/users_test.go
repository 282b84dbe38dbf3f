package auth_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/auth"
)

// appearance is all that somebody without a password learns about a user: what is asked, how it is put, and the
// refusal. What is random in each exchange is blotted out, and so is the name.
type appearance struct {
	asked, challenged, refused string
	salt                       string
}

// look logs in with a wrong password.
func look(t *testing.T, users *auth.Users, user string) appearance {
	t.Helper()
	x := users.Begin(user, auth.NewBinding(certificate))
	out, _, err := x.Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	var a appearance
	answer := []byte("wrong\x00")
	switch asked := decode(t, out)[0].(type) {
	case *pgproto3.AuthenticationMD5Password:
		a.asked = "md5"
	case *pgproto3.AuthenticationSASL:
		a.asked = strings.Join(asked.AuthMechanisms, " ")
		const first = "n=,r=" + clientNonce
		out, _, err = x.Step(nil, initialResponse("SCRAM-SHA-256", "n,,"+first))
		if err != nil {
			t.Fatal(err)
		}
		challenge := string(decode(t, out)[0].(*pgproto3.AuthenticationSASLContinue).Data)
		nonce, rest, _ := strings.Cut(challenge, ",")
		salt, iterations, _ := strings.Cut(rest, ",")
		a.challenged = fmt.Sprintf("nonce of %d, salt of %d, %s", len(nonce), len(salt), iterations)
		a.salt = salt
		answer = []byte(clientFinal(t, "wrong", "biws", first, challenge))
	default:
		a.asked = fmt.Sprintf("%T", asked)
	}
	out, done, err := x.Step(nil, answer)
	failure, ok := errors.AsType[*auth.Failure](err)
	if done || !ok || len(out) != 0 {
		t.Fatalf("%s: done %v, error %v, said %q", user, done, err, out)
	}
	a.refused = strings.ReplaceAll(failure.Code+failure.Message+failure.Detail, `"`+user+`"`, "NAME")
	return a
}

func TestUnknownUsersLookLikeKnownOnes(t *testing.T) {
	long := bytes.Repeat([]byte("salt"), 20)
	tests := map[string]struct {
		method  auth.Method
		secrets map[string]string
	}{
		"SCRAM verifiers of PostgreSQL":   {auth.SCRAM, map[string]string{"known": postgresVerifier}},
		"SCRAM verifiers of another kind": {auth.SCRAM, map[string]string{"known": verifier(t, "x", long, 7)}},
		"SCRAM from plain text":           {auth.SCRAM, map[string]string{"known": "correct horse"}},
		"SCRAM and useless md5 hashes":    {auth.SCRAM, map[string]string{"known": "md560c92e765d2a0fb692bcb5d483fbea10"}},
		"SCRAM and no password":           {auth.SCRAM, map[string]string{"known": ""}},
		"SCRAM, useless beside useful": {auth.SCRAM, map[string]string{
			"known": "", "other": verifier(t, "x", long, 7),
		}},
		"md5 hashes":          {auth.MD5, map[string]string{"known": "md560c92e765d2a0fb692bcb5d483fbea10"}},
		"md5 from plain text": {auth.MD5, map[string]string{"known": "correct horse"}},
		"md5 and verifiers":   {auth.MD5, map[string]string{"known": verifier(t, "x", long, 7)}},
		"md5, no password":    {auth.MD5, map[string]string{"known": ""}},
		"password, verifiers": {auth.Password, map[string]string{"known": verifier(t, "x", long, 7)}},
		"password, md5 hash":  {auth.Password, map[string]string{"known": "md560c92e765d2a0fb692bcb5d483fbea10"}},
		"password, plain":     {auth.Password, map[string]string{"known": "correct horse"}},
		"password, none":      {auth.Password, map[string]string{"known": ""}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			users := usersOf(t, test.method, auth.NewKey(), test.secrets)
			known, unknown := look(t, users, "known"), look(t, users, "unknown")
			known.salt, unknown.salt = "", ""
			if known != unknown {
				t.Errorf("known   %+v\nunknown %+v", known, unknown)
			}
		})
	}
}

func TestSaltsOfUnknownUsers(t *testing.T) {
	key := auth.NewKey()
	users := usersOf(t, auth.SCRAM, key, map[string]string{"app": postgresVerifier})
	reloaded := usersOf(t, auth.SCRAM, key, map[string]string{"app": postgresVerifier, "plain": "correct horse"})
	restarted := usersOf(t, auth.SCRAM, auth.NewKey(), map[string]string{"app": postgresVerifier})
	first := look(t, users, "nobody")

	if again := look(t, users, "nobody"); again != first {
		t.Errorf("another salt the second time: %+v, then %+v", first, again)
	}
	if again := look(t, reloaded, "nobody"); again != first {
		t.Errorf("another salt after a reload: %+v, then %+v", first, again)
	}
	if other := look(t, users, "somebody"); other.salt == first.salt {
		t.Errorf("two users share the salt %s", first.salt)
	}
	if other := look(t, restarted, "nobody"); other.salt == first.salt {
		t.Errorf("two processes share the salt %s", first.salt)
	}
	// A user of plain text has the salt that the name would have anyway: adding or removing it is not seen.
	if before, after := look(t, users, "plain"), look(t, reloaded, "plain"); before != after {
		t.Errorf("adding a user of plain text shows: %+v, then %+v", before, after)
	}
}

func TestWeirsThatShareAKeyShareTheirSalts(t *testing.T) {
	salt := func(key auth.Key) string { return look(t, usersOf(t, auth.SCRAM, key, nil), "nobody").salt }
	one := salt(auth.KeyFrom([]byte("secret")))
	if other := salt(auth.KeyFrom([]byte("secret"))); other != one {
		t.Errorf("salts %s and %s of one secret", one, other)
	}
	if other := salt(auth.KeyFrom([]byte("another"))); other == one {
		t.Errorf("two secrets give the salt %s", one)
	}
	if random, other := salt(auth.KeyFrom(nil)), salt(auth.KeyFrom(nil)); random == other {
		t.Error("no secret gives a key that is not random")
	}
}

// A table of users with different secrets: unknown names are spread over what there is, and each stays what it is.
func TestUnknownUsersAreAsMixedAsKnownOnes(t *testing.T) {
	const names = 1000
	hash := "md560c92e765d2a0fb692bcb5d483fbea10"
	secrets := map[string]string{"a": hash, "b": hash, "c": verifier(t, "x", []byte("0123456789abcdef"), 3), "d": verifier(t, "x", []byte("01234567"), 5)}
	users := usersOf(t, auth.MD5, auth.NewKey(), secrets)
	count := map[string]int{}
	for i := range names {
		a := look(t, users, fmt.Sprintf("nobody%d", i))
		count[a.asked+a.challenged]++
		if i < 10 {
			if again := look(t, users, fmt.Sprintf("nobody%d", i)); again != a {
				t.Errorf("nobody%d changes from %+v to %+v", i, a, again)
			}
		}
	}
	if len(count) != 3 {
		t.Fatalf("appearances %v, want three", count)
	}
	for user, share := range map[string]int{"a": 2, "c": 1, "d": 1} {
		a := look(t, users, user)
		want := names * share / len(secrets)
		if got := count[a.asked+a.challenged]; got < want*3/4 || got > want*5/4 {
			t.Errorf("%d unknown users look like %s, want about %d", got, user, want)
		}
	}
}

// The mock secret cannot be guessed by who knows the salt: not even the right answer to it would be let in, because the
// exchange is doomed. This is the nearest there is to one: the secret of a user who has just been removed.
func TestARemovedUserIsRefused(t *testing.T) {
	key := auth.NewKey()
	before := usersOf(t, auth.SCRAM, key, map[string]string{"plain": "correct horse"})
	after := usersOf(t, auth.SCRAM, key, nil)
	const first = "n=,r=" + clientNonce
	for users, want := range map[*auth.Users]auth.Failure{before: {}, after: denied("plain", "there is no such user")} {
		x := users.Begin("plain", auth.Binding{})
		if _, _, err := x.Start(nil); err != nil {
			t.Fatal(err)
		}
		out, _, err := x.Step(nil, initialResponse("SCRAM-SHA-256", "n,,"+first))
		if err != nil {
			t.Fatal(err)
		}
		challenge := string(decode(t, out)[0].(*pgproto3.AuthenticationSASLContinue).Data)
		runs(t, x, [][]byte{[]byte(clientFinal(t, "correct horse", "biws", first, challenge))}, want)
	}
}

func TestNoncesAreNotRepeated(t *testing.T) {
	users := usersOf(t, auth.SCRAM, auth.NewKey(), map[string]string{"app": postgresVerifier})
	seen := map[string]bool{}
	for range 100 {
		x := users.Begin("app", auth.Binding{})
		if _, _, err := x.Start(nil); err != nil {
			t.Fatal(err)
		}
		out, _, err := x.Step(nil, initialResponse("SCRAM-SHA-256", "n,,n=,r=x"))
		if err != nil {
			t.Fatal(err)
		}
		challenge := string(decode(t, out)[0].(*pgproto3.AuthenticationSASLContinue).Data)
		nonce, _, _ := strings.Cut(challenge, ",")
		if seen[nonce] || len(nonce) != len("r=x")+24 {
			t.Fatalf("nonce %q", nonce)
		}
		seen[nonce] = true
	}
}
