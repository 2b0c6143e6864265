"""What a handler is given beside its payload."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dataqueue.errors import ConfigError

if TYPE_CHECKING:
    from dataqueue.backends.base import Claimed
    from dataqueue.worker.attempt import OnTimeout, StopReason

T = TypeVar("T")


class Running(Protocol):
    """An attempt as its handler reaches it: directly in the worker, over a wire in a child process."""

    job: Claimed
    noticed: bool
    stop_reason: StopReason | None

    @property
    def on_timeout(self) -> OnTimeout | None: ...
    @on_timeout.setter
    def on_timeout(self, callback: OnTimeout | None, /) -> None: ...
    @property
    def stopped_event(self) -> threading.Event: ...

    async def prolong(self, by: object) -> None: ...
    async def set_progress(self, percent: object) -> None: ...
    async def set_output(self, output: object) -> None: ...


class _Context:
    """What both kinds of handlers can read. All of it is this attempt's, and does not change."""

    def __init__(self, attempt: Running) -> None:
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
    def group(self) -> str | None:
        """The group whose places the job shares, if it has one."""
        return self._attempt.job.group

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

    def on_timeout(self, callback: OnTimeout) -> None:
        """Ask ``callback`` when the time of this attempt is over, instead of ending it at once.

        It returns a timedelta to run on for so long (and is asked again then), or None to time out; one that
        raises is logged, and the attempt times out. It may be ``async def``. It runs on the event loop, also for a
        ``def`` handler, so it must not block. A second call replaces the first one's callback.
        """
        if not callable(callback):
            raise ConfigError(f"on_timeout takes a function, not {callback!r:.80}.")
        self._attempt.on_timeout = callback


class JobContext(_Context):
    """The context of an ``async def`` handler. When the attempt shall stop, the handler is cancelled."""

    async def prolong(self, by: timedelta | None = None) -> None:
        """Let this attempt run until ``by`` from now; without it, for its whole timeout anew.

        Without ``by`` nothing happens if the job has no timeout; with it, it gets one. Too late once the attempt
        has been told to stop. The job's event log says ``prolonged``.

        Raises:
            InvalidJob: not a timedelta from 1 ms to 24.8 days.
            LeaseLost: this attempt no longer owns the job.
        """
        await self._attempt.prolong(by)

    async def set_progress(self, percent: float) -> None:
        """Store how far the job is, 0 to 100: at once, then at most four times a second, and the last value in any case.

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

    def __init__(self, attempt: Running, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(attempt)
        self._loop = loop

    def wait_aborted(self, seconds: float) -> bool:
        """Sleep, but no longer than until the attempt shall stop; returns ``aborted``."""
        return self._attempt.stopped_event.wait(seconds) and self.aborted

    def prolong(self, by: timedelta | None = None) -> None:
        """See :meth:`JobContext.prolong`."""
        self._call(self._attempt.prolong(by))

    def set_progress(self, percent: float) -> None:
        """See :meth:`JobContext.set_progress`."""
        self._call(self._attempt.set_progress(percent))

    def set_output(self, output: object) -> None:
        """See :meth:`JobContext.set_output`."""
        self._call(self._attempt.set_output(output))

    def _call(self, operation: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(operation, self._loop).result()
