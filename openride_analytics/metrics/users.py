"""Users: who is active, who joined, who became a driver. `GET /v1/metrics/users`."""

import asyncio
from datetime import datetime
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from openride_analytics.metrics.acting import ACTING
from openride_analytics.metrics.filters import users_kept
from openride_analytics.metrics.measure import measure
from openride_analytics.metrics.question import (
    BREAKDOWNS,
    PREVIOUS,
    SERIES,
    SUMMARY,
    WHOLE,
    AnswerHead,
    Bucket,
    NoBreakdowns,
    PreviousHead,
    Question,
    compared,
    data_through,
    period_answer,
    rate,
    rows_by_bucket,
    series,
    statement,
)
from openride_analytics.period import milliseconds
from openride_analytics.warehouse import Row, Warehouse

FILTERS: Final = frozenset({"city", "state"})

_MONTH_DAYS: Final = 30
_WEEK_DAYS: Final = 7


class UserMetrics(Struct, kw_only=True):
    """Of a period."""

    active_users: Annotated[
        int,
        Meta(description="Distinct users who acted in the period.", examples=[5210], extra=measure("users")),
    ]
    dau: Annotated[
        int,
        Meta(
            description="Distinct users who acted in the last local day of the period.",
            examples=[812],
            extra=measure("users"),
        ),
    ]
    wau: Annotated[
        int,
        Meta(
            description="Distinct users who acted in the 7 local days ending with the period's last.",
            examples=[2301],
            extra=measure("users"),
        ),
    ]
    mau: Annotated[
        int,
        Meta(
            description="Distinct users who acted in the 30 local days ending with the period's last.",
            examples=[5190],
            extra=measure("users"),
        ),
    ]
    stickiness: Annotated[
        float | None,
        Meta(
            description="Mean daily active users over the 30 days of `mau` ÷ `mau`.",
            examples=[0.21],
            extra=measure("ratio", "mean daily active users over 30 days", "mau"),
        ),
    ]
    registrations: Annotated[
        int,
        Meta(description="Distinct users with a `user.registered`.", examples=[640], extra=measure("users")),
    ]
    growth_rate: Annotated[
        float | None,
        Meta(
            description="(registrations − those of the previous period) ÷ those of the previous period.",
            examples=[0.12],
            extra=measure(
                "ratio",
                "registrations − those of the previous period",
                "registrations of the previous period",
            ),
        ),
    ]
    total_users: Annotated[
        int,
        Meta(
            description="Distinct users registered before the period's end.",
            examples=[18400],
            extra=measure("users"),
        ),
    ]
    drivers: Annotated[
        int,
        Meta(
            description="Distinct users who registered as a driver or were upgraded before the period's end.",
            examples=[1420],
            extra=measure("users"),
        ),
    ]
    verified_drivers: Annotated[
        int,
        Meta(
            description="Drivers whose latest KYC result before the period's end is VERIFIED.",
            examples=[1290],
            extra=measure("users"),
        ),
    ]
    kyc_completion_rate: Annotated[
        float | None,
        Meta(
            description="`verified_drivers` ÷ `drivers`.",
            examples=[0.9085],
            extra=measure("ratio", "verified_drivers", "drivers"),
        ),
    ]
    activated_drivers: Annotated[
        int,
        Meta(
            description="Drivers with a route that is active at the period's end.",
            examples=[1003],
            extra=measure("users"),
        ),
    ]
    driver_activation_rate: Annotated[
        float | None,
        Meta(
            description="`activated_drivers` ÷ `drivers`.",
            examples=[0.7063],
            extra=measure("ratio", "activated_drivers", "drivers"),
        ),
    ]


class UserBucket(Bucket, kw_only=True):
    """One bucket of the series."""

    active_users: Annotated[
        int,
        Meta(description="Distinct users who acted in the bucket.", examples=[790], extra=measure("users")),
    ]
    registrations: Annotated[
        int, Meta(description="Distinct users who registered in it.", examples=[22], extra=measure("users"))
    ]


class PreviousUsers(PreviousHead, kw_only=True):
    """The period before."""

    summary: Annotated[UserMetrics, SUMMARY]


class UsersAnswer(AnswerHead, kw_only=True):
    """What `GET /v1/metrics/users` answers."""

    summary: Annotated[UserMetrics, SUMMARY]
    previous: Annotated[PreviousUsers | None, PREVIOUS]
    series: Annotated[list[UserBucket], SERIES]
    breakdowns: Annotated[NoBreakdowns, BREAKDOWNS]


_ACTIVE: Final = """
-- users.active
SELECT
    {bucket} AS bucket,
    uniqExact(user_id) AS active_users
FROM ({acting})
WHERE {kept}
GROUP BY bucket
"""

# The last local day of the period, and the 7 and 30 days ending with it. `days` are the starts of those 30.
_RECENT: Final = """
-- users.recent
SELECT
    uniqExactIf(user_id, event_timestamp >= fromUnixTimestamp64Milli({day:Int64})) AS dau,
    uniqExactIf(user_id, event_timestamp >= fromUnixTimestamp64Milli({week:Int64})) AS wau,
    uniqExact(user_id) AS mau,
    uniqExact(user_id, roundDown(toUnixTimestamp64Milli(event_timestamp), {days:Array(Int64)})) AS active_user_days
FROM ({acting})
WHERE {kept}
"""

