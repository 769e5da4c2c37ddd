"""Drivers: who drives, what they earn, who stays. `GET /v1/metrics/drivers`."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, get_args

from msgspec import Meta, Struct

from openride_analytics.metrics.acting import DRIVING, ONLINE, distinct_users
from openride_analytics.metrics.filters import users_kept
from openride_analytics.metrics.measure import AXIS, measure
from openride_analytics.metrics.question import (
    BREAKDOWNS,
    PREVIOUS,
    SERIES,
    SUMMARY,
    WHOLE,
    AnswerHead,
    Bucket,
    Money,
    NoBreakdowns,
    PreviousHead,
    Question,
    compared,
    data_through,
    mean_money,
    money,
    money_text,
    period_answer,
    rate,
    series,
    statement,
    whole,
)
from openride_analytics.period import milliseconds
from openride_analytics.warehouse import Row, Warehouse
from openride_analytics.warehouse.facts import repeated

FILTERS: Final = frozenset({"city", "state", "driver_id", "currency"})

Sort = Literal["earnings", "trips", "distance"]
SORTS: Final = get_args(Sort)

_RETENTION_DAYS: Final = (7, 30, 90)
_DAY_MS: Final = 86_400_000


def _amount(description: str, numerator: str | None = None, denominator: str | None = None) -> Meta:
    return Meta(
        description=f"{description} Exact, decimal text.",
        examples=["45200.00"],
        extra=measure("money", numerator, denominator),
    )


class Earnings(Struct, kw_only=True):
    """The distribution of the drivers' summed earnings in one currency (linear interpolation)."""

    min: Annotated[str, _amount("Least of the drivers' summed earnings.")]
    p10: Annotated[str, _amount("10th percentile of the drivers' summed earnings.")]
    p25: Annotated[str, _amount("25th percentile of the drivers' summed earnings.")]
    p50: Annotated[str, _amount("Median of the drivers' summed earnings.")]
    p75: Annotated[str, _amount("75th percentile of the drivers' summed earnings.")]
    p90: Annotated[str, _amount("90th percentile of the drivers' summed earnings.")]
    p95: Annotated[str, _amount("95th percentile of the drivers' summed earnings.")]
    p99: Annotated[str, _amount("99th percentile of the drivers' summed earnings.")]
    max: Annotated[str, _amount("Most of the drivers' summed earnings.")]
    mean: Annotated[
        str,
        _amount("Mean of the drivers' summed earnings.", "summed earnings", "drivers with a completed trip"),
    ]


_PERCENTILES: Final = {
    "min": 0,
    "p10": 10,
    "p25": 25,
    "p50": 50,
    "p75": 75,
    "p90": 90,
    "p95": 95,
    "p99": 99,
    "max": 100,
}


class DriverRetention(Struct, kw_only=True):
    """Who came back."""

    day: Annotated[
        int,
        Meta(
            description="N: another completed trip at least N × 24 h after the first.",
            examples=[7],
            extra=AXIS,
        ),
    ]
    eligible: Annotated[
        int,
        Meta(
            description="Drivers whose first completed trip is in the period and at least N days ago.",
            examples=[50],
            extra=measure("users", basis="cohort"),
        ),
    ]
    retained: Annotated[
        int,
        Meta(
            description="Those of the eligible drivers with another completed trip at least N × 24 h after the first.",
            examples=[33],
            extra=measure("users", basis="cohort"),
        ),
    ]
    rate: Annotated[
        float | None,
        Meta(
            description="`retained` ÷ `eligible`.",
            examples=[0.66],
            extra=measure("ratio", "retained", "eligible", basis="cohort"),
        ),
    ]


