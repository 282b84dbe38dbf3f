package pool

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// What the server makes of the settings that a client asks for at login is found out by logging in with them. That is a connection which
// no admission has let in, and clients may ask for something new each time: for a schema per tenant, or with the number of a
// request. So the server is asked as little as possible, and never for long at others' cost:
//
//   - Settings that are any text (application_name, a plain search_path, those with a dot) are not asked about.
//   - Those that a client is not told of are asked about while there is a free place, at a rate.
//   - Those that a client is told of, in the server's own words, must be asked about, once for each combination, at a rate of their own,
//     also in the place of an idle connection.
//
// Whatever was not asked about is set by the session's first transaction, which begins with the server's error if it refuses that.

// ErrManyNew says that clients ask for more that was never seen before than the server is asked about.
var ErrManyNew = errors.New("too many clients ask for startup parameters that were not seen before")

// How often the server is asked: once in inquiryEvery, after a few at once.
const (
	inquiryEvery = time.Second
	fewNeeded    = 16              // at once, of those that are needed
	fewSpare     = 8               // of those that can wait
	longestLine  = 5 * time.Second // for one that is needed
)

// A refusal is remembered for a while, as the server may be mended.
const (
	refusalHolds   = 10 * time.Second
	mostRefusals   = 1024
	undefinedParam = "42704"
)

// inquiries are what the servers of a pool are asked, and have answered.
type inquiries struct {
	answered intern // by settings that were asked about
	needed   pace
	spare    pace

	lines   sync.Mutex // guards what follows
	asking  map[string]*inquiry
	refused map[string]refusal // by settings, or by a name alone that the server does not know
}

// inquiry is under way; others with the same question wait for it.
type inquiry struct {
	done chan struct{} // closed when what follows is there
	g    *Greeting
	err  error
}

type refusal struct {
	err   error
	until time.Time
}

// greetingOf is what a client is told that asked for these settings. The names are as it wrote them: user is one, USER is none.
func (p *Pool) greetingOf(ctx context.Context, standard *Greeting, asked []Setting) (*Greeting, error) {
	var texts, needed, spare []Setting
	for _, a := range asked {
		name := strings.ToLower(a.Name)
		switch _, told := lookupFold(standard.Parameters, name); {
		case isText(name, a.Value):
			texts = append(texts, Setting{name, a.Value})
		case told, setOf(name) != 0, slices.Contains(identity, name):
			needed = append(needed, a)
		default:
			spare = append(spare, a)
		}
	}
	g, err := p.inquire(ctx, standard, needed, spare)
	if err != nil || len(texts) == 0 {
		return g, err
	}
	told := maps.Clone(g.Parameters)
	for _, t := range texts {
		if _, reported := told[t.Name]; reported {
			told[t.Name] = t.Value
		}
	}
	return &Greeting{Parameters: told}, nil
}

var (
	dottedName = regexp.MustCompile(`^[a-z_][a-z0-9_$]*(\.[a-z_][a-z0-9_$]*)+$`)
	schemaList = regexp.MustCompile(`^ *("[^"]+"|[A-Za-z_$][A-Za-z0-9_$]*)( *, *("[^"]+"|[A-Za-z_$][A-Za-z0-9_$]*))* *$`)
)

// isText reports whether a parameter, in lower case, is any text, which the server takes and reports as it is.
func isText(name, value string) bool {
	return name == "application_name" || name == "search_path" && schemaList.MatchString(value) || dottedName.MatchString(name)
}

// inquire asks about all of it where there is room for that, or else about what is needed.
func (p *Pool) inquire(ctx context.Context, standard *Greeting, needed, spare []Setting) (*Greeting, error) {
	all := append(needed[:len(needed):len(needed)], spare...)
	if len(all) == 0 {
		return standard, nil
	}
	if err := p.refusedBefore(all); err != nil {
		return nil, err
	}
	if known := p.answered.find(keyOf(canonical(all))); known != nil {
		return known.Greeting, nil
	}
	if len(spare) > 0 && p.spare.take(time.Now(), fewSpare, 0) == 0 && p.reserveFree() {
		return p.askOnce(ctx, all, nil)
	}
	if len(needed) == 0 {
		return standard, nil
	}
	if known := p.answered.find(keyOf(canonical(needed))); known != nil {
		return known.Greeting, nil
	}
	return p.askOnce(ctx, needed, p.reserveNeeded)
}

