"""Waits beside everything else that a store keeps of a job: other jobs, groups, limits, sleeping workers, deletion."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from conformance.durable_hand import HOUR_MS, Hand, status, step, wait
from support import until

from dataqueue import NewJob
from dataqueue.backends.base import Cancelled, Completed, Failed, Outcome, Waiting
from dataqueue.backends.postgres.backend import PostgresBackend
from dataqueue.backends.redis.backend import RedisBackend
from dataqueue.backends.redis.layout import SORTED_SETS
from dataqueue.limits import TypeLimits
from dataqueue.testing import advance_clock
from dataqueue.tokens import make_token

HOUR = timedelta(hours=1)


# -- waits for jobs -------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "cancelled before", "retried"])
async def test_a_job_goes_on_when_the_last_of_its_jobs_has_ended(hand: Hand, end: str) -> None:
    """However it has: a job in the midst of its work is never cancelled by another's end."""
    handle, job = await hand.add(max_attempts=1)
    first, last = await hand.queue.add_jobs(NewJob("t") for _ in range(2))
    one, two = await hand.claim()
    await hand.wait_for_jobs(job, first.id, last.id)
    waiting = await handle.refresh()
    assert (waiting.status, waiting.blocked, waiting.wait_until, waiting.wait_token_id) == ("waiting", True, None, None)
    metadata = (await hand.queue.get_job_events(job.id))[-1].metadata
    assert metadata is not None and metadata["jobIds"] == [first.id, last.id]
    await hand.sound()
    await hand.end(Completed(one.id, one.lease_id))
    assert await hand.claim() == []
    if end == "retried":
        await hand.end(Failed(two.id, two.lease_id, "boom", "handler_error", 0))
        assert await status(handle) == "waiting" and (await handle.refresh()).blocked
        (two,) = await hand.claim()
    ends: dict[str, Outcome] = {
        "failed": Failed(two.id, two.lease_id, "boom", "handler_error", None),
        "cancelled": Cancelled(two.id, two.lease_id),
    }
    answer = await hand.end(ends.get(end, Completed(two.id, two.lease_id)))
    assert answer.cascaded == []
    woken = await handle.refresh()
    assert (woken.status, woken.blocked) == ("waiting", False)
    assert [(again.id, again.attempts) for again in await hand.claim()] == [(job.id, 1)]
    assert await hand.events(job) == ["added", "processing", "waiting", "unblocked", "processing"]
    await hand.sound()


async def test_a_cancel_of_what_it_waits_for_wakes_a_job(hand: Hand) -> None:
    """And the cascade of that cancel goes past it, to what depends on it in no way."""
    handle, job = await hand.add()
    root = await hand.queue.add_job("u")
    doomed = await hand.queue.add_job("u", depends_on=root)
    after = await hand.queue.add_job("u", depends_on=handle)
    await hand.wait_for_jobs(job, doomed.id)
    await root.cancel()
    assert [await status(one) for one in (root, doomed, handle, after)] == [
        "cancelled",
        "cancelled",
        "waiting",
        "pending",
    ]
    assert [again.id for again in await hand.claim()] == [job.id]
    await hand.sound()


async def test_jobs_that_have_ended_are_not_waited_for(hand: Hand) -> None:
    """Also those that end in the same call, and those that there are not."""
    ended = await hand.queue.add_job("u")
    await ended.cancel()
    handles = [await hand.queue.add_job("t") for _ in range(2)]
    job, other = await hand.claim()
    both = [Waiting(job.id, job.lease_id, wait(1, "jobs", job_ids=(ended.id, other.id, 10**9)))]
    await hand.end(*both, Completed(other.id, other.lease_id))
    assert [again.id for again in await hand.claim()] == [job.id] and not (await handles[0].refresh()).blocked
    await hand.sound()


async def test_an_end_is_not_missed(hand: Hand) -> None:
    """A job begins to wait in the moment in which the other ends."""
    handles = await hand.queue.add_jobs(NewJob("t") for _ in range(40))
    jobs = await hand.claim()
    pairs = list(zip(jobs[:20], jobs[20:], strict=True))
    await asyncio.gather(
        *(
            cycle
            for waits, ends in pairs
            for cycle in (hand.wait_for_jobs(waits, ends.id), hand.end(Completed(ends.id, ends.lease_id)))
        )
    )
    assert sorted(job.id for job in await hand.claim()) == [handle.id for handle in handles[:20]]
    await hand.sound()


async def test_an_answer_is_not_missed(hand: Hand) -> None:
    await hand.queue.add_jobs(NewJob("t") for _ in range(20))
    jobs = await hand.claim()
    tokens = [await hand.token() for _ in jobs]
    await asyncio.gather(
        *(
            each
            for job, token in zip(jobs, tokens, strict=True)
            for each in (hand.wait_for_token(job, token), hand.backend.end_token(token, "1", None))
        )
    )
    assert sorted(job.id for job in await hand.claim()) == [job.id for job in jobs]
    await hand.sound()


