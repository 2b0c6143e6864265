"""Progress, written no more often than somebody can watch it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from dataqueue.errors import DataQueueError, LeaseLost

logger = logging.getLogger("dataqueue.worker")

INTERVAL = 0.25
"""Seconds between two writes: a handler may report each of a million rows."""


class Progress:
    """The first value is stored at once. Later ones, within the interval, wait for its end, and the last of them is
    stored; a value that is stored already is not stored again."""

    def __init__(self, store: Callable[[int], Awaitable[None]], on_lost: Callable[[], None]) -> None:
        self._store = store
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._stored: int | None = None
        self._waiting: int | None = None
        self._next = 0.0
        self._later: asyncio.Task[None] | None = None

    async def set(self, percent: int) -> None:
        if percent == self._stored and self._waiting is None:
            return
        self._waiting = percent
        if self._later is not None:
            return
        wait = self._next - self._loop.time()
        if wait <= 0:
            await self._write()
        else:
            self._later = self._loop.create_task(self._write_later(wait))

    async def flush(self) -> None:
        """Store what waits: the attempt is over."""
        later, self._later = self._later, None
        if later is not None:
            later.cancel()
        if self._waiting is not None:
            await self._try_to_write()

    async def _write_later(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._later = None
        await self._try_to_write()

    async def _try_to_write(self) -> None:
        try:
            await self._write()
        except LeaseLost:
            self._on_lost()
        except DataQueueError as error:
            logger.warning("A progress could not be stored; the next one is tried again: %s", error)

    async def _write(self) -> None:
        percent, self._waiting = self._waiting, None
        if percent is None:
            return
        self._next = self._loop.time() + INTERVAL
        await self._store(percent)
        self._stored = percent
