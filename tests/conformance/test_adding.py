"""Adding jobs: what is stored, what is refused, what happens twice."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, TypedDict

import pytest
from pydantic import BaseModel, Field

from dataqueue import (
    ConfigError,
    InvalidJob,
    InvalidPayload,
    JobContext,
    JobQueue,
    NewJob,
    SyncJobContext,
    UnknownJobType,
)
from dataqueue.backends.base import Failed, WorkerInfo
from dataqueue.retry import RetryPolicy


class Mail(BaseModel):
    to: str = Field(min_length=3)
    on: date = date(2026, 1, 1)


@dataclass
class Point:
    x: int
    y: int = 0


class Row(TypedDict):
    name: str
    at: datetime


async def test_a_job_has_its_defaults(queue: JobQueue) -> None:
    handle = await queue.add_job("mail", {"to": "a"})
    job = await handle.refresh()
    assert handle.created
    assert (job.job_type, job.payload, job.status) == ("mail", {"to": "a"}, "pending")
    assert (job.priority, job.attempts, job.max_attempts) == (0, 0, 3)
    assert job.tags == () and job.timeout is None and job.idempotency_key is None
    assert job.retry == RetryPolicy() and job.output is None and job.progress is None
    assert job.run_at == job.created_at and job.run_at.tzinfo is not None
    assert [event.event_type for event in await queue.get_job_events(job.id)] == ["added"]


async def test_a_job_keeps_its_options(queue: JobQueue) -> None:
    when = datetime(2031, 5, 6, 7, 8, 9, 123000, tzinfo=UTC)
    handle = await queue.add_job(
        "mail",
        None,
        priority=-5,
        run_at=when,
        max_attempts=7,
        timeout=timedelta(seconds=1.5),
        tags=["b", "a", "b"],
        idempotency_key="null",
        retry_delay=timedelta(seconds=9),
        retry_backoff=False,
        retry_delay_max=timedelta(minutes=1),
    )
    job = await handle.refresh()
    assert (job.priority, job.run_at, job.max_attempts) == (-5, when, 7)
    assert job.timeout == timedelta(seconds=1.5)
    assert job.tags == ("b", "a") and job.idempotency_key == "null"
    assert job.retry == RetryPolicy(9, False, 60)


async def test_delay_counts_by_the_stores_clock(queue: JobQueue) -> None:
    job = await (await queue.add_job("mail", delay=timedelta(hours=1))).refresh()
    assert job.run_at - job.created_at == timedelta(hours=1)


@pytest.mark.parametrize("wrong", [timedelta(days=-1), timedelta(days=1)])
async def test_a_clock_that_is_wrong_decides_nothing(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, wrong: timedelta
) -> None:
    """R-CLOCK: neither when a job is due, nor who is lost, nor when anything was."""

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + wrong

    backend = await queue.open()
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() + wrong.total_seconds())
    for name, module in list(sys.modules.items()):
        if name.startswith("dataqueue.") and getattr(module, "datetime", None) is datetime:
            monkeypatch.setattr(module, "datetime", Wrong)
    soon, later = await queue.add_job("t"), await queue.add_job("t", delay=timedelta(hours=1))
    await backend.register_worker(WorkerInfo("w", "host", 1, ("t",), 10, "0", 600))
    (held,) = (await backend.cycle("w", [], ["t"], 10, True)).jobs
    assert held.id == soon.id and await backend.reclaim_expired(10) == []
    heart = backend.heart()
    await asyncio.to_thread(heart.beat, WorkerInfo("w", "host", 1, ("t",), 10, "0", 600), [(held.id, held.lease_id)])
    heart.close()
    assert await backend.reclaim_expired(10) == [] and (await queue.list_workers())[0].alive
    failure = Failed(held.id, held.lease_id, "m", "handler_error", 3_600_000)
    cycle = await backend.cycle("w", [failure], ["t"], 10, True)
    assert cycle.jobs == [] and cycle.next_due_ms is not None and 3_000_000 < cycle.next_due_ms <= 3_600_000
    now = await backend.now()
    failed, waits = await soon.refresh(), await later.refresh()
    events = await queue.get_job_events(soon.id)
    moments = [failed.created_at, failed.started_at, failed.last_failed_at, *(event.created_at for event in events)]
    assert all(moment and abs(moment - now) < timedelta(minutes=10) for moment in moments)
    for due in (failed.next_attempt_at, waits.run_at):
        assert due and abs(due - now - timedelta(hours=1)) < timedelta(minutes=10)


async def test_the_log_does_not_repeat_the_payload(queue: JobQueue) -> None:
    """D-EVENTVOLUME."""
    handles = [await queue.add_job("t", "x" * 1000), *await queue.add_jobs([NewJob("t", "x" * 1000)])]
    for handle in handles:
        assert "xxx" not in str(await queue.get_job_events(handle.id))


JSON_VALUES: list[Any] = [
    None,
    True,
    0,
    -7,
    1.5,
    "",
    "null",
    [],
    {},
    [[]],
    {"": ""},
    "äöü 🐍 \u2028",
    2**53 + 1,
    -(2**63),
    10**40,
    1234567890123456,
    0.1,
    1e22,
    5e-324,
    {"a": [1, {"b": None}], "c": []},
    ["x", 1, None, True, 2.5],
    "\\u0000 is text",
]


@pytest.mark.parametrize("value", JSON_VALUES, ids=repr)
async def test_any_json_value_comes_back_equal(queue: JobQueue, value: Any) -> None:
    """D-PAYLOADTYPES: lists, texts and null too."""
    alone = await (await queue.add_job("t", value)).refresh()
    together = await (await queue.add_jobs([NewJob("t", value), NewJob("t", value)]))[1].refresh()
    for job in (alone, together):
        assert job.payload == value
        assert type(job.payload) is type(value) or isinstance(value, float)


NOT_JSON: list[Any] = [
    float("nan"),
    float("inf"),
    -0.0,
    1e23,
    1.7e308,
    "a\x00b",
    "\ud800",
    {"k\x00": 1},
    {1: "int key"},
    {"when": datetime(2026, 1, 1, tzinfo=UTC)},
    {1, 2},
    b"bytes",
    object(),
    10**5000,
    [[["\udfff"]]],
]


@pytest.mark.parametrize("value", NOT_JSON, ids=lambda value: type(value).__name__)
async def test_what_is_not_json_is_refused(queue: JobQueue, value: Any) -> None:
    with pytest.raises(InvalidPayload, match="payload"):
        await queue.add_job("t", value)
    with pytest.raises(InvalidPayload, match=r"jobs\[1\]"):
        await queue.add_jobs([NewJob("t", 1), NewJob("t", value)])
    assert await queue.get_all_jobs() == []


async def test_nesting_has_a_limit(queue: JobQueue) -> None:
    value: Any = 1
    for _ in range(200):
        value = [value]
    await queue.add_job("t", value)
    with pytest.raises(InvalidPayload, match="200 levels"):
        await queue.add_job("t", [value])


BAD_OPTIONS: list[dict[str, Any]] = [
    {"priority": 2**31},
    {"priority": True},
    {"priority": 1.5},
    {"max_attempts": 0},
    {"max_attempts": -1},
    {"max_attempts": 10**6},
    {"delay": timedelta(seconds=-1)},
    {"delay": 5},
    {"run_at": datetime(2026, 1, 1)},  # noqa: DTZ001
    {"run_at": "tomorrow"},
    {"run_at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))},
    {"run_at": datetime(2026, 1, 1, tzinfo=UTC), "delay": timedelta(1)},
    {"timeout": timedelta(0)},
    {"timeout": timedelta(days=25)},
    {"timeout": 30},
    {"tags": "one"},
    {"tags": [""]},
    {"tags": [1]},
    {"tags": ["x" * 256]},
    {"tags": ["a\x00"]},
    {"tags": [str(n) for n in range(101)]},
    {"idempotency_key": ""},
    {"idempotency_key": "k" * 256},
    {"idempotency_key": "\ud800"},
    {"retry_delay": timedelta(seconds=-1)},
    {"retry_delay": timedelta(milliseconds=1500)},
    {"retry_backoff": "yes"},
    {"unknown": 1},
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
async def test_bad_options_are_refused(queue: JobQueue, options: dict[str, Any]) -> None:
    """D-VALIDATION: no job is stored that could never run."""
    with pytest.raises(InvalidJob):
        await queue.add_job("t", {}, **options)
    with pytest.raises(InvalidJob, match=r"jobs\[0\]"):
        await queue.add_jobs([{"job_type": "t", "payload": {}, **options}])
    assert await queue.get_all_jobs() == []


@pytest.mark.parametrize("name", ["", "x" * 256, "a\x00b", "\ud800", None, 5])
async def test_bad_job_types_are_refused(queue: JobQueue, name: Any) -> None:
    """D-VALIDATION."""
    with pytest.raises(InvalidJob, match="job_type"):
        await queue.add_job(name, {})


async def test_full_ranges_are_kept(queue: JobQueue) -> None:
    low = await (await queue.add_job("x" * 255, priority=-(2**31), tags=["é" * 255])).refresh()
    high = await (await queue.add_job("💡", priority=2**31 - 1, max_attempts=32_767)).refresh()
    assert (low.job_type, low.priority, low.tags) == ("x" * 255, -(2**31), ("é" * 255,))
    assert (high.job_type, high.priority, high.max_attempts) == ("💡", 2**31 - 1, 32_767)


# -- typed definitions ---------------------------------------------------------------------------------


async def test_typed_payloads_are_validated_when_added(queue: JobQueue) -> None:
    @queue.job
    async def mail(payload: Mail) -> None: ...

    @queue.job
    async def point(payload: Point) -> None: ...

    @queue.job
    async def row(payload: Row) -> None: ...

    assert (await (await mail.add(Mail(to="abc"))).refresh()).payload == {"to": "abc", "on": "2026-01-01"}
    assert (await (await point.add(Point(1))).refresh()).payload == {"x": 1, "y": 0}
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    stored = await (await row.add({"name": "n", "at": moment})).refresh()
    assert stored.payload == {"name": "n", "at": "2026-01-01T00:00:00Z"}
    assert (await (await queue.add_job("mail", {"to": "abcd"})).refresh()).payload["on"] == "2026-01-01"

    for job_type, payload in [
        ("mail", {"to": "ab"}),
        ("mail", {}),
        ("mail", 5),
        ("mail", Mail.model_construct(to=7)),
        ("point", {"x": "no"}),
        ("row", {"name": "n"}),
    ]:
        with pytest.raises(InvalidPayload):
            await queue.add_job(job_type, payload)
    with pytest.raises(UnknownJobType, match="mail, point, row"):
        await queue.add_job("mial", {})
    assert len(await queue.get_all_jobs()) == 4


async def test_an_invalid_payload_error_does_not_repeat_the_value(queue: JobQueue) -> None:
    @queue.job
    async def point(payload: Point) -> None: ...

    with pytest.raises(InvalidPayload) as caught:
        await queue.add_job("point", {"x": "s3cret"})
    assert "s3cret" not in str(caught.value) and "x" in str(caught.value)


async def test_a_definitions_defaults_give_way_to_the_calls_options(queue: JobQueue) -> None:
    @queue.job("named", priority=3, max_attempts=9, tags=["d"])
    async def handler(payload: int) -> None: ...

    plain = await (await handler.add(1)).refresh()
    own = await (await handler.add(2, priority=4, tags=["o"])).refresh()
    assert (plain.job_type, plain.priority, plain.max_attempts, plain.tags) == ("named", 3, 9, ("d",))
    assert (own.priority, own.max_attempts, own.tags) == (4, 9, ("o",))


async def test_definitions_are_checked_where_they_stand(queue: JobQueue) -> None:
    with pytest.raises(InvalidJob, match="priorty"):

        @queue.job(priorty=1)  # type: ignore[call-overload]
        async def typo(payload: int) -> None: ...

    with pytest.raises(ConfigError, match=r"\(payload\)"):

        @queue.job
        async def too_many(a: int, b: int, c: int) -> None: ...

    def method(self: Any, payload: int) -> None: ...
    def swapped(ctx: JobContext, payload: int) -> None: ...
    def wrong_kind(payload: int, ctx: JobContext) -> None: ...
    async def wrong_kind_too(payload: int, ctx: SyncJobContext) -> None: ...

    for function, told in [
        (method, "self"),
        (swapped, "payload comes first"),
        (wrong_kind, "SyncJobContext"),
        (wrong_kind_too, "is a JobContext"),
        (lambda payload: None, "no name"),
    ]:
        with pytest.raises(ConfigError, match=told):
            queue.job(function)  # type: ignore[arg-type]

    @queue.job
    async def once(payload: int) -> None: ...

    with pytest.raises(ConfigError, match="twice"):
        queue.job("once")(once.handler.function)


# -- many ----------------------------------------------------------------------------------------------


async def test_a_moment_of_any_offset(queue: JobQueue) -> None:
    """Postgres knows them up to 16 hours only."""
    when = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=23, minutes=59)))
    job = await queue.add_job("t", run_at=when)
    assert (await job.refresh()).run_at == when
    assert await job.edit(run_at=when + timedelta(hours=1)) and (await job.refresh()).run_at == when + timedelta(
        hours=1
    )
    assert [found.id for found in await queue.get_jobs(run_after=when)] == [job.id]


async def test_many_jobs_keep_their_order(queue: JobQueue) -> None:
    """D-ADDJOBSLIMIT: as many as one likes."""
    added = await queue.add_jobs(NewJob("t", n) for n in range(4_500))
    assert len(added) == 4_500 and all(handle.created for handle in added[:5])
    assert added.ids == sorted(added.ids)
    for index in (0, 999, 1000, 4499):
        assert (await added[index].refresh()).payload == index
    assert [event.event_type for event in await queue.get_job_events(added.ids[1500])] == ["added"]


async def test_no_jobs_are_no_jobs(queue: JobQueue) -> None:
    assert list(await queue.add_jobs([])) == []


async def test_many_jobs_keep_their_own_options(queue: JobQueue) -> None:
    when = datetime(2030, 1, 1, 12, 30, 15, 250000, tzinfo=UTC)
    added = await queue.add_jobs(
        [
            NewJob("a", {"n": 1}, {"priority": 2, "tags": ['x"y', "z"], "timeout": timedelta(minutes=1)}),
            {"job_type": "b", "payload": [1], "run_at": when, "idempotency_key": 'k"1', "max_attempts": 1},
            {"job_type": "c", "retry_delay": timedelta(seconds=3), "retry_backoff": True},
            {"job_type": 'q"uote', "delay": timedelta(minutes=5)},
        ]
    )
    a, b, c, d = [await handle.refresh() for handle in added]
    assert (a.priority, a.tags, a.timeout) == (2, ('x"y', "z"), timedelta(minutes=1))
    assert (b.payload, b.run_at, b.idempotency_key, b.max_attempts) == ([1], when, 'k"1', 1)
    assert c.payload is None and c.retry == RetryPolicy(3, True, None)
    assert d.job_type == 'q"uote' and d.run_at - d.created_at == timedelta(minutes=5)


async def test_one_bad_job_stores_none(queue: JobQueue) -> None:
    def jobs() -> Any:
        yield from (NewJob("t", n) for n in range(2_100))
        yield NewJob("t", float("nan"))

    with pytest.raises(InvalidPayload, match=r"jobs\[2100\]"):
        await queue.add_jobs(jobs())
    assert await queue.get_all_jobs() == []


async def test_forty_adds_at_once_need_no_forty_connections(make_queue: Callable[..., JobQueue]) -> None:
    """D-POOL: no call waits for a second connection while it holds one."""
    queue = make_queue(max_connections=4)
    handles = await asyncio.gather(*(queue.add_job("t", n) for n in range(40)))
    assert len({handle.id for handle in handles}) == 40


# -- idempotency ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["k", "null"])
async def test_a_key_is_taken_once(queue: JobQueue, key: str) -> None:
    """R-NULL: the text null is a key as any other."""
    first = await queue.add_job("t", 1, idempotency_key=key)
    again = await queue.add_job("other", 2, idempotency_key=key)
    assert first.created and not again.created and again.id == first.id
    assert (await first.refresh()).payload == 1
    assert len(await queue.get_job_events(first.id)) == 1


async def test_a_key_is_taken_once_among_many_callers(queue: JobQueue) -> None:
    handles = await asyncio.gather(*(queue.add_job("t", n, idempotency_key="k") for n in range(20)))
    assert len({handle.id for handle in handles}) == 1
    assert sum(handle.created for handle in handles) == 1


async def test_keys_within_one_bulk_add(queue: JobQueue) -> None:
    old = await queue.add_job("t", 0, idempotency_key="old")
    added = await queue.add_jobs(
        {"job_type": "t", "payload": n, "idempotency_key": key} for n, key in enumerate(["new", "old", "new", None])
    )
    assert [handle.created for handle in added] == [True, False, False, True]
    assert added[2].id == added[0].id and added[1].id == old.id
    assert len(await queue.get_all_jobs()) == 3
    for handle in added:
        assert len(await queue.get_job_events(handle.id)) == 1


async def test_the_added_hook_fires_only_for_what_was_added(queue: JobQueue) -> None:
    seen: list[int | None] = []
    queue.on("job:added", lambda hook: seen.append(hook.job_id))
    one = await queue.add_job("t", idempotency_key="k")
    await queue.add_job("t", idempotency_key="k")
    many = await queue.add_jobs([{"job_type": "t", "idempotency_key": "k"}, {"job_type": "t"}])
    assert seen == [one.id, many[1].id]