async def test_jobs_wait_for_jobs_that_wait(hand: Hand) -> None:
    chain = [await hand.queue.add_job("t") for _ in range(3)]
    a, b, c = await hand.claim()
    await hand.wait_for_jobs(a, b.id)
    await hand.wait_for_jobs(b, c.id)
    await hand.sleep(c, 0)
    for handle in reversed(chain):
        (job,) = await hand.claim()
        assert job.id == handle.id
        await hand.end(Completed(job.id, job.lease_id))
    assert [await status(handle) for handle in chain] == ["completed"] * 3
    await hand.sound()


# -- groups, limits, order ------------------------------------------------------------------------


async def test_a_wait_frees_its_groups_place(hand: Hand) -> None:
    await hand.register("limiting", most_of_group=1)
    handles = [await hand.queue.add_job("t", group="g", max_attempts=1) for _ in range(3)]
    (first,) = await hand.claim()
    await hand.sleep(first)
    (second,) = await hand.claim()
    assert second.id == handles[1].id and await hand.claim() == []
    await hand.sound()
    await advance_clock(hand.queue, HOUR)
    assert await hand.claim() == [], "the place is taken"
    await hand.end(Completed(second.id, second.lease_id))
    left: list[int] = []
    for _ in range(2):
        (job,) = await hand.claim()
        left.append(job.id)
        await hand.end(Completed(job.id, job.lease_id))
    assert sorted(left) == [handles[0].id, handles[2].id]
    await hand.sound()


async def test_a_waiting_job_is_counted_again_when_it_goes_on(hand: Hand) -> None:
    await hand.register("limiting", most_of_group=1)
    handle, job = await hand.add(group="g", max_attempts=1)
    token = await hand.token()
    await hand.wait_for_token(job, token)
    other, running = await hand.add(group="g")
    await hand.backend.end_token(token, "1", None)
    assert await hand.claim() == [], "the place is taken: it is parked"
    assert await status(handle) == "waiting"
    await hand.sound()
    await hand.end(Completed(running.id, running.lease_id))
    (again,) = await hand.claim()
    assert (again.id, again.attempts) == (handle.id, 1)
    await hand.queue.add_job("t", group="g")
    assert await hand.claim() == []
    await hand.sound()
    assert await status(other) == "completed"


async def test_a_parked_waiting_job_can_be_cancelled(hand: Hand) -> None:
    await hand.register("limiting", most_of_group=1)
    handle, job = await hand.add(group="g")
    await hand.sleep(job, 0)
    _, running = await hand.add(group="g", priority=5)
    assert await hand.claim() == []
    assert await handle.cancel()
    await hand.end(Completed(running.id, running.lease_id))
    assert await hand.claim() == []
    await hand.sound()


async def test_a_wait_frees_its_types_place(hand: Hand) -> None:
    await hand.backend.declare_limits({"t": TypeLimits(max_concurrency=1)})
    handles = [await hand.queue.add_job("t") for _ in range(2)]
    (first,) = await hand.claim()
    await hand.sleep(first, 0)
    (then,) = await hand.claim()
    assert then.id == handles[1].id, "it has been in the line for longer"
    await hand.sleep(then)
    assert [job.id for job in await hand.claim()] == [handles[0].id]


async def test_who_goes_on_has_its_place_in_the_line(hand: Hand) -> None:
    """By its priority as any; among equals by the moment in which its wait was over."""
    low, job = await hand.add(priority=-1)
    await hand.sleep(job)
    equal, job = await hand.add()
    await hand.sleep(job)
    high = await hand.queue.add_job("t", priority=1)
    before = await hand.queue.add_job("t")
    await advance_clock(hand.queue, HOUR)
    assert [job.id for job in await hand.claim(1)] == [high.id]
    assert [(await hand.claim(1))[0].id for _ in range(3)] == [before.id, equal.id, low.id]


# -- whoever sleeps -------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["token", "expiry", "jobs", "time", "past"])
async def test_sleeping_workers_are_told(hand: Hand, make_queue: Any, what: str) -> None:
    sleeper = await make_queue().open()
    _, job = await hand.add()
    _, other = await hand.add()
    token = await hand.token(timedelta(milliseconds=1))
    if what in ("token", "expiry"):
        token = await hand.token("1h")
        await hand.wait_for_token(job, token)
    elif what == "jobs":
        await hand.wait_for_jobs(job, other.id)
    told: list[str] = []

    async def listen() -> None:
        async for signal in sleeper.signals():
            told.append(signal.topic)

    listening = asyncio.create_task(listen())
    await until(lambda: told, "the connection")
    await sleeper.listen_for("work", "sleeper", 60)
    told.clear()
    if what == "token":
        await hand.backend.end_token(token, "1", None)
    elif what == "expiry":
        await advance_clock(hand.queue, HOUR)
        told.clear()
        await until(lambda: "work" in told or None, "the advance") if False else None
        assert await hand.backend.expire_tokens(10) == 2
    elif what == "jobs":
        await hand.end(Completed(other.id, other.lease_id))
    elif what == "time":
        await hand.sleep(job, 30_000)
    else:
        await hand.sleep(job, 0)
    await until(lambda: "work" in told, "the signal")
    listening.cancel()


