"""What is asked, and the calendar of it: the period, the periods before it, its buckets.

Days, weeks and months are found by walking over the calendar with zoneinfo, one day or a quarter of an hour
at a time; nothing here is clever or fast.
"""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

Granularity = Literal["hour", "day", "week", "month", "none"]
Sort = Literal["earnings", "trips", "distance"]
Unit = Literal["day", "week", "month"]
Metric = Literal["bookings", "revenue", "trips", "users", "drivers", "routes"]

MILLISECOND = timedelta(milliseconds=1)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Question:
    """One request: `start` (included) and `end` (excluded) are aware UTC instants, `now` is when it is asked.

    `kind` is `days` where the caller named calendar days, `instants` where he named instants.
    An endpoint looks at the filters and parameters it knows and at no others.
    """

    start: datetime
    end: datetime
    timezone: str
    _: KW_ONLY
    now: datetime
    granularity: Granularity = "day"
    kind: Literal["days", "instants"] = "days"
    compare: bool = False
    city: str | None = None
    state: str | None = None
    currency: str | None = None
    payment_method: str | None = None
    provider: str | None = None
    route_id: str | None = None
    driver_id: str | None = None
    sort: Sort = "earnings"
    limit: int = 10
    default_currency: str = "NGN"
    on_time_minutes: int = 10
    window_minutes: int = 60

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)


@dataclass(frozen=True, kw_only=True)
class AnalyticsQuestion(Question):
    """A request to one of the endpoints of analytics, each of which looks at its own parameters only."""

    # Funnel
    steps: tuple[str, ...] = ("user.registered", "booking.created", "booking.confirmed", "trip.completed")
    window_hours: int = 168
    breakdown: Literal["city", "state"] | None = None
    # Cohort
    unit: Unit = "week"
    periods: int = 12
    activity: Literal["booking", "trip", "any"] = "booking"
    # Retention
    days: tuple[int, ...] = (1, 7, 30)
    mode: Literal["exact", "unbounded"] = "exact"
    role: Literal["RIDER", "DRIVER", "ADMIN"] | None = None
    # Geographic
    metric: Metric = "bookings"
    level: Literal["state", "city", "h3"] = "state"
    resolution: int = 7


class Span(NamedTuple):
    """The instants from `start` up to, but not including, `end`."""

    start: datetime
    end: datetime


def wall_clock(instant: datetime, zone: ZoneInfo) -> datetime:
    """What the clock on the wall shows then, as a naive datetime."""
    return instant.astimezone(zone).replace(tzinfo=None)


def instant_of(wall: datetime, zone: ZoneInfo) -> datetime:
    """When the clock on the wall shows that.

    The first time if it does so twice; if it never does, when it would have without the change.
    """
    return wall.replace(tzinfo=zone).astimezone(UTC)


def local_day(instant: datetime, zone: ZoneInfo) -> date:
    return wall_clock(instant, zone).date()


def beginning_of(day: date, zone: ZoneInfo) -> datetime:
    return instant_of(datetime(day.year, day.month, day.day), zone)  # noqa: DTZ001 - a wall clock has no zone


def days_ending_with(last: date, count: int, zone: ZoneInfo) -> list[Span]:
    """The `count` local days of which `last` is the last one."""
    days = [last - back * DAY for back in reversed(range(count))]
    return [Span(beginning_of(day, zone), beginning_of(day + DAY, zone)) for day in days]


def last_local_day(span: Span, now: datetime, zone: ZoneInfo) -> date:
    """The day of `now` while the span runs; if it is over or not begun, that of its last millisecond."""
    if span.start <= now < span.end:
        return local_day(now, zone)
    return local_day(span.end - MILLISECOND, zone)


def period(question: Question, back: int = 0) -> Span:
    """The period asked about, or the one `back` periods before it.

    While the period asked about is not over, each earlier one ends at the same elapsed local time.
    """
    span = whole_period(question, back)
    if back == 0 or question.now >= question.end:
        return span
    if question.kind == "instants":
        elapsed_end = span.start + (question.now - question.start)
    else:
        elapsed = wall_clock(question.now, question.zone) - _midnight(question.start, question.zone)
        elapsed_end = instant_of(_midnight(span.start, question.zone) + elapsed, question.zone)
    return Span(span.start, max(span.start, min(span.end, elapsed_end)))


def whole_period(question: Question, back: int = 0) -> Span:
    """The same without the cut."""
    span = Span(question.start, question.end)
    for _ in range(back):
        span = _just_before(span, question)
    return span


def _midnight(instant: datetime, zone: ZoneInfo) -> datetime:
    """Of its local day, on the wall: the day may begin later, where the clock is changed at midnight."""
    return datetime.combine(local_day(instant, zone), time.min)


def _just_before(span: Span, question: Question) -> Span:
    if question.kind == "instants":
        return Span(span.start - (span.end - span.start), span.start)
    first, after = local_day(span.start, question.zone), local_day(span.end, question.zone)
    if first.day == 1 and after.day == 1:
        months = (after.year - first.year) * 12 + (after.month - first.month)
        earlier = first
        for _ in range(months):
            earlier = (earlier - DAY).replace(day=1)
    else:
        earlier = first - (after - first)
    return Span(beginning_of(earlier, question.zone), span.start)


def buckets(question: Question) -> list[Span]:
    """The natural local hours, days, weeks or months, clipped to the period."""
    if question.granularity == "none":
        return []
    inner = [cut for cut in _boundaries(question) if question.start < cut < question.end]
    return [Span(start, end) for start, end in pairwise([question.start, *inner, question.end])]


def _boundaries(question: Question) -> Iterator[datetime]:
    zone = question.zone
    if question.granularity == "hour":
        # Every zone's offset is a multiple of a quarter of an hour: full local hours are among the quarters.
        quarter = question.start.replace(minute=0, second=0, microsecond=0)
        while quarter < question.end:
            if wall_clock(quarter, zone).minute == 0:
                yield quarter
            quarter += timedelta(minutes=15)
        return
    day = local_day(question.start, zone)
    while day <= local_day(question.end, zone):
        begins = {"day": True, "week": day.weekday() == 0, "month": day.day == 1}
        if begins[question.granularity]:
            yield beginning_of(day, zone)
        day += DAY


def first_day(unit: Unit, day: date) -> date:
    """When the week or the month of the day began."""
    if unit == "week":
        return day - day.weekday() * DAY
    return day.replace(day=1) if unit == "month" else day


def units_later(unit: Unit, first: date, count: int) -> date:
    """The first day of the unit that is so many units after the one that begins with `first`."""
    for _ in range(count):
        # 31 days after the first day of a month it is the next one, early or late.
        first = first_day(unit, first + {"day": 1, "week": 7, "month": 31}[unit] * DAY)
    return first


def length_in_days(span: Span, zone: ZoneInfo) -> float:
    """Whole local days count by the calendar (thirty are thirty across a clock change), the rest by hours."""
    first, after = local_day(span.start, zone), local_day(span.end, zone)
    if first < after and span == Span(beginning_of(first, zone), beginning_of(after, zone)):
        return (after - first) / DAY
    return (span.end - span.start) / DAY


def time_text(instant: datetime) -> str:
    """UTC with `Z`; milliseconds only where there are some."""
    whole = instant.microsecond // 1000 == 0
    text = instant.astimezone(UTC).isoformat(timespec="seconds" if whole else "milliseconds")
    return text.replace("+00:00", "Z")
