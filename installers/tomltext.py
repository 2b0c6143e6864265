"""Edits of TOML: a table is added and taken out as lines, so that all other bytes stay; tomlkit does the rest."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from dataqueue.installers import lines
from dataqueue.installers.errors import Malformed


def load(text: str) -> dict[str, Any]:
    """The data of a text.

    Raises:
        Malformed: it is not TOML.
    """
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at line (\d+)", str(error))
        line = int(at[1]) if at else text.count("\n") + 1
        raise Malformed(re.sub(r" \(at .*\)$", "", str(error)), line) from error


def render(path: Sequence[str], entry: Mapping[str, Any]) -> str:
    """The lines of a table; they can stand at the end of any file."""
    import tomlkit

    data: dict[str, Any] = dict(entry)
    for key in reversed(path):
        data = {key: data}
    return tomlkit.dumps(data)


def add(text: str, path: Sequence[str], entry: Mapping[str, Any]) -> str:
    """The text with a new entry: as lines at the end, or where tomlkit puts it if that does not work."""
    appended = lines.append(text, render(path, entry))
    try:
        if _get(load(appended), path) == entry:
            return appended
    except Malformed:
        pass
    document, table = _table(text, path[:-1])
    table[path[-1]] = dict(entry)
    return _dumped(document, text)


def change(text: str, path: Sequence[str], values: Mapping[str, Any], gone: Sequence[str]) -> str:
    """The text with other values for some keys of an entry that is there."""
    document, table = _table(text, path)
    for key, value in values.items():
        table[key] = value
    for key in gone:
        del table[key]
    return _dumped(document, text)


def remove(text: str, path: Sequence[str]) -> str:
    """The text without an entry that is there."""
    expected = load(text)
    _drop(expected, path)
    for shorter in _without_lines(text, path):
        try:
            left = load(shorter)
        except Malformed:
            continue
        _drop(left, path)
        if left == expected and _get(load(shorter), path) is None:
            return shorter
    document, table = _table(text, path[:-1])
    del table[path[-1]]
    return _dumped(document, text)


def _without_lines(text: str, path: Sequence[str]) -> Iterator[str]:
    """Without the entry's tables, from the last one on: each its header and all up to its last key.

    What looks like a header may be a line of a long string, so the caller tries each of these texts.
    """
    name = r"\s*\.\s*".join(rf"[\"']?{re.escape(key)}[\"']?" for key in path)
    headers = list(re.finditer(r"^[ \t]*\[[^\r\n]*", text, re.MULTILINE))
    stops = [*[header.start() for header in headers[1:]], len(text)]
    for header, stop in reversed(list(zip(headers, stops, strict=False))):
        if re.match(rf"[ \t]*\[\s*{name}\s*[.\]]", header[0]):
            body = text[header.start() : stop].splitlines(keepends=True)
            while not body[-1].strip() or body[-1].lstrip().startswith("#"):
                body.pop()
            text = lines.cut(text, header.start(), header.start() + len("".join(body)))
            yield text


def _get(data: Any, path: Sequence[str]) -> Any:
    for key in path:
        data = cast("dict[str, Any]", data).get(key) if isinstance(data, dict) else None
    return data


def _drop(data: dict[str, Any], path: Sequence[str]) -> None:
    """Take an entry out, and the tables around it that are empty then."""
    inner = data.get(path[0])
    if len(path) > 1 and isinstance(inner, dict):
        _drop(cast("dict[str, Any]", inner), path[1:])
        if not inner:
            del data[path[0]]
    elif len(path) == 1:
        data.pop(path[0], None)


def _table(text: str, path: Sequence[str]) -> tuple[Any, Any]:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document: Any = tomlkit.parse(text.removeprefix("\ufeff").replace("\r\n", "\n"))
        table = document
        for key in path:
            if key not in table:
                table[key] = tomlkit.table(is_super_table=True)
            table = table[key]
    except TOMLKitError as error:
        raise Malformed(str(error), getattr(error, "line", 0)) from error
    return document, table


def _dumped(document: Any, text: str) -> str:
    import tomlkit

    bom = "\ufeff" if text.startswith("\ufeff") else ""
    return bom + tomlkit.dumps(document).replace("\n", lines.eol(text))
