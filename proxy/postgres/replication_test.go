package postgres_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	gosync "sync" // sync is a message here: see compare_test.go
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/auth"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/proxy"
	"github.com/weirproxy/weir/proxy/postgres"
)

// replicated is the shared server, whose user may replicate.
func replicated(tb testing.TB) *pgtest.Postgres {
	tb.Helper()
	return replicating(tb, pgtest.Shared(tb))
}

// replicating is pg, whose user may replicate from now on.
func replicating(tb testing.TB, pg *pgtest.Postgres) *pgtest.Postgres {
	tb.Helper()
	mustExec(tb, pg, "ALTER ROLE app REPLICATION")
	return pg
}

func mustExec(tb testing.TB, pg *pgtest.Postgres, sql string) {
	tb.Helper()
	if err := pg.Exec(context.Background(), sql); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

func value(tb testing.TB, pg *pgtest.Postgres, sql string) string {
	tb.Helper()
	rows, err := pg.Query(context.Background(), sql)
	if err != nil || len(rows) != 1 {
		tb.Fatalf("%s: %v, %v", sql, rows, err)
	}
	return rows[0][0]
}

// awaitValue waits until the server says so.
func awaitValue(tb testing.TB, pg *pgtest.Postgres, sql, want string) {
	tb.Helper()
	for deadline := time.Now().Add(pgtest.DefaultTimeout); ; time.Sleep(time.Millisecond) {
		got := value(tb, pg, sql)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s is still %q, want %q", sql, got, want)
		}
	}
}

const walsenders = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'"

// asking is a startup packet with these values of replication.
func asking(database string, values ...string) []byte {
	body := "user\x00app\x00database\x00" + database + "\x00"
	for _, v := range values {
		body += "replication\x00" + v + "\x00"
	}
	return packet(v30, body+"\x00")
}

// Trap 57: what a value of the startup parameter means, and how a wrong one is refused, is the server's to say.
func TestReplicationIsAskedForInTheServersWords(t *testing.T) {
	pgtest.Each(t, replicationInTheServersWords)
}

func replicationInTheServersWords(t *testing.T, pg *pgtest.Postgres) {
	replicating(t, pg)
	pgtest.NoLeaks(t)
	w := start(t, settings{mode: postgres.Session, database: "app", upstream: pg.DSN()})
	// kind is what became of the login: an error, or what tells the kinds of connections apart.
	kind := func(addr string, startup []byte) string {
		c := pgtest.Dial(t, addr)
		defer c.Close()
		c.SendBytes(startup)
		first := c.Receive()
		switch {
		case first.Type == 'E':
			return fmt.Sprintf("%s %s: %s (%s)", first.Field('S'), first.Field('C'), first.Field('M'), first.Field('H'))
		case binary.BigEndian.Uint32(first.Body) != pgproto3.AuthTypeOk:
			c.Close()
			return ""
		}
		c.UntilReady(1)
		return pgtest.Types(c.Query("IDENTIFY_SYSTEM")) + " " + pgtest.Types(c.Query("SELECT 1"))
	}
	const ordinary, physical, logical = "EZ TDCZ", "TDCZ EZ", "TDCZ TDCZ"
	tests := []struct {
		want   string
		values []string
	}{
		{ordinary, []string{""}},
		{ordinary, []string{"o"}},
		{ordinary, []string{"2"}},
		{ordinary, []string{" true"}},
		{ordinary, []string{"truee"}},
		{ordinary, []string{"10"}},
		{ordinary, []string{"Database"}},
		{ordinary, []string{"databas"}},
		{ordinary, []string{"maybe", "true"}},
		{ordinary, nil},
		{ordinary, []string{"false"}},
		{ordinary, []string{"f"}},
		{ordinary, []string{"off"}},
		{ordinary, []string{"of"}},
		{ordinary, []string{"0"}},
		{ordinary, []string{"n"}},
		{ordinary, []string{"NO"}},
		{ordinary, []string{"database", "false"}},
		{physical, []string{"true"}},
		{physical, []string{"t"}},
		{physical, []string{"TRU"}},
		{physical, []string{"on"}},
		{physical, []string{"1"}},
		{physical, []string{"y"}},
		{physical, []string{"Yes"}},
		{physical, []string{"off", "on"}},
		{logical, []string{"database"}},
		{logical, []string{"database", "true"}},
		{logical, []string{"true", "database"}},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%q", test.values), func(t *testing.T) {
			startup := asking("app", test.values...)
			got, want := kind(w.addr, startup), kind(pg.Addr(), startup)
			if want == "" { // it asks for a password: the value was right
				want = test.want
			}
			if got != want {
				t.Errorf("through weir: %s, the server: %s", got, want)
			}
		})
	}
}

