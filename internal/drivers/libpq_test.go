package drivers_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/lib/pq"
)

// pqFeatures exercises lib/pq through database/sql, where each *sql.DB holds a single connection so that the order of
// what happens is the program's. params are added to every connection string.
func pqFeatures(params ...string) []feature {
	p := pqProgram{params: params}
	return []feature{
		{"connect", p.connect},
		{"simple protocol", p.simple},
		{"extended protocol", p.extended},
		{"binary parameters", p.binary},
		{"prepared statements", p.prepared},
		{"transactions", p.transactions},
		{"COPY", p.copy},
		{"notices", p.notices},
		{"large values", p.large},
		{"cancel", p.cancel},
		{sessionState, p.session},
		{changeHands, p.turns},
	}
}

type pqProgram struct {
	params []string
}

// pqConn is one connection and what it was told aside.
type pqConn struct {
	*sql.DB
	r *recorder
}

func (p pqProgram) open(r *recorder, srv server, params ...string) (*pqConn, error) {
	connector, err := pq.NewConnector(srv.url(append(params, p.params...)...))
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(pq.ConnectorWithNoticeHandler(connector, func(n *pq.Error) { r.say("notice", showPqError(n)) }))
	db.SetMaxOpenConns(1)
	return &pqConn{DB: db, r: r}, nil
}

// closing is for a defer where how it ends is not what is looked at.
func closing(c io.Closer) { c.Close() }

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// sayQuery shows all result sets of a query; tags are not to be had.
func sayQuery(ctx context.Context, r *recorder, q querier, query string, args ...any) {
	rows, err := q.QueryContext(ctx, query, args...)
	r.say(short([]byte(query)), showSQLRows(rows, err))
}

func sayExec(ctx context.Context, r *recorder, q querier, query string, args ...any) {
	res, err := q.ExecContext(ctx, query, args...)
	if err != nil {
		r.say(short([]byte(query)), showAnyError(err))
		return
	}
	n, err := res.RowsAffected()
	r.say(short([]byte(query)), []any{n, showAnyError(err)})
}

func showSQLRows(rows *sql.Rows, err error) any {
	if err != nil {
		return showAnyError(err)
	}
	defer closing(rows)
	saw := []any{}
	for more := true; more; more = rows.NextResultSet() {
		types, err := rows.ColumnTypes()
		if err != nil {
			return append(saw, showAnyError(err))
		}
		names := []any{}
		for _, c := range types {
			length, hasLength := c.Length()
			precision, scale, hasScale := c.DecimalSize()
			names = append(names, []any{c.Name(), c.DatabaseTypeName(), length, hasLength, precision, scale, hasScale})
		}
		got := []any{}
		for rows.Next() {
			values := make([]any, len(types))
			into := make([]any, len(types))
			for i := range values {
				into[i] = &values[i]
			}
			if err := rows.Scan(into...); err != nil {
				return append(saw, showAnyError(err))
			}
			row := []string{}
			for _, v := range values {
				row = append(row, short(fmt.Appendf(nil, "%T %v", v, v)))
			}
			got = append(got, row)
		}
		if len(got) > 100 {
			got = []any{len(got), short(fmt.Append(nil, got))}
		}
		saw = append(saw, names, got)
	}
	if err := rows.Err(); err != nil {
		saw = append(saw, showAnyError(err))
	}
	return saw
}

func showAnyError(err error) any {
	var e *pq.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return showPqError(e)
	case errors.Is(err, context.Canceled):
		return "context canceled"
	default:
		return fmt.Sprintf("%T", err)
	}
}

func showPqError(e *pq.Error) any {
	saw := map[string]any{}
	for name, v := range map[string]string{
		"severity": e.Severity, "code": string(e.Code), "message": e.Message, "detail": e.Detail, "hint": e.Hint, "position": e.Position,
		"internalPosition": e.InternalPosition, "internalQuery": e.InternalQuery, "where": e.Where, "schema": e.Schema, "table": e.Table,
		"column": e.Column, "type": e.DataTypeName, "constraint": e.Constraint, "file": e.File, "line": e.Line, "routine": e.Routine,
	} {
		if v != "" {
			saw[name] = v
		}
	}
	return saw
}

