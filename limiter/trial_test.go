package limiter_test

import (
	"testing"

	"github.com/weirproxy/weir/limiter"
)

func TestTrialsAreWeighedAgainstChance(t *testing.T) {
	const alike, differ = .15, 1.
	tests := map[string]struct {
		from, to      float64
		before, after [2]int // statements, seconds
		deviation     float64
		want          string
	}{
		"nothing seen yet":                         {20, 10, [2]int{100, 100}, [2]int{}, alike, "undecided"},
		"too few to tell":                          {20, 10, [2]int{100, 100}, [2]int{40, 40}, alike, "undecided"},
		"as much":                                  {20, 10, [2]int{100, 100}, [2]int{80, 80}, alike, "won"},
		"half, soon":                               {20, 10, [2]int{100, 100}, [2]int{30, 60}, alike, "lost"},
		"half, of statements that differ":          {20, 10, [2]int{200, 200}, [2]int{80, 160}, differ, "lost"},
		"a little less":                            {20, 10, [2]int{100, 100}, [2]int{80, 88}, alike, "undecided"},
		"a little less, for long":                  {20, 10, [2]int{300, 300}, [2]int{240, 264}, alike, "lost"},
		"a little less of statements that differ":  {20, 10, [2]int{300, 300}, [2]int{240, 264}, differ, "won"},
		"a third less of statements that differ":   {20, 10, [2]int{300, 300}, [2]int{240, 360}, differ, "lost"},
		"as much of statements that differ, early": {20, 10, [2]int{80, 80}, [2]int{80, 80}, differ, "undecided"},
		"a quarter more, with a higher limit":      {8, 10, [2]int{100, 100}, [2]int{100, 80}, alike, "won"},
		"as much, with a higher limit":             {8, 10, [2]int{100, 100}, [2]int{100, 100}, alike, "lost"},
		"as much, with one that is double":         {8, 16, [2]int{300, 300}, [2]int{240, 240}, differ, "lost"},
	}
	for name, tt := range tests {
		if got := limiter.TrialVerdict(tt.from, tt.to, tt.before, tt.after, tt.deviation); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

func TestSlotsAreLentOneAfterTheOther(t *testing.T) {
	var l limiter.Lending
	step := func(slow float64, lent, want int) {
		t.Helper()
		if got := l.Decide(40, slow, lent); got != want {
			t.Errorf("%.1f times as slow as alone with %d lent: %d are lent, want %d", slow, lent, got, want)
		}
	}
	for range 20 {
		step(2, -3, 0) // nobody wants any
	}
	step(2, 0, 1) // all of their part is in use, and nobody is the slower
	step(2.1, 1, 2)
	step(2.2, 2, 3)
	step(2.2, 2, 3) // not all in use
	step(2.9, 3, 3) // somewhat slower
	step(4, 3, 1)   // too slow
	step(4, 1, 0)
	step(2, 0, 1)
	if got := l.Decide(0, 1, 1); got != 2 {
		t.Errorf("%d are lent where nobody can be the slower, want 2", got)
	}
	step(2, -1, 1) // not wanted any more
	step(2, -1, 0)
}
