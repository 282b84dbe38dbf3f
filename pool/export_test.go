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

// DiscardAll is what AppendDiscard says.
const DiscardAll = discardAll

// ChangeSQL is the Query that sets a parameter and resets another.
func ChangeSQL(name, value, other string) string {
	var c change
	c.reset(other)
	c.set(name, value)
	message := c.append(nil)
	return string(message[5 : len(message)-1])
}

// AskAboutHeldAfter has servers be asked about what they seem to hold, and again, after d.
func (b *Budget) AskAboutHeldAfter(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.heldTime = d
}
