"""Funnel: how many users take one step after another. `GET /v1/analytics/funnel`.

A user enters with step 1 in the period; each further step is his earliest that may follow the one before, within the
window from step 1. At the same instant different types may be in either order; of one type each event is one step
only. Of a user's attempts the one that gets furthest counts, and of several the earliest; he counts as open
while the window of any of these is.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from openride_analytics.analytics.question import AnalyticsHead, AnalyticsQuestion, compared, head
from openride_analytics.metrics.filters import users_kept
from openride_analytics.metrics.measure import measure
from openride_analytics.metrics.question import PREVIOUS, Filters, PreviousHead, rate, statement
from openride_analytics.period import milliseconds
from openride_analytics.warehouse import Row, Warehouse
from openride_analytics.warehouse.facts import FIRST

FILTERS: Final = frozenset({"city", "state"})
STEPS: Final = (
    "user.registered",
    "user.kyc_verified",
    "user.upgraded_to_driver",
    "route.created",
    "route.activated",
    "route.cancelled",
    "booking.created",
    "booking.confirmed",
    "booking.cancelled",
    "booking.completed",
    "payment.initiated",
    "payment.success",
    "payment.failed",
    "payment.refunded",
    "trip.started",
    "trip.completed",
    "trip.cancelled",
)
BREAKDOWNS: Final = ("city", "state")
DEFAULT_STEPS: Final = ("user.registered", "booking.created", "booking.confirmed", "trip.completed")
LEAST_STEPS: Final = 2
MOST_STEPS: Final = 8
DEFAULT_WINDOW_HOURS: Final = 168
LONGEST_WINDOW_HOURS: Final = 8_760

_TEXT: Final = (
    "Users who took step 1 in the period, and those of them who then took the further steps in their order, all within "
    "window_hours of step 1. Of several attempts of a user the one that got furthest counts."
)
_HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, kw_only=True)
class Question(AnalyticsQuestion):
    """One request for a funnel."""

    steps: Sequence[str] = DEFAULT_STEPS
    window_hours: int = DEFAULT_WINDOW_HOURS
    breakdown: Literal["city", "state"] | None = None


class FunnelStep(Struct, kw_only=True):
    """One step."""

    event_type: Annotated[str, Meta(description="What is done.", examples=["booking.created"])]
    users: Annotated[
        int,
        Meta(
            description="Users who took this step and all before it, within the window.",
            examples=[36],
            extra=measure("users", basis="cohort"),
        ),
    ]
    rate_from_start: Annotated[
        float | None,
        Meta(
            description="`users` ÷ those of step 1.",
            examples=[0.72],
            extra=measure("ratio", "users", "users of step 1", basis="cohort"),
        ),
    ]
    rate_from_previous: Annotated[
        float | None,
        Meta(
            description="`users` ÷ those of the step before; null for step 1.",
            examples=[0.72],
            extra=measure("ratio", "users", "users of the step before", basis="cohort"),
        ),
    ]
    median_minutes_from_previous: Annotated[
        float | None,
        Meta(
            description="Median of the minutes since the step before, over the users who got here; null for step 1.",
            examples=[41.5],
            extra=measure("minutes", basis="cohort"),
        ),
    ]
    p90_minutes_from_previous: Annotated[
        float | None,
        Meta(
            description="90th percentile of the minutes since the step before.",
            examples=[180.0],
            extra=measure("minutes", basis="cohort"),
        ),
    ]
    still_open: Annotated[
        int,
        Meta(
            description="Users who got here and not further, and whose window (`window_hours` from step 1, of the latest "
            "attempt that got as far) ends after now; one that ends at this very moment is over.",
            examples=[4],
            extra=measure("users", basis="cohort"),
        ),
    ]


class FunnelOfPlace(Struct, kw_only=True):
    """The funnel of the users registered in one place."""

    value: Annotated[
        str | None,
        Meta(description="The city or state of registration; null if unknown.", examples=["Lagos"]),
    ]
    steps: Annotated[list[FunnelStep], Meta(description="In their order.")]


Steps = Annotated[list[FunnelStep], Meta(description="In their order.")]
Breakdown = Annotated[
    list[FunnelOfPlace],
    Meta(description="The same by place, most users of step 1 first; empty without `breakdown`."),
]


class PreviousFunnel(PreviousHead, kw_only=True):
    """The period before."""

    steps: Steps
    breakdown: Breakdown


class FunnelAnswer(AnalyticsHead, kw_only=True):
    """What `GET /v1/analytics/funnel` answers."""

    steps: Steps
    breakdown: Breakdown
    previous: Annotated[PreviousFunnel | None, PREVIOUS]


# A moment is the time of an event; where a type is asked for twice, the time and half the id in one number (`first`), so that
# two events of it have an order, at twice the cost. It is doubled and made odd, so that an even number lies before each. Who
# may have entered is looked up without FINAL: too many do no harm. `moments_n` are those of a user's events of the type
# of step n, and `attempts_n` the attempts that reach it, each as the moments of its steps, in the order of their
# beginnings. The earliest candidate that may follow leaves the most for the steps to come, so each attempt needs one look
# only. All look at once: each puts an even number where its candidates begin among the candidates, sorted, and the next odd
# one is its own. Looking for each alone would take 4 GB and 20 s for one user with 10,000 bookings.
_REACHED: Final = """
    people AS
    (
        SELECT
            person,
            {moments}
        FROM
        (
            SELECT
                event_type,
                {doer} AS person,
                2 * ({moment}) + 1 AS moment
            FROM events FINAL
            WHERE event_type IN {steps:Array(String)}
              AND event_timestamp >= fromUnixTimestamp64Milli({start:Int64})
              AND event_timestamp < fromUnixTimestamp64Milli({end:Int64} + {window_ms:Int64})
              AND notEmpty(person)
              AND person IN
              (
                  SELECT {doer}
                  FROM events
                  WHERE event_type = {steps:Array(String)}[1] AND {in_period}
              )
              AND {kept}
        )
        GROUP BY person
    ),
    entered AS
    (
        SELECT
            *,
            arrayMap(m -> [m], arrayFilter(m -> bitShiftRight(m, {bits}) < {end:Int64}, moments_1)) AS attempts_1,
            attempts_1[1] AS best_1,
            attempts_1[-1][1] AS latest_1
        FROM people
        WHERE notEmpty(attempts_1)
    ){further},
    reached AS
    (
        SELECT
            person,
            arrayMap(m -> toInt64(bitShiftRight(m, {bits})), best_{last}) AS times,
            toInt64(bitShiftRight(latest_{last}, {bits})) AS latest_ms
        FROM step_{last}
    )"""

_SQL: Final = """
-- funnel.steps
WITH {reached}
SELECT
    {place},
    step,
    count() AS users,
    quantileExactInclusive(0.5)(ms) AS p50_ms,
    quantileExactInclusive(0.9)(ms) AS p90_ms,
    countIf(step = length(times) AND step < {last:UInt8} AND latest_ms + {window_ms:Int64} > {now:Int64}) AS still_open
