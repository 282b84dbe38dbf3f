package drivers_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

var pgxModes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement,
	pgx.QueryExecModeCacheDescribe,
	pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec,
	pgx.QueryExecModeSimpleProtocol,
}

// pgxFeatures exercises pgx and its pgconn. params are added to every connection string.
func pgxFeatures(params ...string) []feature {
	p := pgxProgram{params: params}
	features := []feature{
		{"connect", p.connect},
		{"startup parameters", p.startup},
		{"types", p.types},
	}
	for _, mode := range pgxModes {
		features = append(features, feature{"exec mode " + mode.String(), func(ctx context.Context, r *recorder, srv server) error {
			return p.mode(ctx, r, srv, mode)
		}})
	}
	return append(features,
		feature{"multi-statement", p.multiStatement},
		feature{"named prepared statements", p.prepared},
		feature{"statement cache eviction", p.eviction},
		feature{"prepared before DDL", p.ddl},
		feature{"pipeline", p.pipeline},
		feature{"COPY", p.copy},
		feature{"large values", p.large},
		feature{"large objects", p.largeObjects},
		feature{"notices", p.notices},
		feature{"cancel: connection closed", p.cancelClosing},
		feature{"cancel: connection kept", p.cancelKeeping},
		feature{"cancel of an idle connection", p.cancelIdle},
		feature{"client leaves mid-rows", p.leave},
		feature{sessionState, p.session},
		feature{"nothing left for the next client", p.leftovers},
		feature{changeHands, p.turns},
	)
}

type pgxProgram struct {
	params []string
}

func (p pgxProgram) config(srv server, params ...string) (*pgx.ConnConfig, error) {
	return pgx.ParseConfig(srv.url(append(params, p.params...)...))
}

func (p pgxProgram) open(ctx context.Context, srv server, params ...string) (*pgx.Conn, error) {
	cfg, err := p.config(srv, params...)
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, cfg)
}

// hangUp is for a defer where how it ends is not what is looked at.
func hangUp(ctx context.Context, conn *pgx.Conn) { _ = conn.Close(ctx) }

func (p pgxProgram) connect(ctx context.Context, r *recorder, srv server) error {
	conn, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	for _, name := range []string{
		"server_version", "server_encoding", "client_encoding", "application_name", "is_superuser", "session_authorization",
		"DateStyle", "IntervalStyle", "TimeZone", "integer_datetimes", "standard_conforming_strings",
		"default_transaction_read_only", "in_hot_standby",
	} {
		r.say("parameter "+name, conn.PgConn().ParameterStatus(name))
	}
	r.say("has a process id", conn.PgConn().PID() != 0)
	r.say("secret key", len(conn.PgConn().SecretKey())) // 4 bytes in protocol 3.0; in 3.2 PostgreSQL has 32
	r.say("status", string(conn.PgConn().TxStatus()))
	r.say("ping", showError(conn.Ping(ctx)))

	wrong := srv
	wrong.password = "not " + srv.password
	_, err = p.open(ctx, wrong)
	r.say("wrong password", showLoginError(err))
	return nil
}

func (p pgxProgram) startup(ctx context.Context, r *recorder, srv server) error {
	conn, err := p.open(ctx, srv, "application_name=drivers & tests", "timezone=Asia/Kathmandu", "datestyle=German", "search_path=pg_catalog, public",
		`options=-c statement_timeout=54321 -c default_transaction_isolation=repeatable\ read`)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	r.say("reported", []string{
		conn.PgConn().ParameterStatus("application_name"), conn.PgConn().ParameterStatus("TimeZone"), conn.PgConn().ParameterStatus("DateStyle"),
	})
	for _, name := range []string{"application_name", "TimeZone", "DateStyle", "search_path", "statement_timeout", "default_transaction_isolation"} {
		r.say("show "+name, simple(ctx, conn.PgConn(), "show "+name))
	}
	r.say("rendered", simple(ctx, conn.PgConn(), "select timestamptz '2024-02-29 12:34:56+00'"))
	return nil
}

