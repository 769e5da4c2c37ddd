"""Events as OpenRide's Java services publish them: Spring's JsonSerializer, one topic for each type.

Written from what those services send, not from the service's configuration of their dialects.
"""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

LAGOS = ZoneInfo("Africa/Lagos")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

TYPES = ("booking.created", "booking.confirmed", "booking.cancelled", "booking.completed", "trip.completed")
# Which field says when it happened. `eventTimestamp` is when it was sent.
HAPPENED = {
    "booking.created": "createdAt",
    "booking.confirmed": "confirmedAt",
    "booking.cancelled": "cancelledAt",
    "booking.completed": "completedAt",
    "trip.completed": "completedAt",
}
NAMES = {
    "booking": {"seats_booked": "numberOfSeats", "total_price": "totalAmount"},
    "trip": {"actual_departure": "tripStartedAt"},
}
# Sent in no way of their own: the end of the ride is when it was completed.
NOT_SENT = {"event_type", "event_timestamp", "actual_arrival"}


def spelled(event: dict[str, Any], chance: Random) -> bytes:
    """One of the ways in which Jackson may write it: times as numbers or text, dates and clock times as lists or text.

    Where the event has an `actual_arrival` other than its own time it is sent under that name.
    """
    event_type = event["event_type"]
    names = NAMES[event_type.partition(".")[0]]
    happened = instant(event["event_timestamp"])
    sent: dict[str, Any] = {}
    for field, value in event.items():
        if field in NOT_SENT:
            continue
        if field == "scheduled_departure":
            local = instant(value).astimezone(LAGOS)
            sent["travelDate"] = _date(local, chance)
            sent["departureTime"] = _clock(local, chance)
        elif field == "actual_departure":
            sent[names.get(field, "actualDeparture")] = _time(instant(value), chance)
        else:
            sent[names.get(field) or _camel_case(field)] = value
    if "actual_arrival" in event and instant(event["actual_arrival"]) != happened:
        sent["actualArrival"] = _time(instant(event["actual_arrival"]), chance)
    sent[HAPPENED[event_type]] = _time(happened, chance)
    sent["eventTimestamp"] = _time(happened + timedelta(seconds=chance.randrange(1, 100)), chance)
    sent["confirmationChannel"] = None  # fields that nobody here knows come and go
    items = list(sent.items())
    chance.shuffle(items)
    return _json(dict(items)).encode()


def instant(value: str | float) -> datetime:
    """A time of the contract, to the millisecond."""
    if isinstance(value, str):
        at = datetime.fromisoformat(value)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        return at.replace(microsecond=at.microsecond // 1000 * 1000)
    number = Decimal(str(value))
    return EPOCH + timedelta(milliseconds=int(number * 1000 if number < 100_000_000_000 else number))


def _time(at: datetime, chance: Random) -> Any:
    if chance.random() < 0.5:
        return at.isoformat().replace("+00:00", "Z")
    seconds, milliseconds = divmod((at - EPOCH) // timedelta(milliseconds=1), 1000)
    return _Number(f"{seconds}.{milliseconds:03}{chance.randrange(1_000_000):06}")


def _date(at: datetime, chance: Random) -> Any:
    return at.date().isoformat() if chance.random() < 0.5 else [at.year, at.month, at.day]


def _clock(at: datetime, chance: Random) -> Any:
    if chance.random() < 0.5:
        return at.time().isoformat()
    parts = [at.hour, at.minute, at.second, at.microsecond * 1000]
    while len(parts) > 2 and not parts[-1]:
        parts.pop()
    return parts


def _camel_case(field: str) -> str:
    return re.sub(r"_(\w)", lambda match: match[1].upper(), field)


class _Number(str):
    """A JSON number with all its digits."""

    __slots__ = ()


def _json(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_json(item)}" for name, item in value.items()) + "}"
    return str(value) if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False)
