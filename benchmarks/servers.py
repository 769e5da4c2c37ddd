"""What every benchmark stands on: real servers in temporary folders, and what their processes have used."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.servers.clickhouse import ClickHouseServer
from tests.servers.kafka import KafkaServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer


@dataclass(frozen=True)
class Servers:
    """The servers that run, and the configuration of a service that uses them."""

    kafka: KafkaServer
    clickhouse: ClickHouseServer
    config: dict[str, dict[str, Any]]


@contextmanager
def servers() -> Iterator[Servers]:
    """Kafka, ClickHouse, PostgreSQL and Valkey, empty, on free ports; gone at the end."""
    with ExitStack() as stack:
        kafka = stack.enter_context(KafkaServer())
        clickhouse = stack.enter_context(ClickHouseServer())
        postgres = stack.enter_context(PostgresServer())
        redis = stack.enter_context(RedisServer())
        config = {
            "clickhouse": {"url": clickhouse.url},
            "postgres": {"url": postgres.url},
            "redis": {"url": redis.url},
            "kafka": {"bootstrap_servers": kafka.address},
        }
        yield Servers(kafka, clickhouse, config)


async def make_topics(kafka: KafkaServer, names: Sequence[str]) -> None:
    """Topics of one partition, before anybody looks for them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1) for name in names])
    finally:
        await admin.close()


def cpu_seconds(pid: int) -> float:
    """User and system time of one process, without its children."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def peak_memory_mb(pid: int) -> float:
    """The most that a process has ever held in memory, by the kernel's own record."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(pid)
