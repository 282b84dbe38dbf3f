package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Who logs in where. The password matters only to the variants with SCRAM.
const (
	benchUser     = "bench"
	benchPassword = "correct horse battery staple"
	benchDatabase = "bench"
	benchScale    = 10 // of pgbench: a million accounts, about 150 MB

	serverConnections = 20     // what each proxy may open to PostgreSQL
	maxClients        = 19_000 // what each proxy is told to accept
)

// side is one contestant: PostgreSQL itself or a proxy in front of it.
type side struct {
	name  string
	addr  string
	admin string // of weir: where its metrics are
	pid   int    // of the proxy; 0 for PostgreSQL itself, whose processes are not counted
	tls   bool
	proc  *child
}

func (s *side) target() target {
	return target{Addr: s.addr, TLS: s.tls, User: benchUser, Password: benchPassword, Database: benchDatabase}
}

// The sides' names in reports.
const (
	direct    = "direct"
	pgbouncer = "PgBouncer"
	again     = "PgBouncer again" // the same once more: what the harness finds between these two is noise
	weir      = "weir"
	before    = "weir before" // another binary of weir's, to see what a change has done
)

// variant is how clients log in to a proxy, and what else is special about it.
type variant struct {
	scram bool
	cert  certificate // zero: no TLS

	users    []string // who may log in besides benchUser
	resource string   // lines of weir's resource
	ini      string   // lines of PgBouncer's
	servers  int      // connections; 0: serverConnections
}

func (v variant) tls() bool { return v.cert.cert != "" }

func (v variant) connections() int { return cmp.Or(v.servers, serverConnections) }

func (v variant) everybody() []string { return append([]string{benchUser}, v.users...) }

func (v variant) String() string {
	s := "trust"
	if v.scram {
		s = "SCRAM"
	}
	if v.tls() {
		s = "TLS " + v.cert.kind + ", " + s
	}
	return s
}

// lab is the equipment of a run.
type lab struct {
	dir      string
	children *children
	cred     *syscall.Credential
	self     string // this program, to generate load with
	weir     string // weir's binary; empty: measured without it
	before   string // an older one; empty: none
	postgres *side
	pgbin    string // where initdb and postgres are
	pgbench  string
	bouncer  string // pgbouncer's binary
	verifier string // of benchPassword
	p256     certificate
	rsa      certificate
}

// owner is the uid that PostgreSQL and PgBouncer run as, or -1 for this program's own.
func (l *lab) owner() int {
	if l.cred == nil {
		return -1
	}
	return int(l.cred.Uid)
}

// remove deletes what the run has written.
func (l *lab) remove() { _ = os.RemoveAll(l.dir) }

// setUp finds the programs, makes the keys, and starts PostgreSQL with pgbench's tables in it.
func (l *lab) setUp(ctx context.Context) (err error) {
	if l.pgbin, err = postgresBin(); err != nil {
		return err
	}
	for _, tool := range []struct {
		path *string
		name string
	}{{&l.pgbench, "pgbench"}, {&l.bouncer, "pgbouncer"}} {
		if *tool.path, err = find(tool.name, l.pgbin); err != nil {
			return err
		}
	}
	if l.verifier, err = keys.Verifier(benchPassword); err != nil {
		return err
	}
	if l.p256, l.rsa, err = makeCertificates(l.dir, l.owner()); err != nil {
		return err
	}
	return l.startPostgres(ctx)
}

// find looks for a program on PATH, in PostgreSQL's own directory, and where Debian keeps daemons.
func find(name, pgbin string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{pgbin, "/usr/sbin"} {
		if path := filepath.Join(dir, name); executable(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("no %s on this machine: run scripts/setup bench", name)
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode()&0o111 != 0
}

// postgresBin is the directory of the newest PostgreSQL server on this machine.
func postgresBin() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		path, err = filepath.EvalSymlinks(path) // what it needs is beside the program, not beside the link
		return filepath.Dir(path), err
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", fmt.Errorf("no PostgreSQL server on this machine: run scripts/setup bench")
	}
	slices.SortFunc(found, func(a, b string) int { return len(a) - len(b) + strings.Compare(a, b) })
	return filepath.Dir(found[len(found)-1]), nil
}

// startPostgres makes a cluster that trusts loopback: what a proxy's own login to the server costs is not the question.
func (l *lab) startPostgres(ctx context.Context) error {
	data := filepath.Join(l.dir, "pgdata")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	if err := os.Chown(data, l.owner(), -1); err != nil {
		return err
	}
	initdb := command{name: "initdb", cred: l.cred, argv: []string{
		filepath.Join(l.pgbin, "initdb"), "-D", data,
		"-U", benchUser, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync",
	}}
	if _, err := l.children.output(ctx, initdb); err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	argv := []string{filepath.Join(l.pgbin, "postgres"), "-D", data, "-p", port, "-k", "", "-h", "127.0.0.1"}
	for _, setting := range []string{
		"max_connections=400", "shared_buffers=256MB", "fsync=off", "autovacuum=off",
		"max_wal_size=2GB", "jit=off", "log_checkpoints=off",
	} {
		argv = append(argv, "-c", setting)
	}
	p, err := l.children.start(command{name: "postgres", argv: argv, cred: l.cred, death: syscall.SIGQUIT}, nil)
	if err != nil {
		return err
	}
	l.postgres = &side{name: direct, addr: net.JoinHostPort("127.0.0.1", port), proc: p}
	maintenance := l.postgres.target()
	maintenance.Database = "postgres"
	if err := answering(ctx, p, maintenance); err != nil {
		return err
	}
	c, err := dial(ctx, maintenance)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.query(message('Q', []byte("create database "+benchDatabase+"\x00"))); err != nil {
		return err
	}
	fill := command{name: "pgbench-init", argv: []string{
		l.pgbench, "-i", "-q", "-s", fmt.Sprint(benchScale),
		"-h", "127.0.0.1", "-p", port, "-U", benchUser, benchDatabase,
	}, env: pgEnv(false)}
	_, err = l.children.output(ctx, fill)
	return err
}

