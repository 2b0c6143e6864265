"""JobQueue: the object that users hold. It validates, asks the backend, and emits hooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack, cast, overload

from dataqueue.answering import AnsweringQueue
from dataqueue.backends.base import Added, Backend
from dataqueue.cron_jobs import CronOptions, Missed
from dataqueue.definitions import AnyHandler, Handler, JobDefinition
from dataqueue.dependencies import chained, check_position
from dataqueue.errors import ConfigError, InvalidJob
from dataqueue.events import Hook, HookName, Listener
from dataqueue.jobs import (
    ANY_JSON,
    AddedJobs,
    JobHandle,
)
from dataqueue.options import (
    DefinitionOptions,
    JobOptions,
    JobSpec,
    NewJob,
    check_job_type,
    make_spec,
)
from dataqueue.payloads import Codec
from dataqueue.scheduling import with_payload

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection

    from dataqueue.worker.context import JobContext, SyncJobContext
    from dataqueue.worker.options import ProcessorOptions
    from dataqueue.worker.processor import Processor
    from dataqueue.worker.supervisor import Supervisor, SupervisorOptions

    Conn = AsyncConnection[Any] | Connection[Any]

P = TypeVar("P")
R = TypeVar("R")


class JobQueue(AnsweringQueue):
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

    def cron(
        self,
        expression: str,
        /,
        *,
        timezone: str = "UTC",
        name: str | None = None,
        payload: object = None,
        allow_overlap: bool = False,
        missed: Missed = "run_once",
        **options: Unpack[CronOptions],
    ) -> CronDecorator:
        """Declare a schedule: ``@queue.cron("0 9 * * *", timezone="Europe/Oslo")`` above ``@queue.job``, or in place of it.

        In place of ``@queue.job`` the function may take no parameters at all. When a worker starts, it stores what is
        declared: a schedule that is new is added, one that is declared otherwise is changed. A paused one stays paused,
        and one that is declared no more goes on until it is removed.

        Args:
            name: that of the job type by default.
            payload: of each job.

        For the others see :meth:`add_cron_job`.

        Raises:
            ConfigError, InvalidJob: where it stands.
        """
        policies = {"allow_overlap": allow_overlap, "missed": missed, **options}

        def declare(function: AnyHandler | JobDefinition[Any, Any]) -> JobDefinition[Any, Any]:
            if isinstance(function, JobDefinition):
                definition = cast("JobDefinition[Any, Any]", function)
            else:
                definition = self.define(with_payload(function), None, {})
            self.declare_cron(definition, expression, name, payload, timezone, policies)
            return definition

        return cast("CronDecorator", declare)

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
        added = await self._add_specs([_at(0, self._spec(job_type, payload, options))], conn)
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

    async def chain(self, *steps: NewJob | Sequence[NewJob], conn: Conn | None = None) -> AddedJobs[Any]:
        """Add jobs of which each runs after all of the step before it has ended well; all or none.

        Args:
            steps: ``definition.new(payload, …)`` each, or a list of several that may run side by side (fan-out); the
                next step waits for all of those (fan-in). If one fails for good or is cancelled, what follows is
                cancelled.
            conn: see :meth:`add_job`.

        Returns:
            The handles, in the order of the steps; the last one's ``result()`` is the end of the chain.

        Raises:
            InvalidJob: nothing was stored.
        """
        return await self.add_jobs(chained(steps), conn=conn)

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
                return _at(index, self._spec(job.job_type, job.payload, job.options))
            if not isinstance(job, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidJob(f"a job must be a NewJob or a mapping, not {type(job).__name__}")
            options = dict(job)
            job_type, payload = options.pop("job_type", None), options.pop("payload", None)
            return _at(index, self._spec(cast(str, job_type), payload, cast(JobOptions, options)))
        except InvalidJob as error:
            raise type(error)(f"jobs[{index}]: {error} None of these jobs was stored.") from error

    def _spec(self, job_type: str, payload: object, options: JobOptions) -> JobSpec:
        text = self.encode(job_type, payload)
        definition = self.definitions.get(job_type)
        defaults = definition.defaults if definition is not None else None
        merged = {**defaults, **options} if defaults and options else options or defaults or {}
        return make_spec(job_type, text, merged)

    async def _add_specs(self, specs: Sequence[JobSpec], conn: object | None) -> list[Added]:
        backend = await self._for_adding(conn)
        added = await backend.add(specs, conn)
        self._announce_added(specs, added)
        return added

    async def _for_adding(self, conn: object | None) -> Backend:
        # On a caller's connection nothing of ours needs to be open.
        return self.backend if conn is not None else await self.open()

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

    def create_supervisor(self, **options: Unpack[SupervisorOptions]) -> Supervisor:
        """What keeps this queue tidy, in this process: it takes lost jobs back and deletes old ones.

        ``dataqueue worker`` runs one by itself; a processor of yours does not. Any number of them may run: of those in
        the background one works at a time.

        Args:
            options: see :class:`dataqueue.SupervisorOptions`.

        Raises:
            ConfigError, InvalidJob: an option is unknown or out of its range.
        """
        from dataqueue.worker.supervisor import Supervisor

        return Supervisor(self, **options)

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


def _at(index: int, spec: JobSpec) -> JobSpec:
    check_position(spec.dependencies, index)
    return spec


class CronDecorator(Protocol):
    """``@queue.cron(...)``."""

    @overload
    def __call__(self, function: JobDefinition[P, R], /) -> JobDefinition[P, R]: ...
    @overload
    def __call__(self, function: Callable[[], Awaitable[R]], /) -> JobDefinition[Any, R]: ...
    @overload
    def __call__(self, function: Callable[[P, JobContext], Awaitable[R]], /) -> JobDefinition[P, R]: ...
    @overload
    def __call__(self, function: Callable[[P], Awaitable[R]], /) -> JobDefinition[P, R]: ...
    @overload
    def __call__(self, function: Callable[[P, SyncJobContext], R], /) -> JobDefinition[P, R]: ...
    @overload
    def __call__(self, function: Callable[[P], R], /) -> JobDefinition[P, R]: ...
    @overload
    def __call__(self, function: Callable[[], R], /) -> JobDefinition[Any, R]: ...


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
