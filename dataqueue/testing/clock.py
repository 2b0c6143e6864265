"""Letting time pass: everything that is stored is moved back."""

from __future__ import annotations

import importlib
from collections.abc import Coroutine
from datetime import datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING, Any, overload

from dataqueue.errors import ConfigError
from dataqueue.testing.calls import run_on
from dataqueue.testing.strangers import refuse_strangers

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue
    from dataqueue.sync import SyncJobQueue
    from dataqueue.testing.calls import AnyQueue

_MILLISECOND = timedelta(milliseconds=1)
MOST = timedelta(days=3650)
"""Of one call; far from what a store's times can hold."""


@overload
def advance_clock(
    queue: JobQueue,
    by: timedelta = ...,
    *,
    until: datetime | None = None,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
) -> Coroutine[Any, Any, None]: ...
@overload
def advance_clock(
    queue: SyncJobQueue,
    by: timedelta = ...,
    *,
    until: datetime | None = None,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
) -> None: ...
def advance_clock(
    queue: AnyQueue,
    by: timedelta = timedelta(0),
    *,
    until: datetime | None = None,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
) -> Any:
    """Let so much time pass for the queue: what is due within it is due now, and :func:`drain` runs it.

    Neither the store's clock nor Python's is touched. Instead every time that is stored is moved back: of jobs, events,
    errors and limits. So a job's ``run_at`` still stands in the right relation to ``datetime.now(UTC)``, and to the
    other times of the queue; a time that the test has noted before does not. Leases of workers stay as they are: a
    worker of this process goes on working, and looks at once for what has fallen due.

    Args:
        by: how much, from 1 ms to ten years; ``days``, ``hours``, ``minutes`` and ``seconds`` are added to it.
        until: a moment that the queue tells of, such as a job's ``next_attempt_at``; it will just have passed. With it
            nothing else is given.

    Raises:
        ConfigError: time cannot stand still or go back, ``until`` is naive or stands beside others; or a worker of another process is at this queue, so it is none
            of a test's own. Nothing was changed.
    """
    whole = by + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if until is None:
        return run_on(queue, lambda inner: _advance_clock(inner, whole))
    if whole or until.tzinfo is None:
        raise ConfigError("advance_clock takes until=, an aware datetime, or a length of time. Nothing was changed.")
    return run_on(queue, lambda inner: _advance_until(inner, until))


async def _advance_clock(queue: JobQueue, by: timedelta) -> None:
    if not _MILLISECOND <= by <= MOST:
        raise ConfigError(f"advance_clock needs a time from 1 ms to {MOST.days} days, not {by}. Nothing was changed.")
    backend = await queue.open()
    await refuse_strangers(queue, "advance_clock")
    # Not of the port: no program but a test may do this. Each store has a module for it.
    module = importlib.import_module(f"dataqueue.backends.{backend.name}.time_travel")
    await module.move_back(backend, ceil(by / _MILLISECOND))


async def _advance_until(queue: JobQueue, until: datetime) -> None:
    backend = await queue.open()
    await _advance_clock(queue, until - await backend.now() + _MILLISECOND)
