"""From `histories` to `facts`: each event of a booking, payment or trip with what the rest of its thing's life says.

`derive` is called with the things of a batch once it is stored. It writes all rows of these things anew, on their own
keys: repeating it changes nothing, and of several writers the one that knew most wins, whoever is last.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from openride_analytics.warehouse import Ids, Parameters, Warehouse
from openride_analytics.warehouse.changes import WITHIN, spans_of

FIRST: Final = (
    "bitShiftLeft(toUInt128(toUnixTimestamp64Milli(event_timestamp)), 64)"
    " + bitShiftRight(reinterpretAsUInt128(event_id), 64)"
)
"""argMin by this is "the first event's": unknown values are skipped, ties go to the lower second half of the id.

Time and half an id in one number: comparing the tuple (event_timestamp, event_id) takes ten times as long.
"""

# Bounds the memory of one statement: a thing has a handful of events.
THINGS_AT_ONCE: Final = 20_000

_COPIED: Final = """
    event_type, event_timestamp, event_id, kind, thing_id, booking_id, route_id, rider_id, driver_id, seats_booked,
    total_price, currency, cancelled_by, scheduled_departure, actual_departure, duration_minutes, distance_km,
    driver_earnings, platform_commission, amount, refund_amount, payment_method, provider, error_code, processing_time_ms"""

_KNOWN: Final = """
    is_alone, is_cancelled, is_completed, is_succeeded, is_failed, is_refunded, confirmed_ms, confirmed_seats,
    initiated_ms, version"""

FACTS: Final = f"""
SELECT {_COPIED}, {_KNOWN}
FROM
(
    SELECT
        *,
        countIf(counts) OVER thing = length(groupUniqArrayIf(event_type, counts) OVER thing)
            AND NOT (
                countIf(counts AND event_type = 'trip.completed') OVER thing
                AND countIf(counts AND event_type = 'trip.cancelled') OVER thing
            ) AS is_alone,
        countIf(counts AND event_type = 'booking.cancelled') OVER thing > 0 AS is_cancelled,
        countIf(counts AND event_type = 'booking.completed') OVER thing > 0 AS is_completed,
        countIf(counts AND event_type = 'payment.success') OVER thing > 0 AS is_succeeded,
        countIf(counts AND event_type = 'payment.failed') OVER thing > 0 AS is_failed,
        countIf(counts AND event_type = 'payment.refunded') OVER thing > 0 AS is_refunded,
        minIfOrNull(at_ms, counts AND event_type = 'booking.confirmed') OVER thing AS confirmed_ms,
        argMinIf(seats_booked, {FIRST}, counts AND event_type = 'booking.confirmed') OVER thing AS confirmed_seats,
        minIfOrNull(at_ms, counts AND event_type = 'payment.initiated') OVER thing AS initiated_ms,
        -- The content decides between two under one key; then what is known of the thing: it grows with each key, with a
        -- better content of one, and with one that turns out not to count.
        bitShiftLeft(toUInt128(content_rank), 64)
            + least(sum(2 * toUInt128(bitShiftRight(content_rank, 16) + 1) + NOT counts) OVER thing, 18446744073709551615)
            AS version
    FROM
    (
        SELECT
            *,
            toUnixTimestamp64Milli(event_timestamp) AS at_ms,
            (event_type, event_timestamp, event_id, content_rank) NOT IN
            (
                SELECT event_type, event_timestamp, event_id, content_rank
                FROM buried
                WHERE {{among}}
            )
            AND rider_id NOT IN (SELECT user_id FROM erased_users)
            AND driver_id NOT IN (SELECT user_id FROM erased_users) AS counts
        FROM histories
        WHERE {{among}}
        -- In the order of the table and of the window: it is not sorted twice more.
        ORDER BY thing_id, kind, event_type, event_timestamp, event_id, content_rank DESC
        LIMIT 1 BY thing_id, kind, event_type, event_timestamp, event_id
    )
    WINDOW thing AS (PARTITION BY thing_id, kind)
)
WHERE counts
"""
"""The facts of the things for which the condition `among` on `thing_id` holds, from their histories."""


def repeated(condition: str = "{in_period}") -> str:
    """The facts that are as `condition` says of things that are not alone, to be put together by whoever asks.

    They are found by their times, which are in the table's key: where there are none, next to nothing is read.
    """
    return f"""(
            SELECT *
            FROM facts FINAL
            WHERE {condition}
              AND NOT is_alone
              AND event_timestamp IN
              (
                  SELECT event_timestamp
                  FROM facts
                  WHERE NOT is_alone AND is_deleted = 0 AND {condition}
              )
        )"""


_KIND: Final = "splitByChar('.', event_type)[1]"
THING: Final = f"""multiIf(
    {_KIND} = 'booking', booking_id,
    {_KIND} = 'payment', payment_id,
    {_KIND} = 'trip', trip_id,
    toUUID('00000000-0000-0000-0000-000000000000')
)"""
"""The booking, payment or trip that an event is about, from its columns in `events`."""

OF_THINGS: Final = """event_type IN
  (
      'booking.created', 'booking.confirmed', 'booking.cancelled', 'booking.completed',
      'payment.initiated', 'payment.success', 'payment.failed', 'payment.refunded',
      'trip.started', 'trip.completed', 'trip.cancelled'
  )"""

# As the view `events_to_histories` does it.
ADD_HISTORIES: Final = f"""
-- rebuild.add_histories
INSERT INTO histories ({_COPIED}, content_rank)
SELECT {_COPIED}, content_rank
FROM (SELECT *, {_KIND} AS kind, {THING} AS thing_id FROM events WHERE is_deleted = 0 AND {OF_THINGS} AND {{within}})
"""

# Keys of `events` without any row in `facts`: a tombstone is one.
_MISSING: Final = f"""
-- facts.missing
SELECT DISTINCT toString({THING}) AS thing
FROM events
WHERE is_deleted = 0
  AND {OF_THINGS}
  AND {{within}}
  AND (event_type, event_timestamp, event_id) NOT IN
  (
      SELECT event_type, event_timestamp, event_id
      FROM facts
      WHERE {OF_THINGS} AND {{within}}
  )
