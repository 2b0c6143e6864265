"""The options of a job, each with its type and its range, checked before anything is stored."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypedDict, cast

from dataqueue.dependencies import Dependencies, DependsOnOption, check_depends_on
from dataqueue.errors import InvalidJob
from dataqueue.jsonvalue import check_text
from dataqueue.limits import Rate
from dataqueue.retry import RetryPolicy
from dataqueue.unique import Unique, UniqueKey, check_unique

MAX_NAME = 255
"""Characters of a job type, a tag or an idempotency key (the width of the shared columns)."""
MAX_TAGS = 100
MAX_ATTEMPTS = 32_767
INT4_MIN, INT4_MAX = -(2**31), 2**31 - 1
MAX_TIMEOUT = timedelta(milliseconds=INT4_MAX)
MAX_DELAY = timedelta(days=36_500)
MAX_RETRY_DELAY = timedelta(days=366)
DEFAULT_MAX_ATTEMPTS = 3


class JobDefaults(TypedDict, total=False):
    """Options that a job definition may fix for all its jobs; a call's own option wins."""

    priority: int
    """Higher runs first; any 32-bit integer, 0 by default."""
    max_attempts: int
    """How often the job may be tried in all, 3 by default."""
    timeout: timedelta | None
    """How long one attempt may take; no limit by default, at most 24.8 days."""
    tags: Sequence[str] | None
    """Labels to find jobs by, at most 100 of at most 255 characters."""
    retry_delay: timedelta | None
    """Base of the wait before a retry, in whole seconds."""
    retry_backoff: bool | None
    """True: exponential with jitter. False: the same wait each time. None: see ``dataqueue.retry``."""
    retry_delay_max: timedelta | None
    """Cap of the exponential wait, in whole seconds."""
    dead_letter: str | None
    """A job type: when this job has failed for good, a job of that type tells of it. None by default."""
    unique: Unique | bool | None
    """One such job at a time: True for its payload, or a :class:`dataqueue.Unique`. Not together with an idempotency
    key."""


class DefinitionOptions(JobDefaults, total=False):
    """What ``@queue.job`` takes: defaults of its jobs, and how a worker runs them."""

    isolation: Literal["process"] | None
    """``"process"``: the handler runs in a child process of the worker, which can be killed."""
    memory_limit: int | None
    """Bytes of address space of that process; from 64 MiB, no limit by default."""
    max_concurrency: int | None
    """Jobs of this type that run at the same time, over all workers; no limit by default."""
    rate: Rate | None
    """Jobs of this type that may start within a time, over all workers; no limit by default."""


class JobOptions(JobDefaults, total=False):
    """All options of one job."""

    run_at: datetime | None
    """Not before this moment (aware datetime). Not together with ``delay``."""
    delay: timedelta | None
    """Not before this long from now, by the store's clock."""
    idempotency_key: str | None
    """A second job with the same key is not added; the first one is returned."""
    group: str | None
    """Jobs of one group share the places that a worker's ``group_concurrency`` gives it: a tenant, a customer."""
    depends_on: DependsOnOption | None
    """Jobs that must end well before this one may run: ids, handles, or a :class:`dataqueue.DependsOn`."""


class JobChanges(TypedDict, total=False):
    """What can be changed of a job that has not begun. What is left out stays as it is."""

    payload: object
    """Any JSON value, or a value of the definition's payload type."""
    priority: int
    """Higher runs first."""
    max_attempts: int
    """Tries in all; at least one more than have been used up."""
    run_at: datetime | None
    """Not before this moment (aware datetime); None for now. Not together with ``delay``."""
    delay: timedelta
    """Not before this long from now, by the store's clock."""
    timeout: timedelta | None
    """How long one attempt may take; None for no limit."""
    tags: Sequence[str] | None
    """All its labels, in place of those before; None for none."""
    retry_delay: timedelta | None
    """As in :class:`JobOptions`; None for the default, as with the two below."""
    retry_backoff: bool | None
    retry_delay_max: timedelta | None
    dead_letter: str | None
    """The job type that is told when it has failed for good; None for none."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """One job for ``add_jobs``: ``NewJob("send_email", {...}, {"priority": 5})``."""

    job_type: str
    payload: object = None
    options: JobOptions = field(default_factory=lambda: JobOptions())


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A checked job, as a backend stores it. ``payload`` is JSON text; ``tags`` has no repeats."""

    job_type: str
    payload: str
    priority: int = 0
    run_at: datetime | None = None
    delay_ms: int = 0
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    timeout_ms: int | None = None
    tags: tuple[str, ...] | None = None
    idempotency_key: str | None = None
    retry: RetryPolicy = RetryPolicy()
    group: str | None = None
    dead_letter: str | None = None
    dependencies: Dependencies | None = None
    unique: UniqueKey | None = None


