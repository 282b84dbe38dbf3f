package proxy_test

import (
	"errors"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy"
)

// Trap 52: a storm of connects waits in the kernel, as many as it is allowed to keep, and not in the retries of SYN packets.
func TestTheBacklogIsAsLongAsTheKernelAllows(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("only Linux tells")
	} else if err != nil {
		t.Fatal(err)
	}
	want, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	var got *unix.TCPInfo
	pgtest.Control(t, listen(t), func(fd int) (err error) {
		got, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	if int(got.Sacked) != want { // of a listening socket: sk_max_ack_backlog (tcp_get_info in Linux' net/ipv4/tcp.c)
		t.Errorf("the backlog is %d, want %d", got.Sacked, want)
	}
}

func TestAcceptedConnectionsInheritTheirOptions(t *testing.T) {
	l := listen(t)
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	options := map[string][2]int{
		"SO_KEEPALIVE": {unix.SOL_SOCKET, unix.SO_KEEPALIVE},
		"TCP_NODELAY":  {unix.IPPROTO_TCP, unix.TCP_NODELAY},
	}
	if runtime.GOOS == "linux" {
		options["TCP_USER_TIMEOUT"] = [2]int{unix.IPPROTO_TCP, 18} // linux/tcp.h
	}
	for name, option := range options {
		var on int
		pgtest.Control(t, conn, func(fd int) (err error) {
			on, err = unix.GetsockoptInt(fd, option[0], option[1])
			return err
		})
		if on == 0 {
			t.Errorf("%s of an accepted connection is off", name)
		}
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := proxy.Listen(t.Context(), "127.0.0.1:0", 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}
