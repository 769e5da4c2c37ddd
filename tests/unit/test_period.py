"""Periods and their buckets, in every zone there is: the laws that hold everywhere, and the days when clocks change."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import get_args
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openride_analytics.period import (
    MAX_BUCKETS,
    BadPeriod,
    Granularity,
    Period,
    from_milliseconds,
    instant_text,
    milliseconds,
    parse,
    parse_bounds,
)
from tests.model import periods as model

NOW = datetime(2026, 4, 20, 12, 30, tzinfo=UTC)
LAGOS = ZoneInfo("Africa/Lagos")
DAY = timedelta(days=1)
MILLISECOND = timedelta(milliseconds=1)

# Half hours, changes at midnight, changes of half an hour, a day that was left out, each with a year to look at.
ODD_ZONES = {
    "Africa/Lagos": 2025,
    "Asia/Kolkata": 2025,
    "Asia/Kathmandu": 2025,
    "America/New_York": 2025,
    "America/St_Johns": 2007,
    "America/Havana": 2025,
    "America/Caracas": 2016,
    "America/Santiago": 2025,
    "Asia/Beirut": 2025,
    "Asia/Pyongyang": 2018,
    "Australia/Lord_Howe": 2026,
    "Africa/Cairo": 2026,
    "Europe/London": 2025,
    "Pacific/Apia": 2011,
    "Pacific/Chatham": 2025,
}
ZONES = st.sampled_from(sorted(ODD_ZONES)) | st.sampled_from(sorted(available_timezones()))


def asked(
    start: str | None = None,
    end: str | None = None,
    *,
    timezone: str = "Africa/Lagos",
    granularity: Granularity = "day",
    now: datetime = NOW,
) -> Period:
    return parse(start, end, timezone=ZoneInfo(timezone), granularity=granularity, now=now)


def fault(*args: str | None, timezone: str = "Africa/Lagos", granularity: Granularity = "day") -> str:
    with pytest.raises(BadPeriod) as refusal:
        asked(*args, timezone=timezone, granularity=granularity)
    assert refusal.value.message.endswith(".")
    return refusal.value.field


@st.composite
def periods(
    draw: st.DrawFn,
    granularities: tuple[Granularity, ...] = ("hour", "day", "week", "month"),
    max_days: int = 70,
) -> Period:
    timezone, granularity = draw(ZONES), draw(st.sampled_from(granularities))
    first = draw(st.dates(date(2000, 1, 1), date(2040, 12, 31)))
    days = draw(st.integers(0, max_days))
    if draw(st.booleans()):
        return asked(str(first), str(first + days * DAY), timezone=timezone, granularity=granularity)
    start = datetime(first.year, first.month, first.day, tzinfo=UTC) + timedelta(
        milliseconds=draw(st.integers(0, 86_400_000))
    )
    end = start + days * DAY + timedelta(milliseconds=draw(st.integers(1, 86_400_000)))
    return asked(start.isoformat(), end.isoformat(), timezone=timezone, granularity=granularity)


def question(period: Period, now: datetime) -> model.Question:
    """The same as the naive model is asked."""
    return model.Question(
        start=period.start,
        end=period.end,
        timezone=period.timezone.key,
        granularity=period.granularity,
        kind="days" if period.whole_days else "instants",
        now=now,
    )


def modelled(period: Period) -> list[model.Span]:
    """The naive model's buckets; it gives a day that was left out of the calendar an empty one."""
    return [span for span in model.buckets(question(period, NOW)) if span.start < span.end]


def local(at: datetime, period: Period) -> datetime:
    return at.astimezone(period.timezone)


