// Package pgserver runs a throwaway PostgreSQL: its own data directory, a free port on the loopback interface, and
// nothing left behind, not even when the process that started it is killed.
//
// A small shell stands between us and the server and holds the reading end of a pipe. Whatever ends this process also
// closes the pipe, and then the shell stops the server and removes its directory. (A parent-death signal would not do:
// Linux ties it to the thread that forked, other systems lack it, and it leaves the directory.)
package pgserver

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/internal/certs"
)

// Database is the database that every server has, besides PostgreSQL's own.
const Database = "app"

// How a user's password is checked over TCP, in pg_hba.conf's words.
const (
	Trust    = "trust"
	Password = "password"
	MD5      = "md5"
	SCRAM    = "scram-sha-256"
)

// User may log in over TCP.
type User struct {
	Name     string
	Password string
	Method   string // Trust | Password | MD5 | SCRAM (SCRAM)
}

// Superuser is known to every server and logs in with SCRAM.
var Superuser = User{Name: "postgres", Password: "postgres-secret", Method: SCRAM}

// The users of a server whose Config names none; App owns the database.
var (
	App    = User{Name: "app", Password: "app-secret", Method: SCRAM}
	Legacy = User{Name: "legacy", Password: "legacy-secret", Method: MD5}
	Plain  = User{Name: "plain", Password: "plain-secret", Method: Password}
	Open   = User{Name: "open", Method: Trust}
)

// Config is what the server is to be like. A zero field takes the default written beside it.
type Config struct {
	Version        int      // major version (the newest that the system's package manager installed)
	MaxConnections int      // (100)
	TLS            bool     // also accept TLS, with a certificate of Server.Authority for localhost and 127.0.0.1 (no)
	Users          []User   // the first one owns Database (App, Legacy, Plain, Open)
	Settings       []string // further lines of postgresql.conf, say "wal_level = logical"
	HBA            []string // lines of pg_hba.conf that come before ours
	Primary        string   // connection string: be a standby, copied from there, with the users and databases there are (no)
}

func (c Config) withDefaults() Config {
	c.MaxConnections = cmp.Or(c.MaxConnections, 100)
	if len(c.Users) == 0 {
		c.Users = []User{App, Legacy, Plain, Open}
	}
	return c
}

// Mode is how a server is told to stop.
type Mode int

// The modes of pg_ctl stop.
const (
	Fast      Mode = iota // end each session with 57P01, then write a checkpoint
	Immediate             // like a crash: sessions get 57P02, recovery at the next start
)

func (m Mode) signal() syscall.Signal {
	if m == Immediate {
		return syscall.SIGQUIT
	}
	return syscall.SIGINT
}

// Server is a PostgreSQL that Start started and Close removes. Its port stays the same over restarts. It is for one
// goroutine at a time, as far as Stop, Restart and Close go.
type Server struct {
	Port      int
	SocketDir string           // where the unix socket is; whoever may enter needs no password
	Authority *certs.Authority // signed the server's certificate; nil without Config.TLS

	cfg   Config
	bin   string // directory of initdb and postgres
	owner *syscall.Credential
	dir   string // everything the server ever writes

	lifeline *os.File // held open for as long as the server may live; nil while stopped
	pid      int      // the postmaster's
	exited   chan struct{}
}

// startTimeout is for a machine with every core busy; a start takes about a second.
const startTimeout = time.Minute

// stopTimeout is how long a server may take to stop before it is told more harshly.
const stopTimeout = 20 * time.Second

// Start makes a data directory and runs a server on it until Close.
func Start(cfg Config) (*Server, error) {
	bin, err := Find(cfg.Version)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg.withDefaults(), bin: bin}
	if err := s.create(); err != nil {
		return nil, errors.Join(fmt.Errorf("throwaway postgresql: %w", err), s.Close())
	}
	return s, nil
}

