package pgtest

import (
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"
)

// NoLeaks fails the test when, after all cleanups registered later, there are more goroutines or open files than there
// are now. Call it first, after Shared where that is used; it is not for tests that run in parallel.
func NoLeaks(tb testing.TB) {
	tb.Helper()
	startPoller()
	goroutines, files := runtime.NumGoroutine(), openFiles(tb)
	tb.Cleanup(func() {
		tb.Helper()
		if tb.Failed() || tb.Skipped() {
			return // what it left is not the news
		}
		// What was told to stop may need a moment to be gone.
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if runtime.NumGoroutine() <= goroutines && openFiles(tb) <= files {
				return
			}
		}
		var stacks strings.Builder
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1) // a Builder takes everything
		tb.Errorf("leak: goroutines %d → %d, open files %d → %d\n%s",
			goroutines, runtime.NumGoroutine(), files, openFiles(tb), stacks.String())
	})
}

// startPoller has the Go runtime open the files of its poller, which it keeps, so that the first test to need it is not held to them. Under
// go test there is a poller from the start, in a test binary that is run by itself there is none.
var startPoller = sync.OnceFunc(func() {
	if r, w, err := os.Pipe(); err == nil {
		_, _ = r.Close(), w.Close()
	}
})

// openFiles counts this process' descriptors; the one that looks is always among them.
func openFiles(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(entries)
}
