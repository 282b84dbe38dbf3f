package drivers_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgserver"
)

var update = flag.Bool("update", false, "write docs/drivers.md")

// Features that several drivers have.
const (
	sessionState = "session state"
	changeHands  = "server connections change hands" // makes no sense where each client has one of its own
)

// modes are the pool modes compared, with the features that make no sense in them. One of them is over TLS.
var modes = []struct {
	name    string
	sslmode string
	skip    []string
}{
	{"transaction", "disable", nil},
	{"session", "require", []string{changeHands, changeHands + ", assumeMinServerVersion=9.0", changeHands + ", DEALLOCATE", changeHands + ", options=-c timezone"}},
}

// A server is where a program shall connect to: a PostgreSQL, or weir.
type server struct {
	port           int // on 127.0.0.1
	user, password string
	database       string
	one, two       string // the same database; through weir, over a single server connection and over two
	sslmode        string
	ca             string // the file of the certificate authority, when sslmode is require
}

func (s server) url(params ...string) string {
	query := url.Values{}
	for _, p := range append([]string{"sslmode=" + s.sslmode}, params...) {
		key, value, _ := strings.Cut(p, "=")
		query.Set(key, value)
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(s.user, s.password), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)),
		Path: s.database, RawQuery: strings.ReplaceAll(query.Encode(), "+", "%20"), // libpq takes a plus for a plus
	}
	return u.String()
}

func (s server) env() []string {
	return []string{
		"PGHOST=127.0.0.1", fmt.Sprint("PGPORT=", s.port), "PGUSER=" + s.user, "PGPASSWORD=" + s.password, "PGDATABASE=" + s.database,
		"PGDATABASE_ONE=" + s.one, "PGSSLMODE=" + s.sslmode, "NODE_EXTRA_CA_CERTS=" + s.ca,
	}
}

// A driver is one program that prints a transcript.
type driver struct {
	name       string
	postgresql int          // major version; 0 is the system's
	missing    func() error // what must be installed to run it; nil when nothing
	run        func(ctx context.Context, srv server, skip []string) ([]byte, error)
}

var drivers = []driver{
	{name: "psql", missing: program("psql"), run: psql},
	{name: "pgx", run: inGo("pgx", "github.com/jackc/pgx/v5", pgxFeatures())},
	{name: "pgx with protocol 3.2", postgresql: pgserver.CachedVersion, run: inGo("pgx", "github.com/jackc/pgx/v5", pgxFeatures("max_protocol_version=3.2"))},
	{name: "lib/pq", run: inGo("lib/pq", "github.com/lib/pq", pqFeatures())},
	{name: "lib/pq with protocol 3.2", postgresql: pgserver.CachedVersion, run: inGo("lib/pq", "github.com/lib/pq", pqFeatures("max_protocol_version=3.2"))},
	{name: "GORM", run: external("go", "run", "-C", "gorm", ".")},
	{name: "node-postgres", missing: nodeModules("pg"), run: external("node", "node/pg.js")},
	{name: "postgres.js", missing: nodeModules("postgres"), run: external("node", "node/postgres.js")},
	{name: "TypeORM", missing: nodeModules("typeorm"), run: external("node", "node/typeorm.js")},
	{name: "psycopg2", missing: pythonModule("psycopg2"), run: inPython("psycopg2_program.py")},
	{name: "psycopg 3", missing: pythonModule("psycopg"), run: inPython("psycopg_program.py")},
	{name: "SQLAlchemy", missing: pythonModule("sqlalchemy, psycopg2"), run: inPython("sqlalchemy_program.py")},
	{name: "Django", missing: pythonModule("django, psycopg2"), run: inPython("django_program.py")},
	{name: "JDBC", missing: file(jdbcJar), run: external("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", jdbcJar, "java/Jdbc.java")},
}

// id is the driver's name as a part of a database's name.
func (d driver) id() string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(d.name))
}

// A feature is one part of a program written in Go.
type feature struct {
	name string
	run  func(ctx context.Context, r *recorder, srv server) error
}

// inGo makes a program of features.
func inGo(name, module string, features []feature) func(context.Context, server, []string) ([]byte, error) {
	return func(ctx context.Context, srv server, skip []string) ([]byte, error) {
		version, err := moduleVersion(ctx, module)
		if err != nil {
			return nil, err
		}
		var r recorder
		r.begin(name, version)
		for _, f := range features {
			if slices.Contains(skip, f.name) {
				continue
			}
			r.feature = f.name
			if err := f.run(ctx, &r, srv); err != nil {
				r.say(threw, []any{showError(err), err.Error()})
			}
		}
		return r.out.Bytes(), nil
	}
}

// moduleVersion asks the go command: a test binary does not know what it was made of.
func moduleVersion(ctx context.Context, path string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", path).Output()
	return strings.TrimPrefix(strings.TrimSpace(string(out)), "v"), err
}

// TestMain keeps what the user's shell says about PostgreSQL away from the drivers, all of which read it.
func TestMain(m *testing.M) {
	flag.Parse()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "PG") {
			_ = os.Unsetenv(name) // the name comes from the environment itself
		}
	}
	_ = os.Setenv("PGPASSFILE", os.DevNull)
	os.Exit(m.Run())
}

