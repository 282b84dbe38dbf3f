package auth_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/weirproxy/weir/auth"
)

const (
	salt16 = "qnYQ/nVCUMEHtqXc+3gAGQ=="
	stored = "VAHkpA5eBU/KERmRG9jLUH0ZjoQriuRCgju8QjAH9Bg="
	server = "LFrgjtpJX9LcQZqh9H1X9P/vK8irtHamvra+GuAHatQ="

	// What PostgreSQL 15.18 keeps in pg_authid.rolpassword of role app with the password "correct horse".
	postgresVerifier = "SCRAM-SHA-256$4096:" + salt16 + "$" + stored + ":" + server
)

func TestParseSecret(t *testing.T) {
	keys := "$" + stored + ":" + server
	tests := map[string]struct {
		secret string
		want   auth.Kind
		err    string // part of the error; empty: none
	}{
		"a verifier of PostgreSQL 15":        {postgresVerifier, auth.Verifier, ""},
		"one iteration":                      {"SCRAM-SHA-256$1:" + salt16 + keys, auth.Verifier, ""},
		"the most iterations":                {"SCRAM-SHA-256$10000000:" + salt16 + keys, auth.Verifier, ""},
		"a salt of one byte":                 {"SCRAM-SHA-256$4096:AA==" + keys, auth.Verifier, ""},
		"the longest salt":                   {"SCRAM-SHA-256$4096:" + strings.Repeat("AAAA", 85) + "AA==" + keys, auth.Verifier, ""},
		"an md5 hash":                        {"md560c92e765d2a0fb692bcb5d483fbea10", auth.MD5Hash, ""},
		"plain text":                         {"correct horse", auth.PlainText, ""},
		"plain text that begins like md5":    {"md5 is old", auth.PlainText, ""},
		"plain text that begins like SCRAM":  {"SCRAM-SHA-256", auth.PlainText, ""},
		"plain text of the length of an md5": {strings.Repeat("x", 35), auth.PlainText, ""},

		"nothing":                     {"", auth.None, "the password is empty: leave it out"},
		"plain text with a NUL":       {"a\x00b", auth.None, "contains a NUL"},
		"an md5 hash in capitals":     {"md560C92E765D2A0FB692BCB5D483FBEA10", auth.None, "expected md5 and 32 digits"},
		"an md5 hash with a letter":   {"md560c92e765d2a0fb692bcb5d483fbea1x", auth.None, "expected md5 and 32 digits"},
		"only the prefix":             {"SCRAM-SHA-256$", auth.None, "a part is missing"},
		"no keys":                     {"SCRAM-SHA-256$4096:" + salt16, auth.None, "a part is missing"},
		"no salt":                     {"SCRAM-SHA-256$4096" + keys, auth.None, "a part is missing"},
		"no ServerKey":                {"SCRAM-SHA-256$4096:" + salt16 + "$" + stored, auth.None, "a part is missing"},
		"no iterations":               {"SCRAM-SHA-256$:" + salt16 + keys, auth.None, "iterations are not a number from 1 to 10000000"},
		"zero iterations":             {"SCRAM-SHA-256$0:" + salt16 + keys, auth.None, "iterations"},
		"negative iterations":         {"SCRAM-SHA-256$-1:" + salt16 + keys, auth.None, "iterations"},
		"a sign":                      {"SCRAM-SHA-256$+4096:" + salt16 + keys, auth.None, "iterations"},
		"a leading zero":              {"SCRAM-SHA-256$04096:" + salt16 + keys, auth.None, "iterations"},
		"one iteration too many":      {"SCRAM-SHA-256$10000001:" + salt16 + keys, auth.None, "iterations"},
		"iterations beyond an int":    {"SCRAM-SHA-256$99999999999999999999:" + salt16 + keys, auth.None, "iterations"},
		"an empty salt":               {"SCRAM-SHA-256$4096:" + keys, auth.None, "salt is not 1 to 256 bytes"},
		"a salt that is not base64":   {"SCRAM-SHA-256$4096:qnYQ*nVC" + keys, auth.None, "salt is not"},
		"a salt without padding":      {"SCRAM-SHA-256$4096:AA" + keys, auth.None, "salt is not"},
		"a salt with a line break":    {"SCRAM-SHA-256$4096:AAAA\nAAAA" + keys, auth.None, "salt is not"},
		"a salt with stray bits":      {"SCRAM-SHA-256$4096:AB==" + keys, auth.None, "salt is not"},
		"a salt one byte too long":    {"SCRAM-SHA-256$4096:" + strings.Repeat("AAAA", 85) + "AAA=" + keys, auth.None, "salt is not"},
		"a salt of a megabyte":        {"SCRAM-SHA-256$4096:" + strings.Repeat("AAAA", 1<<18) + keys, auth.None, "more than 256 bytes"},
		"a short StoredKey":           {"SCRAM-SHA-256$4096:" + salt16 + "$" + salt16 + ":" + server, auth.None, "the StoredKey is not 32 bytes"},
		"a long StoredKey":            {"SCRAM-SHA-256$4096:" + salt16 + "$" + strings.Repeat("AAAA", 11) + ":" + server, auth.None, "the StoredKey is not 32 bytes"},
		"a StoredKey not in base64":   {"SCRAM-SHA-256$4096:" + salt16 + "$*" + stored[1:] + ":" + server, auth.None, "the StoredKey is not"},
		"a short ServerKey":           {"SCRAM-SHA-256$4096:" + salt16 + "$" + stored + ":" + salt16, auth.None, "the ServerKey is not 32 bytes"},
		"something after the secret":  {postgresVerifier + ":x", auth.None, "the ServerKey is not"},
		"a blank after the secret":    {postgresVerifier + " ", auth.None, "the ServerKey is not"},
		"a line break in the secret":  {postgresVerifier + "\n", auth.None, "the ServerKey is not"},
		"another dollar in the keys":  {"SCRAM-SHA-256$4096:" + salt16 + "$$" + stored + ":" + server, auth.None, "the StoredKey is not"},
		"a verifier of another SCRAM": {"SCRAM-SHA-256$4096:" + salt16 + "$" + stored + server, auth.None, "a part is missing"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := auth.ParseSecret(test.secret)
			if got := s.Kind(); got != test.want {
				t.Errorf("kind %v, want %v", got, test.want)
			}
			if test.err == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Fatalf("error %v, want one with %q", err, test.err)
			}
			for _, part := range []string{salt16, stored, server, "60c92e", "60C92E", "a\x00b"} {
				if strings.Contains(err.Error(), part) {
					t.Errorf("error quotes the secret: %v", err)
				}
			}
		})
	}
}

