"""Edits of JSON with comments that leave every other byte alone.

No library does that: they lose comments or refuse trailing commas. So a text is scanned here with the offsets of
its parts, and one key is set or deleted by splicing. Deleting what was set gives the same text back. For that the
shape of an insertion says what was there before:

- a member is added at the end of an object, in the style of the one before it;
- into an object that was empty it is put right behind the brace: ``{}`` becomes ``{"key": …}``;
- an object that is made here has white space inside its braces on both sides, and goes away with its last member.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from dataqueue.installers.errors import Malformed

_TRIVIA = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_COMMENT = re.compile(r"//[^\r\n]*|/\*.*?\*/", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LITERAL = re.compile(r"true|false|null")
_SPACE = " \t\r\n"
_EMPTY = _SPACE + "\ufeff"
_DEEPEST = 200


@dataclass(frozen=True, slots=True)
class Node:
    """A value, from ``start`` up to, not including, ``end``."""

    kind: Literal["object", "array", "string", "number", "literal"]
    start: int
    end: int
    members: tuple[Member, ...] = ()
    items: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Member:
    """A key and its value. ``comma`` is where the comma behind it stands, if there is one."""

    key: str
    start: int
    value: Node
    comma: int | None


# -- reading --------------------------------------------------------------------------------------------


def load(text: str) -> dict[str, Any]:
    """The data of a text; an empty one is an empty object. Numbers too long for Python stay strings.

    Raises:
        Malformed: the text is not JSON with comments, or its root is not an object.
    """
    if not text.strip(_EMPTY):
        return {}
    return cast("dict[str, Any]", _value(text, parse(text)))


def parse(text: str) -> Node:
    """The root object of a text.

    Raises:
        Malformed: the text is not JSON with comments, or its root is not an object.
    """
    scanner = _Scanner(text)
    root = scanner.value(0)
    scanner.skip()
    if scanner.at < len(text):
        raise scanner.wrong("something stands behind the end of the data")
    if root.kind != "object":
        raise Malformed(f"the file holds {_a(root.kind)}, not an object", _line(text, root.start))
    return root


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 1 if text.startswith("\ufeff") else 0

    def wrong(self, reason: str) -> Malformed:
        return Malformed(reason, _line(self.text, self.at))

    def skip(self) -> None:
        match = _TRIVIA.match(self.text, self.at)
        self.at = match.end() if match else self.at
        if self.text.startswith("/*", self.at):
            raise self.wrong("a comment is not closed")

    def sees(self, character: str) -> bool:
        self.skip()
        return self.text.startswith(character, self.at)

    def value(self, depth: int) -> Node:
        if depth > _DEEPEST:
            raise self.wrong(f"the data is nested more than {_DEEPEST} deep")
        self.skip()
        start = self.at
        if self.sees("{"):
            return self._object(start, depth)
        if self.sees("["):
            return self._array(start, depth)
        for kind, pattern in (("string", _STRING), ("number", _NUMBER), ("literal", _LITERAL)):
            match = pattern.match(self.text, start)
            if match:
                self.at = match.end()
                return Node(cast("Any", kind), start, self.at)
        raise self.wrong(self._unexpected("a value"))

    def _unexpected(self, wanted: str) -> str:
        if self.at >= len(self.text):
            return f"the file ends where {wanted} was expected"
        if self.text[self.at] == '"' and not _STRING.match(self.text, self.at):
            return "a string is not closed, or holds a control character or a wrong escape"
        return f"{wanted} was expected, not {self.text[self.at]!r}"

    def _object(self, start: int, depth: int) -> Node:
        self.at += 1
        members: list[Member] = []
        while not self.sees("}"):
            if members and members[-1].comma is None:
                raise self.wrong(self._unexpected("a comma or }"))
            key = _STRING.match(self.text, self.at)
            if key is None:
                raise self.wrong(self._unexpected("a key in double quotes or }"))
            key_start, self.at = self.at, key.end()
            if not self.sees(":"):
                raise self.wrong(self._unexpected("a colon"))
            self.at += 1
            value = self.value(depth + 1)
            members.append(Member(json.loads(key[0]), key_start, value, self._comma()))
        self.at += 1
        return Node("object", start, self.at, members=tuple(members))

    def _array(self, start: int, depth: int) -> Node:
        self.at += 1
        items: list[Node] = []
        comma: int | None = start
        while not self.sees("]"):
            if comma is None:
                raise self.wrong(self._unexpected("a comma or ]"))
            items.append(self.value(depth + 1))
            comma = self._comma()
        self.at += 1
        return Node("array", start, self.at, items=tuple(items))

    def _comma(self) -> int | None:
        if not self.sees(","):
            return None
        self.at += 1
        return self.at - 1


def _value(text: str, node: Node) -> Any:
    if node.kind == "object":
        return {member.key: _value(text, member.value) for member in node.members}
    if node.kind == "array":
        return [_value(text, item) for item in node.items]
    raw = text[node.start : node.end]
    try:
        return json.loads(raw)
    except ValueError:  # an integer of more digits than Python converts
        return raw


def _line(text: str, at: int) -> int:
    return len(re.findall(r"\r\n|\r|\n", text[:at])) + 1


def _a(kind: str) -> str:
    return {"array": "a list", "object": "an object"}.get(kind, f"only a {kind}")


def _member(text: str, node: Node, path: Sequence[str], depth: int) -> Member | None:
    """The member that is the next step of the path."""
    where = ".".join(path[:depth]) or "the file"
    if node.kind != "object":
        raise Malformed(f"{where} is {_a(node.kind)}, not an object", _line(text, node.start))
    found = [member for member in node.members if member.key == path[depth]]
    if len(found) > 1:
        raise Malformed(f"the key {path[depth]} stands twice in {where}", _line(text, found[1].start))
    return found[0] if found else None


# -- setting --------------------------------------------------------------------------------------------


def new(path: Sequence[str], value: Any) -> str:
    """The text of a new file that holds one value."""
    return _written(_nested(path, value), "  ", "", "\n") + "\n"


def set_value(text: str, path: Sequence[str], value: Any) -> str:
    """The text with a value at a path. Objects on the way are made where they are missing.

    Raises:
        Malformed: the text cannot be read, something on the way is not an object, or its key stands twice.
    """
    if not text.strip(_EMPTY):
        return text + new(path, value).removesuffix("\n").replace("\n", _eol(text))
    node = parse(text)
    for depth in range(len(path)):
        member = _member(text, node, path, depth)
        if member is None:
            return _add(text, node, path[depth], _nested(path[depth + 1 :], value))
        node = member.value
    if _same(_value(text, node), value):
        return text
    written = _written_at(text, node.start, value, inline="\n" not in text)
    return text[: node.start] + written + text[node.end :]


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: unlike in Python, true is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _nested(path: Sequence[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _add(text: str, node: Node, key: str, value: Any) -> str:
    close = node.end - 1
    indent = _indent(text, node.start) + _unit(text)
    if not node.members:
        place = _behind_comments(text, node.start + 1, close)
        lead = "" if place == node.start + 1 else _eol(text) + indent
        entry = f"{json.dumps(key, ensure_ascii=False)}: {_written_at(text, node.start, value, inline=False)}"
        return text[:place] + lead + entry + text[place:]
    last = node.members[-1]
    end = last.value.end if last.comma is None else last.comma + 1
    place = _behind_comments(text, end, close)
    own_line = _line_start(text, last.start)
    if own_line is not None:
        indent = own_line
        written = _written(value, _unit(text), indent, _eol(text))
    else:
        written = _written_inline(value)
    lead = _eol(text) + indent if own_line is not None or _ends_line_comment(text, end, place) else " "
    entry = f"{lead}{json.dumps(key, ensure_ascii=False)}: {written}"
    if last.comma is not None:
        return text[:place] + entry + "," + text[place:]
    return text[:end] + "," + text[end:place] + entry + text[place:]


def _behind_comments(text: str, start: int, stop: int) -> int:
    """The end of the last comment between two tokens, or ``start``."""
    comments = list(_COMMENT.finditer(text, start, stop))
    return comments[-1].end() if comments else start


def _ends_line_comment(text: str, start: int, at: int) -> bool:
    """Whether the last comment of the trivia between two offsets ends at the second, and reaches to its line's end."""
    comments = _COMMENT.findall(text, start, at)
    return bool(comments) and comments[-1].startswith("//")


