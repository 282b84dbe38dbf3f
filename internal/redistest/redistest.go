// Package redistest runs a throwaway Redis for one test: a free port on the loopback interface, nothing kept on disk, and
// nothing left behind, not even when the test binary is killed. It can be stopped, restarted, frozen and emptied under the
// feet of whoever uses it.
//
// A small shell stands between us and the server and reads from a pipe that we hold. Whatever ends this process also
// closes the pipe, and then the shell kills the server.
package redistest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long a server may take to start, to answer or to end.
const patience = 10 * time.Second

// Server is one redis-server. Its methods are for the goroutine of the test that started it.
type Server struct {
	tb   testing.TB
	dir  string
	args []string // of redis-server, ahead of what every server gets
	port int

	shell *exec.Cmd
	hold  io.Closer // our end of the shell's standard input: closing it kills the server
	pid   int       // of redis-server; 0 while it is stopped
}

// Start runs a redis-server of its own for tb until tb ends; args are further arguments to it, say "--appendonly", "yes".
// It skips the test where no redis-server is installed.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	s := Reserve(tb, args...)
	s.Restart()
	return s
}

// Reserve is Start without starting: the address is known and nobody listens there until Restart.
func Reserve(tb testing.TB, args ...string) *Server {
	tb.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		tb.Skip("redis-server is not installed (Debian: apt-get install redis-server)")
	}
	s := &Server{tb: tb, dir: tb.TempDir(), args: args, port: freePort(tb)}
	tb.Cleanup(s.Stop)
	return s
}

// Sentinel starts a Redis Sentinel that watches master under the given name.
func Sentinel(tb testing.TB, name string, master *Server) *Server {
	tb.Helper()
	conf := filepath.Join(tb.TempDir(), "sentinel.conf") // Sentinel rewrites it
	line := fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 1\n", name, master.port)
	if err := os.WriteFile(conf, []byte(line), 0o600); err != nil {
		tb.Fatalf("redistest: %v", err)
	}
	return Start(tb, conf, "--sentinel")
}

// Cluster starts a Redis Cluster of one node.
func Cluster(tb testing.TB) *Server {
	tb.Helper()
	s := Start(tb, "--cluster-enabled", "yes")
	s.Command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if reply, err := s.ask("SET probe 1"); err == nil && reply == "+OK" {
			return s
		} else if time.Now().After(deadline) {
			tb.Fatalf("redistest: the cluster does not get ready: %q, %v", reply, err)
		}
	}
}

// Addr is where the server listens, the same after a Restart.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// URL names the server's database 0.
func (s *Server) URL() string { return "redis://" + s.Addr() + "/0" }

// Stop kills the server; all it knew is lost unless the arguments of Start say otherwise. Stopping twice is harmless.
func (s *Server) Stop() {
	s.tb.Helper()
	if s.pid == 0 {
		return
	}
	s.pid = 0
	s.hold.Close()
	if err := s.shell.Wait(); err != nil {
		s.tb.Errorf("redistest: stop: %v", err)
	}
}

// Restart stops the server if it runs, starts it on the same port, and returns when it answers.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Stop()
	if err := s.run(); err != nil {
		s.tb.Fatalf("redistest: start: %v", err)
	}
	for deadline := time.Now().Add(patience); ; {
		reply, err := s.ask("PING")
		if err == nil && strings.HasPrefix(reply, "+PONG") {
			return
		}
		if time.Now().After(deadline) {
			s.tb.Fatalf("redistest: no answer from %s: %q, %v", s.Addr(), reply, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Pause freezes the server: connections stay open and even new ones are accepted, but nothing is answered.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

// FlushAll makes the server forget all keys.
func (s *Server) FlushAll() {
	s.tb.Helper()
	s.Command("FLUSHALL")
}

// Command sends one command of words without spaces in them and returns the first line of its reply.
func (s *Server) Command(words ...string) string {
	s.tb.Helper()
	reply, err := s.ask(strings.Join(words, " "))
	if err != nil || strings.HasPrefix(reply, "-") {
		s.tb.Fatalf("redistest: %v: %q, %v", words, reply, err)
	}
	return reply
}

// guard runs the server as a child, tells its pid, and kills it when standard input ends.
const guard = `redis-server "$@" </dev/null >/dev/null 2>&1 &
pid=$!
echo $pid
read -r _
kill -KILL $pid 2>/dev/null
wait $pid 2>/dev/null
exit 0`

func (s *Server) run() error {
	args := slices.Concat([]string{"-c", guard, "redis-server"}, s.args, []string{
		"--bind", "127.0.0.1", "--port", strconv.Itoa(s.port), "--dir", s.dir, "--logfile", s.dir + "/log",
		"--daemonize", "no",
	})
	if !slices.Contains(s.args, "--sentinel") {
		args = append(args, "--save", "")
	}
	s.shell = exec.Command("sh", args...)
	in, err := s.shell.StdinPipe()
	if err != nil {
		return err
	}
	out, err := s.shell.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.shell.Start(); err != nil {
		return err
	}
	s.hold = in
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("read its pid: %w", err)
	}
	s.pid, err = strconv.Atoi(strings.TrimSpace(line))
	return err
}

func (s *Server) signal(sig syscall.Signal) {
	s.tb.Helper()
	if err := syscall.Kill(s.pid, sig); err != nil {
		s.tb.Fatalf("redistest: %v: %v", sig, err)
	}
}

// ask sends an inline command over a connection of its own.
func (s *Server) ask(command string) (string, error) {
	conn, err := net.DialTimeout("tcp", s.Addr(), patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, command+"\r\n"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("redistest: find a free port: %v", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
