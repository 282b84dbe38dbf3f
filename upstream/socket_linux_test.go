package upstream_test

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func checkSockets(t *testing.T, dial func(query string) net.Conn) {
	t.Helper()
	option := func(conn net.Conn, level, name int) (value int) {
		t.Helper()
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if controlled := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, name) }); controlled != nil || err != nil {
			t.Fatal(controlled, err)
		}
		return value
	}
	conn := dial("keepalives_idle=31&keepalives_interval=7&keepalives_count=4&tcp_user_timeout=5000")
	for what, o := range map[string]struct{ level, name, want int }{
		"keepalives":          {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		"keepalives_idle":     {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 31},
		"keepalives_interval": {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 7},
		"keepalives_count":    {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4},
		"tcp_user_timeout":    {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 5000},
	} {
		if got := option(conn, o.level, o.name); got != o.want {
			t.Errorf("%s is %d, want %d", what, got, o.want)
		}
	}
	if got := option(dial("keepalives=0"), unix.SOL_SOCKET, unix.SO_KEEPALIVE); got != 0 {
		t.Error("keepalives=0 leaves them on")
	}
}
