package admin_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/weirproxy/weir/admin"
	"github.com/weirproxy/weir/internal/golden"
	"github.com/weirproxy/weir/proxy"
)

func options() admin.Options {
	return admin.Options{
		Version: "v1.2.3",
		Stats:   stats,
		Fleet: func() admin.FleetStats {
			return admin.FleetStats{
				Up: true, Members: 3,
				Beat:         proxy.Histogram{Bounds: []float64{0.01, 0.1}, Counts: []uint64{4, 5}, Count: 5, Sum: 90 * time.Millisecond},
				TokensLeased: map[string]int64{"orders": 640},
			}
		},
		Sessions: sessions,
		Ready:    func() error { return nil },
		Log:      slog.New(slog.DiscardHandler),
	}
}

func stats() proxy.Stats {
	return proxy.Stats{
		Clients:   map[string]int64{"idle": 480, "active": 20},
		Logins:    []proxy.LoginStats{{Method: "scram-sha-256", Outcome: "ok", Count: 500}, {Method: "scram-sha-256", Outcome: "denied", Count: 2}},
		LoginTime: proxy.Histogram{Bounds: []float64{0.001, 0.01}, Counts: []uint64{100, 500}, Count: 500, Sum: 2 * time.Second},
		Refused:   map[string]int64{"clients": 7},
		Protocol:  map[string]int64{"http": 1},
		Resources: []proxy.ResourceStats{{
			Name: "orders", Budget: 80, Waiting: 4, Limit: 64, Patience: 800 * time.Millisecond,
			Queue:       map[string]int64{"critical": 0, "normal": 4, "batch": 0, "sheddable": 0},
			Servers:     map[string]int64{"used": 20, "idle": 5},
			Admitted:    map[proxy.AdmittedBy]int64{{Caller: "default", Priority: "normal"}: 12345, {Caller: "bad\xffname", Priority: "batch"}: 1},
			Refused:     []proxy.RefusalStats{{Caller: "default", Reason: "rate", Mode: "enforce", Count: 3}, {Caller: "default", Reason: "rate", Mode: "shadow", Count: 9}},
			Pinned:      map[string]int64{"listen": 1},
			QueryErrors: map[string]int64{"23": 6},
			QueueWait:   proxy.Histogram{Bounds: []float64{0.001, 1}, Counts: []uint64{10, 12}, Count: 13, Sum: 5 * time.Second},
			Transaction: proxy.Histogram{Bounds: []float64{0.001, 1}, Counts: []uint64{0, 9000}, Count: 12345, Sum: time.Minute},
			Breaker:     proxy.BreakerStats{State: 2, Transitions: map[string]int64{"open": 1}},
		}},
	}
}

// get asks as a program on the same machine would; change makes the request something else.
func get(server http.Handler, path string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.RemoteAddr, r.Host = "127.0.0.1:50000", "127.0.0.1:8432"
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	server.ServeHTTP(w, r)
	return w
}

