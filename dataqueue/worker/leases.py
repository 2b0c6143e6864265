"""The heartbeat: a thread with a connection of its own, so that a busy loop does not lose its jobs."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable

from dataqueue.backends.base import Heart, Held, Pulse, WorkerInfo
from dataqueue.errors import DataQueueError

logger = logging.getLogger("dataqueue.worker")

EXPIRY_SHARE = 0.8
"""Of the lease: how long a silent worker keeps its jobs. The rest is for noticing and starting them
elsewhere, so that all is done within one lease."""
BEATS_A_LEASE = 5
RECLAIMS_A_LEASE = 10
BLOCKED_EXIT_CODE = 70

_RETRY_SECONDS = 1.0


def now() -> float:
    """Seconds on a clock that goes on while the machine sleeps, where there is one."""
    boot_time: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)


class Heartbeat:
    """Beats until stopped. ``held`` is read from the thread; ``on_pulse`` is called on the loop.

    ``registered_at`` is when the worker was last known to have no more than its full lease before it, by :func:`now`.
    """

    def __init__(
        self,
        heart: Heart,
        worker: WorkerInfo,
        interval: float,
        held: Callable[[], list[Held]],
        on_pulse: Callable[[Pulse], None],
        loop: asyncio.AbstractEventLoop,
        max_loop_block: float,
        registered_at: float,
    ) -> None:
        self._heart = heart
        self._worker = worker
        self._interval = interval
        self._held = held
        self._on_pulse = on_pulse
        self._loop = loop
        self._max_loop_block = max_loop_block
        self._renewed_at = registered_at
        self.lapses = 0
        """How often the lease may have been over before it was renewed: what was claimed before that may be others' now."""
        self._stop = threading.Event()
        self._loop_seen = time.monotonic()
        self._asked_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="dataqueue-heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def holds(self) -> bool:
        """Whether the lease is known to hold. A worker that was frozen or cut off for longer must renew it before it
        claims: what it took would be taken from it at once, and an attempt be lost."""
        return now() - self._renewed_at < self._worker.lease_seconds

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join, 15)

    def _run(self) -> None:
        failures = 0
        while True:
            # A shorter wait after a failure: the lease is running out meanwhile.
            if self._stop.wait(self._interval if not failures else min(_RETRY_SECONDS, self._interval)):
                break
            self._watch_loop()
            asked_at = now()
            try:
                pulse = self._heart.beat(self._worker, self._held())
            except DataQueueError as error:
                failures += 1
                if failures == 1:
                    logger.warning("The heartbeat of worker %s failed and is tried again: %s", self._worker.id, error)
            except Exception:
                failures += 1
                logger.exception("The heartbeat of worker %s failed and is tried again.", self._worker.id)
            else:
                if failures:
                    logger.info("The heartbeat of worker %s is back after %d failures.", self._worker.id, failures)
                failures = 0
                has_lapsed = not self.holds()
                self.lapses += has_lapsed  # first: whoever sees that the lease holds also sees this
                self._renewed_at = asked_at
                if pulse.lost or pulse.cancelled or has_lapsed:
                    self._on_loop(self._on_pulse, pulse)
        self._heart.close()

    def _watch_loop(self) -> None:
        """A loop that is blocked for long runs nothing and answers nobody: give its jobs to others."""
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            self._on_loop(self._answer)
        elif now - self._asked_at > self._max_loop_block:
            logger.critical(
                "The event loop of worker %s has been blocked for %.0f s. Its stack follows; the worker exits so "
                "that its jobs are run elsewhere. Do blocking work in a `def` handler.",
                self._worker.id, now - self._asked_at,
            )  # fmt: skip
            faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
            os._exit(BLOCKED_EXIT_CODE)

    def _answer(self) -> None:
        self._asked_at = None

    def _on_loop(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            self._stop.set()
