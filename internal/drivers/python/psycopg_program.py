"""psycopg 3 against the server of PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE; prints a transcript."""
import asyncio
import datetime
import decimal
import os
import threading
import uuid

import psycopg
from psycopg.types.json import Jsonb

from transcript import SLEEPERS, begin, features, say, short, show, show_columns, show_diagnostics, show_error, show_rows, wait_for


def open_connection(**params):
    conn = psycopg.connect("", **params)
    conn.add_notice_handler(lambda diag: say("notice", show_diagnostics(diag)))
    return conn


def show_results(cur):
    """All results of what was run; several when it was several statements."""
    saw = []
    while True:
        result = {"status": cur.statusmessage, "rowcount": cur.rowcount}
        if cur.description is not None:
            result["columns"] = show_columns(cur.description)
            result["formats"] = [cur.pgresult.fformat(i) for i in range(cur.pgresult.nfields)]
            result["rows"] = show_rows(cur.fetchall())
        saw.append(result)
        if not cur.nextset():
            return saw


def status(conn):
    return conn.info.transaction_status.name


def run(conn, step, sql, args=None, **options):
    """Runs one statement and says all that came of it."""
    try:
        say(step, show_results(conn.execute(sql, args, **options)))
    except psycopg.Error as e:
        say(step, show_error(e))
    say("status", status(conn))


def connect():
    conn = open_connection()
    for name in [
        "server_version", "server_encoding", "client_encoding", "application_name", "is_superuser", "session_authorization", "DateStyle",
        "IntervalStyle", "TimeZone", "integer_datetimes", "standard_conforming_strings",
    ]:
        say(name, conn.info.parameter_status(name))
    say("server version", conn.info.server_version)
    say("has a process id", conn.info.backend_pid > 0)
    say("encoding", conn.info.encoding)
    say("status", status(conn))
    conn.close()
    try:
        open_connection(password="wrong")
    except psycopg.OperationalError as e:
        say("wrong password", str(e).replace(os.environ["PGPORT"], "PORT"))


def startup_parameters():
    with open_connection(application_name="drivers' tests", options="-c timezone=Asia/Kathmandu -c statement_timeout=54321 -c datestyle=German") as conn:
        say("reported", [conn.info.parameter_status(n) for n in ["application_name", "TimeZone", "DateStyle"]])
        for name in ["application_name", "timezone", "statement_timeout"]:
            run(conn, name, "show " + name)
        run(conn, "rendered", "select (timestamptz '2024-02-29 12:34:56+00')::text, (date '2024-02-29')::text")
        run(conn, "as datetime", "select timestamptz '2024-02-29 12:34:56+00'", binary=True)


def types():
    conn = open_connection()
    for expr in [
        "true", "1::int2", "3::int8", "0.1::float8", "'NaN'::numeric", "12345.678900::numeric", "'text'::text", "'c'::char(3)",
        "'\\x00ff'::bytea", "'2024-02-29'::date", "'12:34:56.789'::time", "'2024-02-29 12:34:56.789'::timestamp",
        "'2024-02-29 12:34:56+05:45'::timestamptz", "'2 days 03:04:05'::interval", "'00112233-4455-6677-8899-aabbccddeeff'::uuid",
        "'{\"a\": [1, null]}'::json", "'{\"a\": [1, null]}'::jsonb", "'{1,NULL,3}'::int4[]", "'{{a,\"b c\"},{NULL,\"d\"}}'::text[]",
        "'[1,10)'::int4range", "'10.0.0.1'::inet", "null::text", "row(1, 'x')", "'grüße 🌊'",
    ]:
        run(conn, expr, "select " + expr + " as v")
        run(conn, "binary " + expr, "select " + expr + " as v", binary=True)
    for value in [
        None, True, 42, 2**20, 2**40, 0.5, decimal.Decimal("1.50"), "o'clock \\ %", b"\x00\xff", [1, 2], ["a", None], datetime.date(2024, 2, 29),
        datetime.datetime(2024, 2, 29, 12, 34, 56, tzinfo=datetime.timezone.utc), datetime.timedelta(days=2, seconds=3), uuid.UUID(int=1),
        Jsonb({"a": [1, None]}),
    ]:
        run(conn, repr(value), "select %s", (value,))
        run(conn, "binary " + repr(value), "select %b", (value,), binary=True)
    conn.close()


