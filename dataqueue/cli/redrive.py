"""``dataqueue jobs redrive``: dead letters go back to where they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dataqueue.cli.changing import BY
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
from dataqueue.errors import ConfigError, InvalidJob, JobNotFound

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue


@reports_errors
def redrive(
    job_ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID…]", help="Ids of dead letters.", show_default=False)
    ] = None,
    job_type: Annotated[
        str | None, typer.Option("--type", help="All dead letters of this type that nobody has handled, oldest first.")
    ] = None,
    limit: Annotated[int, typer.Option(help="How many at most, with --type.")] = 1000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --type: say what would be redriven.")] = False,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Run the jobs again that dead letters tell of; the letters are settled with it."""
    if bool(job_ids) == (job_type is not None):
        raise ConfigError("Name dead letters by their ids, or all of a type with --type.")
    if dry_run and job_type is None:
        raise ConfigError("--dry-run goes with --type.")

    async def redrive_them(queue: JobQueue) -> tuple[list[int], list[str]]:
        if job_type is not None:
            handles = await queue.redrive_all(job_type, limit=limit, dry_run=dry_run, by=BY)
            return [handle.id for handle in handles], []
        done: list[int] = []
        refused: list[str] = []
        for job_id in job_ids or ():
            try:
                done.append((await queue.redrive(job_id, by=BY)).id)
            except (InvalidJob, JobNotFound) as error:
                refused.append(str(error))
        return done, refused

    done, refused = with_queue(url, schema, env_file, redrive_them)
    if as_json:
        write_json({"dry_run": dry_run, "letters" if dry_run else "jobs": done, "refused": refused})
    else:
        for job_id in done:
            typer.echo(f"Dead letter {job_id} would be redriven." if dry_run else f"Job {job_id} runs again.")
        for message in refused:
            typer.echo(message, err=True)
        if not done and not refused:
            typer.echo("No dead letters to redrive.", err=True)
    finish(PROBLEM if refused else OK)
