"""Edits of YAML: an entry is added and taken out as lines, so that all other bytes stay; ruamel.yaml does the rest."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from dataqueue.installers import lines
from dataqueue.installers.errors import Malformed


def _yaml(kind: str = "rt") -> Any:
    from ruamel.yaml import YAML

    yaml: Any = YAML(typ=kind, pure=True)
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.preserve_quotes = True
    yaml.width = 10**6
    return yaml


def _parse(text: str, kind: str) -> Any:
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        data = _yaml(kind).load(text.removeprefix("\ufeff"))
    except MarkedYAMLError as error:
        marked = cast("Any", error)
        mark = marked.problem_mark
        raise Malformed(str(marked.problem or "this is not YAML"), mark.line + 1 if mark else 0) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise Malformed("this is not YAML", 0) from error
    if data is not None and not isinstance(data, dict):
        raise Malformed("the file does not hold a mapping", 1)
    return cast("Any", data)


def load(text: str) -> dict[str, Any]:
    """The data of a text; an empty one is an empty mapping.

    Raises:
        Malformed: it is not YAML, holds several documents, or something else than a mapping.
    """
    return cast("dict[str, Any]", _parse(text, "safe") or {})


def _dump(data: Any) -> str:
    stream = io.StringIO()
    _yaml().dump(data, stream)
    return stream.getvalue()


def render(path: Sequence[str], entry: Mapping[str, Any]) -> str:
    """The lines of an entry below its keys."""
    data: dict[str, Any] = dict(entry)
    for key in reversed(path):
        data = {key: data}
    return _dump(data)


def _block(key: str, entry: Mapping[str, Any], indent: int, end: str) -> str:
    text = _dump({key: dict(entry)})
    return "".join(" " * indent + line + end for line in text.splitlines())


def _flow(key: str, entry: Mapping[str, Any]) -> str:
    return f"{key}: {json.dumps(dict(entry), ensure_ascii=False)}"


def add(text: str, path: Sequence[str], entry: Mapping[str, Any]) -> str:
    """The text with a new entry."""
    top, name = path
    root = _parse(text, "rt")
    holder = None if root is None else root.get(top)
    if root is None or top not in root:
        candidate = lines.append(text, render(path, entry))
    elif isinstance(holder, dict) and text.startswith("{", _offset(text, *_position(holder))):
        place = _offset(text, *_position(holder)) + 1
        candidate = text[:place] + _flow(name, entry) + (", " if holder else "") + text[place:]
    elif holder is None or (isinstance(holder, dict) and holder):
        place = _offset(text, root.lc.key(top)[0] + 1, 0)
        indent = 2 if holder is None else cast("Any", holder).lc.key(next(iter(cast("dict[str, Any]", holder))))[1]
        lead = "" if text[:place].endswith("\n") else lines.eol(text)
        candidate = text[:place] + lead + _block(name, entry, indent, lines.eol(text)) + text[place:]
    else:
        raise Malformed(f"{top} is not a mapping", root.lc.key(top)[0] + 1)
    if _is(candidate, {**load(text), top: {**(load(text).get(top) or {}), name: entry}}):
        return candidate
    if root is None:
        raise Malformed("the file has a form that cannot be edited", 0)
    if holder is None:
        root[top] = {}
    root[top][name] = dict(entry)
    return _dumped(root, text)


def change(text: str, path: Sequence[str], values: Mapping[str, Any], gone: Sequence[str]) -> str:
    """The text with other values for some keys of an entry that is there."""
    top, name = path
    old = load(text)[top][name]
    new = {key: value for key, value in {**old, **values}.items() if key not in gone}
    if text.count(_flow(name, old)) == 1:
        return text.replace(_flow(name, old), _flow(name, new))
    root = _parse(text, "rt")
    span = _span(text, root, path)
    block = _block(name, old, root[top].lc.key(name)[1], lines.eol(text))
    if text[span[0] : span[1]] == block:
        return text[: span[0]] + _block(name, new, root[top].lc.key(name)[1], lines.eol(text)) + text[span[1] :]
    for key in gone:
        del root[top][name][key]
    root[top][name].update(values)
    return _dumped(root, text)


def remove(text: str, path: Sequence[str]) -> str:
    """The text without an entry that is there; its mapping goes too if nothing else is in it."""
    top, name = path
    root = _parse(text, "rt")
    expected = load(text)
    entry = expected[top].pop(name)
    for shape in (_flow(name, entry) + ", ", _flow(name, entry)):
        if text.count(shape) == 1 and _is(text.replace(shape, ""), expected):
            return text.replace(shape, "")
    start, end = _span(text, root, path)
    if not expected[top]:
        del expected[top]
        line_start = _offset(text, root.lc.key(top)[0], 0)
        if re.fullmatch(rf"{re.escape(top)}:[ \t]*\r?\n", text[line_start:start]):
            start = line_start
        candidate = lines.cut(text, start, end)
    else:
        candidate = text[:start] + text[end:]
    if _is(candidate, expected):
        return candidate
    del root[top][name]
    if not root[top]:
        del root[top]
    return _dumped(root, text)


def _is(text: str, data: dict[str, Any]) -> bool:
    try:
        return load(text) == data
    except Malformed:
        return False


def _position(node: Any) -> tuple[int, int]:
    return node.lc.line, node.lc.col


def _offset(text: str, line: int, column: int) -> int:
    """Where a line and column, counted from 0, are; a line behind the last one is the end."""
    bom = 1 if text.startswith("\ufeff") else 0
    start = bom
    for _ in range(line):
        following = text.find("\n", start)
        if following < 0:
            return len(text)
        start = following + 1
    return start + column


def _span(text: str, root: Any, path: Sequence[str]) -> tuple[int, int]:
    """From the line of an entry's key to the end of its last line; comments and empty lines behind that stay."""
    line, column = root[path[0]].lc.key(path[1])
    start = _offset(text, line, 0)
    end = at = _offset(text, line + 1, 0)
    for follower in text[at:].splitlines(keepends=True):
        at += len(follower)
        content = follower.strip()
        if content and not content.startswith("#"):
            if len(follower) - len(follower.lstrip(" ")) <= column:
                break
            end = at
    return start, end


def _dumped(root: Any, text: str) -> str:
    bom = "\ufeff" if text.startswith("\ufeff") else ""
    return bom + _dump(root).replace("\n", lines.eol(text))
