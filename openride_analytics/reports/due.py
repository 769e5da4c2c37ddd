"""When reports are due, and which period each is about. Pure: instants in, instants out, no clock and no store.

Due times are times of the wall clock of a zone, to the minute. **A time that the clock skips is due at the moment of the
change; one that occurs twice is due the first time.** So each calendar day has its report, also where clocks are changed,
and none has two. Several skipped times of one schedule are due together, once.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from typing import Final, Literal, get_args
from zoneinfo import ZoneInfo

from openride_analytics.period import Granularity, Period

Frequency = Literal["daily", "weekly", "monthly"]
FREQUENCIES: Final = get_args(Frequency)
Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
WEEKDAYS: Final = get_args(Weekday)
RelativePeriod = Literal[
    "today",
    "yesterday",
    "last_7_days",
    "last_30_days",
    "last_90_days",
    "last_week",
    "last_month",
    "last_quarter",
    "last_year",
    "week_to_date",
    "month_to_date",
    "quarter_to_date",
    "year_to_date",
]
RELATIVE_PERIODS: Final = get_args(RelativePeriod)

# 29 February: from 2096 to 2104.
_MOST_DAYS: Final = 366 * 9
_EVERY_DAY: Final = frozenset(range(1, 32))
_EVERY_MONTH: Final = frozenset(range(1, 13))
_EVERY_WEEKDAY: Final = frozenset(range(7))
_TIME: Final = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]\Z", re.ASCII)
_PART: Final = re.compile(r"(?:(\*)|([0-9a-z]+)(?:-([0-9a-z]+))?)(?:/([0-9]{1,2}))?\Z", re.ASCII)
_LONGEST_CRON: Final = 200


class BadTiming(ValueError):
    """Due times that cannot be: the field at fault and a sentence that says how to mend it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


