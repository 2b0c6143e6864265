"""Workers: what runs, in which order, how often, and what becomes of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from support import Working, until

from dataqueue import (
    ConfigError,
    Hook,
    InvalidJob,
    JobCancelled,
    JobContext,
    JobFailed,
    JobNotFound,
    JobQueue,
    NewJob,
    ResultTimeout,
    SyncJobContext,
)

NOW = timedelta(0)


class Report(BaseModel):
    title: str
    pages: int


@dataclass
class Size:
    width: int


async def test_the_return_value_is_the_result(queue: JobQueue, working: Working) -> None:
    @queue.job
    async def report(payload: Size) -> Report:
        return Report(title="t", pages=payload.width)

    @queue.job
    def doubled(payload: int, ctx: SyncJobContext) -> int:
        return payload * 2 * ctx.attempt

    await working(queue)
    one = await report.add(Size(3))
    assert await one.result(timeout=20) == Report(title="t", pages=3)
    two = await doubled.add(21)
    assert await two.result(timeout=20) == 42
    job = await two.wait(timeout=20)
    assert job.status == "completed" and job.output == 42 and job.attempts == 1
    assert job.started_at is not None and job.completed_at is not None
    assert job.locked_by is None and job.locked_at is None and job.failure_reason is None
    events = [event.event_type for event in await queue.get_job_events(two.id)]
    assert events == ["added", "processing", "completed"]


async def test_a_plain_mapping_of_handlers(queue: JobQueue, working: Working) -> None:
    async def echo(payload: Any) -> Any:
        return payload

    class Adder:
        async def __call__(self, payload: list[int]) -> int:
            return sum(payload)

    await working(queue, {"echo": echo, "adder": Adder()})
    assert await (await queue.add_job("echo", {"a": [1, None]})).result(timeout=20) == {"a": [1, None]}
    assert await (await queue.add_job("adder", [1, 2, 3])).result(timeout=20) == 6


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}, [None]], ids=repr)
async def test_results_are_any_json_value(queue: JobQueue, working: Working, value: Any) -> None:
    async def give(payload: Any) -> Any:
        return payload

    await working(queue, {"give": give})
    assert await (await queue.add_job("give", value)).result(timeout=20) == value


async def test_a_result_that_is_not_json_fails_the_attempt(queue: JobQueue, working: Working) -> None:
    async def bad(payload: Any) -> Any:
        return {"when": time}

    await working(queue, {"bad": bad})
    job = await (await queue.add_job("bad", max_attempts=1)).wait(timeout=20)
    assert job.status == "failed" and "result" in (job.last_error or "")


async def test_highest_priority_first_then_longest_due_then_oldest(queue: JobQueue, working: Working) -> None:
    """D-SCHEDFIRST, R-PRIO: the one that was added first is due last of its priority."""
    order: list[Any] = []

    async def note(payload: Any) -> None:
        order.append(payload)

    backend = await queue.open()
    due = await backend.now() - timedelta(hours=1)
    await queue.add_job("note", "due later", run_at=due + timedelta(minutes=1))
    await queue.add_jobs(
        NewJob("note", n, {"priority": p, "run_at": due}) for n, p in enumerate([0, 5, 0, -3, 2**31 - 1, 5])
    )
    await working(queue, {"note": note}, concurrency=1, prefetch=0)
    await until(lambda: len(order) == 7)
    assert order == [4, 1, 5, 0, 2, "due later", 3]


async def test_a_batch_is_run_in_its_order(queue: JobQueue) -> None:
    """R-FIFO: jobs of the same millisecond run in the order of their ids."""
    order: list[int] = []

    async def note(payload: int) -> None:
        order.append(payload)

    await queue.add_jobs(NewJob("note", n) for n in range(300))
    processor = queue.create_processor({"note": note}, concurrency=1, batch_size=500)
    assert await processor.start() == 300
    assert order == list(range(300))


async def test_delayed_jobs_run_when_due_and_not_before(queue: JobQueue, working: Working) -> None:
    ran: list[float] = []

    async def note(payload: Any) -> None:
        ran.append(time.time())

    await working(queue, {"note": note}, poll_interval=timedelta(hours=1))
    handle = await queue.add_job("note", delay=timedelta(milliseconds=700))
    await handle.wait(timeout=20)
    job = await handle.refresh()
    assert job.started_at is not None and job.started_at >= job.run_at
    assert len(ran) == 1


async def test_only_types_with_a_handler_are_claimed(queue: JobQueue, working: Working) -> None:
    """D-NOHANDLER, R-STARVE: others are left alone, and in nobody's way."""

    async def mine(payload: Any) -> None: ...

    foreign = await queue.add_jobs(NewJob("foreign", n, {"priority": 9}) for n in range(50))
    own = await queue.add_job("mine")
    await working(queue, {"mine": mine}, concurrency=2, batch_size=2)
    await own.wait(timeout=20)
    job = await foreign[0].refresh()
    assert (job.status, job.attempts) == ("pending", 0)
    assert (await queue.stats()).unhandled_types == ["foreign"]


