"""How jobs look in a terminal."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from dataqueue.cli.common import STATUS_STYLES, ago, cell, local_time, one_line

if TYPE_CHECKING:
    from rich.console import Console

    from dataqueue.jobs import Job, JobEvent, JobPage
    from dataqueue.steps import Step


def print_table(out: Console, page: JobPage) -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("id", "type", "status", "attempts", "added", "note", "tags"):
        right = name in ("id", "attempts")
        table.add_column(name, justify="right" if right else "left", no_wrap=name not in ("note", "tags"))
    for job in page:
        table.add_row(
            cell(job.id),
            cell(job.job_type),
            cell(job.status, STATUS_STYLES[job.status]),
            cell(f"{job.attempts}/{job.max_attempts}"),
            cell(ago(job.created_at)),
            _cut(_remark(job), "bright_black"),
            _cut(" ".join(job.tags)),
        )
    out.print(table)


def _cut(text: str, style: str = "") -> Text:
    """A cell that gives way where the terminal is narrow."""
    shown = cell(text, style)
    shown.no_wrap, shown.overflow = True, "ellipsis"
    return shown


def _remark(job: Job) -> str:
    """What matters about a job beside its status."""
    match job.status:
        case "failed":
            again = f"again {ago(job.next_attempt_at)}: " if job.next_attempt_at else ""
            return again + one_line(job.last_error or "", 60)
        case "processing":
            stopping = "asked to stop, " if job.cancel_requested_at else ""
            progress = f"{job.progress} % " if job.progress is not None else ""
            return f"{stopping}{progress}on {job.locked_by}"
        case "pending" if job.blocked:
            return f"waits for {waits_for(job)}"
        case "pending" if job.run_at > job.created_at:
            return f"due {ago(job.run_at)}"
        case "cancelled" if job.cascade_root is not None:
            return f"since job {job.cascade_root} has ended badly"
        case _:
            return job.pending_reason or ""


def waits_for(job: Job) -> str:
    """What a job has named: ``jobs 4, 5 and those tagged import``."""
    ids = ", ".join(map(str, job.depends_on[:10])) + (", …" if len(job.depends_on) > 10 else "")
    named = [f"job{'s' * (len(job.depends_on) > 1)} {ids}"] if ids else []
    if job.depends_on_tags:
        named.append(f"jobs tagged {' '.join(job.depends_on_tags)}")
    return " and ".join(named)


def print_job(out: Console, job: Job, events: list[JobEvent]) -> None:
    """Everything about one job: its data, its errors, and what happened to it."""
    out.print(Text.assemble((f"job {job.id}", "bold"), "  ", cell(job.job_type, "bold")))
    out.print(_facts(job))
    _print_errors(out, job)
    _print_events(out, events)


def print_end(out: Console, job: Job) -> None:
    """How a job that was waited for has ended, if it has."""
    state = f"{job.status}, attempt {job.attempts} of {job.max_attempts}"
    out.print(cell(state if job.is_finished else f"not finished yet: {state}", STATUS_STYLES[job.status]))
    if job.status == "failed":
        out.print(cell(job.last_error, "red"))
    elif job.output is not None:
        out.print(cell(pretty(job.output)))


def _facts(job: Job) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bright_black")
    grid.add_column()

    def line(name: str, value: object, style: str = "") -> None:
        if value not in (None, "", ()):
            grid.add_row(name, cell(value, style))

    def moment(name: str, value: datetime | None) -> None:
        if value is not None:
            grid.add_row(name, cell(f"{local_time(value)}  ({ago(value)})"))

    line("status", job.status, STATUS_STYLES[job.status])
    line("", _remark(job))
    line("attempts", f"{job.attempts} of {job.max_attempts}")
    line("priority", job.priority)
    line("tags", " ".join(job.tags))
    line("group", job.group)
    line("idempotency key", job.idempotency_key)
    line("unique key", job.unique_key)
    if job.depends_on or job.depends_on_tags:
        line("after", f"{waits_for(job)}{', whatever becomes of them' if job.runs_anyway else ''}")
    line("dead letters", job.dead_letter)
    line("dead letter", job.dead_letter_job_id and f"job {job.dead_letter_job_id}")
    line("timeout", job.timeout)
    line("reason of failure", job.failure_reason)
    line("progress", None if job.progress is None else f"{job.progress} %")
    moment("added", job.created_at)
    moment("due", job.run_at)
    moment("next attempt", job.next_attempt_at)
    moment("first started", job.started_at)
    moment("completed", job.completed_at)
    moment("cancelled", job.last_cancelled_at)
    line("payload", pretty(job.payload))
    line("output", None if job.output is None else pretty(job.output))
    return grid


def _print_errors(out: Console, job: Job) -> None:
    if not job.error_history:
        return
    out.print(cell("\nerrors", "bold"))
    for entry in job.error_history:
        where = f"  ({entry.frame})" if entry.frame else ""
        out.print(cell(f"{local_time(entry.timestamp)}  {entry.error_type or ''}{where}", "bright_black"))
        out.print(cell(f"  {entry.message}", "red"))


def _print_events(out: Console, events: list[JobEvent]) -> None:
    out.print(cell("\nevents", "bold"))
    before: datetime | None = None
    for event in events:
        since = "" if before is None else f"+{(event.created_at - before).total_seconds():.3f} s"
        before = event.created_at
        details = "" if event.metadata is None else one_line(json.dumps(event.metadata, ensure_ascii=False), 120)
        style = STATUS_STYLES.get(event.event_type, "")
        time = cell(f"{local_time(event.created_at)}  {since:>12}  ", "bright_black")
        out.print(Text.assemble(time, cell(f"{event.event_type:<11} ", style), cell(details, "bright_black")))


def print_steps(out: Console, steps: list[Step]) -> None:
    """A job's steps and waits as a timeline."""
    out.print(cell("\nsteps" if steps else "\nsteps: none", "bold"))
    for step in steps:
        took = "goes on" if step.duration is None else f"{step.duration.total_seconds():.3f} s"
        time = cell(f"{local_time(step.started_at)}  {took:>12}  ", "bright_black")
        what = step.name if step.kind == "step" else f"{step.name} (waits for {_AWAITED[step.kind]})"
        details = "" if step.result is None else one_line(json.dumps(step.result, ensure_ascii=False), 100)
        if step.kind == "sleep" and step.until is not None:
            details = f"until {local_time(step.until)}"
        elif step.kind == "token" and not step.done:
            details = step.token_id or ""
        tries = f" {step.attempts} tries" if step.attempts > 1 else ""
        style = "" if step.done else "yellow"
        out.print(Text.assemble(time, cell(f"{what}{tries} ", style), cell(details, "bright_black")))


_AWAITED = {"sleep": "a time", "token": "a token", "jobs": "jobs"}


def pretty(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else json.dumps(value, ensure_ascii=False, indent=2)
