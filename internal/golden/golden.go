// Package golden compares what a test has made with a file that holds what is right, and writes that file anew when the test is
// run with -update.
package golden

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
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

// Private copies a directory of the test's package to a place of its own, where only the user may read the files: how a checkout
// left them is no matter then. It returns the directory that has the copy under the same name.
func Private(tb testing.TB, dir string) string {
	tb.Helper()
	root := tb.TempDir()
	if err := os.CopyFS(filepath.Join(root, dir), os.DirFS(dir)); err != nil {
		tb.Fatal(err)
	}
	err := filepath.WalkDir(filepath.Join(root, dir), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		tb.Fatal(err)
	}
	return root
}
