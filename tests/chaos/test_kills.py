"""Workers that are killed (SIGKILL) at every point where they wait for somebody; the long form is ``make chaos``."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from chaos.ledger import Fleet, compare, draw_seed, fleet
from support import until

from dataqueue import JobHandle, JobQueue

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

LEASE = 2.0
SLOTS = 3
UNFINISHED = 60
"""Jobs that are there to be done at any time, so that every point is reached."""

POINTS = (
    "register", "claim", "handler", "progress", "output", "prolong", "complete", "retry", "release", "reclaim",
    "beat", "listen", "unregister",
)  # fmt: skip
WHEN = ("before", "during", "after")
WHILE_DRAINING = ("release", "unregister")
ONCE = ("register", "unregister", "listen")
"""Points that a worker comes by once, or seldom."""

Kill = dict[str, Any]


def plan(chance: random.Random, rounds: int | None) -> list[Kill]:
    """Every point with every moment, ``rounds`` times; or, for None, every point once."""
    pairs = [(at, when) for at in POINTS for when in WHEN if (at, when) != ("beat", "during")]
    if rounds is None:
        pairs = [(at, chance.choice([when for one, when in pairs if one == at])) for at in POINTS]
    kills = [
        {"at": at, "when": when, "nth": 1 if at in ONCE else chance.randint(1, 3), "turns": chance.randint(1, 4)}
        for at, when in pairs * (rounds or 1)
    ]
    chance.shuffle(kills)
    return kills


async def campaign(queue: JobQueue, workers: Fleet, kills: list[Kill], chance: random.Random) -> None:
    added: list[JobHandle[Any]] = []
    over = asyncio.Event()

    # One worker at a time is to die of a rescue: while others die, who are to be rescued.
    rescues = [kill for kill in kills if kill["at"] == "reclaim"]
    others = [kill for kill in kills if kill["at"] != "reclaim"]

    async def work_and_die(*queues: list[Kill]) -> None:
        while left := next((one for one in queues if one), None):
            kill = left.pop()
            draining = {"drain_after": chance.randint(3, 8)} if kill["at"] in WHILE_DRAINING else {}
            idle = {"types": ["first_hangs"]} if kill["at"] == "listen" else {}  # only who finds nothing listens
            name = workers.start(kill=kill, **draining, **idle)
            await until(lambda: workers.has_ended(name), f"the end of {name} by {kill}")  # noqa: B023
            assert name in workers.dead or draining, f"{name} came to no {kill}"

    async def feed() -> None:
        while not over.is_set():
            counts = (await queue.stats()).by_status
            if sum(counts.values()) - counts.get("completed", 0) < UNFINISHED:
                added.extend(
                    await queue.add_jobs(
                        {
                            "job_type": chance.choice(("quick", "threaded", "writes", "flaky")),
                            "payload": chance.uniform(0, 0.05),
                            "max_attempts": 100,
                            "retry_delay": timedelta(0),
                        }
                        for _ in range(UNFINISHED)
                    )
                )
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed())
        deaths = [tasks.create_task(work_and_die(others)) for _ in range(SLOTS - 1)]
        deaths.append(tasks.create_task(work_and_die(rescues, others)))
        await asyncio.wait(deaths)
        over.set()
    healthy = workers.start()
    for handle in added:
        await handle.wait(timeout=60)
    workers.send(healthy, signal.SIGTERM)
    await until(lambda: workers.has_ended(healthy), "the end of the healthy worker")
    await compare(queue, added, workers.ledger, workers.dead)
    print(f"{len(workers.dead)} killed, {len(added)} jobs, {len(workers.ledger.lines('start'))} starts")


async def test_workers_killed_wherever_they_wait(queue: JobQueue, store_url: str, tmp_path: Path) -> None:
    chance = draw_seed(long=False)
    with fleet(store_url, tmp_path, LEASE) as workers:
        await campaign(queue, workers, plan(chance, None), chance)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
async def test_many_workers_killed_wherever_they_wait(queue: JobQueue, store_url: str, tmp_path: Path) -> None:
    chance = draw_seed(long=True)
    with fleet(store_url, tmp_path, LEASE) as workers:
        await campaign(queue, workers, plan(chance, 5), chance)


async def test_the_job_of_a_killed_worker_runs_elsewhere(queue: JobQueue, store_url: str, tmp_path: Path) -> None:
    with fleet(store_url, tmp_path, LEASE) as workers:
        handle = await queue.add_job("first_hangs", max_attempts=5)
        victim = workers.start()
        await until(lambda: workers.ledger.lines("start"), "the first start")
        other = workers.start()
        await until(lambda: workers.is_up(other), "the second worker")
        workers.send(victim, signal.SIGKILL)
        job = await handle.wait(timeout=60)
        assert (job.status, job.output["worker"], job.attempts) == ("completed", other, 2)
        events = [event.event_type for event in await queue.get_job_events(handle.id)]
        assert events == ["added", "processing", "reclaimed", "processing", "completed"]
        assert len(workers.ledger.lines("start")) == 2