async def test_unknown_types_fail_where_that_is_asked_for(queue: JobQueue, working: Working) -> None:
    """D-WILLRETRY: as for other failures."""

    async def known(payload: Any) -> None: ...

    stray = await queue.add_job("stray", max_attempts=1)
    again = await queue.add_job("stray")
    told: list[Hook] = []
    queue.on("job:failed", told.append)
    await working(queue, {"known": known}, on_unknown_type="fail")
    job = await stray.wait(timeout=20)
    assert (job.status, job.failure_reason) == ("failed", "no_handler") and "known" in (job.last_error or "")
    assert (await until(lambda: _in_status(again, "failed"))).next_attempt_at is not None
    assert (await (await queue.add_job("known")).wait(timeout=20)).status == "completed"
    assert {(hook.job_id, hook.will_retry) for hook in told} == {(stray.id, False), (again.id, True)}
    with pytest.raises(ConfigError, match="on_unknown_type"):
        queue.create_processor({"known": known}, on_unknown_type="explode")  # type: ignore[typeddict-item]


async def test_job_types_narrows_the_handlers(queue: JobQueue, working: Working) -> None:
    async def any_(payload: Any) -> None: ...

    other = await queue.add_job("b")
    own = await queue.add_job("a")
    await working(queue, {"a": any_, "b": any_}, job_types=["a"])
    await own.wait(timeout=20)
    assert (await other.refresh()).status == "pending"


