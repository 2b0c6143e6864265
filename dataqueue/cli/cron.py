"""``dataqueue cron``: schedules."""

from __future__ import annotations

import json
from dataclasses import replace
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
    finish,
    local_time,
    plain,
    reports_errors,
    with_queue,
    write_json,
    write_lines,
)
from dataqueue.cron_jobs import CatchUp, CronSchedule, Missed
from dataqueue.errors import ConfigError, ScheduleNotFound

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue

app = typer.Typer(help="Schedules: jobs that are added by the clock.", no_args_is_help=True)

Which = Annotated[str, typer.Argument(metavar="NAME", help="The name of a schedule, or its id.", show_default=False)]


async def _find(queue: JobQueue, which: str) -> CronSchedule:
    found = await queue.get_cron_job_by_name(which)
    if found is None and which.isdecimal() and len(which) < 19:
        return await queue.get_cron_job(int(which))
    if found is None:
        raise ScheduleNotFound(which)
    return found


def _as_json(schedule: CronSchedule) -> dict[str, Any]:
    record = plain(replace(schedule, missed="run_once"))
    record.pop("version", None)
    record["missed"], record["catch_up_limit"] = schedule.missed_word, schedule.catch_up_limit
    return {**record, "description": schedule.description, "next_fires": schedule.next_fires()}


def _missed(text: str, limit: int | None) -> Missed:
    if text == "catch_up":
        return CatchUp(limit or 100)
    if limit is not None:
        raise ConfigError("--limit goes with --missed catch_up. Nothing was stored.")
    if text not in ("skip", "run_once"):
        raise ConfigError(f"--missed is skip, run_once or catch_up, not {text!r:.80}. Nothing was stored.")
    return "skip" if text == "skip" else "run_once"


