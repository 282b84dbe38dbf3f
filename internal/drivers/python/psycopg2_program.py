"""psycopg2 against the server of PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE; prints a transcript."""
import decimal
import io
import os
import threading

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import psycopg2.extras

from transcript import SLEEPERS, begin, features, say, short, show, show_columns, show_error, show_rows, wait_for


def show_result(cur):
    saw = {"status": cur.statusmessage, "rowcount": cur.rowcount}
    if cur.description is not None:
        saw["columns"] = show_columns(cur.description)
        saw["rows"] = show_rows(cur.fetchall())
    return saw


def status(conn):
    return [conn.status, conn.info.transaction_status]


def run(conn, step, sql, args=None):
    """Run one statement and say all that came of it."""
    with conn.cursor() as cur:
        try:
            cur.execute(sql, args)
            say(step, show_result(cur))
        except psycopg2.Error as e:
            say(step, show_error(e))
    say_notices(conn)
    say("status", status(conn))


def say_notices(conn):
    for notice in conn.notices:
        say("notice", notice)
    conn.notices.clear()


def open_connection(**params):
    return psycopg2.connect("", **params)


def connect():
    conn = open_connection()
    for name in [
        "server_version", "server_encoding", "client_encoding", "application_name", "is_superuser", "session_authorization", "DateStyle",
        "IntervalStyle", "TimeZone", "integer_datetimes", "standard_conforming_strings",
    ]:
        say(name, conn.info.parameter_status(name))
    say("protocol", conn.info.protocol_version)
    say("server version", conn.server_version)
    say("has a process id", conn.info.backend_pid > 0)
    say("encoding", conn.encoding)
    say("status", status(conn))
    conn.close()
    try:
        open_connection(password="wrong")
    except psycopg2.OperationalError as e:
        say("wrong password", str(e).replace(os.environ["PGPORT"], "PORT"))


def startup_parameters():
    # psycopg2 sends SET datestyle TO 'ISO' at connect when the server reports another style.
    conn = open_connection(application_name="drivers' tests", options="-c timezone=Asia/Kathmandu -c statement_timeout=54321 -c datestyle=German")
    conn.autocommit = True
    say("reported", [conn.info.parameter_status(n) for n in ["application_name", "TimeZone", "DateStyle"]])
    for name in ["application_name", "timezone", "statement_timeout"]:
        run(conn, name, "show " + name)
    run(conn, "rendered", "select timestamptz '2024-02-29 12:34:56+00', date '2024-02-29'")
    conn.close()


def types():
    conn = open_connection()
    for expr in [
        "true", "1::int2", "3::int8", "0.1::float8", "'NaN'::numeric", "12345.678900::numeric", "'text'::text", "'c'::char(3)",
        "'\\x00ff'::bytea", "'2024-02-29'::date", "'12:34:56.789'::time", "'2024-02-29 12:34:56.789'::timestamp",
        "'2024-02-29 12:34:56+05:45'::timestamptz", "'1 mon 2 days 03:04:05'::interval", "'00112233-4455-6677-8899-aabbccddeeff'::uuid",
        "'{\"a\": [1, null]}'::json", "'{\"a\": [1, null]}'::jsonb", "'{1,NULL,3}'::int4[]", "'{{a,\"b c\"},{NULL,\"d\"}}'::text[]",
        "'[1,10)'::int4range", "'10.0.0.1/8'::inet", "null::text", "row(1, 'x')", "'grüße 🌊'",
    ]:
        run(conn, expr, "select " + expr + " as v")
    for value in [None, True, 42, 2**40, 0.5, decimal.Decimal("1.50"), "o'clock \\ %", b"\x00\xff", [1, 2], ["a", None], ("x", 1)]:
        run(conn, repr(value), "select %s", (value,) if not isinstance(value, tuple) else (psycopg2.extensions.adapt(value),))
    conn.close()


