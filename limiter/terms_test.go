package limiter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/limiter"
)

func TestWhatAFunctionSaysOfItself(t *testing.T) {
	batch := limiter.Terms{Level: limiter.LevelBatch, Claims: true}
	for sql, c := range map[string]struct {
		want  limiter.Terms
		wrong string
	}{
		"select 1":                          {},
		"/* a comment of its own */ select": {},
		"/* weir: deadline=800ms */ select": {want: limiter.Terms{Deadline: 800 * time.Millisecond}},
		" /*weir:Deadline = 2s , priority=batch,caller=checkout*/ select": {
			want: limiter.Terms{Deadline: 2 * time.Second, Level: limiter.LevelBatch, Claims: true, Caller: "checkout"},
		},
		"/* weir: deadline=0 */ select":                        {},
		"/* weir: */ select":                                   {},
		"/* weir: deadline=800 */ select":                      {wrong: `weir.deadline: "800" has no unit`},
		"/* weir: deadline=-5ms, priority=batch */ select":     {want: batch, wrong: "is in the past"},
		"/* weir: deadline=8760h, priority=batch */ select":    {want: batch, wrong: "is too long"},
		"/* weir: deadline=1e99ms, priority=batch */ select":   {want: batch, wrong: "is not a duration"},
		"/* weir: priority=urgent */ select":                   {wrong: `weir.priority: "urgent" is not a priority; expected one of critical`},
		"/* weir: priority= */ select":                         {wrong: "is not a priority"},
		"/* weir: patience=1s */ select":                       {wrong: `weir."patience": there is no such parameter`},
		"/* weir: batch */ select":                             {wrong: `"batch" has no value`},
		"/* weir: deadline=5ms":                                {},
		"/* weir: caller=" + strings.Repeat("x", 64) + " */":   {wrong: "is not a name"},
		"/* weir: " + strings.Repeat(" ", 300) + "caller=x */": {},
	} {
		var got limiter.Terms
		err := got.ReadComment([]byte(sql))
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", sql, got, c.want)
		}
		if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: %v, want %q", sql, err, c.wrong)
		}
	}
}

func FuzzReadComment(f *testing.F) {
	f.Add([]byte("/* weir: deadline=800ms, priority=batch, caller=x */ select 1"))
	f.Fuzz(func(t *testing.T, sql []byte) {
		var got limiter.Terms
		_ = got.ReadComment(sql)
		if got.Deadline < 0 || got.Deadline > 24*time.Hour || len(got.Caller) > 63 {
			t.Errorf("%q says %+v", sql, got)
		}
	})
}