def queries():
    conn = open_connection()
    run(conn, "setup", "drop table if exists p3_q; create table p3_q (id int primary key, name text check (name <> 'bad'))")
    conn.commit()
    with conn.cursor() as cur:
        cur.executemany("insert into p3_q values (%s, %s)", [(i, f"name {i}") for i in range(300)])
        say("executemany", [cur.rowcount, cur.statusmessage])
        cur.executemany("insert into p3_q values (%s, %s) returning id", [(i, "r") for i in range(400, 405)], returning=True)
        say("executemany, returning", show_results(cur))
        try:
            cur.executemany("insert into p3_q values (%s, %s)", [(i, "x") for i in [500, 501, 500, 502]])
        except psycopg.Error as e:
            say("executemany, duplicate", show_error(e))
    conn.rollback()
    with conn.cursor() as cur:
        cur.executemany("insert into p3_q values (%s, %s)", [(i, f"name {i}") for i in range(20)])
    conn.commit()
    run(conn, "select", "select * from p3_q where id < %(n)s order by id", {"n": 5})
    run(conn, "several statements", "select 1; select 2, 'two'; update p3_q set name = 'u' where id < 3")
    run(conn, "several statements with parameters", "select %s; select 2", (1,))
    conn.rollback()
    run(conn, "empty", "")
    run(conn, "only a comment", "-- nothing")
    run(conn, "no columns", "select from p3_q where id < 2")
    with psycopg.ClientCursor(conn) as cur:
        cur.execute("select %s, %s; select %s", (1, "x", None))
        say("client cursor", show_results(cur))
    with conn.cursor() as cur:
        say("stream", [show(row) for row in cur.stream("select g, repeat('x', g) from generate_series(1, %s) g", (5,))])
        seen = []
        try:
            for row in cur.stream("select 10 / (5 - g) from generate_series(1, %s) g", (9,)):
                seen.append(show(row))
        except psycopg.Error as e:
            say("stream that fails", [seen, show_error(e)])
    conn.rollback()
    for step, sql, args in [
        ("error: unique", "insert into p3_q values (%s, 'x')", (1,)), ("error: check", "insert into p3_q values (%s, 'bad')", (1000,)),
        ("error: division", "select 1 / %s", (0,)), ("error: syntax", "selec %s", (1,)), ("error: no such table", "select * from nowhere", None),
        ("error: not a number", "select %s::int", ("x",)), ("error: type unknown", "select %s + %s", ("a", "b")),
    ]:
        run(conn, step, sql, args)
        run(conn, "aborted", "select %s", (1,))
        conn.rollback()
    run(conn, "goes on", "select count(*) from p3_q")
    conn.close()


def automatic_prepare():
    # The sixth run of a text with the same types of parameters prepares it.
    conn = open_connection()
    run(conn, "setup", "drop table if exists p3_p; create table p3_p (id int primary key, name text)")
    conn.commit()
    for i in range(12):
        run(conn, "insert", "insert into p3_p values (%s, %s) returning *", (i, f"name {i}"))
        conn.commit()
    for i in range(12):
        run(conn, "select", "select id, name from p3_p where id >= %s order by id limit 2", (i,))
        run(conn, "other types", "select id, name from p3_p where id >= %s order by id limit 2", (i + 2**40,))
        run(conn, "binary", "select id, name from p3_p where id >= %s order by id limit 2", (i,), binary=True)
        conn.commit()
    for i in range(8):
        run(conn, "no parameters", "select count(*) from p3_p")
        run(conn, "fails when prepared", "select 10 / (6 - %s)", (i,))
        if status(conn) == "INERROR":
            conn.rollback()
    run(conn, "at once", "select %s, 'prepared at once'", (1,), prepare=True)
    run(conn, "never", "select %s, 'never prepared'", (1,), prepare=False)
    run(conn, "does not parse", "selec %s", (1,), prepare=True)
    conn.rollback()
    conn.prepare_threshold = None
    for i in range(8):
        run(conn, "threshold None", "select %s, 'never'", (i,))
    conn.prepare_threshold = 0
    for i in range(3):
        run(conn, "threshold 0", "select %s, 'always'", (i,))
    conn.close()


