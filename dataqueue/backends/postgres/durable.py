"""Steps, waits and tokens on Postgres."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from psycopg.rows import tuple_row

from dataqueue.backends.base import Completed, Waiting
from dataqueue.backends.postgres.connect import UNDONE
from dataqueue.steps import StepKind, StepRecord
from dataqueue.tokens import Token, TokenSpec, TokenStatus

if TYPE_CHECKING:
    from psycopg import AsyncConnection, AsyncCursor

    from dataqueue.backends.postgres.backend import PostgresBackend


def _utc(moment: datetime | None) -> datetime | None:
    return moment and moment.astimezone(UTC)


def token_from(row: Sequence[Any]) -> Token:
    token_id, status, output, error, timeout_at, created_at, completed_at, tags, job_id = row
    return Token(
        id=token_id,
        status=cast(TokenStatus, status),
        created_at=created_at.astimezone(UTC),
        job_id=job_id,
        output=None if output is None else json.loads(output),
        error=error,
        timeout_at=_utc(timeout_at),
        completed_at=_utc(completed_at),
        tags=tuple(tags or ()),
    )


async def load_steps(backend: PostgresBackend, job_id: int) -> tuple[list[StepRecord], dict[str, Token], datetime]:
    rows = await backend.read(backend.statements("load_steps"), {"job_id": job_id})
    records: list[StepRecord] = []
    tokens: dict[str, Token] = {}
    for row in rows:
        seq, name, kind, result, until, token_id, job_ids, place, attempts, started_at, done_at = row[:11]
        if name is None:
            continue
        records.append(
            StepRecord(
                seq,
                name,
                cast(StepKind, kind),
                result,
                done_at is not None,
                _utc(until),
                token_id,
                tuple(job_ids or ()),
                place,
                attempts,
                _utc(started_at),
                _utc(done_at),
            )
        )
        if row[12] is not None:
            found, status, output, error, timeout_at, created_at, completed_at, tags, owner = row[12:21]
            tokens[token_id] = token_from(
                (found, status, output, error, timeout_at, created_at, completed_at, tags, owner)
            )
    return records, tokens, rows[0][11].astimezone(UTC)


def step_parameters(job_id: int, lease_id: int, step: StepRecord, token: TokenSpec | None) -> dict[str, Any]:
    return {
        "id": job_id,
        "lease_id": lease_id,
        "name": step.name,
        "seq": step.seq,
        "kind": step.kind,
        "result": step.result,
        "token_id": step.token_id,
        "job_ids": list(step.job_ids) or None,
        "place": step.place,
        "attempts": step.attempts,
        "took_ms": step.took_ms,
        "token": None if token is None else token.id,
        "timeout_ms": None if token is None else token.timeout_ms,
        "tags": None if token is None else list(token.tags) or None,
    }


def wait_parameters(outcomes: Sequence[Waiting]) -> dict[str, Any]:
    waits = [
        {
            "id": item.id,
            "lease_id": item.lease_id,
            "name": item.wait.name,
            "seq": item.wait.seq,
            "kind": item.wait.kind,
            "until": item.wait.until and item.wait.until.isoformat(),
            "delay_ms": item.delay_ms,
            "token_id": item.wait.token_id,
            "job_ids": item.wait.job_ids or None,
            "place": item.wait.place,
        }
        for item in outcomes
    ]
    return {"waits": json.dumps(waits)}


async def create_token(backend: PostgresBackend, token: TokenSpec) -> Token:
    parameters = {"id": token.id, "timeout_ms": token.timeout_ms, "tags": list(token.tags) or None}
    cursor = await backend.write(backend.statements("create_token"), parameters)
    return token_from((await cursor.fetchall())[0])


async def get_token(backend: PostgresBackend, token_id: str) -> Token | None:
    rows = await backend.read(backend.statements("get_token"), {"id": token_id})
    return token_from(rows[0]) if rows else None


async def end_token(
    backend: PostgresBackend, token_id: str, output: str | None, error: str | None
) -> tuple[Token | None, bool]:
    parameters = {"id": token_id, "output": output, "error": error}

    async def end(conn: AsyncConnection[Any]) -> Token | None:
        async with conn.transaction():
            cursor = await conn.cursor(row_factory=tuple_row).execute(backend.statements("end_token"), parameters)
            rows = await cursor.fetchall()
            if not rows:
                return None
            await conn.execute(backend.statements("wake_waiting"), {"ids": [token_id]})
            return token_from(rows[0])

    ended = await backend.on_some_connection(end, UNDONE)
    if ended is not None:
        return ended, ended.status != "timed_out"
    return await get_token(backend, token_id), False


async def expire_tokens(backend: PostgresBackend, limit: int) -> int:
    async def expire(conn: AsyncConnection[Any]) -> int:
        async with conn.transaction():
            cursor = await conn.cursor(row_factory=tuple_row).execute(
                backend.statements("expire_tokens"), {"limit": limit}
            )
            ids = [row[0] for row in await cursor.fetchall()]
            if ids:
                await conn.execute(backend.statements("wake_waiting"), {"ids": ids})
            return len(ids)

    return await backend.on_some_connection(expire, UNDONE)


class PostgresTransaction:
    def __init__(self, backend: PostgresBackend, connection: AsyncConnection[Any]) -> None:
        self._backend = backend
        self.connection = connection
        self.cascaded: list[int] = []
        self.completed: list[int] = []

    async def save_step(self, job_id: int, lease_id: int, step: StepRecord, token: TokenSpec | None) -> bool:
        parameters = step_parameters(job_id, lease_id, step, token)
        return (await self._execute("save_step", parameters)).rowcount == 1

    async def complete(self, outcome: Completed) -> bool:
        parameters = {"ids": [outcome.id], "leases": [outcome.lease_id], "outputs": [outcome.output]}
        leases, dependants, *_ = (await (await self._execute("complete_jobs", parameters)).fetchall())[0]
        if not leases:
            return False
        self.cascaded += dependants or ()
        self.completed.append(outcome.id)
        return True

    async def _execute(self, name: str, parameters: dict[str, Any]) -> AsyncCursor[tuple[Any, ...]]:
        cursor = self.connection.cursor(row_factory=tuple_row)
        return await cursor.execute(self._backend.statements(name), parameters)


@asynccontextmanager
async def transaction(backend: PostgresBackend) -> AsyncGenerator[PostgresTransaction]:
    async with backend.connection() as conn:
        opened = PostgresTransaction(backend, conn)
        async with conn.transaction():
            yield opened
    if opened.completed:
        await backend.free_places(opened.completed)
