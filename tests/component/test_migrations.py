"""Migrations: applied once, whoever starts first, and completed after any interruption."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from openride_analytics import migrations, postgres
from openride_analytics.config import ClickHouse, Config, Postgres, Storage
from openride_analytics.migrations import MigrationError, load, migrate, pending
from openride_analytics.service import Service
from openride_analytics.warehouse import (
    Parameters,
    StatementRefused,
    Warehouse,
    WarehouseUnavailable,
    embedded,
)
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from openride_analytics.warehouse.server import ServerWarehouse
from tests.servers.clickhouse import ClickHouseServer

ALL = [f"{store}/{migration.name}" for store in ("postgres", "clickhouse") for migration in load(store)]
RECORDED = "SELECT version, name, checksum FROM schema_migrations ORDER BY version"
TABLES = """
SELECT
    name, engine, partition_key, sorting_key, primary_key,
    extract(create_table_query, 'TTL .*') AS ends,
    replaceAll(as_select, concat(currentDatabase(), '.'), '') AS selects
FROM system.tables
WHERE database = currentDatabase()
ORDER BY name
"""
COLUMNS = """
SELECT table, name, type, position, default_kind, default_expression
FROM system.columns
WHERE database = currentDatabase()
ORDER BY table, position
"""
INDEXES = """
SELECT table, name, type_full, expr, granularity
FROM system.data_skipping_indices
WHERE database = currentDatabase()
ORDER BY table, name
"""


@pytest_asyncio.fixture
async def pool(postgres_url: str) -> "AsyncIterator[asyncpg.Pool[asyncpg.Record]]":
    """An empty database of PostgreSQL."""
    pool = await postgres.connect(postgres_url)
    yield pool
    await postgres.close(pool)


@pytest_asyncio.fixture
async def warehouse(clickhouse_url: str) -> AsyncIterator[ServerWarehouse]:
    """An empty database of ClickHouse."""
    warehouse = server(clickhouse_url)
    yield warehouse
    await warehouse.close()


@pytest_asyncio.fixture
async def embedded_and_empty(
    embedded_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[EmbeddedWarehouse]:
    """An empty database of the embedded engine."""
    monkeypatch.setattr(embedded, "_DATABASE", "migrated")
    warehouse = EmbeddedWarehouse(embedded_folder, query_timeout_seconds=30, insert_timeout_seconds=60)
    yield warehouse
    await warehouse.execute("DROP DATABASE migrated SYNC")
    await warehouse.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The migrations' own files, to be changed."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrations._folder(), folder)
    monkeypatch.setattr(migrations, "_folder", lambda: folder)
    return folder


def server(url: str) -> ServerWarehouse:
    return ServerWarehouse(url, query_timeout_seconds=30, insert_timeout_seconds=30)


class CutOff(ServerWarehouse):
    """One that is gone after so many statements."""

    def __init__(self, url: str, *, statements: int) -> None:
        super().__init__(url, query_timeout_seconds=30, insert_timeout_seconds=30)
        self._left = statements
        self.recorded = False

    async def execute(
        self, statement: str, parameters: Parameters | None = None, *, timeout_seconds: float | None = None
    ) -> None:
        if not self._left:
            raise WarehouseUnavailable("gone")
        self._left -= 1
        self.recorded |= "INTO schema_migrations" in statement
        await super().execute(statement, parameters, timeout_seconds=timeout_seconds)


async def recorded(
    pool: "asyncpg.Pool[asyncpg.Record]", warehouse: Warehouse
) -> dict[str, list[tuple[int, str, str]]]:
    in_postgres = [dict(row) for row in await pool.fetch(RECORDED)]
    in_clickhouse = await warehouse.query(RECORDED)
    return {
        store: [(row["version"], row["name"], row["checksum"]) for row in rows]
        for store, rows in {"postgres": in_postgres, "clickhouse": in_clickhouse}.items()
    }


def to_be_recorded() -> dict[str, list[tuple[int, str, str]]]:
    return {
        store: [(migration.version, migration.name, migration.checksum) for migration in load(store)]
        for store in ("postgres", "clickhouse")
    }


async def schema(warehouse: Warehouse) -> list[dict[str, object]]:
    return [row for sql in (TABLES, COLUMNS, INDEXES) for row in await warehouse.query(sql)]


async def test_each_is_applied_once_and_recorded(
    pool: "asyncpg.Pool[asyncpg.Record]", warehouse: ServerWarehouse
) -> None:
    assert await migrate(pool, warehouse) == ALL
    assert await recorded(pool, warehouse) == to_be_recorded()
    before = await schema(warehouse)
    assert await migrate(pool, warehouse) == []
    assert await recorded(pool, warehouse) == to_be_recorded()
    assert await schema(warehouse) == before


async def test_of_several_instances_that_start_together_one_applies_them(
    postgres_url: str, clickhouse_url: str
) -> None:
    async def start() -> list[str]:
        pool, warehouse = await postgres.connect(postgres_url), server(clickhouse_url)
        try:
            return await migrate(pool, warehouse)
        finally:
            await warehouse.close()
            await postgres.close(pool)

    applied = await asyncio.gather(*(start() for _ in range(3)))
    assert sorted(applied) == [[], [], ALL]


async def test_a_new_file_is_pending_until_it_is_applied(
    pool: "asyncpg.Pool[asyncpg.Record]", warehouse: ServerWarehouse, folder: Path
) -> None:
    with pytest.raises(asyncpg.UndefinedTableError):
        await pending(pool, warehouse)
    await migrate(pool, warehouse)
    assert await pending(pool, warehouse) == []
    for store in ("postgres", "clickhouse"):
        (folder / store / "9001_more.sql").write_text("SELECT 1;\n", encoding="utf-8")
    assert await pending(pool, warehouse) == ["postgres/9001_more", "clickhouse/9001_more"]
    assert await migrate(pool, warehouse) == ["postgres/9001_more", "clickhouse/9001_more"]
    assert await pending(pool, warehouse) == []


async def test_the_version_before_runs_on_the_tables_of_a_newer_one(
    pool: "asyncpg.Pool[asyncpg.Record]", warehouse: ServerWarehouse, folder: Path
) -> None:
    """An update may be undone."""
    newer = [folder / store / "9001_more.sql" for store in ("postgres", "clickhouse")]
    for file in newer:
        file.write_text("SELECT 1;\n", encoding="utf-8")
    await migrate(pool, warehouse)
    for file in newer:
        file.unlink()
    assert await pending(pool, warehouse) == []
    assert await migrate(pool, warehouse) == []


@pytest.mark.parametrize("store", ["postgres", "clickhouse"])
async def test_a_file_that_was_changed_after_it_was_applied_stops_the_start(
    pool: "asyncpg.Pool[asyncpg.Record]", warehouse: ServerWarehouse, folder: Path, store: str
) -> None:
    await migrate(pool, warehouse)
    before = await recorded(pool, warehouse)
    changed = min((folder / store).iterdir())
    changed.write_text(changed.read_text(encoding="utf-8") + "-- one word more\n", encoding="utf-8")
    (folder / store / "9001_more.sql").write_text("SELECT 1;\n", encoding="utf-8")
    with pytest.raises(MigrationError, match=changed.stem):
        await migrate(pool, warehouse)
    assert await recorded(pool, warehouse) == before


async def test_cut_off_after_any_statement_of_clickhouse_they_are_completed_later(
    pool: "asyncpg.Pool[asyncpg.Record]", clickhouse_url: str, warehouse: ServerWarehouse
) -> None:
    applied: list[str] = []
    times = statements = 0
    while not applied:
        failing = CutOff(clickhouse_url, statements=statements)
        with contextlib.suppress(WarehouseUnavailable):
            applied = await migrate(pool, failing)
        await failing.close()
        times += 1
        # One that is recorded is not run again: the next is cut off after its first statement.
        statements = 0 if failing.recorded else statements + 1
    assert times > sum(len(migration.statements) for migration in load("clickhouse"))
    assert applied[-1] == ALL[-1]  # of ClickHouse's, those before stay recorded when a later one is cut off
    assert await recorded(pool, warehouse) == to_be_recorded()
    assert await migrate(pool, warehouse) == []


async def test_a_migration_that_fails_is_not_recorded_and_is_run_again_when_mended(
    pool: "asyncpg.Pool[asyncpg.Record]", warehouse: ServerWarehouse, folder: Path
) -> None:
    await migrate(pool, warehouse)
    more = folder / "clickhouse" / "9001_more.sql"
    good = "CREATE TABLE IF NOT EXISTS more (n UInt8) ENGINE = Memory;\n"
    more.write_text(f"{good}CREATE TABLE elsewhere ENGINE = Nothing;\n", encoding="utf-8")
    with pytest.raises(StatementRefused):
        await migrate(pool, warehouse)
    assert await pending(pool, warehouse) == ["clickhouse/9001_more"]

    more.write_text(good, encoding="utf-8")
    assert await migrate(pool, warehouse) == ["clickhouse/9001_more"]
    assert await recorded(pool, warehouse) == to_be_recorded()


async def test_a_migration_of_postgresql_is_all_or_nothing(
    pool: "asyncpg.Pool[asyncpg.Record]", warehouse: ServerWarehouse, folder: Path
) -> None:
    await migrate(pool, warehouse)
    good = "CREATE TABLE more (n integer);\n"
    more = folder / "postgres" / "9001_more.sql"
    more.write_text(f"{good}CREATE TABLE more (n integer);\n", encoding="utf-8")
    with pytest.raises(asyncpg.DuplicateTableError):
        await migrate(pool, warehouse)
    assert await pool.fetchval("SELECT to_regclass('more')") is None
    more.write_text(good, encoding="utf-8")
    assert await migrate(pool, warehouse) == ["postgres/9001_more"]


async def test_a_start_lives_through_one_that_takes_longer_than_a_batch_may(
    pool: "asyncpg.Pool[asyncpg.Record]",
    warehouse: ServerWarehouse,
    clickhouse: ClickHouseServer,
    clickhouse_url: str,
    postgres_url: str,
    folder: Path,
    tmp_path: Path,
) -> None:
    """And says so; others wait for it, PostgreSQL's tables may be used meanwhile, and it can be told to stop."""
    await migrate(pool, warehouse)
    (folder / "postgres" / "9001_more.sql").write_text(
        "ALTER TABLE job_runs ADD COLUMN more integer;\n", encoding="utf-8"
    )
    (folder / "clickhouse" / "9001_more.sql").write_text(
        "CREATE TABLE IF NOT EXISTS more (n UInt64) ENGINE = ReplacingMergeTree ORDER BY n;\n"
        "INSERT INTO more SELECT number + sleepEachRow(0.5) FROM numbers(8) SETTINGS max_block_size = 1;\n",
        encoding="utf-8",
    )
    config = Config(
        clickhouse=ClickHouse(url=clickhouse_url, insert_timeout_seconds=1.0),
        postgres=Postgres(url=postgres_url),
        storage=Storage(data_dir=str(tmp_path)),
    )

    async def until_migrations_are(service: Service, state: str) -> None:
        async with asyncio.timeout(60):
            while (await service.health())[1]["migrations"] != state:  # noqa: ASYNC110  # health is asked for
                await asyncio.sleep(0.05)

    stopped = Service(config)
    async with stopped.lifespan():
        await until_migrations_are(stopped, "running")
    clickhouse.ensure_running()  # leaving may have been in the middle of a packet
    service = Service(config)
    async with service.lifespan():
        await until_migrations_are(service, "running")
        assert (await service.health())[0] == "unavailable"
        assert await pool.fetch("SELECT more FROM job_runs") == []
        async with asyncpg.create_pool(postgres_url, min_size=1, command_timeout=0.2) as hurried:
            with pytest.raises(TimeoutError, match="another instance applies migrations"):
                await migrate(hurried, warehouse)
        await until_migrations_are(service, "ok")
        assert await warehouse.query("SELECT count() AS n FROM more FINAL") == [{"n": 8}]


async def test_the_embedded_engine_and_a_server_get_the_same_tables(
    pool: "asyncpg.Pool[asyncpg.Record]", warehouse: ServerWarehouse, embedded_and_empty: EmbeddedWarehouse
) -> None:
    await migrate(pool, warehouse)
    await pool.execute("DROP SCHEMA public CASCADE")
    await pool.execute("CREATE SCHEMA public")
    assert await migrate(pool, embedded_and_empty) == ALL
    of_server = await schema(warehouse)
    assert {row["name"] for row in of_server} > {"incoming", "events", "driver_locations", "dead_letters"}
    assert await schema(embedded_and_empty) == of_server
    assert await migrate(pool, embedded_and_empty) == []
    assert await pending(pool, embedded_and_empty) == []


def test_an_installation_without_files_says_so(folder: Path) -> None:
    shutil.rmtree(folder / "clickhouse")
    with pytest.raises(MigrationError, match="incomplete"):
        load("clickhouse")
