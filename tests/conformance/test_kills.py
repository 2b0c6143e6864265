"""Workers in processes of their own: killed, and stopped past their lease."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import until

from dataqueue import JobQueue

SCRIPT = Path(__file__).parent.parent / "worker_process.py"
LEASE = 2.0

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

Spawn = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger"
    path.touch()
    return path


@pytest.fixture
def spawn(store_url: str, ledger: Path) -> Iterator[Spawn]:
    """Start a worker process; all are killed at the end of the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, str(SCRIPT), store_url, str(ledger), str(LEASE)]))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)
            process.kill()
        process.wait()


def _lines(ledger: Path, what: str) -> list[list[str]]:
    return [line.split() for line in ledger.read_text().splitlines() if line.split()[1] == what]


async def test_the_job_of_a_killed_worker_runs_elsewhere(queue: JobQueue, spawn: Spawn, ledger: Path) -> None:
    handle = await queue.add_job("first_hangs", max_attempts=5)
    victim = spawn()
    await until(lambda: _lines(ledger, "start"), "the first start")
    spawn()
    await until(lambda: len(_lines(ledger, "up")) == 2, "the second worker")
    victim.kill()
    job = await handle.wait(timeout=60)
    assert (job.status, job.output, job.attempts) == ("completed", "attempt 2", 2)
    events = await queue.get_job_events(handle.id)
    assert [event.event_type for event in events] == [
        "added",
        "processing",
        "reclaimed",
        "processing",
        "completed",
    ]
    assert len(_lines(ledger, "start")) == 2


async def test_killed_again_and_again_nothing_is_lost(queue: JobQueue, spawn: Spawn, ledger: Path) -> None:
    added = await queue.add_jobs({"job_type": "sleep", "payload": 0.02, "max_attempts": 50} for _ in range(150))
    kills = 3
    workers = [spawn(), spawn()]
    for round_ in range(kills):
        await until(lambda: len(_lines(ledger, "end")) >= 20 * (round_ + 1), "progress")  # noqa: B023
        victim = workers.pop(0)
        victim.kill()
        victim.wait()
        workers.append(spawn())
    jobs = [await handle.wait(timeout=60) for handle in added]
    assert {job.status for job in jobs} == {"completed"}
    ends = [line[2] for line in _lines(ledger, "end")]
    assert set(ends) == {str(handle.id) for handle in added}
    starts = len(_lines(ledger, "start"))
    assert starts <= sum(job.attempts for job in jobs), "an attempt is counted before it begins"
    assert sum(job.attempts for job in jobs) <= len(jobs) + kills * 20, "ten run and ten are ahead in each worker"
    for job in jobs:
        events = [event.event_type for event in await queue.get_job_events(job.id)]
        assert events.count("completed") == 1 and events.count("processing") == job.attempts


async def test_a_worker_stopped_past_its_lease_changes_nothing(
    queue: JobQueue, spawn: Spawn, ledger: Path, tmp_path: Path
) -> None:
    handle = await queue.add_job("block_then_write", {"go": str(tmp_path / "go")}, max_attempts=5)
    zombie = spawn()
    await until(lambda: _lines(ledger, "start"), "the first start")
    os.kill(zombie.pid, signal.SIGSTOP)
    spawn()
    job = await handle.wait(timeout=60)
    assert (job.output, job.attempts) == ("by the second", 2)
    events = await queue.get_job_events(handle.id)
    (tmp_path / "go").touch()
    os.kill(zombie.pid, signal.SIGCONT)
    await until(lambda: [line for line in _lines(ledger, "end") if line[0] == str(zombie.pid)], "the zombie's end")
    assert _lines(ledger, "stored") == []
    assert {line[3] for line in _lines(ledger, "refused")} == {"progress", "output"}
    after = await queue.add_job("sleep", 0)  # the zombie's late completion has been sent by the time this is done
    await after.wait(timeout=60)
    assert await handle.refresh() == job
    assert await queue.get_job_events(handle.id) == events
    assert zombie.poll() is None, "it goes on with other jobs"
