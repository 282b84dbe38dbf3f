package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weirproxy/weir/internal/golden"
	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
)

func TestCheck(t *testing.T) {
	t.Setenv("APP_PASSWORD", "app-hush-hush")
	t.Setenv("DB_PASSWORD", "db-hush-hush")
	testdata, err := filepath.Abs("testdata/check")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Join(golden.Private(t, "testdata"), "testdata/check"))
	tests := map[string]int{
		"fine":     exitOK,
		"mistakes": exitUsage,
		"warnings": exitOK,
		"missing":  exitUsage,
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			got := weirRun(t, "check", "--config", name+".yaml")
			if got.code != want || got.stderr != "" {
				t.Errorf("exit code %d, want %d; stderr %q", got.code, want, got.stderr)
			}
			if strings.Contains(got.stdout, "hush-hush") || strings.Contains(got.stdout, "in-plain-sight") {
				t.Errorf("a secret is shown:\n%s", got.stdout)
			}
			golden.Compare(t, filepath.Join(testdata, name+".golden"), got.stdout)
		})
	}
}

func TestCheckConnect(t *testing.T) {
	server := pgtest.Shared(t)
	dir := t.TempDir()
	t.Setenv("GOOD_DSN", server.DSN())
	t.Setenv("CLOSED_DSN", "postgres://app:hush-hush@"+closedPort(t)+"/orders")
	t.Setenv("WRONG_DSN", strings.Replace(server.DSN(), pgserver.App.Password, "hush-hush", 1))
	t.Setenv("REDIS", "redis://:hush-hush@"+closedPort(t)+"/0")
	tests := map[string]struct {
		resources string
		want      int
		pattern   string
	}{
		"a server that answers": {
			"orders: { upstream: \"${GOOD_DSN}\" }", exitOK,
			`(?m)^orders: logged in to postgres://app:\*\*\*@127\.0\.0\.1:\d+/app in \d+ ms, PostgreSQL \d+.*, without TLS$`,
		},
		"a budget above the server's room is a warning": {
			"orders: { upstream: \"${GOOD_DSN}\", connections: 100000 }", exitOK,
			`(?m)^warning: orders: the budget is 100000 connections, but the server has places for \d+ `,
		},
		"nobody answers": {
			"orders: { upstream: \"${CLOSED_DSN}\" }", exitFailure,
			`(?m)^orders: log in to postgres://app:\*\*\*@127\.0\.0\.1:\d+/orders: .*connection refused.*$`,
		},
		"a wrong password": {
			"orders: { upstream: \"${WRONG_DSN}\" }", exitFailure,
			`(?m)^orders: log in to .*password authentication failed for user "app".*28P01`,
		},
		"one answers, one does not": {
			"a: { upstream: \"${GOOD_DSN}\" }\n  b: { upstream: \"${CLOSED_DSN}\" }", exitFailure,
			`(?ms)^a: logged in to .*^b: log in to .*connection refused`,
		},
		"redis does not answer": {
			"orders: { upstream: \"${GOOD_DSN}\" }\nfleet: { redis: \"${REDIS}\" }", exitFailure,
			`(?m)^fleet: .*connection refused`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".yaml")
			text := fmt.Sprintf("auth: { method: trust }\nresources:\n  %s\n", test.resources)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			got := weirRun(t, "check", "--connect", "--config", file)
			if got.code != test.want {
				t.Errorf("exit code %d, want %d", got.code, test.want)
			}
			if !regexp.MustCompile(test.pattern).MatchString(got.stdout) {
				t.Errorf("output does not match %s:\n%s", test.pattern, got.stdout)
			}
			if strings.Contains(got.stdout+got.stderr, "hush-hush") || strings.Contains(got.stdout+got.stderr, pgserver.App.Password) {
				t.Errorf("a secret is shown:\n%s%s", got.stdout, got.stderr)
			}
		})
	}
}