FROM
(
    SELECT
        person,
        times,
        latest_ms,
        step,
        if(step = 1, 0, times[step] - times[step - 1]) AS ms
    FROM reached
    ARRAY JOIN arrayEnumerate(times) AS step
) AS steps_taken
{homes}
GROUP BY {keys}
"""

_MOMENTS: Final = "arraySort(groupArrayIf(moment, event_type = {steps:Array(String)}[{n}])) AS moments_{n}"

# A statement of its own for each step: aliases are written out wherever they are named, so in one they would double.
_FURTHER: Final = """,
    step_{n} AS
    (
        SELECT
            *,
            arraySort(arrayConcat(arrayMap(a -> {earliest}, attempts_{before}), moments_{alike})) AS line_{n},
            arrayFilter((next, at) -> at % 2 = 0, arrayReverseFill(at -> at % 2 = 1, line_{n}), line_{n})
                AS following_{n},
            arrayFilter(
                a -> a[{n}] % 2 = 1 AND bitShiftRight(a[{n}], {bits}) <= bitShiftRight(a[1], {bits}) + {window_ms:Int64},
                arrayMap((a, next) -> arrayPushBack(a, next), attempts_{before}, following_{n})
            ) AS attempts_{n},
            if(empty(attempts_{n}), best_{before}, attempts_{n}[1]) AS best_{n},
            if(empty(attempts_{n}), latest_{before}, attempts_{n}[-1][1]) AS latest_{n}
        FROM {step_before}
    )"""

_HOMES: Final = """LEFT JOIN
(
    SELECT
        user_id AS person,
        argMinIf({home}, {first}, {home} != '') AS home
    FROM events FINAL
    WHERE event_type = 'user.registered'
    GROUP BY user_id
) AS homes USING (person)"""


async def ask(warehouse: Warehouse, question: Question) -> FunnelAnswer:
    """Answers for a period; raises what `Warehouse.query` raises."""
    begins, own, before = await asyncio.gather(
        head(warehouse, question, _TEXT),
        _figures(warehouse, question),
        compared(warehouse, question, _figures, PreviousFunnel),
    )
    return FunnelAnswer(**begins, **own, previous=before)


async def _figures(warehouse: Warehouse, question: Question) -> dict[str, Any]:
    parameters = {
        **question.bound,
        "steps": list(question.steps),
        "window_ms": question.window_hours * _HOUR_MS,
        "last": len(question.steps),
        "now": milliseconds(question.now),
    }
    rows = await warehouse.query(_sql(question), parameters)
    places: dict[str, list[Row]] = {}
    for row in rows:
        if not row["is_whole"]:
            places.setdefault(row["place"], []).append(row)
    breakdown = [
        FunnelOfPlace(value=place or None, steps=_steps(question, of_place))
        for place, of_place in places.items()
    ]
    return {
        "steps": _steps(question, [row for row in rows if row["is_whole"]]),
        "breakdown": sorted(breakdown, key=_most_first),
    }


def _sql(question: Question) -> str:
    homes = _HOMES.replace("{home}", question.breakdown) if question.breakdown else ""
    return statement(
        _SQL,
        reached=reached(question.steps, question.filters),
        place="ifNull(homes.home, '') AS place,\n    grouping(place) AS is_whole"
        if homes
        else "1 AS is_whole",
        homes=homes,
        keys="GROUPING SETS ((step), (step, place))" if homes else "step",
    )


def reached(steps: Sequence[str], filters: Filters) -> str:
    """The statements that follow each user (what stands behind WITH); the last one is named `reached`.

    It has a row for each `person` who entered, with `times`: Unix milliseconds of the steps of the attempt that got furthest,
    and `latest_ms`: of step 1 of the latest attempt that got as far.
    Binds `steps`, `window_ms`, the period and the filters.
    """
    first_alike = [steps.index(step) + 1 for step in steps]
    moments = [_MOMENTS.replace("{n}", str(n)) for n in sorted(set(first_alike))]
    further = ""
    for n in range(2, len(steps) + 1):
        before = [earlier for earlier in range(1, n) if steps[earlier - 1] == steps[n - 1]]
        # From the same millisecond on, but after the last step of its own type.
        earliest = f"bitShiftLeft(bitShiftRight(a[{n - 1}], {{bits}}), {{bits}})"
        numbers = {
            "{n}": str(n),
            "{before}": str(n - 1),
            "{step_before}": f"step_{n - 1}" if n > 2 else "entered",
            "{alike}": str(first_alike[n - 1]),
            "{earliest}": f"greatest({earliest}, a[{before[-1]}] + 1)" if before else earliest,
        }
        text = _FURTHER
        for name, number in numbers.items():
            text = text.replace(name, number)
        further += text
    ids_matter = len(set(steps)) < len(steps)
    return statement(
        _REACHED,
        moment=FIRST if ids_matter else "toUInt64(toUnixTimestamp64Milli(event_timestamp))",
        moments=",\n            ".join(moments),
        doer=_doer(steps),
        further=further,
        bits="65" if ids_matter else "1",
        last=str(len(steps)),
        kept=users_kept(filters, "person"),
    )


def _doer(steps: Sequence[str]) -> str:
    """Who takes the steps; only the columns needed, as ids are most of what is read."""
    columns = {_DOERS[step.partition(".")[0]] for step in steps}
    if len(columns) == 1:
        return columns.pop()
    return "multiIf(startsWith(event_type, 'user.'), user_id, startsWith(event_type, 'route.'), driver_id, rider_id)"


_DOERS: Final = {
    "user": "user_id",
    "route": "driver_id",
    "booking": "rider_id",
    "payment": "rider_id",
    "trip": "rider_id",
}


def _steps(question: Question, rows: list[Row]) -> list[FunnelStep]:
    reached = {row["step"]: row for row in rows}

    def users(number: int) -> int:
        return reached[number]["users"] if number in reached else 0

    def minutes(number: int, percentile: str) -> float | None:
        return reached[number][percentile] / 60_000 if number > 1 and number in reached else None

    return [
        FunnelStep(
            event_type=event_type,
            users=users(number),
            rate_from_start=rate(users(number), users(1)),
            rate_from_previous=rate(users(number), users(number - 1)) if number > 1 else None,
            median_minutes_from_previous=minutes(number, "p50_ms"),
            p90_minutes_from_previous=minutes(number, "p90_ms"),
            still_open=reached[number]["still_open"] if number in reached else 0,
        )
        for number, event_type in enumerate(question.steps, 1)
    ]


def _most_first(place: FunnelOfPlace) -> tuple[int, bool, str]:
    return -place.steps[0].users, place.value is None, place.value or ""
