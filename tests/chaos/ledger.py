"""What campaigns share: a ledger outside the queue, workers that are ended, and the comparison at the end.

The ledger is a file of JSON lines, each written at once, so that a killed process has written all that it saw. Times
are of the system's monotonic clock, which all processes share.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataqueue import Job, JobEvent, JobHandle, JobQueue

SCRIPT = Path(__file__).with_name("worker.py")
SHORT_SEED = 20261124
"""Of the short form, so that a change is judged by what it changed; the long form draws a new one."""

Line = dict[str, Any]


def draw_seed(*, long: bool) -> random.Random:
    """A source of chance, whose seed is printed; ``DATAQUEUE_TEST_SEED`` repeats a run."""
    given = os.environ.get("DATAQUEUE_TEST_SEED")
    seed = int(given) if given else random.SystemRandom().randrange(2**32) if long else SHORT_SEED
    print(f"DATAQUEUE_TEST_SEED={seed}")
    return random.Random(seed)


class Ledger:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, what: str, **more: Any) -> None:
        line = json.dumps({"what": what, "at": time.clock_gettime(time.CLOCK_MONOTONIC), **more}) + "\n"
        os.write(self._file, line.encode())

    def lines(self, what: str | None = None, **where: Any) -> list[Line]:
        """In the order of writing."""
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [
            line
            for line in lines
            if what in (None, line["what"]) and all(line.get(name) == value for name, value in where.items())
        ]

    def close(self) -> None:
        os.close(self._file)


class Fleet:
    """Worker processes on one store, each with a name of its own. ``dead`` are those that were killed."""

    def __init__(self, url: str, ledger: Ledger, folder: Path, lease: float) -> None:
        self.ledger = ledger
        self.lease = lease
        self.dead: set[str] = set()
        self._url = url
        self._folder = folder
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, **options: Any) -> str:
        name = f"w{len(self._started) + 1}"
        order = {"url": self._url, "ledger": str(self.ledger.path), "name": name, "lease": self.lease, **options}
        with self.log(name).open("wb") as log:
            self._started[name] = subprocess.Popen(
                [sys.executable, str(SCRIPT), json.dumps(order)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return name

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def is_up(self, name: str) -> bool:
        assert not self.has_ended(name), self.log(name).read_text()
        return bool(self.ledger.lines("up", worker=name))

    def has_ended(self, name: str) -> bool:
        """Whether it is over. A worker that was meant to be killed must not end in another way."""
        code = self._started[name].poll()
        if code is None:
            return False
        if code == -signal.SIGKILL:
            self.dead.add(name)
        else:
            assert code == 0, f"{name} ended with {code}:\n{self.log(name).read_text()}"
        return True

    def send(self, name: str, number: signal.Signals) -> None:
        self._started[name].send_signal(number)
        if number == signal.SIGKILL:
            self._started[name].wait()
            self.dead.add(name)

    def end(self) -> None:
        for process in self._started.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


@contextmanager
def fleet(url: str, folder: Path, lease: float) -> Iterator[Fleet]:
    ledger = Ledger(folder / "ledger")
    started = Fleet(url, ledger, folder, lease)
    try:
        yield started
    finally:
        started.end()
        ledger.close()


# -- the comparison -------------------------------------------------------------------------------------


async def compare(queue: JobQueue, added: Iterable[JobHandle[Any]], ledger: Ledger, losses: Iterable[str]) -> None:
    """Nothing lost, no effect of a lost lease, attempts counted once, at most one new start for each loss.

    ``losses`` names a worker for each time that it was killed, or stopped past its lease: only then may its jobs have
    been taken away.
    """
    lost = Counter(losses)
    by_job: dict[int, list[Line]] = defaultdict(list)
    for line in ledger.lines():
        if "job" in line:
            by_job[line["job"]].append(line)
    for handle in added:
        job, events = await handle.refresh(), await queue.get_job_events(handle.id)
        try:
            _compare_job(job, events, by_job[job.id], lost)
        except AssertionError as error:
            told = "\n".join(f"  {event.event_type} {event.metadata}" for event in events)
            lines = "\n".join(f"  {line}" for line in by_job[job.id])
            raise AssertionError(f"job {job.id}: {error}\n{job}\n{told}\n{lines}") from None
    assert await queue.get_jobs(status="processing") == []
    assert [finding for finding in await queue.doctor(deep=True) if finding.level == "error"] == []


def _compare_job(job: Job, events: list[JobEvent], lines: list[Line], lost: Counter[str]) -> None:
    assert job.status == "completed", "lost"
    history = [event for event in events if event.event_type != "prolonged"]
    kinds = [event.event_type for event in history]
    assert kinds[0] == "added" and kinds[-1] == "completed", "its story has no beginning or no end"
    claims, ends = history[1::2], history[2::2]
    assert {event.event_type for event in claims} == {"processing"}, "two ends of one attempt, or none"
    assert {event.event_type for event in ends[:-1]} <= {"reclaimed", "released", "failed"}
    counts = Counter(event.event_type for event in ends)
    assert job.attempts == len(claims) - counts["released"], "an attempt is counted once"

    starts = [line for line in lines if line["what"] == "start"]
    assert len({line["lease"] for line in starts}) == len(starts), "a lease was begun twice"
    unexplained = Counter(line["worker"] for line in starts)
    unexplained.subtract(event.metadata["worker"] for event in claims)
    assert max(unexplained.values(), default=0) <= 0, "a start without a claim"
    rescued = Counter(event.metadata["worker"] for event in ends if event.event_type == "reclaimed")
    assert rescued <= lost, "taken from a healthy worker, or more than once for one loss"
    assert counts["failed"] <= len([line for line in lines if line["what"] == "raise"]), "a failure that nobody had"

    begun = {line["lease"]: line for line in starts}
    output = job.output
    assert output["worker"] == claims[-1].metadata["worker"], "the output is not of the last attempt"
    assert output["attempt"] == begun[output["lease"]]["attempt"] == job.attempts
    for line in lines:
        if line["what"] == "stored" and line["lease"] in begun:
            attempt = begun[line["lease"]]["attempt"]
            newer = [start for start in starts if start["attempt"] > attempt and start["at"] < line["began"]]
            assert not newer, f"a lost lease had an effect: {line}"
    assert len([line for line in lines if line["what"] == "stored" and line["of"] == "completed"]) <= 1
