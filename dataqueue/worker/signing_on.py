"""How a worker makes itself and the limits of its types known."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from typing import TYPE_CHECKING

from dataqueue.backends.base import Backend, WorkerInfo
from dataqueue.errors import StoreUnavailable
from dataqueue.limits import TypeLimits
from dataqueue.version import __version__
from dataqueue.worker.leases import EXPIRY_SHARE, now

if TYPE_CHECKING:
    from dataqueue.worker.processor import Processor

logger = logging.getLogger("dataqueue.worker")

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 5.0


async def sign_on(processor: Processor, *, patient: bool) -> tuple[Backend, WorkerInfo, float]:
    """Open the queue and register the worker; a patient one waits for a store that is not there yet.

    Returns the store, the worker as registered, and when that was asked for, by :func:`dataqueue.worker.leases.now`.
    """
    delay = FIRST_BACKOFF
    while True:
        try:
            backend = await processor.queue.open()
            asked_at = now()
            return backend, await _register(processor, backend), asked_at
        except StoreUnavailable as error:
            if not patient or processor.is_stopping:
                raise
            logger.warning("The store is not there yet; next try in %.1f s. %s", delay, error)
        await asyncio.sleep(delay)
        delay = min(delay * 2, LAST_BACKOFF)


async def _register(processor: Processor, backend: Backend) -> WorkerInfo:
    while True:
        worker = WorkerInfo(
            id=processor.worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            job_types=tuple(sorted(processor.handlers)),
            concurrency=processor.concurrency,
            version=__version__,
            lease_seconds=processor.lease * EXPIRY_SHARE,
            group_concurrency=processor.group_concurrency,
        )
        if await backend.register_worker(worker):
            await backend.declare_limits(_declared_limits(processor))
            return worker
        processor.worker_id = f"{worker.id[:240]}~{uuid.uuid4().hex[:6]}"
        logger.warning("The worker id %r is in use; this worker is %r.", worker.id, processor.worker_id)


def _declared_limits(processor: Processor) -> dict[str, TypeLimits]:
    """Those of the definitions that this worker runs; a plain mapping of handlers says nothing about limits."""
    definitions = processor.queue.definitions
    return {
        name: definitions[name].limits
        for name, handler in processor.handlers.items()
        if name in definitions and definitions[name].handler is handler
    }
