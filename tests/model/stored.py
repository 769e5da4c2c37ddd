"""From what was sent to what is known (each event once, in order of time), and how to look at that.

Everything after `stored` works on its result: dicts whose times are datetimes and whose money is Decimal,
from which missing, null and empty fields are simply absent.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from .figures import Money
from .periods import Span

Event = dict[str, Any]

TIMES = ("event_timestamp", "scheduled_departure", "actual_departure", "actual_arrival")
MONEY = (
    "base_price",
    "total_price",
    "amount",
    "refund_amount",
    "original_amount",
    "driver_earnings",
    "platform_commission",
)
WITH_CURRENCY = (
    "booking.created",
    "booking.confirmed",
    "booking.completed",
    "payment.initiated",
    "payment.success",
    "payment.failed",
    "payment.refunded",
    "trip.completed",
)


def tie(event_id: str) -> str:
    """The order of two events of the same millisecond: the second half of their ids decides, as ClickHouse compares."""
    return event_id[19:] + event_id[:19]


def stored(sent: Iterable[Event], default_currency: str) -> list[Event]:
    """Each event once, the earlier ones first.

    Of several payloads under one id the earliest wins, then the one whose type comes first, then the content.
    """
    winners: dict[str, tuple[tuple[datetime, str, str], Event]] = {}
    for raw in sent:
        content = json.dumps(raw, sort_keys=True, default=str)
        event = _read(raw, content, default_currency)
        precedence = (event["event_timestamp"], event["event_type"], content)
        event_id = event["event_id"]
        if event_id not in winners or precedence < winners[event_id][0]:
            winners[event_id] = (precedence, event)
    events = [event for _, event in winners.values()]
    return sorted(events, key=lambda event: (event["event_timestamp"], tie(event["event_id"])))


def _read(raw: Event, content: str, default_currency: str) -> Event:
    event = {name: value for name, value in raw.items() if value is not None and value != ""}
    for name, value in event.items():
        if name in TIMES:
            event[name] = _time(value)
        elif name in MONEY:
            event[name] = Decimal(str(value))
        elif name.endswith("_id") and name != "provider_transaction_id":
            event[name] = value.lower()
    event.setdefault("event_id", str(uuid5(NAMESPACE_OID, content)))
    if event["event_type"] in WITH_CURRENCY:
        event.setdefault("currency", default_currency)
    if event["event_type"] == "user.kyc_verified":
        event.setdefault("kyc_status", "VERIFIED")
    return event


def _time(value: str | float) -> datetime:
    """To the millisecond, from RFC 3339 text (UTC without an offset) or Unix seconds or milliseconds."""
    if isinstance(value, str):
        instant = datetime.fromisoformat(value)
        instant = instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
        return instant.replace(microsecond=instant.microsecond // 1000 * 1000)
    number = Decimal(str(value))
    milliseconds = int(number * 1000 if number < 100_000_000_000 else number)
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def of(events: Iterable[Event], *types: str) -> list[Event]:
    """Those of the types; `trip.` stands for all types of trips."""
    return [event for event in events if any(_is(event, kind) for kind in types)]


def _is(event: Event, kind: str) -> bool:
    name: str = event["event_type"]
    return name.startswith(kind) if kind.endswith(".") else name == kind


def during(events: Iterable[Event], span: Span) -> list[Event]:
    return [event for event in events if span.start <= event["event_timestamp"] < span.end]


def before(events: Iterable[Event], end: datetime) -> list[Event]:
    return [event for event in events if event["event_timestamp"] < end]


def distinct(events: Iterable[Event], field: str) -> set[Any]:
    """The values of the field, unknown ones left out."""
    return {event[field] for event in events if field in event}


def by(events: Iterable[Event], field: str) -> dict[str, list[Event]]:
    """The events of each thing, the earlier ones first."""
    things: dict[str, list[Event]] = {}
    for event in events:
        if field in event:
            things.setdefault(event[field], []).append(event)
    return things


def first_known(events: Iterable[Event], field: str) -> Any:
    """The value of the earliest event that has one."""
    return next((event[field] for event in events if field in event), None)


def first_known_of_each(events: Iterable[Event], thing: str, field: str) -> list[Any]:
    """One value for each thing that has any."""
    values = [first_known(its_events, field) for its_events in by(events, thing).values()]
    return [value for value in values if value is not None]


def first_money(events: Iterable[Event], field: str) -> Money | None:
    """The amount of the earliest event that has one, in the currency of that event."""
    return next(((event["currency"], event[field]) for event in events if field in event), None)


def first_money_of_each(events: Iterable[Event], thing: str, field: str) -> list[Money]:
    money = [first_money(its_events, field) for its_events in by(events, thing).values()]
    return [known for known in money if known is not None]


def latest(events: Iterable[Event]) -> Event:
    return max(
        events, key=lambda event: (event["event_timestamp"], event["event_type"], tie(event["event_id"]))
    )