func from(addr string) func(*http.Request)    { return func(r *http.Request) { r.RemoteAddr = addr } }
func host(name string) func(*http.Request)    { return func(r *http.Request) { r.Host = name } }
func method(name string) func(*http.Request)  { return func(r *http.Request) { r.Method = name } }
func bearer(token string) func(*http.Request) { return header("Authorization", "Bearer "+token) }
func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func TestMetricsAreTheContract(t *testing.T) {
	w := get(admin.New(options()), "/metrics")
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	var own strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if strings.Contains(line, "weir_") {
			own.WriteString(line)
		}
	}
	text := regexp.MustCompile(`goversion="[^"]*"`).ReplaceAllString(own.String(), `goversion="go"`)
	golden.Compare(t, "testdata/metrics.golden", text)

	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, name := range []string{"go_goroutines", "process_open_fds"} {
		if !strings.Contains(w.Body.String(), "\n"+name+" ") {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestTheFirstScrapeOfAnIdleWeirHasEverySeries(t *testing.T) {
	opts := options()
	opts.Stats = func() proxy.Stats { return proxy.Stats{Resources: []proxy.ResourceStats{{Name: "orders"}}} }
	opts.Fleet = func() admin.FleetStats { return admin.FleetStats{} }
	body := get(admin.New(opts), "/metrics").Body.String()
	for _, want := range []string{
		`weir_clients{state="active"} 0`,
		`weir_server_connections{resource="orders",state="dialing"} 0`,
		`weir_breaker_transitions_total{resource="orders",to="open"} 0`,
		`weir_queue_wait_seconds_count{resource="orders"} 0`,
		`weir_fleet_up 0`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("missing %s", want)
		}
	}
}

func TestReadiness(t *testing.T) {
	notReady := errors.Join(errors.New("orders: no server answers"), errors.New("draining"))
	tests := map[string]struct {
		ready    error
		token    string
		as       []func(*http.Request)
		want     int
		wantBody string
	}{
		"ready":                             {nil, "", nil, 200, "ok\n"},
		"not ready gives a reason a line":   {notReady, "", nil, 503, "orders: no server answers\ndraining\n"},
		"a kubelet needs no token":          {nil, "r", []func(*http.Request){from("10.0.0.1:1")}, 200, "ok\n"},
		"a kubelet is not told the reasons": {notReady, "r", []func(*http.Request){from("10.0.0.1:1")}, 503, "not ready\n"},
		"a reader is told the reasons":      {notReady, "r", []func(*http.Request){from("10.0.0.1:1"), bearer("r")}, 503, "orders: no server answers\ndraining\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			opts := options()
			opts.ReadToken, opts.Ready = test.token, func() error { return test.ready }
			server := admin.New(opts)
			w := get(server, "/readyz", test.as...)
			if w.Code != test.want || w.Body.String() != test.wantBody {
				t.Errorf("got %d %q, want %d %q", w.Code, w.Body, test.want, test.wantBody)
			}
			if w := get(server, "/healthz", test.as...); w.Code != 200 {
				t.Errorf("healthz: got %d, want 200 whatever readyz says", w.Code)
			}
		})
	}
}

