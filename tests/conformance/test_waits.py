"""Waits: no worker, no attempt, and each ends with what it waits for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import isolated_jobs
import pytest
from support import Working, until

from dataqueue import (
    JobContext,
    JobFailed,
    JobQueue,
    SyncJobContext,
    Token,
    TokenCompleted,
    TokenNotFound,
)

SHORT = timedelta(milliseconds=300)
LONG = timedelta(hours=24)


async def kinds(queue: JobQueue, job_id: int) -> list[str]:
    return [event.event_type for event in await queue.get_job_events(job_id)]


async def is_waiting(queue: JobQueue, job_id: int) -> None:
    async def look() -> bool:
        return (await queue.require_job(job_id)).status == "waiting"

    await until(look, "the wait")


async def test_a_wait_for_a_time_spends_no_attempt(queue: JobQueue, working: Working) -> None:
    """D-WAITATT: with max_attempts=1, twice, and the handler's timeout does not run meanwhile."""
    starts: list[int] = []

    async def handler(payload: Any, ctx: JobContext) -> str:
        starts.append(ctx.attempt)
        await ctx.wait_for(SHORT)
        await ctx.wait_until(datetime.now(UTC) + SHORT)
        return "done"

    job = await queue.add_job("t", max_attempts=1, timeout=timedelta(seconds=20))
    await working(queue, {"t": handler})
    await is_waiting(queue, job.id)
    assert await job.result(30) == "done"
    assert starts == [1, 1, 1]
    assert await kinds(queue, job.id) == ["added", *["processing", "waiting"] * 2, "processing", "completed"]
    steps = await queue.get_job_steps(job.id)
    assert [(step.name, step.kind, step.done) for step in steps] == [
        ("__wait_0", "sleep", True),
        ("__wait_1", "sleep", True),
    ]
    final = await job.refresh()
    assert final.attempts == 1 and final.last_retried_at is None


async def test_blocking_handlers_wait_too(queue: JobQueue, working: Working) -> None:
    def handler(payload: Any, ctx: SyncJobContext) -> int:
        ctx.wait_for(milliseconds_of(200))
        token = ctx.create_token("t")
        queue_side.append(token.id)
        return ctx.wait_for_token(token).unwrap()

    def milliseconds_of(n: int) -> timedelta:
        return timedelta(milliseconds=n)

    queue_side: list[str] = []
    job = await queue.add_job("t", max_attempts=1)
    await working(queue, {"t": handler})
    await until(lambda: queue_side, "the token")
    await queue.complete_token(queue_side[0], 42)
    assert await job.result(30) == 42


async def test_a_waiting_job_holds_no_slot(queue: JobQueue, working: Working) -> None:
    async def waits(payload: Any, ctx: JobContext) -> None:
        await ctx.wait_for(LONG)

    async def works(payload: Any) -> str:
        return "done"

    waiting = [await queue.add_job("waits", group="g") for _ in range(5)]
    await working(queue, {"waits": waits, "works": works}, concurrency=1, group_concurrency=1)
    for job in waiting:
        await is_waiting(queue, job.id)
    assert await (await queue.add_job("works", group="g")).result(30) == "done"
    assert (await waiting[0].refresh()).locked_by is None


async def test_a_suspension_is_not_swallowed(queue: JobQueue, working: Working) -> None:
    """D-SWALLOW."""
    cleaned: list[str] = []

    async def handler(payload: Any, ctx: JobContext) -> str:
        try:
            await ctx.wait_for(SHORT)
        except Exception:
            return "swallowed"
        finally:
            cleaned.append("finally")
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
            await ctx.wait_for(SHORT)
        return "done"

    async def swallows(payload: Any, ctx: JobContext) -> str:
        try:
            await ctx.wait_for(SHORT)
        except BaseException:
            pass
        return "swallowed"

    job = await queue.add_job("t", max_attempts=1)
    bad = await queue.add_job("bad", max_attempts=1)
    await working(queue, {"t": handler, "bad": swallows})
    assert await job.result(30) == "done"
    assert cleaned == ["finally"] * 3
    with pytest.raises(JobFailed, match="has caught the BaseException"):
        await bad.result(30)


