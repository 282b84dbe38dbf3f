package pgserver_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/internal/pgserver"
)

// asParent makes the test binary start a server and wait to be killed.
const asParent = "PGSERVER_TEST_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(asParent) == "" {
		os.Exit(m.Run())
	}
	s, err := pgserver.Start(pgserver.Config{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.PID(), s.SocketDir)
	time.Sleep(time.Minute)
	os.Exit(1)
}

func start(t *testing.T, cfg pgserver.Config) *pgserver.Server {
	t.Helper()
	s, err := pgserver.Start(cfg)
	if errors.Is(err, pgserver.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.SocketDir); !os.IsNotExist(err) {
			t.Errorf("Close left %s behind", s.SocketDir)
		}
	})
	return s
}

func TestEveryUserLogsIn(t *testing.T) {
	for _, version := range []int{0, pgserver.CachedVersion} {
		t.Run(fmt.Sprintf("version %d", version), func(t *testing.T) {
			s := start(t, pgserver.Config{Version: version, TLS: true, MaxConnections: 17})
			rows, err := s.Query(t.Context(), "SHOW max_connections")
			if err != nil {
				t.Fatal(err)
			}
			if got := rows[0][0]; got != "17" {
				t.Errorf("max_connections is %s, want 17", got)
			}

			for _, u := range []pgserver.User{
				pgserver.Superuser, pgserver.App, pgserver.Legacy, pgserver.Plain, pgserver.Open,
			} {
				for _, mode := range []string{"disable", "require"} {
					dsn := strings.Replace(s.DSNFor(u), "sslmode=disable", "sslmode="+mode, 1)
					conn, err := pgconn.Connect(t.Context(), dsn)
					if err != nil {
						t.Errorf("%s, sslmode %s: %v", u.Name, mode, err)
						continue
					}
					if err := conn.Close(t.Context()); err != nil {
						t.Errorf("%s: %v", u.Name, err)
					}
				}
			}

			wrong := pgserver.App
			wrong.Password = "guess"
			if conn, err := pgconn.Connect(t.Context(), s.DSNFor(wrong)); err == nil {
				_ = conn.Close(t.Context())
				t.Error("a wrong password logs in")
			}
		})
	}
}

func TestRestartKeepsPortAndData(t *testing.T) {
	s := start(t, pgserver.Config{})
	if err := s.Exec(t.Context(), "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)"); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []pgserver.Mode{pgserver.Fast, pgserver.Immediate} {
		addr, pid := s.Addr(), s.PID()
		if err := s.Restart(mode); err != nil {
			t.Fatal(err)
		}
		if s.Addr() != addr || s.PID() == pid {
			t.Errorf("after restart: address %s (was %s), process id %d (was %d)", s.Addr(), addr, s.PID(), pid)
		}
		rows, err := s.Query(t.Context(), "SELECT count(*) FROM pg_class WHERE relname = 'kept'")
		if err != nil {
			t.Fatal(err)
		}
		if rows[0][0] != "1" {
			t.Error("the table did not survive the restart")
		}
	}
}

func TestServerDiesWithTheProcessThatStartedIt(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.CommandContext(t.Context(), exe)
	parent.Env = append(os.Environ(), asParent+"=1")
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	first, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatalf("the parent says %q", line)
	}

	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed, as wanted

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for running(pid) || exists(dir) {
		if ctx.Err() != nil {
			t.Fatalf("server running: %v, %s there: %v", running(pid), dir, exists(dir))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func running(pid int) bool { return syscall.Kill(pid, 0) == nil }

func exists(dir string) bool {
	left, _ := filepath.Glob(dir)
	return len(left) > 0
}
