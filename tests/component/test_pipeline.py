"""From events to rows: the same ones whatever the batches, the order and the repetitions; done only when they are stored."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from openride_analytics.events import BadEvent
from openride_analytics.ingest import pipeline as pipeline_module
from openride_analytics.ingest.dead_letters import DeadLetter
from openride_analytics.ingest.pipeline import REFUSALS_TRIED, Origin, Pipeline, store_events
from openride_analytics.ops.metrics import Metrics
from openride_analytics.warehouse import (
    Parameters,
    Row,
    StatementRefused,
    Value,
    Warehouse,
    WarehouseUnavailable,
)
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from openride_analytics.warehouse.server import ServerWarehouse
from tests.model import streams
from tests.properties import SLOW, holds
from tests.samples import Sample, full
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.process import lent
from tests.stores import create_tables, decoded, empty

Batches = list[list[Sample]]

ID = "e0000000-0000-4000-8000-000000000001"
OTHER_ID = "e0000000-0000-4000-8000-000000000002"
DRIVERS = [f"d0000000-0000-4000-8000-00000000000{number}" for number in range(3)]
NOON = "2026-03-10T12:00:00Z"
LETTER = DeadLetter.of(b"{", BadEvent("invalid_json", "It breaks off."), rejected_ms=0)

EVENT_ROWS = "SELECT * FROM events FINAL ORDER BY event_type, event_timestamp, event_id"
LOCATION_ROWS = "SELECT * FROM driver_locations FINAL ORDER BY event_timestamp, driver_id, event_id"
STORED = """
SELECT event_type AS type, toString(event_id) AS id, toUnixTimestamp64Milli(event_timestamp) AS at_ms
FROM events FINAL
UNION ALL
SELECT 'driver.location.updated', toString(event_id), toUnixTimestamp64Milli(event_timestamp)
FROM driver_locations FINAL
"""


class Held:
    """A warehouse that takes no insert before `go` is set; it counts those that it was asked for."""

    def __init__(self, inner: Warehouse) -> None:
        self._inner = inner
        self.stream = inner.stream
        self.query_hosts = inner.query_hosts
        self.stored_in = inner.stored_in
        self.refusing = b""
        self.away_for = b""
        self.go = asyncio.Event()
        self.asked = asyncio.Event()
        self.inserts: list[str] = []

    @classmethod
    def open(cls, inner: Warehouse, *, refusing: bytes) -> "Held":
        """One that waits for nothing, and refuses rows with these bytes, saying nothing of their content."""
        held = cls(inner)
        held.go.set()
        held.refusing = refusing
        return held

    async def query(self, sql: str, parameters: Parameters | None = None) -> list[Row]:
        return await self._inner.query(sql, parameters)

    async def execute(
        self, statement: str, parameters: Parameters | None = None, *, timeout_seconds: float | None = None
    ) -> None:
        await self._inner.execute(statement, parameters, timeout_seconds=timeout_seconds)

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        self.inserts.append(table)
        self.asked.set()
        await self.go.wait()
        if table == "incoming" and _is_among(self.refusing, rows):
            raise StatementRefused("Code: 49. LOGICAL_ERROR")
        if table == "incoming" and _is_among(self.away_for, rows):
            raise WarehouseUnavailable("away for these")
        await self._inner.insert(table, columns, rows)

    async def create_database(self) -> None:
        await self._inner.create_database()

    async def close(self) -> None:
        await self._inner.close()


def _is_among(some: bytes, rows: Sequence[Sequence[Value]]) -> bool:
    return bool(some) and any(some in row[-1] for row in rows)  # type: ignore[operator]  # lines are bytes


class Running:
    """A pipeline at work, and what it told others."""

    def __init__(self, warehouse: Warehouse, *, max_batch_events: int, max_delay_seconds: float) -> None:
        self.metrics = Metrics()
        self.published: list[DeadLetter] = []
        self.batches_stored = 0
        self.pipeline = Pipeline(
            warehouse,
            self.metrics,
            max_batch_events=max_batch_events,
            max_delay_seconds=max_delay_seconds,
            on_stored=self._on_stored,
            publish=self._publish,
        )

    async def put(
        self, events: Sequence[Sample], dead_letters: Sequence[DeadLetter] = ()
    ) -> "asyncio.Future[None]":
        return await self.pipeline.put(decoded(events), dead_letters, 0)

    def counted(self, name: str, **labels: str) -> float:
        """A sample's value, summed over the labels that are not given."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and sample.labels.items() >= labels.items()
        )

    async def _on_stored(self, earliest_ms: int) -> None:
        self.batches_stored += 1

    async def _publish(self, letters: Sequence[DeadLetter]) -> None:
        self.published += letters


