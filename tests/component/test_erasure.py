"""Erasing a user leaves nothing of them, changes nothing of the others, and holds against whatever comes later."""

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import pytest

from openride_analytics.cache import Cache, MemoryCache
from openride_analytics.erasure import CacheAway, erase, erase_again
from openride_analytics.events import BadEvent
from openride_analytics.ingest.clashes import settle_all_clashes
from openride_analytics.ingest.dead_letters import DeadLetter, store_dead_letters
from openride_analytics.warehouse import Parameters, Row, Value, Warehouse, WarehouseUnavailable
from openride_analytics.warehouse.changes import inserts_ended, mutate
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from tests.component.test_pipeline import bookings
from tests.samples import FULL, Sample, full
from tests.stores import empty, store
from tests.traces import traces_of

USER = "d0000000-0000-4000-8000-0000000000ab"
OTHER = "d0000000-0000-4000-8000-0000000000cd"
NIL = "00000000-0000-0000-0000-000000000000"
NOON = "2026-03-10T12:00:00Z"
LATER = "2026-03-10T12:00:01Z"
ROLES = ("user_id", "rider_id", "driver_id")
MENTIONS = ("verified_by", "refunded_by")

EVENT_ROWS = "SELECT * FROM events FINAL ORDER BY event_type, event_timestamp, event_id"
LOCATION_ROWS = "SELECT * FROM driver_locations FINAL ORDER BY event_timestamp, driver_id, event_id"
LETTER_IDS = "SELECT dead_letter_id AS id FROM dead_letters FINAL ORDER BY id"
ID_KEYS = """
SELECT DISTINCT toString(event_id) AS id, event_type AS type, toUnixTimestamp64Milli(event_timestamp) AS at_ms
FROM event_ids
ORDER BY id, type, at_ms
"""
INSERT_SLOWLY = """
INSERT INTO dead_letters (dead_letter_id, record)
SELECT toString(number), concat({user:String}, toString(sleepEachRow(1)))
FROM numbers(2)
SETTINGS max_block_size = 1
"""
RUNNING = (
    "SELECT count() AS n FROM system.processes WHERE query_kind = 'Insert' AND query LIKE '%sleepEachRow%'"
)

said: list[str] = []


@pytest.fixture(params=["embedded", "server"])
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    found: Warehouse = request.getfixturevalue(f"{request.param}_warehouse")
    return found


def _ids() -> Any:
    return (f"e0000000-0000-4000-8000-{number:012}" for number in itertools.count())


def of_user(user: str) -> list[Sample]:
    """One event of each type for each field that may name the user."""
    ids = _ids()
    return [
        {**event, field: user.upper(), "event_id": next(ids)}
        for event in FULL.values()
        for field in ROLES
        if field in event
    ]


def of_others() -> list[Sample]:
    """Events that are not the user's, two of which mention them."""
    events = [
        {**event, "event_id": event["event_id"][:-2] + f"{n:02}"} for n, event in enumerate(FULL.values())
    ]
    return [{**event, **{name: USER for name in MENTIONS if name in event}} for event in events]


def clashes() -> list[Sample]:
    """The user wins one id and loses another, of events and of locations."""
    events = []
    for number, event_type in enumerate(("booking.created", "driver.location.updated")):
        for winner, loser in ((USER, OTHER), (OTHER, USER)):
            event_id = f"c0000000-0000-4000-8000-{number}{winner[-2:]:0>11}"
            for at, driver in ((NOON, winner), (LATER, loser)):
                events.append(full(event_type, event_id=event_id, event_timestamp=at, driver_id=driver))
    return events


def letter(number: int, *, record: bytes = b"{", key: bytes = b"") -> DeadLetter:
    bad = BadEvent("invalid_json", "It breaks off.")
    return DeadLetter.of(record, bad, rejected_ms=0, topic="t", offset=number, key=key)


async def store_all(warehouse: Warehouse) -> set[str]:
    """Something of the user wherever there may be something, and of others beside it; the ids of others' letters."""
    await store(warehouse, [*of_user(USER), *of_others(), *clashes()], batches=3)
    letters = [
        letter(1, record=b'{"user_id": "' + USER.upper().encode() + b'"'),
        letter(2, key=USER.encode()),
        letter(3, record=b'{"user_id": "' + OTHER.encode() + b'"'),
        letter(4, record=b"\xff{"),
    ]
    await store_dead_letters(warehouse, letters)
    return {kept.dead_letter_id for kept in letters[2:]}


