package postgres_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// exchange is something to send, in one write, and how much of an answer to await.
type exchange struct {
	wire  []byte
	until func() func(pgtest.Message) bool // nil: do not wait
	drip  bool                             // byte by byte instead
	ends  bool                             // the connection is closed behind the answer
}

// scenario is what a client does. The only expectation is that a proxy makes no difference.
type scenario struct {
	setup  []string // SQL for another client to run before, straight
	script []exchange
	keeps  bool // a server connection, though nothing pins the session: what the server will answer was not certain
	loose  bool // where the connection ends, weir speaks for the server: severity, SQLSTATE and text are the same
}

type frontend = pgproto3.FrontendMessage

// ready sends messages and awaits n ReadyForQuery.
func ready(n int, messages ...frontend) exchange {
	return exchange{wire: pgtest.Encode(messages...), until: func() func(pgtest.Message) bool {
		left := n
		return func(m pgtest.Message) bool {
			if m.Type == 'Z' {
				left--
			}
			return left == 0
		}
	}}
}

// flushed sends messages and awaits the nth message of a type.
func flushed(n int, kind byte, messages ...frontend) exchange {
	return exchange{wire: pgtest.Encode(messages...), until: func() func(pgtest.Message) bool {
		left := n
		return func(m pgtest.Message) bool {
			if m.Type == kind {
				left--
			}
			return left == 0
		}
	}}
}

// sent sends messages and awaits nothing.
func sent(messages ...frontend) exchange { return exchange{wire: pgtest.Encode(messages...)} }

// sentBytes sends bytes that are no message, behind messages, and awaits the end of the connection.
func sentBytes(wire string, messages ...frontend) exchange {
	return exchange{wire: append(pgtest.Encode(messages...), wire...), ends: true}
}

// ended sends messages and awaits the end of the connection.
func ended(messages ...frontend) exchange {
	return exchange{wire: pgtest.Encode(messages...), ends: true}
}

// dripping sends byte by byte.
func dripping(e exchange) exchange {
	e.drip = true
	return e
}

// queries are one exchange each.
func queries(sql ...string) (all []exchange) {
	for _, q := range sql {
		all = append(all, ready(1, query(q)))
	}
	return all
}

func query(sql string) frontend       { return &pgproto3.Query{String: sql} }
func parse(name, sql string) frontend { return &pgproto3.Parse{Name: name, Query: sql} }
func bind(portal, name string) frontend {
	return &pgproto3.Bind{DestinationPortal: portal, PreparedStatement: name}
}

func describe(kind byte, name string) frontend {
	return &pgproto3.Describe{ObjectType: kind, Name: name}
}

func execute(portal string, rows uint32) frontend {
	return &pgproto3.Execute{Portal: portal, MaxRows: rows}
}

func closing(kind byte, name string) frontend { return &pgproto3.Close{ObjectType: kind, Name: name} }
func data(s string) frontend                  { return &pgproto3.CopyData{Data: []byte(s)} }
func bindTo(name string, parameters ...string) frontend {
	b := &pgproto3.Bind{PreparedStatement: name}
	for _, p := range parameters {
		b.Parameters = append(b.Parameters, []byte(p))
	}
	return b
}

var (
	synchronize frontend = &pgproto3.Sync{}
	flush       frontend = &pgproto3.Flush{}
	terminate   frontend = &pgproto3.Terminate{}
	copyDone    frontend = &pgproto3.CopyDone{}
	copyFail    frontend = &pgproto3.CopyFail{Message: "changed my mind"}
)

// run plays the script and returns what came back, one list for each exchange.
func (s scenario) run(c *pgtest.Client, between func(last []pgtest.Message)) (answers [][]pgtest.Message) {
	return s.play(exchange.say, c, between)
}

// way is one to say and hear an exchange: say or sayApart.
type way func(e exchange, c *pgtest.Client, between func(last []pgtest.Message)) []pgtest.Message

func (s scenario) play(way way, c *pgtest.Client, between func(last []pgtest.Message)) (answers [][]pgtest.Message) {
	for _, e := range s.script {
		got := way(e, c, between)
		for i := range got {
			got[i] = s.comparable(got[i])
		}
		answers = append(answers, got)
		between(got)
	}
	return answers
}

// say sends all there is and hears the answer.
func (e exchange) say(c *pgtest.Client, _ func([]pgtest.Message)) []pgtest.Message {
	e.send(c, e.wire)
	switch {
	case e.ends:
		return c.UntilClosed()
	case e.until != nil:
		return c.Until(e.until())
	}
	return nil
}

func (e exchange) send(c *pgtest.Client, wire []byte) {
	if !e.drip {
		c.SendBytes(wire)
		return
	}
	for i := range wire {
		c.SendBytes(wire[i : i+1])
	}
}

// patience is how long sayApart waits for an answer that may not come: COPY, and what is skipped after an error, have none.
const patience = 30 * time.Millisecond

// sayApart sends each message that may end a transaction only when those before it are answered, so that something can come
// between any two transactions, and not only between two exchanges.
func (e exchange) sayApart(c *pgtest.Client, between func([]pgtest.Message)) (got []pgtest.Message) {
	heard := func(pgtest.Message) bool { return false }
	if e.until != nil {
		heard = e.until()
	}
	done := e.until == nil && !e.ends
	hear := func() pgtest.Message {
		m := c.Receive()
		got = append(got, m)
		done = heard(m)
		return m
	}
	pieces, behind := e.apart(), false
	for _, piece := range pieces[:len(pieces)-1] {
		e.send(c, piece)
		answered := false
		for !answered && !done && c.Arrives(patience) {
			switch m := hear(); {
			case m.Type == 'E' && m.Field('V') == "FATAL":
				return append(got, c.UntilClosed()...)
			case m.Type == 'Z':
				answered = true
				if !behind {
					between(got)
				}
			case m.Type == 'G':
				answered = true
			}
		}
		behind = behind || !answered // what comes from now on may be the answer to this
	}
	e.send(c, pieces[len(pieces)-1])
	if e.ends {
		return append(got, c.UntilClosed()...)
	}
	for !done {
		hear()
	}
	return got
}

