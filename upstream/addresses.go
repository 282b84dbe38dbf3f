package upstream

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A connection string may name several hosts, and a name several addresses. Each has a share of the time that there is to connect, so
// that one that says nothing does not take it from the others; and the one that has answered last is tried first.

// answered is the address that a login went well at last, as it is dialled; nil: none yet.
type answered = atomic.Pointer[string]

// Answered takes note that a login went well there.
func (u *Upstream) Answered(address string) {
	if last := u.last.Load(); last == nil || *last != address {
		u.last.Store(&address)
	}
}

// ConfigFor is Config for a dial that ends with ctx, whose time its addresses share.
func (u *Upstream) ConfigFor(ctx context.Context) *pgconn.Config {
	c := u.Config()
	ways := append([]*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}, c.Fallbacks...)
	found := u.find(ctx, c, ways)
	c.LookupFunc = found.lookup
	if last := u.last.Load(); last != nil && !u.random {
		found.first(*last, ways)
		c.Host, c.Port, c.TLSConfig, c.Fallbacks = ways[0].Host, ways[0].Port, ways[0].TLSConfig, ways[1:]
	}
	tries := found.tries(ways)
	if c.ValidateConnect != nil {
		tries++ // perhaps one more, at a host that is not the preferred kind
	}
	if end, ok := ctx.Deadline(); ok {
		share := max(time.Until(end)/time.Duration(max(tries, 1)), time.Millisecond)
		if c.ConnectTimeout == 0 || c.ConnectTimeout > share {
			c.ConnectTimeout = share
		}
	}
	return c
}

// found is what names have come to.
type found map[string]struct {
	addresses []string
	err       error
}

func (u *Upstream) find(ctx context.Context, c *pgconn.Config, ways []*pgconn.FallbackConfig) found {
	f := found{}
	for _, w := range ways {
		if _, known := f[w.Host]; known || strings.HasPrefix(w.Host, "/") {
			continue
		}
		at := f[w.Host]
		at.addresses, at.err = c.LookupFunc(ctx, w.Host)
		at.addresses = slices.Clone(at.addresses)
		f[w.Host] = at
	}
	return f
}

func (f found) lookup(_ context.Context, host string) ([]string, error) {
	return f[host].addresses, f[host].err
}

// at are the addresses of a way, as they are dialled.
func (f found) at(w *pgconn.FallbackConfig) (dialled []string) {
	at, known := f[w.Host]
	if !known {
		_, socket := pgconn.NetworkAddress(w.Host, w.Port)
		return []string{socket}
	}
	for _, a := range at.addresses {
		dialled = append(dialled, dialledAs(a, w.Port))
	}
	return dialled
}

// dialledAs is an address of a name as it is dialled; it may have a port of its own.
func dialledAs(address string, port uint16) string {
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	_, dialled := pgconn.NetworkAddress(address, port)
	return dialled
}

// first moves an address, and the ways that lead to it, to the front.
func (f found) first(last string, ways []*pgconn.FallbackConfig) {
	slices.SortStableFunc(ways, func(a, b *pgconn.FallbackConfig) int {
		return rank(slices.Contains(f.at(a), last)) - rank(slices.Contains(f.at(b), last))
	})
	port := ways[0].Port
	slices.SortStableFunc(f[ways[0].Host].addresses, func(a, b string) int {
		return rank(dialledAs(a, port) == last) - rank(dialledAs(b, port) == last)
	})
}

func rank(first bool) int {
	if first {
		return 0
	}
	return 1
}

// tries is how often pgconn begins a time anew: at each address that is not that of the try before.
func (f found) tries(ways []*pgconn.FallbackConfig) (n int) {
	before := ""
	for _, w := range ways {
		for _, address := range f.at(w) {
			if address != before {
				n++
			}
			before = address
		}
	}
	return n
}
