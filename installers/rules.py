"""The rule in clients' instruction files."""

from __future__ import annotations

import re
from pathlib import Path

from dataqueue.ai import render_rules
from dataqueue.installers import regions
from dataqueue.installers.clients import Client, Rules
from dataqueue.installers.errors import Malformed
from dataqueue.installers.plan import Plan, choose, refused

_CODEX_LIMIT = 32 * 1024
_HIDDEN_BY_AGENTS = {
    "CLAUDE.md": "Zed and opencode",
    "GEMINI.md": "Zed",
    ".junie/guidelines.md": "Junie",
}
"""Files that some clients no longer read once there is an AGENTS.md."""


def add_rules(plan: Plan, client: Client) -> None:
    """Add the changes for one client."""
    assert client.rules is not None
    front = client.rules.front if plan.places.scope == "project" else ""
    for path in _files(plan, client.rules):
        try:
            left = _remove(plan, path, front) if plan.uninstall else _put(plan, path, front)
        except Malformed as error:
            raise refused(plan, path, error) from error
        plan.add("rules", client, path, [path], left)
        if not plan.uninstall:
            _warn(plan, client, path)


def _files(plan: Plan, rules: Rules) -> list[Path]:
    templates = rules.project if plan.places.scope == "project" else rules.user
    paths = [plan.places.path(template) for template in templates]
    if plan.uninstall:
        return [path for path in paths if path.is_file()] or paths[:1]
    path = choose(plan.places, templates, rules.create if plan.places.scope == "project" else "")
    # Cline once had a file where it now has a folder; it still reads it.
    return [path.parent if path.parent.is_file() else path]


def _head(front: str) -> str:
    return f"---\n{front}\n---\n\n" if front else ""


def whole(front: str) -> str:
    """The text of a new file."""
    return _head(front) + regions.block(render_rules())


def _put(plan: Plan, path: Path, front: str) -> str:
    text = plan.draft.read(path)
    if text is None:
        plan.draft.write(path, whole(front))
        return ""
    region = regions.find(text)
    if region is not None and region.edited and not plan.force:
        return "somebody has edited our part of it; --force writes it anew"
    plan.draft.write(path, regions.put(text, render_rules()))
    return ""


def _remove(plan: Plan, path: Path, front: str) -> str:
    text = plan.draft.read(path)
    region = None if text is None else regions.find(text)
    if text is None or region is None:
        return ""
    if region.edited and not plan.force:
        return "somebody has edited our part of it; --force removes it"
    rest = regions.remove(text)
    if front and re.fullmatch(r"---\r?\n.*?\r?\n---\s*", rest, re.DOTALL):
        # A rule file of ours without the rule. Its front matter may be a person's.
        if rest.replace("\r\n", "\n").strip() != _head(front).strip() and not plan.force:
            return "somebody has edited its front matter; --force removes it"
        rest = ""
    # A file that was there before and empty has an empty line above the region.
    plan.draft.write(path, rest if rest or text.startswith(("\n", "\r\n")) else None)
    return ""


def _warn(plan: Plan, client: Client, path: Path) -> None:
    places, shown = plan.places, plan.places.shown(path)
    if places.scope != "project":
        return
    if client.rules is not None and client.rules.create and shown != client.rules.create:
        plan.note(f"{client.name} reads only the first of its files, which here is {shown}: the rule is in that one.")
    if shown == "AGENTS.md" and plan.draft.state(path) == "created":
        for other, readers in _HIDDEN_BY_AGENTS.items():
            if places.path(other).is_file():
                plan.note(
                    f"AGENTS.md is new, and {readers} will read it instead of {other}: say in it what they need from there."
                )
    if client.id == "codex" and len((plan.draft.read(path) or "").encode()) > _CODEX_LIMIT:
        plan.note(f"{shown} has more than 32 KiB: Codex reads only the beginning, and our part stands at the end.")
