"""``dataqueue pause``, ``resume`` and ``limits``: what may run, and how much of it."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

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
    plain,
    reports_errors,
    with_queue,
    write_json,
)
from dataqueue.errors import ConfigError

if TYPE_CHECKING:
    from dataqueue.limits import LimitState
    from dataqueue.queue import JobQueue

JobType = Annotated[str | None, typer.Argument(metavar="TYPE", help="A job type.", show_default=False)]
Whole = Annotated[bool, typer.Option("--all", help="The whole queue, in place of one type.")]


# -- pause and resume -----------------------------------------------------------------------------------


@reports_errors
def pause(
    job_type: JobType = None,
    whole: Whole = False,
    by: Annotated[
        str | None, typer.Option(metavar="WHO", help="Who wants it, and why; your user name by default.")
    ] = None,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Let no worker take jobs of a type (or any jobs, with --all) until `dataqueue resume`.

    Running jobs go on, and jobs can be added. Exit code 1 if it was paused already.
    """
    what = _named(job_type, whole)

    async def stop(queue: JobQueue) -> tuple[bool, bool, list[LimitState]]:
        changed = await queue.pause(job_type, by=by or _user())
        known = job_type is None or job_type in (await queue.stats()).by_type
        return changed, known, await queue.list_limits()

    changed, known, limits = with_queue(url, schema, env_file, stop)
    state = next((state for state in limits if state.job_type == job_type), None)
    if as_json:
        write_json({"job_type": job_type, "changed": changed, "paused": state is not None and state.paused_at})
    elif changed:
        typer.echo(f"{what} is paused: running jobs go on, no other is taken. End it: {_command(job_type)}")
        if not known:
            typer.echo(f"Take care: there is no job of type {job_type} so far.", err=True)
    else:
        since = f" since {local_time(state.paused_at)}" if state and state.paused_at else ""
        whom = f" by {state.paused_by}" if state and state.paused_by else ""
        typer.echo(f"{what} was paused{since}{whom} already: nothing was changed.", err=True)
    finish(OK if changed else PROBLEM)


@reports_errors
def resume(
    job_type: JobType = None,
    whole: Whole = False,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """End the pause of a type, or with --all that of the whole queue.

    Types that were paused by themselves stay so. Exit code 1 if there was no such pause.
    """
    what = _named(job_type, whole)

    async def go_on(queue: JobQueue) -> tuple[bool, list[LimitState]]:
        return await queue.resume(job_type), await queue.list_limits()

    changed, limits = with_queue(url, schema, env_file, go_on)
    still = [state.job_type for state in limits if state.paused_at is not None]
    if as_json:
        write_json({"job_type": job_type, "changed": changed, "still_paused": still})
    else:
        typer.echo(
            f"{what} is no longer paused." if changed else f"{what} was not paused: nothing was changed.",
            err=not changed,
        )
        if still:
            names = ", ".join("the whole queue" if name is None else name for name in still)
            typer.echo(f"Still paused: {names}.", err=True)
    finish(OK if changed else PROBLEM)


def _named(job_type: str | None, whole: bool) -> str:
    """What is meant, for people.

    Raises:
        ConfigError: both or neither were given.
    """
    if (job_type is None) is not whole:
        raise ConfigError("Name one job type, or write --all for the whole queue. Nothing was changed.")
    return "The whole queue" if job_type is None else f"Type {job_type}"


def _command(job_type: str | None) -> str:
    return f"dataqueue resume {job_type or '--all'}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user id without a name
        return "cli"


# -- limits ---------------------------------------------------------------------------------------------


@reports_errors
def limits(url: Url = None, schema: Schema = None, env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """List the types that are limited or paused, and what they use of their limits."""
    found = with_queue(url, schema, env_file, lambda queue: queue.list_limits())
    if as_json:
        write_json([{**plain(state), "free": state.free} for state in found])
    elif not found:
        typer.echo("No type is limited or paused.", err=True)
    else:
        _print_limits(found)


def _print_limits(found: list[LimitState]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("job type", "state", "running", "started", "more starts"):
        table.add_column(name, justify="right" if name in ("running", "started") else "left")
    for state in found:
        word, style = _state(state)
        table.add_row(
            cell(state.job_type or "(the whole queue)"),
            cell(word, style),
            cell(None if state.max_concurrency is None else f"{state.running or 0:,} of {state.max_concurrency:,}"),
            cell(_started(state)),
            cell(ago(state.opens_at) if state.rate and (state.started or 0) >= state.rate.count else None),
        )
    console().print(table)


def _started(state: LimitState) -> str | None:
    if state.rate is None:
        return None
    return f"{state.started or 0:,} of {state.rate.count:,} in {duration(state.rate.per.total_seconds())}"


def _state(state: LimitState) -> tuple[str, str]:
    if state.paused_at is not None:
        return f"paused {ago(state.paused_at)}" + (f" by {state.paused_by}" if state.paused_by else ""), "bold yellow"
    return ("at its limit", "yellow") if state.free == 0 else ("open", "green")
