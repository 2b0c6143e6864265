"""What ``dataqueue demo`` shows: the board while it works, the summary, and what to try next."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dataqueue.backends.postgres.connect import redact
from dataqueue.cli.common import cell, one_line, program_name
from dataqueue.cli.demo_jobs import SCHEMA

if TYPE_CHECKING:
    from dataqueue.events import Hook
    from dataqueue.jobs import Job
    from dataqueue.queue import JobQueue

ENDS = ("completed", "failed", "cancelled")
RATE_SECONDS = 2.0
EVENTS_SHOWN = 7


class Board:
    """The jobs of this run, each with what the queue's hooks last said of it."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self.activity = 0
        """Grows with whatever happens to any job, those of earlier demos too."""
        self._begun: float | None = None
        self._types: dict[int, str] = {}
        self._states: dict[int, str] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._progress: dict[int, int] = {}
        self._added_at: dict[int, float] = {}
        self._started_at: dict[int, float] = {}
        self._latencies: list[float] = []
        self._ended_at: deque[float] = deque()
        self._events: deque[Text] = deque(maxlen=EVENTS_SHOWN)
        self._seen: dict[str, asyncio.Event] = {}
        queue.on("job:processing", self._on_processing)
        queue.on("job:progress", self._on_progress)
        queue.on("job:failed", self._on_failed)
        for name in ("job:completed", "job:cancelled", "job:reclaimed"):
            queue.on(name, self._on_change)

    # -- what it is told --------------------------------------------------------------------------------

    def start(self) -> None:
        """The work begins: the clock starts."""
        self._begun = time.monotonic()

    def expect(self, jobs: Iterable[tuple[int, str]]) -> None:
        """These jobs were added. A hook may have spoken of one already."""
        for job_id, job_type in jobs:
            self._types[job_id] = job_type
            state = self._states.setdefault(job_id, "waiting")
            self._counts.setdefault(job_type, Counter())[state] += 1

    def urgent(self, job_id: int, added_at: float) -> None:
        """Measure how soon this one starts."""
        self._added_at[job_id] = added_at
        self._measure(job_id)

    def note(self, what: str, job_type: str, job_id: int, detail: str, style: str) -> None:
        """A line among the latest events."""
        line = Text.assemble(
            cell(f"{self.elapsed:5.1f} s  ", "bright_black"),
            cell(f"{what:<11}", style),
            cell(f"{job_type} {job_id}".ljust(24)),
            cell(detail, "bright_black"),
            no_wrap=True,
            overflow="ellipsis",
        )
        self._events.append(line)

    def _on_processing(self, hook: Hook) -> None:
        if hook.job_id is not None and hook.job_type is not None:
            self._started_at.setdefault(hook.job_id, time.monotonic())
            self._measure(hook.job_id)
            self._seen.setdefault(hook.job_type, asyncio.Event()).set()
            self._set(hook.job_id, "running")

    def _on_progress(self, hook: Hook) -> None:
        if hook.job_id is not None and hook.progress is not None:
            self._progress[hook.job_id] = hook.progress

    def _on_failed(self, hook: Hook) -> None:
        if hook.job_id is not None:
            error = f"{type(hook.error).__name__}: {hook.error}" if hook.error else "its worker was lost"
            what, style = ("will retry", "yellow") if hook.will_retry else ("failed", "red")
            self.note(what, hook.job_type or "", hook.job_id, one_line(error, 60), style)
            self._set(hook.job_id, "retrying" if hook.will_retry else "failed")

    def _on_change(self, hook: Hook) -> None:
        if hook.job_id is not None:
            state = "waiting" if hook.name == "job:reclaimed" else hook.name.removeprefix("job:")
            if state == "cancelled":
                self.note(state, hook.job_type or "", hook.job_id, "while it was running", "magenta")
            self._set(hook.job_id, state)

    def _set(self, job_id: int, state: str) -> None:
        self.activity += 1
        before, self._states[job_id] = self._states.get(job_id, "waiting"), state
        if job_id in self._types and before != state:
            counts = self._counts[self._types[job_id]]
            counts[before] -= 1
            counts[state] += 1
        if state in ENDS:
            self._progress.pop(job_id, None)
            self._ended_at.append(time.monotonic())

    def _measure(self, job_id: int) -> None:
        added, started = self._added_at.get(job_id), self._started_at.get(job_id)
        if added is not None and started is not None:
            self._latencies.append(started - added)

    async def ask_store(self) -> None:
        """Jobs that another worker has taken: no hook speaks of them here."""
        open_ids = [job_id for job_id in self._types if self._states[job_id] not in ENDS]
        for job_id, finished in (await self._queue.backend.finished(open_ids)).items():
            if finished:
                self._set(job_id, "completed")

    # -- what it knows ----------------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        return 0.0 if self._begun is None else time.monotonic() - self._begun

    @property
    def types(self) -> dict[int, str]:
        """The type of each job that was added, by id."""
        return self._types

    @property
    def total(self) -> int:
        return len(self._types)

    @property
    def finished(self) -> int:
        return sum(self._count(end) for end in ENDS)

    def _count(self, state: str) -> int:
        return sum(counts[state] for counts in self._counts.values())

    async def seen_running(self, job_type: str, *, at_most: float) -> None:
        """Wait until a job of this type has started here, but not for ever."""
        try:
            async with asyncio.timeout(at_most):
                await self._seen.setdefault(job_type, asyncio.Event()).wait()
        except TimeoutError:
            pass

    def latency(self) -> str:
        """``p50 8 ms, p95 21 ms`` of the urgent jobs, from the call that adds one to its start."""
        if not self._latencies:
            return "not measured"
        ordered = sorted(self._latencies)
        p50, p95 = (1000 * ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.95))
        return f"p50 {p50:.0f} ms, p95 {p95:.0f} ms"

    def _rate(self) -> float:
        now = time.monotonic()
        while self._ended_at and self._ended_at[0] < now - RATE_SECONDS:
            self._ended_at.popleft()
        return len(self._ended_at) / max(0.1, min(RATE_SECONDS, self.elapsed))

    # -- how it looks -----------------------------------------------------------------------------------

    def line(self) -> str:
        """The state in a line, for a log."""
        return (
            f"{self.elapsed:5.1f} s  {self.finished:,} of {self.total:,} finished, {self._rate():.0f} jobs/s, "
            f"{self._count('running')} running, {self._count('retrying')} to be retried, "
            f"{self._count('failed')} failed"
        )

    def view(self, width: int) -> RenderableType:
        """The state as a table, for a terminal so wide."""
        bar = max(8, min(30, width - 68))
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
        table.add_column("job type", no_wrap=True)
        table.add_column("", width=bar)
        for name in ("done", "of", "running", "to retry", "failed"):
            table.add_column(name, justify="right", no_wrap=True)
        for job_type, counts in self._counts.items():
            done, total = sum(counts[end] for end in ENDS), counts.total()
            partly = sum(self._progress.get(i, 0) for i in self._progress if self._types.get(i) == job_type) / 100
            table.add_row(
                cell(job_type),
                ProgressBar(total=total, completed=done + partly, width=bar),
                cell(f"{done:,}"),
                cell(f"{total:,}", "bright_black"),
                _number(counts["running"], "cyan"),
                _number(counts["retrying"], "yellow"),
                _number(counts["failed"], "red"),
            )
        state = Text.assemble(
            (f"{self.finished:,}", "bold green"),
            (f" of {self.total:,} finished in {self.elapsed:.1f} s, "),
            (f"{self._rate():.0f} jobs/s", "bold"),
        )
        urgent = Text.assemble("urgent jobs, added meanwhile, start after ", (self.latency(), "bold"))
        return Group(table, state, urgent, Text(), *self._events)


