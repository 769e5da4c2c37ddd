"""Ingestion, from a real Kafka through the service into a real ClickHouse: rate, freshness, CPU and memory.

`python benchmarks/ingest.py [--rate 10000] [--seconds 60] [--seed 1] [--json]`; with `--rate 0` all records are sent
first, and it is measured how fast the service catches up (no freshness then). Kafka, ClickHouse, PostgreSQL and Valkey
are started in temporary folders; the service (`openride-analytics serve`) and the producer are processes of their own.

- **Rate**: the events found in the tables at the end (repeats would count once), from the first one produced until the
  last one can be queried.
- **Freshness**: every 100 ms one business event and one location are noted when they are made, and ClickHouse is asked
  every 50 ms which of them a query can see (with FINAL, as the metrics do). So a figure is the whole way through
  producer, broker, service and store, and up to 50 ms of waiting to be asked for.
- **CPU per event**: user and system time of the service's process over the events it stored in that time; ClickHouse's
  beside it, which holds the probes' queries too. Memory is the kernel's high-water mark for the service.
- **Baseline**, in the same run: a plain consumer (aiokafka one record at a time, `json.loads`, rows of 1,000 as
  JSONEachRow over HTTP into a MergeTree table) on records of the same stream. It checks nothing, and stores the rest of
  an event as the text that came. `times_better_than_baseline` is its CPU per event over the service's.
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.servers import Servers, cpu_seconds, make_topics, peak_memory_mb, servers
from benchmarks.stream import Stream
from openride_analytics.config import Kafka
from openride_analytics.warehouse import Parameters
from openride_analytics.warehouse.server import ServerWarehouse
from tests.integration.running import ServiceProcess

TICK_SECONDS: Final = 0.02
POLL_SECONDS: Final = 0.05
PROBE_EVERY_SECONDS: Final = 0.1
BASELINE_EVENTS: Final = 100_000
BASELINE_TOPIC: Final = "baseline"
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
    with servers() as running:
        report = asyncio.run(_measure(options, running))
    for name, value in report.items():
        print(f"{name:<28} {value:,.2f}" if isinstance(value, float) else f"{name:<28} {value:,}")
    if options.json:
        print(json.dumps(report))
    return 0 if report["events_stored"] == report["events_produced"] else 1


async def _measure(options: argparse.Namespace, running: Servers) -> dict[str, Any]:
    catching_up = options.rate == 0
    total = (options.rate or 50_000) * options.seconds
    kafka, clickhouse = running.kafka, running.clickhouse
    await make_topics(kafka, (*Kafka().topics, BASELINE_TOPIC))
    service = ServiceProcess(running.config)
    here, there = multiprocessing.Pipe()
    producer = multiprocessing.get_context("spawn").Process(
        target=produce, args=(kafka.address, options.seed, options.rate, total, there), daemon=True
    )
    warehouse = ServerWarehouse(clickhouse.url, query_timeout_seconds=30, insert_timeout_seconds=30)
    try:
        if catching_up:
            producer.start()
            await asyncio.to_thread(producer.join)
        await asyncio.to_thread(service.start)
        await asyncio.to_thread(service.wait_until_ready)
        pids = service.pid, clickhouse.pid
        # When it catches up, the service has begun by now: what it has already stored does not count.
        began, before, cpu_before = time.time(), await _logged(warehouse), [cpu_seconds(pid) for pid in pids]
        if not catching_up:
            producer.start()
            began = await asyncio.to_thread(here.recv)
        lags, ended = await _watch(warehouse, here, producer, total)
        cpu = [cpu_seconds(pid) - earlier for pid, earlier in zip(pids, cpu_before, strict=True)]
        peak = peak_memory_mb(service.pid)
        (counted,) = await warehouse.query(_COUNTED)
    finally:
        await warehouse.close()
        await asyncio.to_thread(service.close)
        if producer.is_alive():
            producer.terminate()
    measured = counted["events"] - before
    report: dict[str, Any] = {
        "events_produced": total,
        "events_stored": counted["events"],
        "dead_letters": counted["dead_letters"],
        "events_per_second": measured / (ended - began),
        "cpu_us_per_event": cpu[0] / measured * 1e6,
        "clickhouse_cpu_us_per_event": cpu[1] / measured * 1e6,
        "peak_memory_mb": peak,
    }
    if len(lags) > 1:
        percentiles = quantiles(lags, n=100, method="inclusive")
        report |= {f"p{percent}_seconds": percentiles[percent - 1] for percent in (50, 95, 99)}
        report["probes"] = len(lags)
    if not options.no_baseline:
        baseline = await _baseline(running, options.seed)
        report["baseline_cpu_us_per_event"] = baseline
        report["times_better_than_baseline"] = baseline / report["cpu_us_per_event"]
    return report


async def _watch(
    warehouse: ServerWarehouse, produced: Connection, producer: BaseProcess, total: int
) -> tuple[list[float], float]:
    """Until all is stored, or it takes too long: how long each probe took to be seen, and the time of the end."""
    waiting: dict[str, float] = {}
    lags: list[float] = []
    deadline = time.time() + total / 5_000 + SETTLE_SECONDS
    while time.time() < deadline:
        while produced.poll():
            event_id, at = produced.recv()
            waiting[event_id] = at
        if waiting:
            since: Parameters = {"ids": list(waiting), "since": int(min(waiting.values()) * 1000) - 1}
            seen = await warehouse.query(_SEEN, since)
            now = time.time()
            lags += [now - waiting.pop(row["id"]) for row in seen]
        elif await _logged(warehouse) >= total:
            break
        if producer.exitcode:
            raise ChildProcessError(f"the producer ended with {producer.exitcode}")
        await asyncio.sleep(POLL_SECONDS)
    return lags, time.time()


_SEEN: Final = """
SELECT toString(event_id) AS id
FROM events FINAL
WHERE event_timestamp >= fromUnixTimestamp64Milli({since:Int64}) AND event_id IN {ids:Array(UUID)}