def queries():
    conn = open_connection()
    run(conn, "setup", "drop table if exists py_q; create table py_q (id int primary key, name text check (name <> 'bad'))")
    conn.commit()
    with conn.cursor() as cur:
        cur.executemany("insert into py_q values (%s, %s)", [(i, f"name {i}") for i in range(20)])
        say("executemany", [cur.rowcount, cur.statusmessage])
        psycopg2.extras.execute_values(cur, "insert into py_q values %s returning id", [(i, "v") for i in range(100, 250)], page_size=40)
        say("execute_values", show_result(cur))
        psycopg2.extras.execute_batch(cur, "update py_q set name = %s where id = %s", [(f"b{i}", i) for i in range(20)], page_size=7)
        say("execute_batch", [cur.rowcount, cur.statusmessage])
    conn.commit()
    run(conn, "select", "select * from py_q where id < %(n)s order by id", {"n": 5})
    run(conn, "several statements", "select 1; select 2, 'two'; update py_q set name = 'u' where id < 3")
    run(conn, "several results", "insert into py_q values (900, 'x'); select count(*) from py_q")
    run(conn, "empty", "")
    run(conn, "only a comment", "-- nothing")
    run(conn, "no columns", "select from py_q where id < 2")
    conn.rollback()
    run(conn, "error: unique", "insert into py_q values (1, 'x')")
    run(conn, "aborted", "select 1")
    conn.rollback()
    run(conn, "error: check", "insert into py_q values (1000, 'bad')")
    conn.rollback()
    run(conn, "error: division", "select 1 / %s", (0,))
    conn.rollback()
    run(conn, "error: syntax", "selec 1")
    conn.rollback()
    run(conn, "error: no such table", "select * from nowhere")
    conn.rollback()
    run(conn, "goes on", "select count(*) from py_q")
    conn.close()


def transactions():
    conn = open_connection()
    run(conn, "setup", "drop table if exists py_tx; create table py_tx (n int)")
    conn.commit()
    say("status", status(conn))
    with conn:
        run(conn, "with", "insert into py_tx values (1)")
    say("status", status(conn))
    try:
        with conn:
            run(conn, "with", "insert into py_tx values (2)")
            raise ValueError("rolls back")
    except ValueError as e:
        say("rolled back", str(e))
    run(conn, "count", "select count(*) from py_tx")
    run(conn, "savepoint", "savepoint s")
    run(conn, "fails", "select 1/0")
    run(conn, "rollback to", "rollback to s")
    run(conn, "goes on", "insert into py_tx values (3)")
    conn.commit()
    for params in [{"isolation_level": "SERIALIZABLE", "readonly": True, "deferrable": True}, {"isolation_level": "REPEATABLE READ", "readonly": False}]:
        # In a transaction psycopg2 says all of this in BEGIN, so it leaves nothing behind in the session.
        conn.set_session(**params)
        run(conn, "isolation", "select current_setting('transaction_isolation'), current_setting('transaction_read_only')")
        run(conn, "write", "insert into py_tx values (4)")
        conn.rollback()
    conn.close()
    left = open_connection()
    run(left, "uncommitted", "insert into py_tx values (5)")
    left.close()  # without commit or rollback
    other = open_connection()

    def locks():
        with other.cursor() as cur:
            cur.execute("select count(*) from pg_locks where relation = 'py_tx'::regclass")
            count = cur.fetchone()[0]
        other.rollback()
        return count

    wait_for(0, locks)
    say("locks left behind", 0)
    run(other, "count", "select count(*), sum(n) from py_tx")
    other.close()


def autocommit():
    conn = open_connection()
    conn.autocommit = True
    run(conn, "setup", "drop table if exists py_auto")
    run(conn, "setup", "create table py_auto (n int primary key)")
    run(conn, "insert", "insert into py_auto values (1)")
    run(conn, "vacuum", "vacuum py_auto")
    run(conn, "error", "insert into py_auto values (1)")
    run(conn, "goes on", "select * from py_auto")
    run(conn, "begin by hand", "begin")
    run(conn, "insert", "insert into py_auto values (2)")
    run(conn, "rollback by hand", "rollback")
    run(conn, "select", "select * from py_auto")
    conn.autocommit = False
    run(conn, "insert", "insert into py_auto values (3)")
    conn.rollback()
    conn.close()


