"""Trips: how many, how long and far, how punctual, what they earned. `GET /v1/metrics/trips`."""

from datetime import datetime
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from openride_analytics.metrics.filters import trips_kept
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
    money,
    rate,
    statement,
)
from openride_analytics.warehouse import Row, Warehouse

FILTERS: Final = frozenset({"city", "state", "currency", "route_id", "driver_id"})


class TripMetrics(Struct, kw_only=True):
    """Of a period or a bucket of it."""

    started: Annotated[
        int, Meta(description="Distinct trips with a `trip.started`.", examples=[815], extra=measure("trips"))
    ]
    completed: Annotated[
        int,
        Meta(description="Distinct trips with a `trip.completed`.", examples=[802], extra=measure("trips")),
    ]
    cancelled: Annotated[
        int,
        Meta(description="Distinct trips with a `trip.cancelled`.", examples=[19], extra=measure("trips")),
    ]
    completion_rate: Annotated[
        float | None,
        Meta(
            description="Of the trips that ended (completed or cancelled), the share completed.",
            examples=[0.9769],
            extra=measure("ratio", "trips completed", "trips completed or cancelled"),
        ),
    ]
    average_duration_minutes: Annotated[
        float | None,
        Meta(
            description="Mean `duration_minutes` of the trips completed.",
            examples=[38.4],
            extra=measure("minutes", "sum of their durations", "trips completed with a duration"),
        ),
    ]
    p50_duration_minutes: Annotated[
        float | None,
        Meta(
            description="Median `duration_minutes` of the trips completed, linear interpolation.",
            examples=[34.0],
            extra=measure("minutes"),
        ),
    ]
    p95_duration_minutes: Annotated[
        float | None,
        Meta(
            description="95th percentile of `duration_minutes` of the trips completed.",
            examples=[88.1],
            extra=measure("minutes"),
        ),
    ]
    average_distance_km: Annotated[
        float | None,
        Meta(
            description="Mean `distance_km` of the trips completed.",
            examples=[17.9],
            extra=measure("kilometres", "sum of their distances", "trips completed with a distance"),
        ),
    ]
    p50_distance_km: Annotated[
        float | None,
        Meta(
            description="Median `distance_km` of the trips completed, linear interpolation.",
            examples=[14.2],
            extra=measure("kilometres"),
        ),
    ]
    p95_distance_km: Annotated[
        float | None,
        Meta(
            description="95th percentile of `distance_km` of the trips completed.",
            examples=[49.7],
            extra=measure("kilometres"),
        ),
    ]
    on_time_rate: Annotated[
        float | None,
        Meta(
            description="Of the trips started, the share with `actual_departure` at most `on_time_minutes` (10 unless "
            "configured) after `scheduled_departure`.",
            examples=[0.86],
            extra=measure("ratio", "those of them that left on time", "trips started"),
        ),
    ]
    driver_earnings: Annotated[
        Money,
        Meta(
            description="Sum of `driver_earnings` over the trips completed.",
            examples=[{"NGN": "2809600.00"}],
            extra=measure("money by currency"),
        ),
    ]
    platform_commission: Annotated[
        Money,
        Meta(
            description="Sum of `platform_commission` over the trips completed.",
            examples=[{"NGN": "702400.00"}],
            extra=measure("money by currency"),
        ),
    ]


class TripBucket(TripMetrics, kw_only=True):
    """One bucket of the series."""

    start: BucketStart
    partial: Partial


class PreviousTrips(PreviousHead, kw_only=True):
    """The period before."""

    summary: Annotated[TripMetrics, SUMMARY]


class TripsAnswer(AnswerHead, kw_only=True):
    """What `GET /v1/metrics/trips` answers."""

    summary: Annotated[TripMetrics, SUMMARY]
    previous: Annotated[PreviousTrips | None, PREVIOUS]
    series: Annotated[list[TripBucket], SERIES]
    breakdowns: Annotated[NoBreakdowns, BREAKDOWNS]