// apart cuts what is sent behind each message that may end a transaction.
func (e exchange) apart() (pieces [][]byte) {
	from := 0
	for at := 0; at+5 <= len(e.wire); {
		kind, length := e.wire[at], int(binary.BigEndian.Uint32(e.wire[at+1:]))
		at += 1 + length
		if length < 4 || at >= len(e.wire) { // what cannot be, or the last one
			break
		}
		if bytes.IndexByte([]byte("QSFcf"), kind) >= 0 {
			pieces = append(pieces, e.wire[from:at])
			from = at
		}
	}
	return append(pieces, e.wire[from:])
}

// comparable leaves out what differs between two sessions whatever is between client and server.
func (s scenario) comparable(m pgtest.Message) pgtest.Message {
	switch {
	case m.Type == 'A': // the process that notified
		m.Body = append([]byte("pid:"), m.Body[4:]...)
	case m.Type == 'E' && m.Field('S') == "FATAL" && s.loose:
		m.Body = fmt.Appendf(nil, "%s %s %s", m.Field('V'), m.Field('C'), m.Field('M'))
	}
	return m
}

// route is a way to the server.
type route struct {
	name    string
	connect func(tb testing.TB) *pgtest.Client
	// play has a client play a scenario.
	play func(tb testing.TB, s scenario, c *pgtest.Client) [][]pgtest.Message
}

func routes(tb testing.TB, pg *pgtest.Postgres) []route {
	through := func(name string, c settings) (route, *weir) {
		c.upstream = pg.DSN()
		w := start(tb, c)
		return route{name, func(tb testing.TB) *pgtest.Client { return pgtest.Connect(tb, w.dsn()) }, straight}, w
	}
	transaction, _ := through("transaction", settings{})
	session, _ := through("session", settings{mode: postgres.Session})
	one, _ := through("one server", settings{servers: 1})
	together, two := through("switched", settings{servers: 2})
	apart, other := through("switched, one by one", settings{servers: 2})
	together.play, apart.play = switched(two, exchange.say), switched(other, exchange.sayApart)
	return []route{transaction, session, one, together, apart}
}

func straight(_ testing.TB, s scenario, c *pgtest.Client) [][]pgtest.Message {
	return s.run(c, func([]pgtest.Message) {})
}

// switched plays a scenario over a weir of two server connections so that each transaction gets another one than the one
// before, unless weir says why the session keeps it.
func switched(w *weir, way way) func(testing.TB, scenario, *pgtest.Client) [][]pgtest.Message {
	return func(tb testing.TB, s scenario, c *pgtest.Client) [][]pgtest.Message {
		return s.play(way, c, occupy(tb, w).between(s.keeps))
	}
}

// switching makes the client of a weir of two server connections get another one for each of its transactions. What it returns is
// to be called between exchanges.
func switching(tb testing.TB, w *weir) func([]pgtest.Message) { return occupy(tb, w).between(false) }

// strangers keep a client from the server connection that it just had, and leave statements of its names on it.
type strangers struct {
	tb     testing.TB
	w      *weir
	holder *pgtest.Client // of the connection that the client did not have
}

func occupy(tb testing.TB, w *weir) *strangers {
	s := &strangers{tb: tb, w: w}
	s.holder = s.hold()
	return s
}

// hold takes the one connection that is free.
func (s *strangers) hold() *pgtest.Client {
	h := pgtest.Connect(s.tb, s.w.dsn())
	h.Send(query("BEGIN"), parse("", "SELECT 'a stranger''s'"), parse("s", "SELECT 'a stranger''s s'"), parse("t", "SELECT 'a stranger''s t'"), synchronize)
	if got := pgtest.Types(h.UntilReady(2)); got != "CZ111Z" {
		s.tb.Errorf("on the connection that the client had, a stranger is answered %s", got)
	}
	return h
}

// between takes the client's server connection over whenever an answer ends a transaction.
func (s *strangers) between(keeps bool) func(last []pgtest.Message) {
	return func(last []pgtest.Message) {
		if n := len(last); n > 0 && last[n-1].Type == 'Z' && last[n-1].Body[0] == 'I' && s.mayTakeOver(keeps) {
			s.takeOver()
		}
	}
}

// mayTakeOver waits until the client has given its server connection back, and reports whether it has: a session may be pinned, or
// keep it for another reason.
func (s *strangers) mayTakeOver(keeps bool) bool {
	if keeps {
		return soon(s.free)
	}
	s.w.in(s.tb).eventually("the client gives its server connection back, or is pinned", func() bool { return s.free() || len(s.w.pinned()) > 0 })
	return s.free()
}

func (s *strangers) free() bool { return s.w.servers("used") == 1 }

// takeOver leaves the client the other connection.
func (s *strangers) takeOver() {
	last := s.holder
	s.holder = s.hold()
	last.Query("COMMIT")
	last.Send(terminate)
	last.UntilClosed()
}

// soon waits a little for something that need not come.
func soon(is func() bool) bool {
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// compare runs each scenario straight and over each route, with each PostgreSQL.
func compare(t *testing.T, scenarios map[string]scenario) {
	t.Helper()
	pgtest.Each(t, func(t *testing.T, pg *pgtest.Postgres) {
		setup := pgtest.Connect(t, pg.DSN())
		ways := routes(t, pg)
		for name, s := range scenarios {
			t.Run(name, func(t *testing.T) { s.compare(t, pg, setup, ways) })
		}
	})
}

func (s scenario) compare(t *testing.T, pg *pgtest.Postgres, setup *pgtest.Client, ways []route) {
	prepare := func() {
		for _, sql := range s.setup {
			if got := setup.Query(sql); strings.Contains(pgtest.Types(got), "E") {
				t.Fatalf("%s: %v", sql, got)
			}
		}
	}
	prepare()
	direct := pgtest.Connect(t, pg.DSN())
	want := straight(t, s, direct)
	direct.Close()
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			prepare()
			c := way.connect(t)
			got := way.play(t, s, c)
			c.Close()
			for i := range want {
				pgtest.Compare(t, want[i], got[i])
				if t.Failed() {
					t.Fatalf("in exchange %d", i)
				}
			}
		})
	}
}

func repeat[T any](n int, list ...T) (all []T) {
	for range n {
		all = append(all, list...)
	}
	return all
}

