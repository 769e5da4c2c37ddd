"""Exports: rows per second and peak memory, against ClickHouse's own `FORMAT CSV` on the same rows in the same run.

`python benchmarks/export.py [--rows 1000000] [--dataset bookings] [--seed 1] [--json]`. A real ClickHouse in a temporary
folder makes the things itself; the service is a process of its own and is asked over HTTP.

- **rows_per_second**: from the request to the last byte, of a client that throws the bytes away.
- **first_byte_seconds**: until the head of the answer: the engine groups and sorts before the first row.
- **peak_memory_mb**: the kernel's high-water mark of the service's process, since its start; for Excel and Parquet also
  that of the worker beside it (`worker_peak_mb`, looked at 20 times a second).
- **clickhouse_csv**: the same statement without its text of lines, as `FORMAT CSV` over ClickHouse's own HTTP interface.
- **times_clickhouse**: the time of the service's CSV over that.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.query import DAYS, EVENTS_A_BOOKING, LAGOS, NOW, fill
from benchmarks.servers import peak_memory_mb
from openride_analytics.exports.datasets import DATASETS, bound
from openride_analytics.exports.question import Question
from openride_analytics.period import Period
from openride_analytics.warehouse import parameter_text
from openride_analytics.warehouse.server import ServerWarehouse
from tests.integration.running import ServiceProcess
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.postgres import PostgresServer

FORMATS: Final = ("csv", "excel", "parquet")
_USERS: Final = """
INSERT INTO events (event_type, event_id, event_timestamp, user_id, role, state, city)
SELECT
    'user.registered',
    reinterpretAsUUID(sipHash128({seed:UInt64}, 'e', number)),
    fromUnixTimestamp64Milli(toInt64({begin:Int64} + number % {length:UInt64})),
    reinterpretAsUUID(sipHash128({seed:UInt64}, 'u', number)),
    'RIDER',
    'Lagos',
    ['Ikeja', 'Lekki', 'Yaba'][1 + number % 3]
FROM numbers({rows:UInt64})
"""


def main() -> int:
    """Runs the benchmark and prints its report; 1 if a file has not as many rows as there are things."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="about how many (default: 1000000)")
    parser.add_argument("--dataset", choices=("bookings", "payments", "users"), default="bookings")
    parser.add_argument("--formats", default=",".join(FORMATS), help="which, with commas between them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    with ClickHouseServer() as clickhouse, PostgresServer() as postgres:
        report = asyncio.run(_measure(options, clickhouse, postgres.url))
    for name, figures in report.items():
        shown = "  ".join(f"{figure} {value:,.2f}" for figure, value in figures.items())
        print(f"{name:<16} {shown}")
    if options.json:
        print(json.dumps(report))
    return int(len({figures["rows"] for figures in report.values()}) != 1)


async def _measure(
    options: argparse.Namespace, clickhouse: ClickHouseServer, postgres_url: str
) -> dict[str, dict[str, float]]:
    warehouse = ServerWarehouse(clickhouse.url, query_timeout_seconds=600, insert_timeout_seconds=3_600)
    await warehouse.create_database()
    events = 0 if options.dataset == "users" else int(options.rows * EVENTS_A_BOOKING * 1.06)
    await fill(warehouse, max(events, 20), options.seed)
    if options.dataset == "users":
        begin = int((NOW - timedelta(days=DAYS)).timestamp() * 1_000)
        parameters = {"seed": options.seed, "begin": begin, "length": DAYS * 86_400_000, "rows": options.rows}
        await warehouse.execute(_USERS, parameters)
    period = Period(NOW - timedelta(days=DAYS + 1), NOW + timedelta(days=1), LAGOS, whole_days=False)
    question = Question(period=period, now=NOW)
    report = {"clickhouse_csv": await _clickhouse(clickhouse, options.dataset, question)}
    config: dict[str, dict[str, Any]] = {
        "clickhouse": {"url": clickhouse.url},
        "postgres": {"url": postgres_url},
        "exports": {"max_rows": 10**9, "max_excel_rows": 10**9, "timeout_seconds": 3_600.0},
    }
    for one in options.formats.split(","):
        with ServiceProcess(config) as service:
            await asyncio.to_thread(service.wait_until_ready)
            report[one] = await _service(service, one, options.dataset, period)
    if "csv" in report:
        report["csv"]["times_clickhouse"] = report["csv"]["seconds"] / report["clickhouse_csv"]["seconds"]
    await warehouse.close()
    return report


async def _clickhouse(server: ClickHouseServer, dataset: str, question: Question) -> dict[str, float]:
    rows = DATASETS[dataset].sql(question)
    order = ", ".join(DATASETS[dataset].order)
    sql = f"SELECT * FROM ({rows}) ORDER BY {order} SETTINGS prefer_column_name_to_alias = 1 FORMAT CSV"
    settings: Mapping[str, Any] = {
        "database": "openride",
        "join_use_nulls": 1,
        "do_not_merge_across_partitions_select_final": 1,
        "max_bytes_before_external_group_by": 2_000_000_000,
        "max_bytes_before_external_sort": 2_000_000_000,
        **{f"param_{name}": parameter_text(value) for name, value in bound(question).items()},
    }
    url = f"http://127.0.0.1:{server.http_port}/"
    began, count, size = time.perf_counter(), 0, 0
    async with (
        httpx.AsyncClient(timeout=3_600, trust_env=False, headers={"Accept-Encoding": "identity"}) as client,
        client.stream("POST", url, params=settings, content=sql) as response,
    ):
        response.raise_for_status()
        async for piece in response.aiter_raw():
            count, size = count + piece.count(b"\n"), size + len(piece)
    return _figures(count, size, time.perf_counter() - began)


async def _service(service: ServiceProcess, format: str, dataset: str, period: Period) -> dict[str, float]:
    asked = {
        "dataset": dataset,
        "start_date": period.start.isoformat(),
        "end_date": period.end.isoformat(),
    }
    worker_peak = asyncio.create_task(_worker_peak(service.pid))
    began, size = time.perf_counter(), 0
    async with (
        httpx.AsyncClient(timeout=3_600, trust_env=False) as client,
        client.stream("GET", f"{service.url}/v1/exports/{format}", params=asked) as response,
    ):
        response.raise_for_status()
        first = time.perf_counter() - began
        async for piece in response.aiter_raw():
            size += len(piece)
    seconds = time.perf_counter() - began
    worker_peak.cancel()
    figures = _figures(int(response.headers["X-Total-Rows"]), size, seconds)
    figures |= {"first_byte_seconds": first, "peak_memory_mb": peak_memory_mb(service.pid)}
    if format != "csv":
        figures["worker_peak_mb"] = _PEAKS.pop(service.pid, 0.0)
    return figures


_PEAKS: Final[dict[int, float]] = {}


async def _worker_peak(pid: int) -> None:
    """Watches the children of the service until cancelled."""
    while True:
        for child in psutil.Process(pid).children(recursive=True):
            try:
                _PEAKS[pid] = max(_PEAKS.get(pid, 0.0), child.memory_info().rss / 1e6)
            except psutil.NoSuchProcess:
                continue
        await asyncio.sleep(0.05)


def _figures(rows: int, size: int, seconds: float) -> dict[str, float]:
    return {
        "rows": rows,
        "rows_per_second": rows / seconds,
        "mb_per_second": size / 1e6 / seconds,
        "seconds": seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
