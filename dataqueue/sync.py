"""SyncJobQueue: the same queue for code without an event loop, as in Django, Flask and scripts.

Nothing is implemented twice: each call runs the async method on an event loop in a thread of its
own (one for each queue, started on first use, and anew after a ``fork``).
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, Unpack, cast, overload

import anyio
from anyio.from_thread import BlockingPortal

from dataqueue.backends.base import ChangeResult, EndStatus, Finding, Stats, WorkerRecord
from dataqueue.backends.resolve import DEFAULT_POOL_SIZE
from dataqueue.cron_jobs import CronChanges, CronOptions, CronSchedule, Missed, ScheduleStatus
from dataqueue.definitions import AnyHandler, JobDefinition
from dataqueue.dependencies import chained
from dataqueue.errors import WrongLoop
from dataqueue.events import HookName, Listener
from dataqueue.filters import JobFilters
from dataqueue.jobs import AddedJobs, Job, JobEvent, JobHandle, JobPage, JobStatus, TagMode
from dataqueue.limits import LimitState
from dataqueue.options import DefinitionOptions, JobChanges, JobOptions, NewJob
from dataqueue.queue import JobQueue
from dataqueue.steps import Step
from dataqueue.tasks import running_loop
from dataqueue.tls import TLS
from dataqueue.tokens import Token

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from psycopg import Connection
    from psycopg_pool import AsyncConnectionPool

    from dataqueue.explain import Explanation
    from dataqueue.failures import FailureSummary
    from dataqueue.status import QueueStatus
    from dataqueue.worker.context import JobContext, SyncJobContext
    from dataqueue.worker.supervisor import Supervisor, SupervisorOptions, SupervisorResult

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")


class SyncJobQueue:
    """A :class:`dataqueue.JobQueue` whose methods block. ``queue`` is that JobQueue, as a worker needs it.

    Safe to use from several threads, at module level, and across ``fork`` (``gunicorn --preload``).
    Not for use inside a running event loop: that would block it.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[Any] | None = None,
        *,
        client: Any = None,
        schema: str | None = None,
        key_prefix: str | None = None,
    ) -> None:
        self._set_up(JobQueue(pool, client=client, schema=schema, key_prefix=key_prefix))

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
    ) -> SyncJobQueue:
        """See :meth:`dataqueue.JobQueue.from_url`."""
        sync = cls.__new__(cls)
        sync._set_up(
            JobQueue.from_url(
                url,
                schema=schema,
                key_prefix=key_prefix,
                tls=tls,
                min_connections=min_connections,
                max_connections=max_connections,
                read_only=read_only,
            )
        )
        return sync

    @classmethod
    def over(cls, queue: JobQueue) -> SyncJobQueue:
        """The blocking side of a JobQueue that is there already."""
        sync = cls.__new__(cls)
        sync._set_up(queue)
        return sync

    def _set_up(self, queue: JobQueue) -> None:
        self.queue = queue
        self._lock = threading.Lock()
        self._portal: BlockingPortal | None = None
        _follow_process(self)

    def run(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run an async operation of the queue and wait for it."""
        loop = self.queue.open_on()
        if loop is not None:
            # On our portal's loop; or, in a worker, on the worker's, which a handler's thread can ask.
            if loop is running_loop():
                raise WrongLoop(
                    "A SyncJobQueue was used on the event loop that works it: it would wait for itself. "
                    "Use its async side there: await sync_queue.queue.add_job(…)."
                )
            return asyncio.run_coroutine_threadsafe(operation(), loop).result()
        with self._lock:
            if self._portal is None:
                self._portal = _start_portal()
            portal = self._portal
        return portal.call(operation)

    def _after_fork(self) -> None:
        """In a forked child the portal's thread does not exist; its queue reopens by itself."""
        self._lock = threading.Lock()
        self._portal = None
        self.queue.abandon()

    def close(self) -> None:
        """Disconnect and end the thread. The queue opens again when it is used again."""
        with self._lock:
            portal, self._portal = self._portal, None
        if portal is not None:
            portal.call(self.queue.close)
            portal.call(portal.stop)

    def _at_exit(self) -> None:
        try:
            self.close()
        except Exception:  # the interpreter is going: there is nobody to tell
            self.queue.abandon()

    def __enter__(self) -> SyncJobQueue:
        self.run(self.queue.open)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def migrate(self, *, shared_typescript: bool = False) -> list[str]:
        """See :meth:`dataqueue.JobQueue.migrate`."""
        return self.run(lambda: self.queue.migrate(shared_typescript=shared_typescript))

    # -- definitions --------------------------------------------------------------------------------

    @overload
    def job(self, function: Callable[[P, JobContext], Awaitable[R]], /) -> SyncJobDefinition[P, R]: ...
    @overload
    def job(self, function: Callable[[P], Awaitable[R]], /) -> SyncJobDefinition[P, R]: ...
    @overload
    def job(self, function: Callable[[P, SyncJobContext], R], /) -> SyncJobDefinition[P, R]: ...
    @overload
    def job(self, function: Callable[[P], R], /) -> SyncJobDefinition[P, R]: ...
    @overload
    def job(self, name: str | None = None, /, **options: Unpack[DefinitionOptions]) -> _SyncJobDecorator: ...
    def job(self, function: AnyHandler | str | None = None, /, **options: Unpack[DefinitionOptions]) -> Any:
        """See :meth:`dataqueue.JobQueue.job`."""
        if callable(function):
            return SyncJobDefinition(self, self.queue.define(function, None, options))
        return _SyncJobDecorator(self, function, options)

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
    ) -> SyncCronDecorator:
        """See :meth:`dataqueue.JobQueue.cron`."""
        declare: Any = self.queue.cron(
            expression, timezone=timezone, name=name, payload=payload, allow_overlap=allow_overlap, missed=missed, **options
        )  # fmt: skip

        def wrap(function: Any) -> Any:
            if isinstance(function, SyncJobDefinition):
                declare(cast("SyncJobDefinition[Any, Any]", function).definition)
                return cast("SyncJobDefinition[Any, Any]", function)
            return SyncJobDefinition(self, declare(function))

        return cast("SyncCronDecorator", wrap)

    # -- adding -------------------------------------------------------------------------------------

    def add_job(
        self,
        job_type: str,
        payload: object = None,
        *,
        conn: Connection[Any] | None = None,
        **options: Unpack[JobOptions],
    ) -> SyncJobHandle[Any]:
        """See :meth:`dataqueue.JobQueue.add_job`. With ``conn`` the job is added on it, in this thread."""
        if conn is None:
            return SyncJobHandle(self, self.run(lambda: self.queue.add_job(job_type, payload, **options)))
        return SyncJobHandle(self, self.queue.add_all_sync([NewJob(job_type, payload, options)], conn)[0])

    def add_jobs(
        self, jobs: Iterable[NewJob | Mapping[str, Any]], *, conn: Connection[Any] | None = None
    ) -> SyncAddedJobs[Any]:
        """See :meth:`dataqueue.JobQueue.add_jobs`."""
        if conn is None:
            return SyncAddedJobs(self, self.run(lambda: self.queue.add_jobs(jobs)))
        return SyncAddedJobs(self, self.queue.add_all_sync(jobs, conn))

    def chain(self, *steps: NewJob | Sequence[NewJob], conn: Connection[Any] | None = None) -> SyncAddedJobs[Any]:
        """See :meth:`dataqueue.JobQueue.chain`."""
        return self.add_jobs(chained(steps), conn=conn)

    # -- reading ------------------------------------------------------------------------------------

    def get_job(self, job_id: int) -> Job | None:
        """See :meth:`dataqueue.JobQueue.get_job`."""
        return self.run(lambda: self.queue.get_job(job_id))

    def require_job(self, job_id: int) -> Job:
        """See :meth:`dataqueue.JobQueue.require_job`."""
        return self.run(lambda: self.queue.require_job(job_id))

    def get_jobs(
        self,
        *,
        limit: int = 100,
        cursor: int | None = None,
        offset: int = 0,
        values: bool = True,
        **filters: Unpack[JobFilters],
    ) -> JobPage:
        """See :meth:`dataqueue.JobQueue.get_jobs`."""
        return self.run(
            lambda: self.queue.get_jobs(limit=limit, cursor=cursor, offset=offset, values=values, **filters)
        )

    def get_jobs_by_status(
        self, status: JobStatus, *, limit: int = 100, cursor: int | None = None, offset: int = 0
    ) -> JobPage:
        """See :meth:`dataqueue.JobQueue.get_jobs_by_status`."""
        return self.get_jobs(status=status, limit=limit, cursor=cursor, offset=offset)

    def get_jobs_by_tags(
        self,
        tags: Iterable[str],
        mode: TagMode = "all",
        *,
        limit: int = 100,
        cursor: int | None = None,
        offset: int = 0,
    ) -> JobPage:
        """See :meth:`dataqueue.JobQueue.get_jobs_by_tags`."""
        return self.get_jobs(tags=tags, tag_mode=mode, limit=limit, cursor=cursor, offset=offset)

    def get_all_jobs(self, *, limit: int = 100, cursor: int | None = None, offset: int = 0) -> JobPage:
        """See :meth:`dataqueue.JobQueue.get_all_jobs`."""
        return self.get_jobs(limit=limit, cursor=cursor, offset=offset)

    def get_job_events(self, job_id: int) -> list[JobEvent]:
        """See :meth:`dataqueue.JobQueue.get_job_events`."""
        return self.run(lambda: self.queue.get_job_events(job_id))

    def stats(self) -> Stats:
        """See :meth:`dataqueue.JobQueue.stats`."""
        return self.run(self.queue.stats)

    def list_workers(self) -> list[WorkerRecord]:
        """See :meth:`dataqueue.JobQueue.list_workers`."""
        return self.run(self.queue.list_workers)

    def explain_job(self, job_id: int) -> Explanation:
        """See :meth:`dataqueue.JobQueue.explain_job`."""
        return self.run(lambda: self.queue.explain_job(job_id))

    def summarize_failures(
        self, *, window: timedelta = timedelta(days=1), job_type: str | None = None, limit: int = 10
    ) -> FailureSummary:
        """See :meth:`dataqueue.JobQueue.summarize_failures`."""
        return self.run(lambda: self.queue.summarize_failures(window=window, job_type=job_type, limit=limit))

    def status(self, *, window: timedelta = timedelta(days=1), job_type: str | None = None) -> QueueStatus:
        """See :meth:`dataqueue.JobQueue.status`."""
        return self.run(lambda: self.queue.status(window=window, job_type=job_type))

    def doctor(self, *, deep: bool = False) -> list[Finding]:
        """See :meth:`dataqueue.JobQueue.doctor`."""
        return self.run(lambda: self.queue.doctor(deep=deep))

    def wait_for_job(self, job_id: int, *, timeout: float | timedelta | None = None) -> Job:
        """See :meth:`dataqueue.JobQueue.wait_for_job`."""
        return self.run(lambda: self.queue.wait_for_job(job_id, timeout=timeout))

    # -- changing -----------------------------------------------------------------------------------

    def redrive(self, job_id: int, *, by: str | None = None) -> SyncJobHandle[Any]:
        """See :meth:`dataqueue.JobQueue.redrive`."""
        return SyncJobHandle(self, self.run(lambda: self.queue.redrive(job_id, by=by)))

    def redrive_all(
        self, job_type: str, *, limit: int = 1000, dry_run: bool = False, by: str | None = None
    ) -> list[SyncJobHandle[Any]]:
        """See :meth:`dataqueue.JobQueue.redrive_all`."""
        handles = self.run(lambda: self.queue.redrive_all(job_type, limit=limit, dry_run=dry_run, by=by))
        return [SyncJobHandle(self, handle) for handle in handles]

    def pause(self, job_type: str | None = None, *, by: str | None = None) -> bool:
        """See :meth:`dataqueue.JobQueue.pause`."""
        return self.run(lambda: self.queue.pause(job_type, by=by))

    def resume(self, job_type: str | None = None) -> bool:
        """See :meth:`dataqueue.JobQueue.resume`."""
        return self.run(lambda: self.queue.resume(job_type))

    def list_limits(self) -> list[LimitState]:
        """See :meth:`dataqueue.JobQueue.list_limits`."""
        return self.run(self.queue.list_limits)

    def edit_job(self, job_id: int, *, by: str | None = None, **changes: Unpack[JobChanges]) -> bool:
        """See :meth:`dataqueue.JobQueue.edit_job`."""
        return self.run(lambda: self.queue.edit_job(job_id, by=by, **changes))

    def edit_all_pending_jobs(
        self, changes: JobChanges, *, dry_run: bool = False, by: str | None = None, **filters: Unpack[JobFilters]
    ) -> int:
        """See :meth:`dataqueue.JobQueue.edit_all_pending_jobs`."""
        return self.run(lambda: self.queue.edit_all_pending_jobs(changes, dry_run=dry_run, by=by, **filters))

    def cancel_job(self, job_id: int, *, by: str | None = None) -> bool:
        """See :meth:`dataqueue.JobQueue.cancel_job`."""
        return self.run(lambda: self.queue.cancel_job(job_id, by=by))

    def cancel_jobs(self, job_ids: Iterable[int], *, by: str | None = None) -> dict[int, ChangeResult]:
        """See :meth:`dataqueue.JobQueue.cancel_jobs`."""
        return self.run(lambda: self.queue.cancel_jobs(job_ids, by=by))

    def cancel_all_upcoming_jobs(
        self, *, dry_run: bool = False, by: str | None = None, **filters: Unpack[JobFilters]
    ) -> int:
        """See :meth:`dataqueue.JobQueue.cancel_all_upcoming_jobs`."""
        return self.run(lambda: self.queue.cancel_all_upcoming_jobs(dry_run=dry_run, by=by, **filters))

    def retry_job(self, job_id: int, *, force: bool = False, by: str | None = None) -> bool:
        """See :meth:`dataqueue.JobQueue.retry_job`."""
        return self.run(lambda: self.queue.retry_job(job_id, force=force, by=by))

    def retry_jobs(
        self, job_ids: Iterable[int], *, force: bool = False, by: str | None = None
    ) -> dict[int, ChangeResult]:
        """See :meth:`dataqueue.JobQueue.retry_jobs`."""
        return self.run(lambda: self.queue.retry_jobs(job_ids, force=force, by=by))

    def retry_all_failed_jobs(
        self, *, dry_run: bool = False, by: str | None = None, **filters: Unpack[JobFilters]
    ) -> int:
        """See :meth:`dataqueue.JobQueue.retry_all_failed_jobs`."""
        return self.run(lambda: self.queue.retry_all_failed_jobs(dry_run=dry_run, by=by, **filters))

    # -- schedules ----------------------------------------------------------------------------------

    def add_cron_job(
        self,
        name: str,
        expression: str,
        job_type: str | SyncJobDefinition[Any, Any],
        payload: object = None,
        *,
        timezone: str = "UTC",
        allow_overlap: bool = False,
        missed: Missed = "run_once",
        **options: Unpack[CronOptions],
    ) -> CronSchedule:
        """See :meth:`dataqueue.JobQueue.add_cron_job`."""
        kind = job_type if isinstance(job_type, str) else job_type.name
        return self.run(
            lambda: self.queue.add_cron_job(
                name,
                expression,
                kind,
                payload,
                timezone=timezone,
                allow_overlap=allow_overlap,
                missed=missed,
                **options,
            )
        )

    def edit_cron_job(self, which: int | str, **changes: Unpack[CronChanges]) -> CronSchedule:
        """See :meth:`dataqueue.JobQueue.edit_cron_job`."""
        return self.run(lambda: self.queue.edit_cron_job(which, **changes))

    def pause_cron_job(self, which: int | str) -> bool:
        """See :meth:`dataqueue.JobQueue.pause_cron_job`."""
        return self.run(lambda: self.queue.pause_cron_job(which))

    def resume_cron_job(self, which: int | str) -> bool:
        """See :meth:`dataqueue.JobQueue.resume_cron_job`."""
        return self.run(lambda: self.queue.resume_cron_job(which))

    def remove_cron_job(self, which: int | str) -> None:
        """See :meth:`dataqueue.JobQueue.remove_cron_job`."""
        self.run(lambda: self.queue.remove_cron_job(which))

    def create_token(self, *, timeout: timedelta | str | None = None, tags: Iterable[str] | None = None) -> Token:
        """See :meth:`dataqueue.JobQueue.create_token`."""
        return self.run(lambda: self.queue.create_token(timeout=timeout, tags=tags))

    def complete_token(self, token_id: str, output: object = None) -> Token:
        """See :meth:`dataqueue.JobQueue.complete_token`."""
        return self.run(lambda: self.queue.complete_token(token_id, output))

    def fail_token(self, token_id: str, error: str) -> Token:
        """See :meth:`dataqueue.JobQueue.fail_token`."""
        return self.run(lambda: self.queue.fail_token(token_id, error))

    def get_token(self, token_id: str) -> Token | None:
        """See :meth:`dataqueue.JobQueue.get_token`."""
        return self.run(lambda: self.queue.get_token(token_id))

    def expire_timed_out_tokens(self) -> int:
        """See :meth:`dataqueue.JobQueue.expire_timed_out_tokens`."""
        return self.run(self.queue.expire_timed_out_tokens)

    def get_job_steps(self, job_id: int) -> list[Step]:
        """See :meth:`dataqueue.JobQueue.get_job_steps`."""
        return self.run(lambda: self.queue.get_job_steps(job_id))

    def get_cron_job(self, schedule_id: int) -> CronSchedule:
        """See :meth:`dataqueue.JobQueue.get_cron_job`."""
        return self.run(lambda: self.queue.get_cron_job(schedule_id))

    def get_cron_job_by_name(self, name: str) -> CronSchedule | None:
        """See :meth:`dataqueue.JobQueue.get_cron_job_by_name`."""
        return self.run(lambda: self.queue.get_cron_job_by_name(name))

    def list_cron_jobs(self, status: ScheduleStatus | None = None) -> list[CronSchedule]:
        """See :meth:`dataqueue.JobQueue.list_cron_jobs`."""
        return self.run(lambda: self.queue.list_cron_jobs(status))

    def enqueue_due_cron_jobs(self) -> list[SyncJobHandle[Any]]:
        """See :meth:`dataqueue.JobQueue.enqueue_due_cron_jobs`."""
        return [SyncJobHandle(self, handle) for handle in self.run(self.queue.enqueue_due_cron_jobs)]

    # -- cleaning up --------------------------------------------------------------------------------

    def reclaim_stuck_jobs(self) -> int:
        """See :meth:`dataqueue.JobQueue.reclaim_stuck_jobs`."""
        return self.run(self.queue.reclaim_stuck_jobs)

    def cleanup_old_jobs(
        self,
        older_than: timedelta = timedelta(days=30),
        *,
        status: EndStatus | Iterable[EndStatus] = "completed",
        batch_size: int = 1000,
        dry_run: bool = False,
    ) -> int:
        """See :meth:`dataqueue.JobQueue.cleanup_old_jobs`."""
        return self.run(
            lambda: self.queue.cleanup_old_jobs(older_than, status=status, batch_size=batch_size, dry_run=dry_run)
        )

    def cleanup_old_job_events(self, older_than: timedelta = timedelta(days=90), *, batch_size: int = 1000) -> int:
        """See :meth:`dataqueue.JobQueue.cleanup_old_job_events`."""
        return self.run(lambda: self.queue.cleanup_old_job_events(older_than, batch_size=batch_size))

    def cleanup_old_tokens(self, older_than: timedelta = timedelta(days=90), *, batch_size: int = 1000) -> int:
        """See :meth:`dataqueue.JobQueue.cleanup_old_tokens`."""
        return self.run(lambda: self.queue.cleanup_old_tokens(older_than, batch_size=batch_size))

    def release_idempotency_keys(self, older_than: timedelta, *, batch_size: int = 1000) -> int:
        """See :meth:`dataqueue.JobQueue.release_idempotency_keys`."""
        return self.run(lambda: self.queue.release_idempotency_keys(older_than, batch_size=batch_size))

    def create_supervisor(self, **options: Unpack[SupervisorOptions]) -> SyncSupervisor:
        """See :meth:`dataqueue.JobQueue.create_supervisor`. In the background it is ``dataqueue worker`` or
        ``dataqueue supervisor`` that runs one."""
        return SyncSupervisor(self, self.queue.create_supervisor(**options))

    # -- hooks --------------------------------------------------------------------------------------

    def on(self, name: HookName, listener: Listener) -> None:
        """See :meth:`dataqueue.JobQueue.on`. Listeners are called in the queue's own thread."""
        self.queue.on(name, listener)

    def once(self, name: HookName, listener: Listener) -> None:
        """See :meth:`dataqueue.JobQueue.once`."""
        self.queue.once(name, listener)

    def off(self, name: HookName, listener: Listener) -> None:
        """See :meth:`dataqueue.JobQueue.off`."""
        self.queue.off(name, listener)

    def remove_all_listeners(self, name: HookName | None = None) -> None:
        """See :meth:`dataqueue.JobQueue.remove_all_listeners`."""
        self.queue.remove_all_listeners(name)


