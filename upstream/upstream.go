// Package upstream is how weir reads the connection string of a database, and how it logs in there.
//
// A connection string is libpq's, and pgconn reads most of it. What is added here:
//
//	keywords.go   every keyword of libpq is honoured or refused by its name, those that other drivers take are refused, and
//	              none of them is sent to the server, which would take it for a run-time parameter
//	secure.go     who answers in the place of a database is not handed weir's password
//	dial.go       the options of sockets
//
// No error and no warning from here quotes a value of the connection string: any part of it may be a piece of a password.
package upstream

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Shape is what a connection string looks like, for problems to say.
const Shape = "a postgres:// URL or key=value pairs, as libpq knows them"

// Mistake is why a connection string cannot be used. It quotes no value of it.
type Mistake struct{ What, Expected string }

// Error says what was expected, too.
func (m *Mistake) Error() string {
	if m.Expected == "" {
		return m.What
	}
	return m.What + "; expected " + m.Expected
}

// Upstream is a database as a connection string names it. It never changes, but for which address has answered last.
type Upstream struct {
	cfg      *pgconn.Config
	hosts    []Host
	random   bool // the order of hosts
	sockets  socketOptions
	last     *answered // shared by copies
	trust    trust
	written  map[string]string
	warnings []string
	files    []string
}

// Host is one of the servers that a connection string names.
type Host struct {
	Name    string // or the directory of a Unix socket
	Address string // as hostaddr says; "": that of the name
	Port    uint16

	ways []*pgconn.FallbackConfig // with TLS and without, in the order in which they are tried
}

// Local says that nobody stands between weir and the host: it is this machine. Others on this machine may answer in its place.
func (h Host) Local() bool { return h.socket() || isLoopback(cmpOr(h.Address, h.Name)) }

func (h Host) socket() bool { return strings.HasPrefix(h.Name, "/") || strings.HasPrefix(h.Name, "@") }

// Parse reads a connection string and what libpq's environment adds to it. Its error is a *Mistake.
func Parse(text string) (*Upstream, error) {
	r := reading{text: text, written: settings(text)}
	if err := r.parse(); err != nil {
		return nil, err
	}
	if err := r.readKeywords(); err != nil {
		return nil, err
	}
	r.findHosts()
	if err := r.placeHosts(); err != nil {
		return nil, err
	}
	if err := r.secure(); err != nil {
		return nil, err
	}
	r.sockets.dialer(r.cfg)
	r.warnOfUnknown()
	return &Upstream{cfg: r.cfg, hosts: r.hosts, random: r.random, sockets: r.sockets, last: new(answered), trust: r.trust, written: r.written, warnings: r.warnings, files: r.secretFiles()}, nil
}

// Config is for one dial, and the caller's to change; it is only to be used with pgconn.ConnectConfig.
func (u *Upstream) Config() *pgconn.Config {
	c := u.cfg.Copy()
	hosts := u.hosts
	if u.random {
		hosts = slices.Clone(hosts)
		rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	}
	setWays(c, hosts)
	watched(c, u.trust)
	return c
}

// setWays makes hosts those that c tries, in their order.
func setWays(c *pgconn.Config, hosts []Host) {
	var ways []*pgconn.FallbackConfig
	for _, h := range hosts {
		ways = append(ways, h.ways...)
	}
	c.Host, c.Port, c.TLSConfig = ways[0].Host, ways[0].Port, ways[0].TLSConfig
	c.Fallbacks = nil
	for _, w := range ways[1:] {
		c.Fallbacks = append(c.Fallbacks, &pgconn.FallbackConfig{Host: w.Host, Port: w.Port, TLSConfig: w.TLSConfig})
	}
}

// Connect logs in, as weir does for each server connection.
func (u *Upstream) Connect(ctx context.Context) (*pgconn.PgConn, error) {
	conn, err := pgconn.ConnectConfig(ctx, u.ConfigFor(ctx))
	return conn, u.Explain(err)
}

// Written says that the connection string itself has a setting, and not the environment or a file.
func (u *Upstream) Written(key string) bool { return u.written[key] != "" }

// User is whom weir logs in as.
func (u *Upstream) User() string { return u.cfg.User }

// Password is what with; "" for none. Do not log it, nor put it into an error.
func (u *Upstream) Password() string { return u.cfg.Password }

// Database is what weir logs in to; "" for the one named like the user.
func (u *Upstream) Database() string { return u.cfg.Database }

// Hosts are the servers, in the order of the connection string.
func (u *Upstream) Hosts() []Host { return u.hosts }

// Warnings is what is legal in the connection string, but probably not meant. Each begins with a verb; the subject is the
// connection string.
func (u *Upstream) Warnings() []string { return u.warnings }

// SecretFiles are those that hold a secret of this connection string, a password or a private key.
func (u *Upstream) SecretFiles() []string { return u.files }

// reading is a connection string while it is read.
type reading struct {
	text    string
	written map[string]string // its own settings, without those of the environment and of a service file
	cfg     *pgconn.Config

	hosts    []Host
	random   bool
	sockets  socketOptions
	versions tlsVersions
	trust    trust
	warnings []string
}