// types asks for each type as text and as binary, and sends each back as a parameter.
func (p pgxProgram) types(ctx context.Context, r *recorder, srv server) error {
	conn, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	for _, expr := range []string{
		"true", "1::int2", "-2::int4", "3::int8", "1.5::float4", "0.1::float8", "'NaN'::float8", "12345.678900::numeric",
		"'text'::text", "'v'::varchar(10)", "'c'::char(3)", "'\\x00ff'::bytea", "'2024-02-29'::date", "'12:34:56.789'::time",
		"'2024-02-29 12:34:56.789'::timestamp", "'2024-02-29 12:34:56+05:45'::timestamptz", "'1 mon 2 days 03:04:05'::interval",
		"'00112233-4455-6677-8899-aabbccddeeff'::uuid", `'{"a": [1, null]}'::json`, `'{"a": [1, null]}'::jsonb`, "'{1,NULL,3}'::int4[]",
		`'{{a,"b c"},{NULL,"d\"e"}}'::text[]`, "'[1,10)'::int4range", "'10.0.0.1/8'::inet", "'(1,2)'::point", "B'101'", "null::text",
		"row(1, 'x')", "'pg_class'::regclass", "'grüße 🌊'", "''",
	} {
		for _, format := range []int16{pgx.TextFormatCode, pgx.BinaryFormatCode} {
			res := conn.PgConn().ExecParams(ctx, "select "+expr+" as v", nil, nil, nil, []int16{format}).Read()
			r.say(fmt.Sprintf("%s, format %d", expr, format), showResult(res))
			if res.Err != nil || expr == "row(1, 'x')" || expr == "null::text" {
				continue
			}
			oid := res.FieldDescriptions[0].DataTypeOID
			back := conn.PgConn().ExecParams(ctx, "select $1 as v", [][]byte{res.Rows[0][0]}, []uint32{oid}, []int16{format}, []int16{format}).Read()
			r.say(fmt.Sprintf("%s, format %d, back", expr, format), showResult(back))
		}
	}
	return nil
}

// mode runs the everyday life of an application in one of pgx's five ways to execute a query.
func (p pgxProgram) mode(ctx context.Context, r *recorder, srv server, mode pgx.QueryExecMode) error {
	cfg, err := p.config(srv)
	if err != nil {
		return err
	}
	cfg.DefaultQueryExecMode = mode
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)

	table := pgx.Identifier{"pgx_" + strings.ReplaceAll(mode.String(), " ", "_")}.Sanitize()
	say := func(step, sql string, args ...any) {
		r.say(step, query(ctx, conn, strings.ReplaceAll(sql, "TABLE", table), args...))
	}

	if _, err := conn.Exec(ctx, "drop table if exists "+table); err != nil {
		return err
	}
	say("create", "create table TABLE (id int primary key, name text, at timestamptz, tags text[], amount numeric(10,2) check (amount > 0))")
	at := time.Date(2024, 2, 29, 12, 34, 56, 0, time.UTC)
	for i := range 7 {
		say(fmt.Sprintf("insert %d", i), "insert into TABLE values ($1, $2, $3, $4, $5::text::numeric)", i, fmt.Sprint("name ", i), at.Add(time.Duration(i)*time.Hour), []string{"a", "b'c"}, "12.50")
	}
	for i := range 7 {
		say(fmt.Sprintf("select %d", i), "select id, name, at at time zone 'UTC', tags, amount from TABLE where id >= $1 order by id limit 2", i)
	}
	say("null parameter", "select $1::text is null, $2::int4", nil, (*int32)(nil))
	say("no rows", "select id, name from TABLE where id = $1", -1)
	say("no columns", "select from TABLE where id < $1", 2)
	say("update returning", "update TABLE set name = $1 where id < $2 returning id, name", "new", 3)
	say("empty", "")
	say("only a comment", "-- nothing here")

	say("error: unique", "insert into TABLE (id) values ($1)", 1)
	say("error: check", "insert into TABLE (id, amount) values ($1, $2::int)", 99, -1)
	say("error: division", "select 1 / ($1::int4)", 0)
	say("error: syntax", "selec $1", 1)
	say("error: unknown table", "select * from nowhere where x = $1", 1)
	say("goes on", "select count(*) from TABLE where id > $1", 0)

	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	say("in a transaction", "delete from TABLE where id = $1", 6)
	r.say("status", string(conn.PgConn().TxStatus()))
	nested, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	say("error in a savepoint", "select 1 / ($1::int4)", 0)
	r.say("status", string(conn.PgConn().TxStatus()))
	say("aborted", "select 1")
	r.say("rollback to savepoint", showError(nested.Rollback(ctx)))
	say("after the savepoint", "select count(*) from TABLE")
	r.say("commit", showError(tx.Commit(ctx)))
	tx, err = conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly, DeferrableMode: pgx.Deferrable})
	if err != nil {
		return err
	}
	say("read-only", "delete from TABLE where id = $1", 5)
	r.say("commit of an aborted transaction", showError(tx.Commit(ctx)))

	batch := &pgx.Batch{}
	for i := range 20 {
		batch.Queue("insert into "+table+" (id, name) values ($1, $2) returning id", 100+i, "batch")
		batch.Queue("select count(*) from "+table+" where id > $1", 99)
	}
	r.say("batch", sendBatch(ctx, conn, batch))
	say("after the batch", "select count(*) from TABLE where id >= $1", 100)

	batch = &pgx.Batch{}
	batch.Queue("insert into "+table+" (id) values ($1)", 200)
	batch.Queue("select 1 / ($1::int4)", 0)
	batch.Queue("insert into "+table+" (id) values ($1)", 201)
	r.say("batch with an error", sendBatch(ctx, conn, batch))
	say("is undone as a whole", "select count(*) from TABLE where id >= $1", 200)
	return nil
}

