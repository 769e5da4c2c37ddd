"""Recomputing everything derived from the stored events, while they are served and more of them come in.

Each step only adds what is missing, or takes away what has no stored event any more, so running it twice, by two people at
once or not to the end does no harm, and readers see nothing that a repaired table would not say too. A tombstone is a
verdict for good (its winner may have expired, or been erased, and the loser's content may be gone): none is taken back.
"""

from typing import Final

from openride_analytics.cache import Cache
from openride_analytics.ingest.clashes import settle_all_clashes
from openride_analytics.warehouse import Warehouse
from openride_analytics.warehouse.acts import HOUR, acts_of_events, acts_of_locations
from openride_analytics.warehouse.changes import (
    OF_PART,
    WITHIN,
    Say,
    inserts_ended,
    mutate,
    parts_of_ids,
    spans_of,
)
from openride_analytics.warehouse.facts import (
    ADD_HISTORIES,
    FACTS,
    IN_PART,
    THING,
    derive_among,
    parts_of_things,
)


async def rebuild(warehouse: Warehouse, cache: Cache, *, say: Say) -> None:
    """Brings all derived tables in line with the stored events. Raises what the warehouse raises."""
    await _drop_stale_ids(warehouse, say)
    # What was just being inserted may have been seen without its event: it is added again with all others.
    await inserts_ended(warehouse, say=say)
    await _add_ids(warehouse, say)
    await _renew_histories(warehouse, say)
    say("clashes: settling")
    await settle_all_clashes(warehouse)
    await _renew_facts(warehouse, say)
    await _renew_active_days(warehouse, say)
    await cache.data_changed()


async def _drop_stale_ids(warehouse: Warehouse, say: Say) -> None:
    """Entries without a stored event would make losers of events that have lost to nothing."""
    parts = await parts_of_ids(warehouse)
    for number, part in enumerate(parts, start=1):
        rows = await warehouse.query(_COUNT_STALE, part)
        if stale := int(rows[0]["stale"]):
            say(f"event_ids: {stale} without a stored event, part {number} of {len(parts)}")
            await mutate(warehouse, "event_ids", f"DELETE WHERE {_STALE}", part, say=say)


async def _add_ids(warehouse: Warehouse, say: Say) -> None:
    """The keys of all stored rows, those included that have lost or have a tombstone, day by day."""
    for table, add in (("events", _ADD_EVENTS), ("driver_locations", _ADD_LOCATIONS)):
        for span in await spans_of(warehouse, table):
            await warehouse.execute(add, span)
        say(f"event_ids: from {table}")
    if (await warehouse.query(_COUNT_UNRANKED))[0]["unranked"]:
        # Of before there were ranks. They are there again with one, and would look like another content.
        await mutate(warehouse, "event_ids", "DELETE WHERE content_rank = 0", say=say)


async def _renew_histories(warehouse: Warehouse, say: Say) -> None:
    """Adds what is missing, and takes away what has no stored event any more."""
    for span in await spans_of(warehouse, "events"):
        await warehouse.execute(ADD_HISTORIES.replace("{within}", WITHIN), span)
    for span in await spans_of(warehouse, "histories"):
        rows = await warehouse.query(_COUNT_STALE_HISTORIES, span)
        if stale := int(rows[0]["stale"]):
            say(f"histories: {stale} without a stored event")
            await mutate(warehouse, "histories", f"DELETE WHERE {_STALE_HISTORIES}", span, say=say)
    say("histories: from events")


async def _renew_facts(warehouse: Warehouse, say: Say) -> None:
    """Derives all of them anew. Those that do not follow from the histories are taken away first."""
    async for part in parts_of_things(warehouse):
        rows = await warehouse.query(_COUNT_STALE_FACTS, part)
        if stale := int(rows[0]["stale"]):
            say(f"facts: {stale} that do not follow")
            await mutate(warehouse, "facts", f"DELETE WHERE {_STALE_FACTS}", part, say=say)
        await derive_among(warehouse, IN_PART, part)
    say("facts: from histories")


async def _renew_active_days(warehouse: Warehouse, say: Say) -> None:
    """Hours without an event are put in doubt; then all doubtful ones are dropped, and added again where an event says so.

    While an hour is missing its doubt is there, so readers look at the events.
    """
    for span in await spans_of(warehouse, "active_days", "fromUnixTimestamp64Milli(day * 86400000, 'UTC')"):
        await warehouse.execute(_DOUBT_STALE, span)
    (decided,) = await warehouse.query(_DECIDED)
    before = {"before": decided["at_ms"]}
    # Doubts of that time are there now; what comes later stays in doubt.
    await inserts_ended(warehouse, say=say)
    doubts = await warehouse.query(_COUNT_DOUBTS, before)
    if doubts[0]["found"]:
        say(f"active_days: {doubts[0]['found']} hours in doubt")
        await mutate(warehouse, "active_days", _DROP_DOUBTED, before, say=say)
        # An event's hour may have been dropped before the event was seen.
        await inserts_ended(warehouse, say=say)
    for table, add in (("events", _ADD_ACTS), ("driver_locations", _ADD_SEEN)):
        for span in await spans_of(warehouse, table):
            await warehouse.execute(add, span)
        say(f"active_days: from {table}")
    if doubts[0]["found"]:
        await mutate(warehouse, "doubtful_hours", f"DELETE WHERE {_OLD}", before, say=say)


_STALE: Final = f"""
{OF_PART}
AND if(
    event_type = 'driver.location.updated',
    (event_id, event_timestamp, driver_id) NOT IN
    (
        SELECT event_id, event_timestamp, driver_id
        FROM driver_locations
        WHERE {OF_PART}
    ),
    (event_id, event_timestamp, event_type) NOT IN
    (
        SELECT event_id, event_timestamp, event_type
        FROM events
        WHERE {OF_PART}
    )
)
"""

