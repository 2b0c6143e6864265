"""What people do to jobs that are there: cancel, retry, edit; one statement for many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from dataqueue.backends.base import ChangeResult
from dataqueue.jobs import JobStatus
from dataqueue.options import JobEdit

if TYPE_CHECKING:
    from dataqueue.backends.postgres.backend import PostgresBackend


async def cancel(
    backend: PostgresBackend, ids: Sequence[int], by: str | None, statuses: Sequence[JobStatus]
) -> dict[int, ChangeResult]:
    return await _change(backend, "cancel_jobs", ids, {"by": by, "statuses": list(statuses)})


async def retry(
    backend: PostgresBackend, ids: Sequence[int], by: str | None, statuses: Sequence[JobStatus], ended: bool
) -> dict[int, ChangeResult]:
    return await _change(backend, "retry_jobs", ids, {"by": by, "statuses": list(statuses), "ended": ended})


async def edit(
    backend: PostgresBackend, ids: Sequence[int], wanted: JobEdit, by: str | None
) -> dict[int, ChangeResult]:
    return await _change(backend, "edit_jobs", ids, {"by": by, "changes": wanted.as_json()})


async def _change(
    backend: PostgresBackend, name: str, ids: Sequence[int], parameters: dict[str, Any]
) -> dict[int, ChangeResult]:
    """Run a statement for all of these jobs, then for each that somebody else had in hand."""
    results: dict[int, ChangeResult] = dict.fromkeys(ids, "missing")
    freed: list[int] = []
    in_other_hands = await _run(backend, name, ids, parameters, results, freed)
    for job_id in in_other_hands:  # waiting for one with nothing in our hands, so that nobody waits for us
        await _run(backend, name, [job_id], parameters, results, freed)
    if freed:  # in line they held places that their groups' next may need
        await backend.free_places(freed)
    return results


async def _run(
    backend: PostgresBackend,
    name: str,
    ids: Sequence[int],
    parameters: dict[str, Any],
    results: dict[int, ChangeResult],
    freed: list[int],
) -> list[int]:
    """Note what became of each, and who has left a place in line; gives those that are in somebody's hands."""
    # A plan for one job fits every time; for many, the server is to see how many there are.
    prepare = None if len(ids) == 1 else False
    cursor = await backend.write(backend.statements(name), {**parameters, "ids": list(ids)}, prepare=prepare)
    in_other_hands: list[int] = []
    for job_id, result, has_left, _, *cascade in await cursor.fetchall():
        if name == "cancel_jobs" and cascade[0]:
            results |= {other: "cascaded" for other in cascade[0] if other not in results}
        if result is None:
            in_other_hands.append(job_id)
        else:
            results[job_id] = cast("ChangeResult", result)
            if has_left:
                freed.append(job_id)
    return sorted(in_other_hands)