async def erased(warehouse: Warehouse, cache: Cache | None = None, user: str = USER) -> dict[str, int]:
    return await erase(warehouse, cache or MemoryCache(), UUID(user), say=said.append)


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def rows(warehouse: Warehouse) -> list[list[Row]]:
    """All that is stored, as readers see it."""
    return [await warehouse.query(sql) for sql in (EVENT_ROWS, LOCATION_ROWS, LETTER_IDS)]


async def ids_of(warehouse: Warehouse) -> set[str]:
    """The ids of what readers see."""
    events, locations, _ = await rows(warehouse)
    return {str(row["event_id"]) for row in [*events, *locations]}


async def without_user(warehouse: Warehouse) -> list[list[Row]]:
    """What is to be left."""
    return [
        [
            {**row, **{name: type(row[name])(NIL) for name in MENTIONS if str(row.get(name)) == USER}}
            for row in table
            if not any(str(row.get(field)) == USER for field in ROLES)
        ]
        for table in (await rows(warehouse))[:2]
    ]


class TestNothingIsLeft:
    async def test_of_a_user_in_any_column_of_any_table_and_others_stay_as_they_were(
        self, warehouse: Warehouse
    ) -> None:
        others = await store_all(warehouse)
        assert set(await traces_of(warehouse, USER)) == {
            "events",
            "histories",
            "facts",
            "driver_locations",
            "event_ids",
            "active_days",
            "doubtful_hours",
            "dead_letters",
        }
        expected = await without_user(warehouse)
        keys_before = await warehouse.query(ID_KEYS)
        # What has lost goes with its tombstone at some merge: so that the rows can be counted, at this one.
        for table in ("events", "driver_locations"):
            await warehouse.execute(f"OPTIMIZE TABLE {table} FINAL")

        removed = await erased(warehouse)
        assert await traces_of(warehouse, USER) == {}
        events, locations, letters = await rows(warehouse)
        assert [events, locations] == expected
        assert {row["id"] for row in letters} == others
        own = len(of_user(USER)) - 1
        # All rows of their things, some of which were written again and are not merged yet.
        assert removed.pop("facts") > removed.pop("histories") > 0
        # Sets, of which a merge may have dropped repeats.
        assert removed.pop("active_days") > 0
        assert removed.pop("doubtful_hours") > 0
        assert removed == {
            "event_ids": own + 1 + 3,  # not of the event that had lost and is gone: its id names nobody
            "events": own + 1,
            "mentions in others' events": 2,
            "driver_locations": 1 + 1 + 1,  # the last one is the tombstone of the one that had lost
            "dead_letters": 2,
        }
        gone = {event["event_id"] for event in of_user(USER)}
        keys = await warehouse.query(ID_KEYS)
        assert not gone & {row["id"] for row in keys}
        assert len(keys) == len(keys_before) - len(gone) - 3

    async def test_a_second_time_changes_nothing_and_keeps_the_record(self, warehouse: Warehouse) -> None:
        await store_all(warehouse)
        await erased(warehouse)
        before = await rows(warehouse)
        record = await warehouse.query("SELECT toString(user_id) AS id, erased_at FROM erased_users")
        assert await erased(warehouse) == {}
        assert await rows(warehouse) == before
        assert await warehouse.query("SELECT toString(user_id) AS id, erased_at FROM erased_users") == record
        assert [row["id"] for row in record] == [USER]

    async def test_of_a_user_whose_events_come_only_later(self, warehouse: Warehouse) -> None:
        assert await erased(warehouse) == {}
        await store_all(warehouse)
        assert await traces_of(warehouse, USER) == {}
        assert {event["event_id"] for event in of_others()} <= await ids_of(warehouse)

    async def test_when_everything_comes_again(self, warehouse: Warehouse) -> None:
        await store_all(warehouse)
        await erased(warehouse)
        before = await rows(warehouse)
        keys = await warehouse.query(ID_KEYS)
        await store_all(warehouse)
        again = [{**event, "event_id": None} for event in of_user(USER)]
        await store(warehouse, again)
        assert await traces_of(warehouse, USER) == {}
        assert await rows(warehouse) == before
        assert await warehouse.query(ID_KEYS) == keys

    async def test_where_the_run_was_interrupted_at_some_step(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        await store_all(embedded_warehouse)
        await erased(embedded_warehouse)
        expected = await rows(embedded_warehouse)
        for steps in itertools.count(random.randrange(5), 5):  # all of them, in some runs
            await empty(embedded_warehouse)
            await store_all(embedded_warehouse)
            breaking = Breaking(embedded_warehouse, steps)
            try:
                await erased(breaking)
            except WarehouseUnavailable:
                await erased(embedded_warehouse)
                assert await traces_of(embedded_warehouse, USER) == {}
                assert await rows(embedded_warehouse) == expected, steps
            else:
                break
        assert steps > 6

    async def test_while_events_of_theirs_are_being_stored(self, warehouse: Warehouse) -> None:
        stop = asyncio.Event()
        written = 0

        async def write(number: int) -> None:
            nonlocal written
            for count in itertools.count():
                own = bookings(
                    20, driver_id=USER, event_timestamp=f"2026-0{count % 3 + 1}-{number + 10}T12:00:00Z"
                )
                moved = [
                    full("driver.location.updated", event_id=event["event_id"], driver_id=USER)
                    for event in own
                ]
                await store(warehouse, [*own[:10], *moved[10:]])
                written += 1
                if stop.is_set():
                    return

        async with asyncio.TaskGroup() as tasks:
            for number in range(3):
                tasks.create_task(write(number))
            await until(lambda: written >= 5)
            await erased(warehouse)
            assert await traces_of(warehouse, USER) == {}
            seen = written
            await until(lambda: written >= seen + 3)
            stop.set()
        assert await traces_of(warehouse, USER) == {}

    async def test_of_an_insert_that_began_before(self, warehouse: Warehouse) -> None:
        late = asyncio.create_task(warehouse.execute(INSERT_SLOWLY, {"user": USER}))
        while not (await warehouse.query(RUNNING))[0]["n"]:
            assert not late.done()
            await asyncio.sleep(0.01)
        assert await erased(warehouse) == {"dead_letters": 2}
        await late
        assert await traces_of(warehouse, USER) == {}

    async def test_what_came_by_another_way_goes_in_the_night(self, warehouse: Warehouse) -> None:
        await erased(warehouse)
        await warehouse.execute(
            "INSERT INTO driver_locations (event_id, event_timestamp, driver_id)"
            " SELECT generateUUIDv4(), now64(3), {user:UUID}",
            {"user": USER},
        )
        assert await erase_again(warehouse, MemoryCache(), say=said.append) == {
            "event_ids": 1,
            "driver_locations": 1,
            "active_days": 1,
        }
        assert await traces_of(warehouse, USER) == {}
        assert await erase_again(warehouse, MemoryCache(), say=said.append) == {}


class TestLosersStayLost:
    """Of one id with several contents the others do not come to light when the user's goes."""

    async def test_the_ones_that_lost_by_their_time(self, warehouse: Warehouse) -> None:
        await store(warehouse, clashes())
        before = await ids_of(warehouse)
        assert len(before) == 4
        await erased(warehouse)
        left = await ids_of(warehouse)
        assert left == {event["event_id"] for event in clashes() if event["event_id"].endswith("cd")}
        for table in ("events", "driver_locations"):
            await warehouse.execute(f"OPTIMIZE TABLE {table} FINAL")
        await store(warehouse, clashes())
        assert await ids_of(warehouse) == left

    @pytest.mark.parametrize("merged", [True, False])
    async def test_the_ones_that_lost_by_their_content(
        self, embedded_warehouse: EmbeddedWarehouse, *, merged: bool
    ) -> None:
        """Whether or not a merge has dropped them already; and the user's own may have lost as well."""
        for number in range(8):
            await empty(embedded_warehouse)
            pair = [
                full("booking.created", driver_id=driver, total_price=f"{number}.00")
                for driver in (USER, OTHER)
            ]
            for event in pair:
                await store(embedded_warehouse, [event])
            if merged:
                await embedded_warehouse.execute("OPTIMIZE TABLE events FINAL")
            (row,) = (await rows(embedded_warehouse))[0]
            await erased(embedded_warehouse)
            assert await traces_of(embedded_warehouse, USER) == {}
            left = (await rows(embedded_warehouse))[0]
            assert left == ([] if row["driver_id"] == USER else [row])

    async def test_the_ones_whose_clash_was_not_settled_yet(self, warehouse: Warehouse) -> None:
        unsettled = Unsettled(warehouse)
        await store(unsettled, clashes())
        assert len((await rows(warehouse))[0]) == 4
        await erased(warehouse)
        assert await ids_of(warehouse) == {
            event["event_id"] for event in clashes() if event["event_id"].endswith("cd")
        }

    async def test_settling_makes_no_tombstone_that_names_an_erased_user(self, warehouse: Warehouse) -> None:
        await store(Unsettled(warehouse), clashes())
        await warehouse.execute("INSERT INTO erased_users SELECT {user:UUID}, now64(3)", {"user": USER})
        await settle_all_clashes(warehouse)
        buried = await warehouse.query(
            "SELECT toString(driver_id) AS driver FROM driver_locations WHERE is_deleted = 1"
        )
        assert buried == [{"driver": OTHER}]


class TestDeadLetters:
    async def test_of_an_erased_user_none_is_kept_and_all_others_are(self, warehouse: Warehouse) -> None:
        await erased(warehouse)
        letters = [
            letter(1, record=b'{"rider_id": "' + USER.upper().encode() + b'"}'),
            letter(2, key=b"rider:" + USER.encode()),
            letter(3, record=OTHER.encode(), key=b"\xff\x00"),
            letter(4),
        ]
        await store_dead_letters(warehouse, letters)
        kept = await warehouse.query(LETTER_IDS)
        assert [row["id"] for row in kept] == sorted(each.dead_letter_id for each in letters[2:])


class TestCaches:
    async def test_an_erasure_forgets_all_answers_and_a_quiet_night_none(
        self, embedded_warehouse: EmbeddedWarehouse
    ) -> None:
        cache = MemoryCache()
        await cache.put("question", b"answer", 60)
        await erase_again(embedded_warehouse, cache, say=said.append)
        assert (await cache.get("question"))[0] == b"answer"
        await erased(embedded_warehouse, cache)
        assert (await cache.get("question"))[0] is None

    async def test_a_cache_that_is_away_is_told_and_tried_again(
        self, embedded_warehouse: EmbeddedWarehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("openride_analytics.erasure._CACHE_PAUSE_SECONDS", 0.01)
        cache = Away(failures=2)
        await store(embedded_warehouse, of_user(USER))
        await erased(embedded_warehouse, cache)
        assert cache.failures == 0
        with pytest.raises(CacheAway):
            await erased(embedded_warehouse, Away(failures=100))


class TestChanges:
    async def test_a_mutation_is_done_when_it_returns(self, warehouse: Warehouse) -> None:
        await store(warehouse, bookings(50))
        for number in range(5):
            other = {"old": number, "new": number + 1}
            await mutate(
                warehouse,
                "events",
                "UPDATE stops_count = {new:UInt32} WHERE stops_count = {old:UInt32}",
                other,
                say=said.append,
            )
            found = await warehouse.query("SELECT DISTINCT stops_count AS n FROM events")
            assert found == [{"n": number + 1}]

    async def test_inserts_on_their_way_are_waited_for_and_later_ones_are_not(
        self, warehouse: Warehouse
    ) -> None:
        early = asyncio.create_task(warehouse.execute(INSERT_SLOWLY, {"user": USER}))
        while not (await warehouse.query(RUNNING))[0]["n"]:
            assert not early.done()
            await asyncio.sleep(0.01)
        await inserts_ended(warehouse, say=said.append)
        assert (await warehouse.query("SELECT count() AS n FROM dead_letters"))[0]["n"] == 2
        await early


class Away(MemoryCache):
    """A cache that cannot be emptied at first."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def forget_all(self) -> bool:
        if self.failures:
            self.failures -= 1
            return False
        return await super().forget_all()


class Through:
    """A warehouse, handed on to; others change some of it."""

    def __init__(self, inner: Warehouse) -> None:
        self._inner = inner
        self.stream = inner.stream
        self.query_hosts = inner.query_hosts
        self.stored_in = inner.stored_in

    async def query(self, sql: str, parameters: Parameters | None = None) -> list[Row]:
        return await self._inner.query(sql, parameters)

    async def execute(
        self, statement: str, parameters: Parameters | None = None, *, timeout_seconds: float | None = None
    ) -> None:
        await self._inner.execute(statement, parameters, timeout_seconds=timeout_seconds)

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        await self._inner.insert(table, columns, rows)

    async def create_database(self) -> None:
        await self._inner.create_database()

    async def close(self) -> None:
        await self._inner.close()


class Breaking(Through):
    """One that carries out so many statements and is away then."""

    def __init__(self, inner: Warehouse, statements: int) -> None:
        super().__init__(inner)
        self._left = statements

    async def execute(
        self, statement: str, parameters: Parameters | None = None, *, timeout_seconds: float | None = None
    ) -> None:
        if not self._left:
            raise WarehouseUnavailable("away")
        self._left -= 1
        await super().execute(statement, parameters, timeout_seconds=timeout_seconds)


class Unsettled(Through):
    """One that settles nothing, as if the process died after each insert."""

    async def execute(
        self, statement: str, parameters: Parameters | None = None, *, timeout_seconds: float | None = None
    ) -> None:
        assert any(
            word in statement for word in ("is_deleted", "INTO buried", "INTO facts", "INTO doubtful_hours")
        )
