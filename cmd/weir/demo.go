package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/storm"
)

type demoCmd struct {
	Functions int  `default:"200" help:"How many functions storm the database at once (${default})."`
	Stay      bool `help:"Keep everything up until Ctrl-C, to play with."`
}

// What the demonstration's PostgreSQL and weir are like. The server has room for fewer connections than there are
// functions, as a database always has some day.
const (
	demoRoom   = 60
	demoBudget = 10
)

// demoConfig is the whole configuration of the demonstration; what it leaves out has defaults.
const demoConfig = `listen: 127.0.0.1:0
admin: 127.0.0.1:0
users:
  fn: { password: "${FN_PASSWORD}" }
resources:
  orders:
    upstream: ${DB_URL}
    connections: %d
  trickle:                      # the same database, for those who should go slowly
    upstream: ${DB_URL}
    connections: 1
    rate: { per_second: 1, burst: 3 }
`

// The functions log in as fn, straight and through weir; weir logs in to PostgreSQL as weir. So PostgreSQL's own books
// tell whose connection is whose.
var (
	demoFunctions = pgserver.User{Name: "fn", Password: "fn-secret"}
	demoProxy     = pgserver.User{Name: "weir", Password: "weir-secret"}
)

// Run shows the same storm straight at a PostgreSQL and through a weir.
func (c demoCmd) Run(ctx context.Context, term terminal) (err error) {
	if c.Functions < 1 || c.Functions > 5000 {
		return usageError{fmt.Errorf("--functions: %d is not between 1 and 5000", c.Functions)}
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()

	if _, err := pgserver.Find(0); err != nil {
		return explainMissing(err)
	}
	term.say("")
	term.say("Weir keeps a database's load steady, whatever storm of functions is upstream.")
	term.say("")

	server, err := pgserver.Start(pgserver.Config{
		MaxConnections: demoRoom,
		Users:          []pgserver.User{demoProxy, demoFunctions},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	dir, err := os.MkdirTemp("", "weir-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	processors, undo := tuneRuntime()
	defer undo()
	proxy, err := startDemoWeir(ctx, dir, server.DSNFor(demoProxy), processors)
	if err != nil {
		return err
	}
	defer proxy.stop()

	stage := &demoStage{server: server, proxy: proxy, terminal: term}
	err = stage.play(ctx, c.plan())
	if err == nil {
		err = stage.farewell(ctx, c.Stay)
	}
	if ctx.Err() != nil && !c.Stay {
		term.say("Interrupted; everything is stopped and removed again.")
		return errReported{exitFailure}
	}
	return err
}

// plan is a storm of functions that start at the same moment.
func (c demoCmd) plan() storm.Plan {
	return storm.Plan{
		Load: storm.Together(c.Functions),
		Function: storm.Function{
			SQL: demoOrder, Transactions: 5, Pause: 50 * time.Millisecond, // of work that needs no database
			Deadline: 20 * time.Second,
		},
		MaxConnections: c.Functions,
	}
}

// demoShop is what the demonstration's database holds: so many articles that hardly ever two functions want the same one.
const demoShop = `
	CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int, cents int);
	CREATE TABLE stock (article int PRIMARY KEY, pieces int NOT NULL);
	INSERT INTO stock SELECT n, 100000 FROM generate_series(1, 1000) n;
	GRANT ALL ON orders, stock TO PUBLIC`

// demoOrder is one transaction of the shop.
const demoOrder = `
	INSERT INTO orders (customer, cents) VALUES (random(1, 1000), random(100, 9999));
	UPDATE stock SET pieces = pieces - 1 WHERE article = random(1, 1000)`

func explainMissing(err error) error {
	return fmt.Errorf(`%w

The demonstration needs PostgreSQL's server programs, initdb and postgres, on this machine:
  from a checkout  make demo   (installs what is missing)
  Debian, Ubuntu   apt-get install postgresql
  macOS            brew install postgresql@17`, err)
}

// startDemoWeir writes the configuration down and serves it as weir serve would.
func startDemoWeir(ctx context.Context, dir, upstream string, processors int) (*demoWeir, error) {
	path := filepath.Join(dir, "weir.yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, demoConfig, demoBudget), 0o600); err != nil {
		return nil, err
	}
	env := map[string]string{"DB_URL": upstream, "FN_PASSWORD": demoFunctions.Password}
	cfg, _, err := config.Load(path, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err != nil {
		return nil, err
	}
	w, err := startWeir(ctx, cfg, processors, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return nil, err
	}
	return &demoWeir{w}, nil
}

type demoWeir struct{ *weir }

// dsn is what a function is given.
func (w demoWeir) dsn(resource string) string {
	dsn := url.URL{
		Scheme: "postgres", User: url.UserPassword(demoFunctions.Name, demoFunctions.Password),
		Host: w.clientAddr(), Path: resource, RawQuery: "sslmode=disable",
	}
	return dsn.String()
}

// stop drains briefly: nobody is left who matters.
func (w demoWeir) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = w.shutdown(ctx) // what did not end in time is closed
}

// demoStage is the demonstration under way.
type demoStage struct {
	server *pgserver.Server
	proxy  *demoWeir
	terminal
}

// play shows who is there, the storm, a refusal and what weir counted.
func (d *demoStage) play(ctx context.Context, plan storm.Plan) error {
	if err := d.server.Exec(ctx, demoShop); err != nil {
		return err
	}
	d.say("  PostgreSQL      on %s, a throwaway server with room for %d connections", d.server.Addr(), demoRoom)
	d.say("  weir            on %s, in front of it, with a budget of %d of them", d.proxy.clientAddr(), demoBudget)
	d.say("  functions use   %s", d.proxy.dsn("orders"))
	d.say("  admin           http://%s/metrics, /healthz, /readyz", d.proxy.adminAddr())
	d.say("")
	for _, scene := range []func(context.Context) error{
		func(ctx context.Context) error { return d.compare(ctx, plan) },
		d.showRefusal,
		d.showMetrics,
	} {
		if err := scene(ctx); err != nil {
			return err
		}
	}
	return nil
}

// compare runs the storm twice and tells both stories side by side.
func (d *demoStage) compare(ctx context.Context, plan storm.Plan) error {
	d.say("%d functions start at once. Each connects, runs %d transactions and is gone.", plan.MaxConnections, plan.Transactions)
	d.say("")
	rows := [][]string{{"", "finished", "failed", "server connections", "at once", "login p50", "p99", "transaction p50", "p99"}}
	complaints := map[string][]string{}
	for _, way := range []struct{ name, dsn, user string }{
		{"straight", d.server.DSNFor(demoFunctions), demoFunctions.Name},
		{"through weir", d.proxy.dsn("orders"), demoProxy.Name},
	} {
		watch, err := watchServer(ctx, d.server, way.user)
		if err != nil {
			return err
		}
		plan.DSN = way.dsn
		result, failed := storm.Run(ctx, plan, nil)
		seen, err := watch.stop()
		if err != nil {
			return err
		}
		if err := cmp.Or(ctx.Err(), failed); err != nil {
			return err
		}
		complaints[way.name] = told(way.name, result)
		var logins storm.Quantiles
		if result.Login != nil {
			logins = *result.Login
		}
		rows = append(rows, []string{
			way.name,
			fmt.Sprint(result.Good),
			fmt.Sprint(result.Offered - result.Good),
			fmt.Sprint(seen.opened),
			fmt.Sprint(seen.atOnce),
			milliseconds(logins.P50),
			milliseconds(logins.P99),
			milliseconds(result.Transaction.P50),
			milliseconds(result.Transaction.P99),
		})
	}
	d.table(rows)
	d.say("")
	for _, name := range []string{"straight", "through weir"} {
		for _, text := range complaints[name] {
			d.say("  %s", text)
		}
	}
	d.say("")
	return nil
}

// told is what became of the functions that did not finish.
func told(way string, result *storm.Result) []string {
	var lines []string
	for _, r := range result.Refusals {
		lines = append(lines, fmt.Sprintf("%d that went %s were told: %s (SQLSTATE %s)", r.Count, way, r.Message, r.SQLSTATE))
	}
	for _, e := range result.Errors {
		lines = append(lines, fmt.Sprintf("%d that went %s were told: %s", e.Count, way, strings.TrimSpace(e.Message+" "+e.SQLSTATE)))
	}
	if result.TimedOut > 0 {
		lines = append(lines, fmt.Sprintf("%d that went %s had no answer in time", result.TimedOut, way))
	}
	return lines
}

// showRefusal asks more often than the rate allows, until weir says no.
func (d *demoStage) showRefusal(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, d.proxy.dsn("trickle"))
	if err != nil {
		return fmt.Errorf("connect to the rate-limited resource: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	const enough = 20 // far more than the burst
	for n := range enough {
		_, err := conn.Exec(ctx, "SELECT 1")
		if err == nil {
			continue
		}
		refusal, ok := errors.AsType[*pgconn.PgError](err)
		if !ok {
			return fmt.Errorf("ask the rate-limited resource: %w", err)
		}
		d.say("When weir refuses, it says why, and the connection stays usable. The resource \"trickle\" allows one")
		d.say("transaction a second after a burst of three. Number %d in a row got:", n+1)
		d.say("")
		d.say("  %s:  %s (SQLSTATE %s)", refusal.Severity, refusal.Message, refusal.Code)
		d.say("  DETAIL: %s", refusal.Detail)
		d.say("  HINT:   %s", refusal.Hint)
		d.say("")
		return nil
	}
	return fmt.Errorf("%d transactions in a row passed a rate of one a second", enough)
}

// showMetrics picks what the storm and the refusal left behind.
func (d *demoStage) showMetrics(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.proxy.adminAddr()+"/metrics", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("read the metrics: %w", err)
	}
	defer answer.Body.Close()
	d.say("All of it was counted, among other things, at %s:", request.URL)
	d.say("")
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		for _, name := range []string{"weir_admitted_total{", "weir_logins_total{", "weir_refused_total{", "weir_budget{"} {
			if strings.HasPrefix(lines.Text(), name) {
				d.say("  %s", lines.Text())
			}
		}
	}
	d.say("")
	return lines.Err()
}

func (d *demoStage) farewell(ctx context.Context, stay bool) error {
	if !stay {
		d.say("Everything is stopped and removed again. To look around yourself: weir demo --stay")
		d.say("")
		return nil
	}
	d.say("Now it is yours. Ctrl-C stops and removes everything.")
	d.say("")
	d.say("  through weir    psql %q", d.proxy.dsn("orders"))
	d.say("  rate-limited    psql %q", d.proxy.dsn("trickle"))
	d.say("  straight        psql %q", d.server.DSNFor(demoFunctions))
	d.say("  can it serve?   curl http://%s/readyz", d.proxy.adminAddr())
	d.say("  what it counts  curl http://%s/metrics", d.proxy.adminAddr())
	d.say("")
	<-ctx.Done()
	return nil
}

// serverWatch looks into PostgreSQL's own books during a storm.
type serverWatch struct {
	conn    *pgx.Conn
	user    string
	ended   chan struct{}
	stopped chan struct{}
	known   map[string]bool // server connections ever seen; this and what follows is the watcher's until stopped is closed
	seen    connectionsSeen
	err     error
}

// connectionsSeen is how many connections of one user PostgreSQL had.
type connectionsSeen struct {
	opened int // ever
	atOnce int // at most
}

// watchServer starts counting the connections that user has at the server; stop ends it.
func watchServer(ctx context.Context, server *pgserver.Server, user string) (*serverWatch, error) {
	conn, err := pgx.Connect(ctx, server.SuperDSN())
	if err != nil {
		return nil, fmt.Errorf("watch the server: %w", err)
	}
	w := &serverWatch{conn: conn, user: user, ended: make(chan struct{}), stopped: make(chan struct{}), known: map[string]bool{}}
	go w.watch(ctx) // stop waits for it
	return w, nil
}

func (w *serverWatch) watch(ctx context.Context) {
	defer close(w.stopped)
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		if w.err = w.count(ctx); w.err != nil {
			return
		}
		select {
		case <-w.ended:
			w.err = w.count(ctx)
			return
		case <-look.C:
		}
	}
}

func (w *serverWatch) count(ctx context.Context) error {
	rows, err := w.conn.Query(ctx, "SELECT pid || ' ' || backend_start FROM pg_stat_activity WHERE usename = $1", w.user)
	if err != nil {
		return err
	}
	backends, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, backend := range backends {
		w.known[backend] = true
	}
	w.seen.opened = len(w.known)
	w.seen.atOnce = max(w.seen.atOnce, len(backends))
	return err
}

func (w *serverWatch) stop() (connectionsSeen, error) {
	close(w.ended)
	<-w.stopped
	return w.seen, errors.Join(w.err, w.conn.Close(context.Background()))
}

// table aligns the first column left and the others, which are numbers, right.
func (t terminal) table(rows [][]string) {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len(cell))
		}
	}
	for _, row := range rows {
		text := fmt.Sprintf("  %-*s", width[0], row[0])
		for i, cell := range row[1:] {
			text += fmt.Sprintf("   %*s", width[i+1], cell)
		}
		t.say("%s", text)
	}
}

// milliseconds with as many digits as matter.
func milliseconds(ms float64) string {
	if ms < 10 {
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}
