"""Who acted when: counting distinct users, exactly.

Whole hours are read from `active_days`, the set of who acted in which hours of a day that views of `events` and
`driver_locations` fill. The hours that an edge cuts in two, and the few hours of the set that are in doubt
(`doubtful_hours`), are read from the events themselves.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
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

# A day's hours lie in few spans: `hours_0`, `hours_1` and so on are those of its first span, of its second one, for each day
# from the first one on; `bits_0`, `bits_1` have the bit of that span.
_FROM_DAYS: Final = """
    SELECT user_id, {spans_of_hours} AS spans
    FROM active_days {doubts}
    WHERE day >= {first_day:Int64} AND day < {end_day:Int64}
      AND kind IN {kinds:Array(String)}
      AND spans != 0
      AND {kept}
"""

_SPAN_OF_HOURS: Final = """if(
        bitAnd({hours}, arrayElement({hours_number:Array(UInt32)}, day - {first_day:Int64} + 1)) != 0,
        arrayElement({bits_number:Array(UInt{width})}, day - {first_day:Int64} + 1),
        toUInt{width}(0)
    )"""

_BELIEVED_HOURS: Final = "bitAnd(hours, bitNot(ifNull(in_doubt, 0)))"

_DOUBTS: Final = """
    LEFT JOIN
    (
        SELECT
            kind,
            toInt32(intDiv(hour, 24)) AS day,
            user_id,
            groupBitOr(bitShiftLeft(toUInt32(1), hour % 24)) AS in_doubt
        FROM doubtful_hours
        WHERE hour IN {doubtful_hours:Array(Int64)}
        GROUP BY kind, day, user_id
    ) AS doubts USING (kind, day, user_id)
"""

# The hour as the tables' keys have it (which finds the rows), and exactly (for times beyond 2106).
_IN_HOURS: Final = f"""toStartOfHour(event_timestamp) IN
              (
                  SELECT toStartOfHour(fromUnixTimestamp64Milli(arrayJoin({{raw_hours:Array(Int64)}}) * {HOUR_MS}, 'UTC'))
              )
              AND {HOUR} IN {{raw_hours:Array(Int64)}}"""

_FROM_EVENTS: Final = f"""
    WITH toInt16(arrayCount(
            edge -> edge <= toUnixTimestamp64Milli(event_timestamp), {{span_edges:Array(Int64)}}
        ) - 1) AS span
    SELECT user_id, bitShiftLeft(toUInt{{width}}(1), toUInt16(greatest(span, 0))) AS spans
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
    SELECT user_id, groupBitOr(spans) AS mask
    FROM ({acted})
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
class _Acted:
    """Rows of (user_id, spans), a user's as often as may be: SQL, and what it binds."""

    sql: str
    parameters: Parameters


async def _acted(warehouse: Warehouse, edges: Sequence[int], kinds: Iterable[str]) -> _Acted:
    """Who acted, by acts of these kinds, in which of the spans between neighbouring `edges` (rising milliseconds).

    Each span is a bit of a number `{width}` wide. What `{kept}` in the SQL binds is not among the parameters.
    """
    first_hour, end_hour = edges[0] // HOUR_MS, -(-edges[-1] // HOUR_MS)
    parameters: dict[str, Parameter] = {"first_hour": first_hour, "end_hour": end_hour, "kinds": list(kinds)}
    in_doubt = await warehouse.query(_DOUBTFUL, parameters)
    cut = {edge // HOUR_MS for edge in edges if edge % HOUR_MS} | {
        row["hour"] for row in in_doubt if row["is_whole"]
    }
    doubtful = [row["hour"] for row in in_doubt if row["hour"] not in cut]

    first_day, end_day = first_hour // 24, -(-end_hour // 24)
    days = [_spans_of_day(day, edges, cut) for day in range(first_day, end_day)]
    parameters |= {"first_day": first_day, "end_day": end_day, "doubtful_hours": doubtful}
    spans = []
    for number in range(max(1, *map(len, days))):
        nth = [day[number] if number < len(day) else (0, 0) for day in days]
        parameters[f"hours_{number}"] = [hours for hours, _ in nth]
        parameters[f"bits_{number}"] = [1 << span if hours else 0 for hours, span in nth]
        spans.append(
            _SPAN_OF_HOURS.replace("hours_number", f"hours_{number}")
            .replace("bits_number", f"bits_{number}")
            .replace("{hours}", _BELIEVED_HOURS if doubtful else "hours")
        )
    sql = _FROM_DAYS.replace("{doubts}", _DOUBTS if doubtful else "").replace(
        "{spans_of_hours}", reduce("bitOr({}, {})".format, spans)
    )
    if cut or doubtful:
        sql += f"\n    UNION ALL\n{_FROM_EVENTS}"
        parameters["raw_hours"] = sorted(cut.union(doubtful))
        parameters["cut_hours"] = sorted(cut)
        parameters["span_edges"] = list(edges)
        parameters["spans_count"] = len(edges) - 1
    return _Acted(sql, parameters)


def _spans_of_day(day: int, edges: Sequence[int], cut: Collection[int]) -> list[tuple[int, int]]:
    """Which hours of a day lie in which span: for each span their bits, and its number. No hour that is `cut`."""
    bits: dict[int, int] = {}
    for bit in range(24):
        hour = day * 24 + bit
        span = bisect_right(edges, hour * HOUR_MS) - 1
        if 0 <= span < len(edges) - 1 and hour not in cut:
            bits[span] = bits.get(span, 0) | 1 << bit
    return [(hours, span) for span, hours in bits.items()]


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
    acted = await _acted(warehouse, edges, kinds)
    spans = {edge: number for number, edge in enumerate(edges)}
    # The bits of the spans from `start` up to `end`.
    masks = {
        f"window_{number}": (1 << spans[end]) - (1 << spans[start]) if start < end else 0
        for number, (start, end) in enumerate(windows)
    }
    counts = [f"countIf(bitAnd(mask, {{{name}:UInt{width}}}) != 0) AS {name}" for name in masks]
    sql = statement(_COUNT, counts=",\n    ".join(counts), acted=acted.sql, kept=kept).replace(
        "{width}", str(width)
    )
    rows = await warehouse.query(sql, {**acted.parameters, **masks, **filters})
    return [int(rows[0][name]) for name in masks]
