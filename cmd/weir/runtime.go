package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/weirproxy/weir/proxy/postgres"
)

// Go's collector runs when the heap has grown by a share of what is alive. A weir keeps little alive, so that a storm of
// logins, whose handshakes leave tens of kilobytes each, would have it run a hundred times a second, which cost a quarter
// of a login. So it also waits for garbage bytes, which are given back once the storm is over. Where many idle clients are
// alive the share counts: it is less than Go's 100, since they live long and nothing is allocated for a query.
const (
	garbage   = 32 << 20 // bytes
	gcPercent = 50
)

// When the process allocates less than calm bytes in a tick and has allocated more than untidy since it last gave memory
// back, it does so again.
const (
	tidyEvery = time.Second
	calm      = 256 << 10
	untidy    = 4 << 20
)

// tuneRuntime fits the Go runtime to a process that is a proxy and nothing else: memory as above, unless the environment
// says otherwise (GOGC), and as many of Go's processors as the event loops need besides those of the machine. It returns
// how many the machine has for us; undo puts everything back.
func tuneRuntime() (processors int, undo func()) {
	processors = runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(postgres.GoProcessors(processors))
	undoMemory := func() {}
	if os.Getenv("GOGC") == "" {
		undoMemory = paceCollector()
	}
	return processors, func() {
		runtime.GOMAXPROCS(processors)
		undoMemory()
	}
}

// pacer sets GOGC anew after each collection, and gives memory back when it is calm.
type pacer struct {
	mu      sync.Mutex // guards what follows
	percent int        // as last set
	before  int        // what it was at first
	stopped bool
}

func paceCollector() (undo func()) {
	p := &pacer{percent: gcPercent, before: debug.SetGCPercent(gcPercent)}
	p.collected(struct{}{})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.tidy(ctx) })
	return func() {
		stop()
		running.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.stopped = true
		debug.SetGCPercent(p.before)
	}
}

// collected is called after each collection, for it leaves something behind each time that the next one will find dead.
func (p *pacer) collected(struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	if want := percentFor(read("/gc/heap/live:bytes")); want != p.percent {
		p.percent = want
		debug.SetGCPercent(want)
	}
	runtime.AddCleanup(&sentinel{}, p.collected, struct{}{})
}

// sentinel is what collected leaves behind. It has a pointer so that it is not put together with other small objects.
type sentinel struct{ _ *byte }

// leastHeap is what the runtime takes a smaller heap for when it applies GOGC (heapMinimum in runtime/mgcpacer.go).
const leastHeap = 4 << 20

// percentFor is the share of live bytes, in percent, that may be garbage.
func percentFor(live uint64) int {
	return max(gcPercent, int(100*garbage/max(live, leastHeap)))
}

// tidy gives memory back after a storm.
func (p *pacer) tidy(ctx context.Context) {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	last := read("/gc/heap/allocs:bytes")
	given := last
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := read("/gc/heap/allocs:bytes")
		if now-last < calm && now-given > untidy {
			debug.FreeOSMemory()
			given = now
		}
		last = now
	}
}

// read is the value of one of the runtime's own metrics that are counts.
func read(name string) uint64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
