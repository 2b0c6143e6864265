"""What is read and written for a job, however many others there are. The plans of the statements: ``test_plans.py``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import tuple_row

from dataqueue import DependsOn, JobQueue, NewJob
from dataqueue.backends.base import Completed, Failed, WorkerInfo
from dataqueue.backends.postgres.backend import PostgresBackend

from . import plans

MANY = 10_000


async def rows_read(queue: JobQueue, call: Callable[[], Awaitable[Any]]) -> dict[str, int]:
    """How many rows a call has come upon in each table that it has read in full, and entries in each index."""
    backend = await queue.open()
    assert isinstance(backend, PostgresBackend)

    async def figures() -> dict[str, int]:
        async with backend.connection() as conn:
            await conn.execute("SELECT pg_stat_force_next_flush()")
            await conn.execute("SELECT pg_stat_clear_snapshot()")
            cursor = await conn.cursor(row_factory=tuple_row).execute(
                "SELECT relname, seq_tup_read FROM pg_stat_user_tables"
                " UNION ALL SELECT indexrelname, idx_tup_read FROM pg_stat_user_indexes"
            )
            return dict(await cursor.fetchall())

    before = await figures()
    await call()
    return {name: count - before[name] for name, count in (await figures()).items() if count != before[name]}


@pytest.mark.parametrize("kind", ["retry", "final", "dead letter", "cascade"])
async def test_a_failure_reads_the_same_in_a_long_line(
    make_queue: Callable[..., JobQueue], pg_url: str, kind: str
) -> None:
    """P-FAIL: nobody looks through the pending jobs for those that waited for it."""
    queue = make_queue(max_connections=1)
    backend = await queue.open()
    await backend.register_worker(WorkerInfo("w", "h", 1, ("t",), 10, "0", 3600.0))

    async def fail() -> dict[str, int]:
        more: Any = {"dead_letter": "dead"} if kind == "dead letter" else {}
        job = await queue.add_job("t", 1, priority=5, **more)
        if kind == "cascade":
            await queue.add_job("t", 1, priority=5, depends_on=job)
        (held,) = (await backend.cycle("w", [], ["t"], 1, True)).jobs
        failure = Failed(held.id, held.lease_id, "m", "handler_error", 60_000 if kind == "retry" else None)
        return await rows_read(queue, lambda: backend.cycle("w", [failure], [], 0, False))

    await fail()
    before = await fail()
    first = await queue.add_job("u")
    await queue.add_jobs(NewJob("t", n, {"priority": -5}) for n in range(MANY))
    await queue.add_jobs(NewJob("u", n, {"depends_on": first}) for n in range(MANY // 5))
    with psycopg.connect(pg_url, autocommit=True) as conn:
        conn.execute("VACUUM ANALYZE")
    await fail()
    after = await fail()
    assert 0 < sum(after.values()) <= sum(before.values()) + 20, after


async def test_a_claim_reads_the_same_beside_one_that_waits_for_a_tag(
    make_queue: Callable[..., JobQueue], pg_url: str
) -> None:
    """P-CLAIM: neither what is in line nor what a barrier waits for is gone through."""
    queue = make_queue(max_connections=1)
    backend = await queue.open()
    await backend.register_worker(WorkerInfo("w", "h", 1, ("t",), 10, "0", 3600.0))
    await queue.add_jobs(NewJob("t", n, {"priority": -8, "tags": ["in"]}) for n in range(5))
    barrier = await queue.add_job("t", depends_on=DependsOn(tags=["in"]))

    async def claim() -> None:
        await queue.add_job("t", priority=5)
        (held,) = (await backend.cycle("w", [], ["t"], 1, True)).jobs
        await backend.cycle("w", [Completed(held.id, held.lease_id)], [], 0, False)

    await claim()
    before = await rows_read(queue, claim)
    await queue.add_jobs(NewJob("t", n, {"priority": -5, "tags": ["other"]}) for n in range(MANY))
    await queue.add_jobs(NewJob("t", n, {"delay": timedelta(days=1)}) for n in range(MANY // 10))
    with psycopg.connect(pg_url, autocommit=True) as conn:
        conn.execute("VACUUM ANALYZE")
    await claim()
    after = await rows_read(queue, claim)
    assert 0 < sum(after.values()) <= sum(before.values()) + 100, after
    assert (await barrier.refresh()).blocked


# -- what is written ------------------------------------------------------------------------------------


def test_a_job_is_in_no_index_that_its_state_does_not_need(pg_url: str) -> None:
    """P-WRITEAMP: but for the primary key, each index is of some jobs only; the log has one, and no foreign key."""
    with psycopg.connect(pg_url) as conn:
        whole = conn.execute(
            "SELECT indexrelid::regclass::text FROM pg_index WHERE indpred IS NULL"
            " AND indrelid IN ('job_queue'::regclass, 'job_events'::regclass) ORDER BY 1"
        ).fetchall()
        foreign = conn.execute(
            "SELECT conname FROM pg_constraint WHERE contype = 'f' AND conrelid = 'job_events'::regclass"
        ).fetchall()
    assert [name for (name,) in whole] == ["job_events_pkey", "job_queue_pkey"] and foreign == []


async def test_a_job_writes_little_log() -> None:
    """P-WRITEAMP: adding, claiming and completing, on a server whose log nobody else writes."""
    jobs = 2_000
    with plans.embedded() as server, plans.new_queue(server, "costs") as conn:
        conn.execute("ALTER SYSTEM SET full_page_writes = off")
        conn.execute("SELECT pg_reload_conf()")

        def written() -> int:
            rows = conn.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchall()
            return rows[0][0]

        async with JobQueue.from_url(plans.url_of(conn)) as queue:
            backend = await queue.open()
            await backend.register_worker(WorkerInfo("w", "h", 1, ("t",), 10, "0", 3600.0))
            before = written()
            await queue.add_jobs(NewJob("t", "x" * 98) for _ in range(jobs))
            done: list[Completed] = []
            count = 0
            while found := (await backend.cycle("w", done, ["t"], 100, False)).jobs:
                count += len(found)
                done = [Completed(job.id, job.lease_id) for job in found]
            assert count == jobs
            each = (written() - before) / jobs
            print(f"{each:.0f} B of log a job")
            assert each < 2_500
