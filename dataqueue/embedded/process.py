"""Running the servers' programs: without the caller's terminal, environment and open files."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

LOG_LIMIT = 10_000_000
"""Bytes of log after which the next start begins a new file and keeps the old one as ``.1``."""

_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class Account(NamedTuple):
    """A system account by its numbers; the name is for messages."""

    uid: int
    gid: int
    name: str


class Outcome(NamedTuple):
    """How a program ended, and what it wrote to its standard output and error."""

    code: int
    output: str


def run(command: Sequence[str | Path], directory: Path, account: Account | None = None) -> Outcome:
    """Run a program to its end, as ``account`` if given, in a session of its own.

    A session of its own, because Ctrl-C in the caller's terminal must reach neither the program nor the
    server that it leaves behind.
    """
    with tempfile.TemporaryFile() as output:  # no pipe: the server would inherit it and keep it open
        ended = subprocess.run(
            [str(word) for word in command],
            cwd=directory,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            creationflags=subprocess.CREATE_NO_WINDOW if sys.platform == "win32" else 0,
            check=False,
        )
        output.seek(0)
        return Outcome(ended.returncode, output.read().decode("utf-8", "replace").strip())


def _environment() -> dict[str, str]:
    """Return what a server gets: no ``PG...`` setting and no secret of the process that started it first."""
    if sys.platform == "win32":  # its programs fail without SYSTEMROOT and the like
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    else:
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {"LC_ALL": "C"}


def spawn_script(script: Path, arguments: Sequence[str], directory: Path) -> Outcome:
    """Run a Python file that needs the standard library only and detaches itself."""
    # -I and -S: no PYTHON* variable, no .pth file and no site-packages can change or slow down its start.
    command = [sys.executable, "-I", "-S", str(script), *arguments]
    if sys.platform != "win32":
        return run(command, directory)
    detached = subprocess.Popen(
        command,
        cwd=directory,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        creationflags=subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP,
    )
    detached.returncode = 0  # it is meant to outlive us: no ResourceWarning about it
    return Outcome(0, "")


def rotate_log(log_file: Path) -> None:
    """Put a log aside that has grown past :data:`LOG_LIMIT`; called while the server is down."""
    if log_file.exists() and log_file.stat().st_size > LOG_LIMIT:
        log_file.replace(log_file.with_name(log_file.name + ".1"))


def log_size(log_file: Path) -> int:
    """Return the size in bytes, 0 for a missing file."""
    return log_file.stat().st_size if log_file.exists() else 0


def log_tail(log_file: Path, start: int = 0) -> str:
    """Return the last 2000 bytes that the log got after its byte ``start``, for an error message."""
    if log_size(log_file) <= start:
        return "(nothing in the log)"
    with log_file.open("rb") as log:
        log.seek(max(start, log_size(log_file) - 2000))
        return log.read().decode("utf-8", "replace").strip()
