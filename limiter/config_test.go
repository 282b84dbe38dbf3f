package limiter_test

import (
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
		if got := test.match.Matches(test.user, test.application); got != test.want {
			t.Errorf("%+v matches user %q with application %q: %v, want %v", test.match, test.user, test.application, got, test.want)
		}
	}
}
