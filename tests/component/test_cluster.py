"""Two shards that are one warehouse: laid out by the migrations, found out about, erased and rebuilt as a whole."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from openride_analytics import postgres
from openride_analytics.cache import MemoryCache
from openride_analytics.checks import check_servers
from openride_analytics.config import ClickHouse, Config, ConfigError, Retention
from openride_analytics.erasure import erase
from openride_analytics.ingest.clashes import settle_all_clashes
from openride_analytics.migrations import load, migrate, pending
from openride_analytics.warehouse import WarehouseUnavailable, changes, retention
from openride_analytics.warehouse.changes import inserts_ended
from openride_analytics.warehouse.facts import derive_missing
from openride_analytics.warehouse.server import ServerWarehouse
from tests.component import test_erasure, test_rebuild
from tests.component.test_clashes import expected_keys
from tests.component.test_erasure import INSERT_SLOWLY, RUNNING, USER
from tests.component.test_pipeline import bookings
from tests.samples import Sample, full
from tests.servers.clickhouse_cluster import CLUSTER, PAIR, TABLES, ClickHouseCluster
from tests.stores import create_tables, store
from tests.traces import traces_of

pytestmark = pytest.mark.shards

ALL = [f"{store}/{migration.name}" for store in ("postgres", "clickhouse") for migration in load(store)]
IN_DATABASES = """
SELECT database = {stored_in:String} AS holds_rows, name, engine
FROM system.tables
WHERE database IN {databases:Array(String)}
"""
# Of every table, on each host in both databases.
COLUMNS = """
SELECT table AS name, groupArray((name, type)) AS types
FROM
(
    SELECT hostName() AS host, tcpPort() AS port, database, table, name, type
    FROM system.columns
    ORDER BY name
)
WHERE database IN {databases:Array(String)} AND table = 'event_ids'
GROUP BY host, port, database, table
"""
SHARDS_OF = """
SELECT shardNum() AS shard, toString(event_id) AS id
FROM {table}
ORDER BY id
"""


def connected(
    servers: ClickHouseCluster,
    database: str,
    *,
    shard: int = 0,
    cluster: str = CLUSTER,
    replicated: bool = False,
) -> ServerWarehouse:
    """The warehouse as an instance has it that is connected to one of the hosts."""
    return ServerWarehouse(
        servers.url(database, shard),
        cluster=cluster,
        replicated=replicated,
        query_timeout_seconds=30,
        insert_timeout_seconds=30,
    )


@contextlib.asynccontextmanager
async def on_host(servers: ClickHouseCluster, database: str, shard: int) -> AsyncIterator[ServerWarehouse]:
    """One host alone."""
    warehouse = ServerWarehouse(
        servers.url(database, shard), query_timeout_seconds=30, insert_timeout_seconds=30
    )
    yield warehouse
    await warehouse.close()


@pytest_asyncio.fixture
async def other(
    clickhouse_cluster: ClickHouseCluster, cluster_warehouse: ServerWarehouse
) -> AsyncIterator[ServerWarehouse]:
    """The same warehouse by way of the other host."""
    warehouse = connected(clickhouse_cluster, TABLES, shard=1)
    yield warehouse
    await warehouse.close()


@pytest_asyncio.fixture
async def pool(postgres_url: str) -> "AsyncIterator[asyncpg.Pool[asyncpg.Record]]":
    """An empty database of PostgreSQL."""
    pool = await postgres.connect(postgres_url)
    yield pool
    await postgres.close(pool)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few dozen ids are several parts too."""
    monkeypatch.setattr(changes, "IDS_AT_ONCE", 20)


