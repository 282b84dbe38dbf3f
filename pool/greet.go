package pool

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/eventloop"
)

// internMost bounds how many different settings are remembered. Beyond, each login asks the server anew.
const internMost = 1024

// Greeting is what the server reports to a client that logs in. It never changes.
type Greeting struct {
	Parameters map[string]string // by ParameterStatus
}

// intern finds the one Settings of equal ones, and what the server reported when it was asked for them.
type intern struct {
	mu    sync.Mutex
	known map[string]*known
}

type known struct {
	settings *Settings
	greeting *Greeting
}

// Known is Greet for what is known already; it does not wait.
func (p *Pool) Known(asked []Setting) (g *Greeting, settings *Settings, ok bool) {
	if len(asked) == 0 {
		g = p.greeting.Load()
		return g, nil, g != nil
	}
	if k := p.settings.find(newSettings(asked).key); k != nil {
		return k.greeting, k.settings, true
	}
	return nil, nil, false
}

// Greet returns what the server reports to a client that logs in with the settings asked, and those settings. application_name
// is taken as it is; any other combination is asked of the server once, by logging in with it, so that values are
// checked and normalised by the server itself; later logins are answered from memory. Errors are the server's own
// (*pgconn.PgError inside) when it refuses the settings.
func (p *Pool) Greet(ctx context.Context, asked []Setting) (*Greeting, *Settings, error) {
	if g, settings, ok := p.Known(asked); ok {
		return g, settings, nil
	}
	if len(asked) == 0 {
		g, err := p.defaultGreeting(ctx)
		return g, nil, err
	}
	all := newSettings(asked)
	name, checked := split(asked)
	greeting, err := p.greetingFor(ctx, checked)
	if err != nil {
		return nil, nil, err
	}
	if name != nil {
		reported := maps.Clone(greeting.Parameters)
		reported[name.Name] = name.Value
		greeting = &Greeting{Parameters: reported}
	}
	k := p.settings.add(all.key, &known{settings: p.needed(all, greeting), greeting: greeting})
	return k.greeting, k.settings, nil
}

// greetingFor asks the server once for each combination of settings.
func (p *Pool) greetingFor(ctx context.Context, checked []Setting) (*Greeting, error) {
	if len(checked) == 0 {
		return p.defaultGreeting(ctx)
	}
	s := newSettings(checked)
	if k := p.settings.find(s.key); k != nil {
		return k.greeting, nil
	}
	if _, err := p.defaultGreeting(ctx); err != nil { // to know what differs
		return nil, err
	}
	g, err := p.ask(ctx, checked)
	if err != nil {
		return nil, err
	}
	p.settings.add(s.key, &known{settings: p.needed(s, g), greeting: g})
	return g, nil
}

// needed drops the settings that the server has anyway, as far as it reports them.
func (p *Pool) needed(s *Settings, got *Greeting) *Settings {
	base := p.greeting.Load()
	if base == nil {
		return s
	}
	var keep []Setting
	for i, name := range s.names {
		reported, isReported := lookupFold(got.Parameters, name)
		standard, _ := lookupFold(base.Parameters, name)
		if !isReported || reported != standard {
			keep = append(keep, Setting{name, s.values[i]})
		}
	}
	if len(keep) == 0 {
		return nil
	}
	if len(keep) == len(s.names) {
		return s
	}
	smaller := newSettings(keep)
	if k := p.settings.find(smaller.key); k != nil && k.settings != nil && k.settings.key == smaller.key {
		return k.settings
	}
	return smaller
}

// lookupFold finds a parameter by name, whose case does not matter to the server.
func lookupFold(m map[string]string, name string) (string, bool) {
	if v, ok := m[name]; ok {
		return v, true
	}
	for k, v := range m {
		if equalFold(k, name) {
			return v, true
		}
	}
	return "", false
}

func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if a[i]|0x20 != b[i]|0x20 {
			return false
		}
	}
	return true
}

func split(asked []Setting) (name *Setting, rest []Setting) {
	for i := range asked {
		if asked[i].Name == "application_name" {
			name = &asked[i]
		} else {
			rest = append(rest, asked[i])
		}
	}
	return name, rest
}

