"""The MCP entry in clients' configuration files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from dataqueue.installers import entries, formats
from dataqueue.installers.clients import NAME, Client, Mcp
from dataqueue.installers.errors import Malformed
from dataqueue.installers.launch import Launch
from dataqueue.installers.plan import Plan, choose, refused


def add_mcp(plan: Plan, client: Client) -> None:
    """Add the changes for one client."""
    assert client.mcp is not None
    for path in _files(plan, client.mcp):
        try:
            left = _remove(plan, client.mcp, path) if plan.uninstall else _put(plan, client.mcp, path)
        except Malformed as error:
            raise refused(plan, path, error) from error
        plan.add("mcp", client, path, [path], left)


def _files(plan: Plan, mcp: Mcp) -> list[Path]:
    templates = mcp.project if plan.places.scope == "project" else mcp.user
    paths = [plan.places.path(template) for template in templates]
    if plan.uninstall:
        return [path for path in paths if path.is_file()] or paths[:1]
    if mcp.every:
        return [path for path in paths if path.parent.is_dir()] or paths[:1]
    return [choose(plan.places, templates)]


def _layout(mcp: Mcp, text: str | None) -> tuple[list[str], str]:
    """Below which keys the entry stands, and its shape. Newer files of opencode have the servers one step deeper."""
    if mcp.shape == "opencode" and text is not None:
        servers = formats.get(mcp.form, text, (*mcp.keys, "servers"))
        if isinstance(servers, dict) and "type" not in servers:
            return [*mcp.keys, "servers", NAME], "opencode-servers"
    return [*mcp.keys, NAME], mcp.shape


def _put(plan: Plan, mcp: Mcp, path: Path) -> str:
    text = plan.draft.read(path)
    keys, shape = _layout(mcp, text)
    present = None if text is None else formats.get(mcp.form, text, keys)
    entry = entries.merge(shape, plan.launch, present, force=plan.force)
    if entry is None:
        return f"{_own(present)}, which is not ours; --force replaces it"
    plan.draft.write(path, formats.put(mcp.form, text, keys, entry))
    return ""


def _own(present: Any) -> str:
    line = entries.command_line(cast("dict[str, Any]", present)) if isinstance(present, dict) else None
    return f"its entry {NAME} runs {' '.join(line)[:60]!r}" if line else f"its entry {NAME} is no command"


def _remove(plan: Plan, mcp: Mcp, path: Path) -> str:
    text = plan.draft.read(path)
    if text is None:
        return ""
    keys, shape = _layout(mcp, text)
    present = formats.get(mcp.form, text, keys)
    if present is None:
        return ""
    if entries.merge(shape, plan.launch, present) is None and not plan.force:
        return f"{_own(present)}, which is not ours; --force removes it"
    plan.draft.write(path, formats.remove(mcp.form, text, keys))
    return ""


def snippet(mcp: Mcp, launch: Launch) -> str:
    """What to paste into a configuration by hand."""
    entry = entries.merge(mcp.shape, launch, None)
    return formats.render(mcp.form, [*mcp.keys, NAME], entry or {})
