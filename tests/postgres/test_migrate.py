"""Migrating tables of our own: from nothing, again, at once, after an interruption, behind a lock."""

from __future__ import annotations

import dataclasses
import multiprocessing
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import sql

from dataqueue import ConfigError, JobQueue, SchemaError
from dataqueue.backends.postgres import migrate as module
from dataqueue.backends.postgres.migrate import MigrateOptions, latest_version, migrate, migrations, status

NAMES = [f"{item.version:04d}_{item.name}" for item in migrations()]
ODD_NAMES = [
    "My-schema",
    'a "quoted" name',
    "o'brien",
    "semi;colon",
    "a$b",
    "grüße",
    "select",
    "x" * 50,
]
CONCURRENT_INDEXES = [
    "dataqueue_group_running", "dataqueue_parked", "dataqueue_ready", "dataqueue_tags", "dataqueue_unfinished",
    "dataqueue_unique", "dataqueue_upcoming",
]  # fmt: skip


def run(url: str, schema: str | None = None, **options: Any) -> list[str]:
    return migrate(url, {}, schema, MigrateOptions(**options))


@pytest.fixture
def conn(pg_empty_url: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(pg_empty_url, autocommit=True) as connection:
        yield connection


def relations(conn: psycopg.Connection[tuple[Any, ...]]) -> set[tuple[str, str]]:
    """Everything that a migration can make: (schema, name) of tables, indexes, sequences, functions, schemas."""
    return set(
        conn.execute(
            "SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE nspname !~ '^(pg_|information_schema)'"
            " UNION ALL SELECT nspname, proname FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace"
            " WHERE nspname !~ '^(pg_|information_schema)'"
            " UNION ALL SELECT nspname, '' FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)'"
        ).fetchall()
    )


def invalid_indexes(conn: psycopg.Connection[tuple[Any, ...]]) -> list[str]:
    rows = conn.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid").fetchall()
    return [name for (name,) in rows]


async def work_one(url: str, schema: str | None = None) -> None:
    """Add a job and work it: by a worker, with its events, a delayed one and a listing."""
    queue = JobQueue.from_url(url, schema=schema)
    seen: list[Any] = []
    try:
        handle = await queue.add_job("greet", {"name": "Ada"}, tags=["a"])
        first, second = (await queue.add_jobs({"job_type": "greet", "payload": n} for n in range(2))).ids
        assert await queue.create_processor({"greet": seen.append}).start() == 3
        assert seen == [{"name": "Ada"}, 0, 1]
        assert (await handle.refresh()).status == "completed"
        assert [job.id for job in await queue.get_jobs(tags=["a"])] == [handle.id]
        assert [event.event_type for event in await queue.get_job_events(second)] == [
            "added",
            "processing",
            "completed",
        ]
        assert handle.id < first < second
        assert (await queue.stats()).by_status == {"completed": 3}
        assert [finding.check for finding in await queue.doctor() if finding.level == "error"] == []
    finally:
        await queue.close()


async def test_fresh_tables_have_64_bit_ids_and_work(
    pg_empty_url: str, conn: psycopg.Connection[tuple[Any, ...]]
) -> None:
    """D-INT4."""
    said: list[str] = []
    assert run(pg_empty_url, report=said.append) == NAMES
    assert said == NAMES
    types = conn.execute(
        "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'"
        " AND (column_name ~ '(^|_)(job_)?id$' OR column_name = 'last_job_id')"
        " AND table_name IN ('job_queue', 'job_events', 'waitpoints', 'cron_schedules') AND data_type <> 'bigint'"
    ).fetchall()
    assert sorted(types) == [  # texts only, and none of them 32-bit numbers
        ("cron_schedules", "group_id", "character varying"),
        ("job_queue", "group_id", "character varying"),
        ("job_queue", "wait_token_id", "character varying"),
        ("waitpoints", "id", "character varying"),
    ]
    assert invalid_indexes(conn) == []
    # Nothing of the TypeScript library's: it cannot work on 64-bit ids, and so must not migrate these tables.
    assert conn.execute("SELECT to_regclass('dataqueuedev_migrations')").fetchone() == (None,)
    assert conn.execute("SELECT array_agg(tgname::text) FROM pg_trigger WHERE NOT tgisinternal").fetchone() == (
        ["dataqueue_join"],
    )
    await work_one(pg_empty_url)


async def test_ids_go_beyond_32_bits(pg_url: str) -> None:
    """D-INT4: of jobs and of events."""
    with psycopg.connect(pg_url) as conn:
        conn.execute("SELECT setval('job_queue_id_seq', 3000000000), setval('job_events_id_seq', 3000000000)")
    await work_one(pg_url)


def test_a_second_run_changes_nothing(pg_empty_url: str, conn: psycopg.Connection[tuple[Any, ...]]) -> None:
    run(pg_empty_url)
    before = relations(conn), conn.execute("TABLE dataqueue_migrations").fetchall()
    assert run(pg_empty_url) == []
    assert (relations(conn), conn.execute("TABLE dataqueue_migrations").fetchall()) == before


@pytest.mark.parametrize("schema", ["jobs", *ODD_NAMES])
async def test_a_named_schema(pg_empty_url: str, conn: psycopg.Connection[tuple[Any, ...]], schema: str) -> None:
    """D-SEARCHPATH: whatever its name."""
    assert run(pg_empty_url, schema) == NAMES
    made = relations(conn)
    assert {where for where, name in made if name} == {schema}
    await work_one(pg_empty_url, schema)
    assert run(pg_empty_url, schema) == []


@pytest.mark.parametrize("schema", ["jobs", *ODD_NAMES])
async def test_a_named_schema_shared_with_typescript(
    pg_empty_url: str, conn: psycopg.Connection[tuple[Any, ...]], schema: str
) -> None:
    assert run(pg_empty_url, schema, shared=True) == NAMES
    assert {where for where, name in relations(conn) if name} == {schema}
    await work_one(pg_empty_url, schema)


@pytest.mark.parametrize("schema", ["", "x" * 51, "ü" * 26, "a%b", "{schema}", "a\x00b"])
def test_a_schema_name_that_cannot_be(
    pg_empty_url: str, conn: psycopg.Connection[tuple[Any, ...]], schema: str
) -> None:
    before = relations(conn)
    with pytest.raises(ConfigError, match="does not fit"):
        run(pg_empty_url, schema)
    assert relations(conn) == before


async def test_two_schemas_in_one_database_are_strangers(pg_empty_url: str) -> None:
    """D-MULTISCHEMA."""
    assert run(pg_empty_url, "one") == run(pg_empty_url, "two") == NAMES
    one, two = (JobQueue.from_url(pg_empty_url, schema=schema) for schema in ("one", "two"))
    try:
        handle = await one.add_job("t", 1)
        assert await two.get_job(handle.id) is None
        assert await two.create_processor({"t": lambda _: None}).start() == 0
        assert await one.create_processor({"t": lambda _: None}).start() == 1
    finally:
        await one.close()
        await two.close()


async def test_the_schema_on_the_search_path(pg_empty_url: str, conn: psycopg.Connection[tuple[Any, ...]]) -> None:
    conn.execute('CREATE SCHEMA "My-schema"')
    url = f"{pg_empty_url}&options=" + "-c%20search_path%3D%22My-schema%22%2Cpublic"
    assert run(url) == NAMES
    assert ("My-schema", "job_queue") in relations(conn)
    await work_one(url)
    assert run(url) == []


def test_no_schema_to_go_to(pg_empty_url: str) -> None:
    with pytest.raises(ConfigError, match="--schema"):
        run(f"{pg_empty_url}&options=-c%20search_path%3Dnowhere")


def test_a_role_that_may_create_tables_but_no_schemas(
    pg_empty_url: str, conn: psycopg.Connection[tuple[Any, ...]]
) -> None:
    role = sql.Identifier(f"dq_{conn.info.dbname}")
    conn.execute(sql.SQL("CREATE ROLE {}").format(role))
    try:
        conn.execute(sql.SQL("CREATE SCHEMA jobs AUTHORIZATION {}").format(role))
        options = f"options=-c%20role%3Ddq_{conn.info.dbname}"
        assert migrate(f"{pg_empty_url}&{options}", {}, "jobs", MigrateOptions()) == NAMES
    finally:
        conn.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(role))


