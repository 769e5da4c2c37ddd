"""Erasing users: their events and everything derived from them, in the warehouse and in the cache of answers.

`erased_users` is the record and the guard: from the moment that a user is in it nothing of theirs is stored any more (the
views of `incoming`, the settling of clashes and the dead letters look there). All that is stored is then removed by what
that table says, so that running it again, by anyone, completes what was interrupted.

A user's events are those with the user's id as `user_id`, `rider_id` or `driver_id`. An event that lost its id to one of
them stays lost, like one whose winner has expired.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from openride_analytics.cache import Cache
from openride_analytics.ingest.clashes import settle_clashes_among
from openride_analytics.warehouse import Warehouse, WarehouseUnavailable
from openride_analytics.warehouse.acts import acts_of_events, doubt_acts
from openride_analytics.warehouse.changes import Say, inserts_ended, months_of, mutate
from openride_analytics.warehouse.facts import derive

# More than one round is needed only where rows came in by another way than the guarded one.
_ROUNDS: Final = 5
_CACHE_ATTEMPTS: Final = 4
_CACHE_PAUSE_SECONDS: Final = 6.0


class CacheAway(Exception):
    """The shared cache could not be emptied: old answers may be given until they are too old."""


@dataclass(frozen=True)
class _Trace:
    """Something of erased users in a table: which rows, and what is done with them.

    They are counted by the months of `months_of`, where that is given; `{within}` in `rows` stands for the month.
    """

    name: str
    table: str
    rows: str
    months_of: str = ""
    change: str = "DELETE"


async def erase(warehouse: Warehouse, cache: Cache, user: UUID, *, say: Say) -> dict[str, int]:
    """Removes a user for good; returns how many rows went, by what they were.

    Raises what the warehouse raises, and `CacheAway` where only the cache is left to be emptied.
    """
    await warehouse.execute(_GUARD, {"user": str(user)})
    return await erase_again(warehouse, cache, always_forget=True, say=say)


async def erase_again(
    warehouse: Warehouse, cache: Cache, *, always_forget: bool = False, say: Say
) -> dict[str, int]:
    """Removes what is left of everybody who was erased: what an interrupted run, or an insert on its way, left behind."""
    removed = await _remove(warehouse, say)
    if removed or always_forget:
        await _forget(cache)
    return dict(removed)


async def _forget(cache: Cache) -> None:
    for attempt in range(_CACHE_ATTEMPTS):
        if attempt:
            await asyncio.sleep(_CACHE_PAUSE_SECONDS)  # it is left alone for some seconds after a failure
        if await cache.forget_all():
            return
    raise CacheAway("the cache of answers could not be emptied")


async def _remove(warehouse: Warehouse, say: Say) -> Counter[str]:
    removed = Counter[str]()
    if not await warehouse.query("-- erasure.any\nSELECT 1 AS one FROM erased_users LIMIT 1"):
        return removed
    await inserts_ended(warehouse, say=say)  # those that began before the guard was there
    for _ in range(_ROUNDS):
        found = [(trace, rows) for trace in _TRACES if (rows := await _count(warehouse, trace))]
        if not found:
            return removed
        await _settle(warehouse)
        things = [row["thing"] for row in await warehouse.query(_THEIR_THINGS)]
        for trace, rows in found:
            say(f"{trace.name}: {rows} rows")
            where = trace.rows.replace("{within}", "")
            await mutate(warehouse, trace.table, f"{trace.change} WHERE {where}", say=say)
            removed[trace.name] += rows
        await derive(warehouse, things)  # what others did to the same booking, payment or trip
    raise WarehouseUnavailable("rows of erased users keep coming in: run it again")


async def _count(warehouse: Warehouse, trace: _Trace) -> int:
    """How many rows there are. Bounded statements: what may be much is counted month by month."""
    count = f"-- erasure.count\nSELECT toInt64(count()) AS found FROM {trace.table} WHERE {trace.rows}"
    if not trace.months_of:
        return int((await warehouse.query(count))[0]["found"])
    if "{within}" not in count:
        count += " {within}"
    found = 0
    for month in await months_of(warehouse, trace.months_of):
        of_month = count.replace("{within}", "AND toYYYYMM(event_timestamp) = {month:UInt32}")
        found += int((await warehouse.query(of_month, {"month": month}))[0]["found"])
    return found


async def _settle(warehouse: Warehouse) -> None:
    """Gives tombstones to what has lost its id to an event that goes now, while that can still be seen."""
    for table, theirs in (("events", _THEIRS), ("driver_locations", _THEIR_LOCATIONS)):
        for month in await months_of(warehouse, table):
            among = f"""
                event_id IN
                (
                    SELECT event_id
                    FROM {table}
                    WHERE {theirs} AND toYYYYMM(event_timestamp) = {{month:UInt32}}
                )
            """
            await settle_clashes_among(warehouse, among, {"month": month})
    for month in await months_of(warehouse, "events"):
        await warehouse.execute(_BURY_CONTENTS, {"month": month})
        await warehouse.execute(_DOUBT_OTHERS, {"month": month})


_GUARD: Final = """
-- erasure.guard
INSERT INTO erased_users (user_id, erased_at)
SELECT {user:UUID}, now64(3, 'UTC')
WHERE {user:UUID} NOT IN (SELECT user_id FROM erased_users)
"""

_ERASED: Final = "(SELECT user_id FROM erased_users)"
_THEIRS: Final = f"(user_id IN {_ERASED} OR rider_id IN {_ERASED} OR driver_id IN {_ERASED})"
_THEIR_LOCATIONS: Final = f"driver_id IN {_ERASED}"
_THEIR_PARTS: Final = f"(rider_id IN {_ERASED} OR driver_id IN {_ERASED})"

# The bookings, payments and trips that they took part in.
_THEIR_THINGS: Final = (
    f"-- erasure.things\nSELECT DISTINCT toString(thing_id) AS thing FROM histories WHERE {_THEIR_PARTS}"
)

# Of several contents with the same type, time and id the greatest rank wins, and merges drop the others: where a user's
# own wins, another's must not come to light just because no merge has dropped it yet.
_BURY_CONTENTS: Final = f"""
-- erasure.bury
INSERT INTO events (event_type, event_id, event_timestamp, content_rank, is_deleted)
SELECT event_type, event_id, event_timestamp, 18446744073709551615, 1
FROM events
WHERE (event_type, event_timestamp, event_id) IN
(
    SELECT event_type, event_timestamp, event_id
    FROM events
    WHERE {_THEIRS} AND toYYYYMM(event_timestamp) = {{month:UInt32}}
)
  AND toYYYYMM(event_timestamp) = {{month:UInt32}}
  AND is_deleted = 0
