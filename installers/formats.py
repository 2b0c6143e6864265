"""One way to read and edit an entry, whatever the format of the file; every edit is checked by reading it again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from dataqueue.installers import jsonc, tomltext, yamltext
from dataqueue.installers.errors import Malformed

Format = Literal["json", "toml", "yaml"]

_LOADERS = {"json": jsonc.load, "toml": tomltext.load, "yaml": yamltext.load}
_UNSAFE = "the file has a form that cannot be edited without touching other parts"


def load(form: Format, text: str) -> dict[str, Any]:
    """The data of a file.

    Raises:
        Malformed: the text is not in this format, or its root is not a mapping.
    """
    return _LOADERS[form](text)


def get(form: Format, text: str, path: Sequence[str]) -> Any:
    """The value at a path, or None.

    Raises:
        Malformed: the text is not in this format, or something on the way is no mapping.
    """
    value: Any = load(form, text)
    for depth, key in enumerate(path):
        if value is None:
            return None
        if not isinstance(value, dict):
            raise Malformed(f"{'.'.join(path[:depth])} is not a mapping", 0)
        value = cast("dict[str, Any]", value).get(key)
    return value


def render(form: Format, path: Sequence[str], entry: Mapping[str, Any]) -> str:
    """The text of a new file that holds one entry."""
    if form == "json":
        return jsonc.new(path, entry)
    return tomltext.render(path, entry) if form == "toml" else yamltext.render(path, entry)


def put(form: Format, text: str | None, path: Sequence[str], entry: Mapping[str, Any]) -> str:
    """The text with this entry at a path; keys of an entry there that stay the same are not touched.

    Raises:
        Malformed: the text cannot be read, or not be edited safely.
    """
    if text is None:
        return render(form, path, entry)
    old = get(form, text, path)
    if old == entry:
        return text
    edited = _edited(form, text, path, entry, old)
    expected = load(form, text)
    place = expected
    for key in path[:-1]:
        place[key] = place.get(key) or {}
        place = place[key]
    place[path[-1]] = dict(entry)
    _check(load(form, edited) == expected)
    return edited


def _edited(form: Format, text: str, path: Sequence[str], entry: Mapping[str, Any], old: Any) -> str:
    if not isinstance(old, dict):
        if form == "json":
            return jsonc.set_value(text, path, entry)
        _check(old is None)
        return tomltext.add(text, path, entry) if form == "toml" else yamltext.add(text, path, entry)
    have = cast("dict[str, Any]", old)
    values = {key: value for key, value in entry.items() if key not in have or have[key] != value}
    gone = [key for key in have if key not in entry]
    if form == "toml":
        return tomltext.change(text, path, values, gone)
    if form == "yaml":
        return yamltext.change(text, path, values, gone)
    for key, value in values.items():
        text = jsonc.set_value(text, [*path, key], value)
    for key in gone:
        text = jsonc.delete(text, [*path, key]) or ""
    return text


def remove(form: Format, text: str, path: Sequence[str]) -> str | None:
    """The text without the entry at a path, and without what was made around it.

    Returns:
        The same text if there is no such entry; None if nothing is left but what was made for it.

    Raises:
        Malformed: the text cannot be read, or not be edited safely.
    """
    if get(form, text, path) is None:
        return text
    if form == "json":
        edited = jsonc.delete(text, path)
    else:
        edited = tomltext.remove(text, path) if form == "toml" else yamltext.remove(text, path)
        if not edited and text.startswith(render(form, path, {})[:1]):
            edited = None  # an empty file that was there before has an empty line above the entry
    _check(_pruned(load(form, edited or ""), path) == _pruned(load(form, text), path))
    return edited


def _pruned(data: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Data without an entry and the mappings around it that are empty then."""
    data = copy.copy(data)
    if len(path) == 1:
        data.pop(path[0], None)
        return data
    inner = data.get(path[0])
    if isinstance(inner, dict):
        data[path[0]] = _pruned(cast("dict[str, Any]", inner), path[1:])
    if not data.get(path[0]):
        data.pop(path[0], None)
    return data


def _check(right: bool) -> None:
    if not right:
        raise Malformed(_UNSAFE, 0)
