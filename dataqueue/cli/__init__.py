"""The ``dataqueue`` command.

Exit codes: 0 all is well · 1 the command found a problem (no such job, nothing to change, a doctor's
error, a lost job) · 2 wrong usage or configuration · 3 the store cannot be reached · 4 its tables are
missing, older or newer than this package. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

import dataqueue
from dataqueue.cli import (
    changing,
    cron,
    demo,
    docs,
    explain,
    init,
    inspect,
    install,
    jobs,
    limits,
    mcp,
    migrate,
    redrive,
    supervisor,
    tokens,
    worker,
)

__all__ = ["app", "main"]

app = typer.Typer(
    name="dataqueue",
    help="Background jobs on the database you already run.",
    epilog="Exit codes: 0 ok, 1 problem found, 2 usage or configuration, 3 store unreachable, 4 tables do not fit.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dataqueue {dataqueue.__version__}")
        raise typer.Exit


@app.callback()
def _root(  # pyright: ignore[reportUnusedFunction]
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Background jobs on the database you already run."""


app.command("demo")(demo.demo)
app.command("init")(init.init)
app.command("migrate")(migrate.migrate)
app.command("worker")(worker.worker)
app.command("supervisor")(supervisor.supervisor)
app.command("cleanup")(supervisor.cleanup)
jobs.app.command("edit")(changing.edit)
jobs.app.command("retry")(changing.retry)
jobs.app.command("cancel")(changing.cancel)
jobs.app.command("redrive")(redrive.redrive)
app.add_typer(jobs.app, name="jobs")
app.add_typer(cron.app, name="cron")
app.add_typer(tokens.app, name="tokens")
app.command("stats")(inspect.stats)
app.command("status")(explain.status)
app.command("explain")(explain.explain)
app.command("failures")(explain.failures)
app.command("workers")(explain.workers)
app.command("pause")(limits.pause)
app.command("resume")(limits.resume)
app.command("limits")(limits.limits)
app.command("doctor")(inspect.doctor)
app.command("mcp")(mcp.mcp)
app.command("install-mcp")(install.install_mcp)
app.command("install-rules")(install.install_rules)
app.command("install-skills")(install.install_skills)
app.command("install-ai")(install.install_ai)
app.add_typer(docs.app, name="docs")


def main() -> int:
    """Run the command line; the exit code is returned or raised as ``SystemExit``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a question mark is better than no answer
    app()
    return 0
