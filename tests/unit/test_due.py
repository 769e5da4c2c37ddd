"""When reports are due, and what about: held against a clock that is watched minute by minute."""

from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openride_analytics.config import time_zones
from openride_analytics.reports.due import (
    RELATIVE_PERIODS,
    WEEKDAYS,
    BadTiming,
    RelativePeriod,
    Timing,
    period_of,
    timing,
)
from tests.properties import SLOW

MINUTE = timedelta(minutes=1)
LAGOS = ZoneInfo("Africa/Lagos")
BERLIN = ZoneInfo("Europe/Berlin")


def matches(expression: str, wall: datetime) -> bool:
    """Whether cron would start at that minute of the wall clock, field by field."""
    minute, hour, day, month, weekday = expression.split()

    def fits(field: str, value: int, lowest: int) -> bool:
        for part in field.split(","):
            span, _, step = part.partition("/")
            if span == "*":
                low, high = lowest, 1_000
            else:
                first, _, last = span.partition("-")
                low = int(first)
                high = int(last) if last else 1_000 if step else low
            if low <= value <= high and (value - low) % int(step or 1) == 0:
                return True
        return False

    weekday_fits = fits(weekday, wall.isoweekday() % 7, 0) or fits(weekday, wall.isoweekday(), 0)
    day_fits = fits(day, wall.day, 1)
    on_day = day_fits and weekday_fits
    if not day.startswith("*") and not weekday.startswith("*"):
        on_day = day_fits or weekday_fits
    return fits(minute, wall.minute, 0) and fits(hour, wall.hour, 0) and fits(month, wall.month, 1) and on_day


def watched(expression: str, zone: ZoneInfo, start: datetime, minutes: int) -> list[datetime]:
    """The naive model: a clock on the wall. What it passes for the first time is due; what it skips, when it has."""
    due = []
    seen = max(
        (start - n * MINUTE).astimezone(zone).replace(tzinfo=None) for n in range(1, 60 * 26)
    )  # the latest that the clock has shown so far
    for number in range(minutes):
        at = start + number * MINUTE
        shown = at.astimezone(zone).replace(tzinfo=None)
        passed = False
        while seen < shown:
            seen += MINUTE
            passed = passed or matches(expression, seen)
        if passed:
            due.append(at)
    return due


@cache
def changes(zone: ZoneInfo) -> list[datetime]:
    """The days of some fifty years on which a zone's clock was changed."""
    found = []
    day = datetime(1988, 1, 1, tzinfo=UTC)
    while day.year < 2038:
        following = day + timedelta(days=1)
        if day.astimezone(zone).utcoffset() != following.astimezone(zone).utcoffset():
            found.append(day)
        day = following
    return found


zones = st.sampled_from(sorted(time_zones())).map(ZoneInfo)


@st.composite
def cron_fields(draw: st.DrawFn, low: int, high: int) -> str:
    """One field, in all its forms."""
    parts = []
    for _ in range(draw(st.integers(1, 2))):
        first = draw(st.integers(low, high))
        last = draw(st.integers(first, high))
        step = draw(st.integers(1, 30))
        parts.append(
            draw(st.sampled_from(["*", f"*/{step}", f"{first}", f"{first}-{last}", f"{first}-{last}/{step}"]))
        )
    return ",".join(parts)


crons = st.tuples(
    cron_fields(0, 59),
    st.one_of(st.just("*"), cron_fields(0, 23), st.sampled_from(["0", "1", "2", "0-3", "23"])),
    st.one_of(st.just("*"), cron_fields(1, 31)),
    st.just("*"),
    st.one_of(st.just("*"), cron_fields(0, 7)),
).map(" ".join)


@SLOW
@given(zone=zones, cron=crons, data=st.data())
def test_due_times_are_those_of_a_clock_on_the_wall(zone: ZoneInfo, cron: str, data: st.DataObject) -> None:
    days = changes(zone) or [datetime(2026, 3, 1, tzinfo=UTC)]
    start = data.draw(st.sampled_from(days)) - data.draw(st.integers(0, 1440)) * MINUTE
    minutes = 60 * 24 * 3
    expected = watched(cron, zone, start, minutes)
    found = timing(timezone=zone, cron=cron)
    until = start + minutes * MINUTE
    due = []
    for instant in found.following(start - MINUTE / 60):
        if instant >= until:
            break
        due.append(instant)
    assert due == expected
    for now in [start + data.draw(st.integers(0, minutes - 1)) * MINUTE for _ in range(5)]:
        before = [instant for instant in expected if instant <= now]
        if before:
            assert found.latest(now) == before[-1]
            assert found.next(now, 1) == [i for i in expected if i > now][:1] or now >= expected[-1]


