"""Backup and restore by the commands that deploy/README.md and docs/scaling.md have for them."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from openride_analytics.cache import MemoryCache
from openride_analytics.rebuild import rebuild
from openride_analytics.warehouse.server import ServerWarehouse
from tests.component.test_commands import run
from tests.integration.test_maintenance import BOOKINGS, body, figures, happened
from tests.samples import full
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.clickhouse_cluster import CLUSTER, ClickHouseCluster
from tests.servers.postgres import PostgresServer
from tests.servers.process import HOST, lent
from tests.stores import create_tables, store

from .running import Sections, ServiceProcess

PAGE = (Path(__file__).resolve().parents[2] / "deploy" / "README.md").read_text(encoding="utf-8")
SCALING = (Path(__file__).resolve().parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
(CONFIGURATION,) = re.findall(r"^<clickhouse>.*?^</clickhouse>$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def own_clickhouse() -> Iterator[ClickHouseServer]:
    """With the page's disk for backups, which lies in its own folder."""
    server = ClickHouseServer()
    server.config = CONFIGURATION.replace("/backups/", f"{server.folder}/backups/")
    with lent(server):
        yield server


def sql(beginning: str) -> str:
    """The statement of the page that begins so."""
    (statement,) = re.findall(rf"^ *({beginning}.*;)$", PAGE, re.MULTILINE)
    return str(statement)


def done_by(server: ClickHouseServer, statement: str) -> None:
    answer = httpx.post(f"http://{HOST}:{server.http_port}/", content=statement, timeout=60, trust_env=False)
    assert answer.is_success, f"{statement}: {answer.text}"


def shell(command: str, postgres: PostgresServer, url: str, folder: Path) -> None:
    """A command of the page, with the programs of the tests' own PostgreSQL."""
    (line,) = re.findall(rf"^ *({command} .*)$", PAGE, re.MULTILINE)
    assert postgres._wheel is not None
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env={"PATH": f"{postgres._wheel.bin_path}:/usr/bin:/bin", "DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def everything_lost_in(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    finally:
        await connection.close()


def posted(service: ServiceProcess, *users: str) -> list[dict[str, Any]]:
    events = [event for user in users for event in happened(user)]
    service.post_events(body(events), content_type="application/x-ndjson")
    return events


async def test_a_restored_service_answers_as_before_and_brings_no_erased_user_back(
    own_clickhouse: ClickHouseServer, postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    postgres.must_be_ours()
    config: Sections = {
        "clickhouse": {"url": own_clickhouse.url},
        "postgres": {"url": postgres_url},
        "auth": {"enabled": True},
        "cache": {"fresh_seconds": 0.0, "stale_seconds": 0.0},
    }
    full, incremental = re.findall(r"^BACKUP .*;$", PAGE, re.MULTILINE)
    week, erased, day, late = (str(uuid4()) for _ in range(4))
    service = ServiceProcess(config)
    with service:
        service.wait_until_ready()
        service.use_key(service.made_key("admin"))
        posted(service, week, erased)
        done_by(own_clickhouse, full)
        posted(service, day)
        done_by(own_clickhouse, incremental)
        shell("pg_dump", postgres, postgres_url, tmp_path)

        command = ("erase", "--config", "config.toml", "--user", erased)
        assert (await run(service.folder, *command)).returncode == 0
        since = posted(service, late)
        before = figures(service)
        assert before == (3, 3 * BOOKINGS, 3)
        service.stop()

        done_by(own_clickhouse, sql("RENAME DATABASE"))
        done_by(own_clickhouse, sql("RESTORE DATABASE"))
        done_by(own_clickhouse, sql("INSERT INTO"))
        await everything_lost_in(postgres_url)
        shell("pg_restore", postgres, postgres_url, tmp_path)

        service.start()
        service.wait_until_ready()
        # The key that was made before the backup is known again.
        assert figures(service)[0] == 3, "the erased one is back, and the last is not there yet"
        # What came later comes again, as from Kafka. More of who was erased is left out by the saved table.
        service.post_events(body([*since, *happened(erased)]), content_type="application/x-ndjson")
        assert figures(service) == (4, 4 * BOOKINGS, 4)
        assert (await run(service.folder, *command)).returncode == 0
        assert figures(service) == before
        assert service.terminate() == 0


@pytest.fixture
def own_cluster() -> Iterator[ClickHouseCluster]:
    """With the page's disk for backups on each host."""
    cluster = ClickHouseCluster()
    for server in cluster.servers:
        disk = CONFIGURATION.removeprefix("<clickhouse>").replace("/backups/", f"{server.folder}/backups/")
        server.config = server.config.replace("</clickhouse>", disk)
    with lent(cluster.servers[0]), lent(cluster.servers[1]):
        yield cluster
        for server in cluster.servers:  # faster than to stop them
            server.kill()


def booked(count: int) -> list[dict[str, Any]]:
    """So many bookings, each of a rider of its own."""
    return [
        full("booking.created", **{name: str(uuid4()) for name in ("event_id", "booking_id", "rider_id")})
        for _ in range(count)
    ]


@pytest.mark.shards
async def test_shards_that_were_restored_have_what_they_had_and_take_more(
    own_cluster: ClickHouseCluster,
) -> None:
    def warehouse() -> ServerWarehouse:
        url = own_cluster.url("openride")
        return ServerWarehouse(url, cluster=CLUSTER, query_timeout_seconds=60, insert_timeout_seconds=60)

    async def stored() -> dict[str, int]:
        tables = ("events", "event_ids", "histories", "facts", "active_days")
        counts = {table: await reader.query(f"SELECT count() AS rows FROM {table} FINAL") for table in tables}
        return {table: rows[0]["rows"] for table, rows in counts.items()}

    reader = warehouse()
    await reader.create_database()
    await create_tables(reader)
    await store(reader, booked(40))
    before = await stored()
    await reader.close()
    backup, *restore = re.findall(
        r"^((?:BACKUP|RENAME|RESTORE) .*|INSERT INTO openride_shard.*);$", SCALING, re.MULTILINE
    )
    assert len(restore) == 4
    for statement in (backup, *restore):
        for server in own_cluster.servers:
            done_by(server, statement)

    reader = warehouse()
    await reader.create_database()  # which looks at the number of shards
    assert await stored() == before
    await store(reader, booked(40))
    await rebuild(reader, MemoryCache(), say=lambda _: None)
    after = await stored()
    assert {table: after[table] > before[table] for table in after} == dict.fromkeys(after, True)
    await reader.close()
