"""Ingestion, from a real Kafka through the service into a real ClickHouse: rate, freshness, CPU and memory.

`python benchmarks/ingest.py [--rate 10000] [--seconds 20] [--events 500000] [--seed 1] [--no-baseline] [--json]`. Kafka,
ClickHouse, PostgreSQL and Valkey are started in temporary folders; the service (`openride-analytics serve`) and the
producer are processes of their own. All of them share the machine. Two runs, each with empty servers:

- **At a rate**: `--rate` events/s for `--seconds` (0: left out). Every 100 ms one business event and one location are
  noted when they are made, and ClickHouse is asked every 50 ms which of them a query can see (with FINAL, as the metrics
  do). So `p95_seconds` is the whole way through producer, broker, service and store, and the wait to be asked for.
  Every two seconds a user registers in a city of his own, and `GET /v1/metrics/users` is asked for it every 200 ms until
  the user is in the answer: `p95_answered_seconds`, with the time for which the cache keeps an answer, and the query.
- **At full rate**: `--events` are in Kafka before the service starts. `events_per_second` is how fast it stores
  what is left once it is ready.

**CPU per event** is user and system time of a process over the events stored in that time: it hardly depends on what else
the machine does. Figures without a prefix are those at full rate, `paced_…` those at the rate. Events are counted in
the tables at the end, where repeats would count once. Memory is the kernel's high-water mark for the service.
`disk_bytes_per_event` is what all tables hold once they are merged, indexes and ids included.

**Baselines** (`baselines.py`) read the topics of the run at full rate. As the second has no process of its own, CPU is
compared for process and ClickHouse together: `times_better_than_baseline` is that of the first design over the service's
(and `…_without_clickhouse` that of the processes alone), `times_slower_than_limit` the service's over that of
ClickHouse when it reads Kafka itself.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from aiokafka import AIOKafkaProducer

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import baselines
from benchmarks.servers import Servers, cpu_seconds, make_topics, peak_memory_mb, servers
from benchmarks.stream import Stream
from openride_analytics.config import Kafka
from openride_analytics.warehouse import Parameters
from openride_analytics.warehouse.server import ServerWarehouse
from tests.integration.running import ServiceProcess

TICK_SECONDS: Final = 0.02
POLL_SECONDS: Final = 0.05
ASK_SECONDS: Final = 0.2
MARK_EVERY_SECONDS: Final = 2.0
CITY: Final = "city of mark "
PROBE_EVERY_SECONDS: Final = 0.1
SETTLE_SECONDS: Final = 120.0


# What both runs report.
_BOTH: Final = frozenset(
    {
        *("events_produced", "events_stored", "dead_letters", "events_per_second", "peak_memory_mb"),
        *("cpu_us_per_event", "clickhouse_cpu_us_per_event", "kafka_cpu_us_per_event"),
    }
)


def main() -> int:
    """Runs the benchmark and prints its report; 1 if events are missing at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rate", type=int, default=10_000, help="events per second; 0: at full rate only (default: 10000)"
    )
    parser.add_argument("--seconds", type=int, default=20, help="length of the run at a rate (default: 20)")
    parser.add_argument("--events", type=int, default=500_000, help="at full rate (default: 500000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    report: dict[str, Any] = {}
    lost = 0
    for rate, total in ((options.rate, options.rate * options.seconds), (0, options.events)):
        if not total:
            continue
        with servers() as running:
            part = asyncio.run(_measure(options, rate, total, running))
        lost += part["events_produced"] - part["events_stored"]
        report |= {f"paced_{name}" if rate and name in _BOTH else name: value for name, value in part.items()}
    for name, value in report.items():
        print(f"{name:<28} {value:,.2f}" if isinstance(value, float) else f"{name:<28} {value:,}")
    if options.json:
        print(json.dumps(report))
    return 1 if lost else 0


async def _measure(options: argparse.Namespace, rate: int, total: int, running: Servers) -> dict[str, Any]:
    catching_up = rate == 0
    kafka, clickhouse = running.kafka, running.clickhouse
    await make_topics(kafka, Kafka().topics)
    service = ServiceProcess(running.config)
    here, there = multiprocessing.Pipe()
    producer = multiprocessing.get_context("spawn").Process(
        target=produce, args=(kafka.address, options.seed, rate, total, there), daemon=True
    )
    warehouse = ServerWarehouse(clickhouse.url, query_timeout_seconds=30, insert_timeout_seconds=30)
    try:
        if catching_up:
            producer.start()
            await asyncio.to_thread(producer.join)
        await asyncio.to_thread(service.start)
        await asyncio.to_thread(service.wait_until_ready)
        pids = service.pid, clickhouse.pid, kafka.pid
        # When it catches up, the service has begun by now: what it has already stored does not count.
        began, before, cpu_before = time.time(), await _logged(warehouse), [cpu_seconds(pid) for pid in pids]
        if not catching_up:
            producer.start()
            began = await asyncio.to_thread(here.recv)
        marked: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        answered: list[float] = []
        asking = asyncio.create_task(_ask(service, marked, answered))
        lags, ended = await _watch(warehouse, marked, here, producer, total)
        cpu = [cpu_seconds(pid) - earlier for pid, earlier in zip(pids, cpu_before, strict=True)]
        peak = peak_memory_mb(service.pid)
        await _finished(asking, marked)
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
        "kafka_cpu_us_per_event": cpu[2] / measured * 1e6,
        "peak_memory_mb": peak,
    }
    if len(lags) > 1:
        percentiles = quantiles(lags, n=100, method="inclusive")
        report |= {f"p{percent}_seconds": percentiles[percent - 1] for percent in (50, 95, 99)}
        report["probes"] = len(lags)
    if len(answered) > 1:
        report["p95_answered_seconds"] = quantiles(answered, n=100, method="inclusive")[94]
        report["answers"] = len(answered)
    if catching_up:
        report["disk_bytes_per_event"] = await _disk_bytes(clickhouse.url) / counted["events"]
    if catching_up and not options.no_baseline:
        report |= await _baselines(running, total, report)
    return report


