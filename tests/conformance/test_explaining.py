"""Explanations, failures by cause, and the verdict over a queue."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from support import Working, until

from dataqueue import Explanation, InvalidJob, JobNotFound, JobQueue, NewJob
from dataqueue.backends.base import Completed, Failed, WorkerInfo


def codes(explanation: Explanation) -> list[str]:
    return [reason.code for reason in explanation.reasons]


async def worker(queue: JobQueue, *types: str, lease: float = 60, slots: int = 1) -> None:
    await queue.open()
    await queue.backend.register_worker(WorkerInfo("w", "host", 1, types, slots, "0", lease))


async def take(queue: JobQueue, job_type: str = "t") -> tuple[int, int]:
    (job,) = (await queue.backend.cycle("w", [], [job_type], 1, True)).jobs
    return job.id, job.lease_id


async def fail(queue: JobQueue, message: str = "boom", retry_ms: int | None = None, job_type: str = "t") -> int:
    job_id, lease = await take(queue, job_type)
    outcome = Failed(job_id, lease, message, "handler_error", retry_ms, "ValueError", "shop.py:12 pay")
    assert (await queue.backend.cycle("w", [outcome], [], 0, False)).lost == []
    return job_id


# -- one job --------------------------------------------------------------------------------------------


async def test_an_unknown_job_is_explained(queue: JobQueue) -> None:
    found = await queue.explain_job(4711)
    assert (found.state, found.will_run, codes(found), found.job_type) == ("not_found", "never", ["not_found"], None)
    assert found.checked_at.tzinfo is UTC
    for never_given in (0, -1, 2**63, 10**30):
        assert (await queue.explain_job(never_given)).state == "not_found"
        assert await queue.get_job(never_given) is None and await queue.get_job_events(never_given) == []
        for change in (queue.cancel_job, queue.retry_job, queue.wait_for_job):
            with pytest.raises(JobNotFound):
                await change(never_given)
    with pytest.raises(InvalidJob):
        await queue.explain_job("4711")  # type: ignore[arg-type]


async def test_nobody_takes_it(queue: JobQueue) -> None:
    job = await queue.add_job("t")
    found = await queue.explain_job(job.id)
    assert (found.state, found.will_run, codes(found)) == ("ready", "unknown", ["no_worker_for_type", "ready"])
    await worker(queue, "another")
    found = await queue.explain_job(job.id)
    assert found.reasons[0].evidence == {"alive_workers": 1, "their_types": ["another"]}
    assert "dataqueue worker" in (found.reasons[0].fix or "")


async def test_it_is_next(queue: JobQueue) -> None:
    await worker(queue, "t")
    job = await queue.add_job("t")
    found = await queue.explain_job(job.id)
    assert (found.state, found.will_run, codes(found), found.eta) == ("ready", "yes", ["ready"], found.checked_at)


async def test_others_are_claimed_before_it(queue: JobQueue) -> None:
    await worker(queue, "t")
    last = await queue.add_job("t", priority=-1)
    await queue.add_jobs(NewJob("t") for _ in range(3))
    await queue.add_job("t", priority=5)
    await queue.add_job("t", priority=-1)
    await queue.add_job("u", priority=9)
    found = await queue.explain_job(last.id)
    assert codes(found) == ["queued_behind", "ready"]
    assert found.reasons[0].evidence["ahead"] == 4 and found.eta is None
    for _ in range(3):
        job_id, lease = await take(queue)
        await queue.backend.cycle("w", [Completed(job_id, lease)], [], 0, False)
    found = await queue.explain_job(last.id)
    assert found.reasons[0].evidence["ahead"] == 1
    assert found.reasons[0].evidence["per_minute"] > 0 and found.eta is not None and found.eta > found.checked_at


async def test_a_retried_job_has_waited_since_then(queue: JobQueue) -> None:
    await worker(queue, "t")
    await queue.add_job("t", run_at=datetime.now(UTC) - timedelta(days=3))
    job_id = await fail(queue)
    await queue.retry_job(job_id)
    (reason,) = (await queue.explain_job(job_id)).reasons
    assert " d" not in reason.message
    assert ((await queue.stats()).oldest_ready_seconds or 0) < 3600


async def test_it_is_not_due(queue: JobQueue) -> None:
    await worker(queue, "t")
    job = await queue.add_job("t", delay=timedelta(hours=3))
    found = await queue.explain_job(job.id)
    assert (found.state, found.will_run, codes(found)) == ("scheduled", "later", ["scheduled"])
    assert found.eta == (await job.refresh()).run_at
    assert "2 h 59 min" in found.reasons[0].message


async def test_it_is_tried_again_later(queue: JobQueue) -> None:
    await worker(queue, "t")
    await queue.add_job("t")
    job_id = await fail(queue, retry_ms=90_000)
    found = await queue.explain_job(job_id)
    assert (found.state, found.will_run, codes(found)) == ("retrying", "later", ["retry_backoff"])
    assert found.eta == (await queue.require_job(job_id)).next_attempt_at
    assert found.reasons[0].evidence["error"] == "boom" and found.reasons[0].evidence["frame"] == "shop.py:12 pay"


async def test_it_has_failed_for_good(queue: JobQueue) -> None:
    await queue.add_job("t", max_attempts=1)
    job_id = await fail(queue, "no such card")
    found = await queue.explain_job(job_id)
    assert (found.state, found.will_run, codes(found), found.eta) == ("failed", "never", ["attempts_exhausted"], None)
    evidence = found.reasons[0].evidence
    assert (evidence["error"], evidence["error_type"], evidence["attempts"]) == ("no such card", "ValueError", 1)
    assert f"dataqueue jobs retry {job_id}" in (found.reasons[0].fix or "")


async def test_it_is_over(queue: JobQueue) -> None:
    done = await queue.add_job("t")
    job_id, lease = await take(queue)
    await queue.backend.cycle("w", [Completed(job_id, lease)], [], 0, False)
    gone = await queue.add_job("t")
    await gone.cancel()
    for job, state in ((done, "completed"), (gone, "cancelled")):
        found = await queue.explain_job(job.id)
        assert (found.state, found.will_run, codes(found)) == (state, "never", [state])


async def test_it_is_running(queue: JobQueue, working: Working) -> None:
    async def hang(payload: None) -> None:
        import asyncio

        await asyncio.sleep(3600)

    job = await queue.add_job("t", timeout=timedelta(minutes=5))
    processor = await working(queue, {"t": hang})

    async def runs() -> bool:
        return (await job.refresh()).status == "processing"

    await until(runs)
    found = await queue.explain_job(job.id)
    assert (found.state, found.will_run, codes(found)) == ("running", "yes", ["running"])
    assert found.reasons[0].evidence["worker"] == processor.worker_id
    assert "timeout is 5 min" in found.reasons[0].message
    await job.cancel()
    found = await queue.explain_job(job.id)
    assert found.state == "cancelled" or codes(found) == ["running", "cancel_requested"]


async def test_its_worker_was_lost(queue: JobQueue) -> None:
    await worker(queue, "t", lease=0.05)
    job = await queue.add_job("t", max_attempts=1)
    again = await queue.add_job("t")
    await take(queue)
    await take(queue)

    async def lost() -> bool:
        return (await queue.explain_job(job.id)).state == "lost"

    await until(lost)
    found = await queue.explain_job(job.id)
    assert (found.will_run, codes(found)) == ("never", ["lease_lost"])
    assert (await queue.explain_job(again.id)).will_run == "unknown"
    await queue.backend.register_worker(WorkerInfo("other", "host", 2, ("t",), 1, "0", 60))
    assert (await queue.explain_job(again.id)).will_run == "later"


async def test_a_locked_row_is_seen(pg_url: str) -> None:
    async with JobQueue.from_url(pg_url) as queue:
        await worker(queue, "t")
        job = await queue.add_job("t")
        with psycopg.connect(pg_url) as other:
            other.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (job.id,))
            found = await queue.explain_job(job.id)
            assert (found.state, found.will_run, codes(found)) == ("locked", "later", ["row_locked"])
            other.rollback()
            other.execute("SELECT 1")
            with other.transaction():  # a savepoint, which has a number of its own
                other.execute("UPDATE job_queue SET priority = 0 WHERE id = %s", (job.id,))
                assert codes(await queue.explain_job(job.id)) == ["row_locked"]
            other.rollback()
        assert codes(await queue.explain_job(job.id)) == ["ready"]


# -- failures by cause ----------------------------------------------------------------------------------


async def test_failures_are_grouped_by_cause(queue: JobQueue) -> None:
    messages = [f"card {n} of user-{n}@example.com was refused at 0x{n:08x}" for n in range(4)]
    await queue.add_jobs(NewJob("t", None, {"max_attempts": 1}) for _ in range(6))
    ids = [await fail(queue, message) for message in messages]
    again = await fail(queue, messages[0], retry_ms=60_000)
    other = await fail(queue, "connection reset")
    await queue.add_job("u", max_attempts=1)
    elsewhere = await fail(queue, messages[0], job_type="u")
    summary = await queue.summarize_failures()
    assert (summary.total, summary.group_count, summary.truncated) == (7, 3, False)
    first = summary.groups[0]
    assert (first.count, first.will_retry, first.job_type, first.error_type) == (5, 1, "t", "ValueError")
    assert first.pattern == "card <n> of <email> was refused at <hex>"
    assert first.sample_ids == tuple(sorted([*ids, again], reverse=True))
    assert first.first_at <= first.last_at
    assert {group.sample_ids for group in summary.groups[1:]} == {(other,), (elsewhere,)}
    only = await queue.summarize_failures(job_type="u")
    assert [group.sample_ids for group in only.groups] == [(elsewhere,)]
    assert only.groups[0].fingerprint != first.fingerprint
    assert (await queue.summarize_failures(limit=1)).group_count == 3
    assert (await queue.summarize_failures(window=timedelta(microseconds=1))).total == 0


async def test_failures_ask_for_sensible_limits(queue: JobQueue) -> None:
    with pytest.raises(InvalidJob, match="window"):
        await queue.summarize_failures(window=timedelta(0))
    with pytest.raises(InvalidJob, match="limit"):
        await queue.summarize_failures(limit=0)
    with pytest.raises(InvalidJob, match="job_type"):
        await queue.status(job_type="")


# -- the whole queue ------------------------------------------------------------------------------------


async def test_an_empty_queue_is_healthy(queue: JobQueue) -> None:
    status = await queue.status()
    assert (status.verdict, status.by_status, status.sampled, status.workers) == ("healthy", {}, 0, ())


async def test_work_without_workers(queue: JobQueue) -> None:
    await queue.add_job("t")
    status = await queue.status()
    assert status.verdict == "no_workers" and "no live worker" in status.evidence[0]
    await worker(queue, "u")
    status = await queue.status()
    assert (status.verdict, status.unhandled_types) == ("no_workers", ("t",))
    assert (await queue.status(job_type="u")).verdict == "healthy"
    unknown = await queue.status(job_type="nobody's")
    assert unknown.verdict == "no_workers" and "Nothing is known" in unknown.evidence[0]


async def test_many_failures(queue: JobQueue) -> None:
    await worker(queue, "t")
    await queue.add_jobs(NewJob("t", None, {"max_attempts": 1}) for _ in range(6))
    ids = [await fail(queue) for _ in range(5)]
    job_id, lease = await take(queue)
    await queue.backend.cycle("w", [Completed(job_id, lease)], [], 0, False)
    status = await queue.status()
    assert status.verdict == "failing" and "5 jobs failed" in status.evidence[0]
    assert any(f"explain_job {ids[-1]}" in line for line in status.suggestions)
    (timing,) = status.timings
    assert (timing.job_type, timing.ended, timing.failed) == ("t", 6, 5)
    assert timing.wait is not None and timing.run is not None and timing.run.p50 <= timing.run.p95
    assert status.by_status == {"failed": 5, "completed": 1}


async def test_work_that_nobody_does_although_somebody_could(queue: JobQueue) -> None:
    await worker(queue, "t", lease=3600)
    await queue.add_job("t", run_at=datetime.now(UTC) - timedelta(minutes=10))
    status = await queue.status()
    assert status.verdict == "stuck" and "1 slots are free" in status.evidence[0]
    assert status.oldest_ready_seconds is not None and status.oldest_ready_seconds >= 600


async def test_a_line_that_moves_is_a_backlog(queue: JobQueue) -> None:
    await worker(queue, "t")
    await queue.add_jobs(NewJob("t", None, {"run_at": datetime.now(UTC) - timedelta(minutes=10)}) for _ in range(3))
    job_id, lease = await take(queue)
    await queue.backend.cycle("w", [Completed(job_id, lease)], [], 0, False)
    status = await queue.status()
    assert status.verdict == "backlog"
    assert "waited 10 min" in status.evidence[0]


async def test_a_quiet_queue_with_workers(queue: JobQueue, working: Working) -> None:
    async def handler(payload: None) -> None: ...

    await working(queue, {"t": handler})
    await (await queue.add_job("t")).wait(30)
    status = await queue.status(window=timedelta(minutes=1))
    assert status.verdict == "healthy" and "1 live workers" in status.evidence[0]


# -- lists ----------------------------------------------------------------------------------------------


async def test_jobs_by_their_error(queue: JobQueue, make_queue: Callable[..., JobQueue]) -> None:
    await queue.add_jobs(NewJob("t", {"n": n}, {"max_attempts": 1}) for n in range(3))
    first, second = await fail(queue, 'Card "A" refused'), await fail(queue, "timeout")
    assert [job.id for job in await queue.get_jobs(error_contains='card "a"')] == [first]
    assert [job.id for job in await queue.get_jobs(error_contains="T", status="failed")] == [second]
    assert [job.payload for job in await queue.get_jobs(values=False)] == [None, None, None]
    with pytest.raises(InvalidJob):
        await queue.get_jobs(error_contains="")
