"""What a worker's round trip does: record outcomes, free places, promote, claim; one pipeline."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg.rows import tuple_row

from dataqueue.backends.base import Cancelled, Claimed, Completed, Cycle, Failed, Held, Outcome, Released, Waiting
from dataqueue.backends.postgres import durable
from dataqueue.backends.postgres.statements import Statements

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from dataqueue.backends.postgres.backend import PostgresBackend

    Cursor = psycopg.AsyncCursor[tuple[Any, ...]]

_WIDEST = 8192


class Cycling:
    """Cycles, and what they remember from one to the next. All of it is a hint: the statements themselves see to it
    that limits hold."""

    def __init__(self, backend: PostgresBackend) -> None:
        self._backend = backend
        self._limited: dict[tuple[str, ...], int] = {}
        """Job types that limits or groups decide about, and how far to look into their line."""
        self._sharing: set[int] = set()
        """Leases whose end frees a place that others may wait for."""
        self._swept = ""

    async def cycle(
        self, worker_id: str, outcomes: Sequence[Outcome], job_types: Sequence[str], limit: int, promote: bool
    ) -> Cycle:
        statements = self._backend.statements
        recording: list[Cursor] = []
        promoting = settings = claiming = None
        types = tuple(job_types)
        width = self._limited.get(types)
        async with self._backend.connection() as conn:
            async with _pipeline(conn) as pipeline:
                if outcomes:
                    await conn.execute(statements("record_settings"))
                for sql, parameters in _recording_steps(statements, worker_id, outcomes):
                    recording.append(await _run(conn, sql, parameters))
                shared = self._end_sharing(outcomes)
                if shared:
                    await pipeline.sync()
                    await self._free(conn, shared)
                if limit:
                    if recording:
                        await pipeline.sync()  # the outcomes are committed whatever becomes of the claim
                    settings = await _run(conn, statements("claim_settings"), {"job_types": list(types)})
                    if promote:
                        promoting = await _run(conn, statements("promote_due"), {})
                    parameters = {"worker_id": worker_id, "job_types": list(types), "limit": limit}
                    if width is None:
                        claiming = await _run(conn, statements.claim("claim_jobs", limit), parameters)
                    else:
                        size = max(limit, width)
                        await _run(conn, statements.claim("lock_limits", size), {"job_types": list(types)})
                        claiming = await _run(conn, statements.claim("claim_limited", size), parameters)
            done: set[int] = set()
            given_up: set[int] = set()
            cascaded: list[int] = []
            for cursor in recording:
                leases, dependants, cancelled, *_ = (await cursor.fetchall())[0]
                done.update(leases or ())
                cascaded += dependants or ()
                given_up.update(cancelled or ())
            held: list[Held] = [(item.id, item.lease_id) for item in outcomes]
            answer = Cycle(
                [],
                [item for item in held if item[1] not in done],
                cancelled=[item for item in held if item[1] in given_up],
                cascaded=cascaded,
            )
            if promoting is not None:
                answer.next_due_ms = (await promoting.fetchall())[0][1]
            if settings is None or claiming is None:
                return answer
            answer.limited = (await settings.fetchall())[0][0]
            rows = await claiming.fetchall()
        if width is None:
            answer.jobs = [Claimed(*row) for row in rows]
            self._sharing.update(job.lease_id for job in answer.jobs if job.group is not None)
            if answer.limited:  # nothing was claimed: ask in the other way
                self._limited[types] = 0
                second = await self.cycle(worker_id, [], job_types, limit, False)
                second.lost, second.cancelled, second.cascaded = answer.lost, answer.cancelled, answer.cascaded
                second.next_due_ms = answer.next_due_ms
                return second
        else:
            in_other_hands, answer.parked, answer.opens_in_ms = rows[0][:3]
            answer.again = in_other_hands or answer.parked > 0
            answer.jobs = [Claimed(*row[3:-1]) for row in rows if row[3] is not None]
            self._sharing.update(row[4] for row in rows if row[-1])
        self._remember(types, limit, answer)
        return answer

    def _remember(self, types: tuple[str, ...], limit: int, answer: Cycle) -> None:
        if not answer.limited:
            self._limited.pop(types, None)
        elif answer.parked or (answer.again and not answer.jobs):  # look beyond what stands first
            self._limited[types] = min(max(limit, 4 * self._limited.get(types, 0)), _WIDEST)
        else:
            self._limited[types] = 0

    def _end_sharing(self, outcomes: Sequence[Outcome]) -> list[int]:
        if not self._sharing:
            return []
        shared = [item.id for item in outcomes if item.lease_id in self._sharing]
        self._sharing.difference_update([item.lease_id for item in outcomes])
        return shared

    async def free_places(self, ids: Sequence[int]) -> None:
        """These jobs run no more, or stand in line no more."""
        async with self._backend.connection() as conn, _pipeline(conn):
            await self._free(conn, ids)

    async def _free(self, conn: AsyncConnection[Any], ids: Sequence[int]) -> None:
        statements = self._backend.statements
        await conn.execute(statements("record_settings"))
        await _run(conn, statements("lock_groups"), {"ids": list(ids)})
        await _run(conn, statements("unpark"), {"tell": True})

    async def unpark_stale(self) -> None:
        """Parked jobs whose group has places: its limit was raised, or who freed them could not say so."""
        statements = self._backend.statements
        async with self._backend.connection() as conn:
            async with _pipeline(conn):
                await conn.execute(statements("record_settings"))
                found = await _run(conn, statements("find_parked"), {"after": self._swept})
                await _run(conn, statements("unpark"), {"tell": False})
            self._swept = (await found.fetchall())[0][1] or ""


@asynccontextmanager
async def _pipeline(conn: AsyncConnection[Any]) -> AsyncGenerator[psycopg.AsyncPipeline]:
    """A pipeline; a connection on which one has failed is not used again.

    The driver takes a statement for prepared when it has sent it, also if an error before it made the server pass it
    over: all later executions on that connection would fail.
    """
    try:
        async with conn.pipeline() as pipeline:
            yield pipeline
    except psycopg.Error:
        await conn.close()
        raise


async def _run(conn: AsyncConnection[Any], sql: LiteralString, parameters: dict[str, Any]) -> Cursor:
    return await conn.cursor(row_factory=tuple_row).execute(sql, parameters)


def _recording_steps(
    statements: Statements, worker_id: str, outcomes: Sequence[Outcome]
) -> list[tuple[LiteralString, dict[str, Any]]]:
    """One statement for each kind of outcome that occurs."""
    completed = [item for item in outcomes if isinstance(item, Completed)]
    failed = [item for item in outcomes if isinstance(item, Failed)]
    cancelled = [item for item in outcomes if isinstance(item, Cancelled)]
    released = [item for item in outcomes if isinstance(item, Released)]
    steps: list[tuple[LiteralString, dict[str, Any]]] = []
    if completed:
        outputs = [item.output for item in completed]
        steps.append((statements("complete_jobs"), {**_held(completed), "outputs": outputs}))
    if failed:
        parameters = {
            **_held(failed),
            "messages": [item.message for item in failed],
            "reasons": [item.reason for item in failed],
            "retries": [item.retry_ms for item in failed],
            "error_types": [item.error_type for item in failed],
            "frames": [item.frame for item in failed],
        }
        steps.append((statements("fail_jobs"), parameters))
    if cancelled:
        steps.append((statements("cancel_attempts"), _held(cancelled)))
    waiting = [item for item in outcomes if isinstance(item, Waiting)]
    if waiting:
        steps.append((statements("wait_jobs"), durable.wait_parameters(waiting)))
    if released:
        steps.append((statements("release_jobs"), {**_held(released), "worker_id": worker_id}))
    return steps


def _held(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {"ids": [item.id for item in outcomes], "leases": [item.lease_id for item in outcomes]}
