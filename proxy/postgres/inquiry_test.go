package postgres_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// tap is a way to a server on which what clients say is overheard.
type tap struct {
	mu    sync.Mutex
	heard bytes.Buffer
}

// listen starts a tap on the server of a connection URL, and returns that of the tap.
func (p *tap) listen(t *testing.T, dsn string) string {
	t.Helper()
	var running sync.WaitGroup
	return pgtest.Between(t, dsn, &running, func() {}, func(client, server net.Conn) {
		running.Go(func() { _, _ = io.Copy(client, server); client.Close() })
		running.Go(func() { _, _ = io.Copy(io.MultiWriter(server, p), client); server.Close() })
	})
}

func (p *tap) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heard.Write(b)
}

// count counts how often something was said, and forgets all.
func (p *tap) count(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.heard.Reset()
	return bytes.Count(p.heard.Bytes(), []byte(what))
}

const inquiring = "FROM pg_catalog.pg_settings WHERE source"

// What many sessions say alike the server is asked about once, and they all have what they have set.
func TestTheServerIsAskedOnceWhatSetsLeadTo(t *testing.T) {
	pg := pgtest.Shared(t)
	var overheard tap
	w := start(t, settings{servers: 2, upstream: overheard.listen(t, pg.DSNFor(pgserver.Open))})
	direct := pgtest.Connect(t, pg.DSNFor(pgserver.Superuser))
	show := func(c *pgtest.Client, names ...string) string {
		var all []string
		for _, name := range names {
			all = append(all, one(t, c.Query("SHOW "+name)))
		}
		return strings.Join(all, " ")
	}
	extended := func(c *pgtest.Client, sql string) {
		if got := ask(c, parse("", sql), bind("", ""), execute("", 0)); got != "" {
			t.Errorf("%s: %s", sql, got)
		}
	}
	tests := map[string]struct {
		say  func(c *pgtest.Client)
		show []string
		want string
		most int // inquiries of a hundred connections
	}{
		"two plain ones": {func(c *pgtest.Client) {
			c.Query("SET statement_timeout = '5s'")
			c.Query("SET search_path TO pg_catalog, public")
		}, []string{"statement_timeout", "search_path"}, "5s pg_catalog, public", 4},
		"extended": {func(c *pgtest.Client) {
			extended(c, "SET extra_float_digits = 3")
			extended(c, "SET application_name = 'an application'")
		}, []string{"extra_float_digits", "application_name"}, "3 an application", 4},
		"one whose value reads like another's": {func(c *pgtest.Client) {
			c.Query("SET DateStyle = 'German'")
			c.Query("SET DateStyle = 'ISO'")
		}, []string{"DateStyle"}, "ISO, DMY", 4},
		"one that fails": {func(c *pgtest.Client) {
			c.Query("SET statement_timeout = 'never'")
			c.Query("SET lock_timeout = '3s'")
		}, []string{"statement_timeout", "lock_timeout"}, "0 3s", 110},
		"rolled back": {func(c *pgtest.Client) {
			c.Query("BEGIN")
			c.Query("SET lock_timeout = '4s'")
			c.Query("ROLLBACK")
			c.Query("BEGIN; SET lock_timeout = '6s'; ROLLBACK")
		}, []string{"lock_timeout"}, "0", 210},
		"bound, and not executed": {func(c *pgtest.Client) {
			ask(c, parse("", "SET lock_timeout = '3s'"), bind("", ""))
		}, []string{"lock_timeout"}, "0", 110},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			overheard.count("")
			var clients []*pgtest.Client
			for range 100 {
				client := w.client()
				test.say(client)
				clients = append(clients, client)
			}
			for i, client := range clients {
				if got := show(client, test.show...); got != test.want {
					t.Errorf("client %d has %q, want %q", i, got, test.want)
				}
				client.Close()
			}
			if n := overheard.count(inquiring); n < 1 || n > test.most {
				t.Errorf("the server was asked %d times, want 1 to %d", n, test.most)
			}
		})
	}
	t.Run("after the role has changed", func(t *testing.T) {
		user := pgserver.Open.Name
		alter := func(what string) { direct.Query(fmt.Sprintf("ALTER ROLE %s %s", user, what)) }
		alter("SET DateStyle = 'SQL, DMY'")
		alter("SET lock_timeout = '9s'")
		defer alter("RESET ALL")
		changed := start(t, settings{servers: 2, upstream: overheard.listen(t, pg.DSNFor(pgserver.Open))})
		direct.Query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '" + user + "'")
		w.eventually("the server connections are gone", func() bool { return w.servers("idle")+w.servers("used")+w.servers("closing") == 0 })
		for name, w := range map[string]*weir{"of a new weir": changed, "of this one": w} {
			for range 3 {
				c := w.client()
				c.Query("SET statement_timeout = '5s'")
				c.Query("SET search_path TO pg_catalog, public")
				c.Query("SET DateStyle = 'ISO'")
				_, order, _ := strings.Cut(c.Parameters["DateStyle"], ", ") // it stays as the client was told at login
				want := "5s pg_catalog, public ISO, " + order + " 9s"
				if got := show(c, "statement_timeout", "search_path", "DateStyle", "lock_timeout"); got != want {
					t.Errorf("a client %s has %q, want %q", name, got, want)
				}
				c.Close()
			}
		}
	})
}