class TestBuckets:
    @settings(deadline=None)
    @given(period=periods())
    def test_they_cover_the_period_without_gaps_or_overlaps(self, period: Period) -> None:
        spans = period.spans
        assert [start for start, _ in spans] == period.buckets
        assert (spans[0][0], spans[-1][1]) == (period.start, period.end)
        assert all(start < end for start, end in spans)
        assert all(one[1] == other[0] for one, other in pairwise(spans))

    @settings(deadline=None)
    @given(period=periods(("day", "week", "month"), max_days=400))
    def test_each_lies_in_one_local_day_week_or_month_and_its_neighbour_in_another(
        self, period: Period
    ) -> None:
        natural: Callable[[date], date] = {
            "day": lambda day: day,
            "week": lambda day: day - day.weekday() * DAY,
            "month": lambda day: day.replace(day=1),
        }[period.granularity]
        lies_in = [(natural(local(start, period).date()), natural(local(end - MILLISECOND, period).date()))
                   for start, end in period.spans]  # fmt: skip
        assert all(first == last for first, last in lies_in)
        assert all(one[0] < other[0] for one, other in pairwise(lies_in))

    @settings(deadline=None)
    @given(period=periods(("hour",), max_days=8))
    def test_hours_begin_where_the_wall_clock_shows_a_full_one_and_nowhere_else(self, period: Period) -> None:
        for start, end in period.spans:
            if start != period.start:
                assert (local(start, period).minute, local(start, period).second) == (0, 0)
            inside = start.replace(minute=0, second=0, microsecond=0)
            while (inside := inside + timedelta(minutes=15)) < end:
                assert inside <= start or local(inside, period).minute != 0
            assert end - start <= timedelta(hours=2)

    @settings(deadline=None)
    @given(period=periods(max_days=40))
    def test_they_are_those_of_the_naive_model(self, period: Period) -> None:
        assert period.spans == modelled(period)

    @pytest.mark.parametrize(("zone", "year"), ODD_ZONES.items())
    @pytest.mark.parametrize("granularity", ["hour", "day", "week", "month"])
    def test_a_year_has_all_its_clock_changes(self, zone: str, year: int, granularity: Granularity) -> None:
        period = asked(f"{year}-01-01", f"{year}-12-31", timezone=zone, granularity=granularity)
        assert period.spans == modelled(period)

    @pytest.mark.parametrize(
        ("zone", "day", "hours"),
        [
            ("Africa/Lagos", "2026-03-29", 24),
            ("America/New_York", "2026-03-08", 23),
            ("America/New_York", "2026-11-01", 25),
            ("Africa/Cairo", "2026-04-24", 23),  # begins at one o'clock
            ("Asia/Kolkata", "2026-03-08", 24),
            ("Australia/Lord_Howe", "2026-04-05", 24),  # one of them lasts an hour and a half
            ("Australia/Lord_Howe", "2026-10-04", 23),
            ("Pacific/Apia", "2011-12-30", None),  # left out
        ],
    )
    def test_a_day_has_as_many_hours_as_it_lasts(self, zone: str, day: str, hours: int | None) -> None:
        if hours is None:
            assert fault(day, day, timezone=zone, granularity="hour") == "end_date"
        else:
            assert len(asked(day, day, timezone=zone, granularity="hour").buckets) == hours

    def test_hours_of_a_half_hour_zone_begin_at_half_past_in_utc(self) -> None:
        period = asked("2026-03-01", "2026-03-01", timezone="Asia/Kolkata", granularity="hour")
        assert {at.minute for at in period.buckets} == {30}

    def test_the_first_and_the_last_are_cut_to_the_period(self) -> None:
        period = asked("2026-03-04", "2026-03-17", granularity="week")
        assert [str(local(at, period).date()) for at in period.buckets] == [
            "2026-03-04",
            "2026-03-09",
            "2026-03-16",
        ]

    def test_without_a_granularity_there_is_no_series(self) -> None:
        period = asked("2026-03-01", "2026-03-31", granularity="none")
        assert (period.buckets, period.spans) == ([], [])


