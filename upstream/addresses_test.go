package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/upstream"
)

// silent accepts connections and says nothing.
func silent(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // the kernel accepts
	return l.Addr().(*net.TCPAddr).Port
}

// dropping takes no connections, and does not say so: its backlog is full.
func dropping(t *testing.T) (port int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		t.Cleanup(func() { _ = unix.Close(fd) })
		err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0))
	}
	if err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port = name.(*unix.SockaddrInet4).Port
	for range 20 {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 100*time.Millisecond)
		if err != nil {
			if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() || errors.Is(err, syscall.ECONNREFUSED) {
				t.Skipf("this system refuses what does not fit the backlog: %v", err)
			}
			return port
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Skip("this system's backlog does not get full")
	return 0
}

func TestEachHostHasItsShareOfTheTime(t *testing.T) {
	for name, first := range map[string]func(*testing.T) int{"silent": silent, "dropping": dropping} {
		t.Run(name, func(t *testing.T) {
			fake := pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}.Serve(t)
			good, err := upstream.Parse(fake.DSN())
			if err != nil {
				t.Fatal(err)
			}
			u, err := upstream.Parse(fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d user=app dbname=app sslmode=disable", first(t), good.Hosts()[0].Port))
			if err != nil {
				t.Fatal(err)
			}
			login(t, u, fmt.Sprintf("127.0.0.1:%d", good.Hosts()[0].Port))
		})
	}
}

func TestEachAddressOfANameHasItsShareOfTheTime(t *testing.T) {
	fake := pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}.Serve(t)
	good, err := upstream.Parse(fake.DSN())
	if err != nil {
		t.Fatal(err)
	}
	u, err := upstream.Parse("host=db.example user=app dbname=app sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("127.0.0.1:%d", good.Hosts()[0].Port)
	addresses := []string{fmt.Sprintf("127.0.0.1:%d", silent(t)), at}
	u.SetLookup(func(context.Context, string) ([]string, error) { return addresses, nil })
	login(t, u, at)
	if addresses[1] != at {
		t.Error("what the lookup returned was changed")
	}
}

// login logs in twice: the second time at once at the address that has answered.
func login(t *testing.T, u *upstream.Upstream, at string) {
	t.Helper()
	for i, most := range []time.Duration{900 * time.Millisecond, 300 * time.Millisecond} {
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		began := time.Now()
		conn, err := u.Connect(ctx)
		stop()
		if err != nil {
			t.Fatalf("login %d: %v", i, err)
		}
		if got := conn.Conn().RemoteAddr().String(); got != at {
			t.Errorf("login %d went to %s, want %s", i, got, at)
		}
		if took := time.Since(began); took > most {
			t.Errorf("login %d took %v", i, took)
		}
		u.Answered(at)
		_ = conn.Close(t.Context())
	}
}
