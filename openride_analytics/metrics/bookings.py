"""Bookings: how many, how they went, what they are worth. `GET /v1/metrics/bookings`."""

from datetime import datetime
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from openride_analytics.metrics.filters import bookings_kept
from openride_analytics.metrics.measure import measure
from openride_analytics.metrics.question import (
    BREAKDOWNS,
    PREVIOUS,
    SERIES,
    SUMMARY,
    AnswerHead,
    BucketStart,
    Money,
    NoBreakdowns,
    Partial,
    PreviousHead,
    Question,
    answer_by_bucket,
    mean_money,
    money,
    rate,
    statement,
)
from openride_analytics.warehouse import Row, Warehouse

FILTERS: Final = frozenset({"city", "state", "currency", "route_id", "driver_id"})


class CancelledBy(Struct, kw_only=True):
    """Bookings cancelled, by who did it first; cancellations whose author is unknown are in none."""

    RIDER: Annotated[
        int, Meta(description="Cancelled by the rider.", examples=[61], extra=measure("bookings"))
    ]
    DRIVER: Annotated[
        int, Meta(description="Cancelled by the driver.", examples=[24], extra=measure("bookings"))
    ]
    SYSTEM: Annotated[
        int, Meta(description="Cancelled by the platform.", examples=[5], extra=measure("bookings"))
    ]


class BookingMetrics(Struct, kw_only=True):
    """Of a period or a bucket of it."""

    created: Annotated[
        int,
        Meta(
            description="Distinct bookings with a `booking.created`.",
            examples=[1200],
            extra=measure("bookings"),
        ),
    ]
    confirmed: Annotated[
        int,
        Meta(
            description="Distinct bookings with a `booking.confirmed`.",
            examples=[878],
            extra=measure("bookings"),
        ),
    ]
    cancelled: Annotated[
        int,
        Meta(
            description="Distinct bookings with a `booking.cancelled`.",
            examples=[90],
            extra=measure("bookings"),
        ),
    ]
    completed: Annotated[
        int,
        Meta(
            description="Distinct bookings with a `booking.completed`.",
            examples=[801],
            extra=measure("bookings"),
        ),
    ]
    conversion_rate: Annotated[
        float | None,
        Meta(
            description="Of the bookings created, the share confirmed since.",
            examples=[0.7317],
            extra=measure("ratio", "those of them confirmed since", "bookings created", basis="cohort"),
        ),
    ]
    cancellation_rate: Annotated[
        float | None,
        Meta(
            description="Of the bookings created, the share cancelled since.",
            examples=[0.075],
            extra=measure("ratio", "those of them cancelled since", "bookings created", basis="cohort"),
        ),
    ]
    completion_rate: Annotated[
        float | None,
        Meta(
            description="Of the bookings created, the share completed since.",
            examples=[0.6675],
            extra=measure("ratio", "those of them completed since", "bookings created", basis="cohort"),
        ),
    ]
    gross_booking_value: Annotated[
        Money,
        Meta(
            description="Sum of `total_price` of the bookings confirmed.",
            examples=[{"NGN": "3512000.00"}],
            extra=measure("money by currency"),
        ),
    ]
    average_booking_value: Annotated[
        Money,
        Meta(
            description="`gross_booking_value` ÷ bookings confirmed, by currency.",
            examples=[{"NGN": "4000.00"}],
            extra=measure("money by currency", "gross_booking_value", "bookings confirmed, by currency"),
        ),
    ]
    booking_frequency: Annotated[
        float | None,
        Meta(
            description="Bookings created ÷ distinct riders ÷ (length in days ÷ 30).",
            examples=[3.4],
            extra=measure(
                "bookings per rider and 30 days", "bookings created", "distinct riders × length in days ÷ 30"
            ),
        ),
    ]
    unique_riders: Annotated[
        int,
        Meta(description="Distinct riders who created a booking.", examples=[353], extra=measure("users")),
    ]
    seats_booked: Annotated[
        int, Meta(description="Seats of the bookings confirmed.", examples=[1104], extra=measure("seats"))
    ]
    cancelled_by: Annotated[CancelledBy, Meta(description="Bookings cancelled, by who did it.")]
    median_minutes_to_confirm: Annotated[
        float | None,
        Meta(
            description="Of the bookings created and since confirmed: median minutes in between.",
            examples=[3.2],
            extra=measure("minutes", basis="cohort"),
        ),
    ]


class BookingBucket(BookingMetrics, kw_only=True):
    """One bucket of the series."""

    start: BucketStart
    partial: Partial


class PreviousBookings(PreviousHead, kw_only=True):
    """The period before."""

    summary: Annotated[BookingMetrics, SUMMARY]


class BookingsAnswer(AnswerHead, kw_only=True):
    """What `GET /v1/metrics/bookings` answers."""

    summary: Annotated[BookingMetrics, SUMMARY]
    previous: Annotated[PreviousBookings | None, PREVIOUS]
    series: Annotated[list[BookingBucket], SERIES]
    breakdowns: Annotated[NoBreakdowns, BREAKDOWNS]