// steady leaves out of a walsender's answer what differs each time: positions, times, keepalives, the log itself where it is
// not decoded, and how data are cut.
func steady(replication string, messages []pgtest.Message) (all []pgtest.Message) {
	for _, m := range messages {
		switch {
		case m.Type == 'D':
			var row pgproto3.DataRow
			if row.Decode(m.Body) == nil {
				for i, v := range row.Values {
					if v != nil {
						row.Values[i] = varying.ReplaceAll(v, []byte("…"))
					}
				}
				m = pgtest.Message{Type: 'D', Body: pgtest.Encode(&row)}
			}
		case m.Type == 'd' && m.Body[0] == 'k', m.Type == 'd' && m.Body[0] == 'w' && replication == "true":
			continue
		case m.Type == 'd' && m.Body[0] == 'w':
			m = pgtest.Message{Type: 'd', Body: m.Body[25:]}
		case m.Type == 'd':
			m = pgtest.Message{Type: 'd'}
			if n := len(all); n > 0 && all[n-1].Type == 'd' && len(all[n-1].Body) == 0 {
				continue
			}
		case m.Type == 'E' || m.Type == 'N':
			m = pgtest.Message{Type: m.Type, Body: varying.ReplaceAll(m.Body, []byte("…"))}
		}
		all = append(all, m)
	}
	return all
}

var varying = regexp.MustCompile(`[0-9A-F]+/[0-9A-F]+|[0-9A-F]{8}-[0-9A-F]{8}-1|"pg_basebackup_[0-9_]+"`)

// streamed awaits n messages of the log.
func streamed(n int, messages ...frontend) exchange {
	return exchange{wire: pgtest.Encode(messages...), until: func() func(pgtest.Message) bool {
		left := n
		return func(m pgtest.Message) bool {
			if m.Type == 'd' && m.Body[0] == 'w' {
				left--
			}
			return left == 0
		}
	}}
}

// status is what a client reports while it is sent the log: how far it has come.
func status(lsn uint64, replyNow byte) frontend {
	b := []byte{'r'}
	for range 3 {
		b = binary.BigEndian.AppendUint64(b, lsn)
	}
	return &pgproto3.CopyData{Data: append(binary.BigEndian.AppendUint64(b, 0), replyNow)}
}

// Trap 57: a walsender has a language of its own, and COPY BOTH. Whoever is between makes no difference.
func TestReplicationIsAsWithTheServer(t *testing.T) { pgtest.Each(t, replicationAsWithTheServer) }