GROUP BY event_type, event_id, event_timestamp
HAVING argMax({_THEIRS}, content_rank) AND NOT min({_THEIRS})
"""

# Others acted by these events too: a rider on an erased driver's trip. What else may show their hour is looked for.
_DOUBT_OTHERS: Final = doubt_acts(
    acts_of_events(
        f"""(event_type, event_timestamp, event_id) IN
              (
                  SELECT event_type, event_timestamp, event_id
                  FROM events
                  WHERE {_THEIRS} AND toYYYYMM(event_timestamp) = {{month:UInt32}}
              )
              AND toYYYYMM(event_timestamp) = {{month:UInt32}}""",
        final=False,
    )
)

# The entries of their events, but of no event that shares its type, time and id with another's.
_THEIR_IDS: Final = f"""
(event_id, event_type, event_timestamp) IN
(
    SELECT event_id, event_type, event_timestamp
    FROM events
    WHERE (event_type, event_timestamp, event_id) IN
    (
        SELECT event_type, event_timestamp, event_id
        FROM events
        WHERE {_THEIRS} {{within}}
    )
      AND is_deleted = 0 {{within}}
    GROUP BY event_id, event_type, event_timestamp
    HAVING min({_THEIRS})
)
"""

# Ids anywhere in the text, in any case.
_THEIR_LETTERS: Final = f"""
arrayExists(
    id -> toUUIDOrZero(id) IN {_ERASED},
    extractAll(
        concat(key, ' ', record, ' ', field, ' ', detail, ' ', event_type),
        '[0-9a-fA-F]{{8}}-[0-9a-fA-F]{{4}}-[0-9a-fA-F]{{4}}-[0-9a-fA-F]{{4}}-[0-9a-fA-F]{{12}}'
    )
)
"""

_NOBODY: Final = "toUUID('00000000-0000-0000-0000-000000000000')"
_BLANKED: Final = ", ".join(
    f"{column} = if({column} IN {_ERASED}, {_NOBODY}, {column})" for column in ("verified_by", "refunded_by")
)

# All that may hold something of a user, in the order of removal: the ids' entries are found through the events. A new
# table with ids of users, or texts that may hold them, belongs here (a test looks into every column of every table).
_TRACES: Final = (
    _Trace("event_ids", "event_ids", _THEIR_LOCATIONS),
    _Trace("event_ids", "event_ids", _THEIR_IDS, months_of="events"),
    # All facts of the things: those of others' events are derived again, without what they say of the user's.
    _Trace(
        "facts",
        "facts",
        f"thing_id IN (SELECT thing_id FROM histories WHERE {_THEIR_PARTS})",
        months_of="facts",
    ),
    _Trace("histories", "histories", _THEIR_PARTS),
    _Trace("events", "events", _THEIRS, months_of="events"),
    _Trace(
        "mentions in others' events",
        "events",
        f"(verified_by IN {_ERASED} OR refunded_by IN {_ERASED}) AND NOT {_THEIRS}",
        months_of="events",
        change=f"UPDATE {_BLANKED}",
    ),
    _Trace("driver_locations", "driver_locations", _THEIR_LOCATIONS, months_of="driver_locations"),
    _Trace("active_days", "active_days", f"user_id IN {_ERASED}"),
    _Trace("doubtful_hours", "doubtful_hours", f"user_id IN {_ERASED}"),
    _Trace("dead_letters", "dead_letters", _THEIR_LETTERS),
)
