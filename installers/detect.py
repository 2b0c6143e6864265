"""Which clients are used here, and how that can be told."""

from __future__ import annotations

from dataqueue.installers.clients import CLIENTS, Client
from dataqueue.installers.places import Places


def detect(places: Places) -> list[tuple[Client, str]]:
    """The clients whose files or folders are there, each with one of them, as in ``found .cursor/``.

    In a project only the project is looked at: what else is on this machine is no business of shared files.
    """
    found: list[tuple[Client, str]] = []
    for client in CLIENTS:
        for sign in client.signs if places.scope == "project" else client.user_signs:
            path = places.path(sign)
            if path.exists():
                found.append((client, f"found {places.shown(path)}{'/' if path.is_dir() else ''}"))
                break
    return found
