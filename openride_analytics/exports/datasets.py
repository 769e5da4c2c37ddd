"""The datasets: their columns, each with its meaning, and the SQL that answers them.

All but `driver_earnings` and `funnel_dropouts` have one row for each thing that began in the period, exactly those that
the metrics of the same period count as created, registered or initiated. Beginnings are those of the period (the first
one, where a thing began twice); whatever else became of a thing is told as it is known now, at its first event of that
kind. Unknown values are empty. Where a value is not said to be of another event, it is the first known one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from openride_analytics.analytics import funnel
from openride_analytics.analytics.funnel import reached
from openride_analytics.exports.question import Question
from openride_analytics.metrics import bookings, drivers, payments, routes, trips, users
from openride_analytics.metrics.filters import (
    bookings_kept,
    payments_kept,
    routes_kept,
    trips_kept,
    users_kept,
)
from openride_analytics.metrics.question import statement
from openride_analytics.period import milliseconds
from openride_analytics.warehouse import Parameter

Kind = Literal["id", "text", "time", "whole", "number", "ratio", "amount", "flag"]


@dataclass(frozen=True)
class Column:
    """One column of an export: documentation, definitions and cell formats are made from this."""

    name: str
    kind: Kind
    description: str


@dataclass(frozen=True)
class Dataset:
    """What can be exported row by row."""

    title: str
    description: str
    filters: frozenset[str]
    columns: tuple[Column, ...]
    order: tuple[str, ...]
    sql: Callable[[Question], str]
    """A SELECT with these columns, in any order of its rows."""


def bound(question: Question) -> dict[str, Parameter]:
    """What the SQL of a dataset binds."""
    return {
        **question.parameters,
        "steps": list(question.steps),
        "window_ms": question.window_hours * 3_600_000,
        "step": question.step or 0,
        "now": milliseconds(question.now),
        "one_currency": question.filters.currency or "",
    }


# Where the datasets read: one row an event, each event once.
_EVENTS: Final = "events FINAL"

_USERS: Final = """
SELECT
    user_id,
    minIf(event_timestamp, {began}) AS registered_at,
    argMinIf(role, {first}, {began}) AS role,
    argMinIf(city, {first}, city != '') AS city,
    argMinIf(state, {first}, state != '') AS state,
    argMinIf(referral_code, {first}, referral_code != '') AS referral_code,
    minIfOrNull(event_timestamp, event_type = 'user.upgraded_to_driver') AS upgraded_to_driver_at,
    argMaxIf(kyc_status, {latest}, event_type = 'user.kyc_verified') AS kyc_status,
    maxIfOrNull(event_timestamp, event_type = 'user.kyc_verified') AS kyc_at
FROM {events}
WHERE event_type IN ('user.registered', 'user.kyc_verified', 'user.upgraded_to_driver')
  AND user_id IN (SELECT user_id FROM {events} WHERE {began} AND {kept})
GROUP BY user_id
"""

_ROUTES: Final = """
SELECT
    route_id,
    minIf(event_timestamp, {began}) AS created_at,
    argMinIf(driver_id, {first}, {began}) AS driver_id,
    argMinIf(route_name, {first}, {began} AND route_name != '') AS route_name,
    argMinIf(origin_city, {first}, {began} AND origin_city != '') AS origin_city,
    argMinIf(origin_state, {first}, {began} AND origin_state != '') AS origin_state,
    argMinIf(destination_city, {first}, {began} AND destination_city != '') AS destination_city,
    argMinIf(destination_state, {first}, {began} AND destination_state != '') AS destination_state,
    argMinIf(stops_count, {first}, {began}) AS stops_count,
    argMinIf(seats_total, {first}, {began}) AS seats_total,
    argMinIf(base_price, {first}, {began}) AS base_price,
    argMinIf(departure_time, {first}, {began}) AS departure_time,
    arrayStringConcat(argMinIf(active_days, {first}, {began}), ' ') AS active_days,
    multiIf(
        countIf(event_type != 'route.created') = 0, 'created',
        argMaxIf(event_type, {latest}, event_type != 'route.created') = 'route.activated', 'active',
        'cancelled'
    ) AS status,
    minIfOrNull(event_timestamp, event_type = 'route.activated') AS activated_at,
    minIfOrNull(event_timestamp, event_type = 'route.cancelled') AS cancelled_at,
    argMinIf(
        cancellation_reason, {first}, event_type = 'route.cancelled' AND cancellation_reason != ''
    ) AS cancellation_reason
