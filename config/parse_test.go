package config_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/internal/certs"
	"github.com/weirproxy/weir/pool"
)

func parse(text string) (*config.Config, config.Problems, error) {
	return config.Parse([]byte(text), config.Source{File: "weir.yaml", Env: env})
}

const oneResource = "\nresources: { orders: { upstream: postgres://app@db/orders } }\n"

// What is put into a DSN as its password must come out of it as its password.
func TestPasswordsFitTheirDSN(t *testing.T) {
	passwords := []string{
		"plain", "p@ss", "a/b", "a?b", "a#b", "a:b", "100%sure", "ends%", "with blank", "it's", `back\slash`, `both\'`, "ümlaut", "[x]", "a&b=c", "new\nline", "a+b",
		"$$", "${NOT_AGAIN}",
	}
	for _, template := range []string{
		`"postgres://app:${PW}@db:5432/orders?sslmode=disable"`,
		`"host=db user=app password=${PW} dbname=orders"`,
		`"host=db user=app password='${PW}' dbname=orders"`,
		`"host=db password = ${PW}"`,
	} {
		for _, password := range passwords {
			cfg, _, err := config.Parse([]byte("auth: { method: trust }\nresources: { orders: { upstream: "+template+" } }"), config.Source{
				File: "weir.yaml",
				Env:  func(string) (string, bool) { return password, true },
			})
			if err != nil {
				t.Errorf("%s with %q: %v", template, password, err)
				continue
			}
			got, err := pgconn.ParseConfig(cfg.Resources["orders"].Upstream.Reveal())
			if err != nil || got.Password != password || got.Host != "db" {
				t.Errorf("%s with %q: the password has become %q at host %s (%v)", template, password, got.Password, got.Host, err)
			}
		}
	}
}

// A value is what it is: whoever has it percent-encoded in the environment is told.
func TestPasswordsAreTakenAsTheyAre(t *testing.T) {
	cfg, warnings, err := config.Parse([]byte("auth: { method: trust }\nresources: { orders: { upstream: \"postgres://app:${PW}@db/orders?sslmode=verify-full\" } }"), config.Source{
		Env: func(string) (string, bool) { return "p%40ss", true },
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pgconn.ParseConfig(cfg.Resources["orders"].Upstream.Reveal()); err != nil || got.Password != "p%40ss" {
		t.Errorf("the password has become %q (%v)", got.Password, err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings.Error(), "looks as if it had been percent-encoded") || strings.Contains(warnings.Error(), "p%40") {
		t.Errorf("warnings %v", warnings)
	}
}

func TestEmptyPasswordDoesNotSwallowTheNextPair(t *testing.T) {
	cfg, _, err := parse("auth: { method: trust }\nresources: { orders: { upstream: \"password=${EMPTY} host=db user=app\" } }")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pgconn.ParseConfig(cfg.Resources["orders"].Upstream.Reveal()); err != nil || got.Password != "" || got.Host != "db" {
		t.Errorf("host %q, password %q (%v)", got.Host, got.Password, err)
	}
}

func TestExpansion(t *testing.T) {
	file := func(path string) ([]byte, error) {
		content, ok := map[string]string{
			"/run/secrets/app": "from a file\r\n\n",
			"etc/relative":     "beside the configuration",
			"/run/secrets/var": "${TOKEN}",
		}[path]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return []byte(content), nil
	}
	for value, want := range map[string]string{
		"${TOKEN}":                 secret,
		"a${TOKEN}b${TOKEN}":       "a" + secret + "b" + secret,
		"${file:/run/secrets/app}": "from a file",
		"${file:relative}":         "beside the configuration",
		"${file:/run/secrets/var}": "${TOKEN}",
		"x${EMPTY}y":               "xy",
		"$$":                       "$",
		"$${TOKEN}":                "${TOKEN}",
		"$$$${TOKEN}":              "$${TOKEN}",
		"$TOKEN $4096:salt$key $":  "$TOKEN $4096:salt$key $",
		"SCRAM-SHA-1$4096:s$a:b":   "SCRAM-SHA-1$4096:s$a:b",
		"100$":                     "100$",
	} {
		cfg, _, err := config.Parse([]byte("auth: { method: trust }\nusers: { app: { password: '"+value+"' } }"+oneResource),
			config.Source{File: "etc/weir.yaml", Env: env, ReadFile: file})
		if err != nil {
			t.Errorf("%s: %v", value, err)
		} else if got := cfg.Users["app"].Password.Reveal(); got != want {
			t.Errorf("%s has become %q, want %q", value, got, want)
		}
	}
}

func TestFilesThatWouldBlockOrNeverEndAreRefused(t *testing.T) {
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 10<<20); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/dev/zero": "is not a regular file", "/dev/stdin": "cannot be read", "/": "is not a regular file", large: "is larger than 1 MiB",
	} {
		_, _, err := parse("auth: { method: trust }\nusers: { app: { password: '${file:" + path + "}' } }" + oneResource)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want that it %s", path, err, want)
		}
	}
}