func replicationAsWithTheServer(t *testing.T, pg *pgtest.Postgres) {
	replicating(t, pg)
	pgtest.NoLeaks(t)
	w := start(t, settings{mode: postgres.Session, upstream: pg.DSN()})
	const (
		physicalSlot = "CREATE_REPLICATION_SLOT p TEMPORARY PHYSICAL RESERVE_WAL"
		logicalSlot  = "CREATE_REPLICATION_SLOT l TEMPORARY LOGICAL test_decoding"
		emit         = "SELECT 1 FROM pg_logical_emit_message(true, 'weir', 'hello')"
		rollback     = "BEGIN; SELECT 1 FROM pg_logical_emit_message(true, 'weir', 'nobody hears it'); ROLLBACK"
	)
	logically := query(`START_REPLICATION SLOT l LOGICAL 0/0 ("include-xids" '0')`)
	type dialogue struct {
		replication string
		script      []exchange
	}
	dialogues := func(here string) map[string]dialogue {
		physically := query("START_REPLICATION PHYSICAL " + here)
		return map[string]dialogue{
			"what may be asked": {"true", queries("IDENTIFY_SYSTEM", "SHOW wal_segment_size", "SHOW data_directory_mode", "TIMELINE_HISTORY 1", "", ";")},
			"SQL, physical":     {"true", queries("SELECT 1", "BEGIN", "SHOW nosuch", "SELEC 1")},
			"SQL, logical": {"database", append(queries("SELECT 1", "BEGIN", "SELECT 1/0", "ROLLBACK", "SHOW application_name", "SET my.setting = 'x'", "SHOW my.setting"),
				ready(1, query("COPY (SELECT generate_series(1, 100)) TO STDOUT")), ready(3, query("SELECT 1"), query("IDENTIFY_SYSTEM"), query("SELECT 2")))},
			"COPY in, logical":               {"database", append(queries("CREATE TEMP TABLE t (v int)"), flushed(1, 'G', query("COPY t FROM STDIN")), ready(1, data("1\n2\n"), copyDone), ready(1, query("SELECT sum(v) FROM t")))},
			"the extended protocol":          {"database", []exchange{ready(1, parse("", "SELECT 1"), bind("", ""), execute("", 0), synchronize), ready(1, query("SELECT 1"))}},
			"the extended protocol, flushed": {"true", []exchange{flushed(1, 'E', parse("", "SELECT 1"), flush), sent(bind("", "")), ready(1, synchronize), ready(1, query("IDENTIFY_SYSTEM"))}},
			"a function call":                {"database", []exchange{ready(1, &pgproto3.FunctionCall{Function: 1}), ready(1, query("SELECT 1"))}},
			"nothing":                        {"true", []exchange{sent(flush, data("x"), copyDone), ready(1, synchronize), ended(terminate)}},
			"garbage":                        {"true", []exchange{sentBytes("~\x00\x00\x00\x04")}},
			"a length that cannot be":        {"true", []exchange{sentBytes("Q\x00\x00\x00\x03")}},
			"slots": {"true", queries(physicalSlot, physicalSlot, "READ_REPLICATION_SLOT p", "DROP_REPLICATION_SLOT p", "DROP_REPLICATION_SLOT p",
				logicalSlot, "CREATE_REPLICATION_SLOT \"-\" TEMPORARY PHYSICAL")},
			"slots, logical": {"database", queries(logicalSlot, "READ_REPLICATION_SLOT l", "DROP_REPLICATION_SLOT l", "CREATE_REPLICATION_SLOT x TEMPORARY LOGICAL nosuch",
				"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "CREATE_REPLICATION_SLOT u TEMPORARY LOGICAL test_decoding USE_SNAPSHOT", "SELECT 1", "COMMIT")},
			"a base backup":                {"true", []exchange{ready(1, query("BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast', MANIFEST 'no')")), ready(1, query("IDENTIFY_SYSTEM"))}},
			"a base backup of nothing":     {"true", queries("BASE_BACKUP (LABEL 'x', TARGET 'nosuch')", "IDENTIFY_SYSTEM")},
			"physical":                     {"true", []exchange{flushed(1, 'W', physically), sent(status(0, 0)), ready(1, copyDone), ready(1, query("IDENTIFY_SYSTEM"))}},
			"physical, byte by byte":       {"true", []exchange{dripping(flushed(1, 'W', physically)), dripping(sent(status(0, 1))), dripping(ready(1, copyDone))}},
			"physical, twice":              {"true", []exchange{flushed(1, 'W', physically), ready(1, copyDone), flushed(1, 'W', physically), ready(2, copyDone, query("SHOW wal_segment_size"))}},
			"physical, in one write":       {"true", []exchange{ready(2, physically, status(0, 0), copyDone, query("SHOW wal_segment_size"))}},
			"physical, from the future":    {"true", queries("START_REPLICATION PHYSICAL FFFF/0", "START_REPLICATION SLOT nosuch PHYSICAL "+here, "IDENTIFY_SYSTEM")},
			"physical, of another history": {"true", queries("START_REPLICATION PHYSICAL "+here+" TIMELINE 7", "IDENTIFY_SYSTEM")},
			"physical, with a Query in it": {"true", []exchange{flushed(1, 'W', physically), ended(query("IDENTIFY_SYSTEM"))}},
			"physical, with a Sync in it":  {"true", []exchange{flushed(1, 'W', physically), ended(synchronize)}},
			"physical, failed":             {"true", []exchange{flushed(1, 'W', physically), ended(copyFail)}},
			"physical, with odd data":      {"true", []exchange{flushed(1, 'W', physically), ended(data("?"))}},
			"physical, left":               {"true", []exchange{flushed(1, 'W', physically), ended(terminate)}},
			"logical": {"database", append(queries(logicalSlot, emit, rollback, emit),
				streamed(6, logically), ready(1, status(0, 0), copyDone), ready(1, query("SELECT 1")))},
			"logical, twice": {"database", append(queries(logicalSlot, emit), streamed(3, logically), ready(1, copyDone),
				ready(1, logically), ready(1, query(emit)))}, // the server itself does not stream to it again
			"logical, wrong options":  {"database", append(queries(logicalSlot), queries("START_REPLICATION SLOT l LOGICAL 0/0 (nosuch 'x')", "SELECT 1")...)},
			"logical, without a slot": {"database", queries("START_REPLICATION SLOT nosuch LOGICAL 0/0", "SELECT 1")},
		}
	}
	for name, kind := range dialogues("") {
		t.Run(name, func(t *testing.T) {
			run := func(dsn string) [][]pgtest.Message {
				script := dialogues(value(t, pg, "SELECT pg_current_wal_flush_lsn()"))[name].script
				c := pgtest.Connect(t, dsn)
				defer c.Close()
				return scenario{script: script}.run(c, func([]pgtest.Message) {})
			}
			want := run(pg.DSN() + "&replication=" + kind.replication)
			awaitValue(t, pg, walsenders, "0") // its slots are gone
			got := run(w.dsn("replication=" + kind.replication))
			for i := range want {
				pgtest.Compare(t, steady(kind.replication, want[i]), steady(kind.replication, got[i]))
				if t.Failed() {
					t.Fatalf("in exchange %d", i)
				}
			}
			w.eventually("nothing is left of it", func() bool { return w.Stats().Resources[0].Servers["closing"]+w.servers("used")+w.servers("idle") == 0 })
			awaitValue(t, pg, walsenders, "0")
		})
	}
}

// What a replication client is told at login is its own server connection's, with its own startup parameters.
func TestReplicationIsGreetedByItsOwnServer(t *testing.T) {
	pg := replicated(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{mode: postgres.Session})
	for _, replication := range []string{"true", "database"} {
		params := []string{"replication=" + replication, "application_name=standby", "DateStyle=German", "options='-c work_mem=1MB -c weir.priority=batch'"}
		direct := pgtest.Connect(t, pg.DSN()+"&replication="+replication+"&application_name=standby&DateStyle=German")
		c := w.client(params...)
		for name, want := range direct.Parameters {
			if got := c.Parameters[name]; got != want {
				t.Errorf("replication=%s: %s is %q, the server says %q", replication, name, got, want)
			}
		}
		if len(c.Parameters) != len(direct.Parameters) {
			t.Errorf("replication=%s: %d parameters, the server tells %d", replication, len(c.Parameters), len(direct.Parameters))
		}
		if got := pgtest.Rows(c.Query("SHOW work_mem")); len(got) != 1 || got[0] != "1MB" {
			t.Errorf("replication=%s: work_mem is %q", replication, got)
		}
		direct.Close()
		c.Close()
	}
}

func TestReplicationIsRefusedWhereItCannotBe(t *testing.T) {
	pg := replicated(t)
	small := pgtest.Start(t, pgtest.Config{Settings: []string{"max_wal_senders = 1", "wal_level = logical"}})
	mustExec(t, small, "ALTER ROLE app REPLICATION")
	pgtest.NoLeaks(t)
	nobody := strings.Replace(pg.DSN(), "app:app-secret", "legacy:legacy-secret", 1)
	forbidden := pgtest.Start(t, pgtest.Config{HBA: []string{"host replication all all reject"}})
	tests := map[string]struct {
		settings          settings
		params            string
		sqlstate, message string
	}{
		"pool mode transaction":         {settings{mode: postgres.Transaction}, "replication=true", "0A000", "pool mode transaction"},
		"pool mode statement":           {settings{mode: postgres.Statement}, "replication=database", "0A000", "pool mode statement"},
		"a user who may not":            {settings{mode: postgres.Session, upstream: nobody}, "replication=true", "42501", "must be superuser or replication role to start walsender"},
		"a server that does not let in": {settings{mode: postgres.Session, upstream: forbidden.DSN()}, "replication=true", "28000", "does not accept a replication connection"},
		"a wrong parameter":             {settings{mode: postgres.Session}, "replication=true geqo=maybe", "22023", "parameter \"geqo\" requires a Boolean value"},
		"an unknown database":           {settings{mode: postgres.Session}, "replication=true dbname=replication", "3D000", "does not exist"},
		"no walsender left":             {settings{mode: postgres.Session, upstream: small.DSN()}, "replication=true", "53300", "number of requested standby connections exceeds max_wal_senders (currently 1)"},
	}
	occupant := pgtest.Connect(t, small.DSN()+"&replication=true")
	defer occupant.Close()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.settings.pool.Connect = 2 * time.Second
			w := start(t, test.settings)
			_, err := pgtest.TryConnect(t, w.dsn(test.params), pgtest.Protocol30)
			var refused *pgtest.LoginError
			if !errors.As(err, &refused) {
				t.Fatalf("the login ends with %v", err)
			}
			e := refused.Response
			if e.Field('S') != "FATAL" || e.Field('C') != test.sqlstate || !strings.Contains(e.Field('M'), test.message) {
				t.Errorf("refused with %v", e)
			}
			if test.sqlstate == "0A000" && e.Field('H') != "use pool_mode: session" {
				t.Errorf("the hint is %q", e.Field('H'))
			}
			if test.sqlstate == "3D000" && !strings.Contains(e.Field('H'), "replication") {
				t.Errorf("the hint is %q", e.Field('H'))
			}
			w.eventually("its place in the budget is free", func() bool { return w.servers("dialing")+w.servers("used") == 0 })
		})
	}
}