class SyncSupervisor:
    """A :class:`dataqueue.Supervisor` that runs when it is told to."""

    def __init__(self, sync: SyncJobQueue, supervisor: Supervisor) -> None:
        self._sync = sync
        self._supervisor = supervisor

    def start(self) -> SupervisorResult:
        """See :meth:`dataqueue.Supervisor.start`."""
        return self._sync.run(self._supervisor.start)


class SyncJobHandle(Generic[R]):
    """A :class:`dataqueue.JobHandle` whose methods block."""

    def __init__(self, sync: SyncJobQueue, handle: JobHandle[R]) -> None:
        self._sync = sync
        self._handle = handle

    @property
    def id(self) -> int:
        return self._handle.id

    @property
    def created(self) -> bool:
        """Whether this call added the job; False if the idempotency key was taken."""
        return self._handle.created

    def wait(self, timeout: float | timedelta | None = None) -> Job:
        """See :meth:`dataqueue.JobHandle.wait`."""
        return self._sync.run(lambda: self._handle.wait(timeout))

    def result(self, timeout: float | timedelta | None = None) -> R:
        """See :meth:`dataqueue.JobHandle.result`."""
        return self._sync.run(lambda: self._handle.result(timeout))

    def updates(self, *, every: float | timedelta = 1.0) -> Iterator[Job]:
        """See :meth:`dataqueue.JobHandle.updates`."""
        updates = self._handle.updates(every=every)
        while (job := self._sync.run(lambda: _next(updates))) is not None:
            yield job

    def refresh(self) -> Job:
        """See :meth:`dataqueue.JobHandle.refresh`."""
        return self._sync.run(self._handle.refresh)

    def cancel(self, *, by: str | None = None) -> bool:
        """See :meth:`dataqueue.JobHandle.cancel`."""
        return self._sync.run(lambda: self._handle.cancel(by=by))

    def edit(self, *, by: str | None = None, **changes: Unpack[JobChanges]) -> bool:
        """See :meth:`dataqueue.JobHandle.edit`."""
        return self._sync.run(lambda: self._handle.edit(by=by, **changes))

    def __repr__(self) -> str:
        return f"SyncJobHandle(id={self.id}, created={self.created})"


