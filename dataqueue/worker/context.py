"""What a handler is given beside its payload."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from dataqueue.errors import ConfigError, InvalidJob
from dataqueue.worker.stepping import ONCE, Tries, do_step, do_step_in_thread
from dataqueue.worker.steps import check_until, check_wait_time, place_of_caller

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from dataqueue.backends.base import Claimed
    from dataqueue.jobs import JobHandle
    from dataqueue.tokens import Token, TokenResult
    from dataqueue.worker.attempt import OnTimeout, StopReason
    from dataqueue.worker.steps import Steps

P = ParamSpec("P")
R = TypeVar("R")
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
    @property
    def steps(self) -> Steps: ...

    async def prolong(self, by: object) -> None: ...
    async def set_progress(self, percent: object) -> None: ...
    async def set_output(self, output: object) -> None: ...
    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection[Any]]: ...
    async def complete(self, output: object) -> None: ...


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

    def __init__(self, attempt: Running) -> None:
        super().__init__(attempt)
        self._task = asyncio.current_task()

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

    # -- steps ----------------------------------------------------------------------------------------

    @overload
    def run(
        self, name: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def run(
        self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...
    def run(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Do a step once: ``await ctx.run("charge", charge, card)``.

        The result is recorded, and when the handler runs again (after a failure, a crash or a wait) it is given from
        the record. An ordinary function runs in a thread. The result comes back as the function's return annotation
        says, else as JSON; the first time, too.

        Args:
            name: of its own within the handler, 1 to 255 characters; with a number in a loop.
            function: it may be done twice if the worker dies between its end and its record.

        Raises:
            InvalidJob (InvalidPayload): the name is used twice, or the result is not a JSON value; nothing was recorded.
            StepsChanged: the records are of another handler.
            LeaseLost: this attempt no longer owns the job; nothing was recorded.
        """
        return do_step(self._attempt.steps, name, function, args, kwargs, ONCE, place_of_caller())

    def step(
        self,
        name: str,
        *,
        retries: int = 0,
        retry_delay: timedelta = timedelta(seconds=1),
        timeout: timedelta | None = None,
    ) -> Step:
        """A step with options, as a decorator or a call::

            @ctx.step("charge", retries=3)
            async def charge() -> Receipt: ...

            receipt = await charge()
            receipt = await ctx.step("charge", retries=3).run(charge_card, card)

        Args:
            retries: how often it is tried again within this attempt if it raises.
            retry_delay: before the first of them; twice as long before each later one.
            timeout: of each try; ``TimeoutError`` then. A function in a thread is left to itself.
        """
        return Step(self._attempt, name, Tries(retries, retry_delay, timeout))

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection[Any]]:
        """A transaction on the queue's own Postgres database: ``async with ctx.transaction() as conn:``.

        What is written on ``conn`` (a psycopg connection), the steps that are done in the block, and the job's
        completion by :meth:`complete` are stored together or not at all. The job's row is locked from its first step to
        the end of the block: keep it short.

        Raises:
            ConfigError: the queue is in Redis, or the handler runs in a process of its own.
            LeaseLost: this attempt no longer owns the job; the transaction was rolled back.
        """
        return self._attempt.transaction()

    async def complete(self, output: object = None) -> None:
        """Complete the job with the transaction that is open here. Nothing that the handler does after it counts.

        Raises:
            InvalidJob: no transaction is open.
            LeaseLost: this attempt no longer owns the job; the transaction is rolled back.
        """
        await self._attempt.complete(output)

    # -- waits ----------------------------------------------------------------------------------------

    async def wait_for(
        self,
        by: timedelta | None = None,
        /,
        *,
        name: str | None = None,
        years: int = 0,
        months: int = 0,
        weeks: float = 0,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """Wait without a worker: the attempt ends here and the handler runs again from its top when the time is over.

        No attempt is spent. Months and years are those of the calendar (from January 31 to the last of February), from
        the store's clock in UTC.

        Args:
            name: of the wait; by default its number among the waits of the handler.

        Raises:
            InvalidJob: no time that lies ahead; inside a step or a transaction; in a task of its own.
            StepsChanged: the records are of another handler.
        """
        self._check_task()
        rest = check_wait_time(by, years, months, weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
        await self._attempt.steps.sleep(name, place_of_caller(), rest, None, (years, months))

    async def wait_until(self, until: datetime, /, *, name: str | None = None) -> None:
        """Wait without a worker until this moment (aware). One that is past is no wait. See :meth:`wait_for`."""
        self._check_task()
        await self._attempt.steps.sleep(name, place_of_caller(), None, check_until(until), (0, 0))

    async def create_token(
        self, name: str, *, timeout: timedelta | str | None = None, tags: Iterable[str] | None = None
    ) -> Token:
        """Make a token that somebody outside answers: ``queue.complete_token(token.id, …)``. A step: made once.

        Args:
            name: of the step.
            timeout: after which nobody can answer any more: a timedelta, or ``10m``, ``7d``; None for none.

        Raises:
            InvalidJob: a wrong argument; nothing was made.
            LeaseLost: this attempt no longer owns the job; nothing was made.
        """
        return await self._attempt.steps.create_token(name, timeout, tags, place_of_caller())

    async def wait_for_token(self, token: Token | str, /, *, name: str | None = None) -> TokenResult:
        """Wait without a worker until the token is answered or its time is over.

        Returns:
            ``ok`` and ``output``, or the ``error``. ``unwrap()`` gives the output or raises ``TokenFailed``.

        Raises:
            TokenNotFound: no such token. InvalidJob, StepsChanged: see :meth:`wait_for`.
        """
        self._check_task()
        return await self._attempt.steps.wait_for_token(token, name, place_of_caller())

    async def wait_for_jobs(
        self, jobs: Sequence[JobHandle[R] | int], /, *, name: str | None = None, return_exceptions: bool = False
    ) -> list[R]:
        """Wait without a worker until all of these jobs have ended, and give their results in order.

        Add them in a step, so that they are added once: ``ids = await ctx.run("fan out", add_all, …)``.

        Args:
            return_exceptions: put a ``JobFailed`` or ``JobCancelled`` into the list in place of raising it.

        Raises:
            JobFailed, JobCancelled: the first of them in order, once all have ended.
            JobNotFound: one has been deleted. InvalidJob, StepsChanged: see :meth:`wait_for`.
        """
        self._check_task()
        return await self._attempt.steps.wait_for_jobs(jobs, return_exceptions, name, place_of_caller())

    def _check_task(self) -> None:
        if asyncio.current_task() is not self._task:
            raise InvalidJob(
                "A wait belongs into the handler itself, not into a task that it has started "
                "(TaskGroup, gather, create_task): the whole attempt ends while a job waits. Let the tasks end, then wait."
            )


class Step:
    """A step with options, of :meth:`JobContext.step`."""

    def __init__(self, attempt: Running, name: str, tries: Tries) -> None:
        self._attempt, self._name, self._tries = attempt, name, tries

    @overload
    def run(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Do it."""
        return do_step(self._attempt.steps, self._name, function, args, kwargs, self._tries, place_of_caller())

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Awaitable[R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, Awaitable[R]]: ...
    def __call__(self, function: Callable[..., Any], /) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(function)
        def step(*args: Any, **kwargs: Any) -> Awaitable[Any]:
            return self.run(function, *args, **kwargs)

        return step


class SyncJobContext(_Context):
    """The context of a ``def`` handler, which runs in a thread and cannot be interrupted: look at
    ``aborted`` now and then, or wait on it with ``wait_aborted``."""

    def __init__(self, attempt: Running, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(attempt)
        self._loop = loop
        self._thread = 0

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

    # -- steps and waits: see JobContext ----------------------------------------------------------------

    def run(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """See :meth:`JobContext.run`. The function runs in this thread."""
        return self._do(name, function, args, kwargs, ONCE, place_of_caller())

    def step(
        self,
        name: str,
        *,
        retries: int = 0,
        retry_delay: timedelta = timedelta(seconds=1),
        timeout: timedelta | None = None,
    ) -> SyncStep:
        """See :meth:`JobContext.step`. A try that took longer than ``timeout`` counts as failed when it has ended."""
        return SyncStep(self, name, Tries(retries, retry_delay, timeout))

    def do(self, name: str, function: Callable[..., Any], args: Any, kwargs: Any, tries: Tries, place: str) -> Any:
        """A step, for :class:`SyncStep`."""
        return self._do(name, function, args, kwargs, tries, place)

    def wait_for(
        self,
        by: timedelta | None = None,
        /,
        *,
        name: str | None = None,
        years: int = 0,
        months: int = 0,
        weeks: float = 0,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """See :meth:`JobContext.wait_for`."""
        place = self._check_thread()
        rest = check_wait_time(by, years, months, weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
        self._call(self._attempt.steps.sleep(name, place, rest, None, (years, months)))

    def wait_until(self, until: datetime, /, *, name: str | None = None) -> None:
        """See :meth:`JobContext.wait_until`."""
        place = self._check_thread()
        self._call(self._attempt.steps.sleep(name, place, None, check_until(until), (0, 0)))

    def create_token(
        self, name: str, *, timeout: timedelta | str | None = None, tags: Iterable[str] | None = None
    ) -> Token:
        """See :meth:`JobContext.create_token`."""
        return self._call(self._attempt.steps.create_token(name, timeout, tags, place_of_caller()))

    def wait_for_token(self, token: Token | str, /, *, name: str | None = None) -> TokenResult:
        """See :meth:`JobContext.wait_for_token`."""
        place = self._check_thread()
        return self._call(self._attempt.steps.wait_for_token(token, name, place))

    def wait_for_jobs(
        self, jobs: Sequence[JobHandle[R] | int], /, *, name: str | None = None, return_exceptions: bool = False
    ) -> list[R]:
        """See :meth:`JobContext.wait_for_jobs`."""
        place = self._check_thread()
        return self._call(self._attempt.steps.wait_for_jobs(jobs, return_exceptions, name, place))

    def begins(self) -> None:
        """The handler's own thread has the context now."""
        self._thread = threading.get_ident()

    def _check_thread(self) -> str:
        place = place_of_caller()
        if threading.get_ident() != self._thread:
            raise InvalidJob(
                f"{place}: a wait belongs into the handler's own thread, not into one that it has started: the whole attempt "
                "ends while a job waits. Let the threads end, then wait."
            )
        return place

    def _do(self, name: str, function: Callable[..., Any], args: Any, kwargs: Any, tries: Tries, place: str) -> Any:
        steps = self._attempt.steps
        return do_step_in_thread(steps, self._call, self.wait_aborted, name, function, args, kwargs, tries, place)

    def _call(self, operation: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(operation, self._loop).result()


class SyncStep:
    """A step with options, of :meth:`SyncJobContext.step`."""

    def __init__(self, context: SyncJobContext, name: str, tries: Tries) -> None:
        self._context, self._name, self._tries = context, name, tries

    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do it."""
        return self._context.do(self._name, function, args, kwargs, self._tries, place_of_caller())

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]:
        @functools.wraps(function)
        def step(*args: P.args, **kwargs: P.kwargs) -> R:
            return self._context.do(self._name, function, args, kwargs, self._tries, place_of_caller())

        return step
