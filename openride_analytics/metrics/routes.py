"""Routes: which there are, which people book, how full they drive. `GET /v1/metrics/routes`."""

import asyncio
from collections import ChainMap, Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from openride_analytics.metrics.filters import routes_kept
from openride_analytics.metrics.measure import measure
from openride_analytics.metrics.question import (
    BREAKDOWNS,
    PREVIOUS,
    SERIES,
    SUMMARY,
    AnswerHead,
    BucketStart,
    Money,
    Partial,
    PreviousHead,
    Question,
    compared,
    data_through,
    money,
    period_answer,
    rows_by_bucket,
    series,
    statement,
    whole,
)
from openride_analytics.warehouse import Row, Warehouse
from openride_analytics.warehouse.facts import repeated

FILTERS: Final = frozenset({"city", "state", "route_id", "driver_id", "currency"})

Utilization = Annotated[
    float | None,
    Meta(
        description="Mean occupancy of the departures in the period (a route and a `scheduled_departure`) with at least "
        "one booking that is confirmed and not cancelled: the seats of these ÷ the route's seats, at most 1.",
        examples=[0.61],
        extra=measure("ratio", "sum of the occupancies", "departures"),
    ),
]
Place = Annotated[str | None, Meta(description="Name of the place; null if unknown.", examples=["Ikeja"])]


class RouteCounts(Struct, kw_only=True):
    """Of a period or a bucket of it."""

    created: Annotated[
        int,
        Meta(description="Distinct routes with a `route.created`.", examples=[31], extra=measure("routes")),
    ]
    activated: Annotated[
        int,
        Meta(description="Distinct routes with a `route.activated`.", examples=[40], extra=measure("routes")),
    ]
    cancelled: Annotated[
        int,
        Meta(description="Distinct routes with a `route.cancelled`.", examples=[6], extra=measure("routes")),
    ]


class RouteMetrics(RouteCounts, kw_only=True):
    """Of a period."""

    active_routes: Annotated[
        int,
        Meta(
            description="Routes whose latest activation or cancellation before the period's end is an activation.",
            examples=[260],
            extra=measure("routes"),
        ),
    ]
    utilization: Utilization


class RouteBucket(RouteCounts, kw_only=True):
    """One bucket of the series."""

    start: BucketStart
    partial: Partial


class RoutesInCity(Struct, kw_only=True):
    """Routes created up to the period's end by the city they begin in."""

    value: Place
    state: Place
    routes: Annotated[
        int,
        Meta(description="Routes created before the period's end.", examples=[80], extra=measure("routes")),
    ]
    active: Annotated[
        int,
        Meta(
            description="Routes created before the period's end that are active at its end.",
            examples=[61],
            extra=measure("routes"),
        ),
    ]


class RoutesInState(Struct, kw_only=True):
    """Routes created up to the period's end by the state they begin in."""

    value: Place
    routes: Annotated[
        int,
        Meta(description="Routes created before the period's end.", examples=[140], extra=measure("routes")),
    ]
    active: Annotated[
        int,
        Meta(
            description="Routes created before the period's end that are active at its end.",
            examples=[104],
            extra=measure("routes"),
        ),
    ]


class RouteBreakdowns(Struct, kw_only=True):
    """At the end of the period."""

    by_city: Annotated[list[RoutesInCity], Meta(description="By the city they begin in, most routes first.")]
    by_state: Annotated[
        list[RoutesInState], Meta(description="By the state they begin in, most routes first.")
    ]


class PopularRoute(Struct, kw_only=True):
    """One of the first by bookings created in the period; ties by `route_id`."""

    route_id: Annotated[
        str, Meta(description="The route.", examples=["0f8c2d1e-5b1b-4f4e-8f63-7a9d2c3b4a5f"])
    ]
    route_name: Annotated[str | None, Meta(description="Its name, if known.", examples=["Lekki-VI"])]
    origin_city: Place
    origin_state: Place
    destination_city: Place
    destination_state: Place
    bookings: Annotated[
        int, Meta(description="Bookings created in the period.", examples=[15], extra=measure("bookings"))
    ]
    confirmed: Annotated[
        int,
        Meta(
            description="Bookings created in the period and confirmed since.",
            examples=[12],
            extra=measure("bookings", basis="cohort"),
        ),
    ]
    seats_booked: Annotated[
        int,
        Meta(
            description="Seats of the bookings created in the period and confirmed since.",
            examples=[20],
            extra=measure("seats", basis="cohort"),
        ),
    ]
    revenue: Annotated[
        Money,
        Meta(
            description="Sum of `amount` of the payments that succeeded for the bookings created in the period.",
            examples=[{"NGN": "48000.00"}],
            extra=measure("money by currency", basis="cohort"),
        ),
    ]
    utilization: Utilization


