"""A warehouse whose statements are counted, timed and, when they are slow, logged: by their names.

A statement's name is the comment that it begins with (`-- bookings.buckets`); inserts are named by their table. Of
parameters nothing is told, as they may name people.
"""

import re
from asyncio import CancelledError
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter
from typing import Final

import structlog

from openride_analytics.ops.metrics import Metrics
from openride_analytics.ops.tracing import OFF, Tracing
from openride_analytics.warehouse import (
    Block,
    Parameters,
    QueryTooLong,
    Row,
    Value,
    Warehouse,
    WarehouseError,
    WarehouseUnavailable,
)

log = structlog.get_logger(__name__)

_NAME: Final = re.compile(r"\s*-- ([a-z_]+(?:\.[a-z_]+)*)\n")
UNNAMED: Final = "unnamed"


class _Statement:
    """One statement at work: what is known of it when it ends."""

    def __init__(self) -> None:
        self.rows: int | None = None
        self.waited: float | None = None  # for the engine, where that is not the whole time


class _Blocks:
    """The blocks of a stream as they come; the time that their reader takes is not the engine's."""

    def __init__(self, blocks: AsyncIterator[Block], statement: _Statement) -> None:
        self._blocks = blocks
        self._statement = statement
        self._rows, self._waited = 0, 0.0

    def __aiter__(self) -> "_Blocks":
        return self

    async def __anext__(self) -> Block:
        began = perf_counter()
        try:
            block = await anext(self._blocks)
            self._rows += len(block[0])
            return block
        finally:
            self._waited += perf_counter() - began
            self._statement.rows, self._statement.waited = self._rows, self._waited


class ObservedWarehouse:
    """Keeps the promises of `Warehouse` by another one, and tells how it does."""

    def __init__(
        self, inner: Warehouse, metrics: Metrics, *, slow_seconds: float, tracing: Tracing = OFF
    ) -> None:
        self._inner = inner
        self._metrics = metrics
        self._slow_seconds = slow_seconds
        self._tracing = tracing

    @property
    def stored_in(self) -> str:
        """See `Warehouse.stored_in`."""
        return self._inner.stored_in

    async def query_hosts(self, sql: str, parameters: Parameters | None = None) -> list[Row]:
        """See `Warehouse.query_hosts`."""
        with self._observed(_name_of(sql)) as statement:
            rows = await self._inner.query_hosts(sql, parameters)
            statement.rows = len(rows)
            return rows

    async def query(self, sql: str, parameters: Parameters | None = None) -> list[Row]:
        """See `Warehouse.query`."""
        with self._observed(_name_of(sql)) as statement:
            rows = await self._inner.query(sql, parameters)
            statement.rows = len(rows)
            return rows

    @asynccontextmanager
    async def stream(
        self, sql: str, parameters: Parameters | None = None, *, timeout_seconds: float
    ) -> AsyncIterator[AsyncIterator[Block]]:
        """See `Warehouse.stream`."""
        with self._observed(_name_of(sql)) as statement:
            async with self._inner.stream(sql, parameters, timeout_seconds=timeout_seconds) as blocks:
                yield _Blocks(blocks, statement)

    async def execute(
        self, statement: str, parameters: Parameters | None = None, *, timeout_seconds: float | None = None
    ) -> None:
        """See `Warehouse.execute`."""
        with self._observed(_name_of(statement)):
            await self._inner.execute(statement, parameters, timeout_seconds=timeout_seconds)

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """See `Warehouse.insert`."""
        with self._observed(f"insert.{table}") as statement:
            statement.rows = len(rows)
            await self._inner.insert(table, columns, rows)

    async def create_database(self) -> None:
        """See `Warehouse.create_database`."""
        await self._inner.create_database()

    async def close(self) -> None:
        """See `Warehouse.close`."""
        await self._inner.close()

    @contextmanager
    def _observed(self, name: str) -> Iterator[_Statement]:
        statement = _Statement()
        failure = ""
        began = perf_counter()
        try:
            with self._tracing.statement(name, "clickhouse") as span:
                yield statement
                if statement.rows is not None:
                    span.set("db.response.returned_rows", statement.rows)
        except (WarehouseError, CancelledError) as error:
            failure = _kind(error)
            raise
        finally:
            seconds = perf_counter() - began if statement.waited is None else statement.waited
            if failure:
                self._metrics.query_failures.labels(name, failure).inc()
            else:
                self._metrics.query_seconds.labels(name).observe(seconds)
            if seconds > self._slow_seconds:
                self._metrics.slow_queries.labels(name).inc()
                log.warning(
                    "slow_query",
                    query=name,
                    seconds=round(seconds, 3),
                    rows=statement.rows,
                    **({"failed": failure} if failure else {}),
                )


def _kind(error: BaseException) -> str:
    if isinstance(error, CancelledError):
        return "cancelled"
    if isinstance(error, WarehouseUnavailable):
        return "unavailable"
    return "too_long" if isinstance(error, QueryTooLong) else "refused"


def _name_of(sql: str) -> str:
    named = _NAME.match(sql)
    return named[1] if named else UNNAMED
