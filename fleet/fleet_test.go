package fleet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weirproxy/weir/fleet"
	"github.com/weirproxy/weir/internal/redistest"
)

// patient is for tests that do not stop Redis: on a busy machine it may take its time.
const patient = "?read_timeout=5s&write_timeout=5s&dial_timeout=5s"

func open(tb testing.TB, url, name string) *fleet.Fleet {
	tb.Helper()
	f, err := fleet.Open(context.Background(), fleet.Config{Redis: url, Name: name}, "test", nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(f.Close)
	return f
}

func client(tb testing.TB, s *redistest.Server) *redis.Client {
	tb.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.Addr(), Protocol: 2})
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// until waits for what another process must bring about.
func until(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("waited in vain until %s", what)
		}
	}
}

func isUp(f *fleet.Fleet) func() bool   { return func() bool { return f.Stats().Up } }
func isDown(f *fleet.Fleet) func() bool { return func() bool { return !f.Stats().Up } }

func lease(tb testing.TB, f *fleet.Fleet, bucket string, perSecond float64, burst, want int) (int, time.Duration) {
	tb.Helper()
	granted, retry, err := f.Lease(context.Background(), bucket, perSecond, burst, want)
	if err != nil {
		tb.Fatalf("lease: %v", err)
	}
	return granted, retry
}

func TestMembersComeAndGo(t *testing.T) {
	s := redistest.Start(t)
	var weirs []*fleet.Fleet
	for range 3 {
		weirs = append(weirs, open(t, s.URL()+patient, "prod"))
	}
	if got := weirs[2].Members(time.Now()); got != 0 {
		t.Errorf("a newcomer is sure of %d members, want 0 until all others have heard of it", got)
	}
	for i, f := range weirs {
		until(t, fmt.Sprintf("weir %d knows all three", i), func() bool { return f.Members(time.Now()) == 3 })
	}
	if got := weirs[0].Members(time.Now().Add(time.Minute)); got != 0 {
		t.Errorf("a view of a minute ago is sure of %d members, want 0", got)
	}

	weirs[2].Close()
	until(t, "the others know that one has left", func() bool { return weirs[0].Stats().Members == 2 })

	c := client(t, s)
	ctx := context.Background()
	at := func(ago time.Duration) float64 { return float64(time.Now().Add(-ago).UnixMicro()) }
	c.ZAdd(ctx, "weir:{prod}:members", redis.Z{Score: at(0), Member: "crashes now"})
	until(t, "the one that crashed counts", func() bool { return weirs[0].Stats().Members == 3 })
	until(t, "the one that crashed is forgotten", func() bool { return weirs[0].Stats().Members == 2 })
	c.ZAdd(ctx, "weir:{prod}:members", redis.Z{Score: at(-time.Hour), Member: "from before the clock went back"})
	until(t, "the one of the future is forgotten", func() bool { return c.ZCard(ctx, "weir:{prod}:members").Val() == 2 })

	stats := weirs[0].Stats()
	if n := len(stats.BeatSeconds.Counts); stats.BeatSeconds.Count == 0 || stats.BeatSeconds.Sum == 0 || n != len(stats.BeatSeconds.Bounds) ||
		!slices.IsSorted(stats.BeatSeconds.Counts) {
		t.Errorf("beats %+v, want a cumulative histogram of some", stats.BeatSeconds)
	}
}

func TestKeysHaveTheFleetsNameAndAnEnd(t *testing.T) {
	s := redistest.Start(t)
	f := open(t, s.URL()+patient, "prod")
	lease(t, f, "orders", 10, 10, 3)
	f.Publish(fleet.Event{Kind: fleet.BreakerTrip, Resource: "orders", For: time.Minute})
	c, ctx := client(t, s), context.Background()
	until(t, "the event is published", func() bool { return c.Exists(ctx, "weir:{prod}:breakers").Val() == 1 })
	keys := c.Keys(ctx, "*").Val()
	slices.Sort(keys)
	want := []string{"weir:{prod}:breakers", "weir:{prod}:bucket:orders", "weir:{prod}:epoch", "weir:{prod}:members"}
	if !slices.Equal(keys, want) {
		t.Errorf("keys %q, want %q", keys, want)
	}
	for _, key := range keys {
		if ttl := c.TTL(ctx, key).Val(); ttl <= 0 {
			t.Errorf("%s stays for ever", key)
		}
	}
}

