"""Warehouses for tests: the embedded engine and a real server, with the tables in place and nothing in them."""

import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from openride_analytics.config import Config, Retention
from openride_analytics.dialects import Dialects
from openride_analytics.events import Acceptance, Event, Events, decode
from openride_analytics.ingest.pipeline import store_events
from openride_analytics.migrations import load
from openride_analytics.warehouse import Warehouse, retention
from openride_analytics.warehouse.embedded import EmbeddedWarehouse
from openride_analytics.warehouse.server import ServerWarehouse
from tests import java

TABLES = (
    *("events", "driver_locations", "event_ids", "ingest_log", "histories", "buried", "facts"),
    *("dead_letters", "dead_letter_replays", "erased_users"),
    *("active_days", "doubtful_hours"),
)
DIALECTS = Dialects(Config().kafka)
NOW = datetime(2026, 4, 20, tzinfo=UTC)


async def create_tables(warehouse: Warehouse) -> None:
    """The migrations, without their record."""
    for migration in load("clickhouse"):
        for statement in migration.statements:
            await warehouse.execute(statement)


async def empty(warehouse: Warehouse) -> None:
    """Forgets all that is stored."""
    for row in await warehouse.query_hosts(_WITH_ROWS, {"tables": TABLES}):
        await warehouse.execute(f"TRUNCATE TABLE {row['name']}")


_WITH_ROWS = """
SELECT DISTINCT name
FROM system.tables
WHERE database = {stored_in:String} AND name IN {tables:Array(String)} AND total_rows > 0
"""


def decoded(
    events: Sequence[dict[str, Any]], *, currency: str = "NGN", from_java: bool = False
) -> list[Event]:
    """Events as the service takes them in at `NOW`, of any age; with `from_java` by way of the Java services' dialect."""
    acceptance = Acceptance.at(NOW, currency=currency, keep_days=0)
    chance = random.Random(len(events))
    return [
        DIALECTS.decoder(event["event_type"])(java.spelled(event, chance), acceptance)
        if from_java and event["event_type"] in java.TYPES
        else decode(msgspec.json.encode(event), acceptance)
        for event in events
    ]


async def store(
    warehouse: Warehouse,
    events: Sequence[dict[str, Any]],
    *,
    batches: int = 1,
    currency: str = "NGN",
    from_java: bool = False,
) -> None:
    """Stores events in their order, in so many batches."""
    accepted = decoded(events, currency=currency, from_java=from_java)
    size = -(-len(accepted) // batches) or 1
    for start in range(0, len(accepted), size):
        await store_events(warehouse, [(Events.of(accepted[start : start + size]), 0)])


def disordered(events: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The same events in another order, some of them twice."""
    chance = random.Random(seed)
    again = [event for event in events if chance.random() < 0.2]
    mixed = [*events, *again]
    chance.shuffle(mixed)
    return mixed


@pytest.fixture(scope="session")
def embedded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The process's one folder for the embedded engine."""
    return tmp_path_factory.mktemp("clickhouse")


# Its tables stay from test to test: half a second of CPU each time, if they were created anew.
_folders_with_tables: set[Path] = set()


@pytest_asyncio.fixture
async def embedded_warehouse(embedded_folder: Path) -> AsyncIterator[EmbeddedWarehouse]:
    """The embedded engine, empty."""
    warehouse = EmbeddedWarehouse(embedded_folder, query_timeout_seconds=30, insert_timeout_seconds=60)
    if embedded_folder not in _folders_with_tables:
        await create_tables(warehouse)
        _folders_with_tables.add(embedded_folder)
    # A service in another test may have set its own.
    await retention.apply(warehouse, Retention(hot_days=0, cold_days=0))
    await empty(warehouse)
    yield warehouse
    await warehouse.close()


@pytest_asyncio.fixture
async def server_warehouse(clickhouse_url: str) -> AsyncIterator[ServerWarehouse]:
    """A database of its own on the ClickHouse server."""
    warehouse = ServerWarehouse(clickhouse_url, query_timeout_seconds=30, insert_timeout_seconds=60)
    await create_tables(warehouse)
    yield warehouse
    await warehouse.close()