def _number(count: int, style: str) -> Text:
    return cell(f"{count:,}", style) if count else cell("·", "bright_black")


# -- the end --------------------------------------------------------------------------------------------


def print_summary(out: Console, board: Board, stored: dict[int, Job]) -> int:
    """Compare what was added with what the store has; the number of jobs that are lost."""
    took = board.elapsed
    lost = {i for i in board.types if i not in stored or not stored[i].is_finished}
    table = Table(
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", show_footer=True, footer_style="bold"
    )
    table.add_column("job type", footer="all", no_wrap=True)
    columns = ("added", "completed", "failed", "cancelled", "retried", "lost")
    rows: dict[str, Counter[str]] = {}
    for job_id, job_type in board.types.items():
        row = rows.setdefault(job_type, Counter())
        row["added"] += 1
        if job_id in lost:
            row["lost"] += 1
        else:
            row[stored[job_id].status] += 1
            row["retried"] += stored[job_id].attempts > 1
    for name in columns:
        total = sum(row[name] for row in rows.values())
        style = "green" if name == "lost" and not total else "red" if name == "lost" else ""
        table.add_column(name, footer=cell(f"{total:,}", style), justify="right")
    for job_type, row in rows.items():
        table.add_row(cell(job_type), *(cell(f"{row[name]:,}") if row[name] else cell("·") for name in columns))
    out.print(table)
    out.print(
        Text.assemble(
            (f"lost {len(lost):,}", "bold red" if lost else "bold green"),
            f": {board.total:,} ids were added, and {board.total - len(lost):,} of them have ended in the store.",
        )
    )
    out.print(
        f"{took:.1f} s, {board.finished / took:.0f} jobs/s; urgent jobs, added meanwhile, started after {board.latency()}."
    )
    if {job_type for job_type, row in rows.items() if row["failed"]} == {"charge_card"}:
        out.print(
            cell("The cards that failed were declined on purpose; all else that failed was retried.", "bright_black")
        )
    return len(lost)