func TestAccess(t *testing.T) {
	const (
		none  = "none"
		read  = "read"
		write = "write"
		both  = "both"
		local = "none, but a profile for loopback"
	)
	remote := from("192.0.2.7:40000")
	as := func(changes ...func(*http.Request)) []func(*http.Request) { return changes }
	tests := map[string]struct {
		tokens string
		path   string
		as     []func(*http.Request)
		want   int
	}{
		"no tokens: loopback reads":                        {none, "/metrics", as(), 200},
		"no tokens: IPv6 loopback reads":                   {none, "/metrics", as(from("[::1]:5"), host("[::1]:8432")), 200},
		"no tokens: localhost by name":                     {none, "/metrics", as(host("LocalHost:8432")), 200},
		"no tokens: a probe without a Host header":         {none, "/metrics", as(host("")), 200},
		"no tokens: a remote client is refused":            {none, "/metrics", as(remote), 403},
		"no tokens: a remote client is refused a probe":    {none, "/healthz", as(remote), 403},
		"no tokens: a name that resolves here is foreign":  {none, "/metrics", as(host("rebind.example:8432")), 403},
		"no tokens: localhost as a prefix is foreign":      {none, "/metrics", as(host("localhost.example")), 403},
		"no tokens: a reverse proxy speaks for others":     {none, "/metrics", as(header("X-Forwarded-For", "192.0.2.7")), 403},
		"no tokens: an empty bearer is no token":           {none, "/metrics", as(remote, bearer("")), 403},
		"no tokens: loopback does not profile":             {none, "/debug/pprof/symbol", as(), 403},
		"loopback profiles where that was asked for":       {local, "/debug/pprof/symbol", as(), 200},
		"there a remote client does not":                   {local, "/debug/pprof/symbol", as(remote), 403},
		"there a foreign name does not":                    {local, "/debug/pprof/symbol", as(host("rebind.example")), 403},
		"nobody is shown the command line":                 {local, "/debug/pprof/cmdline", as(), 404},
		"nobody is shown the command line, by a token":     {both, "/debug/pprof/cmdline", as(bearer("wr1te")), 404},
		"write token only: loopback needs it to profile":   {write, "/debug/pprof/heap?debug=1", as(), 401},
		"no tokens: a foreign name does not profile":       {none, "/debug/pprof/symbol", as(host("rebind.example")), 403},
		"read token: it reads from afar":                   {read, "/metrics", as(remote, bearer("r3ad"), host("weir.example")), 200},
		"read token: the scheme has no case":               {read, "/metrics", as(remote, header("Authorization", "bearer r3ad")), 200},
		"read token: a wrong one does not":                 {read, "/metrics", as(remote, bearer("r3a")), 401},
		"read token: loopback needs it too":                {read, "/metrics", as(), 401},
		"read token: it does not profile":                  {read, "/debug/pprof/symbol", as(remote, bearer("r3ad")), 403},
		"read token: loopback does not profile":            {read, "/debug/pprof/symbol", as(), 403},
		"write token only: loopback reads":                 {write, "/metrics", as(), 200},
		"write token only: a remote client needs it":       {write, "/metrics", as(remote), 401},
		"write token only: it reads":                       {write, "/metrics", as(remote, bearer("wr1te")), 200},
		"both: the write token reads":                      {both, "/metrics", as(remote, bearer("wr1te")), 200},
		"both: the write token profiles":                   {both, "/debug/pprof/symbol", as(remote, bearer("wr1te")), 200},
		"both: the read token does not profile":            {both, "/debug/pprof/symbol", as(remote, bearer("r3ad")), 401},
		"both: a token in another scheme is none":          {both, "/metrics", as(remote, header("Authorization", "Basic wr1te")), 401},
		"no tokens: loopback lists sessions":               {none, "/api/v1/sessions", as(), 200},
		"no tokens: a remote client does not":              {none, "/api/v1/sessions", as(remote), 403},
		"read token: it lists sessions":                    {read, "/api/v1/sessions", as(remote, bearer("r3ad")), 200},
		"read token: without it nobody does":               {read, "/api/v1/sessions", as(), 401},
		"there is nothing to change here yet":              {both, "/metrics", as(method("POST"), bearer("wr1te")), 405},
		"unknown paths are not found":                      {none, "/nothing", as(), 404},
		"the mutex profile is reached through the index":   {local, "/debug/pprof/goroutine?debug=1", as(), 200},
		"a remote client does not reach it without tokens": {none, "/debug/pprof/goroutine?debug=1", as(remote), 403},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			opts := options()
			opts.LocalProfile = test.tokens == local
			if test.tokens == read || test.tokens == both {
				opts.ReadToken = "r3ad"
			}
			if test.tokens == write || test.tokens == both {
				opts.WriteToken = "wr1te"
			}
			w := get(admin.New(opts), test.path, test.as...)
			if w.Code != test.want {
				t.Errorf("got %d %q, want %d", w.Code, w.Body, test.want)
			}
			if got := w.Header().Get("WWW-Authenticate") != ""; got != (w.Code == 401) {
				t.Errorf("WWW-Authenticate sent: %v with status %d", got, w.Code)
			}
			for _, secret := range []string{"r3ad", "wr1te"} {
				if strings.Contains(w.Body.String(), secret) {
					t.Errorf("the answer names a token: %s", w.Body)
				}
			}
		})
	}
}

func TestServeAndShutdown(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := admin.New(options())
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	answer, err := http.Get("http://" + listener.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(answer.Body)
	answer.Body.Close()
	if string(body) != "ok\n" {
		t.Errorf("healthz says %q", body)
	}
	if err := server.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}
