"""Geographic: how much happens where. `GET /v1/analytics/geographic`.

Bookings, revenue and trips count at the origin of their route, or by hexagon at the pickup and the start; drivers
wherever they were seen, so that one in two places counts in both, also in the sum that the shares are of.
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from openride_analytics.analytics.question import AnalyticsHead, AnalyticsQuestion, compared, head
from openride_analytics.metrics import bookings, payments, routes, trips, users
from openride_analytics.metrics.filters import (
    bookings_kept,
    payments_kept,
    routes_kept,
    trips_kept,
    users_kept,
)
from openride_analytics.metrics.measure import AXIS, measure
from openride_analytics.metrics.question import (
    PREVIOUS,
    Filters,
    Money,
    PreviousHead,
    money,
    rate,
    statement,
)
from openride_analytics.warehouse import Row, Warehouse

Metric = Literal["bookings", "revenue", "trips", "users", "drivers", "routes"]
Level = Literal["state", "city", "h3"]

FILTERS: Final[dict[str, frozenset[str]]] = {
    "bookings": bookings.FILTERS,
    "revenue": payments.FILTERS,
    "trips": trips.FILTERS,
    "users": users.FILTERS,
    "drivers": users.FILTERS | {"driver_id"},
    "routes": routes.FILTERS - {"currency"},
}
"""By metric."""
LEVELS: Final = ("state", "city", "h3")
WITH_POINTS: Final = ("bookings", "trips", "drivers")
"""The metrics whose things have coordinates."""
COARSEST: Final = 4
FINEST: Final = 9
DEFAULT_RESOLUTION: Final = 7
MOST_HEXAGONS: Final = 20_000
"""In one answer. At the coarsest resolution these are the land of Africa, at the default one 100,000 km²."""

_TEXTS: Final = {
    "bookings": "Bookings created in the period, by the origin of their route, or by the hexagon of the pickup.",
    "revenue": "Amounts of the payments that succeeded in the period, by the origin of their booking's route.",
    "trips": "Trips completed in the period, by the origin of their route, or by the hexagon of the start.",
    "users": "Users who registered in the period, by the place where they first did.",
    "drivers": "Distinct drivers with a location in the period, by where they were; one in two places counts in both.",
    "routes": "Routes created in the period, by their origin.",
}


class TooManyHexagons(Exception):
    """The answer would have more than `MOST_HEXAGONS` places: it wants a coarser resolution or a shorter period."""


@dataclass(frozen=True, kw_only=True)
class Question(AnalyticsQuestion):
    """One request for a map."""

    metric: Metric = "bookings"
    level: Level = "state"
    resolution: int = DEFAULT_RESOLUTION


class Place(Struct, kw_only=True):
    """What happened in one place, with the fields of the level asked for."""

    state: Annotated[
        str | UnsetType | None,
        Meta(description="With `level` `state` and `city`; null if unknown.", examples=["Lagos"]),
    ] = UNSET
    city: Annotated[
        str | UnsetType | None, Meta(description="With `level=city`; null if unknown.", examples=["Ikeja"])
    ] = UNSET
    h3: Annotated[
        str | UnsetType | None,
        Meta(description="The hexagon, with `level=h3`; null if unknown.", examples=["87588e1a4ffffff"]),
    ] = UNSET
    lat: Annotated[
        float | UnsetType | None, Meta(description="Latitude of its middle.", examples=[6.601], extra=AXIS)
    ] = UNSET
    lon: Annotated[
        float | UnsetType | None, Meta(description="Longitude of its middle.", examples=[3.351], extra=AXIS)
    ] = UNSET
    value: Annotated[
        int | Money,
        Meta(
            description="Distinct things; with `metric=revenue` amounts.",
            examples=[120],
            extra=measure("distinct things, or money by currency"),
        ),
    ]
    share: Annotated[
        float | dict[str, float | None] | None,
        Meta(
            description="`value` ÷ the sum over all places; with `metric=revenue` by currency.",
            examples=[0.31],
            extra=measure("ratio", "value", "sum of the values of all places"),
        ),
    ]


Places = Annotated[list[Place], Meta(description="The most first, then by name.")]


class PreviousPlaces(PreviousHead, kw_only=True):
    """The period before."""

    places: Places


class GeographicAnswer(AnalyticsHead, kw_only=True):
    """What `GET /v1/analytics/geographic` answers."""

    places: Places
    previous: Annotated[PreviousPlaces | None, PREVIOUS]


class Polygon(Struct, kw_only=True, tag_field="type", tag="Polygon"):
    """The outline of a hexagon."""

    coordinates: Annotated[
        list[list[tuple[float, float]]],
        Meta(description="One closed ring of longitude and latitude, counterclockwise."),
    ]


class HexagonProperties(Struct, kw_only=True):
    """What a map shows of a hexagon."""

    h3: Annotated[str | None, Meta(description="The hexagon; null if unknown.", examples=["87588e1a4ffffff"])]
    value: Annotated[
        int, Meta(description="Distinct things.", examples=[120], extra=measure("distinct things"))
    ]
    share: Annotated[
        float | None,
        Meta(
            description="`value` ÷ the sum over all places.",
            examples=[0.31],
            extra=measure("ratio", "value", "sum of the values of all places"),
        ),
    ]


class Hexagon(Struct, kw_only=True, tag_field="type", tag="Feature"):
    """One place as a GeoJSON feature."""

    geometry: Annotated[Polygon | None, Meta(description="Null if the place is unknown.")]
    properties: Annotated[HexagonProperties, Meta(description="Its figures.")]


class GeoJSON(AnalyticsHead, kw_only=True, tag_field="type", tag="FeatureCollection"):
    """What `GET /v1/analytics/geographic` answers with `format=geojson` (RFC 7946)."""

    features: Annotated[list[Hexagon], Meta(description="The most first, then by name.")]


_ORIGINS: Final = """
    SELECT
        route_id,
        argMinIf(origin_state, {first}, origin_state != '') AS state,
        argMinIf(origin_city, {first}, origin_city != '') AS city
    FROM events FINAL
    WHERE event_type = 'route.created'
    GROUP BY route_id
