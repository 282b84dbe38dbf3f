//go:build !linux

package eventloop

import "time"

// SetUserTimeout does nothing where the system has no such option.
func (c *Conn) SetUserTimeout(time.Duration) (before time.Duration) { return 0 }
