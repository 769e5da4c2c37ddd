"""Periods, buckets and calendars: which instants a question is about.

The calendar of a time zone lives here and nowhere else: queries get instants in Unix milliseconds. Nothing in this
module knows of events or stores.
"""

import re
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import Final, Literal, get_args
from zoneinfo import ZoneInfo

Granularity = Literal["hour", "day", "week", "month", "none"]
GRANULARITIES: Final = get_args(Granularity)
Unit = Literal["day", "week", "month"]
UNITS: Final = get_args(Unit)

MAX_BUCKETS: Final = 10_000
MAX_YEARS: Final = 3
DEFAULT_DAYS: Final = 30
# Of other granularities the longest period has some thousand; an hour may be cut in two where clocks are changed.
_SURELY_FEW: Final = timedelta(hours=MAX_BUCKETS - 100)
_FIRST_YEAR: Final = 1971
_LAST_YEAR: Final = 2199
END_OF_TIME_MS: Final = 7_258_118_400_000
"""The year 2200 in Unix milliseconds: later than any event."""

_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}\Z", re.ASCII)
# RFC 3339, also without seconds; Python takes other forms of ISO 8601 too (a week's day, a date without hyphens).
_INSTANT: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?([Zz]|[+-]\d{2}:\d{2})\Z", re.ASCII
)
# An unescaped "+" in a query string arrives as a space.
_SPACE_FOR_PLUS: Final = re.compile(r" (\d{2}:\d{2})\Z", re.ASCII)


