"""Dashboards on a stream: how many of their questions does the cache answer, and how fast?

`python benchmarks/cache.py [--seconds 180] [--events 500000] [--instances 2] [--dashboards 20] [--seed 1] [--json]`; a
real ClickHouse, PostgreSQL and Valkey in temporary folders, and several instances of the service that share them. The
made-up platform of the demo gives 90 days of history (the last `--events` of it are stored) and goes on with a live stream;
now and then a device that was offline sends a few events that are up to three days old.

- **Load**: each dashboard shows a view (a period and a filter, both drawn by Zipf's law, so that most look at the same few) as
  eight panels, which are asked for every ten seconds, by all dashboards together six at a time; what they wait for that is not
  counted. Its viewer turns to another view after five minutes on
  average. Dashboards are spread over the instances.
- **hit_rate**: hits and stale answers among all, from the second refresh on; both are also given by themselves.
- **`alone_…`**: cached answers that one client asks for in turn, when the dashboards are gone: nothing waits for anything,
  so what the handler takes is less.
- **Times** as the dashboards see them. `times_faster` is the median answer of the same load with a cache that keeps
  nothing (a third as long; equal questions at the same time still share one computation) over that with it;
  `clickhouse_cpu_share` is how much of a core ClickHouse took.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Final, NamedTuple

import httpx
import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.asking import Asked, Asker, percentiles_ms
from benchmarks.servers import cpu_seconds
from openride_analytics.demo.platform import Platform
from tests.integration.running import ServiceProcess
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

REFRESH_SECONDS: Final = 10.0
DWELL_SECONDS: Final = 300.0
LIVE_SECONDS: Final = 0.5
LATE_SECONDS: Final = 20.0
LATEST_HOURS: Final = 72
LATE_EVENTS: Final = 5
BATCH_EVENTS: Final = 10_000
# The load without a cache is only there to be compared with.
UNCACHED_SHARE: Final = 1 / 3
LEAST_SECONDS: Final = 2 * REFRESH_SECONDS
ALONE_ROUNDS: Final = 100
ASKED_AT_ONCE: Final = (
    6  # by all dashboards together, each for its own panels in turn: two cores compute no more
)
# Lifetimes so short that nothing is used again.
NOTHING_KEPT: Final = {
    "fresh_seconds": 0.0,
    "stale_seconds": 0.0,
    "max_age_seconds": 0.001,
    "closed_max_age_seconds": 0.001,
}

# By days from today: the commonest first.
PERIODS: Final = (
    (-30, 0),
    (0, 0),
    (-6, 0),
    (-1, -1),
    (-37, -8),
    (-13, -7),
    (-60, -31),
    (-2, -2),
    (-89, 0),
    (-59, 0),
)
FILTERS: Final[tuple[dict[str, str], ...]] = (
    {},
    {"state": "Lagos"},
    {"state": "FCT"},
    {"city": "Ikeja"},
    {"state": "Oyo"},
    {"city": "Lekki"},
    {"state": "Rivers"},
    {"city": "Abuja"},
)
PANELS: Final[tuple[tuple[str, dict[str, str]], ...]] = (
    ("/v1/metrics/users", {"granularity": "day"}),
    ("/v1/metrics/bookings", {"granularity": "day", "compare": "previous"}),
    ("/v1/metrics/payments", {"granularity": "day"}),
    ("/v1/metrics/trips", {"granularity": "day"}),
    ("/v1/metrics/drivers", {"granularity": "none"}),
    ("/v1/metrics/routes", {"granularity": "none"}),
    ("/v1/analytics/geographic", {"metric": "bookings", "level": "city"}),
    ("/v1/analytics/funnel", {}),
)


class View(NamedTuple):
    """What a dashboard shows."""

    period: tuple[int, int]
    filters: dict[str, str]

    @classmethod
    def drawn(cls, chance: Random) -> "View":
        """By Zipf's law: of all who look, half as many as at the first look at the second, a third at the third."""
        period, filters = (
            chance.choices(range(ranks), [1 / rank for rank in range(1, ranks + 1)])[0]
            for ranks in (len(PERIODS), len(FILTERS))
        )
        return cls(PERIODS[period], FILTERS[filters])

    def questions(self) -> Iterator[tuple[str, dict[str, str]]]:
        """The panels."""
        today = datetime.now(UTC) + timedelta(hours=1)
        first, last = (f"{today + timedelta(days=days):%Y-%m-%d}" for days in self.period)
        for path, parameters in PANELS:
            yield path, {**parameters, **self.filters, "start_date": first, "end_date": last}


