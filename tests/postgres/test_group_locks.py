"""Groups beside transactions of others that have rows of the queue in hand."""

from __future__ import annotations

import asyncio

import psycopg

from dataqueue import JobQueue, NewJob
from dataqueue.backends.base import Claimed, Completed, WorkerInfo


async def _claim(queue: JobQueue) -> list[Claimed]:
    jobs: list[Claimed] = []
    while True:
        cycle = await queue.backend.cycle("w", [], ["t"], 10, True)
        jobs += cycle.jobs
        if not cycle.again:
            return jobs


async def test_freeing_a_place_waits_for_no_row_lock(queue: JobQueue, pg_url: str) -> None:
    """It has the group's own lock, and every worker would wait for that; the next in line that is free comes instead."""
    await queue.open()
    assert await queue.backend.register_worker(WorkerInfo("w", "host", 1, ("t",), 10, "0", 60.0, 1))
    ids = [handle.id for handle in await queue.add_jobs(NewJob("t", None, {"group": "g"}) for _ in range(3))]
    (first,) = await _claim(queue)
    async with await psycopg.AsyncConnection.connect(pg_url) as conn:
        await conn.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (ids[1],))
        async with asyncio.timeout(15):
            await queue.backend.cycle("w", [Completed(first.id, first.lease_id)], [], 0, False)
            (second,) = await _claim(queue)
    assert second.id == ids[2]
    await queue.backend.cycle("w", [Completed(second.id, second.lease_id)], [], 0, False)
    assert [job.id for job in await _claim(queue)] == [ids[1]]