func (r *reading) parse() (err error) {
	r.cfg, err = parse(r.text)
	if err != nil {
		return err
	}
	// hostaddr alone names the host as well; pgconn does not know it, and would take the default in its place.
	_, named := r.setting("host", "PGHOST")
	if address := r.cfg.RuntimeParams["hostaddr"]; address != "" && !named && !r.hasService() {
		r.text = with(r.text, "host", address)
		r.cfg, err = parse(r.text)
	}
	return err
}

func (r *reading) hasService() bool {
	_, has := r.setting("service", "PGSERVICE")
	return has
}

// setting is what the connection string, or else the environment, has under a name.
func (r *reading) setting(key, env string) (value string, ok bool) {
	if value, ok = r.written[key]; ok {
		return value, value != ""
	}
	value = os.Getenv(env)
	return value, value != ""
}

func (r *reading) warn(text string) { r.warnings = append(r.warnings, text) }

// findHosts puts together again what pgconn has made of each host: up to two ways to it, one with TLS and one without.
func (r *reading) findHosts() {
	ways := append([]*pgconn.FallbackConfig{{Host: r.cfg.Host, Port: r.cfg.Port, TLSConfig: r.cfg.TLSConfig}}, r.cfg.Fallbacks...)
	for i := 0; i < len(ways); {
		n := 1
		if i+1 < len(ways) && ways[i].Host == ways[i+1].Host && ways[i].Port == ways[i+1].Port &&
			(ways[i].TLSConfig == nil) != (ways[i+1].TLSConfig == nil) {
			n = 2
		}
		r.hosts = append(r.hosts, Host{Name: ways[i].Host, Port: ways[i].Port, ways: ways[i : i+n]})
		i += n
	}
}

// secretFiles are the private key and the password file, as far as they are used.
func (r *reading) secretFiles() (files []string) {
	if key, ok := r.setting("sslkey", "PGSSLKEY"); ok {
		files = append(files, key)
	}
	if _, has := r.setting("password", "PGPASSWORD"); !has && !r.hasService() && r.cfg.Password != "" {
		file, ok := r.setting("passfile", "PGPASSFILE")
		if home, err := os.UserHomeDir(); !ok && err == nil {
			file = filepath.Join(home, ".pgpass")
		}
		files = append(files, file)
	}
	return files
}

var otherScheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)

// parse is pgconn.ParseConfig with errors that are safe to show. pgconn masks passwords as best it can, but cannot know
// what in a malformed string was meant as one; so nothing of its text is passed on, only what it complained about.
func parse(text string) (*pgconn.Config, error) {
	if !isURL(text) && otherScheme.MatchString(text) {
		return nil, &Mistake{"is not a PostgreSQL URL", Shape}
	}
	parsed, err := pgconn.ParseConfig(text)
	if err == nil && strings.Contains(parsed.Database, "@") && isURL(text) {
		// postgres://app:12/34@db/orders is valid: database "34@db/orders" on the host "app". Nobody means that.
		return nil, &Mistake{"has an @ behind its first /; special characters in its password must be percent-encoded, %2F for /", Shape}
	}
	if err == nil {
		return parsed, nil
	}
	// All that precedes the message is the string that was parsed, and this is how pgconn writes it.
	complaint := strings.TrimPrefix(err.Error(), pgconn.NewParseConfigError(text, "", nil).Error())
	for _, known := range complaints {
		if strings.HasPrefix(complaint, known.prefix) {
			return nil, &Mistake{known.what + reason(err), known.expected}
		}
	}
	return nil, &Mistake{"is not a usable connection string", Shape}
}

var complaints = []struct{ prefix, what, expected string }{
	{"failed to parse as URL", "is not a valid URL; special characters in its password must be percent-encoded, %40 for @", Shape},
	{"failed to parse as keyword/value", "is neither a postgres:// URL nor key=value pairs", Shape},
	{"invalid port", "has a port that is not a number from 1 to 65535; special characters in its password must be percent-encoded, %40 for @", Shape},
	{"could not match", "lists more or fewer ports than hosts", "one port for all hosts, or one for each"},
	{"failed to read service", "names a service that cannot be read", "a service of the service file"},
	{"invalid connect_timeout", "has a connect_timeout that is not a number", "seconds"},
	{"invalid sslcertmode", "has an unknown sslcertmode", "one of disable, allow, require"},
	{"failed to configure TLS", "has TLS settings that cannot be used", "sslmode one of disable, allow, prefer, require, verify-ca, verify-full, and readable sslrootcert, sslcert and sslkey"},
	{"unknown target_session_attrs", "has an unknown target_session_attrs", "one of any, read-write, read-only, primary, standby, prefer-standby"},
	{"invalid min_protocol_version", "has an unknown min_protocol_version", "one of 3.0, 3.2, latest"},
	{"invalid max_protocol_version", "has an unknown max_protocol_version", "one of 3.0, 3.2, latest"},
	{"min_protocol_version cannot", "has a min_protocol_version above its max_protocol_version", "the lower one first"},
	{"unknown channel_binding", "has an unknown channel_binding", "one of disable, prefer, require"},
	{"invalid require_auth", "has an unknown require_auth", "a list of password, md5, scram-sha-256, none"},
}

// reason adds the operating system's part of an error, which holds no text of the connection string.
func reason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return ": " + path.Err.Error()
	}
	return ""
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// names are the parameters that are to be sent to the server, in order.
func (r *reading) names() []string { return slices.Sorted(maps.Keys(r.cfg.RuntimeParams)) }
