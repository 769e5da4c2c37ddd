"""Rebuilding what is derived: whatever it has lost or holds too much, the earliest event of an id is the one that counts."""

import asyncio
import itertools
import random
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openride_analytics.cache import MemoryCache
from openride_analytics.erasure import erase
from openride_analytics.ingest.clashes import settle_all_clashes
from openride_analytics.rebuild import rebuild
from openride_analytics.warehouse import Warehouse, WarehouseUnavailable, changes
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from tests.component.test_clashes import (
    DRIVERS,
    RIVALS,
    STORED,
    arranged,
    clashing_streams,
    expected_keys,
    store_batches,
)
from tests.component.test_erasure import ID_KEYS, USER, Breaking, of_user, until
from tests.component.test_pipeline import Running, running
from tests.properties import SLOW, holds
from tests.samples import Sample, full
from tests.stores import empty
from tests.traces import traces_of

# As an operator may have damaged it.
TOMBSTONES_LOST = [
    f"ALTER TABLE {table} DELETE WHERE is_deleted = 1 SETTINGS mutations_sync = 1"
    for table in ("events", "driver_locations")
]
DAMAGE = {
    "nothing": [],
    "ids gone": ["TRUNCATE TABLE event_ids"],
    "half of the ids gone": [
        "ALTER TABLE event_ids DELETE WHERE sipHash64(event_id, event_timestamp) % 2 SETTINGS mutations_sync = 1"
    ],
    "ids of nothing": [
        """
        INSERT INTO event_ids (event_id, event_type, event_timestamp, driver_id)
        SELECT DISTINCT event_id, event_type, event_timestamp - toIntervalHour(1), driver_id
        FROM event_ids
        """
    ],
}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few dozen ids are several parts too."""
    monkeypatch.setattr(changes, "IDS_AT_ONCE", 20)


@pytest.fixture(params=["embedded", "server"])
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    found: Warehouse = request.getfixturevalue(f"{request.param}_warehouse")
    return found


async def rebuilt(warehouse: Warehouse) -> None:
    await rebuild(warehouse, MemoryCache(), say=lambda _: None)


async def keys(warehouse: Warehouse) -> set[tuple[str, str, int]]:
    """What readers see."""
    return {(row["type"], row["id"], row["at_ms"]) for row in await warehouse.query(STORED)}


def rivals() -> list[Sample]:
    """All cases of clashes, each under an id of its own; the later ones first."""
    events = []
    for number, case in enumerate(RIVALS.values()):
        events += [{**event, "event_id": f"c0000000-0000-4000-8000-{number:012}"} for event in reversed(case)]
    return events


class TestTheEarliestCounts:
    async def test_whatever_was_lost_and_whatever_the_stream(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        @settings(SLOW, max_examples=6)
        @given(
            events=clashing_streams(),
            damage=st.sampled_from(sorted(DAMAGE)),
            tombstones_lost=st.booleans(),
            seed=st.integers(0, 2**32),
        )
        async def agrees(
            events: list[Sample],
            damage: str,
            tombstones_lost: bool,  # noqa: FBT001
            seed: int,
        ) -> None:
            await empty(embedded_warehouse)
            await store_batches(embedded_warehouse, arranged(events, Random(seed)))
            complete = await keys(embedded_warehouse)
            for statement in [*DAMAGE[damage], *(TOMBSTONES_LOST if tombstones_lost else [])]:
                await embedded_warehouse.execute(statement)
            await rebuilt(embedded_warehouse)
            assert await keys(embedded_warehouse) == complete
            assert complete == expected_keys(events)

            await store_batches(embedded_warehouse, [events])
            assert await keys(embedded_warehouse) == complete

        await holds(agrees)

    @pytest.mark.parametrize("damage", DAMAGE)
    async def test_of_all_kinds_of_clashes_on_both_stores(self, warehouse: Warehouse, damage: str) -> None:
        await store_batches(warehouse, [rivals()])
        entries = await warehouse.query(ID_KEYS)
        for statement in [*DAMAGE[damage], *TOMBSTONES_LOST]:
            await warehouse.execute(statement)
        assert await keys(warehouse) != expected_keys(rivals())
        await asyncio.gather(rebuilt(warehouse), rebuilt(warehouse))
        assert await keys(warehouse) == expected_keys(rivals())
        assert await warehouse.query(ID_KEYS) == entries
        await settle_all_clashes(warehouse)
        await rebuilt(warehouse)
        assert await keys(warehouse) == expected_keys(rivals())
        assert await warehouse.query(ID_KEYS) == entries

    async def test_where_the_run_was_interrupted_at_some_step(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        for steps in itertools.count(random.randrange(5), 5):  # all of them, in some runs
            await empty(embedded_warehouse)
            await store_batches(embedded_warehouse, [rivals()])
            for statement in [*DAMAGE["half of the ids gone"], *TOMBSTONES_LOST]:
                await embedded_warehouse.execute(statement)
            try:
                await rebuilt(Breaking(embedded_warehouse, steps))
            except WarehouseUnavailable:
                await rebuilt(embedded_warehouse)
                assert await keys(embedded_warehouse) == expected_keys(rivals()), steps
            else:
                break
        assert steps > 5

    async def test_while_a_pipeline_stores_and_nobody_sees_a_number_that_falls(
        self, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Locations of ever new ids, and of ids that are there already but come earlier or later."""
        monkeypatch.setattr(changes, "IDS_AT_ONCE", 1_000)
        sent: list[Sample] = []

        async def send(work: Running) -> None:
            chance = Random(3)
            while not done.is_set():
                batch = [
                    location(chance.randrange(3_000), chance.randrange(3), chance.randrange(50))
                    for _ in range(200)
                ]
                await (await work.put(batch))
                sent.extend(batch)

        done = asyncio.Event()
        async with running(warehouse) as work:
            sending = asyncio.create_task(send(work))
            await until(lambda: len(sent) >= 1_000)
            await warehouse.execute("TRUNCATE TABLE event_ids")
            for _ in range(2):
                before = {event["event_id"] for event in sent}
                await rebuilt(warehouse)
                assert before <= {event_id for _, event_id, _ in await keys(warehouse)}
            done.set()
            await sending
        await rebuilt(warehouse)
        stored = await keys(warehouse)
        assert {event_id for _, event_id, _ in stored} == {event["event_id"] for event in sent}
        assert stored == expected_keys(sent)

    async def test_an_erased_user_does_not_come_back(self, warehouse: Warehouse) -> None:
        await store_batches(warehouse, [of_user(USER), rivals()])
        await erase(warehouse, MemoryCache(), UUID(USER), say=lambda _: None)
        before = await keys(warehouse)
        await warehouse.execute("TRUNCATE TABLE event_ids")
        await rebuilt(warehouse)
        assert await keys(warehouse) == before
        assert await traces_of(warehouse, USER) == {}


def location(number: int, driver: int, minute: int, **changes: Any) -> Sample:
    return full(
        "driver.location.updated",
        event_id=f"f0000000-0000-4000-8000-{number:012}",
        event_timestamp=f"2026-03-10T12:{minute:02}:00Z",
        driver_id=DRIVERS[driver],
        **changes,
    )
