"""Who acted: the one place that says which user an event is an act of."""

from typing import Final

# Rows of (event_timestamp, user_id) with `since` <= time < `until`, both Unix milliseconds. What the platform did itself
# (KYC, confirmations, completed bookings, payment outcomes) is nobody's act.
ACTING: Final = """
        SELECT event_timestamp, user_id
        FROM
        (
            SELECT
                event_timestamp,
                arrayJoin(multiIf(
                    event_type IN ('user.registered', 'user.upgraded_to_driver'), [user_id],
                    event_type IN ('route.created', 'route.activated', 'route.cancelled'), [driver_id],
                    event_type IN ('booking.created', 'payment.initiated'), [rider_id],
                    event_type IN ('trip.started', 'trip.completed'), [rider_id, driver_id],
                    cancelled_by = 'RIDER', [rider_id],  -- booking.cancelled, trip.cancelled
                    cancelled_by = 'DRIVER', [driver_id],
                    []
                )) AS user_id
            FROM events FINAL
            WHERE event_type IN (
                'user.registered', 'user.upgraded_to_driver',
                'route.created', 'route.activated', 'route.cancelled',
                'booking.created', 'booking.cancelled',
                'payment.initiated',
                'trip.started', 'trip.completed', 'trip.cancelled'
            )
              AND event_timestamp >= fromUnixTimestamp64Milli({since:Int64})
              AND event_timestamp < fromUnixTimestamp64Milli({until:Int64})

            UNION ALL

            SELECT event_timestamp, driver_id AS user_id
            FROM driver_locations FINAL
            WHERE event_timestamp >= fromUnixTimestamp64Milli({since:Int64})
              AND event_timestamp < fromUnixTimestamp64Milli({until:Int64})
        )
        WHERE notEmpty(user_id)
"""