func TestWhatIsNotAConfigurationAtAll(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"nothing":             {"", "weir.yaml: is empty"},
		"blanks":              {" \n \n", "weir.yaml: is empty"},
		"null":                {"~\n", "weir.yaml: is empty"},
		"ten megabytes":       {strings.Repeat("# storm\n", 10<<17), "weir.yaml: is larger than 1 MiB"},
		"latin 1":             {"listen: 127.0.0.1:1\nadmin: caf\xe9\n", "weir.yaml:2:11: is not UTF-8"},
		"UTF-16":              {"\xff\xfel\x00i\x00", "weir.yaml:1:1: is not UTF-8 but UTF-16"},
		"a NUL":               {"listen: \x00\n", "weir.yaml:1:9: holds the control character U+0000"},
		"an escape":           {"listen: x\x1b[31m\n", "weir.yaml:1:10: holds the control character U+001B"},
		"a tab":               {"auth:\n\n\tmethod: trust\n", "weir.yaml:3:1: a tab is used for indentation"},
		"blanks and a tab":    {"auth:\n  \tmethod: trust\n", "weir.yaml:2:3: a tab is used for indentation"},
		"deep lists":          {"a: " + strings.Repeat("[", 5000), "weir.yaml:1:36: is nested too deeply"},
		"deep sections":       {"a: " + strings.Repeat("{a: ", 5000), "is nested too deeply"},
		"deep dashes":         {strings.Repeat("- ", 5000), "is nested too deeply"},
		"countless keys":      {strings.Repeat("k:\n", 21000), "at most 32 levels and 20000 keys"},
		"countless anchors":   {strings.Repeat("- &a b\n", 5000), "anchors"},
		"a bomb":              {"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "weir.yaml:1:4: YAML anchors (&) are not supported"},
		"a merge":             {"resources:\n  a: { <<: { upstream: x } }\n", "weir.yaml:2:8: YAML merge keys (<<) are not supported"},
		"two documents":       {"listen: 127.0.0.1:1\n---\nadmin: x\n", "more than one YAML document"},
		"JSON cut off":        {`{"listen": "127.0.0.1:1"`, "is never closed"},
		"a directory listing": {"total 8\ndrwxr-xr-x 2 root\n", "is text; expected a section with listen"},
		"a shell script":      {"#!/bin/sh\nset -e\nexec weir serve\n", "is text; expected a section with listen"},
		"an INI file":         {"[databases]\norders = host=db\n", "weir.yaml:"},
		"a private key":       {"-----BEGIN PRIVATE KEY-----\nMIIE\n", "weir.yaml:1:1"},
	} {
		cfg, _, err := parse(test.text)
		var problems config.Problems
		if cfg != nil || !errors.As(err, &problems) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
		if len(problems) > 30 {
			t.Errorf("%s: %d problems are too many to read", name, len(problems))
		}
	}
}

