"""ClickHouse over its native protocol, by asynch.

asynch 0.4 believes an insert after the first packet of the answer, although the server may still fail it, and its
pool can lose places when a caller is cancelled. So this module keeps a small pool of its own over asynch's
protocol connection, reads each insert's answer to its end, and throws a connection away after any failure.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from asynch.errors import ServerException
from asynch.proto.connection import Connection as ProtocolConnection
from asynch.proto.context import ExecuteContext
from asynch.proto.protocol import ServerPacket

from openride_analytics.config import ConfigError
from openride_analytics.ops.metrics import PoolUse
from openride_analytics.warehouse import (
    FOR_INGEST,
    SETTINGS,
    UNKNOWN_TABLE,
    Block,
    Ids,
    Parameters,
    QueryTooLong,
    Row,
    Value,
    WarehouseError,
    WarehouseUnavailable,
    failure,
    parameter_literal,
    with_ids,
)
from openride_analytics.warehouse.cluster import Cluster, shards_text

_CONNECT_TIMEOUT_SECONDS = 5.0
_CLOSE_TIMEOUT_SECONDS = 5.0
# Two batches at a time, each of which does two things at once.
_PLACES_FOR_INGEST: Final = 4
_PLACE_TIMEOUT_SECONDS = 10.0
_SILENCE_SECONDS = 600.0


class _Connection(ProtocolConnection):  # its stubs are incomplete: hence the ignores
    """asynch's connection, with inserts that are only done when the server says so to the end."""

    async def disconnect(self) -> None:
        """At once: asynch waits until all is sent, which a server that reads no more never lets happen."""
        _abort(self)
        await super().disconnect()

    async def process_insert_query(
        self,
        query_without_data: str,
        data: Any,
        external_tables: Any = None,
        query_id: str | None = None,
        types_check: bool = False,  # noqa: FBT001, FBT002  # asynch's signature
        columnar: bool = False,  # noqa: FBT001, FBT002
    ) -> int:
        await self.send_query(query_without_data, query_id=query_id)  # type: ignore[no-untyped-call]
        await self.send_external_tables(external_tables, types_check=types_check)  # type: ignore[no-untyped-call]
        sample_block = await self.receive_sample_block()  # type: ignore[no-untyped-call]
        inserted: int = await self.send_data(sample_block, data, types_check=types_check, columnar=columnar)  # type: ignore[no-untyped-call]
        while True:
            packet = await self._receive_packet()  # type: ignore[attr-defined]
            if packet.exception:
                raise packet.exception
            if packet.type == ServerPacket.END_OF_STREAM:
                return inserted

    async def blocks(self, query: str) -> AsyncGenerator[Block]:
        """The blocks of a SELECT as they come: what asynch itself offers takes them apart into rows."""
        async with ExecuteContext(self, query, self.settings):  # type: ignore[attr-defined]
            # Python 3.11's wait_for, which asynch reads through, loses a cancellation that comes together with data; the
            # time limit of the whole stands around all of this.
            seconds, self.reader.timeout = self.reader.timeout, None  # type: ignore[attr-defined]
            await self.send_query(query)  # type: ignore[no-untyped-call]
            await self.send_external_tables(None)  # type: ignore[no-untyped-call]
            async for packet in self.packet_generator():  # type: ignore[attr-defined, no-untyped-call]
                if packet.block.num_rows:
                    yield packet.block.get_columns()
            self.reader.timeout = seconds  # type: ignore[attr-defined]


class _Left(WarehouseError):
    """The caller has gone before the end of a stream: the connection goes, and with it the query."""


