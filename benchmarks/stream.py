"""The made-up stream of the benchmarks: records as producers send them, four fifths of them locations.

Fast enough to feed a service from one core: ids are random numbers, records are filled-in templates. `record` returns
a topic and the bytes; times are those of the call, so that a record's age is its way into the store.
"""

from random import Random
from typing import Final

LOCATION_SHARE: Final = 0.8
DRIVERS: Final = 20_000
LOCATION_TOPIC: Final = "openride.events.location"

_LOCATION: Final = (
    '{"event_type":"driver.location.updated","event_id":"%s","event_timestamp":%d,"driver_id":"%s",'
    '"lat":%.6f,"lon":%.6f,"speed_kmh":43.5,"bearing":181.5,"accuracy_meters":8.0}'
)

_REGISTRATION: Final = (
    '{"event_type":"user.registered","event_timestamp":%d,"user_id":"%s","role":"RIDER","city":"%s"}'
)

_PRICE: Final = '"seats_booked":2,"total_price":"3000.00","currency":"NGN"'
_PAYMENT: Final = (
    '"amount":"3000.00","currency":"NGN","payment_method":"card","provider":"paystack",'
    '"provider_transaction_id":"T-8104-2231-77"'
)
_TIMES: Final = '"actual_departure":"2026-03-01T06:07:10Z","actual_arrival":"2026-03-01T06:45:00Z"'
_BOOKING_IDS: Final = "booking_id rider_id driver_id route_id"
_PAYMENT_IDS: Final = "payment_id booking_id rider_id"
_TRIP_IDS: Final = "trip_id booking_id driver_id rider_id route_id"

# By event type: its ids, and all else that producers send with it.
_BUSINESS: Final = {
    "user.registered": (
        "user_id",
        (
            '"role":"RIDER","city":"Ikeja","state":"Lagos","phone":"+2348000000000",'
            '"email":"somebody@example.com","full_name":"Some Body"'
        ),
    ),
    "user.kyc_verified": ("user_id verified_by", '"kyc_status":"VERIFIED"'),
    "user.upgraded_to_driver": ("user_id", '"previous_role":"RIDER","new_role":"DRIVER"'),
    "route.created": (
        "route_id driver_id",
        (
            '"route_name":"Lekki-VI","origin_city":"Lekki","origin_state":"Lagos","destination_city":"Victoria Island",'
            '"destination_state":"Lagos","stops_count":3,"seats_total":14,"base_price":"1500.00",'
            '"departure_time":"07:05","active_days":["MON","TUE","WED","THU","FRI"]'
        ),
    ),
    "route.activated": ("route_id driver_id", '"route_name":"Lekki-VI"'),
    "route.cancelled": (
        "route_id driver_id",
        '"route_name":"Lekki-VI","cancellation_reason":"vehicle sold","active_bookings_count":2',
    ),
    "booking.created": (
        f"{_BOOKING_IDS} pickup_stop_id dropoff_stop_id",
        (
            f'{_PRICE},"pickup_lat":6.601838,"pickup_lon":3.351486,"dropoff_lat":6.428055,"dropoff_lon":3.421944,'
            '"scheduled_departure":"2026-03-01T07:05:00+01:00"'
        ),
    ),
    "booking.confirmed": (f"{_BOOKING_IDS} payment_id", f'{_PRICE},"confirmation_code":"C-918273"'),
    "booking.cancelled": (
        _BOOKING_IDS,
        '"cancelled_by":"RIDER","cancellation_reason":"change of plans","refund_initiated":true',
    ),
    "booking.completed": (f"{_BOOKING_IDS} trip_id", f'{_PRICE},{_TIMES},"duration_minutes":38.5'),
    "payment.initiated": (_PAYMENT_IDS, _PAYMENT),
    "payment.success": (_PAYMENT_IDS, f'{_PAYMENT},"processing_time_ms":2310,"card_last4":"4081"'),
    "payment.failed": (
        _PAYMENT_IDS,
        f'{_PAYMENT},"error_code":"insufficient_funds","error_message":"Declined","processing_time_ms":810',
    ),
    "payment.refunded": (
        f"{_PAYMENT_IDS} refunded_by",
        '"refund_amount":"1000.00","original_amount":"3000.00","currency":"NGN","refund_reason":"late"',
    ),
    "trip.started": (
        _TRIP_IDS,
        (
            '"scheduled_departure":"2026-03-01T06:05:00Z","actual_departure":"2026-03-01T06:07:10Z",'
            '"start_lat":6.601838,"start_lon":3.351486,"passengers_count":2'
        ),
    ),
    "trip.completed": (
        _TRIP_IDS,
        (
            f'{_TIMES},"duration_minutes":38.5,"distance_km":17.9,"end_lat":6.428055,"end_lon":3.421944,'
            '"driver_earnings":"2400.00","platform_commission":"600.00","currency":"NGN","on_time":true'
        ),
    ),
    "trip.cancelled": (
        _TRIP_IDS,
        '"cancelled_by":"DRIVER","cancellation_reason":"breakdown","was_started":true,"partial_distance_km":3.1',
    ),
}


def _template(event_type: str, ids: str, rest: str) -> tuple[str, str, list[str]]:
    """The topic, the record with places for its id, time and other ids, and the names of those."""
    names = ids.split()
    places = ",".join(f'"{name}":"%s"' for name in names)
    head = f'{{"event_type":"{event_type}","event_id":"%s","event_timestamp":%d'
    return f"openride.events.{event_type.partition('.')[0]}", f"{head},{places},{rest}}}", names


_TEMPLATES: Final = [_template(event_type, *parts) for event_type, parts in _BUSINESS.items()]


class Stream:
    """Records of a platform, by a seed; the business events are of all types, each as often."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._drivers = [self.new_id() for _ in range(DRIVERS)]

    def new_id(self) -> str:
        """A random id in the text form of a UUID of version 4."""
        h = f"{self._random.getrandbits(128):032x}"
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:]}"

    def record(
        self, at_ms: int, event_id: str | None = None, *, location: bool | None = None
    ) -> tuple[str, bytes]:
        """One record of that moment: its topic and its bytes."""
        event_id = event_id or self.new_id()
        chance = self._random
        if location if location is not None else chance.random() < LOCATION_SHARE:
            lat, lon = 6.4 + chance.random() / 4, 3.2 + chance.random() / 4
            return LOCATION_TOPIC, (_LOCATION % (event_id, at_ms, self._driver(), lat, lon)).encode()
        topic, text, names = chance.choice(_TEMPLATES)
        ids = [self._driver() if name == "driver_id" else self.new_id() for name in names]
        return topic, (text % (event_id, at_ms, *ids)).encode()

    def registration(self, at_ms: int, city: str) -> tuple[str, bytes]:
        """A user who registers in a city at that moment."""
        return "openride.events.user", (_REGISTRATION % (at_ms, self.new_id(), city)).encode()

    def _driver(self) -> str:
        return self._random.choice(self._drivers)
