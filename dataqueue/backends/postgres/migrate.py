"""Bringing the schema up to this package's version. Blocking; used by CLI and tests, and by ``embedded:``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import cache
from importlib import resources
from typing import Any, LiteralString, cast

import psycopg
from psycopg.rows import tuple_row

from dataqueue.backends.postgres.statements import check_schema, fill, quote_identifier
from dataqueue.errors import ConfigError, SchemaError
from dataqueue.version import __version__

FIND_SCHEMA: LiteralString = """
SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass(CASE WHEN %(schema)s::text IS NULL THEN 'job_queue'
                               ELSE quote_ident(%(schema)s::text) || '.job_queue' END)
"""

TYPESCRIPT_LOCK = 7241865325823964
"""The advisory lock of the TypeScript library's migration runner: both must not migrate at once."""

# Its migrations, by name, as its runner records them. Where ours creates shared tables, they hold what
# all of these would have made, so they are recorded as run.
TYPESCRIPT_MIGRATIONS = (
    "1751131910823_initial",
    "1751131910825_add_timeout_seconds_to_job_queue",
    "1751186053000_add_job_events_table",
    "1751984773000_add_tags_to_job_queue",
    "1765809419000_add_force_kill_on_timeout_to_job_queue",
    "1771100000000_add_idempotency_key_to_job_queue",
    "1781200000000_add_wait_support",
    "1781200000001_create_waitpoints_table",
    "1781200000002_add_performance_indexes",
    "1781200000003_add_progress_to_job_queue",
    "1781200000004_create_cron_schedules_table",
    "1781200000005_add_retry_config_to_job_queue",
    "1781200000006_add_output_to_job_queue",
    "1781200000007_add_group_fields_to_job_queue",
    "1781200000008_add_dead_letter_columns",
    "1781200000009_add_depends_on_to_job_queue",
)

_LOCK_WAIT = 0.2
_LOCK_TIMEOUT: LiteralString = "SET LOCAL lock_timeout = '5s'"
_LOCK_TRIES = 12

_SCHEMA_EXISTS: LiteralString = "SELECT 1 FROM pg_namespace WHERE nspname = %(schema)s"
_COLUMNS: LiteralString = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped"""

# Of its first migration: what a table must have to be taken for its.
_TYPESCRIPT_COLUMNS = {
    "id", "job_type", "payload", "status", "created_at", "updated_at", "locked_at", "locked_by", "attempts",
    "max_attempts", "next_attempt_at", "priority", "run_at", "pending_reason", "error_history",
}  # fmt: skip

_VERSIONS: LiteralString = cast(
    LiteralString,
    """
