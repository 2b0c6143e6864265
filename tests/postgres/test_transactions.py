"""Adding inside the caller's own transaction; a job and its events, in one transaction always."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from support import Working

from dataqueue import ConfigError, DataQueueError, InvalidPayload, JobQueue, NewJob, StoreUnavailable, SyncJobQueue
from dataqueue.backends.base import Cancelled, Completed, Failed, Released, WorkerInfo


@pytest.mark.parametrize("autocommit", [True, False])
async def test_job_and_event_commit_with_the_transaction(queue: JobQueue, pg_url: str, autocommit: bool) -> None:
    async with await psycopg.AsyncConnection.connect(pg_url, autocommit=autocommit, row_factory=dict_row) as conn:
        async with conn.transaction():
            one = await queue.add_job("t", 1, conn=conn)
            many = await queue.add_jobs([NewJob("t", 2), NewJob("t", 3)], conn=conn)
            assert await queue.get_all_jobs() == []
        assert [job.id for job in await queue.get_all_jobs()] == [many[1].id, many[0].id, one.id]
        for handle in (one, *many):
            assert [event.event_type for event in await queue.get_job_events(handle.id)] == ["added"]


async def test_job_and_event_vanish_with_the_transaction(queue: JobQueue, pg_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(pg_url) as conn:
        handle = await queue.add_job("t", 1, conn=conn)
        await conn.rollback()
    assert await queue.get_job(handle.id) is None and await queue.get_job_events(handle.id) == []


async def test_a_refused_add_leaves_the_transaction_usable(queue: JobQueue, pg_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(pg_url) as conn:
        await conn.execute("CREATE TABLE mine (id int)")
        with pytest.raises(InvalidPayload):
            await queue.add_job("t", float("nan"), conn=conn)
        with pytest.raises(InvalidPayload):
            await queue.add_jobs((NewJob("t", value) for value in [1] * 1500 + [object()]), conn=conn)
        await conn.execute("INSERT INTO mine VALUES (1)")
        await conn.commit()
        assert (await (await conn.execute("SELECT count(*) FROM mine")).fetchall()) == [(1,)]
    assert await queue.get_all_jobs() == []


@pytest.mark.parametrize("blocking", [False, True])
async def test_an_event_that_cannot_be_written_is_no_secret(queue: JobQueue, pg_url: str, blocking: bool) -> None:
    """D-TXPOISON: the caller learns that the transaction is lost, before committing it."""
    handle = await queue.add_job("t")
    with psycopg.connect(pg_url, autocommit=True) as conn:
        conn.execute("ALTER TABLE job_events ADD CONSTRAINT full_disk CHECK (event_type <> 'added') NOT VALID")
    if blocking:
        with psycopg.connect(pg_url) as own:
            with pytest.raises((psycopg.Error, DataQueueError), match="full_disk"):
                await queue.add_job("t", 1, conn=own)
            own.rollback()
    else:
        async with await psycopg.AsyncConnection.connect(pg_url) as own:
            with pytest.raises((psycopg.Error, DataQueueError), match="full_disk"):
                await queue.add_job("t", 1, conn=own)
            await own.rollback()
    with pytest.raises((psycopg.Error, DataQueueError), match="full_disk"):
        await queue.add_job("t", 1)
    assert [job.id for job in await queue.get_all_jobs()] == [handle.id]


DIE = """
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_terminate_backend(pg_backend_pid());
    PERFORM pg_sleep(60);
    RETURN NEW;
