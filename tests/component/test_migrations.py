"""Migrations: once, in order, whoever starts first, and never over a file that has changed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
import pytest_asyncio

from openride_analytics import migrations, postgres
from openride_analytics.migrations import MigrationError, load, migrate, pending
from openride_analytics.warehouse import StatementRefused, WarehouseError
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from openride_analytics.warehouse.server import ServerWarehouse

ALL = [f"{store}/{migration.name}" for store in ("postgres", "clickhouse") for migration in load(store)]
TABLES = """
SELECT name, engine
FROM system.tables
WHERE database = currentDatabase() AND name != 'schema_migrations'
ORDER BY name
"""


@pytest_asyncio.fixture
async def pool(postgres_url: str) -> AsyncIterator["asyncpg.Pool[asyncpg.Record]"]:
    made = await postgres.connect(postgres_url)
    yield made
    await postgres.close(made)


@pytest_asyncio.fixture
async def warehouse(clickhouse_url: str) -> AsyncIterator[ServerWarehouse]:
    made = ServerWarehouse(clickhouse_url, query_timeout_seconds=10, insert_timeout_seconds=30)
    yield made
    await made.close()


async def test_migrations_are_applied_once(
    pool: "asyncpg.Pool[asyncpg.Record]", warehouse: ServerWarehouse
) -> None:
    assert await migrate(pool, warehouse) == ALL
    assert await migrate(pool, warehouse) == []
    assert await pending(pool, warehouse) == []


async def test_instances_that_start_together_apply_them_once(
    pool: "asyncpg.Pool[asyncpg.Record]", warehouse: ServerWarehouse
) -> None:
    applied = await asyncio.gather(*(migrate(pool, warehouse) for _ in range(3)))
    assert sorted(applied, key=len) == [[], [], ALL]
    recorded = await warehouse.query("SELECT count() AS n FROM schema_migrations")
    assert recorded == [{"n": len(load("clickhouse"))}]


async def test_an_applied_file_that_has_changed_stops_the_start(
    pool: "asyncpg.Pool[asyncpg.Record]", warehouse: ServerWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(pool, warehouse)
    changed = [replace(migration, checksum="another") for migration in load("clickhouse")]
    monkeypatch.setattr(migrations, "load", lambda store: changed if store == "clickhouse" else load(store))
    with pytest.raises(MigrationError, match="was changed after it had been applied"):
        await migrate(pool, warehouse)


async def test_a_migration_that_failed_half_way_is_repeated(
    pool: "asyncpg.Pool[asyncpg.Record]", warehouse: ServerWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [replace(m, statements=(*m.statements[:3], "CREATE NONSENSE")) for m in load("clickhouse")]
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "load", lambda store: broken if store == "clickhouse" else load(store))
        with pytest.raises(StatementRefused):
            await migrate(pool, warehouse)
    with pytest.raises((WarehouseError, asyncpg.PostgresError)):
        await pending(pool, warehouse)
    assert await migrate(pool, warehouse) == ALL


async def test_the_embedded_engine_and_the_server_get_the_same_tables(
    embedded_warehouse: EmbeddedWarehouse, server_warehouse: ServerWarehouse
) -> None:
    assert await embedded_warehouse.query(TABLES) == await server_warehouse.query(TABLES)
