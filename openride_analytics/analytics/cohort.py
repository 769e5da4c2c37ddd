"""Cohorts: who comes back, week after week since registering. `GET /v1/analytics/cohort`.

Users by the local day, week or month of their first registration; a cell is a later day, week or month, and who of
them was active in it. Of the average only cells that are over count.
"""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from openride_analytics.analytics.question import REGISTERED, AnalyticsHead, AnalyticsQuestion, compared, head
from openride_analytics.metrics.acting import ACTING
from openride_analytics.metrics.filters import users_kept
from openride_analytics.metrics.measure import AXIS, measure
from openride_analytics.metrics.question import PREVIOUS, PreviousHead, rate, statement
from openride_analytics.period import Unit, milliseconds
from openride_analytics.warehouse import Warehouse

FILTERS: Final = frozenset({"city", "state"})
ACTIVITIES: Final = ("booking", "trip", "any")
DEFAULT_PERIODS: Final = 12
MOST_PERIODS: Final = 52

_TEXT: Final = (
    "Users by the unit of time in which they first registered, if they did so in the period, and how many of them were "
    "active (activity) in that unit and in those after it."
)
_SIZE: Final = -1
"""The cell that holds the size of its cohort."""


@dataclass(frozen=True, kw_only=True)
class Question(AnalyticsQuestion):
    """One request for cohorts."""

    unit: Unit = "week"
    periods: int = DEFAULT_PERIODS
    activity: Literal["booking", "trip", "any"] = "booking"


class CohortCell(Struct, kw_only=True):
    """A cohort in one unit of time."""

    period: Annotated[int, Meta(description="Units since that of registration.", examples=[1], extra=AXIS)]
    active: Annotated[
        int,
        Meta(
            description="Users of the cohort who were active then.",
            examples=[17],
            extra=measure("users", basis="cohort"),
        ),
    ]
    rate: Annotated[
        float | None,
        Meta(
            description="`active` ÷ the cohort's `size`.",
            examples=[0.81],
            extra=measure("ratio", "active", "size", basis="cohort"),
        ),
    ]
    partial: Annotated[bool, Meta(description="It is not over yet: it contains now.", examples=[False])]


class Cohort(Struct, kw_only=True):
    """The users who first registered in one unit of time."""

    cohort: Annotated[str, Meta(description="First local day of the unit.", examples=["2026-03-02"])]
    size: Annotated[
        int,
        Meta(
            description="Users who first registered in it and in the period.",
            examples=[21],
            extra=measure("users", basis="cohort"),
        ),
    ]
    cells: Annotated[list[CohortCell], Meta(description="In order; those not begun are absent.")]


class CohortAverage(Struct, kw_only=True):
    """All cohorts for which the unit is over, taken together."""

    period: Annotated[int, Meta(description="Units since that of registration.", examples=[1], extra=AXIS)]
    active: Annotated[
        int,
        Meta(
            description="Active users of all cohorts for which this unit is over.",
            examples=[170],
            extra=measure("users", basis="cohort"),
        ),
    ]
    size: Annotated[
        int,
        Meta(
            description="Size of all cohorts for which this unit is over.",
            examples=[250],
            extra=measure("users", basis="cohort"),
        ),
    ]
    rate: Annotated[
        float | None,
        Meta(
            description="`active` ÷ `size`, over all cohorts for which this unit is over.",
            examples=[0.68],
            extra=measure("ratio", "active", "size", basis="cohort"),
        ),
    ]


Cohorts = Annotated[
    list[Cohort], Meta(description="One a unit that is in the period, wholly or in part, in order.")
]
Averages = Annotated[
    list[CohortAverage], Meta(description="By units since; absent where it is over for no cohort.")
]


class PreviousCohorts(PreviousHead, kw_only=True):
    """The period before."""

    cohorts: Cohorts
    average: Averages


class CohortAnswer(AnalyticsHead, kw_only=True):
    """What `GET /v1/analytics/cohort` answers."""

    cohorts: Cohorts
    average: Averages
    previous: Annotated[PreviousCohorts | None, PREVIOUS]


