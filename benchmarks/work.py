"""Our side of each measurement, through the public API only: the same for every store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.processes import Child
from dataqueue import JobQueue, NewJob

BEST: dict[str, Any] = {"concurrency": 100, "batch_size": 100}
"""The worker settings of drain and sleep. Tried on two cores: see README.md of this folder."""

_IDLE_AFTER = 2.0
"""Seconds until a worker that found nothing has asked to be woken, and looked again for the last time."""


def make_jobs(count: int) -> Iterator[NewJob]:
    return (NewJob("noop", {"n": number}) for number in range(count))


def single(place: str, jobs: int) -> float:
    """Jobs a second, one awaited ``add_job`` at a time."""

    async def add() -> float:
        async with JobQueue.from_url(place) as queue:
            start = time.perf_counter()
            for number in range(jobs):
                await queue.add_job("noop", {"n": number})
            return jobs / (time.perf_counter() - start)

    return asyncio.run(add())


def bulk(place: str, jobs: int) -> float:
    """Jobs a second through ``add_jobs``."""

    async def add() -> float:
        async with JobQueue.from_url(place) as queue:
            start = time.perf_counter()
            await queue.add_jobs(make_jobs(jobs))
            return jobs / (time.perf_counter() - start)

    return asyncio.run(add())


def drain(place: str, jobs: int, sleep: float | None = None) -> dict[str, float]:
    """One worker process on jobs that are there already: its rate, CPU seconds and memory."""
    with Child("worker", "drain", url=place, jobs=jobs, sleep=sleep, options=BEST) as worker:
        return worker.read()


def bulk_memory(place: str, jobs: int) -> dict[str, float]:
    """Megabytes before a bulk add from a generator, and at its peak."""
    with Child("worker", "bulk", url=place, jobs=jobs) as child:
        return child.read()


def latencies(place: str, jobs: int, gap: float) -> list[float]:
    """Seconds from the call of ``add_job`` to the handler's first line, in an idle worker."""

    async def add() -> None:
        async with JobQueue.from_url(place) as queue:
            await queue.add_job("timed", {"at": None})
            await asyncio.sleep(_IDLE_AFTER)
            for _ in range(jobs):
                await queue.add_job("timed", {"at": time.time()})
                await asyncio.sleep(gap)

    with Child("worker", "latency", url=place, jobs=jobs) as worker:
        worker.read()
        time.sleep(_IDLE_AFTER)
        asyncio.run(add())
        return worker.read()