func sendBatch(ctx context.Context, conn *pgx.Conn, batch *pgx.Batch) any {
	var saw []any
	results := conn.SendBatch(ctx, batch)
	for range batch.Len() {
		saw = append(saw, showRows(results.Query()))
	}
	return append(saw, showError(results.Close()))
}

func (p pgxProgram) multiStatement(ctx context.Context, r *recorder, srv server) error {
	conn, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	pg := conn.PgConn()
	for _, sql := range []string{
		"select 1 as a; select 'x' as b, 2; ; select where false",
		"drop table if exists multi; create table multi (n int); insert into multi select generate_series(1, 5); select sum(n) from multi",
		"insert into multi values (6); select 1/0; insert into multi values (7)",
		"select count(*) from multi",
		"insert into multi values (8); commit; insert into multi values (9); select 1/0",
		"begin; insert into multi values (10)",
		"select count(*) from multi; rollback; select count(*) from multi",
		"begin; select 1/0",
		"select 1",
		"rollback",
		"begin; select 'it''s; not two'; commit",
		"select $$a;b$$; select \"n\" from multi where n = 1 -- ; select 2",
		";", " ", "",
		"explain (costs off) select * from multi; show server_encoding",
		"do 'begin end'; vacuum multi",
		"values (1), (2)",
	} {
		r.say(sql, simple(ctx, pg, sql))
		r.say("status", string(pg.TxStatus()))
	}
	return nil
}

func (p pgxProgram) prepared(ctx context.Context, r *recorder, srv server) error {
	conn, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	pg := conn.PgConn()
	prepare := func(name, sql string, oids ...uint32) {
		sd, err := pg.Prepare(ctx, name, sql, oids)
		r.say("prepare "+name, showStatement(sd, err))
	}
	execute := func(name string, params ...string) {
		values := make([][]byte, len(params))
		for i, p := range params {
			values[i] = []byte(p)
		}
		r.say("execute "+name, showResult(pg.ExecPrepared(ctx, name, values, nil, nil).Read()))
	}
	prepare("one", "select $1::int4 + 1 as n")
	prepare("two", "select $1 || $2", 25, 25)
	prepare("", "select 'unnamed', $1::date")
	for i := range 8 {
		execute("one", fmt.Sprint(i))
		execute("two", "a", fmt.Sprint(i))
	}
	execute("", "2024-01-01") // still there: only Parse of another unnamed statement, or a simple query, replaces it
	prepare("one", "select 'taken'")
	execute("one", "41")
	prepare("bad", "select from where")
	execute("bad")
	execute("two", "only one")
	execute("one", "not a number")
	execute("one", "1")
	r.say("deallocate", showError(pg.Deallocate(ctx, "one")))
	execute("one", "1")
	prepare("one", "select 'another', $1::text")
	execute("one", "x")
	r.say("deallocate what is not there", showError(pg.Deallocate(ctx, "never was")))

	if _, err := conn.Exec(ctx, "begin"); err != nil {
		return err
	}
	prepare("in a transaction", "select 'survives the rollback'")
	execute("in a transaction")
	if _, err := conn.Exec(ctx, "rollback"); err != nil {
		return err
	}
	execute("in a transaction")
	return nil
}

// eviction keeps closing statements and preparing others, as a full statement cache does.
func (p pgxProgram) eviction(ctx context.Context, r *recorder, srv server) error {
	conn, err := p.open(ctx, srv, "statement_cache_capacity=3")
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	for i := range 40 {
		r.say("select", query(ctx, conn, fmt.Sprintf("select %d + $1::int4", i%7), i))
	}
	return nil
}

func (p pgxProgram) ddl(ctx context.Context, r *recorder, srv server) error {
	conn, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	say := func(sql string, args ...any) { r.say(sql, query(ctx, conn, sql, args...)) }
	say("drop table if exists changing")
	say("create table changing (a int)")
	say("insert into changing values (1)")
	say("select * from changing where a = $1", 1)
	say("alter table changing add b text default 'new'")
	say("select * from changing where a = $1", 1) // cached plan must not change result type
	say("select * from changing where a = $1", 1)
	say("drop table changing")
	say("select * from changing where a = $1", 1)
	say("select 1")
	return nil
}

