"""Letting time pass: everything that is stored is moved back."""

from __future__ import annotations

import importlib
from collections.abc import Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, overload

from dataqueue.errors import ConfigError
from dataqueue.testing.calls import run_on
from dataqueue.testing.strangers import refuse_strangers

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue
    from dataqueue.sync import SyncJobQueue
    from dataqueue.testing.calls import AnyQueue

MOST = timedelta(days=3650)
"""Of one call; far from what a store's times can hold."""


@overload
def advance_clock(
    queue: JobQueue, by: timedelta = ..., *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
) -> Coroutine[Any, Any, None]: ...
@overload
def advance_clock(
    queue: SyncJobQueue,
    by: timedelta = ...,
    *,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
) -> None: ...
def advance_clock(
    queue: AnyQueue,
    by: timedelta = timedelta(0),
    *,
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
        by: how much, from above 0 to ten years; ``days``, ``hours``, ``minutes`` and ``seconds`` are added to it.

    Raises:
        ConfigError: time cannot stand still or go back; or a worker of another process is at this queue, so it is none
            of a test's own. Nothing was changed.
    """
    whole = by + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not timedelta(milliseconds=1) <= whole <= MOST:
        raise ConfigError(
            f"advance_clock needs a time from 1 ms to {MOST.days} days, not {whole}. Nothing was changed."
        )
    return run_on(queue, lambda inner: _advance_clock(inner, whole))


async def _advance_clock(queue: JobQueue, by: timedelta) -> None:
    backend = await queue.open()
    await refuse_strangers(queue, "advance_clock")
    # Not of the port: no program but a test may do this. Each store has a module for it.
    module = importlib.import_module(f"dataqueue.backends.{backend.name}.time_travel")
    await module.move_back(backend, round(by / timedelta(milliseconds=1)))
