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