// What a simple query is answered must not depend on who is between (traps 27, 28, 30, 34).
func TestSimpleQueriesAreAnsweredAsByTheServer(t *testing.T) {
	compare(t, map[string]scenario{
		"a row":                   {script: queries("SELECT 1 AS one, 'two' AS two, NULL")},
		"rows":                    {script: queries("SELECT i, repeat('x', i) FROM generate_series(1, 3000) i")},
		"empty":                   {script: queries("", " ", ";", ";;", "\n")},                        // Traps 34 and 59
		"only a comment":          {script: queries("/* nothing */", "-- nothing", "/* a */ ; -- b")}, // Trap 34
		"several statements":      {script: queries("SELECT 1; SELECT 2;; SELECT 3")},                 // Trap 27
		"an error in the middle":  {script: queries("SELECT 1; SELECT 1/0; SELECT 3", "SELECT 4")},    // Trap 27
		"semicolons in literals":  {script: queries("SELECT ';' AS \";\" /* ; */; SELECT $$;$$")},     // Trap 27
		"a transaction":           {script: queries("BEGIN", "SELECT 1", "SELECT 1/0", "SELECT 2", "ROLLBACK", "SELECT 3")},
		"begin with more":         {script: queries("BEGIN; SELECT 1", "COMMIT; SELECT 2")},
		"commit of nothing":       {script: queries("COMMIT", "ROLLBACK", "BEGIN", "BEGIN", "COMMIT")},
		"implicit block and then": {script: queries("SELECT 1; BEGIN; SELECT 2", "COMMIT AND CHAIN", "ROLLBACK")},
		"blocks of all kinds": {script: queries("BEGIN", "COMMIT", "begin work;", "END", "/* c */ Start -- it\nTransaction", "ABORT", "BEGIN TRANSACTION", "ROLLBACK WORK",
			"BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY DEFERRABLE", "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only'), current_setting('transaction_deferrable')", "COMMIT",
			"START TRANSACTION READ WRITE NOT DEFERRABLE ISOLATION LEVEL REPEATABLE READ", "SHOW transaction_isolation", "END TRANSACTION", "COMMIT")},
		"blocks that are none":       {script: queries("BEGIN ISOLATION LEVEL NEVER", "BEGIN READ ONLY READ ONLY", "COMMIT", "BEGINN", "BEGIN;;", "BEGIN; ;COMMIT", "BEGIN,", "START", "START WORK", "ROLLBACK TO a", "COMMIT PREPARED 'x'", "BEGIN READ", "BEGIN ISOLATION LEVEL READ COMMITTED,", "ROLLBACK")},
		"a block and syncs":          {script: []exchange{ready(1, query("BEGIN")), ready(2, synchronize, synchronize), ready(1, query("COMMIT")), ready(1, synchronize)}},
		"a block in another":         {script: queries("BEGIN", "BEGIN", "SELECT 1", "COMMIT", "BEGIN", "BEGIN READ ONLY", "ROLLBACK")},
		"a chain of blocks":          {script: queries("BEGIN", "COMMIT AND CHAIN", "SELECT 1", "ROLLBACK AND CHAIN", "COMMIT AND NO CHAIN")},
		"a block that fails at once": {script: queries("BEGIN", "SELECT 1/0", "COMMIT", "BEGIN", "SELEC", "SELECT 1", "ROLLBACK")},
		"a block by other protocols": {script: []exchange{ready(1, query("BEGIN")), ready(1, parse("", "SELECT 1"), bind("", ""), execute("", 0), synchronize), ready(1, parse("", "COMMIT"), bind("", ""), execute("", 0), synchronize)}},
		"a block, extended": {script: []exchange{
			ready(1, parse("", "BEGIN READ ONLY"), bind("", ""), execute("", 0), synchronize), ready(1, query("SHOW transaction_read_only")), ready(1, parse("", "COMMIT"), bind("", ""), describe('P', ""), execute("", 0), synchronize),
			ready(1, parse("", "BEGIN"), bind("", ""), describe('P', ""), execute("", 0), synchronize), ready(1, parse("", "ROLLBACK"), bind("", ""), describe('P', ""), execute("", 0), synchronize),
			ready(1, parse("", "BEGIN"), bind("", ""), execute("", 0), synchronize), ready(1, bind("", ""), execute("", 0), synchronize), ready(1, query("ROLLBACK")),
			ready(1, parse("", "BEGIN"), bind("", ""), describe('S', ""), execute("", 0), synchronize), ready(1, query("END")),
			ready(1, parse("", "BEGIN"), bindTo("", "x"), execute("", 0), synchronize), ready(1, parse("b", "BEGIN"), bind("", "b"), execute("", 0), synchronize), ready(1, query("END")),
			ready(1, &pgproto3.Parse{Query: "BEGIN", ParameterOIDs: []uint32{23}}, bindTo("", "1"), execute("", 0), synchronize), ready(1, query("END")),
			ready(2, parse("", "BEGIN"), bind("", ""), execute("", 0), synchronize, query("END")),
			ready(1, parse("", "BEGIN"), bind("", ""), execute("", 1), synchronize), ready(1, query("END")),
		}},
		"a block and a function call":  {script: []exchange{ready(1, query("BEGIN")), ready(2, &pgproto3.FunctionCall{Function: 870, ArgFormatCodes: []uint16{0}, Arguments: [][]byte{[]byte("LOWER")}}, query("COMMIT"))}},
		"a block ends the unnamed one": {script: []exchange{ready(1, parse("", "SELECT 1"), synchronize), ready(1, query("BEGIN")), ready(1, bind("", ""), synchronize), ready(1, query("ROLLBACK"))}},
		"a block byte by byte":         {script: []exchange{dripping(ready(3, query("BEGIN"), query("SELECT 1"), query("COMMIT"))), dripping(ready(2, query("BEGIN"), query("COMMIT")))}},
		"savepoints":                   {script: queries("BEGIN", "SAVEPOINT a", "SELECT 1/0", "ROLLBACK TO a", "SELECT 1", "COMMIT")},
		"a syntax error":               {script: queries("SELEC 1", "SELECT FROM WHERE")},
		"an error with all fields": {
			setup:  []string{"DROP TABLE IF EXISTS strict CASCADE", "CREATE TABLE strict (id int PRIMARY KEY, v text NOT NULL CHECK (v <> ''))"},
			script: queries("INSERT INTO strict VALUES (1, '')", "INSERT INTO strict VALUES (1, NULL)", "INSERT INTO strict VALUES (1, 'a'), (1, 'b')"),
		},
		"an error raised with everything": {script: queries(`DO $$ BEGIN RAISE EXCEPTION 'message' USING DETAIL = 'detail', HINT = 'hint',
			ERRCODE = 'WX001', COLUMN = 'c', CONSTRAINT = 'k', DATATYPE = 'd', TABLE = 't', SCHEMA = 's'; END $$`)},
		"a very long error": {script: queries("DO $$ BEGIN RAISE EXCEPTION '%', repeat('long ', 20000); END $$", "SELECT 1")},
		"notices": {script: queries( // Trap 30
			"DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two %', repeat('x', 30000); END $$; SELECT 1",
			"DROP TABLE IF EXISTS no_such_table")},
		"reported parameters": {script: queries( // Trap 30
			"BEGIN", "SET LOCAL application_name = 'local'; SET LOCAL DateStyle = 'German'; SELECT 1", "COMMIT",
			"BEGIN; SET LOCAL TimeZone = 'Asia/Tokyo'; ROLLBACK; SELECT 2")},
		"reported parameters of the session": {script: queries("SET application_name = 'mine'", "SELECT 1", "SHOW application_name",
			"SET TimeZone = 'Asia/Tokyo'; SELECT 1", "SHOW TimeZone", "RESET TimeZone", "SHOW TimeZone", "RESET ALL", "SHOW application_name")},
		"notifications":                  {script: queries("LISTEN here", "NOTIFY here, 'one'", "SELECT pg_notify('here', 'two')", "BEGIN", "NOTIFY here", "COMMIT", "UNLISTEN here")}, // Trap 30
		"cursors":                        {script: queries("BEGIN", "DECLARE c CURSOR FOR SELECT generate_series(1, 10)", "FETCH 3 FROM c", "MOVE 2 FROM c", "FETCH ALL FROM c", "COMMIT", "FETCH 1 FROM c")},
		"cursors beyond the transaction": {script: queries("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 5); COMMIT", "FETCH 2 FROM c", "FETCH 2 FROM c", "CLOSE c")},
		"temporary tables":               {script: queries("CREATE TEMP TABLE mine (v int)", "INSERT INTO mine VALUES (1), (2)", "SELECT v + 1 FROM mine", "DROP TABLE mine")},
		"prepared in SQL":                {script: queries("PREPARE s AS SELECT $1::int + 1", "EXECUTE s(1)", "DEALLOCATE s", "EXECUTE s(1)")},
		"discarding all":                 {script: queries("SET application_name = 'mine'", "PREPARE s AS SELECT 1", "DISCARD ALL", "EXECUTE s", "SHOW application_name")}, // Trap 26
		"a long row":                     {script: queries("SELECT repeat('x', 10 * 1024 * 1024), 1", "SELECT 2")},                                                         // Trap 34
		"a long query": {script: queries("SELECT 1 /* "+strings.Repeat("long ", 40<<10)+" */",
			"SELECT '"+strings.Repeat("x", 3<<20)+"'", "SELECT 2")},
		"queries behind each other":  {script: []exchange{ready(4, query("SELECT 1"), query("SELECT 1/0"), query(""), query("SELECT 2"))}},
		"a transaction in one write": {script: []exchange{ready(4, query("BEGIN"), query("SELECT 1"), query("COMMIT"), query("SELECT 2"))}},
		"byte by byte":               {script: []exchange{dripping(ready(3, query("SELECT 'drip'"), query("SELECT 1/0"), query(""))), dripping(ready(1, query("SELECT 2")))}},
		"function calls": {script: []exchange{ // Trap 28
			ready(1, &pgproto3.FunctionCall{Function: 1598, ArgFormatCodes: []uint16{0}, Arguments: [][]byte{[]byte("x")}, ResultFormatCode: 0}),
			ready(2, &pgproto3.FunctionCall{Function: 870, ArgFormatCodes: []uint16{0}, Arguments: [][]byte{[]byte("LOWER")}, ResultFormatCode: 0}, query("SELECT 1")),
			ready(1, &pgproto3.FunctionCall{Function: 99999999}),
			ready(1, query("BEGIN")),
			ready(1, &pgproto3.FunctionCall{Function: 870, ArgFormatCodes: []uint16{0}, Arguments: [][]byte{[]byte("LOWER")}, ResultFormatCode: 0}),
			ready(1, query("COMMIT")),
		}},
		"syncs without anything":          {script: []exchange{ready(1, synchronize), ready(3, synchronize, synchronize, synchronize), ready(2, query("SELECT 1"), synchronize)}},           // Trap 15
		"messages of a COPY there is not": {script: []exchange{ready(1, data("x"), copyDone, copyFail, query("SELECT 1")), ready(2, query("BEGIN"), data("x"), copyDone, query("COMMIT"))}}, // Trap 29
	})
}

