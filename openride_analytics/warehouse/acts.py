"""Which user an event is an act of: the one place that says so, and which hours of `active_days` are in doubt for it.

`active_days` is a set: an hour in it outlives the event that it came from. So whoever takes an event away (by a tombstone, by
erasing a user) first puts its acts into `doubtful_hours`; readers then look for these in the events themselves.
"""

from typing import Final

# Full hours since 1970.
HOUR: Final = "intDiv(toUnixTimestamp64Milli(event_timestamp), 3600000)"

# The acts of the events and locations for which {when} holds: rows of (event_timestamp, kind, user_id). What the platform
# did itself (KYC, confirmations, completed bookings, payment outcomes) is nobody's act. The views of
# 0006_active_days.sql say the same. A reading for each column of ids: trips are read twice, but no row makes an array:
# 110 instead of 190 ms of CPU for 30 days of 10 million events in 90.
_ACTS: Final = """
        SELECT event_timestamp, kind, user_id
        FROM
        (
            SELECT event_timestamp, 'lasting' AS kind, user_id
            FROM events {final}
            WHERE event_type IN ('user.registered', 'user.upgraded_to_driver')
              AND is_deleted = 0
              AND {when}

            UNION ALL

            SELECT event_timestamp, 'passing' AS kind, rider_id AS user_id
            FROM events {final}
            WHERE event_type IN (
                'booking.created', 'booking.cancelled',
                'payment.initiated',
                'trip.started', 'trip.completed', 'trip.cancelled'
            )
              AND (event_type NOT IN ('booking.cancelled', 'trip.cancelled') OR cancelled_by = 'RIDER')
              AND is_deleted = 0
              AND {when}

            UNION ALL

            SELECT
                event_timestamp,
                multiIf(
                    event_type IN ('route.created', 'route.activated', 'route.cancelled'), 'lasting',
                    event_type IN ('trip.started', 'trip.completed'), 'driving',
                    'passing'
                ) AS kind,
                driver_id AS user_id
            FROM events {final}
            WHERE event_type IN (
                'route.created', 'route.activated', 'route.cancelled',
                'booking.cancelled',
                'trip.started', 'trip.completed', 'trip.cancelled'
            )
              AND (event_type NOT IN ('booking.cancelled', 'trip.cancelled') OR cancelled_by = 'DRIVER')
              AND is_deleted = 0
              AND {when}
        )
        WHERE notEmpty(user_id)
"""

_SEEN: Final = """
        SELECT event_timestamp, 'online' AS kind, driver_id AS user_id
        FROM driver_locations {final}
        WHERE notEmpty(driver_id) AND is_deleted = 0 AND {when}
"""


def acts_of_events(when: str, *, final: bool = True) -> str:
    """SQL for the acts of the events for which a condition holds; not `final`: of every row that is stored."""
    return _ACTS.replace("{when}", when).replace("{final}", "FINAL" if final else "")


def acts_of_locations(when: str, *, final: bool = True) -> str:
    """The same for locations: whoever was seen has acted."""
    return _SEEN.replace("{when}", when).replace("{final}", "FINAL" if final else "")


def doubt_acts(acts: str) -> str:
    """The statement that puts acts in doubt, but nobody's who was erased: they have no rows any more."""
    return f"""
-- acts.doubt
INSERT INTO doubtful_hours (kind, hour, user_id)
SELECT DISTINCT kind, {HOUR} AS hour, user_id
FROM ({acts})
WHERE user_id NOT IN (SELECT user_id FROM erased_users)
"""
