package pgtest

import (
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"
)

// NoLeaks fails the test when, after all cleanups registered later, there are more goroutines or open files than there
// are now. Call it first, after Shared where that is used; it is not for tests that run in parallel.
func NoLeaks(tb testing.TB) {
	tb.Helper()
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

// openFiles counts this process' descriptors; the one that looks is always among them.
func openFiles(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(entries)
}
