"""Groups: how many of one run at a time, over all workers; turns; nobody is held up by another's full group."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from support import Working, until

from dataqueue import InvalidJob, JobQueue, NewJob
from dataqueue.backends.base import Claimed, Completed, Cycle, Failed, WorkerInfo


async def worker(queue: JobQueue, name: str = "w", most: int | None = 1, lease: float = 60.0) -> None:
    await queue.open()
    assert await queue.backend.register_worker(WorkerInfo(name, "host", 1, ("t", "u"), 10, "0", lease, most))


async def ask(queue: JobQueue, limit: int = 10, name: str = "w", types: tuple[str, ...] = ("t", "u")) -> list[Claimed]:
    """Claim as a worker does: until there is no more."""
    jobs: list[Claimed] = []
    while True:
        answer: Cycle = await queue.backend.cycle(name, [], types, limit - len(jobs), True)
        jobs += answer.jobs
        if not answer.again or len(jobs) == limit:
            return jobs


async def done(queue: JobQueue, *jobs: Claimed) -> None:
    outcomes = [Completed(job.id, job.lease_id) for job in jobs]
    assert (await queue.backend.cycle("w", outcomes, [], 0, False)).lost == []


async def add(queue: JobQueue, *groups: str | None, job_type: str = "t", **options: Any) -> list[int]:
    return [job.id for job in await queue.add_jobs(NewJob(job_type, None, {"group": g, **options}) for g in groups)]


async def test_a_group_is_kept_with_its_job(queue: JobQueue) -> None:
    await add(queue, "a", None, "ж")
    assert [job.group for job in await queue.get_all_jobs()] == ["ж", None, "a"]
    assert [job.group for job in await queue.get_jobs(group="a")] == ["a"]
    job = await queue.add_job("t", group="a", idempotency_key="k", tags=["x"])
    read = await queue.get_job(job.id)
    assert read is not None and (read.group, read.idempotency_key, read.tags) == ("a", "k", ("x",))
    for wrong in ("", 5, "x" * 256, "a\0b"):
        with pytest.raises(InvalidJob):
            await queue.add_job("t", group=wrong)  # type: ignore[arg-type]


async def test_without_a_limit_a_group_is_only_a_name(queue: JobQueue) -> None:
    await worker(queue, most=None)
    ids = await add(queue, "a", "a", "a")
    assert [job.id for job in await ask(queue)] == ids


async def test_no_more_of_a_group_run_than_may(queue: JobQueue) -> None:
    await worker(queue, most=2)
    a1, a2, a3, b1, free = await add(queue, "a", "a", "a", "b", None)
    first = await ask(queue)
    assert [job.id for job in first] == [a1, a2, b1, free]
    assert await ask(queue) == []
    found = await queue.explain_job(a3)
    assert (found.state, found.will_run, found.reasons[0].code) == ("limited", "later", "group_full")
    assert found.reasons[0].evidence == {"group": "a", "running": 2, "limit": 2, "ahead_in_group": 0}
    await done(queue, first[1])
    assert (await queue.explain_job(a3)).is_ready
    assert [job.id for job in await ask(queue)] == [a3]


async def test_every_end_of_an_attempt_frees_its_place(queue: JobQueue) -> None:
    from dataqueue.backends.base import Cancelled, Outcome, Released

    await worker(queue)
    ends: list[Callable[[Claimed], Outcome]] = [
        lambda job: Completed(job.id, job.lease_id),
        lambda job: Failed(job.id, job.lease_id, "m", "handler_error", None),
        lambda job: Failed(job.id, job.lease_id, "m", "handler_error", 3_600_000),
        lambda job: Cancelled(job.id, job.lease_id),
    ]
    ids = await add(queue, *["a"] * (len(ends) + 2))
    for end, job_id in zip(ends, ids, strict=False):
        (job,) = await ask(queue)
        assert job.id == job_id
        assert (await queue.backend.cycle("w", [end(job)], [], 0, False)).lost == []
    (job,) = await ask(queue)
    await queue.backend.cycle("w", [Released(job.id, job.lease_id)], [], 0, False)
    assert len(await ask(queue)) == 1
    await queue.backend.unregister_worker("w")
    await worker(queue, "w2")
    assert len(await queue.backend.reclaim_expired(10)) == 1
    assert len(await ask(queue, name="w2")) == 1


async def test_a_cancel_passes_the_place_in_line_on(queue: JobQueue) -> None:
    """What was brought back into the line for a free place and is cancelled there leaves it to the next."""
    await worker(queue)
    a1, a2, a3 = await add(queue, "a", "a", "a")
    (job,) = await ask(queue)
    await done(queue, job)
    assert job.id == a1 and await queue.cancel_job(a2)
    assert [job.id for job in await ask(queue)] == [a3]


async def test_the_stricter_of_two_workers_holds_for_all(queue: JobQueue) -> None:
    await worker(queue, "w", most=1)
    await worker(queue, "w2", most=3)
    await worker(queue, "w3", most=None)
    await add(queue, *["a"] * 5)
    assert len(await ask(queue, name="w3")) == 1
    assert await ask(queue, name="w2") == []
    await queue.backend.unregister_worker("w")
    await queue.backend.reclaim_expired(10)
    assert len(await ask(queue, name="w3")) == 2
    await queue.backend.unregister_worker("w2")
    await queue.backend.reclaim_expired(10)
    assert len(await ask(queue, name="w3")) == 2


async def test_groups_take_turns(queue: JobQueue) -> None:
    """A job that had to wait for its group comes back at the end of the line, so one slot serves all in turn."""
    await worker(queue)
    await add(queue, *["a"] * 4, *["b"] * 4, *["c"] * 4)
    order: list[str] = []
    running = await ask(queue, 2)
    while running:
        order.append(str(running[0].group))
        await done(queue, running.pop(0))
        running += await ask(queue, 1)
    assert Counter(order) == {"a": 4, "b": 4, "c": 4}
    assert max(order.index(name) for name in "abc") <= 3
    assert all(set(order[at : at + 6]) == {"a", "b", "c"} for at in range(7))


async def test_within_a_group_priority_and_age_decide(queue: JobQueue) -> None:
    await worker(queue)
    (first,) = await add(queue, "a")
    held = await ask(queue)
    assert [job.id for job in held] == [first]
    low = await add(queue, "a", "a")
    assert await ask(queue) == []
    high = await add(queue, "a", priority=5)
    assert await ask(queue) == []
    order: list[int] = []
    while held:
        await done(queue, *held)
        held = await ask(queue)
        order += [job.id for job in held]
    assert order == [*high, *low]


async def test_a_full_group_in_front_holds_nobody_up(queue: JobQueue) -> None:
    """R-STARVE: whatever stands in front of the line, who may run is found."""
    await worker(queue)
    await queue.add_jobs(NewJob("t", None, {"group": "big", "priority": 10}) for _ in range(3000))
    others = await add(queue, None, "small", None)
    assert {job.id for job in await ask(queue, 5)} > set(others)


async def test_a_place_is_not_held_by_a_type_that_nobody_takes(queue: JobQueue) -> None:
    await worker(queue)
    (first,) = await ask(queue) if await add(queue, "a") else []
    await add(queue, "a", job_type="u", priority=9)
    mine = await add(queue, "a", "a")
    assert await ask(queue) == []
    await done(queue, first)
    assert [job.id for job in await ask(queue, types=("t",))] == mine[:1]


async def test_what_a_parked_job_was_told_stays(queue: JobQueue) -> None:
    """Its run_at is when it was due first, whenever it comes back into the line."""
    await worker(queue)
    ids = await add(queue, "a", "a")
    before = await queue.get_job(ids[1])
    (first,) = await ask(queue)
    assert await ask(queue) == []
    await done(queue, first)
    assert before is not None
    back = await queue.get_job(ids[1])
    assert back is not None and (back.run_at, back.next_attempt_at) == (before.run_at, None)
    (second,) = await ask(queue)
    assert second.run_at == before.run_at and second.group == "a"


async def test_workers_that_race_keep_to_the_limit(make_queue: Callable[..., JobQueue], working: Working) -> None:
    """D-GROUPRACE, R-GROUPCOUNT: exact, whoever claims; and every job runs."""
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()

    async def handler(payload: str | None) -> None:
        name = payload or ""
        running[name] += 1
        most[name] = max(most[name], running[name])
        await asyncio.sleep(0.002)
        running[name] -= 1

    queues = [make_queue() for _ in range(4)]
    jobs = [NewJob("t", group, {"group": group}) for group in ("a", "b", "c", "d", None) for _ in range(60)]
    await queues[0].pause()
    await queues[0].add_jobs(jobs)
    for number, queue in enumerate(queues):
        await working(queue, {"t": handler}, concurrency=8, group_concurrency=2 if number % 2 else 3)
    await until(lambda: _known(queues[0], len(queues)), "the workers")
    await queues[0].resume()
    await until(lambda: _all_done(queues[0], len(jobs)), "all jobs")
    assert max(most[name] for name in "abcd") <= 2 < most[""]
    assert [job.attempts for job in await queues[0].get_all_jobs(limit=1000)] == [1] * len(jobs)


async def _known(queue: JobQueue, count: int) -> bool:
    return len(await queue.list_workers()) == count


async def _all_done(queue: JobQueue, count: int) -> bool:
    return (await queue.stats()).by_status.get("completed") == count


async def test_a_sleeping_worker_is_woken_for_a_place(make_queue: Callable[..., JobQueue], working: Working) -> None:
    """The place is freed by one worker, and the one that has slots for it sleeps."""
    gate, ran = asyncio.Event(), asyncio.Event()

    async def holds(payload: Any) -> None:
        await gate.wait()

    async def runs(payload: Any) -> None:
        ran.set()

    first, second = make_queue(), make_queue()
    await working(first, {"t": holds}, concurrency=1, group_concurrency=1, poll_interval=timedelta(hours=1))
    await add(first, "a")
    await until(lambda: _running(first, 1), "the first job")
    await working(second, {"u": runs}, concurrency=1, poll_interval=timedelta(hours=1))
    (waits,) = await add(second, "a", job_type="u")
    await until(lambda: _is_limited(second, waits), "the parking")
    await asyncio.sleep(0.1)
    gate.set()
    await asyncio.wait_for(ran.wait(), 30)


async def _running(queue: JobQueue, count: int) -> bool:
    return (await queue.stats()).by_status.get("processing", 0) == count


async def _is_limited(queue: JobQueue, job_id: int) -> bool:
    return (await queue.explain_job(job_id)).state == "limited"