class DriverMetrics(Struct, kw_only=True):
    """Of a period."""

    active_drivers: Annotated[
        int,
        Meta(
            description="Distinct drivers with a `trip.started` or `trip.completed`.",
            examples=[410],
            extra=measure("users"),
        ),
    ]
    online_drivers: Annotated[
        int, Meta(description="Distinct drivers with a location.", examples=[468], extra=measure("users"))
    ]
    earnings: Annotated[
        dict[str, Earnings],
        Meta(
            description="By currency: the distribution, over the drivers with a completed trip in the period, of each "
            "one's summed `driver_earnings`.",
        ),
    ]
    average_earnings_per_trip: Annotated[
        Money,
        Meta(
            description="Earnings ÷ trips completed, by currency.",
            examples=[{"NGN": "3503.24"}],
            extra=measure(
                "money by currency", "sum of driver_earnings", "trips completed with earnings, by currency"
            ),
        ),
    ]
    retention: Annotated[
        list[DriverRetention],
        Meta(description="Of the drivers whose first completed trip ever is in the period, who drove again."),
    ]


class DriverBucket(Bucket, kw_only=True):
    """One bucket of the series."""

    active_drivers: Annotated[
        int,
        Meta(
            description="Distinct drivers with a trip started or completed in it.",
            examples=[120],
            extra=measure("users"),
        ),
    ]
    online_drivers: Annotated[
        int,
        Meta(description="Distinct drivers with a location in it.", examples=[140], extra=measure("users")),
    ]


class TopDriver(Struct, kw_only=True):
    """One of the first by earnings, trips or distance; ties by `driver_id`."""

    driver_id: Annotated[
        str, Meta(description="The driver.", examples=["6b1d0a3e-94a1-4b0e-9f0e-0c9f3f1c2d4e"])
    ]
    trips: Annotated[
        int,
        Meta(
            description="Distinct trips that the driver completed in the period.",
            examples=[9],
            extra=measure("trips"),
        ),
    ]
    distance_km: Annotated[
        float,
        Meta(
            description="Summed distance of these trips, to the millimetre.",
            examples=[88.1],
            extra=measure("kilometres"),
        ),
    ]
    earnings: Annotated[
        Money,
        Meta(
            description="Summed `driver_earnings` of these trips.",
            examples=[{"NGN": "31500.00"}],
            extra=measure("money by currency"),
        ),
    ]


class PreviousDrivers(PreviousHead, kw_only=True):
    """The period before."""

    summary: Annotated[DriverMetrics, SUMMARY]


class DriversAnswer(AnswerHead, kw_only=True):
    """What `GET /v1/metrics/drivers` answers."""

    summary: Annotated[DriverMetrics, SUMMARY]
    previous: Annotated[PreviousDrivers | None, PREVIOUS]
    series: Annotated[list[DriverBucket], SERIES]
    breakdowns: Annotated[NoBreakdowns, BREAKDOWNS]
    top: Annotated[list[TopDriver], Meta(description="The first drivers by `sort`, `limit` of them.")]


# The trips completed in the period, each by its first completion in it, summed by driver.
_TRIPS: Final = """
    trips AS
    (
        SELECT
            driver_id,
            distance_km AS distance,
            driver_earnings AS earned,
            if(earned IS NOT NULL, currency, '') AS earned_currency
        FROM facts FINAL
        WHERE event_type = 'trip.completed' AND {in_period} AND notEmpty(driver_id) AND {kept} AND is_alone

        UNION ALL

        SELECT
            argMinIf(repeated.driver_id, {first}, notEmpty(repeated.driver_id)) AS driver_id,
            argMin(distance_km, {first}) AS distance,
            argMin(driver_earnings, {first}) AS earned,
            argMinIf(currency, {first}, driver_earnings IS NOT NULL) AS earned_currency
        FROM {repeated} AS repeated
        WHERE event_type = 'trip.completed' AND {in_period}
        GROUP BY thing_id
        HAVING notEmpty(driver_id) AND {kept}
    ),
    earnings AS
    (
        SELECT
            driver_id,
            earned_currency AS currency,
            count() AS trips,
            ifNull(sum(distance), 0) AS distance_km,
            count(earned) AS paid_trips,
            ifNull(sum(earned), 0) AS total
        FROM trips
        GROUP BY driver_id, currency
    )
"""