@pytest.mark.parametrize(
    ("zone", "day", "at", "due"),
    [
        # 29 March 2026: from 02:00 to 03:00; 25 October 2026: from 03:00 back to 02:00.
        ("Europe/Berlin", "2026-03-29", "01:59", "2026-03-29T00:59:00Z"),
        ("Europe/Berlin", "2026-03-29", "02:00", "2026-03-29T01:00:00Z"),
        ("Europe/Berlin", "2026-03-29", "02:30", "2026-03-29T01:00:00Z"),
        ("Europe/Berlin", "2026-03-29", "03:00", "2026-03-29T01:00:00Z"),
        ("Europe/Berlin", "2026-10-25", "02:30", "2026-10-25T00:30:00Z"),
        ("Europe/Berlin", "2026-10-25", "03:00", "2026-10-25T02:00:00Z"),
        # Half an hour.
        ("Australia/Lord_Howe", "2026-10-04", "02:15", "2026-10-03T15:30:00Z"),
        # At midnight.
        ("Africa/Cairo", "2026-04-24", "00:30", "2026-04-23T22:00:00Z"),
        # A whole day that was not: 30 December 2011.
        ("Pacific/Apia", "2011-12-30", "07:00", "2011-12-30T10:00:00Z"),
        ("Africa/Lagos", "2026-03-01", "07:00", "2026-03-01T06:00:00Z"),
    ],
)
def test_a_skipped_time_is_due_at_the_change_and_a_doubled_one_the_first_time(
    zone: str, day: str, at: str, due: str
) -> None:
    found = timing(timezone=ZoneInfo(zone), frequency="daily", at=at)
    before = datetime.combine(date.fromisoformat(day) - timedelta(days=1), time(12), ZoneInfo(zone))
    assert found.next(before) == [datetime.fromisoformat(due)]


def test_a_doubled_hour_has_no_second_report() -> None:
    found = timing(timezone=BERLIN, cron="*/30 2 * * *")
    evening = datetime(2026, 10, 24, 20, tzinfo=UTC)
    assert [f"{due:%dT%H:%M}" for due in found.next(evening, 3)] == ["25T00:00", "25T00:30", "26T01:00"]


@pytest.mark.parametrize(
    ("asked", "due"),
    [
        ({"frequency": "daily", "at": "07:30"}, ["11-25T06:30", "11-26T06:30", "11-27T06:30"]),
        ({"frequency": "weekly", "at": "07:30"}, ["11-30T06:30", "12-07T06:30"]),
        ({"frequency": "weekly", "at": "07:30", "weekday": "sunday"}, ["11-29T06:30", "12-06T06:30"]),
        ({"frequency": "monthly", "at": "00:00"}, ["11-30T23:00", "12-31T23:00"]),
        (
            {"frequency": "monthly", "at": "07:00", "day": 31},
            ["11-30T06:00", "12-31T06:00", "01-31T06:00", "02-28T06:00"],
        ),
        ({"cron": "0 7 * * 1-5"}, ["11-25T06:00", "11-26T06:00", "11-27T06:00", "11-30T06:00"]),
        ({"cron": "0 7 * * MON"}, ["11-30T06:00"]),
        ({"cron": "0 7 * * 0"}, ["11-29T06:00"]),
        ({"cron": "0 7 * * 7"}, ["11-29T06:00"]),
        ({"cron": "0 7 1 jan-MAR *"}, ["01-01T06:00", "02-01T06:00", "03-01T06:00", "01-01T06:00"]),
        ({"cron": "0 7 1 * 1"}, ["11-30T06:00", "12-01T06:00", "12-07T06:00"]),
        ({"cron": "5/20 7 * * *"}, ["11-25T06:05", "11-25T06:25", "11-25T06:45", "11-26T06:05"]),
    ],
)
def test_due_times_by_example(asked: dict[str, Any], due: list[str]) -> None:
    now = datetime(2026, 11, 25, 3, tzinfo=UTC)
    found = timing(timezone=LAGOS, **asked).next(now, len(due))
    assert [f"{instant:%m-%dT%H:%M}" for instant in found] == due


