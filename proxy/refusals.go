package proxy

import (
	"sync"
	"time"
)

// rememberedRefusals is how many refusals are remembered.
const rememberedRefusals = 1000

// Refusals remembers the last ones, so that the id in a function's log leads to everything that was known. It is safe for
// concurrent use.
type Refusals struct {
	mu   sync.Mutex
	ring [rememberedRefusals]RefusalRecord
	n    int // remembered ever
}

// RefusalRecord is one refusal as it is remembered.
type RefusalRecord struct {
	At       time.Time
	ID       string
	Resource string
	Caller   string
	Mode     string // enforce; shadow: it was let pass
	Reason   string
	SQLSTATE string
	Message  string
	Rule     string
	Observed string
	Limit    string
	Waited   time.Duration
	Retry    time.Duration // when it was told to come back; 0: it was not
	Cause    string        // of the breaker's
}

// NewRefusals remembers nothing yet.
func NewRefusals() *Refusals { return &Refusals{} }

func (f *Refusals) remember(resource, caller, mode string, r *Refusal) {
	record := RefusalRecord{
		At: time.Now(), ID: r.ID, Resource: resource, Caller: caller, Mode: mode, Reason: r.Label, SQLSTATE: r.SQLSTATE, Message: r.Message,
		Rule: r.Rule, Observed: r.Observed, Limit: r.Limit, Waited: r.Waited, Retry: r.RetryAfter,
	}
	if r.Cause != nil {
		record.Cause = r.Cause.Error()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring[f.n%rememberedRefusals] = record
	f.n++
}

// Last returns at most n of the refusals that fit, the newest first.
func (f *Refusals) Last(n int, fits func(*RefusalRecord) bool) (out []RefusalRecord) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := f.n - 1; i >= max(0, f.n-rememberedRefusals) && len(out) < n; i-- {
		if r := &f.ring[i%rememberedRefusals]; fits(r) {
			out = append(out, *r)
		}
	}
	return out
}