// TestDrivers compares what each driver sees straight and through weir, with its settings for poolers and without (trap 59), and keeps
// docs/drivers.md.
func TestDrivers(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a PostgreSQL, a weir and the drivers of four languages")
	}
	servers := map[int]*pgserver.Server{}
	for _, d := range drivers {
		if _, known := servers[d.postgresql]; !known {
			servers[d.postgresql] = startPostgreSQL(t, d.postgresql)
		}
	}
	weir := startWeir(t, servers)

	found := make([]finding, len(drivers))
	t.Run("run", func(t *testing.T) {
		for i, d := range drivers {
			t.Run(d.id(), func(t *testing.T) {
				t.Parallel()
				if servers[d.postgresql] == nil {
					t.Skipf("no PostgreSQL %d", d.postgresql)
				}
				if d.missing != nil {
					if err := d.missing(); err != nil {
						t.Skip(err)
					}
				}
				found[i] = compare(t, d, servers[d.postgresql], weir)
			})
		}
	})
	t.Run("server connections change hands", func(t *testing.T) {
		changesHands(t, server{
			port: weir.port, user: pgserver.App.Name, password: pgserver.App.Password, database: "transaction_pgx_two", sslmode: "disable",
		})
	})
	if strings.Contains(weir.output(), "DATA RACE") {
		t.Errorf("weir: %s", weir.output())
	}
	checkDocs(t, found)
}

// A finding is what became of one driver. It is empty when the driver could not be run.
type finding struct {
	version  string
	features []string
	cells    map[string]map[string]string // feature, mode: a cell of the table in docs/drivers.md
}

func compare(t *testing.T, d driver, pg *pgserver.Server, weir *weir) finding {
	through := make(map[string]server)
	database := func(mode string) string { return mode + "_" + d.id() }
	straight := server{port: pg.Port, user: pgserver.App.Name, password: pgserver.App.Password, database: database("straight"), sslmode: "disable"}
	straight.one, straight.two = straight.database, straight.database
	for _, m := range modes {
		srv := straight
		srv.port, srv.database = weir.port, database(m.name)
		srv.one, srv.two = srv.database+"_one", srv.database+"_two"
		if srv.sslmode = m.sslmode; m.sslmode == "require" {
			srv.ca = weir.ca
		}
		through[m.name] = srv
	}

	want := transcribe(t, d, straight, nil)
	for _, feature := range want.features {
		if failure := want.failure(feature); failure != "" {
			t.Fatalf("%s, straight to PostgreSQL: %s", feature, failure)
		}
	}
	found := finding{version: want.version, features: want.features, cells: map[string]map[string]string{}}
	for _, feature := range want.features {
		found.cells[feature] = map[string]string{}
	}
	for _, m := range modes {
		got := transcribe(t, d, through[m.name], m.skip)
		for _, feature := range want.features {
			found.cells[feature][m.name] = cell(t, d, feature, m.name, slices.Contains(m.skip, feature), want, got)
		}
	}
	return found
}

// cell compares one feature in one mode.
func cell(t *testing.T, d driver, feature, mode string, skipped bool, want, got *transcript) string {
	if skipped {
		return "–"
	}
	differs := difference(want.lines[feature], got.lines[feature])
	number, limited := limitOf(d.name, feature, mode)
	switch {
	case differs == "" && limited:
		t.Errorf("%s, %s mode: the same, so this is a limit no more: %s", feature, mode, limits[number].why)
	case differs != "" && !limited:
		t.Errorf("%s, %s mode: %s", feature, mode, differs)
	case limited:
		t.Logf("%s, %s mode: as known, %s", feature, mode, differs)
		if limits[number].better {
			return fmt.Sprintf("better (%d)", number+1)
		}
		return fmt.Sprintf("no (%d)", number+1)
	}
	return "same"
}

func transcribe(t *testing.T, d driver, srv server, skip []string) *transcript {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	start := time.Now()
	out, err := d.run(ctx, srv, skip)
	// With -artifacts -outputdir the whole transcripts are kept, to be compared by hand.
	if err := os.WriteFile(filepath.Join(t.ArtifactDir(), srv.database+".jsonl"), out, 0o644); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatalf("%s on %s: %v\n%s", d.name, srv.database, err, clipEnd(string(out)))
	}
	tr, err := parseTranscript(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %.1f s", srv.database, time.Since(start).Seconds())
	return tr
}

// startPostgreSQL starts a server with a database for each driver and run, or returns nil where there is none.
func startPostgreSQL(t *testing.T, version int) *pgserver.Server {
	t.Helper()
	pg, err := pgserver.Start(pgserver.Config{
		Version: version, Users: []pgserver.User{pgserver.App},
		MaxConnections: 40 * len(drivers), // weir keeps those of a driver that has ended
	})
	if errors.Is(err, pgserver.ErrUnavailable) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, d := range drivers {
		if d.postgresql != version {
			continue
		}
		for _, run := range []string{"straight", "transaction", "session"} {
			if err := pg.Exec(t.Context(), fmt.Sprintf("create database %s_%s owner %s", run, d.id(), pgserver.App.Name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return pg
}
