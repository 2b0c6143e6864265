"""Adopting the TypeScript library's tables, wholly or in part migrated, and living with its writers.

Its statements are imitated here in our own words; ``test_typescript_interop.py`` runs the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row, tuple_row

from dataqueue import JobQueue, NewJob
from dataqueue.backends.base import Backend, Claimed, Completed, Failed, Held, Outcome, Pulse, Released, WorkerInfo
from dataqueue.backends.postgres import migrate as module
from dataqueue.backends.postgres.migrate import TYPESCRIPT_MIGRATIONS, MigrateOptions, migrate, migrations

Conn = psycopg.Connection[tuple[Any, ...]]

# What its migrations leave behind: the first alone, the five of npm's release 1.24.0, all sixteen.
FIRST = """
CREATE TABLE job_queue (
    id serial PRIMARY KEY, job_type varchar(255) NOT NULL, payload jsonb NOT NULL,
    status varchar(50) DEFAULT 'pending', created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(),
    locked_at timestamptz, locked_by varchar(255), attempts int DEFAULT 0, max_attempts int DEFAULT 3,
    next_attempt_at timestamptz, priority int DEFAULT 0, run_at timestamptz DEFAULT now(), pending_reason text,
    error_history jsonb DEFAULT '[]');
CREATE INDEX idx_job_queue_status ON job_queue (status);
CREATE INDEX idx_job_queue_next_attempt ON job_queue (next_attempt_at);
CREATE INDEX idx_job_queue_run_at ON job_queue (run_at);
CREATE INDEX idx_job_queue_priority ON job_queue (priority);
"""
UP_TO_5 = """
ALTER TABLE job_queue
    ADD timeout_ms int, ADD failure_reason varchar, ADD completed_at timestamptz, ADD started_at timestamptz,
    ADD last_retried_at timestamptz, ADD last_failed_at timestamptz, ADD last_cancelled_at timestamptz,
    ADD tags text[], ADD force_kill_on_timeout boolean DEFAULT false;
CREATE INDEX idx_job_queue_tags ON job_queue USING gin (tags);
CREATE TABLE job_events (
    id serial PRIMARY KEY,
    job_id int NOT NULL CONSTRAINT fk_job_events_job_queue REFERENCES job_queue ON DELETE CASCADE,
    event_type text NOT NULL, created_at timestamptz DEFAULT now(), metadata jsonb);
CREATE INDEX idx_job_events_job_id ON job_events (job_id);
CREATE INDEX idx_job_events_event_type ON job_events (event_type);
"""
UP_TO_16 = """
ALTER TABLE job_queue
    ADD idempotency_key varchar(255), ADD wait_until timestamptz, ADD wait_token_id varchar(255),
    ADD step_data jsonb DEFAULT '{}', ADD progress int, ADD retry_delay int, ADD retry_backoff boolean,
    ADD retry_delay_max int, ADD output jsonb, ADD group_id varchar(255), ADD group_tier varchar(255),
    ADD dead_letter_job_type varchar(255), ADD dead_lettered_at timestamptz, ADD dead_letter_job_id int,
    ADD depends_on_job_ids int[], ADD depends_on_tags text[];
