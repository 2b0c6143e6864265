"""A Postgres of its own on this machine: ``embedded:`` and ``embedded:PATH``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dataqueue.backends.postgres.backend import PostgresBackend
from dataqueue.backends.postgres.connect import describe, parse_url

if TYPE_CHECKING:
    from dataqueue.embedded import EmbeddedServer


class EmbeddedPostgresBackend(PostgresBackend):
    """Starts the server when it is opened and brings its tables up to date; nobody else would."""

    def __init__(
        self, path: Path | None, *, schema: str | None, pool_size: tuple[int, int], read_only: bool = False
    ) -> None:
        super().__init__("dbname=dataqueue", None, schema, pool_size, read_only)
        self._path = path
        self._where = f"an embedded server{f' in {path}' if path else ''}"
        self._server: EmbeddedServer | None = None

    async def open(self) -> None:
        await self._start()
        await super().migrate()
        await super().open()

    async def close(self) -> None:
        await super().close()
        if self._server is not None:
            server, self._server = self._server, None
            await asyncio.to_thread(server.stop)

    async def migrate(
        self, *, shared: bool = False, dry_run: bool = False, report: Callable[[str], None] | None = None
    ) -> list[str]:
        await self._start()
        return await super().migrate(shared=shared, dry_run=dry_run, report=report)

    async def migration_status(self) -> list[tuple[int, str, str | None]]:
        await self._start()
        return await super().migration_status()

    async def _start(self) -> None:
        from dataqueue.embedded import start_postgres

        if self._server is None:
            self._server = await asyncio.to_thread(start_postgres, self._path)
        self.conninfo, _ = parse_url(self._server.url, None)
        self._where = f"embedded server, {describe(self.conninfo)}"
