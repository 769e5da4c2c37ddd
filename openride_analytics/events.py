"""The event contract: what the platform's producers may send, checked and normalised.

One record is one event: a flat JSON object. `decode` turns its bytes into an `Event`: the
line that is stored, with every value in one canonical form (times as integer milliseconds,
money as plain decimal text, ids in lower case) and without a single field the contract does
not name, which is how personal data never gets past this module. What cannot be accepted
raises `BadEvent` with a machine-readable reason. This module does no input or output.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from hashlib import blake2b
from typing import Annotated, Any, ClassVar, Final, Literal, get_args
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

MAX_RECORD_BYTES: Final = 1_048_576
LOCATION_EVENT: Final = "driver.location.updated"

Reason = Literal[
    "invalid_json", "unknown_event_type", "invalid_field", "timestamp_out_of_range", "expired", "too_large"
]

Time = datetime | int | float
Text = str
# What the JSON said, for `_money`: msgspec's own Decimal would take " 1_000" and Arabic digits and forget the spelling.
Money = Any
Latitude = Annotated[float, Meta(ge=-90, le=90)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]
Number = Annotated[float, Meta(ge=0)]
Reading = Annotated[float, Meta(ge=0, le=3.4e38)]  # kept in single precision, where more would be infinite
Count = Annotated[int, Meta(ge=0, le=4_294_967_295)]
Seats = Annotated[int, Meta(ge=1, le=60)]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")]
ClockTime = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?\Z")]
Weekday = Literal["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"]
Party = Literal["RIDER", "DRIVER", "SYSTEM"]


_LONGEST_DETAIL: Final = 300  # msgspec repeats what it does not know, however long


class BadEvent(Exception):
    """A record that cannot be stored, and why.

    `reason` is one of the contract's, `field` the path of the guilty field (empty when the
    record as a whole is at fault) and `detail` a sentence for people, without personal data.
    """

    def __init__(self, reason: Reason, detail: str, field: str = "") -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.field = field
        self.detail = detail[:_LONGEST_DETAIL]


class _Event(Struct, tag_field="event_type", omit_defaults=True, kw_only=True, gc=False):
    """The envelope. The class attributes name the fields that `decode` brings into canonical form."""

    times: ClassVar[tuple[str, ...]] = ()
    money: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[dict[str, str]] = {}
    has_currency: ClassVar[bool] = False
    thing: ClassVar[str] = ""  # the field with the id of the booking, payment or trip that it is about
    is_location: ClassVar[bool] = False
    type_name: ClassVar[str] = ""  # the tag, which is slow to ask for
    may_lack: ClassVar[frozenset[str]] = frozenset()  # of the amounts, whose type says nothing

    event_timestamp: Time
    event_id: UUID | None = None


class UserRegistered(_Event, tag="user.registered", kw_only=True):
    user_id: UUID
    role: Literal["RIDER", "DRIVER", "ADMIN"]
    city: Text | None = None
    state: Text | None = None
    referral_code: Text | None = None


class UserKycVerified(_Event, tag="user.kyc_verified", kw_only=True):
    defaults: ClassVar[dict[str, str]] = {"kyc_status": "VERIFIED"}

    user_id: UUID
    kyc_status: Literal["VERIFIED", "REJECTED"] | None = None
    verified_by: UUID | None = None


class UserUpgradedToDriver(_Event, tag="user.upgraded_to_driver", kw_only=True):
    defaults: ClassVar[dict[str, str]] = {"previous_role": "RIDER", "new_role": "DRIVER"}

    user_id: UUID
    previous_role: Text | None = None
    new_role: Text | None = None


class RouteCreated(_Event, tag="route.created", kw_only=True):
    money: ClassVar[tuple[str, ...]] = ("base_price",)

    route_id: UUID
    driver_id: UUID
    route_name: Text
    origin_city: Text
    origin_state: Text
    destination_city: Text
    destination_state: Text
    seats_total: Seats
    base_price: Money
    stops_count: Count | None = None
    departure_time: ClockTime | None = None
    active_days: list[Weekday] | None = None


class RouteActivated(_Event, tag="route.activated", kw_only=True):
    route_id: UUID
    driver_id: UUID
    route_name: Text | None = None


class RouteCancelled(_Event, tag="route.cancelled", kw_only=True):
    route_id: UUID
    driver_id: UUID
    route_name: Text | None = None
    cancellation_reason: Text | None = None
    active_bookings_count: Count | None = None


class _BookingEvent(_Event, kw_only=True):
    thing: ClassVar[str] = "booking_id"

    booking_id: UUID
    rider_id: UUID
    driver_id: UUID
    route_id: UUID


class BookingCreated(_BookingEvent, tag="booking.created", kw_only=True):
    times: ClassVar[tuple[str, ...]] = ("scheduled_departure",)
    money: ClassVar[tuple[str, ...]] = ("total_price",)
    has_currency: ClassVar[bool] = True

    seats_booked: Seats
    total_price: Money
    currency: Currency | None = None
    pickup_lat: Latitude | None = None
    pickup_lon: Longitude | None = None
    dropoff_lat: Latitude | None = None
    dropoff_lon: Longitude | None = None
    pickup_stop_id: UUID | None = None
    dropoff_stop_id: UUID | None = None
    scheduled_departure: Time


class BookingConfirmed(_BookingEvent, tag="booking.confirmed", kw_only=True):
    money: ClassVar[tuple[str, ...]] = ("total_price",)
    has_currency: ClassVar[bool] = True

    seats_booked: Count
    total_price: Money
    currency: Currency | None = None
    payment_id: UUID | None = None
    confirmation_code: Text | None = None


class BookingCancelled(_BookingEvent, tag="booking.cancelled", kw_only=True):
    cancelled_by: Party
    cancellation_reason: Text | None = None
    refund_initiated: bool | None = None


class BookingCompleted(_BookingEvent, tag="booking.completed", kw_only=True):
    times: ClassVar[tuple[str, ...]] = ("actual_departure", "actual_arrival")
    money: ClassVar[tuple[str, ...]] = ("total_price",)
    has_currency: ClassVar[bool] = True

    trip_id: UUID | None = None
    seats_booked: Count
    total_price: Money
    currency: Currency | None = None
    actual_departure: Time
    actual_arrival: Time
    duration_minutes: Number | None = None


class _PaymentAttempt(_Event, kw_only=True):
    thing: ClassVar[str] = "payment_id"
    money: ClassVar[tuple[str, ...]] = ("amount",)
    has_currency: ClassVar[bool] = True

    payment_id: UUID
    booking_id: UUID
    rider_id: UUID
    amount: Money
    currency: Currency | None = None
    payment_method: Text
    provider: Text
    provider_transaction_id: Text | None = None


class PaymentInitiated(_PaymentAttempt, tag="payment.initiated", kw_only=True):
    pass


class PaymentSuccess(_PaymentAttempt, tag="payment.success", kw_only=True):
    processing_time_ms: Count | None = None


class PaymentFailed(_PaymentAttempt, tag="payment.failed", kw_only=True):
    error_code: Text
    error_message: Text | None = None
    processing_time_ms: Count | None = None


class PaymentRefunded(_Event, tag="payment.refunded", kw_only=True):
    thing: ClassVar[str] = "payment_id"
    money: ClassVar[tuple[str, ...]] = ("refund_amount", "original_amount")
    has_currency: ClassVar[bool] = True

    payment_id: UUID
    booking_id: UUID
    rider_id: UUID
    refund_amount: Money
    original_amount: Money
    currency: Currency | None = None
    refund_reason: Text | None = None
    refunded_by: UUID | None = None


class _TripEvent(_Event, kw_only=True):
    thing: ClassVar[str] = "trip_id"

    trip_id: UUID
    booking_id: UUID
    driver_id: UUID
    rider_id: UUID
    route_id: UUID


class TripStarted(_TripEvent, tag="trip.started", kw_only=True):
    times: ClassVar[tuple[str, ...]] = ("scheduled_departure", "actual_departure")

    scheduled_departure: Time
    actual_departure: Time
    start_lat: Latitude
    start_lon: Longitude
    passengers_count: Seats


class TripCompleted(_TripEvent, tag="trip.completed", kw_only=True):
    times: ClassVar[tuple[str, ...]] = ("actual_departure", "actual_arrival")
    money: ClassVar[tuple[str, ...]] = ("driver_earnings", "platform_commission", "total_price")
    may_lack: ClassVar[frozenset[str]] = frozenset({"total_price"})
    has_currency: ClassVar[bool] = True

    actual_departure: Time
    actual_arrival: Time
    duration_minutes: Number
    distance_km: Number
    end_lat: Latitude | None = None
    end_lon: Longitude | None = None
    driver_earnings: Money
    platform_commission: Money
    currency: Currency | None = None
    on_time: bool | None = None
    # What payouts-service sends besides.
    seats_booked: Count | None = None
    total_price: Money | None = None


class TripCancelled(_TripEvent, tag="trip.cancelled", kw_only=True):
    cancelled_by: Party
    cancellation_reason: Text | None = None
    was_started: bool | None = None
    partial_distance_km: Number | None = None


class DriverLocationUpdated(_Event, tag=LOCATION_EVENT, kw_only=True):
    is_location: ClassVar[bool] = True

    driver_id: UUID
    trip_id: UUID | None = None
    lat: Latitude
    lon: Longitude
    speed_kmh: Reading | None = None
    bearing: Annotated[float, Meta(ge=0, lt=360)] | None = None
    accuracy_meters: Reading | None = None
    city: Text | None = None
    state: Text | None = None


AnyEvent = (
    UserRegistered
    | UserKycVerified
    | UserUpgradedToDriver
    | RouteCreated
    | RouteActivated
    | RouteCancelled
    | BookingCreated
    | BookingConfirmed
    | BookingCancelled
    | BookingCompleted
    | PaymentInitiated
    | PaymentSuccess
    | PaymentFailed
    | PaymentRefunded
    | TripStarted
    | TripCompleted
    | TripCancelled
    | DriverLocationUpdated
)


class Event(Struct, frozen=True, gc=False):
    """One accepted event, ready to be stored.

    `line` is its canonical JSON (no newline inside). `event_id` is the producer's, or None when
    the id inside the line was derived from the content: only given ids can clash with another content. `at_ms`: its
    `event_timestamp`, Unix milliseconds. `thing`: the booking, payment or trip that it is about.
    """

    line: bytes
    is_location: bool
    event_id: UUID | None
    at_ms: int
    event_type: str
    thing: UUID | None = None

    @property
    def id_text(self) -> str:
        """The id inside the line, given or derived: cut out of it in a third of the time that a UUID takes to be written."""
        begin = self.line.index(b'"event_id":"') + 12
        return self.line[begin : begin + 36].decode()


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What is taken in now: the default currency and the bounds of `event_timestamp`, Unix milliseconds."""

    currency: str
    expired_before_ms: int
    newest_ms: int

    @classmethod
    def at(cls, now: datetime, *, currency: str, keep_days: int) -> "Acceptance":
        """Bounds at `now`: at most a day ahead of it, at most `keep_days` old (0: any age)."""
        now_ms = (now - _EPOCH) // _MILLISECOND
        return cls(
            currency=currency,
            expired_before_ms=now_ms - keep_days * _DAY_MS if keep_days else _OLDEST_MS,
            newest_ms=now_ms + _DAY_MS,
        )


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_DAY_MS: Final = 86_400_000
_OLDEST_MS: Final = (datetime(2015, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND
# Departures may be planned ahead; this only keeps absurd years out of the store.
_LATEST_PLANNED_MS: Final = (datetime(2100, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND
_SECONDS_BELOW: Final = 1e11
_MILLISECONDS_BELOW: Final = 1e15
_MONEY_BELOW: Final = Decimal(10**14)
_FOUR_PLACES: Final = Decimal("0.0001")

# Numbers with a point or an exponent come to fields of type Any as bytes, texts as str: `_money` tells them apart.
Parse = Callable[[bytes], Any]
_decode_json: Final[Parse] = msgspec.json.Decoder(AnyEvent, float_hook=str.encode).decode
_encode_json: Final = msgspec.json.Encoder(uuid_format="canonical").encode


TYPES: Final[dict[str, type[_Event]]] = {
    str(event.__struct_config__.tag): event for event in get_args(AnyEvent)
}
for _type in TYPES.values():
    _type.type_name = str(_type.__struct_config__.tag)


def relaxed(event_type: str, optional: Collection[str]) -> Parse:
    """A parser, for `decode`, of one event type some of whose fields may be missing or null.

    What it reads has the same fields in the same order, so that the same event gives the same line.
    """
    event = TYPES[event_type]
    namespace: dict[str, Any] = {
        name: getattr(event, name)
        for name in ("times", "money", "defaults", "has_currency", "thing", "is_location", "type_name")
    }
    namespace["may_lack"] = event.may_lack | set(optional)
    fields = [
        (field.name, field.type | None, None)
        if field.name in optional or not field.required
        else (field.name, field.type)
        for field in msgspec.structs.fields(event)
    ]
    struct = msgspec.defstruct(
        event.__name__,
        fields,
        namespace=namespace,
        tag_field="event_type",
        tag=event_type,
        omit_defaults=True,
        kw_only=True,
        gc=False,
    )
    return msgspec.json.Decoder(struct, float_hook=str.encode).decode


Decode = Callable[[bytes, Acceptance], Event]
"""`decode`, or the same for another spelling of the events."""


def decode(record: bytes, acceptance: Acceptance, parse: Parse = _decode_json) -> Event:
    """Checks one record and brings it into canonical form, or raises `BadEvent`.

    This is the hot path: about 2 µs for a location and 5 µs for a booking. msgspec checks types and
    ranges in C; Python only touches times, money and defaults.
    """
    if len(record) > MAX_RECORD_BYTES:
        raise BadEvent("too_large", f"The record has {len(record)} bytes; the limit is {MAX_RECORD_BYTES}.")
    try:
        if not record.isascii():
            record.decode()  # msgspec does not look into fields that it ignores
        event = parse(record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refusal(error) from None
    if _EIGHT_MARKS in record[::4].translate(_MARKS):
        _check_ids(event, record)

    at_ms = event.event_timestamp
    if (
        type(at_ms) is not int or not _SECONDS_BELOW <= at_ms < _MILLISECONDS_BELOW
    ):  # as most producers send it
        at_ms = event.event_timestamp = _milliseconds(at_ms, "event_timestamp")
    if not _OLDEST_MS <= at_ms <= acceptance.newest_ms:
        raise BadEvent(
            "timestamp_out_of_range",
            "The time is before 2015-01-01 or more than 24 hours ahead of now.",
            "event_timestamp",
        )
    if at_ms < acceptance.expired_before_ms:
        raise BadEvent("expired", "The event is older than the configured retention.", "event_timestamp")
    is_location = event.is_location
    thing = None
    if not is_location:  # four fifths of the stream are, and have nothing else to bring into form
        _normalise(event, acceptance.currency)
        thing = getattr(event, event.thing) if event.thing else None
    line = _encode_json(event)
    event_id = event.event_id
    if event_id is None:
        line = b'{"event_id":"%b",%b' % (_content_id(line), line[1:])
    return Event(line, is_location, event_id, at_ms, event.type_name, thing)


def _normalise(event: _Event, default_currency: str) -> None:
    """Brings planned times, money and defaults into canonical form."""
    for name in event.times:
        if (at := getattr(event, name)) is not None:
            setattr(event, name, _planned_milliseconds(at, name))
    for name in event.money:
        amount = getattr(event, name)
        if amount is not None or name not in event.may_lack:
            setattr(event, name, _money(amount, name))
    if event.has_currency and event.currency is None:  # type: ignore[attr-defined]  # of the types that have one
        event.currency = default_currency  # type: ignore[attr-defined]
    for name, value in event.defaults.items():
        if getattr(event, name) is None:
            setattr(event, name, value)


def _milliseconds(value: Time, field: str) -> int:
    """Unix milliseconds, cut (not rounded) to the millisecond; text without an offset is UTC."""
    if type(value) is int and _SECONDS_BELOW <= value < _MILLISECONDS_BELOW:
        return value  # what most producers send
    if isinstance(value, datetime):
        since = (value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH
        # Half the time of dividing `since` by a millisecond.
        return since.days * _DAY_MS + since.seconds * 1000 + since.microseconds // 1000
    if not -_MILLISECONDS_BELOW < value < _MILLISECONDS_BELOW:
        raise BadEvent("timestamp_out_of_range", "The Unix time is out of range.", field)
    # By way of microseconds: 1772348700.123 is a hair below in binary and must not lose its last millisecond.
    return round(value * (1e6 if value < _SECONDS_BELOW else 1e3)) // 1000


def _planned_milliseconds(value: Time, field: str) -> int:
    at_ms = _milliseconds(value, field)
    if not _OLDEST_MS <= at_ms < _LATEST_PLANNED_MS:
        raise BadEvent("timestamp_out_of_range", "The time is before 2015-01-01 or after 2099.", field)
    return at_ms


_USUAL_AMOUNT: Final = re.compile(r"(?:0|[1-9][0-9]{0,13})(?:\.([0-9]{1,4}))?").fullmatch
_PLAIN_DECIMAL: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?").fullmatch
_NO_AMOUNT: Final = "Expected decimal text or a number, from 0 to below 100 trillion."


def _money(value: Any, field: str) -> str:
    """Plain text with exactly four decimals; refuses what is no amount, negative, too large, or finer than that."""
    if type(value) is str:
        usual = _USUAL_AMOUNT(value)
        if usual:
            decimals = usual[1]
            return f"{value}.0000" if decimals is None else value + "0000"[len(decimals) :]
        number = value if _PLAIN_DECIMAL(value) else "NaN"
    elif type(value) is int:
        number = str(value) if -1 < value < _MONEY_BELOW else "NaN"
    else:
        number = value.decode() if type(value) is bytes else "NaN"
    try:
        amount = Decimal(number)
    except InvalidOperation:  # an exponent beyond all bounds
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 <= amount < _MONEY_BELOW:
        raise BadEvent("invalid_field", _NO_AMOUNT, field)
    exact = amount.copy_abs().quantize(_FOUR_PLACES)
    if exact != amount:
        raise BadEvent("invalid_field", "An amount has at most 4 decimals.", field)
    return str(exact)


# msgspec also takes UUIDs without hyphens, which the contract does not. Such a UUID is a run of at least 32 of these
# characters, escapes included, so 8 in a row of every fourth byte, wherever that begins; the hyphens of a canonical UUID
# (8, 13, 18 and 23) are then in the way once, whichever byte is the first, and its quotes are, so that it has 6 in a row at
# most. This takes 0.35 µs, a search for the run itself 3.
_MARKS: Final = bytes(120 if byte in b"0123456789abcdefABCDEFu\\" else 32 for byte in range(256))
_EIGHT_MARKS: Final = b"x" * 8


_raw_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text: Final = msgspec.json.Decoder(str)


def _check_ids(event: _Event, record: bytes) -> None:
    """Refuses ids that are no canonical text. `record` has been decoded to `event`, so it is sound otherwise.

    Only the ids are decoded again: what `event` ignores may hold what no type takes, such as 1e400.
    """
    sent = _raw_fields.decode(record)
    for name in event.__struct_fields__:
        if isinstance(getattr(event, name), UUID) and len(_text.decode(sent[name])) != 36:
            raise BadEvent("invalid_field", "A UUID has hyphens: 8-4-4-4-12.", name)


def _content_id(line: bytes) -> bytes:
    """A UUID of version 8 (RFC 9562: custom) out of the canonical content."""
    h = blake2b(line, digest_size=16).hexdigest()
    return f"{h[:8]}-{h[8:12]}-8{h[13:16]}-a{h[17:20]}-{h[20:]}".encode()


_PATH: Final = re.compile(r" - at `\$\.?(.*)`$")
_MISSING: Final = re.compile(r"missing required field `(.*?)`")


def refusal(error: Exception) -> BadEvent:
    """msgspec's message, sorted into the contract's reasons."""
    if not isinstance(error, msgspec.ValidationError):
        return BadEvent("invalid_json", f"Not a JSON object in UTF-8: {error}.")
    message = str(error)
    path = _PATH.search(message)
    missing = _MISSING.search(message)
    if missing:
        return BadEvent("invalid_field", "The field is required.", missing[1])
    if path is None:
        return BadEvent("invalid_json", message + ".")
    field, detail = path[1], message[: path.start()] + "."
    if field == "event_type" and message.startswith("Invalid value"):
        return BadEvent("unknown_event_type", detail, field)
    return BadEvent("invalid_field", detail, field)


_TEXT: Final = rb'"(?:[^"\\]|\\.)*+"?'


def _value(depth: int) -> bytes:
    """A pattern for a JSON value, cut off or not. What is nested deeper takes the rest of the record with it."""
    inner = rb"[^][{}\"]|" + _TEXT + rb"|[\[{].*+"
    for _ in range(depth):
        inner = rb"[^][{}\"]|" + _TEXT + rb"|[\[{](?:" + inner + rb")*+[]}]?"
    return _TEXT + rb"|[\[{](?:" + inner + rb")*+[]}]?|[^,}\r\n]+"


def _name(name: str) -> str:
    """A pattern for a field's name, in letters of either case and in JSON's escapes of them."""
    return "".join(
        rf"(?:{letter}|\\u00(?:{ord(letter):02x}|{ord(letter.upper()):02x}))" if letter != "?" else letter
        for letter in name
    )


_PERSONAL: Final = re.compile(
    # The first character is looked at before the names are: most quotes begin something else.
    rb'("(?=[pefc\\])(?:%b)"\s*+:\s*+)(?:%b)'
    % (
        "|".join(
            map(
                _name,
                ("phone", "phone_?number", "email", "email_?address", "full_?name", "card_?last_?4"),
            )
        ).encode(),
        _value(depth=4),
    ),
    re.IGNORECASE | re.DOTALL,
)


def without_personal_data(record: bytes) -> bytes:
    """The record's bytes as they came, with the values of personal fields blanked, JSON or not."""
    return _PERSONAL.sub(rb'\1"-"', record)


def claimed_type(record: bytes) -> str:
    """The `event_type` a refused record claims, for the operator's lists; empty if it can't be told."""
    if len(record) > MAX_RECORD_BYTES:
        return ""
    try:
        return _text.decode(_raw_fields.decode(record)["event_type"])[:100]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        return ""