def print_next_steps(out: Console, url: str, stored: dict[int, Job]) -> None:
    """Commands that work as they stand, on the jobs of this demo."""
    program = program_name()
    secret = urlsplit(url).password is not None or redact(url) != url
    store = f"--schema {SCHEMA}" if secret else f"--url {shlex.quote(url)} --schema {SCHEMA}"
    variable = "" if secret else _with_variable(url)
    failed = next((job.id for job in stored.values() if job.status == "failed"), None)
    retried = next((job.id for job in stored.values() if job.status == "completed" and job.attempts > 1), None)

    steps = [("the jobs that failed", f"{program} jobs list {store} --status failed")]
    if retried is not None:
        steps.append(("the story of one that failed at first", f"{program} jobs show {store} {retried}"))
    if failed is not None:
        steps.append(("another chance for one that failed", f"{program} jobs retry {store} {failed}"))
    steps.append(("a worker for it", f"{variable}{program} worker dataqueue.cli.demo_jobs:queue --burst"))
    steps.append(("is all well?", f"{program} doctor {store}"))
    out.print(cell("\nWhat to try next", "bold"))
    if secret:
        out.print(f"with DATAQUEUE_URL set to {redact(url)} (and its password):", soft_wrap=True)
    for what, command in steps:
        out.print(cell(f"  # {what}", "bright_black"))
        out.print(cell(f"  {command}", "cyan"), soft_wrap=True)
    out.print(cell(f"\nThe demo's jobs: {_source()}", "bright_black"), soft_wrap=True)


def _with_variable(url: str) -> str:
    return f'set "DATAQUEUE_URL={url}" && ' if sys.platform == "win32" else f"DATAQUEUE_URL={shlex.quote(url)} "


def _source() -> str:
    from dataqueue.cli import demo_jobs

    return os.path.relpath(demo_jobs.__file__)
