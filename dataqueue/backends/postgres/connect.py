"""Reaching a Postgres server: URLs, TLS material, pools, and errors that say where and why."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import select
from collections.abc import Generator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from dataqueue.backends.resolve import without_secrets
from dataqueue.dependencies import no_such_prerequisite
from dataqueue.errors import ConfigError, ReadOnlyQueue, SchemaError, StoreUnavailable
from dataqueue.tls import TLS, as_file

KEEPALIVE = {
    "keepalives": "1",
    "keepalives_idle": "20",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "connect_timeout": "10",
}
"""A dead peer is noticed within a minute rather than in two hours; a URL's own settings win."""

POOL_TIMEOUT = 15.0
"""Seconds to wait for a free connection, and for the server to come back after an outage."""


READER_TIMEOUT = 4.0
"""The same for a queue that only reads: whoever looks would rather hear at once that nobody answers."""

_NO_PREREQUISITE = "DQ404"
"""The SQLSTATE that dataqueue_depend() raises."""

UNDONE = (psycopg.errors.AdminShutdown, psycopg.errors.DeadlockDetected)
"""Errors after which nothing has happened, so that it can be sent again."""

_numbers = itertools.count(1)


def migrate_hint(schema: str | None) -> str:
    option = f" --schema {schema}" if schema else ""
    return f"Run `dataqueue migrate{option}` (or `await queue.migrate()`)."


def parse_url(url: str, tls: TLS | None) -> tuple[str, str | None]:
    """The libpq connection string of a URL, and the schema it names.

    ``search_path`` as a query parameter names the schema, as in the TypeScript library, and
    ``sslmode=no-verify`` means TLS without verification; libpq knows neither.

    Raises:
        ConfigError: not a Postgres URL. The message never holds the password.
    """
    try:
        parts = urlsplit(url)
        if "," not in parts.netloc:
            _ = parts.port  # libpq would find fault with it only when it connects
        if parts.netloc.count("@") > 1:
            raise ValueError("libpq would take the end of the password for the host")
        query = parse_qsl(parts.query, keep_blank_values=True)
        kept = [
            (name, "require" if (name, value) == ("sslmode", "no-verify") else value)
            for name, value in query
            if name not in ("search_path", "schema")
        ]
        # libpq decodes %XX but not "+"
        clean = urlunsplit(parts._replace(query=urlencode(kept).replace("+", "%20")))
        options = conninfo_to_dict(clean)
    except (psycopg.Error, ValueError) as error:
        # The driver's message may quote any part of the URL: only what surely is no secret is repeated.
        unknown = re.search(r'invalid URI query parameter: "\w+"', str(error))
        problem = unknown[0] if unknown else "it cannot be parsed; percent-encode special characters (@ / : [ ])"
        raise ConfigError(f"{without_secrets(url)!r} is not a usable Postgres URL: {problem}.") from None
    names = dict(query)
    schema = names.get("schema") or names.get("search_path", "").split(",")[0].strip() or None
    merged: dict[str, Any] = {**KEEPALIVE, "application_name": "dataqueue", **options}
    if tls is not None:
        merged.update(_tls_options(tls, options))
    return make_conninfo(**merged), schema


def redact(url: str) -> str:
    """A URL or message without its passwords."""
    hidden = re.sub(r"(://[^/@:\s]*:)[^@\s]*(?=@)", r"\1***", url)
    return re.sub(r"(?i)((?:password|passwd|sslpassword)=)[^&\s]+", r"\1***", hidden)


def describe(conninfo: str) -> str:
    """``host:port/database`` of a connection string, for messages."""
    options = conninfo_to_dict(conninfo)
    host = str(options.get("host") or options.get("hostaddr") or "localhost")
    where = host if host.startswith("/") else f"{host}:{options.get('port') or 5432}"
    return f"{where}, database {options.get('dbname') or options.get('user') or '(default)'}"


async def is_pooled(conn: psycopg.AsyncConnection[Any]) -> bool:
    """Whether a pooler such as PgBouncer stands between: it tells a process id that is not the server's.

    In its transaction mode a prepared statement may be looked for on a server that never saw it.
    """
    cursor = await conn.execute("SELECT pg_backend_pid()")
    row = await cursor.fetchone()
    return row is not None and row[0] != conn.info.backend_pid


