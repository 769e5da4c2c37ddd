"""The metrics endpoints as subjects of a report: what of each stands out, and what else is shown of it."""

from typing import Final

from openride_analytics.metrics import bookings, drivers, payments, routes, trips, users
from openride_analytics.reports import charts, wording
from openride_analytics.reports.document import Chart, Column, Table
from openride_analytics.reports.sections import MOST_CURRENCIES, Key, Seen, Subject

_MOST_PLACES: Final = 40
_MOST_BARS: Final = 8

_PERCENTILES: Final = {
    "min": "Least",
    "p10": "10th percentile",
    "p25": "25th percentile",
    "p50": "Median",
    "p75": "75th percentile",
    "p90": "90th percentile",
    "p95": "95th percentile",
    "p99": "99th percentile",
    "max": "Most",
    "mean": "Mean",
}


def _bookings_charts(seen: Seen) -> list[Chart | None]:
    return [
        seen.over_time(
            "Bookings",
            {"created": "Created", "confirmed": "Confirmed", "cancelled": "Cancelled"},
            "Bookings",
        ),
        *seen.money_over_time("Gross booking value", "gross_booking_value"),
    ]


def _payments_charts(seen: Seen) -> list[Chart | None]:
    answer: payments.PaymentsAnswer = seen.answer
    return [
        *seen.money_over_time("Revenue", "revenue"),
        seen.over_time("Success rate", {"success_rate": "Success rate"}, "ratio"),
        charts.ranking(
            "Payment methods",
            "payments that succeeded",
            [
                (_known(item.value), item.succeeded, wording.count(item.succeeded))
                for item in answer.breakdowns.payment_method[:_MOST_BARS]
            ],
            "Payments",
        ),
        charts.ranking(
            "Reasons of failures",
            "payments that failed",
            [
                (_known(item.value), item.failed, wording.count(item.failed))
                for item in answer.breakdowns.error_code[:_MOST_BARS]
            ],
            "Payments",
        ),
    ]


def _payments_tables(seen: Seen) -> list[Table]:
    answer: payments.PaymentsAnswer = seen.answer
    currencies = seen.currencies("revenue")
    columns = (
        *(Column(title, right=True) for title in ("Initiated", "Succeeded", "Failed", "Success rate")),
        *(Column(f"Revenue, {currency}", right=True) for currency in currencies),
    )
    return [
        Table(
            title=title,
            columns=(Column(first), *columns),
            rows=tuple(
                (
                    _known(item.value),
                    wording.count(item.initiated),
                    wording.count(item.succeeded),
                    wording.count(item.failed),
                    wording.percent(item.success_rate),
                    *(wording.money(item.revenue.get(currency), currency) for currency in currencies),
                )
                for item in items
            ),
        )
        for title, first, items in (
            ("By payment method", "Method", answer.breakdowns.payment_method),
            ("By provider", "Provider", answer.breakdowns.provider),
        )
        if items
    ]


def _drivers_charts(seen: Seen) -> list[Chart | None]:
    answer: drivers.DriversAnswer = seen.answer
    earned = sorted(answer.summary.earnings, key=lambda c: (c != seen.question.default_currency, c))
    return [
        seen.over_time("Drivers", {"online_drivers": "Online", "active_drivers": "On trips"}, "Drivers"),
        *(
            charts.ranking(
                "Earnings of a driver",
                f"in the period, {currency}",
                [
                    (
                        _PERCENTILES[name],
                        float(getattr(answer.summary.earnings[currency], name)),
                        wording.money(getattr(answer.summary.earnings[currency], name), currency, "short"),
                    )
                    for name in ("p10", "p25", "p50", "p75", "p90")
                ],
                currency,
            )
            for currency in earned[: MOST_CURRENCIES if seen.detailed else 1]
        ),
    ]


