package redistest_test

import (
	"net"
	"testing"

	"github.com/weirproxy/weir/internal/redistest"
)

func TestServer(t *testing.T) {
	s := redistest.Start(t)
	addr := s.Addr()

	s.Command("SET", "a", "1")
	s.Pause()
	s.Resume()
	if got := s.Command("DBSIZE"); got != ":1" {
		t.Errorf("keys after pause and resume: %q, want :1", got)
	}
	s.FlushAll()
	if got := s.Command("DBSIZE"); got != ":0" {
		t.Errorf("keys after FlushAll: %q, want :0", got)
	}
	s.Stop()
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Error("a stopped server still accepts connections")
	}
	s.Restart()
	if s.Addr() != addr {
		t.Errorf("address changed from %s to %s by a restart", addr, s.Addr())
	}
	s.Pause() // a frozen server is cleaned up all the same
}

func TestSentinelAndCluster(t *testing.T) {
	master := redistest.Start(t)
	sentinel := redistest.Sentinel(t, "main", master)
	if got := sentinel.Command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"); got != "*2" {
		t.Errorf("the sentinel says %q, want an address", got)
	}
	redistest.Cluster(t)
}
