"""Jobs of workers that fell silent: every worker looks for them."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from dataqueue.errors import StoreUnavailable
from dataqueue.events import Hook

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue

logger = logging.getLogger("dataqueue.worker")

_BATCH = 100


async def rescue_for_ever(queue: JobQueue, interval: float) -> None:
    """Look about every ``interval`` seconds."""
    while True:
        await asyncio.sleep(interval * random.uniform(0.75, 1.0))
        try:
            while await rescue(queue) == _BATCH:
                pass
            await queue.expire_timed_out_tokens()
        except StoreUnavailable:
            pass  # the worker's loop says so
        except Exception as error:
            queue.hooks.emit(Hook("error", error=error))


async def rescue(queue: JobQueue) -> int:
    """Take some back, and say so. Returns how many."""
    reclaimed = await queue.backend.reclaim_expired(_BATCH)
    for job in reclaimed:
        logger.warning("Job %s (%s): worker %s was lost; now %s.", job.id, job.job_type, job.worker, job.status)
        if job.status == "failed":
            hook = Hook("job:failed", job.id, job.job_type, error=None, will_retry=False)
        elif job.status == "cancelled":
            hook = Hook("job:cancelled", job.id, job.job_type)
        else:
            hook = Hook("job:reclaimed", job.id, job.job_type)
        queue.hooks.emit(hook)
    return len(reclaimed)