"""

# A cell is made for each row before the rows of a booking are grouped: a number is kept, not a pair of Nullable.
_CELL: Final = """if(
            {lat} IS NULL OR {lon} IS NULL,
            0,
            geoToH3(assumeNotNull({lat}), assumeNotNull({lon}), {resolution:UInt8})
        )"""


def _cell(prefix: str = "") -> str:
    return _CELL.replace("{lat}", f"{prefix}lat").replace("{lon}", f"{prefix}lon")


# A booking is where its first creation ever says, whatever later ones do.
_BOOKINGS: Final = """
    SELECT
        booking_id AS thing,
        {where}
    FROM events FINAL
    WHERE event_type = 'booking.created'
      AND booking_id IN
      (
          SELECT booking_id
          FROM events
          WHERE event_type = 'booking.created' AND {in_period}
      )
      AND {kept}
    GROUP BY booking_id
    HAVING countIf({in_period}) > 0
"""

# Things are counted by route first: names are joined to thousands of routes instead of millions of things.
_AT_ORIGIN: Final = """
    SELECT things, state, city
    FROM (SELECT route_id, count() AS things FROM ({things}) GROUP BY route_id) AS counted
    LEFT JOIN ({origins}) AS origins USING (route_id)
"""

_BOOKINGS_AT_ORIGIN: Final = _AT_ORIGIN.replace(
    "{things}", _BOOKINGS.replace("{where}", "argMin(route_id, {first}) AS route_id")
)
_BOOKINGS_AT_POINT: Final = _BOOKINGS.replace("{where}", f"argMin({_cell('pickup_')}, {{first}}) AS cell")

# A payment's amount is that of its first success in the period.
_REVENUE: Final = """
    SELECT thing, paid, paid_currency, has_amount, state, city
    FROM
    (
        SELECT
            payment_id AS thing,
            argMin(booking_id, {first}) AS booking_id,
            max(amount IS NOT NULL) AS has_amount,
            argMinIf(assumeNotNull(amount), {first}, amount IS NOT NULL) AS paid,
            argMinIf(currency, {first}, amount IS NOT NULL) AS paid_currency
        FROM events FINAL
        WHERE event_type = 'payment.success' AND {in_period} AND {kept}
        GROUP BY payment_id
    ) AS payments
    LEFT JOIN
    (
        SELECT booking_id, argMin(route_id, {first}) AS route_id
        FROM events FINAL
        WHERE event_type = 'booking.created'
          AND booking_id IN
          (
              SELECT booking_id
              FROM events
              WHERE event_type = 'payment.success' AND {in_period}
          )
        GROUP BY booking_id
    ) AS created USING (booking_id)
    LEFT JOIN ({origins}) AS origins USING (route_id)
"""

_COMPLETED: Final = """
    SELECT
        trip_id AS thing,
        argMinIf(route_id, {first}, notEmpty(route_id)) AS route_id
    FROM events FINAL
    WHERE event_type = 'trip.completed' AND {in_period} AND {kept}
    GROUP BY trip_id
