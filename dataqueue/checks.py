"""Checks of what the methods of a queue are given."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, cast

from dataqueue.errors import InvalidJob
from dataqueue.jobs import STATUSES, JobStatus, TagMode
from dataqueue.options import check_name


def may_exist(job_id: object) -> bool:
    """Whether a store could have given this id: one from a URL may be 0, or larger than any.

    Raises:
        InvalidJob: not an integer.
    """
    if isinstance(job_id, bool) or not isinstance(job_id, int):
        raise InvalidJob(f"job_id must be an integer, not {job_id!r:.80}.")
    return 1 <= job_id < 2**63


def check_by(by: object) -> str | None:
    return None if by is None else check_name(by, "by")


def check_window(window: object) -> timedelta:
    if not isinstance(window, timedelta) or window <= timedelta(0):
        raise InvalidJob(f"window must be a positive timedelta, not {window!r:.80}.")
    return window


_LONGEST_AGE = timedelta(days=36_500)


def check_age(age: object, what: str) -> timedelta:
    if not isinstance(age, timedelta):
        raise InvalidJob(f"{what} must be a timedelta, not {age!r:.80}. Write timedelta(days=…).")
    if not timedelta(0) <= age <= _LONGEST_AGE:
        raise InvalidJob(f"{what} is {age}; it must be from 0 to {_LONGEST_AGE.days:,} days.")
    return age


def several(value: object, what: str) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Iterable):
        raise InvalidJob(f"{what} must be a text or a list of texts, not {value!r:.80}.")
    return tuple(cast("Iterable[Any]", value))


def check_statuses(value: object) -> tuple[JobStatus, ...]:
    statuses = several(value, "status")
    for status in statuses:
        if status not in STATUSES:
            raise InvalidJob(f"There is no status {status!r}. Statuses: {', '.join(STATUSES)}.")
    return statuses


def check_tag_mode(mode: object) -> TagMode:
    if mode not in ("all", "any", "exact", "none"):
        raise InvalidJob(f"There is no tag mode {mode!r}. Modes: all, any, exact, none.")
    return mode


def seconds_or_none(timeout: object) -> float | None:
    if timeout is None:
        return None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds >= 0:
        raise InvalidJob(f"timeout must be seconds from 0 or a timedelta, not {timeout!r:.80}.")
    return float(seconds)