def main() -> int:
    """Runs the benchmark and prints its report; 1 if a request failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=180, help="length of the load (default: 180)")
    parser.add_argument("--events", type=int, default=500_000, help="of history (default: 500000)")
    parser.add_argument("--instances", type=int, default=2)
    parser.add_argument("--dashboards", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    report = asyncio.run(_measure(options))
    for name, value in report.items():
        print(f"{name:<34} {value:,.3f}" if isinstance(value, float) else f"{name:<34} {value:,}")
    if options.json:
        print(json.dumps(report))
    return 1 if report["requests_failed"] else 0


async def _measure(options: argparse.Namespace) -> dict[str, Any]:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(ASKED_AT_ONCE))
    with ExitStack() as stack:
        clickhouse = stack.enter_context(ClickHouseServer())
        postgres = stack.enter_context(PostgresServer())
        redis = stack.enter_context(RedisServer())
        stores: dict[str, dict[str, Any]] = {
            "clickhouse": {"url": clickhouse.url, "query_timeout_seconds": 30.0},
            "postgres": {"url": postgres.url},
            "redis": {"url": redis.url},
        }
        platform = Platform(seed=options.seed, now=datetime.now(UTC))
        async with _instances(stores, options.instances) as services:
            stored = await _load(services[0].url, platform, options.events)
            seconds = max(options.seconds, LEAST_SECONDS)
            cached = await _dashboards(options, services, platform, seconds, clickhouse.pid)
            alone = await asyncio.to_thread(_alone, services[0].url)
        seconds = max(seconds * UNCACHED_SHARE, LEAST_SECONDS)
        async with _instances({**stores, "cache": NOTHING_KEPT}, options.instances) as services:
            uncached = await _dashboards(options, services, platform, seconds, clickhouse.pid)
    asked, sources = cached.asked, Counter(one.source for one in cached.asked)
    times = {source: [one.seconds for one in asked if one.source == source] for source in sources}
    without = [one.seconds for one in uncached.asked]
    return {
        "events_of_history": stored,
        "requests": len(asked),
        "requests_failed": sum(one.status != 200 for one in [*asked, *uncached.asked]),
        "hit_rate": (sources["hit"] + sources["stale"]) / len(asked),
        **{f"{source}_share": sources[source] / len(asked) for source in ("hit", "stale", "miss")},
        **percentiles_ms("cached", times.get("hit", []) + times.get("stale", [])),
        **percentiles_ms("alone", alone),
        **percentiles_ms("miss", times.get("miss", [])),
        **percentiles_ms("all", [one.seconds for one in asked]),
        **percentiles_ms("without_cache", without),
        "times_faster": median(without) / median(one.seconds for one in asked),
        "clickhouse_cpu_share": cached.clickhouse_cpu_share,
        "clickhouse_cpu_share_without_cache": uncached.clickhouse_cpu_share,
    }


@asynccontextmanager
async def _instances(config: dict[str, dict[str, Any]], count: int) -> AsyncIterator[list[ServiceProcess]]:
    services = [ServiceProcess(config) for _ in range(count)]
    try:
        for service in services:
            await asyncio.to_thread(service.start)
            await asyncio.to_thread(service.wait_until_ready)
        yield services
    finally:
        for service in services:
            await asyncio.to_thread(service.close)


async def _load(url: str, platform: Platform, events: int) -> int:
    """The last so many events of the platform's history."""
    history = await asyncio.to_thread(lambda: list(platform.history())[-events:])
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        records = iter(history)
        while batch := list(islice(records, BATCH_EVENTS)):
            await _post(client, batch)
    return len(history)


