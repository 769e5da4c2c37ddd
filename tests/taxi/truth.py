"""What the metrics endpoints must answer once the service holds the taxi trips, and nothing else.

Every figure comes straight from the CSV, with Polars, by the definitions of the metrics; neither the
service nor `events` has a part in it. Each function answers like its endpoint: `period`, `data_through`,
`summary`, `previous`, `series`, `breakdowns`, and `popular` or `top` beside them. Money is exact text, to be
compared as such; rates, means and percentiles are floats, to be compared approximately.

The arguments are the request's: `calendar` says that the period was asked for by days and not by instants
(which matters for the period before), `compare` that `previous` was asked for.

The trips make some answers short: nobody registers, no driver reports a location, nothing is cancelled,
fails or is refunded, there is one currency, and routes come into being on 28 February 2019 only. Filters are
not covered, nor periods that are not over yet (`ValueError`).
"""

import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

import polars as pl

from .periods import NEW_YORK, Granularity, Span, buckets, midnight, previous_period

TRIPS_CSV: Final = Path(__file__).parent.parent / "data" / "nyc_taxi_trips_2019-03.csv"
CURRENCY: Final = "USD"
SEATS_TOTAL: Final = 6
ROUTES_CREATED: Final = datetime(2019, 2, 28, 5, 0, tzinfo=UTC)
ROUTES_ACTIVATED: Final = datetime(2019, 2, 28, 5, 1, tzinfo=UTC)
PERCENTILES: Final = (10, 25, 50, 75, 90, 95, 99)
RETENTION_DAYS: Final = (7, 30, 90)

Fields: TypeAlias = dict[str, Any]


# The rides


@cache
def rides() -> pl.DataFrame:
    """One row a CSV row: the instants of its events in UTC, who and where, exact money, minutes and distance.

    Times are read strictly: a local time that does not exist or exists twice would raise.
    """
    money = pl.Decimal(12, 2)
    rows = (
        pl.read_csv(TRIPS_CSV, infer_schema=False)
        .with_row_index("i")
        .with_columns(pl.col("^(pickup|dropoff)_(zone|borough)$").fill_null("Unknown"))
        .with_columns(
            pl.col("fare", "tip", "total", "distance").cast(money),
            pl.col("pickup", "dropoff")
            .str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="ms")
            .dt.replace_time_zone(NEW_YORK, ambiguous="raise", non_existent="raise")
            .dt.convert_time_zone("UTC"),
            seats=pl.max_horizontal(pl.col("passengers").cast(pl.Int64), pl.lit(1, pl.Int64)),
            route=pl.format("{}>{}", "pickup_zone", "dropoff_zone"),
        )
    )
    pickup, driver_share = pl.col("pickup"), pl.col("fare") + pl.col("tip")
    commission = pl.col("total") - driver_share
    routes = {name: f"route:{name}" for name in rows["route"].unique()}
    return rows.select(
        created=pickup - pl.duration(minutes=15),
        initiated=pickup - pl.duration(minutes=14),
        succeeded=pickup - pl.duration(minutes=14) + pl.duration(milliseconds=2500),
        confirmed=pickup - pl.duration(minutes=13),
        started=pickup,
        ended="dropoff",
        scheduled=pickup.dt.truncate("5m"),
        rider=pl.format("rider {}", pl.col("i") % 1500),
        driver_id=pl.col("route").replace_strict(
            {name: _uuid(f"driver:{zlib.crc32(text.encode()) % 200}") for name, text in routes.items()}
        ),
        route_id=pl.col("route").replace_strict({name: _uuid(text) for name, text in routes.items()}),
        origin_city="pickup_zone",
        origin_state="pickup_borough",
        destination_city="dropoff_zone",
        destination_state="dropoff_borough",
        seats="seats",
        total="total",
        earnings=driver_share,
        commission=pl.when(commission > 0).then(commission).otherwise(pl.lit(0).cast(money)),
        payment_method=pl.col("payment").fill_null("unknown"),
        provider="color",
        minutes=pl.max_horizontal((pl.col("dropoff") - pickup).dt.total_seconds(), pl.lit(0)) / 60,
        miles="distance",
        km=pl.col("distance").cast(pl.Float64) * 1.609344,
    )


