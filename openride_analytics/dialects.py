"""Other producers' spellings of the event contract: their topics, names, dates and gaps, all of it configuration.

A record of such a topic is translated into the contract's own names, its values as the bytes they came in, and then
decoded like any other: amounts stay exact, and both spellings of one event give the same line. This costs a second
parsing, on these topics only. Refusals name the field as the producer wrote it. This module does no input or output.
"""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from openride_analytics import events
from openride_analytics.config import ConfigError, Dialect, DialectTopic, Kafka, time_zones
from openride_analytics.contract import TYPES
from openride_analytics.events import MAX_RECORD_BYTES, Acceptance, BadEvent, Decode, Event, claimed_type

# The required fields that the store and every metric can do without. A dialect may make these optional and no others.
MAY_BE_UNKNOWN: Final = {
    "booking.created": frozenset({"driver_id"}),
    "booking.confirmed": frozenset({"driver_id", "seats_booked"}),
    "booking.cancelled": frozenset({"driver_id", "cancelled_by"}),
    "booking.completed": frozenset({"driver_id", "seats_booked", "actual_departure"}),
    "trip.completed": frozenset(
        {
            *("driver_id", "actual_departure", "actual_arrival", "duration_minutes", "distance_km"),
            *("driver_earnings", "platform_commission"),
        }
    ),
}


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
    if spoken.event_type not in TYPES:
        raise ConfigError(f"{where}: there is no event type {spoken.event_type!r}")
    for field in spoken.optional:
        if field not in MAY_BE_UNKNOWN.get(spoken.event_type, ()):
            raise ConfigError(
                f"{where}.optional: {field!r} is no field that {spoken.event_type} can do without"
            )
    return set(TYPES[spoken.event_type].__struct_fields__)


class _Spelling:
    """One type of event as one producer writes it."""

    def __init__(self, dialect: Dialect, spoken: DialectTopic) -> None:
        self.event_type = spoken.event_type
        event = TYPES[spoken.event_type]
        fields = event.__struct_fields__
        self._names: dict[str, tuple[str, ...]] = {
            field: tuple(dict.fromkeys((*dialect.names.get(field, ()), _camel_case(field))))
            for field in fields
        }
        self._times = {"event_timestamp", *event.times}
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
            if not record.isascii():
                record.decode()  # msgspec does not look into values that are passed on
            sent = {name: value for name, value in _fields(record).items() if bytes(value) != b"null"}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise events.refusal(error) from None
        found: dict[str, str] = {}
        translated = msgspec.json.encode({"event_type": self.event_type, **self._translated(sent, found)})
        try:
            return events.decode(translated, acceptance, self._parse)
        except BadEvent as error:
            field, inner = re.fullmatch(r"(\w*)(.*)", error.field, re.DOTALL).groups()  # type: ignore[union-attr]
            name = found.get(field) or self._missing(field, sent)
            raise BadEvent(error.reason, error.detail, name + inner) from None

    def _translated(self, sent: Mapping[str, msgspec.Raw], found: dict[str, str]) -> dict[str, Any]:
        """The contract's fields, and in `found` the name that each was sent under."""
        event: dict[str, Any] = dict(self._defaults)
        for field, names in self._names.items():
            for name in names:
                if all(part in sent for part in name.split("+")):
                    event[field] = self._value(sent, field, name)
                    found[field] = name
                    break
        return event

    def _value(self, sent: Mapping[str, msgspec.Raw], field: str, name: str) -> msgspec.Raw | str:
        if "+" in name:
            return self._instant(sent, name)
        if field in self._times:
            return msgspec.Raw(_FINER.sub(b"", bytes(sent[name])))
        return sent[name]

    def _instant(self, sent: Mapping[str, msgspec.Raw], name: str) -> str:
        """When clocks in the dialect's zone show a date and a time; the first time, if they do so twice."""
        day_name, clock_name = name.split("+")
        local = datetime.combine(
            _date(sent[day_name], day_name), _time(sent[clock_name], clock_name), self._timezone
        )
        try:
            return local.astimezone(UTC).isoformat()
        except OverflowError:
            raise BadEvent(
                "timestamp_out_of_range", "The time is before 2015-01-01 or after 2099.", name
            ) from None

    def _missing(self, field: str, sent: Mapping[str, msgspec.Raw]) -> str:
        """The producer's name of a field that was not sent; of a date and a time, the one that is missing."""
        name = self._names.get(field, (field,))[0]
        missing = [part for part in name.split("+") if part not in sent]
        return missing[0] if len(missing) == 1 else name


def _date(value: msgspec.Raw, name: str) -> date:
    """A local date as Jackson writes it: `"2026-03-01"` or `[2026,3,1]`."""
    try:
        sent = _parse_date(value)
        return sent if isinstance(sent, date) else date(*sent)
    except _NOT_LOCAL:
        raise BadEvent("invalid_field", "Expected a date, such as 2026-03-01 or [2026,3,1].", name) from None


def _time(value: msgspec.Raw, name: str) -> time:
    """A local time as Jackson writes it: `"07:05"`, `"07:05:30.5"`, `[7,5]`, `[7,5,30]` or with nanoseconds."""
    try:
        sent = _parse_time(value)
        if isinstance(sent, str):
            return time.fromisoformat(sent)
        hour, minute, second, nanosecond = (*sent, 0, 0)[: max(4, len(sent))]
        return time(hour, minute, second, nanosecond // 1000)
    except _NOT_LOCAL:
        raise BadEvent("invalid_field", "Expected a time of day, such as 07:05 or [7,5].", name) from None


def _camel_case(field: str) -> str:
    first, *others = field.split("_")
    return first + "".join(other.capitalize() for other in others)


_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_parse_date: Final = msgspec.json.Decoder(date | tuple[int, int, int]).decode
# Python would also take "07", "T0705" and a time with an offset.
_Clock = Annotated[str, Meta(pattern=r"^[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?\Z")]
_parse_time: Final = msgspec.json.Decoder(_Clock | list[int]).decode
# Java's clock gives nanoseconds. What is finer than a microsecond is cut: it would be rounded, into the next millisecond.
_FINER: Final = re.compile(rb"(?<=\.[0-9]{6})[0-9]+(?![0-9eE])")
_NOT_LOCAL: Final = (msgspec.DecodeError, RecursionError, ValueError, OverflowError)