async def _disk_bytes(url: str) -> int:
    """What the tables hold on disk, once they are merged."""
    warehouse = ServerWarehouse(url, query_timeout_seconds=600, insert_timeout_seconds=600)
    try:
        for table in await warehouse.query(_TABLES):
            await warehouse.execute(f"OPTIMIZE TABLE {table['name']} FINAL")
        (row,) = await warehouse.query(_ON_DISK)
    finally:
        await warehouse.close()
    return int(row["bytes"])


async def _baselines(running: Servers, total: int, report: dict[str, Any]) -> dict[str, Any]:
    """Both baselines on the topics of the run, after it, and how the service compares."""
    warehouse = ServerWarehouse(running.clickhouse.url, query_timeout_seconds=60, insert_timeout_seconds=60)
    try:
        limit = await baselines.kafka_engine(running, warehouse, Kafka().topics, total)
        first, stored = await baselines.first_design(running, warehouse, Kafka().topics, total)
    finally:
        await warehouse.close()
    ours, whole = (
        report["cpu_us_per_event"],
        report["cpu_us_per_event"] + report["clickhouse_cpu_us_per_event"],
    )
    return {
        "baseline_cpu_us_per_event": first,
        "baseline_clickhouse_cpu_us_per_event": stored,
        "limit_cpu_us_per_event": limit,
        "times_better_than_baseline": (first + stored) / whole,
        "times_better_than_baseline_without_clickhouse": first / ours,
        "times_slower_than_limit": whole / limit,
    }


async def _watch(
    warehouse: ServerWarehouse,
    marked: "asyncio.Queue[tuple[str, float]]",
    produced: Connection,
    producer: BaseProcess,
    total: int,
) -> tuple[list[float], float]:
    """Until all is stored, or it takes too long: how long each probe took to be stored, and the time of the end. Cities that
    were marked are handed on.
    """
    waiting: dict[str, float] = {}
    lags: list[float] = []
    deadline = time.time() + total / 5_000 + SETTLE_SECONDS
    while time.time() < deadline:
        while produced.poll():
            name, at = produced.recv()
            if name.startswith(CITY):
                marked.put_nowait((name, at))
            else:
                waiting[name] = at
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


async def _finished(asking: "asyncio.Task[None]", marked: "asyncio.Queue[tuple[str, float]]") -> None:
    """Waits for the answers that are still to come: the slowest count, too. Raises what asking met with."""
    all_answered = asyncio.create_task(marked.join())
    await asyncio.wait({asking, all_answered}, timeout=SETTLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    if asking.done():
        asking.result()
    if not all_answered.done():
        raise TimeoutError("a marked city is in no answer")
    asking.cancel()


async def _ask(
    service: ServiceProcess, marked: "asyncio.Queue[tuple[str, float]]", answered: list[float]
) -> None:
    """Asks the metrics for the users of each marked city until there is one."""
    while True:
        city, at = await marked.get()
        while True:
            if await asyncio.to_thread(_users, service, city):
                break
            await asyncio.sleep(ASK_SECONDS)
        answered.append(time.time() - at)
        marked.task_done()


def _users(service: ServiceProcess, city: str) -> int:
    answer = service.get_json("/v1/metrics/users", city=city)
    return int(answer["summary"]["total_users"])


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


_TABLES: Final = """
SELECT name
FROM system.tables
WHERE database = currentDatabase() AND endsWith(engine, 'MergeTree')
"""

_ON_DISK: Final = """
SELECT sum(bytes_on_disk) AS bytes
FROM system.parts
WHERE active AND database = currentDatabase()
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
    began = last_probe = last_mark = time.time()
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
                if rate and number == sent + 2 and now - last_mark >= MARK_EVERY_SECONDS:
                    last_mark = now
                    probes.send((city := f"{CITY}{now}", now))
                    topic, record = stream.registration(int(now * 1000), city)
                else:
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


if __name__ == "__main__":
    sys.exit(main())
