"""Periods and their buckets, as the contract has them."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Literal, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

import polars as pl

NEW_YORK: Final = "America/New_York"

Granularity: TypeAlias = Literal["hour", "day", "week", "month", "none"]


class Span(NamedTuple):
    """A stretch of time, start included, end excluded, seen from a time zone."""

    start: datetime
    end: datetime
    zone: ZoneInfo

    def holds(self, column: str) -> pl.Expr:
        return pl.col(column).is_between(self.start, self.end, closed="left")

    def contains(self, instant: datetime) -> bool:
        return self.start <= instant < self.end

    @property
    def local_days(self) -> float:
        """Its length: whole local days by their clocks (one with a clock change is one too), the rest by hours."""
        local_start, local_end = (
            t.astimezone(self.zone).replace(tzinfo=None) for t in (self.start, self.end)
        )
        if local_start.time() == local_end.time() == time.min:
            return (local_end - local_start) / timedelta(days=1)
        return (self.end - self.start) / timedelta(days=1)


def previous_period(
    start: datetime, end: datetime, timezone: str = NEW_YORK, *, calendar: bool = True
) -> tuple[datetime, datetime]:
    """As many months or local days just before a period that is over; if not `calendar`, as long a time."""
    # Between two times of one zone Python's subtraction goes by the clock, in UTC by what really passed.
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    if not calendar:
        return start - (end - start), start
    zone = ZoneInfo(timezone)
    first, after = start.astimezone(zone).date(), end.astimezone(zone).date()
    if first.day == after.day == 1:
        months = (after.year - first.year) * 12 + after.month - first.month
        year, month = divmod(first.year * 12 + first.month - 1 - months, 12)
        return midnight(date(year, month + 1, 1), zone), start
    return midnight(first - (after - first), zone), start


def buckets(start: datetime, end: datetime, timezone: str, granularity: Granularity) -> list[Span]:
    """The local hours, days, weeks or months that a period touches, cut to it; with `none` there are none."""
    if granularity == "none":
        return []
    zone = ZoneInfo(timezone)
    found = []
    while start < end:
        following = min(end, _next_bucket(start, zone, granularity))
        found.append(Span(start, following, zone))
        start = following
    return found


def _next_bucket(instant: datetime, zone: ZoneInfo, granularity: Granularity) -> datetime:
    local = instant.astimezone(zone)
    today = local.date()
    match granularity:
        case "hour":
            into_hour = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
            return instant + timedelta(hours=1) - into_hour
        case "day":
            return midnight(today + timedelta(days=1), zone)
        case "week":
            return midnight(today + timedelta(days=7 - today.weekday()), zone)
        case "month":
            return midnight((today.replace(day=1) + timedelta(days=32)).replace(day=1), zone)
        case _:
            raise ValueError(granularity)


def midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)
