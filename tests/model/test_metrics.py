"""Every field of every metrics endpoint agrees with the naive model, whatever the stream looks like."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openride_analytics.warehouse import Warehouse
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from openride_analytics.warehouse.server import ServerWarehouse
from tests.properties import SLOW, holds
from tests.samples import full
from tests.stores import disordered, empty, store

from . import naive, streams
from .asked import answer, differences
from .periods import Question

ENDPOINTS = ("users", "bookings", "payments", "trips", "drivers", "routes", "realtime")
DEPENDS_ON_ARRIVAL = ("events_per_second", "ingest_lag_seconds")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_the_service_agrees_with_the_model(
    endpoint: str, embedded_warehouse: EmbeddedWarehouse
) -> None:
    await _agrees(endpoint, embedded_warehouse, from_java=False, examples=20)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_it_agrees_too_where_events_come_from_java_with_their_gaps(
    endpoint: str, embedded_warehouse: EmbeddedWarehouse
) -> None:
    await _agrees(endpoint, embedded_warehouse, from_java=True, examples=5)


@pytest.mark.shards
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_it_agrees_too_where_rows_are_spread_over_two_shards(
    endpoint: str, cluster_warehouse: ServerWarehouse
) -> None:
    await _agrees(endpoint, cluster_warehouse, from_java=False, examples=5)


async def test_equal_distances_rank_by_driver_in_whatever_steps_they_were_driven(
    embedded_warehouse: EmbeddedWarehouse,
) -> None:
    drivers = [f"b0000000-0000-4000-8000-00000000000{number}" for number in range(3)]
    for driver, distances in zip(drivers, ([0.3], [0.1, 0.2], [0.2, 0.1]), strict=True):
        trips = [
            full(
                "trip.completed",
                event_id=str(uuid4()),
                trip_id=str(uuid4()),
                driver_id=driver,
                distance_km=km,
            )
            for km in distances
        ]
        await store(embedded_warehouse, trips)
    march, april = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
    question = Question(march, april, "UTC", now=april, sort="distance")
    found = await answer(embedded_warehouse, "drivers", question)
    assert [(row["driver_id"], row["distance_km"]) for row in found["top"]] == [
        (driver, 0.3) for driver in drivers
    ]


async def _agrees(endpoint: str, warehouse: Warehouse, *, from_java: bool, examples: int) -> None:
    @settings(SLOW, max_examples=examples)
    @given(
        case=streams.cases(endpoint, java_gaps=from_java),
        seed=st.integers(0, 2**32),
        batches=st.sampled_from((1, 1, 2, 3)),
    )
    async def agrees(case: tuple[list[dict[str, Any]], Question], seed: int, batches: int) -> None:
        events, question = case
        await empty(warehouse)
        await store(
            warehouse,
            disordered(events, seed),
            batches=batches,
            currency=question.default_currency,
            from_java=from_java,
        )
        actual = await answer(warehouse, endpoint, question)
        for name in DEPENDS_ON_ARRIVAL:
            actual["summary"].pop(name, None)
        expected = getattr(naive, endpoint)(events, question)
        found = differences(expected, actual)
        assert not found, "\n".join(found)

    await holds(agrees)
