"""How long events stay: the tables' TTL follows the configuration, and totals never lose what they rest on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import pytest_asyncio

from openride_analytics.config import Retention
from openride_analytics.contract import LOCATION_EVENT
from openride_analytics.events import Acceptance, BadEvent, Events, decode
from openride_analytics.ingest.dead_letters import DeadLetter, store_dead_letters
from openride_analytics.ingest.pipeline import store_events
from openride_analytics.warehouse import Warehouse
from openride_analytics.warehouse.retention import apply
from openride_analytics.warehouse.server import ServerWarehouse
from tests.samples import Sample, full
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.process import lent
from tests.stores import TABLES, create_tables

KEPT = (
    *("events", "driver_locations", "event_ids", "dead_letters", "dead_letter_replays"),
    *("histories", "buried", "facts", "active_days", "doubtful_hours"),
)
FOR_EVER = Retention(hot_days=0, cold_days=0)
ENDS = """
SELECT name, extract(create_table_query, ' TTL (.*) SETTINGS') AS ends
FROM system.tables
WHERE database = currentDatabase() AND has({names:Array(String)}, name)
"""
LASTING_TYPES = ["route.activated", "route.created", "user.kyc_verified", "user.registered"]
TYPES = [*LASTING_TYPES, "booking.created", "payment.success", "trip.completed", LOCATION_EVENT]


@pytest.fixture(params=["embedded", "server"])
def engine(request: pytest.FixtureRequest) -> Warehouse:
    found: Warehouse = request.getfixturevalue(f"{request.param}_warehouse")
    return found


@pytest_asyncio.fixture
async def warehouse(engine: Warehouse) -> AsyncIterator[Warehouse]:
    """Either engine, with tables that keep everything, before and after."""
    yield engine
    await apply(engine, FOR_EVER)


async def ends(warehouse: Warehouse) -> dict[str, str]:
    """What the engine says about the end of each table's rows."""
    rows = await warehouse.query(ENDS, {"names": list(TABLES)})
    return {row["name"]: row["ends"] for row in rows}


async def definitions(warehouse: Warehouse) -> dict[str, str]:
    sql = "SELECT name, create_table_query AS text FROM system.tables WHERE database = currentDatabase()"
    return {row["name"]: row["text"] for row in await warehouse.query(sql)}


async def store_of_age(warehouse: Warehouse, days: int) -> None:
    """Stores an event of each type that happened so many days ago, and a dead letter of that age."""
    now = datetime.now(UTC)
    then = now - timedelta(days=days)
    acceptance = Acceptance.at(now, currency="NGN", keep_days=0)
    samples: list[Sample] = [
        full(
            event_type,
            event_id=f"{days:08}-0000-4000-8000-{number:012}",
            event_timestamp=then.isoformat(),
        )
        for number, event_type in enumerate(TYPES)
    ]
    events = [decode(msgspec.json.encode(sample), acceptance) for sample in samples]
    await store_events(warehouse, [(Events.of(events), 0)])
    letter = DeadLetter.of(
        b"%d" % days,
        BadEvent("invalid_json", "It is a number."),
        rejected_ms=int(then.timestamp() * 1000),
    )
    await store_dead_letters(warehouse, [letter])


async def merge(warehouse: Warehouse) -> None:
    for table in KEPT:
        await warehouse.execute(f"OPTIMIZE TABLE {table} FINAL")


async def types_stored(warehouse: Warehouse, table: str) -> list[str]:
    rows = await warehouse.query(f"SELECT event_type AS type FROM {table} FINAL ORDER BY type")
    return [row["type"] for row in rows]


async def count(warehouse: Warehouse, table: str) -> int:
    rows = await warehouse.query(f"SELECT count() AS n FROM {table} FINAL")
    return int(rows[0]["n"])


class TestConfigured:
    async def test_nothing_ends_by_itself_before_it_is_applied(self, warehouse: Warehouse) -> None:
        assert {name for name, end in (await ends(warehouse)).items() if end} == {"ingest_log"}

    async def test_it_is_set_changed_and_removed_and_each_is_done_once(self, warehouse: Warehouse) -> None:
        original = await definitions(warehouse)
        for days in (730, 400):
            retention = Retention(hot_days=90, cold_days=days)
            assert sorted(await apply(warehouse, retention)) == sorted(KEPT)
            found = await ends(warehouse)
            assert all(f"+ toIntervalDay({days})" in found[table] for table in KEPT)
            before = await definitions(warehouse)
            assert await apply(warehouse, retention) == []
            assert await definitions(warehouse) == before
        assert sorted(await apply(warehouse, FOR_EVER)) == sorted(KEPT)
        assert await definitions(warehouse) == original
        assert await apply(warehouse, FOR_EVER) == []

    async def test_without_a_cold_volume_hot_days_change_nothing(self, warehouse: Warehouse) -> None:
        await apply(warehouse, Retention(hot_days=90, cold_days=730))
        assert await apply(warehouse, Retention(hot_days=30, cold_days=730)) == []
        assert not any("VOLUME" in end for end in (await ends(warehouse)).values())