// A replication connection is one of the budget: it waits in the queue of all, takes the place of one that is idle, and is
// never lent to anyone else.
func TestReplicationKeepsWithinTheBudget(t *testing.T) {
	pg := replicated(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{mode: postgres.Session, servers: 1, queue: limiter.Queue{Wait: time.Second, Length: 1}})
	backends := "SELECT count(*) <= 1 FROM pg_stat_activity WHERE usename = 'app'"
	login := func() *pgtest.Client {
		c := pgtest.Dial(t, w.addr)
		c.SendBytes(asking(database, "true"))
		return c
	}
	refused := func(c *pgtest.Client, reason *proxy.Reason) {
		t.Helper()
		e := c.Expect('E')
		if e.Field('S') != "FATAL" || e.Field('C') != reason.SQLSTATE || e.Field('M') != reason.Message {
			t.Errorf("the login ends with %v, want %s", e, reason.Label)
		}
	}
	ordinary := w.client()
	ordinary.Query("SELECT 1")
	ordinary.Close()
	w.eventually("its server connection is idle", func() bool { return w.servers("idle") == 1 })

	c := w.client("replication=true") // in the place of the idle one
	if idle, used := w.servers("idle"), w.servers("used"); idle != 0 || used != 1 {
		t.Errorf("%d idle and %d used, want 0 and 1", idle, used)
	}
	awaitValue(t, pg, backends, "t")

	late := login()
	w.eventually("it waits", func() bool { return w.Stats().Resources[0].Waiting == 1 })
	refused(login(), proxy.QueueFull)
	refused(late, proxy.QueueTimeout)

	impatient := login()
	w.eventually("it waits", func() bool { return w.Stats().Resources[0].Waiting == 1 })
	impatient.Close()
	w.eventually("who leaves leaves the queue", func() bool { return w.Stats().Resources[0].Waiting == 0 })

	patient := w.client()
	patient.Send(query("SELECT pg_backend_pid()"))
	w.eventually("it waits", func() bool { return w.Stats().Resources[0].Waiting == 1 })
	c.Close()
	if got := pgtest.Rows(patient.UntilReady(1)); len(got) != 1 {
		t.Errorf("who waits for the place gets %q", got)
	}
	awaitValue(t, pg, walsenders, "0")
	next := login()
	w.eventually("it waits", func() bool { return w.Stats().Resources[0].Waiting == 1 })
	patient.Close()
	next.UntilReady(1)
	awaitValue(t, pg, backends, "t")
}