# Each trip by its first event of a type in the span. A trip both cancelled and completed in the span is completed.
_SQL: Final = """
-- trips.buckets
WITH
    in_period AS
    (
        SELECT
            {bucket} AS bucket,
            event_type,
            event_timestamp,
            event_id,
            trip_id,
            scheduled_departure,
            actual_departure,
            duration_minutes,
            distance_km,
            driver_earnings,
            platform_commission,
            currency
        FROM events FINAL
        WHERE event_type IN ('trip.started', 'trip.completed', 'trip.cancelled')
          AND {in_period}
          AND {kept}
    ),
    trips AS
    (
        SELECT
            bucket,
            trip_id,
            max(event_type = 'trip.started') AS is_started,
            max(event_type = 'trip.completed') AS is_completed,
            max(event_type = 'trip.cancelled') AS is_cancelled,
            argMinIf(
                dateDiff('millisecond', scheduled_departure, actual_departure), {first}, event_type = 'trip.started'
            ) AS late_ms,
            argMinIf(duration_minutes, {first}, event_type = 'trip.completed') AS duration,
            argMinIf(distance_km, {first}, event_type = 'trip.completed') AS distance,
            max(event_type = 'trip.completed' AND driver_earnings IS NOT NULL) AS has_earnings,
            argMinIf(
                assumeNotNull(driver_earnings), {first}, event_type = 'trip.completed' AND driver_earnings IS NOT NULL
            ) AS earnings,
            argMinIf(
                currency, {first}, event_type = 'trip.completed' AND driver_earnings IS NOT NULL
            ) AS earnings_currency,
            max(event_type = 'trip.completed' AND platform_commission IS NOT NULL) AS has_commission,
            argMinIf(
                assumeNotNull(platform_commission), {first}, event_type = 'trip.completed' AND platform_commission IS NOT NULL
            ) AS commission,
            argMinIf(
                currency, {first}, event_type = 'trip.completed' AND platform_commission IS NOT NULL
            ) AS commission_currency
        FROM in_period
        GROUP BY bucket, trip_id
    )
SELECT
    bucket,
    countIf(is_started) AS started,
    countIf(is_completed) AS completed,
    countIf(is_cancelled) AS cancelled,
    countIf(is_completed OR is_cancelled) AS ended,
    avgOrNull(duration) AS average_duration,
    if(count(duration) = 0, NULL, quantileExactInclusive(0.5)(duration)) AS p50_duration,
    if(count(duration) = 0, NULL, quantileExactInclusive(0.95)(duration)) AS p95_duration,
    avgOrNull(distance) AS average_distance,
    if(count(distance) = 0, NULL, quantileExactInclusive(0.5)(distance)) AS p50_distance,
    if(count(distance) = 0, NULL, quantileExactInclusive(0.95)(distance)) AS p95_distance,
    countIf(is_started AND late_ms IS NOT NULL) AS departures_known,
    countIf(is_started AND late_ms <= {on_time_minutes:Int64} * 60000) AS on_time,
    CAST(sumMapIf(map(earnings_currency, earnings), has_earnings), 'Map(String, String)') AS driver_earnings,
    CAST(sumMapIf(map(commission_currency, commission), has_commission), 'Map(String, String)') AS platform_commission
FROM trips
GROUP BY bucket
"""


async def ask(warehouse: Warehouse, question: Question) -> TripsAnswer:
    """Answers for a period; raises what `Warehouse.query` raises."""
    return await answer_by_bucket(
        warehouse,
        question,
        statement(_SQL, kept=trips_kept(question.filters)),
        _shape,
        answer=TripsAnswer,
        summary=TripMetrics,
        previous=PreviousTrips,
        item=TripBucket,
        breakdowns=NoBreakdowns(),
    )


def _shape(_question: Question, row: Row, _start: datetime, _end: datetime) -> dict[str, Any]:
    return {
        "started": row.get("started", 0),
        "completed": row.get("completed", 0),
        "cancelled": row.get("cancelled", 0),
        "completion_rate": rate(row.get("completed"), row.get("ended")),
        "average_duration_minutes": row.get("average_duration"),
        "p50_duration_minutes": row.get("p50_duration"),
        "p95_duration_minutes": row.get("p95_duration"),
        "average_distance_km": row.get("average_distance"),
        "p50_distance_km": row.get("p50_distance"),
        "p95_distance_km": row.get("p95_distance"),
        "on_time_rate": rate(row.get("on_time"), row.get("departures_known")),
        "driver_earnings": money(row.get("driver_earnings")),
        "platform_commission": money(row.get("platform_commission")),
    }
