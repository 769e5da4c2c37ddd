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
from openride_analytics.warehouse.facts import repeated

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
    trips AS
    (
        SELECT
            {own_bucket} AS span,
            true AS adds_up,
            event_type = 'trip.started' AS of_started,
            event_type = 'trip.completed' AS of_completed,
            event_type = 'trip.cancelled' AS of_cancelled,
            if(of_started, dateDiff('millisecond', scheduled_departure, actual_departure), NULL) AS late_ms,
            if(of_completed, duration_minutes, NULL) AS duration,
            if(of_completed, distance_km, NULL) AS distance,
            if(of_completed, driver_earnings, NULL) AS earnings,
            if(of_completed, platform_commission, NULL) AS commission,
            if(earnings IS NOT NULL, currency, '') AS earnings_currency,
            if(commission IS NOT NULL, currency, '') AS commission_currency
        FROM facts FINAL
        WHERE event_type IN ('trip.started', 'trip.completed', 'trip.cancelled')
          AND {in_period}
          AND {kept}
          AND is_alone

        UNION ALL

        SELECT
            {bucket} AS span,
            false AS adds_up,
            max(event_type = 'trip.started') AS of_started,
            max(event_type = 'trip.completed') AS of_completed,
            max(event_type = 'trip.cancelled') AS of_cancelled,
            argMinIf(
                dateDiff('millisecond', scheduled_departure, actual_departure), {first}, event_type = 'trip.started'
            ) AS late_ms,
            argMinIf(duration_minutes, {first}, event_type = 'trip.completed') AS duration,
            argMinIf(distance_km, {first}, event_type = 'trip.completed') AS distance,
            argMinIf(driver_earnings, {first}, event_type = 'trip.completed') AS earnings,
            argMinIf(platform_commission, {first}, event_type = 'trip.completed') AS commission,
            argMinIf(
                currency, {first}, event_type = 'trip.completed' AND driver_earnings IS NOT NULL
            ) AS earnings_currency,
            argMinIf(
                currency, {first}, event_type = 'trip.completed' AND platform_commission IS NOT NULL
            ) AS commission_currency
        FROM {repeated}
        WHERE event_type IN ('trip.started', 'trip.completed', 'trip.cancelled')
          AND {in_period}
          AND {kept}
        GROUP BY span, thing_id
    ),
    counts AS
    (
        SELECT
            span,
            adds_up,
            earnings_currency,
            commission_currency,
            countIf(of_started) AS started,
            countIf(of_completed) AS completed,
            countIf(of_cancelled) AS cancelled,
            countIf(of_completed OR of_cancelled) AS ended,
            count(duration) AS with_duration,
            avgState(duration) AS durations_mean,
            quantilesExactInclusiveState(0.5, 0.95)(duration) AS durations,
            count(distance) AS with_distance,
            avgState(distance) AS distances_mean,
            quantilesExactInclusiveState(0.5, 0.95)(distance) AS distances,
            countIf(of_started AND late_ms IS NOT NULL) AS departures_known,
            countIf(of_started AND late_ms <= {on_time_minutes:Int64} * 60000) AS on_time,
            count(earnings) AS with_earnings,
            sum(earnings) AS earned,
            count(commission) AS with_commission,
            sum(commission) AS kept_back
        FROM trips
        GROUP BY span, adds_up, earnings_currency, commission_currency
    )
SELECT
    bucket,
    sum(counts.started) AS started,
    sum(counts.completed) AS completed,
    sum(counts.cancelled) AS cancelled,
    sum(counts.ended) AS ended,
    sum(counts.with_duration) AS with_duration,
    quantilesExactInclusiveMerge(0.5, 0.95)(durations) AS duration_percentiles,
    if(with_duration = 0, NULL, avgMerge(durations_mean)) AS average_duration,
    if(with_duration = 0, NULL, duration_percentiles[1]) AS p50_duration,
    if(with_duration = 0, NULL, duration_percentiles[2]) AS p95_duration,
    sum(counts.with_distance) AS with_distance,
    quantilesExactInclusiveMerge(0.5, 0.95)(distances) AS distance_percentiles,
    if(with_distance = 0, NULL, avgMerge(distances_mean)) AS average_distance,
    if(with_distance = 0, NULL, distance_percentiles[1]) AS p50_distance,
    if(with_distance = 0, NULL, distance_percentiles[2]) AS p95_distance,
    sum(counts.departures_known) AS departures_known,
    sum(counts.on_time) AS on_time,
    CAST(
        sumMapIf(map(earnings_currency, assumeNotNull(earned)), with_earnings > 0), 'Map(String, String)'
    ) AS driver_earnings,
    CAST(
        sumMapIf(map(commission_currency, assumeNotNull(kept_back)), with_commission > 0), 'Map(String, String)'
    ) AS platform_commission
FROM counts
ARRAY JOIN {spans} AS bucket
GROUP BY bucket
"""


async def ask(warehouse: Warehouse, question: Question) -> TripsAnswer:
    """Answers for a period; raises what `Warehouse.query` raises."""
    return await answer_by_bucket(
        warehouse,
        question,
        statement(_SQL, kept=trips_kept(question.filters, "thing_id"), repeated=repeated()),
        _shape,
        answer=TripsAnswer,
        summary=TripMetrics,
        previous=PreviousTrips,
        item=TripBucket,
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