@dataclass(frozen=True)
class Timing:
    """Minutes of the day, on certain days of a zone's calendar."""

    timezone: ZoneInfo
    minutes: tuple[int, ...]
    days: frozenset[int] = _EVERY_DAY
    months: frozenset[int] = _EVERY_MONTH
    weekdays: frozenset[int] = _EVERY_WEEKDAY
    # Of a cron expression that restricts both, days of the month and days of the week: either will do.
    either: bool = False
    # The last day stands in for those that a month lacks.
    or_last_day: bool = False

    def following(self, after: datetime) -> Iterator[datetime]:
        """The due instants later than `after`, in UTC, in their order."""
        at = after
        first = after.astimezone(self.timezone).date()
        for day in self._days(first, 1):
            for minute in self.minutes:
                due = self._instant(day, minute)
                if due > at:
                    at = due
                    yield due

    def next(self, after: datetime, count: int = 1) -> list[datetime]:
        """The next few of them."""
        return list(islice(self.following(after), count))

    def latest(self, now: datetime) -> datetime | None:
        """The last due instant that is not later than `now`."""
        # In an hour that occurs the second time, later times of the wall clock have been already.
        first = now.astimezone(self.timezone).date() + timedelta(days=1)
        for day in self._days(first, -1):
            for minute in reversed(self.minutes):
                due = self._instant(day, minute)
                if due <= now:
                    return due
        return None

    def skipped(self, due: datetime) -> bool:
        """Whether a due instant is that of a change of the clock, which skipped the time itself."""
        wall = due.astimezone(self.timezone)
        return wall.hour * 60 + wall.minute not in self.minutes or not self._matches(wall.date())

    def _days(self, first: date, step: int) -> Iterator[date]:
        for number in range(_MOST_DAYS):
            day = first + timedelta(days=number * step)
            if self._matches(day):
                yield day

    def _matches(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        in_month = day.day in self.days
        if self.or_last_day and (day + timedelta(days=1)).day == 1:
            in_month = max(self.days) >= day.day
        in_week = day.weekday() in self.weekdays
        return (in_month or in_week) if self.either else (in_month and in_week)

    def _instant(self, day: date, minute: int) -> datetime:
        wall = datetime.combine(day, time(minute // 60, minute % 60))
        due = wall.replace(tzinfo=self.timezone).astimezone(UTC)
        if due.astimezone(self.timezone).replace(tzinfo=None) == wall:
            return due
        # Skipped. With the offsets from before and from after the change it is on the other side of it, each time.
        earlier = wall.replace(tzinfo=self.timezone, fold=1).astimezone(UTC)
        while due - earlier > timedelta(seconds=1):
            middle = earlier + (due - earlier) // 2
            middle = middle.replace(microsecond=0)
            if middle.astimezone(self.timezone).replace(tzinfo=None) < wall:
                earlier = middle
            else:
                due = middle
        return due


def timing(
    *,
    timezone: ZoneInfo,
    cron: str | None = None,
    frequency: Frequency | None = None,
    at: str | None = None,
    weekday: Weekday | None = None,
    day: int | None = None,
) -> Timing:
    """Either a cron expression, or `daily`, `weekly` (a weekday, else Monday) or `monthly` (a day, else the first) at a time.

    In a month without that day it is the month's last. Raises `BadTiming`.
    """
    if (cron is None) == (frequency is None):
        raise BadTiming("cron", "Give either `cron` or `frequency`.")
    if cron is not None:
        for field, value in (("time", at), ("weekday", weekday), ("day", day)):
            if value is not None:
                raise BadTiming(field, "Goes with `frequency`, not with `cron`.")
        return _from_cron(cron, timezone)
    if at is None or not _TIME.match(at):
        raise BadTiming("time", "Give the time of day as HH:MM, such as 07:30.")
    if weekday is not None and frequency != "weekly":
        raise BadTiming("weekday", "Goes with `frequency` = `weekly` only.")
    if day is not None and frequency != "monthly":
        raise BadTiming("day", "Goes with `frequency` = `monthly` only.")
    minutes = (int(at[:2]) * 60 + int(at[3:]),)
    if frequency == "weekly":
        return Timing(timezone, minutes, weekdays=frozenset({WEEKDAYS.index(weekday or "monday")}))
    if frequency == "monthly":
        return Timing(timezone, minutes, days=frozenset({day or 1}), or_last_day=True)
    return Timing(timezone, minutes)


def _from_cron(expression: str, timezone: ZoneInfo) -> Timing:
    """Minute, hour, day of the month, month, day of the week (0 or 7 is Sunday), as in crontab(5)."""
    parts = expression.lower().split()
    if len(parts) != 5 or len(expression) > _LONGEST_CRON:
        raise BadTiming(
            "cron",
            "Give five fields: minute, hour, day of the month, month, day of the week. Example: 30 7 * * 1.",
        )
    minutes = _cron_field(parts[0], "minute", 0, 59)
    hours = _cron_field(parts[1], "hour", 0, 23)
    days = _cron_field(parts[2], "day of the month", 1, 31)
    months = _cron_field(parts[3], "month", 1, 12, _MONTH_NAMES)
    weekdays = {(number - 1) % 7 for number in _cron_field(parts[4], "day of the week", 0, 7, _DAY_NAMES)}
    found = Timing(
        timezone,
        tuple(sorted(hour * 60 + minute for hour in hours for minute in minutes)),
        frozenset(days),
        frozenset(months),
        frozenset(weekdays),
        # As in every cron: a field that begins with * does not restrict in this sense.
        either=not parts[2].startswith("*") and not parts[4].startswith("*"),
    )
    if not found.next(_A_LEAP_YEAR):
        raise BadTiming("cron", "There is no such day.")
    return found


_A_LEAP_YEAR: Final = datetime(2024, 1, 1, tzinfo=UTC)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH_NAMES: Final = {name: number for number, name in enumerate(_MONTHS, start=1)}
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAY_NAMES: Final = {name: number for number, name in enumerate(_DAYS)}


def _cron_field(text: str, name: str, least: int, most: int, names: Mapping[str, int] = {}) -> set[int]:
    found = set[int]()
    for part in text.split(","):
        matched = _PART.match(part)
        if matched is None:
            raise BadTiming("cron", f"The {name} cannot be read: {part[:40]!r}.")
        star, first, last, step = matched.groups()
        every = int(step) if step else 1
        if star:
            low, high = least, min(most, 6) if name == "day of the week" else most
        else:
            low = _cron_number(first, name, least, most, names)
            # 5/15 is 5-59/15.
            high = _cron_number(last, name, least, most, names) if last else most if step else low
        if low > high or every == 0:
            raise BadTiming("cron", f"The {name} cannot be read: {part[:40]!r}.")
        found.update(range(low, high + 1, every))
    return found


def _cron_number(text: str, name: str, least: int, most: int, names: Mapping[str, int]) -> int:
    number = names.get(text, int(text) if text.isdecimal() else -1)
    if not least <= number <= most:
        raise BadTiming("cron", f"The {name} must be from {least} to {most}.")
    return number


def period_of(relative: RelativePeriod, due: datetime, timezone: ZoneInfo) -> Period:
    """What a report that is due then is about: whole local days of the zone.

    `last_…` end before the day, week, month, quarter or year of the due time; `…_to_date` and `today` include its day.
    """
    today = due.astimezone(timezone).date()
    first, after = _days_of(relative, today)
    days = (after - first).days
    granularity: Granularity = "hour" if days <= 2 else "day" if days <= 92 else "week"
    start, end = (datetime.combine(day, time(), timezone).astimezone(UTC) for day in (first, after))
    return Period(start, end, timezone, granularity)


def _days_of(relative: RelativePeriod, today: date) -> tuple[date, date]:
    """The first day, and the one after the last."""
    one = timedelta(days=1)
    week = today - timedelta(days=today.weekday())
    month = today.replace(day=1)
    quarter = date(today.year, (today.month - 1) // 3 * 3 + 1, 1)
    year = date(today.year, 1, 1)
    return {
        "today": (today, today + one),
        "yesterday": (today - one, today),
        "last_7_days": (today - 7 * one, today),
        "last_30_days": (today - 30 * one, today),
        "last_90_days": (today - 90 * one, today),
        "last_week": (week - 7 * one, week),
        "last_month": ((month - one).replace(day=1), month),
        "last_quarter": (_quarter_before(quarter), quarter),
        "last_year": (year.replace(year=year.year - 1), year),
        "week_to_date": (week, today + one),
        "month_to_date": (month, today + one),
        "quarter_to_date": (quarter, today + one),
        "year_to_date": (year, today + one),
    }[relative]


def _quarter_before(quarter: date) -> date:
    day = quarter - timedelta(days=1)
    return date(day.year, day.month - 2, 1)