FROM {events}
WHERE event_type IN ('route.created', 'route.activated', 'route.cancelled')
  AND route_id IN (SELECT route_id FROM {events} WHERE {began} AND {kept})
GROUP BY route_id
"""

_BOOKINGS: Final = """
SELECT
    booking_id,
    minIf(event_timestamp, {began}) AS created_at,
    argMinIf(rider_id, {first}, {began}) AS rider_id,
    argMinIf(driver_id, {first}, notEmpty(driver_id)) AS driver_id,
    argMinIf(route_id, {first}, {began}) AS route_id,
    multiIf(
        countIf(event_type = 'booking.completed') > 0, 'completed',
        countIf(event_type = 'booking.cancelled') > 0, 'cancelled',
        countIf(event_type = 'booking.confirmed') > 0, 'confirmed',
        'created'
    ) AS status,
    argMinIf(seats_booked, {first}, {began}) AS seats_booked,
    argMinIf(total_price, {first}, {began}) AS total_price,
    argMinIf(currency, {first}, {began}) AS currency,
    argMinIf(scheduled_departure, {first}, {began}) AS scheduled_departure,
    argMinIf(pickup_lat, {first}, {began}) AS pickup_lat,
    argMinIf(pickup_lon, {first}, {began}) AS pickup_lon,
    argMinIf(dropoff_lat, {first}, {began}) AS dropoff_lat,
    argMinIf(dropoff_lon, {first}, {began}) AS dropoff_lon,
    minIfOrNull(event_timestamp, event_type = 'booking.confirmed') AS confirmed_at,
    argMinIf(seats_booked, {first}, event_type = 'booking.confirmed') AS confirmed_seats,
    argMinIf(total_price, {first}, event_type = 'booking.confirmed') AS confirmed_price,
    argMinIf(
        currency, {first}, event_type = 'booking.confirmed' AND total_price IS NOT NULL
    ) AS confirmed_currency,
    argMinIf(payment_id, {first}, notEmpty(payment_id)) AS payment_id,
    minIfOrNull(event_timestamp, event_type = 'booking.cancelled') AS cancelled_at,
    argMinIf(cancelled_by, {first}, cancelled_by != '') AS cancelled_by,
    argMinIf(cancellation_reason, {first}, cancellation_reason != '') AS cancellation_reason,
    minIfOrNull(event_timestamp, event_type = 'booking.completed') AS completed_at,
    argMinIf(trip_id, {first}, notEmpty(trip_id)) AS trip_id,
    argMin(actual_departure, {first}) AS actual_departure,
    argMin(actual_arrival, {first}) AS actual_arrival,
    argMin(duration_minutes, {first}) AS duration_minutes
FROM {events}
WHERE event_type IN ('booking.created', 'booking.confirmed', 'booking.cancelled', 'booking.completed')
  AND booking_id IN (SELECT booking_id FROM {events} WHERE {began} AND {kept})
