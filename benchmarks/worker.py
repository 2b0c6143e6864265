"""A process of its own for what is measured inside: started by :mod:`benchmarks.work`."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from dataqueue import JobQueue, NewJob


async def drain(url: str, jobs: int, sleep: float | None, options: dict[str, Any]) -> dict[str, float]:
    """From the first claim to the last completion in the store. The first connection is not counted."""
    begun = 0
    all_begun = asyncio.Event()

    def count() -> None:
        nonlocal begun
        begun += 1
        if begun == jobs:
            all_begun.set()

    async def noop(_: Any) -> None:
        count()

    async def nap(_: Any) -> None:
        count()
        await asyncio.sleep(sleep)  # type: ignore[arg-type]

    async with JobQueue.from_url(url) as queue:
        worker = queue.create_processor({"noop": noop if sleep is None else nap}, **options)
        cpu, start = time.process_time(), time.perf_counter()
        worker.start_in_background()
        await all_begun.wait()
        result = await worker.stop_and_drain(None)
        seconds = time.perf_counter() - start
        if result.left or result.handed_back:
            raise RuntimeError(f"not drained: {result}")
        return {
            "rate": jobs / seconds,
            "cpu": (time.process_time() - cpu) / jobs * 1000,
            "megabytes": megabytes("VmRSS"),
        }


async def latency(url: str, jobs: int) -> list[float]:
    """As users run a worker: all settings at their defaults."""
    delays: list[float] = []
    done = asyncio.Event()

    async def timed(payload: Any) -> None:
        now = time.time()
        if payload["at"] is None:  # the adder's first statement, not prepared yet
            return
        delays.append(now - payload["at"])
        if len(delays) == jobs:
            done.set()

    async with JobQueue.from_url(url) as queue:
        worker = queue.create_processor({"timed": timed})
        worker.start_in_background()
        say("ready")
        await done.wait()
        await worker.stop_and_drain()
    return delays


async def bulk(url: str, jobs: int) -> dict[str, float]:
    """Memory of a bulk add; a smaller one goes first, so that what is loaded once does not count."""
    async with JobQueue.from_url(url) as queue:
        await queue.add_jobs(NewJob("noop", {"n": number}) for number in range(2000))
        before = megabytes("VmHWM")
        added = await queue.add_jobs(NewJob("noop", {"n": number}) for number in range(jobs))
        if len(added) != jobs:
            raise RuntimeError(f"{len(added)} of {jobs} jobs were added")
        return {"before": before, "peak": megabytes("VmHWM")}


def megabytes(what: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (the most so far); where there is no /proc, always the most so far."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    line = next(line for line in status.read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    task = {"drain": drain, "latency": latency, "bulk": bulk}[sys.argv[1]]
    say(asyncio.run(task(**json.loads(sys.argv[2]))))
