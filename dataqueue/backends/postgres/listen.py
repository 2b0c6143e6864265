"""One LISTEN connection a process, which comes back for ever."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import psycopg

from dataqueue.backends.base import TOPICS, Signal, parse_signal
from dataqueue.backends.postgres.statements import quote_identifier

logger = logging.getLogger("dataqueue.listen")

_PING_EVERY = 15.0
_PONG_WITHIN = 10.0
_RECONNECT_FIRST, _RECONNECT_LAST = 0.1, 5.0


async def listen(conninfo: str, kwargs: dict[str, Any], channel: str, where: str) -> AsyncGenerator[Signal]:
    """Signals from the channel; an empty signal of each topic after every connection."""
    delay = _RECONNECT_FIRST
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(conninfo, **kwargs, autocommit=True) as conn:
                await conn.execute(f"LISTEN {quote_identifier(channel)}".encode())
                delay = _RECONNECT_FIRST
                for topic in TOPICS:
                    yield Signal(topic)
                async for signal in _receive(conn, channel):
                    yield signal
        except (psycopg.Error, OSError, TimeoutError) as error:
            logger.warning(
                "Lost the LISTEN connection to Postgres at %s (%s). Polling goes on; next try in %.1f s.",
                where,
                str(error).strip().partition("\n")[0] or type(error).__name__,
                delay,
            )
        await asyncio.sleep(delay)
        delay = min(delay * 2, _RECONNECT_LAST)


async def _receive(conn: psycopg.AsyncConnection[Any], channel: str) -> AsyncGenerator[Signal]:
    """Pass notifications on; a note to ourselves that does not come back means a dead connection."""
    ping: str | None = None
    while True:
        wait = _PONG_WITHIN if ping else _PING_EVERY
        heard = False
        async for notice in conn.notifies(timeout=wait, stop_after=1):
            heard = True
            if notice.payload == ping:
                ping = None
            elif (signal := parse_signal(notice.payload)) is not None:
                yield signal
        if heard:
            continue
        if ping is not None:
            raise TimeoutError("no answer to a notification of our own")
        ping = f"ping {uuid.uuid4()}"
        async with asyncio.timeout(_PONG_WITHIN):
            await conn.execute("SELECT pg_notify(%s, %s)", (channel, ping))
