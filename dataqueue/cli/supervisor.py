"""``dataqueue supervisor`` and ``cleanup``: what keeps a queue tidy."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataqueue.cli import logs
from dataqueue.cli.common import (
    OK,
    PROBLEM,
    AsJson,
    EnvFile,
    Schema,
    Url,
    find_store,
    finish,
    reports_errors,
    with_queue,
    with_store,
    write_json,
)
from dataqueue.errors import ConfigError

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue
    from dataqueue.worker.supervisor import Supervisor, SupervisorOptions, SupervisorResult

_DRAIN_SECONDS = 30.0
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
FOR_EVER = "forever"


def _kept(what: str) -> Any:
    return typer.Option(metavar="DAYS", help=f"How long {what} (30, 12h, {FOR_EVER}).")


KeepCompleted = Annotated[str, _kept("completed jobs are kept")]
KeepFailed = Annotated[str, _kept("jobs that failed for good are kept")]
KeepCancelled = Annotated[str, _kept("cancelled jobs are kept")]
KeepEvents = Annotated[str, _kept("the events of jobs that stay are kept")]
KeepTokens = Annotated[str, _kept("tokens of no job are kept after their end")]
IdempotencyTtl = Annotated[
    str,
    typer.Option(
        metavar="DAYS", help="Free idempotency keys so long after the end of their job.", show_default="with the job"
    ),
]


def parse_age(text: str) -> timedelta:
    """``30`` (days), ``12h`` or ``0`` as a time.

    Raises:
        ConfigError: nothing of the kind.
    """
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([smhdw]?)", text.strip())
    if match is None:
        raise ConfigError(
            f"{text!r:.40} is not an age: write a number of days, or one with s, m, h, d or w, such as 12h."
        )
    return timedelta(**{_UNITS[match[2] or "d"]: float(match[1])})


def retention(completed: str, failed: str, cancelled: str, events: str, tokens: str, keys: str) -> SupervisorOptions:
    """The options of a supervisor that the options of a command mean."""

    def age(text: str) -> timedelta | None:
        return None if text.strip().lower() == FOR_EVER else parse_age(text)

    return {
        "keep_completed": age(completed),
        "keep_failed": age(failed),
        "keep_cancelled": age(cancelled),
        "keep_events": age(events),
        "keep_tokens": age(tokens),
        "idempotency_ttl": age(keys),
    }


# -- supervisor -----------------------------------------------------------------------------------------


@reports_errors
def supervisor(
    once: Annotated[bool, typer.Option("--once", help="Do everything once, whoever else does, then exit.")] = False,
    interval: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait after each run.")] = 60.0,
    keep_completed: KeepCompleted = "30",
    keep_failed: KeepFailed = "90",
    keep_cancelled: KeepCancelled = "90",
    keep_events: KeepEvents = "90",
    keep_tokens: KeepTokens = "90",
    idempotency_ttl: IdempotencyTtl = FOR_EVER,
    log_level: Annotated[str, typer.Option(help=", ".join(logs.LEVELS) + ".")] = "info",
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON objects, one a line.")] = False,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Take jobs back from lost workers, and delete what is over and old, until it is told to stop.

    Of many supervisors one works at a time. `dataqueue worker` has one too, unless it was started with
    --no-supervisor. With --once, as from cron: exit code 1 if a part of it failed.
    """
    if as_json and not once:
        raise ConfigError("--json goes with --once. For a log that machines read, write --log-json.")
    if log_level.lower() not in logs.LEVELS:
        raise ConfigError(f"There is no log level {log_level!r}. Levels: {', '.join(logs.LEVELS)}.")
    options = retention(keep_completed, keep_failed, keep_cancelled, keep_events, keep_tokens, idempotency_ttl)
    options["interval"] = timedelta(seconds=interval)
    logs.configure(log_level, as_json=log_json)

    async def run(queue: JobQueue) -> SupervisorResult | None:
        working = queue.create_supervisor(**options)
        await queue.open()
        if once:
            return await working.start()
        await _until_told(working)
        return None

    result = with_store(find_store(url, env_file)[0], schema, run)
    if result is None:
        finish(OK)
    if as_json:
        write_json(_as_json(result))
    else:
        typer.echo(
            f"Took back {result.reclaimed_jobs:,} jobs, ended {result.expired_tokens:,} tokens, deleted "
            f"{result.cleaned_up_jobs:,} jobs, {result.cleaned_up_events:,} events and {result.cleaned_up_tokens:,} tokens, "
            f"freed {result.released_keys:,} idempotency keys."
        )
    finish(PROBLEM if result.errors else OK)


def _as_json(result: SupervisorResult) -> dict[str, Any]:
    return {
        "reclaimed_jobs": result.reclaimed_jobs,
        "cleaned_up_jobs": result.cleaned_up_jobs,
        "cleaned_up_events": result.cleaned_up_events,
        "cleaned_up_tokens": result.cleaned_up_tokens,
        "released_keys": result.released_keys,
        "expired_tokens": result.expired_tokens,
        "errors": {name: str(error) for name, error in result.errors.items()},
    }


async def _until_told(supervisor: Supervisor) -> None:
    """Work until a signal comes; a second one does not wait for what is under way."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, signals.put_nowait, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda heard, _: loop.call_soon_threadsafe(signals.put_nowait, heard))
    supervisor.start_in_background()
    await signals.get()
    await _first(supervisor.stop_and_drain(_DRAIN_SECONDS), signals.get())
    await supervisor.stop_and_drain(0)


async def _first(*operations: Coroutine[Any, Any, Any]) -> None:
    tasks = [asyncio.create_task(operation) for operation in operations]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


# -- cleanup --------------------------------------------------------------------------------------------


@reports_errors
def cleanup(
    older_than: Annotated[str, typer.Option(metavar="DAYS", help="Those that ended longer ago: 30, 12h, 0 for all.")],
    status: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="completed (the default), failed or cancelled; may be given several times."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Jobs deleted in one step, at most.")] = 1000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Delete finished jobs, with their events, outputs and errors, that ended longer ago than a time.

    Failed jobs with a retry due are not finished. Nothing else is touched.
    """
    age = parse_age(older_than)
    statuses: Any = status or ["completed"]
    count = with_queue(
        url,
        schema,
        env_file,
        lambda queue: queue.cleanup_old_jobs(age, status=statuses, batch_size=batch_size, dry_run=dry_run),
    )
    if as_json:
        write_json({"deleted": 0 if dry_run else count, "would_delete": count if dry_run else 0, "dry_run": dry_run})
    else:
        typer.echo(f"{'Would delete' if dry_run else 'Deleted'} {count:,} job{'' if count == 1 else 's'}.")
    finish(OK)