@contextlib.asynccontextmanager
async def running(
    warehouse: Warehouse, *, max_batch_events: int = 1000, max_delay_seconds: float = 0.01
) -> AsyncIterator[Running]:
    work = Running(warehouse, max_batch_events=max_batch_events, max_delay_seconds=max_delay_seconds)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(work.pipeline.run())
        yield work
        await work.pipeline.close()


def has_room(work: Running) -> bool:
    """Asked anew each time (a property's answer would be taken for granted by the type checker)."""
    return work.pipeline.has_room


def is_retrying(work: Running) -> bool:
    """As `has_room`."""
    return work.pipeline.retrying


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.005)


def bookings(count: int, **changes: Any) -> list[Sample]:
    """Different events; of the same kind, so that they travel in one chunk."""
    return [
        full("booking.created", event_id=f"b0000000-0000-4000-8000-{number:012}", **changes)
        for number in range(count)
    ]


async def store_batches(warehouse: Warehouse, batches: Batches) -> None:
    for batch in batches:
        await store_events(warehouse, [(decoded(batch), 0)] if batch else [])


async def events_stored(warehouse: Warehouse) -> int:
    rows = await warehouse.query("SELECT count() AS n FROM events FINAL")
    return int(rows[0]["n"])


def arranged(events: Sequence[Sample], chance: Random) -> Batches:
    """In any order, some of them repeatedly, cut into batches anywhere."""
    mixed = [*events, *chance.choices(events, k=chance.randrange(len(events)))] if events else []
    chance.shuffle(mixed)
    cuts = sorted(chance.randrange(len(mixed) + 1) for _ in range(chance.randrange(3)))
    return [mixed[start:end] for start, end in itertools.pairwise([0, *cuts, len(mixed)])]


def expected_keys(events: Sequence[Sample]) -> set[tuple[str, str, int]]:
    """Type, id and time of what is to be stored, from the events that were given an id: the least of each id."""
    keys: dict[str, tuple[int, str]] = {}
    for sample, event in zip(events, decoded(events), strict=True):
        if event.event_id is not None:
            event_id = str(event.event_id)
            key = (_milliseconds(event.line), sample["event_type"])
            keys[event_id] = min(keys.get(event_id, key), key)
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
            assert expected_keys(events) <= stored
            assert len(stored - expected_keys(events)) <= sum("event_id" not in event for event in events)

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


async def _all_rows(warehouse: Warehouse) -> list[Row]:
    return [*await warehouse.query(EVENT_ROWS), *await warehouse.query(LOCATION_ROWS)]


