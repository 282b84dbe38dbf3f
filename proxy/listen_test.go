package proxy_test

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

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
	l, err := proxy.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got *unix.TCPInfo
	if e := raw.Control(func(fd uintptr) {
		got, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); e != nil || err != nil {
		t.Fatal(e, err)
	}
	if int(got.Sacked) != want { // of a listening socket: sk_max_ack_backlog (tcp_get_info in Linux' net/ipv4/tcp.c)
		t.Errorf("the backlog is %d, want %d", got.Sacked, want)
	}
}

func TestAcceptedConnectionsInheritTheirOptions(t *testing.T) {
	l, err := proxy.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
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
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for name, option := range map[string][2]int{
		"SO_KEEPALIVE": {syscall.SOL_SOCKET, syscall.SO_KEEPALIVE},
		"TCP_NODELAY":  {syscall.IPPROTO_TCP, syscall.TCP_NODELAY},
	} {
		var on int
		if err := raw.Control(func(fd uintptr) {
			on, err = syscall.GetsockoptInt(int(fd), option[0], option[1])
		}); err != nil {
			t.Fatal(err)
		}
		if err != nil || on == 0 {
			t.Errorf("%s of an accepted connection is %d, %v", name, on, err)
		}
	}
}
