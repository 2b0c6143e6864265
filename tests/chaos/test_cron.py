"""Campaign 7: schedules. Processes race, die between any two steps, and the clock is set; each fire adds one job."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chaos.ledger import draw_seed
from support import until

from dataqueue import CatchUp, JobQueue
from dataqueue.testing import advance_clock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

ENQUEUE = """
import asyncio, sys
from dataqueue import JobQueue

async def main():
    async with JobQueue.from_url(sys.argv[1]) as queue:
        while True:
            await queue.enqueue_due_cron_jobs()

asyncio.run(main())
"""


@contextmanager
def enqueuers(url: str, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that do nothing but look for what is due."""
    running = [_start(url) for _ in range(count)]
    try:
        yield running
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()


def _start(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", ENQUEUE, url], env={**os.environ})


async def fires_of(queue: JobQueue, job_type: str) -> dict[str, list[str]]:
    """For each schedule the fires whose jobs there are, as the events of these tell."""
    found: dict[str, list[str]] = {}
    cursor: int | None = None
    while True:
        page = await queue.get_jobs(job_type=job_type, limit=1000, cursor=cursor)
        for job in page:
            metadata = (await queue.get_job_events(job.id))[0].metadata or {}
            found.setdefault(metadata["schedule"], []).append(metadata["scheduledFor"])
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


async def campaign(url: str, queue: JobQueue, seconds: int, kills: bool) -> None:
    """Every second fires ten schedules; whoever dies, and whoever is first, each fire has one job and none is left out."""
    chance = draw_seed(long=seconds > 60)
    names = [f"s{n}" for n in range(10)]
    for name in names:
        await queue.add_cron_job(name, "* * * * * *", "tick", allow_overlap=True, missed=CatchUp(1000))
    begun = {schedule.name: schedule.next_run_at for schedule in await queue.list_cron_jobs()}
    loop = asyncio.get_running_loop()
    with enqueuers(url, 3) as running:
        await until(lambda: _has_fired(queue), "the first fire")
        end = loop.time() + seconds
        while loop.time() < end:
            await asyncio.sleep(chance.uniform(0.05, 0.6))
            if kills:
                place = chance.randrange(len(running))
                running[place].send_signal(signal.SIGKILL)
                running[place].wait()
                running[place] = _start(url)
    await queue.enqueue_due_cron_jobs()
    schedules = {schedule.name: schedule for schedule in await queue.list_cron_jobs()}
    fires = await fires_of(queue, "tick")
    for name in names:
        moments = sorted(datetime.fromisoformat(text) for text in fires[name])
        assert max(Counter(moments).values()) == 1, f"a fire of {name} has two jobs"
        first, coming = begun[name], schedules[name].next_run_at
        assert first is not None and coming is not None
        wanted = [first + timedelta(seconds=n) for n in range(round((coming - first).total_seconds()))]
        assert moments == wanted, f"of {name} not every fire has its job"
        assert schedules[name].last_job_id is not None


async def _has_fired(queue: JobQueue) -> int:
    return len(await queue.get_jobs(job_type="tick", limit=1))


async def test_processes_race_and_die(store_url: str, queue: JobQueue) -> None:
    await campaign(store_url, queue, 5, kills=True)


@pytest.mark.chaos
async def test_processes_race_and_die_long(store_url: str, queue: JobQueue) -> None:
    await campaign(store_url, queue, 120, kills=True)


async def test_a_clock_that_is_set_doubles_no_fire(make_queue: Callable[..., JobQueue]) -> None:
    """Forward by an hour and back by one (all times of the store move the other way), while four ask."""
    queues = [make_queue() for _ in range(4)]
    first = queues[0]
    await first.add_cron_job("hourly", "0 * * * *", "tick", allow_overlap=True)
    added = 0
    for step in (1, 1, -1, 1, -1, -1, 1):
        before = await first.get_cron_job_by_name("hourly")
        assert before is not None and before.next_run_at is not None
        if step > 0:
            await advance_clock(first, timedelta(hours=1))
        else:
            # The clock goes back: the next fire is further away than an hour.
            await first.backend.change_schedule(
                before.id, lambda stored, _: replace(stored, next_run_at=_later(stored.next_run_at))
            )
        results = await asyncio.gather(*(queue.enqueue_due_cron_jobs() for queue in queues for _ in range(2)))
        now = await first.backend.now()
        schedule = await first.get_cron_job_by_name("hourly")
        assert schedule is not None and schedule.next_run_at is not None and schedule.next_run_at > now
        fired = sum(map(len, results))
        assert fired <= 1 and (fired == 0 if step < 0 else True)
        added += fired
    assert len(await first.get_jobs(job_type="tick")) == added > 0


def _later(moment: datetime | None) -> datetime:
    assert moment is not None
    return moment + timedelta(hours=1)


async def test_workers_fire_while_others_are_killed(store_url: str, queue: JobQueue, tmp_path: Path) -> None:
    """What a dying worker was about to add, another adds."""
    await queue.add_cron_job(
        "a", "* * * * * *", "tick", {"path": str(tmp_path)}, allow_overlap=True, missed=CatchUp(1000)
    )
    schedule: Any = (await queue.list_cron_jobs())[0]
    with enqueuers(store_url, 1) as running:
        await until(lambda: _has_fired(queue), "the first fire")
        running[0].send_signal(signal.SIGKILL)
        running[0].wait()
        count = len(await queue.get_jobs(job_type="tick"))
        running[0] = _start(store_url)
        await until(lambda: _more_than(queue, count + 1), "more fires")
    moments = sorted((await fires_of(queue, "tick"))["a"])
    assert len(set(moments)) == len(moments) and moments[0] == schedule.next_run_at.isoformat()
    assert json.dumps(moments)


async def _more_than(queue: JobQueue, count: int) -> bool:
    return len(await queue.get_jobs(job_type="tick")) > count
