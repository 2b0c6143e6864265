"""What a job takes of Redis's memory."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from servers import redis_server

from dataqueue import JobQueue, NewJob
from dataqueue.backends.base import Cancelled, Completed, Failed, Outcome, WorkerInfo
from dataqueue.backends.redis.backend import RedisBackend
from dataqueue.backends.redis.layout import KEYS, SORTED_SETS

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


async def test_what_was_cleaned_up_takes_none(redis_url: str) -> None:
    """R-MEM: of whatever jobs came to any end, no member and no field is left."""
    async with JobQueue.from_url(redis_url) as queue:
        backend = await queue.open()
        assert isinstance(backend, RedisBackend)
        await backend.register_worker(WorkerInfo("w", "h", 1, ("t", "dead"), 10, "0", 600.0, 2))
        prefix = backend.prefix

        async def sizes() -> dict[str, int]:
            found: dict[str, int] = {}
            for name in KEYS:
                key = f"{prefix}{name}"
                found[name] = await (backend.client.zcard(key) if name in SORTED_SETS else backend.client.hlen(key))
            return found

        async def use(run: int) -> None:
            options: Any = {"tags": ["a", "b"], "dead_letter": "dead", "max_attempts": 1}
            for n in range(60):
                kind: Any = {0: {"idempotency_key": f"k{run}-{n}"}, 1: {"unique": True}, 2: {"group": f"g{n % 5}"}}[
                    n % 3
                ]
                first = await queue.add_job("t", [run, n, "x" * 300], **options, **kind)
                await queue.add_job("t", [run, n, "second"], depends_on=first, tags=["c"])
            await queue.add_jobs(NewJob("t", [run, n, "later"], {"delay": timedelta(hours=1)}) for n in range(5))
            found = True
            while found:
                cycle = await backend.cycle("w", [], ["t"], 20, True)
                found = bool(cycle.jobs) or cycle.again
                outcomes: list[Outcome] = []
                for job in cycle.jobs:
                    await backend.set_output(job.id, job.lease_id, '"output"')
                    if job.id % 5 == 0:
                        outcomes.append(Failed(job.id, job.lease_id, "m", "handler_error", None))
                    elif job.id % 5 == 1:
                        outcomes.append(Cancelled(job.id, job.lease_id))
                    else:
                        outcomes.append(Completed(job.id, job.lease_id, "1"))
                await backend.cycle("w", outcomes, [], 0, False)
            await queue.cancel_all_upcoming_jobs()
            assert set((await queue.stats()).by_status) == {"completed", "failed", "cancelled"}
            await queue.cleanup_old_jobs(timedelta(0), status=["completed", "failed", "cancelled"])
            assert (await queue.stats()).by_status == {}

        await use(1)
        first = await sizes()
        assert {name for name, size in first.items() if size} == {"m", "ty", "tn", "wk", "wl", "gl"}
        await use(2)
        assert await sizes() == first
