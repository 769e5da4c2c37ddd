"""From events to rows, in batches: done only when they are stored, without those that the store cannot hold."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Self

import pytest
import pytest_asyncio

from openride_analytics.events import BadEvent, Events
from openride_analytics.ingest import pipeline as pipeline_module
from openride_analytics.ingest.dead_letters import DeadLetter
from openride_analytics.ingest.pipeline import REFUSALS_TRIED, Origin, Pipeline, Stored, store_events
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
from tests.samples import Sample, full
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.process import lent
from tests.stores import create_tables, decoded

LETTER = DeadLetter.of(b"{", BadEvent("invalid_json", "It breaks off."), rejected_ms=0)

EVENT_ROWS = "SELECT * FROM events FINAL ORDER BY event_type, event_timestamp, event_id"
LOCATION_ROWS = "SELECT * FROM driver_locations FINAL ORDER BY event_timestamp, driver_id, event_id"


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
    def open(cls, inner: Warehouse, *, refusing: bytes) -> Self:
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


class Passing(Held):
    """One that refuses some of its inserts, the first being 1, whatever is in them."""

    refused_inserts = range(0)

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        if table == "incoming" and self.inserts.count("incoming") + 1 in self.refused_inserts:
            self.inserts.append(table)
            raise StatementRefused("Code: 201. QUOTA_EXCEEDED")
        await super().insert(table, columns, rows)


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

    async def put(self, events: Sequence[Sample], dead_letters: Sequence[DeadLetter] = ()) -> Stored:
        return await self.pipeline.put(Events.of(decoded(events)), dead_letters, 0)

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


async def events_stored(warehouse: Warehouse) -> int:
    rows = await warehouse.query("SELECT count() AS n FROM events FINAL")
    return int(rows[0]["n"])


class TestBatches:
    async def test_a_source_waits_while_two_batches_are_stored_and_a_full_one_is_waiting(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        held = Held(embedded_warehouse)
        events = bookings(8)
        async with running(held, max_batch_events=2, max_delay_seconds=60) as work:
            stored: list[Stored] = []
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
            stored.append(await work.pipeline.put_at_once(Events.of(decoded(events[7:])), [], 0))
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

    async def test_a_small_batch_need_not_wait_for_one_that_is_tried_again(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        held = Held(embedded_warehouse)
        held.go.set()
        events = bookings(6)
        held.away_for = events[0]["event_id"].encode()
        async with running(held, max_delay_seconds=0.05) as work:
            older = await work.put(events[:1])
            await until(lambda: is_retrying(work))
            for event in events[1:]:
                await asyncio.wait_for(await work.put([event]), 20)
            assert not older.done()
            held.away_for = b""
            await older
        assert await events_stored(embedded_warehouse) == 6

    async def test_small_batches_go_one_after_the_other(self, embedded_warehouse: EmbeddedWarehouse) -> None:
        held = Held(embedded_warehouse)
        events = bookings(4)
        async with running(held, max_delay_seconds=0.01) as work:
            stored = [await work.put(events[:1])]
            await held.asked.wait()
            stored += [await work.put([event]) for event in events[1:]]
            await asyncio.sleep(0.1)
            assert held.inserts == ["incoming"]
            held.go.set()
            await asyncio.gather(*stored)
            assert held.inserts == ["incoming", "incoming"]

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

    async def test_storing_is_behind_while_batches_are_full(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        seen = []
        async with running(embedded_warehouse, max_batch_events=2) as work:
            for count in (1, 2, 1):
                await (await work.put(bookings(count)))
                seen.append(work.pipeline.is_behind)
        assert seen == [False, True, False]

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
            assert await (await work.put(events)) == [5, 40]
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
        booking, other, last = bookings(3)
        guilty = _registered(other["event_id"], city="guilty")
        # Of all the ways in which events are kept together on their way.
        without_id = {name: value for name, value in booking.items() if name != "event_id"}
        events = [booking, full("driver.location.updated"), without_id, guilty, last]
        origin = Origin("openride.events.user", 7, [100, 101, 104, 105, 106])
        async with running(fussy) as work:
            await (await work.pipeline.put_at_once(Events.of(decoded(events)), [], 0, origin))
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

    async def test_an_event_that_is_refused_alone_is_judged_by_one_that_got_through_before(
        self, warehouse: Warehouse
    ) -> None:
        events = bookings(2)
        guilty = _registered(events[0]["event_id"], city="guilty")
        async with running(Held.open(warehouse, refusing=b"guilty")) as work:
            await (await work.put(events[1:]))
            assert await asyncio.wait_for(await work.put([guilty]), 20) == [0]
            assert [letter.record for letter in work.published] == [decoded([guilty])[0].line]
        assert await events_stored(warehouse) == 1

    async def test_several_that_are_refused_alone_before_any_got_through_hold_up_nobody(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        events = bookings(3)
        guilty = [_registered(event["event_id"], city="guilty") for event in events[:2]]
        async with running(Held.open(embedded_warehouse, refusing=b"guilty")) as work:
            refused = []
            for count, event in enumerate(guilty, 1):
                refused.append(await work.put([event]))
                await until(lambda count=count: work.counted("openride_insert_failures_total") >= count)  # type: ignore[misc]
            assert not any(stored.done() for stored in refused)
            await asyncio.wait_for(await work.put(events[2:]), 20)
            assert await asyncio.wait_for(asyncio.gather(*refused), 30) == [[0], [0]]
        assert await events_stored(embedded_warehouse) == 1

    @pytest.mark.parametrize("refused", [1, 16, 25, 30, REFUSALS_TRIED])
    @pytest.mark.parametrize("stored_before", [0, 1, 3])
    async def test_a_fault_of_the_store_that_passes_is_no_events_fault(
        self, embedded_warehouse: EmbeddedWarehouse, refused: int, stored_before: int
    ) -> None:
        passing = Passing(embedded_warehouse)
        passing.go.set()
        events = bookings(64)
        events[0] = _registered(events[0]["event_id"], city="guilty")
        passing.refusing = b"guilty" if stored_before else b""
        passing.refused_inserts = range(stored_before + 1, stored_before + 1 + refused)
        async with running(passing) as work:
            await (await work.put(events))
            assert len(work.published) == (1 if stored_before else 0)
        assert await events_stored(embedded_warehouse) == (63 if stored_before else 64)

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


class Halfway(Held):
    """One that looks for no clashes, and derives for ever."""

    deriving = 0

    async def query(self, sql: str, parameters: Parameters | None = None) -> list[Row]:
        if "-- clashes.find" in sql:
            raise WarehouseUnavailable("no clashes today")
        return await super().query(sql, parameters)

    async def execute(
        self, statement: str, parameters: Parameters | None = None, *, timeout_seconds: float | None = None
    ) -> None:
        if "-- facts.derive" not in statement:
            await super().execute(statement, parameters, timeout_seconds=timeout_seconds)
        self.deriving += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.deriving -= 1


async def test_when_a_step_fails_the_one_beside_it_ends_too(embedded_warehouse: EmbeddedWarehouse) -> None:
    warehouse = Halfway.open(embedded_warehouse, refusing=b"")
    with pytest.raises(WarehouseUnavailable, match="no clashes today"):
        await store_events(warehouse, [(Events.of(decoded(bookings(3))), 0)])
    assert warehouse.deriving == 0


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
