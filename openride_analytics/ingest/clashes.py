"""Ids that came with different contents: of each the earliest is kept, the others get a tombstone."""

from typing import Final

from openride_analytics.ingest.dead_letters import IDS_PER_QUERY
from openride_analytics.warehouse import Ids, Parameters, Warehouse
from openride_analytics.warehouse.acts import HOUR, acts_of_events, doubt_acts
from openride_analytics.warehouse.changes import OF_PART, parts_of_ids
from openride_analytics.warehouse.facts import derive


async def settle_clashes(warehouse: Warehouse, event_ids: Ids) -> None:
    """Of several contents under one id the earliest wins (then by event type); the others get a tombstone.

    The order is total and does not know arrival, and a key that has lost can never win again: settling is idempotent
    and the order of batches does not matter.
    """
    await settle_clashes_among(warehouse, "event_id IN {ids:Ids}", {"ids": event_ids})


async def settle_all_clashes(warehouse: Warehouse) -> None:
    """The same for all ids that are stored, a part of them at a time."""
    for part in await parts_of_ids(warehouse):
        await settle_clashes_among(warehouse, OF_PART, part)


async def settle_clashes_among(warehouse: Warehouse, among: str, parameters: Parameters) -> None:
    """The same for the ids in `event_ids` for which the condition `among` holds."""
    clashing = await warehouse.query(_CLASHING.replace("{among}", among), parameters)
    for start in range(0, len(clashing), IDS_PER_QUERY):
        some = clashing[start : start + IDS_PER_QUERY]
        for which, statement in _VERDICTS:
            if losers := [row["id"] for row in some if row[which]]:
                await warehouse.execute(statement, {"ids": losers})
        await derive(warehouse, sorted({thing for row in some for thing in row["things"]}))


_NO_THING: Final = "toUUID('00000000-0000-0000-0000-000000000000')"

# Also ids of which one key came with several contents: the tables keep one of them, but each belongs to a thing or a user.
# Locations have the driver in their key.
_CLASHING: Final = f"""
-- clashes.find
SELECT
    toString(event_id) AS id,
    arrayMap(thing -> toString(thing), groupUniqArrayIf(thing_id, thing_id != {_NO_THING})) AS things,
    notEmpty(things) AS of_things,
    uniqExact(event_timestamp, event_type, driver_id) > 1 AS of_several_keys,
    uniqExactIf(content_rank, event_type != 'driver.location.updated') > 1 AS of_several_contents,
    of_several_keys AND countIf(event_type != 'driver.location.updated') > 0 AS of_events,
    of_several_keys AND countIf(event_type = 'driver.location.updated') > 0 AS of_locations
FROM event_ids
WHERE event_id IN
(
    -- Nearly all ids have one row. To see that only their own column is read, which takes a third of the time.
    SELECT event_id
    FROM event_ids
    WHERE {{among}}
    GROUP BY event_id
    HAVING count() > 1
)
GROUP BY event_id
HAVING of_several_keys OR of_several_contents
"""

_LOSERS: Final = """
FROM event_ids
INNER JOIN
(
    SELECT event_id, min((event_timestamp, event_type, driver_id)) AS winner
    FROM event_ids
    WHERE event_id IN {ids:Array(UUID)}
    GROUP BY event_id
) AS winners USING (event_id)
WHERE event_id IN {ids:Array(UUID)}
  AND (event_timestamp, event_type, driver_id) != winner
"""

_OF_LOSERS: Final = f"""(event_type, event_timestamp, event_id) IN
              (
                  SELECT event_type, event_timestamp, event_id
                  {_LOSERS}
              )"""

_DOUBT_EVENTS: Final = doubt_acts(acts_of_events(_OF_LOSERS, final=False))

_DOUBT_LOCATIONS: Final = doubt_acts(f"""
    SELECT event_timestamp, 'online' AS kind, driver_id AS user_id
    {_LOSERS}
      AND event_type = 'driver.location.updated'
""")

# Keys with several contents: which of them acted, and who, may be merged away already, so their whole hours are in doubt.
_DOUBT_HOURS: Final = f"""
-- clashes.doubt_hours
INSERT INTO doubtful_hours (kind, hour, user_id)
SELECT DISTINCT
    arrayJoin(if(
        startsWith(event_type, 'user.') OR startsWith(event_type, 'route.'), ['lasting'], ['passing', 'driving']
    )) AS kind,
    {HOUR} AS hour,
    toUUID('00000000-0000-0000-0000-000000000000') AS user_id
FROM event_ids
WHERE event_id IN {{ids:Array(UUID)}} AND event_type != 'driver.location.updated'
GROUP BY event_id, event_type, event_timestamp
HAVING uniqExactIf(content_rank, content_rank != 18446744073709551615) > 1  -- a tombstone's
"""

_BURY_EVENTS: Final = f"""
-- clashes.bury_events
INSERT INTO events (event_type, event_id, event_timestamp, content_rank, is_deleted)
SELECT DISTINCT event_type, event_id, event_timestamp, 18446744073709551615, 1
{_LOSERS}
  AND event_type != 'driver.location.updated'
"""

_BURY_FACTS: Final = f"""
-- clashes.bury_facts
INSERT INTO facts (event_type, event_id, event_timestamp, version, is_deleted)
SELECT DISTINCT event_type, event_id, event_timestamp, toUInt128('340282366920938463463374607431768211455'), 1
{_LOSERS}
  AND thing_id != {_NO_THING}
"""

# All contents but the one that the tables keep: the greatest rank of the winning key.
_BURY_CONTENTS: Final = f"""
-- clashes.bury_contents
INSERT INTO buried (thing_id, event_type, event_timestamp, event_id, content_rank)
SELECT DISTINCT thing_id, event_type, event_timestamp, event_id, content_rank
FROM event_ids
INNER JOIN
(
    SELECT event_id, min((event_timestamp, event_type, driver_id, bitNot(content_rank))) AS winner
    FROM event_ids
    WHERE event_id IN {{ids:Array(UUID)}}
    GROUP BY event_id
) AS winners USING (event_id)
WHERE event_id IN {{ids:Array(UUID)}}
  AND (event_timestamp, event_type, driver_id, bitNot(content_rank)) != winner
  AND thing_id != {_NO_THING}
"""

_BURY_LOCATIONS: Final = f"""
-- clashes.bury_locations
INSERT INTO driver_locations (event_id, event_timestamp, driver_id, content_rank, is_deleted)
SELECT DISTINCT event_id, event_timestamp, driver_id, 18446744073709551615, 1
{_LOSERS}
  AND event_type = 'driver.location.updated'
  AND driver_id NOT IN (SELECT user_id FROM erased_users)
"""

# By what `clashes.find` says of an id. Doubted before they are gone: whoever reads in between finds them in the events.
_VERDICTS: Final = (
    ("of_events", _DOUBT_EVENTS),
    ("of_locations", _DOUBT_LOCATIONS),
    ("of_several_contents", _DOUBT_HOURS),
    ("of_events", _BURY_EVENTS),
    ("of_locations", _BURY_LOCATIONS),
    ("of_things", _BURY_CONTENTS),
    ("of_things", _BURY_FACTS),
)