func (p pgxProgram) pipeline(ctx context.Context, r *recorder, srv server) error {
	conn, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	pg := conn.PgConn()
	r.say("setup", simple(ctx, pg, "drop table if exists piped; create table piped (n int primary key)"))

	pipe := pg.StartPipeline(ctx)
	next := func() {
		res, err := pipe.GetResults()
		r.say("result", showPipelined(res, err))
	}
	pipe.SendQueryParams("insert into piped values ($1)", [][]byte{[]byte("1")}, nil, nil, nil)
	pipe.SendPrepare("piped", "select n from piped where n >= $1", nil)
	pipe.SendQueryPrepared("piped", [][]byte{[]byte("0")}, nil, nil)
	if err := pipe.Sync(); err != nil {
		return err
	}
	for range 4 {
		next()
	}

	// Flush without Sync: the answers come though the transaction is still open.
	pipe.SendQueryParams("insert into piped values ($1)", [][]byte{[]byte("2")}, nil, nil, nil)
	pipe.SendFlushRequest()
	if err := pipe.Flush(); err != nil {
		return err
	}
	next()
	pipe.SendQueryPrepared("piped", [][]byte{[]byte("0")}, nil, nil)
	pipe.SendFlushRequest()
	if err := pipe.Flush(); err != nil {
		return err
	}
	next()
	if err := pipe.Sync(); err != nil {
		return err
	}
	next()

	// Several Syncs at once; the error in the second group takes only that group with it.
	for group := range 4 {
		for i := range 3 {
			n := fmt.Sprint(10*group + i + 100)
			if group == 1 && i == 1 {
				n = "1"
			}
			pipe.SendQueryParams("insert into piped values ($1) returning n", [][]byte{[]byte(n)}, nil, nil, nil)
		}
		pipe.SendPipelineSync()
	}
	if err := pipe.Flush(); err != nil {
		return err
	}
	for range 3 * 4 {
		next()
	}
	next() // what is left after the group that failed
	pipe.SendDeallocate("piped")
	if err := pipe.Sync(); err != nil {
		return err
	}
	next()
	next()
	r.say("close", showError(pipe.Close()))
	r.say("afterwards", simple(ctx, pg, "select n from piped order by n"))

	pipe = pg.StartPipeline(ctx)
	for _, sql := range []string{"begin", "insert into piped values (500)", "savepoint s", "select 1/0", "select 'skipped'"} {
		pipe.SendQueryParams(sql, nil, nil, nil, nil)
	}
	pipe.SendPipelineSync()
	pipe.SendQueryParams("select 'aborted'", nil, nil, nil, nil)
	pipe.SendPipelineSync()
	for _, sql := range []string{"rollback to s", "commit", "select count(*) from piped where n = 500"} {
		pipe.SendQueryParams(sql, nil, nil, nil, nil)
	}
	if err := pipe.Sync(); err != nil {
		return err
	}
	for range 10 {
		next()
	}
	r.say("close", showError(pipe.Close()))
	r.say("status", string(pg.TxStatus()))

	// More requests than any socket buffer holds, with answers as large: both directions are full at once.
	const many = 300
	wide := []byte(strings.Repeat("w", 30_000))
	pipe = pg.StartPipeline(ctx)
	for range many {
		pipe.SendQueryParams("select $1::text, length($1)", [][]byte{wide}, nil, nil, nil)
	}
	sent := make(chan error, 1)
	go func() { sent <- pipe.Sync() }()
	if err := <-sent; err != nil {
		return err
	}
	total := 0
	for range many {
		res, err := pipe.GetResults()
		if err != nil {
			return err
		}
		for _, row := range res.(*pgconn.ResultReader).Read().Rows {
			total += len(row[0])
		}
	}
	r.say("wide", total)
	r.say("close", showError(pipe.Close()))
	return nil
}

