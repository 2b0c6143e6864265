"""One subscribed connection a process, which comes back for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any

from redis.exceptions import RedisError

from dataqueue.backends.base import TOPICS, Signal, parse_signal
from dataqueue.tasks import end_tasks

logger = logging.getLogger("dataqueue.listen")

_PING_EVERY = 15.0
_PONG_WITHIN = 10.0
_CLOSE_WITHIN = 5.0
_RECONNECT_FIRST, _RECONNECT_LAST = 0.1, 5.0


async def listen(client: Any, channel: str, where: str) -> AsyncGenerator[Signal]:
    """Signals from the channel; an empty signal of each topic after every connection."""
    delay = _RECONNECT_FIRST
    while True:
        pubsub = client.pubsub()
        heard = [time.monotonic()]
        pinging: asyncio.Task[None] | None = None
        try:
            await pubsub.subscribe(channel)
            pinging = asyncio.create_task(_keep_alive(pubsub, heard), name="dataqueue-ping")
            while True:
                # Without a time limit of the client's own, which costs as much again as the message.
                message = await pubsub.get_message(timeout=None)
                heard[0] = time.monotonic()
                delay = _RECONNECT_FIRST
                for signal in _signals_in(message):
                    yield signal
        except (RedisError, OSError, TimeoutError) as error:
            logger.warning(
                "Lost the subscription to Redis at %s (%s). Polling goes on; next try in %.1f s.",
                where,
                error or type(error).__name__,
                delay,
            )
        finally:
            await end_tasks(pinging)
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(_CLOSE_WITHIN):  # a connection that is half gone may not answer
                    await pubsub.aclose()
        await asyncio.sleep(delay)
        delay = min(delay * 2, _RECONNECT_LAST)


async def _keep_alive(pubsub: Any, heard: list[float]) -> None:
    """Ping; where nothing comes back, hang up, so that the reader notices that its connection is dead."""
    while True:
        await asyncio.sleep(_PING_EVERY)
        asked = time.monotonic()
        await pubsub.ping()
        await asyncio.sleep(_PONG_WITHIN)
        if heard[0] < asked:
            await pubsub.connection.disconnect()
            return


def _signals_in(message: Any) -> list[Signal]:
    if message is None:
        return []
    if message["type"] == "subscribe":
        return [Signal(topic) for topic in TOPICS]
    signal = parse_signal(message["data"].decode()) if message["type"] == "message" else None
    return [] if signal is None else [signal]
