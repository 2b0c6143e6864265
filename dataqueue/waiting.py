"""Waiting for jobs to finish: woken by the store, with polling underneath."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid

from dataqueue.backends.base import Backend, Signal
from dataqueue.errors import JobNotFound, ResultTimeout, StoreUnavailable
from dataqueue.signals import SignalHub
from dataqueue.tasks import end_tasks

logger = logging.getLogger("dataqueue")

_POLLS = (0.05, 0.25, 1.0)
_POLL_INTERVAL = 2.0
_LISTEN_SECONDS = 60.0
_RENEW_AFTER = 20.0
_IDS_A_POLL = 1000


class FinishWatch:
    """All waits of one queue: one task that polls for them together, and wakes each when its job is done."""

    def __init__(self, backend: Backend, hub: SignalHub) -> None:
        self._backend = backend
        self._hub = hub
        self._id = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._waits: dict[int, list[asyncio.Future[None]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._listening_since = float("-inf")

    async def wait(self, job_id: int, timeout: float | None) -> None:
        """Return when the job has finished.

        Raises:
            ResultTimeout, JobNotFound
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waits.setdefault(job_id, []).append(future)
        if self._task is None or self._task.done():
            self._hub.subscribe("finished", self._on_signal)
            self._task = asyncio.create_task(self._run(), name="dataqueue-results")
        self._wake.set()
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise ResultTimeout(
                f"Job {job_id} has not finished within {timeout:g} s. It goes on; wait again, or look at it "
                f"with get_job({job_id})."
            ) from None
        finally:
            futures = self._waits.get(job_id, [])
            if future in futures:
                futures.remove(future)
            if not futures:
                self._waits.pop(job_id, None)

    async def close(self) -> None:
        await end_tasks(self._task)

    def _on_signal(self, signal: Signal) -> None:
        if not signal.ids:
            self._wake.set()
        for job_id in signal.ids:
            self._resolve(job_id)

    def _resolve(self, job_id: int, error: Exception | None = None) -> None:
        for future in self._waits.pop(job_id, ()):
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    async def _run(self) -> None:
        failures = 0
        polls = 0
        try:
            while self._waits:
                try:
                    due = time.monotonic() - self._listening_since > _RENEW_AFTER
                    if due and not self._backend.read_only:
                        await self._backend.listen_for("finished", self._id, _LISTEN_SECONDS)
                        self._listening_since = time.monotonic()
                    await self._poll()
                    failures = 0
                except StoreUnavailable as error:
                    failures += 1
                    if failures == 1:
                        logger.warning("Waiting for results goes on although: %s", error)
                except Exception as error:
                    for job_id in list(self._waits):
                        self._resolve(job_id, error)
                    raise
                if not self._waits:
                    break
                delay = _POLLS[polls] if polls < len(_POLLS) else _POLL_INTERVAL
                try:
                    async with asyncio.timeout(delay):
                        await self._wake.wait()
                    polls = 0
                except TimeoutError:
                    polls += 1
                self._wake.clear()
        finally:
            self._hub.unsubscribe("finished", self._on_signal)

    async def _poll(self) -> None:
        waiting = list(self._waits)
        for start in range(0, len(waiting), _IDS_A_POLL):
            ids = waiting[start : start + _IDS_A_POLL]
            known = await self._backend.finished(ids)
            for job_id in ids:
                if job_id not in known:
                    self._resolve(job_id, JobNotFound(job_id))
                elif known[job_id]:
                    self._resolve(job_id)
