package admin

import (
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirproxy/weir/proxy"
)

// FleetStats is what this weir knows of its fleet.
type FleetStats struct {
	Up           bool             // the shared store answered lately
	Members      int              // weirs seen lately, this one included
	Beat         proxy.Histogram  // seconds a heartbeat took
	TokensLeased map[string]int64 // rate tokens leased, by resource
}

// snapshot is everything one scrape shows.
type snapshot struct {
	proxy.Stats
	fleet   FleetStats
	version string

	logDropped int64 // lines
}

type metricType string

const (
	counter   metricType = "counter"
	gauge     metricType = "gauge"
	histogram metricType = "histogram"
)

// metric is one row of the table: all that is known about one exported name.
type metric struct {
	name   string
	help   string
	typ    metricType
	labels []string
	write  func(snapshot, series)
}

// metrics is all that weir exports about itself. docs/reference/metrics.md is made of it.
var metrics = []metric{
	{
		"weir_clients", "Connected clients by state: login, idle, waiting, active.", gauge,
		[]string{"state"},
		func(s snapshot, out series) {
			out.counts(s.Clients, "login", "idle", "waiting", "active")
		},
	},
	{
		"weir_server_connections", "Server connections this weir holds by state: idle, used, dialing, closing.", gauge,
		[]string{"resource", "state"},
		perResource(func(r proxy.ResourceStats, out series) {
			out.counts(r.Servers, "idle", "used", "dialing", "closing")
		}),
	},
	{
		"weir_budget", "Server connections the resource may have.", gauge,
		[]string{"resource"},
		perResource(func(r proxy.ResourceStats, out series) {
			out.number(float64(r.Budget))
		}),
	},
	{
		"weir_admitted_total", "Transactions admitted to the resource.", counter,
		[]string{"resource", "caller", "priority"},
		perResource(func(r proxy.ResourceStats, out series) {
			for by, n := range r.Admitted {
				out.number(float64(n), by.Caller, by.Priority)
			}
		}),
	},
	{
		"weir_refused_total", "Transactions and connections refused, by reason; mode shadow counts what was let pass. The resource is empty for connections refused before they named one.", counter,
		[]string{"resource", "caller", "reason", "mode"},
		func(s snapshot, out series) {
			for reason, n := range s.Refused {
				out.number(float64(n), "", "", reason, "enforce")
			}
			for _, r := range s.Resources {
				for _, refused := range r.Refused {
					out.number(float64(refused.Count), r.Name, refused.Caller, refused.Reason, refused.Mode)
				}
			}
		},
	},
	{
		"weir_queue_length", "Transactions waiting for their turn.", gauge,
		[]string{"resource", "priority"},
		perResource(func(r proxy.ResourceStats, out series) {
			out.counts(r.Queue)
		}),
	},
	{
		"weir_limit", "Transactions that may run at once: the adaptive limit, or the budget where that is off.", gauge,
		[]string{"resource"},
		perResource(func(r proxy.ResourceStats, out series) {
			out.number(float64(r.Limit))
		}),
	},
	{
		"weir_patience_seconds", "How long transactions are taken to be wanted that say nothing of it: as is set, as is seen of those who hang up or cancel, or else queue.wait.", gauge,
		[]string{"resource"},
		perResource(func(r proxy.ResourceStats, out series) {
			out.number(r.Patience.Seconds())
		}),
	},
	{
		"weir_queue_wait_seconds", "How long transactions waited for their turn and a server connection.", histogram,
		[]string{"resource"},
		perResource(func(r proxy.ResourceStats, out series) {
			out.histogram(r.QueueWait)
		}),
	},
	{
		"weir_transaction_seconds", "How long transactions held their server connection.", histogram,
		[]string{"resource"},
		perResource(func(r proxy.ResourceStats, out series) {
			out.histogram(r.Transaction)
		}),
	},
	{
		"weir_query_errors_total", "Errors the server answered with, by SQLSTATE class (its first two characters).", counter,
		[]string{"resource", "class"},
		perResource(func(r proxy.ResourceStats, out series) {
			out.counts(r.QueryErrors)
		}),
	},
	{
		"weir_breaker_state", "The circuit breaker: 0 closed, 1 half-open, 2 open.", gauge,
		[]string{"resource"},
		perResource(func(r proxy.ResourceStats, out series) {
			out.number(float64(r.Breaker.State))
		}),
	},
	{
		"weir_breaker_transitions_total", "Times the circuit breaker entered a state.", counter,
		[]string{"resource", "to"},
		perResource(func(r proxy.ResourceStats, out series) {
			out.counts(r.Breaker.Transitions, "closed", "half-open", "open")
		}),
	},
	{
		"weir_pinned_sessions", "Sessions that keep their server connection between transactions, by reason.", gauge,
		[]string{"resource", "reason"},
		perResource(func(r proxy.ResourceStats, out series) {
			out.counts(r.Pinned)
		}),
	},
	{
		"weir_prepared_bytes", "Text and names of prepared statements, in bytes: held by clients, or shared, of which there may be 64 MB.", gauge,
		[]string{"resource", "text"},
		perResource(func(r proxy.ResourceStats, out series) {
			out.counts(r.Prepared)
		}),
	},
	{
		"weir_client_stalls_total", "Clients that lost their server connection because they kept it waiting in the middle of something, by what was waited for.", counter,
		[]string{"resource", "reason"},
		perResource(func(r proxy.ResourceStats, out series) {
			out.counts(r.Stalls)
		}),
	},
	{
		"weir_panics_total", "Panics, each of which has ended the session that it happened in.", counter, nil,
		func(s snapshot, out series) {
			out.number(float64(s.Panics))
		},
	},
	{
		"weir_log_lines_dropped_total", "Lines that were not logged because nobody read the log.", counter, nil,
		func(s snapshot, out series) {
			out.number(float64(s.logDropped))
		},
	},
	{
		"weir_rate_tokens_leased_total", "Rate tokens this weir leased from the fleet's bucket.", counter,
		[]string{"resource"},
		func(s snapshot, out series) {
			out.counts(s.fleet.TokensLeased)
		},
	},
	{
		"weir_fleet_members", "Weirs of this fleet that were seen lately, this one included.", gauge, nil,
		func(s snapshot, out series) {
			out.number(float64(s.fleet.Members))
		},
	},
	{
		"weir_fleet_up", "1 while the fleet's shared store answers, or when this weir is the whole fleet.", gauge, nil,
		func(s snapshot, out series) {
			out.flag(s.fleet.Up)
		},
	},
	{
		"weir_fleet_beat_seconds", "How long a heartbeat to the fleet's shared store took.", histogram, nil,
		func(s snapshot, out series) {
			out.histogram(s.fleet.Beat)
		},
	},
	{
		"weir_logins_total", "Logins of clients by method and outcome: ok, denied, error, timeout.", counter,
		[]string{"method", "outcome"},
		func(s snapshot, out series) {
			for _, l := range s.Logins {
				out.number(float64(l.Count), l.Method, l.Outcome)
			}
		},
	},
	{
		"weir_login_seconds", "Time from accepting a client until it could send its first query, of the logins that succeeded.", histogram, nil,
		func(s snapshot, out series) {
			out.histogram(s.LoginTime)
		},
	},
	{
		"weir_protocol_errors_total", "Malformed input from clients by kind: startup, length, type, stuffing, tls, http, timeout.", counter,
		[]string{"kind"},
		func(s snapshot, out series) {
			out.counts(s.Protocol)
		},
	},
	{
		"weir_descriptor_shortages_total", "Times that there was no file descriptor for a client or a server connection, or only those that are kept.", counter, nil,
		func(s snapshot, out series) {
			out.number(float64(s.Shortages))
		},
	},
	{
		"weir_build_info", "Always 1; the labels say what is running.", gauge,
		[]string{"version", "goversion"},
		func(s snapshot, out series) {
			out.number(1, s.version, runtime.Version())
		},
	},
}