def deallocate_all():
    """After a ROLLBACK or a DROP the driver runs DEALLOCATE ALL, for what it has prepared may mean something else now."""
    conn = open_connection()
    run(conn, "setup", "drop table if exists p3_d; create table p3_d (n int)")
    conn.commit()
    for i in range(7):
        run(conn, "prepared", "insert into p3_d values (%s)", (i,))
    conn.rollback()
    for i in range(7):
        run(conn, "after the rollback", "insert into p3_d values (%s)", (i,))
    conn.commit()
    run(conn, "drop", "drop table p3_d")
    run(conn, "create", "create table p3_d (n text)")
    for i in range(7):
        run(conn, "after the drop", "insert into p3_d values (%s) returning n", (str(i),))
    conn.commit()
    conn.close()


def deallocate_one():
    """The driver keeps prepared_max statements, 100 by default, and runs DEALLOCATE for the oldest of more."""
    conn = open_connection(autocommit=True)
    for round in range(2):
        for i in range(130):
            run(conn, "many", f"select {i}, %s", (round,), prepare=True)
    conn.prepared_max = 3
    for round in range(3):
        for i in range(5):
            run(conn, "few", f"select 'few {i}', %s", (round,), prepare=True)
    conn.close()
    conn = open_connection(autocommit=True)
    run(conn, "prepared", "select %s", (1,), prepare=True)
    run(conn, "by hand", "deallocate _pg3_0")  # what it does of itself depends on the version of libpq
    conn.close()


def prepared_before_ddl():
    conn, other = open_connection(autocommit=True), open_connection(autocommit=True)
    run(conn, "setup", "drop table if exists p3_ddl; create table p3_ddl (n int); insert into p3_ddl values (1)")
    for i in range(7):
        run(conn, "select", "select *, %s::int as p from p3_ddl", (i,))
    run(other, "alter", "alter table p3_ddl add column t text default 'new'")
    run(conn, "the plan has changed", "select *, %s::int as p from p3_ddl", (1,))
    run(conn, "goes on", "select 'goes on', %s::int", (1,))
    conn.close()
    other.close()


def transactions():
    conn = open_connection()
    run(conn, "setup", "drop table if exists p3_tx; create table p3_tx (n int primary key)")
    conn.commit()

    def insert(n):
        conn.execute("insert into p3_tx values (%s)", (n,))

    def attempt(step, block):
        try:
            block()
            say(step, "done")
        except Exception as e:
            say(step, show_error(e))
        say("status", status(conn))
        run(conn, "rows", "select array_agg(n order by n) from p3_tx")
        conn.rollback()

    def commits():
        with conn.transaction():
            insert(1)

    def raises():
        with conn.transaction():
            insert(2)
            raise ValueError("rolls back")

    def nested():
        with conn.transaction():
            insert(3)
            for n in range(10, 18):
                try:
                    with conn.transaction():
                        insert(n)
                        if n % 2:
                            insert(3)  # a duplicate
                except psycopg.errors.UniqueViolation as e:
                    say("duplicate", show_error(e))
            with conn.transaction("outer") as outer:
                insert(20)
                with conn.transaction("inner"):
                    insert(21)
                    raise psycopg.Rollback(outer)
            with conn.transaction(force_rollback=True):
                insert(22)

    def commits_what_failed():
        with conn.transaction():
            insert(4)
            try:
                insert(4)
            except psycopg.errors.UniqueViolation:
                pass

    for block in [commits, raises, nested, commits_what_failed]:
        attempt(block.__name__, block)
    for autocommit in [False, True]:
        conn.autocommit = autocommit
        for level, read_only, deferrable in [("SERIALIZABLE", True, True), ("REPEATABLE_READ", False, None), (None, None, None)]:
            # All of this is said in BEGIN, so it leaves nothing behind in the session.
            conn.isolation_level = level and psycopg.IsolationLevel[level]
            conn.read_only, conn.deferrable = read_only, deferrable
            try:
                with conn.transaction():
                    run(conn, "isolation", "select current_setting('transaction_isolation'), current_setting('transaction_read_only')")
                    run(conn, "write", "insert into p3_tx values (%s)", (30,))
                    raise psycopg.Rollback()
            except psycopg.Error as e:
                say("ends", show_error(e))
    run(conn, "autocommit", "insert into p3_tx values (%s)", (40,))
    run(conn, "vacuum", "vacuum p3_tx")
    conn.autocommit = False
    conn.execute("insert into p3_tx values (50)")
    conn.close()  # without commit or rollback
    with open_connection(autocommit=True) as other:
        wait_for(0, lambda: other.execute("select count(*) from pg_locks where relation = 'p3_tx'::regclass").fetchone()[0])
        run(other, "left behind", "select count(*), sum(n) from p3_tx")