// Trap 31, 34: what cannot be understood ends the session, and what came before is answered all the same.
func TestSessionsEndAsWithTheServer(t *testing.T) {
	odd := func(kind byte, length uint32) string {
		return string(binary.BigEndian.AppendUint32([]byte{kind}, length))
	}
	compare(t, map[string]scenario{
		"terminate at once":                   {script: []exchange{ended(terminate)}},
		"terminate behind a query":            {script: []exchange{ended(query("SELECT 1"), terminate)}},
		"terminate behind two":                {script: []exchange{ended(query("SELECT 1/0"), query("SELECT repeat('x', 1000000)"), terminate)}},
		"terminate in a transaction":          {script: []exchange{ready(1, query("BEGIN")), ended(terminate)}},
		"terminate behind a batch":            {script: []exchange{ended(parse("", "SELECT 1"), bind("", ""), execute("", 0), synchronize, terminate)}},
		"terminate within a batch":            {script: []exchange{ended(parse("", "SELECT 1"), bind("", ""), terminate)}},
		"terminate in a failed transaction":   {script: []exchange{ready(1, query("BEGIN")), ready(1, query("SELECT 1/0")), ended(terminate)}},
		"terminate in a failed batch":         {script: []exchange{flushed(1, 'E', parse("", "SELEC"), flush), ended(bind("", ""), terminate)}},
		"terminate in a transaction begun":    {script: []exchange{ready(1, parse("", "BEGIN"), bind("", ""), execute("", 0), synchronize), ready(1, query("SELECT 1")), ended(terminate)}},
		"terminate with rows to come":         {script: []exchange{ready(1, query("BEGIN")), flushed(1, 's', parse("", "SELECT generate_series(1, 9)"), bind("", ""), execute("", 1), flush), ended(terminate)}},
		"terminate behind COPY":               {script: append(queries("BEGIN; CREATE TABLE never (v text)"), ended(query("COPY never FROM STDIN"), data("x\n"), copyDone, terminate))},
		"terminate behind COPY out":           {script: []exchange{ended(query("COPY (SELECT generate_series(1, 5000)) TO STDOUT"), terminate)}},
		"terminate behind a failed COPY":      {script: append(queries("BEGIN; CREATE TABLE never (v int)"), flushed(1, 'G', query("COPY never FROM STDIN")), ready(1, data("x\n")), ended(data("1\n"), copyDone, terminate))},
		"terminate while pinned":              {script: append(queries("LISTEN here"), ended(terminate))},
		"terminate with a body":               {script: []exchange{sentBytes(odd('X', 8) + "body")}},
		"terminate twice":                     {script: []exchange{ended(query("SELECT 1"), terminate, terminate)}},
		"terminate behind a sync":             {script: []exchange{ended(synchronize, terminate)}},
		"terminate behind a flush":            {script: []exchange{ended(flush, terminate)}},
		"terminate behind BEGIN":              {script: []exchange{ended(query("BEGIN"), terminate)}},
		"terminate behind a function call":    {script: []exchange{ended(&pgproto3.FunctionCall{Function: 870, ArgFormatCodes: []uint16{0}, Arguments: [][]byte{[]byte("LOWER")}}, terminate)}},
		"an unknown message":                  {script: []exchange{sentBytes(odd('!', 4))}, loose: true},
		"an unknown message of the server's":  {script: []exchange{sentBytes(odd('T', 4))}, loose: true},
		"an unknown message behind a query":   {script: []exchange{sentBytes(odd('y', 20)+"sixteen bytes...", query("SELECT repeat('x', 200000)"))}, loose: true},
		"an unknown message in a transaction": {script: []exchange{ready(1, query("BEGIN")), sentBytes(odd(0, 4))}, loose: true},
		"a query in COPY":                     {script: append(queries("BEGIN; CREATE TABLE never (v text)"), flushed(1, 'G', query("COPY never FROM STDIN")), ended(query("SELECT 1"))), loose: true},
		"killed by itself":                    {script: []exchange{ended(query("SELECT pg_terminate_backend(pg_backend_pid())"))}}, // Trap 31
		"killed in a transaction":             {script: []exchange{ready(1, query("BEGIN")), ended(query("SELECT pg_terminate_backend(pg_backend_pid())"))}},
		"killed with more behind it":          {script: []exchange{ended(query("SELECT 1; SELECT pg_terminate_backend(pg_backend_pid())"), query("SELECT 2"))}},
	})
}

