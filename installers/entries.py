"""The MCP entry in the shape of each client, and how it is merged with one that is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from dataqueue.installers.clients import NAME
from dataqueue.installers.launch import Launch, extra_arguments

_REMOTE = ("url", "httpUrl", "serverUrl", "uri")


def build(shape: str, command: str, args: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An entry: the keys that are ours and always kept up to date, and those that are only set in a new entry."""
    line: dict[str, Any] = {"command": command, "args": args}
    match shape:
        case "typed":
            return {"type": "stdio", **line}, {}
        case "copilot":
            return {"type": "stdio", **line}, {"tools": ["*"]}
        case "copilot-cloud":
            return {"type": "local", **line}, {"tools": ["*"]}
        case "cline":
            return line, {"disabled": False}
        case "kimi":
            return {"transport": "stdio", **line}, {}
        case "opencode":
            return {"type": "local", "command": [command, *args]}, {"enabled": True}
        case "opencode-servers":
            return {"type": "local", "command": [command, *args]}, {}
        case "goose":
            ours = {"name": NAME, "type": "stdio", "cmd": command, "args": args}
            return ours, {"envs": {}, "enabled": True, "timeout": 300}
        case _:
            return line, {}


def command_line(entry: Mapping[str, Any]) -> list[str] | None:
    """The command line of an entry of any shape; None if it has none, as a remote server."""
    if any(key in entry for key in _REMOTE):
        return None
    command = entry.get("command", entry.get("cmd"))
    words = cast("list[Any]", command) if isinstance(command, list) else [command, *_list(entry.get("args"))]
    return [str(word) for word in words] if words and all(isinstance(word, str) for word in words) else None


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def merge(shape: str, launch: Launch, present: Any, *, force: bool = False) -> dict[str, Any] | None:
    """Our entry, with what a person has added to the one that is there: other keys, and arguments behind ``mcp``.

    Returns:
        None if what is there is not ours: a remote server, or a command of the person's own. With ``force`` it is
        replaced as a whole.
    """
    if present is None:
        ours, initial = build(shape, launch.command, list(launch.args))
        return {**ours, **initial}
    entry = cast("dict[str, Any]", present) if isinstance(present, dict) else {}
    extra = [] if present == {} else extra_arguments(command_line(entry) or [])
    if extra is None:
        return merge(shape, launch, None) if force else None
    ours, _ = build(shape, launch.command, [*launch.args, *extra])
    return {**entry, **ours}