class BadPeriod(ValueError):
    """A period that cannot be answered: the parameter at fault and a sentence that says how to mend it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


@dataclass(frozen=True)
class Period:
    """Half-open `[start, end)`, aware and in UTC, with the zone whose days, weeks and months it is cut by.

    `whole_days`: the bounds were given as calendar days, so neighbouring periods are counted in days, not in hours.
    `whole_end`: where it would end if it were not cut (see `previous`).
    """

    start: datetime
    end: datetime
    timezone: ZoneInfo
    granularity: Granularity = "day"
    whole_days: bool = True
    whole_end: datetime | None = None

    @property
    def start_ms(self) -> int:
        """Unix milliseconds."""
        return milliseconds(self.start)

    @property
    def end_ms(self) -> int:
        """Unix milliseconds, excluded."""
        return milliseconds(self.end)

    @cached_property
    def buckets(self) -> list[datetime]:
        """The starts of the buckets: natural ones of the zone, cut to the period; they cover it without gaps.

        Raises `BadPeriod` over `MAX_BUCKETS`.
        """
        if self.granularity == "none":
            return []
        starts: list[datetime] = []
        at = self.start
        while at < self.end:
            if len(starts) == MAX_BUCKETS:
                raise BadPeriod(
                    "granularity", f"The period has more than {MAX_BUCKETS} buckets: choose larger ones."
                )
            starts.append(at)
            at = self._next_boundary(at)
        return starts

    def length_days(self, start: datetime, end: datetime) -> float:
        """Between beginnings of local days those days (30 are 30 across a clock change too), else days of 24 h.

        A period that was cut, to be compared with one that is not over, counts whole.
        """
        if end == self.end and self.whole_end is not None:
            end = self.whole_end
        first, after = self._wall(start).date(), self._wall(end).date()
        if first < after and start == self._beginning(first) and end == self._beginning(after):
            return (after - first) / timedelta(days=1)
        return (end - start) / timedelta(days=1)

    def between(self, start: datetime, end: datetime) -> "Period":
        """Another span of the same zone, without a series."""
        return replace(self, start=start, end=end, granularity="none", whole_end=None)

    def previous(self, now: datetime, back: int = 1) -> "Period":
        """The period so many before this one: as many whole months, or local days, or the same length of time each.

        A period that is not over is compared with as much of the one before as has elapsed of it by the wall clock.
        """
        if self.whole_days:
            start, end = self._whole_days_before(back), self._whole_days_before(back - 1)
        else:
            length = self.end - self.start
            start, end = self.start - length * back, self.start - length * (back - 1)
        before = self.between(start, end)
        if now >= self.end:
            return before
        return replace(before, end=min(end, max(start, self._as_far(start, now))), whole_end=end)

    def _as_far(self, start: datetime, now: datetime) -> datetime:
        """As much after the start of another period as now is after that of this one: by the clock on the wall, if of days."""
        if not self.whole_days:
            return start + (now - self.start)
        # From midnights: where the clock is changed at one, a day begins at another time.
        first, other = (datetime.combine(self._wall(at).date(), time()) for at in (self.start, start))
        return self._instant(other + (self._wall(now) - first))

    def _whole_days_before(self, back: int) -> datetime:
        """The start of the period of whole days so many before this one."""
        # By dates: where the clock is changed at midnight a day begins at another time.
        first, after = self._wall(self.start).date(), self._wall(self.end).date()
        if first.day == 1 and after.day == 1:
            months = (after.year - first.year) * 12 + after.month - first.month
            day = _add_months(first, -months * back)
        else:
            day = first - (after - first) * back
        return self._beginning(day)

    def last_days(self, count: int, now: datetime) -> list[datetime]:
        """The starts of `count` local days and the end of the last: the period's last day that has begun by `now`.

        That end is never after the period's.
        """
        running = self.start <= now < self.end
        last = self._wall(now if running else self.end - timedelta(milliseconds=1)).date()
        starts = [self._beginning(last - timedelta(days=n)) for n in reversed(range(count))]
        return [*starts, min(self.end, self._beginning(last + timedelta(days=1)))]

    def units(self, unit: Unit, further: int) -> tuple[list[date], list[datetime]]:
        """The whole local days, weeks or months that the period is in, by their first days.

        Besides where each begins and, after them, where `further` more do. Not cut to the period.
        """
        day = self._wall(self.start).date()
        day -= timedelta(days={"day": 0, "week": day.weekday(), "month": day.day - 1}[unit])
        days: list[date] = []
        begins: list[datetime] = []
        while (beginning := self._beginning(day)) < self.end or further:
            if beginning < self.end:
                days.append(day)
            else:
                further -= 1
            begins.append(beginning)
            day = self._following(unit, day)
        return days, begins

    @property
    def spans(self) -> list[tuple[datetime, datetime]]:
        """The buckets as `[start, end)`."""
        return list(zip(self.buckets, [*self.buckets[1:], self.end], strict=True)) if self.buckets else []

    def _next_boundary(self, at: datetime) -> datetime:
        if self.granularity == "hour":
            hour = timedelta(hours=1)
            following = at + hour - self._past_the_hour(at)
            beyond = self._past_the_hour(following)
            if not beyond:
                return following
            # The clock was changed by half an hour: on to the hour, or in the middle of one.
            changed = following - beyond
            on_the_hour = changed > at and not self._past_the_hour(changed)
            return changed if on_the_hour else following + hour - beyond
        if self.granularity == "none":
            return self.end
        return self._beginning(self._following(self.granularity, self._wall(at).date()))

    @staticmethod
    def _following(unit: Unit, day: date) -> date:
        """The first day of the next unit."""
        if unit == "day":
            return day + timedelta(days=1)
        if unit == "week":
            return day + timedelta(days=7 - day.weekday())
        return _add_months(day.replace(day=1), 1)

    def _past_the_hour(self, at: datetime) -> timedelta:
        wall = self._wall(at)
        return timedelta(minutes=wall.minute, seconds=wall.second, microseconds=wall.microsecond)

    def _wall(self, at: datetime) -> datetime:
        return at.astimezone(self.timezone).replace(tzinfo=None)

    def _beginning(self, day: date) -> datetime:
        return self._instant(datetime.combine(day, time()))

    def _instant(self, wall: datetime) -> datetime:
        """A time that occurs twice is its first; one that is skipped is when it would be without the change.

        So a day whose midnight is skipped begins at the change.
        """
        return wall.replace(tzinfo=self.timezone).astimezone(UTC)


def parse(
    start_date: str | None,
    end_date: str | None,
    *,
    timezone: ZoneInfo,
    granularity: Granularity,
    now: datetime,
) -> Period:
    """The period of a request: bounds as calendar days (the end day included) or RFC 3339 instants (end excluded).

    Without bounds: the last 30 whole local days and today. Raises `BadPeriod`.
    """
    today = now.astimezone(timezone).date()
    end, end_is_day = _bound("end_date", end_date, timezone, today, is_end=True)
    first_day = (end - timedelta(milliseconds=1)).astimezone(timezone).date() - timedelta(days=DEFAULT_DAYS)
    start, start_is_day = _bound("start_date", start_date, timezone, first_day, is_end=False)
    if start >= end:
        raise BadPeriod("end_date", "The end must be after the start.")
    wall_end = end.astimezone(timezone).replace(tzinfo=None)
    if start.astimezone(timezone).replace(tzinfo=None) < _years_before(wall_end, MAX_YEARS):
        raise BadPeriod("start_date", f"The period must not be longer than {MAX_YEARS} years.")
    period = Period(start, end, timezone, granularity, whole_days=start_is_day and end_is_day)
    if granularity == "hour" and end - start > _SURELY_FEW:
        _ = period.buckets  # too many of them are an error of the request; to list them takes 5 µs each
    return period


def parse_bounds(
    start_date: str | None, end_date: str | None, *, timezone: ZoneInfo
) -> tuple[datetime | None, datetime | None]:
    """The same forms of bounds where either may be open, and no length is too long. Raises `BadPeriod`."""
    start, end = (
        None if text is None else _bound(field, text, timezone, date.min, is_end=field == "end_date")[0]
        for field, text in (("start_date", start_date), ("end_date", end_date))
    )
    if start is not None and end is not None and start >= end:
        raise BadPeriod("end_date", "The end must be after the start.")
    return start, end


def milliseconds(at: datetime) -> int:
    """Unix milliseconds of an aware time, cut to the millisecond."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def instant_text(at: datetime) -> str:
    """RFC 3339 in UTC with `Z`: whole seconds, or milliseconds where there are any."""
    at = at.astimezone(UTC)
    text = at.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{at.microsecond // 1000:03}Z" if at.microsecond >= 1000 else f"{text}Z"


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def from_milliseconds(ms: int) -> datetime:
    """The aware UTC time of Unix milliseconds."""
    return _EPOCH + timedelta(milliseconds=ms)


def _bound(
    field: str, text: str | None, timezone: ZoneInfo, default: date, *, is_end: bool
) -> tuple[datetime, bool]:
    if text is None or _DAY.match(text):
        try:
            day = default if text is None else date.fromisoformat(text)
        except ValueError:
            raise BadPeriod(field, f"There is no day {text}.") from None
        if not _FIRST_YEAR <= day.year <= _LAST_YEAR:
            raise BadPeriod(field, f"The year must be from {_FIRST_YEAR} to {_LAST_YEAR}.")
        day += timedelta(days=1 if is_end else 0)
        return datetime.combine(day, time(), timezone).astimezone(UTC), True
    text = _SPACE_FOR_PLUS.sub(r"+\1", text)
    try:
        at = datetime.fromisoformat(text.upper()) if _INSTANT.match(text) else None
    except ValueError:
        at = None
    if at is None:
        raise BadPeriod(
            field, "Give a day (2026-03-01) or an instant with an offset (2026-03-01T07:05:00+01:00)."
        )
    if not _FIRST_YEAR <= at.year <= _LAST_YEAR:
        raise BadPeriod(field, f"The year must be from {_FIRST_YEAR} to {_LAST_YEAR}.")
    at = at.astimezone(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000), False


def _add_months(first_of_month: date, months: int) -> date:
    index = first_of_month.year * 12 + first_of_month.month - 1 + months
    return date(index // 12, index % 12 + 1, 1)


def _years_before(wall: datetime, years: int) -> datetime:
    try:
        return wall.replace(year=wall.year - years)
    except ValueError:  # 29 February
        return wall.replace(year=wall.year - years, day=28)
