"""One event of each type, as the contract describes them: every field, and which of them are required."""

from typing import Any
from uuid import UUID

Sample = dict[str, Any]

_IDS = {
    name: str(UUID(int=0xA0000000_0000_4000_8000_000000000000 + number))
    for number, name in enumerate(
        (
            *("event_id", "user_id", "verified_by", "route_id", "driver_id", "booking_id", "rider_id"),
            *("pickup_stop_id", "dropoff_stop_id", "payment_id", "trip_id", "refunded_by"),
        )
    )
}


def _sample(event_type: str, ids: str, **fields: Any) -> Sample:
    named = {name: _IDS[name] for name in ids.split()}
    return {"event_type": event_type, "event_timestamp": "2026-03-01T07:05:00Z", **named, **fields}


_ATTEMPT: Sample = {
    "amount": "3000.00",
    "currency": "NGN",
    "payment_method": "card",
    "provider": "paystack",
    "provider_transaction_id": "T-81",
}
_TRIP = "event_id trip_id booking_id driver_id rider_id route_id"
_BOOKING = "event_id booking_id rider_id driver_id route_id"

FULL: dict[str, Sample] = {
    sample["event_type"]: sample
    for sample in (
        _sample(
            "user.registered",
            "event_id user_id",
            role="DRIVER",
            city="Ikeja",
            state="Lagos",
            referral_code="AB12",
        ),
        _sample("user.kyc_verified", "event_id user_id verified_by", kyc_status="REJECTED"),
        _sample("user.upgraded_to_driver", "event_id user_id", previous_role="RIDER", new_role="DRIVER"),
        _sample(
            "route.created",
            "event_id route_id driver_id",
            route_name="Lekki-VI",
            origin_city="Lekki",
            origin_state="Lagos",
            destination_city="Victoria Island",
            destination_state="Lagos",
            stops_count=3,
            seats_total=14,
            base_price="1500.00",
            departure_time="07:05:30",
            active_days=["MON", "SUN"],
        ),
        _sample("route.activated", "event_id route_id driver_id", route_name="Lekki-VI"),
        _sample(
            "route.cancelled",
            "event_id route_id driver_id",
            route_name="Lekki-VI",
            cancellation_reason="vehicle sold",
            active_bookings_count=2,
        ),
        _sample(
            "booking.created",
            f"{_BOOKING} pickup_stop_id dropoff_stop_id",
            seats_booked=2,
            total_price="3000.00",
            currency="NGN",
            pickup_lat=6.44,
            pickup_lon=3.47,
            dropoff_lat=6.43,
            dropoff_lon=3.42,
            scheduled_departure="2026-03-02T06:00:00+01:00",
        ),
        _sample(
            "booking.confirmed",
            f"{_BOOKING} payment_id",
            seats_booked=2,
            total_price="3000.00",
            currency="NGN",
            confirmation_code="C-9",
        ),
        _sample(
            "booking.cancelled",
            _BOOKING,
            cancelled_by="RIDER",
            cancellation_reason="ill",
            refund_initiated=True,
        ),
        _sample(
            "booking.completed",
            f"{_BOOKING} trip_id",
            seats_booked=2,
            total_price="3000.00",
            currency="NGN",
            actual_departure="2026-03-01T06:00:00Z",
            actual_arrival="2026-03-01T06:45:00Z",
            duration_minutes=45.5,
        ),
        _sample("payment.initiated", "event_id payment_id booking_id rider_id", **_ATTEMPT),
        _sample(
            "payment.success", "event_id payment_id booking_id rider_id", **_ATTEMPT, processing_time_ms=740
        ),
        _sample(
            "payment.failed",
            "event_id payment_id booking_id rider_id",
            **_ATTEMPT,
            error_code="insufficient_funds",
            error_message="Declined",
            processing_time_ms=810,
        ),
        _sample(
            "payment.refunded",
            "event_id payment_id booking_id rider_id refunded_by",
            refund_amount="1000.00",
            original_amount="3000.00",
            currency="NGN",
            refund_reason="late",
        ),
        _sample(
            "trip.started",
            _TRIP,
            scheduled_departure="2026-03-01T06:00:00Z",
            actual_departure="2026-03-01T06:04:00Z",
            start_lat=6.44,
            start_lon=3.47,
            passengers_count=3,
        ),
        _sample(
            "trip.completed",
            _TRIP,
            actual_departure="2026-03-01T06:04:00Z",
            actual_arrival="2026-03-01T06:49:00Z",
            duration_minutes=45,
            distance_km=12.4,
            end_lat=6.43,
            end_lon=3.42,
            driver_earnings="2550.00",
            platform_commission="450.00",
            currency="NGN",
            on_time=True,
        ),
        _sample(
            "trip.cancelled",
            _TRIP,
            cancelled_by="DRIVER",
            cancellation_reason="breakdown",
            was_started=True,
            partial_distance_km=3.1,
        ),
        _sample(
            "driver.location.updated",
            "event_id driver_id trip_id",
            lat=6.44,
            lon=3.47,
            speed_kmh=42.5,
            bearing=359.5,
            accuracy_meters=5,
            city="Lekki",
            state="Lagos",
        ),
    )
}

_ATTEMPTED = "payment_id booking_id rider_id amount payment_method provider"
_BOOKED = "booking_id rider_id driver_id route_id"
_TRAVELLED = "trip_id booking_id driver_id rider_id route_id"

REQUIRED: dict[str, tuple[str, ...]] = {
    event_type: ("event_type", "event_timestamp", *fields.split())
    for event_type, fields in {
        "user.registered": "user_id role",
        "user.kyc_verified": "user_id",
        "user.upgraded_to_driver": "user_id",
        "route.created": "route_id driver_id route_name origin_city origin_state destination_city destination_state"
        " seats_total base_price",
        "route.activated": "route_id driver_id",
        "route.cancelled": "route_id driver_id",
        "booking.created": f"{_BOOKED} seats_booked total_price scheduled_departure",
        "booking.confirmed": f"{_BOOKED} seats_booked total_price",
        "booking.cancelled": f"{_BOOKED} cancelled_by",
        "booking.completed": f"{_BOOKED} seats_booked total_price actual_departure actual_arrival",
        "payment.initiated": _ATTEMPTED,
        "payment.success": _ATTEMPTED,
        "payment.failed": f"{_ATTEMPTED} error_code",
        "payment.refunded": "payment_id booking_id rider_id refund_amount original_amount",
        "trip.started": f"{_TRAVELLED} scheduled_departure actual_departure start_lat start_lon passengers_count",
        "trip.completed": f"{_TRAVELLED} actual_departure actual_arrival duration_minutes distance_km driver_earnings"
        " platform_commission",
        "trip.cancelled": f"{_TRAVELLED} cancelled_by",
        "driver.location.updated": "driver_id lat lon",
    }.items()
}


def full(event_type: str, /, **changes: Any) -> Sample:
    """An event with every field, some of them changed."""
    return {**FULL[event_type], **changes}


def minimal(event_type: str, /, **changes: Any) -> Sample:
    """An event with its required fields only, and these."""
    return {**{name: FULL[event_type][name] for name in REQUIRED[event_type]}, **changes}