async def _next(updates: AsyncIterator[Job]) -> Job | None:
    return await anext(updates, None)


class SyncAddedJobs(Sequence[SyncJobHandle[R]], Generic[R]):
    """The handles of a bulk add, in the order of its jobs."""

    def __init__(self, sync: SyncJobQueue, added: AddedJobs[R]) -> None:
        self._sync = sync
        self._added = added

    @property
    def ids(self) -> list[int]:
        return self._added.ids

    @overload
    def __getitem__(self, index: int) -> SyncJobHandle[R]: ...
    @overload
    def __getitem__(self, index: slice) -> list[SyncJobHandle[R]]: ...
    def __getitem__(self, index: int | slice) -> SyncJobHandle[R] | list[SyncJobHandle[R]]:
        if isinstance(index, slice):
            return [SyncJobHandle(self._sync, handle) for handle in self._added[index]]
        return SyncJobHandle(self._sync, self._added[index])

    def __len__(self) -> int:
        return len(self._added)

    def __iter__(self) -> Iterator[SyncJobHandle[R]]:
        return (SyncJobHandle(self._sync, handle) for handle in self._added)


class SyncJobDefinition(Generic[P, R]):
    """A :class:`dataqueue.JobDefinition` whose ``add`` blocks."""

    def __init__(self, sync: SyncJobQueue, definition: JobDefinition[P, R]) -> None:
        self._sync = sync
        self.definition = definition
        self.name = definition.name
        self.__doc__ = definition.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.definition(*args, **kwargs)

    def add(
        self, payload: P, *, conn: Connection[Any] | None = None, **options: Unpack[JobOptions]
    ) -> SyncJobHandle[R]:
        """Add one job of this type. See :meth:`dataqueue.JobQueue.add_job`."""
        if conn is None:
            return SyncJobHandle(self._sync, self._sync.run(lambda: self.definition.add(payload, **options)))
        return self.add_many([payload], conn=conn, **options)[0]

    def add_many(
        self, payloads: Iterable[P], *, conn: Connection[Any] | None = None, **options: Unpack[JobOptions]
    ) -> SyncAddedJobs[R]:
        """Add many jobs of this type. See :meth:`dataqueue.JobQueue.add_jobs`."""
        if conn is None:
            return SyncAddedJobs(self._sync, self._sync.run(lambda: self.definition.add_many(payloads, **options)))
        jobs = [self.new(payload, **options) for payload in payloads]
        codec = self.definition.handler.result
        return SyncAddedJobs(self._sync, self._sync.queue.add_all_sync(jobs, conn, codec))

    def new(self, payload: P, **options: Unpack[JobOptions]) -> NewJob:
        """A job of this type for ``queue.add_jobs``."""
        return self.definition.new(payload, **options)

    def __repr__(self) -> str:
        return repr(self.definition)


