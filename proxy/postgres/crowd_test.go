package postgres

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// visitor is a guest, and the client's end of its connection.
type visitor struct {
	guest
	client int
	asked  bool // to go
}

func newVisitor(t *testing.T) *visitor {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Close(ends[0])
		_ = unix.Close(ends[1])
	})
	v := &visitor{client: ends[1]}
	v.fd, v.interrupt = ends[0], func() { v.asked = true }
	return v
}

// speaks sends something that nobody reads.
func (v *visitor) speaks(t *testing.T) {
	t.Helper()
	if _, err := unix.Write(v.client, []byte("hello")); err != nil {
		t.Fatal(err)
	}
}

// When weir is late, those whose words it has not read yet are not taken for silent.
func TestWhoHasAnsweredKeepsItsPlace(t *testing.T) {
	fleet, stranger := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	tests := map[string]struct {
		speak []int // of four from one address, of whom the first three may not all stay
		gone  int   // -1: none
	}{
		"the first silent one goes":                          {nil, 0},
		"the first silent one goes, past those who answered": {[]int{0, 1}, 2},
		"nobody goes where all answered":                     {[]int{0, 1, 2, 3}, -1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var c crowd
			var all []*visitor
			for range 4 {
				v := newVisitor(t)
				if !c.enter(&v.guest, fleet, 4) {
					t.Fatal("there was room")
				}
				all = append(all, v)
			}
			for _, i := range test.speak {
				all[i].speaks(t)
			}
			v := newVisitor(t)
			if got := c.enter(&v.guest, stranger, 4); got != (test.gone >= 0) {
				t.Errorf("the stranger gets in: %v", got)
			}
			for i, v := range all {
				if v.asked != (i == test.gone) {
					t.Errorf("number %d has to go: %v", i, v.asked)
				}
			}
			if n := c.count.Load(); n != 4 {
				t.Errorf("%d are at the door", n)
			}
		})
	}
}

// However many have answered, one that comes costs a bounded number of looks, and those behind them are found in the end.
func TestSilentOnesAreFoundBehindManyWhoHaveAnswered(t *testing.T) {
	var c crowd
	const limit = 4 * looksAtOnce
	var last *visitor
	for i := range limit {
		last = newVisitor(t)
		c.enter(&last.guest, netip.MustParseAddr("10.0.0.1"), limit)
		if i < limit-1 {
			last.speaks(t)
		}
	}
	tries := 0
	for ; !last.asked && tries < 10; tries++ {
		v := newVisitor(t)
		c.enter(&v.guest, netip.MustParseAddr("10.0.0.2"), limit)
	}
	if !last.asked || tries < 3 {
		t.Errorf("found: %v, after %d tries", last.asked, tries)
	}
}

// One that has 64 bits of IPv6 to choose addresses from is one.
func TestNeighbourhood(t *testing.T) {
	tests := []struct {
		a, b string
		same bool
	}{
		{"2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"::ffff:192.0.2.1", "::ffff:192.0.2.2", false},
	}
	for _, test := range tests {
		a, b := neighbourhood(netip.MustParseAddr(test.a)), neighbourhood(netip.MustParseAddr(test.b))
		if (a == b) != test.same {
			t.Errorf("%s and %s are taken for %v and %v", test.a, test.b, a, b)
		}
	}
}
