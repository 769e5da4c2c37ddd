"""Fixtures for all tests: the real servers, each started when the first test asks for it; and which files are begun first."""

import gc
import os
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.caches import cache, fragile_redis, patient
from tests.servers.clickhouse import clickhouse, clickhouse_url
from tests.servers.clickhouse_cluster import clickhouse_cluster, cluster_database, cluster_warehouse
from tests.servers.kafka import kafka
from tests.servers.postgres import postgres, postgres_url
from tests.servers.redis import redis_cluster, redis_server
from tests.servers.s3 import s3_server
from tests.servers.smtp import smtp, smtp_server
from tests.stores import embedded_folder, embedded_warehouse, server_warehouse

__all__ = [
    "cache",
    "clickhouse",
    "clickhouse_cluster",
    "clickhouse_url",
    "cluster_database",
    "cluster_warehouse",
    "embedded_folder",
    "embedded_warehouse",
    "fragile_redis",
    "kafka",
    "patient",
    "postgres",
    "postgres_url",
    "redis_cluster",
    "redis_server",
    "s3_server",
    "server_warehouse",
    "smtp",
    "smtp_server",
]

# The longest first, so that at the end no worker waits for another that has just begun a long one.
LONG_FILES = (
    "component/test_rebuild.py",
    "faults/test_faults.py",
    "integration/test_dashboard.py",
    "model/test_metrics.py",
    "integration/test_orchestrated.py",
    "component/test_erasure.py",
    "integration/test_maintenance.py",
    "integration/test_real_trips_http.py",
    "integration/test_real_trips_kafka.py",
    "hostile/test_uploads.py",
    "integration/test_service_lifecycle.py",
    "hostile/test_openapi.py",
    "component/test_kafka_reading.py",
    "model/test_erasure.py",
    "integration/test_reports_exactly_once.py",
    "integration/test_same_answers.py",
    "component/test_clashes.py",
    "component/test_pipeline.py",
    "integration/test_ingest_status.py",
    "component/test_commands.py",
    "integration/test_replay.py",
    "component/test_report_content.py",
    "model/test_analytics.py",
    "integration/test_installed.py",
    "integration/test_access.py",
    "component/test_dead_letters.py",
    "component/test_warehouse.py",
    "component/test_exports_http.py",
    "hostile/test_records.py",
    "unit/test_demo_platform.py",
    "servers/test_servers.py",
)


MEMORY = Path("/dev/shm")  # not a file of ours: the folder that Linux keeps in memory
ROOM_BYTES = 8 * 2**30


def use_memory_for_temporary_folders() -> None:
    """The servers write and delete thousands of small files, which takes up to three times as long on a disk.

    Where memory has no room, or programs may not be run from there, they stay where they are, and so they do with a TMPDIR.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    there = os.statvfs(MEMORY)
    free = min(there.f_bavail * there.f_frsize, psutil.virtual_memory().available)
    if free >= ROOM_BYTES and not there.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


use_memory_for_temporary_folders()


@pytest.hookimpl(trylast=True)  # after the order was made random
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files keep their tests together; those that are not named come after the others, as they were."""
    here = Path(__file__).parent
    rank = {here / name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))
    # They stay: to look through all of them for garbage again and again took a twentieth of the time.
    gc.freeze()