CREATE UNIQUE INDEX idx_job_queue_idempotency_key ON job_queue (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX idx_job_queue_claimable ON job_queue (priority DESC, created_at) WHERE status = 'pending';
CREATE INDEX idx_job_queue_failed_retry ON job_queue (next_attempt_at) WHERE status = 'failed';
CREATE INDEX idx_job_queue_stuck ON job_queue (locked_at) WHERE status = 'processing';
CREATE INDEX idx_job_queue_cleanup ON job_queue (updated_at) WHERE status = 'completed';
CREATE INDEX idx_job_queue_wait_until ON job_queue (wait_until) WHERE status = 'waiting';
CREATE INDEX idx_job_queue_group ON job_queue (group_id) WHERE status = 'processing';
CREATE INDEX idx_job_queue_depends_on ON job_queue USING gin (depends_on_job_ids);
CREATE INDEX idx_job_events_created_at ON job_events (created_at);
CREATE TABLE waitpoints (
    id varchar(255) PRIMARY KEY, job_id int REFERENCES job_queue ON DELETE CASCADE,
    status varchar(20) NOT NULL DEFAULT 'waiting', output jsonb, timeout_at timestamptz,
    created_at timestamptz DEFAULT now(), completed_at timestamptz, tags text[]);
CREATE TABLE cron_schedules (
    id serial PRIMARY KEY, schedule_name varchar(255) NOT NULL UNIQUE, cron_expression varchar(255) NOT NULL,
    job_type varchar(255) NOT NULL, payload jsonb NOT NULL DEFAULT '{}', max_attempts int DEFAULT 3,
    priority int DEFAULT 0, timeout_ms int, force_kill_on_timeout boolean DEFAULT false, tags text[],
    timezone varchar(100) DEFAULT 'UTC', allow_overlap boolean DEFAULT false, status varchar(50) DEFAULT 'active',
    last_enqueued_at timestamptz, last_job_id int, next_run_at timestamptz, created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now(), retry_delay int, retry_backoff boolean, retry_delay_max int,
    dead_letter_job_type varchar(255));
"""
STAGES = {1: FIRST, 5: FIRST + UP_TO_5, 16: FIRST + UP_TO_5 + UP_TO_16}
RECORDS = "CREATE TABLE dataqueuedev_migrations (id serial PRIMARY KEY, name varchar(255) NOT NULL, run_on timestamp NOT NULL)"

# name (as payload), status, attempts of max 3, run_at, next_attempt_at: what our worker may take at once comes first
NOW, PAST, FUTURE = "now()", "now() - interval '1 hour'", "now() + interval '1 hour'"
ROWS = {
    "pending": ("pending", 0, PAST, None),
    "tried, and pending": ("pending", 2, PAST, PAST),
    "to be retried": ("failed", 1, PAST, PAST),
    "for later": ("pending", 0, FUTURE, None),
    "to be retried later": ("failed", 2, PAST, FUTURE),
    "exhausted, but pending": ("pending", 3, PAST, None),
    "failed": ("failed", 3, PAST, None),
    "running": ("processing", 1, PAST, None),
    "completed": ("completed", 1, PAST, None),
    "cancelled": ("cancelled", 0, PAST, None),
}
TAKEN = {"pending", "tried, and pending", "to be retried"}
LATER = {"for later", "to be retried later"}
WAITS = {"woken": (PAST, None), "waits for a time": (FUTURE, None), "waits for a token": (None, "wp_1")}


@pytest.fixture
def conn(pg_empty_url: str) -> Iterator[Conn]:
    with psycopg.connect(pg_empty_url, autocommit=True, row_factory=tuple_row) as connection:
        yield connection


def original(conn: Conn, stage: int) -> None:
    """Tables as the original's first ``stage`` migrations leave them, and its record of these."""
    conn.execute(STAGES[stage])
    conn.execute(RECORDS)
    for name in TYPESCRIPT_MIGRATIONS[:stage]:
        conn.execute("INSERT INTO dataqueuedev_migrations (name, run_on) VALUES (%s, now())", (name,))


def fill(conn: Conn, stage: int) -> None:
    for name, (status, attempts, run_at, next_attempt_at) in ROWS.items():
        locked = status == "processing"
        conn.execute(
            "INSERT INTO job_queue (job_type, payload, status, attempts, run_at, next_attempt_at, locked_at, locked_by,"
            f" error_history) VALUES ('t', to_jsonb(%s::text), %s, %s, {run_at}, {next_attempt_at or 'NULL'}, %s, %s,"
            """ '[{"message": "boom", "timestamp": "2026-01-01T00:00:00.000Z"}]')""",
            (name, status, attempts, "now" if locked else None, "worker-ts" if locked else None),
        )
    for name, (wait_until, token) in (WAITS if stage == 16 else {}).items():
        conn.execute(
            "INSERT INTO job_queue (job_type, payload, status, attempts, max_attempts, wait_until, wait_token_id)"
            f" VALUES ('t', to_jsonb(%s::text), 'waiting', 1, 1, {wait_until or 'NULL'}, %s)",
            (name, token),
        )


def names(conn: Conn, condition: str) -> set[str]:
    return {name for (name,) in conn.execute(f"SELECT payload #>> '{{}}' FROM job_queue WHERE {condition}").fetchall()}


def columns(conn: Conn, table: str) -> dict[str, str]:
    return dict(
        conn.execute(
            "SELECT column_name, udt_name FROM information_schema.columns WHERE table_name = %s", (table,)
        ).fetchall()
    )


def snapshot(conn: Conn, wanted: list[str]) -> list[tuple[Any, ...]]:
    return conn.execute(f"SELECT {', '.join(wanted)} FROM job_queue ORDER BY id").fetchall()


@pytest.mark.parametrize("stage", STAGES)
async def test_adopting(pg_empty_url: str, conn: Conn, stage: int) -> None:
    original(conn, stage)
    fill(conn, stage)
    before = columns(conn, "job_queue")
    rows = snapshot(conn, list(before))

    assert len(migrate(pg_empty_url, {}, None, MigrateOptions())) == len(migrations())

    assert conn.execute("SELECT bool_and(shared) FROM dataqueue_migrations").fetchone() == (True,)
    after = columns(conn, "job_queue")
    assert {name: after[name] for name in before} == before and after["id"] == "int4"
    assert snapshot(conn, list(before)) == rows
    assert columns(conn, "job_events")["job_id"] == columns(conn, "waitpoints")["job_id"] == "int4"

    due_waits = {"woken"} if stage == 16 else set[str]()
    later_waits = {"waits for a time"} if stage == 16 else set[str]()
    assert names(conn, "ready_at IS NOT NULL AND due") == TAKEN | due_waits
    assert names(conn, "ready_at IS NOT NULL AND NOT due") == LATER | later_waits
    assert names(conn, "ready_at = CASE status WHEN 'failed' THEN next_attempt_at WHEN 'waiting' THEN wait_until"
                       " ELSE run_at END") == TAKEN | LATER | due_waits | later_waits  # fmt: skip

    queue, seen = JobQueue.from_url(pg_empty_url), list[str]()
    try:
        assert await queue.create_processor({"t": seen.append}).start() == len(TAKEN | due_waits)
        assert set(seen) == TAKEN | due_waits == names(conn, "locked_by IS NULL AND started_at IS NOT NULL")
        assert names(conn, "status = 'processing'") == {"running"}

        conn.execute(
            f"UPDATE job_queue SET run_at = {NOW}, next_attempt_at = {NOW} WHERE status IN ('pending', 'failed')"
        )
        assert await queue.create_processor({"t": seen.append}).start() == len(LATER)
        assert names(conn, "status = 'completed'") == TAKEN | LATER | due_waits | {"completed"}
        assert [finding.message for finding in await queue.doctor() if finding.level == "error"] == []
        failed = await queue.require_job(1 + list(ROWS).index("failed"))
        assert failed.last_error == "boom" and failed.error_history[0].timestamp.year == 2026
    finally:
        await queue.close()


@pytest.mark.parametrize("stage", [None, *STAGES])
def test_its_record_of_migrations_is_completed(pg_empty_url: str, conn: Conn, stage: int | None) -> None:
    """The tables now have what all sixteen would make; run after ours, some would fail or block."""
    if stage is not None:
        original(conn, stage)
    migrate(pg_empty_url, {}, None, MigrateOptions(shared=stage is None))
    rows = conn.execute("SELECT name, run_on FROM dataqueuedev_migrations ORDER BY id").fetchall()
    assert tuple(name for name, _ in rows) == TYPESCRIPT_MIGRATIONS
    moments = [moment for _, moment in rows]
    assert moments == sorted(moments)


def test_moments_of_another_time_zone_do_not_disturb_its_order(pg_empty_url: str, conn: Conn) -> None:
    original(conn, 5)
    conn.execute("UPDATE dataqueuedev_migrations SET run_on = run_on + interval '14 hours'")
    migrate(pg_empty_url, {}, None, MigrateOptions())
    rows = conn.execute("SELECT name FROM dataqueuedev_migrations ORDER BY run_on, id").fetchall()
    assert tuple(name for (name,) in rows) == TYPESCRIPT_MIGRATIONS


@pytest.mark.parametrize(
    "recorded",
    [(*TYPESCRIPT_MIGRATIONS[:3], "1771000000000_unknown"), (*TYPESCRIPT_MIGRATIONS, "1799999999999_newer")],
    ids=["another line", "newer"],
)
def test_a_record_that_tells_of_something_else_is_left_alone(
    pg_empty_url: str, conn: Conn, recorded: tuple[str, ...]
) -> None:
    original(conn, 16)
    conn.execute("TRUNCATE dataqueuedev_migrations")
    for name in recorded:
        conn.execute("INSERT INTO dataqueuedev_migrations (name, run_on) VALUES (%s, now())", (name,))
    migrate(pg_empty_url, {}, None, MigrateOptions())
    rows = conn.execute("SELECT name FROM dataqueuedev_migrations ORDER BY id").fetchall()
    assert tuple(name for (name,) in rows) == recorded


def test_tables_without_its_record_get_none(pg_empty_url: str, conn: Conn) -> None:
    conn.execute(STAGES[5])
    migrate(pg_empty_url, {}, None, MigrateOptions())
    assert conn.execute("SELECT to_regclass('dataqueuedev_migrations')").fetchone() == (None,)


def test_an_interrupted_shared_migration_still_tells_its_runner(
    pg_empty_url: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [dataclasses.replace(item, text="SELECT 1/0") if item.version == 2 else item for item in migrations()]
    with monkeypatch.context() as patch:
        patch.setattr(module, "migrations", lambda: tuple(broken))
        with pytest.raises(psycopg.errors.DivisionByZero):
            migrate(pg_empty_url, {}, None, MigrateOptions(shared=True))
    migrate(pg_empty_url, {}, None, MigrateOptions())
    assert conn.execute("SELECT count(*) FROM dataqueuedev_migrations").fetchone() == (16,)
    assert conn.execute("SELECT bool_and(shared) FROM dataqueue_migrations").fetchone() == (True,)


async def test_shared_tables_from_nothing(pg_empty_url: str, conn: Conn) -> None:
    migrate(pg_empty_url, {}, None, MigrateOptions(shared=True))
    ids = [columns(conn, table)["id"] for table in ("job_queue", "job_events", "cron_schedules")]
    assert ids == ["int4"] * 3
    queue = JobQueue.from_url(pg_empty_url)
    try:
        handles = await queue.add_jobs(NewJob("t", n) for n in range(3))
        assert await queue.create_processor({"t": lambda n: n}).start() == 3
        for n, handle in enumerate(handles):
            job = await handle.refresh()
            assert (job.status, job.output) == ("completed", n)
    finally:
        await queue.close()


def test_what_the_original_would_make_is_there(pg_empty_url: str, conn: Conn, pg_url: str) -> None:
    """Created by ours, adopted, and of our own: the same columns, but for the width of the ids."""
    migrate(pg_empty_url, {}, "created", MigrateOptions(shared=True))
    conn.execute("CREATE SCHEMA adopted; SET search_path TO adopted")
    original(conn, 16)
    theirs = {table: set(columns(conn, table)) for table in ("job_queue", "job_events", "waitpoints", "cron_schedules")}
    migrate(pg_empty_url, {}, "adopted", MigrateOptions())
    conn.execute("RESET search_path")

    def described(connection: Conn, schema: str) -> dict[tuple[str, str], str]:
        rows = connection.execute(
            "SELECT table_name, column_name, udt_name FROM information_schema.columns WHERE table_schema = %s"
            " AND table_name NOT LIKE 'dataqueuedev%%'",
            (schema,),
        ).fetchall()
        return {(table, column): kind for table, column, kind in rows}

    created, adopted = described(conn, "created"), described(conn, "adopted")
    assert created == adopted
    for table, wanted in theirs.items():
        assert wanted <= {column for name, column in created if name == table}
    with psycopg.connect(pg_url) as other:
        own = described(other, "public")
    assert own.keys() == created.keys()
    different = {key for key in own if own[key] != created[key]}
    assert {(own[key], created[key]) for key in different} == {("int8", "int4")}
    assert {column for _, column in different} == {"id", "job_id", "last_job_id", "dead_letter_job_id"}


# -- rows that are busy while we migrate ------------------------------------------------------------


def test_a_job_locked_during_the_migration_is_not_forgotten(
    pg_empty_url: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim of the original's may have the row, and be rolled back when we are done."""
    monkeypatch.setattr(module, "_LOCK_TIMEOUT", "SET LOCAL lock_timeout = '100ms'")
    original(conn, 5)
    fill(conn, 5)
    locked, holding = threading.Event(), threading.Event()

    def hold() -> None:
        with psycopg.connect(pg_empty_url) as other:
            other.execute("SELECT FROM job_queue WHERE id <= 2 FOR UPDATE")
            locked.set()
            holding.wait(60)
            other.rollback()

    thread = threading.Thread(target=hold)

    def report(line: str) -> None:
        if line == "0003_ready_at":  # the tables are changed, the rows are not yet
            thread.start()
            locked.wait(30)
        elif "waiting for a lock" in line:
            holding.set()

    try:
        migrate(pg_empty_url, {}, None, MigrateOptions(report=report))
    finally:
        holding.set()
        thread.join()
    assert names(conn, "ready_at IS NOT NULL AND due") == TAKEN


ROWS_OF_A_BIG_TABLE = [200_000, pytest.param(1_000_000, marks=[pytest.mark.plans, pytest.mark.timeout(900)])]


@pytest.mark.parametrize("rows", ROWS_OF_A_BIG_TABLE)
def test_a_big_table_is_adopted_under_its_users(pg_empty_url: str, conn: Conn, rows: int) -> None:
    """Producers and workers of the original go on: nobody waits for more than a moment."""
    original(conn, 5)
    conn.execute(
        "INSERT INTO job_queue (job_type, payload, status, attempts, next_attempt_at, run_at, created_at)"
        " SELECT 't', to_jsonb(n), CASE WHEN n %% 10 < 5 THEN 'completed' WHEN n %% 10 < 9 THEN 'pending' ELSE 'failed' END,"
        " CASE WHEN n %% 10 < 9 THEN 0 ELSE 1 END, now(), now() + n %% 7 * interval '1 day', now()"
        " FROM generate_series(1, %s) n",
        (rows,),
    )
    conn.execute("VACUUM ANALYZE job_queue")
    stopped, stalls = threading.Event(), list[float]()
    failures: list[Exception] = []

    def use() -> None:
        claim = (
            "UPDATE job_queue SET status = 'processing', locked_at = now(), locked_by = 'worker-ts',"
            " attempts = attempts + 1 WHERE id IN (SELECT id FROM job_queue WHERE status = 'pending'"
            " AND run_at <= now() LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id"
        )
        try:
            with psycopg.connect(pg_empty_url, autocommit=True) as user:
                while not stopped.is_set():
                    for statement in (
                        "INSERT INTO job_queue (job_type, payload) VALUES ('t', '1')",
                        claim,
                        "UPDATE job_queue SET status = 'completed' WHERE id = (SELECT max(id) FROM job_queue"
                        " WHERE status = 'processing')",
                    ):
                        begun = time.monotonic()
                        user.execute(statement)
                        stalls.append(time.monotonic() - begun)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    begun = time.monotonic()
    try:
        migrate(pg_empty_url, {}, None, MigrateOptions())
    finally:
        total = time.monotonic() - begun
        stopped.set()
        thread.join()
    print(f"{rows:,} rows adopted in {total:.1f} s; {len(stalls):,} statements beside, longest {max(stalls):.3f} s")
    assert failures == []
    assert max(stalls) < max(1.0, total / 3)
    missing = "ready_at IS NULL AND status IN ('pending', 'failed') AND attempts < max_attempts"
    assert conn.execute(f"SELECT count(*) FROM job_queue WHERE {missing}").fetchone() == (0,)
    wrong = "ready_at IS DISTINCT FROM CASE status WHEN 'pending' THEN run_at WHEN 'failed' THEN next_attempt_at END"
    assert conn.execute(f"SELECT count(*) FROM job_queue WHERE {wrong}").fetchone() == (0,)


# -- its writers beside our workers -----------------------------------------------------------------

WORKER = WorkerInfo("py-1", "here", 1, ("t",), 10, "1", 30.0)
COMPLETE = "UPDATE job_queue SET status = 'completed', updated_at = now(), completed_at = now() WHERE id = %s"
FAIL = (
    "UPDATE job_queue SET status = 'failed', updated_at = now(), next_attempt_at = CASE WHEN attempts < max_attempts"
    " THEN now() + interval '2 minutes' END, failure_reason = 'handler_error', last_failed_at = now(),"
    """ error_history = COALESCE(error_history, '[]') || '[{"message": "late"}]' WHERE id = %s"""
)
WAIT = (
    "UPDATE job_queue SET status = 'waiting', wait_until = now() + interval '1 day', locked_at = NULL,"
    " locked_by = NULL, updated_at = now() WHERE id = %s AND status = 'processing'"
)
CLAIM = (
    "UPDATE job_queue SET status = 'processing', locked_at = now(), locked_by = 'worker-ts', attempts = attempts + 1,"
    " updated_at = now(), pending_reason = NULL WHERE id IN (SELECT id FROM job_queue WHERE (status = 'pending' OR"
    " status = 'failed' AND next_attempt_at <= now()) AND attempts < max_attempts AND run_at <= now()"
    " ORDER BY priority DESC, created_at LIMIT 10 FOR UPDATE SKIP LOCKED)"
)
RECLAIM = (
    "UPDATE job_queue SET status = 'pending', locked_at = NULL, locked_by = NULL, updated_at = now()"
    " WHERE status = 'processing' AND locked_at < now() - interval '10 minutes'"
)
RETRY = (
    "UPDATE job_queue SET status = 'pending', locked_at = NULL, locked_by = NULL, next_attempt_at = now(),"
    " last_retried_at = now(), updated_at = now() WHERE id = %s"
)
CANCEL = "UPDATE job_queue SET status = 'cancelled', last_cancelled_at = now() WHERE id = %s AND status = 'pending'"


@pytest.fixture
async def shared(pg_empty_url: str) -> Any:
    """An open queue on shared tables, whose backend is worked by hand."""
    migrate(pg_empty_url, {}, None, MigrateOptions(shared=True))
    async with JobQueue.from_url(pg_empty_url) as queue:
        await queue.backend.register_worker(WORKER)
        yield queue


async def claim(backend: Backend) -> Claimed:
    (job,) = (await backend.cycle(WORKER.id, [], ["t"], 10, True)).jobs
    return job


async def record(backend: Backend, outcome: Outcome) -> bool:
    """Record an outcome; whether it was still ours to record."""
    return (await backend.cycle(WORKER.id, [outcome], ["t"], 0, False)).lost == []


async def beat(backend: Backend, held: Held) -> Pulse:
    with contextlib.closing(backend.heart()) as heart:
        return await asyncio.to_thread(heart.beat, WORKER, [held])


def row(conn: Conn, job_id: int) -> dict[str, Any]:
    found = conn.cursor(row_factory=dict_row).execute("SELECT * FROM job_queue WHERE id = %s", (job_id,)).fetchone()
    assert found is not None
    return found


@pytest.mark.parametrize("late", [COMPLETE, FAIL, WAIT], ids=["complete", "fail", "wait"])
async def test_its_late_write_to_a_job_that_we_hold_changes_nothing(shared: JobQueue, conn: Conn, late: str) -> None:
    job_id = (await shared.add_job("t", 1)).id
    conn.execute(CLAIM)
    conn.execute("UPDATE job_queue SET locked_at = locked_at - interval '1 hour'")
    assert conn.execute(RECLAIM).rowcount == 1
    job = await claim(shared.backend)
    before = row(conn, job_id)
    assert conn.execute(late, (job_id,)).rowcount == 0
    assert row(conn, job_id) == before
    assert await record(shared.backend, Completed(job.id, job.lease_id, '"ours"'))
    assert (await shared.require_job(job_id)).output == "ours"


@pytest.mark.parametrize("take", [RECLAIM, RETRY], ids=["reclaim", "retry"])
@pytest.mark.parametrize("outcome", ["complete", "fail", "release", "progress", "output"])
async def test_what_it_takes_back_is_lost_to_us(shared: JobQueue, conn: Conn, take: str, outcome: str) -> None:
    job_id = (await shared.add_job("t", 1)).id
    job = await claim(shared.backend)
    conn.execute("UPDATE job_queue SET locked_at = locked_at - interval '1 hour' WHERE id = %s", (job_id,))
    assert conn.execute(take, (job_id,) if "%s" in take else None).rowcount == 1
    taken = row(conn, job_id)
    assert (taken["status"], taken["lease_id"], taken["due"]) == ("pending", None, True)
    backend, held = shared.backend, (job.id, job.lease_id)
    if outcome in ("progress", "output"):
        wrote = backend.set_progress(*held, 50) if outcome == "progress" else backend.set_output(*held, "1")
        assert not await wrote
    else:
        outcomes: dict[str, Outcome] = {
            "complete": Completed(*held),
            "fail": Failed(*held, "late", "handler_error", None),
            "release": Released(*held),
        }
        assert not await record(backend, outcomes[outcome])
    assert row(conn, job_id) == taken
    assert (await beat(backend, held)).lost == [held]
    again = await claim(backend)  # and it can be claimed like any other
    assert (again.id, again.attempts) == (job_id, 2) and again.lease_id != job.lease_id


async def test_its_own_jobs_are_its_own(shared: JobQueue, conn: Conn) -> None:
    jobs = [(await shared.add_job("t", n)).id for n in range(3)]
    assert conn.execute(CLAIM).rowcount == 3
    assert (await shared.backend.cycle(WORKER.id, [], ["t"], 10, True)).jobs == []
    assert await shared.backend.reclaim_expired(10) == []
    for statement, job_id in zip((COMPLETE, FAIL, WAIT), jobs, strict=True):
        assert conn.execute(statement, (job_id,)).rowcount == 1
    rows = [row(conn, job_id) for job_id in jobs]
    assert [one["status"] for one in rows] == ["completed", "failed", "waiting"]
    assert [one["due"] for one in rows] == [False] * 3
    assert rows[0]["ready_at"] is None
    assert rows[1]["ready_at"] == rows[1]["next_attempt_at"] and rows[2]["ready_at"] == rows[2]["wait_until"]


@pytest.mark.parametrize("late", [COMPLETE, FAIL, WAIT], ids=["complete", "fail", "wait"])
@pytest.mark.parametrize("end", ["completed", "failed", "failed, to be retried", "pending", "cancelled"])
async def test_its_late_write_to_a_job_that_is_over_or_waits_for_a_worker(
    shared: JobQueue, conn: Conn, late: str, end: str
) -> None:
    job_id = (await shared.add_job("t", 1)).id
    job = await claim(shared.backend)
    outcome: dict[str, Outcome] = {
        "completed": Completed(job.id, job.lease_id, '"ours"'),
        "failed": Failed(job.id, job.lease_id, "ours", "handler_error", None),
        "failed, to be retried": Failed(job.id, job.lease_id, "ours", "handler_error", 60_000),
        "pending": Released(job.id, job.lease_id),
        "cancelled": Released(job.id, job.lease_id),
    }
    assert await record(shared.backend, outcome[end])
    if end == "cancelled":
        assert await shared.cancel_job(job_id)
    before = row(conn, job_id)
    assert before["status"] == end.partition(",")[0]
    assert conn.execute(late, (job_id,)).rowcount == 0
    assert row(conn, job_id) == before


async def test_what_it_adds_is_found_at_once(shared: JobQueue, conn: Conn) -> None:
    """Its inserts know nothing of our columns; a sleeping worker is woken all the same."""
    done = asyncio.Event()
    processor = shared.create_processor({"t": lambda _: loop.call_soon_threadsafe(done.set)}, concurrency=1)
    loop = asyncio.get_running_loop()
    processor.start_in_background()
    try:
        while conn.execute("SELECT count(*) FROM dataqueue_listeners WHERE topic = 'work'").fetchone() == (0,):
            await asyncio.sleep(0.01)
        conn.execute("INSERT INTO job_queue (job_type, payload, max_attempts, priority) VALUES ('t', '1', 3, 0)")
        await asyncio.wait_for(done.wait(), 30)
    finally:
        await processor.stop_and_drain(0)


@pytest.mark.parametrize(
    ("change", "due"),
    [
        ("run_at = now() + interval '1 hour'", False),
        ("run_at = now() - interval '1 hour'", True),
        ("max_attempts = 0", False),
        ("priority = 7", True),
        ("pending_reason = 'no worker'", True),
    ],
)
async def test_its_edits_are_seen(shared: JobQueue, conn: Conn, change: str, due: bool) -> None:
    job_id = (await shared.add_job("t", 1)).id
    assert conn.execute(f"UPDATE job_queue SET {change} WHERE id = %s AND status = 'pending'", (job_id,)).rowcount == 1
    assert row(conn, job_id)["due"] is due
    assert len((await shared.backend.cycle(WORKER.id, [], ["t"], 10, True)).jobs) == due


async def test_cancels_of_both_sides(shared: JobQueue, conn: Conn) -> None:
    ours, theirs, running = [(await shared.add_job("t", n)).id for n in range(3)]
    assert await shared.cancel_job(ours)
    assert conn.execute(CANCEL, (ours,)).rowcount == 0
    assert conn.execute(CANCEL, (theirs,)).rowcount == 1
    assert not await shared.cancel_job(theirs)
    assert row(conn, theirs)["ready_at"] is None and not row(conn, theirs)["due"]
    assert conn.execute(CLAIM).rowcount == 1
    assert not await shared.cancel_job(running)  # nobody could tell its handler
    assert row(conn, running)["cancel_requested_at"] is None
    conn.execute(COMPLETE, (running,))
    assert [job.id for job in await shared.get_jobs(status="cancelled")] == [theirs, ours]


async def test_a_cancel_concerns_the_attempt_that_it_was_meant_for(shared: JobQueue, conn: Conn) -> None:
    job_id = (await shared.add_job("t", 1)).id
    job = await claim(shared.backend)
    assert await shared.cancel_job(job_id)
    assert (await beat(shared.backend, (job.id, job.lease_id))).cancelled == [(job.id, job.lease_id)]
    assert conn.execute(RETRY, (job_id,)).rowcount == 1
    assert row(conn, job_id)["cancel_requested_at"] is None
    conn.execute(CLAIM)
    conn.execute(COMPLETE, (job_id,))
    assert (await shared.require_job(job_id)).status == "completed"


async def test_heartbeats_keep_its_reclaim_away(shared: JobQueue, conn: Conn) -> None:
    job_id = (await shared.add_job("t", 1)).id
    job = await claim(shared.backend)
    conn.execute("UPDATE job_queue SET locked_at = now() - interval '11 minutes' WHERE id = %s", (job_id,))
    assert (await beat(shared.backend, (job.id, job.lease_id))).lost == []
    assert conn.execute("SELECT locked_at > now() - interval '1 minute' FROM job_queue").fetchone() == (True,)
    assert conn.execute(RECLAIM).rowcount == 0
    assert await record(shared.backend, Completed(job.id, job.lease_id))


ADD_DEPENDENT = "INSERT INTO job_queue (job_type, payload, depends_on_job_ids, depends_on_tags) VALUES ('t', '1', %s, %s) RETURNING id"


def add_dependent(conn: Conn, ids: list[int] | None, tags: list[str] | None = None) -> int:
    found = conn.execute(ADD_DEPENDENT, (ids, tags)).fetchone()
    assert found is not None
    return found[0]


async def test_jobs_that_it_adds_wait_for_ours_and_its_own(shared: JobQueue, conn: Conn) -> None:
    ours = (await shared.add_job("t", 1, tags=["in"])).id
    by_id, by_tag = add_dependent(conn, [ours]), add_dependent(conn, None, ["in"])
    further = add_dependent(conn, [by_id])
    assert [row(conn, job_id)["blocked"] for job_id in (by_id, by_tag, further)] == [True] * 3
    job = await claim(shared.backend)
    assert job.id == ours
    assert await record(shared.backend, Completed(job.id, job.lease_id))
    claimed = (await shared.backend.cycle(WORKER.id, [], ["t"], 10, True)).jobs
    assert [job.id for job in claimed] == [by_id, by_tag]
    assert await record(shared.backend, Failed(by_id, claimed[0].lease_id, "m", "handler_error", None))
    assert (await shared.require_job(further)).status == "cancelled"
    unmet = await shared.add_job("t", 2)
    explained = await shared.explain_job(add_dependent(conn, [unmet.id]))
    assert (explained.state, explained.reasons[0].code) == ("blocked", "waits_for_jobs")


async def test_its_ends_are_told_to_those_of_ours_that_wait(shared: JobQueue, conn: Conn) -> None:
    good, bad, cancelled = [(await shared.add_job("t", n)).id for n in range(3)]
    after_good, after_bad, after_cancelled = [
        (await shared.add_job("u", n, depends_on=job_id)).id for n, job_id in enumerate((good, bad, cancelled))
    ]
    assert row(conn, after_good)["depends_on_job_ids"] == [good], "its workers look here"
    conn.execute(CANCEL, (cancelled,))
    conn.execute(
        "UPDATE job_queue SET status = 'processing', locked_at = now(), locked_by = 'worker-ts', attempts = 1"
        " WHERE id IN (%s, %s)",
        (good, bad),
    )
    conn.execute(COMPLETE, (good,))
    conn.execute(
        "UPDATE job_queue SET status = 'failed', last_failed_at = now(), next_attempt_at = now() WHERE id = %s", (bad,)
    )
    assert (await shared.require_job(after_bad)).blocked, "it will be tried again"
    conn.execute("UPDATE job_queue SET status = 'processing', next_attempt_at = NULL WHERE id = %s", (bad,))
    conn.execute("UPDATE job_queue SET status = 'failed', last_failed_at = now() WHERE id = %s", (bad,))
    jobs = [await shared.require_job(job_id) for job_id in (after_good, after_bad, after_cancelled)]
    assert [(job.status, job.blocked) for job in jobs] == [
        ("pending", False),
        ("cancelled", False),
        ("cancelled", False),
    ]
    assert [job.cascade_root for job in jobs] == [None, bad, cancelled]


async def test_a_blocked_job_that_it_takes_all_the_same_is_not_blocked_for_ever(shared: JobQueue, conn: Conn) -> None:
    first = (await shared.add_job("u", 1)).id
    second = (await shared.add_job("t", 2, depends_on=first)).id
    conn.execute(
        "UPDATE job_queue SET status = 'processing', locked_at = now() - interval '1 hour', locked_by = 'worker-ts', attempts = 1"
        " WHERE id = %s",
        (second,),
    )
    assert conn.execute(RECLAIM).rowcount == 1
    assert (await claim(shared.backend)).id == second