@cache
def routes_of_rides() -> pl.DataFrame:
    """One row a route: its id, driver, cities and states."""
    return (
        rides()
        .select(
            "route_id", "driver_id", "origin_city", "origin_state", "destination_city", "destination_state"
        )
        .unique()
    )


@cache
def acts() -> pl.DataFrame:
    """Who acted when: riders by booking, paying and riding, drivers by driving and by their routes."""
    by_trip = [
        rides().select(at=event, user=user)
        for event, user in (
            ("created", "rider"),
            ("initiated", "rider"),
            ("started", "rider"),
            ("ended", "rider"),
            ("started", "driver_id"),
            ("ended", "driver_id"),
        )
    ]
    by_route = [
        routes_of_rides().select(at=pl.lit(instant).dt.cast_time_unit("ms"), user="driver_id")
        for instant in (ROUTES_CREATED, ROUTES_ACTIVATED)
    ]
    return pl.concat(by_trip + by_route)


# The endpoints


def users(
    start: datetime,
    end: datetime,
    timezone: str = NEW_YORK,
    granularity: Granularity = "day",
    *,
    calendar: bool = True,
    compare: bool = False,
) -> Fields:
    """`/v1/metrics/users`: riders and drivers act, but none of them ever registered."""

    def bucket(span: Span) -> Fields:
        return {"active_users": _acting(span.start, span.end), "registrations": 0}

    def summary(span: Span) -> Fields:
        today = (span.end - timedelta(milliseconds=1)).astimezone(span.zone).date()

        def acting_on_days(first: int, last: int) -> int:
            since, until = (midnight(today + timedelta(days=n), span.zone) for n in (first, last + 1))
            return _acting(since, min(until, span.end))

        mau = acting_on_days(-29, 0)
        daily = [acting_on_days(n, n) for n in range(-29, 1)]
        return bucket(span) | {
            "dau": acting_on_days(0, 0),
            "wau": acting_on_days(-6, 0),
            "mau": mau,
            "stickiness": sum(daily) / 30 / mau if mau else None,
            "growth_rate": None,
            "total_users": 0,
            "drivers": 0,
            "verified_drivers": 0,
            "kyc_completion_rate": None,
            "activated_drivers": 0,
            "driver_activation_rate": None,
        }

    return _answer(start, end, timezone, granularity, calendar, compare, summary, bucket)


def bookings(
    start: datetime,
    end: datetime,
    timezone: str = NEW_YORK,
    granularity: Granularity = "day",
    *,
    calendar: bool = True,
    compare: bool = False,
) -> Fields:
    """`/v1/metrics/bookings`: every booking is confirmed and completed in the end, none is cancelled."""

    def summary(span: Span) -> Fields:
        created = rides().filter(span.holds("created"))
        confirmed = rides().filter(span.holds("confirmed"))
        riders = created["rider"].n_unique()
        to_confirm = (created["confirmed"] - created["created"]).dt.total_milliseconds() / 60_000
        return {
            "created": created.height,
            "confirmed": confirmed.height,
            "cancelled": 0,
            "completed": rides().filter(span.holds("ended")).height,
            "conversion_rate": _share(created["confirmed"].count(), created.height),
            "cancellation_rate": _share(0, created.height),
            "completion_rate": _share(created["ended"].count(), created.height),
            "gross_booking_value": _sum(confirmed["total"]),
            "average_booking_value": _mean_money(confirmed["total"]),
            "booking_frequency": created.height / riders / (span.local_days / 30) if riders else None,
            "unique_riders": riders,
            "seats_booked": int(confirmed["seats"].sum()),
            "cancelled_by": {"RIDER": 0, "DRIVER": 0, "SYSTEM": 0},
            "median_minutes_to_confirm": _percentile(to_confirm, 50),
        }

    return _answer(start, end, timezone, granularity, calendar, compare, summary)


