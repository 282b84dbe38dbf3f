package pool_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/pool"
)

// machine answers Syncs until it is gone.
type machine struct {
	gone   atomic.Bool
	syncs  atomic.Int64
	closed chan struct{}
}

func (m *machine) script(int) pgtest.Script {
	return pgtest.Script{pgtest.AcceptStartup(), func(s *pgtest.ServerConn) error {
		for {
			message, err := s.Receive()
			if m.gone.Load() {
				<-m.closed // it does not even notice that the connection is closed
				return nil
			}
			if err != nil || message.Type == 'X' {
				return nil
			}
			m.syncs.Add(1)
			if err := s.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'}); err != nil {
				return err
			}
		}
	}}
}

func threeIdle(t *testing.T, b *bench, m *machine) (p *pool.Pool, lent *pool.Server) {
	t.Helper()
	m.closed = make(chan struct{})
	fake := pgtest.ServeEach(t, m.script)
	t.Cleanup(func() { close(m.closed) })
	p = b.pool(fake.DSN())
	var servers []*pool.Server
	for range 4 {
		servers = append(servers, b.borrow(p))
	}
	for _, s := range servers[1:] {
		release(s)
	}
	b.eventually(pool.Counts{Idle: 3, Used: 1})
	return p, servers[0]
}

// One connection that breaks has the others answer before they are lent; those that do stay.
func TestTheOthersAreTestedWhenOneBreaks(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 4})
	var m machine
	_, lent := threeIdle(t, b, &m)
	lent.Lost()
	b.eventually(pool.Counts{Idle: 3, Used: 1})
	if n := m.syncs.Load(); n != 3 {
		t.Errorf("%d were tested, want all 3", n)
	}
	lent.Lost() // somebody ends one after the other
	lent.Lost()
	if n := m.syncs.Load(); n != 3 {
		t.Errorf("they were tested again at once")
	}
	release(lent)
}

// When the machine is gone, nobody is lent what rests.
func TestNobodyGetsAConnectionToAMachineThatIsGone(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 5})
	var m machine
	p, lent := threeIdle(t, b, &m)
	m.gone.Store(true)
	began := time.Now()
	lent.Lost()
	if c := b.Counts(); c.Idle != 0 {
		t.Errorf("%+v: some may still be lent", c)
	}
	release(b.borrow(p)) // a new one, at once: the name may mean another machine by now
	if took := time.Since(began); took > 900*time.Millisecond {
		t.Errorf("another connection was there after %v", took)
	}
	b.eventually(pool.Counts{Idle: 1, Used: 1, Closing: 3})
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the dead ones were given up after %v", took)
	}
	release(lent)
}