class TestMigrations:
    async def test_each_host_has_all_tables_whoever_applies_the_migrations(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        clickhouse_cluster: ClickHouseCluster,
        cluster_database: str,
    ) -> None:
        first, second = (connected(clickhouse_cluster, cluster_database, shard=shard) for shard in (0, 1))
        assert await migrate(pool, first) == ALL
        assert await pending(pool, second) == []
        assert await migrate(pool, second) == []

        names = [cluster_database, f"{cluster_database}_shard"]
        tables = await first.query_hosts(IN_DATABASES, {"databases": names})
        engines = {(row["name"], row["engine"]) for row in tables if row["holds_rows"]}
        views = {(name, engine) for name, engine in engines if engine == "MaterializedView"}
        assert {name for name, _ in views} == {
            "events_to_event_ids",
            "events_to_histories",
            "events_to_active_days",
            "driver_locations_to_event_ids",
            "driver_locations_to_active_days",
        }
        kinds = engines - views
        assert ("events", "ReplacingMergeTree") in kinds
        assert ("ingest_log", "MergeTree") in kinds
        assert {engine for _, engine in kinds} == {"ReplacingMergeTree", "AggregatingMergeTree", "MergeTree"}
        whole = {(row["name"], row["engine"]) for row in tables if not row["holds_rows"]}
        assert {name for name, engine in whole if engine == "Distributed"} == {name for name, _ in kinds}
        assert {engine for _, engine in whole} == {"Distributed", "Null", "MaterializedView"}
        assert len(tables) == 2 * (len(kinds) + len(views) + len(whole))
        await first.close()
        await second.close()

    async def test_a_host_that_has_lost_its_tables_gets_them_again(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        clickhouse_cluster: ClickHouseCluster,
        cluster_database: str,
    ) -> None:
        warehouse = connected(clickhouse_cluster, cluster_database)
        await migrate(pool, warehouse)
        async with on_host(clickhouse_cluster, f"{cluster_database}_shard", 1) as host:
            for name in (cluster_database, f"{cluster_database}_shard"):
                await host.execute(f"DROP DATABASE {name} SYNC")
        assert set(await migrate(pool, warehouse)) == {name for name in ALL if "clickhouse" in name}
        assert await migrate(pool, warehouse) == []
        columns = await warehouse.query_hosts(COLUMNS, {"databases": [cluster_database, warehouse.stored_in]})
        assert len({(row["name"], *row["types"]) for row in columns}) == len(columns) / 4
        await store(warehouse, bookings(50))
        assert len(await warehouse.query("SELECT * FROM events FINAL")) == 50
        await warehouse.close()

    async def test_another_number_of_shards_stops_the_start(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        clickhouse_cluster: ClickHouseCluster,
        cluster_database: str,
    ) -> None:
        """Rows stored before would not be found by what comes again: it would count twice."""
        warehouse = connected(clickhouse_cluster, cluster_database)
        await warehouse.create_database()
        for shard in (0, 1):
            async with on_host(clickhouse_cluster, f"{cluster_database}_shard", shard) as host:
                await host.execute(
                    f"ALTER DATABASE {cluster_database}_shard MODIFY COMMENT '3 shards'",
                )
        with pytest.raises(ConfigError, match=r"has 2 shards now"):
            await migrate(pool, warehouse)
        await warehouse.close()

    async def test_check_config_says_how_large_the_cluster_is(
        self, clickhouse_cluster: ClickHouseCluster, cluster_database: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, said in ((CLUSTER, "cluster rides of 2 shards on 2 hosts"), ("nowhere", "no cluster")):
            settings = ClickHouse(url=clickhouse_cluster.url(cluster_database), cluster=name)
            await check_servers(Config(clickhouse=settings))
            assert said in capsys.readouterr().err

    async def test_a_cluster_that_the_server_does_not_know_stops_the_start(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        clickhouse_cluster: ClickHouseCluster,
        cluster_database: str,
    ) -> None:
        warehouse = connected(clickhouse_cluster, cluster_database, cluster="elsewhere")
        with pytest.raises(ConfigError, match="elsewhere"):
            await migrate(pool, warehouse)
        await warehouse.close()


class TestReplicas:
    async def test_an_instance_starts_and_works_while_one_of_a_shards_hosts_is_away(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        clickhouse_cluster: ClickHouseCluster,
        cluster_database: str,
    ) -> None:
        """The hosts share no rows here, so it also shows that all goes to the first that is there."""
        limits = Retention()
        layer = connected(clickhouse_cluster, cluster_database, cluster=PAIR)
        assert await migrate(pool, layer) == ALL
        await retention.apply(layer, limits)
        await layer.close()

        clickhouse_cluster.servers[1].kill()
        warehouse = connected(clickhouse_cluster, cluster_database, cluster=PAIR, replicated=True)
        assert await migrate(pool, warehouse) == []
        assert await retention.apply(warehouse, limits) == []
        await store(warehouse, bookings(50))
        assert len(await warehouse.query("SELECT * FROM events FINAL")) == 50

        await asyncio.to_thread(clickhouse_cluster.ensure_running)
        await store(warehouse, bookings(60))
        other = connected(clickhouse_cluster, cluster_database, shard=1, cluster=PAIR, replicated=True)
        assert len(await other.query("SELECT * FROM events FINAL")) == 60
        await store(other, bookings(70))
        assert len(await warehouse.query("SELECT * FROM events FINAL")) == 70
        for each in (warehouse, other):
            await each.close()


class TestRows:
    async def test_all_of_one_id_lie_on_one_shard_and_both_shards_have_some(
        self, cluster_warehouse: ServerWarehouse, other: ServerWarehouse
    ) -> None:
        """Whichever host they came by."""
        events = bookings(100)
        moved = [
            full(
                "driver.location.updated", event_id=event["event_id"], event_timestamp="2026-04-01T00:00:00Z"
            )
            for event in events
        ]
        await store(cluster_warehouse, events)
        await store(other, moved)
        shards: dict[str, set[int]] = {}
        for table in ("events", "driver_locations", "event_ids", "histories", "facts"):
            rows = await other.query(SHARDS_OF.replace("{table}", table))
            assert {row["shard"] for row in rows} == {1, 2}, table
            for row in rows:
                shards.setdefault(row["id"], set()).add(row["shard"])
        assert all(len(found) == 1 for found in shards.values())
        assert len(shards) == 100
        assert await cluster_warehouse.query("SELECT * FROM driver_locations FINAL") == []  # they came later

    async def test_what_is_stored_is_there_by_either_host_at_once(
        self, cluster_warehouse: ServerWarehouse, other: ServerWarehouse
    ) -> None:
        for number in range(3):
            await store(cluster_warehouse, bookings(20 * (number + 1)))
            assert len(await other.query("SELECT * FROM events FINAL")) == 20 * (number + 1)

    async def test_a_view_of_stored_rows_sees_those_of_its_shard_and_puts_what_it_makes_where_it_belongs(
        self, cluster_warehouse: ServerWarehouse
    ) -> None:
        """As roll-ups may be made."""
        for statement in (TYPES, TYPES_VIEW):
            await cluster_warehouse.execute(statement)
        await store(cluster_warehouse, bookings(100))
        assert await cluster_warehouse.query("SELECT event_type, ids FROM types FINAL") == [
            {"event_type": "booking.created", "ids": 100}
        ]
        assert len(await cluster_warehouse.query("SELECT DISTINCT shardNum() AS shard FROM types")) == 1

        await cluster_warehouse.execute("ALTER TABLE types ADD COLUMN IF NOT EXISTS more UInt8 DEFAULT 7")
        assert await cluster_warehouse.query("SELECT more FROM types FINAL") == [{"more": 7}]
        await cluster_warehouse.execute("DROP VIEW events_to_types SYNC")
        await cluster_warehouse.execute("TRUNCATE TABLE types")
        await store(cluster_warehouse, bookings(120))
        assert await cluster_warehouse.query("SELECT * FROM types") == []
        await cluster_warehouse.execute("DROP TABLE types SYNC")

    async def test_a_summary_of_all_shards_is_made_and_stored_once(
        self, cluster_warehouse: ServerWarehouse
    ) -> None:
        """INSERT … SELECT groups over all shards, not on each."""
        await cluster_warehouse.execute(TYPES)
        await store(cluster_warehouse, bookings(100))
        await cluster_warehouse.execute(
            "INSERT INTO types SELECT event_type, count() FROM events FINAL GROUP BY event_type"
        )
        assert await cluster_warehouse.query("SELECT ids FROM types") == [{"ids": 100}]
        await cluster_warehouse.execute("DROP TABLE types SYNC")


# How often a type was stored, by the views of each shard.
TYPES = """
CREATE TABLE IF NOT EXISTS types
(
    event_type  LowCardinality(String),
    ids         SimpleAggregateFunction(sum, UInt64)
)
ENGINE = AggregatingMergeTree
ORDER BY event_type;
"""
TYPES_VIEW = """
CREATE MATERIALIZED VIEW IF NOT EXISTS events_to_types TO types AS
SELECT event_type, count() AS ids
FROM events
WHERE rider_id NOT IN (SELECT user_id FROM erased_users)
GROUP BY event_type
"""


class TestMoving:
    """By what docs/scaling.md says: from one server, or from another number of shards."""

    async def test_what_another_database_holds_is_taken_over_and_counts_once(
        self, clickhouse_cluster: ClickHouseCluster, cluster_database: str, cluster_warehouse: ServerWarehouse
    ) -> None:
        rivals = test_rebuild.rivals()
        async with on_host(clickhouse_cluster, cluster_database, 0) as before:
            await create_tables(before)
            await store(before, [*rivals[:20], *bookings(100)], batches=2)
            await store(cluster_warehouse, rivals[20:])
            for _ in range(2):  # it may be repeated
                for table in COPIED:
                    await cluster_warehouse.execute(
                        f"INSERT INTO {table} SELECT * FROM {cluster_database}.{table}"
                    )
            await settle_all_clashes(cluster_warehouse)
        assert await test_rebuild.keys(cluster_warehouse) == expected_keys([*rivals, *bookings(100)])
        await store(cluster_warehouse, [*bookings(100), *rivals])
        assert await test_rebuild.keys(cluster_warehouse) == expected_keys([*rivals, *bookings(100)])


COPIED = (
    "erased_users",
    *("events", "driver_locations", "event_ids", "buried"),
    *("dead_letters", "dead_letter_replays"),
)


class TestAShardThatIsNotAsItShould:
    """Of a batch the part for another shard gets through: the rest must not be taken for what cannot be stored."""

    async def test_events_for_one_without_its_tables_are_kept_back(
        self, clickhouse_cluster: ClickHouseCluster, cluster_warehouse: ServerWarehouse
    ) -> None:
        async with on_host(clickhouse_cluster, f"{TABLES}_shard", 1) as host:
            await host.execute("RENAME TABLE events TO away")
            try:
                with pytest.raises(WarehouseUnavailable):
                    await store(cluster_warehouse, bookings(30))
            finally:
                await host.execute("RENAME TABLE away TO events")
        await store(cluster_warehouse, bookings(30))
        assert len(await cluster_warehouse.query("SELECT * FROM events FINAL")) == 30

    async def test_events_for_one_that_is_away_are_kept_back_and_questions_are_not_answered_by_half(
        self, clickhouse_cluster: ClickHouseCluster, cluster_warehouse: ServerWarehouse
    ) -> None:
        await store(cluster_warehouse, bookings(30))
        clickhouse_cluster.servers[1].kill()
        with pytest.raises(WarehouseUnavailable):
            await store(cluster_warehouse, bookings(60))
        with pytest.raises(WarehouseUnavailable):
            await cluster_warehouse.query("SELECT count() AS n FROM events FINAL")
        await asyncio.to_thread(clickhouse_cluster.ensure_running)
        await store(cluster_warehouse, bookings(60))
        assert len(await cluster_warehouse.query("SELECT * FROM events FINAL")) == 60


class TestRetention:
    async def test_it_is_applied_on_all_hosts(
        self, cluster_warehouse: ServerWarehouse, other: ServerWarehouse
    ) -> None:
        limits = Retention(hot_days=0, cold_days=700)
        assert "events" in await retention.apply(cluster_warehouse, limits)
        assert await retention.apply(other, limits) == []
        found = await other.query_hosts(
            "SELECT create_table_query AS text FROM system.tables WHERE database = {stored_in:String} AND name = 'events'"
        )
        assert ["toIntervalDay(700)" in row["text"] for row in found] == [True, True]
        assert "events" in await retention.apply(other, Retention(hot_days=0, cold_days=0))


class TestErasing:
    async def test_nothing_is_left_of_a_user_on_any_shard_also_when_all_of_it_comes_again(
        self, cluster_warehouse: ServerWarehouse, other: ServerWarehouse
    ) -> None:
        tests = test_erasure.TestNothingIsLeft()
        await tests.test_of_a_user_in_any_column_of_any_table_and_others_stay_as_they_were(cluster_warehouse)
        await store(other, test_erasure.of_user(USER))
        assert await traces_of(other, USER) == {}

    async def test_losers_stay_lost(self, cluster_warehouse: ServerWarehouse) -> None:
        await test_erasure.TestLosersStayLost().test_the_ones_whose_clash_was_not_settled_yet(
            cluster_warehouse
        )

    async def test_an_insert_that_came_by_another_host_is_waited_for(
        self, cluster_warehouse: ServerWarehouse, other: ServerWarehouse
    ) -> None:
        early = asyncio.create_task(other.execute(INSERT_SLOWLY, {"user": USER}))
        while not (await other.query(RUNNING))[0]["n"]:
            assert not early.done()
            await asyncio.sleep(0.01)
        await inserts_ended(cluster_warehouse, say=print)
        assert (await cluster_warehouse.query("SELECT count() AS n FROM dead_letters"))[0]["n"] == 2
        await early

    async def test_facts_of_others_say_no_more_what_the_users_events_said_of_their_bookings(
        self, cluster_warehouse: ServerWarehouse
    ) -> None:
        """Wherever the user's events lay."""
        events = lives(20)
        theirs = [event for event in events if event["event_type"] == "booking.confirmed"]
        for event in theirs:
            event["driver_id"] = USER
        await store(cluster_warehouse, events)
        assert {row["is_confirmed"] for row in await cluster_warehouse.query(CONFIRMED)} == {1}
        await erase(cluster_warehouse, MemoryCache(), UUID(USER), say=print)
        assert await traces_of(cluster_warehouse, USER) == {}
        left = await cluster_warehouse.query(CONFIRMED)
        assert [row["is_confirmed"] for row in left] == [0] * (len(events) - len(theirs))


class TestFacts:
    async def test_each_knows_of_events_of_its_booking_on_other_shards(
        self, cluster_warehouse: ServerWarehouse, other: ServerWarehouse
    ) -> None:
        events = lives(30)
        await store(cluster_warehouse, events[::2])
        await store(other, events[1::2])
        facts = await cluster_warehouse.query(FACTS)
        assert len(facts) == 90
        assert all(row["is_completed"] and row["is_alone"] and row["confirmed_ms"] for row in facts)

        await cluster_warehouse.execute("TRUNCATE TABLE facts")
        assert await derive_missing(other) == 30
        assert await cluster_warehouse.query(FACTS) == facts
        assert await derive_missing(cluster_warehouse) == 0

    async def test_a_rebuild_brings_back_what_is_lost_and_takes_away_what_is_too_much(
        self, cluster_warehouse: ServerWarehouse
    ) -> None:
        await store(cluster_warehouse, lives(30))
        facts, histories = await cluster_warehouse.query(FACTS), await cluster_warehouse.query(HISTORIES)
        for statement in (LOSE_HISTORIES, LOSE_FACTS, STRAY_HISTORIES, STRAY_FACTS):
            await cluster_warehouse.execute(statement)
        assert await cluster_warehouse.query(FACTS) != facts
        assert await cluster_warehouse.query(HISTORIES) != histories
        await test_rebuild.rebuilt(cluster_warehouse)
        assert await cluster_warehouse.query(FACTS) == facts
        assert await cluster_warehouse.query(HISTORIES) == histories


def lives(number: int) -> list[Sample]:
    """Bookings that were made, confirmed and completed."""
    return [
        full(
            event_type,
            event_id=f"e{step}000000-0000-4000-8000-{place:012}",
            event_timestamp=f"2026-03-{place % 3 + 1:02}T1{step}:00:00Z",
            booking_id=f"b0000000-0000-4000-8000-{place:012}",
        )
        for place in range(number)
        for step, event_type in enumerate(("booking.created", "booking.confirmed", "booking.completed"))
    ]


CONFIRMED = "SELECT toInt64(isNotNull(confirmed_ms)) AS is_confirmed FROM facts FINAL"
FACTS = "SELECT * FROM facts FINAL ORDER BY event_type, event_timestamp, event_id"
HISTORIES = "SELECT * FROM histories FINAL ORDER BY event_type, event_timestamp, event_id, thing_id"
LOSE_HISTORIES = "ALTER TABLE histories DELETE WHERE sipHash64(event_id) % 3 = 0 SETTINGS mutations_sync = 1"
LOSE_FACTS = "ALTER TABLE facts DELETE WHERE sipHash64(event_id) % 3 < 2 SETTINGS mutations_sync = 1"
# Of no event.
STRAY_HISTORIES = """
INSERT INTO histories
SELECT * REPLACE (event_timestamp - toIntervalHour(1) AS event_timestamp)
FROM histories
"""
STRAY_FACTS = """
INSERT INTO facts
SELECT * REPLACE (event_timestamp - toIntervalHour(2) AS event_timestamp)
FROM facts
"""


class TestRebuilding:
    async def test_clashes_are_settled_although_all_that_is_known_of_ids_was_lost(
        self, cluster_warehouse: ServerWarehouse
    ) -> None:
        await store(cluster_warehouse, test_rebuild.rivals())
        # Ids that were never stored, too, on both shards.
        for statement in (*test_rebuild.DAMAGE["ids gone"], *test_rebuild.TOMBSTONES_LOST, STRAY_IDS):
            await cluster_warehouse.execute(statement)
        assert await test_rebuild.keys(cluster_warehouse) != expected_keys(test_rebuild.rivals())
        await test_rebuild.rebuilt(cluster_warehouse)
        assert await test_rebuild.keys(cluster_warehouse) == expected_keys(test_rebuild.rivals())
        assert await cluster_warehouse.query(OF_NOTHING) == [{"ids": 0}]


STRAY_IDS = """
INSERT INTO event_ids (event_id, event_type, event_timestamp)
SELECT reinterpret(sipHash128(number), 'UUID'), 'booking.created', now64(3)
FROM numbers(20)
"""
OF_NOTHING = """
SELECT count() AS ids
FROM event_ids
WHERE event_id NOT IN (SELECT event_id FROM events)
  AND event_id NOT IN (SELECT event_id FROM driver_locations)
"""
