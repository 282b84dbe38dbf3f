package limiter

import (
	"math"
	"time"

	xrate "golang.org/x/time/rate"
)

// Local is the bucket of a process that is the whole fleet. It starts full. In any period W it hands out at most
// Burst + PerSecond·W tokens.
type Local struct {
	bucket *xrate.Limiter
	now    func() time.Time
}

// NewLocal makes a full bucket. Without a clock it uses time.Now.
func NewLocal(rate Rate, now func() time.Time) *Local {
	if now == nil {
		now = time.Now
	}
	rate = rate.WithDefaults()
	return &Local{bucket: xrate.NewLimiter(xrate.Limit(rate.PerSecond), rate.Burst), now: now}
}

// Take implements Bucket.
func (l *Local) Take() (retryAfter time.Duration, ok bool) {
	now := l.now()
	if l.bucket.AllowN(now, 1) {
		return 0, true
	}
	missing := 1 - l.bucket.TokensAt(now)
	wait := math.Ceil(missing / float64(l.bucket.Limit()) * float64(time.Second))
	return max(soonest, time.Duration(wait)), false
}

// leave takes tokens away until at most n are left.
func (l *Local) leave(n int) {
	now := l.now()
	l.bucket.AllowN(now, max(0, int(l.bucket.TokensAt(now))-n))
}

// Return implements Bucket.
func (l *Local) Return(time.Duration) { l.bucket.AllowN(l.now(), -1) }
