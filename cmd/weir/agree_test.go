package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/certs"
)

// What weir check calls fine weir serve serves, and what the one refuses the other does.
func TestCheckAndServeAgree(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"server", "other"} {
		authority, err := certs.NewAuthority(name)
		if err != nil {
			t.Fatal(err)
		}
		cert, key, err := authority.Issue(certs.Request{CommonName: name, Hosts: []string{"127.0.0.1"}})
		if err != nil {
			t.Fatal(err)
		}
		write(name+".crt", cert)
		write(name+".key", key)
		write(name+".ca", authority.PEM)
	}
	write("garbage.pem", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))

	const (
		salt  = "c2FsdHNhbHRzYWx0c2FsdA=="
		key   = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
		redis = "127.0.0.1:1"
	)
	verifier := func(iterations, salt, stored, server string) string {
		return fmt.Sprintf("users: { app: { password: '"+"SCRAM-SHA-256$%s:%s$%s:%s' } }", iterations, salt, stored, server)
	}
	user := func(password string) string { return "users: { app: { password: " + password + " } }" }
	method := func(name, users string) string { return "auth: { method: " + name + " }\n" + users }
	upstream := func(dsn string) string {
		return "auth: { method: trust }\nresources: { orders: { upstream: \"" + dsn + "\" } }"
	}
	tls := func(mode, cert, key, ca string) string {
		return fmt.Sprintf("auth: { method: trust }\ntls: { mode: %s, cert: %s, key: %s%s }", mode, cert, key, ca)
	}
	tests := map[string]bool{
		// users and their passwords
		"":                                                      false, // scram-sha-256 without users
		"auth: { method: trust }":                               true,
		method("trust", "users: { app: {} }"):                   true,
		method("trust", "users: {}"):                            true,
		method("trust", user("x")):                              true,
		method("trust", user("md5xyz")):                         true,
		method("scram-sha-256", "users: { app: {} }"):           false,
		method("scram-sha-256", "users: {}"):                    false,
		method("password", user("x")):                           true,
		method("md5", user("x")):                                true,
		user(`"a\0b"`):                                          false,
		user(`""`):                                              false,
		user("md5" + strings.Repeat("0", 32)):                   false,
		user("md5" + strings.Repeat("A", 32)):                   false,
		user("md5" + strings.Repeat("0", 31)):                   true, // is a password
		method("md5", user("md5"+strings.Repeat("0", 32))):      true,
		method("md5", user("md5"+strings.Repeat("A", 32))):      false,
		method("trust", user("md5"+strings.Repeat("A", 32))):    false,
		method("password", user("md5"+strings.Repeat("0", 32))): true,
		verifier("4096", salt, key, key):                        true,
		method("password", verifier("4096", salt, key, key)):    true,
		method("md5", verifier("4096", salt, key, key)):         false,
		method("trust", verifier("0", salt, key, key)):          false,
		verifier("0", salt, key, key):                           false,
		verifier("-1", salt, key, key):                          false,
		verifier("+5", salt, key, key):                          false,
		verifier("04096", salt, key, key):                       false,
		verifier("10000000", salt, key, key):                    true,
		verifier("10000001", salt, key, key):                    false,
		verifier("99999999999", salt, key, key):                 false,
		verifier("4096", "", key, key):                          false,
		verifier("4096", "c2Fsd", key, key):                     false,
		verifier("4096", "AB==", key, key):                      false, // bits that are none
		verifier("4096", strings.Repeat("AAAA", 100), key, key): false,
		verifier("4096", salt, "AAAA", key):                     false,
		verifier("4096", salt, key, ""):                         false,
		"auth: { method: trust }\nadmin_users: [nobody]":        true,
		user("x") + "\nadmin_users: [nobody]":                   false,
		"auth: { method: none }":                                false,
		"auth: { mock_key: short }\n" + user("x"):               true,
		"auth: { mock_key: same }\n" + user("same"):             false,
		"auth: { mock_key: upstream-secret }\n" + user("x") + "\nresources: { orders: { upstream: 'postgres://app:upstream-secret@127.0.0.1:1/x?sslmode=disable' } }": false,
		// upstreams
		upstream("postgres://app@127.0.0.1:1/orders"):                                  true,
		upstream("postgres://app@127.0.0.1:1/orders?keepalives_idle=30"):               true,
		upstream("postgres://app@127.0.0.1:1/orders?keepalives_idle=soon"):             false,
		upstream("postgres://app@127.0.0.1:1/orders?pgbouncer=true"):                   false,
		upstream("postgres://app@127.0.0.1:1/orders?hostaddr=here"):                    false,
		upstream("postgres://app@127.0.0.1:1/orders?sslmode=perhaps"):                  false,
		upstream("postgres://app@127.0.0.1:1/orders?sslrootcert=gone"):                 false,
		upstream("postgres://app@127.0.0.1:1/orders?require_auth=maybe"):               false,
		upstream("postgres://app@127.0.0.1:1/orders?target_session_attrs=any"):         true,
		upstream("postgres://app@127.0.0.1:1/orders?target_session_attrs=read-write"):  true,
		upstream("postgres://app@127.0.0.1:1/orders?target_session_attrs=best"):        false,
		upstream("host=a,b port=1,2,3"):                                                false,
		upstream("mysql://app@127.0.0.1/orders"):                                       false,
		"auth: { method: trust }\nresources: {}":                                       false,
		"auth: { method: trust }\nresources: { weir: { upstream: 'host=127.0.0.1' } }": false,
		// certificates
		tls("prefer", "server.crt", "server.key", ""):                            true,
		tls("prefer", "server.crt", "other.key", ""):                             false,
		tls("prefer", "server.key", "server.crt", ""):                            false,
		tls("prefer", "gone.crt", "server.key", ""):                              false,
		tls("prefer", "garbage.pem", "server.key", ""):                           false,
		tls("verify-ca", "server.crt", "server.key", ", client_ca: server.ca"):   true,
		tls("verify-full", "server.crt", "server.key", ""):                       false,
		tls("verify-ca", "server.crt", "server.key", ", client_ca: garbage.pem"): false,
		tls("verify-ca", "server.crt", "server.key", ", client_ca: server.key"):  false,
		tls("require", "server.crt", "server.key", ", client_ca: gone"):          false,
		tls("disable", "gone.crt", "gone.key", ""):                               true,
		// the fleet
		"auth: { method: trust }\nfleet: { redis: 'redis://" + redis + "' }":                         true,
		"auth: { method: trust }\nfleet: { redis: 'redis://" + redis + "/x' }":                       false,
		"auth: { method: trust }\nfleet: { redis: 'redis://" + redis + "/-1' }":                      false,
		"auth: { method: trust }\nfleet: { redis: 'redis://" + redis + "/99999999999999999999' }":    false,
		"auth: { method: trust }\nfleet: { redis: 'redis://" + redis + "?db=1' }":                    false,
		"auth: { method: trust }\nfleet: { redis: 'redis://" + redis + "?read_timeout=soon' }":       false,
		"auth: { method: trust }\nfleet: { redis: 'redis://" + redis + "?read_timeout=1s' }":         true,
		"auth: { method: trust }\nfleet: { redis: 'redis://" + redis + ",127.0.0.1:2' }":             false,
		"auth: { method: trust }\nfleet: { redis: 'redis+cluster://" + redis + ",127.0.0.1:2' }":     true,
		"auth: { method: trust }\nfleet: { redis: 'redis+cluster://" + redis + "/1' }":               false,
		"auth: { method: trust }\nfleet: { redis: 'redis+sentinel://" + redis + "' }":                false,
		"auth: { method: trust }\nfleet: { redis: 'redis+sentinel://" + redis + "/main/0' }":         true,
		"auth: { method: trust }\nfleet: { redis: 'redis+sentinel://" + redis + "/main/x' }":         false,
		"auth: { method: trust }\nfleet: { redis: 'redis://:5' }":                                    false,
		"auth: { method: trust }\nfleet: { redis: 'redis://" + redis + "', name: 'a{b}' }":           false,
		"auth: { method: trust }\nfleet: { redis: 'rediss://" + redis + "' }":                        true,
		"auth: { method: trust }\nfleet: { redis: 'unix:///run/redis' }":                             false,
		"auth: { method: trust }\nadmin: { listen: 127.0.0.1:0, read_token: abc, write_token: abc }": false,
		"auth: { method: trust }\nadmin: { listen: '0.0.0.0:0' }":                                    false,
		"auth: { method: trust }\nadmin: { listen: '0.0.0.0:0', read_token: abc }":                   true,
		"auth: { method: trust }\nadmin: { listen: '[::ffff:127.0.0.1]:0' }":                         true,
		"auth: { method: trust }\nadmin: { listen: 'localhost:0' }":                                  true,
		"auth: { method: trust }\nlisten: 'localhost:0'":                                             true,
		"auth: { method: trust }\nlisten: '127.0.0.1:65536'":                                         false,
		"auth: { method: trust }\nlisten: '127.0.0.1:http'":                                          false,
	}
	for text, fine := range tests {
		if !strings.Contains(text, "resources:") {
			text += "\nresources: { orders: { upstream: 'postgres://app@127.0.0.1:1/orders?sslmode=disable' } }"
		}
		if !strings.Contains(text, "admin:") {
			text += "\nadmin: 127.0.0.1:0"
		}
		if !strings.Contains(text, "listen: '") || strings.Contains(text, "admin: { listen") {
			text += "\nlisten: 127.0.0.1:0"
		}
		t.Run(strings.SplitN(text, "\nresources", 2)[0], func(t *testing.T) {
			write("weir.yaml", []byte(text+"\n"))
			checked := weirRun(t, "check", "--config", "weir.yaml")
			if (checked.code == exitOK) != fine {
				t.Errorf("check exits with %d, says %s", checked.code, checked.stdout)
			}
			if err := tryServe(t); (err == nil) != fine {
				t.Errorf("serve: %v", err)
			}
		})
	}
}

// tryServe begins to serve weir.yaml, and stops.
func tryServe(t *testing.T) error {
	t.Helper()
	cfg, _, err := serveCmd{Config: "weir.yaml"}.load()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	w, err := startWeir(ctx, cfg, 2, slog.New(slog.DiscardHandler), nil)
	if err == nil {
		w.close()
	}
	return err
}
