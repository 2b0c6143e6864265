"""How much of a type may run: over all workers, kept by the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dataqueue.errors import InvalidJob

MAX_COUNT = 1_000_000
_SHORTEST, _LONGEST = timedelta(milliseconds=1), timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``count`` starts within any stretch of time of the length ``per``: ``Rate(100, per=timedelta(minutes=1))``.

    All ``count`` may start at once. Attempts count, so a retry is a start. A start counts for up to a hundredth of
    ``per`` longer than it must.

    Raises:
        InvalidJob: a count below 1, or a time that is no timedelta from 1 ms to 366 days.
    """

    count: int
    per: timedelta

    def __post_init__(self) -> None:
        _check_count(self.count, "The count of a Rate")
        if not isinstance(self.per, timedelta):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidJob(
                f"per must be a timedelta, not {self.per!r:.80}. Write Rate(100, per=timedelta(minutes=1))."
            )
        if not _SHORTEST <= self.per <= _LONGEST:
            raise InvalidJob(f"per is {self.per}; it must be from 1 ms to 366 days.")

    @property
    def ms(self) -> int:
        """``per`` in milliseconds, rounded up."""
        return -(-self.per // timedelta(milliseconds=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeLimits:
    """What a definition limits. None for no limit."""

    max_concurrency: int | None = None
    rate: Rate | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> TypeLimits:
        """The limits among the options of a definition.

        Raises:
            InvalidJob: one of the wrong type or range.
        """
        concurrency, rate = options.get("max_concurrency"), options.get("rate")
        if concurrency is not None:
            _check_count(concurrency, "max_concurrency")
        if rate is not None and not isinstance(rate, Rate):
            raise InvalidJob(f"rate must be a Rate, not {rate!r:.80}. Write Rate(100, per=timedelta(minutes=1)).")
        return cls(max_concurrency=concurrency, rate=rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    """A type that is limited or paused, and what it uses. ``job_type`` None is the whole queue (only ever paused).

    ``running`` is counted where ``max_concurrency`` limits, ``started`` where ``rate`` does: the starts that count
    now; ``opens_at`` is when the oldest of them counts no more.
    """

    job_type: str | None
    paused_at: datetime | None = None
    paused_by: str | None = None
    max_concurrency: int | None = None
    running: int | None = None
    rate: Rate | None = None
    started: int | None = None
    opens_at: datetime | None = None

    @property
    def free(self) -> int | None:
        """How many more may start now, None for any number."""
        if self.paused_at is not None:
            return 0
        rooms: list[int] = []
        if self.max_concurrency is not None:
            rooms.append(self.max_concurrency - (self.running or 0))
        if self.rate is not None:
            rooms.append(self.rate.count - (self.started or 0))
        return max(0, min(rooms)) if rooms else None


def _check_count(value: object, what: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_COUNT:
        raise InvalidJob(f"{what} must be a whole number from 1 to {MAX_COUNT:,}, not {value!r:.80}.")