"""

_DERIVE: Final = f"-- facts.derive\nINSERT INTO facts ({_COPIED}, {_KNOWN})\n{FACTS}"


async def derive(warehouse: Warehouse, things: Sequence[str]) -> None:
    """Brings the facts of some things in line with what is stored of them. Raises what `Warehouse.execute` raises."""
    for start in range(0, len(things), THINGS_AT_ONCE):
        await derive_among(
            warehouse,
            "thing_id IN {things:Ids}",
            {"things": Ids(" ".join(things[start : start + THINGS_AT_ONCE]))},
        )


async def derive_among(warehouse: Warehouse, among: str, parameters: Parameters) -> None:
    """The same for the things for which the condition `among` on `thing_id` holds."""
    await warehouse.execute(_DERIVE.replace("{among}", among), parameters)


IN_PART: Final = "thing_id >= {first:UUID} AND thing_id <= {last:UUID}"
"""A condition for one of `parts_of_things`: the tables by the thing are read only there."""


async def parts_of_things(warehouse: Warehouse, things: int = THINGS_AT_ONCE) -> AsyncIterator[Parameters]:
    """All things, so many at a time: what `IN_PART` binds."""
    last = ""
    while True:
        (row,) = await warehouse.query(_NEXT_PART, {"after": last, "things": things})
        if not row["things"]:
            return
        yield {"first": row["first"], "last": row["last"]}
        last = row["last"]


_NEXT_PART: Final = """
-- facts.next_part
SELECT toString(min(thing_id)) AS first, toString(max(thing_id)) AS last, count() AS things
FROM
(
    SELECT DISTINCT thing_id
    FROM histories
    WHERE {after:String} = '' OR thing_id > toUUIDOrZero({after:String})
    ORDER BY thing_id
    LIMIT {things:UInt64}
)
"""


async def derive_missing(warehouse: Warehouse) -> int:
    """Derives what was stored and not derived; returns the number of things. After a crash there may be some."""
    found = 0
    for span in await spans_of(warehouse, "events"):
        rows = await warehouse.query(_MISSING.replace("{within}", WITHIN), span)
        await derive(warehouse, [row["thing"] for row in rows])
        found += len(rows)
    return found
