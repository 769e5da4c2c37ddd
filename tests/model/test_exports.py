"""The rows of exports add up to what the naive model of the metrics says, whatever the stream looks like."""

import csv
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openride_analytics import exports
from openride_analytics.config import Exports
from openride_analytics.exports import Question
from openride_analytics.warehouse import Warehouse
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from openride_analytics.warehouse.server import ServerWarehouse
from tests.properties import SLOW, holds
from tests.stores import disordered, empty, store

from . import naive, streams
from .asked import filters_of, period_of

Rows = list[dict[str, str]]


def _rate(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _users(rows: Rows, summary: dict[str, Any], _: dict[str, Any]) -> None:
    assert len(rows) == summary["registrations"]


def _routes(rows: Rows, summary: dict[str, Any], _: dict[str, Any]) -> None:
    assert len(rows) == summary["created"]


def _bookings(rows: Rows, summary: dict[str, Any], _: dict[str, Any]) -> None:
    assert len(rows) == summary["created"]
    for name, column in (
        ("conversion", "confirmed"),
        ("cancellation", "cancelled"),
        ("completion", "completed"),
    ):
        since = sum(bool(row[f"{column}_at"]) for row in rows)
        assert _rate(since, len(rows)) == summary[f"{name}_rate"]
    # A row has the rider of the first creation; the metric counts those of all.
    assert len({row["rider_id"] for row in rows}) <= summary["unique_riders"]


def _payments(rows: Rows, summary: dict[str, Any], _: dict[str, Any]) -> None:
    assert len(rows) == summary["initiated"]
    ended = [row for row in rows if row["succeeded_at"] or row["failed_at"]]
    assert _rate(sum(bool(row["succeeded_at"]) for row in ended), len(ended)) == summary["success_rate"]


def _driver_earnings(rows: Rows, _: dict[str, Any], answer: dict[str, Any]) -> None:
    trips: Counter[str] = Counter()
    for row in rows:
        trips[row["driver_id"]] += int(row["trips"])
    assert trips == {driver["driver_id"]: driver["trips"] for driver in answer["top"]}
    earned = {
        (row["driver_id"], row["currency"]): Decimal(row["earnings"]) for row in rows if row["currency"]
    }
    expected = {
        (driver["driver_id"], currency): Decimal(amount)
        for driver in answer["top"]
        for currency, amount in driver["earnings"].items()
    }
    assert earned == expected


CHECKS: dict[str, tuple[str, Callable[[Rows, dict[str, Any], dict[str, Any]], None]]] = {
    "users": ("users", _users),
    "routes": ("routes", _routes),
    "bookings": ("bookings", _bookings),
    "payments": ("payments", _payments),
    "driver_earnings": ("drivers", _driver_earnings),
}


@pytest.mark.parametrize("dataset", CHECKS)
async def test_the_rows_are_those_that_the_metrics_count(
    dataset: str, embedded_warehouse: EmbeddedWarehouse
) -> None:
    await _add_up(dataset, embedded_warehouse, examples=6)


@pytest.mark.shards
@pytest.mark.parametrize("dataset", CHECKS)
async def test_they_are_too_where_rows_are_spread_over_two_shards(
    dataset: str, cluster_warehouse: ServerWarehouse
) -> None:
    await _add_up(dataset, cluster_warehouse, examples=2)


async def _add_up(dataset: str, warehouse: Warehouse, *, examples: int) -> None:
    endpoint, check = CHECKS[dataset]

    @settings(SLOW, max_examples=examples)
    @given(case=streams.cases(endpoint), seed=st.integers(0, 2**32))
    async def add_up(case: tuple[list[dict[str, Any]], Any], seed: int) -> None:
        events, question = case
        # The currency of a filter keeps a driver's amounts, and an export's rows.
        question = replace(question, limit=1_000, **({"currency": None} if endpoint == "drivers" else {}))
        await empty(warehouse)
        await store(warehouse, disordered(events, seed), currency=question.default_currency)
        given_filters = filters_of(question, endpoint).given
        taken = {name: value for name, value in given_filters.items() if name in exports.filters_of(dataset)}
        if taken != given_filters:
            return
        asked = Question(
            period=period_of(question),
            now=question.now,
            filters=filters_of(question, endpoint),
            default_currency=question.default_currency,
        )
        async with exports.csv_lines(warehouse, dataset, asked, limits=Exports()) as (
            columns,
            lines,
        ):
            text = b"".join([piece async for piece in lines.pieces]).decode()
        rows = list(csv.DictReader(io.StringIO(text, newline=""), [column.name for column in columns]))
        assert len(rows) == lines.rows
        things = [next(iter(row.values())) for row in rows]
        if dataset != "driver_earnings":
            assert len(set(things)) == len(things)
            times = [row[columns[1].name] for row in rows]
            assert times == sorted(times)
        answer = getattr(naive, endpoint)(events, question)
        check(rows, answer["summary"], answer)

    await holds(add_up)


async def test_trips_are_those_whose_first_event_is_in_the_period(
    embedded_warehouse: EmbeddedWarehouse,
) -> None:
    @settings(SLOW, max_examples=6)
    @given(case=streams.cases("trips"))
    async def are_those(case: tuple[list[dict[str, Any]], Any]) -> None:
        from .kept import kept_trips
        from .periods import period
        from .stored import by, of, stored

        events, question = case
        await empty(embedded_warehouse)
        await store(embedded_warehouse, events, currency=question.default_currency)
        known = stored(events, question.default_currency)
        kept, span = kept_trips(known, question), period(question)
        expected = {
            trip
            for trip, its_events in by(of(known, "trip."), "trip_id").items()
            if trip in kept and span.start <= its_events[0]["event_timestamp"] < span.end
        }
        asked = Question(period=period_of(question), now=question.now, filters=filters_of(question, "trips"))
        async with exports.csv_lines(embedded_warehouse, "trips", asked, limits=Exports()) as (
            columns,
            lines,
        ):
            text = b"".join([piece async for piece in lines.pieces]).decode()
        rows = csv.DictReader(io.StringIO(text, newline=""), [column.name for column in columns])
        assert {row["trip_id"] for row in rows} == expected

    await holds(are_those)