@dataclass(frozen=True, slots=True)
class JobEdit:
    """Checked changes of a job, as a backend makes them.

    ``fields`` has a value for each option that is changed, None to clear it, by the names in the job's event log:
    ``priority``, ``maxAttempts``, ``runAt`` (ISO 8601, None for now), ``delayMs``, ``timeoutMs``, ``tags``,
    ``retryDelay``, ``retryBackoff``, ``retryDelayMax``, ``deadLetterJobType``. ``payload`` is JSON text, None to leave it as it is.
    """

    fields: dict[str, Any]
    payload: str | None = None

    def as_json(self, by: str | None = None) -> str:
        """What the event log says of it."""
        told = self.fields if by is None else {**self.fields, "by": by}
        parts = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in told.items()]
        if self.payload is not None:  # JSON text already
            parts.insert(0, f'"payload":{self.payload}')
        return "{" + ",".join(parts) + "}"


_NAMES = frozenset(JobOptions.__annotations__) | frozenset(JobDefaults.__annotations__)
_DEFAULT_NAMES = frozenset(JobDefaults.__annotations__)
_DEFINITION_NAMES = _DEFAULT_NAMES | frozenset(DefinitionOptions.__annotations__)
_NO_RETRY_SETTINGS = RetryPolicy()
_EDIT_NAMES = {
    "priority": "priority",
    "max_attempts": "maxAttempts",
    "run_at": "runAt",
    "delay": "delayMs",
    "timeout": "timeoutMs",
    "tags": "tags",
    "retry_delay": "retryDelay",
    "retry_backoff": "retryBackoff",
    "retry_delay_max": "retryDelayMax",
    "dead_letter": "deadLetterJobType",
}


def make_spec(job_type: str, payload: str, options: Mapping[str, Any]) -> JobSpec:
    """Check every option and give the record that a backend stores.

    Raises:
        InvalidJob: an unknown option, or one of the wrong type or out of its range.
    """
    check_job_type(job_type)
    if not options:
        return JobSpec(job_type, payload)
    check_names(options, _NAMES)
    get = options.get
    run_at = cast("datetime | None", get("run_at"))
    if run_at is not None:
        run_at = check_aware(run_at, "run_at")
        if get("delay") is not None:
            raise InvalidJob("run_at and delay were both given. Give one of them. Nothing was stored.")
    dependencies, unique = check_depends_on(get("depends_on")), check_unique(get("unique"), job_type, payload)
    if unique is not None and get("idempotency_key") is not None:
        raise InvalidJob("unique and idempotency_key were both given. Give one of them. Nothing was stored.")
    if unique is not None and unique.replace and dependencies is not None:
        raise InvalidJob("A job that waits for others cannot replace a pending one. Nothing was stored.")
    return JobSpec(
        job_type,
        payload,
        priority=_integer(get("priority"), "priority", INT4_MIN, INT4_MAX, 0),
        run_at=run_at,
        delay_ms=check_duration(get("delay"), "delay", timedelta(0), MAX_DELAY) or 0,
        max_attempts=_integer(get("max_attempts"), "max_attempts", 1, MAX_ATTEMPTS, DEFAULT_MAX_ATTEMPTS),
        timeout_ms=check_duration(get("timeout"), "timeout", timedelta(milliseconds=1), MAX_TIMEOUT),
        tags=check_tags(get("tags")),
        idempotency_key=_name_or_none(get("idempotency_key"), "idempotency_key"),
        retry=_retry(options),
        group=_name_or_none(get("group"), "group"),
        dead_letter=_name_or_none(get("dead_letter"), "dead_letter"),
        dependencies=dependencies,
        unique=unique,
    )


def make_edit(payload: str | None, changes: Mapping[str, Any]) -> JobEdit:
    """Check changes as the options of a new job are, and give the record that a backend takes.

    Args:
        payload: the new payload's JSON text, where ``changes`` has one.

    Raises:
        InvalidJob: what cannot be changed, or a value of the wrong type or out of its range.
    """
    fixed = sorted(set(changes) - set(JobChanges.__annotations__))
    if fixed:
        raise InvalidJob(
            f"{', '.join(fixed)} cannot be changed once a job is added. What can: "
            f"{', '.join(sorted(JobChanges.__annotations__))}. Nothing was changed. To have it otherwise, cancel the "
            "job and add another."
        )
    if "run_at" in changes and "delay" in changes:
        raise InvalidJob("run_at and delay were both given. Give one of them. Nothing was changed.")
    for name in ("priority", "max_attempts", "delay"):
        if name in changes and changes[name] is None:
            raise InvalidJob(f"{name} cannot be None. Leave it out to keep it as it is. Nothing was changed.")
    spec = make_spec("check", "null", {name: value for name, value in changes.items() if name != "payload"})
    values = {
        "priority": spec.priority,
        "max_attempts": spec.max_attempts,
        "run_at": spec.run_at and spec.run_at.isoformat(),
        "delay": spec.delay_ms,
        "timeout": spec.timeout_ms,
        "tags": spec.tags and list(spec.tags),
        "retry_delay": spec.retry.delay,
        "retry_backoff": spec.retry.backoff,
        "retry_delay_max": spec.retry.delay_max,
        "dead_letter": spec.dead_letter,
    }
    return JobEdit({_EDIT_NAMES[name]: values[name] for name in changes if name != "payload"}, payload)


