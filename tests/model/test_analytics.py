"""Every field of every answer of analytics agrees with the naive model, whatever the stream looks like."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openride_analytics.warehouse import Warehouse
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from openride_analytics.warehouse.server import ServerWarehouse
from tests.properties import SLOW, holds
from tests.stores import disordered, empty, store

from . import analytics
from .asked import analytics_answer, differences
from .lives import analytics_cases
from .periods import AnalyticsQuestion

NAMES = ("funnel", "cohort", "retention", "geographic")


@pytest.mark.parametrize("name", NAMES)
async def test_the_service_agrees_with_the_model(name: str, embedded_warehouse: EmbeddedWarehouse) -> None:
    await _agrees(name, embedded_warehouse, examples=16)


@pytest.mark.shards
@pytest.mark.parametrize("name", NAMES)
async def test_it_agrees_too_where_rows_are_spread_over_two_shards(
    name: str, cluster_warehouse: ServerWarehouse
) -> None:
    await _agrees(name, cluster_warehouse, examples=4)


async def _agrees(name: str, warehouse: Warehouse, *, examples: int) -> None:
    @settings(SLOW, max_examples=examples)
    @given(case=analytics_cases(name), seed=st.integers(0, 2**32), batches=st.sampled_from((1, 1, 2, 3)))
    async def agrees(case: tuple[list[dict[str, Any]], AnalyticsQuestion], seed: int, batches: int) -> None:
        events, question = case
        await empty(warehouse)
        await store(warehouse, disordered(events, seed), batches=batches, currency=question.default_currency)
        actual = await analytics_answer(warehouse, name, question)
        expected = getattr(analytics, name)(events, question)
        found = differences(expected, actual)
        assert not found, "\n".join(found)

    await holds(agrees)
