"""Other producers' spellings of the event contract: their topics, names, dates and gaps, all of it configuration.

A record of such a topic is translated into the contract's own spelling and then decoded like any other, so both
spellings of one event give the same line. This costs a second parsing, on these topics only. Refusals name the field as
the producer wrote it. This module does no input or output.
"""

import re
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from openride_analytics import events
from openride_analytics.config import ConfigError, Dialect, DialectTopic, Kafka, time_zones
from openride_analytics.events import (
    MAX_RECORD_BYTES,
    Acceptance,
    BadEvent,
    Decode,
    Event,
    claimed_type,
    fields_of,
)


class Dialects:
    """What is spoken on which topic. Raises `ConfigError` where the configuration makes no sense."""

    def __init__(self, settings: Kafka) -> None:
        self._by_topic: dict[str, _Spelling] = {}
        for name, dialect in settings.dialects.items():
            where = f"kafka.dialects.{name}"
            if dialect.timezone not in time_zones():
                raise ConfigError(f"{where}.timezone: there is no time zone {dialect.timezone!r}")
            known = set[str]()
            for topic, spoken in dialect.topics.items():
                if topic in settings.topics or topic in self._by_topic:
                    raise ConfigError(f"{where}.topics: {topic!r} is listed elsewhere already")
                known |= _checked(f"{where}.topics.{topic!r}", spoken)
                self._by_topic[topic] = _Spelling(dialect, spoken)
            for field in (*dialect.names, *dialect.defaults):
                if dialect.topics and field not in known:
                    raise ConfigError(f"{where}: none of its events has a field {field!r}")
        self.topics: Final = (*settings.topics, *self._by_topic)

    def decoder(self, topic: str) -> Decode:
        """How to decode the records of a topic; of any topic without a dialect, and of none, as the contract says."""
        spelling = self._by_topic.get(topic)
        return events.decode if spelling is None else spelling.decode

    def event_type(self, topic: str, record: bytes) -> str:
        """The type that a refused record claims to be; empty if it can't be told."""
        spelling = self._by_topic.get(topic)
        return claimed_type(record) if spelling is None else spelling.event_type


def _checked(where: str, spoken: DialectTopic) -> set[str]:
    """The fields of the topic's events."""
    fields = fields_of(spoken.event_type)
    if fields is None:
        raise ConfigError(f"{where}: there is no event type {spoken.event_type!r}")
    for field in spoken.optional:
        if field not in fields or field == "event_timestamp":
            raise ConfigError(
                f"{where}.optional: {field!r} is no field that {spoken.event_type} can do without"
            )
    return set(fields)


class _Spelling:
    """One type of event as one producer writes it."""

    def __init__(self, dialect: Dialect, spoken: DialectTopic) -> None:
        self.event_type = spoken.event_type
        fields = fields_of(spoken.event_type) or {}
        self._names: dict[str, tuple[str, ...]] = {
            field: tuple(dict.fromkeys((*dialect.names.get(field, ()), _camel_case(field))))
            for field in fields
        }
        self._defaults = {field: value for field, value in dialect.defaults.items() if field in fields}
        self._timezone = ZoneInfo(dialect.timezone)
        self._parse = events.relaxed(spoken.event_type, spoken.optional)

    def decode(self, record: bytes, acceptance: Acceptance) -> Event:
        """As `events.decode`."""
        if len(record) > MAX_RECORD_BYTES:
            raise BadEvent(
                "too_large", f"The record has {len(record)} bytes; the limit is {MAX_RECORD_BYTES}."
            )
        try:
            sent = _parse(record)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise events.refusal(error) from None
        found: dict[str, str] = {}
        translated = _encode({"event_type": self.event_type, **self._translated(sent, found)})
        try:
            return events.decode(translated, acceptance, self._parse)
        except BadEvent as error:
            field, inner = re.fullmatch(r"(\w*)(.*)", error.field, re.DOTALL).groups()  # type: ignore[union-attr]
            name = found.get(field) or self._names.get(field, (field,))[0]
            raise BadEvent(error.reason, error.detail, name + inner) from None

    def _translated(self, sent: Mapping[str, Any], found: dict[str, str]) -> dict[str, Any]:
        """The contract's fields, and in `found` the name that each was sent under."""
        event = dict(self._defaults)
        for field, names in self._names.items():
            for name in names:
                value = self._value(sent, name)
                if value is not None:
                    event[field] = value
                    found[field] = name
                    break
        return event

    def _value(self, sent: Mapping[str, Any], name: str) -> Any:
        if "+" not in name:
            return sent.get(name)
        day_name, clock_name = name.split("+", 1)
        day, clock = sent.get(day_name), sent.get(clock_name)
        if day is None or clock is None:
            return None
        at = datetime.combine(_date(day, day_name), _time(clock, clock_name), self._timezone)
        return at.isoformat()


def _date(value: Any, name: str) -> date:
    """A local date as Jackson writes it: `"2026-03-01"` or `[2026,3,1]`."""
    try:
        return date.fromisoformat(value) if isinstance(value, str) else date(*value)
    except (TypeError, ValueError):
        raise BadEvent("invalid_field", "Expected a date, such as 2026-03-01 or [2026,3,1].", name) from None


def _time(value: Any, name: str) -> time:
    """A local time as Jackson writes it: `"07:05"`, `"07:05:30.5"`, `[7,5]`, `[7,5,30]` or with nanoseconds."""
    try:
        if isinstance(value, str):
            return time.fromisoformat(value).replace(tzinfo=None)
        hour, minute, second, nanosecond = (*value, 0, 0)[: max(4, len(value))]
        return time(hour, minute, second, nanosecond // 1000)
    except (TypeError, ValueError):
        raise BadEvent("invalid_field", "Expected a time of day, such as 07:05 or [7,5].", name) from None


def _camel_case(field: str) -> str:
    first, *others = field.split("_")
    return first + "".join(other.capitalize() for other in others)


# Numbers stay exact on their way through.
_parse: Final = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode
_encode: Final = msgspec.json.Encoder(decimal_format="number").encode