@pytest.mark.parametrize("shared", [False, True])
def test_a_dry_run_tells_the_sql_and_changes_nothing(
    pg_empty_url: str, conn: psycopg.Connection[tuple[Any, ...]], shared: bool
) -> None:
    before = relations(conn)
    planned = run(pg_empty_url, "jobs", dry_run=True, shared=shared)
    assert relations(conn) == before
    assert len(planned) == len(NAMES)
    for text, name in zip(planned, NAMES, strict=True):
        assert text.startswith(f"-- {name}")
        assert "{schema}" not in text
    assert re.search(r'CREATE TABLE (IF NOT EXISTS )?"jobs"\.job_queue', planned[0])
    assert ("(shared with TypeScript)" in planned[0]) is shared

    run(pg_empty_url, "jobs", shared=shared)
    assert run(pg_empty_url, "jobs", dry_run=True) == []


def test_a_dry_run_waits_for_nobody(pg_empty_url: str, conn: psycopg.Connection[tuple[Any, ...]]) -> None:
    conn.execute("SELECT pg_advisory_lock(%s)", (module.TYPESCRIPT_LOCK,))
    assert len(run(pg_empty_url, dry_run=True)) == len(NAMES)


def test_status(pg_empty_url: str) -> None:
    def stand() -> list[tuple[str, bool]]:
        rows = status(pg_empty_url, {}, "jobs")
        return [(f"{version:04d}_{name}", applied is not None) for version, name, applied in rows]

    assert stand() == [(name, False) for name in NAMES]
    run(pg_empty_url, "jobs")
    assert stand() == [(name, True) for name in NAMES]
    with psycopg.connect(pg_empty_url) as conn:
        conn.execute("DELETE FROM jobs.dataqueue_migrations WHERE version = %s", (latest_version(),))
        conn.execute("INSERT INTO jobs.dataqueue_migrations VALUES (9001, 'from_the_future', FALSE, '9.9')")
    assert stand() == [*((name, name != NAMES[-1]) for name in NAMES), ("9001_from_the_future", True)]


