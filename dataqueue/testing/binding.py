"""Lets a queue that the application has made use the tests' store."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from dataqueue.testing.calls import async_side

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue
    from dataqueue.sync import SyncJobQueue

Q = TypeVar("Q", "JobQueue", "SyncJobQueue")

_blocking: dict[JobQueue, SyncJobQueue] = {}


@contextmanager
def bound(queue: Q, url: str) -> Generator[Q]:
    """While inside, ``queue`` uses the store of ``url``; before and after, the one that it was made for.

    It is closed at both ends, and also when a test's event loop ends: a queue at module level serves one test after the
    other. ``DATAQUEUE_URL`` is set meanwhile, for processes that are started. A schema, a key prefix, a pool or a
    client that the queue was made with is not used meanwhile.

    Args:
        queue: a JobQueue or SyncJobQueue.
        url: a store whose tables are there (the fixture ``dataqueue_url`` gives one).
    """
    inner = async_side(queue)
    release(queue)
    variable = os.environ.get("DATAQUEUE_URL")
    with inner.redirected(url):
        os.environ["DATAQUEUE_URL"] = url
        try:
            yield queue
        finally:
            if variable is None:
                del os.environ["DATAQUEUE_URL"]
            else:
                os.environ["DATAQUEUE_URL"] = variable
            release(queue)


def blocking(queue: JobQueue) -> SyncJobQueue:
    """The same queue for tests that are no coroutines: a :class:`dataqueue.SyncJobQueue` on it.

    Its operations run where the queue is open, if that is a loop that runs (the one of Starlette's ``TestClient``, say),
    else on a loop of their own. It is closed with the queue by :func:`bound`, else by its ``close()``.
    """
    from dataqueue.sync import SyncJobQueue

    if queue not in _blocking:
        _blocking[queue] = SyncJobQueue.over(queue)
    return _blocking[queue]


def release(queue: JobQueue | SyncJobQueue) -> None:
    """Close it, wherever it is open, and the threads of its blocking sides."""
    inner = async_side(queue)
    for sync in (queue, _blocking.pop(inner, None)):
        if sync is not None and sync is not inner:
            sync.close()  # type: ignore[union-attr]
    inner.close_from_outside()
