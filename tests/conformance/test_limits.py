"""Limits of types, and pauses: over all workers, exact, and gone without a trace when they are taken away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from conformance.test_groups import ask, done, worker
from support import Working, until

from dataqueue import InvalidJob, JobContext, JobQueue, NewJob, Rate
from dataqueue.limits import TypeLimits

HOUR = timedelta(hours=1)


async def _nothing(payload: Any) -> None: ...


async def add(queue: JobQueue, count: int, job_type: str = "t") -> list[int]:
    return [job.id for job in await queue.add_jobs(NewJob(job_type) for _ in range(count))]


def test_limits_are_checked_where_they_are_written() -> None:
    queue = JobQueue.from_url("postgresql://nowhere/nothing")
    for wrong in ({"max_concurrency": 0}, {"max_concurrency": True}, {"rate": 5}, {"rate": "5/s"}):
        with pytest.raises(InvalidJob):
            queue.job("t", **wrong)(_nothing)  # type: ignore[arg-type]
    for count, per in ((0, HOUR), (1, timedelta(0)), (1, 60), (1.5, HOUR), (1, timedelta(days=400))):
        with pytest.raises(InvalidJob):
            Rate(count, per)  # type: ignore[arg-type]


async def test_no_more_of_a_type_run_than_may(queue: JobQueue) -> None:
    await worker(queue, most=None)
    await queue.backend.declare_limits({"t": TypeLimits(max_concurrency=2)})
    ids, (other,) = await add(queue, 4), await add(queue, 1, "u")
    first = await ask(queue)
    assert [job.id for job in first] == [*ids[:2], other]
    assert await ask(queue) == []
    found = await queue.explain_job(ids[2])
    assert (found.state, [reason.code for reason in found.reasons]) == ("limited", ["type_full"])
    (state,) = await queue.list_limits()
    assert (state.job_type, state.max_concurrency, state.running, state.free, state.rate) == ("t", 2, 2, 0, None)
    await done(queue, first[0])
    assert (await queue.explain_job(ids[2])).is_ready and not (await queue.explain_job(ids[3])).is_ready
    assert [job.id for job in await ask(queue)] == [ids[2]]
    await queue.backend.declare_limits({"t": TypeLimits()})
    assert await queue.list_limits() == []
    assert [job.id for job in await ask(queue)] == [ids[3]]


async def test_no_more_start_within_a_time_than_may(queue: JobQueue) -> None:
    await worker(queue, most=None)
    await queue.backend.declare_limits({"t": TypeLimits(rate=Rate(3, HOUR))})
    ids = await add(queue, 5)
    assert [job.id for job in await ask(queue, 2)] == ids[:2]
    answer = await queue.backend.cycle("w", [], ["t"], 10, True)
    assert [job.id for job in answer.jobs] == ids[2:3]
    assert answer.opens_in_ms is not None and 0 < answer.opens_in_ms <= 3_600_000
    await done(queue, *answer.jobs)  # an end opens nothing
    assert await ask(queue) == []
    found = await queue.explain_job(ids[3])
    assert [reason.code for reason in found.reasons] == ["rate_limited"]
    assert found.eta is not None and timedelta(0) < found.eta - found.checked_at <= HOUR
    (state,) = await queue.list_limits()
    assert (state.rate, state.started, state.free, state.opens_at) == (Rate(3, HOUR), 3, 0, found.eta)


async def test_the_limits_of_a_definition_are_declared_by_its_worker(queue: JobQueue, working: Working) -> None:
    @queue.job(max_concurrency=3, rate=Rate(100, per=HOUR))
    async def limited(payload: Any) -> None: ...

    @queue.job
    async def free(payload: Any) -> None: ...

    await queue.open()
    await queue.backend.declare_limits(
        {"limited": TypeLimits(max_concurrency=1), "free": TypeLimits(max_concurrency=1)}
    )
    await working(queue)
    await until(lambda: _limits_are(queue, {"limited": (3, Rate(100, HOUR))}), "the declaration")
    await working(
        queue, {"limited": limited.handler.function, "mapped": lambda payload: None}
    )  # says nothing of limits
    await until(lambda: _workers(queue, 2), "the second worker")
    assert await _limits_are(queue, {"limited": (3, Rate(100, HOUR))})


async def _limits_are(queue: JobQueue, wanted: dict[str, Any]) -> bool:
    return {state.job_type: (state.max_concurrency, state.rate) for state in await queue.list_limits()} == wanted


async def _workers(queue: JobQueue, count: int) -> bool:
    return len(await queue.list_workers()) == count


async def test_a_rate_holds_in_every_window(make_queue: Callable[..., JobQueue], working: Working) -> None:
    """Two workers, more work than may start: no stretch of that length sees more claims than the rate says."""
    per = timedelta(milliseconds=400)
    queues = [make_queue(), make_queue()]
    claims: list[float] = []

    async def handler(payload: Any, ctx: JobContext) -> None: ...

    for queue in queues:
        definition = queue.job("t", rate=Rate(4, per=per))
        definition(handler)
    ids = await add(queues[0], 16)
    for queue in queues:
        await working(queue, concurrency=10)
    for job_id in ids:
        job = await queues[0].wait_for_job(job_id, timeout=30)
        assert job.started_at is not None and job.attempts == 1
        claims.append(job.started_at.timestamp())
    claims.sort()
    # The stores round their times to milliseconds.
    assert all(later - earlier > 0.398 for earlier, later in zip(claims, claims[4:], strict=False))


async def test_a_type_that_is_full_does_not_keep_others_waiting(queue: JobQueue, working: Working) -> None:
    gate = asyncio.Event()

    async def slow(payload: Any) -> None:
        await gate.wait()

    async def quick(payload: Any) -> None: ...

    queue.job("slow", max_concurrency=2)(slow)
    queue.job("quick")(quick)
    await queue.add_jobs(NewJob("slow", None, {"priority": 9}) for _ in range(50))
    last = await queue.add_job("quick")
    await working(queue, concurrency=5)
    assert (await last.wait(timeout=30)).status == "completed"
    assert (await queue.stats()).by_type["slow"] == {"processing": 2, "pending": 48}
    gate.set()
    await until(lambda: _completed(queue, 51), "the rest")


async def _completed(queue: JobQueue, count: int) -> bool:
    return (await queue.stats()).by_status.get("completed") == count


async def test_pause_and_resume(queue: JobQueue) -> None:
    await worker(queue, most=None)
    (t,), (u,) = await add(queue, 1), await add(queue, 1, "u")
    assert await queue.pause("t", by="ann") and not await queue.pause("t")
    assert [job.id for job in await ask(queue)] == [u]
    found = await queue.explain_job(t)
    assert (found.state, found.will_run, found.reasons[0].code) == ("paused", "later", "queue_paused")
    assert "ann" in found.reasons[0].message
    (state,) = await queue.list_limits()
    assert (state.job_type, state.paused_by, state.free) == ("t", "ann", 0) and state.paused_at is not None
    assert await queue.pause()
    assert [state.job_type for state in await queue.list_limits()] == [None, "t"]
    assert await queue.resume("t") and not await queue.resume("t")
    assert await ask(queue) == []
    assert await queue.resume()
    assert await queue.list_limits() == []
    assert [job.id for job in await ask(queue)] == [t]


async def test_a_pause_outlives_a_declaration(queue: JobQueue) -> None:
    await worker(queue, most=None)
    await queue.pause("t")
    for limits in (TypeLimits(max_concurrency=5), TypeLimits()):
        await queue.backend.declare_limits({"t": limits})
        assert [state.paused_at is not None for state in await queue.list_limits()] == [True]
    await add(queue, 1)
    assert await ask(queue) == []


async def test_running_jobs_go_on_and_a_resume_wakes(queue: JobQueue, working: Working) -> None:
    gate = asyncio.Event()

    async def handler(payload: Any) -> None:
        await gate.wait()

    await working(queue, {"t": handler}, poll_interval=HOUR)
    (first,) = await add(queue, 1)
    await until(lambda: _processing(queue), "the first job")
    await queue.pause()
    gate.set()
    assert (await queue.wait_for_job(first, timeout=30)).status == "completed"
    (second,) = await add(queue, 1)
    await asyncio.sleep(0.2)
    job = await queue.get_job(second)
    assert job is not None and job.status == "pending"
    await queue.resume()
    assert (await queue.wait_for_job(second, timeout=30)).status == "completed"


async def _processing(queue: JobQueue) -> bool:
    return (await queue.stats()).by_status.get("processing", 0) == 1


async def test_start_goes_on_while_jobs_are_passed_over(queue: JobQueue) -> None:
    """One batch, as serverless functions run it, looks past full groups too."""
    ran: list[Any] = []
    await queue.add_jobs(NewJob("t", n, {"group": "big", "priority": 5}) for n in range(200))
    await queue.add_jobs(NewJob("t", "free") for _ in range(3))
    processor = queue.create_processor({"t": ran.append}, group_concurrency=1, batch_size=10, concurrency=4)
    started = time.monotonic()
    assert await processor.start() == 10
    assert ran.count("free") == 3 and time.monotonic() - started < 30


async def test_start_sees_the_places_that_its_own_jobs_free(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a job ends while a claim is under way that finds nothing more."""
    cycle = queue.backend.cycle

    async def slow(*args: Any) -> Any:
        answer = await cycle(*args)
        await asyncio.sleep(0.2)
        return answer

    async def handler(payload: Any) -> None:
        await asyncio.sleep(0 if payload == "free" else 0.1)

    await queue.add_jobs(NewJob("t", n, {"group": "big", "priority": 5}) for n in range(4))
    await queue.add_job("t", "free")
    monkeypatch.setattr(queue.backend, "cycle", slow)
    assert await queue.create_processor({"t": handler}, group_concurrency=1, batch_size=5, concurrency=5).start() == 5