func (p pqProgram) connect(ctx context.Context, r *recorder, srv server) error {
	db, err := p.open(r, srv, "application_name=pq drivers", "timezone=Asia/Kathmandu", "options=-c statement_timeout=54321")
	if err != nil {
		return err
	}
	defer closing(db)
	if err := db.PingContext(ctx); err != nil {
		return err
	}
	for _, name := range []string{"application_name", "timezone", "statement_timeout", "client_encoding", "datestyle", "extra_float_digits"} {
		sayQuery(ctx, r, db, "show "+name)
	}
	sayQuery(ctx, r, db, "select timestamptz '2024-02-29 12:34:56+00'")

	wrong := srv
	wrong.password = "not " + srv.password
	denied, err := p.open(r, wrong)
	if err != nil {
		return err
	}
	defer closing(denied)
	r.say("wrong password", showLoginError(denied.PingContext(ctx)))
	return nil
}

func (p pqProgram) simple(ctx context.Context, r *recorder, srv server) error {
	db, err := p.open(r, srv)
	if err != nil {
		return err
	}
	defer closing(db)
	for _, query := range []string{
		"select 1 as a, 'x' as b, null as c, 1.50::numeric(5,2) as d, true as e, '\\x00ff'::bytea as f, timestamptz '2024-01-01 00:00:00Z' as g",
		"select 1; select 'two', 2; select generate_series(1, 3)",
		"select where false", "", ";", "select 1; select 1/0; select 2", "selec", "select 'goes on'",
	} {
		sayQuery(ctx, r, db, query)
	}
	for _, query := range []string{
		"drop table if exists pq_simple", "create table pq_simple (n int); insert into pq_simple select generate_series(1, 5)",
		"update pq_simple set n = n + 1", "delete from pq_simple where n > 4", "insert into pq_simple values (1 / 0)", "insert into pq_simple values (9)", "",
	} {
		sayExec(ctx, r, db, query)
	}
	return nil
}

func (p pqProgram) extended(ctx context.Context, r *recorder, srv server) error {
	db, err := p.open(r, srv)
	if err != nil {
		return err
	}
	defer closing(db)
	pqTable(ctx, r, db, "pq_extended")
	return nil
}

func (p pqProgram) binary(ctx context.Context, r *recorder, srv server) error {
	db, err := p.open(r, srv, "binary_parameters=yes")
	if err != nil {
		return err
	}
	defer closing(db)
	pqTable(ctx, r, db, "pq_binary")
	return nil
}

// pqTable runs statements with parameters; each is an unnamed prepared statement.
func pqTable(ctx context.Context, r *recorder, db querier, table string) {
	sayExec(ctx, r, db, "drop table if exists "+table)
	sayExec(ctx, r, db, "create table "+table+" (id int primary key, name text, at timestamptz, raw bytea, tags text[])")
	at := time.Date(2024, 2, 29, 12, 34, 56, 0, time.UTC)
	for i := range 12 {
		sayExec(ctx, r, db, "insert into "+table+" values ($1, $2, $3, $4, $5)", i, fmt.Sprint("name ", i), at, []byte{0, 255, byte(i)}, pq.Array([]string{"a", "b"}))
	}
	for i := range 12 {
		sayQuery(ctx, r, db, "select id, name, at at time zone 'UTC' as at, raw, tags from "+table+" where id between $1 and $2 order by id", i, i+1)
	}
	sayQuery(ctx, r, db, "select $1::text is null", nil)
	sayQuery(ctx, r, db, "select id from "+table+" where id = $1", -1)
	sayExec(ctx, r, db, "insert into "+table+" (id) values ($1)", 1)
	sayQuery(ctx, r, db, "select 10 / (3 - n) from generate_series(1, $1::int) n", 5)
	sayQuery(ctx, r, db, "select $1::int", "not a number")
	sayQuery(ctx, r, db, "selec $1", 1)
	sayQuery(ctx, r, db, "select count(*) from "+table+" where id > $1", 0)
}

