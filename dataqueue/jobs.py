"""What a queue gives back: jobs, their events, and handles to wait on."""

from __future__ import annotations

import re
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack, cast, get_args, overload

from dataqueue.errors import InvalidJob, ResultTimeout
from dataqueue.payloads import Codec
from dataqueue.retry import RetryPolicy

if TYPE_CHECKING:
    from dataqueue.changing import ChangingQueue
    from dataqueue.options import JobChanges

R = TypeVar("R")

JobStatus = Literal["pending", "processing", "completed", "failed", "cancelled", "waiting"]
STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)
TagMode = Literal["all", "any", "exact", "none"]
FailureReason = Literal["timeout", "handler_error", "no_handler", "worker_lost"]
_CASCADE = re.compile(r'\{"rootJobId":\s*(\d+),\s*"dependencyCascade":\s*true\}')
ANY_JSON: Codec[Any] = Codec(Any, "result")


@dataclass(frozen=True, slots=True)
class ErrorEntry:
    """One failed attempt: its message, when it failed, and (from our workers) the exception's type and place."""

    message: str
    timestamp: datetime
    error_type: str | None = None
    frame: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the store has it at one moment. All times are aware and by the store's clock.

    ``failed`` with a ``next_attempt_at`` will be tried again; without one it is final.
    """

    id: int
    job_type: str
    payload: Any
    status: JobStatus
    priority: int
    created_at: datetime
    updated_at: datetime
    run_at: datetime
    attempts: int
    max_attempts: int
    next_attempt_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    last_failed_at: datetime | None = None
    last_retried_at: datetime | None = None
    last_cancelled_at: datetime | None = None
    locked_at: datetime | None = None
    locked_by: str | None = None
    cancel_requested_at: datetime | None = None
    failure_reason: FailureReason | None = None
    error_history: tuple[ErrorEntry, ...] = ()
    pending_reason: str | None = None
    timeout: timedelta | None = None
    tags: tuple[str, ...] = ()
    idempotency_key: str | None = None
    group: str | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    progress: int | None = None
    output: Any = None
    dead_letter: str | None = None
    """The job type that is told when this job has failed for good."""
    dead_lettered_at: datetime | None = None
    dead_letter_job_id: int | None = None
    depends_on: tuple[int, ...] = ()
    depends_on_tags: tuple[str, ...] = ()
    runs_anyway: bool = False
    """Whether it also runs after a prerequisite that failed or was cancelled."""
    blocked: bool = False
    """Pending or waiting until other jobs have ended."""
    wait_until: datetime | None = None
    """Of a waiting job: when it goes on, if that is known."""
    wait_token_id: str | None = None
    """Of a waiting job: the token that it waits for."""
    unique_key: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return self.status in ("completed", "cancelled") or (self.status == "failed" and self.next_attempt_at is None)

    @property
    def cascade_root(self) -> int | None:
        """The job whose failure or cancel has cancelled this one, which waited for it."""
        match = _CASCADE.fullmatch(self.pending_reason or "") if self.status == "cancelled" else None
        return int(match[1]) if match else None

    @property
    def last_error(self) -> str | None:
        return self.error_history[-1].message if self.error_history else None


class JobPage(list[Job]):
    """Jobs, highest id first; ``next_cursor`` fetches the page after this one, None at the end."""

    def __init__(self, jobs: Sequence[Job], next_cursor: int | None) -> None:
        super().__init__(jobs)
        self.next_cursor = next_cursor


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One thing that happened to a job. Events of a job are ordered by ``id``."""

    id: int
    job_id: int
    event_type: str
    created_at: datetime
    metadata: Any


@dataclass(frozen=True, slots=True)
class JobHandle(Generic[R]):
    """A job that was added: its id, and what one does with it next.

    ``created`` is False when a job with the same idempotency key was there already; the handle then
    names that one.
    """

    id: int
    created: bool
    _queue: ChangingQueue = field(repr=False, compare=False)
    _codec: Codec[R] = field(repr=False, compare=False, default=cast("Codec[R]", ANY_JSON))

    async def wait(self, timeout: float | timedelta | None = None) -> Job:
        """The finished job, whatever its end: completed, failed for good, or cancelled.

        Args:
            timeout: seconds (or a timedelta) to wait at most; None waits for ever.

        Raises:
            ResultTimeout: it has not finished in time; the job itself goes on.
            JobNotFound: no such job.
        """
        return await self._queue.wait_for_job(self.id, timeout=timeout)

    async def result(self, timeout: float | timedelta | None = None) -> R:
        """What the handler returned (or set as output), as its annotated type.

        Raises:
            JobFailed: it failed for good.
            JobCancelled: it was cancelled.
            ResultTimeout: it has not finished in time; the job itself goes on.
            JobNotFound: no such job.
        """
        return await self._queue.wait_for_result(self.id, self._codec, timeout=timeout)

    async def updates(self, *, every: float | timedelta = 1.0) -> AsyncIterator[Job]:
        """The job now, then each time its status, attempt, progress or output has changed, until it is finished.

        A state that lasts for less than ``every`` may be missed; the last one never is.

        Args:
            every: seconds (or a timedelta) from one look to the next, from 0.05. The end is noticed at once where
                notifications work.

        Raises:
            JobNotFound: no such job.
            InvalidJob: ``every`` is no such time.
        """
        seconds = _interval(every)
        seen: tuple[Any, ...] | None = None
        while True:
            job = await self.refresh()
            state = (job.status, job.attempts, job.progress, job.output)
            if state != seen:
                seen = state
                yield job
            if job.is_finished:
                return
            try:
                await self.wait(seconds)
            except ResultTimeout:
                pass

    async def refresh(self) -> Job:
        """The job as it is now.

        Raises:
            JobNotFound: no such job.
        """
        return await self._queue.require_job(self.id)

    async def cancel(self, *, by: str | None = None) -> bool:
        """See :meth:`dataqueue.JobQueue.cancel_job`."""
        return await self._queue.cancel_job(self.id, by=by)

    async def edit(self, *, by: str | None = None, **changes: Unpack[JobChanges]) -> bool:
        """See :meth:`dataqueue.JobQueue.edit_job`."""
        return await self._queue.edit_job(self.id, by=by, **changes)


def _interval(every: object) -> float:
    seconds = every.total_seconds() if isinstance(every, timedelta) else every
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0.05:
        raise InvalidJob(f"every must be seconds from 0.05 or a timedelta, not {every!r:.80}.")
    return float(seconds)


class AddedJobs(Sequence[JobHandle[R]], Generic[R]):
    """The handles of a bulk add, in the order of its jobs; about nine bytes a job."""

    def __init__(self, queue: ChangingQueue, codec: Codec[R]) -> None:
        self._queue = queue
        self._codec = codec
        self._ids = array("q")
        self._created = bytearray()

    def extend(self, added: Sequence[tuple[int, bool]]) -> None:
        self._ids.extend(job_id for job_id, _ in added)
        self._created.extend(created for _, created in added)

    @property
    def ids(self) -> list[int]:
        return self._ids.tolist()

    @overload
    def __getitem__(self, index: int) -> JobHandle[R]: ...
    @overload
    def __getitem__(self, index: slice) -> list[JobHandle[R]]: ...
    def __getitem__(self, index: int | slice) -> JobHandle[R] | list[JobHandle[R]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return JobHandle(self._ids[index], bool(self._created[index]), self._queue, self._codec)

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[JobHandle[R]]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<{len(self)} added jobs>"
