"""When a cron expression fires: its rules, over the clock changes of zones that make trouble."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataqueue.errors import InvalidSchedule
from dataqueue.schedule import describe, latest_fires, next_fire, next_occurrence, validate_cron

# Half an hour; a quarter to three; two hours; at midnight; the usual.
ZONES = ("Australia/Lord_Howe", "Pacific/Chatham", "Antarctica/Troll", "America/Santiago", "America/New_York")
HOUR = timedelta(hours=1)


def changes(zone: str, year: int = 2026) -> list[datetime]:
    """The moments of a year at which the clocks of a zone are moved."""
    info, found = ZoneInfo(zone), list[datetime]()
    start = datetime(year, 1, 1, tzinfo=UTC)
    for minutes in range(0, 366 * 24 * 60, 15):
        moment = start + timedelta(minutes=minutes)
        if moment.astimezone(info).utcoffset() != (moment - timedelta(minutes=15)).astimezone(info).utcoffset():
            found.append(moment)
    return found


CHANGES = {zone: changes(zone) for zone in ZONES}


def fires(expression: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    found: list[datetime] = []
    fire = next_fire(expression, zone, start)
    while fire is not None and fire < end:
        found.append(fire)
        fire = next_fire(expression, zone, fire)
    return found


def walls(expression: str, zone: str, start: str, end: str) -> list[str]:
    """Local times between two local times, with the offset of each."""
    info = ZoneInfo(zone)
    found = fires(
        expression, zone, datetime.fromisoformat(start).replace(tzinfo=info), datetime.fromisoformat(end).replace(tzinfo=info)
    )  # fmt: skip
    return [f"{fire.astimezone(info):%H:%M%z}" for fire in found]


def test_each_zone_has_two_changes() -> None:
    assert {zone: len(found) for zone, found in CHANGES.items()} == dict.fromkeys(ZONES, 2)


# -- examples by hand -------------------------------------------------------------------------------------


def test_a_fixed_hour_in_a_gap_fires_once_at_its_end() -> None:
    assert walls("30 2 * * *", "America/New_York", "2026-03-08T00:00", "2026-03-09T00:00") == ["03:00-0400"]
    assert walls("0,30 2,3 * * *", "America/New_York", "2026-03-08T00:00", "2026-03-09T00:00") == [
        "03:00-0400",
        "03:30-0400",
    ]
    assert walls("15 2 * * *", "Australia/Lord_Howe", "2026-10-04T00:00", "2026-10-05T00:00") == ["02:30+1100"]
    assert walls("0 3 * * *", "Pacific/Chatham", "2026-09-27T00:00", "2026-09-28T00:00") == ["03:45+1345"]
    assert walls("0 2 * * *", "Antarctica/Troll", "2026-03-29T00:00", "2026-03-30T00:00") == ["03:00+0200"]
    assert walls("0 0 * * *", "America/Santiago", "2026-09-05T01:00", "2026-09-07T01:00") == [
        "01:00-0300",
        "00:00-0300",
    ]


def test_a_fixed_hour_in_a_fold_fires_once_at_the_first() -> None:
    assert walls("30 1 * * *", "America/New_York", "2026-11-01T00:00", "2026-11-02T00:00") == ["01:30-0400"]
    assert walls("45 1 * * *", "Australia/Lord_Howe", "2026-04-05T00:00", "2026-04-06T00:00") == ["01:45+1100"]
    assert walls("0 3 * * *", "Pacific/Chatham", "2026-04-05T00:00", "2026-04-06T00:00") == ["03:00+1345"]
    assert walls("30 1,2 * * *", "Antarctica/Troll", "2026-10-25T00:00", "2026-10-26T00:00") == [
        "01:30+0200",
        "02:30+0200",
    ]
    assert walls("30 23 * * *", "America/Santiago", "2026-04-04T12:00", "2026-04-05T12:00") == ["23:30-0300"]


def test_a_fixed_hour_that_was_just_passed_is_not_found_in_the_second_pass() -> None:
    second = datetime(2026, 11, 1, 1, 10, tzinfo=ZoneInfo("America/New_York"), fold=1)
    assert next_fire("30 1 * * *", "America/New_York", second) == datetime(2026, 11, 2, 6, 30, tzinfo=UTC)


def test_an_interval_keeps_its_pace_over_a_fold() -> None:
    """D-CRONDST: the original is silent in the repeated hour."""
    assert walls("*/30 * * * *", "America/New_York", "2026-11-01T00:45", "2026-11-01T02:15") == [
        "01:00-0400",
        "01:30-0400",
        "01:00-0500",
        "01:30-0500",
        "02:00-0500",
    ]
    assert walls("0 * * * *", "America/New_York", "2026-11-01T00:30", "2026-11-01T03:30") == [
        "01:00-0400", "01:00-0500", "02:00-0500", "03:00-0500",
    ]  # fmt: skip
    # Half an hour back: on the old hour, and on the new one.
    assert walls("0 * * * *", "Australia/Lord_Howe", "2026-04-05T00:30", "2026-04-05T03:30") == [
        "01:00+1100", "01:30+1030", "02:00+1030", "03:00+1030",
    ]  # fmt: skip


def test_an_interval_keeps_its_pace_over_a_gap() -> None:
    assert walls("*/30 * * * *", "America/New_York", "2026-03-08T01:15", "2026-03-08T04:15") == [
        "01:30-0500", "03:00-0400", "03:30-0400", "04:00-0400",
    ]  # fmt: skip
    assert walls("0 */2 * * *", "America/New_York", "2026-03-07T23:30", "2026-03-08T06:30") == [
        "00:00-0500", "03:00-0400", "04:00-0400", "06:00-0400",
    ]  # fmt: skip
    # Only on the days on which it fires at all.
    assert walls("0 * 2 11 *", "America/New_York", "2026-11-01T00:30", "2026-11-02T01:30") == [
        "00:00-0500",
        "01:00-0500",
    ]
    # The repeated hour before midnight, on a day that is the last of the schedule.
    assert walls("30 * 4 4 *", "America/Santiago", "2026-04-04T22:00", "2026-04-05T12:00") == [
        "22:30-0300", "23:30-0300", "23:30-0400",
    ]  # fmt: skip


# -- properties -------------------------------------------------------------------------------------------

zones = st.sampled_from(ZONES)
minutes = st.sampled_from(("0", "15", "30", "45", "*/10", "*/20", "7,44", "0-30/15"))
fixed_hours = st.sampled_from(("0", "1", "2", "3", "1,2", "0-4", "0-23/2", "2,14"))
interval_hours = st.sampled_from(("*", "*/2", "*/3", "*/4", "*/6"))
around = st.integers(-26 * 60, 26 * 60)


@st.composite
def near_changes(draw: st.DrawFn) -> tuple[str, datetime]:
    """A zone, and a moment within a day of one of its changes."""
    zone = draw(zones)
    return zone, draw(st.sampled_from(CHANGES[zone])) + timedelta(minutes=draw(around))


def offset(zone: str, moment: datetime) -> timedelta:
    found = moment.astimezone(ZoneInfo(zone)).utcoffset()
    assert found is not None
    return found


@settings(max_examples=40, deadline=None)
@given(near_changes(), minutes, st.one_of(fixed_hours, interval_hours))
def test_fires_are_strictly_later_each_and_the_same_from_wherever_asked(
    place: tuple[str, datetime], minute: str, hour: str
) -> None:
    zone, start = place
    expression = f"{minute} {hour} * * *"
    found = fires(expression, zone, start, start + timedelta(hours=30))
    assert all(earlier < later for earlier, later in itertools.pairwise([start, *found]))
    # Whoever asks between two fires gets the second.
    for earlier, later in itertools.pairwise(found):
        assert next_fire(expression, zone, earlier + (later - earlier) / 2) == later
    assert next_fire(expression, zone, found[-1] - timedelta(seconds=1)) == found[-1]


@settings(max_examples=40, deadline=None)
@given(near_changes(), st.integers(0, 59), st.integers(0, 23))
def test_a_daily_one_fires_once_each_local_day(place: tuple[str, datetime], minute: int, hour: int) -> None:
    zone, start = place
    info = ZoneInfo(zone)
    first = start.astimezone(info).date() - timedelta(days=2)
    begin = datetime.combine(first, datetime.min.time(), info) - timedelta(minutes=1)
    found = fires(f"{minute} {hour} * * *", zone, begin, begin + timedelta(days=5))
    days: list[date] = [fire.astimezone(info).date() for fire in found]
    assert days[:4] == [first + timedelta(days=n) for n in range(4)]
    for fire in found:
        local = fire.astimezone(info)
        if (local.hour, local.minute) != (hour, minute):  # only at the end of a gap
            before = (fire - timedelta(seconds=1)).astimezone(info)
            assert before.utcoffset() != local.utcoffset()
            wanted = local.replace(hour=hour, minute=minute, tzinfo=None)
            assert before.replace(tzinfo=None) < wanted < local.replace(tzinfo=None)
        assert local.fold == 0


@settings(max_examples=40, deadline=None)
@given(near_changes(), minutes, interval_hours)
def test_an_interval_fires_at_what_the_clock_shows_and_pauses_for_no_longer_than_ever(
    place: tuple[str, datetime], minute: str, hour: str
) -> None:
    """Compared with going through all minutes."""
    zone, start = place
    expression = f"{minute} {hour} * * *"
    calm = fires(expression, "UTC", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC))
    days = {(fire.hour, fire.minute) for fire in calm}
    longest = max(later - earlier for earlier, later in itertools.pairwise(calm))
    shown: list[datetime] = []
    old: list[datetime] = []
    span = [start + timedelta(minutes=n) for n in range(-26 * 60, 30 * 60)]
    for moment in span:
        wall = moment + offset(zone, moment)
        if (wall.hour, wall.minute) in days:
            shown.append(moment)
    for change in CHANGES[zone]:
        first = next((moment for moment in shown if moment >= change), None)
        if first is not None:
            clock = offset(zone, change - timedelta(minutes=1))
            walls_by_old = ((moment, moment + clock) for moment in span if change <= moment < first)
            old += [moment for moment, wall in walls_by_old if (wall.hour, wall.minute) in days]
    wanted = sorted(moment for moment in {*shown, *old} if moment > start)
    found = fires(expression, zone, start, start + timedelta(hours=30))
    assert found == wanted
    assert all(later - earlier <= longest for earlier, later in itertools.pairwise(found))


# -- expressions ------------------------------------------------------------------------------------------

EASY = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "first"),
    [
        ("0 9 * * *", "2026-01-01T09:00"),
        ("*/10 * * * * *", "2026-01-01T00:00:10"),
        ("30 0 9 * * *", "2026-01-01T09:00:30"),
        ("0 0 9 1 1 * 2030", "2030-01-01T09:00"),
        ("@HOURLY", "2026-01-01T01:00"),
        ("@weekly", "2026-01-04T00:00"),
        ("0 9 * * MON-FRI", "2026-01-01T09:00"),
        ("0 9 * * 7", "2026-01-04T09:00"),
        ("0 9 L * *", "2026-01-31T09:00"),
        ("0 9 * * 5L", "2026-01-30T09:00"),
        ("0 9 * * friL", "2026-01-30T09:00"),
        ("0 9 * * 5#2", "2026-01-09T09:00"),
        ("0 9 17W * *", "2026-01-16T09:00"),
        ("0 9 ? * *", "2026-01-01T09:00"),
        ("0 9 13 * 5", "2026-01-02T09:00"),  # either will do
        ("0 22-2 * * *", "2026-01-01T01:00"),
        ("0 0 29 2 *", "2028-02-29T00:00"),
    ],
)
def test_expressions(expression: str, first: str) -> None:
    validate_cron(expression)
    assert next_fire(expression, "UTC", EASY) == datetime.fromisoformat(first).replace(tzinfo=UTC)
    assert describe(expression)


@pytest.mark.parametrize("expression", ["0 0 30 2 *", "0 0 31 4,6 *", "0 0 0 1 1 * 2020"])
def test_what_never_fires_has_no_next_run(expression: str) -> None:
    validate_cron(expression)
    assert next_occurrence(expression, after=EASY) is None


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("* * * * * * * *", "8 fields"),
        ("61 * * * *", "out of range"),
        ("0 9 32 * *", "out of range"),
        ("0 9 * * LW", "not acceptable"),
        ("R * * * *", "H and R"),
        ("0 H(1-3) * * *", "H and R"),
        ("@reboot", "@hourly"),
        ("2026-01-01T09:00:00", "run_at="),
        ("0 9 1 * 1#1", "does not go with"),
        ("0 9 15W * 1", "does not go with"),
        ("0 0 * * *; DROP TABLE", "fields|read as"),
        ("٣ * * * *", "not acceptable"),
        ("*/0 * * * *", "not acceptable"),
        ("0 9 * * \x00", "not acceptable"),
        ("* " * 200, "characters"),
        ("0 " + "1," * 80 + "1 * * *", "longer than"),
        (None, "must be text"),
        (["*"] * 5, "must be text"),
    ],
)
def test_wrong_expressions_are_refused_with_the_reason(expression: str, why: str) -> None:
    with pytest.raises(InvalidSchedule, match=why):
        validate_cron(expression)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_either_a_schedule_or_refused(text: str) -> None:
    try:
        validate_cron(text)
    except InvalidSchedule:
        return
    next_fire(text, "UTC", EASY)
    assert describe(text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.text("0123456789*/,-LW#?HRmonfebsu", min_size=1, max_size=6) | st.sampled_from(("*", "0")),
        min_size=5,
        max_size=7,
    )
)
def test_any_fields_are_either_a_schedule_or_refused(fields: list[str]) -> None:
    text = " ".join(fields)
    try:
        validate_cron(text)
    except InvalidSchedule:
        return
    fire = next_fire(text, "Europe/Oslo", EASY)
    assert fire is None or fire > EASY
    assert describe(text)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "America", "../etc/passwd", "\x00", "x" * 101, None, ["UTC"]])
def test_unknown_time_zones_are_refused(zone: str) -> None:
    with pytest.raises(InvalidSchedule, match="no time zone"):
        validate_cron("@daily", zone)


def test_a_moment_without_a_time_zone_is_refused() -> None:
    with pytest.raises(InvalidSchedule, match="without a time zone"):
        next_occurrence("@daily", after=datetime(2026, 1, 1))  # noqa: DTZ001


def test_words() -> None:
    assert describe("0 9 * * 1-5") == "At 09:00, Monday through Friday"
    assert describe("*/10 * * * * *") == "Every 10 seconds"
    assert describe("0 9 13 * 5") == "At 09:00, on day 13 of the month, or on Friday"
    assert describe("0 9 * * 5L") == "At 09:00, on the last Friday of the month"
    assert describe("0 9 15W * *") == "At 09:00, on the weekday nearest day 15 of the month"
    assert describe("@hourly") == "Every hour"


# -- missed fires -----------------------------------------------------------------------------------------


def test_the_latest_fires_are_found_without_going_through_all() -> None:
    now = datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=UTC)
    assert latest_fires("* * * * * *", "UTC", datetime(1990, 1, 1, tzinfo=UTC), now, 3) == [
        datetime(2026, 1, 1, 11, 59, 58, tzinfo=UTC),
        datetime(2026, 1, 1, 11, 59, 59, tzinfo=UTC),
        datetime(2026, 1, 1, 12, tzinfo=UTC),
    ]
    first = datetime(2025, 12, 30, tzinfo=UTC)
    assert latest_fires("@daily", "UTC", first, now, 10) == [first, first + 24 * HOUR, first + 48 * HOUR]
    assert latest_fires("@daily", "UTC", first, now, 1) == [first + 48 * HOUR]
    assert latest_fires("@daily", "UTC", now, now, 5) == [now]  # what another program has set
    assert latest_fires("0 0 30 2 *", "UTC", first, now, 5) == [first]