// logical is a client in the middle of a stream, and its slot.
func logical(tb testing.TB, w *weir) *pgtest.Client {
	tb.Helper()
	c := w.client("replication=database")
	c.Query("CREATE_REPLICATION_SLOT l TEMPORARY LOGICAL test_decoding")
	c.Send(query(`START_REPLICATION SLOT l LOGICAL 0/0 ("include-xids" '0')`))
	c.UntilType('W')
	return c
}

// physical is a client in the middle of a stream.
func physical(tb testing.TB, w *weir, pg *pgtest.Postgres) *pgtest.Client {
	tb.Helper()
	c := w.client("replication=true")
	c.Send(query("START_REPLICATION PHYSICAL " + value(tb, pg, "SELECT pg_current_wal_flush_lsn()")))
	c.UntilType('W')
	return c
}

// Time does not end a stream; what passed of it shows in others.
func TestTimeoutsDoNotEndAStream(t *testing.T) {
	pg := replicated(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{mode: postgres.Session, timeouts: postgres.Timeouts{
		Query: 50 * time.Millisecond, ClientIdle: 300 * time.Millisecond, IdleInTransaction: 300 * time.Millisecond,
	}})
	stream := logical(t, w)
	open := w.client("replication=database")
	open.Query("BEGIN")
	if got := lastError(open.UntilClosed()); got != "25P03" {
		t.Errorf("who is silent in a transaction is sent away with %q", got)
	}
	idle := w.client()
	if got := lastError(idle.Query("SELECT pg_sleep(10)")); got != "57014" {
		t.Errorf("a query of ten seconds ends with %q", got)
	}
	if got := lastError(idle.UntilClosed()); got != "57P05" {
		t.Errorf("who is silent is sent away with %q", got)
	}
	mustExec(t, pg, "SELECT pg_logical_emit_message(true, 'weir', 'still here')")
	stream.Until(func(m pgtest.Message) bool { return bytes.Contains(m.Body, []byte("still here")) })
	stream.Send(copyDone)
	stream.UntilReady(1)
	if got := lastError(stream.UntilClosed()); got != "57P05" {
		t.Errorf("who is silent between commands is sent away with %q", got)
	}
}

func TestShutdownEndsStreamsAtOnce(t *testing.T) {
	pg := replicated(t)
	for name, stream := range map[string]func(*weir) *pgtest.Client{
		"idle":     func(w *weir) *pgtest.Client { return w.client("replication=true") },
		"physical": func(w *weir) *pgtest.Client { return physical(t, w, pg) },
		"logical":  func(w *weir) *pgtest.Client { return logical(t, w) },
		"a slow reader's": func(w *weir) *pgtest.Client {
			c := w.client("replication=true", "application_name=slow")
			from := muchLog(t, pg)
			c.Send(query("START_REPLICATION PHYSICAL " + from))
			c.UntilType('W')
			awaitValue(t, pg, sentMore(from), "t")
			return c
		},
		"TLS": func(w *weir) *pgtest.Client {
			c := w.client("replication=true", "sslmode=require")
			c.Send(query("START_REPLICATION PHYSICAL " + value(t, pg, "SELECT pg_current_wal_flush_lsn()")))
			c.UntilType('W')
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			w := start(t, settings{mode: postgres.Session, tls: certificate(t, "prefer")})
			c := stream(w)
			began := time.Now()
			over := w.shutdown(t, 10*time.Second)
			farewell(t, steady("true", c.UntilClosed()))
			c.Close()
			if err := <-over; err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("it took %v", took)
			}
			awaitValue(t, pg, walsenders, "0")
		})
	}
}

