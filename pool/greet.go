package pool

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/eventloop"
)

// Known is Greet for what is known already, nil for what is not; it does not wait.
func (p *Pool) Known(asked []Setting) *Profile {
	p.lookAgain()
	if len(asked) == 0 {
		return p.standard.Load()
	}
	return p.asked.find(keyOf(canonical(asked)))
}

// Greet returns what the server reports to a client that logs in with the settings asked, and those settings. application_name
// is taken as it is, as is what a server hardly ever refuses; any other combination is asked of the server once, by logging in with it, so that values are
// checked and normalised by the server itself; later logins are answered from memory. Where that would cost others, for there is no place
// for it, or many new combinations come, those are taken as they are that the server reports nothing of: it will check them when
// the first transaction has them set. Errors are the server's own (*pgconn.PgError inside) when it refuses the settings; they
// are remembered, too.
func (p *Pool) Greet(ctx context.Context, asked []Setting) (*Profile, error) {
	if known := p.Known(asked); known != nil {
		return known, nil
	}
	standard, err := p.defaultProfile(ctx)
	if len(asked) == 0 || err != nil {
		return standard, err
	}
	all := newSettings(asked)
	if err := p.refused.find(all.key, time.Now()); err != nil {
		return nil, err
	}
	switch unreported := isUnreported(all, standard); {
	case !(unreported && anythingGoes(all)) && p.mayAsk():
	case unreported:
		return p.asked.add(all.key, newProfile(all, verbatim(all, standard))), nil
	case p.asking.others.Wait(ctx) != nil:
		return nil, context.DeadlineExceeded
	}
	name, checked := split(asked)
	greeting, err := p.greetingFor(ctx, checked)
	if err != nil {
		p.refused.remember(all.key, err, time.Now())
		return nil, err
	}
	if name != nil {
		reported := maps.Clone(greeting.Parameters)
		reported[name.Name] = name.Value
		greeting = &Greeting{Parameters: reported}
	}
	return p.asked.add(all.key, newProfile(all, greeting)), nil
}

// Standard is what a server connection reports that nobody has changed.
func (p *Pool) Standard() *Profile { return p.standard.Load() }

// greetingFor asks the server once for each combination of settings.
func (p *Pool) greetingFor(ctx context.Context, checked []Setting) (*Greeting, error) {
	if known := p.Known(checked); known != nil {
		return known.Greeting, nil
	}
	g, err := p.ask(ctx, checked)
	if err != nil {
		return nil, err
	}
	s := newSettings(checked)
	return p.asked.add(s.key, newProfile(s, g)).Greeting, nil
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

// defaultProfile is what a server reported that was asked for nothing special; the first one to need it has one dialled.
func (p *Pool) defaultProfile(ctx context.Context) (*Profile, error) {
	if standard := p.standard.Load(); standard != nil {
		return standard, nil
	}
	s, err := p.borrow(ctx, unlimited)
	if err != nil {
		return nil, err
	}
	l := s.Conn.Loop()
	l.Post(eventloop.TaskFunc(func() { p.Release(s) }))
	return p.standard.Load(), nil
}

// ask logs in with the settings, once, on a connection of its own within the budget.
func (p *Pool) ask(ctx context.Context, settings []Setting) (*Greeting, error) {
	if err := p.reserve(ctx, unlimited); err != nil {
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

// reserve takes a place in the budget, counted as a dial: a free one, or that of a connection that is retired for it. In the
// queue for that most may wait.
func (p *Pool) reserve(ctx context.Context, most int) error {
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
	s, err := p.borrow(ctx, most)
	if err != nil {
		return err
	}
	reserved := make(chan struct{})
	l := s.Conn.Loop()
	l.Post(eventloop.TaskFunc(func() { s.retire(l, func() { close(reserved) }) }))
	select {
	case <-reserved:
		return nil
	case <-ctx.Done(): // the server may hold it for long
		go func() {
			<-reserved
			b.unreserve()
		}()
		return context.Cause(ctx)
	}
}

// unreserve gives the place back.
func (b *Budget) unreserve() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts.Dialing--
	b.dialForAllLocked()
}

// unlimited is how many may wait where that is bounded elsewhere.
const unlimited = int(^uint(0) >> 1)

// borrow waits for a server in an ordinary goroutine, in a queue where most may wait.
func (p *Pool) borrow(ctx context.Context, most int) (*Server, error) {
	done := make(chan struct{})
	w := &Waiter{Loop: p.budget.loops.Next()}
	w.Task = eventloop.TaskFunc(func() { close(done) })
	s, err := p.Acquire(w, most)
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
