"""After erasing a user every metric is what the naive model says of the stream without that user's events."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openride_analytics.cache import MemoryCache
from openride_analytics.erasure import erase
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from tests.properties import SLOW, holds
from tests.stores import disordered, empty, store
from tests.traces import traces_of

from . import naive, streams
from .asked import answer, differences
from .periods import Question
from .stored import Event, stored
from .test_metrics import DEPENDS_ON_ARRIVAL, ENDPOINTS

ROLES = ("user_id", "rider_id", "driver_id")


def is_of(event: Event, user: str) -> bool:
    return any(str(event.get(role) or "").lower() == user for role in ROLES)


def without(sent: list[Event], user: str, default_currency: str) -> list[Event]:
    """The stream without the user's events, and without those that had lost their id to one of these."""
    won = {event["event_id"] for event in stored(sent, default_currency) if is_of(event, user)}
    return [
        event for event in sent if not is_of(event, user) and str(event.get("event_id")).lower() not in won
    ]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_the_service_agrees_with_the_model_when_a_user_is_erased(
    endpoint: str, embedded_warehouse: EmbeddedWarehouse
) -> None:
    """Before everything comes again, and after."""

    @settings(SLOW, max_examples=4)
    @given(
        case=streams.cases(endpoint),
        user=st.sampled_from(streams.USERS),
        seed=st.integers(0, 2**32),
        batches=st.sampled_from((1, 1, 2, 3)),
    )
    async def agrees(case: tuple[list[dict[str, Any]], Question], user: str, seed: int, batches: int) -> None:
        events, question = case
        currency = question.default_currency
        expected = getattr(naive, endpoint)(without(events, user, currency), question)
        await empty(embedded_warehouse)
        await store(embedded_warehouse, disordered(events, seed), batches=batches, currency=currency)
        await erase(embedded_warehouse, MemoryCache(), UUID(user), say=lambda _: None)
        for again in (False, True):
            if again:
                await store(embedded_warehouse, disordered(events, seed + 1), currency=currency)
            actual = await answer(embedded_warehouse, endpoint, question)
            for name in DEPENDS_ON_ARRIVAL:
                actual["summary"].pop(name, None)
            found = differences(expected, actual)
            assert not found, "\n".join([f"again: {again}", *found])
            assert await traces_of(embedded_warehouse, user) == {}

    await holds(agrees)
