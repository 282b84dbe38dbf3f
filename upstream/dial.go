package upstream

import (
	"context"
	"net"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// socketOptions are libpq's for TCP; nil: not said.
type socketOptions struct {
	keepAlives, idle, interval, count *int
	userTimeout                       *int // milliseconds
}

// dialer makes connections have the options that were said.
func (r *reading) dialer() {
	o := r.sockets
	if o == (socketOptions{}) {
		return
	}
	dialer := &net.Dialer{Timeout: r.cfg.ConnectTimeout}
	switch {
	case o.keepAlives != nil && *o.keepAlives == 0:
		dialer.KeepAlive = -1
	default:
		count := -1
		if o.count != nil && *o.count > 0 {
			count = *o.count
		}
		dialer.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: seconds(o.idle), Interval: seconds(o.interval), Count: count}
	}
	if o.userTimeout != nil && *o.userTimeout > 0 {
		timeout := time.Duration(*o.userTimeout) * time.Millisecond
		dialer.Control = func(network, _ string, c syscall.RawConn) (err error) {
			if network == "unix" {
				return nil
			}
			if controlled := c.Control(func(fd uintptr) { err = setUserTimeout(int(fd), timeout) }); controlled != nil {
				return controlled
			}
			return err
		}
	}
	r.cfg.DialFunc = dialer.DialContext
}

// lookup finds hosts whose addresses were said, and the others by their names.
func lookup(at map[string][]string, byName pgconn.LookupFunc) pgconn.LookupFunc {
	return func(ctx context.Context, host string) ([]string, error) {
		if addresses, ok := at[host]; ok {
			return addresses, nil
		}
		return byName(ctx, host)
	}
}
