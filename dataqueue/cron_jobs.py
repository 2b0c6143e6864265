"""Schedules: what is stored of one, its options, and what to do when it is due. Pure rules, without I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias, TypedDict

from dataqueue.errors import InvalidSchedule
from dataqueue.jsonvalue import dumps
from dataqueue.options import (
    DEFAULT_MAX_ATTEMPTS,
    JobSpec,
    check_integer,
    check_name,
    check_names,
    make_spec,
)
from dataqueue.retry import RetryPolicy
from dataqueue.schedule import describe, latest_fires, next_fire, validate_cron

ScheduleStatus = Literal["active", "paused"]
SkipReason = Literal["overlap", "missed"]
MOST_CAUGHT_UP = 1000
LATE = timedelta(minutes=1)
"""A fire that nobody was there for so long is missed."""


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Add a job for each missed fire, for the latest ``limit`` at most (1 to 1,000)."""

    limit: int

    def __post_init__(self) -> None:
        check_integer(self.limit, "The limit of a CatchUp", 1, MOST_CAUGHT_UP)


Missed: TypeAlias = Literal["skip", "run_once"] | CatchUp
"""What becomes of fires for which no worker was there: none of them, one job for all, or a job each."""


class CronOptions(TypedDict, total=False):
    """Options of the jobs that a schedule adds; as in :class:`dataqueue.JobOptions`. What is not given is as the job type's
    definition has it when the schedule is added."""

    priority: int
    max_attempts: int
    timeout: timedelta | None
    tags: Sequence[str] | None
    retry_delay: timedelta | None
    retry_backoff: bool | None
    retry_delay_max: timedelta | None
    dead_letter: str | None
    group: str | None


class CronChanges(CronOptions, total=False):
    """What can be changed of a schedule. What is left out stays as it is."""

    expression: str
    timezone: str
    payload: object
    """Any JSON value, or a value of the definition's payload type."""
    allow_overlap: bool
    missed: Missed


