// Package limiter decides whether a transaction may start now: token buckets for how many start per second, and the errors
// of a caller that was turned away.
//
// A Local bucket belongs to one process. A Leased bucket is one bucket for a whole fleet, of which each weir holds a few
// tokens ahead of need. Neither ever makes a caller wait: a Take succeeds, or it says when to come back.
package limiter

import (
	"errors"
	"time"
)

// ErrRate is what a caller is told for whom there is no token.
var ErrRate = errors.New("rate limit exceeded")

// Bucket hands out tokens, one for each transaction that starts. It is safe for concurrent use.
type Bucket interface {
	// Take takes one token. Without one it reports false and after how long one may be there; that costs the bucket nothing.
	// It never blocks, never touches the network and never allocates.
	Take() (retryAfter time.Duration, ok bool)
	// Return gives back a token that was taken, so long ago, for a transaction that did not start.
	Return(ago time.Duration)
}

var (
	_ Bucket = (*Local)(nil)
	_ Bucket = (*Leased)(nil)
)

// soonest is the shortest retryAfter worth telling: below it a client's own way to us takes longer.
const soonest = time.Millisecond
