"""Recomputing everything derived from the stored events, while they are served and more of them come in.

Each step only adds what is missing, or takes away what has no stored event any more, so running it twice, by two people at
once or not to the end does no harm, and readers see nothing that a repaired table would not say too. A tombstone is a
verdict for good (its winner may have expired, or been erased, and the loser's content may be gone): none is taken back.
"""

from typing import Final

from openride_analytics.cache import Cache
from openride_analytics.ingest.pipeline import settle_all_clashes
from openride_analytics.warehouse import Warehouse
from openride_analytics.warehouse.changes import Say, inserts_ended, months_of, mutate

_PARTS: Final = 64


async def rebuild(warehouse: Warehouse, cache: Cache, *, say: Say) -> None:
    """Brings all derived tables in line with the stored events. Raises what the warehouse raises."""
    await _drop_stale_ids(warehouse, say)
    # What was just being inserted may have been seen without its event: it is added again with all others.
    await inserts_ended(warehouse, say=say)
    await _add_ids(warehouse, say)
    say("clashes: settling")
    await settle_all_clashes(warehouse)
    # Roll-ups are to be recomputed here: they follow from the events that are left.
    await cache.data_changed()


async def _drop_stale_ids(warehouse: Warehouse, say: Say) -> None:
    """Entries without a stored event would make losers of events that have lost to nothing."""
    for part in range(_PARTS):
        rows = await warehouse.query(_COUNT_STALE, {"part": part})
        if stale := int(rows[0]["stale"]):
            say(f"event_ids: {stale} without a stored event, part {part + 1} of {_PARTS}")
            await mutate(warehouse, "event_ids", f"DELETE WHERE {_STALE}", {"part": part}, say=say)


async def _add_ids(warehouse: Warehouse, say: Say) -> None:
    """The keys of all stored rows, those included that have lost or have a tombstone, day by day.

    Ids derived from content are entered too (a producer may have given ids of that form): they clash with nothing.
    """
    for table, add in (("events", _ADD_EVENTS), ("driver_locations", _ADD_LOCATIONS)):
        for month in await months_of(warehouse, table):
            for row in await warehouse.query(_DAYS.replace("{table}", table), {"month": month}):
                await warehouse.execute(add, {"day": row["day"]})
            say(f"event_ids: from {table} of {month // 100}-{month % 100:02}")


_OF_PART: Final = f"sipHash64(event_id) % {_PARTS} = {{part:UInt8}}"

_STALE: Final = f"""
{_OF_PART}
AND if(
    event_type = 'driver.location.updated',
    (event_id, event_timestamp, driver_id) NOT IN
    (
        SELECT event_id, event_timestamp, driver_id
        FROM driver_locations
        WHERE {_OF_PART}
    ),
    (event_id, event_timestamp, event_type) NOT IN
    (
        SELECT event_id, event_timestamp, event_type
        FROM events
        WHERE {_OF_PART}
    )
)
"""

_COUNT_STALE: Final = f"-- rebuild.stale\nSELECT toInt64(count()) AS stale FROM event_ids WHERE {_STALE}"

_DAYS: Final = """
-- rebuild.days
SELECT DISTINCT toString(toDate(event_timestamp)) AS day
FROM {table}
WHERE toYYYYMM(event_timestamp) = {month:UInt32}
ORDER BY day
"""

_DAY: Final = """
event_timestamp >= toDateTime64({day:String}, 3, 'UTC')
AND event_timestamp < toDateTime64({day:String}, 3, 'UTC') + toIntervalDay(1)
"""

# What names an erased user may still be there while it is being removed.
_ADD_EVENTS: Final = f"""
-- rebuild.add_events
INSERT INTO event_ids (event_id, event_type, event_timestamp, driver_id)
SELECT DISTINCT event_id, event_type, event_timestamp, toUUID('00000000-0000-0000-0000-000000000000')
FROM events
WHERE {_DAY}
  AND user_id NOT IN (SELECT user_id FROM erased_users)
  AND rider_id NOT IN (SELECT user_id FROM erased_users)
  AND driver_id NOT IN (SELECT user_id FROM erased_users)
"""

_ADD_LOCATIONS: Final = f"""
-- rebuild.add_locations
INSERT INTO event_ids (event_id, event_type, event_timestamp, driver_id)
SELECT DISTINCT event_id, 'driver.location.updated', event_timestamp, driver_id
FROM driver_locations
WHERE {_DAY}
  AND driver_id NOT IN (SELECT user_id FROM erased_users)
"""
