"""How a service process goes on while its servers are lost, and starts beside others and on what it does not expect."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from openride_analytics.migrations import load
from openride_analytics.warehouse import Warehouse
from openride_analytics.warehouse.server import ServerWarehouse
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.postgres import PostgresServer
from tests.servers.process import HOST, Server, free_port, lent

from .running import Sections, ServiceProcess

RECORDED = "SELECT version FROM schema_migrations ORDER BY version"
Change = Callable[[Warehouse, "asyncpg.Connection[asyncpg.Record]"], Awaitable[None]]


@pytest.fixture
def own_clickhouse() -> Iterator[ClickHouseServer]:
    with lent(ClickHouseServer()) as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    with lent(PostgresServer()) as server:
        yield server


def addresses(clickhouse_url: str, postgres_url: str) -> dict[str, dict[str, Any]]:
    return {"clickhouse": {"url": clickhouse_url}, "postgres": {"url": postgres_url}}


@pytest.mark.parametrize("lost", ["clickhouse", "postgres"])
def test_a_service_that_loses_a_store_is_not_ready_until_it_is_back(
    lost: str, own_clickhouse: ClickHouseServer, own_postgres: PostgresServer
) -> None:
    server: Server = {"clickhouse": own_clickhouse, "postgres": own_postgres}[lost]
    with ServiceProcess(addresses(own_clickhouse.url, own_postgres.url)) as service:
        service.wait_until_ready()
        server.kill()
        service.wait_until(lambda: service.get("/health/ready").status_code == 503, "notice the loss")
        assert service.get_json("/health/live") == {"status": "ok"}
        assert service.get("/health").json()["parts"][lost] == "away"
        if lost == "clickhouse":
            answer = service.get("/v1/metrics/bookings")
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert str(own_clickhouse.port) not in answer.text

        server.start()
        service.wait_until_ready()
        server.pause()  # it takes connections, and says nothing
        try:
            status, longest = 200, 0.0
            while status == 200:
                began = time.monotonic()
                status = service.get("/health/ready").status_code
                longest = max(longest, time.monotonic() - began)
            assert status == 503
            assert longest < 5
        finally:
            server.resume()
        service.wait_until_ready()
        service.get_json("/v1/metrics/bookings")
        assert service.terminate() == 0
        assert "Traceback" not in service.logged()


def test_a_service_is_told_to_stop_while_its_stores_are_away() -> None:
    nobody = f"{HOST}:{free_port()}"
    config: Sections = {
        **addresses(f"clickhouse://{nobody}/openride", f"postgresql://postgres@{nobody}/postgres"),
        "kafka": {"bootstrap_servers": nobody},
        "redis": {"url": f"redis://{nobody}/0"},
    }
    with ServiceProcess(config) as service:
        service.wait_until(lambda: service.log_lines("not_ready_yet"), "try to reach its servers")
        assert service.get("/health/ready").status_code == 503
        assert service.terminate() == 0


def test_what_a_killed_service_was_making_is_gone_when_it_has_started_again(
    postgres_url: str, tmp_path: Path
) -> None:
    """With the embedded engine: the test build of the server may die of a client that is killed inside a packet."""

    def made() -> list[Path]:
        return list(tmp_path.glob("openride-analytics-*"))

    config, environment = {"postgres": {"url": postgres_url}}, {"TMPDIR": str(tmp_path)}
    with ServiceProcess(config, environment) as service, ThreadPoolExecutor() as threads:
        service.wait_until_ready()
        asked = threads.submit(service.get, "/v1/exports/excel", dataset="users")
        service.wait_until(made, "begin a workbook")
        service.kill()
        assert isinstance(asked.exception(), httpx.TransportError)
        assert made()
        service.start()
        service.wait_until_ready()
        assert not made()
        assert [line["folders"] for line in service.log_lines("temporary_folders_removed")] == [1]
        assert service.terminate() == 0


async def test_instances_that_start_together_apply_each_migration_once(
    clickhouse_url: str, postgres_url: str
) -> None:
    config = addresses(clickhouse_url, postgres_url)
    with ServiceProcess(config) as first, ServiceProcess(config) as second:
        for instance in (first, second):
            instance.wait_until_ready()
        applied = [line["migration"] for each in (first, second) for line in each.log_lines("migrated")]
        assert [each.terminate() for each in (first, second)] == [0, 0]

    files = {store: load(store) for store in ("postgres", "clickhouse")}
    assert sorted(applied) == sorted(f"{store}/{file.name}" for store in files for file in files[store])
    warehouse = ServerWarehouse(clickhouse_url, query_timeout_seconds=10, insert_timeout_seconds=10)
    postgres = await asyncpg.connect(postgres_url)
    try:
        in_clickhouse = [row["version"] for row in await warehouse.query(RECORDED)]
        in_postgres = [row["version"] for row in await postgres.fetch(RECORDED)]
    finally:
        await postgres.close()
        await warehouse.close()
    assert in_clickhouse == [file.version for file in files["clickhouse"]]
    assert in_postgres == [file.version for file in files["postgres"]]


async def test_who_asks_while_the_database_is_made_is_not_left_in_another(clickhouse_url: str) -> None:
    warehouse = ServerWarehouse(clickhouse_url, query_timeout_seconds=10, insert_timeout_seconds=10)
    try:
        asked = [warehouse.query("SELECT currentDatabase() AS name, sleep(0.2)") for _ in range(3)]
        made = asyncio.create_task(warehouse.create_database())
        answers = await asyncio.gather(*asked)
        await made
    finally:
        await warehouse.close()
    assert {row["name"] for rows in answers for row in rows} == {urlsplit(clickhouse_url).path.strip("/")}


async def change_in_postgres(warehouse: Warehouse, postgres: "asyncpg.Connection[asyncpg.Record]") -> None:
    await postgres.execute("UPDATE schema_migrations SET checksum = 'another' WHERE version = 1")


async def change_in_clickhouse(warehouse: Warehouse, postgres: "asyncpg.Connection[asyncpg.Record]") -> None:
    await warehouse.execute(
        "INSERT INTO schema_migrations (version, name, checksum) SELECT version, name, 'another' FROM schema_migrations"
    )


@pytest.mark.parametrize("change", [change_in_postgres, change_in_clickhouse])
async def test_a_migration_that_is_not_the_one_applied_stops_the_start(
    change: Change, clickhouse_url: str, postgres_url: str
) -> None:
    config = addresses(clickhouse_url, postgres_url)
    with ServiceProcess(config) as service:
        service.wait_until_ready()
        assert service.terminate() == 0
        warehouse = ServerWarehouse(clickhouse_url, query_timeout_seconds=10, insert_timeout_seconds=10)
        postgres = await asyncpg.connect(postgres_url)
        try:
            await change(warehouse, postgres)
        finally:
            await postgres.close()
            await warehouse.close()

        code, printed = service.run_to_its_end()
    assert code == 1
    assert "was changed after it had been applied" in printed
