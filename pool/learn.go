package pool

import (
	"errors"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/time/rate"
)

// How many new combinations of settings the server is asked about by logging in: each is a process of its own, outside of any
// transaction's turn, and functions may put something new into each (the id of a request, say).
const (
	asksPerSecond = 5
	asksAtOnce    = 100

	// Of those that it has to be asked about, for it reports something of them.
	othersPerSecond = 10
	othersAtOnce    = 20
)

// asking bounds that.
type asking struct{ any, others *rate.Limiter }

// refusalHolds is for how long it is remembered that a combination was refused, and mostRefused how many of them.
const (
	refusalHolds = 10 * time.Second
	mostRefused  = 1024
)

// mayAsk reports whether a combination may be asked about now without costing anybody a server connection.
func (p *Pool) mayAsk() bool {
	b := p.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	free := b.counts.Open() < b.cfg.Connections && p.waiting.len == 0 && !b.closed
	return free && p.asking.any.Allow()
}

func newAsking() asking {
	return asking{rate.NewLimiter(asksPerSecond, asksAtOnce), rate.NewLimiter(othersPerSecond, othersAtOnce)}
}

// anythingGoes reports whether the server takes s for all that is likely: names of applications' own, schemas, which it does not look for
// before they are used, and how much time and memory statements may have.
func anythingGoes(s *Settings) bool {
	for i, name := range s.names {
		switch {
		case name == "application_name", ownName.MatchString(name):
		case name == "search_path" && plainPath.MatchString(s.values[i]):
		case slices.Contains(amounts, name) && plainAmount.MatchString(s.values[i]):
		default:
			return false
		}
	}
	return true
}

// ownName is the name of a setting that an application has made up, as a server takes it, in lower case.
var ownName = regexp.MustCompile(`^[a-z_][a-z0-9_$]*(\.[a-z_][a-z0-9_$]*)+$`)

// plainPath is a list of identifiers, as nobody gets wrong.
var plainPath = regexp.MustCompile(`^ *([a-z_][a-z0-9_$]*|"[^"]+")( *, *([a-z_][a-z0-9_$]*|"[^"]+"))* *$`)

// amounts are how much time and memory statements, and the pauses between them, may have.
var amounts = []string{
	"idle_in_transaction_session_timeout", "idle_session_timeout", "lock_timeout", "statement_timeout", "transaction_timeout", "work_mem",
}

// plainAmount is a time or a size (manual, "Parameter Names and Values").
var plainAmount = regexp.MustCompile(`^[0-9]{1,9}(ms|s|min|h|kB|MB|GB)?$`)

// takenAsTheyAre are parameters that a server may report, as the very text that they were set to.
var takenAsTheyAre = []string{"application_name", "search_path"}

// isUnreported reports whether what a server with the standard profile reports does not depend on s, but for what is taken as it is.
func isUnreported(s *Settings, standard *Profile) bool {
	for _, name := range s.names {
		if slices.Contains(takenAsTheyAre, name) {
			continue
		}
		if _, reported := lookupFold(standard.Greeting.Parameters, name); reported || slices.Contains(identity, name) {
			return false
		}
	}
	return true
}

// verbatim is what a server with the standard profile reports to a session with settings that are taken as they are.
func verbatim(s *Settings, standard *Profile) *Greeting {
	reported := maps.Clone(standard.Greeting.Parameters)
	for _, name := range takenAsTheyAre {
		if value, asked := s.get(name); asked {
			if _, is := reported[name]; is {
				reported[name] = value
			}
		}
	}
	return &Greeting{Parameters: reported}
}

// refusals are the combinations of settings that the server has refused lately. Safe for all goroutines; its zero value is ready.
type refusals struct {
	mu    sync.Mutex
	known map[string]refusal
}

type refusal struct {
	err   error
	until time.Time
}

func (r *refusals) find(key string, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.known[key]; now.Before(known.until) {
		return known.err
	}
	return nil
}

// remember remembers an error that is the server's own.
func (r *refusals) remember(key string, err error, now time.Time) {
	if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || !aboutSettings(pgErr.Code) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || len(r.known) >= mostRefused {
		r.known = make(map[string]refusal)
	}
	r.known[key] = refusal{err, now.Add(refusalHolds)}
}

// aboutSettings reports whether an SQLSTATE says that parameters are wrong: unknown, of a wrong value, or not to be changed so. The same
// will be said the next time.
func aboutSettings(sqlstate string) bool {
	return len(sqlstate) == 5 && (sqlstate[:2] == "22" || sqlstate[:2] == "42" || sqlstate == "55P02")
}

// Refused remembers that the server has refused the settings of p, which were taken as they were.
func (p *Pool) Refused(profile *Profile, err *pgconn.PgError) {
	if s := profile.Settings; s != nil {
		p.refused.remember(s.key, err, time.Now())
		p.asked.drop(s.key)
	}
}
