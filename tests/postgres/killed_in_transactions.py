"""A worker of one job that writes, records a step and completes in transactions, and kills itself on its way.

python killed_in_transactions.py URL JOB_TYPE POINT, where POINT is one of ``POINTS`` or a number of turns of the loop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from typing import Any

import psycopg

from dataqueue import JobContext, JobQueue

POINTS = ("begun", "stepped", "committed", "begun again", "written again", "completed", "all committed")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def die_after(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    die()


def handler_for(point: str) -> Any:
    """Whatever comes in between, ``step`` and ``end`` shall be written once each."""

    def at(name: str) -> None:
        if name == point:
            die()

    async def write(conn: psycopg.AsyncConnection[Any], job_id: int, what: str) -> None:
        await conn.execute("INSERT INTO ledger VALUES (%s, %s)", (job_id, what))

    async def handler(payload: Any, ctx: JobContext) -> None:
        doom = asyncio.create_task(die_after(int(point))) if point.isdigit() else None
        async with ctx.transaction() as conn:
            at("begun")
            await ctx.run("step", write, conn, ctx.job_id, "step")
            at("stepped")
        at("committed")
        async with ctx.transaction() as conn:
            at("begun again")
            await write(conn, ctx.job_id, "end")
            at("written again")
            await ctx.complete("done")
            at("completed")
        at("all committed")
        if doom is not None:
            await doom

    return handler


async def main(url: str, job_type: str, point: str) -> None:
    async with JobQueue.from_url(url, max_connections=3) as queue:
        processor = queue.create_processor({job_type: handler_for(point)}, lease=timedelta(seconds=1))
        await processor.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
