package upstream

import "github.com/jackc/pgx/v5/pgconn"

// Ways are those to each host.
func Ways(u *Upstream) (all [][]*pgconn.FallbackConfig) {
	for _, h := range u.hosts {
		all = append(all, h.ways)
	}
	return all
}

// Settings is what a connection string has.
var Settings = settings

// SetLookup has names be resolved by lookup.
func (u *Upstream) SetLookup(lookup pgconn.LookupFunc) { u.cfg.LookupFunc = lookup }