GROUP BY booking_id
"""

_PAYMENTS: Final = """
SELECT
    payment_id,
    minIf(event_timestamp, {began}) AS initiated_at,
    argMinIf(booking_id, {first}, {began}) AS booking_id,
    argMinIf(rider_id, {first}, {began}) AS rider_id,
    multiIf(
        countIf(event_type = 'payment.refunded') > 0, 'refunded',
        countIf(event_type = 'payment.success') > 0, 'succeeded',
        countIf(event_type = 'payment.failed') > 0, 'failed',
        'initiated'
    ) AS status,
    argMinIf(amount, {first}, {began}) AS amount,
    argMinIf(currency, {first}, {began}) AS currency,
    argMinIf(payment_method, {first}, {began}) AS payment_method,
    argMinIf(provider, {first}, {began}) AS provider,
    argMinIf(provider_transaction_id, {first}, provider_transaction_id != '') AS provider_transaction_id,
    minIfOrNull(event_timestamp, event_type = 'payment.success') AS succeeded_at,
    argMinIf(amount, {first}, event_type = 'payment.success') AS paid_amount,
    argMinIf(currency, {first}, event_type = 'payment.success' AND amount IS NOT NULL) AS paid_currency,
    argMinIf(processing_time_ms, {first}, event_type = 'payment.success') AS processing_time_ms,
    minIfOrNull(event_timestamp, event_type = 'payment.failed') AS failed_at,
    argMinIf(error_code, {first}, error_code != '') AS error_code,
    argMinIf(error_message, {first}, error_message != '') AS error_message,
    minIfOrNull(event_timestamp, event_type = 'payment.refunded') AS refunded_at,
    countIf(event_type = 'payment.refunded') AS refunds,
    argMinIf(currency, {first}, event_type = 'payment.refunded') AS refund_currency,
    if(
        countIf(refund_amount IS NOT NULL) = 0,
        NULL,
        sumMapIf(map(currency, assumeNotNull(refund_amount)), refund_amount IS NOT NULL)[refund_currency]
    ) AS refunded_amount,
    argMinIf(refund_reason, {first}, refund_reason != '') AS refund_reason
FROM {events}
WHERE event_type IN ('payment.initiated', 'payment.success', 'payment.failed', 'payment.refunded')
  AND payment_id IN (SELECT payment_id FROM {events} WHERE {began} AND {kept})
GROUP BY payment_id
"""

_TRIPS: Final = """
SELECT
    trip_id,
    min(event_timestamp) AS began_at,
    argMinIf(booking_id, {first}, notEmpty(booking_id)) AS booking_id,
    argMinIf(route_id, {first}, notEmpty(route_id)) AS route_id,
    argMinIf(driver_id, {first}, notEmpty(driver_id)) AS driver_id,
    argMinIf(rider_id, {first}, notEmpty(rider_id)) AS rider_id,
    multiIf(
        countIf(event_type = 'trip.completed') > 0, 'completed',
        countIf(event_type = 'trip.cancelled') > 0, 'cancelled',
        'started'
    ) AS status,
    minIfOrNull(event_timestamp, event_type = 'trip.started') AS started_at,
    argMinIf(scheduled_departure, {first}, event_type = 'trip.started') AS scheduled_departure,
    argMin(actual_departure, {first}) AS actual_departure,
    if(
        countIf(event_type = 'trip.started') = 0, NULL, argMinIf(passengers_count, {first}, event_type = 'trip.started')
    ) AS passengers_count,
    argMin(start_lat, {first}) AS start_lat,
    argMin(start_lon, {first}) AS start_lon,
    minIfOrNull(event_timestamp, event_type = 'trip.completed') AS completed_at,
    argMin(actual_arrival, {first}) AS actual_arrival,
    argMin(duration_minutes, {first}) AS duration_minutes,
    argMin(distance_km, {first}) AS distance_km,
    argMin(end_lat, {first}) AS end_lat,
    argMin(end_lon, {first}) AS end_lon,
    argMin(driver_earnings, {first}) AS driver_earnings,
    argMinIf(currency, {first}, driver_earnings IS NOT NULL) AS earnings_currency,
    argMin(platform_commission, {first}) AS platform_commission,
    argMinIf(currency, {first}, platform_commission IS NOT NULL) AS commission_currency,
    minIfOrNull(event_timestamp, event_type = 'trip.cancelled') AS cancelled_at,
    argMinIf(cancelled_by, {first}, cancelled_by != '') AS cancelled_by,
    argMinIf(cancellation_reason, {first}, cancellation_reason != '') AS cancellation_reason,
    argMin(partial_distance_km, {first}) AS partial_distance_km
