"""What the code under test has added, and assertions about it that say what is there instead."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypedDict, Unpack, overload

from dataqueue.testing.calls import run_on

if TYPE_CHECKING:
    from dataqueue.definitions import JobDefinition
    from dataqueue.jobs import Job, JobStatus, TagMode
    from dataqueue.payloads import Codec
    from dataqueue.queue import JobQueue
    from dataqueue.sync import SyncJobDefinition, SyncJobQueue
    from dataqueue.testing.calls import AnyQueue

    JobType: TypeAlias = str | JobDefinition[Any, Any] | SyncJobDefinition[Any, Any]

_SHOWN = 10
_PAGE = 1000


class _Anything:
    def __repr__(self) -> str:
        return "..."


ANYTHING: Final = _Anything()
"""For ``payload``: it does not matter."""


class Conditions(TypedDict, total=False):
    """What else must hold of a job: see :meth:`dataqueue.JobQueue.get_jobs`."""

    status: JobStatus | Iterable[JobStatus]
    priority: int
    tags: Iterable[str]
    tag_mode: TagMode
    group: str
    run_after: datetime
    run_before: datetime
    created_after: datetime
    created_before: datetime
    error_contains: str


@overload
def enqueued(
    queue: JobQueue, job_type: JobType | None = None, *, payload: object = ANYTHING, **conditions: Unpack[Conditions]
) -> Coroutine[Any, Any, list[Job]]: ...
@overload
def enqueued(
    queue: SyncJobQueue,
    job_type: JobType | None = None,
    *,
    payload: object = ANYTHING,
    **conditions: Unpack[Conditions],
) -> list[Job]: ...
def enqueued(
    queue: AnyQueue, job_type: JobType | None = None, *, payload: object = ANYTHING, **conditions: Unpack[Conditions]
) -> Any:
    """The jobs that were added and are as described, in the order of adding, whether they have run or not.

    Args:
        job_type: a type's name, or its definition. By default of any type.
        payload: a value that must be equal (as JSON, so a model equals its fields), or a function that is given the
            payload (as the handler would be) and says whether it is the one.
        conditions: those of ``get_jobs``: ``status=``, ``tags=``, ``group=``, ``run_after=``, …

    Raises:
        InvalidPayload: the job type could not have such a payload.
        InvalidJob: a condition of the wrong type or range.
    """
    return run_on(queue, lambda inner: _enqueued(inner, job_type, payload, conditions))


@overload
def assert_enqueued(
    queue: JobQueue,
    job_type: JobType | None = None,
    *,
    payload: object = ANYTHING,
    count: int | None = None,
    **conditions: Unpack[Conditions],
) -> Coroutine[Any, Any, list[Job]]: ...
@overload
def assert_enqueued(
    queue: SyncJobQueue,
    job_type: JobType | None = None,
    *,
    payload: object = ANYTHING,
    count: int | None = None,
    **conditions: Unpack[Conditions],
) -> list[Job]: ...
def assert_enqueued(
    queue: AnyQueue,
    job_type: JobType | None = None,
    *,
    payload: object = ANYTHING,
    count: int | None = None,
    **conditions: Unpack[Conditions],
) -> Any:
    """Fail unless such a job was added. Returns what :func:`enqueued` does.

    Args:
        count: exactly so many; by default one or more.

    Raises:
        AssertionError: it says what is there, and how the payloads differ.
    """
    __tracebackhide__ = True
    return run_on(queue, lambda inner: _assert_enqueued(inner, job_type, payload, count, conditions))


@overload
def assert_not_enqueued(
    queue: JobQueue, job_type: JobType | None = None, *, payload: object = ANYTHING, **conditions: Unpack[Conditions]
) -> Coroutine[Any, Any, None]: ...
@overload
def assert_not_enqueued(
    queue: SyncJobQueue,
    job_type: JobType | None = None,
    *,
    payload: object = ANYTHING,
    **conditions: Unpack[Conditions],
) -> None: ...
def assert_not_enqueued(
    queue: AnyQueue, job_type: JobType | None = None, *, payload: object = ANYTHING, **conditions: Unpack[Conditions]
) -> Any:
    """Fail if such a job was added; without a type, if any was.

    Raises:
        AssertionError: it names the jobs.
    """
    __tracebackhide__ = True
    return run_on(queue, lambda inner: _assert_not_enqueued(inner, job_type, payload, conditions))


async def _enqueued(queue: JobQueue, job_type: JobType | None, payload: object, conditions: Conditions) -> list[Job]:
    fits = _payload_test(queue, _name_of(job_type), payload)
    return [job for job in await _list(queue, _name_of(job_type), conditions) if fits(job)]


async def _assert_enqueued(
    queue: JobQueue, job_type: JobType | None, payload: object, count: int | None, conditions: Conditions
) -> list[Job]:
    __tracebackhide__ = True
    found = await _enqueued(queue, job_type, payload, conditions)
    if len(found) == count or (count is None and found):
        return found
    wanted = _described(_name_of(job_type), payload, conditions)
    number = "No job" if not found else "1 job" if len(found) == 1 else f"{len(found)} jobs"
    expected = "" if count is None else f", not {count}"
    there = await _what_is_there(queue, _name_of(job_type), payload)
    raise AssertionError(f"{number} {wanted} {'was' if len(found) < 2 else 'were'} added{expected}. {there}")


async def _assert_not_enqueued(
    queue: JobQueue, job_type: JobType | None, payload: object, conditions: Conditions
) -> None:
    __tracebackhide__ = True
    found = await _enqueued(queue, job_type, payload, conditions)
    if found:
        lines = "\n".join(f"  {_shown(job)}" for job in found[:_SHOWN])
        more = f"\n  … and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        wanted = _described(_name_of(job_type), payload, conditions)
        raise AssertionError(f"No job {wanted} should have been added. There is:\n{lines}{more}")


async def _list(queue: JobQueue, name: str | None, conditions: Conditions) -> list[Job]:
    found: list[Job] = []
    cursor: int | None = None
    while True:
        page = await queue.get_jobs(job_type=name, limit=_PAGE, cursor=cursor, **conditions)
        found += page
        cursor = page.next_cursor
        if cursor is None:
            return found[::-1]


def _name_of(job_type: JobType | None) -> str | None:
    return job_type if isinstance(job_type, str) or job_type is None else job_type.name


def _codec(queue: JobQueue, name: str | None) -> Codec[Any]:
    from dataqueue.payloads import Codec

    definition = queue.definitions.get(name) if name is not None else None
    return Codec(Any) if definition is None else definition.handler.payload


def _payload_test(queue: JobQueue, name: str | None, payload: object) -> Callable[[Job], bool]:
    if payload is ANYTHING:
        return lambda job: True
    if callable(payload) and not isinstance(payload, type):
        accepts: Callable[[Any], object] = payload
        return lambda job: bool(accepts(_codec(queue, job.job_type).decode(json.dumps(job.payload))))
    wanted = json.loads(_codec(queue, name).encode(payload))
    return lambda job: job.payload == wanted


# -- words ------------------------------------------------------------------------------------------------


def _described(name: str | None, payload: object, conditions: Conditions) -> str:
    parts = [] if name is None else [f"of type {name!r}"]
    if callable(payload):
        parts.append("with a payload that the function accepts")
    elif payload is not ANYTHING:
        parts.append(f"with the payload {payload!r:.300}")
    parts += [f"with {key}={value!r}" for key, value in conditions.items()]
    return " ".join(parts) or "of any type"


async def _what_is_there(queue: JobQueue, name: str | None, payload: object) -> str:
    everything = await _list(queue, None, {})
    if not everything:
        return "The queue is empty."
    same = [job for job in everything if job.job_type == name] if name is not None else everything
    if not same:
        types = Counter(job.job_type for job in everything)
        told = ", ".join(f"{job_type} ({number})" for job_type, number in sorted(types.items()))
        return f"The queue has jobs of other types: {told}."
    lines = [f"  {_shown(job)}{_difference(queue, job, payload)}" for job in same[-_SHOWN:]]
    more = f"\n  … and {len(same) - _SHOWN} before them" if len(same) > _SHOWN else ""
    return f"The queue has{' of this type' if name is not None else ''}:\n" + "\n".join(lines) + more


def _shown(job: Job) -> str:
    extras = "".join(
        f" {key}={value!r}"
        for key, value in (("tags", list(job.tags)), ("group", job.group), ("priority", job.priority))
        if value
    )
    return f"job {job.id} {job.job_type} {job.status} {json.dumps(job.payload):.300}{extras}, run_at {job.run_at:%Y-%m-%d %H:%M:%S}Z"


def _difference(queue: JobQueue, job: Job, payload: object) -> str:
    if payload is ANYTHING or callable(payload):
        return ""
    wanted = json.loads(_codec(queue, job.job_type).encode(payload))
    differences = list(_differences("payload", wanted, job.payload))
    return "".join(f"\n    {text}" for text in differences[:5])


def _differences(path: str, wanted: Any, there: Any) -> Iterable[str]:
    if isinstance(wanted, dict) and isinstance(there, dict):
        for key in sorted({*wanted, *there}):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            inner = f"{path}.{key}"
            if key not in there:
                yield f"{inner} is missing, {json.dumps(wanted[key]):.100} was expected"
            elif key not in wanted:
                yield f"{inner} is {json.dumps(there[key]):.100}, nothing was expected"
            else:
                yield from _differences(inner, wanted[key], there[key])
    elif wanted != there:
        yield f"{path} is {json.dumps(there):.100}, {json.dumps(wanted):.100} was expected"
