package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/proxy/postgres"
	"github.com/weirproxy/weir/upstream"
)

type serveCmd struct {
	Config       string `xor:"source" placeholder:"FILE" help:"Configuration file (weir.yaml)."`
	Upstream     string `xor:"source" placeholder:"DSN" env:"WEIR_UPSTREAM" help:"Serve this one database with the defaults, without a file."`
	UpstreamFile string `xor:"source" placeholder:"FILE" env:"WEIR_UPSTREAM_FILE" help:"The same, with the DSN in a file."`
	Listen       string `placeholder:"HOST:PORT" help:"Where functions connect, instead of what the configuration says (127.0.0.1:6432)."`
	Admin        string `placeholder:"HOST:PORT" help:"Where metrics and health are, instead of what the configuration says (127.0.0.1:8432)."`
}

// Help is what weir serve --help and the reference say beyond the flags.
func (serveCmd) Help() string {
	return `SIGTERM and SIGINT drain: no new clients, idle ones are told to go, running transactions may finish within
drain_timeout, then weir exits with 0. A second signal stops at once.

SIGHUP reads the configuration again: users, the authentication method, certificates and the log level change for who
comes next, without disturbing anyone. A configuration with a mistake is refused and the old one stays.

With --upstream there is one resource, named like the DSN's database. On a loopback address clients of this machine are
believed. On any other address they log in as the DSN's user with the DSN's password.

Other users of the machine can read the command line while weir starts, so a DSN with a password belongs into WEIR_UPSTREAM
or a file. One that was given with --upstream nevertheless is overwritten there.`
}

// Run serves until it is told to stop.
func (c serveCmd) Run(ctx context.Context, term terminal) error {
	cfg, warnings, err := c.load()
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	out := newLogWriter(term.err)
	defer out.Close()
	log := newLogger(out, cfg.Log.Format, level)
	setLevel(level, cfg.Log.Level)
	for _, w := range warnings {
		log.Warn("configuration: " + w.String())
	}

	signals := make(chan os.Signal, 4) // a SIGHUP more or less is the same; two to stop must not be lost behind it
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	processors, undo := tuneRuntime()
	defer undo()
	w, err := startWeir(ctx, cfg, processors, log, out.dropped.Load)
	if err != nil {
		return err
	}
	log.Info("weir is ready", "version", buildVersion(), "listen", w.clientAddr(), "admin", w.adminAddr(),
		"resources", slices.Sorted(maps.Keys(cfg.Resources)))
	warnOfFiles(cfg, log)
	for {
		select {
		case <-ctx.Done():
			return drain(w, cfg, log, signals)
		case err := <-w.failed:
			w.close()
			return err
		case s := <-signals:
			if s != syscall.SIGHUP {
				return drain(w, cfg, log, signals)
			}
			cfg = c.reload(w, cfg, log, level)
		}
	}
}

// warnOfFiles says when there are fewer file descriptors than limits.clients would take.
func warnOfFiles(cfg *config.Config, log *slog.Logger) {
	connections := 0
	for _, r := range cfg.Resources {
		connections += r.Connections
	}
	if most := postgres.MostClients(connections); most > 0 && most < cfg.Limits.Clients {
		log.Warn("the limit on open files (ulimit -n, LimitNOFILE) leaves room for fewer clients than limits.clients", "room", most, "limits.clients", cfg.Limits.Clients)
	}
}

// load reads the file, or makes up the configuration of a bare upstream.
func (c serveCmd) load() (*config.Config, config.Problems, error) {
	if c.Upstream != "" || c.UpstreamFile != "" {
		return c.fromUpstream()
	}
	cfg, warnings, err := config.Load(cmp.Or(c.Config, defaultConfig), os.LookupEnv)
	if err != nil {
		if c.Config == "" && errors.Is(statError(defaultConfig), os.ErrNotExist) {
			return nil, nil, usageError{fmt.Errorf("there is no %s here; name a file with --config, or a database with --upstream postgres://user:password@host/database", defaultConfig)}
		}
		return nil, nil, usageError{err}
	}
	return cfg, warnings, c.override(cfg)
}