FROM {events}
WHERE event_type IN ('trip.started', 'trip.completed', 'trip.cancelled')
  AND trip_id IN
  (
      SELECT trip_id
      FROM {events}
      WHERE event_type IN ('trip.started', 'trip.completed', 'trip.cancelled') AND {in_period} AND {kept}
  )
GROUP BY trip_id
HAVING min(event_timestamp) >= fromUnixTimestamp64Milli({start:Int64})
"""

# Each trip by its first completion in the period, as the metrics of drivers have it.
_DRIVER_EARNINGS: Final = """
SELECT
    driver_id,
    earned_currency AS currency,
    count() AS trips,
    round(ifNull(sum(distance), 0), 6) AS distance_km,
    if(earned_currency = '', NULL, sum(earned)) AS earnings,
    min(first_completed_at) AS first_trip_at,
    max(first_completed_at) AS last_trip_at
FROM
(
    SELECT
        trip_id,
        argMinIf(driver_id, {first}, notEmpty(driver_id)) AS driver_id,
        argMin(distance_km, {first}) AS distance,
        argMin(driver_earnings, {first}) AS earned,
        argMinIf(currency, {first}, driver_earnings IS NOT NULL) AS earned_currency,
        min(event_timestamp) AS first_completed_at
    FROM {events}
    WHERE event_type = 'trip.completed' AND {in_period}
    GROUP BY trip_id
)
WHERE notEmpty(driver_id) AND {kept} AND ({one_currency:String} = '' OR earned_currency = {one_currency:String})
GROUP BY driver_id, earned_currency
"""

_FUNNEL_DROPOUTS: Final = """
WITH {reached}
SELECT
    person AS user_id,
    length(times) AS step,
    {steps:Array(String)}[length(times)] AS event_type,
    fromUnixTimestamp64Milli(times[1], 'UTC') AS entered_at,
    fromUnixTimestamp64Milli(times[-1], 'UTC') AS reached_at,
    fromUnixTimestamp64Milli(latest_ms + {window_ms:Int64}, 'UTC') AS window_ends_at,
    window_ends_at > fromUnixTimestamp64Milli({now:Int64}) AS still_open
