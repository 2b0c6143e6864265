"""A Valkey of its own on this machine: ``embedded:valkey`` and ``embedded:valkey:PATH``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from dataqueue.backends.redis.backend import DEFAULT_PREFIX, RedisBackend
from dataqueue.backends.redis.connect import Endpoint, endpoint_of_url

if TYPE_CHECKING:
    from dataqueue.embedded import EmbeddedServer

_CONNECTIONS = 20


class EmbeddedValkeyBackend(RedisBackend):
    """Starts the server when it is opened."""

    def __init__(self, path: Path | None, *, key_prefix: str | None, read_only: bool = False) -> None:
        super().__init__(_not_started(), DEFAULT_PREFIX if key_prefix is None else key_prefix, read_only)
        self._path = path
        self._server: EmbeddedServer | None = None

    async def open(self) -> None:
        from dataqueue.embedded import start_valkey

        if self._server is None:
            self._server = await asyncio.to_thread(start_valkey, self._path)
        self._endpoint, _ = endpoint_of_url(self._server.url, None, _CONNECTIONS)
        await super().open()

    async def close(self) -> None:
        await super().close()
        if self._server is not None:
            server, self._server = self._server, None
            await asyncio.to_thread(server.stop)


def _not_started() -> Endpoint:
    def refuse() -> None:
        raise RuntimeError("the embedded server is started by open()")

    return Endpoint("embedded server", refuse, refuse)
