package pool

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// What is between weir and a server (a proxy, a balancer, a firewall) may confirm the end of a connection and never pass it on, or have lost
// the server long ago. To weir that looks like a process of the server that holds the connection, and would count for good. So where somebody waits
// for its place, the server is asked whether it still has that process. Where it has, and the process waits for what weir might say, it is told to
// end it: it is weir's own, and nobody will ever say anything.

// heldTime is how long a connection that was closed seems to be held before the server is asked, and how long it takes until it is again.
const heldTime = 30 * time.Second

// noteHeld takes note that the server seems to hold the connection of r.
func (p *Pool) noteHeld(r *retiring) {
	p.budget.mu.Lock()
	defer p.budget.mu.Unlock()
	if p.held == nil {
		p.held = make(map[*retiring]time.Time)
	}
	p.held[r] = time.Now()
}

// forgetHeld takes note that the place of r is free.
func (p *Pool) forgetHeld(r *retiring) {
	p.budget.mu.Lock()
	defer p.budget.mu.Unlock()
	delete(p.held, r)
}

// askAboutHeld has servers be asked about what they have seemed to hold for long, where that keeps somebody waiting. The keeper calls it.
func (b *Budget) askAboutHeld(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.counts.Open() < b.cfg.Connections || b.waitingLocked() == 0 {
		return
	}
	for _, p := range b.pools {
		if long := p.heldSinceLocked(now.Add(-b.heldTime)); len(long) > 0 && now.Sub(p.heldAsked) >= b.heldTime {
			p.heldAsked = now
			b.running.Go(func() { p.askAbout(long) })
		}
	}
}

func (p *Pool) heldSinceLocked(since time.Time) (long []*retiring) {
	for r, began := range p.held {
		if !began.After(since) {
			long = append(long, r)
		}
	}
	return long
}

// askAbout asks the server, over a connection beyond the budget that is closed at once, which of the processes it has, and frees the places of the
// others. Where it is not the same address, or does not answer, nothing is known.
func (p *Pool) askAbout(held []*retiring) {
	ctx, cancel := context.WithTimeout(p.budget.ctx, p.budget.cfg.Connect)
	defer cancel()
	q := &question{age: p.budget.heldTime}
	for _, r := range held {
		q.pids = append(q.pids, r.s.PID())
	}
	d, err := p.dial(context.WithValue(ctx, ofQuestion{}, q), nil)
	if err != nil {
		if p.budget.ctx.Err() == nil {
			p.budget.log.Warn("ask the server about the connections that it seems to hold", "error", err)
		}
		return
	}
	d.Close()
	for _, r := range held {
		if pid := r.s.PID(); pid != 0 && r.s.address == d.addr && !q.there[pid] {
			p.budget.log.Warn("the server has no such process any more; something between must hold the connection, which no longer counts", "server_pid", pid)
			r.finishSoon()
		}
	}
}

// ofQuestion is where the context of a dial has the question to be asked over the new connection.
type ofQuestion struct{}

// question is which of some processes a server has.
type question struct {
	pids  []uint32
	age   time.Duration // for how long they have been there at least
	there map[uint32]bool
}

// endTime is how long a process may take to end.
const endTime = 200 * time.Millisecond

// ask asks twice: what was told to end the first time is to be gone the second time.
func (q *question) ask(ctx context.Context, conn *pgconn.PgConn) error {
	if err := q.askOnce(ctx, conn); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(endTime):
		return q.askOnce(ctx, conn)
	}
}

func (q *question) askOnce(ctx context.Context, conn *pgconn.PgConn) error {
	results, err := conn.Exec(ctx, EndProcesses(q.pids, q.age)).ReadAll()
	if err != nil {
		return err
	}
	there := make(map[string]bool)
	for _, row := range results[0].Rows {
		there[string(row[0])] = true
	}
	q.there = make(map[uint32]bool)
	for _, pid := range q.pids {
		q.there[pid] = there[number(pid)]
	}
	return nil
}