class ServerWarehouse:
    """Keeps the promises of `Warehouse` on a ClickHouse server.

    `url` is `clickhouse://user:password@host:9000/database` (`clickhouses://` with TLS; `?verify=0` trusts any
    certificate). Connections are opened when needed, at most `max_connections` at a time, and some more for ingest.

    With the name of a `cluster` that this server belongs to, tables are spread over its shards (see `cluster`). Then the
    user and password, and TLS if any, must be right on all its hosts.
    """

    def __init__(
        self,
        url: str,
        *,
        query_timeout_seconds: float,
        insert_timeout_seconds: float,
        cluster: str = "",
        replicated: bool = False,
        max_connections: int = 16,
    ) -> None:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        self._options: dict[str, Any] = {
            "host": parts.hostname or "127.0.0.1",
            "port": parts.port,
            "user": unquote(parts.username or "default"),
            "password": unquote(parts.password or ""),
            "database": _database(parts.path.strip("/")),
            "secure": parts.scheme == "clickhouses",
            "verify": options.get("verify", "1") != "0",
            "ca_certs": options.get("ca_certs"),
            "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
            "send_receive_timeout": insert_timeout_seconds,
            "client_name": "openride-analytics",
        }
        self._cluster = (
            Cluster(cluster, self._options["database"], replicated=replicated) if cluster else None
        )
        self._settings = {**SETTINGS, **(self._cluster.settings if self._cluster else {})}
        self._query_timeout = query_timeout_seconds
        self._insert_timeout = insert_timeout_seconds
        self._places = asyncio.Semaphore(max_connections)
        self._ingest_places = asyncio.Semaphore(_PLACES_FOR_INGEST)
        self._max_connections = max_connections
        self._waiting = 0
        self._used = 0
        self._idle: list[_Connection] = []

    @property
    def stored_in(self) -> str:
        """See `Warehouse.stored_in`."""
        return self._cluster.shard_database if self._cluster else str(self._options["database"])

    async def query_hosts(self, sql: str, parameters: Parameters | None = None) -> list[Row]:
        """See `Warehouse.query_hosts`."""
        bound = {**(parameters or {}), "stored_in": self.stored_in}
        return await self.query(self._cluster.on_hosts(sql) if self._cluster else sql, bound)

    async def query(self, sql: str, parameters: Parameters | None = None) -> list[Row]:
        """See `Warehouse.query`."""
        async with self._connection(self._query_timeout) as connection:
            rows, columns = await _execute(connection, sql, parameters, with_column_types=True)
            names = [name for name, _ in columns]
            return [dict(zip(names, row, strict=True)) for row in rows]

    @contextlib.asynccontextmanager
    async def stream(
        self, sql: str, parameters: Parameters | None = None, *, timeout_seconds: float
    ) -> AsyncIterator[AsyncIterator[Block]]:
        """See `Warehouse.stream`."""
        with contextlib.suppress(_Left):
            async with self._connection(timeout_seconds) as connection:
                await _bind(connection, parameters or {})
                async with contextlib.aclosing(connection.blocks(sql)) as blocks:
                    yield blocks
                    if connection.is_query_executing:  # type: ignore[attr-defined]
                        raise _Left

    async def execute(
        self, statement: str, parameters: Parameters | None = None, *, timeout_seconds: float | None = None
    ) -> None:
        """See `Warehouse.execute`."""
        if self._cluster is not None and (placed := self._cluster.placed(statement)):
            await self._everywhere(self._cluster, placed, parameters, timeout_seconds)
            return
        seconds = timeout_seconds or self._insert_timeout
        async with self._connection(seconds, self._patient(self._options, timeout_seconds)) as connection:
            await _execute(connection, statement, parameters)

    async def _everywhere(
        self,
        cluster: Cluster,
        statements: Sequence[str],
        parameters: Parameters | None = None,
        timeout_seconds: float | None = None,
    ) -> None:
        """Runs statements of `cluster` one after the other, each on all hosts before the next."""
        # From the default database, as the configured one may not be there.
        here = {**self._options, "database": "default"}
        if cluster.replicated:  # they say ON CLUSTER
            hosts = [here]
        else:
            found = await self._hosts(cluster)
            hosts = [{**here, "host": host["host"], "port": host["port"]} for host in found]
        for statement in statements:
            for host in hosts:
                options = self._patient(host, timeout_seconds) or host
                async with self._connection(timeout_seconds or self._insert_timeout, options) as connection:
                    await _execute(connection, statement, parameters)

    def _patient(self, options: dict[str, Any], timeout_seconds: float | None) -> dict[str, Any] | None:
        """Options for a connection on which a statement may take longer than an insert; None where it may not.

        A server at work tells its progress several times a second: one that says nothing for minutes is gone.
        """
        if timeout_seconds is None or timeout_seconds <= self._insert_timeout:
            return None
        silence = max(self._insert_timeout, min(timeout_seconds, _SILENCE_SECONDS))
        return {**options, "send_receive_timeout": silence}

    async def _hosts(self, cluster: Cluster) -> list[Row]:
        async with self._connection(
            self._query_timeout, {**self._options, "database": "default"}
        ) as connection:
            rows = await _execute(connection, _HOSTS, {"cluster": cluster.name})
        if not rows:
            raise ConfigError(f"clickhouse.cluster: the server knows no cluster {cluster.name!r}")
        return [dict(zip(("shard", "host", "port"), row, strict=True)) for row in rows]

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """See `Warehouse.insert`."""
        async with self._connection(self._insert_timeout) as connection:
            await connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES", list(rows))

    async def create_database(self) -> None:
        """See `Warehouse.create_database`."""
        # From the default database, as the configured one may not be there; others ask meanwhile, and stay in theirs.
        if self._cluster is not None:
            await self._create_databases(self._cluster)
            return
        async with self._connection(
            self._insert_timeout, {**self._options, "database": "default"}
        ) as connection:
            await connection.execute(
                f"CREATE DATABASE IF NOT EXISTS `{self._options['database']}` ENGINE = Atomic"
            )

    async def _create_databases(self, cluster: Cluster) -> None:
        shards = len({host["shard"] for host in await self._hosts(cluster)})
        # Not where all is there already: `ON CLUSTER` waits for hosts that are away.
        if not await self._laid_out(cluster, shards):
            await self._everywhere(cluster, cluster.create_databases(shards))
            if not await self._laid_out(cluster, shards):
                raise WarehouseUnavailable(f"{cluster.shard_database} is not on all hosts yet")

    async def _laid_out(self, cluster: Cluster, shards: int) -> bool:
        """Whether the hosts have the databases, for this number of shards."""
        async with self._connection(
            self._query_timeout, {**self._options, "database": "default"}
        ) as connection:
            ((hosts, databases, comments),) = await _execute(
                connection,
                cluster.on_hosts(_LAID_OUT),
                {"database": cluster.database, "stored_in": cluster.shard_database},
            )
        if set(comments) - {shards_text(shards)}:
            raise ConfigError(
                f"clickhouse.cluster: {cluster.name!r} has {shards_text(shards)} now, but the rows of"
                f" {cluster.shard_database} were laid out for another number: see docs/scaling.md"
            )
        return bool(databases == 2 * hosts)

    def use(self) -> PoolUse:
        """How the connections are used just now."""
        return PoolUse(self._used, len(self._idle), self._max_connections, self._waiting)

    async def close(self) -> None:
        """See `Warehouse.close`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_SECONDS):
                for _ in range(self._max_connections):
                    await self._places.acquire()
                for _ in range(_PLACES_FOR_INGEST):
                    await self._ingest_places.acquire()
        while self._idle:
            _abort(self._idle.pop())

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if FOR_INGEST.get():
            async with self._ingest_places:
                yield
            return
        self._waiting += 1
        try:
            async with asyncio.timeout(_PLACE_TIMEOUT_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise WarehouseUnavailable("all connections are busy") from None
        finally:
            self._waiting -= 1
        self._used += 1
        try:
            yield
        finally:
            self._used -= 1
            self._places.release()

    @contextlib.asynccontextmanager
    async def _connection(
        self, timeout_seconds: float, own_options: dict[str, Any] | None = None
    ) -> AsyncIterator[_Connection]:
        """A connection for one call: given back after success, thrown away after anything else.

        One with options of its own is new, and never given to another caller.
        """
        try:
            async with self._place(), asyncio.timeout(timeout_seconds):
                if self._idle and own_options is None:
                    connection = self._idle.pop()
                else:
                    connection = _Connection(**(own_options or self._options))  # type: ignore[no-untyped-call]
                connection.settings = {**self._settings, "max_execution_time": int(timeout_seconds) or 1}  # type: ignore[attr-defined]
                try:
                    yield connection
                except BaseException:
                    # The server stops a query whose client is gone; a half-read answer must not meet the next caller.
                    _abort(connection)
                    raise
                if own_options is None:
                    self._idle.append(connection)
                else:
                    _abort(connection)
        except ServerException as error:
            if self._cluster is not None and error.code == UNKNOWN_TABLE:  # on one of the shards, perhaps
                raise WarehouseUnavailable(str(error)) from error
            raise failure(error.code or 0, str(error)) from error
        except TimeoutError as error:
            raise QueryTooLong(f"no answer within {timeout_seconds:g} s") from error
        except WarehouseError:
            raise
        except Exception as error:  # a server that answers garbage makes asynch raise anything
            raise WarehouseUnavailable(f"{type(error).__name__}: {error}") from error


_HOSTS: Final = """
-- cluster.hosts
SELECT shard_num, host_name, port
FROM system.clusters
WHERE cluster = {cluster:String}
ORDER BY shard_num, replica_num
"""

_LAID_OUT: Final = """
-- cluster.laid_out
SELECT
    (SELECT count() FROM system.one) AS hosts,
    count() AS databases,
    groupUniqArrayIf(comment, name = {stored_in:String}) AS comments
