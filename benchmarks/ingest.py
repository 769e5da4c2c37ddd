"""Ingestion, from a real Kafka through the service into a real ClickHouse: rate, freshness, CPU and memory.

`python benchmarks/ingest.py [--rate 10000] [--seconds 60] [--seed 1] [--json]`; with `--rate 0` all records are sent
first, and it is measured how fast the service catches up. Kafka, ClickHouse, PostgreSQL and Valkey are started in
temporary folders; the service (`openride-analytics serve`) and the producer are processes of their own.

- **Freshness**: every 100 ms one event and one location of the stream are noted, and ClickHouse is asked every 20 ms
  which of them a query can see (with FINAL, as the metrics do). The time from producing to seeing is the whole way
  through producer, broker, service and store.
- **CPU per event**: user and system time of the service's process over the events it stored; ClickHouse's beside it.
- **Baseline**, in the same run: a plain consumer (aiokafka one record at a time, `json.loads`, rows of 1,000 as
  JSONEachRow over HTTP into a MergeTree table) on records of the same stream. `times_better_than_baseline` is its CPU
  per event over the service's.
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

import httpx
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.stream import Stream
from openride_analytics.config import Kafka
from openride_analytics.warehouse.server import ServerWarehouse
from tests.integration.running import ServiceProcess
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.kafka import KafkaServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

TICK_SECONDS: Final = 0.02
PROBE_EVERY_SECONDS: Final = 0.1
BASELINE_EVENTS: Final = 50_000
BASELINE_TOPIC: Final = "baseline"
BATCH_BYTES: Final = 500_000
SETTLE_SECONDS: Final = 120.0


def main() -> int:
    """Runs the benchmark and prints its report; 1 if events are missing at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rate", type=int, default=10_000, help="events per second; 0: all at once (default: 10000)"
    )
    parser.add_argument("--seconds", type=int, default=20, help="length of the stream (default: 20)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    with _servers() as (kafka, clickhouse, config):
        report = asyncio.run(_measure(options, kafka, clickhouse, config))
    for name, value in report.items():
        print(f"{name:<28} {value:,.2f}" if isinstance(value, float) else f"{name:<28} {value:,}")
    if options.json:
        print(json.dumps(report))
    return 0 if report["events_stored"] >= report["events_produced"] else 1


@contextmanager
def _servers() -> Iterator[tuple[KafkaServer, ClickHouseServer, dict[str, dict[str, Any]]]]:
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
        yield kafka, clickhouse, config


async def _measure(
    options: argparse.Namespace,
    kafka: KafkaServer,
    clickhouse: ClickHouseServer,
    config: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    catching_up = options.rate == 0
    total = (options.rate or 50_000) * options.seconds
    await _make_topics(kafka)
    service = ServiceProcess(config)
    here, there = multiprocessing.Pipe()
    producer = multiprocessing.get_context("spawn").Process(
        target=_produce, args=(kafka.address, options.seed, options.rate, total, there), daemon=True
    )
    warehouse = ServerWarehouse(clickhouse.url, query_timeout_seconds=30, insert_timeout_seconds=30)
    try:
        if catching_up:
            producer.start()
            await asyncio.to_thread(producer.join)
        await asyncio.to_thread(service.start)
        await asyncio.to_thread(service.wait_until_ready)
        processes = [psutil.Process(service.pid), psutil.Process(clickhouse.pid)]
        cpu_before = [_cpu_seconds(process) for process in processes]
        began = time.time()
        if not catching_up:
            producer.start()
        lags, peak, ended = await _watch(warehouse, here, processes[0], total)
        cpu = [_cpu_seconds(process) - before for process, before in zip(processes, cpu_before, strict=True)]
        stored = await _stored(warehouse)
    finally:
        await warehouse.close()
        await asyncio.to_thread(service.close)
        if producer.is_alive():
            producer.terminate()
    # The stream's own time: the last events' way into the store is freshness, not rate.
    elapsed = ended - began - (median(lags) if lags else 0)
    report: dict[str, Any] = {
        "events_produced": total,
        "events_stored": stored,
        "events_per_second": stored / elapsed,
        "cpu_us_per_event": cpu[0] / stored * 1e6,
        "clickhouse_cpu_us_per_event": cpu[1] / stored * 1e6,
        "peak_memory_mb": peak / 1e6,
    }
    if len(lags) > 1 and not catching_up:
        percentiles = quantiles(lags, n=100, method="inclusive")
        for percent in (50, 95, 99):
            report[f"p{percent}_seconds"] = percentiles[percent - 1]
        report["probes"] = len(lags)
    if not options.no_baseline:
        baseline = await _baseline(kafka, clickhouse, options.seed)
        report["baseline_cpu_us_per_event"] = baseline
        report["times_better_than_baseline"] = baseline / report["cpu_us_per_event"]
    return report


async def _watch(
    warehouse: ServerWarehouse, produced: Connection, service: psutil.Process, total: int
) -> tuple[list[float], int, float]:
    """Until all is stored: how long each probe took to be seen, the service's largest memory, and the time of the end."""
    waiting: dict[str, float] = {}
    lags: list[float] = []
    peak = 0
    deadline = time.time() + total / 5_000 + SETTLE_SECONDS
    stored = 0
    while time.time() < deadline:
        while produced.poll():
            event_id, at = produced.recv()
            waiting[event_id] = at
        if waiting:
            seen = await warehouse.query(
                _SEEN, {"ids": list(waiting), "since": int(min(waiting.values()) * 1000) - 1}
            )
            now = time.time()
            lags += [now - waiting.pop(row["id"]) for row in seen]
        else:
            stored = await _stored(warehouse)
        peak = max(peak, service.memory_info().rss)
        if stored >= total and not waiting:
            break
        await asyncio.sleep(TICK_SECONDS)
    return lags, peak, time.time()


_SEEN: Final = """
SELECT toString(event_id) AS id
FROM events FINAL
WHERE event_timestamp >= fromUnixTimestamp64Milli({since:Int64}) AND event_id IN {ids:Array(UUID)}

UNION ALL

SELECT toString(event_id) AS id
FROM driver_locations FINAL
WHERE event_timestamp >= fromUnixTimestamp64Milli({since:Int64}) AND event_id IN {ids:Array(UUID)}
"""


async def _stored(warehouse: ServerWarehouse) -> int:
    (row,) = await warehouse.query("SELECT sum(events) AS events FROM ingest_log")
    return int(row["events"])


def _produce(address: str, seed: int, rate: int, total: int, probes: Connection) -> None:
    """The producer's process."""
    asyncio.run(_send(address, seed, rate, total, probes))


async def _send(address: str, seed: int, rate: int, total: int, probes: Connection) -> None:
    stream = Stream(seed)
    producer = AIOKafkaProducer(bootstrap_servers=address, compression_type="lz4", linger_ms=5)
    await producer.start()
    sent = 0
    began = last_probe = time.time()
    try:
        while sent < total:
            now = time.time()
            due = min(total, int((now - began) * rate)) if rate else min(total, sent + 20_000)
            batches: dict[str, Any] = {}
            for number in range(sent, due):
                event_id = None
                is_probe = rate and number in (sent, sent + 1) and now - last_probe >= PROBE_EVERY_SECONDS
                if is_probe:
                    event_id = stream.new_id()
                    probes.send((event_id, now))
                location = number == sent + 1 if is_probe else None
                topic, record = stream.record(int(now * 1000), event_id, location=location)
                batch = batches.get(topic)
                if batch is None or batch.append(key=None, value=record, timestamp=None) is None:
                    if batch is not None:
                        await producer.send_batch(batch, topic, partition=0)
                    batch = batches[topic] = producer.create_batch()
                    batch.append(key=None, value=record, timestamp=None)
            if now - last_probe >= PROBE_EVERY_SECONDS and due > sent + 1:
                last_probe = now
            for topic, batch in batches.items():
                await producer.send_batch(batch, topic, partition=0)
            sent = due
            if rate:
                await asyncio.sleep(TICK_SECONDS)
        await producer.flush()
    finally:
        await producer.stop()


async def _make_topics(kafka: KafkaServer) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.address)
    await admin.start()
    try:
        topics = (*Kafka().topics, BASELINE_TOPIC)
        await admin.create_topics(
            [NewTopic(topic, num_partitions=1, replication_factor=1) for topic in topics]
        )
    finally:
        await admin.close()


async def _baseline(kafka: KafkaServer, clickhouse: ClickHouseServer, seed: int) -> float:
    """CPU microseconds per event of the plain consumer, in a process of its own."""
    stream = Stream(seed)
    producer = AIOKafkaProducer(bootstrap_servers=kafka.address, compression_type="lz4")
    await producer.start()
    for _ in range(BASELINE_EVENTS):
        await producer.send(BASELINE_TOPIC, stream.record(int(time.time() * 1000))[1])
    await producer.stop()
    here, there = multiprocessing.Pipe()
    arguments = (kafka.address, f"http://127.0.0.1:{clickhouse.http_port}", there)
    process = multiprocessing.get_context("spawn").Process(
        target=_consume_plainly, args=arguments, daemon=True
    )
    process.start()
    cpu_us: float = await asyncio.to_thread(here.recv)
    await asyncio.to_thread(process.join)
    return cpu_us


def _consume_plainly(address: str, clickhouse: str, result: Connection) -> None:
    """The baseline's process."""
    result.send(asyncio.run(_plain_consumer(address, clickhouse)))


async def _plain_consumer(address: str, clickhouse: str) -> float:
    consumer = AIOKafkaConsumer(
        BASELINE_TOPIC,
        bootstrap_servers=address,
        group_id="baseline",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    async with httpx.AsyncClient(base_url=clickhouse, timeout=60, trust_env=False) as http:
        layout = "event_type LowCardinality(String), event_id UUID, event_timestamp Int64, payload String"
        table = f"CREATE TABLE baseline ({layout})"
        (
            await http.post("/", content=f"{table} ENGINE = MergeTree ORDER BY (event_type, event_timestamp)")
        ).raise_for_status()
        await consumer.start()
        cpu_before = _own_cpu_seconds()
        rows: list[str] = []
        taken = 0
        while taken < BASELINE_EVENTS:
            record = await consumer.getone()
            event = json.loads(record.value)
            columns = {name: event[name] for name in ("event_type", "event_id", "event_timestamp")}
            rows.append(json.dumps({**columns, "payload": json.dumps(event)}))
            taken += 1
            if len(rows) == 1_000 or taken == BASELINE_EVENTS:
                query = {"query": "INSERT INTO baseline FORMAT JSONEachRow"}
                (await http.post("/", params=query, content="\n".join(rows))).raise_for_status()
                await consumer.commit()
                rows.clear()
        used = _own_cpu_seconds() - cpu_before
        await consumer.stop()
    return used / taken * 1e6


def _own_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    sys.exit(main())
