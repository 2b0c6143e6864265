"""What a handler is given beside its payload."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dataqueue.worker.attempt import Attempt

T = TypeVar("T")


class _Context:
    """What both kinds of handlers can read. All of it is this attempt's, and does not change."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    @property
    def job_id(self) -> int:
        return self._attempt.job.id

    @property
    def job_type(self) -> str:
        return self._attempt.job.job_type

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self._attempt.job.attempts

    @property
    def max_attempts(self) -> int:
        return self._attempt.job.max_attempts

    @property
    def priority(self) -> int:
        return self._attempt.job.priority

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(self._attempt.job.tags or ())

    @property
    def created_at(self) -> datetime:
        return self._attempt.job.created_at

    @property
    def run_at(self) -> datetime:
        return self._attempt.job.run_at

    @property
    def aborted(self) -> bool:
        """Whether the attempt shall stop: timed out, cancelled, its lease lost, or the worker shutting down."""
        if self._attempt.stop_reason is None:
            return False
        self._attempt.noticed = True
        return True


class JobContext(_Context):
    """The context of an ``async def`` handler. When the attempt shall stop, the handler is cancelled."""

    async def set_progress(self, percent: float) -> None:
        """Store how far the job is, 0 to 100.

        Raises:
            InvalidJob: out of range.
            LeaseLost: this attempt no longer owns the job; nothing was stored.
        """
        await self._attempt.set_progress(percent)

    async def set_output(self, output: object) -> None:
        """Store the job's output now. It then stands, and the handler's return value is ignored.

        Raises:
            InvalidPayload: not a JSON value (or not of the result type).
            LeaseLost: this attempt no longer owns the job; nothing was stored.
        """
        await self._attempt.set_output(output)


class SyncJobContext(_Context):
    """The context of a ``def`` handler, which runs in a thread and cannot be interrupted: look at
    ``aborted`` now and then, or wait on it with ``wait_aborted``."""

    def __init__(self, attempt: Attempt, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(attempt)
        self._loop = loop

    def wait_aborted(self, seconds: float) -> bool:
        """Sleep, but no longer than until the attempt shall stop; returns ``aborted``."""
        return self._attempt.stopped_event.wait(seconds) and self.aborted

    def set_progress(self, percent: float) -> None:
        """See :meth:`JobContext.set_progress`."""
        self._call(self._attempt.set_progress(percent))

    def set_output(self, output: object) -> None:
        """See :meth:`JobContext.set_output`."""
        self._call(self._attempt.set_output(output))

    def _call(self, operation: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(operation, self._loop).result()