@pytest.mark.parametrize("shared", [False, True])
def test_six_deploys_race(pg_empty_url: str, conn: psycopg.Connection[tuple[Any, ...]], shared: bool) -> None:
    with ProcessPoolExecutor(6, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(migrate, pg_empty_url, {}, "jobs", MigrateOptions(shared=shared)) for _ in range(6)]
        done = [future.result(60) for future in futures]
    assert sorted(done, key=len) == [[]] * 5 + [NAMES]
    assert conn.execute("SELECT count(*) FROM jobs.dataqueue_migrations").fetchone() == (len(NAMES),)
    assert invalid_indexes(conn) == []


def test_a_migration_that_waits_for_another_says_so(
    pg_empty_url: str, conn: psycopg.Connection[tuple[Any, ...]]
) -> None:
    conn.execute("SELECT pg_advisory_lock(%s)", (module.TYPESCRIPT_LOCK,))
    said: list[str] = []

    def report(line: str) -> None:
        said.append(line)
        if "waiting" in line:
            conn.execute("SELECT pg_advisory_unlock(%s)", (module.TYPESCRIPT_LOCK,))

    assert run(pg_empty_url, report=report) == NAMES
    assert len([line for line in said if "waiting" in line]) == 1


@pytest.mark.parametrize("index", CONCURRENT_INDEXES)
def test_an_index_whose_build_was_interrupted_is_built_again(
    pg_empty_url: str, conn: psycopg.Connection[tuple[Any, ...]], index: str
) -> None:
    run(pg_empty_url, "jobs")
    conn.execute("UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = %s::regclass", (f"jobs.{index}",))
    old = conn.execute("SELECT %s::regclass::oid", (f"jobs.{index}",)).fetchone()
    conn.execute("DELETE FROM jobs.dataqueue_migrations WHERE version >= 2")
    said: list[str] = []
    assert run(pg_empty_url, "jobs", report=said.append) == NAMES[1:]
    assert f"  rebuilding {index}" in said
    assert invalid_indexes(conn) == []
    assert conn.execute("SELECT %s::regclass::oid", (f"jobs.{index}",)).fetchone() != old


