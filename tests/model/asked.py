"""The service's answer to a question of the model, as JSON data."""

from importlib import import_module
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from openride_analytics.metrics import bookings, drivers, payments, realtime, routes, trips, users
from openride_analytics.metrics.question import Filters
from openride_analytics.metrics.question import Question as ServiceQuestion
from openride_analytics.period import Period
from openride_analytics.warehouse import Warehouse

from .lives import METRICS_LIKE
from .periods import AnalyticsQuestion, Question
from .streams import FILTERS

ENDPOINTS = {
    "users": users,
    "bookings": bookings,
    "payments": payments,
    "trips": trips,
    "drivers": drivers,
    "routes": routes,
}


async def answer(warehouse: Warehouse, endpoint: str, question: Question) -> dict[str, Any]:
    """What the endpoint would answer at `question.now`."""
    period = period_of(question)
    if endpoint == "realtime":
        asked = realtime.RealtimeQuestion.at(question.now, question.window_minutes, period)
        answered: dict[str, Any] = msgspec.to_builtins(await realtime.ask(warehouse, asked))
        return answered
    found: dict[str, Any] = msgspec.to_builtins(
        await ENDPOINTS[endpoint].ask(
            warehouse,
            ServiceQuestion(
                period=period,
                now=question.now,
                compare=question.compare,
                filters=filters_of(question, endpoint),
                default_currency=question.default_currency,
                on_time_minutes=question.on_time_minutes,
                limit=question.limit,
                sort=question.sort,
            ),
        )
    )
    return found


PARAMETERS: dict[str, tuple[str, ...]] = {
    "funnel": ("steps", "window_hours", "breakdown"),
    "cohort": ("unit", "periods", "activity"),
    "retention": ("days", "mode", "role"),
    "geographic": ("metric", "level", "resolution"),
}
"""The parameters that each endpoint of analytics takes."""


async def analytics_answer(warehouse: Warehouse, name: str, question: AnalyticsQuestion) -> dict[str, Any]:
    """What the endpoint of analytics would answer at `question.now`, without the `definition` of its figures."""
    module = import_module(f"openride_analytics.analytics.{name}")
    asked = module.Question(
        period=period_of(question),
        now=question.now,
        filters=filters_of(question, METRICS_LIKE[question.metric] if name == "geographic" else "users"),
        default_currency=question.default_currency,
        compare=question.compare,
        **{parameter: getattr(question, parameter) for parameter in PARAMETERS[name]},
    )
    found: dict[str, Any] = msgspec.to_builtins(await module.ask(warehouse, asked))
    found.pop("definition", None)
    return found


def period_of(question: Question) -> Period:
    return Period(
        start=question.start,
        end=question.end,
        timezone=ZoneInfo(question.timezone),
        granularity=question.granularity,
        whole_days=question.kind == "days",
    )


def filters_of(question: Question, endpoint: str) -> Filters:
    """The filters that the endpoint takes."""
    return Filters(
        **{name: getattr(question, name) for name in FILTERS[endpoint] if name in Filters.__annotations__}
    )


def differences(expected: Any, actual: Any, path: str = "$") -> list[str]:
    """Where two answers differ: numbers may differ by rounding in the last places, all else must be equal."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        found = (
            [f"{path}: fields {sorted(expected)} != {sorted(actual)}"]
            if expected.keys() != actual.keys()
            else []
        )
        for name in expected.keys() & actual.keys():
            found += differences(expected[name], actual[name], f"{path}.{name}")
        return found
    if isinstance(expected, list) and isinstance(actual, list):
        found = [f"{path}: {len(expected)} != {len(actual)} items"] if len(expected) != len(actual) else []
        for index, (one, other) in enumerate(zip(expected, actual, strict=False)):
            found += differences(one, other, f"{path}[{index}]")
        return found
    numbers = isinstance(expected, int | float) and isinstance(actual, int | float)
    if numbers and not isinstance(expected, bool) and not isinstance(actual, bool):
        close = abs(expected - actual) <= 1e-9 * max(1.0, abs(expected))
        return [] if close else [f"{path}: {expected!r} != {actual!r}"]
    return (
        []
        if expected == actual and type(expected) is type(actual)
        else [f"{path}: {expected!r} != {actual!r}"]
    )
