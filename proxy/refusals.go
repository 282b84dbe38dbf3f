package proxy

import (
	"sync"
	"time"
)

// RememberedRefusals is how many refusals are remembered.
const RememberedRefusals = 1000

// Refusals remembers the last ones, so that the id in a function's log leads to everything that was known. It is safe for
// concurrent use.
type Refusals struct {
	mu   sync.Mutex
	ring [RememberedRefusals]RefusalRecord
	n    int // remembered ever
}

// RefusalRecord is one refusal as it is remembered.
type RefusalRecord struct {
	ID           string    `json:"id" help:"As in the DETAIL that the function read."`
	At           time.Time `json:"at" help:"When, in RFC 3339."`
	Resource     string    `json:"resource" help:"Of which resource."`
	Caller       string    `json:"caller" help:"The name of the caller's rule; default without one."`
	Mode         string    `json:"mode" help:"enforce, or shadow: it was let pass."`
	Reason       string    `json:"reason" help:"As in the metric weir_refused_total."`
	SQLSTATE     string    `json:"sqlstate" help:"What the function was told, as the three that follow."`
	Message      string    `json:"message" help:"The text."`
	Rule         string    `json:"rule" help:"The setting that decided."`
	Observed     string    `json:"observed" help:"What was measured."`
	Limit        string    `json:"limit" help:"Against what."`
	WaitedMillis int64     `json:"waited_ms" help:"How long the transaction had waited, in milliseconds."`
	RetryMillis  int64     `json:"retry_after_ms" help:"When it was told to come back, before that was spread by a quarter; 0: it was not told."`
	Cause        string    `json:"cause" help:"Why the breaker is open, or the login was refused; else empty."`
}

// NewRefusals remembers nothing yet.
func NewRefusals() *Refusals { return &Refusals{} }

func (f *Refusals) remember(resource, caller, mode string, r *Refusal) {
	record := RefusalRecord{
		At: time.Now(), ID: r.ID, Resource: resource, Caller: caller, Mode: mode, Reason: r.Label, SQLSTATE: r.SQLSTATE, Message: r.Message,
		Rule: r.Rule, Observed: r.Observed, Limit: r.Limit, WaitedMillis: r.Waited.Milliseconds(), RetryMillis: r.RetryAfter.Milliseconds(),
	}
	if r.Cause != nil {
		record.Cause = r.Cause.Error()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring[f.n%RememberedRefusals] = record
	f.n++
}

// Last returns at most n of the refusals that fit, the newest first.
func (f *Refusals) Last(n int, fits func(*RefusalRecord) bool) (out []RefusalRecord) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := f.n - 1; i >= max(0, f.n-RememberedRefusals) && len(out) < n; i-- {
		if r := &f.ring[i%RememberedRefusals]; fits(r) {
			out = append(out, *r)
		}
	}
	return out
}