async def _post(client: httpx.AsyncClient, events: Sequence[dict[str, Any]]) -> None:
    body = b"\n".join(msgspec.json.encode(event) for event in events)
    answer = await client.post("/v1/events", content=body, headers={"Content-Type": "application/x-ndjson"})
    answer.raise_for_status()


class _Seen(NamedTuple):
    asked: list[Asked]
    clickhouse_cpu_share: float


async def _dashboards(
    options: argparse.Namespace,
    services: Sequence[ServiceProcess],
    platform: Platform,
    seconds: float,
    clickhouse: int,
) -> _Seen:
    """What all dashboards saw from their second refresh on, while events stream in."""
    chance = Random(options.seed)
    asked: list[Asked] = []
    until = time.monotonic() + REFRESH_SECONDS + seconds
    streaming = asyncio.create_task(_stream(services[0].url, platform, Random(options.seed)))
    boards = [
        asyncio.create_task(
            _dashboard(services[number % len(services)].url, Random(chance.random()), until, asked)
        )
        for number in range(options.dashboards)
    ]
    await asyncio.sleep(REFRESH_SECONDS)
    began, cpu_before = time.monotonic(), cpu_seconds(clickhouse)
    await asyncio.gather(*boards)
    cpu_share = (cpu_seconds(clickhouse) - cpu_before) / (time.monotonic() - began)
    if streaming.done():
        await streaming  # with its error
    streaming.cancel()
    return _Seen(asked, cpu_share)


async def _dashboard(url: str, chance: Random, until: float, asked: list[Asked]) -> None:
    """One dashboard, with a connection for each panel."""
    askers = [Asker(url) for _ in PANELS]
    await asyncio.sleep(chance.uniform(0, REFRESH_SECONDS))
    first, view, turns = True, View.drawn(chance), time.monotonic() + chance.expovariate(1 / DWELL_SECONDS)
    while time.monotonic() < until:
        due = time.monotonic() + REFRESH_SECONDS
        asking = zip(askers, view.questions(), strict=True)
        seen = await asyncio.gather(*(asyncio.to_thread(asker.get, *question) for asker, question in asking))
        if not first:
            asked += seen
        first = False
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if time.monotonic() > turns:
            view, turns = View.drawn(chance), time.monotonic() + chance.expovariate(1 / DWELL_SECONDS)


def _alone(url: str) -> list[float]:
    """How long the cached answers to the commonest view took, in turn."""
    view = View(PERIODS[0], FILTERS[0])
    with Asker(url) as asker:
        asked = [asker.get(*question) for _ in range(ALONE_ROUNDS) for question in view.questions()]
    return [one.seconds for one in asked if one.source in {"hit", "stale"}]


async def _stream(url: str, platform: Platform, chance: Random) -> None:
    """What the platform does meanwhile, and what devices send that were offline."""
    late_at = time.monotonic() + LATE_SECONDS
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        while True:
            await asyncio.sleep(LIVE_SECONDS)
            events = platform.live(datetime.now(UTC))
            if time.monotonic() > late_at:
                late_at += LATE_SECONDS
                ago = timedelta(hours=chance.uniform(0, LATEST_HOURS))
                events += [_late(chance, datetime.now(UTC) - ago) for _ in range(LATE_EVENTS)]
            if events:
                await _post(client, events)


def _late(chance: Random, at: datetime) -> dict[str, Any]:
    """A position of a driver who had no network."""
    return {
        "event_type": "driver.location.updated",
        "event_timestamp": at.isoformat(),
        "driver_id": f"d0000000-0000-4000-8000-{chance.getrandbits(40):012x}",
        "lat": 6.5,
        "lon": 3.4,
    }


if __name__ == "__main__":
    sys.exit(main())
