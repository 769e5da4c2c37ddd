"""The filters of the metrics endpoints as SQL conditions.

A filter keeps *things*: the bookings (payments, trips) of which any event, at any time, carries the value; the routes
that began there; the users who registered there. Conditions are fixed texts chosen by which filters are given; the values
are bound as parameters under the filters' names.
"""

from typing import Final

from openride_analytics.metrics.question import Filters

_ROUTES: Final = """
    SELECT route_id
    FROM events FINAL
    WHERE event_type = 'route.created'
    GROUP BY route_id
    HAVING {conditions}
"""

_BOOKINGS: Final = """
    SELECT booking_id
    FROM events FINAL
    WHERE event_type IN ('booking.created', 'booking.confirmed', 'booking.cancelled', 'booking.completed')
    GROUP BY booking_id
    HAVING {conditions}
"""

_PAYMENTS: Final = """
    SELECT payment_id
    FROM events FINAL
    WHERE event_type IN ('payment.initiated', 'payment.success', 'payment.failed', 'payment.refunded')
    GROUP BY payment_id
    HAVING {conditions}
"""

_TRIPS: Final = """
    SELECT trip_id
    FROM events FINAL
    WHERE event_type IN ('trip.started', 'trip.completed', 'trip.cancelled')
    GROUP BY trip_id
    HAVING {conditions}
"""

_USERS: Final = """
    SELECT user_id
    FROM events FINAL
    WHERE event_type = 'user.registered'
    GROUP BY user_id
    HAVING {conditions}
"""

_ORIGIN: Final = {
    "city": "argMinIf(origin_city, {first}, origin_city != '') = {city:String}",
    "state": "argMinIf(origin_state, {first}, origin_state != '') = {state:String}",
}
_HOME: Final = {
    "city": "argMinIf(city, {first}, city != '') = {city:String}",
    "state": "argMinIf(state, {first}, state != '') = {state:String}",
}
_ANY_EVENT: Final = {
    "route_id": "countIf(route_id = {route_id:UUID}) > 0",
    "driver_id": "countIf(driver_id = {driver_id:UUID}) > 0",
    "currency": "countIf(currency = {currency:String}) > 0",
    "payment_method": "countIf(payment_method = {payment_method:String}) > 0",
    "provider": "countIf(provider = {provider:String}) > 0",
}


def routes_kept(filters: Filters) -> str:
    """A condition on `route_id`: origin by the route's first route.created, driver by it too."""
    conditions = {**_ORIGIN, "driver_id": "argMin(driver_id, {first}) = {driver_id:UUID}"}
    kept = _kept("route_id", _ROUTES, [text for name, text in conditions.items() if name in filters.given])
    # Not by the creation: a route may be asked for of which only bookings are known.
    return f"route_id = {{route_id:UUID}} AND {kept}" if "route_id" in filters.given else kept


def bookings_kept(filters: Filters) -> str:
    """A condition on `booking_id`."""
    conditions = [_ANY_EVENT[name] for name in ("route_id", "driver_id", "currency") if name in filters.given]
    return _kept("booking_id", _BOOKINGS, conditions + _from_origin(filters))


def payments_kept(filters: Filters, column: str = "payment_id") -> str:
    """A condition on a column of payment ids: route, driver and place are those of its booking."""
    conditions = [
        _ANY_EVENT[name] for name in ("currency", "payment_method", "provider") if name in filters.given
    ]
    of_booking = [_ANY_EVENT[name] for name in ("route_id", "driver_id") if name in filters.given]
    of_booking += _from_origin(filters)
    if of_booking:
        conditions.append(f"countIf({_kept('booking_id', _BOOKINGS, of_booking)}) > 0")
    return _kept(column, _PAYMENTS, conditions)


def trips_kept(filters: Filters, column: str = "trip_id") -> str:
    """A condition on a column of trip ids."""
    conditions = [_ANY_EVENT[name] for name in ("route_id", "driver_id", "currency") if name in filters.given]
    return _kept(column, _TRIPS, conditions + _from_origin(filters))


def users_kept(filters: Filters, column: str = "user_id") -> str:
    """A condition on a column of user ids: the place of their registration."""
    return _kept(column, _USERS, [text for name, text in _HOME.items() if name in filters.given])


def _from_origin(filters: Filters) -> list[str]:
    """A booking's or trip's city and state: some event of it is on a route that begins there."""
    origin = [text for name, text in _ORIGIN.items() if name in filters.given]
    return [f"countIf({_kept('route_id', _ROUTES, origin)}) > 0"] if origin else []


def _kept(column: str, things: str, conditions: list[str]) -> str:
    if not conditions:
        return "true"
    return f"{column} IN ({things.replace('{conditions}', ' AND '.join(conditions))})"