// However many parameters of its own a session has, none is lost, and none is left to another, when its connection goes to others.
func TestHoweverManyParametersFollowTheSession(t *testing.T) {
	const asked, set = 70, 130
	for _, reset := range []postgres.Reset{postgres.ResetDetected, postgres.ResetAlways} {
		t.Run(string(reset), func(t *testing.T) {
			w := start(t, settings{servers: 1, reset: reset})
			var options, wanted []string
			for i := range asked {
				options = append(options, fmt.Sprintf("-c many.asked%d=a%d", i, i))
			}
			c, other := w.client("options='"+strings.Join(options, " ")+"'"), w.client()
			for i := range set {
				c.Query(fmt.Sprintf("SET many.set%d = 's%d'", i, i))
				wanted = append(wanted, fmt.Sprintf("s%d", i))
			}
			for i := range asked {
				wanted = append(wanted, fmt.Sprintf("a%d", i))
			}
			look := fmt.Sprintf("SELECT concat_ws(' ', (SELECT string_agg(nullif(current_setting('many.set' || i, true), ''), ' ' ORDER BY i) FROM generate_series(0, %d) i),"+
				" (SELECT string_agg(nullif(current_setting('many.asked' || i, true), ''), ' ' ORDER BY i) FROM generate_series(0, %d) i))", set-1, asked-1)
			for range 2 {
				if got := one(t, other.Query(look)); got != "" {
					t.Errorf("another client has %s", got)
				}
				if got, want := one(t, c.Query(look)), strings.Join(wanted, " "); got != want {
					t.Errorf("its own client has %s, want %s", got, want)
				}
			}
			if got := w.pinned(); len(got) != 0 {
				t.Errorf("pinned: %v", got)
			}
		})
	}
}

// What keeps a session on its server connection, for it cannot follow it to another, does so whatever is set next.
func TestAParameterThatCannotFollowKeepsTheConnection(t *testing.T) {
	long := strings.Repeat("x", 7000)
	var much []string // 63 kB
	for i := range 9 {
		much = append(much, fmt.Sprintf("SET kept.much%d = '%s'", i, long))
	}
	tests := map[string]struct {
		before            []string
		keeps, next, undo string
	}{
		"a value that is not ASCII": {nil, "SET kept.one = 'ü'", "SET kept.two = 'y'", "SET kept.one = 'u'"},
		"more than can be moved":    {much, "SET kept.one = '" + long + "'", "SET kept.much0 = '" + long[:6000] + "'", "SET kept.one = 'u'"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := start(t, settings{servers: 2})
			c, other := w.client(), w.client()
			for _, sql := range test.before {
				c.Query(sql)
			}
			pid := backend(t, c)
			for _, sql := range []string{test.keeps, test.next} {
				c.Query(sql)
				want := one(t, c.Query("SELECT md5(current_setting('kept.one'))"))
				if got := backend(t, other); got == pid {
					t.Errorf("behind %.30s another client has its server connection", sql)
				}
				if got := one(t, c.Query("SELECT md5(current_setting('kept.one', true))")); got != want {
					t.Errorf("behind %.30s it is lost", sql)
				}
			}
			if got := w.pinned(); got["set"] != 1 {
				t.Errorf("pinned: %v, want one by set", got)
			}
			c.Query(test.undo)
			w.eventually("it keeps none any more", func() bool { return len(w.pinned()) == 0 })
			if got := one(t, c.Query("SELECT current_setting('kept.one', true)")); got != "u" {
				t.Errorf("it has %s, want u", got)
			}
		})
	}
}