class TestPrevious:
    @settings(deadline=None)
    @given(period=periods(max_days=100), back=st.integers(1, 3))
    def test_one_that_is_over_is_compared_with_all_of_the_one_before(self, period: Period, back: int) -> None:
        after = period.end + DAY
        before = period.previous(after, back)
        following = period.previous(after, back - 1) if back > 1 else period
        assert before.end == following.start
        assert before.granularity == "none"
        if not period.whole_days:
            assert before.end - before.start == period.end - period.start

    @settings(deadline=None)
    @given(period=periods(max_days=100), elapsed=st.floats(-0.5, 1.5), back=st.integers(1, 3))
    def test_it_is_that_of_the_naive_model(self, period: Period, elapsed: float, back: int) -> None:
        now = period.start + (period.end - period.start) * elapsed
        before, expected = period.previous(now, back), model.period(question(period, now), back)
        # In Samoa's week of six days "as many local days before" depends on where one begins to count.
        assume(
            period.timezone.key not in {"Pacific/Apia", "Pacific/Fakaofo"}
            or not 2011 <= period.start.year <= 2012
        )
        assert (before.start, before.end) == (expected.start, expected.end)

    @settings(deadline=None)
    @given(period=periods(max_days=100), elapsed=st.floats(-0.5, 1.5))
    def test_it_never_reaches_into_the_period_nor_ends_before_it_begins(
        self, period: Period, elapsed: float
    ) -> None:
        before = period.previous(period.start + (period.end - period.start) * elapsed)
        assert before.start <= before.end <= period.start

    @pytest.mark.parametrize(
        ("start", "end", "previous"),
        [
            ("2026-03-01", "2026-03-31", ("2026-02-01", "2026-02-28")),
            ("2026-01-01", "2026-03-31", ("2025-10-01", "2025-12-31")),
            ("2024-02-01", "2024-02-29", ("2024-01-01", "2024-01-31")),
            ("2026-03-02", "2026-03-08", ("2026-02-23", "2026-03-01")),
            ("2026-03-01", "2026-03-30", ("2026-01-30", "2026-02-28")),
            ("2026-03-29", "2026-03-29", ("2026-03-28", "2026-03-28")),
        ],
    )
    def test_whole_months_follow_months_and_days_follow_days(
        self, start: str, end: str, previous: tuple[str, str]
    ) -> None:
        for timezone in ("Africa/Lagos", "Europe/London", "America/New_York"):
            before, expected = (
                asked(start, end, timezone=timezone).previous(NOW),
                asked(*previous, timezone=timezone),
            )
            assert (before.start, before.end) == (expected.start, expected.end)

    @pytest.mark.parametrize("zone", ["Africa/Cairo", "America/Santiago", "America/Havana", "Asia/Beirut"])
    def test_days_are_whole_also_where_the_clock_is_changed_at_midnight(self, zone: str) -> None:
        day = date(2026, 1, 1)
        while day.year == 2026:
            one = asked(str(day), str(day), timezone=zone)
            before = one.previous(one.end)
            expected = asked(str(day - DAY), str(day - DAY), timezone=zone)
            assert (before.start, before.end) == (expected.start, expected.end)
            day += DAY

    def test_half_a_day_is_held_against_half_a_day(self) -> None:
        before = asked("2026-04-20", "2026-04-20").previous(NOW)
        assert (before.start, before.end) == (NOW.replace(day=18, hour=23, minute=0), NOW.replace(day=19))

    def test_elapsed_time_is_that_of_the_wall_clock(self) -> None:
        new_york = ZoneInfo("America/New_York")
        now = datetime(2026, 3, 9, 12, tzinfo=new_york)
        before = asked("2026-03-09", "2026-03-09", timezone="America/New_York", now=now).previous(now)
        assert before.end.astimezone(new_york) == datetime(2026, 3, 8, 12, tzinfo=new_york)
        assert before.end - before.start == timedelta(hours=11)

    def test_a_month_that_runs_longer_than_the_one_before_takes_all_of_it(self) -> None:
        now = datetime(2026, 3, 31, 12, tzinfo=UTC)
        before = asked("2026-03-01", "2026-03-31", now=now).previous(now)
        expected = asked("2026-02-01", "2026-02-28")
        assert (before.start, before.end) == (expected.start, expected.end)


class TestLastDays:
    @settings(deadline=None)
    @given(period=periods(max_days=40), elapsed=st.floats(-0.5, 1.5), count=st.sampled_from([1, 7, 30]))
    def test_they_end_with_the_last_day_that_has_begun(
        self, period: Period, elapsed: float, count: int
    ) -> None:
        now = period.start + (period.end - period.start) * elapsed
        last = model.last_local_day(model.Span(period.start, period.end), now, period.timezone)
        days = model.days_ending_with(last, count, period.timezone)
        *starts, end = period.last_days(count, now)
        assert starts == [day.start for day in days]
        assert end == min(period.end, days[-1].end)