def _drivers_tables(seen: Seen) -> list[Table]:
    answer: drivers.DriversAnswer = seen.answer
    currencies = sorted(answer.summary.earnings)
    tables = []
    if currencies:
        tables.append(
            Table(
                title="Earnings of a driver in the period",
                columns=(Column("Distribution"), *(Column(currency, right=True) for currency in currencies)),
                rows=tuple(
                    (
                        label,
                        *(
                            wording.money(
                                getattr(answer.summary.earnings[currency], name), currency, "rounded"
                            )
                            for currency in currencies
                        ),
                    )
                    for name, label in _PERCENTILES.items()
                ),
            )
        )
    tables.append(
        Table(
            title="New drivers who drove again",
            columns=(
                Column("At least … after the first trip"),
                *(Column(title, right=True) for title in ("Drivers", "Drove again", "Share")),
            ),
            rows=tuple(
                (
                    f"{item.day} days",
                    wording.count(item.eligible),
                    wording.count(item.retained),
                    wording.percent(item.rate),
                )
                for item in answer.summary.retention
            ),
            note="Of the drivers whose first trip ever is in the period, and was at least so long ago.",
        )
    )
    if answer.top:
        tables.append(
            Table(
                title="Top drivers by earnings",
                columns=(
                    Column("Driver"),
                    *(Column(title, right=True) for title in ("Trips", "Distance", "Earnings")),
                ),
                rows=tuple(
                    (
                        item.driver_id,
                        wording.count(item.trips),
                        wording.measured(item.distance_km, "kilometres"),
                        _amounts(item.earnings),
                    )
                    for item in answer.top
                ),
            )
        )
    return tables


def _routes_charts(seen: Seen) -> list[Chart | None]:
    answer: routes.RoutesAnswer = seen.answer
    return [
        charts.ranking(
            "Popular routes",
            "bookings created",
            [
                (_route(item), item.bookings, wording.count(item.bookings))
                for item in answer.popular[:_MOST_BARS]
            ],
            "Bookings",
        ),
        seen.over_time("New routes", {"created": "Created", "cancelled": "Cancelled"}, "Routes"),
    ]


def _routes_tables(seen: Seen) -> list[Table]:
    answer: routes.RoutesAnswer = seen.answer
    tables = []
    if answer.popular:
        tables.append(
            Table(
                title="Most booked routes",
                columns=(
                    *(Column("Route"), Column("From"), Column("To")),
                    *(Column(title, right=True) for title in ("Bookings", "Confirmed", "Seats")),
                    *(Column("Revenue", right=True), Column("Utilization", right=True)),
                ),
                rows=tuple(
                    (
                        _route(item),
                        _known(item.origin_city),
                        _known(item.destination_city),
                        wording.count(item.bookings),
                        wording.count(item.confirmed),
                        wording.count(item.seats_booked),
                        _amounts(item.revenue),
                        wording.percent(item.utilization),
                    )
                    for item in answer.popular
                ),
            )
        )
    places = answer.breakdowns.by_city
    if places:
        shown = places[:_MOST_PLACES]
        tables.append(
            Table(
                title="By the city they begin in",
                columns=(
                    *(Column("City"), Column("State")),
                    *(Column("Routes", right=True), Column("Active", right=True)),
                ),
                rows=tuple(
                    (
                        _known(place.value),
                        _known(place.state),
                        wording.count(place.routes),
                        wording.count(place.active),
                    )
                    for place in shown
                ),
                note=f"The first {len(shown)} of {len(places)} cities." if len(places) > len(shown) else "",
            )
        )
    return tables


def _amounts(amounts: dict[str, str]) -> str:
    return (
        ", ".join(wording.money(amount, currency) for currency, amount in amounts.items()) or wording.NOTHING
    )


def _known(value: str | None) -> str:
    return value or "Unknown"


def _route(item: routes.PopularRoute) -> str:
    if item.route_name:
        return item.route_name
    if item.origin_city and item.destination_city:
        return f"{item.origin_city} – {item.destination_city}"
    return item.route_id


