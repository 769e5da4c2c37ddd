"""The questions of analytics once more, as `naive` says the metrics: loops and sets over a list of events.

Wherever users are followed, a user begins with the first of his registrations; his city and state are the first
ones known of him.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import wraps
from typing import Any

import h3

from .acting import acting_users
from .figures import money_texts, percentile, rate, totals
from .kept import kept_bookings, kept_payments, kept_route, kept_trips, kept_users
from .naive import Answer, Figures, between, frame, last_if_null
from .periods import (
    DAY,
    AnalyticsQuestion,
    Span,
    beginning_of,
    first_day,
    local_day,
    period,
    time_text,
    units_later,
)
from .stored import Event, by, distinct, during, first_known, first_money, of, stored, tie

Asking = Callable[[list[Event], AnalyticsQuestion], Answer]


def compared(asking: Asking) -> Asking:
    """The answer with that for the period before, if asked for."""

    @wraps(asking)
    def asked(events: list[Event], question: AnalyticsQuestion) -> Answer:
        answer = asking(events, question) | {"previous": None}
        if question.compare:
            span = period(question, 1)
            before = asking(events, replace(question, start=span.start, end=span.end))
            del before["data_through"]
            before["period"] = {"start": time_text(span.start), "end": time_text(span.end)}
            answer["previous"] = before
        return answer

    return asked


# Funnel

DOER = {
    "user": "user_id",
    "route": "driver_id",
    "booking": "rider_id",
    "payment": "rider_id",
    "trip": "rider_id",
}
"""Who takes a step, by the beginning of its name; a location is nobody's step."""

Attempt = list[Event]
"""The steps that a user reached, each as the event that did it."""


@compared
def funnel(events: list[Event], question: AnalyticsQuestion) -> Answer:
    known = stored(events, question.default_currency)
    kept = kept_users(known, question)
    registrations = by(of(known, "user.registered"), "user_id")
    doings = [by(of(known, step), DOER[step.partition(".")[0]]) for step in question.steps]

    best: dict[str, list[Attempt]] = {}
    for user, entries in by_period(doings[0], period(question)).items():
        if user in kept:
            attempts = [
                attempt(entry, [does.get(user, []) for does in doings], question) for entry in entries
            ]
            furthest = max(len(steps) for steps in attempts)
            best[user] = [steps for steps in attempts if len(steps) == furthest]

    breakdown: list[Figures] = []
    if question.breakdown is not None:
        at: dict[str | None, list[list[Attempt]]] = {}
        for user, its_best in best.items():
            place = first_known(registrations.get(user, []), question.breakdown)
            at.setdefault(place, []).append(its_best)
        breakdown = [{"value": place, "steps": funnel_steps(users, question)} for place, users in at.items()]
        breakdown.sort(key=lambda row: (-row["steps"][0]["users"], *last_if_null(row["value"])))
    return frame(question, known) | {
        "steps": funnel_steps(list(best.values()), question),
        "breakdown": breakdown,
    }


def by_period(doing: dict[str, list[Event]], span: Span) -> dict[str, list[Event]]:
    """What each user did in the span; those who did nothing are left out."""
    return {user: there for user, done in doing.items() if (there := during(done, span))}


def attempt(entry: Event, done: list[list[Event]], question: AnalyticsQuestion) -> Attempt:
    """How far the user gets from here, if each step is the earliest of what he has `done` that may follow."""
    steps = [entry]
    for candidates in done[1:]:
        following = [event for event in candidates if may_follow(event, steps, question)]
        if not following:
            break
        steps.append(following[0])
    return steps


def may_follow(event: Event, steps: Attempt, question: AnalyticsQuestion) -> bool:
    """At the same instant two different types may be in either order; of one type, the ids have an order."""
    when = event["event_timestamp"]
    window_ends = steps[0]["event_timestamp"] + timedelta(hours=question.window_hours)
    alike = [step for step in steps if step["event_type"] == event["event_type"]]
    return steps[-1]["event_timestamp"] <= when <= window_ends and all(
        (when, tie(event["event_id"])) > (step["event_timestamp"], tie(step["event_id"])) for step in alike
    )


def funnel_steps(users: list[list[Attempt]], question: AnalyticsQuestion) -> list[Figures]:
    """From each user's attempts that got equally far: the earliest counts, any may still get further."""
    window = timedelta(hours=question.window_hours)
    attempts = [of_user[0] for of_user in users]
    rows = []
    for number, event_type in enumerate(question.steps):
        reached = [steps for steps in attempts if len(steps) > number]
        reached_previous = [steps for steps in attempts if len(steps) >= number]
        minutes = [
            between(steps[number - 1], steps[number]) / timedelta(minutes=1)
            for steps in reached
            if number > 0
        ]
        is_last = number == len(question.steps) - 1
        open_still = [
            of_user
            for of_user in users
            if len(of_user[0]) == number + 1
            and any(steps[0]["event_timestamp"] + window > question.now for steps in of_user)
        ]
        rows.append(
            {
                "event_type": event_type,
                "users": len(reached),
                "rate_from_start": rate(len(reached), len(attempts)),
                "rate_from_previous": rate(len(reached), len(reached_previous)) if number > 0 else None,
                "median_minutes_from_previous": percentile(minutes, 50),
                "p90_minutes_from_previous": percentile(minutes, 90),
                "still_open": 0 if is_last else len(open_still),
            }
        )
    return rows


