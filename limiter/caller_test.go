package limiter_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/weirproxy/weir/limiter"
)

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		match             limiter.Match
		user, application string
		want              bool
	}{
		{limiter.Match{}, "app", "psql", true},
		{limiter.Match{User: "app"}, "app", "", true},
		{limiter.Match{User: "app"}, "apps", "", false},
		{limiter.Match{User: "app*"}, "apps", "", true},
		{limiter.Match{User: "*app"}, "my-app", "", true},
		{limiter.Match{User: "*"}, "", "", true},
		{limiter.Match{User: "a*b*c"}, "a-b-b-c", "", true},
		{limiter.Match{User: "a*b*c"}, "a-c-b", "", false},
		{limiter.Match{User: "ab*ba"}, "aba", "", false}, // the two ends may not share a letter
		{limiter.Match{User: "a**b"}, "ab", "", true},
		{limiter.Match{User: "app", ApplicationName: "report-*"}, "app", "report-7", true},
		{limiter.Match{User: "app", ApplicationName: "report-*"}, "app", "psql", false},
		{limiter.Match{User: "app", ApplicationName: "report-*"}, "sre", "report-7", false},
	} {
		if got := test.match.Matches(limiter.Identity{User: test.user, ApplicationName: test.application}); got != test.want {
			t.Errorf("%+v matches user %q with application %q: %v, want %v", test.match, test.user, test.application, got, test.want)
		}
	}
}

func TestMatchByAddressAndByWhatTheClientSays(t *testing.T) {
	for _, test := range []struct {
		match   limiter.Match
		address string
		says    string
		want    bool
	}{
		{limiter.Match{Address: "10.1.0.0/16"}, "10.1.2.3", "", true},
		{limiter.Match{Address: "10.1.0.0/16"}, "::ffff:10.1.2.3", "", true},
		{limiter.Match{Address: "10.1.0.0/16"}, "10.2.2.3", "", false},
		{limiter.Match{Address: "10.1.2.3"}, "10.1.2.3", "", true},
		{limiter.Match{Address: "2001:db8::/32"}, "2001:db8::1", "", true},
		{limiter.Match{Address: "2001:db8::/32"}, "10.1.2.3", "", false},
		{limiter.Match{Caller: "check*"}, "10.1.2.3", "checkout", true},
		{limiter.Match{Caller: "check*"}, "10.1.2.3", "", false},
		{limiter.Match{Caller: "check*", Address: "10.0.0.0/8"}, "11.1.2.3", "checkout", false},
	} {
		id := limiter.Identity{Address: netip.MustParseAddr(test.address), Says: test.says}
		if got := test.match.Matches(id); got != test.want {
			t.Errorf("%+v matches %+v: %v, want %v", test.match, id, got, test.want)
		}
	}
}

func TestCallersAreFoundByTheFirstRuleThatMatches(t *testing.T) {
	rules := []limiter.CallerRule{
		{Name: "off", Match: limiter.Match{User: "*"}, Mode: limiter.Off},
		{Name: "checkout", Match: limiter.Match{User: "checkout_fn"}, Priority: limiter.Critical, Rate: &limiter.Rate{PerSecond: 5}},
		{Name: "reports", Match: limiter.Match{ApplicationName: "report-*"}, Priority: limiter.Batch, MaxPriority: limiter.Normal, Mode: limiter.Enforce},
		{Name: "trial", Match: limiter.Match{User: "trial"}, Priority: limiter.Critical, Mode: limiter.Shadow},
	}
	var buckets []string
	for i := range rules {
		rules[i] = rules[i].WithDefaults()
	}
	callers := limiter.NewCallers("resources.orders.callers", rules, func(name string, r limiter.Rate) limiter.Bucket {
		buckets = append(buckets, fmt.Sprint(name, r.PerSecond, r.Burst))
		return limiter.NewLocal(r, nil)
	})
	if fmt.Sprint(buckets) != "[checkout5 5]" {
		t.Errorf("made the buckets %v", buckets)
	}
	for _, test := range []struct {
		id             limiter.Identity
		name           string
		level, highest limiter.Level
	}{
		{limiter.Identity{User: "checkout_fn", ApplicationName: "report-7"}, "checkout", limiter.LevelCritical, limiter.LevelCritical},
		{limiter.Identity{User: "app", ApplicationName: "report-7"}, "reports", limiter.LevelBatch, limiter.LevelNormal},
		{limiter.Identity{User: "trial"}, "trial", limiter.LevelNormal, limiter.LevelNormal},
		{limiter.Identity{User: "app"}, "default", limiter.LevelNormal, limiter.LevelNormal},
	} {
		got := callers.Find(test.id)
		if got.Name != test.name || got.Level != test.level || got.Highest != test.highest {
			t.Errorf("%+v is %s, %v up to %v", test.id, got.Name, got.Level, got.Highest)
		}
		if callers.Find(test.id) != got {
			t.Errorf("%+v is somebody else the second time", test.id)
		}
	}
	if callers.Find(limiter.Identity{User: "a"}) == callers.Find(limiter.Identity{User: "b"}) {
		t.Error("users without a rule are one caller")
	}
}

func TestAsManyStrangersAsComeAreBounded(t *testing.T) {
	callers := limiter.NewCallers("callers", nil, nil)
	for i := range 5000 {
		callers.Find(limiter.Identity{User: fmt.Sprint("user", i)})
	}
	known := 0
	callers.Each(func(*limiter.Caller) { known++ })
	if known != 1001 {
		t.Errorf("%d callers are remembered, want a thousand and the rest together", known)
	}
	if callers.Find(limiter.Identity{User: "another"}) != callers.Find(limiter.Identity{User: "and another"}) {
		t.Error("those who came too late do not share")
	}
}

func TestAFunctionClaimsNoMoreThanItsRuleAllows(t *testing.T) {
	c := limiter.Caller{Level: limiter.LevelBatch, Highest: limiter.LevelNormal}
	for claimed, want := range map[limiter.Level]limiter.Level{
		limiter.LevelCritical: limiter.LevelNormal, limiter.LevelNormal: limiter.LevelNormal,
		limiter.LevelBatch: limiter.LevelBatch, limiter.LevelSheddable: limiter.LevelSheddable,
	} {
		if got, granted := c.Claim(claimed); got != want || granted != (got == claimed) {
			t.Errorf("claims %v, gets %v, granted %v; want %v", claimed, got, granted, want)
		}
	}
}
