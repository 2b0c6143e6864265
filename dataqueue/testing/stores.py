"""Servers for a test run, and an empty store on them for each test."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from dataqueue.backends.resolve import normalise_scheme, without_secrets
from dataqueue.errors import ConfigError

if TYPE_CHECKING:
    import psycopg

HOME = "dataqueue-pytest-"
"""What the names of the embedded servers' directories begin with."""
_OLD = 3600.0
_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "500"}

_numbers = itertools.count(1)


class Stores(Protocol):
    """Where each test gets a store."""

    def fresh(self, name: str) -> Generator[str]:
        """Gives the URL of an empty store, and removes it in the end."""
        ...


@contextmanager
def server(choice: str, home: Path) -> Generator[str]:
    """The URL of a server: ``postgres`` or ``valkey`` for one that lives in ``home`` and ends with its last user; a URL
    is given back.

    Raises:
        ConfigError: the choice is none of these, or the extra ``embedded`` is not installed.
    """
    if "://" in choice:
        yield choice
        return
    if choice not in ("postgres", "valkey"):
        raise ConfigError(
            f"dataqueue_store must be postgres, valkey or the URL of a server, not {without_secrets(choice)!r}."
        )
    from dataqueue.embedded import start_postgres, start_valkey

    _sweep(home)
    running = start_postgres(home, settings=_SETTINGS) if choice == "postgres" else start_valkey(home)
    try:
        yield running.url
    finally:
        running.stop(wait=True)


def _sweep(home: Path) -> None:
    """Remove what runs that were killed have left: their servers have ended by themselves."""
    from dataqueue.embedded.watchdog import open_lock, try_lock

    for left in home.parent.glob(f"{HOME}*"):
        try:
            if left == home or time.time() - left.stat().st_mtime < _OLD:
                continue
            users = open_lock(left / "users")
        except OSError:  # another user's, or just removed
            continue
        try:
            if try_lock(users):
                shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(users)


@contextmanager
def stores(server_url: str, run: str) -> Generator[Stores]:
    """Empty stores on a server. ``run``: a short text that nobody else on the server uses.

    Raises:
        ConfigError: not a URL of Postgres or Redis.
    """
    url = normalise_scheme(server_url)
    if url.startswith("postgresql://"):
        with _postgres(url, run) as made:
            yield made
    elif urlsplit(url).scheme in ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster"):
        yield _Redis(url)
    else:
        raise ConfigError(f"{without_secrets(server_url)!r} is not the URL of a Postgres or Redis server for tests.")


class _Postgres:
    """A database for each test, cloned from one that has the tables."""

    def __init__(self, url: str, template: str) -> None:
        self._url = url
        self._template = template

    def fresh(self, name: str) -> Generator[str]:
        name = f"dq_{name}_{next(_numbers)}"
        with _connected(self._url) as conn:
            _execute(conn, f'CREATE DATABASE "{name}" TEMPLATE "{self._template}"')
        try:
            yield with_database(self._url, name)
        finally:
            with _connected(self._url) as conn:
                _execute(conn, f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def _postgres(url: str, run: str) -> Generator[_Postgres]:
    from dataqueue.backends.postgres.migrate import MigrateOptions, migrate

    template = f"dq_template_{run}"
    with _connected(url) as conn:
        _execute(conn, f'CREATE DATABASE "{template}" TEMPLATE template0')
    try:
        migrate(with_database(url, template), {}, None, MigrateOptions())
        yield _Postgres(url, template)
    finally:
        with _connected(url) as conn:
            _execute(conn, f'DROP DATABASE "{template}" WITH (FORCE)')


@contextmanager
def _connected(url: str) -> Generator[psycopg.Connection]:
    import psycopg

    from dataqueue.backends.postgres.connect import describe, store_errors

    with store_errors(describe(url), sent=False), psycopg.connect(url, autocommit=True) as conn:
        yield conn


def _execute(conn: psycopg.Connection, statement: str) -> None:
    import psycopg

    try:
        conn.execute(statement.encode())  # names of our own making
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigError(
            f"The tests' user may not make databases ({error}). Give it the right (ALTER ROLE … CREATEDB), or leave "
            "dataqueue_store out: then an embedded Postgres is started."
        ) from error


def with_database(url: str, name: str) -> str:
    """The same server, another database."""
    base, _, query = url.partition("?")
    scheme, _, rest = base.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{name}" + (f"?{query}" if query else "")


class _Redis:
    """A key prefix for each test."""

    def __init__(self, url: str) -> None:
        self._url = url

    def fresh(self, name: str) -> Generator[str]:
        from dataqueue.backends.redis.connect import endpoint_of_url
        from dataqueue.backends.redis.layout import KEYS, key_prefix

        prefix = f"test-{name}-{next(_numbers)}"
        yield f"{self._url}{'&' if '?' in self._url else '?'}key_prefix={prefix}"
        endpoint, _ = endpoint_of_url(self._url, None, 1)
        client = endpoint.make_sync()
        try:
            client.unlink(*(f"{key_prefix(prefix)}{key}" for key in KEYS))
        finally:
            client.close()
