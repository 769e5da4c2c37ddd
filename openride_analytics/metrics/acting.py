"""Who acted when: counting distinct users, exactly.

Whole hours are read from `active_hours`, the set of who acted in which hour that views of `events` and
`driver_locations` fill. The hours that an edge cuts in two, and the few hours and rows of the set that are in doubt
(`doubtful_hours`), are read from the events themselves.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from openride_analytics.metrics.question import statement
from openride_analytics.warehouse import Parameter, Parameters, Warehouse
from openride_analytics.warehouse.acts import HOUR, acts_of_events, acts_of_locations

HOUR_MS: Final = 3_600_000

DRIVING: Final = "driving"
ONLINE: Final = "online"
ALL_KINDS: Final = ("lasting", "passing", DRIVING, ONLINE)

Window = tuple[int, int]
"""`[start, end)` in Unix milliseconds."""

# A window is a set of bits, one for each span between neighbouring edges: 127 windows have at most 254 edges.
_MOST_WINDOWS: Final = 127
_WIDTHS: Final = (64, 128, 256)

_IN_TIME: Final = """event_timestamp >= fromUnixTimestamp64Milli({since:Int64})
              AND event_timestamp < fromUnixTimestamp64Milli({until:Int64})"""

# With `since` <= time < `until`, both Unix milliseconds.
ACTING: Final = f"""
        {acts_of_events(_IN_TIME)}

        UNION ALL
        {acts_of_locations(_IN_TIME)}
"""

# `spans` says of each hour from the first one on in which span it lies; -1: in none, or in several.
_FROM_HOURS: Final = """
    SELECT user_id, arrayElement({spans:Array(Int16)}, hour - {first_hour:Int64} + 1) AS span
    FROM active_hours
    WHERE hour >= {first_hour:Int64} AND hour < {end_hour:Int64}
      AND kind IN {kinds:Array(String)}
      AND span >= 0
      AND {believed}
      AND {kept}
"""

_BELIEVED: Final = """(kind, hour, user_id) NOT IN
      (
          SELECT kind, hour, user_id
          FROM doubtful_hours
          WHERE hour IN {doubtful_hours:Array(Int64)}
      )"""

# The hour as the tables' keys have it (which finds the rows), and exactly (for times beyond 2106).
_IN_HOURS: Final = f"""toStartOfHour(event_timestamp) IN
              (
                  SELECT toStartOfHour(fromUnixTimestamp64Milli(arrayJoin({{raw_hours:Array(Int64)}}) * {HOUR_MS}, 'UTC'))
              )
              AND {HOUR} IN {{raw_hours:Array(Int64)}}"""

_FROM_EVENTS: Final = f"""
    SELECT
        user_id,
        toInt16(arrayCount(
            edge -> edge <= toUnixTimestamp64Milli(event_timestamp), {{span_edges:Array(Int64)}}
        ) - 1) AS span
    FROM
    (
        {acts_of_events(_IN_HOURS)}

        UNION ALL
        {acts_of_locations(_IN_HOURS)}
    )
    WHERE span >= 0 AND span < {{spans_count:Int16}}
      AND kind IN {{kinds:Array(String)}}
      AND ({HOUR} IN {{cut_hours:Array(Int64)}} OR (kind, {HOUR}, user_id) IN
      (
          SELECT CAST(kind, 'String'), hour, user_id
          FROM doubtful_hours
          WHERE hour IN {{doubtful_hours:Array(Int64)}}
      ))
      AND {{kept}}
"""

_COUNT: Final = """
-- acting.count
SELECT {counts}
FROM
(
    SELECT user_id, groupBitOr(bitShiftLeft(toUInt{width}(1), span)) AS mask
    FROM ({users_in_spans})
    GROUP BY user_id
)
SETTINGS optimize_aggregation_in_order = 1
"""

# Nobody in doubt stands for everybody of the hour.
_DOUBTFUL: Final = """
-- acting.doubtful
SELECT hour, max(empty(user_id)) AS is_whole
FROM doubtful_hours
WHERE hour >= {first_hour:Int64} AND hour < {end_hour:Int64} AND kind IN {kinds:Array(String)}
GROUP BY hour
ORDER BY hour
"""


@dataclass(frozen=True)
class UsersInSpans:
    """Rows of (user_id, span), a user's as often as may be: SQL, and what it binds."""

    sql: str
    parameters: Parameters