# By currency: how many drivers, what they earned, and for each percentile the two values it lies between (the same one
# where it falls on a driver).
_EARNINGS: Final = """
-- drivers.earnings
WITH {trips}
SELECT
    currency,
    count() AS drivers,
    toString(sum(total)) AS earnings,
    sum(earnings.paid_trips) AS paid_trips,
    arraySort(groupArray(total)) AS sorted,
    arrayMap(p -> toString(sorted[intDiv((drivers - 1) * p, 100) + 1]), {percentiles:Array(UInt64)}) AS lower,
    arrayMap(p -> toString(sorted[intDiv((drivers - 1) * p + 99, 100) + 1]), {percentiles:Array(UInt64)}) AS upper
FROM earnings
WHERE earnings.paid_trips > 0
GROUP BY currency
"""

# Distances to the millimetre: the same trips in another order would add up to another last digit, and equal drivers differ.
_TOP: Final = """
-- drivers.top
WITH {trips}
SELECT
    toString(driver_id) AS driver,
    sum(earnings.trips) AS trips,
    round(sum(earnings.distance_km), 6) AS distance_km,
    sumIf(total, currency = {sort_currency:String}) AS earned,
    CAST(sumMapIf(map(currency, total), paid_trips > 0), 'Map(String, String)') AS earnings_by_currency
FROM earnings
GROUP BY driver_id
ORDER BY {order} DESC, driver
LIMIT {limit:UInt64}
"""

_ORDERS: Final[dict[str, str]] = {
    "earnings": "earned",
    "trips": "trips",
    "distance": "distance_km",
}

# Each driver's first completed trip ever, if it is in the period, and the latest completion of any other trip. A trip that
# was completed once cannot be days after itself; of those completed again only the first one is to be left out.
_RETENTION: Final = """
-- drivers.retention
WITH
    drivers AS
    (
        SELECT
            min(toUnixTimestamp64Milli(event_timestamp)) AS first_ms,
            argMin(if(is_alone, {nobody}, thing_id), {first}) AS first_again,
            greatest(
                maxIf(toUnixTimestamp64Milli(event_timestamp), is_alone),
                arrayMax(arrayMap(
                    trip -> if(trip.1 = first_again, toInt64(0), trip.2),
                    groupArrayIf((thing_id, toUnixTimestamp64Milli(event_timestamp)), NOT is_alone)
                ))
            ) AS other_ms
        FROM facts FINAL
        WHERE event_type = 'trip.completed' AND notEmpty(driver_id) AND {kept}
        GROUP BY driver_id
        HAVING first_ms >= {start:Int64} AND first_ms < {end:Int64}
    )
SELECT
    day,
    countIf(first_ms + day_ms <= {now:Int64}) AS eligible,
    countIf(first_ms + day_ms <= {now:Int64} AND other_ms >= first_ms + day_ms) AS retained
FROM drivers
ARRAY JOIN {days:Array(UInt64)} AS day, arrayMap(d -> d * 86400000, {days:Array(UInt64)}) AS day_ms
GROUP BY day
"""

_NOBODY: Final = "toUUID('00000000-0000-0000-0000-000000000000')"


async def ask(warehouse: Warehouse, question: Question) -> DriversAnswer:
    """Answers for a period; raises what `Warehouse.query` raises."""
    kept = _kept(question)
    ranking = {
        **question.parameters,
        "limit": question.limit,
        "sort_currency": question.filters.currency or question.default_currency,
    }

    async def summarise(asked: Question) -> DriverMetrics:
        return _metrics(asked, *await asyncio.gather(_driving(warehouse, asked), _trips(warehouse, asked)))

    through, driving, trips, top, previous = await asyncio.gather(
        data_through(warehouse),
        _driving(warehouse, question),
        _trips(warehouse, question),
        warehouse.query(
            statement(_TOP, trips=_TRIPS, kept=kept, repeated=repeated(), order=_ORDERS[question.sort]),
            ranking,
        ),
        compared(question, summarise, PreviousDrivers),
    )
    return DriversAnswer(
        period=period_answer(question.period),
        data_through=through,
        summary=_metrics(question, driving, trips),
        previous=previous,
        series=series(question, driving, DriverBucket, _shape),
        breakdowns=NoBreakdowns(),
        top=[
            TopDriver(
                driver_id=row["driver"],
                trips=row["trips"],
                distance_km=row["distance_km"],
                earnings=money(_in_currency(question, row["earnings_by_currency"])),
            )
            for row in top
        ],
    )