def payments(
    start: datetime,
    end: datetime,
    timezone: str = NEW_YORK,
    granularity: Granularity = "day",
    *,
    calendar: bool = True,
    compare: bool = False,
) -> Fields:
    """`/v1/metrics/payments`: every payment succeeds 2.5 s after its initiation, none is refunded."""

    def summary(span: Span) -> Fields:
        initiated = rides().filter(span.holds("initiated"))
        succeeded = rides().filter(span.holds("succeeded"))
        processing_ms = (
            (succeeded["succeeded"] - succeeded["initiated"]).dt.total_milliseconds().cast(pl.Float64)
        )
        return {
            "initiated": initiated.height,
            "succeeded": succeeded.height,
            "failed": 0,
            "refunded": 0,
            "success_rate": _share(initiated["succeeded"].count(), initiated.height),
            "average_processing_time_ms": processing_ms.mean(),
            "p50_processing_time_ms": _percentile(processing_ms, 50),
            "p95_processing_time_ms": _percentile(processing_ms, 95),
            "refund_rate": _share(0, succeeded.height),
            "revenue": _sum(succeeded["total"]),
            "refunded_amount": {},
            "net_revenue": _sum(succeeded["total"]),
        }

    def by(column: str, span: Span) -> list[Fields]:
        lines = []
        for (value,), of_value in rides().group_by(column):
            initiated = of_value.filter(span.holds("initiated"))
            succeeded = of_value.filter(span.holds("succeeded"))
            if initiated.height or succeeded.height:
                lines.append(
                    {
                        "value": value,
                        "initiated": initiated.height,
                        "succeeded": succeeded.height,
                        "failed": 0,
                        "success_rate": _share(initiated["succeeded"].count(), initiated.height),
                        "revenue": _sum(succeeded["total"]),
                    }
                )
        return sorted(lines, key=lambda line: (-line["initiated"], -line["succeeded"], line["value"]))

    span = _span(start, end, timezone)
    return _answer(start, end, timezone, granularity, calendar, compare, summary) | {
        "breakdowns": {
            "payment_method": by("payment_method", span),
            "provider": by("provider", span),
            "error_code": [],
        }
    }


def trips(
    start: datetime,
    end: datetime,
    timezone: str = NEW_YORK,
    granularity: Granularity = "day",
    *,
    calendar: bool = True,
    compare: bool = False,
) -> Fields:
    """`/v1/metrics/trips`: every trip that starts completes; a departure is at most five minutes late."""

    def summary(span: Span) -> Fields:
        started = rides().filter(span.holds("started"))
        completed = rides().filter(span.holds("ended"))
        on_time = started.filter(pl.col("started") <= pl.col("scheduled") + pl.duration(minutes=10))
        return {
            "started": started.height,
            "completed": completed.height,
            "cancelled": 0,
            "completion_rate": _share(completed.height, completed.height),
            "average_duration_minutes": completed["minutes"].mean(),
            "p50_duration_minutes": _percentile(completed["minutes"], 50),
            "p95_duration_minutes": _percentile(completed["minutes"], 95),
            "average_distance_km": completed["km"].mean(),
            "p50_distance_km": _percentile(completed["km"], 50),
            "p95_distance_km": _percentile(completed["km"], 95),
            "on_time_rate": _share(on_time.height, started.height),
            "driver_earnings": _sum(completed["earnings"]),
            "platform_commission": _sum(completed["commission"]),
        }

    return _answer(start, end, timezone, granularity, calendar, compare, summary)


