"""Which rows an add of waiting jobs locks at its commit, and in which order others may."""

from __future__ import annotations

import asyncio

import psycopg
from support import until

from dataqueue import JobQueue, NewJob


async def test_who_waits_for_a_prerequisite_holds_no_other(queue: JobQueue, pg_url: str) -> None:
    """Else a worker that ends them in the other order would make the application's commit a deadlock."""
    first, second = await queue.add_jobs([NewJob("t"), NewJob("t")])
    async with (
        await psycopg.AsyncConnection.connect(pg_url) as worker,
        await psycopg.AsyncConnection.connect(pg_url) as application,
    ):
        lock = "SELECT FROM job_queue WHERE id = %s FOR UPDATE"
        await worker.execute("SET LOCAL lock_timeout = '20s'")
        await worker.execute(lock, [second.id])
        third = await queue.add_job("t", depends_on=[first, second], conn=application)
        fourth = await queue.add_job("t", depends_on=[second], conn=application)
        pid = application.info.backend_pid
        committing = asyncio.create_task(application.commit())

        async def waits() -> bool:
            cursor = await worker.execute("SELECT wait_event_type FROM pg_stat_get_activity(%s)", [pid])
            return await cursor.fetchone() == ("Lock",)

        await until(waits, "the commit's wait")
        await worker.execute(lock, [first.id])
        assert not committing.done()
        await worker.commit()
        await committing
    for handle in (third, fourth):
        assert (await handle.refresh()).blocked
    await queue.cancel_job(second.id)
    assert {(await handle.refresh()).cascade_root for handle in (third, fourth)} == {second.id}