def test_a_cancelled_index_build_is_taken_up_again(
    pg_empty_url: str, conn: psycopg.Connection[tuple[Any, ...]]
) -> None:
    run(pg_empty_url)
    conn.execute("DROP INDEX dataqueue_ready; DELETE FROM dataqueue_migrations WHERE version >= 2")
    failures: list[BaseException] = []

    def build() -> None:
        try:
            run(pg_empty_url)
        except psycopg.Error as error:
            failures.append(error)

    with psycopg.connect(pg_empty_url) as older:
        # An open transaction that has written the table: the build waits for it, and is cancelled meanwhile.
        older.execute("INSERT INTO job_queue (job_type, payload) VALUES ('t', '1')")
        thread = threading.Thread(target=build)
        thread.start()
        cancelled = False
        while thread.is_alive():
            cancelled = (
                cancelled
                or conn.execute(
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND wait_event_type = 'Lock' AND query LIKE 'CREATE INDEX CONCURRENTLY%'"
                ).fetchone()
                is not None
            )
            thread.join(0.01)
    assert [type(error) for error in failures] == [psycopg.errors.QueryCanceled]
    assert invalid_indexes(conn) == ["dataqueue_ready"]
    assert run(pg_empty_url) == NAMES[1:]
    assert invalid_indexes(conn) == []


@pytest.mark.parametrize("version", [None, 1, latest_version() - 1])
async def test_older_tables_are_refused_until_they_are_migrated(pg_url: str, version: int | None) -> None:
    with psycopg.connect(pg_url) as conn:
        conn.execute("DELETE FROM dataqueue_migrations WHERE version > %s", (version or 0,))
    queue = JobQueue.from_url(pg_url)
    try:
        with pytest.raises(SchemaError) as caught:
            await queue.add_job("t", 1)
        message = str(caught.value)
        assert f"at version {version or 0}; this package needs {latest_version()}" in message
        assert "dataqueue migrate" in message and pg_url.split("/")[-1].split("?")[0] in message
    finally:
        await queue.close()


async def test_newer_tables_are_refused(pg_url: str) -> None:
    with psycopg.connect(pg_url) as conn:
        conn.execute("INSERT INTO dataqueue_migrations VALUES (9001, 'from_the_future', FALSE, '9.9')")
    queue = JobQueue.from_url(pg_url)
    try:
        with pytest.raises(SchemaError, match=r"at version 9001, newer than .* Upgrade dataqueue"):
            await queue.get_job(1)
    finally:
        await queue.close()
    for dry_run in (False, True):
        with pytest.raises(SchemaError, match=r"at version 9001, newer than .* Upgrade dataqueue"):
            run(pg_url, dry_run=dry_run)


@pytest.mark.parametrize("schema", [None, "nowhere"])
async def test_missing_tables(pg_empty_url: str, schema: str | None) -> None:
    queue = JobQueue.from_url(pg_empty_url, schema=schema)
    try:
        with pytest.raises(SchemaError, match=r"(?s)no dataqueue tables.*|are missing.*") as caught:
            await queue.add_job("t", 1)
        assert "dataqueue migrate" in str(caught.value)
    finally:
        await queue.close()


async def test_a_queue_opens_once_its_tables_are_there(pg_empty_url: str) -> None:
    queue = JobQueue.from_url(pg_empty_url)
    try:
        with pytest.raises(SchemaError):
            await queue.add_job("t", 1)
        assert await queue.migrate() == NAMES
        assert (await queue.add_job("t", 1)).id == 1
    finally:
        await queue.close()