class TestEnd:
    async def test_what_is_too_old_is_gone_but_users_and_routes_stay(self, warehouse: Warehouse) -> None:
        await store_of_age(warehouse, 740)
        await store_of_age(warehouse, 720)
        await apply(warehouse, Retention(hot_days=90, cold_days=730))
        await merge(warehouse)
        young = [event_type for event_type in TYPES if event_type != LOCATION_EVENT]
        assert await types_stored(warehouse, "events") == sorted([*young, *LASTING_TYPES])
        assert await types_stored(warehouse, "event_ids") == sorted([*TYPES, *LASTING_TYPES])
        assert await count(warehouse, "driver_locations") == 1
        assert await count(warehouse, "dead_letters") == 1

    async def test_what_comes_late_and_is_too_old_goes_as_well(self, warehouse: Warehouse) -> None:
        await apply(warehouse, Retention(hot_days=90, cold_days=730))
        await store_of_age(warehouse, 740)
        await merge(warehouse)
        assert await types_stored(warehouse, "events") == LASTING_TYPES
        assert await count(warehouse, "driver_locations") == 0

    async def test_kept_for_ever_nothing_is_ever_gone(self, warehouse: Warehouse) -> None:
        await apply(warehouse, FOR_EVER)
        await store_of_age(warehouse, 4000)
        await merge(warehouse)
        assert len(await types_stored(warehouse, "events")) == len(TYPES) - 1
        assert await count(warehouse, "driver_locations") == 1
        assert await count(warehouse, "dead_letters") == 1


class TieredServer(ClickHouseServer):
    """A server with a second disk, and with policies for tables that use it. The first cannot take tables of `default`."""

    configuration = """
<clickhouse>
    <storage_configuration>
        <disks>
            <slow><type>local</type><path>{slow}/</path></slow>
        </disks>
        <policies>
            <archive>
                <volumes>
                    <cold><disk>slow</disk></cold>
                </volumes>
            </archive>
            <tiered>
                <volumes>
                    <default><disk>default</disk></default>
                    <cold><disk>slow</disk></cold>
                </volumes>
            </tiered>
        </policies>
    </storage_configuration>
</clickhouse>
"""

    def command(self) -> list[str]:
        slow = self.folder / "slow"
        slow.mkdir(exist_ok=True)
        (self.folder / "config.xml").write_text(self.configuration.format(slow=slow), encoding="utf-8")
        # The engine looks for its configuration where it is started.
        return ["env", "-C", str(self.folder), *super().command()]


@pytest.fixture
def tiered(clickhouse: ClickHouseServer) -> Iterator[TieredServer]:
    """A server with a volume named `cold`."""
    with lent(TieredServer()) as server:
        yield server


async def test_events_move_to_a_cold_volume_where_there_is_one(tiered: TieredServer) -> None:
    warehouse = ServerWarehouse(tiered.url, query_timeout_seconds=30, insert_timeout_seconds=30)
    await create_tables(warehouse)
    await store_of_age(warehouse, 100)
    retention = Retention(hot_days=90, cold_days=730)
    assert sorted(await apply(warehouse, retention)) == sorted(KEPT)
    assert await apply(warehouse, retention) == []
    moved = {name for name, end in (await ends(warehouse)).items() if "TO VOLUME 'cold'" in end}
    assert moved == {"events", "driver_locations", "histories", "facts"}

    await store_of_age(warehouse, 110)
    await store_of_age(warehouse, 1)
    async with asyncio.timeout(30):
        while await _disks(warehouse) != {"default": [1], "slow": [100, 110]}:  # noqa: ASYNC110  # it moves when it likes
            await asyncio.sleep(0.1)
    assert len(await types_stored(warehouse, "events")) == 3 * (len(TYPES) - 1)

    assert sorted(await apply(warehouse, Retention(hot_days=0, cold_days=730))) == sorted(moved)
    assert not any("VOLUME" in end for end in (await ends(warehouse)).values())
    await warehouse.close()


async def _disks(warehouse: Warehouse) -> dict[str, list[int]]:
    """The disks with events, and their ages in days."""
    rows = await warehouse.query(
        "SELECT disk_name, arraySort(groupUniqArray(age('day', event_timestamp, now64(3, 'UTC')))) AS days"
        " FROM events INNER JOIN (SELECT name AS _part, disk_name FROM system.parts WHERE active"
        " AND table = 'events' AND database = currentDatabase()) AS parts USING (_part) GROUP BY disk_name"
    )
    return {row["disk_name"]: row["days"] for row in rows}
