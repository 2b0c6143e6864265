"""More time for an attempt: ctx.prolong and ctx.on_timeout."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support import Working, until

from dataqueue import ConfigError, InvalidJob, JobContext, JobQueue, SyncJobContext
from dataqueue.options import MAX_TIMEOUT

SHORT = timedelta(milliseconds=150)


async def kinds(queue: JobQueue, job_id: int) -> list[str]:
    return [event.event_type for event in await queue.get_job_events(job_id)]


async def test_a_prolonged_attempt_outlives_its_timeout(queue: JobQueue, working: Working) -> None:
    """D-PROLONGSYNC: also before its first await."""

    async def handler(payload: Any, ctx: JobContext) -> str:
        await ctx.prolong(timedelta(minutes=1))
        await asyncio.sleep(3 * SHORT.total_seconds())
        return "done"

    job = await queue.add_job("t", timeout=SHORT, max_attempts=1)
    await working(queue, {"t": handler})
    assert await job.result(30) == "done"
    assert await kinds(queue, job.id) == ["added", "processing", "prolonged", "completed"]
    event = (await queue.get_job_events(job.id))[2]
    assert datetime.fromisoformat(event.metadata["until"]) - event.created_at == pytest.approx(
        timedelta(minutes=1), abs=timedelta(seconds=1)
    )


async def test_without_a_duration_the_timeout_begins_anew(queue: JobQueue, working: Working) -> None:
    async def handler(payload: Any, ctx: JobContext) -> int:
        for _ in range(5):
            await ctx.prolong()
            await asyncio.sleep(0.6)
        return 5

    job = await queue.add_job("t", timeout=timedelta(seconds=2), max_attempts=1)
    free = await queue.add_job("t", max_attempts=1)
    await working(queue, {"t": handler})
    assert await job.result(30) == 5 and await free.result(30) == 5
    assert "prolonged" not in await kinds(queue, free.id), "nothing was there to put off"


async def test_a_prolonged_attempt_can_time_out_all_the_same(queue: JobQueue, working: Working) -> None:
    async def handler(payload: Any, ctx: JobContext) -> None:
        await ctx.prolong(SHORT)
        await asyncio.sleep(3600)

    limited = await queue.add_job("t", timeout=timedelta(hours=1), max_attempts=1)
    unlimited = await queue.add_job("t", max_attempts=1)
    await working(queue, {"t": handler})
    for job in (limited, unlimited):
        assert (await job.wait(30)).failure_reason == "timeout"


async def test_a_prolonged_attempt_is_not_taken_away(queue: JobQueue, working: Working) -> None:
    """D-PROLONG: it may run for many leases and timeouts; others look for lost jobs all the while."""
    starts: list[int] = []

    async def handler(payload: Any, ctx: JobContext) -> str:
        starts.append(ctx.attempt)
        await ctx.prolong(timedelta(hours=1))
        await asyncio.sleep(2.5)
        return "done"

    job = await queue.add_job("t", timeout=SHORT)
    for _ in range(2):
        await working(queue, {"t": handler}, lease=timedelta(seconds=1))
    assert await job.result(30) == "done"
    assert starts == [1] and (await job.refresh()).attempts == 1


async def test_the_longest_times_do_not_end_at_once(queue: JobQueue, working: Working) -> None:
    """D-BIGTIMEOUT: longer ones are refused (see test_what_is_no_duration_is_refused and test_adding.py)."""

    async def handler(payload: Any, ctx: JobContext) -> str:
        await asyncio.sleep(0.1)
        await ctx.prolong(MAX_TIMEOUT)
        await asyncio.sleep(0.1)
        return "done"

    job = await queue.add_job("t", timeout=MAX_TIMEOUT, max_attempts=1)
    await working(queue, {"t": handler})
    assert await job.result(30) == "done"


async def test_a_thread_prolongs_too(queue: JobQueue, working: Working) -> None:
    def handler(payload: Any, ctx: SyncJobContext) -> bool:
        ctx.prolong(timedelta(minutes=1))
        threading.Event().wait(3 * SHORT.total_seconds())
        return ctx.aborted

    job = await queue.add_job("t", timeout=SHORT, max_attempts=1)
    await working(queue, {"t": handler})
    assert await job.result(30) is False


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_handler_is_asked_when_its_time_is_over(queue: JobQueue, working: Working, is_async: bool) -> None:
    asked = 0

    async def handler(payload: Any, ctx: JobContext) -> str:
        def more() -> timedelta | None:
            nonlocal asked
            asked += 1
            return SHORT if asked < 3 else None

        async def more_later() -> timedelta | None:
            await asyncio.sleep(0)
            return more()

        ctx.on_timeout(lambda: None)
        ctx.on_timeout(more_later if is_async else more)
        await asyncio.sleep(3600)
        return "never"

    job = await queue.add_job("t", timeout=SHORT, max_attempts=1)
    await working(queue, {"t": handler})
    assert (await job.wait(30)).failure_reason == "timeout"
    assert asked == 3
    assert (await kinds(queue, job.id)).count("prolonged") == 2


async def test_a_callback_that_raises_ends_the_attempt(queue: JobQueue, working: Working) -> None:
    async def handler(payload: str, ctx: JobContext) -> None:
        def more() -> Any:
            if payload == "raise":
                raise ValueError("no")
            return payload

        ctx.on_timeout(more)
        await asyncio.sleep(3600)

    await working(queue, {"t": handler})
    for payload in ("raise", "not a timedelta"):
        job = await queue.add_job("t", payload, timeout=SHORT, max_attempts=1)
        assert (await job.wait(30)).failure_reason == "timeout"


async def test_what_is_no_duration_is_refused(queue: JobQueue, working: Working) -> None:
    refused: list[type[Exception]] = []

    async def handler(payload: Any, ctx: JobContext) -> int:
        for wrong in (60, timedelta(0), timedelta(days=30), "1m"):
            try:
                await ctx.prolong(wrong)  # type: ignore[arg-type]
            except InvalidJob as error:
                refused.append(type(error))
        try:
            ctx.on_timeout(3)  # type: ignore[arg-type]
        except ConfigError as error:
            refused.append(type(error))
        return len(refused)

    job = await queue.add_job("t", timeout=timedelta(minutes=1), max_attempts=1)
    await working(queue, {"t": handler})
    assert await job.result(30) == 5


async def test_the_explanation_knows_of_the_new_end(queue: JobQueue, working: Working) -> None:
    async def handler(payload: Any, ctx: JobContext) -> None:
        await ctx.prolong(timedelta(hours=2))
        await asyncio.sleep(3600)

    job = await queue.add_job("t", timeout=timedelta(minutes=5), max_attempts=1)
    await working(queue, {"t": handler})

    async def prolonged() -> bool:
        return "prolonged" in await kinds(queue, job.id)

    await until(prolonged)
    (reason,) = (await queue.explain_job(job.id)).reasons
    assert "has given itself time until" in reason.message
    left = reason.evidence["timeout_at"] - datetime.now(UTC)
    assert timedelta(minutes=100) < left < timedelta(hours=3)
    await job.cancel()


async def test_a_lost_lease_prolongs_nothing(queue: JobQueue) -> None:
    await queue.add_job("t")
    (job,) = (await queue.backend.cycle("w", [], ["t"], 1, True)).jobs
    assert await queue.backend.prolong(job.id, job.lease_id, 1000)
    assert not await queue.backend.prolong(job.id, job.lease_id + 1, 1000)
    assert (await kinds(queue, job.id)).count("prolonged") == 1