def _line_start(text: str, at: int) -> str | None:
    """The indentation of what stands at an offset, or None if something stands before it on its line."""
    before = re.split(r"[\r\n]", text[:at])[-1] if re.search(r"[\r\n]", text[:at]) else None
    return before if before is not None and not before.strip(" \t") else None


def _indent(text: str, at: int) -> str:
    """The indentation of the line that an offset is on."""
    line = re.split(r"[\r\n]", text[:at])[-1].lstrip("\ufeff")
    return line[: len(line) - len(line.lstrip(" \t"))]


def _unit(text: str) -> str:
    """One step of indentation: that of the first indented key."""
    match = re.search(r'[\r\n]([ \t]+)"', text)
    return match[1] if match else "  "


def _eol(text: str) -> str:
    match = re.search(r"\r\n|\n", text)
    return match[0] if match else "\n"


def _written_at(text: str, at: int, value: Any, *, inline: bool) -> str:
    return _written_inline(value) if inline else _written(value, _unit(text), _indent(text, at), _eol(text))


def _written(value: Any, unit: str, indent: str, eol: str) -> str:
    """Over several lines; a list of plain values stays on one."""
    if not isinstance(value, Mapping) or not value:
        return json.dumps(value, ensure_ascii=False)
    inner = indent + unit
    lines = [
        f"{inner}{json.dumps(key, ensure_ascii=False)}: {_written(item, unit, inner, eol)}"
        for key, item in cast("Mapping[str, Any]", value).items()
    ]
    return "{" + eol + f",{eol}".join(lines) + eol + indent + "}"