async def users_in_spans(
    warehouse: Warehouse, edges: Sequence[int], kinds: Iterable[str] = ALL_KINDS, *, kept: str = "true"
) -> UsersInSpans:
    """Who acted, by acts of these kinds, in which of the spans between neighbouring `edges` (rising milliseconds).

    `kept` is a condition on `user_id`; what it binds is not among the parameters.
    """
    first_hour, end_hour = edges[0] // HOUR_MS, -(-edges[-1] // HOUR_MS)
    spans = [bisect_right(edges, hour * HOUR_MS) - 1 for hour in range(first_hour, end_hour)]
    parameters: dict[str, Parameter] = {"first_hour": first_hour, "end_hour": end_hour, "kinds": list(kinds)}
    in_doubt = await warehouse.query(_DOUBTFUL, parameters)
    cut = {edge // HOUR_MS for edge in edges if edge % HOUR_MS} | {
        row["hour"] for row in in_doubt if row["is_whole"]
    }
    for hour in cut:
        spans[hour - first_hour] = -1
    doubtful = [row["hour"] for row in in_doubt if row["hour"] not in cut]
    sql = _FROM_HOURS.replace("{believed}", _BELIEVED if doubtful else "true")
    parameters["spans"] = spans
    if cut or doubtful:
        sql += f"\n    UNION ALL\n{_FROM_EVENTS}"
        parameters["raw_hours"] = sorted(cut.union(doubtful))
        parameters["cut_hours"] = sorted(cut)
        parameters["doubtful_hours"] = doubtful
        parameters["span_edges"] = list(edges)
        parameters["spans_count"] = len(edges) - 1
    return UsersInSpans(statement(sql, kept=kept), parameters)


async def distinct_users(
    warehouse: Warehouse,
    windows: Sequence[Window],
    kinds: Iterable[str] = ALL_KINDS,
    *,
    kept: str = "true",
    filters: Mapping[str, str],
) -> list[int]:
    """How many distinct users acted in each window, by acts of these kinds: one pass for up to 127 different ones.

    `kept` is a condition on `user_id` that binds `filters`. Raises what `Warehouse.query` raises.
    """
    different = list(dict.fromkeys(windows))
    counted: dict[Window, int] = {}
    for start in range(0, len(different), _MOST_WINDOWS):
        some = different[start : start + _MOST_WINDOWS]
        # One after the other: a question that is as wide as that must not take all connections.
        counted |= zip(some, await _count(warehouse, some, kinds, kept, filters), strict=True)
    return [counted[window] for window in windows]


async def _count(
    warehouse: Warehouse,
    windows: Sequence[Window],
    kinds: Iterable[str],
    kept: str,
    filters: Mapping[str, str],
) -> list[int]:
    edges = sorted({edge for start, end in windows if start < end for edge in (start, end)})
    if not edges:
        return [0] * len(windows)
    width = next(width for width in _WIDTHS if width >= len(edges))
    users = await users_in_spans(warehouse, edges, kinds, kept=kept)
    spans = {edge: number for number, edge in enumerate(edges)}
    # The bits of the spans from `start` up to `end`.
    masks = {
        f"window_{number}": (1 << spans[end]) - (1 << spans[start]) if start < end else 0
        for number, (start, end) in enumerate(windows)
    }
    counts = [f"countIf(bitAnd(mask, {{{name}:UInt{width}}}) != 0) AS {name}" for name in masks]
    sql = statement(_COUNT, counts=",\n    ".join(counts), width=str(width), users_in_spans=users.sql)
    rows = await warehouse.query(sql, {**users.parameters, **masks, **filters})
    return [int(rows[0][name]) for name in masks]