func TestWhatAConfigurationMayBeginAndEndWith(t *testing.T) {
	body := "auth: { method: trust }" + oneResource
	for name, text := range map[string]string{
		"byte order mark": "\xef\xbb\xbf" + body,
		"document marker": "---\n" + body,
		"document end":    body + "...\n",
		"no last newline": strings.TrimSuffix(body, "\n"),
		"CRLF":            strings.ReplaceAll(body, "\n", "\r\n"),
		"comments":        "# first\n\t# tab before a comment\n\t\n" + body + "# last",
		"JSON":            `{"auth": {"method": "trust"}, "resources": {"orders": {"upstream": "postgres://app@db/orders", "connections": 5}}}`,
	} {
		cfg, _, err := parse(text)
		if err != nil || cfg.Resources["orders"].Upstream.IsZero() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLoadOfWhatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(dir, "none.yaml"): "none.yaml: open: no such file or directory",
		dir:                             "is a directory",
	} {
		_, _, err := config.Load(path, env)
		var problems config.Problems
		if !errors.As(err, &problems) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", path, err, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, test := range []struct{ listen, admin, want string }{
		{"0.0.0.0:6432", "127.0.0.1:8432", ""},
		{"[::]:6432", "[::1]:8432", ""},
		{":6432", "localhost:8432", ""},
		{"127.0.0.1:0", "127.0.0.1:0", ""},
		{"weir.internal:6432", "127.0.0.1:6433", ""},
		{"10.0.0.1:6432", "127.0.0.1:6432", ""},
		{"0.0.0.0:6432", "127.0.0.1:6432", "the address of listen as well"},
		{"[::]:6432", "127.0.0.1:6432", "the address of listen as well"},
		{"localhost:6432", "127.0.0.1:6432", "the address of listen as well"},
		{"127.0.0.1:8432", "127.0.0.1:8432", "the address of listen as well"},
		{"127.0.0.1", "127.0.0.1:8432", "listen: \"127.0.0.1\" is not an address"},
		{"::1:6432", "127.0.0.1:8432", "listen: \"::1:6432\" is not an address"},
		{"127.0.0.1:postgres", "127.0.0.1:8432", "has no usable port"},
		{"127.0.0.1:06432", "127.0.0.1:8432", "has no usable port"},
		{"127.0.0.1:", "127.0.0.1:8432", "has no usable port"},
		{"/run/weir:1", "127.0.0.1:8432", "has no usable host"},
		{"127.0.0.1:6432", "0.0.0.0:8432", "can be reached from other machines, and there is no token"},
		{"127.0.0.1:6432", ":8432", "can be reached from other machines, and there is no token"},
		{"127.0.0.1:6432", "weir.internal:8432", "can be reached from other machines, and there is no token"},
	} {
		_, _, err := parse("listen: '" + test.listen + "'\nadmin: '" + test.admin + "'\nauth: { method: trust }" + oneResource)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("listen %s, admin %s: got %v, want %q", test.listen, test.admin, err, test.want)
		}
	}
	if _, _, err := parse("listen: 127.0.0.1:8432\nauth: { method: trust }" + oneResource); err == nil ||
		!strings.Contains(err.Error(), "weir.yaml:1:9: listen: \"127.0.0.1:8432\" is the address of admin.listen as well") {
		t.Errorf("listen on the admin listener's default: %v", err)
	}
}

