"""``dataqueue jobs edit``, ``cancel`` and ``retry``: change jobs that are there, by their ids or by a filter."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from dataqueue.cli.common import (
    OK,
    PROBLEM,
    AsJson,
    EnvFile,
    Schema,
    Url,
    finish,
    reports_errors,
    with_queue,
    write_json,
)
from dataqueue.cli.jobs import read_moment, read_payload, read_seconds
from dataqueue.errors import ConfigError
from dataqueue.options import check_names

if TYPE_CHECKING:
    from dataqueue.backends.base import ChangeResult
    from dataqueue.filters import JobFilters
    from dataqueue.jobs import Job
    from dataqueue.options import JobChanges
    from dataqueue.queue import JobQueue

BY = "cli"
"""Who wanted it, in a job's event log."""

Ids = Annotated[list[int] | None, typer.Argument(metavar="[ID…]", show_default=False)]
JobType = Annotated[list[str] | None, typer.Option("--type", help="Jobs of this type; may be repeated.")]
Status = Annotated[list[str] | None, typer.Option(help="Jobs with this status; may be repeated.")]
Tag = Annotated[list[str] | None, typer.Option(help="Jobs with this tag; may be repeated.")]
TagModes = Annotated[str, typer.Option(help="all of the tags, any, exact (no others), or none.")]
Group = Annotated[str | None, typer.Option(help="Jobs of this group.")]
Before = Annotated[str | None, typer.Option(metavar="ISO", help="Jobs that were added before this moment.")]
After = Annotated[str | None, typer.Option(metavar="ISO", help="Jobs that were added at or after this moment.")]
Error = Annotated[str | None, typer.Option(metavar="TEXT", help="Jobs with this in the message of an error.")]
Whole = Annotated[bool, typer.Option("--all", help="All jobs, in place of ids or a filter.")]
DryRun = Annotated[bool, typer.Option(help="Only count the jobs that a filter meets.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


# -- edit -----------------------------------------------------------------------------------------------


@reports_errors
def edit(
    job_id: Annotated[int, typer.Argument(metavar="ID", show_default=False)],
    payload: Annotated[
        str | None, typer.Option(metavar="JSON", help="Its payload, or - to read it from stdin.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="Higher runs first.")] = None,
    delay: Annotated[float | None, typer.Option(metavar="SECONDS", help="Not before this long from now.")] = None,
    run_at: Annotated[
        str | None, typer.Option(metavar="ISO", help="Not before this moment: 2026-01-31T09:00:00+01:00, or now.")
    ] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Tries in all.")] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="For each attempt.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Its tags, in place of those before; may be repeated.")] = None,
    clear: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="timeout, tags, retry_delay, retry_backoff or retry_delay_max: back to none."
        ),
    ] = None,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Change a job that is pending; what is not named stays as it is.

    Your code is not asked: a payload is checked by the worker. Exit code 1 if the job is not pending (any more).
    """
    given: dict[str, Any] = {
        "priority": priority,
        "delay": read_seconds(delay, "--delay"),
        "run_at": None if run_at == "now" else read_moment(run_at, "--run-at"),
        "max_attempts": max_attempts,
        "timeout": read_seconds(timeout, "--timeout"),
        "tags": tag or None,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if payload is not None:
        changes["payload"] = read_payload(payload)
    if run_at == "now":
        changes["run_at"] = None
    clearable = ("timeout", "tags", "retry_delay", "retry_backoff", "retry_delay_max")
    check_names(dict.fromkeys(clear or ()), clearable)
    changes |= dict.fromkeys(clear or ())
    if not changes:
        raise ConfigError("Name what to change: --priority, --run-at, --payload, … Nothing was changed.")

    async def change(queue: JobQueue) -> tuple[bool, Job]:
        return await queue.edit_job(job_id, by=BY, **cast("JobChanges", changes)), await queue.require_job(job_id)

    changed, job = with_queue(url, schema, env_file, change)
    if as_json:
        write_json({"id": job_id, "changed": changed, "status": job.status})
    elif changed:
        typer.echo(f"Job {job_id} ({job.job_type}) was changed: {', '.join(sorted(changes))}.")
    else:
        typer.echo(f"Job {job_id} ({job.job_type}) is {job.status}, not pending: nothing was changed.", err=True)
    finish(OK if changed else PROBLEM)


# -- retry and cancel -----------------------------------------------------------------------------------


@reports_errors
def retry(
    job_ids: Ids = None,
    force: Annotated[bool, typer.Option(help="With ids: completed jobs too.")] = False,
    job_type: JobType = None,
    status: Status = None,
    tag: Tag = None,
    tag_mode: TagModes = "all",
    group: Group = None,
    before: Before = None,
    after: After = None,
    error: Error = None,
    whole: Whole = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Run failed or cancelled jobs again, now: by their ids, or all that a filter meets.

    A filter means jobs that have failed for good; with --status cancelled, cancelled ones.
    """
    filters = _filters(job_ids, whole, job_type, status, tag, tag_mode, group, before, after, error)
    store = (url, schema, env_file)
    if filters is None:
        _change_these(
            lambda queue: queue.retry_jobs(job_ids or (), force=force, by=BY), job_ids or [], "retried", store, as_json
        )
    if force:
        raise ConfigError("--force goes with ids. Nothing was changed.")

    async def all_of_them(queue: JobQueue, dry: bool) -> int:
        return await queue.retry_all_failed_jobs(dry_run=dry, by=BY, **filters)

    _change_all(all_of_them, "retried", store, dry_run, yes, as_json)


@reports_errors
def cancel(
    job_ids: Ids = None,
    job_type: JobType = None,
    status: Status = None,
    tag: Tag = None,
    tag_mode: TagModes = "all",
    group: Group = None,
    before: Before = None,
    after: After = None,
    error: Error = None,
    whole: Whole = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Cancel jobs: by their ids, or all that a filter meets. One that runs is asked to stop.

    A filter means jobs that are yet to run: pending, waiting, or failed with a retry due; with --status processing,
    running ones.
    """
    filters = _filters(job_ids, whole, job_type, status, tag, tag_mode, group, before, after, error)
    store = (url, schema, env_file)
    if filters is None:
        _change_these(lambda queue: queue.cancel_jobs(job_ids or (), by=BY), job_ids or [], "cancelled", store, as_json)

    async def all_of_them(queue: JobQueue, dry: bool) -> int:
        return await queue.cancel_all_upcoming_jobs(dry_run=dry, by=BY, **filters)

    _change_all(all_of_them, "cancelled", store, dry_run, yes, as_json)


def _filters(
    job_ids: list[int] | None,
    whole: bool,
    job_type: list[str] | None,
    status: list[str] | None,
    tag: list[str] | None,
    tag_mode: str,
    group: str | None,
    before: str | None,
    after: str | None,
    error: str | None,
) -> JobFilters | None:
    """The filter, None where ids are given.

    Raises:
        ConfigError: not exactly one of ids, a filter, and --all.
    """
    given: dict[str, Any] = {
        "job_type": job_type or None,
        "status": status or None,
        "tags": tag or None,
        "group": group,
        "created_before": read_moment(before, "--before"),
        "created_after": read_moment(after, "--after"),
        "error_contains": error,
    }
    filters = {name: value for name, value in given.items() if value is not None}
    if bool(job_ids) + bool(filters) + whole != 1:
        raise ConfigError("Give ids, or a filter (--type, --tag, …), or --all: one of these. Nothing was changed.")
    return None if job_ids else cast("JobFilters", {**filters, "tag_mode": tag_mode})


def _change_these(
    change: Callable[[JobQueue], Awaitable[dict[int, ChangeResult]]],
    job_ids: list[int],
    word: str,
    store: tuple[Url, Schema, EnvFile],
    as_json: bool,
) -> NoReturn:
    """Change jobs and say what became of each; exit code 1 if any is as it was."""

    async def all_of_them(queue: JobQueue) -> list[tuple[int, str, str]]:
        results = await change(queue)
        done: list[tuple[int, str, str]] = []
        for job_id in dict.fromkeys(job_ids):
            result = {"changed": word, "missing": "not_found"}.get(results[job_id], results[job_id])
            done.append((job_id, result, _outcome(job_id, await queue.get_job(job_id), result)))
        return done

    results = with_queue(*store, all_of_them)
    if as_json:
        write_json({"results": [{"id": job_id, "result": result} for job_id, result, _ in results]})
    for _, result, message in results:
        if not as_json:
            typer.echo(message, err=result in ("unchanged", "not_found"))
    finish(PROBLEM if any(result in ("unchanged", "not_found") for _, result, _ in results) else OK)


def _change_all(
    change: Callable[[JobQueue, bool], Awaitable[int]],
    word: str,
    store: tuple[Url, Schema, EnvFile],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Count the jobs, ask a person if there is one, and change them; exit code 1 if there are none."""

    async def go(queue: JobQueue) -> int:
        if not dry_run and not yes and sys.stdin.isatty() and not as_json:
            count = await change(queue, True)
            if count and not typer.confirm(f"{count:,} jobs will be {word}. Go on?", err=True):
                raise typer.Abort
        return await change(queue, dry_run)

    count = with_queue(*store, go)
    if as_json:
        write_json({"count": count, "dry_run": dry_run})
    else:
        typer.echo(f"{count:,} jobs would be {word}." if dry_run else f"{count:,} jobs were {word}.")
    finish(OK if count else PROBLEM)


def _outcome(job_id: int, job: Job | None, result: str) -> str:
    if job is None:
        return f"There is no job {job_id}: it was never added to this queue, or has been deleted."
    match result:
        case "requested":
            if job.status != "processing":
                return f"Job {job.id} ({job.job_type}) was asked to stop, and is {job.status}."
            return f"Job {job.id} ({job.job_type}) is running on {job.locked_by}; it was asked to stop."
        case "unchanged":
            return f"Job {job.id} ({job.job_type}) is {job.status}: nothing was changed."
        case _:
            return f"Job {job.id} ({job.job_type}) was {result}."