func (s *Server) create() error {
	if err := s.makeDir(); err != nil {
		return err
	}
	fill, complete := s.initdb, s.createUsers
	if s.cfg.Primary != "" {
		fill, complete = s.copyPrimary, func() error { return nil }
	}
	if err := fill(); err != nil {
		return err
	}
	if err := s.configure(); err != nil {
		return err
	}
	if err := s.startOnFreePort(); err != nil {
		return err
	}
	return complete()
}

// makeDir makes the server's directory in /tmp, not in TMPDIR: a unix socket's path has room for about a hundred bytes,
// and a server that runs as another user must be able to reach it.
func (s *Server) makeDir() (err error) {
	if s.dir, err = os.MkdirTemp("/tmp", "weir-pg-"); err != nil {
		return err
	}
	s.SocketDir = s.dir
	if os.Geteuid() != 0 {
		return nil
	}
	// PostgreSQL refuses to run as root.
	if s.owner, err = credential("postgres"); err != nil {
		return err
	}
	return os.Chown(s.dir, int(s.owner.Uid), int(s.owner.Gid))
}

func credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (s *Server) initdb() error {
	cmd := s.command(filepath.Join(s.bin, "initdb"), "--pgdata", s.data(), "--username", Superuser.Name,
		"--encoding", "UTF8", "--locale", "C", "--auth", Trust, "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

// copyPrimary makes a standby's data directory, which says where its primary is.
func (s *Server) copyPrimary() error {
	cmd := s.command(s.Program("pg_basebackup"), "--pgdata", s.data(), "--dbname", s.cfg.Primary, "--checkpoint", "fast",
		"--write-recovery-conf", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_basebackup: %w: %s", err, out)
	}
	return nil
}

// command runs in the server's directory, as its owner, in a session of its own: what ends ours, be it the terminal's
// Ctrl-C, must not end the supervisor before its work is done.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+s.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: s.owner}
	return cmd
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) configure() error {
	conf := []string{
		"listen_addresses = '127.0.0.1'",
		fmt.Sprintf("unix_socket_directories = '%s'", s.SocketDir),
		fmt.Sprintf("max_connections = %d", s.cfg.MaxConnections),
		"shared_buffers = 16MB",
		"fsync = off", // the data need not outlive the machine
		"synchronous_commit = off",
		"full_page_writes = off",
		"autovacuum = off", // nothing may run beside a test or a measurement
		"jit = off",
		"timezone = 'UTC'",
		"log_timezone = 'UTC'",
	}
	if s.cfg.TLS {
		if err := s.writeCertificate(); err != nil {
			return err
		}
		conf = append(conf, "ssl = on")
	}
	conf = append(conf, s.cfg.Settings...)
	if err := s.append("postgresql.conf", conf); err != nil {
		return err
	}

	hba := append(s.cfg.HBA, "local all all trust")
	for _, u := range append(s.cfg.Users, Superuser) {
		method := cmp.Or(u.Method, SCRAM)
		hba = append(hba,
			fmt.Sprintf("host all %q 127.0.0.1/32 %s", u.Name, method),
			fmt.Sprintf("host replication %q 127.0.0.1/32 %s", u.Name, method))
	}
	return s.write("pg_hba.conf", []byte(strings.Join(hba, "\n")+"\n"))
}

func (s *Server) writeCertificate() (err error) {
	if s.Authority, err = certs.NewAuthority("throwaway authority"); err != nil {
		return err
	}
	certPEM, keyPEM, err := s.Authority.Issue(certs.Request{
		CommonName: "localhost", Hosts: []string{"localhost", "127.0.0.1"},
	})
	if err != nil {
		return err
	}
	return errors.Join(s.write("server.crt", certPEM), s.write("server.key", keyPEM))
}

// write replaces a file in the data directory and gives it to the server's owner.
func (s *Server) write(name string, content []byte) error {
	path := filepath.Join(s.data(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return err
	}
	if s.owner == nil {
		return nil
	}
	return os.Chown(path, int(s.owner.Uid), int(s.owner.Gid))
}

func (s *Server) append(name string, lines []string) error {
	old, err := os.ReadFile(filepath.Join(s.data(), name))
	if err != nil {
		return err
	}
	return s.write(name, append(old, strings.Join(lines, "\n")+"\n"...))
}

func (s *Server) startOnFreePort() error {
	const attempts = 5 // somebody else may take a port between our look and the server's
	var err error
	for range attempts {
		if s.Port, err = freePort(); err != nil {
			return err
		}
		if err = s.run(); err == nil || !strings.Contains(err.Error(), "could not bind") {
			return err
		}
	}
	return err
}

// freePort finds a port below those that the kernel hands out to connecting sockets, so that nobody takes it by chance
// while the server is stopped for a restart.
func freePort() (int, error) {
	const lowest, highest = 15000, 32000
	for range 100 {
		port := lowest + rand.IntN(highest-lowest)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("no free port on 127.0.0.1")
}

// supervise runs "$@" until it ends by itself or standard input does, which means that whoever wanted the server is no
// more. It tells the server's process id first.
const supervise = `
dir=$1; shift
exec 3<&0 </dev/null
"$@" >>"$dir/log" 2>&1 3<&- &
server=$!
{ read -r _ <&3; : >"$dir/orphaned"; kill -QUIT "$server"; } >/dev/null 2>&1 &
watcher=$!
echo "$server"
exec >/dev/null
wait "$server"; code=$?
if [ -e "$dir/orphaned" ]; then cd /; rm -rf "$dir"; else kill "$watcher"; fi
exit "$code"
`

// run starts the server and waits until it answers.
func (s *Server) run() error {
	orphan, lifeline, err := os.Pipe()
	if err != nil {
		return err
	}
	defer orphan.Close()
	cmd := s.command("/bin/sh", "-c", supervise, "sh", s.dir,
		filepath.Join(s.bin, "postgres"), "-D", s.data(), "-p", strconv.Itoa(s.Port))
	cmd.Stdin = orphan
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return errors.Join(err, lifeline.Close())
	}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, lifeline.Close())
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	s.lifeline, s.exited = lifeline, make(chan struct{})
	go s.reap(cmd) // Stop waits for it
	if err != nil {
		return errors.Join(fmt.Errorf("read process id: %w", err), s.Stop(Immediate))
	}
	if s.pid, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
		return errors.Join(fmt.Errorf("read process id: %w", err), s.Stop(Immediate))
	}
	if err := s.awaitReady(); err != nil {
		return errors.Join(fmt.Errorf("%w\n%s", err, s.Log()), s.Stop(Immediate))
	}
	return nil
}

