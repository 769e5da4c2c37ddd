"""The same rows whatever the batches, the order and the repetitions, also where one id comes with several contents."""

import itertools
from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from openride_analytics.events import Events
from openride_analytics.ingest.pipeline import store_events
from openride_analytics.warehouse import Row, Warehouse
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from tests.component.test_pipeline import EVENT_ROWS, LOCATION_ROWS, events_stored
from tests.model import streams
from tests.properties import SLOW, holds
from tests.samples import Sample, full
from tests.stores import decoded, empty

Batches = list[list[Sample]]

ID = "e0000000-0000-4000-8000-000000000001"
OTHER_ID = "e0000000-0000-4000-8000-000000000002"
DRIVERS = [f"d0000000-0000-4000-8000-00000000000{number}" for number in range(3)]
NOON = "2026-03-10T12:00:00Z"

STORED = """
SELECT event_type AS type, toString(event_id) AS id, toUnixTimestamp64Milli(event_timestamp) AS at_ms
FROM events FINAL
UNION ALL
SELECT 'driver.location.updated', toString(event_id), toUnixTimestamp64Milli(event_timestamp)
FROM driver_locations FINAL
"""


async def store_batches(warehouse: Warehouse, batches: Batches) -> None:
    for batch in batches:
        await store_events(warehouse, [(Events.of(decoded(batch)), 0)] if batch else [])


def arranged(events: Sequence[Sample], chance: Random) -> Batches:
    """In any order, some of them repeatedly, cut into batches anywhere."""
    mixed = [*events, *chance.choices(events, k=chance.randrange(len(events)))] if events else []
    chance.shuffle(mixed)
    cuts = sorted(chance.randrange(len(mixed) + 1) for _ in range(chance.randrange(3)))
    return [mixed[start:end] for start, end in itertools.pairwise([0, *cuts, len(mixed)])]


def expected_keys(events: Sequence[Sample]) -> set[tuple[str, str, int]]:
    """Type, id and time of what is to be stored: the least of each id."""
    keys: dict[str, tuple[int, str]] = {}
    for sample, event in zip(events, decoded(events), strict=True):
        key = (_milliseconds(event.line), sample["event_type"])
        keys[event.event_id] = min(keys.get(event.event_id, key), key)
    return {(event_type, event_id, at_ms) for event_id, (at_ms, event_type) in keys.items()}


def _milliseconds(line: bytes) -> int:
    return int(line.partition(b'"event_timestamp":')[2].partition(b",")[0])


@st.composite
def clashing_streams(draw: st.DrawFn) -> list[Sample]:
    """Streams in which some ids come with several contents, some of those at the same time."""
    events: list[Sample] = [dict(event) for event in draw(streams.streams())][:60]
    if events:
        place = st.integers(0, len(events) - 1)
        for taken, other, same_time in draw(st.lists(st.tuples(place, place, st.booleans()), max_size=12)):
            events[other]["event_id"] = events[taken].get("event_id", ID)
            if same_time:
                events[other]["event_timestamp"] = events[taken]["event_timestamp"]
    return events


