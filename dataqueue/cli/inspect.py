"""``dataqueue stats`` and ``dataqueue doctor``: how the queue is, and what is wrong with it."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from typing import TYPE_CHECKING, Annotated

import typer

import dataqueue
from dataqueue.cli.common import (
    OK,
    PROBLEM,
    STATUS_STYLES,
    AsJson,
    EnvFile,
    Schema,
    Url,
    ago,
    cell,
    console,
    duration,
    find_store,
    finish,
    reports_errors,
    with_queue,
    with_store,
    write_json,
)
from dataqueue.errors import ConfigError, SchemaError, StoreUnavailable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dataqueue.backends.base import Finding, Stats
    from dataqueue.queue import JobQueue

_ALWAYS = ("pending", "processing", "completed", "failed")


# -- stats ----------------------------------------------------------------------------------------------


@reports_errors
def stats(
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How often, with --watch.")] = 2.0,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Count the jobs by type and status, and list the workers."""

    async def show(queue: JobQueue) -> None:
        if as_json:
            await _write_stats(queue, interval if watch else None)
        elif watch and sys.stdout.isatty():
            await _watch_stats(queue, interval)
        else:
            console().print(_stats_view(await queue.stats()))
            while watch:
                await asyncio.sleep(interval)
                console().print(_stats_view(await queue.stats()))

    with_queue(url, schema, env_file, show)


async def _write_stats(queue: JobQueue, interval: float | None) -> None:
    while True:
        now = await queue.stats()
        write_json(
            {
                "by_status": now.by_status,
                "by_type": now.by_type,
                "completed_is_estimated": now.estimated_completed is not None,
                "oldest_ready_seconds": now.oldest_ready_seconds,
                "unhandled_types": now.unhandled_types,
                "workers": now.workers,
            }
        )
        if interval is None:
            return
        await asyncio.sleep(interval)


async def _watch_stats(queue: JobQueue, interval: float) -> None:
    from rich.live import Live

    with Live(_stats_view(await queue.stats()), console=console(), auto_refresh=False) as live:
        while True:
            await asyncio.sleep(interval)
            live.update(_stats_view(await queue.stats()), refresh=True)


def _stats_view(now: Stats) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table

    from dataqueue.jobs import STATUSES

    counts = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, show_footer=True)
    counts.add_column("job type", footer="all")
    shown = [status for status in STATUSES if status in _ALWAYS or now.by_status.get(status)]
    for status in shown:
        total = now.by_status.get(status, 0)
        estimated = status == "completed" and now.estimated_completed is not None
        footer = f"~{total:,}" if estimated else f"{total:,}"
        counts.add_column(cell(status, STATUS_STYLES[status]), justify="right", footer=footer)
    for job_type, by_status in sorted(now.by_type.items()):
        style = "yellow" if job_type in now.unhandled_types else ""
        counts.add_row(cell(job_type, style), *(cell(f"{by_status.get(status, 0):,}") for status in shown))
    workers = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("worker", "holds", "slots", "last heartbeat", "job types"):
        workers.add_column(name, justify="right" if name in ("holds", "slots") else "left")
    for worker in now.workers:
        workers.add_row(
            cell(worker.id, "" if worker.alive else "red"),
            cell(worker.running),
            cell(worker.concurrency),
            cell(ago(worker.last_heartbeat_at) if worker.alive else f"lost, {ago(worker.last_heartbeat_at)}"),
            cell(" ".join(worker.job_types), "bright_black"),
        )
    oldest = now.oldest_ready_seconds
    waiting = "No job is due." if oldest is None else f"The longest-waiting due job has waited {duration(oldest)}."
    if now.unhandled_types:
        waiting += f"\nNo worker takes: {', '.join(now.unhandled_types)}."
    return Group(counts, cell(waiting), cell(""), workers if now.workers else cell("No workers."))


# -- doctor ---------------------------------------------------------------------------------------------


@reports_errors
def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Compare every record with every index. Reads it all.")] = False,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what is configured, what answers, what is wrong, and how to mend it. Exit code 1 on any error."""
    from dataqueue.backends.base import Finding

    findings = [
        Finding(
            "package", "ok", f"dataqueue {dataqueue.__version__}, Python {platform.python_version()}, {sys.platform}"
        )
    ]
    try:
        found, source = find_store(url, env_file)
        findings += with_store(
            found, schema, lambda queue: _examine(queue, _configuration(found, source, schema), schema, deep)
        )
    except ConfigError as error:
        findings.append(Finding("configuration", "error", str(error)))
    bad = any(finding.level == "error" for finding in findings)
    if as_json:
        write_json({"ok": not bad, "findings": findings})
    else:
        _print_findings(findings)
    finish(PROBLEM if bad else OK)


def _configuration(url: str, source: str, schema: str | None) -> Finding:
    from dataqueue.backends.base import Finding
    from dataqueue.backends.postgres.connect import redact
    from dataqueue.backends.resolve import VARIABLES

    message = f"{redact(url)} from {source}" + (f", schema {schema}" if schema else "")
    others = [name for name in VARIABLES if os.environ.get(name) not in (None, "", url)]
    if others:
        message += f" ({' and '.join(others)} set, not used)"
    return Finding("configuration", "ok", message)


async def _examine(queue: JobQueue, configuration: Finding, schema: str | None, deep: bool) -> list[Finding]:
    """What the store says of itself; if it does not answer, why."""
    from dataqueue.backends.base import Finding

    findings = [configuration]
    try:
        await queue.open()
    except StoreUnavailable as error:
        return [*findings, Finding("connection", "error", str(error), "Start the server, or correct the URL.")]
    except SchemaError as error:
        findings.append(Finding("connection", "ok", f"{queue.backend.location()} answers"))
        return [
            *findings,
            Finding("schema", "error", str(error), "dataqueue migrate" + (f" --schema {schema}" if schema else "")),
        ]
    findings.append(Finding("connection", "ok", f"{queue.backend.location()} answers"))
    return [*findings, *await queue.doctor(deep=deep), *_workers(await queue.stats())]


def _workers(now: Stats) -> list[Finding]:
    from dataqueue.backends.base import Finding

    alive = [worker for worker in now.workers if worker.alive]
    findings: list[Finding] = []
    if alive:
        slots = sum(worker.concurrency for worker in alive)
        held = sum(worker.running for worker in alive)
        findings.append(Finding("workers", "ok", f"{len(alive)} alive with {slots} slots, holding {held} jobs"))
    else:
        findings.append(
            Finding("workers", "warning", "No worker is alive.", "Start one: dataqueue worker MODULE:QUEUE")
        )
    silent = [worker for worker in now.workers if not worker.alive and worker.running]
    if silent:
        names = ", ".join(f"{worker.id} ({ago(worker.last_heartbeat_at)})" for worker in silent[:5])
        findings.append(
            Finding("workers", "warning", f"Lost without signing off: {names}.", "Any worker rescues their jobs.")
        )
    if now.unhandled_types:
        findings.append(
            Finding(
                "job types",
                "warning",
                f"There is work that no worker takes: {', '.join(now.unhandled_types)}.",
                "Start a worker whose queue defines these types, or check --job-types.",
            )
        )
    return findings


def _print_findings(findings: list[Finding]) -> None:
    from rich.table import Table

    styles = {"ok": "green", "warning": "yellow", "error": "bold red"}
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column()
    for finding in findings:
        message = cell(finding.message)
        if finding.fix:
            message.append_text(cell(f"\n→ {finding.fix}", styles[finding.level]))
        grid.add_row(cell(finding.level, styles[finding.level]), cell(finding.check), message)
    console().print(grid)