"""

_TRIPS_AT_ORIGIN: Final = _AT_ORIGIN.replace("{things}", _COMPLETED)

_TRIPS_AT_POINT: Final = f"""
    SELECT thing, {_cell()} AS cell
    FROM ({{completed}}) AS completed
    LEFT JOIN
    (
        SELECT
            trip_id AS thing,
            argMin(start_lat, {{first}}) AS lat,
            argMin(start_lon, {{first}}) AS lon
        FROM events FINAL
        WHERE event_type = 'trip.started'
          AND trip_id IN
          (
              SELECT trip_id
              FROM events FINAL
              WHERE event_type = 'trip.completed' AND {{in_period}}
          )
        GROUP BY trip_id
    ) AS started USING (thing)
"""

_USERS: Final = """
    SELECT
        user_id AS thing,
        argMinIf(state, {first}, state != '') AS state,
        argMinIf(city, {first}, city != '') AS city
    FROM events FINAL
    WHERE event_type = 'user.registered' AND {kept}
    GROUP BY user_id
    HAVING countIf({in_period}) > 0
"""

_DRIVERS: Final = """
    SELECT driver_id AS thing, {where}
    FROM driver_locations FINAL
    WHERE {in_period} AND {kept}
"""

_ROUTES: Final = """
    SELECT
        route_id AS thing,
        argMinIf(origin_state, {first}, origin_state != '') AS state,
        argMinIf(origin_city, {first}, origin_city != '') AS city
    FROM events FINAL
    WHERE event_type = 'route.created'
      AND route_id IN
      (
          SELECT route_id
          FROM events FINAL
          WHERE event_type = 'route.created' AND {in_period}
      )
      AND {kept}
    GROUP BY route_id
"""

_SIGHTINGS: Final = {
    "bookings": _BOOKINGS_AT_ORIGIN,
    "revenue": _REVENUE,
    "trips": _TRIPS_AT_ORIGIN,
    "users": _USERS,
    "drivers": _DRIVERS.replace("{where}", "state, city"),
    "routes": _ROUTES,
}
_SIGHTINGS_WITH_POINTS: Final = {
    "bookings": _BOOKINGS_AT_POINT,
    "trips": _TRIPS_AT_POINT,
    "drivers": _DRIVERS.replace("{where}", f"{_cell()} AS cell"),
}

_BY_NAME: Final = """
-- geographic.by_name
SELECT
    toString(ifNull(state, '')) AS state_name,
    {city} AS city_name,
    {value} AS value
FROM ({sightings})
GROUP BY state_name, city_name
ORDER BY {order}state_name = '', state_name, city_name = '', city_name
"""

_BOUNDARY: Final = "h3ToGeoBoundary(some_cell)"
# A driver is seen many times; all other things come once.
_COUNT: Final = "count()"
_COUNT_DRIVERS: Final = "uniqExact(thing)"
_SUM_OF_COUNTS: Final = "sum(things)"
_SUMS: Final = "CAST(sumMapIf(map(paid_currency, paid), has_amount), 'Map(String, String)')"
_VALUES: Final = {
    "bookings": _SUM_OF_COUNTS,
    "trips": _SUM_OF_COUNTS,
    "revenue": _SUMS,
    "drivers": _COUNT_DRIVERS,
}
_VALUES_OF_HEXAGONS: Final = {"drivers": _COUNT_DRIVERS}

# Things without coordinates are in cell 0, which the functions refuse, also in a branch that is not taken: there they get
# `some_cell` instead.
_BY_HEXAGON: Final = """
-- geographic.by_hexagon
SELECT
    if(cell = 0, '', h3ToString(some_cell)) AS hexagon,
    h3ToGeo(some_cell).1 AS lat,
    h3ToGeo(some_cell).2 AS lon,
    {boundary} AS boundary,
    value
