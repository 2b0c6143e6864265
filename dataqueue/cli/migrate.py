"""``dataqueue migrate``: creates and upgrades the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dataqueue.cli.common import (
    OK,
    SCHEMA,
    AsJson,
    EnvFile,
    Schema,
    Url,
    cell,
    console,
    finish,
    reports_errors,
    with_queue,
    write_json,
)
from dataqueue.errors import ConfigError

if TYPE_CHECKING:
    from dataqueue.backends.postgres.backend import PostgresBackend
    from dataqueue.queue import JobQueue

Applied = list[tuple[int, str, str | None]]


@reports_errors
def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the SQL and run nothing.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="List the steps; exit code 4 if the tables do not fit this package.")
    ] = False,
    shared_typescript: Annotated[
        bool,
        typer.Option(
            "--shared-typescript",
            help="Make tables that the TypeScript library can share (32-bit ids). Its own, if there, are adopted anyway.",
        ),
    ] = False,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Create the tables, or upgrade them. Safe to run at every deploy, and from several at once."""
    if with_queue(url, schema, env_file, _has_no_tables):
        _nothing(as_json)
    elif status:
        _status(with_queue(url, schema, env_file, lambda queue: _postgres(queue).migration_status()), as_json)
    elif dry_run:
        _plan(
            with_queue(
                url, schema, env_file, lambda queue: _postgres(queue).migrate(shared=shared_typescript, dry_run=True)
            ),
            as_json,
        )
    else:
        _migrate(url, schema, env_file, shared_typescript, as_json)


async def _has_no_tables(queue: JobQueue) -> bool:
    return queue.backend.name != "postgres"


def _nothing(as_json: bool) -> None:
    if as_json:
        write_json({"applied": []})
    else:
        typer.echo("This store has no tables: there is nothing to migrate.")


def _postgres(queue: JobQueue) -> PostgresBackend:
    from dataqueue.backends.postgres.backend import PostgresBackend

    if not isinstance(queue.backend, PostgresBackend):
        raise ConfigError(f"A {queue.backend.name} store has no tables: there is nothing to migrate.")
    return queue.backend


def _status(applied: Applied, as_json: bool) -> None:
    from dataqueue.backends.postgres.migrate import latest_version

    newest = max((version for version, _, at in applied if at is not None), default=0)
    fits = newest <= latest_version() and all(at is not None for _, _, at in applied)
    if as_json:
        steps = [{"version": version, "name": name, "applied_at": at} for version, name, at in applied]
        write_json({"up_to_date": fits, "steps": steps})
    else:
        out = console()
        for version, name, at in applied:
            out.print(cell(f"{version:04d}  {name:<32} {at or 'not applied'}", "" if at else "yellow"))
    finish(OK if fits else SCHEMA)


def _plan(statements: list[str], as_json: bool) -> None:
    if as_json:
        write_json({"sql": statements})
    elif statements:
        typer.echo("\n".join(statements))
    else:
        typer.echo("Nothing to do: the tables are up to date.", err=True)


def _migrate(url: Url, schema: Schema, env_file: EnvFile, shared: bool, as_json: bool) -> None:
    notes = console(stderr=True)

    async def run(queue: JobQueue) -> tuple[list[str], str]:
        backend = _postgres(queue)
        with notes.status("migrating") as spinner:

            def report(step: str) -> None:
                spinner.update(step)
                notes.print(cell(step))

            return await backend.migrate(shared=shared, report=report), backend.location()

    done, where = with_queue(url, schema, env_file, run)
    if as_json:
        write_json({"applied": done})
    elif done:
        typer.echo(f"{len(done)} step{'s' if len(done) > 1 else ''} applied at {where}.")
    else:
        typer.echo(f"The tables at {where} are up to date.")