async def test_waits_where_they_cannot_be(queue: JobQueue, working: Working) -> None:
    async def handler(payload: str, ctx: JobContext) -> None:
        if payload == "gather":
            await asyncio.gather(ctx.wait_for(LONG), asyncio.sleep(0))
        elif payload == "task":
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.wait_for(LONG))
        elif payload == "step":
            await ctx.run("outer", inside, ctx)
        elif payload == "nested":
            await ctx.run("outer", lambda: ctx.run("inner", asyncio.sleep, 0))
        elif payload == "negative":
            await ctx.wait_for(timedelta(0))
        elif payload == "naive":
            await ctx.wait_until(datetime(2099, 1, 1))  # noqa: DTZ001

    async def inside(ctx: JobContext) -> None:
        await ctx.wait_for(LONG)

    expected = {
        "gather": "into the handler itself",
        "task": "unhandled errors",
        "step": "inside the step 'outer'",
        "nested": "inside the step 'outer'",
        "negative": "longer than nothing",
        "naive": "without a time zone",
    }
    jobs = {case: await queue.add_job("t", case, max_attempts=1) for case in expected}
    await working(queue, {"t": handler})
    for case, message in expected.items():
        job = await jobs[case].wait(30)
        assert job.status == "failed" and message in (job.last_error or ""), case


async def test_calendar_months(queue: JobQueue, working: Working) -> None:
    async def handler(payload: Any, ctx: JobContext) -> None:
        await ctx.wait_for(months=1, days=1)

    job = await queue.add_job("t")
    await working(queue, {"t": handler})
    await is_waiting(queue, job.id)
    until_, now = (await job.refresh()).wait_until, datetime.now(UTC)
    assert until_ is not None
    day_before = until_ - timedelta(days=1)
    assert day_before.month == now.month % 12 + 1 and day_before.day <= now.day


async def test_a_token_is_answered_from_outside(queue: JobQueue, working: Working) -> None:
    """D-TOKATT: with max_attempts=1."""
    made: list[Token] = []

    async def handler(payload: Any, ctx: JobContext) -> Any:
        token = await ctx.create_token("approval", timeout="7d", tags=["boss"])
        made.append(token)
        answer = await ctx.wait_for_token(token)
        return [answer.ok, answer.output, answer.error]

    jobs = [await queue.add_job("t", max_attempts=1) for _ in range(2)]
    await working(queue, {"t": handler})
    for job in jobs:
        await is_waiting(queue, job.id)
    tokens = {token.job_id: token for token in made}
    stored = await queue.get_token(tokens[jobs[0].id].id)
    assert (
        stored is not None and stored.status == "waiting" and stored.tags == ("boss",) and stored.timeout_at is not None
    )
    assert (await jobs[0].refresh()).wait_token_id == stored.id
    done = await queue.complete_token(stored.id, {"yes": [1, 2**60, "é"]})
    assert done.status == "completed"
    assert await jobs[0].result(30) == [True, {"yes": [1, 2**60, "é"]}, None]
    await queue.fail_token(tokens[jobs[1].id].id, "no budget")
    assert await jobs[1].result(30) == [False, None, "no budget"]
    with pytest.raises(TokenCompleted, match="was completed with") as caught:
        await queue.complete_token(stored.id, "again")
    assert caught.value.token.output == {"yes": [1, 2**60, "é"]}
    assert [token.id for token in made if token.job_id == jobs[0].id] == [stored.id] * 2, "made once"
    with pytest.raises(TokenNotFound):
        await queue.complete_token("wp_nonesuch")


async def test_a_token_of_the_queue_wakes_who_waits_for_it(queue: JobQueue, working: Working) -> None:
    """D-TOKOUT, and D-TOKEARLY: another token ends no wait."""

    async def handler(payload: str, ctx: JobContext) -> Any:
        other = await ctx.create_token("other")
        answer = await ctx.wait_for_token(payload)
        return [other.id, answer.unwrap()]

    async def sleeper(payload: Any, ctx: JobContext) -> None:
        own = await ctx.create_token("own")
        tokens.append(own.id)
        await ctx.wait_for(LONG)

    tokens: list[str] = []
    token = await queue.create_token(timeout=timedelta(days=1))
    jobs = [await queue.add_job("t", token.id, max_attempts=1) for _ in range(3)]
    asleep = await queue.add_job("sleeper")
    await working(queue, {"t": handler, "sleeper": sleeper})
    for job in [*jobs, asleep]:
        await is_waiting(queue, job.id)
    steps = await queue.get_job_steps(jobs[0].id)
    await queue.complete_token(steps[0].result["token"], "not this one")  # type: ignore[index]
    await queue.complete_token(tokens[0])
    await asyncio.sleep(0.3)
    assert [(await job.refresh()).status for job in [*jobs, asleep]] == ["waiting"] * 4
    await queue.complete_token(token.id, "go")
    for job in jobs:
        assert (await job.result(30))[1] == "go"
    assert (await asleep.refresh()).status == "waiting"


