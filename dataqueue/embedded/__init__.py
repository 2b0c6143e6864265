"""A real Postgres or Valkey without an installation, for ``embedded:`` URLs, development and tests.

The programs come from the wheels of the extra ``embedded``. All processes of one user that give the same
path share one server: the first starts it, and about two seconds after the last has left, or was killed,
it is stopped; the data stay. All calls block; from async code call them in a thread.

Below the path: ``data`` (the server's own, with its ``server.log``), ``run`` (the socket), and the lock
files and log of :mod:`dataqueue.embedded.watchdog`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from dataqueue.embedded.home import default_path
from dataqueue.embedded.server import EmbeddedServer, enter
from dataqueue.errors import ConfigError

__all__ = ["EmbeddedServer", "start_postgres", "start_valkey"]


def start_postgres(path: Path | str | None = None, *, settings: Mapping[str, str] | None = None) -> EmbeddedServer:
    """Return the Postgres that lives in ``path``, started if it is down.

    :param path: A directory, made if missing; by default one of the user's own that never changes
        (for root ``/var/lib/dataqueue/postgres``). Root's Postgres runs as an unprivileged account, which
        must be able to reach the directory.
    :param settings: Postgres settings by name, such as ``{"fsync": "off"}`` for tests. They count if this
        call starts the server; a running one keeps its own.
    :raises ConfigError: The extra is not installed, or the directory cannot be used: it is another user's,
        holds other files, is out of the account's reach, or its data are of another Postgres version.
    :raises StoreUnavailable: The server does not start; the message holds the end of its log.
    """
    from dataqueue.embedded.postgres import Postgres  # psycopg takes a while to import

    return enter(Postgres(Path(path or default_path("postgres")).expanduser().resolve(), settings or {}))


def start_valkey(path: Path | str | None = None) -> EmbeddedServer:
    """Return the Valkey that lives in ``path``, started if it is down; it keeps its data on disk.

    Every change is in the append-only file at once and on the disk within a second.

    :param path: As for :func:`start_postgres`; for root ``/var/lib/dataqueue/valkey`` by default.
    :raises ConfigError: As for :func:`start_postgres`, and always on Windows, where there is no Valkey.
    :raises StoreUnavailable: The server does not start; the message holds the end of its log.
    """
    if sys.platform == "win32":
        raise ConfigError(
            "There is no embedded Valkey on Windows. Use an embedded Postgres, or a Valkey or Redis server "
            "of your own with a redis:// URL."
        )
    from dataqueue.embedded.valkey import Valkey

    return enter(Valkey(Path(path or default_path("valkey")).expanduser().resolve()))