CREATE TABLE IF NOT EXISTS {schema}.dataqueue_migrations (
    version    INT PRIMARY KEY,
    name       TEXT NOT NULL,
    shared     BOOLEAN NOT NULL,
    package    TEXT NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
)""",
)


@dataclass(frozen=True, slots=True)
class MigrateOptions:
    """``shared``: share the tables with the TypeScript library (found by itself if they are there)."""

    shared: bool = False
    dry_run: bool = False
    report: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    text: str
    shared_text: str | None

    def sql(self, schema: str, shared: bool) -> str:
        return fill(self.shared_text if shared and self.shared_text is not None else self.text, schema)


@cache
def migrations() -> tuple[Migration, ...]:
    folder = resources.files("dataqueue.migrations")
    texts = {item.name: item.read_text("utf-8") for item in folder.iterdir() if item.name.endswith(".sql")}
    found: list[Migration] = []
    for name in sorted(texts):
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", name)
        if match:
            shared = texts.get(f"{name.removesuffix('.sql')}.shared.sql")
            found.append(Migration(int(match[1]), match[2], texts[name], shared))
    return tuple(found)


def latest_version() -> int:
    return migrations()[-1].version


def check_version(version: int | None, where: str) -> None:
    """Refuse tables that this package does not fit.

    Raises:
        SchemaError: they are older (migrate them) or newer (upgrade the package).
    """
    wanted = latest_version()
    if version is None or version < wanted:
        raise SchemaError(
            f"The tables at {where} are at version {version or 0}; this package needs {wanted}. "
            "Run `dataqueue migrate` (or `await queue.migrate()`)."
        )
    if version > wanted:
        raise SchemaError(
            f"The tables at {where} are at version {version}, newer than this package knows ({wanted}). "
            "Upgrade dataqueue on this machine."
        )


def migrate(conninfo: str, kwargs: dict[str, Any], schema: str | None, options: MigrateOptions) -> list[str]:
    """Apply what is missing and return its names (``dry_run``: the SQL). Safe to run from many deploys at once.

    Raises:
        ConfigError: a bad schema name.
        SchemaError: the tables are newer than this package, or a lock could not be had.
    """
    if schema is not None:
        check_schema(schema)
    with psycopg.connect(conninfo, **kwargs, autocommit=True) as conn:
        run = _Run(conn, schema, options)
        if options.dry_run:
            return run.plan()
        with _exclusive(conn, run.say):
            return run.apply()


def status(conninfo: str, kwargs: dict[str, Any], schema: str | None) -> list[tuple[int, str, str | None]]:
    """Every migration with the moment it was applied, or None."""
    with psycopg.connect(conninfo, **kwargs, autocommit=True) as conn:
        applied = _Run(conn, schema, MigrateOptions()).applied()
        known = {item.version: item.name for item in migrations()}
        names = {**{version: name for version, (name, _) in applied.items()}, **known}
        return [
            (version, name, applied[version][1] if version in applied else None)
            for version, name in sorted(names.items())
        ]


class _Run:
    def __init__(self, conn: psycopg.Connection[Any], schema: str | None, options: MigrateOptions) -> None:
        self.conn = conn
        self.options = options
        self.cursor = conn.cursor(row_factory=tuple_row)
        self.schema = schema or self._current_schema()
        self.say: Callable[[str], None] = options.report or _say_nothing

    def _current_schema(self) -> str:
        found = self.cursor.execute(FIND_SCHEMA, {"schema": None}).fetchall()
        if not found:
            found = self.cursor.execute("SELECT current_schema()").fetchall()
        if not found or found[0][0] is None:
            raise ConfigError("No schema on the search path exists. Give one: --schema NAME.")
        return found[0][0]

    def applied(self) -> dict[int, tuple[str, str]]:
        if not self._exists("dataqueue_migrations"):
            return {}
        sql = self._fill("SELECT version, name, applied_at FROM {schema}.dataqueue_migrations")
        return {version: (name, at.astimezone(UTC).isoformat()) for version, name, at in self.cursor.execute(sql)}

    def plan(self) -> list[str]:
        missing, shared = self._missing()
        return [
            f"-- {item.version:04d}_{item.name}{' (shared with TypeScript)' if shared else ''}\n"
            f"{item.sql(self.schema, shared).strip()}\n"
            for item in missing
        ]

    def apply(self) -> list[str]:
        missing, shared = self._missing()
        if not missing:
            return []
        if not self.cursor.execute(_SCHEMA_EXISTS, {"schema": self.schema}).fetchall():
            # Not IF NOT EXISTS: that asks for the right to create schemas even where there is nothing to do.
            self.cursor.execute(self._fill("CREATE SCHEMA {schema}"))
        self.cursor.execute(self._fill(_VERSIONS))
        done: list[str] = []
        for item in missing:
            self.say(f"{item.version:04d}_{item.name}")
            self._apply_one(item, shared)
            done.append(f"{item.version:04d}_{item.name}")
        return done

    def _missing(self) -> tuple[list[Migration], bool]:
        """What is to be applied, and whether the tables are (to be) shared."""
        applied = self.applied()
        newest = max(applied, default=0)
        if newest > latest_version():
            check_version(newest, f"schema {self.schema}")
        shared = self._is_shared()
        if not applied and self._exists("job_queue"):
            self._check_adoptable()
        return [item for item in migrations() if item.version not in applied], shared

    def _check_adoptable(self) -> None:
        rows = self.cursor.execute(_COLUMNS, {"table": f"{quote_identifier(self.schema)}.job_queue"}).fetchall()
        absent = _TYPESCRIPT_COLUMNS - {name for (name,) in rows}
        if absent:
            raise SchemaError(
                f"The table job_queue in schema {self.schema} is not the TypeScript library's (it has no column "
                f"{', '.join(sorted(absent))}), so it is not touched. Nothing was changed. Keep the queue in a "
                "schema of its own: --schema NAME."
            )

    def _is_shared(self) -> bool:
        if self._exists("dataqueue_migrations"):
            sql = self._fill("SELECT bool_or(shared) FROM {schema}.dataqueue_migrations")
            known = self.cursor.execute(sql).fetchall()[0][0]
            if known is not None:
                if self.options.shared and not known:
                    raise ConfigError(
                        f"The tables in schema {self.schema} are already dataqueue's own, with 64-bit ids; they "
                        "cannot become shared ones. Use another --schema, or none of --shared-typescript."
                    )
                return bool(known)
        return self.options.shared or self._exists("job_queue")

    def _apply_one(self, item: Migration, shared: bool) -> None:
        sql = item.sql(self.schema, shared)
        record = self._fill(
            "INSERT INTO {schema}.dataqueue_migrations (version, name, shared, package)"
            " VALUES (%(version)s, %(name)s, %(shared)s, %(package)s)"
        )
        values: dict[str, Any] = {"version": item.version, "name": item.name, "shared": shared, "package": __version__}
        if sql.startswith("-- run: statements"):
            for statement in _statements(sql):
                self._drop_invalid_index(statement)
                self.cursor.execute(cast(LiteralString, statement))
            self.cursor.execute(record, values)
        elif sql.startswith("-- run: repeat"):
            # Rows that others hold are left for the end, and then waited for: their lock may change nothing.
            for text in (sql, sql.replace(" SKIP LOCKED", "")):
                while self._with_lock_timeout([(text, None)]):
                    self.say(f"  {item.name}: {self.cursor.rowcount} rows")
            self.cursor.execute(record, values)
        else:
            statements = [(sql, None), (record, values)]
            if shared and item.version == migrations()[0].version:
                statements += self._typescript_records()
            self._with_lock_timeout(statements)

    def _with_lock_timeout(self, statements: Sequence[tuple[str, dict[str, Any] | None]]) -> int:
        """One transaction that does not queue for a table lock for long: behind it, everyone would wait."""
        for attempt in range(1, _LOCK_TRIES + 1):
            try:
                with self.conn.transaction():
                    self.cursor.execute(_LOCK_TIMEOUT)
                    for sql, values in statements:
                        self.cursor.execute(cast(LiteralString, sql), values)
                return self.cursor.rowcount
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                if attempt == _LOCK_TRIES:
                    raise SchemaError(
                        f"A lock on the tables in schema {self.schema} could not be had within {attempt * 5} s: a "
                        "long transaction holds them. Nothing of this step was changed. End it and migrate again."
                    ) from None
                self.say(f"  waiting for a lock (try {attempt} of {_LOCK_TRIES})")
                time.sleep(_LOCK_WAIT * attempt)
        raise AssertionError("unreachable")

    def _drop_invalid_index(self, statement: str) -> None:
        """A concurrent build that was interrupted leaves an index that IF NOT EXISTS would take for done."""
        match = re.search(r"INDEX CONCURRENTLY IF NOT EXISTS (\w+)", statement)
        if match is None:
            return
        invalid = self.cursor.execute(
            "SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND NOT i.indisvalid",
            {"schema": self.schema, "name": match[1]},
        ).fetchall()
        if invalid:
            self.say(f"  rebuilding {match[1]}")
            self.cursor.execute(self._fill(f"DROP INDEX CONCURRENTLY {{schema}}.{quote_identifier(match[1])}"))

    def _typescript_records(self) -> list[tuple[str, dict[str, Any] | None]]:
        """Statements that record its migrations as run, since the tables then hold what they would make:
        some would fail on a column that is there, others build indexes that nobody needs.

        Where its runner's table is missing or tells of other migrations, they are its own affair.
        """
        known: list[str] = []
        if self._exists("dataqueuedev_migrations"):
            sql = self._fill("SELECT name FROM {schema}.dataqueuedev_migrations ORDER BY run_on, id")
            known = [name for (name,) in self.cursor.execute(sql).fetchall()]
        elif self._exists("job_queue"):
            return []
        if tuple(known) != TYPESCRIPT_MIGRATIONS[: len(known)]:
            return []
        create = (
            "CREATE TABLE IF NOT EXISTS {schema}.dataqueuedev_migrations"
            " (id SERIAL PRIMARY KEY, name VARCHAR(255) NOT NULL, run_on TIMESTAMP NOT NULL)"
        )
        # Its runner sorts by run_on, which is a local time: in no case before the one above.
        insert = (
            "INSERT INTO {schema}.dataqueuedev_migrations (name, run_on) SELECT %(name)s,"
            " GREATEST(clock_timestamp()::timestamp, max(run_on)) FROM {schema}.dataqueuedev_migrations"
        )
        names = TYPESCRIPT_MIGRATIONS[len(known) :]
        return [(self._fill(create), None), *((self._fill(insert), {"name": name}) for name in names)]

    def _exists(self, table: str) -> bool:
        found = self.cursor.execute(
            "SELECT to_regclass(%(name)s) IS NOT NULL", {"name": f"{quote_identifier(self.schema)}.{table}"}
        ).fetchall()
        return bool(found[0][0])

    def _fill(self, text: str) -> LiteralString:
        return cast(LiteralString, fill(text, self.schema))


def _say_nothing(_: str) -> None:
    pass


def _statements(sql: str) -> Iterator[str]:
    lines = [line for line in sql.splitlines() if not line.lstrip().startswith("--")]
    # At the end of a line only: a schema's name may have a semicolon in it.
    for statement in re.split(r";$", "\n".join(lines), flags=re.MULTILINE):
        if statement.strip():
            yield statement.strip()


class _exclusive:
    """The migration lock, polled for: a session that *waits* for it would hold a snapshot, and the
    index builds of the one that has the lock would wait for that snapshot for ever."""

    def __init__(self, conn: psycopg.Connection[Any], say: Callable[[str], None]) -> None:
        self._conn = conn
        self._say = say

    def __enter__(self) -> None:
        told = False
        while True:
            row = self._conn.execute("SELECT pg_try_advisory_lock(%s)", (TYPESCRIPT_LOCK,)).fetchone()
            if row is not None and row[0]:
                return
            if not told:
                self._say("waiting for another migration of this database to end")
                told = True
            time.sleep(_LOCK_WAIT)

    def __exit__(self, *_: object) -> None:
        if not self._conn.closed:
            self._conn.execute("SELECT pg_advisory_unlock(%s)", (TYPESCRIPT_LOCK,))