// answering waits until a query goes through.
func answering(ctx context.Context, p *child, t target) error {
	deadline := time.Now().Add(patience)
	for {
		c, err := dial(ctx, t)
		if err == nil {
			err = c.query(selectOne)
			c.Close()
		}
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer: %w: %s", p.name, err, tail(p.log, ""))
		}
		select {
		case <-p.done:
			return p.failure()
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// start brings up the proxies named, all with the same variant. stop takes them down again.
func (l *lab) start(ctx context.Context, v variant, names ...string) (sides []*side, stop func(), err error) {
	stop = func() {
		for _, s := range sides {
			if s.proc != l.postgres.proc {
				l.children.stop(s.proc, syscall.SIGTERM, 5*time.Second)
			}
		}
	}
	for _, name := range names {
		var s *side
		switch {
		case name == direct:
			sides = append(sides, l.postgres)
			continue
		case name != weir && name != before:
			s, err = l.startPgBouncer(name, v)
		default:
			binary := map[string]string{weir: l.weir, before: l.before}[name]
			if binary == "" {
				continue
			}
			s, err = l.startWeir(name, binary, v)
		}
		if err == nil {
			s.pid = s.proc.pid
			sides = append(sides, s)
			err = answering(ctx, s.proc, s.target())
		}
		if err != nil {
			stop()
			return nil, nil, err
		}
	}
	return sides, stop, nil
}

// startPgBouncer runs it as its manual proposes for transaction pooling. Its log of every login is switched off, in its
// favour.
func (l *lab) startPgBouncer(name string, v variant) (*side, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	_, upstream, _ := net.SplitHostPort(l.postgres.addr)
	base := filepath.Join(l.dir, "pgbouncer-"+port)
	method := "trust"
	if v.scram {
		method = "scram-sha-256"
	}
	ini := fmt.Sprintf(`[databases]
%s = host=127.0.0.1 port=%s dbname=%s user=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
listen_backlog = 4096
unix_socket_dir =
auth_type = %s
auth_file = %s.users
pool_mode = transaction
default_pool_size = %d
max_client_conn = %d
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
server_tls_sslmode = disable
`, benchDatabase, upstream, benchDatabase, benchUser, port, method, base, v.connections(), maxClients)
	if v.tls() {
		ini += fmt.Sprintf("client_tls_sslmode = require\nclient_tls_protocols = secure\nclient_tls_cert_file = %s\nclient_tls_key_file = %s\n",
			v.cert.cert, v.cert.key)
	}
	ini += v.ini
	users := ""
	for _, user := range v.everybody() {
		users += fmt.Sprintf("%q %q\n", user, l.verifier)
	}
	for path, text := range map[string]string{base + ".ini": ini, base + ".users": users} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	p, err := l.children.start(command{name: "pgbouncer-" + port, argv: []string{l.bouncer, base + ".ini"}, cred: l.cred}, nil)
	if err != nil {
		return nil, err
	}
	return &side{name: name, addr: net.JoinHostPort("127.0.0.1", port), tls: v.tls(), proc: p}, nil
}

func (l *lab) startWeir(name, binary string, v variant) (*side, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	admin, err := freePort()
	if err != nil {
		return nil, err
	}
	method := "trust"
	if v.scram {
		method = "scram-sha-256"
	}
	encryption := "{ mode: disable }"
	if v.tls() {
		encryption = fmt.Sprintf("{ mode: require, cert: %s, key: %s }", v.cert.cert, v.cert.key)
	}
	users := ""
	for _, user := range v.everybody() {
		users += fmt.Sprintf("  %s: { password: %q }\n", user, l.verifier)
	}
	text := fmt.Sprintf(`listen: 127.0.0.1:%s
admin: 127.0.0.1:%s
tls: %s
auth: { method: %s }
users:
%sresources:
  %s:
    kind: postgres
    upstream: postgres://%s@%s/%s?sslmode=disable
    connections: %d
    pool_mode: transaction
%slimits: { clients: %d }
`, port, admin, encryption, method, users, benchDatabase, benchUser, l.postgres.addr, benchDatabase,
		v.connections(), v.resource, maxClients)
	path := filepath.Join(l.dir, "weir-"+port+".yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := l.children.start(command{name: "weir-" + port, argv: []string{binary, "serve", "--config", path}}, nil)
	if err != nil {
		return nil, err
	}
	return &side{
		name: name, addr: net.JoinHostPort("127.0.0.1", port), admin: net.JoinHostPort("127.0.0.1", admin), tls: v.tls(), proc: p,
	}, nil
}

// freePort is a loopback port that nobody listens on.
func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	return port, err
}
