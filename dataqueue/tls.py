"""TLS material for a store."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


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
