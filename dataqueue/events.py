"""Hooks: listeners in this process, told what this queue object did.

They are a convenience for logs, metrics and tests. What happened to a job, whoever did it, is in its
recorded events (``get_job_events``).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dataqueue.errors import ConfigError

logger = logging.getLogger("dataqueue")

HookName = Literal[
    "job:added",
    "job:processing",
    "job:completed",
    "job:failed",
    "job:cancelled",
    "job:retried",
    "job:edited",
    "job:reclaimed",
    "job:waiting",
    "job:progress",
    "job:output",
    "error",
]
HOOKS: tuple[HookName, ...] = get_args(HookName)


@dataclass(frozen=True, slots=True)
class Hook:
    """What a listener is given; fields that do not belong to the event are None.

    ``will_retry`` (of ``job:failed``) is true exactly when a retry is scheduled.
    """

    name: HookName
    job_id: int | None = None
    job_type: str | None = None
    error: BaseException | None = None
    will_retry: bool | None = None
    progress: int | None = None
    output: Any = None


Listener = Callable[[Hook], Awaitable[None] | None]


class HookEmitter:
    """Calls listeners; one that throws is logged and harms nothing, and ``error`` without one is logged."""

    def __init__(self) -> None:
        self._listeners: dict[HookName, list[tuple[Listener, bool]]] = {}
        self._tasks: set[asyncio.Future[None]] = set()

    def on(self, name: HookName, listener: Listener, *, once: bool = False) -> None:
        if name not in HOOKS:
            raise ConfigError(f"There is no event {name!r}. Events: {', '.join(HOOKS)}.")
        self._listeners.setdefault(name, []).append((listener, once))

    def off(self, name: HookName, listener: Listener) -> None:
        kept = [entry for entry in self._listeners.get(name, []) if entry[0] != listener]
        self._listeners[name] = kept

    def remove_all(self, name: HookName | None = None) -> None:
        if name is None:
            self._listeners.clear()
        else:
            self._listeners.pop(name, None)

    def wants(self, name: HookName) -> bool:
        return bool(self._listeners.get(name))

    async def finish(self, seconds: float) -> None:
        """Let listeners that are still running come to their end, for so long at most."""
        loop = asyncio.get_running_loop()
        own = {task for task in self._tasks if task.get_loop() is loop and task is not asyncio.current_task()}
        if own:
            await asyncio.wait(own, timeout=seconds)

    def emit(self, hook: Hook) -> None:
        listeners = self._listeners.get(hook.name)
        if not listeners:
            if hook.name == "error" and hook.error is not None:
                logger.error("%s", hook.error, exc_info=hook.error)
            return
        for entry in tuple(listeners):
            listener, once = entry
            if once and entry in listeners:
                listeners.remove(entry)
            try:
                result = listener(hook)
                if inspect.isawaitable(result):
                    self._run(_guarded(result, hook.name))
            except Exception:
                logger.exception("A listener of %r failed; the job is not affected.", hook.name)

    def _run(self, listening: Coroutine[Any, Any, None]) -> None:
        try:
            task = asyncio.get_running_loop().create_task(listening)
        except RuntimeError:  # an add on a caller's blocking connection, in a thread without a loop
            asyncio.run(listening)
            return
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _guarded(result: Awaitable[None], name: str) -> None:
    try:
        await result
    except Exception:
        logger.exception("A listener of %r failed; the job is not affected.", name)
