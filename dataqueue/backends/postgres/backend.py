"""The Postgres store: one statement, or one pipeline of statements, an operation."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, LiteralString, TypeVar

import psycopg
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool

from dataqueue.backends.base import (
    AHEAD_LIMIT,
    CANCELLABLE,
    RETRYABLE,
    UNMET_SHOWN,
    Added,
    ChangeResult,
    Cycle,
    EndStatus,
    FailedJob,
    Finding,
    Heart,
    Held,
    JobFilter,
    Outcome,
    Reclaimed,
    Signal,
    Situation,
    Stats,
    Timing,
    Topic,
    WorkerInfo,
    WorkerRecord,
    may_go,
)
from dataqueue.backends.postgres import adding, changing, cleaning, doctor, durable, migrate, schedules
from dataqueue.backends.postgres.connect import (
    POOL_TIMEOUT,
    READER_TIMEOUT,
    UNDONE,
    create_pool,
    describe,
    end_with_loop,
    is_pooled,
    looks_dead,
    migrate_hint,
    parse_url,
    store_errors,
)
from dataqueue.backends.postgres.cycle import Cycling
from dataqueue.backends.postgres.heart import PostgresHeart
from dataqueue.backends.postgres.listen import listen
from dataqueue.backends.postgres.records import (
    event_from,
    failure_from,
    filter_parameters,
    job_from,
    limit_from,
    timing_from,
    worker_from,
    worker_parameters,
)
from dataqueue.backends.postgres.statements import Statements, check_schema
from dataqueue.cron_jobs import CronSchedule, FirePlan, ScheduleChange, ScheduleStatus
from dataqueue.dead_letters import DeadLetter
from dataqueue.errors import ConfigError, SchemaError, StoreUnavailable
from dataqueue.jobs import Job, JobEvent, JobStatus
from dataqueue.limits import LimitState, TypeLimits
from dataqueue.options import JobEdit, JobSpec
from dataqueue.steps import StepRecord
from dataqueue.tasks import end_tasks
from dataqueue.tls import TLS
from dataqueue.tokens import Token, TokenSpec

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection

    AnyPool = AsyncConnectionPool[Any]

T = TypeVar("T")

_TRIES = 3
_DEADLOCKS = 10
"""Tries of what others' locks have undone: one of them has gone on each time."""
_COUNT_COMPLETED_BELOW = 500_000
"""Rows up to which completed jobs are counted one by one; beyond, the planner's estimate serves."""

_READ_SETTINGS: LiteralString = (
    "SELECT set_config('statement_timeout', '10s', true), set_config('lock_timeout', '2s', true)"
)