SUBJECTS: Final = (
    Subject(
        name="users",
        title="Users",
        lead="Who was active, who joined, and who became a driver.",
        ask=users.ask,
        filters=users.FILTERS,
        keys=(
            Key("active_users", "Active users", headline=True),
            Key("registrations", "Registrations", headline=True),
            Key("total_users", "Registered users, in total"),
            Key("kyc_completion_rate", "Share of drivers verified"),
        ),
        series=("active_users", "registrations"),
        counts=("active_users", "registrations"),
        charts=lambda seen: [
            seen.over_time("Active users", {"active_users": "Active users"}, "Users"),
            seen.over_time("Registrations", {"registrations": "Registrations"}, "Users"),
        ],
        tables=lambda _: [],
    ),
    Subject(
        name="bookings",
        title="Bookings",
        lead="How many were made, what became of them, and what they are worth.",
        ask=bookings.ask,
        filters=bookings.FILTERS,
        keys=(
            Key("created", "Bookings created", headline=True),
            Key("conversion_rate", "Conversion rate", headline=True),
            Key("cancellation_rate", "Cancellation rate", "less"),
            Key("gross_booking_value", "Gross booking value"),
        ),
        series=("created", "confirmed", "cancelled", "completed", "conversion_rate", "gross_booking_value"),
        counts=("created", "confirmed", "cancelled", "completed"),
        charts=_bookings_charts,
        tables=lambda _: [],
    ),
    Subject(
        name="payments",
        title="Payments",
        lead="How many were made, how they went, and what they brought in.",
        ask=payments.ask,
        filters=payments.FILTERS,
        keys=(
            Key("revenue", "Revenue", headline=True),
            Key("net_revenue", "Net revenue"),
            Key("success_rate", "Success rate", headline=True),
            Key("refund_rate", "Refund rate", "less"),
        ),
        series=("initiated", "succeeded", "failed", "refunded", "success_rate", "revenue"),
        counts=("initiated", "succeeded", "failed", "refunded"),
        charts=_payments_charts,
        tables=_payments_tables,
    ),
    Subject(
        name="trips",
        title="Trips",
        lead="How many were driven, how long and far, how punctual, and what they earned.",
        ask=trips.ask,
        filters=trips.FILTERS,
        keys=(
            Key("completed", "Trips completed", headline=True),
            Key("completion_rate", "Completion rate"),
            Key("on_time_rate", "Left on time"),
            Key("platform_commission", "Platform commission"),
        ),
        series=("started", "completed", "cancelled", "completion_rate", "on_time_rate", "driver_earnings"),
        counts=("started", "completed", "cancelled"),
        charts=lambda seen: [
            seen.over_time("Trips", {"completed": "Completed", "cancelled": "Cancelled"}, "Trips"),
            seen.over_time(
                "Punctuality and completion",
                {"on_time_rate": "Left on time", "completion_rate": "Completion rate"},
                "ratio",
            ),
        ],
        tables=lambda _: [],
    ),
    Subject(
        name="drivers",
        title="Drivers",
        lead="Who drove, what they earned, and who stays.",
        ask=drivers.ask,
        filters=drivers.FILTERS,
        keys=(
            Key("active_drivers", "Drivers on trips", headline=True),
            Key("online_drivers", "Drivers online"),
            Key("average_earnings_per_trip", "Earnings per trip, mean"),
        ),
        series=("active_drivers", "online_drivers"),
        counts=("active_drivers", "online_drivers"),
        charts=_drivers_charts,
        tables=_drivers_tables,
    ),
    Subject(
        name="routes",
        title="Routes",
        lead="Which there are, which ones people book, and how full they drive.",
        ask=routes.ask,
        filters=routes.FILTERS,
        keys=(
            Key("active_routes", "Active routes"),
            Key("created", "Routes created"),
            Key("utilization", "Utilization"),
        ),
        series=("created", "activated", "cancelled"),
        counts=("created", "activated", "cancelled", "active_routes"),
        charts=_routes_charts,
        tables=_routes_tables,
    ),
)
