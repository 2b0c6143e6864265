"""What a folder tells about the project in it: its installer, its web framework, its entry module."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Installer = Literal["uv", "poetry", "pdm", "requirements", "pyproject", "none"]

MARK = "dataqueue init"
"""Stands in entry files of ours, so that a second run does not take them for the user's."""

_LOCKS: tuple[tuple[str, Installer], ...] = (
    ("uv.lock", "uv"),
    ("poetry.lock", "poetry"),
    ("pdm.lock", "pdm"),
    ("requirements.txt", "requirements"),
    ("pyproject.toml", "pyproject"),
)
_COMPOSE = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
_APPLICATION = {
    "fastapi": re.compile(r"^(\w+)\s*(?::[^=\n]+)?=\s*(?:fastapi\.)?FastAPI\(", re.MULTILINE),
    "flask": re.compile(r"^\s*(\w+)\s*(?::[^=\n]+)?=\s*(?:flask\.)?Flask\(", re.MULTILINE),
}
_SKIPPED = {"node_modules", "site-packages", "tests", "test", "build", "dist", "venv", "env", "__pycache__"}
_MOST_FILES = 500
_LONGEST = 200_000


@dataclass(frozen=True, slots=True)
class Project:
    """What was found. Paths are relative to the root, with slashes."""

    root: Path
    installer: Installer
    framework: str | None = None
    entry: str | None = None
    """The file in which the user's own application is made: it is theirs to change."""
    settings: str | None = None
    """The Django settings module that ``manage.py`` names."""
    compose: str | None = None
    has_dataqueue: bool = False
    """Whether dataqueue is among the project's requirements."""
    why: tuple[str, ...] = ()
    """What the findings rest on, for people: "found uv.lock"."""


def look_at(root: Path) -> Project:
    """Look at the project in a folder, which need not exist yet. Files are read, never run."""
    why: list[str] = []
    installer: Installer = "none"
    for name, kind in _LOCKS:
        if (root / name).is_file():
            installer = kind
            why.append(f"found {name}")
            break
    framework, entry, settings = _find_application(root)
    if entry:
        why.append(f"{entry} makes a {framework} application")
    requirements = "\n".join(_read(root / name) for name in ("pyproject.toml", "requirements.txt"))
    if framework is None:
        framework = next((name for name in ("fastapi", "django", "flask") if _requires(requirements, name)), None)
        if framework:
            why.append(f"{framework} is among the requirements")
    return Project(
        root,
        installer,
        framework,
        entry,
        settings,
        next((name for name in _COMPOSE if (root / name).is_file()), None),
        _requires(requirements, "dataqueue"),
        tuple(why),
    )


def _requires(requirements: str, name: str) -> bool:
    return re.search(rf"""(?im)^\s*[\["',\w =-]*["']?\b{name}\b(?![\w-]*\s*=\s*")""", requirements) is not None


def _find_application(root: Path) -> tuple[str | None, str | None, str | None]:
    manage = _read(root / "manage.py")
    found = re.search(r"DJANGO_SETTINGS_MODULE['\"]\s*,\s*['\"]([\w.]+)['\"]", manage)
    if found:
        return "django", None if MARK in manage else "manage.py", found[1]
    for file in _python_files(root):
        text = _read(file)
        for framework, pattern in _APPLICATION.items():
            if pattern.search(text):
                return framework, None if MARK in text else file.relative_to(root).as_posix(), None
    return None, None, None


def _python_files(root: Path) -> Iterator[Path]:
    """Python files of the root and two levels below it; those nearest to the root first."""
    left = _MOST_FILES
    level = [root]
    for _ in range(3):
        below: list[Path] = []
        for folder in level:
            try:
                entries = sorted(folder.iterdir())
            except OSError:
                continue
            for entry in entries:
                if entry.suffix == ".py" and entry.is_file():
                    left -= 1
                    if left < 0:
                        return
                    yield entry
                elif entry.is_dir() and not entry.name.startswith(".") and entry.name not in _SKIPPED:
                    below.append(entry)
        level = below


def _read(file: Path) -> str:
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            return opened.read(_LONGEST)
    except OSError:
        return ""
