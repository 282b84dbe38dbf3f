//go:build !linux

package upstream_test

import (
	"net"
	"testing"
)

func checkSockets(_ *testing.T, dial func(query string) net.Conn) {
	dial("keepalives_idle=31&tcp_user_timeout=5000")
}
