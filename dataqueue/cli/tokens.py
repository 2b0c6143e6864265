"""``dataqueue tokens``: what jobs wait for until somebody answers."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from dataqueue.cli.common import (
    AsJson,
    EnvFile,
    Schema,
    Url,
    ago,
    local_time,
    plain,
    reports_errors,
    with_queue,
    write_json,
    write_lines,
)
from dataqueue.errors import InvalidJob
from dataqueue.tokens import Token, TokenNotFound

app = typer.Typer(help="Tokens: make one, look at it, answer it.", no_args_is_help=True)

Which = Annotated[str, typer.Argument(metavar="TOKEN", help="Its id.", show_default=False)]


def _print(token: Token, as_json: bool) -> None:
    if as_json:
        write_json(plain(token))
        return
    lines = [
        f"{token.id}: {token.status}",
        f"made {ago(token.created_at)}" + (f" by job {token.job_id}" if token.job_id else ""),
    ]
    if token.tags:
        lines.append(f"tags {', '.join(token.tags)}")
    if token.timeout_at is not None and token.status == "waiting":
        lines.append(f"can be answered until {local_time(token.timeout_at)}")
    if token.completed_at is not None:
        lines.append(f"ended {ago(token.completed_at)}")
    if token.status == "completed":
        lines.append(f"output {json.dumps(token.output, ensure_ascii=False)}")
    if token.error:
        lines.append(f"error {token.error}")
    write_lines(lines)


@app.command()
@reports_errors
def show(
    token_id: Which, url: Url = None, schema: Schema = None, env_file: EnvFile = None, as_json: AsJson = False
) -> None:
    """Show a token: whether it was answered, and how."""
    token = with_queue(url, schema, env_file, lambda queue: queue.get_token(token_id))
    if token is None:
        raise TokenNotFound(token_id)
    _print(token, as_json)


@app.command()
@reports_errors
def create(
    timeout: Annotated[str | None, typer.Option(help="After which nobody can answer it: 10m, 7d.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be repeated.")] = None,
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a token that belongs to no job, and print it."""
    _print(
        with_queue(url, schema, env_file, lambda queue: queue.create_token(timeout=timeout, tags=tag or None)), as_json
    )


@app.command()
@reports_errors
def complete(
    token_id: Which,
    output: Annotated[str, typer.Argument(metavar="JSON", help="What who waits is given.")] = "null",
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Answer a token: the jobs that wait for it go on. The first answer stands."""
    value = _json(output)
    _print(with_queue(url, schema, env_file, lambda queue: queue.complete_token(token_id, value)), as_json)


@app.command()
@reports_errors
def fail(
    token_id: Which,
    error: Annotated[str, typer.Argument(help="What who waits is told.", show_default=False)],
    url: Url = None,
    schema: Schema = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Let a token fail: the jobs that wait for it go on, and are told why."""
    _print(with_queue(url, schema, env_file, lambda queue: queue.fail_token(token_id, error)), as_json)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidJob(f"The output is not JSON: {error}. A text needs quotes of its own: '\"yes\"'.") from error
