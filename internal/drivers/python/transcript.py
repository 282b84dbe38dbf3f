"""What the Python programs share: the transcript that they print."""
import hashlib
import json
import sys
import time

skip = sys.argv[1:]
feature = ""


def begin(driver, version):
    print(json.dumps({"driver": driver, "version": version, "saw": None}), flush=True)


def say(step, saw):
    print(json.dumps({"feature": feature, "step": step, "saw": saw}), flush=True)


def short(text):
    return text if len(text) <= 200 else f"{len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()}"


def show(value):
    """A value and the type the driver made of it."""
    if value is None:
        return None
    if isinstance(value, (memoryview, bytes)):
        value = bytes(value).hex()
    if isinstance(value, (list, tuple)):
        return [show(v) for v in value]
    return f"{type(value).__name__} {short(str(value))}"


def show_rows(rows):
    """All values, of many rows only how many and a checksum."""
    shown = [[show(v) for v in row] for row in rows]
    return shown if len(shown) <= 100 else [len(shown), short(json.dumps(shown))]


def show_columns(description):
    return [[c.name, c.type_code, c.display_size, c.internal_size, c.precision, c.scale] for c in description]


# What psycopg2 and psycopg call the fields of an error or a notice.
FIELDS = [
    "severity", "severity_nonlocalized", "sqlstate", "message_primary", "message_detail", "message_hint", "statement_position",
    "internal_position", "internal_query", "context", "schema_name", "table_name", "column_name", "datatype_name", "constraint_name",
    "source_file", "source_line", "source_function",
]


def show_diagnostics(diag):
    return {f: getattr(diag, f) for f in FIELDS if getattr(diag, f) is not None}


def show_error(error):
    """An error of the driver with all its fields, and of any other only what kind it is: its text may name a port."""
    if not hasattr(error, "diag"):
        return type(error).__name__
    return {"class": type(error).__name__, **show_diagnostics(error.diag)}


def features(functions):
    """Runs each function under its feature's name; one that throws does not keep the others from running."""
    global feature
    for name, function in functions.items():
        if name in skip:
            continue
        feature = name
        try:
            function()
        except Exception as e:
            inner = e.__traceback__.tb_next
            say("threw", [show_error(e), f"line {inner.tb_lineno if inner else 0}: {e}"])


SLEEPERS = "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"


def wait_for(want, call):
    """Calls until it gives want."""
    deadline = time.monotonic() + 10
    while (got := call()) != want:
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {got!r}, not {want!r}")
        time.sleep(0.005)