def test_somebody_elses_table_of_that_name_is_left_alone(
    pg_empty_url: str, conn: psycopg.Connection[tuple[Any, ...]]
) -> None:
    conn.execute("CREATE TABLE job_queue (id uuid PRIMARY KEY, name text, status text)")
    before = relations(conn)
    columns = "SELECT column_name FROM information_schema.columns WHERE table_name = 'job_queue' ORDER BY 1"
    with pytest.raises(SchemaError, match=r"job_queue in schema public .* not .* --schema"):
        run(pg_empty_url)
    assert relations(conn) == before
    assert conn.execute(columns).fetchall() == [("id",), ("name",), ("status",)]


def test_tables_of_our_own_do_not_become_shared_ones(pg_empty_url: str) -> None:
    run(pg_empty_url)
    for dry_run in (False, True):
        with pytest.raises(ConfigError, match="cannot become shared"):
            run(pg_empty_url, shared=True, dry_run=dry_run)


# -- locks ------------------------------------------------------------------------------------------


@pytest.fixture
def a_step_that_locks(pg_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A migrated database, and a newer package whose next step needs the whole table for a moment."""
    step = module.Migration(9001, "note", "ALTER TABLE {schema}.job_queue ADD COLUMN note TEXT;", None)
    monkeypatch.setattr(module, "migrations", lambda: (*migrations(), step))
    monkeypatch.setattr(module, "_LOCK_TIMEOUT", "SET LOCAL lock_timeout = '50ms'")
    monkeypatch.setattr(module, "_LOCK_WAIT", 0.01)
    return pg_url


def test_a_held_lock_is_given_up(a_step_that_locks: str) -> None:
    url, said = a_step_that_locks, list[str]()
    with psycopg.connect(url) as holder:
        holder.execute("SELECT count(*) FROM job_queue")
        with pytest.raises(SchemaError, match="long transaction") as caught:
            run(url, report=said.append)
    assert "Nothing of this step was changed" in str(caught.value)
    assert len([line for line in said if "waiting for a lock" in line]) == module._LOCK_TRIES - 1
    assert status(url, {}, None)[-1] == (9001, "note", None)
    assert run(url) == ["9001_note"]


def test_a_lock_that_is_let_go_is_taken(a_step_that_locks: str) -> None:
    url = a_step_that_locks
    with psycopg.connect(url) as holder:
        holder.execute("SELECT count(*) FROM job_queue")
        assert run(url, report=lambda line: holder.rollback() if "waiting" in line else None) == ["9001_note"]


def test_behind_a_waiting_migration_nobody_queues_for_long(a_step_that_locks: str) -> None:
    """The migration waits in small doses: a reader that stands behind it goes on after one dose."""
    url, stopped = a_step_that_locks, threading.Event()
    failures: list[SchemaError] = []

    def waiting() -> None:
        while not stopped.is_set():
            try:
                run(url)
            except SchemaError as error:
                failures.append(error)

    with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as reader:
        holder.execute("SELECT count(*) FROM job_queue")
        thread = threading.Thread(target=waiting)
        thread.start()
        try:
            reader.execute("SET statement_timeout = '10s'")  # against being stuck, not a measure of speed
            queued = 0
            while queued < 5:
                behind = reader.execute(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'job_queue'::regclass"
                ).fetchone()
                queued += behind == (1,)
                reader.execute("INSERT INTO job_queue (job_type, payload) VALUES ('t', '1')")
        finally:
            stopped.set()
            thread.join()
    assert failures


def test_an_interrupted_migration_goes_on_where_it_was(
    pg_empty_url: str, conn: psycopg.Connection[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [
        dataclasses.replace(item, text="SELECT 1/0") if item.version == latest_version() else item
        for item in migrations()
    ]
    with monkeypatch.context() as patch:
        patch.setattr(module, "migrations", lambda: tuple(broken))
        with pytest.raises(psycopg.errors.DivisionByZero):
            run(pg_empty_url)
    assert conn.execute("SELECT max(version) FROM dataqueue_migrations").fetchone() == (latest_version() - 1,)
    assert run(pg_empty_url) == NAMES[-1:]
    # The lock went with the connection that failed.
    assert conn.execute("SELECT pg_try_advisory_lock(%s)", (module.TYPESCRIPT_LOCK,)).fetchone() == (True,)
