"""``dataqueue demo``: a real queue at work, to look at. The jobs are in ``demo_jobs``, the picture in ``demo_view``."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
import uuid
from typing import TYPE_CHECKING, Annotated

import typer

from dataqueue.cli.common import OK, PROBLEM, cell, console, finish, reports_errors, run_async

if TYPE_CHECKING:
    from rich.console import Console

    from dataqueue.cli.demo_view import Board
    from dataqueue.jobs import Job
    from dataqueue.queue import JobQueue

URGENT_SHARE = 40
"""One urgent job, added while the others are worked, for so many others."""
URGENT_EVERY = 0.06
EXPORT_RUNS = 1.0
"""Seconds after which the longest job, a tenth done, is cancelled."""
FRAME_SECONDS, LINE_SECONDS, ASK_AFTER = 0.1, 1.0, 1.0
PATIENCE = 60.0
"""Seconds without any sign of life after which the demo gives up."""


@reports_errors
def demo(
    url: Annotated[
        str, typer.Option("--url", metavar="URL", help="A store of yours; by default a PostgreSQL started for you.")
    ] = "embedded:",
    jobs: Annotated[int, typer.Option(min=1, max=1_000_000, help="Jobs to add.")] = 2000,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Jobs that run at the same time.")] = 20,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before using a store of yours.")] = False,
) -> None:
    """See it work: starts a server, adds a mix of jobs, works them, and proves that none is lost.

    Everything is in a schema of its own, dataqueue_demo (in Redis: under keys that begin so). DATABASE_URL and the
    like are ignored.
    """
    from dataqueue.backends.postgres.connect import redact

    if not _is_own(url) and not yes and sys.stdin.isatty():
        typer.confirm(f"Add {jobs:,} jobs at {redact(url)}, under the name dataqueue_demo?", abort=True)
    logging.basicConfig(level=logging.CRITICAL)  # failed jobs and what is logged of them are part of the show
    logging.getLogger("dataqueue").setLevel(logging.CRITICAL)
    os.environ["DATAQUEUE_URL"] = url  # where the queue of demo_jobs looks first
    from dataqueue.cli.demo_jobs import queue

    finish(run_async(lambda: _run(queue, console(), url, jobs, concurrency)))


def _can_draw(out: Console) -> bool:
    return out.is_terminal and not out.is_dumb_terminal


def _is_own(url: str) -> bool:
    return url.startswith("embedded:")


async def _run(queue: JobQueue, out: Console, url: str, count: int, concurrency: int) -> int:
    from dataqueue.cli.demo_view import Board, print_next_steps, print_summary

    board = Board(queue)
    tag = f"demo-{uuid.uuid4().hex[:8]}"
    out.print(cell("dataqueue demo: a busy hour in the background of a small shop\n", "bold"))
    try:
        await _prepare(queue, out, url)
        await _add_first(queue, out, board, count, tag)
        await _work(queue, out, board, concurrency, tag, max(1, count // URGENT_SHARE))
        stored = await _read_back(queue, tag)
        lost = print_summary(out, board, stored)
        print_next_steps(out, url, stored)
        return PROBLEM if lost else OK
    except asyncio.CancelledError:
        if left := board.total - board.finished:
            out.print(f"Stopped. {left:,} jobs wait under the name dataqueue_demo; the next demo works them too.")
        raise
    finally:
        await queue.close()


async def _prepare(queue: JobQueue, out: Console, url: str) -> None:
    begun = time.monotonic()
    doing, done = (
        (f"starting a {'Valkey' if 'valkey' in url else 'PostgreSQL'} of its own", "started")
        if _is_own(url)
        else ("connecting", "connected")
    )
    if not _can_draw(out):
        out.print(f"{doing} …")
    with out.status(doing):
        await queue.migrate()
        await queue.open()
    out.print(cell(f"{done} in {time.monotonic() - begun:.1f} s: {queue.backend.location()}", "bright_black"))
    if left := (await queue.stats()).by_status.get("pending"):
        out.print(cell(f"{left:,} jobs that an earlier demo left are worked too", "bright_black"))


async def _add_first(queue: JobQueue, out: Console, board: Board, count: int, tag: str) -> None:
    from dataqueue.cli.demo_jobs import Payment, Report, charge_card, export_everything, mixture

    jobs = list(mixture(count, tag))
    begun = time.monotonic()
    added = await queue.add_jobs(jobs)
    out.print(cell(f"added {count:,} jobs in {time.monotonic() - begun:.2f} s, all or none", "bright_black"))
    board.expect(zip(added.ids, (job.job_type for job in jobs), strict=True))

    export = await export_everything.add(Report("all", parts=100), tags=[tag], priority=50)
    twice = [await charge_card.add(Payment(1, 4200), tags=[tag], idempotency_key=f"order 1 {tag}") for _ in range(2)]
    board.expect([(export.id, "export_everything"), (twice[0].id, "charge_card")])
    board.note("added once", "charge_card", twice[1].id, "asked for twice with one idempotency key", "cyan")


async def _work(queue: JobQueue, out: Console, board: Board, concurrency: int, tag: str, urgent: int) -> None:
    """Work until every job has ended, while urgent ones come in and one is cancelled as it runs."""
    processor = queue.create_processor(concurrency=concurrency)
    board.start()
    processor.start_in_background()
    tasks = [asyncio.create_task(_add_urgent(board, tag, urgent)), asyncio.create_task(_cancel_export(queue, board))]
    try:
        await _show(queue, out, board, tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await processor.stop_and_drain(1)


async def _add_urgent(board: Board, tag: str, count: int) -> None:
    from dataqueue.cli.demo_jobs import Email, reset_password

    for number in range(count):
        added_at = time.monotonic()
        job = await reset_password.add(Email(f"customer{number}@example.com", "reset"), tags=[tag])
        board.expect([(job.id, "reset_password")])
        board.urgent(job.id, added_at)
        await asyncio.sleep(URGENT_EVERY)


async def _cancel_export(queue: JobQueue, board: Board) -> None:
    job_id = next(job_id for job_id, job_type in board.types.items() if job_type == "export_everything")
    await board.seen_running("export_everything", at_most=5)
    await asyncio.sleep(EXPORT_RUNS)
    await queue.cancel_job(job_id)


async def _show(queue: JobQueue, out: Console, board: Board, tasks: list[asyncio.Task[None]]) -> None:
    from rich.live import Live

    live = Live(console=out, auto_refresh=False, transient=True) if _can_draw(out) else None
    shown_at = changed_at = time.monotonic()
    activity = 0
    if live:
        live.start()
    try:
        while not (all(task.done() for task in tasks) and board.finished == board.total):
            await asyncio.sleep(FRAME_SECONDS)
            for task in tasks:
                if task.done():
                    task.result()
            now = time.monotonic()
            if board.activity != activity:
                changed_at, activity = now, board.activity
            elif now - changed_at > PATIENCE:
                return
            if now - changed_at > ASK_AFTER:
                await board.ask_store()  # another worker may have taken the rest
            if live:
                live.update(board.view(out.width), refresh=True)
            elif now - shown_at >= LINE_SECONDS:
                shown_at = now
                out.print(board.line())
    finally:
        if live:
            live.stop()


async def _read_back(queue: JobQueue, tag: str) -> dict[int, Job]:
    """All jobs of this run, as the store has them."""
    stored: dict[int, Job] = {}
    cursor: int | None = None
    while True:
        page = await queue.get_jobs(tags=[tag], limit=1000, cursor=cursor)
        stored.update((job.id, job) for job in page)
        if page.next_cursor is None:
            return stored
        cursor = page.next_cursor