// defaultGreeting is what a server reported that was asked for nothing special; the first one to need it has one dialled.
func (p *Pool) defaultGreeting(ctx context.Context) (*Greeting, error) {
	if g := p.greeting.Load(); g != nil {
		return g, nil
	}
	s, err := p.borrow(ctx)
	if err != nil {
		return nil, err
	}
	l := s.Conn.Loop()
	l.Post(eventloop.TaskFunc(func() { p.Release(s) }))
	return p.greeting.Load(), nil
}

// ask logs in with the settings, once, on a connection of its own within the budget.
func (p *Pool) ask(ctx context.Context, settings []Setting) (*Greeting, error) {
	if err := p.reserve(ctx); err != nil {
		return nil, err
	}
	defer p.budget.unreserve()
	ctx, cancel := context.WithTimeout(ctx, p.budget.cfg.Connect)
	defer cancel()
	d, err := p.dialPatiently(ctx, settings)
	if err != nil {
		return nil, err
	}
	d.Close()
	return &Greeting{Parameters: d.hijacked.ParameterStatuses}, nil
}

// dialPatiently dials again, after growing pauses, while the server is full or starting up.
func (p *Pool) dialPatiently(ctx context.Context, settings []Setting) (*Dialed, error) {
	for pause := firstBackoff; ; pause = min(2*pause, lastBackoff) {
		d, err := p.dial(ctx, settings)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "53300" && pgErr.Code != "57P03" {
			return d, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
	}
}

// reserve takes a place in the budget, counted as a dial: a free one, or that of a connection that is retired for it.
func (p *Pool) reserve(ctx context.Context) error {
	b := p.budget
	b.mu.Lock()
	free := b.counts.Open() < b.cfg.Connections && p.waiting.len == 0 && !b.closed
	if free {
		b.counts.Dialing++
	}
	b.mu.Unlock()
	if free {
		return nil
	}
	s, err := p.borrow(ctx)
	if err != nil {
		return err
	}
	reserved := make(chan struct{})
	l := s.Conn.Loop()
	l.Post(eventloop.TaskFunc(func() { s.retire(l, func() { close(reserved) }) }))
	<-reserved // within closingTime
	return nil
}

// unreserve gives the place back.
func (b *Budget) unreserve() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts.Dialing--
	b.dialForAllLocked()
}

// welcome keeps what a new connection was told, for the clients to come. What was asked of an older server is forgotten.
func (p *Pool) welcome(d *Dialed) {
	old := p.greeting.Load()
	p.greeting.Store(&Greeting{Parameters: maps.Clone(d.hijacked.ParameterStatuses)})
	if old != nil && old.Parameters["server_version"] != d.hijacked.ParameterStatuses["server_version"] {
		p.settings.forget()
	}
}

// borrow waits for a server in an ordinary goroutine.
func (p *Pool) borrow(ctx context.Context) (*Server, error) {
	done := make(chan struct{})
	w := &Waiter{Loop: p.budget.loops.Next()}
	w.Task = eventloop.TaskFunc(func() { close(done) })
	s, err := p.Acquire(w, int(^uint(0)>>1))
	if s != nil || err != nil {
		return s, err
	}
	select {
	case <-done:
		return w.Answer()
	case <-ctx.Done():
		if !p.Abandon(w) { // answered meanwhile: give it back
			<-done
			if s, _ := w.Answer(); s != nil {
				l := s.Conn.Loop()
				l.Post(eventloop.TaskFunc(func() { p.Release(s) }))
			}
		}
		return nil, context.Cause(ctx)
	}
}

func (n *intern) find(key string) *known {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known[key]
}

// add remembers k, unless another was remembered first, which it then returns.
func (n *intern) add(key string, k *known) *known {
	n.mu.Lock()
	defer n.mu.Unlock()
	if first := n.known[key]; first != nil {
		return first
	}
	if len(n.known) >= internMost {
		clear(n.known) // rare and harmless: settings that are in use stay valid, only equality may be missed
	}
	if n.known == nil {
		n.known = make(map[string]*known)
	}
	n.known[key] = k
	return k
}

func (n *intern) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.known)
}