async def test_never_more_at_once_than_the_concurrency(queue: JobQueue, working: Working) -> None:
    running = most = 0

    async def count(payload: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1

    added = await queue.add_jobs(NewJob("count") for _ in range(200))
    await working(queue, {"count": count}, concurrency=7)
    await until(lambda: _all_done(queue, added.ids))
    assert most == 7


async def test_start_takes_one_batch_and_locks_no_more_than_it_runs(queue: JobQueue) -> None:
    """D-QUEUEDRECLAIM: nothing waits under a lock until it is taken away and run twice."""
    locked: list[int] = []

    async def look(payload: Any) -> None:
        locked.append(len(await queue.get_jobs(status="processing")))

    await queue.add_jobs(NewJob("look") for _ in range(12))
    processor = queue.create_processor({"look": look}, concurrency=3, batch_size=8)
    assert await processor.start() == 8
    assert max(locked) <= 3
    assert not processor.is_running()
    assert await processor.start() == 4
    assert await processor.start() == 0
    await queue.add_job("look")
    assert await processor.start() == 1, "as a serverless function does it: one object, call after call"
    assert await queue.list_workers() == []


async def test_a_worker_of_fifty_on_a_pool_of_four(make_queue: Callable[..., JobQueue], working: Working) -> None:
    """D-POOL: handlers, claims and outcomes share what there is."""
    queue = make_queue(max_connections=4)

    async def busy(payload: Any, ctx: JobContext) -> None:
        await ctx.set_progress(50)
        await queue.get_job(ctx.job_id)

    added = await queue.add_jobs(NewJob("busy") for _ in range(200))
    await working(queue, {"busy": busy}, concurrency=50)
    await until(lambda: _all_done(queue, added.ids))


async def test_two_workers_share_without_doing_anything_twice(
    make_queue: Callable[..., JobQueue], working: Working
) -> None:
    ran: list[int] = []

    async def note(payload: int) -> None:
        ran.append(payload)
        await asyncio.sleep(0)

    producer = make_queue()
    for _ in range(3):
        await working(make_queue(), {"note": note}, concurrency=5)
    added = await producer.add_jobs(NewJob("note", n) for n in range(600))
    await until(lambda: _all_done(producer, added.ids))
    assert sorted(ran) == list(range(600))


# -- failing -------------------------------------------------------------------------------------------


async def test_a_failure_is_tried_again_until_it_is_exhausted(queue: JobQueue, working: Working) -> None:
    """D-WILLRETRY: true, true, false."""
    hooks: list[Hook] = []
    queue.on("job:failed", hooks.append)

    async def bad(payload: Any) -> None:
        raise ValueError("boom")

    await working(queue, {"bad": bad})
    handle = await queue.add_job("bad", max_attempts=3, retry_delay=NOW)
    with pytest.raises(JobFailed, match="boom") as caught:
        await handle.result(timeout=20)
    assert caught.value.reason == "handler_error" and caught.value.attempts == 3
    job = await handle.refresh()
    assert (job.status, job.attempts, job.next_attempt_at) == ("failed", 3, None)
    assert [entry.message for entry in job.error_history] == ["boom"] * 3
    assert job.error_history[0].error_type == "ValueError"
    assert "test_working.py" in (job.error_history[0].frame or "")
    await until(lambda: len(hooks) == 3)
    assert [hook.will_retry for hook in hooks] == [True, True, False]
    events = [event.event_type for event in await queue.get_job_events(handle.id)]
    assert events == ["added", *["processing", "failed"] * 3]


async def test_a_retry_waits_for_its_time(queue: JobQueue, working: Working) -> None:
    async def bad(payload: Any) -> None:
        raise RuntimeError

    await working(queue, {"bad": bad})
    legacy = await queue.add_job("bad")
    fixed = await queue.add_job("bad", retry_delay=timedelta(seconds=40), retry_backoff=False)
    for handle, low, high in ((legacy, 120, 120), (fixed, 40, 40)):
        job = await until(lambda handle=handle: _in_status(handle, "failed"))
        assert not job.is_finished and job.last_error == "RuntimeError"
        assert low <= (job.next_attempt_at - job.last_failed_at).total_seconds() <= high


async def test_a_retry_does_not_wait_for_the_next_poll(queue: JobQueue, working: Working) -> None:
    async def flaky(payload: Any, ctx: JobContext) -> int:
        if ctx.attempt == 1:
            raise OSError("once")
        return ctx.attempt

    await working(queue, {"flaky": flaky}, poll_interval=timedelta(hours=1))
    await asyncio.sleep(1.6)  # past the looks that follow on a claim that came short
    handle = await queue.add_job("flaky", retry_delay=timedelta(seconds=1), retry_backoff=False)
    assert await handle.result(timeout=20) == 2


async def test_a_result_of_none_must_fit_too(queue: JobQueue, working: Working) -> None:
    async def number(payload: Any) -> int:
        return None  # type: ignore[return-value]

    async def maybe(payload: Any) -> int | None:
        return None

    await working(queue, {"number": number, "maybe": maybe})
    assert (await (await queue.add_job("number", max_attempts=1)).wait(timeout=20)).status == "failed"
    assert await (await queue.add_job("maybe")).result(timeout=20) is None


async def test_a_second_try_can_succeed_and_leaves_no_stale_fields(queue: JobQueue, working: Working) -> None:
    """D-STALEFIELDS."""

    async def flaky(payload: Any, ctx: JobContext) -> str:
        await ctx.set_progress(10 * ctx.attempt)
        if ctx.attempt == 1:
            await ctx.set_output("of the failed attempt")
            raise OSError("once")
        assert (await queue.require_job(ctx.job_id)).output is None
        return "done"

    await working(queue, {"flaky": flaky})
    handle = await queue.add_job("flaky", retry_delay=NOW)
    assert await handle.result(timeout=20) == "done"
    job = await handle.refresh()
    assert (job.attempts, job.progress, job.failure_reason, job.next_attempt_at) == (2, 20, None, None)
    assert [entry.message for entry in job.error_history] == ["once"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("nul \x00 and \ud800"),
        KeyError("k"),
        SystemExit(3),
        asyncio.CancelledError(),
        RuntimeError("x" * 50_000),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_handler_raises_fails_its_job_only(
    queue: JobQueue, working: Working, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "dataqueue.worker")  # pytest-xdist cannot pass a lone surrogate on

    async def bad(payload: Any) -> None:
        raise error

    def bad_sync(payload: Any) -> None:
        raise error

    async def good(payload: Any) -> int:
        return 1

    processor = await working(queue, {"bad": bad, "bad_sync": bad_sync, "good": good})
    for name in ("bad", "bad_sync"):
        job = await (await queue.add_job(name, max_attempts=1)).wait(timeout=20)
        assert (job.status, job.failure_reason) == ("failed", "handler_error")
        assert job.last_error and len(job.last_error) < 11_000
    assert await (await queue.add_job("good")).result(timeout=20) == 1
    assert processor.is_running()


async def test_a_payload_that_no_longer_fits_fails_before_the_handler_runs(
    make_queue: Callable[..., JobQueue], working: Working
) -> None:
    producer, worker = make_queue(), make_queue()
    ran: list[Size] = []

    @worker.job
    async def resize(payload: Size) -> None:
        ran.append(payload)

    handle = await producer.add_job("resize", {"width": "wide"}, max_attempts=1)
    await working(worker)
    job = await handle.wait(timeout=20)
    assert job.status == "failed" and "width" in (job.last_error or "") and ran == []


async def test_timeouts(queue: JobQueue, working: Working) -> None:
    noticed = threading.Event()

    async def slow(payload: Any) -> None:
        await asyncio.sleep(60)

    def slow_sync(payload: Any, ctx: SyncJobContext) -> None:
        if ctx.wait_aborted(60):
            noticed.set()

    await working(queue, {"slow": slow, "slow_sync": slow_sync})
    for name in ("slow", "slow_sync"):
        job = await (await queue.add_job(name, max_attempts=1, timeout=timedelta(milliseconds=80))).wait(timeout=20)
        assert (job.status, job.failure_reason) == ("failed", "timeout")
        assert "80 ms" in (job.last_error or "")
    assert noticed.wait(10)


async def test_a_handler_that_will_not_stop_is_left_behind(queue: JobQueue, working: Working) -> None:
    """D-ZOMBIESTEP: what it still writes does not reach the next attempt."""
    release = asyncio.Event()
    late: list[BaseException | None] = []

    async def stubborn(payload: Any, ctx: JobContext) -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        try:
            await ctx.set_progress(99)
        except BaseException as error:
            late.append(error)
        return "too late"

    await working(queue, {"stubborn": stubborn}, grace=timedelta(milliseconds=50))
    handle = await queue.add_job("stubborn", max_attempts=1, timeout=timedelta(milliseconds=50))
    job = await handle.wait(timeout=20)
    assert job.failure_reason == "timeout"
    release.set()
    await until(lambda: late)
    assert type(late[0]).__name__ == "LeaseLost"
    job = await handle.refresh()
    assert (job.status, job.output, job.progress) == ("failed", None, None)


# -- progress and output --------------------------------------------------------------------------------


async def test_progress_and_output_are_stored_as_they_come(queue: JobQueue, working: Working) -> None:
    seen: list[Any] = []
    go_on = asyncio.Event()
    hooks: list[Hook] = []
    queue.on("job:progress", hooks.append)
    queue.on("job:output", hooks.append)

    async def report(payload: Any, ctx: JobContext) -> Any:
        await ctx.set_progress(33.5)
        await ctx.set_output({"part": 1})
        seen.append(1)
        await go_on.wait()
        for wrong in (-1, 101, float("nan"), "10", True):
            with pytest.raises(InvalidJob):
                await ctx.set_progress(wrong)  # type: ignore[arg-type]
        return "ignored, since the output was set"

    await working(queue, {"report": report})
    handle = await queue.add_job("report")
    await until(lambda: seen)
    job = await handle.refresh()
    assert (job.progress, job.output, job.status) == (34, {"part": 1}, "processing")
    go_on.set()
    assert await handle.result(timeout=20) == {"part": 1}
    assert [(hook.name, hook.progress, hook.output) for hook in hooks] == [
        ("job:progress", 34, None),
        ("job:output", None, {"part": 1}),
    ]


async def test_progress_is_written_no_more_often_than_it_can_be_watched(queue: JobQueue, working: Working) -> None:
    hooks: list[int | None] = []
    queue.on("job:progress", lambda hook: hooks.append(hook.progress))

    async def report(payload: Any, ctx: JobContext) -> None:
        for row in range(10_000):
            await ctx.set_progress(row / 100)
        await ctx.set_progress(99)

    await working(queue, {"report": report})
    job = await (await queue.add_job("report")).wait(timeout=30)
    assert (job.status, job.progress) == ("completed", 99)  # the last one is stored before the end is
    assert hooks[0] == 0 and hooks[-1] == 99 and len(hooks) < 100
    assert hooks == sorted(hooks)


async def test_threads_can_set_progress_and_output(queue: JobQueue, working: Working) -> None:
    """D-MISSINGTAGS: a claimed job knows its tags."""

    def work(payload: Any, ctx: SyncJobContext) -> None:
        ctx.set_progress(100)
        ctx.set_output([ctx.job_id, ctx.job_type, ctx.max_attempts, list(ctx.tags)])

    await working(queue, {"work": work})
    handle = await queue.add_job("work", tags=["x"])
    assert await handle.result(timeout=20) == [handle.id, "work", 3, ["x"]]
    assert (await handle.refresh()).progress == 100


# -- waiting for results --------------------------------------------------------------------------------


async def test_waiting_has_an_end(queue: JobQueue) -> None:
    handle = await queue.add_job("nobody")
    with pytest.raises(ResultTimeout, match="goes on"):
        await handle.result(timeout=0.05)
    with pytest.raises(ResultTimeout):
        await handle.wait(timeout=timedelta(milliseconds=50))
    with pytest.raises(InvalidJob):
        await handle.wait(timeout=-1)
    with pytest.raises(JobNotFound):
        await queue.wait_for_job(99_999, timeout=20)
    waiting = asyncio.create_task(handle.result(timeout=20))
    await asyncio.sleep(0.05)
    await handle.cancel()
    with pytest.raises(JobCancelled):
        await waiting


async def test_many_wait_at_once(make_queue: Callable[..., JobQueue], working: Working) -> None:
    queue, worker = make_queue(), make_queue()

    async def echo(payload: int) -> int:
        return payload

    added = await queue.add_jobs(NewJob("echo", n) for n in range(100))
    waiting = asyncio.gather(*(handle.result(timeout=25) for handle in added))
    await working(worker, {"echo": echo})
    assert await waiting == list(range(100))


# -- hooks, options, life ------------------------------------------------------------------------------


async def test_hooks_tell_what_happened_and_harm_nothing(queue: JobQueue, working: Working) -> None:
    """D-LISTENERTHROW: the job stays added, and completed."""
    seen: list[str] = []

    async def listener(hook: Hook) -> None:
        seen.append(hook.name)

    def thrower(hook: Hook) -> None:
        raise RuntimeError("a listener's own problem")

    for name in ("job:added", "job:processing", "job:completed"):
        queue.on(name, thrower)  # type: ignore[arg-type]
        queue.on(name, listener)  # type: ignore[arg-type]
    queue.once("job:added", listener)

    async def good(payload: Any) -> int:
        return 7

    await working(queue, {"good": good})
    handle = await queue.add_job("good")
    assert await handle.result(timeout=20) == 7
    await until(lambda: len(seen) == 4)
    assert seen == ["job:added", "job:added", "job:processing", "job:completed"]
    queue.off("job:added", listener)
    queue.remove_all_listeners()
    await (await queue.add_job("good")).wait(timeout=20)
    assert len(seen) == 4
    with pytest.raises(ConfigError, match="no event"):
        queue.on("job:exploded", listener)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"concurrency": "10"},
        {"batch_size": 501},
        {"poll_interval": 5},
        {"lease": timedelta(0)},
        {"worker_id": ""},
        {"job_types": "t"},
        {"job_types": ["other"]},
        {"job_types": []},
        {"prefetch": -1},
        {"concurency": 5},
    ],
    ids=str,
)
async def test_bad_worker_options_are_refused(queue: JobQueue, options: dict[str, Any]) -> None:
    async def t(payload: Any) -> None: ...

    with pytest.raises((ConfigError, InvalidJob)):
        queue.create_processor({"t": t}, **options)


