"""What the functions of this package have in common: a queue of either kind, and results that must be awaited."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from dataqueue.errors import ConfigError

if TYPE_CHECKING:
    from dataqueue.queue import JobQueue
    from dataqueue.sync import SyncJobQueue

    AnyQueue: TypeAlias = JobQueue | SyncJobQueue

T = TypeVar("T")

_handed_out: list[Coroutine[Any, Any, Any]] = []
_watching = False


def run_on(queue: AnyQueue, operation: Callable[[JobQueue], Coroutine[Any, Any, T]]) -> Any:
    """The operation's result for a SyncJobQueue, a coroutine of it for a JobQueue."""
    __tracebackhide__ = True
    inner = async_side(queue)
    if inner is not queue:
        return queue.run(lambda: operation(inner))  # type: ignore[union-attr]
    coroutine = operation(inner)
    if _watching:
        _handed_out.append(coroutine)
    return coroutine


def async_side(queue: AnyQueue) -> JobQueue:
    """The JobQueue of either kind.

    Raises:
        ConfigError: it is neither.
    """
    from dataqueue.queue import JobQueue
    from dataqueue.sync import SyncJobQueue

    if isinstance(queue, SyncJobQueue):
        return queue.queue
    if not isinstance(queue, JobQueue):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"The first argument must be a JobQueue or a SyncJobQueue, not {type(queue).__name__}.")
    return queue


def watch_awaits() -> None:
    """Note from now on what was handed out to be awaited."""
    global _watching
    _watching = True
    _handed_out.clear()


def never_awaited() -> list[str]:
    """The functions whose coroutine nobody has awaited since :func:`watch_awaits`: an assertion among them has
    asserted nothing."""
    global _watching
    _watching = False
    forgotten: list[str] = []
    for coroutine in _handed_out:
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            forgotten.append(coroutine.__name__.lstrip("_"))
            coroutine.close()
    _handed_out.clear()
    return forgotten