def pipeline():
    conn = open_connection(autocommit=True)
    run(conn, "setup", "drop table if exists p3_pipe; create table p3_pipe (n int primary key, t text)")
    with conn.pipeline():
        cursors = [conn.execute("select %s::int, repeat('x', %s)", (i, i)) for i in range(40)]  # prepared on the way
        conn.execute("insert into p3_pipe values (%s, %s)", (1, "one"))
        say("fetched on the way", show(cursors[7].fetchone()))
    say("results", [show(c.fetchone()) for c in cursors if c is not cursors[7]])
    run(conn, "outside", "select * from p3_pipe")

    try:
        with conn.pipeline():  # where in it the error is raised depends on when the answer comes
            for n, t in [(2, "two"), (1, "duplicate"), (3, "three")]:
                conn.execute("insert into p3_pipe values (%s, %s)", (n, t))
    except psycopg.Error as e:
        say("error", show_error(e))
    run(conn, "after the error", "select n from p3_pipe order by n")

    with conn.pipeline() as pipe:
        try:
            conn.execute("select 1 / %s", (0,)).fetchone()
        except psycopg.Error as e:
            say("caught within", show_error(e))
        try:
            conn.execute("select %s", (1,)).fetchone()
        except psycopg.Error as e:
            say("aborted until the next sync", show_error(e))
        pipe.sync()
        say("goes on", show(conn.execute("select %s::text", ("goes on",)).fetchone()))

    with conn.pipeline():
        with conn.transaction():
            conn.execute("insert into p3_pipe values (%s, %s)", (10, "in a transaction"))
            try:
                with conn.transaction():
                    conn.execute("insert into p3_pipe values (%s, %s)", (10, "duplicate"))
            except psycopg.errors.UniqueViolation as e:
                say("savepoint", show_error(e))
            conn.execute("insert into p3_pipe values (%s, %s)", (11, "in a transaction"))
        with conn.cursor() as cur:
            cur.executemany("insert into p3_pipe values (%s, %s) returning n", [(i, "many") for i in range(100, 160)], returning=True)
            say("executemany", [r["rows"] for r in show_results(cur)])
    run(conn, "in the end", "select count(*), sum(n) from p3_pipe")
    conn.close()


def server_cursors():
    conn = open_connection()
    for name, size, options in [("plain", 100, {}), ("small", 7, {"scrollable": True}), ("no scroll", 10, {"scrollable": False})]:
        with conn.cursor(name, **options) as cur:
            cur.itersize = size
            cur.execute("select g, repeat('x', g %% 50) from generate_series(1, %s) g", (100,), binary=name == "plain")
            say("first", show(cur.fetchone()))
            say("many", show(cur.fetchmany(5)))
            if options.get("scrollable"):
                cur.scroll(-3)
                say("scrolled back", show(cur.fetchone()))
            say("iterated", [row[0] for row in cur])
            say("after the end", show(cur.fetchone()))
        say("status", status(conn))
    with conn.cursor("fails") as cur:
        try:
            cur.itersize = 5
            cur.execute("select 1 / (12 - g) from generate_series(1, 20) g")
            say("rows", [row[0] for row in cur])
        except psycopg.Error as e:
            say("error", show_error(e))
    conn.rollback()
    run(conn, "goes on", "select 'goes on'")
    conn.close()


