package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/internal/redistest"
)

// served is a weir that runs within the test.
type served struct {
	t      *testing.T
	listen string
	admin  string
	stop   context.CancelFunc
	exit   chan int

	mu   sync.Mutex
	cond *sync.Cond
	log  []logLine // guarded by mu; cond tells of each line more
	over bool
}

type logLine struct {
	Level  string `json:"level"`
	Msg    string `json:"msg"`
	Listen string `json:"listen"`
	Admin  string `json:"admin"`
}

// textLine is a line of a weir that logs as text.
var textLine = regexp.MustCompile(`msg=(?:"([^"]*)"|(\S+))(?:.* listen=(\S+) admin=(\S+))?`)

// serve runs weir serve and waits until it is ready.
func serve(t *testing.T, args ...string) *served {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	s := &served{t: t, stop: stop, exit: make(chan int, 1)}
	s.cond = sync.NewCond(&s.mu)
	stderr, w := io.Pipe()
	go s.read(stderr)
	go func() {
		s.exit <- run(ctx, append([]string{"serve"}, args...), io.Discard, w)
		_ = w.Close()
	}()
	t.Cleanup(func() {
		stop()
		s.await("stopped")
	})
	ready := s.await("weir is ready")
	s.listen, s.admin = ready.Listen, ready.Admin
	return s
}

func (s *served) read(stderr io.Reader) {
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		var line logLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			if match := textLine.FindStringSubmatch(lines.Text()); match != nil {
				line = logLine{Msg: match[1] + match[2], Listen: match[3], Admin: match[4]}
			}
		}
		s.mu.Lock()
		s.log = append(s.log, line)
		s.mu.Unlock()
		s.cond.Broadcast()
	}
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.cond.Broadcast()
}

// await returns the first line of the log that begins with msg; a weir that ends without having said it fails the test.
func (s *served) await(msg string) logLine {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for seen := 0; ; {
		for ; seen < len(s.log); seen++ {
			if strings.HasPrefix(s.log[seen].Msg, msg) {
				return s.log[seen]
			}
		}
		if s.over {
			s.t.Fatalf("weir never said %q:\n%+v", msg, s.log)
		}
		s.cond.Wait()
	}
}

func (s *served) dsn(user, password, database string) string {
	dsn := url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Host: s.listen, Path: database, RawQuery: "sslmode=disable"}
	return dsn.String()
}

func (s *served) connect(user, password, database string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(s.t.Context(), s.dsn(user, password, database))
	if err == nil {
		s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	}
	return conn, err
}

func (s *served) mustConnect(user, password, database string) *pgx.Conn {
	s.t.Helper()
	conn, err := s.connect(user, password, database)
	if err != nil {
		s.t.Fatal(err)
	}
	return conn
}

