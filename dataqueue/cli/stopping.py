"""How ``dataqueue worker`` is told to stop, and ends even when its event loop does not listen any more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from dataqueue.cli.common import PROBLEM, run_async
from dataqueue.errors import DataQueueError

if TYPE_CHECKING:
    from dataqueue.worker.processor import Processor

logger = logging.getLogger("dataqueue.cli")

SAME_SIGNAL_SECONDS = 0.3
"""A wrapper (``timeout``, ``uv run``, a terminal) may send one signal twice: that is no second wish."""
HURRIED_GRACE = 1.0
"""Seconds that a handler has to stop after a second signal."""

_ANSWER_SECONDS = 2.0
_HAND_BACK_SECONDS = 5.0


class Stopping:
    """Signals, told to the event loop and to a thread.

    The thread does nothing as long as the loop answers. Once the time for stopping is over and it does not (a
    handler blocks it), the thread hands back what runs and ends the process.
    """

    def __init__(self, processor: Processor, drain_timeout: float) -> None:
        self.signals: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        """Names of signals, and when they came: a busy machine may let the loop hear of them late, and together."""
        self._processor = processor
        self._patience = drain_timeout + processor.grace
        self._loop = asyncio.get_running_loop()
        self._heard: queue.SimpleQueue[str] = queue.SimpleQueue()  # may be filled from a signal handler

    def watch(self) -> None:
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number is not None:
                self._catch(number, name)
        threading.Thread(target=self._guard, name="dataqueue-stopping", daemon=True).start()

    def _catch(self, number: signal.Signals, name: str) -> None:
        with contextlib.suppress(NotImplementedError):  # Windows
            self._loop.add_signal_handler(number, lambda: None)

        def hear(_number: int, _frame: Any) -> None:
            self._heard.put(name)
            with contextlib.suppress(RuntimeError):  # the loop is closed: all is over
                self._loop.call_soon_threadsafe(self.signals.put_nowait, (name, time.monotonic()))

        # In place of the loop's own handler, which does nothing: what wakes the loop is the wake-up descriptor. This
        # one also runs inside a handler that blocks the loop.
        signal.signal(number, hear)

    async def again(self, first: float) -> str:
        """Wait for a second signal after the one that came at ``first``."""
        while True:
            name, at = await self.signals.get()
            if at - first > SAME_SIGNAL_SECONDS:
                return name

    # -- the thread -----------------------------------------------------------------------------------

    def _guard(self) -> None:
        self._heard.get()
        first = time.monotonic()
        try:
            while True:
                self._heard.get(timeout=max(0.0, first + self._patience - time.monotonic()))
                if time.monotonic() - first > SAME_SIGNAL_SECONDS:
                    time.sleep(HURRIED_GRACE)
                    break
        except queue.Empty:
            pass
        while self._loop_answers():
            time.sleep(_ANSWER_SECONDS)
        self._end()

    def _loop_answers(self) -> bool:
        answered = threading.Event()
        try:
            self._loop.call_soon_threadsafe(answered.set)
        except RuntimeError:  # closed: all is over
            return True
        return answered.wait(_ANSWER_SECONDS)

    def _end(self) -> None:
        frame = sys._current_frames().get(threading.main_thread().ident or 0)  # pyright: ignore[reportPrivateUsage]
        where = "".join(traceback.format_stack(frame)[-5:]) if frame is not None else ""
        logger.error("A handler blocks the event loop, so it cannot be told to stop. It is at:\n%s", where.rstrip())
        told = self._processor.last_words()
        try:
            ids = run_async(lambda: _tell(self._processor))
        except (DataQueueError, TimeoutError) as error:
            logger.error(
                "%d jobs could not be handed back and run again when their lease is over: %s", len(told), error
            )
        else:
            logger.warning("Handed back %d: %s. The process ends.", len(ids), ", ".join(map(str, ids)) or "none")
        logging.shutdown()
        os._exit(PROBLEM)


async def _tell(processor: Processor) -> list[int]:
    """Over a connection of its own, since the loop of the others is blocked. Returns what was handed back."""
    from dataqueue.backends.base import Released

    backend = processor.queue.connect_anew()
    if backend is None:
        raise DataQueueError("the connections belong to the program's own pool")
    async with asyncio.timeout(_HAND_BACK_SECONDS):
        await backend.open()
        outcomes = processor.last_words()
        cycle = await backend.cycle(processor.worker_id, outcomes, [], 0, False)
        await backend.unregister_worker(processor.worker_id)
    return [
        outcome.id
        for outcome in outcomes
        if isinstance(outcome, Released) and (outcome.id, outcome.lease_id) not in cycle.lost
    ]
