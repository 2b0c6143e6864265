"""One wake-up connection a queue, shared by its workers and by everyone who waits for a result."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from dataqueue.backends.base import Backend, Signal, Topic
from dataqueue.tasks import end_tasks

logger = logging.getLogger("dataqueue")

Receiver = Callable[[Signal], None]


class SignalHub:
    """Listens while anyone is subscribed. Use from one event loop."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._receivers: dict[Topic, list[Receiver]] = {}
        self._task: asyncio.Task[None] | None = None

    def subscribe(self, topic: Topic, receiver: Receiver) -> None:
        self._receivers.setdefault(topic, []).append(receiver)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen(), name="dataqueue-signals")

    def unsubscribe(self, topic: Topic, receiver: Receiver) -> None:
        receivers = self._receivers.get(topic, [])
        if receiver in receivers:
            receivers.remove(receiver)

    async def close(self) -> None:
        self._receivers.clear()
        if self._task is not None:
            task, self._task = self._task, None
            await end_tasks(task)

    async def _listen(self) -> None:
        async with contextlib.aclosing(self._backend.signals()) as signals:
            async for signal in signals:
                for receiver in tuple(self._receivers.get(signal.topic, ())):
                    receiver(signal)
