package fleet_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/fleet"
	"github.com/weirproxy/weir/internal/redistest"
)

// Whoever may send a message to the channel, but not write, trips no breaker: a message is only a reason to look.
func TestAMessageOfAStrangerIsNoVerdict(t *testing.T) {
	s := redistest.Start(t)
	a, b := open(t, s.URL()+patient, "prod"), open(t, s.URL()+patient, "prod")
	c, ctx := client(t, s), context.Background()
	var toA events
	a.Subscribe(toA.add)
	until(t, "it listens", func() bool {
		return c.PubSubNumSub(ctx, "weir:{prod}:events").Val()["weir:{prod}:events"] == 2
	})
	for _, version := range []string{"1", "99999999999999999", "9223372036854775807", "-1", "1e300", "nan"} {
		c.Publish(ctx, "weir:{prod}:events", version+`:60000000:{"kind":"breaker.trip","resource":"orders","cause":"a stranger","from":"x"}`)
	}
	// A verdict that is one comes behind all of them, and none of them keeps it away.
	b.Publish(fleet.Event{Kind: fleet.BreakerTrip, Resource: "orders", Cause: "refused", For: 10 * time.Second})
	until(t, "the verdict arrives", func() bool { return toA.count() > 0 })
	if all := toA.all(); len(all) != 1 || all[0].Cause != "refused" {
		t.Errorf("events %+v, want the one of the other weir", all)
	}
}

// However many messages come, Redis is not asked all the time.
func TestManyMessagesMakeFewBeats(t *testing.T) {
	s := redistest.Start(t)
	f := open(t, s.URL()+patient, "prod")
	c, ctx := client(t, s), context.Background()
	until(t, "it listens", func() bool {
		return c.PubSubNumSub(ctx, "weir:{prod}:events").Val()["weir:{prod}:events"] == 1
	})
	before, start := f.Stats().BeatSeconds.Count, time.Now()
	for time.Since(start) < 400*time.Millisecond {
		c.Publish(ctx, "weir:{prod}:events", "look")
	}
	beats := f.Stats().BeatSeconds.Count - before
	if most := uint64(time.Since(start)/(20*time.Millisecond)) + 2; beats < 3 || beats > most {
		t.Errorf("%d beats in %v of messages, want a few and no more than %d", beats, time.Since(start), most)
	}
}

// What somebody wrote into the hash does no lasting harm, whatever it is.
func TestVersionsThatCannotBe(t *testing.T) {
	s := redistest.Start(t)
	a, b := open(t, s.URL()+patient, "prod"), open(t, s.URL()+patient, "prod")
	c, ctx := client(t, s), context.Background()
	var toA events
	a.Subscribe(toA.add)
	const event = `{"kind":"breaker.trip","resource":"%s","cause":"a stranger","from":"x"}`
	soon := fmt.Sprint(time.Now().Add(time.Minute).UnixMicro())
	for resource, entry := range map[string]string{
		"none":     "",
		"negative": "-5:" + soon,
		"nan":      "nan:" + soon,
		"inf":      "inf:" + soon,
		"digits":   strings.Repeat("9", 400) + ":" + soon,
		"inexact":  "9007199254740993:" + soon,
		"till nan": "5:nan",
		"till inf": "5:" + strings.Repeat("9", 400),
		"zero":     "0:" + soon,
	} {
		c.HSet(ctx, "weir:{prod}:breakers", resource, entry+":"+fmt.Sprintf(event, resource))
		b.Publish(fleet.Event{Kind: fleet.BreakerTrip, Resource: resource, Cause: "refused", For: 10 * time.Second})
		until(t, "the verdict on "+resource+" arrives", func() bool {
			for _, e := range toA.all() {
				if e.Resource == resource && e.Cause == "refused" {
					return true
				}
			}
			return false
		})
	}
	for _, e := range toA.all() {
		if e.Cause != "refused" {
			t.Errorf("believed %+v", e)
		}
	}
}

