"""Deleting what is over and old, one bounded statement after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from psycopg.rows import tuple_row

from dataqueue.backends.base import EndStatus
from dataqueue.backends.postgres.connect import UNDONE

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from dataqueue.backends.postgres.backend import PostgresBackend


async def delete_jobs(
    backend: PostgresBackend, status: EndStatus, before: datetime, limit: int, dry_run: bool
) -> AsyncIterator[int]:
    name = "delete_completed" if status == "completed" else "delete_ended"
    parameters = {"status": status, "before": before, "limit": limit, "dry_run": dry_run}
    after: int | None = 0
    while after is not None:
        count, after = await _delete(backend, name, {**parameters, "after": after})
        yield count


async def _delete(backend: PostgresBackend, name: str, parameters: dict[str, Any]) -> tuple[int, int | None]:
    """Who waits for a token that goes with its job goes on: nobody could answer it any more."""

    async def delete(conn: AsyncConnection[Any]) -> tuple[int, int | None]:
        async with conn.transaction():
            cursor = conn.cursor(row_factory=tuple_row)
            await cursor.execute(backend.statements(name), parameters, prepare=False)
            count, after, tokens = (await cursor.fetchall())[0]
            if tokens:
                await conn.execute(backend.statements("wake_waiting"), {"ids": tokens})
            return count, after

    return await backend.on_some_connection(delete, UNDONE)


async def delete_events(backend: PostgresBackend, before: datetime, limit: int) -> AsyncIterator[int]:
    job: int | None = 0
    event = 0
    while job is not None:
        parameters = {"before": before, "limit": limit, "after_job": job, "after_event": event}
        count, job, event = await _look(backend, "delete_events", parameters)
        yield count


async def release_keys(backend: PostgresBackend, before: datetime, limit: int) -> AsyncIterator[int]:
    after: str | None = ""
    while after is not None:
        count, after = await _look(backend, "release_keys", {"before": before, "limit": limit, "after": after})
        yield count


async def _look(backend: PostgresBackend, name: str, parameters: dict[str, Any]) -> tuple[Any, ...]:
    # Planned anew each time: it is rare, and the tables may have become others since.
    cursor = await backend.write(backend.statements(name), parameters, prepare=False)
    return (await cursor.fetchall())[0]
