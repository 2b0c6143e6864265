"""Schedules: jobs that are added by the clock."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack

from dataqueue.backends.base import Backend
from dataqueue.checks import may_exist
from dataqueue.cleaning import CleaningQueue
from dataqueue.cron_jobs import (
    CronChanges,
    CronOptions,
    CronSchedule,
    Missed,
    ScheduleStatus,
    changed,
    check_schedule_name,
    new_schedule,
    plan_fire,
    rescheduled,
)
from dataqueue.errors import (
    ConfigError,
    DataQueueError,
    InvalidSchedule,
    ReadOnlyQueue,
    ScheduleExists,
    ScheduleNotFound,
    StoreUnavailable,
)
from dataqueue.events import Hook
from dataqueue.jobs import ANY_JSON, JobHandle

if TYPE_CHECKING:
    from dataqueue.definitions import JobDefinition

logger = logging.getLogger("dataqueue")

_AT_A_TIME = 100


@dataclass(frozen=True, slots=True)
class Declaration:
    """What ``@queue.cron`` says."""

    name: str
    expression: str
    job_type: str
    payload: Any
    timezone: str
    options: Mapping[str, Any]

    def schedule(self, now: datetime) -> CronSchedule:
        fresh = new_schedule(
            self.name, self.expression, self.job_type, self.payload, self.timezone, self.options, now
        )  # fmt: skip
        return replace(fresh, declared_at=now)

    def over(self, stored: CronSchedule, now: datetime) -> CronSchedule:
        """The stored schedule as it is declared now; paused as it was, and with its next run if the times are the same."""
        fresh = self.schedule(now)
        same = (stored.expression, stored.timezone) == (fresh.expression, fresh.timezone) and not stored.problem
        return replace(
            fresh,
            id=stored.id,
            status=stored.status,
            next_run_at=stored.next_run_at if same else fresh.next_run_at,
            last_enqueued_at=stored.last_enqueued_at,
            last_job_id=stored.last_job_id,
            last_skipped_at=stored.last_skipped_at,
            last_skip_reason=stored.last_skip_reason,
            created_at=stored.created_at,
            version=stored.version,
        )


class SchedulingQueue(CleaningQueue):
    """The methods of :class:`dataqueue.JobQueue` for schedules."""

    async def add_cron_job(
        self,
        name: str,
        expression: str,
        job_type: str | JobDefinition[Any, Any],
        payload: object = None,
        *,
        timezone: str = "UTC",
        allow_overlap: bool = False,
        missed: Missed = "run_once",
        **options: Unpack[CronOptions],
    ) -> CronSchedule:
        """Add a schedule: ``await queue.add_cron_job("report", "0 9 * * 1-5", "send_report", timezone="Europe/Oslo")``.

        Args:
            name: by which it is found; each once.
            expression: see :func:`dataqueue.validate_cron`.
            job_type: the type of the jobs that it adds, or its definition.
            payload: of each of them.
            timezone: by whose clock it fires.
            allow_overlap: whether a job is added while the last one is unfinished.
            missed: what becomes of fires while no worker was running: ``"run_once"`` adds one job for all of them,
                ``"skip"`` none, ``CatchUp(limit)`` one for each.
            options: see :class:`dataqueue.CronOptions`; what is left out is as the definition has it now.

        Raises:
            ScheduleExists: the name is taken.
            InvalidJob (InvalidSchedule, UnknownJobType, InvalidPayload): nothing was stored.
        """
        kind = job_type if isinstance(job_type, str) else job_type.name
        value = json.loads(self.encode(kind, payload))
        policies = {"allow_overlap": allow_overlap, "missed": missed}
        merged = {**self.schedule_defaults(kind), **policies, **options}
        new_schedule(name, expression, kind, value, timezone, merged, _EARLY)  # before anything is opened
        backend = await self.open()
        schedule = new_schedule(name, expression, kind, value, timezone, merged, await backend.now())
        schedule_id = await backend.add_schedule(schedule)
        if schedule_id is None:
            raise ScheduleExists(name)
        return await self.get_cron_job(schedule_id)

    def schedule_defaults(self, job_type: str) -> dict[str, Any]:
        """The options of a type's definition that its schedules take over."""
        definition = self.definitions.get(job_type)
        defaults: Mapping[str, Any] = definition.defaults if definition is not None else {}
        return {name: value for name, value in defaults.items() if name in CronOptions.__annotations__}

    async def edit_cron_job(self, which: int | str, **changes: Unpack[CronChanges]) -> CronSchedule:
        """Change a schedule. Its next run is counted anew if its expression or time zone is given.

        Args:
            which: its id or its name.
            changes: see :class:`dataqueue.CronChanges`; what is left out stays as it is.

        Raises:
            ScheduleNotFound: no such schedule.
            InvalidJob (InvalidSchedule, UnknownJobType, InvalidPayload): nothing was changed.
        """
        found = await self._find_schedule(which)
        wanted: dict[str, Any] = dict(changes)
        if "payload" in wanted:
            wanted["payload"] = json.loads(self.encode(found.job_type, wanted["payload"]))

        def change(schedule: CronSchedule, now: datetime) -> CronSchedule:
            result = changed(schedule, wanted)
            return rescheduled(result, now) if {"expression", "timezone"} & wanted.keys() else result

        return await self._change_schedule(found, change)

    async def pause_cron_job(self, which: int | str) -> bool:
        """Let a schedule (by id or name) add no more jobs until it is resumed. Returns whether it was active.

        Raises:
            ScheduleNotFound: no such schedule.
        """
        return await self._set_status(which, "paused")

    async def resume_cron_job(self, which: int | str) -> bool:
        """Let a paused schedule add jobs again, from its next fire on: what it would have added meanwhile is not made up for.
        Returns whether it was paused.

        Raises:
            ScheduleNotFound: no such schedule.
        """
        return await self._set_status(which, "active")

    async def _set_status(self, which: int | str, status: ScheduleStatus) -> bool:
        was = False

        def change(schedule: CronSchedule, now: datetime) -> CronSchedule:
            nonlocal was
            was = schedule.status != status
            if not was:
                return schedule
            result = replace(schedule, status=status)
            return rescheduled(result, now) if status == "active" else result

        await self._change_schedule(await self._find_schedule(which), change)
        return was

    async def remove_cron_job(self, which: int | str) -> None:
        """Remove a schedule (by id or name). The jobs that it has added stay.

        Raises:
            ScheduleNotFound: no such schedule.
        """
        found = await self._find_schedule(which)
        if not await self.backend.remove_schedule(found.id):
            raise ScheduleNotFound(which)

    async def get_cron_job(self, schedule_id: int) -> CronSchedule:
        """A schedule by its id.

        Raises:
            ScheduleNotFound: no such schedule.
        """
        backend = await self.open()
        found = await backend.list_schedules(schedule_id=schedule_id) if may_exist(schedule_id) else []
        if not found:
            raise ScheduleNotFound(schedule_id)
        return found[0]

    async def get_cron_job_by_name(self, name: str) -> CronSchedule | None:
        """A schedule by its name, or None."""
        backend = await self.open()
        found = await backend.list_schedules(name=check_schedule_name(name))
        return found[0] if found else None

    async def list_cron_jobs(self, status: ScheduleStatus | None = None) -> list[CronSchedule]:
        """All schedules, or those that are ``active`` or ``paused``, oldest first."""
        if status not in (None, "active", "paused"):
            raise InvalidSchedule(f"The status of a schedule is active or paused, not {status!r:.80}.")
        return await (await self.open()).list_schedules(status=status)

    async def enqueue_due_cron_jobs(self) -> list[JobHandle[Any]]:
        """Add the jobs of all schedules that are due. Workers do this by themselves; it is for programs that run none all the
        time. Any number may do it at once: each fire adds its job once.

        Returns:
            The jobs that this call has added.
        """
        await self.open()
        return await self.fire_due({})

    async def fire_due(self, broken: dict[int, str]) -> list[JobHandle[Any]]:
        """As above. ``broken`` gets those that cannot fire, and why; those in it are left out."""
        backend, seen, added = self.backend, set(broken), list[JobHandle[Any]]()
        while True:
            now, due = await backend.due_schedules(_AT_A_TIME, sorted(seen))
            if now is None:
                return added
            for schedule in due:
                seen.add(schedule.id)
                try:
                    ids = await backend.fire_schedule(schedule, plan_fire(schedule, now))
                except (StoreUnavailable, ReadOnlyQueue):
                    raise
                except Exception as error:
                    broken[schedule.id] = str(error)
                    await self._note_problem(schedule, error)
                    continue
                for job_id in ids or ():
                    self.hooks.emit(Hook("job:added", job_id, schedule.job_type))
                    definition = self.definitions.get(schedule.job_type)
                    codec = definition.handler.result if definition else ANY_JSON
                    added.append(JobHandle(job_id, True, self._as_queue(), codec))

    async def _note_problem(self, schedule: CronSchedule, error: Exception) -> None:
        text = str(error) or type(error).__name__
        logger.error(
            "Schedule %r cannot fire, and is passed over: %s. Change or remove it.", schedule.name, text.rstrip(".")
        )

        def note(stored: CronSchedule, _: datetime) -> CronSchedule:
            return stored if stored.problem == text else replace(stored, problem=text)

        try:
            await self.backend.change_schedule(schedule.id, note)
        except StoreUnavailable:
            raise
        except DataQueueError:
            logger.exception("The problem of schedule %r could not be noted.", schedule.name)

    async def _find_schedule(self, which: int | str) -> CronSchedule:
        if isinstance(which, str):
            found = await self.get_cron_job_by_name(which)
            if found is None:
                raise ScheduleNotFound(which)
            return found
        return await self.get_cron_job(which)

    async def _change_schedule(
        self, found: CronSchedule, change: Callable[[CronSchedule, datetime], CronSchedule]
    ) -> CronSchedule:
        result = await self.backend.change_schedule(found.id, change)
        if result is None:
            raise ScheduleNotFound(found.id)
        return result

    def _as_queue(self) -> Any:
        return self

    # -- declarations -------------------------------------------------------------------------------

    def declare_cron(
        self,
        definition: JobDefinition[Any, Any],
        expression: str,
        name: str | None,
        payload: object,
        timezone: str,
        options: Mapping[str, Any],
    ) -> None:
        """What the decorator does.

        Raises:
            ConfigError: the name is taken by another declaration.
            InvalidJob: it would be refused by :meth:`add_cron_job`.
        """
        name = name or definition.name
        if name in self.declarations:
            raise ConfigError(f"The schedule {name!r} is declared twice. Give one of them another name: name=….")
        value = json.loads(self.encode(definition.name, payload))
        merged = {**self.schedule_defaults(definition.name), **options}
        declaration = Declaration(name, expression, definition.name, value, timezone, merged)
        declaration.schedule(_EARLY)
        self.declarations[name] = declaration

    async def sync_declarations(self) -> None:
        """Store the declared schedules as they are declared now. Those that were declared once are left as they are."""
        if not self.declarations:
            return
        backend = await self.open()
        for declaration in self.declarations.values():
            await _declare(backend, declaration)
        for schedule in await backend.list_schedules():
            known = schedule.job_type in self.definitions and schedule.declared_at is not None
            if known and schedule.status == "active" and schedule.name not in self.declarations:
                logger.warning(
                    "Schedule %r was declared once (last %s) and is no more; it goes on. To end it: "
                    "dataqueue cron remove %s", schedule.name, schedule.declared_at, schedule.name,
                )  # fmt: skip


async def _declare(backend: Backend, declaration: Declaration) -> None:
    while True:
        found = await backend.list_schedules(name=declaration.name)
        if not found:
            if await backend.add_schedule(declaration.schedule(await backend.now())) is not None:
                return
        elif await backend.change_schedule(found[0].id, declaration.over) is not None:
            return
        # Somebody has added or removed it meanwhile.


_EARLY = datetime.fromisoformat("2026-01-01T00:00:00+00:00")


def with_payload(function: Callable[..., Any]) -> Callable[..., Any]:
    """A handler without parameters as one that takes the payload that every job has."""
    if inspect.signature(function).parameters:
        return function

    async def run(payload: Any) -> Any:
        return await function()

    def run_blocking(payload: Any) -> Any:
        return function()

    handler: Callable[..., Any] = run if inspect.iscoroutinefunction(function) else run_blocking
    for attribute in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(handler, attribute, getattr(function, attribute, None))
    return handler