// reap waits for the supervisor, which ends right after the server.
func (s *Server) reap(cmd *exec.Cmd) {
	defer close(s.exited)
	_ = cmd.Wait() // how it ended is in the log
}

func (s *Server) awaitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		conn, err := pgconn.Connect(ctx, s.localDSN("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.exited:
			return errors.New("postgres ended instead of starting")
		case <-ctx.Done():
			return fmt.Errorf("postgres does not answer: %w", err)
		case <-look.C:
		}
	}
}

func (s *Server) createUsers() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgconn.Connect(ctx, s.localDSN("postgres"))
	if err != nil {
		return err
	}
	var sql strings.Builder
	fmt.Fprintf(&sql, "ALTER ROLE %s PASSWORD '%s';\n", quote(Superuser.Name), Superuser.Password)
	for _, u := range s.cfg.Users {
		encryption := SCRAM
		if u.Method == MD5 {
			encryption = MD5
		}
		fmt.Fprintf(&sql, "SET password_encryption = '%s'; CREATE ROLE %s LOGIN PASSWORD '%s';\n",
			encryption, quote(u.Name), strings.ReplaceAll(u.Password, "'", "''"))
	}
	create := fmt.Sprintf("CREATE DATABASE %s OWNER %s", Database, quote(s.cfg.Users[0].Name))
	if _, err := conn.Exec(ctx, sql.String()).ReadAll(); err != nil {
		return errors.Join(fmt.Errorf("create users: %w", err), conn.Close(ctx))
	}
	if _, err := conn.Exec(ctx, create).ReadAll(); err != nil {
		return errors.Join(fmt.Errorf("create database: %w", err), conn.Close(ctx))
	}
	if err := conn.Close(ctx); err != nil {
		return err
	}
	return s.Exec(ctx, "GRANT ALL ON SCHEMA public TO public")
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// Exec runs statements as superuser in Database, and drops their results.
func (s *Server) Exec(ctx context.Context, sql string) error {
	_, err := s.Query(ctx, sql)
	return err
}

