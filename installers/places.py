"""Where clients keep their files: the project's folder, and a user's folders on each platform."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from dataqueue.errors import ConfigError

Scope = Literal["project", "user"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class Places:
    """The folders of one installation.

    ``scope`` says whether files go below the project's ``root`` or below a user's ``home``. ``environ`` moves some of
    a user's folders (``XDG_CONFIG_HOME``, ``CODEX_HOME``, …), and ``platform`` is as in ``sys.platform``.
    """

    scope: Scope
    root: Path
    home: Path
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    platform: str = sys.platform

    @property
    def top(self) -> Path:
        """The folder that all is below, unless the environment moves it."""
        return self.root if self.scope == "project" else self.home

    def path(self, template: str) -> Path:
        """A path of the table of clients: in the project relative to its root, else with a folder in braces."""
        if not template.startswith("{"):
            return self.top / template
        name, _, rest = template[1:].partition("}")
        return self._folders()[name] / rest.lstrip("/")

    def shown(self, path: Path) -> str:
        """A path as people write it: relative to the project, or from the home folder on."""
        if self.scope == "project" and path.is_relative_to(self.root):
            return path.relative_to(self.root).as_posix()
        return f"~/{path.relative_to(self.home).as_posix()}" if path.is_relative_to(self.home) else str(path)

    def _folders(self) -> dict[str, Path]:
        home, windows, mac = self.home, self.platform == "win32", self.platform == "darwin"
        config = self._moved("XDG_CONFIG_HOME", home / ".config")
        roaming = self._moved("APPDATA", home / "AppData" / "Roaming")
        support = roaming if windows else home / "Library" / "Application Support" if mac else config
        return {
            "home": home,
            "config": config,
            "claude-desktop": support / "Claude",
            "vscode": support / "Code" / "User",
            "zed": roaming / "Zed" if windows else home / ".config" / "zed" if mac else config / "zed",
            "goose": roaming / "Block" / "goose" / "config" if windows else config / "goose",
            "codex": self._moved("CODEX_HOME", home / ".codex"),
            "copilot": self._moved("COPILOT_HOME", home / ".copilot"),
            "cline": self._moved("CLINE_DATA_DIR", self._moved("CLINE_DIR", home / ".cline") / "data"),
            "grok": self._moved("GROK_HOME", home / ".grok"),
            "kimi": self._moved("KIMI_CODE_HOME", home / ".kimi-code"),
        }

    def _moved(self, variable: str, usual: Path) -> Path:
        given = self.environ.get(variable, "").strip()
        if not given:
            return usual
        path = self.home / given[2:] if given.startswith("~/") else Path(given)
        # The rule of the XDG specification, kept for all: what is not absolute counts as not set.
        return path if path.is_absolute() else usual


def find_places(scope: Scope, root: Path | None) -> Places:
    """The folders for a scope.

    Args:
        scope: where files go.
        root: a folder to use instead of the current one or, for the scope user, instead of the home folder; the
            environment moves nothing then.

    Raises:
        ConfigError: there is no such folder.
    """
    if root is not None and not root.is_dir():
        raise ConfigError(f"There is no folder {root}. Nothing was written. Give --root a folder that exists.")
    folder = Path(os.path.abspath(root)) if root is not None else None  # noqa: PTH100 - links stay as they were written
    if scope == "project":
        return Places(scope, folder or Path.cwd(), Path.home(), os.environ)
    return Places(scope, Path.cwd(), folder or Path.home(), {} if folder else os.environ)
