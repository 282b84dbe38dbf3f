package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

// TestMain starts the runtime's watcher for signals, which never ends, so that nobody takes it for a leak.
//
// With an entry in the environment the test binary is weir itself, for what needs a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv(asWeir) != "" {
		main()
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	signal.Stop(signals)
	os.Exit(m.Run())
}

const asWeir = "WEIR_TEST_AS_WEIR"

// output is what a command wrote and how it ended.
type output struct {
	code           int
	stdout, stderr string
}

func weirRun(t *testing.T, args ...string) output {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, &stdout, &stderr)
	return output{code, stdout.String(), stderr.String()}
}

func TestCommandLine(t *testing.T) {
	tests := map[string]struct {
		args       []string
		wantCode   int
		wantStdout string // a part of it
		wantStderr string // a part of it
	}{
		"nothing at all is a question":          {nil, exitOK, "Usage: weir <command>", ""},
		"help is no failure":                    {[]string{"--help"}, exitOK, "Usage: weir <command>", ""},
		"help of a command":                     {[]string{"serve", "--help"}, exitOK, "--upstream", ""},
		"help wins over a missing flag":         {[]string{"check", "--config", "x", "--help"}, exitOK, "Usage: weir check", ""},
		"an unknown command":                    {[]string{"sreve"}, exitUsage, "", "unexpected argument sreve, did you mean \"serve\"?"},
		"an unknown flag":                       {[]string{"serve", "--conifg=x"}, exitUsage, "", "unknown flag --conifg"},
		"version":                               {[]string{"version"}, exitOK, "weir ", ""},
		"a file and a flag for the same":        {[]string{"serve", "--config=weir.yaml", "--upstream=postgres://db/orders"}, exitUsage, "", "--config and --upstream"},
		"a health check of no URL":              {[]string{"healthcheck", "--admin=http://"}, exitUsage, "", "is not a URL"},
		"a demonstration of no functions":       {[]string{"demo", "--functions=0"}, exitUsage, "", "--functions"},
		"a health check that nobody can answer": {[]string{"healthcheck", "--admin=" + closedPort(t)}, exitFailure, "", "connection refused"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := weirRun(t, test.args...)
			if got.code != test.wantCode {
				t.Errorf("exit code %d, want %d", got.code, test.wantCode)
			}
			if !strings.Contains(got.stdout, test.wantStdout) || test.wantStdout == "" && got.stdout != "" {
				t.Errorf("stdout %q, want %q", got.stdout, test.wantStdout)
			}
			if !strings.Contains(got.stderr, test.wantStderr) || test.wantStderr == "" && got.stderr != "" {
				t.Errorf("stderr %q, want %q", got.stderr, test.wantStderr)
			}
		})
	}
}

// openPort is an address where somebody else listens.
func openPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestHealthcheck(t *testing.T) {
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz":
			_, _ = w.Write([]byte("ok\n"))
		case "/readyz":
			http.Error(w, "orders: no server answers", http.StatusServiceUnavailable)
		}
	}))
	defer admin.Close()

	tests := map[string]struct {
		args []string
		want output
	}{
		"alive":           {[]string{"--admin", admin.URL}, output{exitOK, "ok\n", ""}},
		"without scheme":  {[]string{"--admin", strings.TrimPrefix(admin.URL, "http://")}, output{exitOK, "ok\n", ""}},
		"alive, not able": {[]string{"--admin", admin.URL, "--ready"}, output{exitFailure, "", "weir: " + admin.URL + "/readyz answers 503 Service Unavailable: orders: no server answers\n"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := weirRun(t, append([]string{"healthcheck"}, test.args...)...); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
	t.Run("by environment", func(t *testing.T) {
		t.Setenv("WEIR_ADMIN", admin.URL)
		if got := weirRun(t, "healthcheck"); got.code != exitOK {
			t.Errorf("got %+v", got)
		}
	})
}

func TestAnInterruptedHealthcheckFails(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	if code := run(ctx, []string{"healthcheck"}, &stdout, &stderr); code != exitFailure {
		t.Errorf("exit code %d, want %d", code, exitFailure)
	}
}