// The extended protocol, whichever server connection comes next (traps 15 to 24, 26, 28).
func TestExtendedQueriesAreAnsweredAsByTheServer(t *testing.T) {
	one := []frontend{parse("", "SELECT 1"), bind("", ""), describe('P', ""), execute("", 0)}
	series := parse("s", "SELECT generate_series(1, 10)")
	bad := []byte{'P', 0, 0, 0, 8, 'n', 'o', ' ', 'x'}
	compare(t, map[string]scenario{
		"the usual batch":         {script: repeat(3, ready(1, append(one, synchronize)...))},
		"parameters":              {script: []exchange{ready(1, parse("", "SELECT $1::int + $2::int, $3::text"), bindTo("", "1", "2", "x"), describe('P', ""), execute("", 0), synchronize)}},
		"declared types":          {script: []exchange{ready(1, &pgproto3.Parse{Name: "s", Query: "SELECT $1", ParameterOIDs: []uint32{23}}, describe('S', "s"), synchronize), ready(1, bindTo("s", "7"), execute("", 0), synchronize)}},
		"no rows, no data":        {script: []exchange{ready(1, parse("", ""), bind("", ""), describe('P', ""), execute("", 0), synchronize), ready(1, parse("", "DO $$ BEGIN END $$"), bind("", ""), describe('P', ""), execute("", 0), synchronize)}},
		"named over transactions": {script: append([]exchange{ready(1, parse("s", "SELECT $1::text"), describe('S', "s"), synchronize)}, repeat(5, ready(1, bindTo("s", "x"), describe('P', ""), execute("", 0), synchronize))...)},
		"described again":         {script: append([]exchange{ready(1, parse("s", "SELECT $1::text, $2::int"), synchronize)}, repeat(3, ready(1, describe('S', "s"), synchronize))...)},
		"described first, bound later": {script: append(repeat(3, // as lib/pq does
			ready(1, parse("", "SELECT $1::text"), describe('S', ""), synchronize),
			ready(1, bindTo("", "x"), execute("", 0), synchronize)),
			ready(1, bindTo("", "again"), execute("", 0), synchronize))},
		"the unnamed one is replaced": {script: []exchange{ // Trap 22
			ready(1, parse("", "SELECT 1"), synchronize), ready(1, bind("", ""), execute("", 0), synchronize),
			ready(1, parse("", "SELECT 2"), synchronize), ready(1, bind("", ""), execute("", 0), synchronize),
		}},
		"the unnamed one ends with a simple query": {script: []exchange{ // Trap 22
			ready(1, parse("", "SELECT 1"), synchronize), ready(1, query("SELECT 2")), ready(1, bind("", ""), execute("", 0), synchronize)}},
		"the unnamed one ends with a simple query, even a bad one": {script: []exchange{
			ready(1, parse("", "SELECT 1"), synchronize), ready(1, query("SELEC 2")), ready(1, bind("", ""), execute("", 0), synchronize),
		}},
		"the unnamed one ends with a bad one": {script: []exchange{
			ready(1, parse("", "SELECT 1"), synchronize), ready(1, parse("", "SELEC 2"), synchronize), ready(1, bind("", ""), execute("", 0), synchronize),
		}},
		"the unnamed one outlives a parse that is skipped": {script: []exchange{ // Traps 17, 22
			ready(1, parse("", "SELECT 1"), synchronize), ready(1, bind("", "unknown"), parse("", "SELECT 2"), parse("", "SELECT 3"), synchronize),
			ready(1, bind("", ""), execute("", 0), synchronize), ready(2, bind("", "unknown"), closing('S', ""), synchronize, bind("", ""), execute("", 0), synchronize),
			ready(1, parse("e", "SELECT 1/0"), bind("", "e"), execute("", 0), parse("", "SELECT 2"), synchronize), ready(1, describe('S', ""), synchronize),
			ready(2, bind("", "unknown"), parse("", "SELECT 4"), synchronize, parse("", "SELECT 5"), synchronize), ready(1, bind("", ""), execute("", 0), synchronize),
		}},
		"the unnamed one does not outlive a query behind a parse that is skipped": {script: []exchange{ // Trap 22
			ready(1, parse("", "SELECT 1"), synchronize), ready(2, bind("", "unknown"), parse("", "SELECT 2"), synchronize, query("SELECT 3")), ready(1, bind("", ""), synchronize),
		}},
		"the unnamed one is closed": {script: []exchange{
			ready(1, parse("", "SELECT 1"), synchronize), ready(1, closing('S', ""), synchronize), ready(1, bind("", ""), execute("", 0), synchronize),
		}},
		"the unnamed one of nobody":  {script: []exchange{ready(1, bind("", ""), execute("", 0), synchronize), ready(1, describe('S', ""), synchronize)}},
		"several unnamed in a batch": {script: []exchange{ready(1, parse("", "SELECT 1"), bind("", ""), execute("", 0), parse("", "SELECT 2"), bind("", ""), execute("", 0), synchronize)}},
		"several named in a batch": {script: []exchange{
			ready(1, parse("s", "SELECT 's'"), parse("t", "SELECT 't'"), bind("", "s"), execute("", 0), bind("", "t"), execute("", 0), bind("", "s"), execute("", 0), synchronize),
			ready(1, bind("", "t"), execute("", 0), bind("", "s"), execute("", 0), synchronize),
		}},
		"a hundred batches in one write": {script: []exchange{ready(100, repeat(100, append(one, synchronize)...)...)}}, // Trap 16
		"a hundred batches of named in one write": {script: []exchange{ready(101, append([]frontend{parse("s", "SELECT $1::text"), synchronize},
			repeat(100, bindTo("s", "x"), execute("", 0), synchronize)...)...)}},
		"several syncs at once":         {script: []exchange{ready(4, append(one, synchronize, synchronize, synchronize, synchronize)...), ready(1, query("SELECT 1"))}}, // Trap 15
		"a sync ahead of the batch":     {script: []exchange{ready(3, append([]frontend{synchronize}, append(one, synchronize, synchronize)...)...)}},
		"flush without sync":            {script: []exchange{flushed(1, 'C', append(one, flush)...), flushed(1, 'C', append(one, flush)...), ready(1, synchronize)}}, // Trap 19
		"flush behind sync":             {script: repeat(2, ready(1, append(one, synchronize, flush)...))},
		"flush after each message":      {script: []exchange{flushed(1, '1', parse("s", "SELECT 1"), flush), flushed(1, 'T', describe('S', "s"), flush), flushed(1, '2', bind("", "s"), flush), flushed(1, 'C', execute("", 0), flush), ready(1, synchronize)}}, // Trap 19
		"an error until sync":           {script: []exchange{ready(1, append([]frontend{parse("", "SELEC")}, append(one, synchronize)...)...), ready(1, append(one, synchronize)...)}},                                                                          // Trap 17
		"an error, flushed, until sync": {script: []exchange{flushed(1, 'E', parse("", "SELEC"), flush), sent(one...), sent(one...), ready(1, synchronize), ready(1, append(one, synchronize)...)}},                                                             // Trap 17
		"an error while executing":      {script: []exchange{ready(1, append(append(one, parse("d", "SELECT 1/0"), bind("", "d"), execute("", 0)), append(one, synchronize)...)...), ready(1, bind("", "d"), execute("", 0), synchronize)}},
		"an error in the first of many": {script: []exchange{ready(3, parse("s", "SELEC"), bind("", "s"), synchronize, parse("s", "SELECT 1"), bind("", "s"), execute("", 0), synchronize, bind("", "s"), execute("", 0), synchronize)}},
		"statements parsed behind an error do not exist": {script: []exchange{ // Trap 21
			ready(1, parse("", "SELEC"), parse("s", "SELECT 1"), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize), ready(1, parse("s", "SELECT 2"), bind("", "s"), execute("", 0), synchronize)}},
		"a failed parse":                  {script: []exchange{ready(1, parse("s", "SELEC"), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize), ready(1, parse("s", "SELECT 1"), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize)}}, // Trap 21
		"a name that is taken":            {script: []exchange{ready(1, parse("s", "SELECT 1"), synchronize), ready(1, parse("s", "SELECT 2"), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize)}},                                                    // Trap 22
		"a name that is taken in a batch": {script: []exchange{ready(1, parse("s", "SELECT 1"), parse("s", "SELECT 2"), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize)}},
		"an unknown statement":            {script: []exchange{ready(1, bind("", "unknown"), execute("", 0), synchronize), ready(1, describe('S', "unknown"), synchronize)}},
		"an unknown portal":               {script: []exchange{ready(1, execute("unknown", 0), synchronize), ready(1, describe('P', "unknown"), synchronize)}},
		"closing":                         {script: []exchange{ready(1, parse("s", "SELECT 1"), synchronize), ready(1, closing('S', "s"), synchronize), ready(1, bind("", "s"), synchronize), ready(1, parse("s", "SELECT 2"), bind("", "s"), execute("", 0), synchronize)}}, // Trap 24
		"closing what there is not":       {script: []exchange{ready(1, closing('S', "unknown"), closing('P', "unknown"), closing('S', ""), closing('P', ""), synchronize)}},                                                                                                 // Trap 24
		"closing and parsing again":       {script: []exchange{ready(1, parse("s", "SELECT 1"), synchronize), ready(1, closing('S', "s"), parse("s", "SELECT 2"), bind("", "s"), execute("", 0), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize)}},
		"closing and parsing again behind an error": {script: []exchange{
			ready(1, parse("s", "SELECT 1"), synchronize),
			ready(1, parse("", "SELEC"), closing('S', "s"), parse("s", "SELECT 2"), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize),
		}},
		"closing, parsing and failing": {script: []exchange{
			ready(1, parse("s", "SELECT 1"), synchronize),
			ready(1, closing('S', "s"), parse("s", "SELEC"), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize),
		}},
		"rows in portions": {script: []exchange{ // Trap 24
			ready(1, query("BEGIN")), ready(1, series, bind("p", "s"), execute("p", 3), synchronize), ready(1, execute("p", 3), synchronize),
			ready(1, execute("p", 0), synchronize), ready(1, execute("p", 1), synchronize), ready(1, closing('P', "p"), synchronize), ready(1, query("COMMIT")),
		}},
		"rows in portions by flush":        {script: []exchange{flushed(1, 's', series, bind("", "s"), execute("", 3), flush), flushed(1, 's', execute("", 3), flush), flushed(1, 'C', execute("", 0), flush), ready(1, synchronize)}},
		"portals end with the transaction": {script: []exchange{ready(1, query("BEGIN")), ready(1, series, bind("p", "s"), execute("p", 1), synchronize), ready(1, query("COMMIT")), ready(1, execute("p", 1), synchronize)}},
		"portals end with the batch":       {script: []exchange{ready(1, series, bind("p", "s"), execute("p", 1), synchronize), ready(1, execute("p", 1), synchronize)}},
		"a transaction in batches": {script: []exchange{
			ready(1, parse("", "BEGIN"), bind("", ""), execute("", 0), synchronize), ready(1, append(one, synchronize)...),
			ready(1, parse("s", "SELECT 1/0"), bind("", "s"), execute("", 0), synchronize), ready(1, append(one, synchronize)...),
			ready(1, parse("", "ROLLBACK"), bind("", ""), execute("", 0), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize),
		}},
		"a statement parsed in a transaction that is rolled back": {script: []exchange{
			ready(1, query("BEGIN")), ready(1, parse("s", "SELECT 1"), synchronize), ready(1, query("ROLLBACK")), ready(1, bind("", "s"), execute("", 0), synchronize),
		}},
		"committing by a statement parsed before": {script: []exchange{
			ready(1, parse("s", "ROLLBACK"), synchronize), ready(1, query("BEGIN")), ready(1, query("SELECT 1/0")), ready(1, bind("", "s"), execute("", 0), synchronize),
		}},
		"deallocating all": {script: []exchange{ready(1, parse("s", "SELECT 1"), synchronize), ready(1, query("DEALLOCATE ALL")), ready(1, bind("", "s"), synchronize), ready(1, parse("s", "SELECT 2"), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize)}}, // Trap 26
		"deallocating one": {script: []exchange{ // Trap 26
			ready(1, parse("s", "SELECT 1"), parse("Quoted s", "SELECT 2"), parse("kept", "SELECT 3"), synchronize),
			ready(1, query("DEALLOCATE s")), ready(1, bind("", "s"), synchronize), ready(1, query("DEALLOCATE s")),
			ready(1, query(`/* c */ deallocate Prepare "Quoted s" ;`)), ready(1, bind("", "Quoted s"), synchronize),
			ready(1, bind("", "kept"), execute("", 0), synchronize), ready(1, parse("s", "SELECT 4"), bind("", "s"), execute("", 0), synchronize),
			ready(2, query("DEALLOCATE S"), query("DEALLOCATE kept")), ready(1, bind("", "kept"), synchronize),
		}},
		"deallocating all, and one of that name": {script: []exchange{ // Trap 26
			ready(1, parse("all", "SELECT 1"), parse("s", "SELECT 2"), synchronize), ready(1, query(`DEALLOCATE "all"`)), ready(1, bind("", "s"), execute("", 0), synchronize),
			ready(1, parse("all", "SELECT 1"), synchronize), ready(1, query("DEALLOCATE ALL")), ready(1, bind("", "s"), synchronize), ready(1, bind("", "all"), synchronize),
		}},
		"deallocating one, extended": {script: []exchange{ // Trap 26
			ready(1, parse("s", "SELECT 1"), parse("t", "SELECT 2"), synchronize),
			ready(1, parse("", "DEALLOCATE s"), bind("", ""), describe('P', ""), execute("", 0), synchronize), ready(1, bind("", "s"), synchronize),
			ready(1, parse("d", "DEALLOCATE t"), synchronize), ready(1, bind("", "d"), execute("", 0), synchronize), ready(1, bind("", "d"), execute("", 0), synchronize),
			ready(1, bind("", "t"), synchronize), ready(1, parse("t", "SELECT 3"), bind("", "t"), execute("", 0), synchronize),
			ready(1, parse("", "DEALLOCATE nothing"), bind("", ""), execute("", 0), synchronize),
		}},
		"deallocating one in a transaction": {script: []exchange{ // Trap 26
			ready(1, parse("s", "SELECT 1"), parse("t", "SELECT 2"), synchronize), ready(1, query("BEGIN")), ready(1, query("DEALLOCATE s")), ready(1, bind("", "s"), synchronize),
			ready(1, query("DEALLOCATE t")), ready(1, parse("", "DEALLOCATE t"), synchronize), ready(1, query("ROLLBACK")), ready(1, bind("", "s"), synchronize), ready(1, bind("", "t"), execute("", 0), synchronize),
		}},
		"discarding all": {script: []exchange{ready(1, parse("s", "SELECT 1"), synchronize), ready(1, query("DISCARD ALL")), ready(1, bind("", "s"), synchronize), ready(1, parse("s", "SELECT 2"), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize)}}, // Trap 26
		"executing in SQL what was prepared by the protocol": {script: []exchange{ // Trap 26
			ready(1, parse("s", "SELECT $1::int + 1 AS n"), parse("Quoted s", "SELECT 2"), parse("none", "SELECT 3"), synchronize),
			ready(1, query("EXECUTE s(1)")), ready(1, query("/* c */ execute -- it\n S ( 2 ) ;")), ready(1, query("EXECUTE \"Quoted s\"")), ready(1, query("EXECUTE s(3); SELECT 4")),
			ready(1, query("EXECUTE s")), ready(1, query("EXECUTE s(1, 2)")), ready(1, query("EXECUTE s(0 / (1 - 1))")), ready(1, query("EXECUTE nothing")), ready(1, query("EXECUTE nothing(1)")), ready(1, query("EXECUTE")), ready(1, query("EXECUTE s$(1)")),
			ready(3, query("EXECUTE s(4)"), query("DEALLOCATE none"), query("EXECUTE none")), ready(2, query("EXECUTE s(5)"), bindTo("s", "6"), execute("", 0), synchronize),
			ready(1, query("BEGIN")), ready(1, query("EXECUTE s(7)")), ready(1, query("EXECUTE nothing")), ready(1, query("EXECUTE s(8)")), ready(1, query("ROLLBACK")), ready(1, query("EXECUTE s(9)")),
			ready(1, query("EXECUTE s(/* "+strings.Repeat("long ", 10<<10)+" */ 10)")), ready(1, query("SELECT 1")),
		}},
		"deallocating and executing behind a rollback": {script: []exchange{ // Trap 26
			ready(1, parse("s", "SELECT 1"), parse("t", "SELECT 2"), parse("r", "ROLLBACK"), parse("d", "DEALLOCATE s"), parse("e", "EXECUTE t"), synchronize),
			ready(1, query("BEGIN")), ready(1, query("SELECT 1/0")),
			ready(1, bind("", "r"), execute("", 0), bind("", "d"), execute("", 0), bind("", "e"), execute("", 0), synchronize), ready(1, bind("", "s"), synchronize),
			ready(1, query("BEGIN")), ready(1, query("SELECT 1/0")), ready(1, query("ROLLBACK")), ready(1, bind("", "t"), execute("", 0), synchronize),
		}},
		"executing in SQL, extended": {script: []exchange{ // Trap 26
			ready(1, parse("s", "SELECT $1::int + 1 AS n"), synchronize),
			ready(1, parse("", "EXECUTE s(1)"), bind("", ""), describe('P', ""), execute("", 0), synchronize), ready(1, parse("", "EXECUTE s(2)"), describe('S', ""), bind("", ""), execute("", 0), synchronize),
			ready(1, parse("e", "EXECUTE s(3)"), synchronize), ready(1, bind("", "e"), execute("", 0), synchronize), ready(1, bind("", "e"), describe('P', ""), execute("", 0), synchronize),
			ready(1, parse("t", "SELECT 'new'"), parse("", "EXECUTE t"), bind("", ""), execute("", 0), synchronize),
			ready(1, closing('S', "s"), synchronize), ready(1, bind("", "e"), execute("", 0), synchronize), ready(1, parse("s", "SELECT 4, $1::int"), bind("", "e"), execute("", 0), synchronize),
			ready(1, parse("", "EXECUTE nothing"), bind("", ""), execute("", 0), synchronize),
			ready(2, parse("u", "SELECT 5"), synchronize, parse("", "EXECUTE u"), bind("", ""), execute("", 0), synchronize),
		}},
		"executing in SQL what sets":                         {script: []exchange{ready(1, parse("s", "SELECT set_config('application_name', 'executed', false)"), synchronize), ready(1, query("EXECUTE s")), ready(1, query("SELECT 1")), ready(1, query("SHOW application_name"))}},
		"discarding all, extended":                           {script: []exchange{ready(1, parse("s", "SELECT 1"), synchronize), ready(1, parse("", "DISCARD ALL"), bind("", ""), execute("", 0), synchronize), ready(1, bind("", "s"), synchronize), ready(1, bind("", ""), synchronize)}},
		"discarding all, then a batch":                       {script: []exchange{ready(1, parse("s", "SELECT 1"), synchronize), ready(2, query("DISCARD ALL"), parse("s", "SELECT 2"), bind("", "s"), execute("", 0), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize)}},
		"parsing behind deallocate all":                      {script: []exchange{ready(2, query("DEALLOCATE ALL"), parse("", "SELECT 2"), synchronize), ready(1, bind("", ""), execute("", 0), synchronize)}},
		"a simple query in between":                          {script: []exchange{ready(3, append(append(one, synchronize, query("SELECT 2")), append(one, synchronize)...)...)}},
		"a simple query without a sync":                      {keeps: true, script: []exchange{ready(1, append(one, query("SELECT 2"))...), ready(1, synchronize), ready(1, append(one, synchronize)...), ready(1, query("SELECT 3"))}},
		"a simple query behind an error without a sync":      {script: []exchange{ready(1, parse("", "SELEC"), query("SELECT 2"), synchronize), ready(1, append(one, synchronize)...), ready(1, query("SELECT 3"))}},
		"a simple query behind a failed bind without a sync": {script: []exchange{ready(1, bind("", "unknown"), query("SELECT 2"), synchronize), ready(1, append(one, synchronize)...), ready(1, parse("", "SELEC"), synchronize), ready(1, query("SELECT 3"))}},
		"byte by byte":                                       {script: []exchange{dripping(ready(2, parse("s", "SELECT $1::text"), describe('S', "s"), bindTo("s", "drip"), describe('P', ""), execute("", 0), synchronize, closing('S', "s"), synchronize))}},
		"a long statement":                                   {script: []exchange{ready(1, parse("s", "SELECT 1 /* "+strings.Repeat("long ", 40<<10)+"*/"), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize)}},
		"a very long statement":                              {script: []exchange{ready(1, parse("s", "SELECT 1 /* "+strings.Repeat("long ", 300<<10)+"*/"), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize)}},
		"a long parameter":                                   {script: []exchange{ready(1, parse("s", "SELECT length($1)"), synchronize), ready(1, bindTo("s", strings.Repeat("x", 5<<20)), execute("", 0), synchronize), ready(1, append(one, synchronize)...)}},
		"a malformed parse":                                  {script: []exchange{{wire: append(bytes.Clone(bad), pgtest.Encode(synchronize)...), until: ready(1).until}, ready(1, append(one, synchronize)...)}},
		"parameters that do not fit":                         {script: []exchange{ready(1, parse("s", "SELECT $1::int"), synchronize), ready(1, bindTo("s"), synchronize), ready(1, bindTo("s", "x"), synchronize), ready(1, bindTo("s", "1"), execute("", 0), synchronize)}},
		"a result type that changed": { // Trap 25
			setup:  []string{"DROP TABLE IF EXISTS altered", "CREATE TABLE altered (a int)"},
			script: []exchange{ready(1, parse("s", "SELECT * FROM altered"), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize), ready(1, query("SELECT 1"))},
		},
		"settings by statement":      {script: []exchange{ready(1, parse("s", "SET application_name = 'extended'"), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize), ready(1, query("SHOW application_name"))}},
		"a function call in between": {script: []exchange{ready(2, append(one, synchronize, &pgproto3.FunctionCall{Function: 870, ArgFormatCodes: []uint16{0}, Arguments: [][]byte{[]byte("LOWER")}})...)}},
	})
}
