"""For :func:`dataqueue.testing.advance_clock` alone: every stored time moves into the past."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, LiteralString, cast

from psycopg import sql
from psycopg.rows import tuple_row

from dataqueue.backends.postgres.statements import quote_identifier

if TYPE_CHECKING:
    from dataqueue.backends.postgres.backend import PostgresBackend

_WITHIN_JSON = ("move_back_errors", "move_back_events", "move_back_starts")
_WAKE: LiteralString = "SELECT pg_notify(%(channel)s, 'work'), pg_notify(%(channel)s, 'schedule')"


async def move_back(backend: PostgresBackend, ms: int) -> None:
    """Subtract ``ms`` from every time of jobs, events, limits, tokens and schedules, in one transaction."""
    by = {"by": timedelta(milliseconds=ms)}
    statements = backend.statements
    async with backend.connection() as conn, conn.transaction():
        found = await conn.cursor(row_factory=tuple_row).execute(
            statements("find_times"), {"schema": quote_identifier(statements.schema)}
        )
        tables = cast("list[tuple[str, list[str], bool]]", await found.fetchall())
        # Triggers would take it for a change of the job's state.
        watched = [sql.Identifier(statements.schema, table) for table, _, triggers in tables if triggers]
        for table in watched:
            await conn.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(table))
        for table, columns, _ in tables:
            moved = sql.SQL(", ").join(sql.SQL("{0} = {0} - %(by)s").format(sql.Identifier(name)) for name in columns)
            update = sql.SQL("UPDATE {} SET {}").format(sql.Identifier(statements.schema, table), moved)
            await conn.execute(update, by)
        for name in _WITHIN_JSON:
            await conn.execute(statements(name), by)
        for table in watched:
            await conn.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(table))
        await conn.execute(_WAKE, {"channel": statements.channel})
