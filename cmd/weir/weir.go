package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/weirproxy/weir/admin"
	"github.com/weirproxy/weir/auth"
	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fleet"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/proxy"
	"github.com/weirproxy/weir/proxy/postgres"
)

// weir is one running process: the fleet it belongs to, a gate for each resource, the clients' listener and the admin
// listener. It owns all of them.
type weir struct {
	log   *slog.Logger
	mock  mockKey
	fleet *fleet.Fleet // nil: this process is the whole fleet
	gates map[string]*gate

	refusals *proxy.Refusals // of all resources

	server  *postgres.Server
	admin   *admin.Server
	clients net.Listener
	admins  net.Listener

	running      sync.WaitGroup // serveClients, serveAdmin, keepAgreeing
	stopAgreeing func()         // nil: nothing to stop
	failed       chan error     // why a listener ended by itself

	reloading sync.Mutex     // guards what follows, and is held while the server takes over options
	cfg       *config.Config // in force
}

// gate is what decides about one resource, and the parts of it that others speak to.
type gate struct {
	*proxy.Gate
	breaker *breaker.Breaker
	leased  []*limiter.Leased // the rates that the fleet shares: of the resource, and of callers
}

// startWeir opens what cfg names and serves until shutdown or close. A database or a Redis that does not answer is no
// reason not to start: functions are told, and /readyz says so.
func startWeir(ctx context.Context, cfg *config.Config, processors int, log *slog.Logger, dropped func() int64) (_ *weir, err error) {
	w := &weir{log: log, mock: newMockKey(), gates: map[string]*gate{}, refusals: proxy.NewRefusals(), failed: make(chan error, 2)}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	id := newID()
	if cfg.Fleet != nil {
		if w.fleet, err = fleet.Open(ctx, *cfg.Fleet, id, log); err != nil {
			return nil, err
		}
	}
	for name, r := range cfg.Resources {
		w.gates[name] = w.newGate(name, r)
	}
	w.fleet.Subscribe(w.hear)
	w.mock.agree(ctx, w.fleet, log)

	w.cfg = cfg
	options, err := w.options(cfg)
	if err != nil {
		return nil, err
	}
	options.Processors = processors
	options.Number = postgres.NumberOf(id)
	if w.server, err = postgres.New(options); err != nil {
		return nil, err
	}
	w.admin = admin.New(admin.Options{
		ReadToken:    cfg.Admin.ReadToken.Reveal(),
		WriteToken:   cfg.Admin.WriteToken.Reveal(),
		LocalProfile: cfg.Admin.Pprof,
		Version:      buildVersion(),
		Stats:        w.server.Stats,
		Fleet:        w.fleetStats,
		Sessions:     w.server.Sessions,
		Refusals:     w.refusals,
		Ready:        w.server.Ready,
		LogDropped:   dropped,
		Log:          log,
	})
	if w.admins, err = net.Listen("tcp", cfg.Admin.Listen); err != nil {
		return nil, fmt.Errorf("admin.listen: %w", err)
	}
	if w.clients, err = proxy.Listen(ctx, cfg.Listen, cfg.Limits.TCPUserTimeout); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	w.running.Go(w.serveAdmin)
	w.running.Go(w.serveClients)
	if w.fleet != nil {
		agreeing, stop := context.WithCancel(context.WithoutCancel(ctx))
		w.stopAgreeing = stop
		w.running.Go(func() { w.keepAgreeing(agreeing) })
	}
	return w, nil
}

func (w *weir) serveClients() {
	if err := w.server.Serve(w.clients); !errors.Is(err, net.ErrClosed) {
		w.failed <- fmt.Errorf("serve clients: %w", err)
	}
}

func (w *weir) serveAdmin() {
	if err := w.admin.Serve(w.admins); err != nil && !errors.Is(err, net.ErrClosed) {
		w.failed <- fmt.Errorf("serve admin: %w", err)
	}
}

func (w *weir) clientAddr() string { return w.clients.Addr().String() }
func (w *weir) adminAddr() string  { return w.admins.Addr().String() }

// shutdown lets running transactions finish until ctx ends, then closes. Until then the admin listener goes on telling.
func (w *weir) shutdown(ctx context.Context) error {
	err := w.server.Shutdown(ctx)
	w.close()
	return err
}

// close ends at once whatever startWeir got to.
func (w *weir) close() {
	if w.clients != nil {
		w.clients.Close()
	}
	if w.server != nil {
		w.server.Close()
	}
	if w.admin != nil {
		w.admin.Close()
	}
	if w.admins != nil {
		w.admins.Close()
	}
	if w.stopAgreeing != nil {
		w.stopAgreeing()
	}
	w.running.Wait()
	for _, g := range w.gates {
		for _, leased := range g.leased {
			leased.Close()
		}
	}
	w.fleet.Close()
}

// newGate makes what decides about one resource.
func (w *weir) newGate(name string, r config.Resource) *gate {
	g := &gate{breaker: breaker.New(name, r.Breaker, w.announcer(r.Breaker))}
	o := proxy.GateOptions{
		Name: name, Connections: r.Connections, Breaker: g.breaker, Queue: r.Queue, Adaptive: *r.Adaptive, Refusals: w.refusals, Log: w.log,
	}
	if r.Rate != nil && r.Rate.Mode != limiter.Off {
		o.Rate = *r.Rate
		o.Bucket = w.newBucket(g, name, o.Rate)
	}
	o.Callers = limiter.NewCallers("resources."+name+".callers", r.Callers, func(caller string, rate limiter.Rate) limiter.Bucket {
		return w.newBucket(g, name+"/"+caller, rate)
	})
	g.Gate = proxy.NewGate(o)
	return g
}

