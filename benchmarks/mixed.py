"""Answering while ingesting: does the event loop stay free at full rate?

`python benchmarks/mixed.py [--rate 50000] [--seconds 30] [--seed 1] [--json]`; real servers in temporary folders, the
service, the producer of `ingest.py` and those who ask as processes of their own. From when the stream runs, one client
asks `/health/live` every 20 ms, and another one metrics, each question of a dashboard in turn, every 50 ms.

- **rate**: events stored per second in the time in which it was asked, by ClickHouse's own log.
- **health, cached**: times as the clients see them, on a machine that producer, Kafka, ClickHouse and service share. The
  clients run at a higher priority: that they have to wait for a core themselves is no time of the service's.
- **cached** are the answers that were a hit or stale; how many were not is said beside.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))


from benchmarks.asking import Asked, Asker, percentiles_ms
from benchmarks.ingest import produce
from benchmarks.servers import Servers, cpu_seconds, make_topics, servers
from openride_analytics.config import Kafka
from openride_analytics.warehouse.server import ServerWarehouse
from tests.integration.running import ServiceProcess

HEALTH_SECONDS: Final = 0.02
METRICS_SECONDS: Final = 0.05
ENDPOINTS: Final = ("users", "bookings", "payments", "trips", "drivers", "routes")
WARM_UP_SECONDS: Final = 10.0
PRIORITY: Final = -10


def main() -> int:
    """Runs the benchmark and prints its report; 1 if a request failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=int, default=50_000, help="events per second (default: 50000)")
    parser.add_argument("--seconds", type=int, default=30, help="how long it is asked (default: 30)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    with servers() as running:
        report = asyncio.run(_measure(options, running))
    for name, value in report.items():
        print(f"{name:<28} {value:,.2f}" if isinstance(value, float) else f"{name:<28} {value:,}")
    if options.json:
        print(json.dumps(report))
    return 1 if report["requests_failed"] else 0


async def _measure(options: argparse.Namespace, running: Servers) -> dict[str, Any]:
    await make_topics(running.kafka, Kafka().topics)
    processes = multiprocessing.get_context("spawn")
    service = ServiceProcess(running.config)
    probes, told = multiprocessing.Pipe()
    total = int(options.rate * (options.seconds + 2 * WARM_UP_SECONDS))
    producer = processes.Process(
        target=produce, args=(running.kafka.address, options.seed, options.rate, total, told), daemon=True
    )
    warehouse = ServerWarehouse(running.clickhouse.url, query_timeout_seconds=30, insert_timeout_seconds=30)
    try:
        await asyncio.to_thread(service.start)
        await asyncio.to_thread(service.wait_until_ready)
        producer.start()
        threading.Thread(target=_drain, args=(probes,), daemon=True).start()
        here, there = multiprocessing.Pipe()
        asking = processes.Process(target=ask, args=(service.url, options.seconds, there), daemon=True)
        asking.start()
        await asyncio.to_thread(here.recv)  # it is warm
        pids = service.pid, running.clickhouse.pid
        cpu_before = [cpu_seconds(pid) for pid in pids]
        stored_before, began = await _logged(warehouse), time.time()
        health, metrics = await asyncio.to_thread(here.recv)
        stored, seconds = await _logged(warehouse) - stored_before, time.time() - began
        cpu = [cpu_seconds(pid) - before for pid, before in zip(pids, cpu_before, strict=True)]
        await asyncio.to_thread(asking.join)
    finally:
        await warehouse.close()
        await asyncio.to_thread(service.close)
        if producer.is_alive():
            producer.terminate()
    return _report(stored, seconds, cpu, health, metrics)


def _report(
    stored: int, seconds: float, cpu: list[float], health: list[Asked], metrics: list[Asked]
) -> dict[str, Any]:
    cached = [asked.seconds for asked in metrics if asked.source in ("hit", "stale")]
    return {
        "events_per_second": stored / seconds,
        "cpu_us_per_event": cpu[0] / max(stored, 1) * 1e6,
        "clickhouse_cpu_us_per_event": cpu[1] / max(stored, 1) * 1e6,
        "requests": len(health) + len(metrics),
        "requests_failed": sum(asked.status != 200 for asked in [*health, *metrics]),
        **percentiles_ms("health", [asked.seconds for asked in health]),
        **percentiles_ms("cached", cached),
        "cached_share": len(cached) / max(len(metrics), 1),
        **percentiles_ms("miss", [asked.seconds for asked in metrics if asked.source == "miss"]),
    }


def _drain(probes: Connection) -> None:
    """What the producer tells of its probes interests nobody here."""
    with suppress(EOFError):
        while True:
            probes.recv()


def ask(url: str, seconds: float, result: Connection) -> None:
    """The clients' process: warms up, says so, asks for so long, and sends what it saw."""
    with suppress(psutil.AccessDenied, PermissionError):
        psutil.Process(os.getpid()).nice(PRIORITY)
    health: list[Asked] = []
    metrics: list[Asked] = []
    threads = [
        threading.Thread(target=_ask_health, args=(url, seconds, health)),
        threading.Thread(target=_ask_metrics, args=(url, seconds, metrics)),
    ]
    with Asker(url) as asker:
        until = time.monotonic() + WARM_UP_SECONDS
        while time.monotonic() < until:
            for endpoint, period in QUESTIONS:
                asker.get(f"/v1/metrics/{endpoint}", period)
    result.send("warm")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.send((health, metrics))


def _ask_health(url: str, seconds: float, seen: list[Asked]) -> None:
    until = time.monotonic() + seconds
    with Asker(url) as asker:
        while time.monotonic() < until:
            seen.append(asker.get("/health/live"))
            time.sleep(HEALTH_SECONDS)


def _ask_metrics(url: str, seconds: float, seen: list[Asked]) -> None:
    until = time.monotonic() + seconds
    questions = cycle(QUESTIONS)
    with Asker(url) as asker:
        while time.monotonic() < until:
            endpoint, period = next(questions)
            seen.append(asker.get(f"/v1/metrics/{endpoint}", period))
            time.sleep(METRICS_SECONDS)


def _days(first: int, last: int) -> dict[str, str]:
    """A period by days counted from today, in the zone that is configured by default."""
    today = datetime.now(UTC) + timedelta(hours=1)
    return {
        "start_date": f"{today + timedelta(days=first):%Y-%m-%d}",
        "end_date": f"{today + timedelta(days=last):%Y-%m-%d}",
    }


# Today by the hour, the last 30 days and a month that is over, of each endpoint.
QUESTIONS: Final = [
    (endpoint, {**period, "granularity": granularity})
    for period, granularity in ((_days(0, 0), "hour"), (_days(-30, 0), "day"), (_days(-60, -31), "day"))
    for endpoint in ENDPOINTS
]


async def _logged(warehouse: ServerWarehouse) -> int:
    """What was stored, repeats included."""
    (row,) = await warehouse.query("SELECT sum(events) AS events FROM ingest_log")
    return int(row["events"])


if __name__ == "__main__":
    sys.exit(main())
