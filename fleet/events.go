package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"
)

// Kind is what an Event is about. A weir ignores kinds that it does not know, which are those of newer weirs.
type Kind string

// BreakerTrip says that the breaker of a resource has opened on the weir's own evidence.
const BreakerTrip Kind = "breaker.trip"

// Event is what one weir tells the others.
type Event struct {
	Kind     Kind          `json:"kind"`
	Resource string        `json:"resource"`
	Cause    string        `json:"cause,omitempty"` // cut to a few hundred bytes
	From     string        `json:"from"`            // which weir; Publish fills it in
	For      time.Duration `json:"-"`               // how long it holds from now on; older news is not delivered
}

const (
	maxName      = 256
	maxCause     = 256
	maxPayload   = 4 << 10 // of one event on its way
	maxResources = 1024    // whose latest event is remembered
	maxHold      = 10 * time.Minute
	stale        = time.Second // after its end a verdict's version says nothing any more: Redis may have begun to count anew
	maxMembers   = 1 << 16
	maxVersion   = 1 << 53 // exact in Lua

	listenFor = 5 * time.Second // without a word before the line is tested
	redial    = 250 * time.Millisecond
)

// announcement is an Event that Redis has not taken yet.
type announcement struct {
	payload string
	till    time.Time
}

// verdict is an event as it comes from Redis.
type verdict struct {
	version int64
	till    time.Time
	payload string

	event Event // as read from payload
}

// Publish tells the other weirs of e, once. While Redis is out of reach only the latest event of a resource is kept, and for
// no longer than it holds. It does not wait.
func (f *Fleet) Publish(e Event) {
	if f == nil || e.For <= 0 || len(e.Resource) > maxName {
		return
	}
	e.From = f.id
	e.Cause = cut(e.Cause, maxCause)
	payload, err := json.Marshal(e)
	if err != nil { // there is nothing in an Event that cannot be written
		return
	}
	f.mu.Lock()
	if _, known := f.outgoing[e.Resource]; known || len(f.outgoing) < maxResources {
		f.outgoing[e.Resource] = announcement{payload: string(payload), till: time.Now().Add(min(e.For, maxHold))}
	}
	f.mu.Unlock()
	select {
	case f.urgent <- struct{}{}:
	default:
	}
}

// Subscribe calls handle with every event of another weir: at once with those that hold already, then as they come. An event
// comes once, though it travels by two ways. The handle must be quick, and may be called from several goroutines.
func (f *Fleet) Subscribe(handle func(Event)) {
	if f == nil {
		return
	}
	now := time.Now()
	f.mu.Lock()
	f.subscribers = append(slices.Clip(f.subscribers), handle)
	known := slices.Collect(maps.Values(f.heard))
	f.mu.Unlock()
	for _, v := range known {
		if v.till.After(now) && v.event.From != f.id {
			handle(v.eventAt(now))
		}
	}
}

func (v verdict) eventAt(now time.Time) Event {
	e := v.event
	e.For = v.till.Sub(now)
	return e
}

// announce sends what waits to be announced. What cannot be sent waits for the next beat.
func (f *Fleet) announce(ctx context.Context) {
	f.mu.Lock()
	waiting := maps.Clone(f.outgoing)
	f.mu.Unlock()
	for resource, a := range waiting {
		if left := time.Until(a.till); left > 0 {
			if !f.up.Load() || f.send(ctx, resource, a.payload, left) != nil {
				return
			}
		}
		f.mu.Lock()
		if f.outgoing[resource] == a { // else a newer one has come
			delete(f.outgoing, resource)
		}
		f.mu.Unlock()
	}
}

func (f *Fleet) send(ctx context.Context, resource, payload string, left time.Duration) error {
	return f.announceScript.Run(ctx, f.client, []string{f.prefix + "breakers"},
		f.prefix+"events", resource, max(1, left.Microseconds()), payload).Err()
}

// listen hears that other weirs announce something, until ctx ends. What that is the next beat tells, which comes at once then:
// whoever can send a message to the channel must not be believed for that. What listen misses comes with the next beat anyway.
func (f *Fleet) listen(ctx context.Context) {
	for ctx.Err() == nil {
		f.listenOnce(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(redial):
		}
	}
}

// listenOnce listens on one subscription until that breaks or falls silent for too long.
func (f *Fleet) listenOnce(ctx context.Context) {
	line := f.client.Subscribe(ctx, f.prefix+"events")
	hangUp := func() { _ = line.Close() }
	defer hangUp()
	defer context.AfterFunc(ctx, hangUp)() // ends the wait for a message

	for tested := false; ; {
		message, err := line.ReceiveTimeout(ctx, listenFor)
		var timeout net.Error
		switch {
		case err == nil:
			tested = false
			if _, ok := message.(*redis.Message); ok {
				f.lookSoon()
			}
		case errors.As(err, &timeout) && timeout.Timeout() && !tested:
			tested = true
			if line.Ping(ctx) != nil {
				return
			}
		default:
			return
		}
	}
}

// lookSoon has the next beat come at once.
func (f *Fleet) lookSoon() {
	select {
	case f.look <- struct{}{}:
	default:
	}
}

// hear delivers a verdict, unless it is our own, known, over, or of no kind that we know.
func (f *Fleet) hear(v verdict) {
	now := time.Now()
	if len(v.payload) > maxPayload || !v.till.After(now) || json.Unmarshal([]byte(v.payload), &v.event) != nil ||
		v.event.Kind != BreakerTrip {
		return
	}
	v.event.Cause, v.payload = cut(v.event.Cause, maxCause), ""
	f.mu.Lock()
	last, known := f.heard[v.event.Resource]
	if known && v.version <= last.version && now.Before(last.till.Add(stale)) || !known && len(f.heard) >= maxResources {
		f.mu.Unlock()
		return
	}
	f.heard[v.event.Resource] = v
	subscribers := f.subscribers
	f.mu.Unlock()
	if v.event.From == f.id {
		return
	}
	for _, handle := range subscribers {
		handle(v.eventAt(now))
	}
}

// cut shortens s to at most n bytes of whole characters, and makes it text if it is not.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= n {
		return s
	}
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
