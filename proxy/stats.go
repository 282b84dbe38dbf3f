package proxy

import "time"

// Stats is a snapshot of everything this process counts, taken without stopping anyone. Counters only grow.
type Stats struct {
	Clients   map[string]int64 // connected clients by state: login, idle, waiting, active
	Logins    []LoginStats
	LoginTime Histogram        // seconds from accept to ReadyForQuery, of the logins that succeeded
	Refused   map[string]int64 // connections turned away before a resource was known, by reason
	Protocol  map[string]int64 // malformed input by kind: startup, length, type, stuffing, tls, http, timeout
	Panics    int64            // each has ended the session that it happened in
	Shortages int64            // of file descriptors
	Resources []ResourceStats
}

// LoginStats counts logins of one method and outcome.
type LoginStats struct {
	Method  string // trust, password, md5, scram-sha-256, scram-sha-256-plus
	Outcome string // ok, denied, error, timeout
	Count   int64
}

// ResourceStats is what one resource counts.
type ResourceStats struct {
	Name         string
	Budget       int              // server connections the resource may have
	Servers      map[string]int64 // server connections by state: idle, used, dialing, closing
	Waiting      int64            // clients in the queue, or waiting for a server connection, now
	Queue        map[string]int64 // clients in the queue, by priority
	Limit        int              // transactions that may run at once
	Patience     time.Duration    // for which transactions are taken to be wanted
	Admitted     map[AdmittedBy]int64
	Refused      []RefusalStats
	Pinned       map[string]int64 // sessions that keep their server connection, by reason
	Stalls       map[string]int64 // clients that lost their server connection because they kept it waiting, by reason
	Prepared     map[string]int64 // bytes of text of prepared statements: held by clients, whom statements.per_user bounds, and shared, which is kept for all
	QueryErrors  map[string]int64 // ErrorResponses of the server by SQLSTATE class (two characters)
	QueueWait    Histogram        // seconds
	Transaction  Histogram        // seconds a transaction held its server connection
	Breaker      BreakerStats
	TokensLeased int64
}

// AdmittedBy is what transactions that were admitted are counted by.
type AdmittedBy struct{ Caller, Priority string }

// RefusalStats counts refusals of one caller, reason and mode (enforce or shadow).
type RefusalStats struct {
	Caller, Reason, Mode string
	Count                int64
}

// BreakerStats is the breaker of a resource. State is 0 closed, 1 half-open, 2 open.
type BreakerStats struct {
	State       int
	Transitions map[string]int64 // by the state entered: closed, half-open, open
}

// Histogram is a cumulative histogram in Prometheus' sense.
type Histogram struct {
	Bounds []float64 // upper bounds in seconds, ascending, without +Inf
	Counts []uint64  // observations at most Bounds[i]; cumulative
	Count  uint64
	Sum    time.Duration
}
