"""One subscribed connection a process, which comes back for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import RedisError

from dataqueue.backends.base import TOPICS, Signal, parse_signal

logger = logging.getLogger("dataqueue.listen")

_PING_EVERY = 15.0
_PONG_WITHIN = 10.0
_RECONNECT_FIRST, _RECONNECT_LAST = 0.1, 5.0


@asynccontextmanager
async def listen(client: Any, channel: str, where: str) -> AsyncGenerator[AsyncIterator[Signal]]:
    """Signals from the channel; an empty signal of each topic after every connection."""
    queue: asyncio.Queue[Signal] = asyncio.Queue()
    task = asyncio.create_task(_keep_listening(client, channel, where, queue), name="dataqueue-listen")
    try:
        yield _drain(queue)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _drain(queue: asyncio.Queue[Signal]) -> AsyncIterator[Signal]:
    while True:
        yield await queue.get()


async def _keep_listening(client: Any, channel: str, where: str, queue: asyncio.Queue[Signal]) -> None:
    delay = _RECONNECT_FIRST
    while True:
        pubsub = client.pubsub()
        try:
            await pubsub.subscribe(channel)
            async for signal in _receive(pubsub):
                delay = _RECONNECT_FIRST
                queue.put_nowait(signal)
        except (RedisError, OSError, TimeoutError) as error:
            logger.warning(
                "Lost the subscription to Redis at %s (%s). Polling goes on; next try in %.1f s.",
                where,
                error or type(error).__name__,
                delay,
            )
        finally:
            await asyncio.gather(pubsub.aclose(), return_exceptions=True)
        await asyncio.sleep(delay)
        delay = min(delay * 2, _RECONNECT_LAST)


async def _receive(pubsub: Any) -> AsyncIterator[Signal]:
    """Pass messages on; a ping that is not answered means a dead connection."""
    pinged = False
    while True:
        message = await pubsub.get_message(timeout=_PONG_WITHIN if pinged else _PING_EVERY)
        if message is None:
            if pinged:
                raise TimeoutError("no answer to a ping")
            pinged = True
            await pubsub.ping()
            continue
        pinged = False
        if message["type"] == "subscribe":
            for topic in TOPICS:
                yield Signal(topic)
        elif message["type"] == "message":
            signal = parse_signal(message["data"].decode())
            if signal is not None:
                yield signal