class TestLength:
    def test_whole_local_days_count_as_days_across_a_clock_change(self) -> None:
        period = asked("2026-03-01", "2026-03-30", timezone="America/New_York")
        assert period.length_days(period.start, period.end) == 30

    @pytest.mark.parametrize(
        ("zone", "day"),
        [("America/Havana", "2026-03-08"), ("Asia/Beirut", "2026-03-29"), ("America/Havana", "2026-11-01")],
    )
    def test_a_day_whose_midnight_is_skipped_or_comes_twice_is_a_day(self, zone: str, day: str) -> None:
        period = asked(day, day, timezone=zone, now=datetime(2026, 12, 1, tzinfo=UTC))
        assert period.length_days(period.start, period.end) == 1

    def test_the_hour_that_comes_twice_at_midnight_is_an_hour(self) -> None:
        period = asked(
            "2026-11-01",
            "2026-11-01",
            timezone="America/Havana",
            granularity="hour",
            now=datetime(2026, 12, 1, tzinfo=UTC),
        )
        assert len(period.spans) == 25
        assert {period.length_days(start, end) for start, end in period.spans} == {1 / 24}

    def test_a_period_that_was_cut_for_a_comparison_counts_whole(self) -> None:
        today = asked("2026-04-20", "2026-04-20")
        before = today.previous(datetime(2026, 4, 20, 11, tzinfo=UTC))
        assert instant_text(before.end) == "2026-04-19T11:00:00Z"
        assert before.length_days(before.start, before.end) == 1

    def test_other_lengths_are_days_of_24_hours(self) -> None:
        period = asked("2026-03-01T00:00:00Z", "2026-03-01T18:00:00Z")
        assert period.length_days(period.start, period.end) == 0.75


class TestParse:
    def test_the_default_is_the_last_30_whole_days_and_today(self) -> None:
        period = asked()
        assert (instant_text(period.start), instant_text(period.end)) == (
            "2026-03-20T23:00:00Z",
            "2026-04-20T23:00:00Z",
        )
        assert period.whole_days
        assert len(period.buckets) == 31

    def test_today_is_that_of_the_zone(self) -> None:
        late = datetime(2026, 4, 20, 23, 30, tzinfo=UTC)
        assert instant_text(asked(now=late).end) == "2026-04-21T23:00:00Z"
        assert instant_text(asked(now=late, timezone="America/New_York").end) == "2026-04-21T04:00:00Z"

    def test_one_bound_alone_is_completed(self) -> None:
        assert asked("2026-04-01").end == asked().end
        assert instant_text(asked(None, "2026-03-31").start) == "2026-02-28T23:00:00Z"
        assert instant_text(asked(None, "2026-03-31T12:00:00Z").start) == "2026-02-28T23:00:00Z"

    def test_a_day_is_included_and_an_instant_excluded(self) -> None:
        assert instant_text(asked("2026-03-01", "2026-03-01").end) == "2026-03-01T23:00:00Z"
        assert instant_text(asked("2026-03-01", "2026-03-01T05:00:00Z").end) == "2026-03-01T05:00:00Z"

    @pytest.mark.parametrize(
        "text",
        [
            *("2026-03-01T07:05:00.250Z", "2026-03-01T08:05:00.250+01:00", "2026-03-01T08:05:00.250 01:00"),
            *("2026-03-01T07:05:00.250999Z", "2026-02-28T20:05:00.25-11:00", "2026-03-01t07:05:00.250z"),
        ],
    )
    def test_an_instant_may_be_written_in_any_offset(self, text: str) -> None:
        period = asked(text, "2026-03-02")
        assert instant_text(period.start) == "2026-03-01T07:05:00.250Z"
        assert not period.whole_days

    @pytest.mark.parametrize(
        "text",
        [
            *(
                "",
                " ",
                "today",
                "2026-3-1",
                "01.03.2026",
                "2026-02-30",
                "2026-13-01",
                "0000-01-01",
                "20260301T00",
            ),
            *("2026-03-01T07:05:00", "2026-03-01T25:00:00Z", "２０２６-03-01", "2026-03-01\n", "1772348700"),
            *(
                "20260301T070500Z",
                "2026-W09-7T07:05:00Z",
                "2026-03-01T07:05:00,5Z",
                "2026-03-01T07:05:00+01:00:30",
            ),
            *(
                "1970-12-31",
                "2200-01-01",
                "9999-12-31",
                "0001-01-01T00:00:00+23:59",
                "9999-12-31T23:59:59-23:59",
            ),
        ],
    )
    def test_what_is_neither_a_day_nor_an_instant_is_refused_by_name(self, text: str) -> None:
        assert fault(text, "2026-03-31") == "start_date"
        assert fault("2026-03-01", text) == "end_date"

    @given(start=st.none() | st.text(max_size=30), end=st.none() | st.text(max_size=30))
    def test_any_text_is_a_period_or_refused(self, start: str | None, end: str | None) -> None:
        try:
            period = asked(start, end)
        except BadPeriod:
            return
        assert period.start < period.end

    def test_the_end_must_come_after_the_start(self) -> None:
        assert fault("2026-03-02", "2026-03-01") == "end_date"
        assert fault("2026-03-01T05:00:00Z", "2026-03-01T05:00:00Z") == "end_date"

    @pytest.mark.parametrize("timezone", ["Africa/Lagos", "America/New_York", "Asia/Kolkata"])
    def test_a_period_has_at_most_three_years(self, timezone: str) -> None:
        asked("2023-04-21", "2026-04-20", timezone=timezone)
        assert fault("2023-04-20", "2026-04-20", timezone=timezone) == "start_date"
        asked("2021-02-28", "2024-02-28", timezone=timezone)
        assert fault("2021-02-27", "2024-02-28", timezone=timezone) == "start_date"

    def test_a_series_has_at_most_10_000_buckets(self) -> None:
        start = datetime(2025, 1, 1, tzinfo=UTC)
        full = start + timedelta(hours=MAX_BUCKETS)
        period = asked(start.isoformat(), full.isoformat(), timezone="UTC", granularity="hour")
        assert len(period.buckets) == MAX_BUCKETS
        over = (full + MILLISECOND).isoformat()
        assert fault(start.isoformat(), over, timezone="UTC", granularity="hour") == "granularity"
        for granularity in get_args(Granularity):
            if granularity != "hour":
                asked("2023-04-21", "2026-04-20", granularity=granularity)