END $$"""
BETWEEN = {
    "before the event": "BEFORE INSERT ON job_events",
    "after the event": "AFTER INSERT ON job_events",
    "after the change": "AFTER INSERT OR UPDATE ON job_queue",
}


@pytest.mark.parametrize("when", BETWEEN)
async def test_killed_between_a_change_and_its_event_there_is_neither(queue: JobQueue, pg_url: str, when: str) -> None:
    """D-TX: whatever is done to a job, state and history tell the same."""
    backend = await queue.open()
    await queue.add_jobs(NewJob("t", n) for n in range(9))
    await backend.register_worker(WorkerInfo("gone", "h", 1, ("t",), 10, "0", 0.0))
    await backend.register_worker(WorkerInfo("w", "h", 1, ("t",), 10, "0", 600.0))
    await backend.cycle("gone", [], ["t"], 1, True)
    held = [(job.id, job.lease_id) for job in (await backend.cycle("w", [], ["t"], 6, True)).jobs]
    failed, lease = held.pop()
    await backend.cycle("w", [Failed(failed, lease, "m", "handler_error", None)], [], 0, False)
    pending = (await queue.add_job("t", delay=timedelta(hours=1))).id
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "add": lambda: queue.add_job("t"),
        "add with a key": lambda: queue.add_job("t", idempotency_key="k"),
        "add many": lambda: queue.add_jobs([NewJob("t"), NewJob("t")]),
        "add one that waits": lambda: queue.add_job("t", depends_on=pending),
        "claim": lambda: backend.cycle("w", [], ["t"], 1, True),
        "complete": lambda: backend.cycle("w", [Completed(*held[0], "1")], [], 0, False),
        "fail": lambda: backend.cycle("w", [Failed(*held[1], "m", "timeout", 5)], [], 0, False),
        "release": lambda: backend.cycle("w", [Released(*held[2])], [], 0, False),
        "end a cancelled one": lambda: backend.cycle("w", [Cancelled(*held[3])], [], 0, False),
        "reclaim": lambda: backend.reclaim_expired(10),
        "edit": lambda: queue.edit_job(pending, priority=5),
        "cancel": lambda: queue.cancel_job(pending),
        "ask to cancel": lambda: queue.cancel_job(held[4][0]),
        "retry": lambda: queue.retry_job(failed),
    }
    with psycopg.connect(pg_url, autocommit=True) as conn:

        def stored() -> list[Any]:
            return [
                conn.execute("SELECT * FROM job_queue ORDER BY id").fetchall(),
                conn.execute("SELECT * FROM job_events ORDER BY id").fetchall(),
            ]

        before = stored()
        conn.execute(DIE)
        conn.execute(f"CREATE TRIGGER die {BETWEEN[when]} FOR EACH ROW EXECUTE FUNCTION die()".encode())
        for name, call in calls.items():
            with pytest.raises(StoreUnavailable):
                await call()
            assert stored() == before, name
        conn.execute("DROP FUNCTION die CASCADE")
        for name, call in calls.items():
            jobs, events = stored()
            await call()
            assert stored()[0] != jobs and len(stored()[1]) > len(events), name


async def test_workers_are_woken_at_the_commit(
    make_queue: Callable[..., JobQueue], pg_url: str, working: Working
) -> None:
    """D-LATENCY."""
    queue = make_queue()

    async def t(payload: Any) -> str:
        return "ran"

    await working(make_queue(), {"t": t}, poll_interval=timedelta(hours=1))
    await (await queue.add_job("t")).result(timeout=20)
    async with await psycopg.AsyncConnection.connect(pg_url) as conn:
        handle = await queue.add_job("t", conn=conn)
        await asyncio.sleep(1.5)  # past the polls that follow on a claim that came short
        await conn.commit()
    assert await handle.result(timeout=20) == "ran"


async def test_a_blocking_connection(queue: JobQueue, pg_url: str) -> None:
    with psycopg.connect(pg_url) as conn:
        handle = await queue.add_job("t", 1, conn=conn)
        await queue.add_jobs([NewJob("t", 2)] * 1200, conn=conn)
        conn.rollback()
        assert await queue.get_job(handle.id) is None
        handle = await queue.add_job("t", 1, conn=conn)
        conn.commit()
    assert (await handle.refresh()).status == "pending"


def test_a_sync_queue_adds_on_a_connection_without_an_event_loop(pg_url: str) -> None:
    queue = SyncJobQueue.from_url(pg_url)

    @queue.job
    def t(payload: int) -> int:
        return payload

    with psycopg.connect(pg_url) as conn:
        one = t.add(1, conn=conn, tags=["x"])
        many = t.add_many([2, 3], conn=conn)
        other = queue.add_job("t", 4, conn=conn)
        assert queue._portal is None  # pyright: ignore[reportPrivateUsage]
    assert [queue.require_job(handle.id).payload for handle in (one, *many, other)] == [1, 2, 3, 4]
    queue.close()


async def test_a_key_in_a_transaction(queue: JobQueue, pg_url: str) -> None:
    first = await queue.add_job("t", 1, idempotency_key="k")
    async with await psycopg.AsyncConnection.connect(pg_url) as conn:
        again = await queue.add_job("t", 2, conn=conn, idempotency_key="k")
        assert (again.id, again.created) == (first.id, False)


@pytest.mark.parametrize("conn", ["a string", object()])
async def test_another_kind_of_connection_is_refused(queue: JobQueue, conn: Any) -> None:
    with pytest.raises(ConfigError, match="psycopg"):
        await queue.add_job("t", 1, conn=conn)
    assert await queue.get_all_jobs() == []
