"""What a job takes of Redis's memory."""

from __future__ import annotations

from servers import redis_server

from dataqueue import JobQueue, NewJob
from dataqueue.backends.base import Completed

JOBS = 20_000


async def test_a_job_takes_little_memory() -> None:
    """R-MEM."""
    with redis_server() as server, server.client() as client:
        if client.info("memory")["mem_allocator"].startswith("libc"):
            limit_waiting, limit_finished = 1600, 1300
        else:
            limit_waiting, limit_finished = 1200, 900
        async with JobQueue.from_url(server.url) as queue:
            backend = await queue.open()
            empty = client.info("memory")["used_memory"]
            await queue.add_jobs(NewJob("send_email", "x" * 98) for _ in range(JOBS))
            waiting = (client.info("memory")["used_memory"] - empty) / JOBS
            done: list[Completed] = []
            while jobs := (await backend.cycle("host-1234-abcdef", done, ["send_email"], 500, False)).jobs:
                done = [Completed(job.id, job.lease_id) for job in jobs]
            finished = (client.info("memory")["used_memory"] - empty) / JOBS
            print(f"{waiting:.0f} B a waiting job, {finished:.0f} B a finished one")
            assert waiting <= limit_waiting and finished <= limit_finished