async def _driving(warehouse: Warehouse, question: Question) -> dict[int, Row]:
    """How many drivers were active and online, by bucket and in the whole period."""
    spans = [(milliseconds(start), milliseconds(end)) for start, end in question.period.spans]
    windows = [(question.period.start_ms, question.period.end_ms), *spans]
    active, online = await asyncio.gather(
        *(
            distinct_users(
                warehouse, windows, [kind], kept=_kept(question, "user_id"), filters=question.filters.given
            )
            for kind in (DRIVING, ONLINE)
        )
    )
    buckets = [WHOLE, *[start for start, _ in spans]]
    return {
        bucket: {"active_drivers": active[number], "online_drivers": online[number]}
        for number, bucket in enumerate(buckets)
    }


def _kept(question: Question, column: str = "driver_id") -> str:
    """A condition on a column of drivers' ids. The currency keeps amounts, not drivers."""
    condition = users_kept(question.filters, column)
    return f"{condition} AND {column} = {{driver_id:UUID}}" if question.filters.driver_id else condition


@dataclass(frozen=True)
class _Trips:
    """What the drivers' trips say: earnings by currency, retention by day."""

    earnings: dict[str, Row]
    retention: dict[int, Row]


async def _trips(warehouse: Warehouse, question: Question) -> _Trips:
    kept = _kept(question)
    earnings, retention = await asyncio.gather(
        warehouse.query(
            statement(_EARNINGS, trips=_TRIPS, kept=kept, repeated=repeated()),
            {**question.parameters, "percentiles": list(_PERCENTILES.values())},
        ),
        warehouse.query(
            statement(_RETENTION, kept=kept, nobody=_NOBODY),
            {**question.parameters, "now": milliseconds(question.now), "days": list(_RETENTION_DAYS)},
        ),
    )
    return _Trips({row["currency"]: row for row in earnings}, {row["day"]: row for row in retention})


def _metrics(question: Question, driving: dict[int, Row], trips: _Trips) -> DriverMetrics:
    by_currency = _in_currency(question, trips.earnings)
    return DriverMetrics(
        **whole(question, driving, _shape),
        earnings={currency: _distribution(row) for currency, row in sorted(by_currency.items())},
        average_earnings_per_trip=mean_money(
            {currency: row["earnings"] for currency, row in by_currency.items()},
            {currency: row["paid_trips"] for currency, row in by_currency.items()},
        ),
        retention=[_retention(day, trips.retention.get(day, {})) for day in _RETENTION_DAYS],
    )


def _shape(_question: Question, row: Row, _start: datetime, _end: datetime) -> dict[str, Any]:
    return {"active_drivers": row.get("active_drivers", 0), "online_drivers": row.get("online_drivers", 0)}


def _distribution(row: Row) -> Earnings:
    """Percentiles between neighbours, exactly: the position of p is (drivers − 1) × p / 100."""
    values = {"mean": money_text(Decimal(row["earnings"]) / row["drivers"])}
    for (name, percent), lower, upper in zip(_PERCENTILES.items(), row["lower"], row["upper"], strict=True):
        beyond = Decimal((row["drivers"] - 1) * percent % 100) / 100
        values[name] = money_text(Decimal(lower) + (Decimal(upper) - Decimal(lower)) * beyond)
    return Earnings(**values)


def _retention(day: int, row: Row) -> DriverRetention:
    eligible, retained = row.get("eligible", 0), row.get("retained", 0)
    return DriverRetention(day=day, eligible=eligible, retained=retained, rate=rate(retained, eligible))


def _in_currency(question: Question, amounts: dict[str, Any]) -> dict[str, Any]:
    currency = question.filters.currency
    return amounts if currency is None else {name: amounts[name] for name in amounts if name == currency}