func (p pgxProgram) copy(ctx context.Context, r *recorder, srv server) error {
	conn, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	pg := conn.PgConn()
	r.say("setup", simple(ctx, pg, "drop table if exists copied; create table copied (id int primary key, name text, at timestamptz)"))

	rows := func(from, n int) pgx.CopyFromSource {
		return pgx.CopyFromSlice(n, func(i int) ([]any, error) {
			return []any{from + i, fmt.Sprintf("name\t%d", i), time.Unix(int64(i), 0).UTC()}, nil
		})
	}
	columns := []string{"id", "name", "at"}
	n, err := conn.CopyFrom(ctx, pgx.Identifier{"copied"}, columns, rows(0, 20_000))
	r.say("binary in", []any{n, showError(err)})
	n, err = conn.CopyFrom(ctx, pgx.Identifier{"copied"}, columns, rows(19_999, 20_000))
	r.say("duplicate key", []any{n, showError(err)})
	n, err = conn.CopyFrom(ctx, pgx.Identifier{"copied"}, columns, pgx.CopyFromFunc(func() ([]any, error) { return nil, errors.New("the source is broken") }))
	r.say("source fails", []any{n, showError(err)})
	n, err = conn.CopyFrom(ctx, pgx.Identifier{"copied"}, columns, rows(0, 0))
	r.say("nothing", []any{n, showError(err)})
	r.say("count", simple(ctx, pg, "select count(*), sum(id) from copied"))

	var out bytes.Buffer
	tag, err := pg.CopyTo(ctx, &out, "copy (select id, name from copied order by id) to stdout with (format csv, header)")
	r.say("csv out", []any{tag.String(), showError(err), short(out.Bytes())})
	out.Reset()
	tag, err = pg.CopyTo(ctx, &out, "copy (select 1 / (5 - n) from generate_series(1, 9) n) to stdout")
	r.say("error on the way out", []any{tag.String(), showError(err), out.String()})
	out.Reset()
	tag, err = pg.CopyTo(ctx, &out, "copy nowhere to stdout")
	r.say("error before the way out", []any{tag.String(), showError(err), out.String()})

	tag, err = pg.CopyFrom(ctx, strings.NewReader("50001,a,2024-01-01\n50002,,\n"), "copy copied from stdin with (format csv)")
	r.say("csv in", []any{tag.String(), showError(err)})
	tag, err = pg.CopyFrom(ctx, strings.NewReader("50003,a,2024-01-01\nnot a row\n"+strings.Repeat("50004,b,2024-01-01\n", 100_000)), "copy copied from stdin with (format csv)")
	r.say("bad row early in much data", []any{tag.String(), showError(err)})
	r.say("simple query with a copy in the middle", simple(ctx, pg, "select 1; copy (values (1), (2)) to stdout; select 2"))

	if _, err := conn.Exec(ctx, "begin"); err != nil {
		return err
	}
	n, err = conn.CopyFrom(ctx, pgx.Identifier{"copied"}, columns, rows(60_000, 10))
	r.say("in a transaction", []any{n, showError(err), string(pg.TxStatus())})
	r.say("rolled back", simple(ctx, pg, "rollback; select count(*) from copied"))
	return nil
}

func (p pgxProgram) large(ctx context.Context, r *recorder, srv server) error {
	conn, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	pg := conn.PgConn()
	for _, size := range []int{1, 4_000, 8_187, 8_188, 8_192, 65_535, 65_536, 1 << 20, 16 << 20} {
		res := pg.ExecParams(ctx, "select $1::text, length($1)", [][]byte{bytes.Repeat([]byte("v"), size)}, nil, nil, nil).Read()
		r.say(fmt.Sprint("value of ", size), showResult(res))
	}
	r.say("long query", simple(ctx, pg, "select length('"+strings.Repeat("q", 2<<20)+"')"))
	r.say("many rows", simple(ctx, pg, "select n, repeat('r', n % 100) from generate_series(1, 100000) n"))
	r.say("wide row", simple(ctx, pg, "select "+strings.TrimSuffix(strings.Repeat("repeat('w', 1000),", 1600), ",")))
	r.say("row over several buffers, and an error", simple(ctx, pg, "select repeat('x', 300000), 1 / (3 - n) from generate_series(1, 5) n"))
	return nil
}

func (p pgxProgram) largeObjects(ctx context.Context, r *recorder, srv server) error {
	conn, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	los := tx.LargeObjects()
	oid, err := los.Create(ctx, 0)
	if err != nil {
		return err
	}
	lo, err := los.Open(ctx, oid, pgx.LargeObjectModeRead|pgx.LargeObjectModeWrite)
	if err != nil {
		return err
	}
	n, err := lo.Write(bytes.Repeat([]byte("large object "), 10_000))
	r.say("write", []any{n, showError(err)})
	at, err := lo.Seek(6, io.SeekStart)
	r.say("seek", []any{at, showError(err)})
	buf := make([]byte, 20)
	n, err = lo.Read(buf)
	r.say("read", []any{string(buf[:n]), showError(err)})
	r.say("unlink", showError(los.Unlink(ctx, oid)))
	r.say("commit", showError(tx.Commit(ctx)))
	return nil
}