class PreviousRoutes(PreviousHead, kw_only=True):
    """The period before."""

    summary: Annotated[RouteMetrics, SUMMARY]


class RoutesAnswer(AnswerHead, kw_only=True):
    """What `GET /v1/metrics/routes` answers."""

    summary: Annotated[RouteMetrics, SUMMARY]
    previous: Annotated[PreviousRoutes | None, PREVIOUS]
    series: Annotated[list[RouteBucket], SERIES]
    breakdowns: Annotated[RouteBreakdowns, BREAKDOWNS]
    popular: Annotated[list[PopularRoute], Meta(description="The routes most booked, `limit` of them.")]


_COUNTS: Final = """
-- routes.buckets
SELECT
    {bucket} AS bucket,
    uniqExactIf(route_id, event_type = 'route.created') AS created,
    uniqExactIf(route_id, event_type = 'route.activated') AS activated,
    uniqExactIf(route_id, event_type = 'route.cancelled') AS cancelled
FROM events FINAL
WHERE event_type IN ('route.created', 'route.activated', 'route.cancelled')
  AND {in_period}
  AND {kept}
GROUP BY bucket
"""

_ACTIVE: Final = """
        SELECT route_id
        FROM events FINAL
        WHERE event_type IN ('route.activated', 'route.cancelled')
          AND {before_end}
          AND {kept}
        GROUP BY route_id
        HAVING argMax(event_type, {latest}) = 'route.activated'
"""

_PLACES: Final = """
-- routes.places
WITH
    active AS
    ({active}
    ),
    routes AS
    (
        SELECT
            route_id,
            argMinIf(origin_city, {first}, origin_city != '') AS city,
            argMinIf(origin_state, {first}, origin_state != '') AS state
        FROM events FINAL
        WHERE event_type = 'route.created'
          AND {kept}
        GROUP BY route_id
        HAVING countIf({before_end}) > 0
    )
SELECT
    city,
    state,
    count() AS routes,
    countIf(route_id IN (SELECT route_id FROM active)) AS active
FROM routes
GROUP BY city, state
"""

# Departures in the period with their occupancy. A booking's route, departure and seats are those of its first
# booking.created; it takes its seats if it was confirmed and not cancelled, at any time.
_DEPARTING: Final = """event_type = 'booking.created'
                  AND scheduled_departure >= fromUnixTimestamp64Milli({start:Int64})
                  AND scheduled_departure < fromUnixTimestamp64Milli({end:Int64})"""

_DEPARTURES: Final = """
    seated AS
    (
        SELECT route_id, scheduled_departure AS departure, seats_booked AS seats
        FROM facts FINAL
        WHERE {departing} AND {on_routes} AND is_alone AND confirmed_ms IS NOT NULL AND NOT is_cancelled

        UNION ALL

        SELECT route_id, departure, seats
        FROM
        (
            SELECT
                argMin(repeated.route_id, {first}) AS route_id,
                argMin(scheduled_departure, {first}) AS departure,
                argMin(seats_booked, {first}) AS seats
            FROM {repeated_created} AS repeated
            WHERE event_type = 'booking.created' AND confirmed_ms IS NOT NULL AND NOT is_cancelled
            GROUP BY thing_id
            HAVING departure >= fromUnixTimestamp64Milli({start:Int64})
               AND departure < fromUnixTimestamp64Milli({end:Int64})
        )
    ),
    departures AS
    (
        SELECT route_id, least(1, taken / seats_total) AS occupancy
        FROM
        (
            SELECT route_id, departure, sum(seats) AS taken
            FROM seated
            GROUP BY route_id, departure
        ) AS seats_taken
        INNER JOIN
        (
            SELECT route_id, argMin(seats_total, {first}) AS seats_total
            FROM events FINAL
            WHERE event_type = 'route.created' AND {kept} AND {on_routes}
            GROUP BY route_id
        ) AS capacities USING (route_id)
    )
"""

