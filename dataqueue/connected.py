"""What a queue is to begin with: a store, opened on first use by one event loop, with hooks and definitions."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from dataqueue.backends.base import Backend
from dataqueue.backends.resolve import (
    DEFAULT_POOL_SIZE,
    backend_from_client,
    backend_from_pool,
    create_backend,
    resolve_url,
)
from dataqueue.definitions import JobDefinition
from dataqueue.errors import ConfigError, ReadOnlyQueue, WrongLoop
from dataqueue.events import HookEmitter
from dataqueue.options import check_integer
from dataqueue.signals import SignalHub
from dataqueue.tasks import end_tasks, running_loop
from dataqueue.tls import TLS
from dataqueue.waiting import FinishWatch

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from dataqueue.scheduling import Declaration

LISTENER_SECONDS = 5.0
"""How long close() lets listeners run on."""


class ConnectedQueue:
    """Opening, closing and binding to a loop; see :class:`dataqueue.JobQueue`."""

    def __init__(
        self,
        pool: AsyncConnectionPool[Any] | None = None,
        *,
        client: Any = None,
        schema: str | None = None,
        key_prefix: str | None = None,
    ) -> None:
        if (pool is None) == (client is None):
            raise ConfigError(
                "JobQueue needs a pool= or a client= of yours; to connect by URL, use JobQueue.from_url()."
            )
        if client is not None:
            self._set_up(lambda: backend_from_client(client, key_prefix=key_prefix))
        else:
            self._set_up(lambda: backend_from_pool(pool, schema=schema))

    @classmethod
    def from_url(
        cls,
        url: str | None = None,
        *,
        schema: str | None = None,
        key_prefix: str | None = None,
        tls: TLS | None = None,
        min_connections: int = DEFAULT_POOL_SIZE[0],
        max_connections: int = DEFAULT_POOL_SIZE[1],
        read_only: bool = False,
    ) -> Self:
        """A queue on the store of a URL; nothing is connected yet.

        Args:
            url: ``postgresql://…``, ``redis://…`` (``rediss://``, ``unix://``, ``redis+cluster://``),
                ``embedded:[path]`` or ``embedded:valkey[:path]``. By default the first that is set of
                ``DATAQUEUE_URL``, ``PG_DATAQUEUE_DATABASE`` and ``DATABASE_URL``, read on first use.
            schema: the Postgres schema of the tables.
            key_prefix: what the Redis keys begin with, ``dq`` by default.
            tls: certificates.
            min_connections: connections that the pool keeps open.
            max_connections: connections that it opens at most.
            read_only: let the store refuse every change, and give up a query after ten seconds: Postgres by
                read-only transactions, Redis by EVAL_RO. For dashboards and assistants that only look.

        Raises:
            ConfigError: the URL is malformed. The message never holds a password.
        """
        check_integer(min_connections, "min_connections", 0, 10_000)
        check_integer(max_connections, "max_connections", max(1, min_connections), 10_000)
        size = (min_connections, max_connections)

        def create() -> Backend:
            resolved, _ = resolve_url(url)
            return create_backend(
                resolved, schema=schema, tls=tls, pool_size=size, key_prefix=key_prefix, read_only=read_only
            )

        queue = cls.__new__(cls)
        queue._set_up(create, by_url=True)
        if url is not None:
            queue._backend = create()
        return queue

    def _set_up(self, create: Callable[[], Backend], *, by_url: bool = False) -> None:
        self._create_backend: Callable[[], Backend] = create
        self._by_url: bool = by_url
        self._backend: Backend | None = None
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._opening: asyncio.Lock | None = None
        self._open = False
        self._pid = os.getpid()
        self._ends_with_loop: bool = False
        self._guard: asyncio.Task[None] | None = None
        self._watch: FinishWatch | None = None
        self._hub: SignalHub | None = None
        self.hooks = HookEmitter()
        self.definitions: dict[str, JobDefinition[Any, Any]] = {}
        self.declarations: dict[str, Declaration] = {}

    # -- life ---------------------------------------------------------------------------------------

    @property
    def backend(self) -> Backend:
        """The store behind this queue (for workers and tools of this package)."""
        if self._backend is None:
            self._backend = self._create_backend()
        return self._backend

    def connect_anew(self) -> Backend | None:
        """Another backend on the same store, for another event loop (for workers of this package). None where the
        connections are the caller's own."""
        return self._create_backend() if self._by_url else None

    @property
    def signals(self) -> SignalHub:
        """The shared wake-up connection of the open queue (for workers of this package)."""
        if self._hub is None:
            self._hub = SignalHub(self.backend)
        return self._hub

    async def open(self) -> Backend:
        """Connect and check the schema. Every operation does this by itself on first use.

        Raises:
            ConfigError: no store is configured.
            StoreUnavailable: it cannot be reached.
            SchemaError: its tables are missing, older or newer than this package.
            WrongLoop: the queue is open on another running event loop.
        """
        loop = asyncio.get_running_loop()
        bound = self._loop() if self._loop is not None else None
        if bound is not loop or self._pid != os.getpid():
            self._bind(loop, bound)
        if self._open:
            return self.backend
        assert self._opening is not None
        async with self._opening:
            if not self._open:
                await self.backend.open()
                self._open = True
                if self._ends_with_loop:
                    self._guard = loop.create_task(self._close_with_loop(), name="dataqueue's end")
        return self.backend

    def _bind(self, loop: asyncio.AbstractEventLoop, bound: asyncio.AbstractEventLoop | None) -> None:
        if bound is not None and self._open and not bound.is_closed() and self._pid == os.getpid():
            raise WrongLoop(
                "This queue is open on another event loop that still runs. Close it there first "
                "(await queue.close()), make a queue of its own for each loop, or use SyncJobQueue from threads."
            )
        if self._open or self._pid != os.getpid():
            self.abandon()
        self._pid = os.getpid()
        self._loop = weakref.ref(loop)
        self._opening = asyncio.Lock()

    def open_on(self) -> asyncio.AbstractEventLoop | None:
        """The running loop that this queue is open on, if any."""
        loop = self._loop() if self._loop is not None else None
        usable = loop is not None and self._open and self._pid == os.getpid() and loop.is_running()
        return loop if usable else None

    def abandon(self) -> None:
        """Let go of the connections without closing them: their loop is gone, or in the parent process."""
        loop = self._loop() if self._loop is not None else None
        if loop is not None:
            for task in asyncio.all_tasks(loop):
                task._log_destroy_pending = False  # type: ignore[attr-defined] # nothing was forgotten: they cannot be ended
        self._backend = None
        self._watch = self._hub = self._guard = None
        self._open = False
        self._loop = None

    async def close(self) -> None:
        """Disconnect, after listeners that still run have had a few seconds. The queue opens again when it is
        used again.

        Raises:
            WrongLoop: the queue is open on another running event loop.
        """
        if not self._open:
            return
        bound = self._loop() if self._loop is not None else None
        if bound is not asyncio.get_running_loop() and bound is not None and bound.is_running():
            raise WrongLoop("This queue is open on another event loop that still runs. Close it there.")
        await self.hooks.finish(LISTENER_SECONDS)
        self._open = False
        guard, self._guard = self._guard, None
        if guard is not asyncio.current_task():
            await end_tasks(guard)
        if self._watch is not None:
            watch, self._watch = self._watch, None
            await watch.close()
        if self._hub is not None:
            hub, self._hub = self._hub, None
            await hub.close()
        await self.backend.close()

    def close_from_outside(self) -> None:
        """Close it from code that no event loop runs, whatever loop it is open on (for :mod:`dataqueue.testing`: the
        loops of tests stand still, or are gone, when a fixture ends).

        Raises:
            WrongLoop: called on the loop that it is open on.
        """
        loop = self._loop() if self._loop is not None else None
        if not self._open:
            return
        if loop is None or loop.is_closed() or self._pid != os.getpid():
            self.abandon()
        elif loop is running_loop():
            raise WrongLoop("This queue is open on the event loop that runs here. Use: await queue.close()")
        elif loop.is_running():
            asyncio.run_coroutine_threadsafe(self.close(), loop).result()
        else:
            loop.run_until_complete(self.close())

    async def _close_with_loop(self) -> None:
        """Whoever ends a loop in an orderly manner cancels what is left on it, and waits for it."""
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self._guard is asyncio.current_task():
                await self.close()
            raise

    @contextmanager
    def redirected(self, url: str) -> Generator[None]:
        """While inside, the queue uses the store of ``url``, whatever it was made for, and closes with the loop that it
        is open on (for :mod:`dataqueue.testing`). It must be closed at both ends.
        """
        if self._open:
            raise ConfigError("The queue is open on another store. Close it first.")

        def create() -> Backend:
            return create_backend(url, schema=None, tls=None, pool_size=DEFAULT_POOL_SIZE)

        before = self._create_backend, self._by_url, self._ends_with_loop
        self._create_backend, self._by_url, self._ends_with_loop = create, True, True
        self._backend = None
        try:
            yield
        finally:
            if self._open:
                self.abandon()
            self._backend = None
            self._create_backend, self._by_url, self._ends_with_loop = before

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def migrate(self, *, shared_typescript: bool = False) -> list[str]:
        """Create or upgrade the tables; returns the names of the steps that were applied.

        Safe to call from many processes at once. See also ``dataqueue migrate``.
        """
        if self.backend.read_only:
            raise ReadOnlyQueue(self.backend.location())
        return await self.backend.migrate(shared=shared_typescript)
