"""``dataqueue jobs``: list, show, add. What changes jobs that are there is in ``changing``."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from dataqueue.cli.common import (
    OK,
    PROBLEM,
    AsJson,
    EnvFile,
    Schema,
    Url,
    console,
    finish,
    plain,
    reports_errors,
    with_queue,
    write_json,
)
from dataqueue.dependencies import DependsOn
from dataqueue.errors import InvalidJob, InvalidPayload, ResultTimeout
from dataqueue.unique import Unique

if TYPE_CHECKING:
    from dataqueue.jobs import Job, JobEvent, JobPage, JobStatus, TagMode
    from dataqueue.options import JobOptions
    from dataqueue.queue import JobQueue
    from dataqueue.steps import Step

app = typer.Typer(help="Look at jobs, add them, edit, retry and cancel them.", no_args_is_help=True)


def record(job: Job) -> dict[str, Any]:
    """A job as ``--json`` shows it."""
    shown = plain(job)
    shown["timeout_seconds"] = shown.pop("timeout")
    return {**shown, "is_finished": job.is_finished}


# -- list -----------------------------------------------------------------------------------------------


@app.command("list")
@reports_errors
def list_jobs(
    status: Annotated[
        list[str] | None,
        typer.Option(help="pending, processing, completed, failed, cancelled or waiting; may be repeated."),
    ] = None,
    job_type: Annotated[list[str] | None, typer.Option("--type", help="A job type; may be repeated.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be repeated.")] = None,
    tag_mode: Annotated[str, typer.Option(help="all of the tags, any, exact (no others), or none.")] = "all",
    group: Annotated[str | None, typer.Option(help="Only jobs of this group.")] = None,
    limit: Annotated[int, typer.Option(help="Jobs at most, up to 1,000.")] = 50,
    cursor: Annotated[int | None, typer.Option(help="Go on where a page ended: its next cursor.")] = None,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""

    async def fetch(queue: JobQueue) -> JobPage:
        return await queue.get_jobs(
            status=cast("list[JobStatus] | None", status or None),
            job_type=job_type or None,
            tags=tag or None,
            tag_mode=cast("TagMode", tag_mode),
            group=group,
            limit=limit,
            cursor=cursor,
        )

    page = with_queue(url, schema, env_file, fetch)
    if as_json:
        write_json({"jobs": [record(job) for job in page], "next_cursor": page.next_cursor})
        return
    if not page:
        typer.echo("No jobs.", err=True)
        return
    from dataqueue.cli.render import print_table

    print_table(console(), page)
    if page.next_cursor is not None:
        typer.echo(f"There are more: --cursor {page.next_cursor}", err=True)


# -- show -----------------------------------------------------------------------------------------------


@app.command()
@reports_errors
def show(
    job_id: Annotated[int, typer.Argument(metavar="ID", show_default=False)],
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
    steps: Annotated[bool, typer.Option("--steps", help="Its steps and waits as a timeline, too.")] = False,
) -> None:
    """Show a job: its data, its errors, and what happened to it."""

    async def fetch(queue: JobQueue) -> tuple[Job, list[JobEvent], list[Step]]:
        job = await queue.require_job(job_id)
        return job, await queue.get_job_events(job_id), await queue.get_job_steps(job_id) if steps else []

    job, events, journal = with_queue(url, schema, env_file, fetch)
    if as_json:
        write_json({"job": record(job), "events": events, **({"steps": journal} if steps else {})})
        return
    from dataqueue.cli.render import print_job, print_steps

    print_job(console(), job, events)
    if steps:
        print_steps(console(), journal)


# -- add ------------------------------------------------------------------------------------------------


@app.command()
@reports_errors
def add(
    job_type: Annotated[str, typer.Argument(metavar="TYPE", show_default=False)],
    payload: Annotated[
        str | None, typer.Argument(metavar="PAYLOAD", help="JSON, or - to read it from stdin; null by default.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="Higher runs first.")] = None,
    delay: Annotated[float | None, typer.Option(metavar="SECONDS", help="Not before this long from now.")] = None,
    run_at: Annotated[
        str | None, typer.Option(metavar="ISO", help="Not before this moment: 2026-01-31T09:00:00+01:00.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be repeated.")] = None,
    group: Annotated[str | None, typer.Option(help="Its group: a tenant or customer, limited by the workers.")] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key: a second job with it is not added.")] = None,
    unique: Annotated[
        str | None, typer.Option(help="Unique key: none is added while one with it is unfinished.")
    ] = None,
    after: Annotated[
        list[int] | None, typer.Option(metavar="ID", help="A job that must end well before; may be repeated.")
    ] = None,
    after_tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", help="The unfinished jobs with all of these tags must end before."),
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Run it also if those fail or are cancelled.")] = False,
    dead_letter: Annotated[
        str | None, typer.Option(metavar="TYPE", help="A job of this type is added when this one has failed for good.")
    ] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Tries in all.")] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="For each attempt.")] = None,
    wait: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Wait for its end; exit code 1 unless it completes.")
    ] = None,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Add a job.

    Your code is not asked: the payload is checked by the worker, and the type's default options are not applied.
    """
    given: dict[str, object] = {
        "priority": priority,
        "delay": read_seconds(delay, "--delay"),
        "run_at": read_moment(run_at, "--run-at"),
        "tags": tag or None,
        "group": group,
        "idempotency_key": key,
        "unique": None if unique is None else Unique(unique),
        "dead_letter": dead_letter,
        "max_attempts": max_attempts,
        "timeout": read_seconds(timeout, "--timeout"),
    }
    if after or after_tag:
        given["depends_on"] = DependsOn(after or (), after_tag or (), "run" if anyway else "cancel")
    options = cast("JobOptions", {name: value for name, value in given.items() if value is not None})
    value = read_payload(payload)

    async def send(queue: JobQueue) -> tuple[int, bool, Job | None]:
        handle = await queue.add_job(job_type, value, **options)
        if not as_json:
            typer.echo(f"Job {handle.id} added." if handle.created else f"Job {handle.id} has this key already.")
        if wait is None:
            return handle.id, handle.created, None
        try:
            return handle.id, handle.created, await handle.wait(wait)
        except ResultTimeout:
            return handle.id, handle.created, await handle.refresh()

    job_id, created, job = with_queue(url, schema, env_file, send)
    if as_json:
        write_json({"id": job_id, "created": created, **({"job": record(job)} if job else {})})
    elif job is not None:
        from dataqueue.cli.render import print_end

        print_end(console(), job)
    finish(OK if job is None or job.status == "completed" else PROBLEM)


def read_payload(text: str | None) -> Any:
    if text == "-":
        text = typer.get_text_stream("stdin").read()
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidPayload(
            f"The payload is not JSON: {error}. Text needs quotes of its own: '\"text\"'. Nothing was stored."
        ) from error


def read_seconds(value: float | None, what: str) -> timedelta | None:
    try:
        return None if value is None else timedelta(seconds=value)
    except (ValueError, OverflowError) as error:
        raise InvalidJob(f"{what} is {value}, which is not a usable number of seconds.") from error


def read_moment(text: str | None, what: str) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidJob(f"{what} is {text!r}; write a moment as 2026-01-31T09:00:00+01:00.") from error
