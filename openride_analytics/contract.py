"""The event contract: the 18 kinds of events that the platform's producers send, and what each of their fields may be.

Times, money and ids are read as they come; `events.decode` brings them into one canonical form.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from msgspec import Meta, Struct
from msgspec.structs import fields

LOCATION_EVENT: Final = "driver.location.updated"

Time = datetime | int | float
Text = str
# As text, and looked at afterwards: objects would take as long as all the rest.
Id = Annotated[str, Meta(description="A UUID.")]
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


class Envelope(Struct, tag_field="event_type", omit_defaults=True, kw_only=True, gc=False):
    """The envelope. The class attributes name the fields that `decode` brings into canonical form."""

    times: ClassVar[tuple[str, ...]] = ()
    money: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[dict[str, Any]] = {}
    has_currency: ClassVar[bool] = False
    thing: ClassVar[str] = ""  # the field with the id of the booking, payment or trip that it is about
    id_names: ClassVar[tuple[str, ...]] = ()
    other_ids: ClassVar[tuple[str, ...]] = ()  # of these, all but the event's own
    optional: ClassVar[frozenset[str]] = frozenset()
    is_location: ClassVar[bool] = False
    type_name: ClassVar[str] = ""  # the tag, which is slow to ask for
    may_lack: ClassVar[frozenset[str]] = frozenset()  # of the amounts, whose type says nothing

    event_timestamp: Time
    event_id: Id | None = None


class UserRegistered(Envelope, tag="user.registered", kw_only=True):
    user_id: Id
    role: Literal["RIDER", "DRIVER", "ADMIN"]
    city: Text | None = None
    state: Text | None = None
    referral_code: Text | None = None


class UserKycVerified(Envelope, tag="user.kyc_verified", kw_only=True):
    defaults: ClassVar[dict[str, Any]] = {"kyc_status": "VERIFIED"}

    user_id: Id
    kyc_status: Literal["VERIFIED", "REJECTED"] | None = None
    verified_by: Id | None = None


class UserUpgradedToDriver(Envelope, tag="user.upgraded_to_driver", kw_only=True):
    defaults: ClassVar[dict[str, Any]] = {"previous_role": "RIDER", "new_role": "DRIVER"}

    user_id: Id
    previous_role: Text | None = None
    new_role: Text | None = None


class RouteCreated(Envelope, tag="route.created", kw_only=True):
    money: ClassVar[tuple[str, ...]] = ("base_price",)
    defaults: ClassVar[dict[str, Any]] = {"stops_count": 0, "active_days": []}

    route_id: Id
    driver_id: Id
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


class RouteActivated(Envelope, tag="route.activated", kw_only=True):
    route_id: Id
    driver_id: Id
    route_name: Text | None = None


class RouteCancelled(Envelope, tag="route.cancelled", kw_only=True):
    defaults: ClassVar[dict[str, Any]] = {"active_bookings_count": 0}

    route_id: Id
    driver_id: Id
    route_name: Text | None = None
    cancellation_reason: Text | None = None
    active_bookings_count: Count | None = None


class _BookingEvent(Envelope, kw_only=True):
    thing: ClassVar[str] = "booking_id"

    booking_id: Id
    rider_id: Id
    driver_id: Id
    route_id: Id


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
    pickup_stop_id: Id | None = None
    dropoff_stop_id: Id | None = None
    scheduled_departure: Time


class BookingConfirmed(_BookingEvent, tag="booking.confirmed", kw_only=True):
    money: ClassVar[tuple[str, ...]] = ("total_price",)
    has_currency: ClassVar[bool] = True

    seats_booked: Count
    total_price: Money
    currency: Currency | None = None
    payment_id: Id | None = None
    confirmation_code: Text | None = None


class BookingCancelled(_BookingEvent, tag="booking.cancelled", kw_only=True):
    defaults: ClassVar[dict[str, Any]] = {"refund_initiated": False}

    cancelled_by: Party
    cancellation_reason: Text | None = None
    refund_initiated: bool | None = None


class BookingCompleted(_BookingEvent, tag="booking.completed", kw_only=True):
    times: ClassVar[tuple[str, ...]] = ("actual_departure", "actual_arrival")
    money: ClassVar[tuple[str, ...]] = ("total_price",)
    has_currency: ClassVar[bool] = True

    trip_id: Id | None = None
    seats_booked: Count
    total_price: Money
    currency: Currency | None = None
    actual_departure: Time
    actual_arrival: Time
    duration_minutes: Number | None = None


class _PaymentAttempt(Envelope, kw_only=True):
    thing: ClassVar[str] = "payment_id"
    money: ClassVar[tuple[str, ...]] = ("amount",)
    has_currency: ClassVar[bool] = True

    payment_id: Id
    booking_id: Id
    rider_id: Id
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


class PaymentRefunded(Envelope, tag="payment.refunded", kw_only=True):
    thing: ClassVar[str] = "payment_id"
    money: ClassVar[tuple[str, ...]] = ("refund_amount", "original_amount")
    has_currency: ClassVar[bool] = True

    payment_id: Id
    booking_id: Id
    rider_id: Id
    refund_amount: Money
    original_amount: Money
    currency: Currency | None = None
    refund_reason: Text | None = None
    refunded_by: Id | None = None


class _TripEvent(Envelope, kw_only=True):
    thing: ClassVar[str] = "trip_id"

    trip_id: Id
    booking_id: Id
    driver_id: Id
    rider_id: Id
    route_id: Id


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
    defaults: ClassVar[dict[str, Any]] = {"was_started": False}

    cancelled_by: Party
    cancellation_reason: Text | None = None
    was_started: bool | None = None
    partial_distance_km: Number | None = None


class DriverLocationUpdated(Envelope, tag=LOCATION_EVENT, kw_only=True):
    is_location: ClassVar[bool] = True

    driver_id: Id
    trip_id: Id | None = None
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

TYPES: Final[dict[str, type[Envelope]]] = {
    str(event.__struct_config__.tag): event for event in get_args(AnyEvent)
}
for _type in TYPES.values():
    _type.type_name = str(_type.__struct_config__.tag)
    _type.id_names = tuple(field.name for field in fields(_type) if field.type in (Id, Id | None))
    _type.optional = frozenset(field.name for field in fields(_type) if not field.required)
    _type.other_ids = tuple(name for name in _type.id_names if name != "event_id")
