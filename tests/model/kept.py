"""Which things a filter keeps: those of which any event, at any time, carries the value.

Each filter must be met by some event of the thing, not all by the same one; city and state are met by one route.
"""

from .periods import Question
from .stored import Event, by, distinct, first_known, of


def kept_users(known: list[Event], question: Question) -> set[str]:
    """The users registered at the place asked for; where none is, also those who never registered."""
    if question.city is None and question.state is None:
        return distinct(known, "user_id") | distinct(known, "rider_id") | distinct(known, "driver_id")
    return {
        user
        for user, registrations in by(of(known, "user.registered"), "user_id").items()
        if question.city in (None, first_known(registrations, "city"))
        and question.state in (None, first_known(registrations, "state"))
    }


def kept_bookings(known: list[Event], question: Question, *, currency: str | None) -> set[str]:
    return {
        booking
        for booking, its_events in by(of(known, "booking."), "booking_id").items()
        if _on_route(known, its_events, question) and _carries(its_events, "currency", currency)
    }


def kept_payments(known: list[Event], question: Question) -> set[str]:
    """A place, route or driver is that of the payment's booking; the rest is the payment's own."""
    by_booking = any((question.city, question.state, question.route_id, question.driver_id))
    bookings = kept_bookings(known, question, currency=None)
    return {
        payment
        for payment, its_events in by(of(known, "payment."), "payment_id").items()
        if _carries(its_events, "currency", question.currency)
        and _carries(its_events, "payment_method", question.payment_method)
        and _carries(its_events, "provider", question.provider)
        and (not by_booking or distinct(its_events, "booking_id") & bookings)
    }


def kept_trips(known: list[Event], question: Question) -> set[str]:
    return {
        trip
        for trip, its_events in by(of(known, "trip."), "trip_id").items()
        if _on_route(known, its_events, question) and _carries(its_events, "currency", question.currency)
    }


def kept_route(creations: list[Event], route: str, question: Question) -> bool:
    """Whether a route, of which these are the `route.created` (perhaps none), is one of those asked for."""
    return (
        question.route_id in (None, route)
        and question.city in (None, first_known(creations, "origin_city"))
        and question.state in (None, first_known(creations, "origin_state"))
        and question.driver_id in (None, first_known(creations, "driver_id"))
    )


def _on_route(known: list[Event], its_events: list[Event], question: Question) -> bool:
    """Whether the thing's events name the route and driver asked for, and a route from the city and state."""
    created = by(of(known, "route.created"), "route_id")
    ways = [created.get(route, []) for route in distinct(its_events, "route_id")]
    return (
        _carries(its_events, "route_id", question.route_id)
        and _carries(its_events, "driver_id", question.driver_id)
        and (
            question.city is question.state is None
            or any(
                question.city in (None, first_known(way, "origin_city"))
                and question.state in (None, first_known(way, "origin_state"))
                for way in ways
            )
        )
    )


def _carries(its_events: list[Event], field: str, value: str | None) -> bool:
    return value is None or value in distinct(its_events, field)