func (s *served) get(path string) (int, string) {
	s.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + s.admin + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

const serveConfig = `listen: 127.0.0.1:0
admin: 127.0.0.1:0
log: { format: json }
drain_timeout: %s
users:
  fn: { password: %s }
resources:
  orders: { upstream: "${UPSTREAM}", connections: 5 }
  trickle: { upstream: "${UPSTREAM}", connections: 1, rate: { per_second: 0.01, burst: 1 } }
`

// writeConfig makes or replaces a configuration for the shared PostgreSQL.
func writeConfig(t *testing.T, file, drainTimeout, password string) {
	t.Helper()
	if err := os.WriteFile(file, fmt.Appendf(nil, serveConfig, drainTimeout, password), 0o600); err != nil {
		t.Fatal(err)
	}
}

func serveShared(t *testing.T, drainTimeout string) (s *served, file string) {
	t.Helper()
	t.Setenv("UPSTREAM", pgtest.Shared(t).DSN())
	pgtest.NoLeaks(t)
	file = filepath.Join(t.TempDir(), "weir.yaml")
	writeConfig(t, file, drainTimeout, "first")
	return serve(t, "--config", file), file
}

func TestServe(t *testing.T) {
	s, _ := serveShared(t, "30s")
	conn := s.mustConnect("fn", "first", "orders")
	var sum int
	if err := conn.QueryRow(t.Context(), "SELECT $1::int + 2", 40).Scan(&sum); err != nil || sum != 42 {
		t.Errorf("got %d, %v", sum, err)
	}

	t.Run("a refusal explains itself and keeps the connection", func(t *testing.T) {
		conn := s.mustConnect("fn", "first", "trickle")
		var err error
		for range 3 {
			if _, err = conn.Exec(t.Context(), "SELECT 1"); err != nil {
				break
			}
		}
		refusal, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || refusal.Code != "53400" || !strings.Contains(refusal.Detail, "rule=") || !strings.HasPrefix(refusal.Hint, "retry after ") {
			t.Fatalf("got %+v", err)
		}
		if conn.IsClosed() {
			t.Error("the connection is closed")
		}
	})
	t.Run("a wrong password is refused", func(t *testing.T) {
		_, err := s.connect("fn", "second", "orders")
		if refusal, ok := errors.AsType[*pgconn.PgError](err); !ok || refusal.Code != "28P01" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the admin listener tells", func(t *testing.T) {
		for _, path := range []string{"/healthz", "/readyz"} {
			if code, body := s.get(path); code != http.StatusOK {
				t.Errorf("%s: %d %s", path, code, body)
			}
		}
		_, metrics := s.get("/metrics")
		for _, want := range []string{
			`weir_admitted_total{caller="default",priority="normal",resource="orders"} `,
			`weir_refused_total{caller="default",mode="enforce",reason="rate",resource="trickle"} 1`,
			`weir_logins_total{method="scram-sha-256",outcome="ok"} `,
			`weir_budget{resource="orders"} 5`,
			`weir_fleet_up 1`,
			`weir_fleet_members 1`,
		} {
			if !strings.Contains(metrics, "\n"+want) {
				t.Errorf("no %s in\n%s", want, metrics)
			}
		}
	})
	t.Run("the admin listener lists sessions", func(t *testing.T) {
		code, body := s.get("/api/v1/sessions?resource=orders&state=idle")
		var list struct {
			Sessions []struct {
				ID   uint32 `json:"id"`
				User string `json:"user"`
			} `json:"sessions"`
		}
		if err := json.Unmarshal([]byte(body), &list); code != http.StatusOK || err != nil {
			t.Fatalf("%d %s", code, body)
		}
		if len(list.Sessions) != 1 || list.Sessions[0].ID != conn.PgConn().PID() || list.Sessions[0].User != "fn" {
			t.Errorf("got %s", body)
		}
	})
	t.Run("healthcheck", func(t *testing.T) {
		if got := weirRun(t, "healthcheck", "--ready", "--admin", s.admin); got != (output{exitOK, "ok\n", ""}) {
			t.Errorf("got %+v", got)
		}
	})
}

func TestServeOneUpstream(t *testing.T) {
	upstream := pgtest.Shared(t).DSN()
	pgtest.NoLeaks(t)
	ping := func(s *served, user, password string) error {
		conn, err := s.connect(user, password, pgserver.Database)
		if err != nil {
			return err
		}
		return conn.Ping(t.Context())
	}
	t.Run("on loopback clients are believed", func(t *testing.T) {
		t.Setenv("WEIR_UPSTREAM", upstream)
		s := serve(t, "--listen=127.0.0.1:0", "--admin=127.0.0.1:0")
		if err := ping(s, "anyone", ""); err != nil {
			t.Error(err)
		}
	})
	t.Run("elsewhere they need what the DSN has", func(t *testing.T) {
		s := serve(t, "--upstream", upstream, "--listen=0.0.0.0:0", "--admin=127.0.0.1:0")
		s.listen = strings.Replace(s.listen, "[::]", "127.0.0.1", 1)
		if err := ping(s, pgserver.App.Name, pgserver.App.Password); err != nil {
			t.Error(err)
		}
		for user, password := range map[string]string{pgserver.App.Name: "guess", "anyone": pgserver.App.Password} {
			err := ping(s, user, password)
			if refusal, ok := errors.AsType[*pgconn.PgError](err); !ok || refusal.Code != "28P01" {
				t.Errorf("%s is let in: %v", user, err)
			}
		}
	})
}

const fleetConfig = `listen: 127.0.0.1:0
admin: 127.0.0.1:0
log: { format: json }
fleet: { redis: "${REDIS}" }
auth: { method: trust }
resources:
  orders: { upstream: "${UPSTREAM}", rate: { per_second: 1000 } }
  gone: { upstream: "postgres://app@${GONE}/gone", breaker: { failures: 1, cooldown: 20s, max_cooldown: 20s } }
`

func TestFleet(t *testing.T) {
	t.Setenv("UPSTREAM", pgtest.Shared(t).DSN())
	t.Setenv("REDIS", redistest.Start(t).URL()+"?read_timeout=5s&write_timeout=5s&dial_timeout=5s")
	t.Setenv("GONE", closedPort(t))
	pgtest.NoLeaks(t)
	file := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(file, []byte(fleetConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	one, two := serve(t, "--config", file), serve(t, "--config", file)
	for _, s := range []*served{one, two} {
		s.awaitMetric("weir_fleet_up 1")
		s.awaitMetric("weir_fleet_members 2")
	}
	if _, err := one.mustConnect("fn", "", "orders").Exec(t.Context(), "SELECT 1"); err != nil {
		t.Error(err)
	}
	one.awaitMetric(`weir_rate_tokens_leased_total{resource="orders"} `)

	// One weir finds out; the other knows without having tried.
	if _, err := one.connect("fn", "", "gone"); err == nil {
		t.Error("a resource without a server answers")
	}
	two.await("breaker open")
	two.awaitMetric(`weir_breaker_state{resource="gone"} 2`)
	if code, body := two.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "resource gone: ") {
		t.Errorf("readyz: %d %s", code, body)
	}
	if code, _ := two.get("/healthz"); code != http.StatusOK {
		t.Errorf("healthz: %d", code)
	}
	if _, err := two.mustConnect("fn", "", "orders").Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("another resource suffers: %v", err)
	}
}

// awaitMetric waits for what another process must bring about.
func (s *served) awaitMetric(line string) {
	s.t.Helper()
	var body string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, body = s.get("/metrics"); strings.Contains(body, "\n"+line) {
			return
		}
	}
	s.t.Fatalf("waited in vain for %s in\n%s", line, body)
}

