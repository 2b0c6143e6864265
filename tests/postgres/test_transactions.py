"""Adding inside the caller's own transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from support import Working

from dataqueue import ConfigError, InvalidPayload, JobQueue, NewJob, SyncJobQueue


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
    """D-TX."""
    async with await psycopg.AsyncConnection.connect(pg_url) as conn:
        handle = await queue.add_job("t", 1, conn=conn)
        await conn.rollback()
    assert await queue.get_job(handle.id) is None and await queue.get_job_events(handle.id) == []


async def test_a_refused_add_leaves_the_transaction_usable(queue: JobQueue, pg_url: str) -> None:
    """D-TXPOISON."""
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