func (p pgxProgram) notices(ctx context.Context, r *recorder, srv server) error {
	cfg, err := p.config(srv)
	if err != nil {
		return err
	}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { r.say("notice", showPgError((*pgconn.PgError)(n))) }
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	for _, sql := range []string{
		"drop table if exists never_was",
		"do $$ begin raise notice 'one' using detail = 'd', hint = 'h', errcode = 'XY123'; raise warning 'two'; raise info 'three'; end $$",
		"do $$ begin for i in 1..200 loop raise notice 'n %', i; end loop; end $$",
		"do $$ begin raise notice 'before'; raise exception 'failed' using detail = 'd', hint = 'h', table = 't', constraint = 'c', column = 'k', datatype = 'y', schema = 's'; end $$",
		"commit",
		"begin; begin; commit",
		"set local timezone = 'UTC'",
	} {
		r.say(sql, simple(ctx, conn.PgConn(), sql))
		r.say(sql+" (extended)", showResult(conn.PgConn().ExecParams(ctx, sql, nil, nil, nil, nil).Read()))
	}
	return nil
}

// cancelClosing is what pgx does by default when a context ends: it gives the connection up and cancels behind it.
func (p pgxProgram) cancelClosing(ctx context.Context, r *recorder, srv server) error {
	conn, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	watch, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, watch)

	short, cancel := context.WithCancel(ctx)
	defer cancel()
	asleep := make(chan error, 1)
	go func() {
		asleep <- waitFor(ctx, watch, sleepers, 1)
		cancel()
	}()
	_, err = conn.Exec(short, "select pg_sleep(30)")
	r.say("error", []bool{errors.Is(err, context.Canceled), conn.IsClosed()})
	if err := <-asleep; err != nil {
		return err
	}
	r.say("nobody sleeps", showError(waitFor(ctx, watch, sleepers, 0)))
	return nil
}

func (p pgxProgram) cancelKeeping(ctx context.Context, r *recorder, srv server) error {
	cfg, err := p.config(srv)
	if err != nil {
		return err
	}
	cfg.BuildContextWatcherHandler = func(pg *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: pg, DeadlineDelay: 20 * time.Second}
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	watch, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, watch)

	for range 3 {
		short, cancel := context.WithCancel(ctx)
		asleep := make(chan error, 1)
		go func() {
			asleep <- waitFor(ctx, watch, sleepers, 1)
			cancel()
		}()
		_, err = conn.Exec(short, "select pg_sleep($1)", 30)
		var pgErr *pgconn.PgError
		errors.As(err, &pgErr)
		r.say("error", []any{showPgError(pgErr), conn.IsClosed()})
		if err := <-asleep; err != nil {
			return err
		}
		r.say("goes on", query(ctx, conn, "select $1::text", "alive"))
	}

	if _, err := conn.Exec(ctx, "begin"); err != nil {
		return err
	}
	asleep := make(chan error, 1)
	go func() {
		err := waitFor(ctx, watch, sleepers, 1)
		asleep <- errors.Join(err, conn.PgConn().CancelRequest(ctx))
	}()
	r.say("in a transaction", query(ctx, conn, "select pg_sleep($1)", 30))
	if err := <-asleep; err != nil {
		return err
	}
	r.say("status", string(conn.PgConn().TxStatus()))
	r.say("rollback", query(ctx, conn, "rollback"))
	return nil
}

// cancelIdle cancels when nothing runs, and with a key that is nobody's: neither may do anything.
func (p pgxProgram) cancelIdle(ctx context.Context, r *recorder, srv server) error {
	conn, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	other, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, other)
	r.say("before", query(ctx, conn, "select 1"))
	for range 5 {
		r.say("cancel", showError(conn.PgConn().CancelRequest(ctx)))
		r.say("the same", query(ctx, conn, "select 'unharmed' from pg_sleep(0.01)"))
		r.say("another", query(ctx, other, "select 'unharmed' from pg_sleep(0.01)"))
	}
	return nil
}

// leave closes the socket while rows are still coming, and in the middle of a COPY, and looks whether the server notices.
func (p pgxProgram) leave(ctx context.Context, r *recorder, srv server) error {
	watch, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, watch)
	r.say("setup", simple(ctx, watch.PgConn(), "drop table if exists left_behind; create table left_behind (n int)"))

	for _, during := range []struct{ name, sql string }{
		{"rows", "select repeat('x', 1000) from generate_series(1, 1000000)"},
		{"copy", "copy left_behind from stdin"},
		{"idle", ""},
		{"sleep", "select pg_sleep(30)"},
	} {
		conn, err := p.open(ctx, srv)
		if err != nil {
			return err
		}
		hijacked, err := conn.PgConn().Hijack()
		if err != nil {
			return err
		}
		if err := sendQuery(hijacked.Conn, "begin; insert into left_behind values (1); "+during.sql); err != nil {
			return err
		}
		if during.name == "sleep" {
			if err := waitFor(ctx, watch, sleepers, 1); err != nil {
				return err
			}
		}
		if err := hijacked.Conn.Close(); err != nil {
			return err
		}
		if during.name == "sleep" {
			// PostgreSQL itself notices a client that left only when it next reads or writes, so here it is woken.
			r.say("wake", simple(ctx, watch.PgConn(), "select count(pg_cancel_backend(pid)) >= 0 from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"))
		}
	}
	r.say("nothing is left", showError(waitFor(ctx, watch, "select count(*) from pg_locks where relation = 'left_behind'::regclass and locktype = 'relation'", 0)))
	r.say("rows", simple(ctx, watch.PgConn(), "select count(*) from left_behind"))
	return nil
}

