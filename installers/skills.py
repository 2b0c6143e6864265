"""The skills: folders of files that are all ours, with a list of them and their hashes to tell a person's edits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

from dataqueue.ai import skill_files
from dataqueue.installers.clients import SHARED_SKILLS, Client, Skills
from dataqueue.installers.errors import InstallError
from dataqueue.installers.plan import Plan

from dataqueue.version import __version__

LIST = ".dataqueue.json"


def add_skills(plan: Plan, client: Client, *, named: bool) -> None:
    """Add the changes for one client: in its own folder if it was named, else where several clients look."""
    for folder in _folders(plan, client, named):
        names = set(skill_files())
        if plan.uninstall:  # also skills that an older version had
            names |= {file.parent.name for file in folder.glob(f"*/{LIST}")}
        for name in sorted(names):
            place = folder / name
            left, files = _remove(plan, place) if plan.uninstall else _put(plan, place, skill_files()[name])
            plan.add("skills", client, place, files, left)


def _folders(plan: Plan, client: Client, named: bool) -> list[Path]:
    assert client.skills is not None
    wanted = client.skills if named or not client.skills.shared else SHARED_SKILLS
    options = [client.skills, SHARED_SKILLS] if plan.uninstall and not named else [wanted]
    return [folder for option in options for folder in _folders_of(plan, option)]


def _folders_of(plan: Plan, skills: Skills) -> list[Path]:
    if plan.places.scope == "project":
        return [plan.places.path(skills.project)]
    folders = [plan.places.path(template) for template in (skills.user, *skills.editions)]
    if plan.uninstall:
        return folders
    return [folder for folder in folders if folder.parent.is_dir()] or folders[:1]


def _put(plan: Plan, place: Path, files: dict[str, str]) -> tuple[str, list[Path]]:
    known = _known(plan, place)
    edited = _edited(plan, place, known, files)
    paths = [place / name for name in files]
    if edited and not plan.force:
        return f"somebody has edited {_names(edited)}; --force writes it anew", paths
    for name, text in files.items():
        if _hash(plan.draft.read(place / name) or "") != _hash(text):  # git may have changed its line ends
            plan.draft.write(place / name, text)
    for name in set(known) - set(files):
        plan.draft.write(place / name, None)
    plan.draft.write(place / LIST, _list(plan, place, files))
    return "", [*paths, place / LIST]


def _remove(plan: Plan, place: Path) -> tuple[str, list[Path]]:
    known = _known(plan, place)
    edited = _edited(plan, place, known, {})
    paths = [place / name for name in known] or [place / "SKILL.md"]
    if edited and not plan.force:
        return f"somebody has edited {_names(edited)}; --force removes it", paths
    if known:
        for name in [*known, LIST]:
            plan.draft.write(place / name, None)
    return "", paths


def _edited(plan: Plan, place: Path, known: dict[str, str], files: dict[str, str]) -> list[str]:
    """Files that are neither as we wrote them nor as we would write them now; those that are gone do not count."""
    found: list[str] = []
    for name in sorted({*known, *files}):
        text = plan.draft.read(place / name)
        if text is not None and text != files.get(name) and _hash(text) != known.get(name):
            found.append(name)
    return found


def _known(plan: Plan, place: Path) -> dict[str, str]:
    """The files that we wrote, with their hashes."""
    text = plan.draft.read(place / LIST)
    if text is None:
        return {}
    try:
        files = cast("dict[Any, Any]", json.loads(text)["files"])
        known = {str(name): str(value) for name, value in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InstallError(
            f"{plan.places.shown(place / LIST)} is not the list that was written. Nothing was changed. Delete it and run "
            "this again with --force."
        ) from error
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in known):
        raise InstallError(f"{plan.places.shown(place / LIST)} names files outside of its folder. Nothing was changed.")
    return known


def _list(plan: Plan, place: Path, files: dict[str, str]) -> str:
    hashes = {name: _hash(text) for name, text in files.items()}
    if _known(plan, place) == hashes:  # the version alone is no reason to touch it
        return plan.draft.read(place / LIST) or ""
    about = "Written by dataqueue install-skills, to tell its own files from edited ones."
    return json.dumps({"about": about, "version": __version__, "files": hashes}, indent=2) + "\n"


def _hash(text: str) -> str:
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()


def _names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")