def test_the_29th_of_february_comes_after_eight_years_at_the_latest() -> None:
    found = timing(timezone=LAGOS, cron="0 0 29 2 *").next(datetime(2096, 3, 1, tzinfo=UTC))
    assert found == [datetime(2104, 2, 28, 23, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "cron"),
        ({"cron": "0 7 * * *", "frequency": "daily"}, "cron"),
        ({"cron": ""}, "cron"),
        ({"cron": "0 7 * *"}, "cron"),
        ({"cron": "0 7 * * * *"}, "cron"),
        ({"cron": "60 7 * * *"}, "cron"),
        ({"cron": "0 24 * * *"}, "cron"),
        ({"cron": "0 7 0 * *"}, "cron"),
        ({"cron": "0 7 32 * *"}, "cron"),
        ({"cron": "0 7 * 13 *"}, "cron"),
        ({"cron": "0 7 * * 8"}, "cron"),
        ({"cron": "0 7 * * bob"}, "cron"),
        ({"cron": "0 7-5 * * *"}, "cron"),
        ({"cron": "*/0 7 * * *"}, "cron"),
        ({"cron": "-1 7 * * *"}, "cron"),
        ({"cron": "٣ 7 * * *"}, "cron"),
        ({"cron": "@daily"}, "cron"),
        ({"cron": "0 7 30 2 *"}, "cron"),
        ({"cron": "0 " * 200}, "cron"),
        ({"cron": "0 7 * * *", "at": "07:00"}, "time"),
        ({"cron": "0 7 * * *", "weekday": "monday"}, "weekday"),
        ({"cron": "0 7 * * *", "day": 1}, "day"),
        ({"frequency": "daily"}, "time"),
        ({"frequency": "daily", "at": "7:00"}, "time"),
        ({"frequency": "daily", "at": "24:00"}, "time"),
        ({"frequency": "daily", "at": "07:00\n"}, "time"),
        ({"frequency": "daily", "at": "07:00", "weekday": "monday"}, "weekday"),
        ({"frequency": "weekly", "at": "07:00", "day": 3}, "day"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(asked: dict[str, Any], field: str) -> None:
    with pytest.raises(BadTiming) as refused:
        timing(timezone=LAGOS, **asked)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("relative", "first", "last"),
    [
        ("today", "2026-05-13", "2026-05-13"),
        ("yesterday", "2026-05-12", "2026-05-12"),
        ("last_7_days", "2026-05-06", "2026-05-12"),
        ("last_30_days", "2026-04-13", "2026-05-12"),
        ("last_90_days", "2026-02-12", "2026-05-12"),
        ("last_week", "2026-05-04", "2026-05-10"),
        ("last_month", "2026-04-01", "2026-04-30"),
        ("last_quarter", "2026-01-01", "2026-03-31"),
        ("last_year", "2025-01-01", "2025-12-31"),
        ("week_to_date", "2026-05-11", "2026-05-13"),
        ("month_to_date", "2026-05-01", "2026-05-13"),
        ("quarter_to_date", "2026-04-01", "2026-05-13"),
        ("year_to_date", "2026-01-01", "2026-05-13"),
    ],
)
def test_relative_periods_by_example(relative: RelativePeriod, first: str, last: str) -> None:
    # A Wednesday, and not yet the 14th although it is in UTC+14.
    period = period_of(relative, datetime(2026, 5, 13, 22, 59, tzinfo=UTC), LAGOS)
    assert period.start.astimezone(LAGOS) == datetime.fromisoformat(f"{first}T00:00:00+01:00")
    assert period.end.astimezone(LAGOS) == datetime.fromisoformat(f"{last}T00:00:00+01:00") + timedelta(
        days=1
    )


@SLOW
@given(
    zone=zones,
    due=st.datetimes(datetime(1990, 1, 1), datetime(2060, 1, 1)),  # noqa: DTZ001  # made aware below
)
@example(zone=ZoneInfo("Africa/Cairo"), due=datetime(2026, 4, 24, 9))  # noqa: DTZ001
def test_relative_periods_are_whole_days_around_the_due_time(zone: ZoneInfo, due: datetime) -> None:
    at = due.replace(tzinfo=UTC)
    day = at.astimezone(zone).date()
    for relative in RELATIVE_PERIODS:
        period = period_of(relative, at, zone)
        assert period.start < period.end
        assert period.whole_days
        first = period.start.astimezone(zone).date()
        last = (period.end - timedelta(milliseconds=1)).astimezone(zone).date()
        if relative == "today" or relative.endswith("to_date"):
            assert first <= day == last
            assert period.start <= at < period.end
        else:
            assert first <= last < day
            assert period.end <= at
        assert 1 <= len(period.buckets) <= 93
        starts = {"week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}
        for unit, begin in starts.items():
            if relative == f"last_{unit}":
                assert last == begin - timedelta(days=1)
            if relative == f"{unit}_to_date":
                assert first == begin


def test_the_weekdays_are_those_of_the_calendar() -> None:
    assert WEEKDAYS[date(2026, 11, 25).weekday()] == "wednesday"


def test_due_times_need_no_more_than_a_moment() -> None:
    never_today = Timing(LAGOS, (0,), days=frozenset({29}), months=frozenset({2}))
    assert never_today.latest(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2024, 2, 28, 23, tzinfo=UTC)