def _written_inline(value: Any) -> str:
    if not isinstance(value, Mapping) or not value:
        return json.dumps(value, ensure_ascii=False)
    items = cast("Mapping[str, Any]", value).items()
    return (
        "{ "
        + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {_written_inline(item)}" for key, item in items)
        + " }"
    )


# -- deleting -------------------------------------------------------------------------------------------


def delete(text: str, path: Sequence[str]) -> str | None:
    """The text without the value at a path, and without the objects made for it that are now empty.

    Returns:
        The same text if there is no such value; None if the file holds nothing but what was made here.

    Raises:
        Malformed: as for ``set_value``.
    """
    if not text.strip(_EMPTY):
        return text
    root = parse(text)
    steps: list[tuple[Node, Member]] = []
    node = root
    for depth in range(len(path)):
        member = _member(text, node, path, depth)
        if member is None:
            return text
        steps.append((node, member))
        node = member.value
    while len(steps) > 1 and _made_here(text, steps[-1][0]):
        steps.pop()
    owner, member = steps[-1]
    if owner is root and _made_here(text, root):
        before, behind = text[: root.start], text[root.end :]
        if not before and behind == "\n":
            return None
        if not before.strip(_EMPTY) and not behind:
            return before
    return _without(text, owner, member)


def _made_here(text: str, node: Node) -> bool:
    """Whether an object holds one member only, with white space and nothing else around it on both sides."""
    if len(node.members) != 1 or node.members[0].comma is not None:
        return False
    before = text[node.start + 1 : node.members[0].start]
    behind = text[node.members[0].value.end : node.end - 1]
    return bool(before) and bool(behind) and not before.strip(_SPACE) and not behind.strip(_SPACE)


def _without(text: str, owner: Node, member: Member) -> str:
    index = owner.members.index(member)
    previous = owner.members[index - 1] if index else None
    after = owner.start + 1 if previous is None or previous.comma is None else previous.comma + 1
    start, end = _behind_comments(text, after, member.start), member.value.end
    rest = end if member.comma is None else member.comma + 1
    if _ends_line_comment(text, after, start) and text[rest] not in "\r\n":
        start += 2 if text.startswith("\r\n", start) else 1  # what comes next must not become a part of the comment
    cuts = [(start, end)]
    if member.comma is not None:
        cuts.append((member.comma, member.comma + 1))
    elif previous is not None and previous.comma is not None:
        cuts.insert(0, (previous.comma, previous.comma + 1))
    for start, end in reversed(cuts):
        text = text[:start] + text[end:]
    return text