// askOnce asks, unless someone does already. reserve gets a place in the budget; nil: the caller has one.
func (p *Pool) askOnce(ctx context.Context, settings []Setting, reserve func(context.Context) error) (*Greeting, error) {
	key := keyOf(settings)
	i, first := p.beginInquiry(key)
	if !first {
		if reserve == nil {
			p.budget.unreserve()
		}
		return p.hearOf(ctx, i)
	}
	defer p.endInquiry(key, i)
	if reserve != nil {
		if i.err = reserve(ctx); i.err != nil {
			return nil, i.err
		}
	}
	if i.g, i.err = p.ask(ctx, settings); i.err != nil {
		p.noteRefusal(settings, i.err)
		return nil, i.err
	}
	s := newSettings(settings)
	return p.answered.add(s.key, newProfile(s, i.g)).Greeting, nil
}

// hearOf waits for what another client's inquiry comes to.
func (p *Pool) hearOf(ctx context.Context, i *inquiry) (*Greeting, error) {
	select {
	case <-i.done:
		return i.g, i.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *Pool) beginInquiry(key string) (i *inquiry, first bool) {
	p.lines.Lock()
	defer p.lines.Unlock()
	if i = p.asking[key]; i != nil {
		return i, false
	}
	if p.asking == nil {
		p.asking = make(map[string]*inquiry)
	}
	i = &inquiry{done: make(chan struct{})}
	p.asking[key] = i
	return i, true
}

func (p *Pool) endInquiry(key string, i *inquiry) {
	p.lines.Lock()
	defer p.lines.Unlock()
	delete(p.asking, key)
	close(i.done)
}

// reserveNeeded waits for its turn, and for a place.
func (p *Pool) reserveNeeded(ctx context.Context) error {
	wait := p.needed.take(time.Now(), fewNeeded, longestLine)
	if wait < 0 {
		return ErrManyNew
	}
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return p.reserve(ctx, unlimited)
}

// refusedBefore is why the server refused the settings a short time ago, or nil.
func (p *Pool) refusedBefore(settings []Setting) error {
	p.lines.Lock()
	defer p.lines.Unlock()
	if len(p.refused) == 0 {
		return nil
	}
	now := time.Now()
	for _, s := range settings {
		if r, ok := p.refused[s.Name]; ok && now.Before(r.until) {
			return r.err
		}
	}
	if r, ok := p.refused[keyOf(settings)]; ok && now.Before(r.until) {
		return r.err
	}
	return nil
}

// noteRefusal remembers what the server says of the settings themselves. A name that it does not know is refused with any value.
func (p *Pool) noteRefusal(settings []Setting, err error) {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || len(pgErr.Code) != 5 || pgErr.Code[:2] != "22" && pgErr.Code[:2] != "42" {
		return
	}
	key := keyOf(settings)
	if pgErr.Code == undefinedParam && len(settings) == 1 {
		key = settings[0].Name
	}
	p.lines.Lock()
	defer p.lines.Unlock()
	if p.refused == nil || len(p.refused) >= mostRefusals {
		p.refused = make(map[string]refusal)
	}
	p.refused[key] = refusal{err, time.Now().Add(refusalHolds)}
}

// pace lets one through in inquiryEvery, and after a rest a few at once.
type pace struct {
	mu   sync.Mutex
	next time.Time // when the next one's turn would be at an even pace
}

// take takes the next turn, and returns how long that is away; -1, and takes none, where that is longer than most.
func (a *pace) take(now time.Time, atOnce int, most time.Duration) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if earliest := now.Add(-time.Duration(atOnce-1) * inquiryEvery); a.next.Before(earliest) {
		a.next = earliest
	}
	wait := max(0, a.next.Sub(now))
	if wait > most {
		return -1
	}
	a.next = a.next.Add(inquiryEvery)
	return wait
}
