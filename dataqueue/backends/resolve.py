"""From a URL (or the environment) to a backend: the one resolver of library and command line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataqueue.errors import ConfigError
from dataqueue.tls import TLS

if TYPE_CHECKING:
    from dataqueue.backends.base import Backend

VARIABLES = ("DATAQUEUE_URL", "PG_DATAQUEUE_DATABASE", "DATABASE_URL")
DEFAULT_POOL_SIZE = (1, 10)

_DRIVER_SUFFIXES = ("+asyncpg", "+psycopg", "+psycopg2", "+psycopg_async", "+pg8000")


def resolve_url(url: str | None, environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """The store's URL, and where it was found: the argument first, then the environment.

    Raises:
        ConfigError: none is set.
    """
    if url:
        return url, "the argument"
    environ = os.environ if environ is None else environ
    for name in VARIABLES:
        if environ.get(name):
            return environ[name], name
    raise ConfigError(
        f"No store is configured. Give a URL, or set one of {', '.join(VARIABLES)}: "
        "postgresql://user:password@host:5432/database, redis://host:6379/0, or embedded: for a server of its own "
        "on this machine." + (" (A .env file is read by the dataqueue command only.)" if Path(".env").exists() else "")
    )


def normalise_scheme(url: str) -> str:
    """``postgres://`` and SQLAlchemy's ``postgresql+driver://`` become ``postgresql://``."""
    scheme, separator, rest = url.partition("://")
    for suffix in _DRIVER_SUFFIXES:
        scheme = scheme.removesuffix(suffix)
    if separator and scheme in ("postgres", "postgresql"):
        return f"postgresql://{rest}"
    return url


def create_backend(
    url: str,
    *,
    schema: str | None,
    tls: TLS | None,
    pool_size: tuple[int, int],
    key_prefix: str | None = None,
    read_only: bool = False,
) -> Backend:
    """The backend for a URL; nothing is connected yet. Each kind of store uses its own of schema and key_prefix.

    Raises:
        ConfigError: an unknown scheme or a malformed URL. The message never holds a password.
    """
    url = normalise_scheme(url.strip())
    scheme = url.partition(":")[0].lower()
    if key_prefix is not None and schema is None and scheme == "postgresql":
        raise ConfigError("key_prefix= belongs to Redis; for Postgres give schema= (or both).")
    if scheme == "postgresql":
        from dataqueue.backends.postgres.backend import PostgresBackend

        return PostgresBackend.from_url(url, schema=schema, tls=tls, pool_size=pool_size, read_only=read_only)
    if scheme in ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster"):
        from dataqueue.backends.redis.backend import RedisBackend

        if schema is not None and key_prefix is None:
            raise ConfigError("schema= belongs to Postgres; for Redis give key_prefix= (or both).")
        return RedisBackend.from_url(
            url, key_prefix=key_prefix, tls=tls, max_connections=pool_size[1], read_only=read_only
        )
    if scheme == "embedded":
        from dataqueue.backends.postgres.embedded import EmbeddedPostgresBackend

        if ":" not in url:
            raise ConfigError("The URL 'embedded' lacks its colon. Write embedded: (or embedded:PATH).")
        path = url.removeprefix("embedded:").removeprefix("//")
        if path.startswith(("postgres:", "valkey:")) or path in ("postgres", "valkey"):
            kind, _, path = path.partition(":")
            if kind == "valkey":
                from dataqueue.backends.redis.embedded import EmbeddedValkeyBackend

                return EmbeddedValkeyBackend(Path(path) if path else None, key_prefix=key_prefix, read_only=read_only)
        return EmbeddedPostgresBackend(
            Path(path) if path else None, schema=schema, pool_size=pool_size, read_only=read_only
        )
    raise ConfigError(
        f"{without_secrets(url)!r} is not a URL of a store that dataqueue knows. "
        "Use postgresql://user:password@host:5432/database, redis://host:6379/0, embedded:[path] or "
        "embedded:valkey[:path]."
    )


def backend_from_client(client: Any, *, key_prefix: str | None) -> Backend:
    from dataqueue.backends.redis.backend import RedisBackend

    return RedisBackend.from_client(client, key_prefix=key_prefix)


def backend_from_pool(pool: Any, *, schema: str | None) -> Backend:
    from dataqueue.backends.postgres.backend import PostgresBackend

    return PostgresBackend.from_pool(pool, schema=schema)


def without_secrets(url: str) -> str:
    """What can be shown of a text that was meant as a URL, however broken: nothing before the last ``@``."""
    scheme, separator, rest = url.partition("://")
    shown = rest if separator else url
    if "@" in shown:
        shown = f"***@{shown.rpartition('@')[2]}"
    elif not separator:
        shown = shown.partition("=")[0]  # "host=… password=…": a connection string, not a URL
    shown = re.sub(r"(?i)(password=)[^&\s]*", r"\1***", shown)
    return f"{scheme}{separator}{shown[:80]}" if separator else shown[:40]