class TestSameRows:
    async def test_batches_order_and_repetitions_change_nothing(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        warehouse = embedded_warehouse

        async def rows() -> list[list[Row]]:
            return [await warehouse.query(EVENT_ROWS), await warehouse.query(LOCATION_ROWS)]

        @settings(SLOW, max_examples=12)
        @given(events=clashing_streams(), seed=st.integers(0, 2**32), merged=st.booleans())
        async def same(events: list[Sample], seed: int, merged: bool) -> None:  # noqa: FBT001
            await empty(warehouse)
            await store_batches(warehouse, [events])
            expected = await rows()
            stored = {(row["type"], row["id"], row["at_ms"]) for row in await warehouse.query(STORED)}
            assert stored == expected_keys(events)

            await empty(warehouse)
            for batch in arranged(events, Random(seed)):
                await store_batches(warehouse, [batch])
                if merged:
                    await warehouse.execute("OPTIMIZE TABLE events FINAL")
                    await warehouse.execute("OPTIMIZE TABLE driver_locations FINAL")
            assert await rows() == expected

        await holds(same)


def _booking(at: str = NOON, **changes: Any) -> Sample:
    return full("booking.created", event_id=ID, event_timestamp=at, **changes)


def _cancelled(at: str = NOON) -> Sample:
    return full("booking.cancelled", event_id=ID, event_timestamp=at)


def _location(at: str = NOON, driver: int = 1, **changes: Any) -> Sample:
    return full(
        "driver.location.updated",
        event_id=ID,
        event_timestamp=at,
        driver_id=DRIVERS[driver],
        **changes,
    )


# The first of each is to win.
RIVALS: dict[str, tuple[Sample, ...]] = {
    "a millisecond earlier": (_booking(), _booking("2026-03-10T12:00:00.001Z")),
    "in the hour before": (_booking("2026-03-10T12:59:59.999Z"), _booking("2026-03-10T13:00:00Z")),
    "in the month before": (_booking("2026-02-28T23:59:59.999Z"), _booking("2026-03-01T00:00:00Z")),
    "the first type": (_cancelled(), _booking()),
    "time before type": (_booking(), _cancelled("2026-03-10T12:00:00.001Z")),
    "location a millisecond earlier": (_location(), _location("2026-03-10T12:00:00.001Z")),
    "location in the hour before": (_location("2026-03-10T11:59:59.999Z"), _location()),
    "location in the month before": (_location("2026-02-28T23:59:59.999Z"), _location()),
    "location, time before driver": (_location(driver=2), _location("2026-03-10T12:00:01Z", driver=1)),
    "location of the first driver": (_location(driver=1), _location(driver=2)),
    "booking before location, by type": (_booking(), _location()),
    "location before trip, by type": (_location(), full("trip.started", event_timestamp=NOON)),
    "location before booking, by time": (_location("2026-03-10T11:00:00Z"), _booking()),
    "of three": (_cancelled(), _booking(), _location("2026-04-01T00:00:00Z")),
}


class TestOneIdWithSeveralContents:
    async def test_the_earliest_time_wins_then_the_type_whatever_came_first(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        """Every arrangement of every case under an id of its own, all of them side by side."""
        ids = (f"c0000000-0000-4000-8000-{number:012}" for number in itertools.count())
        steps: list[list[Sample]] = [[] for _ in range(6)]
        alone: dict[str, str] = {}
        arrangements: dict[str, tuple[str, str]] = {}
        for name, rivals in RIVALS.items():
            alone[name] = next(ids)
            steps[0].append({**rivals[0], "event_id": alone[name]})
            for order in itertools.permutations(rivals):
                arrived = " | ".join(str(rivals.index(event)) for event in order)
                for how, batches in {
                    "at once": [list(order)],
                    "one by one": [[event] for event in order],
                    "twice": [[event] for event in order * 2],
                }.items():
                    event_id = next(ids)
                    arrangements[f"{name}: {arrived} {how}"] = event_id, alone[name]
                    for step, batch in enumerate(batches):
                        steps[step] += [{**event, "event_id": event_id} for event in batch]
        await store_batches(embedded_warehouse, steps)

        contents: dict[str, list[Row]] = {}
        for row in await _all_rows(embedded_warehouse):
            contents.setdefault(row["event_id"], []).append(
                {name: value for name, value in row.items() if name not in ("event_id", "content_rank")}
            )
        assert all(len(contents[event_id]) == 1 for event_id in alone.values())
        wrong = [what for what, (one, other) in arrangements.items() if contents[one] != contents[other]]
        assert not wrong

    async def test_at_the_same_time_the_content_decides_whatever_came_first(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        rivals = [
            [_booking(total_price=price), {**_location(lat=latitude), "event_id": OTHER_ID}]
            for price, latitude in (("1.00", 6.1), ("2.00", 6.2))
        ]
        outcomes = []
        for order in itertools.permutations(rivals):
            for batches in ([order[0] + order[1]], list(order)):
                await empty(embedded_warehouse)
                await store_batches(embedded_warehouse, batches)
                outcomes.append(await _all_rows(embedded_warehouse))
        assert len(outcomes[0]) == 2
        assert all(outcome == outcomes[0] for outcome in outcomes)

    async def test_what_has_lost_stays_away_when_it_is_repeated_after_a_merge(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        for winner, loser in ((_cancelled(), _booking()), (_location(), _location("2026-03-11T12:00:00Z"))):
            await empty(embedded_warehouse)
            await store_batches(embedded_warehouse, [[loser], [winner]])
            expected = await _all_rows(embedded_warehouse)
            for table in ("events", "driver_locations", "event_ids"):
                await embedded_warehouse.execute(f"OPTIMIZE TABLE {table} FINAL")
            await store_batches(embedded_warehouse, [[loser]])
            assert await _all_rows(embedded_warehouse) == expected

    async def test_equal_contents_without_an_id_are_one_event_and_others_are_not(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        event = full("booking.created")
        del event["event_id"]
        await store_batches(embedded_warehouse, [[event, event], [event], [{**event, "seats_booked": 3}]])
        assert await events_stored(embedded_warehouse) == 2

    async def test_an_id_that_was_derived_may_be_given_to_another_content(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        for earlier, later in (
            (_booking(), _booking("2026-03-10T12:00:00.001Z", seats_booked=3)),
            (_location(), _location("2026-03-11T12:00:00Z", driver=2)),
        ):
            for without_id, with_id in ((earlier, later), (later, earlier)):
                derived = {name: value for name, value in without_id.items() if name != "event_id"}
                given = {**with_id, "event_id": decoded([derived])[0].event_id}
                for batches in ([[derived], [given]], [[given], [derived]], [[given, derived]]):
                    await empty(embedded_warehouse)
                    await store_batches(embedded_warehouse, batches)
                    stored = await embedded_warehouse.query(STORED)
                    assert {(row["type"], row["id"], row["at_ms"]) for row in stored} == expected_keys(
                        [derived, given]
                    )
                    assert len(stored) == 1


async def _all_rows(warehouse: Warehouse) -> list[Row]:
    return [*await warehouse.query(EVENT_ROWS), *await warehouse.query(LOCATION_ROWS)]
