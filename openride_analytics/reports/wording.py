"""Numbers and dates as people read them, in English."""

from datetime import datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from openride_analytics.period import Period
from openride_analytics.reports.document import Trend

NOTHING: Final = "–"
_MINUS: Final = "−"
_SIGNS: Final = {
    "NGN": "₦",
    "GHS": "GH₵",
    "USD": "US$",
    "EUR": "€",
    "GBP": "£",
    "INR": "₹",
    "JPY": "¥",
    "KES": "KSh\u00a0",
    "ZAR": "R\u00a0",
}
_MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)

Direction = Literal["up", "down", "level"]


def count(number: int) -> str:
    """1,234."""
    return f"{number:,}".replace("-", _MINUS)


def percent(fraction: float | None) -> str:
    """73.2%."""
    return NOTHING if fraction is None else f"{fraction * 100:,.1f}%".replace("-", _MINUS)


def sign(currency: str) -> str:
    """What stands before an amount: the currency's sign, or its code."""
    return _SIGNS.get(currency, f"{currency}\u00a0")


def money(
    amount: str | Decimal | None, currency: str, style: Literal["exact", "rounded", "short"] = "exact"
) -> str:
    """₦1,234,500.00; rounded to two places; in short ₦1,234,500, and from ten millions on ₦12.35 million."""
    if amount is None:
        return NOTHING
    exact = Decimal(amount)
    before = _MINUS if exact < 0 else ""
    exact = abs(exact)
    if style == "exact":
        return f"{before}{sign(currency)}{exact:,}"
    if style == "rounded":
        return f"{before}{sign(currency)}{exact.quantize(Decimal('0.01'), ROUND_HALF_EVEN):,}"
    for limit, unit, name in (
        (Decimal(10) ** 12, Decimal(10) ** 12, "trillion"),
        (Decimal(10) ** 9, Decimal(10) ** 9, "billion"),
        (Decimal(10) ** 7, Decimal(10) ** 6, "million"),
    ):
        if exact >= limit:
            scaled = exact / unit
            places = Decimal("0.1") if scaled >= 100 else Decimal("0.01")
            return f"{before}{sign(currency)}{scaled.quantize(places, ROUND_HALF_EVEN):,}\u00a0{name}"
    places = Decimal(1) if exact >= 1000 else Decimal("0.01")
    return f"{before}{sign(currency)}{exact.quantize(places, ROUND_HALF_EVEN):,}"


def measured(value: float | None, unit: str) -> str:
    """A number in its unit, as the catalogue of metrics calls it; money has a function of its own."""
    if value is None:
        return NOTHING
    if unit == "ratio":
        return percent(value)
    if unit == "minutes":
        return f"{value:,.1f}\u00a0min"
    if unit == "kilometres":
        return f"{value:,.1f}\u00a0km"
    if unit == "milliseconds":
        return f"{value / 1000:,.2f}\u00a0s" if value >= 10_000 else f"{value:,.0f}\u00a0ms"
    return count(value) if isinstance(value, int) else f"{value:,.2f}"


def change(now: Any, before: Any, unit: str) -> tuple[str, Direction] | None:
    """By how much a number has changed: of rates in points, else in percent. None where there is nothing to compare."""
    if now is None or before is None:
        return None
    difference = Decimal(str(now)) - Decimal(str(before))
    if unit == "ratio":
        return _signed(difference * 100, " points")
    if difference == 0:
        return "no change", "level"
    if Decimal(str(before)) <= 0:
        return None  # from nothing to something is no percentage
    return _signed(difference / Decimal(str(before)) * 100, "%")


def _signed(amount: Decimal, unit: str) -> tuple[str, Direction]:
    rounded = amount.quantize(Decimal("0.1"), ROUND_HALF_EVEN)
    if rounded == 0:
        return "no change" if amount == 0 else f"±0.0{unit}", "level"
    return f"{'+' if rounded > 0 else _MINUS}{abs(rounded):,}{unit}", "up" if rounded > 0 else "down"


def trend(direction: Direction | None, better: Literal["more", "less", "either"]) -> Trend:
    """Whether a change is welcome."""
    if direction in (None, "level") or better == "either":
        return "neutral"
    return "better" if (direction == "up") == (better == "more") else "worse"


def zone(timezone: ZoneInfo, at: datetime) -> str:
    """Africa/Lagos (UTC+1)."""
    offset = at.astimezone(timezone).utcoffset() or timedelta()
    minutes = int(offset.total_seconds() // 60)
    before = "+" if minutes >= 0 else _MINUS
    hours, rest = divmod(abs(minutes), 60)
    shift = "" if minutes == 0 else f"{before}{hours}" + (f":{rest:02}" if rest else "")
    return f"{timezone.key} (UTC{shift})" if timezone.key != "UTC" else "UTC"


def span(period: Period) -> str:
    """1–30 November 2026: the days of a period, the last one included; else its bounds by the clock of its zone."""
    start, end = period.start.astimezone(period.timezone), period.end.astimezone(period.timezone)
    if start.time() != time() or end.time() != time():
        last = f"{end:%H:%M}" if start.date() == end.date() else moment(period.end, period.timezone)
        return f"{moment(period.start, period.timezone)} – {last}"
    first, final = start.date(), end.date() - timedelta(days=1)
    if first == final:
        return f"{first.day} {_MONTHS[first.month - 1]} {first.year}"
    until = f"{final.day} {_MONTHS[final.month - 1]} {final.year}"
    if (first.year, first.month) == (final.year, final.month):
        return f"{first.day}–{until}"
    if first.year == final.year:
        return f"{first.day} {_MONTHS[first.month - 1]} – {until}"
    return f"{first.day} {_MONTHS[first.month - 1]} {first.year} – {until}"


def moment(at: datetime, timezone: ZoneInfo) -> str:
    """30 November 2026, 07:05, by the clock of a zone."""
    local = at.astimezone(timezone)
    return f"{local.day} {_MONTHS[local.month - 1]} {local.year}, {local:%H:%M}"


def bucket(start: datetime, period: Period) -> str:
    """The label of a bucket of the period's series; it stays on one line."""
    return _bucket(start, period).replace(" ", "\u00a0")


def _bucket(start: datetime, period: Period) -> str:
    local = start.astimezone(period.timezone)
    month = _MONTHS[local.month - 1][:3]
    match period.granularity:
        case "hour":
            return f"{local.day} {month} {local.year}, {local:%H:%M}"
        case "month":
            return f"{_MONTHS[local.month - 1]} {local.year}"
        case "week":
            return f"from {local.day} {month} {local.year}"
        case _:
            return f"{local:%a} {local.day} {month} {local.year}"