# Cohort and retention


def beginnings(known: list[Event], question: AnalyticsQuestion) -> dict[str, Event]:
    """The first registration of each user asked for, if it is in the period."""
    kept = kept_users(known, question)
    span = period(question)
    return {
        user: first
        for user, (first, *_) in by(of(known, "user.registered"), "user_id").items()
        if user in kept and span.start <= first["event_timestamp"] < span.end
    }


@compared
def cohort(events: list[Event], question: AnalyticsQuestion) -> Answer:
    known = stored(events, question.default_currency)
    began = {
        user: local_day(first["event_timestamp"], question.zone)
        for user, first in beginnings(known, question).items()
    }

    rows = []
    for first in cohort_days(question):
        members = {user for user, day in began.items() if first_day(question.unit, day) == first}
        cells = []
        for number in range(question.periods):
            span = Span(
                beginning_of(units_later(question.unit, first, number), question.zone),
                beginning_of(units_later(question.unit, first, number + 1), question.zone),
            )
            if span.start <= question.now:
                active = members & active_users(during(known, span), question)
                cells.append(
                    {
                        "period": number,
                        "active": len(active),
                        "rate": rate(len(active), len(members)),
                        "partial": question.now < span.end,
                    }
                )
        rows.append({"cohort": first.isoformat(), "size": len(members), "cells": cells})
    return frame(question, known) | {"cohorts": rows, "average": cohort_average(rows, question)}


def cohort_days(question: AnalyticsQuestion) -> Iterator[date]:
    """The first days of the weeks (days, months) of which some is in the period."""
    day = first_day(question.unit, local_day(question.start, question.zone))
    while beginning_of(day, question.zone) < question.end:
        yield day
        day = units_later(question.unit, day, 1)


def active_users(events: list[Event], question: AnalyticsQuestion) -> set[str]:
    match question.activity:
        case "booking":
            return distinct(of(events, "booking.created"), "rider_id")
        case "trip":
            completions = of(events, "trip.completed")
            return distinct(completions, "rider_id") | distinct(completions, "driver_id")
        case "any":
            return acting_users(events)


def cohort_average(cohorts: list[Figures], question: AnalyticsQuestion) -> list[Figures]:
    """For each number of periods since, over the cohorts for which that period is over, if it is for any."""
    rows = []
    for number in range(question.periods):
        over = [
            (cohort["size"], cell["active"])
            for cohort in cohorts
            for cell in cohort["cells"]
            if cell["period"] == number and not cell["partial"]
        ]
        if over:
            size, active = sum(size for size, _ in over), sum(active for _, active in over)
            rows.append({"period": number, "active": active, "size": size, "rate": rate(active, size)})
    return rows


@compared
def retention(events: list[Event], question: AnalyticsQuestion) -> Answer:
    known = stored(events, question.default_currency)
    began = {
        user: first["event_timestamp"]
        for user, first in beginnings(known, question).items()
        if question.role in (None, first["role"])
    }

    def back(user: str, begins: datetime) -> bool:
        """On the day that begins then, or at any time from then on."""
        later = [event for event in known if begins <= event["event_timestamp"]]
        if question.mode == "exact":
            later = [event for event in later if event["event_timestamp"] < begins + DAY]
        return user in acting_users(later)

    rows = []
    for day in sorted(set(question.days)):
        days = {user: registered + day * DAY for user, registered in began.items()}
        eligible = {user for user, begins in days.items() if begins + DAY <= question.now}
        retained = {user for user in eligible if back(user, days[user])}
        rows.append(
            {
                "day": day,
                "eligible": len(eligible),
                "retained": len(retained),
                "rate": rate(len(retained), len(eligible)),
            }
        )
    return frame(question, known) | {"days": rows}


# Geographic

Where = dict[str, Any]
"""What is known of `state`, `city`, `lat` and `lon`."""

Sighting = tuple[str, Where]
"""A thing and where it counts."""


@compared
def geographic(events: list[Event], question: AnalyticsQuestion) -> Answer:
    known = stored(events, question.default_currency)
    sightings: dict[str, Callable[[list[Event], AnalyticsQuestion], list[Sighting]]] = {
        "bookings": bookings_created,
        "revenue": payments_succeeded,
        "trips": trips_completed,
        "users": users_registered,
        "drivers": drivers_online,
        "routes": routes_created,
    }
    things_at: dict[tuple[str | None, ...], set[str]] = {}
    for thing, where in sightings[question.metric](known, question):
        things_at.setdefault(place_of(where, question), set()).add(thing)
    count = revenue_at if question.metric == "revenue" else number_at
    return frame(question, known) | {"places": count(known, question, things_at)}


def place_of(where: Where, question: AnalyticsQuestion) -> tuple[str | None, ...]:
    match question.level:
        case "state":
            return (where.get("state"),)
        case "city":
            return (where.get("state"), where.get("city"))
        case "h3":
            if where.get("lat") is None or where.get("lon") is None:
                return (None,)
            return (h3.latlng_to_cell(where["lat"], where["lon"], question.resolution),)