def create_pool(
    conninfo: str, min_size: int, max_size: int, kwargs: dict[str, Any], timeout: float
) -> AsyncConnectionPool[Any]:
    return AsyncConnectionPool(
        conninfo,
        kwargs={**kwargs, "autocommit": True},
        min_size=min_size,
        max_size=max_size,
        timeout=timeout,
        open=False,
        name=f"dataqueue-{next(_numbers)}",
    )


def end_with_loop(pool: AsyncConnectionPool[Any]) -> asyncio.Task[None]:
    """A task that sees to it that the pool's own tasks end when the loop does.

    ``asyncio.run`` cancels what still runs and waits for it. A pool's worker takes a cancel in the middle of a
    connection attempt for a failed attempt and goes on (psycopg_pool 3.3): a program that did not close its queue
    would hang at its end.
    """

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            while left := [task for task in asyncio.all_tasks() if task.get_name().startswith(f"{pool.name}-")]:
                for task in left:
                    task.cancel()
                await asyncio.sleep(0)
            raise

    return asyncio.create_task(wait(), name="dataqueue pool's end")


def looks_dead(conn: psycopg.AsyncConnection[Any]) -> bool:
    """Whether an idle connection has something to read: nearly always the server's farewell.

    Costs a microsecond instead of the round trip of a ``SELECT 1``.
    """
    if conn.closed:
        return True
    try:
        descriptor = conn.pgconn.socket
    except psycopg.OperationalError:
        return True
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(0))
    return bool(select.select([descriptor], [], [], 0)[0])


@contextlib.contextmanager
def store_errors(where: str, *, sent: bool = True, callers: bool = False) -> Generator[None]:
    """Turn the driver's errors into ours. ``sent`` False: only connecting was tried. ``callers``: on the caller's
    connection, whose transaction may have failed for its own reasons: those stay the driver's."""
    try:
        yield
    except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as error:
        if callers:
            raise
        raise StoreUnavailable(f"Postgres at {where} gave up a transaction: {_first_line(error)}.") from error
    except PoolTimeout as error:
        raise StoreUnavailable(
            f"No connection to Postgres at {where} became free in time ({error}). Either the server is not "
            "reachable or all connections of the pool are in use: enlarge the pool or hold them shorter."
        ) from error
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.InvalidSchemaName) as error:
        raise SchemaError(
            f"The tables at {where} do not fit this version of dataqueue ({_first_line(error)}). {migrate_hint(None)}"
        ) from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise ReadOnlyQueue(where) from error
    except psycopg.errors.QueryCanceled as error:
        raise StoreUnavailable(
            f"Postgres at {where} gave up a query: {_first_line(error)}. Ask for less at once, or look for what slows "
            "it down: dataqueue doctor."
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise StoreUnavailable(
            f"Postgres at {where} refused: {_first_line(error)}. Grant the role what it lacks, or use another role."
        ) from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise StoreUnavailable(
            f"Postgres at {where} cannot be reached or has closed the connection: {_first_line(error)}. "
            "Check that the server runs and accepts this client."
            + (" An operation that was under way may or may not have taken effect." if sent else "")
        ) from error
    except psycopg.DatabaseError as error:
        if error.sqlstate == _NO_PREREQUISITE:
            raise no_such_prerequisite(error.diag.message_detail or "(unknown)") from error
        raise


def _first_line(error: BaseException) -> str:
    return redact((str(error).strip().splitlines() or [type(error).__name__])[0])


def _tls_options(tls: TLS, options: dict[str, Any]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for name, material in (("sslrootcert", tls.ca), ("sslcert", tls.cert), ("sslkey", tls.key)):
        if material is not None:
            chosen[name] = str(as_file(material, name))
    if not tls.verify:
        chosen["sslmode"] = "require"
        chosen.pop("sslrootcert", None)  # libpq verifies whenever it is given a root certificate
    elif "sslmode" not in options:
        chosen["sslmode"] = "verify-full"
        if tls.ca is None:
            chosen["sslrootcert"] = "system"
    return chosen
