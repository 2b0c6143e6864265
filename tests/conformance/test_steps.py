"""Steps: done once, recorded, given back when the handler runs again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from support import Working, take_away, until

from dataqueue import JobContext, JobQueue, SyncJobContext


class Receipt(BaseModel):
    number: int
    at: datetime


@dataclass
class Point:
    x: int
    y: int


async def receipt(number: int) -> Receipt:
    return Receipt(number=number, at=datetime(2026, 1, 1, tzinfo=UTC))


def point() -> Point:
    return Point(1, 2)


async def test_a_step_that_was_done_is_not_done_again(queue: JobQueue, working: Working) -> None:
    """D-STEPS: also results of a type come back as their type, the first time as well as later."""
    done: list[str] = []
    seen: list[Any] = []

    async def first() -> dict[str, Any]:
        done.append("first")
        return {"big": 2**63 + 1, "text": "é ❤", "list": [1, None, 2.5]}

    async def handler(payload: Any, ctx: JobContext) -> str:
        a = await ctx.run("first", first)
        b = await ctx.run("receipt", receipt, 7)
        c = await ctx.run("point", point)
        seen.append((a, b, c))
        if ctx.attempt == 1:
            raise RuntimeError("not yet")
        return "done"

    job = await queue.add_job("t", max_attempts=2, retry_delay=timedelta(0))
    await working(queue, {"t": handler})
    assert await job.result(30) == "done"
    assert done == ["first"]
    assert seen[0] == seen[1]
    assert seen[0][0] == {"big": 2**63 + 1, "text": "é ❤", "list": [1, None, 2.5]}
    assert seen[0][1] == await receipt(7) and seen[0][2] == Point(1, 2)
    steps = await queue.get_job_steps(job.id)
    assert [(step.seq, step.name, step.kind, step.done) for step in steps] == [
        (1, "first", "step", True),
        (2, "receipt", "step", True),
        (3, "point", "step", True),
    ]
    assert steps[0].result == seen[0][0]
    assert all(step.duration is not None and step.duration >= timedelta(0) for step in steps)
    assert steps[0].place is not None and steps[0].place.startswith("test_steps.py:")


async def test_steps_of_blocking_handlers_run_in_the_handlers_thread(queue: JobQueue, working: Working) -> None:
    import threading

    done: list[int] = []

    def step(n: int) -> int:
        done.append(threading.get_ident())
        return n + 1

    def handler(payload: Any, ctx: SyncJobContext) -> list[int]:
        done.append(threading.get_ident())
        result = [ctx.run("a", step, 1), ctx.step("b").run(step, 2)]
        if ctx.attempt == 1:
            raise RuntimeError("again")
        return result

    job = await queue.add_job("t", max_attempts=2, retry_delay=timedelta(0))
    await working(queue, {"t": handler})
    assert await job.result(30) == [2, 3]
    assert len(done) == 4 and len(set(done[:3])) == 1


async def test_a_name_that_is_used_twice_names_both_places(queue: JobQueue, working: Working) -> None:
    async def handler(payload: Any, ctx: JobContext) -> None:
        await ctx.run("same", point)
        await ctx.run("same", point)

    job = await queue.add_job("t", max_attempts=1)
    await working(queue, {"t": handler})
    error = (await job.wait(30)).last_error
    assert error is not None and error.count("test_steps.py:") == 2 and "'same'" in error


@pytest.mark.parametrize(
    "value", [{1, 2}, float("nan"), {1: "a"}, object(), b"bytes"], ids=lambda value: type(value).__name__
)
async def test_a_result_that_is_no_json_is_an_error_before_it_is_stored(
    queue: JobQueue, working: Working, value: object
) -> None:
    """D-UNSERIALISABLE."""

    async def handler(payload: Any, ctx: JobContext) -> None:
        await ctx.run("bad", lambda: value)

    job = await queue.add_job("t", max_attempts=1)
    await working(queue, {"t": handler})
    error = (await job.wait(30)).last_error
    assert error is not None and "the result of step 'bad'" in error
    assert await queue.get_job_steps(job.id) == []


async def test_a_step_is_tried_again_within_the_attempt(queue: JobQueue, working: Working) -> None:
    calls: list[str] = []

    async def handler(payload: Any, ctx: JobContext) -> list[str]:
        @ctx.step("flaky", retries=2, retry_delay=timedelta(milliseconds=1))
        async def flaky() -> str:
            calls.append("flaky")
            if len(calls) < 3:
                raise ConnectionError("no")
            return "yes"

        @ctx.step("slow", retries=1, retry_delay=timedelta(0), timeout=timedelta(milliseconds=20))
        async def slow() -> str:
            calls.append("slow")
            await asyncio.sleep(3600 if calls.count("slow") == 1 else 0)
            return "in time"

        return [await flaky(), await slow()]

    job = await queue.add_job("t", max_attempts=1)
    await working(queue, {"t": handler})
    assert await job.result(30) == ["yes", "in time"]
    assert [step.attempts for step in await queue.get_job_steps(job.id)] == [3, 2]


@pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])
async def test_a_step_that_takes_too_long_is_named(queue: JobQueue, working: Working, blocking: bool) -> None:
    limit = timedelta(milliseconds=10)

    async def handler(payload: Any, ctx: JobContext) -> None:
        await ctx.step("slow", timeout=limit)(asyncio.sleep)(3600)

    def in_thread(payload: Any, ctx: SyncJobContext) -> None:
        ctx.step("slow", timeout=limit)(time.sleep)(0.05)

    job = await queue.add_job("t", max_attempts=1)
    await working(queue, {"t": in_thread if blocking else handler})
    assert (await job.wait(30)).last_error == "The step 'slow' took longer than 0.01 s."


async def test_a_step_that_fails_for_good_fails_the_attempt_and_is_done_again_in_the_next(
    queue: JobQueue, working: Working
) -> None:
    calls: list[int] = []

    def fails() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("first time")
        return len(calls)

    async def handler(payload: Any, ctx: JobContext) -> int:
        return await ctx.run("s", fails)

    job = await queue.add_job("t", max_attempts=2, retry_delay=timedelta(0))
    await working(queue, {"t": handler})
    assert await job.result(30) == 2
    assert (await job.refresh()).error_history[0].message == "first time"


async def test_steps_side_by_side(queue: JobQueue, working: Working) -> None:
    async def one(n: int) -> int:
        await asyncio.sleep(0)
        return n

    async def handler(payload: Any, ctx: JobContext) -> list[int]:
        return list(await asyncio.gather(*(ctx.run(f"s{n}", one, n) for n in range(20))))

    job = await queue.add_job("t")
    await working(queue, {"t": handler})
    assert await job.result(30) == list(range(20))
    assert sorted(step.seq for step in await queue.get_job_steps(job.id)) == list(range(1, 21))


async def test_a_lost_attempt_records_no_step(queue: JobQueue, working: Working) -> None:
    """D-ZOMBIESTEP."""
    going, go_on = asyncio.Event(), asyncio.Event()
    lost: list[str] = []

    async def hold() -> str:
        going.set()
        await go_on.wait()
        return "stale"

    async def handler(payload: Any, ctx: JobContext) -> str:
        if going.is_set():
            return "second"
        try:
            return await ctx.run("s", hold)
        except BaseException as error:
            lost.append(type(error).__name__)
            raise

    job = await queue.add_job("t", max_attempts=3)
    await working(queue, {"t": handler}, concurrency=2)
    await going.wait()
    await take_away(queue, job.id)
    go_on.set()
    assert await job.result(30) == "second"
    await until(lambda: lost, "the first attempt's end")
    assert await queue.get_job_steps(job.id) == []


async def test_a_handler_that_does_something_else_is_told(queue: JobQueue, working: Working) -> None:
    async def handler(payload: Any, ctx: JobContext) -> None:
        if ctx.attempt == 1:
            await ctx.run("thing", point)
            raise RuntimeError("deployed meanwhile")
        await ctx.wait_for(timedelta(hours=1), name="thing")

    job = await queue.add_job("t", max_attempts=2, retry_delay=timedelta(0))
    await working(queue, {"t": handler})
    error = (await job.wait(30)).last_error
    assert (
        error is not None
        and "in an earlier run it was the step (at test_steps.py" in error
        and "Its code has changed" in error
    )


async def test_steps_stay_with_a_retry_by_hand_and_go_with_the_job(queue: JobQueue, working: Working) -> None:
    fail = True

    async def handler(payload: Any, ctx: JobContext) -> int:
        await ctx.run("s", point)
        if fail:
            raise RuntimeError("no")
        return 1

    job = await queue.add_job("t", max_attempts=1)
    await working(queue, {"t": handler})
    await job.wait(30)
    before = await queue.get_job_steps(job.id)
    fail = False
    assert await queue.retry_job(job.id)
    assert await job.result(30) == 1
    assert await queue.get_job_steps(job.id) == before
    assert await queue.cleanup_old_jobs(timedelta(0)) == 1
    assert await queue.get_job_steps(job.id) == []