def drivers(
    start: datetime,
    end: datetime,
    timezone: str = NEW_YORK,
    granularity: Granularity = "day",
    *,
    calendar: bool = True,
    compare: bool = False,
    sort: Literal["earnings", "trips", "distance"] = "earnings",
    limit: int = 10,
    currency: str | None = None,
    configured_currency: str = "NGN",
) -> Fields:
    """`/v1/metrics/drivers`; `currency` is the request's parameter, `configured_currency` the service's own.

    Earnings rank the drivers in the first that is given. They are all in USD, so ranked in any other
    currency the drivers are level, and stand in the order of their ids.
    """
    amounts_shown = currency in {None, CURRENCY}

    def bucket(span: Span) -> Fields:
        driving = rides().filter(span.holds("started") | span.holds("ended"))
        return {"active_drivers": driving["driver_id"].n_unique(), "online_drivers": 0}

    def summary(span: Span) -> Fields:
        completed = rides().filter(span.holds("ended"))
        each = [
            Fraction(sum_) for sum_ in completed.group_by("driver_id").agg(pl.sum("earnings"))["earnings"]
        ]
        distribution = (
            {
                "min": _money(min(each)),
                "max": _money(max(each)),
                "mean": _money(sum(each, Fraction()) / len(each)),
            }
            | {f"p{p}": _money(_exact_percentile(each, p)) for p in PERCENTILES}
            if each
            else {}
        )
        return bucket(span) | {
            "earnings": {CURRENCY: distribution} if distribution and amounts_shown else {},
            "average_earnings_per_trip": _mean_money(completed["earnings"]) if amounts_shown else {},
            "retention": [_retention(span, day) for day in RETENTION_DAYS],
        }

    span = _span(start, end, timezone)
    ranked = (currency or configured_currency) == CURRENCY
    # By miles rather than by kilometres: exact decimals, so that equal distances are equal.
    key = {"earnings": "earnings" if ranked else None, "trips": "trips", "distance": "miles"}[sort]
    completed = (
        rides()
        .filter(span.holds("ended"))
        .group_by("driver_id")
        .agg(pl.sum("earnings", "miles"), trips=pl.len())
        .sort("driver_id")
    )
    if key is not None:
        completed = completed.sort(key, descending=True, maintain_order=True)
    top = [
        {
            "driver_id": row["driver_id"],
            "trips": row["trips"],
            "distance_km": round(float(row["miles"] * Decimal("1.609344")), 6),
            "earnings": {CURRENCY: _money(row["earnings"])} if amounts_shown else {},
        }
        for row in completed.head(limit).iter_rows(named=True)
    ]
    return _answer(start, end, timezone, granularity, calendar, compare, summary, bucket) | {"top": top}


def routes(
    start: datetime,
    end: datetime,
    timezone: str = NEW_YORK,
    granularity: Granularity = "day",
    *,
    calendar: bool = True,
    compare: bool = False,
    limit: int = 10,
) -> Fields:
    """`/v1/metrics/routes`: all routes are created in one instant and stay active from the next minute on."""
    all_routes = routes_of_rides()

    def bucket(span: Span) -> Fields:
        return {
            "created": all_routes.height if span.contains(ROUTES_CREATED) else 0,
            "activated": all_routes.height if span.contains(ROUTES_ACTIVATED) else 0,
            "cancelled": 0,
        }

    def summary(span: Span) -> Fields:
        return bucket(span) | {
            "active_routes": all_routes.height if span.end > ROUTES_ACTIVATED else 0,
            "utilization": _departures(span)["occupancy"].mean(),
        }

    span = _span(start, end, timezone)
    utilization = dict(_departures(span).group_by("route_id").agg(pl.mean("occupancy")).iter_rows())
    booked = (
        rides()
        .filter(span.holds("created"))
        .group_by("route_id")
        .agg(
            bookings=pl.len(),
            confirmed=pl.count("confirmed"),
            seats_booked=pl.sum("seats"),
            revenue=pl.sum("total"),
        )
        .sort(["bookings", "route_id"], descending=[True, False])
        .head(limit)
        .join(all_routes, on="route_id", maintain_order="left")
    )
    popular = [
        {
            "route_id": row["route_id"],
            "route_name": f"{row['origin_city']} > {row['destination_city']}",
            **{
                name: row[name]
                for name in ("origin_city", "origin_state", "destination_city", "destination_state")
            },
            **{name: row[name] for name in ("bookings", "confirmed", "seats_booked")},
            "revenue": {CURRENCY: _money(row["revenue"])},
            "utilization": utilization.get(row["route_id"]),
        }
        for row in booked.iter_rows(named=True)
    ]

    def by(*columns: str) -> list[Fields]:
        if span.end <= ROUTES_CREATED:
            return []
        counted = (
            all_routes.group_by(columns)
            .agg(routes=pl.len())
            .sort(["routes", *columns], descending=[True, *(False for _ in columns)])
            .with_columns(active=pl.col("routes") if span.end > ROUTES_ACTIVATED else pl.lit(0))
        )
        return counted.rename(dict(zip(columns, ("value", "state"), strict=False))).to_dicts()

    return _answer(start, end, timezone, granularity, calendar, compare, summary, bucket) | {
        "popular": popular,
        "breakdowns": {"by_city": by("origin_city", "origin_state"), "by_state": by("origin_state")},
    }