// perResource writes the same series for every resource, whose name is their first label.
func perResource(write func(proxy.ResourceStats, series)) func(snapshot, series) {
	return func(s snapshot, out series) {
		for _, r := range s.Resources {
			write(r, out.under(r.Name))
		}
	}
}

// collector shows the table to Prometheus.
type collector struct {
	opts  Options
	descs []*prometheus.Desc // of metrics, in its order
}

func newCollector(opts Options) *collector {
	c := &collector{opts: opts}
	for _, m := range metrics {
		c.descs = append(c.descs, prometheus.NewDesc(m.name, m.help, m.labels, nil))
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range c.descs {
		out <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := snapshot{Stats: c.opts.Stats(), fleet: c.opts.Fleet(), version: c.opts.Version}
	if c.opts.LogDropped != nil {
		s.logDropped = c.opts.LogDropped()
	}
	for i, m := range metrics {
		m.write(s, series{out: out, desc: c.descs[i], typ: m.typ})
	}
}

// series writes the values of one metric.
type series struct {
	out   chan<- prometheus.Metric
	desc  *prometheus.Desc
	typ   metricType
	first []string // label values that come before those of each call
}

func (s series) under(labels ...string) series {
	s.first = labels
	return s
}

// number writes one value.
func (s series) number(value float64, labels ...string) {
	typ := prometheus.GaugeValue
	if s.typ == counter {
		typ = prometheus.CounterValue
	}
	s.send(prometheus.NewConstMetric(s.desc, typ, value, s.values(labels)...))
}

func (s series) flag(on bool) {
	if on {
		s.number(1)
	} else {
		s.number(0)
	}
}

// counts writes one value for each label of m, and 0 for the known labels it lacks, so that a series exists before its
// first event and a rate over it is right.
func (s series) counts(m map[string]int64, known ...string) {
	labels := slices.AppendSeq(slices.Clone(known), maps.Keys(m))
	slices.Sort(labels)
	for _, label := range slices.Compact(labels) {
		s.number(float64(m[label]), label)
	}
}

func (s series) histogram(h proxy.Histogram) {
	buckets := make(map[float64]uint64, len(h.Bounds))
	for i, bound := range h.Bounds {
		buckets[bound] = h.Counts[i]
	}
	s.send(prometheus.NewConstHistogram(s.desc, h.Count, h.Sum.Seconds(), buckets, s.values(nil)...))
}

// values is the whole list of label values. What clients named themselves may hold bytes that Prometheus refuses.
func (s series) values(last []string) []string {
	values := slices.Concat(s.first, last)
	for i, v := range values {
		values[i] = strings.ToValidUTF8(v, "\uFFFD")
	}
	return values
}

// send exports a value. One that cannot be is named in the scrape's errors instead of stopping the scrape.
func (s series) send(m prometheus.Metric, err error) {
	if err != nil {
		m = prometheus.NewInvalidMetric(s.desc, err)
	}
	s.out <- m
}
