"""Workers that are killed at every await point of a job of ten steps: what is recorded is not done again."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from chaos.ledger import Fleet, Ledger, draw_seed, fleet
from chaos.test_kills import Kill
from support import until

from dataqueue import JobHandle, JobQueue, TokenCompleted

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

LEASE = 2.0
SLOTS = 3
UNFINISHED = 12
STEPS = 10
TYPES = ["durable", "quick"]


def plan(chance: random.Random, *, long: bool) -> list[Kill]:
    """Within and around every step, and around every wait; or, in the short form, some of it."""
    kills: list[Kill] = [{"at": "step", "when": "during", "nth": n} for n in range(1, STEPS + 1)]
    for when in ("before", "during", "after"):
        kills += [{"at": "save", "when": when, "nth": n, "turns": chance.randint(1, 4)} for n in range(1, STEPS + 3)]
        for at in ("wait", "load", "complete"):
            kills += [{"at": at, "when": when, "nth": n, "turns": chance.randint(1, 4)} for n in (1, 2, 3)]
    chance.shuffle(kills)
    return kills if long else kills[:9]


async def campaign(queue: JobQueue, workers: Fleet, kills: list[Kill], chance: random.Random) -> None:
    added: list[JobHandle[Any]] = []
    over, ended = asyncio.Event(), asyncio.Event()

    async def work_and_die() -> None:
        while kills:
            kill = kills.pop()
            name = workers.start(kill=kill, types=TYPES)
            await until(lambda: workers.has_ended(name), f"the end of {name} by {kill}")  # noqa: B023

    async def feed() -> None:
        while not over.is_set():
            counts = (await queue.stats()).by_type.get("durable", {})
            if sum(counts.values()) - counts.get("completed", 0) < UNFINISHED:
                added.extend(
                    [
                        await queue.add_job(
                            "durable", chance.uniform(0, 0.05), max_attempts=100, retry_delay=timedelta(0)
                        )
                        for _ in range(UNFINISHED)
                    ]
                )
            await asyncio.sleep(0.05)

    async def answer() -> None:
        answered: set[str] = set()
        while not ended.is_set():
            for line in workers.ledger.lines("token"):
                if line["token"] not in answered and chance.random() < 0.5:
                    answered.add(line["token"])
                    try:
                        await queue.complete_token(line["token"], 100)
                    except TokenCompleted:
                        pass
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(answer())
        tasks.create_task(feed())
        await asyncio.wait([tasks.create_task(work_and_die()) for _ in range(SLOTS)])
        over.set()
        healthy = workers.start(types=TYPES)
        for handle in added:
            await handle.wait(timeout=90)
        ended.set()
    workers.send(healthy, signal.SIGTERM)
    await until(lambda: workers.has_ended(healthy), "the end of the healthy worker")
    await compare(queue, added, workers.ledger)
    print(f"{len(workers.dead)} killed, {len(added)} jobs, {len(workers.ledger.lines('did'))} steps done")


async def compare(queue: JobQueue, added: list[JobHandle[Any]], ledger: Ledger) -> None:
    """Every job has ended well and once, and no step was done after it was recorded, or more often than somebody died."""
    killed = len(ledger.lines("killed"))
    again = 0
    for handle in added:
        job = await handle.refresh()
        assert job.status == "completed" and job.output["total"] == sum(range(STEPS)) + 101, job
        lines = ledger.lines(job=job.id)
        for number in map(str, range(STEPS)):
            did = [line["at"] for line in lines if line["what"] == "did" and line["step"] == number]
            stored = [line["at"] for line in lines if line["what"] == "stored" and line.get("step") == number]
            assert did and len(stored) <= 1, "a step was recorded twice"
            assert not stored or max(did) < stored[0], f"step {number} of job {job.id} was done after it was recorded"
            again += len(did) - 1
        assert len({line["token"] for line in lines if line["what"] == "token"}) == 1, "two tokens of one step"
        kinds = [event.event_type for event in await queue.get_job_events(job.id)]
        resumed = sum(
            before == "waiting" or before == "unblocked" for before, kind in pairwise(kinds) if kind == "processing"
        )
        assert job.attempts == kinds.count("processing") - resumed - kinds.count("released"), kinds
        assert len(await queue.get_job_steps(job.id)) == STEPS + 5
    assert again <= killed * UNFINISHED
    assert [finding for finding in await queue.doctor(deep=True) if finding.level == "error"] == []


async def test_no_recorded_step_is_done_again(queue: JobQueue, store_url: str, tmp_path: Path) -> None:
    chance = draw_seed(long=False)
    with fleet(store_url, tmp_path, LEASE) as workers:
        await campaign(queue, workers, plan(chance, long=False), chance)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
async def test_workers_killed_at_every_await_point_of_ten_steps(
    queue: JobQueue, store_url: str, tmp_path: Path
) -> None:
    chance = draw_seed(long=True)
    with fleet(store_url, tmp_path, LEASE) as workers:
        await campaign(queue, workers, plan(chance, long=True), chance)
