"""Jobs of a group share its places, over all workers and whatever becomes of them: see group_concurrency."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from chaos.ledger import Fleet, Ledger, compare, draw_seed, fleet
from support import until

from dataqueue import JobHandle, JobQueue

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

LEASE = 2.0
PLACES = 2
TENANTS = [f"tenant-{n}" for n in range(1, 7)]
BATCH = 10
"""Jobs of each tenant that are added at a time."""


def jobs_of(tenant: str, count: int, seconds: float) -> Iterable[dict[str, Any]]:
    for _ in range(count):
        payload = {"group": tenant, "seconds": seconds}
        yield {"job_type": "grouped", "payload": payload, "group": tenant, "max_attempts": 100}


def most_at_once(ledger: Ledger) -> Counter[str]:
    """By group, how many jobs ran at the same time. What a worker ran when it was cut off counts until then."""
    ends = {line["lease"]: line["at"] for line in ledger.lines("end")}
    stored = {line["lease"] for line in ledger.lines("stored") if line["of"] == "completed"}
    cuts = ledger.lines("cut")
    changes: list[tuple[float, int, str]] = []
    for start in ledger.lines("start"):
        if "group" not in start:
            continue
        lease, at = start["lease"], start["at"]
        until_cut = [cut["at"] for cut in cuts if cut["worker"] == start["worker"] and cut["at"] > at]
        over = ends.get(lease) if lease in stored else min(until_cut, default=at)  # else its lease was lost before
        assert over is not None, start
        changes += [(at, 1, start["group"]), (over, -1, start["group"])]
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for _, change, group in sorted(changes):
        running[group] += change
        most[group] = max(most[group], running[group])
    return most


async def campaign(
    queue: JobQueue, workers: Fleet, faults: list[str], chance: random.Random, pg_url: str | None
) -> None:
    added: list[JobHandle[Any]] = []
    losses: list[str] = []
    over = asyncio.Event()
    ledger = workers.ledger

    def start() -> str:
        return workers.start(group_concurrency=PLACES, concurrency=3)

    names = [start() for _ in range(3)]
    for name in names:
        await until(lambda name=name: workers.is_up(name), name)
    unlimited = workers.start(concurrency=3)  # the limit holds for it as well

    async def feed() -> None:
        while not over.is_set():
            counts = (await queue.stats()).by_status
            if sum(counts.values()) - counts.get("completed", 0) < BATCH * len(TENANTS):
                for tenant in TENANTS:
                    seconds = chance.choice((0, 0.01, 0.1))
                    added.extend(await queue.add_jobs(jobs_of(tenant, BATCH, seconds)))
                added.extend(
                    await queue.add_jobs({"job_type": "quick", "payload": 0, "max_attempts": 100} for _ in range(5))
                )
            await asyncio.sleep(0.02)

    async def rescued(name: str) -> bool:
        held = await queue.get_jobs(status="processing", limit=1000)
        return name not in {job.locked_by for job in held}

    async def suffer(fault: str) -> None:
        begun = len(ledger.lines("start"))
        enough = begun + chance.randint(20, 80)
        await until(lambda: len(ledger.lines("start")) >= enough, "load")
        if fault == "lock" and pg_url:
            async with await psycopg.AsyncConnection.connect(pg_url) as conn:
                await conn.execute(
                    "SELECT FROM job_queue WHERE status = 'pending' AND random() < 0.3 FOR UPDATE SKIP LOCKED"
                )
                begun = len(ledger.lines("start"))
                await until(lambda: len(ledger.lines("start")) >= begun + 10, "work beside the locked rows")
            return
        name = names.pop(0)
        ledger.note("cut", worker=name)
        losses.append(name)
        if fault == "kill":
            workers.send(name, signal.SIGKILL)
            names.append(start())
        else:
            workers.send(name, signal.SIGSTOP)
            await until(lambda: rescued(name), f"the rescue of what {name} had")
            workers.send(name, signal.SIGCONT)
            names.append(name)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed())
        for fault in faults:
            await suffer(fault)
        over.set()
    for handle in added:
        await handle.wait(timeout=60)
    for name in [*names, unlimited]:
        workers.send(name, signal.SIGTERM)
        await until(lambda name=name: workers.has_ended(name), f"the end of {name}")
    await compare(queue, added, ledger, losses)
    assert most_at_once(ledger) == dict.fromkeys(TENANTS, PLACES), "all places are used, and no more"
    print(f"{len(faults)} faults, {len(added)} jobs, {len(ledger.lines('start'))} starts")


def _pg_url(store_url: str) -> str | None:
    return store_url if store_url.startswith("postgres") else None


async def test_a_group_never_has_more_than_its_places(queue: JobQueue, store_url: str, tmp_path: Path) -> None:
    """D-GROUPRACE, R-GROUPCOUNT: with several workers, one without a limit, one killed, one stopped."""
    chance = draw_seed(long=False)
    with fleet(store_url, tmp_path, LEASE) as workers:
        await campaign(queue, workers, ["lock", "kill", "stop"], chance, _pg_url(store_url))


@pytest.mark.chaos
@pytest.mark.timeout(3600)
async def test_a_group_never_has_more_than_its_places_for_long(queue: JobQueue, store_url: str, tmp_path: Path) -> None:
    chance = draw_seed(long=True)
    faults = ["lock", "kill", "stop"] * 12
    chance.shuffle(faults)
    with fleet(store_url, tmp_path, LEASE) as workers:
        await campaign(queue, workers, faults, chance, _pg_url(store_url))


async def test_other_jobs_do_not_wait_for_a_full_group(queue: JobQueue, store_url: str, tmp_path: Path) -> None:
    """R-STARVE: however many jobs of the group stand first in the line."""
    full = list(await queue.add_jobs(jobs_of("full", 200, 0.2)))
    others = list(await queue.add_jobs({"job_type": "quick", "payload": 0} for _ in range(50)))
    others += await queue.add_jobs(jobs_of("other", 20, 0))
    with fleet(store_url, tmp_path, LEASE) as workers:
        for _ in range(2):
            workers.start(group_concurrency=1, concurrency=3)
        for handle in others:
            await handle.wait(timeout=60)
        begun = len(workers.ledger.lines("start", group="full"))
        assert 0 < begun < len(full) / 2, "the group has its turn, and is far from done"


async def test_groups_take_turns(queue: JobQueue, store_url: str, tmp_path: Path) -> None:
    """More groups wait than can run; the first in line has all of its jobs before those of the others."""
    each = 15
    added: list[JobHandle[Any]] = []
    for tenant in TENANTS:
        added += await queue.add_jobs(jobs_of(tenant, each, 0.02))
    with fleet(store_url, tmp_path, LEASE) as workers:
        for _ in range(2):
            workers.start(group_concurrency=PLACES, concurrency=PLACES + 1)
        for handle in added:
            await handle.wait(timeout=60)
        starts = [line["group"] for line in workers.ledger.lines("start")]
        last_of_first = max(n for n, group in enumerate(starts) if group == TENANTS[0])
        before = Counter(starts[:last_of_first])
        assert all(before[tenant] >= each / 3 for tenant in TENANTS), before
        assert max(most_at_once(workers.ledger).values()) <= PLACES
