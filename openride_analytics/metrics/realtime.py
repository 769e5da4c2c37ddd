"""Realtime: what is going on just now. `GET /v1/metrics/realtime`."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final

from msgspec import Meta, Struct, field

from openride_analytics.metrics.measure import measure
from openride_analytics.metrics.question import (
    AnswerHead,
    Bucket,
    Money,
    NoBreakdowns,
    data_through,
    money,
    period_answer,
    statement,
)
from openride_analytics.period import Period, milliseconds
from openride_analytics.warehouse import Warehouse


class RealtimeMetrics(Struct, kw_only=True):
    """Over the trailing window, unless said otherwise."""

    bookings_created: Annotated[
        int, Meta(description="Distinct bookings created.", examples=[42], extra=measure("bookings"))
    ]
    bookings_confirmed: Annotated[
        int, Meta(description="Distinct bookings confirmed.", examples=[37], extra=measure("bookings"))
    ]
    bookings_cancelled: Annotated[
        int, Meta(description="Distinct bookings cancelled.", examples=[4], extra=measure("bookings"))
    ]
    payments_succeeded: Annotated[
        int, Meta(description="Distinct payments that succeeded.", examples=[38], extra=measure("payments"))
    ]
    payments_failed: Annotated[
        int, Meta(description="Distinct payments that failed.", examples=[3], extra=measure("payments"))
    ]
    revenue: Annotated[
        Money,
        Meta(
            description="Sum of `amount` of the payments that succeeded.",
            examples=[{"NGN": "151000.00"}],
            extra=measure("money by currency"),
        ),
    ]
    trips_started: Annotated[
        int, Meta(description="Distinct trips started.", examples=[29], extra=measure("trips"))
    ]
    trips_completed: Annotated[
        int, Meta(description="Distinct trips completed.", examples=[31], extra=measure("trips"))
    ]
    active_riders: Annotated[
        int, Meta(description="Distinct riders who acted.", examples=[77], extra=measure("users"))
    ]
    active_trips: Annotated[
        int,
        Meta(
            description="Trips started in the last 24 hours, not yet completed or cancelled.",
            examples=[18],
            extra=measure("trips"),
        ),
    ]
    active_drivers: Annotated[
        int,
        Meta(
            description="Distinct drivers with a location or a trip event in the last 15 minutes.",
            examples=[25],
            extra=measure("users"),
        ),
    ]
    events_per_second: Annotated[
        float,
        Meta(
            description="Events stored in the last 60 seconds ÷ 60.",
            examples=[51.3],
            extra=measure("events per second", "events stored in the last 60 seconds", "60 seconds"),
        ),
    ]
    ingest_lag_seconds: Annotated[
        float | None,
        Meta(
            description="95th percentile, over the events stored in the last 5 minutes, of the time from arrival to "
            "being stored; null if there were none.",
            examples=[0.62],
            extra=measure("seconds"),
        ),
    ]


class RealtimeAnswer(AnswerHead, kw_only=True):
    """What `GET /v1/metrics/realtime` answers, in the shape of all metrics."""

    summary: Annotated[RealtimeMetrics, Meta(description="Over the window.")]
    previous: Annotated[None, Meta(description="Always null.")] = None
    series: Annotated[list[Bucket], Meta(description="Always empty.")] = field(default_factory=list)
    breakdowns: Annotated[NoBreakdowns, Meta(description="Always empty.")] = field(
        default_factory=NoBreakdowns
    )


_SQL: Final = """
-- realtime.window
WITH
    fromUnixTimestamp64Milli({now:Int64}) AS this_instant,
    in_window AS
    (
        SELECT event_type, event_timestamp, event_id, booking_id, payment_id, trip_id, rider_id, cancelled_by, amount, currency
        FROM events FINAL
        WHERE event_type IN (
            'booking.created', 'booking.confirmed', 'booking.cancelled',
            'payment.initiated', 'payment.success', 'payment.failed',
            'trip.started', 'trip.completed', 'trip.cancelled'
        )
          AND event_timestamp >= this_instant - toIntervalMinute({window_minutes:Int64})
          AND event_timestamp < this_instant
    ),
    paid AS
    (
        SELECT argMin(assumeNotNull(amount), {first}) AS price, argMin(currency, {first}) AS price_currency
        FROM in_window
        WHERE event_type = 'payment.success' AND amount IS NOT NULL
        GROUP BY payment_id
    ),
    under_way AS
    (
        SELECT DISTINCT trip_id
        FROM events FINAL
        WHERE event_type = 'trip.started'
          AND event_timestamp >= this_instant - INTERVAL 24 HOUR
          AND event_timestamp < this_instant
    ),
    on_the_road AS
    (
        SELECT driver_id
        FROM events FINAL
        WHERE event_type IN ('trip.started', 'trip.completed', 'trip.cancelled')
          AND event_timestamp >= this_instant - INTERVAL 15 MINUTE
          AND event_timestamp < this_instant

        UNION ALL

        SELECT driver_id
        FROM driver_locations FINAL
        WHERE event_timestamp >= this_instant - INTERVAL 15 MINUTE
          AND event_timestamp < this_instant
    )