# -- deletion -------------------------------------------------------------------------------------


async def _footprint(hand: Hand) -> dict[str, int]:
    """How much lies in each place of the store, apart from what belongs to no job."""
    if isinstance(hand.backend, RedisBackend):
        names = ("h", "s", "o", "er", "ev", "rd", "dl", "ix", "ls", "gr", "pk", "dp", "un", "cq", "uq", "ul", "st", "sn", "tk", "te",
                 "to", "tj", "tw")  # fmt: skip
        client, key = hand.backend.client, hand.backend.key
        return {
            name: await (client.zcard(key(name)) if name in SORTED_SETS else client.hlen(key(name))) for name in names
        }
    assert isinstance(hand.backend, PostgresBackend)
    found: dict[str, int] = {}
    async with hand.backend.connection() as conn:
        for table in ("job_queue", "job_events", "dataqueue_steps", "waitpoints", "dataqueue_dependencies"):
            cursor = await conn.execute(f"SELECT count(*) FROM {table}")  # pyright: ignore[reportArgumentType]
            row: Any = await cursor.fetchone()
            found[table] = next(iter(row.values())) if isinstance(row, dict) else row[0]
    return found


async def test_nothing_is_left_of_a_deleted_job(hand: Hand) -> None:
    """Whatever its waits, and whatever became of it and its tokens."""
    kept, job = await hand.add()
    await hand.save(job, step(1), make_token("30d", None))
    before = await _footprint(hand)
    waits = [
        wait(4, "sleep"),
        wait(4, "token", token_id=(await hand.token())),
        wait(4, "jobs", job_ids=(job.id,)),
    ]
    await hand.backend.end_token(waits[1].token_id or "", "1", None)
    for number in range(9):
        handle, claimed = await hand.add(group="g", unique=True, payload=number)
        tokens = [make_token("1d", None), make_token(None, ["x"])]
        for seq, token in enumerate([*tokens, None], 1):
            await hand.save(claimed, step(seq), token)
        if number % 3 == 0:
            await hand.backend.end_token(tokens[0].id, "1", None)
        waiting = waits[number // 3]
        await hand.end(Waiting(claimed.id, claimed.lease_id, waiting, HOUR_MS if waiting.kind == "sleep" else None))
        await handle.cancel()
    assert [n async for n in hand.backend.delete_jobs("cancelled", await hand.backend.now(), 4)] == [4, 4, 1]
    await hand.backend.delete_tokens(await hand.backend.now(), 10)
    assert await _footprint(hand) == before
    assert [record.seq for record in await hand.records(job)] == [1] and await status(kept) == "processing"


async def test_a_token_that_goes_with_its_job_ends_the_wait(hand: Hand) -> None:
    """Nobody could answer it any more: who waits for it is told so when it asks. Other tokens wake nobody."""
    _, maker = await hand.add()
    made, own = make_token(None, None), await hand.token()
    await hand.save(maker, step(1), made)
    handle, job = await hand.add()
    other, sleeper = await hand.add()
    await hand.wait_for_token(job, made.id)
    await hand.wait_for_token(sleeper, own)
    await hand.end(Completed(maker.id, maker.lease_id))
    assert await hand.claim() == []
    assert sum([n async for n in hand.backend.delete_jobs("completed", await hand.backend.now(), 10)]) == 1
    assert await hand.backend.get_token(made.id) is None
    assert (await handle.refresh()).wait_token_id is None and (await other.refresh()).wait_token_id == own
    await hand.sound()
    assert [again.id for again in await hand.claim()] == [job.id]


async def test_a_wait_for_a_token_that_is_about_to_go_is_not_missed(hand: Hand) -> None:
    for _ in range(20):
        _, maker = await hand.add()
        made = make_token(None, None)
        await hand.save(maker, step(1), made)
        await hand.end(Completed(maker.id, maker.lease_id))
        _, job = await hand.add()

        async def clean_up() -> list[int]:
            return [n async for n in hand.backend.delete_jobs("completed", await hand.backend.now() + HOUR, 10)]

        await asyncio.gather(hand.wait_for_token(job, made.id), clean_up())
        (again,) = await hand.claim()
        assert again.id == job.id
        await hand.end(Completed(again.id, again.lease_id))