async def test_a_worker_without_handlers_is_refused(queue: JobQueue) -> None:
    with pytest.raises(ConfigError, match="no handlers"):
        queue.create_processor()


async def test_workers_are_known_to_the_store(
    queue: JobQueue, make_queue: Callable[..., JobQueue], working: Working
) -> None:
    async def t(payload: Any) -> None: ...

    first = await working(queue, {"t": t, "u": t}, worker_id="w", concurrency=3)
    await until(lambda: _workers(queue, 1))
    second = await working(make_queue(), {"t": t}, worker_id="w")
    rows = await until(lambda: _workers(queue, 2))
    assert rows[0].id == first.worker_id == "w" and rows[1].id == second.worker_id != "w"
    assert rows[0].job_types == ("t", "u") and rows[0].concurrency == 3 and rows[0].alive
    assert rows[0].pid > 0 and rows[0].host and rows[0].version
    await first.stop_and_drain()
    assert len(await queue.list_workers()) == 1


async def test_a_processor_runs_once_at_a_time_and_again_after_a_stop(queue: JobQueue, working: Working) -> None:
    async def echo(payload: int) -> int:
        return payload

    processor = await working(queue, {"echo": echo})
    processor.start_in_background()
    assert processor.is_running()
    with pytest.raises(ConfigError, match="runs already"):
        await processor.start()
    await processor.stop_and_drain()
    assert not processor.is_running()
    processor.start_in_background()
    assert await (await queue.add_job("echo", 5)).result(timeout=20) == 5