// newBucket makes the bucket of that name, which the fleet shares if there is one.
func (w *weir) newBucket(g *gate, name string, rate limiter.Rate) limiter.Bucket {
	if w.fleet == nil {
		return limiter.NewLocal(rate, time.Now)
	}
	leased := limiter.NewLeased(name, rate, w.fleet.Lease, w.fleet.Members, w.log.With("bucket", name))
	g.leased = append(g.leased, leased)
	return leased
}

// announcer logs what a breaker does, and tells the other weirs when it opens on evidence of its own. In shadow mode it
// keeps that to itself: another weir might enforce it.
func (w *weir) announcer(cfg breaker.Config) func(breaker.Change) {
	shadow := cfg.Mode == string(limiter.Shadow)
	return func(c breaker.Change) {
		if c.To != breaker.Open {
			w.log.Info("breaker "+c.To.String(), "resource", c.Name)
			return
		}
		w.log.Warn("breaker open", "resource", c.Name, "cause", c.Cause, "for", c.For, "by_fleet", c.Fleet, "shadow", shadow)
		if !c.Fleet && !shadow {
			w.fleet.Publish(fleet.Event{Kind: fleet.BreakerTrip, Resource: c.Name, Cause: c.Cause, For: c.For})
		}
	}
}

// hear takes the verdict of another weir. Resources that this one does not have are no concern.
func (w *weir) hear(e fleet.Event) {
	if g := w.gates[e.Resource]; g != nil && e.Kind == fleet.BreakerTrip {
		g.breaker.TripFromFleet(e.Cause, e.For)
	}
}

func (w *weir) fleetStats() admin.FleetStats {
	s := w.fleet.Stats()
	return admin.FleetStats{
		Up:           s.Up || w.fleet == nil,
		Members:      s.Members,
		Beat:         proxy.Histogram(s.BeatSeconds),
		TokensLeased: s.TokensLeased,
	}
}

// options are what the server is told, at the start and at each reload.
func (w *weir) options(cfg *config.Config) (postgres.Options, error) {
	users, err := newUsers(cfg, w.mock.keyFor(cfg))
	if err != nil {
		return postgres.Options{}, err
	}
	options := postgres.Options{
		Users: users,
		TLS: postgres.TLSOptions{
			Mode:         string(cfg.TLS.Mode),
			CertFile:     cfg.TLS.Cert,
			KeyFile:      cfg.TLS.Key,
			ClientCAFile: cfg.TLS.ClientCA,
		},
		Limits: postgres.Limits(cfg.Limits),
		Log:    w.log,
	}
	for _, name := range slices.Sorted(maps.Keys(w.gates)) {
		r := cfg.Resources[name]
		options.Resources = append(options.Resources, postgres.ResourceOptions{
			Name:     name,
			Upstream: r.Upstream.Reveal(),
			Pool:     r.Pool(),
			Mode:     postgres.PoolMode(r.PoolMode),
			Pinning:  postgres.Pinning(r.Pinning),
			Pinned:   r.MostPinned(),
			SoftPins: r.SoftPins(),
			Reset:    postgres.Reset(r.Reset),
			MaxAge:   r.Statements.MaxAge,
			Client:   r.Statements.PerClient << 20,
			User:     r.Statements.PerUser << 20,
			Queue:    r.Queue,
			Timeouts: postgres.Timeouts{
				Query:             r.Timeouts.Query,
				IdleInTransaction: r.Timeouts.IdleInTransaction,
				TCPUserTimeout:    r.Timeouts.TCPUserTimeout,
				ClientStall:       r.Timeouts.ClientStall,
				ClientIdle:        r.Timeouts.ClientIdle,
			},
			Gate: w.gates[name].Gate,
		})
	}
	return options, nil
}

// reload takes over what can change while clients are connected, and on error nothing.
func (w *weir) reload(old, cfg *config.Config) error {
	w.reloading.Lock()
	defer w.reloading.Unlock()
	options, err := w.options(cfg)
	if err != nil {
		return err
	}
	if err := w.server.Reload(options); err != nil {
		return err
	}
	w.cfg = cfg
	if keys := needRestart(old, cfg); len(keys) > 0 {
		w.log.Warn("configuration: changes of these take effect after a restart", "keys", keys)
	}
	return nil
}

// needRestart lists the sections that differ and that reload leaves as they are.
func needRestart(old, cfg *config.Config) (keys []string) {
	for _, section := range []struct {
		key      string
		old, cfg any
	}{
		{"listen", old.Listen, cfg.Listen},
		{"admin", old.Admin, cfg.Admin},
		{"fleet", old.Fleet, cfg.Fleet},
		{"resources", old.Resources, cfg.Resources},
		{"limits", old.Limits, cfg.Limits},
		{"log.format", old.Log.Format, cfg.Log.Format},
	} {
		if !reflect.DeepEqual(section.old, section.cfg) {
			keys = append(keys, section.key)
		}
	}
	return keys
}

func newUsers(cfg *config.Config, key auth.Key) (*auth.Users, error) {
	secrets := map[string]auth.Secret{}
	for name, user := range cfg.Users {
		secrets[name] = auth.Secret{} // no password: may log in with trust only, as the check of the configuration has seen to
		if user.Password.IsZero() {
			continue
		}
		secret, err := auth.ParseSecret(user.Password.Reveal())
		if err != nil {
			return nil, fmt.Errorf("users.%s.password: %w", name, err)
		}
		secrets[name] = secret
	}
	return auth.NewUsers(auth.Method(cfg.Auth.Method), key, secrets)
}

// newID tells people which weir of the fleet this is.
func newID() string {
	host, _ := os.Hostname()
	return cmp.Or(host, rand.Text()[:8])
}
