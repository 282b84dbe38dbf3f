// Package golden compares what a test has made with a file that holds what is right, and writes that file anew when the test is
// run with -update.
package golden

import (
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write golden files and reference pages anew")

// Compare fails the test when got is not what the file says. A path is relative to the test's package.
func Compare(tb testing.TB, path, got string) {
	tb.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if got != string(want) {
		tb.Errorf("%s differs; if that is right, run this package's tests with -update\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}
