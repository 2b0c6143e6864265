"""What a person can add by hand instead of having it installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dataqueue.installers.clients import Client
from dataqueue.installers.launch import Launch
from dataqueue.installers.places import Places
from dataqueue.installers.plan import Kind, lacks


@dataclass(frozen=True, slots=True)
class Snippet:
    """A text, and the file or page of settings that it belongs to."""

    client: str
    kind: Kind
    where: str
    text: str


def snippets(client: Client, kinds: Sequence[Kind], places: Places, launch: Launch) -> Iterator[Snippet]:
    """The texts for one client; nothing for what it does not have."""
    from dataqueue.installers.mcp import snippet

    project = places.scope == "project"
    if "mcp" in kinds and client.mcp is not None:
        files = client.mcp.project if project else client.mcp.user
        where = client.mcp.paste or (places.shown(places.path(files[0])) if files else "")
        if where:
            yield Snippet(client.id, "mcp", where, snippet(client.mcp, launch))
    if "rules" in kinds and client.rules is not None and not lacks(client, "rules", places):
        from dataqueue.installers.rules import whole

        files = client.rules.project if project else client.rules.user
        where = places.shown(places.path((client.rules.create if project else "") or files[0]))
        yield Snippet(client.id, "rules", where, whole(client.rules.front if project else ""))
    if "skills" in kinds and client.skills is not None:
        from dataqueue.ai import skill_files

        folder = places.path(client.skills.project if project else client.skills.user)
        for name, files in skill_files().items():
            for path, text in files.items():
                yield Snippet(client.id, "skills", places.shown(folder / name / path), text)