def copy():
    conn = open_connection()
    run(conn, "setup", "drop table if exists p3_copy; create table p3_copy (id int primary key, name text)")
    conn.commit()

    def copy_in(step, sql, write):
        with conn.cursor() as cur:
            try:
                with cur.copy(sql) as copy:
                    write(copy)
                say(step, [cur.rowcount, cur.statusmessage])
            except psycopg.Error as e:
                say(step, show_error(e))
        say("status", status(conn))
        if status(conn) == "INERROR":
            conn.rollback()

    def write_rows(start, count):
        def write(copy):
            for i in range(count):
                copy.write_row((start + i, f"name\t{i}"))

        return write

    def write_binary(copy):
        copy.set_types(["int4", "text"])
        write_rows(30000, 1000)(copy)

    def broken(copy):
        copy.write_row((90000, "x"))
        raise OSError("the source is broken")

    copy_in("rows", "copy p3_copy from stdin", write_rows(0, 20000))
    copy_in("csv", "copy p3_copy from stdin with (format csv)", lambda copy: copy.write('50000,"a, b"\n50001,\n'))
    copy_in("binary", "copy p3_copy from stdin with (format binary)", write_binary)
    conn.commit()
    copy_in("duplicate", "copy p3_copy from stdin", write_rows(19990, 20))
    copy_in("bad row", "copy p3_copy from stdin with (format csv)", lambda copy: copy.write("60000,x\nnot a row\n"))
    copy_in("nothing", "copy p3_copy from stdin", lambda copy: None)
    copy_in("no such table", "copy nowhere from stdin", lambda copy: None)
    try:
        copy_in("source fails", "copy p3_copy from stdin", broken)
    except OSError as e:
        say("source fails", str(e))
    conn.rollback()
    for sql in [
        "copy (select * from p3_copy order by id) to stdout with (format csv, header)", "copy (select * from p3_copy order by id limit 3) to stdout",
        "copy (select 1 / (5 - g) from generate_series(1, 9) g) to stdout", "copy nowhere to stdout",
    ]:
        text = b""
        with conn.cursor() as cur:
            try:
                with cur.copy(sql) as out:
                    for part in out:
                        text += bytes(part)
                say(sql, [short(text.decode()), cur.rowcount, cur.statusmessage])
            except psycopg.Error as e:
                say(sql, [short(text.decode()), show_error(e)])
                conn.rollback()
    with conn.cursor() as cur:
        with cur.copy("copy (select * from p3_copy order by id limit 5) to stdout with (format binary)") as out:
            out.set_types(["int4", "text"])
            say("binary rows", [show(row) for row in out.rows()])
        with cur.copy("copy (select * from p3_copy order by id) to stdout") as out:
            say("left early", show(next(out.rows())))
    run(conn, "goes on", "select count(*), sum(id) from p3_copy")
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


def large_values():
    conn = open_connection()
    for size in [8192, 65536, 4 << 20]:
        run(conn, f"value of {size}", "select %s::text, length(%s)", ("v" * size, "v" * size))
    run(conn, "bytes", "select %s::bytea, length(%s)", (b"\x00\xff" * 100000, b"\x00\xff" * 100000), binary=True)
    run(conn, "many rows", "select g, repeat('r', g %% 100) from generate_series(1, %s) g", (20000,))
    conn.close()


