package pool_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/weirproxy/weir/pool"
)

// What is in doubt is not relied on any more, and its names are there to be closed, some at a time.
func TestWhatIsInDoubtIsClosedBitByBit(t *testing.T) {
	const most = 100
	p := pool.Prepared{Prefix: "a_", Unnamed: 7}
	for id := range uint64(50) {
		p.Add(id)
	}
	p.Doubt()
	if p.Has(3) || p.Prefix != "" || p.Unnamed != 7 {
		t.Errorf("after doubt: %+v", p)
	}
	p.Prefix = "b_"
	p.Add(3)
	var closed []string
	for i, want := range []int{32, 18, 0} {
		taken := p.TakeStale(most)
		if len(taken) != want {
			t.Errorf("time %d: %d names, want %d", i, len(taken), want)
		}
		closed = append(closed, taken...)
	}
	slices.Sort(closed)
	for id := range 50 {
		if _, found := slices.BinarySearch(closed, fmt.Sprint("a_", id)); !found {
			t.Errorf("a_%d is not closed", id)
		}
	}
	if !p.Has(3) {
		t.Error("what was prepared since is not there any more")
	}
}

// When there are too many, all are closed at once.
func TestTooMuchInDoubtIsClosedAtOnce(t *testing.T) {
	const most = 100
	p := pool.Prepared{Prefix: "a_"}
	for id := range uint64(most + 1) {
		p.Add(id)
	}
	p.Doubt()
	if got := len(p.TakeStale(most)); got != most+1 {
		t.Errorf("%d names, want %d", got, most+1)
	}
	p.Add(1)
	p.Doubt()
	p.Clear()
	if got := len(p.TakeStale(most)); got != 0 {
		t.Errorf("%d names after DISCARD ALL, want none", got)
	}
}
