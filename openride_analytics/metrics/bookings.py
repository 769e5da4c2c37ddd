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
from openride_analytics.warehouse.facts import repeated

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
    bookings AS
    (
        SELECT
            {own_bucket} AS span,
            true AS adds_up,
            event_type = 'booking.created' AS is_created,
            event_type = 'booking.confirmed' AS is_confirmed,
            event_type = 'booking.cancelled' AS is_cancelled,
            event_type = 'booking.completed' AS is_completed,
            is_created AND facts.confirmed_ms IS NOT NULL AS is_created_confirmed,
            is_created AND facts.is_cancelled AS is_created_cancelled,
            is_created AND facts.is_completed AS is_created_completed,
            ifNull(facts.confirmed_ms, 0) - toUnixTimestamp64Milli(event_timestamp) AS ms_to_confirm,
            is_confirmed AND total_price IS NOT NULL AS has_price,
            if(has_price, total_price, NULL) AS price,
            if(has_price, currency, '') AS price_currency,
            if(is_confirmed, seats_booked, NULL) AS seats,
            if(is_cancelled, cancelled_by, '') AS canceller
        FROM facts FINAL
        WHERE event_type IN ('booking.created', 'booking.confirmed', 'booking.cancelled', 'booking.completed')
          AND {in_period}
          AND {kept}
          AND is_alone

        UNION ALL

        SELECT
            {bucket} AS span,
            false AS adds_up,
            max(event_type = 'booking.created') AS is_created,
            max(event_type = 'booking.confirmed') AS is_confirmed,
            max(event_type = 'booking.cancelled') AS is_cancelled,
            max(event_type = 'booking.completed') AS is_completed,
            is_created AND any(repeated.confirmed_ms) IS NOT NULL AS is_created_confirmed,
            is_created AND any(repeated.is_cancelled) AS is_created_cancelled,
            is_created AND any(repeated.is_completed) AS is_created_completed,
            ifNull(any(repeated.confirmed_ms), 0)
                - minIf(toUnixTimestamp64Milli(event_timestamp), event_type = 'booking.created') AS ms_to_confirm,
            max(event_type = 'booking.confirmed' AND total_price IS NOT NULL) AS has_price,
            argMinIf(total_price, {first}, event_type = 'booking.confirmed') AS price,
            argMinIf(
                currency, {first}, event_type = 'booking.confirmed' AND total_price IS NOT NULL
            ) AS price_currency,
            argMinIf(seats_booked, {first}, event_type = 'booking.confirmed') AS seats,
            argMinIf(
                cancelled_by, {first}, event_type = 'booking.cancelled' AND cancelled_by != ''
            ) AS canceller
        FROM {repeated} AS repeated
        WHERE event_type IN ('booking.created', 'booking.confirmed', 'booking.cancelled', 'booking.completed')
          AND {in_period}
          AND {kept}
        GROUP BY span, thing_id
    ),
    counts AS
    (
        SELECT
            span,
            adds_up,
            price_currency,
            countIf(is_created) AS created,
            countIf(is_confirmed) AS confirmed,
            countIf(is_cancelled) AS cancelled,
            countIf(is_completed) AS completed,
            countIf(is_created_confirmed) AS created_confirmed,
            countIf(is_created_cancelled) AS created_cancelled,
            countIf(is_created_completed) AS created_completed,
            countIf(has_price) AS priced,
            sum(price) AS value,
            sum(seats) AS seats_booked,
            countIf(canceller = 'RIDER') AS by_rider,
            countIf(canceller = 'DRIVER') AS by_driver,
            countIf(canceller = 'SYSTEM') AS by_system,
            quantileExactInclusiveStateIf(0.5)(ms_to_confirm, is_created_confirmed) AS waits
        FROM bookings
        GROUP BY span, adds_up, price_currency
    ),
    riders AS
    (
        SELECT span, uniqExactMerge(riders) AS unique_riders
        FROM
        (
            SELECT {own_bucket} AS bucket, uniqExactState(rider_id) AS riders
            FROM facts FINAL
            WHERE event_type = 'booking.created' AND {in_period} AND {kept}
            GROUP BY bucket
        )
        ARRAY JOIN arrayDistinct([bucket, -1]) AS span
        GROUP BY span
    )
SELECT
    bucket,
    sum(created) AS created,
    sum(confirmed) AS confirmed,
    sum(cancelled) AS cancelled,
    sum(completed) AS completed,
    sum(created_confirmed) AS created_confirmed,
    sum(created_cancelled) AS created_cancelled,
    sum(created_completed) AS created_completed,
    CAST(sumMapIf(map(price_currency, assumeNotNull(counts.value)), counts.priced > 0), 'Map(String, String)') AS value,
    CAST(sumMapIf(map(price_currency, counts.priced), counts.priced > 0), 'Map(String, UInt64)') AS priced,
    toUInt64(ifNull(any(riders.unique_riders), 0)) AS unique_riders,
    toUInt64(ifNull(sum(seats_booked), 0)) AS seats_booked,
    sum(by_rider) AS by_rider,
    sum(by_driver) AS by_driver,
    sum(by_system) AS by_system,
    if(created_confirmed = 0, NULL, quantileExactInclusiveMerge(0.5)(waits)) AS median_ms_to_confirm
FROM counts
ARRAY JOIN {spans} AS bucket
LEFT JOIN riders ON riders.span = bucket
GROUP BY bucket
"""


async def ask(warehouse: Warehouse, question: Question) -> BookingsAnswer:
    """Answers for a period; raises what `Warehouse.query` raises."""
    return await answer_by_bucket(
        warehouse,
        question,
        statement(_SQL, kept=bookings_kept(question.filters), repeated=repeated()),
        _shape,
        answer=BookingsAnswer,
        summary=BookingMetrics,
        previous=PreviousBookings,
        item=BookingBucket,
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
