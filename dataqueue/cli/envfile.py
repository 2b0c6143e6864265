"""Reading ``.env`` files: ``KEY=VALUE`` lines with quotes, ``export`` and comments. Nothing is expanded."""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

from dataqueue.errors import ConfigError

DEFAULT = Path(".env")

_ENTRY = re.compile(
    r"""
    ^[^\S\n]* (?:export[^\S\n]+)? (?P<key>[A-Za-z_][A-Za-z0-9_.]*) [^\S\n]* =
    (?: [^\S\n]* '(?P<single>[^']*)'
      | [^\S\n]* "(?P<double>(?:\\.|[^"\\])*)"
      | (?![^\S\n]*['"]) (?P<bare>[^\n]*) )
    (?:[^\S\n]+\#[^\n]*)? [^\S\n]* $
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_IGNORED = re.compile(r"^[^\S\n]*(?:\#[^\n]*)?$", re.MULTILINE)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def parse(text: str) -> tuple[dict[str, str], list[int]]:
    """The variables of a file's text, and the numbers of the lines that could not be read."""
    text = text.replace("\r\n", "\n")
    values: dict[str, str] = {}
    unread: list[int] = []
    position = 0
    while position < len(text):
        entry = _ENTRY.match(text, position)
        if entry is not None:
            values[entry["key"]] = _value(entry)
        elif _IGNORED.match(text, position) is None:
            unread.append(text.count("\n", 0, position) + 1)
        end = text.find("\n", position if entry is None else entry.end())
        position = len(text) if end < 0 else end + 1
    return values, unread


def _value(entry: re.Match[str]) -> str:
    if entry["single"] is not None:
        return entry["single"]
    if entry["double"] is not None:
        return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), entry["double"], flags=re.DOTALL)
    return re.split(r"\s#", entry["bare"], maxsplit=1)[0].strip()


def load(path: Path | None, environ: MutableMapping[str, str] = os.environ) -> tuple[set[str], list[str]]:
    """Put a file's variables into the environment, whose own values win.

    Args:
        path: the file; None for ``.env`` in the current directory, which need not exist.

    Returns:
        The names that were taken from the file, and a warning for each line that was skipped (never
        with its content: it may hold a secret).

    Raises:
        ConfigError: the file cannot be read.
    """
    if path is None and not DEFAULT.is_file():
        return set(), []
    file = path or DEFAULT
    try:
        values, unread = parse(file.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"The environment file {file} cannot be read: {reason}.") from error
    taken = {name for name in values if not environ.get(name)}
    environ.update({name: values[name] for name in taken})
    return taken, [f"{file}, line {number}: not KEY=VALUE, skipped." for number in unread]
