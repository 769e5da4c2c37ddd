"""The made-up stream of the benchmarks: records as producers send them, four fifths of them locations.

Fast enough to feed a service from one core: ids are random numbers, records are filled-in templates. `record` returns
a topic and the bytes; times are those of the call, so that a record's age is its way into the store.
"""

from collections.abc import Callable
from random import Random
from typing import Final

LOCATION_SHARE: Final = 0.8
LOCATION_TOPIC: Final = "openride.events.location"

_LOCATION: Final = (
    '{"event_type":"driver.location.updated","event_id":"%s","event_timestamp":%d,"driver_id":"%s","trip_id":"%s",'
    '"lat":%.6f,"lon":%.6f,"speed_kmh":%.1f,"bearing":%.1f,"accuracy_meters":8.0,"city":"Ikeja","state":"Lagos"}'
)
_BOOKED: Final = (
    '{"event_type":"%s","event_id":"%s","event_timestamp":%d,"booking_id":"%s","rider_id":"%s","driver_id":"%s",'
    '"route_id":"%s","seats_booked":2,"total_price":"3000.00","currency":"NGN","pickup_lat":6.601838,"pickup_lon":3.351486,'
    '"dropoff_lat":6.428055,"dropoff_lon":3.421944,"scheduled_departure":"2026-03-01T07:05:00+01:00"}'
)
_PAID: Final = (
    '{"event_type":"%s","event_id":"%s","event_timestamp":%d,"payment_id":"%s","booking_id":"%s","rider_id":"%s",'
    '"amount":"3000.00","currency":"NGN","payment_method":"card","provider":"paystack",'
    '"provider_transaction_id":"T-8104-2231-77","processing_time_ms":2310,"error_code":"NONE"}'
)
_DRIVEN: Final = (
    '{"event_type":"%s","event_id":"%s","event_timestamp":%d,"trip_id":"%s","booking_id":"%s","driver_id":"%s",'
    '"rider_id":"%s","route_id":"%s","scheduled_departure":"2026-03-01T06:05:00Z","actual_departure":"2026-03-01T06:07:10Z",'
    '"actual_arrival":"2026-03-01T06:45:00Z","start_lat":6.6,"start_lon":3.35,"passengers_count":2,"duration_minutes":38.5,'
    '"distance_km":17.9,"driver_earnings":"2400.00","platform_commission":"600.00","currency":"NGN"}'
)
_REGISTERED: Final = (
    '{"event_type":"user.registered","event_id":"%s","event_timestamp":%d,"user_id":"%s","role":"RIDER","city":"Ikeja",'
    '"state":"Lagos","phone":"+2348000000000","email":"somebody@example.com","full_name":"Some Body"}'
)


class Stream:
    """Records of a platform with 20,000 drivers, by a seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._drivers = [self.new_id() for _ in range(20_000)]
        self._business: list[Callable[[int, str], tuple[str, str]]] = [
            self._booked,
            self._paid,
            self._driven,
            self._booked,
            self._paid,
            self._driven,
            self._registered,
        ]

    def new_id(self) -> str:
        """A random id in the text form of a UUID of version 4."""
        h = f"{self._random.getrandbits(128):032x}"
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:]}"

    def record(
        self, at_ms: int, event_id: str | None = None, *, location: bool | None = None
    ) -> tuple[str, bytes]:
        """One record of that moment: its topic and its bytes."""
        event_id = event_id or self.new_id()
        if location if location is not None else self._random.random() < LOCATION_SHARE:
            driver_id = self._random.choice(self._drivers)
            lat, lon = 6.4 + self._random.random() / 4, 3.2 + self._random.random() / 4
            text = _LOCATION % (event_id, at_ms, driver_id, self.new_id(), lat, lon, 43.5, 181.5)
            return LOCATION_TOPIC, text.encode()
        topic, text = self._random.choice(self._business)(at_ms, event_id)
        return topic, text.encode()

    def _booked(self, at_ms: int, event_id: str) -> tuple[str, str]:
        event_type = self._random.choice(("booking.created", "booking.confirmed"))
        ids = (self.new_id(), self.new_id(), self._random.choice(self._drivers), self.new_id())
        return "openride.events.booking", _BOOKED % (event_type, event_id, at_ms, *ids)

    def _paid(self, at_ms: int, event_id: str) -> tuple[str, str]:
        event_type = self._random.choice(("payment.initiated", "payment.success", "payment.failed"))
        ids = (self.new_id(), self.new_id(), self.new_id())
        return "openride.events.payment", _PAID % (event_type, event_id, at_ms, *ids)

    def _driven(self, at_ms: int, event_id: str) -> tuple[str, str]:
        event_type = self._random.choice(("trip.started", "trip.completed"))
        ids = (self.new_id(), self.new_id(), self._random.choice(self._drivers), self.new_id(), self.new_id())
        return "openride.events.trip", _DRIVEN % (event_type, event_id, at_ms, *ids)

    def _registered(self, at_ms: int, event_id: str) -> tuple[str, str]:
        return "openride.events.user", _REGISTERED % (event_id, at_ms, self.new_id())
