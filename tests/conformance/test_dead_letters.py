"""What becomes of a job that has failed for good and names a type for that."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from support import Working

from dataqueue import InvalidJob, JobNotFound, JobQueue, NewJob
from dataqueue.backends.base import Cancelled, Completed, Failed, FailureReason, Outcome, WorkerInfo

PAYLOADS: list[Any] = [
    None, [], {}, [[], {}], "text with \"quotes\", \\ and \n", 2**60, 12345678901234567890, 0.1, {"b": {"a": [1, None]}, "a": "ж"},
]  # fmt: skip


async def _work(queue: JobQueue, outcome: Any, *types: str) -> list[int]:
    backend = await queue.open()
    await backend.register_worker(WorkerInfo("w", "h", 1, types or ("t",), 10, "0", 60.0))
    jobs = (await backend.cycle("w", [], types or ("t",), 10, True)).jobs
    outcomes: list[Outcome] = [outcome(job.id, job.lease_id) for job in jobs]
    assert (await backend.cycle("w", outcomes, (), 0, False)).lost == []
    return [job.id for job in jobs]


def _fails(message: str = "boom", reason: FailureReason = "handler_error", retry_ms: int | None = None) -> Any:
    return lambda job_id, lease_id: Failed(job_id, lease_id, message, reason, retry_ms)


@pytest.mark.parametrize("payload", PAYLOADS, ids=repr)
async def test_the_last_failure_adds_a_dead_letter(queue: JobQueue, payload: Any) -> None:
    """R-CJSON: its payload is the original to the last digit."""
    message = 'no "mail" \\ server\nж'
    job = await queue.add_job("t", payload, dead_letter="dead", max_attempts=7, tags=["x"], priority=3, group="g")
    await _work(queue, _fails(message, "timeout"))
    source = await job.refresh()
    assert source.status == "failed" and source.dead_letter == "dead"
    assert source.dead_letter_job_id is not None and source.dead_lettered_at == source.last_failed_at
    letter = await queue.require_job(source.dead_letter_job_id)
    failure = letter.payload.pop("failure")
    assert letter.payload == {
        "originalJob": {"id": job.id, "jobType": "t", "attempts": 1, "maxAttempts": 7},
        "originalPayload": payload,
    }
    assert (failure["message"], failure["reason"]) == (message, "timeout")
    assert source.last_failed_at is not None
    stamp = source.last_failed_at.replace(microsecond=source.last_failed_at.microsecond // 1000 * 1000)
    assert failure["failedAt"] == stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert (letter.job_type, letter.status, letter.max_attempts, letter.priority) == ("dead", "pending", 1, 0)
    assert (letter.tags, letter.group, letter.dead_letter) == ((), None, None)
    (added,) = await queue.get_job_events(letter.id)
    assert added.metadata == {"jobType": "dead", "sourceJobId": job.id, "sourceJobType": "t"}
    failed = (await queue.get_job_events(job.id))[-1]
    assert failed.event_type == "failed" and failed.metadata["deadLetterJobId"] == letter.id
    assert await _work(queue, Completed, "dead") == [letter.id]


async def test_nothing_but_the_last_failure_adds_one(queue: JobQueue) -> None:
    retried, completed, cancelled, plain = await queue.add_jobs(
        NewJob("t", n, {"dead_letter": "dead"} if n < 3 else {}) for n in range(4)
    )
    backend = await queue.open()
    await backend.register_worker(WorkerInfo("w", "h", 1, ("t",), 10, "0", 60.0))
    a, b, c, d = (await backend.cycle("w", [], ("t",), 10, True)).jobs
    outcomes = [
        Failed(a.id, a.lease_id, "m", "handler_error", 60_000),
        Completed(b.id, b.lease_id),
        Cancelled(c.id, c.lease_id),
        Failed(d.id, d.lease_id, "m", "handler_error", None),
    ]
    await backend.cycle("w", outcomes, (), 0, False)
    assert {job.id for job in await queue.get_jobs()} == {retried.id, completed.id, cancelled.id, plain.id}


async def test_a_failure_whose_cancel_was_asked_for_is_a_cancel(queue: JobQueue) -> None:
    job = await queue.add_job("t", dead_letter="dead", max_attempts=1)
    backend = await queue.open()
    await backend.register_worker(WorkerInfo("w", "h", 1, ("t",), 10, "0", 60.0))
    (held,) = (await backend.cycle("w", [], ("t",), 10, True)).jobs
    await queue.cancel_job(job.id)
    await backend.cycle("w", [Failed(held.id, held.lease_id, "m", "handler_error", None)], (), 0, False)
    assert [item.status for item in await queue.get_jobs()] == ["cancelled"]


async def test_a_worker_lost_in_the_last_attempt_adds_one(queue: JobQueue) -> None:
    """D-RECLAST: a poison job that kills its worker is found."""
    backend = await queue.open()
    job = await queue.add_job("t", {"n": 1}, dead_letter="dead", max_attempts=1)
    await backend.register_worker(WorkerInfo("gone", "h", 1, ("t",), 10, "0", 0.0))
    await backend.cycle("gone", [], ("t",), 10, True)
    assert [item.status for item in await backend.reclaim_expired(10)] == ["failed"]
    source = await job.refresh()
    assert source.dead_letter_job_id is not None
    letter = await queue.require_job(source.dead_letter_job_id)
    assert letter.payload["failure"]["reason"] == "worker_lost"
    assert letter.payload["failure"]["message"] == source.last_error
    assert letter.payload["originalPayload"] == {"n": 1}
    assert (await queue.get_job_events(job.id))[-1].metadata["deadLetterJobId"] == letter.id


async def test_a_worker_takes_dead_letters_of_what_it_has_failed(queue: JobQueue, working: Working) -> None:
    letters: list[Any] = []

    async def t(payload: Any) -> None:
        raise ValueError("no")

    async def dead(payload: Any) -> None:
        letters.append(payload)

    await working(queue, {"t": t, "dead": dead}, poll_interval=timedelta(seconds=60))
    job = await queue.add_job("t", 5, dead_letter="dead", max_attempts=1)
    assert (await job.wait(30)).status == "failed"
    source = await job.refresh()
    assert source.dead_letter_job_id is not None
    assert (await queue.wait_for_job(source.dead_letter_job_id, timeout=30)).status == "completed"
    assert [letter["originalPayload"] for letter in letters] == [5]
    assert letters[0]["failure"]["reason"] == "handler_error"


async def test_a_definition_may_name_the_type_for_all_its_jobs(queue: JobQueue) -> None:
    @queue.job(dead_letter="dead", max_attempts=1)
    async def t(payload: int) -> None: ...

    job = await t.add(5)
    await _work(queue, _fails())
    letter = await queue.require_job((await job.refresh()).dead_letter_job_id or 0)
    assert letter.job_type == "dead"
    with pytest.raises(InvalidJob, match="dead_letter"):
        await t.add(5, dead_letter="")
    with pytest.raises(InvalidJob, match="dead_letter"):
        await t.add(5, dead_letter="x" * 256)


async def _dead(queue: JobQueue, payload: Any = 5, **options: Any) -> tuple[int, int]:
    """Ids of a job that has failed for good and of its dead letter."""
    job = await queue.add_job("t", payload, dead_letter="dead", **options)
    await _work(queue, _fails())
    return job.id, (await job.refresh()).dead_letter_job_id or 0


async def test_a_redriven_letter_lets_its_job_run_again(queue: JobQueue) -> None:
    source, letter = await _dead(queue, max_attempts=1, tags=["x"])
    handle = await queue.redrive(letter, by="me")
    assert (handle.id, handle.created) == (source, False)
    job = await handle.refresh()
    assert (job.status, job.attempts, job.max_attempts, job.tags) == ("pending", 1, 2, ("x",))
    assert (await queue.get_job_events(source))[-1].metadata == {"by": "me"}
    settled = await queue.require_job(letter)
    told = (await queue.get_job_events(letter))[-1]
    assert (settled.status, told.event_type, told.metadata) == ("cancelled", "redriven", {"jobId": source, "by": "me"})
    with pytest.raises(InvalidJob, match="redriven already"):
        await queue.redrive(letter)
    await _work(queue, _fails("again"))
    newer = (await queue.require_job(source)).dead_letter_job_id
    assert newer is not None and newer != letter
    assert (await queue.redrive(newer)).id == source
    assert await _work(queue, Completed) == [source]
    findings = [f for f in await queue.doctor(deep=True) if f.check in ("consistency", "indexes")]
    assert {finding.level for finding in findings} == {"ok"}, findings


async def test_a_handled_letter_can_be_redriven_too(queue: JobQueue) -> None:
    source, letter = await _dead(queue)
    await _work(queue, Completed, "dead")
    assert (await queue.redrive(letter)).id == source
    assert (await queue.require_job(letter)).status == "completed"
    with pytest.raises(InvalidJob, match="redriven already"):
        await queue.redrive(letter)


async def test_not_while_the_letter_runs_nor_when_its_job_runs_again(queue: JobQueue) -> None:
    source, letter = await _dead(queue)
    await queue.retry_job(source)
    with pytest.raises(InvalidJob, match="not finished"):
        await queue.redrive(letter)
    await _work(queue, _fails())
    with pytest.raises(InvalidJob, match="newer dead letter"):
        await queue.redrive(letter)
    newer = (await queue.require_job(source)).dead_letter_job_id or 0
    backend = await queue.open()
    (held, _) = (await backend.cycle("w", [], ("dead",), 10, True)).jobs
    assert held.id == letter
    with pytest.raises(InvalidJob, match="running"):
        await queue.redrive(newer)


async def test_what_is_no_letter_is_refused(queue: JobQueue) -> None:
    for payload in (
        None,
        5,
        {"originalJob": 5, "originalPayload": 1},
        {"originalJob": {"id": "1"}, "originalPayload": 1},
    ):
        job = await queue.add_job("dead", payload)
        with pytest.raises(InvalidJob, match="no dead letter"):
            await queue.redrive(job.id)
    with pytest.raises(JobNotFound):
        await queue.redrive(999)


async def test_all_letters_of_a_type(queue: JobQueue) -> None:
    sources = [(await _dead(queue, n))[0] for n in range(3)]
    await queue.add_job("dead", "something else")
    assert len(await queue.redrive_all("dead", dry_run=True)) == 3
    assert [handle.id for handle in await queue.redrive_all("dead", limit=2)] == sources[:2], "oldest first"
    assert [handle.id for handle in await queue.redrive_all("dead")] == sources[2:]
    assert await queue.redrive_all("dead") == []
    assert await _work(queue, Completed) == sources


async def test_where_the_job_is_gone_another_like_it_is_added(queue: JobQueue) -> None:
    source, letter = await _dead(queue, {"n": [1, {}]}, max_attempts=1)
    assert await queue.cleanup_old_jobs(timedelta(0), status="failed") == 1
    assert await queue.get_job(source) is None
    handle = await queue.redrive(letter)
    assert handle.created and handle.id not in (source, letter)
    job = await handle.refresh()
    assert (job.job_type, job.payload, job.max_attempts, job.dead_letter) == ("t", {"n": [1, {}]}, 1, "dead")
    with pytest.raises(InvalidJob, match="redriven already"):
        await queue.redrive(letter)
    await _work(queue, _fails("again"))
    assert (await handle.refresh()).dead_letter_job_id is not None, "it leaves a letter of its own"