def check_definition(options: DefinitionOptions) -> JobDefaults:
    """Check the names of a definition's options, and its jobs' defaults as strictly as a job's options.

    Returns the defaults; what is not an option of a job is checked by whoever uses it.
    """
    check_names(options, _DEFINITION_NAMES)
    defaults = cast("JobDefaults", {name: value for name, value in options.items() if name in _DEFAULT_NAMES})
    make_spec("check", "null", defaults)
    return defaults


def check_names(options: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InvalidJob(
            f"Unknown option {', '.join(unknown)}. Known options: {', '.join(sorted(known))}. Nothing was stored."
        )


@functools.lru_cache(maxsize=1024)
def check_job_type(job_type: str) -> str:
    return check_name(job_type, "job_type")


def check_name(name: object, what: str) -> str:
    """A non-empty text of at most ``MAX_NAME`` characters that both stores can hold."""
    if not isinstance(name, str):
        raise InvalidJob(f"{what} must be text, not {type(name).__name__} ({name!r:.80}).")
    if not name:
        raise InvalidJob(f"{what} is empty. Give it at least one character.")
    if len(name) > MAX_NAME:
        raise InvalidJob(f"{what} has {len(name):,} characters; at most {MAX_NAME} fit: {name[:40]!r}…")
    check_text(name, what)
    return name


def check_tags(tags: object) -> tuple[str, ...] | None:
    """The tags without repeats, in their order; None for no tags."""
    if tags is None:
        return None
    if isinstance(tags, str | bytes) or not isinstance(tags, Iterable):
        raise InvalidJob(f"tags must be a list of texts, not {tags!r:.80}. Write tags=[…].")
    unique = tuple(dict.fromkeys(check_name(tag, "a tag") for tag in cast("Iterable[object]", tags)))
    if len(unique) > MAX_TAGS:
        raise InvalidJob(f"{len(unique)} tags were given; at most {MAX_TAGS} fit.")
    return unique or None


def check_aware(moment: object, what: str) -> datetime:
    """The moment in UTC: stores know fewer offsets than Python does."""
    if not isinstance(moment, datetime):
        raise InvalidJob(f"{what} must be a datetime, not {type(moment).__name__} ({moment!r:.80}).")
    if moment.utcoffset() is None:
        raise InvalidJob(
            f"{what} is {moment.isoformat()} without a time zone. Use datetime.now(timezone.utc) or a "
            "zoneinfo.ZoneInfo. Nothing was stored."
        )
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise InvalidJob(
            f"{what} is {moment.isoformat()}: in UTC that is beyond the calendar. Nothing was stored."
        ) from error


def check_integer(value: object, what: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidJob(f"{what} must be a whole number, not {value!r:.80}.")
    if not low <= value <= high:
        raise InvalidJob(f"{what} is {value}; it must be from {low:,} to {high:,}.")
    return value


def _integer(value: object, what: str, low: int, high: int, default: int) -> int:
    return default if value is None else check_integer(value, what, low, high)


def check_duration(value: object, what: str, low: timedelta, high: timedelta) -> int | None:
    """Milliseconds of a timedelta within its range, rounded up so that a wait is never cut short."""
    if value is None:
        return None
    if not isinstance(value, timedelta):
        raise InvalidJob(f"{what} must be a timedelta, not {value!r:.80}. Write timedelta(seconds=…).")
    if not low <= value <= high:
        raise InvalidJob(
            f"{what} is {value.total_seconds():g} s; it must be from {low.total_seconds():g} to "
            f"{high.total_seconds():g} s. Nothing was stored."
        )
    return -(-value // timedelta(milliseconds=1))


def _whole_seconds(value: object, what: str) -> int | None:
    milliseconds = check_duration(value, what, timedelta(0), MAX_RETRY_DELAY)
    if milliseconds is None:
        return None
    if milliseconds % 1000:
        raise InvalidJob(f"{what} is {value}; it must be whole seconds.")
    return milliseconds // 1000


def _retry(options: Mapping[str, Any]) -> RetryPolicy:
    backoff = options.get("retry_backoff")
    if backoff is not None and not isinstance(backoff, bool):
        raise InvalidJob(f"retry_backoff must be True, False or None, not {backoff!r:.80}.")
    delay = _whole_seconds(options.get("retry_delay"), "retry_delay")
    delay_max = _whole_seconds(options.get("retry_delay_max"), "retry_delay_max")
    if delay is None and backoff is None and delay_max is None:
        return _NO_RETRY_SETTINGS
    return RetryPolicy(delay, backoff, delay_max)


def _name_or_none(value: object, what: str) -> str | None:
    return None if value is None else check_name(value, what)
