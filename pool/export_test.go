package pool

import "time"

// Expire retires what has rested or lived too long at now, as the keeper does each second, and returns how many that are.
func (b *Budget) Expire(now time.Time) int {
	servers := b.expired(now)
	retireAll(servers)
	return len(servers)
}

// Times that tests wait for.
const (
	ClosingTime  = closingTime
	FirstBackoff = firstBackoff
	DialsAtOnce  = dialsAtOnce
)
