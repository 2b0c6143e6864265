"""A worker of one step at a time, for tests of steps, waits and tokens in the stores."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from typing import Any

from dataqueue import JobHandle, JobQueue
from dataqueue.backends.base import Backend, Claimed, Cycle, Outcome, Waiting, WorkerInfo
from dataqueue.steps import StepRecord
from dataqueue.tokens import TokenSpec, make_token

HOUR_MS = 3_600_000


class Hand:
    """A worker, one step at a time."""

    def __init__(self, queue: JobQueue, backend: Backend) -> None:
        self.queue, self.backend = queue, backend
        self.next_due_ms: int | None = None

    async def register(self, name: str = "w", lease: float = 60.0, most_of_group: int | None = None) -> None:
        info = WorkerInfo(name, socket.gethostname(), os.getpid(), ("t",), 10, "0", lease, most_of_group)
        await self.backend.register_worker(info)

    async def claim(self, limit: int = 100) -> list[Claimed]:
        jobs: list[Claimed] = []
        while True:
            answer = await self.backend.cycle("w", [], ["t"], limit, True)
            self.next_due_ms = answer.next_due_ms
            jobs += answer.jobs
            if not answer.again:
                return jobs

    async def end(self, *outcomes: Outcome) -> Cycle:
        answer = await self.backend.cycle("w", outcomes, ["t"], 0, False)
        assert answer.lost == []
        return answer

    async def add(self, **options: Any) -> tuple[JobHandle[Any], Claimed]:
        """A job that runs."""
        handle = await self.queue.add_job("t", **options)
        (job,) = await self.claim()
        assert job.id == handle.id
        return handle, job

    async def save(self, job: Claimed, record: StepRecord, token: TokenSpec | None = None) -> None:
        assert await self.backend.save_step(job.id, job.lease_id, record, token)

    async def sleep(self, job: Claimed, ms: int = HOUR_MS, seq: int = 1) -> Cycle:
        return await self.end(Waiting(job.id, job.lease_id, wait(seq, "sleep"), ms))

    async def wait_for_token(self, job: Claimed, token_id: str, seq: int = 1) -> Cycle:
        return await self.end(Waiting(job.id, job.lease_id, wait(seq, "token", token_id=token_id)))

    async def wait_for_jobs(self, job: Claimed, *ids: int, seq: int = 1) -> Cycle:
        return await self.end(Waiting(job.id, job.lease_id, wait(seq, "jobs", job_ids=ids)))

    async def records(self, job: Claimed) -> list[StepRecord]:
        return (await self.backend.load_steps(job.id))[0]

    async def token(self, timeout: object = None) -> str:
        return (await self.backend.create_token(make_token(timeout, None))).id

    async def sound(self) -> None:
        """No index and no row contradicts another."""
        bad = [found for found in await self.queue.doctor(deep=True) if found.check in ("consistency", "indexes")]
        assert [found.level for found in bad] == ["ok"] * len(bad), bad

    async def events(self, job: Claimed) -> list[str]:
        return [event.event_type for event in await self.queue.get_job_events(job.id)]


def step(seq: int, name: str | None = None, result: str | None = "1") -> StepRecord:
    now = datetime.now(UTC)
    return StepRecord(seq, name or f"s{seq}", "step", result, place="h.py:1", started_at=now, done_at=now)


def wait(seq: int, kind: Any, **what: Any) -> StepRecord:
    return StepRecord(seq, f"wait{seq}", kind, done=False, place="h.py:2", **what)


async def status(handle: JobHandle[Any]) -> str:
    return (await handle.refresh()).status
