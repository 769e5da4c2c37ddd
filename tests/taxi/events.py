"""The real taxi trips of `tests/data` as the platform's events.

Only the input is made here. What the service has to answer once it holds these events is worked out in
`truth`, from the same CSV by other code; neither module may import the other.
"""

import csv
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

TRIPS_CSV: Final = Path(__file__).parent.parent / "data" / "nyc_taxi_trips_2019-03.csv"
NEW_YORK: Final = ZoneInfo("America/New_York")
NAMESPACE: Final = UUID(int=0)
KM_PER_MILE: Final = Decimal("1.609344")
ROUTES_CREATED: Final = datetime(2019, 2, 28, tzinfo=NEW_YORK).astimezone(UTC)
LAT: Final = 40.75
LON: Final = -73.98


def events() -> list[dict[str, Any]]:
    """Every trip as events of the contract, ready for JSON: all routes first, then trip by trip.

    **Ids** are version 5 UUIDs, in the all-zero namespace, of a short text. Row `i` (from 0) is `booking:i`,
    `payment:i` and `trip:i`, and its rider is `rider:` and `i` modulo 1500. A route is a pair of zones,
    `route:PICKUP>DROPOFF`, where a zone that is not known reads `Unknown`; its driver is `driver:` and the
    CRC-32 of that route text modulo 200. There are no event ids: the service derives them.

    **Times** in the file are New York's. They are turned into instants before anything is added or
    subtracted, so a quarter of an hour is always 15 minutes, also where the clocks jump.

    **A route** is created at local midnight of 28 February 2019 and activated a minute later. Zones are its
    cities, boroughs its states (`Unknown` again where missing); it has 6 seats, and its base price is 0.

    **A trip** with its pickup at P and its dropoff at D:

    - P - 15 min `booking.created`: as many seats as passengers, but at least one; the price is the row's
      total; the scheduled departure is P, rounded down to five minutes;
    - P - 14 min `payment.initiated`, and 2.5 s later `payment.success` (which says it took 2500 ms), of the
      total; the method is the row's (`unknown` if it has none), and the provider is the taxi's colour;
    - P - 13 min `booking.confirmed`;
    - P `trip.started`, with the booked seats as its passengers;
    - D `trip.completed` and `booking.completed`: minutes from P to D (never negative), miles as kilometres;
      fare and tip are the driver's, and the rest of the total (never negative) is the platform's.

    Money is decimal text in USD. An id that one of these events has is also given in the others that have a
    field for it. Other optional fields are left out. Coordinates are one point in Manhattan, except `end_lat`
    and `end_lon`, which nobody has to send.
    """
    with TRIPS_CSV.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    pairs = {(row["pickup_zone"], row["dropoff_zone"]): row for row in rows}
    made = [event for row in pairs.values() for event in _route_events(row)]
    for i, row in enumerate(rows):
        made.extend(_trip_events(i, row))
    return made


def _route_events(row: dict[str, str]) -> Iterator[dict[str, Any]]:
    origin, destination = _zones(row)
    route = {**_route_and_driver(row), "route_name": f"{origin} > {destination}"}
    yield {
        "event_type": "route.created",
        "event_timestamp": _text(ROUTES_CREATED),
        **route,
        "origin_city": origin,
        "origin_state": row["pickup_borough"] or "Unknown",
        "destination_city": destination,
        "destination_state": row["dropoff_borough"] or "Unknown",
        "seats_total": 6,
        "base_price": "0",
    }
    yield {
        "event_type": "route.activated",
        "event_timestamp": _text(ROUTES_CREATED + timedelta(minutes=1)),
        **route,
    }


def _trip_events(i: int, row: dict[str, str]) -> Iterator[dict[str, Any]]:
    pickup, dropoff = _instant(row["pickup"]), _instant(row["dropoff"])
    paying = pickup - timedelta(minutes=14)
    total, earned = Decimal(row["total"]), Decimal(row["fare"]) + Decimal(row["tip"])
    seats = max(1, int(row["passengers"]))

    booking_id, payment_id, trip_id = _id(f"booking:{i}"), _id(f"payment:{i}"), _id(f"trip:{i}")
    rider_id = _id(f"rider:{i % 1500}")
    booking = {"booking_id": booking_id, "rider_id": rider_id, **_route_and_driver(row)}
    price = {"seats_booked": seats, "total_price": str(total), "currency": "USD"}
    payment = {
        "payment_id": payment_id,
        "booking_id": booking_id,
        "rider_id": rider_id,
        "amount": str(total),
        "currency": "USD",
        "payment_method": row["payment"] or "unknown",
        "provider": row["color"],
    }
    scheduled = {
        "scheduled_departure": _text(pickup.replace(minute=pickup.minute - pickup.minute % 5, second=0))
    }
    ride = {
        "actual_departure": _text(pickup),
        "actual_arrival": _text(dropoff),
        "duration_minutes": max(0.0, (dropoff - pickup) / timedelta(minutes=1)),
    }

    def at(instant: datetime, event_type: str, *fields: dict[str, Any]) -> dict[str, Any]:
        event: dict[str, Any] = {"event_type": event_type, "event_timestamp": _text(instant)}
        for some in fields:
            event |= some
        return event

    yield at(
        pickup - timedelta(minutes=15),
        "booking.created",
        booking,
        price,
        scheduled,
        {"pickup_lat": LAT, "pickup_lon": LON, "dropoff_lat": LAT, "dropoff_lon": LON},
    )
    yield at(paying, "payment.initiated", payment)
    yield at(paying + timedelta(seconds=2.5), "payment.success", payment, {"processing_time_ms": 2500})
    yield at(pickup - timedelta(minutes=13), "booking.confirmed", booking, price, {"payment_id": payment_id})
    yield at(
        pickup,
        "trip.started",
        {"trip_id": trip_id},
        booking,
        scheduled,
        {
            "actual_departure": _text(pickup),
            "start_lat": LAT,
            "start_lon": LON,
            "passengers_count": seats,
        },
    )
    yield at(
        dropoff,
        "trip.completed",
        {"trip_id": trip_id},
        booking,
        ride,
        {
            "distance_km": float(Decimal(row["distance"]) * KM_PER_MILE),
            "driver_earnings": str(earned),
            "platform_commission": str(max(Decimal(0), total - earned)),
            "currency": "USD",
        },
    )
    yield at(dropoff, "booking.completed", {"trip_id": trip_id}, booking, price, ride)


def _zones(row: dict[str, str]) -> tuple[str, str]:
    return row["pickup_zone"] or "Unknown", row["dropoff_zone"] or "Unknown"


def _route_and_driver(row: dict[str, str]) -> dict[str, str]:
    origin, destination = _zones(row)
    route = f"route:{origin}>{destination}"
    return {"route_id": _id(route), "driver_id": _id(f"driver:{zlib.crc32(route.encode()) % 200}")}


@cache
def _id(text: str) -> str:
    return str(uuid5(NAMESPACE, text))


def _instant(local: str) -> datetime:
    return datetime.fromisoformat(local).replace(tzinfo=NEW_YORK).astimezone(UTC)


def _text(instant: datetime) -> str:
    """RFC 3339 in UTC, to the millisecond where there is a fraction of a second."""
    precision = "milliseconds" if instant.microsecond else "seconds"
    return instant.isoformat(timespec=precision).replace("+00:00", "Z")
