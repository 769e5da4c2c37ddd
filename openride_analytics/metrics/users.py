"""Users: who is active, who joined, who became a driver. `GET /v1/metrics/users`."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from openride_analytics.metrics.acting import distinct_users
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

    async def summarise(asked: Question) -> UserMetrics:
        return _metrics(await _counted(warehouse, asked))

    through, counted, previous = await asyncio.gather(
        data_through(warehouse),
        _counted(warehouse, question),
        compared(question, summarise, PreviousUsers),
    )

    def shape(_question: Question, row: Row, start: datetime, _end: datetime) -> dict[str, Any]:
        return {
            "active_users": counted.active.by_bucket[milliseconds(start)],
            "registrations": row.get("registrations", 0),
        }

    return UsersAnswer(
        period=period_answer(question.period),
        data_through=through,
        summary=_metrics(counted),
        previous=previous,
        series=series(question, counted.registered, UserBucket, shape),
        breakdowns=NoBreakdowns(),
    )


@dataclass(frozen=True)
class _Active:
    """Distinct users who acted: in the period, its buckets, and the days up to its end."""

    in_period: int
    by_bucket: dict[int, int]
    in_month: int
    in_week: int
    in_day: int
    user_days: int


async def _active(warehouse: Warehouse, question: Question) -> _Active:
    spans = [(milliseconds(start), milliseconds(end)) for start, end in question.period.spans]
    days = [milliseconds(day) for day in question.period.last_days(_MONTH_DAYS, question.now)]
    windows = [
        (question.period.start_ms, question.period.end_ms),
        (days[0], days[-1]),
        (days[-1 - _WEEK_DAYS], days[-1]),
        (days[-2], days[-1]),
        *pairwise(days),
        *spans,
    ]
    in_period, in_month, in_week, in_day, *others = await distinct_users(
        warehouse, windows, kept=users_kept(question.filters), filters=question.filters.given
    )
    by_bucket = zip(spans, others[_MONTH_DAYS:], strict=True)
    return _Active(
        in_period=in_period,
        by_bucket={start: users for (start, _), users in by_bucket},
        in_month=in_month,
        in_week=in_week,
        in_day=in_day,
        user_days=sum(others[:_MONTH_DAYS]),
    )


async def _registered(warehouse: Warehouse, question: Question) -> dict[int, Row]:
    return await rows_by_bucket(
        warehouse, statement(_REGISTERED, kept=users_kept(question.filters)), question
    )


@dataclass(frozen=True)
class _Counted:
    """All that the stores say about a period."""

    active: _Active
    standing: Row
    registered: dict[int, Row]
    registered_before: dict[int, Row]


async def _counted(warehouse: Warehouse, question: Question) -> _Counted:
    active, (standing,), registered, registered_before = await asyncio.gather(
        _active(warehouse, question),
        warehouse.query(statement(_STANDING, kept=users_kept(question.filters)), question.parameters),
        _registered(warehouse, question),
        _registered(warehouse, question.before()),
    )
    return _Counted(active, standing, registered, registered_before)


def _metrics(counted: _Counted) -> UserMetrics:
    active, standing = counted.active, counted.standing
    registrations = counted.registered.get(WHOLE, {}).get("registrations", 0)
    before = counted.registered_before.get(WHOLE, {}).get("registrations", 0)
    return UserMetrics(
        active_users=active.in_period,
        dau=active.in_day,
        wau=active.in_week,
        mau=active.in_month,
        stickiness=rate(active.user_days, active.in_month * _MONTH_DAYS),
        registrations=registrations,
        growth_rate=rate(registrations - before, before),
        total_users=standing["total_users"],
        drivers=standing["drivers"],
        verified_drivers=standing["verified_drivers"],
        kyc_completion_rate=rate(standing["verified_drivers"], standing["drivers"]),
        activated_drivers=standing["activated_drivers"],
        driver_activation_rate=rate(standing["activated_drivers"], standing["drivers"]),
    )
