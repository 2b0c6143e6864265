"""Here every store is a Redis."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from support import Working, until

from dataqueue import JobContext, JobOptions, JobQueue, NewJob, Rate
from dataqueue.limits import TypeLimits


@pytest.fixture
def store_url(redis_url: str) -> str:
    return redis_url


@pytest.fixture(autouse=True, scope="session")
def _needs_redis_server() -> None:
    if not shutil.which("redis-server"):
        pytest.skip("needs a redis-server: apt-get install redis-server")


@pytest.fixture
def use_everything(working: Working) -> Callable[[JobQueue], Awaitable[None]]:
    return lambda queue: _use_everything(queue, working)


async def _use_everything(queue: JobQueue, working: Working) -> None:
    """Everything that a queue does, through this connection."""

    async def t(payload: int) -> int:
        return payload

    async def durable(payload: int, ctx: JobContext) -> Any:
        async def ask(token_id: str) -> int:
            await queue.complete_token(token_id, payload)
            return (await queue.add_job("t", payload)).id

        token = await ctx.create_token("approval", timeout=timedelta(hours=1))
        child = await ctx.run("ask", ask, token.id)
        await ctx.wait_for(seconds=0.05)
        await ctx.wait_for_jobs([child])
        return (await ctx.wait_for_token(token)).output

    async def for_ever(payload: int) -> None:
        await asyncio.sleep(60)

    processor = await working(
        queue, {"t": t, "long": for_ever, "durable": durable}, lease=timedelta(seconds=1), group_concurrency=2
    )
    assert await queue.pause("t", by="me")
    await queue.backend.declare_limits({"t": TypeLimits(max_concurrency=3, rate=Rate(1000, timedelta(hours=1)))})
    options: JobOptions = {"tags": ["a"], "group": "g"}
    added = await queue.add_jobs(NewJob("t", n, {**options, "idempotency_key": f"{n}"}) for n in range(20))
    assert (await queue.explain_job(added[0].id)).state == "paused"
    assert [state.paused_by for state in await queue.list_limits()] == ["me"] and await queue.resume("t")
    await _use_what_lasts(queue)
    long = await queue.add_job("long", 1)
    later = await queue.add_job("t", 1, delay=timedelta(milliseconds=100))
    assert [await handle.result(timeout=25) for handle in added] == list(range(20))
    assert await later.result(timeout=25) == 1
    await until(lambda: _is(queue, long.id, "processing"))
    await asyncio.sleep(0.6)  # some heartbeats
    assert await queue.cancel_job(long.id)
    await until(lambda: _is(queue, long.id, "cancelled"))
    assert await queue.retry_job(long.id)
    await until(lambda: _is(queue, long.id, "processing"))
    assert len(await queue.get_jobs(tags=["a"], limit=5)) == 5
    assert len(await queue.get_job_events(added[0].id)) == 3
    (worker,) = await queue.list_workers()
    assert worker.alive and worker.last_heartbeat_at > worker.started_at
    assert (await queue.stats()).by_status["completed"] == 23
    findings = await queue.doctor(deep=True)
    assert [finding for finding in findings if finding.level == "error"] == []
    await processor.stop_and_drain(0)
    gone = await queue.add_job("t", 1, tags=["a"], idempotency_key="gone", group="g")
    assert await gone.cancel()
    nothing = timedelta(0)
    async with queue.create_supervisor() as supervisor:
        supervisor.start_in_background()
        await until(lambda: _is_elected(queue, supervisor.holder))
    result = await queue.create_supervisor(keep_cancelled=nothing, keep_events=nothing, idempotency_ttl=nothing).start()
    assert result.errors == {} and result.cleaned_up_jobs == 1
    assert result.released_keys == 20 and result.cleaned_up_events > 60


async def _use_what_lasts(queue: JobQueue) -> None:
    """Steps, waits, tokens and schedules."""
    await queue.add_cron_job("nightly", "0 3 * * *", "t", 1)
    assert await queue.pause_cron_job("nightly")
    await queue.remove_cron_job("nightly")
    job = await queue.add_job("durable", 7)
    assert await job.result(timeout=25) == 7
    assert len(await queue.get_job_steps(job.id)) == 5
    await queue.fail_token((await queue.create_token(timeout=timedelta(hours=1))).id, "no")
    await queue.expire_timed_out_tokens()


async def _is_elected(queue: JobQueue, holder: str) -> bool:
    return await queue.backend.elect("supervisor", holder, 1) and not await queue.backend.elect(
        "supervisor", "other", 1
    )


async def _is(queue: JobQueue, job_id: int, status: str) -> bool:
    return (await queue.require_job(job_id)).status == status
