"""A test's own queue, or somebody's: tests must not run or move what is not theirs."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from dataqueue.errors import ConfigError

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue


async def refuse_strangers(queue: JobQueue, what: str) -> None:
    """Raise ConfigError if a live worker of another process is at this queue. This process's own may be."""
    here = (socket.gethostname(), os.getpid())
    for worker in await queue.list_workers():
        if worker.alive and (worker.host, worker.pid) != here:
            raise ConfigError(
                f"{what} is for queues of a test's own, and worker {worker.id} (pid {worker.pid} on {worker.host}) is at "
                f"the one at {queue.backend.location()}. Nothing was changed. Bind the queue to the tests' store "
                "(the fixture dataqueue_bind, or dataqueue.testing.bound)."
            )
