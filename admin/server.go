// Package admin is the listener for those who run weir: is it alive, can it serve, what does it count.
//
// It reads and never steers: a scrape takes one snapshot of the counters and stops nobody. Who may see what is decided
// in access.go; what is exported is the table in metrics.go; sessions.go lists clients one by one.
package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weirproxy/weir/proxy"
)

// Options is what a Server shows and to whom.
type Options struct {
	ReadToken    string             // bearer token that may read; without it, clients on loopback may
	WriteToken   string             // bearer token that may also change things and profile the process
	LocalProfile bool               // clients on loopback may profile the process without a token
	Version      string             // of this build, for weir_build_info
	Stats        func() proxy.Stats // called once a scrape; must not wait for anyone
	Fleet        func() FleetStats  // likewise
	Refusals     *proxy.Refusals
	Sessions     func(context.Context, proxy.SessionFilter) (found []proxy.Session, more bool, err error)
	LogDropped   func() int64 // lines; nil: none are
	Ready        func() error // nil, or why this weir cannot serve, joined reasons one per line
	Log          *slog.Logger
}

// Server answers on the admin listener.
type Server struct {
	http  *http.Server
	ready func() error
	guard guard
}

// New returns a Server that is not listening yet.
func New(opts Options) *Server {
	s := &Server{ready: opts.Ready, guard: newGuard(opts)}
	mux := http.NewServeMux()
	for _, route := range []struct {
		pattern string
		access  access
		serve   http.HandlerFunc
	}{
		{"GET /healthz", probing, s.healthz},
		{"GET /readyz", probing, s.readyz},
		{"GET /metrics", reading, metricsHandler(opts)},
		{"GET /api/v1/sessions", reading, sessionsHandler(opts)},
		{"GET /api/v1/refusals", reading, refusalsHandler(opts)},
		{"GET /debug/pprof/", debugging, pprof.Index},
		// Not cmdline: it may hold a password.
		{"GET /debug/pprof/profile", debugging, pprof.Profile},
		{"GET /debug/pprof/symbol", debugging, pprof.Symbol},
		{"POST /debug/pprof/symbol", debugging, pprof.Symbol},
		{"GET /debug/pprof/trace", debugging, pprof.Trace},
	} {
		mux.HandleFunc(route.pattern, s.allow(route.access, route.serve))
	}
	s.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second, // a profile extends it by the seconds it is asked to last
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(opts.Log.Handler(), slog.LevelDebug), // who hung up or spoke nonsense
	}
	return s
}

// Serve answers on listener until Close or Shutdown, then returns nil.
func (s *Server) Serve(listener net.Listener) error {
	if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown stops listening and waits for the answers under way, at most until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// Close stops at once.
func (s *Server) Close() { _ = s.http.Close() }

// ServeHTTP answers one request, as a listener would.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.http.Handler.ServeHTTP(w, r) }

func (s *Server) allow(want access, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		if denied := s.guard.check(r, want); denied != nil {
			denied.write(w)
			return
		}
		next(w, r)
	}
}

// healthz says that the process is there to answer. An orchestrator that hears nothing restarts it.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, "ok\n")
}

// readyz says whether functions should be sent here. The reasons name resources and hosts, so only readers see them.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	err := s.ready()
	if err == nil {
		_, _ = io.WriteString(w, "ok\n")
		return
	}
	reason := "not ready"
	if s.guard.check(r, reading) == nil {
		reason = err.Error()
	}
	http.Error(w, reason, http.StatusServiceUnavailable)
}

func metricsHandler(opts Options) http.HandlerFunc {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		newCollector(opts),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(opts.Log.Handler(), slog.LevelError),
		ErrorHandling:       promhttp.ContinueOnError, // one bad series must not blind the dashboard
		MaxRequestsInFlight: 3,
	}).ServeHTTP
}
