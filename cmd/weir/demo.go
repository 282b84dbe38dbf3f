package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/internal/pgserver"
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

	say := teller{term.out}
	say.line("")
	say.line("Weir keeps a database's load steady, whatever storm of functions is upstream.")
	say.line("")

	server, err := pgserver.Start(pgserver.Config{
		MaxConnections: demoRoom,
		Users:          []pgserver.User{demoProxy, demoFunctions},
	})
	if err != nil {
		return explainMissing(err)
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	stage := &demoStage{server: server, say: say}
	if err := stage.prepare(ctx); err != nil {
		return err
	}
	say.line("  %-12s a throwaway server with room for %d connections", "PostgreSQL", demoRoom)

	dir, err := os.MkdirTemp("", "weir-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	proxy, err := startDemoWeir(ctx, dir, server.DSNFor(demoProxy))
	if err != nil {
		return err
	}
	defer proxy.stop()
	say.line("  %-12s in front of it, with a budget of %d of them; each is used by one function at a time", "weir", demoBudget)
	say.line("")

	s := storm{functions: c.Functions, transactions: 5, pause: 20 * time.Millisecond, patience: 20 * time.Second}
	if err := stage.compare(ctx, s, proxy); err != nil {
		return err
	}
	if err := stage.showRefusal(ctx, proxy.dsn("trickle")); err != nil {
		return err
	}
	return stage.farewell(ctx, proxy, c.Stay)
}

func explainMissing(err error) error {
	return fmt.Errorf(`%w

The demonstration needs PostgreSQL's server programs (initdb and postgres) on this machine:
  Debian, Ubuntu   apt-get install postgresql
  macOS            brew install postgresql@17
  from a checkout  make demo   (installs what is missing)`, err)
}

// startDemoWeir writes the configuration down and serves it as weir serve would.
func startDemoWeir(ctx context.Context, dir, upstream string) (*demoWeir, error) {
	path := filepath.Join(dir, "weir.yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, demoConfig, demoBudget), 0o600); err != nil {
		return nil, err
	}
	env := map[string]string{"DB_URL": upstream, "FN_PASSWORD": demoFunctions.Password}
	cfg, _, err := config.Load(path, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err != nil {
		return nil, err
	}
	w, err := startWeir(ctx, cfg, slog.New(slog.DiscardHandler))
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
	say    teller
}

// prepare makes the table that the functions write to, owned by nobody in particular.
func (d *demoStage) prepare(ctx context.Context) error {
	return d.server.Exec(ctx, `CREATE TABLE orders (
		id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int, cents int, paid bool NOT NULL DEFAULT false);
		GRANT ALL ON orders TO PUBLIC`)
}

// compare runs the storm twice and tells both stories side by side.
func (d *demoStage) compare(ctx context.Context, s storm, proxy *demoWeir) error {
	d.say.line("%d functions start at once. Each connects, runs %d transactions and is gone.", s.functions, s.transactions)
	d.say.line("")
	rows := [][]string{{"", "finished", "failed", "server connections", "login p50", "p99", "transaction p50", "p99"}}
	complaints := map[string]map[string]int{}
	for _, way := range []struct{ name, dsn, user string }{
		{"straight", d.server.DSNFor(demoFunctions), demoFunctions.Name},
		{"through weir", proxy.dsn("orders"), demoProxy.Name},
	} {
		watch, err := watchServer(ctx, d.server, way.user)
		if err != nil {
			return err
		}
		result := s.run(ctx, way.dsn)
		seen, err := watch.stop()
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		complaints[way.name] = result.refused
		rows = append(rows, []string{
			way.name,
			fmt.Sprint(result.finished),
			fmt.Sprint(s.functions - result.finished),
			fmt.Sprint(seen),
			milliseconds(percentile(result.logins, 50)),
			milliseconds(percentile(result.logins, 99)),
			milliseconds(percentile(result.transactions, 50)),
			milliseconds(percentile(result.transactions, 99)),
		})
	}
	d.say.table(rows)
	d.say.line("")
	for _, name := range []string{"straight", "through weir"} {
		for _, text := range slices.Sorted(maps.Keys(complaints[name])) {
			d.say.line("  %d functions %s were told: %s", complaints[name][text], name, text)
		}
	}
	d.say.line("")
	return nil
}

// showRefusal asks more often than the rate allows, until weir says no.
func (d *demoStage) showRefusal(ctx context.Context, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("connect to the rate-limited resource: %w", err)
	}
	defer conn.Close(ctx)
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
		d.say.line("When weir refuses, it says why, and the connection stays usable. The resource \"trickle\" allows")
		d.say.line("one transaction a second after a burst of three; the %s in a row got:", ordinal(n+1))
		d.say.line("")
		d.say.line("  %s:  %s (SQLSTATE %s)", refusal.Severity, refusal.Message, refusal.Code)
		d.say.line("  DETAIL: %s", refusal.Detail)
		d.say.line("  HINT:   %s", refusal.Hint)
		d.say.line("")
		return nil
	}
	return fmt.Errorf("%d transactions in a row passed a rate of one a second", enough)
}

func (d *demoStage) farewell(ctx context.Context, proxy *demoWeir, stay bool) error {
	if !stay {
		d.say.line("Everything is stopped and removed again. To look around yourself: weir demo --stay")
		d.say.line("")
		return nil
	}
	admin := "http://" + proxy.adminAddr()
	d.say.line("Look around; Ctrl-C removes it all.")
	d.say.line("")
	for _, row := range [][2]string{
		{"functions connect to", proxy.dsn("orders")},
		{"slow lane", proxy.dsn("trickle")},
		{"straight", d.server.DSNFor(demoFunctions)},
		{"alive?", admin + "/healthz"},
		{"can it serve?", admin + "/readyz"},
		{"what it counts", admin + "/metrics"},
	} {
		d.say.line("  %-22s %s", row[0], row[1])
	}
	d.say.line("")
	<-ctx.Done()
	return nil
}

// serverWatch looks into PostgreSQL's own books during a storm.
type serverWatch struct {
	conn    *pgx.Conn
	user    string
	ended   chan struct{}
	stopped chan struct{}
	seen    map[string]bool // server connections ever seen; the watcher's until stopped is closed
	err     error           // likewise
}

// watchServer starts counting the connections that user has at the server; stop ends it.
func watchServer(ctx context.Context, server *pgserver.Server, user string) (*serverWatch, error) {
	conn, err := pgx.Connect(ctx, server.SuperDSN())
	if err != nil {
		return nil, fmt.Errorf("watch the server: %w", err)
	}
	w := &serverWatch{conn: conn, user: user, ended: make(chan struct{}), stopped: make(chan struct{}), seen: map[string]bool{}}
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
		w.seen[backend] = true
	}
	return err
}

// stop returns how many connections the server ever saw.
func (w *serverWatch) stop() (int, error) {
	close(w.ended)
	<-w.stopped
	return len(w.seen), errors.Join(w.err, w.conn.Close(context.Background()))
}

// teller writes for people.
type teller struct{ out io.Writer }

func (t teller) line(format string, args ...any) {
	fmt.Fprintf(t.out, format+"\n", args...)
}

// table aligns the first column left and the others, which are numbers, right.
func (t teller) table(rows [][]string) {
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
		t.line("%s", text)
	}
}

// milliseconds with as many digits as matter.
func milliseconds(d time.Duration) string {
	ms := d.Seconds() * 1000
	if ms < 10 {
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

func ordinal(n int) string {
	if words := []string{"", "first", "second", "third", "fourth", "fifth"}; n < len(words) {
		return words[n]
	}
	return fmt.Sprintf("%dth", n)
}
