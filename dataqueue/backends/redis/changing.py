"""What people do to jobs that are there: cancel, retry, edit; one script for many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from dataqueue.backends.base import ChangeResult
from dataqueue.backends.redis.layout import STATUS_CODES, pack_id
from dataqueue.backends.redis.records import inverted, milliseconds_of
from dataqueue.jobs import JobStatus
from dataqueue.options import JobEdit

if TYPE_CHECKING:
    from dataqueue.backends.redis.backend import RedisBackend

_RESULTS: dict[int, ChangeResult] = {ord("c"): "changed", ord("r"): "requested", ord("u"): "unchanged"}


async def cancel(
    backend: RedisBackend, ids: Sequence[int], by: str | None, statuses: Sequence[JobStatus]
) -> dict[int, ChangeResult]:
    return await _change(backend, "cancel_jobs", ids, _codes(statuses), by_metadata(by))


async def retry(
    backend: RedisBackend, ids: Sequence[int], by: str | None, statuses: Sequence[JobStatus], ended: bool
) -> dict[int, ChangeResult]:
    return await _change(backend, "retry_jobs", ids, _codes(statuses), int(ended), by_metadata(by))


async def edit(backend: RedisBackend, ids: Sequence[int], wanted: JobEdit, by: str | None) -> dict[int, ChangeResult]:
    values = json.dumps(_values(wanted.fields))
    return await _change(backend, "edit_jobs", ids, values, wanted.payload or "", wanted.as_json(by))


async def _change(backend: RedisBackend, name: str, ids: Sequence[int], *arguments: Any) -> dict[int, ChangeResult]:
    results: dict[int, ChangeResult] = dict.fromkeys(ids, "missing")
    possible = [job_id for job_id in ids if 0 < job_id < 2**48]
    if possible:
        answer: Any = await backend.call(name, b"".join(map(pack_id, possible)), *arguments)
        letters, cascaded = cast("tuple[bytes, list[int]]", answer if name == "cancel_jobs" else (answer, []))
        for job_id, letter in zip(possible, letters, strict=True):
            results[job_id] = _RESULTS.get(letter, "missing")
        results |= {job_id: "cascaded" for job_id in cascaded if job_id not in results}
    return results


def _values(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an edit as the script takes them."""
    values: dict[str, Any] = {}
    for name, value in fields.items():
        match name:
            case "priority":
                values["prio"] = inverted(value)
            case "maxAttempts":
                values["max"] = value
            case "runAt" if value is None:
                values["delay"] = 0
            case "runAt":
                values["run_at"] = max(0, milliseconds_of(datetime.fromisoformat(value)))
            case "delayMs":
                values["delay"] = value
            case "timeoutMs":
                values["timeout"] = value
            case "tags":
                values["tags"] = value
            case "deadLetterJobType":
                values["dl"] = value
            case _:
                place = ("retryDelay", "retryBackoff", "retryDelayMax").index(name) + 1
                values.setdefault("retry", []).append([place, value])
    return values


def _codes(statuses: Sequence[JobStatus]) -> bytes:
    return bytes(STATUS_CODES[status] for status in statuses)


def by_metadata(by: str | None) -> str:
    return "" if by is None else json.dumps({"by": by})