// begin begins a transaction that has a server connection.
func begin(t *testing.T, conn *pgx.Conn) pgx.Tx {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Fatal(err)
	}
	return tx
}

func TestDrain(t *testing.T) {
	s, _ := serveShared(t, "30s")
	idle := s.mustConnect("fn", "first", "orders")
	busy := s.mustConnect("fn", "first", "orders")
	tx := begin(t, busy)
	s.stop()
	s.await("draining")

	if err := idle.Ping(t.Context()); err == nil {
		t.Error("an idle session goes on while draining")
	}
	if _, err := tx.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("a running transaction is disturbed: %v", err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Errorf("a running transaction cannot commit: %v", err)
	}
	if code := <-s.exit; code != exitOK {
		t.Errorf("exit code %d, want %d", code, exitOK)
	}
}

func TestDrainEndsWithItsTimeout(t *testing.T) {
	s, _ := serveShared(t, "50ms")
	begin(t, s.mustConnect("fn", "first", "orders"))
	s.stop()
	s.await("drain_timeout is over")
	if code := <-s.exit; code != exitOK {
		t.Errorf("exit code %d, want %d", code, exitOK)
	}
}

func TestSecondSignalStopsAtOnce(t *testing.T) {
	s, _ := serveShared(t, "1h")
	begin(t, s.mustConnect("fn", "first", "orders"))
	signalSelf(t, syscall.SIGTERM)
	s.await("draining")
	signalSelf(t, syscall.SIGINT)
	s.await("second signal")
	if code := <-s.exit; code != exitOK {
		t.Errorf("exit code %d, want %d", code, exitOK)
	}
}

func signalSelf(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), signal); err != nil {
		t.Fatal(err)
	}
}

func TestReload(t *testing.T) {
	s, file := serveShared(t, "1s")
	before := s.mustConnect("fn", "first", "orders")

	writeConfig(t, file, "forever", "second")
	signalSelf(t, syscall.SIGHUP)
	s.await("configuration refused, the old one stays: " + file + ":4:16: drain_timeout: ")
	s.mustConnect("fn", "first", "orders")

	writeConfig(t, file, "1s", "second")
	signalSelf(t, syscall.SIGHUP)
	s.await("configuration reloaded")
	s.mustConnect("fn", "second", "orders")
	if _, err := s.connect("fn", "first", "orders"); err == nil {
		t.Error("the old password still opens")
	}
	if _, err := before.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("who was logged in is disturbed: %v", err)
	}
}

func TestServeRefusesToStart(t *testing.T) {
	t.Chdir(t.TempDir())
	taken := openPort(t)
	tests := map[string]struct {
		args       []string
		wantCode   int
		wantStderr string
	}{
		"no configuration":              {nil, exitUsage, "there is no weir.yaml here; name a file with --config, or a database with --upstream"},
		"a file that is not there":      {[]string{"--config=other.yaml"}, exitUsage, "other.yaml: open: no such file or directory"},
		"an upstream that is none":      {[]string{"--upstream=mysql://db/orders"}, exitUsage, "--upstream: is not a PostgreSQL URL"},
		"a listen address that is none": {[]string{"--upstream=postgres://db/orders", "--listen=6432"}, exitUsage, "--listen: \"6432\" is not an address"},
		"an open door without a key":    {[]string{"--upstream=postgres://app@db/orders", "--listen=0.0.0.0:0"}, exitUsage, "can be reached from other machines"},
		"an address that is taken":      {[]string{"--upstream=postgres://app@127.0.0.1:1/orders", "--admin=127.0.0.1:0", "--listen=" + taken}, exitFailure, "address already in use"},
		"an admin address for everyone": {[]string{"--upstream=postgres://app@127.0.0.1:1/orders", "--admin=0.0.0.0:0"}, exitUsage, "--admin: 0.0.0.0:0 can be reached from other machines, and there is no token"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := weirRun(t, append([]string{"serve"}, test.args...)...)
			if got.code != test.wantCode || !strings.Contains(got.stderr, test.wantStderr) {
				t.Errorf("got %d %q, want %d %q", got.code, got.stderr, test.wantCode, test.wantStderr)
			}
		})
	}
}