@app.command("list")
@reports_errors
def list_schedules(url: Url = None, schema: Schema = None, env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """List all schedules, oldest first."""
    found = with_queue(url, schema, env_file, lambda queue: queue.list_cron_jobs())
    if as_json:
        write_json([_as_json(schedule) for schedule in found])
    elif not found:
        typer.echo("There are no schedules. Add one: dataqueue cron add, or @queue.cron in the code.", err=True)
    else:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for name in ("name", "expression", "time zone", "job type", "state", "next", "last job"):
            table.add_column(name)
        for one in found:
            word, style = _state(one)
            fire = one.next_run_at if one.status == "active" else None
            table.add_row(
                cell(one.name), cell(one.expression), cell(one.timezone), cell(one.job_type), cell(word, style),
                cell(ago(fire) if fire else None), cell(one.last_job_id),
            )  # fmt: skip
        console().print(table)


def _state(schedule: CronSchedule) -> tuple[str, str]:
    if schedule.status == "paused":
        return "paused", "bold yellow"
    if schedule.problem:
        return "cannot fire", "bold red"
    return ("active", "green") if schedule.next_run_at else ("never fires", "yellow")


@app.command()
@reports_errors
def show(
    which: Which, url: Url = None, schema: Schema = None, env_file: EnvFile = None, as_json: AsJson = False
) -> None:
    """Show a schedule: in words, its next fires, its last job, and why it was skipped."""
    schedule = with_queue(url, schema, env_file, lambda queue: _find(queue, which))
    if as_json:
        write_json(_as_json(schedule))
        return
    lines = [
        f"{schedule.name} (id {schedule.id}): {_state(schedule)[0]}",
        f"{schedule.expression}  {schedule.description}, {schedule.timezone}",
        f"adds jobs of type {schedule.job_type}, payload {json.dumps(schedule.payload)[:200]}",
        f"overlap {'allowed' if schedule.allow_overlap else 'not allowed'}; missed fires: {schedule.missed_word}"
        + (f" ({schedule.catch_up_limit})" if schedule.catch_up_limit else ""),
        *(f"next: {local_time(fire)}" for fire in schedule.next_fires()),
    ]
    if schedule.last_enqueued_at:
        lines.append(f"last job: {schedule.last_job_id}, added {ago(schedule.last_enqueued_at)}")
    if schedule.last_skipped_at:
        why = "its last job was unfinished" if schedule.last_skip_reason == "overlap" else "its fire was missed"
        lines.append(f"last skipped {ago(schedule.last_skipped_at)}: {why}")
    if schedule.declared_at:
        lines.append(f"declared in code; last by a worker that started {ago(schedule.declared_at)}")
    if schedule.problem:
        lines.append(f"cannot fire: {schedule.problem}")
    write_lines(lines)


@app.command()
@reports_errors
def add(
    name: Annotated[str, typer.Argument(help="Its name, each once.")],
    expression: Annotated[str, typer.Argument(help="Such as '0 9 * * 1-5'.")],
    job_type: Annotated[str, typer.Argument(metavar="TYPE", help="The type of the jobs that it adds.")],
    payload: Annotated[str, typer.Option(help="JSON.")] = "null",
    timezone: Annotated[str, typer.Option(help="By whose clock, such as Europe/Oslo.")] = "UTC",
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Add a job while the last one is unfinished, too.")
    ] = False,
    missed: Annotated[str, typer.Option(help="What becomes of missed fires: skip, run_once, catch_up.")] = "run_once",
    limit: Annotated[int | None, typer.Option(help="With --missed catch_up: how many at most; 100 by default.")] = None,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Add a schedule."""
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise ConfigError(f"--payload is not JSON: {error}. Nothing was stored.") from None
    policy = _missed(missed, limit)
    schedule = with_queue(
        url, schema, env_file,
        lambda queue: queue.add_cron_job(
            name, expression, job_type, value, timezone=timezone, allow_overlap=allow_overlap, missed=policy
        ),
    )  # fmt: skip
    if as_json:
        write_json(_as_json(schedule))
        return
    fire = schedule.next_run_at
    when = f"first {local_time(fire)}" if fire else "but this never comes"
    typer.echo(f"Schedule {schedule.name} adds jobs of type {schedule.job_type}: {schedule.description}, {when}.")


def _set(which: str, active: bool, url: str | None, schema: str | None, env_file: Any, as_json: bool) -> None:
    async def change(queue: JobQueue) -> tuple[bool, CronSchedule]:
        found = await _find(queue, which)
        done = await (queue.resume_cron_job(found.id) if active else queue.pause_cron_job(found.id))
        return done, await queue.get_cron_job(found.id)

    changed, schedule = with_queue(url, schema, env_file, change)
    if as_json:
        write_json({"changed": changed, **_as_json(schedule)})
    elif not changed:
        typer.echo(f"Schedule {schedule.name} is {schedule.status} already: nothing was changed.", err=True)
    elif active:
        fire = schedule.next_run_at
        typer.echo(f"Schedule {schedule.name} is active; {f'next {local_time(fire)}' if fire else 'it never fires'}.")
    else:
        typer.echo(f"Schedule {schedule.name} is paused. End it: dataqueue cron resume {schedule.name}")
    finish(OK if changed else PROBLEM)


@app.command()
@reports_errors
def pause(
    which: Which, url: Url = None, schema: Schema = None, env_file: EnvFile = None, as_json: AsJson = False
) -> None:
    """Let a schedule add no more jobs until `dataqueue cron resume`. Exit code 1 if it was paused already."""
    _set(which, False, url, schema, env_file, as_json)


@app.command()
@reports_errors
def resume(
    which: Which, url: Url = None, schema: Schema = None, env_file: EnvFile = None, as_json: AsJson = False
) -> None:
    """Let a paused schedule go on with its next fire. Exit code 1 if it was not paused."""
    _set(which, True, url, schema, env_file, as_json)


@app.command()
@reports_errors
def remove(
    which: Which, url: Url = None, schema: Schema = None, env_file: EnvFile = None, as_json: AsJson = False
) -> None:
    """Remove a schedule; the jobs that it has added stay. One that the code declares comes back with the next worker."""

    async def take_away(queue: JobQueue) -> CronSchedule:
        found = await _find(queue, which)
        await queue.remove_cron_job(found.id)
        return found

    schedule = with_queue(url, schema, env_file, take_away)
    if as_json:
        write_json({"removed": schedule.name, "id": schedule.id})
    else:
        typer.echo(f"Schedule {schedule.name} is removed.")


@app.command()
@reports_errors
def run(url: Url = None, schema: Schema = None, env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """Add the jobs of all schedules that are due, once. Workers do this by themselves."""

    async def fire(queue: JobQueue) -> list[int]:
        return [handle.id for handle in await queue.enqueue_due_cron_jobs()]

    added = with_queue(url, schema, env_file, fire)
    if as_json:
        write_json({"jobs": added})
    else:
        typer.echo(f"Added {len(added)} jobs: {', '.join(map(str, added))}." if added else "No schedule is due.")
