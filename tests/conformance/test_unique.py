"""Jobs of which there shall be one at a time, or one within a time; debounced ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from support import until

from dataqueue import InvalidJob, JobQueue, NewJob, Unique
from dataqueue.backends.base import Completed, Failed, Outcome, WorkerInfo

ONE = Unique("one")


async def _work(queue: JobQueue, outcome: Callable[[int, int], Outcome] = Completed) -> list[int]:
    backend = await queue.open()
    await backend.register_worker(WorkerInfo("w", "h", 1, ("t", "u"), 10, "0", 60.0))
    jobs = (await backend.cycle("w", [], ("t", "u"), 10, True)).jobs
    await backend.cycle("w", [outcome(job.id, job.lease_id) for job in jobs], (), 0, False)
    return [job.id for job in jobs]


async def _sound(queue: JobQueue) -> None:
    bad = [finding for finding in await queue.doctor(deep=True) if finding.check in ("consistency", "indexes")]
    assert [finding.level for finding in bad] == ["ok"] * len(bad), bad


async def test_there_is_one_until_it_is_finished(queue: JobQueue) -> None:
    first = await queue.add_job("t", 1, unique=ONE)
    second = await queue.add_job("t", 2, unique=ONE)
    assert (first.created, second.created, second.id) == (True, False, first.id)
    assert (await first.refresh()).payload == 1, "nothing was changed"
    other_key, other_type, plain = [
        await queue.add_job("t", 3, unique=Unique("two")),
        await queue.add_job("u", 3, unique=ONE),
        await queue.add_job("t", 3),
    ]
    assert other_key.created and other_type.created and plain.created
    backend = await queue.open()
    await backend.register_worker(WorkerInfo("w", "h", 1, ("t",), 10, "0", 60.0))
    held = (await backend.cycle("w", [], ("t", "u"), 1, True)).jobs[0]
    assert held.id == first.id and not (await queue.add_job("t", 4, unique=ONE)).created, "it runs"
    await backend.cycle("w", [Failed(held.id, held.lease_id, "m", "handler_error", 60_000)], (), 0, False)
    assert not (await queue.add_job("t", 4, unique=ONE)).created, "it will be tried again"
    await queue.cancel_job(first.id)
    third = await queue.add_job("t", 5, unique=ONE)
    assert third.created and third.id != first.id
    await _work(queue)
    assert (await queue.add_job("t", 6, unique=ONE)).created
    assert (await third.refresh()).unique_key == "t=one"
    await _sound(queue)


async def test_a_final_failure_frees_the_key_and_a_retry_takes_it_again(queue: JobQueue) -> None:
    first = await queue.add_job("t", 1, unique=ONE)
    await _work(queue, lambda job_id, lease: Failed(job_id, lease, "m", "handler_error", None))
    assert await queue.retry_job(first.id)
    assert (await queue.add_job("t", 2, unique=ONE)).id == first.id
    await _sound(queue)


async def test_what_has_failed_or_was_cancelled_gives_its_key_back_in_the_end(queue: JobQueue) -> None:
    """D-IDEMFAILED: it is deleted as what was completed is, or before that only its key is free."""
    failed = await queue.add_job("t", 1, idempotency_key="a", max_attempts=1)
    await _work(queue, lambda job_id, lease: Failed(job_id, lease, "m", "handler_error", None))
    cancelled = await queue.add_job("t", 1, idempotency_key="b")
    await cancelled.cancel()
    now = timedelta(0)
    assert await queue.release_idempotency_keys(now) == 2
    again = [await queue.add_job("u", 2, idempotency_key=key) for key in ("a", "b")]
    assert [handle.created for handle in again] == [True, True]
    for handle in again:
        await handle.cancel()
    assert await queue.cleanup_old_jobs(now, status=["failed", "cancelled"]) == 4
    assert await queue.get_all_jobs() == [] and await queue.get_job(failed.id) is None
    assert (await queue.add_job("t", 3, idempotency_key="a")).created
    await _sound(queue)


async def test_by_default_the_payload_is_what_is_unique(queue: JobQueue) -> None:
    first = await queue.add_job("t", {"a": 1, "b": [2, None]}, unique=True)
    assert (await queue.add_job("t", {"b": [2, None], "a": 1}, unique=True)).id == first.id
    assert (await queue.add_job("t", {"a": 1, "b": [None, 2]}, unique=True)).created
    assert (await queue.add_job("u", {"a": 1, "b": [2, None]}, unique=True)).created
    assert (await queue.add_job("t", {"a": 1, "b": [2, None]}, unique=False)).created
    await _work(queue)
    assert (await queue.add_job("t", {"a": 1, "b": [2, None]}, unique=True)).created


async def test_within_a_window_it_holds_whatever_became_of_the_first(queue: JobQueue) -> None:
    long, short = Unique("k", window=timedelta(hours=1)), Unique("k", window=timedelta(milliseconds=1))
    first = await queue.add_job("t", 1, unique=long)
    await _work(queue)
    assert (await first.refresh()).status == "completed"
    second = await queue.add_job("t", 2, unique=long)
    assert (second.id, second.created) == (first.id, False)

    async def over() -> bool:
        return (await queue.add_job("t", 3, unique=short)).created

    await until(over)
    newest = (await queue.get_jobs(limit=1))[0]
    assert (await queue.add_job("t", 4, unique=long)).id == newest.id, "the newest counts"
    await _sound(queue)


async def test_replacing_takes_payload_and_time(queue: JobQueue) -> None:
    """A debounce: the last one counts, and its delay."""
    one = Unique("one", replace=True)
    first = await queue.add_job("t", 1, unique=one, delay=timedelta(hours=1), tags=["x"], priority=4)
    second = await queue.add_job("t", {"n": [2]}, unique=one, delay=timedelta(hours=2))
    assert (second.id, second.created) == (first.id, False)
    job = await first.refresh()
    assert (job.payload, job.tags, job.priority) == ({"n": [2]}, ("x",), 4)
    assert timedelta(hours=1, minutes=59) < job.run_at - job.created_at < timedelta(hours=2, minutes=1)
    events = await queue.get_job_events(first.id)
    assert [event.event_type for event in events] == ["added", "edited"]
    assert events[1].metadata["payload"] == {"n": [2]}
    assert await _work(queue) == []
    third = await queue.add_job("t", 3, unique=one)
    assert third.id == first.id
    await _sound(queue)
    backend = await queue.open()
    (held,) = (await backend.cycle("w", [], ("t",), 10, True)).jobs
    assert held.payload == "3"
    fourth = await queue.add_job("t", 4, unique=one)
    assert fourth.created, "it runs already, so that what came since needs a run of its own"
    assert (await queue.add_job("t", 5, unique=one)).id == fourth.id
    await backend.cycle("w", [Completed(held.id, held.lease_id)], (), 0, False)
    assert [(await handle.refresh()).payload for handle in (first, fourth)] == [3, 5]
    await _sound(queue)


async def test_within_one_call(queue: JobQueue) -> None:
    known = await queue.add_job("t", 0, unique=Unique("known"))
    replace = Unique("r", replace=True)
    handles = await queue.add_jobs(
        [
            NewJob("t", 1, {"unique": ONE}),
            NewJob("t", 2),
            NewJob("t", 3, {"unique": ONE}),
            NewJob("t", 4, {"unique": Unique("known")}),
            NewJob("t", 5, {"unique": replace}),
            NewJob("t", 6, {"unique": replace}),
            NewJob("t", 7, {"idempotency_key": "k"}),
            NewJob("t", 8, {"idempotency_key": "k"}),
        ]
    )
    assert [handle.created for handle in handles] == [True, True, False, False, True, False, True, False]
    assert handles[2].id == handles[0].id and handles[3].id == known.id
    assert handles[5].id == handles[4].id and handles[7].id == handles[6].id
    payloads = [job.payload for job in await queue.get_jobs()]
    assert sorted(payloads) == [0, 1, 2, 6, 7]
    await _sound(queue)


async def test_who_is_replaced_within_the_call_is_as_the_last_one(queue: JobQueue) -> None:
    other = await queue.add_job("t", 0)
    first, last = await queue.add_jobs(
        [NewJob("t", 1, {"unique": ONE, "depends_on": other}), NewJob("t", 2, {"unique": Unique("one", replace=True)})]
    )
    job = await first.refresh()
    assert first.id == last.id and (job.payload, job.blocked, job.depends_on) == (2, False, ())
    await _sound(queue)


async def test_many_producers_at_once_add_one(make_queue: Callable[..., JobQueue]) -> None:
    queues = [make_queue(max_connections=4) for _ in range(3)]
    for number in range(5):
        key = Unique(f"k{number}", replace=number % 2 == 1)
        added = await asyncio.gather(*(queues[n % 3].add_job("t", n, unique=key) for n in range(24)))
        assert sum(handle.created for handle in added) == 1
        assert len({handle.id for handle in added}) == 1


async def test_a_definition_may_make_all_its_jobs_unique(queue: JobQueue) -> None:
    @queue.job(unique=True)
    async def t(payload: int) -> None: ...

    handles = await t.add_many([1, 2, 1])
    assert [handle.created for handle in handles] == [True, True, False]
    with pytest.raises(InvalidJob, match="same key"):
        await t.add_many([1, 2], unique=ONE)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"unique": "key"}, "unique must be"),
        ({"unique": 1}, "unique must be"),
        ({"unique": ONE, "idempotency_key": "k"}, "Give one of them"),
        ({"unique": Unique("k", replace=True), "depends_on": 1}, "cannot replace"),
    ],
)
async def test_what_is_refused(queue: JobQueue, options: Any, match: str) -> None:
    with pytest.raises(InvalidJob, match=match):
        await queue.add_job("t", 1, **options)
    assert await queue.get_jobs() == []


@pytest.mark.parametrize(
    "options",
    [
        {"key": ""},
        {"key": "x" * 256},
        {"key": "\0"},
        {"window": timedelta(0)},
        {"window": 5},
        {"window": timedelta(1), "replace": True},
    ],
)
def test_what_cannot_be_said(options: Any) -> None:
    with pytest.raises(InvalidJob):
        Unique(**options)
