"""Events and questions as one writes them down, for examples with known answers."""

from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from .periods import Question
from .stored import Event


def identity(name: str) -> str:
    return str(uuid5(NAMESPACE_OID, name))


def event(kind: str, when: str | float, **fields: Any) -> Event:
    """An event with an id of its own; the names of things (`booking_id="b1"`) are made ids."""
    ids = {name: identity(value) for name, value in fields.items() if name.endswith("_id")}
    made = {"event_type": kind, "event_timestamp": when} | fields | ids
    return {"event_id": identity(repr(made))} | made


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def asked(
    start: str, end: str, timezone: str = "UTC", *, now: str = "2026-05-01T00:00Z", **rest: Any
) -> Question:
    return Question(utc(start), utc(end), timezone, now=utc(now), **rest)


MARCH = asked("2026-03-01T00:00Z", "2026-04-01T00:00Z", granularity="none")