func TestASecretNeverShowsItself(t *testing.T) {
	type user struct {
		Password auth.Secret
		hidden   auth.Secret // fmt calls no method of what it finds in here
	}
	for _, text := range []string{"correct horse", "md560c92e765d2a0fb692bcb5d483fbea10", postgresVerifier} {
		s, err := auth.ParseSecret(text)
		if err != nil {
			t.Fatal(err)
		}
		marshalled, err := json.Marshal(user{s, s})
		if err != nil {
			t.Fatal(err)
		}
		var log strings.Builder
		slog.New(slog.NewTextHandler(&log, nil)).Info("user", "secret", s, "user", user{s, s})
		slog.New(slog.NewJSONHandler(&log, nil)).Info("user", "secret", s, "user", user{s, s})
		shown := []string{fmt.Sprintf("%s %d", auth.NewKey(), auth.NewKey()), s.String(), string(marshalled), log.String()}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			shown = append(shown, fmt.Sprintf(verb, s), fmt.Sprintf(verb, &s), fmt.Sprintf(verb, user{s, s}), fmt.Sprintf(verb, &user{s, s}),
				fmt.Sprintf(verb, map[string]user{"app": {s, s}}))
		}
		for _, got := range shown {
			for _, part := range []string{text, "horse", "60c92e", "36306339", salt16, stored, server, "qnYQ", fmt.Sprintf("%x", text)} {
				if strings.Contains(got, part) {
					t.Errorf("%q shows %q", got, part)
				}
			}
		}
	}
}

