"""What tests share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from dataqueue import JobQueue, Processor
from dataqueue.backends.base import WorkerInfo

DEADLINE = 30.0
"""Seconds after which what a test waits for is held to be lost. Never an expectation of speed."""

Working = Callable[..., Awaitable[Processor]]


async def until(condition: Callable[[], Any], what: str = "it") -> Any:
    """Wait for a condition (which may be a coroutine function) to hold, and return its value."""
    deadline = time.monotonic() + DEADLINE
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {DEADLINE:g} s")
        await asyncio.sleep(0.01)


async def take_away(queue: JobQueue, job_id: int) -> None:
    """As if the worker had been silent: its lease is taken away behind its back."""
    backend = await queue.open()
    job = await queue.require_job(job_id)
    assert job.locked_by is not None
    worker = WorkerInfo(job.locked_by, "host", 1, (), 10, "0", 0.0)
    heart = backend.heart()
    while (now := await queue.require_job(job_id)).locked_by is not None and now.attempts == job.attempts:
        await asyncio.to_thread(heart.beat, worker, [])
        await backend.reclaim_expired(10)  # or the worker's own look for lost jobs is first
    heart.close()
