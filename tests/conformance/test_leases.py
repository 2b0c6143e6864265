"""Who owns a job: leases, fences, rescue, drains. Here within one process; with real kills in tests/chaos."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from support import Working, take_away, until

from dataqueue import Hook, JobContext, JobQueue, LeaseLost, NewJob, SyncJobContext
from dataqueue.backends.base import Cancelled, Claimed, Completed, Failed, Outcome, Released, WorkerInfo
from dataqueue.retry import RetryPolicy, next_delay


def _worker(name: str, lease: float = 60.0) -> WorkerInfo:
    return WorkerInfo(name, "host", 1, ("t",), 10, "0", lease)


async def _claim(queue: JobQueue, worker: str, limit: int = 10, lease: float = 60.0) -> list[Claimed]:
    backend = await queue.open()
    await backend.register_worker(_worker(worker, lease))
    return (await backend.cycle(worker, [], ["t"], limit, True)).jobs


async def test_every_claim_has_a_lease_of_its_own(queue: JobQueue) -> None:
    backend = await queue.open()
    await queue.add_jobs(NewJob("t", n) for n in range(3))
    seen: set[int] = set()
    for _ in range(3):
        jobs = await _claim(queue, "w")
        assert [job.attempts for job in jobs] == [1, 1, 1]
        assert [job.payload for job in jobs] == ["0", "1", "2"]
        assert not seen & {job.lease_id for job in jobs}
        seen |= {job.lease_id for job in jobs}
        released: list[Outcome] = [Released(job.id, job.lease_id) for job in jobs]
        assert (await backend.cycle("w", released, [], 0, False)).lost == []
    job = await queue.require_job(jobs[0].id)
    assert (job.status, job.attempts, job.locked_by) == ("pending", 0, None)


async def test_a_lost_lease_changes_nothing(queue: JobQueue) -> None:
    """D-FENCE1, D-FENCE2: the late end of a lost attempt, and its other writes."""
    backend = await queue.open()
    handle = await queue.add_job("t", max_attempts=5)
    (old,) = await _claim(queue, "old", lease=0.0)
    assert [item.id for item in await backend.reclaim_expired(10)] == [handle.id]
    (new,) = await _claim(queue, "new")
    assert new.id == old.id and new.lease_id != old.lease_id and new.attempts == 2
    before, events = await handle.refresh(), await queue.get_job_events(handle.id)
    late: list[Outcome] = [
        Completed(old.id, old.lease_id, '"late"'),
        Failed(old.id, old.lease_id, "late", "handler_error", 0),
        Cancelled(old.id, old.lease_id),
        Released(old.id, old.lease_id),
    ]
    for outcome in late:
        cycle = await backend.cycle("old", [outcome], [], 0, False)
        assert cycle.lost == [(old.id, old.lease_id)]
    assert not await backend.set_progress(old.id, old.lease_id, 99)
    assert not await backend.set_output(old.id, old.lease_id, '"late"')
    assert await handle.refresh() == before and await queue.get_job_events(handle.id) == events
    done = await backend.cycle("new", [Completed(new.id, new.lease_id, "1")], [], 0, False)
    assert done.lost == [] and (await handle.refresh()).output == 1
    again = await backend.cycle("new", [Failed(new.id, new.lease_id, "twice", "handler_error", None)], [], 0, False)
    assert again.lost == [(new.id, new.lease_id)] and (await handle.refresh()).status == "completed"


async def test_what_is_finished_stays_as_it_is(queue: JobQueue) -> None:
    """D-FENCE3: a cancelled or completed job is not completed, failed or run once more by its own worker."""
    backend = await queue.open()
    handles = await queue.add_jobs(NewJob("t", n) for n in range(2))
    cancelled, completed = await _claim(queue, "w")
    await handles[0].cancel()
    first: list[Outcome] = [Cancelled(cancelled.id, cancelled.lease_id), Completed(completed.id, completed.lease_id)]
    assert (await backend.cycle("w", first, [], 0, False)).lost == []
    before = [await handle.refresh() for handle in handles]
    assert [job.status for job in before] == ["cancelled", "completed"]
    for job in (cancelled, completed):
        late: list[Outcome] = [
            Completed(job.id, job.lease_id, '"late"'),
            Failed(job.id, job.lease_id, "late", "handler_error", 0),
            Cancelled(job.id, job.lease_id),
            Released(job.id, job.lease_id),
        ]
        cycle = await backend.cycle("w", late, ["t"], 10, True)
        assert cycle.lost == [(job.id, job.lease_id)] * 4 and cycle.jobs == []
    assert [await handle.refresh() for handle in handles] == before
    for status in ("cancelled", "completed"):
        assert len(await queue.get_jobs(status=status)) == 1, "it is in one set only"


async def test_mixed_outcomes_in_one_call(queue: JobQueue) -> None:
    backend = await queue.open()
    await queue.add_jobs(NewJob("t", n) for n in range(6))
    jobs = await _claim(queue, "w", 5)
    outcomes: list[Outcome] = [
        Completed(jobs[0].id, jobs[0].lease_id, '{"a": 1}'),
        Completed(jobs[1].id, jobs[1].lease_id),
        Failed(jobs[2].id, jobs[2].lease_id, "m", "timeout", 60_000),
        Cancelled(jobs[3].id, jobs[3].lease_id),
        Released(jobs[4].id, jobs[4].lease_id),
    ]
    cycle = await backend.cycle("w", outcomes, ["t"], 10, True)
    assert cycle.lost == []
    assert [job.payload for job in cycle.jobs] == ["4", "5"], "what was handed back comes first again"
    assert cycle.next_due_ms is not None and 50_000 < cycle.next_due_ms <= 60_000
    statuses = [(await queue.require_job(job.id)).status for job in jobs]
    assert statuses == ["completed", "completed", "failed", "cancelled", "processing"]


async def test_the_store_says_which_outcomes_became_a_cancel(queue: JobQueue) -> None:
    """D-WILLRETRY: what was asked for meanwhile decides, and the worker learns of it."""
    backend = await queue.open()
    handles = await queue.add_jobs(NewJob("t", n) for n in range(6))
    jobs = await _claim(queue, "w")
    for handle in handles[:5]:
        await handle.cancel()
    held = [(job.id, job.lease_id) for job in jobs]
    outcomes: list[Outcome] = [
        Failed(*held[0], "m", "handler_error", 60_000),
        Failed(*held[1], "m", "handler_error", None),
        Released(*held[2]),
        Cancelled(*held[3]),
        Completed(*held[4]),
        Failed(*held[5], "m", "handler_error", 60_000),
    ]
    cycle = await backend.cycle("w", outcomes, [], 0, False)
    assert (cycle.lost, cycle.cancelled) == ([], held[:3])
    statuses = [(await handle.refresh()).status for handle in handles]
    assert statuses == ["cancelled"] * 4 + ["completed", "failed"]


async def test_the_longest_backoff_can_be_stored(queue: JobQueue) -> None:
    """D-RETRYMAXOVERFLOW: a failure after very many attempts is recorded as any other."""
    backend = await queue.open()
    handle = await queue.add_job("t")
    (job,) = await _claim(queue, "w")
    delay = next_delay(RetryPolicy(), 32_000, 32_767)
    assert delay is not None
    failure = Failed(job.id, job.lease_id, "m", "handler_error", delay // timedelta(milliseconds=1))
    assert (await backend.cycle("w", [failure], [], 0, False)).lost == []
    failed = await handle.refresh()
    assert failed.last_failed_at is not None and failed.next_attempt_at is not None
    assert abs(failed.next_attempt_at - failed.last_failed_at - delay) < timedelta(seconds=1)


async def test_an_outcome_of_no_job_leaves_nothing_behind(queue: JobQueue) -> None:
    """R-GHOSTHASH: there is no job of that id afterwards either."""
    backend = await queue.open()
    outcomes: list[Outcome] = [
        Completed(4711, 1, '"x"'), Failed(4712, 2, "m", "handler_error", 0), Cancelled(4713, 3), Released(4714, 4),
    ]  # fmt: skip
    assert (await backend.cycle("w", outcomes, [], 0, False)).lost == [(4710 + n, n) for n in range(1, 5)]
    assert not await backend.set_progress(4711, 1, 5) and not await backend.set_output(4711, 1, "5")
    assert not await backend.prolong(4711, 1, 5)
    assert await queue.get_all_jobs() == [] and (await queue.stats()).by_status == {}
    assert await queue.get_job_events(4711) == []


async def test_rescue_is_by_lease_and_not_by_age(queue: JobQueue) -> None:
    backend = await queue.open()
    await queue.add_jobs(NewJob("t", n) for n in range(4))
    await _claim(queue, "healthy", 2)
    await _claim(queue, "gone", 2, lease=0.0)
    reclaimed = await backend.reclaim_expired(10)
    assert [(item.worker, item.status) for item in reclaimed] == [("gone", "pending")] * 2
    assert await backend.reclaim_expired(10) == []
    events = await queue.get_job_events(reclaimed[0].id)
    assert events[-1].event_type == "reclaimed" and events[-1].metadata["worker"] == "gone"


async def test_what_a_worker_claims_when_it_wakes_is_not_taken_from_it_at_once(queue: JobQueue) -> None:
    """Its claim was on its way when it was frozen, and is done before it can renew its lease."""
    lease = 2.0
    for _ in range(10):
        await queue.add_jobs(NewJob("t", n) for n in range(2))
        if await _wakes_up(queue, lease):
            return
    pytest.fail("the machine never took less than a lease for two calls")


async def _wakes_up(queue: JobQueue, lease: float) -> bool:
    """False if the test itself stood still for a lease, so that nothing can be told from what it saw."""
    backend = await queue.open()
    (earlier,) = await _claim(queue, "w", 1, lease=lease)

    async def is_lost() -> bool:
        return not (await queue.list_workers())[0].alive

    await until(is_lost)
    began = time.monotonic()
    (later,) = (await backend.cycle("w", [], ["t"], 1, True)).jobs
    taken = [item.id for item in await backend.reclaim_expired(10)]
    in_time = time.monotonic() - began < lease / 2
    if in_time:
        assert taken == [earlier.id]

    async def rescued() -> bool:  # but not for ever
        taken.extend(item.id for item in await backend.reclaim_expired(10))
        return taken == [earlier.id, later.id]

    await until(rescued)
    for job in (earlier, later):
        await queue.cancel_job(job.id)
    await backend.unregister_worker("w")
    return in_time


async def test_the_last_attempt_lost_fails_the_job(queue: JobQueue) -> None:
    """D-RECLAST: it is neither stuck nor run without bound."""
    backend = await queue.open()
    handle = await queue.add_job("t", max_attempts=1)
    await _claim(queue, "gone", lease=0.0)
    (item,) = await backend.reclaim_expired(10)
    assert item.status == "failed"
    job = await handle.wait(timeout=20)
    assert (job.status, job.failure_reason, job.attempts, job.next_attempt_at) == ("failed", "worker_lost", 1, None)
    assert "gone" in (job.last_error or "")
    assert (await queue.get_job_events(handle.id))[-1].event_type == "failed"


async def test_a_cancel_outlives_the_worker_that_it_was_meant_for(queue: JobQueue) -> None:
    backend = await queue.open()
    handle, other = await queue.add_job("t"), await queue.add_job("t")
    lost, kept = await _claim(queue, "gone", lease=0.0)
    assert lost.id == handle.id
    assert await handle.cancel() and await other.cancel()
    await backend.cycle("gone", [Released(kept.id, kept.lease_id)], [], 0, False)
    await backend.reclaim_expired(10)
    assert (await handle.refresh()).status == (await other.refresh()).status == "cancelled"


async def test_a_heartbeat_tells_what_is_lost_and_what_to_cancel(queue: JobQueue) -> None:
    backend = await queue.open()
    handles = await queue.add_jobs(NewJob("t", n) for n in range(3))
    jobs = await _claim(queue, "w", lease=0.0)
    held = [(job.id, job.lease_id) for job in jobs]
    await backend.reclaim_expired(1)
    await handles[1].cancel()
    heart = backend.heart()
    pulse = await asyncio.to_thread(heart.beat, _worker("w"), held)
    heart.close()
    assert pulse.lost == [held[0]] and pulse.cancelled == [held[1]]
    assert await backend.reclaim_expired(10) == [], "the beat has renewed the lease"
    assert await backend.list_held("w") == held[1:]


async def test_a_forgotten_worker_is_known_again_after_a_beat(queue: JobQueue) -> None:
    backend = await queue.open()
    assert await backend.register_worker(_worker("w"))
    assert not await backend.register_worker(_worker("w")), "a live worker has the name"
    await backend.unregister_worker("w")
    heart = backend.heart()
    await asyncio.to_thread(heart.beat, _worker("w"), [])
    heart.close()
    assert [worker.id for worker in await queue.list_workers()] == ["w"]


async def test_a_handler_is_told_that_its_lease_is_lost(queue: JobQueue, working: Working) -> None:
    told: list[str] = []
    began = asyncio.Event()

    async def stolen(payload: Any, ctx: JobContext) -> str:
        if ctx.attempt > 1:
            return "second"
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            told.append("cancelled")
            assert ctx.aborted
            try:
                await ctx.set_output("first")
            except LeaseLost:
                told.append("lease lost")
            raise
        return "first"

    await working(queue, {"stolen": stolen}, lease=timedelta(seconds=1.5), worker_id="w")
    handle = await queue.add_job("stolen")
    await began.wait()
    await take_away(queue, handle.id)
    assert await handle.result(timeout=20) == "second"
    assert told == ["cancelled", "lease lost"]


async def test_a_long_job_of_a_healthy_worker_runs_once(queue: JobQueue, working: Working) -> None:
    """D-HEARTBEAT: however long it runs, and whatever its timeout."""
    starts: list[int] = []

    def blocks(payload: Any) -> None:
        starts.append(1)
        threading.Event().wait(3.5)

    for _ in range(2):
        await working(queue, {"blocks": blocks}, lease=timedelta(seconds=1))
    job = await (await queue.add_job("blocks")).wait(timeout=25)
    assert job.status == "completed" and len(starts) == 1 and job.attempts == 1


async def test_reclaimed_jobs_are_announced(make_queue: Callable[..., JobQueue], working: Working) -> None:
    queue = make_queue()
    hooks: list[Hook] = []
    for name in ("job:reclaimed", "job:failed"):
        queue.on(name, hooks.append)  # type: ignore[arg-type]
    again = await queue.add_job("t")
    dead = await queue.add_job("t", max_attempts=1)
    await _claim(make_queue(), "gone", lease=0.0)

    async def t(payload: Any) -> None: ...

    await working(queue, {"t": t}, lease=timedelta(seconds=1))
    assert (await again.wait(timeout=20)).attempts == 2
    await until(lambda: len(hooks) == 2)
    assert {(hook.name, hook.job_id) for hook in hooks} == {("job:reclaimed", again.id), ("job:failed", dead.id)}


# -- draining -------------------------------------------------------------------------------------------


async def test_a_drain_waits_for_what_runs_and_hands_back_the_rest(queue: JobQueue, working: Working) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(payload: int) -> int:
        began.set()
        await go_on.wait()
        return payload

    added = await queue.add_jobs(NewJob("slow", n) for n in range(5))
    processor = await working(queue, {"slow": slow}, concurrency=2)
    await began.wait()
    draining = asyncio.create_task(processor.stop_and_drain())
    await asyncio.sleep(0.05)
    assert not draining.done()
    go_on.set()
    result = await draining
    assert result.finished == 2 and result.left == []
    jobs = [await handle.refresh() for handle in added]
    assert [job.status for job in jobs] == ["completed"] * 2 + ["pending"] * 3
    assert [job.attempts for job in jobs] == [1, 1, 0, 0, 0]
    assert await queue.list_workers() == []


async def test_a_drain_waits_for_one_batch_too(queue: JobQueue) -> None:
    """D-DRAINSTART: also while ``start()`` runs it waits, and what it cuts short is handed back and named."""
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(payload: int) -> None:
        began.set()
        await go_on.wait()

    added = await queue.add_jobs(NewJob("slow", n) for n in range(3))
    for patience, attempts in ((None, 1), (timedelta(milliseconds=50), 0)):
        began.clear()
        go_on.clear()
        processor = queue.create_processor({"slow": slow}, concurrency=1)
        batch = asyncio.create_task(processor.start())
        await began.wait()
        draining = asyncio.create_task(processor.stop_and_drain(patience))
        if patience is None:
            await asyncio.sleep(0.05)
            assert not draining.done()
            go_on.set()
        result = await draining
        assert await batch == 1
        assert (result.finished, result.left) == (attempts, [])
        handle = added[1 - attempts]
        assert result.handed_back == ([] if attempts else [handle.id])
        assert (await handle.refresh()).attempts == attempts


async def test_a_drain_that_runs_out_of_time_burns_no_attempt(queue: JobQueue, working: Working) -> None:
    began = asyncio.Event()

    async def endless(payload: Any) -> None:
        began.set()
        await asyncio.sleep(600)

    handle = await queue.add_job("endless")
    processor = await working(queue, {"endless": endless})
    await began.wait()
    result = await processor.stop_and_drain(timedelta(milliseconds=50))
    assert result.handed_back == [handle.id] and result.left == []
    job = await handle.refresh()
    assert (job.status, job.attempts, job.error_history) == ("pending", 0, ())
    events = [event.event_type for event in await queue.get_job_events(handle.id)]
    assert events == ["added", "processing", "released"]


async def test_a_handler_that_ignores_the_drain_is_reported(queue: JobQueue, working: Working) -> None:
    began, release = threading.Event(), threading.Event()

    def deaf(payload: Any) -> None:
        began.set()
        release.wait(60)

    handle = await queue.add_job("deaf")
    processor = await working(queue, {"deaf": deaf}, grace=timedelta(milliseconds=100))
    await until(began.is_set)
    result = await processor.stop_and_drain(0.05)
    release.set()
    assert result.left == [handle.id] and result.handed_back == [handle.id]


async def test_work_that_was_finished_during_a_drain_is_not_thrown_away(queue: JobQueue, working: Working) -> None:
    began, release = threading.Event(), threading.Event()

    def unaware(payload: Any) -> str:
        began.set()
        release.wait(60)
        return "charged"

    def aware(payload: Any, ctx: SyncJobContext) -> str:
        began.set()
        ctx.wait_aborted(60)
        return "stopped half-way"

    for name, status, output in (("unaware", "completed", "charged"), ("aware", "pending", None)):
        began.clear()
        handle = await queue.add_job(name)
        processor = await working(queue, {"unaware": unaware, "aware": aware}, grace=timedelta(seconds=20))
        await until(began.is_set)
        draining = asyncio.create_task(processor.stop_and_drain(0.05))
        await asyncio.sleep(0.2)
        release.set()
        await draining
        job = await handle.refresh()
        assert (job.status, job.output) == (status, output)


async def test_cancelling_run_hands_back(queue: JobQueue) -> None:
    began = asyncio.Event()

    async def endless(payload: Any) -> None:
        began.set()
        await asyncio.sleep(600)

    handle = await queue.add_job("endless")
    task = asyncio.create_task(queue.create_processor({"endless": endless}).run())
    await began.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    job = await handle.refresh()
    assert (job.status, job.attempts) == ("pending", 0)
