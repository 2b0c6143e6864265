"""Handlers with ``isolation="process"``: what a child process imports. Their queue is never opened."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from dataqueue import JobContext, JobQueue, LeaseLost, SyncJobContext, SyncJobQueue

queue = JobQueue.from_url()
sync_queue = SyncJobQueue.from_url()
logger = logging.getLogger("isolated")


def note(path: str, *words: object) -> None:
    with Path(path).open("a") as file:
        file.write(" ".join(str(word) for word in words) + "\n")


@queue.job(isolation="process")
def pid(payload: Any) -> int:
    return os.getpid()


@queue.job(isolation="process")
def other_pid(payload: Any) -> int:
    return os.getpid()


@queue.job(isolation="process", max_attempts=1)
def deaf(payload: str, ctx: SyncJobContext) -> None:
    """Ignores everything and goes on writing."""
    ctx.set_progress(40)
    note(payload, os.getpid())
    while True:
        note(payload, "on")
        time.sleep(0.005)


@queue.job(isolation="process", max_attempts=1)
async def deaf_async(payload: str, ctx: JobContext) -> None:
    await ctx.set_progress(40)
    note(payload, os.getpid())
    while True:
        note(payload, "on")
        try:
            await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            pass


@queue.job(isolation="process", max_attempts=1)
def holds_the_interpreter(payload: str) -> None:
    """No other thread of the process gets to run: a regular expression that takes for ever."""
    note(payload, os.getpid())
    re.match(r"(a+)+$", "a" * 64 + "b")


@queue.job(isolation="process", max_attempts=1)
def with_children(payload: str) -> None:
    code = "import sys, time\nwhile True: open(sys.argv[1], 'a').write('on\\n'); time.sleep(0.005)"
    child = subprocess.Popen([sys.executable, "-c", code, payload])
    note(f"{payload}.pids", os.getpid(), child.pid)
    child.wait()


@queue.job(isolation="process", max_attempts=1)
def listens(payload: str, ctx: SyncJobContext) -> None:
    note(payload, os.getpid())
    while not ctx.wait_aborted(60):
        pass
    note(payload, "aborted")
    raise TimeoutError("told to stop")


@queue.job(isolation="process", max_attempts=1)
async def listens_async(payload: str, ctx: JobContext) -> None:
    note(payload, os.getpid())
    try:
        await asyncio.sleep(3600)
    finally:
        note(payload, "aborted" if ctx.aborted else "not told")


@queue.job(isolation="process", max_attempts=5)
def first_goes_on(payload: str, ctx: SyncJobContext) -> str:
    if ctx.attempt > 1:
        return "second"
    note(payload, os.getpid())
    while True:
        note(payload, "on")
        time.sleep(0.005)


@queue.job(isolation="process")
def late_writer(payload: str, ctx: SyncJobContext) -> str:
    """Writes once its lease is lost, from the process that has already been given another job."""
    if payload == "leave":

        def write() -> None:
            go.wait()
            try:
                ctx.set_output("late")
            except LeaseLost:
                refused.set()

        threading.Thread(target=write, daemon=True).start()
        return "first"
    go.set()
    return "refused" if refused.wait(30) else "stored"


go, refused = threading.Event(), threading.Event()


@queue.job(isolation="process", max_attempts=1)
def dies(payload: str) -> None:
    if payload == "exit":
        os._exit(3)
    elif payload == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        ctypes.string_at(0)


@queue.job(isolation="process", max_attempts=1)
def leaves(payload: Any) -> None:
    sys.exit(4)


@queue.job(isolation="process", memory_limit=512 * 2**20, max_attempts=1)
def hungry(payload: int) -> int:
    return len(bytearray(payload))


@sync_queue.job(isolation="process")
def of_a_sync_queue(payload: int) -> int:
    return payload + 1


@dataclass
class Order:
    number: int
    name: str


@queue.job(isolation="process", max_attempts=1)
def typed(payload: Order, ctx: SyncJobContext) -> Order:
    assert type(payload) is Order
    return Order(payload.number + 1, f"{ctx.job_type} {ctx.attempt} {ctx.tags}")


@queue.job(isolation="process", max_attempts=1)
def talks(payload: str, ctx: SyncJobContext) -> Any:
    logger.debug("too quiet")
    logger.warning("hello %s", payload)
    try:
        raise ValueError("for the log")
    except ValueError:
        logger.exception("it happened")
    ctx.set_progress(12.6)
    ctx.set_output({"early": payload})
    return "ignored"


@queue.job(isolation="process", max_attempts=1)
async def raises(payload: str, ctx: JobContext) -> None:
    if payload == "progress":
        await ctx.set_progress(101)
    if payload == "output":
        await ctx.set_output(object())
    raise KeyError(payload)


@queue.job(isolation="process", max_attempts=1)
async def asks_async(payload: Any, ctx: JobContext) -> str:
    asked: list[int] = []

    async def more() -> timedelta | None:
        asked.append(1)
        return timedelta(milliseconds=100) if len(asked) < 3 else None

    ctx.on_timeout(more)
    try:
        await asyncio.sleep(3600)
    finally:
        note(payload, len(asked))
    return "never"


@queue.job(isolation="process", max_attempts=1)
def asks(payload: str, ctx: SyncJobContext) -> str:
    ctx.on_timeout(lambda: timedelta(minutes=1))
    note(payload, os.getpid())
    while not Path(f"{payload}.go").exists():
        time.sleep(0.01)
    ctx.prolong(timedelta(minutes=2))
    return "done"


@queue.job(isolation="process")
async def durable_async(payload: str, ctx: JobContext) -> list[Any]:
    steps = [await ctx.run("pid", os.getpid), await ctx.step("again", retries=1).run(os.getpid)]
    await ctx.wait_for(timedelta(milliseconds=100))
    token = await ctx.create_token("token", timeout="1d")
    note(payload, token.id)
    answer = await ctx.wait_for_token(token)
    return [steps[0] == steps[1], answer.unwrap()]


@sync_queue.job(isolation="process")
def durable_sync(payload: str, ctx: SyncJobContext) -> list[Any]:
    def once() -> int:
        note(payload, "step")
        return 1

    first = ctx.run("once", once)
    ctx.wait_for(timedelta(milliseconds=100))
    if ctx.run("attempt", lambda: ctx.attempt) != 1:
        raise RuntimeError("a wait costs no attempt")
    return [first, ctx.wait_for_jobs([])]


@queue.job(isolation="process")
async def transacts(payload: Any, ctx: JobContext) -> None:
    async with ctx.transaction():
        pass
