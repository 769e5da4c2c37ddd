"""Changes of stored rows, for erasing and rebuilding: bounded statements, however large the tables are.

A mutation may rewrite much of a table: it is submitted, and then only looked at, so that no single call is long.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from openride_analytics.warehouse import Parameter, Parameters, QueryTooLong, Warehouse, WarehouseUnavailable

# Where lines about the progress go.
Say = Callable[[str], None]

# Beyond this somebody has to look at the server; the mutation itself goes on there.
MUTATION_SECONDS: Final = 6 * 3_600.0
# An insert is bounded by its own time limit, which is far below this.
_INSERTS_SECONDS: Final = 1_800.0
_FIRST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 2.0
_SAY_SECONDS: Final = 10.0


async def mutate(
    warehouse: Warehouse, table: str, change: str, parameters: Parameters | None = None, *, say: Say
) -> None:
    """`ALTER TABLE table change`, to its end. Raises `QueryTooLong` after hours, and what `Warehouse` raises."""
    await warehouse.execute(
        f"-- changes.mutate\nALTER TABLE {table} {change} SETTINGS mutations_sync = 0", parameters
    )
    # Those that others have submitted come first in any case: the table's mutations are carried out in order.
    ours = [row["mutation_id"] for row in await warehouse.query_hosts(_UNFINISHED, {"table": table})]

    async def left() -> str:
        unfinished = [
            row
            for row in await warehouse.query_hosts(_UNFINISHED, {"table": table})
            if row["mutation_id"] in ours
        ]
        if not unfinished:
            return ""
        parts = max(row["parts"] for row in unfinished)
        reason = unfinished[-1]["reason"][:200]
        return f"{table}: {parts} parts to rewrite" + (f" ({reason})" if reason else "")

    if await _waited(left, MUTATION_SECONDS, say):
        raise QueryTooLong(f"rewriting {table} takes longer than {MUTATION_SECONDS / 3_600:g} hours")


async def inserts_ended(warehouse: Warehouse, *, say: Say) -> None:
    """Until all inserts that run now have ended: then all that is stored is seen, and later ones see what is stored now."""
    running = {row["query_id"] for row in await warehouse.query_hosts(_INSERTING)}

    async def left() -> str:
        still = running & {row["query_id"] for row in await warehouse.query_hosts(_INSERTING)}
        return f"{len(still)} inserts are still running" if still else ""

    if running and (said := await _waited(left, _INSERTS_SECONDS, say)):
        raise WarehouseUnavailable(said)


async def months_of(warehouse: Warehouse, table: str) -> list[int]:
    """The partitions of a table that is partitioned by month, as `toYYYYMM`."""
    return [int(row["month"]) for row in await warehouse.query_hosts(_MONTHS, {"table": table})]


async def spans_of(
    warehouse: Warehouse, table: str, time: str = "event_timestamp"
) -> list[dict[str, Parameter]]:
    """Spans of time, whole days in UTC, that hold all rows of a table, about as many each: what `WITHIN` binds."""
    spans: list[dict[str, Parameter]] = []
    rows = _ROWS_AT_ONCE
    for day in await warehouse.query(_DAYS.replace("{table}", table).replace("{time}", time)):
        if rows + day["row_count"] > _ROWS_AT_ONCE:
            spans.append({"first_ms": day["day_ms"]})
            rows = 0
        rows += day["row_count"]
        spans[-1]["end_ms"] = day["day_ms"] + _DAY_MS
    return spans


async def parts_of_ids(warehouse: Warehouse) -> list[dict[str, Parameter]]:
    """All ids of `event_ids` in parts of about as many each, by their hash: what `OF_PART` binds."""
    (row,) = await warehouse.query(_COUNT_IDS)
    parts = row["found"] // IDS_AT_ONCE + 1
    return [{"parts": parts, "part": part} for part in range(parts)]


async def _waited(left: Callable[[], Awaitable[str]], limit_seconds: float, say: Say) -> str:
    """Looks again and again at what is left, which is said now and then; returns what is left at the limit."""
    started = said = monotonic()
    pause = _FIRST_PAUSE_SECONDS
    while text := await left():
        now = monotonic()
        if now - started > limit_seconds:
            return text
        if now - said > _SAY_SECONDS:
            say(text)
            said = now
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
    return ""


WITHIN: Final = """event_timestamp >= fromUnixTimestamp64Milli({first_ms:Int64})
AND event_timestamp < fromUnixTimestamp64Milli({end_ms:Int64})"""
"""A condition on a time: within one of `spans_of`."""

OF_PART: Final = "sipHash64(event_id) % {parts:UInt32} = {part:UInt32}"
"""A condition on `event_id`: in one of `parts_of_ids`."""

# Each part reads all ids, as they lie in no order; a million of them are grouped in some hundreds of megabytes.
IDS_AT_ONCE: Final = 1_000_000

_COUNT_IDS: Final = """
-- changes.ids
SELECT toInt64(count()) AS found
FROM event_ids
"""

# Bounds the memory and the time of one statement, unless a single day has more.
_ROWS_AT_ONCE: Final = 500_000
_DAY_MS: Final = 86_400_000

_DAYS: Final = """
-- changes.days
SELECT toUnixTimestamp64Milli(toDateTime64(toStartOfDay({time}, 'UTC'), 3, 'UTC')) AS day_ms, count() AS row_count
FROM {table}
GROUP BY day_ms
ORDER BY day_ms
"""

_UNFINISHED: Final = """
-- changes.unfinished
SELECT mutation_id, toInt64(parts_to_do) AS parts, latest_fail_reason AS reason
FROM system.mutations
WHERE database = {stored_in:String} AND table = {table:String} AND NOT is_done
ORDER BY create_time, mutation_id
"""

_INSERTING: Final = """
-- changes.inserting
SELECT query_id
FROM system.processes
WHERE current_database = currentDatabase() AND query_kind = 'Insert'
"""

_MONTHS: Final = """
-- changes.months
SELECT DISTINCT partition AS month
FROM system.parts
WHERE database = {stored_in:String} AND table = {table:String} AND active
ORDER BY month
"""
