package proxy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"
)

// Reason is why a function was turned away: one row of the table below.
type Reason struct {
	Label    string // in metrics, logs and the DETAIL
	SQLSTATE string
	HTTP     int // status for protocols that speak HTTP
	Message  string
}

// The reasons. This table is all that clients, logs and metrics know about being turned away; a new reason is one row.
var (
	Rate         = &Reason{"rate", "53400", 429, "rate limit exceeded"}
	QueueFull    = &Reason{"queue_full", "53300", 503, "too many clients are waiting for the database"}
	QueueTimeout = &Reason{"queue_timeout", "53300", 503, "waited too long for the database"}
	Deadline     = &Reason{"deadline", "53300", 503, "the transaction could not finish before its deadline"}
	Shed         = &Reason{"shed", "53300", 503, "the database is at capacity"}
	Breaker      = &Reason{"breaker", "57P03", 503, "the database is not answering"}
	LoginRefused = &Reason{"login_refused", "57P03", 503, "the database does not let weir log in"}
	Draining     = &Reason{"draining", "57P01", 503, "the proxy is shutting down"}
	Clients      = &Reason{"clients", "53300", 503, "too many clients are connected"}
	ClientLimit  = &Reason{"client_limit", "53400", 429, "too much text of prepared statements"}
	LoginStorm   = &Reason{"login_storm", "53300", 503, "too many clients are logging in"}
	Descriptors  = &Reason{"descriptors", "53300", 503, "the proxy has no file descriptor for another client"}
	Protocol     = &Reason{"protocol", "08P01", 400, "protocol violation"}
	NotSupported = &Reason{"not_supported", "0A000", 501, "not supported in this pool mode"}
)

// Reasons are all of them, in the order of the documentation.
var Reasons = []*Reason{Rate, QueueFull, QueueTimeout, Deadline, Shed, Breaker, LoginRefused, Draining, Clients, ClientLimit, LoginStorm, Descriptors, Protocol, NotSupported}

// Refusal is one decision against one function. Nothing of what it refuses was executed.
type Refusal struct {
	*Reason
	ID         string        // finds the decision in the log
	Rule       string        // the setting that decided, as in the config
	Observed   string        // what was measured
	Limit      string        // against what
	Waited     time.Duration // in the queue
	RetryAfter time.Duration // an estimate; 0: no use in trying again soon
	Cause      error         // for the log; may be nil
}

// Refuse makes the Refusal of a client that is turned away before a resource is known.
func Refuse(reason *Reason, rule, observed, limit string, retryAfter time.Duration) *Refusal {
	return &Refusal{Reason: reason, ID: newID(), Rule: rule, Observed: observed, Limit: limit, RetryAfter: retryAfter}
}

// Error says what was refused and why.
func (r *Refusal) Error() string {
	return r.Message + ": " + r.Detail()
}

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Cause }

// Detail is the DETAIL that clients read.
func (r *Refusal) Detail() string {
	return fmt.Sprintf("not executed; id=%s rule=%s observed=%s limit=%s waited_ms=%d", r.ID, r.Rule, r.Observed, r.Limit, r.Waited.Milliseconds())
}

// Hint is the HINT that clients read, or "". It is spread by a quarter each way so that those who were refused together do
// not come back together.
func (r *Refusal) Hint() string {
	if r.RetryAfter <= 0 {
		return ""
	}
	ms := float64(r.RetryAfter) / float64(time.Millisecond)
	return fmt.Sprintf("retry after %d ms", max(1, int(ms*(0.75+0.5*rand.Float64()))))
}

// LoginError says that a server answers, but that weir cannot log in: the operator has to mend something, such as a password or a
// parameter in the upstream. It says nothing against the server's health, which goes on serving those who are logged in.
type LoginError struct {
	SQLSTATE string // as the server said; "": weir would not have it, see upstream.Unsafe
	Err      error  // for the log and for operators; it has no secret, but may have names
}

// Kind is what a function may know of it.
func (e *LoginError) Kind() string {
	if e.SQLSTATE == "" {
		return "login broken off by weir: the connection is not safe"
	}
	return "login refused by the server (SQLSTATE " + e.SQLSTATE + ")"
}

// Error says what the server said, too.
func (e *LoginError) Error() string { return e.Kind() + ": " + e.Err.Error() }

// Unwrap is what pgconn made of it.
func (e *LoginError) Unwrap() error { return e.Err }

// AsRefusal finds a Refusal in err.
func AsRefusal(err error) (*Refusal, bool) {
	var r *Refusal
	ok := errors.As(err, &r)
	return r, ok
}

func newID() string { return strconv.FormatUint(rand.Uint64()>>16, 36) }