def cancel():
    conn, watch = open_connection(), open_connection(autocommit=True)

    def sleepers():
        return watch.execute(SLEEPERS).fetchone()[0]

    def cancel_sleeper():
        wait_for(1, sleepers)
        conn.cancel()

    for autocommit in [False, True]:
        conn.autocommit = autocommit
        for _ in range(2):
            thread = threading.Thread(target=cancel_sleeper)
            thread.start()
            run(conn, "cancelled", "select pg_sleep(%s)", (30,))
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
    async def use(i):
        async with await psycopg.AsyncConnection.connect("") as conn:
            seen = []
            for n in range(8):
                cur = await conn.execute("select %s::int * 100 + %s::int", (i, n))
                seen.append((await cur.fetchone())[0])
                await conn.commit()
            try:
                await conn.execute("select 1 / %s", (0,))
            except psycopg.Error as e:
                seen.append(show_error(e))
            await conn.rollback()
            async with conn.cursor() as cur:
                seen.append([row[0] async for row in cur.stream("select generate_series(1, %s)", (5,))])
            return seen

    async def together():
        return await asyncio.gather(*[use(i) for i in range(4)])

    for seen in asyncio.run(together()):
        say("saw", seen)


def session_state():
    conn, other = open_connection(autocommit=True), open_connection(autocommit=True)
    notified = []
    conn.add_notify_handler(lambda n: notified.append([n.channel, n.payload]))
    for sql in [
        "set timezone = 'Asia/Tokyo'", "show timezone", "select timestamptz '2024-01-01 00:00:00Z'", "create temp table mine (n int)",
        "insert into mine values (1)", "select * from mine", "prepare p (int) as select $1 * 2", "execute p (21)", "deallocate p",
        "select pg_try_advisory_lock(7)", "listen p3_news", "set client_encoding to latin1", "select 'grüße', current_setting('client_encoding')",
    ]:
        run(conn, sql, sql)
    run(other, "lock", "select pg_try_advisory_lock(7)")
    run(other, "notify", "notify p3_news, 'extra'")

    def heard():
        conn.execute("")
        return notified

    wait_for([["p3_news", "extra"]], heard)
    say("notified", notified)
    conn.autocommit = False
    with conn.cursor("held", withhold=True) as cur:
        cur.execute("select generate_series(1, 10)")
        say("before the commit", cur.fetchmany(3))
        conn.commit()
        say("after the commit", cur.fetchmany(3))
    conn.commit()
    conn.close()
    other.close()


def turns(deallocates):
    """Two clients share one server connection. Both name their statements _pg3_0, _pg3_1, …, and give them different texts."""
    clients = [open_connection(dbname=os.environ["PGDATABASE_ONE"]) for _ in range(2)]
    for round in range(20):
        for i, conn in enumerate(clients):
            run(conn, "own", f"select 'client {i}', %s::int", (round,))
            run(conn, "of the same text", "select %s::text", (f"{i} {round}",))
            if deallocates and (round + i) % 8 == 7:
                conn.rollback()  # the driver runs DEALLOCATE ALL
            else:
                conn.commit()
    for round in range(3 if deallocates else 0):
        for i, conn in enumerate(clients):
            conn.prepared_max = 1
            for n in range(3):
                run(conn, "one at most", f"select 'client {i}', {n}, %s::int", (round,), prepare=True)
            conn.commit()
    for conn in clients:
        conn.close()


begin("psycopg 3", psycopg.__version__)
features({
    "connect": connect,
    "startup parameters": startup_parameters,
    "types": types,
    "queries and errors": queries,
    "automatic prepare": automatic_prepare,
    "DEALLOCATE ALL": deallocate_all,
    "DEALLOCATE of one": deallocate_one,
    "prepared before DDL": prepared_before_ddl,
    "transactions": transactions,
    "pipeline": pipeline,
    "server-side cursors": server_cursors,
    "COPY": copy,
    "notices": notices,
    "large values": large_values,
    "cancel": cancel,
    "asynchronous connections": asynchronous,
    "session state": session_state,
    "server connections change hands": lambda: turns(deallocates=False),
    "server connections change hands, DEALLOCATE": lambda: turns(deallocates=True),
})
