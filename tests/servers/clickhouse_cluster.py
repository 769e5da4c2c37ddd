"""Two ClickHouse servers that are the two shards of a cluster."""

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Final

import pytest
import pytest_asyncio
from asynch.connection import Connection

from openride_analytics.warehouse.cluster import SETTINGS
from openride_analytics.warehouse.server import ServerWarehouse
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.process import HOST, lent
from tests.stores import create_tables, empty

CLUSTER: Final = "rides"
# The database of `cluster_warehouse`.
TABLES: Final = "tables"
# The same hosts, as if they were replicas of one shard. (They share no rows, as that would need a Keeper.)
PAIR: Final = "pair"
_CONFIG: Final = """
<clickhouse>
    <remote_servers>
        <{cluster}>{shards}</{cluster}>
        <{pair}><shard><internal_replication>true</internal_replication>{replicas}</shard></{pair}>
    </remote_servers>
</clickhouse>
"""
_SHARD: Final = "<shard><internal_replication>true</internal_replication>{replica}</shard>"
_REPLICA: Final = "<replica><host>{host}</host><port>{port}</port></replica>"


class ClickHouseCluster:
    """The servers, each of which knows the other as the other shard of the cluster `CLUSTER`."""

    def __init__(self) -> None:
        self.servers = [ClickHouseServer(), ClickHouseServer()]
        self.has_tables = False
        replicas = [_REPLICA.format(host=HOST, port=server.port) for server in self.servers]
        shards = "".join(_SHARD.format(replica=replica) for replica in replicas)
        config = _CONFIG.format(cluster=CLUSTER, shards=shards, pair=PAIR, replicas="".join(replicas))
        for server in self.servers:
            server.config = config

    def url(self, database: str, shard: int = 0) -> str:
        """The address of a database on one of the hosts."""
        return f"clickhouse://default:@{self.servers[shard].address}/{database}"

    def ensure_running(self) -> None:
        """Brings back the servers that are away."""
        for server in self.servers:
            server.ensure_running()

    def bring_back(self) -> None:
        """Starts those again that have aborted: see `ClickHouseServer`."""
        for server in self.servers:
            server.bring_back()

    async def execute(self, *statements: str) -> None:
        """Runs statements on each host."""
        for server in self.servers:
            async with Connection(dsn=server.url) as connection, connection.cursor() as cursor:
                for statement in statements:
                    await cursor.execute(statement)


@pytest.fixture(scope="session")
def clickhouse_cluster() -> Iterator[ClickHouseCluster]:
    """Two shards for the whole session; tests use `cluster_database` for a database of their own."""
    cluster = ClickHouseCluster()
    # A server that gives up a question to the other one would break off inside a packet: see ClickHouseServer.
    SETTINGS["async_query_sending_for_remote"] = 0
    with ExitStack() as stack:
        for server in cluster.servers:
            stack.enter_context(lent(server))
        yield cluster
        for server in cluster.servers:  # faster than to stop them, and their rows go in any case
            server.kill()


@pytest_asyncio.fixture
async def cluster_database(clickhouse_cluster: ClickHouseCluster) -> AsyncIterator[str]:
    """The name of a database for this test alone, empty on each host."""
    clickhouse_cluster.ensure_running()
    name = f"test_{secrets.token_hex(8)}"
    # Whoever connects to a database that is not there breaks off, which this build of the server may not survive.
    await clickhouse_cluster.execute(f"CREATE DATABASE {name} ENGINE = Atomic")
    yield name
    clickhouse_cluster.ensure_running()
    await clickhouse_cluster.execute(
        *(f"DROP DATABASE IF EXISTS {database} SYNC" for database in (name, f"{name}_shard"))
    )


@pytest_asyncio.fixture
async def cluster_warehouse(clickhouse_cluster: ClickHouseCluster) -> AsyncIterator[ServerWarehouse]:
    """The tables on two shards, empty. They stay for the whole session: a test that takes one away brings it back."""
    clickhouse_cluster.ensure_running()
    warehouse = ServerWarehouse(
        clickhouse_cluster.url(TABLES), cluster=CLUSTER, query_timeout_seconds=30, insert_timeout_seconds=60
    )
    if not clickhouse_cluster.has_tables:
        await warehouse.create_database()
        await create_tables(warehouse)
        clickhouse_cluster.has_tables = True
    await empty(warehouse)
    yield warehouse
    await warehouse.close()