class TestInstants:
    @given(ms=st.integers(-(10**13), 10**13))
    def test_milliseconds_and_back(self, ms: int) -> None:
        assert milliseconds(from_milliseconds(ms)) == ms

    @given(ms=st.integers(0, 4 * 10**12))
    def test_the_text_is_rfc_3339_in_utc_and_says_milliseconds_where_there_are_some(self, ms: int) -> None:
        text = instant_text(from_milliseconds(ms))
        assert text.endswith("Z")
        assert milliseconds(datetime.fromisoformat(text)) == ms
        assert ("." in text) == bool(ms % 1000)

    def test_the_text_of_a_time_elsewhere_is_in_utc(self) -> None:
        assert instant_text(datetime(2026, 3, 1, 1, tzinfo=LAGOS)) == "2026-03-01T00:00:00Z"


class TestBoundsByThemselves:
    def test_either_may_be_open_and_no_length_is_too_long(self) -> None:
        start, end = datetime(2025, 2, 28, 23, tzinfo=UTC), datetime(2026, 3, 31, 23, tzinfo=UTC)
        assert parse_bounds("2025-03-01", "2026-03-31", timezone=LAGOS) == (start, end)
        assert parse_bounds("2025-03-01", None, timezone=LAGOS) == (start, None)
        assert parse_bounds(None, "2026-04-01T00:00:00+01:00", timezone=LAGOS) == (None, end)
        assert parse_bounds(None, None, timezone=LAGOS) == (None, None)
        assert None not in parse_bounds("1971-01-01", "2199-12-31", timezone=LAGOS)

    @pytest.mark.parametrize(
        ("start", "end", "field"),
        [
            ("2026-03-02", "2026-03-01", "end_date"),
            ("2026-03-01T07:00:00Z", "2026-03-01T07:00:00Z", "end_date"),
            ("yesterday", None, "start_date"),
            (None, "2026-02-30", "end_date"),
        ],
    )
    def test_a_bad_one_is_named(self, start: str | None, end: str | None, field: str) -> None:
        with pytest.raises(BadPeriod) as refused:
            parse_bounds(start, end, timezone=LAGOS)
        assert refused.value.field == field


def test_units_are_whole_ones_and_go_on_after_the_period() -> None:
    march = asked("2026-03-01", "2026-03-10")  # a Sunday to a Tuesday
    days, begins = march.units("week", 2)
    assert [day.isoformat() for day in days] == ["2026-02-23", "2026-03-02", "2026-03-09"]
    assert [at.astimezone(LAGOS).isoformat()[:10] for at in begins[3:]] == ["2026-03-16", "2026-03-23"]
    months, begins = march.units("month", 1)
    assert months == [date(2026, 3, 1)]
    assert [instant_text(at) for at in begins] == ["2026-02-28T23:00:00Z", "2026-03-31T23:00:00Z"]


def test_a_day_that_a_zone_left_out_begins_with_the_next() -> None:
    days, begins = asked("2011-12-29", "2011-12-31", timezone="Pacific/Apia").units("day", 1)
    assert [day.day for day in days] == [29, 30, 31]
    assert begins[1] == begins[2] < begins[3]