_REGISTERED: Final = """
-- users.registered
SELECT
    {bucket} AS bucket,
    uniqExact(user_id) AS registrations
FROM events FINAL
WHERE event_type = 'user.registered'
  AND {in_period}
  AND {kept}
GROUP BY bucket
"""

# The state before the period's end: who had joined, who was a driver by then, verified, with an active route.
_STANDING: Final = """
-- users.standing
WITH
    drivers AS
    (
        SELECT user_id
        FROM events FINAL
        WHERE (event_type = 'user.registered' AND role = 'DRIVER' OR event_type = 'user.upgraded_to_driver')
          AND {before_end}
          AND {kept}
        GROUP BY user_id
    ),
    verified AS
    (
        SELECT user_id
        FROM events FINAL
        WHERE event_type = 'user.kyc_verified'
          AND {before_end}
          AND user_id IN (SELECT user_id FROM drivers)
        GROUP BY user_id
        HAVING argMax(kyc_status, {latest}) = 'VERIFIED'
    ),
    active_routes AS
    (
        SELECT argMax((event_type, driver_id), {latest}) AS state
        FROM events FINAL
        WHERE event_type IN ('route.activated', 'route.cancelled')
          AND {before_end}
        GROUP BY route_id
        HAVING state.1 = 'route.activated'
    )
SELECT
    (
        SELECT uniqExact(user_id)
        FROM events FINAL
        WHERE event_type = 'user.registered' AND {before_end} AND {kept}
    ) AS total_users,
    (SELECT count() FROM drivers) AS drivers,
    (SELECT count() FROM verified) AS verified_drivers,
    (
        SELECT uniqExact(state.2)
        FROM active_routes
        WHERE state.2 IN (SELECT user_id FROM drivers)
    ) AS activated_drivers
"""


async def ask(warehouse: Warehouse, question: Question) -> UsersAnswer:
    """Answers for a period; raises what `Warehouse.query` raises."""
    through, active, registered = await asyncio.gather(
        data_through(warehouse), _active(warehouse, question), _registered(warehouse, question)
    )

    def shape(_question: Question, row: Row, start: datetime, _end: datetime) -> dict[str, Any]:
        return {
            "active_users": row.get("active_users", 0),
            "registrations": registered.get(milliseconds(start), {}).get("registrations", 0),
        }

    async def summarise(asked: Question) -> UserMetrics:
        return await _summary(
            warehouse, asked, await _active(warehouse, asked), await _registered(warehouse, asked)
        )

    return UsersAnswer(
        period=period_answer(question.period),
        data_through=through,
        summary=await _summary(warehouse, question, active, registered),
        previous=await compared(question, summarise, PreviousUsers),
        series=series(question, active, UserBucket, shape),
        breakdowns=NoBreakdowns(),
    )


async def _active(warehouse: Warehouse, question: Question) -> dict[int, Row]:
    parameters = {**question.parameters, "since": question.period.start_ms, "until": question.period.end_ms}
    rows = await warehouse.query(
        statement(_ACTIVE, acting=ACTING, kept=users_kept(question.filters)), parameters
    )
    return {row["bucket"]: row for row in rows}


async def _registered(warehouse: Warehouse, question: Question) -> dict[int, Row]:
    return await rows_by_bucket(
        warehouse, statement(_REGISTERED, kept=users_kept(question.filters)), question
    )


async def _summary(
    warehouse: Warehouse, question: Question, active: dict[int, Row], registered: dict[int, Row]
) -> UserMetrics:
    kept = users_kept(question.filters)
    days = [milliseconds(day) for day in question.period.last_days(_MONTH_DAYS, question.now)]
    windows = {
        **question.parameters,
        "since": days[0],
        "until": days[-1],
        "day": days[-2],
        "week": days[-1 - _WEEK_DAYS],
        "days": days[:-1],
    }
    (recent,), (standing,), registered_before = await asyncio.gather(
        warehouse.query(statement(_RECENT, acting=ACTING, kept=kept), windows),
        warehouse.query(statement(_STANDING, kept=kept), question.parameters),
        _registered(warehouse, question.before()),
    )
    registrations = registered.get(WHOLE, {}).get("registrations", 0)
    before = registered_before.get(WHOLE, {}).get("registrations", 0)
    return UserMetrics(
        active_users=active.get(WHOLE, {}).get("active_users", 0),
        dau=recent["dau"],
        wau=recent["wau"],
        mau=recent["mau"],
        stickiness=rate(recent["active_user_days"], recent["mau"] * _MONTH_DAYS),
        registrations=registrations,
        growth_rate=rate(registrations - before, before),
        total_users=standing["total_users"],
        drivers=standing["drivers"],
        verified_drivers=standing["verified_drivers"],
        kyc_completion_rate=rate(standing["verified_drivers"], standing["drivers"]),
        activated_drivers=standing["activated_drivers"],
        driver_activation_rate=rate(standing["activated_drivers"], standing["drivers"]),
    )