FROM reached
WHERE length(times) < length({steps:Array(String)}) AND ({step:UInt8} = 0 OR length(times) = {step:UInt8})
"""


def _things(sql: str, begins: str, kept: Callable[..., str]) -> Callable[[Question], str]:
    began = f"event_type = '{begins}' AND {{in_period}}"
    return lambda question: statement(sql, events=_EVENTS, began=began, kept=kept(question.filters))


def _driver_earnings(question: Question) -> str:
    kept = users_kept(question.filters, "driver_id")
    if question.filters.driver_id:
        kept += " AND driver_id = {driver_id:UUID}"
    return statement(_DRIVER_EARNINGS, events=_EVENTS, kept=kept)


def _funnel_dropouts(question: Question) -> str:
    return statement(_FUNNEL_DROPOUTS, reached=reached(question.steps, question.filters))


def _columns(*rows: tuple[str, Kind, str]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in rows)


_CANCELLED_BY: Final = "`RIDER`, `DRIVER` or `SYSTEM`."

DATASETS: Final[dict[str, Dataset]] = {
    "users": Dataset(
        "Users",
        "One row a user registered in the period.",
        users.FILTERS,
        _columns(
            ("user_id", "id", "The user."),
            ("registered_at", "time", "First registration in the period."),
            ("role", "text", "Role at that registration: `RIDER`, `DRIVER` or `ADMIN`."),
            ("city", "text", "City of registration."),
            ("state", "text", "State of registration."),
            ("referral_code", "text", "Code the user came with."),
            ("upgraded_to_driver_at", "time", "When the user became a driver."),
            ("kyc_status", "text", "Latest result of the identity check."),
            ("kyc_at", "time", "When that result came."),
        ),
        ("registered_at", "user_id"),
        _things(_USERS, "user.registered", users_kept),
    ),
    "routes": Dataset(
        "Routes",
        "One row a route created in the period.",
        routes.FILTERS - {"currency"},
        _columns(
            ("route_id", "id", "The route."),
            ("created_at", "time", "First creation in the period."),
            ("driver_id", "id", "Whose route it is."),
            ("route_name", "text", "Its name."),
            ("origin_city", "text", "City it begins in."),
            ("origin_state", "text", "State it begins in."),
            ("destination_city", "text", "City it ends in."),
            ("destination_state", "text", "State it ends in."),
            ("stops_count", "whole", "Stops on the way."),
            ("seats_total", "whole", "Seats for riders."),
            ("base_price", "amount", "Price of a seat."),
            ("departure_time", "text", "Local time of departure."),
            ("active_days", "text", "Days it runs on, `MON` to `SUN`."),
            (
                "status",
                "text",
                "`created`, `active` or `cancelled`, by the latest activation or cancellation.",
            ),
            ("activated_at", "time", "First activation."),
            ("cancelled_at", "time", "First cancellation."),
            ("cancellation_reason", "text", "First reason given."),
        ),
        ("created_at", "route_id"),
        _things(_ROUTES, "route.created", routes_kept),
    ),
    "bookings": Dataset(
        "Bookings",
        "One row a booking created in the period.",
        bookings.FILTERS,
        _columns(
            ("booking_id", "id", "The booking."),
            ("created_at", "time", "First creation in the period."),
            ("rider_id", "id", "Who booked."),
            ("driver_id", "id", "Who drives."),
            ("route_id", "id", "The route booked."),
            ("status", "text", "`created`, `confirmed`, `cancelled` or `completed`: the furthest of these."),
            ("seats_booked", "whole", "Seats at the creation."),
            ("total_price", "amount", "Price at the creation."),
            ("currency", "text", "Currency of `total_price`."),
            ("scheduled_departure", "time", "When it was to leave."),
            ("pickup_lat", "number", "Latitude of the pickup."),
            ("pickup_lon", "number", "Longitude of the pickup."),
            ("dropoff_lat", "number", "Latitude of the drop-off."),
            ("dropoff_lon", "number", "Longitude of the drop-off."),
            ("confirmed_at", "time", "First confirmation."),
            ("confirmed_seats", "whole", "Seats confirmed."),
            ("confirmed_price", "amount", "Price confirmed: what counts as booking value."),
            ("confirmed_currency", "text", "Currency of `confirmed_price`."),
            ("payment_id", "id", "Payment named in the confirmation."),
            ("cancelled_at", "time", "First cancellation."),
            ("cancelled_by", "text", _CANCELLED_BY),
            ("cancellation_reason", "text", "First reason given."),
            ("completed_at", "time", "First completion."),
            ("trip_id", "id", "Trip named in the completion."),
            ("actual_departure", "time", "When it left."),
            ("actual_arrival", "time", "When it arrived."),
            ("duration_minutes", "number", "How long it took, in minutes."),
        ),
        ("created_at", "booking_id"),
        _things(_BOOKINGS, "booking.created", bookings_kept),
    ),
    "payments": Dataset(
        "Payments",
        "One row a payment initiated in the period.",
        payments.FILTERS,
        _columns(
            ("payment_id", "id", "The payment."),
            ("initiated_at", "time", "First initiation in the period."),
            ("booking_id", "id", "What is paid for."),
            ("rider_id", "id", "Who pays."),
            ("status", "text", "`initiated`, `failed`, `succeeded` or `refunded`: the furthest of these."),
            ("amount", "amount", "Amount at the initiation."),
            ("currency", "text", "Currency of `amount`."),
            ("payment_method", "text", "How it is paid."),
            ("provider", "text", "Through whom."),
            ("provider_transaction_id", "text", "The provider's own reference."),
            ("succeeded_at", "time", "First success."),
            ("paid_amount", "amount", "Amount of the success: what counts as revenue."),
            ("paid_currency", "text", "Currency of `paid_amount`."),
            ("processing_time_ms", "whole", "Processing time as sent with the success, in milliseconds."),
            ("failed_at", "time", "First failure."),
            ("error_code", "text", "Code of the first failure that has one."),
            ("error_message", "text", "Message of the first failure that has one."),
            ("refunded_at", "time", "First refund."),
            ("refunds", "whole", "How many refunds there were."),
            ("refund_currency", "text", "Currency of the first refund."),
            ("refunded_amount", "amount", "Sum of the refunds in that currency."),
            ("refund_reason", "text", "First reason given."),
        ),
        ("initiated_at", "payment_id"),
        _things(_PAYMENTS, "payment.initiated", payments_kept),
    ),
    "trips": Dataset(
        "Trips",
        "One row a trip whose first event is in the period.",
        trips.FILTERS,
        _columns(
            ("trip_id", "id", "The trip."),
            ("began_at", "time", "Its first event, of whatever kind."),
            ("booking_id", "id", "The booking it belongs to."),
            ("route_id", "id", "The route driven."),
            ("driver_id", "id", "Who drives."),
            ("rider_id", "id", "Who rides."),
            ("status", "text", "`started`, `cancelled` or `completed`: the furthest of these."),
            ("started_at", "time", "First start."),
            ("scheduled_departure", "time", "When it was to leave."),
            ("actual_departure", "time", "When it left."),
            ("passengers_count", "whole", "Passengers at the start."),
            ("start_lat", "number", "Latitude of the start."),
            ("start_lon", "number", "Longitude of the start."),
            ("completed_at", "time", "First completion."),
            ("actual_arrival", "time", "When it arrived."),
            ("duration_minutes", "number", "How long it took, in minutes."),
            ("distance_km", "number", "How far it was, in kilometres."),
            ("end_lat", "number", "Latitude of the end."),
            ("end_lon", "number", "Longitude of the end."),
            ("driver_earnings", "amount", "What the driver earned."),
            ("earnings_currency", "text", "Currency of `driver_earnings`."),
            ("platform_commission", "amount", "What the platform keeps."),
            ("commission_currency", "text", "Currency of `platform_commission`."),
            ("cancelled_at", "time", "First cancellation."),
            ("cancelled_by", "text", _CANCELLED_BY),
            ("cancellation_reason", "text", "First reason given."),
            ("partial_distance_km", "number", "Distance up to the cancellation, in kilometres."),
        ),
        ("began_at", "trip_id"),
        _things(_TRIPS, "", trips_kept),
    ),
    "driver_earnings": Dataset(
        "Driver earnings",
        "One row a driver and currency, over the trips completed in the period. Each trip is in one row only, so the rows "
        "add up; trips whose earnings are not known are in a row without currency.",
        drivers.FILTERS,
        _columns(
            ("driver_id", "id", "The driver."),
            ("currency", "text", "Currency of the earnings."),
            ("trips", "whole", "Distinct trips completed that paid in it."),
            ("distance_km", "number", "Their summed distance, in kilometres, to the millimetre."),
            ("earnings", "amount", "Their summed `driver_earnings`."),
            ("first_trip_at", "time", "First of these completions."),
            ("last_trip_at", "time", "Last of these completions."),
        ),
        ("driver_id", "currency"),
        _driver_earnings,
    ),
    "funnel_dropouts": Dataset(
        "Funnel dropouts",
        "One row a user who entered the funnel in the period and did not get to its last step (`steps` and `window_hours` "
        "as for `/v1/analytics/funnel`), by the attempt that got furthest; with `step` only those who stopped there.",
        funnel.FILTERS,
        _columns(
            ("user_id", "id", "The user."),
            ("step", "whole", "Number of the last step taken, from 1."),
            ("event_type", "text", "What that step is."),
            ("entered_at", "time", "When step 1 was taken."),
            ("reached_at", "time", "When the last step was taken."),
            (
                "window_ends_at",
                "time",
                "Until when the next step would count, after the latest of the attempts that got as far.",
            ),
            ("still_open", "flag", "That time is after now: the user may still go on."),
        ),
        ("step", "entered_at", "user_id"),
        _funnel_dropouts,
    ),
}
