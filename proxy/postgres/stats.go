package postgres

import "github.com/weirproxy/weir/proxy"

// Stats is what has been counted so far.
func (s *Server) Stats() proxy.Stats {
	out := proxy.Stats{
		Clients:   map[string]int64{"login": s.door.count.Load()},
		LoginTime: s.loginTime.Histogram(),
		Refused:   s.refused.Counts(),
		Protocol:  s.protocol.Counts(),
		Panics:    s.panics.Load(),
		Shortages: s.files.times.Load(),
	}
	for k, n := range s.logins.Counts() {
		out.Logins = append(out.Logins, proxy.LoginStats{Method: k.method, Outcome: k.outcome, Count: n})
	}
	var waiting, active int64
	for _, r := range s.resources {
		rs := r.stats()
		waiting += rs.Waiting
		active += rs.Servers["used"]
		out.Resources = append(out.Resources, rs)
	}
	out.Clients["waiting"], out.Clients["active"] = waiting, active
	out.Clients["idle"] = max(0, s.clients.Load()-waiting-active)
	return out
}

func (r *resource) stats() proxy.ResourceStats {
	c := r.pool.Budget().Counts()
	out := proxy.ResourceStats{
		Name:   r.name,
		Budget: r.pool.Budget().Max(),
		Servers: map[string]int64{
			"idle": int64(c.Idle), "used": int64(c.Used), "dialing": int64(c.Dialing), "closing": int64(c.Closing),
		},
		Waiting:     int64(r.pool.Budget().Waiting()),
		Pinned:      make(map[string]int64),
		Stalls:      r.stalls.counts(),
		Prepared:    r.texts.counts(),
		QueryErrors: r.errors.Counts(),
	}
	for i := range r.pins {
		out.Pinned[touchLabels[i]] = r.pins[i].Load()
	}
	r.gate.AddTo(&out)
	return out
}
