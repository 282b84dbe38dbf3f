package config_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirproxy/weir/config"
)

// Who else may read a file with a secret is told, and who may not, not.
func TestFilesThatEverybodyCanRead(t *testing.T) {
	const plain = "users: { app: { password: " + secret + " } }\nresources: { orders: { upstream: 'postgres://app@db/orders?sslmode=verify-full' } }"
	const verifier = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	trusting := func(upstream string) string {
		return "auth: { method: trust }\nresources: { orders: { upstream: \"" + upstream + "\" } }"
	}
	const inFile, file = "is in the file secret, which can be read by every user of this machine (mode 0644)", "holds secrets and can be read by every user of this machine (mode 0644)"
	tests := map[string]struct {
		text    string
		modes   map[string]fs.FileMode // 0600 where nothing is said
		warning string
	}{
		"a password in the configuration":            {plain, map[string]fs.FileMode{"weir.yaml": 0o644}, file},
		"a password in a private configuration":      {plain, nil, ""},
		"a password for the group":                   {plain, map[string]fs.FileMode{"weir.yaml": 0o640}, ""},
		"a verifier in the configuration":            {strings.Replace(plain, secret, "'"+verifier+"'", 1), map[string]fs.FileMode{"weir.yaml": 0o644}, ""},
		"a password in an upstream":                  {trusting("postgres://app:" + secret + "@db/orders?sslmode=verify-full"), map[string]fs.FileMode{"weir.yaml": 0o644}, file},
		"a password among pairs":                     {trusting("host=db password=" + secret + " sslmode=verify-full"), map[string]fs.FileMode{"weir.yaml": 0o644}, file},
		"no password in an upstream":                 {trusting("postgres://app@db/orders?sslmode=verify-full"), map[string]fs.FileMode{"weir.yaml": 0o644}, ""},
		"a token":                                    {trusting("postgres://app@db/orders?sslmode=verify-full") + "\nadmin: { read_token: " + secret + " }", map[string]fs.FileMode{"weir.yaml": 0o644}, file},
		"a mock_key":                                 {"auth: { method: trust, mock_key: " + secret + secret + " }\nresources: { orders: { upstream: 'postgres://db/orders?sslmode=verify-full' } }", map[string]fs.FileMode{"weir.yaml": 0o644}, file},
		"a password of Redis":                        {trusting("postgres://app@db/orders?sslmode=verify-full") + "\nfleet: { redis: 'redis://:" + secret + "@redis/0' }", map[string]fs.FileMode{"weir.yaml": 0o644}, file},
		"a Redis without a password":                 {trusting("postgres://app@db/orders?sslmode=verify-full") + "\nfleet: { redis: 'redis://redis/0' }", map[string]fs.FileMode{"weir.yaml": 0o644}, ""},
		"a secret from the environment":              {trusting("postgres://app:${DB_PASSWORD}@db/orders?sslmode=verify-full"), map[string]fs.FileMode{"weir.yaml": 0o644}, ""},
		"a secret from a file":                       {trusting("postgres://app:${file:secret}@db/orders?sslmode=verify-full"), map[string]fs.FileMode{"secret": 0o644}, inFile},
		"a secret from a private file":               {trusting("postgres://app:${file:secret}@db/orders?sslmode=verify-full"), nil, ""},
		"a password from a file":                     {strings.Replace(plain, secret, `"${file:secret}"`, 1), map[string]fs.FileMode{"secret": 0o644}, inFile},
		"a password of Redis from a file":            {trusting("postgres://app@db/orders?sslmode=verify-full") + "\nfleet: { redis: 'redis://:${file:secret}@redis/0' }", map[string]fs.FileMode{"secret": 0o644}, inFile},
		"a client's key":                             {trusting("postgres://app@db/orders?sslmode=verify-full&sslkey=%s/secret&sslcertmode=disable"), map[string]fs.FileMode{"secret": 0o644}, "/secret, which can be read by every user of this machine (mode 0644)"},
		"a password file that is used":               {trusting("host=db user=app sslmode=verify-full passfile=%s/passfile"), map[string]fs.FileMode{"passfile": 0o644}, "/passfile, which can be read by every user of this machine (mode 0644)"},
		"a password file for others":                 {trusting("host=elsewhere user=app sslmode=verify-full passfile=%s/passfile"), map[string]fs.FileMode{"passfile": 0o644}, ""},
		"a listen address from a file is not secret": {"listen: ${file:address}\n" + trusting("postgres://app@db/orders?sslmode=verify-full"), map[string]fs.FileMode{"address": 0o644}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			text := strings.ReplaceAll(test.text, "%s", dir)
			for file, content := range map[string]string{
				"weir.yaml": text, "secret": secret, "passfile": "db:*:*:app:" + secret + "\n", "address": "127.0.0.1:5",
			} {
				mode := test.modes[file]
				if mode == 0 {
					mode = 0o600
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(filepath.Join(dir, file), mode); err != nil {
					t.Fatal(err)
				}
			}
			_, warnings, err := config.Load(filepath.Join(dir, "weir.yaml"), env)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range warnings {
				if strings.Contains(w.Message, "can be read by") {
					got = append(got, w.String())
				}
			}
			if test.warning == "" && len(got) > 0 || test.warning != "" && (len(got) != 1 || !strings.Contains(got[0], test.warning)) {
				t.Errorf("warnings %q, want %q", got, test.warning)
			}
			if strings.Contains(fmt.Sprint(warnings), secret) {
				t.Errorf("a secret is shown: %v", warnings)
			}
		})
	}
}
