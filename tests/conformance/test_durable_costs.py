"""What a job of very many steps makes the store write: bytes, not time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from support import Working

from dataqueue import JobContext, JobQueue
from dataqueue.backends.postgres.migrate import MigrateOptions, migrate
from dataqueue.embedded import start_postgres

PARTS = 5
RESULT = "r" * 100


@pytest.fixture(params=["postgres", "redis"])
def store_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The log of a Postgres is that of all its databases: here one has a server of its own."""
    if request.param == "redis":
        yield request.getfixturevalue("redis_url")
        return
    path = Path(tempfile.mkdtemp(prefix="dataqueue-costs-"))
    server = start_postgres(path, settings={"fsync": "off", "full_page_writes": "off", "autovacuum": "off"})
    migrate(server.url, {}, None, MigrateOptions())
    yield server.url
    server.stop(wait=True)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def written(store_url: str) -> Callable[[], int]:
    """Bytes that the store has written (Postgres: to its log) or been sent (Redis) so far."""

    def on_postgres() -> int:
        with psycopg.connect(store_url, autocommit=True) as conn:
            rows = conn.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").fetchall()
            return rows[0][0]

    def on_redis() -> int:
        with redis.Redis.from_url(store_url.partition("?")[0]) as client:
            stats: Any = client.info("stats")
            return stats["total_net_input_bytes"] + stats["total_net_output_bytes"]

    return on_postgres if store_url.startswith("postgres") else on_redis


@pytest.mark.timeout(240)
@pytest.mark.parametrize("steps", [1_000, pytest.param(10_000, marks=pytest.mark.chaos)])
async def test_a_step_costs_the_same_however_many_there_were(
    queue: JobQueue, working: Working, written: Callable[[], int], steps: int
) -> None:
    """One record a step, never the whole history; and one reading of them all when the job goes on."""
    part = steps // PARTS
    marks: list[int] = []

    def work(n: int) -> str:
        return RESULT

    async def handler(payload: Any, ctx: JobContext) -> int:
        total = 0
        for n in range(steps):
            if n % part == 0:
                marks.append(written())
            total += len(await ctx.run(f"step-{n:05}", work, n))
        marks.append(written())
        if ctx.attempt == 1:
            raise RuntimeError("once more, with nothing to do")
        return total

    job = await queue.add_job("t", max_attempts=2, retry_delay=timedelta(0))
    await working(queue, {"t": handler}, concurrency=1)
    assert await job.result(200) == steps * len(RESULT)
    assert len(await queue.get_job_steps(job.id)) == steps
    parts = [after - before for before, after in pairwise(marks)]
    first, again = parts[:PARTS], parts[PARTS + 1 :]
    print(first, again)
    assert min(first) > part * len(RESULT) and max(first) < 1.6 * min(first)
    assert again[0] < sum(first), "all of them are read once"
    assert max(again[1:]) < min(first) / 10, "and nothing else is asked for or written"
