"""When a cron expression fires: pure rules, without I/O.

Clock changes. A *fixed* hour (``0 2 * * *``, a list, a range) fires once a day: where the clocks skip its time, at the
end of the gap; where they repeat it, at the first of the two. An *interval* (the hour field is ``*`` or ``*/n``) keeps its
pace: it fires whenever the clock shows its time, in both passes of a repeated hour, and after a change the old clock counts
too until the new one has had its first fire. So it never pauses for longer than on other days.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from dataqueue.errors import InvalidSchedule

MAX_EXPRESSION = 255
MAX_TIMEZONE = 100
_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_RANDOM = re.compile(r"(^|,)[hr]($|[(/,])", re.IGNORECASE)
_LAST_WEEKDAY = re.compile(r"^([0-7]|sun|mon|tue|wed|thu|fri|sat)l$", re.IGNORECASE)
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NEAR = timedelta(hours=3)
"""Longer than clocks are moved at once (but for the few zones that have skipped a day)."""
_SECOND, _DAY = timedelta(seconds=1), timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Cron:
    """A checked expression. ``text`` is as croniter reads it; an ``interval`` fires in each hour, or each nth."""

    text: str
    interval: bool

    def fires_on(self, local: datetime) -> bool:
        """Whether this is a day on which it fires at all."""
        from croniter import croniter  # pyright: ignore[reportMissingTypeStubs]

        fields = self.text.split()
        fields = fields[2:5] if len(fields) == 5 else fields[3:6]
        matches: Any = croniter.match
        return matches(
            " ".join(("0", "0", *fields)), local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        )

    def walls(self, after: datetime) -> Iterator[datetime]:
        """The matching times of a clock that is never changed, after this one (all without a time zone)."""
        from croniter import CroniterBadDateError, croniter  # pyright: ignore[reportMissingTypeStubs]

        times: Any = croniter(self.text, after, second_at_beginning=True)
        try:
            while True:
                yield times.get_next(datetime)
        except (CroniterBadDateError, OverflowError, ValueError):  # no more, or beyond the year 9999
            return


def validate_cron(expression: str, timezone: str = "UTC") -> None:
    """Check a cron expression and the name of a time zone.

    Five fields (minute, hour, day of month, month, day of week), six with seconds first, seven with a year last;
    ``@hourly`` to ``@yearly``; names, lists, ranges, steps, ``L``, ``15W``, ``5#2``, ``5L``, ``?``. Where day of month and day of
    week are both restricted, either will do. An expression that never fires (30 February) is valid.

    Raises:
        InvalidSchedule: says what is wrong.
    """
    parse(expression)
    find_zone(timezone)


def next_occurrence(expression: str, timezone: str = "UTC", after: datetime | None = None) -> datetime | None:
    """When the expression fires next.

    Args:
        timezone: by whose clock, as ``Europe/Oslo``.
        after: an aware datetime, now by default; the result is later than this.

    Returns:
        The moment, in UTC; None if it never fires (within 50 years).

    Raises:
        InvalidSchedule: a wrong expression, an unknown time zone, or a datetime without a time zone.
    """
    moment = datetime.now(UTC) if after is None else after
    if moment.utcoffset() is None:
        raise InvalidSchedule(f"after is {moment.isoformat()} without a time zone. Use datetime.now(timezone.utc).")
    return next_fire(expression, timezone, moment)


def next_fire(expression: str, timezone: str, after: datetime) -> datetime | None:
    """The first fire later than ``after``, in UTC; None for never.

    Raises:
        InvalidSchedule: a wrong expression, or an unknown time zone.
    """
    cron, zone = parse(expression), find_zone(timezone)
    find = _next_of_interval if cron.interval else _next_of_fixed
    return find(cron, zone, after.astimezone(UTC))


def latest_fires(expression: str, timezone: str, first: datetime, until: datetime, most: int) -> list[datetime]:
    """The last ``most`` fires from ``first`` (which is one) to ``until``, both included; without going through all."""
    fires: list[datetime] = []
    window = timedelta(seconds=most)
    while True:
        complete = until - window <= first
        fires = [first] if complete else []
        fire = next_fire(expression, timezone, max(first, until - window))
        while fire is not None and fire <= until:
            fires.append(fire)
            fire = next_fire(expression, timezone, fire)
        if complete or len(fires) >= most:
            return fires[-most:]
        window *= 4


def describe(expression: str) -> str:
    """The expression in words: ``0 9 * * 1-5`` is "At 09:00, Monday through Friday".

    Raises:
        InvalidSchedule: a wrong expression.
    """
    import cron_descriptor  # pyright: ignore[reportMissingTypeStubs]

    words: Any = cron_descriptor
    options = words.Options()
    options.use_24hour_time_format = True
    options.locale_code = "en_US"
    # It reads a last Friday as 5L, and croniter as l5.
    text = re.sub(r"(?<= )l([0-6])(?= |$)", r"\1L", parse(expression).text).upper()
    try:
        return words.ExpressionDescriptor(text, options).get_description()
    except words.FormatError:
        return expression


def parse(expression: str) -> Cron:
    """Check an expression.

    Raises:
        InvalidSchedule
    """
    if not isinstance(expression, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidSchedule(f"A cron expression must be text, not {expression!r:.80}. Nothing was stored.")
    return _parse(expression)


@lru_cache(maxsize=1024)
def _parse(expression: str) -> Cron:
    from croniter import CroniterError, croniter  # pyright: ignore[reportMissingTypeStubs]

    if len(expression) > MAX_EXPRESSION:
        raise _invalid(expression, f"it has {len(expression)} characters, and {MAX_EXPRESSION} fit")
    text = _ALIASES.get(expression.strip().lower(), expression.lower())
    fields = re.findall(r"\S+", text, re.ASCII)
    _check_form(expression, fields)
    weekday = len(fields) - 1 if len(fields) < 7 else 5
    if last := _LAST_WEEKDAY.match(fields[weekday]):
        day = last[1]
        fields[weekday] = f"l{_WEEKDAYS.index(day) if day in _WEEKDAYS else int(day) % 7}"
    text = " ".join(fields)
    reader: Any = croniter
    try:
        expanded, nth_weekdays = reader.expand(text, second_at_beginning=True)
        reader(text, datetime(2026, 1, 1, tzinfo=UTC), second_at_beginning=True)
    except CroniterError as error:
        raise _invalid(expression, _reason(str(error), fields)) from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError):
        raise _invalid(expression, "it cannot be read") from None
    day = fields[weekday - 2]
    if (nth_weekdays and expanded[2] != ["*"]) or ("w" in day and expanded[4] != ["*"]):
        raise _invalid(expression, "a day of month does not go with # or L in the weekday, nor W with a weekday")
    hour = fields[weekday - 3]
    return Cron(text, expanded[1] == ["*"] or hour.startswith("*/"))


def _check_form(expression: str, fields: list[str]) -> None:
    """Refuse what croniter would take for something else, and say of what we know how to say it otherwise."""
    if fields and fields[0].startswith("@"):
        raise _invalid(expression, f"of the words with an @ there are {', '.join(_ALIASES)}")
    if len(fields) == 1 and re.match(r"^\d{4}-\d", fields[0]):
        raise _invalid(expression, "a single moment is not a schedule: add a job with run_at=")
    if not 5 <= len(fields) <= 7:
        raise _invalid(
            expression,
            f"it has {len(fields)} fields; five (minute, hour, day of month, month, day of week), six with seconds "
            "first, or seven with a year last are needed",
        )
    if any(_RANDOM.search(field) for field in fields):
        raise _invalid(expression, "H and R (hashed and random times) would differ from process to process")
    if any(len(field) > 100 for field in fields):
        raise _invalid(expression, "one of its fields is longer than 100 characters")


def _reason(said: str, fields: list[str]) -> str:
    names = ("minute", "hour", "day of month", "month", "day of week")
    if len(fields) > 5:
        names = ("second", *names, "year")
    shown = ", ".join(f"{name} {field}" for name, field in zip(names, fields, strict=False))
    said = re.sub(r"\s+", " ", said).strip().rstrip(".")
    return f"{said} (read as: {shown})"


def _invalid(expression: str, why: str) -> InvalidSchedule:
    return InvalidSchedule(f"{expression!r:.80} is not a cron expression that can be used: {why}. Nothing was stored.")


def find_zone(name: str) -> ZoneInfo:
    """The time zone of this name.

    Raises:
        InvalidSchedule: there is none.
    """
    if isinstance(name, str) and 0 < len(name) <= MAX_TIMEZONE:  # pyright: ignore[reportUnnecessaryIsInstance]
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # not found, a path, a folder
            pass
    raise InvalidSchedule(
        f"There is no time zone {name!r:.80} on this machine. Use a name as Europe/Oslo or UTC (pip install tzdata where "
        "the system has no time zones). Nothing was stored."
    )


# -- clock changes ----------------------------------------------------------------------------------------


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    """By how much local time is ahead at a moment (UTC)."""
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def _change(zone: ZoneInfo, before: datetime, behind: datetime) -> datetime:
    """A moment (UTC) in between at which the clocks are moved. At its two ends they must differ."""
    before, old = before.replace(microsecond=0), _offset(zone, before)
    while behind - before > _SECOND:
        middle = (before + (behind - before) / 2).replace(microsecond=0)
        if _offset(zone, middle) == old:
            before = middle
        else:
            behind = middle
    return behind


def _next_of_fixed(cron: Cron, zone: ZoneInfo, now: datetime) -> datetime | None:
    for wall in cron.walls((now + _offset(zone, now)).replace(tzinfo=None)):
        fire = _once(zone, wall)
        if fire > now:  # not so where now is in the second pass of a repeated hour
            return fire
    return None


def _once(zone: ZoneInfo, wall: datetime) -> datetime:
    """The one moment of a wall-clock time: the first of two, or the end of the gap that it is in."""
    first, second = wall.replace(tzinfo=zone, fold=0).utcoffset(), wall.replace(tzinfo=zone, fold=1).utcoffset()
    assert first is not None and second is not None
    if second <= first:
        return (wall - first).replace(tzinfo=UTC)
    return _change(zone, (wall - second).replace(tzinfo=UTC), (wall - first).replace(tzinfo=UTC))


def _next_of_interval(cron: Cron, zone: ZoneInfo, now: datetime) -> datetime | None:
    shown = _next_shown(cron, zone, now)
    if shown is None or _offset(zone, shown - _DAY) == _offset(zone, shown):
        return shown
    change = _change(zone, shown - _DAY, shown)
    if now >= change and _next_shown(cron, zone, change - _SECOND) != shown:
        return shown  # the new clock has had its first
    old = _offset(zone, change - _SECOND)
    wall = next(cron.walls((max(now, change - _SECOND) + old).replace(tzinfo=None)), None)
    fire = None if wall is None else (wall - old).replace(tzinfo=UTC)
    return fire if fire and fire < shown and cron.fires_on(fire.astimezone(zone)) else shown


def _next_shown(cron: Cron, zone: ZoneInfo, now: datetime) -> datetime | None:
    """When the clock next shows a time of this expression."""
    clock = _offset(zone, now + _SECOND)
    while True:
        wall = next(cron.walls((now + clock).replace(tzinfo=None)), None)
        if wall is None:
            return None
        fire = (wall - clock).replace(tzinfo=UTC)
        # Also where the next comes much later: a repeated hour may have one that was passed already.
        behind = next((there for there in (min(fire, now + _NEAR), fire) if _offset(zone, there) != clock), None)
        if behind is None:
            return fire
        now = _change(zone, now + _SECOND, behind) - _SECOND
        clock = _offset(zone, now + _SECOND)