async def test_a_worker_that_is_full_or_idle_uses_no_processor_time(queue: JobQueue, working: Working) -> None:
    release = asyncio.Event()

    async def wait(payload: Any) -> None:
        await release.wait()

    await queue.add_jobs([NewJob("wait")] * 3)
    for expected in (2, 0):  # two run and one waits; then none is left
        if not expected:
            release.set()
        else:
            await working(queue, {"wait": wait}, concurrency=2)
        await until(lambda expected=expected: _running(queue, expected))
        used, passed = time.process_time(), time.monotonic()
        await asyncio.sleep(1)
        assert time.process_time() - used < 0.5 * (time.monotonic() - passed)


async def _running(queue: JobQueue, count: int) -> bool:
    jobs = await queue.get_jobs(status=["pending", "processing"])
    return [job.status for job in jobs].count("processing") == count and (count > 0 or not jobs)


async def _all_done(queue: JobQueue, ids: list[int]) -> bool:
    finished: dict[int, bool] = {}
    for start in range(0, len(ids), 1000):
        finished.update(await queue.backend.finished(ids[start : start + 1000]))
    return all(finished.values())


async def _in_status(handle: Any, status: str) -> Any:
    job = await handle.refresh()
    return job if job.status == status else None


async def _workers(queue: JobQueue, count: int) -> Any:
    rows = await queue.list_workers()
    return rows if len(rows) == count else None


async def test_a_job_is_followed_to_its_end(queue: JobQueue, working: Working) -> None:
    go_on = asyncio.Event()

    async def handler(payload: Any, ctx: JobContext) -> str:
        await ctx.set_progress(40)
        await go_on.wait()
        return "done"

    job = await queue.add_job("t")
    seen: list[tuple[str, int | None, Any]] = []
    async for update in job.updates(every=0.05):
        seen.append((update.status, update.progress, update.output))
        if len(seen) == 1:
            await working(queue, {"t": handler})
        if update.progress == 40:
            go_on.set()
    assert seen[0] == ("pending", None, None)
    assert ("processing", 40, None) in seen and seen[-1] == ("completed", 40, "done")
    assert len(seen) == len(set(seen))
    assert [update.status async for update in job.updates()] == ["completed"]
    with pytest.raises(InvalidJob, match="every"):
        await anext(job.updates(every=0))