@dataclass(frozen=True, slots=True, kw_only=True)
class CronSchedule:
    """A schedule, as it was when it was read. Times are in UTC."""

    id: int
    name: str
    expression: str
    timezone: str
    job_type: str
    payload: Any
    status: ScheduleStatus = "active"
    allow_overlap: bool = False
    """Whether a job is added while the last one is unfinished."""
    missed: Missed = "run_once"
    priority: int = 0
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    timeout: timedelta | None = None
    tags: tuple[str, ...] = ()
    retry: RetryPolicy = RetryPolicy()
    dead_letter: str | None = None
    group: str | None = None
    next_run_at: datetime | None = None
    """The next fire; None for never. A paused one keeps what it had."""
    last_enqueued_at: datetime | None = None
    last_job_id: int | None = None
    """The job that it has added last."""
    last_skipped_at: datetime | None = None
    last_skip_reason: SkipReason | None = None
    """Why it has added no job then: ``overlap`` (the last one was unfinished) or ``missed``."""
    problem: str | None = None
    """Why it cannot fire: another program has stored what this one cannot read, or this machine lacks its time zone."""
    declared_at: datetime | None = None
    """When a worker that started has last declared it (``@queue.cron``); None if it was never declared."""
    created_at: datetime
    updated_at: datetime
    version: int = 0
    """Counts the changes, on Redis."""

    @property
    def description(self) -> str:
        """The expression in words; as it stands if it cannot be read."""
        try:
            return describe(self.expression)
        except InvalidSchedule:
            return self.expression

    def next_fires(self, count: int = 3) -> list[datetime]:
        """The next fires, in UTC; none if it is paused."""
        fires: list[datetime] = []
        fire = self.next_run_at if self.status == "active" else None
        while fire is not None and len(fires) < count:
            fires.append(fire)
            try:
                fire = next_fire(self.expression, self.timezone, fire)
            except InvalidSchedule:
                break
        return fires

    @property
    def timeout_ms(self) -> int | None:
        return None if self.timeout is None else -(-self.timeout // timedelta(milliseconds=1))

    @property
    def catch_up_limit(self) -> int | None:
        return self.missed.limit if isinstance(self.missed, CatchUp) else None

    @property
    def missed_word(self) -> str:
        return "catch_up" if isinstance(self.missed, CatchUp) else self.missed

    def spec(self) -> JobSpec:
        """The job that a fire adds."""
        return JobSpec(
            self.job_type,
            dumps(self.payload),
            priority=self.priority,
            max_attempts=self.max_attempts,
            timeout_ms=self.timeout_ms,
            tags=self.tags or None,
            retry=self.retry,
            group=self.group,
            dead_letter=self.dead_letter,
        )


ScheduleChange = Callable[[CronSchedule, datetime], CronSchedule]
"""Makes of a schedule, at a moment of the store's clock, what is to be stored; the same object for no change."""


def read_missed(word: str | None, limit: int | None) -> Missed:
    """From what is stored."""
    if word == "catch_up":
        return CatchUp(min(max(1, limit or 1), MOST_CAUGHT_UP))
    return "skip" if word == "skip" else "run_once"


@dataclass(frozen=True, slots=True)
class FirePlan:
    """What to do with a schedule that is due: a job for each of these fires, and when it is due next."""

    fires: tuple[datetime, ...]
    next_run_at: datetime | None


def plan_fire(schedule: CronSchedule, now: datetime) -> FirePlan:
    """By its policy for missed fires; a fire is missed if a later one is due too, or if it is more than ``LATE`` ago.

    Raises:
        InvalidSchedule: its expression or its time zone cannot be read here.
    """
    first = schedule.next_run_at
    assert first is not None
    coming = next_fire(schedule.expression, schedule.timezone, max(now, first))
    most = schedule.catch_up_limit or 1
    fires = latest_fires(schedule.expression, schedule.timezone, first, max(now, first), most)
    if schedule.missed == "skip" and now - fires[-1] > LATE:
        fires = []
    return FirePlan(tuple(fires), coming)


# -- checks -----------------------------------------------------------------------------------------------

_OPTIONS = frozenset(CronOptions.__annotations__)
_CHANGES = frozenset(CronChanges.__annotations__) | _OPTIONS


def check_schedule_name(name: object) -> str:
    return check_name(name, "The name of a schedule")


def new_schedule(
    name: str, expression: str, job_type: str, payload: Any, timezone: str, options: Mapping[str, Any], now: datetime
) -> CronSchedule:
    """Check everything. ``options`` has the options of its jobs, ``allow_overlap`` and ``missed``.

    Raises:
        InvalidJob (InvalidSchedule): nothing was stored.
    """
    check_names(options, _OPTIONS | {"allow_overlap", "missed"})
    blank = CronSchedule(
        id=0, name=check_schedule_name(name), expression=expression, timezone=timezone, job_type=job_type, payload=payload,
        created_at=now, updated_at=now,
    )  # fmt: skip
    return rescheduled(changed(blank, options), now)


def changed(schedule: CronSchedule, changes: Mapping[str, Any]) -> CronSchedule:
    """With these changes (a payload is encoded already); its next run as it was.

    Raises:
        InvalidJob (InvalidSchedule): a change of what cannot be changed, or to what cannot be.
    """
    unknown = sorted(set(changes) - _CHANGES)
    if unknown:
        raise InvalidSchedule(
            f"{', '.join(unknown)} cannot be changed of a schedule. What can: {', '.join(sorted(_CHANGES))}. Nothing was "
            "changed. To have it otherwise, remove the schedule and add another."
        )
    options = {name: value for name, value in changes.items() if name in _OPTIONS}
    spec = make_spec(schedule.job_type, "null", options)
    values: dict[str, Any] = {
        "priority": spec.priority,
        "max_attempts": spec.max_attempts,
        "timeout": None if spec.timeout_ms is None else timedelta(milliseconds=spec.timeout_ms),
        "tags": spec.tags or (),
        "dead_letter": spec.dead_letter,
        "group": spec.group,
    }
    fields = {name: values[name] for name in options if name in values}
    fields |= {
        name: changes[name]
        for name in ("expression", "timezone", "payload", "allow_overlap", "missed")
        if name in changes
    }
    retry = schedule.retry
    if "retry_delay" in options:
        retry = replace(retry, delay=spec.retry.delay)
    if "retry_backoff" in options:
        retry = replace(retry, backoff=spec.retry.backoff)
    if "retry_delay_max" in options:
        retry = replace(retry, delay_max=spec.retry.delay_max)
    result = replace(schedule, retry=retry, **fields)
    _check_policies(result)
    validate_cron(result.expression, result.timezone)
    return result


def _check_policies(schedule: CronSchedule) -> None:
    overlap, missed = schedule.allow_overlap, schedule.missed
    if not isinstance(overlap, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidSchedule(f"allow_overlap must be True or False, not {overlap!r:.80}. Nothing was stored.")
    if missed not in ("skip", "run_once") and not isinstance(missed, CatchUp):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidSchedule(
            f"missed must be 'skip', 'run_once' or a CatchUp(limit), not {missed!r:.80}. Nothing was stored."
        )
    if isinstance(missed, CatchUp) and missed.limit > 1 and not overlap:
        raise InvalidSchedule(
            "CatchUp adds a job for each missed fire, all at once: give allow_overlap=True too. Nothing was stored."
        )


def rescheduled(schedule: CronSchedule, now: datetime) -> CronSchedule:
    """With its next run counted from now."""
    return replace(schedule, next_run_at=next_fire(schedule.expression, schedule.timezone, now), problem=None)
