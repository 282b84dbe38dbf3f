"""SQLAlchemy, on psycopg2, against the server of PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE; prints a transcript."""
import datetime
import decimal
import enum
import io
import logging
import os
import threading
import uuid

import sqlalchemy as sa
from psycopg2.extras import NumericRange
from sqlalchemy import exc, orm
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateSchema, DropSchema

from transcript import begin, features, say, short, show, show_error, show_rows

SCHEMA = "sa_shop"
Base = orm.declarative_base(metadata=sa.MetaData(schema=SCHEMA))


class Mood(enum.Enum):
    happy = 1
    sad = 2


tagged = sa.Table(
    "tagged", Base.metadata,
    sa.Column("book_id", sa.ForeignKey(f"{SCHEMA}.books.id"), primary_key=True), sa.Column("tag_id", sa.ForeignKey(f"{SCHEMA}.tags.id"), primary_key=True),
)


class Author(Base):
    __tablename__ = "authors"
    id = sa.Column(sa.Integer, primary_key=True)
    name = sa.Column(sa.String(50), nullable=False, unique=True)
    books = orm.relationship("Book", back_populates="author", order_by="Book.id", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "books"
    id = sa.Column(sa.Integer, primary_key=True)
    title = sa.Column(sa.Text, nullable=False, index=True)
    price = sa.Column(sa.Numeric(10, 2), sa.CheckConstraint("price >= 0"))
    author_id = sa.Column(sa.ForeignKey(f"{SCHEMA}.authors.id"), nullable=False)
    author = orm.relationship(Author, back_populates="books")
    tags = orm.relationship("Tag", secondary=tagged, order_by="Tag.id")


class Tag(Base):
    __tablename__ = "tags"
    id = sa.Column(sa.Integer, primary_key=True)
    name = sa.Column(sa.String, unique=True)


class Thing(Base):
    __tablename__ = "things"
    id = sa.Column(postgresql.UUID(as_uuid=True), primary_key=True)
    at = sa.Column(sa.DateTime(timezone=True))
    local = sa.Column(sa.DateTime)
    day = sa.Column(sa.Date)
    took = sa.Column(sa.Interval)
    price = sa.Column(sa.Numeric(20, 6))
    ratio = sa.Column(sa.Float)
    document = sa.Column(sa.JSON)
    indexed = sa.Column(postgresql.JSONB)
    numbers = sa.Column(postgresql.ARRAY(sa.Integer))
    words = sa.Column(postgresql.ARRAY(sa.Text, dimensions=2))
    span = sa.Column(postgresql.INT4RANGE)
    mood = sa.Column(sa.Enum(Mood, schema=SCHEMA))
    raw = sa.Column(sa.LargeBinary)
    flag = sa.Column(sa.Boolean, server_default=sa.true())


class Counter(Base):
    __tablename__ = "counters"
    id = sa.Column(sa.Integer, primary_key=True)
    n = sa.Column(sa.Integer, nullable=False)


def create_engine(url="postgresql+psycopg2://", **options):
    """An engine of default settings, which takes its server from the environment."""
    return sa.create_engine(url, **options)


engine = create_engine()


def show_failure(error):
    """What SQLAlchemy made of an error, and what it was made of."""
    return [type(error).__name__, show_error(getattr(error, "orig", None) or error)]


def attempt(step, call):
    try:
        say(step, show_made(call()))
    except exc.SQLAlchemyError as e:
        say(step, show_failure(e))


def show_made(value):
    if isinstance(value, sa.engine.CursorResult) and not value.returns_rows:
        return value.rowcount
    if isinstance(value, sa.engine.Result):
        return show_rows(value.all())
    if isinstance(value, list):
        return [show_made(v) for v in value]
    return show(value)


def fresh():
    """Gives the tables anew, with two authors and their books."""
    with engine.begin() as conn:
        conn.execute(sa.text(f"truncate {', '.join(t.fullname for t in Base.metadata.sorted_tables)} restart identity"))
    with orm.Session(engine) as session:
        fiction, old = Tag(name="fiction"), Tag(name="old")
        for name in ["Ada", "Bo"]:
            author = Author(name=name)
            author.books = [Book(title=f"{name} {i}", price=decimal.Decimal(i) / 4, tags=[fiction, old][: i % 3]) for i in range(4)]
            session.add(author)
        session.commit()


def connect():
    with engine.connect() as conn:
        say("server", list(conn.dialect.server_version_info))
        say("schema", conn.dialect.default_schema_name)
        say("isolation", conn.get_isolation_level())
        say("default isolation", conn.default_isolation_level)
        attempt("parameters", lambda: conn.execute(sa.text("select current_setting('timezone'), current_setting('client_encoding')")))
    wrong = create_engine(connect_args={"password": "wrong"})
    try:
        wrong.connect()
    except exc.OperationalError as e:
        say("wrong password", str(e.orig).replace(os.environ["PGPORT"], "PORT"))


def schema():
    with engine.begin() as conn:
        if conn.dialect.has_schema(conn, SCHEMA):
            conn.execute(DropSchema(SCHEMA, cascade=True))
        conn.execute(CreateSchema(SCHEMA))
    Base.metadata.create_all(engine)
    Base.metadata.create_all(engine)  # finds that all is there
    looks = sa.inspect(engine)
    for table in sorted(looks.get_table_names(schema=SCHEMA)):
        say(table, {
            "columns": [[c["name"], str(c["type"]), c["nullable"], c["default"]] for c in looks.get_columns(table, schema=SCHEMA)],
            "primary key": looks.get_pk_constraint(table, schema=SCHEMA), "foreign keys": looks.get_foreign_keys(table, schema=SCHEMA),
            "unique": looks.get_unique_constraints(table, schema=SCHEMA), "checks": looks.get_check_constraints(table, schema=SCHEMA),
            "indexes": looks.get_indexes(table, schema=SCHEMA),
        })
    say("enums", looks.get_enums(schema=SCHEMA))
    reflected = sa.MetaData()
    reflected.reflect(engine, schema=SCHEMA)
    say("reflected", sorted(reflected.tables))


def queries():
    fresh()
    with orm.Session(engine) as session:
        book = session.execute(sa.select(Book).where(Book.title == "Ada 2")).scalar_one()
        say("loaded", [book.id, book.title, show(book.price), book.author.name])
        book.title, book.price = "o'clock \\ % :x", None
        session.flush()
        session.refresh(book)
        say("updated", [show(book.title), show(book.price)])
        session.delete(session.get(Book, 1))
        session.commit()
        for i in range(8):
            attempt("in", lambda: session.execute(sa.select(Book.id, Book.title).where(Book.id.in_([i, i + 1, i + 2])).order_by(Book.id)))
        attempt("like", lambda: session.execute(sa.select(Book.title).where(Book.title.ilike("BO%")).order_by(Book.title).limit(2).offset(1)))
        attempt("group", lambda: session.execute(
            sa.select(Author.name, sa.func.count(Book.id), sa.func.sum(Book.price)).join(Author.books).group_by(Author.name).order_by(Author.name)
        ))
        ranked = sa.select(Book.title, sa.func.row_number().over(partition_by=Book.author_id, order_by=Book.id.desc()).label("place")).cte("ranked")
        attempt("with", lambda: session.execute(sa.select(ranked).where(ranked.c.place <= 2).order_by(ranked.c.title)))
        attempt("none", lambda: session.execute(sa.select(Book).where(Book.id == sa.bindparam("id")), {"id": -1}).scalars().first())
        attempt("too many", lambda: session.execute(sa.select(Book)).scalar_one())
        attempt("update", lambda: session.execute(sa.update(Book).where(Book.id < 5).values(price=Book.price * 2)))
        attempt("returning", lambda: session.execute(sa.update(Book).where(Book.id < 4).values(price=1).returning(Book.id, Book.price)))
        upsert = postgresql.insert(Tag).values([{"name": "old"}, {"name": "new"}])
        attempt("upsert", lambda: session.execute(upsert.on_conflict_do_update(index_elements=["name"], set_={"name": upsert.excluded.name + "!"}).returning(Tag.id, Tag.name)))
        session.rollback()
        attempt("text", lambda: session.execute(sa.text("select :n + 1, :t || '!', cast(:nothing as text)"), {"n": 41, "t": "x", "nothing": None}))
        attempt("values", lambda: session.execute(sa.select(sa.values(sa.column("n", sa.Integer), name="v").data([(1,), (2,)]))))
    with engine.connect().execution_options(stream_results=True, max_row_buffer=100) as conn:
        rows = conn.execute(sa.text("select g, repeat('x', g % 50) from generate_series(1, :n) g"), {"n": 1000})
        say("streamed", show_rows(rows))
        parts = conn.execute(sa.text("select g from generate_series(1, 25) g")).partitions(10)
        say("partitions", [show_rows(p) for p in parts])
    with orm.Session(engine) as session:
        say("yield_per", [book.title for book in session.query(Book).order_by(Book.id).yield_per(3)])


def bulk():
    fresh()
    with engine.begin() as conn:
        attempt("many", lambda: conn.execute(Tag.__table__.insert(), [{"name": f"tag {i}"} for i in range(2500)]))
        attempt("updates", lambda: conn.execute(
            Tag.__table__.update().where(Tag.name == sa.bindparam("was")).values(name=sa.bindparam("is")), [{"was": f"tag {i}", "is": f"new {i}"} for i in range(50)]
        ))
    with orm.Session(engine) as session:
        session.add_all([Author(name=f"author {i}", books=[Book(title=f"t {i}", price=i)]) for i in range(300)])
        session.commit()
        session.bulk_insert_mappings(Tag, [{"name": f"mapped {i}"} for i in range(1200)])
        session.bulk_save_objects([Tag(name=f"saved {i}") for i in range(20)], return_defaults=True)
        session.bulk_update_mappings(Tag, [{"id": i, "name": f"renamed {i}"} for i in range(10, 40)])
        session.commit()
        attempt("count", lambda: session.execute(sa.select(sa.func.count(), sa.func.min(Tag.name), sa.func.max(Tag.id)).select_from(Tag)))
        attempt("books", lambda: session.execute(sa.select(sa.func.count(), sa.func.sum(Book.price)).join(Book.author)))
        raw = session.connection().connection.cursor()
        raw.copy_expert(f"copy {SCHEMA}.counters from stdin", io.StringIO("".join(f"{i}\t{i}\n" for i in range(5000))))
        say("COPY", raw.rowcount)
        session.commit()
        attempt("duplicate among many", lambda: session.execute(Tag.__table__.insert(), [{"name": n} for n in ["a", "b", "a"]]))
        session.rollback()
        attempt("goes on", lambda: session.execute(sa.select(sa.func.count()).select_from(Tag)))


def transactions():
    fresh()

    def names(step):
        with engine.connect() as conn:
            attempt(step, lambda: conn.execute(sa.select(Author.name).order_by(Author.id)))

    with orm.Session(engine) as session, session.begin():
        session.add(Author(name="committed"))
    names("committed")
    try:
        with orm.Session(engine) as session, session.begin():
            session.add(Author(name="rolled back"))
            session.flush()
            raise ValueError
    except ValueError:
        names("rolled back")
    with orm.Session(engine) as session:
        session.add(Author(name="outer"))
        for i in range(6):
            try:
                with session.begin_nested():
                    session.add(Author(name=f"nested {i}"))
                    with session.begin_nested():
                        session.add(Author(name="outer" if i % 2 else f"twice nested {i}"))
            except exc.IntegrityError as e:
                say("savepoint", show_failure(e))
        savepoint = session.begin_nested()
        session.add(Author(name="given up"))
        session.flush()
        savepoint.rollback()
        session.commit()
    names("savepoints")
    for level in ["SERIALIZABLE", "REPEATABLE READ", "AUTOCOMMIT"]:
        with engine.connect().execution_options(isolation_level=level) as conn, conn.begin() as transaction:
            attempt(level, lambda: conn.execute(sa.text("select current_setting('transaction_isolation')")))
            attempt("insert", lambda: conn.execute(Author.__table__.insert().values(name=level)))
            transaction.rollback()
    names("only what ran in autocommit")
    with engine.connect().execution_options(postgresql_readonly=True, postgresql_deferrable=True, isolation_level="SERIALIZABLE") as conn:
        attempt("read-only", lambda: conn.execute(sa.insert(Author).values(name="never")))
    with orm.Session(engine) as first, orm.Session(engine) as second:
        attempt("lock", lambda: first.execute(sa.select(Author.id).where(Author.name == "Ada").with_for_update()))
        attempt("locked", lambda: second.execute(sa.select(Author.id).where(Author.name == "Ada").with_for_update(nowait=True)))
        second.rollback()
        attempt("skip locked", lambda: second.execute(sa.select(Author.name).order_by(Author.id).with_for_update(skip_locked=True)))


def relations():
    fresh()
    strategies = {"lazy": orm.lazyload, "joined": orm.joinedload, "select in": orm.selectinload, "subquery": orm.subqueryload}
    for name, load in strategies.items():
        with orm.Session(engine) as session:
            authors = session.execute(sa.select(Author).options(load(Author.books).options(load(Book.tags))).order_by(Author.id)).unique().scalars().all()
            say(name, [[a.name, [[b.title, [t.name for t in b.tags]] for b in a.books]] for a in authors])
    with orm.Session(engine) as session:
        attempt("join", lambda: session.execute(
            sa.select(Author.name, Book.title, Tag.name).join(Author.books).outerjoin(Book.tags).where(Book.price > 0).order_by(Book.id, Tag.id)
        ))
        ada = session.execute(sa.select(Author).where(Author.name == "Ada")).scalar_one()
        ada.books.append(Book(title="another", price=9, tags=[Tag(name="new")]))
        del ada.books[0]
        session.commit()
        attempt("exists", lambda: session.execute(sa.select(Book.title).where(Book.tags.any(Tag.name == "new"))))
        session.delete(ada)  # and her books
        session.commit()
        attempt("left", lambda: session.execute(sa.select(Book.title).order_by(Book.id)))


def errors():
    fresh()
    with orm.Session(engine) as session:
        session.add(Author(name="Ada"))
        attempt("unique", session.flush)
        attempt("before the rollback", lambda: session.execute(sa.select(Author.name)))
        session.rollback()
        attempt("goes on", lambda: session.execute(sa.select(Author.name).order_by(Author.id)))
        for step, statement in {
            "check": sa.insert(Book).values(title="t", price=-1, author_id=1), "foreign key": sa.insert(Book).values(title="t", author_id=999),
            "not null": sa.insert(Author).values(name=None), "too long": sa.insert(Author).values(name="x" * 51), "division": sa.text("select 1 / 0"),
            "syntax": sa.text("selec"), "no such table": sa.text("select * from nowhere"), "not a number": sa.text("select cast(:v as int)").bindparams(v="x"),
        }.items():
            attempt(step, lambda: session.execute(statement))
            attempt("aborted", lambda: session.execute(sa.text("select 1")))
            session.rollback()
            attempt("goes on", lambda: session.execute(sa.select(sa.func.count()).select_from(Book)))
    heard = []
    logger = logging.getLogger("sqlalchemy.dialects.postgresql")
    logger.setLevel(logging.INFO)
    logger.addFilter(lambda record: heard.append(record.getMessage()))
    with engine.begin() as conn:
        conn.execute(sa.text("do $$ begin raise notice 'n' using detail = 'd'; raise warning 'w'; end $$"))
    say("notices", heard)


def types():
    fresh()
    kathmandu = datetime.timezone(datetime.timedelta(hours=5, minutes=45))
    with orm.Session(engine) as session:
        session.add(Thing(
            id=uuid.UUID(int=1), at=datetime.datetime(2024, 2, 29, 12, 34, 56, 789, tzinfo=kathmandu), local=datetime.datetime(2024, 2, 29, 12, 34),
            day=datetime.date(2024, 2, 29), took=datetime.timedelta(days=3, seconds=4.5), price=decimal.Decimal("12345.678900"), ratio=0.1,
            document={"a": [1, None, "grüße 🌊"]}, indexed={"b": {"c": 1.50}}, numbers=[1, None, 3], words=[["a", "b c"], [None, "d\""]],
            span=NumericRange(1, 10), mood=Mood.sad, raw=b"\x00\xff",
        ))
        session.add(Thing(id=uuid.UUID(int=2)))
        session.commit()
    with orm.Session(engine) as session:
        for zone in [None, "Asia/Tokyo"]:
            if zone:
                session.execute(sa.text("set local timezone = 'Asia/Tokyo'"))
            for thing in session.execute(sa.select(Thing).order_by(Thing.id)).scalars():
                say("thing", {c.key: show(getattr(thing, c.key)) for c in sa.inspect(Thing).columns})
            session.rollback()
        for step, condition in {
            "json": Thing.indexed["b"]["c"].astext == "1.5", "contains": Thing.indexed.contains({"b": {}}), "array": Thing.numbers.any(3),
            "overlap": Thing.numbers.overlap([3, 9]), "range": Thing.span.contains(5), "enum": Thing.mood == Mood.sad,
            "time": Thing.at < datetime.datetime(2024, 2, 29, 7, 0, tzinfo=datetime.timezone.utc), "decimal": Thing.price > decimal.Decimal("12345.6788"),
        }.items():
            attempt(step, lambda: session.execute(sa.select(Thing.id).where(condition)))
        attempt("large", lambda: session.execute(sa.text("select cast(:v as text), length(:v)"), {"v": "v" * (2 << 20)}))


def concurrently():
    """Threads with sessions of one engine, whose pool has five connections and opens up to ten more."""
    fresh()
    with orm.Session(engine) as session:
        session.add_all([Counter(id=i, n=0) for i in range(3)])
        session.commit()
    failures = []

    def work(worker):
        try:
            for i in range(12):
                with orm.Session(engine) as session, session.begin():
                    session.get(Counter, (worker + i) % 3, with_for_update=True).n += 1
                    session.flush()
                    if i % 4 == 3:
                        session.rollback()
        except Exception as e:
            failures.append(show_failure(e))

    threads = [threading.Thread(target=work, args=(w,)) for w in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say("failures", failures)
    with engine.connect() as conn:
        attempt("counted", lambda: conn.execute(sa.select(sa.func.sum(Counter.n))))


def session_state():
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        for sql in [
            "set timezone = 'Asia/Tokyo'", "show timezone", "create temp table mine (n int)", "insert into mine values (1)", "select * from mine",
            "set search_path = sa_shop, public", "select count(*) >= 0 from authors", "select pg_try_advisory_lock(7)",
        ]:
            attempt(sql, lambda: conn.execute(sa.text(sql)))
        conn.detach()  # what was set goes with the connection


def turns():
    """Two engines of one connection each share one server connection, transaction by transaction."""
    fresh()
    engines = [create_engine(pool_size=1, max_overflow=0, connect_args={"dbname": os.environ["PGDATABASE_ONE"]}) for _ in range(2)]
    for round in range(12):
        for i, each in enumerate(engines):
            with orm.Session(each) as session:
                session.add(Author(name=f"client {i}, round {round}", books=[Book(title="t", price=round)]))
                session.flush()
                attempt("in the transaction", lambda: session.execute(sa.select(Author.name).order_by(Author.id.desc()).limit(2)))
                if round % 3 == 2:
                    session.rollback()
                else:
                    session.commit()
            with each.connect() as conn:
                attempt("after it", lambda: conn.execute(sa.select(sa.func.count(), sa.func.sum(Book.price)).join(Book.author)))
    for each in engines:
        each.dispose()


begin("SQLAlchemy", sa.__version__)
features({
    "connect": connect,
    "schema": schema,
    "queries": queries,
    "bulk insert": bulk,
    "transactions and savepoints": transactions,
    "relations": relations,
    "errors, then go on": errors,
    "types": types,
    "concurrent sessions": concurrently,
    "session state": session_state,
    "server connections change hands": turns,
})
