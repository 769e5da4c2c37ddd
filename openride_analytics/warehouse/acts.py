"""Which user an event is an act of: the one place that says so, and which rows of `active_hours` are in doubt for it.

`active_hours` is a set: a row in it outlives the event that it came from. So whoever takes an event away (by a tombstone, by
erasing a user) first puts its acts into `doubtful_hours`; readers then look for these in the events themselves.
"""

from typing import Final

# Full hours since 1970.
HOUR: Final = "intDiv(toUnixTimestamp64Milli(event_timestamp), 3600000)"

ACTED: Final = """event_type IN (
                'user.registered', 'user.upgraded_to_driver',
                'route.created', 'route.activated', 'route.cancelled',
                'booking.created', 'booking.cancelled',
                'payment.initiated',
                'trip.started', 'trip.completed', 'trip.cancelled'
            )"""
"""The events that may be somebody's act."""

# The acts of the events and locations for which {when} holds: rows of (event_timestamp, kind, user_id). What the platform
# did itself (KYC, confirmations, completed bookings, payment outcomes) is nobody's act. The views of
# 0004_activity.sql say the same.
_ACTS: Final = """
        SELECT event_timestamp, act.1 AS kind, act.2 AS user_id
        FROM
        (
            SELECT
                event_timestamp,
                arrayJoin(multiIf(
                    event_type IN ('user.registered', 'user.upgraded_to_driver'), [('lasting', user_id)],
                    event_type IN ('route.created', 'route.activated', 'route.cancelled'), [('lasting', driver_id)],
                    event_type IN ('booking.created', 'payment.initiated'), [('passing', rider_id)],
                    event_type IN ('trip.started', 'trip.completed'), [('passing', rider_id), ('driving', driver_id)],
                    cancelled_by = 'RIDER', [('passing', rider_id)],  -- booking.cancelled, trip.cancelled
                    cancelled_by = 'DRIVER', [('passing', driver_id)],
                    []
                )) AS act
            FROM events {final}
            WHERE {acted}
              AND is_deleted = 0
              AND {when}
        )
        WHERE notEmpty(act.2)
"""

_SEEN: Final = """
        SELECT event_timestamp, 'online' AS kind, driver_id AS user_id
        FROM driver_locations {final}
        WHERE notEmpty(driver_id) AND is_deleted = 0 AND {when}
"""


def acts_of_events(when: str, *, final: bool = True) -> str:
    """SQL for the acts of the events for which a condition holds; not `final`: of every row that is stored."""
    return (
        _ACTS.replace("{when}", when).replace("{final}", "FINAL" if final else "").replace("{acted}", ACTED)
    )


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
