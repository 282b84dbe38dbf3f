package postgres_test

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy"
)

// fewFiles is set for the process that TestDescriptorsThatAreKept starts.
const fewFiles = "WEIR_TEST_KEPT_FILES"

// Before file descriptors run out clients are refused, so that there are some for server connections, and for cancel requests even beside
// many who are silent.
func TestDescriptorsThatAreKept(t *testing.T) {
	if os.Getenv(fewFiles) == "" {
		test, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		child := exec.CommandContext(t.Context(), test, "-test.run=^TestDescriptorsThatAreKept$", "-test.v")
		child.Env = append(os.Environ(), fewFiles+"=1")
		if out, err := child.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS")) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	const limit, connections = 400, 4
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		t.Fatal(err)
	}
	pg := pgtest.Start(t, pgtest.Config{})
	w := start(t, settings{upstream: pg.DSN(), servers: connections, breaker: breaker.New(database, breaker.Config{Failures: 1}, nil)})
	inside, another := w.client(), w.client()
	inside.Send(query("SELECT pg_sleep(60)"))
	awaitSleep(t, pg)

	silent := sockets(t, 60) // connecting them takes a descriptor of weir's only
	canceller, late := sockets(t, 1)[0], sockets(t, 1)[0]
	var files []*os.File
	for len(files) == 0 || files[len(files)-1].Fd() < limit-connections-64 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	for _, fd := range silent {
		if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 9}}); err != nil {
			t.Fatal(err)
		}
		connect(t, fd, w.addr)
	}
	w.eventually("they are refused", func() bool { return w.Stats().Shortages >= int64(len(silent)) })

	connect(t, canceller, w.addr)
	if _, err := syscall.Write(canceller, pgtest.Encode(&pgproto3.CancelRequest{ProcessID: inside.PID, SecretKey: inside.Secret})); err != nil {
		t.Fatal(err)
	}
	if got := lastError(inside.UntilReady(1)); got != "57014" {
		t.Errorf("what was cancelled ends with %q", got)
	}
	connect(t, late, w.addr)
	if _, err := syscall.Write(late, good); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 1000)
	n, err := syscall.Read(late, answer)
	if got := string(answer[:max(0, n)]); err != nil || !strings.Contains(got, proxy.Descriptors.Message) {
		t.Errorf("who comes late reads %q, %v", got, err)
	}
	inside.Query("BEGIN")
	if got := lastError(another.Query("SELECT 1")); got != "" { // on a new connection
		t.Errorf("who needs another connection is told %q", got)
	}
	if err := w.Ready(); w.state() != 0 || err == nil || !strings.Contains(err.Error(), "file descriptors") {
		t.Errorf("the breaker is in state %d, and readiness says %v", w.state(), err)
	}
	for _, f := range files {
		_ = f.Close()
	}
	for _, fd := range append(silent, canceller, late) {
		_ = syscall.Close(fd)
	}
	w.eventually("there is room again", func() bool { return w.tryPgconn(t, "") == nil })
}

// sockets are so many that are not connected.
func sockets(t *testing.T, n int) (all []int) {
	t.Helper()
	for range n {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fd)
	}
	return all
}

func connect(t *testing.T, fd int, addr string) {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	number, _ := strconv.Atoi(port)
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: number, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
}