# `edges` are the beginnings of the units that matter, `numbers` their numbers: cohorts and activity are counted in them.
_SQL: Final = """
-- cohort.cells
WITH
    members AS
    (
        SELECT
            user_id,
            transform(
                roundDown(registered_ms, {edges:Array(Int64)}), {edges:Array(Int64)}, {numbers:Array(Int64)}
            ) AS cohort
        FROM ({registered})
    ),
    active AS
    (
        SELECT DISTINCT
            user_id,
            transform(
                roundDown(toUnixTimestamp64Milli(event_timestamp), {edges:Array(Int64)}),
                {edges:Array(Int64)},
                {numbers:Array(Int64)}
            ) AS unit
        FROM ({activity})
    )
SELECT
    cohort,
    -1 AS cell,
    count() AS users
FROM members
GROUP BY cohort

UNION ALL

SELECT
    cohort,
    unit - cohort AS cell,
    count() AS users
FROM active
INNER JOIN members USING (user_id)
WHERE cell >= 0 AND cell < {periods:Int64}
GROUP BY cohort, cell
"""

_BOOKING: Final = """
        SELECT event_timestamp, rider_id AS user_id
        FROM events FINAL
        WHERE event_type = 'booking.created'
          AND event_timestamp >= fromUnixTimestamp64Milli({since:Int64})
          AND event_timestamp < fromUnixTimestamp64Milli({until:Int64})
"""

_TRIP: Final = """
        SELECT event_timestamp, arrayJoin([rider_id, driver_id]) AS user_id
        FROM events FINAL
        WHERE event_type = 'trip.completed'
          AND event_timestamp >= fromUnixTimestamp64Milli({since:Int64})
          AND event_timestamp < fromUnixTimestamp64Milli({until:Int64})
"""

_ACTIVITIES: Final = {"booking": _BOOKING, "trip": _TRIP, "any": ACTING}


async def ask(warehouse: Warehouse, question: Question) -> CohortAnswer:
    """Answers for a period; raises what `Warehouse.query` raises."""
    begins, own, before = await asyncio.gather(
        head(warehouse, question, _TEXT),
        _figures(warehouse, question),
        compared(warehouse, question, _figures, PreviousCohorts),
    )
    return CohortAnswer(**begins, **own, previous=before)


async def _figures(warehouse: Warehouse, question: Question) -> dict[str, Any]:
    days, edges = question.period.units(question.unit, question.periods)
    starts = [milliseconds(edge) for edge in edges]
    # Where a zone skipped a day, two begin at once: the second is the one that there was.
    numbers = {start: number for number, start in enumerate(starts[:-1])}
    parameters = {
        **question.bound,
        "since": starts[0],
        "until": starts[-1],
        "edges": list(numbers),
        "numbers": list(numbers.values()),
        "periods": question.periods,
    }
    sql = statement(
        _SQL,
        registered=REGISTERED,
        activity=_ACTIVITIES[question.activity],
        kept=users_kept(question.filters),
    )
    rows = await warehouse.query(sql, parameters)
    users = {(row["cohort"], row["cell"]): row["users"] for row in rows}
    now = milliseconds(question.now)
    cohorts = []
    for number, day in enumerate(days):
        size = users.get((number, _SIZE), 0)
        cells = []
        for cell in range(question.periods):
            if starts[number + cell] <= now:
                active = users.get((number, cell), 0)
                partial = now < starts[number + cell + 1]
                cells.append(CohortCell(period=cell, active=active, rate=rate(active, size), partial=partial))
        cohorts.append(Cohort(cohort=day.isoformat(), size=size, cells=cells))
    return {"cohorts": cohorts, "average": _average(cohorts)}


def _average(cohorts: list[Cohort]) -> list[CohortAverage]:
    active: dict[int, int] = {}
    size: dict[int, int] = {}
    for cohort in cohorts:
        for cell in cohort.cells:
            if not cell.partial:
                active[cell.period] = active.get(cell.period, 0) + cell.active
                size[cell.period] = size.get(cell.period, 0) + cohort.size
    return [
        CohortAverage(
            period=period, active=active[period], size=size[period], rate=rate(active[period], size[period])
        )
        for period in sorted(active)
    ]