def place_fields(place: tuple[str | None, ...], question: AnalyticsQuestion) -> Figures:
    if question.level != "h3":
        return dict(zip(("state", "city"), place, strict=False))
    (cell,) = place
    lat, lon = h3.cell_to_latlng(cell) if cell is not None else (None, None)
    return {"h3": cell, "lat": lat, "lon": lon}


def by_name(place: tuple[str | None, ...]) -> list[tuple[bool, str]]:
    return [last_if_null(name) for name in place]


def number_at(
    _known: list[Event], question: AnalyticsQuestion, things_at: dict[tuple[str | None, ...], set[str]]
) -> list[Figures]:
    """A thing in two places counts in both, also in the sum that the shares are of."""
    whole = sum(len(things) for things in things_at.values())
    ordered = sorted(things_at.items(), key=lambda entry: (-len(entry[1]), by_name(entry[0])))
    return [
        place_fields(place, question) | {"value": len(things), "share": rate(len(things), whole)}
        for place, things in ordered
    ]


def revenue_at(
    known: list[Event], question: AnalyticsQuestion, payments_at: dict[tuple[str | None, ...], set[str]]
) -> list[Figures]:
    successes = by(of(during(known, period(question)), "payment.success"), "payment_id")
    amounts_at = {
        place: totals(
            money for payment in payments if (money := first_money(successes[payment], "amount")) is not None
        )
        for place, payments in payments_at.items()
    }
    whole = totals(money for amounts in amounts_at.values() for money in amounts.items())
    currencies = sorted(whole, key=lambda currency: (currency != question.default_currency, currency))
    ordered = sorted(
        amounts_at.items(),
        key=lambda entry: (
            [-entry[1].get(currency, Decimal(0)) for currency in currencies],
            by_name(entry[0]),
        ),
    )
    return [
        place_fields(place, question)
        | {
            "value": money_texts(amounts),
            "share": {
                currency: float(amount / whole[currency]) if whole[currency] else None
                for currency, amount in amounts.items()
            },
        }
        for place, amounts in ordered
    ]


def origin(known: list[Event], route: str | None) -> Where:
    creations = [event for event in of(known, "route.created") if event["route_id"] == route]
    return {"state": first_known(creations, "origin_state"), "city": first_known(creations, "origin_city")}


def first_creations(known: list[Event]) -> dict[str, Event]:
    return {booking: first for booking, (first, *_) in by(of(known, "booking.created"), "booking_id").items()}


def bookings_created(known: list[Event], question: AnalyticsQuestion) -> list[Sighting]:
    kept = kept_bookings(known, question, currency=question.currency)
    first = first_creations(known)
    created = distinct(of(during(known, period(question)), "booking.created"), "booking_id")
    return [
        (
            booking,
            origin(known, first[booking].get("route_id"))
            | {"lat": first[booking].get("pickup_lat"), "lon": first[booking].get("pickup_lon")},
        )
        for booking in created & kept
    ]


def payments_succeeded(known: list[Event], question: AnalyticsQuestion) -> list[Sighting]:
    kept = kept_payments(known, question)
    first = first_creations(known)
    successes = by(of(during(known, period(question)), "payment.success"), "payment_id")
    return [
        (payment, origin(known, first.get(first_known(its_events, "booking_id"), {}).get("route_id")))
        for payment, its_events in successes.items()
        if payment in kept
    ]


def trips_completed(known: list[Event], question: AnalyticsQuestion) -> list[Sighting]:
    kept = kept_trips(known, question)
    starts = by(of(known, "trip.started"), "trip_id")
    completions = by(of(during(known, period(question)), "trip.completed"), "trip_id")
    return [
        (
            trip,
            origin(known, first_known(its_events, "route_id"))
            | {
                "lat": first_known(starts.get(trip, []), "start_lat"),
                "lon": first_known(starts.get(trip, []), "start_lon"),
            },
        )
        for trip, its_events in completions.items()
        if trip in kept
    ]


def users_registered(known: list[Event], question: AnalyticsQuestion) -> list[Sighting]:
    registrations = by(of(known, "user.registered"), "user_id")
    return [
        (user, {name: first_known(registrations[user], name) for name in ("state", "city")})
        for user in {event["user_id"] for event in of(during(known, period(question)), "user.registered")}
        & kept_users(known, question)
    ]


def drivers_online(known: list[Event], question: AnalyticsQuestion) -> list[Sighting]:
    kept = kept_users(known, question)
    return [
        (event["driver_id"], event)
        for event in of(during(known, period(question)), "driver.location.updated")
        if event["driver_id"] in kept and question.driver_id in (None, event["driver_id"])
    ]


def routes_created(known: list[Event], question: AnalyticsQuestion) -> list[Sighting]:
    creations = by(of(known, "route.created"), "route_id")
    created = distinct(of(during(known, period(question)), "route.created"), "route_id")
    return [
        (route, origin(known, route)) for route in created if kept_route(creations[route], route, question)
    ]
