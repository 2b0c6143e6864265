"""``dataqueue explain``, ``failures``, ``status`` and ``workers``: what is the matter, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataqueue.cli.common import (
    OK,
    PROBLEM,
    AsJson,
    EnvFile,
    Schema,
    Url,
    ago,
    cell,
    console,
    duration,
    finish,
    local_time,
    one_line,
    reports_errors,
    with_queue,
    write_json,
)
from dataqueue.explain import parse_window

if TYPE_CHECKING:
    from dataqueue.backends.base import WorkerRecord
    from dataqueue.explain import Explanation
    from dataqueue.failures import FailureSummary
    from dataqueue.jobs import Job
    from dataqueue.queue import JobQueue
    from dataqueue.status import QueueStatus, Spread

WindowOption = Annotated[str, typer.Option(metavar="TIME", help="How far to look back: 15m, 24h, 7d.")]
TypeOption = Annotated[str | None, typer.Option("--job-type", metavar="NAME", help="Only this job type.")]

_VERDICT_STYLES = {"healthy": "bold green", "backlog": "bold yellow"}


# -- explain --------------------------------------------------------------------------------------------


@reports_errors
def explain(
    job_id: Annotated[int, typer.Argument(metavar="ID", min=1, show_default=False)],
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Say why a job runs or does not, when it will, and what to do. Exit code 1 for an unknown job."""
    found = with_queue(url, schema, env_file, lambda queue: queue.explain_job(job_id))
    if as_json:
        write_json(found)
    else:
        _print_explanation(found)
    finish(PROBLEM if found.state == "not_found" else OK)


def _print_explanation(found: Explanation) -> None:
    out = console()
    from rich.text import Text

    headline = Text.assemble((f"job {found.job_id}", "bold"), "  ", cell(found.job_type), "  ", (found.state, "bold"))
    out.print(headline)
    runs = {
        "yes": "as soon as a slot is free",
        "later": "later, by itself",
        "never": "not by itself",
        "unknown": "unknown",
    }
    will_run = f"will run: {runs[found.will_run]}"
    if found.state == "running":
        will_run = "it runs now"
    if found.eta is not None and found.state != "running":
        will_run += f", about {local_time(found.eta)} ({ago(found.eta)})"
    out.print(cell(will_run))
    if found.schedule is not None:
        out.print(cell(f"added by the schedule {found.schedule}"))
    for reason in found.reasons:
        out.print(Text.assemble("\n", (reason.code, "cyan"), "  ", cell(reason.message)))
        error = reason.evidence.get("error")
        if error:
            place = " ".join(filter(None, (reason.evidence.get("error_type"), reason.evidence.get("frame"))))
            out.print(
                cell(f"  {place}: {one_line(str(error), 500)}" if place else f"  {one_line(str(error), 500)}", "red")
            )
        if reason.fix:
            out.print(cell(f"→ {reason.fix}", "green"))


# -- failures -------------------------------------------------------------------------------------------


@reports_errors
def failures(
    window: WindowOption = "24h",
    job_type: TypeOption = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Causes at most.")] = 10,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Group failed jobs by cause, the most common first."""
    span = parse_window(window)
    summary = with_queue(
        url,
        schema,
        env_file,
        lambda queue: queue.summarize_failures(window=span, job_type=job_type, limit=limit),
    )
    if as_json:
        write_json(summary)
    else:
        _print_failures(summary, window)


def _print_failures(summary: FailureSummary, window: str) -> None:
    from rich.text import Text

    out = console()
    more = " (only the newest 10,000 were read)" if summary.truncated else ""
    out.print(cell(f"{summary.total:,} failed jobs within {window}, {summary.group_count} causes{more}"))
    for group in summary.groups:
        what = group.error_type or group.reason or "error"
        out.print(
            Text.assemble("\n", (f"{group.count:>6,} × ", "bold red"), cell(f"{what} in {group.job_type}", "bold"))
        )
        if group.frame:
            out.print(cell(f"         at {group.frame}", "bright_black"))
        out.print(cell(f"         {one_line(group.message, 300)}", "red"))
        out.print(
            cell(
                f"         last {ago(group.last_at)}, first {ago(group.first_at)}; {group.will_retry:,} will be retried"
            )
        )
        out.print(cell(f"         jobs {', '.join(map(str, group.sample_ids))}", "bright_black"))


# -- status ---------------------------------------------------------------------------------------------


@reports_errors
def status(
    window: WindowOption = "24h",
    job_type: TypeOption = None,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Say how the queue is, and why. Exit code 1 unless it is healthy."""
    span = parse_window(window)
    found = with_queue(url, schema, env_file, lambda queue: queue.status(window=span, job_type=job_type))
    if as_json:
        write_json(found)
    else:
        _print_status(found)
    finish(OK if found.verdict == "healthy" else PROBLEM)


def _print_status(found: QueueStatus) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    out = console()
    out.print(cell(found.verdict, _VERDICT_STYLES.get(found.verdict, "bold red")))
    for line in found.evidence:
        out.print(cell(f"  {line}"))
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("job type")
    for name in ("pending", "processing", "failed", "completed", "a minute", "wait p50 / p95", "run p50 / p95"):
        table.add_column(name, justify="right")
    timings = {timing.job_type: timing for timing in found.timings}
    for name, counts in sorted(found.by_type.items()):
        timing = timings.get(name)
        table.add_row(
            cell(name),
            *(cell(f"{counts.get(column, 0):,}") for column in ("pending", "processing", "failed", "completed")),
            cell(f"{timing.per_minute:,.4g}" if timing else ""),
            cell(_spread(timing.wait) if timing else ""),
            cell(_spread(timing.run) if timing else ""),
        )
    if found.by_type:
        out.print(table)


def _spread(spread: Spread | None) -> str:
    return "" if spread is None else f"{duration(spread.p50)} / {duration(spread.p95)}"


def _of_a_group(worker: WorkerRecord) -> str:
    return "" if worker.group_concurrency is None else f" (at most {worker.group_concurrency} of one group)"


# -- workers --------------------------------------------------------------------------------------------


@reports_errors
def workers(url: Url = None, schema: Schema = None, env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """List the workers, and which jobs each one holds since when. Exit code 1 if none is alive."""

    async def ask(queue: JobQueue) -> tuple[list[Any], list[Job]]:
        return await queue.list_workers(), await queue.get_jobs(status="processing", limit=1000, values=False)

    found, running = with_queue(url, schema, env_file, ask)
    held = {worker.id: [job for job in running if job.locked_by == worker.id] for worker in found}
    if as_json:
        write_json(
            [
                {
                    "worker": worker,
                    "jobs": [
                        {"id": job.id, "job_type": job.job_type, "since": job.locked_at} for job in held[worker.id]
                    ],
                }
                for worker in found
            ]
        )
    else:
        out = console()
        if not found:
            out.print(cell("No workers. Start one: dataqueue worker MODULE:QUEUE"))
        for worker in found:
            state = "alive" if worker.alive else "lost"
            out.print(
                cell(
                    f"{worker.id}  {state}, holds {worker.running} of {worker.concurrency}{_of_a_group(worker)}, last heartbeat "
                    f"{ago(worker.last_heartbeat_at)}, since {local_time(worker.started_at)}",
                    "" if worker.alive else "red",
                )
            )
            out.print(cell(f"  types: {', '.join(worker.job_types)}", "bright_black"))
            for job in held[worker.id][:20]:
                out.print(cell(f"  job {job.id}  {job.job_type}  {ago(job.locked_at)}"))
    finish(OK if any(worker.alive for worker in found) else PROBLEM)
