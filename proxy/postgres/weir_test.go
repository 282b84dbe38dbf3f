package postgres_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/auth"
	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/pool"
	"github.com/weirproxy/weir/proxy"
	"github.com/weirproxy/weir/proxy/postgres"
)

// weir is a proxy under test, in this process.
type weir struct {
	*postgres.Server
	tb       testing.TB
	addr     string
	database string
}

const defaultLoops = 2 // for sessions

// TestMain gives Go as many processors as weir serve would for the loops of the tests. With fewer, what runs beside the loops
// waits for tens of milliseconds.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), postgres.GoProcessors(2*defaultLoops)))
	m.Run()
}

// settings are what a test changes of the defaults.
type settings struct {
	upstream string // the shared PostgreSQL
	database string // as clients call it: database
	address  string // a free port of the loopback interface
	mode     postgres.PoolMode
	pinning  postgres.Pinning // pin
	pinned   int
	softPins bool

	clientText int // of prepared statements, in bytes; any
	userText   int
	reset      postgres.Reset // detected
	servers    int            // 10
	loops      int            // defaultLoops
	queue      limiter.Queue
	timeouts   postgres.Timeouts
	limits     postgres.Limits
	pool       pool.Config
	tls        postgres.TLSOptions
	method     auth.Method // trust
	users      map[string]string
	bucket     limiter.Bucket
	rate       limiter.Rate
	breaker    *breaker.Breaker
	adaptive   limiter.Adaptive
	callers    *limiter.Callers
	refusals   *proxy.Refusals
	number     uint16
	maxAge     time.Duration // of statements; for ever

	sendBuffer int // of the clients' sockets, in bytes as the kernel counts them; 0: as the system likes
}

const database = "orders"

// start runs a weir until the test ends.
func start(tb testing.TB, c settings) *weir {
	tb.Helper()
	if c.upstream == "" {
		c.upstream = pgtest.Shared(tb).DSN()
	}
	if c.database == "" {
		c.database = database
	}
	if c.pool.Connections = c.servers; c.servers == 0 {
		c.pool.Connections = 10
	}
	if c.pool.Connect == 0 {
		c.pool.Connect = 5 * time.Second
	}
	if c.queue.Wait == 0 {
		c.queue.Wait = 5 * time.Second
	}
	if c.loops == 0 {
		c.loops = defaultLoops
	}
	if c.method == "" {
		c.method = auth.Trust
	}
	secrets := make(map[string]auth.Secret)
	for user, s := range c.users {
		secret, err := auth.ParseSecret(s)
		if err != nil {
			tb.Fatal(err)
		}
		secrets[user] = secret
	}
	users, err := auth.NewUsers(c.method, auth.NewKey(), secrets)
	if err != nil {
		tb.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	server, err := postgres.New(postgres.Options{
		Resources: []postgres.ResourceOptions{{
			Name: c.database, Upstream: c.upstream, Pool: c.pool, Mode: c.mode, Pinning: c.pinning, Pinned: c.pinned, SoftPins: c.softPins, Client: c.clientText, User: c.userText, MaxAge: c.maxAge, Reset: c.reset, Queue: c.queue, Timeouts: c.timeouts,
			Gate: proxy.NewGate(proxy.GateOptions{
				Name: c.database, Connections: c.pool.Connections, Rate: c.rate, Bucket: c.bucket, Breaker: c.breaker, Queue: c.queue,
				Adaptive: c.adaptive, Callers: c.callers, Refusals: c.refusals, Log: log,
			}),
		}},
		Users: users, TLS: c.tls, Limits: c.limits, Processors: 2 * c.loops, Number: c.number, Log: log,
	})
	if err != nil {
		tb.Fatal(err)
	}
	if c.address == "" {
		c.address = "127.0.0.1:0"
	}
	listener, err := proxy.Listen(context.Background(), c.address, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if c.sendBuffer > 0 {
		pgtest.Control(tb, listener, func(fd int) error { // what it accepts inherits it
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, c.sendBuffer)
		})
	}
	served := make(chan struct{})
	go func() {
		if err := server.Serve(listener); !errors.Is(err, net.ErrClosed) {
			tb.Errorf("Serve returned %v", err)
		}
		close(served)
	}()
	tb.Cleanup(func() {
		server.Close()
		<-served
	})
	return &weir{Server: server, tb: tb, addr: listener.Addr().String(), database: c.database}
}

// dsn is the connection string of the weir for a user, with further parameters as "key=value".
func (w *weir) dsn(params ...string) string {
	host, port, _ := net.SplitHostPort(w.addr)
	return strings.Join(append([]string{
		"host=" + host, "port=" + port, "dbname=" + w.database, "user=app", "sslmode=disable",
	}, params...), " ")
}

// client connects to the weir, frame by frame.
func (w *weir) client(params ...string) *pgtest.Client {
	w.tb.Helper()
	return pgtest.Connect(w.tb, w.dsn(params...))
}

// pgconn connects to the weir with pgx's connection.
func (w *weir) pgconn(params ...string) *pgconn.PgConn {
	w.tb.Helper()
	conn, err := pgconn.Connect(context.Background(), w.dsn(params...))
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// reload takes over these TLS options; clients are trusted.
func (w *weir) reload(o postgres.TLSOptions) error {
	w.tb.Helper()
	users, err := auth.NewUsers(auth.Trust, auth.NewKey(), nil)
	if err != nil {
		w.tb.Fatal(err)
	}
	return w.Reload(postgres.Options{Users: users, TLS: o})
}

// servers counts the weir's server connections by state.
func (w *weir) servers(state string) int64 {
	return w.Stats().Resources[0].Servers[state]
}

// eventually waits until what is true, for at most ten seconds.
func (w *weir) eventually(what string, is func() bool) {
	w.tb.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.tb.Fatalf("still not so after 10 s: %s; %+v", what, w.Stats())
		}
	}
}
