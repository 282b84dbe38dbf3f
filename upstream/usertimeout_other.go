//go:build !linux

package upstream

import "time"

// setUserTimeout does nothing where the system has no such option, as libpq.
func setUserTimeout(int, time.Duration) error { return nil }
