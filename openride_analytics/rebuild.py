"""Recomputing everything derived from the stored events, while they are served and more of them come in.

Each step only adds what is missing, or takes away what has no stored event any more, so running it twice, by two people at
once or not to the end does no harm, and readers see nothing that a repaired table would not say too. A tombstone is a
verdict for good (its winner may have expired, or been erased, and the loser's content may be gone): none is taken back.
"""

from typing import Final

from openride_analytics.cache import Cache
from openride_analytics.ingest.pipeline import settle_all_clashes
from openride_analytics.warehouse import Warehouse
from openride_analytics.warehouse.acts import HOUR, acts_of_events, acts_of_locations
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
    await _rebuild_active_hours(warehouse, say)
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


async def _rebuild_active_hours(warehouse: Warehouse, say: Say) -> None:
    """Rows without an event are put in doubt; then all doubtful ones are dropped, and added again where an event says so.

    While a row is missing its doubt is there, so readers look at the events.
    """
    for month in await months_of(warehouse, "active_hours"):
        for row in await warehouse.query(_HOURS_DAYS, {"month": month}):
            await warehouse.execute(_DOUBT_STALE, {"day": row["day"]})
    (decided,) = await warehouse.query("SELECT toUnixTimestamp64Milli(now64(3, 'UTC')) AS at_ms")
    before = {"before": decided["at_ms"]}
    await inserts_ended(
        warehouse, say=say
    )  # doubts of that time are there now; what comes later stays in doubt
    doubts = await warehouse.query(f"SELECT toInt64(count()) AS n FROM doubtful_hours WHERE {_OLD}", before)
    if doubts[0]["n"]:
        say(f"active_hours: {doubts[0]['n']} in doubt")
        await mutate(warehouse, "active_hours", f"DELETE WHERE {_DOUBTED}", before, say=say)
        await inserts_ended(
            warehouse, say=say
        )  # an event's row may have been dropped before the event was seen
    for table, add in (("events", _ADD_ACTS), ("driver_locations", _ADD_SEEN)):
        for month in await months_of(warehouse, table):
            for row in await warehouse.query(_DAYS.replace("{table}", table), {"month": month}):
                await warehouse.execute(add, {"day": row["day"]})
            say(f"active_hours: from {table} of {month // 100}-{month % 100:02}")
    if doubts[0]["n"]:
        await mutate(warehouse, "doubtful_hours", f"DELETE WHERE {_OLD}", before, say=say)


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

_COUNT_STALE: Final = f"SELECT toInt64(count()) AS stale FROM event_ids WHERE {_STALE}"

_DAYS: Final = """
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
INSERT INTO event_ids (event_id, event_type, event_timestamp, driver_id)
SELECT DISTINCT event_id, event_type, event_timestamp, toUUID('00000000-0000-0000-0000-000000000000')
FROM events
WHERE {_DAY}
  AND user_id NOT IN (SELECT user_id FROM erased_users)
  AND rider_id NOT IN (SELECT user_id FROM erased_users)
  AND driver_id NOT IN (SELECT user_id FROM erased_users)
"""

_ADD_LOCATIONS: Final = f"""
INSERT INTO event_ids (event_id, event_type, event_timestamp, driver_id)
SELECT DISTINCT event_id, 'driver.location.updated', event_timestamp, driver_id
FROM driver_locations
WHERE {_DAY}
  AND driver_id NOT IN (SELECT user_id FROM erased_users)
"""

_HOURS_DAYS: Final = """
SELECT DISTINCT toString(toDate(fromUnixTimestamp64Milli(hour * 3600000, 'UTC'))) AS day
FROM active_hours
WHERE toYYYYMM(fromUnixTimestamp64Milli(hour * 3600000, 'UTC')) = {month:UInt32}
ORDER BY day
"""

_ACTS: Final = f"""
    {acts_of_events(_DAY)}
    UNION ALL
    {acts_of_locations(_DAY)}
"""

_DOUBT_STALE: Final = f"""
INSERT INTO doubtful_hours (kind, hour, user_id)
SELECT DISTINCT kind, hour, user_id
FROM active_hours
WHERE hour >= intDiv(toUnixTimestamp64Milli(toDateTime64({{day:String}}, 3, 'UTC')), 3600000)
  AND hour < intDiv(toUnixTimestamp64Milli(toDateTime64({{day:String}}, 3, 'UTC')), 3600000) + 24
  AND (CAST(kind, 'String'), hour, user_id) NOT IN
  (
      SELECT kind, {HOUR}, user_id
      FROM ({_ACTS})
  )
"""

_OLD: Final = "doubted_at < fromUnixTimestamp64Milli({before:Int64})"
_DOUBTED: Final = f"(kind, hour, user_id) IN (SELECT kind, hour, user_id FROM doubtful_hours WHERE {_OLD})"

_ADD_ACTS: Final = f"""
INSERT INTO active_hours (kind, hour, user_id)
SELECT DISTINCT kind, {HOUR}, user_id
FROM ({acts_of_events(_DAY)})
WHERE user_id NOT IN (SELECT user_id FROM erased_users)
"""

_ADD_SEEN: Final = f"""
INSERT INTO active_hours (kind, hour, user_id)
SELECT DISTINCT kind, {HOUR}, user_id
FROM ({acts_of_locations(_DAY)})
WHERE user_id NOT IN (SELECT user_id FROM erased_users)
"""
