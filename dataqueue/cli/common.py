"""What the commands share: options, the way to the store, output, and exit codes."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import logging
import shlex
import shutil
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec, TypeVar, cast

import typer

from dataqueue.cli import envfile
from dataqueue.errors import ConfigError, DataQueueError, InvalidJob, SchemaError, StoreUnavailable, WrongLoop

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from dataqueue.queue import JobQueue

P = ParamSpec("P")
T = TypeVar("T")

OK, PROBLEM, USAGE, UNREACHABLE, SCHEMA = 0, 1, 2, 3, 4
"""Exit codes. PROBLEM: the command ran and found one, such as an unknown job or nothing to change."""

STATUS_STYLES = {
    "pending": "cyan",
    "processing": "yellow",
    "waiting": "magenta",
    "completed": "green",
    "failed": "red",
    "cancelled": "bright_black",
}

_WIDE = 200

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The store. By default the first that is set of DATAQUEUE_URL, PG_DATAQUEUE_DATABASE, DATABASE_URL.",
    ),
]
Schema = Annotated[
    str | None,
    typer.Option(
        "--schema",
        metavar="NAME",
        help="The Postgres schema of the tables, if not on the search path; for Redis, what the keys begin with.",
    ),
]
EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env-file",
        metavar="PATH",
        help="Read variables from this file; by default .env here, if there is one. The real environment wins.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and nothing else.")]


# -- running a command ----------------------------------------------------------------------------------


def reports_errors(function: Callable[P, None]) -> Callable[P, None]:
    """A command whose expected errors become one line on stderr (and JSON, if asked for) and an exit code."""

    @functools.wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except DataQueueError as error:
            message = printable(str(error))
            typer.secho(f"Error: {message}", fg="red", err=True)
            if kwargs.get("as_json"):
                write_json({"error": {"type": type(error).__name__, "message": message}})
            raise typer.Exit(exit_code(error)) from error

    return command


def exit_code(error: DataQueueError) -> int:
    match error:
        case ConfigError() | InvalidJob() | WrongLoop():
            return USAGE
        case StoreUnavailable():
            return UNREACHABLE
        case SchemaError():
            return SCHEMA
        case _:
            return PROBLEM


def run_async(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run on an event loop that psycopg can use: on Windows that is not the default one."""
    factory = asyncio.SelectorEventLoop if sys.platform == "win32" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def find_store(url: str | None, env_file: Path | None) -> tuple[str, str]:
    """The store's URL, and where it was found, for people.

    Raises:
        ConfigError: nothing names a store, or the environment file cannot be read.
    """
    from dataqueue.backends.resolve import resolve_url

    from_file = load_environment(env_file)
    found, source = resolve_url(url)
    if url:
        return found, "--url"
    return found, f"{source} in {env_file or envfile.DEFAULT}" if source in from_file else source


def load_environment(env_file: Path | None) -> set[str]:
    """Read the environment file; the names that came from it."""
    from_file, warnings = envfile.load(env_file)
    for warning in warnings:
        typer.secho(warning, fg="yellow", err=True)
    return from_file


def with_queue(
    url: str | None,
    schema: str | None,
    env_file: Path | None,
    operation: Callable[[JobQueue], Coroutine[Any, Any, T]],
) -> T:
    """Do one thing with the queue of the store that the options choose, and close it."""
    return with_store(find_store(url, env_file)[0], schema, operation)


def with_store(url: str, schema: str | None, operation: Callable[[JobQueue], Coroutine[Any, Any, T]]) -> T:
    """Do one thing with the queue at a URL, and close it."""
    from dataqueue.queue import JobQueue

    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")

    async def main() -> T:
        queue = JobQueue.from_url(url, schema=schema, key_prefix=schema, min_connections=0)
        try:
            return await operation(queue)
        finally:
            await queue.close()

    return run_async(main)


def finish(code: int) -> NoReturn:
    """End the command with an exit code."""
    raise typer.Exit(code)


# -- output ---------------------------------------------------------------------------------------------


def console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # Without a terminal there is no width to fit into, and a wrapped row is no use to grep.
    width = None if stream.isatty() else _WIDE
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def write_json(value: object) -> None:
    typer.echo(json.dumps(plain(value), indent=2 if sys.stdout.isatty() else None))


def plain(value: object) -> Any:
    """Records as JSON values: times in ISO 8601, durations in seconds."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("list[object]", value)]
    return value


def printable(text: str) -> str:
    """Text from a job, made harmless: an escape sequence in it must not reach the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def cell(value: object, style: str = "") -> Text:
    """A table cell; unlike a plain string, never read as markup."""
    from rich.text import Text

    return Text("" if value is None else printable(str(value)), style=style)


def one_line(text: str, width: int) -> str:
    first = text.strip().partition("\n")[0]
    return first if len(first) <= width else f"{first[: width - 1]}…"


def write_lines(lines: Iterable[str]) -> None:
    """Lines of which parts are somebody else's text."""
    typer.echo("\n".join(printable(line) for line in lines))


def ago(moment: datetime | None) -> str:
    """``3 min ago``, ``in 20 s``."""
    if moment is None:
        return ""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def duration(seconds: float) -> str:
    """Roughly, in the unit that a person would choose."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def local_time(moment: datetime) -> str:
    local = moment.astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S}.{local.microsecond // 1000:03d} {local:%Z}".rstrip()


def program_name() -> str:
    """How to call this program again: as it was called."""
    script = Path(sys.argv[0])
    on_path = shutil.which("dataqueue")
    if on_path is not None and Path(on_path).resolve() == script.resolve():
        return "dataqueue"
    if script.stem == "dataqueue":
        return shlex.quote(str(script))
    return f"{shlex.quote(sys.executable)} -m dataqueue"