func TestFleetsOnOneRedisDoNotMix(t *testing.T) {
	s := redistest.Start(t)
	a, b := open(t, s.URL()+patient, "a"), open(t, s.URL()+patient, "b")
	var heard events
	b.Subscribe(heard.add)
	a.Publish(fleet.Event{Kind: fleet.BreakerTrip, Resource: "orders", For: time.Minute})
	if got, _ := lease(t, a, "orders", 0.001, 10, 10); got != 10 {
		t.Errorf("fleet a got %d tokens of 10", got)
	}
	if got, _ := lease(t, b, "orders", 0.001, 10, 10); got != 10 {
		t.Errorf("fleet b got %d tokens of 10 after fleet a took its own", got)
	}
	until(t, "both are settled", func() bool { return a.Members(time.Now()) > 0 && b.Members(time.Now()) > 0 })
	if a.Stats().Members != 1 || b.Stats().Members != 1 {
		t.Errorf("members %d and %d, want one each", a.Stats().Members, b.Stats().Members)
	}
	if got := heard.all(); len(got) > 0 {
		t.Errorf("fleet b heard %v of fleet a", got)
	}
}

func TestRedisDownAtStartComesLater(t *testing.T) {
	s := redistest.Reserve(t)
	lines := &safeBuffer{}
	log := slog.New(slog.NewTextHandler(lines, nil))
	f, err := fleet.Open(context.Background(), fleet.Config{Redis: s.URL() + "?dial_timeout=5s"}, "w1", log)
	if err != nil {
		t.Fatalf("Open without Redis: %v", err)
	}
	defer f.Close()
	if got := f.Stats(); got.Up || got.Members != 0 {
		t.Errorf("stats %+v without Redis, want down and no members", got)
	}
	if _, _, err := f.Lease(context.Background(), "orders", 10, 10, 1); err == nil {
		t.Error("a lease without Redis")
	}
	s.Restart()
	until(t, "Redis is found", isUp(f))
	lease(t, f, "orders", 10, 10, 1)
	for _, want := range []string{"out of reach", "in reach"} {
		if got := strings.Count(lines.String(), want); got != 1 {
			t.Errorf("said %d times %q, want once:\n%s", got, want, lines.String())
		}
	}
}

func TestRedisPausedAndRestarted(t *testing.T) {
	s := redistest.Start(t)
	f := open(t, s.URL(), "prod")
	until(t, "Redis is found", isUp(f))

	s.Pause()
	until(t, "the pause is noticed", isDown(f))
	start := time.Now()
	if _, _, err := f.Lease(context.Background(), "orders", 10, 10, 1); err == nil {
		t.Error("a lease from a frozen Redis")
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("a lease that cannot be took %v", took)
	}
	until(t, "its view is too old", func() bool { return f.Members(time.Now()) == 0 })
	s.Resume()
	until(t, "the end of the pause is noticed", isUp(f))
	until(t, "the members are known again", func() bool { return f.Members(time.Now()) == 1 })

	s.Restart()
	until(t, "the restarted one has members", func() bool { return client(t, s).ZCard(context.Background(), "weir:{prod}:members").Val() == 1 })
	until(t, "the restart is noticed", isUp(f))

	s.Stop()
	until(t, "the end is noticed", isDown(f))
}