_COUNT_STALE: Final = f"-- rebuild.stale\nSELECT toInt64(count()) AS stale FROM event_ids WHERE {_STALE}"

_COUNT_UNRANKED: Final = """
-- rebuild.unranked_ids
SELECT toInt64(count()) AS unranked
FROM event_ids
WHERE content_rank = 0
"""

_STALE_HISTORIES: Final = f"""
{WITHIN}
AND (event_type, event_timestamp, event_id, content_rank) NOT IN
(
    SELECT event_type, event_timestamp, event_id, content_rank
    FROM events
    WHERE {WITHIN}
)
"""

_COUNT_STALE_HISTORIES: Final = (
    f"-- rebuild.stale_histories\nSELECT toInt64(count()) AS stale FROM histories WHERE {_STALE_HISTORIES}"
)

_STALE_FACTS: Final = f"""
{IN_PART}
AND is_deleted = 0
AND (event_type, event_timestamp, event_id, version) NOT IN
(
    SELECT event_type, event_timestamp, event_id, version
    FROM ({FACTS.replace("{among}", IN_PART)})
)
"""

_COUNT_STALE_FACTS: Final = (
    f"-- rebuild.stale_facts\nSELECT toInt64(count()) AS stale FROM facts WHERE {_STALE_FACTS}"
)

# What names an erased user may still be there while it is being removed.
_ADD_EVENTS: Final = f"""
-- rebuild.add_events
INSERT INTO event_ids (event_id, event_type, event_timestamp, driver_id, thing_id, content_rank)
SELECT DISTINCT
    event_id, event_type, event_timestamp, toUUID('00000000-0000-0000-0000-000000000000'), {THING}, content_rank
FROM events
WHERE {WITHIN}
  AND user_id NOT IN (SELECT user_id FROM erased_users)
  AND rider_id NOT IN (SELECT user_id FROM erased_users)
  AND driver_id NOT IN (SELECT user_id FROM erased_users)
"""

_ADD_LOCATIONS: Final = f"""
-- rebuild.add_locations
INSERT INTO event_ids (event_id, event_type, event_timestamp, driver_id, content_rank)
SELECT DISTINCT event_id, 'driver.location.updated', event_timestamp, driver_id, content_rank
FROM driver_locations
WHERE {WITHIN}
  AND driver_id NOT IN (SELECT user_id FROM erased_users)
"""

_DECIDED: Final = """
-- rebuild.now
SELECT toUnixTimestamp64Milli(now64(3, 'UTC')) AS at_ms
"""

_ACTS: Final = f"""
    {acts_of_events(WITHIN)}
    UNION ALL
    {acts_of_locations(WITHIN)}
"""

_HOUR: Final = "toInt64(day) * 24 + toInt64(bit)"

# A join, as ClickHouse 26.7 refuses NOT IN over shards here.
_DOUBT_STALE: Final = f"""
-- rebuild.doubt
INSERT INTO doubtful_hours (kind, hour, user_id)
SELECT DISTINCT kind, hour, user_id
FROM
(
    SELECT CAST(kind, 'String') AS kind, {_HOUR} AS hour, user_id
    FROM (SELECT kind, day, user_id, arrayJoin(bitPositionsToArray(hours)) AS bit FROM active_days)
    WHERE day >= intDiv({{first_ms:Int64}}, 86400000)
      AND day < intDiv({{end_ms:Int64}}, 86400000)
) AS entered
LEFT ANTI JOIN
(
    SELECT kind, {HOUR} AS hour, user_id
    FROM ({_ACTS})
) AS acts USING (kind, hour, user_id)
"""


def _added(name: str, acts: str) -> str:
    """The statement that puts acts into `active_days`, as its views do."""
    return f"""
-- {name}
INSERT INTO active_days (kind, day, user_id, hours)
SELECT
    kind,
    toInt32(intDiv({HOUR}, 24)) AS day,
    user_id,
    groupBitOr(bitShiftLeft(toUInt32(1), {HOUR} % 24)) AS hours
FROM ({acts})
WHERE user_id NOT IN (SELECT user_id FROM erased_users)
GROUP BY kind, day, user_id
"""


_OLD: Final = "doubted_at < fromUnixTimestamp64Milli({before:Int64})"
_COUNT_DOUBTS: Final = f"""
-- rebuild.doubts
SELECT toInt64(count()) AS found
FROM doubtful_hours
WHERE {_OLD}
"""
_BY_SOMEBODY: Final = f"""SELECT kind, hour, user_id FROM doubtful_hours WHERE {_OLD}"""
_BY_ANYBODY: Final = f"""SELECT kind, hour FROM doubtful_hours WHERE {_OLD} AND empty(user_id)"""
# Of the days with such an hour: their hours, without those in doubt.
_DROP_DOUBTED: Final = f"""
UPDATE hours = toUInt32(arraySum(arrayMap(
    bit -> bitShiftLeft(toUInt32(1), bit),
    arrayFilter(
        bit -> (kind, {_HOUR}, user_id) NOT IN ({_BY_SOMEBODY})
            AND (kind, {_HOUR}) NOT IN ({_BY_ANYBODY}),
        bitPositionsToArray(hours)
    )
)))
WHERE (kind, toInt64(day), user_id) IN (SELECT kind, intDiv(hour, 24), user_id FROM ({_BY_SOMEBODY}))
   OR (kind, toInt64(day)) IN (SELECT kind, intDiv(hour, 24) FROM ({_BY_ANYBODY}))
"""

_ADD_ACTS: Final = _added("rebuild.add_acts", acts_of_events(WITHIN))
_ADD_SEEN: Final = _added("rebuild.add_seen", acts_of_locations(WITHIN))
