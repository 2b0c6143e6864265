"""TLS material for a store."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from dataqueue.errors import ConfigError


def _from_environment(name: str) -> str | None:
    path = os.environ.get(name)
    return f"file://{path}" if path else None


@dataclass(frozen=True, slots=True)
class TLS:
    """Certificates for the connection; each is PEM text or ``file://`` and a path.

    What is not given is taken from ``PGSSLROOTCERT``, ``PGSSLCERT`` and ``PGSSLKEY`` (paths). With
    ``verify`` (the default) the server's certificate and host name are checked; without a ``ca``,
    against the system's authorities.
    """

    ca: str | None = field(default_factory=lambda: _from_environment("PGSSLROOTCERT"))
    cert: str | None = field(default_factory=lambda: _from_environment("PGSSLCERT"))
    key: str | None = field(default_factory=lambda: _from_environment("PGSSLKEY"), repr=False)
    verify: bool = True


def as_file(material: str, what: str) -> Path:
    """The path of some TLS material. Drivers take files: PEM text goes to a private one that is removed at exit.

    Raises:
        ConfigError: neither PEM text nor the file:// URL of a file.
    """
    if material.startswith("file://"):
        path = Path(material.removeprefix("file://"))
        if not path.is_file():
            raise ConfigError(f"The TLS file for {what} does not exist: {path}")
        return path
    if "-----BEGIN" not in material:
        raise ConfigError(f"The TLS material for {what} is neither PEM text nor a file:// path.")
    path = _private_folder() / f"{what}-{hashlib.sha256(material.encode()).hexdigest()[:16]}.pem"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(material)
    return path


_folder: Path | None = None


def _private_folder() -> Path:
    global _folder
    if _folder is None or not _folder.exists():
        _folder = Path(tempfile.mkdtemp(prefix="dataqueue-tls-"))
        atexit.register(shutil.rmtree, _folder, ignore_errors=True)
    return _folder