class SyncCronDecorator(Protocol):
    """``@queue.cron(...)``."""

    @overload
    def __call__(self, function: SyncJobDefinition[P, R], /) -> SyncJobDefinition[P, R]: ...
    @overload
    def __call__(self, function: Callable[[P, SyncJobContext], R], /) -> SyncJobDefinition[P, R]: ...
    @overload
    def __call__(self, function: Callable[[P], R], /) -> SyncJobDefinition[P, R]: ...
    @overload
    def __call__(self, function: Callable[[], R], /) -> SyncJobDefinition[Any, R]: ...


class _SyncJobDecorator:
    def __init__(self, sync: SyncJobQueue, name: str | None, options: DefinitionOptions) -> None:
        self._sync = sync
        self._name = name
        self._options = options

    @overload
    def __call__(self, function: Callable[[P, JobContext], Awaitable[R]], /) -> SyncJobDefinition[P, R]: ...
    @overload
    def __call__(self, function: Callable[[P], Awaitable[R]], /) -> SyncJobDefinition[P, R]: ...
    @overload
    def __call__(self, function: Callable[[P, SyncJobContext], R], /) -> SyncJobDefinition[P, R]: ...
    @overload
    def __call__(self, function: Callable[[P], R], /) -> SyncJobDefinition[P, R]: ...
    def __call__(self, function: AnyHandler, /) -> SyncJobDefinition[Any, Any]:
        return SyncJobDefinition(self._sync, self._sync.queue.define(function, self._name, self._options))


def _start_portal() -> BlockingPortal:
    # Not anyio's start_blocking_portal: its context manager, left behind in a forked child, would wait
    # there for a thread that does not exist. A daemon thread, so that a script need not close() to end.
    ready: Future[BlockingPortal] = Future()

    async def serve() -> None:
        async with BlockingPortal() as portal:
            ready.set_result(portal)
            await portal.sleep_until_stopped()

    # psycopg cannot use the loop that Windows has by default.
    options = {"loop_factory": asyncio.SelectorEventLoop} if sys.platform == "win32" else {}
    run = functools.partial(anyio.run, serve, backend_options=options)
    threading.Thread(target=run, name="dataqueue-sync", daemon=True).start()
    return ready.result()


def _follow_process(sync: SyncJobQueue) -> None:
    reference = weakref.ref(sync)

    def forget() -> None:
        alive = reference()
        if alive is not None:
            alive._after_fork()  # pyright: ignore[reportPrivateUsage]

    def leave() -> None:
        alive = reference()
        if alive is not None:
            alive._at_exit()  # pyright: ignore[reportPrivateUsage]

    atexit.register(leave)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)
