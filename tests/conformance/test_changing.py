"""Cancelling and retrying by hand, from every state."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from support import Working, until

from dataqueue import Hook, JobContext, JobNotFound, JobQueue, NewJob, SyncJobContext, SyncJobQueue
from dataqueue.backends.base import WorkerInfo

NOW = timedelta(0)


async def _nothing(payload: Any) -> None: ...


async def _bad(payload: Any) -> None:
    raise ValueError("bad")


async def _events(queue: JobQueue, job_id: int) -> list[str]:
    return [event.event_type for event in await queue.get_job_events(job_id)]


async def test_a_pending_job_is_cancelled_and_never_runs(queue: JobQueue, working: Working) -> None:
    hooks: list[Hook] = []
    queue.on("job:cancelled", hooks.append)
    handle = await queue.add_job("t")
    delayed = await queue.add_job("t", delay=timedelta(hours=1))
    assert await handle.cancel() and await delayed.cancel()
    assert not await handle.cancel()
    job = await handle.refresh()
    assert job.status == "cancelled" and job.last_cancelled_at is not None and job.is_finished
    assert await _events(queue, handle.id) == ["added", "cancelled"]
    assert [hook.job_id for hook in hooks] == [handle.id, delayed.id]
    await working(queue, {"t": _nothing})
    await (await queue.add_job("t")).wait(timeout=20)
    assert (await handle.refresh()).attempts == 0


async def test_a_failed_job_is_cancelled_while_a_retry_is_due(queue: JobQueue, working: Working) -> None:
    """D-CANCELRUN: its retry does not come."""
    await working(queue, {"bad": _bad})
    again = await queue.add_job("bad")
    dead = await queue.add_job("bad", max_attempts=1)
    await until(lambda: _status(again, "failed"))
    await dead.wait(timeout=20)
    assert await again.cancel()
    job = await again.refresh()
    assert (job.status, job.next_attempt_at) == ("cancelled", None)
    assert not await dead.cancel()
    assert (await dead.refresh()).status == "failed"


async def test_a_running_job_is_told_to_stop(queue: JobQueue, working: Working) -> None:
    """D-CANCELRUN: a running job can be cancelled."""
    began, stopped = asyncio.Event(), threading.Event()
    thread_began = threading.Event()

    async def long(payload: Any) -> None:
        began.set()
        await asyncio.sleep(60)

    def long_sync(payload: Any, ctx: SyncJobContext) -> str:
        thread_began.set()
        if ctx.wait_aborted(60) and ctx.aborted:
            stopped.set()
        return "stopped early"

    await working(queue, {"long": long, "long_sync": long_sync}, lease=timedelta(seconds=2))
    one, two = await queue.add_job("long"), await queue.add_job("long_sync")
    await began.wait()
    await until(thread_began.is_set)
    assert await one.cancel() and await two.cancel()
    for handle in (one, two):
        job = await handle.wait(timeout=20)
        assert (job.status, job.locked_by, job.cancel_requested_at, job.output) == ("cancelled", None, None, None)
        assert await _events(queue, handle.id) == ["added", "processing", "cancel_requested", "cancelled"]
    assert stopped.is_set()


async def test_a_handler_that_ends_before_the_cancel_reaches_it_has_ended(queue: JobQueue, working: Working) -> None:
    async def cancels_itself(payload: Any, ctx: JobContext) -> str:
        assert await queue.cancel_job(ctx.job_id)
        return "done"

    async def cancels_itself_and_fails(payload: Any, ctx: JobContext) -> None:
        assert await queue.cancel_job(ctx.job_id)
        raise ValueError("but was cancelled")

    await working(queue, {"a": cancels_itself, "b": cancels_itself_and_fails})
    done = await (await queue.add_job("a")).wait(timeout=20)
    assert done.status in ("completed", "cancelled")
    failed = await until(lambda handle=None: _finished(queue, "b"))
    assert failed.status == "cancelled", "no retry of a job whose cancel was asked for"


async def test_a_failure_after_a_cancel_was_asked_for_is_told_as_a_cancel(
    queue: JobQueue, store_url: str, working: Working
) -> None:
    """D-WILLRETRY: nobody is told of a retry that does not come."""
    hooks: list[Hook] = []
    for name in ("job:failed", "job:cancelled"):
        queue.on(name, hooks.append)  # type: ignore[arg-type]

    def cancel(job_id: int) -> bool:
        with SyncJobQueue.from_url(store_url) as another:
            return another.cancel_job(job_id)

    async def fails(payload: Any, ctx: JobContext) -> None:
        with ThreadPoolExecutor() as elsewhere:  # the loop stands still: the worker cannot hear of it
            assert elsewhere.submit(cancel, ctx.job_id).result()
        raise ValueError("and then it fails")

    await working(queue, {"t": fails}, lease=timedelta(seconds=60))
    handle = await queue.add_job("t")
    job = await handle.wait(timeout=30)
    assert (job.status, job.next_attempt_at) == ("cancelled", None)
    await until(lambda: hooks)
    assert [(hook.name, hook.job_id, hook.job_type, hook.will_retry) for hook in hooks] == [
        ("job:cancelled", handle.id, "t", None)
    ]
    assert await _events(queue, handle.id) == ["added", "processing", "cancel_requested", "cancelled"]


async def test_finished_and_unknown_jobs_cannot_be_cancelled(queue: JobQueue, working: Working) -> None:
    """D-FALSEEVENTS."""
    await working(queue, {"t": _nothing})
    handle = await queue.add_job("t")
    await handle.wait(timeout=20)
    assert not await handle.cancel()
    assert (await handle.refresh()).status == "completed"
    assert await _events(queue, handle.id) == ["added", "processing", "completed"]
    with pytest.raises(JobNotFound):
        await queue.cancel_job(4711)


async def test_an_exhausted_job_can_be_retried_by_hand(queue: JobQueue, working: Working) -> None:
    """D-RETRYEXH: it gets one more attempt."""
    hooks: list[Hook] = []
    queue.on("job:retried", hooks.append)
    fixed = False

    async def repaired(payload: Any) -> str:
        if not fixed:
            raise ValueError("broken")
        return "repaired"

    await working(queue, {"t": repaired})
    handle = await queue.add_job("t", max_attempts=1)
    assert (await handle.wait(timeout=20)).status == "failed"
    fixed = True
    assert await queue.retry_job(handle.id)
    assert await handle.result(timeout=20) == "repaired"
    job = await handle.refresh()
    assert (job.attempts, job.max_attempts, job.failure_reason) == (2, 2, None)
    assert [entry.message for entry in job.error_history] == ["broken"]
    assert job.last_retried_at is not None
    assert await _events(queue, handle.id) == ["added", "processing", "failed", "retried", "processing", "completed"]
    assert [hook.job_id for hook in hooks] == [handle.id]


async def test_a_retry_by_hand_runs_now(queue: JobQueue, working: Working) -> None:
    ran: list[Any] = []

    async def once(payload: Any, ctx: JobContext) -> None:
        ran.append(payload)
        if ctx.attempt == 1:
            raise ValueError("first")

    cancelled = await queue.add_job("t", "was for tomorrow", delay=timedelta(days=1))
    await cancelled.cancel()
    assert await queue.retry_job(cancelled.id)
    await working(queue, {"t": once})
    await until(lambda: ran == ["was for tomorrow"])
    waiting_for_its_retry = await until(lambda: _status(cancelled, "failed"))
    assert not waiting_for_its_retry.is_finished
    assert await queue.retry_job(cancelled.id)
    assert (await cancelled.wait(timeout=20)).status == "completed"


async def test_what_needs_no_retry_gets_none(queue: JobQueue, working: Working) -> None:
    """D-FALSEEVENTS."""
    pending = await queue.add_job("other")
    assert not await queue.retry_job(pending.id)
    await working(queue, {"t": _nothing})
    done = await queue.add_job("t")
    await done.wait(timeout=20)
    assert not await queue.retry_job(done.id)
    assert await _events(queue, done.id) == ["added", "processing", "completed"]
    assert await queue.retry_job(done.id, force=True)
    await until(lambda: _attempts(done, 2))
    assert (await done.wait(timeout=20)).status == "completed"
    with pytest.raises(JobNotFound):
        await queue.retry_job(4711)


async def test_cancels_raced_with_claims_end_in_one_state(queue: JobQueue, working: Working) -> None:
    ran: list[int] = []

    async def note(payload: int) -> None:
        ran.append(payload)

    added = await queue.add_jobs(NewJob("note", n) for n in range(200))
    await working(queue, {"note": note}, concurrency=4)
    cancelled = await asyncio.gather(*(handle.cancel() for handle in added))
    jobs = [await handle.wait(timeout=25) for handle in added]
    for job, _ in zip(jobs, cancelled, strict=True):
        assert job.status in ("completed", "cancelled")
        if job.status == "completed":
            assert job.payload in ran
        events = await _events(queue, job.id)
        assert events.count("completed") + events.count("cancelled") == 1


async def _status(handle: Any, status: str) -> Any:
    job = await handle.refresh()
    return job if job.status == status else None


async def _attempts(handle: Any, attempts: int) -> bool:
    job = await handle.refresh()
    return job.attempts == attempts and job.is_finished


async def _finished(queue: JobQueue, job_type: str) -> Any:
    page = await queue.get_jobs(job_type=job_type)
    if not page:
        await queue.add_job(job_type)
        return None
    return page[0] if page[0].is_finished else None


async def test_the_event_log_says_who_wanted_it(queue: JobQueue) -> None:
    job = await queue.add_job("t")
    await queue.cancel_job(job.id, by="ada")
    await queue.retry_job(job.id, by="mcp")
    await queue.backend.register_worker(WorkerInfo("w", "host", 1, ("t",), 1, "0", 60))
    assert len((await queue.backend.cycle("w", [], ["t"], 1, True)).jobs) == 1
    assert await queue.cancel_job(job.id, by="ada")
    assert await queue.cancel_job(job.id, by="bob")
    told = [(event.event_type, (event.metadata or {}).get("by")) for event in await queue.get_job_events(job.id)]
    assert told[1:3] == [("cancelled", "ada"), ("retried", "mcp")]
    assert told[4:] == [("cancel_requested", "ada")]
