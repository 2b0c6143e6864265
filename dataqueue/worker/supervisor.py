"""The supervisor: takes lost jobs back and deletes what is over and old, on time and in one place."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypedDict, Unpack

from dataqueue.backends.base import EndStatus
from dataqueue.checks import check_age
from dataqueue.cleaning import MAX_BATCH
from dataqueue.errors import ConfigError, DataQueueError
from dataqueue.events import Hook
from dataqueue.options import check_integer
from dataqueue.tasks import end_tasks

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue

logger = logging.getLogger("dataqueue.supervisor")

ROLE = "supervisor"
_LEASES_AN_INTERVAL = 2
_ELECTIONS_A_LEASE = 3
_LAST_WORDS = 5.0
"""Seconds for the store to hear that the role is free."""

ErrorListener = Callable[[Exception], Awaitable[None] | None]


class SupervisorOptions(TypedDict, total=False):
    """Options of a supervisor."""

    interval: timedelta
    """How long it waits after each run in the background, 60 s by default."""
    reclaim: bool
    """Whether to take jobs back from lost workers (as workers do), True by default."""
    expire_tokens: bool
    """Whether to end tokens whose time is over (as workers do), True by default."""
    keep_completed: timedelta | None
    """Completed jobs are deleted so long after their end, 30 days by default; None keeps them for ever."""
    keep_failed: timedelta | None
    """Likewise for jobs that have failed for good, 90 days by default."""
    keep_cancelled: timedelta | None
    """Likewise for cancelled jobs, 90 days by default."""
    keep_events: timedelta | None
    """Events of jobs that stay are deleted after so long, 90 days by default; None keeps them with their jobs."""
    keep_tokens: timedelta | None
    """Tokens that no job made are deleted so long after they ended, 90 days by default; those of a job go with it."""
    idempotency_ttl: timedelta | None
    """Idempotency keys are free again so long after the end of their job; by default (None) when it is deleted."""
    batch_size: int
    """Jobs in one statement or script, 1,000 by default."""
    on_error: ErrorListener | None
    """Called with each error of a task, beside the ``error`` hook."""


@dataclass(frozen=True, slots=True)
class SupervisorResult:
    """What one run came to. ``errors`` holds, by its name, the error of each task that failed; the others ran."""

    reclaimed_jobs: int = 0
    cleaned_up_jobs: int = 0
    cleaned_up_events: int = 0
    cleaned_up_tokens: int = 0
    released_keys: int = 0
    expired_tokens: int = 0
    errors: Mapping[str, Exception] = field(default_factory=dict[str, Exception])


class Supervisor:
    """A supervisor in this process. Made by :meth:`dataqueue.JobQueue.create_supervisor`.

    :meth:`start` runs once, whoever else does: for cron and serverless functions. In the background
    (:meth:`start_in_background`, :meth:`run`) one of all supervisors of a queue works at a time, elected by a lease in
    the store; another takes over within one interval after it is gone.
    """

    def __init__(self, queue: JobQueue, **options: Unpack[SupervisorOptions]) -> None:
        _refuse_unknown(options)
        self.queue = queue
        self.holder = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        """Its name in the election."""
        self.interval = _interval(options.get("interval", timedelta(seconds=60)))
        self._batch_size = check_integer(options.get("batch_size", 1000), "batch_size", 1, MAX_BATCH)
        self._on_error = options.get("on_error")
        self._tasks = self._choose_tasks(options)
        self._stop = asyncio.Event()
        self._main: asyncio.Task[None] | None = None

    def _choose_tasks(self, options: SupervisorOptions) -> list[tuple[str, str, Callable[[], Awaitable[int]]]]:
        """Each task's name, what it counts, and how it is done."""
        queue, size = self.queue, self._batch_size
        tasks: list[tuple[str, str, Callable[[], Awaitable[int]]]] = []
        if options.get("reclaim", True):
            tasks.append(("reclaim", "reclaimed_jobs", queue.reclaim_stuck_jobs))
        if options.get("expire_tokens", True):
            tasks.append(("expire tokens", "expired_tokens", queue.expire_timed_out_tokens))

        def clean(status: EndStatus, age: timedelta) -> Callable[[], Awaitable[int]]:
            return lambda: queue.cleanup_old_jobs(age, status=status, batch_size=size)

        kept: tuple[tuple[EndStatus, timedelta | None], ...] = (
            ("completed", options.get("keep_completed", timedelta(days=30))),
            ("failed", options.get("keep_failed", timedelta(days=90))),
            ("cancelled", options.get("keep_cancelled", timedelta(days=90))),
        )
        for status, age in kept:
            if age is not None:
                tasks.append((f"delete {status}", "cleaned_up_jobs", clean(status, check_age(age, f"keep_{status}"))))
        age = options.get("keep_events", timedelta(days=90))
        if age is not None:
            old = check_age(age, "keep_events")
            tasks.append(
                ("delete events", "cleaned_up_events", lambda: queue.cleanup_old_job_events(old, batch_size=size))
            )
        age = options.get("keep_tokens", timedelta(days=90))
        if age is not None:
            over = check_age(age, "keep_tokens")
            tasks.append(
                ("delete tokens", "cleaned_up_tokens", lambda: queue.cleanup_old_tokens(over, batch_size=size))
            )
        age = options.get("idempotency_ttl")
        if age is not None:
            ttl = check_age(age, "idempotency_ttl")
            tasks.append(
                ("release keys", "released_keys", lambda: queue.release_idempotency_keys(ttl, batch_size=size))
            )
        return tasks

    # -- one run --------------------------------------------------------------------------------------

    async def start(self) -> SupervisorResult:
        """Do everything once, and return. A task that fails keeps no other from being done."""
        return await self._run_tasks(None)

    async def _run_tasks(self, stop: asyncio.Event | None) -> SupervisorResult:
        counts: dict[str, int] = {}
        errors: dict[str, Exception] = {}
        for name, counted, work in self._tasks:
            if stop is not None and stop.is_set():
                break
            try:
                counts[counted] = counts.get(counted, 0) + await work()
            except Exception as error:
                errors[name] = error
                await self._report(f"The supervisor could not {name}", error)
        result = SupervisorResult(**counts, errors=errors)
        if any(counts.values()):
            logger.info(
                "Took back %d jobs, ended %d tokens; deleted %d jobs, %d events and %d tokens; freed %d idempotency keys.",
                result.reclaimed_jobs, result.expired_tokens, result.cleaned_up_jobs, result.cleaned_up_events,
                result.cleaned_up_tokens, result.released_keys,
            )  # fmt: skip
        return result

    async def _report(self, what: str, error: Exception) -> None:
        heard = self.queue.hooks.wants("error")
        logger.error("%s: %s", what, error, exc_info=None if heard or isinstance(error, DataQueueError) else error)
        if heard:
            self.queue.hooks.emit(Hook("error", error=error))
        if self._on_error is not None:
            try:
                answer = self._on_error(error)
                if inspect.isawaitable(answer):
                    await answer
            except Exception:
                logger.exception("on_error of the supervisor failed; its tasks are not affected.")

    # -- in the background ----------------------------------------------------------------------------

    def start_in_background(self) -> None:
        """Work in a task of its own: at once (if elected), and then ``interval`` after each run. Calling it again while
        it runs does nothing."""
        if self.is_running() and not self._stop.is_set():
            return
        # One that was stopped and has not ended yet ends first.
        before = self._main if self.is_running() else None
        self._stop = asyncio.Event()
        self._main = asyncio.create_task(self._live(self._stop, before), name=f"dataqueue-supervisor {self.holder}")

    async def run(self) -> None:
        """Work until :meth:`stop` (or cancellation)."""
        self.start_in_background()
        assert self._main is not None
        try:
            await asyncio.wait({self._main})
        except asyncio.CancelledError:
            await self.stop_and_drain(0)
            raise

    def is_running(self) -> bool:
        return self._main is not None and not self._main.done()

    def stop(self) -> None:
        """Begin nothing more; what is under way comes to its end. Does not wait."""
        self._stop.set()

    async def stop_and_drain(self, timeout: timedelta | float | None = 30.0) -> bool:
        """Begin nothing more, and wait for what is under way.

        Args:
            timeout: seconds or a timedelta, after which it is broken off (each step is a change of its own, so that
                nothing is left half-done); None waits for ever.

        Returns:
            Whether it came to its end by itself.
        """
        self.stop()
        if self._main is None:
            return True
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        done, _ = await asyncio.wait({self._main}, timeout=seconds)
        if not done:
            await end_tasks(self._main)
        return bool(done)

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_and_drain()

    async def _live(self, stop: asyncio.Event, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            try:
                await asyncio.wait({before})
            except asyncio.CancelledError:
                await end_tasks(before)
                raise
        elected = asyncio.Event()
        standing = asyncio.create_task(self._stand(elected), name="dataqueue-election")
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                waiting = asyncio.create_task(elected.wait())
                try:
                    await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    await end_tasks(waiting)
                if not stop.is_set():
                    await self._run_tasks(stop)
                    await asyncio.wait({stopping}, timeout=self.interval)
        finally:
            await end_tasks(standing, stopping)
            await self._resign()

    async def _stand(self, elected: asyncio.Event) -> None:
        """Stand for the role, and keep it, for ever."""
        lease = self.interval / _LEASES_AN_INTERVAL
        failing = False
        while True:
            try:
                backend = await self.queue.open()
                has_it = await backend.elect(ROLE, self.holder, lease)
                failing = False
            except Exception as error:
                has_it = False
                if not failing:  # once, until it goes well again
                    failing = True
                    await self._report("The supervisor could not stand for election, and tries again", error)
            if has_it and not elected.is_set():
                logger.info("Supervisor %s works for this queue now.", self.holder)
                elected.set()
            elif not has_it:
                elected.clear()
            await asyncio.sleep(lease / _ELECTIONS_A_LEASE)

    async def _resign(self) -> None:
        try:
            await asyncio.wait_for(self.queue.backend.resign(ROLE, self.holder), _LAST_WORDS)
        except Exception as error:
            logger.warning("The supervisor could not give up its role (which ends by itself): %s", error)


def _interval(value: object) -> float:
    if not isinstance(value, timedelta):
        raise ConfigError(f"interval must be a timedelta, not {value!r:.80}. Write timedelta(seconds=…).")
    if not 1 <= value.total_seconds() <= 86_400:
        raise ConfigError(f"interval is {value.total_seconds():g} s; it must be from 1 to 86,400 s.")
    return value.total_seconds()


def _refuse_unknown(options: Mapping[str, object]) -> None:
    unknown = sorted(set(options) - set(SupervisorOptions.__annotations__))
    if unknown:
        raise ConfigError(
            f"Unknown option {', '.join(unknown)}. Known options: {', '.join(sorted(SupervisorOptions.__annotations__))}."
        )