_STANDING: Final = """
-- routes.standing
WITH
    active AS
    ({active}
    ),
    {departures}
SELECT
    (SELECT count() FROM active) AS active_routes,
    (SELECT avgOrNull(occupancy) FROM departures) AS utilization
"""

# The routes most booked in the period. A booking belongs to the route of its first creation in the period.
_POPULAR: Final = """
-- routes.popular
SELECT
    toString(route_id) AS route,
    count() AS bookings,
    countIf(is_confirmed) AS confirmed,
    toUInt64(ifNull(sumIf(seats, is_confirmed), 0)) AS seats_booked
FROM
(
    SELECT route_id, confirmed_ms IS NOT NULL AS is_confirmed, confirmed_seats AS seats
    FROM facts FINAL
    WHERE event_type = 'booking.created' AND {in_period} AND is_alone

    UNION ALL

    SELECT
        argMin(repeated.route_id, {first}) AS route_id,
        any(confirmed_ms IS NOT NULL) AS is_confirmed,
        any(confirmed_seats) AS seats
    FROM {repeated} AS repeated
    WHERE event_type = 'booking.created' AND {in_period}
    GROUP BY thing_id
)
WHERE {kept}
GROUP BY route_id
ORDER BY bookings DESC, route
LIMIT {limit:UInt64}
"""

_ON_ROUTES: Final = "route_id IN {routes:Array(UUID)}"

# Revenue of the period's bookings on a few routes.
_REVENUES: Final = """
-- routes.revenues
WITH
    booked AS
    (
        SELECT thing_id AS booking_id, argMin(facts.route_id, {first}) AS route_id
        FROM facts FINAL
        WHERE event_type = 'booking.created'
          AND {in_period}
          AND thing_id IN
          (
              SELECT thing_id
              FROM facts
              WHERE event_type = 'booking.created' AND {in_period} AND {on_routes}
          )
        GROUP BY booking_id
        HAVING {on_routes}
    ),
    payments AS
    (
        SELECT booking_id, amount AS paid, currency AS paid_currency
        FROM facts FINAL
        WHERE event_type = 'payment.success' AND booking_id IN (SELECT booking_id FROM booked) AND is_alone

        UNION ALL

        SELECT
            argMin(repeated.booking_id, {first}) AS booking_id,
            argMin(amount, {first}) AS paid,
            argMinIf(currency, {first}, amount IS NOT NULL) AS paid_currency
        FROM {repeated_paid} AS repeated
        WHERE event_type = 'payment.success'
        GROUP BY thing_id
    )
SELECT
    toString(route_id) AS route,
    CAST(sumMapIf(map(paid_currency, assumeNotNull(paid)), paid IS NOT NULL), 'Map(String, String)') AS revenue_by_currency
FROM payments
INNER JOIN booked USING (booking_id)
GROUP BY route_id
"""

_OCCUPANCIES: Final = """
-- routes.occupancies
WITH {departures}
SELECT toString(route_id) AS route, avg(occupancy) AS utilization
FROM departures
GROUP BY route_id
"""

_NAMES: Final = """
-- routes.names
SELECT
    toString(route_id) AS route,
    argMinIf(route_name, {first}, route_name != '' AND event_type = 'route.created') AS created_name,
    if(created_name != '', created_name, argMinIf(route_name, {first}, route_name != '')) AS name,
    argMinIf(origin_city, {first}, origin_city != '') AS origin_city,
    argMinIf(origin_state, {first}, origin_state != '') AS origin_state,
    argMinIf(destination_city, {first}, destination_city != '') AS destination_city,
    argMinIf(destination_state, {first}, destination_state != '') AS destination_state
FROM
(
    SELECT
        event_type, event_timestamp, event_id, route_id, route_name,
        origin_city, origin_state, destination_city, destination_state
    FROM events FINAL
    WHERE event_type IN ('route.created', 'route.activated', 'route.cancelled') AND {on_routes}
)
GROUP BY route_id
"""


