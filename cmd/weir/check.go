package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fleet"
	"github.com/weirproxy/weir/upstream"
)

const defaultConfig = "weir.yaml"

type checkCmd struct {
	Config  string `placeholder:"FILE" help:"Configuration file (weir.yaml)."`
	Connect bool   `help:"Also log in to each upstream and to Redis."`
}

// Run prints every mistake and warning, one a line, and with --connect how each server answered.
func (c checkCmd) Run(ctx context.Context, term terminal) error {
	file := cmp.Or(c.Config, defaultConfig)
	cfg, warnings, err := config.Load(file, os.LookupEnv)
	for _, w := range warnings {
		term.say("warning: %v", w)
	}
	if err != nil {
		term.say("%v", err)
		return errReported{exitUsage}
	}
	term.say("%s is fine: %s", file, summary(cfg))
	if !c.Connect {
		return nil
	}
	return connectAll(ctx, term, cfg)
}

func summary(cfg *config.Config) string {
	names := strings.Join(slices.Sorted(maps.Keys(cfg.Resources)), ", ")
	return fmt.Sprintf("%s on %s, admin on %s", names, cfg.Listen, cfg.Admin.Listen)
}

// connection is the outcome of one attempt to reach what the configuration names.
type connection struct {
	name    string
	answer  string
	warning string
	err     error
}

// connectAll tries everything at once, and tells it in the order of the names.
func connectAll(ctx context.Context, term terminal, cfg *config.Config) error {
	var (
		connections []connection
		attempts    []func(context.Context) connection
		running     sync.WaitGroup
	)
	for _, name := range slices.Sorted(maps.Keys(cfg.Resources)) {
		attempts = append(attempts, func(ctx context.Context) connection { return login(ctx, name, cfg.Resources[name]) })
	}
	if cfg.Fleet != nil {
		attempts = append(attempts, func(ctx context.Context) connection { return pingFleet(ctx, *cfg.Fleet) })
	}
	connections = make([]connection, len(attempts))
	for i, attempt := range attempts {
		running.Go(func() { connections[i] = attempt(ctx) })
	}
	running.Wait()

	failed := false
	for _, c := range connections {
		if c.err != nil {
			failed = true
			term.say("%s: %s", c.name, oneLine(c.err))
			continue
		}
		term.say("%s: %s", c.name, c.answer)
		if c.warning != "" {
			term.say("warning: %s: %s", c.name, c.warning)
		}
	}
	if failed {
		return errReported{exitFailure}
	}
	return nil
}

// login does what weir does for each server connection.
func login(ctx context.Context, name string, r config.Resource) connection {
	ctx, cancel := context.WithTimeout(ctx, r.Timeouts.Connect)
	defer cancel()
	started := time.Now()
	server, err := upstream.Parse(r.Upstream.Reveal())
	if err != nil {
		return connection{name: name, err: err}
	}
	conn, err := server.Connect(ctx)
	if err != nil {
		return connection{name: name, err: fmt.Errorf("log in to %s: %w", r.Upstream, err)}
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	took := time.Since(started)
	return connection{
		name: name,
		answer: fmt.Sprintf("logged in to %s in %d ms, PostgreSQL %s, %s",
			r.Upstream, took.Milliseconds(), cmp.Or(conn.ParameterStatus("server_version"), "of unknown version"), encryption(conn)),
		warning: tooMany(ctx, conn, r.Connections),
	}
}

func encryption(conn *pgconn.PgConn) string {
	if encrypted, ok := conn.Conn().(*tls.Conn); ok {
		return tls.VersionName(encrypted.ConnectionState().Version)
	}
	return "without TLS"
}

// pingFleet asks Redis without becoming a member of the fleet.
func pingFleet(ctx context.Context, cfg fleet.Config) connection {
	started := time.Now()
	if err := fleet.Ping(ctx, cfg); err != nil {
		return connection{name: "fleet", err: fmt.Errorf("ping %s: %w", cfg, err)}
	}
	return connection{name: "fleet", answer: fmt.Sprintf("%s answered in %d ms", cfg, time.Since(started).Milliseconds())}
}

// tooMany says when the server has fewer places than the budget. What answers may not be PostgreSQL itself; then
// nothing is known.
func tooMany(ctx context.Context, conn *pgconn.PgConn, budget int) string {
	const room = `SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
		- coalesce(current_setting('reserved_connections', true), '0')::int`
	results, err := conn.Exec(ctx, room).ReadAll()
	if err != nil || len(results) != 1 || len(results[0].Rows) != 1 {
		return ""
	}
	var places int
	if _, err := fmt.Sscan(string(results[0].Rows[0][0]), &places); err != nil || places >= budget {
		return ""
	}
	return fmt.Sprintf("the budget is %d connections, but the server has places for %d (max_connections less the reserved ones)", budget, places)
}

// oneLine joins what errors of several hosts spread over lines.
func oneLine(err error) string {
	var lines []string
	for line := range strings.Lines(err.Error()) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return strings.Join(lines, " ")
}
