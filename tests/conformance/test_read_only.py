"""A queue for reading only: everything can be read, and the store itself refuses changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dataqueue import JobQueue, ReadOnlyQueue
from dataqueue.backends.base import WorkerInfo
from dataqueue.backends.redis.backend import RedisBackend


@pytest.fixture
async def reader(queue: JobQueue, make_queue: Callable[..., JobQueue]) -> JobQueue:
    await queue.add_job("t", {"a": 1}, tags=["x"])
    await queue.backend.register_worker(WorkerInfo("w", "host", 1, ("t",), 1, "0", 60))
    return make_queue(read_only=True)


async def test_all_that_reads_works(queue: JobQueue, reader: JobQueue) -> None:
    assert await reader.get_job(1) == await queue.get_job(1)
    assert await reader.get_jobs(tags=["x"]) == await queue.get_all_jobs()
    assert await reader.get_job_events(1) == await queue.get_job_events(1)
    assert (await reader.stats()).by_type == {"t": {"pending": 1}}
    assert await reader.list_workers() == await queue.list_workers()
    assert (await reader.explain_job(1)).state == "ready"
    assert (await reader.status()).verdict == "healthy"
    assert (await reader.summarize_failures()).total == 0
    assert [f.level for f in await reader.doctor(deep=True)] == [f.level for f in await queue.doctor(deep=True)]


async def test_changes_are_refused(reader: JobQueue, queue: JobQueue) -> None:
    async def handler(payload: object) -> None: ...

    changes: list[Callable[[], Any]] = [
        lambda: reader.add_job("t"),
        lambda: reader.cancel_job(1),
        lambda: reader.retry_job(1),
        lambda: reader.migrate(),
        lambda: reader.create_processor({"t": handler}).start(),
    ]
    for change in changes:
        with pytest.raises(ReadOnlyQueue, match="Nothing was changed"):
            await change()
    assert [job.status for job in await queue.get_all_jobs()] == ["pending"]


async def test_the_end_of_a_job_can_be_waited_for(reader: JobQueue, queue: JobQueue) -> None:
    await queue.cancel_job(1)
    assert (await reader.wait_for_job(1, timeout=30)).status == "cancelled"


async def test_forged_writes_are_refused_by_the_store(reader: JobQueue, queue: JobQueue) -> None:
    await reader.open()
    backend: Any = reader.backend
    if isinstance(backend, RedisBackend):
        client, key = backend.client, backend.key("h")
        forged: list[Callable[[], Any]] = [
            lambda: client.hset(key, "x", "y"),
            lambda: client.delete(key),
            lambda: client.flushall(),
            lambda: client.eval("return redis.call('DEL', KEYS[1])", 1, key),
            lambda: client.execute_command("SET", "x", "y"),
            lambda: client.pipeline(transaction=False).delete(key).execute(),
        ]
        for forge in forged:
            with pytest.raises(Exception, match=r"read-only|not allowed|Nothing was changed"):
                await forge()
    else:
        for statement in (
            "DELETE FROM job_queue",
            "SET TRANSACTION READ WRITE",
            "SELECT set_config('transaction_read_only', 'off', true)",
            "SELECT nextval('dataqueue_lease_seq')",
        ):
            with pytest.raises(Exception, match=r"Nothing was changed|before any query|read-write"):
                async with backend.connection() as conn:
                    await conn.execute(statement)
    assert [job.status for job in await queue.get_all_jobs()] == ["pending"]
