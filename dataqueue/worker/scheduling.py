"""Schedules: every worker looks for those that are due, and adds their jobs."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from dataqueue.backends.base import Signal
from dataqueue.errors import StoreUnavailable
from dataqueue.events import Hook

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue

POLL = 5.0
"""Seconds between looks where nobody says that a schedule has changed."""
_BROKEN_FOR = 60.0
"""Seconds after which to look again at a schedule that could not fire here."""
_PAUSE = 0.05


async def schedule_for_ever(queue: JobQueue) -> None:
    """Store what is declared, then add jobs whenever a schedule is due."""
    wake = asyncio.Event()

    def on_schedule(signal: Signal) -> None:
        wake.set()

    queue.signals.subscribe("schedule", on_schedule)
    broken: dict[int, str] = {}
    loop = asyncio.get_running_loop()
    forget_at, declared = loop.time() + _BROKEN_FOR, False
    try:
        while True:
            wake.clear()
            wait = POLL
            try:
                if not declared:
                    await queue.sync_declarations()
                    declared = True
                if loop.time() > forget_at:
                    broken.clear()
                    forget_at = loop.time() + _BROKEN_FOR
                now, fire = await queue.backend.next_fire(sorted(broken))
                if fire is not None and fire <= now:
                    await queue.fire_due(broken)
                    wait = _PAUSE
                elif fire is not None:
                    wait = min(POLL, (fire - now).total_seconds() + random.uniform(0, _PAUSE))
            except StoreUnavailable:
                pass  # the worker's loop says so
            except Exception as error:
                queue.hooks.emit(Hook("error", error=error))
            try:
                async with asyncio.timeout(wait):
                    await wake.wait()
            except TimeoutError:
                pass
    finally:
        queue.signals.unsubscribe("schedule", on_schedule)
