"""Adding jobs: statements and parameters, whatever connection runs them.

The steps are generators that yield ``(sql, parameters)`` and are sent the rows, so that one
description serves an async pool, a caller's ``AsyncConnection`` and a caller's ``Connection``.
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, LiteralString, cast

import psycopg
from psycopg.rows import tuple_row

from dataqueue.backends.base import Added
from dataqueue.backends.postgres import migrate
from dataqueue.backends.postgres.connect import UNDONE, store_errors
from dataqueue.backends.postgres.statements import Statements
from dataqueue.dependencies import resolve_positions
from dataqueue.errors import ConfigError, DataQueueError
from dataqueue.options import JobEdit, JobSpec
from dataqueue.unique import latest_of_replaced

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection

    from dataqueue.backends.postgres.backend import PostgresBackend

Rows = list[tuple[Any, ...]]
Step = tuple[LiteralString, dict[str, Any]]
Steps = Generator[Step, Rows, list[Added]]

CHUNK = 1000
"""Jobs a statement: enough to be fast, few enough that a text stays small."""

_ATTEMPTS_AT_A_KEY = 3


def chunked(specs: Iterable[JobSpec]) -> Iterator[list[JobSpec]]:
    """Lists of at most ``CHUNK``, read as they are asked for."""
    iterator = iter(specs)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk


def is_one_statement(specs: Sequence[JobSpec]) -> bool:
    """Whether adding these is one statement, which is a transaction."""
    return all(spec.dependencies is None and spec.unique is None for spec in specs)


def add_steps(statements: Statements, specs: Sequence[JobSpec], before: Sequence[int] = ()) -> Steps:
    """``before``: the ids of the jobs of the same call that were added already."""
    if len(specs) == 1 and is_one_statement(specs):
        return _add_one(statements, specs[0])
    return _add_many(statements, specs, before)


def _add_one(statements: Statements, spec: JobSpec) -> Steps:
    parameters = {
        "job_type": spec.job_type,
        "payload": spec.payload,
        "priority": spec.priority,
        "run_at": spec.run_at,
        "delay_ms": spec.delay_ms,
        "max_attempts": spec.max_attempts,
        "timeout_ms": spec.timeout_ms,
        "tags": None if spec.tags is None else list(spec.tags),
        "idempotency_key": spec.idempotency_key,
        "retry_delay": spec.retry.delay,
        "retry_backoff": spec.retry.backoff,
        "retry_delay_max": spec.retry.delay_max,
        "group": spec.group,
        "dead_letter": spec.dead_letter,
    }
    if spec.idempotency_key is None:
        rows = yield statements("add_job"), parameters
        return [(rows[0][0], True)]
    # The key's owner may have committed after our snapshot was taken, or be deleted in between.
    for _ in range(_ATTEMPTS_AT_A_KEY):
        rows = yield statements("add_job_once"), parameters
        if rows:
            return [(rows[0][0], rows[0][1])]
    raise _invisible(spec.idempotency_key)


def _add_many(statements: Statements, specs: Sequence[JobSpec], before: Sequence[int]) -> Steps:
    # The place of each job of this call: an id that is there already, or its number among those that are added now.
    places: list[int | tuple[int]] = []
    chosen: list[JobSpec] = []
    if any(spec.unique is not None for spec in specs):
        specs = latest_of_replaced(specs)
        yield from _settle_unique(statements, specs, places, chosen)
    else:
        chosen.extend(specs)
        places.extend((number,) for number in range(len(specs)))
    new: list[Added] = []
    if chosen:
        new = yield from _insert(statements, chosen)
    added: list[Added] = []
    firsts: set[int] = set()
    for place in places:
        if isinstance(place, int):
            added.append((place, False))
        else:
            job_id, created = new[place[0]]
            added.append((job_id, created and job_id not in firsts))
            firsts.add(job_id)
    waiting = [
        {"id": job_id, "on_ids": resolve_positions(spec.dependencies, [*before, *(number for number, _ in added)])}
        for spec, (job_id, created) in zip(specs, added, strict=True)
        if created and spec.dependencies is not None
    ]
    if waiting:
        yield statements("depend"), {"jobs": json.dumps(waiting)}
    return added


def _insert(statements: Statements, specs: Sequence[JobSpec]) -> Steps:
    rows = yield statements("add_jobs"), {"jobs": _as_json(specs)}
    keys = {key for _, created, key, _ in rows if not created}
    holders: dict[str, int] = {}
    for _ in range(_ATTEMPTS_AT_A_KEY):
        missing = keys - holders.keys()
        if not missing:
            break
        found = yield statements("find_keys"), {"keys": sorted(missing)}
        holders.update((key, job_id) for key, job_id in found)
    added: list[Added] = []
    for job_id, created, key, _ in rows:
        if created:
            added.append((job_id, True))
        elif key in holders:
            added.append((holders[key], False))
        else:
            raise _invisible(key)
    return added


def _settle_unique(
    statements: Statements, specs: Sequence[JobSpec], places: list[int | tuple[int]], chosen: list[JobSpec]
) -> Generator[Step, Rows, None]:
    """Find for each job whether it is to be added. After this, until the end of the transaction, nobody else can add
    a job with one of these keys."""
    keys = sorted({spec.unique.key for spec in specs if spec.unique is not None})
    yield statements("lock_unique"), {"keys": keys}
    rows = yield statements("find_unique"), {"keys": keys}
    known = {key: (unfinished, pending, latest, age_ms) for key, unfinished, pending, latest, age_ms in rows}
    of_this_call: dict[str, int | tuple[int]] = {}
    for spec in specs:
        unique = spec.unique
        if unique is None:
            places.append((len(chosen),))
            chosen.append(spec)
            continue
        earlier = of_this_call.get(unique.key)
        if earlier is not None:
            places.append(earlier)
            continue
        unfinished, pending, latest, age_ms = known.get(unique.key, (None, None, None, None))
        if unique.replace:
            holder = pending
            if pending is not None:
                moment = {"delayMs": spec.delay_ms} if spec.run_at is None else {"runAt": spec.run_at.isoformat()}
                edit = JobEdit(moment, spec.payload).as_json()
                rows = yield statements("edit_jobs"), {"ids": [pending], "changes": edit, "by": None}
                holder = pending if rows and rows[0][1] == "changed" else None  # or a worker was faster
        elif unique.window_ms is not None:
            holder = latest if latest is not None and age_ms < unique.window_ms else None
        else:
            holder = unfinished
        place = of_this_call[unique.key] = (len(chosen),) if holder is None else holder
        places.append(place)
        if holder is None:
            chosen.append(spec)


def _invisible(key: str | None) -> DataQueueError:
    return DataQueueError(
        f"The idempotency key {key!r} belongs to a job that this transaction cannot see (it was committed "
        "after the transaction's snapshot). Nothing was added. Add the job again in a new transaction."
    )


def _as_json(specs: Sequence[JobSpec]) -> str:
    return "[" + ",".join([_one_as_json(spec) for spec in specs]) + "]"


def _one_as_json(spec: JobSpec) -> str:
    # Built by hand around the payload, which is JSON text already; absent members mean the default.
    parts = [f'{{"t":{json.dumps(spec.job_type)},"p":{spec.payload}']
    if spec.priority:
        parts.append(f',"pr":{spec.priority}')
    if spec.run_at is not None:
        parts.append(f',"at":"{spec.run_at.isoformat()}"')
    if spec.delay_ms:
        parts.append(f',"delay":{spec.delay_ms}')
    if spec.max_attempts != 3:
        parts.append(f',"ma":{spec.max_attempts}')
    if spec.timeout_ms is not None:
        parts.append(f',"ms":{spec.timeout_ms}')
    if spec.tags is not None:
        parts.append(f',"tags":{json.dumps(spec.tags)}')
    if spec.idempotency_key is not None:
        parts.append(f',"k":{json.dumps(spec.idempotency_key)}')
    retry = spec.retry
    if not retry.is_legacy:
        parts.append(
            f',"rd":{json.dumps(retry.delay)},"rb":{json.dumps(retry.backoff)},"rm":{json.dumps(retry.delay_max)}'
        )
    if spec.group is not None:
        parts.append(f',"g":{json.dumps(spec.group)}')
    if spec.dead_letter is not None:
        parts.append(f',"dl":{json.dumps(spec.dead_letter)}')
    if spec.unique is not None:
        parts.append(f',"u":{json.dumps(spec.unique.key)}')
    if spec.dependencies is not None:
        parts.append(',"b":true')
        if spec.dependencies.tags:
            parts.append(f',"dt":{json.dumps(spec.dependencies.tags)}')
        if spec.dependencies.run_anyway:
            parts.append(',"ra":true')
    parts.append("}")
    return "".join(parts)


class Adding:
    """Runs these steps: on a connection of the pool, or on one of the caller's."""

    def __init__(self, backend: PostgresBackend) -> None:
        self._backend = backend

    async def add(self, specs: Sequence[JobSpec], conn: object | None = None) -> list[Added]:
        if conn is None and len(specs) <= CHUNK:
            return await self._backend.on_some_connection(lambda own: self._run_transaction(own, specs), UNDONE)
        return [item async for chunk in self.add_stream(specs, conn) for item in chunk]

    async def add_stream(self, specs: Iterable[JobSpec], conn: object | None = None) -> AsyncIterator[list[Added]]:
        chunks = chunked(specs)
        first = next(chunks, None)
        if first is None:
            return
        if isinstance(conn, psycopg.Connection):
            yield self.add_sync(
                itertools.chain(first, itertools.chain.from_iterable(chunks)), cast("Connection[Any]", conn)
            )
            return
        if conn is None and len(first) < CHUNK:
            yield await self._backend.on_some_connection(lambda own: self._run_transaction(own, first), UNDONE)
            return
        async with self._adding_connection(conn) as target:
            if conn is not None and not target.autocommit:
                # Begin the transaction that the caller will end: transaction() would begin and end its own.
                await target.execute("SELECT 1")
            # Within a transaction this is a savepoint: if the add fails, all is as it was before.
            async with target.transaction():
                before = array("q")
                for chunk in itertools.chain([first], chunks):
                    added = await self.run_steps(target, chunk, before)
                    before.extend(job_id for job_id, _ in added)
                    yield added

    @asynccontextmanager
    async def _adding_connection(self, conn: object | None) -> AsyncGenerator[AsyncConnection[Any]]:
        if conn is None:
            async with self._backend.connection() as own:
                yield own
        elif isinstance(conn, psycopg.AsyncConnection):
            with store_errors(self._backend.location(), callers=True):
                if not self._backend.knows_schema:
                    cursor = conn.cursor(row_factory=tuple_row)
                    await cursor.execute(migrate.FIND_SCHEMA, {"schema": self._backend.given_schema})
                    self._backend.remember_schema(await cursor.fetchall())
                yield cast("AsyncConnection[Any]", conn)
        else:
            raise ConfigError(
                f"conn must be a psycopg AsyncConnection or Connection, not {type(conn).__qualname__}. "
                "Nothing was added."
            )

    async def _run_transaction(self, conn: AsyncConnection[Any], specs: Sequence[JobSpec]) -> list[Added]:
        if is_one_statement(specs):
            return await self.run_steps(conn, specs)
        async with conn.transaction():
            return await self.run_steps(conn, specs)

    async def run_steps(
        self, conn: AsyncConnection[Any], specs: Sequence[JobSpec], before: Sequence[int] = ()
    ) -> list[Added]:
        steps = add_steps(self._backend.statements, specs, before)
        cursor = conn.cursor(row_factory=tuple_row)
        try:
            sql, parameters = next(steps)
            while True:
                await cursor.execute(sql, parameters)
                sql, parameters = steps.send(await cursor.fetchall())
        except StopIteration as done:
            return done.value

    def add_sync(self, specs: Iterable[JobSpec], conn: Connection[Any]) -> list[Added]:
        """Add on a caller's blocking connection; needs no open queue and no event loop."""
        if not isinstance(conn, psycopg.Connection):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"conn must be a psycopg Connection, not {type(conn).__qualname__}. Nothing was added.")
        with store_errors(self._backend.location(), callers=True):
            if not conn.autocommit:
                conn.execute("SELECT 1")  # see add_stream
            return self._add_sync(specs, conn)

    def _add_sync(self, specs: Iterable[JobSpec], conn: Connection[Any]) -> list[Added]:
        added: list[Added] = []
        with conn.transaction():
            cursor = conn.cursor(row_factory=tuple_row)
            if not self._backend.knows_schema:
                self._backend.remember_schema(
                    cursor.execute(migrate.FIND_SCHEMA, {"schema": self._backend.given_schema}).fetchall()
                )
            for chunk in chunked(specs):
                steps = add_steps(self._backend.statements, chunk, [job_id for job_id, _ in added])
                try:
                    sql, parameters = next(steps)
                    while True:
                        cursor.execute(sql, parameters)
                        sql, parameters = steps.send(cursor.fetchall())
                except StopIteration as done:
                    added.extend(done.value)
        return added
