"""What an installation would change, kept in memory until everything is known to be right; then written."""

from __future__ import annotations

import contextlib
import difflib
import os
import secrets
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dataqueue.installers.errors import InstallError
from dataqueue.installers.places import Places

State = Literal["created", "updated", "removed", "unchanged"]


@dataclass(slots=True)
class _File:
    shown: str
    before: bytes | None
    after: bytes | None


class Draft:
    """Reads and writes of files that reach the disk with ``apply`` only. Links are followed."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self._files: dict[Path, _File] = {}

    def read(self, path: Path) -> str | None:
        """The text of a file as it would be, with its line ends and byte order mark; None if there is none.

        Raises:
            InstallError: it cannot be read, or is not UTF-8 text.
        """
        content = self._file(path).after
        try:
            return None if content is None else content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InstallError(f"{self.places.shown(path)} is not UTF-8 text. Nothing was written.") from error

    def write(self, path: Path, text: str | None) -> None:
        """Give a file another text; None takes it away."""
        try:
            self._file(path).after = None if text is None else text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InstallError(
                f"{self.places.shown(path)} would hold a path that is not Unicode text. Nothing was written. Use another "
                "--launcher."
            ) from error

    def state(self, path: Path) -> State:
        file = self._file(path)
        if file.before == file.after:
            return "unchanged"
        if file.before is None:
            return "created"
        return "removed" if file.after is None else "updated"

    def changed(self) -> list[Path]:
        return [path for path, file in self._files.items() if file.before != file.after]

    def diff(self, path: Path) -> str:
        """The change of one file as a unified diff."""
        file = self._file(path)
        before, after = _lines(file.before), _lines(file.after)
        name_before = "/dev/null" if file.before is None else file.shown
        name_after = "/dev/null" if file.after is None else file.shown
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in difflib.unified_diff(before, after, name_before, name_after)
        )

    def _file(self, path: Path) -> _File:
        real = Path(os.path.realpath(path))
        if real not in self._files:
            shown = self.places.shown(path)
            try:
                content = real.read_bytes()
            except FileNotFoundError:
                content = None
            except OSError as error:
                raise InstallError(f"{shown} cannot be read: {error.strerror}. Nothing was written.") from error
            self._files[real] = _File(shown, content, content)
        return self._files[real]

    # -- writing ----------------------------------------------------------------------------------------

    def apply(self, *, backup: bool) -> list[Path]:
        """Write all changes, each file at once or not at all; gives the backups that were made.

        Args:
            backup: keep each file that is changed beside it, as it was. A backup that a file is equal to again goes.

        Raises:
            InstallError: a file is read-only, was changed by somebody meanwhile, or cannot be written; the message
                says what was written before.
        """
        changed = self.changed()
        for path in changed:
            self._refuse_unwritable(path)
        backups: list[Path] = []
        done: list[str] = []
        for path in changed:
            file = self._files[path]
            try:
                backups += self._keep(path, file) if backup else []
                if file.after is None:
                    path.unlink()
                    self._remove_empty_folders(path.parent)
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _replace(path, file.after)
            except OSError as error:
                before = f"Written before: {', '.join(done)}." if done else "Nothing was written."
                raise InstallError(f"{file.shown} cannot be written: {error.strerror}. {before}") from error
            done.append(file.shown)
        return backups

    def _refuse_unwritable(self, path: Path) -> None:
        file = self._files[path]
        with contextlib.suppress(FileNotFoundError):
            # By its mode, not by access(): what root could do to it is not what its owner wants.
            if not stat.S_IMODE(path.stat().st_mode) & 0o222:
                raise InstallError(
                    f"{file.shown} is read-only. Nothing was written. Make it writable, or leave it out."
                )
        now = path.read_bytes() if path.exists() else None
        if now != file.before:
            raise InstallError(
                f"{file.shown} was changed by another program meanwhile. Nothing was written. Run this again."
            )

    def _keep(self, path: Path, file: _File) -> list[Path]:
        kept = path.with_name(f"{path.name}.dataqueue-backup")
        if kept.is_file() and kept.read_bytes() == file.after:
            kept.unlink()
            return []
        if file.before is None or file.after is None:
            return []
        shutil.copy2(path, kept)
        return [kept]

    def _remove_empty_folders(self, folder: Path) -> None:
        top = Path(os.path.realpath(self.places.top))
        while folder != top and folder.is_relative_to(top):
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent


def _lines(content: bytes | None) -> list[str]:
    parts = (content or b"").decode("utf-8", "replace").split("\n")
    return [f"{part}\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _replace(path: Path, content: bytes) -> None:
    """Put new content into place in one step, with the mode and, where allowed, the owner of the old file."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(fresh, "xb") as stream:  # noqa: PTH123 - the mode comes from the umask, as for any new file
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if path.exists():
            old = path.stat()
            fresh.chmod(stat.S_IMODE(old.st_mode))
            if hasattr(os, "chown"):
                with contextlib.suppress(OSError):
                    os.chown(fresh, old.st_uid, old.st_gid)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