func (p pqProgram) prepared(ctx context.Context, r *recorder, srv server) error {
	db, err := p.open(r, srv)
	if err != nil {
		return err
	}
	defer closing(db)
	var stmts []*sql.Stmt
	for _, query := range []string{"select $1::int + 1 as n", "select $1::text || '!' as t", "select generate_series(1, $1::int) as g"} {
		stmt, err := db.PrepareContext(ctx, query)
		if err != nil {
			return err
		}
		defer closing(stmt)
		stmts = append(stmts, stmt)
	}
	for i := range 12 {
		for _, stmt := range stmts {
			rows, err := stmt.QueryContext(ctx, i)
			r.say("prepared", showSQLRows(rows, err))
		}
		if i == 6 {
			r.say("close", showAnyError(stmts[1].Close()))
		}
	}
	rows, err := stmts[0].QueryContext(ctx, "not a number")
	r.say("error", showSQLRows(rows, err))
	rows, err = stmts[0].QueryContext(ctx, 1)
	r.say("goes on", showSQLRows(rows, err))
	_, err = db.PrepareContext(ctx, "select from where")
	r.say("does not parse", showAnyError(err))
	return nil
}

func (p pqProgram) transactions(ctx context.Context, r *recorder, srv server) error {
	db, err := p.open(r, srv)
	if err != nil {
		return err
	}
	defer closing(db)
	sayExec(ctx, r, db, "drop table if exists pq_tx; create table pq_tx (n int primary key)")
	for _, opts := range []*sql.TxOptions{nil, {Isolation: sql.LevelSerializable}, {ReadOnly: true}} {
		tx, err := db.BeginTx(ctx, opts)
		if err != nil {
			return err
		}
		sayQuery(ctx, r, tx, "show transaction_isolation")
		sayExec(ctx, r, tx, "insert into pq_tx select coalesce(max(n), 0) + $1 from pq_tx", 1)
		r.say("commit", showAnyError(tx.Commit()))
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	stmt, err := tx.PrepareContext(ctx, "insert into pq_tx values ($1)")
	if err != nil {
		return err
	}
	for _, n := range []int{10, 11, 10, 12} {
		_, err := stmt.ExecContext(ctx, n)
		r.say("insert", showAnyError(err))
	}
	r.say("commit of an aborted transaction", showAnyError(tx.Commit()))
	sayQuery(ctx, r, db, "select n from pq_tx order by n")
	tx, err = db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	sayExec(ctx, r, tx, "savepoint s")
	sayExec(ctx, r, tx, "insert into pq_tx values ($1)", 1)
	sayExec(ctx, r, tx, "rollback to s")
	sayExec(ctx, r, tx, "insert into pq_tx values ($1)", 20)
	r.say("rollback", showAnyError(tx.Rollback()))
	sayQuery(ctx, r, db, "select count(*) from pq_tx")
	return nil
}

func (p pqProgram) copy(ctx context.Context, r *recorder, srv server) error {
	db, err := p.open(r, srv)
	if err != nil {
		return err
	}
	defer closing(db)
	sayExec(ctx, r, db, "drop table if exists pq_copy; create table pq_copy (id int primary key, name text)")
	for _, from := range []int{0, 20_000, 39_999, 50_000} { // the third has a key of the second
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		stmt, err := tx.PrepareContext(ctx, `COPY "pq_copy" ("id", "name") FROM STDIN`)
		if err != nil {
			return err
		}
		for i := range 20_000 {
			if _, err = stmt.ExecContext(ctx, from+i, "name\t\\"); err != nil {
				break // an error of the server may come at any row; the last call tells it for sure
			}
		}
		_, err = stmt.ExecContext(ctx)
		// Close waits for the goroutine that reads the server's answers; without it the rollback would race with that.
		failed := errors.Join(err, stmt.Close()) != nil
		r.say("copied", !failed)
		if failed {
			r.say("rollback", showAnyError(tx.Rollback()))
			continue
		}
		r.say("commit", showAnyError(tx.Commit()))
	}
	sayQuery(ctx, r, db, "select count(*), sum(id), min(name) from pq_copy")
	return nil
}

func (p pqProgram) notices(ctx context.Context, r *recorder, srv server) error {
	db, err := p.open(r, srv)
	if err != nil {
		return err
	}
	defer closing(db)
	sayExec(ctx, r, db, "drop table if exists never_was")
	sayExec(ctx, r, db, "do $$ begin raise notice 'n' using detail = 'd', hint = 'h'; raise warning 'w'; end $$")
	sayExec(ctx, r, db, "do $$ begin raise notice 'before'; raise exception 'failed' using errcode = 'XY123'; end $$")
	sayQuery(ctx, r, db, "select 'goes on'")
	return nil
}

func (p pqProgram) large(ctx context.Context, r *recorder, srv server) error {
	db, err := p.open(r, srv)
	if err != nil {
		return err
	}
	defer closing(db)
	for _, size := range []int{8_192, 65_536, 4 << 20} {
		sayQuery(ctx, r, db, "select $1::text, length($1)", strings.Repeat("v", size))
	}
	sayQuery(ctx, r, db, "select n, repeat('r', n % 100) from generate_series(1, $1::int) n", 50_000)
	return nil
}

func (p pqProgram) cancel(ctx context.Context, r *recorder, srv server) error {
	db, err := p.open(r, srv)
	if err != nil {
		return err
	}
	defer closing(db)
	watch, err := p.open(r, srv)
	if err != nil {
		return err
	}
	defer closing(watch)
	for _, args := range [][]any{nil, {30}} {
		query := "select pg_sleep(30)"
		if len(args) > 0 {
			query = "select pg_sleep($1)"
		}
		short, cancel := context.WithCancel(ctx)
		asleep := make(chan error, 1)
		go func() {
			asleep <- awaitCount(ctx, watch, sleepers, 1)
			cancel()
		}()
		_, err = db.ExecContext(short, query, args...)
		r.say("cancelled", showAnyError(err))
		if err := <-asleep; err != nil {
			return err
		}
		sayQuery(ctx, r, db, "select 'goes on', $1::int", 1)
	}
	r.say("nobody sleeps", showAnyError(awaitCount(ctx, watch, sleepers, 0)))
	return nil
}

func awaitCount(ctx context.Context, db *pqConn, count string, want int) error {
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var n int
		if err := db.QueryRowContext(ctx, count).Scan(&n); err != nil {
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

func (p pqProgram) session(ctx context.Context, r *recorder, srv server) error {
	db, err := p.open(r, srv)
	if err != nil {
		return err
	}
	defer closing(db)
	for _, query := range []string{
		"set timezone = 'Asia/Tokyo'", "create temp table mine (n int)", "insert into mine values (1)", "set search_path = pg_temp, public",
	} {
		sayExec(ctx, r, db, query)
	}
	for _, query := range []string{"show timezone", "select n from mine", "show search_path", "select pg_try_advisory_lock(7)"} {
		sayQuery(ctx, r, db, query)
	}

	var events []string
	listener := pq.NewListener(srv.url(p.params...), time.Second, time.Second, func(pq.ListenerEventType, error) {})
	defer closing(listener)
	if err := listener.Listen("pq_news"); err != nil {
		return err
	}
	sayExec(ctx, r, db, "notify pq_news, 'extra'")
	select {
	case n := <-listener.Notify:
		events = append(events, n.Channel, n.Extra)
	case <-time.After(10 * time.Second):
		return errors.New("no notification")
	}
	r.say("notified", events)
	r.say("ping", showAnyError(listener.Ping()))
	return nil
}

// turns makes two clients share a server connection. lib/pq names its statements 1, 2, 3…, so both use the same names
// for different statements.
func (p pqProgram) turns(ctx context.Context, r *recorder, srv server) error {
	srv.database = srv.one
	var stmts [2]*sql.Stmt
	for i := range stmts {
		db, err := p.open(r, srv)
		if err != nil {
			return err
		}
		defer closing(db)
		if stmts[i], err = db.PrepareContext(ctx, fmt.Sprintf("select 'client %d', $1::int", i)); err != nil {
			return err
		}
		defer closing(stmts[i])
	}
	for round := range 12 {
		for _, stmt := range stmts {
			rows, err := stmt.QueryContext(ctx, round)
			r.say("prepared", showSQLRows(rows, err))
		}
	}
	return nil
}
