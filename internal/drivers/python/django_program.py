"""The ORM of Django, on psycopg2, against the server of PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE; prints a transcript."""
import datetime
import decimal
import os
import threading
import uuid

import django
from django.apps import AppConfig
from django.conf import settings


class Shop(AppConfig):
    """The app of the models below, which makes this program all the project there is."""

    name, label = "__main__", "shop"


# What a project would say, and no more; the rest are Django's defaults. Each alias is a connection of its own.
DEFAULT = {
    "ENGINE": "django.db.backends.postgresql", "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"], "USER": os.environ["PGUSER"],
    "PASSWORD": os.environ["PGPASSWORD"], "NAME": os.environ["PGDATABASE"],
}
ONE = {**DEFAULT, "NAME": os.environ["PGDATABASE_ONE"]}
AT_STARTUP = {**ONE, "OPTIONS": {"options": "-c timezone=America/Chicago"}}
settings.configure(
    DATABASES={
        "default": DEFAULT, "other": DEFAULT, "wrong": {**DEFAULT, "PASSWORD": "wrong"}, "kathmandu": {**DEFAULT, "TIME_ZONE": "Asia/Kathmandu"},
        "first": ONE, "second": ONE, "first at startup": AT_STARTUP, "second at startup": AT_STARTUP,
    },
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "__main__.Shop"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",  # as startproject writes it
)
django.setup()

from django.contrib.auth.models import User
from django.contrib.postgres.fields import ArrayField
from django.core import exceptions
from django.core.management import call_command
from django.db import Error, connection, connections, models, transaction
from django.db.models import Avg, Count, F, Prefetch, Q, Sum, Window
from django.db.models.functions import Lower, RowNumber
from django.test import override_settings

from transcript import begin, features, say, show, show_error, show_rows


class Author(models.Model):
    name = models.CharField(max_length=50, unique=True)


class Tag(models.Model):
    name = models.CharField(max_length=50, unique=True)


class Book(models.Model):
    title = models.TextField(db_index=True)
    price = models.DecimalField(max_digits=10, decimal_places=2, null=True)
    author = models.ForeignKey(Author, on_delete=models.CASCADE, related_name="books")
    tags = models.ManyToManyField(Tag, related_name="books")

    class Meta:
        constraints = [models.CheckConstraint(check=Q(price__gte=0), name="shop_price")]


class Thing(models.Model):
    id = models.UUIDField(primary_key=True)
    at = models.DateTimeField(null=True)
    day = models.DateField(null=True)
    clock = models.TimeField(null=True)
    took = models.DurationField(null=True)
    price = models.DecimalField(max_digits=20, decimal_places=6, null=True)
    ratio = models.FloatField(null=True)
    document = models.JSONField(null=True)
    numbers = ArrayField(models.IntegerField(null=True), null=True)
    words = ArrayField(ArrayField(models.TextField()), null=True)
    raw = models.BinaryField(null=True)
    flag = models.BooleanField(default=True)
    address = models.GenericIPAddressField(null=True)


class Counter(models.Model):
    n = models.IntegerField()


MODELS = [Author, Tag, Book, Thing, Counter]


def show_failure(error):
    """What Django made of an error, and what it was made of."""
    return [type(error).__name__, show_error(error.__cause__ or error)]


def attempt(step, call):
    try:
        say(step, show_made(call()))
    except (Error, transaction.TransactionManagementError, exceptions.ObjectDoesNotExist) as e:
        say(step, show_failure(e))


