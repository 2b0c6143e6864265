"""The command line by which a client starts the MCP server."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dataqueue.installers.places import Places

from dataqueue.version import __version__

Launcher = Literal["uvx", "uv", "python"]
LAUNCHERS: tuple[Launcher, ...] = ("uvx", "uv", "python")


@dataclass(frozen=True, slots=True)
class Launch:
    """A command, its arguments, and why it is this one."""

    command: str
    args: tuple[str, ...]
    why: str

    @property
    def line(self) -> str:
        return " ".join((self.command, *self.args))


def choose(places: Places, launcher: Launcher | None) -> Launch:
    """The command line for a scope: in a project one that works on every machine, else one that needs no PATH."""
    why = "--launcher"
    if launcher is None:
        launcher, why = _usual(places)
    if launcher == "python":
        return Launch(sys.executable, ("-m", "dataqueue", "mcp"), why)
    if launcher == "uv":
        return Launch("uv", ("run", "--no-sync", "dataqueue", "mcp"), why)
    return Launch("uvx", ("--from", f"dataqueue=={__version__}", "dataqueue", "mcp"), why)


def _usual(places: Places) -> tuple[Launcher, str]:
    if places.scope == "user":
        return "python", "the file is this machine's, and clients often start without your PATH"
    try:
        lock = (places.root / "uv.lock").read_text("utf-8", "replace")
    except OSError:
        return "uvx", "the file is shared, so it names no path of this machine; the version is that of this package"
    if re.search(r'^name = "dataqueue"', lock, re.MULTILINE):
        return "uv", "uv.lock has dataqueue, so the server runs in the project's own environment"
    return "uvx", "the file is shared, so it names no path of this machine; uv.lock has no dataqueue"


def warnings(places: Places, launch: Launch) -> list[str]:
    """What is doubtful about a command line."""
    found: list[str] = []
    path = Path(launch.command)
    if path.is_absolute() and places.scope == "project":
        found.append(f"{launch.command} exists on this machine only; do not commit the file for others.")
    if path.is_absolute() and re.search(r"[/\\](?:uv|pipx)[/\\](?:archive|environments|\.cache)", str(path)):
        found.append(f"{launch.command} is in a cache and may go away; install dataqueue into an environment of yours.")
    return found


def extra_arguments(argv: Sequence[str]) -> list[str] | None:
    """What a person has added behind ``dataqueue mcp``, or None if this is not a command line of ours.

    Ours are those that ``choose`` makes in any version, those that the manual shows, and that of the TypeScript
    library's package.
    """
    if not argv or not all(argv):
        return None
    program = re.sub(r"\.exe$", "", re.split(r"[/\\]", argv[0])[-1].lower())
    forms: list[list[str]] = [["mcp"]] if program == "dataqueue" else []
    if program == "uvx":
        forms = [["--from", r"dataqueue.*", "dataqueue", "mcp"]]
    elif program == "uv":
        forms = [["run", "--no-sync", "dataqueue", "mcp"], ["run", "dataqueue", "mcp"]]
    elif re.fullmatch(r"pythonw?[0-9.]*|py", program):
        forms = [["-m", "dataqueue", "mcp"]]
    elif program in ("npx", "bunx"):
        forms = [["dataqueue-cli", "mcp"], ["-y", "dataqueue-cli", "mcp"]]
    for form in forms:
        head = argv[1 : len(form) + 1]
        if len(head) == len(form) and all(re.fullmatch(p, word) for p, word in zip(form, head, strict=True)):
            return list(argv[len(form) + 1 :])
    return None