// A backup has an end that is worth waiting for; when there is no time for that, it is stopped.
func TestShutdownInTheMiddleOfABackup(t *testing.T) {
	pg := replicated(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{mode: postgres.Session})
	patient := w.client("replication=true")
	patient.Send(query("BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast', MANIFEST 'no')"))
	patient.UntilType('H')
	deaf := w.client("replication=true")
	if err := deaf.Conn().(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	deaf.Send(query("BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast', MANIFEST 'no')"))
	deaf.UntilType('H')
	over := w.shutdown(t, 2*time.Second)
	patient.UntilReady(1)
	farewell(t, patient.UntilClosed())
	patient.Close()
	if err := <-over; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown returned %v", err)
	}
	awaitValue(t, pg, walsenders, "0")
	deaf.Close()
}

func TestCancelEndsAStream(t *testing.T) {
	pg := replicated(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{mode: postgres.Session})
	for name, c := range map[string]*pgtest.Client{"physical": physical(t, w, pg), "logical": logical(t, w)} {
		c.Cancel()
		if got := lastError(c.UntilReady(1)); got != "57014" {
			t.Errorf("%s: cancelled with %q", name, got)
		}
		c.Cancel() // nothing to cancel
		if got := pgtest.Types(c.Query("IDENTIFY_SYSTEM")); got != "TDCZ" {
			t.Errorf("%s: then answered %s", name, got)
		}
		c.Close()
	}
}

// A client that leaves takes its server connection with it, whatever that is doing.
func TestReplicationEndsWithItsClient(t *testing.T) {
	pg := replicated(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{mode: postgres.Session})
	for how, leave := range ways {
		for name, begin := range map[string]func() *pgtest.Client{
			"idle":     func() *pgtest.Client { return w.client("replication=true") },
			"physical": func() *pgtest.Client { return physical(t, w, pg) },
			"logical":  func() *pgtest.Client { return logical(t, w) },
			"asleep": func() *pgtest.Client {
				c := w.client("replication=database")
				c.Send(query("SELECT pg_sleep(60)"))
				awaitSleep(t, pg)
				return c
			},
			"within a message": func() *pgtest.Client {
				c := physical(t, w, pg)
				c.SendBytes([]byte("d\x00\x00\x00\x26r"))
				return c
			},
			"a backup": func() *pgtest.Client {
				c := w.client("replication=true")
				c.Send(query("BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast')"))
				c.UntilType('H')
				return c
			},
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				leave(begin())
				awaitValue(t, pg, walsenders, "0")
				w.eventually("its place is free", func() bool { return w.servers("used")+w.servers("closing")+w.servers("idle") == 0 })
			})
		}
	}
}

// muchLog writes far more than sockets hold, and returns where it begins.
func muchLog(tb testing.TB, pg *pgtest.Postgres) (from string) {
	tb.Helper()
	from = value(tb, pg, "SELECT pg_current_wal_flush_lsn()")
	mustExec(tb, pg, "CREATE TABLE much AS SELECT repeat('x', 1000) FROM generate_series(1, 60000); DROP TABLE much; SELECT pg_switch_wal()")
	return from
}

// sentMore asks whether the client slow has been sent something.
func sentMore(from string) string {
	return "SELECT coalesce(max(sent_lsn), '0/0') > '" + from + "' FROM pg_stat_replication WHERE application_name = 'slow'"
}

// Close may come while anything is going on, a login that waits for its server connection included.
func TestCloseAtAnyTimeOfAReplication(t *testing.T) {
	pg := replicated(t)
	begin := []func(*pgconn.PgConn) *pgconn.MultiResultReader{
		func(c *pgconn.PgConn) *pgconn.MultiResultReader { return c.Exec(t.Context(), "IDENTIFY_SYSTEM") },
		func(c *pgconn.PgConn) *pgconn.MultiResultReader { return c.Exec(t.Context(), "SELECT pg_sleep(0.01)") },
		func(c *pgconn.PgConn) *pgconn.MultiResultReader {
			return c.Exec(t.Context(), "CREATE_REPLICATION_SLOT any TEMPORARY PHYSICAL RESERVE_WAL")
		},
	}
	for i := range 10 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			pgtest.NoLeaks(t)
			w := start(t, settings{mode: postgres.Session, servers: 3, tls: certificate(t, "prefer"), queue: limiter.Queue{Wait: 50 * time.Millisecond}})
			var clients gosync.WaitGroup
			for n := range 8 {
				clients.Go(func() {
					for w.Ready() == nil {
						params := []string{[]string{"sslmode=disable", "sslmode=require"}[n%2]}
						if n%4 > 0 {
							params = append(params, "replication=database")
						}
						conn, err := pgconn.Connect(context.Background(), w.dsn(params...))
						if err != nil {
							continue // the budget is full, most likely
						}
						_, _ = begin[rand.IntN(len(begin))](conn).ReadAll()
						if rand.IntN(2) == 0 {
							streaming(conn)
						}
						_ = conn.Close(context.Background())
					}
				})
			}
			w.closeAtAnyTime(t, &clients)
			awaitValue(t, pg, walsenders, "0")
		})
	}
}