def show_made(value):
    if isinstance(value, models.QuerySet):
        value = list(value)
    if isinstance(value, models.Model):
        return [show(getattr(value, f.attname)) for f in value._meta.concrete_fields]
    if isinstance(value, dict):
        return {str(k): show_made(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [show_made(v) for v in value]
    return show(value)


def fetch(sql, args=None, using="default"):
    with connections[using].cursor() as cur:
        cur.execute(sql, args)
        return cur.fetchall() if cur.description else cur.rowcount


def fresh():
    """Gives the tables anew, with two authors and their books."""
    tables = ", ".join([m._meta.db_table for m in MODELS] + [Book.tags.through._meta.db_table])
    fetch(f"truncate {tables} restart identity")
    tags = [Tag.objects.create(name=n) for n in ["fiction", "old"]]
    for name in ["Ada", "Bo"]:
        author = Author.objects.create(name=name)
        for i in range(4):
            author.books.create(title=f"{name} {i}", price=decimal.Decimal(i) / 4).tags.set(tags[: i % 3])


def connect():
    attempt("settings", lambda: fetch("select current_setting('timezone'), current_setting('client_encoding'), current_setting('datestyle')"))
    say("version", connection.pg_version)
    say("usable", connection.is_usable())
    connection.close()
    attempt("connects again", lambda: fetch("select 1"))
    try:
        connections["wrong"].ensure_connection()
    except Error as e:
        say("wrong password", str(e).replace(os.environ["PGPORT"], "PORT"))


def migrate():
    """Runs the migrations of two apps, and back."""
    call_command("migrate", verbosity=0)
    attempt("applied", lambda: fetch("select app, name from django_migrations order by id"))
    user = User.objects.create_user("ada", "ada@example.com", password=None)
    say("user", [show(user.username), user.has_perm("auth.add_user")])
    attempt("permissions", lambda: User.objects.filter(username="ada").values_list("username", "user_permissions__codename"))
    call_command("migrate", "auth", "zero", verbosity=0)
    attempt("left", lambda: fetch("select app, name from django_migrations order by id"))
    call_command("migrate", "contenttypes", "zero", verbosity=0)


def schema():
    for model in MODELS:
        fetch(f"drop table if exists {model._meta.db_table} cascade")
    fetch(f"drop table if exists {Book.tags.through._meta.db_table}")
    with connection.schema_editor() as editor:  # one transaction, in which the server does DDL too
        for model in MODELS:
            editor.create_model(model)
    short, long = models.CharField(max_length=20, default="none"), models.TextField(null=True)
    for field in [short, long]:
        field.set_attributes_from_name("country")
        field.model = Author
    with connection.schema_editor() as editor:
        editor.add_field(Author, short)
        editor.alter_field(Author, short, long)
        editor.remove_field(Author, long)
        editor.add_index(Book, models.Index(fields=["title", "price"], name="shop_title_price"))
    with connection.cursor() as cur:
        for model in MODELS:
            table = model._meta.db_table
            columns = connection.introspection.get_table_description(cur, table)
            constraints = connection.introspection.get_constraints(cur, table)
            say(table, [[[c.name, c.type_code, c.null_ok, c.default] for c in columns], sorted([c["columns"], c["unique"], c["index"], c["check"]] for c in constraints.values())])


def queries():
    fresh()
    book = Book.objects.get(title="Ada 2")
    say("loaded", [show_made(book), book.author.name])
    book.title, book.price = "o'clock \\ % %s", None
    book.save()
    book.refresh_from_db()
    say("updated", show_made(book))
    say("deleted", list(Book.objects.get(pk=1).delete()))
    for i in range(8):
        attempt("in", lambda: Book.objects.filter(id__in=[i, i + 1, i + 2]).order_by("id").values_list("id", "title"))
    for step, query in {
        "like": lambda: Book.objects.filter(title__icontains="bO").order_by("title")[1:3],
        "or": lambda: Book.objects.filter(Q(price__gt=0.5) | ~Q(author__name="Ada")).order_by("id").values("title", "price"),
        "group": lambda: Author.objects.annotate(n=Count("books"), total=Sum("books__price")).order_by("name").values_list("name", "n", "total"),
        "aggregate": lambda: Book.objects.aggregate(Avg("price"), Count("author", distinct=True)),
        "window": lambda: Book.objects.annotate(place=Window(RowNumber(), partition_by=["author"], order_by=F("id").desc())).order_by("id").values_list("title", "place"),
        "function": lambda: Author.objects.annotate(low=Lower("name")).order_by("-low").values_list("low", flat=True),
        "distinct on": lambda: Book.objects.order_by("author", "-id").distinct("author").values_list("title", flat=True),
        "union": lambda: Author.objects.values_list("name").union(Tag.objects.values_list("name")).order_by("name"),
        "exists": lambda: Book.objects.filter(title="nowhere").exists(), "none": lambda: Book.objects.filter(pk=-1).first(),
        "not there": lambda: Book.objects.get(pk=-1), "in bulk": lambda: Book.objects.in_bulk([2, 4]),
        "update": lambda: Book.objects.filter(id__lt=5).update(price=F("price") * 2), "raw": lambda: list(Book.objects.raw("select * from shop_book where id = %s", [2])),
        "get or create": lambda: [Tag.objects.get_or_create(name=n)[1] for n in ["old", "new"]],
        "update or create": lambda: Tag.objects.update_or_create(name="new", defaults={"name": "newer"}),
        "explain": lambda: bool(Book.objects.all().explain(analyze=True)),
        "cursor": lambda: fetch("select %s + 1, %s || '!', %s::text", [41, "x", None]),
    }.items():
        attempt(step, query)
    # A cursor that outlives its transaction, or one within it.
    Counter.objects.bulk_create([Counter(n=i) for i in range(1000)])
    say("iterator", show_rows(Counter.objects.order_by("n").values_list("n").iterator(chunk_size=70)))
    with transaction.atomic():
        say("iterator in a transaction", show_rows(Counter.objects.order_by("n").values_list("n").iterator(chunk_size=300)))
    say("left early", show(next(Counter.objects.order_by("n").values_list("n").iterator(chunk_size=10))))


def bulk():
    fresh()
    made = Tag.objects.bulk_create([Tag(name=f"tag {i}") for i in range(2500)])
    say("many", [len(made), made[0].pk, made[-1].pk])
    attempt("in parts", lambda: len(Tag.objects.bulk_create([Tag(name=f"part {i}") for i in range(250)], batch_size=40)))
    attempt("conflicts", lambda: len(Tag.objects.bulk_create([Tag(name=f"tag {i}") for i in range(2490, 2510)], ignore_conflicts=True)))
    for tag in made[:300]:
        tag.name += " renamed"
    attempt("updates", lambda: Tag.objects.bulk_update(made[:300], ["name"], batch_size=100))
    attempt("duplicate among many", lambda: Tag.objects.bulk_create([Tag(name=n) for n in ["a", "b", "a"]]))
    attempt("count", lambda: Tag.objects.aggregate(Count("id"), models.Min("name"), models.Max("name")))
    attempt("delete", lambda: Tag.objects.filter(name__startswith="part").delete())


def transactions():
    fresh()
    told = []

    def names(step):
        attempt(step, lambda: Author.objects.using("other").order_by("id").values_list("name", flat=True))

    with transaction.atomic():
        Author.objects.create(name="committed")
        transaction.on_commit(lambda: told.append("committed"))
        names("not yet")
    names("committed")
    try:
        with transaction.atomic():
            Author.objects.create(name="rolled back")
            transaction.on_commit(lambda: told.append("rolled back"))
            raise ValueError
    except ValueError:
        names("rolled back")
    with transaction.atomic():
        Author.objects.create(name="outer")
        for i in range(6):
            try:
                with transaction.atomic():
                    Author.objects.create(name=f"nested {i}")
                    with transaction.atomic():
                        Author.objects.create(name="outer" if i % 2 else f"twice nested {i}")
            except Error as e:
                say("savepoint", show_failure(e))
        savepoint = transaction.savepoint()
        Author.objects.create(name="given up")
        transaction.savepoint_rollback(savepoint)
    names("savepoints")
    say("told", told)
    transaction.set_autocommit(False)
    Author.objects.create(name="by hand")
    transaction.rollback()
    Author.objects.create(name="by hand again")
    transaction.commit()
    transaction.set_autocommit(True)
    names("by hand")
    with transaction.atomic(), transaction.atomic(using="other"):
        attempt("lock", lambda: Author.objects.select_for_update().get(name="Ada"))
        with transaction.atomic(using="other"):
            attempt("skip locked", lambda: Author.objects.using("other").select_for_update(skip_locked=True).order_by("id").values_list("name", flat=True)[:2])
        try:
            with transaction.atomic(using="other"):
                Author.objects.using("other").select_for_update(nowait=True).get(name="Ada")
        except Error as e:
            say("locked", show_failure(e))


def relations():
    fresh()
    say("lazy", [[a.name, [[b.title, [t.name for t in b.tags.order_by("id")]] for b in a.books.order_by("id")]] for a in Author.objects.order_by("id")])
    say("select related", [[b.title, b.author.name] for b in Book.objects.select_related("author").order_by("id")])
    books = Prefetch("books", Book.objects.order_by("id").prefetch_related(Prefetch("tags", Tag.objects.order_by("id"))))
    say("prefetch related", [[a.name, [[b.title, [t.name for t in b.tags.all()]] for b in a.books.all()]] for a in Author.objects.prefetch_related(books).order_by("id")])
    attempt("join", lambda: Book.objects.filter(tags__name="old").order_by("id").values_list("author__name", "title", "tags__name"))
    ada = Author.objects.get(name="Ada")
    book = ada.books.create(title="another", price=9)
    book.tags.add(*Tag.objects.order_by("id"))
    book.tags.remove(Tag.objects.get(name="old"))
    attempt("tags", lambda: book.tags.values_list("name", flat=True))
    say("delete", list(ada.delete()))  # and her books
    attempt("left", lambda: Book.objects.order_by("id").values_list("title", flat=True))


def errors():
    fresh()
    attempt("unique", lambda: Author.objects.create(name="Ada"))
    attempt("goes on", lambda: Author.objects.order_by("id"))
    with transaction.atomic():
        attempt("unique in a transaction", lambda: Author.objects.create(name="Ada"))
        attempt("aborted", lambda: Author.objects.count())
        transaction.set_rollback(True)
    for step, call in {
        "check": lambda: Book.objects.create(title="t", price=-1, author_id=1), "not null": lambda: Author.objects.create(name=None),
        "too long": lambda: Author.objects.create(name="x" * 51), "division": lambda: fetch("select 1 / %s", [0]), "syntax": lambda: fetch("selec"),
        "no such table": lambda: fetch("select * from nowhere"), "foreign key, at once": lambda: Book.objects.create(title="t", author_id=999),
    }.items():
        attempt(step, call)
        attempt("goes on", lambda: Book.objects.count())

    def deferred():
        with transaction.atomic():
            Book.objects.create(title="t", author_id=999)
            say("still in the transaction", Book.objects.count())

    attempt("foreign key, at commit", deferred)
    with transaction.atomic():
        Book.objects.create(title="t", author_id=999)
        attempt("check constraints", connection.check_constraints)
        transaction.set_rollback(True)
    connection.connection.notices.clear()
    fetch("do $$ begin raise notice 'n' using detail = 'd'; raise warning 'w'; end $$")
    say("notices", list(connection.connection.notices))


def types():
    fresh()
    Thing.objects.create(
        id=uuid.UUID(int=1), at=datetime.datetime(2024, 2, 29, 12, 34, 56, 789), day=datetime.date(2024, 2, 29), clock=datetime.time(12, 34, 56),
        took=datetime.timedelta(days=3, seconds=4.5), price=decimal.Decimal("12345.678900"), ratio=0.1, document={"a": [1, None, "grüße 🌊"], "b": {"c": 1.5}},
        numbers=[1, None, 3], words=[["a", "b c"], ["%s", 'd"']], raw=b"\x00\xff", address="10.0.0.1",
    )
    Thing.objects.create(id=uuid.UUID(int=2))
    attempt("things", lambda: Thing.objects.order_by("id"))
    attempt("in the server's words", lambda: fetch("select at::text, day::text, took::text, document::text, numbers::text, words::text from shop_thing order by id"))
    for step, condition in {
        "json": Q(document__b__c=1.5), "json contains": Q(document__contains={"a": [1]}), "json key": Q(document__has_key="a"), "json null": Q(document__a__1=None),
        "array": Q(numbers__contains=[3]), "overlap": Q(numbers__overlap=[3, 9]), "length": Q(numbers__len=3), "element": Q(numbers__0=1),
        "time": Q(at__year=2024, at__hour=12), "duration": Q(took__gt=datetime.timedelta(days=2)), "decimal": Q(price__gt=decimal.Decimal("12345.6788")),
    }.items():
        attempt(step, lambda: Thing.objects.filter(condition).values_list("id", flat=True))
    attempt("dates", lambda: Thing.objects.datetimes("at", "month"))
    attempt("large", lambda: fetch("select %s::text, length(%s)", ["v" * (2 << 20)] * 2))


def time_zones():
    """With USE_TZ times have zones, and a connection's is UTC if it is not given one."""
    fresh()
    with override_settings(USE_TZ=True):
        for alias in ["default", "kathmandu"]:
            made = Thing.objects.using(alias).create(
                id=uuid.uuid4(), at=datetime.datetime(2024, 2, 29, 12, 34, tzinfo=datetime.timezone(datetime.timedelta(hours=-3)))
            )
            attempt(alias, lambda: Thing.objects.using(alias).filter(pk=made.pk).values_list("at", flat=True))
            attempt("by hour", lambda: Thing.objects.using(alias).filter(at__hour=9).count())
            attempt("in the server's words", lambda: fetch("select current_setting('timezone'), at::text from shop_thing order by at", using=alias))
    connections["kathmandu"].close()
    attempt("without USE_TZ", lambda: fetch("select current_setting('timezone')"))


def concurrently():
    """Each thread has a connection of its own, as each of a server's has."""
    fresh()
    Counter.objects.bulk_create([Counter(id=i, n=0) for i in range(1, 4)])
    failures = []

    def work(worker):
        try:
            for i in range(12):
                with transaction.atomic():
                    counter = Counter.objects.select_for_update().get(pk=(worker + i) % 3 + 1)
                    counter.n = F("n") + 1
                    counter.save()
                    if i % 4 == 3:
                        transaction.set_rollback(True)
        except Exception as e:
            failures.append(show_failure(e))
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(w,)) for w in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say("failures", failures)
    attempt("counted", lambda: Counter.objects.aggregate(Sum("n")))


def session_state():
    for sql in [
        "set statement_timeout = 54321", "show statement_timeout", "create temp table mine (n int)", "insert into mine values (1)", "select * from mine",
        "select pg_try_advisory_lock(7)",
    ]:
        attempt(sql, lambda: fetch(sql))
    connection.close()
    attempt("a new connection", lambda: fetch("show statement_timeout"))


def turns(*aliases):
    """Two connections share one server connection, transaction by transaction."""
    fresh()
    connection.close()
    for round in range(12):
        for alias in aliases:
            with transaction.atomic(using=alias):
                author = Author.objects.using(alias).create(name=f"{alias}, round {round}")
                Book.objects.using(alias).create(title="t", price=round, author=author)
                attempt("in the transaction", lambda: Author.objects.using(alias).order_by("-id").values_list("name", flat=True)[:2])
                if round % 3 == 2:
                    transaction.set_rollback(True, using=alias)
            attempt("after it", lambda: Book.objects.using(alias).aggregate(Count("id"), Sum("price")))
    attempt("times", lambda: [fetch("select current_setting('timezone')", using=alias) for alias in aliases])


def turns_of(*aliases):
    def run():
        try:
            turns(*aliases)
        finally:
            for alias in aliases:
                connections[alias].close()

    return run


begin("Django", django.get_version())
features({
    "connect": connect,
    "migrations": migrate,
    "schema": schema,
    "queries": queries,
    "bulk insert": bulk,
    "transactions and savepoints": transactions,
    "relations": relations,
    "errors, then go on": errors,
    "types": types,
    "time zones": time_zones,
    "concurrent sessions": concurrently,
    "session state": session_state,
    "server connections change hands": turns_of("first", "second"),
    # Without this option Django sets the time zone after connecting.
    "server connections change hands, options=-c timezone": turns_of("first at startup", "second at startup"),
})
