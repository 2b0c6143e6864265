"""Whether a store is as durable_model.py says, also behind the queue's back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from conformance.durable_model import Model, ModelJob, ModelToken
from conformance.test_machine import PostgresStore, RedisStore, Store

from dataqueue import Job, JobQueue
from dataqueue.tokens import Token

HOUR = timedelta(hours=1)
NEAR = timedelta(minutes=10)
"""A history takes less."""


async def compare(model: Model, queue: JobQueue) -> None:
    """Every job; journals and events of those that were touched; every token."""
    jobs = {job.id: job for job in await queue.get_all_jobs(limit=1000)}
    assert jobs.keys() == model.jobs.keys()
    for job in jobs.values():
        same_job(job, model.jobs[job.id], model.clock)
    for job_id in sorted(model.touched & jobs.keys()):
        await _same_journal(model, queue, model.jobs[job_id])
    model.touched.clear()
    for token in model.tokens.values():
        same_token(await queue.get_token(token.id), token, model.clock)


def same_job(job: Job, expected: ModelJob, clock: int) -> None:
    assert (job.status, job.attempts, job.max_attempts) == (expected.status, expected.attempts, expected.max_attempts)
    assert (job.output, job.locked_by is None) == (expected.output, expected.lease is None)
    wait = expected.wait if expected.status == "waiting" else None
    asleep = wait if expected.due is None else None
    assert job.wait_token_id == (asleep and asleep.token_id)
    assert job.blocked == (asleep is not None and asleep.kind == "jobs")
    near(job.wait_until, expected.due if wait else None, clock)
    near(job.next_attempt_at, expected.due if expected.status == "failed" else None, clock)


async def _same_journal(model: Model, queue: JobQueue, job: ModelJob) -> None:
    records, tokens, now = await (await queue.open()).load_steps(job.id)
    assert abs(now - datetime.now(UTC)) < NEAR
    assert [(r.seq, r.name, r.kind, r.result, r.done, r.token_id, r.job_ids) for r in records] == [
        (r.seq, r.name, r.kind, r.result, r.done, r.token_id, r.job_ids) for r in job.journal
    ]
    for found, record in zip(records, job.journal, strict=True):
        near(found.until, record.until, model.clock)
    asked = [model.tokens.get(r.token_id or "") for r in job.journal if r.kind == "token" and not r.done]
    assert {name: token.status for name, token in tokens.items()} == {one.id: one.status for one in asked if one}
    assert [event.event_type for event in await queue.get_job_events(job.id)] == job.events


def same_token(found: Token | None, token: ModelToken, clock: int) -> None:
    assert found is not None
    assert (found.id, found.status, found.job_id) == (token.id, token.status, token.owner)
    assert (found.output, found.error) == (token.output, token.error)
    assert (found.completed_at is None) == (token.status == "waiting")
    near(found.timeout_at, token.ends, clock)


def near(moment: datetime | None, hour: int | None, clock: int) -> None:
    """At about this hour of the model; what is past may have been set later, at its waking."""
    if moment is None or hour is None:
        assert moment is None and hour is None, f"it is {moment}, and hour {hour} in the model"
        return
    ahead = moment - datetime.now(UTC)
    if hour <= clock:
        assert ahead <= timedelta(0), f"{moment} lies ahead"
    else:
        assert abs(ahead - (hour - clock) * HOUR) < NEAR, f"{moment} is not hour {hour}"


def nothing_is_left_over(model: Model, store: Store) -> None:
    """Who waits for whom, and what belongs to whom, behind the queue's back."""
    unmet = {(other, job.id) for job in model.of("waiting") for other in job.unmet}
    awaited = {(job.wait.token_id, job.id) for t in model.tokens for job in model.waiting_for(t) if job.wait}
    steps = {(job.id, record.seq) for job in model.jobs.values() for record in job.journal}
    if isinstance(store, PostgresStore):

        def rows(sql: Any) -> set[Any]:
            return set(store._conn.execute(sql).fetchall())

        assert rows("SELECT prerequisite_id, dependent_id FROM dataqueue_dependencies") == unmet
        assert rows("SELECT wait_token_id, id FROM job_queue WHERE wait_token_id IS NOT NULL") == awaited
        assert rows("SELECT job_id, seq FROM dataqueue_steps") == steps
        assert rows("SELECT id FROM waitpoints") == {(token,) for token in model.tokens}
        return
    assert isinstance(store, RedisStore)
    client: Any = store._client
    key = store._key

    def members(name: str) -> set[Any]:
        return set(client.zrange(key(name), 0, -1))

    def pack(number: int, size: int = 6) -> bytes:
        return number.to_bytes(size)

    waiting = [token for token in model.tokens.values() if token.status == "waiting"]
    assert members("dp") == {pack(one) + pack(other) for one, other in unmet}
    counts = {pack(job.id): len(job.unmet) for job in model.of("waiting") if job.unmet}
    assert {name: int(count) for name, count in client.hgetall(key("un")).items()} == counts
    assert members("tw") == {f"{token}\0".encode() + pack(job_id) for token, job_id in awaited}
    assert set(client.hkeys(key("st"))) == {pack(job_id) + pack(seq, 4) for job_id, seq in steps}
    assert {int.from_bytes(one) for one in client.hkeys(key("sn"))} <= model.jobs.keys()
    assert set(client.hkeys(key("tk"))) == {token.encode() for token in model.tokens}
    assert members("te") == {token.id.encode() for token in waiting if token.ends is not None}
    owned = [token for token in model.tokens.values() if token.owner is not None]
    assert members("tj") == {pack(token.owner or 0) + token.id.encode() for token in owned}
    free = [token for token in model.tokens.values() if token.owner is None and token.status != "waiting"]
    assert members("to") == {token.id.encode() for token in free}
