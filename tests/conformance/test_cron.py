"""Schedules, on every store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support import Working, until

from dataqueue import (
    CatchUp,
    ConfigError,
    CronSchedule,
    InvalidJob,
    InvalidPayload,
    InvalidSchedule,
    JobQueue,
    ScheduleExists,
    ScheduleNotFound,
    SyncJobQueue,
    UnknownJobType,
)
from dataqueue.backends.base import Completed, Failed, WorkerInfo
from dataqueue.testing import advance_clock

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


async def make_due(queue: JobQueue, schedule: CronSchedule, ago: timedelta = timedelta(0)) -> CronSchedule:
    """As if its next run had come so long ago."""
    backend = await queue.open()
    now = (await backend.now()).replace(microsecond=0)
    changed = await backend.change_schedule(schedule.id, lambda stored, _: replace(stored, next_run_at=now - ago))
    assert changed is not None
    return changed


async def claim(queue: JobQueue, *types: str) -> list[Any]:
    await queue.backend.register_worker(WorkerInfo("w", "host", 1, types, 10, "0", 60))
    return (await queue.backend.cycle("w", [], types, 10, True)).jobs


# -- the family -------------------------------------------------------------------------------------------


async def test_a_schedule_is_what_was_given(queue: JobQueue) -> None:
    added = await queue.add_cron_job(
        "report", "0 9 * * 1-5", "send", {"to": ["a", 1.5, None, {}]}, timezone="Europe/Oslo", allow_overlap=True,
        missed=CatchUp(5), priority=7, max_attempts=2, timeout=timedelta(minutes=1), tags=["x", "y"], dead_letter="dead",
        retry_delay=timedelta(seconds=5), retry_backoff=False, group="g",
    )  # fmt: skip
    assert added.id > 0 and added.status == "active"
    assert (added.name, added.expression, added.timezone, added.job_type) == (
        "report",
        "0 9 * * 1-5",
        "Europe/Oslo",
        "send",
    )
    assert added.payload == {"to": ["a", 1.5, None, {}]} and added.allow_overlap and added.missed == CatchUp(5)
    assert (added.priority, added.max_attempts, added.timeout) == (7, 2, timedelta(minutes=1))
    assert (added.tags, added.dead_letter, added.group) == (("x", "y"), "dead", "g")
    assert (added.retry.delay, added.retry.backoff, added.retry.delay_max) == (5, False, None)
    assert added.description == "At 09:00, Monday through Friday"
    assert added.next_run_at is not None and added.next_run_at > added.created_at
    assert len(added.next_fires()) == 3 and added.next_fires()[0] == added.next_run_at
    assert (added.last_enqueued_at, added.last_job_id, added.last_skipped_at, added.problem) == (None, None, None, None)
    assert await queue.get_cron_job(added.id) == added == await queue.get_cron_job_by_name("report")
    other = await queue.add_cron_job("other", "@daily", "send")
    assert [schedule.name for schedule in await queue.list_cron_jobs()] == ["report", "other"]
    await queue.pause_cron_job("other")
    assert [schedule.id for schedule in await queue.list_cron_jobs("paused")] == [other.id]
    assert [schedule.id for schedule in await queue.list_cron_jobs("active")] == [added.id]
    await queue.remove_cron_job("report")
    assert await queue.get_cron_job_by_name("report") is None
    assert [schedule.name for schedule in await queue.list_cron_jobs()] == ["other"]
    await queue.add_cron_job("report", "@daily", "send")  # the name is free again


async def test_a_name_is_taken_once_however_many_ask(make_queue: Callable[..., JobQueue]) -> None:
    queues = [make_queue() for _ in range(4)]
    results = await asyncio.gather(
        *(queue.add_cron_job("same", "@daily", "t") for queue in queues for _ in range(3)), return_exceptions=True
    )
    assert sum(isinstance(result, CronSchedule) for result in results) == 1
    assert all(isinstance(result, CronSchedule | ScheduleExists) for result in results)
    assert len(await queues[0].list_cron_jobs()) == 1


async def test_unknown_schedules_are_errors_and_leave_nothing_behind(queue: JobQueue) -> None:
    """D-CRONEDITGHOST."""
    for which in (1, 4711, 2**70, 0, "nobody"):
        for operation in (queue.pause_cron_job, queue.resume_cron_job, queue.remove_cron_job, queue.edit_cron_job):
            with pytest.raises(ScheduleNotFound):
                await operation(which)  # type: ignore[arg-type]
    with pytest.raises(ScheduleNotFound):
        await queue.get_cron_job(5)
    assert await queue.list_cron_jobs() == []
    assert await queue.enqueue_due_cron_jobs() == []


async def test_what_is_wrong_is_refused_at_the_call(queue: JobQueue) -> None:
    """D-CRONTZ."""
    with pytest.raises(InvalidSchedule, match="not a cron expression"):
        await queue.add_cron_job("a", "61 * * * *", "t")
    with pytest.raises(InvalidSchedule, match="no time zone 'Mars/Olympus'"):
        await queue.add_cron_job("a", "@daily", "t", timezone="Mars/Olympus")
    wrong: list[dict[str, Any]] = [
        {"missed": "maybe"}, {"missed": CatchUp(3)}, {"allow_overlap": 1}, {"priority": "x"}, {"unique": True},
        {"run_at": datetime.now(UTC)}, {"tags": "x"}, {"max_attempts": 0},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(InvalidJob):
            await queue.add_cron_job("a", "@daily", "t", **options)
    for name in ("", "x" * 256, "a\x00b", None):
        with pytest.raises(InvalidJob):
            await queue.add_cron_job(name, "@daily", "t")  # type: ignore[arg-type]
    with pytest.raises(InvalidJob):
        CatchUp(0)
    with pytest.raises(InvalidPayload):
        await queue.add_cron_job("a", "@daily", "t", object())
    schedule = await queue.add_cron_job("a", "@daily", "t")
    with pytest.raises(InvalidSchedule, match="name cannot be changed"):
        await queue.edit_cron_job("a", name="b")  # type: ignore[call-arg]
    for changes in ({"expression": "x"}, {"timezone": "x"}, {"missed": CatchUp(2)}, {"payload": object()}):
        with pytest.raises(InvalidJob):
            await queue.edit_cron_job("a", **changes)  # type: ignore[arg-type]
    assert await queue.list_cron_jobs() == [schedule]


async def test_payloads_are_checked_by_the_definition_whose_options_are_taken_over(queue: JobQueue) -> None:
    @dataclass
    class Mail:
        to: str

    async def send(payload: Any) -> None: ...

    send.__annotations__["payload"] = Mail
    definition = queue.job(max_attempts=9, tags=["mail"])(send)
    with pytest.raises(InvalidPayload):
        await queue.add_cron_job("a", "@daily", definition, {"to": 5})
    with pytest.raises(UnknownJobType):
        await queue.add_cron_job("a", "@daily", "sned", {"to": "x"})
    schedule = await queue.add_cron_job("a", "@daily", definition, Mail("x"), tags=["other"])
    assert (schedule.payload, schedule.max_attempts, schedule.tags) == ({"to": "x"}, 9, ("other",))
    with pytest.raises(InvalidPayload):
        await queue.edit_cron_job("a", payload={"to": None})


async def test_an_edit_changes_what_is_given(queue: JobQueue) -> None:
    schedule = await queue.add_cron_job("a", "@daily", "t", 1, priority=3, retry_delay=timedelta(seconds=9), tags=["x"])
    edited = await queue.edit_cron_job(schedule.id, payload=[2], tags=None, retry_backoff=True, group="g")
    assert (edited.payload, edited.tags, edited.priority, edited.group) == ([2], (), 3, "g")
    assert (edited.retry.delay, edited.retry.backoff) == (9, True)
    assert edited.next_run_at == schedule.next_run_at
    moved = await queue.edit_cron_job("a", expression="0 0 1 1 *", timezone="Asia/Tokyo")
    assert moved.next_run_at is not None and (moved.next_run_at.hour, moved.next_run_at.day) == (15, 31)
    never = await queue.edit_cron_job("a", expression="0 0 30 2 *")
    assert never.next_run_at is None and never.next_fires() == []
    assert (await queue.get_cron_job(schedule.id)).next_run_at is None
    assert (await queue.edit_cron_job("a", expression="@hourly")).next_run_at is not None


async def test_many_edits_at_once_are_all_kept(make_queue: Callable[..., JobQueue]) -> None:
    queues = [make_queue() for _ in range(3)]
    await queues[0].add_cron_job("a", "@daily", "t")
    changes: list[dict[str, Any]] = [
        {"priority": 5},
        {"group": "g"},
        {"tags": ["x"]},
        {"payload": 1},
        {"max_attempts": 7},
    ]
    await asyncio.gather(*(queues[n % 3].edit_cron_job("a", **change) for n, change in enumerate(changes)))
    found = await queues[0].get_cron_job_by_name("a")
    assert found is not None
    assert (found.priority, found.group, found.tags, found.payload, found.max_attempts) == (5, "g", ("x",), 1, 7)


# -- fires ------------------------------------------------------------------------------------------------


async def test_a_fire_adds_its_job_and_advances_the_schedule(queue: JobQueue) -> None:
    schedule = await queue.add_cron_job(
        "report", "@hourly", "send", {"a": 1}, priority=7, max_attempts=2, timeout=timedelta(minutes=1), tags=["x", "y"],
        dead_letter="dead", retry_delay=timedelta(seconds=5), group="g",
    )  # fmt: skip
    assert await queue.enqueue_due_cron_jobs() == []
    due = await make_due(queue, schedule)
    (handle,) = await queue.enqueue_due_cron_jobs()
    job = await queue.require_job(handle.id)
    assert (job.job_type, job.payload, job.status, job.priority, job.max_attempts) == (
        "send",
        {"a": 1},
        "pending",
        7,
        2,
    )
    assert (job.timeout, job.tags, job.group, job.dead_letter) == (timedelta(minutes=1), ("x", "y"), "g", "dead")
    assert job.retry.delay == 5
    assert [found.id for found in (await queue.get_jobs_by_tags(["y"]))] == [job.id]
    (event,) = await queue.get_job_events(job.id)
    assert due.next_run_at is not None
    assert event.event_type == "added" and event.metadata == {
        "jobType": "send", "schedule": "report", "scheduledFor": due.next_run_at.isoformat(),
    }  # fmt: skip
    after = await queue.get_cron_job(schedule.id)
    assert after.last_job_id == job.id and after.last_enqueued_at is not None and after.last_skipped_at is None
    assert after.next_run_at is not None and after.next_run_at > due.next_run_at
    assert await queue.enqueue_due_cron_jobs() == []
    assert (await queue.explain_job(job.id)).schedule == "report"
    assert (await queue.explain_job((await queue.add_job("send")).id)).schedule is None
    assert (await claim(queue, "send"))[0].id == job.id
    assert [finding for finding in await queue.doctor(deep=True) if finding.level == "error"] == []


async def test_each_fire_adds_one_job_however_many_ask(make_queue: Callable[..., JobQueue]) -> None:
    """D-CRONDUP."""
    queues = [make_queue() for _ in range(4)]
    schedules = [await queues[0].add_cron_job(f"s{n}", "@hourly", "t", n, allow_overlap=True) for n in range(5)]
    for round_ in range(1, 4):
        for schedule in schedules:
            await make_due(queues[0], schedule)
        await asyncio.gather(*(queue.enqueue_due_cron_jobs() for queue in queues for _ in range(2)))
        jobs = await queues[0].get_jobs()
        assert sorted(job.payload for job in jobs) == sorted(list(range(5)) * round_)


async def test_no_overlap_while_the_last_job_is_unfinished(queue: JobQueue) -> None:
    """D-CRONOVERLAPRETRY."""
    schedule = await queue.add_cron_job("a", "@hourly", "t")

    async def fire() -> list[int]:
        await make_due(queue, schedule)
        return [handle.id for handle in await queue.enqueue_due_cron_jobs()]

    (first,) = await fire()
    before = await queue.get_cron_job(schedule.id)
    assert await fire() == []  # pending
    skipped = await queue.get_cron_job(schedule.id)
    assert (skipped.last_skip_reason, skipped.last_job_id) == ("overlap", first)
    assert skipped.last_enqueued_at == before.last_enqueued_at and skipped.last_skipped_at is not None
    assert skipped.next_run_at is not None and skipped.next_run_at > skipped.last_skipped_at
    (job,) = await claim(queue, "t")
    assert await fire() == []  # processing
    await queue.backend.cycle("w", [Failed(job.id, job.lease_id, "no", "handler_error", 3_600_000)], [], 0, False)
    assert await fire() == []  # failed, with a retry due
    await queue.retry_job(first)
    (job,) = await claim(queue, "t")
    await queue.backend.cycle("w", [Completed(job.id, job.lease_id)], [], 0, False)
    (second,) = await fire()
    await queue.cancel_job(second)
    (third,) = await fire()
    (job,) = await claim(queue, "t")
    await queue.backend.cycle("w", [Failed(job.id, job.lease_id, "no", "handler_error", None)], [], 0, False)
    assert third not in await fire()
    await queue.edit_cron_job("a", allow_overlap=True)
    assert len(await fire()) == 1
    await queue.cancel_all_upcoming_jobs()
    await queue.edit_cron_job("a", allow_overlap=False)
    await queue.cleanup_old_jobs(timedelta(0), status=["completed", "failed", "cancelled"])
    assert len(await fire()) == 1  # the last job is gone


@pytest.mark.parametrize(("missed", "jobs"), [("skip", 0), ("run_once", 1), (CatchUp(3), 3), (CatchUp(100), 6)])
async def test_missed_fires(queue: JobQueue, missed: Any, jobs: int) -> None:
    schedule = await queue.add_cron_job("a", "*/10 * * * * *", "t", missed=missed, allow_overlap=True)
    now = await queue.backend.now()
    # Due since then, of which six fires; the latest was 65 s to 75 s ago if it is to be missed.
    await queue.edit_cron_job("a", expression="0 0 * * * *")
    since = (now - 5.5 * HOUR).replace(minute=0, second=0, microsecond=0) + HOUR
    first = since - HOUR if now - since < 5 * HOUR else since
    await queue.backend.change_schedule(schedule.id, lambda stored, _: replace(stored, next_run_at=first))
    count = len([n for n in range(20) if first + n * HOUR <= now])
    expected = {0: 0, 1: 1, 3: 3, 6: count}[jobs]
    latest = first + (count - 1) * HOUR
    if missed == "skip" and now - latest < timedelta(minutes=2):
        expected = 1  # at the full hour the latest is not missed
    added = await queue.enqueue_due_cron_jobs()
    assert len(added) == expected
    after = await queue.get_cron_job(schedule.id)
    assert after.next_run_at is not None and after.next_run_at > now
    if expected == 0:
        assert (after.last_skip_reason, after.last_job_id) == ("missed", None)
    else:
        assert after.last_job_id == added[-1].id
        (event,) = await queue.get_job_events(added[-1].id)
        assert event.metadata is not None and event.metadata["scheduledFor"] == latest.isoformat()


async def test_a_resumed_schedule_waits_for_its_next_fire(queue: JobQueue) -> None:
    """D-CRONRESUME."""
    schedule = await queue.add_cron_job("a", "0 0 1 1 *", "t")
    assert await queue.pause_cron_job("a") is True
    assert await queue.pause_cron_job("a") is False
    await make_due(queue, schedule, ago=DAY)
    assert await queue.enqueue_due_cron_jobs() == []  # paused
    assert await queue.resume_cron_job("a") is True
    assert await queue.resume_cron_job(schedule.id) is False
    assert await queue.enqueue_due_cron_jobs() == []
    resumed = await queue.get_cron_job(schedule.id)
    assert (resumed.status, resumed.next_run_at) == ("active", schedule.next_run_at)


async def test_one_bad_schedule_harms_no_other(queue: JobQueue, caplog: pytest.LogCaptureFixture) -> None:
    """D-CRONTZ: what another program has stored: an expression, or a time zone, that cannot be read here."""
    names = ("first", "zone", "second", "expression", "third")
    for n, name in enumerate(names):
        schedule = await queue.add_cron_job(name, "@hourly", "t", name)
        await make_due(queue, schedule, timedelta(minutes=10 - n))
    zone, expression = await queue.get_cron_job_by_name("zone"), await queue.get_cron_job_by_name("expression")
    assert zone is not None and expression is not None
    await queue.backend.change_schedule(zone.id, lambda stored, _: replace(stored, timezone="Mars/Olympus"))
    await queue.backend.change_schedule(expression.id, lambda stored, _: replace(stored, expression="@fortnightly"))
    with caplog.at_level(logging.ERROR):
        added = await queue.enqueue_due_cron_jobs()
        again = await queue.enqueue_due_cron_jobs()
    assert [(await handle.refresh()).payload for handle in added] == ["first", "second", "third"] and again == []
    zone, expression = await queue.get_cron_job(zone.id), await queue.get_cron_job(expression.id)
    assert zone.problem is not None and "Mars/Olympus" in zone.problem
    assert expression.problem is not None and "@fortnightly" in expression.problem
    assert expression.description == "@fortnightly" and "'zone' cannot fire" in caplog.text
    mended = await queue.edit_cron_job("zone", timezone="Europe/Oslo")
    assert mended.problem is None and mended.next_run_at is not None and mended.next_run_at > mended.created_at
    await make_due(queue, mended)
    assert len(await queue.enqueue_due_cron_jobs()) == 1


async def test_hooks_tell_of_jobs_that_schedules_add(queue: JobQueue) -> None:
    told: list[Any] = []
    queue.on("job:added", told.append)
    await make_due(queue, await queue.add_cron_job("a", "@hourly", "t"))
    (handle,) = await queue.enqueue_due_cron_jobs()
    assert [(hook.job_id, hook.job_type) for hook in told] == [(handle.id, "t")]


# -- workers ----------------------------------------------------------------------------------------------


async def test_a_worker_fires_on_time_every_second(queue: JobQueue, working: Working) -> None:
    seen: list[int] = []
    queue.job("t")(lambda payload: seen.append(payload))
    await working(queue)
    await queue.add_cron_job("a", "* * * * * *", "t", 1, allow_overlap=True)
    await until(lambda: len(seen) >= 3, "three fires")
    jobs = await queue.get_jobs(job_type="t")
    moments: list[datetime] = []
    for job in jobs:
        event = (await queue.get_job_events(job.id))[0]
        assert event.metadata is not None
        moments.append(datetime.fromisoformat(event.metadata["scheduledFor"]))
    assert len(set(moments)) == len(moments)
    await queue.pause_cron_job("a")


async def test_a_single_batch_fires_first(queue: JobQueue) -> None:
    seen: list[Any] = []
    queue.job("t")(lambda payload: seen.append(payload))
    await make_due(queue, await queue.add_cron_job("a", "@hourly", "t", 5))
    assert await queue.create_processor().start() == 1
    assert seen == [5]


async def test_declared_schedules_are_stored_when_a_worker_starts(
    make_queue: Callable[..., JobQueue], working: Working, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_queue()

    @first.cron("0 9 * * *", timezone="Europe/Oslo", priority=4)
    async def nightly() -> str:
        """Does it."""
        return "done"

    @first.cron("@hourly", name="often", payload=2)
    @first.cron("@weekly", name="seldom", payload=1)
    @first.job(max_attempts=7)
    def work(payload: int) -> None: ...

    with pytest.raises(ConfigError, match="declared twice"):
        first.cron("@daily")(nightly)
    with pytest.raises(InvalidSchedule):
        first.cron("x", name="x", payload=1)(work)
    with pytest.raises(InvalidPayload):
        first.cron("@daily", name="x")(work)
    await asyncio.gather(*(working(first) for _ in range(3)))
    await until(lambda: _names(first, {"nightly", "often", "seldom"}), "the declarations")
    stored = {schedule.name: schedule for schedule in await first.list_cron_jobs()}
    assert (stored["nightly"].job_type, stored["nightly"].timezone, stored["nightly"].priority) == (
        "nightly",
        "Europe/Oslo",
        4,
    )
    assert (stored["often"].payload, stored["often"].max_attempts, stored["often"].job_type) == (2, 7, "work")
    assert stored["nightly"].declared_at is not None
    await make_due(first, stored["nightly"])
    (handle,) = await until(lambda: first.get_jobs(job_type="nightly"), "the fire")
    await first.wait_for_job(handle.id, timeout=30)
    await first.pause_cron_job("often")

    second = make_queue()  # a deploy: one is otherwise, one is gone

    async def nightly2(payload: Any) -> None: ...

    second.cron("30 9 * * *", timezone="Europe/Oslo", name="nightly")(second.job("nightly")(nightly2))
    second.cron("@hourly", name="often", payload=3)(second.job("work")(lambda payload: None))
    with caplog.at_level(logging.WARNING):
        await second.sync_declarations()
    stored = {schedule.name: schedule for schedule in await second.list_cron_jobs()}
    assert stored["nightly"].expression == "30 9 * * *" and stored["nightly"].priority == 0
    assert stored["nightly"].next_run_at is not None and stored["nightly"].next_run_at.minute == 30
    assert stored["nightly"].last_job_id == handle.id
    assert (stored["often"].status, stored["often"].payload) == ("paused", 3)
    assert stored["seldom"].status == "active" and "'seldom' was declared once" in caplog.text
    before = stored["nightly"].next_run_at
    await second.sync_declarations()
    again = await second.get_cron_job_by_name("nightly")
    assert again is not None and again.next_run_at == before


async def _names(queue: JobQueue, names: set[str]) -> bool:
    return {schedule.name for schedule in await queue.list_cron_jobs()} == names


async def test_the_clock_of_tests_moves_schedules_too(queue: JobQueue) -> None:
    schedule = await queue.add_cron_job("a", "0 0 * * *", "t")
    await advance_clock(queue, DAY)
    (handle,) = await queue.enqueue_due_cron_jobs()
    assert handle.id > 0
    after = await queue.get_cron_job(schedule.id)
    assert after.created_at < schedule.created_at and after.last_job_id == handle.id


def test_the_blocking_queue_has_the_same(store_url: str) -> None:
    with SyncJobQueue.from_url(store_url) as queue:

        @queue.cron("@daily", name="declared", payload=1)
        @queue.job
        def work(payload: int) -> None: ...

        @queue.cron("@hourly")
        def bare() -> None: ...

        assert set(queue.queue.declarations) == {"declared", "bare"}
        added = queue.add_cron_job("a", "@daily", work, 5)
        assert queue.get_cron_job(added.id) == queue.get_cron_job_by_name("a") == added
        assert queue.pause_cron_job("a") and queue.resume_cron_job("a")
        assert queue.edit_cron_job("a", priority=2).priority == 2
        assert [schedule.name for schedule in queue.list_cron_jobs()] == ["a"]
        assert queue.enqueue_due_cron_jobs() == []
        queue.remove_cron_job(added.id)
        assert queue.list_cron_jobs() == []