def named_cursor():
    conn = open_connection()
    for name, size, scrollable in [("plain", 2000, None), ("small", 7, True), ("no scroll", 10, False)]:
        with conn.cursor(name=name, scrollable=scrollable) as cur:
            cur.itersize = size
            cur.execute("select g, repeat('x', g %% 50) from generate_series(1, %s) g", (100,))
            say("first", show(cur.fetchone()))
            say("many", show(cur.fetchmany(5)))
            if scrollable:
                cur.scroll(-3)
                say("scrolled back", show(cur.fetchone()))
            say("iterated", [row[0] for row in cur])
            say("after the end", show(cur.fetchone()))
        say("status", status(conn))
    with conn.cursor(name="fails") as cur:
        try:
            cur.itersize = 5
            cur.execute("select 1 / (12 - g) from generate_series(1, 20) g")
            say("rows", [row[0] for row in cur])
        except psycopg2.Error as e:
            say("error", show_error(e))
    conn.rollback()
    run(conn, "goes on", "select 'goes on'")
    conn.close()


def copy():
    conn = open_connection()
    run(conn, "setup", "drop table if exists py_copy; create table py_copy (id int primary key, name text)")
    conn.commit()

    def copy_in(step, sql, text):
        with conn.cursor() as cur:
            try:
                cur.copy_expert(sql, io.StringIO(text))
                say(step, [cur.rowcount, cur.statusmessage, *status(conn)])
            except psycopg2.Error as e:
                say(step, [show_error(e), *status(conn)])
                conn.rollback()

    rows = "".join(f"{i},name {i}\n" for i in range(20000))
    copy_in("csv", "copy py_copy from stdin with (format csv)", rows)
    copy_in("text", "copy py_copy from stdin", "50000\ttab\\tin it\n50001\t\\N\n")
    conn.commit()
    copy_in("duplicate", "copy py_copy from stdin with (format csv)", rows)
    copy_in("bad row", "copy py_copy from stdin with (format csv)", "60000,x\nnot a row\n" + rows)
    copy_in("nothing", "copy py_copy from stdin", "")
    copy_in("no such table", "copy nowhere from stdin", "1\n")

    class Broken(io.StringIO):
        def read(self, size=-1):
            raise OSError("the source is broken")

    with conn.cursor() as cur:
        try:
            cur.copy_expert("copy py_copy from stdin", Broken())
        except Exception as e:  # whatever it becomes
            say("source fails", show_error(e))
    conn.rollback()
    for sql in [
        "copy py_copy to stdout with (format csv, header)", "copy (select * from py_copy order by id limit 3) to stdout",
        "copy (select 1 / (5 - g) from generate_series(1, 9) g) to stdout", "copy nowhere to stdout",
    ]:
        out = io.StringIO()
        with conn.cursor() as cur:
            try:
                cur.copy_expert(sql, out)
                say(sql, [short(out.getvalue()), cur.rowcount, cur.statusmessage])
            except psycopg2.Error as e:
                say(sql, [short(out.getvalue()), show_error(e)])
                conn.rollback()
    run(conn, "count", "select count(*), sum(id) from py_copy")
    conn.close()


def notices():
    conn = open_connection()
    for sql in [
        "drop table if exists never_was", "do $$ begin raise notice 'n' using detail = 'd', hint = 'h'; raise warning 'w'; end $$",
        "do $$ begin for i in 1..60 loop raise notice 'n %', i; end loop; end $$",
        "do $$ begin raise notice 'before'; raise exception 'failed' using errcode = 'XY123', detail = 'd'; end $$",
    ]:
        run(conn, sql, sql)
        conn.rollback()
    conn.close()


def large_objects():
    conn = open_connection()
    lo = conn.lobject(0, "wb")
    say("write", lo.write(b"large object " * 10000))
    oid = lo.oid
    lo.close()
    conn.commit()
    lo = conn.lobject(oid, "rb")
    say("seek", lo.seek(6))
    say("read", lo.read(20).decode())
    say("tell", lo.tell())
    say("rest", short(lo.read().decode()))
    lo.close()
    conn.lobject(oid, "n").unlink()
    conn.commit()
    try:
        conn.lobject(oid, "rb")
    except psycopg2.Error as e:
        say("gone", type(e).__name__)
    conn.rollback()
    run(conn, "goes on", "select 'goes on'")
    conn.close()


