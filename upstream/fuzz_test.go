package upstream_test

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/upstream"
)

// Whatever is written: nothing panics, weir reads the same settings as pgconn, and without sslmode no host of another machine is
// spoken to without TLS.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"postgres://app:secret@db:5432/orders?sslmode=verify-full", "postgres://a:b@h1:1,h2:2/d?load_balance_hosts=random",
		"host=db user=app password='a \\' b' sslmode = disable", "postgres://app:p?sslmode=disable@db/orders", "postgres:///d?host=/run&hostaddr=",
		"postgres://db/d?ssl=true", "host=a,b hostaddr=10.0.0.1,10.0.0.2", "postgres://[::1]:5/d?%73slmode=disable", "password=x\\", "=", "a='",
	} {
		f.Add(text)
	}
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "PG") {
			f.Setenv(name, "")
		}
	}
	f.Setenv("HOME", f.TempDir())
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "service") || strings.Contains(text, "file") || strings.Contains(text, "ssl") && strings.Contains(text, "cert") {
			return // files of this machine
		}
		u, err := upstream.Parse(text)
		if err != nil {
			return
		}
		keys := slices.Collect(maps.Keys(upstream.Settings(text)))
		keys = append(keys, "host", "port", "user", "password", "database")
		if _, err := pgconn.ParseConfigWithOptions(text, pgconn.ParseConfigOptions{ConnStringAllowedKeys: keys}); err != nil && !blankKey(text) {
			t.Errorf("%q: pgconn reads a setting that weir does not: %v", text, err)
		}
		written := upstream.Settings(text)
		for i, ways := range upstream.Ways(u) {
			if len(ways) == 0 {
				t.Errorf("%q: no way to a host", text)
			}
			if written["sslmode"] != "" || u.Hosts()[i].Local() {
				continue
			}
			for _, w := range ways {
				if w.TLSConfig == nil {
					t.Errorf("%q: %s is spoken to without TLS", text, w.Host)
				}
			}
		}
	})
}

// blankKey says that a key of a URL has blanks around it, which pgconn cuts off.
func blankKey(text string) bool {
	return strings.ContainsAny(text, " \t\n\v\f\r") || strings.Contains(text, "%")
}
