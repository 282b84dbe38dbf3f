package main

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// The collector waits for a fixed amount of garbage as long as little is alive, and for a share of it from then on.
func TestHowMuchGarbageIsLeftDependsOnWhatIsAlive(t *testing.T) {
	for _, test := range []struct {
		live uint64
		want int
	}{
		{0, 800},
		{1 << 20, 800},
		{8 << 20, 400},
		{32 << 20, 100},
		{64 << 20, 50},
		{1 << 30, 50},
	} {
		if got := percentFor(test.live); got != test.want {
			t.Errorf("with %d bytes alive GOGC is %d, want %d", test.live, got, test.want)
		}
	}
}

func TestTheCollectorIsPacedAnewAfterEachCollection(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	undo := paceCollector()
	alive := make([]byte, 128<<20)
	for deadline := time.Now().Add(10 * time.Second); ; {
		runtime.GC()
		if read("/gc/gogc:percent") == gcPercent {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("GOGC is still %d with %d bytes alive", read("/gc/gogc:percent"), read("/gc/heap/live:bytes"))
		}
		time.Sleep(time.Millisecond) // cleanups run on a goroutine of the runtime
	}
	runtime.KeepAlive(alive)
	undo()
	if got := read("/gc/gogc:percent"); got != 100 {
		t.Errorf("afterwards GOGC is %d, not what it was", got)
	}
}