async def ask(warehouse: Warehouse, question: Question) -> RoutesAnswer:
    """Answers for a period; raises what `Warehouse.query` raises."""
    kept = routes_kept(question.filters)
    counts = statement(_COUNTS, kept=kept)
    standing = statement(
        _STANDING,
        active=_ACTIVE,
        departures=_DEPARTURES,
        repeated_created=repeated("event_type = 'booking.created'"),
        departing=_DEPARTING,
        kept=kept,
        on_routes="true",
    )

    async def state_at_end(asked: Question) -> Row:
        (row,) = await warehouse.query(standing, asked.parameters)
        return row

    async def summarise(asked: Question) -> RouteMetrics:
        return _metrics(
            asked, *await asyncio.gather(rows_by_bucket(warehouse, counts, asked), state_at_end(asked))
        )

    through, rows, at_end, places, popular, previous = await asyncio.gather(
        data_through(warehouse),
        rows_by_bucket(warehouse, counts, question),
        state_at_end(question),
        warehouse.query(statement(_PLACES, active=_ACTIVE, kept=kept), question.parameters),
        _popular(warehouse, question, kept),
        compared(question, summarise, PreviousRoutes),
    )
    places.sort(key=_most_first)
    return RoutesAnswer(
        period=period_answer(question.period),
        data_through=through,
        summary=_metrics(question, rows, at_end),
        previous=previous,
        series=series(question, rows, RouteBucket, _shape),
        breakdowns=RouteBreakdowns(
            by_city=[
                RoutesInCity(
                    value=row["city"] or None,
                    state=row["state"] or None,
                    routes=row["routes"],
                    active=row["active"],
                )
                for row in places
            ],
            by_state=_by_state(places),
        ),
        popular=popular,
    )


def _metrics(question: Question, rows: dict[int, Row], at_end: Row) -> RouteMetrics:
    return RouteMetrics(
        **whole(question, rows, _shape),
        active_routes=at_end["active_routes"],
        utilization=at_end["utilization"],
    )


def _shape(_question: Question, row: Row, _start: datetime, _end: datetime) -> dict[str, Any]:
    return {name: row.get(name, 0) for name in ("created", "activated", "cancelled")}


def _most_first(row: Row) -> tuple[int | bool | str, ...]:
    return -row["routes"], row["city"] == "", row["city"], row["state"] == "", row["state"]


def _by_state(places: list[Row]) -> list[RoutesInState]:
    routes: Counter[str] = Counter()
    active: Counter[str] = Counter()
    for row in places:
        routes[row["state"]] += row["routes"]
        active[row["state"]] += row["active"]
    states = sorted(routes, key=lambda state: (-routes[state], state == "", state))
    return [
        RoutesInState(value=state or None, routes=routes[state], active=active[state]) for state in states
    ]


async def _popular(warehouse: Warehouse, question: Question, kept: str) -> list[PopularRoute]:
    """First which routes, then what else is known of these few."""
    parameters = {**question.parameters, "limit": question.limit}
    first = await warehouse.query(statement(_POPULAR, kept=kept, repeated=repeated()), parameters)
    parameters["routes"] = [row["route"] for row in first]

    async def known(sql: str) -> dict[str, Row]:
        asked = statement(
            sql,
            departures=_DEPARTURES,
            repeated_created=repeated("event_type = 'booking.created'"),
            repeated_paid=repeated("event_type = 'payment.success'"),
            departing=_DEPARTING,
            kept=kept,
            on_routes=_ON_ROUTES,
        )
        return {row["route"]: row for row in await warehouse.query(asked, parameters)}

    found = await asyncio.gather(*map(known, (_REVENUES, _OCCUPANCIES, _NAMES)))
    return [
        _popular_route(question, ChainMap(row, *(by_route.get(row["route"], {}) for by_route in found)))
        for row in first
    ]


def _popular_route(question: Question, row: Mapping[str, Any]) -> PopularRoute:
    currency = question.filters.currency
    revenue = row.get("revenue_by_currency", {})
    return PopularRoute(
        route_id=row["route"],
        route_name=row.get("name") or None,
        origin_city=row.get("origin_city") or None,
        origin_state=row.get("origin_state") or None,
        destination_city=row.get("destination_city") or None,
        destination_state=row.get("destination_state") or None,
        bookings=row["bookings"],
        confirmed=row["confirmed"],
        seats_booked=row["seats_booked"],
        revenue=money({name: revenue[name] for name in revenue if currency in (None, name)}),
        utilization=row.get("utilization"),
    )
