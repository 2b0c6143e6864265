"""A worker in a process of its own that keeps a ledger and, if it is told to, kills itself at a chosen point.

python worker.py '{"url": …, "ledger": …, "name": …, "lease": 2, "kill": {"at": "complete", "when": "after", "nth": 3}}'

``when`` is before the store is asked, *during* (asked, but not answered), or after it has answered. A point is
the n-th time that this process comes by; there is no clock in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import psycopg
from chaos.ledger import Ledger

from dataqueue import JobContext, JobQueue, LeaseLost, StoreUnavailable, SyncJobContext
from dataqueue.backends.base import (
    Backend,
    Completed,
    Cycle,
    Failed,
    Heart,
    Held,
    Outcome,
    Pulse,
    Released,
    Waiting,
    WorkerInfo,
)

order: dict[str, Any] = json.loads(sys.argv[1])
NAME: str = order["name"]
ledger = Ledger(Path(order["ledger"]))
queue = JobQueue.from_url(order["url"])


# -- where it dies --------------------------------------------------------------------------------------


class Doom:
    """Counts how often the process comes by its point, and kills it there."""

    def __init__(self, at: str = "", when: str = "", nth: int = 1, turns: int = 1, by: str = "SIGKILL") -> None:
        self._at, self._when, self._left, self._turns = at, when, nth, turns
        self._by = signal.Signals[by]

    def passes(self, points: set[str], when: str) -> None:
        if self._is_here(points, when):
            self._die()

    async def passes_within(self, points: set[str], call: Any) -> Any:
        """Ask the store, and die while it answers: after some turns of the event loop."""
        if not self._is_here(points, "during"):
            return await call
        asked = asyncio.ensure_future(call)
        for _ in range(self._turns):
            await asyncio.sleep(0)
        self._die()
        return await asked

    def _is_here(self, points: set[str], when: str) -> bool:
        if self._at in points and self._when == when:
            self._left -= 1
            return self._left == 0
        return False

    def _die(self) -> None:
        ledger.note("killed", worker=NAME)
        os.kill(os.getpid(), self._by)


doom = Doom(**order.get("kill", {}))
POINTS: dict[type[Outcome], str] = {Completed: "complete", Failed: "retry", Released: "release", Waiting: "wait"}
CALLS = {
    "register_worker": "register",
    "set_progress": "progress",
    "set_output": "output",
    "prolong": "prolong",
    "reclaim_expired": "reclaim",
    "listen_for": "listen",
    "unregister_worker": "unregister",
    "load_steps": "load",
    "save_step": "save",
}
"""Methods of the backend, and the points they are."""


def watch(backend: Backend) -> None:
    for method, point in CALLS.items():
        setattr(backend, method, _watched(getattr(backend, method), point))
    backend.cycle = _watched_cycle(backend.cycle)  # type: ignore[method-assign]
    for method in ("sync", "__aexit__"):  # by which a pipeline commits
        setattr(psycopg.AsyncPipeline, method, _watched_commit(getattr(psycopg.AsyncPipeline, method)))
    make_heart = backend.heart
    backend.heart = lambda: WatchedHeart(make_heart())  # type: ignore[method-assign]


def _watched(call: Callable[..., Any], point: str) -> Callable[..., Any]:
    async def watched(*arguments: Any) -> Any:
        doom.passes({point}, "before")
        began = time.clock_gettime(time.CLOCK_MONOTONIC)
        answer = await doom.passes_within({point}, call(*arguments))
        if point in ("progress", "output", "prolong"):
            what = "stored" if answer else "refused"
            ledger.note(what, of=point, worker=NAME, job=arguments[0], lease=arguments[1], began=began)
        elif point == "save":
            what = "stored" if answer else "refused"
            step = arguments[2].name
            ledger.note(what, of=point, worker=NAME, job=arguments[0], lease=arguments[1], began=began, step=step)
        if point != "reclaim" or answer:
            doom.passes({point}, "after")
        return answer

    return watched


def _watched_commit(commit: Callable[..., Any]) -> Callable[..., Any]:
    async def watched(*arguments: Any) -> Any:
        doom.passes({"commit"} if "complete" in recording else set(), "before")
        return await commit(*arguments)

    return watched


recording: set[str] = set()
"""The points that the cycle is at which is under way."""


def _watched_cycle(call: Callable[..., Any]) -> Callable[..., Any]:
    async def watched(worker_id: str, outcomes: list[Outcome], types: list[str], limit: int, promote: bool) -> Cycle:
        points = {POINTS[type(outcome)] for outcome in outcomes if type(outcome) in POINTS}
        doom.passes(points | ({"claim"} if limit else set()), "before")
        began = time.clock_gettime(time.CLOCK_MONOTONIC)
        recording.clear()
        recording.update(points)
        asked = call(worker_id, outcomes, types, limit, promote)
        cycle: Cycle = await doom.passes_within(points | ({"claim"} if limit else set()), asked)
        for outcome in outcomes:
            what = "refused" if (outcome.id, outcome.lease_id) in cycle.lost else "stored"
            kind = type(outcome).__name__.lower()
            ledger.note(what, of=kind, worker=NAME, job=outcome.id, lease=outcome.lease_id, began=began)
        doom.passes(points | ({"claim"} if cycle.jobs else set()), "after")
        return cycle

    return watched


class WatchedHeart:
    def __init__(self, heart: Heart) -> None:
        self._heart = heart

    def beat(self, worker: WorkerInfo, held: list[Held]) -> Pulse:
        doom.passes({"beat"}, "before")
        if Path(order.get("mute", "")).is_file():
            raise StoreUnavailable("This heart is to say no more.")
        pulse = self._heart.beat(worker, held)
        doom.passes({"beat"}, "after")
        return pulse

    def close(self) -> None:
        self._heart.close()


# -- what it runs ---------------------------------------------------------------------------------------


def begin(ctx: JobContext | SyncJobContext, **more: Any) -> dict[str, Any]:
    me = {"worker": NAME, "lease": ctx._attempt.job.lease_id, "attempt": ctx.attempt}
    ledger.note("start", job=ctx.job_id, **me, **more)
    return me


@queue.job
async def quick(payload: float, ctx: JobContext) -> dict[str, Any]:
    doom.passes({"handler"}, "before")
    me = begin(ctx)
    await asyncio.sleep(payload)
    doom.passes({"handler"}, "during")
    await asyncio.sleep(0)
    ledger.note("end", job=ctx.job_id, **me)
    doom.passes({"handler"}, "after")
    return me


@queue.job
def threaded(payload: float, ctx: SyncJobContext) -> dict[str, Any]:
    me = begin(ctx)
    time.sleep(payload)
    ctx.set_progress(50)
    ledger.note("end", job=ctx.job_id, **me)
    return me


@queue.job
async def writes(payload: float, ctx: JobContext) -> None:
    me = begin(ctx)
    await ctx.set_progress(50)
    await ctx.prolong(timedelta(minutes=1))
    await asyncio.sleep(payload)
    await ctx.set_output(me)
    ledger.note("end", job=ctx.job_id, **me)


@queue.job
async def flaky(payload: float, ctx: JobContext) -> dict[str, Any]:
    """Its first attempt fails."""
    me = begin(ctx)
    await asyncio.sleep(payload)
    if ctx.attempt == 1:
        ledger.note("raise", job=ctx.job_id, **me)
        raise RuntimeError("the first attempt")
    return me


@queue.job
async def grouped(payload: dict[str, Any], ctx: JobContext) -> dict[str, Any]:
    me = begin(ctx, group=payload["group"])
    await asyncio.sleep(payload["seconds"])
    ledger.note("end", job=ctx.job_id, **me)
    return me


@queue.job
async def linked(payload: dict[str, Any], ctx: JobContext) -> dict[str, Any]:
    """Its first attempts fail, so many as its payload says."""
    me = begin(ctx)
    await asyncio.sleep(payload["seconds"])
    if ctx.attempt <= payload["fails"]:
        raise RuntimeError("no")
    ledger.note("end", job=ctx.job_id, **me)
    return me


@queue.job
async def durable(payload: float, ctx: JobContext) -> dict[str, Any]:
    """Ten steps, with a wait for a time, a token and a child between them."""
    me = begin(ctx)

    async def do(number: int) -> int:
        ledger.note("did", job=ctx.job_id, step=str(number), **me)
        await asyncio.sleep(0)
        doom.passes({"step"}, "during")
        return number

    async def add_child() -> int:
        child = await queue.add_job("quick", payload, idempotency_key=f"child of {ctx.job_id}", max_attempts=100)
        return child.id

    total = 0
    for number in range(10):
        total += await ctx.run(str(number), do, number)
        if number == 2:
            await ctx.wait_for(timedelta(seconds=payload + 0.01))
        elif number == 4:
            token = await ctx.create_token("token", timeout="1d")
            ledger.note("token", job=ctx.job_id, token=token.id, **me)
            total += (await ctx.wait_for_token(token)).unwrap()
        elif number == 6:
            (child,) = await ctx.wait_for_jobs([await ctx.run("child", add_child)])
            total += len(child["worker"]) > 0
    return {**me, "total": total}


@queue.job
async def first_hangs(payload: Any, ctx: JobContext) -> dict[str, Any]:
    """The first attempt sleeps for ever; later ones finish at once."""
    me = begin(ctx)
    if ctx.attempt == 1:
        await asyncio.sleep(3600)
    return me


# -- zombies: the first attempt waits for a file, and then does what its payload says --------------------


async def _ends_late(act: str, me: dict[str, Any]) -> dict[str, Any]:
    if act == "fail":
        raise RuntimeError("late")
    return me


@queue.job
async def late(payload: dict[str, str], ctx: JobContext) -> Any:
    me = begin(ctx)
    if ctx.attempt > 1:
        return me
    for call in (partial(_wait_for, payload["go"]), *_writes_of(ctx)):
        for _ in range(2):  # it goes on when it is cancelled
            try:
                await call()
                break
            except LeaseLost:
                ledger.note("LeaseLost", job=ctx.job_id, **me)
                break
            except asyncio.CancelledError:
                ledger.note("cancelled", job=ctx.job_id, **me)
    return _ends_late(payload, ctx, me)


@queue.job
def late_thread(payload: dict[str, str], ctx: SyncJobContext) -> Any:
    me = begin(ctx)
    if ctx.attempt > 1:
        return me
    while not Path(payload["go"]).exists():
        time.sleep(0.01)
    for write in _writes_of(ctx):
        try:
            write()
        except LeaseLost:
            ledger.note("LeaseLost", job=ctx.job_id, **me)
    return _ends_late(payload, ctx, me)


async def _wait_for(name: str) -> None:
    while not Path(name).exists():
        await asyncio.sleep(0.01)


def _writes_of(ctx: JobContext | SyncJobContext) -> tuple[Callable[[], Any], ...]:
    return (
        partial(ctx.set_progress, 99),
        partial(ctx.set_output, "late"),
        partial(ctx.prolong, timedelta(minutes=1)),
    )


def _ends_late(payload: dict[str, str], ctx: JobContext | SyncJobContext, me: dict[str, Any]) -> dict[str, Any]:
    ledger.note("late end", job=ctx.job_id, **me)
    if payload["act"] == "fail":
        raise RuntimeError("late")
    return me


# -- the process ----------------------------------------------------------------------------------------


async def main() -> None:
    watch(queue.backend)
    async with queue:
        processor = queue.create_processor(
            concurrency=order.get("concurrency", 10),
            lease=timedelta(seconds=order["lease"]),
            grace=timedelta(seconds=1),
            worker_id=NAME,
            group_concurrency=order.get("group_concurrency"),
            **({"job_types": order["types"]} if "types" in order else {}),
        )
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        processor.start_in_background()
        ledger.note("up", worker=NAME)
        if "drain_after" in order:
            while len(ledger.lines("start", worker=NAME)) < order["drain_after"]:
                await asyncio.sleep(0.01)
        else:
            await stop.wait()
        await processor.stop_and_drain(0 if "drain_after" in order else 30)


if __name__ == "__main__":
    asyncio.run(main())
