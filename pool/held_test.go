package pool_test

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/pool"
)

// middle passes connections on to a server, each by itself, until it is stuck with those that it has: it takes what they say, and passes
// nothing on, not even their end.
type middle struct {
	made    atomic.Int64
	running sync.WaitGroup

	mu      sync.Mutex
	stuck   map[net.Conn]bool // connections to the server, by whether what is said to them is dropped
	clients []net.Conn
}

// listen starts it, and returns its connection string.
func (m *middle) listen(t *testing.T, dsn string) string {
	t.Helper()
	m.stuck = make(map[net.Conn]bool)
	return pgtest.Between(t, dsn, &m.running, m.end, m.pass)
}

func (m *middle) pass(client, server net.Conn) {
	m.mu.Lock()
	m.stuck[server] = false
	m.clients = append(m.clients, client)
	m.mu.Unlock()
	m.made.Add(1)
	m.running.Go(func() {
		_, _ = io.Copy(client, server)
		if !m.isStuck(server) {
			client.Close()
		}
	})
	m.running.Go(func() {
		b := make([]byte, 4096)
		for {
			n, err := client.Read(b)
			if m.isStuck(server) {
				if err != nil {
					return
				}
				continue
			}
			if err != nil {
				server.Close()
				return
			}
			_, _ = server.Write(b[:n])
		}
	})
}

func (m *middle) isStuck(server net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stuck[server]
}

// stick has it be stuck with what it has now.
func (m *middle) stick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for server := range m.stuck {
		m.stuck[server] = true
	}
}

// lose ends what it is stuck with, towards the server.
func (m *middle) lose() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for server, stuck := range m.stuck {
		if stuck {
			server.Close()
		}
	}
}

func (m *middle) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for server := range m.stuck {
		server.Close()
	}
	for _, c := range m.clients {
		c.Close()
	}
}

// A connection that something between weir and the server holds does not count for good, whether the server has ended its process or that waits
// for weir. As long as a process is there, it counts.
func TestWhatIsHeldBetweenDoesNotCountForGood(t *testing.T) {
	pg := pgtest.Shared(t)
	tests := map[string]struct{ before, behind func(m *middle, pid int) }{
		"the server has no process": {func(m *middle, _ int) { m.lose() }, nil},
		"the process is stopped": {
			func(_ *middle, pid int) { signal(t, pid, syscall.SIGSTOP) },
			func(_ *middle, pid int) { signal(t, pid, syscall.SIGCONT) },
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, pool.Config{Connections: 1})
			b.AskAboutHeldAfter(time.Millisecond)
			var m middle
			p := b.pool(m.listen(t, pg.DSNFor(pgserver.Open)))
			s := b.borrow(p)
			pid := int(s.PID())
			m.stick()
			test.before(&m, pid)
			on(s, s.Retire)
			w := b.ask(p)
			if test.behind != nil {
				m.await(t, 4) // the connection itself, a cancel request, and two that ask
				if c := b.Counts(); c != (pool.Counts{Closing: 1}) {
					t.Errorf("the counts are %+v", c)
				}
				test.behind(&m, pid)
			}
			release(b.wait(w))
			b.eventually(pool.Counts{Idle: 1})
		})
	}
}

func signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}

// await waits until that many connections were made.
func (m *middle) await(t *testing.T, n int64) {
	t.Helper()
	for deadline := time.Now().Add(patience); m.made.Load() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections were made, want %d", m.made.Load(), n)
		}
	}
}
