"""The model of analytics against the promises that hold for any stream."""

from collections.abc import Callable
from dataclasses import replace
from math import fsum
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import analytics, naive
from .lives import METRICS_LIKE, analytics_cases
from .periods import AnalyticsQuestion
from .stored import Event

Case = tuple[list[Event], AnalyticsQuestion]
Endpoint = Callable[[list[Event], AnalyticsQuestion], dict[str, Any]]

ENDPOINTS: dict[str, Endpoint] = {
    "funnel": analytics.funnel,
    "cohort": analytics.cohort,
    "retention": analytics.retention,
    "geographic": analytics.geographic,
}

any_stream = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def users(answer: dict[str, Any]) -> list[int]:
    return [step["users"] for step in answer["steps"]]


@pytest.mark.parametrize("name", ENDPOINTS)
@any_stream
@given(data=st.data(), seed=st.integers(0, 999))
def test_order_and_repetition_change_nothing(name: str, data: st.DataObject, seed: int) -> None:
    events, question = data.draw(analytics_cases(name, java_gaps=True))
    again = [*events, *events[::2]]
    Random(seed).shuffle(again)
    assert ENDPOINTS[name](again, question) == ENDPOINTS[name](events, question)


@any_stream
@given(analytics_cases("funnel"))
def test_users_get_fewer_from_step_to_step_and_the_breakdown_adds_up(case: Case) -> None:
    events, question = case
    answer = analytics.funnel(events, replace(question, breakdown="state"))
    counts = users(answer)
    assert counts == sorted(counts, reverse=True)
    for step in answer["steps"]:
        assert 0 <= step["still_open"] <= step["users"]
        assert (step["median_minutes_from_previous"] or 0) <= question.window_hours * 60
    for number, count in enumerate(counts):
        assert sum(users(row)[number] for row in answer["breakdown"]) == count
    if question.state is not None:
        assert {row["value"] for row in answer["breakdown"]} <= {question.state}


@any_stream
@given(analytics_cases("funnel"))
def test_a_longer_window_loses_nobody(case: Case) -> None:
    events, question = case
    longer = replace(question, window_hours=question.window_hours * 2)
    pairs = zip(
        users(analytics.funnel(events, question)), users(analytics.funnel(events, longer)), strict=True
    )
    assert all(short <= long for short, long in pairs)


@any_stream
@given(analytics_cases("cohort"))
def test_cohorts_hold_everybody_once_and_who_booked_or_travelled_acted(case: Case) -> None:
    events, question = case
    answer = analytics.cohort(events, question)
    sizes = sum(row["size"] for row in answer["cohorts"])
    registered_here = analytics.geographic(events, replace(question, metric="users", level="state"))["places"]
    # Who registers again counts there once more, but belongs to the cohort of the first time.
    assert sizes <= sum(place["value"] for place in registered_here)
    acted = analytics.cohort(events, replace(question, activity="any"))
    for row, row_of_any in zip(answer["cohorts"], acted["cohorts"], strict=True):
        for cell, cell_of_any in zip(row["cells"], row_of_any["cells"], strict=True):
            assert cell["active"] <= cell_of_any["active"] <= row["size"]
    for row in acted["cohorts"]:
        # To register is to act.
        assert all(cell["active"] == row["size"] for cell in row["cells"][:1])


@any_stream
@given(analytics_cases("retention"))
def test_retained_are_eligible_and_unbounded_ones_at_least_as_many(case: Case) -> None:
    events, question = case
    exact = analytics.retention(events, replace(question, mode="exact"))["days"]
    unbounded = analytics.retention(events, replace(question, mode="unbounded"))["days"]
    for one, other in zip(exact, unbounded, strict=True):
        assert one["eligible"] == other["eligible"]
        assert one["retained"] <= other["retained"] <= other["eligible"]
    assert [day["eligible"] for day in exact] == sorted((day["eligible"] for day in exact), reverse=True)
    retained = [day["retained"] for day in unbounded]
    assert retained == sorted(retained, reverse=True)


@any_stream
@given(analytics_cases("geographic"))
def test_shares_add_up_and_the_places_hold_what_the_metrics_say(case: Case) -> None:
    events, question = case
    rows = analytics.geographic(events, question)["places"]
    metrics = getattr(naive, METRICS_LIKE[question.metric])(events, question)["summary"]
    if question.metric == "revenue":
        shares = [share for row in rows for currency, share in row["share"].items() if currency == "NGN"]
        assert {currency for row in rows for currency in row["value"]} == metrics["revenue"].keys()
    else:
        shares = [row["share"] for row in rows]
        total = sum(row["value"] for row in rows)
        match question.metric:
            case "bookings" | "routes":
                assert total == metrics["created"]
            case "trips":
                assert total == metrics["completed"]
            case "users":
                assert total <= metrics["registrations"]
            case _:
                assert total >= metrics["online_drivers"]
    known_shares = [share for share in shares if share is not None]
    assert not known_shares or fsum(known_shares) == pytest.approx(1)
