"""``ctx.transaction()``: a handler's own writes, its steps and its completion are stored together or not at all."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from chaos.ledger import draw_seed
from support import Working, take_away, until

from dataqueue import JobContext, JobQueue

from .killed_in_transactions import POINTS, handler_for


@pytest.fixture
def ledger(pg_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(pg_url, autocommit=True) as conn:
        conn.execute("CREATE TABLE ledger (job bigint, what text)")
        yield conn


def written(ledger: psycopg.Connection[Any]) -> list[str]:
    return [row[0] for row in ledger.execute("SELECT what FROM ledger ORDER BY what").fetchall()]


async def test_a_step_commits_with_what_it_wrote(
    queue: JobQueue, working: Working, ledger: psycopg.Connection[Any]
) -> None:
    async def handler(payload: Any, ctx: JobContext) -> str:
        async def charge(conn: psycopg.AsyncConnection[Any]) -> str:
            await conn.execute("INSERT INTO ledger VALUES (%s, 'charged')", [ctx.job_id])
            return "receipt"

        async with ctx.transaction() as conn:
            receipt = await ctx.run("charge", charge, conn)
            if ctx.attempt == 1:
                raise RuntimeError("before the commit")
        if ctx.attempt == 2:
            raise RuntimeError("after the commit")
        return receipt

    job = await queue.add_job("t", max_attempts=3, retry_delay=timedelta(0))
    await working(queue, {"t": handler})
    assert await job.result(30) == "receipt"
    assert written(ledger) == ["charged"]
    assert [step.name for step in await queue.get_job_steps(job.id)] == ["charge"]


async def test_a_step_that_was_rolled_back_can_be_done_again_in_the_same_attempt(
    queue: JobQueue, working: Working, ledger: psycopg.Connection[Any]
) -> None:
    async def handler(payload: Any, ctx: JobContext) -> int:
        async def write(conn: psycopg.AsyncConnection[Any], n: int) -> int:
            await conn.execute("INSERT INTO ledger VALUES (%s, %s)", [ctx.job_id, str(n)])
            return n

        for n in (1, 2):
            try:
                async with ctx.transaction() as conn:
                    done = await ctx.run("write", write, conn, n)
                    if n == 1:
                        raise ValueError("once more")
                    return done
            except ValueError:
                pass
        return 0

    job = await queue.add_job("t", max_attempts=1)
    await working(queue, {"t": handler})
    assert await job.result(30) == 2
    assert written(ledger) == ["2"]


async def test_a_completion_commits_with_what_was_written(
    queue: JobQueue, working: Working, ledger: psycopg.Connection[Any]
) -> None:
    hooks: list[str] = []
    for name in ("job:completed", "job:failed"):
        queue.on(name, lambda hook: hooks.append(hook.name))  # type: ignore[arg-type]

    async def handler(payload: str, ctx: JobContext) -> str:
        async with ctx.transaction() as conn:
            await conn.execute("INSERT INTO ledger VALUES (%s, %s)", [ctx.job_id, payload])
            await ctx.complete(f"done {payload}")
            if payload == "rolled back":
                raise RuntimeError("no")
        if payload == "raises later":
            raise RuntimeError("too late")
        return "not this"

    jobs = {
        name: await queue.add_job("t", name, max_attempts=1, group="g")
        for name in ("plain", "rolled back", "raises later")
    }
    after = await queue.add_job("t", "plain", depends_on=jobs["plain"], max_attempts=1)
    await working(queue, {"t": handler}, group_concurrency=1)
    assert await jobs["plain"].result(30) == "done plain"
    assert await jobs["raises later"].result(30) == "done raises later"
    assert (await jobs["rolled back"].wait(30)).last_error == "no"
    assert await after.result(30) == "done plain"
    assert written(ledger) == ["plain", "plain", "raises later"]
    await until(lambda: hooks.count("job:completed") == 3 and hooks.count("job:failed") == 1, "the hooks")


async def test_a_lost_attempt_commits_nothing(
    queue: JobQueue, working: Working, ledger: psycopg.Connection[Any]
) -> None:
    going, go_on = asyncio.Event(), asyncio.Event()
    refused: list[str] = []

    async def handler(payload: str, ctx: JobContext) -> str:
        if going.is_set():
            return "second"
        going.set()
        while not (go_on.is_set() and ctx.aborted):
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass  # it does not listen
        try:
            async with ctx.transaction() as conn:
                await conn.execute("INSERT INTO ledger VALUES (%s, 'stale')", [ctx.job_id])
                if payload == "step":
                    await ctx.run("s", asyncio.sleep, 0)
                else:
                    await ctx.complete("stale")
        except BaseException as error:
            refused.append(type(error).__name__)
            raise
        return "first"

    for payload in ("step", "complete"):
        job = await queue.add_job("t", payload, max_attempts=3)
        await working(queue, {"t": handler}, concurrency=2)
        await going.wait()
        await take_away(queue, job.id)
        go_on.set()
        assert await job.result(30) == "second"
        await until(lambda: refused, "the refusal")
        assert refused == ["LeaseLost"]
        refused.clear()
        going.clear()
        go_on.clear()
    assert written(ledger) == []


async def test_what_a_transaction_cannot_do(queue: JobQueue, working: Working) -> None:
    async def handler(payload: str, ctx: JobContext) -> None:
        if payload == "outside":
            await ctx.complete(1)
        async with ctx.transaction():
            if payload == "wait":
                await ctx.wait_for(timedelta(hours=1))
            async with ctx.transaction():
                pass

    jobs = {name: await queue.add_job("t", name, max_attempts=1) for name in ("outside", "wait", "nested")}
    await working(queue, {"t": handler})
    for name, message in {
        "outside": "belongs into",
        "wait": "would roll it back",
        "nested": "open here already",
    }.items():
        assert message in ((await jobs[name].wait(30)).last_error or ""), name


async def test_a_nested_transaction_is_refused_also_if_no_connection_is_left(
    make_queue: Callable[..., JobQueue], working: Working
) -> None:
    queue = make_queue(max_connections=3)

    async def handler(payload: Any, ctx: JobContext) -> None:
        async with ctx.transaction(), ctx.transaction():
            pass

    job = await queue.add_job("t", max_attempts=1)
    await working(queue, {"t": handler})
    assert "open here already" in ((await job.wait(30)).last_error or "")


async def test_more_transactions_than_connections(queue: JobQueue, working: Working) -> None:
    """Handlers that hold transactions leave the worker the connections that it needs."""

    async def handler(payload: Any, ctx: JobContext) -> int:
        async with ctx.transaction() as conn:
            await conn.execute("SELECT pg_sleep(0.02)")
            await ctx.run("s", asyncio.sleep, 0)
        return 1

    jobs = await queue.add_jobs({"job_type": "t", "max_attempts": 1} for _ in range(60))
    await working(queue, {"t": handler}, concurrency=30)
    for job in jobs:
        assert await job.result(30) == 1


async def kill_workers(queue: JobQueue, working: Working, url: str, points: list[str]) -> None:
    """A worker a job, each killed at its point; then one that is not."""
    types = [f"t{number}" for number in range(len(points))]
    jobs = [await queue.add_job(job_type, max_attempts=5, retry_delay=timedelta(0)) for job_type in types]
    script = str(Path(__file__).parent / "killed_in_transactions.py")
    for job_type, point in zip(types, points, strict=True):
        worker = await asyncio.create_subprocess_exec(sys.executable, script, url, job_type, point)
        assert await asyncio.wait_for(worker.wait(), 60) == -signal.SIGKILL, point
    await working(queue, dict.fromkeys(types, handler_for("")), lease=timedelta(seconds=1))
    for job, point in zip(jobs, points, strict=True):
        assert await job.result(60) == "done", point
        assert [step.name for step in await queue.get_job_steps(job.id)] == ["step"], point


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
async def test_killed_at_every_point_it_writes_once(
    queue: JobQueue, working: Working, ledger: psycopg.Connection[Any], pg_url: str
) -> None:
    await kill_workers(queue, working, pg_url, list(POINTS))
    assert written(ledger) == ["end"] * len(POINTS) + ["step"] * len(POINTS)


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_killed_at_any_turn_it_writes_once(
    queue: JobQueue, working: Working, ledger: psycopg.Connection[Any], pg_url: str
) -> None:
    """Also within a statement and within a commit."""
    chance = draw_seed(long=True)
    turns = [str(chance.choice([chance.randint(0, 40), chance.randint(0, 1500)])) for _ in range(150)]
    await kill_workers(queue, working, pg_url, turns)
    assert written(ledger) == ["end"] * len(turns) + ["step"] * len(turns)