# created, confirmed, cancelled, completed: distinct bookings with that event in the span. Cohort rates follow the
# bookings created in the span: of these, the share that has the event by now. Value, seats and canceller of a booking are
# those of its first such event in the span.
_SQL: Final = """
-- bookings.buckets
WITH
    in_period AS
    (
        SELECT
            {bucket} AS bucket,
            event_type,
            event_timestamp,
            event_id,
            booking_id,
            rider_id,
            seats_booked,
            total_price,
            currency,
            cancelled_by
        FROM events FINAL
        WHERE event_type IN ('booking.created', 'booking.confirmed', 'booking.cancelled', 'booking.completed')
          AND {in_period}
          AND {kept}
    ),
    fates AS
    (
        SELECT
            booking_id,
            max(event_type = 'booking.confirmed') AS confirmed_since,
            max(event_type = 'booking.cancelled') AS cancelled_since,
            max(event_type = 'booking.completed') AS completed_since,
            minIf(toUnixTimestamp64Milli(event_timestamp), event_type = 'booking.confirmed') AS confirmed_ms
        FROM events FINAL
        WHERE event_type IN ('booking.confirmed', 'booking.cancelled', 'booking.completed')
          AND booking_id IN (SELECT booking_id FROM events FINAL WHERE event_type = 'booking.created' AND {in_period})
        GROUP BY booking_id
    ),
    bookings AS
    (
        SELECT
            bucket,
            booking_id,
            max(event_type = 'booking.created') AS is_created,
            max(event_type = 'booking.confirmed') AS is_confirmed,
            max(event_type = 'booking.cancelled') AS is_cancelled,
            max(event_type = 'booking.completed') AS is_completed,
            minIf(toUnixTimestamp64Milli(event_timestamp), event_type = 'booking.created') AS created_ms,
            argMinIf(
                assumeNotNull(total_price), {first}, event_type = 'booking.confirmed' AND total_price IS NOT NULL
            ) AS price,
            argMinIf(
                currency, {first}, event_type = 'booking.confirmed' AND total_price IS NOT NULL
            ) AS price_currency,
            max(event_type = 'booking.confirmed' AND total_price IS NOT NULL) AS has_price,
            argMinIf(seats_booked, {first}, event_type = 'booking.confirmed') AS seats,
            argMinIf(
                cancelled_by, {first}, event_type = 'booking.cancelled' AND cancelled_by != ''
            ) AS canceller
        FROM in_period
        GROUP BY bucket, booking_id
    ),
    riders AS
    (
        SELECT bucket, uniqExact(rider_id) AS unique_riders
        FROM in_period
        WHERE event_type = 'booking.created'
        GROUP BY bucket
    )
SELECT
    bucket,
    countIf(is_created) AS created,
    countIf(is_confirmed) AS confirmed,
    countIf(is_cancelled) AS cancelled,
    countIf(is_completed) AS completed,
    countIf(is_created AND confirmed_since) AS created_confirmed,
    countIf(is_created AND cancelled_since) AS created_cancelled,
    countIf(is_created AND completed_since) AS created_completed,
    CAST(sumMapIf(map(price_currency, price), has_price), 'Map(String, String)') AS value,
    CAST(sumMapIf(map(price_currency, toUInt64(1)), has_price), 'Map(String, UInt64)') AS priced,
    toUInt64(ifNull(any(riders.unique_riders), 0)) AS unique_riders,
    toUInt64(ifNull(sumIf(seats, is_confirmed), 0)) AS seats_booked,
    countIf(canceller = 'RIDER') AS by_rider,
    countIf(canceller = 'DRIVER') AS by_driver,
    countIf(canceller = 'SYSTEM') AS by_system,
    if(
        created_confirmed = 0,
        NULL,
        quantileExactInclusiveIf(0.5)(ifNull(confirmed_ms, 0) - created_ms, is_created AND ifNull(confirmed_since, false))
    ) AS median_ms_to_confirm
FROM bookings
LEFT JOIN fates USING (booking_id)
LEFT JOIN riders USING (bucket)
GROUP BY bucket
"""


async def ask(warehouse: Warehouse, question: Question) -> BookingsAnswer:
    """Answers for a period; raises what `Warehouse.query` raises."""
    return await answer_by_bucket(
        warehouse,
        question,
        statement(_SQL, kept=bookings_kept(question.filters)),
        _shape,
        answer=BookingsAnswer,
        summary=BookingMetrics,
        previous=PreviousBookings,
        item=BookingBucket,
        breakdowns=NoBreakdowns(),
    )


def _shape(question: Question, row: Row, start: datetime, end: datetime) -> dict[str, Any]:
    created, riders = row.get("created", 0), row.get("unique_riders", 0)
    per_rider = rate(created, riders)
    median_ms = row.get("median_ms_to_confirm")
    return {
        "created": created,
        "confirmed": row.get("confirmed", 0),
        "cancelled": row.get("cancelled", 0),
        "completed": row.get("completed", 0),
        "conversion_rate": rate(row.get("created_confirmed"), created),
        "cancellation_rate": rate(row.get("created_cancelled"), created),
        "completion_rate": rate(row.get("created_completed"), created),
        "gross_booking_value": money(row.get("value")),
        "average_booking_value": mean_money(row.get("value"), row.get("priced")),
        "booking_frequency": per_rider and per_rider / (question.period.length_days(start, end) / 30),
        "unique_riders": riders,
        "seats_booked": row.get("seats_booked", 0),
        "cancelled_by": CancelledBy(
            RIDER=row.get("by_rider", 0), DRIVER=row.get("by_driver", 0), SYSTEM=row.get("by_system", 0)
        ),
        "median_minutes_to_confirm": None if median_ms is None else median_ms / 60_000,
    }
