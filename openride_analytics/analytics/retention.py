"""Retention: who of the newly registered was there again on day N. `GET /v1/analytics/retention`.

Day N of a user is the 24 h that begin N × 24 h after his first registration. `exact`: he acted in it; `unbounded`: he
acted in it or later. Only users for whom it is over count, in both modes.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from openride_analytics.analytics.question import (
    DAY_MS,
    REGISTERED,
    AnalyticsHead,
    AnalyticsQuestion,
    compared,
    head,
)
from openride_analytics.metrics.acting import ACTING
from openride_analytics.metrics.filters import users_kept
from openride_analytics.metrics.measure import AXIS, measure
from openride_analytics.metrics.question import PREVIOUS, PreviousHead, rate, statement
from openride_analytics.period import END_OF_TIME_MS, milliseconds
from openride_analytics.warehouse import Warehouse

FILTERS: Final = frozenset({"city", "state"})
MODES: Final = ("exact", "unbounded")
ROLES: Final = ("RIDER", "DRIVER", "ADMIN")
DEFAULT_DAYS: Final = (1, 7, 30)
LAST_DAY: Final = 365
MOST_DAYS: Final = 60

_TEXT: Final = (
    "Of the users who first registered in the period and whose day N is over, the share that acted on day N (exact: in the "
    "24 h that begin N × 24 h after registration; unbounded: at any time from there)."
)


@dataclass(frozen=True, kw_only=True)
class Question(AnalyticsQuestion):
    """One request for retention."""

    days: Sequence[int] = DEFAULT_DAYS
    mode: Literal["exact", "unbounded"] = "exact"
    role: Literal["RIDER", "DRIVER", "ADMIN"] | None = None


class RetentionDay(Struct, kw_only=True):
    """One day N."""

    day: Annotated[int, Meta(description="N.", examples=[7], extra=AXIS)]
    eligible: Annotated[
        int,
        Meta(
            description="Users who first registered in the period and for whom day N is over.",
            examples=[50],
            extra=measure("users", basis="cohort"),
        ),
    ]
    retained: Annotated[
        int,
        Meta(
            description="Those of the eligible users who acted on day N, or (unbounded) at any time from there.",
            examples=[12],
            extra=measure("users", basis="cohort"),
        ),
    ]
    rate: Annotated[
        float | None,
        Meta(
            description="`retained` ÷ `eligible`.",
            examples=[0.24],
            extra=measure("ratio", "retained", "eligible", basis="cohort"),
        ),
    ]


Days = Annotated[list[RetentionDay], Meta(description="The days asked for, in order.")]


class PreviousRetention(PreviousHead, kw_only=True):
    """The period before."""

    days: Days


class RetentionAnswer(AnalyticsHead, kw_only=True):
    """What `GET /v1/analytics/retention` answers."""

    days: Days
    previous: Annotated[PreviousRetention | None, PREVIOUS]


_SQL: Final = """
-- retention.days
WITH
    members AS
    (
        SELECT user_id, registered_ms
        FROM ({registered})
        WHERE {of_role}
    )
SELECT
    arrayJoin({days:Array(Int64)}) AS day,
    'eligible' AS what,
    count() AS users
FROM members
WHERE registered_ms + (day + 1) * {day_ms:Int64} <= {now:Int64}
GROUP BY day

UNION ALL

SELECT
    day,
    'retained' AS what,
    count() AS users
FROM
(
    {back}
)
WHERE registered_ms + (day + 1) * {day_ms:Int64} <= {now:Int64}
GROUP BY day
"""

# The days asked for on which each member acted.
_EXACT: Final = """
    SELECT DISTINCT
        user_id,
        registered_ms,
        intDiv(toUnixTimestamp64Milli(event_timestamp) - registered_ms, {day_ms:Int64}) AS day
    FROM ({acting}) AS acts
    INNER JOIN members USING (user_id)
    WHERE toUnixTimestamp64Milli(event_timestamp) >= registered_ms
      AND has({days:Array(Int64)}, day)
"""

# The days asked for that each member's last act is not before.
_UNBOUNDED: Final = """
    SELECT
        registered_ms,
        arrayJoin({days:Array(Int64)}) AS day
    FROM
    (
        SELECT user_id, max(toUnixTimestamp64Milli(event_timestamp)) AS last_ms
        FROM ({acting})
        GROUP BY user_id
    ) AS acts
    INNER JOIN members USING (user_id)
    WHERE last_ms >= registered_ms + day * {day_ms:Int64}
"""


async def ask(warehouse: Warehouse, question: Question) -> RetentionAnswer:
    """Answers for a period; raises what `Warehouse.query` raises."""
    begins, own, before = await asyncio.gather(
        head(warehouse, question, _TEXT),
        _figures(warehouse, question),
        compared(warehouse, question, _figures, PreviousRetention),
    )
    return RetentionAnswer(**begins, **own, previous=before)


async def _figures(warehouse: Warehouse, question: Question) -> dict[str, Any]:
    days = sorted(set(question.days))
    exact = question.mode == "exact"
    role = {"role": question.role} if question.role else {}
    parameters = {
        **question.bound,
        **role,
        "days": days,
        "day_ms": DAY_MS,
        "now": milliseconds(question.now),
        "since": question.period.start_ms + days[0] * DAY_MS,
        "until": question.period.end_ms + (days[-1] + 1) * DAY_MS if exact else END_OF_TIME_MS,
    }
    sql = statement(
        _SQL,
        back=_EXACT if exact else _UNBOUNDED,
        registered=REGISTERED,
        acting=ACTING,
        of_role="role = {role:String}" if role else "true",
        kept=users_kept(question.filters),
    )
    rows = await warehouse.query(sql, parameters)
    users = {(row["what"], row["day"]): row["users"] for row in rows}
    return {
        "days": [
            RetentionDay(
                day=day,
                eligible=users.get(("eligible", day), 0),
                retained=users.get(("retained", day), 0),
                rate=rate(users.get(("retained", day)), users.get(("eligible", day))),
            )
            for day in days
        ]
    }
