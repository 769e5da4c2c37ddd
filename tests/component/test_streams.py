"""Both warehouses stream rows in blocks, hold few of them, and stop the query when the caller leaves."""

import asyncio
import contextlib

import psutil
import pytest

from openride_analytics.warehouse import (
    QueryTooLong,
    StatementRefused,
    Warehouse,
    WarehouseError,
    WarehouseUnavailable,
)
from openride_analytics.warehouse.server import ServerWarehouse
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.process import HOST, free_port

ENGINES = ("embedded", "server")
LONG = "SELECT toString(max(number)) AS n FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))"
ENDLESS = "SELECT toString(number) AS line, repeat('x', 200) AS more FROM numbers(1000000000000)"
FEW_AT_A_TIME = " SETTINGS max_block_size = 1000"
PATIENCE_SECONDS = 60.0


@pytest.fixture(params=ENGINES)
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    found: Warehouse = request.getfixturevalue(f"{request.param}_warehouse")
    return found


async def running(warehouse: Warehouse, sql: str) -> int:
    found = await warehouse.query(
        "SELECT count() AS n FROM system.processes WHERE position(query, {sql:String}) > 0 AND NOT position(query, 'count()')",
        {"sql": sql},
    )
    return int(found[0]["n"])


async def until_running(warehouse: Warehouse, sql: str, count: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await running(warehouse, sql) != count:  # noqa: ASYNC110  # another process's state
            await asyncio.sleep(0.02)


async def test_all_rows_come_in_blocks_of_columns_with_bound_parameters(warehouse: Warehouse) -> None:
    sql = f"SELECT toString(number) AS line, {{n:UInt64}} AS n, NULL AS nothing FROM numbers(10000){FEW_AT_A_TIME}"
    numbers: list[str] = []
    count = 0
    async with warehouse.stream(sql, {"n": 7}, timeout_seconds=30) as blocks:
        async for lines, sevens, nothing in blocks:
            numbers += lines
            count += 1
            assert set(sevens) == {7}
            assert set(nothing) == {None}
    assert sorted(map(int, numbers)) == list(range(10_000))
    assert count >= 10
    assert await warehouse.query("SELECT 1 AS n") == [{"n": 1}]


async def test_no_rows_are_no_blocks(warehouse: Warehouse) -> None:
    async with warehouse.stream("SELECT 1 AS n WHERE 0", timeout_seconds=30) as blocks:
        assert [block async for block in blocks] == []


async def test_leaving_early_stops_the_query_and_leaves_nothing_for_the_next(warehouse: Warehouse) -> None:
    async with warehouse.stream(ENDLESS + FEW_AT_A_TIME, timeout_seconds=60) as blocks:
        assert (await anext(blocks))[0]
        assert await running(warehouse, "repeat('x', 200)") == 1
    await until_running(warehouse, "repeat('x', 200)", 0)
    for n in range(5):
        assert await warehouse.query("SELECT {n:Int64} AS n", {"n": n}) == [{"n": n}]


@pytest.mark.parametrize("sql", [LONG, ENDLESS])
@pytest.mark.timeout(200)
async def test_a_cancelled_caller_stops_the_query_before_its_first_row_too(
    warehouse: Warehouse, sql: str
) -> None:
    async def ask() -> None:
        async with warehouse.stream(sql, timeout_seconds=300) as blocks:
            async for _ in blocks:
                pass

    asking = asyncio.create_task(ask())
    await until_running(warehouse, "numbers(1000000000000)", 1)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait_for(asking, PATIENCE_SECONDS)
    await until_running(warehouse, "numbers(1000000000000)", 0)
    assert await warehouse.query("SELECT 1 AS n") == [{"n": 1}]


async def test_a_wrong_statement_is_refused(warehouse: Warehouse) -> None:
    for sql in ("SELEC", "SELECT * FROM nowhere", "SELECT {n:Int64}"):
        with pytest.raises(StatementRefused):
            async with warehouse.stream(sql, timeout_seconds=30) as blocks:
                await anext(blocks, None)
    assert await warehouse.query("SELECT 1 AS n") == [{"n": 1}]


async def test_a_failure_between_two_blocks_is_raised(warehouse: Warehouse) -> None:
    sql = (
        f"SELECT throwIf(number = 500000, 'late') AS n FROM numbers(1000000){FEW_AT_A_TIME}, max_threads = 1"
    )
    count = 0
    with pytest.raises(WarehouseError):  # noqa: PT012  # where it is raised is what matters
        async with warehouse.stream(sql, timeout_seconds=60) as blocks:
            async for block in blocks:
                count += len(block[0])
    assert 0 < count <= 500_000
    assert await warehouse.query("SELECT 1 AS n") == [{"n": 1}]


async def test_a_stream_that_takes_too_long_is_stopped(warehouse: Warehouse) -> None:
    with pytest.raises(QueryTooLong):
        async with warehouse.stream(LONG, timeout_seconds=2) as blocks:
            await anext(blocks, None)
    await until_running(warehouse, "numbers(1000000000000)", 0)


async def test_a_slow_caller_holds_the_engine_back_and_not_the_rows(warehouse: Warehouse) -> None:
    process = psutil.Process()
    async with warehouse.stream(ENDLESS, timeout_seconds=120) as blocks:
        await anext(blocks)
        before = process.memory_info().rss
        for _ in range(5):
            await asyncio.sleep(0.2)
            await anext(blocks)
        assert process.memory_info().rss - before < 200_000_000


async def test_all_parts_of_a_statement_see_the_same_rows_while_others_write(warehouse: Warehouse) -> None:
    """An export's number of rows stands before its rows: nothing may come in between."""
    await warehouse.execute("DROP TABLE IF EXISTS written")
    await warehouse.execute("CREATE TABLE written (n UInt64) ENGINE = MergeTree ORDER BY n")
    ended = asyncio.Event()

    async def write() -> None:
        while not ended.is_set():
            await warehouse.execute("INSERT INTO written SELECT number FROM numbers(1000)")

    writing = asyncio.create_task(write())
    sql = """
    WITH (SELECT count() FROM written WHERE NOT ignore(sleep(0.05))) AS total
    SELECT toString(n) AS line, total FROM written WHERE total < 10000000
    UNION ALL
    SELECT '' AS line, total WHERE total >= 10000000
    """
    try:
        for _ in range(8):
            come, announced = 0, 0
            async with warehouse.stream(sql, timeout_seconds=60) as blocks:
                async for lines, totals in blocks:
                    come, announced = come + len(lines), totals[0]
            assert come == announced
    finally:
        ended.set()
        await writing


async def test_a_server_that_is_away_is_unavailable() -> None:
    warehouse = ServerWarehouse(
        f"clickhouse://{HOST}:{free_port()}/openride", query_timeout_seconds=5, insert_timeout_seconds=5
    )
    with pytest.raises(WarehouseUnavailable):
        async with warehouse.stream("SELECT 1", timeout_seconds=5) as blocks:
            await anext(blocks)


async def test_a_server_that_dies_in_the_middle_breaks_the_stream() -> None:
    with ClickHouseServer() as server:
        warehouse = ServerWarehouse(server.url, query_timeout_seconds=30, insert_timeout_seconds=30)
        with pytest.raises(WarehouseUnavailable):  # noqa: PT012
            async with warehouse.stream(ENDLESS, timeout_seconds=60) as blocks:
                await anext(blocks)
                server.kill()
                async for _ in blocks:
                    pass
        await warehouse.close()
