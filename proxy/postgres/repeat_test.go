package postgres

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestWhoRepeatsARefusedLoginIsSlowed(t *testing.T) {
	var r repeats
	now := time.Now()
	who := repeater{netip.MustParseAddr("10.0.0.1"), "app"}
	for i := range refusedAtOnce {
		if wait := r.delay(who, now); wait != 0 {
			t.Fatalf("the answer to refusal %d waits for %v", i+1, wait)
		}
	}
	last := time.Duration(0)
	for range 10 * refusedPerSecond { // as fast as it can
		wait := r.delay(who, now)
		if wait < last || wait > slowestAnswer {
			t.Fatalf("waits for %v after %v", wait, last)
		}
		last = wait
	}
	if last != slowestAnswer {
		t.Errorf("waits for %v in the end, want %v", last, slowestAnswer)
	}
	if wait := r.delay(repeater{who.address, "other"}, now); wait != 0 {
		t.Errorf("another user waits for %v", wait)
	}
	if wait := r.delay(repeater{netip.MustParseAddr("10.0.0.2"), who.user}, now); wait != 0 {
		t.Errorf("another address waits for %v", wait)
	}
	now = now.Add(5 * time.Second)
	if wait := r.delay(who, now); wait != 0 {
		t.Errorf("after a rest it still waits for %v", wait)
	}
}

func TestAsManyRepeatersAsComeAreBounded(t *testing.T) {
	var r repeats
	for i := range 3 * mostRepeaters {
		r.delay(repeater{user: fmt.Sprint(i)}, time.Now())
		if len(r.known) > mostRepeaters {
			t.Fatalf("%d are remembered", len(r.known))
		}
	}
}