func TestASecretCanBeDecoded(t *testing.T) {
	var s auth.Secret
	if err := json.Unmarshal([]byte(`"`+postgresVerifier+`"`), &s); err != nil || s.Kind() != auth.Verifier {
		t.Errorf("kind %v, error %v, want a verifier", s.Kind(), err)
	}
	if err := json.Unmarshal([]byte(`""`), &s); err == nil {
		t.Error("an empty secret was taken")
	}
}

func TestMethods(t *testing.T) {
	kinds := map[auth.Kind]string{auth.None: "", auth.PlainText: "x", auth.MD5Hash: "md560c92e765d2a0fb692bcb5d483fbea10", auth.Verifier: postgresVerifier}
	tests := map[auth.Method]struct {
		config  string // part of Validate's error
		useless map[auth.Kind]string
	}{
		"":            {useless: map[auth.Kind]string{auth.None: "no password", auth.MD5Hash: "scram-sha-256 cannot use"}},
		auth.SCRAM:    {useless: map[auth.Kind]string{auth.None: "no password", auth.MD5Hash: "scram-sha-256 cannot use"}},
		auth.MD5:      {useless: map[auth.Kind]string{auth.None: "no password"}},
		auth.Password: {useless: map[auth.Kind]string{auth.None: "no password"}},
		auth.Trust:    {},
		"ident":       {config: `auth method "ident" is unknown: expected trust, password, md5, scram-sha-256`},
	}
	for method, test := range tests {
		t.Run(string(method), func(t *testing.T) {
			err := auth.Config{Method: method}.Validate()
			_, tableErr := auth.NewUsers(method, auth.NewKey(), nil)
			if test.config != "" {
				for _, err := range []error{err, tableErr, method.Usable(auth.Secret{})} {
					if err == nil || !strings.Contains(err.Error(), test.config) {
						t.Errorf("error %v, want %q", err, test.config)
					}
				}
				return
			}
			if err != nil || tableErr != nil {
				t.Fatalf("errors %v and %v", err, tableErr)
			}
			for kind, text := range kinds {
				var s auth.Secret
				if text != "" {
					s, _ = auth.ParseSecret(text)
				}
				err, want := method.Usable(s), test.useless[kind]
				if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("kind %v: error %v, want %q", kind, err, want)
				}
			}
		})
	}
}

func TestATableNeedsAKey(t *testing.T) {
	if _, err := auth.NewUsers(auth.SCRAM, auth.Key{}, nil); err == nil {
		t.Error("a table was made without a key")
	}
}

func FuzzParseSecret(f *testing.F) {
	for _, seed := range []string{
		"", "correct horse", "md560c92e765d2a0fb692bcb5d483fbea10", "md5", "SCRAM-SHA-256$", postgresVerifier,
		"SCRAM-SHA-256$4096:AA==$" + stored + ":" + server, "SCRAM-SHA-256$:$:", "SCRAM-SHA-256$-9:%$::", "a\x00", "\xff\xfe",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := auth.ParseSecret(text)
		if (err == nil) == (s.Kind() == auth.None) {
			t.Fatalf("kind %v, error %v", s.Kind(), err)
		}
		if secret := strings.TrimPrefix(text, "SCRAM-SHA-256$"); err != nil && len(secret) > 20 && strings.Contains(err.Error(), secret) {
			t.Fatalf("the error quotes the secret: %v", err)
		}
		if s.Kind() == auth.PlainText {
			return // stretching it takes a millisecond and is tested elsewhere
		}
		users, err := auth.NewUsers(auth.MD5, auth.NewKey(), map[string]auth.Secret{"app": s})
		if err != nil {
			t.Fatal(err)
		}
		if _, done, err := users.Begin("app", auth.Binding{}).Start(nil); done || err != nil {
			t.Fatalf("Start: done %v, error %v", done, err)
		}
	})
}