func TestCloseEndsWhatOpenStarted(t *testing.T) {
	s := redistest.Start(t)
	before := runtime.NumGoroutine()
	for range 5 {
		f := open(t, s.URL()+patient, "prod")
		lease(t, f, "orders", 10, 10, 1)
		f.Close()
	}
	until(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
	s.Stop()
	for range 3 {
		open(t, s.URL(), "prod").Close()
	}
	until(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
}

func TestEvents(t *testing.T) {
	s := redistest.Start(t)
	a, b := open(t, s.URL()+patient, "prod"), open(t, s.URL()+patient, "prod")
	c, ctx := client(t, s), context.Background()
	var toA, toB events
	a.Subscribe(toA.add)
	b.Subscribe(toB.add)

	cause := strings.Repeat("é", 300)
	a.Publish(fleet.Event{Kind: fleet.BreakerTrip, Resource: "orders", Cause: cause, For: 10 * time.Second})
	until(t, "the event arrives", func() bool { return toB.count() == 1 })
	got := toB.all()[0]
	if got.Kind != fleet.BreakerTrip || got.Resource != "orders" || got.Cause != strings.Repeat("é", 128) {
		t.Errorf("event %+v, want that of orders with its cause cut to whole characters", got)
	}
	if got.For <= 0 || got.For > 10*time.Second || got.From == "" {
		t.Errorf("event %+v, want a duration within the announced 10s and a sender", got)
	}

	late := open(t, s.URL()+patient, "prod")
	var toLate events
	late.Subscribe(toLate.add)
	until(t, "the event reaches a latecomer", func() bool { return toLate.count() == 1 })

	// By both ways, and once; what nobody understands is ignored.
	for _, bad := range []string{
		"", "x", ":::", "1:2", "99999999999999999:1000000:{", "99999999999999999:1000000:{}",
		`99999999999999999:1000000:{"kind":"budget","resource":"orders"}`,
		`99999999999999999:1000000:{"kind":"breaker.trip","resource":"orders","cause":"` + strings.Repeat("x", 5000) + `"}`,
		`99999999999999999:-5:{"kind":"breaker.trip","resource":"orders"}`,
	} {
		c.Publish(ctx, "weir:{prod}:events", bad)
	}
	c.HSet(ctx, "weir:{prod}:breakers", "garbage", "garbage", "old", "5:10:{}")
	until(t, "the beat has swept what is over", func() bool { return c.HLen(ctx, "weir:{prod}:breakers").Val() == 1 })

	c.Do(ctx, "CLIENT", "KILL", "TYPE", "pubsub") // what is missed by the channel comes with the beat
	b.Publish(fleet.Event{Kind: fleet.BreakerTrip, Resource: "users", Cause: "refused", For: 10 * time.Second})
	until(t, "an event reaches whoever lost the channel", func() bool { return toA.count() == 1 && toLate.count() == 2 })
	until(t, "all listen again", func() bool {
		return c.PubSubNumSub(ctx, "weir:{prod}:events").Val()["weir:{prod}:events"] == 3
	})
	if toA.count() != 1 || toB.count() != 1 || toLate.count() != 2 {
		t.Errorf("events %v, %v, %v; want every other weir's once", toA.all(), toB.all(), toLate.all())
	}

	before := toB.count()
	start := time.Now()
	a.Publish(fleet.Event{Kind: fleet.BreakerTrip, Resource: "orders", For: time.Second})
	until(t, "the next one of a resource arrives", func() bool { return toB.count() == before+1 })
	t.Logf("an event took %v", time.Since(start))
}

func TestEventOfAnOutageIsToldAfterIt(t *testing.T) {
	s := redistest.Start(t)
	a, b := open(t, s.URL(), "prod"), open(t, s.URL(), "prod")
	var toB events
	b.Subscribe(toB.add)
	s.Stop()
	until(t, "the end of Redis is noticed", isDown(a))
	a.Publish(fleet.Event{Kind: fleet.BreakerTrip, Resource: "orders", Cause: "older", For: time.Minute})
	a.Publish(fleet.Event{Kind: fleet.BreakerTrip, Resource: "orders", Cause: "newer", For: time.Minute})
	a.Publish(fleet.Event{Kind: fleet.BreakerTrip, Resource: "users", Cause: "over soon", For: time.Microsecond})
	s.Restart()
	until(t, "the event arrives", func() bool { return toB.count() > 0 })
	if got := toB.all(); len(got) != 1 || got[0].Cause != "newer" {
		t.Errorf("events %v, want the newer one of orders only", got)
	}
}

func TestEventsByClusterAndSentinel(t *testing.T) {
	cluster, master := redistest.Cluster(t), redistest.Start(t)
	sentinel := redistest.Sentinel(t, "main", master)
	for scheme, url := range map[string]string{
		"redis+cluster":  "redis+cluster://" + cluster.Addr() + patient,
		"redis+sentinel": "redis+sentinel://" + sentinel.Addr() + "/main" + patient,
	} {
		t.Run(scheme, func(t *testing.T) {
			a, b := open(t, url, "prod"), open(t, url, "prod")
			var toB events
			b.Subscribe(toB.add)
			until(t, "both are up", func() bool { return a.Stats().Up && b.Stats().Up })
			if got, _ := lease(t, a, "orders", 1, 5, 5); got != 5 {
				t.Errorf("%d tokens of a full bucket of 5", got)
			}
			a.Publish(fleet.Event{Kind: fleet.BreakerTrip, Resource: "orders", For: time.Minute})
			until(t, "the event arrives", func() bool { return toB.count() == 1 })
		})
	}
}

func TestNilIsTheFleetOfOne(t *testing.T) {
	f, err := fleet.Open(context.Background(), fleet.Config{}, "test", nil)
	if f != nil || err != nil {
		t.Fatalf("Open = %v, %v; want nil for no Redis", f, err)
	}
	f.Subscribe(func(fleet.Event) { t.Error("an event from nobody") })
	f.Publish(fleet.Event{Kind: fleet.BreakerTrip, Resource: "orders", For: time.Minute})
	if got := f.Members(time.Now()); got != 1 {
		t.Errorf("%d members, want 1", got)
	}
	if got := f.Stats(); got.Up || got.Members != 1 {
		t.Errorf("stats %+v, want one member", got)
	}
	if _, _, err := f.Lease(context.Background(), "orders", 1, 1, 1); err == nil {
		t.Error("a lease from nobody")
	}
	f.Close()
}

func TestWrongConfig(t *testing.T) {
	for _, url := range []string{
		"redis://:topsecret@host:99999999/%", "http://topsecret@host", "redis://topsecret@a:1,b:2", "redis+sentinel://topsecret@a:1",
		"redis://:topsecret@h/x", "redis+cluster://:topsecret@h/3", "redis://:topsecret@h?read_timeout=soon", "redis://:topsecret@h?nonsense=1",
	} {
		f, err := fleet.Open(context.Background(), fleet.Config{Redis: url}, "test", nil)
		if err == nil {
			f.Close()
			t.Errorf("%s opens", url)
		} else if strings.Contains(err.Error(), "topsecret") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func TestParseURL(t *testing.T) {
	tests := map[string]string{
		"redis://redis:6379/0":                     `["redis:6379"] db=0 user="" password="" master="" cluster=false tls=false`,
		"redis://h":                                `["h:6379"] db=0 user="" password="" master="" cluster=false tls=false`,
		"rediss://u:p%40@[::1]:7/3":                `["[::1]:7"] db=3 user="u" password="p@" master="" cluster=false tls=true`,
		"redis+sentinel://:p@a,b,c/main":           `["a:26379" "b:26379" "c:26379"] db=0 user="" password="p" master="main" cluster=false tls=false`,
		"rediss+sentinel://a/main/2":               `["a:26379"] db=2 user="" password="" master="main" cluster=false tls=true`,
		"redis+cluster://u:p@a:1,b:2":              `["a:1" "b:2"] db=0 user="u" password="p" master="" cluster=true tls=false`,
		"rediss+cluster://config.cache.example/":   `["config.cache.example:6379"] db=0 user="" password="" master="" cluster=true tls=true`,
		"redis+sentinel://a/m?sentinel_password=s": `["a:26379"] db=0 user="" password="" master="m" cluster=false tls=false`,
	}
	for url, want := range tests {
		o, err := fleet.ParseURL(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		got := fmt.Sprintf("%q db=%d user=%q password=%q master=%q cluster=%v tls=%v",
			o.Addrs, o.DB, o.Username, o.Password, o.MasterName, o.IsClusterMode, o.TLSConfig != nil)
		if got != want {
			t.Errorf("%s\ngives %s\nwant  %s", url, got, want)
		}
	}
}

// events collects what a subscriber hears.
type events struct {
	mu   sync.Mutex
	list []fleet.Event
}

func (e *events) add(event fleet.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, event)
}

func (e *events) all() []fleet.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.list)
}

func (e *events) count() int { return len(e.all()) }

type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestEventIsSmall(t *testing.T) {
	payload, err := json.Marshal(fleet.Event{
		Kind: fleet.BreakerTrip, Resource: strings.Repeat("<", 256), Cause: strings.Repeat("\x00", 256), From: strings.Repeat("x", 64),
	})
	if err != nil || len(payload) > 4<<10 {
		t.Errorf("the largest event has %d bytes, %v; want no more than are read", len(payload), err)
	}
}