// streaming begins a stream and takes a message or two of it.
func streaming(conn *pgconn.PgConn) {
	_ = conn.Conn().SetDeadline(time.Now().Add(time.Second))
	conn.Frontend().Send(&pgproto3.Query{String: "START_REPLICATION PHYSICAL 0/1000000"})
	if conn.Frontend().Flush() == nil {
		for range 1 + rand.IntN(5) {
			if _, err := conn.Frontend().Receive(); err != nil {
				return
			}
		}
	}
}

// Trap 57: COPY BOTH flows both ways at once. A client that does not read holds up its own walsender, which still hears how
// far the client has come.
func TestASlowReaderHoldsUpItsWalsender(t *testing.T) {
	pg := replicated(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{mode: postgres.Session, sendBuffer: 64 << 10})
	from := muchLog(t, pg)
	to := value(t, pg, "SELECT pg_current_wal_flush_lsn() - '0/0'")
	position := value(t, pg, fmt.Sprintf("SELECT '%s'::pg_lsn - '0/0'", from))

	c := w.client("replication=true", "application_name=slow")
	if err := c.Conn().(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	before := heap()
	c.Send(query("START_REPLICATION PHYSICAL " + from))
	c.UntilType('W')
	awaitValue(t, pg, sentMore(from), "t")
	var reached uint64
	if _, err := fmt.Sscan(position, &reached); err != nil {
		t.Fatal(err)
	}
	c.Send(status(reached, 0))
	awaitValue(t, pg, "SELECT flush_lsn = '"+from+"' FROM pg_stat_replication WHERE application_name = 'slow'", "t")
	awaitValue(t, pg, "SELECT sent_lsn - '0/0' < "+to+" FROM pg_stat_replication WHERE application_name = 'slow'", "t")
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("weir holds %d bytes of the stream", grown)
	}
	var target uint64
	if _, err := fmt.Sscan(to, &target); err != nil {
		t.Fatal(err)
	}
	for reached < target { // nothing is missing
		m := c.Expect('d')
		if m.Body[0] != 'w' {
			continue
		}
		if at := binary.BigEndian.Uint64(m.Body[1:]); at > reached {
			t.Fatalf("a gap from %x to %x", reached, at)
		}
		reached = binary.BigEndian.Uint64(m.Body[1:]) + uint64(len(m.Body)-25)
	}
	c.Close()
}

// tool runs one of PostgreSQL's own programs through w.
func (w *weir) tool(tb testing.TB, pg *pgtest.Postgres, name string, args ...string) string {
	tb.Helper()
	host, port, _ := net.SplitHostPort(w.addr)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, pg.Program(name), args...)
	cmd.Env = append(os.Environ(), "PGHOST="+host, "PGPORT="+port, "PGUSER=app", "PGPASSWORD=client-secret", "PGSSLMODE=disable", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// forTools is a weir for programs that ask for the database "replication" and nothing else.
func forTools(tb testing.TB, address string) *weir {
	return start(tb, settings{
		mode: postgres.Session, database: "replication", address: address,
		method: auth.SCRAM, users: map[string]string{"app": "client-secret"},
	})
}

func TestPostgresOwnToolsReplicateThroughWeir(t *testing.T) {
	pg := replicated(t)
	pgtest.NoLeaks(t)
	w := forTools(t, "")
	secured := start(t, settings{
		mode: postgres.Session, database: "replication", tls: certificate(t, "require"),
		upstream: strings.Replace(pg.DSN(), "sslmode=disable", "sslmode=require&target_session_attrs=read-write", 1),
	})

	t.Run("pg_basebackup", func(t *testing.T) { // which has a second connection for the log
		dir := filepath.Join(t.TempDir(), "backup")
		w.tool(t, pg, "pg_basebackup", "-D", dir, "-X", "stream", "-c", "fast", "--no-sync")
		w.tool(t, pg, "pg_verifybackup", dir)
	})
	t.Run("pg_basebackup over TLS", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "backup")
		secured.tool(t, pg, "pg_basebackup", "-D", dir, "-X", "stream", "-c", "fast", "--no-sync", "-d", "sslmode=require")
		secured.tool(t, pg, "pg_verifybackup", dir)
	})
	t.Run("pg_basebackup of tar files", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "backup")
		w.tool(t, pg, "pg_basebackup", "-D", dir, "-F", "tar", "-z", "-X", "fetch", "-c", "fast", "--no-sync")
	})
	t.Run("pg_receivewal", func(t *testing.T) {
		dir := t.TempDir()
		w.tool(t, pg, "pg_receivewal", "-D", dir, "-S", "received", "--create-slot")
		defer w.tool(t, pg, "pg_receivewal", "-S", "received", "--drop-slot")
		for range 2 { // the second time it goes on from its own files, over the end of a segment
			end := value(t, pg, "SELECT pg_current_wal_insert_lsn()")
			mustExec(t, pg, "SELECT pg_logical_emit_message(true, 'weir', 'behind the end')")
			w.tool(t, pg, "pg_receivewal", "-D", dir, "-S", "received", "--endpos", end, "--no-loop", "--no-sync")
			mustExec(t, pg, "SELECT pg_switch_wal()")
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
			t.Errorf("received %v, %v; want two segments", files, err)
		}
	})
	t.Run("pg_recvlogical", func(t *testing.T) {
		slot := []string{"-d", "replication", "-S", "decoded"}
		w.tool(t, pg, "pg_recvlogical", append(slot, "--create-slot", "-P", "test_decoding")...)
		defer w.tool(t, pg, "pg_recvlogical", append(slot, "--drop-slot")...)
		mustExec(t, pg, "DROP TABLE IF EXISTS decoded; CREATE TABLE decoded (v text); INSERT INTO decoded VALUES ('one'), ('two'); DELETE FROM decoded")
		end := value(t, pg, "SELECT pg_current_wal_insert_lsn()")
		mustExec(t, pg, "SELECT pg_logical_emit_message(true, 'weir', 'behind the end')")
		out := w.tool(t, pg, "pg_recvlogical", append(slot, "--start", "--no-loop", "--endpos", end, "-f", "-")...)
		if !strings.Contains(out, "INSERT: v[text]:'one'") || !strings.Contains(out, "INSERT: v[text]:'two'") {
			t.Errorf("decoded:\n%s", out)
		}
	})
	awaitValue(t, pg, walsenders, "0")
}

