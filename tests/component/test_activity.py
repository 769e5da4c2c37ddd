"""The set of who acted in which hour: what takes an event away takes its acts, however the hours are cut."""

from uuid import UUID

import pytest

from openride_analytics.cache import MemoryCache
from openride_analytics.erasure import erase
from openride_analytics.metrics.acting import DRIVING, HOUR_MS, distinct_users
from openride_analytics.rebuild import rebuild
from openride_analytics.warehouse import Warehouse
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from tests.samples import full
from tests.stores import store

RIDER = "a0000000-0000-4000-8000-000000000001"
OTHER = "a0000000-0000-4000-8000-000000000002"
DRIVER = "a0000000-0000-4000-8000-000000000003"
TEN = 1_773_136_800_000  # 2026-03-10T10:00Z
HALF = HOUR_MS // 2
WINDOWS = [(TEN, TEN + HOUR_MS), (TEN, TEN + HALF), (TEN + HALF, TEN + HOUR_MS), (TEN + HALF, TEN + HALF)]
CONTENTS = [
    ("user.registered", "user_id", ["lasting"]),
    ("route.created", "driver_id", ["lasting"]),
    ("booking.created", "rider_id", ["passing"]),
    ("trip.started", "rider_id", ["passing"]),
    ("trip.completed", "driver_id", [DRIVING]),
    ("user.upgraded_to_driver", "user_id", ["lasting"]),
    ("payment.initiated", "rider_id", ["passing"]),
]


@pytest.fixture
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    found: Warehouse = request.getfixturevalue(f"{request.param}_warehouse")
    return found


async def counted(warehouse: EmbeddedWarehouse, windows: list[tuple[int, int]] = WINDOWS) -> list[int]:
    return await distinct_users(warehouse, windows, filters={})


async def test_an_act_that_lost_its_id_does_not_count_and_another_of_its_hour_does(
    embedded_warehouse: EmbeddedWarehouse,
) -> None:
    event_id = "e0000000-0000-4000-8000-000000000001"
    late = full("booking.created", event_id=event_id, event_timestamp="2026-03-10T10:45:00Z", rider_id=RIDER)
    await store(embedded_warehouse, [late])
    assert await counted(embedded_warehouse) == [1, 0, 1, 0]
    early = {**late, "event_timestamp": "2026-03-10T09:45:00Z", "rider_id": OTHER}
    await store(embedded_warehouse, [early])
    assert await counted(embedded_warehouse) == [0, 0, 0, 0]
    assert await counted(embedded_warehouse, WINDOWS[:1]) == [0]
    await store(embedded_warehouse, [late])
    assert await counted(embedded_warehouse, WINDOWS[:1]) == [0]
    same_hour = full("payment.initiated", event_timestamp="2026-03-10T10:15:00Z", rider_id=RIDER)
    await store(embedded_warehouse, [same_hour])
    assert await counted(embedded_warehouse) == [1, 1, 0, 0]
    await rebuild(embedded_warehouse, MemoryCache(), say=lambda _: None)
    assert await embedded_warehouse.query("SELECT hour FROM doubtful_hours WHERE hour = 492538") == []
    assert await counted(embedded_warehouse) == [1, 1, 0, 0]


@pytest.mark.parametrize(("warehouse", "batches"), [("embedded", 1), ("server", 2)], indirect=["warehouse"])
async def test_of_two_contents_under_one_key_one_counts(warehouse: Warehouse, batches: int) -> None:
    """Whether they came together, so that the loser never reached the table, or one after the other, in either order."""
    for number, (event_type, who, kinds) in enumerate(CONTENTS):
        start = TEN + number * HOUR_MS
        event = full(
            event_type,
            event_id=f"e0000000-0000-4000-8000-{number:012}",
            event_timestamp=f"2026-03-10T{10 + number}:15:00Z",
        )
        rivals = [{**event, who: user} for user in (RIDER, OTHER, DRIVER)]
        await store(warehouse, [*rivals, *reversed(rivals)] if number % 2 else rivals, batches=batches)
        assert await distinct_users(warehouse, [(start, start + HOUR_MS)], kinds, filters={}) == [1], (
            event_type
        )
    await rebuild(warehouse, MemoryCache(), say=lambda _: None)
    assert await warehouse.query("SELECT hour FROM doubtful_hours") == []
    for number, (event_type, _, kinds) in enumerate(CONTENTS):
        start = TEN + number * HOUR_MS
        assert await distinct_users(warehouse, [(start, start + HOUR_MS)], kinds, filters={}) == [1], (
            event_type
        )


async def test_an_erased_driver_takes_the_riders_trip_along(embedded_warehouse: EmbeddedWarehouse) -> None:
    trip = full("trip.started", event_timestamp="2026-03-10T10:15:00Z", rider_id=RIDER, driver_id=DRIVER)
    await store(embedded_warehouse, [trip])
    assert await counted(embedded_warehouse) == [2, 2, 0, 0]
    assert await distinct_users(embedded_warehouse, WINDOWS[:1], [DRIVING], filters={}) == [1]
    await erase(embedded_warehouse, MemoryCache(), UUID(DRIVER), say=lambda _: None)
    assert await counted(embedded_warehouse, WINDOWS[:1]) == [0]


async def test_more_windows_than_one_number_has_bits(embedded_warehouse: EmbeddedWarehouse) -> None:
    await store(
        embedded_warehouse,
        [full("booking.created", event_timestamp="2026-03-10T10:15:00Z", rider_id=RIDER)],
    )
    windows = [(TEN + n * HOUR_MS, TEN + (n + 1) * HOUR_MS) for n in range(-200, 200)]
    assert await counted(embedded_warehouse, windows) == [int(start == TEN) for start, _ in windows]


async def test_an_hour_in_doubt_leaves_the_other_hours_and_days_as_they_are(
    embedded_warehouse: EmbeddedWarehouse,
) -> None:
    event_id = "e0000000-0000-4000-8000-000000000001"
    lost = full("booking.created", event_id=event_id, event_timestamp="2026-03-10T10:45:00Z", rider_id=RIDER)
    kept = [
        full("payment.initiated", event_id=str(UUID(int=number)), event_timestamp=at, rider_id=rider)
        for number, (at, rider) in enumerate(
            (
                ("2026-03-10T12:30:00Z", RIDER),
                ("2026-03-11T10:30:00Z", RIDER),
                ("2026-03-10T10:30:00Z", OTHER),
            ),
            start=1,
        )
    ]
    await store(embedded_warehouse, [lost, *kept])
    await store(embedded_warehouse, [{**lost, "event_timestamp": "2026-02-10T09:45:00Z", "rider_id": OTHER}])
    day, next_day = (TEN - 10 * HOUR_MS, TEN + 14 * HOUR_MS), (TEN + 14 * HOUR_MS, TEN + 38 * HOUR_MS)
    windows = [(TEN, TEN + HOUR_MS), (TEN + 2 * HOUR_MS, TEN + 3 * HOUR_MS), day, next_day]
    assert await counted(embedded_warehouse, windows) == [1, 1, 2, 1]
    await rebuild(embedded_warehouse, MemoryCache(), say=lambda _: None)
    assert await embedded_warehouse.query("SELECT hour FROM doubtful_hours WHERE hour = 492538") == []
    assert await counted(embedded_warehouse, windows) == [1, 1, 2, 1]
    rows = await embedded_warehouse.query(
        "SELECT hours FROM active_days WHERE user_id = {rider:UUID} AND day = 20522 AND kind = 'passing'",
        {"rider": RIDER},
    )
    assert {row["hours"] for row in rows} <= {1 << 12, 0}