def realtime() -> Fields:
    """The fields of `/v1/metrics/realtime`'s summary that trips of years ago leave at nothing."""
    counts = (
        "bookings_created",
        "bookings_confirmed",
        "bookings_cancelled",
        "payments_succeeded",
        "payments_failed",
        "trips_started",
        "trips_completed",
        "active_riders",
        "active_trips",
        "active_drivers",
    )
    return {"summary": dict.fromkeys(counts, 0) | {"revenue": {}}}


def _span(start: datetime, end: datetime, timezone: str) -> Span:
    if end > datetime.now(UTC):
        message = "a period that is not over yet has answers that change with the clock"
        raise ValueError(message)
    return Span(start.astimezone(UTC), end.astimezone(UTC), ZoneInfo(timezone))


def _answer(
    start: datetime,
    end: datetime,
    timezone: str,
    granularity: Granularity,
    calendar: bool,  # noqa: FBT001 - private, and handed through by every endpoint
    compare: bool,  # noqa: FBT001
    summary: Callable[[Span], Fields],
    bucket: Callable[[Span], Fields] | None = None,
) -> Fields:
    """Give the answers their common shape; a bucket has the summary's fields unless it has its own."""
    span = _span(start, end, timezone)
    previous = None
    if compare:
        before = _span(*previous_period(start, end, timezone, calendar=calendar), timezone)
        previous = {
            "period": {"start": _time(before.start), "end": _time(before.end)},
            "summary": summary(before),
        }
    return {
        "period": {
            "start": _time(span.start),
            "end": _time(span.end),
            "timezone": timezone,
            "granularity": granularity,
        },
        "data_through": _time(cast("datetime", rides()["ended"].max())),
        "summary": summary(span),
        "previous": previous,
        "series": [
            {"start": _time(part.start), "partial": False, **(bucket or summary)(part)}
            for part in buckets(span.start, span.end, timezone, granularity)
        ],
        "breakdowns": {},
    }


# Parts of the definitions


def _acting(since: datetime, until: datetime) -> int:
    return acts().filter(pl.col("at").is_between(since, until, closed="left"))["user"].n_unique()


def _departures(span: Span) -> pl.DataFrame:
    """Each departure (a route and a scheduled time) in the span, and how full its bookings make it."""
    return (
        rides()
        .filter(span.holds("scheduled"))
        .group_by("route_id", "scheduled")
        .agg(occupancy=(pl.sum("seats") / SEATS_TOTAL).clip(upper_bound=1.0))
    )


def _retention(span: Span, day: int) -> Fields:
    later = pl.duration(days=day)
    first_ever = (
        rides()
        .group_by("driver_id")
        .agg(first=pl.min("ended"), last=pl.max("ended"))
        .filter(span.holds("first"), pl.col("first") + later <= datetime.now(UTC))
    )
    # Some trip that late is the same as the last one being that late.
    retained = first_ever.filter(pl.col("last") >= pl.col("first") + later).height
    return {
        "day": day,
        "eligible": first_ever.height,
        "retained": retained,
        "rate": _share(retained, first_ever.height),
    }


# Numbers and texts


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percentile(values: pl.Series, percent: int) -> float | None:
    return values.quantile(percent / 100, interpolation="linear")


def _exact_percentile(values: Sequence[Fraction], percent: int) -> Fraction:
    ordered = sorted(values)
    below, rest = divmod(Fraction(percent, 100) * (len(ordered) - 1), 1)
    lower, upper = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    return lower + (upper - lower) * rest


def _sum(amounts: pl.Series) -> dict[str, str]:
    return {CURRENCY: _money(cast("Decimal", amounts.sum()))} if len(amounts) else {}


def _mean_money(amounts: pl.Series) -> dict[str, str]:
    return {CURRENCY: _money(Fraction(amounts.sum()) / len(amounts))} if len(amounts) else {}


def _money(amount: Decimal | Fraction) -> str:
    """Two to four decimals; `round` of a fraction is exact, and takes halves to the even digit."""
    ten_thousandths = round(Fraction(amount) * 10_000)
    whole, digits = f"{Decimal(ten_thousandths).scaleb(-4):.4f}".split(".")
    return f"{whole}.{digits[:2]}{digits[2:].rstrip('0')}"


def _time(instant: datetime) -> str:
    precision = "milliseconds" if instant.microsecond else "seconds"
    return instant.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def _uuid(text: str) -> str:
    return str(uuid5(UUID(int=0), text))
