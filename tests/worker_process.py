"""A worker in a process of its own, for tests that kill it. Writes a ledger: one line a start and an end.

python worker_process.py URL LEDGER [LEASE_SECONDS]
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from dataqueue import JobContext, JobQueue, LeaseLost, SyncJobContext

url, ledger_path, lease = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3] if len(sys.argv) > 3 else 2)
queue = JobQueue.from_url(url)


def note(*words: object) -> None:
    with ledger_path.open("a") as ledger:
        ledger.write(" ".join(str(word) for word in (os.getpid(), *words)) + "\n")


@queue.job
async def sleep(payload: float, ctx: JobContext) -> int:
    note("start", ctx.job_id, ctx.attempt)
    await asyncio.sleep(payload)
    note("end", ctx.job_id, ctx.attempt)
    return os.getpid()


@queue.job
async def first_hangs(payload: Any, ctx: JobContext) -> str:
    """The first attempt sleeps for ever; later ones finish at once."""
    note("start", ctx.job_id, ctx.attempt)
    if ctx.attempt == 1:
        await asyncio.sleep(3600)
    return f"attempt {ctx.attempt}"


@queue.job
def block_then_write(payload: dict[str, Any], ctx: SyncJobContext) -> str:
    """Blocks until the file ``go`` exists (the process may be stopped meanwhile), then writes everything."""
    note("start", ctx.job_id, ctx.attempt)
    if ctx.attempt > 1:
        return "by the second"
    while not Path(payload["go"]).exists():
        time.sleep(0.01)
    for what, write in (("progress", lambda: ctx.set_progress(99)), ("output", lambda: ctx.set_output("late"))):
        try:
            write()
            note("stored", ctx.job_id, what)
        except LeaseLost:
            note("refused", ctx.job_id, what)
    note("end", ctx.job_id, ctx.attempt)
    return "late return"


async def main() -> None:
    async with queue:
        note("up")
        processor = queue.create_processor(concurrency=10, lease=timedelta(seconds=lease), grace=timedelta(seconds=1))
        await processor.run()


asyncio.run(main())