SELECT
    uniqExactIf(booking_id, event_type = 'booking.created') AS bookings_created,
    uniqExactIf(booking_id, event_type = 'booking.confirmed') AS bookings_confirmed,
    uniqExactIf(booking_id, event_type = 'booking.cancelled') AS bookings_cancelled,
    uniqExactIf(payment_id, event_type = 'payment.success') AS payments_succeeded,
    uniqExactIf(payment_id, event_type = 'payment.failed') AS payments_failed,
    uniqExactIf(trip_id, event_type = 'trip.started') AS trips_started,
    uniqExactIf(trip_id, event_type = 'trip.completed') AS trips_completed,
    uniqExactIf(
        rider_id,
        event_type IN ('booking.created', 'payment.initiated', 'trip.started', 'trip.completed')
        OR event_type IN ('booking.cancelled', 'trip.cancelled') AND cancelled_by = 'RIDER'
    ) AS active_riders,
    (SELECT CAST(sumMap(map(price_currency, price)), 'Map(String, String)') FROM paid) AS revenue,
    (
        SELECT count()
        FROM under_way
        WHERE trip_id NOT IN
        (
            SELECT trip_id
            FROM events FINAL
            WHERE event_type IN ('trip.completed', 'trip.cancelled')
              AND trip_id IN (SELECT trip_id FROM under_way)
        )
    ) AS active_trips,
    (SELECT uniqExact(driver_id) FROM on_the_road WHERE notEmpty(driver_id)) AS active_drivers
FROM in_window
"""

_INGEST: Final = """
-- realtime.ingest
SELECT
    sumIf(events, stored_at > fromUnixTimestamp64Milli({now:Int64}) - INTERVAL 60 SECOND) / 60 AS events_per_second,
    if(
        sum(events) = 0,
        NULL,
        quantileExactWeighted(0.95)(greatest(0, dateDiff('millisecond', arrived_at, stored_at)), events)
    ) AS lag_ms
FROM ingest_log
WHERE stored_at > fromUnixTimestamp64Milli({now:Int64}) - INTERVAL 5 MINUTE
"""


@dataclass(frozen=True)
class RealtimeQuestion:
    """One request: the window ends now. `period` is that window, in the zone that was asked for."""

    period: Period
    window_minutes: int

    @classmethod
    def at(cls, now: datetime, window_minutes: int, like: Period) -> "RealtimeQuestion":
        """The window before `now`, in the time zone of another period."""
        return cls(like.between(now - timedelta(minutes=window_minutes), now), window_minutes)


async def ask(warehouse: Warehouse, question: RealtimeQuestion) -> RealtimeAnswer:
    """Answers for the window; raises what `Warehouse.query` raises."""
    now = {"now": milliseconds(question.period.end)}
    through, (row,), (ingest,) = await asyncio.gather(
        data_through(warehouse),
        warehouse.query(statement(_SQL), {**now, "window_minutes": question.window_minutes}),
        warehouse.query(_INGEST, now),
    )
    lag_ms = ingest["lag_ms"]
    return RealtimeAnswer(
        period=period_answer(question.period),
        data_through=through,
        summary=RealtimeMetrics(
            **{
                **row,
                "revenue": money(row["revenue"]),
                "events_per_second": ingest["events_per_second"],
                "ingest_lag_seconds": None if lag_ms is None else lag_ms / 1000,
            }
        ),
    )