async def test_an_answer_is_never_lost(queue: JobQueue, working: Working) -> None:
    """D-TOKRACE: before, while and after the job begins to wait."""

    async def handler(payload: str, ctx: JobContext) -> Any:
        return (await ctx.wait_for_token(payload)).output

    tokens = [await queue.create_token() for _ in range(60)]
    jobs = [await queue.add_job("t", token.id, max_attempts=1) for token in tokens]
    for token in tokens[:10]:
        await queue.complete_token(token.id, token.id)
    await working(queue, {"t": handler}, concurrency=20)
    await asyncio.gather(*(queue.complete_token(token.id, token.id) for token in tokens[10:]))
    for token, job in zip(tokens, jobs, strict=True):
        assert await job.result(30) == token.id


async def test_a_token_times_out(queue: JobQueue, working: Working) -> None:
    async def handler(payload: Any, ctx: JobContext) -> list[Any]:
        answer = await ctx.wait_for_token(await ctx.create_token("t", timeout=timedelta(milliseconds=50)))
        return [answer.ok, answer.error]

    job = await queue.add_job("t", max_attempts=1)
    await working(queue, {"t": handler})
    await is_waiting(queue, job.id)

    async def expired() -> int:
        return await queue.expire_timed_out_tokens()

    assert await until(expired, "the expiry") == 1
    assert await job.result(30) == [False, "Token timed out"]
    lone = await queue.create_token(timeout=timedelta(milliseconds=1))
    await asyncio.sleep(0.02)
    with pytest.raises(TokenCompleted, match="timed out"):
        await queue.complete_token(lone.id)


async def test_a_wait_can_be_cancelled_and_begun_anew(queue: JobQueue, working: Working) -> None:
    async def handler(payload: Any, ctx: JobContext) -> str:
        await ctx.run("s", asyncio.sleep, 0)
        await ctx.wait_for(LONG)
        return "never"

    job = await queue.add_job("t")
    await working(queue, {"t": handler})
    await is_waiting(queue, job.id)
    assert await queue.cancel_job(job.id)
    stored = await job.refresh()
    assert stored.status == "cancelled" and stored.wait_until is None
    assert await queue.retry_job(job.id)
    await is_waiting(queue, job.id)
    assert [step.name for step in await queue.get_job_steps(job.id)] == ["s", "__wait_0"]
    hooks: list[str] = []
    queue.on("job:waiting", lambda hook: hooks.append(hook.name))
    await queue.cancel_job(job.id)
    await queue.retry_job(job.id)
    await is_waiting(queue, job.id)
    await until(lambda: hooks, "the hook")


async def test_a_job_waits_for_others_and_has_their_results(queue: JobQueue, working: Working) -> None:
    async def child(payload: int) -> int:
        if payload < 0:
            raise ValueError("negative")
        return payload * 10

    async def parent(payload: list[int], ctx: JobContext) -> list[Any]:
        async def add() -> list[int]:
            handles = await queue.add_jobs([{"job_type": "child", "payload": n, "max_attempts": 1} for n in payload])
            return [handle.id for handle in handles]

        ids = await ctx.run("add", add)
        results = await ctx.wait_for_jobs(ids, return_exceptions=True)
        return [str(result) if isinstance(result, Exception) else result for result in results]

    good = await queue.add_job("parent", [1, 2, 3], max_attempts=1)
    bad = await queue.add_job("parent", [1, -1], max_attempts=1)
    empty = await queue.add_job("parent", [], max_attempts=1)
    await working(queue, {"child": child, "parent": parent}, concurrency=1)
    assert await good.result(30) == [10, 20, 30]
    one, two = await bad.result(30)
    assert one == 10 and "negative" in two
    assert await empty.result(30) == []
    assert "waiting" in await kinds(queue, good.id)


async def test_isolated_handlers_have_steps_and_waits(queue: JobQueue, working: Working, tmp_path: Path) -> None:
    first, second = tmp_path / "async", tmp_path / "sync"
    one = await queue.add_job("durable_async", str(first), max_attempts=1)
    two = await queue.add_job("durable_sync", str(second), max_attempts=1)
    bad = await queue.add_job("transacts", max_attempts=1)
    await working(queue, {**isolated_jobs.queue.definitions, **isolated_jobs.sync_queue.queue.definitions})
    await until(first.exists, "the token")
    await queue.complete_token(first.read_text().split()[0], "yes")
    assert await one.result(30) == [True, "yes"]
    assert await two.result(30) == [1, []]
    assert second.read_text() == "step\n"
    assert "no connection to the store" in ((await bad.wait(30)).last_error or "")