class PostgresBackend:
    name = "postgres"

    def __init__(
        self,
        conninfo: str,
        pool: AnyPool | None,
        schema: str | None,
        pool_size: tuple[int, int],
        read_only: bool = False,
    ) -> None:
        if schema is not None:
            check_schema(schema)
        self.conninfo = conninfo
        self.connect_kwargs = {
            name: value
            for name, value in ((pool.kwargs or {}) if pool is not None else {}).items()  # type: ignore[union-attr]
            if name not in ("row_factory", "autocommit", "context")
        }
        self._given_schema = schema
        self.read_only = read_only
        self._own_pool = pool is None
        self._pool_size = pool_size
        self._pool: AnyPool | None = pool
        self._guard: asyncio.Task[None] | None = None
        self._statements: Statements | None = Statements(schema) if schema else None
        self.shared = False
        self._where = describe(conninfo)
        self._lent: asyncio.Semaphore | None = None
        self._cycling = Cycling(self)
        self._adding = adding.Adding(self)

    @classmethod
    def from_url(
        cls, url: str, *, schema: str | None, tls: TLS | None, pool_size: tuple[int, int], read_only: bool
    ) -> PostgresBackend:
        conninfo, named = parse_url(url, tls)
        return cls(conninfo, None, named if schema is None else schema, pool_size, read_only)

    @classmethod
    def from_pool(cls, pool: AnyPool, *, schema: str | None) -> PostgresBackend:
        if not isinstance(pool, AsyncConnectionPool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(
                f"pool must be a psycopg_pool.AsyncConnectionPool, not {type(pool).__name__}. "
                "Use JobQueue.from_url() to let dataqueue make one."
            )
        conninfo = pool.conninfo
        if not isinstance(conninfo, str):
            raise ConfigError("A pool whose conninfo is a function is not supported: pass a plain string.")
        return cls(conninfo, pool, schema, (0, 0))

    # -- opening ----------------------------------------------------------------------------------

    @property
    def statements(self) -> Statements:
        if self._statements is None:
            raise SchemaError("The queue is not open yet: await queue.open() first.")
        return self._statements

    def location(self) -> str:
        schema = self._statements.schema if self._statements else self._given_schema
        return f"{self._where}, schema {schema}" if schema else self._where

    async def open(self) -> None:
        if self._own_pool:
            # One plain connection first: where nobody answers, a pool would keep trying for a while.
            with store_errors(self.location(), sent=False):
                async with await psycopg.AsyncConnection.connect(self.conninfo) as conn:
                    if await is_pooled(conn):
                        self.connect_kwargs["prepare_threshold"] = None
            self._pool = create_pool(
                self.conninfo, *self._pool_size, self.connect_kwargs, READER_TIMEOUT if self.read_only else POOL_TIMEOUT
            )
            # Waiting for the first connections leaves no attempt under way when a short program ends.
            await self._pool.open(wait=True, timeout=POOL_TIMEOUT)
            self._guard = end_with_loop(self._pool)
        elif self._pool is not None and self._pool.closed:
            # A pool that was never opened, as its constructor recommends; opening it is not owning it.
            await self._pool.open()
        try:
            await self._check_schema()
        except BaseException:
            await self.close()
            raise

    async def _check_schema(self) -> None:
        if self._statements is None:
            found = await self.read(migrate.FIND_SCHEMA, {"schema": self._given_schema})
            if not found:
                raise SchemaError(
                    f"There are no dataqueue tables at {self.location()}. {migrate_hint(self._given_schema)}"
                )
            self._statements = Statements(found[0][0])
        try:
            rows = await self.read(self.statements("read_version"), {})
        except SchemaError:
            raise SchemaError(
                f"The tables at {self.location()} are missing or were not made by this package. {migrate_hint(self._given_schema)}"
            ) from None
        version, shared = rows[0]
        migrate.check_version(version, self.location())
        self.shared = bool(shared)

    async def close(self) -> None:
        self._lent = None
        if self._own_pool and self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.close(timeout=5)
            await end_tasks(self._guard)
        if self._given_schema is None:
            self._statements = None

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[AsyncConnection[Any]]:
        """A live connection in autocommit mode; a caller's pool gets it back as it was."""
        if self._pool is None:
            raise StoreUnavailable(f"The queue at {self.location()} is closed.")
        with store_errors(self.location()):
            async with self._live_connection(self._pool) as conn:
                if self.read_only:
                    # In a transaction, since a session's settings would leak through a transaction-pooling PgBouncer.
                    await conn.set_read_only(True)
                    async with conn.transaction():
                        await conn.execute(_READ_SETTINGS)
                        yield conn
                    return
                if conn.autocommit:
                    yield conn
                    return
                await conn.set_autocommit(True)
                try:
                    yield conn
                finally:
                    if not conn.closed:
                        await conn.set_autocommit(False)

    @asynccontextmanager
    async def _live_connection(self, pool: AnyPool) -> AsyncGenerator[AsyncConnection[Any]]:
        # Killed idle connections (fail-over, an administrator) are replaced before they are used.
        for _ in range(pool.max_size + 1):
            conn = await pool.getconn()
            try:
                if looks_dead(conn):
                    await conn.execute("SELECT 1")
            except psycopg.Error:
                await pool.putconn(conn)
                continue
            except BaseException:
                await pool.putconn(conn)
                raise
            break
        else:
            raise psycopg.OperationalError("every connection of the pool was closed by the server")
        try:
            yield conn
        finally:
            await pool.putconn(conn)

    async def read(self, sql: LiteralString, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Run a query that changes nothing; a connection lost meanwhile is no reason to fail."""

        async def read(conn: AsyncConnection[Any]) -> list[tuple[Any, ...]]:
            cursor = await conn.cursor(row_factory=tuple_row).execute(sql, parameters, prepare=False)
            return await cursor.fetchall()

        return await self.on_some_connection(read, psycopg.OperationalError)

    async def write(
        self, sql: LiteralString, parameters: dict[str, Any], *, prepare: bool | None = None
    ) -> psycopg.AsyncCursor[tuple[Any, ...]]:
        """Run one statement, which is a transaction."""

        async def write(conn: AsyncConnection[Any]) -> psycopg.AsyncCursor[tuple[Any, ...]]:
            return await conn.cursor(row_factory=tuple_row).execute(sql, parameters, prepare=prepare)

        # A backend that was told to end says so before it executes a statement, or instead of committing
        # it, but never after the commit: the statement can be sent again. Any other loss leaves it open.
        return await self.on_some_connection(write, UNDONE)

    async def on_some_connection(
        self,
        operation: Callable[[AsyncConnection[Any]], Awaitable[T]],
        harmless: type[psycopg.Error] | tuple[type[psycopg.Error], ...],
    ) -> T:
        failures: Counter[bool] = Counter()
        while True:
            try:
                async with self.connection() as conn:
                    return await operation(conn)
            except StoreUnavailable as error:
                deadlock = isinstance(error.__cause__, psycopg.errors.DeadlockDetected)
                failures[deadlock] += 1
                most = _DEADLOCKS if deadlock else _TRIES
                if failures[deadlock] >= most or not isinstance(error.__cause__, harmless):
                    raise

    # -- jobs -------------------------------------------------------------------------------------

    async def add(self, specs: Sequence[JobSpec], conn: object | None = None) -> list[Added]:
        return await self._adding.add(specs, conn)

    def add_stream(self, specs: Iterable[JobSpec], conn: object | None = None) -> AsyncIterator[list[Added]]:
        return self._adding.add_stream(specs, conn)

    def add_sync(self, specs: Iterable[JobSpec], conn: Connection[Any]) -> list[Added]:
        return self._adding.add_sync(specs, conn)

    @property
    def knows_schema(self) -> bool:
        return self._statements is not None

    @property
    def given_schema(self) -> str | None:
        """The schema that was asked for; None for the first on the search path that has the tables."""
        return self._given_schema

    def remember_schema(self, rows: list[tuple[Any, ...]]) -> None:
        """What FIND_SCHEMA has found.

        Raises:
            SchemaError: nothing.
        """
        if not rows:
            raise SchemaError(f"There are no dataqueue tables at {self.location()}. {migrate_hint(self._given_schema)}")
        self._statements = Statements(rows[0][0])

    async def get_job(self, job_id: int) -> Job | None:
        parameters = {**filter_parameters(JobFilter()), "id": job_id, "before_id": None, "limit": 1, "offset": 0}
        parameters["values"] = True
        rows = await self.read(self.statements("list_jobs"), parameters)
        return job_from(rows[0]) if rows else None

    async def list_jobs(
        self, where: JobFilter, limit: int, before_id: int | None, offset: int, values: bool = True
    ) -> list[Job]:
        parameters = {**filter_parameters(where), "before_id": before_id, "limit": limit, "offset": offset}
        parameters["values"] = values
        return [job_from(row) for row in await self.read(self.statements("list_jobs"), parameters)]

    async def list_events(self, job_id: int) -> list[JobEvent]:
        rows = await self.read(self.statements("list_events"), {"job_id": job_id})
        return [event_from(row) for row in rows]

    async def finished(self, job_ids: Sequence[int]) -> dict[int, bool]:
        rows = await self.read(self.statements("find_finished"), {"ids": list(job_ids)})
        return {job_id: bool(finished) for job_id, finished in rows}

    async def cancel(
        self, ids: Sequence[int], by: str | None = None, statuses: Sequence[JobStatus] = CANCELLABLE
    ) -> dict[int, ChangeResult]:
        return await changing.cancel(self, ids, by, statuses)

    async def retry(
        self, ids: Sequence[int], by: str | None = None, statuses: Sequence[JobStatus] = RETRYABLE, ended: bool = False
    ) -> dict[int, ChangeResult]:
        return await changing.retry(self, ids, by, statuses, ended)

    async def edit(self, ids: Sequence[int], edit: JobEdit, by: str | None = None) -> dict[int, ChangeResult]:
        return await changing.edit(self, ids, edit, by)

    async def free_places(self, ids: Sequence[int]) -> None:
        """These jobs stand in line no more."""
        await self._cycling.free_places(ids)

    async def redrive(self, letter: DeadLetter, by: str | None = None) -> int | None:
        return await self.on_some_connection(lambda conn: self._redrive(conn, letter, by), UNDONE)

    async def _redrive(self, conn: AsyncConnection[Any], letter: DeadLetter, by: str | None) -> int | None:
        async with conn.transaction():
            ids = {"letter": letter.id, "source": letter.source_id}
            cursor = await conn.cursor(row_factory=tuple_row).execute(self.statements("lock_letter"), ids)
            rows = {row[0]: row[1:] for row in await cursor.fetchall()}
            status, _, remark, _ = rows.get(letter.id, ("processing", True, "", None))
            if status == "processing" or remark.startswith('{"redrivenTo"'):
                return None
            if letter.source_id in rows:
                status, is_final, _, own_letter = rows[letter.source_id]
                if own_letter != letter.id or not is_final or status not in ("failed", "cancelled"):
                    return None
                again = {"ids": [letter.source_id], "statuses": list(RETRYABLE), "ended": True, "by": by}
                await conn.execute(self.statements("retry_jobs"), again)
                job_id = letter.source_id
            else:
                ((job_id, _),) = await self._adding.run_steps(conn, [letter.spec])
            await conn.execute(self.statements("end_letter"), {"letter": letter.id, "job": job_id, "by": by})
            return job_id

    async def pause(self, job_type: str | None, by: str | None = None) -> bool:
        parameters = {"job_type": job_type or "", "by": by}
        return (await self.write(self.statements("pause"), parameters)).rowcount == 1

    async def resume(self, job_type: str | None) -> bool:
        return (await self.write(self.statements("resume"), {"job_type": job_type or ""})).rowcount == 1

    async def list_limits(self) -> list[LimitState]:
        return [limit_from(row) for row in await self.read(self.statements("read_limits"), {})]

    async def stats(self) -> Stats:
        rows, oldest = (await self.read(self.statements("measure_queue"), {}))[0]
        exact = rows < _COUNT_COMPLETED_BELOW
        by_type: dict[str, dict[str, int]] = {}
        for job_type, status, count in await self.read(self.statements("count_jobs"), {"completed": exact}):
            by_type.setdefault(job_type, {})[status] = count
        completed = None if exact else max(0, rows - sum(sum(counts.values()) for counts in by_type.values()))
        return Stats(
            by_type=by_type,
            estimated_completed=completed,
            oldest_ready_by_type=oldest or {},
            workers=await self.list_workers(),
        )

    async def list_workers(self) -> list[WorkerRecord]:
        return [worker_from(row) for row in await self.read(self.statements("list_workers"), {})]

    async def now(self) -> datetime:
        return (await self.read("SELECT now()", {}))[0][0].astimezone(UTC)

    async def situation(self, job_id: int) -> Situation | None:
        job: Job | None = None
        rows: list[tuple[Any, ...]] = []
        for _ in range(_TRIES):  # again, if the job has moved on between the two
            job = await self.get_job(job_id)
            rows = await self.read(self.statements("explain_job"), {"id": job_id, "most": AHEAD_LIMIT})
            if job is None or not rows or rows[0][1] == job.updated_at:
                break
        if job is None or not rows:
            return None
        now, _, ready_at, locked, ahead, parked, group_limit, group_running = rows[0]
        by_group: dict[str | None, tuple[int, int]] = {}
        may_go_ahead = min(ahead, AHEAD_LIMIT)
        if group_limit is not None and ahead:
            found = await self.read(self.statements("list_ahead"), {"id": job_id, "most": AHEAD_LIMIT})
            by_group = {group: (count, running) for group, count, running in found}
            may_go_ahead = may_go(by_group, group_limit)
        unmet: list[tuple[Any, ...]] = []
        if job.blocked:
            unmet = await self.read(self.statements("find_unmet"), {"id": job_id, "most": UNMET_SHOWN})
        return Situation(
            job=job,
            now=now.astimezone(UTC),
            ready_at=None if job.blocked or not ready_at else ready_at.astimezone(UTC),
            unmet=tuple((row[0], row[1]) for row in unmet),
            unmet_count=unmet[0][2] if unmet else 0,
            row_locked=locked,
            ahead=min(ahead, AHEAD_LIMIT),
            workers=await self.list_workers(),
            limits=tuple(item for item in await self.list_limits() if item.job_type in (None, job.job_type)),
            group_limit=group_limit,
            group_running=group_running or 0,
            parked=parked,
            ahead_in_group=by_group.get(job.group, (0, 0))[0] if job.group else 0,
            may_go_ahead=may_go_ahead,
        )

    async def list_failures(self, job_type: str | None, seconds: float, limit: int) -> list[FailedJob]:
        parameters = {"job_type": job_type, "seconds": seconds, "limit": limit}
        return [failure_from(row) for row in await self.read(self.statements("list_failures"), parameters)]

    async def sample_finished(self, job_type: str | None, limit: int) -> list[Timing]:
        rows = await self.read(self.statements("sample_finished"), {"job_type": job_type, "limit": limit})
        return [timing_from(row) for row in rows if row[5] is not None]

    async def doctor(self, deep: bool = False) -> list[Finding]:
        findings = await doctor.examine(self)
        return [*findings, *await doctor.examine_deep(self)] if deep else findings

    # -- schedules --------------------------------------------------------------------------------

    async def add_schedule(self, schedule: CronSchedule) -> int | None:
        return await schedules.add(self, schedule)

    async def list_schedules(
        self, *, schedule_id: int | None = None, name: str | None = None, status: ScheduleStatus | None = None
    ) -> list[CronSchedule]:
        return await schedules.find(self, schedule_id, name, status)

    async def change_schedule(self, schedule_id: int, change: ScheduleChange) -> CronSchedule | None:
        return await schedules.change(self, schedule_id, change)

    async def remove_schedule(self, schedule_id: int) -> bool:
        return await schedules.remove(self, schedule_id)

    async def next_fire(self, without: Sequence[int]) -> tuple[datetime, datetime | None]:
        return await schedules.next_fire(self, without)

    async def due_schedules(self, limit: int, without: Sequence[int]) -> tuple[datetime | None, list[CronSchedule]]:
        return await schedules.due(self, limit, without)

    async def fire_schedule(self, schedule: CronSchedule, plan: FirePlan) -> list[int] | None:
        return await schedules.fire(self, schedule, plan)

    # -- cleaning up ------------------------------------------------------------------------------

    def delete_jobs(self, status: EndStatus, before: datetime, limit: int, dry_run: bool = False) -> AsyncIterator[int]:
        return cleaning.delete_jobs(self, status, before, limit, dry_run)

    def delete_events(self, before: datetime, limit: int) -> AsyncIterator[int]:
        return cleaning.delete_events(self, before, limit)

    def release_keys(self, before: datetime, limit: int) -> AsyncIterator[int]:
        return cleaning.release_keys(self, before, limit)

    async def elect(self, role: str, holder: str, seconds: float) -> bool:
        parameters = {"role": role, "holder": holder, "seconds": seconds}
        return (await self.write(self.statements("elect"), parameters)).rowcount == 1

    async def resign(self, role: str, holder: str) -> None:
        await self.write(self.statements("resign"), {"role": role, "holder": holder})

    # -- workers ----------------------------------------------------------------------------------

    async def register_worker(self, worker: WorkerInfo) -> bool:
        cursor = await self.write(self.statements("register_worker"), worker_parameters(worker))
        return bool(await cursor.fetchall())

    async def unregister_worker(self, worker_id: str) -> None:
        await self.write(self.statements("unregister_worker"), {"id": worker_id})

    def heart(self) -> Heart:
        return PostgresHeart(self.conninfo, self.connect_kwargs, self.statements, self.shared, self.location())

    async def cycle(
        self,
        worker_id: str,
        outcomes: Sequence[Outcome],
        job_types: Sequence[str],
        limit: int,
        promote: bool,
    ) -> Cycle:
        return await self._cycling.cycle(worker_id, outcomes, job_types, limit, promote)

    async def declare_limits(self, limits: Mapping[str, TypeLimits]) -> None:
        names = sorted(limits)
        rates = [limits[name].rate for name in names]
        parameters = {
            "job_types": names,
            "concurrencies": [limits[name].max_concurrency for name in names],
            "counts": [rate and rate.count for rate in rates],
            "lengths": [rate and rate.ms for rate in rates],
        }
        await self.write(self.statements("declare_limits"), parameters)

    async def list_due_types(self) -> list[str]:
        return [row[0] for row in await self.read(self.statements("list_due_types"), {})]

    async def list_held(self, worker_id: str) -> list[Held]:
        rows = await self.read(self.statements("list_held"), {"worker_id": worker_id})
        return [(job_id, lease_id) for job_id, lease_id in rows]

    async def set_progress(self, job_id: int, lease_id: int, percent: int) -> bool:
        parameters = {"id": job_id, "lease_id": lease_id, "percent": percent}
        return (await self.write(self.statements("set_progress"), parameters)).rowcount == 1

    async def load_steps(self, job_id: int) -> tuple[list[StepRecord], dict[str, Token], datetime]:
        return await durable.load_steps(self, job_id)

    async def save_step(self, job_id: int, lease_id: int, step: StepRecord, token: TokenSpec | None = None) -> bool:
        parameters = durable.step_parameters(job_id, lease_id, step, token)
        return (await self.write(self.statements("save_step"), parameters)).rowcount == 1

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[durable.PostgresTransaction]:
        # The worker's own statements need connections, too: handlers may have all but two of them.
        if self._lent is None:
            self._lent = asyncio.Semaphore(max(1, (self._pool.max_size if self._pool else 3) - 2))
        async with self._lent, durable.transaction(self) as opened:
            yield opened

    async def create_token(self, token: TokenSpec) -> Token:
        return await durable.create_token(self, token)

    async def get_token(self, token_id: str) -> Token | None:
        return await durable.get_token(self, token_id)

    async def end_token(self, token_id: str, output: str | None, error: str | None) -> tuple[Token | None, bool]:
        return await durable.end_token(self, token_id, output, error)

    async def expire_tokens(self, limit: int) -> int:
        return await durable.expire_tokens(self, limit)

    async def delete_tokens(self, before: datetime, limit: int) -> int:
        return (await self.write(self.statements("delete_tokens"), {"before": before, "limit": limit})).rowcount

    async def prolong(self, job_id: int, lease_id: int, ms: int) -> bool:
        parameters = {"id": job_id, "lease_id": lease_id, "ms": ms}
        return (await self.write(self.statements("prolong"), parameters)).rowcount == 1

    async def set_output(self, job_id: int, lease_id: int, output: str) -> bool:
        parameters = {"id": job_id, "lease_id": lease_id, "output": output}
        return (await self.write(self.statements("set_output"), parameters)).rowcount == 1

    async def reclaim_expired(self, limit: int) -> list[Reclaimed]:
        cursor = await self.write(self.statements("reclaim_expired"), {"limit": limit})
        rows = await cursor.fetchall()
        if any(row[5] for row in rows):
            await self._cycling.free_places([row[0] for row in rows])
        await self._cycling.unpark_stale()
        return [Reclaimed(row[0], row[1], row[2], row[3]) for row in rows]

    async def listen_for(self, topic: Topic, listener_id: str, seconds: float) -> None:
        await self.write(self.statements("listen_for"), {"topic": topic, "id": listener_id, "seconds": seconds})

    async def listen_no_more(self, topic: Topic, listener_id: str) -> None:
        await self.write(self.statements("listen_no_more"), {"topic": topic, "id": listener_id})

    def signals(self) -> AsyncGenerator[Signal]:
        return listen(self.conninfo, self.connect_kwargs, self.statements.channel, self.location())

    async def migrate(
        self, *, shared: bool = False, dry_run: bool = False, report: Callable[[str], None] | None = None
    ) -> list[str]:
        options = migrate.MigrateOptions(shared=shared, dry_run=dry_run, report=report)
        with store_errors(self.location()):
            return await asyncio.to_thread(
                migrate.migrate, self.conninfo, self.connect_kwargs, self._given_schema, options
            )

    async def migration_status(self) -> list[tuple[int, str, str | None]]:
        """Every migration: version, name, and when it was applied (None: not yet)."""
        with store_errors(self.location()):
            return await asyncio.to_thread(migrate.status, self.conninfo, self.connect_kwargs, self._given_schema)