// A standby is copied and follows, and a weir that ends takes nothing from it: it comes back through the next one.
func TestAStandbyThroughWeir(t *testing.T) {
	pg := replicated(t)
	pgtest.NoLeaks(t)
	w := forTools(t, "")
	host, port, _ := net.SplitHostPort(w.addr)
	standby := pgtest.Start(t, pgtest.Config{
		Primary: fmt.Sprintf("host=%s port=%s user=app password=client-secret sslmode=disable", host, port), MaxConnections: 200,
		Settings: []string{"wal_retrieve_retry_interval = '10ms'"},
	})
	mustExec(t, pg, "CREATE TABLE followed AS SELECT i FROM generate_series(1, 1000) i")
	defer mustExec(t, pg, "DROP TABLE followed")
	awaitValue(t, standby, "SELECT to_regclass('followed') IS NOT NULL", "t")
	awaitValue(t, standby, "SELECT count(*) FROM followed", "1000")
	if got := w.servers("used"); got != 1 {
		t.Errorf("%d server connections are used, want the standby's", got)
	}
	if err := w.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	mustExec(t, pg, "DELETE FROM followed WHERE i > 10")
	forTools(t, w.addr)
	awaitValue(t, standby, "SELECT count(*) FROM followed", "10")

	// Of several servers it is the one that target_session_attrs names, whose question no physical walsender answers.
	for attrs, wanted := range map[string]*pgtest.Postgres{"primary": pg, "read-write": pg, "standby": standby, "prefer-standby": standby} {
		several := start(t, settings{mode: postgres.Session, upstream: fmt.Sprintf(
			"postgres://app:app-secret@%s,%s/app?sslmode=disable&target_session_attrs=%s", pg.Addr(), standby.Addr(), attrs)})
		for _, replication := range []string{"true", "database"} {
			c := several.client("replication="+replication, "application_name=wanted")
			awaitValue(t, wanted, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'wanted' AND backend_type = 'walsender'", "1")
			c.Close()
		}
	}
}

// A subscriber copies its tables over connections of their own, and then follows.
func TestASubscriptionThroughWeir(t *testing.T) {
	pg := replicated(t)
	subscriber := pgtest.Start(t, pgtest.Config{})
	pgtest.NoLeaks(t)
	w := forTools(t, "")
	host, port, _ := net.SplitHostPort(w.addr)
	const table = "CREATE TABLE followed (id int PRIMARY KEY, v text)"
	mustExec(t, pg, table+"; INSERT INTO followed SELECT i, 'first' FROM generate_series(1, 1000) i; CREATE PUBLICATION followed FOR TABLE followed; GRANT SELECT ON followed TO app")
	defer mustExec(t, pg, "DROP PUBLICATION followed; DROP TABLE followed")
	mustExec(t, subscriber, table)
	mustExec(t, subscriber, fmt.Sprintf("CREATE SUBSCRIPTION followed CONNECTION 'host=%s port=%s dbname=replication user=app password=client-secret sslmode=disable' PUBLICATION followed", host, port))
	awaitValue(t, subscriber, "SELECT count(*) FROM followed WHERE v = 'first'", "1000")
	mustExec(t, pg, "UPDATE followed SET v = 'second' WHERE id > 400; DELETE FROM followed WHERE id <= 100")
	awaitValue(t, subscriber, "SELECT count(*) FILTER (WHERE v = 'second') || ' of ' || count(*) FROM followed", "600 of 900")
	mustExec(t, subscriber, "DROP SUBSCRIPTION followed")
	awaitValue(t, pg, walsenders, "0")
}