// A bucket in which somebody else has written is as good as a new one.
func TestBucketsWithWhatCannotBeInThem(t *testing.T) {
	s := redistest.Start(t)
	f := open(t, s.URL()+patient, "prod")
	c, ctx := client(t, s), context.Background()
	const key = "weir:{prod}:bucket:orders"
	lessThanASecond := func(name string) {
		t.Helper()
		for range 3 {
			granted, retry, err := f.Lease(ctx, "orders", 100, 10, 10)
			if err != nil || granted < 0 || granted > 10 || retry < 0 || retry > time.Second {
				t.Errorf("%s: %d tokens, the next after %v, %v", name, granted, retry, err)
			}
		}
	}
	for _, value := range []string{"nan", "-nan", "inf", "-inf", "-5", "1e300", "9007199254740993", "0x10", "text", "", strings.Repeat("9", 400)} {
		for _, field := range []string{"tat", "hw"} {
			c.Del(ctx, key)
			lessThanASecond("at first")
			c.HSet(ctx, key, field, value)
			lessThanASecond(field + " " + value)
		}
	}
	c.Del(ctx, key)
	c.Set(ctx, key, "a string", 0)
	lessThanASecond("a string")
	for _, epoch := range []string{"nan", "inf", "-1", "text"} {
		c.Del(ctx, key)
		c.Set(ctx, "weir:{prod}:epoch", epoch, 0)
		lessThanASecond("epoch " + epoch)
	}
	c.Del(ctx, key, "weir:{prod}:epoch")
	c.LPush(ctx, "weir:{prod}:epoch", "a list")
	lessThanASecond("an epoch that is a list")
}

func TestLeasesThatCannotBe(t *testing.T) {
	for name, test := range map[string]struct {
		reply     []int64
		perSecond float64
		want      int
		ok        bool
	}{
		"all":                    {[]int64{10, 0}, 100, 10, true},
		"none":                   {[]int64{0, 10_000}, 100, 10, true},
		"a slow bucket":          {[]int64{0, 1_000_000_000}, 0.001, 10, true},
		"more than asked for":    {[]int64{11, 0}, 100, 10, false},
		"fewer than none":        {[]int64{-1, 0}, 100, 10, false},
		"back in time":           {[]int64{0, -1}, 100, 10, false},
		"not in this life":       {[]int64{0, 1 << 62}, 100, 10, false},
		"nor in this":            {[]int64{0, 1 << 62}, 1e-300, 10, false},
		"what NaN becomes":       {[]int64{-1 << 63, -1 << 63}, 100, 10, false},
		"half a reply":           {[]int64{1}, 100, 10, false},
		"no reply":               {nil, 100, 10, false},
		"more than was to be in": {[]int64{1, 0, 0}, 100, 10, false},
	} {
		if err := fleet.CheckLease(test.reply, test.perSecond, test.want); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBeatsThatCannotBe(t *testing.T) {
	for name, test := range map[string]struct {
		reply    []any
		members  int // 0: an error
		verdicts int
	}{
		"alone":               {[]any{int64(1)}, 1, 0},
		"a verdict":           {[]any{int64(3), int64(7), int64(1000), "{}"}, 3, 1},
		"two":                 {[]any{int64(3), int64(7), int64(1000), "{}", int64(8), int64(1000), "{}"}, 3, 2},
		"half of one":         {[]any{int64(3), int64(7), int64(1000)}, 3, 0},
		"a version below 1":   {[]any{int64(3), int64(-7), int64(1000), "{}"}, 3, 0},
		"a version too great": {[]any{int64(3), int64(1) << 53, int64(1000), "{}"}, 3, 0},
		"a version in words":  {[]any{int64(3), "7", int64(1000), "{}"}, 3, 0},
		"one that is over":    {[]any{int64(3), int64(7), int64(-1), "{}"}, 3, 0},
		"one without words":   {[]any{int64(3), int64(7), int64(1000), nil}, 3, 0},
		"nothing":             {nil, 0, 0},
		"nobody":              {[]any{int64(0)}, 0, 0},
		"fewer than nobody":   {[]any{int64(-1)}, 0, 0},
		"the whole world":     {[]any{int64(1) << 40}, 0, 0},
		"members in words":    {[]any{"3"}, 0, 0},
	} {
		members, verdicts, err := fleet.ReadBeat(test.reply)
		if members != test.members || verdicts != test.verdicts || (err == nil) != (test.members > 0) {
			t.Errorf("%s: %d members, %d verdicts, %v", name, members, verdicts, err)
		}
	}
}