def large_values():
    conn = open_connection()
    for size in [8192, 65536, 4 << 20]:
        run(conn, f"value of {size}", "select %s::text, length(%s)", ("v" * size, "v" * size))
    run(conn, "many rows", "select g, repeat('r', g %% 100) from generate_series(1, %s) g", (20000,))
    conn.close()


def cancel():
    conn, watch = open_connection(), open_connection()
    watch.autocommit = True

    def sleepers():
        with watch.cursor() as cur:
            cur.execute(SLEEPERS)
            return cur.fetchone()[0]

    def cancel_sleeper():
        wait_for(1, sleepers)
        conn.cancel()

    for auto in [False, True]:
        conn.autocommit = auto
        for _ in range(2):
            thread = threading.Thread(target=cancel_sleeper)
            thread.start()
            run(conn, "cancelled", "select pg_sleep(30)")
            thread.join()
            conn.rollback()
            run(conn, "goes on", "select 'goes on'")
            conn.rollback()
    conn.cancel()  # nothing runs
    run(conn, "unharmed", "select 'unharmed' from pg_sleep(0.01)")
    wait_for(0, sleepers)
    conn.close()
    watch.close()


def asynchronous():
    import select

    conn = psycopg2.connect("", async_=True)

    def wait():
        while True:
            state = conn.poll()
            if state == psycopg2.extensions.POLL_OK:
                return
            fd = [conn.fileno()]
            select.select(fd if state == psycopg2.extensions.POLL_READ else [], fd if state == psycopg2.extensions.POLL_WRITE else [], [], 30)

    wait()
    cur = conn.cursor()
    for sql in ["select 1, 'async'", "select g from generate_series(1, 5) g", "select 1/0", "select 'goes on'"]:
        try:
            cur.execute(sql)
            wait()
            say(sql, show_result(cur))
        except psycopg2.Error as e:
            say(sql, show_error(e))
    conn.close()


def session_state():
    conn, other = open_connection(), open_connection()
    other.autocommit = True
    conn.autocommit = True
    for sql in [
        "set timezone = 'Asia/Tokyo'", "show timezone", "select timestamptz '2024-01-01 00:00:00Z'", "create temp table mine (n int)",
        "insert into mine values (1)", "select * from mine", "prepare p (int) as select $1 * 2", "execute p (21)", "select pg_try_advisory_lock(7)",
        "listen py_news",
    ]:
        run(conn, sql, sql)
    conn.set_session(readonly=True, isolation_level="SERIALIZABLE")  # with autocommit: SET SESSION CHARACTERISTICS or default_transaction_…
    run(conn, "read-only", "create table py_never (n int)")
    conn.set_session(readonly=False, isolation_level="DEFAULT")
    conn.set_client_encoding("LATIN1")
    run(conn, "latin1", "select 'grüße', current_setting('client_encoding')")
    run(other, "lock", "select pg_try_advisory_lock(7)")
    run(other, "notify", "notify py_news, 'extra'")

    def heard():
        conn.poll()
        return [[n.channel, n.payload] for n in conn.notifies]

    wait_for([["py_news", "extra"]], heard)
    say("notified", heard())
    conn.autocommit = False
    with conn.cursor(name="held", withhold=True) as cur:
        cur.execute("select generate_series(1, 10)")
        say("before the commit", cur.fetchmany(3))
        conn.commit()
        say("after the commit", cur.fetchmany(3))
    conn.commit()
    conn.reset()
    run(conn, "reset", "show timezone")
    conn.close()
    other.close()


begin("psycopg2", psycopg2.__version__.split()[0])
features({
    "connect": connect,
    "startup parameters": startup_parameters,
    "types": types,
    "queries and errors": queries,
    "transactions": transactions,
    "autocommit": autocommit,
    "named cursors": named_cursor,
    "COPY (copy_expert)": copy,
    "notices": notices,
    "large objects": large_objects,
    "large values": large_values,
    "cancel": cancel,
    "asynchronous connection": asynchronous,
    "session state": session_state,
})
