package proxy_test

import (
	"net"
	"syscall"
	"testing"

	"github.com/weirproxy/weir/proxy"
)

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