class TestBatches:
    async def test_a_source_waits_while_two_batches_are_stored_and_a_full_one_is_waiting(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        held = Held(embedded_warehouse)
        events = bookings(8)
        async with running(held, max_batch_events=2, max_delay_seconds=60) as work:
            stored: list[asyncio.Future[None]] = []
            for start in (0, 2):
                assert has_room(work)
                stored.append(await work.put(events[start : start + 2]))
                await until(lambda: len(held.inserts) == len(stored))
            assert has_room(work)
            stored.append(await work.put(events[4:5], [LETTER]))
            assert not has_room(work)
            late = asyncio.create_task(work.put(events[5:7]))
            done, _ = await asyncio.wait({late}, timeout=0.05)
            assert not done
            stored.append(await work.pipeline.put_at_once(decoded(events[7:]), [], 0))
            assert held.inserts == ["incoming"] * 2
            held.go.set()
            stored.append(await late)
            await asyncio.gather(*stored)
            assert has_room(work)
        assert await events_stored(embedded_warehouse) == 8

    async def test_beside_a_batch_that_is_being_stored_only_a_full_one_begins(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        held = Held(embedded_warehouse)
        events = bookings(4)
        async with running(held, max_batch_events=2) as work:
            stored = [await work.put(events[:1])]
            await until(lambda: len(held.inserts) == 1)
            stored.append(await work.put(events[1:2]))
            await asyncio.sleep(0.05)
            assert held.inserts == ["incoming"]
            stored.append(await work.put(events[2:3]))
            await until(lambda: len(held.inserts) == 2)
            held.go.set()
            await asyncio.gather(*stored)
        assert await events_stored(embedded_warehouse) == 3

    async def test_a_batch_that_is_tried_again_holds_up_no_other(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        held = Held(embedded_warehouse)
        held.go.set()
        events = bookings(6)
        held.away_for = events[1]["event_id"].encode()
        async with running(held, max_batch_events=2, max_delay_seconds=60) as work:
            older = await work.put(events[:2])
            await until(lambda: is_retrying(work))
            for start in (2, 4):
                await (await work.put(events[start : start + 2]))
            assert not older.done()
            assert is_retrying(work)
            assert await events_stored(embedded_warehouse) == 4
            held.away_for = b""
            await older
            assert not is_retrying(work)
            assert work.pipeline.last_failure is not None
            assert work.batches_stored == 3
        assert await events_stored(embedded_warehouse) == 6

    async def test_closing_stores_what_is_under_way_and_what_is_waiting(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        held = Held(embedded_warehouse)
        events = bookings(5)
        async with running(held, max_batch_events=2, max_delay_seconds=60) as work:
            stored = [await work.put(events[start : start + 2]) for start in (0, 2, 4)]
            await until(lambda: len(held.inserts) == 2)
            await work.pipeline.close()
            assert not any(future.done() for future in stored)
            held.go.set()
        assert all(future.done() for future in stored)
        assert await events_stored(embedded_warehouse) == 5

    async def test_many_bytes_fill_a_batch_as_well(
        self, embedded_warehouse: EmbeddedWarehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pipeline_module, "MAX_BATCH_BYTES", 1000)
        async with running(embedded_warehouse, max_delay_seconds=60) as work:
            stored = await work.put(bookings(1))
            assert has_room(work)
            second = await work.put(bookings(3))
            assert not has_room(work)
            await asyncio.gather(stored, second)
            assert has_room(work)

    async def test_what_waits_is_stored_together_after_the_longest_delay(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        held = Held(embedded_warehouse)
        held.go.set()
        async with running(held, max_delay_seconds=0.05) as work:
            events = bookings(5)
            await asyncio.gather(*[await work.put([event]) for event in events])
            assert held.inserts == ["incoming"]
            assert work.batches_stored == 1
        assert await events_stored(embedded_warehouse) == 5

    async def test_closing_stores_what_is_left_at_once(self, embedded_warehouse: EmbeddedWarehouse) -> None:
        async with running(embedded_warehouse, max_delay_seconds=60) as work:
            stored = await work.put(bookings(3), [LETTER])
        assert stored.done()
        assert await events_stored(embedded_warehouse) == 3

    async def test_it_is_done_only_when_everything_can_be_read(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        held = Held(embedded_warehouse)
        async with running(held) as work:
            stored = await work.put(bookings(3), [LETTER])
            await held.asked.wait()
            assert not stored.done()
            assert not work.published
            assert await events_stored(embedded_warehouse) == 0
            held.go.set()
            await stored
            assert held.inserts == ["incoming", "dead_letters"]
            assert await events_stored(embedded_warehouse) == 3
            assert await _dead_letters(embedded_warehouse) == [(LETTER.dead_letter_id, "invalid_json")]
            assert work.published == [LETTER]
            assert work.batches_stored == 1
            assert work.counted("openride_events_stored_total") == 3
            assert work.counted("openride_events_rejected_total", reason="invalid_json", topic="http") == 1

    async def test_the_same_dead_letter_again_is_listed_once(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        async with running(embedded_warehouse) as work:
            for _ in range(2):
                await (await work.put([], [LETTER]))
        assert len(await _dead_letters(embedded_warehouse)) == 1

    async def test_a_source_that_stopped_waiting_does_not_stop_the_others(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        events = bookings(2)
        async with running(embedded_warehouse, max_delay_seconds=0.05) as work:
            gone, stored = [await work.put([event]) for event in events]
            gone.cancel()
            await stored
        assert await events_stored(embedded_warehouse) == 2


@pytest.fixture(params=["embedded", "server"])
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    found: Warehouse = request.getfixturevalue(f"{request.param}_warehouse")
    return found


@pytest_asyncio.fixture
async def fussy(warehouse: Warehouse) -> AsyncIterator[Warehouse]:
    """A warehouse that refuses every insert with the word `guilty` in it."""
    await warehouse.execute("CREATE TABLE nowhere (guilty UInt8) ENGINE = Null")
    await warehouse.execute(
        "CREATE MATERIALIZED VIEW incoming_to_nowhere TO nowhere AS"
        " SELECT throwIf(position(lines, 'guilty') > 0) AS guilty FROM incoming"
    )
    yield warehouse
    await warehouse.execute("DROP VIEW incoming_to_nowhere SYNC")
    await warehouse.execute("DROP TABLE nowhere SYNC")


class TestRefusedContent:
    async def test_it_is_found_and_set_aside_and_the_rest_is_stored(self, fussy: Warehouse) -> None:
        held = Held(fussy)
        held.go.set()
        events = bookings(64)
        guilty = [_registered(event["event_id"], city="guilty") for event in (events[5], events[40])]
        events[5], events[40] = guilty
        async with running(held) as work:
            await (await work.put(events))
            assert {letter.record for letter in work.published} == {event.line for event in decoded(guilty)}
            assert work.counted("openride_events_stored_total") == 62
            assert work.counted("openride_events_rejected_total", reason="invalid_field", topic="http") == 2
            assert work.counted("openride_insert_failures_total") == 0
        letters = sorted((letter.dead_letter_id, letter.reason) for letter in work.published)
        assert await _dead_letters(fussy) == letters
        kept = "SELECT count() AS n FROM events FINAL WHERE event_type = 'booking.created'"
        assert await fussy.query(kept) == [{"n": 62}]
        steps = 6  # from 64 to 1
        assert held.inserts.count("incoming") <= 1 + len(guilty) * 2 * steps

    async def test_a_batch_of_nothing_else_is_done_too(self, fussy: Warehouse) -> None:
        events = [_registered(event["event_id"], city=f"guilty {n}") for n, event in enumerate(bookings(3))]
        async with running(fussy) as work:
            await (await work.put(events))
            assert work.counted("openride_events_stored_total") == 0
        assert len(await _dead_letters(fussy)) == 3

    async def test_from_kafka_it_becomes_a_letter_with_its_place(self, fussy: Warehouse) -> None:
        events = bookings(3)
        events[1] = _registered(events[1]["event_id"], city="guilty")
        origin = Origin("openride.events.user", 7, [100, 105, 106])
        async with running(fussy) as work:
            await (await work.pipeline.put_at_once(decoded(events), [], 0, origin))
        (letter,) = work.published
        assert (letter.topic, letter.partition, letter.offset) == ("openride.events.user", 7, 105)

    async def test_a_refusal_that_does_not_speak_of_the_content_is_one_events_fault_if_others_get_through(
        self, warehouse: Warehouse
    ) -> None:
        events = bookings(64)
        events[0] = _registered(events[0]["event_id"], city="guilty")
        async with running(Held.open(warehouse, refusing=b"guilty")) as work:
            await (await work.put(events))
            assert {letter.record for letter in work.published} == {
                event.line for event in decoded(events[:1])
            }
        assert await events_stored(warehouse) == 63

    async def test_where_none_gets_through_it_is_nobodys_fault_and_tried_again(
        self, warehouse: Warehouse
    ) -> None:
        held = Held.open(warehouse, refusing=b"booking")
        async with running(held) as work:
            stored = await work.put(bookings(1000))
            await until(lambda: work.counted("openride_insert_failures_total") >= 1)
            assert len(held.inserts) <= REFUSALS_TRIED + 2
            assert not stored.done()
            held.refusing = b""
            await stored
        assert not work.published
        assert await events_stored(warehouse) == 1000


def _registered(event_id: str, *, city: str) -> Sample:
    return full("user.registered", event_id=event_id, city=city)


async def _dead_letters(warehouse: Warehouse) -> list[tuple[str, str]]:
    rows = await warehouse.query(
        "SELECT dead_letter_id, reason FROM dead_letters FINAL ORDER BY dead_letter_id"
    )
    return [(row["dead_letter_id"], row["reason"]) for row in rows]


@pytest.fixture
def own_clickhouse(clickhouse: ClickHouseServer) -> Iterator[ClickHouseServer]:
    """A server that no other test waits for."""
    with lent(ClickHouseServer()) as server:
        yield server


async def test_storing_is_tried_until_the_server_is_back(own_clickhouse: ClickHouseServer) -> None:
    warehouse = ServerWarehouse(own_clickhouse.url, query_timeout_seconds=5, insert_timeout_seconds=5)
    await create_tables(warehouse)
    async with running(warehouse) as work:
        await (await work.put(bookings(2)))
        await asyncio.to_thread(own_clickhouse.stop)
        stored = await work.put(bookings(4), [LETTER])
        await until(lambda: work.counted("openride_insert_failures_total") >= 2)
        assert not stored.done()
        assert is_retrying(work)
        assert work.pipeline.last_failure is not None
        assert work.pipeline.last_failure.error == "WarehouseUnavailable"
        await asyncio.to_thread(own_clickhouse.start)
        async with asyncio.timeout(30):
            await stored
        assert not is_retrying(work)
    assert await events_stored(warehouse) == 4
    assert len(await _dead_letters(warehouse)) == 1
    await warehouse.close()
