"""From the clients that were chosen to a draft of all changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dataqueue.installers.clients import Client
from dataqueue.installers.draft import Draft
from dataqueue.installers.errors import InstallError, Malformed
from dataqueue.installers.launch import Launch
from dataqueue.installers.places import Places

from dataqueue.errors import ConfigError

Kind = Literal["mcp", "rules", "skills"]
LABELS: dict[Kind, str] = {"mcp": "MCP configuration", "rules": "rules", "skills": "skills"}


@dataclass(slots=True)
class Outcome:
    """What becomes of one file, or one folder of a skill, and for which clients."""

    kind: Kind
    path: Path
    clients: list[str]
    files: list[Path]
    """The files that this is about; the first says the state."""
    left: str = ""
    """Why it was left as it is although it is not as it would be written."""


@dataclass(slots=True)
class Plan:
    """A draft, what it means for each client, and what people should know."""

    draft: Draft
    launch: Launch
    force: bool = False
    uninstall: bool = False
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    notes: list[str] = field(default_factory=list[str])

    @property
    def places(self) -> Places:
        return self.draft.places

    def add(self, kind: Kind, client: Client, path: Path, files: list[Path], left: str = "") -> None:
        for outcome in self.outcomes:
            if outcome.kind == kind and outcome.path.resolve() == path.resolve():
                if client.id not in outcome.clients:
                    outcome.clients.append(client.id)
                outcome.left = outcome.left or left
                return
        self.outcomes.append(Outcome(kind, path, [client.id], files, left))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def state(self, outcome: Outcome) -> str:
        """``created``, ``updated``, ``removed``, ``unchanged``, ``left`` or, when uninstalling, ``absent``."""
        if outcome.left:
            return "left"
        states = [self.draft.state(file) for file in outcome.files]
        for state in ("created", "updated", "removed"):
            if state in states:
                return "updated" if len(set(states)) > 1 else state
        return "absent" if self.uninstall else "unchanged"


def make_plan(
    kinds: Sequence[Kind],
    clients: Sequence[Client],
    places: Places,
    launch: Launch,
    *,
    named: bool,
    uninstall: bool = False,
    force: bool = False,
) -> Plan:
    """Work out every change; nothing is written.

    Args:
        kinds: what to install.
        clients: for whom.
        places: where.
        launch: how clients start the MCP server.
        named: whether a person has named the clients; skills then go to each client's own folder, and a client that
            cannot have what is asked for is an error.
        uninstall: take everything away instead.
        force: replace also what a person has edited.

    Raises:
        ConfigError: nothing can be installed for a client that was named, or for any.
        InstallError: a file cannot be read or understood.
    """
    from dataqueue.installers.mcp import add_mcp
    from dataqueue.installers.rules import add_rules
    from dataqueue.installers.skills import add_skills

    plan = Plan(Draft(places), launch, force, uninstall)
    for client in clients:
        missing = {kind: why for kind in kinds if (why := lacks(client, kind, places))}
        if named and len(missing) == len(kinds) and not uninstall:
            raise ConfigError(f"{' '.join(missing.values())} Nothing was written.")
        if not uninstall:
            for kind, why in missing.items():
                if named or (kind == "mcp" and client.mcp is not None):
                    plan.note(why)
        if "mcp" in kinds and "mcp" not in missing:
            add_mcp(plan, client)
        if "rules" in kinds and "rules" not in missing:
            add_rules(plan, client)
        if "skills" in kinds and "skills" not in missing:
            add_skills(plan, client, named=named)
    if not plan.outcomes and not uninstall:
        raise ConfigError(f"There is nothing to install for {', '.join(client.id for client in clients)} here.")
    return plan


def lacks(client: Client, kind: Kind, places: Places) -> str:
    """Why a client cannot have something in this scope; empty if it can."""
    if kind == "mcp" and client.mcp is not None and client.mcp.paste:
        return (
            f"{client.name} reads no file for MCP servers: run dataqueue install-mcp --editor {client.id} --print and paste "
            f"that into {client.mcp.paste}"
        )
    has = _scopes(client, kind)
    if places.scope in has:
        return ""
    if has:
        other = "user" if places.scope == "project" else "project"
        return f"{client.name} has no {LABELS[kind]} file for the scope {places.scope}: use --scope {other}."
    return f"{client.name} has no {LABELS[kind]} that could be installed."


def _scopes(client: Client, kind: Kind) -> set[str]:
    if kind == "skills":
        return {"project", "user"} if client.skills else set()
    target = client.mcp if kind == "mcp" else client.rules
    if target is None:
        return set()
    return {scope for scope, paths in (("project", target.project), ("user", target.user)) if paths}


def choose(places: Places, templates: Sequence[str], create: str = "") -> Path:
    """The first of these files that exists, else the one to create."""
    for template in templates:
        if places.path(template).is_file():
            return places.path(template)
    return places.path(create or templates[0])


def refused(plan: Plan, path: Path, error: Malformed) -> InstallError:
    line = f", line {error.line}" if error.line else ""
    return InstallError(
        f"{plan.places.shown(path)}{line}: {error.reason}. Nothing was written. Mend the file, leave this client out, or "
        "use --print and add the text yourself."
    )
