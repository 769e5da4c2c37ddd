"""A long run at a steady rate: does the service hold its memory, files and connections, and lose nothing?

`python benchmarks/soak.py [--minutes 120] [--rate 5000] [--seed 1] [--json]`; real servers in temporary folders, the
service and the producer as processes of their own, the stream of `ingest.py`, and a dashboard that asks each metrics
endpoint in turn, one every two seconds. Every ten seconds the service's process is looked at.

The first fifth of the run is warming up; **growth** is the median of the last fifth less that of the second. The run
fails (exit code 1) if memory grows by more than a tenth and 20 MB, open files or connections by more than five, if a
request fails, or if the events stored are not exactly those produced.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from itertools import cycle
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ingest import produce
from benchmarks.servers import Servers, cpu_seconds, make_topics, peak_memory_mb, servers
from openride_analytics.config import Kafka
from openride_analytics.warehouse.server import ServerWarehouse
from tests.integration.running import ServiceProcess

SAMPLE_SECONDS: Final = 10.0
ASK_SECONDS: Final = 2.0
SETTLE_SECONDS: Final = 120.0
ENDPOINTS: Final = ("users", "bookings", "payments", "trips", "drivers", "routes", "realtime")
MOST_GROWTH: Final = {"files": 5.0, "connections": 5.0, "threads": 5.0}
MOST_MEMORY_GROWTH_SHARE: Final = 0.1
MOST_MEMORY_GROWTH_MB: Final = 20.0


class Sample(NamedTuple):
    """The service's process at one moment."""

    memory_mb: float
    files: int
    connections: int
    threads: int


def main() -> int:
    """Runs the soak and prints its report; 1 if something grew, failed or is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--rate", type=int, default=5_000, help="events per second (default: 5000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    with servers() as running:
        report, faults = asyncio.run(_soak(options, running))
    for name, value in report.items():
        print(f"{name:<28} {value:,.2f}" if isinstance(value, float) else f"{name:<28} {value:,}")
    for fault in faults:
        print(f"FAULT: {fault}")
    if options.json:
        print(json.dumps({**report, "faults": faults}))
    return 1 if faults else 0


async def _soak(options: argparse.Namespace, running: Servers) -> tuple[dict[str, Any], list[str]]:
    total = int(options.rate * options.minutes * 60)
    await make_topics(running.kafka, Kafka().topics)
    service = ServiceProcess(running.config)
    here, there = multiprocessing.Pipe()
    producer = multiprocessing.get_context("spawn").Process(
        target=produce, args=(running.kafka.address, options.seed, options.rate, total, there), daemon=True
    )
    warehouse = ServerWarehouse(running.clickhouse.url, query_timeout_seconds=60, insert_timeout_seconds=60)
    samples: list[Sample] = []
    answers: list[int] = []
    try:
        await asyncio.to_thread(service.start)
        await asyncio.to_thread(service.wait_until_ready)
        cpu_before = cpu_seconds(service.pid)
        producer.start()
        dashboard = asyncio.create_task(_ask(service.url, answers))
        while producer.is_alive():
            await asyncio.sleep(SAMPLE_SECONDS)
            while here.poll():
                here.recv()  # the moments of the probes, which are of no interest here
            samples.append(_sample(service.pid))
            print(f"{len(samples) * SAMPLE_SECONDS:7.0f} s  {samples[-1]}", file=sys.stderr)
        stored, letters = await _stored(warehouse, total)
        dashboard.cancel()
        cpu, peak = cpu_seconds(service.pid) - cpu_before, peak_memory_mb(service.pid)
    finally:
        await warehouse.close()
        await asyncio.to_thread(service.close)
        _end(producer)
    fifth = max(1, len(samples) // 5)
    early, late = samples[fifth : 2 * fifth] or samples, samples[-fifth:]
    growth = {
        name: median(getattr(sample, name) for sample in late)
        - median(getattr(sample, name) for sample in early)
        for name in Sample._fields
    }
    report = {
        "minutes": float(options.minutes),
        "events_produced": total,
        "events_stored": stored,
        "dead_letters": letters,
        "requests": len(answers),
        "requests_failed": sum(status != httpx.codes.OK for status in answers),
        "cpu_us_per_event": cpu / max(stored, 1) * 1e6,
        "peak_memory_mb": peak,
        **{f"{name}_at_the_end": float(median(getattr(s, name) for s in late)) for name in Sample._fields},
        **{f"{name}_growth": float(value) for name, value in growth.items()},
    }
    return report, _faults(report, growth, early)


def _sample(pid: int) -> Sample:
    process = psutil.Process(pid)
    with process.oneshot():
        return Sample(
            memory_mb=process.memory_info().rss / 1e6,
            files=process.num_fds(),
            connections=len(process.net_connections("tcp")),
            threads=process.num_threads(),
        )


async def _ask(url: str, answers: list[int]) -> None:
    """A dashboard: an endpoint every two seconds; `answers` gets the statuses, 0 for none."""
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        for endpoint in cycle(ENDPOINTS):
            parameters = {} if endpoint == "realtime" else {"granularity": "hour", "start_date": _today()}
            try:
                response = await client.get(f"/v1/metrics/{endpoint}", params=parameters)
                answers.append(response.status_code)
            except httpx.HTTPError:
                answers.append(0)
            await asyncio.sleep(ASK_SECONDS)


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


async def _stored(warehouse: ServerWarehouse, total: int) -> tuple[int, int]:
    """Events (each once) and dead letters in the store, once all are there or it takes too long."""
    deadline = time.time() + SETTLE_SECONDS
    while True:
        (row,) = await warehouse.query(_COUNTED)
        if row["events"] >= total or time.time() > deadline:
            return int(row["events"]), int(row["dead_letters"])
        await asyncio.sleep(1)


_COUNTED: Final = """
SELECT
    (SELECT count() FROM events FINAL) + (SELECT count() FROM driver_locations FINAL) AS events,
    (SELECT count() FROM dead_letters FINAL) AS dead_letters
"""


def _end(producer: BaseProcess) -> None:
    if producer.is_alive():
        producer.terminate()


def _faults(report: dict[str, Any], growth: dict[str, float], early: list[Sample]) -> list[str]:
    faults = []
    allowed = MOST_GROWTH | {
        "memory_mb": MOST_MEMORY_GROWTH_MB
        + MOST_MEMORY_GROWTH_SHARE * median(sample.memory_mb for sample in early)
    }
    for name, most in allowed.items():
        if growth[name] > most:
            faults.append(f"{name} grew by {growth[name]:.1f}, more than {most:.1f}")
    if report["events_stored"] != report["events_produced"]:
        faults.append(f"{report['events_produced']} events produced, {report['events_stored']} stored")
    if report["requests_failed"]:
        faults.append(f"{report['requests_failed']} requests failed")
    return faults


if __name__ == "__main__":
    sys.exit(main())