// override puts the flags in the place of what the configuration says.
func (c serveCmd) override(cfg *config.Config) error {
	for _, o := range []struct {
		flag, written string
		setting       *string
	}{{"--listen", c.Listen, &cfg.Listen}, {"--admin", c.Admin, &cfg.Admin.Listen}} {
		if o.written == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(o.written); err != nil {
			return usageError{fmt.Errorf("%s: %q is not an address; expected host:port, e.g. %s", o.flag, o.written, *o.setting)}
		}
		*o.setting = o.written
	}
	if cfg.Admin.ReadToken.IsZero() && cfg.Admin.WriteToken.IsZero() && !isLoopback(cfg.Admin.Listen) {
		return usageError{fmt.Errorf("--admin: %s can be reached from other machines, and there is no token; expected a loopback address, or admin.read_token in the configuration", cfg.Admin.Listen)}
	}
	return nil
}

func statError(path string) error {
	_, err := os.Stat(path)
	return err
}

// fromUpstream serves one database. Whoever can reach a port of other machines has to prove that he knows the DSN's
// password: weir must not open a database that was closed.
func (c serveCmd) fromUpstream() (*config.Config, config.Problems, error) {
	source, text, err := c.upstream()
	if err != nil {
		return nil, nil, usageError{err}
	}
	cfg, warnings, err := config.FromUpstream(source, text)
	if err != nil {
		return nil, nil, usageError{err}
	}
	if err := c.override(cfg); err != nil {
		return nil, nil, err
	}
	if isLoopback(cfg.Listen) {
		return cfg, warnings, nil
	}
	dsn, err := upstream.Parse(text)
	if err != nil || dsn.User() == "" || dsn.Password() == "" {
		return nil, nil, usageError{fmt.Errorf("--listen %s can be reached from other machines, and --upstream has no user and password for them to log in with; use a loopback address, or --config with users", c.Listen)}
	}
	cfg.Auth.Method = config.AuthSCRAM
	cfg.Users = map[string]config.User{dsn.User(): {Password: config.NewSecret(dsn.Password())}}
	return cfg, warnings, nil
}

// upstream is the DSN, and where it is from.
func (c serveCmd) upstream() (source, text string, err error) {
	if c.UpstreamFile == "" {
		if os.Getenv("WEIR_UPSTREAM") == c.Upstream {
			return "WEIR_UPSTREAM", c.Upstream, nil
		}
		return config.CommandLine, c.Upstream, nil
	}
	text, err = readDSN(c.UpstreamFile)
	if err != nil {
		return "", "", fmt.Errorf("--upstream-file: %w", err)
	}
	return c.UpstreamFile, text, nil
}

// readDSN reads a file with nothing but a DSN.
func readDSN(file string) (string, error) {
	data, err := os.ReadFile(file)
	return strings.TrimSpace(string(data)), err
}

func isLoopback(address string) bool {
	host, _, _ := net.SplitHostPort(address)
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// reload returns the configuration that is in force from now on.
func (c serveCmd) reload(w *weir, old *config.Config, log *slog.Logger, level *slog.LevelVar) *config.Config {
	cfg, warnings, err := c.load()
	if err == nil {
		err = w.reload(old, cfg)
	}
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			log.Error("configuration refused, the old one stays: " + strings.TrimSpace(line))
		}
		return old
	}
	setLevel(level, cfg.Log.Level)
	for _, warning := range warnings {
		log.Warn("configuration: " + warning.String())
	}
	log.Info("configuration reloaded")
	return cfg
}

// drain lets running transactions finish for a while; another signal ends the patience.
func drain(w *weir, cfg *config.Config, log *slog.Logger, signals <-chan os.Signal) error {
	log.Info("draining: no new clients, running transactions may finish", "drain_timeout", cfg.DrainTimeout)
	ctx, stop := context.WithTimeout(context.Background(), cfg.DrainTimeout)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- w.shutdown(ctx) }()
	for {
		select {
		case err := <-done:
			if errors.Is(err, context.DeadlineExceeded) {
				log.Warn("drain_timeout is over: the transactions that were left are cut off")
				err = nil
			}
			if err == nil || errors.Is(err, context.Canceled) {
				log.Info("stopped")
				return nil
			}
			return err
		case s := <-signals:
			if s != syscall.SIGHUP {
				log.Warn("second signal: stopping at once")
				stop()
			}
		}
	}
}

func newLogger(out io.Writer, format string, level *slog.LevelVar) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(out, options))
	}
	return slog.New(slog.NewTextHandler(out, options))
}

// setLevel takes a level that the configuration's check has accepted.
func setLevel(level *slog.LevelVar, name string) {
	_ = level.UnmarshalText([]byte(name))
}
