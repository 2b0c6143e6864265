"""Jobs that wait for others: what an application says, checked; and chains of jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast

from dataqueue.errors import InvalidJob
from dataqueue.jsonvalue import check_text

if TYPE_CHECKING:
    from dataqueue.options import NewJob

MAX_PREREQUISITES = 10_000
MAX_ID = 2**63 - 1


class HasId(Protocol):
    """A handle, or a job that was read."""

    @property
    def id(self) -> int: ...


@dataclass(frozen=True, slots=True)
class BatchRef:
    """A job of the same ``add_jobs`` call; see :func:`batch_ref`."""

    position: int


def batch_ref(position: int) -> BatchRef:
    """The job at this position (from 0) of the ``add_jobs`` call that this reference is used in; an earlier one.

    Raises:
        InvalidJob: not a position.
    """
    if isinstance(position, bool) or not isinstance(position, int) or position < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidJob(f"batch_ref takes a position from 0, not {position!r:.80}.")
    return BatchRef(position)


Prerequisite: TypeAlias = int | HasId | BatchRef


@dataclass(frozen=True, slots=True)
class DependsOn:
    """What a job waits for: ``DependsOn([handle, 17], tags=["import"], on_failure="run")``.

    It may run when all of these jobs have ended. Where one of them fails for good or is cancelled, the waiting job is
    cancelled, with all that wait for it (``on_failure="cancel"``), or runs all the same (``"run"``).

    Args:
        jobs: ids, handles, or ``batch_ref(position)`` within ``add_jobs``.
        tags: every unfinished job that has all of these tags and was added before.
        on_failure: ``"cancel"`` or ``"run"``.
    """

    jobs: Sequence[Prerequisite] = ()
    tags: Sequence[str] = ()
    on_failure: Literal["cancel", "run"] = "cancel"


DependsOnOption: TypeAlias = DependsOn | Sequence[Prerequisite] | HasId | int
"""What the option ``depends_on`` takes."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Checked: ids of jobs, positions of the same call as negative numbers (-1 is position 0), and tags; all of them
    without repeats."""

    jobs: tuple[int, ...]
    tags: tuple[str, ...]
    run_anyway: bool


def check_depends_on(value: object) -> Dependencies | None:
    """None for a job that waits for nobody.

    Raises:
        InvalidJob: not what :data:`DependsOnOption` says.
    """
    if value is None:
        return None
    given = value if isinstance(value, DependsOn) else DependsOn(cast("Any", _several(value)))
    if given.on_failure not in ("cancel", "run"):
        raise InvalidJob(f'on_failure must be "cancel" or "run", not {given.on_failure!r:.80}.')
    jobs = tuple(dict.fromkeys(map(_number, _several(given.jobs))))
    if len(jobs) > MAX_PREREQUISITES:
        raise InvalidJob(
            f"depends_on names {len(jobs):,} jobs; at most {MAX_PREREQUISITES:,} fit. Give them a tag, and depend on it."
        )
    tags = _check_tags(given.tags)
    return Dependencies(jobs, tags, given.on_failure == "run") if jobs or tags else None


def _several(value: object) -> Iterable[object]:
    if isinstance(value, str | bytes) or value is None:
        raise InvalidJob(
            f"depends_on must name jobs by id or handle, not {value!r:.80}. For tags write DependsOn(tags=[…])."
        )
    if isinstance(value, BatchRef | int) or hasattr(value, "id"):
        return [value]
    if not isinstance(value, Iterable):
        raise InvalidJob(f"depends_on must be a list of ids and handles, not {type(value).__name__}.")
    return cast("Iterable[object]", value)


def _number(item: object) -> int:
    if isinstance(item, BatchRef):
        return -item.position - 1
    number = item if isinstance(item, int) else getattr(item, "id", None)
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MAX_ID:
        raise InvalidJob(f"depends_on names {item!r:.80}, which is neither the id of a job nor a handle.")
    return number


def _check_tags(tags: object) -> tuple[str, ...]:
    if isinstance(tags, str | bytes) or not isinstance(tags, Iterable):
        raise InvalidJob(f"The tags of depends_on must be a list of texts, not {tags!r:.80}.")
    unique = tuple(dict.fromkeys(cast("Iterable[Any]", tags)))
    for tag in unique:
        if not isinstance(tag, str) or not 0 < len(tag) <= 255:
            raise InvalidJob(f"A tag of depends_on must be a text of 1 to 255 characters, not {tag!r:.80}.")
        check_text(tag, "a tag of depends_on")
    return unique


def resolve_positions(dependencies: Dependencies, ids: Sequence[int]) -> tuple[int, ...]:
    """The ids that are meant, where ``ids`` are those of the call's jobs so far."""
    return tuple(dict.fromkeys(ids[-number - 1] if number < 0 else number for number in dependencies.jobs))


def check_position(dependencies: Dependencies | None, index: int) -> None:
    """That positions name earlier jobs of the call than the one at ``index``.

    Raises:
        InvalidJob: a later one, or itself.
    """
    late = next((-number - 1 for number in dependencies.jobs if -number > index), None) if dependencies else None
    if late is not None:
        raise InvalidJob(
            f"it depends on batch_ref({late}), which does not stand before it: a job can wait for earlier ones of its "
            "call only."
        )


def no_such_prerequisite(job_id: int | str) -> InvalidJob:
    return InvalidJob(
        f"depends_on names job {job_id}, which does not exist (or was cleaned up since). None of these jobs was stored."
    )


def chained(steps: Iterable[NewJob | Sequence[NewJob]]) -> list[NewJob]:
    """The jobs of a chain, each waiting for all of the step before it; a step may be several jobs.

    Raises:
        InvalidJob: an empty chain or step, something else than a NewJob, or one with a ``depends_on`` of its own.
    """
    from dataqueue.options import NewJob

    jobs: list[NewJob] = []
    before: list[BatchRef] = []
    for number, step in enumerate(steps, 1):
        parallel = [step] if isinstance(step, NewJob) else list(step)
        if not parallel:
            raise InvalidJob(f"Step {number} of the chain is empty.")
        first = len(jobs)
        for job in parallel:
            if not isinstance(job, NewJob):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidJob(
                    f"Step {number} of the chain is {job!r:.80}. Write definition.new(payload) or NewJob(type, payload)."
                )
            if job.options.get("depends_on") is not None:
                raise InvalidJob(
                    f"Step {number} of the chain has a depends_on of its own. Use add_jobs with batch_ref."
                )
            options = {**job.options, "depends_on": before} if before else job.options
            jobs.append(NewJob(job.job_type, job.payload, cast("Any", options)))
        before = [BatchRef(position) for position in range(first, len(jobs))]
    if not jobs:
        raise InvalidJob("The chain is empty.")
    return jobs
