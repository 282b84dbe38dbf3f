package pgtest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/weirproxy/weir/internal/pgserver"
)

// Postgres is a real, throwaway server; see package pgserver for what it can do.
type Postgres = pgserver.Server

// Config is what a server started by Start is to be like.
type Config = pgserver.Config

// User may log in to a server over TCP.
type User = pgserver.User

// How a server is told to stop.
const (
	Fast      = pgserver.Fast
	Immediate = pgserver.Immediate
)

// Start runs a server for this test alone, which may stop and restart it. It skips the test where the platform has no
// server of the wanted version, and fails it when one should have been installed.
func Start(tb testing.TB, cfg Config) *Postgres {
	tb.Helper()
	pg, err := pgserver.Start(cfg)
	check(tb, err)
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("postgresql's log:\n%s", pg.Log())
		}
		if err := pg.Close(); err != nil {
			tb.Error(err)
		}
	})
	return pg
}

// Shared returns the server that all tests of this process share. It accepts TLS and 200 connections, and decodes its log for
// those who may replicate; it must not be stopped or reconfigured. It ends with the process, whichever way that ends.
func Shared(tb testing.TB) *Postgres {
	tb.Helper()
	return share(tb, startShared)
}

// Shared18 is Shared with PostgreSQL 18, which speaks protocol 3.2.
func Shared18(tb testing.TB) *Postgres {
	tb.Helper()
	return share(tb, startShared18)
}

// Each runs f as a sub-test for each version that tests are made for, the system's and 18, with the server that all tests of
// this process share.
func Each(t *testing.T, f func(t *testing.T, pg *Postgres)) {
	t.Helper()
	system, err := pgserver.Major(0)
	check(t, err)
	t.Run(fmt.Sprint("postgres-", system), func(t *testing.T) { f(t, Shared(t)) })
	if system != pgserver.CachedVersion {
		t.Run(fmt.Sprint("postgres-", pgserver.CachedVersion), func(t *testing.T) { f(t, Shared18(t)) })
	}
}

func share(tb testing.TB, start func() (*Postgres, error)) *Postgres {
	tb.Helper()
	pg, err := start()
	check(tb, err)
	return pg
}

var (
	startShared   = sharedServer(0)
	startShared18 = sharedServer(pgserver.CachedVersion)
)

// sharedServer starts its server when first asked. Nobody closes it: it knows when this process ends.
func sharedServer(version int) func() (*Postgres, error) {
	return sync.OnceValues(func() (*Postgres, error) {
		return pgserver.Start(Config{Version: version, TLS: true, MaxConnections: 200, Settings: []string{"wal_level = logical"}})
	})
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if errors.Is(err, pgserver.ErrUnavailable) {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
}
