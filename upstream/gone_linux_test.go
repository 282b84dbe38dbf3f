package upstream_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/upstream"
)

// A machine that is lost says nothing: not that the connection is over, nor that it has received anything. It is a network namespace here,
// whose packets are dropped.
func TestAMachineThatIsGoneIsNoticed(t *testing.T) {
	const gone = 5 * time.Second
	there := newMachine(t)
	u, err := upstream.Parse(fmt.Sprintf("postgres://app@%s/app?sslmode=disable", there.addr))
	if err != nil {
		t.Fatal(err)
	}
	login := func() net.Conn {
		conn, err := u.WithUserTimeout(gone).Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		hijacked, err := conn.Hijack()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = hijacked.Conn.Close() })
		return hijacked.Conn
	}
	conns := map[string]net.Conn{"it is asked something": login(), "it rests": login()}
	there.vanish()
	if _, err := conns["it is asked something"].Write([]byte("Q\x00\x00\x00\x05\x00")); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var all sync.WaitGroup
	for name, conn := range conns {
		all.Go(func() {
			_ = conn.SetReadDeadline(began.Add(3 * gone))
			_, err := conn.Read(make([]byte, 1))
			if took := time.Since(began); !errors.Is(err, syscall.ETIMEDOUT) && !errors.Is(err, syscall.EHOSTUNREACH) || took > 2*gone {
				t.Errorf("while %s: %v after %v, want that it is gone after about %v", name, err, took, gone)
			}
		})
	}
	all.Wait()
}

// lostMachine is a server in a network namespace of its own.
type lostMachine struct {
	t               *testing.T
	namespace, addr string
	here            string // our address
}

// newMachine skips the test where the machine does not allow for namespaces.
func newMachine(t *testing.T) *lostMachine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may make network namespaces")
	}
	id := os.Getpid() % 250
	m := &lostMachine{t: t, namespace: fmt.Sprintf("weirtest%d", os.Getpid()), here: fmt.Sprintf("198.18.%d.1", id)}
	there, ours, theirs := fmt.Sprintf("198.18.%d.2", id), fmt.Sprintf("wt%da", os.Getpid()), fmt.Sprintf("wt%db", os.Getpid())
	t.Cleanup(func() { // the link as well: connections that are not over keep a namespace
		_ = exec.Command("ip", "link", "delete", ours).Run()
		_ = exec.Command("ip", "netns", "delete", m.namespace).Run()
	})
	for _, command := range []string{
		"netns add " + m.namespace,
		"link add " + ours + " type veth peer name " + theirs + " netns " + m.namespace,
		"address add " + m.here + "/30 dev " + ours,
		"link set " + ours + " up",
		"-n " + m.namespace + " address add " + there + "/30 dev " + theirs,
		"-n " + m.namespace + " link set " + theirs + " up",
	} {
		if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			t.Skipf("ip %s: %v: %s", command, err, out)
		}
	}
	m.addr = m.serve(there)
	return m
}

// serve lets clients in there. A socket belongs to the namespace of the thread that has made it.
func (m *lostMachine) serve(there string) (addr string) {
	listening := make(chan net.Listener, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		defer close(listening)
		fd, err := unix.Open("/run/netns/"+m.namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		if err != nil {
			m.t.Error(err)
			return
		}
		l, err := net.Listen("tcp", there+":0")
		if err != nil {
			m.t.Error(err)
			return
		}
		listening <- l
	}()
	l, ok := <-listening
	if !ok {
		m.t.FailNow()
	}
	fake := pgtest.Script{pgtest.AcceptStartup(), func(s *pgtest.ServerConn) error {
		for {
			if _, err := s.Receive(); err != nil {
				return nil
			}
		}
	}}.Serve(m.t)
	var running sync.WaitGroup
	var open []net.Conn // of the goroutine that accepts
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				break
			}
			server, err := net.Dial("tcp", fake.Addr())
			if err != nil {
				m.t.Error(err)
				break
			}
			open = append(open, client, server)
			running.Go(func() { _, _ = io.Copy(client, server) })
			running.Go(func() { _, _ = io.Copy(server, client) })
		}
		for _, conn := range open {
			_ = conn.Close()
		}
	})
	m.t.Cleanup(func() { _ = l.Close(); running.Wait() })
	return l.Addr().String()
}

// vanish drops all that the machine sends.
func (m *lostMachine) vanish() {
	m.t.Helper()
	if out, err := exec.Command("ip", "-n", m.namespace, "route", "add", "blackhole", m.here+"/32").CombinedOutput(); err != nil {
		m.t.Fatalf("%v: %s", err, out)
	}
}