UNION ALL

SELECT toString(event_id) AS id
FROM driver_locations FINAL
WHERE event_timestamp >= fromUnixTimestamp64Milli({since:Int64}) AND event_id IN {ids:Array(UUID)}
"""


_COUNTED: Final = """
SELECT
    (SELECT count() FROM events FINAL) + (SELECT count() FROM driver_locations FINAL) AS events,
    (SELECT count() FROM dead_letters FINAL) AS dead_letters
"""


async def _logged(warehouse: ServerWarehouse) -> int:
    """What was stored, repeats included: cheap enough to ask for often."""
    (row,) = await warehouse.query("SELECT sum(events) AS events FROM ingest_log")
    return int(row["events"])


def produce(address: str, seed: int, rate: int, total: int, probes: Connection) -> None:
    """The producer's process."""
    asyncio.run(_send(address, seed, rate, total, probes))


async def _send(address: str, seed: int, rate: int, total: int, probes: Connection) -> None:
    stream = Stream(seed)
    producer = AIOKafkaProducer(bootstrap_servers=address, compression_type="lz4", linger_ms=5)
    await producer.start()
    sent = 0
    began = last_probe = time.time()
    if rate:
        probes.send(began)
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


async def _baseline(running: Servers, seed: int) -> float:
    """CPU microseconds per event of the plain consumer, in a process of its own."""
    stream = Stream(seed)
    producer = AIOKafkaProducer(bootstrap_servers=running.kafka.address, compression_type="lz4")
    await producer.start()
    for _ in range(BASELINE_EVENTS):
        await producer.send(BASELINE_TOPIC, stream.record(int(time.time() * 1000))[1])
    await producer.stop()
    here, there = multiprocessing.Pipe()
    arguments = (running.kafka.address, f"http://127.0.0.1:{running.clickhouse.http_port}", there)
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
            row = {name: event[name] for name in ("event_type", "event_id", "event_timestamp")}
            row["payload"] = record.value.decode()
            rows.append(json.dumps(row))
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


if __name__ == "__main__":
    sys.exit(main())
