"""Who acted: the contract's table of acting users, and whose routes stand."""

from collections.abc import Iterable

from .stored import Event, by, distinct, latest, of


def acting_riders(events: Iterable[Event]) -> set[str]:
    riders: set[str | None] = set()
    for event in events:
        match event["event_type"]:
            case "booking.created" | "payment.initiated" | "trip.started" | "trip.completed":
                riders.add(event.get("rider_id"))
            case "booking.cancelled" | "trip.cancelled" if event.get("cancelled_by") == "RIDER":
                riders.add(event.get("rider_id"))
    return {rider for rider in riders if rider is not None}


def acting_drivers(events: Iterable[Event]) -> set[str]:
    drivers: set[str | None] = set()
    for event in events:
        match event["event_type"]:
            case "route.created" | "route.activated" | "route.cancelled":
                drivers.add(event.get("driver_id"))
            case "trip.started" | "trip.completed" | "driver.location.updated":
                drivers.add(event.get("driver_id"))
            case "booking.cancelled" | "trip.cancelled" if event.get("cancelled_by") == "DRIVER":
                drivers.add(event.get("driver_id"))
    return {driver for driver in drivers if driver is not None}


def acting_users(events: list[Event]) -> set[str]:
    themselves = distinct(of(events, "user.registered", "user.upgraded_to_driver"), "user_id")
    return themselves | acting_riders(events) | acting_drivers(events)


def standing_routes(events: Iterable[Event]) -> dict[str, Event]:
    """The routes whose latest activation or cancellation is an activation, with that event."""
    decisions = {
        route: latest(its_events)
        for route, its_events in by(of(events, "route.activated", "route.cancelled"), "route_id").items()
    }
    return {route: event for route, event in decisions.items() if event["event_type"] == "route.activated"}
