"""JobQueue: the object that users hold. It validates, asks the backend, and emits hooks."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

from dataqueue.backends.base import Added, Backend, Finding, JobFilter, Stats, WorkerRecord
from dataqueue.backends.resolve import (
    DEFAULT_POOL_SIZE,
    backend_from_client,
    backend_from_pool,
    create_backend,
    resolve_url,
)
from dataqueue.definitions import AnyHandler, Handler, JobDefinition
from dataqueue.errors import (
    ConfigError,
    InvalidJob,
    JobCancelled,
    JobFailed,
    JobNotFound,
    ReadOnlyQueue,
    UnknownJobType,
    WrongLoop,
)
from dataqueue.events import Hook, HookEmitter, HookName, Listener
from dataqueue.jobs import (
    ANY_JSON,
    STATUSES,
    AddedJobs,
    Job,
    JobEvent,
    JobHandle,
    JobPage,
    JobStatus,
    TagMode,
)
from dataqueue.limits import LimitState
from dataqueue.options import (
    INT4_MAX,
    INT4_MIN,
    DefinitionOptions,
    JobOptions,
    JobSpec,
    NewJob,
    check_aware,
    check_integer,
    check_job_type,
    check_name,
    check_tags,
    make_spec,
)
from dataqueue.payloads import Codec
from dataqueue.signals import SignalHub
from dataqueue.tls import TLS
from dataqueue.waiting import FinishWatch

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection
    from psycopg_pool import AsyncConnectionPool

    from dataqueue.explain import Explanation
    from dataqueue.failures import FailureSummary
    from dataqueue.status import QueueStatus
    from dataqueue.worker.context import JobContext, SyncJobContext
    from dataqueue.worker.options import ProcessorOptions
    from dataqueue.worker.processor import Processor

    Conn = AsyncConnection[Any] | Connection[Any]

P = TypeVar("P")
R = TypeVar("R")

MAX_PAGE = 1000
LISTENER_SECONDS = 5.0
"""How long close() lets listeners run on."""
_DAY = timedelta(days=1)
_PLAIN: Codec[Any] = Codec(Any)


class JobQueue:
    """A queue of jobs in a store.

    Make one with :meth:`from_url`, at module level if you like: it connects on first use, belongs to
    the event loop that used it, and can be used again after :meth:`close`.

    Args:
        pool: your own ``psycopg_pool.AsyncConnectionPool``; it is never closed here.
        client: your own ``redis.asyncio.Redis`` or ``RedisCluster`` (one of the two); never closed here. Its
            own retries may send an add twice: give adds an ``idempotency_key``, or turn its retries off.
        schema: the Postgres schema of the tables; the first on the search path that has them by default.
        key_prefix: what the Redis keys begin with, ``dq`` by default.
    """

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
    ) -> JobQueue:
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
        self._create_backend = create
        self._by_url = by_url
        self._backend: Backend | None = None
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._opening: asyncio.Lock | None = None
        self._open = False
        self._pid = os.getpid()
        self._watch: FinishWatch | None = None
        self._hub: SignalHub | None = None
        self.hooks = HookEmitter()
        self.definitions: dict[str, JobDefinition[Any, Any]] = {}

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
        self._watch = self._hub = None
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
        if self._watch is not None:
            watch, self._watch = self._watch, None
            await watch.close()
        if self._hub is not None:
            hub, self._hub = self._hub, None
            await hub.close()
        await self.backend.close()

    async def __aenter__(self) -> JobQueue:
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

    # -- definitions --------------------------------------------------------------------------------

    @overload
    def job(self, function: Callable[[P, JobContext], Awaitable[R]], /) -> JobDefinition[P, R]: ...
    @overload
    def job(self, function: Callable[[P], Awaitable[R]], /) -> JobDefinition[P, R]: ...
    @overload
    def job(self, function: Callable[[P, SyncJobContext], R], /) -> JobDefinition[P, R]: ...
    @overload
    def job(self, function: Callable[[P], R], /) -> JobDefinition[P, R]: ...
    @overload
    def job(self, name: str | None = None, /, **options: Unpack[DefinitionOptions]) -> _JobDecorator: ...
    def job(self, function: AnyHandler | str | None = None, /, **options: Unpack[DefinitionOptions]) -> Any:
        """Define a job type: ``@queue.job`` or ``@queue.job("name", max_attempts=5)``.

        The function takes ``(payload)`` or ``(payload, ctx)``; ``async def`` runs on the worker's loop,
        ``def`` in a thread, and either in a child process with ``isolation="process"``. The payload's
        annotation (pydantic model, dataclass, TypedDict, any JSON type) is validated when a job is added
        and again before the function runs; the return annotation likewise types the result. The type's
        name is the function's by default.

        Raises:
            ConfigError: the name is taken, or the function does not fit (a process cannot import it).
            InvalidJob: an option is unknown or out of its range.
        """
        if callable(function):
            return self.define(function, None, options)
        return _JobDecorator(self, function, options)

    def define(self, function: AnyHandler, name: str | None, options: DefinitionOptions) -> JobDefinition[Any, Any]:
        """What the decorator does; its typed forms are in :meth:`job`."""
        name = name or str(getattr(function, "__name__", ""))
        if name in ("", "<lambda>"):
            raise ConfigError('This handler has no name of its own. Give the job type one: @queue.job("name").')
        if name in self.definitions:
            raise ConfigError(f"The job type {name!r} is defined twice. Give one of them another name.")
        definition: JobDefinition[Any, Any] = JobDefinition(self, name, function, options)
        self.definitions[name] = definition
        return definition

    # -- adding -------------------------------------------------------------------------------------

    async def add_job(
        self, job_type: str, payload: object = None, *, conn: Conn | None = None, **options: Unpack[JobOptions]
    ) -> JobHandle[Any]:
        """Add one job.

        Args:
            job_type: its name. Where this queue has typed definitions, one of theirs.
            payload: any JSON value, or a value of the definition's payload type.
            conn: your own psycopg connection: the job and its event then commit, or vanish, with your
                transaction, and workers are woken at its commit.
            options: see :class:`dataqueue.JobOptions`.

        Returns:
            A handle. Its ``created`` is False if the idempotency key was taken: it then names the
            job that has the key, and nothing was changed.

        Raises:
            InvalidJob (UnknownJobType, InvalidPayload): nothing was stored.
            StoreUnavailable: the store cannot be reached.
        """
        added = await self._add_specs([self._spec(job_type, payload, options)], conn)
        job_id, created = added[0]
        definition = self.definitions.get(job_type)
        return JobHandle(job_id, created, self, definition.handler.result if definition else ANY_JSON)

    async def add_jobs(self, jobs: Iterable[NewJob | Mapping[str, Any]], *, conn: Conn | None = None) -> AddedJobs[Any]:
        """Add many jobs, all or none, in their order; one round trip for a thousand.

        Args:
            jobs: :class:`NewJob` objects, ``definition.new(payload, …)``, or mappings with ``job_type``,
                ``payload`` and options. A generator is read as it goes, so a million jobs need little memory.
            conn: see :meth:`add_job`.

        Returns:
            The handles, in order. A job whose idempotency key was taken has ``created`` False.

        Raises:
            InvalidJob: with the position of the job that was refused; nothing was stored.
        """
        return await self._add_all(jobs, conn, ANY_JSON)

    async def _add_all(
        self, jobs: Iterable[NewJob | Mapping[str, Any]], conn: object | None, codec: Codec[R]
    ) -> AddedJobs[R]:
        result: AddedJobs[R] = AddedJobs(self, codec)
        backend = await self._for_adding(conn)
        types: list[str] = []

        def specs() -> Iterable[JobSpec]:
            for index, job in enumerate(jobs):
                spec = self._spec_of(job, index)
                if self.hooks.wants("job:added"):
                    types.append(spec.job_type)
                yield spec

        async for added in backend.add_stream(specs(), conn):
            result.extend(added)
        for handle, job_type in zip(result, types, strict=False):
            if handle.created:
                self.hooks.emit(Hook("job:added", handle.id, job_type))
        return result

    def add_all_sync(
        self,
        jobs: Iterable[NewJob | Mapping[str, Any]],
        conn: Connection[Any],
        codec: Codec[R] = ANY_JSON,
    ) -> AddedJobs[R]:
        """Add on a caller's blocking connection, in this thread; the queue need not be open."""
        specs = [self._spec_of(job, index) for index, job in enumerate(jobs)]
        result: AddedJobs[R] = AddedJobs(self, codec)
        if specs:
            added = self.backend.add_sync(specs, conn)
            result.extend(added)
            self._announce_added(specs, added)
        return result

    def _announce_added(self, specs: Sequence[JobSpec], added: Sequence[Added]) -> None:
        if self.hooks.wants("job:added"):
            for spec, (job_id, created) in zip(specs, added, strict=True):
                if created:
                    self.hooks.emit(Hook("job:added", job_id, spec.job_type))

    def _spec_of(self, job: NewJob | Mapping[str, Any], index: int) -> JobSpec:
        try:
            if isinstance(job, NewJob):
                return self._spec(job.job_type, job.payload, job.options)
            if not isinstance(job, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidJob(f"a job must be a NewJob or a mapping, not {type(job).__name__}")
            options = dict(job)
            job_type, payload = options.pop("job_type", None), options.pop("payload", None)
            return self._spec(cast(str, job_type), payload, cast(JobOptions, options))
        except InvalidJob as error:
            raise type(error)(f"jobs[{index}]: {error} None of these jobs was stored.") from error

    def _spec(self, job_type: str, payload: object, options: JobOptions) -> JobSpec:
        definition = self.definitions.get(job_type)
        if definition is not None:
            defaults = definition.defaults
            merged = {**defaults, **options} if defaults and options else options or defaults
            return make_spec(job_type, definition.handler.payload.encode(payload), merged)
        check_job_type(job_type)
        if self.definitions:
            raise UnknownJobType(
                f"This queue defines no job type {job_type!r}. Defined: {', '.join(sorted(self.definitions))}. "
                "Nothing was stored. Import the module that defines it, or use a queue without definitions."
            )
        return make_spec(job_type, _PLAIN.encode(payload), options)

    async def _add_specs(self, specs: Sequence[JobSpec], conn: object | None) -> list[Added]:
        backend = await self._for_adding(conn)
        added = await backend.add(specs, conn)
        self._announce_added(specs, added)
        return added

    async def _for_adding(self, conn: object | None) -> Backend:
        # On a caller's connection nothing of ours needs to be open.
        return self.backend if conn is not None else await self.open()

    # -- reading ------------------------------------------------------------------------------------

    async def get_job(self, job_id: int) -> Job | None:
        """The job, or None if there is none with this id."""
        backend = await self.open()
        return await backend.get_job(job_id) if _may_exist(job_id) else None

    async def require_job(self, job_id: int) -> Job:
        """The job.

        Raises:
            JobNotFound: no such job.
        """
        job = await self.get_job(job_id)
        if job is None:
            raise JobNotFound(job_id)
        return job

    async def get_jobs(
        self,
        *,
        status: JobStatus | Iterable[JobStatus] | None = None,
        job_type: str | Iterable[str] | None = None,
        priority: int | None = None,
        tags: Iterable[str] | None = None,
        tag_mode: TagMode = "all",
        run_after: datetime | None = None,
        run_before: datetime | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        error_contains: str | None = None,
        group: str | None = None,
        limit: int = 100,
        cursor: int | None = None,
        offset: int = 0,
        values: bool = True,
    ) -> JobPage:
        """Jobs that meet all conditions, highest id first.

        Args:
            status: one, or several of which any will do.
            job_type: likewise.
            priority: exactly this one.
            tags: labels, to which ``tag_mode`` applies.
            tag_mode: ``all`` of them (the default), ``any``, ``exact`` (the same set), ``none``.
            run_after: due at or after this moment.
            run_before: due before it.
            created_after: added at or after this moment.
            created_before: added before it.
            error_contains: part of the message of any of its errors, whatever its case.
            group: exactly this one.
            limit: jobs a page, at most 1,000.
            values: False leaves payloads and outputs out (they are None then), which may be large.
            cursor: the ``next_cursor`` of the page before; fast however deep.
            offset: jobs to leave out, for small lists.

        Raises:
            InvalidJob: a condition of the wrong type or range.
        """
        check_integer(limit, "limit", 1, MAX_PAGE)
        check_integer(offset, "offset", 0, INT4_MAX)
        where = JobFilter(
            statuses=_check_statuses(status),
            job_types=tuple(check_job_type(name) for name in _several(job_type, "job_type")),
            priority=None if priority is None else check_integer(priority, "priority", INT4_MIN, INT4_MAX),
            tags=None if tags is None else check_tags(tags) or (),
            tag_mode=_check_tag_mode(tag_mode),
            run_after=run_after and check_aware(run_after, "run_after"),
            run_before=run_before and check_aware(run_before, "run_before"),
            created_after=created_after and check_aware(created_after, "created_after"),
            created_before=created_before and check_aware(created_before, "created_before"),
            error_contains=None if error_contains is None else check_name(error_contains, "error_contains"),
            group=None if group is None else check_name(group, "group"),
        )
        backend = await self.open()
        before = None if cursor is None else check_integer(cursor, "cursor", 1, 2**63 - 1)
        jobs = await backend.list_jobs(where, limit + 1, before, offset, values)
        more = len(jobs) > limit
        return JobPage(jobs[:limit], jobs[limit - 1].id if more else None)

    async def get_jobs_by_status(
        self, status: JobStatus, *, limit: int = 100, cursor: int | None = None, offset: int = 0
    ) -> JobPage:
        """Jobs in one status, highest id first."""
        return await self.get_jobs(status=status, limit=limit, cursor=cursor, offset=offset)

    async def get_jobs_by_tags(
        self,
        tags: Iterable[str],
        mode: TagMode = "all",
        *,
        limit: int = 100,
        cursor: int | None = None,
        offset: int = 0,
    ) -> JobPage:
        """Jobs with these tags (see :meth:`get_jobs` for the modes), highest id first.

        No tags at all: ``all`` and ``none`` hold for every job, ``any`` for none, ``exact`` for untagged ones.
        """
        return await self.get_jobs(tags=tags, tag_mode=mode, limit=limit, cursor=cursor, offset=offset)

    async def get_all_jobs(self, *, limit: int = 100, cursor: int | None = None, offset: int = 0) -> JobPage:
        """All jobs, highest id first."""
        return await self.get_jobs(limit=limit, cursor=cursor, offset=offset)

    async def get_job_events(self, job_id: int) -> list[JobEvent]:
        """What happened to a job, oldest first; empty for an unknown id."""
        backend = await self.open()
        return await backend.list_events(job_id) if _may_exist(job_id) else []

    async def stats(self) -> Stats:
        """Counts by type and status, the age of the oldest due job, and the workers."""
        return await (await self.open()).stats()

    async def list_workers(self) -> list[WorkerRecord]:
        """The workers that the store knows, silent ones included."""
        return await (await self.open()).list_workers()

    # -- explaining ---------------------------------------------------------------------------------

    async def explain_job(self, job_id: int) -> Explanation:
        """Why a job runs, or does not, and what to do about it. An unknown id is explained, too."""
        from dataqueue.explain import SAMPLE, explain, not_found, prolonged_until

        backend = await self.open()
        situation = await backend.situation(job_id) if _may_exist(job_id) else None
        if situation is None:
            return not_found(job_id, await backend.now())
        recent = await backend.sample_finished(situation.job.job_type, SAMPLE) if situation.ahead else []
        if situation.job.status == "processing":
            events = await backend.list_events(job_id)
            situation = replace(situation, prolonged_until=prolonged_until(situation.job, events))
        return explain(situation, recent)

    async def summarize_failures(
        self, *, window: timedelta = _DAY, job_type: str | None = None, limit: int = 10
    ) -> FailureSummary:
        """Jobs whose status is ``failed``, grouped by cause, the most common first.

        Args:
            window: how long ago their last attempt may have failed; any positive time.
            job_type: only jobs of this type.
            limit: groups, at most 100. The newest 10,000 failed jobs are looked at.
        """
        from dataqueue.failures import MAX_READ, summarize

        check_integer(limit, "limit", 1, 100)
        seconds = _check_window(window).total_seconds()
        name = None if job_type is None else check_job_type(job_type)
        failures = await (await self.open()).list_failures(name, seconds, MAX_READ + 1)
        return summarize(failures[:MAX_READ], limit, len(failures) > MAX_READ)

    async def status(self, *, window: timedelta = _DAY, job_type: str | None = None) -> QueueStatus:
        """How the queue (or one type of job) is: a verdict, the evidence for it, and what to look at next."""
        from dataqueue.status import SAMPLE, judge

        name = None if job_type is None else check_job_type(job_type)
        backend = await self.open()
        failures = await self.summarize_failures(window=window, job_type=name)
        recent = await backend.sample_finished(name, SAMPLE)
        limits = await backend.list_limits()
        return judge(await backend.stats(), recent, failures, await backend.now(), window, name, limits)

    async def doctor(self, *, deep: bool = False) -> list[Finding]:
        """What is wrong with the store, and how to mend it.

        Args:
            deep: also compare every record with every index; reads everything, in bounded steps.
        """
        return await (await self.open()).doctor(deep)

    # -- waiting ------------------------------------------------------------------------------------

    async def wait_for_job(self, job_id: int, *, timeout: float | timedelta | None = None) -> Job:
        """The finished job. See :meth:`JobHandle.wait`."""
        backend = await self.open()
        if self._watch is None:
            self._watch = FinishWatch(backend, self.signals)
        if not _may_exist(job_id):
            raise JobNotFound(job_id)
        await self._watch.wait(job_id, _seconds(timeout))
        return await self.require_job(job_id)

    async def wait_for_result(self, job_id: int, codec: Codec[R], *, timeout: float | timedelta | None = None) -> R:
        """The result of a job, decoded. See :meth:`JobHandle.result`."""
        from dataqueue.jsonvalue import dumps

        job = await self.wait_for_job(job_id, timeout=timeout)
        if job.status == "cancelled":
            raise JobCancelled(job.id, job.job_type)
        if job.status == "failed":
            message = job.last_error or "no error was recorded"
            raise JobFailed(job.id, job.job_type, message, job.failure_reason, job.attempts)
        return codec.decode(dumps(job.output, "result")) if codec.typed else job.output

    # -- changing -----------------------------------------------------------------------------------

    async def cancel_job(self, job_id: int, *, by: str | None = None) -> bool:
        """Cancel a job that is not finished: pending, waiting, running, or failed with a retry due.

        A running one is asked to stop: its handler is cancelled (``ctx.aborted`` for a ``def``
        handler) at once where notifications work, else at its worker's next heartbeat.

        Args:
            by: who wants it, for the job's event log.

        Returns:
            Whether anything changed: False if it was finished already.

        Raises:
            JobNotFound: no such job.
        """
        backend = await self.open()
        result = await backend.cancel(job_id, _check_by(by)) if _may_exist(job_id) else "missing"
        if result == "missing":
            raise JobNotFound(job_id)
        if result == "changed":
            self.hooks.emit(Hook("job:cancelled", job_id))
        return result in ("changed", "requested")

    async def retry_job(self, job_id: int, *, force: bool = False, by: str | None = None) -> bool:
        """Run a failed or cancelled job again, now; ``force`` also a completed one.

        At least one more attempt is granted: ``max_attempts`` is raised where it would be in the way.

        Args:
            by: who wants it, for the job's event log.

        Returns:
            Whether anything changed: False if the job is pending, running or waiting (or completed).

        Raises:
            JobNotFound: no such job.
        """
        backend = await self.open()
        result = await backend.retry(job_id, force, _check_by(by)) if _may_exist(job_id) else "missing"
        if result == "missing":
            raise JobNotFound(job_id)
        if result == "changed":
            self.hooks.emit(Hook("job:retried", job_id))
        return result == "changed"

    async def pause(self, job_type: str | None = None, *, by: str | None = None) -> bool:
        """Let no job of this type be claimed from now on, by any worker; without a type, no job at all.

        Jobs that run go on, and jobs can be added. It lasts until :meth:`resume`, whatever is restarted.

        Args:
            by: who wants it; ``explain_job`` and ``list_limits`` say so.

        Returns:
            Whether anything changed: False if it was paused already.
        """
        name = None if job_type is None else check_job_type(job_type)
        return await (await self.open()).pause(name, _check_by(by))

    async def resume(self, job_type: str | None = None) -> bool:
        """End a :meth:`pause` of this type; without one, the pause of the whole queue (types that were paused by
        themselves stay so). Returns whether anything changed."""
        name = None if job_type is None else check_job_type(job_type)
        return await (await self.open()).resume(name)

    async def list_limits(self) -> list[LimitState]:
        """The types that are limited or paused, with what they use of their limits; first the whole queue, if it is
        paused."""
        return await (await self.open()).list_limits()

    # -- working ------------------------------------------------------------------------------------

    def create_processor(
        self,
        handlers: Mapping[str, AnyHandler] | None = None,
        **options: Unpack[ProcessorOptions],
    ) -> Processor:
        """A worker for this queue, in this process.

        Args:
            handlers: functions by job type; by default those of this queue's definitions. Given both,
                the mapping adds to the definitions and wins where both have a type.
            options: see :class:`dataqueue.worker.options.ProcessorOptions`.

        Raises:
            ConfigError: no handlers at all, or an option out of its range.
        """
        from dataqueue.worker.processor import Processor

        chosen = {name: definition.handler for name, definition in self.definitions.items()}
        for name, function in (handlers or {}).items():
            handler = function.handler if isinstance(function, JobDefinition) else Handler(function, repr(name))
            chosen[check_job_type(name)] = handler
        return Processor(self, chosen, **options)

    # -- hooks --------------------------------------------------------------------------------------

    def on(self, name: HookName, listener: Listener) -> None:
        """Call ``listener`` whenever this queue object does something. See :mod:`dataqueue.events`."""
        self.hooks.on(name, listener)

    def once(self, name: HookName, listener: Listener) -> None:
        """Call ``listener`` the next time only."""
        self.hooks.on(name, listener, once=True)

    def off(self, name: HookName, listener: Listener) -> None:
        """Stop calling ``listener``."""
        self.hooks.off(name, listener)

    def remove_all_listeners(self, name: HookName | None = None) -> None:
        """Forget the listeners of one event, or of all."""
        self.hooks.remove_all(name)


class _JobDecorator:
    """``@queue.job(...)`` with arguments."""

    def __init__(self, queue: JobQueue, name: str | None, options: DefinitionOptions) -> None:
        self._queue = queue
        self._name = name
        self._options = options

    @overload
    def __call__(self, function: Callable[[P, JobContext], Awaitable[R]], /) -> JobDefinition[P, R]: ...
    @overload
    def __call__(self, function: Callable[[P], Awaitable[R]], /) -> JobDefinition[P, R]: ...
    @overload
    def __call__(self, function: Callable[[P, SyncJobContext], R], /) -> JobDefinition[P, R]: ...
    @overload
    def __call__(self, function: Callable[[P], R], /) -> JobDefinition[P, R]: ...
    def __call__(self, function: AnyHandler, /) -> JobDefinition[Any, Any]:
        return self._queue.define(function, self._name, self._options)


def _may_exist(job_id: object) -> bool:
    """Whether a store could have given this id: one from a URL may be 0, or larger than any.

    Raises:
        InvalidJob: not an integer.
    """
    if isinstance(job_id, bool) or not isinstance(job_id, int):
        raise InvalidJob(f"job_id must be an integer, not {job_id!r:.80}.")
    return 1 <= job_id < 2**63


def _check_by(by: object) -> str | None:
    return None if by is None else check_name(by, "by")


def _check_window(window: object) -> timedelta:
    if not isinstance(window, timedelta) or window <= timedelta(0):
        raise InvalidJob(f"window must be a positive timedelta, not {window!r:.80}.")
    return window


def _several(value: object, what: str) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Iterable):
        raise InvalidJob(f"{what} must be a text or a list of texts, not {value!r:.80}.")
    return tuple(cast("Iterable[Any]", value))


def _check_statuses(value: object) -> tuple[JobStatus, ...]:
    statuses = _several(value, "status")
    for status in statuses:
        if status not in STATUSES:
            raise InvalidJob(f"There is no status {status!r}. Statuses: {', '.join(STATUSES)}.")
    return statuses


def _check_tag_mode(mode: object) -> TagMode:
    if mode not in ("all", "any", "exact", "none"):
        raise InvalidJob(f"There is no tag mode {mode!r}. Modes: all, any, exact, none.")
    return mode


def _seconds(timeout: object) -> float | None:
    if timeout is None:
        return None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds >= 0:
        raise InvalidJob(f"timeout must be seconds from 0 or a timedelta, not {timeout!r:.80}.")
    return float(seconds)