// Query runs statements as superuser in Database and returns the last one's rows as text; NULL is "".
func (s *Server) Query(ctx context.Context, sql string) ([][]string, error) {
	conn, err := pgconn.Connect(ctx, s.localDSN(Database))
	if err != nil {
		return nil, err
	}
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		return nil, err
	}
	if len(results) == 0 {
		return nil, nil
	}
	var rows [][]string
	for _, row := range results[len(results)-1].Rows {
		text := make([]string, len(row))
		for i, field := range row {
			text[i] = string(field)
		}
		rows = append(rows, text)
	}
	return rows, nil
}

// localDSN logs in as superuser over the unix socket, where no password is asked.
func (s *Server) localDSN(database string) string {
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s", s.SocketDir, s.Port, Superuser.Name, database)
}

// Addr is where the server listens, as host:port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)) }

// DSN is a URL for the first user, over TCP without TLS.
func (s *Server) DSN() string { return s.DSNFor(s.cfg.Users[0]) }

// SuperDSN is a URL for the superuser, over TCP without TLS.
func (s *Server) SuperDSN() string { return s.DSNFor(Superuser) }

// DSNFor is a URL for any user, over TCP without TLS.
func (s *Server) DSNFor(u User) string {
	dsn := url.URL{
		Scheme: "postgres", User: url.UserPassword(u.Name, u.Password),
		Host: s.Addr(), Path: Database, RawQuery: "sslmode=disable",
	}
	return dsn.String()
}

// Program is the path of a program that came with the server, say pg_basebackup.
func (s *Server) Program(name string) string { return filepath.Join(s.bin, name) }

// PID is the postmaster's process id; it changes with each restart.
func (s *Server) PID() int { return s.pid }

// Log is the end of what the server wrote to its log.
func (s *Server) Log() string {
	const most = 8 << 10
	f, err := os.Open(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd) // the whole log is as good, only longer
	}
	text, _ := io.ReadAll(f)
	return string(text)
}

// Stop stops the server and waits until it is gone; the data stay for Restart. Stopping a stopped server does nothing.
func (s *Server) Stop(mode Mode) error {
	if s.lifeline == nil {
		return nil
	}
	defer func() { s.lifeline = nil }()
	defer s.lifeline.Close()
	for _, signal := range []syscall.Signal{mode.signal(), syscall.SIGQUIT, syscall.SIGKILL} {
		if err := s.kill(signal); err != nil {
			return err
		}
		select {
		case <-s.exited:
			return nil
		case <-time.After(stopTimeout):
		}
	}
	return errors.New("postgres outlives SIGKILL")
}

func (s *Server) kill(signal syscall.Signal) error {
	select {
	case <-s.exited: // its process id may be somebody else's by now
		return nil
	default:
	}
	if s.pid == 0 {
		return s.lifeline.Close() // the supervisor knows the process id and acts on this
	}
	if err := syscall.Kill(s.pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal postgres: %w", err)
	}
	return nil
}

// Restart stops the server if it runs, and starts it again on the same port and data.
func (s *Server) Restart(mode Mode) error {
	if err := s.Stop(mode); err != nil {
		return err
	}
	s.pid = 0
	return s.run()
}

// Close stops the server at once and removes everything it wrote.
func (s *Server) Close() error {
	if s.lifeline != nil {
		_ = s.lifeline.Close() // the supervisor does the rest, even if we do not live to see it
		select {
		case <-s.exited:
			s.lifeline = nil
		case <-time.After(stopTimeout):
		}
	}
	return errors.Join(s.Stop(Immediate), os.RemoveAll(s.dir))
}
