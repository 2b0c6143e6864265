"""Every error that dataqueue raises.

Each message says what happened (with the value that caused it), what is still true, and what to do
next. All are ordinary exceptions but :class:`LeaseLost`, which is a ``BaseException`` so that a
handler's ``except Exception`` cannot swallow it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataqueue.steps import StepRecord


class DataQueueError(Exception):
    """Base of all errors of this package."""


class ConfigError(DataQueueError, ValueError):
    """A setting is missing or wrong: a URL, an option of the queue or of a worker. Nothing was changed."""


class InvalidJob(DataQueueError, ValueError):
    """A job, an option or a filter was refused before anything was stored."""


class InvalidPayload(InvalidJob):
    """The payload does not fit the job type's definition, or is not a JSON value."""


class UnknownJobType(InvalidJob):
    """The queue has typed definitions, and none of them has this name."""


class InvalidSchedule(InvalidJob):
    """A cron expression, a time zone or an option of a schedule was refused before anything was stored."""


class ScheduleNotFound(DataQueueError, LookupError):
    """No schedule has this id or name: it never existed, or has been removed."""

    def __init__(self, which: int | str) -> None:
        super().__init__(
            f"There is no schedule {which!r}: it was never added to this queue, or has been removed. Nothing was changed."
        )
        self.which = which


class ScheduleExists(DataQueueError, ValueError):
    """Another schedule has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is a schedule {name!r} already. Nothing was stored. Give this one another name, or change that one "
            "with edit_cron_job()."
        )
        self.name = name


class JobNotFound(DataQueueError, LookupError):
    """No job has this id: it never existed, or has been deleted."""

    def __init__(self, job_id: int) -> None:
        super().__init__(f"There is no job {job_id}: it was never added to this queue, or has been deleted.")
        self.job_id = job_id


class JobFailed(DataQueueError):
    """The awaited job failed for good. Raised by ``JobHandle.result()``."""

    def __init__(self, job_id: int, job_type: str, message: str, reason: str | None, attempts: int) -> None:
        super().__init__(
            f"Job {job_id} ({job_type}) failed after {attempts} attempt(s), reason {reason or 'unknown'}: {message}"
        )
        self.job_id = job_id
        self.job_type = job_type
        self.message = message
        self.reason = reason
        self.attempts = attempts


class RemoteError(DataQueueError):
    """What a handler raised in a child process (``isolation="process"``), as texts: exceptions do not cross over.

    ``hook.error`` of ``job:failed`` is one. Its traceback is shown where it is logged.
    """

    def __init__(self, message: str, error_type: str, frame: str | None, traceback: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.frame = frame
        self.traceback = traceback
        self.add_note(f"In the other process:\n{traceback.rstrip()}")


class ProcessDied(DataQueueError):
    """The child process of a handler (``isolation="process"``) ended before the handler had."""


class JobCancelled(DataQueueError):
    """The awaited job was cancelled. Raised by ``JobHandle.result()``."""

    def __init__(self, job_id: int, job_type: str) -> None:
        super().__init__(f"Job {job_id} ({job_type}) was cancelled, so it has no result.")
        self.job_id = job_id
        self.job_type = job_type


class ResultTimeout(DataQueueError, TimeoutError):
    """The job had not finished within the time given. The job itself goes on."""


class ReadOnlyQueue(DataQueueError):
    """The store has refused a change: the queue was opened for reading only, or the store takes no changes."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"The queue at {where} takes no changes. Nothing was changed. It was opened with read_only=True, or the "
            "server is a standby, or its role reads only (default_transaction_read_only)."
        )


class StoreUnavailable(DataQueueError, ConnectionError):
    """The store cannot be reached. Whether the operation took effect is unknown only if it was sent."""


class SchemaError(DataQueueError):
    """The tables are missing, or are older or newer than this package."""


class WrongLoop(DataQueueError, RuntimeError):
    """A queue that is open on one running event loop was used on another."""


class LeaseLost(BaseException):
    """This attempt no longer owns its job: another worker has it, or someone took it away.

    Raised inside a handler when it writes, or by cancelling it. Nothing that the attempt writes from
    now on is stored. A ``BaseException``, so that ``except Exception`` does not hide it; let it pass.
    """

    def __init__(self, job_id: int) -> None:
        super().__init__(f"This attempt has lost its lease on job {job_id}: its writes change nothing. Stop the work.")
        self.job_id = job_id


class StepsChanged(DataQueueError):
    """A handler does not do what its job's records say that it did: its code has changed, or it is not deterministic."""


class Suspend(BaseException):
    """A handler waits: its attempt ends here, and goes on from the records when the wait is over.

    A ``BaseException``, so that ``except Exception`` does not hide it; let it pass. ``finally`` blocks run.
    """

    def __init__(self, wait: StepRecord, delay_ms: int | None) -> None:
        super().__init__(f"The handler waits ({wait.name}). Let this pass: it ends the attempt until the wait is over.")
        self.wait = wait
        self.delay_ms = delay_ms
