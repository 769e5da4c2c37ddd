"""The service's answer to a question of the model, as JSON data."""

from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from openride_analytics.metrics import bookings, drivers, payments, realtime, routes, trips, users
from openride_analytics.metrics.question import Filters
from openride_analytics.metrics.question import Question as ServiceQuestion
from openride_analytics.period import Period
from openride_analytics.warehouse import Warehouse

from .periods import Question
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
    period = Period(
        start=question.start,
        end=question.end,
        timezone=ZoneInfo(question.timezone),
        granularity=question.granularity,
        whole_days=question.kind == "days",
    )
    if endpoint == "realtime":
        asked = realtime.RealtimeQuestion.at(question.now, question.window_minutes, period)
        answered: dict[str, Any] = msgspec.to_builtins(await realtime.ask(warehouse, asked))
        return answered
    filters = {name: getattr(question, name) for name in FILTERS[endpoint] if name in Filters.__annotations__}
    found: dict[str, Any] = msgspec.to_builtins(
        await ENDPOINTS[endpoint].ask(
            warehouse,
            ServiceQuestion(
                period=period,
                now=question.now,
                compare=question.compare,
                filters=Filters(**filters),
                default_currency=question.default_currency,
                on_time_minutes=question.on_time_minutes,
                limit=question.limit,
                sort=question.sort,
            ),
        )
    )
    return found


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
