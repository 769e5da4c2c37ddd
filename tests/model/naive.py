"""The metrics once more, as plainly as they can be said: loops and sets over a list of events.

One function for each endpoint takes the events as they were sent (any order, any repeats) and a `Question`,
and gives the endpoint's answer. Nothing of the service is used here, and nothing is fast: where the service
and this disagree, one of them does not do what the contract says.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from math import fsum
from typing import Any

from .acting import acting_riders, acting_users, standing_routes
from .figures import (
    Money,
    averages,
    by_currency,
    mean,
    money_mean,
    money_percentile,
    money_text,
    money_texts,
    percentile,
    rate,
    totals,
)
from .kept import kept_bookings, kept_payments, kept_route, kept_trips, kept_users
from .periods import (
    DAY,
    Question,
    Span,
    buckets,
    days_ending_with,
    last_local_day,
    length_in_days,
    period,
    time_text,
    whole_period,
)
from .stored import (
    Event,
    before,
    by,
    distinct,
    during,
    first_known,
    first_known_of_each,
    first_money_of_each,
    latest,
    of,
    stored,
)

Answer = dict[str, Any]
Figures = dict[str, Any]

PARTIES = ("RIDER", "DRIVER", "SYSTEM")
RETENTION_DAYS = (7, 30, 90)
EARNINGS_PERCENTILES = (10, 25, 50, 75, 90, 95, 99)


# Users


def users(events: list[Event], question: Question) -> Answer:
    known = stored(events, question.default_currency)
    registered = of(known, "user.registered")
    kept = kept_users(known, question)

    def active(span: Span) -> int:
        return len(acting_users(during(known, span)) & kept)

    def registrations(span: Span) -> int:
        return len(distinct(during(registered, span), "user_id") & kept)

    def summary(back: int) -> Figures:
        span = period(question, back)
        earlier = registrations(period(question, back + 1))
        past = before(known, span.end)

        last_day = last_local_day(span, question.now, question.zone)
        daily = [
            acting_users(during(past, day)) & kept for day in days_ending_with(last_day, 30, question.zone)
        ]
        mau = len(set[str]().union(*daily))

        drivers = {event["user_id"] for event in of(past, "user.registered") if event["role"] == "DRIVER"}
        drivers |= distinct(of(past, "user.upgraded_to_driver"), "user_id")
        drivers &= kept
        verified = {
            user
            for user, checks in by(of(past, "user.kyc_verified"), "user_id").items()
            if latest(checks)["kyc_status"] == "VERIFIED"
        }
        with_route = distinct(standing_routes(past).values(), "driver_id")
        return {
            "active_users": active(span),
            "dau": len(daily[-1]),
            "wau": len(set[str]().union(*daily[-7:])),
            "mau": mau,
            "stickiness": sum(len(day) for day in daily) / 30 / mau if mau else None,
            "registrations": registrations(span),
            "growth_rate": rate(registrations(span) - earlier, earlier),
            "total_users": len(distinct(of(past, "user.registered"), "user_id") & kept),
            "drivers": len(drivers),
            "verified_drivers": len(drivers & verified),
            "kyc_completion_rate": rate(len(drivers & verified), len(drivers)),
            "activated_drivers": len(drivers & with_route),
            "driver_activation_rate": rate(len(drivers & with_route), len(drivers)),
        }

    def bucket(span: Span) -> Figures:
        return {"active_users": active(span), "registrations": registrations(span)}

    return answer(question, known, summary, bucket)


# Bookings


def bookings(events: list[Event], question: Question) -> Answer:
    known = stored(events, question.default_currency)
    kept = kept_bookings(known, question, currency=question.currency)
    ours = [event for event in of(known, "booking.") if event["booking_id"] in kept]
    ever_confirmed = by(of(ours, "booking.confirmed"), "booking_id")
    ever_cancelled = by(of(ours, "booking.cancelled"), "booking_id")
    ever_completed = by(of(ours, "booking.completed"), "booking_id")

    def measure(span: Span, *, whole: Span | None = None) -> Figures:
        now_on = during(ours, span)
        created = by(of(now_on, "booking.created"), "booking_id")
        confirmations = of(now_on, "booking.confirmed")
        cancelled = by(of(now_on, "booking.cancelled"), "booking_id")

        riders = distinct(of(now_on, "booking.created"), "rider_id")
        days = length_in_days(whole or span, question.zone)
        prices = first_money_of_each(confirmations, "booking_id", "total_price")
        cancellers = first_known_of_each(of(now_on, "booking.cancelled"), "booking_id", "cancelled_by")
        minutes_to_confirm = [
            between(creations[0], ever_confirmed[booking][0]) / timedelta(minutes=1)
            for booking, creations in created.items()
            if booking in ever_confirmed
        ]
        return {
            "created": len(created),
            "confirmed": len(distinct(confirmations, "booking_id")),
            "cancelled": len(cancelled),
            "completed": len(distinct(of(now_on, "booking.completed"), "booking_id")),
            "conversion_rate": rate(len(created.keys() & ever_confirmed.keys()), len(created)),
            "cancellation_rate": rate(len(created.keys() & ever_cancelled.keys()), len(created)),
            "completion_rate": rate(len(created.keys() & ever_completed.keys()), len(created)),
            "gross_booking_value": money_texts(totals(prices)),
            "average_booking_value": money_texts(averages(prices)),
            "booking_frequency": len(created) / len(riders) / (days / 30) if riders else None,
            "unique_riders": len(riders),
            "seats_booked": sum(first_known_of_each(confirmations, "booking_id", "seats_booked")),
            "cancelled_by": {party: cancellers.count(party) for party in PARTIES},
            "median_minutes_to_confirm": percentile(minutes_to_confirm, 50),
        }

    def measure_period(back: int) -> Figures:
        return measure(period(question, back), whole=whole_period(question, back))

    return answer(question, known, measure_period, measure)


# Payments


def payments(events: list[Event], question: Question) -> Answer:
    known = stored(events, question.default_currency)
    kept = kept_payments(known, question)
    ours = [event for event in of(known, "payment.") if event["payment_id"] in kept]
    ever_initiated = by(of(ours, "payment.initiated"), "payment_id")
    ever_succeeded = distinct(of(ours, "payment.success"), "payment_id")
    ever_failed = distinct(of(ours, "payment.failed"), "payment_id")
    ever_refunded = distinct(of(ours, "payment.refunded"), "payment_id")

    def outcomes(some: list[Event]) -> Figures:
        """What is counted alike for a period and for one payment method or provider in it."""
        initiated = distinct(of(some, "payment.initiated"), "payment_id")
        succeeded = distinct(of(some, "payment.success"), "payment_id")
        failed = distinct(of(some, "payment.failed"), "payment_id")
        decided = initiated & (ever_succeeded | ever_failed)
        revenue = totals(first_money_of_each(of(some, "payment.success"), "payment_id", "amount"))
        return {
            "initiated": len(initiated),
            "succeeded": len(succeeded),
            "failed": len(failed),
            "success_rate": rate(len(decided & ever_succeeded), len(decided)),
            "revenue": money_texts(revenue),
        }

    def processing_time_ms(payment: str, successes: list[Event]) -> float | None:
        sent: int | None = first_known(successes, "processing_time_ms")
        if sent is not None:
            return sent
        if payment in ever_initiated:
            return between(ever_initiated[payment][0], successes[0]) / timedelta(milliseconds=1)
        return None

    def measure(span: Span) -> Figures:
        now_on = during(ours, span)
        successes = by(of(now_on, "payment.success"), "payment_id")
        times = [processing_time_ms(payment, its_events) for payment, its_events in successes.items()]
        known_times = [time for time in times if time is not None]
        refunds = of(now_on, "payment.refunded")
        revenue = totals(first_money_of_each(of(now_on, "payment.success"), "payment_id", "amount"))
        refunded = totals(
            (event["currency"], event["refund_amount"]) for event in refunds if "refund_amount" in event
        )
        net = {
            currency: revenue.get(currency, Decimal(0)) - refunded.get(currency, Decimal(0))
            for currency in revenue.keys() | refunded.keys()
        }
        return outcomes(now_on) | {
            "refunded": len(distinct(refunds, "payment_id")),
            "average_processing_time_ms": mean(known_times),
            "p50_processing_time_ms": percentile(known_times, 50),
            "p95_processing_time_ms": percentile(known_times, 95),
            "refund_rate": rate(len(successes.keys() & ever_refunded), len(successes)),
            "refunded_amount": money_texts(refunded),
            "net_revenue": money_texts(net),
        }

    def breakdown(field: str) -> list[Figures]:
        tried = of(during(ours, period(question)), "payment.initiated", "payment.success", "payment.failed")
        rows = [
            {"value": value} | outcomes([event for event in tried if event.get(field) == value])
            for value in {event.get(field) for event in tried}
        ]
        return sorted(
            rows,
            key=lambda row: (
                -row["initiated"],
                -row["succeeded"],
                -row["failed"],
                *last_if_null(row["value"]),
            ),
        )

    def failures() -> list[Figures]:
        failed = of(during(ours, period(question)), "payment.failed")
        rows: list[Figures] = [
            {
                "value": code,
                "failed": len(
                    distinct((event for event in failed if event.get("error_code") == code), "payment_id")
                ),
            }
            for code in {event.get("error_code") for event in failed}
        ]
        return sorted(rows, key=lambda row: (-row["failed"], *last_if_null(row["value"])))

    breakdowns = {
        "payment_method": breakdown("payment_method"),
        "provider": breakdown("provider"),
        "error_code": failures(),
    }
    return answer(question, known, lambda back: measure(period(question, back)), measure, breakdowns)


# Trips


def trips(events: list[Event], question: Question) -> Answer:
    known = stored(events, question.default_currency)
    kept = kept_trips(known, question)
    ours = [event for event in of(known, "trip.") if event["trip_id"] in kept]
    tolerance = timedelta(minutes=question.on_time_minutes)

    def measure(span: Span) -> Figures:
        now_on = during(ours, span)
        starts = of(now_on, "trip.started")
        completions = of(now_on, "trip.completed")
        completed = distinct(completions, "trip_id")
        cancelled = distinct(of(now_on, "trip.cancelled"), "trip_id")

        # Both times of one event, so that an actual departure is never held against another's schedule.
        timed = by((e for e in starts if "actual_departure" in e and "scheduled_departure" in e), "trip_id")
        on_time = [
            first["actual_departure"] <= first["scheduled_departure"] + tolerance
            for first, *_ in timed.values()
        ]
        minutes = first_known_of_each(completions, "trip_id", "duration_minutes")
        km = first_known_of_each(completions, "trip_id", "distance_km")
        return {
            "started": len(distinct(starts, "trip_id")),
            "completed": len(completed),
            "cancelled": len(cancelled),
            "completion_rate": rate(len(completed), len(completed | cancelled)),
            "average_duration_minutes": mean(minutes),
            "p50_duration_minutes": percentile(minutes, 50),
            "p95_duration_minutes": percentile(minutes, 95),
            "average_distance_km": mean(km),
            "p50_distance_km": percentile(km, 50),
            "p95_distance_km": percentile(km, 95),
            "on_time_rate": rate(sum(on_time), len(on_time)),
            "driver_earnings": money_texts(
                totals(first_money_of_each(completions, "trip_id", "driver_earnings"))
            ),
            "platform_commission": money_texts(
                totals(first_money_of_each(completions, "trip_id", "platform_commission"))
            ),
        }

    return answer(question, known, lambda back: measure(period(question, back)), measure)


# Drivers


def drivers(events: list[Event], question: Question) -> Answer:
    known = stored(events, question.default_currency)
    kept = kept_users(known, question)
    if question.driver_id is not None:
        kept &= {question.driver_id}
    completions = of(known, "trip.completed")
    careers = [done for driver, done in by(completions, "driver_id").items() if driver in kept]

    def trips_by_driver(span: Span) -> dict[str, list[list[Event]]]:
        """For each driver his trips completed in the span, each as its completions there."""
        found: dict[str, list[list[Event]]] = {}
        for trip in by(during(completions, span), "trip_id").values():
            driver = first_known(trip, "driver_id")
            if driver in kept:
                found.setdefault(driver, []).append(trip)
        return found

    def earned(trips: list[list[Event]]) -> list[Money]:
        money = first_money_of_each((event for trip in trips for event in trip), "trip_id", "driver_earnings")
        return [(currency, amount) for currency, amount in money if question.currency in (None, currency)]

    def bucket(span: Span) -> Figures:
        now_on = during(known, span)
        return {
            "active_drivers": len(distinct(of(now_on, "trip.started", "trip.completed"), "driver_id") & kept),
            "online_drivers": len(distinct(of(now_on, "driver.location.updated"), "driver_id") & kept),
        }

    def summary(back: int) -> Figures:
        span = period(question, back)
        found = trips_by_driver(span)
        sums = [item for trips in found.values() for item in totals(earned(trips)).items()]
        every_trip = [money for trips in found.values() for money in earned(trips)]
        return bucket(span) | {
            "earnings": {
                currency: distribution(amounts) for currency, amounts in sorted(by_currency(sums).items())
            },
            "average_earnings_per_trip": money_texts(averages(every_trip)),
            "retention": [retention(careers, span, days, question.now) for days in RETENTION_DAYS],
        }

    def top() -> list[Figures]:
        sort_currency = question.currency or question.default_currency
        ranked = []
        for driver, trips in trips_by_driver(period(question)).items():
            distances = first_known_of_each((e for trip in trips for e in trip), "trip_id", "distance_km")
            km = round(fsum(distances), 6)
            earnings = totals(earned(trips))
            rank: dict[str, Any] = {
                "earnings": earnings.get(sort_currency, Decimal(0)),
                "trips": len(trips),
                "distance": km,
            }
            row = {
                "driver_id": driver,
                "trips": len(trips),
                "distance_km": km,
                "earnings": money_texts(earnings),
            }
            ranked.append((-rank[question.sort], driver, row))
        return [row for _, _, row in sorted(ranked, key=lambda entry: entry[:2])][: question.limit]

    return answer(question, known, summary, bucket) | {"top": top()}


def retention(careers: list[list[Event]], span: Span, days: int, now: datetime) -> Figures:
    """Of the drivers (each as his completed trips) who began in the span, those who drove again later."""
    eligible = retained = 0
    for first, *later in careers:
        there = first["event_timestamp"] + days * DAY
        if span.start <= first["event_timestamp"] < span.end and there <= now:
            eligible += 1
            retained += any(
                event["event_timestamp"] >= there and event["trip_id"] != first["trip_id"] for event in later
            )
    return {"day": days, "eligible": eligible, "retained": retained, "rate": rate(retained, eligible)}


def distribution(amounts: list[Decimal]) -> dict[str, str]:
    figures = {f"p{percent}": money_percentile(amounts, percent) for percent in EARNINGS_PERCENTILES}
    figures |= {"min": min(amounts), "max": max(amounts), "mean": money_mean(amounts)}
    return {name: money_text(amount) for name, amount in figures.items()}


# Routes


def routes(events: list[Event], question: Question) -> Answer:
    known = stored(events, question.default_currency)
    created = by(of(known, "route.created"), "route_id")
    end = period(question).end

    def kept(route: str) -> bool:
        return kept_route(created.get(route, []), route, question)

    def count(some: Iterable[Event], kind: str) -> int:
        return sum(map(kept, distinct(of(some, kind), "route_id")))

    def bucket(span: Span) -> Figures:
        now_on = during(known, span)
        return {kind: count(now_on, f"route.{kind}") for kind in ("created", "activated", "cancelled")}

    def summary(back: int) -> Figures:
        span = period(question, back)
        occupancies = [occupancy for route, occupancy in departures(known, span) if kept(route)]
        return bucket(span) | {
            "active_routes": sum(map(kept, standing_routes(before(known, span.end)))),
            "utilization": mean(occupancies),
        }

    def places(*fields: str) -> list[Figures]:
        """The routes created up to the end, counted by the first of the fields within the others."""
        standing = standing_routes(before(known, end))
        found: dict[tuple[str | None, ...], list[str]] = {}
        for route in distinct(of(before(known, end), "route.created"), "route_id"):
            if kept(route):
                found.setdefault(tuple(first_known(created[route], field) for field in fields), []).append(
                    route
                )
        rows: list[Figures] = [
            dict(zip(("value", "state"), place, strict=False))
            | {"routes": len(there), "active": sum(route in standing for route in there)}
            for place, there in found.items()
        ]
        return sorted(
            rows,
            key=lambda row: (-row["routes"], *last_if_null(row["value"]), *last_if_null(row.get("state"))),
        )

    breakdowns = {"by_city": places("origin_city", "origin_state"), "by_state": places("origin_state")}
    popular = [row for row in popular_routes(known, question) if kept(row["route_id"])][: question.limit]
    return answer(question, known, summary, bucket, breakdowns) | {"popular": popular}


def popular_routes(known: list[Event], question: Question) -> list[Figures]:
    span = period(question)
    of_route: dict[str, set[str]] = {}
    for booking, creations in by(of(during(known, span), "booking.created"), "booking_id").items():
        of_route.setdefault(first_known(creations, "route_id"), set()).add(booking)
    occupancies = departures(known, span)
    successes = by(of(known, "payment.success"), "payment_id")

    rows = []
    for route, booked in of_route.items():
        created = of(known, "route.created")
        made = [event for event in created if event["route_id"] == route]
        renamed = [e for e in of(known, "route.activated", "route.cancelled") if e["route_id"] == route]
        confirmations = [e for e in of(known, "booking.confirmed") if e["booking_id"] in booked]
        paid = [
            event
            for its_events in successes.values()
            if first_known(its_events, "booking_id") in booked
            for event in its_events
        ]
        rows.append(
            {
                "route_id": route,
                "route_name": first_known(made or renamed, "route_name"),
                "origin_city": first_known(made, "origin_city"),
                "origin_state": first_known(made, "origin_state"),
                "destination_city": first_known(made, "destination_city"),
                "destination_state": first_known(made, "destination_state"),
                "bookings": len(booked),
                "confirmed": len(distinct(confirmations, "booking_id")),
                "seats_booked": sum(first_known_of_each(confirmations, "booking_id", "seats_booked")),
                "revenue": money_texts(
                    {
                        currency: amount
                        for currency, amount in totals(
                            first_money_of_each(paid, "payment_id", "amount")
                        ).items()
                        if question.currency in (None, currency)
                    }
                ),
                "utilization": mean([occupancy for of_it, occupancy in occupancies if of_it == route]),
            }
        )
    return sorted(rows, key=lambda row: (-row["bookings"], row["route_id"]))


def departures(known: list[Event], span: Span) -> list[tuple[str, float]]:
    """The route and the occupancy of each departure in the span with a booking that stands."""
    created = by(of(known, "route.created"), "route_id")
    confirmed = distinct(of(known, "booking.confirmed"), "booking_id")
    cancelled = distinct(of(known, "booking.cancelled"), "booking_id")
    seats: dict[tuple[str, datetime], int] = {}
    for booking, creations in by(of(known, "booking.created"), "booking_id").items():
        route = first_known(creations, "route_id")
        leaves = first_known(creations, "scheduled_departure")
        if booking in confirmed - cancelled and route in created and span.start <= leaves < span.end:
            seats[route, leaves] = seats.get((route, leaves), 0) + first_known(creations, "seats_booked")
    return [
        (route, min(1.0, taken / first_known(created[route], "seats_total")))
        for (route, _), taken in seats.items()
    ]


# Realtime


def realtime(events: list[Event], question: Question) -> Answer:
    """Without `events_per_second` and `ingest_lag_seconds`, which depend on arrival."""
    known = stored(events, question.default_currency)
    now = question.now

    def last(length: timedelta) -> list[Event]:
        return [event for event in known if now - length <= event["event_timestamp"] < now]

    window = timedelta(minutes=question.window_minutes)
    recent = last(window)
    ended = distinct(of(known, "trip.completed", "trip.cancelled"), "trip_id")
    seen = of(last(timedelta(minutes=15)), "driver.location.updated", "trip.")
    summary = {
        "bookings_created": len(distinct(of(recent, "booking.created"), "booking_id")),
        "bookings_confirmed": len(distinct(of(recent, "booking.confirmed"), "booking_id")),
        "bookings_cancelled": len(distinct(of(recent, "booking.cancelled"), "booking_id")),
        "payments_succeeded": len(distinct(of(recent, "payment.success"), "payment_id")),
        "payments_failed": len(distinct(of(recent, "payment.failed"), "payment_id")),
        "revenue": money_texts(
            totals(first_money_of_each(of(recent, "payment.success"), "payment_id", "amount"))
        ),
        "trips_started": len(distinct(of(recent, "trip.started"), "trip_id")),
        "trips_completed": len(distinct(of(recent, "trip.completed"), "trip_id")),
        "active_riders": len(acting_riders(recent)),
        "active_trips": len(distinct(of(last(DAY), "trip.started"), "trip_id") - ended),
        "active_drivers": len(distinct(seen, "driver_id")),
    }
    return {
        "period": {
            "start": time_text(now - window),
            "end": time_text(now),
            "timezone": question.timezone,
            "granularity": "none",
        },
        "data_through": data_through(known),
        "summary": summary,
        "previous": None,
        "series": [],
        "breakdowns": {},
    }


# The frame of every answer


def answer(
    question: Question,
    known: list[Event],
    summary: Callable[[int], Figures],
    bucket: Callable[[Span], Figures],
    breakdowns: dict[str, list[Figures]] | None = None,
) -> Answer:
    """`summary` is called with the number of periods to go back, `bucket` with each bucket of the series."""
    earlier = period(question, 1)
    return frame(question, known) | {
        "summary": summary(0),
        "previous": {"period": span_texts(earlier), "summary": summary(1)} if question.compare else None,
        "series": [
            {"start": time_text(span.start), "partial": span.start <= question.now < span.end} | bucket(span)
            for span in buckets(question)
        ],
        "breakdowns": breakdowns or {},
    }


def frame(question: Question, known: list[Event]) -> Answer:
    """What every answer holds."""
    return {
        "period": span_texts(period(question))
        | {"timezone": question.timezone, "granularity": question.granularity},
        "data_through": data_through(known),
    }


def span_texts(span: Span) -> dict[str, str]:
    return {"start": time_text(span.start), "end": time_text(span.end)}


def data_through(known: list[Event]) -> str | None:
    return time_text(known[-1]["event_timestamp"]) if known else None


def between(earlier: Event, later: Event) -> timedelta:
    """Negative where the producers' clocks say so."""
    gap: timedelta = later["event_timestamp"] - earlier["event_timestamp"]
    return gap


def last_if_null(value: str | None) -> tuple[bool, str]:
    return (value is None, value or "")
