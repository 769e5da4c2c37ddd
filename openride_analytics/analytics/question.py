"""What every endpoint of analytics is asked, how its answer begins, and the SQL that several of them share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

from msgspec import Meta, Struct

from openride_analytics.metrics.measure import AXIS
from openride_analytics.metrics.question import (
    AnswerHead,
    Filters,
    PreviousPeriod,
    data_through,
    period_answer,
)
from openride_analytics.period import Period, instant_text
from openride_analytics.warehouse import Parameter, Warehouse

DAY_MS: Final = 86_400_000

Setting = str | int | list[str | int] | None


@dataclass(frozen=True, kw_only=True)
class AnalyticsQuestion:
    """One request; each endpoint adds its own parameters. `now` is when it was asked: nothing else looks at a clock."""

    period: Period
    now: datetime
    filters: Filters = field(default_factory=Filters)
    default_currency: str = "NGN"
    compare: bool = False

    @property
    def settings(self) -> dict[str, Setting]:
        """The endpoint's own parameters and the filters, as they are in effect."""
        common = {common.name for common in fields(AnalyticsQuestion)}
        own = {name: value for name, value in vars(self).items() if name not in common}
        shown = {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}
        return {**shown, **self.filters.given}

    @property
    def bound(self) -> dict[str, Parameter]:
        """What the shared SQL fragments bind, and all filters."""
        return {"start": self.period.start_ms, "end": self.period.end_ms, **self.filters.given}


class Definition(Struct, kw_only=True):
    """What the numbers of this answer mean."""

    text: Annotated[str, Meta(description="In words.")]
    parameters: Annotated[
        dict[str, Setting],
        Meta(description="The endpoint's parameters and filters as they are in effect.", extra=AXIS),
    ]


class AnalyticsHead(AnswerHead, kw_only=True):
    """What every answer of analytics begins with."""

    definition: Annotated[Definition, Meta(description="What the numbers of this answer mean.")]


B = TypeVar("B")
Q = TypeVar("Q", bound=AnalyticsQuestion)


async def compared(
    warehouse: Warehouse,
    question: Q,
    figures: Callable[[Warehouse, Q], Awaitable[dict[str, Any]]],
    previous: Callable[..., B],
) -> B | None:
    """`previous` with the `figures` of the period before, as known now, if the question asks for it."""
    if not question.compare:
        return None
    before = question.period.previous(question.now)
    period = PreviousPeriod(start=instant_text(before.start), end=instant_text(before.end))
    return previous(period=period, **await figures(warehouse, replace(question, period=before)))


async def head(warehouse: Warehouse, question: AnalyticsQuestion, text: str) -> dict[str, Any]:
    """The fields of `AnalyticsHead`."""
    return {
        "period": period_answer(question.period),
        "data_through": await data_through(warehouse),
        "definition": Definition(text=text, parameters=question.settings),
    }


# The users whose first registration is in the period, with its time and role.
REGISTERED: Final = """
        SELECT
            user_id,
            toUnixTimestamp64Milli(min(event_timestamp)) AS registered_ms,
            argMin(role, {first}) AS role
        FROM events FINAL
        WHERE event_type = 'user.registered' AND {before_end} AND {kept}
        GROUP BY user_id
        HAVING registered_ms >= {start:Int64}
"""