// sendQuery writes one simple query and reads nothing.
func sendQuery(conn net.Conn, sql string) error {
	n := len(sql) + 5
	_, err := conn.Write(append([]byte{'Q', byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, sql+"\x00"...))
	return err
}

// session is what only a server connection of one's own remembers.
func (p pgxProgram) session(ctx context.Context, r *recorder, srv server) error {
	conn, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	other, err := p.open(ctx, srv)
	if err != nil {
		return err
	}
	defer hangUp(ctx, other)

	pg := conn.PgConn()
	for _, sql := range []string{
		"set timezone = 'Asia/Tokyo'", "show timezone", "select timestamptz '2024-01-01 00:00:00+00'",
		"set application_name = 'renamed'", "show application_name",
		"create temp table mine (n int); insert into mine values (1)", "select n from mine",
		"prepare p (int) as select $1 * 2", "execute p (21)", "deallocate p", "execute p (21)",
		"select pg_try_advisory_lock(42)",
		"declare held cursor with hold for select generate_series(1, 5)", "fetch 2 from held", "fetch all from held", "close held",
		"create temp sequence s; select nextval('s')", "select currval('s')",
		"begin; set local timezone = 'UTC'; show timezone", "show timezone; commit", "show timezone",
		"set session authorization default; reset all; show timezone",
		"listen news",
	} {
		r.say(sql, simple(ctx, pg, sql))
	}
	r.say("reported", []string{pg.ParameterStatus("TimeZone"), pg.ParameterStatus("application_name")})
	r.say("another session's lock", simple(ctx, other.PgConn(), "select pg_try_advisory_lock(42)"))
	r.say("another session's table", simple(ctx, other.PgConn(), "select n from mine"))
	r.say("notify", simple(ctx, other.PgConn(), "notify news, 'extra'"))
	n, err := conn.WaitForNotification(ctx)
	if err != nil {
		return err
	}
	r.say("notification", []any{n.Channel, n.Payload, n.PID != 0})
	r.say("discard", simple(ctx, pg, "discard all"))
	r.say("gone", simple(ctx, pg, "select n from mine"))
	return nil
}

// leftovers leaves everything behind that a session can have, and looks at what those find who come next.
func (p pgxProgram) leftovers(ctx context.Context, r *recorder, srv server) error {
	const clients = 4
	untidy := make([]*pgx.Conn, clients)
	for i := range untidy {
		conn, err := p.open(ctx, srv)
		if err != nil {
			return err
		}
		defer hangUp(ctx, conn)
		untidy[i] = conn
	}
	for _, conn := range untidy {
		r.say("leave behind", simple(ctx, conn.PgConn(), "set timezone = 'Asia/Tokyo'; set role none; set search_path = pg_catalog; create temp table mine (n int)"))
		r.say("leave behind", simple(ctx, conn.PgConn(), "prepare p as select 'not yours'; listen leftovers; select pg_advisory_lock_shared(99)"))
		r.say("leave behind", simple(ctx, conn.PgConn(), "declare held cursor with hold for select 1; begin; set local datestyle = 'German'; insert into mine values (1)"))
	}
	for _, conn := range untidy {
		if err := conn.Close(ctx); err != nil {
			return err
		}
	}
	tidy := make([]*pgx.Conn, clients)
	for i := range tidy {
		conn, err := p.open(ctx, srv)
		if err != nil {
			return err
		}
		defer hangUp(ctx, conn)
		if err := waitFor(ctx, conn, "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())", 0); err != nil {
			return err
		}
		tidy[i] = conn
	}
	for _, conn := range tidy { // all at once, each on a server connection that somebody may have had before
		r.say("begin", simple(ctx, conn.PgConn(), "begin"))
	}
	for _, conn := range tidy {
		for _, sql := range []string{
			"show timezone", "show search_path", "show datestyle", "select count(*) from pg_listening_channels()", "select count(*) from pg_cursors",
			"select to_regclass('pg_temp.mine')", "execute p",
		} {
			r.say(sql, simple(ctx, conn.PgConn(), sql))
		}
		r.say("rollback", simple(ctx, conn.PgConn(), "rollback"))
	}
	return nil
}

// turns makes two clients share one server connection, each with prepared statements of the same names: what one
// prepared must not be seen by the other, and what each prepared must be there whenever it is its turn.
func (p pgxProgram) turns(ctx context.Context, r *recorder, srv server) error {
	srv.database = srv.one
	var conns [2]*pgx.Conn
	for i := range conns {
		conn, err := p.open(ctx, srv)
		if err != nil {
			return err
		}
		defer hangUp(ctx, conn)
		conns[i] = conn
	}
	for i, conn := range conns {
		sd, err := conn.PgConn().Prepare(ctx, "same name", fmt.Sprintf("select 'client %d', $1::int4", i), nil)
		r.say("prepare", showStatement(sd, err))
		_, err = conn.PgConn().Prepare(ctx, fmt.Sprintf("only of %d", i), "select 'private'", nil)
		r.say("prepare", showError(err))
	}
	for round := range 12 {
		for i, conn := range conns {
			r.say("same name", showResult(conn.PgConn().ExecPrepared(ctx, "same name", [][]byte{fmt.Append(nil, round)}, nil, nil).Read()))
			r.say("cached", query(ctx, conn, "select $1::text || ' of the same text'", fmt.Sprint(i, round)))
			r.say("cached by one", query(ctx, conn, fmt.Sprintf("select %d, $1::int4 from generate_series(1, 2)", i), round))
			r.say("the other's", showResult(conn.PgConn().ExecPrepared(ctx, fmt.Sprintf("only of %d", 1-i), nil, nil, nil).Read()))
			if round == 5 {
				tx, err := conn.Begin(ctx)
				if err != nil {
					return err
				}
				r.say("in a transaction", query(ctx, conn, "select $1::text || ' of the same text'", fmt.Sprint(i, round)))
				r.say("commit", showError(tx.Commit(ctx)))
			}
			if round == 8 {
				r.say("deallocate", showError(conn.PgConn().Deallocate(ctx, fmt.Sprintf("only of %d", i))))
			}
		}
	}

	// Two server connections, taken in changing order: a client's statements follow it to whichever it gets.
	srv.database = srv.two
	for i := range conns {
		conn, err := p.open(ctx, srv)
		if err != nil {
			return err
		}
		defer hangUp(ctx, conn)
		conns[i] = conn
	}
	for round := range 12 {
		first, second := conns[round%3%2], conns[1-round%3%2]
		tx, err := first.Begin(ctx)
		if err != nil {
			return err
		}
		r.say("holder", query(ctx, first, "select 'holder', $1::int4", round))
		r.say("beside", query(ctx, second, "select 'beside', $1::int4", round))
		if round%2 == 0 {
			inner, err := second.Begin(ctx)
			if err != nil {
				return err
			}
			r.say("commit of the first", showError(tx.Commit(ctx)))
			r.say("beside", query(ctx, second, "select 'beside', $1::int4", round))
			r.say("holder", query(ctx, first, "select 'holder', $1::int4", round))
			r.say("rollback of the second", showError(inner.Rollback(ctx)))
			continue
		}
		r.say("commit", showError(tx.Commit(ctx)))
	}
	return nil
}

// changesHands makes sure that the pool of two server connections does what turns is about: that each of two clients is
// served by both.
func changesHands(t *testing.T, srv server) {
	ctx := t.Context()
	var conns [2]*pgx.Conn
	var served [2]map[int]bool
	for i := range conns {
		conn, err := pgx.Connect(ctx, srv.url())
		if err != nil {
			t.Fatal(err)
		}
		defer hangUp(ctx, conn)
		conns[i], served[i] = conn, map[int]bool{}
	}
	whichServer := func(i int) {
		var pid int
		if err := conns[i].QueryRow(ctx, "select pg_backend_pid()").Scan(&pid); err != nil {
			t.Fatal(err)
		}
		served[i][pid] = true
	}
	for round := range 12 {
		holder, other := round%3%2, 1-round%3%2
		tx, err := conns[holder].Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		whichServer(holder)
		whichServer(other)
		if err := tx.Commit(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for i := range served {
		if len(served[i]) != 2 {
			t.Errorf("client %d was served by %d server connections, want 2", i, len(served[i]))
		}
	}
}

// sleepers counts the connections of this database that are in pg_sleep.
const sleepers = "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"

// waitFor asks until the count is want.
func waitFor(ctx context.Context, conn *pgx.Conn, count string, want int) error {
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var n int
		if err := conn.QueryRow(ctx, count, pgx.QueryExecModeSimpleProtocol).Scan(&n); err != nil {
			return err
		}
		if n == want {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %d, want %d: %w", count, n, want, ctx.Err())
		}
	}
}