FROM system.databases
WHERE name IN ({database:String}, {stored_in:String})
"""


def _database(name: str) -> str:
    if name and not re.fullmatch(r"\w+", name, re.ASCII):
        raise ConfigError(f"clickhouse.url: {name!r} is not a name for a database")
    return name or "default"


async def _execute(
    connection: _Connection, sql: str, parameters: Parameters | None, *, with_column_types: bool = False
) -> Any:
    """Runs a statement. `Ids` go with it as tables: a value in its text costs the server 1.2 µs an id."""
    await _bind(
        connection,
        {name: value for name, value in (parameters or {}).items() if not isinstance(value, Ids)},
    )
    tables = [
        {"name": _ids_table(name), "structure": [("text", "String")], "data": [(value.text,)]}
        for name, value in (parameters or {}).items()
        if isinstance(value, Ids)
    ]
    return await connection.execute(
        with_ids(sql, _ids_table), external_tables=tables, with_column_types=with_column_types
    )


def _ids_table(name: str) -> str:
    return f"ids_of_{name}"  # no other table is called so


async def _bind(connection: _Connection, parameters: Parameters) -> None:
    """Binds `{name:Type}` parameters on the connection: asynch itself would paste values into the text."""
    if parameters:
        bound = ", ".join(f"param_{name} = {parameter_literal(value)}" for name, value in parameters.items())
        await connection.execute(f"SET {bound}")


def _abort(connection: _Connection) -> None:
    writer = getattr(connection.writer, "writer", None)  # type: ignore[attr-defined]
    if writer is not None:
        writer.transport.abort()
