package upstream

import (
	"cmp"
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

// keepAliveFor are the options of a connection whose other side is taken to be gone when it has confirmed nothing for d: first it is left
// alone for two fifths of d, then it is asked three times.
func keepAliveFor(d time.Duration) socketOptions {
	part := max(1, int(d/time.Second)/5)
	return socketOptions{idle: new(2 * part), interval: new(part), count: new(3), userTimeout: new(int(d.Milliseconds()))}
}

// or takes what o does not say from other.
func (o socketOptions) or(other socketOptions) socketOptions {
	return socketOptions{
		keepAlives: cmp.Or(o.keepAlives, other.keepAlives), idle: cmp.Or(o.idle, other.idle), interval: cmp.Or(o.interval, other.interval),
		count: cmp.Or(o.count, other.count), userTimeout: cmp.Or(o.userTimeout, other.userTimeout),
	}
}

// WithUserTimeout is u with connections whose server is taken to be gone when it has confirmed nothing for d, as far as the connection
// string does not say otherwise. 0: as the system has it.
func (u *Upstream) WithUserTimeout(d time.Duration) *Upstream {
	if d <= 0 {
		return u
	}
	with := *u
	with.cfg = u.cfg.Copy()
	with.sockets = u.sockets.or(keepAliveFor(d))
	with.sockets.dialer(with.cfg)
	return &with
}

// dialer makes connections have the options that were said.
func (o socketOptions) dialer(cfg *pgconn.Config) {
	if o == (socketOptions{}) {
		return
	}
	dialer := &net.Dialer{Timeout: cfg.ConnectTimeout}
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
	cfg.DialFunc = dialer.DialContext
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