FROM
(
    SELECT
        cell,
        if(cell = 0, geoToH3(0., 0., {resolution:UInt8}), cell) AS some_cell,
        {value} AS value
    FROM ({sightings})
    GROUP BY cell
)
ORDER BY value DESC, hexagon = '', hexagon
LIMIT {most:UInt32}
"""


async def ask(warehouse: Warehouse, question: Question) -> GeographicAnswer:
    """Answers for a period; raises `TooManyHexagons`, and what `Warehouse.query` raises."""
    begins, own, before = await asyncio.gather(
        head(warehouse, question, _TEXTS[question.metric]),
        _figures(warehouse, question),
        compared(warehouse, question, _figures, PreviousPlaces),
    )
    return GeographicAnswer(**begins, **own, previous=before)


async def _figures(warehouse: Warehouse, question: Question) -> dict[str, Any]:
    rows = await _rows(warehouse, question)
    if question.metric == "revenue":
        return {"places": _revenue(question, rows)}
    whole = sum(row["value"] for row in rows)
    return {
        "places": [
            Place(**_where(question, row), value=row["value"], share=rate(row["value"], whole))
            for row in rows
        ]
    }


async def ask_geojson(warehouse: Warehouse, question: Question) -> GeoJSON:
    """The answer by hexagon for a map, without comparison; raises what `ask` raises."""
    begins, rows = await asyncio.gather(
        head(warehouse, question, _TEXTS[question.metric]),
        _rows(warehouse, question, boundary=_BOUNDARY),
    )
    whole = sum(row["value"] for row in rows)
    return GeoJSON(
        **begins,
        features=[
            Hexagon(
                geometry=_polygon(row["boundary"]) if row["hexagon"] else None,
                properties=HexagonProperties(
                    h3=row["hexagon"] or None, value=row["value"], share=rate(row["value"], whole)
                ),
            )
            for row in rows
        ],
    )


def _polygon(boundary: list[tuple[float, float]]) -> Polygon:
    ring = [(lon, lat) for lat, lon in boundary]
    # Across the antimeridian the ring goes on beyond 180°, so that it stays small.
    if max(lon for lon, _ in ring) - min(lon for lon, _ in ring) > _HALF_TURN:
        ring = [(lon + 2 * _HALF_TURN if lon < 0 else lon, lat) for lon, lat in ring]
    return Polygon(coordinates=[[*ring, ring[0]]])


_HALF_TURN: Final = 180


async def _rows(warehouse: Warehouse, question: Question, boundary: str = "[]") -> list[Row]:
    is_h3 = question.level == "h3"
    sightings = (_SIGHTINGS_WITH_POINTS if is_h3 else _SIGHTINGS)[question.metric]
    sql = statement(
        _BY_HEXAGON if is_h3 else _BY_NAME,
        city="toString(ifNull(city, ''))" if question.level == "city" else "''",
        value=(_VALUES_OF_HEXAGONS if is_h3 else _VALUES).get(question.metric, _COUNT),
        order="" if question.metric == "revenue" else "value DESC, ",
        boundary=boundary,
        sightings=sightings,
        completed=_COMPLETED,
        origins=_ORIGINS,
        kept=_kept(question.metric, question.filters),
    )
    parameters = {**question.bound, "resolution": question.resolution, "most": MOST_HEXAGONS + 1}
    rows = await warehouse.query(sql, parameters)
    if is_h3 and len(rows) > MOST_HEXAGONS:
        raise TooManyHexagons(f"more than {MOST_HEXAGONS} hexagons of resolution {question.resolution}")
    return rows


def _kept(metric: Metric, filters: Filters) -> str:
    match metric:
        case "bookings":
            return bookings_kept(filters)
        case "revenue":
            return payments_kept(filters)
        case "trips":
            return trips_kept(filters)
        case "users":
            return users_kept(filters)
        case "routes":
            return routes_kept(filters)
        case "drivers":
            of_one = "driver_id = {driver_id:UUID} AND " if filters.driver_id else ""
            return of_one + users_kept(filters, "driver_id")


def _where(question: Question, row: Row) -> dict[str, Any]:
    if question.level == "h3":
        hexagon = row["hexagon"] or None
        lat, lon = (row["lat"], row["lon"]) if hexagon else (None, None)
        return {"h3": hexagon, "lat": lat, "lon": lon}
    state = {"state": row["state_name"] or None}
    return state | {"city": row["city_name"] or None} if question.level == "city" else state


def _revenue(question: Question, rows: list[Row]) -> list[Place]:
    """The most first: in the service's own currency, then in the others in their order."""
    amounts = [{name: Decimal(text) for name, text in row["value"].items()} for row in rows]
    whole: defaultdict[str, Decimal] = defaultdict(Decimal)
    for amount in amounts:
        for currency, paid in amount.items():
            whole[currency] += paid
    currencies = sorted(whole, key=lambda currency: (currency != question.default_currency, currency))
    ordered = sorted(
        zip(rows, amounts, strict=True),
        key=lambda place: [-place[1].get(currency, Decimal()) for currency in currencies],
    )
    return [
        Place(
            **_where(question, row),
            value=money(row["value"]),
            share={
                currency: float(paid / whole[currency]) if whole[currency] else None
                for currency, paid in sorted(amount.items())
            },
        )
        for row, amount in ordered
    ]
