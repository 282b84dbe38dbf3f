package drivers_test

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/certs"
	"github.com/weirproxy/weir/internal/pgserver"
)

// weir is the program, built from this tree and running.
type weir struct {
	port int
	ca   string // the file of the authority that signed its certificate

	mu   sync.Mutex // guards text, which the program's output is copied to
	text bytes.Buffer
}

func (w *weir) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *weir) output() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// startWeir runs one weir with a resource for each driver and pool mode, in front of its PostgreSQL.
func startWeir(t *testing.T, servers map[int]*pgserver.Server) *weir {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "weir")
	build := exec.CommandContext(t.Context(), "go", append(append([]string{"build"}, raceFlag...), "-o", bin, "github.com/weirproxy/weir/cmd/weir")...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}

	w := &weir{port: freePort(t), ca: filepath.Join(dir, "ca.crt")}
	writeCertificates(t, dir)
	config := filepath.Join(dir, "weir.yaml")
	if err := os.WriteFile(config, []byte(weirConfig(w.port, freePort(t), servers)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "serve", "--config", config)
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	var exit error
	go func() {
		defer close(exited)
		exit = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself, which the next lines tell
		select {
		case <-exited:
			if exit != nil {
				t.Errorf("weir serve: %v", exit)
			}
		case <-time.After(20 * time.Second):
			t.Error("weir serve does not end")
			_ = cmd.Process.Signal(syscall.SIGQUIT)
			<-exited
		}
		if t.Failed() {
			t.Logf("weir: %s", clipEnd(w.output()))
		}
	})

	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", w.port))
		if err == nil {
			conn.Close()
			return w
		}
		select {
		case <-exited:
			t.Fatalf("weir serve: %v", exit)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func writeCertificates(t *testing.T, dir string) {
	t.Helper()
	authority, err := certs.NewAuthority("drivers")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := authority.Issue(certs.Request{CommonName: "weir", Hosts: []string{"localhost", "127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"ca.crt": authority.PEM, "server.crt": cert, "server.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func weirConfig(port, admin int, servers map[int]*pgserver.Server) string {
	var b strings.Builder
	fmt.Fprintf(&b, "listen: 127.0.0.1:%d\nadmin: 127.0.0.1:%d\n", port, admin)
	fmt.Fprintf(&b, "tls: { mode: prefer, cert: server.crt, key: server.key }\n")
	fmt.Fprintf(&b, "users:\n  %s: { password: %s }\nresources:\n", pgserver.App.Name, pgserver.App.Password)
	for _, d := range drivers {
		pg := servers[d.postgresql]
		if pg == nil {
			continue
		}
		for _, m := range modes {
			database := m.name + "_" + d.id()
			upstream := url.URL{
				Scheme: "postgres", User: url.UserPassword(pgserver.App.Name, pgserver.App.Password), Host: pg.Addr(), Path: database,
				RawQuery: "sslmode=disable",
			}
			for _, r := range []struct {
				suffix      string
				connections int
				wait        time.Duration
			}{{"", 8, 10 * time.Second}, {"_one", 1, 3 * time.Second}, {"_two", 2, 3 * time.Second}} {
				fmt.Fprintf(&b, "  %s%s:\n    kind: postgres\n    upstream: %s\n    connections: %d\n    pool_mode: %s\n    queue: { wait: %s }\n",
					database, r.suffix, upstream.String(), r.connections, m.name, r.wait)
			}
		}
	}
	return b.String()
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func clipEnd(s string) string {
	const most = 4000
	return s[max(0, len(s)-most):]
}
