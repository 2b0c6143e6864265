"""Steps, waits and tokens as the stores keep them, by hand: what each write changes, and what it leaves alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conformance.durable_hand import HOUR_MS, Hand, status, step, wait
from support import take_away

from dataqueue import Unique
from dataqueue.backends.base import Claimed, Completed, Failed, Released, Waiting
from dataqueue.options import make_edit
from dataqueue.testing import advance_clock
from dataqueue.tokens import make_token

HOUR = timedelta(hours=1)


# -- steps ----------------------------------------------------------------------------------------


async def test_steps_come_back_as_they_were(hand: Hand) -> None:
    """In their order; numbers beyond 2^53, any text, and no result stay what they are."""
    results = [
        "9007199254740993",
        "-123456789012345678901234567890",
        '{"ж": "a\\nb\\" \\u2028"}',
        "null",
        "[[],{}]",
        None,
    ]
    _, job = await hand.add()
    assert not job.has_steps and await hand.records(job) == []
    for seq in (2, 1, 4, 3, 6, 5):
        await hand.save(job, step(seq, f"name {seq} \"ж'\n", results[seq - 1]))
    records, tokens, now = await hand.backend.load_steps(job.id)
    assert [record.seq for record in records] == [1, 2, 3, 4, 5, 6] and tokens == {}
    for record, result in zip(records, results, strict=True):
        assert record.name == f"name {record.seq} \"ж'\n"
        assert (record.kind, record.done, record.place, record.attempts) == ("step", True, "h.py:1", 1)
        assert (record.result is None) == (result is None)
        if result is not None and record.result is not None:
            assert json.loads(record.result) == json.loads(result)
        assert record.started_at is not None and record.done_at is not None
        assert record.started_at <= record.done_at <= now
        assert (record.until, record.token_id, record.job_ids) == (None, None, ())
    await hand.end(Released(job.id, job.lease_id))
    (again,) = await hand.claim()
    assert again.has_steps and again.attempts == 1


async def test_how_long_a_step_took_is_kept(hand: Hand) -> None:
    _, job = await hand.add()
    record = step(1)
    assert record.done_at is not None
    record.started_at, record.attempts = record.done_at - timedelta(seconds=90), 3
    await hand.save(job, record)
    (stored,) = await hand.records(job)
    assert stored.started_at is not None and stored.done_at is not None and stored.attempts == 3
    assert abs(stored.done_at - stored.started_at - timedelta(seconds=90)) <= timedelta(milliseconds=2)


async def test_the_same_step_recorded_twice_is_one(hand: Hand) -> None:
    """An answer was lost, and the step is sent again; its token is made once."""
    _, job = await hand.add()
    token = make_token("1h", ["a"])
    for result in ("1", "2"):
        await hand.save(job, step(1, "s", result), token)
    (record,) = await hand.records(job)
    assert record.result == "2"
    stored = await hand.backend.get_token(token.id)
    assert stored is not None and (stored.job_id, stored.tags, stored.status) == (job.id, ("a",), "waiting")


async def test_the_end_of_a_wait_keeps_its_beginning(hand: Hand) -> None:
    _, job = await hand.add()
    token = await hand.token()
    await hand.wait_for_token(job, token)
    (begun,) = await hand.records(job)
    assert (begun.kind, begun.done, begun.token_id, begun.done_at) == ("token", False, token, None)
    await hand.backend.end_token(token, "5", None)
    (again,) = await hand.claim()
    found = (await hand.backend.load_steps(job.id))[1]
    assert found[token].output == 5
    done = wait(1, "token", token_id=token)
    done.done, done.result = True, '{"ok": true}'
    await hand.save(again, done)
    records, tokens, _ = await hand.backend.load_steps(job.id)
    assert [(r.started_at, r.done, r.kind, r.token_id) for r in records] == [(begun.started_at, True, "token", token)]
    assert tokens == {}, "what is done needs its token no more"


async def test_a_lost_lease_records_nothing(hand: Hand) -> None:
    handle, job = await hand.add(max_attempts=5)
    await hand.save(job, step(1))
    await take_away(hand.queue, job.id)
    await hand.register()
    (new,) = await hand.claim()
    before, records, events = await handle.refresh(), await hand.records(job), await hand.events(job)
    token = make_token(None, None)
    assert not await hand.backend.save_step(job.id, job.lease_id, step(1, result="2"))
    assert not await hand.backend.save_step(job.id, job.lease_id, step(2), token)
    assert await hand.backend.get_token(token.id) is None
    others = (await hand.queue.add_job("other")).id
    for late in (wait(2, "sleep"), wait(2, "token", token_id="x"), wait(2, "jobs", job_ids=(others,))):
        answer = await hand.backend.cycle("w", [Waiting(job.id, job.lease_id, late, HOUR_MS)], [], 0, False)
        assert answer.lost == [(job.id, job.lease_id)]
    assert (await handle.refresh(), await hand.records(job), await hand.events(job)) == (before, records, events)
    await hand.end(Completed(new.id, new.lease_id))
    assert not await hand.backend.save_step(new.id, new.lease_id, step(2))


async def test_steps_outlive_every_end_of_an_attempt(hand: Hand) -> None:
    """A retry, a hand-back, a lost worker, and a retry by hand."""
    handle, job = await hand.add(max_attempts=3)
    await hand.save(job, step(1))
    await hand.end(Failed(job.id, job.lease_id, "boom", "handler_error", 0))
    (job,) = await hand.claim()
    await hand.save(job, step(2))
    await hand.end(Released(job.id, job.lease_id))
    (job,) = await hand.claim()
    assert job.attempts == 2
    await hand.save(job, step(3))
    await take_away(hand.queue, job.id)
    await hand.register()
    (job,) = await hand.claim()
    assert job.attempts == 3 and job.has_steps
    await hand.end(Failed(job.id, job.lease_id, "boom", "handler_error", None))
    assert await hand.queue.retry_job(handle.id)
    (job,) = await hand.claim()
    assert job.has_steps and [record.seq for record in await hand.records(job)] == [1, 2, 3]


async def test_thousands_of_steps(hand: Hand) -> None:
    """One record a step, whatever there is already, and all of them are read."""
    _, job = await hand.add()
    for first in range(1, 2001, 100):
        await asyncio.gather(*(hand.save(job, step(seq, result=str(seq))) for seq in range(first, first + 100)))
    records = await hand.records(job)
    assert [(record.seq, record.name, record.result) for record in records] == [
        (seq, f"s{seq}", str(seq)) for seq in range(1, 2001)
    ]


# -- waits for a time -----------------------------------------------------------------------------


async def test_a_wait_costs_no_attempt_and_holds_nothing(hand: Hand) -> None:
    handle, job = await hand.add(max_attempts=1)
    await hand.backend.set_progress(job.id, job.lease_id, 40)
    await hand.backend.set_output(job.id, job.lease_id, '"so far"')
    await hand.sleep(job)
    waiting = await handle.refresh()
    assert (waiting.status, waiting.attempts, waiting.locked_by, waiting.progress) == ("waiting", 1, None, 40)
    assert waiting.output == "so far" and waiting.wait_token_id is None and not waiting.blocked
    (record,) = await hand.records(job)
    assert waiting.wait_until is not None and record.until is not None
    assert abs(waiting.wait_until - record.until) <= timedelta(milliseconds=1)
    assert abs(record.until - waiting.updated_at - HOUR) <= timedelta(milliseconds=1)
    assert await hand.claim() == [] and hand.next_due_ms is not None and 0 < hand.next_due_ms <= HOUR_MS
    await hand.sound()
    await advance_clock(hand.queue, HOUR)
    (moved,) = await hand.records(job)
    assert moved.until is not None and abs(record.until - moved.until - HOUR) <= timedelta(milliseconds=1)
    (again,) = await hand.claim()
    assert again.attempts == 1 and again.has_steps and again.lease_id != job.lease_id
    running = await handle.refresh()
    assert (running.status, running.progress, running.output, running.last_retried_at) == (
        "processing",
        40,
        "so far",
        None,
    )
    assert running.wait_until is None and running.started_at is not None
    await hand.end(Completed(again.id, again.lease_id))
    assert await hand.events(job) == ["added", "processing", "waiting", "processing", "completed"]
    await hand.sound()


async def test_a_wait_until_a_moment(hand: Hand) -> None:
    handle, job = await hand.add()
    moment = (await hand.backend.now() + HOUR).replace(microsecond=0)
    await hand.end(Waiting(job.id, job.lease_id, wait(1, "sleep", until=moment)))
    assert (await handle.refresh()).wait_until == moment and await hand.claim() == []
    (_, _, event) = await hand.queue.get_job_events(job.id)
    assert event.event_type == "waiting" and event.metadata is not None
    assert datetime.fromisoformat(event.metadata["waitUntil"]) == moment and event.metadata["waitTokenId"] is None
    await advance_clock(hand.queue, HOUR / 2)
    (_, _, event) = await hand.queue.get_job_events(job.id)
    assert event.metadata is not None
    assert datetime.fromisoformat(event.metadata["waitUntil"]) == moment - HOUR / 2, "moves with the clock"


async def test_a_wait_for_what_is_past_goes_on_at_once(hand: Hand) -> None:
    _, job = await hand.add(max_attempts=1)
    past = await hand.backend.now() - HOUR
    await hand.end(Waiting(job.id, job.lease_id, wait(1, "sleep", until=past)))
    assert [again.attempts for again in await hand.claim()] == [1]
    await hand.sound()


async def test_the_same_wait_again_keeps_its_record(hand: Hand) -> None:
    _, job = await hand.add()
    token = await hand.token()
    await hand.wait_for_token(job, token)
    (begun,) = await hand.records(job)
    await hand.backend.end_token(token, "1", None)
    (job,) = await hand.claim()
    await take_away(hand.queue, job.id)
    await hand.register()
    assert await hand.records(job) == [begun]
    (job,) = await hand.claim()
    other = await hand.token()
    await hand.wait_for_token(job, other)
    assert await hand.records(job) == [begun]


async def test_the_attempt_after_a_wait_is_lost_or_fails_like_any(hand: Hand) -> None:
    handle, job = await hand.add(max_attempts=2)
    await hand.sleep(job, 0)
    (job,) = await hand.claim()
    await hand.end(Failed(job.id, job.lease_id, "boom", "handler_error", 0))
    (job,) = await hand.claim()
    assert job.attempts == 2
    await hand.sleep(job, 0, seq=2)
    (job,) = await hand.claim()
    assert job.attempts == 2
    await take_away(hand.queue, job.id)
    lost = await handle.refresh()
    assert (lost.status, lost.failure_reason, lost.attempts) == ("failed", "worker_lost", 2)
    await hand.sound()


async def test_a_wait_is_no_end(hand: Hand) -> None:
    """Its unique key stays taken, its statistics and filters know it, and nobody runs, edits or retries it."""
    handle, job = await hand.add(unique=Unique("k"))
    await hand.sleep(job)
    assert (await hand.queue.add_job("t", unique=Unique("k"))).id == handle.id
    assert (await hand.backend.finished([job.id])) == {job.id: False}
    assert [found.id for found in await hand.queue.get_jobs(status="waiting")] == [job.id]
    assert (await hand.backend.stats()).by_status == {"waiting": 1}
    assert not await hand.queue.retry_job(job.id)
    assert await hand.backend.edit([job.id], make_edit(None, {"priority": 5})) == {job.id: "unchanged"}
    assert [n async for n in hand.backend.delete_jobs("completed", datetime.now(UTC), 10)] in ([], [0])


# -- tokens ---------------------------------------------------------------------------------------


async def test_the_first_answer_to_a_token_stands(hand: Hand) -> None:
    for first, second in ((('{"a": [1, 18446744073709551617]}', None), (None, "no")), ((None, "nö\n"), ("1", None))):
        token = await hand.token("1d")
        made = await hand.backend.get_token(token)
        assert made is not None and made.status == "waiting" and made.timeout_at is not None
        assert abs(made.timeout_at - made.created_at - timedelta(days=1)) < timedelta(milliseconds=2)
        ended, is_first = await hand.backend.end_token(token, *first)
        assert is_first and ended is not None and ended.completed_at is not None
        if first[1] is None:
            assert (ended.status, ended.output, ended.error) == ("completed", {"a": [1, 2**64 + 1]}, None)
        else:
            assert (ended.status, ended.output, ended.error) == ("failed", None, "nö\n")
        assert await hand.backend.end_token(token, *second) == (ended, False)
        assert await hand.backend.get_token(token) == ended
    assert await hand.backend.end_token("wp_none", "1", None) == (None, False)
    assert await hand.backend.get_token("wp_none") is None


@pytest.mark.parametrize("end", ["completed", "failed", "timed_out"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_answer_wakes_whoever_waits_for_it(hand: Hand, end: str, when: str) -> None:
    handle, job = await hand.add(max_attempts=1)
    token = await hand.token("1h")

    async def answer() -> None:
        if end == "timed_out":
            await advance_clock(hand.queue, HOUR)
            assert await hand.backend.expire_tokens(10) == 1
        else:
            _, first = await hand.backend.end_token(token, *(("1", None) if end == "completed" else (None, "no")))
            assert first

    if when == "before":
        await answer()
    await hand.wait_for_token(job, token)
    if when == "after":
        waiting = await handle.refresh()
        assert (waiting.status, waiting.wait_token_id, waiting.wait_until) == ("waiting", token, None)
        assert await hand.claim() == []
        await hand.sound()
        await answer()
    assert await status(handle) == "waiting", "until it is claimed"
    (again,) = await hand.claim()
    assert again.attempts == 1
    _, tokens, _ = await hand.backend.load_steps(job.id)
    assert tokens[token].status == end
    metadata = (await hand.queue.get_job_events(job.id))[2].metadata
    assert metadata is not None and (metadata["waitTokenId"], metadata["waitUntil"]) == (token, None)
    await hand.sound()


async def test_only_its_own_token_wakes_a_job(hand: Hand) -> None:
    handles = [await hand.queue.add_job("t") for _ in range(4)]
    jobs = await hand.claim()
    mine, other, made = await hand.token(), await hand.token(), make_token("1h", None)
    await hand.save(jobs[0], step(1), made)
    for job, token in zip(jobs, (mine, mine, other), strict=False):
        await hand.wait_for_token(job, token, seq=2)
    await hand.sleep(jobs[3], seq=2)
    await hand.backend.end_token(made.id, "1", None)
    await hand.backend.end_token(mine + "0", "1", None)
    assert await hand.claim() == []
    await hand.backend.end_token(mine, "1", None)
    assert sorted(job.id for job in await hand.claim()) == [handle.id for handle in handles[:2]]
    assert [await status(handle) for handle in handles[2:]] == ["waiting", "waiting"]
    await hand.sound()


async def test_a_token_that_nobody_made_ends_the_wait(hand: Hand) -> None:
    _, job = await hand.add()
    await hand.wait_for_token(job, "wp_none")
    assert [again.id for again in await hand.claim()] == [job.id]


async def test_an_answer_after_the_time_is_too_late(hand: Hand) -> None:
    _, job = await hand.add()
    token = await hand.token("1h")
    await hand.wait_for_token(job, token)
    await advance_clock(hand.queue, HOUR)
    ended, first = await hand.backend.end_token(token, "1", None)
    assert not first and ended is not None and (ended.status, ended.output) == ("timed_out", None)
    assert [again.id for again in await hand.claim()] == [job.id]
    assert await hand.backend.expire_tokens(10) == 0


async def test_tokens_expire_and_go_in_bounded_steps(hand: Hand) -> None:
    _, job = await hand.add()
    kept, own = await hand.token("2d"), make_token("1h", None)
    await hand.save(job, step(1), own)
    short = [await hand.token("1h") for _ in range(4)]
    answered = await hand.token()
    await hand.backend.end_token(answered, "1", None)
    await advance_clock(hand.queue, HOUR)
    assert [await hand.backend.expire_tokens(3) for _ in range(3)] == [3, 2, 0]
    now = await hand.backend.now()
    assert await hand.backend.delete_tokens(now - 2 * HOUR, 10) == 0
    await advance_clock(hand.queue, HOUR)
    assert await hand.backend.delete_tokens(now - timedelta(minutes=30), 10) == 5
    gone = [await hand.backend.get_token(token) for token in [*short, answered]]
    assert gone == [None] * 5
    for token, expected in ((kept, "waiting"), (own.id, "timed_out")):
        stored = await hand.backend.get_token(token)
        assert stored is not None and stored.status == expected


# -- cancels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sleep", "token", "jobs"])
async def test_a_waiting_job_is_cancelled_and_begins_its_wait_anew(hand: Hand, kind: str) -> None:
    handle, job = await hand.add()
    dependent = await hand.queue.add_job("u", depends_on=handle)
    token, other = await hand.token("1d"), await hand.queue.add_job("u")
    begin: dict[str, Callable[[Claimed], Awaitable[Any]]] = {
        "sleep": lambda job: hand.sleep(job, seq=2),
        "token": lambda job: hand.wait_for_token(job, token, seq=2),
        "jobs": lambda job: hand.wait_for_jobs(job, other.id, seq=2),
    }
    await hand.save(job, step(1))
    await hand.backend.set_output(job.id, job.lease_id, '"so far"')
    await begin[kind](job)
    assert await handle.cancel()
    cancelled = await handle.refresh()
    assert cancelled.output is None, "as of every cancelled job"
    assert (cancelled.status, cancelled.wait_until, cancelled.wait_token_id, cancelled.blocked) == (
        "cancelled",
        None,
        None,
        False,
    )
    assert await status(dependent) == "cancelled"
    assert [record.seq for record in await hand.records(job)] == [1]
    stored = await hand.backend.get_token(token)
    assert stored is not None and stored.status == "waiting"
    await hand.sound()
    assert await hand.queue.retry_job(handle.id)
    (job,) = await hand.claim()
    await begin[kind](job)
    assert await status(handle) == "waiting" and await hand.claim() == []
    await hand.sound()
    if kind == "token":
        await hand.backend.end_token(token, "1", None)
    elif kind == "jobs":
        await other.cancel()
    else:
        await advance_clock(hand.queue, HOUR)
    assert [job.id for job in await hand.claim()] == [handle.id]
    await hand.sound()


@pytest.mark.parametrize("kind", ["sleep", "token", "jobs"])
async def test_whose_cancel_was_asked_for_does_not_wait(hand: Hand, kind: str) -> None:
    handle, job = await hand.add()
    dependent = await hand.queue.add_job("u", depends_on=handle)
    other = await hand.queue.add_job("u")
    await hand.backend.set_output(job.id, job.lease_id, '"so far"')
    assert await handle.cancel() and await status(handle) == "processing"
    waits = wait(1, kind, token_id=await hand.token(), job_ids=(other.id,))
    answer = await hand.end(Waiting(job.id, job.lease_id, waits, HOUR_MS if kind == "sleep" else None))
    assert answer.cancelled == [(job.id, job.lease_id)] and answer.cascaded == [dependent.id]
    assert [await status(handle), await status(dependent)] == ["cancelled", "cancelled"]
    assert (await hand.events(job))[-2:] == ["cancel_requested", "cancelled"]
    assert (await handle.refresh()).output is None
    assert await hand.records(job) == []
    await other.cancel()
    assert await hand.claim() == [] and await status(handle) == "cancelled"
    await hand.sound()


async def test_a_wait_whose_time_has_come_is_not_begun_anew(hand: Hand) -> None:
    """A cancel that comes between the time and the claim."""
    handle, job = await hand.add()
    await hand.sleep(job)
    await advance_clock(hand.queue, HOUR)
    assert await handle.cancel() and await hand.claim() == []
    (record,) = await hand.records(job)
    assert record.until is not None and record.until <= await hand.backend.now()
    await hand.sound()


async def test_a_cancel_leaves_the_wait_of_a_job_that_waits_no_more(hand: Hand) -> None:
    """It was woken, and its worker was lost before it came to the answer."""
    handle, job = await hand.add(max_attempts=5)
    token = await hand.token()
    await hand.wait_for_token(job, token)
    await hand.backend.end_token(token, "1", None)
    (job,) = await hand.claim()
    records = await hand.records(job)
    await take_away(hand.queue, job.id)
    await hand.register()
    assert await handle.cancel()
    assert await hand.records(job) == records and len(records) == 1
    await hand.sound()


@pytest.mark.parametrize("kind", ["sleep", "token", "jobs"])
async def test_a_dead_letter_that_waits_can_be_redriven(hand: Hand, kind: str) -> None:
    """And itself be run again, with its wait."""
    source = await hand.queue.add_job("t", dead_letter="t", max_attempts=1)
    (job,) = await hand.claim()
    await hand.end(Failed(job.id, job.lease_id, "boom", "handler_error", None))
    (letter,) = await hand.claim()
    other = await hand.queue.add_job("u")
    waits = wait(1, kind, token_id=await hand.token(), job_ids=(other.id,))
    for _ in range(2):
        await hand.end(Waiting(letter.id, letter.lease_id, waits, HOUR_MS if kind == "sleep" else None))
        if (await source.refresh()).status == "failed":
            assert (await hand.queue.redrive(letter.id)).id == source.id
            cancelled = await hand.queue.require_job(letter.id)
            assert (cancelled.status, cancelled.blocked) == ("cancelled", False)
            assert await hand.records(letter) == []
            assert [job.id for job in await hand.claim()] == [source.id]
            await hand.sound()
            assert await hand.queue.retry_job(letter.id)
            (letter,) = await hand.claim()
    assert (await hand.queue.require_job(letter.id)).status == "waiting" and await hand.claim() == []
    await hand.sound()
