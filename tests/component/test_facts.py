"""What is derived of bookings, payments and trips is the same whatever came first, by whom, how often, and after a crash."""

import asyncio
import random
from typing import Any

import pytest

from openride_analytics.cache import MemoryCache
from openride_analytics.rebuild import rebuild
from openride_analytics.warehouse import Parameters, Row, Value, Warehouse
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from openride_analytics.warehouse.facts import derive, derive_missing
from tests.samples import Sample, full
from tests.stores import disordered, empty, store

FACTS = """
SELECT * EXCEPT (version, event_id, thing_id, booking_id, route_id, rider_id, driver_id),
    toString(event_id) AS id, toString(thing_id) AS thing
FROM facts FINAL
ORDER BY event_type, event_timestamp, event_id
"""
BOOKING = "b0000000-0000-4000-8000-00000000000{}"
PAYMENT = "a1000000-0000-4000-8000-00000000000{}"
TRIP = "c1000000-0000-4000-8000-00000000000{}"


def stream() -> list[Sample]:
    """Three things of each kind: one of each is not alone, and one lost an event to an earlier one under its id."""
    events: list[Sample] = []

    def add(event_type: str, minute: int, **fields: Any) -> None:
        number = len(events)
        ids = {"event_id": f"e0000000-0000-4000-8000-{number:012}", **fields}
        events.append(full(event_type, event_timestamp=f"2026-03-10T12:{minute:02}:00Z", **ids))

    for n in range(3):
        add("booking.created", n, booking_id=BOOKING.format(n))
        add("booking.confirmed", 10 + n, booking_id=BOOKING.format(n))
        add("payment.initiated", n, payment_id=PAYMENT.format(n))
        add("payment.success", 10 + n, payment_id=PAYMENT.format(n))
        add("trip.started", 20 + n, trip_id=TRIP.format(n))
        add("trip.completed", 30 + n, trip_id=TRIP.format(n))
    add("booking.confirmed", 15, booking_id=BOOKING.format(1))
    add("payment.failed", 5, payment_id=PAYMENT.format(1))
    add("payment.failed", 6, payment_id=PAYMENT.format(1))
    add("trip.cancelled", 40, trip_id=TRIP.format(1))
    add("booking.cancelled", 50, booking_id=BOOKING.format(2), event_id=events[0]["event_id"])
    return events


async def facts(warehouse: Warehouse) -> list[Row]:
    return await warehouse.query(FACTS)


def known(rows: list[Row], thing: str, field: str) -> set[Any]:
    return {row[field] for row in rows if row["thing"] == thing}


@pytest.fixture(params=["embedded", "server"])
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    found: Warehouse = request.getfixturevalue(f"{request.param}_warehouse")
    return found


class Underived:
    """A warehouse whose process dies before anything is derived."""

    def __init__(self, inner: Warehouse) -> None:
        self._inner = inner
        self.query = inner.query

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def execute(
        self, statement: str, parameters: Parameters | None = None, *, timeout_seconds: float | None = None
    ) -> None:
        if "INSERT INTO facts" not in statement or "is_deleted" in statement:
            await self._inner.execute(statement, parameters, timeout_seconds=timeout_seconds)

    async def insert(self, table: str, columns: Any, rows: list[tuple[Value, ...]]) -> None:
        await self._inner.insert(table, columns, rows)


class TestTheSameFacts:
    async def test_say_what_became_of_each_thing(self, warehouse: Warehouse) -> None:
        await store(warehouse, stream())
        rows = await facts(warehouse)
        assert len(rows) == len(stream()) - 1
        alone = {
            thing for thing in {row["thing"] for row in rows} if known(rows, thing, "is_alone") == {True}
        }
        assert alone == {text.format(n) for text in (BOOKING, PAYMENT, TRIP) for n in (0, 2)}
        assert known(rows, BOOKING.format(2), "is_cancelled") == {False}  # its cancellation lost its id
        assert known(rows, PAYMENT.format(1), "is_failed") == {True}
        confirmed_ms = known(rows, BOOKING.format(1), "confirmed_ms")
        assert confirmed_ms == {
            row["confirmed_ms"] - 60_000 for row in rows if row["thing"] == BOOKING.format(2)
        }

    async def test_in_any_order_and_any_number_of_times(self, embedded_warehouse: EmbeddedWarehouse) -> None:
        await store(embedded_warehouse, stream())
        expected = await facts(embedded_warehouse)
        for seed in range(4):
            await empty(embedded_warehouse)
            await store(embedded_warehouse, disordered(stream(), seed), batches=1 + 3 * seed)
            assert await facts(embedded_warehouse) == expected

    async def test_of_several_writers_at_once(self, warehouse: Warehouse) -> None:
        await store(warehouse, stream())
        expected = await facts(warehouse)
        await empty(warehouse)
        mixed = stream()
        random.Random(7).shuffle(mixed)
        await asyncio.gather(*(store(warehouse, mixed[n::4], batches=2) for n in range(4)))
        assert await facts(warehouse) == expected

    async def test_where_two_bookings_share_one_key_only_the_one_that_is_stored_has_it(
        self, warehouse: Warehouse
    ) -> None:
        for number in range(6):
            await empty(warehouse)
            pair = [
                full("booking.created", booking_id=BOOKING.format(n), total_price=f"{number}.00")
                for n in (0, 1)
            ]
            later = [
                full(
                    "booking.confirmed",
                    booking_id=BOOKING.format(n),
                    event_id=f"e1{number:06}-0000-4000-8000-00000000000{n}",
                )
                for n in (0, 1)
            ]
            await store(warehouse, [pair[0], *later])
            await store(warehouse, [pair[1]])
            stored = await warehouse.query(
                "SELECT toString(booking_id) AS thing FROM events FINAL WHERE event_type = 'booking.created'"
            )
            created = [row for row in await facts(warehouse) if row["event_type"] == "booking.created"]
            assert [row["thing"] for row in created] == [row["thing"] for row in stored]


class TestAfterACrash:
    async def test_what_was_stored_and_not_derived_is_derived_in_the_night(
        self, warehouse: Warehouse
    ) -> None:
        await store(warehouse, stream())
        expected = await facts(warehouse)
        await empty(warehouse)
        await store(Underived(warehouse), stream())  # type: ignore[arg-type]
        assert await facts(warehouse) != expected
        assert await derive_missing(warehouse) > 0
        assert await facts(warehouse) == expected
        assert await derive_missing(warehouse) == 0

    async def test_rebuilding_takes_away_what_does_not_follow_and_adds_what_does(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        await store(embedded_warehouse, stream())
        expected = await facts(embedded_warehouse)
        for statement in (
            "INSERT INTO facts SELECT * REPLACE (version + 1 AS version, true AS is_cancelled) FROM facts",
            "ALTER TABLE facts DELETE WHERE kind = 'trip' SETTINGS mutations_sync = 1",
            "ALTER TABLE histories DELETE WHERE kind = 'payment' SETTINGS mutations_sync = 1",
            "INSERT INTO histories SELECT * REPLACE (generateUUIDv4() AS event_id) FROM histories WHERE kind = 'booking'",
        ):
            await embedded_warehouse.execute(statement)
        await derive(embedded_warehouse, [BOOKING.format(n) for n in range(3)])
        assert await facts(embedded_warehouse) != expected
        await rebuild(embedded_warehouse, MemoryCache(), say=lambda _: None)
        assert await facts(embedded_warehouse) == expected