func TestTokens(t *testing.T) {
	for admin, want := range map[string]string{
		`{ listen: "0.0.0.0:8432", read_token: "${TOKEN}" }`:                            "",
		`{ listen: "0.0.0.0:8432", write_token: "${TOKEN}" }`:                           "",
		`{ listen: "127.0.0.1:8432", read_token: "${TOKEN}", write_token: "${TOKEN}" }`: "admin.write_token: is the same as read_token",
		`{ listen: "0.0.0.0:8432", read_token: "${UNSET}" }`:                            "UNSET is not set",
		`{ listen: "0.0.0.0:8432", read_token: "${TOKEN}", write_token: "${EMPTY}" }`:   "admin.write_token: is empty",
	} {
		_, _, err := parse("admin: " + admin + "\nauth: { method: trust }" + oneResource)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Count(err.Error(), "\n") > 0) {
			t.Errorf("%s: got %v, want %q", admin, err, want)
		}
	}
}

func TestTLSFiles(t *testing.T) {
	ca, err := certs.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue(certs.Request{Hosts: []string{"weir"}})
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey, err := ca.Issue(certs.Request{Hosts: []string{"other"}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{"server.crt": cert, "server.key": key, "other.key": otherKey, "ca.crt": cert, "ca.txt": []byte("no certificate")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for tls, want := range map[string]string{
		"{ mode: disable }":                                                           "",
		"{ mode: disable, cert: none.crt }":                                           "",
		"{ mode: prefer, cert: server.crt, key: server.key }":                         "",
		"{ mode: require, cert: " + dir + "/server.crt, key: server.key }":            "",
		"{ mode: verify-ca, cert: server.crt, key: server.key, client_ca: ca.crt }":   "",
		"{ mode: prefer, cert: server.crt }":                                          "tls.key: is missing",
		"{ cert: server.crt, key: server.key }":                                       "tls.mode: is missing",
		"{ mode: on, cert: server.crt, key: server.key }":                             `tls.mode: "on" is unknown`,
		"{ mode: prefer, cert: none.crt, key: server.key }":                           "none.crt\" cannot be read",
		"{ mode: prefer, cert: server.crt, key: other.key }":                          "tls.cert: does not make a pair with tls.key: private key does not match public key",
		"{ mode: verify-full, cert: server.crt, key: server.key }":                    "tls.client_ca: is missing, but tls.mode verify-full needs it",
		"{ mode: verify-full, cert: server.crt, key: server.key, client_ca: ca.txt }": "tls.client_ca: holds no certificate",
	} {
		file := filepath.Join(dir, "weir.yaml")
		if err := os.WriteFile(file, []byte("tls: "+tls+"\nauth: { method: trust }"+oneResource), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, _, err := config.Load(file, env)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", tls, err, want)
		}
		if cfg != nil && cfg.TLS.Key != "" && cfg.TLS.Key != filepath.Join(dir, "server.key") {
			t.Errorf("%s: the key is looked for in %s", tls, cfg.TLS.Key)
		}
	}
}

func TestFromUpstream(t *testing.T) {
	cfg, _, err := config.FromUpstream(config.CommandLine, "postgres://app:"+secret+"@db/orders")
	if err != nil {
		t.Fatal(err)
	}
	orders, ok := cfg.Resources["orders"]
	if !ok || orders.Connections != 20 || orders.Upstream.Reveal() == "" || orders.Breaker.Failures != 3 {
		t.Errorf("resources are %v", cfg.Resources)
	}
	if cfg.Auth.Method != config.AuthTrust || cfg.Listen != "127.0.0.1:6432" {
		t.Errorf("%s on %s", cfg.Auth.Method, cfg.Listen)
	}
	for dsn, want := range map[string]string{
		"postgres://app:" + secret + "@db":      "app",
		"host=db user=app dbname=b":             "b",
		"mysql://app:" + secret + "@db/orders":  "",
		secret:                                  "",
		"postgres://app:" + secret + "@db:x/o":  "",
		"postgres://app:" + secret + "@db/weir": "",
	} {
		cfg, _, err := config.FromUpstream(config.CommandLine, dsn)
		if want == "" {
			var problems config.Problems
			if !errors.As(err, &problems) || strings.Contains(err.Error(), secret) || !strings.HasPrefix(err.Error(), "--upstream: ") {
				t.Errorf("%s: got %v", dsn, err)
			}
			continue
		}
		if _, ok := cfg.Resources[want]; err != nil || !ok {
			t.Errorf("%s: got %v, %v", dsn, cfg, err)
		}
	}
}

func TestTimeoutsThatAreOffNeverCome(t *testing.T) {
	cfg, _, err := parse("auth: { method: trust }\nresources: { orders: { upstream: postgres://app@db/orders, timeouts: { server_lifetime: 0s, server_idle: 0 } } }")
	if err != nil {
		t.Fatal(err)
	}
	want := pool.Config{Connections: 20, Connect: 5 * time.Second, ServerLifetime: pool.Never, ServerIdle: pool.Never}
	if got := cfg.Resources["orders"].Pool(); got != want || got.WithDefaults() != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestDefaultsOfWhatIsWrittenInPart(t *testing.T) {
	cfg, _, err := parse(`
auth: { method: trust }
fleet: { redis: redis://redis }
resources:
  orders:
    upstream: postgres://app@db/orders
    rate: { per_second: 0.5 }
    adaptive: {}
    callers: [{ name: a, match: { user: a }, rate: { per_second: 10.2 } }]
    breaker: { failures: 7 }
    queue: { length: 9 }
    timeouts: { query: 1s }
`)
	if err != nil {
		t.Fatal(err)
	}
	r := cfg.Resources["orders"]
	if r.Rate.Burst != 1 || r.Rate.Mode != "enforce" || r.Callers[0].Rate.Burst != 11 || r.Callers[0].Weight != 1 || r.Callers[0].Priority != "normal" {
		t.Errorf("rate %+v, caller %+v with %+v", *r.Rate, r.Callers[0], *r.Callers[0].Rate)
	}
	if !r.Adaptive.Enabled || r.Adaptive.Min != 4 || r.Breaker.Failures != 7 || r.Breaker.Ratio != 0.5 || r.Queue.Wait != 2*time.Second || r.Queue.Length != 9 {
		t.Errorf("adaptive %+v, breaker %+v, queue %+v", *r.Adaptive, r.Breaker, r.Queue)
	}
	if r.Timeouts.Query != time.Second || r.Timeouts.IdleInTransaction != time.Minute || cfg.Fleet.Name != "default" {
		t.Errorf("timeouts %+v, fleet %v", r.Timeouts, cfg.Fleet)
	}
}

func TestRedisURLs(t *testing.T) {
	for url, want := range map[string]string{
		"redis://redis":                               "",
		"redis://:pw@redis:6379/3":                    "",
		"rediss://u:pw@redis:6379?dial_timeout=100ms": "",
		"redis+sentinel://a:26379,b:26379/mymaster/2": "",
		"rediss+cluster://a:1,b:2,c:3":                "",
		"redis://a:1,b:2":                             "names several hosts",
		"redis://a:1,:2":                              "names no host",
		"redis:///0":                                  "names no host",
		"redis+sentinel://a:26379":                    "names no master",
		"redis+sentinel://a:26379/mymaster/x":         "a database that is not a number",
		"redis+cluster://a:1/3":                       "which a cluster does not have",
		"redis://a/-1":                                "a database that is not a number",
		"redis://u:12/" + secret + "@a/0":             "must be percent-encoded",
		"redis://a?" + secret + "=1":                  "has an unknown parameter",
		"redis://a?dial_timeout=" + secret:            "has a dial_timeout that is not a duration",
		"http://a":                                    "has a scheme that is not Redis'",
		"localhost:6379":                              "has a scheme that is not Redis'",
	} {
		_, _, err := parse("fleet: { redis: '" + url + "' }\nauth: { method: trust }" + oneResource)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret)) {
			t.Errorf("%s: got %v, want %q", url, err, want)
		}
	}
}
