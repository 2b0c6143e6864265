"""Our part of a Markdown file: a region between two marks, with a version and a hash that tells a person's edits."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from dataqueue.installers import lines
from dataqueue.installers.errors import Malformed

from dataqueue.version import __version__

_BEGIN = re.compile(
    r"^<!-- dataqueue:begin (?P<version>\S+) (?P<hash>[0-9a-f]{12})\b[^\r\n]*-->[ \t]*\r?$", re.MULTILINE
)
_END = re.compile(r"^<!-- dataqueue:end -->[ \t]*\r?(?:\n|\Z)", re.MULTILINE)
_ANY = re.compile(r"^<!-- dataqueue:(?:begin|end)\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Region:
    """Where the region is, with its marks, and what stands between them."""

    start: int
    end: int
    body: str
    edited: bool


def find(text: str) -> Region | None:
    """The region of a text, if it has one.

    Raises:
        Malformed: a mark without the other, a changed one, or several regions.
    """
    marks = list(_ANY.finditer(text))
    if not marks:
        return None
    line = text.count("\n", 0, marks[0].start()) + 1
    begin = _BEGIN.match(text, marks[0].start())
    end = _END.match(text, marks[1].start()) if len(marks) == 2 else None
    if begin is None or end is None:
        raise Malformed("the dataqueue marks are not one begin and one end as they were written", line)
    body = _plain(text[begin.end() : marks[1].start()])
    return Region(begin.start(), end.end(), body, _hash(body) != begin["hash"])


def block(body: str) -> str:
    """The region as lines."""
    body = _plain(body)
    return f"<!-- dataqueue:begin {__version__} {_hash(body)} (by dataqueue install-rules) -->\n{body}\n<!-- dataqueue:end -->\n"


def put(text: str, body: str) -> str:
    """The text with the region at its end, or renewed where it is. One that already says this stays, marks and all."""
    region = find(text)
    if region is None:
        return lines.append(text, block(body))
    if region.body == _plain(body) and not region.edited:
        return text
    new = block(body).replace("\n", lines.eol(text))
    if not text[region.start : region.end].endswith("\n"):
        new = new.rstrip("\r\n")
    return text[: region.start] + new + text[region.end :]


def remove(text: str) -> str:
    """The text without the region."""
    region = find(text)
    return text if region is None else lines.cut(text, region.start, region.end)


def _plain(body: str) -> str:
    return body.replace("\r\n", "\n").strip("\n")


def _hash(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:12]
